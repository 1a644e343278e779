/* A tokenizer.json of BERT's kind. */
#include "data/tok_hf.h"

#include <string.h>

/* A word's beginning is kept with a space, what goes on without "##".        */
static unsigned char spell(const struct tok_hf *r, const char *s, size_t n,
                           char *y, size_t *n_y)
{
    (void)r;
    *n_y = n;
    if (n > 2 && memcmp(s, "##", 2) == 0) {
        memcpy(y, s + 2, *n_y = n - 2);
    } else {
        y[0] = ' ';
        memcpy(y + 1, s, n);
        *n_y = n + 1;
    }
    return TOK_NORMAL;
}

/* Accents go where letters become small, unless it is said.                  */
static int read_normalizer(struct tok_hf *r)
{
    const json_t *n = json_object_get(r->root, "normalizer");
    const json_t *accents = json_object_get(n, "strip_accents");
    unsigned *traits = &r->d->traits;
    if (!n || json_is_null(n))
        return AT_OK;
    if (strcmp(tok_hf_text(n, "type"), "BertNormalizer") != 0)
        return tok_hf_refuse(r, "normalizer", tok_hf_text(n, "type"));
    *traits |= tok_hf_true(n, "clean_text") ? TOK_CLEAN : 0;
    *traits |= tok_hf_true(n, "handle_chinese_chars") ? TOK_CHINESE : 0;
    *traits |= tok_hf_true(n, "lowercase") ? TOK_LOWER : 0;
    if (json_is_boolean(accents) ? json_is_true(accents)
                                 : tok_hf_true(n, "lowercase"))
        *traits |= TOK_ACCENTS;
    return AT_OK;
}

int tok_hf_wordpiece(struct tok_hf *r)
{
    const json_t *pre = json_object_get(r->root, "pre_tokenizer");
    const json_t *most = json_object_get(r->model,
                                         "max_input_chars_per_word");
    const char *prefix = tok_hf_text(r->model, "continuing_subword_prefix");
    if (strcmp(tok_hf_text(pre, "type"), "BertPreTokenizer") != 0)
        return tok_hf_refuse(r, "pre_tokenizer", tok_hf_text(pre, "type"));
    if (strcmp(prefix, "##") != 0)
        return tok_hf_refuse(r, "continuing_subword_prefix", prefix);
    if (most && json_integer_value(most) != 100)
        return tok_hf_refuse(r, "max_input_chars_per_word", "other than 100");
    r->d->kind = &tok_wordpiece;
    r->spell = spell;
    return read_normalizer(r);
}
