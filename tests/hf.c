/* Folders of Hugging Face: every family's logits and gradients against those of
 * transformers (golden/hf.py), cached decoding, and what is refused.         */
#include "tests/test.h"

#include "train/hf.h"
#include "train/infer.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {
    "llama3", "llama-tied", "mistral", "qwen2", "qwen3", "phi3", "olmo2",
    "gemma3", "neox", "neox-serial", "gpt2", "opt",
};
static const char *const backends[] = { "ref", "cpu" };

enum { B = 2, T = 14, N = B * T };

struct bed {
    struct at_ctx cx;
    char dir[64];
    const char *h5;
    struct at_model *m;
    struct at_params ps;
    const struct at_kernels *k;
    const struct at_hf_family *family;
    struct at_st *gold;
};

static const char *folder(struct at_ctx *cx, const char *name)
{
    return at_sprintf(cx, &cx->run, "%s/golden/hf/%s", AT_TESTS, name);
}

static void open_bed(struct bed *b, const char *name, const char *backend)
{
    *b = (struct bed){ 0 };
    at_ctx_init(&b->cx);
    OK(&b->cx, at_threads_start(&b->cx, 2));
    OK(&b->cx, at_kernels_find(&b->cx, backend, &b->k));
    strcpy(b->dir, "/tmp/attune-hf-XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    b->h5 = at_sprintf(&b->cx, &b->cx.run, "%s/m.h5", b->dir);
    OK(&b->cx, at_hf_import(&b->cx, folder(&b->cx, name), b->h5, true));
    at_arena_reset(&b->cx.plan);
    OK(&b->cx, at_model_open(&b->cx, &b->cx.run, b->h5, &b->m));
    OK(&b->cx, at_hf_family(&b->cx, &b->m->d, &b->family));
    OK(&b->cx, at_st_open(&b->cx, &b->cx.run, folder(&b->cx, name), "golden",
                          &b->gold));
    at_params_init(&b->ps, &b->cx, &b->cx.run);
    b->ps.need_grads = true;
}

static void close_bed(struct bed *b)
{
    at_st_close(b->gold);
    at_model_close(b->m);
    at_params_finish(&b->ps);
    unlink(b->h5);
    assert_int_equal(rmdir(b->dir), 0);
    at_ctx_finish(&b->cx);
}

static float *golden(struct bed *b, const char *name, size_t n)
{
    const struct at_st_tensor *t = at_st_find(b->gold, name);
    float *x = at_alloc_n(&b->cx, &b->cx.run, n, sizeof *x);
    if (!t)
        fail_msg("the fixture has no %s", name);
    assert_int_equal(t->n, n);
    OK(&b->cx, at_st_get(&b->cx, b->gold, t, 0, n, x));
    return x;
}

static double worst(const float *got, const float *want, size_t n, double *size)
{
    double most = 0;
    *size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= most))
            most = d;
        if (fabs((double)want[i]) > *size)
            *size = fabs((double)want[i]);
    }
    return most;
}

/* ---- logits and gradients --------------------------------------------------- */

struct whole {
    struct at_plan *plan;
    struct at_val *ids, *pos, *first, *target, *weight, *logits;
};

static void build(struct bed *b, struct whole *w)
{
    const struct at_decoder *d = &b->m->d;
    struct at_decoder_options o = { 0 };
    struct at_tokens in = { .B = B };
    struct at_val *hidden, *head, *roots[2];
    struct at_shape n = at_shape1(N);
    struct at_graph *g;
    OK(&b->cx, at_decoder_rope(&b->cx, &b->cx.run, d, &o.rope));
    OK(&b->cx, at_graph_create(&b->cx, &b->cx.plan, &b->ps, b->k, &g));
    in.ids = w->ids = at_input(g, "ids", AT_I32, n);
    in.pos = w->pos = at_input(g, "pos", AT_I32, n);
    in.first = w->first = at_input(g, "first", AT_I32, n);
    w->target = at_input(g, "target", AT_I32, n);
    w->weight = at_input(g, "weight", AT_REAL, n);
    hidden = at_decoder_hidden(g, d, &in, &o);
    head = at_decoder_head(g, d);
    w->logits = roots[0] = at_linear(g, hidden, head, NULL, 1);
    roots[1] = at_linear_xent(g, hidden, head, w->target, w->weight, NULL);
    OK(&b->cx, at_grad(g, roots[1], NULL));
    OK(&b->cx, at_plan_create(g, roots, 2, &w->plan));
    OK(&b->cx, at_plan_bind(&b->cx, w->plan));
    OK(&b->cx, at_params_seal(&b->ps));
    OK(&b->cx, at_model_read(&b->cx, b->m, &b->ps, true));
}

static void fill(struct bed *b, struct whole *w)
{
    float *ids = golden(b, "ids", N), *target = golden(b, "target", N);
    size_t n = 0;
    for (size_t i = 0; i < N; i++) {
        ((int32_t *)w->ids->data)[i] = (int32_t)ids[i];
        ((int32_t *)w->pos->data)[i] = (int32_t)(i % T);
        ((int32_t *)w->first->data)[i] = (int32_t)(i / T * T);
        ((int32_t *)w->target->data)[i] = (int32_t)target[i];
        n += target[i] >= 0;
    }
    for (size_t i = 0; i < N; i++)
        ((float *)w->weight->data)[i] = 1.0f / (float)n;
}

