/* Reading and writing models. */
#include "train/model_file.h"

#include "train/adapter_file.h"
#include "train/sparse_file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The description's numbers, by the names they have in files.                */
#define INTS(X)                                                          \
    X(vocab, V, size_t) X(dim, C, size_t) X(layers, L, size_t)           \
    X(heads, H, size_t) X(kv_heads, G, size_t) X(head_size, K, size_t)   \
    X(ff, F, size_t) X(max_length, P, size_t) X(norm, norm, enum at_norm) \
    X(act, act, enum at_act) X(gated, gated, bool) X(pos, pos, enum at_pos) \
    X(rope_half, rope_half, bool) X(qkv_fused, qkv_fused, bool)          \
    X(tied, tied, bool)

/* What families added later; a file that does not say has the zero.          */
#define MORE_INTS(X)                                                     \
    X(biases, bias, unsigned) X(norm_place, norm_place, enum at_norm_place) \
    X(norm_plus, norm_plus, bool) X(qk_norm, qk_norm, enum at_qk_norm)   \
    X(parallel, parallel, bool) X(rotary, rotary, size_t)                \
    X(scaling, scaling, enum at_scaling) X(scale_from, scale_from, size_t) \
    X(window, window, size_t) X(full_every, full_every, size_t)          \
    X(value, value, size_t) X(value_plain, value_plain, bool)            \
    X(value_first, value_first, bool) X(value_act, value_act, enum at_act) \
    X(value_open, value_open, bool)                                      \
    X(problem, problem, enum at_problem) X(both, both, bool)             \
    X(types, types, size_t) X(embed_norm, embed_norm, bool)              \
    X(pos_from, pos_from, size_t)
#define MORE_REALS(X)                                                    \
    X(rope_local) X(scale_factor) X(scale_low) X(scale_high)             \
    X(attn_scale) X(embed_scale)

/* Layers without a branch, as "3 5"; a model that has all does not say.      */
static int put_dropped(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       const bool *no, size_t L)
{
    struct at_text t = { 0 };
    int rc = AT_OK;
    for (size_t i = 0; no && i < L; i++)
        if (no[i])
            at_text_addf(&t, "%s%zu", t.n ? " " : "", i);
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK && t.n)
        rc = at_h5_set_text(cx, f, name, t.s);
    at_text_finish(&t);
    return rc;
}

static int get_dropped(struct at_ctx *cx, struct at_h5 *f, struct at_arena *a,
                       const char *name, const struct at_decoder *d,
                       const bool **no)
{
    const char *text;
    bool *yes;
    int rc;
    if (!at_h5_has_fact(f, name))
        return AT_OK;
    rc = at_h5_get_text(cx, f, name, &cx->scratch, &text);
    yes = at_alloc_n(cx, a, d->L, sizeof *yes);
    if (rc == AT_OK)
        rc = yes ? at_ranges(cx, name, text, yes, d->L) : AT_ENOMEM;
    *no = yes;
    return rc;
}

/* Names of labels, one a line.                                               */
static int put_labels(struct at_ctx *cx, struct at_h5 *f,
                      const struct at_decoder *d)
{
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; d->labels && i < d->value; i++)
        at_text_addf(&t, "%s%s", i ? "\n" : "", d->labels[i]);
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK && d->labels && d->value)
        rc = at_h5_set_text(cx, f, "model_labels", t.s ? t.s : "");
    at_text_finish(&t);
    return rc;
}

static int get_labels(struct at_ctx *cx, struct at_h5 *f, struct at_arena *a,
                      struct at_decoder *d)
{
    const char *text, **name = at_alloc_n(cx, a, d->value + 1, sizeof *name);
    size_t n = 0;
    int rc = name ? AT_OK : AT_ENOMEM;
    if (!at_h5_has_fact(f, "model_labels"))
        return rc;
    if (rc == AT_OK)
        rc = at_h5_get_text(cx, f, "model_labels", a, &text);
    while (rc == AT_OK && text && n < d->value) {
        size_t len = strcspn(text, "\n");
        name[n] = at_strndup(cx, a, text, len);
        rc = name[n++] ? AT_OK : AT_ENOMEM;
        text = text[len] ? text + len + 1 : NULL;
    }
    if (rc == AT_OK && (text || n != d->value))
        rc = at_fail(cx, AT_EFORMAT, "%s: the model has %zu labels and other "
                     "than as many names", at_h5_path(f), d->value);
    d->labels = name;
    return rc;
}

