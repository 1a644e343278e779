/* A worker's loop. */
#include "train/offload/worker.h"

#include "train/offload/about.h"
#include "train/offload/block.h"
#include "train/offload/wire.h"
#include "train/offload/work.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { HELD = 4, SHAPES = 64, TRIES = 9, SITES = 1 << 16, USERS = 1 << 12 };
enum { GROUP = 256, PARAMS = 16 };
#define MOST_MEMORY ((size_t)4 << 30)
/* A server does not answer for a queue that it does not have: it is asked again
 * after a while.                                                             */
static const double pull_s = 0.25, confirm_s = 2;

/* A result whose receipt the trainer has not confirmed. */
struct held {
    unsigned char *data;        /* heap                                       */
    size_t cap, n;
    char ack[AT_WIRE_SUBJECT];
    uint64_t number;            /* 0: free                                    */
    double sent_s, wait_s;
    int tries;
};

struct shape { size_t C, M; struct at_work *work; };
struct weights { uint64_t version; size_t n, cap; float *x; };

/* One of the run's users, or the run where it has none. */
struct user {
    struct at_arena arena;
    struct at_about about;
    bool knows;                 /* about                                      */
    struct shape shape[SHAPES];
    size_t n_shapes;
    struct weights *site;       /* heap                                       */
    size_t n_sites, sites_cap;
};

struct worker {
    struct at_ctx *cx;
    const struct at_worker_settings *set;
    struct at_wire w;
    natsSubscription *tasks, *replies;
    struct user **user;         /* heap; NULL: not met                        */
    size_t n_users, users_cap;
    uint64_t incarnation;       /* of what is known of them                   */
    size_t memory;
    float *x;                   /* heap: x, dy, grad of a block               */
    size_t x_cap;
    struct held held[HELD];
    uint64_t numbers, blocks, bytes, refused;
    double busy_s, started_s, beat_s, pulled_s, worked_s;
    bool pulling, told, dismissed;
};

/* ---- the run ------------------------------------------------------------------ */

static void forget(struct worker *w)
{
    for (size_t k = 0; k < w->n_users; k++) {
        struct user *u = w->user[k];
        for (size_t i = 0; u && i < u->n_shapes; i++)
            at_work_destroy(u->shape[i].work);
        for (size_t i = 0; u && i < u->n_sites; i++)
            at_free(u->site[i].x);
        if (!u)
            continue;
        if (u->knows)
            at_adapters_destroy(&u->about.list);
        at_free(u->site);
        at_arena_finish(&u->arena);
        free(u);
    }
    w->n_users = 0;
    w->memory = 0;
}

/* The user's place, made if need be; NULL: out of bounds or memory.          */
static struct user *meet(struct worker *w, uint32_t user)
{
    size_t before = w->n_users;
    if (user >= USERS || at_grow(w->cx, &w->user, &w->users_cap,
                                 (size_t)user + 1, sizeof *w->user) < 0)
        return NULL;
    if (before <= user) {
        memset(w->user + before, 0, (user + 1 - before) * sizeof *w->user);
        w->n_users = (size_t)user + 1;
    }
    if (!w->user[user])
        w->user[user] = calloc(1, sizeof *w->user[user]);
    return w->user[user];
}

/* The newest of a key of the bucket; NULL: none, or nobody answered.         */
static natsMsg *get(struct worker *w, const char *key)
{
    char subject[2 * AT_WIRE_SUBJECT];
    natsMsg *m = NULL;
    snprintf(subject, sizeof subject,
             "$JS.API.DIRECT.GET.KV_attune-%s.$KV.attune-%s.%s", w->w.run,
             w->w.run, key);
    if (natsConnection_RequestString(&m, w->w.nc, subject, "", 2000) != NATS_OK)
        return NULL;
    if (natsMsg_GetDataLength(m) > 0 && !at_wire_header(m, "Status")[0])
        return m;
    natsMsg_Destroy(m);
    return NULL;
}

