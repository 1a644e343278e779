/* metrics: what a run measured, a row a logged step or evaluation, as JSON
 * lines (DIR/metrics.jsonl) and CSV (DIR/metrics.csv).
 *
 * Columns are one table.  A resumed run cuts what lies behind its checkpoint,
 * so that all but the clock's columns are those of an undisturbed run.       */
#ifndef AT_METRICS_H
#define AT_METRICS_H

#include "base/base.h"

struct at_metrics_row {
    uint64_t step;
    bool eval;                  /* split "validation", else "train"           */
    bool skipped;               /* not finite; nothing was updated            */
    double loss, loss_se;       /* mean cross-entropy in nats                 */
    double grad_norm, grad_z, lr;
    uint64_t tokens, targets;   /* of the step or evaluation                  */
    uint64_t all_tokens;        /* of the run so far                          */
    uint64_t epoch, index, offset;  /* cursor before the step                 */
    double tokens_per_s, time_s;    /* clock                                  */
    uint64_t peak_bytes;
};

struct at_metrics;

/* Opens (makes) both files of `dir`, cutting rows of steps > last.           */
int at_metrics_open(struct at_ctx *cx, const char *dir, uint64_t last,
                    struct at_metrics **m);
int at_metrics_add(struct at_ctx *cx, struct at_metrics *m,
                   const struct at_metrics_row *row);
void at_metrics_close(struct at_metrics *m);
/* Rows of DIR/metrics.jsonl in arena a; *torn: the last line is not whole and
 * was left out.                                                              */
int at_metrics_read(struct at_ctx *cx, struct at_arena *a, const char *dir,
                    struct at_metrics_row **rows, size_t *n, bool *torn);

#endif
