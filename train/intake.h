/* Taking a model in from another program's file: every tensor in its place,
 * one param in memory at a time.  What differs between files is a source.    */
#ifndef AT_INTAKE_H
#define AT_INTAKE_H

#include "data/h5.h"
#include "train/models/model.h"

struct at_theirs {              /* the tensor that has a param of ours        */
    char name[512];
    size_t index;               /* SIZE_MAX: the file has it not              */
    struct at_shape want, is;
    const char *unread;         /* its type, when that cannot be read         */
    bool bf16;
};

struct at_source {
    size_t n;                   /* tensors                                    */
    const char *(*name)(const void *self, size_t i);
    bool (*ignores)(const void *self, const char *name);
    /* false: this kind of file has no name for the param.                    */
    bool (*find)(const void *self, const struct at_param *p,
                 struct at_theirs *t);
    int (*read)(struct at_ctx *cx, const void *self, const struct at_param *p,
                float *x);
    const void *self;
    const char *what;           /* "DIR: its tensors are not those of ..."    */
    const char *types;          /* that are read                              */
};

/* An error that names all that are missing, left over, of another shape or
 * type.                                                                      */
int at_intake_check(struct at_ctx *cx, const struct at_source *s,
                    const struct at_params *ps);
/* Puts every param into f; bfloat16 stays.                                   */
int at_intake_copy(struct at_ctx *cx, const struct at_source *s,
                   const struct at_params *ps, struct at_h5 *f);

#endif
