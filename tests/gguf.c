/* GGUF: models and tokenizers come back as they went, tensors lie as llama.cpp
 * reads them, an export that is not its model is refused, damaged files are. */
#include "tests/test.h"

#include "data/json.h"
#include "data/safetensors.h"
#include "train/gguf.h"
#include "train/hf.h"
#include "train/infer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN AT_TESTS "/golden/"

struct place {
    struct at_ctx cx;
    char dir[64], h5[96], gguf[96], note[128], back[96];
};

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    if (!p)
        return -1;
    at_ctx_init(&p->cx);
    strcpy(p->dir, "/tmp/attune-gguf-XXXXXX");
    if (!mkdtemp(p->dir) || at_threads_start(&p->cx, 2) < 0)
        return -1;
    snprintf(p->h5, sizeof p->h5, "%s/m.h5", p->dir);
    snprintf(p->gguf, sizeof p->gguf, "%s/m.gguf", p->dir);
    snprintf(p->note, sizeof p->note, "%s/m.gguf.certificate.json", p->dir);
    snprintf(p->back, sizeof p->back, "%s/back.h5", p->dir);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    int rc;
    unlink(p->h5);
    unlink(p->gguf);
    unlink(p->note);
    unlink(p->back);
    rc = rmdir(p->dir);         /* nothing else was left                      */
    at_ctx_finish(&p->cx);
    free(p);
    return rc;
}

static void import(struct place *p, const char *name)
{
    OK(&p->cx, at_hf_import(&p->cx, at_sprintf(&p->cx, &p->cx.run, GOLDEN
                                               "hf/%s", name), p->h5, true));
}

/* ---- models --------------------------------------------------------------------- */

static void every_family_comes_back(void **state)
{
    static const char *const names[] = {
        "llama3", "llama-tied", "mistral", "qwen2", "qwen3", "phi3", "olmo2",
        "neox", "neox-serial", "gpt2",
    };
    static const struct at_gguf_how how = { .dtype = "float32" };
    struct place *p = *state;
    for (size_t i = 0; i < AT_COUNT(names); i++) {
        struct at_certificate c;
        import(p, names[i]);
        OK(&p->cx, at_gguf_export(&p->cx, p->h5, p->gguf, &how, &c));
        assert_int_equal(c.positions, 18);
        assert_true(c.same_ids && c.same_ends && c.same_chat && !c.words);
        if (c.largest > 1e-5 || c.agree < 1)
            fail_msg("%s: %g", names[i], c.largest);
        assert_int_equal(access(p->note, R_OK), 0);
    }
    /* Other windows than llama.cpp has in its code.                          */
    import(p, "gemma3");
    assert_int_equal(at_gguf_export(&p->cx, p->h5, p->gguf, &how, NULL),
                     AT_EINVAL);
}

static float *tensor(struct place *p, const struct at_gguf *g, const char *name)
{
    const struct at_gguf_tensor *t = at_gguf_find(g, name);
    float *x;
    if (!t)
        fail_msg("there is no %s", name);
    x = at_alloc_n(&p->cx, &p->cx.run, t->n, sizeof *x);
    OK(&p->cx, at_gguf_get(&p->cx, g, t, 0, t->n, x));
    return x;
}

static float *theirs(struct place *p, const struct at_st *st, const char *name)
{
    const struct at_st_tensor *t = at_st_find(st, name);
    float *x;
    if (!t)
        fail_msg("there is no %s", name);
    x = at_alloc_n(&p->cx, &p->cx.run, t->n, sizeof *x);
    OK(&p->cx, at_st_get(&p->cx, st, t, 0, t->n, x));
    return x;
}

/* What convert_hf_to_gguf.py does: Llama's q and k as reshape(H, 2, K/2, C)
 * with the middle two swapped; GPT-2's matrices transposed; NeoX's q, k, v of
 * every head brought together.                                               */
