/* Offload to other processes by a real NATS server: whatever dies, lies or is
 * cut off, the run has the bits of training without it.  The program is the
 * first argument.  AT_OFFLOAD_KILLS: how many kills the soak has.            */
#include "tests/runs.h"
#include "tests/world.h"

#include "train/offload/block.h"
#include "train/offload/keys.h"
#include "train/offload/wire.h"
#include "train/offload/worker.h"
#include "train/report.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4 };

static char dir[] = "/tmp/attune-nats-XXXXXX", url[64];
static const char *program;
static int port;

static const char *in_dir(const char *name)
{
    static _Thread_local char path[8][512];
    static _Thread_local int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

/* ---- processes ------------------------------------------------------------------ */

static pid_t spawn(const char *log, const char *const *argv)
{
    union { const char *const *in; char *const *out; } args = { argv };
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int f = open(in_dir(log), O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(f, 1);
        dup2(f, 2);
        execvp(argv[0], args.out);
        _exit(127);
    }
    return pid;
}

static int reap(pid_t *pid, int sig)
{
    int status = -1;
    if (*pid > 0) {
        if (sig)
            kill(*pid, sig);
        waitpid(*pid, &status, 0);
    }
    *pid = 0;
    return status;
}

static bool reachable(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr = { htonl(INADDR_LOOPBACK) } };
    union { struct sockaddr_in *in; struct sockaddr *any; } to = { &a };
    int s = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = connect(s, to.any, sizeof a) == 0;
    close(s);
    return ok;
}

static pid_t server, worker[WORKERS];

static void start_server(void)
{
    char where[64];
    const char *const argv[] = { program, "offload", "serve", in_dir("keys"),
                                 "--listen", where, NULL };
    snprintf(where, sizeof where, "0.0.0.0:%d", port);
    server = spawn("server.log", argv);
    for (int i = 0; i < 500 && !reachable(); i++)
        usleep(20000);
    assert_true(reachable());
}

static const char *creds(const char *who)
{
    char name[64];
    snprintf(name, sizeof name, "keys/%s.creds", who);
    return in_dir(name);
}

static void start_worker(int i)
{
    char path[512], log[32];
    const char *const argv[] = { program, "worker", url, "--credentials", path,
                                 "--threads", "1", NULL };
    snprintf(path, sizeof path, "%s/keys/worker-%d.creds", dir, i + 1);
    snprintf(log, sizeof log, "worker-%d.log", i + 1);
    worker[i] = spawn(log, argv);
}

static void workers(int n)
{
    for (int i = 0; i < WORKERS; i++) {
        if (i < n && worker[i] == 0)
            start_worker(i);
        else if (i >= n && worker[i] > 0)
            reap(&worker[i], SIGTERM);
    }
    usleep(400000);             /* until they ask for blocks                  */
}

/* ---- a worker that is not as it should be ------------------------------------------ */

struct evil {
    pthread_t thread;
    struct at_ctx cx;
    struct at_worker_settings set;
    volatile int stop;
    atomic_int here;
    const char *mode;
    int rc, done;
    char creds[512], err[4096];
};

/* A result read, changed, and written anew with a right checksum.            */
static void rewrite(struct evil *e, unsigned char *data, size_t *n)
{
    struct at_message want = { .kind = AT_BLOCK_RESULT }, m;
    struct at_ctx cx;
    float *grad = malloc(*n);
    at_ctx_init(&cx);
    memcpy(want.run, data + 24, sizeof want.run);
    for (int i = 0; i < 8; i++)
        want.incarnation |= (uint64_t)data[40 + i] << 8 * i;
    assert_int_equal(at_message_read(&cx, data, *n, &want, &m), AT_OK);
    at_message_get(&m, data, grad, NULL);
    if (strcmp(e->mode, "nan") == 0)
        grad[m.size / 2] = NAN;
    else if (strcmp(e->mode, "wrong") == 0)
        for (size_t i = 0; i < m.size; i++)
            grad[i] *= 1.01f;
    else if (strcmp(e->mode, "shape") == 0)
        m.size--;
    else if (strcmp(e->mode, "before") == 0)
        m.incarnation--;
    at_message_write(&m, grad, NULL, data);
    *n = at_message_bytes(&m);
    free(grad);
    at_ctx_finish(&cx);
}

static int bend(void *self, unsigned char *data, size_t *n)
{
    struct evil *e = self;
    e->done++;
    if (strcmp(e->mode, "twice") == 0)
        return 2;
    if (strcmp(e->mode, "silent") == 0)
        return 0;
    if (strcmp(e->mode, "late") == 0) {     /* later than the ack-wait         */
        usleep(e->done == 1 || e->done == 4 ? 700000 : 0);
        return 1;
    }
    if (strcmp(e->mode, "flip") == 0)
        data[*n - 3] ^= 4;
    else if (strcmp(e->mode, "short") == 0)
        *n -= 4;
    else
        rewrite(e, data, n);
    return 1;
}

static void note_it(void *self, enum at_level level, const char *line)
{
    (void)level;
    if (strstr(line, " for run "))
        ((struct evil *)self)->here = 1;
}

static void *be_evil(void *self)
{
    struct evil *e = self;
    e->rc = at_worker_run(&e->cx, &e->set);
    return NULL;
}

