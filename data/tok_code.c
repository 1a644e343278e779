/* Encoding and decoding.
 *
 * A word is turned into symbols, and the pair with the least rank is merged,
 * the leftmost of equals, until no pair has one.  The symbols are a list in
 * an array; a heap holds (rank, place) of the pairs.  A heap entry is stale
 * when the symbol at its place has another rank by now.
 *
 * Short words are kept in a cache of two-line sets: no memory is taken, the
 * less recently found line of a set gives way.                               */
#include "data/tok.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

enum { KEY_MAX = 30, IDS_MAX = 8, SETS = 1 << 14 };

struct line {
    uint8_t n_key, n_id;            /* n_key 0: empty                        */
    char key[KEY_MAX];
    int32_t id[IDS_MAX];
};
_Static_assert(sizeof(struct line) == 64, "a line is a cache line");

struct at_tok_coder {
    const struct at_tok *tok;
    struct tok_regex *re;           /* NULL: the kind has no pattern         */
    struct line (*cache)[2];        /* [SETS]                                */
    size_t cache_bytes;
    struct tok_symbol *y;
    uint64_t *heap;                 /* rank << 32 | place, least first       */
    char *first;                    /* the first word behind a dummy space   */
    size_t cap_y, cap_heap, cap_first, n_heap;
    struct tok_normal normal;       /* of kinds that rewrite text            */
    double *room;                   /* of kinds that take words apart        */
    size_t cap_room;
};

int at_tok_coder_create(struct at_ctx *cx, const struct at_tok *tok,
                        struct at_tok_coder **coder)
{
    struct at_tok_coder *c = NULL;
    size_t one = 0, sets = 0;
    int rc = at_grow(cx, &c, &one, 1, sizeof *c);
    if (rc < 0)
        return rc;
    *c = (struct at_tok_coder){ .tok = tok };
    rc = at_grow(cx, &c->cache, &sets, SETS, sizeof *c->cache);
    if (rc == AT_OK) {
        memset(c->cache, 0, SETS * sizeof *c->cache);
        if (tok->pattern)
            rc = tok_regex_create(cx, tok->pattern, true, &c->re);
    }
    if (rc < 0) {
        at_tok_coder_destroy(c);
        return rc;
    }
    *coder = c;
    return AT_OK;
}

void at_tok_coder_destroy(struct at_tok_coder *c)
{
    if (!c)
        return;
    tok_regex_destroy(c->re);
    at_free(c->cache);
    at_free(c->y);
    at_free(c->heap);
    at_free(c->first);
    at_free(c->normal.s);
    at_free(c->room);
    at_free(c->normal.place);
    at_free(c);
}

void at_tok_ids_finish(struct at_tok_ids *ids)
{
    at_free(ids->id);
    at_free(ids->start);
    *ids = (struct at_tok_ids){ 0 };
}

/* ---- merging ------------------------------------------------------------------- */

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    uint64_t v = heap[i];
    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        if (kid + 1 < n && heap[kid + 1] < heap[kid])
            kid++;
        if (heap[kid] >= v)
            break;
        heap[i] = heap[kid];
    }
    heap[i] = v;
}

static void push(struct at_tok_coder *c, uint64_t v)
{
    size_t i = c->n_heap++;
    while (i > 0 && c->heap[(i - 1) / 2] > v) {
        c->heap[i] = c->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    c->heap[i] = v;
}

static uint64_t pop(struct at_tok_coder *c)
{
    uint64_t least = c->heap[0];
    c->heap[0] = c->heap[--c->n_heap];
    sift_down(c->heap, c->n_heap, 0);
    return least;
}

/* Looks up the pair that begins at symbol i; true: it can be merged.         */
static bool look(struct at_tok_coder *c, uint32_t i)
{
    struct tok_symbol *y = &c->y[i];
    const struct tok_pair *p;
    y->rank = TOK_NEVER;
    if (y->next == UINT32_MAX)
        return false;
    p = tok_pair_find(c->tok, y->id, c->y[y->next].id);
    y->rank = p->rank;
    y->into = p->id;
    return y->rank != TOK_NEVER;
}

static uint64_t entry(const struct at_tok_coder *c, uint32_t i)
{
    return (uint64_t)c->y[i].rank << 32 | i;
}

static void merge_at(struct at_tok_coder *c, uint32_t i)
{
    struct tok_symbol *y = &c->y[i], *gone = &c->y[y->next];
    y->id = y->into;
    y->next = gone->next;
    gone->rank = TOK_NEVER;
    if (y->next != UINT32_MAX)
        c->y[y->next].prev = i;
    if (look(c, i))
        push(c, entry(c, i));
    if (y->prev != UINT32_MAX && look(c, y->prev))
        push(c, entry(c, y->prev));
}

static void chain(struct tok_symbol *y, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        y[i].prev = i ? i - 1 : UINT32_MAX;
        y[i].next = i + 1 < n ? i + 1 : UINT32_MAX;
    }
}