/* What a run that began anew says of a user makes all older knowledge void.  */
static int learn(struct worker *w, uint32_t user, struct user **to)
{
    struct at_about about;
    struct at_arena a = { 0 };
    char key[32];
    natsMsg *m;
    int rc;
    snprintf(key, sizeof key, "about.%u", user);
    m = get(w, key);
    if (!m)
        return at_fail(w->cx, AT_ENOENT, "the trainer has not said what it "
                       "trains");
    rc = at_about_read(w->cx, &a, natsMsg_GetData(m),
                       (size_t)natsMsg_GetDataLength(m), &about);
    natsMsg_Destroy(m);
    if (rc == AT_OK && about.incarnation != w->incarnation)
        forget(w);
    *to = rc == AT_OK ? meet(w, user) : NULL;
    if (rc == AT_OK && (!*to || (*to)->knows)) {
        at_adapters_destroy(&about.list);
        rc = *to ? AT_OK : AT_ENOMEM;
    } else if (rc == AT_OK) {
        w->incarnation = about.incarnation;
        (*to)->about = about;
        (*to)->arena = a;
        (*to)->knows = true;
        return AT_OK;
    }
    at_arena_finish(&a);
    return rc;
}

static struct at_message want(const struct worker *w, enum at_block_kind kind)
{
    struct at_message m = { .kind = kind, .incarnation = w->incarnation };
    memcpy(m.run, w->w.run_id, sizeof m.run);
    return m;
}

static const unsigned char *data_of(natsMsg *m, size_t *n)
{
    union { const char *c; const unsigned char *u; } data =
        { natsMsg_GetData(m) };
    *n = (size_t)natsMsg_GetDataLength(m);
    return data.u;
}

/* ---- weights ------------------------------------------------------------------- */

static int get_part(struct worker *w, struct user *u,
                    const struct at_message *task, uint32_t part, uint32_t *of)
{
    struct weights *to = &u->site[task->site];
    struct at_message need = want(w, AT_BLOCK_WEIGHTS), got;
    const unsigned char *data;
    char key[64];
    natsMsg *m;
    size_t n;
    int rc;
    snprintf(key, sizeof key, "w.%u.%u.%u", task->user, task->site, part);
    m = get(w, key);
    if (!m)
        return at_fail(w->cx, AT_ENOENT, "weights of site %u are not there",
                       task->site);
    data = data_of(m, &n);
    w->bytes += n;
    rc = at_message_read(w->cx, data, n, &need, &got);
    if (rc == AT_OK && (got.adapter != task->adapter ||
                        got.site != task->site || got.user != task->user ||
                        got.block != part ||
                        to->n + got.size > task->size))
        rc = at_fail(w->cx, AT_ENOENT, "weights of site %u are those of another "
                     "step", task->site);
    if (rc == AT_OK) {
        at_message_get(&got, data, to->x + to->n, NULL);
        to->n += got.size;
        *of = got.of;
    }
    natsMsg_Destroy(m);
    return rc;
}

static int make_room(struct worker *w, struct user *u,
                     const struct at_message *task)
{
    size_t before = u->n_sites;
    int rc = task->site < SITES ? AT_OK : at_fail(w->cx, AT_EFORMAT,
             "a block is of site %u, and there are at most %d", task->site,
             SITES);
    if (rc == AT_OK)
        rc = at_grow(w->cx, &u->site, &u->sites_cap, (size_t)task->site + 1,
                     sizeof *u->site);
    if (rc < 0)
        return rc;
    if (before <= task->site) {
        memset(u->site + before, 0,
               ((size_t)task->site + 1 - before) * sizeof *u->site);
        u->n_sites = (size_t)task->site + 1;
    }
    return at_grow(w->cx, &u->site[task->site].x, &u->site[task->site].cap,
                   task->size, sizeof(float));
}

