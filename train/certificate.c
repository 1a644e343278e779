/* Both models on the same prompts, one after the other in memory. */
#include "train/certificate.h"

#include "data/data.h"
#include "train/chat_choice.h"
#include "train/infer.h"
#include "train/scratch_file.h"

#include <math.h>
#include <string.h>

enum { LONGEST = 48, PLACES = 3 };  /* tokens of a prompt; prefixes of each   */

static const char *const prompts[] = {
    "The quick brown fox jumps over the lazy dog.",
    "Question: what is 12 * (345 - 67)?\nAnswer: 3336.",
    "def f(x):\n    return [x**2 for x in range(10)]  # squares\n",
    "\xC3\x9C" "ber Stra\xC3\x9F" "en, caf\xC3\xA9s; \xE4\xB8\xAD\xE6\x96\x87 "
    "\xD8\xB9\xD8\xB1\xD8\xA8\xD9\x8A \xF0\x9F\x99\x82",
    "   several   spaces\t\tand\n\nlines, $1,234.56 and A_b-C/d",
    "Once upon a time, in a land far away, there lived",
};
enum { PROMPTS = sizeof prompts / sizeof *prompts,
       POSITIONS = PROMPTS * PLACES };

struct answers {                /* of one model                               */
    size_t V, n;
    int32_t id[PROMPTS][LONGEST];
    size_t n_id[PROMPTS];
    int32_t bos, eos;
    bool words;
    const char *chat;           /* its template, or NULL                      */
    at_real *logits;            /* [POSITIONS, V]                             */
};

/* Without a tokenizer: ids from all over the vocabulary.                     */
static int tokens(struct at_ctx *cx, const struct at_infer *in, size_t p,
                  struct answers *a)
{
    const struct at_tok *tok = a->words ? in->m->tok : NULL;
    size_t most = in->m->d.P - 1 < LONGEST ? in->m->d.P - 1 : LONGEST;
    struct at_tok_ids ids = { 0 };
    int rc = AT_OK;
    if (tok)
        rc = at_tok_encode(cx, in->coder, prompts[p], strlen(prompts[p]),
                           at_data_flags(tok), &ids);
    a->n_id[p] = tok ? ids.n < most ? ids.n : most : most;
    for (size_t i = 0; i < a->n_id[p] && rc == AT_OK; i++)
        a->id[p][i] = tok ? ids.id[i]
                          : (int32_t)((p * 131 + i * 2654435761u) % a->V);
    at_tok_ids_finish(&ids);
    return rc;
}

static int run(struct at_ctx *cx, struct at_infer *in, struct answers *a)
{
    int rc = AT_OK;
    a->V = in->m->d.V;
    a->logits = at_alloc_n(cx, &cx->run, POSITIONS * a->V, sizeof *a->logits);
    if (!a->logits)
        return AT_ENOMEM;
    for (size_t p = 0; p < PROMPTS && rc == AT_OK; p++) {
        rc = tokens(cx, in, p, a);
        for (size_t k = 1; k <= PLACES && rc == AT_OK; k++) {
            size_t n = (a->n_id[p] * k + PLACES - 1) / PLACES;
            const at_real *logits;
            rc = at_generator_logits(in->gen, a->id[p], n, &logits);
            if (rc == AT_OK)
                memcpy(a->logits + a->n++ * a->V, logits,
                       a->V * sizeof *logits);
        }
    }
    return rc;
}

static int ask(struct at_ctx *cx, const char *path, bool words,
               struct answers *a)
{
    struct at_infer *in;
    int rc = at_infer_open(cx, path, "cpu", 0, 1, LONGEST + 1, 0, 0, &in);
    if (rc < 0)
        return rc;
    a->words = words && in->m->tok;
    a->bos = a->words ? at_tok_bos(in->m->tok) : AT_TOK_NONE;
    a->eos = a->words ? at_tok_eos(in->m->tok) : AT_TOK_NONE;
    rc = a->words ? at_chat_own(cx, in->m->base ? in->m->base : in->m->f,
                                &a->chat) : AT_OK;
    if (rc == AT_OK)
        rc = run(cx, in, a);
    at_infer_close(in);
    return rc;
}

static double log_sum(const at_real *x, size_t n, double *most)
{
    double sum = 0;
    *most = -INFINITY;
    for (size_t i = 0; i < n; i++)
        *most = fmax(*most, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - *most);
    return *most + log(sum);
}

