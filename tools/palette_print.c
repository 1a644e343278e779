/* A palette as a table or as JSON. */
#include "tools/palette.h"

#include <math.h>
#include <string.h>

static int widest(const struct palette_view *v)
{
    size_t w = 5;
    for (size_t i = 0; i < v->src->m; i++)
        w = strlen(v->src->name[i]) > w ? strlen(v->src->name[i]) : w;
    return w < 40 ? (int)w : 40;
}

static void cell(double x, const char *none)
{
    if (isnan(x))
        printf(" %10s", none);
    else
        printf(" %10.5g", x);
}

static void print_reached(const struct palette_view *v)
{
    const struct at_palette_result *r = v->r;
    size_t m = v->src->m;
    int w = widest(v);
    printf("%-*s %10s %10s %10s %10s %10s %10s %10s%s\n", w, "value", "now",
           "target", "reached", "+-", "weight", "+-", "dw/dt",
           r->decoded ? "    decoded" : "");
    for (size_t i = 0; i < m; i++) {
        printf("%-*s", w, v->src->name[i]);
        cell(r->now[i], "");
        cell(r->target[i], "-");
        cell(r->achieved[i], "");
        cell(r->achieved_se[i], "?");
        cell(r->lambda[i], "");
        cell(r->lambda[i] > 0 ? r->lambda_se[i] : 0, "?");
        cell(r->sensitivity[i * (m + 1)], "?");
        if (r->decoded)
            cell(r->decoded[i], "");
        printf("\n");
    }
    printf("KL %.5g nats, ESS %.5g of %zu, ", r->kl, r->ess, v->stats.n_rows);
    if (isinf(r->rho))
        printf("targets met without any change\n");
    else
        printf("reachable up to %.4g times the way, residual %.0e\n", r->rho,
               r->kkt_residual);
}

static void print_blocked(const struct palette_view *v)
{
    const struct at_palette_result *r = v->r;
    int w = widest(v);
    const char *gap = "";
    printf("cannot be reached: at most %.4g of the way from now to the targets\n"
           "%-*s %10s %10s %10s %10s\n", r->rho, w, "value", "now", "target",
           "nearest", "conflict");
    for (size_t i = 0; i < v->src->m; i++) {
        printf("%-*s", w, v->src->name[i]);
        cell(r->now[i], "");
        cell(r->target[i], "-");
        cell(isnan(r->target[i]) ? NAN : r->nearest[i], "");
        if (r->certificate[i] > 0)
            printf(" %8.1f %%", 100 * r->certificate[i] * v->stats.sd[i]);
        printf("\n");
    }
    printf("proof: whatever the weights, ");
    for (size_t i = 0; i < v->src->m; i++)
        if (r->certificate[i] > 0) {
            printf("%s%.5g %s", gap, r->certificate[i], v->src->name[i]);
            gap = " + ";
        }
    printf(" stays %.4g below its target (checked over all samples)\n",
           r->certificate_gap);
}

static void print_sweep(const struct palette_view *v)
{
    const struct sweep *s = v->sweep;
    for (size_t k = 0; k < s->n; k++) {
        const struct sweep_curve *c = &s->curve[k];
        if (isinf(c->kl))
            printf("at any KL\n");
        else
            printf("at KL %g\n", c->kl);
        printf("%10.10s %10.10s\n", v->src->name[s->a], v->src->name[s->b]);
        for (size_t i = 0; i < c->n; i++) {
            cell(c->a[i], "");
            cell(c->b[i], "");
            printf("\n");
        }
    }
}

void palette_print_table(const struct palette_view *v)
{
    printf("%s: %zu samples", v->path, v->stats.n_rows);
    if (v->src->grouped)
        printf(" of %zu prompts (%zu to %zu each)", v->stats.n_groups,
               v->stats.least, v->stats.most);
    printf(", %s normaliser\n", v->how == AT_JOINT ? "joint" : "conditional");
    if (v->r->feasible)
        print_reached(v);
    else
        print_blocked(v);
    if (v->sweep)
        print_sweep(v);
}

/* ---- JSON ------------------------------------------------------------------------ */

static void number(struct at_text *t, double x)
{
    if (isfinite(x))
        at_text_addf(t, "%.17g", x);
    else
        at_text_addf(t, "null");
}

/* x NULL: null. */
static void array(struct at_text *t, const char *key, const double *x, size_t n)
{
    at_text_addf(t, ",\n \"%s\": ", key);
    if (!x) {
        at_text_addf(t, "null");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        at_text_addf(t, i ? ", " : "[");
        number(t, x[i]);
    }
    at_text_addf(t, "]");
}

