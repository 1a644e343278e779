/* Bytes between memory and a file, hashed while they are in the cache.
 * Internal to h5.                                                            */
#ifndef AT_H5_IO_H
#define AT_H5_IO_H

#include "base/base.h"

enum { AT_H5_BLOCK = 512 << 10 };       /* hashed and moved at once           */

/* n bytes at byte `at` of fd.  `path` is for messages; h may be NULL.        */
int at_h5_write_at(struct at_ctx *cx, int fd, const char *path, uint64_t at,
                   const void *data, size_t n, struct at_hasher *h);
int at_h5_read_at(struct at_ctx *cx, int fd, const char *path, uint64_t at,
                  void *dst, size_t n, struct at_hasher *h);
/* Reads n bytes for their hash only.                                         */
int at_h5_hash_at(struct at_ctx *cx, int fd, const char *path, uint64_t at,
                  size_t n, struct at_hasher *h);
/* The first n bytes of `from` to byte `at` of `to`.                          */
int at_h5_copy_to(struct at_ctx *cx, int to, uint64_t at, int from, size_t n,
                  const char *path);

#endif
