/* What the files that open a job share; inside job*.c only. */
#ifndef AT_JOB_H
#define AT_JOB_H

#include "train/run.h"

#include <string.h>

/* Errors that follow are about this key of the recipe.                       */
static inline void act_on(struct at_job *j, const char *key)
{
    at_act_on(j->cx, key);
}

static inline void done_with(struct at_job *j)
{
    j->cx->at = (struct at_src){ 0 };
    j->cx->src_of = NULL;
    j->cx->src_self = NULL;
}

static inline size_t size_of(const struct at_job *j, const char *key)
{
    return (size_t)at_recipe_int(j->r, key);
}

static inline bool is_set(const struct at_job *j, const char *key)
{
    return at_recipe_text(j->r, key)[0] != '\0';
}

static inline bool needs(const struct at_job *j, enum at_objective_needs what)
{
    return j->objective && (j->objective->needs & what);
}

/* job_data.c: the dataset, checked against model and objective; what reads it. */
int at_job_open_data(struct at_job *j);
int at_job_open_loaders(struct at_job *j);

/* job_align.c: what objectives over whole texts need of a job. */

/* Whether the dataset has what the objective learns from; weighs its draws.  */
int at_job_check_objective(struct at_job *j);
/* What a judging model's numbers are, once its data are known.                */
int at_job_describe_judge(struct at_job *j);
/* What is learnt of every document.                                          */
int at_job_open_scores(struct at_job *j);
/* Documents of this split are what the step works on next.                   */
void at_job_use_scores(struct at_job *j, enum at_split split);
/* Instead of loaders: the model in training draws its texts.                 */
int at_job_open_roller(struct at_job *j);
/* A model trained as a whole is compared with a copy of what it was.         */
int at_job_open_reference(struct at_job *j);

/* job_teacher.c: the model whose predictions are learnt, where there is one. */
int at_job_open_teacher(struct at_job *j);
int at_job_start_teacher(struct at_job *j);
void at_job_close_teacher(struct at_job *j);

#endif
