/* The kernels of one instruction set: compiled once for each, under the name
 * that the build gives in ISA_TABLE.                                         */
#include "kernels/cpu/attn_bwd.c"
#include "kernels/cpu/attn_cached.c"
#include "kernels/cpu/elem.c"
#include "kernels/cpu/gemm.c"
#include "kernels/cpu/loss.c"
#include "kernels/cpu/norm.c"
#include "kernels/cpu/rows.c"
#include "kernels/cpu/sparse.c"

extern const struct at_kernels ISA_TABLE;
const struct at_kernels ISA_TABLE = {
    .name = "cpu",
    .gemm = gemm,
    .gemm_some = gemm_some,
    .sp_mm = sp_mm,
    .sp_dw = sp_dw,
    .sp_low = sp_low,
    .sp_low_bwd = sp_low_bwd,
    .bias_fwd = bias_fwd,
    .bias_bwd = bias_bwd,
    .rmsnorm_fwd = rmsnorm_fwd,
    .rmsnorm_bwd = rmsnorm_bwd,
    .layernorm_fwd = layernorm_fwd,
    .layernorm_bwd = layernorm_bwd,
    .rope = rope,
    .attn_fwd = attn_fwd,
    .attn_bwd = attn_bwd,
    .attn_cached = attn_cached,
    .act_fwd = act_fwd,
    .act_bwd = act_bwd,
    .glu_fwd = glu_fwd,
    .glu_bwd = glu_bwd,
    .add = add,
    .mul = mul,
    .scale = scale,
    .dropout = dropout,
    .rows_fwd = rows_fwd,
    .rows_bwd = rows_bwd,
    .cut = cut,
    .join = join_rows,
    .xent_fwd = xent_fwd,
    .xent_fwd_bwd = xent_fwd_bwd,
    .distil_fwd_bwd = distil_fwd_bwd,
    .adamw = adamw,
    .sgd = sgd,
    .lion = lion,
    .sumsq = sumsq,
};
