/* attune train, resume, plan, replay. */
#include "tools/cmds.h"
#include "train/run.h"
#include "train/users.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- showing progress ----------------------------------------------------------- */

struct show { bool terminal; double last_s; bool open; bool quiet; };

static void time_text(char buf[32], double s)
{
    unsigned long t = s > 0 && s < 1e8 ? (unsigned long)s : 0;
    snprintf(buf, 32, "%lu:%02lu:%02lu", t / 3600, t / 60 % 60, t % 60);
}

/* " | capacity 0.81" of a run that routes. */
static const char *capacity_text(char buf[32], const struct at_step_io *io)
{
    double mean = at_metrics_share_mean(io->gauge, io->n_gauges);
    buf[0] = '\0';
    if (!isnan(mean))
        snprintf(buf, 32, " | capacity %.3f", mean);
    return buf;
}

/* " | 3 workers, 12 blocks again" of a run whose gradients come from elsewhere. */
static const char *away_text(char buf[160], const struct at_offload *o)
{
    struct at_offload_counts c;
    size_t n;
    buf[0] = '\0';
    if (!o || !o->set.window)
        return buf;
    at_offload_count(o, &c);
    n = (size_t)snprintf(buf, 160, " | %zu worker%s", c.workers,
                         c.workers == 1 ? "" : "s");
    if (c.repeats)
        n += (size_t)snprintf(buf + n, 160 - n, ", %llu blocks again",
                              (unsigned long long)c.repeats);
    if (c.refused)
        n += (size_t)snprintf(buf + n, 160 - n, ", %llu refused",
                              (unsigned long long)c.refused);
    if (c.here)
        n += (size_t)snprintf(buf + n, 160 - n, ", %llu computed here",
                              (unsigned long long)c.here);
    if (c.quarantined)
        snprintf(buf + n, 160 - n, ", %zu QUARANTINED", c.quarantined);
    return buf;
}

/* One line that rewrites itself on a terminal; now and then a plain one in a
 * log.                                                                       */
static void show(void *self, const struct at_progress *p)
{
    struct show *s = self;
    double now = at_now_s();
    bool last;
    char eta[32], mem[32], capacity[32], what[64], away[160];
    if (s->quiet)
        return;
    if (!p->r) {
        printf("%s%s\n", s->open ? "\r\033[K" : "", p->message);
        s->open = false;
        fflush(stdout);
        return;
    }
    last = p->job->s.step == p->job->steps && !p->job->user;
    if (!last && now - s->last_s < (s->terminal ? 0.1 : 5))
        return;
    s->last_s = now;
    time_text(eta, p->eta_s);
    if (isfinite(p->r->reward) && isfinite(p->r->kl))
        snprintf(what, sizeof what, "reward %.4f | KL %.3f", p->r->reward,
                 p->r->kl);
    else if (isfinite(p->r->kl))
        snprintf(what, sizeof what, "loss %.4f \u00B1 %.4f | KL %.3f",
                 p->r->loss, p->r->loss_se, p->r->kl);
    else
        snprintf(what, sizeof what, "loss %.4f \u00B1 %.4f", p->r->loss,
                 p->r->loss_se);
    printf("%s%s%sstep %llu/%llu | %s | norm %.3f (%+.1fz)%s | lr %.2e | %.0f "
           "tokens/s%s | %s left | %s%s", s->terminal ? "\r" : "",
           p->job->user ? p->job->user : "", p->job->user ? ": " : "",
           (unsigned long long)p->job->s.step,
           (unsigned long long)p->job->steps, what, p->r->grad_norm,
           p->r->grad_z, capacity_text(capacity, &p->job->st->train), p->r->lr,
           p->tokens_per_s, away_text(away, p->job->offload), eta,
           at_bytes_text(mem, (double)at_rss_bytes()),
           s->terminal ? "\033[K" : "\n");
    s->open = s->terminal;
    if (last && s->terminal) {
        printf("\n");
        s->open = false;
    }
    fflush(stdout);
}

static void close_line(const struct show *s)
{
    if (s->open)
        printf("\n");
}

static struct show new_show(bool quiet)
{
    return (struct show){ .terminal = isatty(1) != 0, .quiet = quiet };
}

/* ---- train ------------------------------------------------------------------------ */

struct train_args { bool quiet; };

