/* Values that a model gives: a reward model's number, a likelihood. */
#include "train/align/pack.h"
#include "train/align/value.h"
#include "train/infer.h"

/* Texts are packed into rows. */
enum { ROWS = 8, LENGTH = 1024 };

static int open_model(struct at_ctx *cx, struct at_arena *a, const char *path,
                      void **impl, bool reward)
{
    struct at_infer *in = NULL;
    int rc = at_infer_open(cx, path, "cpu", cx->n_threads, 0, 0, ROWS, LENGTH,
                           &in);
    (void)a;
    *impl = in;
    if (rc == AT_OK)
        rc = at_model_need_tokenizer(cx, in->m);
    if (rc == AT_OK && in->m->d.value != reward)
        rc = at_fail(cx, AT_EINVAL, reward ? "%s is no reward model: train one "
                     "with objective: reward, regression or binary" : "%s is a "
                     "reward model: it predicts no text", path);
    return rc;
}

static int open_reward(struct at_ctx *cx, struct at_arena *a, const char *path,
                       void **impl)
{
    return open_model(cx, a, path, impl, true);
}

static int open_likelihood(struct at_ctx *cx, struct at_arena *a,
                           const char *path, void **impl)
{
    return open_model(cx, a, path, impl, false);
}

static void close_model(void *impl)
{
    at_infer_close(impl);
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
        at_step_values(p->in->st, &p->p.b, score + p->p.first, p->p.n);
    else
        likelihoods(p, score);
    at_pack_empty(&p->p);
}

static int encode(struct at_ctx *cx, const struct at_infer *in,
                  const struct at_said *said, struct at_tok_ids *ids)
{
    const struct at_tok *tok = in->m->tok;
    unsigned flags = at_data_flags(tok) |
                     (at_tok_eos(tok) >= 0 ? AT_TOK_EOS : 0);
    struct at_text t = { 0 };
    int rc;
    at_text_add(&t, said->prompt, said->n_prompt);
    at_text_add(&t, said->text, said->n_text);
    ids->n = 0;
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_tok_encode(cx, in->coder, t.s ? t.s : "", t.n, flags, ids);
    if (rc == AT_OK && (ids->n > in->st->set.length || ids->n < 2))
        rc = at_fail(cx, AT_EINVAL, "%s judges texts of 2 to %zu tokens; this "
                     "one has %zu: '%.60s'", in->m->path, in->st->set.length,
                     ids->n, t.s ? t.s : "");
    at_text_finish(&t);
    return rc;
}

static int by_model(struct at_ctx *cx, void *impl,
                    const struct at_said *said, size_t n, double *score)
{
    struct at_arena a = { 0 };
    struct at_tok_ids ids = { 0 };
    struct pack p = { .in = impl };
    int rc = at_pack_create(cx, &a, p.in->st->set.rows, p.in->st->set.length,
                            &p.p);
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

const struct at_value_kind at_value_reward = {
    "reward", "MODEL", "the reward model's",
    "a reward model trained by attune, on prompt and text", open_reward,
    close_model, by_model
};
const struct at_value_kind at_value_perplexity = {
    "perplexity", "MODEL", "-log perplexity",
    "mean log-probability of a token of prompt and text under a model",
    open_likelihood, close_model, by_model
};