/* The block may be here before the weights are where they are read.          */
static int get_weights(struct worker *w, struct user *u,
                       const struct at_message *task)
{
    int rc = make_room(w, u, task);
    struct weights *to;
    if (rc < 0)
        return rc;
    to = &u->site[task->site];
    if (to->version == task->adapter && to->n == task->size)
        return AT_OK;
    for (int i = 0; i < TRIES; i++) {
        uint32_t of = 1;
        to->version = 0;
        to->n = 0;
        rc = AT_OK;
        for (uint32_t part = 0; part < of && rc == AT_OK; part++)
            rc = get_part(w, u, task, part, &of);
        if (rc == AT_OK && to->n == task->size) {
            to->version = task->adapter;
            return AT_OK;
        }
        nats_Sleep(1 << (i < 6 ? i : 6));
    }
    return rc < 0 ? rc : at_fail(w->cx, AT_ENOENT, "weights of site %u are "
                                 "fewer than its block says", task->site);
}

/* ---- a block --------------------------------------------------------------------- */

static int find_work(struct worker *w, struct user *u, size_t C, size_t M,
                     struct at_work **work)
{
    struct shape *s = u->shape;
    int rc;
    for (size_t i = 0; i < u->n_shapes; i++, s++)
        if (s->C == C && s->M == M) {
            *work = s->work;
            return AT_OK;
        }
    if (u->n_shapes == SHAPES)
        return at_fail(w->cx, AT_EFORMAT, "blocks have more than %d shapes",
                       SHAPES);
    rc = at_work_create(w->cx, &u->arena, u->about.list.a[0], u->about.k,
                        u->about.rows, C, M, &s->work);
    if (rc == AT_OK && at_work_params(s->work) > PARAMS)
        rc = at_fail(w->cx, AT_EFORMAT, "an adapter has more than %d "
                     "parameters a site", PARAMS);
    else if (rc == AT_OK && w->memory + at_work_bytes(s->work) > MOST_MEMORY)
        rc = at_fail(w->cx, AT_ENOMEM, "blocks of %zu to %zu numbers need "
                     "more memory than a worker gives", C, M);
    else if (rc == AT_OK)
        rc = at_work_start(s->work);
    if (rc < 0) {
        at_work_destroy(s->work);
        s->work = NULL;
        return rc;
    }
    w->memory += at_work_bytes(s->work);
    s->C = C;
    s->M = M;
    u->n_shapes++;
    *work = s->work;
    return AT_OK;
}

/* The works of a block's sites; refuses what does not fit together.          */
static int find_works(struct worker *w, struct user *u,
                      const struct at_message *task, struct at_work **work)
{
    const struct at_about_group *g;
    size_t M = 0, size = 0;
    int rc = AT_OK;
    if (task->rows > u->about.rows || task->site >= u->about.n_groups ||
        u->about.group[task->site].n > GROUP)
        return at_fail(w->cx, AT_EFORMAT, "a block has %u rows of group %u, "
                       "and the run has %zu groups of at most %zu rows",
                       task->rows, task->site, u->about.n_groups,
                       u->about.rows);
    g = &u->about.group[task->site];
    for (size_t i = 0; i < g->n; i++)
        M += g->M[i];
    for (size_t i = 0; i < g->n && M == task->M && rc == AT_OK; i++) {
        rc = find_work(w, u, task->C, g->M[i], &work[i]);
        size += rc == AT_OK ? at_work_size(work[i]) : 0;
    }
    if (rc == AT_OK && (M != task->M || size != task->size))
        rc = at_fail(w->cx, AT_EFORMAT, "a block's gradient has %u columns and "
                     "its adapter %u numbers, instead of %zu and %zu", task->M,
                     task->size, M, size);
    return rc;
}

