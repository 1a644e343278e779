/* The manifest: a sorted list and its text.  Knows nothing of HDF5. */
#include "data/h5_list.h"

#include <stdlib.h>
#include <string.h>

static const struct { const char *name; size_t size; } types[AT_H5_TYPES] = {
    [AT_H5_F32] = { "f32", 4 }, [AT_H5_F64] = { "f64", 8 },
    [AT_H5_U8] = { "u8", 1 },   [AT_H5_U16] = { "u16", 2 },
    [AT_H5_U32] = { "u32", 4 }, [AT_H5_I32] = { "i32", 4 },
    [AT_H5_U64] = { "u64", 8 }, [AT_H5_I64] = { "i64", 8 },
    [AT_H5_BF16] = { "bf16", 2 },
};
static const char *const sorts[] = { "int", "real", "text", "array" };

size_t at_h5_size(enum at_h5_type type)
{
    return types[type].size;
}

const char *at_h5_type_name(enum at_h5_type type)
{
    return types[type].name;
}

bool at_h5_info_count(struct at_h5_info *info)
{
    size_t most = ((size_t)1 << 50) / at_h5_size(info->type);
    info->n = 1;
    for (size_t i = 0; i < info->n_dims; i++)
        if (info->d[i] > most)
            return false;
    for (size_t i = 0; i < info->n_dims; i++) {
        if (info->d[i] && info->n > most / info->d[i])
            return false;
        info->n *= info->d[i];
    }
    return true;
}

/* HDF5 reads "." and "//" in a name as a path; so they are no names here.    */
static bool good_name(const char *s, bool array)
{
    size_t n = strlen(s);
    if (n == 0 || n >= AT_H5_NAME || s[0] == '/' || s[n - 1] == '/')
        return false;
    for (size_t i = 0; i < n; i++) {
        bool start = i == 0 || s[i - 1] == '/';
        if (s[i] <= ' ' || s[i] > '~' || (start && array && s[i] == '/'))
            return false;
        if (start && s[i] == '.' && (i + 1 == n || s[i + 1] == '/'))
            return false;
    }
    return true;
}

static int order(bool array, const char *name, const struct at_h5_item *b)
{
    bool b_array = b->sort == AT_H5_ARRAY;
    return array != b_array ? (array ? 1 : -1) : strcmp(name, b->name);
}

