/* Reading a palette's weights. */
#include "train/align/weights.h"

#include "data/json.h"

#include <math.h>
#include <string.h>

static int read_one(struct at_ctx *cx, struct at_arena *a, const char *path,
                    const json_t *root, size_t i, struct at_weights *w)
{
    const json_t *name = json_array_get(json_object_get(root, "names"), i);
    const json_t *spec = json_array_get(json_object_get(root, "specs"), i);
    const json_t *x = json_array_get(json_object_get(root, "lambda"), i);
    const json_t *c = json_array_get(json_object_get(root, "target"), i);
    if (!json_is_string(name) || !json_is_string(spec) || !json_is_number(x) ||
        strpbrk(json_string_value(name), "=:") ||
        !(json_number_value(x) >= 0 && isfinite(json_number_value(x))))
        return at_fail(cx, AT_EFORMAT, "%s: value %zu has no name, no spelling "
                       "or no weight", path, i + 1);
    w->name[i] = at_strdup(cx, a, json_string_value(name));
    w->spec[i] = at_sprintf(cx, a, "%s=%s", json_string_value(name),
                            json_string_value(spec));
    w->weight[i] = json_number_value(x);
    w->target[i] = json_is_number(c) ? json_number_value(c) : NAN;
    return w->name[i] && w->spec[i] ? AT_OK : AT_ENOMEM;
}

int at_weights_read(struct at_ctx *cx, struct at_arena *a, const char *path,
                    struct at_weights *w)
{
    json_t *root;
    int rc = at_json_read(cx, path, 16 << 20, &root);
    if (rc < 0)
        return rc;
    *w = (struct at_weights){ .n = json_array_size(json_object_get(root,
                                                                   "names")) };
    if (json_is_false(json_object_get(root, "feasible")))
        rc = at_fail(cx, AT_EINVAL, "%s: this palette cannot be reached; ask "
                     "for less (its 'nearest' says what can be)", path);
    else if (w->n == 0 || w->n > AT_VALUES_MAX ||
             !json_is_array(json_object_get(root, "lambda")))
        rc = at_fail(cx, AT_EINVAL, "%s: is no palette: 'attune palette "
                     "REWARDS --format json' writes one", path);
    else if (!json_is_array(json_object_get(root, "specs")))
        rc = at_fail(cx, AT_EINVAL, "%s: does not say how its values are "
                     "measured: solve it on a file made by 'attune rollout'",
                     path);
    for (size_t i = 0; rc == AT_OK && i < w->n; i++)
        rc = read_one(cx, a, path, root, i, w);
    json_decref(root);
    return rc;
}

int at_weights_open(struct at_ctx *cx, struct at_arena *a,
                    const struct at_weights *w, bool commands, const char *how,
                    struct at_values *v)
{
    for (size_t i = 0; i < w->n && !commands; i++) {
        const char *kind = strchr(w->spec[i], '=') + 1;
        kind += *kind == '-';
        if (strncmp(kind, "command:", 8) == 0)
            return at_fail(cx, AT_EINVAL, "the palette's value '%s' runs the "
                           "command '%s': read it, and say %s to let it run",
                           w->name[i], kind + 8, how);
    }
    return at_values_open(cx, a, w->spec, w->n, v);
}
