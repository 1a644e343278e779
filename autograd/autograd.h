/* autograd: a graph built once per shape, its backward as further nodes, and
 * a plan that knows the whole memory need before the first step runs.
 *
 *   val    a tensor: dtype, shape, who writes it, the recipe line behind it;
 *   node   one use of an op: reads vals, writes vals;
 *   graph  nodes in the order they will run; forward first, backward after;
 *   param  a named val that outlives graphs; trainable or frozen;
 *   site   a named y = f(x) in a model that a guest may wrap;
 *   plan   a graph with every buffer placed: run it as often as you like.
 *
 * Building may fail; running cannot and allocates nothing.  Builders return
 * the new val or NULL with the error recorded in g->cx; a NULL input gives
 * NULL and keeps the first error, so a model is written without checks and
 * tested once, where at_plan_create refuses a NULL root.
 *
 * Backward (at_grad) only adds nodes.  A val gets a gradient only when a
 * trainable param stands below it, so frozen weights cost nothing and work
 * stops at the lowest trainable layer.  Contributions to one gradient are
 * added in a fixed order.
 *
 * Lifetimes: graphs and plans live in the arena given at creation; a plan
 * also owns one mapped region for activations (at_plan_destroy).            */
#ifndef AT_AUTOGRAD_H
#define AT_AUTOGRAD_H

#include "kernels/kernels.h"

enum { AT_IN_MAX = 8, AT_OUT_MAX = 6, AT_DIM_MAX = 4 };

enum at_dtype { AT_REAL, AT_I32 };

struct at_shape { size_t n, d[AT_DIM_MAX]; };

enum at_val_kind {
    AT_VAL_NODE,        /* written by a node; placed by the plan             */
    AT_VAL_INPUT,       /* filled by the caller before a run                 */
    AT_VAL_PARAM,       /* owned by struct at_params                         */
    AT_VAL_PGRAD,       /* the gradient of a param, likewise                 */
    AT_VAL_STATE,       /* caller's memory that nodes write (a cache)        */
};

struct at_node;

struct at_val {
    const char *name;           /* params, inputs, states; else NULL         */
    enum at_dtype dtype;
    enum at_val_kind kind;
    struct at_shape shape;
    struct at_node *node;       /* first writer; NULL for leaves             */
    void *data;                 /* set by the plan (params: by at_params)    */
    struct at_val *grad;        /* while and after at_grad                   */
    bool wants_grad;            /* a trainable param stands at or below      */
    bool keep;                  /* its memory outlives the run: a result     */
    const struct at_sparse *sparse; /* of a frozen param: data holds the values
                                 * of this pattern, and behind them those of
                                 * its transpose (at_turned); NULL: dense     */
    size_t *live;               /* rows in use in this run; NULL: all        */
    struct at_src at;           /* the recipe line that asked for it         */
    /* private to autograd/ */
    struct at_val *twin;        /* recomputed copy that backward reads       */
    int holders;                /* vals whose gradient this is               */
    int first, last;            /* lifetime, in node numbers                 */
    size_t offset;              /* in the plan's region                      */
    struct at_val *alias;       /* shares this val's buffer                  */
    struct at_val *next;        /* all vals of the graph                     */
};

/* Numbers that set an op up; their meaning stands at the op's builder.       */
struct at_attr { double s; int64_t i[5]; };

enum at_op_id {
    AT_OP_LINEAR, AT_OP_LINEAR_ADD, AT_OP_LINEAR_DX, AT_OP_LINEAR_DW,
    AT_OP_BIAS_DB,
    AT_OP_RMSNORM, AT_OP_RMSNORM_BWD, AT_OP_LAYERNORM, AT_OP_LAYERNORM_BWD,
    AT_OP_ROPE, AT_OP_ATTN, AT_OP_ATTN_BWD, AT_OP_ATTN_CACHED,
    AT_OP_ACT, AT_OP_ACT_BWD, AT_OP_GLU, AT_OP_GLU_BWD,
    AT_OP_ADD, AT_OP_MUL, AT_OP_SCALE, AT_OP_DROPOUT,
    AT_OP_ROWS, AT_OP_ROWS_BWD, AT_OP_LINEAR_XENT,
    AT_OP_LINEAR_CE, AT_OP_LINEAR_CE_BWD, AT_OP_LINEAR_DISTIL,
    AT_OP_ROUTE, AT_OP_ROUTE_BWD, AT_OP_GATE, AT_OP_GATE_BWD,
    AT_OP_CAPACITY, AT_OP_CAPACITY_BWD, AT_OP_PICK, AT_OP_SCATTER,
    AT_OP_ALIKE,
    AT_OP_TAP, AT_OP_TAP_BWD,
    AT_OP_PART, AT_OP_PART_BWD, AT_OP_PUT,
    AT_OP_MASKED_LINEAR, AT_OP_MASKED_LINEAR_DX, AT_OP_MASKED_LINEAR_DAB,
    AT_OP_CONTEXT, AT_OP_CHANNELS, AT_OP_LINEAR_AT, AT_OP_LINEAR_AT_DX,
    AT_OP_CUT, AT_OP_JOIN,
    AT_OP_COUNT
};

