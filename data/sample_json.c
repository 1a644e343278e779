/* One JSON sample: rendered by the template, with scores and label. */
#include "data/sample_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The text of a key: strings as they are, numbers and booleans as JSON, reals
 * in the fewest digits that read back the same.                              */
static const char *key_text(const json_t *v, char buf[64], size_t *n)
{
    double r = json_real_value(v);
    if (json_is_string(v)) {
        *n = json_string_length(v);
        return json_string_value(v);
    }
    if (json_is_integer(v))
        snprintf(buf, 64, "%lld", (long long)json_integer_value(v));
    else if (json_is_boolean(v))
        snprintf(buf, 64, "%s", json_is_true(v) ? "true" : "false");
    else if (!json_is_real(v))
        return NULL;
    for (int digits = 15; json_is_real(v) && digits <= 17; digits++) {
        snprintf(buf, 64, "%.*g", digits, r);
        if (strtod(buf, NULL) == r)
            break;
    }
    *n = strlen(buf);
    return buf;
}

/* What a key or a turn says, as the tokenizer takes it.                       */
int sample_compose(struct at_ctx *cx, struct at_samples *s, const char **text,
                   size_t *n)
{
    return s->o->tok ? at_tok_normal(cx, &s->texts, s->o->tok, *text, *n, text,
                                     n) : AT_OK;
}

/* An empty optional key takes the white space behind it along.               */
static int render(struct at_ctx *cx, struct at_samples *s, const json_t *v,
                  struct at_text *t, struct at_sample *out, char why[256])
{
    bool skip = false;
    char buf[64];
    int rc;
    for (size_t i = 0; i < s->n_seg; i++) {
        const struct segment *g = &s->seg[i];
        const char *key = g->completion && out->rejected ? "rejected" : g->text;
        const json_t *field = g->key ? json_object_get(v, key) : NULL;
        size_t from = skip && !g->key ? strspn(g->text, " \t\r\n") : 0;
        size_t n = g->n - from;
        const char *text = g->text + from;
        if (g->key) {
            text = field ? key_text(field, buf, &n) : NULL;
            if (!text) {
                snprintf(why, 256, field ? "the key '%.100s' is not a text or a "
                         "number" : "the key '%.100s' is missing", key);
                return AT_OK;
            }
            rc = sample_compose(cx, s, &text, &n);
            if (rc < 0)
                return rc;
        }
        if (g->completion) {
            out->from = t->n;
            out->to = t->n + n;
            if (n == 0 && out->pair)
                snprintf(why, 256, "the answer '%.100s' is empty", key);
        }
        at_text_add(t, text, n);
        skip = g->key && n == 0 && i > 0 && !g->completion;
    }
    if (t->n == 0 && !*why)
        snprintf(why, 256, "the sample is empty");
    return AT_OK;
}

/* A bad sample: an error with its place, or counted.                         */
int sample_bad(struct at_ctx *cx, struct at_samples *s, const char *why)
{
    const char *path = s->o->inputs[s->at];
    unsigned long long line = s->line;
    if (!s->o->skip_bad)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: %s (--skip-bad leaves such "
                       "samples out)", path, line, why);
    if (s->stats->bad == 0)
        snprintf(s->stats->first_bad, sizeof s->stats->first_bad,
                 "%s:%llu: %s", path, line, why);
    if (s->stats->bad++ < BAD_LOGGED)
        at_log(cx, AT_LOG_WARN, "%s:%llu: %s: left out", path, line, why);
    return AT_OK;
}

/* Renders one document of the object; *why says what is wrong with it.       */
static int one_text(struct at_ctx *cx, struct at_samples *s, const json_t *v,
                    struct at_sample *out, char why[256])
{
    struct at_text t = { 0 };
    int rc;
    out->pair = s->stats->pairs;
    rc = render(cx, s, v, &t, out, why);
    if (rc == AT_OK)
        rc = at_text_ok(cx, &t);
    if (rc == AT_OK && !*why) {
        out->n = t.n;
        out->text = at_strndup(cx, &s->texts, t.s, t.n);
        rc = out->text ? AT_OK : AT_ENOMEM;
    }
    at_text_finish(&t);
    return rc;
}

/* Where a preference has no prompt of its own, what both texts begin with is
 * it, up to its last white space.                                            */
static void common_prompt(struct at_sample *a, struct at_sample *b)
{
    size_t n = 0, least = a->n < b->n ? a->n : b->n;
    if (a->from > 0)
        return;
    while (n < least && a->text[n] == b->text[n])
        n++;
    while (n > 0 && !strchr(" \t\r\n", a->text[n - 1]))
        n--;
    a->from = b->from = n;
}

