/* Hugging Face's tokenizer.json, when it is a BPE: byte-level, or of
 * SentencePiece's pieces with bytes for what they lack.                      */
#include "data/json.h"
#include "data/tok.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 64 << 20 };

struct reading {
    struct at_ctx *cx;
    struct at_arena *work;
    const char *path;
    const json_t *root, *model;
    struct tok_alphabet al;
    bool spaced;                /* pieces are text with U+2581 for spaces     */
    struct tok_draft *d;
    struct tok_table table;     /* pieces as bytes, of the vocabulary only    */
};

static int refuse(const struct reading *r, const char *what, const char *is)
{
    return at_fail(r->cx, AT_EINVAL, "%s: %s is '%.60s'; attune reads "
                   "BPE tokenizers only, byte-level or SentencePiece's with "
                   "byte_fallback", r->path, what, is);
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static bool is_text(const json_t *o, const char *key, const char *want)
{
    return strcmp(text_of(o, key), want) == 0;
}

static bool is_true(const json_t *o, const char *key)
{
    return json_is_true(json_object_get(o, key));
}

/* ---- parts ----------------------------------------------------------------- */

static int check_model(const struct reading *r)
{
    static const char *const empty[] = { "continuing_subword_prefix",
                                         "end_of_word_suffix" };
    const char *type = text_of(r->model, "type");
    if (*type ? strcmp(type, "BPE") != 0
              : !json_is_array(json_object_get(r->model, "merges")))
        return refuse(r, "model.type", type);
    if (json_number_value(json_object_get(r->model, "dropout")) > 0)
        return refuse(r, "model.dropout", "set");
    for (size_t i = 0; i < AT_COUNT(empty); i++)
        if (*text_of(r->model, empty[i]))
            return refuse(r, empty[i], text_of(r->model, empty[i]));
    return AT_OK;
}

/* GPT-2's words with every digit apart: what "Digits" before it does.        */
static const char digits[] =
    "'(?:[sdmt]|ll|ve|re)|\\p{N}| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|"
    "\\s+(?![^\\s\\p{N}])|\\s+";

/* Either ByteLevel with GPT-2's pattern, alone or behind Digits; or a Split by
 * the model's own pattern and then ByteLevel without one.                    */
static int read_pattern(struct reading *r)
{
    const json_t *pre = json_object_get(r->root, "pre_tokenizer");
    const json_t *list = json_object_get(pre, "pretokenizers");
    const json_t *first = NULL, *last = pre;
    const char *type, *regex;
    if (list) {
        size_t n = json_array_size(list);
        if (n == 0 || n > 2)
            return refuse(r, "pre_tokenizer", "a sequence of other than two");
        last = json_array_get(list, n - 1);
        first = n == 2 ? json_array_get(list, 0) : NULL;
    }
    if (strcmp(text_of(last, "type"), "ByteLevel") != 0)
        return refuse(r, "pre_tokenizer", text_of(last, "type"));
    if (is_true(last, "add_prefix_space"))
        return refuse(r, "pre_tokenizer.add_prefix_space", "true");
    type = text_of(first, "type");
    if (json_is_false(json_object_get(last, "use_regex"))) {
        const json_t *pattern = json_object_get(first, "pattern");
        regex = json_string_value(json_object_get(pattern, "Regex"));
        if (strcmp(type, "Split") != 0 || !regex || is_true(first, "invert") ||
            strcmp(text_of(first, "behavior"), "Isolated") != 0)
            return refuse(r, "pre_tokenizer", first ? type : "no pattern");
        r->d->pattern = at_strdup(r->cx, r->work, regex);
        return r->d->pattern ? AT_OK : AT_ENOMEM;
    }
    if (first && (strcmp(type, "Digits") != 0 ||
                  !is_true(first, "individual_digits")))
        return refuse(r, "pre_tokenizer", type);
    r->d->pattern = first ? digits : at_tok_gpt2_pattern;
    return AT_OK;
}

/* ---- spaces ------------------------------------------------------------------ */

static bool marks_spaces(const json_t *n)
{
    return is_text(n, "type", "Replace") && is_text(n, "content", TOK_MARK) &&
           is_text(json_object_get(n, "pattern"), "String", " ");
}

/* Gemma's: a Split by spaces, of which its normalizer has left none.           */
static bool splits_nothing(const json_t *pre)
{
    return is_text(pre, "type", "Split") &&
           is_text(json_object_get(pre, "pattern"), "String", " ");
}

/* How spaces become U+2581: by the normalizer, with one put before every part
 * (Llama 2) or none (Gemma), or by Metaspace, before the text (Mistral).       */
static int read_spaces(struct reading *r)
{
    const json_t *n = json_object_get(r->root, "normalizer");
    const json_t *pre = json_object_get(r->root, "pre_tokenizer");
    const json_t *list = json_object_get(n, "normalizers");
    const json_t *put = json_array_get(list, 0), *last = n;
    const char *scheme = text_of(pre, "prepend_scheme");
    if (list)
        last = json_array_get(list, json_array_size(list) - 1);
    if (!n || json_is_null(n)) {
        if (!is_text(pre, "type", "Metaspace") ||
            !is_text(pre, "replacement", TOK_MARK))
            return refuse(r, "pre_tokenizer", text_of(pre, "type"));
        if (!json_is_false(json_object_get(pre, "split")) || !*scheme ||
            strcmp(scheme, "always") == 0)
            return refuse(r, "pre_tokenizer.prepend_scheme", scheme);
        r->d->kind = strcmp(scheme, "first") == 0 ? &tok_spaced_first
                                                  : &tok_spaced_none;
        return AT_OK;
    }
    if (!marks_spaces(last) || json_array_size(list) > 2)
        return refuse(r, "normalizer", text_of(last, "type"));
    if (pre && !json_is_null(pre) && !splits_nothing(pre))
        return refuse(r, "pre_tokenizer", text_of(pre, "type"));
    r->d->kind = &tok_spaced_none;
    if (json_array_size(list) < 2)
        return AT_OK;
    if (!is_text(put, "type", "Prepend") || !is_text(put, "prepend", TOK_MARK))
        return refuse(r, "normalizer", text_of(put, "type"));
    r->d->kind = &tok_spaced_each;
    return AT_OK;
}

static int check_normalizer(struct reading *r)
{
    const json_t *n = json_object_get(r->root, "normalizer");
    const json_t *list = json_object_get(n, "normalizers");
    if (!n || json_is_null(n) || (list && json_array_size(list) == 0))
        return AT_OK;
    if (is_text(n, "type", "NFC")) {
        r->d->kind = &tok_byte_bpe_nfc;
        return AT_OK;
    }
    return refuse(r, "normalizer", text_of(n, "type"));
}

/* ---- pieces ------------------------------------------------------------------- */

static int put_piece(struct reading *r, const json_t *id_json, const char *s,
                     size_t n, unsigned char type, const char *spelled)
{
    json_int_t id = json_is_integer(id_json) ? json_integer_value(id_json)
                                             : -1;
    struct tok_draft *d = r->d;
    if (id < 0 || (uint64_t)id >= d->n || (d->piece[id].s && type != TOK_SPECIAL))
        return at_fail(r->cx, AT_EFORMAT, "%s: '%.60s': the ids must be 0 to "
                       "%zu, each once", r->path, spelled, d->n - 1);
    if (n == 0 || n > TOK_PIECE_MAX)
        return at_fail(r->cx, AT_EFORMAT, "%s: token %d is empty or too long",
                       r->path, (int)id);
    d->piece[id] = (struct tok_str){ s, n };
    d->type[id] = type;
    return AT_OK;
}

/* "<0x0A>" is that byte; else U+2581 stands for a space.                       */
static unsigned char spell_spaced(const char *s, size_t n, char *y, size_t *n_y)
{
    char *end;
    *n_y = 0;
    if (n == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>') {
        unsigned long byte = strtoul(s + 3, &end, 16);
        if (end == s + 5) {
            y[(*n_y)++] = (char)(unsigned char)byte;
            return TOK_BYTE;
        }
    }
    for (size_t i = 0; i < n;) {
        bool mark = n - i >= TOK_MARK_BYTES &&
                    memcmp(s + i, TOK_MARK, TOK_MARK_BYTES) == 0;
        y[(*n_y)++] = mark ? ' ' : s[i];
        i += mark ? TOK_MARK_BYTES : 1;
    }
    return TOK_NORMAL;
}

static int read_vocab(struct reading *r, const json_t *vocab)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, value) {
        size_t n = strlen(key), n_piece;
        char *y = at_alloc(r->cx, r->work, n + 1);
        int rc;
        if (!y)
            return AT_ENOMEM;
        /* What is not spelled in the alphabet can only be an added token.    */
        if (r->spaced) {
            unsigned char type = spell_spaced(key, n, y, &n_piece);
            rc = put_piece(r, value, y, n_piece, type, key);
        } else if (!tok_spell(&r->al, key, n, y, &n_piece)) {
            memcpy(y, key, n);
            n_piece = n;
            rc = put_piece(r, value, y, n_piece, TOK_TYPES, key);
        } else {
            rc = put_piece(r, value, y, n_piece,
                           n_piece == 1 ? TOK_BYTE : TOK_NORMAL, key);
        }
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

static int read_added(struct reading *r, const json_t *added)
{
    static const char *const strips[] = { "lstrip", "rstrip", "single_word" };
    size_t i;
    json_t *t;
    json_array_foreach(added, i, t) {
        const char *content = text_of(t, "content");
        char *copy = at_strdup(r->cx, r->work, content);
        int rc;
        if (!copy)
            return AT_ENOMEM;
        for (size_t k = 0; k < AT_COUNT(strips); k++)
            if (is_true(t, strips[k]))
                return at_fail(r->cx, AT_EINVAL, "%s: added token '%.60s' has "
                               "%s, which attune does not know", r->path,
                               content, strips[k]);
        rc = put_piece(r, json_object_get(t, "id"), copy, strlen(copy),
                       TOK_SPECIAL, content);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

static int check_pieces(const struct reading *r)
{
    for (size_t i = 0; i < r->d->n; i++)
        if (!r->d->piece[i].s || r->d->type[i] == TOK_TYPES)
            return at_fail(r->cx, AT_EFORMAT, "%s: token %zu of %zu %s",
                           r->path, i, r->d->n, r->d->piece[i].s
                               ? "is not spelled in GPT-2's byte alphabet"
                               : "is missing");
    return AT_OK;
}

/* The highest id of both lists is the last.                                  */
static int read_pieces(struct reading *r)
{
    const json_t *vocab = json_object_get(r->model, "vocab");
    const json_t *added = json_object_get(r->root, "added_tokens");
    json_int_t most = (json_int_t)json_object_size(vocab) - 1;
    json_t *t;
    size_t i;
    int rc;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return at_fail(r->cx, AT_EFORMAT, "%s: has no model.vocab", r->path);
    json_array_foreach(added, i, t) {
        json_int_t id = json_integer_value(json_object_get(t, "id"));
        most = id > most ? id : most;
    }
    if (most >= TOK_VOCAB_MAX)
        return at_fail(r->cx, AT_EFORMAT, "%s: has more than %d tokens",
                       r->path, TOK_VOCAB_MAX);
    r->d->n = (size_t)most + 1;
    r->d->piece = at_alloc_n(r->cx, r->work, r->d->n, sizeof *r->d->piece);
    r->d->type = at_alloc_n(r->cx, r->work, r->d->n, sizeof *r->d->type);
    if (!r->d->piece || !r->d->type)
        return AT_ENOMEM;
    rc = read_vocab(r, vocab);
    if (rc == AT_OK)
        rc = read_added(r, added);
    return rc == AT_OK ? check_pieces(r) : rc;
}

/* ---- merges --------------------------------------------------------------------- */

static int merge_bad(const struct reading *r, size_t i)
{
    return at_fail(r->cx, AT_EFORMAT, "%s: merge %zu is not two pieces that "
                   "make a third", r->path, i);
}

/* "a b" or ["a", "b"].                                                       */
static bool halves(const json_t *m, struct tok_str half[2])
{
    if (json_is_string(m)) {
        const char *s = json_string_value(m), *space = strchr(s, ' ');
        if (!space)
            return false;
        half[0] = (struct tok_str){ s, (size_t)(space - s) };
        half[1] = (struct tok_str){ space + 1, strlen(space + 1) };
        return true;
    }
    for (size_t i = 0; i < 2 && json_array_size(m) == 2; i++) {
        const json_t *v = json_array_get(m, i);
        if (!json_is_string(v))
            return false;
        half[i] = (struct tok_str){ json_string_value(v),
                                    json_string_length(v) };
    }
    return json_array_size(m) == 2;
}

/* One half of a merge, in the pieces' bytes.                                  */
static bool spell(const struct reading *r, const struct tok_str *half, char *y,
                  size_t *n)
{
    if (!r->spaced)
        return tok_spell(&r->al, half->s, half->n, y, n);
    return spell_spaced(half->s, half->n, y, n) == TOK_NORMAL;
}

static int read_merge(struct reading *r, const json_t *m, size_t i,
                      struct tok_merge *y)
{
    char both[2 * TOK_PIECE_MAX];
    struct tok_str half[2];
    size_t n[2];
    if (!halves(m, half) || half[0].n > TOK_PIECE_MAX ||
        half[1].n > TOK_PIECE_MAX || !spell(r, &half[0], both, &n[0]) ||
        !spell(r, &half[1], both + n[0], &n[1]))
        return merge_bad(r, i);
    y->left = tok_table_find(&r->table, both, n[0]);
    y->right = tok_table_find(&r->table, both + n[0], n[1]);
    y->into = tok_table_find(&r->table, both, n[0] + n[1]);
    if (y->left == TOK_NEVER || y->right == TOK_NEVER || y->into == TOK_NEVER)
        return merge_bad(r, i);
    return AT_OK;
}

static int read_merges(struct reading *r)
{
    const json_t *list = json_object_get(r->model, "merges");
    size_t n = json_array_size(list);
    struct tok_merge *m = at_alloc_n(r->cx, r->work, n + 1, sizeof *m);
    int rc = tok_table_init(r->cx, r->work, &r->table, r->d->piece, r->d->n);
    if (!m || rc < 0)
        return AT_ENOMEM;
    if (!json_is_array(list) || n > TOK_VOCAB_MAX)
        return at_fail(r->cx, AT_EFORMAT, "%s: model.merges must be a list",
                       r->path);
    for (uint32_t i = 0; i < r->d->n; i++)
        if (r->d->type[i] == TOK_NORMAL ||
            (r->d->type[i] == TOK_BYTE && !r->spaced))
            tok_table_add(&r->table, i);
    for (size_t i = 0; i < n; i++) {
        rc = read_merge(r, json_array_get(list, i), i, &m[i]);
        if (rc < 0)
            return rc;
    }
    r->d->merge = m;
    r->d->n_merge = n;
    return AT_OK;
}

/* ---- ends of a text ---------------------------------------------------------------- */

static int32_t special_id(const struct reading *r, const char *text)
{
    for (size_t i = r->d->n; *text && i-- > 0;)
        if (r->d->type[i] == TOK_SPECIAL &&
            r->d->piece[i].n == strlen(text) &&
            memcmp(r->d->piece[i].s, text, strlen(text)) == 0)
            return (int32_t)i;
    return AT_TOK_NONE;
}

/* The special token that a TemplateProcessing puts before a text.            */
static const char *put_first(const json_t *post)
{
    const json_t *list = json_object_get(post, "processors"), *one;
    const char *found;
    json_t *v;
    size_t i;
    json_array_foreach(list, i, v)
        if (*(found = put_first(v)))
            return found;
    if (strcmp(text_of(post, "type"), "TemplateProcessing") != 0)
        return "";
    one = json_array_get(json_object_get(post, "single"), 0);
    return text_of(json_object_get(one, "SpecialToken"), "id");
}

/* "bos_token": a text, or an added token's object.                           */
static const char *named(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return json_is_object(v) ? text_of(v, "content") : text_of(config, key);
}

static int read_ends(struct reading *r, const char *config_json)
{
    const char *first = put_first(json_object_get(r->root, "post_processor"));
    json_t *config = NULL;
    if (config_json) {
        int rc = at_json_read(r->cx, config_json, FILE_MAX, &config);
        if (rc < 0)
            return rc;
    }
    r->d->bos = special_id(r, first);
    r->d->eos = special_id(r, config ? named(config, "eos_token")
                                     : "<|endoftext|>");
    if (!config && r->d->eos == AT_TOK_NONE)
        r->d->eos = special_id(r, "</s>");
    r->d->pad = special_id(r, named(config, "pad_token"));
    /* GPT-2: the one token is both, and only ends texts.                     */
    if (!*first && (!config || special_id(r, named(config, "bos_token")) ==
                                   r->d->eos))
        r->d->bos = r->d->eos;
    json_decref(config);
    return AT_OK;
}

/* ---- all ------------------------------------------------------------------------------ */

static int read_root(struct reading *r, const char *config_json)
{
    int rc = check_model(r);
    r->spaced = is_true(r->model, "byte_fallback");
    if (rc == AT_OK && r->spaced)
        rc = read_spaces(r);
    else if (rc == AT_OK)
        rc = check_normalizer(r);
    if (rc == AT_OK && !r->spaced)
        rc = read_pattern(r);
    if (rc == AT_OK)
        rc = read_pieces(r);
    if (rc == AT_OK)
        rc = read_merges(r);
    if (rc == AT_OK)
        rc = read_ends(r, config_json);
    return rc;
}

int at_tok_load_hf(struct at_ctx *cx, struct at_arena *a,
                   const char *tokenizer_json, const char *config_json,
                   struct at_tok **tok)
{
    struct tok_draft d = { .kind = &tok_byte_bpe, .bos = AT_TOK_NONE,
                           .eos = AT_TOK_NONE, .pad = AT_TOK_NONE };
    struct at_arena work = { 0 };
    struct reading r = { .cx = cx, .work = &work, .path = tokenizer_json,
                         .d = &d };
    json_t *root;
    int rc = at_json_read(cx, tokenizer_json, FILE_MAX, &root);
    if (rc < 0)
        return rc;
    r.root = root;
    r.model = json_object_get(root, "model");
    tok_alphabet_init(&r.al);
    rc = read_root(&r, config_json);
    if (rc == AT_OK && is_true(r.model, "ignore_merges") &&
        d.kind != &tok_byte_bpe)
        rc = refuse(&r, "model.ignore_merges", "true");
    else if (rc == AT_OK && is_true(r.model, "ignore_merges"))
        d.kind = &tok_byte_bpe_words;
    if (rc == AT_OK && (rc = tok_draft_open(cx, a, &d, tok)) < 0)
        at_note(cx, rc, "reading %s", tokenizer_json);
    json_decref(root);
    at_arena_finish(&work);
    return rc;
}
