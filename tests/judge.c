/* Models that judge texts: labels of datasets, training of classifiers (an
 * encoder and a decoder, whole and by LoRA), what is said of a text, and its use
 * as a value.                                                                */
#include "tests/test.h"

#include "train/align/judge.h"
#include "train/hf.h"
#include "train/labels.h"
#include "train/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENIZER AT_TESTS "/golden/tokenizer/"

static char dir[] = "/tmp/attune-judge-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[8][512];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static void said(struct at_ctx *cx, int rc, const char *what)
{
    assert_true(rc < 0);
    if (!strstr(cx->err.msg, what))
        fail_msg("'%s' does not say '%s'", cx->err.msg, what);
}

/* ---- a world: texts of two kinds, tokenizers, models ---------------------------- */

static void write_texts(const char *name, size_t n, uint32_t stream)
{
    static const char *const good[] = { "fine", "warm", "kind" };
    static const char *const bad[] = { "cold", "dull", "grim" };
    static const char *const rest[] = { "the", "clock", "house", "was", "a",
                                        "very", "and", "so" };
    FILE *f = fopen(in_dir(name), "w");
    struct at_rng r = { 3, AT_RNG_TEST, stream };
    for (uint64_t i = 0; i < n; i++) {
        bool yes = at_rng_u64(&r, 0, i) % 2;
        size_t words = 2 + at_rng_u64(&r, 1, i) % 9;
        size_t where = at_rng_u64(&r, 2, i) % words;
        fprintf(f, "{\"text\": \"");
        for (size_t k = 0; k < words; k++)
            fprintf(f, "%s%s", k ? " " : "", k == where
                    ? (yes ? good : bad)[at_rng_u64(&r, 3, i) % 3]
                    : rest[at_rng_u64(&r, 4 + k, i) % 8]);
        fprintf(f, "\", \"label\": \"%s\", \"stars\": %d, \"warmth\": %g}\n",
                yes ? "yes" : "no", yes ? 1 : 0, yes ? 1.5 : -0.5);
    }
    fclose(f);
}

static void make_data(struct at_ctx *cx, const char *from, const char *to,
                      const char *tok_json, const char *label, size_t most)
{
    const char *inputs[] = { in_dir(from) };
    const char *scores[] = { "warmth" };
    struct at_data_options o = { .inputs = inputs, .n_inputs = 1,
                                 .out = in_dir(to), .label = label,
                                 .max_length = most, .n_threads = 2,
                                 .max_cut = 1, .scores = scores,
                                 .n_scores = label ? 0 : 1 };
    struct at_data_stats stats;
    struct at_tok *tok;
    OK(cx, at_tok_load_hf(cx, &cx->run, tok_json, NULL, &tok));
    o.tok = tok;
    OK(cx, at_data_build(cx, &o, NULL, NULL, &stats));
}

static void make_model(struct at_ctx *cx, const char *to, const char *family,
                       const char *tok_json)
{
    struct at_decoder d;
    struct at_params ps;
    struct at_tok *tok;
    OK(cx, at_tok_load_hf(cx, &cx->run, tok_json, NULL, &tok));
    OK(cx, at_decoder_family(cx, family, &d));
    d.V = at_tok_size(tok);
    d.C = 32;
    d.L = 2;
    d.H = 4;
    d.F = 64;
    d.P = 40;
    d.tied = d.both;            /* or there is a head that a judge leaves      */
    d.init_std = 0.1;
    OK(cx, at_decoder_check(cx, &d));
    at_params_init(&ps, cx, &cx->plan);
    ps.need_grads = false;
    OK(cx, at_model_declare(cx, &d, &ps));
    OK(cx, at_params_seal(&ps));
    at_params_draw(&ps, 11);
    OK(cx, at_model_write(cx, in_dir(to), &d, tok, &ps, AT_H5_F32, NULL));
    at_params_finish(&ps);
}

