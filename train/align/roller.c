/* Batches of the model's own texts. */
#include "train/align/roller.h"

#include <math.h>
#include <string.h>

enum { ROWS_MAX = 64 };         /* texts drawn side by side                   */

static size_t texts(const struct at_roller *r)
{
    return r->o.rows * r->o.accumulate;
}

static int make_batches(struct at_ctx *cx, struct at_roller *r)
{
    size_t N = r->o.rows * r->o.length, n = texts(r);
    int rc = at_draws_create(cx, &cx->run, n, r->o.max_new, &r->d);
    r->score = at_alloc_n(cx, &cx->run, n * r->values->n, sizeof *r->score);
    r->reward = at_alloc_n(cx, &cx->run, n, sizeof *r->reward);
    r->batch = at_alloc_n(cx, &cx->run, r->o.accumulate, sizeof *r->batch);
    r->old = at_alloc_n(cx, &cx->run, r->o.accumulate, sizeof *r->old);
    if (rc < 0 || !r->score || !r->reward || !r->batch || !r->old)
        return AT_ENOMEM;
    for (size_t i = 0; i < r->o.accumulate; i++) {
        struct at_batch *b = &r->batch[i];
        b->rows = r->o.rows;
        b->length = r->o.length;
        b->ids = at_alloc_n(cx, &cx->run, 4 * N, sizeof *b->ids);
        b->doc = at_alloc_n(cx, &cx->run, N, sizeof *b->doc);
        r->old[i] = at_alloc_n(cx, &cx->run, N, sizeof **r->old);
        if (!b->ids || !b->doc || !r->old[i])
            return AT_ENOMEM;
        b->targets = b->ids + N;
        b->pos = b->targets + N;
        b->first = b->pos + N;
    }
    return AT_OK;
}

static int check(struct at_ctx *cx, const struct at_roller_options *o)
{
    if (o->k < 2 || o->rows % o->k)
        return at_fail(cx, AT_EINVAL, "batch.rows is %zu and align.samples %zu: "
                       "the texts of a prompt stand together, so rows must be "
                       "a multiple of samples, which are at least 2", o->rows,
                       o->k);
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
                     const struct at_decoder *d, struct at_params *ps,
                     const struct at_kernels *k,
                     int (*attach)(void *self, struct at_graph *g), void *self,
                     const struct at_tok *tok, struct at_tok_coder *coder,
                     struct at_values *values, struct at_weights *w,
                     struct at_roller **made)
{
    struct at_roller *r = at_alloc(cx, &cx->run, sizeof *r);
    size_t rows;
    int rc = r ? check(cx, o) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    r->o = *o;
    r->tok = tok;
    r->values = values;
    r->w = w;
    rc = read_prompts(cx, r, coder);
    if (rc == AT_OK)
        rc = make_batches(cx, r);
    rows = texts(r) < ROWS_MAX ? texts(r) : ROWS_MAX;
    if (rc == AT_OK)
        rc = at_generator_create(cx, &cx->run, d, ps, k, attach, self, rows,
                                 o->length + 1 < d->P ? o->length + 1 : d->P,
                                 &r->gen);
    if (rc == AT_OK)
        *made = r;
    return rc;
}

void at_roller_destroy(struct at_roller *r)
{
    if (!r)
        return;
    at_generator_destroy(r->gen);
    at_arena_finish(&r->a);
}

/* ---- a batch -------------------------------------------------------------- */

static void blank(struct at_roller *r, size_t micro)
{
    struct at_batch *b = &r->batch[micro];
    for (size_t i = 0; i < b->rows * b->length; i++) {
        b->ids[i] = b->pos[i] = 0;
        b->targets[i] = -1;
        b->first[i] = (int32_t)i;
        b->doc[i] = -1;
        r->old[micro][i] = 0;
    }
    b->n_tokens = b->n_targets = 0;
}

/* Text i behind its prompt, in a row of its own.                             */
static void put_text(struct at_roller *r, const struct at_prompt *p, size_t i)
{
    size_t micro = i / r->o.rows, at = i % r->o.rows * r->o.length;
    const int32_t *drawn = r->d.ids + i * r->d.max_new;
    const float *logp = r->d.logp + i * r->d.max_new;
    struct at_batch *b = &r->batch[micro];
    size_t n = p->n + r->d.n_ids[i];
    for (size_t t = 0; t + 1 < n; t++) {
        bool mine = t + 1 >= p->n;
        b->ids[at + t] = t < p->n ? p->ids[t] : drawn[t - p->n];
        b->pos[at + t] = (int32_t)t;
        b->first[at + t] = (int32_t)at;
        b->doc[at + t] = (int64_t)i;
        b->targets[at + t] = mine ? drawn[t + 1 - p->n] : -1;
        r->old[micro][at + t] = mine ? logp[t + 1 - p->n] : 0;
    }
    b->n_tokens += n - 1;
    b->n_targets += r->d.n_ids[i];
}

