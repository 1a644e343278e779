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
#include "train/offload/about.h"
#include "train/offload/block.h"
#include "train/offload/offload.h"
#include "train/offload/peers.h"
#include "train/offload/store.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { PART = 1 << 18 };        /* most numbers of weights in a message       */
enum { REFUSALS = 8, TRIES = 2 };       /* of a worker, of a block            */
static const double gone_s = 4, unheard_s = 5, unsure_s = 2;

enum state { IDLE, UNSENT, SENT, STORED, DONE };

struct side;

struct out {                    /* a slot's block                             */
    struct side *s;
    struct at_task *t;
    struct at_message m;
    enum state state;
    uint64_t seq;               /* in the queue                               */
    double put_s;
    int sends, refused;
};

struct side {                   /* one whom the engine serves: a user's       */
    struct side *next;
    const struct at_offload *o;
    uint32_t user;
    struct out *out;            /* [n_slots]                                  */
    struct at_work **work;      /* by shape: to check, and for want of workers */
    uint64_t *version;          /* by group: of its weights on the server     */
    struct at_about_group *group;
    uint64_t now;               /* version of its weights in this step        */
    bool told;                  /* workers know of it                         */
};

struct nats {
    struct at_engine base;
    const struct at_offload *o; /* the one whose step it is                   */
    struct side *sides, *s;     /* all; the one of o                          */
    uint32_t n_sides;
    struct at_wire w;
    struct at_store_settings store;
    natsSubscription *results, *status, *hold;
    unsigned char *buf;         /* a message                                  */
    float *grad;                /* a result; weights of a site                */
    size_t buf_bytes, grad_size;
    struct at_peers peers;
    uint64_t incarnation, version, random, reconnects;
    uint64_t open_from;         /* version of the first step that is not done */
    size_t open;                /* steps that are not                         */
    struct at_offload_counts c;
    double progress_s;          /* when a result was believed, or waiting began */
    double started_s, beat_s, retry_s, stop_s;
    bool alone, again, down, warned, ready, failed;
};

static struct nats *of(struct at_engine *e)
{
    return (struct nats *)e;
}

/* What follows is for s.                                                      */
static void turn_to(struct nats *n, struct side *s)
{
    n->s = s;
    n->o = s->o;
}

static struct side *side_of(const struct nats *n, const struct at_offload *o)
{
    struct side *s = n->sides;
    while (s && s->o != o)
        s = s->next;
    return s;
}

