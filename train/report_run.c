/* A run's directory as a report wants it: read, smoothed, summed up. */
#include "train/report_run.h"

#include "train/align/objective.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RECIPE_MAX = 1 << 20, FACTS_MAX = 1 << 20 };

struct reader {
    struct at_ctx *cx;
    struct at_arena *arena;
    bool alone;                 /* the only run of its report                 */
    int rc;
};

/* ---- reading a run ------------------------------------------------------- */

static bool file_there(const char *path)
{
    FILE *f = fopen(path, "re");
    if (f)
        fclose(f);
    return f != NULL;
}

static int read_recipe(struct reader *p, struct at_report_run *r)
{
    char *path = at_sprintf(p->cx, p->arena, "%s/recipe.yaml", r->dir), *text;
    size_t n;
    int rc;
    if (!path)
        return AT_ENOMEM;
    r->words = true;                /* unless its recipe says otherwise       */
    if (!file_there(path))
        return AT_OK;
    rc = at_read_file(p->cx, p->arena, path, RECIPE_MAX, &text, &n);
    if (rc < 0)
        return rc;
    r->recipe_text = text;
    rc = at_recipe_parse(p->cx, p->arena, path, text, n, NULL, 0, &r->recipe);
    if (rc == AT_ENOMEM)
        return rc;
    if (rc < 0) {                   /* of another version: shown as a text   */
        r->recipe = NULL;
        r->recipe_error = at_strdup(p->cx, p->arena, p->cx->err.msg);
        return r->recipe_error ? AT_OK : AT_ENOMEM;
    }
    r->words = !at_objective_find(at_recipe_text(r->recipe, "objective"));
    return AT_OK;
}

static int read_samples(struct reader *p, struct at_report_run *r)
{
    char *path = at_sprintf(p->cx, p->arena, "%s/samples.jsonl", r->dir);
    bool torn = false;
    if (!path)
        return AT_ENOMEM;
    if (!file_there(path))
        return AT_OK;
    return at_metrics_read_samples(p->cx, p->arena, r->dir, &r->sample,
                                   &r->n_samples, &torn);
}

static char *text_of(struct reader *p, const json_t *o, const char *name)
{
    const char *s = json_string_value(json_object_get(o, name));
    char *copy = s ? at_strdup(p->cx, p->arena, s) : NULL;
    if (s && !copy)
        p->rc = AT_ENOMEM;
    return copy;
}

static int read_facts(struct reader *p, struct at_report_run *r)
{
    char *path = at_sprintf(p->cx, p->arena, "%s/facts.jsonl", r->dir), *text;
    size_t n, cap = 1;
    int rc;
    if (!path)
        return AT_ENOMEM;
    if (!file_there(path))
        return AT_OK;
    rc = at_read_file(p->cx, p->arena, path, FACTS_MAX, &text, &n);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        cap += text[i] == '\n';
    r->fact = at_alloc_n(p->cx, p->arena, cap, sizeof *r->fact);
    if (!r->fact)
        return AT_ENOMEM;
    for (char *line = text; line < text + n && rc == AT_OK;) {
        size_t len = strcspn(line, "\n");
        json_t *o = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL);
        struct at_fact f = { text_of(p, o, "group"), text_of(p, o, "name"),
                             text_of(p, o, "value") };
        if (f.group && f.name && f.value)
            r->fact[r->n_facts++] = f;
        else
            rc = p->rc < 0 ? p->rc
                 : at_fail(p->cx, AT_EFORMAT, "%s: line %zu is no fact; remove "
                           "it", path, r->n_facts + 1);
        json_decref(o);
        line += len + 1;
    }
    return rc;
}

/* ---- figures ------------------------------------------------------------- */

/* The rows of one split as a series of the double at offset `at`.            */
static int series(struct reader *p, const struct at_report_run *r, bool eval,
                  size_t at, struct at_series *s)
{
    *s = (struct at_series){ .best = SIZE_MAX };
    s->x = at_alloc_n(p->cx, p->arena, r->n_rows, sizeof *s->x);
    s->y = at_alloc_n(p->cx, p->arena, r->n_rows, sizeof *s->y);
    if (!s->x || !s->y)
        return AT_ENOMEM;
    for (size_t i = 0; i < r->n_rows; i++) {
        if (r->row[i].eval != eval)
            continue;
        s->x[s->n] = (double)r->row[i].step;
        memcpy(&s->y[s->n++], (const char *)&r->row[i] + at, sizeof *s->y);
    }
    return AT_OK;
}

