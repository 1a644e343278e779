/* The training loop, resuming and replaying. */
#include "train/report.h"
#include "train/run_dir.h"
#include "train/run_loop.h"
#include "train/users.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 4096 };

/* What the next step is trained on; *to: where the one after it begins.      */
static int take_batches(struct at_loop *l, struct at_cursor *to)
{
    struct at_job *j = l->j;
    if (j->roller) {
        int rc = at_roller_step(j->cx, j->roller, j->s.step + 1, j->s.cursor,
                                to);
        for (uint64_t i = 0; i < j->accumulate; i++)
            l->batch[i] = &j->roller->batch[i];
        return rc;
    }
    for (uint64_t i = 0; i < l->j->accumulate; i++) {
        int rc = at_loader_next(l->j->cx, l->j->train, &l->batch[i]);
        if (rc < 0)
            return at_note(l->j->cx, rc, "reading the data of step %llu",
                           (unsigned long long)l->j->s.step + 1);
    }
    *to = l->batch[j->accumulate - 1]->to;
    return AT_OK;
}

static int log_step(struct at_loop *l, const struct at_step_result *r)
{
    struct at_job *j = l->j;
    double now = at_now_s(), speed;
    struct at_progress p = { .job = j, .r = r };
    struct at_metrics_row row = {
        .step = j->s.step, .skipped = r->skipped, .loss = r->loss,
        .loss_se = r->loss_se, .accuracy = r->accuracy, .margin = r->margin,
        .reward = r->reward, .kl = r->kl, .clipped = r->clipped,
        .critic = r->critic, .grad_norm = r->grad_norm, .grad_z = r->grad_z,
        .lr = r->lr, .tokens = r->n_tokens, .targets = r->n_targets,
        .all_tokens = j->s.tokens, .epoch = l->batch[0]->from.epoch,
        .index = l->batch[0]->from.index, .offset = l->batch[0]->from.offset,
        .peak_bytes = at_peak_rss_bytes(), .time_s = now - j->started_s,
    };
    int rc = AT_OK;
    j->tokens_here += r->n_tokens;
    speed = (double)j->tokens_here / fmax(now - j->started_s, 1e-9);
    row.tokens_per_s = (double)r->n_tokens / fmax(now - j->step_s, 1e-9);
    if (j->s.step % (uint64_t)at_recipe_int(j->r, "log.every") == 0 ||
        j->s.step == j->steps) {
        rc = at_job_log(j, &row, &j->st->train);
        if (rc == AT_OK && j->offload)
            rc = at_job_log_offload(j);
    }
    p.tokens_per_s = speed;
    p.eta_s = (double)(j->steps - j->s.step) * (double)r->n_tokens /
              fmax(speed, 1e-9);
    if (j->progress)
        j->progress(j->progress_self, &p);
    return rc;
}

/* ---- the loop ---------------------------------------------------------------- */

/* What the recipe wants done about a step that is not finite.                */
static int handle_nonfinite(struct at_loop *l)
{
    struct at_job *j = l->j;
    const char *how = at_recipe_text(j->r, "train.on_nonfinite");
    struct at_state now = j->s;
    bool found;
    int rc;
    if (strcmp(how, "stop") == 0)
        return at_note(j->cx, AT_ENONFINITE, "training; nothing was updated. "
                       "'attune replay %s --step %llu' shows the step; "
                       "train.on_nonfinite: skip goes on without it", j->dir,
                       (unsigned long long)j->s.step);
    at_log(j->cx, AT_LOG_WARN, "%s: %s", j->cx->err.msg,
           strcmp(how, "skip") == 0 ? "skipped"
                                    : "back to the last checkpoint");
    if (strcmp(how, "skip") == 0)
        return AT_OK;
    rc = at_checkpoint_read(j, UINT64_MAX - 1, &found);
    if (rc == AT_OK && !found)
        rc = at_fail(j->cx, AT_ENONFINITE, "there is no checkpoint to go back "
                     "to yet: lower checkpoint.every or optim.lr");
    /* Only weights and moments go back; the data goes on behind the step.    */
    j->s = now;
    return rc;
}