/* All blocks, one after the other; NULL: that was the last.                   */
static struct out *each(const struct nats *n, struct out *b)
{
    struct side *s = b ? b->s : n->sides;
    if (b && ++b < s->out + s->o->n_slots)
        return b;
    s = b ? s->next : s;
    return s ? s->out : NULL;
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
    *buf_bytes = AT_BLOCK_HEADER + 4 * PART;
    *grad_size = 1;
    for (size_t i = 0; i < o->n_groups; i++) {
        const struct at_offload_group *s = &o->group[i];
        size_t most = (AT_BLOCK_MAX - AT_BLOCK_HEADER) / 4;
        size_t size = AT_BLOCK_HEADER + 4 * o->set.rows * (s->C + s->M);
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

/* ---- sending ------------------------------------------------------------------ */

static bool publish(struct nats *n, const char *subject, const char *reply,
                    const void *data, size_t size)
{
    natsStatus s;
    if (!at_wire_up(&n->w))
        return false;           /* nothing is kept for later: we send anew    */
    s = reply ? natsConnection_PublishRequest(n->w.nc, subject, reply, data,
                                              (int)size)
              : natsConnection_Publish(n->w.nc, subject, data, (int)size);
    if (s == NATS_OK)
        n->c.bytes += size;
    return s == NATS_OK;
}

static struct at_message message_of(const struct nats *n,
                                    enum at_block_kind kind)
{
    struct at_message m = { .kind = kind, .incarnation = n->incarnation,
                            .adapter = n->s->now, .user = n->s->user };
    memcpy(m.run, n->w.run_id, sizeof m.run);
    return m;
}

static bool send_about(struct nats *n)
{
    struct at_about about = { n->incarnation, n->o->set.rows,
                              n->o->set.ack_wait_s, n->o->k, n->s->group,
                              n->o->n_groups, { { n->o->adapter }, 1 } };
    struct at_text t = { 0 };
    char subject[AT_WIRE_SUBJECT];
    bool ok;
    at_about_write(&about, &t);
    snprintf(subject, sizeof subject, "$KV.attune-%s.about.%u", n->w.run,
             n->s->user);
    ok = !t.failed && publish(n, subject, NULL, t.s, t.n);
    at_text_finish(&t);
    n->s->told = ok;
    return ok;
}

/* The weights of a group's sites, one after the other, into n->grad.         */
static size_t gather_weights(struct nats *n, const struct at_offload_group *g)
{
    size_t at = 0;
    for (size_t k = 0; k < g->n_sites; k++)
        for (size_t i = 0; i < g->site[k].n_params; i++) {
            const struct at_param *p = g->site[k].param[i];
            size_t count = at_shape_count(&p->val.shape);
            memcpy(n->grad + at, p->val.data, count * sizeof *n->grad);
            at += count;
        }
    return at;
}

/* As they are in this step, in parts.                                        */
static bool send_weights(struct nats *n, const struct at_offload_group *g)
{
    size_t group = (size_t)(g - n->o->group), all = gather_weights(n, g);
    struct at_message m = message_of(n, AT_BLOCK_WEIGHTS);
    char subject[AT_WIRE_SUBJECT];
    bool ok = true;
    m.site = (uint32_t)group;
    m.of = (uint32_t)((all + PART - 1) / PART);
    m.rows = m.C = m.M = 1;
    for (; m.block < m.of && ok; m.block++) {
        size_t from = (size_t)m.block * PART;
        m.size = (uint32_t)(all - from < PART ? all - from : PART);
        at_message_write(&m, n->grad + from, NULL, n->buf);
        snprintf(subject, sizeof subject, "$KV.attune-%s.w.%u.%zu.%u", n->w.run,
                 n->s->user, group, m.block);
        ok = publish(n, subject, NULL, n->buf, at_message_bytes(&m));
    }
    if (ok)
        n->s->version[group] = n->s->now;
    return ok;
}

/* Puts a block into the queue, whose answer comes to "ack.USER.SLOT.SENDS.VERSION". */
static void try_send(struct nats *n, struct out *b)
{
    char subject[AT_WIRE_SUBJECT], reply[AT_WIRE_SUBJECT], tail[64];
    if (n->alone || !at_wire_up(&n->w))
        return;
    turn_to(n, b->s);
    if ((!n->s->told && !send_about(n)) ||
        (n->s->version[b->m.site] != n->s->now &&
         !send_weights(n, b->t->group)))
        return;
    at_message_write(&b->m, b->t->x, b->t->dy, n->buf);
    snprintf(tail, sizeof tail, "ack.%u.%zu.%d.%llu", n->s->user,
             (size_t)(b - n->s->out), b->sends + 1,
             (unsigned long long)n->s->now);
    at_wire_subject(&n->w, subject, "task", NULL);
    at_wire_subject(&n->w, reply, "result", tail);
    if (!publish(n, subject, reply, n->buf, at_message_bytes(&b->m)))
        return;
    b->sends++;
    n->c.repeats += b->sends > 1;
    b->state = SENT;
    b->put_s = at_now_s();
}

static void compute_here(struct out *b)
{
    at_offload_compute(b->s->work, b->t);
    b->state = DONE;
}

static bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

static void put(struct at_engine *e, const struct at_offload *o,
                struct at_task *t)
{
    struct nats *n = of(e);
    const struct at_offload_group *s = t->group;
    struct out *b;
    turn_to(n, side_of(n, o));
    b = &n->s->out[t - o->slot];
    *b = (struct out){ .s = n->s, .t = t, .state = UNSENT,
                       .m = message_of(n, AT_BLOCK_TASK) };
    b->m.step = t->step;
    b->m.site = (uint32_t)(s - n->o->group);
    b->m.block = t->block;
    b->m.of = t->of;
    b->m.rows = (uint32_t)t->n;
    b->m.C = (uint32_t)s->C;
    b->m.M = (uint32_t)s->M;
    b->m.size = (uint32_t)s->size;
    /* No worker's fault: the step will say where it comes from.              */
    if (!all_finite(t->x, t->n * (s->C + s->M)))
        compute_here(b);
    else
        try_send(n, b);
}

/* ---- what comes ---------------------------------------------------------------- */

static void log_refusal(struct nats *n, struct at_peer *p, const char *why)
{
    p->refused++;
    n->c.refused++;
    at_log(n->o->cx, AT_LOG_WARN, "worker %s: %s", p->name, why);
}

static void quarantine(struct nats *n, struct at_peer *p, const char *why)
{
    p->quarantined = true;
    if (n->open && p->used >= n->open_from)
        n->again = true;
    at_log(n->o->cx, AT_LOG_WARN, "worker %s is quarantined: %s%s", p->name, why,
           n->again ? "; what it did in this step is done again" : "");
}

/* "$JS.ACK.attune-RUN.workers.DELIVERED.SEQ...": of a block of ours.         */
static bool read_ack(const struct nats *n, const char *ack, uint64_t *delivered,
                     uint64_t *seq)
{
    char head[AT_WIRE_SUBJECT], *end;
    snprintf(head, sizeof head, "$JS.ACK.attune-%s.workers.", n->w.run);
    if (strncmp(ack, head, strlen(head)) != 0)
        return false;
    *delivered = strtoull(ack + strlen(head), &end, 10);
    if (*end != '.')
        return false;
    *seq = strtoull(end + 1, &end, 10);
    return *end == '.';
}

static void acknowledge(struct nats *n, natsMsg *m, const char *what)
{
    const char *ack = at_wire_header(m, AT_WIRE_ACK);
    uint64_t delivered, seq;
    if (read_ack(n, ack, &delivered, &seq))
        publish(n, ack, NULL, what, strlen(what));
}

static void answer(struct nats *n, natsMsg *m, const char *text)
{
    const char *reply = natsMsg_GetReply(m);
    if (reply && strncmp(reply, "_ATTUNE.", 8) == 0)
        publish(n, reply, NULL, text, strlen(text));
}

static struct out *find_by_seq(struct nats *n, uint64_t seq)
{
    for (struct out *b = each(n, NULL); b; b = each(n, b))
        if (b->state == STORED && b->seq == seq)
            return b;
    return NULL;
}

static struct out *find_answered(struct nats *n, const struct at_message *m)
{
    for (struct out *b = each(n, NULL); b; b = each(n, b))
        if (b->state != IDLE && at_message_answers(m, &b->m))
            return b;
    return NULL;
}

/* A block that its worker could not take, or one of a step that is over.     */
static void take_back(struct nats *n, natsMsg *m)
{
    const char *why = at_wire_header(m, AT_WIRE_WHY);
    uint64_t delivered, seq;
    struct out *b;
    if (!read_ack(n, at_wire_header(m, AT_WIRE_ACK), &delivered, &seq))
        return;
    b = find_by_seq(n, seq);
    if (b)
        turn_to(n, b->s);
    if (b && strcmp(why, "weights") == 0)
        send_weights(n, b->t->group);
    else if (b && strcmp(why, "about") == 0)
        send_about(n);
    acknowledge(n, m, !b ? "+ACK" : strcmp(why, "leaving") == 0
                    ? "-NAK" : "-NAK {\"delay\": 50000000}");
}

/* Whether a result of so many numbers is the one computed here: equal, but for
 * what another instruction set rounds otherwise.                             */
static bool same(const float *got, const float *want, size_t n)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)got[i] - (double)want[i];
        off += d * d;
        size += (double)want[i] * (double)want[i];
    }
    return off <= 1e-8 * size;
}

