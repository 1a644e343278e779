/* Drawing texts, what they are worth, and datasets of draws. */
#include "tests/test.h"

#include "data/data.h"
#include "data/rewards.h"
#include "optim/palette.h"
#include "train/align/compare.h"
#include "train/align/rollout.h"
#include "train/align/weights.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[256];
static volatile sig_atomic_t stop;

static const char *in_dir(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static int text_once(struct at_ctx *cx, void *self, const char **text, size_t *n)
{
    static const char said[] = "a cat sees a dog. the dog likes the cat. "
                               "a bird finds the river and the river sings.";
    int *done = self;
    (void)cx;
    *text = (*done)++ ? NULL : said;
    *n = sizeof said - 1;
    return AT_OK;
}

/* A model of random weights with a tokenizer of its own.                     */
static int world(void **state)
{
    static const char *const special[] = { "<|endoftext|>" };
    struct at_tok_training how = { .vocab_size = 300, .special = special,
                                   .n_special = 1, .pad = AT_TOK_NONE };
    struct at_ctx cx;
    struct at_decoder d;
    struct at_params ps;
    struct at_tok *tok;
    FILE *f;
    int done = 0;
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/attune-rollout-%ld", (long)getpid());
    assert_int_equal(mkdir(dir, 0777), 0);
    at_ctx_init(&cx);
    OK(&cx, at_threads_start(&cx, 2));
    OK(&cx, at_tok_train(&cx, &cx.run, text_once, &done, &how, &tok));
    OK(&cx, at_decoder_family(&cx, "llama", &d));
    d.V = at_tok_size(tok);
    d.C = 32;
    d.L = 2;
    d.H = 4;
    d.P = 64;
    d.tied = true;
    OK(&cx, at_decoder_check(&cx, &d));
    for (size_t value = 0; value < 2; value++) {
        at_params_init(&ps, &cx, &cx.run);
        ps.need_grads = false;
        d.value = value;
        if (value) {
            struct at_init init = { AT_INIT_NORMAL, 1 };
            at_param(&ps, "value.weight", at_shape2(1, d.C), init);
            at_param(&ps, "value.bias", at_shape1(1), init);
        }
        OK(&cx, at_model_declare(&cx, &d, &ps));
        OK(&cx, at_params_seal(&ps));
        at_params_draw(&ps, 7);
        OK(&cx, at_model_write(&cx, in_dir(value ? "judge.h5" : "model.h5"), &d,
                               tok, &ps, AT_H5_F32, NULL));
        at_params_finish(&ps);
    }
    f = fopen(in_dir("prompts.txt"), "w");
    for (int i = 0; i < 10; i++)
        fprintf(f, "the %s %d\n", i % 2 ? "cat" : "dog likes a bird", i);
    fclose(f);
    at_ctx_finish(&cx);
    return 0;
}

static int world_ends(void **state)
{
    char cmd[300];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static void open_cx(struct at_ctx *cx)
{
    at_ctx_init(cx);
    stop = 0;
    cx->stop = &stop;
    OK(cx, at_threads_start(cx, 2));
}

/* ---- values ----------------------------------------------------------------- */

static void texts_are_counted(void **state)
{
    (void)state;
    assert_int_equal(at_count_words("", 0), 0);
    assert_int_equal(at_count_words("  a cat's dog, 3.5!", 19), 8);
    assert_int_equal(at_count_words("\xc3\xa4h ja", 6), 2);
    /* 5 words: 4 bigrams of 4, 3 trigrams of 3, 2 4-grams of 2, all distinct:
     * 4/5 * 3/4 * 2/3                                                        */
    assert_true(fabs(at_diversity("a b c d e", 9) - 0.4) < 1e-15);
    /* a b a b a b: 2 of 5, 2 of 4, 2 of 3: 2/6 * 2/5 * 2/4 */
    assert_true(fabs(at_diversity("a b a b a b", 11) - 2.0 / 30) < 1e-15);
    assert_true(at_diversity("a b c", 5) == 0);
}

static struct at_said said(const char *prompt, const char *text)
{
    return (struct at_said){ prompt, text, strlen(prompt), strlen(text) };
}

static void every_kind_scores(void **state)
{
    const char *spec[] = { "brief=-length", "pattern:(?i)CAT", "diversity",
                           "command:awk '{ print length($0) }'", NULL, NULL };
    struct at_said s[] = { said("p", "a cat"), said("q", "a dog \"barks\"") };
    char judge[600], model[600];
    double score[12], alone[6], sum = 0;
    struct at_values v;
    struct at_infer *in;
    struct at_tok_ids ids = { 0 };
    struct at_ctx cx;
    (void)state;
    open_cx(&cx);
    snprintf(judge, sizeof judge, "judge=reward:%s", in_dir("judge.h5"));
    snprintf(model, sizeof model, "fluent=perplexity:%s", in_dir("model.h5"));
    spec[4] = judge;
    spec[5] = model;
    OK(&cx, at_values_open(&cx, &cx.run, spec, 6, &v));
    assert_string_equal(v.v[0].name, "brief");
    assert_string_equal(v.v[1].name, "pattern");
    OK(&cx, at_values_score(&cx, &v, s, 2, score));
    assert_true(score[0] == -2 && score[6] == -5);
    assert_true(score[1] == 1 && score[7] == 0);
    assert_true(score[3] == (double)strlen("{\"prompt\":\"p\",\"text\":\"a cat\"}"));
    /* A text's number does not depend on what stands beside it.              */
    OK(&cx, at_values_score(&cx, &v, s + 1, 1, alone));
    assert_true(fabs(alone[4] - score[10]) < 1e-6 && score[4] != score[10]);
    assert_true(fabs(alone[5] - score[11]) < 1e-6);
    at_values_close(&v);
    /* The mean over "pa cat" and its end, token by token.                     */
    OK(&cx, at_infer_open(&cx, in_dir("model.h5"), "cpu", 2, 1, 64, 0, 0, &in));
    OK(&cx, at_tok_encode(&cx, in->coder, "pa cat", 6, AT_TOK_EOS, &ids));
    for (size_t i = 1; i < ids.n; i++) {
        const at_real *x;
        double all = 0;
        OK(&cx, at_generator_logits(in->gen, ids.id, i, &x));
        for (size_t k = 0; k < in->m->d.V; k++)
            all += exp((double)x[k]);
        sum += (double)x[ids.id[i]] - log(all);
    }
    assert_true(fabs(score[5] - sum / (double)(ids.n - 1)) < 1e-5);
    at_tok_ids_finish(&ids);
    at_infer_close(in);
    at_ctx_finish(&cx);
}

/* The cosine of mean hidden states: 1 for a text and itself, the same from both
 * sides and whatever stands beside it, 0 where nothing was said.             */
static void coherence_is_a_cosine(void **state)
{
    struct at_said s[] = { said("a cat", "a cat"), said("a cat", "dog barks"),
                           said("dog barks", "a cat"), said("a cat", ""),
                           said("a cat", "a cat sees a dog") };
    double score[AT_COUNT(s)], alone;
    char spec[600];
    const char *specs[] = { spec };
    struct at_values v;
    struct at_ctx cx;
    (void)state;
    for (int judge = 0; judge < 2; judge++) {
        open_cx(&cx);
        snprintf(spec, sizeof spec, "coherence:%s",
                 in_dir(judge ? "judge.h5" : "model.h5"));
        OK(&cx, at_values_open(&cx, &cx.run, specs, 1, &v));
        OK(&cx, at_values_score(&cx, &v, s, AT_COUNT(s), score));
        assert_true(fabs(score[0] - 1) < 1e-6);
        assert_true(score[1] < 0.999 && score[1] > -1);
        assert_true(fabs(score[1] - score[2]) < 1e-6);
        assert_true(score[3] == 0);
        assert_true(score[4] < 0.9999 && score[4] > score[1]);
        OK(&cx, at_values_score(&cx, &v, s + 1, 1, &alone));
        assert_true(fabs(alone - score[1]) < 1e-6);
        at_values_close(&v);
        at_ctx_finish(&cx);
    }
}

static void bad_values_are_refused(void **state)
{
    static const struct { const char *a, *b, *says; } bad[] = {
        { "lenght", NULL, "did you mean 'length'?" },
        { "length:3", NULL, "takes nothing behind a colon" },
        { "reward", NULL, "say reward:MODEL" },
        { "reward:/nonexistent", NULL, "/nonexistent" },
        { "a b=length", NULL, "no spaces" }, { "=length", NULL, "a name has" },
        { "pattern:(", NULL, "(" },
        { "length", "-length", "two values are named 'length'" },
    };
    struct at_values v;
    struct at_ctx cx;
    char other[600];
    const char *spec[2];
    (void)state;
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        spec[0] = bad[i].a;
        spec[1] = bad[i].b;
        open_cx(&cx);
        assert_true(at_values_open(&cx, &cx.run, spec, bad[i].b ? 2 : 1, &v) <
                    0);
        if (!strstr(cx.err.msg, bad[i].says))
            fail_msg("%s: %s", bad[i].a, cx.err.msg);
        at_ctx_finish(&cx);
    }
    for (int i = 0; i < 2; i++) {
        snprintf(other, sizeof other, "%s:%s", i ? "reward" : "perplexity",
                 in_dir(i ? "model.h5" : "judge.h5"));
        spec[0] = other;
        open_cx(&cx);
        assert_int_equal(at_values_open(&cx, &cx.run, spec, 1, &v), AT_EINVAL);
        assert_non_null(strstr(cx.err.msg, "judge"));
        at_ctx_finish(&cx);
    }
}

static void a_reward_model_writes_nothing(void **state)
{
    struct at_model *m;
    struct at_ctx cx;
    (void)state;
    open_cx(&cx);
    OK(&cx, at_model_open(&cx, &cx.run, in_dir("judge.h5"), &m));
    assert_int_equal(at_model_need_words(&cx, m), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "judges texts"));
    at_model_close(m);
    OK(&cx, at_model_open(&cx, &cx.run, in_dir("model.h5"), &m));
    OK(&cx, at_model_need_words(&cx, m));
    at_model_close(m);
    at_ctx_finish(&cx);
}