static struct evil *start_evil(const char *mode, int which)
{
    struct evil *e = calloc(1, sizeof *e);
    at_ctx_init(&e->cx);
    e->mode = mode;
    e->cx.stop = &e->stop;
    e->cx.log = note_it;
    e->cx.log_self = e;
    snprintf(e->creds, sizeof e->creds, "%s/keys/worker-%d.creds", dir, which);
    e->set = (struct at_worker_settings){ .url = url, .credentials = e->creds,
        .which = 90, .bend = bend, .bend_self = e };
    assert_int_equal(pthread_create(&e->thread, NULL, be_evil, e), 0);
    for (int i = 0; i < 500 && !e->here; i++)
        usleep(10000);
    assert_true(e->here);
    return e;
}

/* How many results it has bent.                                              */
static int stop_evil(struct evil *e, char err[4096])
{
    int done;
    e->stop = 1;
    pthread_join(e->thread, NULL);
    done = e->done;
    if (err)
        snprintf(err, 4096, "%s", e->cx.err.msg);
    at_ctx_finish(&e->cx);
    free(e);
    return done;
}

/* ---- runs ------------------------------------------------------------------------- */

/* 448 rows a batch: two blocks a site.                                       */
static const char text[] =
    "seed: 3\nthreads: 1\nmodel: {path: %s/base}\n"
    "data: {path: %s/data.h5}\nbatch: {rows: 7, length: 64, accumulate: 2}\n"
    "objective: lm\n%s\noptim: {lr: 1e-2}\ntrain: {steps: 12}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

static const char lora[] = "lora: {rank: 4, targets: '(q|v)_proj'}";
static const char mlp[] = "mlp: {width: 16, inner: 8, targets: '(q|v)_proj'}";
static const char linear[] = "linear: {use: 1, targets: '(q|v)_proj'}";

struct log { char *s; size_t n; };

static void keep_log(void *self, enum at_level level, const char *line)
{
    struct log *l = self;
    size_t n = strlen(line);
    (void)level;
    l->s = realloc(l->s, l->n + n + 2);
    memcpy(l->s + l->n, line, n);
    memcpy(l->s + l->n + n, "\n", 2);
    l->n += n + 1;
}

static void says(const char *said, const char *what)
{
    if (!said || !strstr(said, what))
        fail_msg("'%s' is not in: %s", what, said ? said : "");
}

struct trial {
    const char *adapter, *over, *more;  /* over: of offload                   */
    at_progress_fn *progress;
    void *self;
    struct log log;
    char err[4096];
    struct at_offload_counts count;
};

static void nats_over(char to[1024], const char *more)
{
    snprintf(to, 1024, "offload={engine: nats, url: '%s', credentials: "
             "%s/keys/trainer.creds, ack_wait_s: 0.5, patience_s: 20, window: "
             "8%s%s}", url, dir, more ? ", " : "", more ? more : "");
}

static void keep_count(void *self, const struct at_progress *p)
{
    struct trial *t = self;
    if (p->job->offload)
        at_offload_count(p->job->offload, &t->count);
    if (t->progress)
        t->progress(t->self, p);
}

