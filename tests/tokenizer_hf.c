/* tokenizer.json: the same ids as Hugging Face's tokenizers (fixtures by
 * golden/tokenizer_hf.py), and files that are refused by part.               */
#include "tests/test.h"

#include "data/json.h"
#include "data/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GOLDEN AT_TESTS "/golden/tokenizer/"

static void expect(struct at_ctx *cx, const struct at_tok *tok, const char *s,
                   size_t n, unsigned flags, const json_t *want)
{
    struct at_tok_coder *coder;
    struct at_tok_ids ids = { 0 };
    OK(cx, at_tok_coder_create(cx, tok, &coder));
    for (int round = 0; round < 2; round++) {       /* then from the cache   */
        ids.n = 0;
        OK(cx, at_tok_encode(cx, coder, s, n, flags, &ids));
        if (ids.n != json_array_size(want))
            fail_msg("'%.*s' has %zu ids, not %zu", (int)n, s, ids.n,
                     json_array_size(want));
        for (size_t i = 0; i < ids.n; i++)
            if (ids.id[i] != json_integer_value(json_array_get(want, i)))
                fail_msg("'%.*s': id %zu is %d", (int)n, s, i, ids.id[i]);
    }
    at_tok_ids_finish(&ids);
    at_tok_coder_destroy(coder);
}

static void check_texts(struct at_ctx *cx, const struct at_tok *tok,
                        const json_t *root, const char *list, const char *key,
                        unsigned flags)
{
    const json_t *texts = json_object_get(root, list);
    const json_t *ids = json_object_get(root, key);
    assert_true(json_array_size(texts) > 40);
    assert_int_equal(json_array_size(ids), json_array_size(texts));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *t = json_array_get(texts, i);
        expect(cx, tok, json_string_value(t), json_string_length(t), flags,
               json_array_get(ids, i));
    }
}

static void check_ids(struct at_ctx *cx, const struct at_tok *tok,
                      const json_t *root, const char *key)
{
    check_texts(cx, tok, root, "texts", key, 0);
}

static void ids_are_those_of_tokenizers(void **state)
{
    static const char text[] = "a<tool>b<|eot_id|> c";
    struct at_tok *tok, *again;
    struct at_ctx cx;
    json_error_t why;
    json_t *root = json_load_file(GOLDEN "hf-ids.json", JSON_ALLOW_NUL, &why);
    const void *blob;
    size_t n;
    (void)state;
    assert_non_null(root);
    at_ctx_init(&cx);
    OK(&cx, at_tok_load_hf(&cx, &cx.run, GOLDEN "hf-digits.json", NULL, &tok));
    check_ids(&cx, tok, root, "digits");
    assert_int_equal(at_tok_eos(tok), 0);
    assert_int_equal(at_tok_bos(tok), 0);   /* only ends texts               */
    OK(&cx, at_tok_load_hf(&cx, &cx.run, GOLDEN "hf-llama3.json",
                           GOLDEN "hf-config.json", &tok));
    check_ids(&cx, tok, root, "llama3");
    assert_int_equal(at_tok_bos(tok), at_tok_special(tok, "<|begin_of_text|>"));
    assert_int_equal(at_tok_eos(tok), at_tok_special(tok, "<|eot_id|>"));
    assert_true(at_tok_eos(tok) > 0 && at_tok_pad(tok) == AT_TOK_NONE);
    OK(&cx, at_tok_load_hf(&cx, &cx.run, GOLDEN "hf-qwen.json", NULL, &again));
    check_texts(&cx, again, root, "composed", "qwen", AT_TOK_SPECIAL);
    blob = at_tok_save(tok, &n);
    OK(&cx, at_tok_load(&cx, &cx.run, blob, n, &again));
    expect(&cx, again, text, strlen(text), AT_TOK_BOS | AT_TOK_SPECIAL,
           json_object_get(root, "special"));
    check_ids(&cx, again, root, "llama3");
    json_decref(root);
    at_ctx_finish(&cx);
}

/* A text comes back as it was, less what a family puts before it.             */
static void check_back(struct at_ctx *cx, const struct at_tok *tok,
                       const char *s, size_t n)
{
    struct at_tok_ids ids = { 0 };
    struct at_tok_coder *coder;
    char *back;
    size_t n_back;
    OK(cx, at_tok_coder_create(cx, tok, &coder));
    OK(cx, at_tok_encode(cx, coder, s, n, 0, &ids));
    OK(cx, at_tok_decode(cx, &cx->scratch, tok, ids.id, ids.n, true, &back,
                         &n_back));
    assert_int_equal(n_back, n);
    assert_memory_equal(back, s, n);
    at_tok_ids_finish(&ids);
    at_tok_coder_destroy(coder);
}