struct at_node {
    enum at_op_id op;
    int n_in, n_out, number;
    struct at_val *in[AT_IN_MAX];       /* NULL: optional input not given    */
    struct at_val *out[AT_OUT_MAX];     /* NULL: output not wanted           */
    struct at_attr attr;
    unsigned acc;       /* bit o: out[o] is added to                         */
    unsigned acc_micro; /* bit o: added to from the second micro-batch on    */
    int segment;        /* > 0: recomputed in backward instead of kept       */
    bool dead, backward;
    struct at_src at;
    const char *site;   /* the site being built, for messages; may be NULL   */
    struct at_node *next, *prev;
};

/* What a run tells its nodes. */
struct at_run {
    const struct at_kernels *k;
    uint64_t seed, step;    /* of dropout                                    */
    uint64_t micro;         /* micro-batch within the step, from 0           */
};

/* How the gradient check exercises an op: the dims of each input; an input
 * with ids > 0 holds integers in [0, ids).                                   */
struct at_op_test {
    struct { size_t d[AT_DIM_MAX]; int ids; bool frozen, sparse; } in[AT_IN_MAX];
    struct at_attr attr;
    double tol;             /* 0: 1e-6                                       */
};

#define AT_ALWAYS (1u << 31)
#define AT_WHOLE (1u << 30)
#define AT_BY_INDEX (1u << 29)

struct at_grads;

struct at_op {
    const char *name;
    int n_in_min, n_in_max, n_out;
    unsigned can_acc;       /* bit o: `run` honours acc for out[o]           */
    unsigned can_skip;      /* bit o: out[o] may be NULL when not wanted;
                               AT_ALWAYS: runs although no result is read or no
                               row is in use; AT_WHOLE: all rows of its outputs
                               are in use, AT_BY_INDEX: those of in[1], else as
                               many as of the first input that counts them    */
    int inplace;            /* out[0] may take over the buffer of in[0] ..
                               in[inplace-1]; 0: of none                     */
    /* The only place that may refuse: checks inputs, sets out[] shapes.      */
    int (*shape)(struct at_ctx *cx, struct at_node *n);
    void (*run)(const struct at_run *r, const struct at_node *n);
    /* Adds the nodes that carry out[]->grad to the inputs; NULL: the op has
     * no derivative and refuses to be differentiated.                        */
    int (*grad)(struct at_grads *d, struct at_node *n);
    double (*flops)(const struct at_node *n);   /* NULL: counted as 0         */
    struct at_op_test test[4];  /* rows with tol or dims; ended by empty      */
};

extern const struct at_op *const at_ops[AT_OP_COUNT];

/* ---- params ------------------------------------------------------------- */

enum at_init_kind {
    AT_INIT_ZERO, AT_INIT_ONE, AT_INIT_NORMAL, AT_INIT_UNIFORM
};
struct at_init { enum at_init_kind kind; double scale; };   /* std or bound   */

struct at_param {
    struct at_val val;          /* .data: the weights                        */
    struct at_val grad;         /* .data: [same shape]; only when trainable  */
    struct at_init init;
    bool trainable, loaded, touched;
    size_t flat;                /* offset in the flat trainable arrays       */
};

/* Decides, once per param, whether it is trained.                            */
typedef bool at_trains_fn(const void *self, const char *name);
/* The pattern of a frozen param, once per param; *s NULL: it is dense.       */
typedef int at_pattern_fn(const void *self, const char *name,
                          const struct at_shape *shape,
                          const struct at_sparse **s);

