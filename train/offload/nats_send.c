/* Blocks, weights and what workers must know, to the server. */
#include "train/offload/nats.h"

#include <math.h>
#include <string.h>

/* What follows is for s.                                                     */
void at_nats_turn_to(struct nats *n, struct side *s)
{
    n->s = s;
    n->o = s->o;
}

struct side *at_nats_side_of(const struct nats *n, const struct at_offload *o)
{
    struct side *s = n->sides;
    while (s && s->o != o)
        s = s->next;
    return s;
}

/* All blocks, one after the other; NULL: that was the last.                  */
struct out *at_nats_each(const struct nats *n, struct out *b)
{
    struct side *s = b ? b->s : n->sides;
    if (b && ++b < s->out + s->o->n_slots)
        return b;
    s = b ? s->next : s;
    return s ? s->out : NULL;
}


bool at_nats_publish(struct nats *n, const char *subject, const char *reply,
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

struct at_message at_nats_message(const struct nats *n,
                                    enum at_block_kind kind)
{
    struct at_message m = { .kind = kind, .incarnation = n->incarnation,
                            .adapter = n->s->now, .user = n->s->user };
    memcpy(m.run, n->w.run_id, sizeof m.run);
    return m;
}

bool at_nats_send_about(struct nats *n)
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
    ok = !t.failed && at_nats_publish(n, subject, NULL, t.s, t.n);
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
bool at_nats_send_weights(struct nats *n, const struct at_offload_group *g)
{
    size_t group = (size_t)(g - n->o->group), all = gather_weights(n, g);
    struct at_message m = at_nats_message(n, AT_BLOCK_WEIGHTS);
    char subject[AT_WIRE_SUBJECT];
    bool ok = true;
    m.site = (uint32_t)group;
    m.of = (uint32_t)((all + AT_NATS_PART - 1) / AT_NATS_PART);
    m.rows = m.C = m.M = 1;
    for (; m.block < m.of && ok; m.block++) {
        size_t from = (size_t)m.block * AT_NATS_PART;
        m.size = (uint32_t)(all - from < AT_NATS_PART ? all - from
                                                      : AT_NATS_PART);
        at_message_write(&m, n->grad + from, NULL, n->buf);
        snprintf(subject, sizeof subject, "$KV.attune-%s.w.%u.%zu.%u", n->w.run,
                 n->s->user, group, m.block);
        ok = at_nats_publish(n, subject, NULL, n->buf, at_message_bytes(&m));
    }
    if (ok)
        n->s->version[group] = n->s->now;
    return ok;
}

/* The queue's answer comes to "ack.USER.SLOT.SENDS.VERSION".                  */
void at_nats_try_send(struct nats *n, struct out *b)
{
    char subject[AT_WIRE_SUBJECT], reply[AT_WIRE_SUBJECT], tail[64];
    if (n->alone || !at_wire_up(&n->w))
        return;
    at_nats_turn_to(n, b->s);
    if ((!n->s->told && !at_nats_send_about(n)) ||
        (n->s->version[b->m.site] != n->s->now &&
         !at_nats_send_weights(n, b->t->group)))
        return;
    at_message_write(&b->m, b->t->x, b->t->dy, n->buf);
    snprintf(tail, sizeof tail, "ack.%u.%zu.%d.%llu", n->s->user,
             (size_t)(b - n->s->out), b->sends + 1,
             (unsigned long long)n->s->now);
    at_wire_subject(&n->w, subject, "task", NULL);
    at_wire_subject(&n->w, reply, "result", tail);
    if (!at_nats_publish(n, subject, reply, n->buf, at_message_bytes(&b->m)))
        return;
    b->sends++;
    n->c.repeats += b->sends > 1;
    b->state = SENT;
    b->put_s = at_now_s();
}

void at_nats_compute_here(struct out *b)
{
    at_offload_compute(b->s->work, b->t);
    b->state = DONE;
}

bool at_nats_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

