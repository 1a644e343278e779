/* The different words of a corpus and how often each occurs.
 *
 * Texts are gathered into batches and cut into pieces; threads take pieces
 * and count into tables of their own, which are added up at the end.  Sums do
 * not depend on who counted what, so neither does the result.                */
#include "data/tok.h"

#include <errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
    BATCH = 8 << 20,            /* bytes of small texts counted together     */
    LARGE = 1 << 20,            /* a text this long is counted where it lies */
    PIECE = 128 << 10,          /* work given to a thread at once            */
    STRETCH = 4 << 20,          /* read from a file at once                  */
};

void tok_words_finish(struct tok_words *w)
{
    at_free(w->slot);
    at_free(w->bytes);
    *w = (struct tok_words){ 0 };
}

/* The slot of the word, or the free one where it belongs.                    */
static struct tok_word *seek(const struct tok_words *w, uint64_t hash,
                             const char *s, size_t n)
{
    size_t i = (size_t)hash & (w->cap - 1);
    for (;; i = (i + 1) & (w->cap - 1)) {
        struct tok_word *x = &w->slot[i];
        if (x->count == 0 || (x->hash == hash && x->n == n &&
                              memcmp(w->bytes + x->at, s, n) == 0))
            return x;
    }
}

static int widen(struct at_ctx *cx, struct tok_words *w)
{
    struct tok_words wider = { .bytes = w->bytes };
    int rc = at_grow(cx, &wider.slot, &wider.cap,
                     w->cap ? 2 * w->cap : (size_t)1 << 14,
                     sizeof *wider.slot);
    if (rc < 0)
        return rc;
    memset(wider.slot, 0, wider.cap * sizeof *wider.slot);
    for (size_t i = 0; i < w->cap; i++) {
        struct tok_word *x = &w->slot[i];
        if (x->count)
            *seek(&wider, x->hash, w->bytes + x->at, x->n) = *x;
    }
    at_free(w->slot);
    w->slot = wider.slot;
    w->cap = wider.cap;
    return AT_OK;
}

static int add(struct at_ctx *cx, struct tok_words *w, uint64_t hash,
               const char *s, size_t n, uint64_t count)
{
    struct tok_word *x;
    int rc;
    if (2 * w->n >= w->cap && (rc = widen(cx, w)) < 0)
        return rc;
    x = seek(w, hash, s, n);
    if (x->count == 0) {
        rc = at_grow(cx, &w->bytes, &w->cap_bytes, w->n_bytes + n, 1);
        if (rc < 0)
            return rc;
        memcpy(w->bytes + w->n_bytes, s, n);
        *x = (struct tok_word){ hash, 0, w->n_bytes, n };
        w->n_bytes += n;
        w->n++;
    }
    x->count += count;
    return AT_OK;
}

/* ---- threads -------------------------------------------------------------------- */

struct counter {
    struct at_ctx own, *cx;     /* the first counter uses the caller's       */
    struct tok_regex *re;
    struct tok_words words;
    int rc;
};

struct piece { size_t from, to; };

struct count {
    struct at_ctx *cx;
    const struct tok_finder *special;
    bool cut;                   /* tok_cut is right for the pattern          */
    struct counter *counter;    /* [n_counter]                               */
    int n_counter;
    struct piece *piece;
    size_t n_piece, cap_piece;
    char *batch;
    size_t n_batch, cap_batch;
};

static int count_piece(struct counter *c, const char *s, size_t n)
{
    struct tok_walk w = { .s = s, .n = n };
    size_t start;
    int rc;
    while ((rc = tok_walk_next(c->cx, c->re, &w, &start)) > 0) {
        const char *word = s + start;
        size_t len = w.at - start;
        rc = add(c->cx, &c->words, at_hash(word, len).lo, word, len, 1);
        if (rc < 0)
            return rc;
    }
    return rc;
}

/* Counts and forgets all pieces of `text`.                                   */
static int count_pieces(struct count *k, const char *text)
{
#pragma omp parallel for num_threads(k->n_counter) schedule(dynamic)
    for (size_t i = 0; i < k->n_piece; i++) {
        struct counter *c = &k->counter[omp_get_thread_num()];
        if (c->rc == AT_OK)
            c->rc = count_piece(c, text + k->piece[i].from,
                                k->piece[i].to - k->piece[i].from);
    }
    k->n_piece = 0;
    for (int t = 0; t < k->n_counter; t++)
        if (k->counter[t].rc < 0) {
            k->cx->err = k->counter[t].cx->err;
            return k->counter[t].rc;
        }
    return AT_OK;
}

/* text[from..to), which lies `base` bytes into what will be counted, becomes
 * pieces.                                                                    */
static int cut_pieces(struct count *k, const char *text, size_t from,
                      size_t to, size_t base)
{
    while (from < to) {
        size_t n = 0;
        int rc = at_grow(k->cx, &k->piece, &k->cap_piece, k->n_piece + 1,
                         sizeof *k->piece);
        if (rc < 0)
            return rc;
        if (k->cut && to - from > PIECE)
            n = tok_cut(text + from, PIECE, false);
        if (n == 0)
            n = to - from;
        k->piece[k->n_piece++] = (struct piece){ base + from,
                                                 base + from + n };
        from += n;
    }
    return AT_OK;
}

