/* run: a recipe brought to life.  The composition root: the only place that
 * knows what recipe keys mean.
 *
 *   DIR/recipe.yaml               the resolved recipe
 *   DIR/metrics.jsonl, .csv       a row a logged step and an evaluation
 *   DIR/samples.jsonl             texts drawn at evaluations
 *   DIR/checkpoints/step-N.h5     whole or absent
 *   DIR/checkpoints/latest, best  links to the newest whole one, the best one
 *   DIR/report.html               at_report_write
 *   DIR/run.lock                  held by the process that trains there
 *   DIR/users.txt, users/NAME     of a recipe with users: who they are, and a
 *                                 run's directory for each (users.h)         */
#ifndef AT_RUN_H
#define AT_RUN_H

#include "data/data.h"
#include "recipes/recipes.h"
#include "train/align/roller.h"
#include "train/metrics.h"
#include "train/model_file.h"
#include "train/models/generate.h"
#include "train/prune/gradual.h"
#include "train/rules.h"
#include "train/sparse_file.h"
#include "train/step.h"

/* Where a run stands; with the weights and the optimizer's state this is all
 * that a checkpoint holds.                                                   */
struct at_state {
    uint64_t step, tokens, best_step, bad_evals;
    struct at_cursor cursor;    /* of the next step                           */
    double best_loss, norm_mean, norm_var;
    bool has_best, done;
    bool eval_due;              /* the step's evaluation is still to come     */
};

enum at_memory_class { AT_MEM_PROCESS, AT_MEM_FROZEN, AT_MEM_TRAINED,
                       AT_MEM_GRADS, AT_MEM_OPTIM, AT_MEM_ACTIVATIONS,
                       AT_MEM_BATCHES, AT_MEM_SAMPLES, AT_MEM_OFFLOAD,
                       AT_MEM_FILES,
                       AT_MEM_CLASSES };
extern const char *const at_memory_names[AT_MEM_CLASSES];

struct at_progress;
typedef void at_progress_fn(void *self, const struct at_progress *p);

struct at_job {
    struct at_ctx *cx;
    struct at_recipe *r;
    const char *dir;
    const struct at_kernels *k;
    struct at_decoder d;
    struct at_tok *tok;
    struct at_model *start;     /* what training starts from, or NULL         */
    struct at_data *data, *validation;  /* the same when there is one file    */
    struct at_params ps;
    struct at_patterns patterns;    /* of a pruned model                      */
    const struct at_objective *objective;   /* NULL: language modelling       */
    struct at_params *reference;    /* NULL: ps without adapters, or not needed */
    struct at_teacher teacher;  /* ps NULL: none                              */
    struct at_model *dense;     /* whose weights the teacher has              */
    struct at_rules *rules;
    struct at_adapters adapters;
    struct at_offload *offload; /* NULL: not asked for                        */
    struct at_offload_counts logged;    /* at the last row                    */
    struct at_context_sparse *sparse;   /* likewise                           */
    struct at_step *st;
    struct at_optim *o;
    struct at_gradual *gradual; /* NULL: nothing is pruned                    */
    struct at_optim_settings optim;
    struct at_schedule schedule;
    struct at_loader *train, *eval;     /* NULL with a roller                 */
    struct at_roller *roller;   /* draws what is trained on                   */
    struct at_values values;
    struct at_weights weights;  /* of values; they may move                   */
    /* What is learnt of every document, of training and of validation.       */
    struct at_job_scores { const float *of; size_t stride; } score[AT_SPLITS];
    double *table;              /* of classify: labels and what they were taken
                                 * for, in the evaluation that runs           */
    struct at_generator *gen;
    struct at_text *said;       /* [eval.samples], of the evaluation at hand  */
    struct at_tok_coder *coder;
    struct at_metrics *metrics;
    struct at_state s;
    uint64_t steps, rows_an_epoch, accumulate;
    size_t memory[AT_MEM_CLASSES];
    double started_s, step_s;   /* of training here, and of this step         */
    uint64_t tokens_here;       /* since started_s                            */
    at_progress_fn *progress;   /* NULL: nobody listens                       */
    void *progress_self;
    const char *user;           /* whose adapter it trains; NULL: a run's own */
    struct at_job *lender;      /* NULL: at_job_open                          */
};

/* What the caller may show. */
struct at_progress {
    const struct at_job *job;
    const struct at_step_result *r;     /* NULL: only a message               */
    double tokens_per_s, eta_s;
    const char *message;
};

/* Reads model and data, builds and sizes everything; takes no big memory.
 * The job lives in cx->run; at_job_close.                                    */
int at_job_open(struct at_ctx *cx, struct at_recipe *r, struct at_job **job);
/* The same for one that uses the lender's frozen weights, activations' memory
 * and engine, a step at a time; the lender is closed last.                   */
int at_job_open_beside(struct at_ctx *cx, struct at_recipe *r,
                       struct at_job *lender, struct at_job **job);
/* Bytes the run will need at its peak, by class in job->memory.              */
size_t at_job_bytes(const struct at_job *job);
/* Takes the memory, after refusing what cannot fit; draws or reads weights.  */
int at_job_start(struct at_job *job);
void at_job_close(struct at_job *job);
/* A table of memory, parameters and FLOPs.                                   */
void at_job_describe(const struct at_job *job, struct at_text *t);

/* Trains to the end.  fresh: the run's directory must not hold anything yet.
 * AT_EINVAL while another process, or call, trains there.
 * AT_EINTR after cx->stop: a checkpoint was written.                         */
int at_run_train(struct at_ctx *cx, struct at_recipe *r, bool fresh,
                 at_progress_fn *progress, void *self);
/* Goes on from the latest whole checkpoint of a run's directory, on the datasets
 * that it was trained on; says what is lost behind it.  Likewise AT_EINVAL.  */
int at_run_resume(struct at_ctx *cx, const char *dir, at_progress_fn *progress,
                  void *self);
/* Brings a run to the state before `step` and runs that step; *r and the
 * batches (at_job's loader) are its own.  Writes nothing.                    */
int at_run_replay(struct at_ctx *cx, const char *dir, uint64_t step,
                  struct at_job **job, struct at_step_result *r,
                  const struct at_batch ***batches);

/* ---- measuring ----------------------------------------------------------- */

/* A message to whoever listens.                                              */
void at_job_say(const struct at_job *job, const char *fmt, ...)
    AT_PRINTF(2, 3);
/* A row of metrics, and what the graph's gauges say of its step.             */
int at_job_log(struct at_job *job, const struct at_metrics_row *row,
               const struct at_step_io *io);
/* A row of what offloading did since the last one.                           */
int at_job_log_offload(struct at_job *job);
/* What n drawn texts are worth, [values] each.                               */
int at_job_log_values(struct at_job *job, bool eval, size_t n,
                      const double *mean, const double *var);
/* Measures the validation documents, or texts drawn for its prompts, and draws
 * the recipe's samples.  *best: better than all before; never so for drawn
 * texts, whose weights move.                                                 */
int at_evaluate(struct at_job *job, bool *best);

/* ---- checkpoints --------------------------------------------------------- */

/* Writes DIR/checkpoints/step-N.h5, moves `latest` (and `best`), then removes
 * what the recipe does not keep: never the best, never the latest.           */
int at_checkpoint_write(struct at_job *job, bool is_best);
/* The newest whole checkpoint at or before `most`, read into the job; damaged
 * ones are named by a warning and passed over.  *found false: there is none. */
int at_checkpoint_read(struct at_job *job, uint64_t most, bool *found);

#endif
