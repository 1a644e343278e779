/* Decoding with a cache: one graph for prompts in pieces of PIECE tokens, one
 * for a token a row.  Both are the model's own graph over cached attention,
 * so adapters work in them as in training.                                   */
#include "train/models/generate.h"

#include <string.h>

enum { PIECE = 256 };

struct pass {               /* a graph over n tokens                          */
    struct at_plan *plan;
    struct at_val *ids, *pos, *row, *part, *pick, *logits;
    size_t n;
};

struct at_generator {
    struct at_ctx *cx;
    const struct at_kernels *k;
    const struct at_decoder *d;
    struct at_params *ps;
    size_t rows, T_max;
    struct pass prompt, token;
    at_real *cache;             /* layers x {k, v} x [rows,G,T_max,K]          */
    at_real *memo;              /* layers x [rows,2]                          */
    size_t cache_n, region_bytes;
    struct at_val **vals[2];    /* per pass: 3*L states                       */
    void *region, *scratch;
    struct live *live;          /* one a row                                  */
    at_real *kept;              /* [V]                                        */
};

struct live {
    size_t at;                  /* tokens in the cache                        */
    int32_t next;               /* drawn, not yet in the cache                */
    size_t made;
    bool on;
};

static int make_states(struct at_generator *g, struct at_graph *graph, int pass)
{
    const struct at_decoder *d = g->d;
    struct at_shape s = { 4, { g->rows, d->G, g->T_max, d->K } };
    struct at_shape two = at_shape2(g->rows, 2);
    struct at_val **v = at_alloc_n(g->cx, graph->arena, 3 * d->L, sizeof *v);
    if (!v)
        return AT_ENOMEM;
    for (size_t i = 0; i < 3 * d->L; i++) {
        static const char *const names[] = { "cache.k", "cache.v", "memo" };
        bool memo = i >= 2 * d->L;
        v[i] = at_state(graph, names[i / d->L],
                        memo ? g->memo + (i - 2 * d->L) * 2 * g->rows : NULL,
                        memo ? two : s);
        if (!v[i])
            return AT_ENOMEM;
    }
    g->vals[pass] = v;
    return AT_OK;
}

static int make_pass(struct at_generator *g, struct at_arena *arena,
                     struct pass *p, size_t n, int which, const at_real *rope,
                     int (*attach)(void *self, struct at_graph *graph),
                     void *self)
{
    struct at_graph *graph;
    struct at_decoder_options o = { .rope = rope };
    struct at_tokens in = { 0 };
    struct at_val *hidden;
    int rc = at_graph_create(g->cx, arena, g->ps, g->k, &graph);
    if (rc == AT_OK && attach)
        rc = attach(self, graph);
    if (rc == AT_OK)
        rc = make_states(g, graph, which);
    if (rc < 0)
        return rc;
    /* Prompts go in pieces, unless a guest must see them whole.              */
    if (which == 0 && !graph->whole && n > PIECE)
        n = PIECE;
    p->n = n;
    in.B = 1;
    in.ids = p->ids = at_input(graph, "ids", AT_I32, at_shape1(n));
    in.pos = p->pos = at_input(graph, "pos", AT_I32, at_shape1(n));
    in.row = p->row = at_input(graph, "row", AT_I32, at_shape1(n));
    in.part = p->part = at_input(graph, "part", AT_I32, at_shape1(n));
    in.cache_k = g->vals[which];
    in.cache_v = g->vals[which] + g->d->L;
    in.memo = g->vals[which] + 2 * g->d->L;
    p->pick = at_input(graph, "pick", AT_I32, at_shape1(g->rows));
    if (!p->ids || !p->pos || !p->row || !p->part || !p->pick)
        return AT_ENOMEM;
    hidden = at_decoder_hidden(graph, g->d, &in, &o);
    p->logits = at_linear(graph, at_rows(graph, hidden, p->pick),
                          at_decoder_head(graph, g->d), NULL, 1);
    return at_plan_create(graph, &p->logits, 1, &p->plan);
}

