/* Float32 weights in arrays of float32 or bfloat16. */
#include "data/h5.h"
#include "data/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t count(size_t n_dims, const size_t *d)
{
    size_t n = 1;
    for (size_t i = 0; i < n_dims; i++)
        n *= d[i];
    return n;
}

int at_h5_put_weights(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      enum at_h5_type type, size_t n_dims, const size_t *d,
                      const float *x)
{
    size_t n = count(n_dims, d);
    uint16_t *half;
    int rc = AT_OK;
    if (type != AT_H5_BF16)
        return at_h5_put(cx, f, name, AT_H5_F32, n_dims, d, x);
    half = malloc(n * sizeof *half + 1);
    if (!half)
        return at_fail(cx, AT_ENOMEM, "out of memory: '%s' as bfloat16", name);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        half[i] = at_f32_to_bf16(x[i]);
        if (isfinite(x[i]) && !isfinite(at_bf16_to_f32(half[i])))
            rc = at_fail(cx, AT_EINVAL, "'%s' holds %g, too large for bfloat16",
                         name, (double)x[i]);
    }
    if (rc == AT_OK)
        rc = at_h5_put(cx, f, name, AT_H5_BF16, n_dims, d, half);
    free(half);
    return rc;
}

/* The halves are read into the later half of x and widened from the front.   */
int at_h5_get_weights(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      size_t n_dims, const size_t *d, float *x)
{
    struct at_h5_info info;
    size_t n = count(n_dims, d);
    const char *half = (const char *)x + n * sizeof(uint16_t);
    int rc = at_h5_info(cx, f, name, &info);
    if (rc < 0)
        return rc;
    if (info.type != AT_H5_BF16)
        return at_h5_get(cx, f, name, AT_H5_F32, n_dims, d, x);
    rc = at_h5_get(cx, f, name, AT_H5_BF16, n_dims, d,
                   (char *)x + n * sizeof(uint16_t));
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        uint16_t h;
        float wide;
        memcpy(&h, half + i * sizeof h, sizeof h);
        wide = at_bf16_to_f32(h);
        memcpy(x + i, &wide, sizeof wide);
    }
    return rc;
}
