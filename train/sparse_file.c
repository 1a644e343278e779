/* Sparse weights, read and written. */
#include "train/sparse_file.h"

#include <string.h>

static const char *name_of(char buf[AT_H5_NAME], const char *name,
                           const char *part)
{
    snprintf(buf, AT_H5_NAME, "params/%s%s", name, part);
    return buf;
}

bool at_sparse_held(struct at_h5 *f, const char *name)
{
    char buf[AT_H5_NAME];
    return at_h5_has(f, name_of(buf, name, "/bits"));
}

int at_sparse_get_mask(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       size_t M, size_t C, struct at_arena *a, uint8_t **mask)
{
    size_t d[2] = { M, at_mask_row(C) };
    char buf[AT_H5_NAME];
    *mask = at_alloc(cx, a, d[0] * d[1] + 1);
    if (!*mask)
        return AT_ENOMEM;
    return at_h5_get(cx, f, name_of(buf, name, "/bits"), AT_H5_U8, 2, d, *mask);
}

int at_patterns_find(const void *self, const char *name,
                     const struct at_shape *shape, const struct at_sparse **s)
{
    const struct at_patterns *p = self;
    struct at_arena a = { 0 };
    struct at_sparse *made = NULL;
    uint8_t *mask;
    int rc = AT_OK;
    if (shape->n == 2 && at_sparse_held(p->f, name)) {
        rc = at_sparse_get_mask(p->cx, p->f, name, shape->d[0], shape->d[1], &a,
                                &mask);
        if (rc == AT_OK)
            rc = at_sparse_create(p->cx, p->arena, shape->d[0], shape->d[1],
                                  mask, p->turned, &made);
    }
    at_arena_finish(&a);
    *s = made;
    return rc;
}

static size_t count_bits(const uint8_t *mask, size_t M, size_t C)
{
    size_t n = 0;
    for (size_t i = 0; i < M; i++)
        for (size_t c = 0; c < C; c++)
            n += at_mask_get(mask + i * at_mask_row(C), c);
    return n;
}

/* The values of a mask with n bits, row by row, in arena a.                  */
static int get_values(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      size_t n, struct at_arena *a, float **values)
{
    char buf[AT_H5_NAME];
    *values = at_alloc_n(cx, a, n + 1, sizeof **values);
    return *values ? at_h5_get_weights(cx, f, name_of(buf, name, "/values"), 1,
                                       &n, *values)
                   : AT_ENOMEM;
}

static int get_filled(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      const struct at_shape *shape, struct at_arena *a,
                      float *w)
{
    size_t M = shape->d[0], C = shape->d[1];
    uint8_t *mask;
    float *values;
    int rc = at_sparse_get_mask(cx, f, name, M, C, a, &mask);
    if (rc == AT_OK)
        rc = get_values(cx, f, name, count_bits(mask, M, C), a, &values);
    for (size_t i = 0; i < M && rc == AT_OK; i++)
        for (size_t c = 0; c < C; c++)
            w[i * C + c] = at_mask_get(mask + i * at_mask_row(C), c) ? *values++
                                                                     : 0;
    return rc;
}

int at_weights_get(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   const struct at_shape *shape, float *w)
{
    struct at_arena a = { 0 };
    char buf[AT_H5_NAME];
    int rc;
    if (shape->n != 2 || !at_sparse_held(f, name))
        return at_h5_get_weights(cx, f, name_of(buf, name, ""), shape->n,
                                 shape->d, w);
    rc = get_filled(cx, f, name, shape, &a, w);
    at_arena_finish(&a);
    return rc;
}

int at_weights_get_val(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       struct at_val *v, size_t *arrays)
{
    const struct at_sparse *s = v->sparse;
    struct at_arena a = { 0 };
    float *values;
    int rc;
    *arrays += at_sparse_held(f, name) ? 2 : 1;
    if (!s)
        return at_weights_get(cx, f, name, &v->shape, v->data);
    rc = get_values(cx, f, name, s->n, &a, &values);
    if (rc == AT_OK)
        at_sparse_from_rows(s, v->data, values);
    if (rc == AT_OK && s->turned)
        rc = at_sparse_turn(cx, s, at_turned(v), v->data);
    at_arena_finish(&a);
    return rc;
}

