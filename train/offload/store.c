/* Stream, consumer, bucket. */
#include "train/offload/store.h"

#include <string.h>

enum { MAX_WORKERS = 4096 };

struct names { char queue[AT_WIRE_NAME + 16], bucket[AT_WIRE_NAME + 16]; };

static struct names names_of(const struct at_wire *w)
{
    struct names n;
    snprintf(n.queue, sizeof n.queue, "attune-%s", w->run);
    snprintf(n.bucket, sizeof n.bucket, "KV_attune-%s", w->run);
    return n;
}

/* One that is there with other settings makes way: what it holds is of an
 * earlier incarnation.                                                       */
static natsStatus add_stream(jsCtx *js, jsStreamConfig *c)
{
    natsStatus s = js_AddStream(NULL, js, c, NULL, NULL);
    if (s == NATS_OK || s == NATS_TIMEOUT)
        return s;
    if (js_DeleteStream(js, c->Name, NULL, NULL) != NATS_OK)
        return s;
    return js_AddStream(NULL, js, c, NULL, NULL);
}

static natsStatus add_queue(struct at_wire *w, jsCtx *js,
                            const struct at_store_settings *set)
{
    struct names n = names_of(w);
    char subject[AT_WIRE_SUBJECT];
    const char *subjects[] = { subject };
    jsStreamConfig c;
    jsConsumerConfig k;
    natsStatus s;
    at_wire_subject(w, subject, "task", NULL);
    jsStreamConfig_Init(&c);
    c.Name = n.queue;
    c.Subjects = subjects;
    c.SubjectsLen = 1;
    c.Retention = js_WorkQueuePolicy;
    c.Discard = js_DiscardNew;
    c.MaxBytes = set->max_bytes;
    c.Storage = js_FileStorage;
    s = add_stream(js, &c);
    if (s != NATS_OK)
        return s;
    jsConsumerConfig_Init(&k);
    k.Durable = "workers";
    k.AckPolicy = js_AckExplicit;
    k.AckWait = (int64_t)(set->ack_wait_s * 1e9);
    k.MaxDeliver = -1;
    k.MaxAckPending = -1;
    k.MaxWaiting = MAX_WORKERS;
    s = js_AddConsumer(NULL, js, n.queue, &k, NULL, NULL);
    if (s == NATS_OK || s == NATS_TIMEOUT)
        return s;
    js_DeleteConsumer(js, n.queue, "workers", NULL, NULL);
    return js_AddConsumer(NULL, js, n.queue, &k, NULL, NULL);
}

/* As a key-value bucket is kept: the newest of every key.                    */
static natsStatus add_bucket(struct at_wire *w, jsCtx *js)
{
    struct names n = names_of(w);
    char subject[AT_WIRE_SUBJECT];
    const char *subjects[] = { subject };
    jsStreamConfig c;
    snprintf(subject, sizeof subject, "$KV.attune-%s.>", w->run);
    jsStreamConfig_Init(&c);
    c.Name = n.bucket;
    c.Subjects = subjects;
    c.SubjectsLen = 1;
    c.MaxMsgsPerSubject = 1;
    c.Discard = js_DiscardNew;
    c.Storage = js_FileStorage;
    c.AllowRollup = true;
    c.AllowDirect = true;
    return add_stream(js, &c);
}

static int open_js(struct at_wire *w, jsCtx **js)
{
    jsOptions o;
    natsStatus s;
    jsOptions_Init(&o);
    o.Wait = 5000;
    s = natsConnection_JetStream(js, w->nc, &o);
    return s == NATS_OK ? AT_OK : at_wire_fail(w->cx, s, w->url);
}

static int make(struct at_wire *w, jsCtx *js, const struct at_store_settings *s)
{
    natsStatus st = add_queue(w, js, s);
    if (st == NATS_OK)
        st = add_bucket(w, js);
    if (st == NATS_NO_RESPONDERS)
        return at_fail(w->cx, AT_EINVAL, "%s has no JetStream: start "
                       "nats-server with -js, or 'attune offload serve'",
                       w->url);
    if (st == NATS_TIMEOUT && at_wire_forbidden(w))
        return at_fail(w->cx, AT_EINVAL, "%s does not make a queue for run '%s': "
                       "these credentials may be for another run, or be a "
                       "worker's", w->url, w->run);
    return st == NATS_OK ? AT_OK
                         : at_wire_fail(w->cx, st, "making the run's queue");
}

static int purge(struct at_wire *w, jsCtx *js)
{
    struct names n = names_of(w);
    natsStatus s = js_PurgeStream(js, n.queue, NULL, NULL);
    return s == NATS_OK ? AT_OK
                        : at_wire_fail(w->cx, s, "emptying the run's queue");
}

int at_store_open(struct at_wire *w, const struct at_store_settings *s)
{
    struct names n = names_of(w);
    jsCtx *js;
    int rc = open_js(w, &js);
    if (rc < 0)
        return rc;
    /* With it goes what it knows of blocks that were given out.              */
    js_DeleteConsumer(js, n.queue, "workers", NULL, NULL);
    rc = make(w, js, s);
    if (rc == AT_OK)
        rc = purge(w, js);
    jsCtx_Destroy(js);
    return rc;
}

int at_store_check(struct at_wire *w, const struct at_store_settings *s,
                   bool *lost)
{
    struct names n = names_of(w);
    jsConsumerInfo *info = NULL;
    jsStreamInfo *queue = NULL, *bucket = NULL;
    natsStatus st;
    jsCtx *js;
    int rc = open_js(w, &js);
    *lost = false;
    if (rc < 0)
        return rc;
    st = js_GetStreamInfo(&queue, js, n.queue, NULL, NULL);
    if (st == NATS_OK)
        st = js_GetConsumerInfo(&info, js, n.queue, "workers", NULL, NULL);
    if (st == NATS_OK)
        st = js_GetStreamInfo(&bucket, js, n.bucket, NULL, NULL);
    jsStreamInfo_Destroy(queue);
    jsConsumerInfo_Destroy(info);
    jsStreamInfo_Destroy(bucket);
    if (st == NATS_NOT_FOUND) {
        *lost = true;
        rc = make(w, js, s);
    } else if (st != NATS_OK) {
        rc = at_wire_fail(w->cx, st, w->url);
    }
    jsCtx_Destroy(js);
    return rc;
}

int at_store_purge(struct at_wire *w)
{
    jsCtx *js;
    int rc = open_js(w, &js);
    if (rc < 0)
        return rc;
    rc = purge(w, js);
    jsCtx_Destroy(js);
    return rc;
}

void at_store_remove(struct at_wire *w)
{
    struct names n = names_of(w);
    jsCtx *js;
    if (!at_wire_up(w) || open_js(w, &js) < 0)
        return;
    js_DeleteStream(js, n.queue, NULL, NULL);
    js_DeleteStream(js, n.bucket, NULL, NULL);
    jsCtx_Destroy(js);
}
