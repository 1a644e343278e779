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

/* ---- against the fixtures ------------------------------------------------------ */

static struct at_tok *golden_bpe(struct world *w)
{
    struct at_tok *tok = NULL;
    OK(&w->cx, at_tok_load_gpt2(&w->cx, &w->cx.run, GOLDEN "encoder.json",
                                GOLDEN "vocab.bpe", &tok));
    return tok;
}

enum { LLAMA2C_SIZE = 545 };

static struct at_tok *golden_llama2c(struct world *w)
{
    struct at_tok *tok = NULL;
    OK(&w->cx, at_tok_load_llama2c(&w->cx, &w->cx.run, GOLDEN "tokenizer.bin",
                                   LLAMA2C_SIZE, &tok));
    return tok;
}

static void expect_fixture(struct world *w, const char *texts_key,
                           const char *ids_key, unsigned flags)
{
    json_error_t why;
    json_t *root = json_load_file(GOLDEN "ids.json", JSON_ALLOW_NUL, &why);
    json_t *texts = json_object_get(root, texts_key);
    json_t *ids = json_object_get(root, ids_key);
    assert_non_null(root);
    assert_true(json_array_size(texts) > 5);
    assert_int_equal(json_array_size(texts), json_array_size(ids));
    for (size_t i = 0; i < json_array_size(texts); i++) {
        json_t *t = json_array_get(texts, i);
        const char *s = json_string_value(t);
        size_t n = json_string_length(t);
        /* Twice: the second time from the cache. */
        for (int round = 0; round < 2; round++)
            expect_ids(w, s, n, flags, json_array_get(ids, i));
        expect_spans(w, s, n);
        if (!flags)
            expect_round_trip(w, s, n);
    }
    json_decref(root);
}

static void byte_bpe_as_hugging_face(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    use(&w, golden_bpe(&w));
    assert_string_equal(at_tok_kind(w.tok), "byte_bpe");
    expect_fixture(&w, "texts", "bpe", 0);
    expect_fixture(&w, "special_texts", "special", AT_TOK_SPECIAL);
    end(&w);
}

static void llama2c_as_llama2c(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    use(&w, golden_llama2c(&w));
    assert_string_equal(at_tok_kind(w.tok), "llama2c");
    expect_fixture(&w, "texts", "llama2c", 0);
    end(&w);
}

/* ---- training ------------------------------------------------------------------- */

struct texts { const char *s; size_t n, piece; };

/* The text in pieces of at most `piece` bytes, cut where it changes nothing.  */
static int texts_next(struct at_ctx *cx, void *self, const char **text,
                      size_t *n)
{
    struct texts *t = self;
    size_t cut = t->n;
    (void)cx;
    if (t->piece < t->n)
        cut = tok_cut(t->s, t->piece, false);
    *text = t->n ? t->s : NULL;
    *n = cut ? cut : t->n;
    t->s += *n;
    t->n -= *n;
    return AT_OK;
}

static const char *const end_of_text[] = { "<|endoftext|>" };

static struct at_tok *train(struct at_ctx *cx, const char *s, size_t n,
                            size_t piece, size_t size)
{
    struct at_tok_training how = { .vocab_size = size, .special = end_of_text,
                                   .n_special = 1, .pad = AT_TOK_NONE };
    struct texts t = { s, n, piece };
    struct at_tok *tok = NULL;
    OK(cx, at_tok_train(cx, &cx->run, texts_next, &t, &how, &tok));
    return tok;
}

static void merges_as_hugging_face(void **state)
{
    struct world w;
    struct at_tok *tok, *golden;
    char *s;
    size_t n;
    (void)state;
    begin(&w);
    OK(&w.cx, at_read_file(&w.cx, &w.cx.run, GOLDEN "corpus.txt", 0, &s, &n));
    tok = train(&w.cx, s, n, n, 520);
    golden = golden_bpe(&w);
    assert_int_equal(at_tok_size(tok), 520);
    assert_true(at_hash_equal(at_tok_hash(tok), at_tok_hash(golden)));
    end(&w);
}

