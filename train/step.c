/* A step: fill, run, check, move. */
#include "train/step.h"

#include <math.h>
#include <string.h>

enum pass { TRAIN, EVAL, REF, TEACH };

/* The loss beside a teacher, whose hidden states are an input.               */
static struct at_val *taught_loss(struct at_step *st, struct at_graph *g,
                                  struct at_val *hidden, struct at_val *head,
                                  struct at_step_io *io)
{
    const struct at_teacher *t = st->set.teacher;
    size_t N = st->set.rows * st->set.length;
    io->taught = at_input(g, "taught", AT_REAL, at_shape2(N, t->d->C));
    return at_linear_distil(g, hidden, head, io->target, io->weight,
                            io->taught, st->teach.head, t->weight,
                            t->temperature, &io->ce, &io->kl);
}

/* The end of a graph over hidden states: roots, and backward where it trains. */
static int finish(struct at_step *st, struct at_graph *g, struct at_val *hidden,
                  enum pass pass, struct at_step_io *io)
{
    const struct at_objective *o = st->set.objective;
    bool train = pass == TRAIN, judges = o && (o->needs & AT_NEEDS_VALUE);
    struct at_val *head = judges ? NULL : at_decoder_head(g, st->d), *roots[3];
    int n = 1, rc = AT_OK;
    if (!o && train && st->set.teacher) {
        roots[0] = io->loss = taught_loss(st, g, hidden, head, io);
        roots[n++] = io->ce;
        roots[n++] = io->kl;
    } else if (!o && !train) {
        roots[0] = io->ce = at_linear_ce(g, hidden, head, io->target, &io->gap);
        roots[n++] = io->gap;
    } else if (!o) {
        roots[0] = io->loss = at_linear_xent(g, hidden, head, io->target,
                                             io->weight, &io->ce);
        roots[n++] = io->ce;
    } else if (judges) {
        roots[0] = io->value = at_decoder_value(g, st->d, hidden);
    } else {
        roots[0] = io->ce = at_linear_ce(g, hidden, head, io->target, NULL);
        if ((o->needs & AT_NEEDS_CRITIC) && pass != REF)
            roots[n++] = io->value = at_decoder_value(g, st->d, hidden);
    }
    if ((!head && !judges) || !roots[0] || !roots[n - 1])
        return st->cx->err.code;
    for (int i = 0; i < n && train && o; i++)
        io->seed[i] = at_input(g, i ? "critic's derivative" : "derivative",
                               AT_REAL, roots[i]->shape);
    if (train)
        rc = o ? at_grads(g, roots, io->seed, n) : at_grad(g, roots[0], NULL);
    return rc == AT_OK ? at_plan_create(g, roots, n, &io->plan) : rc;
}

/* The teacher's graph ends at its hidden states.                             */
static int finish_teacher(struct at_step *st, struct at_graph *g,
                          struct at_val *hidden, struct at_step_io *io)
{
    io->taught = hidden;
    io->head = at_decoder_head(g, st->set.teacher->d);
    if (!hidden || !io->head)
        return st->cx->err.code;
    st->taught_bytes = at_shape_count(&hidden->shape) * sizeof(at_real);
    return at_plan_create(g, &io->taught, 1, &io->plan);
}

/* Room for the sums of the graph's gauges.                                   */
static int list_gauges(struct at_ctx *cx, struct at_arena *arena,
                       const struct at_graph *g, struct at_step_io *io)
{
    for (const struct at_gauge *a = g->gauges; a; a = a->next)
        io->n_gauges++;
    io->gauge = at_alloc_n(cx, arena, io->n_gauges + 1, sizeof *io->gauge);
    if (!io->gauge)
        return AT_ENOMEM;
    for (const struct at_gauge *a = g->gauges; a; a = a->next)
        (io->gauge++)->site = a->name;
    io->gauge -= io->n_gauges;
    return AT_OK;
}

