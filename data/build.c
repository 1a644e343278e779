/* Text into a dataset: read samples, render them by the template, encode them
 * in parallel, append them in order.  Memory is one batch of samples.        */
#include "data/sample.h"

#include <omp.h>
#include <math.h>
#include <string.h>

enum { BATCH_DOCS = 512, BATCH_BYTES = 4 << 20, MOST_THREADS = 64 };

struct encoded {            /* one sample's documents, one after another      */
    struct at_tok_ids ids;
    uint8_t *role;
    size_t role_cap;
    size_t *end, end_cap, n_docs;   /* documents end here                     */
    bool cut, emptied;
    uint64_t cut_tokens;
};

struct worker { struct at_ctx cx; struct at_tok_coder *coder; int rc; };

struct build {
    struct at_arena arena;      /* holds this                                 */
    struct at_ctx *cx;
    const struct at_data_options *o;
    struct at_data_stats *stats;
    struct at_h5 *f;
    struct at_samples *in;
    struct worker w[MOST_THREADS];
    int n_workers;
    struct at_sample sample[BATCH_DOCS + 1];     /* a preference is not parted */
    struct encoded enc[BATCH_DOCS + 1];
    size_t n;
    uint16_t *narrow;           /* ids as they are stored                     */
    size_t narrow_cap;
    uint64_t n_tokens;
    uint64_t *lengths;          /* samples of so many tokens; the last: more  */
    size_t lengths_cap, lengths_n;
    uint8_t split;              /* of the document appended last              */
    const char *const *label;   /* [n_labels], when all has been read         */
    size_t n_labels;
    uint64_t *n_label;          /* [label_cap] documents                      */
    size_t label_cap;
    at_data_progress *progress;
    void *self;
};

static enum at_role role_at(const struct at_sample *s, size_t byte)
{
    const struct at_chat_text *c = s->chat;
    if (!s->pair)
        return AT_ROLE_TEXT;
    for (size_t i = 0; c && i < c->n_answers; i++)
        if (byte < c->answer[i].to)
            return byte >= c->answer[i].from ? AT_ROLE_COMPLETION
                                             : AT_ROLE_PROMPT;
    if (c)
        return AT_ROLE_PROMPT;
    return byte >= s->from && byte < s->to ? AT_ROLE_COMPLETION
                                           : AT_ROLE_PROMPT;
}

/* A text that is judged is one document; what is cut off is counted.  `ends`:
 * its last token stays.                                                      */
static int cut_text(struct at_ctx *cx, struct encoded *e, size_t max, bool ends)
{
    size_t n = e->ids.n;
    int rc = at_grow(cx, &e->end, &e->end_cap, 1, sizeof *e->end);
    if (rc < 0)
        return rc;
    e->n_docs = 1;
    e->end[0] = n;
    if (max < 2 || n <= max)
        return AT_OK;
    e->end[0] = max;
    e->cut = true;
    e->cut_tokens = n - max;
    if (ends) {
        e->ids.id[max - 1] = e->ids.id[n - 1];
        e->role[max - 1] = e->role[n - 1];
    }
    return AT_OK;
}

/* A text of more than max tokens becomes several documents that share their
 * border token, so that every token but the first is a target once.          */
static int split_text(struct at_ctx *cx, struct encoded *e, size_t max)
{
    size_t n = e->ids.n, at = 0, step = max >= 2 && n > max ? max - 1 : n;
    int rc = at_grow(cx, &e->end, &e->end_cap, n / step + 2, sizeof *e->end);
    e->n_docs = 0;
    while (rc == AT_OK && at + 1 < n) {
        at = at + step < n - 1 ? at + step : n - 1;
        e->end[e->n_docs++] = at + 1;
    }
    return rc;
}

static int cut_pair(struct at_ctx *cx, struct encoded *e, size_t max)
{
    size_t n = e->ids.n, targets = 0;
    int rc = at_grow(cx, &e->end, &e->end_cap, 1, sizeof *e->end);
    if (rc < 0)
        return rc;
    e->end[0] = max >= 2 && n > max ? max : n;
    for (size_t i = 1; i < e->end[0]; i++)
        targets += e->role[i] == AT_ROLE_COMPLETION;
    e->emptied = targets == 0;
    e->n_docs = e->emptied ? 0 : 1;
    e->cut = !e->emptied && e->end[0] < n;
    e->cut_tokens = e->cut ? n - e->end[0] : 0;
    return AT_OK;
}

