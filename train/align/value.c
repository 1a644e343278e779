/* Values by their spelling. */
#include "train/align/value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct at_value_kind *const at_value_kinds[] = {
    &at_value_reward, &at_value_logit, &at_value_probability,
    &at_value_perplexity, &at_value_coherence, &at_value_diversity,
    &at_value_length, &at_value_pattern, &at_value_command, NULL
};

static int unknown(struct at_ctx *cx, const char *spec, const char *kind)
{
    const char *names[AT_COUNT(at_value_kinds)], *near;
    struct at_text t = { 0 };
    size_t n = 0;
    int rc;
    for (; at_value_kinds[n]; n++) {
        names[n] = at_value_kinds[n]->name;
        at_text_addf(&t, "%s%s", n ? ", " : "", names[n]);
    }
    near = at_did_you_mean(kind, names, n);
    rc = at_fail(cx, AT_EINVAL, "value '%s': there is no kind '%s'%s%s%s; known "
                 "are %s", spec, kind, near ? ": did you mean '" : "",
                 near ? near : "", near ? "'?" : "", t.s ? t.s : "");
    at_text_finish(&t);
    return rc;
}

/* "NAME=-KIND:ARGUMENT" */
static int open_one(struct at_ctx *cx, struct at_arena *a, const char *spec,
                    struct at_value *v)
{
    size_t n = strcspn(spec, "=:"), len;
    const char *rest = spec[n] == '=' ? spec + n + 1 : spec, *kind, *argument;
    *v = (struct at_value){ .spec = at_strdup(cx, a, rest),
                            .turned = *rest == '-' };
    len = strcspn(rest + v->turned, ":");
    kind = at_strndup(cx, a, rest + v->turned, len);
    argument = rest + v->turned + len;
    argument += *argument == ':';
    v->name = spec[n] == '=' ? at_strndup(cx, a, spec, n) : kind;
    if (!v->spec || !kind || !v->name)
        return AT_ENOMEM;
    for (size_t i = 0; at_value_kinds[i]; i++)
        if (strcmp(at_value_kinds[i]->name, kind) == 0)
            v->kind = at_value_kinds[i];
    if (!v->kind)
        return unknown(cx, spec, kind);
    if (!*v->name || strpbrk(v->name, "\n,<> "))
        return at_fail(cx, AT_EINVAL, "value '%s': a name has no spaces, commas "
                       "or angle brackets", spec);
    if (v->kind->argument && !*argument)
        return at_fail(cx, AT_EINVAL, "value '%s': say %s:%s", spec, kind,
                       v->kind->argument);
    if (!v->kind->argument && *argument)
        return at_fail(cx, AT_EINVAL, "value '%s': %s takes nothing behind a "
                       "colon", spec, kind);
    return v->kind->open(cx, a, argument, &v->impl);
}

int at_values_open(struct at_ctx *cx, struct at_arena *a,
                   const char *const *spec, size_t n, struct at_values *v)
{
    int rc = AT_OK;
    *v = (struct at_values){ 0 };
    if (n > AT_VALUES_MAX)
        return at_fail(cx, AT_EINVAL, "%zu values; %d are the most", n,
                       AT_VALUES_MAX);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        rc = open_one(cx, a, spec[i], &v->v[i]);
        v->n += v->v[i].impl || rc == AT_OK;    /* to be closed               */
        for (size_t k = 0; k < i && rc == AT_OK; k++)
            if (strcmp(v->v[k].name, v->v[i].name) == 0)
                rc = at_fail(cx, AT_EINVAL, "two values are named '%s': give "
                             "one another name, NAME=%s", v->v[i].name,
                             v->v[i].spec);
    }
    if (rc < 0)
        at_values_close(v);
    return rc;
}

void at_values_close(struct at_values *v)
{
    for (size_t i = 0; i < v->n; i++)
        if (v->v[i].impl && v->v[i].kind->close)
            v->v[i].kind->close(v->v[i].impl);
    v->n = 0;
}

int at_values_score(struct at_ctx *cx, const struct at_values *v,
                    const struct at_said *said, size_t n, double *score)
{
    double *one = malloc((n + 1) * sizeof *one);
    int rc = one ? AT_OK : at_fail(cx, AT_ENOMEM, "out of memory: scores");
    for (size_t i = 0; i < v->n && rc == AT_OK; i++) {
        const struct at_value *x = &v->v[i];
        rc = x->kind->score(cx, x->impl, said, n, one);
        for (size_t k = 0; k < n && rc == AT_OK; k++) {
            score[k * v->n + i] = x->turned ? -one[k] : one[k];
            if (!isfinite(one[k]))
                rc = at_fail(cx, AT_ENONFINITE, "value '%s' is %g for the text "
                             "'%.*s'", x->name, one[k],
                             said[k].n_text < 60 ? (int)said[k].n_text : 60,
                             said[k].text);
        }
    }
    free(one);
    return rc;
}
