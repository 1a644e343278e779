/* Samples out of JSON lines, JSON arrays and plain text. */
#include "data/sample.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LINE_MAX_BYTES = 64 << 20, PIECE = 64 << 10, SEGMENTS = 32 };

enum format { LINES, ARRAY, TEXT };

struct segment {            /* of the template: a literal, or a key's text    */
    char text[128];
    bool key, completion;
};

struct input { char hash[33]; uint64_t bytes; };

struct at_samples {
    const struct at_data_options *o;
    struct at_data_stats *stats;
    struct at_arena texts;
    struct input *input;        /* [o->n_inputs], filled as they are read     */
    uint64_t total, done;
    size_t source;              /* the input being read                       */
    enum format format;
    FILE *f;
    struct at_hasher *hash;
    uint64_t line, source_bytes;
    char *buf;                  /* getline's                                  */
    size_t cap;
    json_t *array;              /* of ARRAY                              */
    size_t at;
    char *carry;                /* text behind the last cut                   */
    size_t n_carry, carry_cap;
    struct segment seg[SEGMENTS];
    size_t n_seg;
};

static bool ends_in(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

/* ---- the template ----------------------------------------------------------- */

static int add_segment(struct at_ctx *cx, struct at_samples *s,
                       const char *text, size_t n, bool key)
{
    struct segment *g = &s->seg[s->n_seg];
    if (n == 0 && !key)
        return AT_OK;
    if (s->n_seg == SEGMENTS || n == 0 || n >= sizeof g->text)
        return at_fail(cx, AT_EINVAL, "the template has an empty or too long "
                       "part, or more than %d parts", SEGMENTS);
    memcpy(g->text, text, n);
    g->text[n] = '\0';
    g->key = key;
    s->n_seg++;
    return AT_OK;
}

/* "{question}\n{answer}": keys in braces; "\n" and "\t" may be spelled out.  */
static int parse_template(struct at_ctx *cx, struct at_samples *s,
                          const char *t)
{
    char literal[128];
    size_t n = 0;
    int rc = AT_OK;
    while (*t && rc == AT_OK) {
        const char *close = *t == '{' ? strchr(t, '}') : NULL;
        if (*t == '{' && !close)
            return at_fail(cx, AT_EINVAL, "the template has a '{' without its "
                           "'}'");
        if (close) {
            rc = add_segment(cx, s, literal, n, false);
            n = 0;
            if (rc == AT_OK)
                rc = add_segment(cx, s, t + 1, (size_t)(close - t - 1), true);
            t = close + 1;
            continue;
        }
        if (n + 1 >= sizeof literal)
            return at_fail(cx, AT_EINVAL, "the template has a literal of more "
                           "than 126 bytes");
        if (t[0] == '\\' && (t[1] == 'n' || t[1] == 't')) {
            literal[n++] = t[1] == 'n' ? '\n' : '\t';
            t += 2;
        } else {
            literal[n++] = *t++;
        }
    }
    return rc == AT_OK ? add_segment(cx, s, literal, n, false) : rc;
}

static int find_completion(struct at_ctx *cx, struct at_samples *s)
{
    static const char *const usual[] = { "completion", "answer", "output",
                                         "response" };
    size_t keys = 0;
    for (size_t i = 0; i < s->n_seg; i++) {
        struct segment *g = &s->seg[i];
        keys += g->key;
        if (!g->key)
            continue;
        if (s->o->completion) {
            g->completion = strcmp(g->text, s->o->completion) == 0;
        } else {
            for (size_t k = 0; k < AT_COUNT(usual); k++)
                g->completion |= strcmp(g->text, usual[k]) == 0;
        }
        s->stats->pairs |= g->completion;
    }
    if (keys == 0)
        return at_fail(cx, AT_EINVAL, "the template names no key: write keys in "
                       "braces, as in '{prompt}{completion}'");
    if (s->o->completion && !s->stats->pairs)
        return at_fail(cx, AT_EINVAL, "the completion '%s' is not a key of the "
                       "template", s->o->completion);
    return AT_OK;
}

/* Which keys the first sample has decides, and is reported in stats.         */
static int detect_template(struct at_ctx *cx, struct at_samples *s,
                           const json_t *first)
{
    static const struct { const char *a, *b, *c, *template; } known[] = {
        { "prompt", "completion", NULL, "{prompt}{completion}" },
        { "question", "answer", NULL, "{question}\n{answer}" },
        { "instruction", "output", "input", "{instruction}\n{input}\n{output}" },
        { "instruction", "output", NULL, "{instruction}\n{output}" },
        { "instruction", "response", NULL, "{instruction}\n{response}" },
        { "prompt", "response", NULL, "{prompt}\n{response}" },
        { "text", NULL, NULL, "{text}" },
    };
    const char *t = s->o->template;
    for (size_t i = 0; !t && i < AT_COUNT(known); i++)
        if (json_object_get(first, known[i].a) &&
            (!known[i].b || json_object_get(first, known[i].b)) &&
            (!known[i].c || json_object_get(first, known[i].c)))
            t = known[i].template;
    if (!t)
        return at_fail(cx, AT_EINVAL, "no known keys in the first sample "
                       "(prompt+completion, question+answer, "
                       "instruction+output, text): say --template "
                       "'{KEY}...{KEY}' and --completion KEY");
    snprintf(s->stats->template, sizeof s->stats->template, "%s", t);
    {
        int rc = parse_template(cx, s, t);
        return rc == AT_OK ? find_completion(cx, s) : rc;
    }
}

/* ---- one JSON sample --------------------------------------------------------- */

/* The text of a key: strings as they are, numbers and booleans as JSON.      */
static const char *key_text(const json_t *v, char buf[64], size_t *n)
{
    if (json_is_string(v)) {
        *n = json_string_length(v);
        return json_string_value(v);
    }
    if (json_is_integer(v))
        snprintf(buf, 64, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        snprintf(buf, 64, "%.17g", json_real_value(v));
    else if (json_is_boolean(v))
        snprintf(buf, 64, "%s", json_is_true(v) ? "true" : "false");
    else
        return NULL;
    *n = strlen(buf);
    return buf;
}

static int render(struct at_ctx *cx, struct at_samples *s, const json_t *v,
                  struct at_sample *out, const char **why)
{
    struct at_text t = { 0 };
    bool skip_literal = false;
    char buf[64];
    *why = NULL;
    out->pair = s->stats->pairs;
    out->from = out->to = 0;
    for (size_t i = 0; i < s->n_seg && !*why; i++) {
        const struct segment *g = &s->seg[i];
        const char *text = g->text;
        size_t n = strlen(text);
        if (g->key) {
            const json_t *field = json_object_get(v, g->text);
            text = field ? key_text(field, buf, &n) : NULL;
            if (!field)
                *why = "a key of the template is missing";
            else if (!text)
                *why = "a key of the template is not a text or number";
            /* An empty optional field takes the break behind it along.       */
            skip_literal = text && n == 0 && i > 0 && !g->completion;
            if (text && g->completion) {
                out->from = t.n;
                out->to = t.n + n;
            }
        } else if (skip_literal) {
            skip_literal = false;
            continue;
        }
        if (text)
            at_text_add(&t, text, n);
    }
    if (!*why && t.n == 0)
        *why = "the sample is empty";
    if (!*why) {
        out->n = t.n;
        out->text = at_strndup(cx, &s->texts, t.s ? t.s : "", t.n);
    }
    at_text_finish(&t);
    return !*why && !out->text ? AT_ENOMEM : AT_OK;
}

/* A bad sample: an error with its place, or counted.  Returns AT_OK to go on. */
static int bad(struct at_ctx *cx, struct at_samples *s, const char *why)
{
    const char *path = s->o->inputs[s->source];
    if (!s->o->skip_bad)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: %s (--skip-bad leaves such "
                       "samples out)", path, (unsigned long long)s->line, why);
    if (s->stats->bad++ == 0)
        snprintf(s->stats->first_bad, sizeof s->stats->first_bad,
                 "%s:%llu: %s", path, (unsigned long long)s->line, why);
    return AT_OK;
}

/* *made false: the sample was bad and is skipped.                            */
static int from_json(struct at_ctx *cx, struct at_samples *s, const json_t *v,
                     struct at_sample *out, bool *made)
{
    const char *why = NULL;
    int rc;
    *made = false;
    if (!json_is_object(v))
        return bad(cx, s, "is not a JSON object");
    if (s->n_seg == 0) {
        rc = detect_template(cx, s, v);
        if (rc < 0)
            return at_note(cx, rc, "reading %s:%llu",
                           s->o->inputs[s->source],
                           (unsigned long long)s->line);
    }
    rc = render(cx, s, v, out, &why);
    if (rc < 0 || why)
        return rc < 0 ? rc : bad(cx, s, why);
    out->source = (uint32_t)s->source;
    out->line = s->line;
    *made = true;
    return AT_OK;
}

/* ---- files -------------------------------------------------------------------- */

static int open_input(struct at_ctx *cx, struct at_samples *s)
{
    const char *path = s->o->inputs[s->source];
    json_error_t e;
    s->format = ends_in(path, ".jsonl") ? LINES
                : ends_in(path, ".json") ? ARRAY : TEXT;
    s->line = 0;
    s->source_bytes = 0;
    s->n_carry = 0;
    s->f = fopen(path, "rbe");
    if (!s->f)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    s->hash = at_hasher_create(cx);
    if (!s->hash)
        return AT_ENOMEM;
    if (s->format != ARRAY)
        return AT_OK;
    s->array = json_loadf(s->f, JSON_DISABLE_EOF_CHECK, &e);
    s->at = 0;
    if (!s->array)
        return at_fail(cx, AT_EFORMAT, "%s:%d:%d: is not JSON: %s", path,
                       e.line, e.column, e.text);
    if (!json_is_array(s->array))
        return at_fail(cx, AT_EFORMAT, "%s: is not a JSON array of samples",
                       path);
    rewind(s->f);
    return AT_OK;
}

static void close_input(struct at_samples *s)
{
    struct input *in = &s->input[s->source];
    if (s->hash)
        at_hash_hex(at_hasher_value(s->hash), in->hash);
    in->bytes = s->source_bytes;
    at_hasher_destroy(s->hash);
    s->hash = NULL;
    if (s->f)
        fclose(s->f);
    s->f = NULL;
    json_decref(s->array);
    s->array = NULL;
}

static void count(struct at_samples *s, const char *p, size_t n)
{
    at_hasher_add(s->hash, p, n);
    s->source_bytes += n;
    s->done += n;
}

static bool blank(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isspace((unsigned char)p[i]))
            return false;
    return true;
}

static int next_line(struct at_ctx *cx, struct at_samples *s,
                     struct at_sample *out, bool *made, bool *end)
{
    ssize_t n;
    json_t *v;
    json_error_t e;
    int rc;
    errno = 0;
    n = getline(&s->buf, &s->cap, s->f);
    *made = false;
    *end = n < 0;
    if (n < 0)
        return ferror(s->f) ? at_fail_errno(cx, errno, "%s: cannot be read",
                                            s->o->inputs[s->source])
                            : AT_OK;
    s->line++;
    count(s, s->buf, (size_t)n);
    if (blank(s->buf, (size_t)n))
        return AT_OK;
    if (n > LINE_MAX_BYTES)
        return bad(cx, s, "the line is longer than 64 MiB");
    v = json_loadb(s->buf, (size_t)n, 0, &e);
    if (!v) {
        char why[256];
        snprintf(why, sizeof why, "is not JSON: %s (column %d)", e.text,
                 e.column);
        return bad(cx, s, why);
    }
    rc = from_json(cx, s, v, out, made);
    json_decref(v);
    return rc;
}

/* The file's bytes are counted once, when the array has been read.           */
static int next_element(struct at_ctx *cx, struct at_samples *s,
                        struct at_sample *out, bool *made, bool *end)
{
    *made = false;
    *end = s->at >= json_array_size(s->array);
    if (*end) {
        char block[1 << 14];
        size_t n;
        while ((n = fread(block, 1, sizeof block, s->f)) > 0)
            count(s, block, n);
        return AT_OK;
    }
    s->line = s->at + 1;
    return from_json(cx, s, json_array_get(s->array, s->at++), out, made);
}

/* Where the text in carry[0..n) is cut: behind the separator; else, when it is
 * long, before the last line break that a non-space precedes, which changes no
 * word of the usual pre-tokenizers.                                          */
static size_t cut_at(const struct at_samples *s, bool eof, size_t *skip)
{
    const char *p = s->carry, *sep = s->o->separator;
    size_t n = s->n_carry, len = sep ? strlen(sep) : 0;
    *skip = 0;
    for (size_t i = 0; sep && i + len <= n; i++)
        if (memcmp(p + i, sep, len) == 0) {
            *skip = len;
            return i;
        }
    if (eof || n < PIECE)
        return eof ? n : SIZE_MAX;
    for (size_t i = n - 1; i > n / 2; i--)
        if (p[i] == '\n' && !isspace((unsigned char)p[i - 1]))
            return i;
    for (size_t i = n - 1; i > n / 2; i--)      /* no line break: between     */
        if (((unsigned char)p[i] & 0xC0) != 0x80)   /* characters             */
            return i;
    return n;
}

static int next_text(struct at_ctx *cx, struct at_samples *s,
                     struct at_sample *out, bool *made, bool *end)
{
    size_t cut, skip, n;
    int rc;
    *made = *end = false;
    for (;;) {
        bool eof = feof(s->f) != 0;
        cut = cut_at(s, eof, &skip);
        if (cut != SIZE_MAX)
            break;
        rc = at_grow(cx, &s->carry, &s->carry_cap, s->n_carry + PIECE, 1);
        if (rc < 0)
            return rc;
        n = fread(s->carry + s->n_carry, 1, PIECE, s->f);
        if (ferror(s->f))
            return at_fail_errno(cx, errno, "%s: cannot be read",
                                 s->o->inputs[s->source]);
        count(s, s->carry + s->n_carry, n);
        s->n_carry += n;
    }
    *end = feof(s->f) && cut == s->n_carry;
    if (!blank(s->carry, cut)) {
        *out = (struct at_sample){ .n = cut, .source = (uint32_t)s->source };
        out->text = at_strndup(cx, &s->texts, s->carry, cut);
        if (!out->text)
            return AT_ENOMEM;
        *made = true;
    }
    s->n_carry -= cut + skip;
    memmove(s->carry, s->carry + cut + skip, s->n_carry);
    return AT_OK;
}

int at_samples_next(struct at_ctx *cx, struct at_samples *s,
                    struct at_sample *out, bool *more)
{
    bool made = false, end = false;
    int rc = AT_OK;
    *more = true;
    while (rc == AT_OK && !made) {
        if (end || !s->f) {
            if (s->f) {
                close_input(s);
                s->source++;
            }
            end = false;
            if (s->source == s->o->n_inputs) {
                *more = false;
                return AT_OK;
            }
            rc = open_input(cx, s);
            if (rc < 0)
                return rc;
        }
        rc = s->format == LINES ? next_line(cx, s, out, &made, &end)
             : s->format == TEXT ? next_text(cx, s, out, &made, &end)
                                 : next_element(cx, s, out, &made, &end);
        if (made && end && rc == AT_OK)
            break;              /* the input is closed by the next call       */
    }
    if (rc == AT_OK && end && s->format == TEXT) {
        close_input(s);
        s->source++;
    }
    return rc;
}

int at_samples_open(struct at_ctx *cx, const struct at_data_options *o,
                    struct at_data_stats *stats, struct at_samples **made)
{
    struct at_samples *s = calloc(1, sizeof *s);
    if (!s)
        return at_fail(cx, AT_ENOMEM, "out of memory");
    s->o = o;
    s->stats = stats;
    s->input = calloc(o->n_inputs + 1, sizeof *s->input);
    if (!s->input) {
        free(s);
        return at_fail(cx, AT_ENOMEM, "out of memory");
    }
    snprintf(stats->template, sizeof stats->template, "{text}");
    for (size_t i = 0; i < o->n_inputs; i++) {
        struct stat st;
        if (stat(o->inputs[i], &st) < 0) {
            int err = errno;
            at_samples_close(s);
            return at_fail_errno(cx, err, "%s: cannot be read", o->inputs[i]);
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
    return s->done;
}

uint64_t at_samples_total(const struct at_samples *s)
{
    return s->total;
}

void at_samples_sources(const struct at_samples *s, struct at_text *t)
{
    for (size_t i = 0; i < s->o->n_inputs; i++)
        at_text_addf(t, "%s %s %llu\n", s->o->inputs[i], s->input[i].hash,
                     (unsigned long long)s->input[i].bytes);
}

void at_samples_close(struct at_samples *s)
{
    if (!s)
        return;
    if (s->f)
        close_input(s);
    free(s->buf);
    at_free(s->carry);
    free(s->input);
    at_arena_finish(&s->texts);
    free(s);
}
