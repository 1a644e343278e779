/* Targets: from "helpful>=p70" to levels. */
#include "optim/palette_pass.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---------------------------------------------------------------- */

static bool number(const char *s, double *x)
{
    char *end;
    *x = strtod(s, &end);
    return end != s && !*end && isfinite(*x);
}

static int find_value(struct at_ctx *cx, const char *text, size_t n,
                      const char *const *name, size_t m, size_t *value)
{
    struct at_text all = { 0 };
    const char *near;
    char word[256];
    for (size_t i = 0; i < m; i++)
        if (strlen(name[i]) == n && strncmp(name[i], text, n) == 0) {
            *value = i;
            return AT_OK;
        }
    snprintf(word, sizeof word, "%.*s", (int)(n < 255 ? n : 255), text);
    near = at_did_you_mean(word, name, m);
    for (size_t i = 0; i < m; i++)
        at_text_addf(&all, i ? ", %s" : "%s", name[i]);
    at_fail(cx, AT_EINVAL, "there is no value '%s'%s%s%s; there are: %s", word,
            near ? ": did you mean '" : "", near ? near : "", near ? "'?" : "",
            all.s ? all.s : "");
    at_text_finish(&all);
    return AT_EINVAL;
}

int at_target_parse(struct at_ctx *cx, struct at_arena *a, const char *text,
                    const char *const *name, size_t m, struct at_target *t)
{
    const char *op = strstr(text, ">="), *s = op ? op + 2 : NULL;
    struct at_target made = { .text = at_strdup(cx, a, text) };
    int rc;
    bool good;
    if (!made.text)
        return AT_ENOMEM;
    if (!op || op == text)
        return at_fail(cx, AT_EINVAL, "'%s' is no target: write NAME>=LEVEL, in "
                       "quotes: 'helpful>=0.5', 'helpful>=p70', "
                       "'helpful>=now+0.2'", text);
    rc = find_value(cx, text, (size_t)(op - text), name, m, &made.value);
    if (rc < 0)
        return rc;
    if (strcmp(s, "max") == 0) {
        made.kind = AT_TARGET_MAX;
        good = true;
    } else if (strcmp(s, "now") == 0) {
        made.kind = AT_TARGET_PLUS;
        good = true;
    } else if (strncmp(s, "now", 3) == 0) {
        made.kind = s[3] == '*' ? AT_TARGET_TIMES : AT_TARGET_PLUS;
        good = strchr("+-*", s[3]) && strchr("+-", s[4]) == NULL &&
               number(s + 4, &made.x);
        if (s[3] == '-')
            made.x = -made.x;
    } else if (s[0] == 'p') {
        made.kind = AT_TARGET_PERCENTILE;
        good = number(s + 1, &made.x) && made.x >= 0 && made.x <= 100;
    } else {
        made.kind = AT_TARGET_LEVEL;
        good = number(s, &made.x);
    }
    if (!good)
        return at_fail(cx, AT_EINVAL, "'%s': '%s' is no level: give a number, a "
                       "percentile (p0 to p100), now, now+X, now-X, now*X or "
                       "max", text, s);
    *t = made;
    return AT_OK;
}

/* ---- percentiles --------------------------------------------------------------- */

/* The element of a rank, exactly, without sorting: eight passes settle one
 * byte each of the elements' bits, made to order as whole numbers.           */
struct rank {
    size_t value;
    uint64_t left;              /* rank among those with the settled prefix   */
    uint64_t prefix;
};

struct ranks {
    struct rank *of;
    size_t n;
    int shift;
    uint64_t *count;            /* [n, 256] of this pass                      */
};

static uint64_t order(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits >> 63 ? ~bits : bits | (uint64_t)1 << 63;
}

