/* A tokenizer as one byte string, and the only door to a struct at_tok.
 * Little-endian:
 *
 *   0  "attuntok"              24  u32 kind        40  i32 bos
 *   8  u64 XXH3 of 16..end     28  u32 n           44  i32 eos
 *  16  u32 version             32  u32 n_merge     48  i32 pad
 *  20  u32 unk + 1             36  u32 n_pattern   52  u32 enum tok_trait
 *  56  u64 n_bytes of pieces
 *  64  u32 length of each piece   [n]
 *      f32 score of each piece    [n], if the kind has scores
 *      u32 left, right, into      [n_merge][3]
 *      u8  enum tok_type          [n]
 *      pattern                    [n_pattern]
 *      pieces                     [n_bytes]                                 */
#include "data/tok.h"

#include <limits.h>
#include <string.h>

enum { VERSION = 1, HEAD = 64, HASHED = 16 };

static const char magic[8] = { 'a', 't', 't', 'u', 'n', 't', 'o', 'k' };

static void put32(unsigned char **p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        *(*p)++ = (unsigned char)(v >> 8 * i);
}

static void put64(unsigned char **p, uint64_t v)
{
    put32(p, (uint32_t)v);
    put32(p, (uint32_t)(v >> 32));
}

static void put(unsigned char **p, const void *s, size_t n)
{
    if (n)
        memcpy(*p, s, n);
    *p += n;
}

static uint64_t get64(const unsigned char *p)
{
    return (uint64_t)tok_u32(p) | (uint64_t)tok_u32(p + 4) << 32;
}

static void write_body(const struct tok_draft *d, unsigned char *p)
{
    for (size_t i = 0; i < d->n; i++)
        put32(&p, (uint32_t)d->piece[i].n);
    for (size_t i = 0; d->kind->has_scores && i < d->n; i++) {
        uint32_t bits;
        memcpy(&bits, &d->score[i], sizeof bits);
        put32(&p, bits);
    }
    for (size_t i = 0; i < d->n_merge; i++) {
        put32(&p, d->merge[i].left);
        put32(&p, d->merge[i].right);
        put32(&p, d->merge[i].into);
    }
    put(&p, d->type, d->n);
    put(&p, d->pattern, d->pattern ? strlen(d->pattern) : 0);
    put(&p, d->map, d->n_map);
    for (size_t i = 0; i < d->n; i++)
        put(&p, d->piece[i].s, d->piece[i].n);
}

static unsigned char *write_blob(struct at_ctx *cx, struct at_arena *a,
                                 const struct tok_draft *d, size_t *n_blob)
{
    size_t n_pattern = (d->pattern ? strlen(d->pattern) : 0) + d->n_map;
    size_t n_bytes = 0;
    unsigned char *blob, *p;
    for (size_t i = 0; i < d->n; i++)
        n_bytes += d->piece[i].n;
    *n_blob = HEAD + d->n * (d->kind->has_scores ? 9 : 5) + 12 * d->n_merge +
              n_pattern + n_bytes;
    p = blob = at_alloc(cx, a, *n_blob);
    if (!blob)
        return NULL;
    put(&p, magic, sizeof magic);
    put64(&p, 0);                       /* the hash, below                   */
    put32(&p, VERSION);
    put32(&p, d->kind->unknown ? (uint32_t)(d->unk + 1) : 0);
    put32(&p, d->kind->code);
    put32(&p, (uint32_t)d->n);
    put32(&p, (uint32_t)d->n_merge);
    put32(&p, (uint32_t)n_pattern);
    put32(&p, (uint32_t)d->bos);
    put32(&p, (uint32_t)d->eos);
    put32(&p, (uint32_t)d->pad);
    put32(&p, d->traits);
    put64(&p, n_bytes);
    write_body(d, p);
    p = blob + sizeof magic;
    put64(&p, at_hash(blob + HASHED, *n_blob - HASHED).lo);
    return blob;
}

/* ---- reading ------------------------------------------------------------------ */

static int bad(struct at_ctx *cx, const char *what)
{
    return at_fail(cx, AT_EFORMAT, "tokenizer: %s: it is damaged or no "
                   "tokenizer of attune's", what);
}

struct head { size_t n_pattern; uint64_t n_bytes; };