int at_generator_create(struct at_ctx *cx, struct at_arena *arena,
                        const struct at_decoder *d, struct at_params *ps,
                        const struct at_kernels *k,
                        int (*attach)(void *self, struct at_graph *g),
                        void *self, size_t rows, size_t T_max,
                        struct at_generator **made)
{
    struct at_generator *g = at_alloc(cx, arena, sizeof *g);
    const at_real *rope;
    int rc;
    if (!g)
        return AT_ENOMEM;
    if (rows < 1 || T_max < 1 || T_max > d->P)
        return at_fail(cx, AT_EINVAL, "prompt and continuation may be %zu "
                       "tokens together; %zu are asked for", d->P, T_max);
    g->cx = cx;
    g->k = k;
    g->d = d;
    g->ps = ps;
    g->rows = rows;
    g->T_max = T_max;
    g->cache_n = rows * d->G * T_max * d->K;
    g->memo = at_alloc_n(cx, arena, d->L * rows * 2, sizeof *g->memo);
    if (!g->memo)
        return AT_ENOMEM;
    rc = at_decoder_rope(cx, arena, d, &rope);
    if (rc == AT_OK)
        rc = make_pass(g, arena, &g->prompt, T_max, 0, rope, attach, self);
    if (rc == AT_OK)
        rc = make_pass(g, arena, &g->token, rows, 1, rope, attach, self);
    if (rc < 0)
        return at_note(cx, rc, "building the generator");
    g->live = at_alloc_n(cx, arena, rows, sizeof *g->live);
    g->scratch = at_alloc(cx, arena, at_sample_scratch(d->V));
    g->kept = at_alloc_n(cx, arena, d->V, sizeof *g->kept);
    if (!g->live || !g->scratch || !g->kept)
        return AT_ENOMEM;
    g->region_bytes = g->prompt.plan->region_bytes;
    if (g->token.plan->region_bytes > g->region_bytes)
        g->region_bytes = g->token.plan->region_bytes;
    *made = g;
    return AT_OK;
}

static size_t cache_bytes(const struct at_generator *g)
{
    return 2 * g->d->L * g->cache_n * sizeof(at_real);
}

size_t at_generator_bytes(const struct at_generator *g)
{
    return g->region_bytes + cache_bytes(g);
}

/* What layer i remembers of row r: a decision, and the cells in use; cells
 * below 0: no guest counts them.                                             */
static at_real *memo_of(const struct at_generator *g, size_t i, size_t r)
{
    return g->memo + (i * g->rows + r) * 2;
}

size_t at_generator_cache_used(const struct at_generator *g)
{
    size_t cells = 0;
    for (size_t i = 0; i < g->d->L; i++)
        for (size_t r = 0; r < g->rows; r++) {
            at_real counted = memo_of(g, i, r)[1];
            if (g->d->no_attn && g->d->no_attn[i])
                continue;
            cells += counted < 0 ? g->live[r].at : (size_t)counted;
        }
    return 2 * cells * g->d->G * g->d->K * sizeof(at_real);
}

int at_generator_start(struct at_generator *g)
{
    /* What is not executed has no keys and values: it shall take no memory.  */
    bool skips = g->token.plan->g->gauges || g->d->no_attn;
    g->cache = (skips ? at_reserve : at_map)(g->cx, cache_bytes(g),
                                             "key/value cache");
    g->region = at_map(g->cx, g->region_bytes, "activations");
    if (!g->cache || !g->region)
        return AT_ENOMEM;
    for (int p = 0; p < 2; p++)
        for (size_t i = 0; i < 2 * g->d->L; i++)
            g->vals[p][i]->data = g->cache + i * g->cache_n;
    return AT_OK;
}

