/* report: pages are well-formed, self-contained, and tame what a run holds. */
#include "tests/test.h"

#include "train/chart.h"
#include "train/metrics.h"
#include "train/report.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char recipe[] =
    "model: {path: m.h5}\ndata: {path: d.h5}\ntrain: {steps: 100}\n";

struct dir { char path[64]; };

static struct dir dir_create(void)
{
    struct dir d = { "/tmp/attune-report-XXXXXX" };
    assert_non_null(mkdtemp(d.path));
    return d;
}

static const char *in(struct at_ctx *cx, const struct dir *d, const char *name)
{
    const char *path = at_sprintf(cx, &cx->run, "%s/%s", d->path, name);
    assert_non_null(path);
    return path;
}

static void dir_remove(struct at_ctx *cx, const struct dir *d)
{
    static const char *const name[] = { "metrics.jsonl", "metrics.csv",
        "samples.jsonl", "facts.jsonl", "recipe.yaml", "out.html" };
    for (size_t i = 0; i < AT_COUNT(name); i++)
        unlink(in(cx, d, name[i]));
    assert_int_equal(rmdir(d->path), 0);
}

static void spill(struct at_ctx *cx, const struct dir *d, const char *name,
                  const char *text)
{
    OK(cx, at_write_file(cx, in(cx, d, name), text, strlen(text)));
}

/* Steps 1..n with an evaluation at every tenth. */
static void write_rows(struct at_ctx *cx, const struct dir *d, uint64_t n)
{
    struct at_metrics *m;
    OK(cx, at_metrics_open(cx, d->path, 0, &m));
    for (uint64_t s = 1; s <= n; s++) {
        double x = (double)s;
        struct at_metrics_row row = { .step = s, .loss = 1 + 8 / x,
            .loss_se = 0.01, .grad_norm = 2 / sqrt(x), .grad_z = 0,
            .lr = 1e-3 / x, .tokens = 10, .targets = 10, .all_tokens = 10 * s,
            .tokens_per_s = 1000 + x, .peak_bytes = 1 << 20, .time_s = x };
        OK(cx, at_metrics_add(cx, m, &row));
        row.eval = true;
        row.loss = 1.5 + 0.001 * (x - 50) * (x - 50);
        if (s % 10 == 0)
            OK(cx, at_metrics_add(cx, m, &row));
    }
    at_metrics_close(m);
}

static char *page(struct at_ctx *cx, const struct dir *const *d, size_t n)
{
    const char *dirs[AT_REPORT_RUNS_MAX], *out = in(cx, d[0], "out.html");
    char *text;
    size_t len;
    for (size_t i = 0; i < n; i++)
        dirs[i] = d[i]->path;
    OK(cx, at_report_write(cx, dirs, n, out));
    OK(cx, at_read_file(cx, &cx->run, out, 0, &text, &len));
    assert_int_equal(strlen(text), len);
    return at_strdup(cx, &cx->run, text);   /* gcc 12 takes text for a local */
}

/* ---- a reader of what we write ------------------------------------------- */

static bool is_void(const char *tag)
{
    return strcmp(tag, "meta") == 0 || strcmp(tag, "br") == 0;
}

/* The end of the tag at p ('<'); its name into tag; attributes must be plain
 * or in double quotes that close.                                            */
static const char *read_tag(const char *p, char tag[32], bool *close,
                            bool *self)
{
    size_t n = 0;
    p++;
    *close = *p == '/';
    p += *close;
    while (isalnum((unsigned char)*p) && n < 31)
        tag[n++] = *p++;
    tag[n] = '\0';
    assert_true(n > 0);
    while (*p && *p != '>') {
        assert_true(*p != '<');
        if (*p == '"') {
            p = strchr(p + 1, '"');
            assert_non_null(p);
        }
        p++;
    }
    assert_int_equal(*p, '>');
    *self = p[-1] == '/';
    return p + 1;
}