static int understand(struct worker *w, const unsigned char *data, size_t n,
                      struct at_message *task, struct user **u)
{
    struct at_message need = want(w, AT_BLOCK_TASK);
    int rc = at_message_read(w->cx, data, n, &need, task);
    if (rc < 0)
        return rc;
    *u = task->user < w->n_users ? w->user[task->user] : NULL;
    if (!*u || !(*u)->knows)
        return at_fail(w->cx, AT_ENOENT, "user %u is not known", task->user);
    return AT_OK;
}

static void run_works(struct worker *w, const struct user *u,
                      const struct at_message *task,
                      struct at_work *const *work, float *grad)
{
    const struct at_about_group *g = &u->about.group[task->site];
    float *dy = w->x + (size_t)task->rows * task->C;
    float *weights = u->site[task->site].x;
    for (size_t k = 0; k < g->n; k++) {
        at_real *param[PARAMS];
        for (size_t i = 0; i < at_work_params(work[k]); i++) {
            param[i] = weights;
            weights += at_work_count(work[k], i);
        }
        at_work_run(work[k], w->x, dy, task->rows, param, grad);
        dy += task->rows * g->M[k];
        grad += at_work_size(work[k]);
    }
}

/* The gradient, behind x and dy in w->x; *why: what was missing.             */
static int compute(struct worker *w, natsMsg *m, struct at_message *task,
                   float **grad, const char **why)
{
    struct at_work *work[GROUP] = { NULL };
    struct user *u = NULL;
    size_t n, rows;
    const unsigned char *data = data_of(m, &n);
    int rc = understand(w, data, n, task, &u);
    *why = "about";
    if (rc == AT_OK)
        rc = find_works(w, u, task, work);
    if (rc < 0)
        return rc;
    *why = "weights";
    rc = get_weights(w, u, task);
    if (rc < 0)
        return rc;
    rows = (size_t)task->rows * ((size_t)task->C + task->M);
    rc = at_grow(w->cx, &w->x, &w->x_cap, rows + task->size, sizeof *w->x);
    if (rc < 0)
        return rc;
    at_message_get(task, data, w->x, w->x + (size_t)task->rows * task->C);
    *grad = w->x + rows;
    run_works(w, u, task, work, *grad);
    w->bytes += n;
    return AT_OK;
}

/* ---- results ---------------------------------------------------------------------- */

static void subject_of(const struct worker *w, char to[AT_WIRE_SUBJECT],
                       const char *what)
{
    char tail[2 * AT_WIRE_NAME];
    snprintf(tail, sizeof tail, "%s.%s", w->w.key, w->w.id);
    at_wire_subject(&w->w, to, what, tail);
}

/* n 0: the block is given back, and why.                                     */
static void publish(struct worker *w, const char *ack, const void *data,
                    size_t n, uint64_t number, const char *why)
{
    char subject[AT_WIRE_SUBJECT], reply[AT_WIRE_SUBJECT + 32];
    natsMsg *m = NULL;
    natsStatus s;
    subject_of(w, subject, "result");
    snprintf(reply, sizeof reply, "%s.r.%llu", w->w.inbox,
             (unsigned long long)number);
    s = natsMsg_Create(&m, subject, n ? reply : NULL, data, (int)n);
    if (s == NATS_OK)
        s = natsMsgHeader_Set(m, AT_WIRE_ACK, ack);
    if (s == NATS_OK && why)
        s = natsMsgHeader_Set(m, AT_WIRE_WHY, why);
    if (s == NATS_OK && at_wire_up(&w->w))
        natsConnection_PublishMsg(w->w.nc, m);
    natsMsg_Destroy(m);
}

static void send_held(struct worker *w, struct held *h)
{
    h->tries++;
    h->sent_s = at_now_s();
    h->wait_s = confirm_s;
    publish(w, h->ack, h->data, h->n, h->number, NULL);
}

static struct held *free_place(struct worker *w)
{
    for (size_t i = 0; i < HELD; i++)
        if (w->held[i].number == 0)
            return &w->held[i];
    return NULL;
}

