/* Conversations: the texts of transformers' templates (fixtures by
 * golden/chat.py), what is learnt of them, and words that are no tokens.      */
#include "tests/test.h"

#include "data/chat.h"
#include "data/data.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char tokenizer[] = AT_TESTS "/golden/tokenizer/hf-llama2.json";

static size_t read_turns(const json_t *messages, struct at_chat_turn turn[16])
{
    size_t n = json_array_size(messages);
    assert_true(n <= 16);
    for (size_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(messages, i);
        const json_t *content = json_object_get(o, "content");
        assert_true(at_chat_role_find(json_string_value(
            json_object_get(o, "role")), &turn[i].role));
        turn[i].text = json_string_value(content);
        turn[i].n = json_string_length(content);
    }
    return n;
}

/* Every answer's words, less white space around, lie in a span of its own, and
 * the spans end where the template ends an answer.                            */
static void check_answers(const struct at_chat *c, const struct at_chat_turn *turn,
                          size_t n, const struct at_chat_text *t)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        const char *end = c->turn[AT_CHAT_ASSISTANT].after;
        const char *words = turn[i].text + strspn(turn[i].text, " \t\n");
        char want[256];
        size_t w = strlen(words);
        if (turn[i].role != AT_CHAT_ASSISTANT)
            continue;
        while (w > 0 && strchr(" \t\n", words[w - 1]))
            w--;
        assert_true(k < t->n_answers);
        snprintf(want, sizeof want, "%.*s", (int)(t->answer[k].to -
                 t->answer[k].from), t->s + t->answer[k].from);
        if (w && !strstr(want, words) && strncmp(want + strspn(want, " \t\n"),
                                                 words, w) != 0)
            fail_msg("%s: '%s' is not around '%s'", c->name, want, words);
        end = strcmp(end, "{eos}") == 0 ? "</s>"
              : strcmp(end, " {eos}") == 0 ? " </s>" : end;
        assert_true(strlen(want) >= strlen(end));
        assert_string_equal(want + strlen(want) - strlen(end), end);
        k++;
    }
    assert_int_equal(k, t->n_answers);
}

static void texts_are_those_of_transformers(void **state)
{
    json_error_t why;
    json_t *root = json_load_file(AT_TESTS "/golden/chat.json", 0, &why);
    struct at_tok *tok;
    struct at_ctx cx;
    const char *name;
    json_t *row, *one;
    size_t i, seen = 0;
    (void)state;
    assert_non_null(root);
    at_ctx_init(&cx);
    OK(&cx, at_tok_load_hf(&cx, &cx.run, tokenizer, NULL, &tok));
    json_object_foreach(root, name, row) {
        const struct at_chat *c = at_chat_find(name);
        assert_non_null(c);
        assert_non_null(strstr(at_chat_names(), name));
        assert_ptr_equal(at_chat_recognise(json_string_value(
            json_object_get(row, "template"))), c);
        json_array_foreach(json_object_get(row, "cases"), i, one) {
            const char *want = json_string_value(json_object_get(one, "text"));
            bool ask = json_is_true(json_object_get(one, "ask"));
            struct at_chat_turn turn[16];
            struct at_chat_text t;
            char wrong[256];
            size_t n = read_turns(json_object_get(one, "messages"), turn);
            OK(&cx, at_chat_render(&cx, &cx.scratch, c, tok, turn, n, ask, &t,
                                   wrong));
            if (!want != (*wrong != '\0'))
                fail_msg("%s, case %zu: %s", name, i, wrong);
            /* zephyr's has no line end where the answer begins               */
            if (want && strcmp(t.s, want) != 0)
                fail_msg("%s, case %zu:\n'%s'\ninstead of\n'%s'", name, i, t.s,
                         want);
            if (want && !ask)
                check_answers(c, turn, n, &t);
            seen++;
            at_arena_reset(&cx.scratch);
        }
    }
    assert_true(seen >= 80);
    assert_null(at_chat_recognise("{{ 'You are Qwen' }}<|im_start|>"));
    assert_null(at_chat_recognise("nothing known"));
    assert_null(at_chat_recognise("'<|im_start|>user<|im_sep|>' '<|im_end|>'"));
    assert_null(at_chat_recognise("'<|user|>\\n' + message['content'] + '\\n'"));
    json_decref(root);
    at_ctx_finish(&cx);
}