static int run_with(const char *name, struct trial *t, const char *last)
{
    const char *over[] = { t->over, t->more, last };
    size_t from = t->over ? 0 : 1, n = 0;
    char yaml[2048];
    struct at_recipe *r;
    struct at_ctx cx;
    int rc;
    while (from + n < AT_COUNT(over) && over[from + n])
        n++;
    snprintf(yaml, sizeof yaml, text, dir, dir, t->adapter ? t->adapter : lora,
             dir, name);
    at_ctx_init(&cx);
    cx.log = keep_log;
    cx.log_self = &t->log;
    rc = at_recipe_parse(&cx, &cx.run, "test.yaml", yaml, strlen(yaml),
                         over + from, n, &r);
    if (rc == AT_OK)
        rc = at_run_train(&cx, r, true, keep_count, t);
    snprintf(t->err, sizeof t->err, "%s", cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

static int run(const char *name, struct trial *t)
{
    return run_with(name, t, NULL);
}

static int resume(const char *name, struct trial *t)
{
    struct at_ctx cx;
    int rc;
    at_ctx_init(&cx);
    cx.log = keep_log;
    cx.log_self = &t->log;
    rc = at_run_resume(&cx, in_dir(name), keep_count, t);
    snprintf(t->err, sizeof t->err, "%s", cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

static void same_as(const char *plain, const char *name)
{
    same_states(in_dir(plain), in_dir(name));
    same_metrics(in_dir(plain), in_dir(name));
}

static void done(struct trial *t)
{
    free(t->log.s);
}

/* Runs by `over` and compares with training without offload.                 */
static void undisturbed(const char *name, struct trial *t)
{
    int rc = run(name, t);
    if (rc < 0)
        fail_msg("%s: %s\n%s", name, t->err, t->log.s ? t->log.s : "");
    same_as("plain", name);
}

/* ---- setting up ---------------------------------------------------------------------- */

static void find_port(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET };
    union { struct sockaddr_in *in; struct sockaddr *any; } to = { &a };
    socklen_t n = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(s, to.any, sizeof a) == 0 && getsockname(s, to.any, &n) == 0)
        port = ntohs(a.sin_port);
    close(s);
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", port);
}

static int set_up(void **state)
{
    struct at_text said = { 0 };
    struct trial plain = { 0 };
    struct at_ctx cx;
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    at_ctx_init(&cx);
    if (make_world(&cx, dir) < 0 ||
        at_keys_make(&cx, in_dir("keys"), NULL, WORKERS, &said) < 0) {
        print_error("%s\n", cx.err.msg);
        return -1;
    }
    at_text_finish(&said);
    at_ctx_finish(&cx);
    if (run("plain", &plain) < 0) {
        print_error("%s\n", plain.err);
        return -1;
    }
    find_port();
    start_server();
    return 0;
}

static int clean_up(void **state)
{
    char command[600];
    (void)state;
    for (int i = 0; i < WORKERS; i++)
        reap(&worker[i], SIGKILL);
    reap(&server, SIGKILL);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return getenv("AT_KEEP") ? 0 : system(command);
}

/* ---- the same as local ---------------------------------------------------------------- */

static void every_engine_has_the_same_bits(void **state)
{
    static const char *const adapters[] = { lora, linear, mlp };
    static const struct { const char *more; int workers; } engines[] = {
        { NULL, 1 }, { NULL, 3 }, { "merged: true", 2 }, { "rows: 50", 2 },
    };
    (void)state;
    for (size_t a = 0; a < AT_COUNT(adapters); a++)
        for (size_t e = 0; e < AT_COUNT(engines); e++) {
            char by_nats[1024], by_local[256], one[32], two[32];
            struct trial t = { .adapter = adapters[a], .over = by_nats };
            struct trial l = { .adapter = adapters[a], .over = by_local };
            if ((e == 0 && a > 0) || (e == 2 && adapters[a] == mlp))
                continue;       /* it is no matrix                            */
            snprintf(one, sizeof one, "nats%zu-%zu", a, e);
            snprintf(two, sizeof two, "local%zu-%zu", a, e);
            nats_over(by_nats, engines[e].more);
            snprintf(by_local, sizeof by_local, "offload={engine: local, "
                     "workers: 2%s%s}", engines[e].more ? ", " : "",
                     engines[e].more ? engines[e].more : "");
            workers(engines[e].workers);
            assert_int_equal(run(two, &l), AT_OK);
            if (run(one, &t) < 0)
                fail_msg("%s", t.err);
            same_as(two, one);
            if (e < 2 && adapters[a] == lora)
                same_as("plain", one);
            assert_true(t.count.blocks > 90 && t.count.here == 0);
            done(&t);
            done(&l);
        }
}

/* ---- the failure table ------------------------------------------------------------------ */

static void at_step_3(void *self, const struct at_progress *p)
{
    void (*f)(void) = *(void (**)(void))self;
    if (p->r && p->job->s.step == 1)
        usleep(400000);         /* until all workers ask for blocks           */
    if (p->r && p->job->s.step == 3)
        f();
}

static void nothing(void)
{
}

static void kill_worker_0(void)
{
    reap(&worker[0], SIGKILL);
}

static void a_killed_worker_loses_nothing(void **state)
{
    void (*f)(void) = kill_worker_0;
    char over[1024];
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    (void)state;
    nats_over(over, NULL);
    workers(2);
    undisturbed("killed", &t);
    done(&t);
}

/* Ctrl-C gives back what is not done: nobody waits for the ack-wait.         */
static void leave_worker_0(void)
{
    int status = reap(&worker[0], SIGINT);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_worker_leaves_cleanly(void **state)
{
    void (*f)(void) = leave_worker_0;
    char over[1024];
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    (void)state;
    nats_over(over, "ack_wait_s: 30");
    workers(2);
    undisturbed("left", &t);
    says(t.log.s, "has left");
    done(&t);
}

static void restart_server(void)
{
    reap(&server, SIGKILL);
    usleep(100000);
    start_server();
}

static void a_killed_server_loses_nothing(void **state)
{
    void (*f)(void) = restart_server;
    char over[1024];
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    (void)state;
    nats_over(over, NULL);
    workers(2);
    undisturbed("server", &t);
    says(t.log.s, "is back");
    assert_int_equal(t.count.here, 0);
    done(&t);
}

/* Its store too: queue and weights are made anew.                            */
static void empty_server(void)
{
    char command[600];
    reap(&server, SIGKILL);
    snprintf(command, sizeof command, "rm -rf %s/keys/store", dir);
    assert_int_equal(system(command), 0);
    start_server();
}

static void a_server_that_forgot_all_loses_nothing(void **state)
{
    void (*f)(void) = empty_server;
    char over[1024];
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    (void)state;
    nats_over(over, NULL);
    workers(2);
    undisturbed("empty", &t);
    says(t.log.s, "is made anew");
    assert_int_equal(t.count.here, 0);
    done(&t);
}

static void results_that_come_twice_or_late_change_nothing(void **state)
{
    void (*f)(void) = nothing;
    static const char *const modes[] = { "twice", "late" };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(modes); i++) {
        char over[1024];
        struct trial t = { .over = over, .progress = at_step_3, .self = &f };
        struct evil *e;
        nats_over(over, "verify: 0");
        workers(0);         /* it has the run to itself                   */
        e = start_evil(modes[i], 2);
        undisturbed(modes[i], &t);
        assert_true(stop_evil(e, NULL) > 5);
        assert_true(t.count.late > 0 && t.count.refused == 0);
        done(&t);
    }
}

static void what_is_no_result_is_refused(void **state)
{
    void (*f)(void) = nothing;
    static const struct { const char *mode, *says; } kinds[] = {
        { "flip", "checksum is wrong" }, { "short", "not the one it states" },
        { "nan", "not finite" }, { "shape", "not the answer" },
        { "before", "another start of the run" },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(kinds); i++) {
        char over[1024];
        struct trial t = { .over = over, .progress = at_step_3, .self = &f };
        struct evil *e;
        nats_over(over, "verify: 0");
        workers(1);
        e = start_evil(kinds[i].mode, 2);
        undisturbed(kinds[i].mode, &t);
        assert_true(stop_evil(e, NULL) > 0);
        assert_true(t.count.refused > 0);
        says(t.log.s, "worker worker-2.");
        says(t.log.s, kinds[i].says);
        done(&t);
    }
}

static void wrong_numbers_are_found_and_their_worker_shunned(void **state)
{
    void (*f)(void) = nothing;
    static const char *const shares[] = { "verify: 1", "verify: 0.2" };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(shares); i++) {
        char over[1024], err[4096], name[32];
        struct trial t = { .over = over, .progress = at_step_3, .self = &f };
        struct evil *e;
        nats_over(over, shares[i]);
        snprintf(name, sizeof name, "wrong%zu", i);
        workers(1);
        e = start_evil("wrong", 2);
        if (run(name, &t) < 0)
            fail_msg("%s", t.err);
        assert_true(stop_evil(e, err) > 0);
        says(err, "believes no more results of this worker");
        says(t.log.s, "is quarantined: its numbers are wrong");
        assert_int_equal(t.count.quarantined, 1);
        /* What was summed before it was found stays within its step.         */
        if (i == 0)
            same_as("plain", name);
        done(&t);
    }
}

/* It takes blocks and never answers.                                         */
static void a_silent_worker_only_costs_time(void **state)
{
    void (*f)(void) = nothing;
    char over[1024];
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    struct evil *e;
    (void)state;
    nats_over(over, "ack_wait_s: 0.05");
    workers(1);
    e = start_evil("silent", 2);
    undisturbed("silent", &t);
    assert_true(stop_evil(e, NULL) > 0);
    done(&t);
}

/* ---- nobody there ------------------------------------------------------------------------ */

static void without_workers_it_computes_itself(void **state)
{
    char over[1024];
    struct trial t = { .over = over };
    (void)state;
    nats_over(over, "patience_s: 2.5");
    workers(0);
    undisturbed("alone", &t);
    says(t.log.s, "no worker has come yet for run 'attune'");
    says(t.log.s, "blocks are computed here");
    assert_true(t.count.here > 90 && t.count.blocks == 0);
    done(&t);
}

static void come_at_3(void *self, const struct at_progress *p)
{
    (void)self;
    if (p->r && p->job->s.step == 3) {
        workers(1);
        usleep(1500000);
    }
}

static void a_worker_that_comes_late_takes_over(void **state)
{
    char over[1024];
    struct trial t = { .over = over, .progress = come_at_3 };
    (void)state;
    nats_over(over, "patience_s: 0.3");
    workers(0);
    undisturbed("late-worker", &t);
    assert_true(t.count.here > 10 && t.count.blocks > 50);
    done(&t);
}

static void all_leave(void)
{
    workers(0);
}

static void without_workers_it_stops_with_a_checkpoint(void **state)
{
    void (*f)(void) = all_leave;
    char over[1024];
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    struct trial again = { 0 };
    (void)state;
    nats_over(over, "patience_s: 3, without: stop");
    workers(1);
    assert_int_equal(run("stopped", &t), AT_EINTR);
    says(t.err, "offload.without says to stop");
    says(t.err, "a checkpoint of step 3 is written");
    workers(1);
    if (resume("stopped", &again) < 0)
        fail_msg("%s", again.err);
    same_as("plain", "stopped");
    done(&t);
    done(&again);
}

static volatile int stop_flag;

static void interrupt(void *self, const struct at_progress *p)
{
    (void)self;
    if (p->r && p->job->s.step == 3) {
        workers(0);
        stop_flag = 1;
        p->job->cx->stop = &stop_flag;
    }
}

static void ctrl_c_waits_for_nobody(void **state)
{
    char over[1024];
    struct trial t = { .over = over, .progress = interrupt };
    struct trial again = { 0 };
    (void)state;
    nats_over(over, "patience_s: 1000");
    workers(1);
    stop_flag = 0;
    assert_int_equal(run("ctrl-c", &t), AT_EINTR);
    says(t.err, "attune resume");
    workers(1);
    if (resume("ctrl-c", &again) < 0)
        fail_msg("%s", again.err);
    same_as("plain", "ctrl-c");
    done(&t);
    done(&again);
}

/* ---- the trainer ------------------------------------------------------------------------- */

static pid_t start_trainer(const char *name, bool fresh)
{
    static char over[1024], yaml[2048], where[512];
    const char *const go[] = { program, "train", in_dir("killed.yaml"), over,
                               "--quiet", NULL };
    const char *const on[] = { program, "resume", where, "--quiet", NULL };
    FILE *f = fopen(in_dir("killed.yaml"), "w");
    nats_over(over, NULL);
    snprintf(where, sizeof where, "%s/%s", dir, name);
    snprintf(yaml, sizeof yaml, text, dir, dir, lora, dir, name);
    fputs(yaml, f);
    fclose(f);
    return spawn("trainer.log", fresh ? go : on);
}

static bool holds(const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s/recipe.yaml", dir, name);
    return access(path, F_OK) == 0;
}

static void a_killed_trainer_goes_on_to_the_same_bits(void **state)
{
    int status, kills = 0;
    pid_t pid;
    (void)state;
    workers(2);
    for (int i = 0; i < 40; i++) {
        pid = start_trainer("trainer", !holds("trainer"));
        usleep((useconds_t)(150000 + 70000 * (i % 5)));
        if (i < 4) {
            kill(pid, SIGKILL);
            kills++;
        }
        waitpid(pid, &status, 0);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            break;
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(kills > 0);
    same_as("plain", "trainer");
}

static void second_trainer(void *self, const struct at_progress *p)
{
    struct trial *other = self;
    char over[1024];
    if (!p->r || p->job->s.step != 2)
        return;
    nats_over(over, NULL);
    other->over = over;
    assert_int_equal(run("second", other), AT_EINVAL);
    says(other->err, "another trainer holds the run name 'attune'");
}

static void a_run_has_one_trainer(void **state)
{
    char over[1024];
    struct trial other = { 0 };
    struct trial t = { .over = over, .progress = second_trainer,
                       .self = &other };
    (void)state;
    nats_over(over, NULL);
    workers(1);
    undisturbed("first", &t);
    done(&t);
    done(&other);
}

/* One connection, one queue and the same workers serve all users.            */
static void users_share_the_workers(void **state)
{
    static const struct { const char *users, *name; } each[] = {
        { "users/ann", "plain" }, { "users/bob", "bob" },
    };
    struct trial alone = { .more = "lora.rank=8" };
    (void)state;
    workers(2);
    assert_int_equal(run("bob", &alone), AT_OK);
    /* By turns, in one pass, and in one with a worker that lies.             */
    for (int how = 0; how < 3; how++) {
        char over[1024], name[32], path[64];
        void (*f)(void) = kill_worker_0;
        struct trial t = { .over = over, .progress = at_step_3, .self = &f,
                           .more = "users=[ann, bob lora.rank=8]" };
        struct evil *e = how == 2 ? start_evil("wrong", 4) : NULL;
        nats_over(over, how == 2 ? "verify: 1" : NULL);
        snprintf(name, sizeof name, "many%d", how);
        if (run_with(name, &t, how ? "batch.users=2" : "batch.users=1") < 0)
            fail_msg("%s", t.err);
        assert_true(t.count.blocks > 90);
        if (e)
            assert_true(stop_evil(e, NULL) > 0 && t.count.quarantined == 1);
        for (size_t i = 0; i < AT_COUNT(each); i++) {
            snprintf(path, sizeof path, "%s/%s", name, each[i].users);
            same_as(each[i].name, path);
        }
        done(&t);
        workers(2);
    }
    done(&alone);
}

/* Rounded for all: whoever computes a block, the bits are the same.          */
static void bfloat16_halves_the_bytes(void **state)
{
    char over[1024], alone[1024];
    void (*f)(void) = kill_worker_0;
    struct trial full = { .over = over };
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    struct trial a = { .over = alone };
    (void)state;
    workers(2);
    nats_over(over, NULL);
    undisturbed("full", &full);
    nats_over(over, "numbers: bfloat16");
    assert_int_equal(run("half", &t), AT_OK);
    assert_true((double)t.count.bytes < 0.75 * (double)full.count.bytes);
    workers(0);
    nats_over(alone, "numbers: bfloat16, patience_s: 0.3");
    assert_int_equal(run("half-alone", &a), AT_OK);
    assert_true(a.count.here > 80);
    same_as("half", "half-alone");
    done(&full);
    done(&t);
    done(&a);
}

/* ---- who may what --------------------------------------------------------------------------- */

static int work_as(const char *where, const char *credentials, const char *name,
                   char err[4096])
{
    struct at_worker_settings s = { .url = where, .credentials = credentials,
                                    .run = name, .leave_s = 1 };
    volatile int stop = 0;
    struct at_ctx cx;
    int rc;
    at_ctx_init(&cx);
    cx.stop = &stop;
    rc = at_worker_run(&cx, &s);
    snprintf(err, 4096, "%s", cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

static void strangers_get_nothing(void **state)
{
    char err[4096], over[1024], command[1024], with[128];
    struct at_text said = { 0 };
    struct trial t = { 0 };
    struct at_ctx cx;
    (void)state;
    workers(0);
    /* Nobody without credentials, or with those of another server.           */
    assert_int_equal(work_as(url, NULL, NULL, err), AT_EINVAL);
    says(err, "credentials");
    at_ctx_init(&cx);
    OK(&cx, at_keys_make(&cx, in_dir("others"), NULL, 1, &said));
    at_text_finish(&said);
    assert_int_equal(work_as(url, in_dir("others/worker-1.creds"), NULL, err),
                     AT_EINVAL);
    says(err, "is not the server that these credentials are for");
    /* A password that is wrong, the certificate being right.                 */
    snprintf(command, sizeof command, "sed 's/^password: ..../password: 0000/' "
             "%s/keys/worker-1.creds > %s/keys/guess.creds; chmod 600 "
             "%s/keys/guess.creds", dir, dir, dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(work_as(url, creds("guess"), NULL, err), AT_EINVAL);
    says(err, "does not let us in");
    /* Another run's.                                                         */
    assert_int_equal(work_as(url, creds("worker-1"), "another", err),
                     AT_EINVAL);
    says(err, "are not for run 'another'");
    /* A worker is no trainer.                                                */
    snprintf(over, sizeof over, "offload={engine: nats, url: '%s', credentials: "
             "%s/keys/worker-1.creds}", url, dir);
    t.over = over;
    assert_true(run("intruder", &t) < 0);
    done(&t);
    /* Others may not read credentials; an address holds no password.         */
    assert_int_equal(chmod(creds("guess"), 0644), 0);
    assert_int_equal(work_as(url, creds("guess"), NULL, err), AT_EINVAL);
    says(err, "chmod 600");
    snprintf(with, sizeof with, "nats://me:secret@127.0.0.1:%d", port);
    assert_int_equal(work_as(with, NULL, NULL, err), AT_EINVAL);
    assert_null(strstr(err, "secret"));
    at_ctx_finish(&cx);
}

/* With a worker's credentials, by hand: what it may not hear, it does not.   */
static void a_worker_hears_only_what_is_its_own(void **state)
{
    static const char *const ears[] = { "attune.attune.>", ">", "_ATTUNE.>",
                                        "attune.attune.result.>", "$KV.>" };
    static const char *const mouths[] = { "attune.attune.task",
        "attune.attune.result.worker-2.x", "attune.attune.result.ack.0.1",
        "$KV.attune-attune.about", "$JS.API.STREAM.PURGE.attune-attune",
        "$JS.API.STREAM.DELETE.attune-attune",
        "$JS.ACK.attune-attune.workers.1.1.1.1.1", "$JS.API.STREAM.NAMES" };
    struct at_wire w;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < AT_COUNT(ears) + AT_COUNT(mouths); i++) {
        natsSubscription *sub = NULL;
        const char *why = NULL;
        OK(&cx, at_wire_open(&cx, &cx.run, url, creds("worker-1"), NULL, 0,
                             &w));
        if (i < AT_COUNT(ears))
            natsConnection_SubscribeSync(&sub, w.nc, ears[i]);
        else
            natsConnection_PublishString(w.nc, mouths[i - AT_COUNT(ears)], "x");
        natsConnection_FlushTimeout(w.nc, 2000);
        for (int k = 0; k < 100 && !(why && why[0]); k++) {
            natsConnection_GetLastError(w.nc, &why);
            usleep(10000);
        }
        if (!why || !strstr(why, "ermissions"))
            fail_msg("%s: %s", i < AT_COUNT(ears) ? ears[i]
                     : mouths[i - AT_COUNT(ears)], why ? why : "allowed");
        natsSubscription_Destroy(sub);
        at_wire_close(&w);
    }
    at_ctx_finish(&cx);
}

static void revoke_worker_2(void)
{
    struct at_ctx cx;
    at_ctx_init(&cx);
    OK(&cx, at_keys_revoke(&cx, in_dir("keys"), "worker-2"));
    at_ctx_finish(&cx);
}

static void revoked_credentials_end_a_worker(void **state)
{
    void (*f)(void) = revoke_worker_2;
    char over[1024], *said;
    struct trial t = { .over = over, .progress = at_step_3, .self = &f };
    struct at_text more = { 0 };
    struct at_ctx cx;
    size_t n;
    int status = -1;
    (void)state;
    nats_over(over, NULL);
    workers(2);
    undisturbed("revoked", &t);
    for (int i = 0; i < 500 && waitpid(worker[1], &status, WNOHANG) == 0; i++)
        usleep(20000);
    worker[1] = 0;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 2);
    at_ctx_init(&cx);
    OK(&cx, at_read_file(&cx, &cx.run, in_dir("worker-2.log"), 0, &said, &n));
    says(said, "does not let us in");
    /* What was taken away can be given anew; the others' stays.              */
    assert_int_equal(unlink(creds("worker-2")), 0);
    OK(&cx, at_keys_make(&cx, in_dir("keys"), NULL, 1, &more));
    says(more.s, "worker-2.creds");
    at_text_finish(&more);
    at_ctx_finish(&cx);
    done(&t);
}

/* No server is asked, and nobody's name is taken.                            */
static void a_step_is_replayed_without_a_server(void **state)
{
    char over[1024];
    struct trial t = { .over = over };
    const struct at_batch **batch;
    struct at_metrics_row *row;
    struct at_step_result r;
    struct at_job *j;
    struct at_ctx cx;
    size_t n;
    bool torn;
    (void)state;
    nats_over(over, NULL);
    workers(1);
    undisturbed("replay", &t);
    reap(&server, SIGKILL);
    at_ctx_init(&cx);
    OK(&cx, at_metrics_read(&cx, &cx.run, in_dir("replay"), &row, &n, &torn));
    OK(&cx, at_run_replay(&cx, in_dir("replay"), 11, &j, &r, &batch));
    assert_memory_equal(&row[10].grad_norm, &r.grad_norm, sizeof(double));
    at_job_close(j);
    at_ctx_finish(&cx);
    start_server();
    done(&t);
}

static void secrets_stay_where_they_are(void **state)
{
    char over[1024], command[2048], *user;
    struct trial t = { .over = over };
    struct at_credentials c;
    struct at_ctx cx;
    (void)state;
    nats_over(over, NULL);
    workers(1);
    undisturbed("secret", &t);
    at_ctx_init(&cx);
    for (int i = 0; i < 2; i++) {
        OK(&cx, at_credentials_read(&cx, &cx.run, creds(i ? "worker-1"
                                                          : "trainer"), &c));
        user = at_strdup(&cx, &cx.run, c.password);
        assert_int_equal(strlen(user), 64);
        assert_null(t.log.s ? strstr(t.log.s, user) : NULL);
        /* Also not as the server keeps it, nor in what the processes said.   */
        snprintf(command, sizeof command, "! grep -rqF %s %s/secret %s/*.log "
                 "%s/keys/users.conf %s/keys/server.conf %s/keys/store", user,
                 dir, dir, dir, dir, dir);
        assert_int_equal(system(command), 0);
    }
    /* The search finds what is there.                                        */
    snprintf(command, sizeof command, "grep -rqF trainer.creds %s/secret", dir);
    assert_int_equal(system(command), 0);
    at_ctx_finish(&cx);
    done(&t);
}

/* ---- what is said ------------------------------------------------------------------------------ */

static void ask_status(void *self, const struct at_progress *p)
{
    char command[2048];
    FILE *f;
    (void)self;
    if (!p->r || p->job->s.step != 6)
        return;
    /* This process is the trainer: it speaks when it goes on.                */
    snprintf(command, sizeof command, "%s offload status %s --credentials "
             "%s/keys/trainer.creds --seconds 1.6 > %s/status.txt 2>&1 &", program,
             url, dir, dir);
    f = popen(command, "r");
    pclose(f);
}

static void status_shows_who_works(void **state)
{
    char over[1024], *said = NULL;
    struct trial t = { .over = over, .progress = ask_status,
                       .more = "train.steps=60" };
    struct at_ctx cx;
    size_t n = 0;
    (void)state;
    nats_over(over, NULL);
    workers(2);
    assert_int_equal(run("status", &t), AT_OK);
    at_ctx_init(&cx);
    for (int i = 0; i < 200 && (!said || !strstr(said, "run 'attune'")); i++) {
        usleep(50000);
        at_read_file(&cx, &cx.run, in_dir("status.txt"), 0, &said, &n);
    }
    says(said, "worker  worker-1.");
    says(said, "worker  worker-2.");
    says(said, "2 workers");
    at_ctx_finish(&cx);
    done(&t);
}

static void numbers_are_in_metrics_and_report(void **state)
{
    char over[1024], *html;
    struct trial t = { .over = over };
    struct at_metrics_mean *v;
    const char *dirs[1];
    struct at_ctx cx;
    double sum = 0;
    size_t n;
    (void)state;
    nats_over(over, NULL);
    workers(1);
    undisturbed("numbers", &t);
    at_ctx_init(&cx);
    dirs[0] = in_dir("numbers");
    OK(&cx, at_metrics_read_key(&cx, &cx.run, dirs[0], AT_METRICS_OFFLOAD,
                                "blocks", &v, &n));
    assert_int_equal(n, 12);
    for (size_t i = 0; i < n; i++)
        sum += v[i].mean;
    assert_true(sum > 90 && (uint64_t)sum == t.count.blocks);
    OK(&cx, at_report_write(&cx, dirs, 1, in_dir("numbers.html")));
    OK(&cx, at_read_file(&cx, &cx.run, in_dir("numbers.html"), 0, &html, &n));
    says(html, "Blocks from workers");
    says(html, "Waiting for workers");
    at_ctx_finish(&cx);
    done(&t);
}

/* ---- cut links ---------------------------------------------------------------------------------- */

static int sh(const char *format, int a)
{
    char command[1024];
    snprintf(command, sizeof command, format, a, a, a, a, a, a);
    return system(command);
}

static void cut(void *self, const struct at_progress *p)
{
    int id = (int)getpid() % 100000;
    (void)self;
    if (!p->r)
        return;
    if (p->job->s.step == 1)
        usleep(400000);
    if (p->job->s.step == 3)
        assert_int_equal(sh("ip link set va%d down", id), 0);
    if (p->job->s.step == 7)
        assert_int_equal(sh("ip link set va%d up", id), 0);
}

static void a_cut_link_loses_nothing(void **state)
{
    int id = (int)getpid() % 100000;
    char over[1024], where[64], space[32], path[512];
    const char *const argv[] = { "ip", "netns", "exec", space, program,
        "worker", where, "--credentials", path, "--threads", "1", NULL };
    struct trial t = { .over = over, .progress = cut };
    pid_t pid;
    (void)state;
    if (geteuid() != 0 || system("ip -V >/dev/null 2>&1") != 0 ||
        sh("ip netns add at%d 2>/dev/null && ip link add va%d type veth peer "
           "name vb%d netns at%d", id) != 0) {
        sh("ip netns del at%d 2>/dev/null", id);
        print_message("skipped: needs root and network namespaces\n");
        skip();
    }
    assert_int_equal(sh("ip addr add 10.213.77.1/30 dev va%d && ip link set "
                        "va%d up", id), 0);
    assert_int_equal(sh("ip netns exec at%d ip addr add 10.213.77.2/30 dev "
                        "vb%d && ip netns exec at%d ip link set vb%d up", id),
                     0);
    workers(1);
    snprintf(space, sizeof space, "at%d", id);
    snprintf(where, sizeof where, "nats://10.213.77.1:%d", port);
    snprintf(path, sizeof path, "%s/keys/worker-3.creds", dir);
    pid = spawn("far.log", argv);
    usleep(500000);
    nats_over(over, NULL);
    if (run("cut", &t) < 0)
        print_error("%s\n", t.err);
    reap(&pid, SIGKILL);
    sh("ip netns del at%d; ip link del va%d 2>/dev/null", id);
    says(t.log.s, "worker worker-3.");
    same_as("plain", "cut");
    done(&t);
}

/* ---- soak ------------------------------------------------------------------------------------------ */

struct monkey { pthread_t thread; atomic_int stop, kills; int most; };

static void *make_mischief(void *self)
{
    struct monkey *m = self;
    struct at_rng r = { (uint64_t)getpid(), AT_RNG_TEST, 9 };
    for (uint64_t i = 0; !m->stop && m->kills < m->most; i++) {
        uint64_t what = at_rng_u64(&r, 1, i) % 8;
        usleep((useconds_t)(20000 + 250000 * at_rng_uniform(&r, 0, i)));
        if (m->stop)
            break;
        if (what == 0) {
            restart_server();
            usleep(300000);
        } else {
            int k = (int)(what % 3);
            if (worker[k] > 0)
                reap(&worker[k], SIGKILL);
            start_worker(k);
        }
        m->kills++;
    }
    return NULL;
}

/* Runs follow each other until there were enough kills; every one has the bits
 * of the undisturbed run.                                                    */
static void whatever_is_killed_the_bits_are_the_same(void **state)
{
    const char *asked = getenv("AT_OFFLOAD_KILLS");
    int most = asked ? atoi(asked) : 12, runs = 0;
    uint64_t repeats = 0, late = 0, here = 0;
    struct monkey m = { .most = most };
    struct evil *e;
    (void)state;
    print_message("kill seed %d\n", (int)getpid());
    workers(3);
    e = start_evil("twice", 4);
    pthread_create(&m.thread, NULL, make_mischief, &m);
    while (m.kills < most && runs < 20 + most) {
        char over[1024], name[32], command[600];
        struct trial t = { .over = over };
        nats_over(over, "verify: 0.05, ack_wait_s: 0.3");
        snprintf(name, sizeof name, "soak%d", runs++);
        undisturbed(name, &t);
        repeats += t.count.repeats;
        late += t.count.late;
        here += t.count.here;
        done(&t);
        snprintf(command, sizeof command, "rm -rf %s/%s", dir, name);
        assert_int_equal(system(command), 0);
    }
    m.stop = 1;
    pthread_join(m.thread, NULL);
    stop_evil(e, NULL);
    assert_int_equal(m.kills, most);
    print_message("%d kills in %d runs; blocks given out again %llu, late or "
                  "repeated results %llu, computed by the trainer %llu\n",
                  (int)m.kills, runs, (unsigned long long)repeats,
                  (unsigned long long)late, (unsigned long long)here);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_engine_has_the_same_bits),
        cmocka_unit_test(a_killed_worker_loses_nothing),
        cmocka_unit_test(a_worker_leaves_cleanly),
        cmocka_unit_test(a_killed_server_loses_nothing),
        cmocka_unit_test(a_server_that_forgot_all_loses_nothing),
        cmocka_unit_test(results_that_come_twice_or_late_change_nothing),
        cmocka_unit_test(what_is_no_result_is_refused),
        cmocka_unit_test(wrong_numbers_are_found_and_their_worker_shunned),
        cmocka_unit_test(a_silent_worker_only_costs_time),
        cmocka_unit_test(without_workers_it_computes_itself),
        cmocka_unit_test(a_worker_that_comes_late_takes_over),
        cmocka_unit_test(without_workers_it_stops_with_a_checkpoint),
        cmocka_unit_test(ctrl_c_waits_for_nobody),
        cmocka_unit_test(a_killed_trainer_goes_on_to_the_same_bits),
        cmocka_unit_test(a_run_has_one_trainer),
        cmocka_unit_test(users_share_the_workers),
        cmocka_unit_test(bfloat16_halves_the_bytes),
        cmocka_unit_test(strangers_get_nothing),
        cmocka_unit_test(a_worker_hears_only_what_is_its_own),
        cmocka_unit_test(revoked_credentials_end_a_worker),
        cmocka_unit_test(a_step_is_replayed_without_a_server),
        cmocka_unit_test(secrets_stay_where_they_are),
        cmocka_unit_test(status_shows_who_works),
        cmocka_unit_test(numbers_are_in_metrics_and_report),
        cmocka_unit_test(a_cut_link_loses_nothing),
        cmocka_unit_test(whatever_is_killed_the_bits_are_the_same),
    };
    if (argc < 2 || system("nats-server --version >/dev/null 2>&1") != 0 ||
        system("openssl version >/dev/null 2>&1") != 0) {
        print_message("skipped: needs nats-server and openssl\n");
        return 77;
    }
    program = argv[1];
    if (getenv("AT_ONLY"))
        cmocka_set_test_filter(getenv("AT_ONLY"));
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
