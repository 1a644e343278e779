/* Metrics files from one table of columns. */
#include "train/metrics.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { INT, REAL, FLAG, SPLIT };

#define AT(field) offsetof(struct at_metrics_row, field)

static const struct column { const char *name; enum kind kind; size_t at; }
columns[] = {
    { "step", INT, AT(step) },
    { "split", SPLIT, AT(eval) },
    { "loss", REAL, AT(loss) },
    { "loss_se", REAL, AT(loss_se) },
    { "grad_norm", REAL, AT(grad_norm) },
    { "grad_z", REAL, AT(grad_z) },
    { "lr", REAL, AT(lr) },
    { "tokens", INT, AT(tokens) },
    { "targets", INT, AT(targets) },
    { "all_tokens", INT, AT(all_tokens) },
    { "epoch", INT, AT(epoch) },
    { "index", INT, AT(index) },
    { "offset", INT, AT(offset) },
    { "skipped", FLAG, AT(skipped) },
    { "tokens_per_s", REAL, AT(tokens_per_s) },
    { "time_s", REAL, AT(time_s) },
    { "peak_bytes", INT, AT(peak_bytes) },
};

struct at_metrics { FILE *json, *csv; char dir[4096]; };

static void put_cell(struct at_text *t, const struct column *c,
                     const struct at_metrics_row *row, bool json)
{
    const char *p = (const char *)row + c->at;
    double real;
    switch (c->kind) {
    case INT:
        at_text_addf(t, "%llu", (unsigned long long)*(const uint64_t *)
                                    (const void *)p);
        break;
    case FLAG:
        at_text_addf(t, "%s", *(const bool *)p ? "true" : "false");
        break;
    case SPLIT:
        at_text_addf(t, json ? "\"%s\"" : "%s",
                     *(const bool *)p ? "validation" : "train");
        break;
    case REAL:
        real = *(const double *)(const void *)p;
        /* JSON has no word for what is not finite. */
        if (isfinite(real))
            at_text_addf(t, "%.17g", real);
        else
            at_text_addf(t, json ? "null" : "nan");
        break;
    }
}

static void put_row(struct at_text *json, struct at_text *csv,
                    const struct at_metrics_row *row)
{
    for (size_t i = 0; i < AT_COUNT(columns); i++) {
        at_text_addf(json, "%s\"%s\": ", i ? ", " : "{", columns[i].name);
        put_cell(json, &columns[i], row, true);
        if (i)
            at_text_add(csv, ",", 1);
        put_cell(csv, &columns[i], row, false);
    }
    at_text_add(json, "}\n", 2);
    at_text_add(csv, "\n", 1);
}

static void csv_head(struct at_text *t)
{
    for (size_t i = 0; i < AT_COUNT(columns); i++)
        at_text_addf(t, "%s%s", i ? "," : "", columns[i].name);
    at_text_add(t, "\n", 1);
}

/* Rewrites both files with the rows up to step `last`. */
static int cut(struct at_ctx *cx, const char *dir, uint64_t last)
{
    struct at_arena a = { 0 };
    struct at_text json = { 0 }, csv = { 0 };
    struct at_metrics_row *rows = NULL;
    char path[4200];
    size_t n = 0;
    bool torn;
    int rc = at_metrics_read(cx, &a, dir, &rows, &n, &torn);
    if (rc == AT_ENOENT) {
        rc = AT_OK;
        n = 0;
    }
    csv_head(&csv);
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        if (rows[i].step <= last)
            put_row(&json, &csv, &rows[i]);
    if (rc == AT_OK)
        rc = at_text_ok(cx, &json);
    if (rc == AT_OK)
        rc = at_text_ok(cx, &csv);
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    if (rc == AT_OK)
        rc = at_write_file(cx, path, json.s ? json.s : "", json.n);
    snprintf(path, sizeof path, "%s/metrics.csv", dir);
    if (rc == AT_OK)
        rc = at_write_file(cx, path, csv.s, csv.n);
    at_text_finish(&json);
    at_text_finish(&csv);
    at_arena_finish(&a);
    return rc;
}

