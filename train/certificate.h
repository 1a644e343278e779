/* A certificate: that an exported model is the one that was trained.  The
 * export is read back and both are run on fixed prompts.                     */
#ifndef AT_CERTIFICATE_H
#define AT_CERTIFICATE_H

#include "base/base.h"

struct at_certificate {
    size_t prompts, positions;  /* what was compared                          */
    double largest;             /* difference of two logits                   */
    double kl;                  /* mean, nats: trained model to exported one  */
    double kl_most;             /* what passes                                */
    double agree;               /* share of positions: the same likeliest     */
    bool same_ids;              /* prompts become the same tokens             */
    bool same_ends;             /* bos and eos                                */
    bool same_chat;             /* chat template                              */
    bool words;                 /* there is a tokenizer; else ids were made up */
};

/* How an export is read back, and what of.                                   */
struct at_read_back {
    const char *trained;        /* model file, checkpoint or run              */
    const char *made;           /* the export: a file or folder               */
    int (*import)(struct at_ctx *cx, const void *self, const char *made,
                  const char *out);
    const void *self;
    bool words;                 /* see at_certify                             */
    double kl_most;
};
/* Reads the export into a model file beside it, runs both, and removes that
 * file; an export that is not its model is an error.                         */
int at_certify_back(struct at_ctx *cx, const struct at_read_back *b,
                    struct at_certificate *c);
/* trained: a model file, checkpoint or run, its adapter applied; exported: the
 * model file that reading the export gave.  words: both read texts, else ids
 * from all over the vocabulary are the prompts.  kl_most: from the type the
 * weights were written in.                                                   */
int at_certify(struct at_ctx *cx, const char *trained, const char *exported,
               bool words, double kl_most, struct at_certificate *c);
/* An error that says what differs, unless all is well.                       */
int at_certificate_check(struct at_ctx *cx, const struct at_certificate *c);
/* Writes it as JSON; type names what the weights were written in.            */
int at_certificate_write(struct at_ctx *cx, const struct at_certificate *c,
                         const char *trained, const char *type,
                         const char *path);

#endif
