/* A job: everything a recipe names, opened, built and sized. */
#include "train/adapter_file.h"
#include "train/adapters/masked.h"
#include "train/adapters/router.h"
#include "train/job.h"

#include <math.h>
#include <stdlib.h>

const char *const at_memory_names[AT_MEM_CLASSES] = {
    "process", "frozen weights", "trained weights", "gradients",
    "optimizer state", "activations", "batches", "samples",
    "offload", "files",
};

/* What writing a checkpoint adds to a process: the libraries' code and buffers,
 * and HDF5's record of every array.  Measured on runs of 150 to 657 arrays.  */
enum { FILES_BYTES = 2500 << 10, ARRAY_BYTES = 5800 };

/* ---- model ------------------------------------------------------------------ */

static int describe_new(struct at_job *j)
{
    struct at_decoder *d = &j->d;
    int rc = at_decoder_family(j->cx, at_recipe_text(j->r, "model.family"), d);
    if (rc < 0)
        return rc;
    act_on(j, "model.tokenizer");
    if (!is_set(j, "model.tokenizer"))
        return at_fail(j->cx, AT_EINVAL, "model.tokenizer is needed to train "
                       "from scratch: a file made by 'attune tokenizer', or "
                       "the dataset itself");
    rc = at_model_tokenizer(j->cx, &j->cx->run,
                            at_recipe_text(j->r, "model.tokenizer"), &j->tok);
    if (rc < 0)
        return rc;
    act_on(j, "model.family");
    d->V = at_tok_size(j->tok);
    d->C = size_of(j, "model.dim");
    d->L = size_of(j, "model.layers");
    d->H = size_of(j, "model.heads");
    d->G = size_of(j, "model.kv_heads");
    d->F = size_of(j, "model.ff");
    d->P = size_of(j, "model.max_length");
    d->tied = at_recipe_bool(j->r, "model.tie_embeddings");
    d->norm_eps = at_recipe_real(j->r, "model.norm_eps");
    d->rope_theta = at_recipe_real(j->r, "model.rope_theta");
    d->init_std = at_recipe_real(j->r, "model.init_std");
    return at_decoder_check(j->cx, d);
}

static int open_model(struct at_job *j)
{
    int rc;
    act_on(j, "model.path");
    if (!is_set(j, "model.path"))
        return describe_new(j);
    rc = at_model_open(j->cx, &j->cx->run, at_recipe_text(j->r, "model.path"),
                       &j->start);
    if (rc < 0)
        return rc;
    j->d = j->start->d;
    j->tok = j->start->tok;
    rc = at_model_need_tokenizer(j->cx, j->start);
    if (rc < 0)
        return rc;
    return AT_OK;
}

/* ---- what is trained --------------------------------------------------------- */

/* Whatever adds to a masked weight's product would fill its zeros.            */
static int check_masked(struct at_job *j)
{
    if (!at_adapters_find(&j->adapters, &at_masked_kind))
        return AT_OK;
    for (size_t i = 0; i < j->adapters.n; i++) {
        const struct at_adapter_kind *kind = j->adapters.a[i]->kind;
        if (!kind->delta || kind == &at_masked_kind)
            continue;
        act_on(j, kind->settings->key);
        return at_fail(j->cx, AT_EINVAL, "%s goes with no masked_lora: what it "
                       "adds would fill the zeros that the mask keeps.  Leave "
                       "one of the two out", kind->settings->key);
    }
    return AT_OK;
}

static int open_adapters(struct at_job *j)
{
    int rc = at_adapters_from_recipe(j->cx, &j->cx->run, j->r, &j->adapters);
    if (rc < 0)
        return rc;
    if (j->adapters.n && !j->start) {
        const char *key = j->adapters.a[0]->kind->settings->key;
        act_on(j, key);
        return at_fail(j->cx, AT_EINVAL, "%s is set, but there is no model to "
                       "adapt: give model.path", key);
    }
    rc = check_masked(j);
    if (rc < 0)
        return rc;
    act_on(j, "model.path");
    return j->start ? at_adapters_match(j->cx, &j->adapters,
                                        &j->start->adapters, j->start->path)
                    : AT_OK;
}

