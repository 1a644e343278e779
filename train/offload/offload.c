/* Blocks: cut, carried, summed. */
#include "train/offload/offload.h"

#include "train/adapters/lora.h"
#include "train/offload/block.h"
#include "train/offload/taps.h"

#include <string.h>

/* A block with fewer rows than this is not thinned out: products over so few
 * rows take other paths, with other roundings.                               */
enum { FEW = 16 };

static const struct at_engine_impl *const engines[] = { &at_engine_local,
                                                       &at_engine_nats };

/* ---- building ----------------------------------------------------------------- */

static int check_adapters(struct at_ctx *cx, const struct at_adapters *list,
                          bool merged)
{
    const struct at_lora_settings *lora = at_lora_of(list);
    const struct at_adapter_kind *kind = list->n ? list->a[0]->kind : NULL;
    if (list->n != 1 || !kind->delta)
        return at_fail(cx, AT_EINVAL, "offload computes the gradients of one "
                       "kind of adapter: give lora, linear or mlp, and no "
                       "other beside it");
    if (lora && lora->dropout > 0)
        return at_fail(cx, AT_EINVAL, "offload works on the sites' inputs as "
                       "they are: set lora.dropout: 0");
    if (merged && !kind->add)
        return at_fail(cx, AT_EINVAL, "an adapter of kind '%s' cannot be merged "
                       "into weights: leave out offload.merged", kind->name);
    return AT_OK;
}

int at_offload_create(struct at_ctx *cx, struct at_arena *arena,
                      const struct at_offload_settings *s,
                      const struct at_adapters *adapters, struct at_params *ps,
                      const struct at_kernels *k, struct at_offload **made)
{
    struct at_offload *o = at_alloc(cx, arena, sizeof *o);
    struct at_engine *e;
    int rc = o ? check_adapters(cx, adapters, s->merged) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    o->cx = cx;
    o->set = *s;
    o->adapter = adapters->a[0];
    o->adapter->folded = s->merged;
    o->ps = ps;
    o->k = k;
    o->n_slots = s->window ? s->window : 2 * s->workers + 2;
    ps->elsewhere = true;
    if (s->share && s->share->engine->impl->join) {
        o->engine = s->share->engine;
        o->joined = true;
        *made = o;
        return AT_OK;
    }
    for (size_t i = 0; i < AT_COUNT(engines); i++)
        if (strcmp(engines[i]->name, s->engine) == 0) {
            rc = engines[i]->create(cx, arena, o, &e);
            if (rc < 0)
                return rc;
            o->engine = e;
            *made = o;
            return AT_OK;
        }
    return at_fail(cx, AT_EINVAL, "there is no engine '%s'", s->engine);
}

int at_offload_attach(struct at_offload *o, struct at_graph *g)
{
    return at_taps_attach(g, o->adapter->kind);
}

static int find_shape(struct at_offload *o, struct at_offload_site *s)
{
    for (s->shape = 0; s->shape < o->n_shapes; s->shape++)
        if (o->shape[s->shape].C == s->C && o->shape[s->shape].M == s->M)
            return AT_OK;
    if (o->n_shapes == AT_COUNT(o->shape))
        return at_fail(o->cx, AT_EINVAL, "the adapted sites have more than %zu "
                       "different shapes: adapt fewer kinds of layers",
                       AT_COUNT(o->shape));
    o->shape[o->n_shapes].C = s->C;
    o->shape[o->n_shapes++].M = s->M;
    return AT_OK;
}

/* The site's parameters, in the order of a worker's.                         */
static int find_params(struct at_offload *o, struct at_offload_site *s)
{
    struct at_work *w;
    int rc = at_work_create(o->cx, &o->cx->scratch, o->adapter, o->k, 1, s->C,
                            s->M, &w);
    if (rc < 0)
        return rc;
    s->n_params = at_work_params(w);
    s->size = at_work_size(w);
    for (size_t i = 0; i < s->n_params && i < AT_SITE_PARAMS; i++) {
        s->param[i] = at_adapter_param(o->cx, o->ps, s->name,
                                       at_work_tail(w, i));
        if (!s->param[i])
            return o->cx->err.code;
    }
    if (o->set.merged) {
        s->weight = at_adapter_param(o->cx, o->ps, s->name, ".weight");
        if (!s->weight)
            return o->cx->err.code;
        o->n_base += at_shape_count(&s->weight->val.shape);
    }
    return AT_OK;
}

