/* attune palette: from target levels of rewards to weights. */
#include "data/rewards.h"
#include "tools/cmds.h"
#include "tools/palette.h"

#include <math.h>
#include <string.h>

struct palette_args {
    struct texts target;
    const char *normaliser, *group, *values, *format, *sweep, *svg;
    double margin;
    int64_t threads;
};

static const struct opt palette_opts[] = {
    { "--target", OPT_LIST, offsetof(struct palette_args, target), "T",
      "'NAME>=LEVEL': a number, p70, now, now+0.5, now*1.2, max; repeatable" },
    { "--normaliser", OPT_TEXT, offsetof(struct palette_args, normaliser), "N",
      "conditional (the default where prompts are known) or joint" },
    { "--group", OPT_TEXT, offsetof(struct palette_args, group), "COLUMN",
      "which rows answer one prompt (prompt, or group)" },
    { "--values", OPT_TEXT, offsetof(struct palette_args, values), "A,B",
      "the columns of rewards (all)" },
    { "--margin", OPT_REAL, offsetof(struct palette_args, margin), "X",
      "how far 'max' stays below, in standard deviations (0.05)" },
    { "--format", OPT_TEXT, offsetof(struct palette_args, format), "F",
      "table or json" },
    { "--sweep", OPT_TEXT, offsetof(struct palette_args, sweep), "A,B",
      "trace what two values can reach together" },
    { "--svg", OPT_TEXT, offsetof(struct palette_args, svg), "FILE",
      "draw the sweep" },
    { "--threads", OPT_INT, offsetof(struct palette_args, threads), "N",
      "CPU threads (all)" },
};

static void palette_defaults(void *args)
{
    struct palette_args *a = args;
    a->margin = 0.05;
    a->format = "table";
}

/* "a,b" into words; no more than most. */
static int split(struct at_ctx *cx, const char *option, const char *text,
                 const char **word, size_t most, size_t *n)
{
    *n = 0;
    for (const char *s = text; s && *s;) {
        size_t len = strcspn(s, ",");
        if (*n == most)
            return at_fail(cx, AT_EINVAL, "%s '%s': more than %zu names",
                           option, text, most);
        word[*n] = at_strndup(cx, &cx->run, s, len);
        if (!word[(*n)++])
            return AT_ENOMEM;
        s += len + (s[len] == ',');
    }
    return AT_OK;
}

static int read_rows(struct at_ctx *cx, void *self, size_t from, size_t n,
                     double *r, int64_t *g)
{
    return at_rewards_read(cx, self, from, n, r, g);
}

static int check(struct at_ctx *cx, const struct palette_args *a)
{
    if (strcmp(a->format, "table") != 0 && strcmp(a->format, "json") != 0)
        return at_fail(cx, AT_EINVAL, "--format '%s': table or json",
                       a->format);
    if (a->normaliser && strcmp(a->normaliser, "joint") != 0 &&
        strcmp(a->normaliser, "conditional") != 0)
        return at_fail(cx, AT_EINVAL, "--normaliser '%s': conditional or joint",
                       a->normaliser);
    if (!(a->margin >= 0 && a->margin <= 10))
        return at_fail(cx, AT_EINVAL, "--margin is %g; it must be between 0 and "
                       "10", a->margin);
    if (a->target.n == 0 && !a->sweep)
        return at_fail(cx, AT_EINVAL, "no --target: say what to reach, as in "
                       "--target 'helpful>=p70' --target 'harmless>=now'");
    if (a->svg && !a->sweep)
        return at_fail(cx, AT_EINVAL, "--svg draws a sweep: say --sweep A,B");
    return AT_OK;
}

static enum at_normaliser choose(struct at_ctx *cx,
                                 const struct palette_args *a, bool grouped)
{
    bool joint = a->normaliser ? strcmp(a->normaliser, "joint") == 0 : !grouped;
    if (!joint)
        return AT_CONDITIONAL;
    at_log(cx, AT_LOG_WARN, "%s: the joint normaliser may prefer some prompts "
           "to others, which a policy cannot: what it reaches, a model may "
           "miss%s", a->normaliser ? "asked for" : "no column tells the prompts "
           "apart (--group)", grouped ? "; see 'decoded'" : "");
    return AT_JOINT;
}

static void warn(struct at_ctx *cx, const struct palette_view *v)
{
    const struct at_palette_result *r = v->r;
    if (!r->unique)
        at_log(cx, AT_LOG_WARN, "'%s' follows from the other values with "
               "targets: these weights are one choice of many; means and KL "
               "are the same for all", v->src->name[r->dependent]);
    if (!r->feasible)
        return;
    if (r->border)
        at_log(cx, AT_LOG_WARN, "the targets lie on the border of what can be "
               "reached: the weights have no bound there; ask for a little "
               "less");
    if (r->thin)
        at_log(cx, AT_LOG_WARN, "the weights rest on few samples (ESS %.3g of "
               "%zu): draw more, or ask for less", r->ess, v->stats.n_rows);
}

