/* What the files that read tokenizer.json share; tok_hf*.c only. */
#ifndef AT_TOK_HF_H
#define AT_TOK_HF_H

#include "data/json.h"
#include "data/tok.h"

struct tok_hf {
    struct at_ctx *cx;
    struct at_arena *work;
    const char *path;
    const json_t *root, *model;
    struct tok_alphabet al;
    /* A piece's bytes as its kind keeps them, n + 1 at most; its enum tok_type,
     * or TOK_TYPES: it can only be an added token.                           */
    unsigned char (*spell)(const struct tok_hf *r, const char *s, size_t n,
                           char *y, size_t *n_y);
    int (*list)(struct tok_hf *r, const json_t *vocab);  /* NULL: an object   */
    bool spaced;                /* pieces are text with U+2581 for spaces     */
    struct tok_draft *d;
    struct tok_table table;     /* pieces as bytes, of the vocabulary only    */
};

int tok_hf_refuse(const struct tok_hf *r, const char *what, const char *is);
/* "" where it is no text.                                                    */
const char *tok_hf_text(const json_t *o, const char *key);
static inline bool tok_hf_true(const json_t *o, const char *key)
{
    return json_is_true(json_object_get(o, key));
}

/* BERT's parts: normalizer, words, vocabulary's spelling.                    */
int tok_hf_wordpiece(struct tok_hf *r);
/* Unigram's: its table, words, and pieces (a list of [text, score]).          */
int tok_hf_unigram(struct tok_hf *r);
/* "<0x0A>" is that byte; else U+2581 stands for a space.                      */
unsigned char tok_hf_spell_spaced(const struct tok_hf *r, const char *s,
                                  size_t n, char *y, size_t *n_y);
int tok_hf_put_piece(struct tok_hf *r, const json_t *id, const char *s,
                     size_t n, unsigned char type, const char *spelled);

#endif
