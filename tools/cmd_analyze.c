/* attune analyze, drop. */
#include "tools/cmds.h"
#include "train/analyze.h"
#include "train/sensitivity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct analyze_args {
    const char *data, *backend;
    int64_t rows, length, batches, layers, threads;
    bool all, lm, json, sparse;
    const char *levels;
    double budget;
};

#define AT(field) offsetof(struct analyze_args, field)

static const struct opt analyze_opts[] = {
    { "--data", OPT_TEXT, AT(data), "DATA.h5",
      "a dataset: its validation documents (needed)" },
    { "--layers", OPT_INT, AT(layers), "N",
      "propose so many layers (half of the model's)" },
    { "--all", OPT_FLAG, AT(all), NULL,
      "of the dataset, the training documents instead" },
    { "--every-role", OPT_FLAG, AT(lm), NULL,
      "count every token, not only completions" },
    { "--batches", OPT_INT, AT(batches), "N", "no more than N batches (16)" },
    { "--length", OPT_INT, AT(length), "N", "tokens of a row (512)" },
    { "--rows", OPT_INT, AT(rows), "N", "rows at a time (4)" },
    { "--context-sparse", OPT_FLAG, AT(sparse), NULL,
      "propose context_sparse's channels to leave out instead" },
    { "--levels", OPT_TEXT, AT(levels), "SHARES",
      "for that, shares to try ('0.5 0.75 0.9')" },
    { "--budget", OPT_REAL, AT(budget), "SHARE",
      "and the share by which the loss may rise (0.01)" },
    { "--json", OPT_FLAG, AT(json), NULL, "print JSON" },
    { "--threads", OPT_INT, AT(threads), "N", "CPU threads (all)" },
    { "--backend", OPT_TEXT, AT(backend), "NAME", "cpu or ref (cpu)" },
};

static void analyze_defaults(void *args)
{
    struct analyze_args *a = args;
    a->rows = 4;
    a->length = 512;
    a->batches = 16;
    a->backend = "cpu";
    a->levels = "0.5 0.75 0.9";
    a->budget = 0.01;
}

static void show_progress(void *self, size_t done, size_t of)
{
    (void)self;
    fprintf(stderr, "\revaluation %zu of %zu\033[K", done + 1, of);
    if (done + 1 == of)
        fprintf(stderr, "\r\033[K");
}

static void cell(double x, const char *format)
{
    if (isnan(x))
        printf("%10s", "-");
    else
        printf(format, x);
}

static void show_table(const struct at_analysis *a)
{
    printf("loss %.4f \u00B1 %.4f over %llu tokens; alike: cosine of the stream "
           "before and after;\nrise: of the loss when skipped\n\n%5s", a->loss,
           a->loss_se, (unsigned long long)a->n_targets, "layer");
    for (enum at_branch b = 0; b < AT_BRANCHES; b++)
        printf("%6s alike%10s", at_branch_names[b], "rise");
    printf("\n");
    for (size_t i = 0; i < a->L; i++) {
        printf("%5zu", i);
        for (enum at_branch b = 0; b < AT_BRANCHES; b++) {
            printf("  ");
            cell(a->worth[i][b].alike, "%10.4f");
            cell(a->worth[i][b].rise, "%+10.4f");
        }
        printf("\n");
    }
}