/* The step that the batches and the job's state stand before.                */
static int move_weights(struct at_loop *l, struct at_step_result *r)
{
    struct at_job *j = l->j;
    int rc;
    at_gradual_before(j->gradual);
    rc = at_step_run(j->st, l->batch, j->o,
                     at_schedule_lr(&j->schedule, j->s.step), j->s.step, r);
    if (rc == AT_OK)
        at_gradual_after(j->gradual, j->s.step);
    return rc;
}

static int save(struct at_job *j, bool best);

/* The run as it stands, to be gone on with.                                  */
static int save_and_stop(struct at_job *j, bool best)
{
    int rc = save(j, best);
    return rc < 0 ? rc
        : at_fail(j->cx, AT_EINTR, "stopped after step %llu; a checkpoint is "
                  "written.  Go on with: attune resume %s",
                  (unsigned long long)j->s.step, j->dir);
}

/* The step was not to be had (workers): the run is as it was before it.      */
static int give_up_step(struct at_job *j, const struct at_state *before)
{
    struct at_err why = j->cx->err;
    int rc;
    j->s = *before;
    rc = save(j, false);
    if (rc < 0)
        return rc;
    j->cx->err = why;
    return at_note(j->cx, AT_EINTR, "training; a checkpoint of step %llu is "
                   "written.  Go on with: attune resume %s",
                   (unsigned long long)before->step, j->dir);
}

static bool every(const struct at_job *j, const char *key)
{
    uint64_t n = (uint64_t)at_recipe_int(j->r, key);
    return n > 0 && (j->s.step % n == 0 || j->s.step == j->steps);
}

int at_loop_prepare(struct at_loop *l)
{
    struct at_job *j = l->j;
    struct at_cursor next;
    int rc;
    l->before = j->s;
    j->step_s = at_now_s();
    rc = take_batches(l, &next);
    if (rc == AT_EINTR)
        return save_and_stop(j, false);        /* while it drew: drawn again         */
    if (rc < 0)
        return rc;
    j->s.step++;
    j->s.cursor = next;
    return AT_OK;
}

int at_loop_conclude(struct at_loop *l, int rc, const struct at_step_result *r)
{
    struct at_job *j = l->j;
    if (rc == AT_EINTR)
        return give_up_step(j, &l->before);
    if (rc < 0 && rc != AT_ENONFINITE)
        return rc;
    j->s.tokens += r->n_tokens;
    if (rc == AT_ENONFINITE) {
        rc = handle_nonfinite(l);
        if (rc < 0) {
            struct at_err kept = j->cx->err;
            log_step(l, r);
            j->cx->err = kept;
            return rc;
        }
    }
    rc = log_step(l, r);
    if (rc == AT_OK && j->roller && at_roller_ends(j->roller, j->s.step)) {
        const struct at_round *t = &j->roller->now;
        rc = at_job_log_values(j, false, t->d.n, t->mean, t->var);
        at_roller_follow(j->roller);
    }
    j->s.eval_due = (j->eval || j->roller) && every(j, "eval.every");
    return rc;
}

static int one_step(struct at_loop *l)
{
    struct at_step_result r;
    int rc = at_loop_prepare(l);
    if (rc < 0)
        return rc;
    rc = move_weights(l, &r);
    return at_loop_conclude(l, rc, &r);
}

static bool out_of_patience(const struct at_job *j)
{
    uint64_t patience = (uint64_t)at_recipe_int(j->r, "eval.patience");
    return patience > 0 && j->s.bad_evals >= patience;
}

/* The metrics of the checkpoint's step are on the disk before it is.         */
static int save(struct at_job *j, bool best)
{
    int rc = at_metrics_sync(j->cx, j->metrics);
    return rc == AT_OK ? at_checkpoint_write(j, best) : rc;
}

