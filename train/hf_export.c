/* A model becomes a folder of Hugging Face's: config.json, tokenizer files and
 * safetensors.  The folder appears whole or not at all.                      */
#include "train/hf.h"

#include "train/hf_folder.h"
#include "train/infer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint64_t shard_bytes = UINT64_C(5000000000);

struct out {                    /* a tensor of theirs                         */
    struct at_st_tensor t;
    struct at_hf_place place;   /* of the first of the params in it           */
    uint64_t n_bytes;
    size_t shard;
};

struct export {
    struct at_ctx *cx;
    const char *path;           /* of the model                               */
    const struct at_infer *in;
    struct at_certificate *c;
    const struct at_hf_family *family;
    enum at_st_type type;
    uint64_t shard_bytes;
    struct out *out;
    size_t n, n_shards;
    float *x, *dense;           /* one tensor of theirs; a sparse one of ours */
    size_t cap, dense_cap;
};

static const struct at_decoder *desc(const struct export *e)
{
    return &e->in->m->d;
}

/* The file that has what the import kept.                                    */
static struct at_h5 *source(const struct at_model *m)
{
    return m->base ? m->base : m->f;
}

/* ---- tensors ----------------------------------------------------------------- */

static struct out *find(const struct export *e, const char *name)
{
    for (size_t i = e->n; i-- > 0;)
        if (strcmp(e->out[i].t.name, name) == 0)
            return &e->out[i];
    return NULL;
}

static int place_of(const struct export *e, const struct at_param *p,
                    struct at_hf_place *place)
{
    if (at_hf_place(e->family, desc(e), p->val.name, &p->val.shape, place))
        return AT_OK;
    return at_fail(e->cx, AT_EINVAL, "'%s' has no name in the family %s",
                   p->val.name, desc(e)->family);
}

/* Theirs has no bias on a text's numbers.                                    */
static int no_bias(const struct export *e, const struct at_param *p)
{
    const at_real *b = p->val.data;
    size_t n = strcmp(p->val.name, "value.bias") == 0
                   ? at_shape_count(&p->val.shape) : 0;
    for (size_t i = 0; i < n; i++)
        if (b[i] != 0)
            return at_fail(e->cx, AT_EINVAL, "%s was trained to %g, and the "
                           "family %s has no bias there: it cannot be exported",
                           p->val.name, (double)b[i], desc(e)->family);
    return AT_OK;
}

/* Whether a param goes into a tensor of theirs.                               */
static bool goes(const struct export *e, const struct at_param *p)
{
    return !at_adapter_owns(p->val.name) &&
           (desc(e)->both || strcmp(p->val.name, "value.bias") != 0);
}

/* Params that share a tensor of theirs follow each other closely.            */
static int list_tensors(struct export *e)
{
    const struct at_params *ps = &e->in->ps;
    e->out = at_alloc_n(e->cx, &e->cx->run, ps->n, sizeof *e->out);
    if (!e->out)
        return AT_ENOMEM;
    for (size_t i = 0; i < ps->n; i++) {
        struct out *o = &e->out[e->n];
        int rc;
        if (!goes(e, ps->p[i])) {
            rc = no_bias(e, ps->p[i]);
            if (rc < 0)
                return rc;
            continue;
        }
        rc = place_of(e, ps->p[i], &o->place);
        if (rc < 0)
            return rc;
        if (find(e, o->place.name))
            continue;
        o->t.name = o->place.name;
        o->t.n_dims = o->place.n_dims;
        o->t.d[0] = o->place.turned ? o->place.cols : o->place.rows;
        o->t.d[1] = o->place.turned ? o->place.rows : o->place.cols;
        o->n_bytes = (uint64_t)o->place.rows * o->place.cols *
                     at_st_type_size(e->type);
        e->n++;
    }
    return AT_OK;
}