int at_metrics_open(struct at_ctx *cx, const char *dir, uint64_t last,
                    struct at_metrics **made)
{
    struct at_metrics *m;
    char path[4200];
    int rc = cut(cx, dir, last);
    if (rc < 0)
        return at_note(cx, rc, "opening the metrics of %s", dir);
    m = calloc(1, sizeof *m);
    if (!m)
        return at_fail(cx, AT_ENOMEM, "out of memory: metrics");
    snprintf(m->dir, sizeof m->dir, "%s", dir);
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    m->json = fopen(path, "ae");
    snprintf(path, sizeof path, "%s/metrics.csv", dir);
    m->csv = fopen(path, "ae");
    if (!m->json || !m->csv) {
        rc = at_fail_errno(cx, errno, "%s: metrics cannot be written", dir);
        at_metrics_close(m);
        return rc;
    }
    *made = m;
    return AT_OK;
}

int at_metrics_add(struct at_ctx *cx, struct at_metrics *m,
                   const struct at_metrics_row *row)
{
    struct at_text json = { 0 }, csv = { 0 };
    int rc;
    put_row(&json, &csv, row);
    rc = at_text_ok(cx, &json);
    if (rc == AT_OK)
        rc = at_text_ok(cx, &csv);
    if (rc == AT_OK && (fwrite(json.s, 1, json.n, m->json) != json.n ||
                        fwrite(csv.s, 1, csv.n, m->csv) != csv.n ||
                        fflush(m->json) != 0 || fflush(m->csv) != 0))
        rc = at_fail_errno(cx, errno, "%s: metrics cannot be written", m->dir);
    at_text_finish(&json);
    at_text_finish(&csv);
    return rc;
}

void at_metrics_close(struct at_metrics *m)
{
    if (!m)
        return;
    if (m->json)
        fclose(m->json);
    if (m->csv)
        fclose(m->csv);
    free(m);
}

static bool get_row(const json_t *v, struct at_metrics_row *row)
{
    for (size_t i = 0; i < AT_COUNT(columns); i++) {
        const json_t *cell = json_object_get(v, columns[i].name);
        void *p = (char *)row + columns[i].at;
        if (!cell)
            return false;
        switch (columns[i].kind) {
        case INT:
            *(uint64_t *)p = (uint64_t)json_integer_value(cell);
            break;
        case FLAG:
            *(bool *)p = json_is_true(cell);
            break;
        case SPLIT:
            *(bool *)p = json_is_string(cell) &&
                         strcmp(json_string_value(cell), "validation") == 0;
            break;
        case REAL:
            *(double *)p = json_is_number(cell) ? json_number_value(cell)
                                                : (double)NAN;
            break;
        }
    }
    return true;
}

int at_metrics_read(struct at_ctx *cx, struct at_arena *a, const char *dir,
                    struct at_metrics_row **rows, size_t *n, bool *torn)
{
    char path[4200], *text, *line, *next;
    size_t bytes, cap = 0;
    int rc;
    *torn = false;
    *n = 0;
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    rc = at_read_file(cx, a, path, (size_t)4 << 30, &text, &bytes);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < bytes; i++)
        cap += text[i] == '\n';
    *rows = at_alloc_n(cx, a, cap + 1, sizeof **rows);
    if (!*rows)
        return AT_ENOMEM;
    for (line = text; *line; line = next) {
        char *end = strchr(line, '\n');
        json_error_t e;
        json_t *v;
        bool ok;
        next = end ? end + 1 : line + strlen(line);
        v = end ? json_loadb(line, (size_t)(end - line), 0, &e) : NULL;
        ok = v && get_row(v, &(*rows)[*n]);
        json_decref(v);
        if (ok)
            (*n)++;
        else if (*next)
            return at_fail(cx, AT_EFORMAT, "%s:%zu: is not a row of metrics",
                           path, *n + 1);
        else
            *torn = true;
    }
    return AT_OK;
}