static int build(struct at_step *st, struct at_arena *arena,
                 const struct at_adapters *adapters, const at_real *rope,
                 enum pass pass, struct at_step_io *io)
{
    const struct at_step_settings *s = &st->set;
    bool train = pass == TRAIN;
    struct at_decoder_options o = { train ? s->dropout : 0,
                                    train && s->recompute, rope };
    struct at_shape N = at_shape1(s->rows * s->length);
    struct at_tokens in = { .B = s->rows };
    const struct at_decoder *d = pass == TEACH ? s->teacher->d : st->d;
    struct at_params *ps = pass == TEACH                ? s->teacher->ps
                           : pass == REF && s->reference ? s->reference : st->ps;
    struct at_graph *g;
    int rc = at_graph_create(st->cx, arena, ps, st->k, &g);
    if (rc == AT_OK && s->sparse && (train || (pass == EVAL && s->sparse_eval)))
        rc = at_context_sparse_attach(s->sparse, g);
    if (rc == AT_OK && adapters && pass != REF && pass != TEACH)
        rc = at_adapters_attach(adapters, g, train);
    if (rc == AT_OK && train && s->attach)
        rc = s->attach(s->attach_self, g);
    if (rc == AT_OK && train && s->offload)
        rc = at_offload_attach(s->offload, g);
    if (rc < 0)
        return rc;
    in.ids = io->ids = at_input(g, "ids", AT_I32, N);
    in.pos = io->pos = at_input(g, "pos", AT_I32, N);
    in.first = io->first = at_input(g, "first", AT_I32, N);
    in.part = io->part = at_input(g, "part", AT_I32, N);
    if (d->types)
        in.type = io->type = at_input(g, "type", AT_I32, N);
    g->share = io->share = at_input(g, "share", AT_REAL, at_shape1(1));
    io->target = at_input(g, "target", AT_I32, N);
    if (!s->objective && train)
        io->weight = at_input(g, "weight", AT_REAL, N);
    if (!in.ids || !in.pos || !in.first || !in.part || !io->target ||
        !io->share || (!s->objective && train && !io->weight))
        return AT_ENOMEM;
    if (pass == TEACH)
        return finish_teacher(st, g, at_decoder_hidden(g, d, &in, &o), io);
    rc = finish(st, g, at_decoder_hidden(g, d, &in, &o), pass, io);
    return rc == AT_OK ? list_gauges(st->cx, arena, g, io) : rc;
}

static int build_teacher(struct at_step *st, struct at_arena *arena)
{
    const struct at_decoder *d = st->set.teacher->d;
    const at_real *rope;
    int rc = st->set.length > d->P
                 ? at_fail(st->cx, AT_EINVAL, "batch.length is %zu; the "
                           "teacher's longest text is %zu tokens",
                           st->set.length, d->P)
                 : at_decoder_rope(st->cx, arena, d, &rope);
    if (rc == AT_OK)
        rc = build(st, arena, NULL, rope, TEACH, &st->teach);
    return rc < 0 ? at_note(st->cx, rc, "building the teacher's graph") : rc;
}

/* Every trainable param must get a gradient, or training is not what it seems. */
static int all_touched(struct at_step *st)
{
    for (size_t i = 0; i < st->ps->n; i++) {
        const struct at_param *p = st->ps->p[i];
        if (p->trainable && !p->touched && !st->ps->elsewhere)
            return at_fail(st->cx, AT_EINVAL, "parameter '%s' is trainable, "
                           "but the loss does not depend on it",
                           p->val.name);
    }
    return AT_OK;
}

static int build_all(struct at_step *st, struct at_arena *arena,
                     const struct at_adapters *adapters, const at_real *rope)
{
    const struct at_objective *o = st->set.objective;
    int rc = st->set.teacher ? build_teacher(st, arena) : AT_OK;
    if (rc < 0)
        return rc;
    if (st->set.train) {
        rc = build(st, arena, adapters, rope, TRAIN, &st->train);
        if (rc == AT_OK)
            rc = all_touched(st);
        if (rc == AT_OK && st->set.offload)
            rc = at_offload_build(st->set.offload, arena, st->train.plan->g);
        if (rc < 0)
            return at_note(st->cx, rc, "building the training graph");
    }
    if (st->set.attach)
        return AT_OK;
    rc = build(st, arena, adapters, rope, EVAL, &st->eval);
    if (rc < 0)
        return at_note(st->cx, rc, "building the evaluation graph");
    if (o)
        rc = at_gather_create(st->cx, arena, st->set.rows * st->set.length,
                              st->d->value ? st->d->value : 1, &st->seq);
    if (rc == AT_OK && o && (o->needs & AT_NEEDS_KL))
        rc = at_mismatch_create(st->cx, arena, st->set.rows, st->set.length,
                                st->set.accumulate, &st->odd);
    if (rc == AT_OK && o && (o->needs & AT_NEEDS_REF))
        rc = build(st, arena, NULL, rope, REF, &st->ref);
    return rc < 0 ? at_note(st->cx, rc, "building the reference's graph") : rc;
}