static void cut_shards(struct export *e)
{
    uint64_t at = 0;
    e->n_shards = e->n > 0;
    for (size_t i = 0; i < e->n; i++) {
        if (at > 0 && at + e->out[i].n_bytes > e->shard_bytes) {
            e->n_shards++;
            at = 0;
        }
        at += e->out[i].n_bytes;
        e->out[i].shard = e->n_shards - 1;
    }
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

/* Ours into their rows of e->x.                                              */
static void lay_param(struct export *e, const struct at_hf_place *p,
                      const struct at_param *param)
{
    const float *w = param->val.sparse ? e->dense : param->val.data;
    size_t n_rows = param->val.shape.d[0];
    for (size_t r = 0; r < n_rows; r++) {
        size_t to = at_hf_row(p, r);
        if (!p->turned)
            memcpy(e->x + to * p->cols, w + r * p->cols,
                   p->cols * sizeof *w);
        for (size_t c = 0; p->turned && c < p->cols; c++)
            e->x[c * p->rows + to] = w[r * p->cols + c];
    }
}

static int put_tensor(struct export *e, struct at_st_writer *w,
                      const struct out *o)
{
    const struct at_params *ps = &e->in->ps;
    size_t n = o->place.rows * o->place.cols, laid = 0;
    int rc = at_grow(e->cx, &e->x, &e->cap, n, sizeof *e->x);
    for (size_t i = 0; i < ps->n && rc == AT_OK; i++) {
        struct at_hf_place p;
        if (!goes(e, ps->p[i]))
            continue;
        rc = place_of(e, ps->p[i], &p);
        if (rc < 0 || strcmp(p.name, o->t.name) != 0)
            continue;
        rc = make_dense(e, &ps->p[i]->val);
        if (rc < 0)
            return rc;
        lay_param(e, &p, ps->p[i]);
        laid += at_shape_count(&ps->p[i]->val.shape);
    }
    if (rc == AT_OK && laid != n)
        rc = at_fail(e->cx, AT_EINVAL, "tensor '%s' would have holes",
                     o->t.name);
    return rc == AT_OK ? at_st_put(e->cx, w, e->x, n) : rc;
}

static const char *shard_name(struct export *e, size_t shard)
{
    if (e->n_shards == 1)
        return "model.safetensors";
    return at_sprintf(e->cx, &e->cx->run, "model-%05zu-of-%05zu.safetensors",
                      shard + 1, e->n_shards);
}

static int write_shard(struct export *e, const char *dir, size_t shard)
{
    struct at_st_tensor *t = at_alloc_n(e->cx, &e->cx->run, e->n, sizeof *t);
    const char *name = shard_name(e, shard), *path;
    struct at_st_writer *w;
    size_t n = 0;
    int rc;
    path = name ? at_sprintf(e->cx, &e->cx->run, "%s/%s", dir, name) : NULL;
    if (!t || !path)
        return AT_ENOMEM;
    for (size_t i = 0; i < e->n; i++)
        if (e->out[i].shard == shard)
            t[n++] = e->out[i].t;
    rc = at_st_create(e->cx, &e->cx->run, path, e->type, t, n, &w);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < e->n && rc == AT_OK; i++)
        if (e->out[i].shard == shard)
            rc = put_tensor(e, w, &e->out[i]);
    if (rc < 0) {
        at_st_abandon(w);
        return rc;
    }
    return at_st_commit(e->cx, w);
}

static int write_index(struct export *e, const char *dir)
{
    json_t *map = json_object(), *root;
    uint64_t total = 0;
    int bad = 0;
    for (size_t i = 0; i < e->n; i++) {
        total += e->out[i].n_bytes;
        bad |= json_object_set_new(map, e->out[i].t.name, json_string(
                                   shard_name(e, e->out[i].shard)));
    }
    root = json_pack("{s:{s:I},s:o}", "metadata", "total_size",
                     (json_int_t)total, "weight_map", map);
    if (bad || !root) {
        json_decref(root);
        return at_fail(e->cx, AT_ENOMEM, "out of memory");
    }
    return at_hf_put_json(e->cx, dir, "model.safetensors.index.json", root);
}

static int write_weights(struct export *e, const char *dir)
{
    int rc = list_tensors(e);
    if (rc < 0)
        return rc;
    cut_shards(e);
    for (size_t i = 0; i < e->n_shards && rc == AT_OK; i++)
        rc = write_shard(e, dir, i);
    return rc == AT_OK && e->n_shards > 1 ? write_index(e, dir) : rc;
}

/* ---- the other files ------------------------------------------------------------ */

static int set_ids(struct export *e, json_t *config)
{
    const struct at_tok *tok = e->in->m->tok;
    const struct { const char *key; int32_t id; } ends[] = {
        { "bos_token_id", tok ? at_tok_bos(tok) : AT_TOK_NONE },
        { "eos_token_id", tok ? at_tok_eos(tok) : AT_TOK_NONE },
        { "pad_token_id", tok ? at_tok_pad(tok) : AT_TOK_NONE },
    };
    int bad = 0;
    for (size_t i = 0; i < AT_COUNT(ends); i++)
        bad |= json_object_set_new(config, ends[i].key,
                                   ends[i].id < 0 ? json_null()
                                                  : json_integer(ends[i].id));
    return bad ? at_fail(e->cx, AT_ENOMEM, "out of memory") : AT_OK;
}

/* The kept one with the type of the weights, or one of the description.      */
static int write_config(struct export *e, const char *dir)
{
    json_t *config;
    int rc = at_hf_kept_json(e->cx, source(e->in->m), "config.json", &config);
    if (rc == AT_OK && !config) {
        rc = at_hf_make_config(e->cx, e->family, desc(e), &config);
        if (rc == AT_OK && (rc = set_ids(e, config)) < 0)
            json_decref(config);
    }
    if (rc == AT_OK && desc(e)->value &&
        (rc = at_hf_put_labels(e->cx, e->family, desc(e), config)) < 0)
        json_decref(config);
    if (rc < 0)
        return rc;
    json_object_set_new(config, json_object_get(config, "dtype")
                                    ? "dtype" : "torch_dtype",
                        json_string(at_st_type_name(e->type)));
    return at_hf_put_json(e->cx, dir, "config.json", config);
}