static int encode(struct worker *w, const struct build *b,
                  const struct at_sample *s, struct encoded *e)
{
    const struct at_tok *tok = b->o->tok;
    bool ends = b->o->label ? at_tok_ends(tok)
                            : s->ends && at_tok_eos(tok) >= 0;
    unsigned flags = (s->begins ? at_data_flags(tok) : AT_TOK_CONTINUE) |
                     (ends ? AT_TOK_EOS : 0);
    int rc;
    e->ids.n = 0;
    e->cut = e->emptied = false;
    e->cut_tokens = 0;
    if (s->chat) {              /* its template has the ends where they belong */
        flags = 0;
        rc = at_tok_encode_own(&w->cx, w->coder, s->text, s->n, flags,
                               s->chat->own, s->chat->n_own, &e->ids);
    } else {
        rc = at_tok_encode(&w->cx, w->coder, s->text, s->n, flags, &e->ids);
    }
    if (rc == AT_OK)
        rc = at_grow(&w->cx, &e->role, &e->role_cap, e->ids.n + 1, 1);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < e->ids.n; i++)
        e->role[i] = (uint8_t)role_at(s, e->ids.start[i]);
    if (flags & AT_TOK_BOS)
        e->role[0] = AT_ROLE_BOS;
    if ((flags & AT_TOK_EOS) && e->ids.n > 0)
        e->role[e->ids.n - 1] = AT_ROLE_EOS;
    if (e->ids.n < 2) {
        e->emptied = true;
        e->n_docs = 0;
    } else if (s->pair) {
        rc = cut_pair(&w->cx, e, b->o->max_length);
    } else if (b->o->label) {
        rc = cut_text(&w->cx, e, b->o->max_length, flags & AT_TOK_EOS);
    } else {
        rc = split_text(&w->cx, e, b->o->max_length);
    }
    return rc;
}

static int encode_batch(struct build *b)
{
    int rc = AT_OK;
#pragma omp parallel for schedule(dynamic, 8) num_threads(b->n_workers)
    for (size_t i = 0; i < b->n; i++) {
        struct worker *w = &b->w[omp_get_thread_num()];
        if (w->rc == AT_OK)
            w->rc = encode(w, b, &b->sample[i], &b->enc[i]);
    }
    for (int i = 0; i < b->n_workers && rc == AT_OK; i++)
        if (b->w[i].rc < 0)
            rc = at_fail(b->cx, b->w[i].rc, "%s", b->w[i].cx.err.msg);
    return rc;
}

static int append_ids(struct build *b, const int32_t *ids, size_t n)
{
    struct at_ctx *cx = b->cx;
    if (at_tok_size(b->o->tok) > 65536)
        return at_h5_append(cx, b->f, "tokens", AT_H5_U32, ids, n);
    if (at_grow(cx, &b->narrow, &b->narrow_cap, n, sizeof *b->narrow) < 0)
        return AT_ENOMEM;
    for (size_t i = 0; i < n; i++)
        b->narrow[i] = (uint16_t)ids[i];
    return at_h5_append(cx, b->f, "tokens", AT_H5_U16, b->narrow, n);
}

/* By the hash of its tokens: stable under reordering, duplicates on one side. */
static uint8_t split_of(const struct build *b, const int32_t *ids, size_t n)
{
    struct at_hash h = at_hash(ids, n * sizeof *ids);
    return (double)(h.lo >> 11) * 0x1p-53 < b->o->validation ? AT_VALIDATION
                                                             : AT_TRAIN;
}

static int append_label(struct build *b, uint32_t label)
{
    size_t had = b->label_cap;
    int rc = at_grow(b->cx, &b->n_label, &b->label_cap, label + (size_t)1,
                     sizeof *b->n_label);
    for (; rc == AT_OK && had < b->label_cap; had++)
        b->n_label[had] = 0;
    if (rc == AT_OK) {
        b->n_label[label]++;
        rc = at_h5_append(b->cx, b->f, "label", AT_H5_U32, &label, 1);
    }
    return rc;
}

