/* Pruning a model: calibration, a layer at a time, and the new file. */
#include "train/prune/prune.h"

#include "data/data.h"
#include "train/sparse_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SITES = 16 };            /* linear sites of a block                    */

struct site {
    const char *name;
    struct at_val *x;           /* its input                                  */
    size_t moment;              /* which of the block's                       */
};

struct moment { struct at_val *x; float *H; size_t C; };

/* One block (or the embedding) as a graph with its own weights.              */
struct layer {
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_val *ids, *pos, *first, *part, *x, *y;
    struct site site[SITES];
    size_t n_sites;
    struct moment moment[SITES];
    size_t n_moments;
    struct session *s;          /* while it is built                          */
};

struct session {
    struct at_ctx *cx;
    const struct at_prune_options *o;
    const struct at_kernels *k;
    struct at_model *m;
    struct at_pattern *targets;
    struct at_data *data;
    struct at_h5 *out;
    const at_real *rope;
    size_t N, B;                /* rows of a batch, texts' rows               */
    size_t n_batches;
    int32_t *ids, *pos, *first; /* [n_batches, N]                             */
    bool *pad;                  /* likewise                                   */
    float *stream;              /* [n_batches, N, C]                          */
    size_t stream_bytes;
    double *share;              /* [L]                                        */
    const char **pruned;        /* names of the params written sparse         */
    size_t n_pruned;
    at_prune_progress *progress;
    void *self;
    struct at_pruning sum;
};

/* ---- settings ------------------------------------------------------------------ */

int at_prune_pattern(struct at_ctx *cx, const char *text, size_t *n, size_t *m)
{
    int at = 0;
    if (sscanf(text, "%4zu:%4zu%n", n, m, &at) == 2 && text[at] == '\0' &&
        *n >= 1 && *n < *m && *m <= 64)
        return AT_OK;
    return at_fail(cx, AT_EINVAL, "--pattern is '%s'; it must be N:M, such as "
                   "2:4: N of every M weights go, N below M, M at most 64",
                   text);
}

int at_prune_share(struct at_ctx *cx, const double *score,
                   const double *weights, size_t L, double sparsity,
                   double most, double *share)
{
    double lo = 0, hi = 1, all = 0, top = 0;
    for (size_t i = 0; i < L; i++) {
        all += weights[i];
        if (!(score[i] >= 0) || !isfinite(score[i]))
            return at_fail(cx, AT_ENONFINITE, "a block's score is %g",
                           score[i]);
    }
    if (!(most >= sparsity && most < 1))
        return at_fail(cx, AT_EINVAL, "--most is %g; it must be at least the "
                       "sparsity and below 1", most);
    for (size_t i = 0; i < L; i++)
        top = score[i] > 0 && (top == 0 || 1 / score[i] > top) ? 1 / score[i]
                                                               : top;
    hi = top > 0 ? top : 1;
    for (int round = 0; round < 200; round++) {
        double mid = 0.5 * (lo + hi), kept = 0;
        for (size_t i = 0; i < L; i++) {
            double keep = fmin(1, fmax(1 - most, mid * score[i]));
            share[i] = 1 - keep;
            kept += keep * weights[i];
        }
        if (kept > (1 - sparsity) * all)
            hi = mid;
        else
            lo = mid;
    }
    return AT_OK;
}

/* ---- calibration tokens --------------------------------------------------------- */

static int hold_batches(struct session *s, struct at_loader *l)
{
    size_t most = s->o->batches;
    int rc = AT_OK;
    for (size_t i = 0; i < most && rc == AT_OK; i++) {
        const struct at_batch *b;
        size_t at = i * s->N;
        rc = at_loader_next(s->cx, l, &b);
        if (rc < 0)
            break;
        for (size_t n = 0; n < s->N; n++) {
            s->ids[at + n] = b->ids[n];
            s->pos[at + n] = b->pos[n];
            s->first[at + n] = b->first[n];
            s->pad[at + n] = b->doc[n] < 0;
            s->sum.tokens += b->doc[n] >= 0;
        }
        s->n_batches++;
        if (b->last)
            break;
    }
    return rc;
}

