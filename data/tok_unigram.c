/* SentencePiece's Unigram, as T5 and XLM-R have it: text is rewritten by a table
 * of the tokenizer's own, cut at white space, and every word, with a space
 * before it, becomes the pieces whose scores sum up highest (Viterbi).
 *
 * The table is SentencePiece's "precompiled charsmap": a double array of bytes
 * (little-endian units), whose leaves point into texts that end with 0.      */
#include "data/tok.h"

#include <math.h>
#include <string.h>

#include <utf8proc.h>

enum {
    CLUSTER = 6,            /* longer ones are rewritten character by character */
    LONGEST = 256,          /* bytes of a piece: they bound the work of a place */
};
static const double penalty = 10;   /* of a character without a piece          */

struct table { const unsigned char *unit, *text; size_t n_units, n_text; };

static bool open_table(const struct at_tok *t, struct table *m)
{
    const unsigned char *p = t->map;
    size_t n;
    if (t->n_map < 4)
        return false;
    n = tok_u32(p);
    if (n % 4 || n > t->n_map - 4 || n == 0)
        return false;
    *m = (struct table){ p + 4, p + 4 + n, n / 4, t->n_map - 4 - n };
    return true;
}

/* What s[0..n) is rewritten to, which is decided by its shortest beginning that
 * has an entry; NULL: as it is.                                              */
static const char *rewritten(const struct table *m, const char *s, size_t n,
                             size_t *len)
{
    size_t at = 0;
    uint32_t unit = tok_u32(m->unit);
    at ^= (unit >> 10) << ((unit & 1u << 9) >> 6);
    for (size_t i = 0; i < n && s[i]; i++) {
        uint32_t byte = (unsigned char)s[i], to;
        const unsigned char *end;
        at ^= byte;
        if (at >= m->n_units)
            return NULL;
        unit = tok_u32(m->unit + 4 * at);
        if ((unit & (1u << 31 | 0xFF)) != byte)
            return NULL;
        at ^= (unit >> 10) << ((unit & 1u << 9) >> 6);
        if (!(unit >> 8 & 1))
            continue;
        if (at >= m->n_units)
            return NULL;
        to = tok_u32(m->unit + 4 * at) & ~(1u << 31);
        end = to < m->n_text ? memchr(m->text + to, 0, m->n_text - to) : NULL;
        if (!end)
            return NULL;
        *len = (size_t)(end - m->text) - to;
        return (const char *)m->text + to;
    }
    return NULL;
}

static int push(struct at_ctx *cx, struct tok_normal *y, const char *s, size_t n,
                uint32_t place)
{
    int rc = at_grow(cx, &y->s, &y->cap_s, y->n + n + 1, 1);
    if (rc == AT_OK)
        rc = at_grow(cx, &y->place, &y->cap_place, y->n + n + 1,
                     sizeof *y->place);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        y->s[y->n] = s[i];
        y->place[y->n++] = place;
    }
    return rc;
}

/* One cluster, which stands at byte `place` of the text.                     */
static int put_cluster(struct at_ctx *cx, const struct table *m,
                       struct tok_normal *y, const char *s, size_t n,
                       uint32_t place)
{
    size_t len, n_new;
    const char *new = n < CLUSTER ? rewritten(m, s, n, &n_new) : NULL;
    int rc = AT_OK;
    if (new)
        return push(cx, y, new, n_new, place);
    for (size_t i = 0; i < n && rc == AT_OK; i += len) {
        uint32_t c;
        len = at_utf8(s + i, n - i, &c);
        len = len ? len : 1;
        new = rewritten(m, s + i, len, &n_new);
        rc = push(cx, y, new ? new : s + i, new ? n_new : len,
                  place + (uint32_t)i);
    }
    return rc;
}

static int unigram_normal(struct at_ctx *cx, const struct at_tok *t,
                          const char *s, size_t n, struct tok_normal *y)
{
    struct table m;
    bool mapped = open_table(t, &m);
    utf8proc_int32_t state = 0;
    uint32_t c, prev = 0;
    size_t from = 0;
    int rc = push(cx, y, "", 0, 0);
    y->n = 0;
    if (!mapped) {
        for (size_t i = 0; i < n && rc == AT_OK; i++)
            rc = push(cx, y, s + i, 1, (uint32_t)i);
    } else {
        for (size_t i = 0, len; i < n && rc == AT_OK; i += len) {
            len = at_utf8(s + i, n - i, &c);
            if (len == 0) {
                c = 0xFFFD;
                len = 1;
            }
            if (i > 0 && utf8proc_grapheme_break_stateful(
                             (utf8proc_int32_t)prev, (utf8proc_int32_t)c,
                             &state)) {
                rc = put_cluster(cx, &m, y, s + from, i - from,
                                 (uint32_t)from);
                from = i;
            }
            prev = c;
        }
        if (rc == AT_OK && n > from)
            rc = put_cluster(cx, &m, y, s + from, n - from, (uint32_t)from);
    }
    if (rc == AT_OK)
        y->place[y->n] = (uint32_t)n;
    return rc;
}

/* ---- words ------------------------------------------------------------------------ */

static bool at_mark(const struct tok_walk *w)
{
    return w->n - w->at >= TOK_MARK_BYTES &&
           memcmp(w->s + w->at, TOK_MARK, TOK_MARK_BYTES) == 0;
}

/* White space parts words; so does U+2581, which is the space before a word of
 * its own, an empty one too.                                                  */
