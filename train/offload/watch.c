/* Listening to who works for a run. */
#include "train/offload/worker.h"

#include "data/json.h"
#include "train/offload/wire.h"

#include <string.h>

enum { SEEN = 1024 };

struct seen { char name[160]; char *text; };   /* the last it said            */

struct watch {
    struct at_ctx *cx;
    struct at_wire w;
    struct seen seen[SEEN];
    size_t n;
};

static void note(struct watch *w, natsMsg *m)
{
    const char *name = strstr(natsMsg_GetSubject(m), ".status.");
    struct seen *s = w->seen;
    if (!name || natsMsg_GetDataLength(m) == 0)
        return;
    name += strlen(".status.");
    while (s < w->seen + w->n && strcmp(s->name, name) != 0)
        s++;
    if (s == w->seen + SEEN)
        return;
    if (s == w->seen + w->n)
        w->n++;
    snprintf(s->name, sizeof s->name, "%s", name);
    s->text = at_strndup(w->cx, &w->cx->scratch, natsMsg_GetData(m),
                         (size_t)natsMsg_GetDataLength(m));
}

static double number(const json_t *j, const char *key)
{
    return json_number_value(json_object_get(j, key));
}

static void print_trainer(const json_t *j, struct at_text *t)
{
    const json_t *v;
    char size[32];
    size_t i;
    at_text_addf(t, "trainer %s: step %.0f, %.0f blocks (%.1f/s), %s, %.0f "
                 "given out again, %.0f refused, %.0f late, %.0f checked, %.0f "
                 "computed there%s\n",
                 json_string_value(json_object_get(j, "trainer")),
                 number(j, "step"), number(j, "blocks"),
                 number(j, "blocks") / (number(j, "up_s") + 1e-9),
                 at_bytes_text(size, number(j, "bytes")), number(j, "repeats"),
                 number(j, "refused"), number(j, "late"), number(j, "checked"),
                 number(j, "here"), json_is_true(json_object_get(j, "alone"))
                 ? "; NO WORKER: it computes all blocks itself" : "");
    json_array_foreach(json_object_get(j, "workers"), i, v) {
        const char *name = json_string_value(json_object_get(v, "name"));
        bool shunned = json_is_true(json_object_get(v, "quarantined"));
        if (!shunned && !json_is_true(json_object_get(v, "here")))
            continue;
        at_text_addf(t, "  believes %-40s %8.0f blocks, %6.1f ms each, %.0f "
                     "refused%s\n", name ? name : "?", number(v, "blocks"),
                     number(v, "latency_ms"), number(v, "refused"),
                     shunned ? ", QUARANTINED" : "");
    }
}

static void print_worker(const json_t *j, struct at_text *t)
{
    const char *name = json_string_value(json_object_get(j, "worker"));
    const char *state = json_string_value(json_object_get(j, "state"));
    double up = number(j, "up_s") + 1e-9;
    char size[32];
    at_text_addf(t, "worker  %-40s %8.0f blocks, %.1f/s, %s, busy %.0f %%, %.0f "
                 "refused%s\n", name ? name : "?", number(j, "blocks"),
                 number(j, "blocks") / up, at_bytes_text(size, number(j, "bytes")),
                 100 * number(j, "busy_s") / up, number(j, "refused"),
                 state && strcmp(state, "leaving") == 0 ? ", leaving" : "");
}

static void print_all(struct watch *w, bool json, struct at_text *t)
{
    size_t trainers = 0, workers = 0;
    if (json)
        at_text_addf(t, "[");
    for (size_t i = 0; i < w->n; i++) {
        json_t *j;
        if (!w->seen[i].text || at_json_parse(w->cx, w->seen[i].name,
            w->seen[i].text, strlen(w->seen[i].text), &j) < 0)
            continue;
        if (json)
            at_text_addf(t, "%s%s", trainers + workers ? ",\n " : "",
                         w->seen[i].text);
        else if (json_object_get(j, "trainer"))
            print_trainer(j, t);
        else
            print_worker(j, t);
        trainers += json_object_get(j, "trainer") != NULL;
        workers += json_object_get(j, "worker") != NULL;
        json_decref(j);
    }
    if (json)
        at_text_addf(t, "]\n");
    else
        at_text_addf(t, "run '%s': %zu trainer%s, %zu worker%s\n", w->w.run,
                     trainers, trainers == 1 ? "" : "s", workers,
                     workers == 1 ? "" : "s");
}

int at_watch(struct at_ctx *cx, const struct at_watch_settings *s,
             struct at_text *t)
{
    struct watch *w = at_alloc(cx, &cx->run, sizeof *w);
    natsSubscription *sub = NULL;
    char subject[AT_WIRE_SUBJECT];
    double until = at_now_s() + s->seconds;
    natsMsg *m = NULL;
    natsStatus st;
    int rc;
    if (!w)
        return AT_ENOMEM;
    w->cx = cx;
    rc = at_wire_open(cx, &cx->run, s->url, s->credentials, s->run, 0, &w->w);
    if (rc < 0)
        return rc;
    at_wire_subject(&w->w, subject, "status.>", NULL);
    st = natsConnection_SubscribeSync(&sub, w->w.nc, subject);
    while (st == NATS_OK && at_now_s() < until &&
           !(cx->stop && *cx->stop))
        if (natsSubscription_NextMsg(&m, sub, 100) == NATS_OK) {
            note(w, m);
            natsMsg_Destroy(m);
        }
    natsSubscription_Destroy(sub);
    at_wire_close(&w->w);
    if (st != NATS_OK)
        return at_wire_fail(cx, st, subject);
    print_all(w, s->json, t);
    return AT_OK;
}