static int by_number(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

/* The n layers whose branch b costs the least, in order, as "3 5".           */
static int propose(struct at_ctx *cx, const struct at_analysis *a,
                   enum at_branch b, size_t n, struct at_text *t)
{
    size_t *layer = at_alloc_n(cx, &cx->scratch, n + 1, sizeof *layer);
    if (!layer)
        return AT_ENOMEM;
    n = at_analysis_least(a, b, n, layer);
    qsort(layer, n, sizeof *layer, by_number);
    for (size_t i = 0; i < n; i++)
        at_text_addf(t, "%s%zu", i ? " " : "", layer[i]);
    return at_text_ok(cx, t);
}

static void put_number(const char *name, double x)
{
    printf(isnan(x) ? "\"%s\": null" : "\"%s\": %.9g", name, x);
}

/* What the proposed layers cost together, executed by chance.                  */
static void chances(const struct analyze_args *args, const struct at_analysis *a)
{
    printf(args->json ? "}, \"by_chance\": {" : "\nrise of the loss with these "
           "layers executed for a share of the tokens, drawn at random\n"
           "(0: dropped): what routers must beat\n\n%6s", "");
    for (size_t c = 0; c < AT_CHANCES && !args->json; c++)
        printf("%10g", at_chances[c]);
    for (enum at_branch b = 0; b < AT_BRANCHES; b++) {
        printf(args->json ? "%s\"%s\": {" : "\n%.0s%6s",
               args->json && b ? "}, " : "", at_branch_names[b]);
        for (size_t c = 0; c < AT_CHANCES; c++) {
            char share[16];
            snprintf(share, sizeof share, "%g", at_chances[c]);
            if (args->json && c)
                printf(", ");
            if (args->json)
                put_number(share, a->chance[b][c]);
            else
                cell(a->chance[b][c], "%+10.4f");
        }
    }
    printf(args->json ? "}}}\n" : "\n");
}

static int show(struct at_ctx *cx, const struct analyze_args *args,
                const char *model, const struct at_analysis *a)
{
    size_t n = a->n;
    if (args->json) {
        printf("{\"loss\": %.9g, \"standard_error\": %.9g, \"tokens\": %llu, "
               "\"layers\": [", a->loss, a->loss_se,
               (unsigned long long)a->n_targets);
        for (size_t i = 0; i < a->L; i++)
            for (enum at_branch b = 0; b < AT_BRANCHES; b++) {
                printf("%s{\"layer\": %zu, \"branch\": \"%s\", ",
                       i + b ? ", " : "", i, at_branch_names[b]);
                put_number("alike", a->worth[i][b].alike);
                printf(", ");
                put_number("rise", a->worth[i][b].rise);
                printf("}");
            }
        printf("], \"proposed\": {");
    } else {
        show_table(a);
        printf("\nthe %zu that cost the least when skipped, the last never:\n",
               n);
    }
    for (enum at_branch b = 0; b < AT_BRANCHES; b++) {
        struct at_text t = { 0 };
        int rc = propose(cx, a, b, n, &t);
        if (rc == AT_OK && args->json)
            printf("%s\"%s\": \"%s\"", b ? ", " : "", at_branch_names[b],
                   t.s ? t.s : "");
        if (rc == AT_OK && !args->json && t.n)
            printf("  router: {layers: %zu, target: %s, at: '%s'}    attune drop "
                   "%s OUT.h5 --%s '%s'\n", n, at_branch_names[b], t.s, model,
                   at_branch_names[b], t.s);
        at_text_finish(&t);
        if (rc < 0)
            return rc;
    }
    chances(args, a);
    return AT_OK;
}

/* ---- channels that context can do without ----------------------------------- */

enum { RANK = 8, LEAST = 32 };          /* the recipe's defaults              */

static int read_levels(struct at_ctx *cx, const char *text,
                       struct at_sensitivity_options *how)
{
    const char *p = text;
    while (*(p += strspn(p, " ,"))) {
        char *end;
        double level = strtod(p, &end);
        bool rises = how->n_levels == 0 ||
                     level > how->level[how->n_levels - 1];
        if (end == p || !(level > 0 && level < 1) || !rises ||
            how->n_levels == AT_LEVELS_MAX)
            return at_fail(cx, AT_EINVAL, "--levels is '%s'; it must be up to %d "
                           "shares between 0 and 1, rising, such as "
                           "'0.5 0.75 0.9'", text, AT_LEVELS_MAX);
        how->level[how->n_levels++] = level;
        p = end;
    }
    return how->n_levels ? AT_OK
                         : at_fail(cx, AT_EINVAL, "--levels names no share");
}

static void sparse_json(const struct at_sensitivity *s,
                        const struct at_sensitivity_options *how)
{
    printf("{\"loss\": %.9g, \"standard_error\": %.9g, \"tokens\": %llu, "
           "\"parts\": [", s->loss, s->loss_se,
           (unsigned long long)s->n_targets);
    for (size_t i = 0; i < 2 * s->L * how->n_levels; i++) {
        size_t part = i / how->n_levels;
        printf("%s{\"layer\": %zu, \"part\": \"%s\", \"share\": %g, ",
               i ? ", " : "", part / 2, part % 2 ? "attn" : "mlp",
               how->level[i % how->n_levels]);
        put_number("rise", isfinite(s->rise[i]) ? s->rise[i] : NAN);
        printf("}");
    }
    printf("], \"proposed\": {\"mlp\": \"%s\", \"attn\": \"%s\", \"rise\": "
           "%.9g, \"saved\": %.9g}}\n", s->mlp, s->attn, s->rise_all, s->saved);
}

static void sparse_table(const struct at_sensitivity *s,
                         const struct at_sensitivity_options *how)
{
    printf("loss %.4f \u00B1 %.4f over %llu tokens; its rise when one part of one "
           "layer leaves out a share of\nits channels on context\n\n%5s", s->loss,
           s->loss_se, (unsigned long long)s->n_targets, "layer");
    for (size_t l = 0; l < 2 * how->n_levels; l++)
        printf("%6s %4g", l < how->n_levels ? "mlp" : "attn",
               how->level[l % how->n_levels]);
    printf("\n");
    for (size_t i = 0; i < s->L; i++) {
        printf("%5zu", i);
        for (size_t l = 0; l < 2 * how->n_levels; l++) {
            double rise = s->rise[2 * i * how->n_levels + l];
            cell(isfinite(rise) ? rise : NAN, "%+11.4f");
        }
        printf("\n");
    }
    printf("\nwithin %g %% of the loss (measured: %+.2f %%), %.0f %% of the layers' "
           "work on context is left out by\n  context_sparse: {rank: %d, mlp: "
           "'%s', attn: '%s'}\n", 100 * how->budget,
           100 * s->rise_all / s->loss, 100 * s->saved, RANK, s->mlp, s->attn);
}

/* Differences between two ways of the same model on the same tokens are known
 * better than either loss, but not if they are as small as this.              */
static void sparse_warn(struct at_ctx *cx, const struct at_sensitivity *s,
                        const struct at_sensitivity_options *how)
{
    if (how->budget * s->loss < 0.1 * s->loss_se)
        at_log(cx, AT_LOG_WARN, "the budget is %.4f, the loss's standard error "
               "%.4f: such rises are hard to tell from luck.  Take more "
               "--batches", how->budget * s->loss, s->loss_se);
    if (s->rise_all < 0)
        at_log(cx, AT_LOG_WARN, "the loss falls with channels left out: the model "
               "has not learnt this data yet.  What it can do without shows "
               "after some training");
}

static int analyze_sparse(struct at_ctx *cx, const struct analyze_args *a,
                          const struct at_measure_options *o)
{
    struct at_sensitivity_options how = { .rank = RANK, .least = LEAST,
                                          .budget = a->budget };
    struct at_sensitivity found;
    int rc = read_levels(cx, a->levels, &how);
    if (rc == AT_OK && !(a->budget >= 0 && a->budget <= 10))
        rc = at_fail(cx, AT_EINVAL, "--budget is %g; it is a share of the loss, "
                     "such as 0.01", a->budget);
    if (rc == AT_OK)
        rc = at_sensitivity(cx, o, &how, isatty(2) ? show_progress : NULL, NULL,
                            &found);
    if (rc < 0)
        return rc;
    (a->json ? sparse_json : sparse_table)(&found, &how);
    sparse_warn(cx, &found, &how);
    return AT_OK;
}

/* Half of the model's layers, at least one.                                   */
static int half_of(struct at_ctx *cx, const char *path, size_t *n)
{
    struct at_model *m;
    int rc = at_model_open(cx, &cx->run, path, &m);
    if (rc < 0)
        return rc;
    *n = m->d.L > 1 ? m->d.L / 2 : 1;
    at_model_close(m);
    return AT_OK;
}

static int analyze(struct at_ctx *cx, const void *args, char *const *pos,
                   int n_pos)
{
    const struct analyze_args *a = args;
    struct at_measure_options o = {
        .model = pos[0], .data = a->data, .backend = a->backend,
        .rows = (size_t)a->rows, .length = (size_t)a->length,
        .batches = (size_t)a->batches, .training_docs = a->all,
        .all_roles = a->lm, .threads = (int)a->threads,
    };
    struct at_analysis found;
    size_t n;
    int rc;
    (void)n_pos;
    if (!a->data)
        return at_fail(cx, AT_EINVAL, "--data DATA.h5 is needed");
    if (a->rows < 1 || a->rows > 4096 || a->length < 1 || a->batches < 0 ||
        a->layers < 0)
        return at_fail(cx, AT_EINVAL, "--rows and --length must be at least 1, "
                       "--batches and --layers not negative");
    if (a->sparse)
        return analyze_sparse(cx, a, &o);
    n = (size_t)a->layers;
    rc = n ? AT_OK : half_of(cx, pos[0], &n);
    if (rc == AT_OK)
        rc = at_analyze(cx, &o, n, isatty(2) ? show_progress : NULL, NULL, &found);
    return rc == AT_OK ? show(cx, a, pos[0], &found) : rc;
}

const struct cmd cmd_analyze = {
    "analyze", "MODEL --data DATA.h5",
    "measure which layers matter, and propose which to route, drop or thin", 1, 1,
    analyze_opts, AT_COUNT(analyze_opts), sizeof(struct analyze_args),
    analyze_defaults, analyze
};

/* ---- drop ---------------------------------------------------------------------- */

struct drop_args { const char *block, *attn, *mlp, *dtype; };

static const struct opt drop_opts[] = {
    { "--attn", OPT_TEXT, offsetof(struct drop_args, attn), "LAYERS",
      "attention of these layers, such as '3 5 8-11'" },
    { "--mlp", OPT_TEXT, offsetof(struct drop_args, mlp), "LAYERS",
      "mlp of these layers" },
    { "--block", OPT_TEXT, offsetof(struct drop_args, block), "LAYERS",
      "these layers as a whole" },
    { "--dtype", OPT_TEXT, offsetof(struct drop_args, dtype), "TYPE",
      "of the weights: float32 or bfloat16 (float32)" },
};

static int layers_of(struct at_ctx *cx, const char *option, const char *text,
                     size_t L, bool **yes)
{
    *yes = at_alloc_n(cx, &cx->run, L, sizeof **yes);
    if (!*yes)
        return AT_ENOMEM;
    return text ? at_ranges(cx, option, text, *yes, L) : AT_OK;
}

static int drop(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct drop_args *a = args;
    bool *block, *attn, *mlp;
    enum at_h5_type type;
    struct at_model *m;
    int rc = weight_type(cx, a->dtype, &type);
    (void)n;
    if (rc == AT_OK && !a->block && !a->attn && !a->mlp)
        rc = at_fail(cx, AT_EINVAL, "at least one of --attn, --mlp and --block "
                     "is needed ('attune analyze' proposes)");
    if (rc == AT_OK)
        rc = at_model_open(cx, &cx->run, pos[0], &m);
    if (rc < 0)
        return rc;
    rc = at_file_apart(cx, pos[1], m->path);
    if (rc == AT_OK)
        rc = layers_of(cx, "--block", a->block, m->d.L, &block);
    if (rc == AT_OK)
        rc = layers_of(cx, "--attn", a->attn, m->d.L, &attn);
    if (rc == AT_OK)
        rc = layers_of(cx, "--mlp", a->mlp, m->d.L, &mlp);
    if (rc == AT_OK)
        rc = at_model_drop(cx, m, pos[1], block, attn, mlp, type);
    at_model_close(m);
    if (rc == AT_OK)
        printf("%s: written\n", pos[1]);
    return rc;
}

const struct cmd cmd_drop = {
    "drop", "MODEL OUT.h5", "write a model without some layers' parts", 2, 2,
    drop_opts, AT_COUNT(drop_opts), sizeof(struct drop_args), NULL, drop
};
