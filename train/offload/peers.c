/* Workers by name. */
#include "train/offload/peers.h"

#include <string.h>

enum { KEY_STRIKES = 3 };

static bool name_fits(const char *name)
{
    const char *dot = strchr(name, '.');
    size_t n = strlen(name);
    if (!dot || dot == name || !dot[1] || strchr(dot + 1, '.') ||
        n >= AT_PEER_NAME)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] <= ' ' || name[i] == '"' || name[i] == '\\')
            return false;
    return true;
}

struct at_peer *at_peers_find(struct at_ctx *cx, struct at_peers *all,
                              const char *name)
{
    struct at_peer *p;
    if (!name_fits(name))
        return NULL;
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(all->p[i].name, name) == 0)
            return &all->p[i];
    if (all->n == AT_PEERS_MAX ||
        at_grow(cx, &all->p, &all->cap, all->n + 1, sizeof *all->p) < 0)
        return NULL;
    p = &all->p[all->n++];
    *p = (struct at_peer){ 0 };
    snprintf(p->name, sizeof p->name, "%s", name);
    return p;
}

bool at_peers_shunned(const struct at_peers *all, const struct at_peer *p)
{
    size_t key = (size_t)(strchr(p->name, '.') - p->name), strikes = 0;
    if (p->quarantined)
        return true;
    if (key == 4 && memcmp(p->name, "open", 4) == 0)
        return false;
    for (size_t i = 0; i < all->n; i++)
        strikes += all->p[i].quarantined &&
                   strncmp(all->p[i].name, p->name, key + 1) == 0;
    return strikes >= KEY_STRIKES;
}

size_t at_peers_count(const struct at_peers *all, size_t *quarantined)
{
    size_t n = 0;
    *quarantined = 0;
    for (size_t i = 0; i < all->n; i++) {
        bool shunned = at_peers_shunned(all, &all->p[i]);
        *quarantined += shunned;
        n += all->p[i].here && !shunned;
    }
    return n;
}

void at_peers_print(const struct at_peers *all, struct at_text *t)
{
    at_text_addf(t, "[");
    for (size_t i = 0; i < all->n; i++) {
        const struct at_peer *p = &all->p[i];
        at_text_addf(t, "%s{\"name\": ", i ? ", " : "");
        at_text_json(t, p->name, strlen(p->name));
        at_text_addf(t, ", \"here\": %s, \"blocks\": %llu, \"bytes\": %llu, "
                     "\"refused\": %llu, \"latency_ms\": %.3f, "
                     "\"quarantined\": %s}", p->here ? "true" : "false",
                     (unsigned long long)p->blocks,
                     (unsigned long long)p->bytes,
                     (unsigned long long)p->refused, p->latency_s * 1e3,
                     at_peers_shunned(all, p) ? "true" : "false");
    }
    at_text_addf(t, "]");
}