/* The param's gradient against its rows of their tensor.                     */
static void check_gradient(struct bed *b, const struct at_param *param)
{
    const struct at_shape *s = &param->val.shape;
    size_t n = at_shape_count(s), out = s->d[0], in = n / out;
    const float *got = param->grad.data, *theirs;
    float *want = at_alloc_n(&b->cx, &b->cx.run, n, sizeof *want);
    struct at_hf_place p;
    char name[AT_ST_NAME + 8];
    /* Without rotation a key's bias cancels out: its gradient is 0.          */
    double least = strstr(param->val.name, "k_proj.bias") ? 1e-7 : 1e-9;
    double off, size;
    assert_true(at_hf_place(b->family, &b->m->d, param->val.name, s, &p));
    snprintf(name, sizeof name, "grad/%s", p.name);
    theirs = golden(b, name, p.rows * p.cols);
    for (size_t r = 0; r < out; r++)
        for (size_t c = 0; c < in; c++)
            want[r * in + c] = theirs[p.turned ? c * p.rows + r
                                               : at_hf_row(&p, r) * in + c];
    off = worst(got, want, n, &size);
    if (!(off <= 1e-4 * size + least))
        fail_msg("gradient of %s off by %g of %g", param->val.name, off, size);
}

static void check_family(const char *name, const char *backend)
{
    struct bed b;
    struct whole w;
    struct at_run r = { 0 };
    size_t V;
    double off, size;
    open_bed(&b, name, backend);
    V = b.m->d.V;
    build(&b, &w);
    assert_true((double)b.ps.n_total == at_decoder_params(&b.m->d));
    fill(&b, &w);
    r.k = b.k;
    at_plan_run(w.plan, &r);
    off = worst(w.logits->data, golden(&b, "logits", N * V), N * V, &size);
    print_message("%s on %s: logits off by %.1e of %.1f\n", name, backend, off,
                  size);
    assert_true(off <= 1e-5 * (1 + size));
    for (size_t i = 0; i < b.ps.n; i++)
        check_gradient(&b, b.ps.p[i]);
    at_plan_destroy(w.plan);
    close_bed(&b);
}

/* ---- models that judge ------------------------------------------------------ */

static const char *const judges[] = {
    "bert", "distilbert", "roberta", "xlm-roberta", "llama-judge", "qwen2-judge",
    "gpt2-judge",
};

enum { TEXTS = 3 };
static const size_t begins[TEXTS + 1] = { 0, 14, 23, 28 };

struct verdict {
    struct at_plan *plan;
    struct at_val *ids, *pos, *first, *type, *value, *seed;
};

static void build_judge(struct bed *b, struct verdict *w)
{
    const struct at_decoder *d = &b->m->d;
    struct at_decoder_options o = { 0 };
    struct at_tokens in = { .B = B };
    struct at_shape n = at_shape1(N);
    struct at_graph *g;
    OK(&b->cx, at_decoder_rope(&b->cx, &b->cx.run, d, &o.rope));
    OK(&b->cx, at_graph_create(&b->cx, &b->cx.plan, &b->ps, b->k, &g));
    in.ids = w->ids = at_input(g, "ids", AT_I32, n);
    in.pos = w->pos = at_input(g, "pos", AT_I32, n);
    in.first = w->first = at_input(g, "first", AT_I32, n);
    in.type = w->type = at_input(g, "type", AT_I32, n);
    w->value = at_decoder_value(g, d, at_decoder_hidden(g, d, &in, &o));
    w->seed = at_input(g, "derivative", AT_REAL, w->value->shape);
    OK(&b->cx, at_grad(g, w->value, w->seed));
    OK(&b->cx, at_plan_create(g, &w->value, 1, &w->plan));
    OK(&b->cx, at_plan_bind(&b->cx, w->plan));
    OK(&b->cx, at_params_seal(&b->ps));
    OK(&b->cx, at_model_read(&b->cx, b->m, &b->ps, true));
    for (size_t i = 0, text = 0; i < N; i++) {
        text += i == begins[text + 1];
        ((int32_t *)w->ids->data)[i] = (int32_t)golden(b, "ids", N)[i];
        ((int32_t *)w->pos->data)[i] = (int32_t)(i - begins[text]);
        ((int32_t *)w->first->data)[i] = (int32_t)begins[text];
        if (d->types)
            ((int32_t *)w->type->data)[i] = (int32_t)golden(b, "type", N)[i];
    }
}

static size_t judged_at(const struct bed *b, size_t text)
{
    return b->m->d.value_first ? begins[text] : begins[text + 1] - 1;
}

/* The loss of transformers by our objective, its derivative into the plan.    */
static void judge(struct bed *b, struct verdict *w, const double *x)
{
    size_t n = b->m->d.value;
    double dvalue[TEXTS * 8], label[TEXTS];
    struct at_objective_settings how = { 0 };
    struct at_objective_sum sum = { 0 };
    struct at_seqs s = { .n = TEXTS, .group = 1, .width = n, .value = x,
                         .score = label, .n_all = TEXTS, .dvalue = dvalue };
    for (size_t i = 0; i < TEXTS; i++)
        label[i] = (double)golden(b, "label", TEXTS)[i];
    at_objective_find(n > 1 ? "classify" : "regression")->run(&s, &how, &sum);
    assert_true(fabs(sum.loss - (double)*golden(b, "loss", 1)) < 1e-5);
    memset(w->seed->data, 0, N * n * sizeof(float));
    for (size_t i = 0; i < TEXTS * n; i++)
        ((float *)w->seed->data)[judged_at(b, i / n) * n + i % n] =
            (float)dvalue[i];
}

