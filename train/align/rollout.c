/* Drawing for prompts: a journal while it goes on, a dataset at the end. */
#include "train/align/rollout.h"

#include "data/data.h"
#include "data/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct work {
    struct at_ctx *cx;
    struct at_infer *in;
    const struct at_prompts *prompts;
    const struct at_rollout_options *o;
    struct at_rollout_stats *st;
    struct at_arena a;          /* of a chunk of prompts                      */
    const char *journal;
    FILE *f;
    size_t done;                /* prompts in the journal                     */
    struct at_h5 *out;
    uint64_t n_tokens, n_docs;
    double sum[AT_VALUES_MAX], sum2[AT_VALUES_MAX];     /* of prompts' means  */
};

/* ---- the journal ----------------------------------------------------------- */

/* One line that says what is asked for: another request, another journal.    */
static int head(const struct work *w, struct at_text *t)
{
    const struct at_draw_settings *s = &w->o->draw;
    const struct at_sampling *q = &s->sampling;
    char hex[33];
    at_hash_hex(w->prompts->hash, hex);
    at_text_addf(t, "{\"attune_rollout\":1,\"model\":\"%s\",\"prompts\":\"%s\","
                 "\"k\":%zu,\"max_new\":%zu,\"temperature\":%.17g,\"top_k\":%zu,"
                 "\"top_p\":%.17g,\"min_p\":%.17g,\"seed\":%llu,\"round\":%llu,"
                 "\"values\":[", w->in->m->id, hex, s->k, s->max_new,
                 q->temperature, q->top_k, q->top_p, q->min_p,
                 (unsigned long long)q->seed, (unsigned long long)s->round);
    for (size_t i = 0; i < w->o->values->n; i++) {
        at_text_addf(t, i ? "," : "");
        at_text_json(t, w->o->values->v[i].spec,
                     strlen(w->o->values->v[i].spec));
    }
    at_text_addf(t, "]}\n");
    return at_text_ok(w->cx, t);
}

/* The length of the journal's whole lines, and how many prompts they hold; a
 * line without its end was cut off.                                          */
static int count_journal(struct work *w, const char *want, size_t *keep)
{
    char *text, *s, *end;
    size_t n, len = strlen(want);
    int rc = at_read_file(w->cx, &w->cx->scratch, w->journal, 0, &text, &n);
    *keep = 0;
    if (rc < 0)
        return rc;
    if (n < len || memcmp(text, want, len) != 0)
        return at_fail(w->cx, AT_EINVAL, "%s holds another request's work; "
                       "remove it, or ask for the same again", w->journal);
    for (s = text + len; (end = strchr(s, '\n')) != NULL; s = end + 1)
        w->done++;
    *keep = (size_t)(s - text);
    at_arena_reset(&w->cx->scratch);
    return AT_OK;
}

static int open_journal(struct work *w)
{
    struct at_text t = { 0 };
    size_t keep = 0;
    bool there = access(w->journal, F_OK) == 0;
    int rc = head(w, &t);
    if (rc == AT_OK && there)
        rc = count_journal(w, t.s, &keep);
    if (rc == AT_OK && there && truncate(w->journal, (off_t)keep) < 0)
        rc = at_fail_errno(w->cx, errno, "%s: cannot be cut", w->journal);
    if (rc == AT_OK)
        w->f = fopen(w->journal, "ae");
    if (rc == AT_OK && !w->f)
        rc = at_fail_errno(w->cx, errno, "%s: cannot be written", w->journal);
    if (rc == AT_OK && !there && (fputs(t.s, w->f) < 0 || fflush(w->f) != 0))
        rc = at_fail_errno(w->cx, errno, "%s: cannot be written", w->journal);
    w->st->resumed = w->done;
    at_text_finish(&t);
    return rc;
}

static void put_texts(struct at_text *t, const struct at_draws *d, size_t first,
                      size_t k)
{
    for (int what = 0; what < 2; what++) {
        at_text_addf(t, what ? "],\"logp\":[" : "{\"ids\":[");
        for (size_t i = first; i < first + k; i++) {
            at_text_addf(t, i > first ? ",[" : "[");
            for (size_t j = 0; j < d->n_ids[i]; j++) {
                size_t at = i * d->max_new + j;
                at_text_addf(t, j ? "," : "");
                if (what)
                    at_text_addf(t, "%.9g", (double)d->logp[at]);
                else
                    at_text_addf(t, "%d", d->ids[at]);
            }
            at_text_addf(t, "]");
        }
    }
}

