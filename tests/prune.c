/* attune prune and masked_lora end to end, on the shipped model. */
#include "tests/test.h"

#include "train/analyze.h"
#include "train/hf.h"
#include "train/infer.h"
#include "train/prune/prune.h"
#include "train/run.h"
#include "train/soup.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/attune-prune-XXXXXX";
static const char model[] = AT_TESTS "/../examples/quickstart/model.h5";
static const char *attune;

static const char *in_dir(const char *name)
{
    static char path[8][512];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static void make_data(struct at_ctx *cx, const struct at_tok *tok,
                      const char *name)
{
    const char *inputs[] = { AT_TESTS "/../examples/quickstart/reviews.jsonl" };
    struct at_data_options o = { .inputs = inputs, .n_inputs = 1, .tok = tok,
                                 .out = in_dir(name), .max_length = 64,
                                 .validation = 0.2, .max_cut = 1,
                                 .n_threads = 1 };
    struct at_data_stats stats;
    OK(cx, at_data_build(cx, &o, NULL, NULL, &stats));
}

static int next_text(struct at_ctx *cx, void *self, const char **text,
                     size_t *n)
{
    char *all;
    int *done = self;
    *text = NULL;
    if ((*done)++)
        return AT_OK;
    OK(cx, at_read_file(cx, &cx->run,
                        AT_TESTS "/../examples/quickstart/reviews.jsonl", 0,
                        &all, n));
    *text = all;
    return AT_OK;
}

static int make_world(void **state)
{
    struct at_tok_training how = { .vocab_size = 300, .bos = AT_TOK_NONE,
                                   .eos = AT_TOK_NONE, .pad = AT_TOK_NONE,
                                   .min_count = 2 };
    struct at_tok *tok;
    struct at_ctx cx;
    int done = 0;
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    at_ctx_init(&cx);
    OK(&cx, at_model_tokenizer(&cx, &cx.run, model, &tok));
    make_data(&cx, tok, "data.h5");
    OK(&cx, at_tok_train(&cx, &cx.run, next_text, &done, &how, &tok));
    make_data(&cx, tok, "other.h5");
    at_ctx_finish(&cx);
    return 0;
}

static int remove_all(void **state)
{
    char cmd[600];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

/* ---- pruning --------------------------------------------------------------------- */

struct seen { size_t n, weights, zeros; double error; };

static void see(void *self, const struct at_pruned *p)
{
    struct seen *s = self;
    assert_true(strstr(p->site, "_proj") != NULL);
    s->n++;
    s->weights += p->weights;
    s->zeros += p->zeros;
    s->error += p->error;
}

static struct at_prune_options options(enum at_prune_method method,
                                       double sparsity, size_t n, size_t m)
{
    return (struct at_prune_options){
        .model = model, .out = in_dir("pruned.h5"), .data = in_dir("data.h5"),
        .targets = "_proj", .backend = "cpu", .most = 0.9, .rows = 4,
        .length = 64, .batches = 8, .threads = 2,
        .how = { method, m ? (double)n / (double)m : sparsity, n, m, 0.01 },
    };
}

static struct seen prune(struct at_ctx *cx, const struct at_prune_options *o)
{
    struct seen s = { 0 };
    struct at_pruning sum;
    OK(cx, at_prune(cx, o, see, &s, &sum));
    assert_true(sum.weights == s.weights && sum.zeros == s.zeros);
    assert_true(!o->data || sum.tokens > 500);
    return s;
}

static double loss_of(struct at_ctx *cx, const char *path)
{
    struct at_eval_sum sum = { 0 };
    struct at_infer *in;
    OK(cx, at_infer_open(cx, path, "cpu", 2, 0, 0, 4, 64, &in));
    OK(cx, at_infer_data(cx, in, in_dir("data.h5"), false, false, &sum));
    at_infer_close(in);
    assert_true(sum.n > 100);
    return sum.ce / (double)sum.n;
}

/* The weights of a model, all dense, by name.                                */
static void read_dense(struct at_ctx *cx, const char *path,
                       struct at_params *ps)
{
    struct at_model *m;
    OK(cx, at_model_open(cx, &cx->run, path, &m));
    at_params_init(ps, cx, &cx->run);
    ps->need_grads = false;
    OK(cx, at_model_declare(cx, &m->d, ps));
    OK(cx, at_params_seal(ps));
    OK(cx, at_model_read(cx, m, ps, false));
    at_model_close(m);
}

/* The sparse kernels give what dense ones give on the same weights.          */
static void sparse_models_are_their_dense_selves(struct at_ctx *cx)
{
    struct at_measure_options o = { .model = in_dir("pruned.h5"),
                                    .data = in_dir("data.h5"), .backend = "cpu",
                                    .rows = 4, .length = 64, .threads = 2 };
    struct at_analysis a;
    struct at_infer *in;
    OK(cx, at_infer_open(cx, o.model, "cpu", 2, 0, 0, 1, 64, &in));
    assert_non_null(at_param_find(&in->ps, "blocks.3.mlp.up_proj.weight")
                        ->val.sparse);
    assert_null(at_param_find(&in->ps, "embed.weight")->val.sparse);
    at_infer_close(in);
    OK(cx, at_analyze(cx, &o, 0, NULL, NULL, &a));
    assert_true(fabs(a.loss - loss_of(cx, o.model)) < 1e-5);
}

static void every_method_prunes_its_share(void **state)
{
    struct seen magnitude, wanda, sparsegpt, s;
    struct at_prune_options o;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    o = options(AT_PRUNE_MAGNITUDE, 0.5, 0, 0);
    magnitude = prune(&cx, &o);
    o = options(AT_PRUNE_WANDA, 0.5, 0, 0);
    wanda = prune(&cx, &o);
    o = options(AT_PRUNE_SPARSEGPT, 0.5, 0, 0);
    sparsegpt = prune(&cx, &o);
    assert_int_equal(magnitude.n, 35);
    assert_int_equal(magnitude.zeros * 2, magnitude.weights);
    assert_int_equal(wanda.zeros * 2, wanda.weights);
    assert_int_equal(sparsegpt.zeros * 2, sparsegpt.weights);
    assert_true(wanda.error < magnitude.error);
    assert_true(sparsegpt.error < 0.6 * wanda.error);
    sparse_models_are_their_dense_selves(&cx);
    o = options(AT_PRUNE_WANDA, 0, 2, 4);
    s = prune(&cx, &o);
    assert_int_equal(s.zeros * 2, s.weights);
    assert_true(s.error > wanda.error);
    o = options(AT_PRUNE_MAGNITUDE, 0.9, 0, 0);
    o.data = NULL;
    s = prune(&cx, &o);
    assert_true(isnan(s.error) && (double)s.zeros > 0.8999 * (double)s.weights);
    at_ctx_finish(&cx);
}

static void nothing_pruned_is_the_model(void **state)
{
    struct at_prune_options o = options(AT_PRUNE_SPARSEGPT, 0, 0, 0);
    struct at_params was, is;
    struct at_ctx cx;
    struct seen s;
    (void)state;
    at_ctx_init(&cx);
    s = prune(&cx, &o);
    assert_true(s.zeros == 0 && s.error == 0);
    read_dense(&cx, model, &was);
    read_dense(&cx, in_dir("pruned.h5"), &is);
    for (size_t i = 0; i < was.n; i++)
        assert_memory_equal(was.p[i]->val.data, is.p[i]->val.data,
                            at_shape_count(&was.p[i]->val.shape) *
                                sizeof(float));
    at_params_finish(&was);
    at_params_finish(&is);
    at_ctx_finish(&cx);
}

/* A pruned model pruned further: more zeros, and the first dense model named.  */
static void pruned_again_it_knows_the_dense_model(void **state)
{
    struct at_prune_options o = options(AT_PRUNE_WANDA, 0.5, 0, 0);
    const char *path;
    struct at_h5 *f;
    struct at_ctx cx;
    struct seen s;
    (void)state;
    at_ctx_init(&cx);
    prune(&cx, &o);
    o = options(AT_PRUNE_SPARSEGPT, 0.8, 0, 0);
    o.model = in_dir("pruned.h5");
    o.out = in_dir("again.h5");
    s = prune(&cx, &o);
    assert_true((double)s.zeros > 0.799 * (double)s.weights);
    OK(&cx, at_h5_open(&cx, o.out, "model", &f));
    OK(&cx, at_h5_get_text(&cx, f, "dense_path", &cx.run, &path));
    assert_non_null(strstr(path, "examples/quickstart/model.h5"));
    at_h5_close(f);
    at_ctx_finish(&cx);
}

/* Blocks that change the stream more keep more; the whole has its share.      */
static void shares_follow_the_blocks(void **state)
{
    struct at_prune_options o = options(AT_PRUNE_WANDA, 0.6, 0, 0);
    static const double score[] = { 4, 1, 1, 0 }, weights[] = { 1, 1, 2, 1 };
    double share[4], sum = 0;
    struct at_pruning p;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_prune_share(&cx, score, weights, 4, 0.6, 0.9, share));
    for (int i = 0; i < 4; i++)
        sum += share[i] * weights[i];
    assert_true(fabs(sum - 0.6 * 5) < 1e-9);
    assert_true(share[0] < share[1] && share[1] == share[2]);
    assert_true(fabs(share[3] - 0.9) < 1e-12);
    assert_int_equal(at_prune_share(&cx, score, weights, 4, 0.6, 0.5, share),
                     AT_EINVAL);
    o.allocate = true;
    OK(&cx, at_prune(&cx, &o, NULL, NULL, &p));
    assert_int_equal(p.L, 5);
    assert_true(fabs((double)p.zeros / (double)p.weights - 0.6) < 0.005);
    for (int i = 1; i < 5; i++)         /* the first turns the stream most     */
        assert_true(p.share[0] < p.share[i] && p.share[i] <= 0.9);
    at_ctx_finish(&cx);
}

static void said(struct at_ctx *cx, int rc, const char *says)
{
    assert_true(rc < 0);
    if (!strstr(cx->err.msg, says))
        fail_msg("'%s' does not say '%s'", cx->err.msg, says);
}

static void refused(const struct at_prune_options *o, const char *says)
{
    struct at_pruning sum;
    struct at_ctx cx;
    at_ctx_init(&cx);
    unlink(o->out);
    assert_true(at_prune(&cx, o, NULL, NULL, &sum) < 0);
    if (!strstr(cx.err.msg, says))
        fail_msg("'%s' does not say '%s'", cx.err.msg, says);
    assert_int_not_equal(access(o->out, F_OK), 0);
    at_ctx_finish(&cx);
}

static void what_cannot_be_is_refused(void **state)
{
    static const char *const bad[] = { "", "4", "4:2", "4:4", "0:4", "2:4x",
                                       "2:128", "-1:4" };
    struct at_prune_options o = options(AT_PRUNE_WANDA, 1, 0, 0);
    struct at_pruning sum;
    struct at_ctx cx;
    size_t n, m;
    (void)state;
    refused(&o, "below 1");
    o = options(AT_PRUNE_WANDA, 0, 2, 5);
    refused(&o, "192, which 5 does not divide");
    o = options(AT_PRUNE_WANDA, 0.5, 0, 0);
    o.data = in_dir("other.h5");
    refused(&o, "another tokenizer");
    o.data = NULL;
    refused(&o, "--calibration");
    o = options(AT_PRUNE_WANDA, 0, 2, 4);
    o.allocate = true;
    refused(&o, "--allocate");
    o = options(AT_PRUNE_WANDA, 0.5, 0, 0);
    o.targets = "no such site";
    refused(&o, "fits no site");
    at_ctx_init(&cx);
    o = options(AT_PRUNE_MAGNITUDE, 0.5, 0, 0);
    prune(&cx, &o);
    o.model = o.out;
    said(&cx, at_prune(&cx, &o, NULL, NULL, &sum), "would be written over");
    for (size_t i = 0; i < AT_COUNT(bad); i++)
        assert_int_equal(at_prune_pattern(&cx, bad[i], &n, &m), AT_EINVAL);
    OK(&cx, at_prune_pattern(&cx, "4:8", &n, &m));
    assert_true(n == 4 && m == 8);
    at_ctx_finish(&cx);
}

/* ---- files ------------------------------------------------------------------------- */

/* A copy of pruned.h5 in which one array has another form.                   */
static void spoil(struct at_ctx *cx, const char *name, size_t less)
{
    const char *const *names;
    struct at_h5 *from, *to;
    struct at_model *m;
    size_t n;
    OK(cx, at_model_open(cx, &cx->run, in_dir("pruned.h5"), &m));
    OK(cx, at_h5_open(cx, in_dir("pruned.h5"), "model", &from));
    OK(cx, at_h5_create(cx, in_dir("bad.h5"), "model", &to));
    OK(cx, at_model_put_head(cx, to, &m->d, m->tok));
    OK(cx, at_h5_names(cx, from, "params/", &cx->run, &names, &n));
    for (size_t i = 0; i < n; i++) {
        struct at_h5_info info;
        void *bytes;
        OK(cx, at_h5_info(cx, from, names[i], &info));
        bytes = at_alloc_n(cx, &cx->run, info.n, 4);
        OK(cx, at_h5_get(cx, from, names[i], info.type, info.n_dims, info.d,
                         bytes));
        if (strcmp(names[i], name) == 0)
            info.d[info.n_dims - 1] -= less;
        OK(cx, at_h5_put(cx, to, names[i], info.type, info.n_dims, info.d,
                         bytes));
    }
    OK(cx, at_h5_commit(cx, to));
    at_h5_close(from);
    at_model_close(m);
}

static void spoilt_masks_are_refused(void **state)
{
    struct at_prune_options o = options(AT_PRUNE_MAGNITUDE, 0.5, 0, 0);
    struct at_infer *in;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    prune(&cx, &o);
    spoil(&cx, "params/blocks.1.mlp.up_proj.weight/values", 1);
    assert_true(at_infer_open(&cx, in_dir("bad.h5"), "cpu", 1, 0, 0, 1, 8,
                              &in) < 0);
    assert_non_null(strstr(cx.err.msg, "blocks.1.mlp.up_proj.weight/values"));
    spoil(&cx, "params/blocks.1.mlp.up_proj.weight/bits", 1);
    assert_true(at_infer_open(&cx, in_dir("bad.h5"), "cpu", 1, 0, 0, 1, 8,
                              &in) < 0);
    assert_non_null(strstr(cx.err.msg, "blocks.1.mlp.up_proj.weight/bits"));
    at_ctx_finish(&cx);
}

/* ---- training --------------------------------------------------------------------- */

static const char masked[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/data.h5}\nbatch: {rows: 4, length: 64, accumulate: 2}\n"
    "objective: sft\nmasked_lora: {rank: 4}\nteacher: {weight: 0.2}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 6}\neval: {every: 3}\n"
    "checkpoint: {every: 2}\nrun: %s/%s\n";

static struct at_recipe *recipe(struct at_ctx *cx, const char *name,
                                const char *const *over, size_t n)
{
    char text[2048];
    struct at_recipe *r;
    snprintf(text, sizeof text, masked, dir, dir, dir, name);
    OK(cx, at_recipe_parse(cx, &cx->run, "test.yaml", text, strlen(text), over,
                           n, &r));
    return r;
}

static void make_base(struct at_ctx *cx, enum at_prune_method method)
{
    struct at_prune_options o = options(method, 0.7, 0, 0);
    o.out = in_dir("base.h5");
    prune(cx, &o);
}

struct stopper { volatile int stop; uint64_t at; };    /* after a step       */

static void stop_at(void *self, const struct at_progress *p)
{
    struct stopper *s = self;
    if (p->r && p->job->s.step == s->at)
        s->stop = 1;
}

/* The adapter of a run's last checkpoint.                                     */
static void identity(struct at_ctx *cx, const char *name, char id[33])
{
    char path[64];
    struct at_h5 *f;
    snprintf(path, sizeof path, "%s/checkpoints/latest", name);
    OK(cx, at_h5_open(cx, in_dir(path), "checkpoint", &f));
    OK(cx, at_model_identify(cx, f, id));
    at_h5_close(f);
}

static void stopped_runs_go_on_to_the_bit(void **state)
{
    struct stopper s = { 0, 3 };
    char whole[33], parts[33];
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    make_base(&cx, AT_PRUNE_SPARSEGPT);
    OK(&cx, at_run_train(&cx, recipe(&cx, "whole", NULL, 0), true, NULL, NULL));
    cx.stop = &s.stop;
    assert_int_equal(at_run_train(&cx, recipe(&cx, "parts", NULL, 0), true,
                                  stop_at, &s), AT_EINTR);
    s.stop = 0;
    OK(&cx, at_run_resume(&cx, in_dir("parts"), NULL, NULL));
    identity(&cx, "whole", whole);
    identity(&cx, "parts", parts);
    assert_string_equal(whole, parts);
    at_ctx_finish(&cx);
}

/* The model itself, pruned as it trains: the zeros are all there is to keep.   */
static void gradual_pruning_goes_on_to_the_bit(void **state)
{
    char path[600];
    const char *const over[] = { path, "masked_lora.rank=0", "teacher.weight=0",
                                 "gradual.sparsity=0.5", "gradual.every=2",
                                 "gradual.end=5", "optim.lr=1e-4" };
    const char *const bad[] = { path, "masked_lora.rank=0", "teacher.weight=0",
                                "gradual.sparsity=0.5", "gradual.end=9" };
    const char *const nowhere[] = { "gradual.sparsity=0.5" };
    struct at_prune_options o = options(AT_PRUNE_MAGNITUDE, 0.5, 0, 0);
    struct stopper s = { 0, 3 };
    char whole[33], parts[33];
    struct at_params was, is;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    snprintf(path, sizeof path, "model.path=%s", model);
    OK(&cx, at_run_train(&cx, recipe(&cx, "gradual", over, 7), true, NULL,
                         NULL));
    cx.stop = &s.stop;
    assert_int_equal(at_run_train(&cx, recipe(&cx, "gradually", over, 7), true,
                                  stop_at, &s), AT_EINTR);
    s.stop = 0;
    OK(&cx, at_run_resume(&cx, in_dir("gradually"), NULL, NULL));
    identity(&cx, "gradual", whole);
    identity(&cx, "gradually", parts);
    assert_string_equal(whole, parts);
    /* Stored sparse, it is the same model.                                   */
    o.model = in_dir("gradual/checkpoints/latest");
    o.data = NULL;
    prune(&cx, &o);
    read_dense(&cx, o.model, &was);
    read_dense(&cx, in_dir("pruned.h5"), &is);
    for (size_t i = 0; i < was.n; i++)
        assert_memory_equal(was.p[i]->val.data, is.p[i]->val.data,
                            at_shape_count(&was.p[i]->val.shape) *
                                sizeof(float));
    at_params_finish(&was);
    at_params_finish(&is);
    assert_int_equal(at_run_train(&cx, recipe(&cx, "no5", bad, 5), true, NULL,
                                  NULL), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "gradual.end is step 9"));
    assert_int_equal(at_run_train(&cx, recipe(&cx, "no6", nowhere, 1), true,
                                  NULL, NULL), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "fits no matrix that is trained"));
    at_ctx_finish(&cx);
}

