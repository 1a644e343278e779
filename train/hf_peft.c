/* Adapters in PEFT's files: adapter_config.json, adapter_model.safetensors. */
#include "train/adapter_file.h"
#include "train/adapters/lora.h"
#include "train/hf_folder.h"
#include "train/hf_table.h"
#include "train/infer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 64 << 20 };

static const char root[] = "base_model.model.";

/* A param of a text's numbers, which PEFT keeps whole; false: it is none, or
 * theirs has no place for it.                                                */
static bool head_place(const struct at_hf_family *f, const struct at_decoder *d,
                       const struct at_param *p, struct at_hf_place *place)
{
    return at_decoder_owns_value(p->val.name) &&
           (d->both || strcmp(p->val.name, "value.bias") != 0) &&
           at_hf_place(f, d, p->val.name, &p->val.shape, place);
}

/* The module that PEFT is told to keep: the head by its name, a layer that is
 * the model's own by all of it.                                              */
static void module_of(const struct at_hf_family *f, const char *tensor,
                      char module[AT_ST_NAME])
{
    size_t n = strlen(f->prefix);
    snprintf(module, AT_ST_NAME, "%s", tensor);
    *(strncmp(tensor, f->prefix, n) ? strchr(module, '.')
                                    : strrchr(module, '.')) = '\0';
}

/* A linear layer that an adapter may sit on.                                 */
struct site {
    char ours[256];             /* "blocks.3.attn.q_proj"                     */
    char theirs[AT_ST_NAME];    /* "model.layers.3.self_attn.q_proj"          */
    struct at_hf_place place;
    size_t out, in;
};

/* false: the param is no weight of a linear layer.                           */
static bool site_of(const struct at_hf_family *f, const struct at_decoder *d,
                    const struct at_param *p, struct site *s)
{
    static const char tail[] = "_proj.weight";
    const char *name = p->val.name;
    size_t n = strlen(name), t = sizeof tail - 1;
    if (n < t || strcmp(name + n - t, tail) != 0 || n >= sizeof s->ours ||
        !at_hf_place(f, d, name, &p->val.shape, &s->place))
        return false;
    snprintf(s->ours, sizeof s->ours, "%.*s", (int)(n - 7), name);
    snprintf(s->theirs, sizeof s->theirs, "%.*s",
             (int)strlen(s->place.name) - 7, s->place.name);
    s->out = p->val.shape.d[0];
    s->in = p->val.shape.d[1];
    return true;
}

static int shared(struct at_ctx *cx, const struct site *s)
{
    return at_fail(cx, AT_EINVAL, "'%s' is a part of '%s', on which an adapter "
                   "of its own cannot sit: --merge it, and export the model",
                   s->ours, s->theirs);
}

/* ---- out ------------------------------------------------------------------------ */

struct peft {
    struct at_ctx *cx;
    const char *path;           /* of the run                                 */
    struct at_certificate *c;
    const struct at_infer *in;
    const struct at_hf_family *family;
    enum at_st_type type;
    struct site *site;          /* adapted ones                               */
    size_t n;
    struct at_st_tensor *t;     /* a and b of each, then the head's           */
    const struct at_param *head[4];
    size_t n_head;
    bool turned;
};

static const struct at_param *half(const struct peft *e, const struct site *s,
                                   char which)
{
    char name[300];
    snprintf(name, sizeof name, "%s.lora_%c.weight", s->ours, which);
    return at_param_find(&e->in->ps, name);
}

