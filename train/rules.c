/* Patterns over parameter names. */
#include "train/rules.h"

#include "train/adapters/adapter.h"
#include "train/models/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct scale { struct at_pattern *p; double factor; };

struct at_rules {
    struct at_pattern *freeze, *only, *decay;
    struct scale *scale;        /* the first that fits counts                 */
    size_t n_scales;
    struct at_src scale_at;     /* where the recipe says them                 */
    struct at_strings scale_text;
    bool adapter, value;
};

static int open_pattern(struct at_ctx *cx, const struct at_recipe *r,
                        const char *key, struct at_pattern **p)
{
    const char *text = at_recipe_text(r, key);
    if (!text[0])
        return AT_OK;
    cx->at = at_recipe_src(r, key);
    return at_pattern_create(cx, text, p);
}

/* PATTERN=FACTOR, split at the last '='.                                     */
static int open_scale(struct at_ctx *cx, const char *text, struct scale *s)
{
    const char *split = strrchr(text, '=');
    char *end, *pattern;
    int rc;
    if (split)
        s->factor = strtod(split + 1, &end);
    if (!split || split == text || end == split + 1 || *end ||
        !(s->factor >= 0 && s->factor <= 1e6))
        return at_fail(cx, AT_EINVAL, "optim.lr_scale has '%s'; it must be "
                       "PATTERN=FACTOR, such as 'lora_b=16', with a factor "
                       "from 0 to 1e6", text);
    pattern = at_strndup(cx, &cx->scratch, text, (size_t)(split - text));
    if (!pattern)
        return AT_ENOMEM;
    rc = at_pattern_create(cx, pattern, &s->p);
    return rc < 0 ? at_note(cx, rc, "reading optim.lr_scale") : AT_OK;
}

int at_rules_create(struct at_ctx *cx, struct at_arena *arena,
                    const struct at_recipe *r, bool adapter,
                    bool value, struct at_rules **made)
{
    struct at_rules *u = at_alloc(cx, arena, sizeof *u);
    int rc;
    if (!u)
        return AT_ENOMEM;
    *made = u;
    u->adapter = adapter;
    u->value = value;
    rc = open_pattern(cx, r, "freeze", &u->freeze);
    if (rc == AT_OK)
        rc = open_pattern(cx, r, "train_only", &u->only);
    if (rc == AT_OK)
        rc = open_pattern(cx, r, "optim.decay", &u->decay);
    u->scale_text = at_recipe_list(r, "optim.lr_scale");
    u->scale_at = at_recipe_src(r, "optim.lr_scale");
    u->scale = at_alloc_n(cx, arena, u->scale_text.n + 1, sizeof *u->scale);
    if (rc == AT_OK && !u->scale)
        rc = AT_ENOMEM;
    cx->at = u->scale_at;
    for (; rc == AT_OK && u->n_scales < u->scale_text.n; u->n_scales++)
        rc = open_scale(cx, u->scale_text.s[u->n_scales],
                        &u->scale[u->n_scales]);
    return rc;
}

void at_rules_destroy(struct at_rules *u)
{
    if (!u)
        return;
    at_pattern_destroy(u->freeze);
    at_pattern_destroy(u->only);
    at_pattern_destroy(u->decay);
    for (size_t i = 0; u->scale && i < u->scale_text.n; i++)
        at_pattern_destroy(u->scale[i].p);
}

bool at_rules_train(const void *self, const char *name)
{
    const struct at_rules *u = self;
    bool yes = !u->adapter || at_adapter_owns(name);
    if (u->value && at_decoder_owns_value(name))
        return true;
    if (u->value && strcmp(name, "head.weight") == 0)
        return false;           /* a reward model predicts no tokens          */
    if (u->only)
        yes = at_pattern_finds(u->only, name) || at_adapter_owns(name);
    if (u->freeze && at_pattern_finds(u->freeze, name))
        yes = false;
    return yes;
}

/* The entry for a parameter; n_scales when there is none.                    */
static size_t scale_of(const struct at_rules *u, const char *name)
{
    size_t i = 0;
    while (i < u->n_scales && !at_pattern_finds(u->scale[i].p, name))
        i++;
    return i;
}

void at_rules_optim(const void *self, const struct at_param *p,
                    struct at_group *g)
{
    const struct at_rules *u = self;
    size_t i = scale_of(u, p->val.name);
    g->decay = u->decay ? at_pattern_finds(u->decay, p->val.name)
                        : p->val.shape.n >= 2;
    if (i < u->n_scales)
        g->lr_scale = u->scale[i].factor;
}

int at_rules_check(struct at_ctx *cx, const struct at_rules *u,
                   const struct at_params *ps)
{
    cx->at = u->scale_at;
    for (size_t i = 0; i < u->n_scales; i++) {
        bool used = false;
        for (size_t k = 0; k < ps->n && !used; k++)
            used = ps->p[k]->trainable &&
                   scale_of(u, ps->p[k]->val.name) == i;
        if (!used)
            return at_fail(cx, AT_EINVAL, "optim.lr_scale's '%s' is the first "
                           "to fit no trained parameter; 'attune inspect' "
                           "lists a model's", u->scale_text.s[i]);
    }
    return AT_OK;
}