static int make_world(void **state)
{
    static const char bert[] = TOKENIZER "bert.json";
    static const char bytes[] = TOKENIZER "hf-digits.json";
    struct at_ctx cx;
    (void)state;
    assert_non_null(mkdtemp(dir));
    at_ctx_init(&cx);
    OK(&cx, at_threads_start(&cx, 2));
    write_texts("train.jsonl", 400, 0);
    write_texts("dev.jsonl", 100, 1);
    make_data(&cx, "train.jsonl", "train.h5", bert, "label", 40);
    make_data(&cx, "dev.jsonl", "dev.h5", bert, "label", 40);
    make_data(&cx, "dev.jsonl", "stars.h5", bert, "stars", 40);
    make_data(&cx, "train.jsonl", "warmth.h5", bert, NULL, 40);
    make_data(&cx, "train.jsonl", "bytes.h5", bytes, "label", 40);
    make_model(&cx, "bert.h5", "bert", bert);
    make_model(&cx, "llama.h5", "llama", bytes);
    at_ctx_finish(&cx);
    return 0;
}

static int drop_world(void **state)
{
    char line[600];
    (void)state;
    snprintf(line, sizeof line, "rm -rf %s", dir);
    return system(line);
}

/* ---- runs ------------------------------------------------------------------------- */

/* A recipe with keys of its own, "key=value" a line; what the run comes to.    */
static int train(struct at_ctx *cx, const char *run, const char *recipe,
                 const char *more)
{
    const char *over[8];
    struct at_text t = { 0 };
    struct at_recipe *r;
    size_t n = 0;
    int rc;
    at_text_addf(&t, "run: %s\neval: {every: 60}\nbatch: {rows: 8, length: 40}\n"
                 "seed: 5\nthreads: 2\noptim: {lr: 3e-3}\ntrain: {steps: 120}\n",
                 in_dir(run));
    at_text_add(&t, recipe, strlen(recipe));
    OK(cx, at_text_ok(cx, &t));
    for (const char *s = more; *s; n++) {
        over[n] = at_strndup(cx, &cx->run, s, strcspn(s, "\n"));
        s += strcspn(s, "\n");
        s += *s == '\n';
    }
    rc = at_recipe_parse(cx, &cx->run, "test", t.s, t.n, over, n, &r);
    at_text_finish(&t);
    return rc < 0 ? rc : at_run_train(cx, r, true, NULL, NULL);
}

static const char *keys(struct at_ctx *cx, const char *model, const char *data,
                        const char *validation, const char *objective)
{
    return at_sprintf(cx, &cx->run, "model: {path: %s}\ndata: {path: %s%s%s}\n"
                      "objective: %s\n", in_dir(model), in_dir(data),
                      *validation ? ", validation: " : "",
                      *validation ? in_dir(validation) : "", objective);
}

struct score { double accuracy, f1, loss; };

static struct score measure(struct at_ctx *cx, const char *model,
                            const char *data)
{
    struct at_eval_sum sum = { 0 };
    struct score s = { 0 };
    struct at_infer *in;
    OK(cx, at_infer_open(cx, in_dir(model), "cpu", 2, 0, 0, 8, 40, &in));
    OK(cx, at_infer_data(cx, in, in_dir(data), true, false, &sum));
    s.loss = sum.ce / (double)sum.n;
    if (sum.o.table) {
        s.accuracy = sum.o.right / sum.o.pairs;
        s.f1 = at_f1(sum.o.table, in->m->d.value);
    }
    at_infer_close(in);
    return s;
}

/* ---- datasets --------------------------------------------------------------------- */

static void labels_are_kept_by_name(void **state)
{
    struct at_data *d;
    struct at_ctx cx;
    int32_t ids[64];
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_data_open(&cx, &cx.run, in_dir("dev.h5"), &d));
    assert_int_equal(d->n_labels, 2);
    assert_int_equal(d->n_scores, 0);
    assert_string_equal(d->label_name[1 - (strcmp(d->label_name[0], "no") == 0
                                           ? 0 : 1)], "yes");
    for (uint64_t i = 0; i < d->n_docs; i++) {
        size_t n = (size_t)(d->offset[i + 1] - d->offset[i]);
        OK(&cx, at_data_read(&cx, d, d->offset[i], n, ids, NULL));
        assert_int_equal(ids[0], at_tok_bos(d->tok));
        assert_int_equal(ids[n - 1], at_tok_eos(d->tok));
    }
    at_data_close(d);
    make_data(&cx, "dev.jsonl", "short.h5", TOKENIZER "bert.json", "label", 5);
    OK(&cx, at_data_open(&cx, &cx.run, in_dir("short.h5"), &d));
    assert_int_equal(d->n_docs, 100);
    assert_int_equal(d->longest, 5);
    for (uint64_t i = 0; i < d->n_docs; i++) {
        OK(&cx, at_data_read(&cx, d, d->offset[i + 1] - 1, 1, ids, NULL));
        assert_int_equal(ids[0], at_tok_eos(d->tok));
    }
    at_data_close(d);
    at_ctx_finish(&cx);
}