static const struct opt train_opts[] = {
    { "--quiet", OPT_FLAG, offsetof(struct train_args, quiet), NULL,
      "print nothing but errors" },
};

static int load(struct at_ctx *cx, char *const *pos, int n,
                struct at_recipe **r)
{
    const char **over = at_alloc_n(cx, &cx->run, (size_t)n + 1, sizeof *over);
    if (!over)
        return AT_ENOMEM;
    for (int i = 1; i < n; i++)
        over[i - 1] = pos[i];
    return at_recipe_load(cx, &cx->run, pos[0], over, (size_t)n - 1, r);
}

/* The directories of a run's users, as many as a report takes; 0: it has none. */
static size_t users_of(struct at_ctx *cx, const char *dir,
                       const char *dirs[AT_REPORT_RUNS_MAX])
{
    struct at_user_row *u;
    size_t n, k = 0;
    if (at_users_list(cx, dir, &u, &n) < 0)
        return 0;
    for (size_t i = 0; i < n && k < AT_REPORT_RUNS_MAX; i++) {
        char *path = at_sprintf(cx, &cx->run, "%s/users/%s", dir, u[i].name);
        if (path && u[i].step > 0)
            dirs[k++] = path;
    }
    return k;
}

/* The report is a convenience: that it fails must not fail the run.          */
static void report(struct at_ctx *cx, const char *dir, bool quiet)
{
    const char *dirs[AT_REPORT_RUNS_MAX] = { dir };
    char *path = at_sprintf(cx, &cx->run, "%s/report.html", dir);
    size_t n = users_of(cx, dir, dirs);
    if (!path || at_report_write(cx, dirs, n ? n : 1, path) < 0) {
        fprintf(stderr, "attune: warning: no report: %s\n", cx->err.msg);
        return;
    }
    if (!quiet)
        printf("report: %s\n", path);
}

static int train(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct train_args *a = args;
    struct show s = new_show(a->quiet);
    struct at_recipe *r;
    int rc = load(cx, pos, n, &r);
    if (rc < 0)
        return rc;
    rc = at_run_train(cx, r, true, show, &s);
    close_line(&s);
    if (rc == AT_OK) {
        if (!a->quiet)
            printf("run: %s\n", at_recipe_text(r, "run"));
        report(cx, at_recipe_text(r, "run"), a->quiet);
    }
    return rc;
}

const struct cmd cmd_train = {
    "train", "RECIPE [key=value ...]", "train as a recipe says", 1, 256,
    train_opts, AT_COUNT(train_opts), sizeof(struct train_args), NULL, train
};

static int resume(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct train_args *a = args;
    struct show s = new_show(a->quiet);
    int rc = at_run_resume(cx, pos[0], show, &s);
    (void)n;
    close_line(&s);
    if (rc == AT_OK)
        report(cx, pos[0], a->quiet);
    return rc;
}

const struct cmd cmd_resume = {
    "resume", "RUN", "go on with a run that was stopped", 1, 1, train_opts,
    AT_COUNT(train_opts), sizeof(struct train_args), NULL, resume
};

/* ---- plan -------------------------------------------------------------------------- */

struct plan_args { bool ops; };

static const struct opt plan_opts[] = {
    { "--ops", OPT_FLAG, offsetof(struct plan_args, ops), NULL,
      "also list the graph's operations" },
};

static int plan(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct plan_args *a = args;
    struct at_recipe *r;
    struct at_job *j;
    struct at_text t = { 0 };
    char need[32], have[32];
    int rc = load(cx, pos, n, &r);
    if (rc == AT_OK)
        rc = at_job_open(cx, r, &j);
    if (rc < 0)
        return rc;
    at_job_describe(j, &t);
    if (a->ops)
        at_plan_print(j->st->train.plan, &t);
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK) {
        double all = (double)at_job_bytes(j);
        double free_bytes = (double)at_memory_available() +
                            (double)at_rss_bytes();
        fputs(t.s, stdout);
        printf("needs %s; you have %s\n", at_bytes_text(need, all),
               at_bytes_text(have, free_bytes));
        if (all > free_bytes)
            rc = at_fail(cx, AT_ENOMEM, "this run does not fit");
    }
    at_text_finish(&t);
    at_job_close(j);
    return rc;
}