static int solve(struct at_ctx *cx, const struct palette_args *a,
                 struct at_palette *p, struct palette_view *v,
                 struct at_palette_result *r)
{
    struct at_target t[AT_COUNT(a->target.s)];
    double c[AT_PALETTE_VALUES];
    int rc = AT_OK;
    for (size_t i = 0; i < a->target.n && rc == AT_OK; i++)
        rc = at_target_parse(cx, &cx->run, a->target.s[i], v->src->name,
                             v->src->m, &t[i]);
    if (rc == AT_OK)
        rc = at_palette_levels(cx, p, t, a->target.n, a->margin, c);
    if (rc == AT_OK)
        rc = at_palette_solve(cx, p, c, NULL, &cx->run, r);
    v->r = r;
    v->stats = at_palette_stats(p);
    if (rc == AT_OK)
        warn(cx, v);
    return rc;
}

static int find(struct at_ctx *cx, const struct palette_view *v,
                const char *word, size_t *at)
{
    const char *near = at_did_you_mean(word, v->src->name, v->src->m);
    for (*at = 0; *at < v->src->m; (*at)++)
        if (strcmp(v->src->name[*at], word) == 0)
            return AT_OK;
    return at_fail(cx, AT_EINVAL, "--sweep: there is no value '%s'%s%s%s", word,
                   near ? ": did you mean '" : "", near ? near : "",
                   near ? "'?" : "");
}

static int sweep(struct at_ctx *cx, const struct palette_args *a,
                 struct at_palette *p, struct palette_view *v, struct sweep *s)
{
    const char *word[2];
    size_t n, x = 0, y = 0;
    int rc = split(cx, "--sweep", a->sweep, word, 2, &n);
    if (rc == AT_OK && (n != 2 || strcmp(word[0], word[1]) == 0))
        rc = at_fail(cx, AT_EINVAL, "--sweep '%s': two values are needed",
                     a->sweep);
    if (rc == AT_OK)
        rc = find(cx, v, word[0], &x);
    if (rc == AT_OK)
        rc = find(cx, v, word[1], &y);
    if (rc == AT_OK)
        rc = palette_sweep(cx, p, v, x, y, s);
    v->sweep = s;
    return rc == AT_OK && a->svg ? palette_svg(cx, v, a->svg) : rc;
}

static int work(struct at_ctx *cx, const struct palette_args *a,
                const struct at_rewards *rewards)
{
    struct at_palette_source src = {
        .n_rows = rewards->n_rows, .m = rewards->m, .name = rewards->name,
        .grouped = rewards->group != NULL, .what = rewards->path,
        .read = read_rows, .self = (void *)(uintptr_t)rewards,
    };
    struct palette_view v = { .path = rewards->path, .spec = rewards->spec,
                              .src = &src };
    struct at_palette_result r = { .feasible = true };
    struct sweep *s = at_alloc(cx, &cx->run, sizeof *s);
    struct at_palette *p = NULL;
    int rc;
    if (!s)
        return AT_ENOMEM;
    v.how = choose(cx, a, src.grouped);
    rc = at_palette_create(cx, &src, v.how, &p);
    if (rc == AT_OK)
        rc = solve(cx, a, p, &v, &r);
    if (rc == AT_OK && a->sweep)
        rc = sweep(cx, a, p, &v, s);
    if (rc == AT_OK && strcmp(a->format, "json") == 0)
        rc = palette_print_json(cx, &v);
    else if (rc == AT_OK)
        palette_print_table(&v);
    at_palette_destroy(p);
    return rc == AT_OK && !r.feasible ? 1 : rc;     /* the report says why    */
}

static int palette(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct palette_args *a = args;
    const char *values[AT_PALETTE_VALUES];
    struct at_rewards_options o = { .group = a->group, .values = values };
    struct at_rewards *rewards;
    int rc = check(cx, a);
    (void)n;
    if (rc == AT_OK)
        rc = split(cx, "--values", a->values, values, AT_COUNT(values),
                   &o.n_values);
    if (rc == AT_OK)
        rc = at_threads_start(cx, (int)a->threads);
    if (rc == AT_OK)
        rc = at_rewards_open(cx, &cx->run, pos[0], &o, &rewards);
    if (rc < 0)
        return rc;
    rc = work(cx, a, rewards);
    at_rewards_close(rewards);
    return rc;
}

const struct cmd cmd_palette = {
    "palette", "REWARDS.(h5|csv|jsonl)",
    "find the weights of rewards that reach target levels (exit 1: none do)",
    1, 1, palette_opts, AT_COUNT(palette_opts), sizeof(struct palette_args),
    palette_defaults, palette
};