/* A router that never skipped, or always did, has learnt nothing.            */
static void judge_capacity(const struct at_job *j)
{
    const struct at_step_io *io = j->eval ? &j->st->eval : &j->st->train;
    bool moved = io->n_gauges == 0;
    for (size_t i = 0; i < io->n_gauges; i++) {
        const struct at_metrics_share *s = &io->gauge[i];
        moved |= s->on < s->all;
        if (s->all > 0 && s->on <= 0)
            at_log(j->cx, AT_LOG_WARN, "%s: its router skips everything: it has "
                   "collapsed.  Lower router.gradient_scale or optim.lr, or "
                   "raise router.capacity", s->site);
    }
    if (!moved)
        at_log(j->cx, AT_LOG_WARN, "the routers skip nothing: no decision has "
               "moved.  Raise optim.lr (their weights start at zero) or the "
               "number of steps, or ask for less: router.capacity with "
               "router.gradient_scale");
}

static bool stop_asked(const struct at_job *j)
{
    return j->cx->stop && *j->cx->stop;
}

bool at_loop_wants_step(const struct at_loop *l)
{
    const struct at_job *j = l->j;
    return !j->s.done && !j->s.eval_due && j->s.step < j->steps &&
           !stop_asked(j);
}

/* The evaluation, where one is due.  A request to stop may come between a step
 * and its evaluation, or in it: that then waits in the checkpoint.           */
static int evaluate_if_due(struct at_job *j, bool *best)
{
    int rc;
    if (!j->s.eval_due || stop_asked(j))
        return AT_OK;
    rc = at_evaluate(j, best);
    j->s.eval_due = rc == AT_EINTR;
    return rc;
}

int at_loop_turn(struct at_loop *l)
{
    int rc = at_loop_wants_step(l) ? one_step(l) : AT_OK;
    return rc == AT_OK ? at_loop_settle(l) : rc;
}

int at_loop_settle(struct at_loop *l)
{
    struct at_job *j = l->j;
    bool best = false, stop;
    int rc = evaluate_if_due(j, &best);
    stop = stop_asked(j);
    if (rc == AT_EINTR)
        return save_and_stop(j, false);
    if (rc < 0)
        return rc;
    j->s.done = !j->s.eval_due &&
                (j->s.step >= j->steps || out_of_patience(j));
    if (out_of_patience(j))
        at_job_say(j, "step %llu: no better for %llu evaluations: stopping early",
            (unsigned long long)j->s.step,
            (unsigned long long)j->s.bad_evals);
    if (stop && !j->s.done)
        return save_and_stop(j, best);
    return j->s.done || every(j, "checkpoint.every") ||
           (best && at_recipe_bool(j->r, "checkpoint.keep_best"))
               ? save(j, best) : AT_OK;
}

int at_loop_save(struct at_loop *l)
{
    return save(l->j, false);
}

static int train(struct at_loop *l)
{
    int rc = AT_OK;
    while (!l->j->s.done && rc == AT_OK)
        rc = at_loop_turn(l);
    if (rc == AT_OK)
        judge_capacity(l->j);
    return rc;
}

static int open_loop(struct at_loop *l, struct at_job *j,
                     at_progress_fn *progress, void *self)
{
    *l = (struct at_loop){ .j = j };
    j->started_s = at_now_s();
    j->progress = progress;
    j->progress_self = self;
    l->batch = at_alloc_n(j->cx, &j->cx->run, j->accumulate, sizeof *l->batch);
    return l->batch ? AT_OK : AT_ENOMEM;
}

/* ---- directories --------------------------------------------------------------- */

static int write_recipe(struct at_job *j)
{
    struct at_text t = { 0 };
    char path[PATH];
    int rc = at_recipe_print(j->cx, j->r, true, &t);
    snprintf(path, sizeof path, "%s/recipe.yaml", j->dir);
    if (rc == AT_OK)
        rc = at_text_ok(j->cx, &t);
    if (rc == AT_OK)
        rc = at_write_file(j->cx, path, t.s, t.n);
    at_text_finish(&t);
    return rc;
}