static void bad_commands_are_named(void **state)
{
    static const struct { const char *spec, *says; } bad[] = {
        { "command:exit 3", "failed (exit code 3)" },
        { "command:echo 1", "wrote 1 numbers for 2 texts" },
        { "command:echo one; echo 2", "a number a line is wanted" },
        { "command:echo nan; echo 2", "is nan for the text 'a cat'" },
    };
    struct at_said s[] = { said("p", "a cat"), said("q", "a dog") };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        struct at_values v;
        struct at_ctx cx;
        double score[2];
        open_cx(&cx);
        OK(&cx, at_values_open(&cx, &cx.run, &bad[i].spec, 1, &v));
        assert_true(at_values_score(&cx, &v, s, 2, score) < 0);
        if (!strstr(cx.err.msg, bad[i].says))
            fail_msg("%s: %s", bad[i].spec, cx.err.msg);
        at_values_close(&v);
        at_ctx_finish(&cx);
    }
}

/* ---- a palette, decoded ----------------------------------------------------- */

enum { PROMPTS = 120, K = 16, M = 3, ROUNDS = 400 };

static double rewards[PROMPTS * K][M];

static double normal(uint64_t step, uint64_t i)
{
    static const struct at_rng r = { 11, AT_RNG_TEST, 0 };
    return sqrt(-2 * log(1 - at_rng_uniform(&r, step, 2 * i))) *
           cos(6.283185307179586 * at_rng_uniform(&r, step, 2 * i + 1));
}