/* A line a prompt. */
static int write_journal(struct work *w, const struct at_draws *d,
                         const double *score, size_t n)
{
    size_t k = w->o->draw.k, m = w->o->values->n;
    struct at_text t = { 0 };
    int rc;
    for (size_t p = 0; p < n; p++) {
        put_texts(&t, d, p * k, k);
        at_text_addf(&t, "],\"scores\":[");
        for (size_t i = 0; i < k * m; i++)
            at_text_addf(&t, "%s%.17g", i ? "," : "", score[p * k * m + i]);
        at_text_addf(&t, "]}\n");
    }
    rc = at_text_ok(w->cx, &t);
    if (rc == AT_OK && (fwrite(t.s, 1, t.n, w->f) != t.n || fflush(w->f) != 0))
        rc = at_fail_errno(w->cx, errno, "%s: cannot be written", w->journal);
    at_text_finish(&t);
    return rc;
}

/* ---- drawing ------------------------------------------------------------------ */

static int score_texts(struct work *w, const struct at_draws *d, size_t first,
                       double *score)
{
    size_t k = w->o->draw.k;
    struct at_said *said = at_alloc_n(w->cx, &w->a, d->n, sizeof *said);
    int rc = said ? AT_OK : AT_ENOMEM;
    for (size_t i = 0; i < d->n && rc == AT_OK; i++) {
        size_t p = first + i / k;
        const struct at_prompt *q = &w->prompts->p[p];
        said[i].prompt = w->prompts->text[p];
        said[i].n_prompt = w->prompts->n_text[p];
        rc = at_draw_text(w->cx, &w->a, w->in->m->tok, d, i, q->ids[q->n - 1],
                          &said[i].text, &said[i].n_text);
    }
    return rc == AT_OK ? at_values_score(w->cx, w->o->values, said, d->n, score)
                       : rc;
}

/* As many prompts as fill the generator's rows. */
static int one_chunk(struct work *w)
{
    const struct at_draw_settings *s = &w->o->draw;
    size_t n = s->rows / s->k ? s->rows / s->k : 1, left;
    struct at_draws d;
    double *score;
    int rc;
    left = w->prompts->n - w->done;
    n = n < left ? n : left;
    rc = at_draws_create(w->cx, &w->a, n * s->k, s->max_new, &d);
    score = at_alloc_n(w->cx, &w->a, n * s->k * w->o->values->n + 1,
                       sizeof *score);
    if (rc == AT_OK && !score)
        rc = AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_draw(w->cx, w->in->gen, w->prompts->p + w->done, n,
                     at_tok_eos(w->in->m->tok), s, &d);
    if (rc == AT_OK)
        rc = score_texts(w, &d, w->done, score);
    if (rc == AT_OK)
        rc = write_journal(w, &d, score, n);
    for (size_t i = 0; rc == AT_OK && i < d.n; i++)
        w->st->tokens += d.n_ids[i];
    w->done += rc == AT_OK ? n : 0;
    at_arena_reset(&w->a);
    return rc;
}

/* ---- the dataset ---------------------------------------------------------------- */

struct entry {                  /* a line of the journal                      */
    const json_t *ids, *logp;
    double *score;              /* [k,m]                                      */
};

static int read_entry(struct work *w, const json_t *root, struct entry *e)
{
    size_t k = w->o->draw.k, m = w->o->values->n;
    const json_t *scores = json_object_get(root, "scores");
    e->ids = json_object_get(root, "ids");
    e->logp = json_object_get(root, "logp");
    e->score = at_alloc_n(w->cx, &w->a, k * m + 1, sizeof *e->score);
    if (!e->score)
        return AT_ENOMEM;
    if (json_array_size(e->ids) != k || json_array_size(e->logp) != k ||
        json_array_size(scores) != k * m)
        return at_fail(w->cx, AT_EFORMAT, "%s: a line is damaged; remove the "
                       "file and draw again", w->journal);
    for (size_t i = 0; i < k * m; i++)
        e->score[i] = json_number_value(json_array_get(scores, i));
    return AT_OK;
}

