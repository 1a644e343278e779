/* Coherence: how alike prompt and text are to a model that reads them. */
#include "train/align/pack.h"
#include "train/align/value.h"
#include "train/model_file.h"

#include <math.h>
#include <string.h>

enum { ROWS = 8, LENGTH = 512 };

struct reader {                 /* a model up to its hidden states            */
    struct at_ctx *cx;
    struct at_model *m;
    struct at_params ps;
    const struct at_kernels *k;
    struct at_tok_coder *coder;
    struct at_val *ids, *pos, *first, *part, *type, *hidden;
    struct at_plan *plan;
    size_t T;
};

static bool nothing(const void *self, const char *name)
{
    (void)self;
    (void)name;
    return false;
}

static int build(struct at_ctx *cx, struct reader *r)
{
    const struct at_decoder *d = &r->m->d;
    struct at_shape N = at_shape1(ROWS * r->T);
    struct at_decoder_options o = { 0 };
    struct at_tokens in = { .B = ROWS };
    struct at_val *head;
    struct at_graph *g;
    int rc = at_decoder_rope(cx, &cx->run, d, &o.rope);
    if (rc == AT_OK)
        rc = at_graph_create(cx, &cx->run, &r->ps, r->k, &g);
    if (rc == AT_OK)
        rc = at_adapters_attach_quietly(&r->m->adapters, g);
    if (rc < 0)
        return rc;
    in.ids = r->ids = at_input(g, "ids", AT_I32, N);
    in.pos = r->pos = at_input(g, "pos", AT_I32, N);
    in.first = r->first = at_input(g, "first", AT_I32, N);
    in.part = r->part = at_input(g, "part", AT_I32, N);
    in.type = r->type = d->types ? at_input(g, "type", AT_I32, N) : NULL;
    if (!in.ids || !in.pos || !in.first || !in.part || (d->types && !in.type))
        return AT_ENOMEM;
    r->hidden = at_decoder_hidden(g, d, &in, &o);
    head = r->hidden;
    /* The file holds a head, which is declared and not run.                  */
    if (head && d->value)
        head = at_decoder_value(g, d, r->hidden);
    else if (head && !d->both)
        head = at_decoder_head(g, d);
    if (!head)
        return cx->err.code < 0 ? cx->err.code
                                : at_fail(cx, AT_EINVAL, "%s cannot be read",
                                          r->m->path);
    return at_plan_create(g, &r->hidden, 1, &r->plan);
}

static void close_reader(void *impl)
{
    struct reader *r = impl;
    at_tok_coder_destroy(r->coder);
    if (r->plan)
        at_plan_destroy(r->plan);
    at_params_finish(&r->ps);
    at_model_close(r->m);
}

static int open_reader(struct at_ctx *cx, struct at_arena *a, const char *path,
                       void **impl)
{
    struct reader *r = at_alloc(cx, a, sizeof *r);
    int rc = r ? at_kernels_find(cx, "cpu", &r->k) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    at_params_init(&r->ps, cx, &cx->run);
    r->ps.need_grads = false;
    r->ps.trains = nothing;
    rc = at_model_open(cx, &cx->run, path, &r->m);
    if (rc < 0)
        return rc;
    *impl = r;
    r->cx = cx;
    r->T = r->m->d.P < LENGTH ? r->m->d.P : LENGTH;
    rc = at_model_need_tokenizer(cx, r->m);
    if (rc == AT_OK)
        rc = build(cx, r);
    if (rc == AT_OK)
        rc = at_params_seal(&r->ps);
    if (rc == AT_OK)
        rc = at_model_read(cx, r->m, &r->ps, true);
    if (rc == AT_OK)
        rc = at_plan_bind(cx, r->plan);
    if (rc == AT_OK)
        rc = at_tok_coder_create(cx, r->m->tok, &r->coder);
    return rc;
}

/* The sum of the hidden states of every text in p; its direction is the mean's. */
static void read_texts(struct reader *r, struct at_pack *p, double *sum)
{
    size_t N = p->b.rows * p->b.length, C = r->m->d.C;
    struct at_run run = { .k = r->k };
    const at_real *h;
    for (size_t i = 0; i < N; i++) {
        ((int32_t *)r->ids->data)[i] = p->b.ids[i];
        ((int32_t *)r->pos->data)[i] = p->b.pos[i];
        ((int32_t *)r->first->data)[i] = p->b.first[i];
        ((int32_t *)r->part->data)[i] =
            p->b.doc[i] < 0 ? AT_PART_NONE : AT_PART_PROMPT;
    }
    if (r->type)
        memset(r->type->data, 0, N * sizeof(int32_t));
    at_plan_run(r->plan, &run);
    h = r->hidden->data;
    for (size_t i = 0; i < N; i++)
        for (size_t c = 0; c < C && p->b.doc[i] >= 0; c++)
            sum[(size_t)p->b.doc[i] * C + c] += (double)h[i * C + c];
    at_pack_empty(p);
}

static int encode(struct at_ctx *cx, const struct reader *r, const char *text,
                  size_t n, struct at_tok_ids *ids)
{
    int rc;
    ids->n = 0;
    rc = at_tok_encode(cx, r->coder, text, n, at_data_flags(r->m->tok), ids);
    if (rc == AT_OK && ids->n > r->T)
        rc = at_fail(cx, AT_EINVAL, "%s reads texts of up to %zu tokens; this "
                     "one has %zu: '%.*s'", r->m->path, r->T, ids->n,
                     n < 60 ? (int)n : 60, text);
    return rc;
}

static double cosine(const double *x, const double *y, size_t n)
{
    double xy = 0, xx = 0, yy = 0;
    for (size_t i = 0; i < n; i++) {
        xy += x[i] * y[i];
        xx += x[i] * x[i];
        yy += y[i] * y[i];
    }
    return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}

/* Text 2 i is prompt i, 2 i + 1 what was said to it; one without tokens has the
 * sum 0.                                                                     */
static int by_cosine(struct at_ctx *cx, void *impl, const struct at_said *said,
                     size_t n, double *score)
{
    struct reader *r = impl;
    size_t C = r->m->d.C;
    struct at_arena a = { 0 };
    struct at_tok_ids ids = { 0 };
    struct at_pack p;
    double *sum = at_alloc_n(cx, &a, 2 * n * C + 1, sizeof *sum);
    int rc = sum ? at_pack_create(cx, &a, ROWS, r->T, &p) : AT_ENOMEM;
    for (size_t i = 0; i < 2 * n && rc == AT_OK; i++) {
        const struct at_said *s = &said[i / 2];
        rc = i % 2 ? encode(cx, r, s->text, s->n_text, &ids)
                   : encode(cx, r, s->prompt, s->n_prompt, &ids);
        if (rc == AT_OK && !at_pack_put(&p, ids.id, ids.n)) {
            read_texts(r, &p, sum);
            at_pack_put(&p, ids.id, ids.n);
        }
    }
    if (rc == AT_OK)
        read_texts(r, &p, sum);
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        score[i] = cosine(sum + 2 * i * C, sum + (2 * i + 1) * C, C);
    at_tok_ids_finish(&ids);
    at_arena_finish(&a);
    return rc;
}

const struct at_value_kind at_value_coherence = {
    "coherence", "MODEL", "cosine",
    "how alike prompt and text are: the cosine of the mean hidden states that "
    "any model file has for each", open_reader, close_reader, by_cosine
};
