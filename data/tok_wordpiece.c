/* BERT's WordPiece: text is simplified (a normalizer with four switches), cut at
 * white space and punctuation, and every word taken apart from its beginning,
 * the longest piece first.  Pieces that begin a word are kept with a space
 * before them, those that go on without.                                     */
#include "data/tok.h"

#include <string.h>

#include <utf8proc.h>

enum { WORD_MAX = 100 };    /* characters; longer words are unknown           */

bool tok_white(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* The library whose ids these are knows Unicode as of version 8: control
 * characters, punctuation and marks that came later are letters to it, and
 * three characters have since changed.                                       */
static const uint32_t later[][2] = {
    { 0x61D, 0x61D }, { 0x7FD, 0x7FD }, { 0x890, 0x8E2 }, { 0x9FD, 0x9FE },
    { 0xA76, 0xA76 }, { 0xAFA, 0xAFF }, { 0xB55, 0xB55 }, { 0xC04, 0xC3C },
    { 0xC77, 0xC77 }, { 0xC84, 0xC84 }, { 0xD00, 0xD00 }, { 0xD3B, 0xD3C },
    { 0xD81, 0xD81 }, { 0xEBA, 0xEBA }, { 0xECE, 0xECE }, { 0x180F, 0x1886 },
    { 0x1ABF, 0x1ACE }, { 0x1B7D, 0x1B7E }, { 0x1DF6, 0x1DFB },
    { 0x2E43, 0x2E5D }, { 0xA82C, 0xA82C }, { 0xA8C5, 0xA8C5 },
    { 0xA8FF, 0xA8FF }, { 0xA9BD, 0xA9BD }, { 0x10D24, 0x10F89 },
    { 0x11070, 0x11074 }, { 0x110C2, 0x110CD }, { 0x111C9, 0x111C9 },
    { 0x111CF, 0x111CF }, { 0x1123E, 0x11241 }, { 0x1133B, 0x1133B },
    { 0x11438, 0x1145E }, { 0x11660, 0x1166C }, { 0x116B9, 0x116B9 },
    { 0x1182F, 0x11FFF }, { 0x12FF1, 0x12FF2 }, { 0x13430, 0x13455 },
    { 0x16E97, 0x16F4F }, { 0x16FE2, 0x16FE4 }, { 0x1CF00, 0x1CF46 },
    { 0x1E000, 0x1E4EF }, { 0x1E944, 0x1E95F },
};

static utf8proc_category_t category(uint32_t c)
{
    size_t lo = 0, hi = AT_COUNT(later);
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (later[mid][1] < c)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (c == 0x166D || c == 0x111C9)
        return UTF8PROC_CATEGORY_PO;
    if (c == 0x1734)
        return UTF8PROC_CATEGORY_MN;
    if (lo < AT_COUNT(later) && later[lo][0] <= c)
        return UTF8PROC_CATEGORY_LO;
    return utf8proc_category((utf8proc_int32_t)c);
}

static bool is_control(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return c != '\t' && c != '\n' && c != '\r' &&
           (k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF ||
            k == UTF8PROC_CATEGORY_CS || k == UTF8PROC_CATEGORY_CO);
}

static bool is_punctuation(uint32_t c)
{
    utf8proc_category_t k;
    if (c < 128)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) ||
               (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    k = category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

/* Blocks of Chinese characters, as BERT lists them.                          */
static bool is_chinese(uint32_t c)
{
    static const uint32_t block[][2] = {
        { 0x4E00, 0x9FFF }, { 0x3400, 0x4DBF }, { 0x20000, 0x2A6DF },
        { 0x2A700, 0x2B73F }, { 0x2B740, 0x2B81F }, { 0x2B920, 0x2CEAF },
        { 0xF900, 0xFAFF }, { 0x2F800, 0x2FA1F },
    };
    for (size_t i = 0; i < AT_COUNT(block); i++)
        if (c >= block[i][0] && c <= block[i][1])
            return true;
    return false;
}

/* ---- the normalizer ------------------------------------------------------------- */

struct mark { uint32_t c, place; int order; };

struct simpler {
    const struct at_tok *tok;
    struct tok_normal *y;
    struct mark wait[30];       /* marks behind a base, by combining class    */
    size_t n_wait;
};

static void emit(struct simpler *s, uint32_t c, uint32_t place)
{
    utf8proc_uint8_t u[4];
    utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)c, u);
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        s->y->s[s->y->n] = (char)u[i];
        s->y->place[s->y->n++] = place;
    }
}

/* Of all characters only U+0130 becomes two.                                 */
static void lower(struct simpler *s, uint32_t c, uint32_t place)
{
    if (!(s->tok->traits & TOK_LOWER)) {
        emit(s, c, place);
    } else if (c == 0x130) {
        emit(s, 'i', place);
        emit(s, 0x307, place);
    } else {
        emit(s, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c), place);
    }
}

static void flush(struct simpler *s)
{
    for (size_t i = 0; i < s->n_wait; i++)
        lower(s, s->wait[i].c, s->wait[i].place);
    s->n_wait = 0;
}