static int read_head(struct at_ctx *cx, struct at_tok *t, struct head *h)
{
    const unsigned char *p = t->blob;
    uint64_t size;
    if (t->n_blob < HEAD || memcmp(p, magic, sizeof magic) != 0)
        return bad(cx, "it does not begin as one");
    if (tok_u32(p + 16) != VERSION)
        return at_fail(cx, AT_EFORMAT, "tokenizer: its version is %u, this "
                       "attune reads %d", tok_u32(p + 16), VERSION);
    if (at_hash(p + HASHED, t->n_blob - HASHED).lo != get64(p + 8))
        return bad(cx, "its checksum differs");
    t->kind = tok_kind_find(tok_u32(p + 24));
    if (!t->kind)
        return bad(cx, "its kind is unknown");
    t->n = tok_u32(p + 28);
    t->n_merge = tok_u32(p + 32);
    h->n_pattern = tok_u32(p + 36);
    t->bos = (int32_t)tok_u32(p + 40);
    t->eos = (int32_t)tok_u32(p + 44);
    t->pad = (int32_t)tok_u32(p + 48);
    h->n_bytes = get64(p + 56);
    t->unk = (int32_t)tok_u32(p + 20) - 1;
    t->traits = tok_u32(p + 52);
    if (t->traits >= TOK_TRAITS || (t->unk != AT_TOK_NONE && !t->kind->unknown))
        return bad(cx, "it has traits that are not those of its kind");
    if (t->n > TOK_VOCAB_MAX || t->n_merge > TOK_VOCAB_MAX ||
        h->n_pattern > (t->kind->has_map ? TOK_MAP_MAX : TOK_PATTERN_MAX) || h->n_bytes > t->n_blob)
        return bad(cx, "a size is out of range");
    size = HEAD + (uint64_t)t->n * (t->kind->has_scores ? 9 : 5) +
           UINT64_C(12) * t->n_merge + h->n_pattern + h->n_bytes;
    if (size != t->n_blob)
        return bad(cx, "its size is not what its parts need");
    if ((!t->kind->has_map && (h->n_pattern != 0) != t->kind->has_pattern) ||
        (t->n_merge && !t->kind->has_merges))
        return bad(cx, "its parts are not those of its kind");
    return AT_OK;
}

/* Points t at the parts of the blob and checks pieces and types.             */
static int read_body(struct at_ctx *cx, struct at_arena *a, struct at_tok *t,
                     const struct head *h)
{
    const unsigned char *len = t->blob + HEAD, *p = len + 4 * t->n;
    uint64_t used = 0;
    char *pattern;
    if (t->kind->has_scores) {
        t->score = p;
        p += 4 * t->n;
    }
    t->merge = p;
    p += 12 * t->n_merge;
    t->type = p;
    p += t->n;
    if (t->kind->has_pattern) {
        pattern = at_strndup(cx, a, (const char *)p, h->n_pattern);
        if (!pattern)
            return AT_ENOMEM;
        if (strlen(pattern) != h->n_pattern)
            return bad(cx, "its pattern holds a zero byte");
        t->pattern = pattern;
    }
    if (t->kind->has_map) {
        t->map = p;
        t->n_map = h->n_pattern;
    }
    p += h->n_pattern;
    t->piece = at_alloc_n(cx, a, t->n, sizeof *t->piece);
    if (!t->piece)
        return AT_ENOMEM;
    for (size_t i = 0; i < t->n; i++) {
        size_t n = tok_u32(len + 4 * i);
        if (n > h->n_bytes - used || n == 0 || n > TOK_PIECE_MAX)
            return bad(cx, "a piece has an impossible length");
        if (t->type[i] >= TOK_TYPES || (t->type[i] == TOK_BYTE && n != 1))
            return bad(cx, "a token has an impossible type");
        t->piece[i] = (struct tok_str){ (const char *)p + used, n };
        used += n;
    }
    if (used != h->n_bytes)
        return bad(cx, "its pieces are fewer bytes than it says");
    return AT_OK;
}

static bool is_special(const struct at_tok *t, int32_t id)
{
    return id == AT_TOK_NONE || (id >= 0 && (size_t)id < t->n &&
                                 tok_special(t->type[id]));
}

/* Byte tokens, the table of normal pieces and the special tokens.            */
static int index_pieces(struct at_ctx *cx, struct at_arena *a,
                        struct at_tok *t)
{
    bool *want = at_alloc_n(cx, a, t->n, sizeof *want);
    if (!want || tok_table_init(cx, a, &t->words, t->piece, t->n) < 0)
        return AT_ENOMEM;
    for (int b = 0; b < 256; b++)
        t->byte_id[b] = AT_TOK_NONE;
    for (size_t i = 0; i < t->n; i++) {
        want[i] = tok_special(t->type[i]);
        if (t->type[i] == TOK_BYTE) {
            int32_t *id = &t->byte_id[(unsigned char)t->piece[i].s[0]];
            if (*id != AT_TOK_NONE)
                return bad(cx, "two tokens are the same byte");
            *id = (int32_t)i;
        }
        if (t->type[i] == TOK_NORMAL)
            tok_table_add(&t->words, (uint32_t)i);
    }
    for (int b = 0; b < 256 && !t->kind->unknown; b++)
        if (t->byte_id[b] == AT_TOK_NONE)
            return at_fail(cx, AT_EFORMAT, "tokenizer: no token is the byte "
                           "0x%02X; it could not encode every text", b);
    if (!is_special(t, t->bos) || !is_special(t, t->eos) ||
        !is_special(t, t->pad) || !is_special(t, t->unk))
        return bad(cx, "bos, eos, pad or unk is no special token");
    return tok_finder_init(cx, a, &t->special, t->piece, want, t->n);
}