static int send_result(struct worker *w, const char *ack,
                       const struct at_message *task, const float *grad)
{
    struct at_message m = *task;
    struct held *h = free_place(w);
    int times = 1, rc;
    m.kind = AT_BLOCK_RESULT;
    m.half = false;
    rc = at_grow(w->cx, &h->data, &h->cap, at_message_bytes(&m), 1);
    if (rc < 0)
        return rc;
    at_message_write(&m, grad, NULL, h->data);
    h->n = at_message_bytes(&m);
    h->number = ++w->numbers;
    h->tries = 0;
    snprintf(h->ack, sizeof h->ack, "%s", ack);
    if (w->set->bend)
        times = w->set->bend(w->set->bend_self, h->data, &h->n);
    for (int i = 0; i < times; i++)
        send_held(w, h);
    if (times == 0)
        h->number = 0;
    w->blocks++;
    w->bytes += h->n;
    return AT_OK;
}

static void confirmed(struct worker *w, natsMsg *m)
{
    const char *dot = strrchr(natsMsg_GetSubject(m), '.');
    const char *data = natsMsg_GetData(m);
    uint64_t number = dot ? strtoull(dot + 1, NULL, 10) : 0;
    char said[128];
    struct held *h = w->held;
    for (; h < w->held + HELD && h->number != number; h++)
        ;
    if (h == w->held + HELD)
        return;
    h->number = 0;
    snprintf(said, sizeof said, "%.*s", (int)(sizeof said - 1 <
             (size_t)natsMsg_GetDataLength(m) ? sizeof said - 1
             : (size_t)natsMsg_GetDataLength(m)), data ? data : "");
    if (said[0] == '-') {
        w->refused++;
        at_log(w->cx, AT_LOG_WARN, "the trainer refuses a result: %s", said + 1);
    } else if (said[0] == '!') {
        w->dismissed = true;
        at_fail(w->cx, AT_EIO, "the trainer believes no more results of this "
                "worker (%s): its arithmetic or memory may be faulty", said + 1);
    }
}

/* No trainer just now: it may be on its way back.                            */
static void try_sooner(struct worker *w)
{
    for (struct held *h = w->held; h < w->held + HELD; h++)
        h->wait_s = 0.02 * (double)(1 << (h->tries < 7 ? h->tries : 7));
}

/* Results that nobody confirmed go out again, in the end they are dropped: the
 * queue will give their blocks to another.                                   */
static void tend_results(struct worker *w, int64_t ms)
{
    double now = at_now_s();
    natsStatus s = NATS_OK;
    natsMsg *m = NULL;
    uint64_t queued = 0;
    while ((s == NATS_OK || s == NATS_NO_RESPONDERS) &&
           natsSubscription_QueuedMsgs(w->replies, &queued) == NATS_OK &&
           (queued > 0 || ms > 0)) {
        s = natsSubscription_NextMsg(&m, w->replies, ms ? ms : 1);
        if (s == NATS_NO_RESPONDERS)
            try_sooner(w);
        else if (s == NATS_OK)
            confirmed(w, m);
        natsMsg_Destroy(m);
        m = NULL;
        ms = 0;
    }
    for (struct held *h = w->held; h < w->held + HELD; h++) {
        if (h->number == 0 || now - h->sent_s < h->wait_s)
            continue;
        if (h->tries >= TRIES)
            h->number = 0;
        else if (at_wire_up(&w->w))
            send_held(w, h);
    }
}

/* ---- tasks -------------------------------------------------------------------------- */

static void pull(struct worker *w)
{
    char subject[AT_WIRE_SUBJECT], reply[AT_WIRE_SUBJECT + 8], what[64];
    snprintf(subject, sizeof subject,
             "$JS.API.CONSUMER.MSG.NEXT.attune-%s.workers", w->w.run);
    snprintf(reply, sizeof reply, "%s.t", w->w.inbox);
    snprintf(what, sizeof what, "{\"batch\": 1, \"expires\": %.0f}",
             pull_s * 1e9);
    if (!at_wire_up(&w->w) ||
        natsConnection_PublishRequestString(w->w.nc, subject, reply, what) !=
            NATS_OK)
        return;
    w->pulling = true;
    w->pulled_s = at_now_s();
}

