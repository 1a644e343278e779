/* safetensors: numbers of sixteen bits, what is written is read, and files
 * that lie are refused by name.                                              */
#include "tests/test.h"

#include "data/safetensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct place { struct at_ctx cx; char dir[64]; };

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    at_ctx_init(&p->cx);
    strcpy(p->dir, "/tmp/attune-st-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    *state = p;
    return 0;
}

static void drop(struct place *p, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", p->dir, name);
    unlink(path);
}

static int teardown(void **state)
{
    static const char *const names[] = {
        "model.safetensors", "a.safetensors", "b.safetensors",
        "model.safetensors.index.json", "pytorch_model.bin",
    };
    struct place *p = *state;
    for (size_t i = 0; i < AT_COUNT(names); i++)
        drop(p, names[i]);
    assert_int_equal(rmdir(p->dir), 0);     /* nothing temporary is left     */
    at_ctx_finish(&p->cx);
    free(p);
    return 0;
}

/* ---- numbers ------------------------------------------------------------------ */

/* The nearest of the 65536 by search, ties to the even one.                  */
static uint16_t nearest(float x, float (*value)(uint16_t), uint16_t inf)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0, best = 0;
    double far = INFINITY, want = fabs((double)x);
    for (uint16_t h = 0; h <= inf; h++) {
        double v = h == inf ? 2 * (double)value((uint16_t)(inf - 1)) -
                              (double)value((uint16_t)(inf - 2))
                            : (double)value(h);
        double off = fabs(v - want);
        if (off < far || (off == far && h % 2 == 0)) {
            far = off;
            best = h;
        }
    }
    return sign | best;
}

static void sixteen_bits_there_and_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t s = (uint16_t)h;
        if (!isnan(at_f16_to_f32(s)))
            assert_int_equal(at_f32_to_f16(at_f16_to_f32(s)), s);
        if (!isnan(at_bf16_to_f32(s)))
            assert_int_equal(at_f32_to_bf16(at_bf16_to_f32(s)), s);
    }
    assert_true(isnan(at_f16_to_f32(at_f32_to_f16(NAN))));
    assert_true(isnan(at_bf16_to_f32(at_f32_to_bf16(NAN))));
    assert_true((double)at_f16_to_f32(0x3C00) == 1);
    assert_true((double)at_f16_to_f32(0x0001) == ldexp(1, -24));
    assert_true((double)at_f16_to_f32(0xFBFF) == -65504);
    assert_true((double)at_bf16_to_f32(0x3F80) == 1);
}

static void rounding_is_to_nearest_even(void **state)
{
    struct at_rng r = { 5, AT_RNG_TEST, 0 };
    const float hard[] = { 0, -0.0f, 65504, 65519.996f, 65520, 1e30f, 3.4e38f,
                           ldexpf(1, -24), ldexpf(1, -25), ldexpf(1.5f, -25),
                           ldexpf(3, -25), ldexpf(1, -149), 2049, 2051,
                           ldexpf(1, -14), 1 + ldexpf(1, -11), 256.5f,
                           1 + ldexpf(3, -8), 6.0975552e-5f };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(hard); i++) {
        assert_int_equal(at_f32_to_f16(hard[i]),
                         nearest(hard[i], at_f16_to_f32, 0x7C00));
        assert_int_equal(at_f32_to_bf16(-hard[i]),
                         nearest(-hard[i], at_bf16_to_f32, 0x7F80));
    }
    for (uint64_t i = 0; i < 150; i++) {
        float x = (float)(at_rng_normal(&r, 0, i) *
                          exp2(floor(40 * at_rng_uniform(&r, 1, i)) - 26));
        assert_int_equal(at_f32_to_f16(x),
                         nearest(x, at_f16_to_f32, 0x7C00));
        assert_int_equal(at_f32_to_bf16(x),
                         nearest(x, at_bf16_to_f32, 0x7F80));
    }
}

/* ---- written and read -------------------------------------------------------------- */

static const char *in(struct place *p, const char *name)
{
    return at_sprintf(&p->cx, &p->cx.run, "%s/%s", p->dir, name);
}

