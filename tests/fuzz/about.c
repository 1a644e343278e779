/* Fuzzes reading what a trainer says of its run.  What is read must be written
 * back and read the same.                                                     */
#include "train/offload/about.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct at_about a, b;
    struct at_text one = { 0 }, two = { 0 };
    struct at_ctx cx;
    char *copy = malloc(n + 1);
    require(copy != NULL, "memory");
    memcpy(copy, data, n);
    at_ctx_init(&cx);
    if (at_about_read(&cx, &cx.run, copy, n, &a) == AT_OK) {
        at_about_write(&a, &one);
        require(at_about_read(&cx, &cx.run, one.s, one.n, &b) == AT_OK,
                "what was written is not read");
        at_about_write(&b, &two);
        require(one.n == two.n && memcmp(one.s, two.s, one.n) == 0,
                "what is read is not the same");
        at_adapters_destroy(&a.list);
        at_adapters_destroy(&b.list);
    }
    at_text_finish(&one);
    at_text_finish(&two);
    at_ctx_finish(&cx);
    free(copy);
    return 0;
}