static int read_rows(struct at_ctx *cx, void *self, size_t from, size_t n,
                     double *r, int64_t *g)
{
    (void)cx;
    (void)self;
    for (size_t i = 0; i < n; i++) {
        memcpy(r + i * M, rewards[from + i], sizeof *rewards);
        g[i] = (int64_t)((from + i) / K);
    }
    return AT_OK;
}

/* Mean and standard error of what the decoder keeps.                         */
static void decode(const double *weight, double mean[M], double se[M])
{
    double sum[M] = { 0 }, sum2[M] = { 0 }, n = (double)ROUNDS * PROMPTS;
    for (size_t p = 0; p < PROMPTS; p++)
        for (size_t i = 0; i < ROUNDS; i++) {
            const double *of = rewards[p * K];
            size_t one = at_draw_choose(of, weight, K, M, 3, p * ROUNDS + i);
            for (int v = 0; v < M; v++) {
                sum[v] += of[one * M + (size_t)v];
                sum2[v] += of[one * M + (size_t)v] * of[one * M + (size_t)v];
            }
        }
    for (int v = 0; v < M; v++) {
        mean[v] = sum[v] / n;
        se[v] = sqrt((sum2[v] / n - mean[v] * mean[v]) / n);
    }
}

/* Decoded with its own k, the conditional solution meets its targets within
 * two standard errors, and the joint one falls visibly short.                */
