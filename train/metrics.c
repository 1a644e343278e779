/* Writing and reading the metrics of a run. */
#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(m, unit, help, train, eval, machine) \
    { #m, unit, help, AT_METRIC_COUNT, offsetof(struct at_metrics_row, m), \
      train, eval, machine, false }
#define REAL(m, unit, help, train, eval, machine) \
    { #m, unit, help, AT_METRIC_REAL, offsetof(struct at_metrics_row, m), \
      train, eval, machine, false }
#define MEAN(m, unit, help) \
    { #m, unit, help, AT_METRIC_REAL, offsetof(struct at_metrics_row, m), \
      1, 1, 0, true }

const struct at_metric_column at_metric_columns[] = {
    REAL(loss, "nats", "mean loss over the target tokens, or texts", 1, 1, 0),
    REAL(loss_se, "nats", "standard error of that mean", 1, 1, 0),
    MEAN(accuracy, NULL, "share of preferences in the right order; with sft, of "
         "held-out answers that greedy decoding would give word for word"),
    MEAN(margin, NULL, "mean gap between the implied rewards of chosen and "
         "rejected"),
    MEAN(reward, NULL, "mean reward of the texts"),
    MEAN(kl, "nats", "mean divergence from the reference"),
    MEAN(clipped, NULL, "share of the ratios of new to old probability that "
         "were clipped"),
    MEAN(critic, NULL, "half the mean squared miss of the critic"),
    REAL(grad_norm, NULL, "Euclidean norm of the gradient", 1, 0, 0),
    REAL(grad_z, NULL, "its distance from the running mean, in standard "
         "deviations", 1, 0, 0),
    REAL(lr, NULL, "learning rate", 1, 0, 0),
    { "skipped", NULL, "the step was not finite; the weights stayed",
      AT_METRIC_FLAG, offsetof(struct at_metrics_row, skipped), 1, 0, 0, 0 },
    COUNT(tokens, "tokens", "read in this step or evaluation", 1, 1, 0),
    COUNT(targets, "tokens", "of them, learnt or judged", 1, 1, 0),
    COUNT(all_tokens, "tokens", "trained on since the run began", 1, 1, 0),
    COUNT(epoch, NULL, "data cursor: times through the data", 1, 0, 0),
    COUNT(index, "documents", "data cursor: place in the epoch's order", 1, 0,
          0),
    COUNT(offset, "tokens", "data cursor: place in the document", 1, 0, 0),
    REAL(tokens_per_s, "tokens/s", "speed", 1, 1, 1),
    COUNT(peak_bytes, "bytes", "largest memory of the process", 1, 1, 1),
    REAL(time_s, "s", "since the run began", 1, 1, 1),
};
const size_t at_n_metric_columns = AT_COUNT(at_metric_columns);

enum { LINE_MAX_BYTES = 1 << 20 };

/* The files of a run: only the first two come from rows. */
enum { JSONL, CSV, SAMPLES, SHARES, VALUES, AWAY, USERS, N_FILES };

static const char *const file_name[N_FILES] = {
    "metrics.jsonl", "metrics.csv", "samples.jsonl", "capacity.jsonl",
    "values.jsonl", "offload.jsonl", "users.jsonl",
};

static const int line_file[] = { [AT_METRICS_OFFLOAD] = AWAY,
                                 [AT_METRICS_USERS] = USERS };

struct at_metrics {
    int fd[N_FILES];
    char *path[N_FILES];
    struct at_text line;
};

/* ---- a row to text ------------------------------------------------------- */

static double real_of(const struct at_metrics_row *row,
                      const struct at_metric_column *c)
{
    double x;
    memcpy(&x, (const char *)row + c->at, sizeof x);
    return x;
}

static uint64_t count_of(const struct at_metrics_row *row,
                         const struct at_metric_column *c)
{
    uint64_t v;
    memcpy(&v, (const char *)row + c->at, sizeof v);
    return v;
}

static bool has(const struct at_metrics_row *row,
                const struct at_metric_column *c)
{
    if (c->optional && isnan(real_of(row, c)))
        return false;
    return row->eval ? c->eval : c->train;
}

/* The shortest digits that read back the same. */
static void put_real(struct at_text *t, double x)
{
    char buf[40];
    for (int digits = 9; digits <= 17; digits += digits == 9 ? 6 : 1) {
        snprintf(buf, sizeof buf, "%.*g", digits, x);
        if (strtod(buf, NULL) == x)
            break;
    }
    at_text_add(t, buf, strlen(buf));
}

