/* Fuzzes recipes/: a file, then overrides, with NUL bytes between.  What loads
 * must print to what loads again with the same values.                       */
#include "recipes/recipes.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(bool ok, const char *what, const struct at_ctx *cx)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, cx->err.msg);
    abort();
}

static void print_and_compare(struct at_ctx *cx, const struct at_recipe *r,
                              bool all)
{
    struct at_recipe *again;
    struct at_text t = { 0 };
    struct at_hash a, b;
    at_text_add(&t, "", 0);
    require(at_recipe_print(cx, r, all, &t) == AT_OK, "print", cx);
    require(at_recipe_parse(cx, &cx->run, "f.yaml", t.s, t.n, NULL, 0,
                            &again) == AT_OK, "what was printed", cx);
    require(at_recipe_hash(cx, r, &a) == AT_OK, "hash", cx);
    require(at_recipe_hash(cx, again, &b) == AT_OK, "hash", cx);
    require(at_hash_equal(a, b), "values changed by printing", cx);
    at_text_finish(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    enum { OVER_MAX = 16 };
    const char *over[OVER_MAX], *text;
    size_t n_over = 0, n_file;
    struct at_recipe *r;
    struct at_ctx cx;
    at_ctx_init(&cx);
    text = at_strndup(&cx, &cx.run, n ? (const char *)data : "", n);
    if (!text)
        return 0;
    n_file = strlen(text);
    for (size_t i = n_file; i < n && n_over < OVER_MAX; i += strlen(text + i))
        over[n_over++] = text + ++i;
    if (at_recipe_parse(&cx, &cx.run, "f.yaml", text, n_file, over, n_over,
                        &r) == AT_OK) {
        print_and_compare(&cx, r, true);
        print_and_compare(&cx, r, false);
    } else {
        require(cx.err.code == AT_EINVAL && cx.err.msg[0], "a failure", &cx);
    }
    at_ctx_finish(&cx);
    return 0;
}