static void decoding_meets_the_palette(void **state)
{
    static const char *const name[] = { "a", "b", "c" };
    static const double c[] = { 0.8, 0.4, 0.7 };
    struct at_palette_source src = { .n_rows = PROMPTS * K, .m = M,
                                     .name = name, .grouped = true,
                                     .what = "test", .read = read_rows };
    struct at_ctx cx;
    (void)state;
    for (size_t i = 0; i < PROMPTS * K; i++)
        for (int v = 0; v < M; v++)         /* prompts differ, and values too  */
            rewards[i][v] = 0.9 * normal((uint64_t)v, i / K) +
                            0.8 * normal((uint64_t)v + M, i) -
                            (v ? 0.3 * rewards[i][0] : 0);
    open_cx(&cx);
    for (int joint = 0; joint < 2; joint++) {
        struct at_palette *p;
        struct at_palette_result r;
        double mean[M], se[M], worst = INFINITY;
        OK(&cx, at_palette_create(&cx, &src, joint ? AT_JOINT : AT_CONDITIONAL,
                                  &p));
        OK(&cx, at_palette_solve(&cx, p, c, NULL, &cx.run, &r));
        assert_true(r.feasible);
        decode(r.lambda, mean, se);
        for (int v = 0; v < M; v++)
            worst = fmin(worst, (mean[v] - c[v]) / se[v]);
        if (joint)
            assert_true(worst < -10);
        else
            assert_true(worst > -2);
        at_palette_destroy(p);
    }
    at_ctx_finish(&cx);
}

/* ---- drawing ------------------------------------------------------------------- */

static void the_choice_follows_the_weights(void **state)
{
    const double score[] = { 0, 1, 1, 0, 2, 2 }, weight[] = { 1, -0.5 };
    double want[3], all = 0, got[3] = { 0 };
    enum { N = 40000 };
    (void)state;
    for (int i = 0; i < 3; i++)
        all += want[i] = exp(score[2 * i] - 0.5 * score[2 * i + 1]);
    for (uint64_t i = 0; i < N; i++)
        got[at_draw_choose(score, weight, 3, 2, 5, i)]++;
    for (int i = 0; i < 3; i++) {
        double p = want[i] / all;
        assert_true(fabs(got[i] / N - p) < 4 * sqrt(p * (1 - p) / N));
    }
}

static void stop_after(void *self, size_t done, size_t total, double speed)
{
    const size_t *at = self;
    (void)total;
    (void)speed;
    stop = *at && done >= *at;
}

static int draw(struct at_ctx *cx, const char *out, size_t rows, size_t stop_at,
                const double *weight, struct at_rollout_stats *stats)
{
    static const char *const spec[] = { "length", "diversity" };
    struct at_prompts_options po = { .split = -1 };
    struct at_values v;
    struct at_rollout_options o = {
        .out = out, .values = &v, .weight = weight,
        .draw = { .k = 3, .max_new = 12, .rows = rows,
                  .sampling = { .temperature = 1, .top_p = 1, .seed = 9 } },
    };
    struct at_prompts p;
    struct at_infer *in;
    int rc;
    OK(cx, at_values_open(cx, &cx->run, spec, 2, &v));
    OK(cx, at_infer_open(cx, in_dir("model.h5"), "cpu", 2, rows, 64, 0, 0, &in));
    OK(cx, at_prompts_read(cx, &cx->run, in->m->tok, in->coder,
                           in_dir("prompts.txt"), &po, &p));
    assert_int_equal(p.n, 10);
    rc = at_rollout(cx, in, &p, &o, stop_after, &stop_at, stats);
    at_infer_close(in);
    at_values_close(&v);
    return rc;
}

static void same_draws(struct at_ctx *cx, const char *a, const char *b)
{
    struct at_data *x, *y;
    OK(cx, at_data_open(cx, &cx->run, a, &x));
    OK(cx, at_data_open(cx, &cx->run, b, &y));
    assert_int_equal(x->n_tokens, y->n_tokens);
    for (uint64_t i = 0; i < x->n_tokens; i++) {
        int32_t p, q;
        uint8_t r, s;
        OK(cx, at_data_read(cx, x, i, 1, &p, &r));
        OK(cx, at_data_read(cx, y, i, 1, &q, &s));
        assert_true(p == q && r == s);
    }
    assert_memory_equal(x->score, y->score,
                        x->n_docs * x->n_scores * sizeof *x->score);
    at_data_close(x);
    at_data_close(y);
}

