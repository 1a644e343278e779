/* kernels: every entry of every instruction set against the reference, on
 * ragged sizes, with guards behind every output; the same bits on any number
 * of threads; NaN reaches what it touches.  AT_SEED=n repeats a failure.     */
#include "kernels/kernels.h"
#include "tests/test.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 16 };            /* floats behind every array                  */
static const float guard = -12345.5f;

struct bed {
    struct at_ctx cx;
    const struct at_kernels *k;     /* under test                            */
    struct at_rng rng;
    uint64_t drawn;
    struct at_hasher *seen;         /* of everything the kernels wrote        */
    const char *isa, *what;
};

static const struct at_kernels *const ref = &at_kernels_ref;

static float *blank(struct bed *t, size_t n)
{
    float *p = at_alloc_n(&t->cx, &t->cx.scratch, n + GUARD, sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < n + GUARD; i++)
        p[i] = guard;
    return p;
}

/* Normal numbers times s.                                                    */
static float *draw(struct bed *t, size_t n, double s)
{
    float *p = blank(t, n);
    for (size_t i = 0; i < n; i++)
        p[i] = (float)(s * at_rng_normal(&t->rng, 0, t->drawn++));
    return p;
}

static float *copy(struct bed *t, const float *from, size_t n)
{
    float *p = blank(t, n);
    for (size_t i = 0; i < n; i++)
        p[i] = from[i];
    return p;
}

static size_t pick(struct bed *t, size_t n)
{
    return at_rng_u64(&t->rng, 1, t->drawn++) % n;
}

/* got equals want within tol (1 + |want|), and nothing lies behind it.       */
static void same(struct bed *t, const char *name, const float *got,
                 const float *want, size_t n, double tol)
{
    for (size_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]);
        if (!(e <= tol * (1 + fabs((double)want[i]))))
            fail_msg("%s %s %s: element %zu of %zu is %.9g, ref has %.9g "
                     "(AT_SEED=%llu)", t->isa, t->what, name, i, n,
                     (double)got[i], (double)want[i],
                     (unsigned long long)t->rng.seed);
    }
    for (size_t i = n; i < n + GUARD; i++)
        if (got[i] != guard)
            fail_msg("%s %s %s: wrote %zu behind the end of %zu", t->isa,
                     t->what, name, i - n, n);
    at_hasher_add(t->seen, got, n * sizeof *got);
}

static void bit(struct bed *t, const char *name, const float *got,
                const float *want, size_t n)
{
    same(t, name, got, want, n, 0);
}

/* ---- one check per entry ------------------------------------------------- */

static void gemm_once(struct bed *t, enum at_gemm layout, size_t M, size_t N,
                      size_t K, float alpha, float beta)
{
    float *a = draw(t, M * K, 1), *b = draw(t, K * N, 1);
    float *y = beta == 0 ? blank(t, M * N) : draw(t, M * N, 1);
    float *z = copy(t, y, M * N);
    char name[80];
    for (size_t i = 0; i < M * N && beta == 0; i++)
        y[i] = z[i] = NAN;                      /* must not be read           */
    snprintf(name, sizeof name, "layout %d %zux%zux%zu alpha %g beta %g",
             layout, M, N, K, (double)alpha, (double)beta);
    t->k->gemm(layout, y, a, b, M, N, K, alpha, beta);
    ref->gemm(layout, z, a, b, M, N, K, alpha, beta);
    same(t, name, y, z, M * N, 2e-6 * (double)(4 + K / 8));
    at_arena_reset(&t->cx.scratch);
}

static void check_gemm(struct bed *t)
{
    static const size_t big[][3] = {
        { 70, 100, 400 }, { 130, 16, 200 }, { 129, 8, 2100 }, { 8, 200, 70 },
        { 16, 193, 300 }, { 200, 770, 8 }, { 300, 97, 16 }, { 1, 300, 257 },
        { 257, 1, 300 }, { 65, 49, 193 }, { 1, 1, 5000 }, { 1030, 55, 20 },
        { 33, 500, 40 }, { 9, 400, 65 }, { 3, 5, 0 },
    };
    for (int l = AT_NT; l <= AT_TN; l++) {
        for (size_t M = 1; M <= 5; M++)
            for (size_t N = 1; N <= 9; N++)
                for (size_t K = 1; K <= 33; K += 1 + K / 4)
                    gemm_once(t, (enum at_gemm)l, M, N, K, 1,
                              K % 2 ? 0.0f : 1.0f);
        for (size_t i = 0; i < AT_COUNT(big); i++)
            for (int s = 0; s < 2; s++)
                gemm_once(t, (enum at_gemm)l, big[i][0], big[i][1], big[i][2],
                          s ? 0.5f : 1.0f, s ? -2.0f : 0.0f);
    }
}

/* A random mask of about share q; row 1 is empty and row 2 full, where they
 * are.  n:m where of > 0: n of `of` consecutive are kept.                     */
static struct at_sparse *draw_pattern(struct bed *t, size_t M, size_t C,
                                      double q, size_t n, size_t of)
{
    uint8_t *mask = at_alloc(&t->cx, &t->cx.scratch, M * at_mask_row(C) + 1);
    struct at_sparse *s;
    assert_non_null(mask);
    for (size_t i = 0; i < M; i++)
        for (size_t c = 0; c < C; c++) {
            bool yes = at_rng_uniform(&t->rng, 2, t->drawn++) < q;
            if (of)
                yes = (c + i) % of < n;
            else if (i == 1 || i == 2)
                yes = i == 2;
            mask[i * at_mask_row(C) + c / 8] |= (uint8_t)(yes << c % 8);
        }
    OK(&t->cx, at_sparse_create(&t->cx, &t->cx.scratch, M, C, mask, true, &s));
    return s;
}

/* w[M,C] zero outside the pattern, its values both ways.                     */
static float *draw_values(struct bed *t, const struct at_sparse *s, float **v,
                          float **turned)
{
    float *w = draw(t, s->M * s->C, 1);
    *v = blank(t, s->n);
    *turned = blank(t, s->n);
    at_sparse_gather(s, *v, w);
    at_sparse_fill(s, w, *v);
    OK(&t->cx, at_sparse_turn(&t->cx, s, *turned, *v));
    return w;
}

