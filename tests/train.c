/* Whole runs: resuming is not having stopped, kills lose nothing, batching
 * changes nothing, damage is refused, what a plan says holds.                */
#include "tests/runs.h"

#include "train/infer.h"
#include "train/soup.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/attune-train-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[8][512];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

/* ---- a little world: texts, tokenizer, datasets, a base model --------------- */

static const char *const nouns[] = { "cat", "dog", "bird", "river", "tower",
                                     "boat", "garden", "lamp" };
static const char *const verbs[] = { "sees", "likes", "finds", "paints",
                                     "leaves", "follows" };

static void write_texts(void)
{
    FILE *pairs = fopen(in_dir("pairs.jsonl"), "w");
    FILE *prefs = fopen(in_dir("prefs.jsonl"), "w");
    FILE *single = fopen(in_dir("single.jsonl"), "w");
    struct at_rng r = { 1, AT_RNG_TEST, 0 };
    for (uint64_t i = 0; i < 160; i++) {
        const char *a = nouns[at_rng_u64(&r, 0, i) % AT_COUNT(nouns)];
        const char *b = nouns[at_rng_u64(&r, 1, i) % AT_COUNT(nouns)];
        const char *v = verbs[at_rng_u64(&r, 2, i) % AT_COUNT(verbs)];
        fprintf(pairs, "{\"prompt\": \"what does the %s do? (%d)\", "
                "\"completion\": \" the %s %s the %s%s.\"}\n", a, (int)i, a, v,
                b, i % 3 ? "" : " and then the other one too");
        fprintf(prefs, "{\"prompt\": \"what does the %s do? (%d)\", "
                "\"chosen\": \" it %s the %s%s.\", \"rejected\": "
                "\" nothing%s.\", \"score\": %d}\n", a, (int)i, v, b,
                i % 3 ? "" : " and then the other one too",
                i % 4 ? "" : " at all", (int)(i % 5));
        fprintf(single, "{\"prompt\": \"what does the %s do? (%d)\", "
                "\"completion\": \" %s%s\", \"score\": %s}\n", a, (int)i,
                i % 2 ? "nothing" : "it leaves the ", i % 2 ? "" : b,
                i % 2 ? "false" : "true");
    }
    fclose(pairs);
    fclose(prefs);
    fclose(single);
}

static int next_text(struct at_ctx *cx, void *self, const char **text,
                     size_t *n)
{
    char *all;
    int *done = self;
    *text = NULL;
    if ((*done)++)
        return AT_OK;
    OK(cx, at_read_file(cx, &cx->run, in_dir("pairs.jsonl"), 0, &all, n));
    *text = all;
    return AT_OK;
}

static void make_tokenizer(struct at_ctx *cx, size_t vocab, const char *name)
{
    static const char *const special[] = { "<|endoftext|>" };
    struct at_tok_training how = { .vocab_size = vocab, .special = special,
                                   .n_special = 1, .bos = 0, .eos = 0,
                                   .pad = AT_TOK_NONE, .min_count = 2 };
    struct at_tok *tok;
    struct at_h5 *f;
    const void *blob;
    size_t n;
    int done = 0;
    OK(cx, at_tok_train(cx, &cx->run, next_text, &done, &how, &tok));
    OK(cx, at_h5_create(cx, in_dir(name), "tokenizer", &f));
    blob = at_tok_save(tok, &n);
    OK(cx, at_h5_put_bytes(cx, f, "tokenizer", blob, n));
    OK(cx, at_h5_commit(cx, f));
}

static void make_data(struct at_ctx *cx, const char *tokenizer,
                      const char *from, const char *name)
{
    static const char *const score[] = { "score" };
    const char *inputs[] = { in_dir(from) };
    struct at_data_options o = { .inputs = inputs, .n_inputs = 1,
                                 .out = in_dir(name), .max_length = 64,
                                 .validation = 0.2, .n_threads = 2 };
    struct at_data_stats stats;
    struct at_tok *tok;
    uint64_t n_docs;
    OK(cx, at_model_tokenizer(cx, &cx->run, in_dir(tokenizer), &tok));
    o.tok = tok;
    o.scores = score;
    o.n_scores = strcmp(from, "pairs.jsonl") != 0;
    OK(cx, at_data_build(cx, &o, NULL, NULL, &stats));
    n_docs = stats.n_docs[0] + stats.n_docs[1];
    assert_int_equal(n_docs, stats.preference ? 320 : 160);
    assert_true(stats.n_docs[1] > n_docs / 10 && stats.n_docs[1] < n_docs / 3);
}

/* ---- recipes ------------------------------------------------------------------- */

static const char scratch[] =
    "seed: 3\nthreads: 2\n"
    "model: {family: llama, dim: 32, layers: 2, heads: 4, kv_heads: 2, "
    "max_length: 64, tokenizer: %s/tok.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 3, length: 64, accumulate: 2}\n"
    "objective: lm\noptim: {lr: 1e-3, weight_decay: 0.1}\n"
    "schedule: {warmup: 2}\n"
    "train: {steps: 12, dropout: 0.1}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

static const char lora[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 3, length: 64, accumulate: 2}\n"
    "objective: sft\nlora: {rank: 4, dropout: 0.1, targets: proj}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 12}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

/* Answers by themselves, with a label.                                       */
static const char unpaired[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/single.h5}\nbatch: {rows: 4, length: 64, accumulate: 2}\n"
    "objective: kto\nlora: {rank: 4, targets: proj}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 12}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

static const char prefer[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/prefs.h5}\nbatch: {rows: 4, length: 64, accumulate: 2}\n"
    "objective: dpo\nlora: {rank: 4, targets: proj}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 12}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

/* Steps so large that decisions move within the run.                         */
static const char routers[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 3, length: 64, accumulate: 2}\n"
    "objective: sft\nrouter: {layers: 1, capacity: 0.5, gradient_scale: 0.1}\n"
    "optim: {lr: 3e-2}\ntrain: {steps: 12}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

/* A palette by hand: long texts that have an "e".                             */
static const char palette[] =
    "{\"names\": [\"length\", \"e\"], \"specs\": [\"length\", \"pattern:e\"], "
    "\"lambda\": [0.2, 0.5], \"target\": [9, 0.9], \"feasible\": true}";

static const char letters[] =
    "{\"names\": [\"letters\"], \"specs\": [\"pattern:[a-m]\"], "
    "\"lambda\": [1.5], \"target\": [null], \"feasible\": true}";

static const char policy[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 8, length: 48, accumulate: 2}\n"
    "objective: rloo\nalign: {palette: %s/palette.json, samples: 4, "
    "max_tokens: 12, beta: 1}\nlora: {rank: 4, targets: proj}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 12}\neval: {every: 4, batches: 1}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

/* A round of 32 texts is learnt twice, by halves: checkpoints fall into it.   */
static const char ppo[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 8, length: 48, accumulate: 2}\n"
    "objective: ppo\nalign: {palette: %s/palette.json, samples: 1, epochs: 2, "
    "minibatches: 2, max_tokens: 12, beta: 1, critic_clip: 1}\n"
    "lora: {rank: 4, targets: proj}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 12}\neval: {every: 3, batches: 1}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

/* Texts of one token, one value: what training is to reach is known.          */
static const char bandit[] =
    "seed: 3\nthreads: 1\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 64, length: 32}\n"
    "objective: ppo\nalign: {palette: %s/letters.json, samples: 1, epochs: 4, "
    "max_tokens: 1, beta: 1, rate: 0, critic_clip: 0}\n"
    "optim: {lr: 3e-3}\nschedule: {name: linear, min_ratio: 0.1}\n"
    "train: {steps: 160}\ncheckpoint: {every: 0}\nrun: %s/%s\n";

/* 448 rows a batch: two blocks.                                              */
static const char away[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 7, length: 64, accumulate: 2}\n"
    "objective: sft\nlora: {rank: 4, targets: proj}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 12}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