static int append_tokens(struct work *w, const struct at_prompt *p,
                         const json_t *drawn, const json_t *logp,
                         double *total)
{
    struct at_ctx *cx = w->cx;
    const struct at_tok *tok = w->in->m->tok;
    size_t n = p->n + json_array_size(drawn);
    int32_t *ids = at_alloc_n(cx, &w->a, n, sizeof *ids);
    uint16_t *narrow = at_alloc_n(cx, &w->a, n, sizeof *narrow);
    uint8_t *role = at_alloc(cx, &w->a, n);
    int rc;
    if (!ids || !narrow || !role)
        return AT_ENOMEM;
    *total = 0;
    for (size_t i = 0; i < n; i++) {
        bool mine = i >= p->n;
        ids[i] = mine ? (int32_t)json_integer_value(
                            json_array_get(drawn, i - p->n))
                      : p->ids[i];
        narrow[i] = (uint16_t)ids[i];
        role[i] = !mine ? (i == 0 && ids[i] == at_tok_bos(tok) ? AT_ROLE_BOS
                                                               : AT_ROLE_PROMPT)
                  : i + 1 == n && ids[i] == at_tok_eos(tok) ? AT_ROLE_EOS
                                                            : AT_ROLE_COMPLETION;
        if (mine)
            *total += json_number_value(json_array_get(logp, i - p->n));
    }
    w->st->ended += role[n - 1] == AT_ROLE_EOS;
    w->st->length += (double)(n - p->n);
    rc = at_tok_size(tok) > 65536
             ? at_h5_append(cx, w->out, "tokens", AT_H5_U32, ids, n)
             : at_h5_append(cx, w->out, "tokens", AT_H5_U16, narrow, n);
    if (rc == AT_OK)
        rc = at_h5_append(cx, w->out, "roles", AT_H5_U8, role, n);
    w->n_tokens += n;
    return rc;
}

static int append_doc(struct work *w, size_t p, const struct entry *e, size_t i)
{
    struct at_ctx *cx = w->cx;
    size_t m = w->o->values->n;
    uint8_t split = AT_TRAIN;
    uint32_t source = 0;
    uint64_t line = p + 1;
    int64_t group = (int64_t)p;
    double logprob;
    int rc = append_tokens(w, &w->prompts->p[p], json_array_get(e->ids, i),
                           json_array_get(e->logp, i), &logprob);
    if (rc == AT_OK)
        rc = at_h5_append(cx, w->out, "offsets", AT_H5_U64, &w->n_tokens, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, w->out, "split", AT_H5_U8, &split, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, w->out, "source", AT_H5_U32, &source, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, w->out, "line", AT_H5_U64, &line, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, w->out, "group", AT_H5_I64, &group, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, w->out, "logprob", AT_H5_F64, &logprob, 1);
    if (rc == AT_OK && m)
        rc = at_h5_append(cx, w->out, "rewards", AT_H5_F64, e->score + i * m,
                          m);
    w->n_docs++;
    return rc;
}

/* All k of a prompt, or the one that the weights choose.                     */
static int append_prompt(struct work *w, size_t p, const struct entry *e)
{
    size_t k = w->o->draw.k, m = w->o->values->n, from = 0, to = k;
    int rc = AT_OK;
    if (w->o->weight) {
        from = at_draw_choose(e->score, w->o->weight, k, m,
                              w->o->draw.sampling.seed, p);
        to = from + 1;
    }
    for (size_t i = from; i < to && rc == AT_OK; i++)
        rc = append_doc(w, p, e, i);
    for (size_t v = 0; v < m; v++) {
        double mean = 0;
        for (size_t i = from; i < to; i++)
            mean += e->score[i * m + v] / (double)(to - from);
        w->sum[v] += mean;
        w->sum2[v] += mean * mean;
    }
    return rc;
}

static int put_names(struct work *w)
{
    const struct at_values *v = w->o->values;
    struct at_text name = { 0 }, spec = { 0 };
    int rc;
    for (size_t i = 0; i < v->n; i++) {
        at_text_addf(&name, "%s%s", i ? "\n" : "", v->v[i].name);
        at_text_addf(&spec, "%s%s", i ? "\n" : "", v->v[i].spec);
    }
    rc = at_text_ok(w->cx, &name);
    if (rc == AT_OK)
        rc = at_text_ok(w->cx, &spec);
    if (rc == AT_OK && v->n)
        rc = at_h5_set_text(w->cx, w->out, "values", name.s);
    if (rc == AT_OK && v->n)
        rc = at_h5_set_text(w->cx, w->out, "value_specs", spec.s);
    at_text_finish(&name);
    at_text_finish(&spec);
    return rc;
}