struct at_params {
    struct at_ctx *cx;
    struct at_arena *arena;
    struct at_param **p;
    size_t n, cap;
    at_trains_fn *trains;       /* NULL: all are                             */
    const void *trains_self;
    at_pattern_fn *pattern;     /* NULL: all are dense                        */
    const void *pattern_self;
    bool need_grads;            /* give trainable params gradient memory     */
    bool elsewhere;             /* which their caller fills: graphs do not    */
    bool sealed;                /* memory is given out: no new params        */
    bool borrows;               /* `fixed` is another's                      */
    at_real *flat, *flat_grad;  /* trainable weights and gradients, [n_flat]; */
    size_t n_flat;              /* every param starts on 64 bytes, gaps are 0 */
    at_real *fixed;             /* frozen weights                            */
    size_t n_fixed;
    size_t n_trainable, n_total;/* elements without padding                  */
};

void at_params_init(struct at_params *ps, struct at_ctx *cx,
                    struct at_arena *arena);
/* The param of that name, made at the first call.  A later call with another
 * shape is an error.                                                         */
struct at_param *at_param(struct at_params *ps, const char *name,
                          struct at_shape shape, struct at_init init);
struct at_param *at_param_find(const struct at_params *ps, const char *name);
/* Of a sparse val: where the values of the transpose stand.                  */
at_real *at_turned(const struct at_val *v);
/* Bytes that at_params_seal will take.                                       */
size_t at_params_bytes(const struct at_params *ps, bool grads);
/* Gives every param its memory (zeros) and, with need_grads, its gradient.   */
int at_params_seal(struct at_params *ps);
/* Before that: uses the frozen weights of another, which are the same and must
 * outlive it.                                                                */
int at_params_borrow(struct at_params *ps, const struct at_params *from);
/* Draws every param that was not loaded; depends on seed and name only.      */
void at_params_draw(struct at_params *ps, uint64_t seed);
void at_params_finish(struct at_params *ps);

/* ---- graph -------------------------------------------------------------- */

struct at_graph;

/* What a token is to its text: padding, an answer, the prompt, or text without
 * either.                                                                    */
enum at_part { AT_PART_NONE, AT_PART_ANSWER, AT_PART_PROMPT, AT_PART_TEXT };

/* Where the rows at hand stand, int32 [N] where nothing else is said.  A model sets it and reads it;
 * a guest that calls f on other rows says so here around the call.           */
struct at_place {
    struct at_val *pos;         /* position in the text                       */
    struct at_val *first;       /* the text's first row; NULL with a cache    */
    struct at_val *row;         /* of the cache, -1: padding; else NULL       */
    struct at_val *cell;        /* of the cache's row; NULL: the position     */
    struct at_val *seen;        /* real [N]: a row with 0 is a key to itself
                                 * only; NULL: all are keys                   */
    struct at_val *pick;        /* rows that a result is wanted for: a guest
                                 * gives all rows and expects these; NULL     */
    struct at_val *pick_pos;    /* their positions                            */
    struct at_val *part;        /* enum at_part; NULL: not said               */
    struct at_val *const *memo; /* with a cache, a layer: [rows,2], what a
                                 * guest remembers of each of its rows        */
    size_t B;                   /* the rows are B rows of equal length        */
    size_t depth;               /* blocks of the model                        */
    size_t H, G, K, F;          /* their heads, and feed-forward channels     */
    enum at_act act;            /* of which, and                              */
    bool gated, fused;          /* act(gate) * up; q, k and v of one weight    */
    bool both;                  /* attention sees whole texts                 */
};

/* Something measured in a run: value[0] of value[1].                         */
struct at_gauge {
    const char *name;           /* a site                                     */
    struct at_val *value;       /* [2], kept                                  */
    struct at_gauge *next;
};

/* A site that is watched: its input x [N,C], and dy [N,M], the gradient of its
 * output, which backward writes.  Both are kept.                             */
struct at_tapped {
    const char *site;
    struct at_val *x, *dy;
    struct at_tapped *next;
};

/* A further number in the loss.                                              */
struct at_term { struct at_val *value; struct at_term *next; };

/* y = f(x) at a named place of a model.                                      */
typedef struct at_val *at_fn(struct at_graph *g, const void *self,
                             struct at_val *x);

/* An adapter or a tap.  `around` may call f, or not, and returns y.  Of several
 * that want a site the one attached last is outermost; f is the others.      */