/* The second document of a preference waits in s->rejected.                  */
static int prefer(struct at_ctx *cx, struct at_samples *s, const json_t *v,
                  struct at_sample *out, char why[256])
{
    struct at_sample *b = &s->rejected;
    int rc;
    out->preferred = true;
    *b = *out;
    b->preferred = false;
    b->rejected = true;
    b->text = NULL;
    rc = one_text(cx, s, v, b, why);
    if (rc < 0 || *why)
        return rc;
    common_prompt(out, b);
    if (out->n == b->n && memcmp(out->text, b->text, b->n) == 0)
        snprintf(why, 256, "chosen and rejected are the same");
    if (*why)
        b->text = NULL;
    return AT_OK;
}

/* Tables have numbers as texts.                                              */
static bool number_of(const json_t *v, double *x)
{
    const char *text = json_string_value(v);
    char *end;
    *x = json_is_boolean(v) ? json_is_true(v) : json_number_value(v);
    if (!text)
        return json_is_number(v) || json_is_boolean(v);
    *x = strtod(text, &end);
    return end > text && end[strspn(end, " \t")] == '\0' && isfinite(*x);
}

static int get_scores(struct at_ctx *cx, struct at_samples *s, const json_t *v,
                      struct at_sample *out, char why[256])
{
    size_t n = s->o->n_scores;
    double *score = at_alloc_n(cx, &s->texts, n + 1, sizeof *score);
    if (!score)
        return AT_ENOMEM;
    for (size_t i = 0; i < n && !*why; i++) {
        const json_t *x = json_object_get(v, s->o->scores[i]);
        if (!number_of(x, &score[i]))
            snprintf(why, 256, x ? "the score '%.100s' is not a number" :
                     "the score '%.100s' is missing", s->o->scores[i]);
    }
    out->score = score;
    return AT_OK;
}

/* The label as a text, the number of which among all goes into the sample.    */
static int get_label(struct at_ctx *cx, struct at_samples *s, const json_t *v,
                     struct at_sample *out, char why[256])
{
    const json_t *x = json_object_get(v, s->o->label);
    char buf[64];
    size_t n = 0, i = 0;
    const char *text = x ? key_text(x, buf, &n) : NULL;
    if (!text || n == 0 || n > 200 || memchr(text, '\n', n) ||
        memchr(text, 0, n)) {
        snprintf(why, 256, x ? "the label '%.100s' is no short text or number"
                 : "the label '%.100s' is missing", s->o->label);
        return AT_OK;
    }
    while (i < s->n_labels && strcmp(s->label[i], text) != 0)
        i++;
    out->label = (uint32_t)i;
    if (i < s->n_labels)
        return AT_OK;
    if (i == LABELS)
        return at_fail(cx, AT_EINVAL, "%s:%llu: '%s' has more than %d different "
                       "values: a number to be predicted is kept by --score %s",
                       s->o->inputs[s->at], (unsigned long long)s->line,
                       s->o->label, LABELS, s->o->label);
    s->label[i] = at_strndup(cx, &s->arena, text, n);
    return s->label[s->n_labels++] ? AT_OK : AT_ENOMEM;
}

/* *made false: the sample was bad and is skipped.                            */
int sample_from_object(struct at_ctx *cx, struct at_samples *s,
                       const json_t *v, struct at_sample *out, bool *made)
{
    const json_t *list = s->o->template ? NULL : sample_conversation(v);
    char why[256] = "";
    int rc = AT_OK;
    if (list && !s->chat && s->n_seg == 0)
        rc = sample_choose_chat(cx, s);
    else if (s->n_seg == 0 && !s->chat)
        rc = sample_choose_template(cx, s, v);
    if (rc < 0)
        return at_note(cx, rc, "reading %s:%llu", s->o->inputs[s->at],
                       (unsigned long long)s->line);
    rc = get_scores(cx, s, v, out, why);
    if (rc == AT_OK && !*why && s->chat && !list)
        snprintf(why, sizeof why, "is no conversation, as the first sample is");
    if (rc == AT_OK && !*why && s->chat)
        rc = sample_from_conversation(cx, s, list, out, why);
    else if (rc == AT_OK && !*why)
        rc = one_text(cx, s, v, out, why);
    if (rc == AT_OK && !*why && s->stats->preference)
        rc = prefer(cx, s, v, out, why);
    if (rc == AT_OK && !*why && s->o->label)    /* last: it is remembered     */
        rc = get_label(cx, s, v, out, why);
    if (rc == AT_OK && *why)
        return sample_bad(cx, s, why);
    *made = rc == AT_OK;
    return rc;
}
