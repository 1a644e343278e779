/* Samples out of records: JSON rendered by the template, text as it is. */
#include "data/sample_parts.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

/* ---- records -------------------------------------------------------------------- */

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
        return sample_bad(cx, s, why);
    }
    rc = json_is_object(v) ? sample_from_object(cx, s, v, out, made)
                           : sample_bad(cx, s, "is not a JSON object");
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
        return sample_bad(cx, s, why);
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
        return sample_bad(cx, s, "has more than 64 MiB");
    if (s->format == AT_PLAIN && s->o->n_scores)
        return sample_bad(cx, s, "is plain text: only JSON samples and tables have "
                   "scores");
    if (s->format == AT_PLAIN && s->o->label)
        return sample_bad(cx, s, "is plain text: only JSON samples and tables have "
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
    rc = *why ? sample_bad(cx, s, why) : sample_from_object(cx, s, v, out, made);
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
