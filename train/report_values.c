/* Target against realised: a table, and each value's way there. */
#include "train/report_values.h"

#include "data/json.h"
#include "train/chart.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 32, TRAIN = 0, EVAL = 1 };

struct way {                    /* of one value over the steps                */
    const char *name;
    double *x[2], *y[2];        /* by split                                   */
    size_t n[2];
    double mean, se, target, weight;    /* of the last evaluation, else step  */
};

struct values { struct way v[MOST]; size_t n, lines; };

static double number(const json_t *o, const char *key)
{
    const json_t *x = json_object_get(o, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}

static struct way *way_of(struct at_ctx *cx, struct at_arena *a,
                          struct values *v, const char *name)
{
    struct way *w;
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->v[i].name, name) == 0)
            return &v->v[i];
    if (v->n == MOST)
        return NULL;
    w = &v->v[v->n];
    w->name = at_strdup(cx, a, name);
    for (int s = 0; s < 2; s++) {
        w->x[s] = at_alloc_n(cx, a, v->lines, sizeof *w->x[s]);
        w->y[s] = at_alloc_n(cx, a, v->lines, sizeof *w->y[s]);
        if (!w->x[s] || !w->y[s])
            return NULL;
    }
    if (!w->name)
        return NULL;
    v->n++;
    return w;
}

/* A line that is not one of ours, or torn, is passed over.                   */
static void add_line(struct at_ctx *cx, struct at_arena *a, struct values *v,
                     const char *line, size_t n)
{
    json_t *o = json_loadb(line, n, 0, NULL);
    const char *split = json_string_value(json_object_get(o, "split"));
    int s = split && strcmp(split, "eval") == 0 ? EVAL : TRAIN;
    const char *key;
    json_t *x;
    json_object_foreach(json_object_get(o, "values"), key, x) {
        struct way *w = way_of(cx, a, v, key);
        if (!w)
            continue;
        w->x[s][w->n[s]] = number(o, "step");
        w->y[s][w->n[s]++] = number(x, "mean");
        if (s == TRAIN && w->n[EVAL])
            continue;
        w->mean = number(x, "mean");
        w->se = number(x, "se");
        w->target = number(x, "target");
        w->weight = number(x, "weight");
    }
    json_decref(o);
}

static int read_values(struct at_ctx *cx, struct at_arena *a, const char *dir,
                       struct values *v)
{
    const char *path = at_sprintf(cx, a, "%s/values.jsonl", dir);
    char *text, *end;
    size_t n;
    int rc;
    if (!path)
        return AT_ENOMEM;
    if (access(path, F_OK) != 0)
        return AT_OK;
    rc = at_read_file(cx, a, path, 0, &text, &n);
    if (rc < 0)
        return rc;
    for (const char *s = text; (s = strchr(s, '\n')) != NULL; s++)
        v->lines++;
    for (char *s = text; (end = strchr(s, '\n')) != NULL; s = end + 1)
        add_line(cx, a, v, s, (size_t)(end - s));
    return AT_OK;
}

static void cell(struct at_text *t, double x)
{
    char buf[32];
    at_text_addf(t, "<td class=n>%s</td>", isfinite(x) ? at_short(buf, x) : "");
}

static void table(struct at_text *t, const struct values *v)
{
    at_text_addf(t, "<div class=\"card scroll\"><table><thead><tr><th>value"
                 "</th><th class=n>target</th><th class=n>realised</th>"
                 "<th class=n>\u00B1</th><th class=n>weight</th><th></th></tr>"
                 "</thead><tbody>\n");
    for (size_t i = 0; i < v->n; i++) {
        const struct way *w = &v->v[i];
        double short_by = (w->target - w->mean) / w->se;
        at_text_addf(t, "<tr><th>");
        at_html(t, w->name);
        at_text_addf(t, "</th>");
        cell(t, w->target);
        cell(t, w->mean);
        cell(t, w->se);
        cell(t, w->weight);
        at_text_addf(t, "<td>%s</td></tr>\n", isnan(short_by) ? ""
                     : short_by <= 0 ? "reached" : short_by <= 2
                     ? "within two standard errors" : "short of it");
    }
    at_text_addf(t, "</tbody></table></div>\n");
}

static int draw(struct at_ctx *cx, struct at_arena *a, const struct way *w,
                struct at_text *t)
{
    double ends[2] = { w->x[TRAIN][0], w->x[TRAIN][w->n[TRAIN] - 1] };
    double target[2] = { w->target, w->target };
    struct at_curve c[3] = {
        { AT_CURVE_FAINT, 0, "step", w->x[TRAIN], w->y[TRAIN], w->n[TRAIN],
          SIZE_MAX },
        { AT_CURVE_LINE, 2, "target", ends, target, isnan(w->target) ? 0 : 2,
          SIZE_MAX },
        { AT_CURVE_DOTS, 1, "held out", w->x[EVAL], w->y[EVAL], w->n[EVAL],
          SIZE_MAX },
    };
    struct at_chart chart = { .title = w->name, .width = 340, .height = 220,
                              .curve = c, .n = 3 };
    return at_chart_svg(cx, a, &chart, t);
}

int at_report_values(struct at_ctx *cx, struct at_arena *a, const char *dir,
                     const char *name, struct at_text *t)
{
    struct values *v = at_alloc(cx, a, sizeof *v);
    int rc = v ? read_values(cx, a, dir, v) : AT_ENOMEM;
    if (rc < 0 || v->n == 0)
        return rc;
    at_text_addf(t, "<h2>Values: target and realised");
    if (name) {
        at_text_addf(t, ": ");
        at_html(t, name);
    }
    at_text_addf(t, "</h2>\n");
    table(t, v);
    at_text_addf(t, "<div class=charts>\n");
    for (size_t i = 0; i < v->n && rc == AT_OK; i++)
        if (v->v[i].n[TRAIN] > 0)
            rc = draw(cx, a, &v->v[i], t);
    at_text_addf(t, "</div>\n");
    return rc;
}
