/* Blocks as messages: what is written is read, what is not one is refused, and a
 * worker that saw nothing but messages gives the gradient's bits.            */
#include "tests/test.h"

#include "train/adapters/lora.h"
#include "train/offload/block.h"
#include "train/offload/work.h"

#include <math.h>
#include <string.h>

enum { ROWS = 5, C = 7, M = 3, R = 2, SIZE = R * C + M * R };

static const struct at_message task = {
    .kind = AT_BLOCK_TASK, .run = "0123456789abcde", .incarnation = 2,
    .step = 77, .adapter = 76, .site = 9, .user = 4, .block = 1, .of = 3,
    .rows = ROWS, .C = C, .M = M, .size = SIZE,
};

struct world {
    struct at_ctx cx;
    float x[ROWS * C], dy[ROWS * M], a[R * C], b[M * R];
    unsigned char message[4096];
    size_t n;
};

static int open_world(void **state)
{
    static struct world w;
    struct at_rng r = { 5, AT_RNG_TEST, 0 };
    float *all[] = { w.x, w.dy, w.a, w.b };
    const size_t count[] = { ROWS * C, ROWS * M, R * C, M * R };
    w = (struct world){ 0 };
    at_ctx_init(&w.cx);
    for (uint64_t i = 0; i < AT_COUNT(all); i++)
        for (uint64_t k = 0; k < count[i]; k++)
            all[i][k] = (float)at_rng_normal(&r, i, k);
    w.n = at_message_bytes(&task);
    assert_int_equal(w.n, AT_BLOCK_HEADER + 4 * ROWS * (C + M));
    at_message_write(&task, w.x, w.dy, w.message);
    *state = &w;
    return 0;
}

static int close_world(void **state)
{
    struct world *w = *state;
    at_ctx_finish(&w->cx);
    return 0;
}

static int read_it(struct world *w, size_t n, const struct at_message *want)
{
    struct at_message m;
    /* Of exactly n bytes, so that a step too far is seen.                    */
    unsigned char *copy = at_alloc(&w->cx, &w->cx.scratch, n + 1);
    int rc;
    memcpy(copy, w->message, n);
    rc = at_message_read(&w->cx, copy, n, want, &m);
    at_arena_reset(&w->cx.scratch);
    return rc;
}

static void refused(struct world *w, size_t n, const struct at_message *want,
                    const char *says)
{
    int rc = read_it(w, n, want);
    assert_true(rc == AT_EFORMAT || rc == AT_ENOENT);
    if (says && !strstr(w->cx.err.msg, says))
        fail_msg("'%s' instead of '%s'", w->cx.err.msg, says);
}

static void what_is_written_is_read(void **state)
{
    struct world *w = *state;
    struct at_message m = { 0 };
    float x[ROWS * C], dy[ROWS * M];
    OK(&w->cx, at_message_read(&w->cx, w->message, w->n, &task, &m));
    assert_memory_equal(m.run, task.run, sizeof m.run);
    assert_true(m.kind == task.kind && m.incarnation == 2 && m.step == 77 &&
                m.adapter == 76 && m.site == 9 && m.user == 4 &&
                m.block == 1 && m.of == 3 && m.rows == ROWS && m.C == C &&
                m.M == M && m.size == SIZE);
    at_message_get(&m, w->message, x, dy);
    assert_memory_equal(x, w->x, sizeof x);
    assert_memory_equal(dy, w->dy, sizeof dy);
}

