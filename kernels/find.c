/* Backends by their recipe word. */
#include "kernels/kernels.h"

#include <string.h>

int at_kernels_find(struct at_ctx *cx, const char *name,
                    const struct at_kernels **k)
{
    if (strcmp(name, "ref") == 0) {
        *k = &at_kernels_ref;
        return AT_OK;
    }
#ifndef AT_REAL64
    if (strcmp(name, "cpu") == 0)
        return at_kernels_cpu(cx, k);
#endif
    return at_fail(cx, AT_EINVAL, "backend '%s' is not one of ref, cpu", name);
}
