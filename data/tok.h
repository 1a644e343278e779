/* Inside the tokenizers: what their files share.  Not for other folders.
 *
 *   tok_llama2c.c  tok_gpt2.c  tok_hf.c  tok_train.c      make a draft
 *           \          |          |         /
 *            tok_blob.c: draft -> bytes -> struct at_tok (all checks here)
 *                      |
 *   tok_kind.c: a row for each kind   tok_split.c: text to words
 *                      \                 /
 *                       tok_code.c: coder, merging, decoding                */
#ifndef AT_TOK_H
#define AT_TOK_H

#include "data/tokenizer.h"

/* Special tokens behind the first also take white space that stands before
 * them, behind them, or both.                                                */
enum tok_type {
    TOK_NORMAL, TOK_BYTE, TOK_SPECIAL, TOK_SPECIAL_LEFT, TOK_SPECIAL_RIGHT,
    TOK_SPECIAL_BOTH, TOK_TYPES
};

static inline bool tok_special(unsigned char type)
{
    return type >= TOK_SPECIAL && type < TOK_TYPES;
}

enum tok_trait {                /* of a tokenizer, in its blob                */
    TOK_ENDS = 1,               /* texts end with eos, says its own file      */
    TOK_CLEAN = 2, TOK_CHINESE = 4, TOK_ACCENTS = 8, TOK_LOWER = 16,
    TOK_BYTES = 32,             /* what has no piece becomes bytes            */
    TOK_TRAITS = 64
};

enum {
    TOK_PIECE_MAX = 4096,       /* bytes of the longest piece                */
    TOK_PATTERN_MAX = 4096,
    TOK_MAP_MAX = 4 << 20,
    TOK_VOCAB_MAX = 1 << 24,
};

#define TOK_NEVER UINT32_MAX    /* rank of a pair that is not merged         */

struct tok_str { const char *s; size_t n; };

/* ---- strings to numbers ------------------------------------------------------ */

/* Open addressing over the caller's strings: slot holds index + 1.           */
struct tok_table {
    const struct tok_str *str;
    uint32_t *slot;
    size_t mask;
};
int tok_table_init(struct at_ctx *cx, struct at_arena *a, struct tok_table *t,
                   const struct tok_str *str, size_t n);
/* Adds str[i]; the index already there if an equal one is, else i.           */
uint32_t tok_table_add(struct tok_table *t, uint32_t i);
/* The index, or TOK_NEVER.                                                   */
uint32_t tok_table_find(const struct tok_table *t, const char *s, size_t n);

/* Finds special tokens in text.                                              */
struct tok_finder {
    struct tok_table table;
    size_t *len, n_len;         /* the different lengths, longest first      */
    bool first[256];            /* bytes that one begins with                */
};
/* Finds those str[i] with want[i]; want NULL: all.                           */
int tok_finder_init(struct at_ctx *cx, struct at_arena *a,
                    struct tok_finder *f, const struct tok_str *str,
                    const bool *want, size_t n);
/* Leftmost, then longest: its place and index; false: none in s[at..n).      */
bool tok_finder_next(const struct tok_finder *f, const char *s, size_t n,
                     size_t at, size_t *where, uint32_t *which);

/* ---- a tokenizer -------------------------------------------------------------- */

struct tok_pair { uint32_t left, right, rank, id; };    /* rank TOK_NEVER: free */

struct at_tok {
    const struct tok_kind *kind;
    const unsigned char *blob;
    size_t n_blob;
    struct at_hash hash;
    size_t n;
    struct tok_str *piece;      /* [n]                                       */
    const unsigned char *type;  /* [n] enum tok_type                         */
    const unsigned char *score; /* [n] little-endian float32, or NULL        */
    const unsigned char *merge; /* [n_merge][3] little-endian uint32         */
    size_t n_merge;
    const char *pattern;        /* NUL-terminated, or NULL                   */
    const unsigned char *map;   /* [n_map] of kinds that have one            */
    size_t n_map;
    double least;               /* score of a piece, or 0; likewise          */
    int32_t bos, eos, pad, unk;
    unsigned traits;            /* enum tok_trait                             */
    size_t longest;             /* bytes of a normal piece, if its kind asks  */
    int32_t byte_id[256];
    struct tok_table words;     /* normal pieces                             */
    struct tok_finder special;
    struct tok_pair *pair;      /* open addressing                           */
    size_t pair_mask;
    bool cut;                   /* spaced kinds: no piece has a space inside  */
    uint32_t mark;              /* the piece that U+2581 in a text is, or none */
};

