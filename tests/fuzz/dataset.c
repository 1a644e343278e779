/* Fuzzes opening files.  The first byte says how the rest is taken:
 *   0  a whole file;
 *   1  a manifest: what parses must print to what parses to the same;
 *   2  the arrays of a dataset, in a whole file: what opens must be readable,
 *      showable, and make batches whose ids are in range.                    */
#define _GNU_SOURCE
#include "data/data.h"
#include "data/h5_list.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* HDF5 1.10 loses the header of an object whose checksum is wrong.           */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5\nleak:H5FL_\nleak:H5MM_";
}

static void require(bool ok, const char *what, const struct at_ctx *cx)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, cx->err.msg);
    abort();
}

static void whole_file(struct at_ctx *cx, const uint8_t *data, size_t n)
{
    char path[64];
    struct at_h5 *f;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, n) == (ssize_t)n, "memfd", cx);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (at_h5_open(cx, path, NULL, &f) == AT_OK) {
        int rc = at_h5_verify(cx, f, NULL);
        require(rc == AT_OK || rc == AT_EFORMAT, "verify", cx);
        at_h5_close(f);
    }
    close(fd);
}

static void manifest(struct at_ctx *cx, const uint8_t *data, size_t n)
{
    struct at_text t = { 0 }, u = { 0 };
    struct at_h5_list l, again;
    char *s = at_strndup(cx, &cx->run, n ? (const char *)data : "", n);
    if (at_h5_list_parse(cx, &cx->run, "f", s, n, &l) < 0)
        return;
    require(at_h5_list_print(cx, &l, &t) == AT_OK, "print", cx);
    require(at_h5_list_parse(cx, &cx->run, "f", t.s, t.n, &again) == AT_OK,
            "what was printed", cx);
    require(at_h5_list_print(cx, &again, &u) == AT_OK, "print", cx);
    require(t.n == u.n && memcmp(t.s, u.s, t.n) == 0 && l.n == again.n,
            "printing changed it", cx);
    at_text_finish(&t);
    at_text_finish(&u);
    at_h5_list_finish(&l);
    at_h5_list_finish(&again);
}

/* ---- a dataset -------------------------------------------------------------- */

static int one_text(struct at_ctx *cx, void *self, const char **text, size_t *n)
{
    int *done = self;
    (void)cx;
    *text = (*done)++ ? NULL : "a b";
    *n = 3;
    return AT_OK;
}

static struct at_tok *tokenizer(struct at_ctx *cx)
{
    static const char *const special[] = { "<s>", "</s>" };
    struct at_tok_training how = { .vocab_size = 258, .special = special,
                                   .n_special = 2, .bos = 0, .eos = 1,
                                   .pad = AT_TOK_NONE, .min_count = 2 };
    struct at_tok *tok = NULL;
    int done = 0;
    require(at_tok_train(cx, &cx->run, one_text, &done, &how, &tok) == AT_OK,
            "train", cx);
    return tok;
}

/* Takes a length byte and so many elements from the input.                   */
static void put(struct at_ctx *cx, struct at_h5 *f, const char *name,
                enum at_h5_type type, const uint8_t **p, const uint8_t *end)
{
    size_t size = at_h5_size(type), n = *p < end ? *(*p)++ : 0;
    char *v;
    if (n * size > (size_t)(end - *p))
        n = (size_t)(end - *p) / size;
    v = at_alloc(cx, &cx->run, n * size);
    if (n)
        memcpy(v, *p, n * size);
    *p += n * size;
    require(at_h5_put(cx, f, name, type, 1, &n, v) == AT_OK, "put", cx);
}

static void write_dataset(struct at_ctx *cx, const char *path,
                          const uint8_t *p, const uint8_t *end)
{
    size_t n;
    const void *blob = at_tok_save(tokenizer(cx), &n);
    struct at_h5 *f;
    require(at_h5_create(cx, path, "dataset", &f) == AT_OK, "create", cx);
    require(at_h5_put_bytes(cx, f, "tokenizer", blob, n) == AT_OK, "put", cx);
    require(at_h5_set_int(cx, f, "pairs", p < end && *p & 1) == AT_OK, "set",
            cx);
    put(cx, f, "offsets", AT_H5_U64, &p, end);
    put(cx, f, "split", AT_H5_U8, &p, end);
    put(cx, f, "source", AT_H5_U32, &p, end);
    put(cx, f, "line", AT_H5_U64, &p, end);
    put(cx, f, "roles", AT_H5_U8, &p, end);
    put(cx, f, "tokens", AT_H5_U16, &p, end);
    require(at_h5_set_text(cx, f, "template", "{text}") == AT_OK, "set", cx);
    {
        char *s = at_strndup(cx, &cx->run, (const char *)p, (size_t)(end - p));
        require(at_h5_set_text(cx, f, "sources", s) == AT_OK, "set", cx);
    }
    require(at_h5_commit(cx, f) == AT_OK, "commit", cx);
}

static void batches(struct at_ctx *cx, const struct at_data *d, int packing)
{
    struct at_loader_options o = {
        .split = d->n_split[AT_TRAIN] ? AT_TRAIN : AT_VALIDATION, .rows = 2,
        .packing = (enum at_packing)packing, .length = 5, .once = true,
        .shuffle = true, .serial = true, .all_roles = true,
    };
    const struct at_batch *b;
    struct at_loader *l;
    require(at_loader_create(cx, d, &o, &l) == AT_OK, "loader", cx);
    do {
        require(at_loader_next(cx, l, &b) == AT_OK, "next", cx);
        for (size_t i = 0; i < 10; i++)
            require(b->ids[i] >= 0 && b->ids[i] < 258 && b->targets[i] < 258 &&
                    b->targets[i] >= -1 && b->first[i] >= 0 &&
                    b->first[i] <= (int32_t)i, "batch", cx);
    } while (!b->last);
    at_loader_destroy(l);
}

static void dataset(struct at_ctx *cx, const uint8_t *data, size_t n)
{
    char path[64];
    struct at_data *d;
    snprintf(path, sizeof path, "%s/attune-fuzz-%ld.h5",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
             (long)getpid());
    write_dataset(cx, path, data, data + n);
    if (at_data_open(cx, &cx->run, path, &d) == AT_OK) {
        struct at_text t = { 0 };
        for (uint64_t i = 0; i < d->n_docs; i++) {
            int rc = at_data_show(cx, d, i, i & 1, false, &t);
            require(rc == AT_OK || rc == AT_EFORMAT, "show", cx);
        }
        at_text_finish(&t);
        for (int packing = 0; packing < 3; packing++)
            batches(cx, d, packing);
        at_data_close(d);
    } else {
        require(cx->err.code == AT_EFORMAT, "a failure", cx);
    }
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct at_ctx cx;
    at_ctx_init(&cx);
    cx.n_threads = 1;
    if (n == 0)
        return 0;
    switch (data[0] % 3) {
    case 0: whole_file(&cx, data + 1, n - 1); break;
    case 1: manifest(&cx, data + 1, n - 1); break;
    case 2: dataset(&cx, data + 1, n - 1); break;
    }
    at_ctx_finish(&cx);
    return 0;
}
