/* Training of byte-level BPE.
 *
 * The different words stand in one array of symbols, linked within each word.
 * Every pair knows its count and the places where it was made; a heap gives
 * the pair with the largest count.  Merging a pair visits only its places:
 * the work is in proportion to the symbols that vanish.
 *
 * No piece is made twice: where the ends of a stretch of bytes have never
 * been merged over, the merges inside it were those of the same bytes anywhere
 * else.  So pieces need no looking up; a pair is born in one merge, the one
 * that makes the later of its two pieces, with its places in rising order; and
 * from then on its count only falls.  Its places and its one heap entry may be
 * out of date and are checked when they come up.                             */
#include "data/tok.h"

#include <string.h>

#define NONE UINT32_MAX

struct symbol { uint32_t id, prev, next, word; };   /* id NONE: merged away   */
struct place { uint32_t symbol, next; };

struct pair {
    uint32_t left, right;
    int64_t count;
    uint32_t head, tail;        /* list of places                            */
};

struct entry { int64_t count; uint32_t pair; };

struct trainer {
    struct at_ctx *cx;
    struct at_arena work;       /* pieces and tables                         */
    struct symbol *y;
    uint64_t *weight;           /* of each word                              */
    struct pair *pair;
    uint32_t *slot;             /* pair index + 1; open addressing           */
    struct place *place;
    struct entry *heap;
    struct tok_merge *merge;
    size_t n_y, n_pair, n_queued, n_place, n_heap, n_merge;
    size_t cap_y, cap_weight, cap_pair, cap_slot, cap_place, cap_heap;
    size_t cap_merge;
    struct tok_str *piece;      /* [vocab_size]                              */
    size_t n;
    int64_t least;
};

static void trainer_finish(struct trainer *t)
{
    at_free(t->y);
    at_free(t->weight);
    at_free(t->pair);
    at_free(t->slot);
    at_free(t->place);
    at_free(t->heap);
    at_free(t->merge);
    at_arena_finish(&t->work);
}

/* ---- the heap: largest count, then smallest ids ------------------------------- */

static bool before(const struct trainer *t, struct entry a, struct entry b)
{
    const struct pair *p = &t->pair[a.pair], *q = &t->pair[b.pair];
    if (a.count != b.count)
        return a.count > b.count;
    if (p->left != q->left)
        return p->left < q->left;
    return p->right < q->right;
}