static int find_site(struct at_offload *o, const struct at_tapped *t,
                     struct at_offload_site *s)
{
    int rc;
    s->name = t->site;
    s->C = t->x->shape.d[1];
    s->M = t->dy->shape.d[1];
    o->rows = t->x->shape.d[0];
    rc = find_shape(o, s);
    if (rc == AT_OK)
        rc = find_params(o, s);
    return rc;
}

/* Whether a group with one more site still makes messages of a lawful size.  */
static bool has_room(const struct at_offload *o,
                     const struct at_offload_group *g,
                     const struct at_offload_site *s)
{
    size_t most = (AT_BLOCK_MAX - AT_BLOCK_HEADER) / 4;
    return o->set.rows * (g->C + g->M + s->M) <= most &&
           g->size + s->size <= most;
}

/* Neighbours whose input is the same.                                        */
static void find_groups(struct at_offload *o, const struct at_tapped *t)
{
    const struct at_val *x = NULL;
    struct at_offload_group *g = NULL;
    for (size_t i = 0; i < o->n_sites; i++, t = t->next) {
        const struct at_offload_site *s = &o->site[i];
        if (!g || t->x != x || !has_room(o, g, s)) {
            g = &o->group[o->n_groups++];
            *g = (struct at_offload_group){ .site = s, .C = s->C };
        }
        x = t->x;
        g->n_sites++;
        g->M += s->M;
        g->size += s->size;
    }
}

static void size_slots(struct at_offload *o)
{
    size_t blocks = (o->rows + o->set.rows - 1) / o->set.rows;
    for (size_t i = 0; i < o->n_groups; i++) {
        const struct at_offload_group *g = &o->group[i];
        size_t need = o->set.rows * (g->C + g->M) + g->size;
        if (o->slot_size < need)
            o->slot_size = need;
        o->bytes_a_token += (double)((g->C + g->M) * sizeof(at_real));
    }
    o->batch_blocks = blocks * o->n_groups;
}

static int check_trained(struct at_offload *o)
{
    for (size_t i = 0; i < o->ps->n; i++) {
        const struct at_param *p = o->ps->p[i];
        if (p->trainable && !o->adapter->kind->owns(p->val.name))
            return at_fail(o->cx, AT_EINVAL, "offload trains adapters only, and "
                           "'%s' would be trained too", p->val.name);
    }
    return AT_OK;
}

int at_offload_build(struct at_offload *o, struct at_arena *arena,
                     const struct at_graph *g)
{
    struct at_ctx *cx = o->cx;
    int rc = check_trained(o);
    for (const struct at_tapped *t = g->taps; t; t = t->next)
        o->n_sites++;
    o->site = at_alloc_n(cx, arena, o->n_sites + 1, sizeof *o->site);
    o->group = at_alloc_n(cx, arena, o->n_sites + 1, sizeof *o->group);
    o->slot = at_alloc_n(cx, arena, o->n_slots, sizeof *o->slot);
    if (rc == AT_OK && (!o->site || !o->group || !o->slot))
        rc = AT_ENOMEM;
    o->n_sites = 0;
    for (const struct at_tapped *t = g->taps; t && rc == AT_OK; t = t->next)
        rc = find_site(o, t, &o->site[o->n_sites++]);
    if (rc < 0)
        return rc;
    find_groups(o, g->taps);
    size_slots(o);
    return AT_OK;
}

size_t at_offload_bytes(const struct at_offload *o)
{
    return (o->n_slots * o->slot_size + o->n_base) * sizeof(at_real) +
           o->engine->impl->bytes(o->engine);
}

static int keep_base(struct at_offload *o)
{
    at_real *at;
    if (!o->set.merged)
        return AT_OK;
    at = o->base = at_map(o->cx, o->n_base * sizeof *at, "weights as they were");
    if (!at)
        return AT_ENOMEM;
    for (size_t i = 0; i < o->n_sites; i++) {
        struct at_offload_site *s = &o->site[i];
        size_t n = at_shape_count(&s->weight->val.shape);
        memcpy(at, s->weight->val.data, n * sizeof *at);
        s->base = at;
        at += n;
    }
    return at_offload_fold(o);
}

