/* Patterns over parameter names. */
#include "train/rules.h"

#include "train/adapters/adapter.h"
#include "train/factors.h"
#include "train/models/model.h"

#include <string.h>

struct at_rules {
    struct at_pattern *freeze, *only, *decay;
    struct at_factors scale;
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
    if (rc == AT_OK)
        rc = at_factors_open(cx, arena, r, "optim.lr_scale", "lora_b=16", 1e6,
                             &u->scale);
    return rc;
}

void at_rules_destroy(struct at_rules *u)
{
    if (!u)
        return;
    at_pattern_destroy(u->freeze);
    at_pattern_destroy(u->only);
    at_pattern_destroy(u->decay);
    at_factors_destroy(&u->scale);
}

bool at_rules_train(const void *self, const char *name)
{
    const struct at_rules *u = self;
    bool yes = !u->adapter || at_adapter_owns(name);
    if (u->value && at_decoder_owns_value(name))
        return true;
    if (u->only)
        yes = at_pattern_finds(u->only, name) || at_adapter_owns(name);
    if (u->freeze && at_pattern_finds(u->freeze, name))
        yes = false;
    return yes;
}

void at_rules_optim(const void *self, const struct at_param *p,
                    struct at_group *g)
{
    const struct at_rules *u = self;
    size_t i = at_factors_find(&u->scale, p->val.name);
    g->decay = u->decay ? at_pattern_finds(u->decay, p->val.name)
                        : p->val.shape.n >= 2;
    if (i < u->scale.text.n)
        g->lr_scale = u->scale.one[i].factor;
}

/* A pattern that finds nothing was meant for something.                      */
static int check_fit(struct at_ctx *cx, const char *key,
                     const struct at_pattern *p, const struct at_params *ps)
{
    for (size_t k = 0; p && k < ps->n; k++)
        if (at_pattern_finds(p, ps->p[k]->val.name))
            return AT_OK;
    at_act_on(cx, key);
    return !p ? AT_OK : at_fail(cx, AT_EINVAL, "%s fits no parameter of the "
                                "model; 'attune inspect' lists them", key);
}

int at_rules_explain(struct at_ctx *cx, const struct at_rules *u,
                     const struct at_params *ps)
{
    const char *key = u->freeze ? "freeze" : "train_only";
    int rc = check_fit(cx, "train_only", u->only, ps);
    if (rc < 0)
        return rc;
    if (!u->freeze && !u->only) {
        cx->at = (struct at_src){ 0 };
        return at_fail(cx, AT_EINVAL, "nothing is trained: no trainable "
                       "parameter stands below the loss");
    }
    at_act_on(cx, key);
    return at_fail(cx, AT_EINVAL, "nothing is trained: %s leaves no parameter "
                   "below the loss to train", key);
}

int at_rules_check(struct at_ctx *cx, const struct at_rules *u,
                   const struct at_params *ps)
{
    int rc = check_fit(cx, "train_only", u->only, ps);
    if (rc == AT_OK)
        rc = check_fit(cx, "freeze", u->freeze, ps);
    if (rc < 0)
        return rc;
    cx->at = u->scale.at;
    for (size_t i = 0; i < u->scale.text.n; i++) {
        bool used = false;
        for (size_t k = 0; k < ps->n && !used; k++)
            used = ps->p[k]->trainable &&
                   at_factors_find(&u->scale, ps->p[k]->val.name) == i;
        if (!used)
            return at_fail(cx, AT_EINVAL, "optim.lr_scale's '%s' is the first "
                           "to fit no trained parameter; 'attune inspect' "
                           "lists a model's", u->scale.text.s[i]);
    }
    return AT_OK;
}