static double unorder(uint64_t key)
{
    uint64_t bits = key >> 63 ? key & ~((uint64_t)1 << 63) : ~key;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void rank_block(const void *self, const struct at_pal_block *b,
                       void *result)
{
    const struct ranks *s = self;
    uint32_t *count = result;
    memset(count, 0, s->n * 256 * sizeof *count);
    for (size_t i = 0; i < s->n; i++) {
        const double *z = b->z + s->of[i].value * AT_PAL_ROWS;
        for (size_t j = 0; j < b->n; j++) {
            uint64_t key = order(z[j] + 0.0);
            if (s->shift == 56 ||
                key >> (s->shift + 8) == s->of[i].prefix)
                count[i * 256 + (key >> s->shift & 255)]++;
        }
    }
}

static int rank_merge(struct at_ctx *cx, void *self, void *result)
{
    struct ranks *s = self;
    const uint32_t *count = result;
    (void)cx;
    for (size_t i = 0; i < s->n * 256; i++)
        s->count[i] += count[i];
    return AT_OK;
}

static int find_ranks(struct at_ctx *cx, struct at_palette *p, struct rank *of,
                      size_t n)
{
    struct at_pal_pass pass = { n * 256 * sizeof(uint32_t), rank_block,
                                rank_merge, true };
    struct ranks s = { .of = of, .n = n };
    struct at_arena a = { 0 };
    int rc = AT_OK;
    s.count = at_alloc_n(cx, &a, n * 256, sizeof *s.count);
    if (!s.count)
        rc = AT_ENOMEM;
    for (s.shift = 56; s.shift >= 0 && rc == AT_OK; s.shift -= 8) {
        memset(s.count, 0, n * 256 * sizeof *s.count);
        rc = at_pal_run(cx, p, &pass, &s);
        for (size_t i = 0; i < n && rc == AT_OK; i++) {
            uint64_t byte = 0;
            while (of[i].left >= s.count[i * 256 + byte])
                of[i].left -= s.count[i * 256 + byte++];
            of[i].prefix = of[i].prefix << 8 | byte;
        }
    }
    at_arena_finish(&a);
    return rc;
}

/* Percentiles by linear interpolation between ranks, as numpy's default. */
static int percentiles(struct at_ctx *cx, struct at_palette *p,
                       const struct at_target *t, size_t n, double *c)
{
    struct rank of[2 * AT_PALETTE_VALUES];
    size_t k = 0;
    int rc;
    for (size_t i = 0; i < n; i++) {
        uint64_t low;
        if (t[i].kind != AT_TARGET_PERCENTILE)
            continue;
        low = (uint64_t)(t[i].x / 100 * (double)(p->n_rows - 1));
        of[k++] = (struct rank){ t[i].value, low, 0 };
        of[k++] = (struct rank){ t[i].value, low + 1 < p->n_rows ? low + 1
                                                                 : low, 0 };
    }
    if (k == 0)
        return AT_OK;
    rc = find_ranks(cx, p, of, k);
    k = 0;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        double at = t[i].x / 100 * (double)(p->n_rows - 1);
        size_t v = t[i].value;
        double a, b, x;
        if (t[i].kind != AT_TARGET_PERCENTILE)
            continue;
        a = unorder(of[k++].prefix);
        b = unorder(of[k++].prefix);
        x = p->mean[v] + p->sd[v] * (a + (at - floor(at)) * (b - a));
        c[v] = x > p->now[v] ? x : p->now[v];
    }
    return rc;
}

/* ---- levels --------------------------------------------------------------------- */

/* The most of value v that the levels in c leave. */
static int largest(struct at_ctx *cx, struct at_palette *p, size_t v,
                   const double *c, double *most)
{
    size_t at[AT_PALETTE_VALUES], k = 0;
    double b[AT_PALETTE_VALUES] = { 0 }, d[AT_PALETTE_VALUES] = { 0 }, margin;
    struct at_pal_lp lp;
    int rc = at_palette_margin(cx, p, c, &margin);
    if (rc < 0)
        return rc;
    if (margin < 0)
        return at_fail(cx, AT_EINVAL, "'%s>=max' asks for the most that the "
                       "other targets leave, and these cannot be reached "
                       "together: leave it out to see which stand in the way",
                       p->src->name[v]);
    for (size_t i = 0; i < p->m; i++) {
        if (isnan(c[i]) && i != v)
            continue;
        if (p->sd[i] == 0 && i != v)
            continue;
        at[k++] = i;
        b[i] = i == v ? 0 : (c[i] - p->mean[i]) / p->sd[i];
    }
    d[v] = 1;
    rc = at_pal_reach(cx, p, at, k, b, d, &lp);
    if (rc == AT_OK)
        *most = p->mean[v] + p->sd[v] * lp.tau;
    return rc;
}

static int level(struct at_ctx *cx, const struct at_palette *p,
                 const struct at_target *t, double *c)
{
    double now = p->now[t->value];
    switch (t->kind) {
    case AT_TARGET_LEVEL: *c = t->x; break;
    case AT_TARGET_PLUS: *c = now + t->x; break;
    case AT_TARGET_TIMES:
        if (!(now > 0))
            return at_fail(cx, AT_EINVAL, "'%s': now is %g, and a multiple of "
                           "what is not positive is no gain: use now+X",
                           t->text, now);
        *c = now * t->x;
        break;
    case AT_TARGET_PERCENTILE:
    case AT_TARGET_MAX:
        break;
    }
    return AT_OK;
}

int at_palette_levels(struct at_ctx *cx, struct at_palette *p,
                      const struct at_target *t, size_t n, double margin,
                      double *c)
{
    const char *asked[AT_PALETTE_VALUES] = { NULL };
    const struct at_target *max = NULL;
    double most = 0;
    int rc = AT_OK;
    for (size_t i = 0; i < p->m; i++)
        c[i] = NAN;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        if (asked[t[i].value])
            return at_fail(cx, AT_EINVAL, "'%s' has two targets, '%s' and '%s': "
                           "give one", p->src->name[t[i].value],
                           asked[t[i].value], t[i].text);
        asked[t[i].value] = t[i].text;
        if (max && t[i].kind == AT_TARGET_MAX)
            return at_fail(cx, AT_EINVAL, "'%s' and '%s': only one value can "
                           "take all that the others leave; give a level to the "
                           "rest, or see --sweep", max->text, t[i].text);
        if (t[i].kind == AT_TARGET_MAX)
            max = &t[i];
        rc = level(cx, p, &t[i], &c[t[i].value]);
    }
    if (rc == AT_OK)
        rc = percentiles(cx, p, t, n, c);
    if (rc == AT_OK && max) {
        rc = largest(cx, p, max->value, c, &most);
        if (rc == AT_OK)
            c[max->value] = most - margin * p->sd[max->value];
    }
    return rc;
}