/* Taken apart, in canonical order, without marks that take no room.          */
static void bare(struct simpler *s, uint32_t c, uint32_t place)
{
    utf8proc_int32_t part[8];
    utf8proc_ssize_t n = 1;
    part[0] = (utf8proc_int32_t)c;
    if (c >= 128)
        n = utf8proc_decompose_char((utf8proc_int32_t)c, part, 8,
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
    for (utf8proc_ssize_t i = 0; i < n && i < 8; i++) {
        int order = utf8proc_get_property(part[i])->combining_class;
        size_t at;
        if (category((uint32_t)part[i]) == UTF8PROC_CATEGORY_MN)
            continue;
        if (order == 0 || s->n_wait == AT_COUNT(s->wait))
            flush(s);
        if (order == 0) {
            lower(s, (uint32_t)part[i], place);
            continue;
        }
        for (at = s->n_wait++; at > 0 && s->wait[at - 1].order > order; at--)
            s->wait[at] = s->wait[at - 1];
        s->wait[at] = (struct mark){ (uint32_t)part[i], place, order };
    }
}

static void accents(struct simpler *s, uint32_t c, uint32_t place)
{
    if (s->tok->traits & TOK_ACCENTS)
        bare(s, c, place);
    else
        lower(s, c, place);
}

static void simplify(struct simpler *s, uint32_t c, uint32_t place)
{
    bool apart = (s->tok->traits & TOK_CHINESE) && is_chinese(c);
    if (s->tok->traits & TOK_CLEAN) {
        if (c == 0 || c == 0xFFFD || is_control(c))
            return;
        if (tok_white(c))
            c = ' ';
    }
    if (apart)
        accents(s, ' ', place);
    accents(s, c, place);
    if (apart)
        accents(s, ' ', place);
}

/* A byte that is no UTF-8 reads as U+FFFD.  A byte of text makes at most six:
 * Chinese takes five of three, and what is taken apart less than thrice its
 * own.                                                                       */
static int wordpiece_normal(struct at_ctx *cx, const struct at_tok *tok,
                            const char *text, size_t n, struct tok_normal *y)
{
    struct simpler s = { .tok = tok, .y = y };
    int rc = at_grow(cx, &y->s, &y->cap_s, 6 * n + 32, 1);
    if (rc == AT_OK)
        rc = at_grow(cx, &y->place, &y->cap_place, 6 * n + 32,
                     sizeof *y->place);
    if (rc < 0)
        return rc;
    y->n = 0;
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c;
        len = at_utf8(text + i, n - i, &c);
        if (len == 0) {
            c = 0xFFFD;
            len = 1;
        }
        simplify(&s, c, (uint32_t)i);
    }
    flush(&s);
    y->place[y->n] = (uint32_t)n;
    return AT_OK;
}

/* ---- words ------------------------------------------------------------------------ */

static int wordpiece_walk(struct at_ctx *cx, const struct at_tok *tok,
                          struct tok_regex *re, struct tok_walk *w,
                          size_t *start)
{
    (void)cx, (void)tok, (void)re;
    *start = w->at;
    while (w->at < w->n) {
        uint32_t c;
        size_t len = at_utf8(w->s + w->at, w->n - w->at, &c);
        bool white = tok_white(c), apart = white || is_punctuation(c);
        if (apart && w->at > *start)
            return 1;
        w->at += len;
        if (apart && !white)
            return 1;
        if (white)
            *start = w->at;
    }
    return w->at > *start;
}

/* The longest piece that s[at..n) begins with, or TOK_NEVER.                 */
static uint32_t longest(const struct at_tok *tok, const char *s, size_t at,
                        size_t n, size_t *len)
{
    char key[4 * WORD_MAX + 1] = " ";
    size_t most = n - at, off = at == 0;
    memcpy(key + 1, s + at, most);
    if (most > tok->longest)
        most = tok->longest;
    for (*len = most; *len > 0; --*len) {
        uint32_t id = tok_table_find(&tok->words, key + 1 - off, *len + off);
        if (id != TOK_NEVER)
            return id;
    }
    return TOK_NEVER;
}

static size_t wordpiece_word(const struct at_tok *tok, const char *s, size_t n,
                             struct tok_symbol *y, void *room)
{
    size_t n_y = 0, chars = 0, len;
    (void)room;
    for (size_t i = 0; i < n; i++)
        chars += ((unsigned char)s[i] & 0xC0) != 0x80;
    for (size_t at = 0; at < n; at += len) {
        uint32_t id = chars > WORD_MAX ? TOK_NEVER
                                       : longest(tok, s, at, n, &len);
        if (id == TOK_NEVER) {
            y[0] = (struct tok_symbol){ .id = (uint32_t)tok->unk };
            return 1;
        }
        y[n_y].id = id;
        y[n_y++].from = (uint32_t)at;
    }
    return n_y;
}

static int wordpiece_open(struct at_ctx *cx, struct at_arena *a,
                          struct at_tok *t)
{
    (void)a;
    if (t->unk == AT_TOK_NONE)
        return at_fail(cx, AT_EFORMAT, "tokenizer: it has no token for unknown "
                       "words");
    for (size_t i = 0; i < t->n; i++)
        if (t->type[i] == TOK_NORMAL && t->piece[i].n > t->longest)
            t->longest = t->piece[i].n;
    return AT_OK;
}

const struct tok_kind tok_wordpiece = {
    .name = "wordpiece",
    .code = 8,
    .unknown = true,
    .cleans = true,
    .open = wordpiece_open,
    .walk = wordpiece_walk,
    .normal = wordpiece_normal,
    .word = wordpiece_word,
};
