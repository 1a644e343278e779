/* Tokenizers in GGUF's facts: "gpt2" for byte-level BPE, "llama" for
 * SentencePiece's by scores.                                                 */
#include "data/gguf.h"
#include "data/tok.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* enum llama_token_type of llama.cpp.                                        */
enum { NORMAL = 1, UNKNOWN, CONTROL, USER, UNUSED, BYTE };

#define LLAMA3                                                            \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"         \
    "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"           \
    "\\s+(?!\\S)|\\s+"
#define QWEN2                                                             \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"         \
    "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* How llama.cpp names patterns; a tokenizer is written with the first row that
 * fits it.  pattern NULL: GPT-2's.                                           */
static const struct pre {
    const char *name, *pattern;
    const struct tok_kind *kind;
} pres[] = {
    { "gpt-2", NULL, &tok_byte_bpe },
    { "llama-bpe", LLAMA3, &tok_byte_bpe_words },
    { "dbrx", LLAMA3, &tok_byte_bpe },
    { "qwen2", QWEN2, &tok_byte_bpe_nfc },
    { "qwen2", QWEN2, &tok_byte_bpe },
    { "llama3", LLAMA3, &tok_byte_bpe_words },
    { "llama-v3", LLAMA3, &tok_byte_bpe_words },
    { "olmo", NULL, &tok_byte_bpe },
};

static const char *pattern_of(const struct pre *p)
{
    return p->pattern ? p->pattern : at_tok_gpt2_pattern;
}

/* ---- out --------------------------------------------------------------------- */

static const struct pre *find_pre(const struct at_tok *t)
{
    for (size_t i = 0; i < AT_COUNT(pres); i++)
        if (pres[i].kind == t->kind &&
            strcmp(pattern_of(&pres[i]), t->pattern) == 0)
            return &pres[i];
    return NULL;
}

/* A piece as the file spells it, in y's room of 3 n + 8 bytes.               */
static size_t spell(const struct at_tok *t, size_t i, const uint32_t point[256],
                    char *y)
{
    const struct tok_str *p = &t->piece[i];
    size_t n = 0;
    if (t->type[i] == TOK_SPECIAL) {
        memcpy(y, p->s, p->n);
        return p->n;
    }
    if (!t->kind->has_pattern && t->type[i] == TOK_BYTE)
        return (size_t)snprintf(y, 8, "<0x%02X>", (unsigned char)p->s[0]);
    for (size_t k = 0; k < p->n; k++) {
        uint32_t cp = point[(unsigned char)p->s[k]];
        if (!t->kind->has_pattern && p->s[k] == ' ') {
            memcpy(y + n, TOK_MARK, TOK_MARK_BYTES);
            n += TOK_MARK_BYTES;
        } else if (!t->kind->has_pattern) {
            y[n++] = p->s[k];
        } else if (cp < 128) {
            y[n++] = (char)cp;
        } else {
            y[n++] = (char)(0xC0 | cp >> 6);
            y[n++] = (char)(0x80 | (cp & 63));
        }
    }
    return n;
}

static int32_t type_of(const struct at_tok *t, size_t i)
{
    const struct tok_str *p = &t->piece[i];
    if (t->type[i] == TOK_SPECIAL)
        return p->n == 5 && memcmp(p->s, "<unk>", 5) == 0 ? UNKNOWN : CONTROL;
    return t->type[i] == TOK_BYTE && !t->kind->has_pattern ? BYTE : NORMAL;
}

static void put_tokens(struct at_gguf_out *w, const struct at_tok *t, size_t V)
{
    unsigned char order[256];
    uint32_t point[256];
    char y[3 * TOK_PIECE_MAX + 8];
    tok_byte_order(order, point);
    at_gguf_texts(w, "tokenizer.ggml.tokens", V);
    for (size_t i = 0; i < V; i++) {
        size_t n = i < t->n ? spell(t, i, point, y)
                            : (size_t)snprintf(y, sizeof y, "[PAD%zu]", i);
        at_gguf_add_text(w, y, n);
    }
    at_gguf_i32s(w, "tokenizer.ggml.token_type", V);
    for (size_t i = 0; i < V; i++)
        at_gguf_add_i32(w, i < t->n ? type_of(t, i) : UNUSED);
}

