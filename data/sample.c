/* Samples out of records: JSON rendered by the template, text as it is. */
#include "data/sample.h"
#include "data/csv.h"
#include "data/numbers.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { SEGMENTS = 64, BAD_LOGGED = 5, LABELS = 1000 };

struct segment {            /* of the template: a literal, or a key's text    */
    const char *text;
    size_t n;
    bool key, completion;
};

struct source { char hash[33]; uint64_t bytes; };

struct at_samples {
    struct at_arena arena, texts;   /* arena holds this too                   */
    const struct at_data_options *o;
    struct at_data_stats *stats;
    struct source *source;      /* [o->n_inputs], filled as they are read     */
    uint64_t total, done;       /* bytes: of all, of those that were closed   */
    size_t at;                  /* the input being read                       */
    enum at_format format;
    struct at_input *in;
    struct at_csv *rows;        /* over in, when that is a table              */
    uint64_t line;              /* of the record                              */
    struct segment seg[SEGMENTS];
    size_t n_seg;
    bool chat;                  /* samples are conversations                  */
    struct at_sample rejected;  /* to come next, when text is set             */
    struct at_numbers seen;
    const char *label[LABELS];
    size_t n_labels;
};

/* ---- the template ----------------------------------------------------------- */

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
static int choose_template(struct at_ctx *cx, struct at_samples *s,
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

/* ---- one JSON sample --------------------------------------------------------- */

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
static int compose(struct at_ctx *cx, struct at_samples *s, const char **text,
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
            rc = compose(cx, s, &text, &n);
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
static int bad(struct at_ctx *cx, struct at_samples *s, const char *why)
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
    return end > text && end[strspn(end, " \t")] == '\0';
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
    if (!text || n == 0 || n > 200 || memchr(text, '\n', n)) {
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

/* ---- conversations ------------------------------------------------------------ */

/* "messages" of role and content, or ShareGPT's "conversations" of from and
 * value.                                                                      */
static const json_t *conversation(const json_t *v)
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
        rc = compose(cx, s, &turn->text, &turn->n);
    if (rc == AT_OK && (!turn->text ||
                        json_array_size(json_object_get(o, "tool_calls"))))
        no_words(o, content, i, why);
    return rc;
}

static int from_conversation(struct at_ctx *cx, struct at_samples *s,
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

static int choose_chat(struct at_ctx *cx, struct at_samples *s)
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

/* *made false: the sample was bad and is skipped.                            */
static int from_object(struct at_ctx *cx, struct at_samples *s,
                       const json_t *v, struct at_sample *out, bool *made)
{
    const json_t *list = s->o->template ? NULL : conversation(v);
    char why[256] = "";
    int rc = AT_OK;
    if (list && !s->chat && s->n_seg == 0)
        rc = choose_chat(cx, s);
    else if (s->n_seg == 0 && !s->chat)
        rc = choose_template(cx, s, v);
    if (rc < 0)
        return at_note(cx, rc, "reading %s:%llu", s->o->inputs[s->at],
                       (unsigned long long)s->line);
    rc = get_scores(cx, s, v, out, why);
    if (rc == AT_OK && !*why && s->o->label)
        rc = get_label(cx, s, v, out, why);
    if (rc == AT_OK && !*why && s->chat && !list)
        snprintf(why, sizeof why, "is no conversation, as the first sample is");
    if (rc == AT_OK && !*why && s->chat)
        rc = from_conversation(cx, s, list, out, why);
    else if (rc == AT_OK && !*why)
        rc = one_text(cx, s, v, out, why);
    if (rc == AT_OK && !*why && s->stats->preference)
        rc = prefer(cx, s, v, out, why);
    if (rc == AT_OK && *why)
        return bad(cx, s, why);
    *made = rc == AT_OK;
    return rc;
}

static int from_json(struct at_ctx *cx, struct at_samples *s,
                     const struct at_record *r, struct at_sample *out,
                     bool *made)
{
    json_error_t e;
    json_t *v = json_loadb(r->s, r->n, JSON_REJECT_DUPLICATES, &e);
    char why[256];
    int rc;
    if (!v) {
        snprintf(why, sizeof why, "is not JSON: %s (byte %d)", e.text,
                 e.position + 1);
        return bad(cx, s, why);
    }
    rc = json_is_object(v) ? from_object(cx, s, v, out, made)
                           : bad(cx, s, "is not a JSON object");
    json_decref(v);
    return rc;
}

static int from_text(struct at_ctx *cx, struct at_samples *s,
                     const struct at_record *r, struct at_sample *out,
                     bool *made)
{
    uint32_t cp;
    size_t len;
    char why[128];
    for (size_t i = 0; i < r->n; i += len) {
        len = at_utf8(r->s + i, r->n - i, &cp);
        if (len > 0)
            continue;
        snprintf(why, sizeof why, "is not UTF-8: byte %zu of the text that "
                 "begins here is 0x%02x", i + 1, (unsigned char)r->s[i]);
        return bad(cx, s, why);
    }
    s->stats->plain += r->begins;
    out->n = r->n;
    out->text = at_strndup(cx, &s->texts, r->s, r->n);
    *made = out->text != NULL;
    return out->text ? AT_OK : AT_ENOMEM;
}

/* ---- inputs -------------------------------------------------------------------- */

static bool ends_in(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

struct kind { const char *tail; enum at_format format; bool table;
              char separator; };

/* By its name, .gz and .zst left aside.                                      */
static const struct kind *kind_of(const char *path)
{
    static const struct kind known[] = {
        { ".jsonl", AT_LINES, false, 0 }, { ".json", AT_ARRAY, false, 0 },
        { ".txt", AT_PLAIN, false, 0 }, { ".csv", AT_LINES, true, 0 },
        { ".tsv", AT_LINES, true, '\t' }, { "", AT_GUESS, false, 0 },
    };
    const struct kind *k = known;
    size_t n = strlen(path), t;
    if (ends_in(path, ".gz") || ends_in(path, ".zst"))
        n = (size_t)(strrchr(path, '.') - path);
    while ((t = strlen(k->tail)) > n || strncmp(path + n - t, k->tail, t) != 0)
        k++;
    return k;
}

static int open_input(struct at_ctx *cx, struct at_samples *s)
{
    const char *path = s->o->inputs[s->at];
    const struct kind *k = kind_of(path);
    int rc = at_input_open(cx, path, k->format, s->o->separator, &s->in);
    if (rc == AT_OK)
        s->format = at_input_format(s->in);
    if (rc == AT_OK && k->table)
        rc = at_csv_open(cx, path, s->in, k->separator, s->o->columns,
                         &s->rows);
    return rc;
}

static void close_input(struct at_ctx *cx, struct at_samples *s)
{
    struct source *src = &s->source[s->at];
    at_hash_hex(at_input_hash(s->in), src->hash);
    src->bytes = at_input_bytes(s->in);
    s->done += src->bytes;
    s->stats->plain_files += s->format == AT_PLAIN;
    if (src->bytes == 0)
        at_log(cx, AT_LOG_WARN, "%s is empty", s->o->inputs[s->at]);
    at_csv_close(s->rows);
    at_input_close(s->in);
    s->rows = NULL;
    s->in = NULL;
    s->at++;
}

static int from_record(struct at_ctx *cx, struct at_samples *s,
                       const struct at_record *r, struct at_sample *out,
                       bool *made)
{
    s->line = r->line;
    *out = (struct at_sample){ .source = (uint32_t)s->at, .line = r->line,
                               .begins = r->begins, .ends = r->ends };
    if (!r->s)
        return bad(cx, s, "has more than 64 MiB");
    if (s->format == AT_PLAIN && s->o->n_scores)
        return bad(cx, s, "is plain text: only JSON samples and tables have "
                   "scores");
    if (s->format == AT_PLAIN && s->o->label)
        return bad(cx, s, "is plain text: only JSON samples and tables have "
                   "labels");
    return s->format == AT_PLAIN ? from_text(cx, s, r, out, made)
                                 : from_json(cx, s, r, out, made);
}

/* A row of a table is an object of texts.                                    */
static int from_row(struct at_ctx *cx, struct at_samples *s,
                    struct at_sample *out, bool *made)
{
    const struct at_csv *row = s->rows;
    json_t *v = json_object();
    char why[256] = "";
    int rc;
    s->line = row->line;
    *out = (struct at_sample){ .source = (uint32_t)s->at, .line = row->line,
                               .begins = true, .ends = true };
    if (!v)
        return at_fail(cx, AT_ENOMEM, "no memory for a row");
    if (row->n != row->columns)
        snprintf(why, sizeof why, "%zu fields, but the header has %zu", row->n,
                 row->columns);
    for (size_t i = 0; i < row->n && !*why; i++) {
        size_t n;
        const char *text = at_csv_field(row, i, &n);
        if (json_object_set_new(v, row->name[i], json_stringn(text, n)) < 0)
            snprintf(why, sizeof why, "the field '%.100s' is not UTF-8",
                     row->name[i]);
    }
    rc = *why ? bad(cx, s, why) : from_object(cx, s, v, out, made);
    json_decref(v);
    return rc;
}

/* Whether the sample was there before, word for word, with scores and label. */
static int compare_with_seen(struct at_ctx *cx, struct at_samples *s,
                             const struct at_sample *a, bool *fresh)
{
    const struct at_sample *b = &s->rejected;
    struct at_hash part[4] = {
        at_hash(a->text, a->n), at_hash(b->text ? b->text : "", b->text ? b->n
                                                                       : 0),
        at_hash(a->score, s->o->n_scores * sizeof *a->score),
        { a->label, 0 },
    };
    uint64_t number;
    return at_number(cx, &s->seen, at_hash(part, sizeof part), &number, fresh);
}

/* Counts what was made; *made false: it is a duplicate.                      */
static int take(struct at_ctx *cx, struct at_samples *s,
                const struct at_sample *a, bool *made)
{
    bool fresh = true;
    int rc = AT_OK;
    if (s->o->dedup && a->begins && a->ends)
        rc = compare_with_seen(cx, s, a, &fresh);
    if (!fresh)
        s->rejected.text = NULL;
    s->stats->samples += fresh;
    s->stats->duplicates += !fresh;
    *made = fresh;
    return rc;
}

/* *record false: the input has ended.                                        */
static int next_record(struct at_ctx *cx, struct at_samples *s,
                       struct at_sample *out, bool *record, bool *made)
{
    struct at_record r;
    int rc = s->rows ? at_csv_next(cx, s->rows, record)
                     : at_input_next(cx, s->in, &r, record);
    if (rc < 0 || !*record)
        return rc;
    return s->rows ? from_row(cx, s, out, made)
                   : from_record(cx, s, &r, out, made);
}

int at_samples_next(struct at_ctx *cx, struct at_samples *s,
                    struct at_sample *out, bool *more)
{
    bool made = false;
    int rc = AT_OK;
    if (s->rejected.text) {
        *out = s->rejected;
        s->rejected.text = NULL;
        *more = true;
        return AT_OK;
    }
    while (rc == AT_OK && !made && s->at < s->o->n_inputs) {
        bool record = false, full = s->o->limit > 0 &&
                                    s->stats->samples >= s->o->limit;
        if (full && !s->in)
            break;
        if (!s->in)
            rc = open_input(cx, s);
        if (rc == AT_OK && !full)
            rc = next_record(cx, s, out, &record, &made);
        if (rc == AT_OK && made)
            rc = take(cx, s, out, &made);
        else if (rc == AT_OK && !record)
            close_input(cx, s);
    }
    *more = made;
    return rc;
}

int at_samples_open(struct at_ctx *cx, const struct at_data_options *o,
                    struct at_data_stats *stats, struct at_samples **made)
{
    struct at_arena a = { 0 };
    struct at_samples *s = at_alloc(cx, &a, sizeof *s);
    struct source *source = at_alloc_n(cx, &a, o->n_inputs, sizeof *source);
    if (!s || !source) {
        at_arena_finish(&a);
        return AT_ENOMEM;
    }
    s->arena = a;
    s->source = source;
    s->o = o;
    s->stats = stats;
    snprintf(stats->template, sizeof stats->template, "{text}");
    for (size_t i = 0; i < o->n_inputs; i++) {
        struct stat st;
        int err = stat(o->inputs[i], &st) < 0 ? errno : 0;
        if (err || strchr(o->inputs[i], '\n')) {
            at_samples_close(s);
            return at_fail_errno(cx, err ? err : EINVAL, "%s: cannot be read",
                                 o->inputs[i]);
        }
        s->total += (uint64_t)st.st_size;
    }
    *made = s;
    return AT_OK;
}

void at_samples_reset(struct at_samples *s)
{
    at_arena_reset(&s->texts);
}

uint64_t at_samples_done(const struct at_samples *s)
{
    return s->done + (s->in ? at_input_bytes(s->in) : 0);
}

uint64_t at_samples_total(const struct at_samples *s)
{
    return s->total;
}

const char *const *at_samples_labels(const struct at_samples *s, size_t *n)
{
    *n = s->n_labels;
    return s->label;
}

void at_samples_sources(const struct at_samples *s, struct at_text *t)
{
    for (size_t i = 0; i < s->o->n_inputs; i++)
        at_text_addf(t, "%s %s %llu\n", s->o->inputs[i],
                     *s->source[i].hash ? s->source[i].hash : "-",
                     (unsigned long long)s->source[i].bytes);
}

void at_samples_close(struct at_samples *s)
{
    struct at_arena a;
    if (!s)
        return;
    at_csv_close(s->rows);
    at_input_close(s->in);
    at_numbers_finish(&s->seen);
    at_arena_finish(&s->texts);
    a = s->arena;
    at_arena_finish(&a);
}