static void check_judge(const char *name, const char *backend)
{
    struct bed b;
    struct verdict w;
    struct at_run r = { 0 };
    float got[TEXTS * 8];
    double off, size, x[TEXTS * 8];
    size_t n;
    open_bed(&b, name, backend);
    n = b.m->d.value;
    build_judge(&b, &w);
    assert_true((double)b.ps.n_total == at_decoder_params(&b.m->d));
    r.k = b.k;
    at_plan_run_forward(w.plan, &r);
    for (size_t i = 0; i < TEXTS * n; i++) {
        got[i] = ((float *)w.value->data)[judged_at(&b, i / n) * n + i % n];
        x[i] = (double)got[i];
    }
    off = worst(got, golden(&b, "logits", TEXTS * n), TEXTS * n, &size);
    print_message("%s on %s: values off by %.1e of %.1f\n", name, backend, off,
                  size);
    assert_true(off <= 1e-5 * (1 + size));
    judge(&b, &w, x);
    at_plan_run_backward(w.plan, &r);
    for (size_t i = 0; i < b.ps.n; i++)
        check_gradient(&b, b.ps.p[i]);
    at_plan_destroy(w.plan);
    close_bed(&b);
}

static void judges_are_those_of_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < AT_COUNT(judges); i++)
        for (size_t k = 0; k < AT_COUNT(backends); k++)
            check_judge(judges[i], backends[k]);
}

static void families_are_those_of_transformers(void **state)
{
    (void)state;
    for (size_t i = 0; i < AT_COUNT(names); i++)
        for (size_t k = 0; k < AT_COUNT(backends); k++)
            check_family(names[i], backends[k]);
}

/* ---- decoding ----------------------------------------------------------------- */

struct drawn { int32_t id[T]; double logp[T]; size_t n; };

static bool on_token(void *self, size_t row, int32_t id, double logp)
{
    struct drawn *d = self;
    assert_int_equal(row, 0);
    d->id[d->n] = id;
    d->logp[d->n++] = logp;
    return d->n < T;
}

/* Over the cache, the golden text gives the golden logits.                   */
static void check_cached(struct bed *b, struct at_generator *g)
{
    size_t V = b->m->d.V;
    float *ids = golden(b, "ids", N), *want = golden(b, "logits", N * V);
    int32_t text[T];
    for (size_t i = 0; i < T; i++) {
        const at_real *logits;
        double size;
        text[i] = (int32_t)ids[i];
        OK(&b->cx, at_generator_logits(g, text, i + 1, &logits));
        assert_true(worst(logits, want + i * V, V, &size) <=
                    1e-5 * (1 + size));
    }
}

/* Token by token with the cache, longer than any window: each likelihood is
 * that of the whole text read at once.                                       */
static void check_decoding(const char *name, const char *backend)
{
    struct at_sampling greedy = { .temperature = 0, .top_p = 1 };
    struct drawn d = { .n = 0 };
    struct at_generator *g;
    int32_t text[4 + T] = { 5, 11, 3, 40 };
    struct at_prompt prompt = { text, 4, 0 };
    struct bed b;
    size_t V;
    open_bed(&b, name, backend);
    V = b.m->d.V;
    OK(&b.cx, at_generator_create(&b.cx, &b.cx.run, &b.m->d, &b.ps, b.k, NULL,
                                  NULL, 1, 4 + T, &g));
    OK(&b.cx, at_params_seal(&b.ps));
    OK(&b.cx, at_model_read(&b.cx, b.m, &b.ps, true));
    OK(&b.cx, at_generator_start(g));
    check_cached(&b, g);
    OK(&b.cx, at_generate(g, &prompt, 1, T, &greedy, on_token, &d));
    assert_int_equal(d.n, T);
    for (size_t i = 0; i < T; i++) {
        const at_real *logits;
        double sum = 0;
        OK(&b.cx, at_generator_logits(g, text, 4 + i, &logits));
        for (size_t v = 0; v < V; v++) {
            sum += exp((double)logits[v]);
            assert_true(logits[v] <= logits[d.id[i]] + 1e-5f);
        }
        if (!(fabs((double)logits[d.id[i]] - log(sum) - d.logp[i]) < 1e-5))
            fail_msg("%s: token %zu has log-probability %.7f, not %.7f", name,
                     i, d.logp[i], (double)logits[d.id[i]] - log(sum));
        text[4 + i] = d.id[i];
    }
    at_generator_destroy(g);
    close_bed(&b);
}

static void cached_decoding_reads_the_whole_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < AT_COUNT(names); i++)
        for (size_t k = 0; k < AT_COUNT(backends); k++)
            check_decoding(names[i], backends[k]);
}

/* ---- refused -------------------------------------------------------------------- */

static const char tiny[] = "\"vocab_size\": 4, \"hidden_size\": 2, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 1, "
    "\"intermediate_size\": 2, \"max_position_embeddings\": 8";

