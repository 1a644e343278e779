/* Loading a recipe: the file, the overrides, the rules; all faults at once. */
#include "recipes/load.h"

#include <string.h>

enum { FILE_MAX = 1 << 20 };

/* ---- faults -------------------------------------------------------------- */

bool at_load_full(const struct at_load *l)
{
    return l->n_faults >= AT_FAULTS_MAX;
}

void at_load_fault(struct at_load *l, struct at_src at, const char *fmt, ...)
{
    char line[1024];
    size_t n;
    va_list ap;
    int got = 0;
    if (at_load_full(l) || l->n_text + 1 >= sizeof l->text) {
        l->n_faults++;
        return;
    }
    l->n_faults++;
    if (at.line > 0)
        got = snprintf(line, sizeof line, "%.300s:%d:%d: ", at.file, at.line,
                       at.col);
    else
        got = snprintf(line, sizeof line, "%.300s: ", at.file);
    va_start(ap, fmt);
    vsnprintf(line + got, sizeof line - (size_t)got, fmt, ap);
    va_end(ap);
    n = strlen(line);
    if (l->n_text + n + 2 > sizeof l->text) {
        l->n_faults = AT_FAULTS_MAX + 1;    /* the rest is counted as "more" */
        return;
    }
    if (l->n_text)
        l->text[l->n_text++] = '\n';
    memcpy(l->text + l->n_text, line, n + 1);
    l->n_text += n;
}

const char *at_load_shown(char buf[64], const char *s, size_t n)
{
    enum { SHOW = 48 };
    size_t to = 0, i = 0;
    while (i < n) {
        uint32_t c = 0;
        size_t len = at_utf8(s + i, n - i, &c);
        bool good = len > 0 && c >= 0x20 && c != 0x7F && !(c >= 0x80 &&
                    c < 0xA0);
        size_t put = good ? len : 1;
        if (to + put > SHOW)
            break;
        if (good)
            memcpy(buf + to, s + i, len);
        else
            buf[to] = '?';
        to += put;
        i += len ? len : 1;
    }
    memcpy(buf + to, i < n ? "..." : "", i < n ? 4 : 1);
    return buf;
}

static int report(struct at_load *l)
{
    struct at_src was = l->cx->at;
    if (l->rc < 0)
        return l->rc;
    if (l->n_faults == 0)
        return AT_OK;
    l->cx->at = (struct at_src){ 0 };       /* each line has its own place   */
    at_fail(l->cx, AT_EINVAL, "%s%s", l->text,
            at_load_full(l) ? "\nand more; mend these first" : "");
    l->cx->at = was;
    return AT_EINVAL;
}

/* ---- the command line ---------------------------------------------------- */

static void override(struct at_load *l, const char *text)
{
    const char *eq = strchr(text, '=');
    char buf[64], *key;
    l->over = at_sprintf(l->cx, l->arena, "command line: %s",
                         at_load_shown(buf, text, strlen(text)));
    if (!l->over) {
        l->rc = AT_ENOMEM;
        return;
    }
    if (!eq || eq == text) {
        at_load_fault(l, (struct at_src){ l->over, 0, 0 },
                      "write key=value, such as optim.lr=1e-4");
        return;
    }
    key = at_strndup(l->cx, l->arena, text, (size_t)(eq - text));
    if (!key) {
        l->rc = AT_ENOMEM;
        return;
    }
    at_load_override(l, key, eq + 1);
}

/* ---- rules --------------------------------------------------------------- */

static struct at_value *value(const struct at_load *l, const struct at_key *k)
{
    return &l->r->value[k - at_keys];
}

/* The override that switched k off: that of the key k->with names. */
static const struct at_value *switched_by(const struct at_load *l,
                                          const struct at_key *k)
{
    for (; k->with; ) {
        char name[64];
        const struct at_value *v;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(k->with, "="),
                 k->with);
        k = at_key_find(name);
        v = value(l, k);
        if (v->over)
            return v;
    }
    return NULL;
}

/* k gives way to the override `by`. */
static void reset(struct at_load *l, const struct at_key *k,
                  const struct at_value *by)
{
    struct at_src at = value(l, k)->src;
    at_log(l->cx, AT_LOG_INFO, "%s:%d:%d: %s is left out (%s)", at.file,
           at.line, at.col, k->name, by->src.file);
    at_value_default(l, k);
}

