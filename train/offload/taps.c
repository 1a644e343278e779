/* The outermost guest of sites with an adapter. */
#include "train/offload/taps.h"

#include <string.h>

static bool wants(void *self, const char *site)
{
    (void)self;
    (void)site;
    return true;
}

/* Whether the adapter has declared its parameters at this site.              */
static bool adapted(const struct at_graph *g, const char *site,
                    const struct at_adapter_kind *kind)
{
    size_t n = strlen(site);
    for (size_t i = g->params->n; i > 0; i--) {
        const char *name = g->params->p[i - 1]->val.name;
        if (strncmp(name, site, n) == 0 && strcmp(name + n, kind->tail) == 0)
            return true;
    }
    return false;
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    union { void *p; const struct at_adapter_kind *kind; } u = { self };
    struct at_val *y = f(g, f_self, x);
    return y && adapted(g, site, u.kind) ? at_tap(g, y, x) : y;
}

int at_taps_attach(struct at_graph *g, const struct at_adapter_kind *kind)
{
    union { const struct at_adapter_kind *kind; void *p; } u = { kind };
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    if (!guest)
        return AT_ENOMEM;
    *guest = (struct at_guest){ wants, around, u.p, g->guests };
    g->guests = guest;
    return AT_OK;
}