/* A text's decision must not be made from what is to be predicted.           */
static int check_router(struct at_job *j)
{
    const struct at_adapter *router;
    act_on(j, "router.layers");
    if (j->d.both && at_recipe_int(j->r, "router.layers") > 0)
        return at_fail(j->cx, AT_EINVAL, "routers are for decoders, and %s is "
                       "an encoder: leave router.layers out", j->start->path);
    router = at_adapters_find(&j->adapters, &at_router_kind);
    if (router && at_router_fits(j->cx, router, j->d.L, j->d.no_attn) < 0)
        return j->cx->err.code;
    act_on(j, "router.pool");
    if (at_recipe_int(j->r, "router.layers") == 0 ||
        strcmp(at_recipe_text(j->r, "router.level"), "sequence") != 0 ||
        strcmp(at_recipe_text(j->r, "objective"), "lm") != 0 ||
        at_recipe_int(j->r, "router.pool") > 0)
        return AT_OK;
    return at_fail(j->cx, AT_EINVAL, "objective is lm: its texts have no prompt "
                   "that a router could decide from.  Set router.pool to the "
                   "number of first tokens to decide from, such as 32, or "
                   "router.level: token");
}

/* An adapter that sits nowhere was asked for in vain.                        */
static int check_sites(struct at_job *j)
{
    for (size_t i = 0; i < j->adapters.n; i++) {
        const char *key = j->adapters.a[i]->kind->targets;
        act_on(j, key);
        if (j->adapters.a[i]->n_sites == 0)
            return at_fail(j->cx, AT_EINVAL, "%s '%s' fits no site of the "
                           "model; its sites are such as blocks.0.attn.%s and "
                           "blocks.0.mlp.up_proj", key,
                           at_recipe_text(j->r, key),
                           j->d.qkv_fused ? "qkv_proj" : "q_proj");
    }
    return AT_OK;
}

/* ---- graph, optimizer, schedule ------------------------------------------------ */

/* Where the adapters' gradients are computed, if not in the graph.           */
static int open_offload(struct at_job *j)
{
    struct at_offload_settings s = {
        .engine = at_recipe_text(j->r, "offload.engine"),
        .workers = size_of(j, "offload.workers"),
        .rows = size_of(j, "offload.rows"),
        .merged = at_recipe_bool(j->r, "offload.merged"),
        .url = at_recipe_text(j->r, "offload.url"),
        .credentials = at_recipe_text(j->r, "offload.credentials"),
        .name = at_recipe_text(j->r, "offload.name"),
        .ack_wait_s = at_recipe_real(j->r, "offload.ack_wait_s"),
        .patience_s = at_recipe_real(j->r, "offload.patience_s"),
        .verify = at_recipe_real(j->r, "offload.verify"),
        .stop = strcmp(at_recipe_text(j->r, "offload.without"), "stop") == 0,
        .half = strcmp(at_recipe_text(j->r, "offload.numbers"),
                       "bfloat16") == 0,
    };
    size_t N = size_of(j, "batch.rows") * size_of(j, "batch.length");
    act_on(j, "offload.engine");
    if (strcmp(s.engine, "none") == 0)
        return AT_OK;
    if (s.rows > N)
        s.rows = N;
    if (strcmp(s.engine, "nats") == 0)
        s.window = size_of(j, "offload.window");
    s.share = j->lender ? j->lender->offload : NULL;
    if (s.merged && needs(j, AT_NEEDS_REF))
        return at_fail(j->cx, AT_EINVAL, "objective %s compares with the model "
                       "without its adapter, and offload.merged has only one "
                       "of both: leave it out", j->objective->name);
    return at_offload_create(j->cx, &j->cx->run, &s, &j->adapters, &j->ps, j->k,
                             &j->offload);
}

/* Pruned weights that are not trained stay sparse; but merged ones are written,
 * and of others channels are taken.                                          */
static void use_patterns(struct at_job *j)
{
    struct at_model *m = j->start;
    if (!m || at_recipe_bool(j->r, "offload.merged") ||
        size_of(j, "context_sparse.rank") > 0)
        return;
    j->patterns = (struct at_patterns){ j->cx, &j->cx->run,
                                        m->base ? m->base : m->f, true };
    j->ps.pattern = at_patterns_find;
    j->ps.pattern_self = &j->patterns;
}

