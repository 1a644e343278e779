/* Chat templates: the table, and one renderer. */
#include "data/chat.h"

#include <string.h>

const char *const at_chat_role_names[AT_CHAT_ROLES] = { "system", "user",
                                                        "assistant", "tool" };

static const struct at_chat chats[] = {
    { .name = "chatml",
      .turn = { { "<|im_start|>system\n", "<|im_end|>\n" },
                { "<|im_start|>user\n", "<|im_end|>\n" },
                { "<|im_start|>assistant\n", "<|im_end|>" },
                { "<|im_start|>tool\n", "<|im_end|>\n" } },
      .rest = "\n" },
    { .name = "llama2",
      .turn = { { "<<SYS>>\n", "\n<</SYS>>\n\n" },
                { "{bos}[INST] ", " [/INST]" }, { "", " {eos}" } },
      .lead = " ", .system_within = true, .trim = true, .alternate = true },
    { .name = "llama3", .begin = "{bos}",
      .turn = { { "<|start_header_id|>system<|end_header_id|>\n\n",
                  "<|eot_id|>" },
                { "<|start_header_id|>user<|end_header_id|>\n\n",
                  "<|eot_id|>" },
                { "<|start_header_id|>assistant<|end_header_id|>\n\n",
                  "<|eot_id|>" },
                { "<|start_header_id|>tool<|end_header_id|>\n\n",
                  "<|eot_id|>" } },
      .trim = true },
    { .name = "mistral", .begin = "{bos}",
      .turn = { [AT_CHAT_USER] = { "[INST] ", " [/INST]" },
                [AT_CHAT_ASSISTANT] = { "", "{eos}" } },
      .alternate = true },
    { .name = "zephyr",
      .turn = { { "<|system|>\n", "{eos}\n" }, { "<|user|>\n", "{eos}\n" },
                { "<|assistant|>\n", "{eos}" } },
      .rest = "\n" },
    { .name = "gemma", .begin = "{bos}",
      .turn = { [AT_CHAT_USER] = { "<start_of_turn>user\n",
                                   "<end_of_turn>\n" },
                [AT_CHAT_ASSISTANT] = { "<start_of_turn>model\n",
                                        "<end_of_turn>" } },
      .rest = "\n", .trim = true, .alternate = true },
    { .name = "phi3",
      .turn = { { "<|system|>\n", "<|end|>\n" }, { "<|user|>\n", "<|end|>\n" },
                { "<|assistant|>\n", "<|end|>" } },
      .rest = "\n", .end = "{eos}" },
    { .name = "alpaca",
      .turn = { { "", "\n\n" }, { "### Instruction:\n", "\n\n" },
                { "### Response:\n", "{eos}" } },
      .again = "\n\n",
      .preamble = "Below is an instruction that describes a task. Write a "
                  "response that appropriately completes the request." },
};

const struct at_chat *at_chat_find(const char *name)
{
    for (size_t i = 0; i < AT_COUNT(chats); i++)
        if (strcmp(chats[i].name, name) == 0)
            return &chats[i];
    return NULL;
}

const char *at_chat_names(void)
{
    return "chatml, llama2, llama3, mistral, zephyr, gemma, phi3, alpaca";
}

/* Templates that add words of their own, dates or tools are none of the table,
 * nor are those that look alike but for the ends of turns.                    */
const struct at_chat *at_chat_recognise(const char *jinja)
{
    static const char *const more[] = { "You are", "tools", "strftime",
                                        "enable_thinking", "<|im_sep|>" };
    static const struct { const char *has, *and, *name; } marks[] = {
        { "<|im_start|>", "<|im_end|>", "chatml" },
        { "<|start_header_id|>", "<|eot_id|>", "llama3" },
        { "<start_of_turn>", "<end_of_turn>\\n", "gemma" },
        { "<start_of_turn>", "<end_of_turn>\n", "gemma" },
        { "<|end|>", "<|assistant|>", "phi3" },
        { "'<|user|>\\n' + message['content'] + eos_token", "", "zephyr" },
        { "'<|user|>\n' + message['content'] + eos_token", "", "zephyr" },
        { "<<SYS>>", "[INST]", "llama2" }, { "'[INST] '", "eos_token", "mistral" },
        { "### Instruction:", "### Response:", "alpaca" },
    };
    for (size_t i = 0; i < AT_COUNT(more); i++)
        if (strstr(jinja, more[i]))
            return NULL;
    for (size_t i = 0; i < AT_COUNT(marks); i++)
        if (strstr(jinja, marks[i].has) && strstr(jinja, marks[i].and))
            return at_chat_find(marks[i].name);
    return NULL;
}

