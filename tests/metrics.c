/* metrics: rows there and back, what a resume keeps, damaged files. */
#include "tests/test.h"

#include "train/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct dir { char path[64]; };

static struct dir dir_create(void)
{
    struct dir d = { "/tmp/attune-metrics-XXXXXX" };
    assert_non_null(mkdtemp(d.path));
    return d;
}

static void dir_remove(const struct dir *d)
{
    static const char *const name[] = { "metrics.jsonl", "metrics.csv",
                                        "samples.jsonl" };
    for (size_t i = 0; i < AT_COUNT(name); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", d->path, name[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(d->path), 0);        /* no temporary is left      */
}

static char *slurp(struct at_ctx *cx, const struct dir *d, const char *name)
{
    char path[128], *text;
    size_t n;
    snprintf(path, sizeof path, "%s/%s", d->path, name);
    OK(cx, at_read_file(cx, &cx->run, path, 0, &text, &n));
    return text;
}

static void spill(struct at_ctx *cx, const struct dir *d, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/metrics.jsonl", d->path);
    OK(cx, at_write_file(cx, path, text, strlen(text)));
}

static struct at_metrics_row row_of(uint64_t step, bool eval)
{
    struct at_metrics_row r = { .step = step, .eval = eval,
        .loss = 1.0 / (double)(step + 3), .loss_se = 0.1,
        .accuracy = NAN, .margin = 0.25, .reward = NAN, .kl = NAN,
        .clipped = NAN, .critic = NAN,
        .tokens = 512 * step, .targets = 100, .all_tokens = 1u << 30,
        .tokens_per_s = 1234.5678901234567, .peak_bytes = 1ull << 33,
        .time_s = 0.25 * (double)step };
    if (!eval) {
        r.grad_norm = 3e-300;
        r.grad_z = -1.25;
        r.lr = 5e-4;
        r.epoch = 1;
        r.index = 9007199254740993u;
        r.offset = 7;
    }
    return r;
}

static bool same_bits(const struct at_metrics_row *a,
                      const struct at_metrics_row *b)
{
    if (a->step != b->step || a->eval != b->eval || a->skipped != b->skipped)
        return false;
    for (size_t i = 0; i < at_n_metric_columns; i++) {
        const struct at_metric_column *c = &at_metric_columns[i];
        if (!(a->eval ? c->eval : c->train) || c->kind == AT_METRIC_FLAG)
            continue;
        if (memcmp((const char *)a + c->at, (const char *)b + c->at, 8) != 0) {
            print_error("column %s differs\n", c->name);
            return false;
        }
    }
    return true;
}

static void rows_read_back_exactly(void **state)
{
    struct dir d = dir_create();
    struct at_metrics_row *got;
    size_t n;
    bool torn;
    struct at_metrics *m;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_metrics_open(&cx, d.path, 0, &m));
    for (uint64_t i = 1; i <= 50; i++) {
        struct at_metrics_row r = row_of(i, i % 10 == 0);
        OK(&cx, at_metrics_add(&cx, m, &r));
    }
    OK(&cx, at_metrics_sync(&cx, m));
    at_metrics_close(m);
    OK(&cx, at_metrics_read(&cx, &cx.run, d.path, &got, &n, &torn));
    assert_int_equal(n, 50);
    assert_false(torn);
    for (uint64_t i = 1; i <= 50; i++) {
        struct at_metrics_row r = row_of(i, i % 10 == 0);
        assert_true(same_bits(&r, &got[i - 1]));
    }
    dir_remove(&d);
    at_ctx_finish(&cx);
}

static void what_is_not_finite_is_said(void **state)
{
    struct dir d = dir_create();
    struct at_metrics_row r = row_of(3, false);
    struct at_metrics_row *got;
    size_t n;
    bool torn;
    struct at_metrics *m;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_metrics_open(&cx, d.path, 0, &m));
    r.loss = NAN;
    r.grad_norm = INFINITY;
    r.grad_z = -INFINITY;
    r.skipped = true;
    OK(&cx, at_metrics_add(&cx, m, &r));
    at_metrics_close(m);
    assert_string_equal(slurp(&cx, &d, "metrics.jsonl"),
        "{\"step\":3,\"split\":\"train\",\"loss\":null,\"loss_se\":0.1,"
        "\"margin\":0.25,"
        "\"grad_norm\":null,\"grad_z\":null,\"lr\":0.0005,\"skipped\":true,"
        "\"tokens\":1536,\"targets\":100,\"all_tokens\":1073741824,"
        "\"epoch\":1,\"index\":9007199254740993,\"offset\":7,"
        "\"tokens_per_s\":1234.5678901234567,\"peak_bytes\":8589934592,"
        "\"time_s\":0.75,"
        "\"nonfinite\":\"loss=nan grad_norm=inf grad_z=-inf\"}\n");
    assert_string_equal(slurp(&cx, &d, "metrics.csv"),
        "step,split,loss,loss_se,accuracy,margin,reward,kl,clipped,critic,grad_norm,grad_z,"
        "lr,skipped,tokens,targets,all_tokens,epoch,index,offset,tokens_per_s,peak_bytes,time_s,"
        "nonfinite\n"
        "3,train,,0.1,,0.25,,,,,,,0.0005,true,1536,100,1073741824,1,9007199254740993,7,"
        "1234.5678901234567,8589934592,0.75,loss=nan grad_norm=inf "
        "grad_z=-inf\n");
    OK(&cx, at_metrics_read(&cx, &cx.run, d.path, &got, &n, &torn));
    assert_true(isnan(got[0].loss));
    assert_true(got[0].grad_norm == INFINITY);
    assert_true(got[0].grad_z == -INFINITY);
    dir_remove(&d);
    at_ctx_finish(&cx);
}