static void tensors_lie_as_llama_cpp_reads_them(void **state)
{
    static const struct at_gguf_how how = { .dtype = "float32" };
    struct place *p = *state;
    struct at_certificate c;
    struct at_gguf *g;
    struct at_st *st;
    struct at_model *m;
    size_t C, K;
    float *x, *y;
    import(p, "llama3");
    OK(&p->cx, at_gguf_export(&p->cx, p->h5, p->gguf, &how, &c));
    OK(&p->cx, at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g));
    OK(&p->cx, at_st_open(&p->cx, &p->cx.run, GOLDEN "hf/llama3", "model",
                          &st));
    OK(&p->cx, at_model_open(&p->cx, &p->cx.run, p->h5, &m));
    C = m->d.C;
    K = m->d.K;
    x = tensor(p, g, "blk.1.attn_k.weight");
    y = theirs(p, st, "model.layers.1.self_attn.k_proj.weight");
    for (size_t h = 0; h < m->d.G; h++)
        for (size_t s = 0; s < 2; s++)
            for (size_t i = 0; i < K / 2; i++)
                assert_memory_equal(x + (h * K + 2 * i + s) * C,
                                    y + (h * K + s * K / 2 + i) * C,
                                    C * sizeof *x);
    assert_memory_equal(tensor(p, g, "blk.0.ffn_down.weight"),
                        theirs(p, st, "model.layers.0.mlp.down_proj.weight"),
                        C * m->d.F * sizeof *x);
    assert_int_equal(at_gguf_fact(g, "llama.attention.head_count_kv")->x,
                     m->d.G);
    assert_non_null(at_gguf_find(g, "rope_freqs.weight"));
    at_model_close(m);
    at_st_close(st);
    at_gguf_close(g);
    import(p, "gpt2");
    OK(&p->cx, at_gguf_export(&p->cx, p->h5, p->gguf, &how, &c));
    OK(&p->cx, at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g));
    OK(&p->cx, at_st_open(&p->cx, &p->cx.run, GOLDEN "hf/gpt2", "model", &st));
    OK(&p->cx, at_model_open(&p->cx, &p->cx.run, p->h5, &m));
    C = m->d.C;
    x = tensor(p, g, "blk.0.attn_qkv.weight");
    y = theirs(p, st, "transformer.h.0.attn.c_attn.weight");
    for (size_t r = 0; r < 3 * C; r++)
        for (size_t k = 0; k < C; k++)
            assert_true(x[r * C + k] == y[k * 3 * C + r]);
    at_model_close(m);
    at_st_close(st);
    at_gguf_close(g);
    import(p, "neox");
    OK(&p->cx, at_gguf_export(&p->cx, p->h5, p->gguf, &how, &c));
    OK(&p->cx, at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g));
    OK(&p->cx, at_st_open(&p->cx, &p->cx.run, GOLDEN "hf/neox", "model", &st));
    OK(&p->cx, at_model_open(&p->cx, &p->cx.run, p->h5, &m));
    C = m->d.C;
    K = m->d.K;
    x = tensor(p, g, "blk.0.attn_qkv.weight");
    y = theirs(p, st, "gpt_neox.layers.0.attention.query_key_value.weight");
    for (size_t part = 0; part < 3; part++)
        for (size_t h = 0; h < m->d.H; h++)
            assert_memory_equal(x + (part * C + h * K) * C,
                                y + (h * 3 + part) * K * C,
                                K * C * sizeof *x);
    at_model_close(m);
    at_st_close(st);
    at_gguf_close(g);
}

