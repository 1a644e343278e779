/* The list of kinds, and what is done with a list of adapters. */
#include "train/adapters/adapter.h"

#include "train/adapters/lora.h"
#include "train/adapters/router.h"

#include <string.h>

const struct at_adapter_kind *const at_adapter_kinds[] = {
    &at_lora_kind, &at_router_kind, NULL
};

int at_adapters_add(struct at_ctx *cx, struct at_arena *arena,
                    const struct at_adapter_kind *kind, const void *settings,
                    struct at_adapters *list)
{
    struct at_adapter *a;
    void *copy = at_alloc(cx, arena, kind->settings_size);
    int rc = copy ? AT_OK : AT_ENOMEM;
    if (rc == AT_OK) {
        memcpy(copy, settings, kind->settings_size);
        rc = kind->create(cx, arena, copy, &a);
    }
    if (rc < 0)
        return rc;
    a->kind = kind;
    a->settings = copy;
    a->n_sites = SIZE_MAX;
    list->a[list->n++] = a;
    return AT_OK;
}

void at_adapters_destroy(struct at_adapters *list)
{
    for (size_t i = 0; i < list->n; i++)
        list->a[i]->kind->destroy(list->a[i]);
    list->n = 0;
}

struct at_adapter *at_adapters_find(const struct at_adapters *list,
                                    const struct at_adapter_kind *kind)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->a[i]->kind == kind)
            return list->a[i];
    return NULL;
}

int at_adapters_attach(const struct at_adapters *list, struct at_graph *g,
                       bool train)
{
    int rc = AT_OK;
    for (size_t i = 0; i < list->n && rc == AT_OK; i++) {
        list->a[i]->n_sites = 0;
        rc = list->a[i]->kind->attach(list->a[i], g, train);
    }
    return rc;
}

int at_adapters_attach_quietly(void *self, struct at_graph *g)
{
    return at_adapters_attach(self, g, false);
}

int at_adapters_merge(struct at_ctx *cx, const struct at_adapters *list,
                      struct at_params *ps, const struct at_kernels *k)
{
    int rc = AT_OK;
    for (size_t i = 0; i < list->n; i++)
        if (!list->a[i]->kind->merge)
            return at_fail(cx, AT_EINVAL, "an adapter of kind '%s' cannot be "
                           "merged into weights", list->a[i]->kind->name);
    for (size_t i = 0; i < list->n && rc == AT_OK; i++)
        rc = list->a[i]->kind->merge(cx, list->a[i], ps, k);
    return rc;
}

bool at_adapter_owns(const char *name)
{
    for (size_t i = 0; at_adapter_kinds[i]; i++)
        if (at_adapter_kinds[i]->owns(name))
            return true;
    return false;
}

bool at_adapter_ends(const char *name, const char *tail)
{
    size_t n = strlen(name), t = strlen(tail);
    return n > t && strcmp(name + n - t, tail) == 0;
}