static void stopped_draws_go_on(void **state)
{
    struct at_rollout_stats s;
    struct at_rewards_options ro = { 0 };
    struct at_rewards *r;
    struct at_data *d;
    struct at_ctx cx;
    double logp;
    (void)state;
    open_cx(&cx);
    OK(&cx, draw(&cx, in_dir("whole.h5"), 12, 0, NULL, &s));
    assert_int_equal(s.prompts, 10);
    /* Stopped, its last line torn, and with other company: the same texts.   */
    assert_int_equal(draw(&cx, in_dir("parts.h5"), 6, 4, NULL, &s), AT_EINTR);
    assert_true(access(in_dir("parts.h5"), F_OK) < 0);
    stop = 0;
    assert_int_equal(system("truncate -s -7 /tmp/attune-rollout-*/parts.h5.part"),
                     0);
    OK(&cx, draw(&cx, in_dir("parts.h5"), 6, 0, NULL, &s));
    assert_int_equal(s.resumed, 3);
    assert_true(access(in_dir("parts.h5.part"), F_OK) < 0);
    same_draws(&cx, in_dir("whole.h5"), in_dir("parts.h5"));
    OK(&cx, at_data_open(&cx, &cx.run, in_dir("whole.h5"), &d));
    assert_int_equal(d->n_docs, 30);
    assert_int_equal(d->group, 3);
    assert_int_equal(d->n_scores, 2);
    OK(&cx, at_h5_get_part(&cx, d->f, "logprob", AT_H5_F64, 4, 1, &logp));
    assert_true(logp < 0 && logp > -12 * 20);
    at_data_close(d);
    /* What palettes read. */
    OK(&cx, at_rewards_open(&cx, &cx.run, in_dir("whole.h5"), &ro, &r));
    assert_int_equal(r->n_rows, 30);
    assert_string_equal(r->group, "group");
    assert_string_equal(r->spec[1], "diversity");
    at_rewards_close(r);
    at_ctx_finish(&cx);
}

/* Texts of one prompt share its reading; each is as if it were read alone.   */
static void long_prompts_are_left_out(void **state)
{
    struct at_prompts_options o = { 0 };
    struct at_prompts p, all;
    struct at_infer *in;
    struct at_ctx cx;
    size_t fit = 0;
    (void)state;
    open_cx(&cx);
    OK(&cx, at_infer_open(&cx, in_dir("model.h5"), "cpu", 2, 1, 64, 0, 0, &in));
    OK(&cx, at_prompts_read(&cx, &cx.run, in->m->tok, in->coder,
                            in_dir("prompts.txt"), &o, &all));
    o.longest = all.p[1].n;     /* "the cat 1" is among the shorter           */
    OK(&cx, at_prompts_read(&cx, &cx.run, in->m->tok, in->coder,
                            in_dir("prompts.txt"), &o, &p));
    for (size_t i = 0; i < all.n; i++)
        fit += all.p[i].n <= o.longest;
    assert_true(fit > 0 && fit < all.n);
    assert_int_equal(p.n, fit);
    assert_int_equal(p.too_long, all.n - fit);
    o.longest = 1;
    assert_int_equal(at_prompts_read(&cx, &cx.run, in->m->tok, in->coder,
                                     in_dir("prompts.txt"), &o, &p), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "short enough"));
    at_infer_close(in);
    at_ctx_finish(&cx);
}