struct at_guest {
    bool (*wants)(void *self, const char *site);
    struct at_val *(*around)(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x);
    void *self;
    struct at_guest *next;      /* the guest inside this one                 */
};

struct at_graph {
    struct at_ctx *cx;
    struct at_arena *arena;
    struct at_params *params;
    const struct at_kernels *k; /* shape rules ask it for missing entries    */
    struct at_guest *guests;
    const char *site;           /* being built                               */
    struct at_place place;
    struct at_term *terms;      /* last first                                */
    struct at_gauge *gauges;    /* in the order they were made               */
    struct at_tapped *taps;     /* in the order backward comes by             */
    bool whole;                 /* a guest must see prompts as a whole        */
    struct at_val *share;       /* [1]: of the step, for terms; NULL: 1      */
    struct at_node *first, *last;
    struct at_val *vals;
    int n_nodes, n_vals, segment, n_segments, n_streams;
    bool backward;              /* at_grad is adding nodes                   */
};

int at_graph_create(struct at_ctx *cx, struct at_arena *arena,
                    struct at_params *params, const struct at_kernels *k,
                    struct at_graph **g);

struct at_shape at_shape1(size_t a);
struct at_shape at_shape2(size_t a, size_t b);
struct at_shape at_shape3(size_t a, size_t b, size_t c);
size_t at_shape_count(const struct at_shape *s);
const char *at_shape_text(char buf[96], const struct at_shape *s);

struct at_val *at_input(struct at_graph *g, const char *name,
                        enum at_dtype dtype, struct at_shape shape);
/* Memory of the caller, read and written by nodes (a key/value cache).       */
struct at_val *at_state(struct at_graph *g, const char *name, at_real *data,
                        struct at_shape shape);
/* A param as a val of this graph.                                            */
struct at_val *at_weight(struct at_graph *g, const char *name,
                         struct at_shape shape, struct at_init init);
/* Marks a result: its memory keeps its value after the run.                  */
struct at_val *at_keep(struct at_val *v);
/* The general builder behind all others; NULL on refusal.                    */
struct at_node *at_apply(struct at_graph *g, enum at_op_id op,
                         struct at_val *const *in, int n_in,
                         struct at_attr attr);

/* A further output of n, made after the node was.                            */
struct at_val *at_val_like(struct at_graph *g, struct at_node *n,
                           struct at_shape shape);

/* y = f(x), through the guests that want this site.                          */
struct at_val *at_site(struct at_graph *g, const char *name, at_fn *f,
                       const void *f_self, struct at_val *x);

/* Adds the single number v to the loss: at_grads starts from it as well, with
 * this micro-batch's share of the step.  Its value is kept.                  */
int at_term(struct at_graph *g, struct at_val *v);
int at_gauge(struct at_graph *g, const char *name, struct at_val *value);

/* Nodes built between the two are recomputed in backward, not kept.          */
void at_recompute_begin(struct at_graph *g);
void at_recompute_end(struct at_graph *g);

/* ---- ops: shapes, then meaning ------------------------------------------ */

/* y[N,M] = alpha x[N,C] w[M,C]^T + b[M]; b may be NULL.                      */
struct at_val *at_linear(struct at_graph *g, struct at_val *x,
                         struct at_val *w, struct at_val *b, double alpha);
/* y[N,M] = y0[N,M] + alpha x[N,C] w[M,C]^T.                                  */
struct at_val *at_linear_add(struct at_graph *g, struct at_val *y0,
                             struct at_val *x, struct at_val *w, double alpha);
/* y = x w'^T + b, w' = w + alpha (B A) where w, sparse and frozen, has entries:
 * a mask on the update.  a [R,C], lb [M,R]; b [M] may be NULL.               */
struct at_val *at_masked_linear(struct at_graph *g, struct at_val *x,
                                struct at_val *w, struct at_val *a,
                                struct at_val *lb, struct at_val *b,
                                double alpha);
/* w [C]; x [N,C], or [N,M*C]: each C of a row apart (a head).                 */
struct at_val *at_rmsnorm(struct at_graph *g, struct at_val *x,
                          struct at_val *w, double eps);
struct at_val *at_layernorm(struct at_graph *g, struct at_val *x,
                            struct at_val *w, struct at_val *b, double eps);
/* x [N,H*K], cs [P,K/2,2], pos [N]; half: see kernels.h.                     */
struct at_val *at_rope(struct at_graph *g, struct at_val *x, struct at_val *cs,
                       struct at_val *pos, size_t H, bool half);
