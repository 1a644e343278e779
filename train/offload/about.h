/* What a worker must know of a run: the adapter's kind and settings, the most
 * rows of a block, the kernels.  As JSON, which is believed in nothing.      */
#ifndef AT_ABOUT_H
#define AT_ABOUT_H

#include "train/adapters/adapter.h"

struct at_about_group { size_t n, *M; };        /* sites; their widths        */

struct at_about {
    uint64_t incarnation;       /* of the run: later ones are greater         */
    size_t rows;
    double ack_wait_s;          /* a block is another's after so long         */
    const struct at_kernels *k;
    struct at_about_group *group;       /* sites that share their input       */
    size_t n_groups;
    struct at_adapters list;    /* with one; at_adapters_destroy              */
};

/* k and the first of list, with the numbers.                                 */
void at_about_write(const struct at_about *about, struct at_text *t);
/* Texts and settings live in arena a.                                        */
int at_about_read(struct at_ctx *cx, struct at_arena *a, const char *text,
                  size_t n, struct at_about *about);

#endif
