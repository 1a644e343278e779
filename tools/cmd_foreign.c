/* attune import, export: models of other programs. */
#include "tools/cmds.h"
#include "train/gguf.h"
#include "train/hf.h"

#include <string.h>

/* ---- import ---------------------------------------------------------------------- */

struct import_args { const char *base; bool bare; };

static const struct opt import_opts[] = {
    { "--base", OPT_TEXT, offsetof(struct import_args, base), "BASE.h5",
      "peft: the model that the adapter belongs to" },
    { "--no-tokenizer", OPT_FLAG, offsetof(struct import_args, bare), NULL,
      "hf, gguf: leave the tokenizer out when attune cannot read it" },
};

static int import(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    static const struct { const char *kind, *args; int n; } kinds[] = {
        { "hf", "DIR OUT.h5", 3 }, { "peft", "DIR OUT.h5 --base BASE.h5", 3 },
        { "llama2c", "WEIGHTS.bin TOKENIZER.bin OUT.h5", 4 },
        { "gguf", "FILE.gguf OUT.h5", 3 },
    };
    const struct import_args *a = args;
    size_t i = 0;
    int rc;
    while (i < AT_COUNT(kinds) && strcmp(pos[0], kinds[i].kind) != 0)
        i++;
    if (i == AT_COUNT(kinds))
        return at_fail(cx, AT_EINVAL, "import '%s': known are hf, peft, "
                       "llama2c, gguf", pos[0]);
    if (n != kinds[i].n || (i == 1 && !a->base))
        return at_fail(cx, AT_EINVAL, "usage: attune import %s %s",
                       kinds[i].kind, kinds[i].args);
    rc = a->base ? at_file_apart(cx, pos[n - 1], a->base) : AT_OK;
    if (rc < 0)
        return rc;
    rc = i == 0   ? at_hf_import(cx, pos[1], pos[2], a->bare)
         : i == 1 ? at_hf_import_peft(cx, pos[1], a->base, pos[2])
         : i == 2 ? at_model_import_llama2c(cx, pos[1], pos[2], pos[3])
                  : at_gguf_import(cx, pos[1], pos[2], a->bare);
    if (rc == AT_OK)
        printf("%s: written\n", pos[n - 1]);
    return rc;
}

const struct cmd cmd_import = {
    "import", "hf DIR OUT.h5 | peft DIR OUT.h5 --base BASE.h5 | "
    "llama2c WEIGHTS.bin TOKENIZER.bin OUT.h5 | gguf FILE.gguf OUT.h5",
    "make a model file of a foreign one", 1, 4, import_opts,
    AT_COUNT(import_opts), sizeof(struct import_args), NULL, import
};

/* ---- export --------------------------------------------------------------------------- */

struct export_args { const char *format, *dtype; bool merge; };

#define EXPORT(field) offsetof(struct export_args, field)

static const struct opt export_opts[] = {
    { "--format", OPT_TEXT, EXPORT(format), "NAME",
      "hf: a model for transformers; peft: an adapter for PEFT; gguf: a file for "
      "llama.cpp (gguf where OUT ends in .gguf, else hf)" },
    { "--merge", OPT_FLAG, EXPORT(merge), NULL,
      "hf, gguf: add the adapter to the weights" },
    { "--dtype", OPT_TEXT, EXPORT(dtype), "NAME",
      "float32, float16 or bfloat16 (what was imported, else float32); gguf: "
      "also q8_0 (float16)" },
};

static bool ends_in(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

static void print_written(const char *out, const struct at_certificate *c)
{
    if (c->positions == 0)
        printf("%s: written\n", out);
    else
        printf("%s: written and read back: largest logit difference %.2e, "
               "likeliest token the same at %.0f %% of %zu places, %.2e nats "
               "lost\n", out, c->largest, 100 * c->agree, c->positions, c->kl);
}

static int export_hf(struct at_ctx *cx, const struct export_args *a,
                     char *const *pos)
{
    const struct at_hf_out o = { .dtype = a->dtype, .merge = a->merge };
    struct at_certificate c;
    int rc = at_hf_export(cx, pos[0], pos[1], &o, &c);
    if (rc == AT_OK)
        print_written(pos[1], &c);
    return rc;
}

static int export_peft(struct at_ctx *cx, const struct export_args *a,
                       char *const *pos)
{
    struct at_certificate c;
    int rc;
    if (a->merge)
        return at_fail(cx, AT_EINVAL, "--merge makes a model, which is --format "
                       "hf or gguf");
    rc = at_hf_export_peft(cx, pos[0], pos[1], a->dtype, &c);
    if (rc == AT_OK)
        print_written(pos[1], &c);
    return rc;
}

static int export_gguf(struct at_ctx *cx, const struct export_args *a,
                       char *const *pos)
{
    const struct at_gguf_how how = { .dtype = a->dtype, .merge = a->merge };
    struct at_certificate c;
    int rc = at_gguf_export(cx, pos[0], pos[1], &how, &c);
    if (rc == AT_OK)
        print_written(pos[1], &c);
    return rc;
}

static int export(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    static const struct {
        const char *name;
        int (*run)(struct at_ctx *cx, const struct export_args *a,
                   char *const *pos);
    } formats[] = {
        { "hf", export_hf }, { "peft", export_peft }, { "gguf", export_gguf },
    };
    const struct export_args *a = args;
    const char *format = a->format ? a->format
                         : ends_in(pos[1], ".gguf") ? "gguf" : "hf";
    (void)n;
    for (size_t i = 0; i < AT_COUNT(formats); i++)
        if (strcmp(format, formats[i].name) == 0)
            return formats[i].run(cx, a, pos);
    return at_fail(cx, AT_EINVAL, "--format %s: known are hf, peft, gguf",
                   format);
}

const struct cmd cmd_export = {
    "export", "RUN|FILE DIR|OUT.gguf", "write a folder of Hugging Face's or a "
    "file of llama.cpp", 2, 2, export_opts, AT_COUNT(export_opts),
    sizeof(struct export_args), NULL, export
};
