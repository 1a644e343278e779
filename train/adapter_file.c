/* Adapters in recipes and in files. */
#include "train/adapter_file.h"

#include <string.h>

enum { NAME = 64, KINDS = 256 };

static void *field(void *settings, const struct at_setting *s)
{
    return (char *)settings + s->at;
}

static const void *const_field(const void *settings, const struct at_setting *s)
{
    return (const char *)settings + s->at;
}

/* "lora.rank" as a file's fact: "lora_rank". */
static const char *fact(char name[NAME], const char *key)
{
    size_t i = 0;
    for (; key[i] && i + 1 < NAME; i++)
        name[i] = key[i] == '.' ? '_' : key[i];
    name[i] = '\0';
    return name;
}

static void from_recipe(const struct at_recipe *r, const struct at_setting *s,
                        void *to)
{
    if (s->type == AT_SET_INT)
        *(size_t *)to = (size_t)at_recipe_int(r, s->key);
    else if (s->type == AT_SET_REAL)
        *(double *)to = at_recipe_real(r, s->key);
    else
        *(const char **)to = at_recipe_text(r, s->key);
}

int at_adapters_from_recipe(struct at_ctx *cx, struct at_arena *arena,
                            const struct at_recipe *r, struct at_adapters *list)
{
    for (size_t k = 0; at_adapter_kinds[k]; k++) {
        const struct at_adapter_kind *kind = at_adapter_kinds[k];
        const struct at_setting *s = kind->settings;
        void *settings;
        int rc;
        if (at_recipe_int(r, s->key) == 0)
            continue;
        settings = at_alloc(cx, arena, kind->settings_size);
        if (!settings)
            return AT_ENOMEM;
        for (; s->key; s++)
            from_recipe(r, s, field(settings, s));
        cx->at = at_recipe_src(r, kind->targets);
        rc = at_adapters_add(cx, arena, kind, settings, list);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

static int put_one(struct at_ctx *cx, struct at_h5 *f,
                   const struct at_setting *s, const void *value)
{
    char name[NAME];
    fact(name, s->key);
    if (s->type == AT_SET_INT)
        return at_h5_set_int(cx, f, name, (int64_t)*(const size_t *)value);
    if (s->type == AT_SET_REAL)
        return at_h5_set_real(cx, f, name, *(const double *)value);
    return at_h5_set_text(cx, f, name, *(const char *const *)value);
}

int at_adapters_put(struct at_ctx *cx, struct at_h5 *f,
                    const struct at_adapters *list, const char *base_path,
                    const char *base_id)
{
    char kinds[KINDS] = "";
    size_t used = 0;
    int rc = AT_OK;
    for (size_t i = 0; i < list->n && rc == AT_OK; i++) {
        const struct at_adapter *a = list->a[i];
        used += (size_t)snprintf(kinds + used, sizeof kinds - used, "%s%s",
                                 i ? "," : "", a->kind->name);
        for (const struct at_setting *s = a->kind->settings;
             s->key && rc == AT_OK; s++)
            if (!s->training)
                rc = put_one(cx, f, s, const_field(a->settings, s));
    }
    if (rc == AT_OK)
        rc = at_h5_put_bytes(cx, f, "adapter", kinds, used);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "base_path", base_path);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "base_id", base_id);
    return rc;
}

static int get_one(struct at_ctx *cx, struct at_arena *arena, struct at_h5 *f,
                   const struct at_setting *s, bool first, void *to)
{
    char name[NAME];
    int64_t n;
    int rc;
    fact(name, s->key);
    if (s->type == AT_SET_REAL)
        return at_h5_get_real(cx, f, name, to);
    if (s->type == AT_SET_TEXT)
        return at_h5_get_text(cx, f, name, arena, to);
    rc = at_h5_get_int(cx, f, name, &n);
    if (rc == AT_OK && (n < first || n > (INT64_C(1) << 40)))
        rc = at_fail(cx, AT_EFORMAT, "%s: %s is out of range", at_h5_path(f),
                     name);
    if (rc == AT_OK)
        *(size_t *)to = (size_t)n;
    return rc;
}