static void a_prompt_is_read_once(void **state)
{
    enum { N = 3, K_ = 4, LONG = 40, NEW = 10 };
    struct at_draw_settings s = { .k = K_, .max_new = NEW, .rows = N * K_,
                                  .sampling = { .top_p = 1 } };
    int32_t ids[N][LONG];
    struct at_prompt p[N];
    struct at_draws together, alone;
    struct at_infer *in;
    struct at_ctx cx;
    (void)state;
    open_cx(&cx);
    OK(&cx, at_infer_open(&cx, in_dir("model.h5"), "cpu", 2, N * K_, 64, 0, 0,
                          &in));
    OK(&cx, at_draws_create(&cx, &cx.run, N * K_, NEW, &together));
    OK(&cx, at_draws_create(&cx, &cx.run, 1, NEW, &alone));
    for (uint32_t i = 0; i < N; i++) {
        for (uint32_t k = 0; k < LONG; k++)
            ids[i][k] = (int32_t)((7 * i + 3 * k * (i + 1)) % in->m->d.V);
        p[i] = (struct at_prompt){ ids[i], i == 1 ? 1 : LONG, i };
    }
    OK(&cx, at_draw(&cx, in->gen, p, N, AT_TOK_NONE, &s, &together));
    s.k = 1;
    for (size_t i = 0; i < N; i++) {
        OK(&cx, at_draw(&cx, in->gen, p + i, 1, AT_TOK_NONE, &s, &alone));
        for (size_t k = i * K_; k < (i + 1) * K_; k++) {
            assert_memory_equal(together.ids + k * NEW, alone.ids,
                                NEW * sizeof *alone.ids);
            assert_memory_equal(together.logp + k * NEW, alone.logp,
                                NEW * sizeof *alone.logp);
        }
    }
    at_infer_close(in);
    at_ctx_finish(&cx);
}

static void another_request_is_refused(void **state)
{
    struct at_rollout_stats s;
    struct at_ctx cx;
    FILE *f;
    (void)state;
    open_cx(&cx);
    f = fopen(in_dir("other.h5.part"), "w");
    fputs("{\"attune_rollout\":1,\"model\":\"another\"}\n", f);
    fclose(f);
    assert_int_equal(draw(&cx, in_dir("other.h5"), 6, 0, NULL, &s), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "another request's work"));
    at_ctx_finish(&cx);
}

static void one_of_each_is_kept(void **state)
{
    static const double weight[] = { 50, 0 };   /* nearly always the longest   */
    struct at_rollout_stats s;
    struct at_data *all, *kept;
    struct at_ctx cx;
    (void)state;
    open_cx(&cx);
    OK(&cx, draw(&cx, in_dir("all.h5"), 12, 0, NULL, &s));
    OK(&cx, draw(&cx, in_dir("kept.h5"), 12, 0, weight, &s));
    OK(&cx, at_data_open(&cx, &cx.run, in_dir("all.h5"), &all));
    OK(&cx, at_data_open(&cx, &cx.run, in_dir("kept.h5"), &kept));
    assert_int_equal(kept->n_docs, 10);
    assert_int_equal(kept->group, 1);
    for (size_t p = 0; p < 10; p++) {
        float most = 0;
        for (size_t i = 3 * p; i < 3 * p + 3; i++)
            most = fmaxf(most, all->score[2 * i]);
        assert_true(kept->score[2 * p] == most);
    }
    at_data_close(all);
    at_data_close(kept);
    at_ctx_finish(&cx);
}

/* ---- comparing ------------------------------------------------------------------ */

static void gains_are_counted_in_pairs(void **state)
{
    enum { N = 10, G = 3, V = 2 };
    static float x[N * G * V], y[N * G * V];
    struct at_comparison c;
    struct at_data *a, *b;
    struct at_ctx cx;
    struct at_rollout_stats s;
    (void)state;
    open_cx(&cx);
    OK(&cx, draw(&cx, in_dir("pair.h5"), 12, 0, NULL, &s));
    OK(&cx, at_data_open(&cx, &cx.run, in_dir("pair.h5"), &a));
    OK(&cx, at_data_open(&cx, &cx.run, in_dir("pair.h5"), &b));
    /* The first value rises by 1 from 0; the second is 1 instead of 0 in one
     * of three texts of every prompt.                                        */
    for (int i = 0; i < N * G; i++) {
        y[i * V] = 1;
        y[i * V + 1] = i % G == 0;
        x[i * V + 1] = i % G == 1;
    }
    a->score = x;
    b->score = y;
    OK(&cx, at_compare(&cx, a, b, &c));
    assert_int_equal(c.prompts, N);
    assert_true(fabs(c.gain[0].mean - 1) < 1e-12 &&
                fabs(c.gain[0].low - 1) < 1e-12 && c.win[0] > 1 - 1e-12);
    assert_true(fabs(c.gain[1].mean) < 1e-6 && fabs(c.win[1] - 0.5) < 1e-6);
    /* Worse where before has the 1 and after has not: 1/3 * 2/3 of pairs.     */
    assert_true(fabs(c.not_worse.mean - 7.0 / 9) < 1e-6);
    /* Half the prompts gain 2, half nothing: 1 +- 2 standard errors of .33    */
    for (int i = 0; i < N * G; i++)
        y[i * V] = i / G < N / 2 ? 2 : 0;
    OK(&cx, at_compare(&cx, a, b, &c));
    assert_true(fabs(c.gain[0].mean - 1) < 1e-6);
    assert_true(c.gain[0].low < 0.61 && c.gain[0].low > 0.19 &&
                c.gain[0].high > 1.39 && c.gain[0].high < 1.81);
    b->n_docs -= G;
    assert_int_equal(at_compare(&cx, a, b, &c), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "draw both for the same"));
    b->n_docs += G;
    b->n_scores = 1;
    assert_int_equal(at_compare(&cx, a, b, &c), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "other values"));
    at_data_close(a);
    at_data_close(b);
    at_ctx_finish(&cx);
}

