/* Batches: the order of an epoch, packing, and a thread that works ahead.
 *
 * The order is a counter-based permutation, so any cursor is reached at once.
 * A document of n tokens fills n-1 positions: its last token is only a target,
 * unless the ends are wanted too.                                            */
#include "data/data.h"

#include <pthread.h>
#include <string.h>

enum { AHEAD = 2 };         /* batches made before they are asked for         */

struct at_loader {
    const struct at_data *d;
    struct at_loader_options o;
    struct at_rng rng;
    struct at_cursor at;        /* of the producer                            */
    struct at_batch *batch;     /* [ring]                                     */
    size_t ring;                /* held by the caller + AHEAD                 */
    int32_t *ids;               /* [length+1] a document's piece              */
    uint8_t *roles;
    char *memory;
    struct at_ctx cx;           /* of the producer                            */
    int rc;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint64_t made, taken;       /* batches since the last seek                */
    bool running, quit, busy, paused;
};

static uint64_t document(const struct at_loader *l, uint64_t epoch,
                         uint64_t index)
{
    uint64_t g = l->d->group, n = l->d->n_split[l->o.split] / g;
    uint64_t i = l->o.shuffle ? at_rng_permute(&l->rng, epoch, index / g, n)
                              : index / g;
    return l->d->doc[l->o.split][i * g + index % g];
}

static uint64_t length_of(const struct at_data *d, uint64_t doc)
{
    return d->offset[doc + 1] - d->offset[doc];
}

/* Positions of a document.                                                   */
static size_t positions(const struct at_data *d, bool ends, uint64_t doc)
{
    return length_of(d, doc) - (ends ? 0 : 1);
}

/* Positions of the documents of the group that begins with `doc`.            */
static size_t group_length(const struct at_data *d, bool ends, uint64_t doc)
{
    return d->offset[doc + d->group] - d->offset[doc] - (ends ? 0 : d->group);
}

/* Positions of the next piece that starts at c, given `room` in the row; 0:
 * it belongs to the next row.  Groups that stay together lie in one row.     */
static size_t piece(const struct at_loader *l, struct at_cursor c, size_t room,
                    uint64_t *doc)
{
    size_t left;
    *doc = document(l, c.epoch, c.index);
    left = positions(l->d, l->o.ends, *doc) - c.offset;
    if (l->o.groups && l->o.packing == AT_PACK_DOCS &&
        c.index % l->d->group == 0 && group_length(l->d, l->o.ends, *doc) > room)
        return 0;
    if (left <= room)
        return left;
    if (l->o.packing == AT_PACK_STREAM || room == l->o.length)
        return room;
    return 0;
}

/* Moves c behind m positions of its document; true at the end of the epoch.  */
static bool advance(const struct at_loader *l, struct at_cursor *c,
                    uint64_t doc, size_t m)
{
    c->offset += m;
    if (c->offset < positions(l->d, l->o.ends, doc))
        return false;
    c->offset = 0;
    if (++c->index < l->d->n_split[l->o.split])
        return false;
    c->index = 0;
    c->epoch++;
    return true;
}

static int copy_piece(struct at_loader *l, struct at_batch *b, size_t at,
                      uint64_t doc, uint64_t offset, size_t m)
{
    size_t left = length_of(l->d, doc) - offset, n = m < left ? m + 1 : m;
    int rc = at_data_read(&l->cx, l->d, l->d->offset[doc] + offset, n,
                          l->ids, l->roles);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < m; i++) {
        bool t = i + 1 < n && at_role_trained(l->roles[i + 1], l->o.all_roles);
        b->ids[at + i] = l->ids[i];
        b->targets[at + i] = t ? l->ids[i + 1] : -1;
        b->pos[at + i] = (int32_t)i;
        b->first[at + i] = (int32_t)at;
        b->doc[at + i] = (int64_t)doc;
        b->n_targets += t ? 1 : 0;
    }
    b->n_tokens += m;
    return AT_OK;
}

static void blank(struct at_batch *b)
{
    for (size_t i = 0; i < b->rows * b->length; i++) {
        b->ids[i] = 0;
        b->targets[i] = -1;
        b->pos[i] = 0;
        b->first[i] = (int32_t)i;
        b->doc[i] = -1;
    }
    b->n_tokens = b->n_targets = 0;
    b->last = false;
}

/* One row at index `at`; true at the end of the epoch.                       */
static int fill_row(struct at_loader *l, struct at_batch *b, size_t at,
                    bool *ended)
{
    size_t used = 0, m;
    uint64_t doc;
    *ended = false;
    while (used < b->length &&
           (m = piece(l, l->at, b->length - used, &doc)) > 0) {
        int rc = copy_piece(l, b, at + used, doc, l->at.offset, m);
        if (rc < 0)
            return rc;
        used += m;
        if (advance(l, &l->at, doc, m)) {
            *ended = true;
            break;
        }
        if (l->o.packing == AT_PACK_NONE)
            break;
    }
    return AT_OK;
}

