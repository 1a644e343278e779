/* The kinds of tokenizer: what sets them apart, one row each at the foot. */
#include "data/tok.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void tok_byte_order(unsigned char order[256], uint32_t point[256])
{
    size_t n = 0;
    for (uint32_t b = 0; b < 256; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) ||
                         (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
        point[b] = printable ? b : UINT32_MAX;
        if (printable)
            order[n++] = (unsigned char)b;
    }
    for (uint32_t b = 0, next = 256; b < 256; b++)
        if (point[b] == UINT32_MAX) {
            point[b] = next++;
            order[n++] = (unsigned char)b;
        }
}

/* ---- byte_bpe ------------------------------------------------------------------- */

/* Is the piece `into` the piece `left` followed by the piece `right`?        */
static bool joins(const struct at_tok *t, uint32_t left, uint32_t right,
                  uint32_t into)
{
    const struct tok_str *l, *r, *y;
    if (left >= t->n || right >= t->n || into >= t->n ||
        tok_special(t->type[left]) || tok_special(t->type[right]) ||
        t->type[into] != TOK_NORMAL)
        return false;
    l = &t->piece[left];
    r = &t->piece[right];
    y = &t->piece[into];
    return l->n + r->n == y->n && memcmp(y->s, l->s, l->n) == 0 &&
           memcmp(y->s + l->n, r->s, r->n) == 0;
}

static int open_merges(struct at_ctx *cx, struct at_arena *a, struct at_tok *t)
{
    int rc = tok_pairs_init(cx, a, t, t->n_merge);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < t->n_merge; i++) {
        const unsigned char *m = t->merge + 12 * i;
        struct tok_pair p = { tok_u32(m), tok_u32(m + 4), (uint32_t)i,
                              tok_u32(m + 8) };
        if (!joins(t, p.left, p.right, p.id))
            return at_fail(cx, AT_EFORMAT, "tokenizer: merge %zu joins %u and "
                           "%u into %u, which is not the two together", i,
                           p.left, p.right, p.id);
        tok_pair_add(t, p);
    }
    return AT_OK;
}

static int bpe_open(struct at_ctx *cx, struct at_arena *a, struct at_tok *t)
{
    struct tok_regex *re;
    int rc = tok_regex_create(cx, t->pattern, false, &re);
    if (rc < 0)
        return rc;
    tok_regex_destroy(re);
    return open_merges(cx, a, t);
}

static int bpe_walk(struct at_ctx *cx, const struct at_tok *t,
                    struct tok_regex *re, struct tok_walk *w, size_t *start)
{
    (void)t;
    return tok_walk_next(cx, re, w, start);
}

static size_t bpe_symbols(const struct at_tok *t, const char *s, size_t n,
                          struct tok_symbol *y)
{
    for (size_t i = 0; i < n; i++) {
        y[i].id = (uint32_t)t->byte_id[(unsigned char)s[i]];
        y[i].from = (uint32_t)i;
    }
    return n;
}

/* ---- llama2c -------------------------------------------------------------------- */

struct ranked { float score; uint32_t id; };

