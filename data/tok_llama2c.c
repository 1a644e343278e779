/* llama2.c's tokenizer.bin. */
#include "data/tok.h"

#include <string.h>

enum { UNK, BOS, EOS, BYTES, FIRST = BYTES + 256 };

static int broken(struct at_ctx *cx, const char *path, size_t id,
                  const char *what)
{
    return at_fail(cx, AT_EFORMAT, "%s: token %zu %s; is it a tokenizer.bin of "
                   "llama2.c, with this vocabulary size?", path, id, what);
}

static int take_token(struct at_ctx *cx, const char *path, const char *file,
                      size_t n_file, size_t *at, size_t id, float *score,
                      struct tok_str *piece)
{
    const unsigned char *p = (const unsigned char *)file + *at;
    uint32_t bits, n;
    if (n_file - *at < 8)
        return broken(cx, path, id, "is not there: the file is cut short");
    bits = tok_u32(p);
    n = tok_u32(p + 4);
    memcpy(score, &bits, sizeof bits);
    *at += 8;
    if (n == 0 || n > TOK_PIECE_MAX || n > n_file - *at)
        return broken(cx, path, id, "has an impossible length");
    *piece = (struct tok_str){ file + *at, n };
    *at += n;
    return AT_OK;
}

/* The pieces 0 .. 258 by their meaning; the file spells them out.            */
static int name_reserved(struct at_ctx *cx, struct at_arena *a,
                         const char *path, struct tok_draft *d)
{
    static const char *const name[] = { "<unk>", "<s>", "</s>" };
    char spelled[8], *bytes = at_alloc(cx, a, 256);
    if (!bytes)
        return AT_ENOMEM;
    for (size_t i = 0; i < BYTES; i++) {
        d->piece[i] = (struct tok_str){ name[i], strlen(name[i]) };
        d->type[i] = TOK_SPECIAL;
    }
    for (unsigned b = 0; b < 256; b++) {
        struct tok_str *p = &d->piece[BYTES + b];
        snprintf(spelled, sizeof spelled, "<0x%02X>", b);
        if (p->n != 6 || memcmp(p->s, spelled, 6) != 0)
            return broken(cx, path, BYTES + b, "is not the byte token");
        bytes[b] = (char)b;
        *p = (struct tok_str){ bytes + b, 1 };
        d->type[BYTES + b] = TOK_BYTE;
    }
    return AT_OK;
}

static int read_draft(struct at_ctx *cx, struct at_arena *a, const char *path,
                      struct tok_draft *d)
{
    char *file;
    size_t n_file, at = 4;
    float *score;
    int rc;
    rc = at_read_file(cx, a, path, 0, &file, &n_file);
    if (rc < 0)
        return rc;
    score = at_alloc_n(cx, a, d->n, sizeof *score);
    d->piece = at_alloc_n(cx, a, d->n, sizeof *d->piece);
    d->type = at_alloc_n(cx, a, d->n, sizeof *d->type);
    if (!score || !d->piece || !d->type)
        return AT_ENOMEM;
    if (n_file < 4)
        return broken(cx, path, 0, "is not there: the file is cut short");
    for (size_t i = 0; i < d->n; i++) {
        rc = take_token(cx, path, file, n_file, &at, i, &score[i],
                        &d->piece[i]);
        if (rc < 0)
            return rc;
    }
    if (at != n_file)
        return at_fail(cx, AT_EFORMAT, "%s: %zu bytes are left after %zu "
                       "tokens; the vocabulary is larger", path, n_file - at,
                       d->n);
    d->score = score;
    return name_reserved(cx, a, path, d);
}

int at_tok_load_llama2c(struct at_ctx *cx, struct at_arena *a,
                        const char *path, size_t vocab_size,
                        struct at_tok **tok)
{
    struct tok_draft d = { .kind = &tok_llama2c, .n = vocab_size, .bos = BOS,
                           .eos = EOS, .pad = AT_TOK_NONE };
    struct at_arena work = { 0 };
    int rc;
    if (vocab_size < FIRST || vocab_size > TOK_VOCAB_MAX)
        return at_fail(cx, AT_EINVAL, "a vocabulary of %zu tokens: llama2.c's "
                       "have from %d to %d", vocab_size, FIRST, TOK_VOCAB_MAX);
    rc = read_draft(cx, &work, path, &d);
    if (rc == AT_OK && (rc = tok_draft_open(cx, a, &d, tok)) < 0)
        at_note(cx, rc, "reading %s", path);
    at_arena_finish(&work);
    return rc;
}