static int list_sites(struct peft *e)
{
    const struct at_params *ps = &e->in->ps;
    size_t R = at_lora_of(&e->in->m->adapters)->rank;
    e->site = at_alloc_n(e->cx, &e->cx->run, ps->n, sizeof *e->site);
    e->t = at_alloc_n(e->cx, &e->cx->run, ps->n + 4, sizeof *e->t);
    if (!e->site || !e->t)
        return AT_ENOMEM;
    for (size_t i = 0; i < ps->n; i++) {
        struct site *s = &e->site[e->n];
        struct at_st_tensor *t = &e->t[2 * e->n];
        if (!site_of(e->family, &e->in->m->d, ps->p[i], s) ||
            !half(e, s, 'a') || !half(e, s, 'b'))
            continue;
        if (s->place.shared)
            return shared(e->cx, s);
        t[0].name = at_sprintf(e->cx, &e->cx->run, "%s%s.lora_A.weight", root,
                               s->theirs);
        t[1].name = at_sprintf(e->cx, &e->cx->run, "%s%s.lora_B.weight", root,
                               s->theirs);
        if (!t[0].name || !t[1].name)
            return AT_ENOMEM;
        t[0].n_dims = t[1].n_dims = 2;
        t[0].d[0] = t[1].d[1] = R;
        t[0].d[1] = s->in;
        t[1].d[0] = s->out;
        e->turned |= s->place.turned;
        e->n++;
    }
    return e->n ? AT_OK : at_fail(e->cx, AT_EINVAL, "the adapter sits nowhere");
}

static int list_head(struct peft *e)
{
    const struct at_params *ps = &e->in->ps;
    for (size_t i = 0; i < ps->n; i++) {
        struct at_st_tensor *t = &e->t[2 * e->n + e->n_head];
        struct at_hf_place p;
        if (!head_place(e->family, &e->in->m->d, ps->p[i], &p))
            continue;
        t->name = at_sprintf(e->cx, &e->cx->run, "%s%s", root, p.name);
        if (!t->name)
            return AT_ENOMEM;
        t->n_dims = p.n_dims;
        t->d[0] = p.rows;
        t->d[1] = p.cols;
        e->head[e->n_head++] = ps->p[i];
    }
    return AT_OK;
}

static int put_b(struct peft *e, struct at_st_writer *w, const struct site *s)
{
    size_t R = at_lora_of(&e->in->m->adapters)->rank;
    const float *b = half(e, s, 'b')->val.data;
    float *x = at_alloc_n(e->cx, &e->cx->scratch, s->out * R, sizeof *x);
    int rc = x ? AT_OK : AT_ENOMEM;
    for (size_t r = 0; r < s->out && x; r++)
        memcpy(x + at_hf_row(&s->place, r) * R, b + r * R, R * sizeof *x);
    if (rc == AT_OK)
        rc = at_st_put(e->cx, w, x, s->out * R);
    at_arena_reset(&e->cx->scratch);
    return rc;
}

static int write_tensors(struct peft *e, const char *dir)
{
    const char *path = at_sprintf(e->cx, &e->cx->run,
                                  "%s/adapter_model.safetensors", dir);
    struct at_st_writer *w;
    int rc = path ? at_st_create(e->cx, &e->cx->run, path, e->type, e->t,
                                 2 * e->n + e->n_head, &w)
                  : AT_ENOMEM;
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < e->n && rc == AT_OK; i++) {
        rc = at_st_put(e->cx, w, half(e, &e->site[i], 'a')->val.data,
                       at_lora_of(&e->in->m->adapters)->rank * e->site[i].in);
        if (rc == AT_OK)
            rc = put_b(e, w, &e->site[i]);
    }
    for (size_t i = 0; i < e->n_head && rc == AT_OK; i++)
        rc = at_st_put(e->cx, w, e->head[i]->val.data,
                       at_shape_count(&e->head[i]->val.shape));
    if (rc < 0) {
        at_st_abandon(w);
        return rc;
    }
    return at_st_commit(e->cx, w);
}

/* As PEFT's users write it, "q_proj", where that names just the adapted
 * modules; else their whole names.                                           */