static void write_tensors(struct place *p, const char *name,
                          enum at_st_type type, const struct at_st_tensor *t,
                          size_t n, const float *x, size_t n_x)
{
    struct at_st_writer *w;
    OK(&p->cx, at_st_create(&p->cx, &p->cx.run, in(p, name), type, t, n, &w));
    for (size_t i = 0; i < n_x; i++)
        OK(&p->cx, at_st_put(&p->cx, w, x + i, 1));
    OK(&p->cx, at_st_commit(&p->cx, w));
}

static const struct at_st_tensor three[] = {
    { .name = "z.weight", .n_dims = 2, .d = { 2, 3 } },
    { .name = "none", .n_dims = 1, .d = { 0 } },
    { .name = "a \"quoted\" \xC3\xA9", .n_dims = 0 },
};

static void what_is_written_is_read(void **state)
{
    struct place *p = *state;
    const float x[] = { 1, -2, 0.5f, 3, 0.1f, -0.0f, 7 };
    for (int type = AT_ST_F32; type <= AT_ST_BF16; type++) {
        struct at_st *st;
        const struct at_st_tensor *t;
        float y[6];
        write_tensors(p, "model.safetensors", (enum at_st_type)type, three, 3,
                      x, 7);
        OK(&p->cx, at_st_open(&p->cx, &p->cx.run, p->dir, "model", &st));
        assert_int_equal(at_st_count(st), 3);
        t = at_st_find(st, "z.weight");
        assert_non_null(t);
        assert_int_equal(t->type, type);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->d[1], 3);
        assert_int_equal(t->offset % 4, 0);
        OK(&p->cx, at_st_get(&p->cx, st, t, 0, 6, y));
        assert_true(fabsf(y[4] - x[4]) <= (type == AT_ST_F32 ? 0 : 3e-4f));
        assert_true(y[1] == -2 && y[3] == 3 && signbit(y[5]));
        OK(&p->cx, at_st_get(&p->cx, st, t, 2, 1, y));
        assert_true(y[0] == 0.5f);
        assert_int_equal(at_st_get(&p->cx, st, t, 5, 2, y), AT_EINVAL);
        t = at_st_find(st, "a \"quoted\" \xC3\xA9");
        assert_non_null(t);
        OK(&p->cx, at_st_get(&p->cx, st, t, 0, 1, y));
        assert_true(y[0] == 7);
        assert_non_null(at_st_find(st, "none"));
        assert_null(at_st_find(st, "some"));
        at_st_close(st);
    }
}

static void what_does_not_fit_is_named(void **state)
{
    struct place *p = *state;
    const struct at_st_tensor t = { .name = "big", .n_dims = 1, .d = { 2 } };
    const float x[] = { 65519, 65520 }, huge = 3.4e38f;
    struct at_st_writer *w;
    OK(&p->cx, at_st_create(&p->cx, &p->cx.run, in(p, "model.safetensors"),
                            AT_ST_F16, &t, 1, &w));
    assert_int_equal(at_st_put(&p->cx, w, x, 2), AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "tensor 'big' holds 65520"));
    assert_int_equal(at_st_put(&p->cx, w, x, 1), AT_OK);
    assert_int_equal(at_st_commit(&p->cx, w), AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "'big' is not whole"));
    assert_int_not_equal(access(in(p, "model.safetensors"), F_OK), 0);
    OK(&p->cx, at_st_create(&p->cx, &p->cx.run, in(p, "model.safetensors"),
                            AT_ST_BF16, &t, 1, &w));
    assert_int_equal(at_st_put(&p->cx, w, &huge, 1), AT_EINVAL);
    at_st_abandon(w);
    at_st_abandon(NULL);
}

/* ---- lies --------------------------------------------------------------------------- */

static void put_file(struct place *p, const char *name, const char *header,
                     long length, size_t data)
{
    char bytes[2048] = { 0 };
    size_t n = strlen(header);
    uint64_t said = length < 0 ? n : (uint64_t)length;
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(said >> 8 * i);
    memcpy(bytes + 8, header, n);
    OK(&p->cx, at_write_file(&p->cx, in(p, name), bytes, 8 + n + data));
}

