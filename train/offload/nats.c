/* The engine `nats`: blocks to workers on other machines, by a work queue of
 * NATS JetStream.
 *
 * A block is acknowledged by the trainer, once it holds a gradient that it
 * believes: whatever happens to a worker or a message before that, the queue
 * gives the block to another.  Results are known by what they answer (run,
 * incarnation, step, block, ...), so that one that comes twice or late changes
 * nothing.  A block that the queue has lost, or that nobody can compute, is sent
 * again, and in the end computed here.
 *
 * Everything happens within put and wait, in the trainer's thread.           */
#include "train/offload/nats.h"

#include <string.h>
#include <sys/random.h>
#include <time.h>

static const double unheard_s = 5, unsure_s = 2;

static struct nats *of(struct at_engine *e)
{
    return (struct nats *)e;
}

/* ---- building ---------------------------------------------------------------- */

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const struct at_offload *o, struct at_engine **made)
{
    struct nats *n = at_alloc(cx, arena, sizeof *n);
    if (!n)
        return AT_ENOMEM;
    n->base.impl = &at_engine_nats;
    n->o = o;
    if (!o->set.url[0])
        return at_fail(cx, AT_EINVAL, "offload.engine is nats: give "
                       "offload.url, such as nats://host:4222 ('attune "
                       "offload serve' starts a server)");
    *made = &n->base;
    return AT_OK;
}

/* Sizes a message and a gradient; refuses what no message can carry.         */
static int measure(struct at_ctx *cx, const struct at_offload *o,
                   size_t *buf_bytes, size_t *grad_size)
{
    *buf_bytes = AT_BLOCK_HEADER + 4 * AT_NATS_PART;
    *grad_size = 1;
    for (size_t i = 0; i < o->n_groups; i++) {
        const struct at_offload_group *s = &o->group[i];
        size_t most = (AT_BLOCK_MAX - AT_BLOCK_HEADER) / 4;
        size_t size = AT_BLOCK_HEADER + (o->set.half ? 2u : 4u) *
                      o->set.rows * (s->C + s->M);
        if (s->size > most)
            return at_fail(cx, AT_EINVAL, "%s: its adapter has %zu numbers, and "
                           "a gradient travels in one message of at most %zu: "
                           "use a smaller adapter here, or engine local",
                           s->site->name, s->size, most);
        if (size > AT_BLOCK_MAX)
            return at_fail(cx, AT_EINVAL, "%s: blocks of %zu rows are larger "
                           "than a message may be: set offload.rows: %zu",
                           s->site->name, o->set.rows, most / (s->C + s->M));
        if (*buf_bytes < size)
            *buf_bytes = size;
        if (*grad_size < s->size)
            *grad_size = s->size;
    }
    return AT_OK;
}

static size_t bytes(const struct at_engine *e)
{
    const struct nats *n = (const struct nats *)e;
    size_t buf_bytes, grad_size;
    if (measure(n->o->cx, n->o, &buf_bytes, &grad_size) < 0)
        return 0;
    return 3 * buf_bytes + grad_size * sizeof(float) +
           at_offload_works_bytes(n->o);
}

static void put(struct at_engine *e, const struct at_offload *o,
                struct at_task *t)
{
    struct nats *n = of(e);
    const struct at_offload_group *s = t->group;
    struct out *b;
    at_nats_turn_to(n, at_nats_side_of(n, o));
    b = &n->s->out[t - o->slot];
    *b = (struct out){ .s = n->s, .t = t, .state = UNSENT,
                       .m = at_nats_message(n, AT_BLOCK_TASK) };
    b->m.step = t->step;
    b->m.site = (uint32_t)(s - n->o->group);
    b->m.block = t->block;
    b->m.of = t->of;
    b->m.rows = (uint32_t)t->n;
    b->m.C = (uint32_t)s->C;
    b->m.M = (uint32_t)s->M;
    b->m.size = (uint32_t)s->size;
    b->m.half = o->set.half;
    if (o->set.half)            /* here too: whoever computes has the same    */
        at_message_round(t->x, t->n * (s->C + s->M));
    /* No worker's fault: the step will say where it comes from.              */
    if (!at_nats_finite(t->x, t->n * (s->C + s->M)))
        at_nats_compute_here(b);
    else
        at_nats_try_send(n, b);
}

/* ---- waiting ------------------------------------------------------------------- */

