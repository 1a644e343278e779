/* What sending adapters' gradients to workers costs and gives: whole runs of a
 * model with random weights, alike but for `offload`, in turns; medians over
 * steps.  Beside them the limit of this machine's loopback (a plain socket) and
 * its arithmetic.  Worker processes share the machine's cores with the trainer.
 *
 *   bench-offload ATTUNE [steps] [dim]      needs nats-server and openssl
 *   bench-offload engine ATTUNE [dim]       blocks there and back, and nothing
 *                                           else: a step's, again and again
 *   bench-offload users [dim]               eight users by turns, and in one pass
 *   bench-offload memory [dim]              what runs need, by their plans   */
#include "bench/probe.h"
#include "data/data.h"
#include "train/offload/keys.h"
#include "train/run.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PORT = 47391, STEPS_MAX = 512, WORKERS = 4 };

static char dir[] = "/tmp/attune-bench-XXXXXX";

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-offload: %s\n", cx->err.msg);
        exit(1);
    }
}

/* ---- a world -------------------------------------------------------------------- */

static void make_data(struct at_ctx *cx)
{
    const char *inputs[] = { AT_SHIPPED "reviews.jsonl" };
    struct at_data_options o = { .inputs = inputs, .n_inputs = 1,
        .max_length = 64, .validation = 0.1, .template = "{completion}",
        .n_threads = 1, .out = at_sprintf(cx, &cx->run, "%s/data.h5", dir) };
    struct at_data_stats stats;
    struct at_tok *tok;
    must(cx, at_model_tokenizer(cx, &cx->run, AT_SHIPPED "model.h5", &tok));
    o.tok = tok;
    must(cx, at_data_build(cx, &o, NULL, NULL, &stats));
}

static struct at_recipe *parse(struct at_ctx *cx, const char *text,
                               const char *const *over, size_t n)
{
    struct at_recipe *r;
    must(cx, at_recipe_parse(cx, &cx->run, "bench.yaml", text, strlen(text),
                             over, n, &r));
    return r;
}

static void make_world(size_t dim)
{
    char text[1024];
    struct at_ctx cx;
    at_ctx_init(&cx);
    make_data(&cx);
    snprintf(text, sizeof text, "model: {family: llama, dim: %zu, layers: 4, "
             "heads: 8, max_length: 64, tokenizer: %smodel.h5}\n"
             "data: {path: %s/data.h5}\nbatch: {rows: 1, length: 64}\n"
             "objective: lm\ntrain: {steps: 1}\nrun: %s/base\n", dim,
             AT_SHIPPED, dir, dir);
    must(&cx, at_run_train(&cx, parse(&cx, text, NULL, 0), true, NULL, NULL));
    at_ctx_finish(&cx);
}

static const char text[] =
    "seed: 1\nthreads: 1\nmodel: {path: %s/base}\ndata: {path: %s/data.h5}\n"
    "batch: {rows: 16, length: 64}\nobjective: lm\n%s\n"
    "optim: {lr: 1e-4}\ntrain: {steps: %zu}\nlog: {every: 1}\n"
    "checkpoint: {every: 0}\nrun: %s/run\n";

/* ---- a run ---------------------------------------------------------------------- */

struct figures { double step_s, wait_s, blocks, bytes; };

struct watch {
    double last_s, step[STEPS_MAX];
    size_t n;
    struct at_offload_counts from, to;
    double from_s, to_s;
};