static int put_parts(struct at_ctx *cx, struct at_h5 *f, const char *name,
                     enum at_h5_type type, size_t M, size_t C,
                     const uint8_t *mask, size_t n, const float *values)
{
    size_t d[2] = { M, at_mask_row(C) };
    char buf[AT_H5_NAME];
    int rc = at_h5_put(cx, f, name_of(buf, name, "/bits"), AT_H5_U8, 2, d, mask);
    return rc < 0 ? rc : at_h5_put_weights(cx, f, name_of(buf, name, "/values"),
                                           type, 1, &n, values);
}

int at_sparse_put(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  enum at_h5_type type, size_t M, size_t C, const uint8_t *mask,
                  const float *w)
{
    struct at_arena a = { 0 };
    size_t n = count_bits(mask, M, C), at = 0;
    float *values = at_alloc_n(cx, &a, n + 1, sizeof *values);
    int rc;
    for (size_t i = 0; i < M && values; i++)
        for (size_t c = 0; c < C; c++)
            if (at_mask_get(mask + i * at_mask_row(C), c))
                values[at++] = w[i * C + c];
    rc = values ? put_parts(cx, f, name, type, M, C, mask, n, values)
                : AT_ENOMEM;
    at_arena_finish(&a);
    return rc;
}

static int put_sparse(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      enum at_h5_type type, const struct at_val *v,
                      struct at_arena *a)
{
    const struct at_sparse *s = v->sparse;
    uint8_t *mask = at_alloc(cx, a, s->M * at_mask_row(s->C) + 1);
    float *values = at_alloc_n(cx, a, s->n + 1, sizeof *values);
    if (!mask || !values)
        return AT_ENOMEM;
    at_sparse_mask(s, mask);
    at_sparse_to_rows(s, values, v->data);
    return put_parts(cx, f, name, type, s->M, s->C, mask, s->n, values);
}

/* Zeros outside of the mask, and of them those that w has.                   */
static void count_zeros(const uint8_t *mask, const float *w, size_t M, size_t C,
                        struct at_zeros *z)
{
    for (size_t i = 0; i < M; i++)
        for (size_t c = 0; c < C; c++)
            if (!at_mask_get(mask + i * at_mask_row(C), c)) {
                z->zeros++;
                z->still += w[i * C + c] == 0;
            }
    z->weights += M * C;
}

int at_weights_put_val(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       enum at_h5_type type, const struct at_val *v,
                       struct at_h5 *masks)
{
    struct at_arena a = { 0 };
    size_t M = v->shape.d[0], C = v->shape.n == 2 ? v->shape.d[1] : 0;
    struct at_zeros z = { 0, 1, 0 };
    uint8_t *mask = NULL;
    char buf[AT_H5_NAME];
    int rc = AT_OK;
    if (v->sparse) {
        rc = put_sparse(cx, f, name, type, v, &a);
        at_arena_finish(&a);
        return rc;
    }
    if (C && masks && at_sparse_held(masks, name)) {
        rc = at_sparse_get_mask(cx, masks, name, M, C, &a, &mask);
        z.zeros = 0;
        if (rc == AT_OK)
            count_zeros(mask, v->data, M, C, &z);
    }
    if (rc == AT_OK)
        rc = z.still == z.zeros
                 ? at_sparse_put(cx, f, name, type, M, C, mask, v->data)
                 : at_h5_put_weights(cx, f, name_of(buf, name, ""), type,
                                     v->shape.n, v->shape.d, v->data);
    at_arena_finish(&a);
    return rc;
}

int at_sparse_count(struct at_ctx *cx, struct at_h5 *masks,
                    const struct at_params *ps, struct at_zeros *z)
{
    int rc = AT_OK;
    *z = (struct at_zeros){ 0 };
    for (size_t i = 0; i < ps->n && rc == AT_OK; i++) {
        const struct at_val *v = &ps->p[i]->val;
        size_t M = v->shape.d[0], C = v->shape.n == 2 ? v->shape.d[1] : 0;
        struct at_arena a = { 0 };
        uint8_t *mask;
        if (v->sparse) {
            z->weights += M * C;
            z->zeros += M * C - v->sparse->n;
            z->still += M * C - v->sparse->n;
        } else if (C && at_sparse_held(masks, v->name)) {
            rc = at_sparse_get_mask(cx, masks, v->name, M, C, &a, &mask);
            if (rc == AT_OK)
                count_zeros(mask, v->data, M, C, z);
        }
        at_arena_finish(&a);
    }
    return rc;
}