int at_offload_start(struct at_offload *o)
{
    at_real *at = o->memory = at_map(o->cx, o->n_slots * o->slot_size *
                                     sizeof *at, "blocks on their way");
    if (!at)
        return AT_ENOMEM;
    for (size_t i = 0; i < o->n_slots; i++, at += o->slot_size)
        o->slot[i].x = at;
    if (keep_base(o) < 0)
        return o->cx->err.code;
    return o->joined ? o->engine->impl->join(o->cx, o->engine, o)
                     : o->engine->impl->start(o->cx, o->engine);
}

int at_offload_fold(struct at_offload *o)
{
    for (size_t i = 0; i < o->n_sites && o->set.merged; i++) {
        struct at_offload_site *s = &o->site[i];
        int rc;
        memcpy(s->weight->val.data, s->base,
               at_shape_count(&s->weight->val.shape) * sizeof *s->base);
        rc = o->adapter->kind->add(o->cx, o->adapter, o->ps, o->k, s->name,
                                   s->weight->val.data);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

void at_offload_destroy(struct at_offload *o)
{
    if (!o)
        return;
    if (o->joined)
        o->engine->impl->part(o->engine, o);
    else
        o->engine->impl->destroy(o->engine);
    at_unmap(o->memory, o->n_slots * o->slot_size * sizeof *o->memory);
    at_unmap(o->base, o->n_base * sizeof *o->base);
    o->memory = o->base = NULL;
}

/* ---- for engines ------------------------------------------------------------------ */

int at_offload_works(const struct at_offload *o, struct at_arena *arena,
                     struct at_work **work)
{
    int rc = AT_OK;
    for (size_t i = 0; i < o->n_shapes && rc == AT_OK; i++)
        rc = at_work_create(o->cx, arena, o->adapter, o->k, o->set.rows,
                            o->shape[i].C, o->shape[i].M, &work[i]);
    return rc;
}

size_t at_offload_works_bytes(const struct at_offload *o)
{
    struct at_work *work[AT_COUNT(o->shape)] = { 0 };
    size_t n = 0;
    if (at_offload_works(o, &o->cx->scratch, work) < 0)
        return 0;
    for (size_t i = 0; i < o->n_shapes; i++)
        n += at_work_bytes(work[i]);
    return n;
}

void at_offload_compute(struct at_work *const *work, struct at_task *t)
{
    const struct at_offload_site *s = t->group->site;
    const at_real *dy = t->dy;
    at_real *grad = t->grad;
    for (size_t k = 0; k < t->group->n_sites; k++, s++) {
        at_real *param[AT_SITE_PARAMS];
        for (size_t i = 0; i < s->n_params; i++)
            param[i] = s->param[i]->val.data;
        at_work_run(work[s->shape], t->x, dy, t->n, param, grad);
        dy += t->n * s->M;
        grad += s->size;
    }
}

/* ---- a step ---------------------------------------------------------------------- */

void at_offload_begin(struct at_offload *o, uint64_t step)
{
    memset(o->ps->flat_grad, 0, o->ps->n_flat * sizeof *o->ps->flat_grad);
    o->first = o->sent;
    o->step = step;
    o->of = 0;
    if (o->engine->impl->begin)
        o->engine->impl->begin(o->engine, o);
}

static const at_real *add_site(struct at_offload *o,
                               const struct at_offload_site *s,
                               const at_real *grad)
{
    for (size_t i = 0; i < s->n_params; i++) {
        struct at_param *p = s->param[i];
        size_t n = at_shape_count(&p->val.shape);
        if (p->trainable)
            o->k->add(p->grad.data, p->grad.data, grad, n);
        grad += n;
    }
    return grad;
}

/* Adds the oldest block that is out to its sites' gradients.                 */
static int sum_one(struct at_offload *o)
{
    struct at_task *t = &o->slot[o->summed % o->n_slots];
    const at_real *grad = t->grad;
    double now = at_now_s();
    int rc = o->engine->impl->wait(o->cx, o->engine, o, t);
    o->wait_s += at_now_s() - now;
    o->summed++;
    for (size_t i = 0; i < t->group->n_sites && rc == AT_OK; i++)
        grad = add_site(o, &t->group->site[i], grad);
    return rc;
}

static bool all_zero(const at_real *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (x[i] != 0)
            return false;
    return true;
}

/* Whether no site of the group has a gradient in row i.                      */
static bool is_idle(const struct at_offload_group *g, size_t i)
{
    for (size_t k = 0; k < g->n_sites; k++) {
        const struct at_offload_site *s = &g->site[k];
        if (!all_zero((const at_real *)s->tap->dy->data + i * s->M, s->M))
            return false;
    }
    return true;
}

/* Copies rows [from, to) of width C into out, but the idle ones if thin.     */
static at_real *copy_rows(const struct at_task *t, const at_real *in, size_t C,
                          size_t from, size_t to, at_real *out)
{
    bool thin = t->n < to - from;
    for (size_t i = from; i < to; i++) {
        if (thin && is_idle(t->group, i))
            continue;
        memcpy(out, in + i * C, C * sizeof *in);
        out += C;
    }
    return out;
}

/* Fills t with rows [from, to), those that carry a gradient; false: none does. */
static bool take_rows(struct at_task *t, size_t from, size_t to)
{
    const struct at_offload_group *g = t->group;
    size_t kept = 0;
    at_real *out;
    for (size_t i = from; i < to; i++)
        kept += !is_idle(g, i);
    t->n = kept > 0 && kept < FEW ? to - from : kept;
    t->dy = t->x + t->n * g->C;
    t->grad = t->dy + t->n * g->M;
    if (kept == 0)
        return false;
    out = copy_rows(t, g->site->tap->x->data, g->C, from, to, t->x);
    for (size_t k = 0; k < g->n_sites; k++)
        out = copy_rows(t, g->site[k].tap->dy->data, g->site[k].M, from, to,
                        out);
    return true;
}

static int send_group(struct at_offload *o, const struct at_offload_group *g,
                      size_t first)
{
    size_t blocks = (o->rows + o->set.rows - 1) / o->set.rows;
    int rc = AT_OK;
    for (size_t i = 0; i < blocks && rc == AT_OK; i++) {
        struct at_task *t = &o->slot[o->sent % o->n_slots];
        if (o->sent - o->summed == o->n_slots)
            rc = sum_one(o);
        if (rc < 0)
            return rc;
        t->group = g;
        t->step = o->step;
        t->block = (uint32_t)(o->sent - o->first);
        t->of = o->of;
        if (!take_rows(t, first + o->rows * i / blocks,
                       first + o->rows * (i + 1) / blocks))
            continue;
        o->sent++;
        o->engine->impl->put(o->engine, o, t);
    }
    return rc;
}

static int find_taps(struct at_offload *o, const struct at_graph *g)
{
    const struct at_tapped *t = g->taps;
    for (size_t i = 0; i < o->n_sites; i++) {
        while (t && strcmp(t->site, o->site[i].name) != 0)
            t = t->next;
        if (!t)
            return at_fail(o->cx, AT_EINVAL, "%s: this pass has no tap there",
                           o->site[i].name);
        o->site[i].tap = t;
    }
    return AT_OK;
}

int at_offload_send(struct at_offload *o, const struct at_graph *g,
                    size_t first)
{
    int rc = find_taps(o, g);
    o->of += (uint32_t)o->batch_blocks;
    for (size_t i = 0; i < o->n_groups && rc == AT_OK; i++)
        rc = send_group(o, &o->group[i], first);
    return rc;
}

/* Also after an error: no task stays out.                                    */
int at_offload_finish(struct at_offload *o)
{
    int rc = AT_OK;
    while (o->summed < o->sent) {
        int one = sum_one(o);
        rc = rc < 0 ? rc : one;
    }
    o->again = o->engine->impl->settle && !o->engine->impl->settle(o->engine);
    return rc;
}

void at_offload_count(const struct at_offload *o, struct at_offload_counts *c)
{
    *c = (struct at_offload_counts){ 0 };
    o->engine->impl->count(o->engine, c);
    c->wait_s = o->wait_s;
}

void at_offload_describe(const struct at_offload *o, struct at_text *t)
{
    char each[32], held[32];
    if (o->set.window)
        at_text_addf(t, "offload     %s, %s", o->set.engine, o->set.url);
    else
        at_text_addf(t, "offload     %s, %zu worker%s", o->set.engine,
                     o->set.workers, o->set.workers == 1 ? "" : "s");
    at_text_addf(t, ", %s: %zu sites, %s a token of x and dy at most; %s of "
                 "blocks%s\n", o->set.merged ? "merged" : "unmerged",
                 o->n_sites, at_bytes_text(each, o->bytes_a_token),
                 at_bytes_text(held, (double)(o->n_slots * o->slot_size *
                                              sizeof(at_real))),
                 o->set.merged ? ", a copy of the merged weights" : "");
}