static void look_at_connection(struct nats *n)
{
    struct at_ctx *cx = n->o->cx;
    uint64_t again;
    bool lost;
    if (!at_wire_up(&n->w)) {
        if (!n->down)
            at_log(cx, AT_LOG_WARN, "the connection to %s %s", n->w.url,
                   at_wire_gone(&n->w) ? "is closed: the server does not let "
                   "us in any more" : "is lost; trying again");
        n->down = true;
        return;
    }
    again = at_wire_reconnects(&n->w);
    if (again == n->reconnects)
        return;
    if (at_store_check(&n->w, &n->store, &lost) < 0)
        return;                 /* and again at the next look                 */
    at_log(cx, AT_LOG_INFO, "%s is back%s", n->w.url,
           lost ? ", and has lost the run's queue: it is made anew" : "");
    n->reconnects = again;
    n->down = false;
    for (struct side *s = n->sides; s && lost; s = s->next)
        s->told = false;
    for (struct side *s = n->sides; s && lost; s = s->next)
        memset(s->version, 0, s->o->n_groups * sizeof *s->version);
    for (struct out *b = at_nats_each(n, NULL); b; b = at_nats_each(n, b))
        if (b->state == SENT || (lost && b->state == STORED))
            b->state = UNSENT;
}

/* Sends what is not in the queue, or has been there too long.                */
static void retry(struct nats *n)
{
    double now = at_now_s();
    for (struct out *b = at_nats_each(n, NULL); b; b = at_nats_each(n, b)) {
        double old = now - b->put_s;
        double patience = 3 * n->o->set.ack_wait_s *
                          (double)(1u << (b->sends < 6 ? b->sends : 6));
        if ((b->state == SENT && old > unheard_s) ||
            (b->state == STORED && old > patience)) {
            b->state = UNSENT;
            b->s->version[b->m.site] = 0;
            b->s->told = false;
        }
        if (b->state == UNSENT)
            at_nats_try_send(n, b);
    }
}

static void become_alone(struct nats *n)
{
    size_t quarantined;
    n->alone = true;
    at_log(n->o->cx, AT_LOG_WARN, "no gradient has come for %g s (%zu workers "
           "heard): blocks are computed here until one does",
           n->o->set.patience_s, at_peers_count(&n->peers, &quarantined));
    if (at_wire_up(&n->w))
        at_store_purge(&n->w);
    for (struct out *b = at_nats_each(n, NULL); b; b = at_nats_each(n, b))
        if (b->state == SENT || b->state == STORED)
            b->state = UNSENT;
}

static int lose_patience(struct at_ctx *cx, struct nats *n)
{
    if (!n->o->set.stop) {
        become_alone(n);
        return AT_OK;
    }
    n->failed = true;
    return at_fail(cx, AT_EINTR, "no gradient has come from any worker for %g "
                   "s, and offload.without says to stop then", 
                   n->o->set.patience_s);
}

static void warn_once(struct nats *n)
{
    size_t quarantined;
    if (n->warned || at_now_s() - n->started_s < unsure_s)
        return;
    n->warned = true;
    if (at_peers_count(&n->peers, &quarantined) == 0)
        at_log(n->o->cx, AT_LOG_WARN, "no worker has come yet for run '%s': "
               "start some with 'attune worker %s'; after %g s %s", n->w.run,
               n->w.url, n->o->set.patience_s, n->o->set.stop ?
               "the run stops" : "blocks are computed here");
}

/* Ctrl-C: the step is finished without waiting for anybody much longer.      */
static bool stopping(struct at_ctx *cx, struct nats *n)
{
    if (!cx->stop || !*cx->stop)
        return false;
    if (n->stop_s == 0)
        n->stop_s = at_now_s();
    return at_now_s() - n->stop_s > 1;
}

static void turn(struct nats *n, int64_t ms)
{
    natsMsg *m = at_nats_next(n->results, ms);
    double now;
    while (m) {
        at_nats_take(n, m);
        natsMsg_Destroy(m);
        m = at_nats_next(n->results, 0);
    }
    now = at_now_s();
    if (now - n->retry_s < 0.02)
        return;
    n->retry_s = now;
    look_at_connection(n);
    at_nats_look_around(n);
    retry(n);
    warn_once(n);
}