/* Where an item stands, or would.                                            */
static size_t place(const struct at_h5_list *l, const char *name, bool array,
                    bool *found)
{
    size_t lo = 0, hi = l->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (order(array, name, l->item[mid]) > 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    *found = lo < l->n && order(array, name, l->item[lo]) == 0;
    return lo;
}

struct at_h5_item *at_h5_list_find(const struct at_h5_list *l,
                                   const char *name, bool array)
{
    bool found;
    size_t i = place(l, name, array, &found);
    return found ? l->item[i] : NULL;
}

int at_h5_list_add(struct at_ctx *cx, struct at_arena *a,
                   struct at_h5_list *l, const struct at_h5_item *item,
                   struct at_h5_item **kept)
{
    struct at_h5_item *copy;
    size_t i;
    bool found, array = item->sort == AT_H5_ARRAY;
    if (!good_name(item->name, array))
        return at_fail(cx, AT_EINVAL, "'%.64s' is no name for an array or a "
                       "fact", item->name);
    i = place(l, item->name, array, &found);
    if (found)
        return at_fail(cx, AT_EINVAL, "'%s' is there twice", item->name);
    if (l->n == AT_H5_ITEMS)
        return at_fail(cx, AT_EINVAL, "there are more than %d arrays and facts",
                       AT_H5_ITEMS);
    if (at_grow(cx, &l->item, &l->cap, l->n + 1, sizeof *l->item) < 0)
        return AT_ENOMEM;
    copy = at_alloc(cx, a, sizeof *copy);
    if (!copy)
        return AT_ENOMEM;
    *copy = *item;
    copy->name = at_strdup(cx, a, item->name);
    if (item->text)
        copy->text = at_strdup(cx, a, item->text);
    if (!copy->name || (item->text && !copy->text))
        return AT_ENOMEM;
    memmove(l->item + i + 1, l->item + i, (l->n - i) * sizeof *l->item);
    l->item[i] = copy;
    l->n++;
    if (kept)
        *kept = copy;
    return AT_OK;
}

void at_h5_list_finish(struct at_h5_list *l)
{
    at_free(l->item);
    *l = (struct at_h5_list){ 0 };
}

/* ---- out ------------------------------------------------------------------- */

int at_h5_list_print(struct at_ctx *cx, const struct at_h5_list *l,
                     struct at_text *t)
{
    at_text_addf(t, "attune-manifest %d %s %s\n", AT_H5_SCHEMA, l->kind,
                 AT_VERSION);
    for (size_t i = 0; i < l->n; i++) {
        const struct at_h5_item *v = l->item[i];
        uint64_t bits;
        char hex[33];
        at_text_addf(t, "%s %s ", sorts[v->sort], v->name);
        switch (v->sort) {
        case AT_H5_INT:
            at_text_addf(t, "%lld", (long long)v->i);
            break;
        case AT_H5_REAL:
            memcpy(&bits, &v->r, sizeof bits);
            at_text_addf(t, "%016llx", (unsigned long long)bits);
            break;
        case AT_H5_STRING:
            at_text_addf(t, "%zu\n%s", strlen(v->text), v->text);
            break;
        case AT_H5_ARRAY:
            at_hash_hex(v->hash, hex);
            at_text_addf(t, "%s %s", at_h5_type_name(v->info.type), hex);
            for (size_t k = 0; k < v->info.n_dims; k++)
                at_text_addf(t, " %zu", v->info.d[k]);
            break;
        }
        at_text_addf(t, "\n");
    }
    return at_text_ok(cx, t);
}

/* ---- in -------------------------------------------------------------------- */

/* The next word of the line into w; it ends at a space, which is taken, or at
 * the line feed, which is not.                                               */
static bool word(const char **s, char *w, size_t cap)
{
    size_t n = strcspn(*s, " \n");
    if (n == 0 || n >= cap)
        return false;
    memcpy(w, *s, n);
    w[n] = '\0';
    *s += n + ((*s)[n] == ' ' ? 1 : 0);
    return true;
}

static bool hex64(const char *w, uint64_t *v)
{
    *v = 0;
    for (int i = 0; i < 16; i++) {
        char c = w[i];
        unsigned d = c >= '0' && c <= '9' ? (unsigned)(c - '0')
                     : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10) : 16;
        if (d == 16)
            return false;
        *v = *v << 4 | d;
    }
    return true;
}

static bool count(const char *w, size_t *v)
{
    char *end;
    if (*w < '0' || *w > '9' || strlen(w) > 18)
        return false;
    *v = strtoull(w, &end, 10);
    return *end == '\0';
}

static bool parse_array(const char **s, struct at_h5_item *v)
{
    char w[64];
    v->info.type = 0;
    if (!word(s, w, sizeof w))
        return false;
    while (v->info.type < AT_H5_TYPES &&
           strcmp(w, types[v->info.type].name) != 0)
        v->info.type++;
    if (v->info.type == AT_H5_TYPES || !word(s, w, sizeof w) ||
        strlen(w) != 32 || !hex64(w, &v->hash.hi) ||
        !hex64(w + 16, &v->hash.lo))
        return false;
    while (**s != '\n') {
        size_t *d = &v->info.d[v->info.n_dims];
        if (v->info.n_dims++ == AT_H5_DIMS || !word(s, w, sizeof w) ||
            !count(w, d))
            return false;
    }
    v->n_bytes = 0;
    if (v->info.n_dims == 0 || !at_h5_info_count(&v->info))
        return false;
    v->n_bytes = v->info.n * at_h5_size(v->info.type);
    return true;
}

