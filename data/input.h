/* Records of a text file, one after another, in flat memory: the buffer holds
 * the longest of them.  Internal to data.                                    */
#ifndef AT_INPUT_H
#define AT_INPUT_H

#include "base/base.h"

enum {
    AT_RECORD_MAX = 64 << 20,   /* bytes; a longer record is skipped, *s NULL */
    AT_PIECE = 64 << 10,        /* longer plain texts come in pieces          */
};

/* AT_GUESS: by its beginning, {" for lines of JSON, [{ for an array.         */
enum at_format { AT_LINES, AT_ARRAY, AT_PLAIN, AT_GUESS };

struct at_record {
    const char *s;              /* [n], until the next one; NULL: too long    */
    size_t n;
    uint64_t line;              /* where it begins, from 1                    */
    bool begins, ends;          /* its document; false only in plain text     */
};

struct at_input;

/* separator: ends a document of plain text; NULL: only the file's end does.  */
int at_input_open(struct at_ctx *cx, const char *path, enum at_format format,
                  const char *separator, struct at_input **in);
/* The next record; *more false at the end.  A byte-order mark is dropped;
 * blank records do not come, unless they shall.                              */
void at_input_keep_blank(struct at_input *in);
int at_input_next(struct at_ctx *cx, struct at_input *in, struct at_record *r,
                  bool *more);
/* Never AT_GUESS.                                                            */
enum at_format at_input_format(const struct at_input *in);
/* Bytes read so far, and their hash, which is the file's after the end.      */
uint64_t at_input_bytes(const struct at_input *in);
struct at_hash at_input_hash(const struct at_input *in);
void at_input_close(struct at_input *in);

#endif