static void bad_labels_are_refused(void **state)
{
    static const struct { const char *line, *says; } bad[] = {
        { "{\"text\": \"a b\"}", "the label 'label' is missing" },
        { "{\"text\": \"a b\", \"label\": [1]}", "is no short text" },
        { "{\"text\": \"a b\", \"label\": \"x\"}", "all documents have" },
        { "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\", "
          "\"label\": 1}", "preferences have no labels" },
    };
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        const char *in = in_dir("bad.jsonl");
        struct at_data_options o = { .inputs = &in, .n_inputs = 1,
                                     .out = in_dir("bad.h5"), .label = "label",
                                     .max_length = 40, .n_threads = 1 };
        struct at_data_stats stats;
        struct at_tok *tok;
        OK(&cx, at_tok_load_hf(&cx, &cx.run, TOKENIZER "bert.json", NULL,
                               &tok));
        o.tok = tok;
        OK(&cx, at_write_file(&cx, in, bad[i].line, strlen(bad[i].line)));
        said(&cx, at_data_build(&cx, &o, NULL, NULL, &stats), bad[i].says);
        assert_int_not_equal(access(o.out, F_OK), 0);
    }
    at_ctx_finish(&cx);
}

/* A label that only bad samples have is no class; it tells samples apart.     */
static void bad_samples_bring_no_labels(void **state)
{
    static const char text[] = "{\"text\": \"a b\", \"label\": \"x\"}\n"
        "{\"label\": \"never\"}\n{\"text\": \"b\", \"label\": \"y\"}\n"
        "{\"text\": \"b\", \"label\": \"x\"}\n{\"text\": \"b\", \"label\": \"y\"}\n";
    const char *in = in_dir("some.jsonl");
    struct at_data_options o = { .inputs = &in, .n_inputs = 1, .skip_bad = true,
                                 .dedup = true, .out = in_dir("some.h5"), .label = "label",
                                 .max_length = 40, .n_threads = 1 };
    struct at_data_stats stats;
    struct at_data *d;
    struct at_tok *tok;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_tok_load_hf(&cx, &cx.run, TOKENIZER "bert.json", NULL, &tok));
    o.tok = tok;
    OK(&cx, at_write_file(&cx, in, text, strlen(text)));
    OK(&cx, at_data_build(&cx, &o, NULL, NULL, &stats));
    assert_int_equal(stats.bad, 1);
    assert_int_equal(stats.duplicates, 1);      /* what differs by it stays   */
    OK(&cx, at_data_open(&cx, &cx.run, o.out, &d));
    assert_int_equal(d->n_labels, 2);
    at_data_close(d);
    at_ctx_finish(&cx);
}

/* F1 of three labels, one of which is never met: by hand.                     */
static void f1_is_that_of_the_labels_met(void **state)
{
    static const double three[] = { 3, 1, 0, 1, 2, 0, 0, 0, 0 };
    static const double two[] = { 5, 2, 1, 2 };
    (void)state;
    assert_true(fabs(at_f1(three, 3) - (6.0 / 8 + 4.0 / 6) / 2) < 1e-12);
    assert_true(fabs(at_f1(two, 2) - 4.0 / 7) < 1e-12);
    assert_true(at_f1((double[4]){ 0 }, 2) == 0);
}

/* ---- training ---------------------------------------------------------------------- */

static void classifiers_learn(void **state)
{
    static const struct { const char *run, *model, *data, *validation, *more; }
    kind[] = {
        { "whole", "bert.h5", "train.h5", "dev.h5", "" },
        { "lora", "bert.h5", "train.h5", "dev.h5",
          "lora.rank=8\nlora.alpha=32\noptim.lr=1e-2" },
        { "decoder", "llama.h5", "bytes.h5", "bytes.h5", "" },
    };
    struct at_ctx cx;
    (void)state;
    for (size_t i = 0; i < AT_COUNT(kind); i++) {
        const char *dev = kind[i].validation;
        struct score s;
        at_ctx_init(&cx);
        OK(&cx, train(&cx, kind[i].run, keys(&cx, kind[i].model, kind[i].data,
                                             dev, "classify"), kind[i].more));
        s = measure(&cx, kind[i].run, dev);
        print_message("%s: accuracy %.3f, F1 %.3f, loss %.4f\n", kind[i].run,
                      s.accuracy, s.f1, s.loss);
        assert_true(s.accuracy > 0.95 && s.f1 > 0.95 && s.loss < 0.2);
        at_ctx_finish(&cx);
    }
}