/* q [B*T,H*K], k,v [B*T,G*K] -> y [B*T,H*K]; k NULL: q is [B*T,(H+2G)*K],
 * the three side by side.  where: first, B, both; seen and pick (of q's rows, only
 * where k is given), which may be NULL; window: see struct at_attn.          */
struct at_val *at_attention(struct at_graph *g, struct at_val *q,
                            struct at_val *k, struct at_val *v,
                            const struct at_place *where, size_t H, size_t G,
                            double scale, size_t window);
/* The same over a cache kc, vc [rows,G,T_max,K], with where->row and cell.    */
struct at_val *at_attention_cached(struct at_graph *g, struct at_val *q,
                                   struct at_val *k, struct at_val *v,
                                   struct at_val *kc, struct at_val *vc,
                                   const struct at_place *where, size_t H,
                                   size_t G, double scale, size_t window);
struct at_val *at_act(struct at_graph *g, struct at_val *x, enum at_act act);
/* act(a) * b */
struct at_val *at_glu(struct at_graph *g, struct at_val *a, struct at_val *b,
                      enum at_act act);
struct at_val *at_add(struct at_graph *g, struct at_val *a, struct at_val *b);
struct at_val *at_mul(struct at_graph *g, struct at_val *a, struct at_val *b);
struct at_val *at_scale(struct at_graph *g, struct at_val *x, double s);
/* Each use draws from a stream of its own; p 0 returns x.                    */
struct at_val *at_dropout(struct at_graph *g, struct at_val *x, double p);
/* [2]: the sum of the cosines between rows of x and of y, and how many; rows
 * whose part is AT_PART_NONE do not count.                                   */
struct at_val *at_alike(struct at_graph *g, struct at_val *x, struct at_val *y,
                        struct at_val *part);
/* y[N,C] = w[ids[N], C].                                                     */
struct at_val *at_rows(struct at_graph *g, struct at_val *w,
                       struct at_val *ids);
/* The same of the rows behind the first `from`.                              */
struct at_val *at_rows_from(struct at_graph *g, struct at_val *w,
                            struct at_val *ids, size_t from);
/* Sum over i of weight[i] * cross-entropy(x[i] w^T, target[i]), x [N,C],
 * w [V,C], target [N] (-1: none), weight [N].  The logits exist only for some
 * rows at a time; rows without a target cost nothing.  Its gradient is taken
 * in the same pass, so it must be a root of backward, without a seed.
 * *ce, if asked for: [N] the cross-entropy of every row.                     */
struct at_val *at_linear_xent(struct at_graph *g, struct at_val *x,
                              struct at_val *w, struct at_val *target,
                              struct at_val *weight, struct at_val **ce);
/* The same beside a teacher, whose hidden states are tx [N,D] and whose head is
 * tw [V,D]: sum of weight[i] ((1-a) cross-entropy + a KL(teacher || model)), both
 * softened by the temperature T (kept to a millionth) in the KL; *kl: [N].     */
struct at_val *at_linear_distil(struct at_graph *g, struct at_val *x,
                                struct at_val *w, struct at_val *target,
                                struct at_val *weight, struct at_val *tx,
                                struct at_val *tw, double a, double T,
                                struct at_val **ce, struct at_val **kl);
/* ce [N]: cross-entropy(x[i] w^T, target[i]), 0 where there is no target.
 * Backward computes the logits a second time.  *gap, if asked for: [N] by how
 * much the largest logit is above the target's; it has no derivative.         */
struct at_val *at_linear_ce(struct at_graph *g, struct at_val *x,
                            struct at_val *w, struct at_val *target,
                            struct at_val **gap);

/* y = what f made of x at the site being built.  Backward comes by whether or
 * not anything is trained below; it leaves x and dy in the graph's taps.      */
struct at_val *at_tap(struct at_graph *g, struct at_val *y, struct at_val *x);
/* Rows [from, from + n) of x [N,C].                                          */
struct at_val *at_part(struct at_graph *g, struct at_val *x, size_t from,
                       size_t n);
/* y [N,M] with `rows` in the place of its own.  No gradient reaches y through
 * it: for the rows that stay, and for those that `rows` was made of, it must
 * come another way.  chain: y is a put of other rows.                        */
struct at_val *at_put(struct at_graph *g, struct at_val *y,
                      struct at_val *rows, size_t from, bool chain);

