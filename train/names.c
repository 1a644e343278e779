/* Names by pattern. */
#include "train/names.h"

#include <string.h>

/* "blocks.3.attn.q_proj.weight" as layer 3 and what is behind: ".weight".     */
static const char *match(const char *pattern, const char *name, char layer[16])
{
    const char *star = strchr(pattern, '*');
    size_t n = star ? (size_t)(star - pattern) : strlen(pattern);
    layer[0] = '\0';
    if (strncmp(pattern, name, n) != 0)
        return NULL;
    name += n;
    if (star) {
        n = strspn(name, "0123456789");
        if (n == 0 || n > 9)
            return NULL;
        memcpy(layer, name, n);
        layer[n] = '\0';
        name += n;
        n = strlen(++star);
        if (strncmp(star, name, n) != 0)
            return NULL;
        name += n;
    }
    return strcmp(name, ".weight") == 0 || strcmp(name, ".bias") == 0 ? name
                                                                      : NULL;
}

const struct name *at_name_find(const struct name *table, const char *ours,
                                char *theirs, size_t n)
{
    for (const struct name *row = table; row->ours; row++) {
        char layer[16];
        const char *tail = match(row->ours, ours, layer), *star;
        if (!tail)
            continue;
        star = strchr(row->theirs, '*');
        if (star)
            snprintf(theirs, n, "%.*s%s%s%s", (int)(star - row->theirs),
                     row->theirs, layer, star + 1, tail);
        else
            snprintf(theirs, n, "%s%s", row->theirs, tail);
        return row;
    }
    return NULL;
}

bool at_name_is_q(const struct name *row)
{
    return strstr(row->ours, "q_proj") != NULL;
}

bool at_name_is_k(const struct name *row)
{
    return strstr(row->ours, "k_proj") != NULL;
}

size_t at_name_rows(const struct name *row, const struct at_decoder *d,
                    size_t *base)
{
    size_t q = d->H * d->K, kv = d->G * d->K;
    *base = 0;
    if (row->how == QKV) {
        *base = at_name_is_q(row) ? 0 : at_name_is_k(row) ? q : q + kv;
        return q + 2 * kv;
    }
    if (row->how != GATE_UP)
        return 0;
    *base = strstr(row->ours, "up_proj") ? d->F : 0;
    return 2 * d->F;
}