/* Steps from..to, an evaluation with a sample at every tenth. */
static void write_steps(struct at_ctx *cx, const struct dir *d, uint64_t from,
                        uint64_t to)
{
    struct at_metrics *m;
    OK(cx, at_metrics_open(cx, d->path, from - 1, &m));
    for (uint64_t i = from; i <= to; i++) {
        struct at_metrics_row r = row_of(i, false);
        OK(cx, at_metrics_add(cx, m, &r));
        if (i % 10)
            continue;
        r = row_of(i, true);
        OK(cx, at_metrics_add(cx, m, &r));
        OK(cx, at_metrics_sample(cx, m, i, "a \"prompt\"", "te\nxt"));
    }
    at_metrics_close(m);
}

static void a_resumed_run_leaves_the_same_files(void **state)
{
    static const char *const name[] = { "metrics.jsonl", "metrics.csv",
                                        "samples.jsonl" };
    struct dir whole = dir_create(), cut = dir_create();
    struct at_metrics_text *sample;
    struct at_ctx cx;
    size_t n;
    bool torn;
    char path[128];
    FILE *f;
    (void)state;
    at_ctx_init(&cx);
    write_steps(&cx, &whole, 1, 40);
    write_steps(&cx, &cut, 1, 33);              /* stopped; checkpoint at 20 */
    snprintf(path, sizeof path, "%s/metrics.jsonl", cut.path);
    f = fopen(path, "a");
    assert_non_null(f);
    fputs("{\"step\":34,\"spl", f);
    fclose(f);
    write_steps(&cx, &cut, 21, 40);
    for (size_t i = 0; i < AT_COUNT(name); i++)
        assert_string_equal(slurp(&cx, &whole, name[i]),
                            slurp(&cx, &cut, name[i]));
    OK(&cx, at_metrics_read_samples(&cx, &cx.run, cut.path, &sample, &n,
                                    &torn));
    assert_int_equal(n, 4);
    assert_int_equal(sample[3].step, 40);
    assert_string_equal(sample[3].prompt, "a \"prompt\"");
    assert_string_equal(sample[3].text, "te\nxt");
    write_steps(&cx, &cut, 1, 5);               /* begun anew                */
    assert_string_equal(slurp(&cx, &cut, "samples.jsonl"), "");
    dir_remove(&whole);
    dir_remove(&cut);
    at_ctx_finish(&cx);
}

static void note_line(void *self, enum at_level level, const char *line)
{
    if (level == AT_LOG_WARN)
        at_text_addf(self, "%s\n", line);
}

static void lost_metrics_are_said(void **state)
{
    struct dir d = dir_create();
    struct at_text log = { 0 };
    struct at_metrics_row *rows;
    struct at_metrics *m = NULL;
    struct at_ctx cx;
    size_t n;
    bool torn;
    (void)state;
    at_ctx_init(&cx);
    cx.log = note_line;
    cx.log_self = &log;
    assert_int_equal(at_metrics_read(&cx, &cx.run, d.path, &rows, &n, &torn),
                     AT_ENOENT);
    OK(&cx, at_metrics_open(&cx, d.path, 10, &m));
    at_metrics_close(m);
    assert_non_null(log.s);
    assert_non_null(strstr(log.s, "the metrics before step 11 are lost"));
    at_text_finish(&log);
    dir_remove(&d);
    at_metrics_close(NULL);
    m = NULL;
    assert_true(at_metrics_open(&cx, "/no/such/dir", 0, &m) < 0);
    assert_null(m);
    at_ctx_finish(&cx);
}

struct damage { const char *text; int rc; size_t n; bool torn; };