static void configs_are_refused_by_key(void **state)
{
    static const struct { const char *config, *says; } bad[] = {
        { "{\"model_type\": \"mamba\"}", "'mamba' is not known; known are llama"
          ", mistral, qwen2" },
        { "{}", "model_type '' is not known" },
        { "{\"model_type\": \"llama\"}", "vocab_size is missing" },
        { "{\"model_type\": \"llama\", \"vocab_size\": -1}",
          "vocab_size is not the number" },
        { "{\"model_type\": \"llama\", \"vocab_size\": 1.5}",
          "vocab_size is not the number" },
        { "{\"model_type\": \"llama\", \"vocab_size\": \"many\"}",
          "vocab_size is not the number" },
        { "{\"model_type\": \"llama\", TINY, \"hidden_act\": \"mish\"}",
          "hidden_act is 'mish'" },
        { "{\"model_type\": \"llama\", TINY, \"rope_scaling\": "
          "{\"type\": \"yarn\", \"factor\": 2}}", "'yarn'" },
        { "{\"model_type\": \"llama\", TINY, \"rope_scaling\": "
          "{\"rope_type\": \"linear\"}}", "factor of rotary scaling is 0" },
        { "{\"model_type\": \"llama\", TINY, \"rope_scaling\": "
          "{\"rope_type\": \"llama3\", \"factor\": 2}}", "llama3's rotary" },
        { "{\"model_type\": \"qwen2\", TINY, \"use_sliding_window\": true}",
          "use_sliding_window must be false" },
        { "{\"model_type\": \"gemma3_text\", TINY, "
          "\"final_logit_softcapping\": 30}", "softcapping must be null" },
        { "{\"model_type\": \"gemma3_text\", TINY, \"sliding_window\": 4, "
          "\"layer_types\": [\"linear_attention\"]}", "layer 0 is not" },
        { "{\"model_type\": \"opt\", \"do_layer_norm_before\": false}",
          "do_layer_norm_before must be true" },
        { "{\"model_type\": \"bert\", TINY, "
          "\"position_embedding_type\": \"relative_key\"}",
          "position_embedding_type must be \"absolute\"" },
        { "{\"model_type\": \"roberta\", TINY, \"pad_token_id\": 9}",
          "max_position_embeddings is 8; the first 10 are not used" },
        { "{\"model_type\": \"bert\", TINY, \"architectures\": "
          "[\"BertForSequenceClassification\"], \"id2label\": "
          "{\"1\": \"a\", \"0\": 7}}", "no name for 0 of 2" },
        { "{\"model_type\": \"gpt_neox\", TINY, \"rotary_pct\": 7}",
          "part of a head that turns is 7" },
    };
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        const char *c = bad[i].config, *at = strstr(c, "TINY");
        const struct at_hf_family *f;
        struct at_decoder d;
        json_t *config;
        if (at)
            c = at_sprintf(&cx, &cx.run, "%.*s%s%s", (int)(at - c), c, tiny,
                           at + 4);
        OK(&cx, at_json_parse(&cx, "config.json", c, strlen(c), &config));
        assert_int_equal(at_hf_read_config(&cx, "config.json", config, &f, &d),
                         AT_EINVAL);
        if (!strstr(cx.err.msg, bad[i].says))
            fail_msg("'%s' does not say '%s'", cx.err.msg, bad[i].says);
        json_decref(config);
    }
    at_ctx_finish(&cx);
}

/* The older spellings of the same facts.                                     */
static void older_configs_are_read(void **state)
{
    static const char text[] = "{\"model_type\": \"gpt_neox\", TINY, "
        "\"rotary_pct\": 0.5, \"rotary_emb_base\": 77, \"hidden_size\": 4, "
        "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 3}}";
    const char *at = strstr(text, "TINY"), *c;
    const struct at_hf_family *f;
    struct at_decoder d;
    struct at_ctx cx;
    json_t *config;
    (void)state;
    at_ctx_init(&cx);
    c = at_sprintf(&cx, &cx.run, "%.*s%s%s", (int)(at - text), text,
                   "\"vocab_size\": 4, \"num_hidden_layers\": 1, "
                   "\"num_attention_heads\": 1, \"intermediate_size\": 2, "
                   "\"max_position_embeddings\": 8", at + 4);
    OK(&cx, at_json_parse(&cx, "config.json", c, strlen(c), &config));
    OK(&cx, at_hf_read_config(&cx, "config.json", config, &f, &d));
    assert_int_equal(d.rotary, 2);
    assert_true(d.rope_theta == 77 && d.scale_factor == 3);
    assert_int_equal(d.scaling, AT_SCALING_LINEAR);
    assert_true(d.parallel && d.bias == AT_BIAS_ALL && !d.tied);
    json_decref(config);
    at_ctx_finish(&cx);
}