/* Merges c->y[0..n), whose ids are set; the list of what is left begins at 0.
 * The heap holds at most 2n entries: a merge pops one and pushes two.        */
static void merge(struct at_tok_coder *c, uint32_t n)
{
    c->n_heap = 0;
    chain(c->y, n);
    for (uint32_t i = 0; i < n; i++)
        if (look(c, i))
            c->heap[c->n_heap++] = entry(c, i);
    for (size_t i = c->n_heap / 2; i-- > 0;)
        sift_down(c->heap, c->n_heap, i);
    while (c->n_heap) {
        uint64_t e = pop(c);
        uint32_t i = (uint32_t)e;
        if (c->y[i].rank == e >> 32)
            merge_at(c, i);
    }
}

/* ---- words ---------------------------------------------------------------------- */

static int room(struct at_ctx *cx, struct at_tok_ids *ids, size_t more)
{
    int rc = at_grow(cx, &ids->id, &ids->cap_id, ids->n + more,
                     sizeof *ids->id);
    if (rc < 0)
        return rc;
    return at_grow(cx, &ids->start, &ids->cap_start, ids->n + more,
                   sizeof *ids->start);
}

/* One token whose bytes begin at text byte `at`, which is -1 for those that
 * begin with the dummy space.                                                */
static void append(struct at_tok_ids *ids, int32_t id, int64_t at)
{
    ids->id[ids->n] = id;
    ids->start[ids->n++] = at < 0 ? 0 : (uint32_t)at;
}

static int append_word(struct at_ctx *cx, const struct at_tok *tok,
                       struct at_tok_ids *ids, const int32_t *id, size_t n,
                       int64_t at)
{
    int rc = room(cx, ids, n);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        append(ids, id[i], at);
        at += (int64_t)tok->piece[id[i]].n - (i == 0 && tok->kind->word);
    }
    return AT_OK;
}

/* The line that holds s, moved to the front of its set; or the line to fill. */
static struct line *cached(struct at_tok_coder *c, const char *s, size_t n)
{
    struct line *set = c->cache[at_hash(s, n).lo % SETS], other;
    if (set[0].n_key == n && memcmp(set[0].key, s, n) == 0)
        return &set[0];
    other = set[1];
    set[1] = set[0];
    set[0] = other;
    if (other.n_key != n || memcmp(other.key, s, n) != 0)
        set[0].n_key = 0;
    return &set[0];
}