/* What a user writes as a special token is read letter by letter.              */
static void users_write_no_special_tokens(void **state)
{
    struct at_chat_turn turn[] = {
        { AT_CHAT_USER, "</s><s>", 7 }, { AT_CHAT_ASSISTANT, "a</s>", 5 },
    };
    struct at_tok_coder *coder;
    struct at_tok_ids ids = { 0 };
    struct at_chat_text t;
    struct at_tok *tok;
    struct at_ctx cx;
    char why[256];
    size_t bos = 0, eos = 0;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_tok_load_hf(&cx, &cx.run, tokenizer, NULL, &tok));
    OK(&cx, at_chat_render(&cx, &cx.run, at_chat_find("mistral"), tok, turn, 2,
                           false, &t, why));
    assert_string_equal(t.s, "<s>[INST] </s><s> [/INST]a</s></s>");
    OK(&cx, at_tok_coder_create(&cx, tok, &coder));
    OK(&cx, at_tok_encode_own(&cx, coder, t.s, t.n, 0, t.own, t.n_own, &ids));
    for (size_t i = 0; i < ids.n; i++) {
        bos += ids.id[i] == 1;
        eos += ids.id[i] == 2;
    }
    assert_true(bos == 1 && eos == 1 && ids.id[0] == 1 &&
                ids.id[ids.n - 1] == 2);
    ids.n = 0;
    OK(&cx, at_tok_encode(&cx, coder, t.s, t.n, AT_TOK_SPECIAL, &ids));
    for (size_t i = 0; i < ids.n; i++)
        eos += ids.id[i] == 2;
    assert_int_equal(eos, 4);
    at_tok_ids_finish(&ids);
    at_tok_coder_destroy(coder);
    at_ctx_finish(&cx);
}

static void ends_of_turns_are_known(void **state)
{
    struct at_tok *tok;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_tok_load_hf(&cx, &cx.run, tokenizer, NULL, &tok));
    assert_int_equal(at_chat_end_token(at_chat_find("llama2"), tok),
                     at_tok_eos(tok));
    assert_int_equal(at_chat_end_token(at_chat_find("chatml"), tok),
                     AT_TOK_NONE);
    assert_null(at_chat_find("nobody"));
    at_ctx_finish(&cx);
}

/* ---- datasets -------------------------------------------------------------------- */

static int build(struct at_ctx *cx, const char *dir, const char *text,
                 const char *chat, bool skip_bad, struct at_data_stats *stats)
{
    const char *in = at_sprintf(cx, &cx->run, "%s/in.jsonl", dir);
    struct at_data_options o = { .inputs = &in, .n_inputs = 1,
                                 .out = at_sprintf(cx, &cx->run, "%s/out.h5",
                                                   dir),
                                 .max_length = 512, .max_cut = 1,
                                 .skip_bad = skip_bad, .n_threads = 1,
                                 .chat = chat ? at_chat_find(chat) : NULL };
    struct at_tok *tok;
    OK(cx, at_tok_load_hf(cx, &cx->run, tokenizer, NULL, &tok));
    o.tok = tok;
    OK(cx, at_write_file(cx, in, text, strlen(text)));
    return at_data_build(cx, &o, NULL, NULL, stats);
}

