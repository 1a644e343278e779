/* offload: the adapters' gradients computed away from the model (ColA, gradient
 * learning, arXiv:2404.13844).
 *
 *   taps     leave x and dy of every adapted site after backward
 *   blocks   fixed rows of them, without the rows whose dy is all zero
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

#include "train/adapters/adapter.h"

enum { AT_SITE_PARAMS = 8 };

struct at_offload_settings {
    const char *engine;
    size_t workers, rows;       /* threads; most rows of a block              */
    bool merged;
};

struct at_offload_site {
    const char *name;
    size_t C, M, shape;         /* x [n,C], dy [n,M]                          */
    size_t n_params, size;      /* numbers of the adapter here                */
    struct at_param *param[AT_SITE_PARAMS];
    struct at_param *weight;    /* merged                                     */
    at_real *base;              /* merged: what it was                        */
};

/* One block of one site on its way. */
struct at_task {
    const struct at_offload_site *site;
    size_t n;                   /* rows                                       */
    at_real *x, *dy, *grad;     /* [n,C] [n,M] [size]                         */
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
    /* Hands t over; never more than o->n_slots at once.  Whose it is until
     * wait has returned: the engine's.                                       */
    void (*put)(struct at_engine *e, struct at_task *t);
    /* Until t->grad holds its gradient, or it cannot be had.                 */
    int (*wait)(struct at_ctx *cx, struct at_engine *e, struct at_task *t);
    void (*destroy)(struct at_engine *e);   /* also after a failed start      */
};

extern const struct at_engine_impl at_engine_local;

struct at_offload {
    struct at_ctx *cx;
    struct at_offload_settings set;
    struct at_adapter *adapter;
    struct at_params *ps;
    const struct at_kernels *k;
    struct at_offload_site *site;       /* as backward comes by               */
    size_t n_sites, n_shapes;
    struct { size_t C, M; } shape[16];
    size_t rows;                        /* of a batch                         */
    struct at_engine *engine;
    struct at_task *slot;
    size_t n_slots, slot_size;          /* numbers of a slot                  */
    uint64_t sent, summed;              /* blocks; a slot each, in turns      */
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
 * gradients are the sums over all blocks.                                    */
void at_offload_begin(struct at_offload *o);
int at_offload_send(struct at_offload *o, const struct at_graph *g);
int at_offload_finish(struct at_offload *o);
void at_offload_describe(const struct at_offload *o, struct at_text *t);
void at_offload_destroy(struct at_offload *o);

#endif