int tok_pairs_init(struct at_ctx *cx, struct at_arena *a, struct at_tok *t,
                   size_t n);
/* Keeps the smaller rank when the pair is there.                             */
void tok_pair_add(struct at_tok *t, struct tok_pair p);
static inline size_t tok_pair_slot(const struct at_tok *t, uint32_t left,
                                   uint32_t right)
{
    uint64_t k = ((uint64_t)left << 32 | right) ^ t->hash.lo;
    k *= UINT64_C(0x9E3779B97F4A7C15);
    k ^= k >> 29;
    k *= UINT64_C(0xBF58476D1CE4E5B9);
    return (size_t)(k >> 32) & t->pair_mask;
}
/* The pair's row, or a free row (rank TOK_NEVER).                            */
static inline const struct tok_pair *tok_pair_find(const struct at_tok *t,
                                                   uint32_t left,
                                                   uint32_t right)
{
    size_t i = tok_pair_slot(t, left, right);
    while (t->pair[i].rank != TOK_NEVER &&
           (t->pair[i].left != left || t->pair[i].right != right))
        i = (i + 1) & t->pair_mask;
    return &t->pair[i];
}

/* ---- drafts -------------------------------------------------------------------- */

struct tok_merge { uint32_t left, right, into; };

struct tok_draft {
    const struct tok_kind *kind;
    size_t n;
    struct tok_str *piece;      /* [n]                                       */
    unsigned char *type;        /* [n]                                       */
    const float *score;         /* [n] if the kind has scores                */
    const struct tok_merge *merge;
    size_t n_merge;
    const char *pattern;        /* if the kind has one                       */
    const void *map;            /* [n_map] likewise; 0: none                 */
    size_t n_map;
    int32_t bos, eos, pad;
    int32_t unk;                /* if the kind has unknown words; else NONE   */
    unsigned traits;
};
int tok_draft_open(struct at_ctx *cx, struct at_arena *a,
                   const struct tok_draft *d, struct at_tok **tok);

/* ---- text to words --------------------------------------------------------------- */

struct tok_regex;

/* jit false: only to see that the pattern compiles.                          */
int tok_regex_create(struct at_ctx *cx, const char *pattern, bool jit,
                     struct tok_regex **re);
void tok_regex_destroy(struct tok_regex *re);
/* Tests: PCRE2 for every word, also where the ASCII scanner would do.        */
void tok_regex_slow(struct tok_regex *re);

struct tok_walk {               /* s, n set, the rest zero                   */
    const char *s;
    size_t n, at;
    size_t from, to;            /* the stretch of valid UTF-8 around `at`    */
    bool whole;                 /* spaced kinds: the text is one word         */
};

/* What SentencePiece writes for a space, U+2581.                             */
#define TOK_MARK "\xE2\x96\x81"
enum { TOK_MARK_BYTES = 3 };
/* The next word is w->s[*start .. w->at).  1, or 0 at the end, or an error.  */
int tok_walk_next(struct at_ctx *cx, struct tok_regex *re, struct tok_walk *w,
                  size_t *start);
/* The last place before n where a text may be cut without changing a word of
 * GPT-2's pattern: before ASCII white space that follows a character which is
 * none; 0: there is none.  lines: only before a line break.                  */
size_t tok_cut(const char *s, size_t n, bool lines);

/* Unicode's white space.                                                     */
bool tok_white(uint32_t c);

/* ---- words of a corpus ------------------------------------------------------------- */

struct tok_word { uint64_t hash, count; size_t at, n; };    /* count 0: free   */