static bool chosen(struct nats *n)
{
    n->random ^= n->random << 13;
    n->random ^= n->random >> 7;
    n->random ^= n->random << 17;
    return (double)(n->random >> 11) * 0x1p-53 < n->o->set.verify;
}

/* Computes the block here as well; false: the result was wrong.              */
static bool check(struct nats *n, struct out *b)
{
    n->c.checked++;
    compute_here(b);
    return same(n->grad, b->t->grad, b->t->group->size);
}

static void believe(struct nats *n, struct at_peer *p, struct out *b,
                    size_t size)
{
    double now = at_now_s(), took = now - b->put_s;
    memcpy(b->t->grad, n->grad, b->t->group->size * sizeof *n->grad);
    b->state = DONE;
    p->blocks++;
    p->bytes += size;
    p->used = b->s->now;
    p->latency_s += (took - p->latency_s) / (p->blocks < 32 ? (double)p->blocks
                                                            : 32);
    n->c.blocks++;
    n->progress_s = now;
    if (n->alone)
        at_log(n->o->cx, AT_LOG_INFO, "worker %s: blocks go out again", p->name);
    n->alone = false;
}

/* A result that cannot be read: the block goes to another, and in the end is
 * computed here, for the numbers themselves may be beyond all bounds.        */
static void refuse(struct nats *n, struct at_peer *p, natsMsg *m)
{
    uint64_t delivered, seq;
    struct out *b;
    char text[160];
    log_refusal(n, p, n->o->cx->err.msg);
    snprintf(text, sizeof text, "-%.150s", n->o->cx->err.msg);
    answer(n, m, text);
    acknowledge(n, m, "-NAK");
    if (!read_ack(n, at_wire_header(m, AT_WIRE_ACK), &delivered, &seq))
        return;
    b = find_by_seq(n, seq);
    if (b && ++b->refused >= TRIES) {
        compute_here(b);
        n->c.here++;
        acknowledge(n, m, "+ACK");
        p->refused -= !all_finite(b->t->grad, b->t->group->size);
    }
    if (p->refused >= REFUSALS && !p->quarantined)
        quarantine(n, p, "it keeps sending what cannot be used");
}