/* What the report says of the run beside its metrics.                        */
static int write_facts(struct at_job *j)
{
    struct at_ctx *cx = j->cx;
    const struct at_decoder *d = &j->d;
    struct at_arena *a = &cx->scratch;
    char need[32];
    struct at_fact f[] = {
        { "model", "family", d->family },
        { "model", "starts from", j->start ? j->start->path : "drawn weights" },
        { "model", "size", at_sprintf(cx, a, "%zu layers of %zu, %zu heads, "
                                      "vocabulary %zu", d->L, d->C, d->H,
                                      d->V) },
        { "model", "parameters", at_sprintf(cx, a, "%zu", j->ps.n_total) },
        { "model", "trained", at_sprintf(cx, a, "%zu (%.3f %%)",
                                         j->ps.n_trainable,
                                         100.0 * (double)j->ps.n_trainable /
                                             (double)j->ps.n_total) },
        { "data", "file", at_h5_path(j->data->f) },
        { "data", "documents", at_sprintf(cx, a, "%llu, %llu for validation",
              (unsigned long long)j->data->n_split[AT_TRAIN],
              (unsigned long long)j->data->n_split[AT_VALIDATION]) },
        { "data", "tokenizer", j->data->tok_hash },
        { "run", "steps", at_sprintf(cx, a, "%llu",
                                     (unsigned long long)j->steps) },
        { "run", "memory planned",
          at_bytes_text(need, (double)at_job_bytes(j)) },
    };
    for (size_t i = 0; i < AT_COUNT(f); i++)
        if (!f[i].value)
            return AT_ENOMEM;
    return at_report_facts(cx, j->dir, f, AT_COUNT(f));
}