static int append_doc(struct build *b, const struct at_sample *s,
                      const struct encoded *e, size_t from, size_t to)
{
    struct at_ctx *cx = b->cx;
    uint8_t split = s->rejected ? b->split
                                : split_of(b, e->ids.id + from, to - from);
    uint64_t end = b->n_tokens + (to - from);
    int rc = append_ids(b, e->ids.id + from, to - from);
    if (rc == AT_OK)
        rc = at_h5_append(cx, b->f, "roles", AT_H5_U8, e->role + from,
                          to - from);
    if (rc == AT_OK)
        rc = at_h5_append(cx, b->f, "offsets", AT_H5_U64, &end, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, b->f, "split", AT_H5_U8, &split, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, b->f, "source", AT_H5_U32, &s->source, 1);
    if (rc == AT_OK)
        rc = at_h5_append(cx, b->f, "line", AT_H5_U64, &s->line, 1);
    if (rc == AT_OK && b->o->n_scores)
        rc = at_h5_append(cx, b->f, "rewards", AT_H5_F64, s->score,
                          b->o->n_scores);
    if (rc == AT_OK && b->o->label)
        rc = append_label(b, s->label);
    b->split = split;
    for (size_t i = from; i < to; i++)
        b->stats->role[e->role[i]]++;
    b->n_tokens = end;
    b->stats->n_docs[split]++;
    return rc;
}

/* A preference is kept whole or not at all: what happens to one of the two
 * happens to both.                                                           */
static void settle_preferences(struct build *b)
{
    for (size_t i = 0; i + 1 < b->n; i++) {
        struct encoded *x = &b->enc[i], *y = x + 1;
        if (b->sample[i].preferred && (x->emptied || y->emptied)) {
            x->emptied = y->emptied = true;
            x->cut = y->cut = false;
            x->cut_tokens = y->cut_tokens = 0;
            x->n_docs = y->n_docs = 0;
        }
    }
}

static int count_length(struct build *b, const struct at_sample *s, size_t n)
{
    enum { MOST = 1 << 22 };
    int rc;
    if (!s->begins || !s->ends)
        return AT_OK;
    n = n < MOST ? n : MOST;
    rc = at_grow(b->cx, &b->lengths, &b->lengths_cap, n + 1,
                 sizeof *b->lengths);
    while (rc == AT_OK && b->lengths_n <= n)
        b->lengths[b->lengths_n++] = 0;
    if (rc == AT_OK)
        b->lengths[n]++;
    return rc;
}

static void sum_lengths(struct build *b)
{
    static const double share[] = { 0, 0.5, 0.95, 1 };
    uint64_t all = 0, below = 0;
    size_t k = 0;
    for (size_t n = 0; n < b->lengths_n; n++)
        all += b->lengths[n];
    for (size_t n = 0; n < b->lengths_n; n++) {
        below += b->lengths[n];
        while (k < AT_COUNT(share) && below > 0 &&
               (double)below >= share[k] * (double)all)
            b->stats->length[k++] = n;
    }
}

static int append_batch(struct build *b)
{
    int rc = AT_OK;
    settle_preferences(b);
    for (size_t i = 0; i < b->n && rc == AT_OK; i++) {
        const struct encoded *e = &b->enc[i];
        const struct at_sample *s = &b->sample[i];
        size_t from = 0;
        rc = count_length(b, s, e->ids.n);
        b->stats->cut += e->cut;
        b->stats->cut_tokens += e->cut_tokens;
        b->stats->emptied += e->emptied;
        for (size_t k = 0; k < e->n_docs && rc == AT_OK; k++) {
            rc = append_doc(b, s, e, from, e->end[k]);
            from = e->end[k] - 1;
        }
    }
    return rc;
}

/* Reads samples until the batch is full or the input ends.                   */
static int read_batch(struct build *b, bool *more)
{
    size_t bytes = 0;
    int rc = AT_OK;
    b->n = 0;
    *more = true;
    at_samples_reset(b->in);
    while (*more && ((b->n < BATCH_DOCS && bytes < BATCH_BYTES) ||
                     b->sample[b->n - 1].preferred)) {
        rc = at_samples_next(b->cx, b->in, &b->sample[b->n], more);
        if (rc < 0)
            return rc;
        if (*more)
            bytes += b->sample[b->n++].n;
    }
    return AT_OK;
}