int at_step_create(struct at_ctx *cx, struct at_arena *arena,
                   const struct at_decoder *d, struct at_params *ps,
                   const struct at_kernels *k,
                   const struct at_adapters *adapters,
                   const struct at_step_settings *s, struct at_step **made)
{
    struct at_step *st = at_alloc(cx, arena, sizeof *st);
    const struct at_step_io *io;
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
                       "text is %zu tokens: set batch.length=%zu", s->length,
                       d->P, d->P);
    rc = at_decoder_rope(cx, arena, d, &rope);
    if (rc == AT_OK)
        rc = build_all(st, arena, adapters, rope);
    if (rc < 0)
        return rc;
    for (io = &st->train; io <= &st->teach; io++)
        if (io->plan && io->plan->region_bytes > st->region_bytes)
            st->region_bytes = io->plan->region_bytes;
    *made = st;
    return AT_OK;
}

int at_step_start(struct at_step *st)
{
    st->region = st->lender ? st->lender->region
                            : at_map(st->cx, st->region_bytes, "activations");
    if (st->taught_bytes)
        st->taught = at_map(st->cx, st->taught_bytes, "the teacher's states");
    if (!st->region || (st->taught_bytes && !st->taught))
        return AT_ENOMEM;
    if (st->train.plan)
        at_plan_bind_to(st->train.plan, st->region);
    if (st->eval.plan)
        at_plan_bind_to(st->eval.plan, st->region);
    return AT_OK;
}

void at_step_destroy(struct at_step *st)
{
    if (!st)
        return;
    if (!st->lender)
        at_unmap(st->region, st->region_bytes);
    at_unmap(st->taught, st->taught_bytes);
    st->region = st->taught = NULL;
}

/* A text is a prompt up to the token before the first that is trained; where
 * that is its first token, it has no prompt.  A token alone that nothing is
 * learnt from is padding.                                                    */
static void fill_parts(int32_t *part, const struct at_batch *b)
{
    size_t N = b->rows * b->length, end;
    for (size_t n = 0; n < N; n = end) {
        enum at_part now = b->targets[n] >= 0 ? AT_PART_TEXT : AT_PART_PROMPT;
        for (end = n + 1; end < N && b->first[end] == b->first[n]; end++)
            ;
        if (end == n + 1 && b->targets[n] < 0)
            now = AT_PART_NONE;
        for (size_t i = n; i < end; i++) {
            part[i] = (int32_t)now;
            if (now == AT_PART_PROMPT && b->targets[i] >= 0)
                now = AT_PART_ANSWER;
        }
    }
}

/* The graphs share one region: binding to it is what brings one to life.     */
static void fill(const struct at_step *st, const struct at_step_io *io,
                 const struct at_batch *b, double weight)
{
    size_t N = b->rows * b->length;
    at_plan_bind_to(io->plan, st->region);
    memcpy(io->ids->data, b->ids, N * sizeof *b->ids);
    memcpy(io->pos->data, b->pos, N * sizeof *b->pos);
    memcpy(io->first->data, b->first, N * sizeof *b->first);
    memcpy(io->target->data, b->targets, N * sizeof *b->targets);
    for (size_t i = 0; i < N && io->weight; i++)
        ((at_real *)io->weight->data)[i] = (at_real)weight;
    fill_parts(io->part->data, b);
    if (io->type)
        memset(io->type->data, 0, N * sizeof(int32_t));
    *(at_real *)io->share->data = (at_real)st->share;
}