/* A folder whose tensors are another model's: all are named at once.         */
static void wrong_tensors_are_all_named(void **state)
{
    static const struct at_st_tensor t[] = {
        { .name = "model.embed_tokens.weight", .n_dims = 2, .d = { 4, 2 } },
        { .name = "model.norm.weight", .n_dims = 1, .d = { 3 } },
        { .name = "model.layers.0.self_attn.rotary_emb.inv_freq",
          .n_dims = 1, .d = { 1 } },
        { .name = "visual.patch", .n_dims = 1, .d = { 1 } },
    };
    struct at_st_writer *w;
    struct at_ctx cx;
    char dir[] = "/tmp/attune-hf-XXXXXX", st[64], config[64], out[64];
    const char *text;
    (void)state;
    at_ctx_init(&cx);
    assert_non_null(mkdtemp(dir));
    snprintf(st, sizeof st, "%s/model.safetensors", dir);
    snprintf(config, sizeof config, "%s/config.json", dir);
    snprintf(out, sizeof out, "%s/m.h5", dir);
    text = at_sprintf(&cx, &cx.run, "{\"model_type\": \"llama\", %s}", tiny);
    OK(&cx, at_write_file(&cx, config, text, strlen(text)));
    OK(&cx, at_st_create(&cx, &cx.run, st, AT_ST_F32, t, 4, &w));
    for (size_t i = 0; i < 13; i++)
        OK(&cx, at_st_put(&cx, w, &(float){ 1 }, 1));
    OK(&cx, at_st_commit(&cx, w));
    assert_int_equal(at_hf_import(&cx, dir, out, true), AT_EFORMAT);
    assert_non_null(strstr(cx.err.msg, "'model.norm.weight' must be [2], not "
                           "[3]"));
    assert_non_null(strstr(cx.err.msg, "'lm_head.weight' is missing; it must "
                           "be [4,2]"));
    assert_non_null(strstr(cx.err.msg, "'model.layers.0.self_attn.q_proj.weight"
                           "' is missing"));
    assert_non_null(strstr(cx.err.msg, "'visual.patch' has no place"));
    assert_null(strstr(cx.err.msg, "inv_freq"));
    assert_null(strstr(cx.err.msg, "'model.embed_tokens.weight'"));
    assert_int_not_equal(access(out, F_OK), 0);
    unlink(st);
    unlink(config);
    assert_int_equal(rmdir(dir), 0);
    at_ctx_finish(&cx);
}

/* ---- out again ------------------------------------------------------------------- */

struct nest { struct at_ctx cx; char dir[64]; };