static int all_batches(struct build *b)
{
    bool more = true;
    uint64_t zero = 0;
    int rc = at_h5_append(b->cx, b->f, "offsets", AT_H5_U64, &zero, 1);
    while (more && rc == AT_OK) {
        rc = read_batch(b, &more);
        if (rc == AT_OK)
            rc = encode_batch(b);
        if (rc == AT_OK)
            rc = append_batch(b);
        if (rc == AT_OK && b->cx->stop && *b->cx->stop)
            rc = at_fail(b->cx, AT_EINTR, "interrupted: nothing was written");
        if (b->progress)
            b->progress(b->self, at_samples_done(b->in),
                        at_samples_total(b->in),
                        b->stats->n_docs[0] + b->stats->n_docs[1]);
    }
    return rc;
}

/* What must hold of a dataset that one can train on.                         */
static int judge(struct build *b)
{
    const struct at_data_stats *s = b->stats;
    uint64_t docs = s->n_docs[0] + s->n_docs[1], lost = s->cut + s->emptied;
    uint64_t all = docs + s->emptied;
    if (docs == 0 && s->emptied == 0 && s->bad == 0)
        return at_fail(b->cx, AT_EINVAL, "there is no sample in the input: it "
                       "is empty");
    if (docs == 0)
        return at_fail(b->cx, AT_EINVAL, "no document is left: of %llu samples "
                       "nothing to train on remains within --max-length %zu, "
                       "%llu are bad%s%s", (unsigned long long)s->emptied,
                       b->o->max_length, (unsigned long long)s->bad,
                       s->bad ? "; the first: " : "", s->first_bad);
    if (s->n_docs[AT_TRAIN] == 0)
        return at_fail(b->cx, AT_EINVAL, "the validation share of %g leaves no "
                       "document to train on: choose a smaller one",
                       b->o->validation);
    if (b->o->validation > 0 && s->n_docs[AT_VALIDATION] == 0)
        at_log(b->cx, AT_LOG_WARN, "no document fell to validation: %llu are "
               "too few for a share of %g", (unsigned long long)docs,
               b->o->validation);
    if (b->o->label && b->n_labels < 2)
        return at_fail(b->cx, AT_EINVAL, "all documents have the label '%s': "
                       "there is nothing to tell apart", b->label[0]);
    if (!s->pairs && !b->o->label)
        return AT_OK;
    if (s->pairs && (s->role[AT_ROLE_COMPLETION] == 0 || s->role[AT_ROLE_PROMPT] == 0))
        return at_fail(b->cx, AT_EINVAL, "%s of the tokens are trained on; with "
                       "prompts and completions that is a mistake: check the "
                       "template '%s'", s->role[AT_ROLE_PROMPT] ? "none" :
                       "all", s->template);
    if ((double)lost > b->o->max_cut * (double)all)
        return at_fail(b->cx, AT_EINVAL, "of %llu samples %llu would be cut at "
                       "%zu tokens, and %llu be lost (their prompt is as long, "
                       "or they have less than two tokens); raise --max-length, "
                       "or allow it with --max-cut %.2f",
                       (unsigned long long)all, (unsigned long long)s->cut,
                       b->o->max_length, (unsigned long long)s->emptied,
                       fmin(1, (double)lost / (double)all + 0.005));
    return AT_OK;
}

/* Names of labels, one a line; and how often each is, for people.            */
static int put_labels(struct build *b)
{
    struct at_text t = { 0 };
    char *say = b->stats->labels;
    size_t room = sizeof b->stats->labels, at = 0;
    int rc;
    for (size_t i = 0; i < b->n_labels; i++) {
        at_text_addf(&t, "%s%s", i ? "\n" : "", b->label[i]);
        if (at < room)
            at += (size_t)snprintf(say + at, room - at, "%s%.60s %llu",
                                   i ? ", " : "", b->label[i],
                                   (unsigned long long)(i < b->label_cap
                                                        ? b->n_label[i] : 0));
    }
    rc = at_text_ok(b->cx, &t);
    if (rc == AT_OK)
        rc = at_h5_set_text(b->cx, b->f, "labels", t.s);
    at_text_finish(&t);
    return rc;
}

static int put_score_names(struct build *b)
{
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; i < b->o->n_scores; i++)
        at_text_addf(&t, "%s%s", i ? "\n" : "", b->o->scores[i]);
    rc = at_text_ok(b->cx, &t);
    if (rc == AT_OK)
        rc = at_h5_set_text(b->cx, b->f, "values", t.s);
    at_text_finish(&t);
    return rc;
}