static const char away_linear[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 7, length: 64, accumulate: 2}\n"
    "objective: sft\nlinear: {use: 1, targets: proj}\n"
    "optim: {lr: 1e-3}\ntrain: {steps: 12}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

static const char away_mlp[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base.h5}\n"
    "data: {path: %s/pairs.h5}\nbatch: {rows: 3, length: 64, accumulate: 2}\n"
    "objective: sft\nmlp: {width: 16, inner: 8, targets: proj}\n"
    "optim: {lr: 1e-3}\ntrain: {steps: 12}\neval: {every: 4}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

#define SPARSE(more) "context_sparse={rank: 4, mlp: '0-1:0.5', attn: '0:0.4', " \
                     "start: 0.2, least: 3" more "}"
#define LOCAL(more) "offload={engine: local, workers: 2" more "}"

static const char *const adapted[] = { lora, routers, away, away_linear,
                                       away_mlp };

static int parse(struct at_ctx *cx, const char *text, const char *run,
                 const char *const *over, size_t n, struct at_recipe **r)
{
    char yaml[2048];
    if (strstr(text, "tok.h5"))
        snprintf(yaml, sizeof yaml, scratch, dir, dir, dir, run);
    else if (text == policy)
        snprintf(yaml, sizeof yaml, policy, dir, dir, dir, dir, run);
    else if (text == ppo)
        snprintf(yaml, sizeof yaml, ppo, dir, dir, dir, dir, run);
    else if (text == bandit)
        snprintf(yaml, sizeof yaml, bandit, dir, dir, dir, dir, run);
    else if (text == unpaired)
        snprintf(yaml, sizeof yaml, unpaired, dir, dir, dir, run);
    else if (text == prefer)
        snprintf(yaml, sizeof yaml, prefer, dir, dir, dir, run);
    for (size_t i = 0; i < AT_COUNT(adapted); i++)
        if (text == adapted[i])
            snprintf(yaml, sizeof yaml, i == 0 ? lora : i == 1 ? routers :
                     i == 2 ? away : i == 3 ? away_linear : away_mlp, dir, dir,
                     dir, run);
    return at_recipe_parse(cx, &cx->run, "test.yaml", yaml, strlen(yaml), over,
                           n, r);
}

static struct at_recipe *recipe(struct at_ctx *cx, const char *text,
                                const char *run, const char *const *over,
                                size_t n)
{
    struct at_recipe *r;
    OK(cx, parse(cx, text, run, over, n, &r));
    return r;
}

static int run(const char *text, const char *name, const char *over,
               at_progress_fn *progress, void *self, char err[4096])
{
    struct at_ctx cx;
    const char *list[] = { over };
    struct at_recipe *r;
    int rc;
    at_ctx_init(&cx);
    rc = parse(&cx, text, name, list, over ? 1 : 0, &r);
    if (rc == AT_OK)
        rc = at_run_train(&cx, r, true, progress, self);
    if (err)
        memcpy(err, cx.err.msg, 4096);
    else if (rc < 0)
        print_error("%s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

static int resume(const char *name, char warned[4096]);

struct stopper { uint64_t at; volatile int stop; };

static void stop_at(void *self, const struct at_progress *p)
{
    struct stopper *s = self;
    if (p->r && p->job->s.step == s->at) {
        s->stop = 1;
        p->job->cx->stop = &s->stop;
    }
}

static void keep_warning(void *self, enum at_level level, const char *line)
{
    if (level == AT_LOG_WARN && self)
        snprintf(self, 4096, "%s", line);
}

static int resume(const char *name, char warned[4096])
{
    struct at_ctx cx;
    int rc;
    at_ctx_init(&cx);
    cx.log = keep_warning;
    cx.log_self = warned;
    rc = at_run_resume(&cx, in_dir(name), NULL, NULL);
    if (rc < 0)
        print_error("%s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

/* ---- comparing runs ------------------------------------------------------------- */

/* Files of runs that route: the same bytes.                                  */
static void same_capacity(const char *a, const char *b)
{
    char pa[128], *x, *y;
    struct at_ctx cx;
    size_t n, m;
    snprintf(pa, sizeof pa, "%s/capacity.jsonl", a);
    if (access(in_dir(pa), F_OK) != 0)
        return;
    at_ctx_init(&cx);
    OK(&cx, at_read_file(&cx, &cx.run, in_dir(pa), 0, &x, &n));
    snprintf(pa, sizeof pa, "%s/capacity.jsonl", b);
    OK(&cx, at_read_file(&cx, &cx.run, in_dir(pa), 0, &y, &m));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    assert_non_null(strstr(x, "\"mean\":0"));
    at_ctx_finish(&cx);
}

static void same_runs(const char *a, const char *b)
{
    same_capacity(a, b);
    same_states(in_dir(a), in_dir(b));
    same_metrics(in_dir(a), in_dir(b));
}

/* ---- tests ------------------------------------------------------------------------ */

static void stopped_and_resumed_is_undisturbed(void **state)
{
    static const struct { const char *text, *over; } kinds[] = {
        { scratch, NULL }, { lora, NULL }, { scratch, "data.stream=true" },
        { scratch, "threads=1" }, { lora, "threads=1" },
        { scratch, "data.pack=false" }, { scratch, "train.recompute=block" },
        { scratch, "optim.name=sgd" }, { scratch, "optim.name=lion" },
        { lora, "optim.lr_scale=[lora_b=16]" }, { prefer, NULL },
        { prefer, "lora.rank=0" }, { prefer, "objective=reward" },
        { prefer, "objective=orpo" }, { prefer, "data.pack=false" },
        { prefer, "objective=regression" }, { policy, NULL },
        { policy, "objective=grpo" }, { policy, "lora.rank=0" },
        { routers, NULL }, { routers, "lora.rank=4" },
        { routers, "train_only=[.]" }, { routers, "router.target=block" },
        { lora, "router.layers=1" }, { away, LOCAL("") },
        { away, LOCAL(", merged: true") }, { away_mlp, LOCAL("") },
        { away_linear, LOCAL(", merged: true") },
        { lora, SPARSE("") }, { away_linear, SPARSE(", variant: published") },
        { ppo, NULL }, { ppo, "lora.rank=0" },
        { ppo, "align={kl_target: 0.05, kl_horizon: 100}" },
        { unpaired, NULL }, { unpaired, "batch={rows: 2, accumulate: 1}" },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(kinds); i++) {
        struct stopper s = { .at = 5 + i % 3 };
        char a[32], b[32], err[4096];
        snprintf(a, sizeof a, "whole%zu", i);
        snprintf(b, sizeof b, "parts%zu", i);
        assert_int_equal(run(kinds[i].text, a, kinds[i].over, NULL, NULL, NULL),
                         AT_OK);
        assert_int_equal(run(kinds[i].text, b, kinds[i].over, stop_at, &s, err),
                         AT_EINTR);
        assert_non_null(strstr(err, "attune resume"));
        assert_int_equal(resume(b, NULL), AT_OK);
        same_runs(a, b);
        assert_int_equal(resume(b, NULL), AT_OK);   /* finished: nothing more */
        same_runs(a, b);
    }
}

static double last_loss(const char *name)
{
    struct at_ctx cx;
    struct at_metrics_row *row;
    size_t n;
    bool torn;
    double loss;
    at_ctx_init(&cx);
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir(name), &row, &n, &torn));
    loss = row[n - 1].loss;
    at_ctx_finish(&cx);
    return loss;
}

/* Sparse in training, whole in use: the file is that of a LoRA, and its
 * evaluation the one of the same weights anywhere.                            */
static void contextual_sparsity_is_of_training_alone(void **state)
{
    char err[4096];
    (void)state;
    assert_int_equal(run(lora, "dense", NULL, NULL, NULL, NULL), AT_OK);
    assert_int_equal(run(lora, "sparse", SPARSE(""), NULL, NULL, err), AT_OK);
    assert_true(last_loss("dense") != last_loss("sparse"));
    assert_true(fabs(last_loss("dense") - last_loss("sparse")) < 0.3);
    assert_int_equal(run(lora, "all", SPARSE(", tokens: all"), NULL, NULL,
                         err), AT_OK);
    assert_true(last_loss("all") != last_loss("sparse"));
}

/* Where adapters' gradients are computed changes no bit of a run, nor does how
 * many compute them.                                                          */
static void offloading_changes_no_bit_of_a_run(void **state)
{
    static const char *const over[] = {
        NULL, "offload={engine: local, workers: 1}", LOCAL(""),
        "offload={engine: local, workers: 7}",
    };
    static const char *const texts[] = { away, away_linear };
    (void)state;
    for (size_t t = 0; t < AT_COUNT(texts); t++)
        for (size_t i = 0; i < AT_COUNT(over); i++) {
            char first[32], name[32];
            snprintf(first, sizeof first, "away%zu-0", t);
            snprintf(name, sizeof name, "away%zu-%zu", t, i);
            assert_int_equal(run(texts[t], name, over[i], NULL, NULL, NULL),
                             AT_OK);
            same_runs(first, name);
        }
}

/* Merged weights, small networks and small blocks round elsewhere, no more.   */
static void offloading_is_the_same_training(void **state)
{
    static const struct { const char *text, *over; } pairs[] = {
        { away, LOCAL(", merged: true") }, { away, LOCAL(", rows: 50") },
        { away_linear, LOCAL(", merged: true") }, { away_mlp, LOCAL("") },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(pairs); i++) {
        char a[32], b[32];
        snprintf(a, sizeof a, "plain%zu", i);
        snprintf(b, sizeof b, "moved%zu", i);
        assert_int_equal(run(pairs[i].text, a, NULL, NULL, NULL, NULL), AT_OK);
        assert_int_equal(run(pairs[i].text, b, pairs[i].over, NULL, NULL, NULL),
                         AT_OK);
        assert_true(fabs(last_loss(a) - last_loss(b)) < 1e-3);
    }
}

static void what_cannot_be_offloaded_is_refused(void **state)
{
    static const struct { const char *text, *over, *says; } bad[] = {
        { scratch, LOCAL(""), "give lora, linear or mlp" },
        { lora, LOCAL(""), "set lora.dropout: 0" },
        { routers, LOCAL(""), "give lora, linear or mlp" },
        { away_mlp, LOCAL(", merged: true"), "cannot be merged" },
        { prefer, LOCAL(", merged: true"), "without its adapter" },
        { prefer, "offload={engine: nats}", "offload.engine" },
    };
    char err[4096];
    (void)state;
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        assert_int_equal(run(bad[i].text, "refused", bad[i].over, NULL, NULL,
                             err), AT_EINVAL);
        if (!strstr(err, bad[i].says))
            fail_msg("%s", err);
    }
}

/* Each step's weight is the last one's moved by what it missed, in variances.  */
static size_t check_weights(const char *values)
{
    double mean, se, target, w, next = NAN;
    size_t n = 0;
    for (const char *s = values; (s = strstr(s, "\"split\":\"train\"")); s++) {
        const char *e = strstr(s, "\"e\":{");
        if (!e || sscanf(e, "\"e\":{\"mean\":%lf,\"se\":%lf,\"target\":%lf,"
                         "\"weight\":%lf", &mean, &se, &target, &w) != 4)
            fail_msg("%.200s", s);
        if (isnan(next))
            assert_true(w == 0.5);
        else
            assert_true(fabs(w - next) < 1e-9 * (1 + next));
        /* 16 texts a step, align.rate 0.05 */
        next = se > 0 ? fmax(0, w + 0.05 * (target - mean) / (se * se * 15))
                      : w;
        n++;
    }
    return n;
}

/* The model's own texts move towards the palette, and the weights follow the
 * targets that are missed.                                                   */
static void a_policy_is_learnt(void **state)
{
    struct at_ctx cx;
    struct at_metrics_row *row;
    char *values;
    size_t n, m;
    bool torn;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("whole16"), &row, &n, &torn));
    OK(&cx, at_read_file(&cx, &cx.run, in_dir("whole16/values.jsonl"), 0,
                         &values, &m));
    for (size_t i = 0; i < n; i++)
        assert_true(isfinite(row[i].reward) && isfinite(row[i].kl));
    assert_true(fabs(row[0].kl) < 1e-4);        /* it begins as the reference */
    assert_true(row[n - 1].eval && row[n - 1].kl > 0.05);
    assert_non_null(strstr(values, "\"target\":0.9,\"weight\":0.5}"));
    assert_non_null(strstr(values, "\"split\":\"eval\""));
    assert_int_equal(check_weights(values), 12);
    at_ctx_finish(&cx);
}