/* Some MiB of words and other things, the same every time.                   */
static char *babble(struct at_ctx *cx, size_t n)
{
    static const char *const word[] = { " the", " Clock", "strike", "\n\n",
        "ing", " 12", "'ll", " \xC3\xBC", "\xE9\x90\x98", "  ", "\xFF", ".",
        "\t", "\n", " won", "der", "<|endoftext|>", "\xF0\x9F\x90\x88",
        "\xC2\xA0", "\xE3\x80\x80" };
    struct at_rng r = { 5, AT_RNG_TEST, 0 };
    char *s = at_alloc(cx, &cx->run, n + 16);
    size_t at = 0;
    for (uint64_t i = 0; at < n; i++) {
        uint64_t v = at_rng_u64(&r, 0, i);
        const char *x = word[v % AT_COUNT(word)];
        at += (size_t)snprintf(s + at, 15, "%s", x);
        if (v >> 32 & 1)
            s[at++] = (char)('a' + (v >> 40) % 26);
    }
    return s;
}

/* Threads, the sizes of texts and the way through files change nothing.      */
static void training_is_a_function_of_the_text(void **state)
{
    enum { N = 5 << 20 };
    static const size_t piece[] = { N, 100 << 10, 20 };
    char path[] = "/tmp/attune-tokenizer-XXXXXX";
    const char *paths[] = { path };
    struct at_tok_files files = { .paths = paths, .n = 1 };
    struct at_tok_training how = { .vocab_size = 600, .special = end_of_text,
                                   .n_special = 1, .pad = AT_TOK_NONE };
    struct world w;
    struct at_tok *tok;
    struct at_hash hash;
    char *s;
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    close(fd);
    begin(&w);
    s = babble(&w.cx, N);
    hash = at_tok_hash(train(&w.cx, s, N, N, 600));
    for (size_t i = 0; i < AT_COUNT(piece); i++) {
        w.cx.n_threads = 1 + (int)i;
        tok = train(&w.cx, s, N, piece[i], 600);
        assert_true(at_hash_equal(at_tok_hash(tok), hash));
    }
    OK(&w.cx, at_write_file(&w.cx, path, s, N));
    OK(&w.cx, at_tok_train(&w.cx, &w.cx.run, at_tok_files_next, &files, &how,
                           &tok));
    assert_true(at_hash_equal(at_tok_hash(tok), hash));
    assert_int_equal(files.n_bytes, N);
    at_tok_files_finish(&files);
    unlink(path);
    end(&w);
}

static void training_refuses(void **state)
{
    static const char *const twice[] = { "<a>", "<a>" }, *const none[] = { "" };
    struct at_tok_training how[] = {
        { .vocab_size = 255 },
        { .vocab_size = 257, .n_special = 2, .special = twice },
        { .vocab_size = 300, .n_special = 2, .special = twice },
        { .vocab_size = 300, .n_special = 1, .special = none },
        { .vocab_size = 300, .n_special = 1, .special = end_of_text, .bos = 1 },
        { .vocab_size = 300, .pattern = "(" },
        { .vocab_size = 300, .pattern = "" },
        { .vocab_size = 300, .pattern = "\\C" },
    };
    struct world w;
    struct at_tok *tok;
    (void)state;
    begin(&w);
    for (size_t i = 0; i < AT_COUNT(how); i++) {
        struct texts t = { "hello", 5, 5 };
        if (how[i].bos == 0)
            how[i].bos = AT_TOK_NONE;
        how[i].eos = how[i].pad = AT_TOK_NONE;
        assert_int_equal(at_tok_train(&w.cx, &w.cx.run, texts_next, &t,
                                      &how[i], &tok), AT_EINVAL);
    }
    end(&w);
}

static void small_texts_give_small_vocabularies(void **state)
{
    struct world w;
    struct at_tok_training how = { .vocab_size = 300, .bos = AT_TOK_NONE,
        .eos = AT_TOK_NONE, .pad = AT_TOK_NONE, .min_count = 2 };
    struct texts t = { "abab", 4, 4 };
    struct at_tok *tok;
    size_t n;
    (void)state;
    begin(&w);
    assert_int_equal(at_tok_size(train(&w.cx, "", 0, 1, 300)), 257);
    tok = train(&w.cx, "<|endoftext|><|endoftext|>", 26, 26, 300);
    assert_int_equal(at_tok_size(tok), 257);    /* they are no text          */
    tok = train(&w.cx, "aaa aaa", 7, 7, 300);
    assert_int_equal(at_tok_size(tok), 260);    /* aa, aaa, " aaa"           */
    assert_memory_equal(at_tok_piece(tok, 259, &n), " aaa", 4);
    OK(&w.cx, at_tok_train(&w.cx, &w.cx.run, texts_next, &t, &how, &tok));
    assert_int_equal(at_tok_size(tok), 257);    /* abab is only once         */
    end(&w);
}

