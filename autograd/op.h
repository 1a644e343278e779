/* For op_*.c only: reading nodes and refusing in shape rules. */
#ifndef AT_OP_H
#define AT_OP_H

#include "autograd/autograd.h"

static inline at_real *at_f(struct at_val *v)
{
    return v ? v->data : NULL;
}

static inline const int32_t *at_i(const struct at_val *v)
{
    return v->data;
}

/* Elements in use. */
static inline size_t at_count(const struct at_val *v)
{
    size_t n = at_shape_count(&v->shape);
    return v->live ? n / v->shape.d[0] * *v->live : n;
}

static inline size_t at_cols(const struct at_val *v)
{
    return v->shape.d[v->shape.n - 1];
}

/* All dimensions but the last; of rows, those in use. */
static inline size_t at_rows_of(const struct at_val *v)
{
    size_t n = 1;
    for (size_t i = 0; i + 1 < v->shape.n; i++)
        n *= i == 0 && v->live ? *v->live : v->shape.d[i];
    return n;
}

/* Whether output o of n is added to in this run. */
static inline bool at_adds(const struct at_run *r, const struct at_node *n,
                           int o)
{
    return (n->acc >> o & 1u) || ((n->acc_micro >> o & 1u) && r->micro > 0);
}

/* "linear: x is [8,768], w is [4,512]: <why>" */
int at_refuse(struct at_ctx *cx, const struct at_node *n, const char *why);
/* The first output of a node, or NULL. */
static inline struct at_val *at_out(struct at_node *n, int o)
{
    return n ? n->out[o] : NULL;
}

extern const struct at_op
    at_op_linear, at_op_linear_add, at_op_linear_dx,
    at_op_linear_dw, at_op_bias_db, at_op_rmsnorm,
    at_op_rmsnorm_bwd, at_op_layernorm, at_op_layernorm_bwd,
    at_op_rope, at_op_attn, at_op_attn_bwd,
    at_op_attn_cached, at_op_act, at_op_act_bwd,
    at_op_glu, at_op_glu_bwd, at_op_add,
    at_op_mul, at_op_scale, at_op_dropout,
    at_op_rows, at_op_rows_bwd, at_op_linear_xent,
    at_op_linear_ce, at_op_linear_ce_bwd, at_op_linear_distil,
    at_op_route, at_op_route_bwd, at_op_gate, at_op_gate_bwd,
    at_op_capacity, at_op_capacity_bwd, at_op_pick, at_op_scatter,
    at_op_alike,
    at_op_tap, at_op_tap_bwd, at_op_part, at_op_part_bwd, at_op_put,
    at_op_masked_linear, at_op_masked_linear_dx, at_op_masked_linear_dab,
    at_op_context, at_op_channels, at_op_linear_at, at_op_linear_at_dx,
    at_op_cut, at_op_join;

#endif
