/* The page of a report.  What it says of a run is report_run.c's, the curves
 * are chart.c's.                                                             */
#include "train/report.h"

#include "train/chart.h"
#include "train/report_run.h"
#include "train/report_values.h"
#include "train/report_style.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SAMPLES_SHOWN = 20 };

struct page {
    struct at_ctx *cx;
    struct at_arena arena;
    struct at_text t;
    struct at_report_run *run;
    size_t n;
    int rc;
};

/* ---- figures as text ----------------------------------------------------- */

static const char *loss_text(char buf[32], double x)
{
    snprintf(buf, 32, isfinite(x) ? "%.4f" : "\u2013", x);
    return buf;
}

static const char *error_text(char buf[32], double x)
{
    snprintf(buf, 32, isfinite(x) ? "%.2g" : "\u2013", x);
    return buf;
}

static const char *time_text(char buf[32], double s)
{
    if (!isfinite(s) || !(s >= 0 && s < 1e12))
        snprintf(buf, 32, "\u2013");
    else if (s < 120)
        snprintf(buf, 32, "%.3g s", s);
    else if (s < 7200)
        snprintf(buf, 32, "%.0f min", s / 60);
    else
        snprintf(buf, 32, "%.0f h %02.0f min", floor(s / 3600),
                 floor(fmod(s, 3600) / 60));
    return buf;
}

static const char *short_text(char buf[32], double x)
{
    if (isfinite(x))
        return at_short(buf, x);
    snprintf(buf, 32, "\u2013");
    return buf;
}

/* 12 345, with thin spaces. */
static const char *count_text(char buf[32], double x)
{
    char digits[32];
    size_t n, to = 0;
    if (!(x >= 0 && x < 1e15))
        return short_text(buf, x);
    n = (size_t)snprintf(digits, sizeof digits, "%.0f", x);
    for (size_t i = 0; i < n && to < 28; i++) {
        if (i && (n - i) % 3 == 0) {
            memcpy(buf + to, "\u202F", 3);
            to += 3;
        }
        buf[to++] = digits[i];
    }
    buf[to] = '\0';
    return buf;
}

static const char *memory_text(char buf[32], double x)
{
    if (isfinite(x) && x > 0)
        return at_bytes_text(buf, x);
    snprintf(buf, 32, "\u2013");
    return buf;
}

/* exp(loss), where that says something. */
static const char *perplexity_text(char buf[32], double loss)
{
    if (isfinite(loss) && loss < 30)
        snprintf(buf, 32, loss < 5 ? "%.2f" : "%.4g", exp(loss));
    else
        snprintf(buf, 32, "\u2013");
    return buf;
}

/* ---- the parts of the page ----------------------------------------------- */

static void put(struct page *p, const char *html)
{
    at_text_add(&p->t, html, strlen(html));
}

static void head(struct page *p)
{
    put(p, "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content=\"width=device-width,initial-scale=1\">"
        "<title>");
    at_html(&p->t, p->n == 1 ? p->run[0].name : "Runs compared");
    put(p, " \u00B7 attune</title>\n<style>\n");
    for (size_t i = 0; i < AT_COUNT(page_style); i++)
        at_text_addf(&p->t, "%s\n", page_style[i]);
    put(p, "</style></head>\n<body><main>\n<h1>");
    if (p->n == 1)
        at_html(&p->t, p->run[0].name);
    else
        at_text_addf(&p->t, "%zu runs compared", p->n);
    put(p, "</h1>\n");
}

static void tile(struct page *p, const char *value, const char *what)
{
    at_text_addf(&p->t, "<div class=tile><b>%s</b><span>%s</span></div>\n",
                 value, what);
}

