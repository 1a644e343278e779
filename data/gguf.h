/* gguf: the files of llama.cpp and its kin, version 3.
 *
 * A file is magic, version and two counts; facts (key, type, value); for each
 * tensor its name, sizes, type and place; and the tensors, each at a multiple
 * of 32 bytes.  All little-endian.  Sizes are given here as everywhere in
 * attune, [out, in]; the file has them the other way round.
 *
 * The reader trusts nothing: counts, lengths, types, sizes, places and names
 * are checked before a value is used; tensors may not overlap.               */
#ifndef AT_GGUF_H
#define AT_GGUF_H

#include "base/base.h"

enum { AT_GGUF_DIMS = 4 };
enum at_gguf_type { AT_GGUF_F32, AT_GGUF_F16, AT_GGUF_BF16, AT_GGUF_Q8_0,
                    AT_GGUF_OTHER };    /* can be listed, not read            */

/* "float32", "float16", "bfloat16", "q8_0"; an unknown word is an error.     */
int at_gguf_type_find(struct at_ctx *cx, const char *name,
                      enum at_gguf_type *t);
const char *at_gguf_type_name(enum at_gguf_type t);

struct at_gguf_tensor {
    const char *name;
    enum at_gguf_type type;
    uint32_t code;              /* of the type, as the file has it            */
    size_t n_dims, d[AT_GGUF_DIMS], n;
    uint64_t offset, n_bytes;   /* in the file                                */
};

struct at_gguf_str { const char *s; size_t n; };   /* NUL-terminated too      */

enum at_gguf_kind { AT_GGUF_NUMBER, AT_GGUF_TEXT, AT_GGUF_NUMBERS,
                    AT_GGUF_TEXTS };

struct at_gguf_fact {
    const char *key;
    enum at_gguf_kind kind;
    double x;                   /* NUMBER; booleans are 0 and 1               */
    struct at_gguf_str text;
    size_t n;                   /* of lists                                   */
    const double *numbers;
    const struct at_gguf_str *texts;
};

/* ---- reading --------------------------------------------------------------- */

struct at_gguf;

/* Lives in arena a, holds a file: at_gguf_close.                             */
int at_gguf_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                 struct at_gguf **g);
void at_gguf_close(struct at_gguf *g);
size_t at_gguf_count(const struct at_gguf *g);
const struct at_gguf_tensor *at_gguf_at(const struct at_gguf *g, size_t i);
/* NULL: none.                                                                */
const struct at_gguf_tensor *at_gguf_find(const struct at_gguf *g,
                                          const char *name);
const struct at_gguf_fact *at_gguf_fact(const struct at_gguf *g,
                                        const char *key);
/* Elements [from, from+n) of t as float32.                                   */
int at_gguf_get(struct at_ctx *cx, const struct at_gguf *g,
                const struct at_gguf_tensor *t, size_t from, size_t n,
                float *x);

/* ---- writing --------------------------------------------------------------- */

/* Facts first, then all tensors' names, then their elements.  Faults stick and
 * are told by at_gguf_start.                                                 */
struct at_gguf_out;

/* Written beside its name until at_gguf_commit.  Lives in arena a.           */
int at_gguf_create(struct at_ctx *cx, struct at_arena *a, const char *path,
                   struct at_gguf_out **w);
void at_gguf_u32(struct at_gguf_out *w, const char *key, uint32_t x);
void at_gguf_f32(struct at_gguf_out *w, const char *key, double x);
void at_gguf_bool(struct at_gguf_out *w, const char *key, bool x);
void at_gguf_text(struct at_gguf_out *w, const char *key, const char *s,
                  size_t n);
/* A list that n calls of the next three fill.                                */
void at_gguf_texts(struct at_gguf_out *w, const char *key, size_t n);
void at_gguf_i32s(struct at_gguf_out *w, const char *key, size_t n);
void at_gguf_f32s(struct at_gguf_out *w, const char *key, size_t n);
void at_gguf_add_text(struct at_gguf_out *w, const char *s, size_t n);
void at_gguf_add_i32(struct at_gguf_out *w, int32_t x);
void at_gguf_add_f32(struct at_gguf_out *w, double x);
/* name is copied.                                                            */
int at_gguf_tensor(struct at_ctx *cx, struct at_gguf_out *w, const char *name,
                   enum at_gguf_type type, size_t n_dims, const size_t *d);
int at_gguf_start(struct at_ctx *cx, struct at_gguf_out *w);
/* The n elements of the next tensor, whole.  A number that its type cannot hold
 * is an error with the tensor's name.                                        */
int at_gguf_put(struct at_ctx *cx, struct at_gguf_out *w, const float *x,
                size_t n);
/* Makes the whole file appear, durably.  Ends w either way.                  */
int at_gguf_commit(struct at_ctx *cx, struct at_gguf_out *w);
void at_gguf_abandon(struct at_gguf_out *w);        /* NULL is fine           */

#endif
