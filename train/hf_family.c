/* What config.json says, and where tensors lie, by the row of a family. */
#include "train/hf_table.h"

#include <math.h>
#include <string.h>

/* ---- keys ------------------------------------------------------------------- */

static const struct { const char *name; enum at_act act; } acts[] = {
    { "silu", AT_SILU }, { "swish", AT_SILU }, { "relu", AT_RELU },
    { "gelu", AT_GELU_ERF }, { "gelu_new", AT_GELU_TANH },
    { "gelu_pytorch_tanh", AT_GELU_TANH }, { "gelu_fast", AT_GELU_TANH },
};

static int read_act(struct at_ctx *cx, const char *path, const char *key,
                    const json_t *v, enum at_act *act)
{
    const char *word = json_is_string(v) ? json_string_value(v) : "";
    for (size_t i = 0; i < AT_COUNT(acts); i++)
        if (strcmp(word, acts[i].name) == 0) {
            *act = acts[i].act;
            return AT_OK;
        }
    return at_fail(cx, AT_EINVAL, "%s: %s is '%.40s'; known are silu, relu, "
                   "gelu, gelu_new, gelu_pytorch_tanh", path, key, word);
}

static int read_number(struct at_ctx *cx, const char *path,
                       const struct key *k, const json_t *v, double *x)
{
    bool whole = k->type == KEY_SIZE || k->type == KEY_PAD ||
                 k->type == KEY_POSITIONS;
    if (json_is_null(v) && k->nullable)
        *x = 0;
    else if (!v || (json_is_null(v) && !isnan(k->absent)))
        *x = k->absent;
    else if (json_is_boolean(v))
        *x = json_is_true(v);
    else
        *x = json_is_number(v) ? json_number_value(v) : NAN;
    if (isnan(*x) || (whole && (*x < 0 || *x > 1 << 30 || *x != floor(*x))))
        return at_fail(cx, AT_EINVAL, "%s: %s %s", path, k->name,
                       v ? "is not the number that it must be"
                         : "is missing");
    return AT_OK;
}

static int read_key(struct at_ctx *cx, const char *path, const struct key *k,
                    const json_t *v, struct at_decoder *d)
{
    char *at = (char *)d + k->at;
    double x;
    int rc;
    if (k->type == KEY_ACT) {
        enum at_act act = d->act;
        rc = v ? read_act(cx, path, k->name, v, &act) : AT_OK;
        d->act = act;
        return rc;
    }
    rc = read_number(cx, path, k, v, &x);
    if (rc < 0)
        return rc;
    switch (k->type) {
    case KEY_SIZE: { size_t n = (size_t)x; memcpy(at, &n, sizeof n); break; }
    case KEY_REAL: memcpy(at, &x, sizeof x); break;
    case KEY_RSQRT: x = 1 / sqrt(x); memcpy(at, &x, sizeof x); break;
    case KEY_BOOL: { bool b = x != 0; memcpy(at, &b, sizeof b); break; }
    case KEY_PAD: d->pos_from = (size_t)x + 1; break;
    case KEY_POSITIONS:
        if (x <= (double)d->pos_from)
            return at_fail(cx, AT_EINVAL, "%s: %s is %g; the first %zu are not "
                           "used, and none is left", path, k->name, x,
                           d->pos_from);
        d->P = (size_t)x - d->pos_from;
        break;
    case KEY_BIAS:
        d->bias = x != 0 ? d->bias | (unsigned)k->at
                         : d->bias & ~(unsigned)k->at;
        break;
    case KEY_ACT: break;
    }
    return AT_OK;
}

/* ---- rotary positions --------------------------------------------------------- */

static double number_or(const json_t *o, const char *key, double other)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : other;
}