/* Makes the training graph of language modelling ready to run on b.          */
static void fill_train(struct at_step *st, const struct at_batch *b,
                       double weight)
{
    struct at_run r = { .k = st->k };
    if (st->set.teacher) {
        fill(st, &st->teach, b, 0);
        at_plan_run(st->teach.plan, &r);
        memcpy(st->taught, st->teach.taught->data, st->taught_bytes);
    }
    fill(st, &st->train, b, weight);
    if (st->set.teacher)
        memcpy(st->train.taught->data, st->taught, st->taught_bytes);
}

/* Adds up what the last run measured; returns the terms of its loss.         */
static double read_gauges(const struct at_step *st, struct at_step_io *io)
{
    const struct at_graph *g = io->plan->g;
    struct at_metrics_share *sum = io->gauge;
    double terms = 0;
    for (const struct at_gauge *a = g->gauges; a; a = a->next, sum++) {
        const at_real *v = a->value->data;
        sum->on += (double)v[0];
        sum->all += (double)v[1];
    }
    for (const struct at_term *t = g->terms; t; t = t->next)
        terms += (double)*(at_real *)t->value->data;
    return terms * st->share;
}

static void clear_gauges(struct at_step_io *io)
{
    for (size_t i = 0; i < io->n_gauges; i++)
        io->gauge[i].on = io->gauge[i].all = 0;
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

/* What greedy decoding would have said: tokens, and texts as a whole.         */
static void sum_right(const struct at_step_io *io, const struct at_batch *b,
                      struct at_eval_sum *sum)
{
    const at_real *gap = io->gap->data;
    size_t N = b->rows * b->length, end;
    for (size_t t = 0; t < N; t = end) {
        uint64_t all = 0, right = 0;
        for (end = t; end < N && b->first[end] == b->first[t]; end++)
            if (b->targets[end] >= 0) {
                all++;
                right += gap[end] <= 0;
            }
        sum->right += right;
        sum->texts += all > 0;
        sum->texts_right += all > 0 && right == all;
    }
}

/* ---- objectives ----------------------------------------------------------- */

/* A policy with a critic was compared with the reference when it drew.       */
static bool has_critic(const struct at_step *st)
{
    return st->set.objective->needs & AT_NEEDS_CRITIC;
}

static void run_reference(struct at_step *st, const struct at_batch *b)
{
    struct at_run r = { .k = st->k };
    fill(st, &st->ref, b, 0);
    at_plan_run(st->ref.plan, &r);
}

/* What an objective needs of a batch besides the model: leaves the region to
 * the graph that runs next.                                                  */
static void prepare(struct at_step *st, const struct at_batch *b,
                    const struct at_drawn *drawn)
{
    struct at_gather *q = st->seq;
    at_gather_batch(q, b);
    for (size_t i = 0; i < q->n && st->score; i++)
        q->score[i] = (double)st->score[(size_t)q->doc[i] * st->score_stride];
    if (drawn)
        at_gather_tokens(q, drawn->old, 1, q->old);
    if (drawn && has_critic(st)) {
        at_gather_tokens(q, drawn->ref, 1, q->ref);
        at_gather_tokens(q, drawn->critic, 1, q->critic_old);
        at_gather_tokens(q, drawn->gain, 1, q->gain);
        at_gather_tokens(q, drawn->ret, 1, q->ret);
    } else if (st->ref.plan) {
        run_reference(st, b);
        at_gather_tokens(q, st->ref.ce->data, -1, q->ref);
    }
}

/* Where a text's numbers stand among those of all positions.                 */
static size_t place_of(const struct at_step *st, size_t i)
{
    const struct at_gather *g = st->seq;
    return g->width * (size_t)(st->d->value_first ? g->begin[i] : g->last[i]);
}

static void gather_values(const struct at_step *st, const struct at_step_io *io,
                          double *value, size_t n)
{
    const at_real *all = io->value->data;
    size_t W = st->seq->width;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < W; k++)
            value[i * W + k] = (double)all[place_of(st, i) + k];
}

/* The objective over the batch whose forward part has run.  q: its counts of
 * the whole step.                                                            */
static void judge(struct at_step *st, const struct at_step_io *io,
                  struct at_seqs *q, struct at_objective_sum *sum)
{
    struct at_gather *g = st->seq;
    if (io->ce)
        at_gather_tokens(g, io->ce->data, -1, g->logp);
    if (io->ce && io->value)
        at_gather_tokens(g, io->value->data, 1, g->critic);
    if (!io->ce)
        gather_values(st, io, g->value, g->n);
    memset(g->dlogp, 0, g->n_max * sizeof *g->dlogp);
    memset(g->dvalue, 0, g->n_max * g->width * sizeof *g->dvalue);
    memset(g->dcritic, 0, g->n_max * sizeof *g->dcritic);
    st->set.objective->run(q, &st->set.how, sum);
}