/* ---- words ---------------------------------------------------------------------- */

static void expect_same_words(struct world *w, struct tok_regex *fast,
                              struct tok_regex *slow, const char *s, size_t n)
{
    struct tok_walk a = { .s = s, .n = n }, b = a;
    size_t start_a, start_b;
    int more;
    do {
        more = tok_walk_next(&w->cx, fast, &a, &start_a);
        assert_int_equal(tok_walk_next(&w->cx, slow, &b, &start_b), more);
        if (a.at != b.at)
            print_error("'%.*s' at %zu\n", (int)n, s, start_a);
        assert_int_equal(start_a, start_b);
        assert_int_equal(a.at, b.at);
    } while (more > 0);
    assert_int_equal(more, 0);
    assert_int_equal(a.at, n);
}

/* All strings of up to five of these, then longer ones at random.            */
static void scanner_equals_pcre2(void **state)
{
    enum { ALL = 1 << 20 };
    static const char *const unit[] = { " ", "\n", "a", "S", "7", "'", "s", "l",
        "r", "e", ".", "\xC3\xA9", "\xC2\xA0", "\xCC\x81", "\xFF", "\t" };
    struct at_rng r = { 11, AT_RNG_TEST, 0 };
    struct world w;
    struct tok_regex *fast, *slow;
    (void)state;
    begin(&w);
    OK(&w.cx, tok_regex_create(&w.cx, at_tok_gpt2_pattern, true, &fast));
    OK(&w.cx, tok_regex_create(&w.cx, at_tok_gpt2_pattern, true, &slow));
    tok_regex_slow(slow);
    for (uint64_t i = 0; i < ALL + 50000; i++) {
        uint64_t v = i < ALL ? i : at_rng_u64(&r, 0, i);
        char s[64] = "";
        size_t n = 0, units = i < ALL ? 5 : 16;
        for (size_t k = 0; k < units; k++, v >>= 4)
            n += (size_t)snprintf(s + n, 4, "%s", unit[v & 15]);
        expect_same_words(&w, fast, slow, s, n);
    }
    for (uint64_t i = 0; i < 20000; i++) {
        char s[24];
        size_t n = 1 + at_rng_u64(&r, 1, i) % sizeof s;
        for (size_t k = 0; k < n; k++)
            s[k] = (char)(at_rng_u64(&r, 2, 24 * i + k) % 128);
        expect_same_words(&w, fast, slow, s, n);
    }
    tok_regex_destroy(fast);
    tok_regex_destroy(slow);
    end(&w);
}

/* The words of a text are those of its two parts.                             */
static void cuts_change_no_word(void **state)
{
    static const char *const unit[] = { " ", "\n", "a", "'", "s", "\xC3\xA9",
        "\xC2\xA0", "\xE3\x80\x80", "\xE3\x80\x81", "\xE1\x9A\x80", "\xC2\x85",
        "\xF0\x9F\x90\x88", "\x90", "\xE3\x80", "9", "\t" };
    struct at_rng r = { 12, AT_RNG_TEST, 0 };
    struct world w;
    struct tok_regex *re;
    size_t n_cut = 0;
    (void)state;
    begin(&w);
    OK(&w.cx, tok_regex_create(&w.cx, at_tok_gpt2_pattern, true, &re));
    for (uint64_t i = 0; i < 100000; i++) {
        struct tok_walk a, b;
        uint64_t v = at_rng_u64(&r, 0, i);
        char s[64] = "";
        size_t n = 0, cut, start_a, start_b, base = 0;
        for (size_t k = 0; k < 8; k++, v >>= 4)
            n += (size_t)snprintf(s + n, 5, "%s", unit[v & 15]);
        cut = tok_cut(s, n, i % 2);
        n_cut += cut != 0;
        a = (struct tok_walk){ .s = s, .n = n };
        b = (struct tok_walk){ .s = s, .n = cut };
        while (tok_walk_next(&w.cx, re, &a, &start_a) > 0) {
            if (b.at == b.n && base == 0) {
                base = cut;
                b = (struct tok_walk){ .s = s + cut, .n = n - cut };
            }
            assert_int_equal(tok_walk_next(&w.cx, re, &b, &start_b), 1);
            assert_int_equal(start_a, base + start_b);
            assert_int_equal(a.at, base + b.at);
        }
    }
    assert_true(n_cut > 30000);
    tok_regex_destroy(re);
    end(&w);
}