/* Labels that are numbers, of a model whose labels have names; and what was
 * measured in training with a validation file of its own.                    */
static void labels_of_other_files_are_matched(void **state)
{
    struct at_metrics_row *row;
    struct score a, b;
    struct at_ctx cx;
    size_t n;
    bool torn;
    (void)state;
    at_ctx_init(&cx);
    a = measure(&cx, "whole", "dev.h5");
    b = measure(&cx, "whole", "stars.h5");
    assert_true(a.loss == b.loss && a.accuracy == b.accuracy);
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("whole"), &row, &n, &torn));
    while (n > 0 && !row[n - 1].eval)
        n--;
    assert_true(n > 0 && fabs(row[n - 1].loss - a.loss) < 1e-6);
    said(&cx, train(&cx, "other", keys(&cx, "whole", "warmth.h5", "",
                                       "classify"), ""), "has no labels");
    at_ctx_finish(&cx);
}

static void numbers_are_learnt(void **state)
{
    struct at_ctx cx;
    struct score s;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, train(&cx, "warm", keys(&cx, "bert.h5", "warmth.h5", "warmth.h5",
                                    "regression"), ""));
    s = measure(&cx, "warm", "warmth.h5");
    print_message("squared error %.4f\n", s.loss);
    assert_true(s.loss < 0.1);          /* of scores whose variance is 1       */
    at_ctx_finish(&cx);
}

static void what_goes_together_is_checked(void **state)
{
    static const struct { const char *model, *data, *objective, *more, *says; }
    bad[] = {
        { "bert.h5", "train.h5", "lm", "", "predicts none" },
        { "bert.h5", "train.h5", "classify", "router.layers=1",
          "routers are for decoders" },
        { "bert.h5", "train.h5", "classify", "lora.rank=2\n"
          "context_sparse.rank=2\ncontext_sparse.mlp=0-1:0.5", "is for decoders" },
        { "bert.h5", "train.h5", "classify", "eval.samples=[a]",
          "writes none" },
        { "bert.h5", "train.h5", "classify", "data.stream=true",
          "data.stream" },
        { "bert.h5", "train.h5", "classify", "batch.length=5",
          "must see all of it" },
        { "whole", "warmth.h5", "regression", "", "tells 2 labels apart" },
        { "warm", "train.h5", "classify", "", "that are no labels" },
    };
    struct at_ctx cx;
    (void)state;
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        at_ctx_init(&cx);
        said(&cx, train(&cx, "no", keys(&cx, bad[i].model, bad[i].data,
                                        bad[i].data,
                                        bad[i].objective), bad[i].more),
             bad[i].says);
        assert_int_not_equal(access(in_dir("no/checkpoints/latest"), F_OK), 0);
        at_ctx_finish(&cx);
    }
}

/* ---- judging ------------------------------------------------------------------------ */

static const struct at_said texts[] = {
    { "the clock ", "was fine", 10, 8 }, { "", "a very cold house", 0, 17 },
    { "", "so", 0, 2 }, { "the house was ", "kind and warm", 14, 13 },
};