static int push(struct trainer *t, uint32_t pair)
{
    struct entry e = { t->pair[pair].count, pair };
    size_t i = t->n_heap;
    int rc = at_grow(t->cx, &t->heap, &t->cap_heap, i + 1, sizeof *t->heap);
    if (rc < 0)
        return rc;
    t->n_heap++;
    for (; i > 0 && before(t, e, t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        t->heap[i] = t->heap[(i - 1) / 2];
    t->heap[i] = e;
    return AT_OK;
}

static struct entry pop(struct trainer *t)
{
    struct entry first = t->heap[0], e = t->heap[--t->n_heap];
    size_t i = 0;
    for (size_t kid; (kid = 2 * i + 1) < t->n_heap; i = kid) {
        if (kid + 1 < t->n_heap && before(t, t->heap[kid + 1], t->heap[kid]))
            kid++;
        if (!before(t, t->heap[kid], e))
            break;
        t->heap[i] = t->heap[kid];
    }
    t->heap[i] = e;
    return first;
}

/* ---- pairs --------------------------------------------------------------------- */

static uint32_t *seek(const struct trainer *t, uint32_t left, uint32_t right)
{
    uint64_t k = ((uint64_t)left << 32 | right) *
                 UINT64_C(0x9E3779B97F4A7C15);
    size_t i = (size_t)(k >> 20) & (t->cap_slot - 1);
    for (;; i = (i + 1) & (t->cap_slot - 1)) {
        const struct pair *p;
        if (t->slot[i] == 0)
            return &t->slot[i];
        p = &t->pair[t->slot[i] - 1];
        if (p->left == left && p->right == right)
            return &t->slot[i];
    }
}

static int widen(struct trainer *t)
{
    uint32_t *old = t->slot;
    size_t cap = 0, want = t->cap_slot ? 2 * t->cap_slot : (size_t)1 << 12;
    t->slot = NULL;
    if (at_grow(t->cx, &t->slot, &cap, want, sizeof *t->slot) < 0) {
        t->slot = old;
        return AT_ENOMEM;
    }
    at_free(old);
    t->cap_slot = cap;
    memset(t->slot, 0, cap * sizeof *t->slot);
    for (uint32_t i = 0; i < t->n_pair; i++)
        *seek(t, t->pair[i].left, t->pair[i].right) = i + 1;
    return AT_OK;
}

/* Index of the pair, made if need be.                                        */
static int pair_of(struct trainer *t, uint32_t left, uint32_t right,
                   uint32_t *index)
{
    uint32_t *slot;
    int rc;
    if (2 * t->n_pair >= t->cap_slot && (rc = widen(t)) < 0)
        return rc;
    slot = seek(t, left, right);
    if (*slot == 0) {
        rc = at_grow(t->cx, &t->pair, &t->cap_pair, t->n_pair + 1,
                     sizeof *t->pair);
        if (rc < 0)
            return rc;
        t->pair[t->n_pair] = (struct pair){ .left = left, .right = right,
            .head = NONE, .tail = NONE };
        *slot = (uint32_t)++t->n_pair;
    }
    *index = *slot - 1;
    return AT_OK;
}

/* The pair that begins at symbol i has come into being.                      */
static int made(struct trainer *t, uint32_t i)
{
    uint32_t index, at = (uint32_t)t->n_place;
    struct pair *p;
    int rc = pair_of(t, t->y[i].id, t->y[t->y[i].next].id, &index);
    if (rc < 0)
        return rc;
    rc = at_grow(t->cx, &t->place, &t->cap_place, t->n_place + 1,
                 sizeof *t->place);
    if (rc < 0)
        return rc;
    p = &t->pair[index];
    t->place[t->n_place++] = (struct place){ i, NONE };
    if (p->head == NONE)
        p->head = at;
    else
        t->place[p->tail].next = at;
    p->tail = at;
    p->count += (int64_t)t->weight[t->y[i].word];
    return AT_OK;
}

/* The pair left, right in the word of symbol i is no more.                   */
static void unmade(struct trainer *t, uint32_t i, uint32_t left,
                   uint32_t right)
{
    t->pair[*seek(t, left, right) - 1].count -=
        (int64_t)t->weight[t->y[i].word];
}

/* Puts the pairs born since the last call into the heap.                     */
static int queue_born(struct trainer *t)
{
    for (; t->n_queued < t->n_pair; t->n_queued++) {
        int rc = push(t, (uint32_t)t->n_queued);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

/* ---- merging ------------------------------------------------------------------- */

static int merge_at(struct trainer *t, uint32_t i, uint32_t into)
{
    struct symbol *y = &t->y[i], *gone = &t->y[y->next];
    uint32_t left = y->id, right = gone->id;
    int rc = AT_OK;
    y->id = into;
    y->next = gone->next;
    gone->id = NONE;
    if (y->prev != NONE) {
        unmade(t, i, t->y[y->prev].id, left);
        rc = made(t, y->prev);
    }
    if (rc == AT_OK && y->next != NONE) {
        t->y[y->next].prev = i;
        unmade(t, i, right, t->y[y->next].id);
        rc = made(t, i);
    }
    return rc;
}

/* Merges the pair at all its places, from left to right: in "aaa" the first
 * two.                                                                       */
static int merge_places(struct trainer *t, const struct pair *pair,
                        uint32_t into)
{
    const struct pair p = *pair;        /* the array may move                */
    for (uint32_t k = p.head; k != NONE; k = t->place[k].next) {
        uint32_t i = t->place[k].symbol;
        const struct symbol *y = &t->y[i];
        int rc;
        if (y->id != p.left || y->next == NONE ||
            t->y[y->next].id != p.right)
            continue;
        rc = merge_at(t, i, into);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

static int merge_pair(struct trainer *t, uint32_t pair)
{
    struct tok_merge m = { t->pair[pair].left, t->pair[pair].right,
                           (uint32_t)t->n };
    struct tok_str l = t->piece[m.left], r = t->piece[m.right];
    char *s = at_alloc(t->cx, &t->work, l.n + r.n);
    int rc;
    if (!s)
        return AT_ENOMEM;
    memcpy(s, l.s, l.n);
    memcpy(s + l.n, r.s, r.n);
    rc = at_grow(t->cx, &t->merge, &t->cap_merge, t->n_merge + 1,
                 sizeof *t->merge);
    if (rc < 0)
        return rc;
    t->piece[t->n++] = (struct tok_str){ s, l.n + r.n };
    t->merge[t->n_merge++] = m;
    rc = merge_places(t, &t->pair[pair], m.into);
    return rc < 0 ? rc : queue_born(t);
}

static int merge_all(struct trainer *t, size_t vocab_size)
{
    while (t->n < vocab_size && t->n_heap) {
        struct entry e = pop(t);
        struct pair *p = &t->pair[e.pair];
        int rc = AT_OK;
        if (p->count != e.count)
            rc = p->count > 0 ? push(t, e.pair) : AT_OK;
        else if (e.count < t->least)
            return AT_OK;
        else if (t->piece[p->left].n + t->piece[p->right].n <= TOK_PIECE_MAX)
            rc = merge_pair(t, e.pair);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

/* ---- words to symbols -------------------------------------------------------------- */

static int load_word(struct trainer *t, const unsigned char *s, size_t n,
                     uint32_t word, const uint32_t byte_id[256])
{
    uint32_t first = (uint32_t)t->n_y;
    int rc = at_grow(t->cx, &t->y, &t->cap_y, t->n_y + n, sizeof *t->y);
    for (uint32_t i = 0; rc == AT_OK && i < n; i++)
        t->y[t->n_y++] = (struct symbol){ byte_id[s[i]],
            i ? first + i - 1 : NONE, i + 1 < n ? first + i + 1 : NONE, word };
    for (uint32_t i = 0; rc == AT_OK && i + 1 < n; i++)
        rc = made(t, first + i);
    return rc;
}

static int load_words(struct trainer *t, const struct tok_words *w,
                      const uint32_t byte_id[256])
{
    uint32_t word = 0;
    int rc = at_grow(t->cx, &t->weight, &t->cap_weight, w->n,
                     sizeof *t->weight);
    if (rc < 0)
        return rc;
    if (w->n_bytes >= NONE / 4)
        return at_fail(t->cx, AT_EINVAL, "training a tokenizer: the different "
                       "words are %zu bytes; give less text", w->n_bytes);
    for (size_t i = 0; i < w->cap; i++) {
        const struct tok_word *x = &w->slot[i];
        if (x->count == 0)
            continue;
        t->weight[word] = x->count;
        rc = load_word(t, (const unsigned char *)w->bytes + x->at, x->n,
                       word++, byte_id);
        if (rc < 0)
            return rc;
    }
    return queue_born(t);
}

/* Ids 0 .. n_special-1, then the bytes.                                      */
static int first_pieces(struct trainer *t, const struct at_tok_training *how,
                        struct tok_finder *special, uint32_t byte_id[256])
{
    unsigned char order[256];
    uint32_t point[256];
    char *bytes = at_alloc(t->cx, &t->work, 256);
    t->piece = at_alloc_n(t->cx, &t->work, how->vocab_size,
                          sizeof *t->piece);
    if (!bytes || !t->piece)
        return AT_ENOMEM;
    for (size_t i = 0; i < how->n_special; i++) {
        size_t n = strlen(how->special[i]);
        if (n == 0 || n > TOK_PIECE_MAX)
            return at_fail(t->cx, AT_EINVAL, "training a tokenizer: special "
                           "token %zu has %zu bytes; 1 to %d may be", i, n,
                           TOK_PIECE_MAX);
        t->piece[t->n++] = (struct tok_str){ how->special[i], n };
    }
    tok_byte_order(order, point);
    for (size_t i = 0; i < 256; i++) {
        bytes[i] = (char)order[i];
        byte_id[order[i]] = (uint32_t)t->n;
        t->piece[t->n++] = (struct tok_str){ bytes + i, 1 };
    }
    return tok_finder_init(t->cx, &t->work, special, t->piece, NULL,
                           how->n_special);
}

/* ---- all of it --------------------------------------------------------------------- */

static int check(struct at_ctx *cx, const struct at_tok_training *how)
{
    const int id[] = { how->bos, how->eos, how->pad };
    if (how->vocab_size < 256 + how->n_special ||
        how->vocab_size > TOK_VOCAB_MAX)
        return at_fail(cx, AT_EINVAL, "training a tokenizer: a vocabulary of "
                       "%zu; with %zu special tokens it may be %zu to %d",
                       how->vocab_size, how->n_special, 256 + how->n_special,
                       TOK_VOCAB_MAX);
    for (size_t i = 0; i < AT_COUNT(id); i++)
        if (id[i] != AT_TOK_NONE &&
            (id[i] < 0 || (size_t)id[i] >= how->n_special))
            return at_fail(cx, AT_EINVAL, "training a tokenizer: %s is special "
                           "token %d; there are %zu", i == 0 ? "bos" :
                           i == 1 ? "eos" : "pad", id[i], how->n_special);
    return AT_OK;
}

static int finish(struct trainer *t, struct at_arena *a,
                  const struct at_tok_training *how, const char *pattern,
                  struct at_tok **tok)
{
    struct tok_draft d = { .kind = &tok_byte_bpe, .n = t->n,
                           .piece = t->piece, .merge = t->merge,
                           .n_merge = t->n_merge, .pattern = pattern,
                           .bos = how->bos, .eos = how->eos, .pad = how->pad };
    d.type = at_alloc_n(t->cx, &t->work, t->n, sizeof *d.type);
    if (!d.type)
        return AT_ENOMEM;
    for (size_t i = 0; i < t->n; i++)
        d.type[i] = i < how->n_special ? TOK_SPECIAL :
                    i < how->n_special + 256 ? TOK_BYTE : TOK_NORMAL;
    return tok_draft_open(t->cx, a, &d, tok);
}

int at_tok_train(struct at_ctx *cx, struct at_arena *a, at_tok_next_fn *next,
                 void *self, const struct at_tok_training *how,
                 struct at_tok **tok)
{
    const char *pattern = how->pattern ? how->pattern : at_tok_gpt2_pattern;
    struct trainer t = { .cx = cx };
    struct tok_finder special = { 0 };
    struct tok_words words = { 0 };
    uint32_t byte_id[256];
    int rc = check(cx, how);
    if (rc < 0)
        return rc;
    if (strlen(pattern) == 0 || strlen(pattern) > TOK_PATTERN_MAX)
        return at_fail(cx, AT_EINVAL, "training a tokenizer: the pattern has "
                       "%zu bytes; 1 to %d may be", strlen(pattern),
                       TOK_PATTERN_MAX);
    t.least = how->min_count > 1 ? (int64_t)how->min_count : 1;
    if ((rc = first_pieces(&t, how, &special, byte_id)) == AT_OK &&
        (rc = tok_words_count(cx, next, self, pattern, &special,
                              &words)) == AT_OK &&
        (rc = load_words(&t, &words, byte_id)) == AT_OK &&
        (rc = merge_all(&t, how->vocab_size)) == AT_OK)
        rc = finish(&t, a, how, pattern, tok);
    tok_words_finish(&words);
    trainer_finish(&t);
    return rc;
}