static int wait_for(struct at_ctx *cx, struct at_engine *e,
                    const struct at_offload *o, struct at_task *t)
{
    struct nats *n = of(e);
    struct out *b = &at_nats_side_of(n, o)->out[t - o->slot];
    int rc = AT_OK;
    if (n->progress_s < b->put_s)
        n->progress_s = b->put_s;
    turn(n, 0);
    while (b->state != DONE && rc == AT_OK && !n->failed) {
        if (n->alone || stopping(cx, n)) {
            at_nats_compute_here(b);
            n->c.here++;
            break;
        }
        turn(n, 20);
        if (b->state != DONE &&
            at_now_s() - n->progress_s > n->o->set.patience_s)
            rc = lose_patience(cx, n);
    }
    if (b->state != DONE && rc == AT_OK)
        rc = cx->err.code;
    b->state = IDLE;
    return rc;
}

static void begin(struct at_engine *e, const struct at_offload *o)
{
    struct nats *n = of(e);
    at_nats_turn_to(n, at_nats_side_of(n, o));
    n->s->now = ++n->version;
    if (n->open++ == 0) {
        n->open_from = n->version;
        n->again = n->failed = false;
    }
    n->progress_s = at_now_s();
    turn(n, 0);
}

static bool settle(struct at_engine *e)
{
    struct nats *n = of(e);
    n->open--;
    return !n->again;
}

static void count(const struct at_engine *e, struct at_offload_counts *c)
{
    const struct nats *n = (const struct nats *)e;
    *c = n->c;
    c->workers = at_peers_count(&n->peers, &c->quarantined);
}

/* ---- beginning and end ----------------------------------------------------------- */

/* The buffers hold what any message may.                                     */
static int take_memory(struct at_ctx *cx, struct nats *n)
{
    n->buf_bytes = AT_BLOCK_MAX;
    n->grad_size = AT_BLOCK_MAX / sizeof *n->grad;
    n->buf = at_alloc(cx, &cx->run, n->buf_bytes);
    n->grad = at_alloc_n(cx, &cx->run, n->grad_size, sizeof *n->grad);
    n->store.ack_wait_s = n->o->set.ack_wait_s;
    n->store.max_bytes = (int64_t)(2 * (n->o->n_slots + 8)) * AT_BLOCK_MAX;
    return n->buf && n->grad ? AT_OK : AT_ENOMEM;
}

static int describe_groups(struct at_ctx *cx, const struct at_offload *o,
                           struct side *s)
{
    s->group = at_alloc_n(cx, &cx->run, o->n_groups + 1, sizeof *s->group);
    for (size_t i = 0; s->group && i < o->n_groups; i++) {
        struct at_about_group *g = &s->group[i];
        g->n = o->group[i].n_sites;
        g->M = at_alloc_n(cx, &cx->run, g->n, sizeof *g->M);
        for (size_t k = 0; g->M && k < g->n; k++)
            g->M[k] = o->group[i].site[k].M;
        if (!g->M)
            return AT_ENOMEM;
    }
    return s->group ? AT_OK : AT_ENOMEM;
}

static int join(struct at_ctx *cx, struct at_engine *e,
                const struct at_offload *o)
{
    struct nats *n = of(e);
    struct side *s = at_alloc(cx, &cx->run, sizeof *s);
    size_t unused[2];
    int rc = s ? measure(cx, o, &unused[0], &unused[1]) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    s->o = o;
    s->user = n->n_sides++;
    s->out = at_alloc_n(cx, &cx->run, o->n_slots, sizeof *s->out);
    s->version = at_alloc_n(cx, &cx->run, o->n_groups + 1,
                                 sizeof *s->version);
    s->work = at_alloc_n(cx, &cx->run, o->n_shapes + 1, sizeof *s->work);
    if (!s->out || !s->version || !s->work)
        return AT_ENOMEM;
    rc = describe_groups(cx, o, s);
    if (rc == AT_OK)
        rc = at_offload_works(o, &cx->run, s->work);
    for (size_t i = 0; i < o->n_shapes && rc == AT_OK; i++)
        rc = at_work_start(s->work[i]);
    for (size_t i = 0; i < o->n_slots; i++)
        s->out[i].s = s;
    s->next = n->sides;
    n->sides = s;
    at_nats_turn_to(n, s);
    return rc;
}

static void part(struct at_engine *e, const struct at_offload *o)
{
    struct nats *n = of(e);
    for (struct side **at = &n->sides; *at; at = &(*at)->next) {
        struct side *s = *at;
        if (s->o != o)
            continue;
        for (size_t i = 0; i < o->n_shapes; i++)
            at_work_destroy(s->work[i]);
        *at = s->next;
        if (n->s == s && n->sides)
            at_nats_turn_to(n, n->sides);
        return;
    }
}

