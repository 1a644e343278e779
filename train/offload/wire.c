/* Connections. */
#include "train/offload/wire.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int at_wire_fail(struct at_ctx *cx, natsStatus s, const char *what)
{
    natsStatus last;
    const char *why = nats_GetLastError(&last);
    bool same = why && why[0] && last == s;
    return at_fail(cx, AT_EIO, "%s: %s%s%s", what, natsStatus_GetText(s),
                   same ? ": " : "", same ? why : "");
}

static int64_t pause_ms(natsConnection *nc, int attempts, void *self)
{
    int64_t ms = 50;
    (void)nc;
    (void)self;
    for (int i = 0; i < attempts && ms < 4000; i++)
        ms *= 2;
    return ms + nats_Now() % (ms / 2 + 1);      /* not all at once            */
}

static int name_it(struct at_ctx *cx, const struct at_credentials *c,
                   const char *run, size_t which, struct at_wire *w)
{
    char host[24] = "host", drawn[64];
    const char *name = run && run[0] ? run : c->run ? c->run : "attune";
    struct at_hash h;
    if (!at_key_name(name))
        return at_fail(cx, AT_EINVAL, "'%s' cannot be a run's name: it takes "
                       "letters, digits, - and _", name);
    gethostname(host, sizeof host - 1);
    host[sizeof host - 1] = '\0';
    for (char *p = host; *p; p++)
        if (!isalnum((unsigned char)*p))
            *p = '-';
    snprintf(w->run, sizeof w->run, "%s", name);
    snprintf(w->key, sizeof w->key, "%s", c->user ? c->user : "open");
    snprintf(drawn, sizeof drawn, "%lld %zu", (long long)nats_NowInNanoSeconds(),
             which);
    h = at_hash(drawn, strlen(drawn));
    snprintf(w->id, sizeof w->id, "%s-%d-%zu-%04x", host, (int)getpid(), which,
             (unsigned)(h.lo & 0xffff));
    snprintf(w->inbox, sizeof w->inbox, "_ATTUNE.%s.%s", w->key, w->id);
    h = at_hash(w->run, strlen(w->run));
    memcpy(w->run_id, &h, sizeof w->run_id);
    return AT_OK;
}

static natsStatus set_options(struct at_wire *w, const struct at_credentials *c)
{
    natsOptions *o = w->options;
    natsStatus s = natsOptions_SetURL(o, w->url);
    if (s == NATS_OK)
        s = natsOptions_SetName(o, w->id);
    if (s == NATS_OK)
        s = natsOptions_SetMaxReconnect(o, -1);
    if (s == NATS_OK)
        s = natsOptions_SetCustomReconnectDelay(o, pause_ms, NULL);
    if (s == NATS_OK)
        s = natsOptions_SetTimeout(o, 5000);
    if (s == NATS_OK)
        s = natsOptions_SetPingInterval(o, 5000);
    if (s == NATS_OK)
        s = natsOptions_SetMaxPingsOut(o, 2);
    if (s == NATS_OK)
        s = natsOptions_SetIOBufSize(o, 1 << 18);
    if (s == NATS_OK)
        s = natsOptions_SetCustomInboxPrefix(o, w->inbox);
    if (s == NATS_OK)
        s = natsOptions_SetIgnoreDiscoveredServers(o, c->user != NULL);
    if (s != NATS_OK || !c->user)
        return s;
    s = natsOptions_SetUserInfo(o, c->user, c->password);
    if (s == NATS_OK)
        s = natsOptions_SetSecure(o, true);
    if (s == NATS_OK)
        s = natsOptions_SetCATrustedCertificates(o, c->certificate);
    /* The one certificate that is believed bears this name.                  */
    return s == NATS_OK ? natsOptions_SetExpectedHostname(o, "attune") : s;
}

