/* A job's dataset and what reads it. */
#include "train/factors.h"
#include "train/job.h"

static int open_one(struct at_job *j, const char *key, struct at_data **d)
{
    char mine[33];
    int rc = at_data_open(j->cx, &j->cx->run, at_recipe_text(j->r, key), d);
    if (rc < 0)
        return rc;
    at_hash_hex(at_tok_hash(j->tok), mine);
    if (strcmp(mine, (*d)->tok_hash) != 0)
        return at_fail(j->cx, AT_EINVAL, "%s was made with another tokenizer "
                       "than the model's; make it again: attune data INPUT %s "
                       "--tokenizer %s", at_recipe_text(j->r, key),
                       at_recipe_text(j->r, key),
                       is_set(j, "model.path")
                           ? at_recipe_text(j->r, "model.path")
                           : at_recipe_text(j->r, "model.tokenizer"));
    return AT_OK;
}

/* Every entry must be the first to fit one of the dataset's sources.         */
static int weigh_sources(struct at_job *j, const struct at_factors *f,
                         double *factor, bool *used)
{
    size_t n = at_data_sources(j->data);
    for (size_t i = 0; i < n; i++) {
        const char *path;
        size_t k;
        int rc = at_data_source(j->cx, &j->cx->scratch, j->data, i, &path);
        if (rc < 0)
            return rc;
        k = at_factors_find(f, path);
        factor[i] = k < f->text.n ? f->one[k].factor : 1;
        if (k < f->text.n)
            used[k] = true;
    }
    for (size_t k = 0; k < f->text.n; k++)
        if (!used[k])
            return at_fail(j->cx, AT_EINVAL, "data.mix's '%s' is the first to "
                           "fit no source of %s; 'attune inspect' lists them",
                           f->text.s[k], at_h5_path(j->data->f));
    return AT_OK;
}

static int tell_sources(struct at_job *j, const double *factor)
{
    size_t n = at_data_sources(j->data);
    uint64_t *docs = at_alloc_n(j->cx, &j->cx->scratch, n + 1, sizeof *docs);
    int rc = docs ? at_data_count(j->cx, j->data, AT_TRAIN, docs) : AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        const char *path;
        rc = at_data_source(j->cx, &j->cx->scratch, j->data, i, &path);
        if (rc == AT_OK)
            at_log(j->cx, docs[i] == 0 && factor[i] > 0 ? AT_LOG_WARN
                                                        : AT_LOG_INFO,
                   "data.mix: %llu documents an epoch from %s",
                   (unsigned long long)docs[i], path);
    }
    return rc;
}

static int mix(struct at_job *j)
{
    struct at_factors f = { 0 };
    struct at_arena *a = &j->cx->run;
    double *factor;
    bool *used;
    int rc;
    if (at_recipe_list(j->r, "data.mix").n == 0)
        return AT_OK;
    rc = at_factors_open(j->cx, a, j->r, "data.mix", "web\\.jsonl=0.25", 1000,
                         &f);
    factor = at_alloc_n(j->cx, a, at_data_sources(j->data) + 1, sizeof *factor);
    used = at_alloc_n(j->cx, a, f.text.n + 1, sizeof *used);
    if (rc == AT_OK && (!factor || !used))
        rc = AT_ENOMEM;
    if (rc == AT_OK && needs(j, AT_NEEDS_OLD | AT_NEEDS_DRAWS))
        rc = at_fail(j->cx, AT_EINVAL, "data.mix is for texts that are read; "
                     "objective %s draws its own", j->objective->name);
    if (rc == AT_OK)
        rc = weigh_sources(j, &f, factor, used);
    if (rc == AT_OK)
        rc = at_data_mix(j->cx, a, j->data, factor);
    if (rc == AT_OK)
        rc = tell_sources(j, factor);
    at_factors_destroy(&f);
    return rc;
}