bool at_chat_role_find(const char *name, enum at_chat_role *role)
{
    static const struct { const char *name; enum at_chat_role role; } other[] = {
        { "human", AT_CHAT_USER }, { "gpt", AT_CHAT_ASSISTANT },
        { "model", AT_CHAT_ASSISTANT }, { "bot", AT_CHAT_ASSISTANT },
        { "function", AT_CHAT_TOOL }, { "observation", AT_CHAT_TOOL },
    };
    for (int i = 0; i < AT_CHAT_ROLES; i++)
        if (strcmp(name, at_chat_role_names[i]) == 0) {
            *role = (enum at_chat_role)i;
            return true;
        }
    for (size_t i = 0; i < AT_COUNT(other); i++)
        if (strcmp(name, other[i].name) == 0) {
            *role = other[i].role;
            return true;
        }
    return false;
}

/* ---- rendering ---------------------------------------------------------------- */

struct rendering {
    const struct at_tok *tok;
    struct at_chat_text *out;
    struct at_text t;
};

static void put_end(struct rendering *r, int32_t id)
{
    size_t n;
    const char *s = at_tok_piece(r->tok, id, &n);
    if (s)
        at_text_add(&r->t, s, n);
}

/* The template's own words.                                                   */
static void own(struct rendering *r, const char *s)
{
    struct at_tok_span *span = &r->out->own[r->out->n_own];
    if (!s || !*s)
        return;
    span->from = r->t.n;
    while (*s) {
        if (strncmp(s, "{bos}", 5) == 0 || strncmp(s, "{eos}", 5) == 0) {
            put_end(r, s[1] == 'b' ? at_tok_bos(r->tok) : at_tok_eos(r->tok));
            s += 5;
        } else {
            at_text_add(&r->t, s++, 1);
        }
    }
    span->to = r->t.n;
    r->out->n_own++;
}

/* What Python's strip takes off, as far as it is ASCII; behind the system's
 * words at the end only.                                                      */
static void words(struct rendering *r, const struct at_chat *c,
                  const struct at_chat_turn *turn, bool behind)
{
    static const char space[] = " \t\n\r\v\f";
    const char *s = turn->text;
    size_t n = turn->n;
    while (c->trim && !behind && n > 0 && memchr(space, *s, sizeof space - 1))
        s++, n--;
    while (c->trim && n > 0 && memchr(space, s[n - 1], sizeof space - 1))
        n--;
    at_text_add(&r->t, s, n);
}

static void put_turn(struct rendering *r, const struct at_chat *c,
                     const struct at_chat_turn *turn, bool first_user,
                     const struct at_chat_turn *within)
{
    const char *before = c->turn[turn->role].before;
    size_t from;
    if (turn->role == AT_CHAT_USER && !first_user)
        own(r, c->again);
    own(r, before);
    if (turn->role == AT_CHAT_USER && within) {
        own(r, c->turn[AT_CHAT_SYSTEM].before);
        at_text_add(&r->t, within->text, within->n);
        own(r, c->turn[AT_CHAT_SYSTEM].after);
    }
    from = r->t.n;
    if (turn->role == AT_CHAT_ASSISTANT)
        own(r, c->lead);
    words(r, c, turn, turn->role == AT_CHAT_USER && within);
    own(r, c->turn[turn->role].after);
    if (turn->role == AT_CHAT_ASSISTANT) {
        r->out->answer[r->out->n_answers++] =
            (struct at_tok_span){ from, r->t.n };
        own(r, c->rest);
    }
}

/* Turns that are rendered: up to the last answer, or all.                      */
static size_t turns(const struct at_chat_turn *turn, size_t n, bool ask)
{
    while (!ask && n > 0 && turn[n - 1].role != AT_CHAT_ASSISTANT)
        n--;
    return n;
}

