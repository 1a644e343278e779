/* Checkpoints: write, rotate, read, fall back. */
#include "train/adapter_file.h"
#include "train/run.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 4096, PATH = 4096 };

static void path_of(const struct at_job *j, uint64_t step, char path[PATH])
{
    snprintf(path, PATH, "%s/checkpoints/step-%08llu.h5", j->dir,
             (unsigned long long)step);
}

static int put_state(struct at_ctx *cx, struct at_h5 *f,
                     const struct at_state *s)
{
    const struct { const char *name; uint64_t v; } ints[] = {
        { "step", s->step }, { "tokens", s->tokens },
        { "best_step", s->best_step }, { "bad_evals", s->bad_evals },
        { "epoch", s->cursor.epoch }, { "index", s->cursor.index },
        { "offset", s->cursor.offset }, { "has_best", s->has_best },
        { "done", s->done }, { "eval_due", s->eval_due },
    };
    int rc = AT_OK;
    for (size_t i = 0; i < AT_COUNT(ints) && rc == AT_OK; i++)
        rc = at_h5_set_int(cx, f, ints[i].name, (int64_t)ints[i].v);
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "best_loss", s->best_loss);
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "norm_mean", s->norm_mean);
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "norm_var", s->norm_var);
    return rc;
}

static int get_state(struct at_ctx *cx, struct at_h5 *f, struct at_state *s)
{
    int64_t best = 0, done = 0, due = 0;
    const struct { const char *name; void *v; } ints[] = {
        { "step", &s->step }, { "tokens", &s->tokens },
        { "best_step", &s->best_step }, { "bad_evals", &s->bad_evals },
        { "epoch", &s->cursor.epoch }, { "index", &s->cursor.index },
        { "offset", &s->cursor.offset }, { "has_best", &best },
        { "done", &done }, { "eval_due", &due },
    };
    int rc = AT_OK;
    for (size_t i = 0; i < AT_COUNT(ints) && rc == AT_OK; i++)
        rc = at_h5_get_int(cx, f, ints[i].name, ints[i].v);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "best_loss", &s->best_loss);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "norm_mean", &s->norm_mean);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "norm_var", &s->norm_var);
    s->has_best = best != 0;
    s->done = done != 0;
    s->eval_due = due != 0;
    return rc;
}

static int put_recipe(struct at_job *j, struct at_h5 *f)
{
    struct at_text t = { 0 };
    int rc = at_recipe_print(j->cx, j->r, true, &t);
    if (rc == AT_OK)
        rc = at_text_ok(j->cx, &t);
    if (rc == AT_OK)
        rc = at_h5_set_text(j->cx, f, "recipe", t.s);
    at_text_finish(&t);
    return rc;
}

static int put_adapters(struct at_job *j, struct at_h5 *f)
{
    struct at_ctx *cx = j->cx;
    char *real = realpath(at_h5_path(j->start->base ? j->start->base
                                                    : j->start->f), NULL);
    int rc = at_adapters_put(cx, f, &j->adapters, real ? real : "",
                             j->start->base ? j->start->base_id
                                            : j->start->id);
    free(real);
    return rc;
}

/* Datasets are known by what is in them: a copy elsewhere is the same one.    */
static int put_data(struct at_job *j, struct at_h5 *f)
{
    char id[33];
    int rc = at_arrays_identify(j->cx, j->data->f, "", id);
    if (rc == AT_OK)
        rc = at_h5_set_text(j->cx, f, "data_id", id);
    if (rc == AT_OK && j->validation != j->data)
        rc = at_arrays_identify(j->cx, j->validation->f, "", id);
    if (rc == AT_OK && j->validation != j->data)
        rc = at_h5_set_text(j->cx, f, "validation_id", id);
    return rc;
}

static int put_moments(struct at_job *j, struct at_h5 *f)
{
    const struct at_optim *o = j->o;
    int rc = at_h5_set_int(j->cx, f, "optim_step", (int64_t)o->step);
    for (int s = 0; s < o->impl->n_state && rc == AT_OK; s++)
        for (size_t i = 0; i < j->ps.n && o->state[s] && rc == AT_OK; i++) {
            const struct at_param *p = j->ps.p[i];
            char name[AT_H5_NAME];
            if (!p->trainable)
                continue;
            snprintf(name, sizeof name, "optim/%s/%s", o->impl->state_name[s],
                     p->val.name);
            rc = at_h5_put(j->cx, f, name, AT_H5_F32, p->val.shape.n,
                           p->val.shape.d, o->state[s] + p->flat);
        }
    return rc;
}

