/* base: errors, arenas, random numbers, files, text. */
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void errors_carry_place_and_trail(void **state)
{
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    cx.at = (struct at_src){ "a.yaml", 14, 9 };
    assert_int_equal(at_fail(&cx, AT_EINVAL, "rank is %d", 0), AT_EINVAL);
    at_note(&cx, AT_EINVAL, "building block %d", 3);
    assert_string_equal(cx.err.msg,
                        "a.yaml:14:9: rank is 0\n  while building block 3");
    at_ctx_finish(&cx);
}

static void long_errors_are_cut_not_overrun(void **state)
{
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    at_fail(&cx, AT_EIO, "x");
    for (int i = 0; i < 2000; i++)
        at_note(&cx, AT_EIO, "line %d of many", i);
    assert_true(strlen(cx.err.msg) < sizeof cx.err.msg);
    at_ctx_finish(&cx);
}

static void arena_aligns_zeroes_and_reuses(void **state)
{
    struct at_ctx cx;
    size_t held;
    (void)state;
    at_ctx_init(&cx);
    for (int round = 0; round < 3; round++) {
        for (size_t n = 0; n < 300; n++) {
            unsigned char *p = at_alloc(&cx, &cx.scratch, n * 97);
            assert_non_null(p);
            assert_int_equal((uintptr_t)p % 64, 0);
            for (size_t i = 0; i < n * 97; i++)
                assert_int_equal(p[i], 0);
            memset(p, 0xAB, n * 97);
        }
        if (round == 0)
            held = cx.scratch.held_bytes;
        assert_int_equal(cx.scratch.held_bytes, held);
        at_arena_reset(&cx.scratch);
    }
    assert_null(at_alloc_n(&cx, &cx.scratch, SIZE_MAX / 2, 4));
    assert_int_equal(cx.err.code, AT_ENOMEM);
    at_ctx_finish(&cx);
}

static void failing_allocation_is_reported(void **state)
{
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    cx.fail_after = 1;
    assert_null(at_alloc(&cx, &cx.run, 10));
    assert_int_equal(cx.err.code, AT_ENOMEM);
    assert_non_null(at_alloc(&cx, &cx.run, 10));
    at_ctx_finish(&cx);
}

/* Known answers of the Random123 distribution for philox4x32-10. */
static void philox_matches_known_answers(void **state)
{
    struct at_rng zero = { 0 };
    uint32_t v[4];
    (void)state;
    at_rng4(&zero, 0, 0, v);
    assert_int_equal(v[0], 0x6627e8d5);
    assert_int_equal(v[1], 0xe169c58d);
    assert_int_equal(v[2], 0xbc57ac4c);
    assert_int_equal(v[3], 0x9b00dbd8);
    zero.seed = UINT64_MAX;
    at_rng4(&zero, UINT64_MAX, UINT64_MAX, v);
    assert_int_equal(v[0], 0x408f276d);
    assert_int_equal(v[1], 0x41c83b0e);
    assert_int_equal(v[2], 0xa20bc7c6);
    assert_int_equal(v[3], 0x6d5451fd);
}

static void normal_has_its_moments(void **state)
{
    struct at_rng r = { 7, AT_RNG_TEST, 0 };
    double sum = 0, sq = 0;
    int n = 200000;
    (void)state;
    for (int i = 0; i < n; i++) {
        double x = at_rng_normal(&r, 1, (uint64_t)i);
        sum += x;
        sq += x * x;
    }
    assert_true(sum / n > -0.01 && sum / n < 0.01);
    assert_true(sq / n > 0.98 && sq / n < 1.02);
}

static void permutation_is_a_bijection(void **state)
{
    struct at_rng r = { 3, AT_RNG_SHUFFLE, 0 };
    (void)state;
    for (uint64_t n = 1; n < 300; n += 7) {
        char seen[300] = { 0 };
        size_t moved = 0;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = at_rng_permute(&r, 5, i, n);
            assert_true(p < n);
            assert_int_equal(seen[p], 0);
            seen[p] = 1;
            moved += p != i;
        }
        if (n > 50)
            assert_true(moved > n / 2);
    }
}