static void tiles(struct page *p, const struct at_report_run *r)
{
    char buf[32], step[32], what[128];
    put(p, "<div class=tiles>\n");
    if (isfinite(r->best_loss)) {
        error_text(buf, r->best_se);
        snprintf(what, sizeof what, "best evaluation loss \u00B1 %s, at step "
                 "%s", buf, count_text(step, r->best_step));
        tile(p, loss_text(buf, r->best_loss), what);
        if (r->words)
            tile(p, perplexity_text(buf, r->best_loss), "perplexity there");
    }
    tile(p, loss_text(buf, r->final_loss), "training loss at the end, "
         "smoothed");
    snprintf(what, sizeof what, "steps, %s", time_text(buf, r->time_s));
    tile(p, count_text(step, r->steps), what);
    tile(p, short_text(buf, r->tokens), "tokens trained on");
    tile(p, short_text(buf, r->tokens_per_s), "tokens a second, median");
    tile(p, memory_text(buf, r->peak_bytes), "memory at its peak");
    put(p, "</div>\n");
}

static void cell(struct page *p, const char *text)
{
    at_text_addf(&p->t, "<td class=n>%s</td>", text);
}

static void summary(struct page *p)
{
    char buf[32];
    put(p, "<div class=\"card scroll\"><table><thead><tr><th>run</th>"
        "<th class=n>best eval loss</th><th class=n>\u00B1</th>"
        "<th class=n>perplexity</th><th class=n>at step</th>"
        "<th class=n>train loss</th><th class=n>steps</th>"
        "<th class=n>tokens</th><th class=n>tokens/s</th>"
        "<th class=n>memory</th><th class=n>time</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < p->n; i++) {
        const struct at_report_run *r = &p->run[i];
        at_text_addf(&p->t, "<tr><th><span class=\"sw c%zu\"></span>", i);
        at_html(&p->t, r->name);
        put(p, "</th>");
        cell(p, loss_text(buf, r->best_loss));
        cell(p, error_text(buf, r->best_se));
        cell(p, perplexity_text(buf, r->words ? r->best_loss : NAN));
        cell(p, count_text(buf, r->best_step));
        cell(p, loss_text(buf, r->final_loss));
        cell(p, count_text(buf, r->steps));
        cell(p, short_text(buf, r->tokens));
        cell(p, short_text(buf, r->tokens_per_s));
        cell(p, memory_text(buf, r->peak_bytes));
        cell(p, time_text(buf, r->time_s));
        put(p, "</tr>\n");
    }
    put(p, "</tbody></table></div>\n");
}

static void warnings(struct page *p, const struct at_report_run *r)
{
    if (r->torn) {
        put(p, "<p class=warn>");
        at_html(&p->t, r->name);
        put(p, ": the last line of metrics.jsonl is half written and is left "
            "out.</p>\n");
    }
    if (r->n_skipped) {
        put(p, "<p class=warn>");
        at_html(&p->t, r->name);
        at_text_addf(&p->t, ": %zu logged step%s not finite%s.</p>\n",
                     r->n_skipped, r->n_skipped == 1 ? " was" : "s were",
                     p->n == 1 ? " (red marks below the loss)" : "");
    }
}

static void key_entry(struct page *p, const char *drawing, const char *text)
{
    at_text_addf(&p->t, "<li><svg viewBox=\"0 0 26 12\">%s</svg>", drawing);
    at_html(&p->t, text);
    put(p, "</li>\n");
}

static void legend(struct page *p)
{
    bool one = p->n == 1;
    put(p, "<ul class=key>\n");
    for (size_t i = 0; i < p->n && !one; i++) {
        char drawing[64];
        snprintf(drawing, sizeof drawing, "<path class=\"l c%zu\" d=\"M1 "
                 "6h24\"/>", i);
        key_entry(p, drawing, p->run[i].name);
    }
    if (one) {
        key_entry(p, "<path class=\"f c0\" d=\"M1 8l5-6 4 8 5-8 4 7 6-4\"/>",
                  "training, each logged step");
        key_entry(p, "<path class=\"l c0\" d=\"M1 6h24\"/>",
                  "training, smoothed");
    }
    if (one)
        key_entry(p, "<path class=\"d c1\" d=\"M1 6h24\"/><circle "
                  "class=\"p c1\" cx=13 cy=6 r=3.5 />", "evaluation");
    else
        put(p, "<li><small>line: training, smoothed; dots: evaluation</small>"
            "</li>\n");
    at_text_addf(&p->t, "<li><svg viewBox=\"0 0 26 12\"><circle class=\"b%s\" "
                 "cx=13 cy=6 r=5 /></svg>best</li>\n</ul>\n",
                 one ? " c1" : "");
}

