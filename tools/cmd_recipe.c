/* attune recipe show, check, keys, docs; report; doctor. */
#include "kernels/kernels.h"
#include "recipes/recipes.h"
#include "tools/cmds.h"
#include "train/report.h"

#include <string.h>

static int load(struct at_ctx *cx, char *const *pos, int n,
                struct at_recipe **r)
{
    return at_recipe_load(cx, &cx->run, pos[0],
                          (const char *const *)pos + 1, (size_t)n - 1, r);
}

static int print(struct at_ctx *cx, struct at_text *t, int rc)
{
    if (rc == AT_OK)
        rc = at_text_ok(cx, t);
    if (rc == AT_OK && t->s)
        fputs(t->s, stdout);
    at_text_finish(t);
    return rc;
}

static int recipe_show(struct at_ctx *cx, const void *args, char *const *pos,
                       int n)
{
    struct at_text t = { 0 };
    struct at_recipe *r;
    int rc = load(cx, pos, n, &r);
    (void)args;
    return rc < 0 ? rc : print(cx, &t, at_recipe_print(cx, r, true, &t));
}

static int recipe_check(struct at_ctx *cx, const void *args, char *const *pos,
                        int n)
{
    struct at_recipe *r;
    int rc = load(cx, pos, n, &r);
    (void)args;
    if (rc == AT_OK)
        printf("%s: in order\n", pos[0]);
    return rc;
}

static int recipe_keys(struct at_ctx *cx, const void *args, char *const *pos,
                       int n)
{
    struct at_text t = { 0 };
    (void)args;
    (void)pos;
    (void)n;
    return print(cx, &t, at_recipe_keys(cx, &t));
}

static int recipe_docs(struct at_ctx *cx, const void *args, char *const *pos,
                       int n)
{
    struct at_text t = { 0 };
    (void)args;
    (void)pos;
    (void)n;
    return print(cx, &t, at_recipe_docs(cx, &t));
}

const struct cmd cmd_recipe_show = {
    "recipe show", "RECIPE [key=value ...]",
    "print a recipe with every key resolved", 1, 256, NULL, 0, 0, NULL,
    recipe_show
};
const struct cmd cmd_recipe_check = {
    "recipe check", "RECIPE [key=value ...]", "find a recipe's faults", 1, 256,
    NULL, 0, 0, NULL, recipe_check
};
const struct cmd cmd_recipe_keys = {
    "recipe keys", "", "list every key of recipes", 0, 0, NULL, 0, 0, NULL,
    recipe_keys
};
const struct cmd cmd_recipe_docs = {
    "recipe docs", "", "print docs/recipes.md", 0, 0, NULL, 0, 0, NULL,
    recipe_docs
};

/* ---- report ------------------------------------------------------------------------ */

struct report_args { const char *out; };

static const struct opt report_opts[] = {
    { "--out", OPT_TEXT, offsetof(struct report_args, out), "FILE",
      "where to write (RUN/report.html; of several, comparison.html in the "
      "first RUN)" },
};

static int report(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct report_args *a = args;
    const char *out = a->out ? a->out
                             : at_sprintf(cx, &cx->run, "%s/%s.html", pos[0],
                                          n > 1 ? "comparison" : "report");
    int rc = out ? at_report_write(cx, (const char *const *)pos, (size_t)n, out)
                 : AT_ENOMEM;
    if (rc == AT_OK)
        printf("%s\n", out);
    return rc;
}

const struct cmd cmd_report = {
    "report", "RUN ...", "write a page of curves; several runs are compared", 1,
    16, report_opts, AT_COUNT(report_opts), sizeof(struct report_args), NULL,
    report
};

/* ---- doctor ------------------------------------------------------------------------ */

static int doctor(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct at_kernels *k;
    const char *text = "";
    char buf[32];
    int rc = at_threads_start(cx, 0);
    (void)args;
    (void)pos;
    (void)n;
    printf("attune %s\n", AT_VERSION);
    if (rc == AT_OK)
        printf("threads   %d\n", cx->n_threads);
    printf("memory    %s free\n",
           at_bytes_text(buf, (double)at_memory_available()));
    if (rc == AT_OK)
        rc = at_kernels_find(cx, "cpu", &k);
    if (rc == AT_OK)
        rc = at_kernels_describe(cx, &text);
    if (rc == AT_OK)
        printf("kernels   %s\n", text);
    return rc;
}

const struct cmd cmd_doctor = {
    "doctor", "", "say what this machine offers, and what is wrong", 0, 0, NULL,
    0, 0, NULL, doctor
};
