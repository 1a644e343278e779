/* Results and workers, as they come. */
#include "train/offload/nats.h"

#include <stdlib.h>
#include <string.h>

enum { REFUSALS = 8, TRIES = 2 };       /* of a worker, of a block            */
static const double gone_s = 4;

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
        at_nats_publish(n, ack, NULL, what, strlen(what));
}

static void answer(struct nats *n, natsMsg *m, const char *text)
{
    const char *reply = natsMsg_GetReply(m);
    if (reply && strncmp(reply, "_ATTUNE.", 8) == 0)
        at_nats_publish(n, reply, NULL, text, strlen(text));
}

static struct out *find_by_seq(struct nats *n, uint64_t seq)
{
    for (struct out *b = at_nats_each(n, NULL); b; b = at_nats_each(n, b))
        if (b->state == STORED && b->seq == seq)
            return b;
    return NULL;
}

static struct out *find_answered(struct nats *n, const struct at_message *m)
{
    for (struct out *b = at_nats_each(n, NULL); b; b = at_nats_each(n, b))
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
        at_nats_turn_to(n, b->s);
    if (b && strcmp(why, "weights") == 0)
        at_nats_send_weights(n, b->t->group);
    else if (b && strcmp(why, "about") == 0)
        at_nats_send_about(n);
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
    at_nats_compute_here(b);
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
    b = read_ack(n, at_wire_header(m, AT_WIRE_ACK), &delivered, &seq)
            ? find_by_seq(n, seq) : NULL;
    if (b && ++b->refused >= TRIES) {
        at_nats_compute_here(b);
        n->c.here++;
        acknowledge(n, m, "+ACK");
        p->refused -= !at_nats_finite(b->t->grad, b->t->group->size);
    }
    if (p->refused >= REFUSALS && !p->quarantined)
        quarantine(n, p, "it keeps sending what cannot be used");
}

static void take_result(struct nats *n, struct at_peer *p, natsMsg *m)
{
    union { const char *c; const unsigned char *u; } data =
        { natsMsg_GetData(m) };
    size_t size = (size_t)natsMsg_GetDataLength(m);
    struct at_message want = at_nats_message(n, AT_BLOCK_RESULT), got;
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

/* A worker that comes is reason to give out blocks again.                    */
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

void at_nats_take(struct nats *n, natsMsg *m)
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
        at_nats_publish(n, subject, NULL, t.s, t.n);
    at_text_finish(&t);
}

natsMsg *at_nats_next(natsSubscription *s, int64_t ms)
{
    uint64_t queued = 0;
    natsMsg *m = NULL;
    if (ms == 0 && (natsSubscription_QueuedMsgs(s, &queued) != NATS_OK ||
                    queued == 0))
        return NULL;
    return natsSubscription_NextMsg(&m, s, ms ? ms : 1) == NATS_OK ? m : NULL;
}

void at_nats_look_around(struct nats *n)
{
    double now = at_now_s();
    natsMsg *m;
    while ((m = at_nats_next(n->status, 0)) != NULL) {
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

