/* safetensors: the files in which Hugging Face keeps weights.
 *
 * A file is the length of its header (uint64, little-endian), the header in
 * JSON ({name: {dtype, shape, data_offsets}}), and the tensors, one after the
 * other without a gap.  A model is one file, STEM.safetensors, or several that
 * STEM.safetensors.index.json lists.
 *
 * The reader trusts nothing: every length, offset, shape and name is checked
 * before a tensor is read.  Elements become float32 on the way in, and float32
 * becomes the asked type on the way out (round to nearest, ties to even).     */
#ifndef AT_SAFETENSORS_H
#define AT_SAFETENSORS_H

#include "base/base.h"

enum at_st_type { AT_ST_F32, AT_ST_F16, AT_ST_BF16, AT_ST_OTHER };
enum { AT_ST_DIMS = 8, AT_ST_NAME = 512 };

struct at_st_tensor {
    const char *name;
    enum at_st_type type;       /* OTHER: can be listed, not read             */
    const char *dtype;          /* as the file spells it: "BF16"              */
    size_t n_dims, d[AT_ST_DIMS];
    size_t n;                   /* elements                                   */
    uint64_t offset, n_bytes;   /* in its file                                */
    size_t file;
};

/* "float32", "float16", "bfloat16"; an unknown word is an error.             */
int at_st_type_find(struct at_ctx *cx, const char *name, enum at_st_type *t);
const char *at_st_type_name(enum at_st_type t);
size_t at_st_type_size(enum at_st_type t);

/* ---- reading --------------------------------------------------------------- */

struct at_st;

/* Opens DIR/STEM.safetensors or what DIR/STEM.safetensors.index.json lists.
 * Lives in arena a, holds files: at_st_close.                                */
int at_st_open(struct at_ctx *cx, struct at_arena *a, const char *dir,
               const char *stem, struct at_st **st);
void at_st_close(struct at_st *st);
/* Tensors by number, in the order of the files, and by name (NULL: none).    */
size_t at_st_count(const struct at_st *st);
const struct at_st_tensor *at_st_at(const struct at_st *st, size_t i);
const struct at_st_tensor *at_st_find(const struct at_st *st,
                                      const char *name);
/* Elements [from, from+n) of t as float32.  Any thread.                      */
int at_st_get(struct at_ctx *cx, const struct at_st *st,
              const struct at_st_tensor *t, size_t from, size_t n, float *x);

/* ---- writing --------------------------------------------------------------- */

/* name, n_dims and d of each tensor are what a writer reads.                 */
struct at_st_writer;

/* A file at `path` with these n tensors, all of one type; written beside its
 * name until at_st_commit.                                                   */
int at_st_create(struct at_ctx *cx, struct at_arena *a, const char *path,
                 enum at_st_type type, const struct at_st_tensor *t, size_t n,
                 struct at_st_writer **w);
/* The next n elements, in the order of the tensors; a call does not reach over
 * the end of a tensor.  A number that `type` cannot hold is an error with the
 * tensor's name.                                                             */
int at_st_put(struct at_ctx *cx, struct at_st_writer *w, const float *x,
              size_t n);
/* Makes the whole file appear, durably.  Ends w either way.                  */
int at_st_commit(struct at_ctx *cx, struct at_st_writer *w);
void at_st_abandon(struct at_st_writer *w);         /* NULL is fine           */

/* ---- numbers ----------------------------------------------------------------- */

float at_f16_to_f32(uint16_t h);
float at_bf16_to_f32(uint16_t h);
/* Nearest, ties to even; what is too large becomes an infinity.              */
uint16_t at_f32_to_f16(float x);
uint16_t at_f32_to_bf16(float x);

#endif
