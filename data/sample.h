/* Samples out of input files; used by build.c only. */
#ifndef AT_SAMPLE_H
#define AT_SAMPLE_H

#include "data/chat.h"
#include "data/data.h"

struct at_sample {
    const char *text;           /* [n], until the next reset                  */
    size_t n;
    bool pair;                  /* bytes [from, to) are the completion        */
    size_t from, to;
    const struct at_chat_text *chat;    /* of a conversation: what is learnt of
                                         * it; NULL: from and to say          */
    bool preferred, rejected;   /* the first, the second of a preference      */
    const double *score;        /* [n_scores], as long as the text            */
    uint32_t label;             /* its number, see at_samples_labels          */
    bool begins, ends;          /* its document; else it is a piece of one    */
    uint32_t source;            /* which input                                */
    uint64_t line;              /* from 1                                     */
};

struct at_samples;

int at_samples_open(struct at_ctx *cx, const struct at_data_options *o,
                    struct at_data_stats *stats, struct at_samples **s);
/* The next sample; *more false at the end.  Bad samples are errors with file,
 * line and reason, or counted.                                               */
int at_samples_next(struct at_ctx *cx, struct at_samples *s,
                    struct at_sample *out, bool *more);
/* Forgets the texts given so far.                                            */
void at_samples_reset(struct at_samples *s);
uint64_t at_samples_done(const struct at_samples *s);   /* bytes             */
uint64_t at_samples_total(const struct at_samples *s);
/* The labels so far, in the order that they were met.                         */
const char *const *at_samples_labels(const struct at_samples *s, size_t *n);
/* "path hash bytes" a line, after all has been read.                         */
void at_samples_sources(const struct at_samples *s, struct at_text *t);
void at_samples_close(struct at_samples *s);

#endif