/* Tensors that are the same there: name by name against the safetensors.     */
static void other_tensors_have_their_names(void **state)
{
    static const struct { const char *model, *gguf, *hf; } same[] = {
        { "llama3", "output.weight", "lm_head.weight" },
        { "llama3", "blk.1.ffn_norm.weight",
          "model.layers.1.post_attention_layernorm.weight" },
        { "qwen2", "blk.0.attn_q.weight",
          "model.layers.0.self_attn.q_proj.weight" },
        { "qwen2", "blk.1.attn_v.bias", "model.layers.1.self_attn.v_proj.bias" },
        { "qwen3", "blk.0.attn_k_norm.weight",
          "model.layers.0.self_attn.k_norm.weight" },
        { "qwen3", "blk.1.ffn_gate.weight", "model.layers.1.mlp.gate_proj.weight" },
        { "phi3", "blk.0.attn_qkv.weight",
          "model.layers.0.self_attn.qkv_proj.weight" },
        { "phi3", "blk.1.ffn_up.weight", "model.layers.1.mlp.gate_up_proj.weight" },
        { "olmo2", "blk.0.post_attention_norm.weight",
          "model.layers.0.post_attention_layernorm.weight" },
        { "olmo2", "blk.1.post_ffw_norm.weight",
          "model.layers.1.post_feedforward_layernorm.weight" },
        { "neox", "blk.0.ffn_up.weight",
          "gpt_neox.layers.0.mlp.dense_h_to_4h.weight" },
        { "gpt2", "position_embd.weight", "transformer.wpe.weight" },
    };
    static const struct at_gguf_how how = { .dtype = "float32" };
    struct place *p = *state;
    for (size_t i = 0; i < AT_COUNT(same); i++) {
        const char *dir = at_sprintf(&p->cx, &p->cx.run, GOLDEN "hf/%s",
                                     same[i].model);
        const struct at_gguf_tensor *t;
        struct at_certificate c;
        struct at_gguf *g;
        struct at_st *st;
        import(p, same[i].model);
        OK(&p->cx, at_gguf_export(&p->cx, p->h5, p->gguf, &how, &c));
        OK(&p->cx, at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g));
        OK(&p->cx, at_st_open(&p->cx, &p->cx.run, dir, "model", &st));
        t = at_gguf_find(g, same[i].gguf);
        if (!t || memcmp(tensor(p, g, same[i].gguf), theirs(p, st, same[i].hf),
                         t->n * sizeof(float)) != 0)
            fail_msg("%s: %s", same[i].model, same[i].gguf);
        at_st_close(st);
        at_gguf_close(g);
    }
}

/* The fixture's windows are not Gemma 3's own; with those, norms are one more. */
static void gemmas_norms_are_one_more(void **state)
{
    static const struct at_gguf_how how = { .dtype = "float32" };
    struct place *p = *state;
    struct at_certificate c;
    struct at_infer *in;
    struct at_gguf *g;
    struct at_st *st;
    float *x, *y;
    import(p, "gemma3");
    OK(&p->cx, at_infer_open_to_merge(&p->cx, p->h5, &in));
    in->m->d.full_every = 6;
    in->m->d.rope_local = 10000;
    in->m->d.attn_scale = 0;
    OK(&p->cx, at_model_write(&p->cx, p->back, &in->m->d, NULL, &in->ps,
                              AT_H5_F32, in->m->f));
    OK(&p->cx, at_gguf_export(&p->cx, p->back, p->gguf, &how, &c));
    OK(&p->cx, at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g));
    OK(&p->cx, at_st_open(&p->cx, &p->cx.run, GOLDEN "hf/gemma3", "model",
                          &st));
    x = tensor(p, g, "blk.1.post_ffw_norm.weight");
    y = theirs(p, st, "model.layers.1.post_feedforward_layernorm.weight");
    for (size_t i = 0; i < in->m->d.C; i++)
        assert_true(x[i] == y[i] + 1);
    at_st_close(st);
    at_gguf_close(g);
    at_infer_close(in);
}

#define SHIPPED AT_TESTS "/../examples/quickstart/model.h5"

/* A large weight in every block of 32 leaves the others no digits: what q8_0
 * makes of it is another model.                                              */
static void an_export_that_is_not_its_model_is_refused(void **state)
{
    struct at_gguf_how how = { .dtype = "float32" };
    struct place *p = *state;
    struct at_certificate c;
    struct at_infer *in;
    char *was, *is;
    size_t n, m;
    OK(&p->cx, at_infer_open_to_merge(&p->cx, SHIPPED, &in));
    for (size_t i = 0; i < in->ps.n; i++) {
        struct at_val *v = &in->ps.p[i]->val;
        float *w = v->data;
        for (size_t k = 0; v->shape.n == 2 && k < at_shape_count(&v->shape);
             k += 32)
            w[k] = 20;
    }
    OK(&p->cx, at_model_write(&p->cx, p->h5, &in->m->d, in->m->tok, &in->ps,
                              AT_H5_F32, in->m->f));
    at_infer_close(in);
    OK(&p->cx, at_gguf_export(&p->cx, p->h5, p->gguf, &how, &c));
    OK(&p->cx, at_read_file(&p->cx, &p->cx.run, p->gguf, 0, &was, &n));
    how.dtype = "q8_0";
    assert_int_equal(at_gguf_export(&p->cx, p->h5, p->gguf, &how, &c),
                     AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "the export is not the model"));
    OK(&p->cx, at_read_file(&p->cx, &p->cx.run, p->gguf, 0, &is, &m));
    assert_int_equal(n, m);
    assert_memory_equal(was, is, n);    /* and teardown finds nothing else    */
}