/* What contextual sparsity cannot go with.                                    */
static int check_sparse(struct at_job *j, bool every)
{
    const char *objective = at_recipe_text(j->r, "objective");
    act_on(j, "context_sparse.rank");
    if (j->d.both)
        return at_fail(j->cx, AT_EINVAL, "context_sparse is for decoders, whose "
                       "texts have a prompt, and %s is an encoder: leave it "
                       "out", j->start->path);
    if (j->adapters.n == 0)
        return at_fail(j->cx, AT_EINVAL, "context_sparse leaves out channels of "
                       "frozen layers, so adapters beside them must be what is "
                       "trained: set lora.rank (or linear.use, or mlp.width)");
    for (size_t i = 0; i < j->adapters.n; i++) {
        const struct at_adapter_kind *kind = j->adapters.a[i]->kind;
        act_on(j, kind->settings->key);
        if (!kind->delta)
            return at_fail(j->cx, AT_EINVAL, "%s and context_sparse.rank do not "
                           "go together: leave one of the two out",
                           kind->settings->key);
    }
    act_on(j, "train_only");
    if (at_recipe_text(j->r, "train_only")[0])
        return at_fail(j->cx, AT_EINVAL, "train_only trains layers of the "
                       "model, and context_sparse needs them frozen: leave one "
                       "of the two out");
    act_on(j, "offload.merged");
    if (at_recipe_bool(j->r, "offload.merged"))
        return at_fail(j->cx, AT_EINVAL, "offload.merged has the adapter in the "
                       "weights, and context_sparse would leave out parts of "
                       "both: leave one of the two out");
    act_on(j, "objective");
    if (j->objective)
        return at_fail(j->cx, AT_EINVAL, "objective %s compares models with each "
                       "other; context_sparse would make them differ: it goes "
                       "with sft and lm", objective);
    if (strcmp(objective, "lm") == 0 && !every)
        return at_fail(j->cx, AT_EINVAL, "objective is lm: every token is learnt, "
                       "so there is no context to be sparse on.  Use objective: "
                       "sft with prompts and answers, or context_sparse.tokens: "
                       "all (which costs quality)");
    return AT_OK;
}

static int open_sparse(struct at_job *j)
{
    struct at_context_settings s = {
        .depth = j->d.L,
        .rank = size_of(j, "context_sparse.rank"),
        .mlp = at_recipe_text(j->r, "context_sparse.mlp"),
        .attn = at_recipe_text(j->r, "context_sparse.attn"),
        .start = at_recipe_real(j->r, "context_sparse.start"),
        .end = at_recipe_real(j->r, "context_sparse.end"),
        .every = strcmp(at_recipe_text(j->r, "context_sparse.tokens"),
                        "all") == 0,
        .least = size_of(j, "context_sparse.least"),
        .published = strcmp(at_recipe_text(j->r, "context_sparse.variant"),
                            "published") == 0,
    };
    int rc;
    act_on(j, "context_sparse.rank");
    if (s.rank == 0)
        return AT_OK;
    rc = check_sparse(j, s.every);
    s.mlp_at = at_recipe_src(j->r, "context_sparse.mlp");
    s.attn_at = at_recipe_src(j->r, "context_sparse.attn");
    act_on(j, "context_sparse.start");
    if (rc == AT_OK)
        rc = at_context_sparse_create(j->cx, &j->cx->run, &s, &j->sparse);
    return rc;
}