static void put_merges(struct at_gguf_out *w, const struct at_tok *t)
{
    unsigned char order[256];
    uint32_t point[256];
    char y[6 * TOK_PIECE_MAX + 16];
    tok_byte_order(order, point);
    at_gguf_texts(w, "tokenizer.ggml.merges", t->n_merge);
    for (size_t i = 0; i < t->n_merge; i++) {
        const unsigned char *m = t->merge + 12 * i;
        size_t n = spell(t, tok_u32(m), point, y);
        y[n++] = ' ';
        n += spell(t, tok_u32(m + 4), point, y + n);
        at_gguf_add_text(w, y, n);
    }
}

/* Where merges are by rank, a piece's score is that of its first merge.       */
static int put_scores(struct at_ctx *cx, struct at_gguf_out *w,
                      const struct at_tok *t, size_t V)
{
    float *score = at_alloc_n(cx, &cx->scratch, V + 1, sizeof *score);
    if (!score)
        return AT_ENOMEM;
    for (size_t i = 0; i < t->n && t->score; i++) {
        uint32_t u = tok_u32(t->score + 4 * i);
        memcpy(&score[i], &u, sizeof u);
    }
    for (size_t i = t->n_merge; i-- > 0;)
        score[tok_u32(t->merge + 12 * i + 8)] = -(float)(i + 1);
    at_gguf_f32s(w, "tokenizer.ggml.scores", V);
    for (size_t i = 0; i < V; i++)
        at_gguf_add_f32(w, (double)score[i]);
    return AT_OK;
}

int at_tok_put_gguf(struct at_ctx *cx, const struct at_tok *t, size_t V,
                    struct at_gguf_out *w)
{
    const struct pre *pre = t->kind->has_pattern ? find_pre(t) : NULL;
    bool bpe = t->kind->has_pattern && t->kind->has_merges;
    bool spaced = !t->kind->has_pattern && !t->kind->word &&
                  (t->kind->has_scores || t->kind->has_merges);
    const char *model = bpe ? "gpt2" : "llama";
    int rc = AT_OK;
    if (t->n > V || (!bpe && !spaced))
        return at_fail(cx, AT_EINVAL, "a tokenizer of kind %s and %zu tokens "
                       "cannot go into a GGUF file of a model with %zu",
                       t->kind->name, t->n, V);
    if (bpe && !pre)
        return at_fail(cx, AT_EINVAL, "llama.cpp has no name for the "
                       "tokenizer's pattern '%.200s'", t->pattern);
    at_gguf_text(w, "tokenizer.ggml.model", model, strlen(model));
    if (pre)
        at_gguf_text(w, "tokenizer.ggml.pre", pre->name, strlen(pre->name));
    else
        at_gguf_bool(w, "tokenizer.ggml.add_space_prefix",
                     t->kind->dummy != TOK_DUMMY_NONE);
    put_tokens(w, t, V);
    if (bpe)
        put_merges(w, t);
    else
        rc = put_scores(cx, w, t, V);
    if (t->bos >= 0)
        at_gguf_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)t->bos);
    if (t->eos >= 0)
        at_gguf_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)t->eos);
    if (t->pad >= 0)
        at_gguf_u32(w, "tokenizer.ggml.padding_token_id", (uint32_t)t->pad);
    at_gguf_bool(w, "tokenizer.ggml.add_bos_token",
                 t->bos >= 0 && t->bos != t->eos);
    at_gguf_bool(w, "tokenizer.ggml.add_eos_token", false);
    return rc;
}

/* ---- in ----------------------------------------------------------------------- */

struct reading {
    struct at_ctx *cx;
    struct at_arena *work;
    const struct at_gguf *g;
    const struct at_gguf_fact *tokens, *types;
    struct tok_draft d;
    struct tok_table table;
};

static const struct at_gguf_fact *fact(const struct reading *r,
                                       const char *name,
                                       enum at_gguf_kind kind)
{
    char key[80];
    const struct at_gguf_fact *f;
    snprintf(key, sizeof key, "tokenizer.ggml.%s", name);
    f = at_gguf_fact(r->g, key);
    return f && f->kind == kind ? f : NULL;
}

static bool is_text(const struct at_gguf_fact *f, const char *s)
{
    return f && strcmp(f->text.s, s) == 0;
}

static int missing(const struct reading *r, const char *what)
{
    return at_fail(r->cx, AT_EFORMAT, "its facts lack %s, or hold something "
                   "else there", what);
}

static bool flag(const struct reading *r, const char *name, bool otherwise)
{
    const struct at_gguf_fact *f = fact(r, name, AT_GGUF_NUMBER);
    return f ? f->x != 0 : otherwise;
}

