/* The bytes of a file, unpacked on the way where it is gzip or zstd, which its
 * first bytes say, not its name.  Files that are known not to be text are
 * refused with a word on how to convert them.  Internal to data.             */
#ifndef AT_UNPACK_H
#define AT_UNPACK_H

#include "base/base.h"

struct at_unpack;

/* path must outlive it.                                                      */
int at_unpack_open(struct at_ctx *cx, const char *path, struct at_unpack **u);
/* Up to n bytes; *got 0 only at the end.                                     */
int at_unpack_read(struct at_ctx *cx, struct at_unpack *u, char *to, size_t n,
                   size_t *got);
/* Bytes of the file read so far, and their hash, which is the file's after
 * the end.                                                                   */
uint64_t at_unpack_bytes(const struct at_unpack *u);
struct at_hash at_unpack_hash(const struct at_unpack *u);
void at_unpack_close(struct at_unpack *u);

#endif