static int build(struct at_job *j)
{
    struct at_step_settings s = {
        .rows = size_of(j, "batch.rows"), .length = size_of(j, "batch.length"),
        .accumulate = size_of(j, "batch.accumulate"),
        .dropout = at_recipe_real(j->r, "train.dropout"),
        .clip = at_recipe_real(j->r, "optim.clip"),
        .recompute = strcmp(at_recipe_text(j->r, "train.recompute"),
                            "block") == 0,
        .train = true, .seed = (uint64_t)at_recipe_int(j->r, "seed"),
        .objective = j->objective,
        .group = needs(j, AT_NEEDS_CRITIC) ? 1
                 : needs(j, AT_NEEDS_OLD)  ? size_of(j, "align.samples")
                                           : j->data->group,
        .reference = j->reference,
        .how = { .beta = at_recipe_real(j->r, "align.beta"),
                 .smoothing = at_recipe_real(j->r, "align.smoothing"),
                 .margin = at_recipe_real(j->r, "align.margin"),
                 .clip = at_recipe_real(j->r, "align.clip"),
                 .desirable = at_recipe_real(j->r, "align.desirable"),
                 .undesirable = at_recipe_real(j->r, "align.undesirable"),
                 .critic_weight = at_recipe_real(j->r, "align.critic_weight"),
                 .critic_clip = at_recipe_real(j->r, "align.critic_clip") },
    };
    int rc;
    act_on(j, "batch.length");
    j->accumulate = s.accumulate;
    rc = at_job_open_reference(j);
    if (rc < 0)
        return rc;
    s.reference = j->reference;
    at_params_init(&j->ps, j->cx, &j->cx->run);
    j->ps.trains = at_rules_train;
    j->ps.trains_self = j->rules;
    use_patterns(j);
    rc = open_offload(j);
    if (rc == AT_OK)
        rc = at_job_open_teacher(j);
    if (rc < 0)
        return rc;
    rc = open_sparse(j);
    if (rc < 0)
        return rc;
    s.offload = j->offload;
    s.teacher = j->teacher.ps ? &j->teacher : NULL;
    s.sparse = j->sparse;
    act_on(j, "batch.length");
    rc = at_step_create(j->cx, &j->cx->run, &j->d, &j->ps, j->k, &j->adapters,
                        &s, &j->st);
    if (check_sites(j) < 0)         /* the better message                     */
        return j->cx->err.code;
    if (rc == AT_EFROZEN)
        return at_rules_explain(j->cx, j->rules, &j->ps);
    act_on(j, "context_sparse.mlp");
    if (rc == AT_OK && j->sparse && at_context_sparse_parts(j->sparse) == 0)
        return at_fail(j->cx, AT_EINVAL, "context_sparse leaves no channel of any "
                       "layer out: set context_sparse.mlp or .attn (the first "
                       "and the last layer must be named)");
    if (rc == AT_OK && needs(j, AT_NEEDS_SCORE) && !needs(j, AT_NEEDS_OLD)) {
        rc = at_job_open_scores(j);
        at_job_use_scores(j, AT_TRAIN);
    }
    return rc == AT_OK ? at_rules_check(j->cx, j->rules, &j->ps) : rc;
}

static int build_samples(struct at_job *j)
{
    struct at_strings prompts = at_recipe_list(j->r, "eval.samples");
    size_t room = j->d.P;
    int rc;
    if (prompts.n == 0 || at_recipe_int(j->r, "eval.every") == 0)
        return AT_OK;
    act_on(j, "eval.samples");
    if (j->d.value || j->d.both)
        return at_fail(j->cx, AT_EINVAL, "eval.samples has prompts to go on "
                       "from, and a model that judges texts writes none: leave "
                       "it out");
    rc = j->coder ? AT_OK : at_tok_coder_create(j->cx, j->tok, &j->coder);
    if (rc == AT_OK)
        rc = at_generator_create(j->cx, &j->cx->run, &j->d, &j->ps, j->k,
                                 at_adapters_attach_quietly, &j->adapters, 1,
                                 room, &j->gen);
    if (rc < 0)
        return rc;
    j->memory[AT_MEM_SAMPLES] += at_generator_bytes(j->gen);
    j->said = at_alloc_n(j->cx, &j->cx->run, prompts.n, sizeof *j->said);
    return j->said ? AT_OK : AT_ENOMEM;
}

static int set_optim(struct at_job *j)
{
    const struct at_recipe *r = j->r;
    struct at_schedule *s = &j->schedule;
    int rc;
    j->optim = (struct at_optim_settings){
        .lr = at_recipe_real(r, "optim.lr"),
        .beta1 = at_recipe_real(r, "optim.beta1"),
        .beta2 = at_recipe_real(r, "optim.beta2"),
        .eps = at_recipe_real(r, "optim.eps"),
        .weight_decay = at_recipe_real(r, "optim.weight_decay"),
        .momentum = at_recipe_real(r, "optim.momentum"),
        .nesterov = at_recipe_bool(r, "optim.nesterov"),
    };
    act_on(j, "schedule.name");
    rc = at_schedule_find(j->cx, at_recipe_text(r, "schedule.name"), &s->kind);
    if (rc < 0)
        return rc;
    s->lr = j->optim.lr;
    s->min_ratio = at_recipe_real(r, "schedule.min_ratio");
    s->warmup = (uint64_t)at_recipe_int(r, "schedule.warmup");
    s->decay = (uint64_t)at_recipe_int(r, "schedule.decay");
    s->steps = j->steps;
    act_on(j, "schedule.warmup");
    if (s->warmup > j->steps)
        return at_fail(j->cx, AT_EINVAL, "schedule.warmup is %llu steps, the "
                       "whole run %llu", (unsigned long long)s->warmup,
                       (unsigned long long)j->steps);
    return AT_OK;
}

