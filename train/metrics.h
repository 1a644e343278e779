/* metrics: what a run measured, for programs and for the report.
 *
 * DIR/metrics.jsonl and DIR/metrics.csv have one row per logged step, from one
 * table of columns; DIR/samples.jsonl has what the model wrote.  A row is on
 * its way to the disk when the call returns; at_metrics_sync makes it stay
 * there, and belongs before the checkpoint of the step.
 *
 * DIR/capacity.jsonl has, where a run routes, the share of texts or tokens that
 * every routed layer executed; DIR/values.jsonl, where a run draws texts, what
 * they are worth; DIR/offload.jsonl what happened since the row before where
 * gradients are computed away, DIR/users.jsonl what every user's adapter did.
 *
 * Resuming after step N cuts the rows of later steps off, so that a resumed
 * run leaves the rows of an undisturbed one, but for the columns that depend
 * on the machine's hour (`machine`).
 *
 * Numbers read back exactly.  One that is not finite is null (JSON) or empty
 * (CSV), and the row's column "nonfinite" says which it was: "loss=nan
 * grad_norm=inf".                                                            */
#ifndef AT_METRICS_H
#define AT_METRICS_H

#include "base/base.h"

struct at_metrics_row {
    uint64_t step;              /* from 1; 0: before the first               */
    bool eval;                  /* split "eval", else "train"                 */
    bool skipped;               /* not finite, the weights stayed             */
    double loss, loss_se;       /* mean over targets, its standard error      */
    double accuracy, margin, reward, kl;    /* NaN: not measured              */
    double clipped, critic;                 /* likewise                       */
    double grad_norm, grad_z, lr;
    uint64_t tokens, targets;   /* of this step or evaluation                 */
    uint64_t all_tokens;      /* trained on since the run began             */
    uint64_t epoch, index, offset;  /* data cursor before the step  */
    double tokens_per_s;
    uint64_t peak_bytes;
    double time_s;              /* since the run began, stops left out        */
};

enum at_metric_kind { AT_METRIC_COUNT, AT_METRIC_REAL, AT_METRIC_FLAG };

struct at_metric_column {
    const char *name, *unit, *help;
    enum at_metric_kind kind;   /* uint64_t, double, bool                     */
    size_t at;                  /* offset in the row                          */
    bool train, eval;           /* rows that have it                          */
    bool machine;               /* may differ between equal runs              */
    bool optional;              /* left out of a row where it is NaN          */
};

/* After "step" and "split", before "nonfinite". */
extern const struct at_metric_column at_metric_columns[];
extern const size_t at_n_metric_columns;

struct at_metrics;

/* Goes on writing in directory `dir` after step `after`; 0 begins anew.      */
int at_metrics_open(struct at_ctx *cx, const char *dir, uint64_t after,
                    struct at_metrics **m);
int at_metrics_add(struct at_ctx *cx, struct at_metrics *m,
                    const struct at_metrics_row *row);
/* What the model wrote after `prompt` at the evaluation of `step`.           */
int at_metrics_sample(struct at_ctx *cx, struct at_metrics *m, uint64_t step,
                      const char *prompt, const char *text);
/* How much of what a site decided about it executed.                         */
struct at_metrics_share { const char *site; double on, all; };
/* The mean of the sites' shares; NaN when nothing was decided.               */
double at_metrics_share_mean(const struct at_metrics_share *s, size_t n);
/* A line of capacity.jsonl; n 0: none.                                       */
int at_metrics_shares(struct at_ctx *cx, struct at_metrics *m, uint64_t step,
                      bool eval, const struct at_metrics_share *s, size_t n);
/* What the texts that a model drew are worth; target NaN: none.              */
struct at_metrics_value { const char *name; double mean, se, target, weight; };
/* A line of values.jsonl.                                                    */
int at_metrics_values(struct at_ctx *cx, struct at_metrics *m, uint64_t step,
                      bool eval, const struct at_metrics_value *v, size_t n);
enum at_metrics_lines { AT_METRICS_OFFLOAD, AT_METRICS_USERS };
/* A line of such a file: a JSON object that begins with the step.             */
int at_metrics_line(struct at_ctx *cx, struct at_metrics *m,
                    enum at_metrics_lines file, const struct at_text *json);
/* The means of one split, in order, in arena a; none without such a file.     */
struct at_metrics_mean { uint64_t step; double mean; };
int at_metrics_read_means(struct at_ctx *cx, struct at_arena *a,
                          const char *dir, bool eval,
                          struct at_metrics_mean **means, size_t *n);
/* A number of every line of such a file that has it.                          */
int at_metrics_read_key(struct at_ctx *cx, struct at_arena *a, const char *dir,
                        enum at_metrics_lines file, const char *key,
                        struct at_metrics_mean **values, size_t *n);
int at_metrics_sync(struct at_ctx *cx, struct at_metrics *m);
void at_metrics_close(struct at_metrics *m);

/* Reads DIR/metrics.jsonl, written by anyone, into arena a; numbers that a row
 * lacks are NaN or 0.  *torn: a last line, half written, was left out.
 * AT_ENOENT when there is no such file.                                      */
int at_metrics_read(struct at_ctx *cx, struct at_arena *a, const char *dir,
                    struct at_metrics_row **rows, size_t *n, bool *torn);

struct at_metrics_text { uint64_t step; const char *prompt, *text; };

/* The same of DIR/samples.jsonl.                                             */
int at_metrics_read_samples(struct at_ctx *cx, struct at_arena *a,
                            const char *dir, struct at_metrics_text **samples,
                            size_t *n, bool *torn);

#endif