static struct at_tok *with_pattern(struct world *w, const char *pattern)
{
    struct at_tok_training how = { .vocab_size = 256, .bos = AT_TOK_NONE,
        .eos = AT_TOK_NONE, .pad = AT_TOK_NONE, .pattern = pattern };
    struct texts t = { "", 0, 0 };
    struct at_tok *tok = NULL;
    OK(&w->cx, at_tok_train(&w->cx, &w->cx.run, texts_next, &t, &how, &tok));
    return tok;
}

static void other_patterns(void **state)
{
    static const char text[] = "one  two\xFF three\xC3\xA9 12345 'x' \xC2";
    static const char *const pattern[] = { "\\w+", "x*", "(?=t)", "\\p{N}{1,3}",
        "(?<=o)\\S", "[^\\s]+|\\s", "\\\\s" };
    struct world w;
    (void)state;
    begin(&w);
    for (size_t i = 0; i < AT_COUNT(pattern); i++) {
        use(&w, with_pattern(&w, pattern[i]));
        expect_round_trip(&w, text, sizeof text - 1);
    }
    end(&w);
}

static void endless_patterns_are_refused(void **state)
{
    static const char text[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab";
    struct world w;
    (void)state;
    begin(&w);
    use(&w, with_pattern(&w, "((a|aa)+)+[cd]"));
    assert_int_equal(at_tok_encode(&w.cx, w.coder, "x", 1, 0, &w.ids), AT_OK);
    assert_int_equal(at_tok_encode(&w.cx, w.coder, text, sizeof text - 1, 0,
                                   &w.ids), AT_EINVAL);
    assert_int_equal(w.ids.n, 1);
    end(&w);
}

/* ---- encoding and decoding --------------------------------------------------------- */

static void random_bytes_round_trip(void **state)
{
    struct at_rng r = { 3, AT_RNG_TEST, 0 };
    struct world w;
    (void)state;
    begin(&w);
    for (int kind = 0; kind < 2; kind++) {
        use(&w, kind ? golden_llama2c(&w) : golden_bpe(&w));
        for (uint64_t i = 0; i < 4000; i++) {
            char s[80];
            size_t n = at_rng_u64(&r, 0, i) % sizeof s;
            uint64_t range = i % 2 ? 256 : 128;
            for (size_t k = 0; k < n; k++)
                s[k] = (char)(at_rng_u64(&r, 1, 80 * i + k) % range);
            expect_round_trip(&w, s, n);
        }
    }
    end(&w);
}

/* Would not end if time were quadratic in the length of a word.              */
static void long_words(void **state)
{
    enum { N = 2 << 20 };
    struct at_rng r = { 4, AT_RNG_TEST, 0 };
    struct world w;
    char *s;
    (void)state;
    begin(&w);
    s = at_alloc(&w.cx, &w.cx.run, N);
    for (int fill = 0; fill < 4; fill++) {
        for (size_t i = 0; i < N; i++)
            s[i] = fill == 0 ? 'a' : fill == 1 ? ' ' : fill == 2 ? '\xFF' :
                   (char)('a' + at_rng_u64(&r, 0, i) % 26);
        use(&w, golden_bpe(&w));
        expect_round_trip(&w, s, N);
        use(&w, golden_llama2c(&w));
        expect_round_trip(&w, s, N);
    }
    assert_true(at_tok_size(train(&w.cx, s, N, N, 400)) == 400);
    end(&w);
}

static void bos_eos_and_special(void **state)
{
    static const char text[] = "x<s> y</s>";
    struct world w;
    char *back;
    size_t n;
    (void)state;
    begin(&w);
    use(&w, golden_llama2c(&w));
    assert_int_equal(at_tok_bos(w.tok), 1);
    assert_int_equal(at_tok_eos(w.tok), 2);
    assert_int_equal(at_tok_pad(w.tok), AT_TOK_NONE);
    assert_int_equal(at_tok_special(w.tok, "</s>"), 2);
    assert_int_equal(at_tok_special(w.tok, "the"), AT_TOK_NONE);
    assert_true(at_tok_is_special(w.tok, 0));
    assert_false(at_tok_is_special(w.tok, 3));
    assert_false(at_tok_is_special(w.tok, -1));
    encode(&w, text, sizeof text - 1, AT_TOK_BOS | AT_TOK_EOS | AT_TOK_SPECIAL);
    n = w.ids.n;
    assert_int_equal(w.ids.id[0], 1);
    assert_int_equal(w.ids.start[0], 0);
    assert_int_equal(w.ids.id[n - 1], 2);
    assert_int_equal(w.ids.start[n - 1], sizeof text - 1);
    assert_int_equal(w.ids.id[n - 2], 2);
    assert_int_equal(w.ids.start[n - 2], 6);
    OK(&w.cx, at_tok_decode(&w.cx, &w.cx.run, w.tok, w.ids.id, n, true, &back,
                            &n));
    assert_string_equal(back, "x y");
    encode(&w, text, sizeof text - 1, 0);
    for (size_t i = 0; i < w.ids.n; i++)
        assert_false(at_tok_is_special(w.tok, w.ids.id[i]));
    encode(&w, " y", 2, 0);
    n = w.ids.n;
    encode(&w, " y", 2, AT_TOK_CONTINUE);
    assert_true(w.ids.n < n);               /* "  y" against " y"             */
    w.ids.n = 0;
    use(&w, with_pattern(&w, NULL));
    assert_int_equal(at_tok_encode(&w.cx, w.coder, "a", 1, AT_TOK_BOS, &w.ids),
                     AT_EINVAL);
    assert_int_equal(at_tok_encode(&w.cx, w.coder, "a", 1, AT_TOK_EOS, &w.ids),
                     AT_EINVAL);
    assert_int_equal(w.ids.n, 0);
    end(&w);
}

/* A llama2c tokenizer with these pieces after the bytes.                      */
static struct at_tok *with_pieces(struct world *w, const char *const *s,
                                  const float *falling, size_t n)
{
    struct tok_str piece[300] = { { "<unk>", 5 }, { "<s>", 3 }, { "</s>", 4 } };
    unsigned char type[300] = { TOK_SPECIAL, TOK_SPECIAL, TOK_SPECIAL };
    struct tok_draft d = { .kind = &tok_llama2c, .n = 259 + n, .piece = piece,
                           .type = type, .bos = 1, .eos = 2,
                           .pad = AT_TOK_NONE };
    struct at_tok *tok = NULL;
    float score[300] = { 0 };
    char bytes[256];
    for (size_t i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        piece[3 + i] = (struct tok_str){ bytes + i, 1 };
        type[3 + i] = TOK_BYTE;
    }
    for (size_t i = 0; i < n; i++) {
        piece[259 + i] = (struct tok_str){ s[i], strlen(s[i]) };
        type[259 + i] = TOK_NORMAL;
        score[259 + i] = falling[i];
    }
    d.score = score;
    OK(&w->cx, tok_draft_open(&w->cx, &w->cx.run, &d, &tok));
    return tok;
}

static void leftmost_of_equal_scores(void **state)
{
    static const char *const piece[] = { " ", "a", "b", "c", "bc", "ab" };
    static const float score[] = { -9, -9, -9, -9, -1, -1 };
    struct world w;
    (void)state;
    begin(&w);
    use(&w, with_pieces(&w, piece, score, AT_COUNT(piece)));
    encode(&w, "abc", 3, 0);
    assert_int_equal(w.ids.n, 3);
    assert_int_equal(w.ids.id[1], 259 + 5);
    assert_int_equal(w.ids.id[2], 259 + 3);
    end(&w);
}

/* A piece with a space inside: words cannot be taken one by one.              */
static void pieces_over_spaces(void **state)
{
    static const char *const piece[] = { " ", "a", "b", "a ", "a b" };
    static const float score[] = { -9, -9, -9, -1, -2 };
    struct world w;
    (void)state;
    begin(&w);
    use(&w, with_pieces(&w, piece, score, AT_COUNT(piece)));
    encode(&w, "a b", 3, 0);
    assert_int_equal(w.ids.n, 2);
    assert_int_equal(w.ids.id[0], 259);
    assert_int_equal(w.ids.id[1], 259 + 4);
    expect_spans(&w, "a b", 3);
    end(&w);
}

static void longest_special_token_wins(void **state)
{
    static const char *const special[] = { "<a>", "<a>b", "b<" };
    struct at_tok_training how = { .vocab_size = 259, .special = special,
        .n_special = 3, .bos = 0, .eos = 1, .pad = 2 };
    struct texts t = { "", 0, 0 };
    struct world w;
    struct at_tok *tok;
    (void)state;
    begin(&w);
    OK(&w.cx, at_tok_train(&w.cx, &w.cx.run, texts_next, &t, &how, &tok));
    use(&w, tok);
    encode(&w, "<a>b<a>", 7, AT_TOK_SPECIAL);
    assert_int_equal(w.ids.n, 2);
    assert_int_equal(w.ids.id[0], 1);
    assert_int_equal(w.ids.id[1], 0);
    assert_int_equal(w.ids.start[1], 4);
    assert_int_equal(at_tok_pad(tok), 2);
    end(&w);
}

static void decoding_step_by_step(void **state)
{
    static const char text[] = "the clock \xF0\x9F\x90\x88";
    struct at_text t = { 0 };
    struct world w;
    int32_t bad = LLAMA2C_SIZE;
    char *back;
    size_t n;
    (void)state;
    begin(&w);
    use(&w, golden_llama2c(&w));
    encode(&w, text, sizeof text - 1, AT_TOK_BOS);
    for (size_t i = 1; i < w.ids.n; i++) {
        const char *s = at_tok_step(w.tok, w.ids.id[i - 1], w.ids.id[i], &n);
        at_text_add(&t, s, n);
    }
    assert_string_equal(t.s, text);
    at_text_finish(&t);
    assert_null(at_tok_step(w.tok, 1, bad, &n));
    assert_null(at_tok_piece(w.tok, -1, &n));
    assert_int_equal(at_tok_decode(&w.cx, &w.cx.run, w.tok, &bad, 1, false,
                                   &back, &n), AT_EINVAL);
    end(&w);
}

static void threads_share_a_tokenizer(void **state)
{
    enum { THREADS = 4 };
    struct at_ctx cx[THREADS];
    struct at_tok_ids ids[THREADS] = { 0 };
    struct world w;
    char *s;
    int failed = 0;
    (void)state;
    begin(&w);
    s = babble(&w.cx, 200000);
    w.tok = golden_bpe(&w);
#pragma omp parallel for num_threads(THREADS) reduction(+ : failed)
    for (int t = 0; t < THREADS; t++) {
        struct at_tok_coder *c = NULL;
        at_ctx_init(&cx[t]);
        failed += at_tok_coder_create(&cx[t], w.tok, &c) < 0;
        failed += at_tok_encode(&cx[t], c, s, 200000, 0, &ids[t]) < 0;
        at_tok_coder_destroy(c);
        at_ctx_finish(&cx[t]);
    }
    assert_int_equal(failed, 0);
    for (int t = 0; t < THREADS; t++) {
        assert_int_equal(ids[t].n, ids[0].n);
        assert_memory_equal(ids[t].id, ids[0].id, ids[0].n * sizeof *ids->id);
        if (t)
            at_tok_ids_finish(&ids[t]);
    }
    at_tok_ids_finish(&ids[0]);
    end(&w);
}

/* ---- the byte form ------------------------------------------------------------------ */

static unsigned char *copy_blob(struct world *w, const struct at_tok *tok,
                                size_t *n)
{
    const void *blob = at_tok_save(tok, n);
    unsigned char *copy = at_alloc(&w->cx, &w->cx.run, *n);
    memcpy(copy, blob, *n);
    return copy;
}

static void saved_is_loaded(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    for (int kind = 0; kind < 2; kind++) {
        struct at_tok *tok = kind ? golden_llama2c(&w) : golden_bpe(&w), *again;
        size_t n;
        unsigned char *blob = copy_blob(&w, tok, &n);
        OK(&w.cx, at_tok_load(&w.cx, &w.cx.run, blob, n, &again));
        memset(blob, 0, n);                 /* it was copied                 */
        assert_true(at_hash_equal(at_tok_hash(tok), at_tok_hash(again)));
        use(&w, again);
        expect_fixture(&w, "texts", kind ? "llama2c" : "bpe", 0);
    }
    end(&w);
}

static void expect_refused(struct world *w, const unsigned char *blob,
                           size_t n)
{
    struct at_tok *tok;
    assert_int_equal(at_tok_load(&w->cx, &w->cx.scratch, blob, n, &tok),
                     AT_EFORMAT);
    at_arena_reset(&w->cx.scratch);
}

static void damage_is_refused(void **state)
{
    struct world w;
    (void)state;
    begin(&w);
    for (int kind = 0; kind < 2; kind++) {
        struct at_tok *tok = kind ? golden_llama2c(&w) : golden_bpe(&w);
        size_t n;
        unsigned char *blob = copy_blob(&w, tok, &n);
        for (size_t i = 0; i < n; i++)
            expect_refused(&w, blob, i);
        for (size_t i = 0; i < n; i++) {
            blob[i] ^= (unsigned char)(1 << i % 8);
            expect_refused(&w, blob, n);
            blob[i] ^= (unsigned char)(1 << i % 8);
        }
    }
    end(&w);
}

static void put32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> 8 * i);
}

