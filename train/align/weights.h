/* weights: values and how much each counts, as `attune palette --format json`
 * writes them down.                                                          */
#ifndef AT_WEIGHTS_H
#define AT_WEIGHTS_H

#include "train/align/value.h"

struct at_weights {             /* texts in an arena                          */
    size_t n;
    const char *spec[AT_VALUES_MAX];    /* "NAME=KIND:ARGUMENT"               */
    const char *name[AT_VALUES_MAX];
    double weight[AT_VALUES_MAX];
    double target[AT_VALUES_MAX];       /* NAN: none                          */
};

/* A palette that could not be reached, or was solved without knowing how its
 * values are measured, is an error.                                          */
int at_weights_read(struct at_ctx *cx, struct at_arena *a, const char *path,
                    struct at_weights *w);

/* The values of a palette, opened.  A file may come from anywhere, so one that
 * would run a command is refused unless commands are allowed; how: what the
 * user would say to allow it.                                                */
int at_weights_open(struct at_ctx *cx, struct at_arena *a,
                    const struct at_weights *w, bool commands, const char *how,
                    struct at_values *v);

#endif