static void damaged_files_are_told(void **state)
{
#define A "{\"step\":1,\"split\":\"train\",\"loss\":2}\n"
#define B "{\"step\":2,\"split\":\"eval\",\"new\":[1]}\n"
    static const struct damage tries[] = {
        { "", AT_OK, 0, false }, { A B, AT_OK, 2, false },
        { A "{\"step\":2,\"spl", AT_OK, 1, true },
        { A "{\"step\":2,\"split\":\"train\"}", AT_OK, 1, true },
        { A "\n", AT_OK, 1, true }, { A "[]\n", AT_OK, 1, true },
        { A "\n" B, AT_EFORMAT, 0, false },
        { "{\"step\":1e3,\"split\":\"train\"}\n" B, AT_EFORMAT, 0, false },
        { "{\"step\":-1,\"split\":\"train\"}\n" B, AT_EFORMAT, 0, false },
        { "{\"step\":1,\"split\":\"test\"}\n" B, AT_EFORMAT, 0, false },
        { "{\"step\":1,\"split\":\"train\",\"loss\":\"2\"}\n" B, AT_EFORMAT, 0,
          false },
        { "{\"step\":1,\"split\":\"train\",\"tokens\":-2}\n" B, AT_EFORMAT, 0,
          false },
        { "{\"step\":1,\"step\":1,\"split\":\"train\"}\n" B, AT_EFORMAT, 0,
          false },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(tries); i++) {
        struct dir d = dir_create();
        struct at_metrics_row *rows;
        struct at_ctx cx;
        size_t n = 0;
        bool torn = false;
        at_ctx_init(&cx);
        spill(&cx, &d, tries[i].text);
        assert_int_equal(at_metrics_read(&cx, &cx.run, d.path, &rows, &n,
                                         &torn), tries[i].rc);
        assert_int_equal(n, tries[i].n);
        assert_int_equal(torn, tries[i].torn);
        if (tries[i].rc < 0)
            assert_non_null(strstr(cx.err.msg, "line is damaged"));
        else if (n) {
            assert_true(rows[0].loss == 2);
            assert_true(isnan(rows[0].grad_norm));
        }
        dir_remove(&d);
        at_ctx_finish(&cx);
    }
}

static void long_lines_are_refused(void **state)
{
    struct dir d = dir_create();
    struct at_metrics_row *rows;
    size_t n;
    bool torn;
    struct at_text t = { 0 };
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    at_text_addf(&t, "{\"step\":1,\"split\":\"train\",\"x\":\"");
    for (int i = 0; i < 40000; i++)
        at_text_add(&t, "0123456789012345678901234567890123456789", 40);
    at_text_addf(&t, "\"}\n" B);
    spill(&cx, &d, t.s);
    assert_int_equal(at_metrics_read(&cx, &cx.run, d.path, &rows, &n, &torn),
                     AT_EFORMAT);
    assert_non_null(strstr(cx.err.msg, "metrics.jsonl:1: this line"));
    at_text_finish(&t);
    dir_remove(&d);
    at_ctx_finish(&cx);
}

static void a_full_disk_is_an_error(void **state)
{
    struct at_metrics_row r = row_of(1, false);
    struct dir d = dir_create();
    struct at_metrics *m;
    struct at_ctx cx;
    char path[128];
    (void)state;
    at_ctx_init(&cx);
    snprintf(path, sizeof path, "%s/samples.jsonl", d.path);
    OK(&cx, at_metrics_open(&cx, d.path, 0, &m));
    assert_int_equal(symlink("/dev/full", path), 0);
    assert_int_equal(at_metrics_sample(&cx, m, 1, "a", "b"), AT_EIO);
    assert_non_null(strstr(cx.err.msg, "cannot be written"));
    OK(&cx, at_metrics_add(&cx, m, &r));
    at_metrics_close(m);
    dir_remove(&d);
    at_ctx_finish(&cx);
}

static void no_memory_is_an_error(void **state)
{
    struct dir d = dir_create();
    struct at_ctx made;
    (void)state;
    at_ctx_init(&made);
    write_steps(&made, &d, 1, 40);
    for (long n = 1;; n++) {
        struct at_metrics_text *samples;
        struct at_metrics_row *rows;
        struct at_metrics *m = NULL;
        struct at_ctx cx;
        size_t n_got;
        bool torn;
        int rc;
        at_ctx_init(&cx);
        cx.fail_after = n;
        rc = at_metrics_read(&cx, &cx.run, d.path, &rows, &n_got, &torn);
        if (rc == AT_OK)
            rc = at_metrics_read_samples(&cx, &cx.run, d.path, &samples,
                                         &n_got, &torn);
        if (rc == AT_OK)
            rc = at_metrics_open(&cx, d.path, 40, &m);
        at_metrics_close(m);
        at_ctx_finish(&cx);
        if (rc == AT_OK && n > 3)
            break;
        assert_true(rc == AT_ENOMEM && n < 100);
    }
    dir_remove(&d);
    at_ctx_finish(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_read_back_exactly),
        cmocka_unit_test(what_is_not_finite_is_said),
        cmocka_unit_test(a_resumed_run_leaves_the_same_files),
        cmocka_unit_test(lost_metrics_are_said),
        cmocka_unit_test(damaged_files_are_told),
        cmocka_unit_test(long_lines_are_refused),
        cmocka_unit_test(a_full_disk_is_an_error),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