static int open_gradual(struct at_job *j)
{
    struct at_gradual_settings s = {
        .sparsity = at_recipe_real(j->r, "gradual.sparsity"),
        .begin = (uint64_t)at_recipe_int(j->r, "gradual.begin"),
        .end = (uint64_t)at_recipe_int(j->r, "gradual.end"),
        .every = (uint64_t)at_recipe_int(j->r, "gradual.every"),
        .targets = at_recipe_text(j->r, "gradual.targets"),
    };
    if (!(s.sparsity > 0))
        return AT_OK;
    act_on(j, "gradual.end");
    if (s.end == 0)
        s.end = j->steps;
    if (s.end <= s.begin || s.end > j->steps)
        return at_fail(j->cx, AT_EINVAL, "gradual.end is step %llu; it must be "
                       "after gradual.begin, %llu, and within the run's %llu "
                       "steps", (unsigned long long)s.end,
                       (unsigned long long)s.begin,
                       (unsigned long long)j->steps);
    act_on(j, "gradual.targets");
    return at_gradual_create(j->cx, &j->cx->run, &s, &j->ps, &j->gradual);
}

/* Steps of the run: given, or counted from the rows of every epoch.          */
static void count_steps(struct at_job *j)
{
    uint64_t epochs = (uint64_t)at_recipe_int(j->r, "train.epochs"), rows = 0;
    uint64_t a_step = (uint64_t)(size_of(j, "batch.rows") * j->accumulate);
    j->rows_an_epoch = j->roller ? j->roller->prompts.n * j->roller->o.k
                                 : at_loader_rows(j->train, 0);
    j->steps = (uint64_t)at_recipe_int(j->r, "train.steps");
    if (j->steps)
        return;
    for (uint64_t e = 0; e < epochs; e++)
        rows += j->roller ? j->rows_an_epoch * j->roller->o.epochs
                : e == 0  ? j->rows_an_epoch
                          : at_loader_rows(j->train, e);
    j->steps = (rows + a_step - 1) / a_step;
}

static void size_up(struct at_job *j)
{
    const struct at_optim_impl *impl =
        at_optim_impl_find(at_recipe_text(j->r, "optim.name"));
    size_t trained = j->ps.n_flat * sizeof(at_real);
    size_t arrays = 0;
    for (size_t i = 0; i < j->ps.n; i++)
        arrays += j->ps.p[i]->trainable ? 1 + (size_t)impl->n_state
                                        : j->adapters.n == 0;
    j->memory[AT_MEM_FILES] = FILES_BYTES + arrays * ARRAY_BYTES;
    j->memory[AT_MEM_FROZEN] = j->ps.n_fixed * sizeof(at_real);
    if (j->reference)
        j->memory[AT_MEM_FROZEN] += at_params_bytes(j->reference, false);
    if (j->teacher.ps)
        j->memory[AT_MEM_FROZEN] += at_params_bytes(j->teacher.ps, false);
    j->memory[AT_MEM_TRAINED] = j->memory[AT_MEM_GRADS] = trained;
    j->memory[AT_MEM_OPTIM] = at_optim_bytes(impl, &j->optim, j->ps.n_flat);
    j->memory[AT_MEM_ACTIVATIONS] = j->st->region_bytes + j->st->taught_bytes;
    if (j->offload)
        j->memory[AT_MEM_OFFLOAD] = at_offload_bytes(j->offload);
}

/* The libraries take their buffers at the first product; after this the
 * process is as large as it gets without the job's own memory.               */