static void sparse_products(struct bed *t, const struct at_sparse *s, size_t N)
{
    float *v, *vt, *w = draw_values(t, s, &v, &vt);
    float *x = draw(t, N * s->C, 1), *dy = draw(t, N * s->M, 1);
    float *y = draw(t, N * s->M, 1), *z = copy(t, y, N * s->M);
    float *dx = blank(t, N * s->C), *dz = blank(t, N * s->C);
    float *dv = draw(t, s->n, 1), *du = copy(t, dv, s->n);
    double tol = 2e-6 * (double)(4 + (s->C + s->M + N) / 8);
    char name[80];
    snprintf(name, sizeof name, "sparse %zux%zu, %zu of them, %zu tokens", s->M,
             s->C, s->n, N);
    for (int acc = 0; acc < 2; acc++) {
        t->k->sp_mm(y, x, v, s, N, acc);
        ref->gemm(AT_NT, z, x, w, N, s->M, s->C, 1, acc ? 1.0f : 0.0f);
        same(t, name, y, z, N * s->M, tol);
        t->k->sp_mm(dx, dy, vt, s->turned, N, acc);
        ref->gemm(AT_NN, dz, dy, w, N, s->C, s->M, 1, acc ? 1.0f : 0.0f);
        same(t, name, dx, dz, N * s->C, tol);
        t->k->sp_dw(dv, dy, x, s, N, acc);
        ref->sp_dw(du, dy, x, s, N, acc);
        same(t, name, dv, du, s->n, tol);
    }
}

static void sparse_factors(struct bed *t, const struct at_sparse *s, size_t R)
{
    float *v, *vt;
    float *b, *a, *got, *want, *da, *db, *ea, *eb;
    draw_values(t, s, &v, &vt);
    b = draw(t, s->M * R, 1);
    a = draw(t, R * s->C, 1);
    got = blank(t, s->n);
    want = blank(t, s->n);
    da = draw(t, R * s->C, 1);
    db = draw(t, s->M * R, 1);
    ea = copy(t, da, R * s->C);
    eb = copy(t, db, s->M * R);
    t->k->sp_low(got, v, b, a, s, R, 0.5f, false);
    ref->sp_low(want, v, b, a, s, R, 0.5f, false);
    same(t, "sp_low", got, want, s->n, 1e-5);
    t->k->sp_low(got, vt, b, a, s->turned, R, 0.5f, true);
    OK(&t->cx, at_sparse_turn(&t->cx, s, vt, want));
    same(t, "sp_low turned", got, vt, s->n, 1e-5);
    for (int acc = 1; acc >= 0; acc--) {
        t->k->sp_low_bwd(da, db, v, b, a, s, R, 0.5f, acc, acc);
        ref->sp_low_bwd(ea, eb, v, b, a, s, R, 0.5f, acc, acc);
        same(t, "da", da, ea, R * s->C, 2e-6 * (double)(8 + s->M / 4));
        same(t, "db", db, eb, s->M * R, 2e-6 * (double)(8 + s->C / 4));
    }
}

static void check_sparse(struct bed *t)
{
    static const size_t shapes[][2] = {
        { 1, 1 }, { 3, 7 }, { 5, 130 }, { 17, 64 }, { 40, 300 }, { 130, 129 },
        { 1100, 40 },
    };
    static const size_t tokens[] = { 0, 1, 2, 3, 4, 5, 17, 33, 64, 70, 150 };
    static const size_t nm[][2] = { { 2, 4 }, { 1, 4 }, { 4, 8 }, { 3, 5 } };
    static const double shares[] = { 0, 0.1, 0.5, 1 };
    for (size_t i = 0; i < AT_COUNT(shapes); i++)
        for (size_t j = 0; j < AT_COUNT(shares) + AT_COUNT(nm); j++) {
            const size_t *of = j < AT_COUNT(shares) ? (size_t[]){ 0, 0 }
                                                    : nm[j - AT_COUNT(shares)];
            double q = j < AT_COUNT(shares) ? shares[j] : 0;
            for (size_t n = 0; n < AT_COUNT(tokens); n++) {
                sparse_products(t, draw_pattern(t, shapes[i][0], shapes[i][1],
                                                q, of[0], of[1]), tokens[n]);
                at_arena_reset(&t->cx.scratch);
            }
            for (size_t R = 1; R <= 70; R += 23) {
                sparse_factors(t, draw_pattern(t, shapes[i][0], shapes[i][1], q,
                                               of[0], of[1]), R);
                at_arena_reset(&t->cx.scratch);
            }
        }
}

/* b has `all` of what is chosen from; every third and the last two of it.    */
static void some_once(struct bed *t, enum at_gemm layout, bool cols, size_t M,
                      size_t N, size_t K, float alpha, float beta)
{
    bool terms = (layout == AT_NT) == cols;
    size_t n = terms ? K : N, all = 3 * n + 2, other = terms ? N : K;
    size_t ld = cols ? all : other;
    float *a = draw(t, M * K, 1), *b = draw(t, all * other, 1);
    float *y = beta == 0 ? blank(t, M * N) : draw(t, M * N, 1);
    float *z = copy(t, y, M * N);
    int32_t *some = at_alloc_n(&t->cx, &t->cx.scratch, n + 1, sizeof *some);
    char name[80];
    for (size_t i = 0; i < n; i++)
        some[i] = (int32_t)(n - i <= 2 ? all - (n - i) : 3 * i);
    for (size_t i = 0; i < M * N && beta == 0; i++)
        y[i] = z[i] = NAN;
    snprintf(name, sizeof name, "layout %d cols %d %zux%zux%zu beta %g", layout,
             cols, M, N, K, (double)beta);
    t->k->gemm_some(layout, y, a, b, some, cols, M, N, K, ld, alpha, beta);
    ref->gemm_some(layout, z, a, b, some, cols, M, N, K, ld, alpha, beta);
    same(t, name, y, z, M * N, 2e-6 * (double)(4 + K / 8));
    at_arena_reset(&t->cx.scratch);
}