/* Older files say rope_scaling.type, newer ones rope_parameters.rope_type.   */
static int read_scaling(struct at_ctx *cx, const char *path, const json_t *o,
                        struct at_decoder *d)
{
    const json_t *v = json_object_get(o, "rope_type");
    const char *type;
    if (!v)
        v = json_object_get(o, "type");
    type = json_is_string(v) ? json_string_value(v) : "default";
    if (strcmp(type, "default") == 0)
        return AT_OK;
    d->scale_factor = number_or(o, "factor", 0);
    if (strcmp(type, "linear") == 0) {
        d->scaling = AT_SCALING_LINEAR;
    } else if (strcmp(type, "llama3") == 0) {
        double from = number_or(o, "original_max_position_embeddings", 0);
        d->scaling = AT_SCALING_LLAMA3;
        d->scale_low = number_or(o, "low_freq_factor", 0);
        d->scale_high = number_or(o, "high_freq_factor", 0);
        d->scale_from = from >= 1 && from < 1 << 30 ? (size_t)from : 0;
    } else {
        return at_fail(cx, AT_EINVAL, "%s: rotary positions of type '%.40s'; "
                       "known are default, linear, llama3", path, type);
    }
    return AT_OK;
}

static int read_rope(struct at_ctx *cx, const char *path,
                     const struct at_hf_family *f, const json_t *c,
                     struct at_decoder *d)
{
    const json_t *o = json_object_get(c, "rope_parameters");
    const json_t *full = json_object_get(o, "full_attention");
    const json_t *local = json_object_get(o, "sliding_attention");
    double part = number_or(c, "partial_rotary_factor",
                            number_or(c, "rotary_pct", f->rotary));
    d->rope_theta = number_or(c, "rope_theta",
                              number_or(c, "rotary_emb_base", d->rope_theta));
    if (d->rope_local > 0)
        d->rope_local = number_or(c, "rope_local_base_freq", d->rope_local);
    if (d->rope_local > 0 && local)
        d->rope_local = number_or(local, "rope_theta", d->rope_local);
    if (full)
        o = full;
    if (!o)
        o = json_object_get(c, "rope_scaling");
    d->rope_theta = number_or(o, "rope_theta", d->rope_theta);
    part = number_or(o, "partial_rotary_factor", part);
    if (!(part > 0 && part <= 1))
        return at_fail(cx, AT_EINVAL, "%s: the part of a head that turns is "
                       "%g; it must be above 0 and at most 1", path, part);
    d->rotary = part < 1 ? (size_t)((double)d->K * part) : 0;
    return read_scaling(cx, path, o, d);
}

/* Every so many layers one sees all: as a number, or layer by layer.         */
static int read_layers(struct at_ctx *cx, const char *path, const json_t *c,
                       struct at_decoder *d)
{
    const json_t *types = json_object_get(c, "layer_types");
    size_t every = (size_t)number_or(c, "sliding_window_pattern",
                                     number_or(c, "_sliding_window_pattern",
                                               6));
    d->embed_scale = sqrt((double)d->C);
    for (size_t i = 0; json_is_array(types) && i < d->L; i++) {
        const char *t = json_string_value(json_array_get(types, i));
        if (t && strcmp(t, "full_attention") == 0) {
            every = i + 1;
            break;
        }
        every = i + 2;
    }
    d->full_every = every;
    for (size_t i = 0; json_is_array(types) && i < d->L; i++) {
        const char *t = json_string_value(json_array_get(types, i));
        const char *want = at_decoder_local(d, i) ? "sliding_attention"
                                                  : "full_attention";
        if (!t || strcmp(t, want) != 0)
            return at_fail(cx, AT_EINVAL, "%s: layer_types: layer %zu is not "
                           "'%s'; only a full_attention every so many layers "
                           "is known", path, i, want);
    }
    return AT_OK;
}

/* ---- config.json ---------------------------------------------------------------- */

static int check_musts(struct at_ctx *cx, const char *path,
                       const struct must *m, const json_t *c)
{
    for (; m && m->name; m++) {
        json_t *want = json_loads(m->value, JSON_DECODE_ANY, NULL);
        json_t *got = json_object_get(c, m->name);
        bool same = !got || json_is_null(got) || json_equal(got, want);
        json_decref(want);
        if (!same)
            return at_fail(cx, AT_EINVAL, "%s: %s must be %s; attune has no "
                           "other form", path, m->name, m->value);
    }
    return AT_OK;
}

static int unknown(struct at_ctx *cx, const char *path, const char *type)
{
    char list[512] = "";
    size_t n = 0;
    for (size_t i = 0; i < at_hf_n_families && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s",
                              i ? ", " : "", at_hf_families[i].model_type);
    return at_fail(cx, AT_EINVAL, "%s: model_type '%.60s' is not known; known "
                   "are %s", path, type, list);
}