/* A cursor may come from a checkpoint of a run on other data.                */
static int check_cursor(struct at_loader *l)
{
    struct at_cursor c = l->at;
    uint64_t n = l->d->n_split[l->o.split];
    if (c.index < n &&
        c.offset < positions(l->d, l->o.ends, document(l, c.epoch, c.index)))
        return AT_OK;
    return at_fail(&l->cx, AT_EINVAL, "%s: has no place to go on from at "
                   "document %llu, token %llu of epoch %llu: it is not the "
                   "data that the run was begun with", at_h5_path(l->d->f),
                   (unsigned long long)c.index, (unsigned long long)c.offset,
                   (unsigned long long)c.epoch);
}

static int make(struct at_loader *l, struct at_batch *b)
{
    bool ended = false;
    int rc = check_cursor(l);
    if (rc < 0)
        return rc;
    blank(b);
    b->from = l->at;
    for (size_t r = 0; r < b->rows && rc == AT_OK; r++) {
        rc = fill_row(l, b, r * b->length, &ended);
        if (ended && l->o.once)
            break;
    }
    b->to = l->at;
    b->last = l->o.once && ended;
    return rc;
}

/* A single pass has been made to its end.                                    */
static bool over(const struct at_loader *l)
{
    return l->made > 0 && l->batch[(l->made - 1) % l->ring].last;
}

static void *work(void *self)
{
    struct at_loader *l = self;
    pthread_mutex_lock(&l->lock);
    while (!l->quit) {
        struct at_batch *b = &l->batch[l->made % l->ring];
        int rc;
        /* The caller may still read the last o.hold it has taken.            */
        if (l->paused || l->rc < 0 || l->made >= l->taken + AHEAD || over(l)) {
            pthread_cond_wait(&l->moved, &l->lock);
            continue;
        }
        l->busy = true;
        pthread_mutex_unlock(&l->lock);
        rc = make(l, b);
        pthread_mutex_lock(&l->lock);
        l->busy = false;
        l->rc = rc;
        l->made += rc == AT_OK;
        pthread_cond_broadcast(&l->moved);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static size_t ring_of(const struct at_loader_options *o)
{
    return (o->hold ? o->hold : 1) + AHEAD;
}

size_t at_loader_bytes(const struct at_loader_options *o)
{
    size_t N = o->rows * o->length;
    return ring_of(o) * N * (4 * sizeof(int32_t) + sizeof(int64_t)) +
           (o->length + 1) * (sizeof(int32_t) + 1);
}

static void place(struct at_loader *l)
{
    size_t N = l->o.rows * l->o.length;
    char *p = l->memory;
    for (size_t i = 0; i < l->ring; i++) {
        struct at_batch *b = &l->batch[i];
        b->rows = l->o.rows;
        b->length = l->o.length;
        b->doc = (int64_t *)(void *)p;
        b->ids = (int32_t *)(void *)(p + N * sizeof *b->doc);
        b->targets = b->ids + N;
        b->pos = b->targets + N;
        b->first = b->pos + N;
        p = (char *)(b->first + N);
    }
    l->ids = (int32_t *)(void *)p;
    l->roles = (uint8_t *)(l->ids + l->o.length + 1);
}

static size_t longest_group(const struct at_data *d, bool ends)
{
    size_t most = 0;
    for (uint64_t i = 0; i < d->n_docs; i += d->group)
        if (group_length(d, ends, i) > most)
            most = group_length(d, ends, i);
    return most;
}

static int check_options(struct at_ctx *cx, const struct at_data *d,
                         const struct at_loader_options *o)
{
    static const char *const names[] = { "training", "validation" };
    const char *path = at_h5_path(d->f);
    if (o->rows < 1 || o->length < 1 || o->length > INT32_MAX / o->rows)
        return at_fail(cx, AT_EINVAL, "a batch of %zu rows of %zu tokens is "
                       "empty or too large", o->rows, o->length);
    if (d->n_split[o->split] == 0)
        return at_fail(cx, AT_EINVAL, "%s: has no %s documents", path,
                       names[o->split]);
    if (o->groups && o->packing == AT_PACK_DOCS &&
        longest_group(d, o->ends) > o->length)
        return at_fail(cx, AT_EINVAL, "%s: documents that belong together need "
                       "a row of up to %llu tokens, and a row has %zu.  Make "
                       "the dataset with --max-length %zu or, if the model has "
                       "room for it, raise batch.length", path,
                       (unsigned long long)longest_group(d, o->ends), o->length,
                       (o->length + (o->ends ? 0 : d->group)) / d->group);
    if (o->groups && (o->packing == AT_PACK_STREAM ||
                      (o->packing == AT_PACK_NONE && o->rows % d->group)))
        return at_fail(cx, AT_EINVAL, "%s: batches of %zu rows would part the "
                       "%zu documents that belong together", path, o->rows,
                       d->group);
    if (d->pairs && !o->all_roles &&
        (o->packing == AT_PACK_STREAM ||
         d->longest - (o->ends ? 0 : 1) > o->length))
        return at_fail(cx, AT_EINVAL, "%s: holds prompts and completions, and "
                       "the longest needs a row of %llu tokens; rows of %zu%s "
                       "would part them", path,
                       (unsigned long long)(d->longest - (o->ends ? 0 : 1)),
                       o->length,
                       o->packing == AT_PACK_STREAM ? " without gaps" : "");
    return AT_OK;
}

static int start_thread(struct at_ctx *cx, struct at_loader *l)
{
    int err = pthread_create(&l->thread, NULL, work, l);
    if (err)
        return at_fail_errno(cx, err, "the loader's thread cannot be started");
    l->running = true;
    return AT_OK;
}

int at_loader_create(struct at_ctx *cx, const struct at_data *d,
                     const struct at_loader_options *o, struct at_loader **made)
{
    struct at_arena a = { 0 };
    struct at_loader *l;
    int rc = check_options(cx, d, o);
    if (rc < 0)
        return rc;
    l = at_alloc(cx, &a, sizeof *l);
    if (!l)
        return AT_ENOMEM;
    at_ctx_init(&l->cx);
    l->d = d;
    l->o = *o;
    l->rng = (struct at_rng){ o->seed, AT_RNG_SHUFFLE, o->split };
    l->ring = ring_of(o);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->moved, NULL);
    l->batch = at_alloc_n(cx, &a, l->ring, sizeof *l->batch);
    l->cx.run = a;
    l->memory = l->batch ? at_map(cx, at_loader_bytes(o), "the batches") : NULL;
    rc = l->memory ? AT_OK : AT_ENOMEM;
    if (rc == AT_OK) {
        place(l);
        rc = o->serial ? AT_OK : start_thread(cx, l);
    }
    if (rc < 0) {
        at_loader_destroy(l);
        return rc;
    }
    *made = l;
    return AT_OK;
}

void at_loader_destroy(struct at_loader *l)
{
    struct at_ctx cx;
    if (!l)
        return;
    if (l->running) {
        pthread_mutex_lock(&l->lock);
        l->quit = true;
        pthread_cond_broadcast(&l->moved);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->thread, NULL);
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->moved);
    at_unmap(l->memory, at_loader_bytes(&l->o));
    cx = l->cx;                 /* l itself lies in its arena                 */
    at_ctx_finish(&cx);
}

