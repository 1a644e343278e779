/* An h5 file inside.  Internal to h5. */
#ifndef AT_H5_FILE_H
#define AT_H5_FILE_H

#include "data/h5_list.h"

enum { AT_H5_STREAMS = 12, AT_H5_PENDING = 64 << 10 };

struct at_h5_stream {       /* an array that grows                            */
    const char *name;
    enum at_h5_type type;
    int fd;                 /* a file without a name                          */
    char *pending;          /* [AT_H5_PENDING], not in the file yet           */
    size_t n_pending;
    uint64_t n_bytes;       /* in the file                                    */
    struct at_hasher *hash;
};

struct at_h5 {
    struct at_arena arena;  /* holds this too                                 */
    const char *path, *tmp;
    int64_t file, driver;   /* HDF5's ids, while writing; -1: none            */
    int fd;
    int error;              /* errno of the driver's first failure            */
    bool writing, spoilt;   /* spoilt: a write failed                         */
    struct at_h5_list list;
    struct at_h5_stream stream[AT_H5_STREAMS];
    size_t n_streams;
};

/* Adds bytes to a stream's file and checksum.                                */
int at_h5_spill(struct at_ctx *cx, struct at_h5 *f, struct at_h5_stream *s,
                const void *data, size_t n);

#endif