static bool plain_name(const struct peft *e, const char *last)
{
    const struct at_params *ps = &e->in->ps;
    for (size_t i = 0; i < ps->n; i++) {
        struct site s;
        if (site_of(e->family, &e->in->m->d, ps->p[i], &s) &&
            strcmp(strrchr(s.theirs, '.') + 1, last) == 0 &&
            !half(e, &s, 'a'))
            return false;
    }
    return true;
}

static json_t *targets(const struct peft *e)
{
    json_t *list = json_array();
    for (size_t i = 0; i < e->n; i++) {
        const char *whole = e->site[i].theirs;
        const char *last = strrchr(whole, '.') + 1;
        const char *name = plain_name(e, last) ? last : whole;
        json_t *v;
        bool there = false;
        size_t k;
        json_array_foreach(list, k, v)
            there |= strcmp(json_string_value(v), name) == 0;
        if (!there)
            json_array_append_new(list, json_string(name));
    }
    return list;
}

/* Modules that are kept whole; NULL: none.                                   */
static json_t *kept_modules(const struct peft *e)
{
    json_t *list = e->n_head ? json_array() : NULL;
    for (size_t i = 0; i < e->n_head; i++) {
        char module[AT_ST_NAME];
        size_t k;
        json_t *v;
        bool there = false;
        module_of(e->family, e->t[2 * e->n + i].name + sizeof root - 1, module);
        json_array_foreach(list, k, v)
            there |= strcmp(json_string_value(v), module) == 0;
        if (!there)
            json_array_append_new(list, json_string(module));
    }
    return list;
}

static int write_config(struct peft *e, const char *dir)
{
    const struct at_lora_settings *s = at_lora_of(&e->in->m->adapters);
    json_t *config, *base;
    const char *name;
    int rc = at_hf_kept_json(e->cx, e->in->m->base, "config.json", &base);
    if (rc < 0)
        return rc;
    name = json_string_value(json_object_get(base, "_name_or_path"));
    config = json_pack(
        "{s:s, s:s, s:s?, s:I, s:f, s:f, s:s, s:b, s:b, s:b, s:b, s:b, s:o, "
        "s:o?, s:{}, s:{}}",
        "peft_type", "LORA", "task_type",
        e->in->m->d.value ? "SEQ_CLS" : "CAUSAL_LM",
        "base_model_name_or_path", name && *name ? name : NULL,
        "r", (json_int_t)s->rank, "lora_alpha", s->alpha,
        "lora_dropout", 0.0, "bias", "none", "fan_in_fan_out", e->turned,
        "inference_mode", 1, "init_lora_weights", 1, "use_rslora", 0,
        "use_dora", 0, "target_modules", targets(e), "modules_to_save",
        kept_modules(e), "rank_pattern", "alpha_pattern");
    json_decref(base);
    if (!config)
        return at_fail(e->cx, AT_ENOMEM, "out of memory");
    if (s->alpha == floor(s->alpha) && s->alpha < 1e9)
        json_object_set_new(config, "lora_alpha",
                            json_integer((json_int_t)s->alpha));
    return at_hf_put_json(e->cx, dir, "adapter_config.json", config);
}

static int read_back(struct at_ctx *cx, const void *self, const char *made,
                     const char *out)
{
    const struct peft *e = self;
    return at_hf_import_peft(cx, made, at_h5_path(e->in->m->base), out);
}

static int write_folder(struct at_ctx *cx, void *self, const char *dir)
{
    struct peft *e = self;
    const struct at_decoder *d = &e->in->m->d;
    int rc = write_tensors(self, dir);
    (void)cx;
    if (rc == AT_OK)
        rc = write_config(self, dir);
    if (rc < 0 || d->value || d->both)
        return rc;
    return at_hf_certify(cx, &(struct at_read_back){
        e->path, dir, read_back, e, true, 0 }, e->type, e->c);
}

