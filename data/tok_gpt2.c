/* GPT-2's encoder.json and vocab.bpe: pieces spelled in a printable alphabet
 * of 256 characters, one for each byte.                                      */
#include "data/tok.h"

#include <jansson.h>
#include <string.h>

enum { FILE_MAX = 256 << 20 };

void tok_alphabet_init(struct tok_alphabet *al)
{
    unsigned char order[256];
    uint32_t point[256];
    tok_byte_order(order, point);
    for (size_t i = 0; i < TOK_POINTS; i++)
        al->byte[i] = -1;
    for (int b = 0; b < 256; b++)
        al->byte[point[b]] = (int16_t)b;
}

bool tok_spell(const struct tok_alphabet *al, const char *s, size_t n, char *y,
               size_t *n_y)
{
    *n_y = 0;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = at_utf8(s + i, n - i, &cp);
        if (len == 0 || cp >= TOK_POINTS || al->byte[cp] < 0)
            return false;
        y[(*n_y)++] = (char)al->byte[cp];
        i += len;
    }
    return true;
}

static int read_pieces(struct at_ctx *cx, struct at_arena *a, const char *path,
                       json_t *root, struct tok_draft *d)
{
    struct tok_alphabet al;
    const char *key;
    json_t *value;
    tok_alphabet_init(&al);
    d->n = json_object_size(root);
    d->piece = at_alloc_n(cx, a, d->n, sizeof *d->piece);
    d->type = at_alloc_n(cx, a, d->n, sizeof *d->type);
    if (!d->piece || !d->type)
        return AT_ENOMEM;
    json_object_foreach(root, key, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        size_t n = strlen(key), n_piece;
        char *y;
        if (id < 0 || (uint64_t)id >= d->n || d->piece[id].s)
            return at_fail(cx, AT_EFORMAT, "%s: '%.60s': the ids must be 0 to "
                           "%zu, each once", path, key, d->n - 1);
        y = at_alloc(cx, a, n);
        if (!y)
            return AT_ENOMEM;
        if (n == 0 || n > TOK_PIECE_MAX || !tok_spell(&al, key, n, y, &n_piece))
            return at_fail(cx, AT_EFORMAT, "%s: '%.60s' (id %d) is not spelled "
                           "in GPT-2's byte alphabet", path, key, (int)id);
        d->piece[id] = (struct tok_str){ y, n_piece };
        d->type[id] = n_piece == 1 ? TOK_BYTE : TOK_SPECIAL;
    }
    return AT_OK;
}

/* ---- vocab.bpe ---------------------------------------------------------------- */

struct reading {
    const char *path;
    size_t line;
    struct tok_alphabet al;
    struct tok_table table;
    struct tok_merge *merge;
};

static int merge_bad(struct at_ctx *cx, const struct reading *r)
{
    return at_fail(cx, AT_EFORMAT, "%s:%zu: a merge is two pieces of "
                   "encoder.json that make a third, with one space between",
                   r->path, r->line);
}

static int read_merge(struct at_ctx *cx, struct reading *r,
                      struct tok_draft *d, const char *s, size_t n)
{
    char both[TOK_PIECE_MAX];
    const char *space = memchr(s, ' ', n);
    size_t n_left, n_right;
    struct tok_merge m;
    if (!space || n > sizeof both ||
        !tok_spell(&r->al, s, (size_t)(space - s), both, &n_left) ||
        !tok_spell(&r->al, space + 1, n - (size_t)(space - s) - 1, both + n_left,
               &n_right))
        return merge_bad(cx, r);
    m.left = tok_table_find(&r->table, both, n_left);
    m.right = tok_table_find(&r->table, both + n_left, n_right);
    m.into = tok_table_find(&r->table, both, n_left + n_right);
    if (m.left == TOK_NEVER || m.right == TOK_NEVER || m.into == TOK_NEVER)
        return merge_bad(cx, r);
    if (d->type[m.into] == TOK_SPECIAL)
        d->type[m.into] = TOK_NORMAL;
    r->merge[d->n_merge++] = m;
    return AT_OK;
}

