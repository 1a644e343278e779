/* labels: the classes of a model, and those of a dataset by their names.     */
#ifndef AT_LABELS_H
#define AT_LABELS_H

#include "data/data.h"
#include "train/models/model.h"

/* A model that is to learn a dataset's labels for the first time: their names
 * in order, numbers as numbers.                                              */
int at_labels_new(struct at_ctx *cx, struct at_arena *a,
                  const struct at_data *d, struct at_decoder *model);
/* The model's number of every document's label, [n_docs]: by name, or where the
 * dataset's are numbers below the model's count and none is a name, by number. */
int at_labels_map(struct at_ctx *cx, struct at_arena *a,
                  const struct at_data *d, const struct at_decoder *model,
                  const float **score);

#endif
