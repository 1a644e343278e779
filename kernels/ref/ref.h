/* The reference kernels, one prototype for every line of the table. */
#ifndef AT_REF_H
#define AT_REF_H

#include "kernels/kernels.h"

void ref_gemm(enum at_gemm layout, at_real *restrict y,
              const at_real *restrict a, const at_real *restrict b, size_t M,
              size_t N, size_t K, at_real alpha, at_real beta);
void ref_gemm_some(enum at_gemm layout, at_real *restrict y,
                   const at_real *restrict a, const at_real *restrict b,
                   const int32_t *some, bool cols, size_t M, size_t N,
                   size_t K, size_t ld, at_real alpha, at_real beta);
void ref_cut(at_real *restrict y, const at_real *restrict x,
             const int32_t *rows, const int32_t *cols, const int32_t *of,
             size_t n, size_t k, size_t C);
void ref_join(at_real *restrict y, const struct at_join *j);
void ref_bias_fwd(at_real *y, const at_real *b, size_t N, size_t C);
void ref_bias_bwd(at_real *db, at_real *scratch, const at_real *dy, size_t N,
                  size_t C, bool acc);
void ref_rmsnorm_fwd(at_real *y, at_real *rstd, const at_real *x,
                     const at_real *w, size_t N, size_t C, at_real eps);
void ref_rmsnorm_bwd(at_real *dx, at_real *dw, at_real *scratch,
                     const at_real *dy, const at_real *x, const at_real *w,
                     const at_real *rstd, size_t N, size_t C, bool acc_dx,
                     bool acc_dw);
void ref_layernorm_fwd(at_real *y, at_real *mean, at_real *rstd,
                       const at_real *x, const at_real *w, const at_real *b,
                       size_t N, size_t C, at_real eps);
void ref_layernorm_bwd(at_real *dx, at_real *dw, at_real *db, at_real *scratch,
                       const at_real *dy, const at_real *x, const at_real *w,
                       const at_real *mean, const at_real *rstd, size_t N,
                       size_t C, bool acc_dx, bool acc_dwb);
void ref_rope(at_real *y, const at_real *x, const at_real *cs,
              const int32_t *pos, size_t N, size_t H, size_t K, size_t ld_y,
              size_t ld_x, bool half, int sign);
void ref_attn_fwd(at_real *y, at_real *lse, const at_real *q, const at_real *k,
                  const at_real *v, const struct at_attn *a);
void ref_attn_bwd(at_real *dq, at_real *dk, at_real *dv, const at_real *dy,
                  const at_real *q, const at_real *k, const at_real *v,
                  const at_real *y, const at_real *lse,
                  const struct at_attn *a);
void ref_attn_cached(at_real *y, const struct at_cache *c, const at_real *q,
                     const at_real *k, const at_real *v, const int32_t *row,
                     const int32_t *pos, const struct at_attn *a);
void ref_act_fwd(at_real *y, const at_real *x, size_t n, enum at_act act);
void ref_act_bwd(at_real *dx, const at_real *dy, const at_real *x, size_t n,
                 enum at_act act);
void ref_glu_fwd(at_real *y, const at_real *g, const at_real *u, size_t n,
                 enum at_act act);
void ref_glu_bwd(at_real *dg, at_real *du, const at_real *dy, const at_real *g,
                 const at_real *u, size_t n, enum at_act act);
void ref_add(at_real *y, const at_real *a, const at_real *b, size_t n);
void ref_mul(at_real *y, const at_real *a, const at_real *b, size_t n,
             bool acc);
void ref_scale(at_real *y, const at_real *x, at_real s, size_t n, bool acc);
void ref_dropout(at_real *y, const at_real *x, size_t n, double p,
                 const struct at_rng *rng, uint64_t step);
void ref_rows_fwd(at_real *y, const at_real *w, const int32_t *ids, size_t N,
                  size_t C);
void ref_rows_bwd(at_real *dw, const at_real *dy, const int32_t *ids, size_t N,
                  size_t C, size_t V, bool acc);
void ref_xent_fwd(at_real *ce, at_real *gap, const at_real *logits,
                  const int32_t *target, size_t N, size_t V);
void ref_xent_fwd_bwd(at_real *ce, at_real *logits, const int32_t *target,
                      const at_real *weight, size_t N, size_t V);
void ref_distil_fwd_bwd(at_real *ce, at_real *kl, at_real *x, const at_real *t,
                        const int32_t *target, const at_real *weight, size_t N,
                        size_t V, at_real a, at_real T);
void ref_adamw(at_real *p, at_real *m, at_real *v, const at_real *g, size_t n,
               const struct at_adamw *s);
void ref_sgd(at_real *p, at_real *m, const at_real *g, size_t n,
             const struct at_sgd *s);
void ref_lion(at_real *p, at_real *m, const at_real *g, size_t n,
              const struct at_lion *s);
void ref_sp_mm(at_real *y, const at_real *x, const at_real *v,
               const struct at_sparse *s, size_t N, bool acc);
void ref_sp_dw(at_real *dv, const at_real *dy, const at_real *x,
               const struct at_sparse *s, size_t N, bool acc);
void ref_sp_low(at_real *v, const at_real *w, const at_real *b,
                const at_real *a, const struct at_sparse *s, size_t R,
                at_real scale, bool turned);
void ref_sp_low_bwd(at_real *da, at_real *db, const at_real *dv,
                    const at_real *b, const at_real *a,
                    const struct at_sparse *s, size_t R, at_real scale,
                    bool acc_da, bool acc_db);
double ref_sumsq(const at_real *x, size_t n);

#endif