/* The text is copied by the list; *cut is where a NUL was put for it.        */
static bool parse_text(const char **s, const char *end, struct at_text *hold,
                       struct at_h5_item *v)
{
    char w[64];
    size_t n;
    if (!word(s, w, sizeof w) || !count(w, &n) || **s != '\n' ||
        n > AT_H5_TEXT || n + 2 > (size_t)(end - *s))
        return false;
    hold->n = 0;
    at_text_add(hold, *s + 1, n);
    *s += 1 + n;
    if (hold->failed || memchr(hold->s, '\0', n))
        return false;
    v->text = hold->s;
    return true;
}

static bool parse_item(const char **s, const char *end, char *name,
                       struct at_text *hold, struct at_h5_item *v)
{
    char w[64], *stop;
    uint64_t bits;
    bool ok = word(s, w, sizeof w) && word(s, name, AT_H5_NAME);
    *v = (struct at_h5_item){ .name = name };
    while (ok && v->sort < AT_COUNT(sorts) && strcmp(w, sorts[v->sort]) != 0)
        v->sort++;
    if (!ok || v->sort == AT_COUNT(sorts))
        return false;
    switch (v->sort) {
    case AT_H5_INT:
        ok = word(s, w, sizeof w);
        v->i = ok ? strtoll(w, &stop, 10) : 0;
        ok = ok && *stop == '\0';
        break;
    case AT_H5_REAL:
        ok = word(s, w, sizeof w) && strlen(w) == 16 && hex64(w, &bits);
        if (ok)
            memcpy(&v->r, &bits, sizeof bits);
        break;
    case AT_H5_STRING:
        ok = parse_text(s, end, hold, v);
        break;
    case AT_H5_ARRAY:
        ok = parse_array(s, v);
        break;
    }
    return ok && *(*s)++ == '\n';
}

static int parse_head(struct at_ctx *cx, const char *path, const char **s,
                      struct at_h5_list *l)
{
    char w[64];
    size_t schema = 0;
    if (!word(s, w, sizeof w) || strcmp(w, "attune-manifest") != 0 ||
        !word(s, w, sizeof w) || !count(w, &schema) || schema < 1)
        return at_fail(cx, AT_EFORMAT, "%s: its manifest cannot be read", path);
    if (schema > AT_H5_SCHEMA)
        return at_fail(cx, AT_EFORMAT, "%s: was written by a newer attune "
                       "(schema %zu, this one reads %d): update attune", path,
                       schema, AT_H5_SCHEMA);
    if (!word(s, l->kind, sizeof l->kind) || !word(s, w, sizeof w) ||
        *(*s)++ != '\n')
        return at_fail(cx, AT_EFORMAT, "%s: its manifest cannot be read", path);
    return AT_OK;
}

int at_h5_list_parse(struct at_ctx *cx, struct at_arena *a, const char *path,
                     const char *s, size_t n, struct at_h5_list *l)
{
    const char *end = s + n;
    char name[AT_H5_NAME];
    struct at_text hold = { 0 };
    struct at_h5_item v;
    int rc;
    *l = (struct at_h5_list){ 0 };
    rc = parse_head(cx, path, &s, l);
    while (rc == AT_OK && s < end) {
        const struct at_h5_item *last = l->n ? l->item[l->n - 1] : NULL;
        if (!parse_item(&s, end, name, &hold, &v) || s > end ||
            (last && order(v.sort == AT_H5_ARRAY, name, last) <= 0))
            rc = at_fail(cx, AT_EFORMAT, "%s: its manifest cannot be read "
                         "after item %zu", path, l->n);
        else
            rc = at_h5_list_add(cx, a, l, &v, NULL);
    }
    at_text_finish(&hold);
    if (rc < 0)
        at_h5_list_finish(l);
    return rc;
}
