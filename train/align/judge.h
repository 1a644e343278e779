/* judge: models that say numbers of a text: a reward, or one for every label. */
#ifndef AT_JUDGE_H
#define AT_JUDGE_H

#include "train/align/value.h"
#include "train/infer.h"

/* A model that judges, in rows of up to 1024 tokens; at_infer_close, whatever
 * comes back.                                                                */
int at_judge_open(struct at_ctx *cx, const char *path, struct at_infer **in);
/* The numbers of n texts, each with its prompt before it: [n, d.value].  A text
 * that is longer than the model reads is an error.                            */
int at_judge_numbers(struct at_ctx *cx, struct at_infer *in,
                     const struct at_said *said, size_t n, double *score);
/* Logits x [value] become probabilities: together 1, or each by itself.      */
void at_judge_shares(const struct at_decoder *d, double *x);
/* The name of label i; "": it has none.                                      */
const char *at_judge_label(const struct at_infer *in, size_t i);

#endif
