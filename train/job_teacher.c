/* A job's teacher: the model whose predictions are learnt beside the targets. */
#include "train/job.h"

/* The dense model that a pruned one was made of.                             */
static int dense_path(struct at_job *j, const char **path, const char **id)
{
    struct at_h5 *f = !j->start ? NULL : j->start->base ? j->start->base
                                                         : j->start->f;
    int rc;
    if (!f || !at_h5_has_fact(f, "dense_path"))
        return at_fail(j->cx, AT_EINVAL, "teacher.weight is set, and the model "
                       "was not pruned from another: give teacher.path");
    rc = at_h5_get_text(j->cx, f, "dense_path", &j->cx->run, path);
    return rc < 0 ? rc : at_h5_get_text(j->cx, f, "dense_id", &j->cx->run, id);
}

static int check(struct at_job *j, const char *path, const char *id)
{
    const struct at_model *m = j->dense;
    char mine[33], theirs[33];
    if (id && strcmp(id, m->id) != 0)
        return at_fail(j->cx, AT_EINVAL, "%s is not what the model was pruned "
                       "from any more (its identity was %s, it is %s): give "
                       "teacher.path", path, id, m->id);
    if (!m->tok || m->d.value)
        return at_fail(j->cx, AT_EINVAL, "%s cannot teach: it writes no text",
                       path);
    at_hash_hex(at_tok_hash(j->tok), mine);
    at_hash_hex(at_tok_hash(m->tok), theirs);
    if (strcmp(mine, theirs) != 0 || m->d.V != j->d.V)
        return at_fail(j->cx, AT_EINVAL, "%s has another tokenizer or "
                       "vocabulary than the model: it cannot teach it", path);
    if (m->adapters.n)
        return at_fail(j->cx, AT_EINVAL, "%s is an adapter: merge it first "
                       "('attune merge')", path);
    return AT_OK;
}

static bool nothing(const void *self, const char *name)
{
    (void)self;
    (void)name;
    return false;
}

int at_job_open_teacher(struct at_job *j)
{
    const char *path = at_recipe_text(j->r, "teacher.path"), *id = NULL;
    int rc = AT_OK;
    j->teacher.weight = at_recipe_real(j->r, "teacher.weight");
    j->teacher.temperature = at_recipe_real(j->r, "teacher.temperature");
    act_on(j, "teacher.weight");
    if (!(j->teacher.weight > 0))
        return AT_OK;
    if (j->objective)
        return at_fail(j->cx, AT_EINVAL, "objective %s has no teacher: it is for "
                       "lm and sft", j->objective->name);
    if (!is_set(j, "teacher.path"))
        rc = dense_path(j, &path, &id);
    else
        act_on(j, "teacher.path");
    if (rc == AT_OK)
        rc = at_model_open(j->cx, &j->cx->run, path, &j->dense);
    if (rc < 0)
        return at_note(j->cx, rc, "opening the teacher");
    rc = check(j, path, id);
    j->teacher.d = &j->dense->d;
    j->teacher.ps = at_alloc(j->cx, &j->cx->run, sizeof *j->teacher.ps);
    if (rc < 0 || !j->teacher.ps)
        return rc < 0 ? rc : AT_ENOMEM;
    at_params_init(j->teacher.ps, j->cx, &j->cx->run);
    j->teacher.ps->need_grads = false;
    j->teacher.ps->trains = nothing;
    return AT_OK;
}

int at_job_start_teacher(struct at_job *j)
{
    int rc = j->teacher.ps ? at_params_seal(j->teacher.ps) : AT_OK;
    return j->teacher.ps && rc == AT_OK
               ? at_model_read(j->cx, j->dense, j->teacher.ps, false) : rc;
}

void at_job_close_teacher(struct at_job *j)
{
    if (j->teacher.ps)
        at_params_finish(j->teacher.ps);
    at_model_close(j->dense);
}
