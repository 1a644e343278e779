/* infer: a model opened for use: generating and measuring.                   */
#ifndef AT_INFER_H
#define AT_INFER_H

#include "train/model_file.h"
#include "train/models/generate.h"
#include "train/sparse_file.h"
#include "train/step.h"

struct at_infer {
    struct at_model *m;
    const struct at_kernels *k;
    struct at_params ps;
    struct at_generator *gen;   /* rows > 0                                   */
    struct at_step *st;         /* length > 0: evaluation in rows of `length` */
    struct at_tok_coder *coder;
    struct at_patterns patterns;    /* of a pruned model                      */
};

/* rows, T_max: of generation, 0: none.  eval_rows, length: of evaluation, 0:
 * none; T_max and length beyond the model's longest text become that.        */
int at_infer_open(struct at_ctx *cx, const char *path, const char *backend,
                  int threads, size_t rows, size_t T_max, size_t eval_rows,
                  size_t length, struct at_infer **in);
/* The same to merge adapters: a pruned model is read as a dense one unless its
 * adapter keeps it pruned.                                                   */
int at_infer_open_to_merge(struct at_ctx *cx, const char *path,
                           struct at_infer **in);
void at_infer_close(struct at_infer *in);
/* Cross-entropy of a text: its tokens in rows of the evaluation's length, each
 * row starting afresh.                                                       */
int at_infer_text(struct at_ctx *cx, struct at_infer *in, const char *text,
                  size_t n, struct at_eval_sum *sum);
/* The same of a dataset's documents: the validation's, or the training's.  A
 * model that judges is measured on what the dataset holds: labels (sum->o.table
 * is then in cx->run), preferences, or its one score.                         */
int at_infer_data(struct at_ctx *cx, struct at_infer *in, const char *path,
                  bool training, bool all_roles, struct at_eval_sum *sum);
/* Adds the adapter to the weights, and compares the logits after a fixed
 * prompt before and after: the largest difference, and whether the likeliest
 * token stayed.                                                              */
int at_infer_merge(struct at_ctx *cx, struct at_infer *in, double *largest,
                   bool *same_token);

#endif