/* ---- chosen channels of frozen layers (see op_some.c) -------------------- */

struct at_context {               /* rows that take few channels, and the rest  */
    struct at_val *few, *of, *rest;     /* int32 [N], as many as are in use   */
    size_t N, groups;           /* of rows; most groups that there can be     */
};

struct at_choice {              /* rows of a frozen weight, or its columns    */
    struct at_val *cols;        /* int32 [groups,k]                           */
    struct at_val *of;          /* int32 [n]: the group of each row           */
};

/* What a layer's channels are judged by: b a ~ its weight, in few dimensions. */
struct at_predictor { struct at_val *a, *b; };      /* [R,in], [out,R]        */

/* A text's context (its prompt but for the last token; with `every` the whole
 * of it) takes few channels where it has at least `least` tokens; the rest all.
 * least 0: as published, one group of all rows outside the positions that an
 * answer has in any row.  span [2] (NULL: always): the first step, and the one
 * that is the first no more.                                                 */
int at_context(struct at_graph *g, const struct at_place *where,
             struct at_val *span, size_t least, bool every, struct at_context *s);
/* The `keep` feed-forward channels whose act(gate) * up (gate NULL: act(up)) is
 * largest for a group's mean row of x.  T 0: x [n,C] are the rows of few.
 * T > 0, as published: x are all rows, and the score of every T rows counts.  */
struct at_val *at_channels_mlp(struct at_graph *g, struct at_val *x,
                               const struct at_context *s,
                               const struct at_predictor *gate,
                               const struct at_predictor *up, enum at_act act,
                               size_t keep, size_t T);

/* What attention keeps: of q [groups,keep*H/G], k and v [groups,keep], of the
 * input of o as of q; or, fused, qkv: all three as rows of one weight.        */
struct at_heads { struct at_val *q, *k, *v, *o, *qkv; };

/* The `keep` channels of k with the largest |q| |k|, and of v with the largest
 * |v|, over a group's rows; q's and o's are those of all heads that read them.
 * K: head size.  T as above, and then with the published code's index of
 * grouped heads.                                                              */
int at_channels_attn(struct at_graph *g, struct at_val *x,
                     const struct at_context *s, const struct at_predictor qkv[3],
                     size_t K, size_t keep, bool fused, size_t T,
                     struct at_heads *made);
/* y [n,k] = x w[cols]^T + b[cols]; or (columns) y [n,M] = x w[:,cols]^T + b,
 * x [n,k].  w and b are frozen.  detach: x gets no gradient.                  */
struct at_val *at_linear_at(struct at_graph *g, struct at_val *x,
                            struct at_val *w, struct at_val *b,
                            const struct at_choice *c, bool columns,
                            bool detach);
/* y [n,k]: the chosen channels of rows of x; the whole rows: at_rows.         */
struct at_val *at_cut(struct at_graph *g, struct at_val *x, struct at_val *rows,
                      const struct at_choice *c);
/* y [N,C] of few [n,k] (c NULL: [n,C]) and rest [m,C]; blank [C]: what few rows
 * have where nothing was chosen, NULL: zeros.                                 */
struct at_val *at_join(struct at_graph *g, struct at_val *few,
                       struct at_val *rest, const struct at_context *s,
                       const struct at_choice *c, struct at_val *blank);

enum at_route_level { AT_ROUTE_SEQUENCE, AT_ROUTE_TOKEN };

struct at_routing {
    enum at_route_level level;
    double threshold;           /* of the probability                         */
    size_t pool;                /* first tokens of a prompt that are read; 0:
                                 * all of it.  Of plain text: at least 1      */
    bool soft;                  /* m = p: what backward takes m for           */
};

/* m [N], 1 where a row is executed and 0 where it is skipped, from the rows
 * h [N,C] of the text's prompt, or from the row itself, and w [1,C].  Padding
 * is skipped.  memo [rows,2] (NULL without a cache): the decisions about texts
 * whose prompt was seen before.  *count [2]: decided to execute, decided.    */
struct at_val *at_route(struct at_graph *g, struct at_val *h, struct at_val *w,
                        const struct at_place *where, struct at_val *memo,
                        const struct at_routing *how, struct at_val **count);
/* y [N,C] = f where m is 1, x where m is 0 (x NULL: zeros).  The gradient of m
 * is <dy, f - x>; kept_only: 0 where m is 0.                                 */
