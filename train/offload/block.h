/* Blocks as messages: rows of a site going to a worker, the weights of its
 * adapter, and the adapter's gradient coming back.  A message is whole in itself
 * and trusted in nothing: lengths and shapes are checked before use, and a
 * checksum covers all of it.
 *
 *     0  magic "ATBLOCK\n"         8  u16 version, u8 kind, u8 type (1: f32;
 *                                     2, of tasks: bf16)
 *    12  u32 bytes of the header  16  u64 bytes of the message
 *    24  run [16]                 40  u64 incarnation
 *    48  u64 step                 56  u64 version of the adapter
 *    64  u32 site, user           72  u32 block, of
 *    80  u32 rows, C, M, size     96  XXH3-128 of the message, this being zero
 *   112  zero [16]               128  task: x [rows,C], dy [rows,M]
 *                                     result: grad [size]
 *                                     weights: [size], a part of a site's
 *
 * Sites that share their input are one here: M and size are sums, dy and grad
 * go site after site.  All little-endian.  The checksum finds damage, not a
 * forger: who may send is the transport's to say.                            */
#ifndef AT_BLOCK_H
#define AT_BLOCK_H

#include "base/base.h"

enum { AT_BLOCK_HEADER = 128, AT_BLOCK_VERSION = 1, AT_BLOCK_MAX = 4 << 20 };
enum at_block_kind { AT_BLOCK_TASK = 1, AT_BLOCK_RESULT = 2,
                     AT_BLOCK_WEIGHTS = 3 };

struct at_message {
    enum at_block_kind kind;
    unsigned char run[16];
    uint64_t incarnation;       /* of the run: grows with every resume        */
    uint64_t step, adapter;     /* adapter: version of its weights            */
    uint32_t site, user, block, of;
    uint32_t rows, C, M, size;  /* size: numbers of the gradient              */
    bool half;                  /* a task's numbers travel as bfloat16        */
};

/* Bytes of the message; 0: its shape is not one (or above AT_BLOCK_MAX).     */
size_t at_message_bytes(const struct at_message *m);
/* Rounds numbers to what bfloat16 holds, to the nearest, ties to even.       */
void at_message_round(float *x, size_t n);
/* Writes a message of at_message_bytes: a task of x and dy, which are rounded if
 * they travel as bfloat16, or else x alone (dy NULL).                        */
void at_message_write(const struct at_message *m, const float *x,
                      const float *dy, unsigned char *to);
/* Reads a header and checks the whole message: AT_EFORMAT where it is damaged,
 * of another version or kind, or not a task and with a number that is not
 * finite; AT_ENOENT where it is of another run or incarnation than `want`'s. */
int at_message_read(struct at_ctx *cx, const unsigned char *from, size_t n,
                    const struct at_message *want, struct at_message *m);
/* The numbers of a message that was read: x, and a task's dy.                */
void at_message_get(const struct at_message *m, const unsigned char *from,
                    float *x, float *dy);
/* The user that a message claims to be of, before anything is believed.      */
uint32_t at_message_user(const unsigned char *from, size_t n);
/* Whether a result is the answer to a task.                                  */
bool at_message_answers(const struct at_message *result,
                        const struct at_message *task);

#endif