/* Every tag is closed in order, every & is an entity; returns how many tags. */
static size_t well_formed(const char *s)
{
    char open[64][32], tag[32];
    size_t depth = 0, n = 0;
    bool close, self;
    assert_int_equal(strncmp(s, "<!DOCTYPE html>", 15), 0);
    for (s += 15; *s;) {
        if (*s == '&') {
            size_t len = strcspn(s, ";");
            assert_true(len > 1 && len < 7);
        }
        if (*s != '<') {
            s++;
            continue;
        }
        n++;
        s = read_tag(s, tag, &close, &self);
        if (close) {
            assert_true(depth > 0);
            if (strcmp(open[depth - 1], tag) != 0)
                print_error("</%s> closes <%s>\n", tag, open[depth - 1]);
            assert_string_equal(open[--depth], tag);
        } else if (!self && !is_void(tag)) {
            assert_true(depth < 64);
            strcpy(open[depth++], tag);
            if (strcmp(tag, "script") == 0 || strcmp(tag, "style") == 0) {
                s = strstr(s, strcmp(tag, "style") == 0 ? "</style>"
                                                        : "</script>");
                assert_non_null(s);
            }
        }
    }
    assert_int_equal(depth, 0);
    return n;
}

static size_t count(const char *s, const char *what)
{
    size_t n = 0;
    while ((s = strstr(s, what))) {
        n++;
        s += strlen(what);
    }
    return n;
}

/* Nothing is fetched, and no number has failed to be one. */
static void self_contained(const char *s)
{
    static const char *const never[] = { "http", "src=", "href", "url(",
        "@import", "nan", "inf ", "//" };
    for (size_t i = 0; i < AT_COUNT(never); i++) {
        const char *found = strstr(s, never[i]);
        if (found)
            print_error("'%s' in: %.60s\n", never[i], found);
        assert_null(found);
    }
}

/* ---- tests --------------------------------------------------------------- */

static void a_run_is_shown(void **state)
{
    static const struct at_fact facts[] = {
        { "model", "parameters", "15 million" }, { "data", "tokens", "12" },
    };
    struct dir d = dir_create();
    const struct dir *const one[] = { &d };
    struct at_ctx cx;
    char *s;
    (void)state;
    at_ctx_init(&cx);
    write_rows(&cx, &d, 100);
    spill(&cx, &d, "recipe.yaml", recipe);
    spill(&cx, &d, "samples.jsonl",
          "{\"step\":10,\"prompt\":\"P1\",\"text\":\"old\"}\n"
          "{\"step\":20,\"prompt\":\"P1\",\"text\":\"new\"}\n");
    OK(&cx, at_report_facts(&cx, d.path, facts, AT_COUNT(facts)));
    s = page(&cx, one, 1);
    assert_true(well_formed(s) > 100);
    self_contained(s);
    assert_int_equal(count(s, "<figure"), 4);
    assert_int_equal(count(s, "class=\"l c0\" d=\"M"), 5);  /* and the key   */
    assert_int_equal(count(s, "class=\"b c1\""), 2);        /* best, the key */
    assert_non_null(strstr(s, "<b>1.5000</b><span>best evaluation loss \u00B1 "
                              "0.01, at step 50</span>"));
    assert_non_null(strstr(s, "<td class=n>50 best</td>"));
    assert_non_null(strstr(s, "<code>data.path</code></th><td><code>d.h5"));
    assert_null(strstr(s, "<code>optim.lr</code>"));        /* the default   */
    assert_non_null(strstr(s, "parameters</th><td class=v>15 million"));
    assert_true(strstr(s, "</b>new") < strstr(s, "</b>old"));
    assert_int_equal(count(s, "class=warn"), 0);
    dir_remove(&cx, &d);
    at_ctx_finish(&cx);
}

static void runs_are_laid_over_each_other(void **state)
{
    struct dir a = dir_create(), b = dir_create(), c = dir_create();
    const struct dir *const all[] = { &a, &b, &c };
    struct at_ctx cx;
    char *s, *at;
    (void)state;
    at_ctx_init(&cx);
    write_rows(&cx, &a, 100);
    write_rows(&cx, &b, 50);
    write_rows(&cx, &c, 5);
    spill(&cx, &a, "recipe.yaml", recipe);
    spill(&cx, &b, "recipe.yaml",
          "model: {path: m.h5}\ndata: {path: d.h5}\ntrain: {steps: 50}\n");
    s = page(&cx, all, 3);
    well_formed(s);
    self_contained(s);
    for (int i = 0; i < 3; i++) {
        char want[64];
        snprintf(want, sizeof want, "class=\"l c%d\" d=\"M", i);
        assert_int_equal(count(s, want), 5);
        assert_non_null(strstr(s, all[i]->path));
    }
    assert_non_null(strstr(s, "<code>train.steps</code></th><td><code>100"
        "</code></td><td><code>50</code></td><td><code>\u2013</code></td>"));
    assert_null(strstr(s, "<code>data.path</code>"));       /* the same      */
    at = strstr(s, "Quality against speed");
    assert_non_null(at);
    assert_non_null(strstr(at, " over tokens a second\""));
    at[strcspn(at, "\n")] = '\0';
    assert_int_equal(count(at, "<circle"), 2);  /* the third evaluated nothing */
    dir_remove(&cx, &a);
    dir_remove(&cx, &b);
    dir_remove(&cx, &c);
    at_ctx_finish(&cx);
}