/* Column c of the row; a number that is not finite is `hole`. */
static void put_value(struct at_text *t, const struct at_metrics_row *row,
                      const struct at_metric_column *c, const char *hole)
{
    if (c->kind == AT_METRIC_COUNT)
        at_text_addf(t, "%llu", (unsigned long long)count_of(row, c));
    else if (c->kind == AT_METRIC_FLAG)
        at_text_addf(t, "%s", *((const char *)row + c->at) ? "true" : "false");
    else if (isfinite(real_of(row, c)))
        put_real(t, real_of(row, c));
    else
        at_text_addf(t, "%s", hole);
}

/* "loss=nan grad_norm=inf"; returns whether there is any. */
static bool put_nonfinite(struct at_text *t, const struct at_metrics_row *row)
{
    bool any = false;
    for (size_t i = 0; i < at_n_metric_columns; i++) {
        const struct at_metric_column *c = &at_metric_columns[i];
        double x = c->kind == AT_METRIC_REAL && has(row, c) ? real_of(row, c)
                                                             : 0;
        if (isfinite(x))
            continue;
        at_text_addf(t, "%s%s=%s", any ? " " : "", c->name,
                     isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
        any = true;
    }
    return any;
}

static void put_json(struct at_text *t, const struct at_metrics_row *row)
{
    struct at_text bad = { 0 };
    at_text_addf(t, "{\"step\":%llu,\"split\":\"%s\"",
                 (unsigned long long)row->step, row->eval ? "eval" : "train");
    for (size_t i = 0; i < at_n_metric_columns; i++) {
        const struct at_metric_column *c = &at_metric_columns[i];
        if (!has(row, c))
            continue;
        at_text_addf(t, ",\"%s\":", c->name);
        put_value(t, row, c, "null");
    }
    if (put_nonfinite(&bad, row))
        at_text_addf(t, ",\"nonfinite\":\"%s\"", bad.s ? bad.s : "");
    t->failed |= bad.failed;
    at_text_finish(&bad);
    at_text_addf(t, "}\n");
}

static void put_csv_head(struct at_text *t)
{
    at_text_addf(t, "step,split");
    for (size_t i = 0; i < at_n_metric_columns; i++)
        at_text_addf(t, ",%s", at_metric_columns[i].name);
    at_text_addf(t, ",nonfinite\n");
}

static void put_csv(struct at_text *t, const struct at_metrics_row *row)
{
    at_text_addf(t, "%llu,%s", (unsigned long long)row->step,
                 row->eval ? "eval" : "train");
    for (size_t i = 0; i < at_n_metric_columns; i++) {
        at_text_add(t, ",", 1);
        if (has(row, &at_metric_columns[i]))
            put_value(t, row, &at_metric_columns[i], "");
    }
    at_text_add(t, ",", 1);
    put_nonfinite(t, row);
    at_text_add(t, "\n", 1);
}

/* ---- a line to a row ----------------------------------------------------- */

static bool get_count(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

/* What "loss=nan grad_norm=inf" says of a column. */
static double nonfinite_of(const char *said, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = said; (p = strstr(p, name)); p += n) {
        if (p > said && p[-1] != ' ')
            continue;
        if (strncmp(p + n, "=inf", 4) == 0)
            return INFINITY;
        if (strncmp(p + n, "=-inf", 5) == 0)
            return -INFINITY;
    }
    return NAN;
}

static bool get_column(const json_t *o, const struct at_metric_column *c,
                       const char *nonfinite, struct at_metrics_row *row)
{
    const json_t *v = json_object_get(o, c->name);
    char *slot = (char *)row + c->at;
    double x = NAN;
    uint64_t u = 0;
    if (c->kind == AT_METRIC_FLAG) {
        bool yes = json_is_true(v);
        memcpy(slot, &yes, sizeof yes);
        return !v || json_is_boolean(v);
    }
    if (c->kind == AT_METRIC_COUNT) {
        if (v && !get_count(v, &u))
            return false;
        memcpy(slot, &u, sizeof u);
        return true;
    }
    if (json_is_number(v))
        x = json_number_value(v);
    else if (json_is_null(v))
        x = nonfinite_of(nonfinite, c->name);
    else if (v)
        return false;
    memcpy(slot, &x, sizeof x);
    return true;
}

static bool get_row(const json_t *o, struct at_metrics_row *row)
{
    const json_t *split = json_object_get(o, "split");
    const char *said = json_string_value(json_object_get(o, "nonfinite"));
    *row = (struct at_metrics_row){ 0 };
    if (!get_count(json_object_get(o, "step"), &row->step) ||
        !json_is_string(split))
        return false;
    row->eval = strcmp(json_string_value(split), "eval") == 0;
    if (!row->eval && strcmp(json_string_value(split), "train") != 0)
        return false;
    for (size_t i = 0; i < at_n_metric_columns; i++)
        if (!get_column(o, &at_metric_columns[i], said ? said : "", row))
            return false;
    return true;
}

/* ---- reading lines ------------------------------------------------------- */

/* Called with each line's object; false: the line is not one of ours.  May
 * set *rc to stop.                                                           */
typedef bool line_fn(void *self, const json_t *o, const char *line, size_t n,
                     int *rc);

/* One line with its newline into buf[LINE_MAX_BYTES]; its length, which is
 * more than that for a longer line, and 0 at the end of the file.            */
static size_t read_line(FILE *f, char *buf)
{
    size_t n = 0;
    int c;
    while ((c = getc_unlocked(f)) != EOF) {
        if (n < LINE_MAX_BYTES)
            buf[n] = (char)c;
        n++;
        if (c == '\n')
            break;
    }
    return n;
}

/* The lines of a JSONL file, in order.  A last line that is no line of ours
 * or has no end was torn by a crash: it is left out and said.               */
static int each_line(struct at_ctx *cx, const char *path, line_fn *fn,
                     void *self, bool *torn)
{
    FILE *f = fopen(path, "re");
    char *line = malloc(LINE_MAX_BYTES);
    size_t n, at = 0;
    int rc = AT_OK;
    *torn = false;
    if (!f)
        rc = at_fail_errno(cx, errno, "%s: cannot be opened", path);
    else if (!line)
        rc = at_fail(cx, AT_ENOMEM, "out of memory: reading %s", path);
    while (rc == AT_OK && (n = read_line(f, line)) > 0) {
        bool whole = n <= LINE_MAX_BYTES && line[n - 1] == '\n';
        json_t *o;
        at++;
        if (*torn) {
            rc = at_fail(cx, AT_EFORMAT, "%s:%zu: this line is damaged; remove "
                         "it", path, at - 1);
            break;
        }
        o = whole ? json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL) : NULL;
        if (!json_is_object(o) || !fn(self, o, line, n, &rc))
            *torn = true;
        json_decref(o);
    }
    if (rc == AT_OK && ferror(f))
        rc = at_fail(cx, AT_EIO, "%s: cannot be read", path);
    free(line);
    if (f)
        fclose(f);
    return rc;
}

