/* Strings to numbers, and special tokens in text. */
#include "data/tok.h"

#include <stdlib.h>
#include <string.h>

int tok_table_init(struct at_ctx *cx, struct at_arena *a, struct tok_table *t,
                   const struct tok_str *str, size_t n)
{
    size_t cap = 16;
    while (cap < 2 * n)
        cap *= 2;
    t->slot = at_alloc_n(cx, a, cap, sizeof *t->slot);
    if (!t->slot)
        return AT_ENOMEM;
    t->str = str;
    t->mask = cap - 1;
    return AT_OK;
}

static uint32_t *seek(const struct tok_table *t, const char *s, size_t n)
{
    size_t i = (size_t)at_hash(s, n).lo & t->mask;
    for (;; i = (i + 1) & t->mask) {
        const struct tok_str *have;
        if (t->slot[i] == 0)
            return &t->slot[i];
        have = &t->str[t->slot[i] - 1];
        if (have->n == n && memcmp(have->s, s, n) == 0)
            return &t->slot[i];
    }
}

uint32_t tok_table_add(struct tok_table *t, uint32_t i)
{
    uint32_t *slot = seek(t, t->str[i].s, t->str[i].n);
    if (*slot == 0)
        *slot = i + 1;
    return *slot - 1;
}

uint32_t tok_table_find(const struct tok_table *t, const char *s, size_t n)
{
    return *seek(t, s, n) - 1;          /* a free slot wraps to TOK_NEVER    */
}

static int longer(const void *a, const void *b)
{
    const size_t *x = a, *y = b;
    return (*x < *y) - (*x > *y);
}

int tok_finder_init(struct at_ctx *cx, struct at_arena *a,
                    struct tok_finder *f, const struct tok_str *str,
                    const bool *want, size_t n)
{
    size_t n_len = 0, n_want = 0;
    int rc;
    for (size_t i = 0; i < n; i++)
        n_want += !want || want[i];
    f->len = at_alloc_n(cx, a, n_want, sizeof *f->len);
    if (!f->len)
        return AT_ENOMEM;
    rc = tok_table_init(cx, a, &f->table, str, n_want);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        if (want && !want[i])
            continue;
        if (tok_table_add(&f->table, (uint32_t)i) != i)
            return at_fail(cx, AT_EINVAL, "the special token '%.*s' is given "
                           "twice", (int)str[i].n, str[i].s);
        f->first[(unsigned char)str[i].s[0]] = true;
        f->len[n_len++] = str[i].n;
    }
    qsort(f->len, n_len, sizeof *f->len, longer);
    f->n_len = 0;
    for (size_t i = 0; i < n_len; i++)
        if (i == 0 || f->len[i] != f->len[i - 1])
            f->len[f->n_len++] = f->len[i];
    return AT_OK;
}

bool tok_finder_next(const struct tok_finder *f, const char *s, size_t n,
                     size_t at, size_t *where, uint32_t *which)
{
    if (f->n_len == 0)
        return false;
    for (; at < n; at++) {
        if (!f->first[(unsigned char)s[at]])
            continue;
        for (size_t i = 0; i < f->n_len; i++) {
            uint32_t id;
            if (f->len[i] > n - at)
                continue;
            id = tok_table_find(&f->table, s + at, f->len[i]);
            if (id != TOK_NEVER) {
                *where = at;
                *which = id;
                return true;
            }
        }
    }
    return false;
}