/* The mean of the value over the lines [from, to) of a run's values.          */
static double mean_of_rounds(const char *name, size_t from, size_t to)
{
    char path[64], *text;
    double sum = 0, mean;
    struct at_ctx cx;
    size_t n, i = 0;
    at_ctx_init(&cx);
    snprintf(path, sizeof path, "%s/values.jsonl", name);
    OK(&cx, at_read_file(&cx, &cx.run, in_dir(path), 0, &text, &n));
    for (const char *s = text; (s = strstr(s, "\"mean\":")) != NULL; s++, i++)
        if (i >= from && i < to) {
            assert_int_equal(sscanf(s, "\"mean\":%lf", &mean), 1);
            sum += mean / (double)(to - from);
        }
    assert_true(i >= to);
    at_ctx_finish(&cx);
    return sum;
}

/* The optimum of reward - beta KL is p0 e^(reward / beta) / Z, MAP's own
 * distribution with beta 1: a share p of the texts with a reward of w becomes
 * p e^(w/beta) / (1 - p + p e^(w/beta)).                                     */
static void ppo_ends_at_the_tilt(void **state)
{
    static const struct { const char *name, *over; double beta; } runs[] = {
        { "tilt1", NULL, 1 }, { "tilt3", "align.beta=3", 3 },
    };
    double p, w = 1.5;
    (void)state;
    assert_int_equal(run(bandit, "still", "optim.lr=0", NULL, NULL, NULL),
                     AT_OK);
    p = mean_of_rounds("still", 0, 40);
    assert_true(p > 0.1 && p < 0.8);
    for (size_t i = 0; i < AT_COUNT(runs); i++) {
        double e = exp(w / runs[i].beta), want = p * e / (1 - p + p * e), got;
        assert_int_equal(run(bandit, runs[i].name, runs[i].over, NULL, NULL,
                             NULL), AT_OK);
        got = mean_of_rounds(runs[i].name, 30, 40);
        print_message("share %.3f, beta %g: %.3f, the tilt has %.3f\n", p,
                      runs[i].beta, got, want);
        assert_true(fabs(got - want) < 0.06);
    }
}

/* Preferences are learnt: from no preference (log 2) to most of them right;
 * and a reward model reads its texts' ends.                                   */
static void preferences_are_learnt(void **state)
{
    static const char *const runs[] = { "whole10", "whole11", "whole12" };
    (void)state;
    for (size_t k = 0; k < AT_COUNT(runs); k++) {
        struct at_ctx cx;
        struct at_metrics_row *row;
        size_t n;
        bool torn;
        at_ctx_init(&cx);
        OK(&cx, at_metrics_read(&cx, &cx.run, in_dir(runs[k]), &row, &n,
                                &torn));
        if (k < 2)
            assert_true(fabs(row[0].loss - log(2)) < 1e-6);
        assert_true(row[n - 1].eval && row[n - 1].accuracy > 0.9);
        assert_true(row[n - 1].loss < 0.5 && row[n - 1].margin > 0.3);
        at_ctx_finish(&cx);
    }
}

