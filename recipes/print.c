/* The table and its values for people: recipes, docs/recipes.md, key lists. */
#include "recipes/load.h"

#include <string.h>

enum { COMMENT_COL = 40, WIDTH = 79 };

static const char *leaf(const struct at_key *k)
{
    const char *dot = strrchr(k->name, '.');
    return dot ? dot + 1 : k->name;
}

/* Column of the text's end. */
static size_t column(const struct at_text *t)
{
    size_t n = 0;
    while (n < t->n && t->s[t->n - 1 - n] != '\n')
        n++;
    return n;
}

static void pad(struct at_text *t, size_t col)
{
    while (!t->failed && column(t) < col)
        at_text_add(t, " ", 1);
}

/* Words wrapped to the width, every line starting with indent and "# ". */
static void comment(struct at_text *t, const char *indent, const char *words)
{
    const char *p = words;
    while (*p && !t->failed) {
        size_t n = strcspn(p, " ");
        if (column(t) == 0)
            at_text_addf(t, "%s#", indent);
        else if (column(t) + 1 + n > WIDTH) {
            at_text_addf(t, "\n");
            continue;
        }
        at_text_addf(t, " %.*s", (int)n, p);
        p += n;
        p += strspn(p, " ");
    }
    at_text_addf(t, "\n");
}

/* What a value may be: "0 .. 4096", "cpu|ref". */
static void range(struct at_text *t, const struct at_key *k)
{
    if (k->type == AT_T_INT || k->type == AT_T_REAL)
        at_text_addf(t, "%.16g to %.16g", k->min, k->max);
    else if (k->type == AT_T_CHOICE)
        for (const char *p = k->choices; *p; p++)
            at_text_add(t, *p == '|' ? ", " : p, *p == '|' ? 2 : 1);
}

static void print_key(const struct at_recipe *r, const struct at_key *k,
                      struct at_text *t)
{
    const struct at_value *v = &r->value[k - at_keys];
    const char *indent = strchr(k->name, '.') ? "  " : "";
    comment(t, indent, k->help);
    at_text_addf(t, "%s%s%s: ", indent, at_key_used(r, k) ? "" : "# ",
                 leaf(k));
    at_value_print(k, v, t);
    if (!at_key_used(r, k)) {
        pad(t, COMMENT_COL);
        at_text_addf(t, " # only with %s", k->with);
    } else if (v->given && v->src.line == 0) {
        pad(t, COMMENT_COL);
        at_text_addf(t, " # from the command line");
    }
    at_text_addf(t, "\n");
}

int at_recipe_print(struct at_ctx *cx, const struct at_recipe *r, bool all,
                    struct at_text *out)
{
    const struct at_key_group *in = NULL;
    size_t start = out->n;
    for (size_t i = 0; i < at_n_keys; i++) {
        const struct at_key *k = &at_keys[i];
        const struct at_key_group *g = at_key_group_of(k);
        if (!all && !r->value[i].given)
            continue;
        if (out->n > start && (g != in || !g))
            at_text_addf(out, "\n");
        if (g && g != in) {
            comment(out, "", g->help);
            at_text_addf(out, "%s:\n", g->name);
        }
        in = g;
        print_key(r, k, out);
    }
    return at_text_ok(cx, out);
}

/* ---- docs/recipes.md ----------------------------------------------------- */

static const char *const type_name[] = {
    [AT_T_INT] = "whole number", [AT_T_REAL] = "number",
    [AT_T_BOOL] = "true or false", [AT_T_TEXT] = "text",
    [AT_T_CHOICE] = "one of", [AT_T_PATTERN] = "pattern",
    [AT_T_PATH] = "path", [AT_T_LIST] = "list of texts",
};

/* In a Markdown table, where | divides. */
static void cell(struct at_text *t, const char *s)
{
    for (; *s; s++)
        at_text_add(t, *s == '|' ? "\\|" : s, *s == '|' ? 2 : 1);
}

static void docs_key(struct at_text *t, const struct at_key *k)
{
    const char *eq = k->with ? strchr(k->with, '=') : NULL;
    at_text_addf(t, "| `%s` | %s", k->name, type_name[k->type]);
    if (k->type == AT_T_INT || k->type == AT_T_REAL ||
        k->type == AT_T_CHOICE) {
        at_text_addf(t, k->type == AT_T_CHOICE ? " " : ", ");
        range(t, k);
    }
    if (k->unit)
        at_text_addf(t, " (%s)", k->unit);
    if (k->required)
        at_text_addf(t, " | must be given | ");
    else if (*k->fallback) {
        at_text_addf(t, " | `");
        cell(t, k->fallback);
        at_text_addf(t, "` | ");
    } else {
        at_text_addf(t, " | | ");
    }
    cell(t, k->help);
    if (eq) {
        at_text_addf(t, "  Only with `%.*s`: ", (int)(eq - k->with), k->with);
        for (const char *p = eq + 1; *p; p++)
            at_text_add(t, *p == '|' ? ", " : p, *p == '|' ? 2 : 1);
        at_text_addf(t, ".");
    } else if (k->with) {
        at_text_addf(t, "  Only with `%s`.", k->with);
    }
    at_text_addf(t, " |\n");
}