static void warm_up(struct at_job *j)
{
    enum { M = 256 };
    at_real *a = at_alloc_n(j->cx, &j->cx->scratch, 3 * M * M, sizeof *a);
    if (a)
        j->k->gemm(AT_NT, a, a + M * M, a + 2 * M * M, M, M, M, 1, 0);
    at_arena_reset(&j->cx->scratch);
}

static struct at_src src_of(const void *recipe, const char *key)
{
    return at_recipe_src(recipe, key);
}

int at_job_open(struct at_ctx *cx, struct at_recipe *r, struct at_job **made)
{
    return at_job_open_beside(cx, r, NULL, made);
}

int at_job_open_beside(struct at_ctx *cx, struct at_recipe *r,
                       struct at_job *lender, struct at_job **made)
{
    struct at_job *j = at_alloc(cx, &cx->run, sizeof *j);
    int rc;
    if (!j)
        return AT_ENOMEM;
    j->lender = lender;
    j->cx = cx;
    j->r = r;
    j->dir = at_recipe_text(r, "run");
    cx->src_of = src_of;
    cx->src_self = r;
    act_on(j, "threads");
    rc = at_threads_start(cx, (int)at_recipe_int(r, "threads"));
    act_on(j, "backend");
    if (rc == AT_OK)
        rc = at_kernels_find(cx, at_recipe_text(r, "backend"), &j->k);
    j->objective = at_objective_find(at_recipe_text(r, "objective"));
    if (rc == AT_OK)
        rc = open_model(j);
    if (rc == AT_OK)
        rc = at_job_open_data(j);
    if (rc == AT_OK)
        rc = at_job_describe_judge(j);
    if (rc == AT_OK)
        rc = open_adapters(j);
    if (rc == AT_OK)
        rc = check_router(j);
    if (rc == AT_OK)
        rc = at_rules_create(cx, &cx->run, r, j->adapters.n > 0,
                             j->d.value > 0 || needs(j, AT_NEEDS_CRITIC),
                             &j->rules);
    if (rc == AT_OK)
        rc = build(j);
    if (rc == AT_OK)
        rc = at_job_open_loaders(j);
    if (rc == AT_OK)
        rc = build_samples(j);
    if (rc == AT_OK) {
        count_steps(j);
        rc = set_optim(j);
    }
    if (rc == AT_OK)
        rc = open_gradual(j);
    done_with(j);
    if (rc < 0) {
        at_job_close(j);
        return rc;
    }
    size_up(j);
    warm_up(j);
    j->memory[AT_MEM_PROCESS] = at_rss_bytes() - j->memory[AT_MEM_BATCHES];
    *made = j;
    return AT_OK;
}

size_t at_job_bytes(const struct at_job *j)
{
    size_t n = 0;
    for (int i = 0; i < AT_MEM_CLASSES; i++)
        n += j->memory[i];
    return n;
}

static int refuse_what_cannot_fit(struct at_job *j)
{
    char need[32], have[32];
    size_t all = at_job_bytes(j), used = at_rss_bytes();
    size_t want = all > used ? all - used : 0;
    size_t free_bytes = at_memory_available();
    if (want <= free_bytes)
        return AT_OK;
    return at_fail(j->cx, AT_ENOMEM, "this run needs %s more memory and %s are "
                   "free: lower batch.rows or batch.length, or set "
                   "train.recompute: block ('attune plan' shows where it goes)",
                   at_bytes_text(need, (double)want),
                   at_bytes_text(have, (double)free_bytes));
}

/* A step that is too large for the lender's region has its own.              */
static int lend(struct at_job *j)
{
    int rc;
    if (!j->lender)
        return AT_OK;
    if (j->reference)
        return at_fail(j->cx, AT_EINVAL, "users share one model, and this "
                       "objective keeps a second one");
    rc = at_params_borrow(&j->ps, &j->lender->ps);
    j->memory[AT_MEM_FROZEN] = 0;
    j->memory[AT_MEM_PROCESS] = at_rss_bytes();
    if (j->st->region_bytes > j->lender->st->region_bytes)
        return rc;
    j->st->lender = j->lender->st;
    j->memory[AT_MEM_ACTIVATIONS] = 0;
    return rc;
}