static void take_result(struct nats *n, struct at_peer *p, natsMsg *m)
{
    union { const char *c; const unsigned char *u; } data =
        { natsMsg_GetData(m) };
    size_t size = (size_t)natsMsg_GetDataLength(m);
    struct at_message want = message_of(n, AT_BLOCK_RESULT), got;
    uint64_t delivered, seq;
    struct out *b;
    int rc;
    n->c.bytes += size;
    if (!read_ack(n, at_wire_header(m, AT_WIRE_ACK), &delivered, &seq))
        seq = delivered = 0;
    rc = at_message_read(n->o->cx, data.u, size, &want, &got);
    if (rc == AT_ENOENT && !find_by_seq(n, seq)) {
        n->c.late++;            /* from before the run was resumed            */
        answer(n, m, "+");
        return;
    }
    if (rc < 0) {
        refuse(n, p, m);
        return;
    }
    b = find_answered(n, &got);
    if (!b && find_by_seq(n, seq)) {
        at_fail(n->o->cx, AT_EFORMAT, "a block is refused: it is not the answer "
                "to the one that was given out");
        refuse(n, p, m);
        return;
    }
    if (!b || b->state == DONE) {
        n->c.late++;
        n->alone = false;       /* somebody works                             */
    } else {
        at_message_get(&got, data.u, n->grad, NULL);
        if (chosen(n) && !check(n, b)) {
            log_refusal(n, p, "its gradient of a block is not the one computed "
                        "here");
            quarantine(n, p, "its numbers are wrong");
            answer(n, m, "!wrong numbers");
        } else {
            believe(n, p, b, size);
        }
    }
    n->c.repeats += delivered > 1;
    acknowledge(n, m, "+ACK");
    answer(n, m, "+");
}