struct tok_words {
    struct tok_word *slot;      /* [cap] open addressing, free ones between  */
    size_t n, cap;
    char *bytes;                /* word i is bytes[slot[i].at ..]            */
    size_t n_bytes, cap_bytes;
};
void tok_words_finish(struct tok_words *w);
/* Counts the words of all texts between special tokens, cx->n_threads wide.
 * w is zero at first; call finish on it also after a failure.               */
int tok_words_count(struct at_ctx *cx, at_tok_next_fn *next, void *self,
                    const char *pattern, const struct tok_finder *special,
                    struct tok_words *w);

/* ---- kinds -------------------------------------------------------------------------- */

/* from: where its bytes begin in the word.                                   */
struct tok_symbol { uint32_t id, prev, next, rank, into, from; };

/* A space that is put before text.                                           */
enum tok_dummy {
    TOK_DUMMY_NONE,
    TOK_DUMMY_BEGIN,            /* at the beginning                          */
    TOK_DUMMY_FIRST,            /* there, unless it begins with a space      */
    TOK_DUMMY_EACH,             /* and behind every special token            */
};

/* Text as a kind reads it: byte i comes from byte place[i] of the text.      */
struct tok_normal {
    char *s;
    uint32_t *place;            /* [n+1]                                      */
    size_t n, cap_s, cap_place;
};

struct tok_kind {
    const char *name;
    uint32_t code;              /* in the blob; never reused                 */
    bool has_pattern, has_scores, has_merges;
    bool has_map;               /* instead of a pattern                      */
    bool cleans;                /* decoding takes spaces before marks out    */
    enum tok_dummy dummy;
    bool whole_words;           /* a word that is a piece is not merged      */
    bool nfc;                   /* texts are composed first (Unicode's NFC)   */
    bool unknown;               /* not every text has tokens: unk stands in    */
    /* Fills t->pair (and what else only this kind has), t->words is there.  */
    int (*open)(struct at_ctx *cx, struct at_arena *a, struct at_tok *t);
    /* Next word as tok_walk_next gives it; re is NULL without a pattern.    */
    int (*walk)(struct at_ctx *cx, const struct at_tok *t,
                struct tok_regex *re, struct tok_walk *w, size_t *start);
    /* The ids of s[0..n) before any merge; room for n; how many.            */
    size_t (*symbols)(const struct at_tok *t, const char *s, size_t n,
                      struct tok_symbol *y);
    /* Rewrites what the walk then cuts up; NULL: text is taken as it is.     */
    int (*normal)(struct at_ctx *cx, const struct at_tok *t, const char *s,
                  size_t n, struct tok_normal *y);
    /* Instead of symbols and merges: the ids of the word s[0..n), its first
     * piece having a space before it; y has room for n + 1; how many.  room: of
     * room(n) bytes, aligned; room NULL: none is needed.                     */
    size_t (*word)(const struct at_tok *t, const char *s, size_t n,
                   struct tok_symbol *y, void *room);
    size_t (*room)(size_t n);
};
extern const struct tok_kind tok_byte_bpe, tok_byte_bpe_words,
    tok_byte_bpe_nfc, tok_llama2c, tok_scored_each, tok_scored_none,
    tok_spaced_none, tok_spaced_first, tok_spaced_each, tok_wordpiece,
    tok_unigram;
/* NULL: no such kind.                                                        */
const struct tok_kind *tok_kind_find(uint32_t code);

/* The bytes in GPT-2's order (code points of its printable alphabet): the
 * printable ones first.  order[i]: the i-th byte; point[b]: b's code point.  */
void tok_byte_order(unsigned char order[256], uint32_t point[256]);

/* The alphabet back to bytes; -1: no byte.                                   */
enum { TOK_POINTS = 324 };      /* one past the last code point used         */
struct tok_alphabet { int16_t byte[TOK_POINTS]; };
void tok_alphabet_init(struct tok_alphabet *al);
/* The bytes that s[0..n) spells, into y's room of n bytes; false: a character
 * is none of the alphabet.                                                   */
bool tok_spell(const struct tok_alphabet *al, const char *s, size_t n, char *y,
               size_t *n_y);

static inline uint32_t tok_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
           (uint32_t)p[3] << 24;
}

#endif