static void check_gemm_some(struct bed *t)
{
    static const size_t big[][3] = {
        { 70, 100, 400 }, { 129, 8, 500 }, { 8, 200, 70 }, { 200, 197, 8 },
        { 1, 300, 257 }, { 257, 1, 300 }, { 65, 49, 193 }, { 3, 5, 0 },
    };
    for (int l = 0; l < 4; l++) {
        enum at_gemm layout = l % 2 ? AT_NN : AT_NT;
        for (size_t M = 1; M <= 3; M++)
            for (size_t N = 1; N <= 9; N++)
                for (size_t K = 1; K <= 33; K += 1 + K / 4)
                    some_once(t, layout, l > 1, M, N, K, 1,
                              K % 2 ? 0.0f : 1.0f);
        for (size_t i = 0; i < AT_COUNT(big); i++)
            some_once(t, layout, l > 1, big[i][0], big[i][1], big[i][2], 0.5f,
                      i % 2 ? -2.0f : 0.0f);
    }
}

static const size_t rows_cols[][2] = {
    { 1, 1 }, { 2, 3 }, { 5, 9 }, { 3, 17 }, { 16, 33 }, { 17, 64 }, { 40, 67 },
    { 100, 288 }, { 37, 770 },
};

static void check_bias(struct bed *t)
{
    for (size_t s = 0; s < AT_COUNT(rows_cols); s++) {
        size_t N = rows_cols[s][0], C = rows_cols[s][1];
        float *y = draw(t, N * C, 1), *b = draw(t, C, 1), *z = copy(t, y, N * C);
        float *scratch = blank(t, AT_CHUNKS * C), *db = draw(t, C, 1);
        float *dz = copy(t, db, C);
        t->k->bias_fwd(y, b, N, C);
        ref->bias_fwd(z, b, N, C);
        bit(t, "y", y, z, N * C);
        t->k->bias_bwd(db, scratch, y, N, C, s % 2);
        ref->bias_bwd(dz, NULL, y, N, C, s % 2);
        same(t, "db", db, dz, C, 2e-6);
        at_arena_reset(&t->cx.scratch);
    }
}

static void check_rmsnorm(struct bed *t)
{
    for (size_t s = 0; s < AT_COUNT(rows_cols); s++) {
        size_t N = rows_cols[s][0], C = rows_cols[s][1], n = N * C;
        float *x = draw(t, n, 2), *w = draw(t, C, 1), *dy = draw(t, n, 1);
        float *y = blank(t, n), *z = blank(t, n), *r = blank(t, N);
        float *q = blank(t, N), *scratch = blank(t, AT_CHUNKS * C);
        t->k->rmsnorm_fwd(y, r, x, w, N, C, 1e-5f);
        ref->rmsnorm_fwd(z, q, x, w, N, C, 1e-5f);
        same(t, "y", y, z, n, 2e-6);
        same(t, "rstd", r, q, N, 2e-6);
        for (int f = 0; f < 16; f++) {
            float *dx = draw(t, n, 1), *dw = draw(t, C, 1);
            float *ex = copy(t, dx, n), *ew = copy(t, dw, C);
            bool no_x = f & 1, no_w = f & 2, ax = f & 4, aw = f & 8;
            t->k->rmsnorm_bwd(no_x ? NULL : dx, no_w ? NULL : dw,
                              no_w ? NULL : scratch, dy, x, w, q, N, C, ax, aw);
            ref->rmsnorm_bwd(no_x ? NULL : ex, no_w ? NULL : ew, NULL, dy, x,
                             w, q, N, C, ax, aw);
            same(t, "dx", dx, ex, n, 1e-5);
            same(t, "dw", dw, ew, C, 2e-5);
        }
        at_arena_reset(&t->cx.scratch);
    }
}

static void check_layernorm(struct bed *t)
{
    for (size_t s = 0; s < AT_COUNT(rows_cols); s++) {
        size_t N = rows_cols[s][0], C = rows_cols[s][1], n = N * C;
        float *x = draw(t, n, 2), *w = draw(t, C, 1), *dy = draw(t, n, 1);
        float *y = blank(t, n), *z = blank(t, n), *r = blank(t, N);
        float *q = blank(t, N), *scratch = blank(t, AT_CHUNKS * 2 * C);
        float *m = blank(t, N), *mz = blank(t, N), *b = draw(t, C, 1);
        if (C == 1)
            continue;           /* x - mean is all rounding                   */
        if (s % 2)
            b = NULL;
        t->k->layernorm_fwd(y, m, r, x, w, b, N, C, 1e-5f);
        ref->layernorm_fwd(z, mz, q, x, w, b, N, C, 1e-5f);
        same(t, "y", y, z, n, 1e-5);
        same(t, "mean", m, mz, N, 2e-6);
        same(t, "rstd", r, q, N, 1e-5);
        for (int f = 0; f < 24; f++) {
            float *dx = draw(t, n, 1), *dw = draw(t, C, 1), *db = draw(t, C, 1);
            float *ex = copy(t, dx, n), *ew = copy(t, dw, C);
            float *eb = copy(t, db, C);
            bool no_x = f & 1, ax = f & 2, aw = f & 4, no_w = f / 8 == 1;
            bool no_b = f / 8 > 0;
            t->k->layernorm_bwd(no_x ? NULL : dx, no_w ? NULL : dw,
                                no_b ? NULL : db, no_w ? NULL : scratch, dy, x,
                                w, mz, q, N, C, ax, aw);
            ref->layernorm_bwd(no_x ? NULL : ex, no_w ? NULL : ew,
                               no_b ? NULL : eb, NULL, dy, x, w, mz, q, N, C,
                               ax, aw);
            same(t, "dx", dx, ex, n, 2e-5);
            same(t, "dw", dw, ew, C, 4e-5);
            same(t, "db", db, eb, C, 1e-5);
        }
        at_arena_reset(&t->cx.scratch);
    }
}