static void docs_rule(struct at_text *t, const struct at_rule *rule)
{
    switch (rule->kind) {
    case AT_RULE_EITHER:
        at_text_addf(t, "- Exactly one of `%s` and `%s` is set", rule->a,
                     rule->b);
        break;
    case AT_RULE_NEEDS:
        at_text_addf(t, "- `%s` needs `%s`", rule->a, rule->b);
        break;
    case AT_RULE_WHEN:
        at_text_addf(t, "- `%s: %s` needs `%s`", rule->a, rule->value,
                     rule->b);
        break;
    case AT_RULE_SUM:
        at_text_addf(t, "- `%s`%s%s%s is at most `%s`, where that is set",
                     rule->a, rule->b ? " + `" : "", rule->b ? rule->b : "",
                     rule->b ? "`" : "", rule->c);
        break;
    case AT_RULE_DIVIDES:
        at_text_addf(t, "- `%s` is a multiple of `%s`", rule->b, rule->a);
        break;
    }
    at_text_addf(t, ": %s.\n", rule->remedy);
}

static const char docs_head[] =
    "# Recipes\n\n"
    "<!-- Printed by `attune recipe docs` from recipes/schema.c; a test "
    "compares. -->\n\n"
    "A recipe is a YAML file that names all there is to a run.  Every key "
    "below has a\ndefault unless it says otherwise; an unknown key, a wrong "
    "type or a value out of\nrange is refused, all at once, each with its "
    "line and column, before anything\nruns.\n\n"
    "On the command line, `key=value` after the recipe wins over the file: "
    "`attune train\nrecipe.yaml optim.lr=1e-4 'eval.samples=[Once, The]'`.  "
    "One that switches a part\noff or over (`lora.rank=0`, `optim.name=sgd`) "
    "also leaves out the file's keys of\nthat part.\n\n"
    "Whole numbers may be written `1000` or `1e3`.  Patterns are PCRE2 "
    "expressions,\nsearched anywhere in a name: put `^` and `$` around one "
    "to match all of it.  Paths\nare relative to where `attune` is started.  "
    "A key is set when it is not 0, false,\nempty or none.\n";

int at_recipe_docs(struct at_ctx *cx, struct at_text *out)
{
    static const char head[] =
        "\n| key | value | default | meaning |\n|---|---|---|---|\n";
    const struct at_key_group *in = NULL;
    at_text_add(out, docs_head, sizeof docs_head - 1);
    at_text_addf(out, "\n## General\n%s", head);
    for (size_t i = 0; i < at_n_keys; i++)
        if (!at_key_group_of(&at_keys[i]))
            docs_key(out, &at_keys[i]);
    for (size_t i = 0; i < at_n_keys; i++) {
        const struct at_key_group *g = at_key_group_of(&at_keys[i]);
        if (!g)
            continue;
        if (g != in)
            at_text_addf(out, "\n## %s\n\n%s\n%s", g->name, g->help, head);
        in = g;
        docs_key(out, &at_keys[i]);
    }
    at_text_addf(out, "\n## Rules\n\n");
    for (size_t i = 0; i < at_n_rules; i++)
        docs_rule(out, &at_rules[i]);
    return at_text_ok(cx, out);
}

int at_recipe_keys(struct at_ctx *cx, struct at_text *out)
{
    for (size_t i = 0; i < at_n_keys; i++) {
        const struct at_key *k = &at_keys[i];
        at_text_addf(out, "%s", k->name);
        pad(out, 24);
        at_text_addf(out, " %s", type_name[k->type]);
        pad(out, 39);
        at_text_addf(out, " %s", *k->fallback ? k->fallback : "-");
        pad(out, 50);
        at_text_addf(out, " %s", k->help);
        if (k->type == AT_T_CHOICE) {
            at_text_addf(out, " [");
            range(out, k);
            at_text_addf(out, "]");
        }
        at_text_addf(out, "\n");
    }
    return at_text_ok(cx, out);
}
