/* Fuzzes reading blocks.  Byte 0: bit 0, a result is expected, not a task; bit
 * 2, weights; bit 1, length and checksum are made right first, so that what they
 * cover is reached.  The rest is the message.  What is read must be written back
 * the same.                                                                  */
#include "train/offload/block.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(bool ok, const char *what, const struct at_ctx *cx)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, cx->err.msg);
    abort();
}

static void mend(unsigned char *m, size_t n)
{
    struct at_hash sum;
    for (size_t i = 0; i < 8; i++)
        m[16 + i] = (unsigned char)((uint64_t)n >> 8 * i);
    memset(m + 96, 0, 16);
    sum = at_hash(m, n);
    for (size_t i = 0; i < 8; i++) {
        m[96 + i] = (unsigned char)(sum.lo >> 8 * i);
        m[104 + i] = (unsigned char)(sum.hi >> 8 * i);
    }
}

static void write_back(struct at_ctx *cx, const struct at_message *m,
                       const unsigned char *from, size_t n)
{
    size_t count = (n - AT_BLOCK_HEADER) / (m->half ? 2 : sizeof(float));
    bool task = m->kind == AT_BLOCK_TASK;
    size_t first = task ? (size_t)m->rows * m->C : count;
    unsigned char *again = malloc(n);
    float *x = malloc(2 * n);
    require(again && x && at_message_bytes(m) == n, "a length", cx);
    at_message_get(m, from, x, task ? x + first : NULL);
    at_message_write(m, x, task ? x + first : NULL, again);
    /* The reserved bytes are written as zeros.                               */
    require(memcmp(again + 128, from + 128, n - 128) == 0 &&
            memcmp(again + 24, from + 24, 72) == 0, "the same", cx);
    free(again);
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct at_message want = { 0 }, m;
    unsigned char *copy;
    struct at_ctx cx;
    if (n < 1)
        return 0;
    at_ctx_init(&cx);
    want.kind = data[0] & 4 ? AT_BLOCK_WEIGHTS :
                data[0] & 1 ? AT_BLOCK_RESULT : AT_BLOCK_TASK;
    copy = malloc(n);
    require(copy != NULL, "memory", &cx);
    memcpy(copy, data + 1, n - 1);
    if ((data[0] & 2) && n - 1 >= AT_BLOCK_HEADER)
        mend(copy, n - 1);
    if (n - 1 >= AT_BLOCK_HEADER) {
        memcpy(want.run, copy + 24, sizeof want.run);
        want.incarnation = copy[40];
    }
    if (at_message_read(&cx, copy, n - 1, &want, &m) == AT_OK)
        write_back(&cx, &m, copy, n - 1);
    else
        require(cx.err.code == AT_EFORMAT || cx.err.code == AT_ENOENT,
                "a failure", &cx);
    free(copy);
    at_ctx_finish(&cx);
    return 0;
}