static int put_description(struct at_ctx *cx, struct at_h5 *f,
                           const struct at_decoder *d)
{
    int rc = at_h5_set_text(cx, f, "model_family", d->family);
    if (rc == AT_OK)
        rc = put_dropped(cx, f, "model_no_attn", d->no_attn, d->L);
    if (rc == AT_OK)
        rc = put_dropped(cx, f, "model_no_mlp", d->no_mlp, d->L);
    if (rc == AT_OK)
        rc = put_labels(cx, f, d);
#define PUT(name, field, type)                                           \
    if (rc == AT_OK)                                                     \
        rc = at_h5_set_int(cx, f, "model_" #name, (int64_t)d->field);
    INTS(PUT)
    MORE_INTS(PUT)
#undef PUT
#define PUT(name)                                                        \
    if (rc == AT_OK)                                                     \
        rc = at_h5_set_real(cx, f, "model_" #name, d->name);
    MORE_REALS(PUT)
#undef PUT
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "model_norm_eps", d->norm_eps);
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "model_rope_theta", d->rope_theta);
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "model_init_std", d->init_std);
    return rc;
}

static int check_choices(struct at_ctx *cx, struct at_h5 *f,
                         const struct at_decoder *d)
{
    if (d->norm > AT_NORM_LAYER || d->act > AT_SILU ||
        d->pos > AT_POS_LEARNED || d->bias > AT_BIAS_ALL ||
        d->norm_place > AT_NORM_SUM || d->qk_norm > AT_QK_WIDE ||
        d->scaling > AT_SCALING_LLAMA3 || d->value_act > AT_TANH ||
        d->problem > AT_MANY_LABELS)
        return at_fail(cx, AT_EFORMAT, "%s: the model has parts that this "
                       "attune does not know: update attune", at_h5_path(f));
    return AT_OK;
}

static int get_size(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    int64_t *v)
{
    int rc = at_h5_get_int(cx, f, name, v);
    if (rc == AT_OK && (*v < 0 || *v > INT32_MAX))
        rc = at_fail(cx, AT_EFORMAT, "%s: %s is out of range", at_h5_path(f),
                     name);
    return rc;
}

