/* Values that a model gives: a reward model's number, a label's logit or
 * probability, a likelihood.                                                 */
#include "train/align/judge.h"
#include "train/align/pack.h"

#include <math.h>
#include <string.h>

/* Texts are packed into rows. */
enum { ROWS = 8, LENGTH = 1024 };

struct judge {
    struct at_infer *in;
    size_t label;               /* of at_judge_numbers, what is wanted        */
    bool share;                 /* its probability, not its logit             */
};

static int open_infer(struct at_ctx *cx, const char *path, struct at_infer **in)
{
    int rc = at_infer_open(cx, path, "cpu", cx->n_threads, 0, 0, ROWS, LENGTH,
                           in);
    return rc == AT_OK ? at_model_need_tokenizer(cx, (*in)->m) : rc;
}

int at_judge_open(struct at_ctx *cx, const char *path, struct at_infer **in)
{
    int rc = open_infer(cx, path, in);
    if (rc == AT_OK && (*in)->m->d.value == 0)
        rc = at_fail(cx, AT_EINVAL, "%s does not judge texts: train it with "
                     "objective: classify, reward, regression or binary, or "
                     "import a model with a classification head", path);
    return rc;
}

/* The model is closed with *impl, whatever comes back.                       */
static int open_model(struct at_ctx *cx, struct at_arena *a, const char *path,
                      bool judges, struct judge **made, void **impl)
{
    struct judge *j = at_alloc(cx, a, sizeof *j);
    int rc = j ? AT_OK : AT_ENOMEM;
    *impl = *made = j;
    if (rc == AT_OK)
        rc = judges ? at_judge_open(cx, path, &j->in)
                    : open_infer(cx, path, &j->in);
    return rc;
}

static int open_reward(struct at_ctx *cx, struct at_arena *a, const char *path,
                       void **impl)
{
    struct judge *j;
    int rc = open_model(cx, a, path, true, &j, impl);
    if (rc == AT_OK && j->in->m->d.value > 1)
        rc = at_fail(cx, AT_EINVAL, "%s tells %zu labels apart: say which one "
                     "is the value, logit:%s@%s or probability:%s@%s", path,
                     j->in->m->d.value, at_judge_label(j->in, 0), path,
                     at_judge_label(j->in, 0), path);
    return rc;
}

static int open_likelihood(struct at_ctx *cx, struct at_arena *a,
                           const char *path, void **impl)
{
    struct judge *j;
    int rc = open_model(cx, a, path, false, &j, impl);
    if (rc == AT_OK)
        rc = at_model_need_words(cx, j->in->m);
    return rc;
}

const char *at_judge_label(const struct at_infer *in, size_t i)
{
    const struct at_decoder *d = &in->m->d;
    return d->labels && i < d->value ? d->labels[i] : "";
}

/* LABEL@MODEL: the label by its name.                                         */
static int find_label(struct at_ctx *cx, struct judge *j, const char *label,
                      size_t n)
{
    const struct at_decoder *d = &j->in->m->d;
    struct at_text t = { 0 };
    int rc;
    for (j->label = 0; d->labels && j->label < d->value; j->label++)
        if (strlen(d->labels[j->label]) == n &&
            memcmp(d->labels[j->label], label, n) == 0)
            return AT_OK;
    for (size_t i = 0; i < d->value && i < 20; i++)
        at_text_addf(&t, "%s%s", i ? ", " : "", at_judge_label(j->in, i));
    rc = at_fail(cx, AT_EINVAL, "%s has no label '%.*s'; it has %s",
                 j->in->m->path, (int)n, label,
                 d->labels && t.s ? t.s : "none: its number is reward:MODEL");
    at_text_finish(&t);
    return rc;
}

static int open_label(struct at_ctx *cx, struct at_arena *a,
                      const char *argument, bool share, void **impl)
{
    const char *at = strchr(argument, '@');
    struct judge *j;
    int rc;
    if (!at || at == argument || !at[1])
        return at_fail(cx, AT_EINVAL, "'%s': say LABEL@MODEL, such as "
                       "POSITIVE@model.h5", argument);
    rc = open_model(cx, a, at + 1, true, &j, impl);
    if (rc < 0)
        return rc;
    j->share = share;
    return find_label(cx, j, argument, (size_t)(at - argument));
}

static int open_logit(struct at_ctx *cx, struct at_arena *a,
                      const char *argument, void **impl)
{
    return open_label(cx, a, argument, false, impl);
}

static int open_probability(struct at_ctx *cx, struct at_arena *a,
                            const char *argument, void **impl)
{
    return open_label(cx, a, argument, true, impl);
}

static void close_model(void *impl)
{
    struct judge *j = impl;
    at_infer_close(j->in);
}

/* A batch being packed with texts, in order.                                 */
struct pack { struct at_infer *in; struct at_pack p; };