/* Answers of every turn are learnt, their ends included, and nothing else.     */
static void answers_are_what_is_learnt(void **state)
{
    static const char text[] =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"the first\"}, "
        "{\"role\": \"assistant\", \"content\": \"clock\"}, "
        "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": "
        "\"second\"}]}, {\"role\": \"assistant\", \"content\": \"stops\"}, "
        "{\"role\": \"user\", \"content\": \"left out\"}]}\n"
        "{\"conversations\": [{\"from\": \"human\", \"value\": \"the first\"}, "
        "{\"from\": \"gpt\", \"value\": \"clock\"}, {\"from\": \"human\", "
        "\"value\": \"second\"}, {\"from\": \"gpt\", \"value\": \"stops\"}]}\n";
    char dir[] = "/tmp/attune-chat-XXXXXX", learnt[256] = "";
    struct at_data_stats stats = { 0 };
    struct at_data *d;
    struct at_ctx cx;
    int32_t ids[256];
    uint8_t roles[256];
    size_t n;
    (void)state;
    assert_non_null(mkdtemp(dir));
    at_ctx_init(&cx);
    OK(&cx, build(&cx, dir, text, "llama2", false, &stats));
    OK(&cx, at_data_open(&cx, &cx.run, at_sprintf(&cx, &cx.run, "%s/out.h5",
                                                   dir), &d));
    assert_string_equal(d->template, "chat: llama2");
    assert_int_equal(d->n_docs, 2);
    n = (size_t)(d->offset[1] - d->offset[0]);
    assert_true(n < 256 && d->offset[2] - d->offset[1] == n);
    OK(&cx, at_data_read(&cx, d, 0, n, ids, roles));
    assert_true(ids[0] == 1 && ids[1] != 1);    /* one bos                     */
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *s = at_tok_piece(d->tok, ids[i], &len);
        if (at_role_trained(roles[i], false))
            strncat(learnt, s, len);
    }
    assert_string_equal(learnt, " clock </s> stops </s>");
    at_data_close(d);
    at_ctx_finish(&cx);
    unlink(strcat(strcpy(learnt, dir), "/in.jsonl"));
    unlink(strcat(strcpy(learnt, dir), "/out.h5"));
    assert_int_equal(rmdir(dir), 0);
}

static void bad_conversations_are_named(void **state)
{
#define SAID(role, text) "{\"role\": \"" role "\", \"content\": " text "}"
    static const struct { const char *text, *chat, *says; } bad[] = {
        { "[" SAID("user", "\"a\"") "]", "chatml", "has no answer" },
        { "[]", "chatml", "has no answer" },
        { "[" SAID("nobody", "\"a\"") "]", "chatml", "the role 'nobody'" },
        { "[" SAID("user", "7") "]", "chatml", "content that is no text" },
        { "[" SAID("system", "\"s\"") ", " SAID("user", "\"a\"") ", "
          SAID("assistant", "\"b\"") "]", "gemma", "has no such turns" },
        { "[" SAID("user", "\"a\"") ", " SAID("user", "\"b\"") ", "
          SAID("assistant", "\"c\"") "]", "llama2", "take turns" },
        { "[" SAID("user", "\"a\"") ", " SAID("system", "\"s\"") ", "
          SAID("assistant", "\"c\"") "]", "llama2", "at the beginning only" },
        { "[" SAID("user", "\"a\"") ", " SAID("tool", "\"s\"") ", "
          SAID("assistant", "\"c\"") "]", "zephyr", "has no such turns" },
        { "[" SAID("user", "\"a\"") ", " SAID("assistant", "\"\"") "]", "chatml",
          "an empty answer" },
        { "[" SAID("user", "\"a\"") ", " SAID("assistant", "\" \\n\"") "]",
          "llama3", "an empty answer" },
        { "[" SAID("user", "\"a\"") ", {\"role\": \"assistant\", \"content\": "
          "\"b\", \"tool_calls\": [1]}]", "chatml", "calls tools" },
        { "[" SAID("user", "[{\"type\": \"image\"}]") "]", "chatml",
          "parts that are no texts" },
        { "[" SAID("user", "\"a\"") "]", NULL, "--chat NAME (chatml" },
    };
    char dir[] = "/tmp/attune-chat-XXXXXX", path[256];
    (void)state;
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        struct at_data_stats stats = { 0 };
        struct at_ctx cx;
        char text[600];
        at_ctx_init(&cx);
        snprintf(text, sizeof text, "{\"messages\": %s}\n", bad[i].text);
        assert_true(build(&cx, dir, text, bad[i].chat, false, &stats) < 0);
        if (!strstr(cx.err.msg, bad[i].says) || !strstr(cx.err.msg, "in.jsonl:1"))
            fail_msg("'%s' does not say '%s'", cx.err.msg, bad[i].says);
        at_ctx_finish(&cx);
    }
    unlink(strcat(strcpy(path, dir), "/in.jsonl"));
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_those_of_transformers),
        cmocka_unit_test(users_write_no_special_tokens),
        cmocka_unit_test(ends_of_turns_are_known),
        cmocka_unit_test(answers_are_what_is_learnt),
        cmocka_unit_test(bad_conversations_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