struct collect {
    struct at_ctx *cx;
    struct at_arena *arena;
    void *item;                 /* rows or samples, on the heap               */
    size_t n, cap;
};

static bool collect_row(void *self, const json_t *o, const char *line,
                        size_t n, int *rc)
{
    struct collect *c = self;
    struct at_metrics_row row;
    (void)line;
    (void)n;
    if (!get_row(o, &row))
        return false;
    *rc = at_grow(c->cx, &c->item, &c->cap, c->n + 1, sizeof row);
    if (*rc == AT_OK)
        ((struct at_metrics_row *)c->item)[c->n++] = row;
    return true;
}

static bool collect_sample(void *self, const json_t *o, const char *line,
                           size_t n, int *rc)
{
    struct collect *c = self;
    struct at_metrics_text s;
    const char *prompt = json_string_value(json_object_get(o, "prompt"));
    const char *text = json_string_value(json_object_get(o, "text"));
    (void)line;
    (void)n;
    if (!prompt || !text || !get_count(json_object_get(o, "step"), &s.step))
        return false;
    s.prompt = at_strdup(c->cx, c->arena, prompt);
    s.text = at_strdup(c->cx, c->arena, text);
    *rc = s.prompt && s.text ? at_grow(c->cx, &c->item, &c->cap, c->n + 1,
                                       sizeof s) : AT_ENOMEM;
    if (*rc == AT_OK)
        ((struct at_metrics_text *)c->item)[c->n++] = s;
    return true;
}