void at_generator_destroy(struct at_generator *g)
{
    if (!g)
        return;
    at_unmap(g->cache, cache_bytes(g));
    at_unmap(g->region, g->region_bytes);
    g->cache = NULL;
    g->region = NULL;
}

static void clear(struct at_generator *g, struct pass *p)
{
    int32_t *row, *pick;
    at_plan_bind_to(p->plan, g->region);
    row = p->row->data;
    pick = p->pick->data;
    memset(p->ids->data, 0, p->n * sizeof(int32_t));
    memset(p->pos->data, 0, p->n * sizeof(int32_t));
    memset(p->part->data, 0, p->n * sizeof(int32_t));   /* AT_PART_NONE      */
    for (size_t i = 0; i < p->n; i++)
        row[i] = -1;
    for (size_t i = 0; i < g->rows; i++)
        pick[i] = -1;
}

static void put(struct pass *p, size_t slot, int32_t id, size_t pos, size_t row,
                enum at_part part)
{
    ((int32_t *)p->ids->data)[slot] = id;
    ((int32_t *)p->pos->data)[slot] = (int32_t)pos;
    ((int32_t *)p->row->data)[slot] = (int32_t)row;
    ((int32_t *)p->part->data)[slot] = (int32_t)part;
}

static void run(struct at_generator *g, struct pass *p)
{
    struct at_run r = { .k = g->k };
    at_plan_run(p->plan, &r);
}

/* Draws row r's next token from its logits; ends the row when it must.       */
static void draw(struct at_generator *g, struct pass *p, size_t r,
                 const struct at_prompt *prompt, size_t max_new,
                 const struct at_sampling *s, at_token_fn *on_token,
                 void *self)
{
    struct live *l = &g->live[r];
    const at_real *logits = (const at_real *)p->logits->data + r * g->d->V;
    double logp;
    l->next = at_sample(logits, g->d->V, s, prompt->stream, l->at, g->scratch,
                        &logp);
    l->made++;
    l->on = on_token(self, r, l->next, logp) && l->made < max_new &&
            l->at < g->T_max;
}

/* What is done with a row once its prompt has been read: its logits stand in
 * the pass that has just run.                                                */
typedef void ready_fn(void *self, size_t row);

/* Row `to` has the prompt of row `from`, which has been read: what the cache
 * and the routers know of it is the same.                                     */
static void copy_row(struct at_generator *g, size_t from, size_t to)
{
    const struct at_decoder *d = g->d;
    size_t row = d->G * g->T_max * d->K, n = g->live[from].at * d->K;
    for (size_t i = 0; i < 2 * d->L; i++)
        for (size_t h = 0; h < d->G; h++) {
            at_real *at = g->cache + i * g->cache_n + h * g->T_max * d->K;
            memcpy(at + to * row, at + from * row, n * sizeof *at);
        }
    for (size_t i = 0; i < d->L; i++)
        for (int k = 0; k < 2; k++)
            memo_of(g, i, to)[k] = memo_of(g, i, from)[k];
    g->live[to].at = g->live[from].at;
}

/* Reads n prompts into the cache, side by side as they fit into a pass; those
 * that follow one another and are the same memory are read once.             */
static void feed(struct at_generator *g, const struct at_prompt *prompts,
                 size_t n, ready_fn *ready, void *self)
{
    struct pass *p = &g->prompt;
    size_t used = 0, row = 0, done = 0;
    for (size_t r = 0; r < n; r++) {
        g->live[r] = (struct live){ .on = true };
        for (size_t i = 0; i < g->d->L; i++)
            memo_of(g, i, r)[0] = memo_of(g, i, r)[1] = -1;
    }
    clear(g, p);
    while (row < n) {
        size_t first = row;
        /* A prompt is parted only when it is longer than a pass.             */
        while (row < n && used < p->n &&
               (used == 0 || done || prompts[row].n <= p->n - used)) {
            put(p, used++, prompts[row].ids[done], done, row, AT_PART_PROMPT);
            if (++done < prompts[row].n)
                continue;
            g->live[row].at = done;
            done = 0;
            do
                ((int32_t *)p->pick->data)[row++] = (int32_t)used - 1;
            while (row < n && prompts[row].ids == prompts[row - 1].ids &&
                   prompts[row].n == prompts[row - 1].n);
        }
        run(g, p);
        for (size_t r = first + 1; r < row; r++)
            if (g->live[r].at == 0)
                copy_row(g, r - 1, r);
        for (size_t r = first; r < row && ready; r++)
            ready(self, r);
        clear(g, p);
        used = 0;
    }
}