static void seal(unsigned char *blob, size_t n)
{
    uint64_t h = at_hash(blob + 16, n - 16).lo;
    put32(blob + 8, (uint32_t)h);
    put32(blob + 12, (uint32_t)(h >> 32));
}

/* Blobs with a right checksum that say what cannot be.                       */
static void nonsense_is_refused(void **state)
{
    enum { N = 520, MERGES = 263, LENGTHS = 64, MERGE = LENGTHS + 4 * N,
           TYPE = MERGE + 12 * MERGES, PATTERN = TYPE + N };
    static const struct { size_t at; uint32_t v; const char *why; } bad[] = {
        { 16, 2, "version" }, { 20, 1, "traits" }, { 52, 99, "traits" }, { 24, 99, "kind" },
        { 24, 2, "size" }, { 28, N - 1, "size" }, { 32, MERGES + 1, "size" },
        { 36, 5000, "range" }, { 40, N, "bos" }, { 44, 300, "eos" },
        { 48, (uint32_t)-2, "pad" }, { 56, 1, "size" }, { 60, 1, "range" },
        { LENGTHS, 0, "length" }, { LENGTHS, 5000, "length" },
        { LENGTHS + 4, 2, "type" }, { LENGTHS + 4 * N - 4, 1, "fewer" },
        { MERGE, N, "merge 0" }, { MERGE + 4, 5, "merge 0" },
        { MERGE + 8, 400, "merge 0" }, { MERGE + 12, 0, "merge 1" },
        { TYPE, 7, "type" }, { TYPE + 4, 0, "byte" },
        { PATTERN + 20, 0, "zero byte" },
    };
    struct world w;
    unsigned char *blob, keep[4];
    size_t n;
    struct at_tok *tok;
    (void)state;
    begin(&w);
    tok = golden_bpe(&w);
    blob = copy_blob(&w, tok, &n);
    assert_int_equal(tok_u32(blob + 32), MERGES);
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        memcpy(keep, blob + bad[i].at, 4);
        put32(blob + bad[i].at, bad[i].v);
        seal(blob, n);
        expect_refused(&w, blob, n);
        if (!strstr(w.cx.err.msg, bad[i].why))
            print_error("row %zu: %s\n", i, w.cx.err.msg);
        assert_non_null(strstr(w.cx.err.msg, bad[i].why));
        memcpy(blob + bad[i].at, keep, 4);
    }
    seal(blob, n);
    OK(&w.cx, at_tok_load(&w.cx, &w.cx.run, blob, n, &tok));
    end(&w);
}

