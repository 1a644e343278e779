/* Measuring what is not trained on, and saying what was measured. */
#include "train/job.h"

#include <math.h>
#include <string.h>

void at_job_say(const struct at_job *j, const char *fmt, ...)
{
    char line[512];
    struct at_progress p = { .job = j, .message = line };
    va_list ap;
    if (!j->progress)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    j->progress(j->progress_self, &p);
}

int at_job_log(struct at_job *j, const struct at_metrics_row *row,
               const struct at_step_io *io)
{
    int rc = at_metrics_add(j->cx, j->metrics, row);
    return rc < 0 ? rc : at_metrics_shares(j->cx, j->metrics, row->step,
                                           row->eval, io->gauge, io->n_gauges);
}

int at_job_log_offload(struct at_job *j)
{
    const struct at_offload_counts *was = &j->logged;
    struct at_offload_counts c;
    struct at_text t = { 0 };
    int rc;
    at_offload_count(j->offload, &c);
    at_text_addf(&t, "{\"step\":%llu,\"workers\":%zu,\"quarantined\":%zu,"
        "\"blocks\":%llu,\"bytes\":%llu,\"repeats\":%llu,\"refused\":%llu,"
        "\"late\":%llu,\"checked\":%llu,\"here\":%llu,\"wait_s\":%.6f}",
        (unsigned long long)j->s.step, c.workers, c.quarantined,
        (unsigned long long)(c.blocks - was->blocks),
        (unsigned long long)(c.bytes - was->bytes),
        (unsigned long long)(c.repeats - was->repeats),
        (unsigned long long)(c.refused - was->refused),
        (unsigned long long)(c.late - was->late),
        (unsigned long long)(c.checked - was->checked),
        (unsigned long long)(c.here - was->here), c.wait_s - was->wait_s);
    j->logged = c;
    rc = at_metrics_line(j->cx, j->metrics, AT_METRICS_OFFLOAD, &t);
    at_text_finish(&t);
    return rc;
}

int at_job_log_values(struct at_job *j, bool eval, size_t n,
                      const double *mean, const double *var)
{
    struct at_metrics_value v[AT_VALUES_MAX];
    for (size_t i = 0; i < j->values.n; i++)
        v[i] = (struct at_metrics_value){
            j->values.v[i].name, mean[i],
            n > 1 ? sqrt(var[i] / (double)(n - 1)) : NAN,
            j->weights.target[i], j->weights.weight[i]
        };
    return at_metrics_values(j->cx, j->metrics, j->s.step, eval, v,
                             j->values.n);
}

/* Texts drawn for the held-out prompts: their loss, and what they are worth.  */
static int mean_of_draws(struct at_job *j, struct at_eval_sum *sum,
                         uint64_t *tokens)
{
    struct at_roller *r = j->roller;
    size_t m = j->values.n, all = 0, n;
    double mean[AT_VALUES_MAX] = { 0 }, var[AT_VALUES_MAX] = { 0 };
    int rc = AT_OK;
    *sum = (struct at_eval_sum){ 0 };
    at_step_eval_begin(j->st);
    for (size_t i = 0; i < at_roller_held(r) && rc == AT_OK; i++) {
        rc = at_roller_eval(j->cx, r, i, &n);
        if (rc < 0)
            break;
        at_step_eval(j->st, &r->batch[0], sum);
        *tokens += r->batch[0].n_tokens;
        for (size_t v = 0; v < m; v++) {
            double x = r->trial.mean[v];
            mean[v] += x * (double)n;
            var[v] += (r->trial.var[v] + x * x) * (double)n;
        }
        all += n;
    }
    for (size_t v = 0; v < m && all; v++) {
        mean[v] /= (double)all;
        var[v] = fmax(0, var[v] / (double)all - mean[v] * mean[v]);
        at_job_say(j, "  %-16s %10.5g \u00B1 %-8.2g target %.5g, weight %.4g",
                   j->values.v[v].name, mean[v],
                   sqrt(var[v] / (double)(all > 1 ? all - 1 : 1)),
                   j->weights.target[v], j->weights.weight[v]);
    }
    return rc == AT_OK ? at_job_log_values(j, true, all, mean, var) : rc;
}

/* *tokens: how many were read. */
static int mean_loss(struct at_job *j, struct at_eval_sum *sum,
                     uint64_t *tokens)
{
    uint64_t most = (uint64_t)at_recipe_int(j->r, "eval.batches");
    const struct at_batch *b;
    int rc = AT_OK;
    *sum = (struct at_eval_sum){ .o.table = j->table };
    if (j->table)
        memset(j->table, 0, j->d.value * j->d.value * sizeof *j->table);
    at_step_eval_begin(j->st);
    at_loader_seek(j->eval, (struct at_cursor){ 0 });
    at_job_use_scores(j, AT_VALIDATION);
    for (uint64_t n = 0; most == 0 || n < most; n++) {
        rc = at_loader_next(j->cx, j->eval, &b);
        if (rc < 0)
            break;
        if (j->cx->stop && *j->cx->stop) {
            rc = at_fail(j->cx, AT_EINTR, "interrupted");
            break;
        }
        at_step_eval(j->st, b, sum);
        *tokens += b->n_tokens;
        if (b->last)
            break;
    }
    at_job_use_scores(j, AT_TRAIN);
    if (rc < 0)
        return at_note(j->cx, rc, "reading the validation data");
    if (sum->n == 0)
        return at_fail(j->cx, AT_EINVAL, "the validation documents have no "
                       "token to measure");
    return AT_OK;
}