/* ps's weights are zero wherever base's are, bit for bit.                     */
static void keeps_zeros(struct at_ctx *cx, const char *path, bool want)
{
    struct at_params base, ps;
    size_t zeros = 0, kept = 0;
    const float zero = 0;
    read_dense(cx, in_dir("base.h5"), &base);
    read_dense(cx, path, &ps);
    for (size_t i = 0; i < base.n; i++) {
        const float *w = base.p[i]->val.data;
        const float *v = at_param_find(&ps, base.p[i]->val.name)->val.data;
        if (!strstr(base.p[i]->val.name, "_proj.weight"))
            continue;
        for (size_t k = 0; k < at_shape_count(&base.p[i]->val.shape); k++)
            if (w[k] == 0) {
                zeros++;
                kept += memcmp(&v[k], &zero, sizeof zero) == 0;
            }
    }
    assert_true(zeros > 1500000);
    if (want)
        assert_int_equal(kept, zeros);
    else
        assert_true(kept < zeros / 100);
    at_params_finish(&base);
    at_params_finish(&ps);
}

static void merge_to(struct at_ctx *cx, const char *from, const char *to,
                     double most)
{
    struct at_infer *in;
    double off;
    bool same;
    OK(cx, at_infer_open_to_merge(cx, from, &in));
    OK(cx, at_infer_merge(cx, in, &off, &same));
    assert_true(off <= most && same);
    OK(cx, at_model_write(cx, to, &in->m->d, in->m->tok, &in->ps, AT_H5_F32,
                          in->m->base));
    at_infer_close(in);
}

