/* Hugging Face's tokenizer.json: BPE, byte-level or of SentencePiece's pieces
 * with bytes for what they lack; and WordPiece.                              */
#include "data/tok_hf.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 64 << 20 };

int tok_hf_refuse(const struct tok_hf *r, const char *what, const char *is)
{
    return at_fail(r->cx, AT_EINVAL, "%s: %s is '%.60s'; attune reads "
                   "BPE tokenizers, byte-level or SentencePiece's with "
                   "byte_fallback, BERT's WordPiece and T5's Unigram", r->path, what, is);
}

const char *tok_hf_text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static bool is_text(const json_t *o, const char *key, const char *want)
{
    return strcmp(tok_hf_text(o, key), want) == 0;
}

/* ---- parts ----------------------------------------------------------------- */

static int check_model(const struct tok_hf *r)
{
    static const char *const empty[] = { "continuing_subword_prefix",
                                         "end_of_word_suffix" };
    const char *type = tok_hf_text(r->model, "type");
    if (strcmp(type, "WordPiece") == 0 || strcmp(type, "Unigram") == 0)
        return AT_OK;
    if (*type ? strcmp(type, "BPE") != 0
              : !json_is_array(json_object_get(r->model, "merges")))
        return tok_hf_refuse(r, "model.type", type);
    if (json_number_value(json_object_get(r->model, "dropout")) > 0)
        return tok_hf_refuse(r, "model.dropout", "set");
    for (size_t i = 0; i < AT_COUNT(empty); i++)
        if (*tok_hf_text(r->model, empty[i]))
            return tok_hf_refuse(r, empty[i], tok_hf_text(r->model, empty[i]));
    return AT_OK;
}

/* GPT-2's words with every digit apart: what "Digits" before it does.        */
static const char digits[] =
    "'(?:[sdmt]|ll|ve|re)|\\p{N}| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|"
    "\\s+(?![^\\s\\p{N}])|\\s+";

/* Either ByteLevel with GPT-2's pattern, alone or behind Digits; or a Split by
 * the model's own pattern and then ByteLevel without one.                    */
