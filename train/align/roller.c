/* Batches of the model's own texts. */
#include "train/align/roller.h"

#include "train/align/pack.h"

#include <math.h>
#include <string.h>

enum { ROWS_MAX = 64 };         /* texts drawn side by side                   */

static size_t texts(const struct at_roller *r)
{
    return r->o.rows * r->o.accumulate;
}

static size_t steps_a_round(const struct at_roller *r)
{
    return r->o.epochs * r->o.minibatches;
}

static bool has_critic(const struct at_roller *r)
{
    return r->st->set.objective->needs & AT_NEEDS_CRITIC;
}

static int make_batch(struct at_ctx *cx, struct at_roller *r, size_t i)
{
    struct at_batch *b = &r->batch[i];
    struct at_drawn *q = &r->drawn[i];
    size_t N = r->o.rows * r->o.length;
    b->rows = r->o.rows;
    b->length = r->o.length;
    b->ids = at_alloc_n(cx, &cx->run, 4 * N, sizeof *b->ids);
    b->doc = at_alloc_n(cx, &cx->run, N, sizeof *b->doc);
    q->old = at_alloc_n(cx, &cx->run, (has_critic(r) ? 5 : 1) * N,
                        sizeof *q->old);
    if (!b->ids || !b->doc || !q->old)
        return AT_ENOMEM;
    b->targets = b->ids + N;
    b->pos = b->targets + N;
    b->first = b->pos + N;
    if (!has_critic(r))
        return AT_OK;
    q->ref = q->old + N;
    q->critic = q->ref + N;
    q->gain = q->critic + N;
    q->ret = q->gain + N;
    return AT_OK;
}

static int make_batches(struct at_ctx *cx, struct at_roller *r)
{
    size_t n = texts(r), m = r->values->n;
    int rc = at_round_create(cx, &cx->run, n * r->o.minibatches, r->o.max_new, m,
                             has_critic(r), &r->now);
    if (rc == AT_OK)
        rc = at_round_create(cx, &cx->run, r->o.rows, r->o.max_new, m, false,
                             &r->trial);
    r->reward = at_alloc_n(cx, &cx->run, n, sizeof *r->reward);
    r->batch = at_alloc_n(cx, &cx->run, r->o.accumulate, sizeof *r->batch);
    r->drawn = at_alloc_n(cx, &cx->run, r->o.accumulate, sizeof *r->drawn);
    if (rc < 0 || !r->reward || !r->batch || !r->drawn)
        return AT_ENOMEM;
    for (size_t i = 0; i < r->o.accumulate && rc == AT_OK; i++)
        rc = make_batch(cx, r, i);
    return rc;
}

/* Objectives that compare the texts of a prompt need several.                */
static int check(struct at_ctx *cx, const struct at_roller *r)
{
    const struct at_roller_options *o = &r->o;
    size_t least = has_critic(r) ? 1 : 2;
    if (o->k < least || o->rows % o->k)
        return at_fail(cx, AT_EINVAL, "batch.rows is %zu and align.samples %zu: "
                       "the texts of a prompt stand together, so rows must be "
                       "a multiple of samples, which are at least %zu", o->rows,
                       o->k, least);
    return AT_OK;
}

static int check_lengths(struct at_ctx *cx, const struct at_roller *r,
                         const struct at_prompts *p)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->p[i].n + r->o.max_new - 1 > r->o.length)
            return at_fail(cx, AT_EINVAL, "%s: prompt %zu has %zu tokens; with "
                           "align.max_tokens %zu it needs rows of %zu, and "
                           "batch.length is %zu", p->path, i + 1, p->p[i].n,
                           r->o.max_new, p->p[i].n + r->o.max_new - 1,
                           r->o.length);
    return AT_OK;
}

static int read_prompts(struct at_ctx *cx, struct at_roller *r,
                        struct at_tok_coder *coder)
{
    struct at_prompts_options po = { .tokens = r->o.prompt_tokens,
                                     .split = AT_TRAIN };
    int rc = at_prompts_read(cx, &cx->run, r->tok, coder, r->o.data, &po,
                             &r->prompts);
    if (rc == AT_OK)
        rc = check_lengths(cx, r, &r->prompts);
    if (rc < 0 || r->o.eval_texts == SIZE_MAX)
        return rc;
    po.split = r->o.validation ? AT_TRAIN : AT_VALIDATION;
    po.most = r->o.eval_texts;
    rc = at_prompts_read(cx, &cx->run, r->tok, coder, r->o.validation ?
                         r->o.validation : r->o.data, &po, &r->held);
    return rc == AT_OK ? check_lengths(cx, r, &r->held) : rc;
}

