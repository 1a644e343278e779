/* Kernels: arithmetic on plain arrays.  No tensors, no graph, no I/O, no
 * failure, no allocation.
 *
 * Conventions for every entry:
 *   - outputs first, then inputs (const), then sizes, then settings;
 *   - row-major, contiguous; element type at_real (float; double in the
 *     build that checks gradients); ids and positions are int32_t;
 *   - outputs never alias inputs unless the entry says "may alias";
 *   - a gradient output is overwritten, or added to when its acc_* is true;
 *     a NULL gradient output is not computed (its parameter is frozen);
 *   - the same bits whatever the number of threads;
 *   - threads: entries open their own OpenMP regions and are called from
 *     outside any parallel region;
 *   - NaN and Inf propagate to the outputs they touch;
 *   - letters: B batch, T time, C channels, H heads, G key/value heads,
 *     K head size, V vocabulary, N any flattened count (mostly B*T).
 *
 * `ref` is the specification in the plainest C (float and double from one
 * source).  `cpu` starts as that table and replaces lines as it earns them.  */
#ifndef AT_KERNELS_H
#define AT_KERNELS_H

#include "base/base.h"
#include "kernels/pattern.h"

enum { AT_CHUNKS = 16 };    /* fixed cut of row reductions; see scratch      */
enum { AT_HEAD_MAX = 256 }; /* largest head size K of attention              */

enum at_gemm {              /* y[M,N] = alpha * a . b + beta * y              */
    AT_NT,                  /* a[M,K] b[N,K]^T   forward of a linear layer    */
    AT_NN,                  /* a[M,K] b[K,N]     dX                           */
    AT_TN,                  /* a[K,M]^T b[K,N]   dW                           */
};

enum at_act { AT_RELU, AT_GELU_TANH, AT_GELU_ERF, AT_SILU, AT_TANH };

/* Where attention reads and writes.  Token n of N = B*T stands in row n/T; it
 * sees tokens first[n] .. n (both within its row): causal, and blind to other
 * documents packed into the row; with a window only the last `window` of them,
 * itself included.  With `both` it sees its whole text, backwards and forwards:
all tokens of its row with its first, which do not fall.  q,k,v,y and their gradients are read with row strides
 * (in elements), so that slices of one fused buffer work; head h of q starts
 * at column h*K and reads key/value head h / (H/G).                          */
struct at_attn {
    size_t B, T, H, G, K;
    size_t ld_q, ld_k, ld_v, ld_y;  /* gradients have their array's stride   */
    at_real scale;                  /* usually 1/sqrt(K)                     */
    const int32_t *first;           /* [N]                                   */
    size_t window;                  /* 0: no limit                           */
    const at_real *seen;            /* [N]: a token with 0 or less is seen by
                                     * itself only; NULL: all are seen        */
    const int32_t *at;              /* [n_at]: q and y (and lse) have a row for
                                     * each of these tokens only, and B is 1;
                                     * NULL: for all.  Forward, and cached    */
    size_t n_at;
    bool both;                      /* whole texts; neither window nor seen   */
};

/* How many queries there are in a row, and the token of query i.             */
static inline size_t at_attn_queries(const struct at_attn *a)
{
    return a->at ? a->n_at : a->T;
}

static inline size_t at_attn_token(const struct at_attn *a, size_t i)
{
    return a->at ? (size_t)a->at[i] : i;
}

/* The first token that token n sees.                                         */
static inline size_t at_attn_from(const struct at_attn *a, size_t n)
{
    size_t from = (size_t)a->first[n];
    return a->window && n - from >= a->window ? n + 1 - a->window : from;
}

/* The last token that token n sees.                                          */
static inline size_t at_attn_to(const struct at_attn *a, size_t n)
{
    size_t to = n, end = (n / a->T + 1) * a->T;
    while (a->both && end - to > 1) {
        size_t mid = to + (end - to) / 2;
        if (a->first[mid] == a->first[n])
            to = mid;
        else
            end = mid;
    }
    return to;
}