static int take_text(struct count *k, const char *text, size_t n)
{
    bool large = n >= LARGE;
    size_t at = 0, where, base = large ? 0 : k->n_batch;
    uint32_t which;
    int rc = AT_OK;
    if (large || k->n_batch >= BATCH) {
        rc = count_pieces(k, k->batch);
        k->n_batch = base = 0;
    }
    while (rc == AT_OK && tok_finder_next(k->special, text, n, at, &where,
                                          &which)) {
        rc = cut_pieces(k, text, at, where, base);
        at = where + k->special->table.str[which].n;
    }
    if (rc == AT_OK)
        rc = cut_pieces(k, text, at, n, base);
    if (rc < 0)
        return rc;
    if (large)
        return count_pieces(k, text);
    rc = at_grow(k->cx, &k->batch, &k->cap_batch, k->n_batch + n, 1);
    if (rc == AT_OK && n) {
        memcpy(k->batch + k->n_batch, text, n);
        k->n_batch += n;
    }
    return rc;
}

static int count_all(struct count *k, at_tok_next_fn *next, void *self)
{
    const char *text;
    size_t n;
    int rc;
    for (;;) {
        text = NULL;
        n = 0;
        rc = next(k->cx, self, &text, &n);
        if (rc < 0)
            return rc;
        if (!text)
            return count_pieces(k, k->batch);
        rc = take_text(k, text, n);
        if (rc < 0)
            return rc;
    }
}

static int start(struct count *k, const char *pattern, int n)
{
    size_t cap = 0;
    int rc = at_grow(k->cx, &k->counter, &cap, (size_t)n, sizeof *k->counter);
    if (rc < 0)
        return rc;
    memset(k->counter, 0, (size_t)n * sizeof *k->counter);
    for (; k->n_counter < n; k->n_counter++) {
        struct counter *c = &k->counter[k->n_counter];
        c->cx = k->n_counter ? &c->own : k->cx;
        if ((rc = tok_regex_create(k->cx, pattern, true, &c->re)) < 0)
            return rc;
    }
    return AT_OK;
}

static int add_up(struct count *k, struct tok_words *w)
{
    *w = k->counter[0].words;
    k->counter[0].words = (struct tok_words){ 0 };
    for (int t = 1; t < k->n_counter; t++) {
        const struct tok_words *more = &k->counter[t].words;
        for (size_t i = 0; i < more->cap; i++) {
            const struct tok_word *x = &more->slot[i];
            int rc = AT_OK;
            if (x->count)
                rc = add(k->cx, w, x->hash, more->bytes + x->at, x->n,
                         x->count);
            if (rc < 0)
                return rc;
        }
    }
    return AT_OK;
}

int tok_words_count(struct at_ctx *cx, at_tok_next_fn *next, void *self,
                    const char *pattern, const struct tok_finder *special,
                    struct tok_words *w)
{
    struct count k = { .cx = cx, .special = special,
                       .cut = strcmp(pattern, at_tok_gpt2_pattern) == 0 };
    int n = cx->n_threads > 0 ? cx->n_threads : at_threads_default();
    int rc = start(&k, pattern, n);
    if (rc == AT_OK)
        rc = count_all(&k, next, self);
    if (rc == AT_OK)
        rc = add_up(&k, w);
    for (int t = 0; t < k.n_counter; t++) {
        tok_regex_destroy(k.counter[t].re);
        tok_words_finish(&k.counter[t].words);
        at_ctx_finish(&k.counter[t].own);
    }
    at_free(k.counter);
    at_free(k.piece);
    at_free(k.batch);
    return rc;
}

/* ---- files ------------------------------------------------------------------------ */

static int open_next(struct at_ctx *cx, struct at_tok_files *s)
{
    const char *path = s->paths[s->file++];
    s->f = fopen(path, "rbe");
    if (!s->f)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    s->carry = s->have = 0;
    return AT_OK;
}

/* buf[carry..have) has been read and not given.                              */
static int fill(struct at_ctx *cx, struct at_tok_files *s)
{
    size_t n;
    int rc;
    rc = at_grow(cx, &s->buf, &s->cap, s->have + STRETCH, 1);
    if (rc < 0)
        return rc;
    s->have -= s->carry;
    memmove(s->buf, s->buf + s->carry, s->have);
    s->carry = 0;
    n = fread(s->buf + s->have, 1, STRETCH, s->f);
    if (ferror(s->f))
        return at_fail_errno(cx, errno, "%s: cannot be read",
                             s->paths[s->file - 1]);
    s->have += n;
    s->n_bytes += n;
    return AT_OK;
}

int at_tok_files_next(struct at_ctx *cx, void *self, const char **text,
                      size_t *n)
{
    struct at_tok_files *s = self;
    int rc;
    for (;;) {
        size_t cut;
        if (!s->f) {
            if (s->file == s->n) {
                *text = NULL;
                return AT_OK;
            }
            if ((rc = open_next(cx, s)) < 0)
                return rc;
        }
        if ((rc = fill(cx, s)) < 0)
            return rc;
        cut = tok_cut(s->buf, s->have, true);
        if (feof(s->f)) {
            fclose(s->f);
            s->f = NULL;
            cut = s->have;
        }
        if (cut == 0)
            continue;           /* no place to cut yet: read on              */
        *text = s->buf;
        *n = s->carry = cut;
        return AT_OK;
    }
}

void at_tok_files_finish(struct at_tok_files *s)
{
    if (s->f)
        fclose(s->f);
    at_free(s->buf);
    s->f = NULL;
    s->buf = NULL;
    s->cap = s->carry = s->have = 0;
}