/* The run of the test above: its merge is the same numbers under the same
 * mask, stored sparse; so is what goes through a folder of Hugging Face.      */
static void a_merge_stays_sparse(void **state)
{
    static const struct at_hf_out how = { .merge = true };
    struct at_infer *in;
    double largest;
    bool same;
    struct at_certificate said;
    struct at_h5 *f;
    struct at_ctx cx;
    double loss;
    (void)state;
    at_ctx_init(&cx);
    merge_to(&cx, in_dir("whole"), in_dir("merged.h5"), 0);
    loss = loss_of(&cx, in_dir("whole"));
    assert_true(loss < loss_of(&cx, in_dir("base.h5")) - 0.1);
    assert_true(loss_of(&cx, in_dir("merged.h5")) == loss);
    OK(&cx, at_h5_open(&cx, in_dir("merged.h5"), "model", &f));
    assert_true(at_sparse_held(f, "blocks.0.mlp.down_proj.weight"));
    at_h5_close(f);
    keeps_zeros(&cx, in_dir("merged.h5"), true);
    OK(&cx, at_hf_export(&cx, in_dir("whole"), in_dir("hf"), &how, &said));
    assert_true(said.positions > 0 && said.agree == 1);
    OK(&cx, at_infer_open_to_merge(&cx, in_dir("whole"), &in));
    OK(&cx, at_infer_merge(&cx, in, &largest, &same));
    assert_true(in->m->adapters.n > 0 && largest == 0 && same);
    at_infer_close(in);
    at_ctx_finish(&cx);
    at_ctx_init(&cx);
    assert_int_equal(at_soup(&cx, (const char *[]){ in_dir("base.h5"),
                                                    in_dir("merged.h5") },
                             (double[]){ 0.5, 0.5 }, 2, in_dir("soup.h5"),
                             AT_H5_F32), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "is pruned"));
    OK(&cx, at_hf_import(&cx, in_dir("hf"), in_dir("back.h5"), false));
    keeps_zeros(&cx, in_dir("back.h5"), true);
    assert_true(fabs(loss_of(&cx, in_dir("back.h5")) - loss) < 1e-5);
    at_ctx_finish(&cx);
}

