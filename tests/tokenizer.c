/* data/tokenizer: ids equal to the reference implementations', round trips,
 * damage refused, memory running out. */
#include "data/tokenizer.h"
#include "data/tok.h"
#include "tests/test.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHARED AT_TESTS "/../../shared/"
#define GOLDEN AT_TESTS "/golden/tokenizer/"

struct world {
    struct at_ctx cx;
    struct at_tok *tok;
    struct at_tok_coder *coder;
    struct at_tok_ids ids;
};

static void begin(struct world *w)
{
    *w = (struct world){ 0 };
    at_ctx_init(&w->cx);
}

static void use(struct world *w, struct at_tok *tok)
{
    at_tok_coder_destroy(w->coder);
    w->coder = NULL;
    w->tok = tok;
    OK(&w->cx, at_tok_coder_create(&w->cx, tok, &w->coder));
}

static void end(struct world *w)
{
    at_tok_coder_destroy(w->coder);
    at_tok_ids_finish(&w->ids);
    at_ctx_finish(&w->cx);
}

static void encode(struct world *w, const char *s, size_t n, unsigned flags)
{
    w->ids.n = 0;
    OK(&w->cx, at_tok_encode(&w->cx, w->coder, s, n, flags, &w->ids));
}

static json_t *shared_json(const char *path)
{
    json_error_t why;
    if (access(path, R_OK) != 0) {
        print_message("%s is not here\n", path);
        skip();
    }
    return json_load_file(path, 0, &why);
}

static void expect_ids(struct world *w, const char *text, size_t n,
                       unsigned flags, const json_t *ids)
{
    encode(w, text, n, flags);
    if (w->ids.n != json_array_size(ids))
        print_error("'%.*s'\n", (int)n, text);
    assert_int_equal(w->ids.n, json_array_size(ids));
    for (size_t i = 0; i < w->ids.n; i++)
        assert_int_equal(w->ids.id[i],
                         json_integer_value(json_array_get(ids, i)));
}

/* The token's bytes stand at its start, up to the next one's start.          */
static void expect_spans(struct world *w, const char *text, size_t n)
{
    for (size_t i = 0; i < w->ids.n; i++) {
        size_t len, from = w->ids.start[i];
        size_t to = i + 1 < w->ids.n ? w->ids.start[i + 1] : n;
        const char *s = at_tok_step(w->tok, i ? w->ids.id[i - 1] : AT_TOK_NONE,
                                    w->ids.id[i], &len);
        assert_int_equal(to - from, len);
        assert_memory_equal(s, text + from, len);
    }
}

static void expect_round_trip(struct world *w, const char *s, size_t n)
{
    char *back;
    size_t n_back;
    encode(w, s, n, 0);
    expect_spans(w, s, n);
    OK(&w->cx, at_tok_decode(&w->cx, &w->cx.scratch, w->tok, w->ids.id,
                             w->ids.n, false, &back, &n_back));
    assert_int_equal(n_back, n);
    assert_memory_equal(back, s, n);
    at_arena_reset(&w->cx.scratch);
}

/* ---- against the reference implementations ----------------------------------- */

static void stories260k_ids(void **state)
{
    static const char *const key[][2] = { { "prompt", "prompt_ids" },
        { "story", "story_ids" }, { "other", "other_ids" } };
    json_t *root = shared_json(SHARED "reference/stories260k/expected.json");
    struct world w;
    struct at_tok *tok;
    (void)state;
    begin(&w);
    OK(&w.cx, at_tok_load_llama2c(&w.cx, &w.cx.run,
                                  SHARED "data/stories260k/tok512.bin", 512,
                                  &tok));
    use(&w, tok);
    for (size_t i = 0; i < AT_COUNT(key); i++) {
        const char *s = json_string_value(json_object_get(root, key[i][0]));
        expect_ids(&w, s, strlen(s), AT_TOK_BOS,
                   json_object_get(root, key[i][1]));
    }
    json_decref(root);
    end(&w);
}

static void expect_vectors(struct world *w, const char *name)
{
    json_t *root = shared_json(SHARED "data/tokenizer-vectors/llama.cpp.json");
    json_t *texts = json_object_get(root, "texts");
    json_t *ids = json_object_get(json_object_get(root, "ids"), name);
    assert_int_equal(json_array_size(texts), 47);
    assert_int_equal(json_array_size(ids), 47);
    for (size_t i = 0; i < 47; i++) {
        json_t *text = json_array_get(texts, i);
        expect_ids(w, json_string_value(text), json_string_length(text), 0,
                   json_array_get(ids, i));
        expect_round_trip(w, json_string_value(text),
                          json_string_length(text));
    }
    json_decref(root);
}

static void gpt2_vectors(void **state)
{
    struct world w;
    struct at_tok *tok;
    (void)state;
    json_decref(shared_json(SHARED "data/tokenizer-vectors/llama.cpp.json"));
    begin(&w);
    OK(&w.cx, at_tok_load_gpt2(&w.cx, &w.cx.run,
                               SHARED "data/gpt2-tokenizer/encoder.json",
                               SHARED "data/gpt2-tokenizer/vocab.bpe", &tok));
    assert_int_equal(at_tok_size(tok), 50257);
    assert_int_equal(at_tok_special(tok, "<|endoftext|>"), 50256);
    assert_int_equal(at_tok_eos(tok), 50256);
    use(&w, tok);
    expect_vectors(&w, "gpt-2");
    end(&w);
}

static void llama_vectors(void **state)
{
    struct world w;
    struct at_tok *tok;
    (void)state;
    json_decref(shared_json(SHARED "data/tokenizer-vectors/llama.cpp.json"));
    begin(&w);
    OK(&w.cx, at_tok_load_llama2c(&w.cx, &w.cx.run, SHARED
                                  "data/tinyllama-tokenizer/"
                                  "llama2c-tokenizer.bin", 32000, &tok));
    use(&w, tok);
    expect_vectors(&w, "llama-spm");
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories260k_ids),
        cmocka_unit_test(gpt2_vectors),
        cmocka_unit_test(llama_vectors),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