int at_roller_create(struct at_ctx *cx, const struct at_roller_options *o,
                     struct at_step *st, const struct at_decoder *d,
                     struct at_params *ps, const struct at_kernels *k,
                     int (*attach)(void *self, struct at_graph *g), void *self,
                     const struct at_tok *tok, struct at_tok_coder *coder,
                     struct at_values *values, struct at_weights *w,
                     struct at_roller **made)
{
    struct at_roller *r = at_alloc(cx, &cx->run, sizeof *r);
    size_t rows;
    int rc = r ? AT_OK : AT_ENOMEM;
    if (rc < 0)
        return rc;
    r->o = *o;
    r->tok = tok;
    r->values = values;
    r->w = w;
    r->st = st;
    r->beta = o->gae.beta;
    rc = check(cx, r);
    if (rc == AT_OK)
        rc = read_prompts(cx, r, coder);
    if (rc == AT_OK)
        rc = make_batches(cx, r);
    rows = texts(r) < ROWS_MAX ? texts(r) : ROWS_MAX;
    if (rc == AT_OK)
        rc = at_generator_create(cx, &cx->run, d, ps, k, attach, self, rows,
                                 o->length + 1 < d->P ? o->length + 1 : d->P,
                                 &r->gen);
    if (rc < 0)
        return rc;
    st->score = r->reward;
    st->score_stride = 1;
    st->drawn = r->drawn;
    *made = r;
    return AT_OK;
}

void at_roller_destroy(struct at_roller *r)
{
    if (!r)
        return;
    at_generator_destroy(r->gen);
    at_arena_finish(&r->a);
}

/* ---- a round --------------------------------------------------------------- */

static int score_texts(struct at_ctx *cx, struct at_roller *r,
                       const struct at_prompts *from, struct at_round *t)
{
    size_t n = t->d.n, m = t->m;
    struct at_said *said = at_alloc_n(cx, &r->a, n, sizeof *said);
    int rc = said ? AT_OK : AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        size_t p = t->prompt[i];
        const struct at_prompt *q = &from->p[p];
        said[i].prompt = from->text[p];
        said[i].n_prompt = from->n_text[p];
        rc = at_draw_text(cx, &r->a, r->tok, &t->d, i, q->ids[q->n - 1],
                          &said[i].text, &said[i].n_text);
    }
    if (rc == AT_OK)
        rc = at_values_score(cx, r->values, said, n, t->score);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        double x = 0;
        for (size_t v = 0; v < m; v++)
            x += r->w->weight[v] * t->score[i * m + v];
        t->reward[i] = (float)x;
    }
    if (rc == AT_OK)
        at_round_measure(t);
    return rc;
}

/* k texts for each of n prompts.                                             */
static int roll(struct at_ctx *cx, struct at_roller *r,
                const struct at_prompts *from, const size_t *prompt, size_t n,
                size_t k, uint64_t number, struct at_round *t)
{
    struct at_draw_settings s = {
        .k = k, .max_new = r->o.max_new, .round = number,
        .rows = texts(r) < ROWS_MAX ? texts(r) : ROWS_MAX,
        .sampling = { .temperature = 1, .top_p = 1, .seed = r->o.seed },
    };
    struct at_prompt *p = at_alloc_n(cx, &r->a, n, sizeof *p);
    int rc = p ? AT_OK : AT_ENOMEM;
    for (size_t i = 0; i < n && p; i++)
        p[i] = from->p[prompt[i]];
    for (size_t i = 0; i < n * k; i++)
        t->prompt[i] = prompt[i / k];
    memset(t->d.ids, 0, t->d.cap * t->d.max_new * sizeof *t->d.ids);
    memset(t->d.logp, 0, t->d.cap * t->d.max_new * sizeof *t->d.logp);
    if (rc == AT_OK)
        rc = at_draw(cx, r->gen, p, n, at_tok_eos(r->tok), &s, &t->d);
    return rc == AT_OK ? score_texts(cx, r, from, t) : rc;
}

/* ---- a batch -------------------------------------------------------------- */