static void a_plain_lora_fills_the_zeros(void **state)
{
    static const char *const over[] = { "masked_lora.rank=0", "lora.rank=4",
                                        "lora.targets=_proj",
                                        "teacher.weight=0" };
    struct at_ctx cx;
    struct at_h5 *f;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_run_train(&cx, recipe(&cx, "plain", over, 4), true, NULL, NULL));
    merge_to(&cx, in_dir("plain"), in_dir("filled.h5"), 1e-3);
    keeps_zeros(&cx, in_dir("filled.h5"), false);
    OK(&cx, at_h5_open(&cx, in_dir("filled.h5"), "model", &f));
    assert_false(at_sparse_held(f, "blocks.0.mlp.down_proj.weight"));
    at_h5_close(f);
    at_ctx_finish(&cx);
}

/* Channels are taken of dense weights: context_sparse reads a pruned model so. */
static void context_sparse_reads_a_pruned_model(void **state)
{
    static const char *const over[] = {
        "masked_lora.rank=0", "lora.rank=4", "teacher.weight=0",
        "context_sparse.rank=4", "context_sparse.mlp=1-3:0.5", "train.steps=2",
        "eval.every=0"
    };
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_run_train(&cx, recipe(&cx, "context", over, 7), true, NULL,
                         NULL));
    at_ctx_finish(&cx);
}