static void any_cut_or_flipped_bit_is_refused(void **state)
{
    struct world *w = *state;
    for (size_t n = 0; n < w->n; n++)
        refused(w, n, &task, NULL);
    refused(w, w->n + 1, &task, "length");
    for (size_t bit = 0; bit < 8 * w->n; bit++) {
        w->message[bit / 8] ^= (unsigned char)(1u << bit % 8);
        refused(w, w->n, &task, NULL);
        w->message[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    OK(&w->cx, read_it(w, w->n, &task));
}

/* The same with a checksum that fits: only the meaning is wrong.             */
static void what_does_not_belong_is_refused(void **state)
{
    struct world *w = *state;
    struct at_message want = task;
    want.run[0]++;
    refused(w, w->n, &want, "another run");
    want = task;
    want.incarnation++;
    refused(w, w->n, &want, "another start");
    want = task;
    want.kind = AT_BLOCK_RESULT;
    refused(w, w->n, &want, "kind");
    w->message[8] = 2;
    refused(w, w->n, &task, "format 2");
    refused(w, AT_BLOCK_HEADER - 1, &task, "shorter");
}

/* Half the bytes; rounded to the nearest, ties to even.                      */
static void rows_travel_in_half_the_bytes(void **state)
{
    static const struct { float from, to; } round[] = {
        { 1, 1 }, { 1.00390625f, 1 }, { 1.01171875f, 1.015625f },
        { -1.005f, -1.0078125f }, { 0, 0 }, { 3.4e38f, INFINITY },
    };
    struct world *w = *state;
    struct at_message m = task, got;
    float x[ROWS * C], dy[ROWS * M];
    size_t n;
    for (size_t i = 0; i < AT_COUNT(round); i++) {
        float v = round[i].from;
        at_message_round(&v, 1);
        assert_true(v == round[i].to);
    }
    at_message_round(w->x, ROWS * C);
    at_message_round(w->dy, ROWS * M);
    m.half = true;
    n = at_message_bytes(&m);
    assert_int_equal(n, AT_BLOCK_HEADER + 2 * ROWS * (C + M));
    at_message_write(&m, w->x, w->dy, w->message);
    OK(&w->cx, at_message_read(&w->cx, w->message, n, &task, &got));
    assert_true(got.half);
    at_message_get(&got, w->message, x, dy);
    assert_memory_equal(x, w->x, sizeof x);
    assert_memory_equal(dy, w->dy, sizeof dy);
    m.kind = AT_BLOCK_RESULT;
    assert_int_equal(at_message_bytes(&m), 0);
}

static unsigned char big[AT_BLOCK_MAX + 1];

static void shapes_are_bounded(void **state)
{
    struct world *w = *state;
    struct at_message m = task, got;
    static const uint32_t much[] = { 0, 1u << 20, 1u << 31, UINT32_MAX };
    for (size_t i = 0; i < AT_COUNT(much); i++) {
        m = task;
        m.rows = much[i];
        assert_int_equal(at_message_bytes(&m), 0);
        m = task;
        m.M = much[i];
        assert_int_equal(at_message_bytes(&m), 0);
    }
    m = task;
    m.of = m.block;
    assert_int_equal(at_message_bytes(&m), 0);
    memcpy(big, w->message, AT_BLOCK_HEADER);
    assert_int_equal(at_message_read(&w->cx, big, sizeof big, &task, &got),
                     AT_EFORMAT);
    assert_non_null(strstr(w->cx.err.msg, "4 MiB"));
}

static void gradients_must_be_finite(void **state)
{
    struct world *w = *state;
    struct at_message m = task;
    float grad[SIZE] = { 0 };
    m.kind = AT_BLOCK_RESULT;
    w->n = at_message_bytes(&m);
    at_message_write(&m, grad, NULL, w->message);
    OK(&w->cx, read_it(w, w->n, &m));
    grad[SIZE - 1] = NAN;
    at_message_write(&m, grad, NULL, w->message);
    refused(w, w->n, &m, "not finite");
    grad[SIZE - 1] = -INFINITY;
    at_message_write(&m, grad, NULL, w->message);
    refused(w, w->n, &m, "not finite");
}

static void an_answer_is_known_by_all_of_its_task(void **state)
{
    struct at_message r = task;
    (void)state;
    r.kind = AT_BLOCK_RESULT;
    assert_true(at_message_answers(&r, &task));
    assert_false(at_message_answers(&task, &task));
    r.block++;
    assert_false(at_message_answers(&r, &task));
    r.block--;
    r.adapter++;
    assert_false(at_message_answers(&r, &task));
    r.adapter--;
    r.run[15]++;
    assert_false(at_message_answers(&r, &task));
}

/* dy used as it came: even where it is tiny beside the output, float32 gives
 * the gradient (rank 2, s = 1) that float64 does.                            */
static void a_worker_of_messages_gives_the_gradient(void **state)
{
    static const struct at_lora_settings set = { R, R, 0, "proj" };
    struct world *w = *state;
    struct at_adapters list = { .n = 0 };
    struct at_work *k;
    struct at_message m, r;
    float x[ROWS * C], dy[ROWS * M], grad[SIZE], back[SIZE];
    float *param[] = { w->a, w->b };
    for (size_t i = 0; i < ROWS * M; i++)
        w->dy[i] *= 1e-8f;
    at_message_write(&task, w->x, w->dy, w->message);
    OK(&w->cx, at_message_read(&w->cx, w->message, w->n, &task, &m));
    at_message_get(&m, w->message, x, dy);
    OK(&w->cx, at_adapters_add(&w->cx, &w->cx.run, &at_lora_kind, &set, &list));
    OK(&w->cx, at_work_create(&w->cx, &w->cx.run, list.a[0], &at_kernels_ref,
                              ROWS, C, M, &k));
    OK(&w->cx, at_work_start(k));
    assert_int_equal(at_work_size(k), SIZE);
    at_work_run(k, x, dy, ROWS, param, grad);
    r = m;
    r.kind = AT_BLOCK_RESULT;
    at_message_write(&r, grad, NULL, w->message);
    OK(&w->cx, at_message_read(&w->cx, w->message, at_message_bytes(&r), &r,
                               &m));
    assert_true(at_message_answers(&m, &task));
    at_message_get(&m, w->message, back, NULL);
    assert_memory_equal(back, grad, sizeof grad);
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < R; j++) {
            double sum = 0, size = 0;
            for (size_t n = 0; n < ROWS; n++) {
                double u = 0;
                for (size_t c = 0; c < C; c++)
                    u += (double)w->x[n * C + c] * (double)w->a[j * C + c];
                sum += (double)w->dy[n * M + i] * u;
                size += fabs((double)w->dy[n * M + i] * u);
            }
            assert_true(fabs((double)grad[R * C + i * R + j] - sum) <
                        1e-5 * size);
        }
    at_work_destroy(k);
    at_adapters_destroy(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_written_is_read, open_world,
                                        close_world),
        cmocka_unit_test_setup_teardown(any_cut_or_flipped_bit_is_refused,
                                        open_world, close_world),
        cmocka_unit_test_setup_teardown(what_does_not_belong_is_refused,
                                        open_world, close_world),
        cmocka_unit_test_setup_teardown(rows_travel_in_half_the_bytes,
                                        open_world, close_world),
        cmocka_unit_test_setup_teardown(shapes_are_bounded, open_world,
                                        close_world),
        cmocka_unit_test_setup_teardown(gradients_must_be_finite, open_world,
                                        close_world),
        cmocka_unit_test(an_answer_is_known_by_all_of_its_task),
        cmocka_unit_test_setup_teardown(a_worker_of_messages_gives_the_gradient,
                                        open_world, close_world),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
