/* measure: a model's loss over the documents of a dataset, again and again with
 * one thing about it changed.                                                */
#ifndef AT_MEASURE_H
#define AT_MEASURE_H

#include "data/data.h"
#include "train/model_file.h"
#include "train/step.h"

struct at_measure_options {
    const char *model, *data, *backend;
    size_t rows, length, batches;   /* batches 0: all documents               */
    bool training_docs;             /* of the dataset, instead of validation  */
    bool all_roles;
    int threads;
};

/* Called before each evaluation. */
typedef void at_measure_progress(void *self, size_t done, size_t of);

struct at_measure {
    struct at_ctx *cx;
    const struct at_measure_options *o;
    struct at_model *m;
    struct at_params ps;
    const struct at_kernels *k;
    struct at_step *st;
    struct at_data *data;
    struct at_loader *loader;
};

/* The model and what its graphs have in common; ms is to be closed, whatever
 * comes back.                                                                */
int at_measure_open(struct at_ctx *cx, const struct at_measure_options *o,
                    struct at_measure *ms);
/* The evaluation graph, instead of the one before, with adapters (which must
 * outlive it) and with sparse (or NULL), both of which become its guests.     */
int at_measure_build(struct at_measure *ms, const struct at_adapters *list,
                     struct at_context_sparse *sparse);
int at_measure_run(struct at_measure *ms, struct at_eval_sum *sum);
void at_measure_close(struct at_measure *ms);

#endif
