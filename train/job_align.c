/* A job's objective over whole texts: its data, its reference, its draws. */
#include "train/job.h"
#include "train/labels.h"

static int find_score(struct at_job *j, const struct at_data *d,
                      size_t *which)
{
    const char *name = at_recipe_text(j->r, "align.score");
    for (*which = 0; *which < d->n_scores; (*which)++)
        if (strcmp(d->score_name[*which], name) == 0 ||
            (!*name && d->n_scores == 1))
            return AT_OK;
    act_on(j, "align.score");
    return at_fail(j->cx, AT_EINVAL, d->n_scores == 0 ? "%s has no scores: make "
                   "it with 'attune data --score KEY'%s" : *name ? "%s has no "
                   "score '%s' ('attune inspect' lists them)" : "%s has several "
                   "scores%s: say which by align.score", at_h5_path(d->f), name);
}

/* The reward of every draw of a dataset: its scores by the palette's weights. */
static int weigh_draws(struct at_job *j, const struct at_data *d,
                       struct at_job_scores *score)
{
    const struct at_weights *w = &j->weights;
    float *reward = at_alloc_n(j->cx, &j->cx->run, (size_t)d->n_docs,
                               sizeof *reward);
    int rc = reward ? at_weights_read(j->cx, &j->cx->run, at_recipe_text(j->r,
                                      "align.palette"), &j->weights)
                    : AT_ENOMEM;
    *score = (struct at_job_scores){ reward, 1 };
    if (rc == AT_OK && d->group < 2)
        return at_fail(j->cx, AT_EINVAL, "objective %s learns from several texts "
                       "for each prompt, as 'attune rollout' draws them; %s "
                       "has one", j->objective->name, at_h5_path(d->f));
    for (size_t v = 0; v < w->n && rc == AT_OK; v++) {
        size_t at = 0;
        while (at < d->n_scores && strcmp(d->score_name[at], w->name[v]) != 0)
            at++;
        if (at == d->n_scores)
            return at_fail(j->cx, AT_EINVAL, "%s has no scores '%s', which the "
                           "palette weighs: draw with the same values",
                           at_h5_path(d->f), w->name[v]);
        for (uint64_t i = 0; i < d->n_docs; i++)
            reward[i] += (float)(w->weight[v] *
                                 (double)d->score[i * d->n_scores + at]);
    }
    return rc;
}

/* Answers to prompts, each with a label.                                     */
static int check_unpaired(struct at_job *j)
{
    const struct at_data *d = j->data;
    const char *path = at_h5_path(d->f);
    size_t which;
    int rc;
    if (!d->pairs || d->preference)
        return at_fail(j->cx, AT_EINVAL, "objective %s learns from single "
                       "answers to prompts, and %s holds %s: its samples need "
                       "the keys prompt and completion, and a label",
                       j->objective->name, path,
                       d->preference ? "pairs (objective: dpo is for these)"
                                     : "plain texts");
    if (at_recipe_bool(j->r, "data.stream"))
        return at_fail(j->cx, AT_EINVAL, "data.stream cuts texts, and objective "
                       "%s needs them whole", j->objective->name);
    rc = find_score(j, d, &which);
    for (uint64_t i = 0; i < d->n_docs && rc == AT_OK; i++) {
        double x = (double)d->score[i * d->n_scores + which];
        if (x < 0 || x > 1 || (x > 0 && x < 1))
            rc = at_fail(j->cx, AT_EINVAL, "%s: the label '%s' of document %llu "
                         "is %g; desirable is 1 (true), undesirable 0 (false)",
                         path, d->score_name[which], (unsigned long long)i, x);
    }
    return rc;
}

int at_job_check_objective(struct at_job *j)
{
    const struct at_data *d = j->data;
    const char *path = at_h5_path(d->f);
    size_t T = size_of(j, "batch.length");
    if (needs(j, AT_NEEDS_OLD | AT_NEEDS_DRAWS) && !is_set(j, "align.palette"))
        return at_fail(j->cx, AT_EINVAL, "objective %s moves the model towards "
                       "a palette: give align.palette, a file by 'attune "
                       "palette REWARDS --target ... --format json'",
                       j->objective->name);
    if (needs(j, AT_NEEDS_REF) && !j->start)
        return at_fail(j->cx, AT_EINVAL, "objective %s compares with the model "
                       "that training starts from: give model.path",
                       j->objective->name);
    if (needs(j, AT_NEEDS_PAIRS) && !d->preference)
        return at_fail(j->cx, AT_EINVAL, "objective %s learns from preferences, "
                       "and %s holds none: its samples need the keys chosen "
                       "and rejected", j->objective->name, path);
    if (needs(j, AT_NEEDS_KL))
        return check_unpaired(j);
    if (needs(j, AT_NEEDS_PAIRS | AT_NEEDS_VALUE) &&
        at_recipe_bool(j->r, "data.stream"))
        return at_fail(j->cx, AT_EINVAL, "data.stream cuts texts, and objective "
                       "%s needs them whole", j->objective->name);
    act_on(j, "batch.length");
    if (needs(j, AT_NEEDS_VALUE) && d->longest > T)
        return at_fail(j->cx, AT_EINVAL, "batch.length is %zu, and the longest "
                       "text of %s has %llu tokens: a model that judges it must "
                       "see all of it.  Raise batch.length, or make the dataset "
                       "with --max-length %zu", T, path,
                       (unsigned long long)d->longest, T);
    return AT_OK;
}

