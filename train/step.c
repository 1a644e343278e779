/* A step: fill, run, check, move. */
#include "train/step.h"

#include <math.h>
#include <string.h>

static int build(struct at_step *st, struct at_arena *arena,
                 const struct at_adapters *adapters, const at_real *rope,
                 bool train, struct at_step_io *io)
{
    const struct at_step_settings *s = &st->set;
    struct at_decoder_options o = { train ? s->dropout : 0,
                                    train && s->recompute, rope };
    struct at_shape N = at_shape1(s->rows * s->length);
    struct at_tokens in = { .B = s->rows };
    struct at_graph *g;
    struct at_val *roots[2];
    int rc = at_graph_create(st->cx, arena, st->ps, st->k, &g);
    if (rc == AT_OK && adapters)
        rc = at_adapters_attach(adapters, g, train);
    if (rc < 0)
        return rc;
    in.ids = io->ids = at_input(g, "ids", AT_I32, N);
    in.pos = io->pos = at_input(g, "pos", AT_I32, N);
    in.first = io->first = at_input(g, "first", AT_I32, N);
    io->target = at_input(g, "target", AT_I32, N);
    io->weight = at_input(g, "weight", AT_REAL, N);
    if (!in.ids || !in.pos || !in.first || !io->target || !io->weight)
        return AT_ENOMEM;
    io->loss = at_linear_xent(g, at_decoder_hidden(g, st->d, &in, &o),
                              at_decoder_head(g, st->d), io->target,
                              io->weight, &io->ce);
    if (!io->loss)
        return st->cx->err.code;
    if (train)
        rc = at_grad(g, io->loss, NULL);
    roots[0] = io->loss;
    roots[1] = io->ce;
    return rc == AT_OK ? at_plan_create(g, roots, 2, &io->plan) : rc;
}

/* Every trainable param must get a gradient, or training is not what it seems. */
static int all_touched(struct at_step *st)
{
    for (size_t i = 0; i < st->ps->n; i++) {
        const struct at_param *p = st->ps->p[i];
        if (p->trainable && !p->touched)
            return at_fail(st->cx, AT_EINVAL, "parameter '%s' is trainable, "
                           "but the loss does not depend on it",
                           p->val.name);
    }
    return AT_OK;
}

int at_step_create(struct at_ctx *cx, struct at_arena *arena,
                   const struct at_decoder *d, struct at_params *ps,
                   const struct at_kernels *k,
                   const struct at_adapters *adapters,
                   const struct at_step_settings *s, struct at_step **made)
{
    struct at_step *st = at_alloc(cx, arena, sizeof *st);
    const at_real *rope;
    int rc;
    if (!st)
        return AT_ENOMEM;
    st->cx = cx;
    st->set = *s;
    st->d = d;
    st->ps = ps;
    st->k = k;
    if (s->length > d->P)
        return at_fail(cx, AT_EINVAL, "batch.length is %zu; the model's longest "
                       "text is %zu tokens", s->length, d->P);
    rc = at_decoder_rope(cx, arena, d, &rope);
    if (rc == AT_OK && s->train) {
        rc = build(st, arena, adapters, rope, true, &st->train);
        if (rc == AT_OK)
            rc = all_touched(st);
        if (rc < 0)
            return at_note(cx, rc, "building the training graph");
        st->region_bytes = st->train.plan->region_bytes;
    }
    if (rc == AT_OK)
        rc = build(st, arena, adapters, rope, false, &st->eval);
    if (rc < 0)
        return at_note(cx, rc, "building the evaluation graph");
    if (st->eval.plan->region_bytes > st->region_bytes)
        st->region_bytes = st->eval.plan->region_bytes;
    *made = st;
    return AT_OK;
}

int at_step_start(struct at_step *st)
{
    st->region = at_map(st->cx, st->region_bytes, "activations");
    if (!st->region)
        return AT_ENOMEM;
    if (st->train.plan)
        at_plan_bind_to(st->train.plan, st->region);
    at_plan_bind_to(st->eval.plan, st->region);
    return AT_OK;
}

void at_step_destroy(struct at_step *st)
{
    if (!st)
        return;
    at_unmap(st->region, st->region_bytes);
    st->region = NULL;
}

static void fill(const struct at_step_io *io, const struct at_batch *b,
                 double weight)
{
    size_t N = b->rows * b->length;
    at_real *w = io->weight->data;
    memcpy(io->ids->data, b->ids, N * sizeof *b->ids);
    memcpy(io->pos->data, b->pos, N * sizeof *b->pos);
    memcpy(io->first->data, b->first, N * sizeof *b->first);
    memcpy(io->target->data, b->targets, N * sizeof *b->targets);
    for (size_t i = 0; i < N; i++)
        w[i] = (at_real)weight;
}

static void bind(const struct at_step *st, const struct at_step_io *io)
{
    if (st->train.plan)         /* the two graphs share one region           */
        at_plan_bind_to(io->plan, st->region);
}