static int make_nest(void **state)
{
    struct nest *t = calloc(1, sizeof *t);
    at_ctx_init(&t->cx);
    OK(&t->cx, at_threads_start(&t->cx, 2));
    strcpy(t->dir, "/tmp/attune-hf-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    *state = t;
    return 0;
}

static void sweep(const char *dir)
{
    struct dirent *e;
    DIR *d = opendir(dir);
    char path[512];
    while (d && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (unlink(path) < 0)
            sweep(path);
    }
    if (d)
        closedir(d);
    rmdir(dir);
}

static int drop_nest(void **state)
{
    struct nest *t = *state;
    sweep(t->dir);
    at_ctx_finish(&t->cx);
    free(t);
    return 0;
}

static const char *in(struct nest *t, const char *name)
{
    return at_sprintf(&t->cx, &t->cx.run, "%s/%s", t->dir, name);
}

/* How many names the nest holds. */
static size_t holds(const struct nest *t)
{
    DIR *d = opendir(t->dir);
    struct dirent *e;
    size_t n = 0;
    while (d && (e = readdir(d)))
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static float *values(struct nest *t, const struct at_st *st,
                     const struct at_st_tensor *x)
{
    float *v = at_alloc_n(&t->cx, &t->cx.run, x->n, sizeof *v);
    OK(&t->cx, at_st_get(&t->cx, st, x, 0, x->n, v));
    return v;
}

/* The same tensors with the same numbers, and the same type if `exact`.      */
static void same_tensors(struct nest *t, const char *a, const char *b,
                         const char *stem, bool exact)
{
    struct at_st *x, *y;
    OK(&t->cx, at_st_open(&t->cx, &t->cx.run, a, stem, &x));
    OK(&t->cx, at_st_open(&t->cx, &t->cx.run, b, stem, &y));
    assert_int_equal(at_st_count(x), at_st_count(y));
    for (size_t i = 0; i < at_st_count(x); i++) {
        const struct at_st_tensor *p = at_st_at(x, i);
        const struct at_st_tensor *q = at_st_find(y, p->name);
        if (!q)
            fail_msg("%s is not in %s", p->name, b);
        assert_true(!exact || p->type == q->type);
        assert_int_equal(p->n_dims, q->n_dims);
        assert_memory_equal(p->d, q->d, p->n_dims * sizeof *p->d);
        assert_memory_equal(values(t, x, p), values(t, y, q),
                            p->n * sizeof(float));
    }
    at_st_close(x);
    at_st_close(y);
}

static void same_file(struct nest *t, const char *a, const char *b,
                      const char *name)
{
    char *x, *y;
    size_t n, m;
    const char *p = at_sprintf(&t->cx, &t->cx.run, "%s/%s", a, name);
    const char *q = at_sprintf(&t->cx, &t->cx.run, "%s/%s", b, name);
    OK(&t->cx, at_read_file(&t->cx, &t->cx.run, p, 0, &x, &n));
    OK(&t->cx, at_read_file(&t->cx, &t->cx.run, q, 0, &y, &m));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
}

static const char *there_and_back(struct nest *t, const char *name)
{
    const char *from = folder(&t->cx, name);
    const char *h5 = in(t, "m.h5"), *to = in(t, name);
    const char *parts = at_sprintf(&t->cx, &t->cx.run, "%s-parts", to);
    struct at_certificate said;
    OK(&t->cx, at_hf_import(&t->cx, from, h5, true));
    OK(&t->cx, at_hf_export(&t->cx, h5, to, &(struct at_hf_out){ 0 }, &said));
    assert_true(said.positions == 0 || said.agree == 1);  /* 0: it judges      */
    same_tensors(t, from, to, "model", true);
    OK(&t->cx, at_hf_export(&t->cx, h5, parts, &(struct at_hf_out){
                            .dtype = "float32", .shard_bytes = 5000 }, &said));
    same_tensors(t, from, parts, "model", false);
    assert_int_not_equal(access(at_sprintf(&t->cx, &t->cx.run,
                         "%s/model.safetensors", parts), F_OK), 0);
    at_arena_reset(&t->cx.plan);
    return to;
}

static json_t *config_of(struct nest *t, const char *dir)
{
    json_t *c;
    OK(&t->cx, at_json_read(&t->cx, at_sprintf(&t->cx, &t->cx.run,
                            "%s/config.json", dir), 1 << 20, &c));
    return c;
}

static void what_comes_in_goes_out(void **state)
{
    struct nest *t = *state;
    for (size_t i = 0; i < AT_COUNT(names); i++)
        same_file(t, folder(&t->cx, names[i]), there_and_back(t, names[i]),
                  "generation_config.json");
    for (size_t i = 0; i < AT_COUNT(judges); i++) {
        const char *to = there_and_back(t, judges[i]);
        json_t *was = config_of(t, folder(&t->cx, judges[i]));
        json_t *is = config_of(t, to);
        const json_t *labels = json_object_get(was, "id2label");
        assert_true(json_equal(json_object_get(was, "architectures"),
                               json_object_get(is, "architectures")));
        assert_true(!labels ||
                    json_equal(labels, json_object_get(is, "id2label")));
        json_decref(was);
        json_decref(is);
    }
    assert_int_equal(holds(t), 1 + 2 * AT_COUNT(names) + 2 * AT_COUNT(judges));
}

/* BERT as it is first learnt: no labels, a head for masked words, and in its
 * oldest files other names for the norms.                                    */
static const char *make_base(struct nest *t)
{
    const char *dir = in(t, "base"), *name;
    json_t *c = config_of(t, folder(&t->cx, "bert"));
    struct at_st_tensor x[64];
    struct at_st_writer *w;
    struct at_st *st;
    size_t n = 0;
    OK(&t->cx, at_mkdir(&t->cx, dir));
    json_object_set_new(c, "architectures", json_pack("[s]",
                                                      "BertForMaskedLM"));
    json_object_del(c, "id2label");
    assert_int_equal(json_dump_file(c, in(t, "base/config.json"), 0), 0);
    json_decref(c);
    OK(&t->cx, at_st_open(&t->cx, &t->cx.run, folder(&t->cx, "bert"), "model",
                          &st));
    for (size_t i = 0; i < at_st_count(st); i++, n++) {
        x[n] = *at_st_at(st, i);
        name = strstr(x[n].name, "LayerNorm.");
        if (name)
            x[n].name = at_sprintf(&t->cx, &t->cx.run, "%.*sLayerNorm.%s",
                                   (int)(name - x[n].name), x[n].name,
                                   strstr(name, "weight") ? "gamma" : "beta");
        else if (strncmp(x[n].name, "classifier", 10) == 0)
            x[n].name = at_sprintf(&t->cx, &t->cx.run, "cls.%s", x[n].name);
    }
    OK(&t->cx, at_st_create(&t->cx, &t->cx.run, in(t, "base/model.safetensors"),
                            AT_ST_F32, x, n, &w));
    for (size_t i = 0; i < n; i++) {
        const struct at_st_tensor *from = at_st_at(st, i);
        float *v = at_alloc_n(&t->cx, &t->cx.run, from->n, sizeof *v);
        OK(&t->cx, at_st_get(&t->cx, st, from, 0, from->n, v));
        OK(&t->cx, at_st_put(&t->cx, w, v, from->n));
    }
    OK(&t->cx, at_st_commit(&t->cx, w));
    at_st_close(st);
    return dir;
}

static void an_encoder_comes_without_labels(void **state)
{
    struct nest *t = *state;
    const char *h5 = in(t, "m.h5"), *out = in(t, "out");
    struct at_certificate said;
    struct at_infer *m;
    struct at_st *was, *is;
    OK(&t->cx, at_hf_import(&t->cx, make_base(t), h5, true));
    OK(&t->cx, at_hf_export(&t->cx, h5, out, &(struct at_hf_out){ 0 }, &said));
    OK(&t->cx, at_st_open(&t->cx, &t->cx.run, folder(&t->cx, "bert"), "model",
                          &was));
    OK(&t->cx, at_st_open(&t->cx, &t->cx.run, out, "model", &is));
    assert_int_equal(at_st_count(is) + 2, at_st_count(was));
    assert_non_null(at_st_find(is, "bert.pooler.dense.weight"));
    assert_non_null(at_st_find(is, "bert.embeddings.LayerNorm.weight"));
    at_st_close(was);
    at_st_close(is);
    assert_int_equal(at_infer_open(&t->cx, h5, "ref", 0, 1, 8, 0, 0, &m),
                     AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "is an encoder"));
    assert_int_equal(at_infer_open(&t->cx, h5, "ref", 0, 0, 0, 1, 8, &m),
                     AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "predicts none"));
}

