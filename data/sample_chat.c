/* Conversations. */
#include "data/sample_parts.h"

#include <string.h>

/* "messages" of role and content, or ShareGPT's "conversations" of from and
 * value.                                                                      */
const json_t *sample_conversation(const json_t *v)
{
    const json_t *list = json_object_get(v, "messages");
    if (!json_is_array(list))
        list = json_object_get(v, "conversations");
    return json_is_array(list) ? list : NULL;
}

/* The words of a turn: a text, or OpenAI's list of parts that are texts; *words
 * NULL: neither.                                                              */
static int words_of(struct at_ctx *cx, struct at_samples *s,
                    const json_t *content, const char **words, size_t *n)
{
    struct at_text t = { 0 };
    json_t *part;
    size_t i;
    int rc;
    *words = json_string_value(content);
    *n = json_string_length(content);
    if (json_array_size(content) == 0)
        return AT_OK;
    json_array_foreach(content, i, part) {
        const json_t *text = json_object_get(part, "text");
        if (!json_is_string(text)) {
            at_text_finish(&t);
            return AT_OK;
        }
        at_text_add(&t, json_string_value(text), json_string_length(text));
    }
    rc = at_text_ok(cx, &t);
    *n = t.n;
    if (rc == AT_OK && !(*words = at_strndup(cx, &s->texts, t.s ? t.s : "", t.n)))
        rc = AT_ENOMEM;
    at_text_finish(&t);
    return rc;
}

/* What is wrong with a turn that has no words, or not all that it says.        */
static void no_words(const json_t *o, const json_t *content, size_t i,
                     char why[256])
{
    snprintf(why, 256, json_array_size(json_object_get(o, "tool_calls"))
             ? "turn %zu calls tools, which attune does not render"
             : json_is_array(content)
             ? "turn %zu has parts that are no texts: only {\"type\": "
               "\"text\", \"text\": ..} is read"
             : content && !json_is_null(content)
             ? "turn %zu has content that is no text"
             : "turn %zu has no text", i + 1);
}

static int read_turn(struct at_ctx *cx, struct at_samples *s, const json_t *o,
                     size_t i, struct at_chat_turn *turn, char why[256])
{
    const char *role = json_string_value(json_object_get(o, "role"));
    const json_t *content = json_object_get(o, "content");
    int rc;
    if (!role)
        role = json_string_value(json_object_get(o, "from"));
    if (!content)
        content = json_object_get(o, "value");
    if (!role || !at_chat_role_find(role, &turn->role)) {
        snprintf(why, 256, "turn %zu has the role '%.40s'; roles are system, "
                 "user (human), assistant (gpt) and tool", i + 1,
                 role ? role : "");
        return AT_OK;
    }
    rc = words_of(cx, s, content, &turn->text, &turn->n);
    if (rc == AT_OK && turn->text)
        rc = sample_compose(cx, s, &turn->text, &turn->n);
    if (rc == AT_OK && (!turn->text ||
                        json_array_size(json_object_get(o, "tool_calls"))))
        no_words(o, content, i, why);
    return rc;
}

int sample_from_conversation(struct at_ctx *cx, struct at_samples *s,
                             const json_t *list, struct at_sample *out,
                             char why[256])
{
    size_t n = json_array_size(list);
    struct at_chat_turn *turn = at_alloc_n(cx, &s->texts, n + 1, sizeof *turn);
    struct at_chat_text *text = at_alloc(cx, &s->texts, sizeof *text);
    int rc = AT_OK;
    if (!turn || !text)
        return AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK && !*why; i++)
        rc = read_turn(cx, s, json_array_get(list, i), i, &turn[i], why);
    if (rc < 0 || *why)
        return rc;
    rc = at_chat_render(cx, &s->texts, s->o->chat, s->o->tok, turn, n, false,
                        text, why);
    out->text = text->s;
    out->n = text->n;
    out->chat = text;
    out->pair = !s->o->label;
    return rc;
}

int sample_choose_chat(struct at_ctx *cx, struct at_samples *s)
{
    if (!s->o->chat)
        return at_fail(cx, AT_EINVAL, "the samples are conversations: say by "
                       "which template the model reads them, --chat NAME (%s)",
                       at_chat_names());
    snprintf(s->stats->template, sizeof s->stats->template, "chat: %s",
             s->o->chat->name);
    s->stats->pairs = !s->o->label;
    s->chat = true;
    return AT_OK;
}
