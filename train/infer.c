/* Opening a model for use. */
#include "train/infer.h"

#include "train/adapters/masked.h"
#include "train/labels.h"

#include <math.h>
#include <string.h>

enum { FIXED = 16 };        /* tokens of the text that a merge is judged by   */

static size_t at_most(size_t n, size_t most)
{
    return n < most ? n : most;
}

/* What a model that judges is measured by, where the data say no other.      */
static const struct at_objective *objective_of(const struct at_decoder *d)
{
    return !d->value ? NULL
           : at_objective_find(d->problem == AT_ONE_LABEL ? "classify"
                                                          : "reward");
}

static int build(struct at_ctx *cx, struct at_infer *in, size_t rows,
                 size_t T_max, size_t eval_rows, size_t length)
{
    const struct at_decoder *d = &in->m->d;
    int rc = AT_OK;
    if (rows && (d->value || d->both))
        rc = at_model_need_words(cx, in->m);
    else if (rows)
        rc = at_generator_create(cx, &cx->run, d, &in->ps, in->k,
                                 at_adapters_attach_quietly, &in->m->adapters,
                                 rows, at_most(T_max, d->P), &in->gen);
    if (rc == AT_OK && eval_rows) {
        struct at_step_settings s = { .rows = eval_rows, .accumulate = 1,
                                      .length = at_most(length, d->P) };
        s.objective = objective_of(d);
        rc = at_step_create(cx, &cx->run, d, &in->ps, in->k,
                            &in->m->adapters, &s, &in->st);
    }
    return rc;
}

/* What logits, or values, are compared by before and after a merge.          */
static int build_to_merge(struct at_ctx *cx, struct at_infer *in)
{
    const struct at_decoder *d = &in->m->d;
    int rc;
    if (d->value)
        return build(cx, in, 0, 0, 1, FIXED);
    if (!d->both)
        return build(cx, in, 1, 32, 0, 0);
    rc = at_model_declare(cx, d, &in->ps);
    return rc == AT_OK && at_h5_has(in->m->f, "params/value.dense.weight")
               ? at_model_declare_dense(cx, d, &in->ps) : rc;
}

static bool nothing(const void *self, const char *name)
{
    (void)self;
    (void)name;
    return false;
}

/* Pruned weights stay sparse, unless an adapter is to fill their zeros.      */
static void use_patterns(struct at_ctx *cx, struct at_infer *in, bool merge)
{
    struct at_model *m = in->m;
    in->patterns = (struct at_patterns){ cx, &cx->run, m->base ? m->base : m->f,
                                         false };
    if (merge && m->adapters.n &&
        !at_adapters_find(&m->adapters, &at_masked_kind))
        return;
    in->ps.pattern = at_patterns_find;
    in->ps.pattern_self = &in->patterns;
}

static int open_model(struct at_ctx *cx, const char *path, const char *backend,
                      int threads, size_t rows, size_t T_max, size_t eval_rows,
                      size_t length, bool merge, struct at_infer **made)
{
    struct at_infer *in = at_alloc(cx, &cx->run, sizeof *in);
    int rc = in ? at_threads_start(cx, threads) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_kernels_find(cx, backend, &in->k);
    if (rc < 0)
        return rc;
    at_params_init(&in->ps, cx, &cx->run);
    in->ps.need_grads = false;
    in->ps.trains = nothing;
    rc = at_model_open(cx, &cx->run, path, &in->m);
    if (rc == AT_OK)
        use_patterns(cx, in, merge);
    if (rc == AT_OK && merge)
        rc = build_to_merge(cx, in);
    else if (rc == AT_OK)
        rc = build(cx, in, rows, T_max, eval_rows, length);
    if (rc == AT_OK)
        rc = at_params_seal(&in->ps);
    if (rc == AT_OK)
        rc = at_model_read(cx, in->m, &in->ps, true);
    if (rc == AT_OK && in->gen)
        rc = at_generator_start(in->gen);
    if (rc == AT_OK && in->st)
        rc = at_step_start(in->st);
    if (rc == AT_OK)
        rc = in->m->tok ? at_tok_coder_create(cx, in->m->tok, &in->coder)
                        : AT_OK;
    if (rc < 0) {
        at_infer_close(in);
        return rc;
    }
    *made = in;
    return AT_OK;
}