static int read_kind(struct reading *r)
{
    const struct at_gguf_fact *model = fact(r, "model", AT_GGUF_TEXT);
    const struct at_gguf_fact *pre = fact(r, "pre", AT_GGUF_TEXT);
    if (is_text(model, "llama")) {
        r->d.kind = flag(r, "add_space_prefix", true) ? &tok_scored_each
                                                      : &tok_scored_none;
        return AT_OK;
    }
    if (!is_text(model, "gpt2"))
        return at_fail(r->cx, AT_EINVAL, "a tokenizer of model '%.60s'; attune "
                       "reads gpt2 and llama", model ? model->text.s : "");
    for (size_t i = 0; i < AT_COUNT(pres) && !r->d.kind; i++)
        if (is_text(pre, pres[i].name)) {
            r->d.kind = pres[i].kind;
            r->d.pattern = pattern_of(&pres[i]);
        }
    if (!r->d.kind)
        return at_fail(r->cx, AT_EINVAL, "a pattern named '%.60s' "
                       "(tokenizer.ggml.pre); attune knows gpt-2, llama-bpe, "
                       "dbrx, qwen2, olmo", pre ? pre->text.s : "");
    return AT_OK;
}

/* Tokens at the end that only fill the table are left out.                   */
static int read_lists(struct reading *r)
{
    r->tokens = fact(r, "tokens", AT_GGUF_TEXTS);
    r->types = fact(r, "token_type", AT_GGUF_NUMBERS);
    if (!r->tokens || r->tokens->n < 1 || r->tokens->n > TOK_VOCAB_MAX)
        return missing(r, "tokenizer.ggml.tokens");
    if (!r->types || r->types->n != r->tokens->n)
        return missing(r, "tokenizer.ggml.token_type");
    r->d.n = r->tokens->n;
    while (r->d.n > 1 && r->types->numbers[r->d.n - 1] == UNUSED)
        r->d.n--;
    return AT_OK;
}

static bool spelled_byte(const struct at_gguf_str *s, char *y)
{
    char *end;
    if (s->n != 6 || memcmp(s->s, "<0x", 3) != 0 || s->s[5] != '>')
        return false;
    *y = (char)(unsigned char)strtoul(s->s + 3, &end, 16);
    return end == s->s + 5;
}

static size_t unmark(const struct at_gguf_str *s, char *y)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n;) {
        bool mark = s->n - i >= TOK_MARK_BYTES &&
                    memcmp(s->s + i, TOK_MARK, TOK_MARK_BYTES) == 0;
        y[n++] = mark ? ' ' : s->s[i];
        i += mark ? TOK_MARK_BYTES : 1;
    }
    return n;
}

static int read_piece(struct reading *r, const struct tok_alphabet *al,
                      size_t i)
{
    const struct at_gguf_str *s = &r->tokens->texts[i];
    int type = (int)fmax(0, fmin(r->types->numbers[i], BYTE + 1));
    struct tok_str *p = &r->d.piece[i];
    char *y = at_alloc(r->cx, r->work, s->n + 1);
    bool ok = s->n > 0 && s->n <= TOK_PIECE_MAX && type >= NORMAL &&
              type <= BYTE;
    if (!y)
        return AT_ENOMEM;
    r->d.type[i] = TOK_SPECIAL;
    p->s = y;
    p->n = s->n;
    if (type == BYTE) {
        ok = ok && !r->d.pattern && spelled_byte(s, y);
        p->n = 1;
        r->d.type[i] = TOK_BYTE;
    } else if (type != NORMAL) {
        memcpy(y, s->s, s->n);
    } else if (r->d.pattern) {
        ok = ok && tok_spell(al, s->s, s->n, y, &p->n);
        r->d.type[i] = p->n == 1 ? TOK_BYTE : TOK_NORMAL;
    } else {
        p->n = unmark(s, y);
        r->d.type[i] = TOK_NORMAL;
    }
    return ok ? AT_OK : at_fail(r->cx, AT_EFORMAT, "token %zu, '%.60s', is not "
                                "what its type says", i, s->s);
}

static int read_pieces(struct reading *r)
{
    struct tok_alphabet al;
    int rc = AT_OK;
    tok_alphabet_init(&al);
    r->d.piece = at_alloc_n(r->cx, r->work, r->d.n, sizeof *r->d.piece);
    r->d.type = at_alloc_n(r->cx, r->work, r->d.n, sizeof *r->d.type);
    if (!r->d.piece || !r->d.type)
        return AT_ENOMEM;
    for (size_t i = 0; i < r->d.n && rc == AT_OK; i++)
        rc = read_piece(r, &al, i);
    return rc;
}