/* The first files said `bias`: all or none.                                  */
static int get_more(struct at_ctx *cx, struct at_h5 *f, struct at_decoder *d)
{
    int64_t v = 0;
    int rc = AT_OK;
    if (!at_h5_has_fact(f, "model_biases"))
        rc = get_size(cx, f, "model_bias", &v);
    d->bias = v ? AT_BIAS_ALL : 0;
#define GET(name, field, type)                                           \
    if (rc == AT_OK && at_h5_has_fact(f, "model_" #name)) {              \
        rc = get_size(cx, f, "model_" #name, &v);                        \
        d->field = (type)v;                                              \
    }
    MORE_INTS(GET)
#undef GET
#define GET(name)                                                        \
    if (rc == AT_OK && at_h5_has_fact(f, "model_" #name))                \
        rc = at_h5_get_real(cx, f, "model_" #name, &d->name);
    MORE_REALS(GET)
#undef GET
    return rc;
}

static int get_description(struct at_ctx *cx, struct at_h5 *f,
                           struct at_arena *a, struct at_decoder *d)
{
    const char *family;
    int64_t v = 0;
    int rc = at_h5_get_text(cx, f, "model_family", a, &family);
    if (rc == AT_OK)
        rc = at_decoder_family(cx, family, d);
#define GET(name, field, type)                                           \
    if (rc == AT_OK)                                                     \
        rc = get_size(cx, f, "model_" #name, &v);                        \
    d->field = (type)v;
    INTS(GET)
#undef GET
    if (rc == AT_OK)
        rc = get_more(cx, f, d);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "model_norm_eps", &d->norm_eps);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "model_rope_theta", &d->rope_theta);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "model_init_std", &d->init_std);
    if (rc == AT_OK)
        rc = check_choices(cx, f, d);
    if (rc == AT_OK)
        rc = at_decoder_check(cx, d);
    if (rc == AT_OK)
        rc = get_dropped(cx, f, a, "model_no_attn", d, &d->no_attn);
    if (rc == AT_OK)
        rc = get_dropped(cx, f, a, "model_no_mlp", d, &d->no_mlp);
    if (rc == AT_OK)
        rc = get_labels(cx, f, a, d);
    return rc < 0 ? at_note(cx, rc, "reading the model in %s", at_h5_path(f))
                  : AT_OK;
}

static int get_tokenizer(struct at_ctx *cx, struct at_h5 *f,
                         struct at_arena *a, struct at_tok **tok)
{
    char *blob;
    size_t n;
    int rc = at_h5_get_bytes(cx, f, "tokenizer", &cx->scratch, 1 << 28, &blob,
                             &n);
    if (rc == AT_OK)
        rc = at_tok_load(cx, a, blob, n, tok);
    return rc < 0 ? at_note(cx, rc, "reading the tokenizer in %s",
                            at_h5_path(f)) : AT_OK;
}

int at_model_tokenizer(struct at_ctx *cx, struct at_arena *a, const char *path,
                       struct at_tok **tok)
{
    struct at_h5 *f;
    int rc = at_h5_open(cx, path, NULL, &f);
    if (rc < 0)
        return rc;
    rc = get_tokenizer(cx, f, a, tok);
    at_h5_close(f);
    return rc;
}

int at_model_need_tokenizer(struct at_ctx *cx, const struct at_model *m)
{
    return m->tok ? AT_OK
                  : at_fail(cx, AT_EINVAL, "%s: has no tokenizer (it was "
                            "imported with --no-tokenizer), so it reads and "
                            "writes no text", m->path);
}

int at_model_need_words(struct at_ctx *cx, const struct at_model *m)
{
    if (m->d.both && !m->d.value)
        return at_fail(cx, AT_EINVAL, "%s: is an encoder: it writes no text "
                       "(objective: classify makes a classifier of it)",
                       m->path);
    if (m->d.value)
        return at_fail(cx, AT_EINVAL, "%s: judges texts (attune classify; "
                       "attune rollout --value) and writes none", m->path);
    return at_model_need_tokenizer(cx, m);
}

int at_model_declare(struct at_ctx *cx, const struct at_decoder *d,
                     struct at_params *ps)
{
    struct at_graph *g;
    struct at_decoder_options o = { 0 };
    struct at_tokens in = { .B = 1 };
    struct at_shape one = at_shape1(1);
    struct at_val *hidden;
    int rc = at_graph_create(cx, &cx->plan, ps, &at_kernels_ref, &g);
    if (rc < 0)
        return rc;
    in.ids = at_input(g, "ids", AT_I32, one);
    in.pos = at_input(g, "pos", AT_I32, one);
    in.first = at_input(g, "first", AT_I32, one);
    in.type = at_input(g, "type", AT_I32, one);
    hidden = at_decoder_hidden(g, d, &in, &o);
    if (!hidden || (d->value && !at_decoder_value(g, d, hidden)) ||
        (!d->value && !d->both && !at_decoder_head(g, d)))
        return cx->err.code;
    return AT_OK;
}

int at_model_declare_dense(struct at_ctx *cx, const struct at_decoder *d,
                           struct at_params *ps)
{
    struct at_graph *g;
    struct at_val *x;
    int rc = at_graph_create(cx, &cx->plan, ps, &at_kernels_ref, &g);
    if (rc < 0)
        return rc;
    x = at_input(g, "hidden", AT_REAL, at_shape2(1, d->C));
    return at_decoder_dense(g, d, x) ? AT_OK : cx->err.code;
}

int at_arrays_identify(struct at_ctx *cx, struct at_h5 *f, const char *prefix,
                       char id[33])
{
    const char *const *names;
    size_t n;
    struct at_text t = { 0 };
    int rc = at_h5_names(cx, f, prefix, &cx->scratch, &names, &n);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        struct at_hash h;
        rc = at_h5_checksum(cx, f, names[i], &h);
        at_text_addf(&t, "%s %llx %llx\n", names[i],
                     (unsigned long long)h.hi, (unsigned long long)h.lo);
    }
    if (rc == AT_OK && n == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: holds no %s", at_h5_path(f),
                     prefix[0] ? "weights" : "arrays");
    if (rc == AT_OK)
        rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        at_hash_hex(at_hash(t.s, t.n), id);
    at_text_finish(&t);
    return rc;
}

int at_model_identify(struct at_ctx *cx, struct at_h5 *f, char id[33])
{
    return at_arrays_identify(cx, f, "params/", id);
}

static bool there(struct at_ctx *cx, const char *dir, const char *name)
{
    const char *path = at_sprintf(cx, &cx->scratch, "%s/%s", dir, name);
    return path && access(path, F_OK) == 0;
}

/* A run's directory stands for its best checkpoint, else its latest.         */
static const char *resolve(struct at_ctx *cx, struct at_arena *a,
                           const char *path)
{
    static const char *const names[] = { "best", "latest" };
    const char *foreign;
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
        return at_strdup(cx, a, path);
    for (size_t i = 0; i < AT_COUNT(names); i++) {
        const char *p = at_sprintf(cx, a, "%s/checkpoints/%s", path, names[i]);
        if (!p)
            return NULL;
        if (stat(p, &st) == 0)
            return p;
    }
    foreign = there(cx, path, "adapter_config.json") ? "peft"
              : there(cx, path, "config.json")       ? "hf" : NULL;
    if (foreign)
        at_fail(cx, AT_EINVAL, "%s: is a folder of Hugging Face; make a model "
                "file of it: attune import %s %s OUT.h5%s", path, foreign, path,
                *foreign == 'p' ? " --base BASE.h5" : "");
    else
        at_fail(cx, AT_ENOENT, "%s: is a directory without a checkpoint", path);
    return NULL;
}

static int open_base(struct at_ctx *cx, struct at_arena *a, struct at_model *m)
{
    const char *base, *id;
    int rc = at_h5_get_text(cx, m->f, "base_path", a, &base);
    if (rc == AT_OK)
        rc = at_h5_get_text(cx, m->f, "base_id", a, &id);
    if (rc == AT_OK)
        rc = at_adapters_get(cx, a, m->f, &m->adapters);
    if (rc == AT_OK)
        rc = at_h5_open(cx, base, NULL, &m->base);
    if (rc < 0)
        return at_note(cx, rc, "opening the model that the adapter %s belongs "
                       "to", m->path);
    rc = at_model_identify(cx, m->base, m->base_id);
    if (rc == AT_OK && strcmp(m->base_id, id) != 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: is an adapter of another model (or "
                     "another mask) than %s holds now (its identity was %s, it "
                     "is %s)", m->path,
                     base, id, m->base_id);
    return rc;
}

int at_model_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                  struct at_model **made)
{
    struct at_model *m = at_alloc(cx, a, sizeof *m);
    int rc = AT_OK;
    if (!m)
        return AT_ENOMEM;
    m->path = resolve(cx, a, path);
    if (!m->path)
        return cx->err.code;
    rc = at_h5_open(cx, m->path, NULL, &m->f);
    if (rc < 0)
        return rc;
    if (strcmp(at_h5_kind(m->f), "model") != 0 &&
        strcmp(at_h5_kind(m->f), "checkpoint") != 0)
        rc = at_fail(cx, AT_EINVAL, "%s: is a %s; a model or a checkpoint is "
                     "needed", path, at_h5_kind(m->f));
    if (rc == AT_OK)
        rc = get_description(cx, m->f, a, &m->d);
    if (rc == AT_OK && at_h5_has(m->f, "tokenizer"))
        rc = get_tokenizer(cx, m->f, a, &m->tok);
    if (rc == AT_OK && m->tok && at_tok_size(m->tok) > m->d.V)
        rc = at_fail(cx, AT_EFORMAT, "%s: the tokenizer has %zu tokens, the "
                     "model %zu", path, at_tok_size(m->tok), m->d.V);
    if (rc == AT_OK)
        rc = at_model_identify(cx, m->f, m->id);
    if (rc == AT_OK && at_h5_has(m->f, "adapter"))
        rc = open_base(cx, a, m);
    if (rc < 0) {
        at_model_close(m);
        return rc;
    }
    *made = m;
    return AT_OK;
}

void at_model_close(struct at_model *m)
{
    if (!m)
        return;
    at_adapters_destroy(&m->adapters);
    at_h5_close(m->f);
    at_h5_close(m->base);
    m->f = m->base = NULL;
}

/* Reads the params that f holds; counts how many arrays it used.             */
static int read_from(struct at_ctx *cx, struct at_h5 *f, struct at_params *ps,
                     size_t *used)
{
    *used = 0;
    for (size_t i = 0; i < ps->n; i++) {
        struct at_param *p = ps->p[i];
        char name[AT_H5_NAME];
        int rc;
        if (snprintf(name, sizeof name, "params/%s", p->val.name) >=
            (int)sizeof name - 8 ||
            (!at_h5_has(f, name) && !at_sparse_held(f, p->val.name)))
            continue;
        rc = at_weights_get_val(cx, f, p->val.name, &p->val, used);
        if (rc < 0)
            return rc;
        p->loaded = true;
    }
    return AT_OK;
}

/* The param that an array is of: a sparse one has several.                    */
static const char *array_param(struct at_ctx *cx, const char *name)
{
    const char *slash = strchr(name, '/'), *p;
    if (!slash)
        return name;
    p = at_strndup(cx, &cx->scratch, name, (size_t)(slash - name));
    return p ? p : "";
}

/* Arrays of f that no param asked for are a sign of another model.           */
static int all_used(struct at_ctx *cx, struct at_h5 *f,
                    const struct at_params *ps, size_t used)
{
    const char *const *names;
    size_t n, off = strlen("params/");
    bool judges = at_param_find(ps, "value.weight");    /* and writes no text */
    int rc = at_h5_names(cx, f, "params/", &cx->scratch, &names, &n);
    if (rc < 0 || n == used)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (!at_param_find(ps, array_param(cx, names[i] + off)) &&
            !at_decoder_owns_value(names[i] + off) &&
            !(judges && strcmp(names[i] + off, "head.weight") == 0))
            return at_fail(cx, AT_EFORMAT, "%s: holds '%s', which the model has "
                           "no place for", at_h5_path(f), names[i] + off);
    return AT_OK;
}

/* Whether a param is of an adapter that the file does not hold.              */
static bool is_new(const struct at_model *m, const char *name, bool adapter)
{
    for (size_t i = 0; i < m->adapters.n && adapter; i++)
        if (m->adapters.a[i]->kind->owns(name))
            return false;
    return at_adapter_owns(name);
}

int at_model_read(struct at_ctx *cx, const struct at_model *m,
                  struct at_params *ps, bool adapter)
{
    size_t used;
    int rc = AT_OK;
    for (size_t i = 0; i < ps->n; i++)
        ps->p[i]->loaded = false;
    for (int pass = 0; pass < 2 && rc == AT_OK; pass++) {
        struct at_h5 *f = pass == 0 ? m->base : m->f;
        if (!f || (pass == 1 && m->base && !adapter))
            continue;
        rc = read_from(cx, f, ps, &used);
        if (rc == AT_OK)
            rc = all_used(cx, f, ps, used);
    }
    for (size_t i = 0; i < ps->n && rc == AT_OK; i++) {
        const char *name = ps->p[i]->val.name;
        if (!ps->p[i]->loaded && !is_new(m, name, adapter) &&
            !(at_decoder_owns_value(name) && !m->d.value))
            rc = at_fail(cx, AT_EFORMAT, "%s: has no weights for '%s'",
                         m->path, name);
    }
    return rc;
}

int at_model_put_head(struct at_ctx *cx, struct at_h5 *f,
                      const struct at_decoder *d, const struct at_tok *tok)
{
    int rc = put_description(cx, f, d);
    if (rc == AT_OK && tok) {
        size_t n;
        const void *blob = at_tok_save(tok, &n);
        rc = at_h5_put_bytes(cx, f, "tokenizer", blob, n);
    }
    return rc;
}

int at_model_put_kept(struct at_ctx *cx, struct at_h5 *f, struct at_h5 *from)
{
    struct at_arena a = { 0 };
    const char *const *names, *dtype;
    size_t n, n_bytes;
    int rc = at_h5_names(cx, from, "hf/", &a, &names, &n);
    if (rc == AT_OK && at_h5_has_fact(from, "hf_dtype")) {
        rc = at_h5_get_text(cx, from, "hf_dtype", &a, &dtype);
        if (rc == AT_OK)
            rc = at_h5_set_text(cx, f, "hf_dtype", dtype);
    }
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        char *bytes;
        rc = at_h5_get_bytes(cx, from, names[i], &cx->scratch, 64 << 20, &bytes,
                             &n_bytes);
        if (rc == AT_OK)
            rc = at_h5_put_bytes(cx, f, names[i], bytes, n_bytes);
        at_arena_reset(&cx->scratch);
    }
    at_arena_finish(&a);
    return rc;
}

int at_model_put(struct at_ctx *cx, struct at_h5 *f, const struct at_decoder *d,
                 const struct at_tok *tok, const struct at_params *ps,
                 enum at_which which, enum at_h5_type type,
                 struct at_h5 *masks)
{
    int rc = at_model_put_head(cx, f, d, tok);
    for (size_t i = 0; i < ps->n && rc == AT_OK; i++) {
        const struct at_param *p = ps->p[i];
        if ((which == AT_PUT_TRAINABLE && !p->trainable) ||
            (which == AT_PUT_BASE && at_adapter_owns(p->val.name)))
            continue;
        rc = at_weights_put_val(cx, f, p->val.name, type, &p->val, masks);
    }
    return rc;
}

int at_model_write(struct at_ctx *cx, const char *path,
                   const struct at_decoder *d, const struct at_tok *tok,
                   const struct at_params *ps, enum at_h5_type type,
                   struct at_h5 *from)
{
    struct at_h5 *f;
    int rc = at_h5_create(cx, path, "model", &f);
    if (rc < 0)
        return rc;
    rc = at_model_put(cx, f, d, tok, ps, AT_PUT_BASE, type, from);
    if (rc == AT_OK && from)
        rc = at_model_put_kept(cx, f, from);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    return at_h5_commit(cx, f);
}