/* From answers with labels: both kinds end on their side of the reference.    */
static void labels_are_learnt(void **state)
{
    struct at_ctx cx;
    struct at_metrics_row *row;
    size_t n;
    bool torn;
    (void)state;
    at_ctx_init(&cx);
    assert_int_equal(run(unpaired, "labels", "align.beta=0.5", NULL, NULL, NULL),
                     AT_OK);
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("labels"), &row, &n, &torn));
    print_message("loss %.3f, margin %.3f\n", row[n - 1].loss,
                  row[n - 1].margin);
    assert_true(fabs(row[0].loss - 0.5) < 1e-6);
    assert_true(row[n - 1].eval && row[n - 1].accuracy > 0.9);
    assert_true(row[n - 1].loss < 0.4 && row[n - 1].margin > 0.3);
    at_ctx_finish(&cx);
}

static void recomputing_changes_no_bit_of_a_run(void **state)
{
    (void)state;
    same_runs("whole0", "whole6");
}

static bool resumable(const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s/recipe.yaml", dir, name);
    return access(path, F_OK) == 0;
}

static void remove_run(const char *name)
{
    char cmd[700];
    snprintf(cmd, sizeof cmd, "rm -rf '%s/%s'", dir, name);
    assert_int_equal(system(cmd), 0);
}

/* This program again, as a process of its own: OpenMP does not outlive fork. */
static void become(const char *what, const char *name)
{
    execl("/proc/self/exe", "test-train", what, dir, name, (char *)NULL);
    _exit(9);
}

static void note_plan(void *self, const struct at_progress *p)
{
    *(size_t *)self = at_job_bytes(p->job);
}

/* A run of some 150 MB; 0 when its peak is below its plan, and near it.      */
static int planned(const char *name)
{
    size_t plan = 0, peak;
    int rc = run(scratch, name, "batch.rows=192", note_plan, &plan, NULL);
    peak = at_peak_rss_bytes();
    print_message("planned %.2f MiB, peak %.2f MiB\n",
                  (double)plan / 1048576, (double)peak / 1048576);
    return !(rc == AT_OK && peak <= plan &&
             (double)peak >= 0.98 * (double)plan);
}

static const char *text_of(const char *name)
{
    return strcmp(name, "killed_ppo") == 0 ? ppo : scratch;
}

/* 0: going on was refused, by the name of our parent.                        */
static int refused(const char *name)
{
    struct at_ctx cx;
    char who[64];
    bool said;
    snprintf(who, sizeof who, "is being trained by process %d on ",
             (int)getppid());
    at_ctx_init(&cx);
    said = at_run_resume(&cx, in_dir(name), NULL, NULL) == AT_EINVAL &&
           strstr(cx.err.msg, who);
    if (!said)
        print_error("%s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return !said;
}

static int child(const char *what, const char *where, const char *name)
{
    struct rlimit most = { 60000, 60000 };
    struct at_ctx cx;
    int rc;
    memcpy(dir, where, sizeof dir);
    if (strcmp(what, "run") == 0)
        return run(text_of(name), name, "checkpoint.every=1", NULL, NULL,
                   NULL) < 0;
    if (strcmp(what, "resume") == 0)
        return resume(name, NULL) < 0;
    if (strcmp(what, "planned") == 0)
        return planned(name);
    if (strcmp(what, "refused") == 0)
        return refused(name);
    /* "full": files may not grow beyond a limit; the failure must say so.    */
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &most);
    at_ctx_init(&cx);
    rc = at_run_resume(&cx, in_dir(name), NULL, NULL);
    if (rc != AT_EIO || !strstr(cx.err.msg, "cannot be written") ||
        !strstr(cx.err.msg, "checkpoint")) {
        print_error("%d: %s\n", rc, cx.err.msg);
        rc = AT_OK;
    }
    at_ctx_finish(&cx);
    return rc == AT_OK;         /* it must have failed                        */
}

/* A child is killed at a random moment, again and again, until it is done.   */
static void kill_and_resume(const char *whole, const char *name)
{
    const char *asked = getenv("AT_KILLS");
    int kills = asked ? atoi(asked) : 12, done = 0, finished = 0;
    struct at_rng r = { (uint64_t)getpid(), AT_RNG_TEST, 3 };
    print_message("kill seed %d\n", (int)getpid());
    for (int i = 0; done < kills && i < 100 * kills; i++) {
        pid_t pid = fork();
        int status;
        assert_true(pid >= 0);
        if (pid == 0)
            become(resumable(name) ? "resume" : "run", name);
        usleep((useconds_t)(at_rng_uniform(&r, 0, (uint64_t)i) * 60000));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (!WIFEXITED(status)) {
            done++;
            continue;
        }
        assert_int_equal(WEXITSTATUS(status), 0);
        same_runs(whole, name);
        finished++;
        remove_run(name);       /* and again, until there were enough     */
    }
    print_message("%d kills, %d runs reached their end\n", done, finished);
    if (resumable(name))
        assert_int_equal(resume(name, NULL), AT_OK);
    else
        assert_int_equal(run(text_of(name), name, "checkpoint.every=1", NULL,
                             NULL, NULL), AT_OK);
    same_runs(whole, name);
}

static void killed_anywhere_nothing_is_lost(void **state)
{
    (void)state;
    kill_and_resume("whole0", "killed");
}

/* While texts are drawn, between a round's steps, in its epochs.              */
static void killed_while_it_draws_nothing_is_lost(void **state)
{
    (void)state;
    kill_and_resume("whole30", "killed_ppo");
}

static volatile int rung;

static void ring(int sig)
{
    (void)sig;
    rung = 1;
}

/* Begins or resumes the run and asks it to stop after `us`; 0: it may end.    */
static int run_for(long us, const char *text, const char *name,
                   const char *const *over, size_t n)
{
    struct itimerval t = { .it_value = { 0, us } }, off = { 0 };
    struct at_ctx cx;
    int rc = AT_OK;
    at_ctx_init(&cx);
    cx.stop = &rung;
    rung = 0;
    setitimer(ITIMER_REAL, &t, NULL);
    if (resumable(name))
        rc = at_run_resume(&cx, in_dir(name), NULL, NULL);
    else
        rc = at_run_train(&cx, recipe(&cx, text, name, over, n), true, NULL,
                          NULL);
    setitimer(ITIMER_REAL, &off, NULL);
    if (rc != AT_OK && (rc != AT_EINTR ||
                        !strstr(cx.err.msg, "stopped after step ") ||
                        !strstr(cx.err.msg, "attune resume ")))
        fail_msg("%d: %s", rc, cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

static void same_samples(const char *a, const char *b)
{
    struct at_ctx cx;
    char path[64], *x, *y;
    size_t n, m;
    at_ctx_init(&cx);
    snprintf(path, sizeof path, "%s/samples.jsonl", a);
    OK(&cx, at_read_file(&cx, &cx.run, in_dir(path), 0, &x, &n));
    snprintf(path, sizeof path, "%s/samples.jsonl", b);
    OK(&cx, at_read_file(&cx, &cx.run, in_dir(path), 0, &y, &m));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    at_ctx_finish(&cx);
}

/* Most of these runs is drawing: of rounds, of held-out texts, of samples.    */
static void stopped_while_it_draws_is_undisturbed(void **state)
{
    static const struct { const char *text; const char *over[3]; } kinds[] = {
        { policy, { "eval.samples=[what does, the cat]" } },
        { ppo, { "eval.samples=[what does, the cat]" } },
        { scratch, { "eval={every: 1, sample_tokens: 60}",
                     "eval.samples=[what, the cat, a, dog, tower, boat]" } },
    };
    struct sigaction on = { .sa_handler = ring, .sa_flags = SA_RESTART };
    struct at_rng r = { (uint64_t)getpid(), AT_RNG_TEST, 5 };
    (void)state;
    print_message("stop seed %d\n", (int)getpid());
    sigaction(SIGALRM, &on, NULL);
    for (size_t i = 0; i < AT_COUNT(kinds); i++) {
        size_t n = kinds[i].over[1] ? 2 : 1, stops = 0;
        char a[32], b[32];
        double took = at_now_s();
        snprintf(a, sizeof a, "calm%zu", i);
        snprintf(b, sizeof b, "rung%zu", i);
        assert_int_equal(run_for(0, kinds[i].text, a, kinds[i].over, n),
                         AT_OK);
        took = fmin(at_now_s() - took, 1.8);
        for (uint64_t k = 0; stops < 8 && k < 100; k++) {
            long us = (long)(at_rng_uniform(&r, i, k) * took * 5e5) + 1;
            if (run_for(us, kinds[i].text, b, kinds[i].over, n) != AT_OK) {
                stops++;
                continue;
            }
            same_runs(a, b);
            same_samples(a, b);
            remove_run(b);              /* and again, until there were enough */
        }
        print_message("%zu stops\n", stops);
        assert_true(stops > 0);
        while (run_for(0, kinds[i].text, b, kinds[i].over, n) != AT_OK)
            ;
        same_runs(a, b);
        same_samples(a, b);
    }
}

static void one_big_batch_equals_several_small(void **state)
{
    struct at_ctx cx;
    struct at_metrics_row *x, *y;
    size_t n, m;
    bool torn;
    (void)state;
    at_ctx_init(&cx);
    {
        const char *one[] = { "batch.rows=6", "batch.accumulate=1",
                              "train.dropout=0" };
        const char *six[] = { "batch.rows=1", "batch.accumulate=6",
                              "train.dropout=0" };
        OK(&cx, at_run_train(&cx, recipe(&cx, scratch, "big", one, 3), true,
                             NULL, NULL));
        OK(&cx, at_run_train(&cx, recipe(&cx, scratch, "small", six, 3), true,
                             NULL, NULL));
    }
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("big"), &x, &n, &torn));
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("small"), &y, &m, &torn));
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        assert_true(fabs(x[i].loss - y[i].loss) < 2e-5);
        assert_int_equal(x[i].targets, y[i].targets);
        if (!x[i].eval)
            assert_true(fabs(x[i].grad_norm / y[i].grad_norm - 1) < 1e-3);
    }
    at_ctx_finish(&cx);
}