static void types_lose_what_they_must(void **state)
{
    static const struct { const char *dtype; double least, most; } types[] = {
        { "float32", 0, 0 }, { "bfloat16", 0, 0 },  /* the model is bfloat16  */
        { "float16", 1e-9, 1e-3 }, { "q8_0", 1e-3, 1 },
    };
    struct place *p = *state;
    for (size_t i = 0; i < AT_COUNT(types); i++) {
        struct at_gguf_how how = { .dtype = types[i].dtype };
        struct at_certificate c;
        OK(&p->cx, at_gguf_export(&p->cx, SHIPPED, p->gguf, &how, &c));
        assert_true(c.words);
        if (c.largest < types[i].least || c.largest > types[i].most)
            fail_msg("%s: %g", types[i].dtype, c.largest);
    }
}

static void another_model_gets_no_certificate(void **state)
{
    struct place *p = *state;
    struct at_certificate c;
    import(p, "llama-tied");
    OK(&p->cx, at_certify(&p->cx, p->h5, p->h5, true, 1e-6, &c));
    OK(&p->cx, at_certificate_check(&p->cx, &c));
    assert_true(c.kl == 0 && c.agree == 1);
    assert_int_equal(rename(p->h5, p->back), 0);
    import(p, "mistral");
    OK(&p->cx, at_certify(&p->cx, p->h5, p->back, true, 1e-6, &c));
    assert_int_equal(at_certificate_check(&p->cx, &c), AT_EINVAL);
    OK(&p->cx, at_certify(&p->cx, SHIPPED, p->back, true, 1e-6, &c));
    assert_int_equal(at_certificate_check(&p->cx, &c), AT_EINVAL);
    c = (struct at_certificate){ .same_ids = true, .same_ends = true,
                                 .kl = NAN, .kl_most = 1, .same_chat = true };
    assert_int_equal(at_certificate_check(&p->cx, &c), AT_EINVAL);
}

/* ---- tokenizers -------------------------------------------------------------------- */

static void put_tokenizer(struct place *p, const struct at_tok *tok, size_t V)
{
    struct at_gguf_out *w;
    OK(&p->cx, at_gguf_create(&p->cx, &p->cx.run, p->gguf, &w));
    OK(&p->cx, at_tok_put_gguf(&p->cx, tok, V, w));
    OK(&p->cx, at_gguf_start(&p->cx, w));
    OK(&p->cx, at_gguf_commit(&p->cx, w));
}

static void same_ids(struct place *p, const struct at_tok *a,
                     const struct at_tok *b, const json_t *texts)
{
    struct at_tok_ids x = { 0 }, y = { 0 };
    struct at_tok_coder *s, *t;
    OK(&p->cx, at_tok_coder_create(&p->cx, a, &s));
    OK(&p->cx, at_tok_coder_create(&p->cx, b, &t));
    assert_true(json_array_size(texts) > 40);
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const char *text = json_string_value(json_array_get(texts, i));
        size_t n = json_string_length(json_array_get(texts, i));
        x.n = y.n = 0;
        OK(&p->cx, at_tok_encode(&p->cx, s, text, n, 0, &x));
        OK(&p->cx, at_tok_encode(&p->cx, t, text, n, 0, &y));
        if (x.n != y.n ||
            (x.n && memcmp(x.id, y.id, x.n * sizeof *x.id) != 0))
            fail_msg("'%s' reads otherwise", text);
    }
    at_tok_ids_finish(&x);
    at_tok_ids_finish(&y);
    at_tok_coder_destroy(s);
    at_tok_coder_destroy(t);
}