static bool exists(const char *dir, const char *name)
{
    char path[PATH + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

int at_loop_begin(struct at_loop *l, struct at_job *j,
                  at_progress_fn *progress, void *self)
{
    int rc = at_job_start(j);
    if (rc == AT_OK)
        rc = write_recipe(j);
    if (rc == AT_OK)
        rc = write_facts(j);
    if (rc == AT_OK)
        rc = at_metrics_open(j->cx, j->dir, 0, &j->metrics);
    if (rc == AT_OK)
        rc = open_loop(l, j, progress, self);
    if (rc == AT_OK && j->train)
        at_loader_seek(j->train, j->s.cursor);
    return rc;
}

int at_run_train(struct at_ctx *cx, struct at_recipe *r, bool fresh,
                 at_progress_fn *progress, void *self)
{
    struct at_run_lock *lock = NULL;
    struct at_job *j = NULL;
    struct at_loop l;
    const char *dir = at_recipe_text(r, "run");
    int rc = fresh ? at_run_dir_check_new(cx, dir) : AT_OK;
    if (rc == AT_OK && at_recipe_list(r, "users").n > 0)
        return at_users_train(cx, r, progress, self);
    if (rc == AT_OK)
        rc = at_job_open(cx, r, &j);
    if (rc == AT_OK)
        rc = at_run_dir_take(cx, dir, "checkpoints", &lock);
    if (rc == AT_OK && fresh)           /* another may have been faster       */
        rc = at_run_dir_check_new(cx, dir);
    if (rc == AT_OK)
        rc = at_loop_begin(&l, j, progress, self);
    if (rc == AT_OK)
        rc = train(&l);
    at_job_close(j);
    at_run_dir_drop(lock);
    return rc;
}

/* The resolved recipe of a run's directory, wherever that lies now.          */
int at_loop_recipe(struct at_ctx *cx, const char *dir, struct at_recipe **r)
{
    const char *path = at_sprintf(cx, &cx->run, "%s/recipe.yaml", dir);
    const char *here = at_sprintf(cx, &cx->run, "run=%s", dir);
    if (!path || !here)
        return AT_ENOMEM;
    if (!exists(dir, "recipe.yaml"))
        return at_fail(cx, AT_ENOENT, "%s: is not a run's directory (it has no "
                       "recipe.yaml)", dir);
    return at_recipe_load(cx, &cx->run, path, &here, 1, r);
}

static int continue_from(struct at_job *j, uint64_t most, bool *found)
{
    int rc = at_job_start(j);
    *found = false;
    if (rc == AT_OK)
        rc = at_checkpoint_read(j, most, found);
    if (rc == AT_OK && j->train)
        at_loader_seek(j->train, j->s.cursor);
    return rc;
}

/* Opens a run at its newest state at or before `most`, to look at it: gradients
 * that it had from other machines are computed here, to the same bits.       */
static int reopen(struct at_ctx *cx, const char *dir, uint64_t most,
                  struct at_job **j)
{
    const char *over[] = { at_sprintf(cx, &cx->run, "run=%s", dir),
                           "offload.engine=local" };
    struct at_recipe *r;
    bool found;
    int rc = at_loop_recipe(cx, dir, &r);
    if (rc == AT_OK && strcmp(at_recipe_text(r, "offload.engine"), "nats") == 0)
        rc = at_recipe_load(cx, &cx->run, at_sprintf(cx, &cx->run,
                            "%s/recipe.yaml", dir), over, 2, &r);
    if (rc == AT_OK)
        rc = at_job_open(cx, r, j);
    return rc == AT_OK ? continue_from(*j, most, &found) : rc;
}

int at_loop_resume(struct at_loop *l, struct at_job *j,
                   at_progress_fn *progress, void *self)
{
    bool found;
    int rc = continue_from(j, UINT64_MAX, &found);
    if (rc == AT_OK)
        rc = open_loop(l, j, progress, self);
    if (rc == AT_OK)
        rc = at_run_dir_compare(j, found);
    if (rc < 0)
        return rc;
    if (j->s.done) {
        at_job_say(j, "%s is finished: %llu steps", j->dir,
                   (unsigned long long)j->s.step);
        return AT_OK;
    }
    at_job_say(j, "going on from step %llu of %llu",
               (unsigned long long)j->s.step, (unsigned long long)j->steps);
    return at_metrics_open(j->cx, j->dir, j->s.step, &j->metrics);
}

static int resume_alone(struct at_ctx *cx, struct at_recipe *r,
                        at_progress_fn *progress, void *self)
{
    struct at_job *j = NULL;
    struct at_loop l;
    int rc = at_job_open(cx, r, &j);
    if (rc == AT_OK)
        rc = at_loop_resume(&l, j, progress, self);
    if (rc == AT_OK && !j->s.done)
        rc = train(&l);
    at_job_close(j);
    return rc;
}

int at_run_resume(struct at_ctx *cx, const char *dir, at_progress_fn *progress,
                  void *self)
{
    struct at_run_lock *lock = NULL;
    struct at_recipe *r;
    int rc = at_loop_recipe(cx, dir, &r);
    bool users = rc == AT_OK && at_recipe_list(r, "users").n > 0;
    if (rc == AT_OK)            /* before a job is opened, which takes a queue */
        rc = at_run_dir_take(cx, dir, users ? "users" : "checkpoints", &lock);
    if (rc == AT_OK)
        rc = users ? at_users_resume(cx, r, progress, self)
                   : resume_alone(cx, r, progress, self);
    at_run_dir_drop(lock);
    return rc < 0 && rc != AT_EINTR ? at_note(cx, rc, "resuming %s", dir) : rc;
}

int at_run_replay(struct at_ctx *cx, const char *dir, uint64_t step,
                  struct at_job **made, struct at_step_result *r,
                  const struct at_batch ***batches)
{
    struct at_job *j = NULL;
    struct at_loop l = { 0 };
    int rc;
    if (step < 1)
        return at_fail(cx, AT_EINVAL, "steps count from 1");
    rc = reopen(cx, dir, step - 1, &j);
    if (rc == AT_OK && step > j->steps)
        rc = at_fail(cx, AT_EINVAL, "step %llu: the run has %llu steps",
                     (unsigned long long)step, (unsigned long long)j->steps);
    if (rc == AT_OK)
        rc = open_loop(&l, j, NULL, NULL);
    while (rc == AT_OK && j->s.step < step) {
        struct at_cursor next;
        rc = take_batches(&l, &next);
        if (rc < 0)
            break;
        j->s.step++;
        j->s.cursor = next;
        rc = move_weights(&l, r);
        if (j->roller && j->s.step < step &&
            at_roller_ends(j->roller, j->s.step))
            at_roller_follow(j->roller);
        if (rc == AT_ENONFINITE && j->s.step < step)
            rc = AT_OK;         /* as the run itself did, or it had stopped   */
    }
    if (rc < 0 && rc != AT_ENONFINITE) {
        at_job_close(j);
        return rc;
    }
    *made = j;
    *batches = l.batch;
    return rc;
}