/* Derivatives by position, where backward starts.                            */
static void seed(struct at_step *st)
{
    const struct at_gather *g = st->seq;
    const struct at_step_io *io = &st->train;
    at_real *to = io->seed[0]->data;
    memset(to, 0, at_shape_count(&io->seed[0]->shape) * sizeof *to);
    for (size_t i = 0; i < g->n * g->width && !io->ce; i++)
        to[place_of(st, i / g->width) + i % g->width] = (at_real)g->dvalue[i];
    for (size_t i = 0; i < g->start[g->n] && io->ce; i++)
        to[g->at[i]] = (at_real)-g->dlogp[i];
    if (!io->seed[1])
        return;
    to = io->seed[1]->data;
    memset(to, 0, g->n_max * sizeof *to);
    for (size_t i = 0; i < g->start[g->n]; i++)
        to[g->at[i]] = (at_real)g->dcritic[i];
}

/* Forward, objective and derivatives of one micro-batch.                     */
static void forward(struct at_step *st, const struct at_batch *b,
                    const struct at_seqs *whole, const struct at_run *r,
                    struct at_objective_sum *sum)
{
    struct at_seqs q;
    prepare(st, b, st->drawn ? &st->drawn[r->micro] : NULL);
    q = at_gather_seqs(st->seq, st->set.group);
    q.n_all = whole->n_all;
    q.tokens_all = whole->tokens_all;
    q.chosen_all = whole->chosen_all;
    q.kl = whole->kl;
    fill(st, &st->train, b, 0);
    at_plan_run_forward(st->train.plan, r);
    judge(st, &st->train, &q, sum);
    seed(st);
}

/* The divergence from the reference over mismatched texts, at least 0.       */
static double estimate(struct at_step *st, const struct at_batch *const *batch,
                       size_t n)
{
    struct at_gather *g = st->seq;
    struct at_run r = { .k = st->k };
    double sum = 0, texts = 0;
    if (!st->odd)
        return 0;
    at_mismatch_begin(st->odd);
    for (size_t i = 0; i < n; i++)
        at_mismatch_add(st->odd, batch[i]);
    while (at_mismatch_next(st->odd)) {
        at_gather_batch(g, &st->odd->b);
        run_reference(st, &st->odd->b);
        at_gather_tokens(g, st->ref.ce->data, -1, g->ref);
        fill(st, &st->eval, &st->odd->b, 0);
        at_plan_run(st->eval.plan, &r);
        at_gather_tokens(g, st->eval.ce->data, -1, g->logp);
        for (size_t t = 0; t < g->start[g->n]; t++)
            sum += g->logp[t] - g->ref[t];
        texts += (double)g->n;
    }
    return texts > 0 ? fmax(0, sum / texts) : 0;
}

/* Counts of the whole step, and what is estimated over it. */
static struct at_seqs count(struct at_step *st,
                            const struct at_batch *const *batch)
{
    struct at_seqs whole = { 0 };
    for (size_t i = 0; i < st->set.accumulate && st->seq; i++) {
        at_gather_batch(st->seq, batch[i]);
        whole.n_all += st->seq->n;
        whole.tokens_all += st->seq->start[st->seq->n];
        whole.chosen_all += at_gather_chosen(st->seq);
    }
    whole.kl = estimate(st, batch, st->set.accumulate);
    return whole;
}

void at_step_look(struct at_step *st, const struct at_batch *b, float *ref,
                  float *critic)
{
    size_t N = b->rows * b->length;
    struct at_run r = { .k = st->k };
    run_reference(st, b);
    for (size_t i = 0; i < N; i++)
        ref[i] = -(float)((at_real *)st->ref.ce->data)[i];
    fill(st, &st->eval, b, 0);
    at_plan_run(st->eval.plan, &r);
    for (size_t i = 0; i < N; i++)
        critic[i] = (float)((at_real *)st->eval.value->data)[i];
}

