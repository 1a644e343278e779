/* Messages: written, checked, read. */
#include "train/offload/block.h"

#include "data/safetensors.h"

#include <math.h>
#include <string.h>

static const unsigned char magic[8] = { 'A', 'T', 'B', 'L', 'O', 'C', 'K',
                                        '\n' };
enum { MOST = 1 << 24 };        /* of rows, widths and sizes                  */
enum { KIND = 10, LENGTH = 16, RUN = 24, USER = 68, SUM = 96, SUM_END = 112 };

/* ---- numbers ------------------------------------------------------------------- */

static void put(unsigned char *to, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = (unsigned char)(v >> 8 * i);
}

static uint64_t get(const unsigned char *from, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)from[i] << 8 * i;
    return v;
}

/* Whether floats in memory are as they are in messages.                      */
static bool as_sent(void)
{
    const uint32_t one = 1;
    return *(const unsigned char *)&one == 1;
}

static unsigned char *put_floats(unsigned char *to, const float *x, size_t n)
{
    if (as_sent()) {
        memcpy(to, x, 4 * n);
        return to + 4 * n;
    }
    for (size_t i = 0; i < n; i++, to += 4) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        put(to, bits, 4);
    }
    return to;
}

static const unsigned char *get_floats(const unsigned char *from, float *x,
                                       size_t n)
{
    if (as_sent()) {
        memcpy(x, from, 4 * n);
        return from + 4 * n;
    }
    for (size_t i = 0; i < n; i++, from += 4) {
        uint32_t bits = (uint32_t)get(from, 4);
        memcpy(x + i, &bits, sizeof bits);
    }
    return from;
}

void at_message_round(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = at_bf16_to_f32(at_f32_to_bf16(x[i]));
}

static unsigned char *put_halves(unsigned char *to, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++, to += 2) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        to[0] = (unsigned char)(bits >> 16);
        to[1] = (unsigned char)(bits >> 24);
    }
    return to;
}

static const unsigned char *get_halves(const unsigned char *from, float *x,
                                       size_t n)
{
    for (size_t i = 0; i < n; i++, from += 2) {
        uint32_t bits = (uint32_t)from[0] << 16 | (uint32_t)from[1] << 24;
        memcpy(x + i, &bits, sizeof bits);
    }
    return from;
}

/* ---- header ---------------------------------------------------------------------- */

/* The fields behind the run, in their order.                                 */
struct field { size_t at, n; };

enum { FIELDS = 11 };
static const struct field fields[FIELDS] = {
    { 40, 8 }, { 48, 8 }, { 56, 8 }, { 64, 4 }, { 68, 4 }, { 72, 4 },
    { 76, 4 }, { 80, 4 }, { 84, 4 }, { 88, 4 }, { 92, 4 },
};

static void values_of(const struct at_message *m, uint64_t v[FIELDS])
{
    const uint64_t all[FIELDS] = { m->incarnation, m->step, m->adapter,
                                   m->site, m->user, m->block, m->of, m->rows,
                                   m->C, m->M, m->size };
    memcpy(v, all, sizeof all);
}

static size_t numbers(const struct at_message *m)
{
    return m->kind != AT_BLOCK_TASK ? (size_t)m->size
                                    : (size_t)m->rows * ((size_t)m->C + m->M);
}

size_t at_message_bytes(const struct at_message *m)
{
    size_t n;
    if (m->rows < 1 || m->C < 1 || m->M < 1 || m->size < 1 || m->rows > MOST ||
        m->C > MOST || m->M > MOST || m->size > MOST || m->block >= m->of)
        return 0;
    if (m->half && m->kind != AT_BLOCK_TASK)
        return 0;
    n = AT_BLOCK_HEADER + (m->half ? 2u : 4u) * numbers(m);
    return n <= AT_BLOCK_MAX ? n : 0;
}

static struct at_hash sum_of(struct at_hasher *h, const unsigned char *from,
                             size_t n)
{
    static const unsigned char zero[SUM_END - SUM];
    struct at_hash sum;
    at_hasher_add(h, from, SUM);
    at_hasher_add(h, zero, sizeof zero);
    at_hasher_add(h, from + SUM_END, n - SUM_END);
    sum = at_hasher_value(h);
    return sum;
}

void at_message_write(const struct at_message *m, const float *x,
                      const float *dy, unsigned char *to)
{
    size_t n = at_message_bytes(m);
    unsigned char *at = to + AT_BLOCK_HEADER;
    struct at_hash sum;
    uint64_t v[FIELDS];
    memset(to, 0, AT_BLOCK_HEADER);
    memcpy(to, magic, sizeof magic);
    put(to + 8, AT_BLOCK_VERSION, 2);
    to[KIND] = (unsigned char)m->kind;
    to[KIND + 1] = m->half ? 2 : 1;
    put(to + 12, AT_BLOCK_HEADER, 4);
    put(to + LENGTH, n, 8);
    memcpy(to + RUN, m->run, sizeof m->run);
    values_of(m, v);
    for (size_t i = 0; i < FIELDS; i++)
        put(to + fields[i].at, v[i], fields[i].n);
    if (m->half) {
        at = put_halves(at, x, (size_t)m->rows * m->C);
        put_halves(at, dy, (size_t)m->rows * m->M);
    } else if (m->kind != AT_BLOCK_TASK) {
        put_floats(at, x, m->size);
    } else {
        at = put_floats(at, x, (size_t)m->rows * m->C);
        put_floats(at, dy, (size_t)m->rows * m->M);
    }
    sum = at_hash(to, n);       /* the sum itself still being zero            */
    put(to + SUM, sum.lo, 8);
    put(to + SUM + 8, sum.hi, 8);
}