int at_infer_open(struct at_ctx *cx, const char *path, const char *backend,
                  int threads, size_t rows, size_t T_max, size_t eval_rows,
                  size_t length, struct at_infer **made)
{
    return open_model(cx, path, backend, threads, rows, T_max, eval_rows,
                      length, false, made);
}

int at_infer_open_to_merge(struct at_ctx *cx, const char *path,
                           struct at_infer **made)
{
    return open_model(cx, path, "cpu", 0, 0, 0, 0, 0, true, made);
}

void at_infer_close(struct at_infer *in)
{
    if (!in)
        return;
    at_tok_coder_destroy(in->coder);
    at_step_destroy(in->st);
    at_generator_destroy(in->gen);
    at_params_finish(&in->ps);
    at_model_close(in->m);
    *in = (struct at_infer){ 0 };
}

/* Cuts ids into rows of T inputs whose targets are the tokens behind them.   */
static void fill_row(struct at_batch *b, size_t r, const int32_t *ids, size_t n)
{
    size_t at = r * b->length;
    for (size_t i = 0; i < b->length; i++) {
        bool in = i + 1 < n;
        b->ids[at + i] = in ? ids[i] : 0;
        b->targets[at + i] = in ? ids[i + 1] : -1;
        b->pos[at + i] = in ? (int32_t)i : 0;
        b->first[at + i] = (int32_t)(in ? at : at + i);
    }
}

int at_infer_text(struct at_ctx *cx, struct at_infer *in, const char *text,
                  size_t n, struct at_eval_sum *sum)
{
    size_t B = in->st->set.rows, T = in->st->set.length, N = B * T;
    struct at_tok_ids ids = { 0 };
    struct at_batch b = { .rows = B, .length = T };
    int rc = at_tok_encode(cx, in->coder, text, n, at_data_flags(in->m->tok),
                           &ids);
    b.ids = at_alloc_n(cx, &cx->scratch, 4 * N, sizeof *b.ids);
    if (rc == AT_OK && !b.ids)
        rc = AT_ENOMEM;
    if (rc == AT_OK && ids.n < 2)
        rc = at_fail(cx, AT_EINVAL, "the text has less than two tokens: there "
                     "is nothing to predict");
    b.targets = b.ids + N;
    b.pos = b.targets + N;
    b.first = b.pos + N;
    for (size_t at = 0; rc == AT_OK && at + 1 < ids.n; at += N) {
        for (size_t r = 0; r < B; r++) {
            size_t from = at + r * T;
            size_t left = from < ids.n ? ids.n - from : 0;
            fill_row(&b, r, ids.id + (left ? from : 0),
                     left < T + 1 ? left : T + 1);
        }
        at_step_eval(in->st, &b, sum);
    }
    at_tok_ids_finish(&ids);
    at_arena_reset(&cx->scratch);
    return rc;
}

static int check_data(struct at_ctx *cx, const struct at_infer *in,
                      const struct at_data *d, const char *path)
{
    char mine[33];
    at_hash_hex(at_tok_hash(in->m->tok), mine);
    if (strcmp(mine, d->tok_hash) != 0)
        return at_fail(cx, AT_EINVAL, "%s was made with another tokenizer than "
                       "the model's", path);
    return AT_OK;
}