static void check_rope(struct bed *t)
{
    static const size_t shape[][3] = {          /* N, H, K                    */
        { 1, 1, 2 }, { 3, 2, 6 }, { 5, 3, 10 }, { 4, 2, 34 }, { 7, 1, 96 },
        { 60, 5, 64 }, { 2, 1, 258 },
    };
    for (size_t s = 0; s < AT_COUNT(shape); s++)
        for (int f = 0; f < 8; f++) {
            size_t N = shape[s][0], H = shape[s][1], K = shape[s][2], P = 11;
            size_t ld_x = H * K + 5, ld_y = H * K + (f & 4 ? 5 : 2);
            float *x = draw(t, N * ld_x, 1), *cs = draw(t, P * K, 1);
            float *y = f & 4 ? copy(t, x, N * ld_x) : blank(t, N * ld_y);
            float *z = copy(t, y, N * ld_y);
            int32_t pos[64];
            for (size_t i = 0; i < N; i++)
                pos[i] = (int32_t)pick(t, P);
            t->k->rope(y, f & 4 ? y : x, cs, pos, N, H, K, ld_y, ld_x, f & 1,
                       f & 2 ? 1 : -1);
            ref->rope(z, f & 4 ? z : x, cs, pos, N, H, K, ld_y, ld_x, f & 1,
                      f & 2 ? 1 : -1);
            same(t, "y", y, z, N * ld_y, 1e-6);
            at_arena_reset(&t->cx.scratch);
        }
}

/* Documents of random lengths packed into rows.                              */
static int32_t *segments(struct bed *t, size_t B, size_t T, bool packed)
{
    int32_t *first = at_alloc_n(&t->cx, &t->cx.scratch, B * T, sizeof *first);
    for (size_t n = 0, at = 0; n < B * T; n++) {
        if (n % T == 0 || (packed && pick(t, 9) == 0))
            at = n;
        first[n] = (int32_t)at;
    }
    return first;
}

/* Some of N, in order, maybe none. */
static int32_t *some(struct bed *t, size_t N, size_t *n)
{
    int32_t *at = at_alloc_n(&t->cx, &t->cx.scratch, N, sizeof *at);
    *n = 0;
    for (size_t i = 0; i < N; i++)
        if (pick(t, 3))
            at[(*n)++] = (int32_t)i;
    return at;
}

static void attention_once(struct bed *t, size_t B, size_t T, size_t H,
                           size_t G, size_t K, bool packed, bool unseen,
                           size_t window, bool both)
{
    size_t N = B * T;
    struct at_attn a = {
        B, T, H, G, K, H * K + 3, G * K + 1, G * K + 2, H * K + 5,
        (float)(1 / sqrt((double)K)), segments(t, B, T, packed), window,
        unseen ? draw(t, N, 1) : NULL, NULL, 0, both,
    };
    float *q = draw(t, N * a.ld_q, 2), *k = draw(t, N * a.ld_k, 1);
    float *v = draw(t, N * a.ld_v, 1), *dy = draw(t, N * a.ld_y, 1);
    float *y = blank(t, N * a.ld_y), *z = blank(t, N * a.ld_y);
    float *lse = blank(t, N * H), *mse = blank(t, N * H);
    float *dq = blank(t, N * a.ld_q), *eq = blank(t, N * a.ld_q);
    float *dk = blank(t, N * a.ld_k), *ek = blank(t, N * a.ld_k);
    float *dv = blank(t, N * a.ld_v), *ev = blank(t, N * a.ld_v);
    t->k->attn_fwd(y, lse, q, k, v, &a);
    ref->attn_fwd(z, mse, q, k, v, &a);
    same(t, "y", y, z, N * a.ld_y, 1e-5);
    same(t, "lse", lse, mse, N * H, 2e-6);
    t->k->attn_bwd(dq, dk, dv, dy, q, k, v, z, mse, &a);
    ref->attn_bwd(eq, ek, ev, dy, q, k, v, z, mse, &a);
    same(t, "dq", dq, eq, N * a.ld_q, 5e-5);
    same(t, "dk", dk, ek, N * a.ld_k, 5e-5);
    same(t, "dv", dv, ev, N * a.ld_v, 5e-5);
    if (B == 1) {
        a.at = some(t, N, &a.n_at);
        t->k->attn_fwd(y, lse, q, k, v, &a);
        ref->attn_fwd(z, mse, q, k, v, &a);
        same(t, "y of some", y, z, N * a.ld_y, 1e-5);
    }
    at_arena_reset(&t->cx.scratch);
}

static void check_attention(struct bed *t)
{
    static const size_t shape[][5] = {          /* B, T, H, G, K              */
        { 1, 1, 1, 1, 1 }, { 2, 3, 2, 1, 3 }, { 1, 5, 4, 2, 7 },
        { 2, 17, 3, 3, 16 }, { 1, 33, 2, 1, 19 }, { 3, 40, 4, 4, 8 },
        { 1, 70, 2, 2, 48 }, { 2, 97, 6, 2, 33 }, { 1, 131, 1, 1, 64 },
        { 1, 20, 2, 1, 256 }, { 1, 66, 2, 2, 100 },
    };
    for (size_t s = 0; s < AT_COUNT(shape); s++)
        for (int i = 0; i < 10; i++) {
            static const size_t window[] = { 0, 1, 9, 70, 0 };
            bool both = i >= 8;
            attention_once(t, shape[s][0], shape[s][1], shape[s][2],
                           shape[s][3], shape[s][4], i % 2,
                           i / 2 % 2 && !both, window[i / 2], both);
        }
}

/* Several calls fill the cache: prompts of three rows, then single tokens.   */
static void check_cached(struct bed *t)
{
    static const size_t shape[][3] = { { 1, 1, 5 }, { 6, 2, 16 }, { 4, 4, 33 },
                                       { 40, 1, 24 }, { 3, 1, 7 }, { 2, 2, 64 },
                                       { 16, 2, 80 } };
    /* Single tokens then stand at the beginning, and on both sides of 64.    */
    static const size_t prompt[] = { 0, 62, 80 };
    enum { ROWS = 3, PROMPT = 80, T_MAX = PROMPT + 20, MOST = ROWS * PROMPT };
    for (size_t s = 0; s < AT_COUNT(shape); s++) {
        size_t H = shape[s][0], G = shape[s][1], K = shape[s][2];
        size_t n_cache = ROWS * G * T_MAX * K;
        struct at_cache c = { blank(t, n_cache), blank(t, n_cache), ROWS,
                              T_MAX };
        struct at_cache e = { blank(t, n_cache), blank(t, n_cache), ROWS,
                              T_MAX };
        int32_t next[ROWS] = { 0 };
        for (int call = 0; call < 6; call++) {
            size_t N = call == 0 ? MOST : 5;
            struct at_attn a = { 1, N, H, G, K, H * K + 2, G * K, G * K + 1,
                                 H * K, 0.3f, NULL, s % 2 ? 7 : 0, NULL, NULL, 0,
                                 false };
            int32_t row[MOST], pos[MOST];
            float *q = draw(t, N * a.ld_q, 1), *k = draw(t, N * a.ld_k, 1);
            float *v = draw(t, N * a.ld_v, 1);
            float *y = blank(t, N * a.ld_y), *z = blank(t, N * a.ld_y);
            for (size_t n = 0; n < N; n++) {
                row[n] = call == 0 ? (int32_t)(n / PROMPT)
                                   : (int32_t)(n % 4) - 1;
                if (call == 0 && n % PROMPT >= prompt[n / PROMPT])
                    row[n] = -1;
                pos[n] = row[n] < 0 ? 0 : next[row[n]]++;
            }
            if (call % 2)
                a.at = some(t, N, &a.n_at);
            t->k->attn_cached(y, &c, q, k, v, row, pos, &a);
            ref->attn_cached(z, &e, q, k, v, row, pos, &a);
            same(t, "y", y, z, N * a.ld_y, 1e-5);
            bit(t, "cache k", c.k, e.k, n_cache);
            bit(t, "cache v", c.v, e.v, n_cache);
        }
        at_arena_reset(&t->cx.scratch);
    }
}

