/* A model becomes a GGUF file, which is read back before it appears. */
#include "train/gguf.h"

#include "train/chat_choice.h"
#include "train/infer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct out {                    /* a tensor of theirs                         */
    struct at_gguf_place place; /* of the first of the params in it           */
    enum at_gguf_type type;
};

struct export {
    struct at_ctx *cx;
    const struct at_infer *in;
    const struct at_gguf_arch *arch;
    enum at_gguf_type type;
    struct out *out;
    size_t n, unfit;            /* unfit: rows that are no whole blocks       */
    float *x, *dense;           /* one tensor of theirs; a sparse one of ours */
    size_t cap, dense_cap;
};

static const struct at_decoder *desc(const struct export *e)
{
    return &e->in->m->d;
}

/* ---- tensors ----------------------------------------------------------------- */

static int place_of(const struct export *e, const struct at_param *p,
                    struct at_gguf_place *place)
{
    if (at_gguf_place(e->arch, desc(e), p->val.name, &p->val.shape, place))
        return AT_OK;
    return at_fail(e->cx, AT_EINVAL, "'%s' has no name in llama.cpp",
                   p->val.name);
}

/* llama.cpp wants vectors and positions in float32.                          */
static enum at_gguf_type type_of(struct export *e,
                                 const struct at_gguf_place *p)
{
    if (p->cols == 0 || strncmp(p->name, "position_", 9) == 0)
        return AT_GGUF_F32;
    if (e->type != AT_GGUF_Q8_0 || p->cols % 32 == 0)
        return e->type;
    e->unfit++;
    return AT_GGUF_F16;
}

static int declare(struct export *e, struct at_gguf_out *w,
                   const struct at_gguf_place *p)
{
    size_t d[2] = { p->rows, p->cols };
    struct out *o = &e->out[e->n];
    for (size_t i = 0; i < e->n; i++)
        if (strcmp(e->out[i].place.name, p->name) == 0)
            return AT_OK;
    *o = (struct out){ *p, type_of(e, p) };
    e->n++;
    return at_gguf_tensor(e->cx, w, p->name, o->type, p->cols ? 2 : 1, d);
}

static int list_tensors(struct export *e, struct at_gguf_out *w)
{
    const struct at_params *ps = &e->in->ps;
    size_t half = desc(e)->K / 2;
    int rc = AT_OK;
    e->out = at_alloc_n(e->cx, &e->cx->run, ps->n + 1, sizeof *e->out);
    if (!e->out)
        return AT_ENOMEM;
    for (size_t i = 0; i < ps->n && rc == AT_OK; i++) {
        struct at_gguf_place p;
        if (at_adapter_owns(ps->p[i]->val.name))
            continue;
        rc = place_of(e, ps->p[i], &p);
        if (rc == AT_OK)
            rc = declare(e, w, &p);
    }
    if (rc == AT_OK && desc(e)->scaling == AT_SCALING_LLAMA3)
        rc = at_gguf_tensor(e->cx, w, "rope_freqs.weight", AT_GGUF_F32, 1,
                            &half);
    return rc;
}

static int make_dense(struct export *e, const struct at_val *v)
{
    int rc = AT_OK;
    if (v->sparse)
        rc = at_grow(e->cx, &e->dense, &e->dense_cap, at_shape_count(&v->shape),
                     sizeof *e->dense);
    if (v->sparse && rc == AT_OK)
        at_sparse_fill(v->sparse, e->dense, v->data);
    return rc;
}

static void lay_param(struct export *e, const struct at_gguf_place *p,
                      const struct at_param *param)
{
    const float *w = param->val.sparse ? e->dense : param->val.data;
    size_t cols = p->cols ? p->cols : 1;
    for (size_t r = 0; r < param->val.shape.d[0]; r++) {
        float *to = e->x + at_gguf_row(p, r) * cols;
        for (size_t c = 0; c < cols; c++)
            to[c] = w[r * cols + c] + (p->plus ? 1 : 0);
    }
}

static int put_tensor(struct export *e, struct at_gguf_out *w,
                      const struct out *o)
{
    const struct at_params *ps = &e->in->ps;
    size_t n = o->place.rows * (o->place.cols ? o->place.cols : 1), laid = 0;
    int rc = at_grow(e->cx, &e->x, &e->cap, n, sizeof *e->x);
    for (size_t i = 0; i < ps->n && rc == AT_OK; i++) {
        struct at_gguf_place p;
        if (at_adapter_owns(ps->p[i]->val.name))
            continue;
        rc = place_of(e, ps->p[i], &p);
        if (rc < 0 || strcmp(p.name, o->place.name) != 0)
            continue;
        rc = make_dense(e, &ps->p[i]->val);
        if (rc == AT_OK)
            lay_param(e, &p, ps->p[i]);
        laid += at_shape_count(&ps->p[i]->val.shape);
    }
    if (rc == AT_OK && laid != n)
        rc = at_fail(e->cx, AT_EINVAL, "tensor '%s' would have holes",
                     o->place.name);
    return rc == AT_OK ? at_gguf_put(e->cx, w, e->x, n) : rc;
}

static int put_slowing(struct export *e, struct at_gguf_out *w)
{
    size_t half = desc(e)->K / 2;
    int rc = at_grow(e->cx, &e->x, &e->cap, half, sizeof *e->x);
    for (size_t i = 0; i < half && rc == AT_OK; i++)
        e->x[i] = (float)at_decoder_slowing(desc(e), i);
    return rc == AT_OK ? at_gguf_put(e->cx, w, e->x, half) : rc;
}