/* ---- labels --------------------------------------------------------------------- */

static const char *const problems[] = {
    [AT_NUMBERS] = "regression", [AT_ONE_LABEL] = "single_label_classification",
    [AT_MANY_LABELS] = "multi_label_classification",
};

/* id2label {"0": "bad", ..} as names by number.                               */
static int read_names(struct at_ctx *cx, const char *path, const json_t *ids,
                      struct at_decoder *d)
{
    const char **name = at_alloc_n(cx, &cx->run, d->value, sizeof *name);
    d->labels = name;
    for (size_t i = 0; name && i < d->value; i++) {
        char key[24];
        const json_t *v;
        snprintf(key, sizeof key, "%zu", i);
        v = json_object_get(ids, key);
        if (ids && (!json_is_string(v) ||
                    strchr(json_string_value(v), '\n')))
            return at_fail(cx, AT_EINVAL, "%s: id2label has no name for %zu of "
                           "%zu labels", path, i, d->value);
        name[i] = ids ? at_strdup(cx, &cx->run, json_string_value(v))
                      : at_sprintf(cx, &cx->run, "LABEL_%zu", i);
        if (!name[i])
            return AT_ENOMEM;
    }
    return name ? AT_OK : AT_ENOMEM;
}

static void describe_labels(struct at_decoder *d, size_t n)
{
    d->value = n;
    d->value_plain = !d->both;
    d->value_open = true;
    d->problem = n == 1 ? AT_NUMBERS : AT_ONE_LABEL;
}

int at_hf_plain_labels(struct at_ctx *cx, size_t n, struct at_decoder *d)
{
    if (n < 1 || n > 1 << 20)
        return at_fail(cx, AT_EFORMAT, "a head of %zu labels is none", n);
    describe_labels(d, n);
    return read_names(cx, "", NULL, d);
}

/* What a ...ForSequenceClassification says of a text.                         */
static int read_labels(struct at_ctx *cx, const char *path, const json_t *c,
                       struct at_decoder *d)
{
    const json_t *ids = json_object_get(c, "id2label");
    const json_t *n = json_object_get(c, "num_labels");
    const char *is = json_string_value(json_object_get(c, "problem_type"));
    size_t count = json_is_object(ids) ? json_object_size(ids)
                   : json_is_integer(n) && json_integer_value(n) > 0
                   ? (size_t)json_integer_value(n) : 2;
    if (count < 1 || count > 1 << 16)
        return at_fail(cx, AT_EFORMAT, "%s: a head of %zu labels is none", path,
                       count);
    describe_labels(d, count);
    for (size_t i = 0; is && i < AT_COUNT(problems); i++)
        if (strcmp(is, problems[i]) == 0)
            d->problem = (enum at_problem)i;
    return read_names(cx, path, json_is_object(ids) ? ids : NULL, d);
}