/* A tiny model of attune's own, weights drawn; `scale` of its embeddings.    */
static const char *make_own(struct nest *t, bool half, float scale)
{
    const char *path = in(t, "own.h5");
    struct at_decoder d;
    struct at_params ps;
    OK(&t->cx, at_decoder_family(&t->cx, "llama", &d));
    d.V = 40;
    d.C = 24;
    d.L = 2;
    d.H = 4;
    d.G = 2;
    d.P = 64;
    d.init_std = 0.3;
    d.rope_half = half;
    OK(&t->cx, at_decoder_check(&t->cx, &d));
    at_params_init(&ps, &t->cx, &t->cx.plan);
    OK(&t->cx, at_model_declare(&t->cx, &d, &ps));
    OK(&t->cx, at_params_seal(&ps));
    at_params_draw(&ps, 3);
    ((float *)at_param_find(&ps, "embed.weight")->val.data)[5] *= scale;
    OK(&t->cx, at_model_write(&t->cx, path, &d, NULL, &ps, AT_H5_F32,
                              NULL));
    at_params_finish(&ps);
    return path;
}

static void read_logits(struct nest *t, const char *path, float *to, size_t V)
{
    const int32_t ids[] = { 3, 17, 0, 39, 8, 8, 21 };
    const at_real *logits;
    struct at_infer *m;
    OK(&t->cx, at_infer_open(&t->cx, path, "ref", 0, 1, 32, 0, 0, &m));
    assert_int_equal(m->m->d.V, V);
    OK(&t->cx, at_generator_logits(m->gen, ids, AT_COUNT(ids), &logits));
    memcpy(to, logits, V * sizeof *to);
    at_infer_close(m);
}

/* llama2.c pairs neighbouring channels, Hugging Face halves of a head.       */
static void pairs_of_channels_are_moved(void **state)
{
    struct nest *t = *state;
    struct at_certificate said;
    float a[40], b[40];
    double size;
    for (int half = 0; half < 2; half++) {
        const char *own = make_own(t, half, 1);
        const char *out = in(t, half ? "half" : "pairs"), *back = in(t, "b.h5");
        read_logits(t, own, a, 40);
        OK(&t->cx, at_hf_export(&t->cx, own, out, &(struct at_hf_out){ 0 },
                                &said));
        OK(&t->cx, at_hf_import(&t->cx, out, back, true));
        read_logits(t, back, b, 40);
        assert_true(worst(a, b, 40, &size) <= 1e-5 * size);
    }
}

static void a_failed_export_leaves_nothing(void **state)
{
    struct nest *t = *state;
    const char *own = make_own(t, true, 1e7f), *out = in(t, "out");
    struct at_hf_out half = { .dtype = "float16" }, odd = { .dtype = "int4" };
    struct at_certificate said;
    assert_int_equal(at_hf_export(&t->cx, own, out, &half, &said), AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "'model.embed_tokens.weight' holds"));
    assert_int_equal(holds(t), 1);          /* own.h5                        */
    assert_int_equal(at_hf_export(&t->cx, own, out, &odd, &said), AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "'int4' is not one of"));
    assert_int_equal(at_hf_export_peft(&t->cx, own, out, NULL, &said), AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "is no adapter"));
    assert_int_equal(at_hf_export(&t->cx, own, t->dir, &half, &said),
                     AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "is not empty"));
    assert_int_equal(holds(t), 1);
    OK(&t->cx, at_mkdir(&t->cx, out));      /* an empty one is fine          */
    half.dtype = "bfloat16";
    OK(&t->cx, at_hf_export(&t->cx, own, out, &half, &said));
    assert_int_equal(holds(t), 2);
}

/* ---- adapters ----------------------------------------------------------------------- */

enum { RANK = 2 };
static const char peft_config[] = "{\"peft_type\": \"LORA\", \"r\": 2, "
    "\"lora_alpha\": 6, \"target_modules\": [\"q_proj\"], \"bias\": \"none\", "
    "\"task_type\": \"CAUSAL_LM\"%s}";

/* An adapter on q_proj of both layers (out x in 16 x 16), as PEFT writes it. */
static const char *make_adapter(struct nest *t, const char *more, bool halves)
{
    struct at_st_tensor x[4] = { { .n_dims = 2 } };
    struct at_rng r = { 9, AT_RNG_TEST, 0 };
    struct at_st_writer *w;
    const char *dir = in(t, "adapter"), *config;
    size_t n = halves ? 3 : 4;
    OK(&t->cx, at_mkdir(&t->cx, dir));
    for (size_t i = 0; i < n; i++) {
        x[i].name = at_sprintf(&t->cx, &t->cx.run, "base_model.model.model."
                               "layers.%zu.self_attn.q_proj.lora_%c.weight",
                               i / 2, i % 2 ? 'B' : 'A');
        x[i].n_dims = 2;
        x[i].d[0] = i % 2 ? 16 : RANK;
        x[i].d[1] = i % 2 ? RANK : 16;
    }
    OK(&t->cx, at_st_create(&t->cx, &t->cx.run, in(t, "adapter/adapter_model."
                            "safetensors"), AT_ST_F32, x, n, &w));
    for (size_t i = 0; i < n * 16 * RANK; i++) {
        float v = 0.3f * (float)at_rng_normal(&r, 0, i);
        OK(&t->cx, at_st_put(&t->cx, w, &v, 1));
    }
    OK(&t->cx, at_st_commit(&t->cx, w));
    config = at_sprintf(&t->cx, &t->cx.run, peft_config, more);
    OK(&t->cx, at_write_file(&t->cx, in(t, "adapter/adapter_config.json"),
                             config, strlen(config)));
    return dir;
}