static int open_tokens(struct session *s)
{
    struct at_loader_options o = {
        .split = AT_TRAIN, .packing = AT_PACK_DOCS, .rows = s->B,
        .length = s->N / s->B, .once = true, .serial = true, .shuffle = true,
        .all_roles = true,
    };
    size_t n = s->o->batches * s->N;
    struct at_loader *l = NULL;
    char mine[33];
    int rc = at_model_need_tokenizer(s->cx, s->m);
    if (rc == AT_OK)
        rc = at_data_open(s->cx, &s->cx->run, s->o->data, &s->data);
    if (rc < 0)
        return rc;
    at_hash_hex(at_tok_hash(s->m->tok), mine);
    if (strcmp(mine, s->data->tok_hash) != 0)
        return at_fail(s->cx, AT_EINVAL, "%s was made with another tokenizer "
                       "than the model's; make it again: attune data INPUT %s "
                       "--tokenizer %s", s->o->data, s->o->data, s->o->model);
    s->ids = at_alloc_n(s->cx, &s->cx->run, 3 * n, sizeof *s->ids);
    s->pad = at_alloc_n(s->cx, &s->cx->run, n, sizeof *s->pad);
    if (!s->ids || !s->pad)
        return AT_ENOMEM;
    s->pos = s->ids + n;
    s->first = s->pos + n;
    rc = at_loader_create(s->cx, s->data, &o, &l);
    if (rc == AT_OK)
        rc = hold_batches(s, l);
    at_loader_destroy(l);
    if (rc < 0)
        return at_note(s->cx, rc, "reading calibration data");
    s->stream_bytes = s->n_batches * s->N * s->m->d.C * sizeof *s->stream;
    s->stream = at_map(s->cx, s->stream_bytes, "the calibration stream");
    return s->stream ? AT_OK : AT_ENOMEM;
}

/* ---- one layer -------------------------------------------------------------------- */

static bool nothing(const void *self, const char *name)
{
    (void)self;
    (void)name;
    return false;
}

static bool wants(void *self, const char *site)
{
    const struct layer *l = self;
    size_t n = strlen(site);
    return n > 5 && strcmp(site + n - 5, "_proj") == 0 &&
           at_pattern_finds(l->s->targets, site);
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    struct layer *l = self;
    size_t k = 0;
    if (l->n_sites == SITES) {
        at_fail(g->cx, AT_EINVAL, "a block has more than %d linear layers",
                SITES);
        return NULL;
    }
    while (k < l->n_moments && l->moment[k].x != x)
        k++;
    if (k == l->n_moments)
        l->moment[l->n_moments++] = (struct moment){ at_keep(x), NULL,
                                         x->shape.d[x->shape.n - 1] };
    l->site[l->n_sites++] = (struct site){ site, x, k };
    return f(g, f_self, x);
}

/* The graph of block i; L: of the embedding.                                  */
static int build(struct session *s, struct layer *l, size_t i)
{
    struct at_ctx *cx = s->cx;
    struct at_decoder_options o = { .rope = s->rope };
    struct at_guest *guest;
    struct at_tokens in = { .B = s->B };
    struct at_shape N = at_shape1(s->N);
    int rc;
    *l = (struct layer){ .s = s };
    at_params_init(&l->ps, cx, &cx->plan);
    l->ps.need_grads = false;
    l->ps.trains = nothing;
    rc = at_graph_create(cx, &cx->plan, &l->ps, s->k, &l->g);
    guest = at_alloc(cx, &cx->plan, sizeof *guest);
    if (rc < 0 || !guest)
        return AT_ENOMEM;
    *guest = (struct at_guest){ wants, around, l, NULL };
    l->g->guests = guest;
    in.ids = l->ids = at_input(l->g, "ids", AT_I32, N);
    in.pos = l->pos = at_input(l->g, "pos", AT_I32, N);
    in.first = l->first = at_input(l->g, "first", AT_I32, N);
    in.part = l->part = at_input(l->g, "part", AT_I32, N);
    l->x = at_input(l->g, "stream", AT_REAL, at_shape2(s->N, s->m->d.C));
    l->y = i == s->m->d.L ? at_decoder_embed(l->g, &s->m->d, &in, &o)
                          : at_decoder_block(l->g, &s->m->d, &in, &o, i, l->x);
    if (!l->y)
        return cx->err.code;
    return at_plan_create(l->g, &l->y, 1, &l->plan);
}