const struct cmd cmd_plan = {
    "plan", "RECIPE [key=value ...]",
    "say what a run needs and costs, and run nothing", 1, 256, plan_opts,
    AT_COUNT(plan_opts), sizeof(struct plan_args), NULL, plan
};

/* ---- replay ------------------------------------------------------------------------- */

struct replay_args { int64_t step; };

static const struct opt replay_opts[] = {
    { "--step", OPT_INT, offsetof(struct replay_args, step), "N",
      "the step to reproduce (needed)" },
};

/* Each piece of a document in the batch: where it is from, its loss, and its
 * text with what was trained on between marks.                               */
static void show_batch(struct at_job *j, const struct at_batch *b,
                       const at_real *ce)
{
    size_t N = b->rows * b->length;
    for (size_t i = 0; i < N;) {
        size_t end = i;
        double sum = 0;
        size_t n = 0;
        struct at_text t = { 0 };
        bool on = false;
        if (b->doc[i] < 0) {
            i++;
            continue;
        }
        while (end < N && b->doc[end] >= 0 && b->first[end] == b->first[i])
            end++;
        for (size_t k = i; k < end; k++) {
            size_t len;
            const char *s = at_tok_step(j->tok, k == i ? AT_TOK_NONE
                                                       : b->ids[k - 1],
                                        b->ids[k], &len);
            bool want = k > i && b->targets[k - 1] >= 0;
            if (want != on)
                at_text_addf(&t, "%s", want ? "\u27E6" : "\u27E7");
            on = want;
            at_text_add(&t, s, len);
            if (b->targets[k] >= 0 && ce) {
                sum += (double)ce[k];
                n++;
            }
        }
        printf("  row %zu, document %lld: %zu tokens", i / b->length,
               (long long)b->doc[i], end - i);
        if (ce)
            printf(", %zu trained, loss %.4f", n, n ? sum / (double)n : 0.0);
        printf("\n    %s%s\n", t.s ? t.s : "", on ? "\u27E7" : "");
        at_text_finish(&t);
        i = end;
    }
}

static bool same(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0 || (!isfinite(a) && !isfinite(b));
}

/* Compares with what the run wrote; says so when it wrote nothing.           */
static void compare(struct at_ctx *cx, const char *dir, uint64_t step,
                    const struct at_step_result *r)
{
    struct at_metrics_row *rows;
    size_t n;
    bool torn;
    if (at_metrics_read(cx, &cx->scratch, dir, &rows, &n, &torn) == AT_OK)
        for (size_t i = 0; i < n; i++)
            if (rows[i].step == step && !rows[i].eval) {
                printf("the run recorded loss %.17g, gradient norm %.17g: %s\n",
                       rows[i].loss, rows[i].grad_norm,
                       same(rows[i].loss, r->loss) &&
                               same(rows[i].grad_norm, r->grad_norm)
                           ? "the same bits"
                           : "NOT the same bits (another machine or thread "
                             "count?)");
                return;
            }
    printf("the run recorded no metrics of this step\n");
}

static int replay(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct replay_args *a = args;
    const struct at_batch **b;
    struct at_step_result r;
    struct at_job *j;
    int rc;
    (void)n;
    if (a->step < 1)
        return at_fail(cx, AT_EINVAL, "--step N is needed; steps count from 1");
    rc = at_run_replay(cx, pos[0], (uint64_t)a->step, &j, &r, &b);
    if (rc < 0 && rc != AT_ENONFINITE)
        return rc;
    printf("step %lld: loss %.17g \u00B1 %.4f, gradient norm %.17g, lr %.6e, "
           "%zu tokens, %zu trained\n", (long long)a->step, r.loss, r.loss_se,
           r.grad_norm, r.lr, r.n_tokens, r.n_targets);
    compare(cx, pos[0], (uint64_t)a->step, &r);
    for (uint64_t i = 0; i < j->accumulate; i++) {
        struct at_eval_sum sum = { 0 };
        printf("micro-batch %llu (losses after the step)\n",
               (unsigned long long)i + 1);
        at_step_eval(j->st, b[i], &sum);
        show_batch(j, b[i], at_step_ce(j->st));
    }
    at_job_close(j);
    return rc;
}

const struct cmd cmd_replay = {
    "replay", "RUN --step N",
    "reproduce a step to the bit and show what made it", 1, 1, replay_opts,
    AT_COUNT(replay_opts), sizeof(struct replay_args), NULL, replay
};
