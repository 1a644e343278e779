/* rewards: the three formats, and what is wrong with a file, with its line. */
#include "tests/test.h"

#include "data/h5.h"
#include "data/rewards.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 5000 };

struct folder { char path[64]; };

static char *file(struct at_ctx *cx, const struct folder *f, const char *name,
                  const char *text)
{
    char *path = at_sprintf(cx, &cx->run, "%s/%s", f->path, name);
    if (text)
        OK(cx, at_write_file(cx, path, text, strlen(text)));
    return path;
}

static int start(void **state)
{
    struct folder *f = calloc(1, sizeof *f);
    snprintf(f->path, sizeof f->path, "/tmp/attune-rewards-XXXXXX");
    *state = f;
    return mkdtemp(f->path) ? 0 : -1;
}

static int finish(void **state)
{
    struct folder *f = *state;
    char command[128];
    int rc;
    snprintf(command, sizeof command, "rm -rf %s", f->path);
    rc = system(command);
    free(f);
    return rc;
}

/* Everything of r into v [n,m], g [n]. */
static void all(struct at_ctx *cx, const struct at_rewards *r, double *v,
                int64_t *g)
{
    OK(cx, at_rewards_read(cx, r, 0, r->n_rows, v, g));
}

static void csv_reads_as_written(void **state)
{
    static const char text[] =
        "\xEF\xBB\xBF" "\"a, first\",prompt,b\r\n"
        "1.5,\"say \"\"x\"\"\nand, y\",-2e3\r\n"
        "2,other,\"7\"\r\n"
        "\r\n"
        " 3 ,\"say \"\"x\"\"\nand, y\",0\n";
    struct at_rewards_options o = { 0 };
    struct at_rewards *r;
    struct at_ctx cx;
    double v[6];
    int64_t g[3];
    at_ctx_init(&cx);
    OK(&cx, at_rewards_open(&cx, &cx.run, file(&cx, *state, "a.csv", text), &o,
                            &r));
    assert_int_equal(r->n_rows, 3);
    assert_int_equal(r->m, 2);
    assert_string_equal(r->name[0], "a, first");
    assert_string_equal(r->name[1], "b");
    assert_string_equal(r->group, "prompt");
    all(&cx, r, v, g);
    assert_true(v[0] == 1.5 && v[1] == -2000);      /* the rows of a prompt  */
    assert_true(v[2] == 3 && v[3] == 0);            /* come together         */
    assert_true(v[4] == 2 && v[5] == 7);
    assert_true(g[0] == g[1] && g[1] < g[2]);
    at_rewards_close(r);
    at_ctx_finish(&cx);
}

static void columns_can_be_chosen(void **state)
{
    static const char *const want[] = { "c", "a" };
    struct at_rewards_options o = { .group = "who", .values = want,
                                    .n_values = 2 };
    struct at_rewards *r;
    struct at_ctx cx;
    double v[4];
    int64_t g[2];
    at_ctx_init(&cx);
    OK(&cx, at_rewards_open(&cx, &cx.run, file(&cx, *state, "b.csv",
        "a,text,c,who\n1,words,2,x\n3,more,4,y\n"), &o, &r));
    assert_int_equal(r->m, 2);
    assert_string_equal(r->group, "who");
    all(&cx, r, v, g);
    assert_true(v[0] == 2 && v[1] == 1 && v[2] == 4 && v[3] == 3);
    at_rewards_close(r);
    at_ctx_finish(&cx);
}

static void json_lines_read_as_written(void **state)
{
    struct at_rewards_options o = { 0 };
    struct at_rewards *r;
    struct at_ctx cx;
    double v[6];
    int64_t g[3];
    at_ctx_init(&cx);
    OK(&cx, at_rewards_open(&cx, &cx.run, file(&cx, *state, "a.jsonl",
        "{\"prompt\": 7, \"text\": \"t\", \"a\": 1, \"b\": 2.5}\n"
        "{\"prompt\": 8, \"b\": 3, \"a\": 4, \"text\": \"u\"}\n\n"
        "{\"prompt\": 7, \"a\": 5, \"b\": 6}\n"), &o, &r));
    assert_int_equal(r->n_rows, 3);
    assert_string_equal(r->name[0], "a");
    all(&cx, r, v, g);
    assert_true(v[0] == 1 && v[1] == 2.5 && v[2] == 5 && v[3] == 6);
    assert_true(v[4] == 4 && v[5] == 3);
    assert_true(g[0] == g[1] && g[1] < g[2]);
    at_rewards_close(r);
    at_ctx_finish(&cx);
}