static void bad_files_are_refused(void **state)
{
    char path[] = "/tmp/attune-tokenizer-XXXXXX";
    struct world w;
    struct at_tok *tok;
    char *s;
    size_t n;
    int fd = mkstemp(path);
    (void)state;
    assert_true(fd >= 0);
    close(fd);
    begin(&w);
    assert_int_equal(at_tok_load_llama2c(&w.cx, &w.cx.run, "/nonexistent", 512,
                                         &tok), AT_ENOENT);
    assert_int_equal(at_tok_load_llama2c(&w.cx, &w.cx.run, GOLDEN
                     "tokenizer.bin", LLAMA2C_SIZE - 1, &tok), AT_EFORMAT);
    assert_int_equal(at_tok_load_llama2c(&w.cx, &w.cx.run, GOLDEN
                     "tokenizer.bin", LLAMA2C_SIZE + 1, &tok), AT_EFORMAT);
    assert_int_equal(at_tok_load_llama2c(&w.cx, &w.cx.run, GOLDEN
                     "tokenizer.bin", 100, &tok), AT_EINVAL);
    assert_int_equal(at_tok_load_gpt2(&w.cx, &w.cx.run, GOLDEN "vocab.bpe",
                     GOLDEN "vocab.bpe", &tok), AT_EFORMAT);
    assert_int_equal(at_tok_load_gpt2(&w.cx, &w.cx.run, GOLDEN "encoder.json",
                     GOLDEN "corpus.txt", &tok), AT_EFORMAT);
    OK(&w.cx, at_read_file(&w.cx, &w.cx.run, GOLDEN "tokenizer.bin", 0, &s,
                           &n));
    for (size_t i = 0; i < n; i += 97) {
        FILE *f = fopen(path, "wb");
        assert_int_equal(fwrite(s, 1, i, f), i);
        fclose(f);
        assert_int_equal(at_tok_load_llama2c(&w.cx, &w.cx.scratch, path,
                                             LLAMA2C_SIZE, &tok), AT_EFORMAT);
    }
    unlink(path);
    end(&w);
}