/* The same in a cache row, where the first is 0.                             */
static inline size_t at_attn_cached_from(const struct at_attn *a, size_t pos)
{
    return a->window && pos >= a->window ? pos + 1 - a->window : 0;
}

/* The key/value cache of generation: k and v are [rows, G, T_max, K].        */
struct at_cache {
    at_real *k, *v;
    size_t rows, T_max;
};

/* Rows that were worked on apart, side by side again: y [N,C].  Row few_at[i]
 * of y holds few[i] [k]: at the columns cols[of[i]*k ..], with blank [C] (NULL:
 * zeros) elsewhere; or as it is where cols is NULL and k is C.  Row rest_at[i]
 * holds rest[i] [C], all others zeros.  Both lists rise; no row is in both.   */
struct at_join {
    const at_real *few, *rest, *blank;
    const int32_t *few_at, *rest_at, *cols, *of;
    size_t n_few, n_rest, N, k, C;
};

struct at_adamw {
    double lr, beta1, beta2, eps, weight_decay;
    double correct1, correct2;  /* 1 - beta1^t, 1 - beta2^t                  */
    double grad_scale;          /* clipping factor applied to the gradient   */
};

struct at_sgd {
    double lr, momentum, weight_decay, grad_scale;
    bool nesterov;
};

struct at_lion { double lr, beta1, beta2, weight_decay, grad_scale; };

struct at_kernels {
    const char *name;           /* recipe word: "ref", "cpu"                 */

    /* y[M,N] = alpha * a . b + beta * y; beta 0 never reads y.              */
    void (*gemm)(enum at_gemm layout, at_real *restrict y,
                 const at_real *restrict a, const at_real *restrict b,
                 size_t M, size_t N, size_t K, at_real alpha, at_real beta);

    /* The same with some of b, whose rows are ld apart, in its place: its rows
     * some[..], or (cols) its columns some[..].  AT_NT: N rows, or K columns;
     * AT_NN: K rows, or N columns.  Not AT_TN.                              */
    void (*gemm_some)(enum at_gemm layout, at_real *restrict y,
                      const at_real *restrict a, const at_real *restrict b,
                      const int32_t *some, bool cols, size_t M, size_t N,
                      size_t K, size_t ld, at_real alpha, at_real beta);

    /* Matrices of which there is only a pattern s, with values v[n]:
     * y[N,M] = x[N,C] w^T;  dv[e] = sum over N of dy[N,i] x[N,c].            */
    void (*sp_mm)(at_real *y, const at_real *x, const at_real *v,
                  const struct at_sparse *s, size_t N, bool acc);
    void (*sp_dw)(at_real *dv, const at_real *dy, const at_real *x,
                  const struct at_sparse *s, size_t N, bool acc);
    /* v = w + scale * (b a) where s has entries, b[M,R] a[R,C]; turned: s is the
     * pattern of the transpose, v and w its values, b[C,R] a[R,M].  v may alias
     * w.  bwd: da = scale b^T dv, db = scale dv a^T (either may be NULL).    */
    void (*sp_low)(at_real *v, const at_real *w, const at_real *b,
                   const at_real *a, const struct at_sparse *s, size_t R,
                   at_real scale, bool turned);
    void (*sp_low_bwd)(at_real *da, at_real *db, const at_real *dv,
                       const at_real *b, const at_real *a,
                       const struct at_sparse *s, size_t R, at_real scale,
                       bool acc_da, bool acc_db);

    /* y[N,C] += b[C];  db[C] = column sums of dy[N,C];
     * scratch [AT_CHUNKS, C].                                               */
    void (*bias_fwd)(at_real *y, const at_real *b, size_t N, size_t C);
    void (*bias_bwd)(at_real *db, at_real *scratch, const at_real *dy,
                     size_t N, size_t C, bool acc);