/* The loss over a split, with rows packed or not, one or several at a time.  */
static double split_loss(struct at_infer *in, struct at_ctx *cx,
                         enum at_packing packing, size_t *n)
{
    struct at_loader_options o = { .split = AT_VALIDATION, .packing = packing,
                                   .rows = in->st->set.rows,
                                   .length = in->st->set.length, .once = true };
    struct at_eval_sum sum = { 0 };
    const struct at_batch *b = NULL;
    struct at_loader *l;
    struct at_data *d;
    OK(cx, at_data_open(cx, &cx->run, in_dir("pairs.h5"), &d));
    OK(cx, at_loader_create(cx, d, &o, &l));
    while (!(b && b->last)) {
        OK(cx, at_loader_next(cx, l, &b));
        at_step_eval(in->st, b, &sum);
    }
    at_loader_destroy(l);
    at_data_close(d);
    *n = sum.n;
    return sum.ce / (double)sum.n;
}

static void packing_and_batch_size_change_no_loss(void **state)
{
    double first = 0;
    size_t count = 0;
    (void)state;
    for (size_t rows = 1; rows <= 8; rows += 7)
        for (int p = AT_PACK_NONE; p <= AT_PACK_DOCS; p++) {
            struct at_ctx cx;
            struct at_infer *in;
            double loss;
            size_t n;
            at_ctx_init(&cx);
            OK(&cx, at_infer_open(&cx, in_dir("base.h5"), "cpu", 2, 0, 0, rows,
                                  64, &in));
            loss = split_loss(in, &cx, (enum at_packing)p, &n);
            if (count == 0) {
                first = loss;
                count = n;
            }
            assert_int_equal(n, count);
            assert_true(fabs(loss - first) < 1e-5);
            at_infer_close(in);
            at_ctx_finish(&cx);
        }
    assert_true(count > 100);
}

static void flip(const char *path, long at)
{
    FILE *f = fopen(path, "r+b");
    int c;
    assert_non_null(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    c = fgetc(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fputc(c ^ 0x10, f);
    fclose(f);
}

static void a_damaged_checkpoint_is_passed_over(void **state)
{
    struct stopper s = { .at = 7 };
    char warned[4096] = "", err[4096];
    struct stat st;
    (void)state;
    assert_int_equal(run(scratch, "hurt", NULL, stop_at, &s, err), AT_EINTR);
    stat(in_dir("hurt/checkpoints/step-00000007.h5"), &st);
    flip(in_dir("hurt/checkpoints/step-00000007.h5"), st.st_size / 2);
    assert_int_equal(resume("hurt", warned), AT_OK);
    assert_non_null(strstr(warned, "going on from step 6"));
    same_runs("whole0", "hurt");
    /* cut short */
    s.stop = 0;
    assert_int_equal(run(scratch, "cut", NULL, stop_at, &s, err), AT_EINTR);
    assert_int_equal(truncate(in_dir("cut/checkpoints/step-00000007.h5"),
                              st.st_size * 2 / 3), 0);
    assert_int_equal(resume("cut", warned), AT_OK);
    same_runs("whole0", "cut");
}

static void no_room_loses_nothing(void **state)
{
    struct stopper s = { .at = 7 };
    char err[4096];
    pid_t pid;
    int status;
    (void)state;
    assert_int_equal(run(scratch, "full", NULL, stop_at, &s, err), AT_EINTR);
    pid = fork();
    if (pid == 0)
        become("full", "full");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_equal(resume("full", NULL), AT_OK);
    same_runs("whole0", "full");
    {
        DIR *d = opendir(in_dir("full/checkpoints"));
        struct dirent *e;
        while ((e = readdir(d)))
            assert_null(strstr(e->d_name, ".tmp"));
        closedir(d);
    }
}

static void poison(void *self, const struct at_progress *p)
{
    uint64_t *at = self;
    if (p->r && p->job->s.step == *at) {
        struct at_param *w =
            at_param_find(&p->job->ps, "blocks.1.mlp.up_proj.weight");
        ((float *)w->val.data)[3] = NAN;
    }
}

/* Poisons after step 4, stops after step `s.at`.                              */
static void poison_and_stop(void *self, const struct at_progress *p)
{
    uint64_t at = 4;
    poison(&at, p);
    stop_at(self, p);
}

static void a_bad_step_is_named_and_handled(void **state)
{
    struct stopper s = { .at = 8 };
    char err[4096];
    struct at_ctx cx;
    struct at_metrics_row *rows;
    uint64_t at = 4;
    size_t n, skipped = 0;
    bool torn;
    (void)state;
    assert_int_equal(run(scratch, "nan-stop", NULL, poison, &at, err),
                     AT_ENONFINITE);
    assert_non_null(strstr(err, "step 5"));
    assert_non_null(strstr(err, "linear at blocks.1.mlp.up_proj"));
    assert_non_null(strstr(err, "documents "));
    assert_int_equal(run(scratch, "nan-back", "train.on_nonfinite=rollback",
                         poison, &at, err), AT_OK);
    at_ctx_init(&cx);
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("nan-back"), &rows, &n,
                            &torn));
    for (size_t i = 0; i < n; i++) {
        skipped += rows[i].skipped;
        if (rows[i].step > 5)
            assert_true(isfinite(rows[i].loss));
    }
    assert_int_equal(skipped, 1);
    assert_int_equal(run(scratch, "nan-back2", "train.on_nonfinite=rollback",
                         poison_and_stop, &s, err), AT_EINTR);
    assert_int_equal(resume("nan-back2", NULL), AT_OK);
    same_runs("nan-back", "nan-back2");
    assert_int_equal(run(scratch, "nan-skip", "train.on_nonfinite=skip", poison,
                         &at, err), AT_OK);
    at_ctx_finish(&cx);
}