static void files_are_whole_or_absent(void **state)
{
    struct at_ctx cx;
    char dir[] = "/tmp/attune-base-XXXXXX", path[64], *text;
    size_t n;
    (void)state;
    at_ctx_init(&cx);
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/f", dir);
    assert_int_equal(at_read_file(&cx, &cx.run, path, 0, &text, &n), AT_ENOENT);
    assert_int_equal(at_write_file(&cx, path, "hello", 5), AT_OK);
    assert_int_equal(at_write_file(&cx, path, "world!", 6), AT_OK);
    assert_int_equal(at_read_file(&cx, &cx.run, path, 0, &text, &n), AT_OK);
    assert_int_equal(n, 6);
    assert_string_equal(text, "world!");
    assert_int_equal(at_read_file(&cx, &cx.run, path, 3, &text, &n), AT_EINVAL);
    assert_int_equal(at_read_file(&cx, &cx.run, dir, 0, &text, &n), AT_EINVAL);
    assert_int_equal(at_write_file(&cx, "/nonexistent/f", "x", 1), AT_ENOENT);
    assert_non_null(strstr(cx.err.msg, "/nonexistent/f"));
    unlink(path);
    assert_int_equal(rmdir(dir), 0);    /* nothing temporary left behind     */
    at_ctx_finish(&cx);
}

static void json_strings_are_escaped(void **state)
{
    struct at_text t = { 0 };
    (void)state;
    at_text_json(&t, "a\"\\\n\x01\xC3\xA9\xFF", 8);
    assert_string_equal(t.s, "\"a\\\"\\\\\\n\\u0001\xC3\xA9\xEF\xBF\xBD\"");
    at_text_finish(&t);
}

static void utf8_refuses_what_is_not(void **state)
{
    uint32_t cp;
    (void)state;
    assert_int_equal(at_utf8("\xF0\x9F\x98\x80", 4, &cp), 4);
    assert_int_equal(cp, 0x1F600);
    assert_int_equal(at_utf8("\xF0\x9F\x98", 3, &cp), 0);   /* cut           */
    assert_int_equal(at_utf8("\xC0\x80", 2, &cp), 0);       /* overlong      */
    assert_int_equal(at_utf8("\xED\xA0\x80", 3, &cp), 0);   /* surrogate     */
    assert_int_equal(at_utf8("\xF5\x80\x80\x80", 4, &cp), 0);
    assert_int_equal(at_utf8("\x80", 1, &cp), 0);
}

static void near_words_are_found(void **state)
{
    static const char *const words[] = { "train.steps", "optim.lr", "seed" };
    (void)state;
    assert_string_equal(at_did_you_mean("train.stesp", words, 3),
                        "train.steps");
    assert_string_equal(at_did_you_mean("sed", words, 3), "seed");
    assert_null(at_did_you_mean("zebra", words, 3));
    assert_int_equal(at_edit_distance("ab", "ba"), 1);
    assert_int_equal(at_edit_distance("", "abc"), 3);
}

static void hash_of_pieces_is_hash_of_whole(void **state)
{
    struct at_ctx cx;
    struct at_hasher *h;
    char hex[33];
    (void)state;
    at_ctx_init(&cx);
    h = at_hasher_create(&cx);
    at_hasher_add(h, "hello ", 6);
    at_hasher_add(h, "world", 5);
    assert_true(at_hash_equal(at_hasher_value(h), at_hash("hello world", 11)));
    at_hash_hex(at_hash("", 0), hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
    at_hasher_destroy(h);
    at_hasher_destroy(NULL);
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_carry_place_and_trail),
        cmocka_unit_test(long_errors_are_cut_not_overrun),
        cmocka_unit_test(arena_aligns_zeroes_and_reuses),
        cmocka_unit_test(failing_allocation_is_reported),
        cmocka_unit_test(philox_matches_known_answers),
        cmocka_unit_test(normal_has_its_moments),
        cmocka_unit_test(permutation_is_a_bijection),
        cmocka_unit_test(files_are_whole_or_absent),
        cmocka_unit_test(json_strings_are_escaped),
        cmocka_unit_test(utf8_refuses_what_is_not),
        cmocka_unit_test(near_words_are_found),
        cmocka_unit_test(hash_of_pieces_is_hash_of_whole),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