static struct at_curve curve(const struct at_series *s,
                             enum at_curve_style style, size_t color,
                             const char *name)
{
    return (struct at_curve){ .style = style, .color = (int)color,
        .name = name, .x = s->x, .y = s->y, .n = s->n, .best = s->best };
}

static int loss_chart(struct page *p)
{
    struct at_curve c[3 * AT_REPORT_RUNS_MAX];
    struct at_chart chart = { .title = "Loss",
        .unit = p->run[0].words ? "nats a token" : NULL,
        .width = 1030, .height = 380, .falls = true, .curve = c,
        .mark_help = "not finite" };
    bool one = p->n == 1;
    for (size_t i = 0; i < p->n; i++) {
        struct at_report_run *r = &p->run[i];
        char *eval = at_sprintf(p->cx, &p->arena, "%s, evaluation", r->name);
        if (!eval)
            return AT_ENOMEM;
        if (one)
            c[chart.n++] = curve(&r->loss, AT_CURVE_FAINT, i, "step");
        c[chart.n++] = curve(&r->smooth, AT_CURVE_LINE, i,
                             one ? "smoothed" : r->name);
        c[chart.n++] = curve(&r->eval, AT_CURVE_DOTS, one ? 1 : i,
                             one ? "evaluation" : eval);
    }
    if (one) {
        chart.mark = p->run[0].skipped;
        chart.n_marks = p->run[0].n_skipped;
    }
    return at_chart_svg(p->cx, &p->arena, &chart, &p->t);
}

/* What a small chart shows: one run's values with their mean, or the means of
 * several.                                                                   */
struct small {
    const char *title, *unit;
    size_t at, smooth;          /* series in struct run; the same: no mean    */
    bool norm;
};

static int small_chart(struct page *p, const struct small *s)
{
    struct at_curve c[2 * AT_REPORT_RUNS_MAX];
    struct at_chart chart = { .title = s->title, .unit = s->unit, .width = 340,
        .height = 220, .log_if_wide = s->norm, .zero = !s->norm, .curve = c };
    for (size_t i = 0; i < p->n; i++) {
        const char *r = (const char *)&p->run[i];
        struct at_series each, mean;
        memcpy(&each, r + s->at, sizeof each);
        memcpy(&mean, r + s->smooth, sizeof mean);
        if (p->n == 1 && s->at != s->smooth)
            c[chart.n++] = curve(&each, AT_CURVE_FAINT, i, "step");
        c[chart.n++] = curve(&mean, AT_CURVE_LINE, i, p->n > 1
                             ? p->run[i].name : s->at == s->smooth ? "step"
                             : "smoothed");
    }
    return at_chart_svg(p->cx, &p->arena, &chart, &p->t);
}

/* Whether any run has it: capacity of those that route, and so on.            */
static bool measured(const struct page *p, const struct small *s)
{
    for (size_t i = 0; i < p->n; i++) {
        const char *r = (const char *)&p->run[i];
        struct at_series each;
        memcpy(&each, r + s->at, sizeof each);
        if (each.n)
            return true;
    }
    return false;
}

/* One dot a run: what its evaluations cost in time, and how good it got.       */
static int speed_chart(struct page *p)
{
    struct at_curve c[AT_REPORT_RUNS_MAX];
    struct at_chart chart = { .title = "Quality against speed",
        .unit = "best evaluation loss, over tokens a second in evaluation",
        .over = "tokens a second", .width = 340, .height = 220, .curve = c };
    for (size_t i = 0; i < p->n; i++) {
        const struct at_report_run *r = &p->run[i];
        if (isfinite(r->eval_tokens_per_s) && isfinite(r->best_loss))
            c[chart.n++] = (struct at_curve){
                .style = AT_CURVE_DOTS, .color = (int)i,
                .x = &r->eval_tokens_per_s, .y = &r->best_loss, .n = 1,
                .best = SIZE_MAX,
            };
    }
    return at_chart_svg(p->cx, &p->arena, &chart, &p->t);
}

