/* Which chat template: the one that is named, or the model's own. */
#include "train/chat_choice.h"

#include "train/hf_folder.h"

#include <string.h>

int at_chat_own(struct at_ctx *cx, struct at_h5 *f, const char **jinja)
{
    json_t *config = NULL;
    const char *text;
    char *bytes;
    size_t n;
    int rc = at_hf_kept(cx, f, "chat_template.jinja", &bytes, &n);
    *jinja = NULL;
    if (rc == AT_OK && bytes) {
        *jinja = at_strndup(cx, &cx->run, bytes, n);
        return *jinja ? AT_OK : AT_ENOMEM;
    }
    if (rc == AT_OK)
        rc = at_hf_kept_json(cx, f, "tokenizer_config.json", &config);
    text = json_string_value(json_object_get(config, "chat_template"));
    if (rc == AT_OK && text && !(*jinja = at_strdup(cx, &cx->run, text)))
        rc = AT_ENOMEM;
    json_decref(config);
    return rc;
}

int at_chat_choose(struct at_ctx *cx, struct at_h5 *f, const char *path,
                   const char *name, const struct at_chat **c)
{
    const char *jinja = NULL;
    int rc = AT_OK;
    *c = name ? at_chat_find(name) : NULL;
    if (*c)
        return AT_OK;
    if (name && strcmp(name, "auto") != 0)
        return at_fail(cx, AT_EINVAL, "there is no chat template '%s'; there "
                       "are %s, and auto: the model's own", name,
                       at_chat_names());
    rc = at_chat_own(cx, f, &jinja);
    *c = rc == AT_OK && jinja ? at_chat_recognise(jinja) : NULL;
    if (rc < 0 || !name || *c)
        return rc;
    if (!jinja)
        return at_fail(cx, AT_EINVAL, "%s has no chat template of its own: name "
                       "one by --chat (%s)", path, at_chat_names());
    return at_fail(cx, AT_EINVAL, "%s: its chat template is none that attune "
                   "knows for sure (it may add words, tools or dates): name "
                   "the nearest by --chat (%s) and look at the result with "
                   "'attune inspect DATA.h5 --sample 1'", path,
                   at_chat_names());
}

void at_chat_warn(struct at_ctx *cx, const struct at_chat *c,
                  const struct at_tok *tok)
{
    int32_t end = at_chat_end_token(c, tok);
    const char *after = c->turn[AT_CHAT_ASSISTANT].after;
    after += strspn(after, " ");
    if (end == AT_TOK_NONE)
        at_log(cx, AT_LOG_WARN, "the tokenizer has no special token '%s', with "
               "which the template '%s' ends an answer: the model learns to "
               "write it letter by letter.  Is it the model's own template?",
               after, c->name);
    else if (end != at_tok_eos(tok))
        at_log(cx, AT_LOG_WARN, "the template '%s' ends an answer with '%s', "
               "which is not the tokenizer's eos: draw from the model with "
               "'attune generate --chat %s', or other programs' stop token set "
               "to %d", c->name, after, c->name, end);
}
