/* values: what a continuation of a prompt is worth, by one measure each.
 *
 * A value is spelled "NAME=KIND:ARGUMENT", "KIND:ARGUMENT" or "KIND"; a '-'
 * before the kind turns it round.  Larger is better, always.  The same value
 * scores pilot samples, training and evaluation, and its spelling is kept with
 * the numbers it gave.                                                       */
#ifndef AT_VALUE_H
#define AT_VALUE_H

#include "base/base.h"

struct at_said {                /* a prompt and what was said to it           */
    const char *prompt, *text;
    size_t n_prompt, n_text;
};

struct at_value {
    const char *name, *spec;    /* spec: without the name                     */
    const struct at_value_kind *kind;
    bool turned;                /* by '-'                                     */
    void *impl;                 /* the kind's own                             */
};

struct at_value_kind {
    const char *name, *argument, *unit, *help;  /* argument NULL: takes none  */
    int (*open)(struct at_ctx *cx, struct at_arena *a, const char *argument,
                void **impl);
    void (*close)(void *impl);  /* NULL: nothing to do                        */
    int (*score)(struct at_ctx *cx, void *impl, const struct at_said *said,
                 size_t n, double *score);
};

extern const struct at_value_kind
    at_value_reward, at_value_logit, at_value_probability, at_value_perplexity,
    at_value_coherence, at_value_diversity, at_value_length,
    at_value_pattern, at_value_command;

/* All of them, NULL-ended.                                                   */
extern const struct at_value_kind *const at_value_kinds[];

enum { AT_VALUES_MAX = 32 };

struct at_values { struct at_value v[AT_VALUES_MAX]; size_t n; };

/* Reads spellings; what they hold lives in arena a, models in cx->run.  Two
 * values of one name are an error.                                           */
int at_values_open(struct at_ctx *cx, struct at_arena *a,
                   const char *const *spec, size_t n, struct at_values *v);
void at_values_close(struct at_values *v);
/* score [n,v->n].  A score that is not finite is an error that names value and
 * text.                                                                      */
int at_values_score(struct at_ctx *cx, const struct at_values *v,
                    const struct at_said *said, size_t n, double *score);

/* Product over n = 2, 3, 4 of distinct n-grams / (n-grams + 1), of words: runs
 * of letters and digits, and every other printable character by itself.       */
double at_diversity(const char *text, size_t n);
size_t at_count_words(const char *text, size_t n);

#endif
