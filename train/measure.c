/* One model, one dataset, many evaluations. */
#include "train/measure.h"

#include "train/adapters/router.h"

#include <string.h>

static int open_data(struct at_measure *ms)
{
    struct at_loader_options o = {
        .split = ms->o->training_docs ? AT_TRAIN : AT_VALIDATION,
        .packing = AT_PACK_DOCS, .rows = ms->o->rows,
        .length = ms->st->set.length, .once = true, .serial = true,
        .all_roles = ms->o->all_roles,
    };
    char mine[33];
    int rc = at_model_need_tokenizer(ms->cx, ms->m);
    if (rc == AT_OK)
        rc = at_data_open(ms->cx, &ms->cx->run, ms->o->data, &ms->data);
    if (rc < 0)
        return rc;
    at_hash_hex(at_tok_hash(ms->m->tok), mine);
    if (strcmp(mine, ms->data->tok_hash) != 0)
        return at_fail(ms->cx, AT_EINVAL, "%s was made with another tokenizer "
                       "than the model's", ms->o->data);
    return at_loader_create(ms->cx, ms->data, &o, &ms->loader);
}

int at_measure_open(struct at_ctx *cx, const struct at_measure_options *o,
                    struct at_measure *ms)
{
    int rc;
    *ms = (struct at_measure){ .cx = cx, .o = o };
    at_params_init(&ms->ps, cx, &cx->run);
    ms->ps.need_grads = false;
    rc = at_threads_start(cx, o->threads);
    if (rc == AT_OK)
        rc = at_kernels_find(cx, o->backend, &ms->k);
    if (rc == AT_OK)
        rc = at_model_open(cx, &cx->run, o->model, &ms->m);
    if (rc < 0)
        return rc;
    if (at_adapters_find(&ms->m->adapters, &at_router_kind))
        return at_fail(cx, AT_EINVAL, "%s has routers, which skip layers "
                       "already: analyze its base", o->model);
    return AT_OK;
}

int at_measure_build(struct at_measure *ms, const struct at_adapters *list,
                     struct at_context_sparse *sparse)
{
    struct at_step_settings set = {
        .rows = ms->o->rows, .accumulate = 1, .sparse = sparse,
        .sparse_eval = true,
        .length = ms->o->length < ms->m->d.P ? ms->o->length : ms->m->d.P,
    };
    int rc;
    at_step_destroy(ms->st);
    ms->st = NULL;
    at_arena_reset(&ms->cx->plan);
    at_arena_reset(&ms->cx->scratch);
    rc = at_step_create(ms->cx, &ms->cx->plan, &ms->m->d, &ms->ps, ms->k, list,
                        &set, &ms->st);
    if (rc == AT_OK && !ms->ps.sealed) {
        rc = at_params_seal(&ms->ps);
        if (rc == AT_OK)
            rc = at_model_read(ms->cx, ms->m, &ms->ps, true);
    }
    if (rc == AT_OK && sparse)
        rc = at_context_sparse_start(ms->cx, sparse, &ms->ps, ms->k, 1);
    if (rc == AT_OK)
        rc = at_step_start(ms->st);
    return rc == AT_OK && !ms->loader ? open_data(ms) : rc;
}

void at_measure_close(struct at_measure *ms)
{
    at_loader_destroy(ms->loader);
    at_data_close(ms->data);
    at_step_destroy(ms->st);
    at_params_finish(&ms->ps);
    at_model_close(ms->m);
}

int at_measure_run(struct at_measure *ms, struct at_eval_sum *sum)
{
    const struct at_batch *b = NULL;
    int rc = AT_OK;
    *sum = (struct at_eval_sum){ 0 };
    at_step_eval_begin(ms->st);
    at_loader_seek(ms->loader, (struct at_cursor){ 0 });
    for (size_t n = 0; rc == AT_OK && !(b && b->last) &&
                       (ms->o->batches == 0 || n < ms->o->batches); n++) {
        if (ms->cx->stop && *ms->cx->stop)
            return at_fail(ms->cx, AT_EINTR, "interrupted");
        rc = at_loader_next(ms->cx, ms->loader, &b);
        if (rc == AT_OK)
            at_step_eval(ms->st, b, sum);
    }
    if (rc == AT_OK && sum->n == 0)
        rc = at_fail(ms->cx, AT_EINVAL, "there is no token to measure");
    return rc;
}