/* `blob` lives in a.                                                         */
static int open_blob(struct at_ctx *cx, struct at_arena *a,
                     const unsigned char *blob, size_t n, struct at_tok **tok)
{
    struct at_tok *t = at_alloc(cx, a, sizeof *t);
    struct head h = { 0 };
    int rc;
    if (!t)
        return AT_ENOMEM;
    t->blob = blob;
    t->n_blob = n;
    t->hash = at_hash(blob, n);
    if ((rc = read_head(cx, t, &h)) < 0 ||
        (rc = read_body(cx, a, t, &h)) < 0 ||
        (rc = index_pieces(cx, a, t)) < 0 ||
        (rc = t->kind->open(cx, a, t)) < 0)
        return rc;
    *tok = t;
    return AT_OK;
}

int tok_draft_open(struct at_ctx *cx, struct at_arena *a,
                   const struct tok_draft *d, struct at_tok **tok)
{
    size_t n;
    unsigned char *blob = write_blob(cx, a, d, &n);
    return blob ? open_blob(cx, a, blob, n, tok) : AT_ENOMEM;
}

int at_tok_load(struct at_ctx *cx, struct at_arena *a, const void *blob,
                size_t n, struct at_tok **tok)
{
    unsigned char *copy = at_alloc(cx, a, n);
    if (!copy)
        return AT_ENOMEM;
    if (n)
        memcpy(copy, blob, n);
    return open_blob(cx, a, copy, n, tok);
}

bool at_tok_ends(const struct at_tok *tok)
{
    return tok->eos != AT_TOK_NONE && (tok->traits & TOK_ENDS);
}

const void *at_tok_save(const struct at_tok *tok, size_t *n)
{
    *n = tok->n_blob;
    return tok->blob;
}

struct at_hash at_tok_hash(const struct at_tok *tok)
{
    return tok->hash;
}

/* ---- pairs ---------------------------------------------------------------------- */

int tok_pairs_init(struct at_ctx *cx, struct at_arena *a, struct at_tok *t,
                   size_t n)
{
    size_t cap = 16;
    while (cap < 2 * n)
        cap *= 2;
    t->pair = at_alloc_n(cx, a, cap, sizeof *t->pair);
    if (!t->pair)
        return AT_ENOMEM;
    t->pair_mask = cap - 1;
    for (size_t i = 0; i < cap; i++)
        t->pair[i].rank = TOK_NEVER;
    return AT_OK;
}

void tok_pair_add(struct at_tok *t, struct tok_pair p)
{
    size_t i = (size_t)(tok_pair_find(t, p.left, p.right) - t->pair);
    if (p.rank < t->pair[i].rank)
        t->pair[i] = p;
}

/* ---- asking ---------------------------------------------------------------------- */

const char *at_tok_kind(const struct at_tok *tok)
{
    return tok->kind->name;
}

size_t at_tok_size(const struct at_tok *tok)
{
    return tok->n;
}

int32_t at_tok_bos(const struct at_tok *tok)
{
    return tok->bos;
}

int32_t at_tok_eos(const struct at_tok *tok)
{
    return tok->eos;
}

int32_t at_tok_pad(const struct at_tok *tok)
{
    return tok->pad;
}

int32_t at_tok_special(const struct at_tok *tok, const char *text)
{
    uint32_t id = tok_table_find(&tok->special.table, text, strlen(text));
    return id == TOK_NEVER ? AT_TOK_NONE : (int32_t)id;
}

bool at_tok_is_special(const struct at_tok *tok, int32_t id)
{
    return id >= 0 && (size_t)id < tok->n && tok_special(tok->type[id]);
}

const char *at_tok_piece(const struct at_tok *tok, int32_t id, size_t *n)
{
    if (id < 0 || (size_t)id >= tok->n) {
        *n = 0;
        return NULL;
    }
    *n = tok->piece[id].n;
    return tok->piece[id].s;
}