static int check_targets(struct at_job *j)
{
    const struct at_data *d = j->data;
    size_t T = size_of(j, "batch.length");
    bool sft = strcmp(at_recipe_text(j->r, "objective"), "sft") == 0;
    act_on(j, "objective");
    if (j->objective)
        return at_job_check_objective(j);
    if (d->preference)
        return at_fail(j->cx, AT_EINVAL, "%s holds preferences: lm and sft would "
                       "learn the rejected texts too; use objective: dpo, ipo, "
                       "simpo, orpo or reward", at_h5_path(d->f));
    if (sft && !d->pairs)
        return at_fail(j->cx, AT_EINVAL, "objective is sft, but %s holds plain "
                       "texts, not prompts with completions: use objective: lm",
                       at_h5_path(d->f));
    act_on(j, "batch.length");
    if (sft && d->longest > T + 1)
        return at_fail(j->cx, AT_EINVAL, "batch.length is %zu, and the longest "
                       "document of %s has %llu tokens: its answer would lose "
                       "its question.  Raise batch.length to %llu or make the "
                       "dataset with --max-length %zu", T, at_h5_path(d->f),
                       (unsigned long long)d->longest,
                       (unsigned long long)(d->longest - 1), T + 1);
    return AT_OK;
}

int at_job_open_data(struct at_job *j)
{
    int rc;
    act_on(j, "data.path");
    rc = open_one(j, "data.path", &j->data);
    if (rc == AT_OK)
        rc = mix(j);
    if (rc < 0)
        return rc;
    j->validation = j->data;
    if (is_set(j, "data.validation")) {
        act_on(j, "data.validation");
        rc = open_one(j, "data.validation", &j->validation);
    }
    return rc == AT_OK ? check_targets(j) : rc;
}

static struct at_loader_options loader_options(const struct at_job *j, bool eval)
{
    struct at_loader_options o = {
        .rows = size_of(j, "batch.rows"), .length = size_of(j, "batch.length"),
        .seed = (uint64_t)at_recipe_int(j->r, "seed"),
        .all_roles = strcmp(at_recipe_text(j->r, "objective"), "lm") == 0,
        .packing = at_recipe_bool(j->r, "data.stream") ? AT_PACK_STREAM
                   : at_recipe_bool(j->r, "data.pack") ? AT_PACK_DOCS
                                                       : AT_PACK_NONE,
        .split = AT_TRAIN, .hold = size_of(j, "batch.accumulate"),
        .shuffle = at_recipe_bool(j->r, "data.shuffle"),
        .groups = needs(j, AT_NEEDS_PAIRS | AT_NEEDS_DRAWS),
        .ends = needs(j, AT_NEEDS_VALUE),
    };
    if (eval) {
        /* A file of its own is evaluated on whole: its training split.       */
        o.split = j->validation == j->data ? AT_VALIDATION : AT_TRAIN;
        o.hold = 1;
        o.shuffle = false;
        o.once = true;
    }
    return o;
}

int at_job_open_loaders(struct at_job *j)
{
    struct at_loader_options o = loader_options(j, false);
    int rc;
    if (needs(j, AT_NEEDS_OLD))
        return at_job_open_roller(j);
    act_on(j, "data.path");
    rc = at_loader_create(j->cx, j->data, &o, &j->train);
    if (rc < 0)
        return rc;
    j->memory[AT_MEM_BATCHES] = at_loader_bytes(&o);
    if (at_recipe_int(j->r, "eval.every") > 0) {
        o = loader_options(j, true);
        act_on(j, "eval.every");
        rc = at_loader_create(j->cx, j->validation, &o, &j->eval);
        if (rc < 0)
            return at_note(j->cx, rc, "opening the validation documents (make "
                           "the dataset with --validation 0.05, or set "
                           "data.validation)");
        j->memory[AT_MEM_BATCHES] += at_loader_bytes(&o);
    }
    return AT_OK;
}
