/* rollout: texts drawn for prompts, with what they are worth, as a dataset.
 *
 * The dataset holds prompt and text of each draw as a document, k of a prompt
 * together; array "logprob" [n_docs] (nats, under the model, of the drawn
 * tokens), and scores as a table of rewards, so that attune palette reads it.
 * Facts: "value_specs", how the values are spelled; "drawn_from", the identity
 * of the model.
 *
 * Until all is drawn the work lies in OUT.part, JSON lines; the same request
 * goes on from there.  With weights, one of the k is kept, drawn by
 * softmax(weight . score): MAP's decoder (arXiv:2410.19198, algorithm 1).      */
#ifndef AT_ROLLOUT_H
#define AT_ROLLOUT_H

#include "train/align/draw.h"
#include "train/infer.h"

struct at_prompts {             /* in an arena                                */
    size_t n;
    struct at_prompt *p;        /* stream: its number                         */
    const char **text;
    size_t *n_text;
    const char *path;
    struct at_hash hash;
    size_t too_long;            /* left out                                   */
};

struct at_prompts_options {
    size_t tokens;              /* > 0: the first so many of each text are one */
    size_t most;                /* 0: all                                     */
    size_t skip;                /* so many first ones are left out            */
    size_t longest;             /* tokens; longer ones are left out; 0: none  */
    int split;                  /* of a dataset: enum at_split, -1: both      */
};

/* Of a dataset: the prompts of its documents (one a group), or the beginnings
 * of its texts.  Else JSON lines with the key prompt, or a prompt a line.     */
int at_prompts_read(struct at_ctx *cx, struct at_arena *a,
                    const struct at_tok *tok, struct at_tok_coder *coder,
                    const char *path, const struct at_prompts_options *o,
                    struct at_prompts *p);

struct at_rollout_options {
    const char *out;
    struct at_draw_settings draw;
    const struct at_values *values;
    const double *weight;       /* [values->n] keep one of k; NULL: keep all  */
};

struct at_rollout_stats {
    size_t prompts, resumed;    /* resumed: found in OUT.part                 */
    uint64_t tokens;            /* drawn here                                 */
    double s;                   /* seconds here                               */
    double mean[AT_VALUES_MAX], se[AT_VALUES_MAX];  /* se: by prompt          */
    double length, ended;       /* mean tokens; share that ended by eos       */
};

typedef void at_rollout_progress(void *self, size_t done, size_t total,
                                 double tokens_per_s);

int at_rollout(struct at_ctx *cx, struct at_infer *in,
               const struct at_prompts *prompts,
               const struct at_rollout_options *o,
               at_rollout_progress *progress, void *self,
               struct at_rollout_stats *stats);

#endif