static void another_mask_is_refused(void **state)
{
    static const char *const longer[] = { "train.steps=8" };
    struct stopper s = { 0, 3 };
    struct at_infer *in;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    cx.stop = &s.stop;
    assert_int_equal(at_run_train(&cx, recipe(&cx, "cut", longer, 1), true,
                                  stop_at, &s), AT_EINTR);
    s.stop = 0;
    make_base(&cx, AT_PRUNE_WANDA);
    said(&cx, at_infer_open(&cx, in_dir("whole"), "cpu", 1, 0, 0, 1, 8, &in),
         "another mask");
    said(&cx, at_infer_open_to_merge(&cx, in_dir("whole"), &in),
         "another mask");
    said(&cx, at_run_resume(&cx, in_dir("cut"), NULL, NULL), "another mask");
    at_ctx_finish(&cx);
}

static void recipes_that_cannot_work_are_refused(void **state)
{
    char dense[600], teacher[600];
    const char *over[] = { dense, "teacher.weight=0" };
    const char *other[] = { "objective=dpo" };
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    snprintf(dense, sizeof dense, "model.path=%s", model);
    said(&cx, at_run_train(&cx, recipe(&cx, "no1", over, 2), true, NULL, NULL),
         "is not pruned");
    over[1] = "masked_lora.rank=0";
    said(&cx, at_run_train(&cx, recipe(&cx, "no2", over, 2), true, NULL, NULL),
         "give teacher.path");
    snprintf(teacher, sizeof teacher, "teacher.path=%s", in_dir("whole"));
    over[0] = teacher;
    make_base(&cx, AT_PRUNE_SPARSEGPT);
    said(&cx, at_run_train(&cx, recipe(&cx, "no3", over, 1), true, NULL, NULL),
         "merge it first");
    said(&cx, at_run_train(&cx, recipe(&cx, "no4", other, 1), true, NULL, NULL),
         "preferences");
    other[0] = "lora.rank=4";
    said(&cx, at_run_train(&cx, recipe(&cx, "no5", other, 1), true, NULL, NULL),
         "would fill the zeros");
    at_ctx_finish(&cx);
}

