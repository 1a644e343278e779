/* Checking and copying. */
#include "train/intake.h"

#include <string.h>

enum { FAULTS_MAX = 20 };

struct faults { struct at_text t; size_t n; };

static void fault(struct faults *f, const char *name, const char *what,
                  const char *want, const char *is)
{
    if (f->n++ < FAULTS_MAX)
        at_text_addf(&f->t, "\n  '%.200s' %s%s%s%s", name, what, want,
                     *is ? ", not " : "", is);
}

static void check_param(const struct at_source *s, const struct at_param *p,
                        bool *used, struct faults *f)
{
    struct at_theirs t;
    char a[96], b[96];
    if (!s->find(s->self, p, &t)) {
        fault(f, p->val.name, "has no name there", "", "");
        return;
    }
    at_shape_text(a, &t.want);
    if (t.index == SIZE_MAX) {
        fault(f, t.name, "is missing; it must be ", a, "");
        return;
    }
    used[t.index] = true;
    if (t.is.n != t.want.n ||
        memcmp(t.is.d, t.want.d, t.want.n * sizeof *t.is.d) != 0)
        fault(f, t.name, "must be ", a, at_shape_text(b, &t.is));
    else if (t.unread)
        fault(f, t.name, "must be ", s->types, t.unread);
}

int at_intake_check(struct at_ctx *cx, const struct at_source *s,
                    const struct at_params *ps)
{
    bool *used = at_alloc_n(cx, &cx->run, s->n + 1, sizeof *used);
    struct faults f = { 0 };
    int rc;
    if (!used)
        return AT_ENOMEM;
    for (size_t i = 0; i < ps->n; i++)
        check_param(s, ps->p[i], used, &f);
    for (size_t i = 0; i < s->n; i++)
        if (!used[i] && !s->ignores(s->self, s->name(s->self, i)))
            fault(&f, s->name(s->self, i), "has no place in the model", "", "");
    if (f.n > FAULTS_MAX)
        at_text_addf(&f.t, "\n  and %zu more", f.n - FAULTS_MAX);
    rc = at_text_ok(cx, &f.t);
    if (rc == AT_OK && f.n > 0)
        rc = at_fail(cx, AT_EFORMAT, "%s:%s", s->what, f.t.s);
    at_text_finish(&f.t);
    return rc;
}

static int copy_param(struct at_ctx *cx, const struct at_source *s,
                      const struct at_param *p, struct at_h5 *f, float *x)
{
    const struct at_shape *shape = &p->val.shape;
    struct at_theirs t;
    char name[AT_H5_NAME];
    int rc = s->read(cx, s->self, p, x);
    if (rc < 0)
        return rc;
    s->find(s->self, p, &t);
    if (!at_all_finite(x, at_shape_count(shape)))
        return at_fail(cx, AT_EFORMAT, "tensor '%s' holds numbers that are not "
                       "finite", t.name);
    snprintf(name, sizeof name, "params/%s", p->val.name);
    return at_h5_put_weights(cx, f, name, t.bf16 ? AT_H5_BF16 : AT_H5_F32,
                             shape->n, shape->d, x);
}

int at_intake_copy(struct at_ctx *cx, const struct at_source *s,
                   const struct at_params *ps, struct at_h5 *f)
{
    float *x = NULL;
    size_t cap = 0;
    int rc = AT_OK;
    for (size_t i = 0; i < ps->n && rc == AT_OK; i++) {
        rc = at_grow(cx, &x, &cap, at_shape_count(&ps->p[i]->val.shape),
                     sizeof *x);
        if (rc == AT_OK)
            rc = copy_param(cx, s, ps->p[i], f, x);
    }
    at_free(x);
    return rc;
}