/* White space that a turn begins with.                                        */
static size_t blank(const struct at_chat_turn *turn)
{
    size_t n = 0;
    while (n < turn->n && memchr(" \t\n\r\v\f", turn->text[n], 6))
        n++;
    return n;
}

static bool is_wrong(const struct at_chat *c, const struct at_chat_turn *turn,
                     size_t n, bool ask, char why[256])
{
    enum at_chat_role want = AT_CHAT_USER;
    if (n == 0)
        snprintf(why, 256, ask ? "the conversation is empty"
                               : "the conversation has no answer");
    for (size_t i = 0; i < n && !*why; i++) {
        enum at_chat_role role = turn[i].role;
        if (!c->turn[role].before)
            snprintf(why, 256, "turn %zu is the %s's, and the template '%s' has "
                     "no such turns", i + 1, at_chat_role_names[role], c->name);
        else if (role == AT_CHAT_SYSTEM && c->system_within && i > 0)
            snprintf(why, 256, "turn %zu is the system's, which the template "
                     "'%s' has at the beginning only", i + 1, c->name);
        else if (c->alternate && role != AT_CHAT_SYSTEM && role != want)
            snprintf(why, 256, "turn %zu is the %s's again: with the template "
                     "'%s' user and assistant take turns, the user first", i + 1,
                     at_chat_role_names[role], c->name);
        else if (role == AT_CHAT_ASSISTANT && turn[i].n == blank(&turn[i]))
            snprintf(why, 256, "turn %zu is an empty answer, which would teach "
                     "to say nothing", i + 1);
        if (role != AT_CHAT_SYSTEM)
            want = role == AT_CHAT_USER ? AT_CHAT_ASSISTANT : AT_CHAT_USER;
    }
    if (!*why && ask && turn[n - 1].role == AT_CHAT_ASSISTANT)
        snprintf(why, 256, "the conversation ends in an answer: there is nothing "
                 "to say");
    return *why != '\0';
}

static void put_all(struct rendering *r, const struct at_chat *c,
                    const struct at_chat_turn *turn, size_t n, bool ask)
{
    const struct at_chat_turn *within = NULL;
    bool first_user = true;
    own(r, c->begin);
    if (c->preamble && turn[0].role != AT_CHAT_SYSTEM) {
        own(r, c->preamble);
        own(r, c->turn[AT_CHAT_SYSTEM].after);
    }
    for (size_t i = 0; i < n; i++) {
        if (turn[i].role == AT_CHAT_SYSTEM && c->system_within) {
            within = &turn[i];
            continue;
        }
        put_turn(r, c, &turn[i], first_user, within);
        if (turn[i].role == AT_CHAT_USER) {
            first_user = false;
            within = NULL;
        }
    }
    own(r, ask ? c->turn[AT_CHAT_ASSISTANT].before : c->end);
}

int at_chat_render(struct at_ctx *cx, struct at_arena *a,
                   const struct at_chat *c, const struct at_tok *tok,
                   const struct at_chat_turn *turn, size_t n, bool ask,
                   struct at_chat_text *out, char why[256])
{
    enum { OWN_A_TURN = 7, OWN = 4 };
    struct rendering r = { tok, out, { 0 } };
    int rc;
    *why = '\0';
    *out = (struct at_chat_text){ 0 };
    n = turns(turn, n, ask);
    if (is_wrong(c, turn, n, ask, why))
        return AT_OK;
    out->answer = at_alloc_n(cx, a, n + 1, sizeof *out->answer);
    out->own = at_alloc_n(cx, a, OWN_A_TURN * n + OWN, sizeof *out->own);
    if (!out->answer || !out->own)
        return AT_ENOMEM;
    put_all(&r, c, turn, n, ask);
    rc = at_text_ok(cx, &r.t);
    if (rc == AT_OK) {
        out->s = at_strndup(cx, a, r.t.s, r.t.n);
        out->n = r.t.n;
        rc = out->s ? AT_OK : AT_ENOMEM;
    }
    at_text_finish(&r.t);
    return rc;
}

int32_t at_chat_end_token(const struct at_chat *c, const struct at_tok *tok)
{
    const char *after = c->turn[AT_CHAT_ASSISTANT].after;
    after += strspn(after, " ");
    return strcmp(after, "{eos}") == 0 ? at_tok_eos(tok)
                                       : at_tok_special(tok, after);
}
