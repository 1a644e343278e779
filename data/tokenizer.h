/* Tokenizers: bytes to token ids and back.
 *
 * A tokenizer is immutable, lives in an arena, holds no resource, and may be
 * shared by any number of threads.  Each thread encodes with a coder of its
 * own, which holds the working memory, the word cache and the compiled
 * pre-tokenizer pattern.
 *
 * Kinds (at_tok_kind):
 *   "byte_bpe"  GPT-2's: the text is cut into words by a PCRE2 pattern, the
 *               bytes of a word are merged by rank.  Every byte string is
 *               encoded and decodes to itself; bytes that are not UTF-8 form
 *               words of their own, one for each run of them.
 *   "wordpiece" BERT's: text is simplified, words are taken apart from their
 *               beginning, what cannot be is one unknown token.  Decoding
 *               gives words between single spaces.
 *   "llama2c"   SentencePiece BPE as llama2.c's tokenizer.bin holds it: a
 *               space is put before the text, characters are merged by
 *               score, what has no piece becomes byte tokens.
 *   "scored_bpe"    the same out of GGUF files.
 *
 * Special tokens never come out of ordinary text: only AT_TOK_SPECIAL and the
 * ids themselves make them.
 *
 * Every constructor writes the tokenizer as one byte string (at_tok_save) and
 * opens that, so what is kept in a model or a dataset is what was used, and
 * at_tok_hash of it names the tokenizer.                                     */
#ifndef AT_TOKENIZER_H
#define AT_TOKENIZER_H

#include "base/base.h"

struct at_tok;
struct at_tok_coder;

enum { AT_TOK_NONE = -1 };          /* no such token                         */

/* The pattern of GPT-2; what a NULL pattern means in at_tok_train.           */
extern const char *const at_tok_gpt2_pattern;

/* ---- making one ----------------------------------------------------------- */

/* llama2.c's tokenizer.bin: int32 longest piece, then for each token float32
 * score, int32 length, bytes.  Ids 0, 1, 2 are <unk>, <s> (bos), </s> (eos);
 * ids 3 .. 258 are the bytes.  Where llama2.c would let text spell one of
 * these, this does not.                                                      */
int at_tok_load_llama2c(struct at_ctx *cx, struct at_arena *a,
                        const char *path, size_t vocab_size,
                        struct at_tok **tok);
/* GPT-2's encoder.json and vocab.bpe.  A piece that is no byte and that no
 * merge makes is a special token; <|endoftext|>, if there, is bos and eos.   */
int at_tok_load_gpt2(struct at_ctx *cx, struct at_arena *a,
                     const char *encoder_json, const char *vocab_bpe,
                     struct at_tok **tok);
/* Hugging Face's tokenizer.json when it is a byte-level BPE whose parts attune
 * has; another is refused by the part that is missing.  config_json (or NULL):
 * tokenizer_config.json, which names the end of a text.  bos is the token that
 * the file itself puts first, if it puts one.                                */
int at_tok_load_hf(struct at_ctx *cx, struct at_arena *a,
                   const char *tokenizer_json, const char *config_json,
                   struct at_tok **tok);
/* A byte_bpe tokenizer as Hugging Face's tokenizer.json and
 * tokenizer_config.json.                                                     */
int at_tok_hf_text(struct at_ctx *cx, const struct at_tok *tok,
                   struct at_text *json, struct at_text *config);
/* The tokenizer as facts of a GGUF file whose model has V tokens (those behind
 * ours are filled up); and out of such facts, less what fills up.  Kinds that
 * llama.cpp has no word for are refused.                                     */
struct at_gguf;
struct at_gguf_out;
int at_tok_put_gguf(struct at_ctx *cx, const struct at_tok *tok, size_t V,
                    struct at_gguf_out *w);
int at_tok_load_gguf(struct at_ctx *cx, struct at_arena *a,
                     const struct at_gguf *g, struct at_tok **tok);
/* The n bytes that at_tok_save gave; they are copied.  Anything else, cut
 * short or altered, is refused with AT_EFORMAT.                              */
int at_tok_load(struct at_ctx *cx, struct at_arena *a, const void *blob,
                size_t n, struct at_tok **tok);
/* The tokenizer as bytes, *n of them, living as long as the tokenizer.       */
const void *at_tok_save(const struct at_tok *tok, size_t *n);
struct at_hash at_tok_hash(const struct at_tok *tok);

/* ---- training -------------------------------------------------------------- */

/* Gives the next text, valid until the next call, or NULL after the last.
 * Words never reach over the end of a text.                                  */
typedef int at_tok_next_fn(struct at_ctx *cx, void *self, const char **text,
                           size_t *n);

/* Files as such texts: self is a struct at_tok_files with paths and n set.  A
 * file comes in stretches of some MiB, cut before a line break that follows a
 * non-space: for GPT-2's pattern that changes no word.                       */
struct at_tok_files {
    const char *const *paths;
    size_t n;
    size_t n_bytes;             /* read so far                               */
    size_t file, carry, have, cap;  /* state, zero at first                  */
    char *buf;
    FILE *f;
};
at_tok_next_fn at_tok_files_next;
void at_tok_files_finish(struct at_tok_files *s);