static int by_score(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* Ranks by falling score, equal for equal scores: then the leftmost of two
 * equal pairs is merged first, which is llama2.c's rule.                     */
static int score_ranks(struct at_ctx *cx, struct at_arena *a,
                       const struct at_tok *t, uint32_t **rank)
{
    struct ranked *r = at_alloc_n(cx, a, t->n, sizeof *r);
    *rank = at_alloc_n(cx, a, t->n, sizeof **rank);
    if (!r || !*rank)
        return AT_ENOMEM;
    for (size_t i = 0; i < t->n; i++) {
        uint32_t bits = tok_u32(t->score + 4 * i);
        r[i].id = (uint32_t)i;
        memcpy(&r[i].score, &bits, sizeof bits);
        if (!isfinite(r[i].score))
            return at_fail(cx, AT_EFORMAT, "tokenizer: the score of token %zu "
                           "is not finite", i);
    }
    qsort(r, t->n, sizeof *r, by_score);
    for (size_t i = 0, at = 0; i < t->n; i++) {
        if (r[i].score < r[at].score)
            at = i;
        (*rank)[r[i].id] = (uint32_t)at;
    }
    return AT_OK;
}

/* The cuts of piece i into two pieces; adds them if rank, counts them.       */
static size_t cuts(struct at_tok *t, uint32_t i, const uint32_t *rank)
{
    const struct tok_str *p = &t->piece[i];
    size_t n = 0;
    if (t->type[i] != TOK_NORMAL || tok_table_find(&t->words, p->s, p->n) != i)
        return 0;
    for (size_t k = 1; k < p->n; k++) {
        uint32_t left = tok_table_find(&t->words, p->s, k), right;
        if (left == TOK_NEVER)
            continue;
        right = tok_table_find(&t->words, p->s + k, p->n - k);
        if (right == TOK_NEVER)
            continue;
        n++;
        if (rank)
            tok_pair_add(t, (struct tok_pair){ left, right, rank[i], i });
    }
    return n;
}

static bool space_inside(const struct tok_str *p)
{
    for (size_t i = 1; i < p->n; i++)
        if (p->s[i] == ' ' && p->s[i - 1] != ' ')
            return true;
    return false;
}

static int llama2c_open(struct at_ctx *cx, struct at_arena *a,
                        struct at_tok *t)
{
    uint32_t *rank;
    size_t n = 0;
    int rc = score_ranks(cx, a, t, &rank);
    if (rc < 0)
        return rc;
    t->cut = true;
    t->mark = TOK_NEVER;
    for (uint32_t i = 0; i < t->n; i++) {
        n += cuts(t, i, NULL);
        if (t->type[i] == TOK_NORMAL && space_inside(&t->piece[i]))
            t->cut = false;
    }
    rc = tok_pairs_init(cx, a, t, n);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < t->n; i++)
        cuts(t, i, rank);
    return AT_OK;
}

/* When no piece has a space after a non-space, nothing is merged over such a
 * place: the words between them are independent.                             */
static int llama2c_walk(struct at_ctx *cx, const struct at_tok *t,
                        struct tok_regex *re, struct tok_walk *w,
                        size_t *start)
{
    const char *space;
    (void)cx, (void)re;
    if (w->at == w->n)
        return 0;
    *start = w->at;
    if (t->cut)
        while (w->at < w->n && w->s[w->at] == ' ')
            w->at++;
    space = t->cut ? memchr(w->s + w->at, ' ', w->n - w->at) : NULL;
    w->at = space ? (size_t)(space - w->s) : w->n;
    return 1;
}

static size_t llama2c_symbols(const struct at_tok *t, const char *s, size_t n,
                              struct tok_symbol *y)
{
    size_t n_y = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp, id = TOK_NEVER;
        size_t len = at_utf8(s + i, n - i, &cp);
        if (len)
            id = tok_table_find(&t->words, s + i, len);
        if (id == TOK_NEVER && len == TOK_MARK_BYTES &&
            memcmp(s + i, TOK_MARK, len) == 0)
            id = t->mark;               /* SentencePiece knows but one space  */
        if (id != TOK_NEVER) {
            y[n_y].id = id;
            y[n_y++].from = (uint32_t)i;
            i += len;
            continue;
        }
        for (size_t end = i + (len ? len : 1); i < end; i++) {
            y[n_y].id = (uint32_t)t->byte_id[(unsigned char)s[i]];
            y[n_y++].from = (uint32_t)i;
        }
    }
    return n_y;
}

/* ---- spaced: SentencePiece's pieces, merged by list ---------------------------- */

static int spaced_open(struct at_ctx *cx, struct at_arena *a, struct at_tok *t)
{
    t->cut = true;
    for (uint32_t i = 0; i < t->n && t->cut; i++)
        t->cut = t->type[i] != TOK_NORMAL || !space_inside(&t->piece[i]);
    t->mark = tok_table_find(&t->words, " ", 1);
    return open_merges(cx, a, t);
}