/* ---- the file -------------------------------------------------------------------- */

/* LLAMA_FTYPE of llama.cpp.                                                  */
static uint32_t file_type(enum at_gguf_type t)
{
    return t == AT_GGUF_F32 ? 0 : t == AT_GGUF_F16 ? 1 : t == AT_GGUF_Q8_0 ? 7
                                                                           : 32;
}

static int put_facts(struct export *e, struct at_gguf_out *w)
{
    const struct at_model *m = e->in->m;
    const char *chat;
    int rc = at_chat_own(e->cx, m->base ? m->base : m->f, &chat);
    at_gguf_put_facts(e->arch, &m->d, w);
    at_gguf_text(w, "general.name", m->d.family, strlen(m->d.family));
    at_gguf_u32(w, "general.file_type", file_type(e->type));
    at_gguf_u32(w, "general.quantization_version", 2);
    if (rc == AT_OK && m->tok)
        rc = at_tok_put_gguf(e->cx, m->tok, m->d.V, w);
    else
        at_gguf_text(w, "tokenizer.ggml.model", "none", 4);
    if (rc == AT_OK && chat)
        at_gguf_text(w, "tokenizer.chat_template", chat, strlen(chat));
    return rc;
}

static int write_file(struct export *e, const char *path)
{
    struct at_gguf_out *w;
    int rc = at_gguf_create(e->cx, &e->cx->run, path, &w);
    if (rc < 0)
        return rc;
    rc = put_facts(e, w);
    if (rc == AT_OK)
        rc = list_tensors(e, w);
    if (rc == AT_OK)
        rc = at_gguf_start(e->cx, w);
    for (size_t i = 0; i < e->n && rc == AT_OK; i++)
        rc = put_tensor(e, w, &e->out[i]);
    if (rc == AT_OK && desc(e)->scaling == AT_SCALING_LLAMA3)
        rc = put_slowing(e, w);
    if (rc < 0) {
        at_gguf_abandon(w);
        return rc;
    }
    return at_gguf_commit(e->cx, w);
}

static int check(struct export *e, const char *path, bool merge)
{
    struct at_ctx *cx = e->cx;
    int rc = at_adapters_can_merge(cx, &e->in->m->adapters);
    if (rc < 0)
        return rc;
    if (e->in->m->adapters.n && !merge)
        return at_fail(cx, AT_EINVAL, "%s is an adapter: add --merge, for a "
                       "GGUF file holds a whole model", path);
    if (!e->in->m->tok)
        at_log(cx, AT_LOG_WARN, "%s has no tokenizer: llama.cpp will take ids "
               "only", path);
    if (strcmp(desc(e)->family, "mistral") == 0 && desc(e)->window &&
        desc(e)->window < desc(e)->P)
        at_log(cx, AT_LOG_WARN, "llama.cpp knows no window in this "
               "architecture: texts beyond %zu tokens will be read otherwise",
               desc(e)->window);
    return at_gguf_arch_of(cx, desc(e), &e->arch);
}

/* What may be lost to the type, in nats.                                     */
static double kl_most(enum at_gguf_type t)
{
    return t == AT_GGUF_F32 ? 1e-6 : t == AT_GGUF_Q8_0 ? 0.05 : 0.01;
}

static int read_back(struct at_ctx *cx, const void *self, const char *made,
                     const char *out)
{
    const struct export *e = self;
    return at_gguf_import(cx, made, out, e->in->m->tok == NULL);
}

int at_gguf_export(struct at_ctx *cx, const char *path, const char *out,
                   const struct at_gguf_how *how, struct at_certificate *c)
{
    struct export e = { .cx = cx };
    const char *part = at_sprintf(cx, &cx->run, "%s.part", out);
    const char *note = at_sprintf(cx, &cx->run, "%s.certificate.json", out);
    struct at_infer *in;
    double largest;
    bool same;
    int rc = part && note ? at_gguf_type_find(cx, how->dtype ? how->dtype
                                                             : "float16",
                                              &e.type) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_file_ours(cx, out, "GGUF", 4);
    if (rc == AT_OK)
        rc = at_infer_open_to_merge(cx, path, &in);
    if (rc < 0)
        return rc;
    e.in = in;
    rc = check(&e, path, how->merge);
    if (rc == AT_OK)
        rc = at_infer_merge(cx, in, &largest, &same);
    if (rc == AT_OK)
        rc = write_file(&e, part);
    if (rc == AT_OK)
        rc = at_certify_back(cx, &(struct at_read_back){
            path, part, read_back, &e, true, kl_most(e.type) }, c);
    if (rc == AT_OK && e.unfit)
        at_log(cx, AT_LOG_WARN, "%zu tensors have rows of other than whole "
               "blocks of 32: they are float16", e.unfit);
    if (rc == AT_OK) {          /* an older certificate is not of this file   */
        unlink(note);
        rc = at_file_commit(cx, part, out);
    } else if (part) {
        unlink(part);
    }
    if (rc == AT_OK)
        rc = at_certificate_write(cx, c, path, at_gguf_type_name(e.type), note);
    at_infer_close(in);
    at_free(e.x);
    at_free(e.dense);
    return rc < 0 ? at_note(cx, rc, "exporting %s", path) : AT_OK;
}
