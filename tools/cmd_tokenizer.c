/* attune tokenizer, tokenize. */
#include "data/data.h"
#include "tools/cmds.h"
#include "train/model_file.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

enum { VOCAB = 4096 };          /* tokens, unless another number is said      */

struct tokenizer_args { int64_t vocab; const char *encoder, *merges, *hf; };

static const struct opt tokenizer_opts[] = {
    { "--vocab", OPT_INT, offsetof(struct tokenizer_args, vocab), "N",
      "tokens in all (4096)" },
    { "--encoder", OPT_TEXT, offsetof(struct tokenizer_args, encoder), "FILE",
      "take GPT-2's encoder.json instead of training (with --merges)" },
    { "--merges", OPT_TEXT, offsetof(struct tokenizer_args, merges), "FILE",
      "GPT-2's vocab.bpe" },
    { "--hf", OPT_TEXT, offsetof(struct tokenizer_args, hf), "FOLDER",
      "take tokenizer.json of a folder of Hugging Face instead" },
};

static void tokenizer_defaults(void *args)
{
    ((struct tokenizer_args *)args)->vocab = VOCAB;
}

static int write_tokenizer(struct at_ctx *cx, const char *path,
                           const struct at_tok *tok)
{
    size_t n;
    const void *blob = at_tok_save(tok, &n);
    struct at_h5 *f;
    int rc = at_h5_create(cx, path, "tokenizer", &f);
    if (rc < 0)
        return rc;
    rc = at_h5_put_bytes(cx, f, "tokenizer", blob, n);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    return at_h5_commit(cx, f);
}

static int train_tokenizer(struct at_ctx *cx, const struct tokenizer_args *a,
                           char *const *inputs, int n, struct at_tok **tok)
{
    static const char *const special[] = { "<|endoftext|>" };
    struct at_tok_files files = { .paths = (const char *const *)inputs,
                                  .n = (size_t)n };
    struct at_tok_training how = {
        .vocab_size = (size_t)a->vocab, .special = special, .n_special = 1,
        .bos = 0, .eos = 0, .pad = AT_TOK_NONE, .min_count = 2,
    };
    int rc;
    if (n < 1)
        return at_fail(cx, AT_EINVAL, "a text to train on is needed, or "
                       "--hf, or --encoder and --merges");
    if (a->vocab < 257 || a->vocab > 1 << 22)
        return at_fail(cx, AT_EINVAL, "--vocab is %lld; it must be between 257 "
                       "and %d", (long long)a->vocab, 1 << 22);
    rc = at_threads_start(cx, 0);
    if (rc == AT_OK)
        rc = at_tok_train(cx, &cx->run, at_tok_files_next, &files, &how, tok);
    at_tok_files_finish(&files);
    return rc;
}

static int load_hf(struct at_ctx *cx, const char *folder, struct at_tok **tok)
{
    const char *json = at_sprintf(cx, &cx->run, "%s/tokenizer.json", folder);
    const char *config = at_sprintf(cx, &cx->run, "%s/tokenizer_config.json",
                                    folder);
    if (!json || !config)
        return AT_ENOMEM;
    if (access(json, R_OK) != 0)
        return at_fail(cx, AT_ENOENT, "%s: is not there.  A folder with GPT-2's "
                       "vocab.json and merges.txt alone: --encoder "
                       "%s/vocab.json --merges %s/merges.txt", json, folder,
                       folder);
    return at_tok_load_hf(cx, &cx->run, json,
                          access(config, R_OK) == 0 ? config : NULL, tok);
}

static int tokenizer(struct at_ctx *cx, const void *args, char *const *pos,
                     int n)
{
    const struct tokenizer_args *a = args;
    struct at_tok *tok;
    int rc;
    if ((a->encoder != NULL) != (a->merges != NULL))
        return at_fail(cx, AT_EINVAL, "--encoder and --merges go together");
    if ((a->hf || a->encoder) && n > 1)
        return at_fail(cx, AT_EINVAL, "%s is taken as it is: leave %s out",
                       a->hf ? "--hf" : "--encoder", pos[0]);
    if (a->hf && a->encoder)
        return at_fail(cx, AT_EINVAL, "--hf and --encoder do not go together");
    if ((a->hf || a->encoder) && a->vocab != VOCAB)
        return at_fail(cx, AT_EINVAL, "--vocab is of training: a tokenizer that "
                       "is taken has its own");
    if (a->hf)
        rc = load_hf(cx, a->hf, &tok);
    else if (a->encoder)
        rc = at_tok_load_gpt2(cx, &cx->run, a->encoder, a->merges, &tok);
    else
        rc = train_tokenizer(cx, a, pos, n - 1, &tok);
    if (rc == AT_OK)
        rc = write_tokenizer(cx, pos[n - 1], tok);
    if (rc == AT_OK)
        printf("%s: %s, %zu tokens\n", pos[n - 1], at_tok_kind(tok),
               at_tok_size(tok));
    return rc;
}