static int connect_it(struct at_ctx *cx, struct at_wire *w)
{
    natsStatus s = natsConnection_Connect(&w->nc, w->options), last;
    const char *why;
    if (s == NATS_OK)
        return AT_OK;
    why = nats_GetLastError(&last);
    if (s == NATS_CONNECTION_AUTH_FAILED ||
        (why && strstr(why, "Authorization")))
        return at_fail(cx, AT_EINVAL, "%s does not let us in: give the "
                       "credentials that were made for this machine "
                       "(attune offload keys)", w->url);
    if (s == NATS_SSL_ERROR)
        return at_fail(cx, AT_EINVAL, "%s is not the server that these "
                       "credentials are for: %s", w->url, why ? why : "");
    if (s == NATS_SECURE_CONNECTION_WANTED)
        return at_fail(cx, AT_EINVAL, "%s speaks no TLS, and these credentials "
                       "ask for it", w->url);
    if (s == NATS_SECURE_CONNECTION_REQUIRED)
        return at_fail(cx, AT_EINVAL, "%s wants TLS: give credentials", w->url);
    return at_wire_fail(cx, s, w->url);
}

int at_wire_open(struct at_ctx *cx, struct at_arena *a, const char *url,
                 const char *credentials, const char *run, size_t which,
                 struct at_wire *w)
{
    struct at_credentials c = { 0 };
    natsStatus s;
    int rc = AT_OK;
    *w = (struct at_wire){ .cx = cx, .url = url };
    if ((strncmp(url, "nats://", 7) != 0 && strncmp(url, "tls://", 6) != 0) ||
        strchr(url, '@'))
        return at_fail(cx, AT_EINVAL, "the server's address is such as "
                       "nats://host:4222, and holds no password: that belongs "
                       "in a file of credentials");
    if (credentials && credentials[0])
        rc = at_credentials_read(cx, a, credentials, &c);
    if (rc == AT_OK)
        rc = name_it(cx, &c, run, which, w);
    if (rc < 0)
        return rc;
    s = natsOptions_Create(&w->options);
    if (s == NATS_OK)
        s = set_options(w, &c);
    rc = s == NATS_OK ? connect_it(cx, w)
         : s == NATS_SSL_ERROR || s == NATS_INVALID_ARG
             ? at_fail(cx, AT_EINVAL, "%s: these credentials, or this address, "
                       "cannot be used", url)
             : at_wire_fail(cx, s, url);
    if (rc < 0)
        at_wire_close(w);
    return rc;
}

void at_wire_close(struct at_wire *w)
{
    natsConnection_Destroy(w->nc);
    natsOptions_Destroy(w->options);
    w->nc = NULL;
    w->options = NULL;
}

bool at_wire_up(const struct at_wire *w)
{
    return natsConnection_Status(w->nc) == NATS_CONN_STATUS_CONNECTED;
}

bool at_wire_gone(const struct at_wire *w)
{
    return natsConnection_IsClosed(w->nc);
}

bool at_wire_forbidden(const struct at_wire *w)
{
    const char *why = NULL;
    return natsConnection_GetLastError(w->nc, &why) == NATS_NOT_PERMITTED ||
           (why && strstr(why, "ermissions Violation"));
}

void at_wire_subject(const struct at_wire *w, char to[AT_WIRE_SUBJECT],
                     const char *what, const char *tail)
{
    snprintf(to, AT_WIRE_SUBJECT, "attune.%s.%s%s%s", w->run, what,
             tail ? "." : "", tail ? tail : "");
}

uint64_t at_wire_reconnects(const struct at_wire *w)
{
    natsStatistics *stats = NULL;
    uint64_t n = 0;
    if (natsStatistics_Create(&stats) == NATS_OK &&
        natsConnection_GetStats(w->nc, stats) == NATS_OK)
        natsStatistics_GetCounts(stats, NULL, NULL, NULL, NULL, &n);
    natsStatistics_Destroy(stats);
    return n;
}

const char *at_wire_header(natsMsg *m, const char *name)
{
    const char *v = NULL;
    return natsMsgHeader_Get(m, name, &v) == NATS_OK && v ? v : "";
}