/* Many prompts in no order: the table of prompts grows, rows stay with theirs. */
static void prompts_are_brought_together(void **state)
{
    struct at_rng rng = { 1, AT_RNG_TEST, 0 };
    struct at_rewards_options o = { 0 };
    struct at_text t = { 0 };
    struct at_rewards *r;
    struct at_ctx cx;
    double *v;
    int64_t *g;
    size_t n = 20000;
    at_ctx_init(&cx);
    at_text_addf(&t, "a,group\n");
    for (size_t i = 0; i < n; i++) {
        unsigned id = (unsigned)(at_rng_u64(&rng, 0, i) % 3000);
        at_text_addf(&t, "%u,p%u\n", id, id);
    }
    OK(&cx, at_rewards_open(&cx, &cx.run, file(&cx, *state, "g.csv", t.s), &o,
                            &r));
    v = at_alloc_n(&cx, &cx.run, n, sizeof *v);
    g = at_alloc_n(&cx, &cx.run, n, sizeof *g);
    all(&cx, r, v, g);
    for (size_t i = 1; i < n; i++) {
        assert_true(g[i] >= g[i - 1]);
        assert_int_equal(g[i] == g[i - 1], v[i] == v[i - 1]);
    }
    assert_true(g[n - 1] > 2900);
    at_rewards_close(r);
    at_text_finish(&t);
    at_ctx_finish(&cx);
}

/* ---- HDF5 ------------------------------------------------------------------ */

static int write_h5(struct at_ctx *cx, const char *path, const char *values,
                    enum at_h5_type type, const void *r, const size_t *d,
                    const int32_t *g)
{
    struct at_h5 *f;
    OK(cx, at_h5_create(cx, path, "rewards", &f));
    OK(cx, at_h5_set_text(cx, f, "values", values));
    OK(cx, at_h5_put(cx, f, "rewards", type, 2, d, r));
    if (g)
        OK(cx, at_h5_put(cx, f, "group", AT_H5_I32, 1, d, g));
    return at_h5_commit(cx, f);
}

static void hdf5_reads_in_parts(void **state)
{
    static const char *const want[] = { "c", "b" };
    struct at_rewards_options o = { 0 };
    struct at_rewards *r;
    struct at_ctx cx;
    size_t d[] = { ROWS, 3 };
    float *x;
    double *y, v[40];
    int32_t *id;
    int64_t g[10];
    char *path;
    at_ctx_init(&cx);
    x = at_alloc_n(&cx, &cx.run, ROWS * 3, sizeof *x);
    y = at_alloc_n(&cx, &cx.run, ROWS * 3, sizeof *y);
    id = at_alloc_n(&cx, &cx.run, ROWS, sizeof *id);
    for (size_t i = 0; i < ROWS * 3; i++)
        x[i] = (float)(y[i] = (double)i / 8);
    for (size_t i = 0; i < ROWS; i++)
        id[i] = (int32_t)(i / 4) - 5;
    path = file(&cx, *state, "a.h5", NULL);
    OK(&cx, write_h5(&cx, path, "a\nb\nc\n", AT_H5_F32, x, d, id));
    OK(&cx, at_rewards_open(&cx, &cx.run, path, &o, &r));
    assert_int_equal(r->n_rows, ROWS);
    assert_string_equal(r->group, "group");
    OK(&cx, at_rewards_read(&cx, r, 4990, 10, v, g));
    for (size_t i = 0; i < 30; i++)
        assert_true(v[i] == y[4990 * 3 + i]);
    assert_true(g[0] == 4990 / 4 - 5 && g[9] == 4999 / 4 - 5);
    at_rewards_close(r);
    path = file(&cx, *state, "b.h5", NULL);
    OK(&cx, write_h5(&cx, path, "a\nb\nc", AT_H5_F64, y, d, NULL));
    o = (struct at_rewards_options){ .values = want, .n_values = 2 };
    OK(&cx, at_rewards_open(&cx, &cx.run, path, &o, &r));
    assert_null(r->group);
    OK(&cx, at_rewards_read(&cx, r, 100, 2, v, NULL));
    assert_true(v[0] == y[302] && v[1] == y[301] && v[3] == y[304]);
    at_rewards_close(r);
    at_ctx_finish(&cx);
}

/* ---- what is wrong ------------------------------------------------------------ */

static void refuses(struct at_ctx *cx, const char *path,
                    const struct at_rewards_options *o, int code,
                    const char *text)
{
    struct at_rewards *r = NULL;
    int rc = at_rewards_open(cx, &cx->run, path, o, &r);
    if (rc != code || !strstr(cx->err.msg, text))
        fail_msg("%d '%s' is not %d '%s'", rc, rc ? cx->err.msg : "", code,
                 text);
}