static int read_pattern(struct tok_hf *r)
{
    const json_t *pre = json_object_get(r->root, "pre_tokenizer");
    const json_t *list = json_object_get(pre, "pretokenizers");
    const json_t *first = NULL, *last = pre;
    const char *type, *regex;
    if (list) {
        size_t n = json_array_size(list);
        if (n == 0 || n > 2)
            return tok_hf_refuse(r, "pre_tokenizer", "a sequence of other than two");
        last = json_array_get(list, n - 1);
        first = n == 2 ? json_array_get(list, 0) : NULL;
    }
    if (strcmp(tok_hf_text(last, "type"), "ByteLevel") != 0)
        return tok_hf_refuse(r, "pre_tokenizer", tok_hf_text(last, "type"));
    if (tok_hf_true(last, "add_prefix_space"))
        return tok_hf_refuse(r, "pre_tokenizer.add_prefix_space", "true");
    type = tok_hf_text(first, "type");
    if (json_is_false(json_object_get(last, "use_regex"))) {
        const json_t *pattern = json_object_get(first, "pattern");
        regex = json_string_value(json_object_get(pattern, "Regex"));
        if (strcmp(type, "Split") != 0 || !regex || tok_hf_true(first, "invert") ||
            strcmp(tok_hf_text(first, "behavior"), "Isolated") != 0)
            return tok_hf_refuse(r, "pre_tokenizer", first ? type : "no pattern");
        r->d->pattern = at_strdup(r->cx, r->work, regex);
        return r->d->pattern ? AT_OK : AT_ENOMEM;
    }
    if (first && (strcmp(type, "Digits") != 0 ||
                  !tok_hf_true(first, "individual_digits")))
        return tok_hf_refuse(r, "pre_tokenizer", type);
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
static int read_spaces(struct tok_hf *r)
{
    const json_t *n = json_object_get(r->root, "normalizer");
    const json_t *pre = json_object_get(r->root, "pre_tokenizer");
    const json_t *list = json_object_get(n, "normalizers");
    const json_t *put = json_array_get(list, 0), *last = n;
    const char *scheme = tok_hf_text(pre, "prepend_scheme");
    if (list)
        last = json_array_get(list, json_array_size(list) - 1);
    if (!n || json_is_null(n)) {
        if (!is_text(pre, "type", "Metaspace") ||
            !is_text(pre, "replacement", TOK_MARK))
            return tok_hf_refuse(r, "pre_tokenizer", tok_hf_text(pre, "type"));
        if (!json_is_false(json_object_get(pre, "split")) || !*scheme ||
            strcmp(scheme, "always") == 0)
            return tok_hf_refuse(r, "pre_tokenizer.prepend_scheme", scheme);
        r->d->kind = strcmp(scheme, "first") == 0 ? &tok_spaced_first
                                                  : &tok_spaced_none;
        return AT_OK;
    }
    if (!marks_spaces(last) || json_array_size(list) > 2)
        return tok_hf_refuse(r, "normalizer", tok_hf_text(last, "type"));
    if (pre && !json_is_null(pre) && !splits_nothing(pre))
        return tok_hf_refuse(r, "pre_tokenizer", tok_hf_text(pre, "type"));
    r->d->kind = &tok_spaced_none;
    if (json_array_size(list) < 2)
        return AT_OK;
    if (!is_text(put, "type", "Prepend") || !is_text(put, "prepend", TOK_MARK))
        return tok_hf_refuse(r, "normalizer", tok_hf_text(put, "type"));
    r->d->kind = &tok_spaced_each;
    return AT_OK;
}

static int check_normalizer(struct tok_hf *r)
{
    const json_t *n = json_object_get(r->root, "normalizer");
    const json_t *list = json_object_get(n, "normalizers");
    if (!n || json_is_null(n) || (list && json_array_size(list) == 0))
        return AT_OK;
    if (is_text(n, "type", "NFC")) {
        r->d->kind = &tok_byte_bpe_nfc;
        return AT_OK;
    }
    return tok_hf_refuse(r, "normalizer", tok_hf_text(n, "type"));
}

/* ---- pieces ------------------------------------------------------------------- */

int tok_hf_put_piece(struct tok_hf *r, const json_t *id_json, const char *s,
                     size_t n, unsigned char type, const char *spelled)
{
    json_int_t id = json_is_integer(id_json) ? json_integer_value(id_json)
                                             : -1;
    struct tok_draft *d = r->d;
    if (id < 0 || (uint64_t)id >= d->n || (d->piece[id].s && !tok_special(type)))
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
unsigned char tok_hf_spell_spaced(const struct tok_hf *r, const char *s,
                                  size_t n, char *y, size_t *n_y)
{
    char *end;
    (void)r;
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

/* What is not spelled in the alphabet can only be an added token.            */
static unsigned char spell_bytes(const struct tok_hf *r, const char *s,
                                 size_t n, char *y, size_t *n_y)
{
    if (tok_spell(&r->al, s, n, y, n_y))
        return *n_y == 1 ? TOK_BYTE : TOK_NORMAL;
    memcpy(y, s, n);
    *n_y = n;
    return TOK_TYPES;
}

static int read_vocab(struct tok_hf *r, const json_t *vocab)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)vocab, key, value) {
        size_t n = strlen(key), n_piece;
        char *y = at_alloc(r->cx, r->work, n + 2);
        unsigned char type;
        int rc;
        if (!y)
            return AT_ENOMEM;
        type = r->spell(r, key, n, y, &n_piece);
        rc = tok_hf_put_piece(r, value, y, n_piece, type, key);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

static unsigned char type_of_added(const json_t *t)
{
    bool left = tok_hf_true(t, "lstrip"), right = tok_hf_true(t, "rstrip");
    return left && right ? TOK_SPECIAL_BOTH : left ? TOK_SPECIAL_LEFT
           : right ? TOK_SPECIAL_RIGHT : TOK_SPECIAL;
}

static int read_added(struct tok_hf *r, const json_t *added)
{
    size_t i;
    json_t *t;
    json_array_foreach(added, i, t) {
        const char *content = tok_hf_text(t, "content");
        char *copy = at_strdup(r->cx, r->work, content);
        int rc;
        if (!copy)
            return AT_ENOMEM;
        if (tok_hf_true(t, "single_word"))
            return at_fail(r->cx, AT_EINVAL, "%s: added token '%.60s' has "
                           "single_word, which attune does not know", r->path,
                           content);
        rc = tok_hf_put_piece(r, json_object_get(t, "id"), copy, strlen(copy),
                       type_of_added(t), content);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

static int check_pieces(const struct tok_hf *r)
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
static int read_pieces(struct tok_hf *r)
{
    const json_t *vocab = json_object_get(r->model, "vocab");
    const json_t *added = json_object_get(r->root, "added_tokens");
    json_int_t most = (json_int_t)(json_is_array(vocab)
                                   ? json_array_size(vocab)
                                   : json_object_size(vocab)) - 1;
    json_t *t;
    size_t i;
    int rc;
    if (most < 0 || (!json_is_object(vocab) && !r->list))
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
    rc = r->list ? r->list(r, vocab) : read_vocab(r, vocab);
    if (rc == AT_OK)
        rc = read_added(r, added);
    return rc == AT_OK ? check_pieces(r) : rc;
}

/* ---- merges --------------------------------------------------------------------- */

static int merge_bad(const struct tok_hf *r, size_t i)
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
static bool spell(const struct tok_hf *r, const struct tok_str *half, char *y,
                  size_t *n)
{
    if (!r->spaced)
        return tok_spell(&r->al, half->s, half->n, y, n);
    return tok_hf_spell_spaced(r, half->s, half->n, y, n) == TOK_NORMAL;
}

static int read_merge(struct tok_hf *r, const json_t *m, size_t i,
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

static int read_merges(struct tok_hf *r)
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

static int32_t special_id(const struct tok_hf *r, const char *text)
{
    for (size_t i = r->d->n; *text && i-- > 0;)
        if (tok_special(r->d->type[i]) &&
            r->d->piece[i].n == strlen(text) &&
            memcmp(r->d->piece[i].s, text, strlen(text)) == 0)
            return (int32_t)i;
    return AT_TOK_NONE;
}

/* The special token that a post-processor puts before a text, or behind it.   */
static const char *put_at(const json_t *post, bool end)
{
    const json_t *list = json_object_get(post, "processors"), *one;
    const char *found, *type = tok_hf_text(post, "type");
    json_t *v;
    size_t i;
    json_array_foreach(list, i, v)
        if (*(found = put_at(v, end)))
            return found;
    if (strcmp(type, "BertProcessing") == 0 ||
        strcmp(type, "RobertaProcessing") == 0) {
        one = json_object_get(post, end ? "sep" : "cls");
        found = json_string_value(json_array_get(one, 0));
        return found ? found : "";
    }
    if (strcmp(type, "TemplateProcessing") != 0)
        return "";
    list = json_object_get(post, "single");
    one = json_array_get(list, end ? json_array_size(list) - 1 : 0);
    return tok_hf_text(json_object_get(one, "SpecialToken"), "id");
}

/* "bos_token": a text, or an added token's object.                           */
static const char *named(const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key);
    return json_is_object(v) ? tok_hf_text(v, "content") : tok_hf_text(config, key);
}

static int read_ends(struct tok_hf *r, const char *config_json)
{
    const json_t *post = json_object_get(r->root, "post_processor");
    const char *first = put_at(post, false), *last = put_at(post, true);
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
    if (special_id(r, last) != AT_TOK_NONE) {
        r->d->eos = special_id(r, last);
        r->d->traits |= TOK_ENDS;
    }
    if (r->d->kind == &tok_wordpiece)
        r->d->unk = special_id(r, tok_hf_text(r->model, "unk_token"));
    r->d->pad = special_id(r, named(config, "pad_token"));
    /* GPT-2: the one token is both, and only ends texts.                     */
    if (!*first && (!config || special_id(r, named(config, "bos_token")) ==
                                   r->d->eos))
        r->d->bos = r->d->eos;
    json_decref(config);
    return AT_OK;
}

/* ---- all ------------------------------------------------------------------------------ */

static int read_root(struct tok_hf *r, const char *config_json)
{
    const char *type = tok_hf_text(r->model, "type");
    bool bert = strcmp(type, "WordPiece") == 0;
    bool unigram = strcmp(type, "Unigram") == 0;
    int rc = check_model(r);
    r->spaced = tok_hf_true(r->model, "byte_fallback");
    r->spell = r->spaced ? tok_hf_spell_spaced : spell_bytes;
    if (rc == AT_OK && bert)
        rc = tok_hf_wordpiece(r);
    else if (rc == AT_OK && unigram)
        rc = tok_hf_unigram(r);
    else if (rc == AT_OK && r->spaced)
        rc = read_spaces(r);
    else if (rc == AT_OK)
        rc = check_normalizer(r);
    if (rc == AT_OK && !r->spaced && !bert && !unigram)
        rc = read_pattern(r);
    if (rc == AT_OK)
        rc = read_pieces(r);
    if (rc == AT_OK && !bert && !unigram)
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
                           .eos = AT_TOK_NONE, .pad = AT_TOK_NONE,
                           .unk = AT_TOK_NONE };
    struct at_arena work = { 0 };
    struct tok_hf r = { .cx = cx, .work = &work, .path = tokenizer_json,
                         .d = &d };
    json_t *root;
    int rc = at_json_read(cx, tokenizer_json, FILE_MAX, &root);
    if (rc < 0)
        return rc;
    r.root = root;
    r.model = json_object_get(root, "model");
    tok_alphabet_init(&r.al);
    rc = read_root(&r, config_json);
    if (rc == AT_OK && tok_hf_true(r.model, "ignore_merges") &&
        d.kind != &tok_byte_bpe)
        rc = tok_hf_refuse(&r, "model.ignore_merges", "true");
    else if (rc == AT_OK && tok_hf_true(r.model, "ignore_merges"))
        d.kind = &tok_byte_bpe_words;
    if (rc == AT_OK && (rc = tok_draft_open(cx, a, &d, tok)) < 0)
        at_note(cx, rc, "reading %s", tokenizer_json);
    json_decref(root);
    at_arena_finish(&work);
    return rc;
}
