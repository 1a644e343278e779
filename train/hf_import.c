/* A folder of Hugging Face's becomes a model file, tensor by tensor. */
#include "train/hf.h"

#include "train/hf_folder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_MAX = 64 << 20, FAULTS_MAX = 20 };

struct import {
    struct at_ctx *cx;
    const char *dir;
    const struct at_hf_family *family;
    struct at_decoder d;
    struct at_params ps;        /* names and shapes; never sealed             */
    struct at_st *st;
    struct at_tok *tok;
    float *x;                   /* one param                                  */
    size_t cap;
    struct at_text faults;
    size_t n_faults;
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

static void fault(struct import *im, const char *fmt, const char *name,
                  const char *a, const char *b)
{
    if (im->n_faults++ < FAULTS_MAX) {
        at_text_addf(&im->faults, "\n  ");
        at_text_addf(&im->faults, "'%.200s' ", name);
        at_text_addf(&im->faults, "%s%s%s%s", fmt, a, *b ? ", not " : "", b);
    }
}

static struct at_shape their_shape(const struct at_hf_place *p)
{
    if (p->n_dims == 1)
        return at_shape1(p->rows);
    return p->turned ? at_shape2(p->cols, p->rows)
                     : at_shape2(p->rows, p->cols);
}

static void check_tensor(struct import *im, const struct at_param *param,
                         bool *used)
{
    struct at_hf_place p;
    const struct at_st_tensor *t = NULL;
    struct at_shape want;
    char a[96], b[96];
    if (!at_hf_place(im->family, &im->d, param->val.name, &param->val.shape,
                     &p)) {
        fault(im, "has no name in the family", param->val.name, "", "");
        return;
    }
    want = their_shape(&p);
    t = at_hf_find(im->family, im->st, p.name);
    at_shape_text(a, &want);
    if (!t) {
        fault(im, "is missing; it must be ", p.name, a, "");
        return;
    }
    used[t - at_st_at(im->st, 0)] = true;
    if (t->n_dims != want.n || memcmp(t->d, want.d, want.n * sizeof *t->d)) {
        struct at_shape is = { t->n_dims < 4 ? t->n_dims : 4, { 0 } };
        memcpy(is.d, t->d, is.n * sizeof *t->d);
        fault(im, "must be ", t->name, a, at_shape_text(b, &is));
    } else if (t->type == AT_ST_OTHER) {
        fault(im, "must be F32, F16 or BF16", t->name, "", t->dtype);
    }
}

static int check_tensors(struct import *im)
{
    size_t n = at_st_count(im->st);
    bool *used = at_alloc_n(im->cx, &im->cx->run, n + 1, sizeof *used);
    int rc;
    if (!used)
        return AT_ENOMEM;
    for (size_t i = 0; i < im->ps.n; i++)
        check_tensor(im, im->ps.p[i], used);
    for (size_t i = 0; i < n; i++) {
        const char *name = at_st_at(im->st, i)->name;
        if (!used[i] && !at_hf_ignores(im->family, &im->d, name))
            fault(im, "has no place in the model", name, "", "");
    }
    if (im->n_faults == 0)
        return AT_OK;
    if (im->n_faults > FAULTS_MAX)
        at_text_addf(&im->faults, "\n  and %zu more",
                     im->n_faults - FAULTS_MAX);
    rc = at_text_ok(im->cx, &im->faults);
    return rc < 0 ? rc : at_fail(im->cx, AT_EFORMAT, "%s: its tensors are not "
                                 "those of config.json:%s", im->dir,
                                 im->faults.s);
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

/* ---- copying -------------------------------------------------------------------- */

/* Their [in,out] a piece of rows at a time.                                  */
static int read_turned(struct import *im, const struct at_st_tensor *t,
                       const struct at_hf_place *p, size_t n_rows)
{
    size_t at_once = 65536 / n_rows + 1;
    float *piece = at_alloc_n(im->cx, &im->cx->scratch, at_once * n_rows,
                              sizeof *piece);
    int rc = piece ? AT_OK : AT_ENOMEM;
    for (size_t c = 0; c < p->cols && rc == AT_OK; c += at_once) {
        size_t m = p->cols - c < at_once ? p->cols - c : at_once;
        rc = at_st_get(im->cx, im->st, t, c * n_rows, m * n_rows, piece);
        for (size_t i = 0; i < m; i++)
            for (size_t r = 0; r < n_rows; r++)
                im->x[r * p->cols + c + i] = piece[i * n_rows + r];
    }
    at_arena_reset(&im->cx->scratch);
    return rc;
}

/* Rows that follow each other there are read together.                       */
static int read_rows(struct import *im, const struct at_st_tensor *t,
                     const struct at_hf_place *p, size_t n_rows)
{
    int rc = AT_OK;
    for (size_t r = 0, m; r < n_rows && rc == AT_OK; r += m) {
        size_t from = at_hf_row(p, r);
        for (m = 1; r + m < n_rows && at_hf_row(p, r + m) == from + m; m++)
            ;
        rc = at_st_get(im->cx, im->st, t, from * p->cols, m * p->cols,
                       im->x + r * p->cols);
    }
    return rc;
}

static int copy_param(struct import *im, struct at_h5 *f,
                      const struct at_param *param)
{
    const struct at_shape *shape = &param->val.shape;
    size_t n = at_shape_count(shape);
    const struct at_st_tensor *t;
    struct at_hf_place p;
    char name[AT_H5_NAME];
    int rc = at_grow(im->cx, &im->x, &im->cap, n, sizeof *im->x);
    if (rc < 0)
        return rc;
    at_hf_place(im->family, &im->d, param->val.name, shape, &p);
    t = at_hf_find(im->family, im->st, p.name);
    rc = p.turned ? read_turned(im, t, &p, shape->d[0])
                  : read_rows(im, t, &p, shape->d[0]);
    if (rc == AT_OK && !at_all_finite(im->x, n))
        rc = at_fail(im->cx, AT_EFORMAT, "%s: tensor '%s' holds numbers that "
                     "are not finite", im->dir, t->name);
    snprintf(name, sizeof name, "params/%s", param->val.name);
    if (rc == AT_OK)
        rc = at_h5_put_weights(im->cx, f, name, t->type == AT_ST_BF16 ?
                               AT_H5_BF16 : AT_H5_F32, shape->n, shape->d,
                               im->x);
    return rc;
}

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
    for (size_t i = 0; i < im->ps.n && rc == AT_OK; i++)
        rc = copy_param(im, f, im->ps.p[i]);
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
    if (rc == AT_OK)
        rc = check_tensors(&im);
    if (rc == AT_OK && !bare)
        rc = read_tokenizer(&im);
    if (rc == AT_OK)
        say_left(&im);
    if (rc == AT_OK)
        rc = write_model(&im, out);
    at_st_close(im.st);
    at_params_finish(&im.ps);
    at_text_finish(&im.faults);
    at_free(im.x);
    return rc < 0 ? at_note(cx, rc, "importing %s", dir) : AT_OK;
}