/* What a model that judges is measured by.                                    */
static int use_judgement(struct at_ctx *cx, struct at_infer *in,
                         const struct at_data *d, struct at_eval_sum *sum)
{
    size_t W = in->m->d.value;
    const char *by = "reward";
    int rc = AT_OK;
    if (d->n_labels && in->m->d.problem == AT_ONE_LABEL) {
        by = "classify";
        in->st->score_stride = 1;
        rc = at_labels_map(cx, &cx->run, d, &in->m->d, &in->st->score);
        sum->o.table = at_alloc_n(cx, &cx->run, W * W, sizeof *sum->o.table);
        if (rc == AT_OK && !sum->o.table)
            rc = AT_ENOMEM;
    } else if (d->n_scores == 1 && W == 1 && !d->preference) {
        by = "regression";
        in->st->score = d->score;
        in->st->score_stride = 1;
    } else if (!d->preference || W != 1) {
        rc = at_fail(cx, AT_EINVAL, "%s judges texts; %s has %s to measure it "
                     "by", in->m->path, at_h5_path(d->f),
                     W > 1 ? "no labels (attune data --label KEY)"
                           : "neither preferences nor one score");
    }
    in->st->set.objective = at_objective_find(by);
    in->st->set.group = d->group;
    return rc;
}

int at_infer_data(struct at_ctx *cx, struct at_infer *in, const char *path,
                  bool training, bool all_roles, struct at_eval_sum *sum)
{
    struct at_loader_options o = {
        .split = training ? AT_TRAIN : AT_VALIDATION, .packing = AT_PACK_DOCS,
        .rows = in->st->set.rows, .length = in->st->set.length, .once = true,
        .all_roles = all_roles, .ends = in->m->d.value > 0,
    };
    const struct at_batch *b = NULL;
    struct at_loader *l = NULL;
    struct at_data *d;
    int rc = at_data_open(cx, &cx->run, path, &d);
    if (rc < 0)
        return rc;
    rc = check_data(cx, in, d, path);
    if (rc == AT_OK && in->m->d.value)
        rc = use_judgement(cx, in, d, sum);
    o.groups = in->m->d.value && d->preference;
    if (rc == AT_OK)
        rc = at_loader_create(cx, d, &o, &l);
    while (rc == AT_OK && !(b && b->last)) {
        rc = at_loader_next(cx, l, &b);
        if (rc == AT_OK)
            at_step_eval(in->st, b, sum);
    }
    at_loader_destroy(l);
    at_data_close(d);
    return rc;
}

static size_t likeliest(const double *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* What the model makes of a fixed text: logits of the next token, [V], or the
 * numbers of one that judges, [value].                                       */
static int fixed_text(struct at_infer *in, double *x, size_t n)
{
    int32_t ids[FIXED], pos[FIXED], first[FIXED] = { 0 }, targets[FIXED];
    int64_t doc[FIXED] = { 0 };
    struct at_batch b = { .rows = 1, .ids = ids, .targets = targets,
                          .pos = pos, .first = first, .doc = doc };
    const at_real *logits;
    int rc = AT_OK;
    for (size_t i = 0; i < FIXED; i++) {
        ids[i] = (int32_t)((i * 2654435761u) % in->m->d.V);
        pos[i] = (int32_t)i;
        targets[i] = -1;
    }
    if (in->st) {
        b.length = in->st->set.length;
        at_step_values(in->st, &b, x, 1);
        return AT_OK;
    }
    rc = at_generator_logits(in->gen, ids, FIXED, &logits);
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        x[i] = (double)logits[i];
    return rc;
}

int at_infer_merge(struct at_ctx *cx, struct at_infer *in, double *largest,
                   bool *same_token)
{
    size_t n = in->m->d.value ? in->m->d.value : in->m->d.V;
    double *before = at_alloc_n(cx, &cx->run, 2 * n, sizeof *before);
    double *after = before + n;
    int rc;
    *largest = 0;
    *same_token = true;
    if (!before)
        return AT_ENOMEM;
    if (!in->m->adapters.n)
        return AT_OK;
    rc = fixed_text(in, before, n);
    if (rc == AT_OK)
        rc = at_adapters_merge(cx, &in->m->adapters, &in->ps, in->k);
    if (rc == AT_OK)
        rc = fixed_text(in, after, n);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        *largest = fmax(*largest, fabs(after[i] - before[i]));
    *same_token = likeliest(before, n) == likeliest(after, n);
    return AT_OK;
}