struct at_tok_training {
    size_t vocab_size;          /* all: special tokens, 256 bytes, merges    */
    const char *pattern;        /* NULL: GPT-2's                             */
    const char *const *special; /* get the ids 0, 1, ...; cut out of the text */
    size_t n_special;
    int bos, eos, pad;          /* index into special, or AT_TOK_NONE        */
    size_t min_count;           /* least count of a pair to be merged        */
};

/* Trains a byte_bpe tokenizer.  The pair with the largest count is merged;
 * of equal counts the one with the smaller left id, then the smaller right
 * id, as Hugging Face's trainer does.  Ids: special tokens, the bytes in
 * GPT-2's order, merges.  The result does not depend on cx->n_threads or on
 * the order of texts.  A small text may give fewer than vocab_size tokens.   */
int at_tok_train(struct at_ctx *cx, struct at_arena *a, at_tok_next_fn *next,
                 void *self, const struct at_tok_training *how,
                 struct at_tok **tok);

/* ---- asking ---------------------------------------------------------------- */

const char *at_tok_kind(const struct at_tok *tok);
size_t at_tok_size(const struct at_tok *tok);       /* ids are 0 .. size-1   */
int32_t at_tok_bos(const struct at_tok *tok);       /* or AT_TOK_NONE        */
int32_t at_tok_eos(const struct at_tok *tok);
int32_t at_tok_pad(const struct at_tok *tok);
/* Whether its own file has every text end with eos (BERT, RoBERTa).           */
bool at_tok_ends(const struct at_tok *tok);
/* The special token with this text, or AT_TOK_NONE.                          */
int32_t at_tok_special(const struct at_tok *tok, const char *text);
bool at_tok_is_special(const struct at_tok *tok, int32_t id);
/* The *n bytes the token stands for; not NUL-terminated; a special token has
 * its text.  NULL and 0 for an id out of range.                              */
const char *at_tok_piece(const struct at_tok *tok, int32_t id, size_t *n);

/* ---- encoding --------------------------------------------------------------- */

enum at_tok_flag {
    AT_TOK_BOS = 1,             /* bos first; an error if there is none      */
    AT_TOK_EOS = 2,             /* eos last; an error if there is none       */
    AT_TOK_SPECIAL = 4,         /* the texts of special tokens are tokens    */
    AT_TOK_CONTINUE = 8,        /* the text continues one: no dummy space    */
};

/* Zero-initialise; encoding appends; free with at_tok_ids_finish.            */
struct at_tok_ids {
    int32_t *id;                /* [n]                                       */
    uint32_t *start;            /* [n] byte of the text where the token starts;
                                 * it ends where the next one starts         */
    size_t n, cap_id, cap_start;
};
void at_tok_ids_finish(struct at_tok_ids *ids);

/* The coder reads tok, which must outlive it.                                */
int at_tok_coder_create(struct at_ctx *cx, const struct at_tok *tok,
                        struct at_tok_coder **coder);
void at_tok_coder_destroy(struct at_tok_coder *coder);

/* Appends the tokens of text[0..n) (n < 2^32 - 1).  bos and the dummy space
 * start at byte 0, eos at n; a token belongs to where its first byte is.
 * Time O(n log n) whatever the text.  On failure ids are as before.          */
int at_tok_encode(struct at_ctx *cx, struct at_tok_coder *coder,
                  const char *text, size_t n, unsigned flags,
                  struct at_tok_ids *ids);
/* Text as the tokenizer takes it: composed where its kind asks for NFC.  The
 * same s where nothing changes, else in arena a; what is no UTF-8 stays as it is.
 * Places that at_tok_encode tells are places in this text.                    */
int at_tok_normal(struct at_ctx *cx, struct at_arena *a,
                  const struct at_tok *tok, const char *s, size_t n,
                  const char **made, size_t *n_made);
/* The same, with special tokens read within the n_own spans (rising) alone.   */
struct at_tok_span { size_t from, to; };    /* bytes of a text                */
int at_tok_encode_own(struct at_ctx *cx, struct at_tok_coder *coder,
                      const char *text, size_t n, unsigned flags,
                      const struct at_tok_span *own, size_t n_own,
                      struct at_tok_ids *ids);

/* ---- decoding --------------------------------------------------------------- */

/* The bytes that token `id` adds after token `prev` (AT_TOK_NONE: at the very
 * beginning): its piece, less the dummy space of llama2c at the beginning or
 * after bos.  One token may be less than one character.  NULL and 0 for an id
 * out of range.                                                              */
const char *at_tok_step(const struct at_tok *tok, int32_t prev, int32_t id,
                        size_t *n);
/* All of them, NUL-terminated, in arena a; the dummy space goes only where
 * nothing but bos came before.  skip_special leaves special tokens out.  An
 * id out of range is AT_EINVAL.                                              */
int at_tok_decode(struct at_ctx *cx, struct at_arena *a,
                  const struct at_tok *tok, const int32_t *ids, size_t n,
                  bool skip_special, char **text, size_t *n_text);

#endif