static int put_head(struct work *w)
{
    struct at_ctx *cx = w->cx;
    size_t n;
    const void *blob = at_tok_save(w->in->m->tok, &n);
    struct at_text t = { 0 };
    char hex[33];
    int rc = put_names(w);
    at_hash_hex(w->prompts->hash, hex);
    at_text_addf(&t, "%s %s %zu\n", w->prompts->path, hex, w->prompts->n);
    if (rc == AT_OK)
        rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, w->out, "sources", t.s);
    at_text_finish(&t);
    at_hash_hex(at_tok_hash(w->in->m->tok), hex);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, w->out, "tokenizer_hash", hex);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, w->out, "drawn_from", w->in->m->id);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, w->out, "template", "prompt, and what the model "
                            "drew");
    if (rc == AT_OK)
        rc = at_h5_set_int(cx, w->out, "pairs", 1);
    if (rc == AT_OK)
        rc = at_h5_set_int(cx, w->out, "group_size",
                           w->o->weight ? 1 : (int64_t)w->o->draw.k);
    return rc == AT_OK ? at_h5_put_bytes(cx, w->out, "tokenizer", blob, n) : rc;
}

/* Line by line through the journal. */
static int append_all(struct work *w)
{
    FILE *f = fopen(w->journal, "re");
    char *line = NULL;
    size_t cap = 0, p = 0;
    ssize_t n;
    int rc = f ? AT_OK : at_fail_errno(w->cx, errno, "%s: cannot be read",
                                       w->journal);
    for (bool first = true; rc == AT_OK && (n = getline(&line, &cap, f)) > 0;
         first = false) {
        struct entry e;
        json_t *root = NULL;
        if (first)
            continue;
        rc = at_json_parse(w->cx, w->journal, line, (size_t)n, &root);
        if (rc == AT_OK)
            rc = read_entry(w, root, &e);
        if (rc == AT_OK)
            rc = append_prompt(w, p++, &e);
        json_decref(root);
        at_arena_reset(&w->a);
    }
    free(line);
    if (f)
        fclose(f);
    return rc;
}

static int write_dataset(struct work *w)
{
    uint64_t zero = 0;
    int rc = at_h5_create(w->cx, w->o->out, "dataset", &w->out);
    if (rc == AT_OK)
        rc = at_h5_append(w->cx, w->out, "offsets", AT_H5_U64, &zero, 1);
    if (rc == AT_OK)
        rc = append_all(w);
    if (rc == AT_OK)
        rc = put_head(w);
    if (rc < 0) {
        at_h5_close(w->out);
        return rc;
    }
    rc = at_h5_commit(w->cx, w->out);
    if (rc == AT_OK)
        unlink(w->journal);
    return rc;
}

static void finish_stats(struct work *w)
{
    double n = (double)w->prompts->n, docs = (double)w->n_docs;
    struct at_rollout_stats *s = w->st;
    s->prompts = w->prompts->n;
    s->length /= docs > 0 ? docs : 1;
    s->ended /= docs > 0 ? docs : 1;
    for (size_t v = 0; v < w->o->values->n; v++) {
        s->mean[v] = w->sum[v] / n;
        s->se[v] = n > 1 ? sqrt(fmax(0, w->sum2[v] / n - s->mean[v] *
                                        s->mean[v]) / (n - 1))
                         : NAN;
    }
}

int at_rollout(struct at_ctx *cx, struct at_infer *in,
               const struct at_prompts *prompts,
               const struct at_rollout_options *o,
               at_rollout_progress *progress, void *self,
               struct at_rollout_stats *stats)
{
    struct work w = { .cx = cx, .in = in, .prompts = prompts, .o = o,
                      .st = stats };
    double start = at_now_s();
    int rc;
    *stats = (struct at_rollout_stats){ 0 };
    w.journal = at_sprintf(cx, &cx->run, "%s.part", o->out);
    rc = w.journal ? open_journal(&w) : AT_ENOMEM;
    while (rc == AT_OK && w.done < prompts->n) {
        rc = cx->stop && *cx->stop ? AT_EINTR : one_chunk(&w);
        if (rc == AT_EINTR)
            rc = at_fail(cx, rc, "stopped after %zu of %zu prompts; the same "
                         "command goes on from there", w.done, prompts->n);
        if (progress)
            progress(self, w.done, prompts->n, (double)stats->tokens /
                     fmax(at_now_s() - start, 1e-9));
    }
    stats->s = at_now_s() - start;
    if (w.f && fclose(w.f) != 0 && rc == AT_OK)
        rc = at_fail_errno(cx, errno, "%s: cannot be written", w.journal);
    if (rc == AT_OK)
        rc = write_dataset(&w);
    if (rc == AT_OK)
        finish_stats(&w);
    at_arena_finish(&w.a);
    return rc < 0 ? at_note(cx, rc, "drawing texts into %s", o->out) : AT_OK;
}