static void blank(struct at_roller *r, size_t micro)
{
    struct at_batch *b = &r->batch[micro];
    at_batch_blank(b);
    memset(r->drawn[micro].old, 0, b->rows * b->length * sizeof(float));
    b->n_tokens = b->n_targets = 0;
}

/* What is known of drawn token k of the round, at a position.                */
static void put_known(struct at_drawn *q, size_t at, const struct at_round *t,
                      size_t k)
{
    q->old[at] = t->d.logp[k];
    if (!t->ref || !q->ref)
        return;
    q->ref[at] = t->ref[k];
    q->critic[at] = t->critic[k];
    q->gain[at] = t->gain[k];
    q->ret[at] = t->ret[k];
}

/* Text i of the round behind its prompt, as text `place` of the step, in a row
 * of its own.                                                                */
static void put_text(struct at_roller *r, const struct at_prompts *from,
                     const struct at_round *t, size_t i, size_t place)
{
    size_t micro = place / r->o.rows, at = place % r->o.rows * r->o.length;
    const struct at_prompt *p = &from->p[t->prompt[i]];
    size_t n = p->n + t->d.n_ids[i], base = i * t->d.max_new;
    struct at_batch *b = &r->batch[micro];
    for (size_t j = 0; j + 1 < n; j++) {
        bool mine = j + 1 >= p->n;
        size_t k = base + j + 1 - p->n;
        b->ids[at + j] = j < p->n ? p->ids[j] : t->d.ids[base + j - p->n];
        b->pos[at + j] = (int32_t)j;
        b->first[at + j] = (int32_t)at;
        b->doc[at + j] = (int64_t)place;
        b->targets[at + j] = mine ? t->d.ids[k] : -1;
        if (mine)
            put_known(&r->drawn[micro], at + j, t, k);
    }
    b->n_tokens += n - 1;
    b->n_targets += t->d.n_ids[i];
    r->reward[place] = t->reward[i];
}

/* Texts which[0 .. n-1] of the round (NULL: its first n) into the batches.   */
static void put_texts(struct at_roller *r, const struct at_prompts *from,
                      const struct at_round *t, const size_t *which, size_t n)
{
    for (size_t i = 0; i < r->o.accumulate; i++)
        blank(r, i);
    for (size_t i = 0; i < n; i++)
        put_text(r, from, t, which ? which[i] : i, i);
}

/* What critic and reference say of the round's texts, then their advantages.  */
static int judge(struct at_ctx *cx, struct at_roller *r)
{
    struct at_round *t = &r->now;
    struct at_gae how = r->o.gae;
    size_t rows = r->o.rows, T = t->d.max_new;
    size_t *which = at_alloc_n(cx, &r->a, rows, sizeof *which);
    if (!which)
        return AT_ENOMEM;
    how.beta = r->beta;
    for (size_t first = 0; first < t->d.n; first += rows) {
        struct at_drawn *q = &r->drawn[0];
        for (size_t i = 0; i < rows; i++)
            which[i] = first + i;
        put_texts(r, &r->prompts, t, which, rows);
        at_step_look(r->st, &r->batch[0], q->ref, q->critic);
        for (size_t i = 0; i < rows; i++) {
            size_t at = i * r->o.length +
                        r->prompts.p[t->prompt[first + i]].n - 1;
            size_t n = t->d.n_ids[first + i] * sizeof(float);
            memcpy(t->ref + (first + i) * T, q->ref + at, n);
            memcpy(t->critic + (first + i) * T, q->critic + at, n);
        }
    }
    return at_round_judge(cx, t, &how);
}

static int draw_round(struct at_ctx *cx, struct at_roller *r, uint64_t step,
                      struct at_cursor *to)
{
    struct at_rng rng = { r->o.seed, AT_RNG_SHUFFLE, 0 };
    size_t n = r->now.d.cap / r->o.k;
    size_t *prompt = at_alloc_n(cx, &r->a, n, sizeof *prompt);
    int rc = prompt ? AT_OK : AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        prompt[i] = (size_t)at_rng_permute(&rng, to->epoch, to->index,
                                           r->prompts.n);
        if (++to->index == r->prompts.n) {
            to->index = 0;
            to->epoch++;
        }
    }
    if (rc == AT_OK)
        rc = roll(cx, r, &r->prompts, prompt, n, r->o.k, step, &r->now);
    return rc == AT_OK && has_critic(r) ? judge(cx, r) : rc;
}

/* Which texts of the round the step takes: each of its epochs has an order of
 * its own.  A round of one step is taken as it is.                           */
