/* A GGUF file becomes a model file, tensor by tensor. */
#include "train/gguf.h"

#include "train/hf.h"
#include "train/intake.h"

#include <string.h>

struct import {
    struct at_ctx *cx;
    const char *path;
    struct at_gguf *g;
    const struct at_gguf_arch *arch;
    struct at_decoder d;
    struct at_params ps;        /* names and shapes; never sealed             */
    struct at_tok *tok;
};

static const char *name_of(const void *self, size_t i)
{
    const struct import *im = self;
    return at_gguf_at(im->g, i)->name;
}

static bool ignores(const void *self, const char *name)
{
    (void)self;
    return strcmp(name, "rope_freqs.weight") == 0;
}

static bool find(const void *self, const struct at_param *param,
                 struct at_theirs *t)
{
    const struct import *im = self;
    const struct at_gguf_tensor *g;
    struct at_gguf_place p;
    if (!at_gguf_place(im->arch, &im->d, param->val.name, &param->val.shape,
                       &p))
        return false;
    *t = (struct at_theirs){ .index = SIZE_MAX };
    t->want = p.cols ? at_shape2(p.rows, p.cols) : at_shape1(p.rows);
    snprintf(t->name, sizeof t->name, "%s", p.name);
    g = at_gguf_find(im->g, p.name);
    if (!g)
        return true;
    t->index = (size_t)(g - at_gguf_at(im->g, 0));
    t->is.n = g->n_dims;
    memcpy(t->is.d, g->d, g->n_dims * sizeof *g->d);
    t->unread = g->type == AT_GGUF_OTHER ? "otherwise quantised" : NULL;
    t->bf16 = g->type == AT_GGUF_BF16;
    return true;
}

/* Rows that follow each other there are read together.                       */
static int read_param(struct at_ctx *cx, const void *self,
                      const struct at_param *param, float *x)
{
    const struct import *im = self;
    const struct at_shape *shape = &param->val.shape;
    const struct at_gguf_tensor *t;
    struct at_gguf_place p;
    size_t cols;
    int rc = AT_OK;
    at_gguf_place(im->arch, &im->d, param->val.name, shape, &p);
    t = at_gguf_find(im->g, p.name);
    cols = p.cols ? p.cols : 1;
    for (size_t r = 0, m; r < shape->d[0] && rc == AT_OK; r += m) {
        size_t from = at_gguf_row(&p, r);
        for (m = 1; r + m < shape->d[0] && at_gguf_row(&p, r + m) == from + m;
             m++)
            ;
        rc = at_gguf_get(cx, im->g, t, from * cols, m * cols, x + r * cols);
    }
    for (size_t i = 0; i < shape->d[0] * cols && p.plus; i++)
        x[i] -= 1;
    return rc;
}

static struct at_source source(const struct import *im)
{
    return (struct at_source){
        .n = at_gguf_count(im->g), .name = name_of, .ignores = ignores,
        .find = find, .read = read_param, .self = im,
        .what = "its tensors are not those of its facts",
        .types = "F32, F16, BF16 or Q8_0",
    };
}

/* Where an import from Hugging Face would have kept it.                      */
static int keep_chat(struct import *im, struct at_h5 *f)
{
    const struct at_gguf_fact *c = at_gguf_fact(im->g,
                                                "tokenizer.chat_template");
    if (!c || c->kind != AT_GGUF_TEXT || c->text.n == 0)
        return AT_OK;
    return at_h5_put_bytes(im->cx, f, AT_HF_KEPT "chat_template.jinja",
                           c->text.s, c->text.n);
}

static int write_model(struct import *im, const char *out)
{
    struct at_source from = source(im);
    struct at_h5 *f;
    int rc = at_h5_create(im->cx, out, "model", &f);
    if (rc < 0)
        return rc;
    rc = at_model_put_head(im->cx, f, &im->d, im->tok);
    if (rc == AT_OK)
        rc = keep_chat(im, f);
    if (rc == AT_OK)
        rc = at_intake_copy(im->cx, &from, &im->ps, f);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    return at_h5_commit(im->cx, f);
}

static int read_tokenizer(struct import *im)
{
    int rc = at_tok_load_gguf(im->cx, &im->cx->run, im->g, &im->tok);
    if (rc == AT_OK && at_tok_size(im->tok) > im->d.V)
        rc = at_fail(im->cx, AT_EFORMAT, "the tokenizer has %zu tokens, the "
                     "model %zu", at_tok_size(im->tok), im->d.V);
    return rc < 0 ? at_note(im->cx, rc, "reading the tokenizer, without "
                            "which import --no-tokenizer does") : AT_OK;
}

int at_gguf_import(struct at_ctx *cx, const char *path, const char *out,
                   bool bare)
{
    struct import im = { .cx = cx, .path = path };
    int rc = at_gguf_open(cx, &cx->run, path, &im.g);
    if (rc < 0)
        return rc;
    at_params_init(&im.ps, cx, &cx->plan);
    im.ps.need_grads = false;
    rc = at_gguf_read_facts(cx, im.g, &im.arch, &im.d);
    if (rc == AT_OK)
        rc = at_model_declare(cx, &im.d, &im.ps);
    if (rc == AT_OK) {
        struct at_source from = source(&im);
        rc = at_intake_check(cx, &from, &im.ps);
    }
    if (rc == AT_OK && !bare)
        rc = read_tokenizer(&im);
    if (rc == AT_OK)
        rc = write_model(&im, out);
    at_gguf_close(im.g);
    at_params_finish(&im.ps);
    return rc < 0 ? at_note(cx, rc, "importing %s", path) : AT_OK;
}