int at_job_start(struct at_job *j)
{
    struct at_ctx *cx = j->cx;
    int rc = lend(j);
    if (rc == AT_OK)
        rc = refuse_what_cannot_fit(j);
    if (rc == AT_OK)
        rc = at_params_seal(&j->ps);
    if (rc == AT_OK && j->reference)
        rc = at_params_seal(j->reference);
    if (rc == AT_OK && j->reference)
        rc = at_model_read(cx, j->start, j->reference, false);
    if (rc == AT_OK)
        rc = at_job_start_teacher(j);
    if (rc == AT_OK && j->start)
        rc = at_model_read(cx, j->start, &j->ps, j->start->adapters.n > 0);
    if (rc == AT_OK)
        at_params_draw(&j->ps, (uint64_t)at_recipe_int(j->r, "seed"));
    if (rc == AT_OK && j->sparse)
        rc = at_context_sparse_start(cx, j->sparse, &j->ps, j->k, j->steps);
    if (rc == AT_OK && j->offload)
        rc = at_offload_start(j->offload);
    if (rc == AT_OK)
        rc = at_step_start(j->st);
    if (rc == AT_OK && j->gen)
        rc = at_generator_start(j->gen);
    if (rc == AT_OK && j->roller)
        rc = at_generator_start(j->roller->gen);
    if (rc == AT_OK)
        rc = at_optim_create(cx, &cx->run, at_recipe_text(j->r, "optim.name"),
                             &j->optim, &j->ps, at_rules_optim, j->rules,
                             &j->o);
    return rc;
}

void at_job_close(struct at_job *j)
{
    if (!j)
        return;
    at_metrics_close(j->metrics);
    at_loader_destroy(j->train);
    at_loader_destroy(j->eval);
    at_roller_destroy(j->roller);
    at_values_close(&j->values);
    at_generator_destroy(j->gen);
    at_tok_coder_destroy(j->coder);
    at_optim_destroy(j->o);
    at_step_destroy(j->st);
    at_offload_destroy(j->offload);
    at_params_finish(&j->ps);
    if (j->reference)
        at_params_finish(j->reference);
    at_job_close_teacher(j);
    at_adapters_destroy(&j->adapters);
    at_rules_destroy(j->rules);
    if (j->validation != j->data)
        at_data_close(j->validation);
    at_data_close(j->data);
    at_model_close(j->start);
    *j = (struct at_job){ 0 };
}

void at_job_describe(const struct at_job *j, struct at_text *t)
{
    const struct at_decoder *d = &j->d;
    size_t N = j->st->set.rows * j->st->set.length;
    double flops = j->st->train.plan->flops * (double)j->accumulate;
    char buf[32];
    at_text_addf(t, "model       %s, %zu layers of %zu, %zu heads (%zu kv), ff "
                 "%zu, vocabulary %zu\n", d->family, d->L, d->C, d->H, d->G,
                 d->F, d->V);
    at_text_addf(t, "parameters  %zu, trained %zu (%.3f %%)\n", j->ps.n_total,
                 j->ps.n_trainable, 100.0 * (double)j->ps.n_trainable /
                 (double)j->ps.n_total);
    at_text_addf(t, "data        %s: %llu documents, %llu for validation\n",
                 at_h5_path(j->data->f),
                 (unsigned long long)j->data->n_split[AT_TRAIN],
                 (unsigned long long)j->data->n_split[AT_VALIDATION]);
    at_text_addf(t, "step        %llu x %zu x %zu = %llu tokens; %llu steps, "
                 "%.2f epochs\n", (unsigned long long)j->accumulate,
                 j->st->set.rows, j->st->set.length,
                 (unsigned long long)(j->accumulate * N),
                 (unsigned long long)j->steps,
                 (double)j->steps * (double)j->accumulate *
                     (double)j->st->set.rows / (double)j->rows_an_epoch);
    at_text_addf(t, "FLOPs       %.3f G a step, %.3f T in all\n", flops * 1e-9,
                 flops * (double)j->steps * 1e-12);
    if (j->offload)
        at_offload_describe(j->offload, t);
    for (int i = 0; i < AT_MEM_CLASSES; i++)
        if (j->memory[i])
            at_text_addf(t, "%s  %-16s %12s\n", i ? "          " : "memory    ",
                         at_memory_names[i],
                         at_bytes_text(buf, (double)j->memory[i]));
    at_text_addf(t, "            %-16s %12s\n", "all",
                 at_bytes_text(buf, (double)at_job_bytes(j)));
}