static void take_task(struct worker *w, natsMsg *m)
{
    const char *ack = natsMsg_GetReply(m), *why = "about";
    struct at_message task;
    double now = at_now_s();
    float *grad;
    int rc = compute(w, m, &task, &grad, &why);
    if (rc == AT_ENOENT && strcmp(why, "about") == 0) {
        struct user *u;
        size_t n;
        const unsigned char *data = data_of(m, &n);
        rc = learn(w, at_message_user(data, n), &u);
        if (rc == AT_OK)
            rc = compute(w, m, &task, &grad, &why);
    }
    w->busy_s += at_now_s() - now;
    w->worked_s = at_now_s();
    if (rc == AT_OK)
        rc = send_result(w, ack, &task, grad);
    if (rc == AT_OK)
        return;
    at_log(w->cx, AT_LOG_DEBUG, "a block is given back: %s", w->cx->err.msg);
    publish(w, ack, NULL, 0, 0, why);
}

/* A message where tasks are awaited; false: there was none.                  */
static bool next_task(struct worker *w, int64_t ms, bool give_back)
{
    natsMsg *m = NULL;
    const char *status;
    if (natsSubscription_NextMsg(&m, w->tasks, ms) != NATS_OK)
        return false;
    status = at_wire_header(m, "Status");
    w->pulling = false;
    if (status[0]) {
        /* 408: nothing came; 404, 409, 503: there is no queue yet, or now.   */
        if (strcmp(status, "408") != 0)
            nats_Sleep(200);
    } else if (natsMsg_GetReply(m) && give_back) {
        publish(w, natsMsg_GetReply(m), NULL, 0, 0, "leaving");
    } else if (natsMsg_GetReply(m)) {
        pull(w);                /* the next comes while this one is computed  */
        take_task(w, m);
    }
    natsMsg_Destroy(m);
    return true;
}

/* ---- the loop ------------------------------------------------------------------------ */

static void beat(struct worker *w, bool leaving)
{
    double now = at_now_s();
    char subject[AT_WIRE_SUBJECT], text[512];
    if (!at_wire_up(&w->w) || (!leaving && now - w->beat_s < 1))
        return;
    w->beat_s = now;
    subject_of(w, subject, "status");
    snprintf(text, sizeof text, "{\"worker\": \"%s.%s\", \"state\": \"%s\", "
             "\"blocks\": %llu, \"bytes\": %llu, \"refused\": %llu, "
             "\"busy_s\": %.3f, \"up_s\": %.3f}", w->w.key, w->w.id,
             leaving ? "leaving" : "here", (unsigned long long)w->blocks,
             (unsigned long long)w->bytes, (unsigned long long)w->refused,
             w->busy_s, now - w->started_s);
    natsConnection_PublishString(w->w.nc, subject, text);
}

static bool stopped(const struct worker *w)
{
    return w->cx->stop && *w->cx->stop;
}

static int connect_patiently(struct worker *w)
{
    const struct at_worker_settings *s = w->set;
    int64_t ms = 100;
    bool said = false;
    for (;;) {
        int rc = at_wire_open(w->cx, &w->cx->scratch, s->url, s->credentials,
                              s->run, s->which, &w->w);
        if (rc != AT_EIO)
            return rc;
        if (!said)
            at_log(w->cx, AT_LOG_INFO, "waiting for the server: %s",
                   w->cx->err.msg);
        said = true;
        for (int64_t t = 0; t < ms && !stopped(w); t += 100)
            nats_Sleep(100);
        if (stopped(w))
            return AT_EINTR;
        ms = ms < 5000 ? 2 * ms : ms;
    }
}