struct drawing { struct at_job *j; struct at_text *text; int32_t prev; };

static bool on_token(void *self, size_t row, int32_t id, double logp)
{
    struct drawing *d = self;
    size_t n;
    const char *s;
    (void)row;
    (void)logp;
    if (id == at_tok_eos(d->j->tok))
        return false;
    s = at_tok_step(d->j->tok, d->prev, id, &n);
    at_text_add(d->text, s, n);
    d->prev = id;
    return true;
}

static int draw_one(struct at_job *j, const char *prompt, struct at_text *text)
{
    struct at_sampling s = { .temperature = 0.8, .top_k = 40, .top_p = 1,
                             .seed = (uint64_t)at_recipe_int(j->r, "seed") };
    struct drawing d = { .j = j, .text = text };
    struct at_tok_ids ids = { 0 };
    struct at_prompt p;
    size_t want = (size_t)at_recipe_int(j->r, "eval.sample_tokens");
    int rc = at_tok_encode(j->cx, j->coder, prompt, strlen(prompt),
                           at_data_flags(j->tok), &ids);
    if (rc == AT_OK && ids.n > 0) {
        p = (struct at_prompt){ ids.id, ids.n, 0 };
        d.prev = ids.id[ids.n - 1];
        rc = at_generate(j->gen, &p, 1, want, &s, on_token, &d);
    }
    at_tok_ids_finish(&ids);
    return rc == AT_OK ? at_text_ok(j->cx, text) : rc;
}

static int measure(struct at_job *j, bool *best)
{
    struct at_eval_sum sum;
    struct at_step_result means = { 0 };
    char right[64] = "";
    double start = at_now_s(), loss;
    struct at_metrics_row row = { .step = j->s.step, .eval = true,
                                  .all_tokens = j->s.tokens };
    int rc = j->roller ? mean_of_draws(j, &sum, &row.tokens)
                       : mean_loss(j, &sum, &row.tokens);
    if (rc < 0)
        return rc;
    loss = sum.ce / (double)sum.n;
    *best = isfinite(loss) && !j->roller &&
            (!j->s.has_best ||
             loss < j->s.best_loss - at_recipe_real(j->r, "eval.min_delta"));
    j->s.bad_evals = *best || j->roller ? 0 : j->s.bad_evals + 1;
    if (*best) {
        j->s.best_loss = loss;
        j->s.best_step = j->s.step;
        j->s.has_best = true;
    }
    row.loss = loss;
    row.loss_se = sqrt(fmax(0, sum.ce2 / (double)sum.n - loss * loss) /
                       (double)sum.n);
    at_step_means(&sum.o, &means);
    if (sum.texts && strcmp(at_recipe_text(j->r, "objective"), "sft") == 0)
        means.accuracy = (double)sum.texts_right / (double)sum.texts;
    row.accuracy = means.accuracy;
    row.margin = means.margin;
    row.reward = means.reward;
    row.kl = means.kl;
    row.clipped = means.clipped;
    row.critic = means.critic;
    row.targets = sum.n;
    row.time_s = at_now_s() - start;
    row.tokens_per_s = (double)row.tokens / fmax(row.time_s, 1e-9);
    row.peak_bytes = at_peak_rss_bytes();
    if (isfinite(means.accuracy))
        snprintf(right, sizeof right, sum.texts ? ", %.1f %% of answers exact"
                 : ", accuracy %.1f %%", 100 * means.accuracy);
    if (sum.o.table)
        snprintf(right + strlen(right), sizeof right - strlen(right),
                 ", F1 %.3f", at_f1(sum.o.table, j->d.value));
    if (isfinite(means.kl))
        snprintf(right, sizeof right, ", KL %.3f nats", means.kl);
    at_job_say(j, "step %llu: validation loss %.4f \u00B1 %.4f%s%s",
        (unsigned long long)j->s.step, loss, row.loss_se, right,
        *best ? ", the best so far" : "");
    return at_job_log(j, &row, &j->st->eval);
}

/* What takes time and can be stopped comes first: a stopped evaluation has
 * written nothing, and is made again.                                        */
int at_evaluate(struct at_job *j, bool *best)
{
    struct at_strings prompts = at_recipe_list(j->r, "eval.samples");
    size_t n = j->gen ? prompts.n : 0;
    int rc = AT_OK;
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        rc = draw_one(j, prompts.s[i], &j->said[i]);
    if (rc == AT_OK)
        rc = measure(j, best);
    for (size_t i = 0; i < n; i++) {
        const char *text = j->said[i].s ? j->said[i].s : "";
        if (rc == AT_OK)
            rc = at_metrics_sample(j->cx, j->metrics, j->s.step, prompts.s[i],
                                   text);
        at_text_finish(&j->said[i]);
    }
    return rc;
}