static int charts(struct page *p)
{
    static const struct small all[] = {
        { "Learning rate", NULL, offsetof(struct at_report_run, lr),
          offsetof(struct at_report_run, lr), false },
        { "Gradient norm", NULL, offsetof(struct at_report_run, grad),
          offsetof(struct at_report_run, smooth_grad), true },
        { "Speed", "tokens a second", offsetof(struct at_report_run, speed),
          offsetof(struct at_report_run, smooth_speed), false },
        { "Capacity", "share executed",
          offsetof(struct at_report_run, capacity),
          offsetof(struct at_report_run, smooth_capacity), false },
        { "Blocks from workers", "blocks",
          offsetof(struct at_report_run, blocks),
          offsetof(struct at_report_run, blocks), false },
        { "Waiting for workers", "seconds",
          offsetof(struct at_report_run, wait),
          offsetof(struct at_report_run, wait), false },
    };
    int rc;
    legend(p);
    rc = loss_chart(p);
    put(p, "<div class=charts>\n");
    for (size_t i = 0; i < AT_COUNT(all) && rc == AT_OK; i++)
        if (i < 3 || measured(p, &all[i]))
            rc = small_chart(p, &all[i]);
    if (rc == AT_OK && p->n > 1)
        rc = speed_chart(p);
    put(p, "</div>\n");
    return rc;
}

/* ---- settings ------------------------------------------------------------ */

/* Whether any run's value differs from its default (one run), or from the
 * first run's (several).                                                     */
static bool worth_showing(struct page *p, const char *key,
                          const char *value[AT_REPORT_RUNS_MAX])
{
    const char *first = NULL;
    bool differ = false;
    if (p->n == 1 && at_recipe_default(p->cx, &p->arena, key, &first) < 0) {
        p->rc = AT_ENOMEM;
        return false;
    }
    for (size_t i = 0; i < p->n; i++) {
        value[i] = "\u2013";
        if (!p->run[i].recipe)
            continue;
        if (at_recipe_value(p->cx, &p->arena, p->run[i].recipe, key,
                            &value[i]) < 0) {
            p->rc = AT_ENOMEM;
            return false;
        }
        if (!first)
            first = value[i];
        differ |= strcmp(value[i], first) != 0;
    }
    return differ;
}

/* The head of a table with a column for each run. */
static void run_columns(struct page *p, const char *what)
{
    put(p, "<div class=\"card scroll\"><table><thead><tr><th>");
    put(p, what);
    put(p, "</th>");
    for (size_t i = 0; i < p->n; i++) {
        put(p, "<th>");
        if (p->n > 1) {
            at_text_addf(&p->t, "<span class=\"sw c%zu\"></span>", i);
            at_html(&p->t, p->run[i].name);
        }
        put(p, "</th>");
    }
    put(p, "</tr></thead><tbody>\n");
}

static void settings(struct page *p)
{
    const char *key, *value[AT_REPORT_RUNS_MAX];
    run_columns(p, p->n > 1 ? "where the recipes differ"
                            : "recipe, where it is not the default");
    for (size_t k = 0; (key = at_recipe_key(k)) && p->rc == AT_OK; k++) {
        if (!worth_showing(p, key, value))
            continue;
        at_text_addf(&p->t, "<tr><th><code>%s</code></th>", key);
        for (size_t i = 0; i < p->n; i++) {
            put(p, "<td><code>");
            at_html(&p->t, value[i]);
            put(p, "</code></td>");
        }
        put(p, "</tr>\n");
    }
    put(p, "</tbody></table></div>\n");
}