static int unigram_walk(struct at_ctx *cx, const struct at_tok *tok,
                        struct tok_regex *re, struct tok_walk *w, size_t *start)
{
    bool marked = false;
    size_t len;
    uint32_t c;
    (void)cx, (void)tok, (void)re;
    while (w->at < w->n && (len = at_utf8(w->s + w->at, w->n - w->at, &c)) &&
           tok_white(c))
        w->at += len;
    if (w->at < w->n && at_mark(w)) {
        marked = true;
        w->at += TOK_MARK_BYTES;
    }
    *start = w->at;
    while (w->at < w->n && !at_mark(w)) {
        len = at_utf8(w->s + w->at, w->n - w->at, &c);
        if (len && tok_white(c))
            break;
        w->at += len ? len : 1;
    }
    return marked || w->at > *start;
}

static double score(const struct at_tok *t, uint32_t id)
{
    uint32_t bits = tok_u32(t->score + 4 * id);
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

/* The best way to each place of " word": by the piece `id` from `from`.       */
struct best { double sum; uint32_t id, from; };

static void reach(struct best *b, size_t to, double sum, uint32_t id,
                  size_t from)
{
    if (b[to].id == TOK_NEVER || sum > b[to].sum)
        b[to] = (struct best){ sum, id, (uint32_t)from };
}

static void viterbi(const struct at_tok *t, const char *key, size_t n,
                    struct best *b)
{
    for (size_t i = 0; i <= n; i++)
        b[i].id = TOK_NEVER;
    b[0].sum = 0;
    for (size_t at = 0, len; at < n; at += len) {
        uint32_t c;
        bool single = false;
        len = at_utf8(key + at, n - at, &c);
        len = len ? len : 1;
        for (size_t k = 1; k <= t->longest && k <= n - at; k++) {
            uint32_t id = tok_table_find(&t->words, key + at, k);
            if (id == TOK_NEVER)
                continue;
            reach(b, at + k, b[at].sum + score(t, id), id, at);
            single |= k == len;
        }
        if (!single)
            reach(b, at + len, b[at].sum + t->least - penalty,
                  (uint32_t)t->unk, at);
    }
}

/* Backwards from the end; unknown characters side by side are one token, or
 * their bytes.                                                                */
static size_t unigram_word(const struct at_tok *t, const char *s, size_t n,
                           struct tok_symbol *y, void *room)
{
    struct best *b = room;
    char *key = (char *)(b + n + 2);
    size_t len = n + 1, n_y = 0;
    bool known = true;
    key[0] = ' ';
    memcpy(key + 1, s, n);
    viterbi(t, key, len, b);
    for (size_t at = len; at > 0; at = b[at].from) {
        bool unk = b[at].id == (uint32_t)t->unk;
        if (unk && (t->traits & TOK_BYTES)) {
            for (size_t i = at; i-- > b[at].from; n_y++)
                y[n_y] = (struct tok_symbol){
                    .id = (uint32_t)t->byte_id[(unsigned char)key[i]],
                    .from = (uint32_t)(i ? i - 1 : 0) };
        } else if (unk && !known) {
            y[n_y - 1].from = b[at].from ? b[at].from - 1 : 0;
        } else {
            y[n_y++] = (struct tok_symbol){
                .id = b[at].id, .from = b[at].from ? b[at].from - 1 : 0 };
        }
        known = !unk;
    }
    for (size_t i = 0; i < n_y / 2; i++) {
        struct tok_symbol other = y[i];
        y[i] = y[n_y - 1 - i];
        y[n_y - 1 - i] = other;
    }
    return n_y;
}

static int unigram_open(struct at_ctx *cx, struct at_arena *a, struct at_tok *t)
{
    struct table m;
    (void)a;
    if (t->unk == AT_TOK_NONE)
        return at_fail(cx, AT_EFORMAT, "tokenizer: it has no token for unknown "
                       "characters");
    if (t->n_map && !open_table(t, &m))
        return at_fail(cx, AT_EFORMAT, "tokenizer: its table of characters is "
                       "damaged");
    for (size_t i = 0; i < t->n; i++) {
        double x = score(t, (uint32_t)i);
        if (!isfinite(x))
            return at_fail(cx, AT_EFORMAT, "tokenizer: the score of token %zu is "
                           "not finite", i);
        t->least = fmin(t->least, x);
        if (t->type[i] == TOK_NORMAL && t->piece[i].n > t->longest)
            t->longest = t->piece[i].n;
    }
    if (t->longest > LONGEST)
        return at_fail(cx, AT_EFORMAT, "tokenizer: a piece has %zu bytes; %d are "
                       "the most", t->longest, LONGEST);
    for (int b = 0; b < 256 && (t->traits & TOK_BYTES); b++)
        if (t->byte_id[b] == AT_TOK_NONE)
            return at_fail(cx, AT_EFORMAT, "tokenizer: no token is the byte "
                           "0x%02X", b);
    return AT_OK;
}

static size_t unigram_room(size_t n)
{
    return (n + 2) * (sizeof(struct best) + 1);
}

const struct tok_kind tok_unigram = {
    .name = "unigram",
    .code = 9,
    .has_scores = true,
    .has_map = true,
    .unknown = true,
    .open = unigram_open,
    .walk = unigram_walk,
    .normal = unigram_normal,
    .word = unigram_word,
    .room = unigram_room,
};
