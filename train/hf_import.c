/* A folder of Hugging Face's becomes a model file, tensor by tensor. */
#include "train/hf.h"

#include "train/hf_folder.h"
#include "train/intake.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_MAX = 64 << 20 };

struct import {
    struct at_ctx *cx;
    const char *dir;
    const struct at_hf_family *family;
    struct at_decoder d;
    struct at_params ps;        /* names and shapes; never sealed             */
    struct at_st *st;
    struct at_tok *tok;
};

static const char *in_dir(struct import *im, const char *name)
{
    return at_sprintf(im->cx, &im->cx->run, "%s/%s", im->dir, name);
}

static bool is_there(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0;
}

static int read_config(struct import *im)
{
    const char *path = in_dir(im, "config.json");
    json_t *config;
    int rc;
    if (!path)
        return AT_ENOMEM;
    rc = at_json_read(im->cx, path, FILE_MAX, &config);
    if (rc < 0)
        return rc;
    rc = at_hf_read_config(im->cx, path, config, &im->family, &im->d);
    json_decref(config);
    return rc;
}

static int read_tokenizer(struct import *im)
{
    const char *path = in_dir(im, "tokenizer.json");
    const char *config = in_dir(im, "tokenizer_config.json");
    int rc;
    if (!path || !config)
        return AT_ENOMEM;
    if (!is_there(path))
        rc = at_fail(im->cx, AT_ENOENT, "%s: is missing", path);
    else
        rc = at_tok_load_hf(im->cx, &im->cx->run, path,
                            is_there(config) ? config : NULL, &im->tok);
    if (rc == AT_OK && at_tok_size(im->tok) > im->d.V)
        rc = at_fail(im->cx, AT_EFORMAT, "%s: has %zu tokens, the model %zu",
                     path, at_tok_size(im->tok), im->d.V);
    return rc < 0 ? at_note(im->cx, rc, "reading the tokenizer, without "
                            "which import --no-tokenizer does") : AT_OK;
}

/* ---- every tensor in its place ------------------------------------------------ */

static const char *name_of(const void *self, size_t i)
{
    const struct import *im = self;
    return at_st_at(im->st, i)->name;
}

static bool ignores(const void *self, const char *name)
{
    const struct import *im = self;
    return at_hf_ignores(im->family, &im->d, name);
}

static bool find(const void *self, const struct at_param *param,
                 struct at_theirs *t)
{
    const struct import *im = self;
    const struct at_st_tensor *st;
    struct at_hf_place p;
    if (!at_hf_place(im->family, &im->d, param->val.name, &param->val.shape,
                     &p))
        return false;
    *t = (struct at_theirs){ .index = SIZE_MAX };
    t->want = p.n_dims == 1 ? at_shape1(p.rows)
              : p.turned    ? at_shape2(p.cols, p.rows)
                            : at_shape2(p.rows, p.cols);
    st = at_hf_find(im->family, im->st, p.name);
    snprintf(t->name, sizeof t->name, "%s", st ? st->name : p.name);
    if (!st)
        return true;
    t->index = (size_t)(st - at_st_at(im->st, 0));
    t->is.n = st->n_dims < AT_DIM_MAX ? st->n_dims : AT_DIM_MAX;
    memcpy(t->is.d, st->d, t->is.n * sizeof *st->d);
    t->unread = st->type == AT_ST_OTHER ? st->dtype : NULL;
    t->bf16 = st->type == AT_ST_BF16;
    return true;
}

/* Their [in,out] a piece of rows at a time.                                  */
static int read_turned(struct at_ctx *cx, const struct import *im,
                       const struct at_st_tensor *t,
                       const struct at_hf_place *p, size_t n_rows, float *x)
{
    size_t at_once = 65536 / n_rows + 1;
    float *piece = at_alloc_n(cx, &cx->scratch, at_once * n_rows,
                              sizeof *piece);
    int rc = piece ? AT_OK : AT_ENOMEM;
    for (size_t c = 0; c < p->cols && rc == AT_OK; c += at_once) {
        size_t m = p->cols - c < at_once ? p->cols - c : at_once;
        rc = at_st_get(cx, im->st, t, c * n_rows, m * n_rows, piece);
        for (size_t i = 0; i < m; i++)
            for (size_t r = 0; r < n_rows; r++)
                x[r * p->cols + c + i] = piece[i * n_rows + r];
    }
    at_arena_reset(&cx->scratch);
    return rc;
}