static void note(void *self, const struct at_progress *p)
{
    struct watch *w = self;
    double now = at_now_s();
    if (!p->r)
        return;
    if (p->job->s.step > 2 && w->n < STEPS_MAX)
        w->step[w->n++] = now - w->last_s;
    w->last_s = now;
    w->to_s = now;
    if (!p->job->offload)
        return;
    at_offload_count(p->job->offload, &w->to);
    if (p->job->s.step == 2) {
        w->from = w->to;
        w->from_s = now;
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct figures run(const char *adapter, const char *offload,
                          size_t steps)
{
    const char *over[] = { offload };
    struct watch w = { .n = 0 };
    char yaml[1024], command[128];
    struct at_ctx cx;
    double n;
    at_ctx_init(&cx);
    snprintf(yaml, sizeof yaml, text, dir, dir, adapter, steps, dir);
    must(&cx, at_run_train(&cx, parse(&cx, yaml, over, offload != NULL), true,
                           note, &w));
    at_ctx_finish(&cx);
    snprintf(command, sizeof command, "rm -rf %s/run", dir);
    if (system(command) != 0)
        exit(1);
    qsort(w.step, w.n, sizeof *w.step, by_size);
    n = (double)w.n;
    return (struct figures){ w.step[w.n / 2],
        (w.to.wait_s - w.from.wait_s) / n,
        (double)(w.to.blocks - w.from.blocks) / n,
        (double)(w.to.bytes - w.from.bytes) / n };
}

/* ---- loopback ---------------------------------------------------------------------- */

struct pipe { int fd; };

static void *drain(void *self)
{
    static char buf[1 << 20];
    const struct pipe *p = self;
    while (read(p->fd, buf, sizeof buf) > 0)
        ;
    return NULL;
}

/* One stream through a TCP socket on loopback: GB/s.                         */
static double loopback_gbs(void)
{
    static char buf[1 << 20];
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_addr = { htonl(INADDR_LOOPBACK) } };
    union { struct sockaddr_in *in; struct sockaddr *any; } to = { &a };
    socklen_t n = sizeof a;
    int s = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
    struct pipe p;
    pthread_t t;
    double from, bytes = 0;
    if (bind(s, to.any, sizeof a) < 0 || listen(s, 1) < 0 ||
        getsockname(s, to.any, &n) < 0 || connect(c, to.any, sizeof a) < 0)
        return 0;
    p.fd = accept(s, NULL, NULL);
    pthread_create(&t, NULL, drain, &p);
    from = at_now_s();
    while (at_now_s() - from < 1)
        bytes += (double)write(c, buf, sizeof buf);
    from = at_now_s() - from;
    close(c);
    pthread_join(t, NULL);
    close(p.fd);
    close(s);
    return bytes / from * 1e-9;
}

/* ---- server and workers -------------------------------------------------------------- */

static pid_t spawn(const char *const *argv)
{
    union { const char *const *in; char *const *out; } args = { argv };
    pid_t pid = fork();
    if (pid == 0) {
        int quiet = open("/dev/null", O_WRONLY);
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        dup2(quiet, 1);
        dup2(quiet, 2);
        execvp(argv[0], args.out);
        _exit(127);
    }
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
}

static pid_t start_server(const char *attune, bool tls)
{
    char keys[128], where[64], port[16], store[128];
    const char *const secure[] = { attune, "offload", "serve", keys, "--listen",
                                   where, NULL };
    const char *const bare[] = { "nats-server", "-js", "-a", "127.0.0.1", "-p",
                                 port, "-c", keys, NULL };
    struct at_ctx cx;
    pid_t pid;
    at_ctx_init(&cx);
    snprintf(where, sizeof where, "127.0.0.1:%d", PORT);
    snprintf(port, sizeof port, "%d", PORT);
    snprintf(store, sizeof store, "max_payload: 8MB\njetstream { store_dir: "
             "\"%s/store\" }\n", dir);
    snprintf(keys, sizeof keys, tls ? "%s/keys" : "%s/bare.conf", dir);
    if (!tls)
        must(&cx, at_write_file(&cx, keys, store, strlen(store)));
    pid = spawn(tls ? secure : bare);
    usleep(700000);
    at_ctx_finish(&cx);
    return pid;
}

static pid_t start_worker(const char *attune, bool tls)
{
    char url[64], creds[128];
    const char *const argv[] = { attune, "worker", url, "--threads", "1",
                                 tls ? "--credentials" : NULL, creds, NULL };
    snprintf(url, sizeof url, "nats://127.0.0.1:%d", PORT);
    snprintf(creds, sizeof creds, "%s/keys/worker-1.creds", dir);
    return spawn(argv);
}

/* ---- tables --------------------------------------------------------------------------- */

static const struct { const char *name, *recipe; } adapters[] = {
    { "lora r=8, qkv o", "lora: {rank: 8}" },
    { "lora r=64, qkv o", "lora: {rank: 64}" },
    { "linear, q v", "linear: {use: 1, targets: '(q|v)_proj'}" },
    { "lora r=2, v", "lora: {rank: 2, targets: 'v_proj'}" },
};

static void print(const char *adapter, const char *how, int workers,
                  const struct figures *f, const struct figures *none,
                  double limit)
{
    printf("%-18s %-12s %d | step %7.1f ms (%.2f) | waits %6.1f ms | %5.0f "
           "blocks/s | %6.3f GB/s (%4.1f %% of loopback)\n", adapter, how,
           workers, f->step_s * 1e3, f->step_s / none->step_s, f->wait_s * 1e3,
           f->blocks / f->step_s, f->bytes / f->step_s * 1e-9,
           100 * f->bytes / f->step_s * 1e-9 / limit);
    printf("{\"adapter\": \"%s\", \"how\": \"%s\", \"workers\": %d, \"step_ms\": "
           "%.3f, \"ratio\": %.4f, \"wait_ms\": %.3f, \"blocks\": %.1f, "
           "\"bytes\": %.0f, \"loopback_gbs\": %.3f}\n", adapter, how, workers,
           f->step_s * 1e3, f->step_s / none->step_s, f->wait_s * 1e3,
           f->blocks, f->bytes, limit);
    fflush(stdout);
}

static void by_nats(const char *attune, size_t i, bool tls, size_t steps,
                    const struct figures *none, double limit)
{
    char over[256];
    for (int w = 1; w <= WORKERS; w *= 2) {
        pid_t server = start_server(attune, tls), worker[WORKERS];
        struct figures f;
        for (int k = 0; k < w; k++)
            worker[k] = start_worker(attune, tls);
        usleep(500000);
        snprintf(over, sizeof over, "offload={engine: nats, url: "
                 "'nats://127.0.0.1:%d', verify: 0, window: 32%s%s%s}", PORT,
                 tls ? ", credentials: " : "", tls ? dir : "",
                 tls ? "/keys/trainer.creds" : "");
        f = run(adapters[i].recipe, over, steps);
        print(adapters[i].name, tls ? "nats, TLS" : "nats, plain", w, &f, none,
              limit);
        for (int k = 0; k < w; k++)
            end(worker[k]);
        end(server);
        if (!tls)
            break;              /* one row shows what TLS costs               */
    }
}

static void speed(const char *attune, size_t steps)
{
    struct at_text said = { 0 };
    char keys[128];
    struct at_ctx cx;
    double limit = loopback_gbs();
    at_ctx_init(&cx);
    snprintf(keys, sizeof keys, "%s/keys", dir);
    must(&cx, at_keys_make(&cx, keys, NULL, 1, &said));
    at_text_finish(&said);
    at_ctx_finish(&cx);
    printf("loopback %.2f GB/s one way, FMA %.0f GFLOP/s on one thread\n", limit,
           probe_fma_gflops(1));
    for (size_t i = 0; i < AT_COUNT(adapters); i++) {
        struct figures none = run(adapters[i].recipe, NULL, steps), f;
        print(adapters[i].name, "none", 0, &none, &none, limit);
        f = run(adapters[i].recipe, "offload={engine: local, workers: 1}",
                steps);
        print(adapters[i].name, "local", 1, &f, &none, limit);
        by_nats(attune, i, true, steps, &none, limit);
        by_nats(attune, i, false, steps, &none, limit);
    }
}

/* ---- the engine alone ----------------------------------------------------------------- */

/* One step leaves x and dy in the taps; these are sent for some seconds.     */
static void engine_once(const char *adapter, const char *name, const char *over,
                        const char *how, int workers, double limit)
{
    const char *overs[] = { over };
    struct at_offload_counts a, b;
    const struct at_batch *batch;
    struct at_step_result r;
    struct at_job *j;
    char yaml[1024];
    double from, s;
    struct at_ctx cx;
    at_ctx_init(&cx);
    snprintf(yaml, sizeof yaml, text, dir, dir, adapter, (size_t)2, dir);
    must(&cx, at_job_open(&cx, parse(&cx, yaml, overs, 1), &j));
    must(&cx, at_job_start(j));
    must(&cx, at_loader_next(&cx, j->train, &batch));
    for (int i = 0; i < 2; i++)
        must(&cx, at_step_run(j->st, &batch, j->o, 1e-4, 1, &r));
    at_offload_count(j->offload, &a);
    from = at_now_s();
    do {
        at_offload_begin(j->offload, 2);
        must(&cx, at_offload_send(j->offload, j->st->train.plan->g, 0));
        must(&cx, at_offload_finish(j->offload));
        s = at_now_s() - from;
    } while (s < 3);
    at_offload_count(j->offload, &b);
    printf("%-18s %-12s %d | %6.0f blocks/s | %6.3f GB/s (%4.1f %% of "
           "loopback)\n", name, how, workers,
           (double)(b.blocks - a.blocks) / s,
           (double)(b.bytes - a.bytes) / s * 1e-9,
           100 * (double)(b.bytes - a.bytes) / s * 1e-9 / limit);
    printf("{\"engine\": \"%s\", \"adapter\": \"%s\", \"workers\": %d, "
           "\"blocks_s\": %.1f, \"gbs\": %.4f, \"loopback_gbs\": %.3f}\n", how,
           name, workers, (double)(b.blocks - a.blocks) / s,
           (double)(b.bytes - a.bytes) / s * 1e-9, limit);
    fflush(stdout);
    at_job_close(j);
    at_ctx_finish(&cx);
}

static void engine(const char *attune)
{
    static const struct { const char *name, *recipe, *more; } kinds[] = {
        { "lora r=8, qkv o", "lora: {rank: 8}", "" },
        { "16 rows, r=2, v", "lora: {rank: 2, targets: 'v_proj'}",
          ", rows: 16" },
    };
    struct at_text said = { 0 };
    double limit = loopback_gbs();
    char keys[128], over[320];
    struct at_ctx cx;
    at_ctx_init(&cx);
    snprintf(keys, sizeof keys, "%s/keys", dir);
    must(&cx, at_keys_make(&cx, keys, NULL, 1, &said));
    at_text_finish(&said);
    printf("loopback %.2f GB/s one way\n", limit);
    for (size_t i = 0; i < AT_COUNT(kinds); i++) {
        snprintf(over, sizeof over, "offload={engine: local, workers: 1%s}",
                 kinds[i].more);
        engine_once(kinds[i].recipe, kinds[i].name, over, "local", 1, limit);
        for (int tls = 0; tls < 2; tls++)
            for (int w = 1; w <= WORKERS; w *= 2) {
                pid_t server = start_server(attune, tls), worker[WORKERS];
                for (int k = 0; k < w; k++)
                    worker[k] = start_worker(attune, tls);
                usleep(500000);
                snprintf(over, sizeof over, "offload={engine: nats, url: "
                         "'nats://127.0.0.1:%d', verify: 0, window: 64%s%s%s%s}",
                         PORT, tls ? ", credentials: " : "", tls ? dir : "",
                         tls ? "/keys/trainer.creds" : "", kinds[i].more);
                engine_once(kinds[i].recipe, kinds[i].name, over,
                            tls ? "nats, TLS" : "nats, plain", w, limit);
                for (int k = 0; k < w; k++)
                    end(worker[k]);
                end(server);
            }
    }
    at_ctx_finish(&cx);
}

/* ---- users ------------------------------------------------------------------------------ */

struct round { double from_s, to_s; size_t n; };

static void count_steps(void *self, const struct at_progress *p)
{
    struct round *r = self;
    if (!p->r || p->job->s.step < 2)
        return;
    r->to_s = at_now_s();
    if (r->n++ == 0)
        r->from_s = r->to_s;
}

/* Steps a second of all eight, with so many users in a pass.                 */
static double users_once(size_t rows, size_t together)
{
    struct round r = { 0 };
    char yaml[1024], a[64], b[64], command[128];
    const char *over[] = { "users=[a, b, c, d, e, f, g, h]", a, b };
    struct at_ctx cx;
    at_ctx_init(&cx);
    snprintf(a, sizeof a, "batch.rows=%zu", rows);
    snprintf(b, sizeof b, "batch.users=%zu", together);
    snprintf(yaml, sizeof yaml, text, dir, dir, "lora: {rank: 8}", (size_t)6,
             dir);
    must(&cx, at_run_train(&cx, parse(&cx, yaml, over, 3), true, count_steps,
                           &r));
    at_ctx_finish(&cx);
    snprintf(command, sizeof command, "rm -rf %s/run", dir);
    if (system(command) != 0)
        exit(1);
    return (double)(r.n - 1) / (r.to_s - r.from_s);
}

static void users(void)
{
    for (size_t rows = 1; rows <= 8; rows *= 2) {
        double turns[3], pass[3];
        for (int k = 0; k < 3; k++) {
            turns[k] = users_once(rows, 1);
            pass[k] = users_once(rows, 8);
        }
        qsort(turns, 3, sizeof *turns, by_size);
        qsort(pass, 3, sizeof *pass, by_size);
        printf("8 users, %zu x 64 tokens each: by turns %7.2f steps/s, in one "
               "pass %7.2f (%.2f)\n", rows, turns[1], pass[1],
               pass[1] / turns[1]);
        printf("{\"users\": 8, \"rows\": %zu, \"turns\": %.3f, \"pass\": "
               "%.3f}\n", rows, turns[1], pass[1]);
        fflush(stdout);
    }
}

/* What a run needs beside the process, and of that for each further user.    */
static void plan(const char *name, const char *adapter, const char *offload)
{
    const char *over[] = { offload };
    char yaml[1024], a[32], b[32], c[32], d[32];
    struct at_job *j;
    struct at_ctx cx;
    double all = 0, each, fixed;
    at_ctx_init(&cx);
    snprintf(yaml, sizeof yaml, text, dir, dir, adapter, (size_t)2, dir);
    must(&cx, at_job_open(&cx, parse(&cx, yaml, over, offload != NULL), &j));
    for (int i = AT_MEM_FROZEN; i < AT_MEM_FILES; i++)
        all += (double)j->memory[i];
    fixed = (double)(j->memory[AT_MEM_FROZEN] + j->memory[AT_MEM_ACTIVATIONS]);
    each = all - fixed;
    printf("%-34s activations %10s | K=1 %10s", name,
           at_bytes_text(a, (double)j->memory[AT_MEM_ACTIVATIONS]),
           at_bytes_text(b, all));
    /* Merged weights are one user's.                                         */
    if (!j->offload || !j->offload->set.merged)
        printf(" | K=8 %10s | K=64 %10s", at_bytes_text(c, fixed + 8 * each),
               at_bytes_text(d, fixed + 64 * each));
    printf("\n");
    at_job_close(j);
    at_ctx_finish(&cx);
}

static void memory(void)
{
    static const struct { const char *name, *recipe; } kinds[] = {
        { "lora r=8", "lora: {rank: 8, targets: proj}" },
        { "lora r=64", "lora: {rank: 64, targets: proj}" },
        { "linear", "linear: {use: 1, targets: proj}" },
    };
    static const struct { const char *name, *over; } how[] = {
        { "in the graph", NULL }, { "offload, unmerged",
          "offload={engine: local}" },
        { "offload, merged", "offload={engine: local, merged: true}" },
    };
    printf("planned bytes beside the process (a run's peak is never above its "
           "plan, and within 2 %% of it: tests/train.c)\n");
    for (size_t i = 0; i < AT_COUNT(kinds); i++)
        for (size_t k = 0; k < AT_COUNT(how); k++) {
            char name[64];
            snprintf(name, sizeof name, "%s, %s", kinds[i].name, how[k].name);
            plan(name, kinds[i].recipe, how[k].over);
        }
}

int main(int argc, char **argv)
{
    bool many = argc > 1 && strcmp(argv[1], "users") == 0;
    bool plans = many || (argc > 1 && strcmp(argv[1], "memory") == 0);
    bool alone = argc > 2 && strcmp(argv[1], "engine") == 0;
    size_t steps = argc > 2 && !plans ? (size_t)atoi(argv[2]) : 12;
    const char *dim = plans && argc > 2 ? argv[2] : argc > 3 ? argv[3] : "512";
    char command[64];
    if (argc < 2) {
        fprintf(stderr, "usage: bench-offload ATTUNE [steps] [dim] | engine "
                "ATTUNE [dim] | users [dim] | memory [dim]\n");
        return 2;
    }
    if (!mkdtemp(dir))
        return 1;
    make_world((size_t)atoi(dim));
    if (many)
        users();
    else if (plans)
        memory();
    else if (alone)
        engine(argv[2]);
    else
        speed(argv[1], steps < 4 ? 4 : steps);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}