static void tokenizers_come_back(void **state)
{
    static const struct { const char *file, *texts; } toks[] = {
        { "hf-llama3.json", "texts" }, { "hf-qwen.json", "composed" },
        { "hf-llama2.json", "texts" }, { "hf-gemma.json", "texts" },
        { NULL, "texts" },
    };
    struct place *p = *state;
    json_error_t why;
    json_t *root = json_load_file(GOLDEN "tokenizer/hf-ids.json",
                                  JSON_ALLOW_NUL, &why);
    assert_non_null(root);
    for (size_t i = 0; i < AT_COUNT(toks); i++) {
        struct at_tok *tok, *back;
        struct at_gguf *g;
        const char *path = at_sprintf(&p->cx, &p->cx.run, GOLDEN "tokenizer/%s",
                                      toks[i].file ? toks[i].file : "");
        if (toks[i].file)
            OK(&p->cx, at_tok_load_hf(&p->cx, &p->cx.run, path, NULL, &tok));
        else
            OK(&p->cx, at_tok_load_gpt2(&p->cx, &p->cx.run,
                                        GOLDEN "tokenizer/encoder.json",
                                        GOLDEN "tokenizer/vocab.bpe", &tok));
        put_tokenizer(p, tok, at_tok_size(tok) + 3);
        OK(&p->cx, at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g));
        OK(&p->cx, at_tok_load_gguf(&p->cx, &p->cx.run, g, &back));
        assert_int_equal(at_tok_size(back), at_tok_size(tok));
        assert_int_equal(at_tok_bos(back), at_tok_bos(tok));
        assert_int_equal(at_tok_eos(back), at_tok_eos(tok));
        same_ids(p, tok, back, json_object_get(root, toks[i].texts));
        at_gguf_close(g);
    }
    json_decref(root);
}

/* ---- files ------------------------------------------------------------------------- */

static void write_small(struct place *p)
{
    static const size_t d[] = { 2, 32 }, one = 5;
    struct at_gguf_out *w;
    float x[64];
    for (size_t i = 0; i < 64; i++)
        x[i] = (float)i - 31.5f;
    OK(&p->cx, at_gguf_create(&p->cx, &p->cx.run, p->gguf, &w));
    at_gguf_text(w, "general.architecture", "none", 4);
    at_gguf_u32(w, "u", 4000000000u);
    at_gguf_f32(w, "f", -0.5);
    at_gguf_bool(w, "b", true);
    at_gguf_texts(w, "texts", 2);
    at_gguf_add_text(w, "ab", 2);
    at_gguf_add_text(w, "", 0);
    at_gguf_i32s(w, "ints", 1);
    at_gguf_add_i32(w, -7);
    OK(&p->cx, at_gguf_tensor(&p->cx, w, "q", AT_GGUF_Q8_0, 2, d));
    OK(&p->cx, at_gguf_tensor(&p->cx, w, "v", AT_GGUF_F32, 1, &one));
    OK(&p->cx, at_gguf_start(&p->cx, w));
    OK(&p->cx, at_gguf_put(&p->cx, w, x, 64));
    OK(&p->cx, at_gguf_put(&p->cx, w, x, 5));
    OK(&p->cx, at_gguf_commit(&p->cx, w));
}

static void facts_and_blocks_read_back(void **state)
{
    struct place *p = *state;
    const struct at_gguf_fact *f;
    struct at_gguf *g;
    float *x;
    write_small(p);
    OK(&p->cx, at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g));
    assert_true(at_gguf_fact(g, "u")->x == 4e9);
    assert_true(at_gguf_fact(g, "f")->x == -0.5);
    assert_true(at_gguf_fact(g, "b")->x == 1);
    assert_true(at_gguf_fact(g, "ints")->numbers[0] == -7);
    f = at_gguf_fact(g, "texts");
    assert_int_equal(f->n, 2);
    assert_string_equal(f->texts[0].s, "ab");
    assert_string_equal(f->texts[1].s, "");
    assert_null(at_gguf_fact(g, "other"));
    x = tensor(p, g, "q");      /* a 127th of 31.5, as a float16              */
    for (size_t i = 0; i < 64; i++)
        assert_true(fabs((double)x[i] - ((double)i - 31.5)) <= 0.13);
    assert_true(x[0] != -31.5f);
    assert_true(tensor(p, g, "v")[4] == -27.5f);
    at_gguf_close(g);
}

