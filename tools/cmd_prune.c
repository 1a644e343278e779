/* attune prune. */
#include "tools/cmds.h"
#include "train/infer.h"
#include "train/prune/prune.h"

#include <math.h>
#include <string.h>

struct prune_args {
    const char *method, *pattern, *data, *targets, *dtype, *backend;
    double sparsity, most, damp;
    int64_t rows, length, batches, threads;
    bool allocate, json;
    bool titled;                /* the table has its first line               */
};

#define AT(field) offsetof(struct prune_args, field)

static const struct opt prune_opts[] = {
    { "--method", OPT_TEXT, AT(method), "NAME",
      "magnitude, wanda or sparsegpt (wanda)" },
    { "--sparsity", OPT_REAL, AT(sparsity), "SHARE",
      "of the weights that go, such as 0.5" },
    { "--pattern", OPT_TEXT, AT(pattern), "N:M",
      "instead: N of every M weights of a row go, such as 2:4" },
    { "--calibration", OPT_TEXT, AT(data), "DATA.h5",
      "a dataset: its training documents calibrate, its validation documents "
      "measure (needed but for magnitude)" },
    { "--allocate", OPT_FLAG, AT(allocate), NULL,
      "prune blocks more that change the stream less" },
    { "--most", OPT_REAL, AT(most), "SHARE",
      "with --allocate: the most a block may lose (halfway to all)" },
    { "--targets", OPT_TEXT, AT(targets), "PATTERN",
      "sites that are pruned: searched in each name (_proj)" },
    { "--damp", OPT_REAL, AT(damp), "SHARE",
      "sparsegpt: of the inputs' mean square, added to each (0.01)" },
    { "--batches", OPT_INT, AT(batches), "N",
      "at most N batches calibrate (32)" },
    { "--length", OPT_INT, AT(length), "N", "tokens of a row (512)" },
    { "--rows", OPT_INT, AT(rows), "N", "rows at a time (4)" },
    { "--dtype", OPT_TEXT, AT(dtype), "TYPE",
      "of the pruned weights: float32 or bfloat16 (as they were)" },
    { "--json", OPT_FLAG, AT(json), NULL, "a JSON line for every matrix" },
    { "--threads", OPT_INT, AT(threads), "N", "CPU threads (all)" },
    { "--backend", OPT_TEXT, AT(backend), "NAME", "cpu or ref (cpu)" },
};

static void prune_defaults(void *args)
{
    struct prune_args *a = args;
    a->method = "wanda";
    a->sparsity = a->most = NAN;
    a->damp = 0.01;
    a->targets = "_proj";
    a->batches = 32;
    a->length = 512;
    a->rows = 4;
    a->backend = "cpu";
}

static int read_how(struct at_ctx *cx, const struct prune_args *a,
                    struct at_prune_how *how)
{
    int m = 0;
    while (m < AT_PRUNE_METHODS && strcmp(a->method, at_prune_names[m]) != 0)
        m++;
    if (m == AT_PRUNE_METHODS)
        return at_fail(cx, AT_EINVAL, "--method is '%s'; it must be magnitude, "
                       "wanda or sparsegpt", a->method);
    if ((a->pattern != NULL) == !isnan(a->sparsity))
        return at_fail(cx, AT_EINVAL, a->pattern
                       ? "give --sparsity SHARE or --pattern N:M, not both"
                       : "--sparsity SHARE or --pattern N:M is needed");
    if (!isnan(a->most) && !a->allocate)
        return at_fail(cx, AT_EINVAL, "--most goes with --allocate");
    if (!(a->damp >= 0 && a->damp <= 1))
        return at_fail(cx, AT_EINVAL, "--damp is %g; it must be from 0 to 1",
                       a->damp);
    *how = (struct at_prune_how){ .method = (enum at_prune_method)m,
                                  .sparsity = a->sparsity, .damp = a->damp };
    if (!a->pattern)
        return AT_OK;
    if (at_prune_pattern(cx, a->pattern, &how->n, &how->m) < 0)
        return cx->err.code;
    how->sparsity = (double)how->n / (double)how->m;
    return AT_OK;
}

static void show(void *self, const struct at_pruned *p)
{
    struct prune_args *a = self;
    double share = (double)p->zeros / (double)p->weights;
    if (a->json) {
        printf("{\"site\": \"%s\", \"weights\": %zu, \"sparsity\": %.9g, "
               "\"error\": ", p->site, p->weights, share);
        printf(isnan(p->error) ? "null" : "%.9g", p->error);
        printf(", \"dead_inputs\": %zu}\n", p->dead);
        return;
    }
    if (!a->titled)
        printf("%-28s %10s %9s %9s\n", "site", "weights", "sparsity", "error");
    a->titled = true;
    printf("%-28s %10zu %9.4f ", p->site, p->weights, share);
    if (isnan(p->error))
        printf("%9s", "-");
    else
        printf("%9.5f", p->error);
    if (p->dead)
        printf("   %zu inputs are always zero", p->dead);
    printf("\n");
    fflush(stdout);
}