static const size_t lengths[] = { 1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 127, 999,
                                  40001 };

static void check_act(struct bed *t)
{
    for (size_t s = 0; s < AT_COUNT(lengths); s++)
        for (int act = AT_RELU; act <= AT_TANH; act++) {
            enum at_act f = (enum at_act)act;
            size_t n = lengths[s];
            float *x = draw(t, n, 4), *u = draw(t, n, 1), *dy = draw(t, n, 1);
            float *y = blank(t, n), *z = blank(t, n);
            float *dg = blank(t, n), *du = blank(t, n);
            float *eg = blank(t, n), *eu = blank(t, n);
            for (size_t i = 0; i < n; i += 50)
                x[i] *= 30;                     /* far into the tails         */
            t->k->act_fwd(y, x, n, f);
            ref->act_fwd(z, x, n, f);
            same(t, "act", y, z, n, 2e-7);
            t->k->glu_fwd(y, x, u, n, f);
            ref->glu_fwd(z, x, u, n, f);
            same(t, "glu", y, z, n, 4e-7);
            t->k->act_bwd(dg, dy, x, n, f);
            ref->act_bwd(eg, dy, x, n, f);
            same(t, "act dx", dg, eg, n, 1e-6);
            t->k->glu_bwd(dg, du, dy, x, u, n, f);
            ref->glu_bwd(eg, eu, dy, x, u, n, f);
            same(t, "glu dg", dg, eg, n, 2e-6);
            same(t, "glu du", du, eu, n, 1e-6);
            y = copy(t, x, n);
            t->k->act_fwd(y, y, n, f);
            ref->act_fwd(z, x, n, f);
            same(t, "act in place", y, z, n, 2e-7);
            y = copy(t, dy, n);
            t->k->act_bwd(y, y, x, n, f);
            ref->act_bwd(z, dy, x, n, f);
            same(t, "act dx in place", y, z, n, 1e-6);
            at_arena_reset(&t->cx.scratch);
        }
}

static void check_elementwise(struct bed *t)
{
    for (size_t s = 0; s < AT_COUNT(lengths); s++)
        for (int f = 0; f < 8; f++) {
            size_t n = lengths[s];
            bool acc = f & 1;
            float *a = draw(t, n, 1), *b = draw(t, n, 1), *y = draw(t, n, 1);
            float *z = copy(t, y, n);
            float *ya = f & 2 ? y : a, *za = f & 2 ? z : a;     /* alias      */
            float *yb = f & 4 ? y : b, *zb = f & 4 ? z : b;
            t->k->add(y, ya, yb, n);
            ref->add(z, za, zb, n);
            bit(t, "add", y, z, n);
            t->k->mul(y, ya, yb, n, acc);
            ref->mul(z, za, zb, n, acc);
            same(t, "mul", y, z, n, 1e-6);
            memcpy(y, z, n * sizeof *y);
            t->k->scale(y, ya, 0.7f, n, acc);
            ref->scale(z, za, 0.7f, n, acc);
            same(t, "scale", y, z, n, 1e-6);
            at_arena_reset(&t->cx.scratch);
        }
}

static void check_dropout(struct bed *t)
{
    static const double p[] = { 0, 0.1, 0.5, 0.99 };
    for (size_t s = 0; s < AT_COUNT(lengths); s++)
        for (size_t i = 0; i < AT_COUNT(p); i++) {
            size_t n = lengths[s];
            float *x = draw(t, n, 1), *y = blank(t, n), *z = blank(t, n);
            struct at_rng rng = { t->rng.seed, AT_RNG_DROPOUT, (uint32_t)s };
            uint64_t step = UINT64_C(1) << (8 * i + 7);
            t->k->dropout(y, x, n, p[i], &rng, step);
            ref->dropout(z, x, n, p[i], &rng, step);
            bit(t, "y", y, z, n);
            t->k->dropout(x, x, n, p[i], &rng, step);
            bit(t, "in place", x, z, n);
            at_arena_reset(&t->cx.scratch);
        }
}

static void check_rows(struct bed *t)
{
    static const size_t shape[][3] = {          /* N, C, V                    */
        { 1, 1, 1 }, { 5, 3, 2 }, { 9, 17, 30 }, { 33, 65, 7 }, { 300, 70, 50 },
    };
    for (size_t s = 0; s < AT_COUNT(shape); s++)
        for (int acc = 0; acc < 2; acc++) {
            size_t N = shape[s][0], C = shape[s][1], V = shape[s][2];
            float *w = draw(t, V * C, 1), *dy = draw(t, N * C, 1);
            float *y = blank(t, N * C), *z = blank(t, N * C);
            float *dw = draw(t, V * C, 1), *ew = copy(t, dw, V * C);
            int32_t ids[300];
            for (size_t i = 0; i < N; i++)
                ids[i] = (int32_t)pick(t, V + 1) - 1;
            t->k->rows_fwd(y, w, ids, N, C);
            ref->rows_fwd(z, w, ids, N, C);
            bit(t, "y", y, z, N * C);
            t->k->rows_bwd(dw, dy, ids, N, C, V, acc);
            ref->rows_bwd(ew, dy, ids, N, C, V, acc);
            bit(t, "dw", dw, ew, V * C);
            at_arena_reset(&t->cx.scratch);
        }
}