/* ---- the command ----------------------------------------------------------------- */

static int command(const char *args, char *out, size_t n)
{
    char line[2048];
    size_t got;
    FILE *p;
    snprintf(line, sizeof line, "%s %s 2>&1", attune, args);
    p = popen(line, "r");
    assert_non_null(p);
    got = fread(out, 1, n - 1, p);
    out[got] = '\0';
    return pclose(p);
}

static void the_command_reports_every_matrix(void **state)
{
    char args[1500], out[16384];
    size_t lines = 0;
    (void)state;
    if (!attune) {
        skip();
        return;
    }
    snprintf(args, sizeof args, "prune %s %s --method sparsegpt --pattern 2:4 "
             "--calibration %s --length 64 --batches 4 --json", model,
             in_dir("two.h5"), in_dir("data.h5"));
    assert_int_equal(command(args, out, sizeof out), 0);
    for (const char *p = out; (p = strchr(p, '\n')); p++)
        lines++;
    assert_int_equal(lines, 36);
    assert_non_null(strstr(out, "{\"site\": \"blocks.4.mlp.down_proj\", "
                                "\"weights\": 98304, \"sparsity\": 0.5, "));
    assert_non_null(strstr(out, "\"perplexity_after\": "));
    snprintf(args, sizeof args, "prune %s %s --sparsity 0.5 --pattern 2:4",
             model, in_dir("x.h5"));
    assert_int_not_equal(command(args, out, sizeof out), 0);
    assert_non_null(strstr(out, "N:M, not both"));
    snprintf(args, sizeof args, "merge %s %s", in_dir("two.h5"),
             in_dir("again.h5"));
    assert_int_equal(command(args, out, sizeof out), 0);
    assert_non_null(strstr(out, "of 1105920 pruned weights in 2211840, 1105920 "
                                "are still zero"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_prunes_its_share),
        cmocka_unit_test(nothing_pruned_is_the_model),
        cmocka_unit_test(pruned_again_it_knows_the_dense_model),
        cmocka_unit_test(shares_follow_the_blocks),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(spoilt_masks_are_refused),
        cmocka_unit_test(stopped_runs_go_on_to_the_bit),
        cmocka_unit_test(gradual_pruning_goes_on_to_the_bit),
        cmocka_unit_test(a_merge_stays_sparse),
        cmocka_unit_test(a_plain_lora_fills_the_zeros),
        cmocka_unit_test(context_sparse_reads_a_pruned_model),
        cmocka_unit_test(another_mask_is_refused),
        cmocka_unit_test(recipes_that_cannot_work_are_refused),
        cmocka_unit_test(the_command_reports_every_matrix),
    };
    attune = argc > 1 ? argv[1] : NULL;
    return cmocka_run_group_tests_name("prune", tests, make_world, remove_all);
}
