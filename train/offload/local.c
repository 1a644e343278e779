/* The engine `local`: threads of this process.  A thread computes whole blocks
 * alone, so a block's bits do not depend on how many there are.              */
#include "train/offload/offload.h"

#include <errno.h>
#include <omp.h>
#include <pthread.h>

struct local;

struct worker {
    struct local *l;
    pthread_t thread;
    bool started;
    struct at_work **work;      /* by shape; made at start                    */
};

struct local {
    struct at_engine base;
    const struct at_offload *o;
    struct worker *worker;
    pthread_mutex_t lock;
    pthread_cond_t given, finished;
    struct at_task **queue;     /* [n_slots], in turns                        */
    uint64_t put, taken;
    bool ready, stop;
};

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const struct at_offload *o, struct at_engine **made)
{
    struct local *l = at_alloc(cx, arena, sizeof *l);
    if (!l)
        return AT_ENOMEM;
    l->base.impl = &at_engine_local;
    l->o = o;
    l->worker = at_alloc_n(cx, arena, o->set.workers, sizeof *l->worker);
    l->queue = at_alloc_n(cx, arena, o->n_slots, sizeof *l->queue);
    if (!l->worker || !l->queue)
        return AT_ENOMEM;
    *made = &l->base;
    return AT_OK;
}

static size_t bytes(const struct at_engine *e)
{
    const struct local *l = (const struct local *)e;
    return at_offload_works_bytes(l->o) * l->o->set.workers;
}

static void *serve(void *self)
{
    struct worker *w = self;
    struct local *l = w->l;
    omp_set_num_threads(1);     /* of the products of this thread             */
    pthread_mutex_lock(&l->lock);
    for (;;) {
        struct at_task *t;
        while (l->taken == l->put && !l->stop)
            pthread_cond_wait(&l->given, &l->lock);
        if (l->taken == l->put)
            break;
        t = l->queue[l->taken++ % l->o->n_slots];
        pthread_mutex_unlock(&l->lock);
        at_offload_compute(w->work, t);
        pthread_mutex_lock(&l->lock);
        t->done = true;
        pthread_cond_broadcast(&l->finished);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static int start_one(struct at_ctx *cx, struct local *l, struct worker *w)
{
    const struct at_offload *o = l->o;
    int rc;
    w->l = l;
    w->work = at_alloc_n(cx, &cx->run, o->n_shapes, sizeof(struct at_work *));
    if (!w->work)
        return AT_ENOMEM;
    rc = at_offload_works(o, &cx->run, w->work);
    for (size_t i = 0; i < o->n_shapes && rc == AT_OK; i++)
        rc = at_work_start(w->work[i]);
    if (rc < 0)
        return rc;
    rc = pthread_create(&w->thread, NULL, serve, w);
    if (rc != 0)
        return at_fail_errno(cx, rc, "a worker's thread cannot be started");
    w->started = true;
    return AT_OK;
}

static int start(struct at_ctx *cx, struct at_engine *e)
{
    struct local *l = (struct local *)e;
    int rc = AT_OK;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->given, NULL);
    pthread_cond_init(&l->finished, NULL);
    l->ready = true;
    for (size_t i = 0; i < l->o->set.workers && rc == AT_OK; i++)
        rc = start_one(cx, l, &l->worker[i]);
    return rc;
}

static void put(struct at_engine *e, const struct at_offload *o,
                struct at_task *t)
{
    struct local *l = (struct local *)e;
    (void)o;
    pthread_mutex_lock(&l->lock);
    t->done = false;
    l->queue[l->put++ % l->o->n_slots] = t;
    pthread_cond_signal(&l->given);
    pthread_mutex_unlock(&l->lock);
}

static int wait_for(struct at_ctx *cx, struct at_engine *e,
                    const struct at_offload *o, struct at_task *t)
{
    struct local *l = (struct local *)e;
    (void)cx;
    (void)o;
    pthread_mutex_lock(&l->lock);
    while (!t->done)
        pthread_cond_wait(&l->finished, &l->lock);
    pthread_mutex_unlock(&l->lock);
    return AT_OK;
}

static void destroy(struct at_engine *e)
{
    struct local *l = (struct local *)e;
    if (!l->ready)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->given);
    pthread_mutex_unlock(&l->lock);
    for (size_t i = 0; i < l->o->set.workers; i++) {
        struct worker *w = &l->worker[i];
        if (w->started)
            pthread_join(w->thread, NULL);
        for (size_t k = 0; w->work && k < l->o->n_shapes; k++)
            at_work_destroy(w->work[k]);
    }
    pthread_cond_destroy(&l->finished);
    pthread_cond_destroy(&l->given);
    pthread_mutex_destroy(&l->lock);
    l->ready = false;
}

static void count(const struct at_engine *e, struct at_offload_counts *c)
{
    const struct local *l = (const struct local *)e;
    c->blocks = l->taken;
    c->workers = l->o->set.workers;
}

const struct at_engine_impl at_engine_local = {
    .name = "local", .create = create, .bytes = bytes, .start = start,
    .put = put, .wait = wait_for, .count = count, .destroy = destroy,
};