/* The cross-entropy on the dataset's validation documents; NaN: it has none.  */
static int measure(struct at_ctx *cx, const struct prune_args *a,
                   const char *model, double *ce, uint64_t *tokens)
{
    struct at_eval_sum sum = { 0 };
    struct at_infer *in;
    struct at_data *d;
    bool any;
    int rc = at_data_open(cx, &cx->run, a->data, &d);
    *ce = NAN;
    if (rc < 0)
        return rc;
    any = d->n_split[AT_VALIDATION] > 0;
    at_data_close(d);
    if (!any)
        return AT_OK;
    rc = at_infer_open(cx, model, a->backend, (int)a->threads, 0, 0,
                       (size_t)a->rows, (size_t)a->length, &in);
    if (rc < 0)
        return rc;
    rc = at_model_need_tokenizer(cx, in->m);
    if (rc == AT_OK && !in->m->d.value)
        rc = at_infer_data(cx, in, a->data, false, false, &sum);
    at_infer_close(in);
    if (rc == AT_OK && sum.n)
        *ce = sum.ce / (double)sum.n;
    *tokens = sum.n;
    return rc;
}

static void show_sum(const struct prune_args *a, const char *out,
                     const struct at_pruning *s, const double ce[2],
                     uint64_t tokens)
{
    double share = (double)s->zeros / (double)s->weights;
    if (a->json) {
        printf("{\"file\": \"%s\", \"weights\": %zu, \"sparsity\": %.9g, "
               "\"calibration_tokens\": %zu", out, s->weights, share,
               s->tokens);
        if (!isnan(ce[0]))
            printf(", \"perplexity_before\": %.9g, \"perplexity_after\": %.9g, "
                   "\"tokens\": %llu", exp(ce[0]), exp(ce[1]),
                   (unsigned long long)tokens);
        printf("}\n");
        return;
    }
    printf("%s: written; %.4f of %zu weights are gone", out, share, s->weights);
    if (s->tokens)
        printf(", judged by %zu tokens", s->tokens);
    printf("\n");
    if (!isnan(ce[0]))
        printf("perplexity %.4f before, %.4f after, of %llu validation tokens\n",
               exp(ce[0]), exp(ce[1]), (unsigned long long)tokens);
    else if (a->data)
        printf("%s has no validation documents: perplexity was not measured\n",
               a->data);
}

static int prune(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct prune_args *a = args;
    struct prune_args show_args = *a;
    struct at_prune_options o = {
        .model = pos[0], .out = pos[1], .data = a->data, .targets = a->targets,
        .backend = a->backend, .allocate = a->allocate,
        .rows = (size_t)a->rows, .length = (size_t)a->length,
        .batches = (size_t)a->batches, .dtype = a->dtype,
        .threads = (int)a->threads,
    };
    struct at_pruning sum;
    enum at_h5_type type;
    double ce[2] = { NAN, NAN };
    uint64_t tokens = 0;
    int rc = read_how(cx, a, &o.how);
    (void)n;
    if (rc == AT_OK)
        rc = weight_type(cx, a->dtype, &type);
    if (rc == AT_OK && (a->rows < 1 || a->rows > 4096 || a->length < 1 ||
                        a->batches < 1 || a->batches > 1000000))
        rc = at_fail(cx, AT_EINVAL, "--rows, --length and --batches must be at "
                     "least 1");
    if (rc < 0)
        return rc;
    o.most = isnan(a->most) ? (1 + o.how.sparsity) / 2 : a->most;
    rc = at_prune(cx, &o, show, &show_args, &sum);
    if (rc == AT_OK && a->data)
        rc = measure(cx, a, pos[0], &ce[0], &tokens);
    if (rc == AT_OK && a->data)
        rc = measure(cx, a, pos[1], &ce[1], &tokens);
    if (rc == AT_OK)
        show_sum(a, pos[1], &sum, ce, tokens);
    return rc;
}

const struct cmd cmd_prune = {
    "prune", "MODEL OUT.h5", "write a model without most of its weights", 2, 2,
    prune_opts, AT_COUNT(prune_opts), sizeof(struct prune_args), prune_defaults,
    prune
};