static void check_distil(struct bed *t, const int32_t *target, const float *w,
                         size_t N, size_t V, float T)
{
    size_t n = N * V;
    float *x = draw(t, n, 5), *z = copy(t, x, n), *soft = draw(t, n, 5);
    float *ce = blank(t, N), *de = blank(t, N), *kl = blank(t, N);
    float *dl = blank(t, N);
    t->k->distil_fwd_bwd(ce, kl, x, soft, target, w, N, V, 0.3f, T);
    ref->distil_fwd_bwd(de, dl, z, soft, target, w, N, V, 0.3f, T);
    same(t, "ce beside a teacher", ce, de, N, 5e-6);
    same(t, "kl", kl, dl, N, 2e-5);
    same(t, "dlogits beside a teacher", x, z, n, 2e-5);
}

/* Rows 1, 2, 4, 5, 7.. are few, 3, 6, .. the rest, row 0 is neither.          */
static void check_join(struct bed *t)
{
    for (size_t s = 0; s < AT_COUNT(rows_cols); s++) {
        size_t N = rows_cols[s][0], C = rows_cols[s][1], k = 1 + C / 3;
        int32_t *ints = at_alloc_n(&t->cx, &t->cx.run, 4 * N + C + 1,
                                   sizeof *ints), *few_at = ints;
        int32_t *rest_at = ints + N, *of = ints + 2 * N, *cols = ints + 3 * N;
        struct at_join j = { .few_at = few_at, .rest_at = rest_at, .N = N,
                             .C = C, .k = k, .of = of, .cols = cols };
        const float *x = draw(t, N * C, 1);
        float *y, *z;
        for (size_t i = 1; i < N; i++)
            if (i % 3 == 0)
                rest_at[j.n_rest++] = (int32_t)i;
            else
                few_at[j.n_few++] = (int32_t)i;
        for (size_t i = 0; i < j.n_few; i++)
            of[i] = i > j.n_few / 2;
        for (size_t i = 0; i < 2 * k; i++)
            cols[i] = (int32_t)(i < k ? C - k + i : 2 * (i - k) % C);
        y = blank(t, N * k);
        z = blank(t, N * k);
        t->k->cut(y, x, few_at, cols, of, j.n_few, k, C);
        ref->cut(z, x, few_at, cols, of, j.n_few, k, C);
        bit(t, "cut", y, z, j.n_few * k);
        j.few = y;
        j.rest = draw(t, N * C, 1);
        for (int way = 0; way < 3; way++) {
            float *a = blank(t, N * C), *b = blank(t, N * C);
            j.blank = way == 1 ? x : NULL;
            if (way == 2) {
                j.cols = NULL;
                j.k = C;
                j.few = x;
            }
            t->k->join(a, &j);
            ref->join(b, &j);
            bit(t, "join", a, b, N * C);
        }
        at_arena_reset(&t->cx.scratch);
    }
}

static void check_xent(struct bed *t)
{
    static const size_t shape[][2] = { { 1, 1 }, { 2, 3 }, { 5, 17 }, { 4, 63 },
                                       { 7, 4099 }, { 3, 9000 }, { 6, 128 } };
    for (size_t s = 0; s < AT_COUNT(shape); s++) {
        size_t N = shape[s][0], V = shape[s][1], n = N * V;
        float *x = draw(t, n, 5), *z = copy(t, x, n), *w = draw(t, N, 1);
        float *ce = blank(t, N), *de = blank(t, N);
        float *gap = blank(t, N), *hole = blank(t, N);
        int32_t target[8];
        for (size_t i = 0; i < N; i++)
            target[i] = (int32_t)pick(t, V + 1) - 1;
        for (size_t i = 0; i < V; i++)
            z[i] = x[i] += s % 2 ? 300.0f : -300.0f;
        t->k->xent_fwd(ce, gap, x, target, N, V);
        ref->xent_fwd(de, hole, x, target, N, V);
        same(t, "ce", ce, de, N, 5e-6);
        bit(t, "gap", gap, hole, N);
        t->k->xent_fwd(de, NULL, x, target, N, V);
        bit(t, "ce alone", ce, de, N);
        t->k->xent_fwd_bwd(ce, x, target, w, N, V);
        ref->xent_fwd_bwd(de, z, target, w, N, V);
        same(t, "ce with gradient", ce, de, N, 5e-6);
        same(t, "dlogits", x, z, n, 2e-5);
        check_distil(t, target, w, N, V, s % 2 ? 1 : 2.5f);
        at_arena_reset(&t->cx.scratch);
    }
}

static void check_optim(struct bed *t)
{
    const struct at_adamw adamw = { 1e-2, 0.9, 0.99, 1e-8, 0.1, 0.19, 0.0199,
                                    0.5 };
    for (size_t s = 0; s < AT_COUNT(lengths); s++)
        for (int f = 0; f < 3; f++) {
            size_t n = lengths[s];
            float *p = draw(t, n, 1), *m = draw(t, n, 1), *v = draw(t, n, 1);
            float *g = draw(t, n, 1), *pz = copy(t, p, n), *mz, *vz;
            const struct at_lion lion = { 1e-2, 0.9, 0.99, 0.1, 0.5 };
            struct at_sgd sgd = { 0.1, 0.9, 0.01, 2, f == 1 };
            for (size_t i = 0; i < n; i++)
                v[i] *= v[i];
            mz = copy(t, m, n);
            vz = copy(t, v, n);
            t->k->adamw(p, m, v, g, n, &adamw);
            ref->adamw(pz, mz, vz, g, n, &adamw);
            same(t, "adamw p", p, pz, n, 1e-6);
            same(t, "adamw m", m, mz, n, 1e-6);
            same(t, "adamw v", v, vz, n, 1e-6);
            t->k->sgd(p, f == 2 ? NULL : m, g, n, &sgd);
            ref->sgd(pz, f == 2 ? NULL : mz, g, n, &sgd);
            same(t, "sgd p", p, pz, n, 2e-6);
            same(t, "sgd m", m, mz, n, 2e-6);
            t->k->lion(p, m, g, n, &lion);
            ref->lion(pz, mz, g, n, &lion);
            same(t, "lion p", p, pz, n, 2e-6);
            same(t, "lion m", m, mz, n, 2e-6);
            at_arena_reset(&t->cx.scratch);
        }
}