static int encode_word(struct at_ctx *cx, struct at_tok_coder *c,
                       const char *s, size_t n, int64_t at,
                       struct at_tok_ids *ids)
{
    const struct at_tok *tok = c->tok;
    struct line *line = n <= KEY_MAX ? cached(c, s, n) : NULL;
    size_t n_y, first = ids->n, bytes = 0;
    int rc;
    if (line && line->n_key)
        return append_word(cx, tok, ids, line->id, line->n_id, at);
    if (tok->kind->whole_words) {
        uint32_t id = tok_table_find(&tok->words, s, n);
        if (id != TOK_NEVER)
            return append_word(cx, tok, ids, &(int32_t){ (int32_t)id }, 1, at);
    }
    if ((rc = at_grow(cx, &c->y, &c->cap_y, n + 1, sizeof *c->y)) < 0 ||
        (rc = at_grow(cx, &c->heap, &c->cap_heap, 2 * n,
                      sizeof *c->heap)) < 0)
        return rc;
    if (tok->kind->room)
        rc = at_grow(cx, &c->room, &c->cap_room,
                     tok->kind->room(n) / sizeof *c->room + 1, sizeof *c->room);
    if (rc < 0)
        return rc;
    if (tok->kind->word) {
        n_y = tok->kind->word(tok, s, n, c->y, c->room);
        chain(c->y, (uint32_t)n_y);
        bytes = (size_t)-1;             /* the space of the first piece       */
    } else {
        n_y = tok->kind->symbols(tok, s, n, c->y);
        merge(c, (uint32_t)n_y);
    }
    rc = room(cx, ids, n_y);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i != UINT32_MAX; i = c->y[i].next) {
        append(ids, (int32_t)c->y[i].id, at + c->y[i].from);
        bytes += tok->piece[c->y[i].id].n;
    }
    /* A line tells places by the pieces' lengths: they must be the text's.    */
    if (line && ids->n - first <= IDS_MAX && bytes == n) {
        line->n_key = (uint8_t)n;
        line->n_id = (uint8_t)(ids->n - first);
        memcpy(line->key, s, n);
        memcpy(line->id, ids->id + first, line->n_id * sizeof *line->id);
    }
    return AT_OK;
}

/* ---- texts ----------------------------------------------------------------------- */

/* A first word, at text byte `at`, with a space before it.  The token that has
 * the space begins where the word does.                                      */
static int encode_first(struct at_ctx *cx, struct at_tok_coder *c,
                        const char *s, size_t n, size_t at,
                        struct at_tok_ids *ids)
{
    size_t first = ids->n;
    int rc = at_grow(cx, &c->first, &c->cap_first, n + 1, 1);
    if (rc < 0)
        return rc;
    c->first[0] = ' ';
    memcpy(c->first + 1, s, n);
    rc = encode_word(cx, c, c->first, n + 1, (int64_t)at - 1, ids);
    if (rc == AT_OK && ids->n > first)
        ids->start[first] = (uint32_t)at;
    return rc;
}

/* The same for kinds that rewrite text: places are the text's.               */
static int encode_rewritten(struct at_ctx *cx, struct at_tok_coder *c,
                            const char *text, size_t from, size_t to,
                            struct at_tok_ids *ids)
{
    size_t start, first = ids->n;
    struct tok_walk w = { 0 };
    int rc = c->tok->kind->normal(cx, c->tok, text + from, to - from,
                                  &c->normal);
    if (rc < 0)
        return rc;
    w.s = c->normal.s;
    w.n = c->normal.n;
    while ((rc = c->tok->kind->walk(cx, c->tok, c->re, &w, &start)) > 0) {
        rc = encode_word(cx, c, w.s + start, w.at - start, (int64_t)start, ids);
        if (rc < 0)
            return rc;
    }
    for (size_t i = first; i < ids->n; i++)
        ids->start[i] = (uint32_t)from + c->normal.place[ids->start[i]];
    return rc;
}

/* text[from..to) without special tokens.                                     */
static int encode_part(struct at_ctx *cx, struct at_tok_coder *c,
                       const char *text, size_t from, size_t to, bool dummy,
                       struct at_tok_ids *ids)
{
    struct tok_walk w = { .s = text + from, .n = to - from };
    size_t start;
    int rc;
    if (c->tok->kind->normal)
        return encode_rewritten(cx, c, text, from, to, ids);
    while ((rc = c->tok->kind->walk(cx, c->tok, c->re, &w, &start)) > 0) {
        if (dummy)
            rc = encode_first(cx, c, w.s + start, w.at - start, from + start,
                              ids);
        else
            rc = encode_word(cx, c, w.s + start, w.at - start,
                             (int64_t)(from + start), ids);
        dummy = false;
        if (rc < 0)
            return rc;
    }
    return rc;
}

/* Whether a space is put before what begins at text[at].                      */
static bool needs_space(enum tok_dummy put, const char *text, size_t n,
                        size_t at)
{
    bool marked = n >= TOK_MARK_BYTES &&
                  memcmp(text, TOK_MARK, TOK_MARK_BYTES) == 0;
    if (put == TOK_DUMMY_FIRST)
        return at == 0 && n > 0 && text[0] != ' ' && !marked;
    return put == TOK_DUMMY_EACH || (put == TOK_DUMMY_BEGIN && at == 0);
}