static void scalar(struct at_text *t, const char *key, double x)
{
    at_text_addf(t, ",\n \"%s\": ", key);
    number(t, x);
}

static void flag(struct at_text *t, const char *key, bool x)
{
    at_text_addf(t, ",\n \"%s\": %s", key, x ? "true" : "false");
}

static void text(struct at_text *t, const char *s)
{
    at_text_json(t, s, strlen(s));
}

static void texts(struct at_text *t, const char *key, const char *const *s,
                  size_t n)
{
    at_text_addf(t, ",\n \"%s\": ", key);
    for (size_t i = 0; i < n; i++) {
        at_text_addf(t, i ? ", " : "[");
        text(t, s[i]);
    }
    at_text_addf(t, "]");
}

static void add_result(struct at_text *t, const struct palette_view *v)
{
    const struct at_palette_result *r = v->r;
    size_t m = v->src->m;
    bool yes = r->feasible;
    flag(t, "feasible", yes);
    array(t, "now", r->now, m);
    array(t, "sd", v->stats.sd, m);
    array(t, "target", r->target, m);
    scalar(t, "rho", r->rho);
    scalar(t, "rho_gap", r->rho_gap);
    flag(t, "border", r->border);
    flag(t, "unique", r->unique);
    flag(t, "thin", yes && r->thin);
    array(t, "lambda", yes ? r->lambda : NULL, m);
    array(t, "lambda_se", yes ? r->lambda_se : NULL, m);
    array(t, "achieved", yes ? r->achieved : NULL, m);
    array(t, "achieved_se", yes ? r->achieved_se : NULL, m);
    array(t, "decoded", yes ? r->decoded : NULL, m);
    scalar(t, "kl", yes ? r->kl : NAN);
    scalar(t, "dual", yes ? r->dual : NAN);
    scalar(t, "ess", yes ? r->ess : NAN);
    scalar(t, "kkt_residual", yes ? r->kkt_residual : NAN);
    at_text_addf(t, ",\n \"sensitivity\": ");
    for (size_t i = 0; i < m && yes; i++) {
        at_text_addf(t, i ? ",\n  [" : "[\n  [");
        for (size_t k = 0; k < m; k++) {
            at_text_addf(t, k ? ", " : "");
            number(t, r->sensitivity[i * m + k]);
        }
        at_text_addf(t, "]");
    }
    at_text_addf(t, yes ? "]" : "null");
    array(t, "certificate", yes ? NULL : r->certificate, m);
    scalar(t, "certificate_gap", yes ? NAN : r->certificate_gap);
    array(t, "nearest", yes ? NULL : r->nearest, m);
}

static void add_sweep(struct at_text *t, const struct palette_view *v)
{
    const struct sweep *s = v->sweep;
    at_text_addf(t, ",\n \"sweep\": {\"a\": ");
    text(t, v->src->name[s->a]);
    at_text_addf(t, ", \"b\": ");
    text(t, v->src->name[s->b]);
    at_text_addf(t, ", \"curves\": [");
    for (size_t k = 0; k < s->n; k++) {
        const struct sweep_curve *c = &s->curve[k];
        bool any = isinf(c->kl);
        at_text_addf(t, "%s\n {\"kl\": ", k ? "," : "");
        number(t, c->kl);
        array(t, "a", c->a, c->n);
        array(t, "b", c->b, c->n);
        array(t, "lambda_a", any ? NULL : c->lambda_a, c->n);
        array(t, "lambda_b", any ? NULL : c->lambda_b, c->n);
        at_text_addf(t, "}");
    }
    at_text_addf(t, "]}");
}

int palette_print_json(struct at_ctx *cx, const struct palette_view *v)
{
    struct at_text t = { 0 };
    int rc;
    at_text_addf(&t, "{\"file\": ");
    text(&t, v->path);
    at_text_addf(&t, ",\n \"normaliser\": \"%s\"", v->how == AT_JOINT ? "joint"
                                                                : "conditional");
    at_text_addf(&t, ",\n \"rows\": %zu,\n \"prompts\": ", v->stats.n_rows);
    if (v->src->grouped)
        at_text_addf(&t, "%zu", v->stats.n_groups);
    else
        at_text_addf(&t, "null");
    texts(&t, "names", v->src->name, v->src->m);
    if (v->spec)
        texts(&t, "specs", v->spec, v->src->m);
    add_result(&t, v);
    if (v->sweep)
        add_sweep(&t, v);
    at_text_addf(&t, "}\n");
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        fwrite(t.s, 1, t.n, stdout);
    at_text_finish(&t);
    return rc;
}