static void files_that_lie_are_refused(void **state)
{
    struct place *p = *state;
#define ONE(dtype, shape, offsets)                                       \
    "{\"t\":{\"dtype\":\"" dtype "\",\"shape\":" shape                   \
    ",\"data_offsets\":" offsets "}}"
    static const struct { const char *header, *says; long length; size_t data; }
    lies[] = {
        { ONE("F32", "[2]", "[0,8]"), NULL, -1, 8 },
        { "{}", NULL, -1, 0 },
        { "{}", "cut short", 3, 0 },
        { "{}", "cut short", 1L << 40, 0 },
        { "{}", "the file at", -1, 1 },
        { "[]", "must be a JSON object", -1, 0 },
        { "{\"t\":", "is not JSON", -1, 0 },
        { "{\"t\":{},\"t\":{}}", "duplicate", -1, 0 },
        { "{\"t\":1}", "dtype is unknown", -1, 0 },
        { ONE("F33", "[2]", "[0,8]"), "'t': its dtype is unknown", -1, 8 },
        { ONE("F32", "[2]", "[0,4]"), "2 elements of F32", -1, 4 },
        { ONE("F32", "[2]", "[0,16]"), "cut short", -1, 8 },
        { ONE("F32", "[1]", "[4,8]"), "overlap or leave holes", -1, 8 },
        { ONE("F32", "[1]", "[8,4]"), "begins and ends", -1, 8 },
        { ONE("F32", "[1]", "[-4,0]"), "begins and ends", -1, 8 },
        { ONE("F32", "[1]", "[0]"), "begins and ends", -1, 4 },
        { ONE("F32", "[1.5]", "[0,4]"), "whole number", -1, 4 },
        { ONE("F32", "[-1]", "[0,4]"), "whole number", -1, 4 },
        { ONE("F32", "7", "[0,4]"), "list of at most", -1, 4 },
        { ONE("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "at most 8", -1, 4 },
        { ONE("F32", "[4294967296,4294967296]", "[0,0]"), "more elements", -1,
          0 },
        { ONE("F32", "[9223372036854775807,4]", "[0,0]"), "more elements", -1,
          0 },
        { ONE("F4", "[3]", "[0,1]"), "3 elements of F4", -1, 1 },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
          "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]}}",
          "tensor 'b' begins", -1, 6 },
        { "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]},"
          "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
          NULL, -1, 8 },
        { "{\"a\\u0007\":{\"dtype\":\"U8\",\"shape\":[1],"
          "\"data_offsets\":[0,1]}}", "control characters", -1, 1 },
        { "{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
          "empty", -1, 1 },
        { "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
          "[[[[[]]]]", "nested", -1, 0 },
    };
    for (size_t i = 0; i < AT_COUNT(lies); i++) {
        struct at_st *st;
        put_file(p, "model.safetensors", lies[i].header, lies[i].length,
                 lies[i].data);
        if (!lies[i].says) {
            OK(&p->cx, at_st_open(&p->cx, &p->cx.run, p->dir, "model", &st));
            at_st_close(st);
            continue;
        }
        assert_int_equal(at_st_open(&p->cx, &p->cx.run, p->dir, "model", &st),
                         AT_EFORMAT);
        if (!strstr(p->cx.err.msg, lies[i].says) ||
            !strstr(p->cx.err.msg, "model.safetensors"))
            fail_msg("file %zu: '%s' does not say '%s'", i, p->cx.err.msg,
                     lies[i].says);
    }
}

static void other_types_are_listed_but_not_read(void **state)
{
    struct place *p = *state;
    struct at_st *st;
    float x;
    put_file(p, "model.safetensors", ONE("I64", "[1]", "[0,8]"), -1, 8);
    OK(&p->cx, at_st_open(&p->cx, &p->cx.run, p->dir, "model", &st));
    assert_int_equal(at_st_at(st, 0)->type, AT_ST_OTHER);
    assert_int_equal(at_st_get(&p->cx, st, at_st_at(st, 0), 0, 1, &x),
                     AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "'t' is I64"));
    at_st_close(st);
}

/* ---- several files -------------------------------------------------------------------- */