struct own { const struct at_tok_span *span; size_t n; };

/* Whether text[from..to) lies in one of the spans; NULL: all text does.        */
static bool is_own(const struct own *own, size_t from, size_t to)
{
    size_t lo = 0, hi = own ? own->n : 0;
    while (lo < hi) {               /* the last span that begins by `from`     */
        size_t mid = lo + (hi - lo) / 2;
        if (own->span[mid].from <= from)
            lo = mid + 1;
        else
            hi = mid;
    }
    return !own || (lo > 0 && to <= own->span[lo - 1].to);
}

/* Where white space ends that the special token at `where` takes along.      */
static size_t before(unsigned char type, const char *text, size_t from,
                     size_t where)
{
    uint32_t c;
    if (type != TOK_SPECIAL_LEFT && type != TOK_SPECIAL_BOTH)
        return where;
    for (size_t at = where; at > from;) {
        while (--at > from && ((unsigned char)text[at] & 0xC0) == 0x80)
            ;
        if (at + at_utf8(text + at, where - at, &c) != where || !tok_white(c))
            break;
        where = at;
    }
    return where;
}

static size_t behind(unsigned char type, const char *text, size_t at, size_t n)
{
    uint32_t c;
    size_t len;
    if (type != TOK_SPECIAL_RIGHT && type != TOK_SPECIAL_BOTH)
        return at;
    while (at < n && (len = at_utf8(text + at, n - at, &c)) && tok_white(c))
        at += len;
    return at;
}

static int encode_text(struct at_ctx *cx, struct at_tok_coder *c,
                       const char *text, size_t n, unsigned flags,
                       const struct own *own, struct at_tok_ids *ids)
{
    enum tok_dummy put = flags & AT_TOK_CONTINUE ? TOK_DUMMY_NONE
                                                 : c->tok->kind->dummy;
    size_t at = 0, look = 0, where, from;
    uint32_t which;
    int rc;
    while ((flags & AT_TOK_SPECIAL) &&
           tok_finder_next(&c->tok->special, text, n, look, &where, &which)) {
        size_t end = where + c->tok->piece[which].n;
        look = where + 1;
        if (!is_own(own, where, end))
            continue;
        from = before(c->tok->type[which], text, at, where);
        if ((rc = encode_part(cx, c, text, at, from,
                              needs_space(put, text, n, at), ids)) < 0 ||
            (rc = room(cx, ids, 1)) < 0)
            return rc;
        append(ids, (int32_t)which, (int64_t)from);
        at = look = behind(c->tok->type[which], text, end, n);
    }
    return encode_part(cx, c, text, at, n, needs_space(put, text, n, at), ids);
}

static int add_end(struct at_ctx *cx, const struct at_tok *tok, int32_t id,
                   const char *name, size_t at, struct at_tok_ids *ids)
{
    int rc;
    if (id == AT_TOK_NONE)
        return at_fail(cx, AT_EINVAL, "the tokenizer (%s) has no %s token",
                       tok->kind->name, name);
    rc = room(cx, ids, 1);
    if (rc == AT_OK)
        append(ids, id, (int64_t)at);
    return rc;
}

int at_tok_normal(struct at_ctx *cx, struct at_arena *a,
                  const struct at_tok *tok, const char *s, size_t n,
                  const char **made, size_t *n_made)
{
    utf8proc_uint8_t *y = NULL;
    utf8proc_ssize_t len;
    size_t ascii = 0;
    *made = s;
    *n_made = n;
    while (tok->kind->nfc && ascii < n && (unsigned char)s[ascii] < 0x80)
        ascii++;
    if (!tok->kind->nfc || ascii == n)
        return AT_OK;
    len = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &y,
                       UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (len == UTF8PROC_ERROR_NOMEM)
        return at_fail(cx, AT_ENOMEM, "no memory to compose a text");
    if (len >= 0 && ((size_t)len != n || memcmp(y, s, n) != 0)) {
        *made = at_strndup(cx, a, (const char *)y, (size_t)len);
        *n_made = (size_t)len;
    }
    free(y);
    return *made ? AT_OK : AT_ENOMEM;
}