static void hostile_texts_are_escaped(void **state)
{
    static const struct at_fact facts[] = {
        { "</table>", "<i>", "\" onload=\"x\x01\xff" },
    };
    struct dir d = dir_create();
    const struct dir *const one[] = { &d };
    struct at_ctx cx;
    char *s;
    (void)state;
    at_ctx_init(&cx);
    write_rows(&cx, &d, 20);
    OK(&cx, at_report_facts(&cx, d.path, facts, 1));
    spill(&cx, &d, "recipe.yaml", "seed: '</pre><script>alert(2)</script>'\n");
    spill(&cx, &d, "samples.jsonl",
          "{\"step\":1,\"prompt\":\"</script><script>alert(1)</script>\","
          "\"text\":\"<img src=x onerror='x'>&\\\"\\u0001\\u009b\\uFFFE\"}\n");
    s = page(&cx, one, 1);
    well_formed(s);
    assert_null(strstr(s, "<script>alert"));
    assert_null(strstr(s, "<img"));
    assert_null(strstr(s, "\" onload"));
    assert_int_equal(count(s, "<script>"), 1);
    assert_non_null(strstr(s, "&lt;img src=x onerror=&#39;x&#39;&gt;&amp;"
                              "&quot;\uFFFD\uFFFD\uFFFD</div>"));
    assert_non_null(strstr(s, "&quot; onload=&quot;x\uFFFD\uFFFD"));
    assert_non_null(strstr(s, "does not load here"));
    for (const char *p = s; *p; p++)
        assert_true((unsigned char)*p >= 0x20 || *p == '\n');
    dir_remove(&cx, &d);
    at_ctx_finish(&cx);
}

static void odd_metrics_make_whole_pages(void **state)
{
#define ROW(step, loss) \
        "{\"step\":" step ",\"split\":\"train\",\"loss\":" loss \
        ",\"lr\":" loss ",\"grad_norm\":" loss ",\"tokens_per_s\":" loss "}\n"
#define EVAL(step, loss) "{\"step\":" step ",\"split\":\"eval\",\"loss\":" \
        loss "}\n"
    static const char *const odd[] = {
        "", ROW("1", "2.5"), EVAL("0", "3"), ROW("1", "null"),
        ROW("1", "null") ROW("2", "null"), ROW("1", "0") ROW("2", "0"),
        ROW("1", "-1") ROW("2", "1"), ROW("1", "1e308") ROW("2", "-1e308"),
        ROW("1", "1e-320") ROW("2", "0"), ROW("1", "1e-320"),
        ROW("9223372036854775807", "1"),
        ROW("9223372036854775806", "1") ROW("9223372036854775807", "2"),
        ROW("0", "1") ROW("9223372036854775807", "2"),
        ROW("5", "1") ROW("3", "2") ROW("4", "3"),
        ROW("1", "1e-300") ROW("2", "1e300") ROW("3", "1e199"),
        ROW("1", "1e-180") ROW("2", "1e180"),
        ROW("1", "1e199") ROW("2", "1.0000000000000002e199"),
        EVAL("1", "1") EVAL("1", "1") EVAL("2", "null") EVAL("3", "800"),
        ROW("1", "2") "{\"step\":2,\"sp",
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(odd); i++) {
        struct dir d = dir_create();
        const struct dir *const two[] = { &d, &d };
        struct at_ctx cx;
        at_ctx_init(&cx);
        spill(&cx, &d, "metrics.jsonl", odd[i]);
        for (size_t n = 1; n <= 2; n++) {
            char *s = page(&cx, two, n);
            well_formed(s);
            self_contained(s);
            assert_int_equal(count(s, "<figure"), 3 + n);
            if (i == 0)
                assert_int_equal(count(s, "nothing measured yet"), 3 + n);
            if (i + 1 == AT_COUNT(odd))
                assert_non_null(strstr(s, "half written"));
        }
        dir_remove(&cx, &d);
        at_ctx_finish(&cx);
    }
}