static void adapters_come_and_go(void **state)
{
    struct nest *t = *state;
    const char *base = in(t, "m.h5"), *h5 = in(t, "a.h5");
    const char *from = folder(&t->cx, "llama3"), *to = in(t, "again");
    struct at_hf_out merge = { .merge = true, .dtype = "float32" };
    struct at_certificate said;
    float plain[48], adapted[48], merged[48];
    double size;
    json_t *config;
    OK(&t->cx, at_hf_import(&t->cx, from, base, true));
    OK(&t->cx, at_hf_import_peft(&t->cx, make_adapter(t, "", false), base,
                                 h5));
    OK(&t->cx, at_hf_export_peft(&t->cx, h5, to, NULL, &said));
    same_tensors(t, in(t, "adapter"), to, "adapter_model", true);
    OK(&t->cx, at_json_read(&t->cx, in(t, "again/adapter_config.json"), 1 << 20,
                            &config));
    assert_int_equal(json_integer_value(json_object_get(config, "r")), RANK);
    assert_int_equal(json_integer_value(json_object_get(config, "lora_alpha")),
                     6);
    assert_string_equal(json_string_value(json_array_get(
        json_object_get(config, "target_modules"), 0)), "q_proj");
    json_decref(config);
    assert_int_equal(at_hf_export(&t->cx, h5, in(t, "no"),
                                  &(struct at_hf_out){ 0 }, &said), AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "add --merge"));
    OK(&t->cx, at_hf_export(&t->cx, h5, in(t, "merged"), &merge, &said));
    assert_true(said.positions > 0 && said.agree == 1 && said.largest < 1e-5);
    OK(&t->cx, at_hf_import(&t->cx, in(t, "merged"), in(t, "f.h5"), true));
    read_logits(t, base, plain, 48);
    read_logits(t, h5, adapted, 48);
    read_logits(t, in(t, "f.h5"), merged, 48);
    assert_true(worst(merged, adapted, 48, &size) < 1e-5 * (1 + size));
    assert_true(worst(plain, adapted, 48, &size) > 1e-2);
}

static void odd_adapters_are_refused(void **state)
{
    static const struct { const char *more, *says; } bad[] = {
        { ", \"use_dora\": true", "use_dora is set" },
        { ", \"rank_pattern\": {\"q_proj\": 4}", "rank_pattern is set" },
        { ", \"modules_to_save\": [\"lm_head\"]", "modules_to_save has 'lm_head'" },
    };
    struct nest *t = *state;
    const char *base = in(t, "m.h5"), *h5 = in(t, "a.h5");
    OK(&t->cx, at_hf_import(&t->cx, folder(&t->cx, "llama3"), base, true));
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        assert_int_equal(at_hf_import_peft(&t->cx, make_adapter(t, bad[i].more,
                                           false), base, h5), AT_EINVAL);
        assert_non_null(strstr(t->cx.err.msg, bad[i].says));
    }
    assert_int_equal(at_hf_import_peft(&t->cx, make_adapter(t, "", true), base,
                                       h5), AT_EFORMAT);
    assert_non_null(strstr(t->cx.err.msg, "only one half"));
    OK(&t->cx, at_hf_import(&t->cx, folder(&t->cx, "gpt2"), base, true));
    assert_int_equal(at_hf_import_peft(&t->cx, make_adapter(t, "", false),
                                       base, h5), AT_EFORMAT);
    assert_non_null(strstr(t->cx.err.msg, "has no place in an adapter"));
    OK(&t->cx, at_hf_import(&t->cx, folder(&t->cx, "llama-tied"), base, true));
    OK(&t->cx, at_hf_import_peft(&t->cx, make_adapter(t, "", false), base,
                                 h5));
    assert_int_equal(at_hf_import_peft(&t->cx, make_adapter(t, "", false), h5,
                                       in(t, "b.h5")), AT_EINVAL);
    assert_non_null(strstr(t->cx.err.msg, "is an adapter itself"));
}

#define IN_A_NEST(f) cmocka_unit_test_setup_teardown(f, make_nest, drop_nest)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_are_those_of_transformers),
        cmocka_unit_test(judges_are_those_of_transformers),
        cmocka_unit_test(cached_decoding_reads_the_whole_text),
        cmocka_unit_test(configs_are_refused_by_key),
        cmocka_unit_test(older_configs_are_read),
        cmocka_unit_test(wrong_tensors_are_all_named),
        IN_A_NEST(what_comes_in_goes_out),
        IN_A_NEST(an_encoder_comes_without_labels),
        IN_A_NEST(pairs_of_channels_are_moved),
        IN_A_NEST(a_failed_export_leaves_nothing),
        IN_A_NEST(adapters_come_and_go),
        IN_A_NEST(odd_adapters_are_refused),
    };
    return cmocka_run_group_tests_name("hf", tests, NULL, NULL);
}
