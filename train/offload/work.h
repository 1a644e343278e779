/* A worker's arithmetic: from rows x [n,C] of a site's input and dy [n,M], the
 * gradient at its output, the gradient of the site's adapter.
 *
 * It is the adapter's own graph with dy as the seed of backward, so every kind
 * of adapter that is a sum works, the derivative is the one that ordinary
 * training takes (of the same ops, in the same order), and dy is used as it
 * came: nothing is fitted to a target, which would lose its low bits.  What
 * only the output needs is not computed.
 *
 * A work belongs to one thread; it needs neither the model nor its data.     */
#ifndef AT_WORK_H
#define AT_WORK_H

#include "train/adapters/adapter.h"

struct at_work;

/* For blocks of at most `rows` rows.  The adapter must outlive it.           */
int at_work_create(struct at_ctx *cx, struct at_arena *arena,
                   struct at_adapter *adapter, const struct at_kernels *k,
                   size_t rows, size_t C, size_t M, struct at_work **w);
/* Parameters of the adapter at one site, in the order of their arrays in
 * `params` and `grad` below.                                                 */
size_t at_work_params(const struct at_work *w);
/* The name behind the site's (".lora_a.weight"), and how many numbers.       */
const char *at_work_tail(const struct at_work *w, size_t i);
size_t at_work_count(const struct at_work *w, size_t i);
/* Numbers of all of them, and bytes that at_work_start takes.                */
size_t at_work_size(const struct at_work *w);
size_t at_work_bytes(const struct at_work *w);
int at_work_start(struct at_work *w);
/* grad [size], one parameter after the other; param[i] its weights.  1 <= n <=
 * rows.  Cannot fail.                                                        */
void at_work_run(struct at_work *w, const at_real *x, const at_real *dy,
                 size_t n, at_real *const *param, at_real *grad);
void at_work_destroy(struct at_work *w);

#endif
