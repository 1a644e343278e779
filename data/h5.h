/* h5: the one file format of datasets, models, adapters and checkpoints.
 *
 * A file is written beside its name and renamed when whole (at_h5_commit), and
 * never updated in place.  Arrays are contiguous and page-aligned; each
 * carries the XXH3-128 checksum of its bytes, and the attributes of the root
 * carry one of theirs; both are verified by every read.  Nothing a file says
 * is believed before it is checked.                                          */
#ifndef AT_H5_H
#define AT_H5_H

#include "base/base.h"

enum at_h5_type {
    AT_H5_F32, AT_H5_F64, AT_H5_U8, AT_H5_U16, AT_H5_U32, AT_H5_I32,
    AT_H5_U64, AT_H5_I64, AT_H5_TYPES
};
enum { AT_H5_DIMS = 4, AT_H5_NAME = 256 };

struct at_h5_info {
    enum at_h5_type type;
    size_t n_dims, d[AT_H5_DIMS], n;    /* n: elements                        */
};

struct at_h5;

size_t at_h5_size(enum at_h5_type type);        /* bytes of one element       */
/* Whether threads may read and write at once (HDF5 built for it).            */
bool at_h5_threads(void);

/* ---- writing: create, put and set, then commit or discard ----------------- */

/* kind: "dataset", "model", "checkpoint", ...                                */
int at_h5_create(struct at_ctx *cx, const char *path, const char *kind,
                 struct at_h5 **f);
/* Writes a whole array; '/' in the name makes groups.                        */
int at_h5_put(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d,
              const void *data);
/* A one-dimensional array that grows by pieces until at_h5_commit.           */
int at_h5_append(struct at_ctx *cx, struct at_h5 *f, const char *name,
                 enum at_h5_type type, const void *data, size_t n);
/* Bytes, any length; read back by at_h5_get_bytes.                           */
int at_h5_put_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    const void *data, size_t n);
/* Attributes of the root: small facts.                                       */
int at_h5_set_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t v);
int at_h5_set_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double v);
int at_h5_set_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   const char *text);
/* Makes the file appear under its name, durably.  Destroys f either way.     */
int at_h5_commit(struct at_ctx *cx, struct at_h5 *f);
/* Closes a file being read, or throws away one being written; NULL is fine.  */
void at_h5_close(struct at_h5 *f);

/* ---- reading --------------------------------------------------------------- */

/* kind NULL: any.  Verifies the attributes.                                  */
int at_h5_open(struct at_ctx *cx, const char *path, const char *kind,
               struct at_h5 **f);
const char *at_h5_kind(const struct at_h5 *f);
const char *at_h5_path(const struct at_h5 *f);
bool at_h5_has(struct at_h5 *f, const char *name);
int at_h5_get_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t *v);
int at_h5_get_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double *v);
/* Text in arena a; texts longer than 1 MiB are refused.                      */
int at_h5_get_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_arena *a, const char **text);
int at_h5_info(struct at_ctx *cx, struct at_h5 *f, const char *name,
               struct at_h5_info *info);
/* The whole array into dst; type and dimensions must be these.               */
int at_h5_get(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d, void *dst);
/* Elements [from, from+n) of a one-dimensional array.  No checksum: verify
 * the array once with at_h5_verify.                                          */
int at_h5_get_part(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   enum at_h5_type type, size_t from, size_t n, void *dst);
/* A bytes array with a NUL after it, at most max_bytes.                      */
int at_h5_get_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    struct at_arena *a, size_t max_bytes, char **data,
                    size_t *n);
/* Reads an array in blocks and compares its checksum.                        */
int at_h5_verify(struct at_ctx *cx, struct at_h5 *f, const char *name);
/* The stored checksum, an array's identity.                                  */
int at_h5_checksum(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_hash *h);
/* Names of all arrays under `prefix` ("" for all), sorted, in arena a.       */
int at_h5_names(struct at_ctx *cx, struct at_h5 *f, const char *prefix,
                struct at_arena *a, const char *const **names, size_t *n);

#endif