int at_hf_export_peft(struct at_ctx *cx, const char *path, const char *dir,
                      const char *dtype, struct at_certificate *c)
{
    struct peft e = { .cx = cx, .path = path, .c = c, .type = AT_ST_F32 };
    struct at_infer *in;
    int rc = at_hf_check_dir(cx, dir);
    if (rc == AT_OK)
        rc = at_infer_open_to_merge(cx, path, &in);
    *c = (struct at_certificate){ 0 };
    if (rc < 0)
        return rc;
    e.in = in;
    rc = at_adapters_can_merge(cx, &in->m->adapters);
    if (rc == AT_OK && !at_lora_of(&in->m->adapters))
        rc = in->m->adapters.n
                 ? at_fail(cx, AT_EINVAL, "%s is an adapter (%s) that PEFT does "
                           "not have: export it with --merge", path,
                           in->m->adapters.a[0]->kind->name)
                 : at_fail(cx, AT_EINVAL, "%s is no adapter: export it with "
                           "--format hf", path);
    if (rc == AT_OK && in->m->adapters.n > 1)
        rc = at_fail(cx, AT_EINVAL, "%s holds more than LoRA, which PEFT cannot "
                     "say", path);
    if (rc == AT_OK)
        rc = at_hf_family(cx, &in->m->d, &e.family);
    if (rc == AT_OK && dtype)
        rc = at_st_type_find(cx, dtype, &e.type);
    if (rc == AT_OK)
        rc = list_sites(&e);
    if (rc == AT_OK)
        rc = list_head(&e);
    if (rc == AT_OK)
        rc = at_hf_make_dir(cx, dir, write_folder, &e);
    at_infer_close(in);
    return rc < 0 ? at_note(cx, rc, "exporting %s", path) : AT_OK;
}

/* ---- in ------------------------------------------------------------------------- */

struct adapter {
    struct at_ctx *cx;
    const char *dir;
    struct at_model *base;
    const struct at_hf_family *family;
    struct at_params ps;        /* names and shapes of the base               */
    struct at_st *st;
    size_t rank;
    double alpha;
    json_t *kept;               /* modules_to_save                            */
    struct at_text targets;     /* a pattern of the sites' names              */
    size_t n_used;
    float *x, *y;
    size_t cap_x, cap_y;
};

/* What would change the arithmetic, and what attune does not have.           */
static int check_plain(struct at_ctx *cx, const char *path, const json_t *c)
{
    static const char *const absent[] = {
        "use_dora", "lora_bias", "rank_pattern", "alpha_pattern",
        "layer_replication", "trainable_token_indices",
        "target_parameters", "alora_invocation_tokens", "use_qalora",
        "use_bdlora",
    };
    const char *bias = json_string_value(json_object_get(c, "bias"));
    for (size_t i = 0; i < AT_COUNT(absent); i++) {
        const json_t *v = json_object_get(c, absent[i]);
        if (v && !json_is_null(v) && !json_is_false(v) &&
            !(json_is_object(v) && json_object_size(v) == 0) &&
            !(json_is_array(v) && json_array_size(v) == 0))
            return at_fail(cx, AT_EINVAL, "%s: %s is set; attune reads plain "
                           "LoRA", path, absent[i]);
    }
    if (bias && strcmp(bias, "none") != 0)
        return at_fail(cx, AT_EINVAL, "%s: bias is '%.20s'; attune reads plain "
                       "LoRA", path, bias);
    return AT_OK;
}

static int read_settings(struct adapter *ad, const char *path, const json_t *c)
{
    const char *type = json_string_value(json_object_get(c, "peft_type"));
    const json_t *r = json_object_get(c, "r");
    const json_t *alpha = json_object_get(c, "lora_alpha");
    int rc;
    if (!type || strcmp(type, "LORA") != 0)
        return at_fail(ad->cx, AT_EINVAL, "%s: peft_type is '%.20s'; attune "
                       "reads LORA", path, type ? type : "");
    rc = check_plain(ad->cx, path, c);
    if (rc < 0)
        return rc;
    if (!json_is_integer(r) || json_integer_value(r) < 1 ||
        json_integer_value(r) > 65536 || !json_is_number(alpha))
        return at_fail(ad->cx, AT_EINVAL, "%s: r must be between 1 and 65536, "
                       "lora_alpha a number", path);
    ad->rank = (size_t)json_integer_value(r);
    ad->alpha = json_number_value(alpha);
    ad->kept = json_incref(json_object_get(c, "modules_to_save"));
    if (json_is_true(json_object_get(c, "use_rslora")))
        ad->alpha *= sqrt((double)ad->rank);    /* alpha / sqrt(r)            */
    return AT_OK;
}