static void a_replayed_step_has_the_same_bits(void **state)
{
    struct at_ctx cx;
    struct at_metrics_row *rows;
    size_t n;
    bool torn;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("whole1"), &rows, &n, &torn));
    for (uint64_t step = 1; step <= 12; step += 5) {
        struct at_ctx one;
        struct at_job *j;
        struct at_step_result r;
        const struct at_batch **b;
        at_ctx_init(&one);
        OK(&one, at_run_replay(&one, in_dir("whole1"), step, &j, &r, &b));
        for (size_t i = 0; i < n; i++)
            if (rows[i].step == step && !rows[i].eval) {
                assert_memory_equal(&rows[i].loss, &r.loss, sizeof(double));
                assert_memory_equal(&rows[i].grad_norm, &r.grad_norm,
                                    sizeof(double));
                assert_int_equal(rows[i].index, b[0]->from.index);
            }
        at_job_close(j);
        at_ctx_finish(&one);
    }
    at_ctx_finish(&cx);
}

static void requests_that_cannot_work_are_refused(void **state)
{
    static const struct { const char *text, *over, *says; } bad[] = {
        { scratch, "data.path=/nonexistent.h5", "/nonexistent.h5" },
        { scratch, "batch.length=65", "batch.length" },
        { lora, "lora.targets=qkv_proj", "fits no site" },
        { lora, "model.path=/tmp", "without a checkpoint" },
        { scratch, "batch.rows=1000000", "batch.rows" },
        { scratch, "freeze=.", "nothing is trained" },
        { lora, "optim.lr_scale=[lora_q=2]", "'lora_q=2' is the first to fit no "
          "trained parameter" },
        { lora, "optim.lr_scale=[lora_b]", "must be PATTERN=FACTOR" },
        { lora, "optim.lr_scale=[lora_b=-1]", "with a factor from 0" },
        { lora, "batch.length=8", "the longest document" },
        { lora, "objective=dpo", "holds none: its samples need the keys chosen" },
        { lora, "objective=binary", "has no scores" },
        { scratch, "objective=dpo", "give model.path" },
        { prefer, "objective=sft", "would learn the rejected texts" },
        { prefer, "data.stream=true", "needs them whole" },
        { prefer, "batch.length=20", "belong together need a row" },
        { prefer, "objective=rloo", "give align.palette" },
        { policy, "batch.rows=6", "rows must be a multiple of samples" },
        { policy, "align.max_tokens=40", "it needs rows of" },
        { policy, "objective=distil", "several texts for each prompt" },
        { scratch, SPARSE(""), "set lora.rank" },
        { routers, SPARSE(""), "router.layers and context_sparse.rank do not go" },
        { prefer, SPARSE(""), "it goes with sft and lm" },
        { lora, "context_sparse.rank=8", "leaves no channel of any layer out" },
        { lora, SPARSE(", end: 0.1"), "start comes before end" },
        { lora, "context_sparse={rank: 4, mlp: '2:0.5'}", "context_sparse.mlp "
          "has 2; the largest there is is 1" },
    };
    char err[4096];
    (void)state;
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        struct stat st;
        int rc = run(bad[i].text, "refused", bad[i].over, NULL, NULL, err);
        if (rc >= 0 || !strstr(err, bad[i].says))
            fail_msg("'%s' gave %d: %s", bad[i].over, rc, err);
        assert_true(stat(in_dir("refused/recipe.yaml"), &st) < 0);
    }
    assert_int_equal(run(scratch, "whole0", NULL, NULL, NULL, err), AT_EINVAL);
    assert_non_null(strstr(err, "attune resume"));
}

static void another_tokenizer_is_refused(void **state)
{
    struct at_ctx cx;
    char err[4096], over[600];
    (void)state;
    at_ctx_init(&cx);
    make_tokenizer(&cx, 300, "tok2.h5");
    make_data(&cx, "tok2.h5", "pairs.jsonl", "pairs2.h5");
    snprintf(over, sizeof over, "data.path=%s/pairs2.h5", dir);
    assert_int_equal(run(lora, "refused", over, NULL, NULL, err), AT_EINVAL);
    assert_non_null(strstr(err, "another tokenizer"));
    assert_non_null(strstr(err, "attune data"));
    at_ctx_finish(&cx);
}

/* At step 2 another process wants the run, and at step 3 this one again.     */
static void want_it(void *self, const struct at_progress *p)
{
    const char *name = self;
    char err[4096];
    int status;
    pid_t pid;
    if (!p->r || p->job->s.step < 2 || p->job->s.step > 3)
        return;
    if (p->job->s.step == 3) {
        assert_int_equal(resume(name, NULL), AT_EINVAL);
        assert_int_equal(run(scratch, name, NULL, NULL, NULL, err), AT_EINVAL);
        return;
    }
    pid = fork();
    if (pid == 0)
        become("refused", name);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_run_is_trained_by_one_process(void **state)
{
    char name[] = "mine";
    (void)state;
    assert_int_equal(run(scratch, name, NULL, want_it, name, NULL), AT_OK);
    /* and is anybody's again                                                 */
    assert_int_equal(resume(name, NULL), AT_OK);
}

static void write_line(const char *name, const char *line)
{
    FILE *f = fopen(in_dir(name), "w");
    assert_non_null(f);
    fputs(line, f);
    fclose(f);
}

static void nothing_is_trained_into_a_strange_directory(void **state)
{
    static const char old[] = "strange/checkpoints/step-00000040.h5";
    char err[4096];
    (void)state;
    mkdir(in_dir("strange"), 0777);
    mkdir(in_dir("strange/checkpoints"), 0777);
    write_line(old, "of another run");
    assert_int_equal(run(scratch, "strange", NULL, NULL, NULL, err), AT_EINVAL);
    assert_non_null(strstr(err, "is not a run"));
    assert_int_equal(access(in_dir(old), F_OK), 0);
    assert_int_equal(access(in_dir("strange/run.lock"), F_OK), -1);
    write_line("strange.txt", "no directory");
    assert_int_equal(run(scratch, "strange.txt", NULL, NULL, NULL, err), AT_EIO);
    /* what a killed beginning leaves, and an empty one, are in nobody's way  */
    unlink(in_dir(old));
    write_line("strange/run.lock", "1 there\n");
    write_line("strange/recipe.yaml.tmp.1", "seed");
    assert_int_equal(run(scratch, "strange", "train.steps=3", NULL, NULL, NULL),
                     AT_OK);
    mkdir(in_dir("empty"), 0777);
    assert_int_equal(run(scratch, "empty", "train.steps=3", NULL, NULL, NULL),
                     AT_OK);
}

/* Both ways into a run refuse it, and say which of its datasets it is.       */
static void other_data(const char *name, const char *key)
{
    const struct at_batch **b;
    struct at_step_result r;
    struct at_job *j;
    struct at_ctx cx;
    at_ctx_init(&cx);
    assert_int_equal(at_run_resume(&cx, in_dir(name), NULL, NULL), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "another dataset"));
    assert_non_null(strstr(cx.err.msg, key));
    /* the first step is before every checkpoint                              */
    for (uint64_t step = 1; step <= 5; step += 4) {
        assert_int_equal(at_run_replay(&cx, in_dir(name), step, &j, &r, &b),
                         AT_EINVAL);
        assert_non_null(strstr(cx.err.msg, "another dataset"));
    }
    at_ctx_finish(&cx);
}

static void a_run_knows_its_datasets(void **state)
{
    struct stopper s = { .at = 7 };
    char over[1200], err[4096];
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    make_data(&cx, "tok.h5", "pairs.jsonl", "own.h5");
    make_data(&cx, "tok.h5", "single.jsonl", "check.h5");
    snprintf(over, sizeof over, "data={path: %s, validation: %s}",
             in_dir("own.h5"), in_dir("check.h5"));
    assert_int_equal(run(scratch, "owner", over, stop_at, &s, err), AT_EINTR);
    make_data(&cx, "tok.h5", "single.jsonl", "own.h5");
    other_data("owner", "data.path");
    make_data(&cx, "tok.h5", "pairs.jsonl", "own.h5");
    make_data(&cx, "tok.h5", "pairs.jsonl", "check.h5");
    other_data("owner", "data.validation");
    /* made again from the same texts, it is the same                         */
    make_data(&cx, "tok.h5", "single.jsonl", "check.h5");
    assert_int_equal(resume("owner", NULL), AT_OK);
    at_ctx_finish(&cx);
}