static void check_use(struct at_load *l, const struct at_key *k)
{
    struct at_value *v = value(l, k);
    const struct at_value *by;
    const char *eq = k->with ? strchr(k->with, '=') : NULL;
    if (!v->given || at_key_used(l->r, k))
        return;
    by = switched_by(l, k);
    if (by && !v->over) {
        reset(l, k, by);
        return;
    }
    v->bad = true;
    if (eq)
        at_load_fault(l, v->src, "%s has a use only with %.*s: %s; set that or "
                      "remove this", k->name, (int)(eq - k->with), k->with,
                      eq + 1);
    else
        at_load_fault(l, v->src, "%s has a use only with %s; set that or "
                      "remove this", k->name, k->with);
}

/* The place to name for a rule: of what was spelled out, else the file. */
static struct at_src rule_src(const struct at_value *a,
                              const struct at_value *b)
{
    return b && b->given ? b->src : a->src;
}

static void check_either(struct at_load *l, const struct at_rule *rule)
{
    const struct at_key *a = at_key_find(rule->a), *b = at_key_find(rule->b);
    struct at_value *va = value(l, a), *vb = value(l, b);
    bool sa = at_value_set(a, va), sb = at_value_set(b, vb);
    if (va->bad || vb->bad || sa != sb)
        return;
    if (sa && va->over != vb->over) {
        reset(l, va->over ? b : a, va->over ? va : vb);
        return;
    }
    va->bad = vb->bad = true;
    at_load_fault(l, rule_src(va, vb), sa ? "%s and %s are both set; %s"
                  : "neither %s nor %s is set; %s", a->name, b->name,
                  rule->remedy);
}

/* A rule between keys that are in use and well spelled. */
static void check_rule(struct at_load *l, const struct at_rule *rule)
{
    const struct at_key *k[3] = { at_key_find(rule->a),
        rule->b ? at_key_find(rule->b) : NULL,
        rule->c ? at_key_find(rule->c) : NULL };
    const struct at_value *v[3] = { 0 };
    struct at_src at;
    int64_t sum;
    for (size_t i = 0; i < 3; i++) {
        v[i] = k[i] ? value(l, k[i]) : NULL;
        if (v[i] && (v[i]->bad || (i != 1 && !at_key_used(l->r, k[i]))))
            return;
    }
    at = rule_src(v[0], v[1]);
    switch (rule->kind) {
    case AT_RULE_EITHER:
        break;
    case AT_RULE_NEEDS:
        if (at_value_set(k[0], v[0]) && !at_value_set(k[1], v[1]))
            at_load_fault(l, v[0]->src, "%s needs %s; %s", rule->a, rule->b,
                          rule->remedy);
        break;
    case AT_RULE_WHEN:
        if (strcmp(v[0]->text, rule->value) == 0 && !at_value_set(k[1], v[1]))
            at_load_fault(l, at, "%s: %s needs %s; %s", rule->a, rule->value,
                          rule->b, rule->remedy);
        break;
    case AT_RULE_SUM:
        sum = v[0]->i + (v[1] ? v[1]->i : 0);
        if (at_value_set(k[2], v[2]) && sum > v[2]->i)
            at_load_fault(l, at, "%s%s%s is %lld, more than %s, %lld; %s",
                          rule->a, rule->b ? " + " : "",
                          rule->b ? rule->b : "", (long long)sum, rule->c,
                          (long long)v[2]->i, rule->remedy);
        break;
    case AT_RULE_DIVIDES:
        if (v[0]->i > 0 && v[1]->i % v[0]->i)
            at_load_fault(l, at, "%s is %lld, no multiple of %s, %lld; %s",
                          rule->b, (long long)v[1]->i, rule->a,
                          (long long)v[0]->i, rule->remedy);
        break;
    }
}