/* ---- memory running out --------------------------------------------------------------- */

static int all_of_it(struct at_ctx *cx, struct at_tok_coder **coder,
                     struct at_tok_ids *ids)
{
    static const char text[] = "the clock's\xFF <|endoftext|> "
        "supercalifragilisticexpialidocious\xE9\x90\x98\xE9\x90\x98\xE9\x90";
    struct at_tok_training how = { .vocab_size = 270, .special = end_of_text,
                                   .n_special = 1, .pad = AT_TOK_NONE };
    struct texts t = { text, sizeof text - 1, 20 };
    struct at_tok *tok[3], *again;
    const void *blob;
    char *back;
    size_t n;
    int rc;
    if ((rc = at_tok_load_gpt2(cx, &cx->run, GOLDEN "encoder.json",
                               GOLDEN "vocab.bpe", &tok[0])) < 0 ||
        (rc = at_tok_load_llama2c(cx, &cx->run, GOLDEN "tokenizer.bin",
                                  LLAMA2C_SIZE, &tok[1])) < 0 ||
        (rc = at_tok_train(cx, &cx->run, texts_next, &t, &how, &tok[2])) < 0)
        return rc;
    for (int i = 0; i < 3; i++) {
        at_tok_coder_destroy(*coder);
        *coder = NULL;
        blob = at_tok_save(tok[i], &n);
        if ((rc = at_tok_load(cx, &cx->run, blob, n, &again)) < 0 ||
            (rc = at_tok_coder_create(cx, again, coder)) < 0 ||
            (rc = at_tok_encode(cx, *coder, text, sizeof text - 1,
                                AT_TOK_BOS | AT_TOK_SPECIAL, ids)) < 0 ||
            (rc = at_tok_decode(cx, &cx->run, again, ids->id, ids->n, false,
                                &back, &n)) < 0)
            return rc;
        ids->n = 0;
    }
    return AT_OK;
}