/* Leaves rows of steps `from` to `to` out of the metrics.                     */
static void forget_rows(const char *name, uint64_t from, uint64_t to)
{
    char path[64], *text, *at, *end, *out;
    struct at_ctx cx;
    size_t n;
    snprintf(path, sizeof path, "%s/metrics.jsonl", name);
    at_ctx_init(&cx);
    OK(&cx, at_read_file(&cx, &cx.run, in_dir(path), 0, &text, &n));
    text[n] = '\0';
    for (at = out = text; (end = strchr(at, '\n')); at = end + 1) {
        unsigned long long step = 0;
        assert_int_equal(sscanf(at, "{\"step\":%llu", &step), 1);
        if (step >= from && step <= to)
            continue;
        memmove(out, at, (size_t)(end + 1 - at));
        out += end + 1 - at;
    }
    assert_true(out < text + n);
    OK(&cx, at_write_file(&cx, in_dir(path), text, (size_t)(out - text)));
    at_ctx_finish(&cx);
}

static void keep_first(void *self, const struct at_progress *p)
{
    char *said = self;
    if (!p->r && !said[0])
        snprintf(said, 4096, "%s", p->message);
}

static void what_is_lost_is_said(void **state)
{
    struct stopper s = { .at = 7 };
    char warned[4096] = "", said[4096] = "", cmd[700], err[4096];
    struct at_ctx cx;
    (void)state;
    assert_int_equal(run(scratch, "loser", NULL, stop_at, &s, err), AT_EINTR);
    unlink(in_dir("loser/checkpoints/step-00000007.h5"));
    forget_rows("loser", 2, 3);
    forget_rows("loser", 5, 5);
    at_ctx_init(&cx);
    cx.log = keep_warning;
    cx.log_self = warned;
    OK(&cx, at_run_resume(&cx, in_dir("loser"), keep_first, said));
    at_ctx_finish(&cx);
    assert_non_null(strstr(said, "the checkpoint of step 6"));
    assert_non_null(strstr(said, "done again: 1"));
    assert_non_null(strstr(warned, "rows of steps 2-3, 5:"));
    snprintf(cmd, sizeof cmd, "rm -r '%s'", in_dir("loser/checkpoints"));
    assert_int_equal(system(cmd), 0);
    warned[0] = '\0';
    assert_int_equal(resume("loser", warned), AT_OK);
    assert_non_null(strstr(warned, "steps 1 to 12, which"));
    assert_int_equal(access(in_dir("loser/checkpoints/latest"), F_OK), 0);
    same_metrics(in_dir("first"), in_dir("loser"));
    same_states(in_dir("first"), in_dir("loser"));
}

static void an_adapter_knows_its_base(void **state)
{
    struct at_ctx cx;
    struct at_infer *in;
    double off;
    bool same;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_infer_open(&cx, in_dir("whole1"), "cpu", 2, 1, 64, 0, 0, &in));
    OK(&cx, at_infer_merge(&cx, in, &off, &same));
    assert_true(off < 1e-4 && off > 0);
    assert_true(same);
    OK(&cx, at_model_write(&cx, in_dir("merged.h5"), &in->m->d, in->m->tok,
                           &in->ps, AT_H5_F32, NULL));
    at_infer_close(in);
    /* the base is replaced by another model of the same shape                */
    assert_int_equal(rename(in_dir("base.h5"), in_dir("kept.h5")), 0);
    assert_int_equal(rename(in_dir("merged.h5"), in_dir("base.h5")), 0);
    assert_int_equal(at_infer_open(&cx, in_dir("whole1"), "cpu", 2, 1, 64, 0, 0,
                                   &in), AT_EFORMAT);
    assert_non_null(strstr(cx.err.msg, "another model"));
    assert_int_equal(rename(in_dir("kept.h5"), in_dir("base.h5")), 0);
    at_ctx_finish(&cx);
}

/* Training a LoRA further with routers beside it; then both from its file.   */
static void open_merged(struct at_ctx *cx, const char *name,
                        struct at_infer **in)
{
    double largest;
    bool same;
    OK(cx, at_infer_open_to_merge(cx, in_dir(name), in));
    OK(cx, at_infer_merge(cx, *in, &largest, &same));
}

static void refused_soup(const char *a, const char *b, double w,
                         const char *why)
{
    const char *path[] = { in_dir(a), in_dir(b) };
    double weight[] = { 0.25, w };
    struct at_ctx cx;
    at_ctx_init(&cx);
    assert_int_equal(at_soup(&cx, path, weight, 2, in_dir("no.h5"), AT_H5_F32),
                     AT_EINVAL);
    if (!strstr(cx.err.msg, why))
        fail_msg("'%s' is not in: %s", why, cx.err.msg);
    assert_int_not_equal(access(in_dir("no.h5"), F_OK), 0);
    at_ctx_finish(&cx);
}

/* The mean of two adapters is that of what they make of the weights.         */
static void a_soup_is_the_mean_of_what_adapters_do(void **state)
{
    const char *path[] = { in_dir("soup_a"), in_dir("soup_b") };
    double weight[] = { 0.25, 0.75 }, moved = 0;
    struct at_infer *in[3];
    struct at_ctx cx;
    (void)state;
    assert_int_equal(run(lora, "soup_a", "train.steps=3", NULL, NULL, NULL), 0);
    assert_int_equal(run(lora, "soup_b", "seed=4", NULL, NULL, NULL), 0);
    assert_int_equal(run(scratch, "soup_c", "train.steps=3", NULL, NULL, NULL),
                     0);
    assert_int_equal(run(prefer, "soup_d", "objective=reward", NULL, NULL, NULL),
                     0);
    at_ctx_init(&cx);
    OK(&cx, at_soup(&cx, path, weight, 2, in_dir("soup.h5"), AT_H5_F32));
    open_merged(&cx, "soup_a", &in[0]);
    open_merged(&cx, "soup_b", &in[1]);
    open_merged(&cx, "soup.h5", &in[2]);
    for (size_t i = 0; i < in[2]->ps.n; i++) {
        const struct at_val *v = &in[2]->ps.p[i]->val;
        const float *x = at_param_find(&in[0]->ps, v->name)->val.data;
        const float *y = at_param_find(&in[1]->ps, v->name)->val.data;
        const float *z = v->data;
        for (size_t k = 0; k < at_shape_count(&v->shape); k++) {
            double want = 0.25 * (double)x[k] + 0.75 * (double)y[k];
            assert_true(fabs((double)z[k] - want) < 1e-6);
            moved += fabs((double)x[k] - (double)y[k]);
        }
    }
    assert_true(moved > 1);
    for (size_t i = 0; i < 3; i++)
        at_infer_close(in[i]);
    at_ctx_finish(&cx);
    refused_soup("soup_a", "soup_b", 0.7, "must be 1");
    refused_soup("soup_a", "soup_c", 0.75, "same base");
    refused_soup("soup_a", "soup_d", 0.75, "different kinds");
}

static void routers_join_a_lora(void **state)
{
    struct at_ctx cx;
    struct at_infer *in;
    char path[600];
    const char *over[] = { path, "router.layers=1", "train.steps=4" };
    (void)state;
    at_ctx_init(&cx);
    snprintf(path, sizeof path, "model.path=%s", in_dir("whole1"));
    OK(&cx, at_run_train(&cx, recipe(&cx, lora, "both", over, 3), true, NULL,
                         NULL));
    OK(&cx, at_infer_open(&cx, in_dir("both"), "cpu", 2, 1, 64, 0, 0, &in));
    assert_int_equal(in->m->adapters.n, 2);
    assert_non_null(at_param_find(&in->ps, "blocks.0.attn.router.weight"));
    at_infer_close(in);
    assert_int_equal(at_infer_open(&cx, in_dir("whole1"), "cpu", 2, 1, 64, 0, 0,
                                   &in), AT_OK);
    assert_null(at_param_find(&in->ps, "blocks.0.attn.router.weight"));
    at_infer_close(in);
    at_ctx_finish(&cx);
}