struct at_val *at_gate(struct at_graph *g, struct at_val *f, struct at_val *m,
                       struct at_val *x, bool kept_only);
/* The rows whose m [N] is 1: index into the N, and where they stand.  memo
 * [rows,2] (NULL: not kept): memo[row,1] counts the cells in use; counted: the
 * kept rows lie side by side in the cache, else at their positions.          */
struct at_picked { struct at_val *index; struct at_place where; };
int at_pick(struct at_graph *g, struct at_val *m, const struct at_place *where,
            struct at_val *memo, bool counted, struct at_picked *p);
/* y [N,C]: row index[k] is f[k], the others are 0.                           */
struct at_val *at_scatter(struct at_graph *g, struct at_val *f,
                          struct at_val *index, size_t N);
/* The mean of m over texts or tokens without padding: what it exceeds target
 * by, or (target < 0) itself.                                                */
struct at_val *at_capacity(struct at_graph *g, struct at_val *m,
                           const struct at_place *where,
                           enum at_route_level level, double target);

/* ---- backward, for op_*.c ------------------------------------------------ */

struct at_grads {
    struct at_graph *g;
};

/* Input i of n as backward may read it (the recomputed copy where there is
 * one), and output o likewise.                                               */
struct at_val *at_seen_in(const struct at_node *n, int i);
struct at_val *at_seen_out(const struct at_node *n, int o);
/* Whether input i needs a gradient.                                          */
bool at_wants(const struct at_node *n, int i);
/* Gives `grad` itself to input v (y = a + b: both get dy).                   */
int at_give(struct at_grads *d, struct at_val *v, struct at_val *grad);
/* Adds a node of op whose out[o] is the gradient of to[o] (NULL: not wanted).
 * Outputs beyond n_to (scratch) are made by the shape rule.                  */
int at_give_node(struct at_grads *d, enum at_op_id op,
                 struct at_val *const *in, int n_in, struct at_attr attr,
                 struct at_val *const *to, int n_to);

/* The same for an op that computes its gradient in its forward run: output o
 * of n itself becomes the gradient of `to`.                                  */
int at_give_early(struct at_grads *d, struct at_node *n, int o,
                  struct at_val *to);

/* Adds the backward of `root` and the graph's terms: from 1 when root is a single number and seed
 * is NULL, else from `seed`, which has root's shape.                         */
int at_grad(struct at_graph *g, struct at_val *root, struct at_val *seed);
/* The same for the sum of n roots, each with its seed or NULL, and the graph's
 * terms.                                                                     */
int at_grads(struct at_graph *g, struct at_val *const *root,
             struct at_val *const *seed, int n);

/* ---- plan ---------------------------------------------------------------- */

struct at_plan {
    struct at_graph *g;
    struct at_node **node;      /* live nodes in order                       */
    int n_nodes, n_forward;     /* the first n_forward are not of backward    */
    void *region;               /* activations, gradients, inputs            */
    size_t region_bytes;
    double flops;               /* of one run                                */
    double *node_s;             /* when set: seconds per node, added up      */
};

/* Places every val that a kept val or a persistent val depends on; takes no
 * memory yet.  roots: what must be computed (params' gradients and states
 * always are).                                                               */
int at_plan_create(struct at_graph *g, struct at_val *const *roots, int n,
                   struct at_plan **plan);
/* Takes plan->region and binds vals.                                         */
int at_plan_bind(struct at_ctx *cx, struct at_plan *p);
/* The same on memory of the caller, at least region_bytes, page-aligned:
 * plans that never run at once share one region.                             */
void at_plan_bind_to(struct at_plan *p, void *region);
void at_plan_run(const struct at_plan *p, const struct at_run *r);
/* The same in two parts: between them seeds may be written that depend on
 * results of the first.                                                      */
void at_plan_run_forward(const struct at_plan *p, const struct at_run *r);
void at_plan_run_backward(const struct at_plan *p, const struct at_run *r);
/* Runs and looks at every result: the first node with a non-finite output,
 * or NULL; *which is its output number.                                      */
const struct at_node *at_plan_run_checked(const struct at_plan *p,
                                          const struct at_run *r, int *which);
/* A line per kind of node: count, FLOPs, bytes.                              */
void at_plan_print(const struct at_plan *p, struct at_text *t);
void at_plan_destroy(struct at_plan *p);
bool at_all_finite(const at_real *x, size_t n);

#endif