/* ---- weights ---------------------------------------------------------------------- */

static void palettes_are_read_or_refused(void **state)
{
    static const struct { const char *text, *says; } c[] = {
        { "{\"names\": [\"a\", \"b\"], \"specs\": [\"length\", \"-length\"], "
          "\"lambda\": [0.5, 0], \"target\": [3, null], \"feasible\": true}",
          NULL },
        { "{\"names\": [\"a\"], \"lambda\": null, \"feasible\": false}",
          "cannot be reached" },
        { "{\"names\": [\"a\"], \"lambda\": [1]}", "how its values are measured" },
        { "{\"names\": [\"a\"], \"specs\": [\"length\"], \"lambda\": [-1]}",
          "no weight" },
        { "{}", "is no palette" }, { "[", "" },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(c); i++) {
        struct at_weights w;
        struct at_ctx cx;
        int rc;
        open_cx(&cx);
        OK(&cx, at_write_file(&cx, in_dir("p.json"), c[i].text,
                              strlen(c[i].text)));
        rc = at_weights_read(&cx, &cx.run, in_dir("p.json"), &w);
        if (c[i].says && (rc >= 0 || !strstr(cx.err.msg, c[i].says)))
            fail_msg("%s: %s", c[i].text, cx.err.msg);
        if (!c[i].says) {
            OK(&cx, rc);
            assert_string_equal(w.spec[1], "b=-length");
            assert_true(w.weight[0] == 0.5 && w.target[0] == 3 &&
                        isnan(w.target[1]));
        }
        at_ctx_finish(&cx);
    }
}

/* What a file says is not run. */
static void a_palette_runs_no_command_unasked(void **state)
{
    static const char text[] =
        "{\"names\": [\"x\"], \"specs\": [\"-command:echo 1\"], "
        "\"lambda\": [1], \"target\": [null]}";
    struct at_weights w;
    struct at_values v;
    struct at_ctx cx;
    (void)state;
    open_cx(&cx);
    OK(&cx, at_write_file(&cx, in_dir("c.json"), text, sizeof text - 1));
    OK(&cx, at_weights_read(&cx, &cx.run, in_dir("c.json"), &w));
    assert_int_equal(at_weights_open(&cx, &cx.run, &w, false, "--please", &v),
                     AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "runs the command 'echo 1': read it, and "
                                       "say --please"));
    OK(&cx, at_weights_open(&cx, &cx.run, &w, true, "", &v));
    at_values_close(&v);
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_counted),
        cmocka_unit_test(every_kind_scores),
        cmocka_unit_test(coherence_is_a_cosine),
        cmocka_unit_test(bad_values_are_refused),
        cmocka_unit_test(a_reward_model_writes_nothing),
        cmocka_unit_test(bad_commands_are_named),
        cmocka_unit_test(the_choice_follows_the_weights),
        cmocka_unit_test(decoding_meets_the_palette),
        cmocka_unit_test(long_prompts_are_left_out),
        cmocka_unit_test(a_prompt_is_read_once),
        cmocka_unit_test(stopped_draws_go_on),
        cmocka_unit_test(another_request_is_refused),
        cmocka_unit_test(one_of_each_is_kept),
        cmocka_unit_test(gains_are_counted_in_pairs),
        cmocka_unit_test(palettes_are_read_or_refused),
        cmocka_unit_test(a_palette_runs_no_command_unasked),
    };
    return cmocka_run_group_tests_name("rollout", tests, world, world_ends);
}
