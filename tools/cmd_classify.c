/* attune classify: what a model that judges says of texts. */
#include "data/json.h"
#include "tools/cmds.h"
#include "train/align/judge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 256 };       /* texts judged at a time                         */

struct classify_args {
    const char *model, *text, *key;
    int64_t threads;
    bool json;
};

#define OF(field) offsetof(struct classify_args, field)

static const struct opt classify_opts[] = {
    { "--model", OPT_TEXT, OF(model), "FILE",
      "classifier, reward model or run (needed)" },
    { "--text", OPT_TEXT, OF(text), "TEXT", "this text, instead of FILE" },
    { "--key", OPT_TEXT, OF(key), "KEY",
      "of JSON samples: the text (text)" },
    { "--json", OPT_FLAG, OF(json), NULL,
      "a JSON object a line, with all labels" },
    { "--threads", OPT_INT, OF(threads), "N", "CPU threads (all)" },
};

static void classify_defaults(void *args)
{
    ((struct classify_args *)args)->key = "text";
}

/* ---- out ------------------------------------------------------------------------- */

static void print_json(const struct at_infer *in, const double *x)
{
    const struct at_decoder *d = &in->m->d;
    struct at_text t = { 0 };
    size_t best = 0;
    if (d->problem == AT_NUMBERS) {
        printf("{\"values\": [");
        for (size_t i = 0; i < d->value; i++)
            printf("%s%.9g", i ? ", " : "", x[i]);
        printf("]}\n");
        return;
    }
    for (size_t i = 1; i < d->value; i++)
        best = x[i] > x[best] ? i : best;
    at_text_addf(&t, "{\"label\": ");
    at_text_json(&t, at_judge_label(in, best), strlen(at_judge_label(in, best)));
    at_text_addf(&t, ", \"probabilities\": {");
    for (size_t i = 0; i < d->value; i++) {
        const char *label = at_judge_label(in, i);
        at_text_addf(&t, i ? ", " : "");
        at_text_json(&t, label, strlen(label));
        at_text_addf(&t, ": %.9g", x[i]);
    }
    printf("%s}}\n", t.s ? t.s : "");
    at_text_finish(&t);
}

/* The likeliest label, or those of several that are likelier than not.       */
static void print_plain(const struct at_infer *in, const double *x)
{
    const struct at_decoder *d = &in->m->d;
    size_t best = 0, n = 0;
    for (size_t i = 1; i < d->value; i++)
        best = x[i] > x[best] ? i : best;
    for (size_t i = 0; i < d->value; i++) {
        bool says = d->problem == AT_NUMBERS ||
                    (d->problem == AT_MANY_LABELS ? x[i] > 0.5 : i == best);
        if (says && d->problem == AT_NUMBERS)
            printf("%s%.6g", n++ ? "\t" : "", x[i]);
        else if (says)
            printf("%s%s\t%.6f", n++ ? "\t" : "", at_judge_label(in, i), x[i]);
    }
    printf("\n");
}

static int judge(struct at_ctx *cx, const struct classify_args *a,
                 struct at_infer *in, const struct at_said *said, size_t n)
{
    const struct at_decoder *d = &in->m->d;
    struct at_arena arena = { 0 };
    double *x = at_alloc_n(cx, &arena, n * d->value + 1, sizeof *x);
    int rc = x ? at_judge_numbers(cx, in, said, n, x) : AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        if (d->problem != AT_NUMBERS)
            at_judge_shares(d, x + i * d->value);
        (a->json ? print_json : print_plain)(in, x + i * d->value);
    }
    fflush(stdout);
    at_arena_finish(&arena);
    return rc;
}

/* ---- in -------------------------------------------------------------------------- */

/* The text of a JSON line, in arena t.                                       */
static int read_sample(struct at_ctx *cx, struct at_arena *t,
                       const struct classify_args *a, const char *path,
                       size_t line, const char *s, size_t n,
                       struct at_said *said)
{
    const char *what = at_sprintf(cx, t, "%s:%zu", path, line);
    const json_t *text;
    json_t *v;
    int rc = what ? at_json_parse(cx, what, s, n, &v) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    text = json_object_get(v, a->key);
    if (!json_is_string(text))
        rc = at_fail(cx, AT_EFORMAT, "%s: has no text '%s'; say --key KEY", what,
                     a->key);
    else
        said->text = at_strndup(cx, t, json_string_value(text),
                                said->n_text = json_string_length(text));
    json_decref(v);
    return rc == AT_OK && !said->text ? AT_ENOMEM : rc;
}

static bool is_json(const char *path)
{
    size_t n = strlen(path);
    return n >= 6 && strcmp(path + n - 6, ".jsonl") == 0;
}

/* Up to BATCH lines as texts, in arena t.                                    */
static int read_batch(struct at_ctx *cx, struct at_arena *t,
                      const struct classify_args *a, const char *path, FILE *f,
                      size_t *line, struct at_said *said, size_t *n_said)
{
    char *s = NULL;
    size_t cap = 0;
    ssize_t n = 0;
    int rc = AT_OK;
    for (*n_said = 0; rc == AT_OK && *n_said < BATCH; ++*n_said) {
        struct at_said *x = &said[*n_said];
        n = getline(&s, &cap, f);
        if (n < 0)
            break;
        ++*line;
        n -= n > 0 && s[n - 1] == '\n';
        *x = (struct at_said){ .prompt = "", .n_text = (size_t)n };
        if (is_json(path))
            rc = read_sample(cx, t, a, path, *line, s, (size_t)n, x);
        else if (!(x->text = at_strndup(cx, t, s, (size_t)n)))
            rc = AT_ENOMEM;
    }
    free(s);
    if (rc == AT_OK && ferror(f))
        rc = at_fail_errno(cx, errno, "%s: cannot be read", path);
    return rc;
}

static int judge_file(struct at_ctx *cx, const struct classify_args *a,
                      struct at_infer *in, const char *path)
{
    FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;
    struct at_said said[BATCH];
    struct at_arena t = { 0 };
    size_t n = BATCH, line = 0;
    int rc = f ? AT_OK : at_fail_errno(cx, errno, "%s: cannot be read", path);
    while (rc == AT_OK && n == BATCH) {
        rc = read_batch(cx, &t, a, path, f, &line, said, &n);
        if (rc == AT_OK && n)
            rc = judge(cx, a, in, said, n);
        at_arena_reset(&t);
    }
    if (f && f != stdin)
        fclose(f);
    at_arena_finish(&t);
    return rc;
}

static int classify(struct at_ctx *cx, const void *args, char *const *pos,
                    int n)
{
    const struct classify_args *a = args;
    struct at_said one = { "", a->text, 0, a->text ? strlen(a->text) : 0 };
    struct at_infer *in = NULL;
    int rc;
    if (!a->model || (a->text != NULL) == (n > 0))
        return at_fail(cx, AT_EINVAL, "--model FILE and one of --text TEXT and "
                       "FILE (a text a line, or .jsonl) are needed");
    rc = at_threads_start(cx, (int)a->threads);
    if (rc == AT_OK)
        rc = at_judge_open(cx, a->model, &in);
    if (rc == AT_OK)
        rc = a->text ? judge(cx, a, in, &one, 1) : judge_file(cx, a, in, pos[0]);
    at_infer_close(in);
    return rc;
}

const struct cmd cmd_classify = {
    "classify", "--model FILE [FILE]", "labels, or numbers, of texts by a model "
    "that judges; - is standard input", 0, 1, classify_opts,
    AT_COUNT(classify_opts), sizeof(struct classify_args), classify_defaults,
    classify
};