static const char *fact(const struct at_report_run *r,
                        const struct at_fact *like)
{
    for (size_t i = 0; i < r->n_facts; i++)
        if (strcmp(r->fact[i].group, like->group) == 0 &&
            strcmp(r->fact[i].name, like->name) == 0)
            return r->fact[i].value;
    return NULL;
}

/* A row for every fact of any run; those of the first come first. */
static void facts(struct page *p)
{
    const char *group = NULL;
    run_columns(p, p->n > 1 ? "facts" : "");
    for (size_t i = 0; i < p->n; i++)
        for (size_t j = 0; j < p->run[i].n_facts; j++) {
            const struct at_fact *f = &p->run[i].fact[j];
            bool told = false;
            for (size_t k = 0; k < i && !told; k++)
                told = fact(&p->run[k], f) != NULL;
            if (told)
                continue;
            if (!group || strcmp(f->group, group) != 0) {
                at_text_addf(&p->t, "<tr><th colspan=%zu><small>", p->n + 1);
                at_html(&p->t, f->group);
                put(p, "</small></th></tr>\n");
            }
            group = f->group;
            put(p, "<tr><th>");
            at_html(&p->t, f->name);
            put(p, "</th>");
            for (size_t k = 0; k < p->n; k++) {
                const char *value = fact(&p->run[k], f);
                put(p, "<td class=v>");
                at_html(&p->t, value ? value : "\u2013");
                put(p, "</td>");
            }
            put(p, "</tr>\n");
        }
    put(p, "</tbody></table></div>\n");
}

static void about(struct page *p)
{
    bool recipes = false, any_facts = false;
    for (size_t i = 0; i < p->n; i++) {
        recipes |= p->run[i].recipe != NULL;
        any_facts |= p->run[i].n_facts > 0;
    }
    if (!recipes && !any_facts)
        return;
    put(p, "<h2>Settings</h2>\n");
    put(p, p->n == 1 && recipes && any_facts ? "<div class=two>\n"
                                             : "<div class=stack>\n");
    if (recipes)
        settings(p);
    if (any_facts)
        facts(p);
    put(p, "</div>\n");
}

/* ---- details: evaluations, recipes --------------------------------------- */

static void fold(struct page *p, const char *what,
                 const struct at_report_run *r)
{
    at_text_addf(&p->t, "<details class=\"card scroll\"><summary>%s", what);
    if (p->n > 1) {
        put(p, " of ");
        at_html(&p->t, r->name);
    }
    put(p, "</summary>");
}

static void recipe(struct page *p, const struct at_report_run *r)
{
    if (!r->recipe_text)
        return;
    fold(p, r->recipe_error ? "a recipe that does not load here"
                            : "the whole recipe", r);
    if (r->recipe_error) {
        put(p, "<pre class=warn>");
        at_html(&p->t, r->recipe_error);
        put(p, "</pre>\n");
    }
    put(p, "<pre>");
    at_html(&p->t, r->recipe_text);
    put(p, "</pre></details>\n");
}

static void evaluations(struct page *p, const struct at_report_run *r)
{
    char buf[32];
    if (r->eval.n == 0)
        return;
    fold(p, "all evaluations", r);
    put(p, "<table><thead><tr><th class=n>step</th><th class=n>loss"
        "</th><th class=n>\u00B1</th><th class=n>perplexity</th>"
        "<th class=n>tokens</th></tr></thead><tbody>\n");
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct at_metrics_row *w = &r->row[i];
        if (!w->eval)
            continue;
        at_text_addf(&p->t, "<tr><td class=n>%llu%s</td>",
                     (unsigned long long)w->step,
                     (double)w->step == r->best_step ? " best" : "");
        cell(p, loss_text(buf, w->loss));
        cell(p, error_text(buf, w->loss_se));
        cell(p, perplexity_text(buf, r->words ? w->loss : NAN));
        at_text_addf(&p->t, "<td class=n>%llu</td></tr>\n",
                     (unsigned long long)w->targets);
    }
    put(p, "</tbody></table></details>\n");
}