static size_t likeliest(const at_real *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

static void compare(const struct answers *a, const struct answers *b,
                    struct at_certificate *c)
{
    size_t same = 0;
    for (size_t k = 0; k < a->n; k++) {
        const at_real *x = a->logits + k * a->V, *y = b->logits + k * b->V;
        double top, zx = log_sum(x, a->V, &top), zy = log_sum(y, b->V, &top);
        for (size_t i = 0; i < a->V; i++) {
            double p = (double)x[i] - zx, q = (double)y[i] - zy;
            c->largest = fmax(c->largest, fabs((double)x[i] - (double)y[i]));
            c->kl += exp(p) * (p - q) / (double)a->n;
        }
        same += likeliest(x, a->V) == likeliest(y, b->V);
    }
    c->agree = (double)same / (double)a->n;
}

int at_certify(struct at_ctx *cx, const char *trained, const char *exported,
               bool words, double kl_most, struct at_certificate *c)
{
    struct answers *a = at_alloc_n(cx, &cx->run, 2, sizeof *a), *b = a + 1;
    int rc = a ? ask(cx, trained, words, a) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = ask(cx, exported, words, b);
    if (rc < 0)
        return at_note(cx, rc, "comparing the export with %s", trained);
    *c = (struct at_certificate){ .prompts = PROMPTS, .positions = a->n,
                                  .kl_most = kl_most, .words = a->words };
    c->same_ids = a->V == b->V && a->words == b->words &&
                  memcmp(a->n_id, b->n_id, sizeof a->n_id) == 0 &&
                  memcmp(a->id, b->id, sizeof a->id) == 0;
    c->same_ends = a->bos == b->bos && a->eos == b->eos;
    c->same_chat = a->chat && b->chat ? strcmp(a->chat, b->chat) == 0
                                      : a->chat == b->chat;
    if (c->same_ids)
        compare(a, b, c);
    return AT_OK;
}

int at_certificate_check(struct at_ctx *cx, const struct at_certificate *c)
{
    if (!c->same_ids)
        return at_fail(cx, AT_EINVAL, "the export reads texts as other tokens "
                       "than the model");
    if (!c->same_ends)
        return at_fail(cx, AT_EINVAL, "the export has another bos or eos than "
                       "the model");
    if (!c->same_chat)
        return at_fail(cx, AT_EINVAL, "the export has another chat template "
                       "than the model");
    if (!(c->kl <= c->kl_most))
        return at_fail(cx, AT_EINVAL, "the export is not the model: its "
                       "predictions are %.3g nats off, %.3g may be lost to the "
                       "type of the weights (largest difference of a logit "
                       "%.3g, likeliest token the same at %.0f %%)", c->kl,
                       c->kl_most, c->largest, 100 * c->agree);
    return AT_OK;
}

int at_certify_back(struct at_ctx *cx, const struct at_read_back *b,
                    struct at_certificate *c)
{
    struct at_scratch_file back;
    int rc = at_scratch_file(cx, b->made, "back.h5", &back);
    if (rc < 0)
        return rc;
    rc = b->import(cx, b->self, b->made, back.path);
    if (rc == AT_OK)
        rc = at_certify(cx, b->trained, back.path, b->words, b->kl_most, c);
    at_scratch_file_remove(&back);
    return rc == AT_OK ? at_certificate_check(cx, c) : rc;
}

static const char *said(const struct at_certificate *c, bool same)
{
    return !c->words ? "null" : same ? "true" : "false";
}

int at_certificate_write(struct at_ctx *cx, const struct at_certificate *c,
                         const char *trained, const char *type,
                         const char *path)
{
    struct at_text t = { 0 };
    int rc;
    at_text_addf(&t, "{\"model\": ");
    at_text_json(&t, trained, strlen(trained));
    at_text_addf(&t, ", \"type\": \"%s\", \"prompts\": %zu, \"positions\": %zu, "
                 "\"largest_logit_difference\": %.6g, \"mean_kl\": %.6g, "
                 "\"kl_allowed\": %g, \"argmax_agreement\": %.6g, "
                 "\"same_tokens\": %s, \"same_bos_eos\": %s, "
                 "\"same_chat_template\": %s}\n", type, c->prompts,
                 c->positions, c->largest, c->kl, c->kl_most, c->agree,
                 said(c, c->same_ids), said(c, c->same_ends),
                 said(c, c->same_chat));
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_write_file(cx, path, t.s, t.n);
    at_text_finish(&t);
    return rc;
}