static int read_weights(struct session *s, struct layer *l)
{
    size_t arrays = 0;
    int rc = at_params_seal(&l->ps);
    for (size_t i = 0; i < l->ps.n && rc == AT_OK; i++)
        rc = at_weights_get_val(s->cx, s->m->f, l->ps.p[i]->val.name,
                                &l->ps.p[i]->val, &arrays);
    return rc == AT_OK ? at_plan_bind(s->cx, l->plan) : rc;
}

static int open_layer(struct session *s, struct layer *l, size_t i)
{
    int rc = build(s, l, i);
    return rc == AT_OK ? read_weights(s, l) : rc;
}

static void close_layer(struct session *s, struct layer *l)
{
    for (size_t k = 0; k < l->n_moments; k++)
        at_unmap(l->moment[k].H, l->moment[k].C * l->moment[k].C *
                                     sizeof(float));
    at_plan_destroy(l->plan);
    at_params_finish(&l->ps);
    at_arena_reset(&s->cx->plan);
}

/* Runs batch b; its stream stays as it is.                                    */
static void run(struct session *s, struct layer *l, size_t b)
{
    struct at_run r = { .k = s->k };
    size_t at = b * s->N, C = s->m->d.C;
    memcpy(l->ids->data, s->ids + at, s->N * sizeof *s->ids);
    memcpy(l->pos->data, s->pos + at, s->N * sizeof *s->pos);
    memcpy(l->first->data, s->first + at, s->N * sizeof *s->first);
    for (size_t n = 0; n < s->N; n++)
        ((int32_t *)l->part->data)[n] = s->pad[at + n] ? AT_PART_NONE
                                                       : AT_PART_TEXT;
    memcpy(l->x->data, s->stream + at * C, s->N * C * sizeof *s->stream);
    at_plan_run(l->plan, &r);
}

static float *stream_of(struct session *s, size_t b)
{
    return s->stream + b * s->N * s->m->d.C;
}

/* Brings the stream of all batches behind the layer; returns the mean cosine of
 * before and behind.                                                         */
static double advance(struct session *s, struct layer *l)
{
    size_t C = s->m->d.C;
    double sum = 0;
    for (size_t b = 0; b < s->n_batches; b++) {
        float *x = stream_of(s, b);
        const float *y = l->y->data;
        run(s, l, b);
        for (size_t n = 0; n < s->N; n++) {
            double xx = 0, yy = 0, xy = 0;
            if (s->pad[b * s->N + n])
                continue;
            for (size_t c = n * C; c < (n + 1) * C; c++) {
                xx += (double)x[c] * (double)x[c];
                yy += (double)y[c] * (double)y[c];
                xy += (double)x[c] * (double)y[c];
            }
            sum += xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
        }
        memcpy(x, y, s->N * C * sizeof *x);
    }
    return sum / (double)(s->sum.tokens ? s->sum.tokens : 1);
}

/* H of every input of the layer, over tokens that are not padding.           */
static int take_moments(struct session *s, struct layer *l)
{
    for (size_t k = 0; k < l->n_moments; k++) {
        struct moment *m = &l->moment[k];
        m->H = at_map(s->cx, m->C * m->C * sizeof *m->H, "second moments");
        if (!m->H)
            return AT_ENOMEM;
    }
    for (size_t b = 0; b < s->n_batches; b++) {
        if (s->cx->stop && *s->cx->stop)
            return at_fail(s->cx, AT_EINTR, "stopped; nothing was written");
        run(s, l, b);
        for (size_t k = 0; k < l->n_moments; k++) {
            struct moment *m = &l->moment[k];
            float *x = m->x->data;
            for (size_t n = 0; n < s->N; n++)
                if (s->pad[b * s->N + n])
                    memset(x + n * m->C, 0, m->C * sizeof *x);
            s->k->gemm(AT_TN, m->H, x, x, m->C, m->C, s->N, 1, 1);
        }
    }
    return AT_OK;
}