static int read_scores(struct reading *r)
{
    const struct at_gguf_fact *f = fact(r, "scores", AT_GGUF_NUMBERS);
    float *score = at_alloc_n(r->cx, r->work, r->d.n, sizeof *score);
    if (!score)
        return AT_ENOMEM;
    if (!f || f->n != r->tokens->n)
        return missing(r, "tokenizer.ggml.scores");
    for (size_t i = 0; i < r->d.n; i++)
        score[i] = (float)f->numbers[i];
    r->d.score = score;
    return AT_OK;
}

/* "left right", neither with a space: that is another letter of the alphabet. */
static int read_merge(struct reading *r, const struct tok_alphabet *al,
                      const struct at_gguf_str *s, struct tok_merge *m)
{
    const char *gap = memchr(s->s, ' ', s->n);
    size_t n, k;
    char *y = at_alloc(r->cx, r->work, s->n + 1);
    if (!y)
        return AT_ENOMEM;
    if (gap && tok_spell(al, s->s, (size_t)(gap - s->s), y, &n) &&
        tok_spell(al, gap + 1, s->n - (size_t)(gap + 1 - s->s), y + n, &k)) {
        m->left = tok_table_find(&r->table, y, n);
        m->right = tok_table_find(&r->table, y + n, k);
        m->into = tok_table_find(&r->table, y, n + k);
        if (m->left != TOK_NEVER && m->right != TOK_NEVER &&
            m->into != TOK_NEVER)
            return AT_OK;
    }
    return at_fail(r->cx, AT_EFORMAT, "the merge '%.60s' is not of two tokens "
                   "that make a third", s->s);
}

static int read_merges(struct reading *r)
{
    const struct at_gguf_fact *f = fact(r, "merges", AT_GGUF_TEXTS);
    struct tok_alphabet al;
    struct tok_merge *m;
    int rc;
    if (!f || f->n > TOK_VOCAB_MAX)
        return missing(r, "tokenizer.ggml.merges");
    tok_alphabet_init(&al);
    m = at_alloc_n(r->cx, r->work, f->n + 1, sizeof *m);
    rc = m ? tok_table_init(r->cx, r->work, &r->table, r->d.piece, r->d.n)
           : AT_ENOMEM;
    for (uint32_t i = 0; i < r->d.n && rc == AT_OK; i++)
        if (r->d.type[i] != TOK_SPECIAL)
            tok_table_add(&r->table, i);
    for (size_t i = 0; i < f->n && rc == AT_OK; i++)
        rc = read_merge(r, &al, &f->texts[i], &m[i]);
    r->d.merge = m;
    r->d.n_merge = f->n;
    return rc;
}

/* bos only where texts begin with it, as everywhere in attune.               */
static int32_t end_of(const struct reading *r, const char *name)
{
    const struct at_gguf_fact *f = fact(r, name, AT_GGUF_NUMBER);
    return f && f->x >= 0 && f->x < (double)r->d.n &&
           r->d.type[(size_t)f->x] == TOK_SPECIAL ? (int32_t)f->x : AT_TOK_NONE;
}

int at_tok_load_gguf(struct at_ctx *cx, struct at_arena *a,
                     const struct at_gguf *g, struct at_tok **tok)
{
    struct at_arena work = { 0 };
    struct reading r = { .cx = cx, .work = &work, .g = g };
    int rc = read_kind(&r);
    if (rc == AT_OK)
        rc = read_lists(&r);
    if (rc == AT_OK)
        rc = read_pieces(&r);
    if (rc == AT_OK)
        rc = r.d.pattern ? read_merges(&r) : read_scores(&r);
    if (rc == AT_OK) {
        r.d.bos = end_of(&r, "bos_token_id");
        r.d.eos = end_of(&r, "eos_token_id");
        r.d.pad = end_of(&r, "padding_token_id");
        if (r.d.bos != r.d.eos && !flag(&r, "add_bos_token", !r.d.pattern))
            r.d.bos = AT_TOK_NONE;
        rc = tok_draft_open(cx, a, &r.d, tok);
    }
    at_arena_finish(&work);
    return rc < 0 ? at_note(cx, rc, "reading the tokenizer") : AT_OK;
}