static int subscribe(struct worker *w, natsSubscription **sub, const char *tail)
{
    char subject[AT_WIRE_SUBJECT + 8];
    natsStatus s;
    snprintf(subject, sizeof subject, "%s.%s", w->w.inbox, tail);
    s = natsConnection_SubscribeSync(sub, w->w.nc, subject);
    return s == NATS_OK ? AT_OK : at_wire_fail(w->cx, s, subject);
}

/* A server that was restarted has forgotten what was asked of it.            */
static void mind_pull(struct worker *w, uint64_t *reconnects)
{
    uint64_t now = at_wire_reconnects(&w->w);
    if (now != *reconnects || at_now_s() - w->pulled_s > pull_s + 0.05)
        w->pulling = false;
    if (now != *reconnects)
        at_log(w->cx, AT_LOG_INFO, "connected to %s again", w->w.url);
    *reconnects = now;
}

static int check_rights(struct worker *w)
{
    if (at_wire_gone(&w->w))
        return at_fail(w->cx, AT_EINVAL, "%s does not let us in any more: the "
                       "credentials were revoked, or the server was given "
                       "others", w->w.url);
    if (at_wire_forbidden(&w->w))
        return at_fail(w->cx, AT_EINVAL, "%s: these credentials are not for run "
                       "'%s'", w->w.url, w->w.run);
    return AT_OK;
}

static int loop(struct worker *w)
{
    uint64_t reconnects = 0;
    int rc = AT_OK;
    while (!stopped(w) && rc == AT_OK) {
        bool full = free_place(w) == NULL;
        beat(w, false);
        tend_results(w, full ? 50 : 0);
        if (w->dismissed)
            return AT_EIO;
        if (full)
            continue;
        if (!w->pulling)
            pull(w);
        if (next_task(w, 100, false))
            continue;
        mind_pull(w, &reconnects);
        rc = check_rights(w);
        if (w->set->leave_s > 0 && at_now_s() - w->worked_s > w->set->leave_s)
            break;
    }
    return rc;
}

/* What is computed is handed over, what is not is given back.                */
static void leave(struct worker *w)
{
    double until = at_now_s() + 1;
    size_t held = 1;
    while (next_task(w, 1, true))
        ;
    while (held > 0 && at_now_s() < until) {
        tend_results(w, 20);
        held = 0;
        for (size_t i = 0; i < HELD; i++)
            held += w->held[i].number != 0;
    }
    beat(w, true);
    natsConnection_FlushTimeout(w->w.nc, 1000);
}

static void close_worker(struct worker *w)
{
    forget(w);
    natsSubscription_Destroy(w->tasks);
    natsSubscription_Destroy(w->replies);
    at_wire_close(&w->w);
    for (size_t i = 0; i < HELD; i++)
        at_free(w->held[i].data);
    at_free(w->user);
    at_free(w->x);
}

int at_worker_run(struct at_ctx *cx, const struct at_worker_settings *s)
{
    struct worker w = { .cx = cx, .set = s };
    int rc = connect_patiently(&w);
    if (rc < 0)
        return rc == AT_EINTR ? AT_OK : rc;
    omp_set_num_threads(1);     /* a block is computed by one thread          */
    w.started_s = w.worked_s = at_now_s();
    at_log(cx, AT_LOG_INFO, "worker %s.%s for run '%s' at %s", w.w.key, w.w.id,
           w.w.run, s->url);
    rc = subscribe(&w, &w.tasks, "t");
    if (rc == AT_OK)
        rc = subscribe(&w, &w.replies, "r.*");
    if (rc == AT_OK)
        rc = loop(&w);
    if (w.tasks && w.replies)
        leave(&w);
    at_log(cx, AT_LOG_INFO, "worker %s.%s leaves: %llu blocks", w.w.key, w.w.id,
           (unsigned long long)w.blocks);
    close_worker(&w);
    return rc;
}