const struct cmd cmd_tokenizer = {
    "tokenizer", "[TEXT ...] OUT.h5", "train a byte-level BPE tokenizer", 1,
    4096, tokenizer_opts, AT_COUNT(tokenizer_opts),
    sizeof(struct tokenizer_args), tokenizer_defaults, tokenizer
};

struct tokenize_args { const char *model; bool lines, special; };

static const struct opt tokenize_opts[] = {
    { "--model", OPT_TEXT, offsetof(struct tokenize_args, model), "FILE",
      "model, dataset or tokenizer file (needed)" },
    { "--lines", OPT_FLAG, offsetof(struct tokenize_args, lines), NULL,
      "TEXT is a file, - for standard input: ids of each line, a JSON string" },
    { "--special", OPT_FLAG, offsetof(struct tokenize_args, special), NULL,
      "read special tokens as such, not as text" },
};

static void print_ids(const struct at_tok_ids *ids)
{
    for (size_t i = 0; i < ids->n; i++)
        printf(i ? " %d" : "%d", ids->id[i]);
    printf("\n");
}

static int tokenize_line(struct at_ctx *cx, struct at_tok_coder *coder,
                         unsigned flags, const char *line, size_t n,
                         struct at_tok_ids *ids)
{
    json_error_t why;
    json_t *s = json_loadb(line, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    int rc = json_is_string(s) ? AT_OK
                               : at_fail(cx, AT_EFORMAT, "it is no JSON string");
    ids->n = 0;
    if (rc == AT_OK)
        rc = at_tok_encode(cx, coder, json_string_value(s),
                           json_string_length(s), flags, ids);
    json_decref(s);
    if (rc == AT_OK)
        print_ids(ids);
    return rc;
}

static int tokenize_lines(struct at_ctx *cx, struct at_tok_coder *coder,
                          unsigned flags, const char *path,
                          struct at_tok_ids *ids)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "r");
    char *line = NULL;
    size_t cap = 0, number = 0;
    ssize_t n;
    int rc = AT_OK;
    if (!f)
        return at_fail(cx, AT_ENOENT, "%s: cannot be opened", path);
    while (rc == AT_OK && (n = getline(&line, &cap, f)) > 0) {
        rc = tokenize_line(cx, coder, flags, line, (size_t)n, ids);
        number++;
    }
    if (rc == AT_OK && ferror(f))
        rc = at_fail_errno(cx, errno, "%s: cannot be read", path);
    if (rc < 0)
        at_note(cx, rc, "reading %s, line %zu", path, number);
    free(line);
    if (f != stdin)
        fclose(f);
    return rc;
}

static int tokenize(struct at_ctx *cx, const void *args, char *const *pos,
                    int n)
{
    const struct tokenize_args *a = args;
    struct at_tok_ids ids = { 0 };
    struct at_tok_coder *coder = NULL;
    struct at_tok *tok;
    unsigned flags;
    int rc;
    (void)n;
    if (!a->model)
        return at_fail(cx, AT_EINVAL, "--model FILE is needed");
    rc = at_model_tokenizer(cx, &cx->run, a->model, &tok);
    if (rc == AT_OK)
        rc = at_tok_coder_create(cx, tok, &coder);
    if (rc < 0)
        return rc;
    flags = at_data_flags(tok) | (a->special ? AT_TOK_SPECIAL : 0);
    if (a->lines) {
        rc = tokenize_lines(cx, coder, flags, pos[0], &ids);
    } else {
        rc = at_tok_encode(cx, coder, pos[0], strlen(pos[0]), flags, &ids);
        if (rc == AT_OK)
            print_ids(&ids);
    }
    at_tok_ids_finish(&ids);
    at_tok_coder_destroy(coder);
    return rc;
}

const struct cmd cmd_tokenize = {
    "tokenize", "TEXT", "print the token ids of a text", 1, 1, tokenize_opts,
    AT_COUNT(tokenize_opts), sizeof(struct tokenize_args), NULL, tokenize
};