static int open_split(struct at_job *j, const struct at_data *d,
                      struct at_job_scores *score)
{
    size_t which;
    int rc;
    if (needs(j, AT_NEEDS_DRAWS))
        return weigh_draws(j, d, score);
    if (needs(j, AT_NEEDS_LABEL)) {
        score->stride = 1;
        return at_labels_map(j->cx, &j->cx->run, d, &j->d, &score->of);
    }
    rc = find_score(j, d, &which);
    if (rc == AT_OK)
        *score = (struct at_job_scores){ d->score + which, d->n_scores };
    return rc;
}

int at_job_open_scores(struct at_job *j)
{
    int rc = open_split(j, j->data, &j->score[AT_TRAIN]);
    j->score[AT_VALIDATION] = j->score[AT_TRAIN];
    if (rc == AT_OK && j->validation != j->data)
        rc = open_split(j, j->validation, &j->score[AT_VALIDATION]);
    if (rc == AT_OK && needs(j, AT_NEEDS_LABEL)) {
        j->table = at_alloc_n(j->cx, &j->cx->run, j->d.value * j->d.value,
                              sizeof *j->table);
        rc = j->table ? AT_OK : AT_ENOMEM;
    }
    return rc;
}

void at_job_use_scores(struct at_job *j, enum at_split split)
{
    j->st->score = j->score[split].of;
    j->st->score_stride = j->score[split].stride;
}

/* Labels are those that the model has; a model without takes the dataset's.  */
static int describe_labels(struct at_job *j)
{
    struct at_decoder *d = &j->d;
    d->value_open = true;
    if (d->value && d->problem == AT_ONE_LABEL && d->labels)
        return AT_OK;
    if (d->value)
        return at_fail(j->cx, AT_EINVAL, "%s says %zu numbers of a text that are "
                       "no labels: use objective: regression, or start from a "
                       "model that does not judge yet", j->start->path,
                       d->value);
    d->value_plain = !d->both;
    return at_labels_new(j->cx, &j->cx->run, j->data, d);
}

int at_job_describe_judge(struct at_job *j)
{
    struct at_decoder *d = &j->d;
    act_on(j, "objective");
    if (!needs(j, AT_NEEDS_VALUE)) {
        d->value = 0;
        d->labels = NULL;
        return AT_OK;
    }
    if (needs(j, AT_NEEDS_LABEL))
        return describe_labels(j);
    if (d->value > 1)
        return at_fail(j->cx, AT_EINVAL, "%s tells %zu labels apart, and "
                       "objective %s learns one number: use objective: classify",
                       j->start->path, d->value, j->objective->name);
    d->value_open = false;
    d->value_plain = d->value && d->value_plain;
    d->value = 1;
    return AT_OK;
}

int at_job_open_roller(struct at_job *j)
{
    struct at_roller_options o = {
        .data = at_recipe_text(j->r, "data.path"),
        .validation = is_set(j, "data.validation")
                          ? at_recipe_text(j->r, "data.validation") : NULL,
        .prompt_tokens = size_of(j, "align.prompt_tokens"),
        .rows = size_of(j, "batch.rows"), .length = size_of(j, "batch.length"),
        .accumulate = size_of(j, "batch.accumulate"),
        .k = size_of(j, "align.samples"),
        .max_new = size_of(j, "align.max_tokens"),
        .epochs = 1, .minibatches = 1,
        .gae = { .beta = at_recipe_real(j->r, "align.beta"),
                 .gamma = at_recipe_real(j->r, "align.gamma"),
                 .lambda = at_recipe_real(j->r, "align.lambda"),
                 .whiten = at_recipe_bool(j->r, "align.whiten") },
        .kl_wanted = at_recipe_real(j->r, "align.kl_target"),
        .kl_horizon = at_recipe_real(j->r, "align.kl_horizon"),
        .seed = (uint64_t)at_recipe_int(j->r, "seed"),
        .rate = at_recipe_real(j->r, "align.rate"),
        .eval_texts = at_recipe_int(j->r, "eval.every") == 0
                          ? SIZE_MAX
                          : size_of(j, "eval.batches") *
                                size_of(j, "batch.rows"),
    };
    struct at_ctx *cx = j->cx;
    int rc;
    if (needs(j, AT_NEEDS_CRITIC)) {
        o.epochs = size_of(j, "align.epochs");
        o.minibatches = size_of(j, "align.minibatches");
    }
    act_on(j, "align.palette");
    rc = at_weights_read(cx, &cx->run, at_recipe_text(j->r, "align.palette"),
                         &j->weights);
    if (rc == AT_OK)
        rc = at_weights_open(cx, &cx->run, &j->weights,
                             at_recipe_bool(j->r, "align.commands"),
                             "align.commands: true", &j->values);
    if (rc == AT_OK)
        rc = at_tok_coder_create(cx, j->tok, &j->coder);
    act_on(j, "align.samples");
    if (rc == AT_OK)
        rc = at_roller_create(cx, &o, j->st, &j->d, &j->ps, j->k,
                              at_adapters_attach_quietly, &j->adapters, j->tok,
                              j->coder, &j->values, &j->weights, &j->roller);
    if (rc < 0)
        return rc;
    j->memory[AT_MEM_SAMPLES] += at_generator_bytes(j->roller->gen);
    return AT_OK;
}

static bool nothing(const void *self, const char *name)
{
    (void)self;
    (void)name;
    return false;
}

int at_job_open_reference(struct at_job *j)
{
    if (!needs(j, AT_NEEDS_REF) || j->adapters.n)
        return AT_OK;
    j->reference = at_alloc(j->cx, &j->cx->run, sizeof *j->reference);
    if (!j->reference)
        return AT_ENOMEM;
    at_params_init(j->reference, j->cx, &j->cx->run);
    j->reference->trains = nothing;
    return AT_OK;
}