static int read_config(struct adapter *ad)
{
    const char *path = at_sprintf(ad->cx, &ad->cx->run,
                                  "%s/adapter_config.json", ad->dir);
    json_t *config;
    int rc = path ? at_json_read(ad->cx, path, FILE_MAX, &config) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    rc = read_settings(ad, path, config);
    json_decref(config);
    return rc;
}

static const struct at_st_tensor *their_half(const struct adapter *ad,
                                             const struct site *s, char which)
{
    char name[AT_ST_NAME + 64];
    snprintf(name, sizeof name, "%s%s.lora_%c.weight", root, s->theirs, which);
    return at_st_find(ad->st, name);
}

static int put_half(struct adapter *ad, struct at_h5 *f, const struct site *s,
                    char which, const struct at_st_tensor *t)
{
    size_t d[2] = { which == 'a' ? ad->rank : s->out,
                    which == 'a' ? s->in : ad->rank };
    size_t n = d[0] * d[1];
    char name[320];
    int rc = at_grow(ad->cx, &ad->x, &ad->cap_x, n, sizeof *ad->x);
    if (rc == AT_OK)
        rc = at_grow(ad->cx, &ad->y, &ad->cap_y, n, sizeof *ad->y);
    if (rc == AT_OK && (t->n_dims != 2 || t->d[0] != d[0] || t->d[1] != d[1]))
        rc = at_fail(ad->cx, AT_EFORMAT, "%s: tensor '%s' must be [%zu,%zu]",
                     ad->dir, t->name, d[0], d[1]);
    if (rc == AT_OK)
        rc = at_st_get(ad->cx, ad->st, t, 0, n, ad->x);
    if (rc < 0)
        return rc;
    if (!at_all_finite(ad->x, n))
        return at_fail(ad->cx, AT_EFORMAT, "%s: tensor '%s' holds numbers that "
                       "are not finite", ad->dir, t->name);
    for (size_t r = 0; r < d[0]; r++)
        memcpy(ad->y + r * d[1],
               ad->x + (which == 'a' ? r : at_hf_row(&s->place, r)) * d[1],
               d[1] * sizeof *ad->x);
    snprintf(name, sizeof name, "params/%s.lora_%c.weight", s->ours, which);
    return at_h5_put(ad->cx, f, name, AT_H5_F32, 2, d, ad->y);
}

static void add_target(struct at_text *t, const char *site)
{
    at_text_addf(t, t->n ? "|" : "^(");
    for (; *site; site++)
        at_text_addf(t, *site == '.' ? "\\%c" : "%c", *site);
}

static int put_site(struct adapter *ad, struct at_h5 *f, const struct site *s)
{
    const struct at_st_tensor *a = their_half(ad, s, 'A');
    const struct at_st_tensor *b = their_half(ad, s, 'B');
    int rc;
    if (!a && !b)
        return AT_OK;
    if (s->place.shared)
        return at_fail(ad->cx, AT_EINVAL, "%s: adapts '%s', which attune takes "
                       "apart: merge the adapter with PEFT and import the model",
                       ad->dir, s->theirs);
    if (!a || !b)
        return at_fail(ad->cx, AT_EFORMAT, "%s: has only one half of the "
                       "adapter on '%s'", ad->dir, s->theirs);
    rc = put_half(ad, f, s, 'a', a);
    if (rc == AT_OK)
        rc = put_half(ad, f, s, 'b', b);
    add_target(&ad->targets, s->ours);
    ad->n_used += 2;
    return rc;
}