/* The server's answer to a block put into the queue.                         */
static void take_ack(struct nats *n, const char *tail, natsMsg *m)
{
    char text[256];
    unsigned user;
    unsigned long long slot, version;
    int sends;
    size_t size = (size_t)natsMsg_GetDataLength(m);
    struct side *s = n->sides;
    const char *seq;
    struct out *b;
    if (sscanf(tail, "%u.%llu.%d.%llu", &user, &slot, &sends, &version) != 4)
        return;
    while (s && s->user != user)
        s = s->next;
    if (!s || slot >= s->o->n_slots || version != s->now)
        return;
    b = &s->out[slot];
    if (b->sends != sends || b->state != SENT)
        return;
    snprintf(text, sizeof text, "%.*s", (int)(size < 255 ? size : 255),
             natsMsg_GetData(m) ? natsMsg_GetData(m) : "");
    seq = strstr(text, "\"seq\":");
    if (!seq || strstr(text, "\"error\"")) {
        b->state = UNSENT;      /* full, or not there: later                  */
        b->sends--;
        return;
    }
    b->seq = strtoull(seq + 6, NULL, 10);
    b->state = STORED;
}

/* A worker that comes is reason to give out blocks again.                     */
static void note_here(struct nats *n, struct at_peer *p, bool here)
{
    p->heard_s = at_now_s();
    if (p->here == here)
        return;
    p->here = here;
    at_log(n->o->cx, AT_LOG_INFO, "worker %s %s", p->name,
           here ? "is here" : "has left");
    if (here && n->alone && !at_peers_shunned(&n->peers, p)) {
        n->progress_s = p->heard_s;
        n->alone = false;
    }
}

static void take(struct nats *n, natsMsg *m)
{
    char head[AT_WIRE_SUBJECT];
    const char *subject = natsMsg_GetSubject(m);
    struct at_peer *p;
    at_wire_subject(&n->w, head, "result", "");
    if (strncmp(subject, head, strlen(head)) != 0)
        return;
    subject += strlen(head);
    if (strncmp(subject, "ack.", 4) == 0) {
        take_ack(n, subject + 4, m);
        return;
    }
    p = at_peers_find(n->o->cx, &n->peers, subject);
    if (!p)
        return;
    note_here(n, p, true);
    if (at_peers_shunned(&n->peers, p)) {
        n->c.refused++;
        acknowledge(n, m, "-NAK");
        answer(n, m, "!quarantined");
    } else if (natsMsg_GetDataLength(m) == 0) {
        take_back(n, m);
    } else {
        take_result(n, p, m);
    }
}

/* ---- who is there -------------------------------------------------------------- */

static void hear(struct nats *n, natsMsg *m)
{
    char head[AT_WIRE_SUBJECT];
    const char *subject = natsMsg_GetSubject(m), *data = natsMsg_GetData(m);
    struct at_peer *p;
    at_wire_subject(&n->w, head, "status", "");
    if (strncmp(subject, head, strlen(head)) != 0 || !data ||
        strncmp(data, "{\"worker\"", 9) != 0)
        return;
    p = at_peers_find(n->o->cx, &n->peers, subject + strlen(head));
    if (!p)
        return;
    note_here(n, p, strstr(data, "\"leaving\"") == NULL);
}

