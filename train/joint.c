/* One pass for several. */
#include "train/joint.h"

#include "train/adapters/lora.h"

#include <string.h>

/* One of those who share the pass. */
struct part {
    struct at_loop *loop;
    struct at_guest *guest;     /* its adapter's                              */
    size_t from, rows;          /* of the pass                                */
    struct at_val *y;           /* its rows, at the site being built          */
    bool takes;                 /* a step now                                 */
    struct at_eval_sum sum;
    struct at_step_result r;
    int rc;
};

struct at_joint {
    struct at_ctx *cx;
    struct at_step *st;
    struct part *p;
    size_t n, T;
    bool taps;
};

bool at_joint_fits(const struct at_job *first, const struct at_job *j)
{
    const struct at_step_settings *a = &first->st->set, *b = &j->st->set;
    const struct at_lora_settings *lora = at_lora_of(&j->adapters);
    return !j->objective && !j->roller && !j->sparse && !j->gradual &&
           !b->teacher && j->adapters.n == 1 &&
           j->adapters.a[0]->kind->delta && !(lora && lora->dropout > 0) &&
           b->dropout <= 0 && !b->recompute && a->length == b->length &&
           a->accumulate == b->accumulate && j->ps.n > 0 &&
           !first->offload == !j->offload;
}

/* ---- the graph ------------------------------------------------------------------ */

struct held { struct at_val *y; };

/* What a user's adapter takes for the site: rows of what the model made.     */
static struct at_val *give(struct at_graph *g, const void *self,
                           struct at_val *x)
{
    const struct held *h = self;
    (void)g;
    (void)x;
    return h->y;
}

static bool wants(void *self, const char *site)
{
    const struct at_joint *j = self;
    for (size_t i = 0; i < j->n; i++)
        if (j->p[i].guest->wants(j->p[i].guest->self, site))
            return true;
    return false;
}

/* A user's rows of the site's output, with what its adapter adds.            */
static struct at_val *rows_of(struct at_graph *g, const struct part *p,
                              const char *site, struct at_val *y,
                              struct at_val *x)
{
    struct at_params *own = g->params;
    struct held h = { at_part(g, y, p->from, p->rows) };
    struct at_val *rows = h.y, *in;
    if (!rows || !p->guest->wants(p->guest->self, site))
        return rows;
    in = at_part(g, x, p->from, p->rows);
    g->params = &p->loop->j->ps;
    rows = in ? p->guest->around(g, p->guest->self, site, give, &h, in) : NULL;
    g->params = own;
    return rows;
}

/* All rows of y pass through a part, so that y's gradient reaches it.        */
static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    struct at_joint *j = self;
    struct at_val *y = f(g, f_self, x), *all = y;
    for (size_t i = 0; i < j->n && y; i++) {
        j->p[i].y = rows_of(g, &j->p[i], site, y, x);
        if (!j->p[i].y)
            return NULL;
    }
    for (size_t i = 0; i < j->n && all; i++)
        all = at_put(g, all, j->p[i].y, j->p[i].from, i > 0);
    return all && j->taps ? at_tap(g, all, x) : all;
}

/* Each adapter makes itself a guest, which is then only asked by ours.       */
static int attach(void *self, struct at_graph *g)
{
    struct at_joint *j = self;
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    struct at_guest *before = g->guests;
    if (!guest)
        return AT_ENOMEM;
    for (size_t i = 0; i < j->n; i++) {
        int rc = at_adapters_attach(&j->p[i].loop->j->adapters, g, true);
        if (rc < 0)
            return rc;
        j->p[i].guest = g->guests;
        g->guests = before;
    }
    *guest = (struct at_guest){ wants, around, j, before };
    g->guests = guest;
    return AT_OK;
}

static int build(struct at_joint *j)
{
    struct at_job *first = j->p[0].loop->j;
    struct at_step_settings s = first->st->set;
    int rc;
    s.rows = 0;
    for (size_t i = 0; i < j->n; i++)
        s.rows += j->p[i].loop->j->st->set.rows;
    s.offload = NULL;
    s.attach = attach;
    s.attach_self = j;
    /* The pass writes these gradients anew, as a user's own graph does.      */
    for (size_t i = 0; i < j->n; i++)
        for (size_t k = 0; k < j->p[i].loop->j->ps.n; k++)
            j->p[i].loop->j->ps.p[k]->touched = false;
    rc = at_step_create(j->cx, &j->cx->plan, &first->d, &first->ps, first->k,
                        NULL, &s, &j->st);
    return rc == AT_OK ? at_step_start(j->st) : rc;
}

int at_joint_create(struct at_ctx *cx, struct at_loop *const *loop, size_t n,
                    struct at_joint **made)
{
    struct at_joint *j = at_alloc(cx, &cx->plan, sizeof *j);
    size_t at = 0;
    int rc;
    if (!j)
        return AT_ENOMEM;
    j->cx = cx;
    j->n = n;
    j->T = loop[0]->j->st->set.length;
    j->taps = loop[0]->j->offload != NULL;
    j->p = at_alloc_n(cx, &cx->plan, n, sizeof *j->p);
    if (!j->p)
        return AT_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        size_t rows = loop[i]->j->st->set.rows * j->T;
        j->p[i] = (struct part){ .loop = loop[i], .from = at, .rows = rows };
        at += rows;
    }
    rc = build(j);
    if (rc < 0) {
        at_step_destroy(j->st);
        return at_note(cx, rc, "building one pass for %zu users", n);
    }
    *made = j;
    return AT_OK;
}