static bool has_mark(const char *s, size_t n)
{
    const char *at = s, *end = s + n;
    while ((at = memchr(at, TOK_MARK[0], (size_t)(end - at))) != NULL) {
        if (end - at >= TOK_MARK_BYTES &&
            memcmp(at, TOK_MARK, TOK_MARK_BYTES) == 0)
            return true;
        at++;
    }
    return false;
}

/* Where the text has the mark itself, spaces do not tell its words.            */
static int spaced_walk(struct at_ctx *cx, const struct at_tok *t,
                       struct tok_regex *re, struct tok_walk *w, size_t *start)
{
    if (w->at == 0)
        w->whole = has_mark(w->s, w->n);
    if (!w->whole)
        return llama2c_walk(cx, t, re, w, start);
    *start = w->at;
    w->at = w->n;
    return *start < w->n;
}

/* ---- the table ------------------------------------------------------------------ */

const struct tok_kind tok_byte_bpe = {
    .name = "byte_bpe",
    .code = 1,
    .has_pattern = true,
    .has_merges = true,
    .open = bpe_open,
    .walk = bpe_walk,
    .symbols = bpe_symbols,
};

/* Llama 3's: the same, but for words that are pieces.                        */
const struct tok_kind tok_byte_bpe_words = {
    .name = "byte_bpe",
    .code = 3,
    .has_pattern = true,
    .has_merges = true,
    .whole_words = true,
    .open = bpe_open,
    .walk = bpe_walk,
    .symbols = bpe_symbols,
};

/* Qwen's: the same, of composed text.                                         */
const struct tok_kind tok_byte_bpe_nfc = {
    .name = "byte_bpe",
    .code = 7,
    .has_pattern = true,
    .has_merges = true,
    .nfc = true,
    .open = bpe_open,
    .walk = bpe_walk,
    .symbols = bpe_symbols,
};

const struct tok_kind tok_llama2c = {
    .name = "llama2c",
    .code = 2,
    .has_scores = true,
    .dummy = TOK_DUMMY_BEGIN,
    .open = llama2c_open,
    .walk = llama2c_walk,
    .symbols = llama2c_symbols,
};

/* The same as llama.cpp has it, with a space behind every special token too or
 * none at all.                                                               */
#define SCORED(number, where)                                            \
    { .name = "scored_bpe", .code = number, .has_scores = true,          \
      .dummy = where, .open = llama2c_open, .walk = llama2c_walk,        \
      .symbols = llama2c_symbols }

const struct tok_kind tok_scored_each = SCORED(16, TOK_DUMMY_EACH);
const struct tok_kind tok_scored_none = SCORED(17, TOK_DUMMY_NONE);

#define SPACED(number, where)                                            \
    { .name = "spaced_bpe", .code = number, .has_merges = true,          \
      .dummy = where, .open = spaced_open, .walk = spaced_walk,          \
      .symbols = llama2c_symbols }

const struct tok_kind tok_spaced_each = SPACED(4, TOK_DUMMY_EACH);
const struct tok_kind tok_spaced_first = SPACED(5, TOK_DUMMY_FIRST);
const struct tok_kind tok_spaced_none = SPACED(6, TOK_DUMMY_NONE);

static const struct tok_kind *const kinds[] = {
    &tok_byte_bpe, &tok_byte_bpe_words, &tok_byte_bpe_nfc, &tok_llama2c,
    &tok_scored_each, &tok_scored_none, &tok_spaced_each, &tok_spaced_first, &tok_spaced_none,
    &tok_wordpiece, &tok_unigram
};

const struct tok_kind *tok_kind_find(uint32_t code)
{
    for (size_t i = 0; i < AT_COUNT(kinds); i++)
        if (kinds[i]->code == code)
            return kinds[i];
    return NULL;
}