static void faults_are_named_with_their_line(void **state)
{
    static const struct { const char *name, *text, *says; } bad[] = {
        { "a.csv", "", "the file is empty" },
        { "a.csv", "a,b\n", "a header but no row" },
        { "a.csv", "a,b\n1,2\n3\n", ":3: 1 fields, but the header has 2" },
        { "a.csv", "a,b\n1,2\n3,4,5\n", ":3: 3 fields" },
        { "a.csv", "a,b\n1,\n", ":2: 'b' is missing" },
        { "a.csv", "a,b\n1,2\n1,NA\n", ":3: 'b' is missing" },
        { "a.csv", "a,b\nnan,2\n", ":2: 'a' is nan; every reward must be" },
        { "a.csv", "a,b\n1,-inf\n", ":2: 'b' is -inf" },
        { "a.csv", "a,b\n1,1e999\n", ":2: 'b' is inf" },
        { "a.csv", "a,b\n1,2x\n", ":2: 'b' is '2x', which is no number" },
        { "a.csv", "a,b,a\n1,2,3\n", "columns 1 and 3 are both called 'a'" },
        { "a.csv", "a,,b\n1,2,3\n", "column 2 has no name" },
        { "a.csv", "a;b\n1;2;3\n", "3 fields" },
        { "a.csv", "a,prompt\n1,\n", ":2: 'prompt' is missing" },
        { "a.csv", "a,b\n1,\"2\n3,4\n", ":2: a quote is not closed" },
        { "a.csv", "prompt\nx\n", "there are no rewards" },
        { "a.jsonl", "", "the file is empty" },
        { "a.jsonl", "{\"a\": 1}\n{\"a\": }\n", ":2: is no JSON object" },
        { "a.jsonl", "{\"a\": 1}\n[1]\n", ":2: is no JSON object" },
        { "a.jsonl", "{\"a\": 1}\n{\"b\": 1}\n", ":2: 'a' is missing" },
        { "a.jsonl", "{\"a\": 1}\n{\"a\": null}\n", ":2: 'a' is missing" },
        { "a.jsonl", "{\"a\": 1}\n{\"a\": \"1\"}\n", ":2: 'a' is no number" },
        { "a.jsonl", "{\"a\": 1}\n{\"a\": 1, \"b\": 2}\n",
          ":2: 'b' is a value that the first line has not" },
        { "a.jsonl", "{\"a\": 1, \"a\": 2}\n", ":1: is no JSON object" },
        { "a.jsonl", "{\"x\": \"y\"}\n", ":1: no key holds a number" },
        { "a.jsonl", "{\"a\": 1, \"prompt\": 1.5}\n", ":1: 'prompt' is neither" },
        { "a.jsonl", "{\"a\": 1, \"prompt\": null}\n", "'prompt' is missing" },
        { "a.h5", "no HDF5", "a.h5" },
    };
    struct at_rewards_options o = { 0 };
    struct at_ctx cx;
    at_ctx_init(&cx);
    for (size_t i = 0; i < AT_COUNT(bad); i++)
        refuses(&cx, file(&cx, *state, bad[i].name, bad[i].text), &o,
                AT_EFORMAT, bad[i].says);
    refuses(&cx, "/nowhere/a.csv", &o, AT_ENOENT, "/nowhere/a.csv");
    at_ctx_finish(&cx);
}

static void wishes_are_checked(void **state)
{
    static const char *const wrong[] = { "helpfull" };
    static const char *const twice[] = { "helpful", "helpful" };
    struct at_rewards_options o = { .values = wrong, .n_values = 1 };
    struct at_ctx cx;
    size_t d[] = { 4, 2 };
    double r[8] = { 0 };
    char *path;
    at_ctx_init(&cx);
    path = file(&cx, *state, "w.csv", "helpful,b\n1,2\n");
    refuses(&cx, path, &o, AT_EINVAL, "did you mean 'helpful'?");
    o = (struct at_rewards_options){ .values = twice, .n_values = 2 };
    refuses(&cx, path, &o, AT_EFORMAT, "both called 'helpful'");
    o = (struct at_rewards_options){ .group = "who" };
    refuses(&cx, path, &o, AT_EINVAL, "there is no column 'who'");
    path = file(&cx, *state, "w.h5", NULL);
    OK(&cx, write_h5(&cx, path, "a\nb\nc", AT_H5_F64, r, d, NULL));
    refuses(&cx, path, &o, AT_EFORMAT, "does not have the 3 columns");
    OK(&cx, write_h5(&cx, path, "a\nb", AT_H5_F64, r, d, NULL));
    refuses(&cx, path, &o, AT_EINVAL, "there is no array 'who'");
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(csv_reads_as_written),
        cmocka_unit_test(columns_can_be_chosen),
        cmocka_unit_test(json_lines_read_as_written),
        cmocka_unit_test(prompts_are_brought_together),
        cmocka_unit_test(hdf5_reads_in_parts),
        cmocka_unit_test(faults_are_named_with_their_line),
        cmocka_unit_test(wishes_are_checked),
    };
    return cmocka_run_group_tests(tests, start, finish);
}