struct taken { int32_t id[4][64]; size_t n[4]; };

static bool take(void *self, size_t row, int32_t id, double logp)
{
    struct taken *t = self;
    assert_true(logp <= 0);
    t->id[row][t->n[row]++] = id;
    return true;
}

static void cached_decoding_equals_one_forward(void **state)
{
    static const int32_t ids[] = { 5, 9, 40, 12, 7, 3, 8 };
    struct at_sampling s = { .temperature = 1, .top_p = 0.95, .seed = 4 };
    struct at_prompt p[4];
    struct taken all = { 0 }, one = { 0 };
    struct at_ctx cx;
    struct at_infer *in;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_infer_open(&cx, in_dir("base.h5"), "cpu", 2, 4, 64, 0, 0, &in));
    for (uint32_t r = 0; r < 4; r++)
        p[r] = (struct at_prompt){ ids, 3 + r, r };
    OK(&cx, at_generate(in->gen, p, 4, 20, &s, take, &all));
    for (size_t r = 0; r < 4; r++) {
        one.n[0] = 0;
        OK(&cx, at_generate(in->gen, &p[r], 1, 20, &s, take, &one));
        assert_int_equal(one.n[0], 20);
        assert_memory_equal(one.id[0], all.id[r], 20 * sizeof(int32_t));
    }
    /* greedy, against the logits of everything so far in one pass            */
    s.temperature = 0;
    one.n[0] = 0;
    OK(&cx, at_generate(in->gen, p, 1, 20, &s, take, &one));
    for (size_t i = 0; i < 20; i++) {
        int32_t text[64];
        const at_real *logits;
        memcpy(text, ids, 3 * sizeof *ids);
        memcpy(text + 3, one.id[0], i * sizeof *ids);
        OK(&cx, at_generator_logits(in->gen, text, 3 + i, &logits));
        for (size_t v = 0; v < in->m->d.V; v++)
            assert_true(logits[v] <= logits[one.id[0][i]] + 1e-4f);
    }
    at_infer_close(in);
    at_ctx_finish(&cx);
}

/* An answer counts as exact when greedy decoding says it; one other token, and
 * it does not.                                                                */
static void exact_answers_are_what_greedy_decoding_says(void **state)
{
    enum { T = 64, ASK = 3, SAY = 12 };
    static const int32_t ids[] = { 5, 9, 40 };
    int32_t text[T] = { 0 }, target[T], pos[T], first[T];
    struct at_batch b = { .rows = 1, .length = T, .ids = text, .pos = pos,
                          .targets = target, .first = first };
    struct at_sampling s = { .top_p = 1 };
    struct at_prompt p = { ids, ASK, 0 };
    struct taken said = { 0 };
    struct at_infer *in;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_infer_open(&cx, in_dir("base.h5"), "cpu", 2, 1, T, 1, T, &in));
    OK(&cx, at_generate(in->gen, &p, 1, SAY, &s, take, &said));
    memcpy(text, ids, sizeof ids);
    memcpy(text + ASK, said.id[0], SAY * sizeof *text);
    for (int wrong = -1; wrong < SAY; wrong++) {
        struct at_eval_sum sum = { 0 };
        for (int i = 0; i < T; i++) {
            bool says = i + 1 >= ASK && i + 1 < ASK + SAY;
            target[i] = says ? text[i + 1] : -1;
            pos[i] = i;
            first[i] = i < ASK + SAY ? 0 : i;
        }
        if (wrong >= 0)
            target[ASK - 1 + wrong] ^= 1;
        at_step_eval(in->st, &b, &sum);
        assert_int_equal(sum.n, SAY);
        assert_int_equal(sum.right, SAY - (wrong >= 0));
        assert_int_equal(sum.texts, 1);
        assert_int_equal(sum.texts_right, wrong < 0);
    }
    at_infer_close(in);
    at_ctx_finish(&cx);
}

/* A sanitizer's own memory has no place in a plan.                           */
static void a_run_needs_what_its_plan_says(void **state)
{
#if defined(__SANITIZE_ADDRESS__)
    (void)state;
    skip();
#else
    pid_t pid = fork();
    int status;
    (void)state;
    if (pid == 0)
        become("planned", "planned");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
#endif
}

static int setup(void **state)
{
    struct at_ctx cx;
    struct at_infer *in;
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    at_ctx_init(&cx);
    write_texts();
    make_tokenizer(&cx, 320, "tok.h5");
    make_data(&cx, "tok.h5", "pairs.jsonl", "pairs.h5");
    OK(&cx, at_write_file(&cx, in_dir("palette.json"), palette,
                          sizeof palette - 1));
    OK(&cx, at_write_file(&cx, in_dir("letters.json"), letters,
                          sizeof letters - 1));
    make_data(&cx, "tok.h5", "prefs.jsonl", "prefs.h5");
    make_data(&cx, "tok.h5", "single.jsonl", "single.h5");
    OK(&cx, at_run_train(&cx, recipe(&cx, scratch, "first", NULL, 0), true,
                         NULL, NULL));
    OK(&cx, at_infer_open(&cx, in_dir("first"), "cpu", 2, 1, 32, 0, 0, &in));
    OK(&cx, at_model_write(&cx, in_dir("base.h5"), &in->m->d, in->m->tok,
                           &in->ps, AT_H5_F32, NULL));
    at_infer_close(in);
    at_ctx_finish(&cx);
    return 0;
}

static int teardown(void **state)
{
    char cmd[600];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stopped_and_resumed_is_undisturbed),
        cmocka_unit_test(contextual_sparsity_is_of_training_alone),
        cmocka_unit_test(offloading_changes_no_bit_of_a_run),
        cmocka_unit_test(offloading_is_the_same_training),
        cmocka_unit_test(what_cannot_be_offloaded_is_refused),
        cmocka_unit_test(preferences_are_learnt),
        cmocka_unit_test(labels_are_learnt),
        cmocka_unit_test(a_policy_is_learnt),
        cmocka_unit_test(ppo_ends_at_the_tilt),
        cmocka_unit_test(recomputing_changes_no_bit_of_a_run),
        cmocka_unit_test(killed_anywhere_nothing_is_lost),
        cmocka_unit_test(killed_while_it_draws_nothing_is_lost),
        cmocka_unit_test(stopped_while_it_draws_is_undisturbed),
        cmocka_unit_test(one_big_batch_equals_several_small),
        cmocka_unit_test(packing_and_batch_size_change_no_loss),
        cmocka_unit_test(a_damaged_checkpoint_is_passed_over),
        cmocka_unit_test(no_room_loses_nothing),
        cmocka_unit_test(a_bad_step_is_named_and_handled),
        cmocka_unit_test(a_replayed_step_has_the_same_bits),
        cmocka_unit_test(requests_that_cannot_work_are_refused),
        cmocka_unit_test(another_tokenizer_is_refused),
        cmocka_unit_test(a_run_is_trained_by_one_process),
        cmocka_unit_test(nothing_is_trained_into_a_strange_directory),
        cmocka_unit_test(a_run_knows_its_datasets),
        cmocka_unit_test(what_is_lost_is_said),
        cmocka_unit_test(an_adapter_knows_its_base),
        cmocka_unit_test(a_soup_is_the_mean_of_what_adapters_do),
        cmocka_unit_test(routers_join_a_lora),
        cmocka_unit_test(cached_decoding_equals_one_forward),
        cmocka_unit_test(exact_answers_are_what_greedy_decoding_says),
        cmocka_unit_test(a_run_needs_what_its_plan_says),
    };
    if (argc == 4)
        return child(argv[1], argv[2], argv[3]);
    cmocka_set_test_filter(getenv("AT_ONLY"));
    return cmocka_run_group_tests_name("train", tests, setup, teardown);
}
