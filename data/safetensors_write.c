/* Writing safetensors: the header first, for all sizes are known, then the
 * tensors as they come.                                                      */
#include "data/safetensors.h"

#include <math.h>
#include <string.h>

enum { PIECE = 1 << 16 };       /* elements converted at a time              */

struct at_st_writer {
    struct at_file_out out;
    enum at_st_type type;
    const struct at_st_tensor *t;
    size_t n, i, put;           /* tensor i has `put` elements so far        */
    unsigned char *bytes;       /* [4*PIECE]                                 */
};

static const char *const dtype[] = { "F32", "F16", "BF16" };

static size_t count(const struct at_st_tensor *t)
{
    size_t n = 1;
    for (size_t i = 0; i < t->n_dims; i++)
        n *= t->d[i];
    return n;
}

static void header(struct at_text *h, const struct at_st_writer *w)
{
    uint64_t at = 0;
    at_text_addf(h, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < w->n; i++) {
        const struct at_st_tensor *t = &w->t[i];
        uint64_t end = at + (uint64_t)count(t) * at_st_type_size(w->type);
        at_text_addf(h, ",");
        at_text_json(h, t->name, strlen(t->name));
        at_text_addf(h, ":{\"dtype\":\"%s\",\"shape\":[", dtype[w->type]);
        for (size_t k = 0; k < t->n_dims; k++)
            at_text_addf(h, "%s%zu", k ? "," : "", t->d[k]);
        at_text_addf(h, "],\"data_offsets\":[%llu,%llu]}",
                     (unsigned long long)at, (unsigned long long)end);
        at = end;
    }
    at_text_addf(h, "}");
    while (h->n % 8 != 0 && !h->failed)
        at_text_add(h, " ", 1);
}

static int write_header(struct at_ctx *cx, struct at_st_writer *w)
{
    struct at_text h = { 0 };
    unsigned char n[8];
    int rc;
    header(&h, w);
    rc = at_text_ok(cx, &h);
    for (int i = 0; i < 8; i++)
        n[i] = (unsigned char)((uint64_t)h.n >> 8 * i);
    if (rc == AT_OK)
        rc = at_file_out_put(cx, &w->out, n, sizeof n);
    if (rc == AT_OK)
        rc = at_file_out_put(cx, &w->out, h.s, h.n);
    at_text_finish(&h);
    return rc;
}

/* Tensors without elements are whole as soon as it is their turn.            */
static void next_tensor(struct at_st_writer *w)
{
    while (w->i < w->n && w->put == count(&w->t[w->i])) {
        w->i++;
        w->put = 0;
    }
}

int at_st_create(struct at_ctx *cx, struct at_arena *a, const char *path,
                 enum at_st_type type, const struct at_st_tensor *t, size_t n,
                 struct at_st_writer **made)
{
    struct at_st_writer *w = at_alloc(cx, a, sizeof *w);
    int rc;
    if (!w)
        return AT_ENOMEM;
    *w = (struct at_st_writer){ .out.fd = -1, .type = type, .t = t, .n = n,
                                .bytes = at_alloc(cx, a, 4 * PIECE) };
    rc = w->bytes ? at_file_out_open(cx, a, path, &w->out) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = write_header(cx, w);
    if (rc < 0)
        return at_file_out_end(cx, &w->out, rc);
    next_tensor(w);
    *made = w;
    return AT_OK;
}

/* x in the file's type, or the first number that it cannot hold.             */
static const float *convert(unsigned char *p, const float *x, size_t n,
                            enum at_st_type type)
{
    for (size_t i = 0; i < n; i++) {
        size_t size = at_st_type_size(type);
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        if (type == AT_ST_F16)
            u = at_f32_to_f16(x[i]);
        else if (type == AT_ST_BF16)
            u = at_f32_to_bf16(x[i]);
        if (isfinite(x[i]) &&
            ((type == AT_ST_F16 && (u & 0x7C00) == 0x7C00) ||
             (type == AT_ST_BF16 && (u & 0x7F80) == 0x7F80)))
            return &x[i];
        for (size_t k = 0; k < size; k++)
            *p++ = (unsigned char)(u >> 8 * k);
    }
    return NULL;
}

int at_st_put(struct at_ctx *cx, struct at_st_writer *w, const float *x,
              size_t n)
{
    if (w->i == w->n || n > count(&w->t[w->i]) - w->put)
        return at_fail(cx, AT_EINVAL, "%s: more elements are given than its "
                       "tensors have", w->out.path);
    for (size_t k; n > 0; n -= k, x += k) {
        const float *large;
        int rc;
        k = n < PIECE ? n : PIECE;
        large = convert(w->bytes, x, k, w->type);
        if (large)
            return at_fail(cx, AT_EINVAL, "tensor '%s' holds %g, which %s "
                           "cannot hold: export it as float32 or bfloat16",
                           w->t[w->i].name, (double)*large,
                           at_st_type_name(w->type));
        rc = at_file_out_put(cx, &w->out, w->bytes,
                             k * at_st_type_size(w->type));
        if (rc < 0)
            return rc;
        w->put += k;
    }
    next_tensor(w);
    return AT_OK;
}

int at_st_commit(struct at_ctx *cx, struct at_st_writer *w)
{
    int rc = AT_OK;
    if (w->i < w->n)
        rc = at_fail(cx, AT_EINVAL, "%s: tensor '%s' is not whole", w->out.path,
                     w->t[w->i].name);
    return at_file_out_end(cx, &w->out, rc);
}

void at_st_abandon(struct at_st_writer *w)
{
    if (w)
        at_file_out_drop(&w->out);
}