static void choose(const struct at_roller *r, uint64_t step, size_t *which)
{
    struct at_rng rng = { r->o.seed, AT_RNG_SHUFFLE, 1 };
    uint64_t epoch = (step - 1) / r->o.minibatches, n = r->now.d.n;
    uint64_t first = (step - 1) % r->o.minibatches * texts(r);
    for (size_t i = 0; i < texts(r); i++)
        which[i] = steps_a_round(r) == 1
                       ? i : (size_t)at_rng_permute(&rng, epoch, first + i, n);
}

int at_roller_step(struct at_ctx *cx, struct at_roller *r, uint64_t step,
                   struct at_cursor from, struct at_cursor *to)
{
    size_t *which = at_alloc_n(cx, &r->a, texts(r), sizeof *which);
    int rc = which ? AT_OK : AT_ENOMEM;
    *to = from;
    /* Behind a rollback there may be none though none begins.                */
    if (rc == AT_OK &&
        ((step - 1) % steps_a_round(r) == 0 || r->now.d.n == 0))
        rc = draw_round(cx, r, step, to);
    if (rc < 0) {
        r->now.d.n = 0;
        at_arena_reset(&r->a);
        return at_note(cx, rc, "drawing the texts of step %llu",
                       (unsigned long long)step);
    }
    choose(r, step, which);
    put_texts(r, &r->prompts, &r->now, which, texts(r));
    r->batch[0].from = from;
    r->batch[r->o.accumulate - 1].to = *to;
    at_arena_reset(&r->a);
    return AT_OK;
}

bool at_roller_ends(const struct at_roller *r, uint64_t step)
{
    return step % steps_a_round(r) == 0;
}

void at_roller_follow(struct at_roller *r)
{
    const struct at_round *t = &r->now;
    for (size_t v = 0; v < r->values->n && r->o.rate > 0; v++) {
        double *w = &r->w->weight[v], c = r->w->target[v];
        if (!isnan(c) && t->var[v] > 0)
            *w = fmax(0, *w + r->o.rate * (c - t->mean[v]) / t->var[v]);
    }
    if (r->o.kl_wanted > 0) {
        double off = fmin(fmax(t->kl / r->o.kl_wanted - 1, -0.2), 0.2);
        r->beta *= 1 + off * (double)t->d.n / r->o.kl_horizon;
        r->st->set.how.beta = r->beta;
    }
    r->now.d.n = 0;
}

int at_roller_put(struct at_ctx *cx, struct at_h5 *f, const struct at_roller *r)
{
    int rc = at_h5_put(cx, f, "value_weights", AT_H5_F64, 1, &r->w->n,
                       r->w->weight);
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "align_beta", r->beta);
    return rc == AT_OK && r->now.d.n ? at_round_put(cx, f, &r->now) : rc;
}

int at_roller_get(struct at_ctx *cx, struct at_h5 *f, struct at_roller *r)
{
    int rc = at_h5_get(cx, f, "value_weights", AT_H5_F64, 1, &r->w->n,
                       r->w->weight);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "align_beta", &r->beta);
    r->st->set.how.beta = r->beta;
    r->now.d.n = 0;
    if (rc < 0 || !at_h5_has(f, "round/ids"))
        return rc;
    return at_round_get(cx, f, r->prompts.n, at_tok_size(r->tok), &r->now);
}

/* ---- evaluation ------------------------------------------------------------ */

size_t at_roller_held(const struct at_roller *r)
{
    return (r->held.n + r->o.rows - 1) / r->o.rows;
}

int at_roller_eval(struct at_ctx *cx, struct at_roller *r, size_t which,
                   size_t *n)
{
    size_t first = which * r->o.rows, left = r->held.n - first;
    size_t *prompt;
    int rc;
    *n = left < r->o.rows ? left : r->o.rows;
    prompt = at_alloc_n(cx, &r->a, *n, sizeof *prompt);
    if (!prompt)
        return AT_ENOMEM;
    for (size_t i = 0; i < *n; i++)
        prompt[i] = first + i;
    rc = roll(cx, r, &r->held, prompt, *n, 1, UINT64_MAX, &r->trial);
    if (rc == AT_OK)
        put_texts(r, &r->held, &r->trial, NULL, *n);
    at_arena_reset(&r->a);
    return rc < 0 ? at_note(cx, rc, "drawing texts to evaluate") : AT_OK;
}