static void check_sumsq(struct bed *t)
{
    for (size_t s = 0; s < AT_COUNT(lengths); s++) {
        size_t n = lengths[s];
        const float *x = draw(t, n, 1);
        double got = t->k->sumsq(x, n), want = ref->sumsq(x, n);
        if (!(fabs(got - want) <= 1e-12 * want))
            fail_msg("%s sumsq of %zu: %.17g, ref has %.17g", t->isa, n, got,
                     want);
        at_hasher_add(t->seen, &got, sizeof got);
        at_arena_reset(&t->cx.scratch);
    }
    assert_true(t->k->sumsq(NULL, 0) == 0);
}

static const struct { const char *name; void (*run)(struct bed *t); } checks[] = {
    { "gemm", check_gemm }, { "gemm of some", check_gemm_some },
    { "sparse", check_sparse }, { "bias", check_bias },
    { "rmsnorm", check_rmsnorm }, { "layernorm", check_layernorm },
    { "rope", check_rope }, { "attention", check_attention },
    { "cached attention", check_cached }, { "activations", check_act },
    { "elementwise", check_elementwise }, { "dropout", check_dropout },
    { "rows", check_rows }, { "join", check_join },
    { "cross-entropy", check_xent },
    { "optimizers", check_optim }, { "sumsq", check_sumsq },
};

/* ---- the loops ------------------------------------------------------------ */

static const char *const isas[] = { "v2", "v3", "v4", "base" };

/* False: this processor or build has no such instruction set.                */
static bool bed_init(struct bed *t, const char *isa)
{
    const char *seed = getenv("AT_SEED");
    *t = (struct bed){ .isa = isa };
    at_ctx_init(&t->cx);
    t->rng = (struct at_rng){ seed ? strtoull(seed, NULL, 10) : 1,
                              AT_RNG_TEST, 0 };
    setenv("ATTUNE_ISA", isa, 1);
    if (at_kernels_cpu(&t->cx, &t->k) < 0) {
        assert_non_null(strstr(t->cx.err.msg, "ATTUNE_ISA"));
        at_ctx_finish(&t->cx);
        return false;
    }
    t->seen = at_hasher_create(&t->cx);
    assert_non_null(t->seen);
    return true;
}

static void bed_finish(struct bed *t)
{
    at_hasher_destroy(t->seen);
    at_ctx_finish(&t->cx);
    unsetenv("ATTUNE_ISA");
}

static struct at_hash run_checks(const char *isa, size_t i, int threads)
{
    struct bed t;
    struct at_hash h;
    assert_true(bed_init(&t, isa));
    omp_set_num_threads(threads);
    t.what = checks[i].name;
    checks[i].run(&t);
    h = at_hasher_value(t.seen);
    bed_finish(&t);
    return h;
}

static void every_isa_agrees_with_ref_on_any_threads(void **state)
{
    size_t n = 0;
    (void)state;
    for (size_t s = 0; s < AT_COUNT(isas); s++) {
        struct bed t;
        if (!bed_init(&t, isas[s]))
            continue;
        bed_finish(&t);
        n++;
        for (size_t i = 0; i < AT_COUNT(checks); i++) {
            struct at_hash one = run_checks(isas[s], i, 1);
            struct at_hash three = run_checks(isas[s], i, 3);
            if (!at_hash_equal(one, three))
                fail_msg("%s %s: the bits depend on the number of threads",
                         isas[s], checks[i].name);
        }
    }
    assert_true(n > 0);
}

static void nan_reaches(struct bed *t, const char *name, const float *y,
                        size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isnan(y[i]))
            fail_msg("%s %s: NaN did not reach element %zu, which is %g",
                     t->isa, name, i, (double)y[i]);
}

static void nan_in_rows(struct bed *t, size_t bad)
{
    enum { N = 3, C = 70 };
    float *x = draw(t, N * C, 1), *w = draw(t, C, 1), *y = blank(t, N * C);
    float m[N], r[N], ce[N], weight[N] = { 1, 1, 1 }, scratch[AT_CHUNKS * 2 * C];
    float dw[C];
    int32_t target[N] = { 0, 1, 2 };
    x[bad] = NAN;
    t->k->rmsnorm_fwd(y, r, x, w, N, C, 1e-5f);
    nan_reaches(t, "rmsnorm", y, C);
    assert_true(!isnan(y[C]));
    t->k->layernorm_fwd(y, m, r, x, w, NULL, N, C, 1e-5f);
    nan_reaches(t, "layernorm", y, C);
    m[0] = r[0] = 1;
    t->k->layernorm_bwd(y, dw, NULL, scratch, x, w, w, m, r, 1, C, false,
                        false);
    nan_reaches(t, "layernorm dx", y, C);
    nan_reaches(t, "layernorm dw", dw + bad, 1);
    t->k->xent_fwd(ce, NULL, x, target, N, C);
    nan_reaches(t, "xent", ce, 1);
    assert_true(!isnan(ce[1]));
    t->k->xent_fwd_bwd(ce, x, target, weight, N, C);
    nan_reaches(t, "xent with gradient", ce, 1);
    nan_reaches(t, "dlogits", x, C);
    assert_true(!isnan(x[C]));
    at_arena_reset(&t->cx.scratch);
}

static void nan_in_elements(struct bed *t, size_t bad)
{
    enum { N = 70 };
    struct at_adamw s = { 1e-2, 0.9, 0.99, 1e-8, 0, 0.1, 0.1, 1 };
    float *x = draw(t, N, 1), *u = draw(t, N, 1), *y = blank(t, N);
    float *p = draw(t, N, 1), *m = draw(t, N, 1), *v = blank(t, N);
    float *d = blank(t, N);
    x[bad] = NAN;
    for (int act = AT_RELU; act <= AT_TANH; act++) {
        t->k->act_fwd(y, x, N, (enum at_act)act);
        nan_reaches(t, "act", y + bad, 1);
        t->k->act_bwd(y, x, u, N, (enum at_act)act);
        nan_reaches(t, "act dx by dy", y + bad, 1);
        if (act != AT_RELU) {
            t->k->act_bwd(y, u, x, N, (enum at_act)act);
            nan_reaches(t, "act dx by x", y + bad, 1);
        }
        t->k->glu_fwd(y, x, u, N, (enum at_act)act);
        nan_reaches(t, "glu", y + bad, 1);
        t->k->glu_bwd(y, d, u, x, u, N, (enum at_act)act);
        nan_reaches(t, "glu du", d + bad, 1);
    }
    for (size_t i = 0; i < N; i++)
        v[i] = 1;
    t->k->adamw(p, m, v, x, N, &s);
    nan_reaches(t, "adamw p", p + bad, 1);
    assert_true(!isnan(p[(bad + 1) % N]));
    assert_true(isnan(t->k->sumsq(x, N)) != 0);
    at_arena_reset(&t->cx.scratch);
}

