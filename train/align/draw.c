/* Drawing texts in batches. */
#include "train/align/draw.h"

#include <math.h>

int at_draws_create(struct at_ctx *cx, struct at_arena *a, size_t n,
                    size_t max_new, struct at_draws *d)
{
    *d = (struct at_draws){ .cap = n, .max_new = max_new };
    d->n_ids = at_alloc_n(cx, a, n, sizeof *d->n_ids);
    d->ids = at_alloc_n(cx, a, n * max_new, sizeof *d->ids);
    d->logp = at_alloc_n(cx, a, n * max_new, sizeof *d->logp);
    return d->n_ids && d->ids && d->logp ? AT_OK : AT_ENOMEM;
}

struct batch {                  /* rows of one call of the generator          */
    struct at_draws *d;
    size_t first;               /* text of row 0                              */
    int32_t eos;
};

static bool on_token(void *self, size_t row, int32_t id, double logp)
{
    struct batch *b = self;
    struct at_draws *d = b->d;
    size_t i = b->first + row, at = i * d->max_new + d->n_ids[i]++;
    d->ids[at] = id;
    d->logp[at] = (float)logp;
    return id != b->eos;
}

/* A stream a text: round, prompt and number mixed into 32 bits.              */
static uint32_t stream_of(const struct at_draw_settings *s, uint32_t prompt,
                          size_t number)
{
    uint64_t key[3] = { s->round, prompt, number };
    return (uint32_t)at_hash(key, sizeof key).lo;
}

int at_draw(struct at_ctx *cx, struct at_generator *g,
            const struct at_prompt *prompts, size_t n, int32_t eos,
            const struct at_draw_settings *s, struct at_draws *d)
{
    struct batch b = { .d = d, .eos = eos };
    struct at_prompt *row = at_alloc_n(cx, &cx->scratch, s->rows, sizeof *row);
    int rc = row ? AT_OK : AT_ENOMEM;
    d->n = n * s->k;
    for (size_t i = 0; i < d->n; i++)
        d->n_ids[i] = 0;
    for (; b.first < d->n && rc == AT_OK; b.first += s->rows) {
        size_t m = d->n - b.first < s->rows ? d->n - b.first : s->rows;
        for (size_t r = 0; r < m; r++) {
            size_t i = b.first + r;
            row[r] = prompts[i / s->k];
            row[r].stream = stream_of(s, row[r].stream, i % s->k);
        }
        rc = at_generate(g, row, m, s->max_new, &s->sampling, on_token, &b);
    }
    at_arena_reset(&cx->scratch);
    return rc;
}

int at_draw_text(struct at_ctx *cx, struct at_arena *a,
                 const struct at_tok *tok, const struct at_draws *d, size_t i,
                 int32_t prev, const char **text, size_t *n)
{
    const int32_t *ids = d->ids + i * d->max_new;
    struct at_text t = { 0 };
    int rc;
    for (size_t k = 0; k < d->n_ids[i] && ids[k] != at_tok_eos(tok); k++) {
        size_t len;
        const char *piece = at_tok_step(tok, prev, ids[k], &len);
        at_text_add(&t, piece ? piece : "", len);
        prev = ids[k];
    }
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK) {
        *n = t.n;
        *text = at_strndup(cx, a, t.s ? t.s : "", t.n);
        rc = *text ? AT_OK : AT_ENOMEM;
    }
    at_text_finish(&t);
    return rc;
}

size_t at_draw_choose(const double *score, const double *weight, size_t n,
                      size_t m, uint64_t seed, uint64_t which)
{
    struct at_rng rng = { seed, AT_RNG_CHOOSE, 0 };
    double most = -INFINITY, all = 0, u = at_rng_uniform(&rng, which, 0);
    for (int pass = 0; pass < 3; pass++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            double x = 0;
            for (size_t k = 0; k < m; k++)
                x += weight[k] * score[i * m + k];
            if (pass == 0) {
                most = fmax(most, x);
                continue;
            }
            sum += exp(x - most);
            if (pass == 2 && sum > u * all)
                return i;
        }
        all = sum;
    }
    return n - 1;
}