static const struct at_st_tensor *their_head(const struct adapter *ad,
                                             const struct at_param *p)
{
    struct at_hf_place place;
    char name[AT_ST_NAME + 64];
    if (!head_place(ad->family, &ad->base->d, p, &place))
        return NULL;
    snprintf(name, sizeof name, "%s%s", root, place.name);
    return at_st_find(ad->st, name);
}

static int put_head(struct adapter *ad, struct at_h5 *f,
                    const struct at_param *p)
{
    const struct at_st_tensor *t = their_head(ad, p);
    const struct at_shape *s = &p->val.shape;
    size_t n = at_shape_count(s);
    char name[64], want[96];
    int rc;
    if (!t)
        return AT_OK;
    rc = at_grow(ad->cx, &ad->x, &ad->cap_x, n, sizeof *ad->x);
    if (rc == AT_OK && (t->n_dims != s->n ||
                        memcmp(t->d, s->d, s->n * sizeof *t->d)))
        rc = at_fail(ad->cx, AT_EFORMAT, "%s: tensor '%s' must be %s", ad->dir,
                     t->name, at_shape_text(want, s));
    if (rc == AT_OK)
        rc = at_st_get(ad->cx, ad->st, t, 0, n, ad->x);
    if (rc == AT_OK && !at_all_finite(ad->x, n))
        rc = at_fail(ad->cx, AT_EFORMAT, "%s: tensor '%s' holds numbers that "
                     "are not finite", ad->dir, t->name);
    snprintf(name, sizeof name, "params/%s", p->val.name);
    if (rc == AT_OK)
        rc = at_h5_put(ad->cx, f, name, AT_H5_F32, s->n, s->d, ad->x);
    ad->n_used++;
    return rc;
}

/* What PEFT kept whole must be parts of the head: it lists the usual two names
 * of such whether or not there is one.                                       */
static int check_kept(struct adapter *ad)
{
    size_t i;
    json_t *v;
    json_array_foreach(ad->kept, i, v) {
        const char *name = json_string_value(v);
        bool known = name && (strcmp(name, "classifier") == 0 ||
                              strcmp(name, "score") == 0);
        for (size_t k = 0; k < ad->ps.n && name && !known; k++) {
            const struct at_st_tensor *t = their_head(ad, ad->ps.p[k]);
            char module[AT_ST_NAME];
            if (!t)
                continue;
            module_of(ad->family, t->name + sizeof root - 1, module);
            known = strcmp(module, name) == 0 ||
                    (strlen(name) < strlen(module) &&
                     strstr(module, name) != NULL);
        }
        if (!known)
            return at_fail(ad->cx, AT_EINVAL, "%s: modules_to_save has '%.60s', "
                           "which is no part of a classification head", ad->dir,
                           name ? name : "");
    }
    return AT_OK;
}

static int name_unused(struct adapter *ad)
{
    for (size_t i = 0; i < at_st_count(ad->st); i++) {
        const char *name = at_st_at(ad->st, i)->name;
        bool used = false;
        for (size_t k = 0; k < ad->ps.n && !used; k++) {
            struct site s;
            if (site_of(ad->family, &ad->base->d, ad->ps.p[k], &s))
                used = at_st_at(ad->st, i) == their_half(ad, &s, 'A') ||
                       at_st_at(ad->st, i) == their_half(ad, &s, 'B');
            used |= at_st_at(ad->st, i) == their_head(ad, ad->ps.p[k]);
        }
        if (!used)
            return at_fail(ad->cx, AT_EFORMAT, "%s: tensor '%s' has no place in "
                           "an adapter of %s", ad->dir, name, ad->base->path);
    }
    return at_fail(ad->cx, AT_EFORMAT, "%s: adapts nothing", ad->dir);
}