/* ---- samples and the whole ----------------------------------------------- */

/* The samples of one evaluation, up to `end`; returns where they begin.      */
static size_t samples_of_step(struct page *p, const struct at_report_run *r,
                              size_t end)
{
    size_t begin = end - 1;
    while (begin > 0 && r->sample[begin - 1].step == r->sample[end - 1].step)
        begin--;
    at_text_addf(&p->t, "<h3>step %llu</h3>\n",
                 (unsigned long long)r->sample[begin].step);
    for (size_t i = begin; i < end; i++) {
        put(p, "<div class=sample><b>");
        at_html(&p->t, r->sample[i].prompt);
        put(p, "</b>");
        at_html(&p->t, r->sample[i].text);
        put(p, "</div>\n");
    }
    return begin;
}

/* Those of the latest evaluation are open, those before it folded. */
static void samples(struct page *p, const struct at_report_run *r)
{
    size_t end = r->n_samples;
    if (end == 0)
        return;
    put(p, "<h2>What it writes");
    if (p->n > 1) {
        put(p, ": ");
        at_html(&p->t, r->name);
    }
    put(p, "</h2>\n<div class=card>");
    end = samples_of_step(p, r, end);
    put(p, "</div>\n");
    if (end == 0)
        return;
    put(p, "<details class=card><summary>what it wrote before</summary>\n");
    for (size_t shown = 0; end > 0 && shown < SAMPLES_SHOWN; shown++)
        end = samples_of_step(p, r, end);
    if (end > 0)
        put(p, "<p class=none>Earlier ones are in samples.jsonl.</p>\n");
    put(p, "</details>\n");
}

static int build(struct page *p)
{
    int rc;
    head(p);
    put(p, "<p class=sub>");
    for (size_t i = 0; i < p->n && p->n == 1; i++)
        at_html(&p->t, p->run[i].dir);
    put(p, "</p>\n");
    if (p->n == 1)
        tiles(p, &p->run[0]);
    else
        summary(p);
    for (size_t i = 0; i < p->n; i++)
        warnings(p, &p->run[i]);
    for (size_t i = 0; i < p->n && p->rc == AT_OK; i++)
        p->rc = at_report_values(p->cx, &p->arena, p->run[i].dir,
                                 p->n > 1 ? p->run[i].name : NULL, &p->t);
    put(p, "<h2>Curves</h2>\n");
    rc = charts(p);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < p->n; i++)
        samples(p, &p->run[i]);
    about(p);
    put(p, "<h2>Details</h2>\n");
    for (size_t i = 0; i < p->n; i++) {
        evaluations(p, &p->run[i]);
        recipe(p, &p->run[i]);
    }
    put(p, "</main>\n<script>\n");
    for (size_t i = 0; i < AT_COUNT(page_script); i++)
        at_text_addf(&p->t, "%s\n", page_script[i]);
    put(p, "</script>\n</body></html>\n");
    return p->rc < 0 ? p->rc : at_text_ok(p->cx, &p->t);
}

int at_report_write(struct at_ctx *cx, const char *const *run_dirs, size_t n,
                    const char *out_path)
{
    struct page p = { .cx = cx, .n = n };
    int rc = AT_OK;
    if (n < 1 || n > AT_REPORT_RUNS_MAX)
        return at_fail(cx, AT_EINVAL, "a report shows 1 to %d runs, not %zu",
                       AT_REPORT_RUNS_MAX, n);
    rc = at_file_ours(cx, out_path, "<!", 2);
    p.run = at_alloc_n(cx, &p.arena, n, sizeof *p.run);
    if (!p.run)
        rc = AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        rc = at_report_run_read(cx, &p.arena, run_dirs[i], n == 1, &p.run[i]);
    if (rc == AT_OK)
        rc = build(&p);
    if (rc == AT_OK)
        rc = at_write_file(cx, out_path, p.t.s, p.t.n);
    at_text_finish(&p.t);
    at_arena_finish(&p.arena);
    return rc;
}
