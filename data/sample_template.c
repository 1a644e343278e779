/* How a JSON sample reads: a text with keys in braces. */
#include "data/sample_parts.h"

#include <string.h>

static int add_segment(struct at_ctx *cx, struct at_samples *s,
                       const char *text, size_t n, bool key)
{
    struct segment *g = &s->seg[s->n_seg];
    if (n == 0 && !key)
        return AT_OK;
    if (n == 0)
        return at_fail(cx, AT_EINVAL, "the template has '{}': write a key "
                       "between the braces");
    if (s->n_seg == SEGMENTS)
        return at_fail(cx, AT_EINVAL, "the template has more than %d parts",
                       SEGMENTS);
    *g = (struct segment){ at_strndup(cx, &s->arena, text, n), n, key, false };
    s->n_seg++;
    return g->text ? AT_OK : AT_ENOMEM;
}

/* Keys in braces; "\n" and "\t" may be spelled out; "{{" and "}}" are braces. */
static int parse_template(struct at_ctx *cx, struct at_samples *s,
                          const char *t)
{
    struct at_text lit = { 0 };
    int rc = AT_OK;
    while (*t && rc == AT_OK) {
        const char *close = *t == '{' ? strchr(t, '}') : NULL;
        if ((*t == '{' || *t == '}') && t[1] == *t) {
            at_text_add(&lit, t, 1);
            t += 2;
        } else if (t[0] == '\\' && (t[1] == 'n' || t[1] == 't')) {
            at_text_add(&lit, t[1] == 'n' ? "\n" : "\t", 1);
            t += 2;
        } else if (close) {
            rc = add_segment(cx, s, lit.s, lit.n, false);
            lit.n = 0;
            if (rc == AT_OK)
                rc = add_segment(cx, s, t + 1, (size_t)(close - t - 1), true);
            t = close + 1;
        } else if (*t == '{') {
            rc = at_fail(cx, AT_EINVAL, "the template has a '{' without its "
                         "'}'; a brace that is meant is written '{{'");
        } else {
            at_text_add(&lit, t++, 1);
        }
    }
    if (rc == AT_OK)
        rc = at_text_ok(cx, &lit);
    if (rc == AT_OK)
        rc = add_segment(cx, s, lit.s, lit.n, false);
    at_text_finish(&lit);
    return rc;
}

static int find_completion(struct at_ctx *cx, struct at_samples *s)
{
    static const char *const usual[] = { "completion", "answer", "output",
                                         "response", "chosen" };
    const char *said = s->o->completion;
    size_t keys = 0, found = 0;
    for (size_t i = 0; i < s->n_seg; i++) {
        struct segment *g = &s->seg[i];
        keys += g->key;
        if (g->key && said)
            g->completion = strcmp(g->text, said) == 0;
        for (size_t k = 0; g->key && !said && k < AT_COUNT(usual); k++)
            g->completion |= strcmp(g->text, usual[k]) == 0;
        found += g->completion;
        s->stats->preference |= g->completion && strcmp(g->text, "chosen") == 0;
    }
    if (keys == 0)
        return at_fail(cx, AT_EINVAL, "the template names no key: write keys in "
                       "braces, as in '{prompt}{completion}'");
    if (said && found == 0)
        return at_fail(cx, AT_EINVAL, "the completion '%s' is not a key of the "
                       "template", said);
    if (found > 1)
        return at_fail(cx, AT_EINVAL, "the template has several completions: "
                       "say which one by --completion KEY, and name it once");
    if (s->o->label && s->stats->preference)
        return at_fail(cx, AT_EINVAL, "preferences have no labels: leave --label "
                       "out");
    if (s->o->label)
        for (size_t i = 0; i < s->n_seg; i++)
            s->seg[i].completion = false;
    else if (s->n_seg == 1 && !s->stats->preference)
        s->seg[0].completion = false;   /* without a prompt: a plain text     */
    else
        s->stats->pairs |= found == 1;
    return AT_OK;
}

static int no_template(struct at_ctx *cx, const struct at_samples *s,
                       const json_t *first)
{
    json_t *copy = json_deep_copy(first);
    struct at_text keys = { 0 };
    const char *key;
    json_t *v;
    json_object_foreach(copy, key, v)
        if (keys.n < 200)
            at_text_addf(&keys, "%s'%.40s'", keys.n ? ", " : "", key);
    at_fail(cx, AT_EINVAL, "the first sample has the keys %s; known are "
            "prompt+completion, question+answer, instruction+output, "
            "prompt+chosen+rejected, text, or a list of turns (messages, "
            "conversations): say --template '{KEY}...{KEY}' and --completion "
            "KEY%s", keys.s ? keys.s : "(none)", s->rows && !s->o->columns
            ? "; or, if the table has no header, --columns NAME,NAME" : "");
    at_text_finish(&keys);
    json_decref(copy);
    return AT_EINVAL;
}

/* Which keys the first sample has decides, and is reported in stats.         */
int sample_choose_template(struct at_ctx *cx, struct at_samples *s,
                           const json_t *first)
{
    static const struct { const char *a, *b, *c, *template; } known[] = {
        { "prompt", "chosen", "rejected", "{prompt}\n{chosen}" },
        { "question", "chosen", "rejected", "{question}\n{chosen}" },
        { "instruction", "chosen", "rejected", "{instruction}\n{chosen}" },
        { "chosen", "rejected", NULL, "{chosen}" },
        { "prompt", "completion", NULL, "{prompt}{completion}" },
        { "question", "answer", NULL, "{question}\n{answer}" },
        { "instruction", "output", "input", "{instruction}\n{input}\n{output}" },
        { "instruction", "output", NULL, "{instruction}\n{output}" },
        { "instruction", "response", NULL, "{instruction}\n{response}" },
        { "prompt", "response", NULL, "{prompt}\n{response}" },
        { "text", NULL, NULL, "{text}" },
        { "sentence", NULL, NULL, "{sentence}" },
    };
    const char *t = s->o->template;
    int rc;
    for (size_t i = 0; !t && i < AT_COUNT(known); i++)
        if (json_object_get(first, known[i].a) &&
            (!known[i].b || json_object_get(first, known[i].b)) &&
            (!known[i].c || json_object_get(first, known[i].c)))
            t = known[i].template;
    if (!t)
        return no_template(cx, s, first);
    if (strlen(t) >= sizeof s->stats->template)
        return at_fail(cx, AT_EINVAL, "the template is longer than %zu bytes",
                       sizeof s->stats->template - 1);
    snprintf(s->stats->template, sizeof s->stats->template, "%s", t);
    rc = parse_template(cx, s, t);
    return rc == AT_OK ? find_completion(cx, s) : rc;
}
