/* The table of ops: one row each, defined beside its functions in op_*.c. */
#include "autograd/op.h"

int at_refuse(struct at_ctx *cx, const struct at_node *n, const char *why)
{
    struct at_text t = { 0 };
    char shape[96];
    int rc;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i])
            at_text_addf(&t, "%s%s %s", i ? ", " : "",
                         n->in[i]->name ? n->in[i]->name : "input",
                         at_shape_text(shape, &n->in[i]->shape));
    rc = at_fail(cx, AT_ESHAPE, "%s: %s (%s)", at_ops[n->op]->name, why,
                 t.s ? t.s : "");
    at_text_finish(&t);
    return rc;
}

const struct at_op *const at_ops[AT_OP_COUNT] = {
    [AT_OP_LINEAR] = &at_op_linear,
    [AT_OP_LINEAR_ADD] = &at_op_linear_add,
    [AT_OP_LINEAR_DX] = &at_op_linear_dx,
    [AT_OP_LINEAR_DW] = &at_op_linear_dw,
    [AT_OP_BIAS_DB] = &at_op_bias_db,
    [AT_OP_RMSNORM] = &at_op_rmsnorm,
    [AT_OP_RMSNORM_BWD] = &at_op_rmsnorm_bwd,
    [AT_OP_LAYERNORM] = &at_op_layernorm,
    [AT_OP_LAYERNORM_BWD] = &at_op_layernorm_bwd,
    [AT_OP_ROPE] = &at_op_rope,
    [AT_OP_ATTN] = &at_op_attn,
    [AT_OP_ATTN_BWD] = &at_op_attn_bwd,
    [AT_OP_ATTN_CACHED] = &at_op_attn_cached,
    [AT_OP_ACT] = &at_op_act,
    [AT_OP_ACT_BWD] = &at_op_act_bwd,
    [AT_OP_GLU] = &at_op_glu,
    [AT_OP_GLU_BWD] = &at_op_glu_bwd,
    [AT_OP_ADD] = &at_op_add,
    [AT_OP_MUL] = &at_op_mul,
    [AT_OP_SCALE] = &at_op_scale,
    [AT_OP_DROPOUT] = &at_op_dropout,
    [AT_OP_ROWS] = &at_op_rows,
    [AT_OP_ROWS_BWD] = &at_op_rows_bwd,
    [AT_OP_LINEAR_XENT] = &at_op_linear_xent,
    [AT_OP_LINEAR_CE] = &at_op_linear_ce,
    [AT_OP_LINEAR_CE_BWD] = &at_op_linear_ce_bwd,
    [AT_OP_LINEAR_DISTIL] = &at_op_linear_distil,
    [AT_OP_ROUTE] = &at_op_route,
    [AT_OP_ROUTE_BWD] = &at_op_route_bwd,
    [AT_OP_GATE] = &at_op_gate,
    [AT_OP_GATE_BWD] = &at_op_gate_bwd,
    [AT_OP_CAPACITY] = &at_op_capacity,
    [AT_OP_CAPACITY_BWD] = &at_op_capacity_bwd,
    [AT_OP_PICK] = &at_op_pick,
    [AT_OP_SCATTER] = &at_op_scatter,
    [AT_OP_ALIKE] = &at_op_alike,
    [AT_OP_TAP] = &at_op_tap,
    [AT_OP_TAP_BWD] = &at_op_tap_bwd,
    [AT_OP_PART] = &at_op_part,
    [AT_OP_PART_BWD] = &at_op_part_bwd,
    [AT_OP_PUT] = &at_op_put,
    [AT_OP_MASKED_LINEAR] = &at_op_masked_linear,
    [AT_OP_MASKED_LINEAR_DX] = &at_op_masked_linear_dx,
    [AT_OP_MASKED_LINEAR_DAB] = &at_op_masked_linear_dab,
    [AT_OP_CONTEXT] = &at_op_context,
    [AT_OP_CHANNELS] = &at_op_channels,
    [AT_OP_LINEAR_AT] = &at_op_linear_at,
    [AT_OP_LINEAR_AT_DX] = &at_op_linear_at_dx,
    [AT_OP_CUT] = &at_op_cut,
    [AT_OP_JOIN] = &at_op_join,
};