static int write_head(struct build *b)
{
    struct at_ctx *cx = b->cx;
    struct at_text sources = { 0 };
    size_t n;
    const void *blob = at_tok_save(b->o->tok, &n);
    char hex[33];
    int rc;
    at_samples_sources(b->in, &sources);
    rc = at_text_ok(cx, &sources);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, b->f, "sources", sources.s ? sources.s : "");
    at_text_finish(&sources);
    at_hash_hex(at_tok_hash(b->o->tok), hex);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, b->f, "template", b->stats->template);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, b->f, "tokenizer_hash", hex);
    if (rc == AT_OK)
        rc = at_h5_set_int(cx, b->f, "pairs", b->stats->pairs);
    if (rc == AT_OK && b->stats->preference)
        rc = at_h5_set_int(cx, b->f, "preference", 1);
    if (rc == AT_OK && b->stats->preference)
        rc = at_h5_set_int(cx, b->f, "group_size", 2);
    if (rc == AT_OK && b->o->n_scores)
        rc = put_score_names(b);
    if (rc == AT_OK && b->o->label)
        rc = put_labels(b);
    if (rc == AT_OK)
        rc = at_h5_set_int(cx, b->f, "max_length", (int64_t)b->o->max_length);
    if (rc == AT_OK)
        rc = at_h5_put_bytes(cx, b->f, "tokenizer", blob, n);
    return rc;
}

static int start_workers(struct build *b)
{
    int want = b->o->n_threads > 0 ? b->o->n_threads : 1, rc;
    b->n_workers = want < MOST_THREADS ? want : MOST_THREADS;
    for (int i = 0; i < b->n_workers; i++) {
        at_ctx_init(&b->w[i].cx);
        rc = at_tok_coder_create(&b->w[i].cx, b->o->tok, &b->w[i].coder);
        if (rc < 0)
            return at_fail(b->cx, rc, "%s", b->w[i].cx.err.msg);
    }
    return AT_OK;
}

static void finish(struct build *b)
{
    struct at_arena a;
    for (int i = 0; i < b->n_workers; i++) {
        at_tok_coder_destroy(b->w[i].coder);
        at_ctx_finish(&b->w[i].cx);
    }
    for (size_t i = 0; i < AT_COUNT(b->enc); i++) {
        at_tok_ids_finish(&b->enc[i].ids);
        at_free(b->enc[i].role);
        at_free(b->enc[i].end);
    }
    at_free(b->narrow);
    at_free(b->lengths);
    at_free(b->n_label);
    at_samples_close(b->in);
    at_h5_close(b->f);
    a = b->arena;
    at_arena_finish(&a);
}

int at_data_build(struct at_ctx *cx, const struct at_data_options *o,
                  at_data_progress *progress, void *self,
                  struct at_data_stats *stats)
{
    struct at_arena a = { 0 };
    struct build *b = at_alloc(cx, &a, sizeof *b);
    int rc;
    if (!b)
        return AT_ENOMEM;
    *stats = (struct at_data_stats){ 0 };
    b->arena = a;
    b->cx = cx;
    b->o = o;
    b->stats = stats;
    b->progress = progress;
    b->self = self;
    if (!(o->validation >= 0 && o->validation < 1))
        rc = at_fail(cx, AT_EINVAL, "the validation share is %g; it must be at "
                     "least 0 and below 1", o->validation);
    else
        rc = at_samples_open(cx, o, stats, &b->in);
    if (rc == AT_OK)
        rc = start_workers(b);
    if (rc == AT_OK)
        rc = at_h5_create(cx, o->out, "dataset", &b->f);
    if (rc == AT_OK)
        rc = all_batches(b);
    if (rc == AT_OK)
        b->label = at_samples_labels(b->in, &b->n_labels);
    if (rc == AT_OK)
        rc = judge(b);
    if (rc == AT_OK)
        rc = write_head(b);
    if (rc == AT_OK) {
        struct at_h5 *f = b->f;
        b->f = NULL;
        rc = at_h5_commit(cx, f);
    }
    stats->bytes = b->in ? at_samples_done(b->in) : 0;
    stats->n_tokens = b->n_tokens;
    sum_lengths(b);
    finish(b);
    return rc < 0 ? at_note(cx, rc, "making the dataset %s", o->out) : AT_OK;
}