void at_step_means(const struct at_objective_sum *sum,
                   struct at_step_result *r)
{
    r->accuracy = sum->pairs > 0 ? sum->right / sum->pairs : NAN;
    r->margin = sum->pairs > 0 ? sum->gap / sum->pairs : NAN;
    r->reward = sum->n > 0 ? sum->score / sum->n : NAN;
    r->kl = sum->ratios > 0 ? sum->kl / sum->n : NAN;
    r->clipped = sum->units > 0 && sum->ratios > 0
                     ? sum->clipped / sum->ratios : NAN;
    r->critic = sum->critic > 0 ? sum->critic / sum->ratios : NAN;
}

/* Texts of a policy: its divergence less what it earns.                      */
static void measure(struct at_step *st, const struct at_seqs *q,
                    struct at_eval_sum *sum)
{
    at_gather_tokens(st->seq, st->eval.ce->data, -1, st->seq->logp);
    for (size_t i = 0; i < q->n; i++) {
        double kl = at_seq_sum(q, q->logp, i) - at_seq_sum(q, q->ref, i);
        double loss = st->set.how.beta * kl - q->score[i];
        sum->o.kl += kl;
        sum->o.score += q->score[i];
        sum->o.n += 1;
        sum->o.ratios += 1;
        sum->ce += loss;
        sum->ce2 += loss * loss;
        sum->n++;
    }
}

static void eval_objective(struct at_step *st, const struct at_batch *b,
                           struct at_eval_sum *sum)
{
    struct at_run r = { .k = st->k };
    double before = sum->o.loss, units = sum->o.units;
    double kl = estimate(st, &b, 1);
    struct at_seqs q;
    prepare(st, b, NULL);
    q = at_gather_seqs(st->seq, st->set.group);
    q.kl = kl;
    if (q.n == 0)
        return;
    fill(st, &st->eval, b, 0);
    at_plan_run(st->eval.plan, &r);
    read_gauges(st, &st->eval);
    if (st->set.objective->needs & AT_NEEDS_OLD) {
        measure(st, &q, sum);
        return;
    }
    judge(st, &st->eval, &q, &sum->o);
    units = sum->o.units - units;
    sum->ce += (sum->o.loss - before) * units;  /* of a mean to a sum         */
    sum->ce2 = sum->o.unit2;
    sum->n += (uint64_t)units;
}

/* ---- evaluation ------------------------------------------------------------ */

void at_step_eval(struct at_step *st, const struct at_batch *b,
                  struct at_eval_sum *sum)
{
    struct at_run r = { .k = st->k };
    if (st->set.objective) {
        eval_objective(st, b, sum);
        return;
    }
    fill(st, &st->eval, b, 1);
    at_plan_run(st->eval.plan, &r);
    sum_ce(&st->eval, b, sum);
    sum_right(&st->eval, b, sum);
    read_gauges(st, &st->eval);
}

void at_step_eval_begin(struct at_step *st)
{
    clear_gauges(&st->eval);
}

const at_real *at_step_ce(const struct at_step *st)
{
    return st->eval.ce ? st->eval.ce->data : NULL;
}

size_t at_step_values(struct at_step *st, const struct at_batch *b,
                      double *value, size_t most)
{
    struct at_run r = { .k = st->k };
    const struct at_gather *g = st->seq;
    at_gather_batch(st->seq, b);
    fill(st, &st->eval, b, 0);
    at_plan_run(st->eval.plan, &r);
    gather_values(st, &st->eval, value, g->n < most ? g->n : most);
    return g->n;
}