/* A spike of one step among many must stay in the picture, and the picture
 * must stay small.                                                           */
static void long_curves_keep_their_spikes(void **state)
{
    enum { N = 200000 };
    struct at_text t = { 0 };
    struct at_ctx cx;
    double *x, *y;
    struct at_curve c = { .style = AT_CURVE_FAINT, .name = "v", .n = N,
                          .best = SIZE_MAX };
    struct at_chart chart = { .title = "t", .width = 340, .height = 220,
                              .curve = &c, .n = 1 };
    (void)state;
    at_ctx_init(&cx);
    x = at_alloc_n(&cx, &cx.run, N, sizeof *x);
    y = at_alloc_n(&cx, &cx.run, N, sizeof *y);
    assert_true(x && y);
    for (size_t i = 0; i < N; i++) {
        x[i] = (double)i;
        y[i] = i == 77777 ? 1.9 : i % 50 == 0 ? 2 : 1;
    }
    for (size_t i = 77001; i < 79000; i++)
        y[i] = i == 77777 ? 1.9 : 1;
    c.x = x;
    c.y = y;
    OK(&cx, at_chart_svg(&cx, &cx.run, &chart, &t));
    assert_true(t.n < 64 << 10);
    assert_non_null(strstr(t.s, " 29.8L"));     /* of 12 (2) .. 190 (1)      */
    at_text_finish(&t);
    at_ctx_finish(&cx);
}

static void figures_are_short(void **state)
{
    static const struct { double x; const char *text; } tries[] = {
        { 0, "0" }, { 1, "1" }, { 0.25, "0.25" }, { 999.4, "999" },
        { 1000, "1k" }, { 1250, "1.25k" }, { 999999, "1M" }, { 5e-4, "5e-4" },
        { -1.5e-5, "-1.5e-5" }, { 1e15, "1e+03T" }, { 0.01, "0.01" },
        { -20000, "-20k" },
    };
    char buf[32];
    (void)state;
    for (size_t i = 0; i < AT_COUNT(tries); i++)
        assert_string_equal(at_short(buf, tries[i].x), tries[i].text);
}

static void wrong_requests_are_refused(void **state)
{
    const char *dirs[AT_REPORT_RUNS_MAX + 1] = { "no/such/run" };
    struct dir d = dir_create();
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    assert_int_equal(at_report_write(&cx, dirs, 1, in(&cx, &d, "out.html")),
                     AT_ENOENT);
    assert_non_null(strstr(cx.err.msg, "while reading the run no/such/run"));
    assert_int_equal(at_report_write(&cx, dirs, 0, "x"), AT_EINVAL);
    assert_int_equal(at_report_write(&cx, dirs, AT_COUNT(dirs), "x"),
                     AT_EINVAL);
    write_rows(&cx, &d, 3);
    spill(&cx, &d, "facts.jsonl", "{\"group\":1}\n");
    dirs[0] = d.path;
    assert_int_equal(at_report_write(&cx, dirs, 1, in(&cx, &d, "out.html")),
                     AT_EFORMAT);
    assert_true(access(in(&cx, &d, "out.html"), F_OK) != 0);
    dir_remove(&cx, &d);
    at_ctx_finish(&cx);
}

static void no_memory_is_an_error(void **state)
{
    struct dir d = dir_create();
    const char *dir = d.path, *out;
    struct at_ctx made;
    int rc = AT_ENOMEM;
    (void)state;
    at_ctx_init(&made);
    out = in(&made, &d, "out.html");
    write_rows(&made, &d, 3000);
    spill(&made, &d, "recipe.yaml", recipe);
    for (long n = 1; rc != AT_OK; n++) {
        struct at_ctx cx;
        at_ctx_init(&cx);
        cx.fail_after = n;
        rc = at_report_write(&cx, &dir, 1, out);
        assert_true(rc == AT_OK ? n > 5 : rc == AT_ENOMEM && n < 200);
        assert_int_equal(access(out, F_OK) == 0, rc == AT_OK);
        at_ctx_finish(&cx);
    }
    dir_remove(&made, &d);
    at_ctx_finish(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_shown),
        cmocka_unit_test(runs_are_laid_over_each_other),
        cmocka_unit_test(hostile_texts_are_escaped),
        cmocka_unit_test(odd_metrics_make_whole_pages),
        cmocka_unit_test(long_curves_keep_their_spikes),
        cmocka_unit_test(figures_are_short),
        cmocka_unit_test(wrong_requests_are_refused),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