/* All items of DIR/<file>, moved to the arena. */
static int read_items(struct at_ctx *cx, struct at_arena *arena,
                      const char *dir, int file, line_fn *fn, size_t size,
                      void **items, size_t *n, bool *torn)
{
    struct collect c = { .cx = cx, .arena = arena };
    char *path = at_sprintf(cx, arena, "%s/%s", dir, file_name[file]);
    void *kept = NULL;
    bool cut = false;
    int rc = path ? each_line(cx, path, fn, &c, &cut) : AT_ENOMEM;
    if (rc == AT_OK) {
        kept = at_alloc_n(cx, arena, c.n, size);
        rc = kept ? AT_OK : AT_ENOMEM;
    }
    if (rc == AT_OK) {
        if (c.n)
            memcpy(kept, c.item, c.n * size);
        *items = kept;
        *n = c.n;
        *torn = cut;
    }
    at_free(c.item);
    return rc;
}

int at_metrics_read(struct at_ctx *cx, struct at_arena *a, const char *dir,
                    struct at_metrics_row **rows, size_t *n, bool *torn)
{
    void *row;
    int rc = read_items(cx, a, dir, JSONL, collect_row, sizeof **rows, &row, n,
                        torn);
    if (rc == AT_OK)
        *rows = row;
    return rc;
}

int at_metrics_read_samples(struct at_ctx *cx, struct at_arena *a,
                            const char *dir, struct at_metrics_text **samples,
                            size_t *n, bool *torn)
{
    void *sample;
    int rc = read_items(cx, a, dir, SAMPLES, collect_sample, sizeof **samples,
                        &sample, n, torn);
    if (rc == AT_OK)
        *samples = sample;
    return rc;
}

struct means { struct collect c; const char *key, *split; };

static bool collect_mean(void *self, const json_t *o, const char *line,
                         size_t n, int *rc)
{
    struct means *m = self;
    const json_t *mean = json_object_get(o, m->key);
    const char *split = json_string_value(json_object_get(o, "split"));
    struct at_metrics_mean v = { 0 };
    (void)line;
    (void)n;
    if ((m->split && !split) || !json_is_number(mean) ||
        !get_count(json_object_get(o, "step"), &v.step))
        return false;
    if (m->split && strcmp(split, m->split) != 0)
        return true;
    v.mean = json_number_value(mean);
    *rc = at_grow(m->c.cx, &m->c.item, &m->c.cap, m->c.n + 1, sizeof v);
    if (*rc == AT_OK)
        ((struct at_metrics_mean *)m->c.item)[m->c.n++] = v;
    return true;
}

static int read_means(const char *dir, int file, struct means *m,
                      struct at_metrics_mean **means, size_t *n)
{
    struct at_ctx *cx = m->c.cx;
    char *path = at_sprintf(cx, m->c.arena, "%s/%s", dir, file_name[file]);
    bool torn;
    int rc = path ? AT_OK : AT_ENOMEM;
    if (rc == AT_OK && access(path, F_OK) == 0)
        rc = each_line(cx, path, collect_mean, m, &torn);
    if (rc == AT_OK) {
        *n = m->c.n;
        *means = at_alloc_n(cx, m->c.arena, m->c.n + 1, sizeof **means);
        rc = *means ? AT_OK : AT_ENOMEM;
    }
    if (rc == AT_OK && m->c.n)
        memcpy(*means, m->c.item, m->c.n * sizeof **means);
    at_free(m->c.item);
    return rc;
}

int at_metrics_read_means(struct at_ctx *cx, struct at_arena *a,
                          const char *dir, bool eval,
                          struct at_metrics_mean **means, size_t *n)
{
    struct means m = { { .cx = cx, .arena = a }, "mean",
                       eval ? "eval" : "train" };
    return read_means(dir, SHARES, &m, means, n);
}

int at_metrics_read_key(struct at_ctx *cx, struct at_arena *a, const char *dir,
                        enum at_metrics_lines file, const char *key,
                        struct at_metrics_mean **values, size_t *n)
{
    struct means m = { { .cx = cx, .arena = a }, key, NULL };
    return read_means(dir, line_file[file], &m, values, n);
}

/* ---- writing ------------------------------------------------------------- */

/* What survives a resume, as new texts of the files. */
struct cut {
    uint64_t after;
    struct at_text *json, *csv;         /* csv NULL: of the others            */
};

