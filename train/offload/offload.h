/* offload: the adapters' gradients computed away from the model (ColA, gradient
 * learning, arXiv:2404.13844).
 *
 *   taps     leave x and dy of every adapted site after backward
 *   blocks   fixed rows of them, without the rows whose dy is all zero, the
 *            input that several sites have in common once
 *   engine   carries blocks to workers and gradients back
 *   sum      in the order of the blocks, whatever order they come in
 *
 * So a step does not depend on how many workers there are.  With the kernels
 * of `cpu` and blocks of 384 rows the blocks are cut where a product over all
 * rows is cut itself, and training is that of no offload to the bit for low-
 * rank and matrix adapters; otherwise to rounding.
 *
 * Merged: the model's weights hold the adapter, W = base + delta afresh after
 * every step (never added and taken away again), and the graph knows nothing
 * of it.                                                                     */
#ifndef AT_OFFLOAD_H
#define AT_OFFLOAD_H

#include "train/offload/work.h"

enum { AT_SITE_PARAMS = 8 };

struct at_offload_settings {
    const char *engine;
    size_t workers, rows;       /* threads; most rows of a block              */
    bool merged;
    size_t window;              /* blocks on their way at once; 0: by workers */
    /* Of engine nats.                                                        */
    const char *url, *credentials, *name;
    double ack_wait_s, patience_s, verify;
    bool half;                  /* rows travel as bfloat16                    */
    bool stop;                  /* without workers, instead of computing here */
    struct at_offload *share;   /* whose engine is used, if it can be         */
};

/* What an engine did since it started. */
struct at_offload_counts {
    uint64_t blocks;            /* gradients that came back                   */
    uint64_t bytes;             /* of messages, both ways                     */
    uint64_t repeats;           /* blocks given out more than once            */
    uint64_t refused;           /* results that were not believed             */
    uint64_t late;              /* results of blocks that were done           */
    uint64_t checked;           /* results that were computed here as well    */
    uint64_t here;              /* blocks computed here for want of workers   */
    double wait_s;              /* that training stood still for them         */
    size_t workers, quarantined;
};

struct at_offload_site {
    const char *name;
    size_t C, M, shape;         /* x [n,C], dy [n,M]                          */
    size_t n_params, size;      /* numbers of the adapter here                */
    struct at_param *param[AT_SITE_PARAMS];
    const struct at_tapped *tap;    /* of the graph that ran                  */
    struct at_param *weight;    /* merged                                     */
    at_real *base;              /* merged: what it was                        */
};

/* Sites that share their input (query, key and value do): it travels once.   */
struct at_offload_group {
    const struct at_offload_site *site;
    size_t n_sites;             /* one after the other                        */
    size_t C, M, size;          /* M, size: of all                            */
};

/* One block of one group on its way. */
struct at_task {
    const struct at_offload_group *group;
    size_t n;                   /* rows                                       */
    /* x [n,C]; dy [n,M] and grad [size] site after site.                     */
    at_real *x, *dy, *grad;
    uint64_t step;
    uint32_t block, of;         /* of the step                                */
    bool done;                  /* the engine's                               */
};

struct at_offload;

struct at_engine {              /* an engine's struct starts with one         */
    const struct at_engine_impl *impl;
};

