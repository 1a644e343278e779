/* A loaded recipe: its values, its places, its identity. */
#include "recipes/load.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* The value of a key that must be in the table, of a type in `types`. */
static const struct at_value *get(const struct at_recipe *r, const char *key,
                                  unsigned types)
{
    const struct at_key *k = at_key_find(key);
    bool known = k && (types & 1u << k->type);
    assert(known && "a key of the table, asked for by its type");
    if (!known)
        abort();
    return &r->value[k - at_keys];
}

int64_t at_recipe_int(const struct at_recipe *r, const char *key)
{
    return get(r, key, 1u << AT_T_INT)->i;
}

double at_recipe_real(const struct at_recipe *r, const char *key)
{
    return get(r, key, 1u << AT_T_REAL)->x;
}

bool at_recipe_bool(const struct at_recipe *r, const char *key)
{
    return get(r, key, 1u << AT_T_BOOL)->b;
}

const char *at_recipe_text(const struct at_recipe *r, const char *key)
{
    return get(r, key, 1u << AT_T_TEXT | 1u << AT_T_CHOICE |
               1u << AT_T_PATTERN | 1u << AT_T_PATH)->text;
}

struct at_strings at_recipe_list(const struct at_recipe *r, const char *key)
{
    return get(r, key, 1u << AT_T_LIST)->list;
}

bool at_recipe_given(const struct at_recipe *r, const char *key)
{
    return get(r, key, ~0u)->given;
}

struct at_src at_recipe_src(const struct at_recipe *r, const char *key)
{
    return get(r, key, ~0u)->src;
}

static int value_text(struct at_ctx *cx, struct at_arena *a,
                      const struct at_key *k, const struct at_value *v,
                      const char **text)
{
    struct at_text t = { 0 };
    int rc;
    char *s = NULL;
    at_value_print(k, v, &t);
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK) {
        s = at_strndup(cx, a, t.s, t.n);
        rc = s ? AT_OK : AT_ENOMEM;
    }
    at_text_finish(&t);
    if (rc == AT_OK)
        *text = s;
    return rc;
}

int at_recipe_value(struct at_ctx *cx, struct at_arena *a,
                    const struct at_recipe *r, const char *key,
                    const char **text)
{
    const struct at_value *v = get(r, key, ~0u);
    return value_text(cx, a, &at_keys[v - r->value], v, text);
}

int at_recipe_default(struct at_ctx *cx, struct at_arena *a, const char *key,
                      const char **text)
{
    struct at_value *values = at_alloc_n(cx, a, at_n_keys, sizeof *values);
    struct at_recipe r = { "", values };
    struct at_load l = { .cx = cx, .arena = a, .r = &r };
    const struct at_key *k;
    if (!values)
        return AT_ENOMEM;
    k = &at_keys[get(&r, key, ~0u) - values];
    if (!at_value_default(&l, k))
        return AT_ENOMEM;
    return value_text(cx, a, k, &values[k - at_keys], text);
}

const char *at_recipe_key(size_t i)
{
    return i < at_n_keys ? at_keys[i].name : NULL;
}

int at_recipe_hash(struct at_ctx *cx, const struct at_recipe *r,
                   struct at_hash *h)
{
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; i < at_n_keys; i++) {
        at_text_addf(&t, "%s=", at_keys[i].name);
        at_value_print(&at_keys[i], &r->value[i], &t);
        at_text_add(&t, "\n", 1);
    }
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        *h = at_hash(t.s, t.n);
    at_text_finish(&t);
    return rc;
}
