/* The installed face over the library. */
#include "attune/attune.h"

#include "train/infer.h"
#include "train/run.h"

#include <stdlib.h>
#include <string.h>

struct attune {
    struct at_ctx cx;
    attune_step_fn *on_step;
    void *self;
    volatile int stop;
};

const char *attune_version(void)
{
    return AT_VERSION;
}

struct attune *attune_create(void)
{
    struct attune *a = calloc(1, sizeof *a);
    if (a)
        at_ctx_init(&a->cx);
    return a;
}

void attune_destroy(struct attune *a)
{
    if (!a)
        return;
    at_ctx_finish(&a->cx);
    free(a);
}

const char *attune_error(const struct attune *a)
{
    return a->cx.err.msg;
}

void attune_on_step(struct attune *a, attune_step_fn *f, void *self)
{
    a->on_step = f;
    a->self = self;
}

/* Every call begins with empty arenas and no error. */
static void begin(struct attune *a)
{
    at_ctx_finish(&a->cx);
    at_ctx_init(&a->cx);
    a->stop = 0;
    a->cx.stop = &a->stop;
}

static int code_of(int rc)
{
    return rc == AT_OK ? ATTUNE_OK : rc == AT_EINVAL ? ATTUNE_WRONG
           : rc == AT_EINTR ? ATTUNE_STOPPED : ATTUNE_FAILED;
}

static void progress(void *self, const struct at_progress *p)
{
    struct attune *a = self;
    if (p->r && a->on_step &&
        a->on_step(a->self, p->job->s.step, p->job->steps, p->r->loss))
        a->stop = 1;
}

int attune_train(struct attune *a, const char *recipe,
                 const char *const *overrides, size_t n)
{
    struct at_recipe *r;
    int rc;
    begin(a);
    rc = at_recipe_load(&a->cx, &a->cx.run, recipe, overrides, n, &r);
    if (rc == AT_OK)
        rc = at_run_train(&a->cx, r, true, progress, a);
    return code_of(rc);
}

int attune_resume(struct attune *a, const char *run)
{
    begin(a);
    return code_of(at_run_resume(&a->cx, run, progress, a));
}

struct continuation { const struct at_tok *tok; struct at_text text;
                      int32_t prev; };

static bool on_token(void *self, size_t row, int32_t id, double logp)
{
    struct continuation *c = self;
    const char *piece;
    size_t n;
    (void)row;
    (void)logp;
    if (id == at_tok_eos(c->tok))
        return false;
    piece = at_tok_step(c->tok, c->prev, id, &n);
    at_text_add(&c->text, piece ? piece : "", n);
    c->prev = id;
    return true;
}

int attune_generate(struct attune *a, const char *model, const char *prompt,
                    const struct attune_sampling *s, char **text)
{
    struct at_sampling how = { s->temperature, s->top_k, s->top_p, s->min_p,
                               s->seed };
    struct continuation c = { 0 };
    struct at_tok_ids ids = { 0 };
    struct at_infer *in = NULL;
    int rc;
    begin(a);
    rc = at_infer_open(&a->cx, model, "cpu", 0, 1, SIZE_MAX, 0, 0, &in);
    if (rc < 0)
        return code_of(rc);
    c.tok = in->m->tok;
    rc = at_model_need_tokenizer(&a->cx, in->m);
    if (rc == AT_OK)
        rc = at_tok_encode(&a->cx, in->coder, prompt, strlen(prompt),
                           at_data_flags(c.tok), &ids);
    if (rc == AT_OK && ids.n == 0)
        rc = at_fail(&a->cx, AT_EINVAL, "the prompt is empty");
    if (rc == AT_OK) {
        struct at_prompt p = { ids.id, ids.n, 0 };
        c.prev = ids.id[ids.n - 1];
        at_text_add(&c.text, "", 0);
        rc = at_generate(in->gen, &p, 1, s->max_tokens, &how, on_token, &c);
    }
    if (rc == AT_OK)
        rc = at_text_ok(&a->cx, &c.text);
    if (rc == AT_OK) {
        *text = c.text.s;
        c.text.s = NULL;
    }
    at_text_finish(&c.text);
    at_tok_ids_finish(&ids);
    at_infer_close(in);
    return code_of(rc);
}