struct at_engine_impl {
    const char *name;
    /* Sizes itself; takes no big memory.                                     */
    int (*create)(struct at_ctx *cx, struct at_arena *arena,
                  const struct at_offload *o, struct at_engine **e);
    size_t (*bytes)(const struct at_engine *e);
    int (*start)(struct at_ctx *cx, struct at_engine *e);
    /* Serves one more; NULL: it serves one.                                  */
    int (*join)(struct at_ctx *cx, struct at_engine *e,
                const struct at_offload *o);
    void (*part)(struct at_engine *e, const struct at_offload *o);
    /* A step of o's: its adapter's weights stay as they are until the next
     * begin; NULL: it makes no difference.                                   */
    void (*begin)(struct at_engine *e, const struct at_offload *o);
    /* Hands t over; never more than o->n_slots at once.  Whose it is until
     * wait has returned: the engine's.                                       */
    void (*put)(struct at_engine *e, const struct at_offload *o,
                struct at_task *t);
    /* Until t->grad holds its gradient, or it cannot be had; AT_EINTR: the
     * recipe wants the run stopped for that.                                 */
    int (*wait)(struct at_ctx *cx, struct at_engine *e,
                const struct at_offload *o, struct at_task *t);
    /* After the last wait of a step, whether all that was waited for can be
     * relied on; NULL: always.  Where not, the step is taken again, and with it
     * all that began before this one was over.                               */
    bool (*settle)(struct at_engine *e);
    void (*count)(const struct at_engine *e, struct at_offload_counts *c);
    void (*destroy)(struct at_engine *e);   /* also after a failed start      */
};

extern const struct at_engine_impl at_engine_local, at_engine_nats;

struct at_offload {
    struct at_ctx *cx;
    struct at_offload_settings set;
    struct at_adapter *adapter;
    struct at_params *ps;
    const struct at_kernels *k;
    struct at_offload_site *site;       /* as backward comes by               */
    size_t n_sites, n_shapes;
    struct at_offload_group *group;
    size_t n_groups;
    struct { size_t C, M; } shape[16];
    size_t rows;                        /* of a batch                         */
    struct at_engine *engine;
    struct at_task *slot;
    size_t n_slots, slot_size;          /* numbers of a slot                  */
    uint64_t sent, summed;              /* blocks; a slot each, in turns      */
    uint64_t first;                     /* of the step                        */
    uint64_t step;
    size_t batch_blocks;                /* of a batch, at most                */
    uint32_t of;                        /* of the step up to this batch       */
    bool again;                         /* the step is to be taken again      */
    bool joined;                        /* to another's engine                */
    double wait_s;
    at_real *memory, *base;
    size_t n_base;                      /* numbers of all merged weights      */
    double bytes_a_token;               /* of x and dy                        */
};

/* Before graphs are built: refuses what cannot be offloaded, and makes ps leave
 * its gradients to it.                                                       */
int at_offload_create(struct at_ctx *cx, struct at_arena *arena,
                      const struct at_offload_settings *s,
                      const struct at_adapters *adapters, struct at_params *ps,
                      const struct at_kernels *k, struct at_offload **o);
/* After the adapters were attached to a graph that trains.                   */
int at_offload_attach(struct at_offload *o, struct at_graph *g);
/* After its backward was added: finds sites and sizes everything.            */
int at_offload_build(struct at_offload *o, struct at_arena *arena,
                     const struct at_graph *g);
size_t at_offload_bytes(const struct at_offload *o);
/* After the params have their memory and the model its weights.              */
int at_offload_start(struct at_offload *o);
/* After adapters were read or moved: the merged weights afresh.              */
int at_offload_fold(struct at_offload *o);

/* A step: begin, send after every run of the graph, finish: then the adapters'
 * gradients are the sums over all blocks, or o->again says to begin once more. */
void at_offload_begin(struct at_offload *o, uint64_t step);
/* first: the row at which the batch begins, of a pass that serves several.   */
int at_offload_send(struct at_offload *o, const struct at_graph *g,
                    size_t first);
int at_offload_finish(struct at_offload *o);
void at_offload_count(const struct at_offload *o, struct at_offload_counts *c);
void at_offload_describe(const struct at_offload *o, struct at_text *t);
void at_offload_destroy(struct at_offload *o);

/* For engines: works for all shapes, work[n_shapes], and a task by them.     */
int at_offload_works(const struct at_offload *o, struct at_arena *arena,
                     struct at_work **work);
size_t at_offload_works_bytes(const struct at_offload *o);
void at_offload_compute(struct at_work *const *work, struct at_task *t);

#endif
