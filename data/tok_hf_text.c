/* A byte_bpe tokenizer in Hugging Face's words. */
#include "data/tok.h"

#include <string.h>

/* s[0..n) in GPT-2's printable alphabet, whose code points are below 2048.   */
static void add_piece(struct at_text *t, const uint32_t point[256],
                      const struct tok_str *s)
{
    struct at_text y = { 0 };
    for (size_t i = 0; i < s->n; i++) {
        uint32_t cp = point[(unsigned char)s->s[i]];
        char two[2] = { (char)(0xC0 | cp >> 6), (char)(0x80 | (cp & 63)) };
        char one = (char)cp;
        at_text_add(&y, cp < 128 ? &one : two, cp < 128 ? 1 : 2);
    }
    t->failed |= y.failed;
    if (!y.failed)
        at_text_json(t, y.s, y.n);
    at_text_finish(&y);
}

static void add_added(struct at_text *t, const struct at_tok *tok)
{
    const char *comma = "";
    bool left, right;
    at_text_addf(t, "\"added_tokens\":[");
    for (size_t i = 0; i < tok->n; i++) {
        if (!tok_special(tok->type[i]))
            continue;
        at_text_addf(t, "%s\n{\"id\":%zu,\"content\":", comma, i);
        at_text_json(t, tok->piece[i].s, tok->piece[i].n);
        left = tok->type[i] == TOK_SPECIAL_LEFT ||
               tok->type[i] == TOK_SPECIAL_BOTH;
        right = tok->type[i] == TOK_SPECIAL_RIGHT ||
                tok->type[i] == TOK_SPECIAL_BOTH;
        at_text_addf(t, ",\"single_word\":false,\"lstrip\":%s,\"rstrip\":%s,"
                     "\"normalized\":false,\"special\":true}",
                     left ? "true" : "false", right ? "true" : "false");
        comma = ",";
    }
    at_text_addf(t, "],\n\"normalizer\":%s,\n", tok->kind->nfc
                 ? "{\"type\":\"NFC\"}" : "null");
}

#define LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"      \
    "\"trim_offsets\":true,\"use_regex\":"

static void add_pattern(struct at_text *t, const struct at_tok *tok)
{
    at_text_addf(t, "\"pre_tokenizer\":");
    if (strcmp(tok->pattern, at_tok_gpt2_pattern) == 0) {
        at_text_addf(t, LEVEL "true},\n");
        return;
    }
    at_text_addf(t, "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
                 "\"Split\",\"pattern\":{\"Regex\":");
    at_text_json(t, tok->pattern, strlen(tok->pattern));
    at_text_addf(t, "},\"behavior\":\"Isolated\",\"invert\":false},"
                 LEVEL "false}]},\n");
}

static void add_token(struct at_text *t, const struct at_tok *tok,
                      const char *name, int32_t id)
{
    at_text_addf(t, ",\"%s\":[", name);
    at_text_json(t, tok->piece[id].s, tok->piece[id].n);
    at_text_addf(t, ",%d]", id);
}

/* bos before every text, where it is not eos; with eos behind it, RoBERTa's.   */
static void add_post(struct at_text *t, const struct at_tok *tok)
{
    const struct tok_str *bos;
    at_text_addf(t, "\"post_processor\":");
    if (tok->bos == AT_TOK_NONE || tok->bos == tok->eos) {
        at_text_addf(t, LEVEL "true},\n");
        return;
    }
    if (at_tok_ends(tok)) {
        at_text_addf(t, "{\"type\":\"RobertaProcessing\",\"trim_offsets\":true,"
                     "\"add_prefix_space\":false");
        add_token(t, tok, "sep", tok->eos);
        add_token(t, tok, "cls", tok->bos);
        at_text_addf(t, "},\n");
        return;
    }
    bos = &tok->piece[tok->bos];
    at_text_addf(t, "{\"type\":\"TemplateProcessing\",\"single\":["
                 "{\"SpecialToken\":{\"id\":");
    at_text_json(t, bos->s, bos->n);
    at_text_addf(t, ",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":"
                 "0}}],\"pair\":[{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},"
                 "{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"
                 "\"special_tokens\":{");
    at_text_json(t, bos->s, bos->n);
    at_text_addf(t, ":{\"id\":");
    at_text_json(t, bos->s, bos->n);
    at_text_addf(t, ",\"ids\":[%d],\"tokens\":[", tok->bos);
    at_text_json(t, bos->s, bos->n);
    at_text_addf(t, "]}}},\n");
}

static void add_model(struct at_text *t, const struct at_tok *tok)
{
    unsigned char order[256];
    uint32_t point[256];
    tok_byte_order(order, point);
    at_text_addf(t, "\"decoder\":" LEVEL "true},\n\"model\":{\"type\":\"BPE\","
                 "\"dropout\":null,\"unk_token\":null,\"fuse_unk\":false,"
                 "\"byte_fallback\":false,\"ignore_merges\":%s,\n\"vocab\":{",
                 tok->kind->whole_words ? "true" : "false");
    for (size_t i = 0; i < tok->n; i++) {
        at_text_addf(t, i ? ",\n" : "\n");
        if (tok_special(tok->type[i]))
            at_text_json(t, tok->piece[i].s, tok->piece[i].n);
        else
            add_piece(t, point, &tok->piece[i]);
        at_text_addf(t, ":%zu", i);
    }
    at_text_addf(t, "},\n\"merges\":[");
    for (size_t i = 0; i < tok->n_merge; i++) {
        const unsigned char *m = tok->merge + 12 * i;
        at_text_addf(t, i ? ",\n[" : "\n[");
        add_piece(t, point, &tok->piece[tok_u32(m)]);
        at_text_addf(t, ",");
        add_piece(t, point, &tok->piece[tok_u32(m + 4)]);
        at_text_addf(t, "]");
    }
    at_text_addf(t, "]}}\n");
}

static void add_end(struct at_text *t, const struct at_tok *tok,
                    const char *name, int32_t id)
{
    if (id == AT_TOK_NONE)
        return;
    at_text_addf(t, "\"%s\":", name);
    at_text_json(t, tok->piece[id].s, tok->piece[id].n);
    at_text_addf(t, ",");
}

int at_tok_hf_text(struct at_ctx *cx, const struct at_tok *tok,
                   struct at_text *json, struct at_text *config)
{
    int rc;
    if (!tok->kind->has_merges || !tok->kind->has_pattern)
        return at_fail(cx, AT_EINVAL, "a tokenizer of kind %s cannot be written "
                       "as tokenizer.json", tok->kind->name);
    at_text_addf(json, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":"
                 "null,\n");
    add_added(json, tok);
    add_pattern(json, tok);
    add_post(json, tok);
    add_model(json, tok);
    at_text_addf(config, "{");
    add_end(config, tok, "bos_token", tok->bos);
    add_end(config, tok, "eos_token", tok->eos);
    add_end(config, tok, "pad_token", tok->pad);
    at_text_addf(config, "\"clean_up_tokenization_spaces\":false,"
                 "\"tokenizer_class\":\"PreTrainedTokenizerFast\"}\n");
    rc = at_text_ok(cx, json);
    return rc == AT_OK ? at_text_ok(cx, config) : rc;
}