/* The exponential mean of s, over a fiftieth of it; over less at the
 * beginning, where a curve falls fast, and without bias to its first value.
 * The mean of a norm is one of logarithms: a spike does not lift it.         */
static int smooth(struct reader *p, const struct at_series *s, bool norm,
                  struct at_series *to)
{
    double sum = 0, weight = 0;
    *to = *s;
    to->y = at_alloc_n(p->cx, p->arena, s->n, sizeof *to->y);
    if (!to->y)
        return AT_ENOMEM;
    for (size_t i = 0; i < s->n; i++) {
        double over = fmin((double)s->n / 50, (double)i / 10);
        double keep = over > 0.5 ? exp(-1 / over) : 0;
        double y = norm ? log(s->y[i]) : s->y[i];
        if (isfinite(y)) {
            sum = keep * sum + (1 - keep) * y;
            weight = keep * weight + (1 - keep);
        }
        to->y[i] = weight > 0 ? sum / weight : NAN;
        if (norm)
            to->y[i] = exp(to->y[i]);
    }
    return AT_OK;
}

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static double median(struct reader *p, const struct at_series *s)
{
    double *v = at_alloc_n(p->cx, p->arena, s->n, sizeof *v);
    size_t n = 0;
    if (!v) {
        p->rc = AT_ENOMEM;
        return NAN;
    }
    for (size_t i = 0; i < s->n; i++)
        if (isfinite(s->y[i]))
            v[n++] = s->y[i];
    if (n == 0)
        return NAN;
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

static void totals(struct at_report_run *r)
{
    double last_s = 0;
    size_t best = SIZE_MAX;
    r->steps = r->tokens = r->final_loss = r->best_loss = r->best_se = NAN;
    r->best_step = r->time_s = r->peak_bytes = NAN;
    for (size_t i = 0, e = 0; i < r->n_rows; i++) {
        const struct at_metrics_row *w = &r->row[i];
        r->peak_bytes = fmax(r->peak_bytes, (double)w->peak_bytes);
        r->tokens = fmax(r->tokens, (double)w->all_tokens);
        r->steps = fmax(r->steps, (double)w->step);
        if (!w->eval) {             /* the clock starts anew at a resume     */
            if (isfinite(w->time_s)) {
                double from = w->time_s < last_s ? 0 : last_s;
                r->time_s = (isnan(r->time_s) ? 0 : r->time_s) + w->time_s -
                            from;
                last_s = w->time_s;
            }
            continue;
        }
        if (isfinite(w->loss) && !(r->best_loss <= w->loss)) {
            r->best_loss = w->loss;
            r->best_se = w->loss_se;
            r->best_step = (double)w->step;
            best = e;
        }
        e++;
    }
    r->eval.best = best;
    if (r->smooth.n)
        r->final_loss = r->smooth.y[r->smooth.n - 1];
}

static int series_of(struct reader *p, const struct at_metrics_mean *means,
                     size_t n, struct at_series *s)
{
    *s = (struct at_series){ .n = n, .best = SIZE_MAX };
    s->x = at_alloc_n(p->cx, p->arena, n + 1, sizeof *s->x);
    s->y = at_alloc_n(p->cx, p->arena, n + 1, sizeof *s->y);
    if (!s->x || !s->y)
        return AT_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        s->x[i] = (double)means[i].step;
        s->y[i] = means[i].mean;
    }
    return AT_OK;
}

static int read_capacity(struct reader *p, struct at_report_run *r)
{
    struct at_metrics_mean *means;
    size_t n;
    int rc = at_metrics_read_means(p->cx, p->arena, r->dir, false, &means, &n);
    if (rc == AT_OK)
        rc = series_of(p, means, n, &r->capacity);
    return rc == AT_OK ? smooth(p, &r->capacity, false, &r->smooth_capacity)
                       : rc;
}

static int read_offload(struct reader *p, struct at_report_run *r)
{
    const struct { const char *key; struct at_series *to; } all[] = {
        { "blocks", &r->blocks }, { "wait_s", &r->wait },
    };
    int rc = AT_OK;
    for (size_t i = 0; i < AT_COUNT(all) && rc == AT_OK; i++) {
        struct at_metrics_mean *v;
        size_t n;
        rc = at_metrics_read_key(p->cx, p->arena, r->dir, AT_METRICS_OFFLOAD,
                                 all[i].key, &v, &n);
        if (rc == AT_OK)
            rc = series_of(p, v, n, all[i].to);
    }
    return rc;
}