static void every_allocation_may_fail(void **state)
{
    long n = 0;
    int rc;
    (void)state;
    do {
        struct at_tok_coder *coder = NULL;
        struct at_tok_ids ids = { 0 };
        struct at_ctx cx;
        at_ctx_init(&cx);
        cx.n_threads = 1;
        cx.fail_after = ++n;
        rc = all_of_it(&cx, &coder, &ids);
        if (rc < 0) {
            assert_int_equal(rc, AT_ENOMEM);
            assert_int_equal(cx.err.code, AT_ENOMEM);
        }
        at_tok_coder_destroy(coder);
        at_tok_ids_finish(&ids);
        at_ctx_finish(&cx);
        assert_true(n < 10000);
    } while (rc < 0);
    assert_true(n > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stories260k_ids),
        cmocka_unit_test(gpt2_vectors),
        cmocka_unit_test(llama_vectors),
        cmocka_unit_test(byte_bpe_as_hugging_face),
        cmocka_unit_test(llama2c_as_llama2c),
        cmocka_unit_test(merges_as_hugging_face),
        cmocka_unit_test(training_is_a_function_of_the_text),
        cmocka_unit_test(training_refuses),
        cmocka_unit_test(small_texts_give_small_vocabularies),
        cmocka_unit_test(scanner_equals_pcre2),
        cmocka_unit_test(cuts_change_no_word),
        cmocka_unit_test(other_patterns),
        cmocka_unit_test(endless_patterns_are_refused),
        cmocka_unit_test(random_bytes_round_trip),
        cmocka_unit_test(long_words),
        cmocka_unit_test(bos_eos_and_special),
        cmocka_unit_test(leftmost_of_equal_scores),
        cmocka_unit_test(pieces_over_spaces),
        cmocka_unit_test(longest_special_token_wins),
        cmocka_unit_test(decoding_step_by_step),
        cmocka_unit_test(threads_share_a_tokenizer),
        cmocka_unit_test(saved_is_loaded),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