static int score_texts(struct at_ctx *cx, struct at_roller *r,
                       const struct at_prompts *from, const size_t *prompt,
                       size_t k)
{
    size_t n = r->d.n, m = r->values->n;
    struct at_said *said = at_alloc_n(cx, &r->a, n, sizeof *said);
    int rc = said ? AT_OK : AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        size_t p = prompt[i / k];
        const struct at_prompt *q = &from->p[p];
        said[i].prompt = from->text[p];
        said[i].n_prompt = from->n_text[p];
        rc = at_draw_text(cx, &r->a, r->tok, &r->d, i, q->ids[q->n - 1],
                          &said[i].text, &said[i].n_text);
    }
    if (rc == AT_OK)
        rc = at_values_score(cx, r->values, said, n, r->score);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        double x = 0;
        for (size_t v = 0; v < m; v++)
            x += r->w->weight[v] * r->score[i * m + v];
        r->reward[i] = (float)x;
    }
    return rc;
}

static void take_means(struct at_roller *r)
{
    size_t n = r->d.n, m = r->values->n;
    for (size_t v = 0; v < m; v++) {
        double sum = 0, sum2 = 0;
        for (size_t i = 0; i < n; i++) {
            sum += r->score[i * m + v];
            sum2 += r->score[i * m + v] * r->score[i * m + v];
        }
        r->mean[v] = sum / (double)n;
        r->var[v] = fmax(0, sum2 / (double)n - r->mean[v] * r->mean[v]);
    }
}

/* k texts for each of n prompts, into the batches.                           */
static int roll(struct at_ctx *cx, struct at_roller *r,
                const struct at_prompts *from, const size_t *prompt, size_t n,
                size_t k, uint64_t round)
{
    struct at_draw_settings s = {
        .k = k, .max_new = r->o.max_new, .round = round,
        .rows = texts(r) < ROWS_MAX ? texts(r) : ROWS_MAX,
        .sampling = { .temperature = 1, .top_p = 1, .seed = r->o.seed },
    };
    struct at_prompt *p = at_alloc_n(cx, &r->a, n, sizeof *p);
    int rc = p ? AT_OK : AT_ENOMEM;
    for (size_t i = 0; i < n && p; i++)
        p[i] = from->p[prompt[i]];
    if (rc == AT_OK)
        rc = at_draw(cx, r->gen, p, n, at_tok_eos(r->tok), &s, &r->d);
    if (rc == AT_OK)
        rc = score_texts(cx, r, from, prompt, k);
    for (size_t i = 0; i < r->o.accumulate && rc == AT_OK; i++)
        blank(r, i);
    for (size_t i = 0; i < r->d.n && rc == AT_OK; i++)
        put_text(r, &p[i / k], i);
    if (rc == AT_OK)
        take_means(r);
    at_arena_reset(&r->a);
    return rc;
}

int at_roller_step(struct at_ctx *cx, struct at_roller *r, uint64_t step,
                   struct at_cursor from, struct at_cursor *to)
{
    struct at_rng rng = { r->o.seed, AT_RNG_SHUFFLE, 0 };
    size_t n = texts(r) / r->o.k;
    size_t *prompt = at_alloc_n(cx, &r->a, n, sizeof *prompt);
    int rc;
    if (!prompt)
        return AT_ENOMEM;
    *to = from;
    for (size_t i = 0; i < n; i++) {
        prompt[i] = (size_t)at_rng_permute(&rng, to->epoch, to->index,
                                           r->prompts.n);
        if (++to->index == r->prompts.n) {
            to->index = 0;
            to->epoch++;
        }
    }
    r->batch[0].from = from;
    rc = roll(cx, r, &r->prompts, prompt, n, r->o.k, step);
    r->batch[r->o.accumulate - 1].to = *to;
    return rc < 0 ? at_note(cx, rc, "drawing the texts of step %llu",
                            (unsigned long long)step) : AT_OK;
}

void at_roller_follow(struct at_roller *r)
{
    for (size_t v = 0; v < r->values->n && r->o.rate > 0; v++) {
        double *w = &r->w->weight[v], c = r->w->target[v];
        if (!isnan(c) && r->var[v] > 0)
            *w = fmax(0, *w + r->o.rate * (c - r->mean[v]) / r->var[v]);
    }
}

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
    rc = roll(cx, r, &r->held, prompt, *n, 1, UINT64_MAX);
    return rc < 0 ? at_note(cx, rc, "drawing texts to evaluate") : AT_OK;
}