static bool judges(const json_t *config)
{
    static const char tail[] = "ForSequenceClassification";
    const json_t *list = json_object_get(config, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    size_t n = name ? strlen(name) : 0, t = sizeof tail - 1;
    return n >= t && strcmp(name + n - t, tail) == 0;
}

int at_hf_put_labels(struct at_ctx *cx, const struct at_hf_family *f,
                     const struct at_decoder *d, json_t *c)
{
    json_t *ids = json_object(), *names = json_object();
    int bad = json_object_set_new(c, "architectures",
                                  json_pack("[s]", f->classifier));
    for (size_t i = 0; i < d->value; i++) {
        char id[24], name[32];
        const char *label = d->labels ? d->labels[i] : name;
        snprintf(id, sizeof id, "%zu", i);
        snprintf(name, sizeof name, "LABEL_%zu", i);
        bad |= json_object_set_new(ids, id, json_string(label));
        bad |= json_object_set_new(names, label, json_integer((json_int_t)i));
    }
    bad |= json_object_set_new(c, "id2label", ids);
    bad |= json_object_set_new(c, "label2id", names);
    bad |= json_object_set_new(c, "problem_type",
                               json_string(problems[d->problem]));
    return bad ? at_fail(cx, AT_EINVAL, "the labels have no form in JSON")
               : AT_OK;
}

int at_hf_read_config(struct at_ctx *cx, const char *path,
                      const json_t *config, const struct at_hf_family **family,
                      struct at_decoder *d)
{
    const char *type = json_string_value(json_object_get(config,
                                                         "model_type"));
    const struct at_hf_family *f = at_hf_families;
    int rc;
    while (type && f < at_hf_families + at_hf_n_families && strcmp(f->model_type, type))
        f++;
    if (!type || f == at_hf_families + at_hf_n_families)
        return unknown(cx, path, type ? type : "");
    rc = at_decoder_family(cx, f->model_type, d);
    for (const struct key *k = f->keys; k->name && rc == AT_OK; k++)
        rc = read_key(cx, path, k, json_object_get(config, k->name), d);
    if (rc == AT_OK && d->K == 0 && d->H)
        d->K = d->C / d->H;
    if (rc == AT_OK)
        rc = check_musts(cx, path, f->musts, config);
    if (rc == AT_OK && f->rope)
        rc = read_rope(cx, path, f, config, d);
    if (rc == AT_OK && f->layers)
        rc = read_layers(cx, path, config, d);
    if (rc == AT_OK && judges(config))
        rc = read_labels(cx, path, config, d);
    if (rc == AT_OK)
        rc = at_decoder_check(cx, d);
    if (rc < 0)
        return at_note(cx, rc, "reading %s", path);
    *family = f;
    return AT_OK;
}

static json_t *value_of(const struct key *k, const struct at_decoder *d)
{
    const char *at = (const char *)d + k->at;
    size_t n;
    double x;
    bool b;
    switch (k->type) {
    case KEY_SIZE:
        memcpy(&n, at, sizeof n);
        return n == 0 && k->nullable ? json_null()
                                     : json_integer((json_int_t)n);
    case KEY_PAD: return json_integer((json_int_t)d->pos_from - 1);
    case KEY_POSITIONS: return json_integer((json_int_t)(d->P + d->pos_from));
    case KEY_REAL: memcpy(&x, at, sizeof x); return json_real(x);
    case KEY_RSQRT: memcpy(&x, at, sizeof x); return json_real(1 / (x * x));
    case KEY_BOOL: memcpy(&b, at, sizeof b); return json_boolean(b);
    case KEY_BIAS: return json_boolean((d->bias & k->at) != 0);
    case KEY_ACT: break;
    }
    for (size_t i = AT_COUNT(acts); i-- > 0;)
        if (acts[i].act == d->act &&
            strcmp(acts[i].name, "gelu_fast") != 0 &&
            strcmp(acts[i].name, "swish") != 0)
            return json_string(acts[i].name);
    return NULL;
}

int at_hf_make_config(struct at_ctx *cx, const struct at_hf_family *f,
                      const struct at_decoder *d, json_t **config)
{
    json_t *c = json_object();
    int bad = json_object_set_new(c, "model_type",
                                  json_string(f->model_type));
    bad |= json_object_set_new(c, "architectures",
                               json_pack("[s]", f->architecture));
    for (const struct key *k = f->keys; k->name; k++)
        bad |= json_object_set_new(c, k->name, value_of(k, d));
    if (f->rope)
        bad |= json_object_set_new(c, "rope_theta", json_real(d->rope_theta));
    if (bad || d->scaling || d->rope_local > 0 || d->rotary) {
        json_decref(c);
        return at_fail(cx, AT_EINVAL, "a config.json for %s cannot be made of "
                       "the model's description", f->model_type);
    }
    *config = c;
    return d->value ? at_hf_put_labels(cx, f, d, c) : AT_OK;
}

int at_hf_family(struct at_ctx *cx, const struct at_decoder *d,
                 const struct at_hf_family **f)
{
    for (size_t i = 0; i < at_hf_n_families; i++)
        if (strcmp(d->family, at_hf_families[i].model_type) == 0) {
            *f = &at_hf_families[i];
            return AT_OK;
        }
    return unknown(cx, "the model", d->family);
}

/* ---- tensors --------------------------------------------------------------------- */

static void lay(const struct at_decoder *d, const struct name *row,
                struct at_hf_place *p)
{
    bool is_q = at_name_is_q(row), is_k = at_name_is_k(row);
    size_t base, rows = at_name_rows(row, d, &base);
    p->K = d->K;
    p->moves = (is_q || is_k) && d->pos == AT_POS_ROPE &&
               (!d->rope_half || d->rotary);
    p->pairs = !d->rope_half;
    p->rotary = d->rotary ? d->rotary : d->K;
    p->part = is_q ? 0 : is_k ? 1 : 2;
    p->shared = rows > 0 || row->how == HEADS;
    p->base = base;
    if (row->how == HEADS) {
        p->head = 3 * d->K;
        p->rows = 3 * d->H * d->K;
    } else if (rows > 0) {
        p->rows = rows;
    }
}

bool at_hf_place(const struct at_hf_family *f, const struct at_decoder *d,
                 const char *name, const struct at_shape *shape,
                 struct at_hf_place *p)
{
    const struct name *row;
    *p = (struct at_hf_place){ .rows = shape->d[0], .n_dims = shape->n,
                               .cols = shape->n > 1 ? shape->d[1] : 1 };
    row = at_name_find(f->names, name, p->name, sizeof p->name);
    if (!row)
        return false;
    p->turned = row->how == TURNED && shape->n == 2;
    lay(d, row, p);
    return true;
}

/* A channel of a head: ours pairs i with i+K/2 throughout (or, in pairs, 2i
 * with 2i+1); theirs pairs within the part that turns, which comes first.    */
static size_t channel(const struct at_hf_place *p, size_t j)
{
    size_t half = p->K / 2, turn = p->rotary / 2;
    size_t i = p->pairs ? j / 2 : j % half;
    size_t second = p->pairs ? j % 2 : j / half;
    if (i < turn)
        return i + second * turn;
    return p->rotary + (i - turn) + second * (half - turn);
}

size_t at_hf_row(const struct at_hf_place *p, size_t r)
{
    size_t h = r / p->K, j = r % p->K;
    if (p->moves)
        j = channel(p, j);
    if (p->head)
        return h * p->head + p->part * p->K + j;
    return p->base + (p->moves ? h * p->K + j : r);
}

static bool ends(const char *name, const char *tail)
{
    size_t n = strlen(name), t = strlen(tail);
    return n >= t && strcmp(name + n - t, tail) == 0;
}

bool at_hf_ignores(const struct at_hf_family *f, const struct at_decoder *d,
                   const char *tensor)
{
    static const char *const tails[] = {
        ".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias",
        ".attention.bias", ".attention.masked_bias",
    };
    for (size_t i = 0; i < AT_COUNT(tails); i++)
        if (ends(tensor, tails[i]))
            return true;
    return (d->tied && strcmp(tensor, "lm_head.weight") == 0) ||
           at_hf_leaves(f, tensor);
}

bool at_hf_leaves(const struct at_hf_family *f, const char *tensor)
{
    for (size_t i = 0; f->others && f->others[i]; i++)
        if (strncmp(tensor, f->others[i], strlen(f->others[i])) == 0)
            return true;
    return false;
}

/* TensorFlow's names for the two halves of a norm, in the oldest BERT files.  */
static const struct at_st_tensor *find_older(const struct at_st *st,
                                             const char *name)
{
    static const struct { const char *now, *then; } ends_of[] = {
        { "LayerNorm.weight", "LayerNorm.gamma" },
        { "LayerNorm.bias", "LayerNorm.beta" },
    };
    char older[AT_ST_NAME + 8];
    for (size_t i = 0; i < AT_COUNT(ends_of); i++)
        if (ends(name, ends_of[i].now)) {
            snprintf(older, sizeof older, "%.*s%s",
                     (int)(strlen(name) - strlen(ends_of[i].now)), name,
                     ends_of[i].then);
            return at_st_find(st, older);
        }
    return NULL;
}

static const struct at_st_tensor *find_either(const struct at_st *st,
                                              const char *name)
{
    const struct at_st_tensor *t = at_st_find(st, name);
    return t ? t : find_older(st, name);
}

const struct at_st_tensor *at_hf_find(const struct at_hf_family *f,
                                      const struct at_st *st, const char *name)
{
    const struct at_st_tensor *t = find_either(st, name);
    size_t n = strlen(f->prefix);
    if (!t && strncmp(name, f->prefix, n) == 0)
        t = find_either(st, name + n);
    return t;
}