/* Rows that follow each other there are read together.                       */
static int read_param(struct at_ctx *cx, const void *self,
                      const struct at_param *param, float *x)
{
    const struct import *im = self;
    const struct at_shape *shape = &param->val.shape;
    const struct at_st_tensor *t;
    struct at_hf_place p;
    int rc = AT_OK;
    at_hf_place(im->family, &im->d, param->val.name, shape, &p);
    t = at_hf_find(im->family, im->st, p.name);
    if (p.turned)
        return read_turned(cx, im, t, &p, shape->d[0], x);
    for (size_t r = 0, m; r < shape->d[0] && rc == AT_OK; r += m) {
        size_t from = at_hf_row(&p, r);
        for (m = 1; r + m < shape->d[0] && at_hf_row(&p, r + m) == from + m;
             m++)
            ;
        rc = at_st_get(cx, im->st, t, from * p.cols, m * p.cols,
                       x + r * p.cols);
    }
    return rc;
}

static struct at_source source(const struct import *im)
{
    return (struct at_source){
        .n = at_st_count(im->st), .name = name_of, .ignores = ignores,
        .find = find, .read = read_param, .self = im,
        .what = "its tensors are not those of config.json",
        .types = "F32, F16 or BF16",
    };
}

/* A model that was not taught to judge may have learnt the dense layer for it. */
static int declare_dense(struct import *im)
{
    const char *path = "value.dense.weight";
    struct at_shape shape = at_shape2(im->d.C, im->d.C);
    struct at_hf_place p;
    if (im->d.value || !im->d.value_first ||
        !at_hf_place(im->family, &im->d, path, &shape, &p) ||
        !at_hf_find(im->family, im->st, p.name))
        return AT_OK;
    return at_model_declare_dense(im->cx, &im->d, &im->ps);
}

/* Says which heads stay behind.                                              */
static void say_left(const struct import *im)
{
    size_t left = 0;
    const char *one = NULL;
    for (size_t i = 0; i < at_st_count(im->st); i++)
        if (at_hf_leaves(im->family, at_st_at(im->st, i)->name)) {
            one = at_st_at(im->st, i)->name;
            left++;
        }
    if (left)
        at_log(im->cx, AT_LOG_WARN, "%zu tensors of a head that attune has no "
               "use for are left out, such as '%s'", left, one);
}

/* ---- the file --------------------------------------------------------------------- */

/* The type that most of the weights have: what an export takes unasked.      */
static enum at_st_type main_type(const struct at_st *st)
{
    double n[AT_ST_OTHER + 1] = { 0 };
    enum at_st_type best = AT_ST_F32;
    for (size_t i = 0; i < at_st_count(st); i++)
        n[at_st_at(st, i)->type] += (double)at_st_at(st, i)->n;
    for (int t = AT_ST_F32; t < AT_ST_OTHER; t++)
        if (n[t] > n[best])
            best = (enum at_st_type)t;
    return best;
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
        rc = at_h5_set_text(im->cx, f, "hf_dtype",
                            at_st_type_name(main_type(im->st)));
    if (rc == AT_OK)
        rc = at_hf_keep(im->cx, f, im->dir);
    if (rc == AT_OK)
        rc = at_intake_copy(im->cx, &from, &im->ps, f);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    return at_h5_commit(im->cx, f);
}

int at_hf_import(struct at_ctx *cx, const char *dir, const char *out,
                 bool bare)
{
    struct import im = { .cx = cx, .dir = dir };
    int rc;
    at_params_init(&im.ps, cx, &cx->plan);
    im.ps.need_grads = false;
    rc = read_config(&im);
    if (rc == AT_OK)
        rc = at_st_open(cx, &cx->run, dir, "model", &im.st);
    if (rc == AT_OK)
        rc = at_model_declare(cx, &im.d, &im.ps);
    if (rc == AT_OK)
        rc = declare_dense(&im);
    if (rc == AT_OK) {
        struct at_source from = source(&im);
        rc = at_intake_check(cx, &from, &im.ps);
    }
    if (rc == AT_OK && !bare)
        rc = read_tokenizer(&im);
    if (rc == AT_OK)
        say_left(&im);
    if (rc == AT_OK)
        rc = write_model(&im, out);
    at_st_close(im.st);
    at_params_finish(&im.ps);
    return rc < 0 ? at_note(cx, rc, "importing %s", dir) : AT_OK;
}