static int write_made_tokenizer(struct export *e, const char *dir)
{
    struct at_text json = { 0 }, config = { 0 };
    int rc = at_tok_hf_text(e->cx, e->in->m->tok, &json, &config);
    if (rc == AT_OK)
        rc = at_hf_put(e->cx, dir, "tokenizer.json", json.s, json.n);
    if (rc == AT_OK)
        rc = at_hf_put(e->cx, dir, "tokenizer_config.json", config.s,
                       config.n);
    at_text_finish(&json);
    at_text_finish(&config);
    return rc;
}

static int write_files(struct export *e, const char *dir)
{
    struct at_h5 *f = source(e->in->m);
    bool tokenizer;
    int rc = write_config(e, dir);
    if (rc == AT_OK)
        rc = at_hf_put_kept(e->cx, f, dir, &tokenizer);
    if (rc < 0 || tokenizer || !e->in->m->tok)
        return rc;
    if (strcmp(at_tok_kind(e->in->m->tok), "byte_bpe") == 0)
        return write_made_tokenizer(e, dir);
    at_log(e->cx, AT_LOG_WARN, "the tokenizer (%s) has no form in "
           "tokenizer.json: the folder has none", at_tok_kind(e->in->m->tok));
    return AT_OK;
}

/* ---- all --------------------------------------------------------------------------- */

static int choose_type(struct export *e, const char *dtype)
{
    struct at_h5 *f = source(e->in->m);
    const char *kept = "float32";
    int rc = AT_OK;
    if (!dtype && at_h5_has_fact(f, "hf_dtype"))
        rc = at_h5_get_text(e->cx, f, "hf_dtype", &e->cx->run, &kept);
    return rc == AT_OK ? at_st_type_find(e->cx, dtype ? dtype : kept, &e->type)
                       : rc;
}

static bool has_tokenizer(struct at_ctx *cx, const char *dir)
{
    const char *path = at_sprintf(cx, &cx->scratch, "%s/tokenizer.json", dir);
    return path && access(path, R_OK) == 0;
}

static int read_back(struct at_ctx *cx, const void *self, const char *made,
                     const char *out)
{
    (void)self;
    return at_hf_import(cx, made, out, !has_tokenizer(cx, made));
}

static int write_folder(struct at_ctx *cx, void *self, const char *dir)
{
    struct export *e = self;
    int rc = write_weights(e, dir);
    (void)cx;
    if (rc == AT_OK)
        rc = write_files(e, dir);
    /* What judges or only reads has no logits to compare.                    */
    if (rc < 0 || desc(e)->value || desc(e)->both)
        return rc;
    return at_hf_certify(cx, &(struct at_read_back){
        e->path, dir, read_back, NULL, has_tokenizer(cx, dir), 0 }, e->type,
        e->c);
}

int at_hf_export(struct at_ctx *cx, const char *path, const char *dir,
                 const struct at_hf_out *o, struct at_certificate *c)
{
    struct export e = {
        .cx = cx, .path = path, .c = c,
        .shard_bytes = o->shard_bytes ? o->shard_bytes : shard_bytes,
    };
    struct at_infer *in;
    double largest;
    bool same;
    int rc = at_hf_check_dir(cx, dir);
    *c = (struct at_certificate){ 0 };
    if (rc == AT_OK)
        rc = at_infer_open_to_merge(cx, path, &in);
    if (rc < 0)
        return rc;
    e.in = in;
    rc = at_adapters_can_merge(cx, &in->m->adapters);
    if (rc == AT_OK && in->m->adapters.n && !o->merge)
        rc = at_fail(cx, AT_EINVAL, "%s is an adapter: add --merge, or export "
                     "it by itself with --format peft", path);
    if (rc == AT_OK && (in->m->d.no_attn || in->m->d.no_mlp))
        rc = at_fail(cx, AT_EINVAL, "%s: some of its layers have no attention "
                     "or no mlp, which no family of transformers can say; only "
                     "whole layers may be dropped", path);
    if (rc == AT_OK)
        rc = at_hf_family(cx, &in->m->d, &e.family);
    if (rc == AT_OK)
        rc = choose_type(&e, o->dtype);
    if (rc == AT_OK)
        rc = at_infer_merge(cx, in, &largest, &same);
    if (rc == AT_OK)
        rc = at_hf_make_dir(cx, dir, write_folder, &e);
    at_infer_close(in);
    at_free(e.x);
    at_free(e.dense);
    return rc < 0 ? at_note(cx, rc, "exporting %s", path) : AT_OK;
}
