/* Writing GGUF. */
#include "data/gguf_types.h"
#include "data/safetensors.h"

#include <math.h>
#include <string.h>

const struct gguf_type gguf_types[AT_GGUF_OTHER] = {
    [AT_GGUF_F32] = { "float32", 0, 1, 4 },
    [AT_GGUF_F16] = { "float16", 1, 1, 2 },
    [AT_GGUF_BF16] = { "bfloat16", 30, 1, 2 },
    [AT_GGUF_Q8_0] = { "q8_0", 8, GGUF_BLOCK, GGUF_BLOCK_BYTES },
};

const char *at_gguf_type_name(enum at_gguf_type t)
{
    return t < AT_GGUF_OTHER ? gguf_types[t].name : "another type";
}

int at_gguf_type_find(struct at_ctx *cx, const char *name,
                      enum at_gguf_type *t)
{
    for (int i = 0; i < AT_GGUF_OTHER; i++)
        if (strcmp(name, gguf_types[i].name) == 0) {
            *t = (enum at_gguf_type)i;
            return AT_OK;
        }
    return at_fail(cx, AT_EINVAL, "'%s' is no type of GGUF that attune writes: "
                   "float32, float16, bfloat16, q8_0", name);
}

struct at_gguf_out {
    struct at_file_out out;
    struct at_arena *arena;
    struct at_text facts, infos;
    uint64_t n_facts, data;     /* data: bytes of tensors that are declared   */
    struct at_gguf_tensor *t;
    size_t n, cap, i;
    char *bytes;
    size_t bytes_cap;
};

/* ---- facts --------------------------------------------------------------------- */

static void little(struct at_text *t, uint64_t x, size_t n)
{
    char bytes[8];
    for (size_t i = 0; i < n; i++)
        bytes[i] = (char)(x >> 8 * i);
    at_text_add(t, bytes, n);
}

static void text(struct at_text *t, const char *s, size_t n)
{
    little(t, n, 8);
    at_text_add(t, s, n);
}

static void head(struct at_gguf_out *w, const char *key, enum gguf_code code)
{
    text(&w->facts, key, strlen(key));
    little(&w->facts, code, 4);
    w->n_facts++;
}

