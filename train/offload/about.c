/* A run as a worker sees it, to JSON and back. */
#include "train/offload/about.h"

#include "data/json.h"
#include "kernels/kernels.h"

#include <string.h>

enum { MOST = 1 << 24, SITES = 1 << 16 };

void at_about_write(const struct at_about *about, struct at_text *t)
{
    const struct at_adapter *a = about->list.a[0];
    at_text_addf(t, "{\"attune\": 1, \"incarnation\": \"%llu\", \"rows\": %zu, "
                 "\"ack_wait_s\": %.17g, \"backend\": \"%s\", \"adapter\": "
                 "\"%s\"", (unsigned long long)about->incarnation, about->rows,
                 about->ack_wait_s, about->k->name, a->kind->name);
    at_text_addf(t, ", \"groups\": [");
    for (size_t i = 0; i < about->n_groups; i++) {
        at_text_addf(t, "%s[", i ? "," : "");
        for (size_t k = 0; k < about->group[i].n; k++)
            at_text_addf(t, "%s%zu", k ? "," : "", about->group[i].M[k]);
        at_text_addf(t, "]");
    }
    at_text_addf(t, "]");
    for (const struct at_setting *s = a->kind->settings; s->key; s++) {
        const void *v = (const char *)a->settings + s->at;
        at_text_addf(t, ", \"%s\": ", s->key);
        if (s->type == AT_SET_INT)
            at_text_addf(t, "%zu", *(const size_t *)v);
        else if (s->type == AT_SET_REAL)
            at_text_addf(t, "%.17g", *(const double *)v);
        else
            at_text_json(t, *(const char *const *)v,
                         strlen(*(const char *const *)v));
    }
    at_text_addf(t, "}");
}

static int bad(struct at_ctx *cx, const char *key)
{
    return at_fail(cx, AT_EFORMAT, "what the trainer says of its run is "
                   "refused: '%s' is missing or out of range", key);
}

static int whole(struct at_ctx *cx, const json_t *j, const char *key,
                 size_t *to)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) > MOST)
        return bad(cx, key);
    *to = (size_t)json_integer_value(v);
    return AT_OK;
}

static int real(struct at_ctx *cx, const json_t *j, const char *key, double *to)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_number(v))
        return bad(cx, key);
    *to = json_number_value(v);
    return AT_OK;
}

static int text(struct at_ctx *cx, struct at_arena *a, const json_t *j,
                const char *key, const char **to)
{
    const json_t *v = json_object_get(j, key);
    if (!json_is_string(v) || json_string_length(v) > 4096)
        return bad(cx, key);
    *to = at_strdup(cx, a, json_string_value(v));
    return *to ? AT_OK : AT_ENOMEM;
}

static const struct at_adapter_kind *kind_of(const char *name)
{
    for (size_t i = 0; at_adapter_kinds[i]; i++)
        if (strcmp(at_adapter_kinds[i]->name, name) == 0 &&
            at_adapter_kinds[i]->delta)
            return at_adapter_kinds[i];
    return NULL;
}

static int read_adapter(struct at_ctx *cx, struct at_arena *a, const json_t *j,
                        struct at_adapters *list)
{
    const struct at_adapter_kind *kind;
    const char *name = "";
    char *settings;
    int rc = text(cx, a, j, "adapter", &name);
    if (rc < 0)
        return rc;
    kind = kind_of(name);
    settings = kind ? at_alloc(cx, a, kind->settings_size) : NULL;
    if (!settings)
        return kind ? AT_ENOMEM : bad(cx, "adapter");
    for (const struct at_setting *s = kind->settings; s->key && rc == AT_OK;
         s++) {
        void *to = settings + s->at;
        rc = s->type == AT_SET_INT ? whole(cx, j, s->key, to)
             : s->type == AT_SET_REAL ? real(cx, j, s->key, to)
                                      : text(cx, a, j, s->key, to);
    }
    return rc == AT_OK ? at_adapters_add(cx, a, kind, settings, list) : rc;
}

static int read_group(struct at_ctx *cx, struct at_arena *a, const json_t *j,
                      struct at_about_group *g)
{
    g->n = json_array_size(j);
    if (g->n < 1 || g->n > SITES)
        return bad(cx, "groups");
    g->M = at_alloc_n(cx, a, g->n, sizeof *g->M);
    for (size_t i = 0; g->M && i < g->n; i++) {
        const json_t *v = json_array_get(j, i);
        if (!json_is_integer(v) || json_integer_value(v) < 1 ||
            json_integer_value(v) > MOST)
            return bad(cx, "groups");
        g->M[i] = (size_t)json_integer_value(v);
    }
    return g->M ? AT_OK : AT_ENOMEM;
}

static int read_groups(struct at_ctx *cx, struct at_arena *a, const json_t *j,
                       struct at_about *about)
{
    const json_t *all = json_object_get(j, "groups");
    int rc = AT_OK;
    about->n_groups = json_array_size(all);
    if (about->n_groups < 1 || about->n_groups > SITES)
        return bad(cx, "groups");
    about->group = at_alloc_n(cx, a, about->n_groups, sizeof *about->group);
    if (!about->group)
        return AT_ENOMEM;
    for (size_t i = 0; i < about->n_groups && rc == AT_OK; i++)
        rc = read_group(cx, a, json_array_get(all, i), &about->group[i]);
    return rc;
}

static int read_all(struct at_ctx *cx, struct at_arena *a, const json_t *j,
                    struct at_about *about)
{
    const char *number = "", *backend = "";
    char *end;
    size_t version = 0;
    int rc = whole(cx, j, "attune", &version);
    if (rc == AT_OK && version != 1)
        rc = at_fail(cx, AT_EFORMAT, "the trainer's attune is another version "
                     "than this worker's (%zu, and this reads 1)", version);
    if (rc == AT_OK)
        rc = text(cx, a, j, "incarnation", &number);
    if (rc < 0)
        return rc;
    about->incarnation = strtoull(number, &end, 10);
    if (*end || end == number)
        return bad(cx, "incarnation");
    rc = whole(cx, j, "rows", &about->rows);
    if (rc == AT_OK && about->rows < 1)
        rc = bad(cx, "rows");
    if (rc == AT_OK)
        rc = real(cx, j, "ack_wait_s", &about->ack_wait_s);
    if (rc == AT_OK && !(about->ack_wait_s > 0 && about->ack_wait_s < 1e6))
        rc = bad(cx, "ack_wait_s");
    if (rc == AT_OK)
        rc = text(cx, a, j, "backend", &backend);
    if (rc == AT_OK)
        rc = at_kernels_find(cx, backend, &about->k);
    if (rc == AT_OK)
        rc = read_groups(cx, a, j, about);
    return rc == AT_OK ? read_adapter(cx, a, j, &about->list) : rc;
}

int at_about_read(struct at_ctx *cx, struct at_arena *a, const char *from,
                  size_t n, struct at_about *about)
{
    struct at_about got = { 0 };
    json_t *j;
    int rc = at_json_parse(cx, "what the trainer says of its run", from, n, &j);
    if (rc < 0)
        return rc;
    rc = read_all(cx, a, j, &got);
    json_decref(j);
    if (rc == AT_OK)
        *about = got;
    else
        at_adapters_destroy(&got.list);
    return rc;
}