void at_joint_destroy(struct at_joint *j)
{
    if (j)
        at_step_destroy(j->st);
}

/* ---- a step ---------------------------------------------------------------------- */

static void fill_part(const struct at_joint *j, const struct part *p,
                      size_t micro)
{
    const struct at_step_io *io = &j->st->train;
    const struct at_batch *b = p->loop->batch[micro];
    at_real weight = p->takes ? (at_real)(1 / (double)p->r.n_targets) : 0;
    int32_t *first = (int32_t *)io->first->data + p->from;
    size_t n = p->rows * sizeof(int32_t);
    memcpy((int32_t *)io->ids->data + p->from, b->ids, n);
    memcpy((int32_t *)io->pos->data + p->from, b->pos, n);
    memcpy((int32_t *)io->target->data + p->from, b->targets, n);
    for (size_t i = 0; i < p->rows; i++) {
        first[i] = b->first[i] + (int32_t)p->from;
        ((at_real *)io->weight->data)[p->from + i] = weight;
    }
}

/* Rows of one who takes no step: texts of a token, nothing to learn.         */
static void fill_empty(const struct at_joint *j, const struct part *p)
{
    const struct at_step_io *io = &j->st->train;
    for (size_t i = p->from; i < p->from + p->rows; i++) {
        ((int32_t *)io->ids->data)[i] = 0;
        ((int32_t *)io->pos->data)[i] = 0;
        ((int32_t *)io->first->data)[i] = (int32_t)i;
        ((int32_t *)io->target->data)[i] = -1;
        ((at_real *)io->weight->data)[i] = 0;
    }
}

static void sum_part(const struct at_joint *j, struct part *p, size_t micro)
{
    const at_real *ce = (const at_real *)j->st->train.ce->data + p->from;
    const struct at_batch *b = p->loop->batch[micro];
    for (size_t i = 0; i < p->rows; i++)
        if (b->targets[i] >= 0) {
            p->sum.ce += (double)ce[i];
            p->sum.ce2 += (double)ce[i] * (double)ce[i];
            p->sum.n++;
        }
}

static void run_micro(struct at_joint *j, size_t micro)
{
    struct at_run run = { .k = j->st->k, .micro = micro };
    for (size_t i = 0; i < j->n; i++) {
        if (j->p[i].takes)
            fill_part(j, &j->p[i], micro);
        else
            fill_empty(j, &j->p[i]);
    }
    *(at_real *)j->st->train.share->data = 1;
    at_plan_run(j->st->train.plan, &run);
    for (size_t i = 0; i < j->n; i++) {
        struct part *p = &j->p[i];
        struct at_offload *away = p->loop->j->offload;
        if (!p->takes)
            continue;
        sum_part(j, p, micro);
        if (away && p->rc == AT_OK)
            p->rc = at_offload_send(away, j->st->train.plan->g, p->from);
    }
}

static void prepare(struct part *p)
{
    struct at_job *job = p->loop->j;
    p->takes = at_loop_wants_step(p->loop);
    p->rc = AT_OK;
    if (!p->takes)
        return;
    p->rc = at_loop_prepare(p->loop);
    if (p->rc == AT_OK)
        p->rc = at_step_count(job->st, p->loop->batch, at_schedule_lr(
                              &job->schedule, job->s.step), job->s.step, &p->r);
    p->takes = p->rc == AT_OK;
}

static void conclude(struct part *p)
{
    struct at_job *job = p->loop->j;
    if (p->takes && p->rc == AT_OK)
        p->rc = at_step_conclude(job->st, p->loop->batch, job->o, job->s.step,
                                 &p->sum, &p->r);
    if (p->takes)
        p->rc = at_loop_conclude(p->loop, p->rc, &p->r);
    if (p->rc == AT_OK)
        p->rc = at_loop_settle(p->loop);
}

/* The pass over all batches; false: what came back from elsewhere cannot be
 * relied on, and it is to be made again.                                     */
static bool run_pass(struct at_joint *j)
{
    bool again = false;
    for (size_t i = 0; i < j->n; i++) {
        struct at_job *job = j->p[i].loop->j;
        j->p[i].sum = (struct at_eval_sum){ 0 };
        if (j->p[i].takes && job->offload)
            at_offload_begin(job->offload, job->s.step);
    }
    for (size_t m = 0; m < j->st->set.accumulate; m++)
        run_micro(j, m);
    for (size_t i = 0; i < j->n; i++) {
        struct part *p = &j->p[i];
        struct at_offload *away = p->loop->j->offload;
        int rc = p->takes && away ? at_offload_finish(away) : AT_OK;
        p->rc = p->rc < 0 ? p->rc : rc;
        again |= p->takes && away && p->rc == AT_OK && away->again;
    }
    return !again;
}

void at_joint_run(struct at_joint *j, int *rc)
{
    bool any = false;
    for (size_t i = 0; i < j->n; i++) {
        prepare(&j->p[i]);
        any |= j->p[i].takes;
    }
    if (any)
        at_plan_bind_to(j->st->train.plan, j->st->region);
    while (any && !run_pass(j))
        ;
    for (size_t i = 0; i < j->n; i++) {
        conclude(&j->p[i]);
        rc[i] = j->p[i].rc;
    }
}
