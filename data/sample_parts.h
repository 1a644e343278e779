/* Inside the samples: what sample*.c share.
 *
 *   sample.c: inputs, records, duplicates
 *      |
 *   sample_json.c: an object, a row          sample_chat.c: a conversation
 *      |
 *   sample_template.c: which keys, in what text                              */
#ifndef AT_SAMPLE_PARTS_H
#define AT_SAMPLE_PARTS_H

#include "data/csv.h"
#include "data/numbers.h"
#include "data/sample.h"

#include <jansson.h>

enum { SEGMENTS = 64, BAD_LOGGED = 5, LABELS = 1000 };

struct segment {            /* of the template: a literal, or a key's text    */
    const char *text;
    size_t n;
    bool key, completion;
};

struct source { char hash[33]; uint64_t bytes; };

struct at_samples {
    struct at_arena arena, texts;   /* arena holds this too                   */
    const struct at_data_options *o;
    struct at_data_stats *stats;
    struct source *source;      /* [o->n_inputs], filled as they are read     */
    uint64_t total, done;       /* bytes: of all, of those that were closed   */
    size_t at;                  /* the input being read                       */
    enum at_format format;
    struct at_input *in;
    struct at_csv *rows;        /* over in, when that is a table              */
    uint64_t line;              /* of the record                              */
    struct segment seg[SEGMENTS];
    size_t n_seg;
    bool chat;                  /* samples are conversations                  */
    struct at_sample rejected;  /* to come next, when text is set             */
    struct at_numbers seen;
    const char *label[LABELS];
    size_t n_labels;
};

/* Chosen by --template, or by the keys of the first sample; reported in stats. */
int sample_choose_template(struct at_ctx *cx, struct at_samples *s,
                           const json_t *first);

/* A bad sample: an error with its place, or counted.                         */
int sample_bad(struct at_ctx *cx, struct at_samples *s, const char *why);
/* What a key or a turn says, as the tokenizer takes it.                       */
int sample_compose(struct at_ctx *cx, struct at_samples *s, const char **text,
                   size_t *n);
/* The sample of a JSON object; *made false: it was bad and is skipped.        */
int sample_from_object(struct at_ctx *cx, struct at_samples *s,
                       const json_t *v, struct at_sample *out, bool *made);

/* "messages" of role and content, or ShareGPT's "conversations" of from and
 * value; NULL: none.                                                         */
const json_t *sample_conversation(const json_t *v);
int sample_choose_chat(struct at_ctx *cx, struct at_samples *s);
/* *why says what is wrong with it.                                           */
int sample_from_conversation(struct at_ctx *cx, struct at_samples *s,
                             const json_t *list, struct at_sample *out,
                             char why[256]);

#endif