/* ---- training -------------------------------------------------------------- */

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
                 double weight, const struct at_seqs *whole, struct at_run r,
                 double loss, double norm)
{
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; i < st->set.accumulate; i++) {
        const struct at_node *n;
        const struct at_val *v;
        char shape[96];
        int which;
        struct at_objective_sum unused = { 0 };
        r.micro = i;
        if (st->set.objective)
            forward(st, batch[i], whole, &r, &unused);
        else
            fill_train(st, batch[i], weight);
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

static void micro_step(struct at_step *st, const struct at_batch *b,
                       double weight, const struct at_seqs *whole,
                       const struct at_run *r, struct at_eval_sum *sum)
{
    if (st->set.objective) {
        forward(st, b, whole, r, &sum->o);
        at_plan_run_backward(st->train.plan, r);
        return;
    }
    fill_train(st, b, weight);
    at_plan_run(st->train.plan, r);
    sum_ce(&st->train, b, sum);
    for (size_t i = 0; i < b->rows * b->length && st->train.kl; i++)
        sum->o.kl += (double)((at_real *)st->train.kl->data)[i];
}

/* All micro-batches of a step: its gradient, and what was measured beside.   */
static int gradient(struct at_step *st, const struct at_batch *const *batch,
                    double weight, const struct at_seqs *whole,
                    struct at_run *run, struct at_eval_sum *sum,
                    struct at_step_result *r)
{
    struct at_offload *away = st->set.offload;
    int rc = AT_OK, last;
    clear_gauges(&st->train);
    r->penalty = 0;
    if (away)
        at_offload_begin(away, run->step);
    for (size_t i = 0; i < st->set.accumulate && rc == AT_OK; i++) {
        run->micro = i;
        st->share = (double)batch[i]->n_targets * weight;
        micro_step(st, batch[i], weight, whole, run, sum);
        r->penalty += read_gauges(st, &st->train);
        if (away)
            rc = at_offload_send(away, st->train.plan->g, 0);
    }
    if (!away)
        return rc;
    last = at_offload_finish(away);
    return rc < 0 ? rc : last;
}

/* The mean and its standard error, of n terms with these sums.               */
static void mean_of(struct at_step_result *r, double mean, double sum2,
                    double n)
{
    r->loss = mean;
    r->loss_se = n > 0 ? sqrt(fmax(0, sum2 / n - mean * mean) / n) : 0;
}

int at_step_count(struct at_step *st, const struct at_batch *const *batch,
                  double lr, uint64_t step, struct at_step_result *r)
{
    *r = (struct at_step_result){ .lr = lr };
    for (size_t i = 0; i < st->set.accumulate; i++) {
        r->n_tokens += batch[i]->n_tokens;
        r->n_targets += batch[i]->n_targets;
    }
    if (r->n_targets == 0)
        return at_fail(st->cx, AT_EINVAL, "step %llu has no token to train on: "
                       "every target is masked", (unsigned long long)step);
    return AT_OK;
}

int at_step_conclude(struct at_step *st, const struct at_batch *const *batch,
                     struct at_optim *o, uint64_t step,
                     const struct at_eval_sum *sum, struct at_step_result *r)
{
    struct at_run run = { st->k, st->set.seed, step, 0 };
    double weight = 1 / (double)r->n_targets;
    at_step_means(&sum->o, r);
    if (st->set.objective)
        mean_of(r, sum->o.loss, sum->o.unit2, sum->o.units);
    else
        mean_of(r, sum->ce * weight, sum->ce2, (double)r->n_targets);
    if (st->set.teacher)
        r->kl = sum->o.kl * weight;
    r->grad_norm = at_optim_grad_norm(o, st->k);
    if (!isfinite(r->loss) || !isfinite(r->grad_norm)) {
        struct at_seqs whole = count(st, batch);
        r->skipped = true;
        return blame(st, batch, weight, &whole, run, r->loss, r->grad_norm);
    }
    score(st, r, step);
    at_optim_step(o, st->k, r->lr, r->grad_norm, st->set.clip);
    return st->set.offload ? at_offload_fold(st->set.offload) : AT_OK;
}

int at_step_run(struct at_step *st, const struct at_batch *const *batch,
                struct at_optim *o, double lr, uint64_t step,
                struct at_step_result *r)
{
    struct at_run run = { st->k, st->set.seed, step, 0 };
    struct at_eval_sum sum;
    struct at_seqs whole = count(st, batch);
    int rc = at_step_count(st, batch, lr, step, r);
    if (rc < 0)
        return rc;
    do {
        sum = (struct at_eval_sum){ 0 };
        rc = gradient(st, batch, 1 / (double)r->n_targets, &whole, &run, &sum,
                      r);
    } while (rc == AT_OK && st->set.offload && st->set.offload->again);
    return rc < 0 ? rc : at_step_conclude(st, batch, o, step, &sum, r);
}