static int open_with_index(struct place *p, const char *map, struct at_st **st)
{
    const char *text = at_sprintf(&p->cx, &p->cx.run, "{\"metadata\": {}, "
                                  "\"weight_map\": %s}", map);
    OK(&p->cx, at_write_file(&p->cx, in(p, "model.safetensors.index.json"),
                             text, strlen(text)));
    return at_st_open(&p->cx, &p->cx.run, p->dir, "model", st);
}

static void shards_are_one_model(void **state)
{
    struct place *p = *state;
    const struct at_st_tensor a = { .name = "a", .n_dims = 1, .d = { 1 } };
    const struct at_st_tensor b = { .name = "b", .n_dims = 1, .d = { 1 } };
    static const struct { const char *map, *says; } lies[] = {
        { "{}", "weight_map" },
        { "[]", "weight_map" },
        { "{\"a\": 1, \"b\": \"b.safetensors\"}", "files beside it" },
        { "{\"a\": \"../a.safetensors\"}", "files beside it" },
        { "{\"a\": \"x/a.safetensors\"}", "files beside it" },
        { "{\"a\": \"..safetensors\"}", "files beside it" },
        { "{\"a\": \"a\\n.safetensors\"}", "files beside it" },
        { "{\"a\": \"a.bin\"}", "files beside it" },
        { "{\"a\": \"b.safetensors\"}", "holds tensor 'b'" },
        { "{\"a\": \"b.safetensors\", \"b\": \"a.safetensors\"}",
          "does not say" },
        { "{\"a\": \"a.safetensors\", \"b\": \"b.safetensors\", "
          "\"c\": \"a.safetensors\"}", "'c' is not in a.safetensors" },
    };
    struct at_st *st;
    float x, y;
    write_tensors(p, "a.safetensors", AT_ST_F32, &a, 1, (float[]){ 1 }, 1);
    write_tensors(p, "b.safetensors", AT_ST_BF16, &b, 1, (float[]){ 2 }, 1);
    OK(&p->cx, open_with_index(p, "{\"a\": \"a.safetensors\", "
                               "\"b\": \"b.safetensors\"}", &st));
    OK(&p->cx, at_st_get(&p->cx, st, at_st_find(st, "a"), 0, 1, &x));
    OK(&p->cx, at_st_get(&p->cx, st, at_st_find(st, "b"), 0, 1, &y));
    assert_true(x == 1 && y == 2);
    at_st_close(st);
    for (size_t i = 0; i < AT_COUNT(lies); i++) {
        assert_int_equal(open_with_index(p, lies[i].map, &st), AT_EFORMAT);
        if (!strstr(p->cx.err.msg, lies[i].says))
            fail_msg("index %zu: '%s' does not say '%s'", i, p->cx.err.msg,
                     lies[i].says);
    }
    write_tensors(p, "b.safetensors", AT_ST_F32, &a, 1, (float[]){ 1 }, 1);
    assert_int_equal(open_with_index(p, "{\"a\": \"a.safetensors\", "
                                     "\"b\": \"b.safetensors\"}", &st),
                     AT_EFORMAT);
    assert_non_null(strstr(p->cx.err.msg, "both hold tensor 'a'"));
    assert_int_equal(open_with_index(p, "{\"a\": \"gone.safetensors\"}", &st),
                     AT_ENOENT);
}

static void a_folder_without_weights_is_refused(void **state)
{
    struct place *p = *state;
    struct at_st *st;
    assert_int_equal(at_st_open(&p->cx, &p->cx.run, p->dir, "model", &st),
                     AT_ENOENT);
    OK(&p->cx, at_write_file(&p->cx, in(p, "pytorch_model.bin"), "x", 1));
    assert_int_equal(at_st_open(&p->cx, &p->cx.run, p->dir, "model", &st),
                     AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "pickle"));
}

#define IN_A_FOLDER(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sixteen_bits_there_and_back),
        cmocka_unit_test(rounding_is_to_nearest_even),
        IN_A_FOLDER(what_is_written_is_read),
        IN_A_FOLDER(what_does_not_fit_is_named),
        IN_A_FOLDER(files_that_lie_are_refused),
        IN_A_FOLDER(other_types_are_listed_but_not_read),
        IN_A_FOLDER(shards_are_one_model),
        IN_A_FOLDER(a_folder_without_weights_is_refused),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
