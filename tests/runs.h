/* Comparing the directories of two runs. */
#ifndef AT_RUNS_H
#define AT_RUNS_H

#include "tests/test.h"

#include "train/run.h"

#include <string.h>

/* The newest checkpoints: parameters and the optimizer's state, to the bit.  */
static inline void same_states(const char *a, const char *b)
{
    struct at_ctx cx;
    struct at_h5 *fa, *fb;
    const char *const *na, *const *nb;
    size_t n, m, compared = 0;
    char pa[600], pb[600];
    snprintf(pa, sizeof pa, "%s/checkpoints/latest", a);
    snprintf(pb, sizeof pb, "%s/checkpoints/latest", b);
    at_ctx_init(&cx);
    OK(&cx, at_h5_open(&cx, pa, NULL, &fa));
    OK(&cx, at_h5_open(&cx, pb, NULL, &fb));
    OK(&cx, at_h5_names(&cx, fa, "", &cx.run, &na, &n));
    OK(&cx, at_h5_names(&cx, fb, "", &cx.run, &nb, &m));
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        struct at_hash x, y;
        assert_string_equal(na[i], nb[i]);
        if (strncmp(na[i], "params/", 7) != 0 &&
            strncmp(na[i], "optim/", 6) != 0 &&
            strncmp(na[i], "round/", 6) != 0 &&
            strcmp(na[i], "value_weights") != 0)
            continue;
        OK(&cx, at_h5_checksum(&cx, fa, na[i], &x));
        OK(&cx, at_h5_checksum(&cx, fb, na[i], &y));
        if (!at_hash_equal(x, y))
            fail_msg("%s of %s and %s differ", na[i], a, b);
        compared++;
    }
    assert_true(compared > 2);
    at_h5_close(fa);
    at_h5_close(fb);
    at_ctx_finish(&cx);
}

/* All that does not depend on the machine's hour.                            */
static inline void same_metrics(const char *a, const char *b)
{
    struct at_ctx cx;
    struct at_metrics_row *x, *y;
    size_t n, m;
    bool torn;
    at_ctx_init(&cx);
    OK(&cx, at_metrics_read(&cx, &cx.run, a, &x, &n, &torn));
    OK(&cx, at_metrics_read(&cx, &cx.run, b, &y, &m, &torn));
    assert_int_equal(n, m);
    assert_true(n >= 12);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(x[i].step, y[i].step);
        assert_int_equal(x[i].eval, y[i].eval);
        assert_memory_equal(&x[i].loss, &y[i].loss, sizeof(double));
        assert_memory_equal(&x[i].loss_se, &y[i].loss_se, sizeof(double));
        assert_memory_equal(&x[i].lr, &y[i].lr, sizeof(double));
        if (!x[i].eval) {
            assert_memory_equal(&x[i].grad_norm, &y[i].grad_norm,
                                sizeof(double));
            assert_memory_equal(&x[i].grad_z, &y[i].grad_z, sizeof(double));
            assert_int_equal(x[i].index, y[i].index);
            assert_int_equal(x[i].all_tokens, y[i].all_tokens);
        }
    }
    at_ctx_finish(&cx);
}

#endif
