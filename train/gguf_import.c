/* A GGUF file becomes a model file, tensor by tensor. */
#include "train/gguf.h"

#include "train/hf.h"

#include <string.h>

enum { FAULTS_MAX = 20 };

struct import {
    struct at_ctx *cx;
    const char *path;
    struct at_gguf *g;
    const struct at_gguf_arch *arch;
    struct at_decoder d;
    struct at_params ps;        /* names and shapes; never sealed             */
    struct at_tok *tok;
    float *x;                   /* one param                                  */
    size_t cap;
    struct at_text faults;
    size_t n_faults;
};

static void fault(struct import *im, const char *name, const char *what)
{
    if (im->n_faults++ < FAULTS_MAX)
        at_text_addf(&im->faults, "\n  '%.100s' %s", name, what);
}

static void check_tensor(struct import *im, const struct at_param *param,
                         bool *used)
{
    struct at_gguf_place p;
    const struct at_gguf_tensor *t;
    char what[96];
    if (!at_gguf_place(im->arch, &im->d, param->val.name, &param->val.shape,
                       &p)) {
        fault(im, param->val.name, "has no name in llama.cpp");
        return;
    }
    t = at_gguf_find(im->g, p.name);
    if (!t) {
        fault(im, p.name, "is missing");
        return;
    }
    used[t - at_gguf_at(im->g, 0)] = true;
    if (p.cols)
        snprintf(what, sizeof what, "must be [%zu, %zu]", p.rows, p.cols);
    else
        snprintf(what, sizeof what, "must be [%zu]", p.rows);
    if (t->n_dims != (p.cols ? 2 : 1) || t->d[0] != p.rows ||
        (p.cols && t->d[1] != p.cols))
        fault(im, p.name, what);
    else if (t->type == AT_GGUF_OTHER)
        fault(im, p.name, "is quantised in a way that attune does not read "
              "(F32, F16, BF16, Q8_0)");
}

static int check_tensors(struct import *im)
{
    size_t n = at_gguf_count(im->g);
    bool *used = at_alloc_n(im->cx, &im->cx->run, n + 1, sizeof *used);
    int rc;
    if (!used)
        return AT_ENOMEM;
    for (size_t i = 0; i < im->ps.n; i++)
        check_tensor(im, im->ps.p[i], used);
    for (size_t i = 0; i < n; i++) {
        const char *name = at_gguf_at(im->g, i)->name;
        if (!used[i] && strcmp(name, "rope_freqs.weight") != 0)
            fault(im, name, "has no place in the model");
    }
    if (im->n_faults == 0)
        return AT_OK;
    if (im->n_faults > FAULTS_MAX)
        at_text_addf(&im->faults, "\n  and %zu more",
                     im->n_faults - FAULTS_MAX);
    rc = at_text_ok(im->cx, &im->faults);
    return rc < 0 ? rc : at_fail(im->cx, AT_EFORMAT, "its tensors are not those "
                                 "of its facts:%s", im->faults.s);
}

/* Rows that follow each other there are read together.                       */
static int read_rows(struct import *im, const struct at_gguf_tensor *t,
                     const struct at_gguf_place *p, size_t n_rows)
{
    size_t cols = p->cols ? p->cols : 1;
    int rc = AT_OK;
    for (size_t r = 0, m; r < n_rows && rc == AT_OK; r += m) {
        size_t from = at_gguf_row(p, r);
        for (m = 1; r + m < n_rows && at_gguf_row(p, r + m) == from + m; m++)
            ;
        rc = at_gguf_get(im->cx, im->g, t, from * cols, m * cols,
                         im->x + r * cols);
    }
    for (size_t i = 0; i < n_rows * cols && p->plus; i++)
        im->x[i] -= 1;
    return rc;
}

static int copy_param(struct import *im, struct at_h5 *f,
                      const struct at_param *param)
{
    const struct at_shape *shape = &param->val.shape;
    size_t n = at_shape_count(shape);
    const struct at_gguf_tensor *t;
    struct at_gguf_place p;
    char name[AT_H5_NAME];
    int rc = at_grow(im->cx, &im->x, &im->cap, n, sizeof *im->x);
    if (rc < 0)
        return rc;
    at_gguf_place(im->arch, &im->d, param->val.name, shape, &p);
    t = at_gguf_find(im->g, p.name);
    rc = read_rows(im, t, &p, shape->d[0]);
    if (rc == AT_OK && !at_all_finite(im->x, n))
        rc = at_fail(im->cx, AT_EFORMAT, "tensor '%s' holds numbers that are "
                     "not finite", t->name);
    snprintf(name, sizeof name, "params/%s", param->val.name);
    if (rc == AT_OK)
        rc = at_h5_put_weights(im->cx, f, name, t->type == AT_GGUF_BF16 ?
                               AT_H5_BF16 : AT_H5_F32, shape->n, shape->d,
                               im->x);
    return rc;
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
    struct at_h5 *f;
    int rc = at_h5_create(im->cx, out, "model", &f);
    if (rc < 0)
        return rc;
    rc = at_model_put_head(im->cx, f, &im->d, im->tok);
    if (rc == AT_OK)
        rc = keep_chat(im, f);
    for (size_t i = 0; i < im->ps.n && rc == AT_OK; i++)
        rc = copy_param(im, f, im->ps.p[i]);
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
    if (rc == AT_OK)
        rc = check_tensors(&im);
    if (rc == AT_OK && !bare)
        rc = read_tokenizer(&im);
    if (rc == AT_OK)
        rc = write_model(&im, out);
    at_gguf_close(im.g);
    at_params_finish(&im.ps);
    at_text_finish(&im.faults);
    at_free(im.x);
    return rc < 0 ? at_note(cx, rc, "importing %s", path) : AT_OK;
}