/* Llama 2's, Mistral's and Gemma's: pieces with U+2581 for spaces, bytes for
 * what they lack, and three rules for the space before a text.                */
static void spaces_are_those_of_sentencepiece(void **state)
{
    static const char *const names[] = { "llama2", "mistral", "gemma" };
    static const char mark[] = "a\xE2\x96\x81" "b c";
    json_error_t why;
    json_t *root = json_load_file(GOLDEN "hf-ids.json", JSON_ALLOW_NUL, &why);
    struct at_ctx cx;
    (void)state;
    assert_non_null(root);
    at_ctx_init(&cx);
    for (size_t i = 0; i < AT_COUNT(names); i++) {
        struct at_tok *tok, *again;
        struct at_tok_ids ids = { 0 };
        struct at_tok_coder *coder;
        const void *blob;
        char path[512];
        size_t n;
        snprintf(path, sizeof path, GOLDEN "hf-%s.json", names[i]);
        OK(&cx, at_tok_load_hf(&cx, &cx.run, path, NULL, &tok));
        assert_string_equal(at_tok_kind(tok), "spaced_bpe");
        check_texts(&cx, tok, root, "odd", names[i], AT_TOK_SPECIAL);
        blob = at_tok_save(tok, &n);
        OK(&cx, at_tok_load(&cx, &cx.run, blob, n, &again));
        check_texts(&cx, again, root, "odd", names[i], AT_TOK_SPECIAL);
        check_back(&cx, tok, "the clocks, na\xC3\xAFve\n  \xF0\x9F\x99\x82", 24);
        check_back(&cx, tok, i == 1 ? "x" : " x", i == 1 ? 1 : 2);
        /* where tokens begin in the text, behind special ones and U+2581      */
        OK(&cx, at_tok_coder_create(&cx, tok, &coder));
        OK(&cx, at_tok_encode(&cx, coder, "a</s>the", 8, AT_TOK_SPECIAL, &ids));
        assert_int_equal(ids.start[0], 0);
        for (size_t k = 0; k < ids.n; k++)
            if (ids.id[k] == 2)
                assert_true(ids.start[k] == 1 && ids.start[k + 1] == 5);
        at_tok_ids_finish(&ids);
        at_tok_coder_destroy(coder);
        OK(&cx, at_tok_coder_create(&cx, tok, &coder));
        OK(&cx, at_tok_encode(&cx, coder, mark, strlen(mark), 0, &ids));
        for (size_t k = 0; k < ids.n; k++) {
            const char *s = at_tok_piece(tok, ids.id[k], &n);
            assert_int_equal(s[n - 1], s[n - 1] == 'b' ? mark[4]
                                       : s[n - 1] == 'c' ? mark[6]
                                       : s[n - 1] == 'a' ? mark[0] : ' ');
            if (s[n - 1] == 'c')
                assert_in_range(ids.start[k], 5, 6);
            if (s[n - 1] == 'b')
                assert_in_range(ids.start[k], 1, 4);
        }
        at_tok_ids_finish(&ids);
        at_tok_coder_destroy(coder);
    }
    json_decref(root);
    at_ctx_finish(&cx);
}