static int check_prompts(struct at_generator *g, const struct at_prompt *p,
                         size_t n)
{
    if (n > g->rows)
        return at_fail(g->cx, AT_EINVAL, "%zu prompts for a batch of %zu", n,
                       g->rows);
    for (size_t r = 0; r < n; r++) {
        if (p[r].n < 1 || p[r].n >= g->T_max)
            return at_fail(g->cx, AT_EINVAL, "prompt %zu has %zu tokens; there "
                           "is room for 1 to %zu", r + 1, p[r].n,
                           g->T_max - 1);
        for (size_t i = 0; i < p[r].n; i++)
            if (p[r].ids[i] < 0 || (size_t)p[r].ids[i] >= g->d->V)
                return at_fail(g->cx, AT_EINVAL, "prompt %zu: token %d is not "
                               "in the vocabulary of %zu", r + 1, p[r].ids[i],
                               g->d->V);
    }
    return AT_OK;
}

struct drawing {                /* what draw needs besides the row            */
    struct at_generator *g;
    const struct at_prompt *prompts;
    const struct at_sampling *s;
    size_t max_new;
    at_token_fn *on_token;
    void *self;
};

static void first_token(void *self, size_t r)
{
    const struct drawing *d = self;
    draw(d->g, &d->g->prompt, r, &d->prompts[r], d->max_new, d->s, d->on_token,
         d->self);
}

int at_generate(struct at_generator *g, const struct at_prompt *prompts,
                size_t n, size_t max_new, const struct at_sampling *s,
                at_token_fn *on_token, void *self)
{
    struct drawing d = { g, prompts, s, max_new, on_token, self };
    size_t left;
    int rc = check_prompts(g, prompts, n);
    if (rc == AT_OK)
        rc = at_sampling_check(g->cx, s);
    if (rc < 0 || max_new == 0)
        return rc;
    memset(g->live, 0, g->rows * sizeof *g->live);
    feed(g, prompts, n, first_token, &d);
    do {
        struct pass *p = &g->token;
        if (g->cx->stop && *g->cx->stop)
            return at_fail(g->cx, AT_EINTR, "interrupted");
        clear(g, p);
        left = 0;
        for (size_t r = 0; r < n; r++)
            if (g->live[r].on) {
                put(p, r, g->live[r].next, g->live[r].at++, r,
                    AT_PART_ANSWER);
                ((int32_t *)p->pick->data)[r] = (int32_t)r;
                left++;
            }
        if (left)
            run(g, p);
        for (size_t r = 0; r < n; r++)
            if (g->live[r].on)
                draw(g, p, r, &prompts[r], max_new, s, on_token, self);
    } while (left);
    return AT_OK;
}

/* The pass is cleared behind the last prompt: its logits are copied.          */
static void keep_logits(void *self, size_t row)
{
    struct at_generator *g = self;
    (void)row;
    memcpy(g->kept, g->prompt.logits->data, g->d->V * sizeof *g->kept);
}

int at_generator_logits(struct at_generator *g, const int32_t *ids, size_t n,
                        const at_real **logits)
{
    struct at_prompt p = { ids, n, 0 };
    int rc = check_prompts(g, &p, 1);
    if (rc < 0)
        return rc;
    feed(g, &p, 1, keep_logits, g);
    *logits = g->kept;
    return AT_OK;
}
