/* attune palette as a user meets it: exit status, table, JSON, picture.  The
 * program is the first argument.                                             */
#include "tests/test.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static char *program;

struct run {
    int status;
    char out[1 << 16], err[8192];
};

static void slurp(const char *path, char *buf, size_t size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    buf[fread(buf, 1, size - 1, f)] = 0;
    fclose(f);
}

static void attune(const char *dir, const char *args, struct run *r)
{
    char command[1024], path[128];
    snprintf(command, sizeof command, "cd %s && %s palette %s >out 2>err", dir,
             program, args);
    r->status = WEXITSTATUS(system(command));
    snprintf(path, sizeof path, "%s/out", dir);
    slurp(path, r->out, sizeof r->out);
    snprintf(path, sizeof path, "%s/err", dir);
    slurp(path, r->err, sizeof r->err);
}

static int start(void **state)
{
    struct at_ctx cx;
    struct at_text t = { 0 };
    char *dir = calloc(1, 64), path[128];
    int rc;
    snprintf(dir, 64, "/tmp/attune-palette-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    *state = dir;
    at_ctx_init(&cx);
    at_text_addf(&t, "prompt,kind,brief\n");
    for (int i = 0; i < 400; i++)
        at_text_addf(&t, "p%d,%d,%d\n", i / 4, i % 2, i % 4 < 2);
    snprintf(path, sizeof path, "%s/r.csv", dir);
    rc = at_write_file(&cx, path, t.s, t.n);
    at_text_finish(&t);
    at_ctx_finish(&cx);
    return rc;
}

static int finish(void **state)
{
    char command[128];
    int rc;
    snprintf(command, sizeof command, "rm -rf %s", (char *)*state);
    rc = system(command);
    free(*state);
    return rc;
}

static void says(const char *text, const char *what)
{
    if (!strstr(text, what))
        fail_msg("'%s' is not in: %s", what, text);
}

static void a_table(void **state)
{
    struct run r;
    attune(*state, "r.csv --target 'kind>=0.75'", &r);
    assert_int_equal(r.status, 0);
    says(r.out, "400 samples of 100 prompts (4 to 4 each), conditional");
    says(r.out, "1.0986");      /* log 3                                      */
    says(r.out, "KL 0.13081 nats");
    assert_string_equal(r.err, "");
}

static void json(void **state)
{
    struct run r;
    json_t *o;
    attune(*state, "r.csv --target 'kind>=0.75' --target 'brief>=now' --format "
           "json --normaliser joint", &r);
    assert_int_equal(r.status, 0);
    says(r.err, "the joint normaliser may prefer some prompts");
    o = json_loads(r.out, 0, NULL);
    assert_non_null(o);
    assert_true(json_is_true(json_object_get(o, "feasible")));
    assert_true(fabs(json_number_value(json_array_get(
        json_object_get(o, "lambda"), 0)) - log(3)) < 1e-12);
    assert_int_equal(json_array_size(json_object_get(o, "sensitivity")), 2);
    assert_true(json_is_null(json_object_get(o, "certificate")));
    assert_true(json_is_array(json_object_get(o, "decoded")));
    json_decref(o);
}

static void an_unreachable_palette(void **state)
{
    struct run r;
    json_t *o;
    attune(*state, "r.csv --target 'kind>=1.5' --target 'brief>=now'", &r);
    assert_int_equal(r.status, 1);
    says(r.out, "cannot be reached: at most 0.5 of the way");
    attune(*state, "r.csv --target 'kind>=1.5' --format json", &r);
    assert_int_equal(r.status, 1);
    o = json_loads(r.out, 0, NULL);
    assert_non_null(o);
    assert_true(json_is_false(json_object_get(o, "feasible")));
    assert_true(json_is_null(json_object_get(o, "lambda")));
    assert_true(json_is_array(json_object_get(o, "certificate")));
    json_decref(o);
}

static void a_sweep(void **state)
{
    static char svg[1 << 16];
    struct run r;
    char path[128];
    attune(*state, "r.csv --target 'kind>=0.6' --target 'brief>=now' --sweep "
           "kind,brief --svg s.svg --format json", &r);
    assert_int_equal(r.status, 0);
    says(r.out, "\"sweep\": {\"a\": \"kind\", \"b\": \"brief\"");
    snprintf(path, sizeof path, "%s/s.svg", (char *)*state);
    slurp(path, svg, sizeof svg);
    says(svg, "<svg xmlns=");
    says(svg, ">limit</text>");
    says(svg, ">target</text>");
    says(svg, "</svg>");
    assert_null(strstr(svg, "nan"));
}

static void wrong_requests(void **state)
{
    static const struct { const char *args, *says; } bad[] = {
        { "r.csv", "no --target" },
        { "r.csv --target 'kinds>=1'", "did you mean 'kind'?" },
        { "r.csv --target 'kind>=p101'", "is no level" },
        { "r.csv --target 'kind>=1' --target 'kind>=0'", "two targets" },
        { "r.csv --target 'kind>=1' --normaliser both", "conditional or joint" },
        { "r.csv --target 'kind>=1' --format xml", "table or json" },
        { "r.csv --target 'kind>=1' --group who", "no column 'who'" },
        { "r.csv --target 'kind>=1' --values kind,brif", "did you mean" },
        { "r.csv --sweep kind", "two values are needed" },
        { "r.csv --sweep kind,brif", "did you mean 'brief'?" },
        { "r.csv --target 'kind>=1' --svg x.svg", "say --sweep" },
        { "r.csv --target 'kind>=1' --margin -1", "between 0 and 10" },
        { "r.csv --group kind --values brief --target 'brief>=now' --targt 1",
          "did you mean --target?" },
    };
    struct run r;
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        attune(*state, bad[i].args, &r);
        if (r.status != 2)
            fail_msg("'%s' exits with %d", bad[i].args, r.status);
        says(r.err, bad[i].says);
        assert_string_equal(r.out, "");
    }
    attune(*state, "nowhere.csv --target 'kind>=1'", &r);
    assert_int_equal(r.status, 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table),
        cmocka_unit_test(json),
        cmocka_unit_test(an_unreachable_palette),
        cmocka_unit_test(a_sweep),
        cmocka_unit_test(wrong_requests),
    };
    int rc;
    if (argc != 2)
        return 2;
    program = realpath(argv[1], NULL);  /* the commands run elsewhere         */
    if (!program)
        return 2;
    rc = cmocka_run_group_tests(tests, start, finish);
    free(program);
    return rc;
}