void at_loader_seek(struct at_loader *l, struct at_cursor to)
{
    pthread_mutex_lock(&l->lock);
    l->paused = true;
    while (l->busy)
        pthread_cond_wait(&l->moved, &l->lock);
    l->made = l->taken = 0;
    for (size_t i = 0; i < l->ring; i++)
        l->batch[i].last = false;
    l->at = to;
    l->rc = AT_OK;
    l->paused = false;
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
}

/* The producer stops at its first failure, which comes out when the batches
 * before it have been taken.                                                 */
int at_loader_next(struct at_ctx *cx, struct at_loader *l,
                   const struct at_batch **b)
{
    int rc = AT_OK;
    pthread_mutex_lock(&l->lock);
    if (!l->running && l->rc == AT_OK && !over(l)) {
        l->rc = make(l, &l->batch[l->made % l->ring]);
        l->made += l->rc == AT_OK;
    }
    while (l->made == l->taken && l->rc == AT_OK && !over(l))
        pthread_cond_wait(&l->moved, &l->lock);
    if (l->made > l->taken)
        *b = &l->batch[l->taken++ % l->ring];
    else if (l->rc < 0)
        rc = at_fail(cx, l->rc, "%s", l->cx.err.msg);
    else
        rc = at_fail(cx, AT_EINVAL, "the single pass over the data is over");
    pthread_cond_broadcast(&l->moved);
    pthread_mutex_unlock(&l->lock);
    return rc;
}

uint64_t at_loader_rows(const struct at_loader *l, uint64_t epoch)
{
    struct at_cursor c = { epoch, 0, 0 };
    uint64_t rows = 0, doc;
    while (c.epoch == epoch) {
        size_t used = 0, m;
        bool ended = false;
        while (!ended && used < l->o.length &&
               (m = piece(l, c, l->o.length - used, &doc)) > 0) {
            used += m;
            ended = advance(l, &c, doc, m);
            if (l->o.packing == AT_PACK_NONE)
                break;
        }
        rows++;
    }
    return rows;
}