static int get_moments(struct at_job *j, struct at_h5 *f)
{
    struct at_optim *o = j->o;
    int64_t step = 0;
    int rc = at_h5_get_int(j->cx, f, "optim_step", &step);
    for (int s = 0; s < o->impl->n_state && rc == AT_OK; s++)
        for (size_t i = 0; i < j->ps.n && o->state[s] && rc == AT_OK; i++) {
            const struct at_param *p = j->ps.p[i];
            char name[AT_H5_NAME];
            if (!p->trainable)
                continue;
            snprintf(name, sizeof name, "optim/%s/%s", o->impl->state_name[s],
                     p->val.name);
            rc = at_h5_get(j->cx, f, name, AT_H5_F32, p->val.shape.n,
                           p->val.shape.d, o->state[s] + p->flat);
        }
    if (rc == AT_OK)
        o->step = (uint64_t)step;
    return rc;
}

/* Points DIR/checkpoints/NAME at step's file, by renaming a fresh link over
 * the old one.                                                               */
static int move_link(struct at_job *j, const char *name, uint64_t step)
{
    char target[64], link[PATH], tmp[PATH + 16];
    snprintf(target, sizeof target, "step-%08llu.h5", (unsigned long long)step);
    snprintf(link, sizeof link, "%s/checkpoints/%s", j->dir, name);
    snprintf(tmp, sizeof tmp, "%s.tmp.%ld", link, (long)getpid());
    unlink(tmp);
    if (symlink(target, tmp) < 0 || rename(tmp, link) < 0)
        return at_fail_errno(j->cx, errno, "%s: cannot be moved to %s", link,
                             target);
    return AT_OK;
}