    /* y = x / sqrt(mean(x^2) + eps) * w;  rstd [N] is kept for backward.
     * scratch [AT_CHUNKS, C].                                               */
    void (*rmsnorm_fwd)(at_real *y, at_real *rstd, const at_real *x,
                        const at_real *w, size_t N, size_t C, at_real eps);
    void (*rmsnorm_bwd)(at_real *dx, at_real *dw, at_real *scratch,
                        const at_real *dy, const at_real *x, const at_real *w,
                        const at_real *rstd, size_t N, size_t C, bool acc_dx,
                        bool acc_dw);
    /* y = (x - mean) * rstd * w + b (b may be NULL); db NULL iff dw NULL or
     * there is no b.  scratch [AT_CHUNKS, 2*C].                             */
    void (*layernorm_fwd)(at_real *y, at_real *mean, at_real *rstd,
                          const at_real *x, const at_real *w, const at_real *b,
                          size_t N, size_t C, at_real eps);
    void (*layernorm_bwd)(at_real *dx, at_real *dw, at_real *db,
                          at_real *scratch, const at_real *dy,
                          const at_real *x, const at_real *w,
                          const at_real *mean, const at_real *rstd, size_t N,
                          size_t C, bool acc_dx, bool acc_dwb);

    /* Rotary positions.  cs [P, K/2, 2] holds cos and sin of every position
     * and pair; pos[N] < P.  half false: pairs (0,1),(2,3),.. (llama2.c);
     * true: pairs (i, i+K/2) (Hugging Face).  sign -1 rotates back, which is
     * the backward.  x, y [N, H*K] with row strides ld_x, ld_y; may alias.  */
    void (*rope)(at_real *y, const at_real *x, const at_real *cs,
                 const int32_t *pos, size_t N, size_t H, size_t K, size_t ld_y,
                 size_t ld_x, bool half, int sign);

    /* y[N,H,K] = softmax(scale q k^T) v;  lse [N,H] log-sum-exp of the scaled
     * scores.  bwd writes dq, dk, dv (never adds; all three or none).       */
    void (*attn_fwd)(at_real *y, at_real *lse, const at_real *q,
                     const at_real *k, const at_real *v,
                     const struct at_attn *a);
    void (*attn_bwd)(at_real *dq, at_real *dk, at_real *dv, const at_real *dy,
                     const at_real *q, const at_real *k, const at_real *v,
                     const at_real *y, const at_real *lse,
                     const struct at_attn *a);
    /* Token n stands in cache row row[n] at position pos[n] (row -1: padding;
     * its y is zero).  All k, v are stored first, then token n sees positions
     * 0 .. pos[n] (the last `window` of them).  Uses N = a->B * a->T, H, G, K,
     * strides, scale, at; neither first nor seen.                           */
    void (*attn_cached)(at_real *y, const struct at_cache *c, const at_real *q,
                        const at_real *k, const at_real *v,
                        const int32_t *row, const int32_t *pos,
                        const struct at_attn *a);

    /* y = act(x); dx = dy * act'(x).  y may alias x; dx may alias dy.       */
    void (*act_fwd)(at_real *y, const at_real *x, size_t n, enum at_act act);
    void (*act_bwd)(at_real *dx, const at_real *dy, const at_real *x, size_t n,
                    enum at_act act);
    /* Gated: y = act(g) * u (SwiGLU with AT_SILU).                          */
    void (*glu_fwd)(at_real *y, const at_real *g, const at_real *u, size_t n,
                    enum at_act act);
    void (*glu_bwd)(at_real *dg, at_real *du, const at_real *dy,
                    const at_real *g, const at_real *u, size_t n,
                    enum at_act act);

    /* Elementwise; y may alias any input.                                   */
    void (*add)(at_real *y, const at_real *a, const at_real *b, size_t n);
    void (*mul)(at_real *y, const at_real *a, const at_real *b, size_t n,
                bool acc);
    void (*scale)(at_real *y, const at_real *x, at_real s, size_t n, bool acc);
    /* y = x / (1-p) where kept, 0 where dropped: element i is dropped when
     * word i%4 of Philox block (step, i/4) < p * 2^32.  Its own backward.   */
    void (*dropout)(at_real *y, const at_real *x, size_t n, double p,
                    const struct at_rng *rng, uint64_t step);