static int put_facts(struct adapter *ad, struct at_h5 *f)
{
    struct at_ctx *cx = ad->cx;
    struct at_adapters list = { 0 };
    struct at_lora_settings s = { .rank = ad->rank, .alpha = ad->alpha };
    char *real = realpath(ad->base->path, NULL);
    int rc = at_model_put_head(cx, f, &ad->base->d, ad->base->tok);
    at_text_addf(&ad->targets, ")$");
    if (rc == AT_OK)
        rc = at_text_ok(cx, &ad->targets);
    s.targets = ad->targets.s;
    if (rc == AT_OK)
        rc = at_adapters_add(cx, &cx->run, &at_lora_kind, &s, &list);
    if (rc == AT_OK)
        rc = at_adapters_put(cx, f, &list, real ? real : ad->base->path,
                             ad->base->id);
    at_adapters_destroy(&list);
    free(real);
    return rc;
}

static int write_adapter(struct adapter *ad, const char *out)
{
    struct at_h5 *f;
    int rc = at_h5_create(ad->cx, out, "model", &f);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < ad->ps.n && rc == AT_OK; i++) {
        struct site s;
        if (site_of(ad->family, &ad->base->d, ad->ps.p[i], &s))
            rc = put_site(ad, f, &s);
        else if (at_decoder_owns_value(ad->ps.p[i]->val.name))
            rc = put_head(ad, f, ad->ps.p[i]);
    }
    if (rc == AT_OK && (ad->n_used == 0 || ad->n_used != at_st_count(ad->st)))
        rc = name_unused(ad);
    if (rc == AT_OK)
        rc = put_facts(ad, f);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    return at_h5_commit(ad->cx, f);
}

/* A head that comes with the adapter: its labels have numbers for names.     */
static int describe_head(struct adapter *ad)
{
    struct at_decoder *d = &ad->base->d;
    struct at_shape one = at_shape2(1, d->C);
    const struct at_st_tensor *t = NULL;
    struct at_hf_place place;
    char name[AT_ST_NAME + 64];
    if (at_hf_place(ad->family, d, "value.weight", &one, &place)) {
        snprintf(name, sizeof name, "%s%s", root, place.name);
        t = at_st_find(ad->st, name);
    }
    return d->value || !t ? AT_OK
                          : at_hf_plain_labels(ad->cx, t->d[0], d);
}

static int open_base(struct adapter *ad, const char *base)
{
    int rc = at_model_open(ad->cx, &ad->cx->run, base, &ad->base);
    if (rc == AT_OK && ad->base->base)
        rc = at_fail(ad->cx, AT_EINVAL, "%s: is an adapter itself", base);
    if (rc == AT_OK)
        rc = at_hf_family(ad->cx, &ad->base->d, &ad->family);
    if (rc == AT_OK)
        rc = describe_head(ad);
    if (rc == AT_OK)
        rc = at_model_declare(ad->cx, &ad->base->d, &ad->ps);
    return rc == AT_OK ? check_kept(ad) : rc;
}

int at_hf_import_peft(struct at_ctx *cx, const char *dir, const char *base,
                      const char *out)
{
    struct adapter ad = { .cx = cx, .dir = dir };
    int rc;
    at_params_init(&ad.ps, cx, &cx->plan);
    rc = read_config(&ad);
    if (rc == AT_OK)
        rc = at_st_open(cx, &cx->run, dir, "adapter_model", &ad.st);
    if (rc == AT_OK)
        rc = open_base(&ad, base);
    if (rc == AT_OK)
        rc = write_adapter(&ad, out);
    json_decref(ad.kept);
    at_st_close(ad.st);
    at_model_close(ad.base);
    at_params_finish(&ad.ps);
    at_text_finish(&ad.targets);
    at_free(ad.x);
    at_free(ad.y);
    return rc < 0 ? at_note(cx, rc, "importing the adapter %s", dir) : AT_OK;
}