static void check_rules(struct at_load *l)
{
    struct at_src file = { l->r->file, 0, 0 };
    for (size_t i = 0; i < at_n_rules; i++)
        if (at_rules[i].kind == AT_RULE_EITHER)
            check_either(l, &at_rules[i]);
    for (size_t i = 0; i < at_n_keys; i++)
        check_use(l, &at_keys[i]);
    for (size_t i = 0; i < at_n_keys; i++) {
        const struct at_value *v = value(l, &at_keys[i]);
        if (at_keys[i].required && !v->bad && !at_value_set(&at_keys[i], v))
            at_load_fault(l, v->given ? v->src : file, "%s is missing: %s",
                          at_keys[i].name, at_keys[i].help);
    }
    for (size_t i = 0; i < at_n_rules; i++)
        if (at_rules[i].kind != AT_RULE_EITHER)
            check_rule(l, &at_rules[i]);
}

/* ---- the whole ----------------------------------------------------------- */

/* runs/NAME for a recipe NAME.yaml. */
static void default_run(struct at_load *l)
{
    const struct at_key *k = at_key_find("run");
    struct at_value *v = value(l, k);
    const char *slash = strrchr(l->r->file, '/');
    const char *base = slash ? slash + 1 : l->r->file;
    const char *dot = strrchr(base, '.');
    size_t n = dot && dot > base ? (size_t)(dot - base) : strlen(base);
    if (*v->text || v->bad)
        return;
    v->text = at_sprintf(l->cx, l->arena, "runs/%.*s", (int)n, base);
    if (!v->text) {
        v->text = "";
        l->rc = AT_ENOMEM;
    }
}

static bool start(struct at_load *l, const char *name)
{
    l->r = at_alloc(l->cx, l->arena, sizeof *l->r);
    if (!l->r)
        return false;
    l->r->file = at_strdup(l->cx, l->arena, name);
    l->r->value = at_alloc_n(l->cx, l->arena, at_n_keys, sizeof *l->r->value);
    l->group_src = at_alloc_n(l->cx, l->arena, at_n_key_groups,
                              sizeof *l->group_src);
    if (!l->r->file || !l->r->value || !l->group_src)
        return false;
    for (size_t i = 0; i < at_n_keys && l->rc == AT_OK; i++)
        at_value_default(l, &at_keys[i]);
    return l->rc == AT_OK;
}

int at_recipe_parse(struct at_ctx *cx, struct at_arena *arena, const char *name,
                    const char *text, size_t n, const char *const *overrides,
                    size_t n_overrides, struct at_recipe **r)
{
    struct at_load l = { .cx = cx, .arena = arena };
    int rc;
    if (!start(&l, name))
        return AT_ENOMEM;
    at_load_yaml(&l, text, n);
    if (!l.broken) {                    /* else half of the keys are unknown */
        for (size_t i = 0; i < n_overrides && l.rc == AT_OK; i++)
            override(&l, overrides[i]);
        if (l.rc == AT_OK)
            check_rules(&l);
        default_run(&l);
    }
    rc = report(&l);
    if (rc == AT_OK)
        *r = l.r;
    return rc;
}

/* What is often given instead of a recipe.                                   */
static int check_text(struct at_ctx *cx, const char *path)
{
    static const char hdf5[] = "\211HDF\r\n\032\n";
    char head[sizeof hdf5] = "";
    FILE *f = fopen(path, "re");
    if (!f)
        return AT_OK;           /* whoever reads it says why                  */
    head[fread(head, 1, sizeof head - 1, f)] = '\0';
    fclose(f);
    if (memcmp(head, hdf5, sizeof hdf5 - 1) != 0)
        return AT_OK;
    return at_fail(cx, AT_EINVAL, "%s: is no recipe but an HDF5 file, such as a "
                   "model or a dataset: write a text file that names it "
                   "('attune recipe keys' lists what it may hold)", path);
}

int at_recipe_load(struct at_ctx *cx, struct at_arena *arena, const char *path,
                   const char *const *overrides, size_t n_overrides,
                   struct at_recipe **r)
{
    char *text;
    size_t n;
    int rc = check_text(cx, path);
    if (rc == AT_OK)
        rc = at_read_file(cx, arena, path, FILE_MAX, &text, &n);
    if (rc < 0)
        return at_note(cx, rc, "reading the recipe");
    return at_recipe_parse(cx, arena, path, text, n, overrides, n_overrides, r);
}