static void a_label_is_a_value(void **state)
{
    enum { N = AT_COUNT(texts), KINDS = 4 };
    const char *spec[KINDS];
    double all[N * KINDS], one[KINDS];
    struct at_values v;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_threads_start(&cx, 2));
    spec[0] = at_sprintf(&cx, &cx.run, "yes=logit:yes@%s", in_dir("whole"));
    spec[1] = at_sprintf(&cx, &cx.run, "no=-logit:no@%s", in_dir("whole"));
    spec[2] = at_sprintf(&cx, &cx.run, "p=probability:yes@%s", in_dir("whole"));
    spec[3] = at_sprintf(&cx, &cx.run, "warm=reward:%s", in_dir("warm"));
    OK(&cx, at_values_open(&cx, &cx.run, spec, KINDS, &v));
    OK(&cx, at_values_score(&cx, &v, texts, N, all));
    for (size_t i = 0; i < N; i++) {
        const double *x = all + i * KINDS;
        assert_true(fabs(x[2] - 1 / (1 + exp(-x[0] - x[1]))) < 1e-6);
        /* alone as in company: texts do not see each other                    */
        OK(&cx, at_values_score(&cx, &v, &texts[i], 1, one));
        for (size_t k = 0; k < KINDS; k++)
            assert_true(fabs(one[k] - x[k]) < 1e-5 * (1 + fabs(x[k])));
    }
    assert_true(all[2] > 0.9 && all[KINDS + 2] < 0.1);
    assert_true(all[3] > 1 && all[KINDS + 3] < 0.2);
    at_values_close(&v);
    spec[0] = at_sprintf(&cx, &cx.run, "coherence:%s", in_dir("bert.h5"));
    OK(&cx, at_values_open(&cx, &cx.run, spec, 1, &v));
    OK(&cx, at_values_score(&cx, &v, texts, 1, one));
    assert_true(one[0] > -1 && one[0] < 1);
    at_values_close(&v);
    spec[0] = at_sprintf(&cx, &cx.run, "logit:maybe@%s", in_dir("whole"));
    said(&cx, at_values_open(&cx, &cx.run, spec, 1, &v),
         "has no label 'maybe'; it has no, yes");
    spec[0] = at_sprintf(&cx, &cx.run, "reward:%s", in_dir("whole"));
    said(&cx, at_values_open(&cx, &cx.run, spec, 1, &v),
         "say which one is the value, logit:no@");
    spec[0] = at_sprintf(&cx, &cx.run, "logit:%s", in_dir("whole"));
    said(&cx, at_values_open(&cx, &cx.run, spec, 1, &v), "say LABEL@MODEL");
    spec[0] = at_sprintf(&cx, &cx.run, "perplexity:%s", in_dir("whole"));
    said(&cx, at_values_open(&cx, &cx.run, spec, 1, &v), "writes none");
    spec[0] = at_sprintf(&cx, &cx.run, "logit:yes@%s", in_dir("bert.h5"));
    said(&cx, at_values_open(&cx, &cx.run, spec, 1, &v), "predicts none");
    at_ctx_finish(&cx);
}

/* Out and in again: the same labels and numbers, whole or merged.             */
static void folders_keep_the_verdict(void **state)
{
    static const char *const runs[] = { "whole", "lora", "decoder", "warm" };
    struct at_hf_out merge = { .merge = true };
    struct at_certificate out;
    struct at_ctx cx;
    (void)state;
    for (size_t i = 0; i < AT_COUNT(runs); i++) {
        const char *to, *back;
        struct at_infer *a, *b;
        double x[AT_COUNT(texts) * 2], y[AT_COUNT(texts) * 2];
        at_ctx_init(&cx);
        OK(&cx, at_threads_start(&cx, 2));
        to = at_sprintf(&cx, &cx.run, "%s-out", in_dir(runs[i]));
        back = at_sprintf(&cx, &cx.run, "%s-back.h5", in_dir(runs[i]));
        OK(&cx, at_hf_export(&cx, in_dir(runs[i]), to, &merge, &out));
        at_arena_reset(&cx.plan);
        OK(&cx, at_hf_import(&cx, to, back, true));
        at_arena_reset(&cx.plan);
        OK(&cx, at_judge_open(&cx, in_dir(runs[i]), &a));
        OK(&cx, at_infer_open(&cx, back, "cpu", 2, 0, 0, 8, 40, &b));
        b->m->tok = a->m->tok;          /* imported without                    */
        b->coder = a->coder;
        assert_int_equal(a->m->d.value, b->m->d.value);
        for (size_t k = 0; i < 3 && k < 2; k++)
            assert_string_equal(at_judge_label(a, k), at_judge_label(b, k));
        OK(&cx, at_judge_numbers(&cx, a, texts, AT_COUNT(texts), x));
        OK(&cx, at_judge_numbers(&cx, b, texts, AT_COUNT(texts), y));
        for (size_t k = 0; k < AT_COUNT(texts) * a->m->d.value; k++)
            assert_true(fabs(x[k] - y[k]) < 1e-5 * (1 + fabs(x[k])));
        b->coder = NULL;
        at_infer_close(a);
        at_infer_close(b);
        at_ctx_finish(&cx);
    }
}

