/* optim: moves parameters along gradients.
 *
 * An optimizer sees the flat trainable array of struct at_params: weights,
 * gradients and its own state are arrays of the same layout, so that one step
 * is a few passes over memory.  Moments and master weights are float32.
 *
 * A schedule is a function of the optimizer step only.                       */
#ifndef AT_OPTIM_H
#define AT_OPTIM_H

#include "autograd/autograd.h"

/* ---- schedule ------------------------------------------------------------ */

enum at_schedule_kind { AT_CONSTANT, AT_LINEAR, AT_COSINE, AT_WSD };

struct at_schedule {
    enum at_schedule_kind kind;
    double lr, min_ratio;       /* peak; the last step's lr is lr * min_ratio */
    uint64_t warmup, decay, steps;  /* optimizer steps; decay: WSD's tail     */
};

/* "constant", "linear", "cosine", "wsd".                                     */
int at_schedule_find(struct at_ctx *cx, const char *name,
                     enum at_schedule_kind *kind);
/* The learning rate of step 1 .. steps.  Warm-up rises linearly from
 * lr/warmup; the last step of a decaying schedule has exactly lr*min_ratio.  */
double at_schedule_lr(const struct at_schedule *s, uint64_t step);

/* ---- optimizers ---------------------------------------------------------- */

enum { AT_STATE_MAX = 2 };

struct at_optim_settings {
    double lr, beta1, beta2, eps, weight_decay, momentum;
    bool nesterov;
};

/* A run of parameters under one rule. */
struct at_group {
    size_t from, n;
    bool decay;                 /* has weight decay                           */
    double lr_scale;            /* its learning rate, as a factor             */
};
/* Sets decay (false before) and lr_scale (1 before) of one parameter.        */
typedef void at_rule_fn(const void *self, const struct at_param *p,
                        struct at_group *g);

struct at_optim;

struct at_optim_impl {
    const char *name;           /* recipe word: "adamw", ...                  */
    int n_state;                /* arrays of n_flat numbers it keeps          */
    const char *state_name[AT_STATE_MAX];   /* in checkpoints: "m", "v"       */
    bool (*needs)(const struct at_optim_settings *s, int i);    /* NULL: all  */
    /* One step over one group; step counts from 1.  Cannot fail.             */
    void (*step)(const struct at_optim *o, const struct at_kernels *k,
                 const struct at_group *g, double lr, double grad_scale);
};

struct at_optim {
    const struct at_optim_impl *impl;
    struct at_optim_settings set;
    struct at_params *ps;
    at_real *state[AT_STATE_MAX];   /* NULL: not kept                         */
    struct at_group *group;
    size_t n_groups;
    uint64_t step;              /* steps done                                 */
};

const struct at_optim_impl *at_optim_impl_find(const char *name);
/* Bytes of state for n_flat numbers.                                         */
size_t at_optim_bytes(const struct at_optim_impl *impl,
                      const struct at_optim_settings *s, size_t n_flat);
/* After at_params_seal.                                                      */
int at_optim_create(struct at_ctx *cx, struct at_arena *arena,
                    const char *name, const struct at_optim_settings *s,
                    struct at_params *ps, at_rule_fn *rule, const void *self,
                    struct at_optim **o);
/* The gradient's Euclidean norm, in float64, the same on any threads.        */
double at_optim_grad_norm(const struct at_optim *o, const struct at_kernels *k);
/* Moves the params once: clip 0 or the largest allowed gradient norm.        */
void at_optim_step(struct at_optim *o, const struct at_kernels *k, double lr,
                   double grad_norm, double clip);
void at_optim_destroy(struct at_optim *o);

#endif