static void what_is_not_finite_is_refused(void **state)
{
    static const size_t d[] = { 1, 32 };
    struct place *p = *state;
    for (int type = AT_GGUF_F32; type < AT_GGUF_OTHER; type++)
        for (int bad = 0; bad < 3; bad++) {
            struct at_gguf_out *w;
            float x[32] = { 0 };
            x[5] = bad == 0 ? NAN : bad == 1 ? INFINITY : -INFINITY;
            OK(&p->cx, at_gguf_create(&p->cx, &p->cx.run, p->gguf, &w));
            OK(&p->cx, at_gguf_tensor(&p->cx, w, "x", (enum at_gguf_type)type, 2,
                                      d));
            OK(&p->cx, at_gguf_start(&p->cx, w));
            assert_int_equal(at_gguf_put(&p->cx, w, x, 32), AT_EINVAL);
            at_gguf_abandon(w);
        }
}

static char *read_small(struct place *p, size_t *n)
{
    char *bytes;
    OK(&p->cx, at_read_file(&p->cx, &p->cx.run, p->gguf, 0, &bytes, n));
    return bytes;
}

static int open_bytes(struct place *p, const char *bytes, size_t n)
{
    struct at_gguf *g;
    FILE *f = fopen(p->gguf, "wb");
    int rc;
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    rc = at_gguf_open(&p->cx, &p->cx.run, p->gguf, &g);
    if (rc == AT_OK)
        at_gguf_close(g);
    return rc;
}

static void damaged_files_are_refused(void **state)
{
    struct place *p = *state;
    size_t n, head;
    char *bytes, *at;
    write_small(p);
    bytes = read_small(p, &n);
    for (size_t cut = 0; cut + 12 < n; cut++)   /* 12: fills up the last one  */
        assert_int_equal(open_bytes(p, bytes, cut), AT_EFORMAT);
    head = n - 3 * 32 - 32;
    for (size_t i = 0; i < head; i++)           /* whatever it is: no crash   */
        for (int bit = 0; bit < 8; bit += 3) {
            int rc;
            bytes[i] ^= (char)(1 << bit);
            rc = open_bytes(p, bytes, n);
            assert_true(rc == AT_OK || rc == AT_EFORMAT);
            bytes[i] ^= (char)(1 << bit);
        }
    for (at = bytes; memcmp(at, "ints", 4) != 0; at++)
        ;
    memcpy(at - 8, "\1\0\0\0\0\0\0\0u", 9);     /* no list can be read behind */
    assert_int_equal(open_bytes(p, bytes, n), AT_EFORMAT);
    write_small(p);
    bytes = read_small(p, &n);
    for (at = bytes; memcmp(at, "\1\0\0\0\0\0\0\0v", 9) != 0; at++)
        ;
    at[8] = 'q';
    assert_int_equal(open_bytes(p, bytes, n), AT_EFORMAT);
    assert_non_null(strstr(p->cx.err.msg, "twice"));
    at[8] = 'v';
    at[9 + 4 + 8 + 4] = 64;                     /* its place: over the first  */
    assert_int_equal(open_bytes(p, bytes, n), AT_EFORMAT);
    assert_non_null(strstr(p->cx.err.msg, "over another"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(every_family_comes_back),
        T(tensors_lie_as_llama_cpp_reads_them),
        T(other_tensors_have_their_names),
        T(gemmas_norms_are_one_more),
        T(types_lose_what_they_must),
        T(an_export_that_is_not_its_model_is_refused),
        T(another_model_gets_no_certificate),
        T(tokenizers_come_back),
        T(facts_and_blocks_read_back),
        T(what_is_not_finite_is_refused),
        T(damaged_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