static int listen_to(struct at_ctx *cx, struct nats *n, const char *what,
                     natsSubscription **sub)
{
    char subject[AT_WIRE_SUBJECT];
    natsStatus s;
    at_wire_subject(&n->w, subject, what, NULL);
    s = natsConnection_SubscribeSync(sub, n->w.nc, subject);
    if (s == NATS_OK)
        s = natsSubscription_SetPendingLimits(*sub, 1 << 20, 1 << 30);
    return s == NATS_OK ? AT_OK : at_wire_fail(cx, s, subject);
}

/* A run's name is one trainer's.                                             */
static int claim(struct at_ctx *cx, struct nats *n)
{
    char subject[AT_WIRE_SUBJECT];
    natsMsg *m = NULL;
    natsStatus s;
    at_wire_subject(&n->w, subject, "hold", NULL);
    s = natsConnection_RequestString(&m, n->w.nc, subject, "?", 300);
    natsMsg_Destroy(m);
    if (!at_wire_up(&n->w))
        return at_wire_fail(cx, s, n->w.url);
    if (s != NATS_NO_RESPONDERS)
        return at_fail(cx, AT_EINVAL, "%s: another trainer holds the run name "
                       "'%s' (or one was cut off less than 15 s ago): wait for "
                       "it, or set offload.name", n->w.url, n->w.run);
    return listen_to(cx, n, "hold", &n->hold);
}

static int check_server(struct at_ctx *cx, const struct nats *n)
{
    int64_t most = natsConnection_GetMaxPayload(n->w.nc);
    size_t need, unused;
    if (measure(cx, n->o, &need, &unused) == AT_OK && most >= (int64_t)need)
        return AT_OK;
    return at_fail(cx, AT_EINVAL, "%s takes messages of %lld bytes, and blocks "
                   "of this run need %zu: set 'max_payload: 8MB' in the "
                   "server's configuration, or lower offload.rows", n->w.url,
                   (long long)most, need);
}

static void hang_up(struct nats *n)
{
    natsSubscription_Destroy(n->results);
    natsSubscription_Destroy(n->status);
    natsSubscription_Destroy(n->hold);
    n->results = n->status = n->hold = NULL;
    at_wire_close(&n->w);
}

static int meet_server(struct at_ctx *cx, struct nats *n)
{
    const struct at_offload_settings *set = &n->o->set;
    int rc = at_wire_open(cx, &cx->scratch, set->url, set->credentials,
                          set->name, 0, &n->w);
    if (rc < 0)
        return rc;
    rc = check_server(cx, n);
    if (rc == AT_OK)
        rc = claim(cx, n);
    if (rc == AT_OK)
        rc = at_store_open(&n->w, &n->store);
    if (rc == AT_OK)
        rc = listen_to(cx, n, "result.>", &n->results);
    if (rc == AT_OK)
        rc = listen_to(cx, n, "status.>", &n->status);
    if (rc < 0)
        hang_up(n);
    n->ready = rc == AT_OK;
    return rc;
}

static int start(struct at_ctx *cx, struct at_engine *e)
{
    struct nats *n = of(e);
    double until = at_now_s() + n->o->set.patience_s;
    bool said = false;
    struct timespec now;
    int rc = take_memory(cx, n);
    if (rc == AT_OK)
        rc = join(cx, e, n->o);
    if (rc < 0)
        return rc;
    clock_gettime(CLOCK_REALTIME, &now);
    n->incarnation = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (getrandom(&n->random, sizeof n->random, 0) != sizeof n->random)
        n->random = n->incarnation;
    n->random |= 1;
    n->version = 1;
    while ((rc = meet_server(cx, n)) == AT_EIO && at_now_s() < until &&
           !(cx->stop && *cx->stop)) {
        if (!said)
            at_log(cx, AT_LOG_WARN, "waiting for the server: %s", cx->err.msg);
        said = true;
        nats_Sleep(200);
    }
    n->started_s = n->progress_s = at_now_s();
    return rc;
}

static void destroy(struct at_engine *e)
{
    struct nats *n = of(e);
    while (n->sides)
        part(e, n->sides->o);
    at_free(n->peers.p);
    n->peers = (struct at_peers){ 0 };
    if (!n->ready)
        return;
    at_store_remove(&n->w);
    hang_up(n);
    n->ready = false;
}

const struct at_engine_impl at_engine_nats = {
    .name = "nats", .create = create, .bytes = bytes, .start = start,
    .join = join, .part = part, .begin = begin, .put = put, .wait = wait_for,
    .settle = settle,
    .count = count, .destroy = destroy,
};