/* What ids[i] decode to, special tokens left out.                            */
static void check_text(struct at_ctx *cx, const struct at_tok *tok,
                       const json_t *ids, const json_t *want)
{
    size_t n = json_array_size(ids), n_text;
    int32_t *id = at_alloc_n(cx, &cx->scratch, n + 1, sizeof *id);
    char *text;
    for (size_t i = 0; i < n; i++)
        id[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    OK(cx, at_tok_decode(cx, &cx->scratch, tok, id, n, true, &text, &n_text));
    if (n_text != json_string_length(want) ||
        memcmp(text, json_string_value(want), n_text) != 0)
        fail_msg("'%s' is decoded, not '%s'", text, json_string_value(want));
}

/* Each token begins in the text where the one before ended, or behind.        */
static void check_places(struct at_ctx *cx, const struct at_tok *tok,
                         const char *s, size_t n)
{
    struct at_tok_coder *coder;
    struct at_tok_ids ids = { 0 };
    OK(cx, at_tok_coder_create(cx, tok, &coder));
    for (int round = 0; round < 2; round++) {
        ids.n = 0;
        OK(cx, at_tok_encode(cx, coder, s, n, 0, &ids));
        for (size_t i = 0; i < ids.n; i++) {
            assert_true(ids.start[i] <= n);
            assert_true(i == 0 || ids.start[i] >= ids.start[i - 1]);
        }
    }
    at_tok_ids_finish(&ids);
    at_tok_coder_destroy(coder);
}

/* BERT's WordPiece, RoBERTa's ends and its mask, which takes spaces along, and
 * T5's Unigram.                                                              */
static void encoders_ids_are_those_of_tokenizers(void **state)
{
    static const char *const names[] = { "bert", "cased", "roberta", "unigram",
                                         "unigram-bytes" };
    json_error_t why;
    json_t *root = json_load_file(GOLDEN "bert-ids.json", JSON_ALLOW_NUL, &why);
    const json_t *texts = json_object_get(root, "texts");
    struct at_tok_coder *coder;
    struct at_tok_ids ids = { 0 };
    struct at_ctx cx;
    struct at_tok *tok = NULL;
    (void)state;
    assert_non_null(root);
    at_ctx_init(&cx);
    for (size_t k = 0; k < AT_COUNT(names); k++) {
        const json_t *gold = json_object_get(root, names[k]);
        const json_t *bare = json_object_get(gold, "ids");
        struct at_tok *first;
        const void *blob;
        char path[512];
        size_t n;
        snprintf(path, sizeof path, GOLDEN "%s.json", names[k]);
        OK(&cx, at_tok_load_hf(&cx, &cx.run, path, NULL, &first));
        blob = at_tok_save(first, &n);
        OK(&cx, at_tok_load(&cx, &cx.run, blob, n, &tok));
        assert_true(at_tok_ends(tok) && at_tok_bos(tok) >= 0);
        for (size_t i = 0; i < json_array_size(texts); i++) {
            const json_t *t = json_array_get(texts, i);
            const char *s = json_string_value(t);
            n = json_string_length(t);
            if (k == 4 && strstr(s, "<0x"))
                continue;   /* six letters, which the library takes for a byte */
            expect(&cx, tok, s, n, AT_TOK_SPECIAL, json_array_get(bare, i));
            expect(&cx, tok, s, n, AT_TOK_SPECIAL | AT_TOK_BOS | AT_TOK_EOS,
                   json_array_get(json_object_get(gold, "whole"), i));
            check_text(&cx, tok, json_array_get(bare, i),
                       json_array_get(json_object_get(gold, "text"), i));
            check_places(&cx, tok, s, n);
        }
        if (k == 0) {               /* small letters of "The CAFE\u0301 the"   */
            bool at[15] = { false };
            OK(&cx, at_tok_coder_create(&cx, tok, &coder));
            OK(&cx, at_tok_encode(&cx, coder, "The CAFE\xCC\x81 the", 14, 0,
                                  &ids));
            for (size_t i = 0; i < ids.n; i++)
                at[ids.start[i]] = true;
            assert_true(at[0] && at[4] && at[11] && !at[3] && !at[8] &&
                        !at[9] && !at[10]);
            at_tok_coder_destroy(coder);
        }
    }
    at_tok_ids_finish(&ids);
    json_decref(root);
    at_ctx_finish(&cx);
}

/* What is written as tokenizer.json is the same tokenizer when it is read.    */
static void what_is_written_is_read(void **state)
{
    char json_path[] = "/tmp/attune-tok-XXXXXX", config_path[40];
    int fd = mkstemp(json_path);
    struct at_ctx cx;
    (void)state;
    assert_true(fd >= 0);
    close(fd);
    snprintf(config_path, sizeof config_path, "%s.c", json_path);
    at_ctx_init(&cx);
    for (int i = 0; i < 4; i++) {
        struct at_text json = { 0 }, config = { 0 };
        struct at_tok *tok, *again;
        if (i == 0)
            OK(&cx, at_tok_load_gpt2(&cx, &cx.run, GOLDEN "encoder.json",
                                     GOLDEN "vocab.bpe", &tok));
        else
            OK(&cx, at_tok_load_hf(&cx, &cx.run, i == 1
                                   ? GOLDEN "hf-digits.json" : i == 2
                                   ? GOLDEN "hf-llama3.json"
                                   : GOLDEN "roberta.json",
                                   i == 2 ? GOLDEN "hf-config.json" : NULL,
                                   &tok));
        OK(&cx, at_tok_hf_text(&cx, tok, &json, &config));
        OK(&cx, at_write_file(&cx, json_path, json.s, json.n));
        OK(&cx, at_write_file(&cx, config_path, config.s, config.n));
        OK(&cx, at_tok_load_hf(&cx, &cx.run, json_path, config_path, &again));
        assert_true(at_hash_equal(at_tok_hash(tok), at_tok_hash(again)));
        at_text_finish(&json);
        at_text_finish(&config);
    }
    unlink(json_path);
    unlink(config_path);
    at_ctx_finish(&cx);
}

/* The good file with one value at a path "a/b/0/c" replaced.                 */
static json_t *altered(const char *path, const char *value)
{
    json_error_t why;
    json_t *root = json_load_file(GOLDEN "hf-llama3.json", 0, &why), *at = root;
    json_t *v = json_loads(value, JSON_DECODE_ANY, &why);
    char copy[128], *part, *next;
    assert_non_null(v);
    snprintf(copy, sizeof copy, "%s", path);
    for (part = copy; (next = strchr(part, '/')); part = next + 1) {
        *next = '\0';
        at = json_is_array(at) ? json_array_get(at, (size_t)atoi(part))
                               : json_object_get(at, part);
        assert_non_null(at);
    }
    if (json_is_array(at))
        json_array_set_new(at, (size_t)atoi(part), v);
    else
        json_object_set_new(at, part, v);
    return root;
}

static void other_kinds_are_refused_by_part(void **state)
{
    static const struct { const char *path, *value, *says; } bad[] = {
        { "model/type", "\"Unigram\"", "pre_tokenizer is 'other than Whi" },
        { "model/type", "\"WordLevel\"", "model.type is 'WordLevel'" },
        { "model/type", "\"WordPiece\"", "pre_tokenizer is 'Sequence'" },
        { "model/byte_fallback", "true", "byte_fallback" },
        { "model/dropout", "0.1", "dropout" },
        { "model/end_of_word_suffix", "\"</w>\"", "end_of_word_suffix" },
        { "normalizer", "{\"type\": \"Lowercase\"}", "normalizer is 'Lower" },
        { "pre_tokenizer", "{\"type\": \"Metaspace\"}", "'Metaspace'" },
        { "pre_tokenizer", "null", "pre_tokenizer is ''" },
        { "pre_tokenizer/pretokenizers", "[]", "other than two" },
        { "pre_tokenizer/pretokenizers/0", "{\"type\": \"Whitespace\"}",
          "'Whitespace'" },
        { "pre_tokenizer/pretokenizers/0/behavior", "\"Removed\"", "'Split'" },
        { "pre_tokenizer/pretokenizers/0/pattern", "{\"Regex\": \"(\"}",
          "pattern" },
        { "pre_tokenizer/pretokenizers/1/add_prefix_space", "true",
          "add_prefix_space" },
        { "added_tokens/0/single_word", "true", "has single_word" },
        { "added_tokens/0/id", "7000", "is missing" },
        { "added_tokens/0/id", "-1", "each once" },
        { "added_tokens/0/id", "99999999", "more than" },
        { "model/vocab", "{}", "no model.vocab" },
        { "model/vocab/zz", "0", "each once" },
        { "model/vocab", "{\"\\u4e2d\": 0}", "alphabet" },
        { "model/merges", "7", "must be a list" },
        { "model/merges/0", "\"ab\"", "merge 0 is not" },
        { "model/merges/0", "[\"a\"]", "merge 0 is not" },
        { "model/merges/0", "[\"\\u00fd\", \"\\u00fe\"]", "merge 0 is not" },
    };
    struct at_ctx cx;
    struct at_tok *tok;
    char path[] = "/tmp/attune-tok-XXXXXX";
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    close(fd);
    at_ctx_init(&cx);
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        json_t *root = altered(bad[i].path, bad[i].value);
        assert_int_equal(json_dump_file(root, path, 0), 0);
        json_decref(root);
        if (at_tok_load_hf(&cx, &cx.run, path, NULL, &tok) == AT_OK)
            fail_msg("%s = %s is accepted", bad[i].path, bad[i].value);
        if (!strstr(cx.err.msg, bad[i].says))
            fail_msg("'%s' does not say '%s'", cx.err.msg, bad[i].says);
    }
    unlink(path);
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_tokenizers),
        cmocka_unit_test(encoders_ids_are_those_of_tokenizers),
        cmocka_unit_test(spaces_are_those_of_sentencepiece),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(other_kinds_are_refused_by_part),
    };
    return cmocka_run_group_tests_name("tokenizer_hf", tests, NULL, NULL);
}
