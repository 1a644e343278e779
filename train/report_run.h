/* One run of a report; inside report*.c only. */
#ifndef AT_REPORT_RUN_H
#define AT_REPORT_RUN_H

#include "recipes/recipes.h"
#include "train/metrics.h"
#include "train/report.h"

/* A measure over the steps; best: index of the least, or SIZE_MAX. */
struct at_series { double *x, *y; size_t n, best; };

struct at_report_run {
    const char *name, *dir;
    struct at_recipe *recipe;       /* NULL: none that loads                  */
    const char *recipe_text;        /* NULL: none                             */
    const char *recipe_error;       /* why it does not load                   */
    struct at_metrics_row *row;
    struct at_metrics_text *sample;
    struct at_fact *fact;
    size_t n_rows, n_samples, n_facts;
    bool torn;                      /* metrics.jsonl lost its last line       */
    bool words;                     /* its loss is that of predicting tokens  */
    struct at_series loss, smooth, eval, lr, grad, smooth_grad, speed,
                     smooth_speed;
    struct at_series capacity, smooth_capacity;     /* n 0: nothing is routed */
    struct at_series blocks, wait;  /* n 0: nothing is offloaded              */
    double *skipped;                /* steps that were not finite             */
    size_t n_skipped;
    /* Figures; NaN where there is none. */
    double steps, tokens, final_loss, best_loss, best_se, best_step, time_s,
           tokens_per_s, eval_tokens_per_s, peak_bytes;
};

/* Reads all of `dir`; r and its arrays live in the arena.  alone: a short
 * name tells enough.                                                         */
int at_report_run_read(struct at_ctx *cx, struct at_arena *arena,
                       const char *dir, bool alone, struct at_report_run *r);

#endif
