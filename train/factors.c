/* PATTERN=FACTOR. */
#include "train/factors.h"

#include <stdlib.h>
#include <string.h>

/* Split at the last '='.                                                     */
static int open_one(struct at_ctx *cx, const struct at_factors *f,
                    const char *text, const char *example, double most,
                    struct at_factor *one)
{
    const char *split = strrchr(text, '=');
    char *end, *pattern;
    int rc;
    if (split)
        one->factor = strtod(split + 1, &end);
    if (!split || split == text || end == split + 1 || *end ||
        !(one->factor >= 0 && one->factor <= most))
        return at_fail(cx, AT_EINVAL, "%s has '%s'; it must be PATTERN=FACTOR, "
                       "such as '%s', with a factor from 0 to %g", f->key, text,
                       example, most);
    pattern = at_strndup(cx, &cx->scratch, text, (size_t)(split - text));
    if (!pattern)
        return AT_ENOMEM;
    rc = at_pattern_create(cx, pattern, &one->p);
    return rc < 0 ? at_note(cx, rc, "reading %s", f->key) : AT_OK;
}

int at_factors_open(struct at_ctx *cx, struct at_arena *arena,
                    const struct at_recipe *r, const char *key,
                    const char *example, double most, struct at_factors *f)
{
    int rc = AT_OK;
    f->key = key;
    f->text = at_recipe_list(r, key);
    f->at = at_recipe_src(r, key);
    f->one = at_alloc_n(cx, arena, f->text.n + 1, sizeof *f->one);
    if (!f->one)
        return AT_ENOMEM;
    cx->at = f->at;
    for (size_t i = 0; i < f->text.n && rc == AT_OK; i++)
        rc = open_one(cx, f, f->text.s[i], example, most, &f->one[i]);
    return rc;
}

void at_factors_destroy(struct at_factors *f)
{
    for (size_t i = 0; f->one && i < f->text.n; i++)
        at_pattern_destroy(f->one[i].p);
}

size_t at_factors_find(const struct at_factors *f, const char *name)
{
    size_t i = 0;
    while (i < f->text.n && !at_pattern_finds(f->one[i].p, name))
        i++;
    return i;
}