    /* y[i] = w[ids[i]], rows of C; an id < 0 gives zeros.  bwd adds dy[i]
     * into row ids[i] of dw [V,C], in the order of i within a row.          */
    void (*rows_fwd)(at_real *y, const at_real *w, const int32_t *ids,
                     size_t N, size_t C);
    void (*rows_bwd)(at_real *dw, const at_real *dy, const int32_t *ids,
                     size_t N, size_t C, size_t V, bool acc);

    /* y[i,j] = x[rows[i], cols[of[i]*k + j]], x [..,C], y [n,k].            */
    void (*cut)(at_real *restrict y, const at_real *restrict x,
                const int32_t *rows, const int32_t *cols, const int32_t *of,
                size_t n, size_t k, size_t C);
    void (*join)(at_real *restrict y, const struct at_join *j);

    /* Cross-entropy over rows of logits [N,V]: ce[i] = lse_i - logit of
     * target[i]; a target < 0 gives ce 0.  gap[i] (gap may be NULL): by how much
     * the largest logit is above the target's, 0 where that is the likeliest.
     * With weight: logits are replaced in place by weight[i] * (softmax -
     * onehot), zero for target < 0.                                         */
    void (*xent_fwd)(at_real *ce, at_real *gap, const at_real *logits,
                     const int32_t *target, size_t N, size_t V);
    void (*xent_fwd_bwd)(at_real *ce, at_real *logits, const int32_t *target,
                         const at_real *weight, size_t N, size_t V);

    /* The same beside a teacher's logits t [N,V], at temperature T:
     *   kl[i] = sum of q (ln q - ln p),  q = softmax(t/T), p = softmax(x/T);
     *   x becomes weight[i] ((1-a) (softmax(x) - onehot) + a/T (p - q)).     */
    void (*distil_fwd_bwd)(at_real *ce, at_real *kl, at_real *x,
                           const at_real *t, const int32_t *target,
                           const at_real *weight, size_t N, size_t V,
                           at_real a, at_real T);

    /* Decoupled weight decay (Loshchilov & Hutter 2019):
     *   g *= grad_scale; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
     *   p -= lr * (m/correct1 / (sqrt(v/correct2) + eps) + weight_decay * p) */
    void (*adamw)(at_real *p, at_real *m, at_real *v, const at_real *g,
                  size_t n, const struct at_adamw *s);
    /* g' = grad_scale g + weight_decay p; m = momentum m + g'; m NULL: plain. */
    void (*sgd)(at_real *p, at_real *m, const at_real *g, size_t n,
                const struct at_sgd *s);
    /* Chen et al. 2023 (arXiv:2302.06675), g scaled as above:
     *   p -= lr * (sign(b1 m + (1-b1) g) + weight_decay p);
     *   m = b2 m + (1-b2) g;  sign(0) = 0                                    */
    void (*lion)(at_real *p, at_real *m, const at_real *g, size_t n,
                 const struct at_lion *s);
    /* Sum of squares in float64, fixed chunks: the same on any threads.     */
    double (*sumsq)(const at_real *x, size_t n);
};

extern const struct at_kernels at_kernels_ref;
#ifndef AT_REAL64
/* The table of the running machine: ISA chosen once by CPU features, or by
 * the environment's ATTUNE_ISA=v2|v3|v4 (an ISA the CPU lacks is refused).   */
int at_kernels_cpu(struct at_ctx *cx, const struct at_kernels **k);
/* What was chosen, for `attune doctor`: "avx512 (v4)".                       */
int at_kernels_describe(struct at_ctx *cx, const char **text);
#endif
/* "ref" or "cpu"; an unknown name is an error with the list.                 */
int at_kernels_find(struct at_ctx *cx, const char *name,
                    const struct at_kernels **k);

#endif