static void sum_ce(const struct at_step_io *io, const struct at_batch *b,
                   struct at_eval_sum *sum)
{
    const at_real *ce = io->ce->data;
    for (size_t i = 0; i < b->rows * b->length; i++)
        if (b->targets[i] >= 0) {
            sum->ce += (double)ce[i];
            sum->ce2 += (double)ce[i] * (double)ce[i];
            sum->n++;
        }
}

void at_step_eval(struct at_step *st, const struct at_batch *b,
                  struct at_eval_sum *sum)
{
    struct at_run r = { .k = st->k };
    bind(st, &st->eval);
    fill(&st->eval, b, 1);
    at_plan_run(st->eval.plan, &r);
    sum_ce(&st->eval, b, sum);
}

const at_real *at_step_ce(const struct at_step *st)
{
    return st->eval.ce->data;
}

/* "documents 17, 23" of the batch, at most a few. */
static void name_documents(const struct at_batch *b, struct at_text *t)
{
    int64_t last = -1;
    int n = 0;
    for (size_t i = 0; i < b->rows * b->length && n < 8; i++)
        if (b->doc[i] >= 0 && b->doc[i] != last) {
            at_text_addf(t, "%s%lld", n++ ? ", " : "documents ",
                         (long long)b->doc[i]);
            last = b->doc[i];
        }
}

/* Runs the step again, looking at every tensor: steps are deterministic.     */
static int blame(struct at_step *st, const struct at_batch *const *batch,
                 double weight, struct at_run r, double loss, double norm)
{
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; i < st->set.accumulate; i++) {
        const struct at_node *n;
        const struct at_val *v;
        char shape[96];
        int which;
        fill(&st->train, batch[i], weight);
        r.micro = i;
        n = at_plan_run_checked(st->train.plan, &r, &which);
        if (!n)
            continue;
        v = n->out[which];
        name_documents(batch[i], &t);
        rc = at_fail(st->cx, AT_ENONFINITE, "step %llu: not finite: %s%s%s %s, "
                     "written by %s%s%s, micro-batch %zu of %zu, %s",
                     (unsigned long long)r.step, n->backward ? "a gradient" :
                     "a value", v->name ? " of " : "", v->name ? v->name : "",
                     at_shape_text(shape, &v->shape), at_ops[n->op]->name,
                     n->site ? " at " : "", n->site ? n->site : "", i + 1,
                     st->set.accumulate, t.s ? t.s : "no document");
        at_text_finish(&t);
        return rc;
    }
    return at_fail(st->cx, AT_ENONFINITE, "step %llu: the loss is %g and the "
                   "gradient norm %g, though every tensor is finite: the sum "
                   "overflows", (unsigned long long)r.step, loss, norm);
}

static void score(struct at_step *st, struct at_step_result *r, uint64_t step)
{
    /* An exponential window of about 64 steps; no score in the first 16.     */
    double keep = step < 64 ? 1 - 1 / (double)step : 1 - 1.0 / 64;
    double off = r->grad_norm - st->norm_mean;
    r->grad_z = step > 16 && st->norm_var > 0 ? off / sqrt(st->norm_var) : 0;
    st->norm_mean += (1 - keep) * off;
    st->norm_var = keep * (st->norm_var + (1 - keep) * off * off);
}

int at_step_run(struct at_step *st, const struct at_batch *const *batch,
                struct at_optim *o, double lr, uint64_t step,
                struct at_step_result *r)
{
    struct at_run run = { st->k, st->set.seed, step, 0 };
    struct at_eval_sum sum = { 0 };
    double weight;

    *r = (struct at_step_result){ .lr = lr };
    for (size_t i = 0; i < st->set.accumulate; i++) {
        r->n_tokens += batch[i]->n_tokens;
        r->n_targets += batch[i]->n_targets;
    }
    if (r->n_targets == 0)
        return at_fail(st->cx, AT_EINVAL, "step %llu has no token to train on: "
                       "every target is masked", (unsigned long long)step);
    weight = 1 / (double)r->n_targets;
    bind(st, &st->train);
    for (size_t i = 0; i < st->set.accumulate; i++) {
        fill(&st->train, batch[i], weight);
        run.micro = i;
        at_plan_run(st->train.plan, &run);
        sum_ce(&st->train, batch[i], &sum);
    }
    r->loss = sum.ce * weight;
    r->loss_se = sqrt(fmax(0, sum.ce2 * weight - r->loss * r->loss) * weight);
    r->grad_norm = at_optim_grad_norm(o, st->k);
    if (!isfinite(r->loss) || !isfinite(r->grad_norm)) {
        r->skipped = true;
        return blame(st, batch, weight, run, r->loss, r->grad_norm);
    }
    score(st, r, step);
    at_optim_step(o, st->k, lr, r->grad_norm, st->set.clip);
    return AT_OK;
}
