/* attune worker, offload keys, offload serve, offload status. */
#include "tools/cmds.h"
#include "train/offload/keys.h"
#include "train/offload/worker.h"

#include <pthread.h>
#include <string.h>

/* ---- worker ---------------------------------------------------------------------- */

struct worker_args {
    const char *credentials, *run;
    int64_t threads;
    double leave;
};

static const struct opt worker_opts[] = {
    { "--credentials", OPT_TEXT, offsetof(struct worker_args, credentials),
      "FILE", "this machine's, made by 'attune offload keys'" },
    { "--run", OPT_TEXT, offsetof(struct worker_args, run), "NAME",
      "which run to work for; by default the credentials' (or attune)" },
    { "--threads", OPT_INT, offsetof(struct worker_args, threads), "N",
      "blocks computed at once; by default one a core" },
    { "--leave", OPT_REAL, offsetof(struct worker_args, leave), "SECONDS",
      "end after so long without work; by default stay" },
};

struct one {
    pthread_t thread;
    struct at_ctx cx;
    struct at_worker_settings set;
    int rc;
    bool started;
};

static void *work(void *self)
{
    struct one *o = self;
    o->rc = at_worker_run(&o->cx, &o->set);
    return NULL;
}

static void start_one(struct at_ctx *cx, const struct worker_args *a,
                      const char *url, size_t i, struct one *o)
{
    at_ctx_init(&o->cx);
    o->cx.log = cx->log;
    o->cx.log_self = cx->log_self;
    o->cx.stop = cx->stop;
    o->set = (struct at_worker_settings){ .url = url, .run = a->run,
        .credentials = a->credentials, .which = i, .leave_s = a->leave };
    o->started = pthread_create(&o->thread, NULL, work, o) == 0;
}

static int worker(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct worker_args *a = args;
    size_t threads = (size_t)(a->threads > 0 ? a->threads
                                             : at_threads_default());
    struct one *one;
    int rc = AT_OK;
    (void)n;
    if (a->threads < 0 || threads > 1024)
        return at_fail(cx, AT_EINVAL, "--threads is between 1 and 1024");
    one = at_alloc_n(cx, &cx->run, threads, sizeof *one);
    if (!one)
        return AT_ENOMEM;
    for (size_t i = 0; i < threads; i++)
        start_one(cx, a, pos[0], i, &one[i]);
    for (size_t i = 0; i < threads; i++) {
        if (one[i].started)
            pthread_join(one[i].thread, NULL);
        else
            one[i].rc = at_fail(&one[i].cx, AT_EIO, "a thread cannot be "
                                "started");
        if (one[i].rc < 0 && rc == AT_OK)
            rc = at_fail(cx, one[i].rc, "%s", one[i].cx.err.msg);
        at_ctx_finish(&one[i].cx);
    }
    return rc;
}

const struct cmd cmd_worker = {
    "worker", "URL",
    "compute gradients for runs that offload them (needs no model, no data)",
    1, 1, worker_opts, AT_COUNT(worker_opts), sizeof(struct worker_args), NULL,
    worker
};

/* ---- keys ------------------------------------------------------------------------ */

struct keys_args { const char *run, *revoke; int64_t workers; };

static void keys_defaults(void *args)
{
    ((struct keys_args *)args)->workers = 1;
}

static const struct opt keys_opts[] = {
    { "--run", OPT_TEXT, offsetof(struct keys_args, run), "NAME",
      "the run they are for; by default attune" },
    { "--workers", OPT_INT, offsetof(struct keys_args, workers), "N",
      "how many workers' credentials to make; by default 1" },
    { "--revoke", OPT_TEXT, offsetof(struct keys_args, revoke), "USER",
      "take the rights of USER (such as worker-1) away instead" },
};

static int keys(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct keys_args *a = args;
    struct at_text said = { 0 };
    int rc;
    (void)n;
    if (a->revoke) {
        rc = at_keys_revoke(cx, pos[0], a->revoke);
        if (rc == AT_OK)
            printf("%s may do nothing any more\n", a->revoke);
        return rc;
    }
    if (a->workers < 0 || a->workers > 10000)
        return at_fail(cx, AT_EINVAL, "--workers is between 0 and 10000");
    rc = at_keys_make(cx, pos[0], a->run, (size_t)a->workers, &said);
    if (rc == AT_OK)
        printf("%sserver:  attune offload serve %s\n"
               "trainer: offload: {engine: nats, url: nats://HOST:4222, "
               "credentials: %s/trainer.creds}\n"
               "worker:  attune worker nats://HOST:4222 --credentials FILE\n",
               said.s ? said.s : "", pos[0], pos[0]);
    at_text_finish(&said);
    return rc;
}

const struct cmd cmd_offload_keys = {
    "offload keys", "DIR",
    "make a server's certificate, and credentials for trainer and workers", 1,
    1, keys_opts, AT_COUNT(keys_opts), sizeof(struct keys_args), keys_defaults,
    keys
};

/* ---- serve ----------------------------------------------------------------------- */

struct serve_args { const char *listen; };

static const struct opt serve_opts[] = {
    { "--listen", OPT_TEXT, offsetof(struct serve_args, listen), "HOST:PORT",
      "where; by default 127.0.0.1:4222, this machine only" },
};

static int serve(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct serve_args *a = args;
    (void)n;
    return at_keys_serve(cx, pos[0], a->listen);
}

const struct cmd cmd_offload_serve = {
    "offload serve", "DIR", "run nats-server with the keys of DIR", 1, 1,
    serve_opts, AT_COUNT(serve_opts), sizeof(struct serve_args), NULL, serve
};

/* ---- status ---------------------------------------------------------------------- */

struct status_args {
    const char *credentials, *run;
    double seconds;
    bool json;
};

static void status_defaults(void *args)
{
    ((struct status_args *)args)->seconds = 2.5;
}

static const struct opt status_opts[] = {
    { "--credentials", OPT_TEXT, offsetof(struct status_args, credentials),
      "FILE", "the trainer's" },
    { "--run", OPT_TEXT, offsetof(struct status_args, run), "NAME",
      "which run; by default the credentials' (or attune)" },
    { "--seconds", OPT_REAL, offsetof(struct status_args, seconds), "S",
      "how long to listen; by default 2.5" },
    { "--json", OPT_FLAG, offsetof(struct status_args, json), NULL,
      "for programs" },
};

static int status(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct status_args *a = args;
    struct at_watch_settings s = { pos[0], a->credentials, a->run, a->seconds,
                                   a->json };
    struct at_text t = { 0 };
    int rc = at_watch(cx, &s, &t);
    (void)n;
    if (rc == AT_OK)
        rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        fputs(t.s ? t.s : "", stdout);
    at_text_finish(&t);
    return rc;
}

const struct cmd cmd_offload_status = {
    "offload status", "URL", "who works for a run, and what they did", 1, 1,
    status_opts, AT_COUNT(status_opts), sizeof(struct status_args),
    status_defaults, status
};