/* ---- writing ------------------------------------------------------------------------ */

static int type_of(struct session *s, const char *name, enum at_h5_type *type)
{
    char buf[AT_H5_NAME];
    struct at_h5_info info;
    int rc;
    if (s->o->dtype) {
        *type = strcmp(s->o->dtype, "bfloat16") == 0 ? AT_H5_BF16 : AT_H5_F32;
        return AT_OK;
    }
    snprintf(buf, sizeof buf, "params/%s%s", name,
             at_sparse_held(s->m->f, name) ? "/values" : "");
    rc = at_h5_info(s->cx, s->m->f, buf, &info);
    *type = info.type;
    return rc;
}

/* Everything that was not pruned, as it is.                                   */
static int copy_rest(struct session *s)
{
    const char *const *names;
    struct at_arena a = { 0 };
    size_t n, off = strlen("params/");
    int rc = at_h5_names(s->cx, s->m->f, "params/", &s->cx->run, &names, &n);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        struct at_h5_info info;
        void *bytes;
        bool done = false;
        for (size_t k = 0; k < s->n_pruned && !done; k++) {
            size_t len = strlen(s->pruned[k]);
            const char *end = names[i] + off + len;
            done = strncmp(names[i] + off, s->pruned[k], len) == 0 &&
                   (*end == '\0' || *end == '/');
        }
        if (done)
            continue;
        rc = at_h5_info(s->cx, s->m->f, names[i], &info);
        bytes = rc == AT_OK ? at_alloc_n(s->cx, &a, info.n + 1,
                                         at_h5_size(info.type)) : NULL;
        if (rc == AT_OK)
            rc = bytes ? at_h5_get(s->cx, s->m->f, names[i], info.type,
                                   info.n_dims, info.d, bytes) : AT_ENOMEM;
        if (rc == AT_OK)
            rc = at_h5_put(s->cx, s->out, names[i], info.type, info.n_dims,
                           info.d, bytes);
        at_arena_reset(&a);
    }
    at_arena_finish(&a);
    return rc;
}

/* Pruned again, a model keeps its first dense one.                           */
static int put_dense(struct session *s)
{
    char *real = realpath(s->m->path, NULL);
    const char *path = real ? real : "", *id = s->m->id;
    int rc = AT_OK;
    if (at_h5_has_fact(s->m->f, "dense_path")) {
        rc = at_h5_get_text(s->cx, s->m->f, "dense_path", &s->cx->run, &path);
        if (rc == AT_OK)
            rc = at_h5_get_text(s->cx, s->m->f, "dense_id", &s->cx->run, &id);
    }
    if (rc == AT_OK)
        rc = at_h5_set_text(s->cx, s->out, "dense_path", path);
    if (rc == AT_OK)
        rc = at_h5_set_text(s->cx, s->out, "dense_id", id);
    free(real);
    return rc;
}

static int put_facts(struct session *s)
{
    const struct at_prune_how *h = &s->o->how;
    char pattern[32] = "";
    int rc = at_h5_set_text(s->cx, s->out, "prune_method",
                            at_prune_names[h->method]);
    if (h->m)
        snprintf(pattern, sizeof pattern, "%zu:%zu", h->n, h->m);
    if (rc == AT_OK)
        rc = at_h5_set_text(s->cx, s->out, "prune_pattern", pattern);
    if (rc == AT_OK)
        rc = at_h5_set_real(s->cx, s->out, "prune_sparsity", h->sparsity);
    return rc == AT_OK ? put_dense(s) : rc;
}

/* ---- pruning -------------------------------------------------------------------------- */