static uint32_t bits_of(double x)
{
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

void at_gguf_u32(struct at_gguf_out *w, const char *key, uint32_t x)
{
    head(w, key, GGUF_U32);
    little(&w->facts, x, 4);
}

void at_gguf_f32(struct at_gguf_out *w, const char *key, double x)
{
    head(w, key, GGUF_F32);
    little(&w->facts, bits_of(x), 4);
}

void at_gguf_bool(struct at_gguf_out *w, const char *key, bool x)
{
    head(w, key, GGUF_BOOL);
    little(&w->facts, x, 1);
}

void at_gguf_text(struct at_gguf_out *w, const char *key, const char *s,
                  size_t n)
{
    head(w, key, GGUF_STRING);
    text(&w->facts, s, n);
}

static void list(struct at_gguf_out *w, const char *key, enum gguf_code code,
                 size_t n)
{
    head(w, key, GGUF_ARRAY);
    little(&w->facts, code, 4);
    little(&w->facts, n, 8);
}

void at_gguf_texts(struct at_gguf_out *w, const char *key, size_t n)
{
    list(w, key, GGUF_STRING, n);
}

void at_gguf_i32s(struct at_gguf_out *w, const char *key, size_t n)
{
    list(w, key, GGUF_I32, n);
}

void at_gguf_f32s(struct at_gguf_out *w, const char *key, size_t n)
{
    list(w, key, GGUF_F32, n);
}

void at_gguf_add_text(struct at_gguf_out *w, const char *s, size_t n)
{
    text(&w->facts, s, n);
}

void at_gguf_add_i32(struct at_gguf_out *w, int32_t x)
{
    little(&w->facts, (uint32_t)x, 4);
}

void at_gguf_add_f32(struct at_gguf_out *w, double x)
{
    little(&w->facts, bits_of(x), 4);
}

/* ---- the file --------------------------------------------------------------------- */

int at_gguf_create(struct at_ctx *cx, struct at_arena *a, const char *path,
                   struct at_gguf_out **made)
{
    struct at_gguf_out *w = at_alloc(cx, a, sizeof *w);
    if (!w)
        return AT_ENOMEM;
    w->arena = a;
    *made = w;
    return at_file_out_open(cx, a, path, &w->out);
}

static uint64_t aligned(uint64_t n)
{
    return (n + GGUF_ALIGN - 1) / GGUF_ALIGN * GGUF_ALIGN;
}

int at_gguf_tensor(struct at_ctx *cx, struct at_gguf_out *w, const char *name,
                   enum at_gguf_type type, size_t n_dims, const size_t *d)
{
    const struct gguf_type *k = &gguf_types[type];
    struct at_gguf_tensor *t;
    if (at_grow(cx, &w->t, &w->cap, w->n + 1, sizeof *w->t) < 0)
        return AT_ENOMEM;
    t = &w->t[w->n++];
    *t = (struct at_gguf_tensor){ .name = at_strdup(cx, w->arena, name),
                                  .type = type, .code = k->code, .n = 1,
                                  .n_dims = n_dims, .offset = w->data };
    if (!t->name)
        return AT_ENOMEM;
    text(&w->infos, name, strlen(name));
    little(&w->infos, n_dims, 4);
    for (size_t i = 0; i < n_dims; i++) {
        t->d[i] = d[i];
        t->n *= d[i];
        little(&w->infos, d[n_dims - 1 - i], 8);
    }
    if (d[n_dims - 1] % k->block)
        return at_fail(cx, AT_EINVAL, "tensor '%s' has rows of %zu elements; "
                       "%s needs a multiple of %zu", name, d[n_dims - 1],
                       k->name, k->block);
    t->n_bytes = (uint64_t)(t->n / k->block) * k->bytes;
    little(&w->infos, k->code, 4);
    little(&w->infos, t->offset, 8);
    w->data += aligned(t->n_bytes);
    return AT_OK;
}

int at_gguf_start(struct at_ctx *cx, struct at_gguf_out *w)
{
    static const char zeros[GGUF_ALIGN];
    struct at_text h = { 0 };
    int rc;
    at_text_add(&h, "GGUF", 4);
    little(&h, GGUF_VERSION, 4);
    little(&h, w->n, 8);
    little(&h, w->n_facts, 8);
    at_text_add(&h, w->facts.s ? w->facts.s : "", w->facts.n);
    at_text_add(&h, w->infos.s ? w->infos.s : "", w->infos.n);
    h.failed |= w->facts.failed | w->infos.failed;
    at_text_add(&h, zeros, (size_t)(aligned(h.n) - h.n));
    rc = at_text_ok(cx, &h);
    if (rc == AT_OK)
        rc = at_file_out_put(cx, &w->out, h.s, h.n);
    at_text_finish(&h);
    return rc;
}

/* ---- elements ------------------------------------------------------------------------ */

/* A block is scaled by a 127th of its largest; nearest, halves away from zero,
 * as ggml's quantize_row_q8_0_ref does.                                      */
static bool pack_block(char *to, const float *x)
{
    float most = 0, d, inverse;
    uint16_t h;
    for (size_t i = 0; i < GGUF_BLOCK; i++)
        most = fmaxf(most, fabsf(x[i]));
    d = most / 127;
    h = at_f32_to_f16(d);
    inverse = h > 0 ? 1 / d : 0;
    to[0] = (char)h;
    to[1] = (char)(h >> 8);
    for (size_t i = 0; i < GGUF_BLOCK; i++)
        to[2 + i] = (char)(int8_t)roundf(x[i] * inverse);
    return (h & 0x7C00) != 0x7C00;
}

/* The bytes of n elements; false: one of them does not fit the type.         */
static bool pack(char *to, const float *x, size_t n, enum at_gguf_type type)
{
    bool fits = true;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    for (size_t i = 0; i < n && type == AT_GGUF_Q8_0; i += GGUF_BLOCK)
        fits &= pack_block(to + i / GGUF_BLOCK * GGUF_BLOCK_BYTES, x + i);
    for (size_t i = 0; i < n && type != AT_GGUF_Q8_0; i++) {
        size_t size = gguf_types[type].bytes;
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        if (type == AT_GGUF_F16)
            u = at_f32_to_f16(x[i]);
        else if (type == AT_GGUF_BF16)
            u = at_f32_to_bf16(x[i]);
        fits &= !(type == AT_GGUF_F16 && (u & 0x7C00) == 0x7C00) &&
                !(type == AT_GGUF_BF16 && (u & 0x7F80) == 0x7F80);
        for (size_t k = 0; k < size; k++)
            *to++ = (char)(u >> 8 * k);
    }
    return fits;
}

int at_gguf_put(struct at_ctx *cx, struct at_gguf_out *w, const float *x,
                size_t n)
{
    static const char zeros[GGUF_ALIGN];
    const struct at_gguf_tensor *t = &w->t[w->i];
    int rc;
    if (w->i == w->n || n != t->n)
        return at_fail(cx, AT_EINVAL, "%s: %zu elements are given, and the next "
                       "tensor has another number", w->out.path, n);
    rc = at_grow(cx, &w->bytes, &w->bytes_cap, (size_t)t->n_bytes, 1);
    if (rc < 0)
        return rc;
    if (!pack(w->bytes, x, n, t->type))
        return at_fail(cx, AT_EINVAL, "tensor '%s' holds a number that %s "
                       "cannot hold: export it as float32", t->name,
                       gguf_types[t->type].name);
    rc = at_file_out_put(cx, &w->out, w->bytes, (size_t)t->n_bytes);
    if (rc == AT_OK)
        rc = at_file_out_put(cx, &w->out, zeros,
                             (size_t)(aligned(t->n_bytes) - t->n_bytes));
    w->i++;
    return rc;
}

static void forget(struct at_gguf_out *w)
{
    at_text_finish(&w->facts);
    at_text_finish(&w->infos);
    at_free(w->t);
    at_free(w->bytes);
    w->t = NULL;
    w->bytes = NULL;
}

int at_gguf_commit(struct at_ctx *cx, struct at_gguf_out *w)
{
    int rc = AT_OK;
    if (w->i < w->n)
        rc = at_fail(cx, AT_EINVAL, "%s: tensor '%s' is missing", w->out.path,
                     w->t[w->i].name);
    forget(w);
    return at_file_out_end(cx, &w->out, rc);
}

void at_gguf_abandon(struct at_gguf_out *w)
{
    if (!w)
        return;
    forget(w);
    at_file_out_drop(&w->out);
}