/* Mean log-probability of each text's tokens.                                */
static void likelihoods(struct pack *p, double *score)
{
    struct at_eval_sum unused = { 0 };
    const at_real *ce;
    size_t count = 0;
    at_step_eval(p->in->st, &p->p.b, &unused);
    ce = at_step_ce(p->in->st);
    for (size_t i = 0; i < p->p.b.rows * p->p.b.length; i++) {
        double *s = score + p->p.b.doc[i];
        if (p->p.b.doc[i] < 0)
            continue;
        if (p->p.b.first[i] == (int32_t)i)
            *s = 0, count = 0;
        if (p->p.b.targets[i] >= 0) {
            *s -= (double)ce[i];
            count++;
        } else if (count) {
            *s /= (double)count;
        }
    }
}

static void run_pack(struct pack *p, double *score)
{
    if (p->p.n == 0)
        return;
    if (p->in->m->d.value)
        at_step_values(p->in->st, &p->p.b,
                       score + p->p.first * p->in->m->d.value, p->p.n);
    else
        likelihoods(p, score);
    at_pack_empty(&p->p);
}

static int encode(struct at_ctx *cx, const struct at_infer *in,
                  const struct at_said *said, struct at_tok_ids *ids)
{
    const struct at_tok *tok = in->m->tok;
    bool ends = in->m->d.value_open ? at_tok_ends(tok) : at_tok_eos(tok) >= 0;
    unsigned flags = at_data_flags(tok) | (ends ? AT_TOK_EOS : 0);
    size_t least = in->m->d.value ? 1 : 2;
    struct at_text t = { 0 };
    int rc;
    at_text_add(&t, said->prompt, said->n_prompt);
    at_text_add(&t, said->text, said->n_text);
    ids->n = 0;
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_tok_encode(cx, in->coder, t.s ? t.s : "", t.n, flags, ids);
    if (rc == AT_OK && (ids->n > in->st->set.length || ids->n < least))
        rc = at_fail(cx, AT_EINVAL, "%s judges texts of %zu to %zu tokens; this "
                     "one has %zu: '%.60s'", in->m->path, least,
                     in->st->set.length, ids->n, t.s ? t.s : "");
    at_text_finish(&t);
    return rc;
}

int at_judge_numbers(struct at_ctx *cx, struct at_infer *in,
                     const struct at_said *said, size_t n, double *score)
{
    struct at_arena a = { 0 };
    struct at_tok_ids ids = { 0 };
    struct pack p = { .in = in };
    int rc = at_pack_create(cx, &a, in->st->set.rows, in->st->set.length, &p.p);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        rc = encode(cx, p.in, &said[i], &ids);
        if (rc == AT_OK && !at_pack_put(&p.p, ids.id, ids.n)) {
            run_pack(&p, score);
            at_pack_put(&p.p, ids.id, ids.n);
        }
    }
    if (rc == AT_OK)
        run_pack(&p, score);
    at_tok_ids_finish(&ids);
    at_arena_finish(&a);
    return rc;
}

void at_judge_shares(const struct at_decoder *d, double *x)
{
    double all = 0, most = x[0];
    for (size_t i = 1; i < d->value; i++)
        most = fmax(most, x[i]);
    for (size_t i = 0; i < d->value; i++) {
        x[i] = d->problem == AT_MANY_LABELS ? at_sigmoid(x[i])
                                            : exp(x[i] - most);
        all += x[i];
    }
    for (size_t i = 0; i < d->value && d->problem != AT_MANY_LABELS; i++)
        x[i] /= all;
}

static int by_model(struct at_ctx *cx, void *impl,
                    const struct at_said *said, size_t n, double *score)
{
    struct judge *j = impl;
    return at_judge_numbers(cx, j->in, said, n, score);
}

static int by_label(struct at_ctx *cx, void *impl,
                    const struct at_said *said, size_t n, double *score)
{
    struct judge *j = impl;
    const struct at_decoder *d = &j->in->m->d;
    struct at_arena a = { 0 };
    double *all = at_alloc_n(cx, &a, n * d->value + 1, sizeof *all);
    int rc = all ? at_judge_numbers(cx, j->in, said, n, all) : AT_ENOMEM;
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        if (j->share)
            at_judge_shares(d, all + i * d->value);
        score[i] = all[i * d->value + j->label];
    }
    at_arena_finish(&a);
    return rc;
}

const struct at_value_kind at_value_reward = {
    "reward", "MODEL", "the reward model's",
    "a reward model, or another that gives one number, on prompt and text",
    open_reward, close_model, by_model
};
const struct at_value_kind at_value_logit = {
    "logit", "LABEL@MODEL", "logit",
    "how a classifier weighs a label, on prompt and text", open_logit,
    close_model, by_label
};
const struct at_value_kind at_value_probability = {
    "probability", "LABEL@MODEL", "probability",
    "the same as a probability, 0 to 1", open_probability, close_model, by_label
};
const struct at_value_kind at_value_perplexity = {
    "perplexity", "MODEL", "-log perplexity",
    "mean log-probability of a token of prompt and text under a model",
    open_likelihood, close_model, by_model
};
