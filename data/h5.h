/* h5: the one file format of datasets, models, adapters and checkpoints.
 *
 * A file is written beside its name and renamed when whole (at_h5_commit), and
 * never updated in place.  It is plain HDF5: arrays are contiguous, large ones
 * page-aligned, in little-endian standard types; facts are attributes of the
 * root.  An array "attune_manifest" lists every fact and every array with its
 * type, shape and XXH3-128 checksum.  The manifest is what is believed: it is
 * verified when the file is opened, arrays when they are read.  Damage to a
 * name, shape, number or link is therefore seen as surely as damage to data.
 *
 * HDF5 runs only in at_h5_open and while a file is written.  An open file may
 * be read from any number of threads; one being written belongs to one.      */
#ifndef AT_H5_H
#define AT_H5_H

#include "base/base.h"

enum at_h5_type {
    AT_H5_F32, AT_H5_F64, AT_H5_U8, AT_H5_U16, AT_H5_U32, AT_H5_I32,
    AT_H5_U64, AT_H5_I64,
    AT_H5_BF16,                 /* in HDF5: the bits, as unsigned 16-bit      */
    AT_H5_TYPES
};
enum { AT_H5_DIMS = 4, AT_H5_NAME = 256, AT_H5_TEXT = 1 << 20 };

struct at_h5_info {
    enum at_h5_type type;
    size_t n_dims, d[AT_H5_DIMS], n;    /* n: elements                        */
};

struct at_h5;

size_t at_h5_size(enum at_h5_type type);        /* bytes of one element       */
/* Whether threads may create, write and open files at once (how the HDF5
 * library was built).                                                        */
bool at_h5_threads(void);

/* ---- writing: create, put and set, then commit or close ------------------- */

/* After a failure to write, only at_h5_close is left: commit fails too.
 * Names are printable ASCII without spaces, below AT_H5_NAME bytes.          */

/* kind: one word: "dataset", "model", "checkpoint", ...                      */
int at_h5_create(struct at_ctx *cx, const char *path, const char *kind,
                 struct at_h5 **f);
/* Writes a whole array; '/' in the name makes groups.                        */
int at_h5_put(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d,
              const void *data);
/* Float32 values as an array of type AT_H5_F32 or AT_H5_BF16 (rounded to the
 * nearest, ties to even; what bfloat16 cannot hold is an error).             */
int at_h5_put_weights(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      enum at_h5_type type, size_t n_dims, const size_t *d,
                      const float *x);
/* Adds n elements to a one-dimensional array of unknown length.  They wait in
 * a file without a name beside `path` until at_h5_commit; at most 12 of these. */
int at_h5_append(struct at_ctx *cx, struct at_h5 *f, const char *name,
                 enum at_h5_type type, const void *data, size_t n);
/* Bytes, any length; read back by at_h5_get_bytes.                           */
int at_h5_put_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    const void *data, size_t n);
/* Facts.  A text has at most AT_H5_TEXT bytes.                               */
int at_h5_set_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t v);
int at_h5_set_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double v);
int at_h5_set_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   const char *text);
/* Makes the file appear under its name, durably.  Destroys f either way; on
 * failure what was under the name before is untouched.                       */
int at_h5_commit(struct at_ctx *cx, struct at_h5 *f);
/* Closes a file being read, or throws away one being written; NULL is fine.  */
void at_h5_close(struct at_h5 *f);

/* ---- reading --------------------------------------------------------------- */

/* kind NULL: any.  Verifies the manifest, and that every array it lists is
 * there, whole in length, with that type and shape.                          */
int at_h5_open(struct at_ctx *cx, const char *path, const char *kind,
               struct at_h5 **f);
const char *at_h5_kind(const struct at_h5 *f);
const char *at_h5_path(const struct at_h5 *f);
bool at_h5_has(struct at_h5 *f, const char *name);      /* an array           */
bool at_h5_has_fact(const struct at_h5 *f, const char *name);
int at_h5_get_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t *v);
int at_h5_get_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double *v);
/* Text in arena a.                                                           */
int at_h5_get_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_arena *a, const char **text);
int at_h5_info(struct at_ctx *cx, struct at_h5 *f, const char *name,
               struct at_h5_info *info);
/* The whole array into dst, verified; type and dimensions must be these.  On
 * failure dst holds anything.                                                */
int at_h5_get(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d, void *dst);
/* The whole array, of either of those types, as float32.                     */
int at_h5_get_weights(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      size_t n_dims, const size_t *d, float *x);
/* Elements [from, from+n) of an array, counted row by row.  No checksum: verify
 * the array once with at_h5_verify.                                          */
int at_h5_get_part(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   enum at_h5_type type, size_t from, size_t n, void *dst);
/* A bytes array with a NUL after it, at most max_bytes.                      */
int at_h5_get_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    struct at_arena *a, size_t max_bytes, char **data,
                    size_t *n);
/* Reads an array in blocks and compares its checksum; NULL: every array.     */
int at_h5_verify(struct at_ctx *cx, struct at_h5 *f, const char *name);
/* The stored checksum, an array's identity.                                  */
int at_h5_checksum(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_hash *h);
/* The byte of the file where an array begins, for mmap; 0 when it is empty.  */
int at_h5_offset(struct at_ctx *cx, struct at_h5 *f, const char *name,
                 uint64_t *offset);
/* Names of all arrays that begin with `prefix` ("" for all), sorted, in
 * arena a.                                                                   */
int at_h5_names(struct at_ctx *cx, struct at_h5 *f, const char *prefix,
                struct at_arena *a, const char *const **names, size_t *n);

#endif