static int by_step(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* Steps of the checkpoints there are, newest first.                          */
static size_t list(const struct at_job *j, uint64_t steps[MOST], bool sweep)
{
    char path[PATH];
    struct dirent *e;
    size_t n = 0;
    DIR *dir;
    snprintf(path, sizeof path, "%s/checkpoints", j->dir);
    dir = opendir(path);
    while (dir && n < MOST && (e = readdir(dir))) {
        unsigned long long step;
        int end = 0;
        if (sscanf(e->d_name, "step-%8llu.h5%n", &step, &end) == 1 && end > 0 &&
            e->d_name[end] == '\0') {
            steps[n++] = step;
        } else if (sweep && strstr(e->d_name, ".tmp.")) {
            /* What an interrupted write left behind.                         */
            snprintf(path, sizeof path, "%s/checkpoints/%s", j->dir,
                     e->d_name);
            unlink(path);
        }
    }
    if (dir)
        closedir(dir);
    qsort(steps, n, sizeof *steps, by_step);
    return n;
}

/* Called after the new one is known to be whole. */
static void rotate(struct at_job *j)
{
    uint64_t steps[MOST];
    size_t n = list(j, steps, false);
    size_t keep = (size_t)at_recipe_int(j->r, "checkpoint.keep");
    bool keep_best = at_recipe_bool(j->r, "checkpoint.keep_best");
    for (size_t i = keep; i < n; i++) {
        char path[PATH];
        if (keep_best && j->s.has_best && steps[i] == j->s.best_step)
            continue;
        path_of(j, steps[i], path);
        unlink(path);
    }
}

static int verify(struct at_ctx *cx, const char *path)
{
    const char *const *names;
    struct at_h5 *f;
    size_t n;
    int rc = at_h5_open(cx, path, "checkpoint", &f);
    if (rc < 0)
        return rc;
    rc = at_h5_names(cx, f, "", &cx->scratch, &names, &n);
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        rc = at_h5_verify(cx, f, names[i]);
    at_h5_close(f);
    at_arena_reset(&cx->scratch);
    return rc;
}

int at_checkpoint_write(struct at_job *j, bool is_best)
{
    struct at_ctx *cx = j->cx;
    char path[PATH];
    struct at_h5 *f;
    int rc;
    path_of(j, j->s.step, path);
    j->s.norm_mean = j->st->norm_mean;
    j->s.norm_var = j->st->norm_var;
    rc = at_h5_create(cx, path, "checkpoint", &f);
    if (rc < 0)
        return at_note(cx, rc, "writing a checkpoint");
    rc = put_state(cx, f, &j->s);
    if (rc == AT_OK)
        rc = put_recipe(j, f);
    if (rc == AT_OK)
        rc = put_data(j, f);
    if (rc == AT_OK && j->adapters.n)
        rc = put_adapters(j, f);
    if (rc == AT_OK)
        rc = at_model_put(cx, f, &j->d, j->tok, &j->ps,
                          j->adapters.n ? AT_PUT_TRAINABLE : AT_PUT_ALL, AT_H5_F32,
                          NULL);
    if (rc == AT_OK && j->start && !j->adapters.n)
        rc = at_model_put_kept(cx, f, j->start->f);
    if (rc == AT_OK)
        rc = put_moments(j, f);
    if (rc == AT_OK && j->roller)
        rc = at_roller_put(cx, f, j->roller);
    if (rc < 0) {
        at_h5_close(f);
        return at_note(cx, rc, "writing a checkpoint");
    }
    rc = at_h5_commit(cx, f);
    if (rc == AT_OK)
        rc = verify(cx, path);
    if (rc == AT_OK)
        rc = move_link(j, "latest", j->s.step);
    if (rc == AT_OK && is_best)
        rc = move_link(j, "best", j->s.step);
    if (rc < 0)
        return at_note(cx, rc, "writing a checkpoint");
    rotate(j);
    return AT_OK;
}

/* An adapter goes on with the weights, and the mask, that it was trained on.  */
static int check_base(struct at_job *j, struct at_h5 *f)
{
    const struct at_model *m = j->start;
    const char *id;
    int rc;
    if (!j->adapters.n)
        return AT_OK;
    rc = at_h5_get_text(j->cx, f, "base_id", &j->cx->scratch, &id);
    if (rc == AT_OK && strcmp(id, m->base ? m->base_id : m->id) != 0)
        rc = at_fail(j->cx, AT_EINVAL, "%s: its adapter was trained on other "
                     "weights (or another mask) than %s holds now",
                     at_h5_path(f), at_h5_path(m->base ? m->base : m->f));
    return rc;
}

/* Older checkpoints do not say what they were trained on.                    */
static int check_one(struct at_job *j, struct at_h5 *f, const char *fact,
                     const char *key, struct at_data *d)
{
    struct at_ctx *cx = j->cx;
    const char *was;
    char id[33];
    int rc;
    if (!at_h5_has_fact(f, fact))
        return AT_OK;
    rc = at_h5_get_text(cx, f, fact, &cx->scratch, &was);
    if (rc == AT_OK)
        rc = at_arrays_identify(cx, d->f, "", id);
    if (rc == AT_OK && strcmp(was, id) != 0)
        rc = at_fail(cx, AT_EINVAL, "%s: was trained on another dataset than "
                     "%s (%s) holds now: put that one back under this name, or "
                     "train a new run on this one", at_h5_path(f),
                     at_h5_path(d->f), key);
    return rc;
}

/* A run goes on, or is replayed, with the data that its cursor counts in.  Its
 * newest checkpoint knows which, also for steps before the oldest.           */
static int check_data(struct at_job *j, const uint64_t *steps, size_t n)
{
    struct at_h5 *f = NULL;
    int rc;
    for (size_t i = 0; i < n && !f; i++) {
        char path[PATH];
        path_of(j, steps[i], path);
        /* A damaged one is passed over here; reading says so.                */
        (void)at_h5_open(j->cx, path, "checkpoint", &f);
    }
    if (!f)
        return AT_OK;
    rc = check_one(j, f, "data_id", "data.path", j->data);
    if (rc == AT_OK && j->validation != j->data)
        rc = check_one(j, f, "validation_id", "data.validation", j->validation);
    at_h5_close(f);
    return rc;
}

static int read_one(struct at_job *j, uint64_t step)
{
    struct at_ctx *cx = j->cx;
    struct at_model m = { 0 };
    char path[PATH];
    int rc;
    path_of(j, step, path);
    m.path = path;
    m.adapters = j->adapters;
    rc = verify(cx, path);
    if (rc == AT_OK)
        rc = at_h5_open(cx, path, "checkpoint", &m.f);
    if (rc < 0)
        return rc;
    if (j->adapters.n)
        m.base = j->start->base ? j->start->base : j->start->f;
    rc = check_base(j, m.f);
    if (rc == AT_OK)
        rc = get_state(cx, m.f, &j->s);
    if (rc == AT_OK)
        rc = at_model_read(cx, &m, &j->ps, true);
    if (rc == AT_OK)
        rc = get_moments(j, m.f);
    if (rc == AT_OK && j->roller)
        rc = at_roller_get(cx, m.f, j->roller);
    if (rc == AT_OK && j->offload)
        rc = at_offload_fold(j->offload);
    j->st->norm_mean = j->s.norm_mean;
    j->st->norm_var = j->s.norm_var;
    at_h5_close(m.f);
    return rc;
}

int at_checkpoint_read(struct at_job *j, uint64_t most, bool *found)
{
    uint64_t steps[MOST];
    size_t n = list(j, steps, most == UINT64_MAX), bad = 0;
    int rc = check_data(j, steps, n);
    *found = false;
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        if (steps[i] > most)
            continue;
        rc = read_one(j, steps[i]);
        if (rc == AT_OK) {
            *found = true;
            if (bad)
                at_log(j->cx, AT_LOG_WARN, "going on from step %llu instead",
                       (unsigned long long)steps[i]);
            return AT_OK;
        }
        if (rc != AT_EFORMAT && rc != AT_EIO)
            return rc;
        at_log(j->cx, AT_LOG_WARN, "%s", j->cx->err.msg);
        bad++;
    }
    if (bad)
        return at_fail(j->cx, AT_EFORMAT, "%s: none of its %zu checkpoints is "
                       "whole", j->dir, bad);
    return AT_OK;
}