/* Query n sees 0 .. n: a bad key or value spoils the queries from it on.     */
static void nan_in_attention(struct bed *t, size_t bad)
{
    enum { T = 80, K = 20 };
    int32_t first[T] = { 0 };
    struct at_attn a = { 1, T, 1, 1, K, K, K, K, K, 0.2f, first, 0, NULL, NULL,
                         0, false };
    for (int which = 0; which < 3; which++) {
        float *x[3], *y = blank(t, T * K), *lse = blank(t, T);
        float *dq = blank(t, T * K), *dk = blank(t, T * K), *dv = blank(t, T * K);
        for (int i = 0; i < 3; i++)
            x[i] = draw(t, T * K, 1);
        x[which][bad * K + 7] = NAN;
        t->k->attn_fwd(y, lse, x[0], x[1], x[2], &a);
        for (size_t n = bad; n < T; n++)
            if (which > 0 || n == bad)
                nan_reaches(t, "attention", y + n * K + 7, 1);
        t->k->attn_bwd(dq, dk, dv, y, x[0], x[1], x[2], y, lse, &a);
        nan_reaches(t, "attention dq", dq + bad * K, K);
        nan_reaches(t, "attention dk", dk, K);
        at_arena_reset(&t->cx.scratch);
    }
}

static void nan_in_gemm(struct bed *t, size_t M, size_t N, size_t K)
{
    for (int l = AT_NT; l <= AT_TN; l++) {
        float *a = draw(t, M * K, 1), *b = draw(t, K * N, 1);
        float *y = blank(t, M * N);
        a[0] = NAN;                             /* row 0, term 0              */
        t->k->gemm((enum at_gemm)l, y, a, b, M, N, K, 1, 0);
        nan_reaches(t, "gemm", y, N);
        assert_true(M == 1 || !isnan(y[N]));
        at_arena_reset(&t->cx.scratch);
    }
}

static void nan_reaches_what_it_touches(void **state)
{
    (void)state;
    for (size_t s = 0; s < AT_COUNT(isas); s++) {
        struct bed t;
        if (!bed_init(&t, isas[s]))
            continue;
        for (size_t bad = 0; bad < 70; bad += 3) {
            nan_in_rows(&t, bad);
            nan_in_elements(&t, bad);
            nan_in_attention(&t, bad);
        }
        nan_in_gemm(&t, 50, 60, 40);
        nan_in_gemm(&t, 50, 8, 300);
        nan_in_gemm(&t, 1, 60, 40);
        bed_finish(&t);
    }
}

/* ---- ref itself ------------------------------------------------------------ */

static void ref_gemm_is_the_matrix_product(void **state)
{
    const float a[] = { 1, 2, 3, 4, 5, 6 };     /* 2x3, transposed: 3x2       */
    const float b[] = { 1, 0, 2, 0, 1, 1 };
    float y[4] = { 1, 1, 1, 1 };
    (void)state;
    ref->gemm(AT_NT, y, a, b, 2, 2, 3, 1, 0);
    assert_memory_equal(y, ((float[]){ 7, 5, 16, 11 }), sizeof y);
    ref->gemm(AT_NN, y, a, b, 2, 2, 3, 2, 1);    /* b is [[1,0],[2,0],[1,1]]  */
    assert_memory_equal(y, ((float[]){ 23, 11, 56, 23 }), sizeof y);
    ref->gemm(AT_TN, y, a, b, 2, 2, 3, 1, 0);    /* a is [[1,2],[3,4],[5,6]]  */
    assert_memory_equal(y, ((float[]){ 12, 5, 16, 6 }), sizeof y);
}

static void ref_softmax_gradient_sums_to_zero(void **state)
{
    float x[5] = { 1, -2, 3, 0.5f, 0 }, ce, gap, w = 2, sum = 0;
    int32_t target = 3;
    double z = exp(1) + exp(-2) + exp(3) + exp(0.5) + 1;
    (void)state;
    ref->xent_fwd(&ce, &gap, x, &target, 1, 5);
    assert_true(gap == 2.5f);
    ref->xent_fwd_bwd(&ce, x, &target, &w, 1, 5);
    assert_true(fabs((double)ce - (log(z) - 0.5)) < 1e-6);
    assert_true(fabs((double)x[2] - 2 * exp(3) / z) < 1e-6);
    for (int i = 0; i < 5; i++)
        sum += x[i];
    assert_true(fabsf(sum) < 1e-6f);
}

static void wrong_names_are_refused(void **state)
{
    const struct at_kernels *k;
    const char *text;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_kernels_find(&cx, "cpu", &k));
    assert_string_equal(k->name, "cpu");
    OK(&cx, at_kernels_find(&cx, "ref", &k));
    assert_ptr_equal(k, ref);
    assert_int_equal(at_kernels_find(&cx, "gpu", &k), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "ref, cpu"));
    setenv("ATTUNE_ISA", "v9", 1);
    assert_int_equal(at_kernels_cpu(&cx, &k), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "v9"));
    unsetenv("ATTUNE_ISA");
    OK(&cx, at_kernels_describe(&cx, &text));
    assert_true(strlen(text) > 0);
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ref_gemm_is_the_matrix_product),
        cmocka_unit_test(ref_softmax_gradient_sums_to_zero),
        cmocka_unit_test(wrong_names_are_refused),
        cmocka_unit_test(every_isa_agrees_with_ref_on_any_threads),
        cmocka_unit_test(nan_reaches_what_it_touches),
    };
    return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