static void tell_status(struct nats *n)
{
    char subject[AT_WIRE_SUBJECT], tail[2 * AT_WIRE_NAME];
    const struct at_offload_counts *c = &n->c;
    struct at_text t = { 0 };
    snprintf(tail, sizeof tail, "%s.%s", n->w.key, n->w.id);
    at_wire_subject(&n->w, subject, "status", tail);
    at_text_addf(&t, "{\"trainer\": \"%s\", \"step\": %llu, \"blocks\": %llu, "
        "\"bytes\": %llu, \"repeats\": %llu, \"refused\": %llu, \"late\": "
        "%llu, \"checked\": %llu, \"here\": %llu, \"up_s\": %.3f, \"alone\": "
        "%s, \"workers\": ", tail, (unsigned long long)n->o->step,
        (unsigned long long)c->blocks, (unsigned long long)c->bytes,
        (unsigned long long)c->repeats, (unsigned long long)c->refused,
        (unsigned long long)c->late, (unsigned long long)c->checked,
        (unsigned long long)c->here, at_now_s() - n->started_s,
        n->alone ? "true" : "false");
    at_peers_print(&n->peers, &t);
    at_text_addf(&t, "}");
    if (!t.failed && t.n < 1 << 20)
        publish(n, subject, NULL, t.s, t.n);
    at_text_finish(&t);
}

static natsMsg *next(natsSubscription *s, int64_t ms)
{
    uint64_t queued = 0;
    natsMsg *m = NULL;
    if (ms == 0 && (natsSubscription_QueuedMsgs(s, &queued) != NATS_OK ||
                    queued == 0))
        return NULL;
    return natsSubscription_NextMsg(&m, s, ms ? ms : 1) == NATS_OK ? m : NULL;
}

static void look_around(struct nats *n)
{
    double now = at_now_s();
    natsMsg *m;
    while ((m = next(n->status, 0)) != NULL) {
        hear(n, m);
        natsMsg_Destroy(m);
    }
    for (size_t i = 0; i < n->peers.n; i++) {
        struct at_peer *p = &n->peers.p[i];
        if (!p->here || now - p->heard_s < gone_s)
            continue;
        p->here = false;
        at_log(n->o->cx, AT_LOG_INFO, "worker %s is no longer heard", p->name);
    }
    if (now - n->beat_s >= 1) {
        n->beat_s = now;
        tell_status(n);
    }
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
    for (struct out *b = each(n, NULL); b; b = each(n, b))
        if (b->state == SENT || (lost && b->state == STORED))
            b->state = UNSENT;
}

/* Sends what is not in the queue, or has been there too long.                */
static void retry(struct nats *n)
{
    double now = at_now_s();
    for (struct out *b = each(n, NULL); b; b = each(n, b)) {
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
            try_send(n, b);
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
    for (struct out *b = each(n, NULL); b; b = each(n, b))
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
    natsMsg *m = next(n->results, ms);
    double now;
    while (m) {
        take(n, m);
        natsMsg_Destroy(m);
        m = next(n->results, 0);
    }
    now = at_now_s();
    if (now - n->retry_s < 0.02)
        return;
    n->retry_s = now;
    look_at_connection(n);
    look_around(n);
    retry(n);
    warn_once(n);
}

static int wait_for(struct at_ctx *cx, struct at_engine *e,
                    const struct at_offload *o, struct at_task *t)
{
    struct nats *n = of(e);
    struct out *b = &side_of(n, o)->out[t - o->slot];
    int rc = AT_OK;
    if (n->progress_s < b->put_s)
        n->progress_s = b->put_s;
    turn(n, 0);
    while (b->state != DONE && rc == AT_OK && !n->failed) {
        if (n->alone || stopping(cx, n)) {
            compute_here(b);
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
    turn_to(n, side_of(n, o));
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

/* The buffers hold what any message may.                                      */
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
    turn_to(n, s);
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
            turn_to(n, n->sides);
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
    .join = join, .part = part, .begin = begin, .put = put, .wait = wait_for, .settle = settle,
    .count = count, .destroy = destroy,
};
