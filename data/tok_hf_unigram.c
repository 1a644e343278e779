/* A tokenizer.json of Unigram's kind, as T5 and XLM-R have it. */
#include "data/tok_hf.h"

#include <string.h>

/* Base64 without line breaks; false: it is none.                             */
static bool unpack(const char *s, size_t n, unsigned char *y, size_t *n_y)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        "abcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t word = 0;
    size_t bits = 0;
    *n_y = 0;
    while (n > 0 && s[n - 1] == '=')
        n--;
    for (size_t i = 0; i < n; i++) {
        const char *d = s[i] ? strchr(digits, s[i]) : NULL;
        if (!d)
            return false;
        word = word << 6 | (uint32_t)(d - digits);
        bits += 6;
        if (bits >= 8) {
            bits -= 8;
            y[(*n_y)++] = (unsigned char)(word >> bits);
        }
    }
    return true;
}

static int read_map(struct tok_hf *r)
{
    const json_t *n = json_object_get(r->root, "normalizer"), *map;
    unsigned char *y;
    size_t len;
    if (!n || json_is_null(n))
        return AT_OK;
    if (strcmp(tok_hf_text(n, "type"), "Precompiled") != 0)
        return tok_hf_refuse(r, "normalizer", tok_hf_text(n, "type"));
    map = json_object_get(n, "precompiled_charsmap");
    if (json_is_null(map) || json_string_length(map) == 0)
        return AT_OK;
    len = json_string_length(map);
    y = at_alloc(r->cx, r->work, len);
    if (!y)
        return AT_ENOMEM;
    if (!unpack(json_string_value(map), len, y, &r->d->n_map) ||
        r->d->n_map > TOK_MAP_MAX)
        return tok_hf_refuse(r, "precompiled_charsmap", "no table");
    r->d->map = y;
    return AT_OK;
}

/* Words between white space, each with a space put before it.                */
static int check_words(struct tok_hf *r)
{
    const json_t *pre = json_object_get(r->root, "pre_tokenizer");
    const json_t *list = json_object_get(pre, "pretokenizers");
    const json_t *meta = json_array_get(list, 1);
    const char *scheme = tok_hf_text(meta, "prepend_scheme");
    if (json_array_size(list) != 2 ||
        strcmp(tok_hf_text(json_array_get(list, 0), "type"),
               "WhitespaceSplit") != 0 ||
        strcmp(tok_hf_text(meta, "type"), "Metaspace") != 0 ||
        strcmp(tok_hf_text(meta, "replacement"), TOK_MARK) != 0)
        return tok_hf_refuse(r, "pre_tokenizer", *tok_hf_text(pre, "type")
                             ? "other than WhitespaceSplit and Metaspace"
                             : "missing");
    if (*scheme ? strcmp(scheme, "always") != 0
                : json_is_false(json_object_get(meta, "add_prefix_space")))
        return tok_hf_refuse(r, "pre_tokenizer.prepend_scheme", scheme);
    return AT_OK;
}

/* [["<unk>", 0.0], ["\u2581the", -3.2], ...]                                 */
static int read_list(struct tok_hf *r, const json_t *vocab)
{
    float *score = at_alloc_n(r->cx, r->work, r->d->n + 1, sizeof *score);
    json_int_t unk = json_integer_value(json_object_get(r->model, "unk_id"));
    int rc = score ? AT_OK : AT_ENOMEM;
    size_t i;
    json_t *v;
    r->d->score = score;
    json_array_foreach(vocab, i, v) {
        const json_t *text = json_array_get(v, 0), *x = json_array_get(v, 1);
        size_t n = json_string_length(text), n_y;
        char *y = at_alloc(r->cx, r->work, n + 1);
        json_t *id = json_integer((json_int_t)i);
        unsigned char type = TOK_NORMAL;
        if (rc < 0 || !y || !id) {
            json_decref(id);
            return rc < 0 ? rc : AT_ENOMEM;
        }
        if (!json_is_string(text) || !json_is_number(x))
            rc = at_fail(r->cx, AT_EFORMAT, "%s: entry %zu of model.vocab is not "
                         "a text and its score", r->path, i);
        else
            score[i] = (float)json_number_value(x);
        if (rc == AT_OK)
            type = tok_hf_spell_spaced(r, json_string_value(text), n, y, &n_y);
        if (type == TOK_BYTE && !(r->d->traits & TOK_BYTES)) {
            memcpy(y, json_string_value(text), n);
            n_y = n;
            type = TOK_NORMAL;
        }
        if (rc == AT_OK && (json_int_t)i == unk)
            type = TOK_SPECIAL;
        if (rc == AT_OK)
            rc = tok_hf_put_piece(r, id, y, n_y, type,
                                  json_string_value(text));
        json_decref(id);
    }
    return rc;
}

int tok_hf_unigram(struct tok_hf *r)
{
    const json_t *unk = json_object_get(r->model, "unk_id");
    int rc = check_words(r);
    if (rc == AT_OK)
        rc = read_map(r);
    if (rc < 0)
        return rc;
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
        json_integer_value(unk) > INT32_MAX)
        return tok_hf_refuse(r, "model.unk_id", "missing");
    if (tok_hf_true(r->model, "byte_fallback"))
        r->d->traits |= TOK_BYTES;
    r->spaced = false;
    r->list = read_list;
    r->d->kind = &tok_unigram;
    r->d->unk = (int32_t)json_integer_value(unk);
    return AT_OK;
}