static int prune_site(struct session *s, struct layer *l,
                      const struct site *site, double share)
{
    struct at_ctx *cx = s->cx;
    struct at_arena a = { 0 };
    struct at_prune_how how = s->o->how;
    const char *name = at_sprintf(cx, &cx->run, "%s.weight", site->name);
    const struct at_param *p = name ? at_param_find(&l->ps, name) : NULL;
    size_t M = p ? p->val.shape.d[0] : 0, C = p ? p->val.shape.d[1] : 0;
    const float *H = s->o->data ? l->moment[site->moment].H : NULL;
    float *w = p ? p->val.data : NULL;
    float *was = at_alloc_n(cx, &a, 2 * M * C + 1, sizeof *was);
    uint8_t *mask = at_alloc(cx, &a, M * at_mask_row(C) + 1);
    struct at_pruned said = { site->name, M * C, 0, 0, NAN };
    enum at_h5_type type;
    double before = 0;
    int rc = p && was && mask ? type_of(s, name, &type) : AT_ENOMEM;
    how.sparsity = share;
    if (rc == AT_OK) {
        memcpy(was, w, M * C * sizeof *w);
        rc = at_prune_matrix(cx, &how, w, M, C, H, mask, &said.dead);
    }
    if (rc == AT_OK && H) {
        before = at_prune_error(s->k, was, M, C, H, was + M * C);
        for (size_t i = 0; i < M * C; i++)
            was[i] -= w[i];
        said.error = before > 0 ? at_prune_error(s->k, was, M, C, H,
                                                 was + M * C) / before : 0;
    }
    if (rc == AT_OK)
        rc = at_sparse_put(cx, s->out, name, type, M, C, mask, w);
    for (size_t i = 0; i < M && rc == AT_OK; i++)
        for (size_t c = 0; c < C; c++)
            said.zeros += !at_mask_get(mask + i * at_mask_row(C), c);
    at_arena_finish(&a);
    if (rc < 0)
        return at_note(cx, rc, "pruning %s", site->name);
    s->pruned[s->n_pruned++] = name;
    s->sum.weights += said.weights;
    s->sum.zeros += said.zeros;
    if (s->progress)
        s->progress(s->self, &said);
    return AT_OK;
}

static int prune_layer(struct session *s, size_t i)
{
    struct layer l;
    int rc = open_layer(s, &l, i);
    if (rc == AT_OK && s->o->data)
        rc = take_moments(s, &l);
    for (size_t k = 0; k < l.n_sites && rc == AT_OK; k++) {
        l.site[k].name = at_strdup(s->cx, &s->cx->run, l.site[k].name);
        rc = l.site[k].name ? prune_site(s, &l, &l.site[k], s->share[i])
                            : AT_ENOMEM;
    }
    if (rc == AT_OK && s->o->data)
        advance(s, &l);
    close_layer(s, &l);
    return rc;
}

/* The stream before the first block.                                          */
static int start_stream(struct session *s)
{
    struct layer l;
    int rc = AT_OK;
    if (!s->o->data)
        return AT_OK;
    rc = open_layer(s, &l, s->m->d.L);
    if (rc == AT_OK)
        advance(s, &l);
    close_layer(s, &l);
    return rc;
}

/* How much each block turns the stream, and how many weights it has.          */
static int score_blocks(struct session *s, double *score, double *weights)
{
    int rc = start_stream(s);
    for (size_t i = 0; i < s->m->d.L && rc == AT_OK; i++) {
        struct layer l;
        rc = open_layer(s, &l, i);
        if (rc == AT_OK)
            score[i] = 1 - advance(s, &l);
        for (size_t k = 0; k < l.n_sites && rc == AT_OK; k++) {
            char name[AT_H5_NAME];
            const struct at_param *p;
            snprintf(name, sizeof name, "%s.weight", l.site[k].name);
            p = at_param_find(&l.ps, name);
            weights[i] += p ? (double)at_shape_count(&p->val.shape) : 0;
        }
        close_layer(s, &l);
    }
    return rc;
}

static int allocate(struct session *s)
{
    size_t L = s->m->d.L;
    double *score = at_alloc_n(s->cx, &s->cx->run, 2 * L, sizeof *score);
    int rc;
    s->share = at_alloc_n(s->cx, &s->cx->run, L, sizeof *s->share);
    if (!score || !s->share)
        return AT_ENOMEM;
    for (size_t i = 0; i < L; i++)
        s->share[i] = s->o->how.sparsity;
    s->sum.share = s->share;
    s->sum.L = L;
    if (!s->o->allocate)
        return AT_OK;
    rc = score_blocks(s, score, score + L);
    return rc == AT_OK ? at_prune_share(s->cx, score, score + L, L,
                                        s->o->how.sparsity, s->o->most,
                                        s->share) : rc;
}