static bool keep_line(void *self, const json_t *o, const char *line, size_t n,
                      int *rc)
{
    struct cut *c = self;
    struct at_metrics_row row = { 0 };
    (void)rc;
    if (!get_count(json_object_get(o, "step"), &row.step) ||
        (c->csv && !get_row(o, &row)))
        return false;
    if (row.step > c->after)
        return true;
    at_text_add(c->json, line, n);
    if (c->csv)
        put_csv(c->csv, &row);
    return true;
}

/* Reads what a file keeps; a missing one keeps nothing. */
static int cut_file(struct at_ctx *cx, const char *path, struct cut *c)
{
    bool torn;
    if (c->after == 0)
        return AT_OK;
    if (access(path, F_OK) != 0 && errno == ENOENT) {
        if (c->csv)
            at_log(cx, AT_LOG_WARN, "%s: is missing; the metrics before step "
                   "%llu are lost", path, (unsigned long long)c->after + 1);
        return AT_OK;
    }
    return each_line(cx, path, keep_line, c, &torn);
}

static int rewrite(struct at_ctx *cx, struct at_metrics *m, uint64_t after)
{
    struct at_text t[N_FILES] = { 0 };
    struct cut rows = { after, &t[JSONL], &t[CSV] };
    int rc;
    put_csv_head(&t[CSV]);
    rc = cut_file(cx, m->path[JSONL], &rows);
    for (int i = SAMPLES; i < N_FILES && rc == AT_OK; i++) {
        struct cut other = { after, &t[i], NULL };
        rc = cut_file(cx, m->path[i], &other);
    }
    for (int i = 0; i < N_FILES && rc == AT_OK; i++)
        rc = at_text_ok(cx, &t[i]);
    for (int i = 0; i < N_FILES && rc == AT_OK; i++)
        if (i < SAMPLES || t[i].n || access(m->path[i], F_OK) == 0)
            rc = at_write_file(cx, m->path[i], t[i].n ? t[i].s : "", t[i].n);
    for (int i = 0; i < N_FILES; i++)
        at_text_finish(&t[i]);
    return rc;
}