static int bad(struct at_ctx *cx, const char *what)
{
    return at_fail(cx, AT_EFORMAT, "a block is refused: %s", what);
}

static int check_head(struct at_ctx *cx, const unsigned char *from, size_t n)
{
    char what[96];
    if (n < AT_BLOCK_HEADER)
        return bad(cx, "it is shorter than its header");
    if (n > AT_BLOCK_MAX)
        return bad(cx, "it is longer than 4 MiB");
    if (memcmp(from, magic, sizeof magic) != 0)
        return bad(cx, "it does not begin as one");
    if (get(from + 8, 2) != AT_BLOCK_VERSION) {
        snprintf(what, sizeof what, "it is of format %u, and this attune reads "
                 "format %d", (unsigned)get(from + 8, 2), AT_BLOCK_VERSION);
        return bad(cx, what);
    }
    if (from[KIND + 1] != 1 && from[KIND + 1] != 2)
        return bad(cx, "its numbers are neither float32 nor bfloat16");
    if (get(from + 12, 4) != AT_BLOCK_HEADER || get(from + LENGTH, 8) != n)
        return bad(cx, "its length is not the one it states");
    return AT_OK;
}

static int check_sum(struct at_ctx *cx, const unsigned char *from, size_t n)
{
    struct at_hasher *h = at_hasher_create(cx);
    struct at_hash sum;
    if (!h)
        return AT_ENOMEM;
    sum = sum_of(h, from, n);
    at_hasher_destroy(h);
    return get(from + SUM, 8) == sum.lo && get(from + SUM + 8, 8) == sum.hi
               ? AT_OK : bad(cx, "its checksum is wrong");
}

static void read_fields(const unsigned char *from, struct at_message *m)
{
    uint64_t v[FIELDS];
    for (size_t i = 0; i < FIELDS; i++)
        v[i] = get(from + fields[i].at, fields[i].n);
    *m = (struct at_message){
        .kind = (enum at_block_kind)from[KIND], .incarnation = v[0],
        .step = v[1], .adapter = v[2], .site = (uint32_t)v[3],
        .user = (uint32_t)v[4], .block = (uint32_t)v[5], .of = (uint32_t)v[6],
        .rows = (uint32_t)v[7], .C = (uint32_t)v[8], .M = (uint32_t)v[9],
        .size = (uint32_t)v[10], .half = from[KIND + 1] == 2,
    };
    memcpy(m->run, from + RUN, sizeof m->run);
}

static int check_numbers(struct at_ctx *cx, const struct at_message *m,
                         const unsigned char *from)
{
    const unsigned char *at = from + AT_BLOCK_HEADER;
    for (size_t i = 0; i < m->size && m->kind != AT_BLOCK_TASK; i++) {
        float x;
        at = get_floats(at, &x, 1);
        if (!isfinite(x))
            return bad(cx, "a number of it is not finite");
    }
    return AT_OK;
}

int at_message_read(struct at_ctx *cx, const unsigned char *from, size_t n,
                    const struct at_message *want, struct at_message *m)
{
    struct at_message got;
    int rc = check_head(cx, from, n);
    if (rc == AT_OK)
        rc = check_sum(cx, from, n);
    if (rc < 0)
        return rc;
    if (from[KIND] != want->kind)
        return bad(cx, "it is not of the kind that is read here");
    read_fields(from, &got);
    if (at_message_bytes(&got) != n)
        return bad(cx, "its shape does not fit its length");
    if (memcmp(got.run, want->run, sizeof got.run) != 0)
        return at_fail(cx, AT_ENOENT, "a block is of another run");
    if (got.incarnation != want->incarnation)
        return at_fail(cx, AT_ENOENT, "a block is of another start of the run");
    rc = check_numbers(cx, &got, from);
    if (rc == AT_OK)
        *m = got;
    return rc;
}

uint32_t at_message_user(const unsigned char *from, size_t n)
{
    return n < AT_BLOCK_HEADER ? 0 : (uint32_t)get(from + USER, 4);
}

void at_message_get(const struct at_message *m, const unsigned char *from,
                    float *x, float *dy)
{
    const unsigned char *at = from + AT_BLOCK_HEADER;
    if (m->kind != AT_BLOCK_TASK) {
        get_floats(at, x, m->size);
        return;
    }
    if (m->half) {
        at = get_halves(at, x, (size_t)m->rows * m->C);
        get_halves(at, dy, (size_t)m->rows * m->M);
        return;
    }
    at = get_floats(at, x, (size_t)m->rows * m->C);
    get_floats(at, dy, (size_t)m->rows * m->M);
}

bool at_message_answers(const struct at_message *result,
                        const struct at_message *task)
{
    uint64_t a[FIELDS], b[FIELDS];
    values_of(result, a);
    values_of(task, b);
    return result->kind == AT_BLOCK_RESULT && task->kind == AT_BLOCK_TASK &&
           memcmp(result->run, task->run, sizeof task->run) == 0 &&
           memcmp(a, b, sizeof a) == 0;
}