/* An adapter in PEFT's files: its head is kept whole, and comes back.          */
static void adapters_bring_their_head(void **state)
{
    struct at_certificate said;
    struct at_ctx cx;
    const char *to, *back;
    struct at_infer *a, *b;
    double x[AT_COUNT(texts) * 2], y[AT_COUNT(texts) * 2];
    json_t *c;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_threads_start(&cx, 2));
    to = at_sprintf(&cx, &cx.run, "%s-peft", in_dir("lora"));
    back = in_dir("lora-back.h5");
    OK(&cx, at_hf_export_peft(&cx, in_dir("lora"), to, NULL, &said));
    OK(&cx, at_json_read(&cx, at_sprintf(&cx, &cx.run, "%s/adapter_config.json",
                                         to), 1 << 20, &c));
    assert_string_equal(json_string_value(json_object_get(c, "task_type")),
                        "SEQ_CLS");
    assert_int_equal(json_array_size(json_object_get(c, "modules_to_save")), 2);
    json_decref(c);
    at_arena_reset(&cx.plan);
    OK(&cx, at_hf_import_peft(&cx, to, in_dir("bert.h5"), back));
    at_arena_reset(&cx.plan);
    OK(&cx, at_judge_open(&cx, in_dir("lora"), &a));
    OK(&cx, at_judge_open(&cx, back, &b));
    assert_string_equal(at_judge_label(b, 1), "LABEL_1");
    OK(&cx, at_judge_numbers(&cx, a, texts, AT_COUNT(texts), x));
    OK(&cx, at_judge_numbers(&cx, b, texts, AT_COUNT(texts), y));
    for (size_t k = 0; k < AT_COUNT(x); k++)
        assert_true(x[k] == y[k]);
    at_infer_close(a);
    at_infer_close(b);
    at_ctx_finish(&cx);
}

static const char *program;

/* What the program prints, a line a text.                                     */
static void the_program_says_so(void **state)
{
    static const struct { const char *more, *line[2]; } want[] = {
        { "", { "yes\t0.9", "no\t0.9" } },
        { "--json", { "{\"label\": \"yes\", \"probabilities\": {\"no\": ",
                      "{\"label\": \"no\", \"probabilities\": {\"no\": 0.9" } },
    };
    char command[2048], line[512];
    FILE *f = fopen(in_dir("lines.jsonl"), "w");
    (void)state;
    fprintf(f, "{\"words\": \"the clock was fine\"}\n"
            "{\"words\": \"a very cold house\"}\n");
    fclose(f);
    for (size_t i = 0; i < AT_COUNT(want); i++) {
        snprintf(command, sizeof command, "%s classify --model %s --key words "
                 "%s %s", program, in_dir("whole"), want[i].more,
                 in_dir("lines.jsonl"));
        f = popen(command, "r");
        for (size_t k = 0; k < 2; k++) {
            assert_non_null(fgets(line, sizeof line, f));
            assert_memory_equal(line, want[i].line[k],
                                strlen(want[i].line[k]));
        }
        assert_null(fgets(line, sizeof line, f));
        assert_int_equal(pclose(f), 0);
    }
    snprintf(command, sizeof command, "%s classify --model %s %s 2> %s",
             program, in_dir("whole"), in_dir("lines.jsonl"), in_dir("said"));
    assert_int_not_equal(system(command), 0);
    f = fopen(in_dir("said"), "r");
    assert_non_null(fgets(line, sizeof line, f));
    assert_non_null(strstr(line, "lines.jsonl:1: has no text 'text'"));
    fclose(f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_are_kept_by_name),
        cmocka_unit_test(bad_labels_are_refused),
        cmocka_unit_test(bad_samples_bring_no_labels),
        cmocka_unit_test(f1_is_that_of_the_labels_met),
        cmocka_unit_test(classifiers_learn),
        cmocka_unit_test(labels_of_other_files_are_matched),
        cmocka_unit_test(numbers_are_learnt),
        cmocka_unit_test(what_goes_together_is_checked),
        cmocka_unit_test(a_label_is_a_value),
        cmocka_unit_test(folders_keep_the_verdict),
        cmocka_unit_test(adapters_bring_their_head),
        cmocka_unit_test(the_program_says_so),
    };
    if (argc != 2)
        return 1;
    program = argv[1];
    return cmocka_run_group_tests_name("judge", tests, make_world, drop_world);
}