static int read_merges(struct at_ctx *cx, struct at_arena *a, const char *path,
                       struct tok_draft *d)
{
    struct reading r = { .path = path };
    char *file, *line, *end;
    size_t n, n_lines = 0;
    int rc = at_read_file(cx, a, path, FILE_MAX, &file, &n);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        n_lines += file[i] == '\n';
    tok_alphabet_init(&r.al);
    r.merge = at_alloc_n(cx, a, n_lines + 1, sizeof *r.merge);
    rc = tok_table_init(cx, a, &r.table, d->piece, d->n);
    if (!r.merge || rc < 0)
        return AT_ENOMEM;
    for (uint32_t i = 0; i < d->n; i++)
        tok_table_add(&r.table, i);
    for (line = file; line < file + n; line = end + 1) {
        size_t len;
        end = memchr(line, '\n', (size_t)(file + n - line));
        if (!end)
            end = file + n;
        len = (size_t)(end - line);
        r.line++;
        if (len == 0 || (r.line == 1 && len > 8 &&
                         memcmp(line, "#version", 8) == 0))
            continue;
        rc = read_merge(cx, &r, d, line, len);
        if (rc < 0)
            return rc;
    }
    d->merge = r.merge;
    return AT_OK;
}

/* ---- both ---------------------------------------------------------------------- */

static int read_root(struct at_ctx *cx, struct at_arena *a, const char *json,
                     json_t *root, const char *bpe, struct tok_draft *d)
{
    static const char end[] = "<|endoftext|>";
    int rc;
    if (!json_is_object(root) || json_object_size(root) == 0 ||
        json_object_size(root) > TOK_VOCAB_MAX)
        return at_fail(cx, AT_EFORMAT, "%s: it must hold one object with the "
                       "id of each piece", json);
    rc = read_pieces(cx, a, json, root, d);
    if (rc < 0)
        return rc;
    rc = read_merges(cx, a, bpe, d);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < d->n; i++)
        if (d->type[i] == TOK_SPECIAL && d->piece[i].n == sizeof end - 1 &&
            memcmp(d->piece[i].s, end, sizeof end - 1) == 0)
            d->bos = d->eos = (int32_t)i;
    return AT_OK;
}

static int read_draft(struct at_ctx *cx, struct at_arena *a,
                      const char *encoder_json, const char *vocab_bpe,
                      struct tok_draft *d)
{
    json_error_t why;
    json_t *root;
    char *file;
    size_t n;
    int rc = at_read_file(cx, a, encoder_json, FILE_MAX, &file, &n);
    if (rc < 0)
        return rc;
    root = json_loadb(file, n, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return at_fail(cx, AT_EFORMAT, "%s:%d:%d: %s", encoder_json, why.line,
                       why.column, why.text);
    rc = read_root(cx, a, encoder_json, root, vocab_bpe, d);
    json_decref(root);
    return rc;
}

int at_tok_load_gpt2(struct at_ctx *cx, struct at_arena *a,
                     const char *encoder_json, const char *vocab_bpe,
                     struct at_tok **tok)
{
    struct tok_draft d = { .kind = &tok_byte_bpe, .bos = AT_TOK_NONE,
                           .eos = AT_TOK_NONE, .pad = AT_TOK_NONE,
                           .pattern = at_tok_gpt2_pattern };
    struct at_arena work = { 0 };
    int rc = read_draft(cx, &work, encoder_json, vocab_bpe, &d);
    if (rc == AT_OK && (rc = tok_draft_open(cx, a, &d, tok)) < 0)
        at_note(cx, rc, "reading %s and %s", encoder_json, vocab_bpe);
    at_arena_finish(&work);
    return rc;
}