static int encode_all(struct at_ctx *cx, struct at_tok_coder *c,
                      const char *text, size_t n, unsigned flags,
                      const struct own *own, struct at_tok_ids *ids)
{
    const struct at_tok *tok = c->tok;
    size_t before = ids->n;
    struct at_arena composed = { 0 };
    int rc = AT_OK;
    if (n >= UINT32_MAX)
        return at_fail(cx, AT_EINVAL, "a text of %zu bytes is too long to "
                       "encode at once; cut it", n);
    if (flags & AT_TOK_BOS)
        rc = add_end(cx, tok, tok->bos, "bos", 0, ids);
    if (rc == AT_OK && !own)        /* parts of a whole were composed before   */
        rc = at_tok_normal(cx, &composed, tok, text, n, &text, &n);
    if (rc == AT_OK)
        rc = encode_text(cx, c, text, n, flags, own, ids);
    at_arena_finish(&composed);
    if (rc == AT_OK && (flags & AT_TOK_EOS))
        rc = add_end(cx, tok, tok->eos, "eos", n, ids);
    if (rc < 0)
        ids->n = before;
    return rc;
}

int at_tok_encode(struct at_ctx *cx, struct at_tok_coder *c, const char *text,
                  size_t n, unsigned flags, struct at_tok_ids *ids)
{
    return encode_all(cx, c, text, n, flags, NULL, ids);
}

int at_tok_encode_own(struct at_ctx *cx, struct at_tok_coder *c,
                      const char *text, size_t n, unsigned flags,
                      const struct at_tok_span *own, size_t n_own,
                      struct at_tok_ids *ids)
{
    struct own spans = { own, n_own };
    return encode_all(cx, c, text, n, flags | AT_TOK_SPECIAL, &spans, ids);
}

/* ---- decoding --------------------------------------------------------------------- */

/* Words that WordPiece's decoder writes without the space before them.       */
static bool leans(const char *s, size_t n)
{
    static const char *const to[] = { " .", " ?", " !", " ,", " n't", " 'm",
                                      " 's", " 've", " 're" };
    for (size_t i = 0; i < AT_COUNT(to); i++)
        if (n == strlen(to[i]) && memcmp(s, to[i], n) == 0)
            return true;
    return false;
}

/* What token id adds, at the beginning of a text or later.                   */
static const char *adds(const struct at_tok *tok, bool beginning, int32_t id,
                        size_t *n)
{
    const char *s = at_tok_piece(tok, id, n);
    bool word = tok->kind->word != NULL;
    if (s && s[0] == ' ' && !tok_special(tok->type[id]) &&
        ((beginning && (tok->kind->dummy || word)) ||
         (tok->kind->cleans && leans(s, *n)))) {
        s++;
        --*n;
    }
    return s;
}

const char *at_tok_step(const struct at_tok *tok, int32_t prev, int32_t id,
                        size_t *n)
{
    return adds(tok, prev == AT_TOK_NONE || prev == tok->bos, id, n);
}

int at_tok_decode(struct at_ctx *cx, struct at_arena *a,
                  const struct at_tok *tok, const int32_t *ids, size_t n,
                  bool skip_special, char **text, size_t *n_text)
{
    size_t total = 0, len;
    bool beginning = true;
    char *to, *p;
    for (size_t i = 0; i < n; i++) {
        if (!at_tok_piece(tok, ids[i], &len))
            return at_fail(cx, AT_EINVAL, "token %zu is %d; the tokenizer has "
                           "%zu tokens", i, ids[i], tok->n);
        total += len;
    }
    p = to = at_alloc(cx, a, total + 1);
    if (!to)
        return AT_ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const char *s = adds(tok, beginning, ids[i], &len);
        bool skip = skip_special && tok_special(tok->type[ids[i]]);
        beginning = beginning && (ids[i] == tok->bos ||
                                  (skip && tok->kind->word));
        if (skip)
            continue;
        memcpy(p, s, len);
        p += len;
    }
    *text = to;
    *n_text = (size_t)(p - to);
    return AT_OK;
}