static int open_file(struct at_ctx *cx, struct at_metrics *m, int i)
{
    m->fd[i] = open(m->path[i], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC,
                    0666);
    if (m->fd[i] < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", m->path[i]);
    return AT_OK;
}

int at_metrics_open(struct at_ctx *cx, const char *dir, uint64_t after,
                    struct at_metrics **m)
{
    struct at_metrics *o = at_alloc(cx, &cx->run, sizeof *o);
    int rc = AT_OK;
    if (!o)
        return AT_ENOMEM;
    for (int i = 0; i < N_FILES; i++) {
        o->fd[i] = -1;
        o->path[i] = at_sprintf(cx, &cx->run, "%s/%s", dir, file_name[i]);
        if (!o->path[i])
            rc = AT_ENOMEM;
    }
    if (rc == AT_OK)
        rc = rewrite(cx, o, after);
    for (int i = 0; i < N_FILES && rc == AT_OK; i++)
        if (i < SAMPLES)                /* the others: when they are needed   */
            rc = open_file(cx, o, i);
    if (rc < 0) {
        at_metrics_close(o);
        return rc;
    }
    *m = o;
    return AT_OK;
}

static int append(struct at_ctx *cx, struct at_metrics *m, int i)
{
    const char *p = m->line.s;
    size_t n = m->line.n;
    int rc = at_text_ok(cx, &m->line);
    while (rc == AT_OK && n > 0) {
        ssize_t w = write(m->fd[i], p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            rc = at_fail_errno(cx, errno, "%s: cannot be written", m->path[i]);
        else {
            p += w;
            n -= (size_t)w;
        }
    }
    return rc;
}

static void begin(struct at_metrics *m)
{
    if (m->line.failed)
        at_text_finish(&m->line);
    m->line.n = 0;
}

int at_metrics_add(struct at_ctx *cx, struct at_metrics *m,
                    const struct at_metrics_row *row)
{
    int rc;
    begin(m);
    put_json(&m->line, row);
    rc = append(cx, m, JSONL);
    if (rc < 0)
        return rc;
    begin(m);
    put_csv(&m->line, row);
    return append(cx, m, CSV);
}

int at_metrics_sample(struct at_ctx *cx, struct at_metrics *m, uint64_t step,
                      const char *prompt, const char *text)
{
    int rc = m->fd[SAMPLES] < 0 ? open_file(cx, m, SAMPLES) : AT_OK;
    if (rc < 0)
        return rc;
    begin(m);
    at_text_addf(&m->line, "{\"step\":%llu,\"prompt\":",
                 (unsigned long long)step);
    at_text_json(&m->line, prompt, strlen(prompt));
    at_text_addf(&m->line, ",\"text\":");
    at_text_json(&m->line, text, strlen(text));
    at_text_addf(&m->line, "}\n");
    return append(cx, m, SAMPLES);
}

double at_metrics_share_mean(const struct at_metrics_share *s, size_t n)
{
    double sum = 0, sites = 0;
    for (size_t i = 0; i < n; i++)
        if (s[i].all > 0) {
            sum += s[i].on / s[i].all;
            sites++;
        }
    return sites > 0 ? sum / sites : NAN;
}

int at_metrics_shares(struct at_ctx *cx, struct at_metrics *m, uint64_t step,
                      bool eval, const struct at_metrics_share *s, size_t n)
{
    double mean = at_metrics_share_mean(s, n);
    int rc = n && m->fd[SHARES] < 0 ? open_file(cx, m, SHARES) : AT_OK;
    if (rc < 0 || n == 0 || isnan(mean))
        return rc;
    begin(m);
    at_text_addf(&m->line, "{\"step\":%llu,\"split\":\"%s\",\"mean\":",
                 (unsigned long long)step, eval ? "eval" : "train");
    put_real(&m->line, mean);
    at_text_addf(&m->line, ",\"layers\":{");
    for (size_t i = 0; i < n; i++) {
        at_text_addf(&m->line, "%s", i ? "," : "");
        at_text_json(&m->line, s[i].site, strlen(s[i].site));
        at_text_addf(&m->line, ":");
        put_real(&m->line, s[i].all > 0 ? s[i].on / s[i].all : 0);
    }
    at_text_addf(&m->line, "}}\n");
    return append(cx, m, SHARES);
}

int at_metrics_line(struct at_ctx *cx, struct at_metrics *m,
                    enum at_metrics_lines file, const struct at_text *json)
{
    int rc = at_text_ok(cx, json);
    if (rc == AT_OK && m->fd[line_file[file]] < 0)
        rc = open_file(cx, m, line_file[file]);
    if (rc < 0)
        return rc;
    begin(m);
    at_text_add(&m->line, json->s, json->n);
    at_text_add(&m->line, "\n", 1);
    return append(cx, m, line_file[file]);
}

static void put_number(struct at_text *t, const char *key, double x)
{
    at_text_addf(t, "\"%s\":", key);
    if (isfinite(x))
        put_real(t, x);
    else
        at_text_addf(t, "null");
}

int at_metrics_values(struct at_ctx *cx, struct at_metrics *m, uint64_t step,
                      bool eval, const struct at_metrics_value *v, size_t n)
{
    int rc = m->fd[VALUES] < 0 ? open_file(cx, m, VALUES) : AT_OK;
    if (rc < 0)
        return rc;
    begin(m);
    at_text_addf(&m->line, "{\"step\":%llu,\"split\":\"%s\",\"values\":{",
                 (unsigned long long)step, eval ? "eval" : "train");
    for (size_t i = 0; i < n; i++) {
        at_text_addf(&m->line, i ? "," : "");
        at_text_json(&m->line, v[i].name, strlen(v[i].name));
        at_text_addf(&m->line, ":{");
        put_number(&m->line, "mean", v[i].mean);
        at_text_addf(&m->line, ",");
        put_number(&m->line, "se", v[i].se);
        at_text_addf(&m->line, ",");
        put_number(&m->line, "target", v[i].target);
        at_text_addf(&m->line, ",");
        put_number(&m->line, "weight", v[i].weight);
        at_text_addf(&m->line, "}");
    }
    at_text_addf(&m->line, "}}\n");
    return append(cx, m, VALUES);
}

int at_metrics_sync(struct at_ctx *cx, struct at_metrics *m)
{
    for (int i = 0; i < N_FILES; i++)
        if (m->fd[i] >= 0 && fsync(m->fd[i]) < 0)
            return at_fail_errno(cx, errno, "%s: cannot be flushed to disk",
                                 m->path[i]);
    return AT_OK;
}

void at_metrics_close(struct at_metrics *m)
{
    if (!m)
        return;
    for (int i = 0; i < N_FILES; i++)
        if (m->fd[i] >= 0)
            close(m->fd[i]);
    at_text_finish(&m->line);
}