static int get_kind(struct at_ctx *cx, struct at_arena *arena, struct at_h5 *f,
                    const struct at_adapter_kind *kind,
                    struct at_adapters *list)
{
    void *settings = at_alloc(cx, arena, kind->settings_size);
    int rc = settings ? AT_OK : AT_ENOMEM;
    for (const struct at_setting *s = kind->settings; s->key && rc == AT_OK; s++)
        if (!s->training)
            rc = get_one(cx, arena, f, s, s == kind->settings,
                         field(settings, s));
    return rc == AT_OK ? at_adapters_add(cx, arena, kind, settings, list) : rc;
}

static const struct at_adapter_kind *find_kind(const char *name, size_t n)
{
    for (size_t k = 0; at_adapter_kinds[k]; k++)
        if (strlen(at_adapter_kinds[k]->name) == n &&
            memcmp(at_adapter_kinds[k]->name, name, n) == 0)
            return at_adapter_kinds[k];
    return NULL;
}

int at_adapters_get(struct at_ctx *cx, struct at_arena *arena, struct at_h5 *f,
                    struct at_adapters *list)
{
    char *kinds;
    size_t n, to;
    int rc = at_h5_get_bytes(cx, f, "adapter", arena, KINDS, &kinds, &n);
    for (size_t at = 0; rc == AT_OK && at < n; at = to + 1) {
        const struct at_adapter_kind *kind;
        for (to = at; to < n && kinds[to] != ','; )
            to++;
        kind = find_kind(kinds + at, to - at);
        if (!kind || at_adapters_find(list, kind))
            return at_fail(cx, AT_EFORMAT, "%s: holds an adapter of kind '%.*s', "
                           "which this version does not know",
                           at_h5_path(f), (int)(to - at), kinds + at);
        rc = get_kind(cx, arena, f, kind, list);
    }
    if (rc == AT_OK && list->n == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: names no kind of adapter",
                     at_h5_path(f));
    return rc;
}

static bool same(const struct at_setting *s, const void *a, const void *b)
{
    if (s->type == AT_SET_INT)
        return *(const size_t *)a == *(const size_t *)b;
    if (s->type == AT_SET_REAL)
        return *(const double *)a == *(const double *)b;
    return strcmp(*(const char *const *)a, *(const char *const *)b) == 0;
}

static void print(char *buf, size_t n, const struct at_setting *s, const void *v)
{
    if (s->type == AT_SET_INT)
        snprintf(buf, n, "%zu", *(const size_t *)v);
    else if (s->type == AT_SET_REAL)
        snprintf(buf, n, "%g", *(const double *)v);
    else
        snprintf(buf, n, "'%s'", *(const char *const *)v);
}

int at_adapters_match(struct at_ctx *cx, const struct at_adapters *mine,
                      const struct at_adapters *file, const char *path)
{
    for (size_t i = 0; i < file->n; i++) {
        const struct at_adapter_kind *kind = file->a[i]->kind;
        const struct at_adapter *a = at_adapters_find(mine, kind);
        if (!a)
            return at_fail(cx, AT_EINVAL, "%s is an adapter (%s): merge it "
                           "first ('attune merge'), or train it further (%s)",
                           path, kind->name, kind->settings->key);
        for (const struct at_setting *s = kind->settings; s->key; s++) {
            const void *theirs = const_field(file->a[i]->settings, s);
            char text[256];
            if (s->training || same(s, const_field(a->settings, s), theirs))
                continue;
            print(text, sizeof text, s, theirs);
            return at_fail(cx, AT_EINVAL, "%s is an adapter whose %s is %s: the "
                           "recipe must say the same", path, s->key, text);
        }
    }
    return AT_OK;
}