static int measure(struct reader *p, struct at_report_run *r)
{
    const struct { size_t at; bool eval; struct at_series *to; } all[] = {
        { offsetof(struct at_metrics_row, loss), false, &r->loss },
        { offsetof(struct at_metrics_row, loss), true, &r->eval },
        { offsetof(struct at_metrics_row, lr), false, &r->lr },
        { offsetof(struct at_metrics_row, grad_norm), false, &r->grad },
        { offsetof(struct at_metrics_row, tokens_per_s), false, &r->speed },
    };
    struct at_series eval_speed;
    int rc = AT_OK;
    for (size_t i = 0; i < AT_COUNT(all) && rc == AT_OK; i++)
        rc = series(p, r, all[i].eval, all[i].at, all[i].to);
    if (rc == AT_OK)
        rc = smooth(p, &r->loss, false, &r->smooth);
    if (rc == AT_OK)
        rc = smooth(p, &r->grad, true, &r->smooth_grad);
    if (rc == AT_OK)
        rc = smooth(p, &r->speed, false, &r->smooth_speed);
    if (rc == AT_OK)
        rc = read_capacity(p, r);
    if (rc == AT_OK)
        rc = read_offload(p, r);
    if (rc < 0)
        return rc;
    r->skipped = at_alloc_n(p->cx, p->arena, r->n_rows, sizeof *r->skipped);
    if (!r->skipped)
        return AT_ENOMEM;
    for (size_t i = 0; i < r->n_rows; i++)
        if (r->row[i].skipped || (!r->row[i].eval &&
                                  !isfinite(r->row[i].loss)))
            r->skipped[r->n_skipped++] = (double)r->row[i].step;
    totals(r);
    r->tokens_per_s = median(p, &r->speed);
    rc = series(p, r, true, offsetof(struct at_metrics_row, tokens_per_s),
                &eval_speed);
    if (rc < 0)
        return rc;
    r->eval_tokens_per_s = median(p, &eval_speed);
    return p->rc;
}

/* The last part of the directory's name, where that tells the runs apart.    */
static const char *name_of(struct reader *p, const char *dir)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    for (size_t i = n; p->alone && i > 0; i--)
        if (dir[i - 1] == '/' && i < n)
            return at_strndup(p->cx, p->arena, dir + i, n - i);
    return at_strndup(p->cx, p->arena, dir, n);
}

int at_report_run_read(struct at_ctx *cx, struct at_arena *arena,
                       const char *dir, bool alone, struct at_report_run *r)
{
    struct reader reader = { cx, arena, alone, AT_OK }, *p = &reader;
    int rc;
    *r = (struct at_report_run){ .dir = dir, .name = name_of(p, dir) };
    if (!r->name)
        return AT_ENOMEM;
    rc = at_metrics_read(cx, arena, dir, &r->row, &r->n_rows, &r->torn);
    if (rc == AT_OK)
        rc = read_recipe(p, r);
    if (rc == AT_OK)
        rc = read_samples(p, r);
    if (rc == AT_OK)
        rc = read_facts(p, r);
    if (rc == AT_OK)
        rc = measure(p, r);
    return rc < 0 ? at_note(cx, rc, "reading the run %s", dir) : AT_OK;
}

/* ---- facts --------------------------------------------------------------- */

int at_report_facts(struct at_ctx *cx, const char *dir,
                    const struct at_fact *fact, size_t n)
{
    struct at_text t = { 0 };
    char *path = at_sprintf(cx, &cx->run, "%s/facts.jsonl", dir);
    int rc = path ? AT_OK : AT_ENOMEM;
    at_text_add(&t, "", 0);
    for (size_t i = 0; i < n; i++) {
        at_text_addf(&t, "{\"group\":");
        at_text_json(&t, fact[i].group, strlen(fact[i].group));
        at_text_addf(&t, ",\"name\":");
        at_text_json(&t, fact[i].name, strlen(fact[i].name));
        at_text_addf(&t, ",\"value\":");
        at_text_json(&t, fact[i].value, strlen(fact[i].value));
        at_text_addf(&t, "}\n");
    }
    if (rc == AT_OK)
        rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_write_file(cx, path, t.s, t.n);
    at_text_finish(&t);
    return rc;
}