static int check(struct session *s)
{
    const struct at_prune_options *o = s->o;
    const struct at_decoder *d = &s->m->d;
    if (at_file_apart(s->cx, o->out, s->m->path) < 0)
        return s->cx->err.code;
    if (s->m->base)
        return at_fail(s->cx, AT_EINVAL, "%s is an adapter: merge it first "
                       "('attune merge')", s->m->path);
    if (o->how.method != AT_PRUNE_MAGNITUDE && !o->data)
        return at_fail(s->cx, AT_EINVAL, "%s judges weights by their inputs: "
                       "give --calibration DATA.h5",
                       at_prune_names[o->how.method]);
    if (o->allocate && (o->how.m || !o->data))
        return at_fail(s->cx, AT_EINVAL, "--allocate needs --sparsity (a "
                       "pattern is the same everywhere) and --calibration");
    if (!o->how.m && !(o->how.sparsity >= 0 && o->how.sparsity < 1))
        return at_fail(s->cx, AT_EINVAL, "--sparsity is %g; it must be at least "
                       "0 (nothing goes) and below 1 (everything would)",
                       o->how.sparsity);
    s->pruned = at_alloc_n(s->cx, &s->cx->run, d->L * SITES, sizeof *s->pruned);
    return s->pruned ? AT_OK : AT_ENOMEM;
}

static int open_session(struct session *s)
{
    const struct at_prune_options *o = s->o;
    size_t T;
    int rc = at_threads_start(s->cx, o->threads);
    if (rc == AT_OK)
        rc = at_kernels_find(s->cx, o->backend, &s->k);
    if (rc == AT_OK)
        rc = at_model_open(s->cx, &s->cx->run, o->model, &s->m);
    if (rc == AT_OK)
        rc = check(s);
    if (rc == AT_OK)
        rc = at_pattern_create(s->cx, o->targets, &s->targets);
    if (rc == AT_OK)
        rc = at_decoder_rope(s->cx, &s->cx->run, &s->m->d, &s->rope);
    if (rc < 0)
        return rc;
    T = o->length < s->m->d.P ? o->length : s->m->d.P;
    s->B = o->rows;
    s->N = s->B * T;
    return o->data ? open_tokens(s) : AT_OK;
}

static void close_session(struct session *s)
{
    at_unmap(s->stream, s->stream_bytes);
    at_data_close(s->data);
    at_pattern_destroy(s->targets);
    at_model_close(s->m);
    at_h5_close(s->out);
}

static int write_all(struct session *s)
{
    int rc = at_h5_create(s->cx, s->o->out, "model", &s->out);
    if (rc == AT_OK)
        rc = at_model_put_head(s->cx, s->out, &s->m->d, s->m->tok);
    if (rc == AT_OK)
        rc = put_facts(s);
    if (rc == AT_OK)
        rc = start_stream(s);
    for (size_t i = 0; i < s->m->d.L && rc == AT_OK; i++)
        rc = prune_layer(s, i);
    if (rc == AT_OK && s->n_pruned == 0)
        rc = at_fail(s->cx, AT_EINVAL, "--targets '%s' fits no site of the "
                     "model", s->o->targets);
    if (rc == AT_OK)
        rc = copy_rest(s);
    if (rc == AT_OK)
        rc = at_model_put_kept(s->cx, s->out, s->m->f);
    if (rc == AT_OK) {
        rc = at_h5_commit(s->cx, s->out);
        s->out = NULL;
    }
    return rc;
}

int at_prune(struct at_ctx *cx, const struct at_prune_options *o,
             at_prune_progress *progress, void *self, struct at_pruning *sum)
{
    struct session s = { .cx = cx, .o = o, .progress = progress, .self = self };
    int rc = open_session(&s);
    if (rc == AT_OK)
        rc = allocate(&s);
    if (rc == AT_OK)
        rc = write_all(&s);
    close_session(&s);
    if (rc == AT_OK)
        *sum = s.sum;
    return rc < 0 ? at_note(cx, rc, "pruning %s", o->model) : AT_OK;
}
