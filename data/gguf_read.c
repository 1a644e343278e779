/* Reading GGUF: the head once, tensors as they are asked for. */
#include "data/gguf_types.h"
#include "data/numbers.h"
#include "data/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BUFFER = 64 << 10, PIECE = 1 << 14,
    KEY_MAX = 1 << 10, TEXT_MAX = 16 << 20, HEAD_MAX = 512 << 20,
    FACTS_MAX = 1 << 16, TENSORS_MAX = 1 << 20, LIST_MAX = 1 << 24,
};

struct at_gguf {
    const char *path;
    struct at_arena *arena;
    int fd;
    uint64_t size;              /* of the file                                */
    struct at_gguf_fact *fact;
    size_t n_facts;
    struct at_gguf_tensor *t;
    const struct at_gguf_tensor **by_name;
    size_t n;
};

struct head {                   /* bytes of the head, one after another       */
    struct at_ctx *cx;
    struct at_gguf *g;
    uint64_t at;                /* in the file: of buf's first byte           */
    unsigned char buf[BUFFER];
    size_t from, to;
    int rc;                     /* the first failure; then all reads are 0    */
};

/* ---- bytes ----------------------------------------------------------------------- */

static int read_at(struct at_ctx *cx, const struct at_gguf *g, uint64_t at,
                   void *bytes, size_t n)
{
    char *p = bytes;
    while (n > 0) {
        ssize_t k = pread(g->fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return at_fail_errno(cx, errno, "%s: cannot be read", g->path);
        if (k == 0)
            return at_fail(cx, AT_EFORMAT, "%s: the file is cut short",
                           g->path);
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return AT_OK;
}

static int broken(struct head *h, const char *what)
{
    if (h->rc == AT_OK)
        h->rc = at_fail(h->cx, AT_EFORMAT, "%s: byte %llu: %s", h->g->path,
                        (unsigned long long)(h->at + h->from), what);
    return h->rc;
}

/* The next n bytes, which the file has: n is checked against its size.       */
static void take(struct head *h, void *bytes, size_t n)
{
    char *p = bytes;
    memset(bytes, 0, n);
    if (h->rc == AT_OK && n > h->g->size - (h->at + h->from))
        broken(h, "the file is cut short");
    while (n > 0 && h->rc == AT_OK) {
        size_t k = h->to - h->from < n ? h->to - h->from : n;
        memcpy(p, h->buf + h->from, k);
        p += k;
        n -= k;
        h->from += k;
        if (n > 0) {
            uint64_t left;
            h->at += h->to;
            left = h->g->size - h->at;
            h->from = 0;
            h->to = left < BUFFER ? (size_t)left : BUFFER;
            h->rc = read_at(h->cx, h->g, h->at, h->buf, h->to);
        }
    }
    if (h->rc == AT_OK && h->at + h->from > HEAD_MAX)
        broken(h, "the head has more than 512 MiB");
}

static uint64_t number(struct head *h, size_t n)
{
    unsigned char b[8];
    uint64_t x = 0;
    take(h, b, n);
    for (size_t i = 0; i < n; i++)
        x |= (uint64_t)b[i] << 8 * i;
    return x;
}

static struct at_gguf_str string(struct head *h, size_t most)
{
    uint64_t n = number(h, 8);
    char *s;
    if (h->rc == AT_OK && n > most)
        broken(h, "a text is longer than any should be");
    if (h->rc == AT_OK && n > h->g->size - (h->at + h->from))
        broken(h, "the file is cut short");
    if (h->rc < 0)
        return (struct at_gguf_str){ "", 0 };
    s = at_alloc(h->cx, h->g->arena, (size_t)n + 1);
    if (!s) {
        h->rc = AT_ENOMEM;
        return (struct at_gguf_str){ "", 0 };
    }
    take(h, s, (size_t)n);
    return (struct at_gguf_str){ s, (size_t)n };
}

/* A key or a name: no NUL within, not empty.                                 */
static const char *word(struct head *h)
{
    struct at_gguf_str s = string(h, KEY_MAX);
    if (h->rc == AT_OK && (s.n == 0 || strlen(s.s) != s.n))
        broken(h, "a name is empty or has a NUL");
    return s.s;
}

/* ---- facts ------------------------------------------------------------------------ */

static const size_t code_bytes[GGUF_CODES] = {
    [GGUF_U8] = 1, [GGUF_I8] = 1, [GGUF_U16] = 2, [GGUF_I16] = 2,
    [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

static double value(struct head *h, uint32_t code)
{
    uint64_t u = number(h, code_bytes[code]);
    float f;
    double x;
    switch (code) {
    case GGUF_I8: return (int8_t)u;
    case GGUF_I16: return (int16_t)u;
    case GGUF_I32: return (int32_t)u;
    case GGUF_I64: return (double)(int64_t)u;
    case GGUF_F32: {
        uint32_t low = (uint32_t)u;
        memcpy(&f, &low, sizeof f);
        return (double)f;
    }
    case GGUF_F64: memcpy(&x, &u, sizeof x); return x;
    default: return (double)u;
    }
}

/* Every element takes bytes of the file, so n is bounded by its size.        */
static void read_list(struct head *h, struct at_gguf_fact *f)
{
    uint32_t code = (uint32_t)number(h, 4);
    uint64_t n = number(h, 8);
    size_t least = code == GGUF_STRING ? 8 : code < GGUF_CODES
                                                 ? code_bytes[code] : 0;
    struct at_gguf_str *texts;
    double *numbers;
    if (h->rc == AT_OK && least == 0)
        broken(h, "a list is of no type that lists may have");
    if (h->rc == AT_OK && n > LIST_MAX)
        broken(h, "a list has more than 16 million entries");
    if (h->rc == AT_OK && n > (h->g->size - (h->at + h->from)) / least)
        broken(h, "a list is longer than the file");
    if (h->rc < 0)
        return;
    f->n = (size_t)n;
    if (code == GGUF_STRING) {
        f->kind = AT_GGUF_TEXTS;
        f->texts = texts = at_alloc_n(h->cx, h->g->arena, f->n + 1,
                                      sizeof *texts);
        for (size_t i = 0; texts && i < f->n && h->rc == AT_OK; i++)
            texts[i] = string(h, TEXT_MAX);
        h->rc = texts ? h->rc : AT_ENOMEM;
        return;
    }
    f->kind = AT_GGUF_NUMBERS;
    f->numbers = numbers = at_alloc_n(h->cx, h->g->arena, f->n + 1,
                                      sizeof *numbers);
    for (size_t i = 0; numbers && i < f->n && h->rc == AT_OK; i++)
        numbers[i] = value(h, code);
    h->rc = numbers ? h->rc : AT_ENOMEM;
}

static void read_fact(struct head *h, struct at_gguf_fact *f)
{
    uint32_t code;
    f->key = word(h);
    code = (uint32_t)number(h, 4);
    if (h->rc < 0)
        return;
    if (code == GGUF_STRING) {
        f->kind = AT_GGUF_TEXT;
        f->text = string(h, TEXT_MAX);
    } else if (code == GGUF_ARRAY) {
        read_list(h, f);
    } else if (code < GGUF_CODES) {
        f->kind = AT_GGUF_NUMBER;
        f->x = value(h, code);
    } else {
        broken(h, "a fact is of an unknown type");
    }
}

/* ---- tensors ----------------------------------------------------------------------- */

static void read_tensor(struct head *h, struct at_gguf_tensor *t)
{
    uint64_t most = UINT64_C(1) << 48;
    t->name = word(h);
    t->n_dims = (size_t)number(h, 4);
    t->n = 1;
    if (h->rc == AT_OK && (t->n_dims < 1 || t->n_dims > AT_GGUF_DIMS))
        broken(h, "a tensor has no sizes, or more than 4");
    for (size_t i = 0; i < t->n_dims && h->rc == AT_OK; i++) {
        uint64_t d = number(h, 8);
        if (d < 1 || d > most / t->n)
            broken(h, "a tensor is empty or larger than any should be");
        if (h->rc < 0)
            return;
        t->d[t->n_dims - 1 - i] = (size_t)d;
        t->n *= (size_t)d;
    }
    t->code = (uint32_t)number(h, 4);
    t->offset = number(h, 8);
    t->type = AT_GGUF_OTHER;
    for (int i = 0; i < AT_GGUF_OTHER; i++)
        if (t->code == gguf_types[i].code)
            t->type = (enum at_gguf_type)i;
}

static int by_place(const void *a, const void *b)
{
    const struct at_gguf_tensor *x = *(const struct at_gguf_tensor *const *)a;
    const struct at_gguf_tensor *y = *(const struct at_gguf_tensor *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static int by_name(const void *a, const void *b)
{
    const struct at_gguf_tensor *x = *(const struct at_gguf_tensor *const *)a;
    const struct at_gguf_tensor *y = *(const struct at_gguf_tensor *const *)b;
    return strcmp(x->name, y->name);
}

/* Within the file and apart from each other, as far as the types are known.  */
static int place_tensors(struct at_ctx *cx, struct at_gguf *g, uint64_t data,
                         uint64_t align)
{
    uint64_t end = data;
    for (size_t i = 0; i < g->n; i++) {
        struct at_gguf_tensor *t = &g->t[i];
        const struct gguf_type *k = &gguf_types[t->type];
        g->by_name[i] = t;
        if (t->type == AT_GGUF_OTHER)
            continue;
        t->n_bytes = (uint64_t)(t->n / k->block) * k->bytes;
        if (t->d[t->n_dims - 1] % k->block || t->offset % align ||
            t->offset > g->size - data ||
            t->n_bytes > g->size - data - t->offset)
            return at_fail(cx, AT_EFORMAT, "%s: tensor '%s' does not lie in the "
                           "file: is it cut short?", g->path, t->name);
        t->offset += data;
    }
    qsort(g->by_name, g->n, sizeof *g->by_name, by_place);
    for (size_t i = 0; i < g->n; i++) {
        const struct at_gguf_tensor *t = g->by_name[i];
        if (t->type == AT_GGUF_OTHER)
            continue;
        if (t->offset < end)
            return at_fail(cx, AT_EFORMAT, "%s: tensor '%s' lies over another",
                           g->path, t->name);
        end = t->offset + t->n_bytes;
    }
    qsort(g->by_name, g->n, sizeof *g->by_name, by_name);
    return AT_OK;
}

/* ---- opening ------------------------------------------------------------------------- */

static int refuse_twice(struct at_ctx *cx, struct at_numbers *seen,
                        const struct at_gguf *g, const char *name)
{
    uint64_t id;
    bool fresh;
    int rc = at_number(cx, seen, at_hash(name, strlen(name)), &id, &fresh);
    if (rc == AT_OK && !fresh)
        rc = at_fail(cx, AT_EFORMAT, "%s: '%.100s' is there twice", g->path,
                     name);
    return rc;
}

static int check_names(struct at_ctx *cx, const struct at_gguf *g)
{
    struct at_numbers keys = { 0 }, names = { 0 };
    int rc = AT_OK;
    for (size_t i = 0; i < g->n_facts && rc == AT_OK; i++)
        rc = refuse_twice(cx, &keys, g, g->fact[i].key);
    for (size_t i = 0; i < g->n && rc == AT_OK; i++)
        rc = refuse_twice(cx, &names, g, g->t[i].name);
    at_numbers_finish(&keys);
    at_numbers_finish(&names);
    return rc;
}

static int read_counts(struct head *h)
{
    struct at_gguf *g = h->g;
    char magic[4];
    uint64_t version, n, facts;
    take(h, magic, 4);
    if (h->rc < 0 || memcmp(magic, "GGUF", 4) != 0)
        return h->rc < 0 ? h->rc : at_fail(h->cx, AT_EFORMAT, "%s: is not a "
                                           "GGUF file", g->path);
    version = number(h, 4);
    if (h->rc == AT_OK && version != 2 && version != GGUF_VERSION)
        return at_fail(h->cx, AT_EFORMAT, "%s: is GGUF of version %llu; attune "
                       "reads 2 and 3, little-endian", g->path,
                       (unsigned long long)version);
    n = number(h, 8);
    facts = number(h, 8);
    if (h->rc == AT_OK && (n > TENSORS_MAX || facts > FACTS_MAX))
        broken(h, "it counts more tensors or facts than any file has");
    g->n = (size_t)n;
    g->n_facts = (size_t)facts;
    return h->rc;
}

/* Where the tensors begin, which are placed from there.                      */
static int place(struct at_ctx *cx, struct at_gguf *g, uint64_t end)
{
    const struct at_gguf_fact *f = at_gguf_fact(g, "general.alignment");
    double a = f && f->kind == AT_GGUF_NUMBER ? f->x : GGUF_ALIGN;
    uint64_t n, data;
    if (!(a >= 8 && a <= 1 << 20 && fmod(a, 8) == 0))
        return at_fail(cx, AT_EFORMAT, "%s: general.alignment is %g", g->path,
                       a);
    n = (uint64_t)a;
    data = (end + n - 1) / n * n;
    if (g->n > 0 && data > g->size)
        return at_fail(cx, AT_EFORMAT, "%s: the file is cut short", g->path);
    return place_tensors(cx, g, data < g->size ? data : g->size, n);
}

static int read_head(struct at_ctx *cx, struct at_gguf *g)
{
    struct head *h = at_alloc(cx, &cx->scratch, sizeof *h);
    int rc;
    if (!h)
        return AT_ENOMEM;
    h->cx = cx;
    h->g = g;
    rc = read_counts(h);
    if (rc < 0)
        return rc;
    g->fact = at_alloc_n(cx, g->arena, g->n_facts + 1, sizeof *g->fact);
    g->t = at_alloc_n(cx, g->arena, g->n + 1, sizeof *g->t);
    g->by_name = at_alloc_n(cx, g->arena, g->n + 1, sizeof *g->by_name);
    if (!g->fact || !g->t || !g->by_name)
        return AT_ENOMEM;
    for (size_t i = 0; i < g->n_facts && h->rc == AT_OK; i++)
        read_fact(h, &g->fact[i]);
    for (size_t i = 0; i < g->n && h->rc == AT_OK; i++)
        read_tensor(h, &g->t[i]);
    rc = h->rc == AT_OK ? check_names(cx, g) : h->rc;
    return rc == AT_OK ? place(cx, g, h->at + h->from) : rc;
}

int at_gguf_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                 struct at_gguf **made)
{
    struct at_gguf *g = at_alloc(cx, a, sizeof *g);
    struct stat st;
    int rc = AT_OK;
    if (!g)
        return AT_ENOMEM;
    g->arena = a;
    g->path = at_strdup(cx, a, path);
    if (!g->path)
        return AT_ENOMEM;
    g->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (g->fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    if (fstat(g->fd, &st) < 0 || !S_ISREG(st.st_mode))
        rc = at_fail(cx, AT_EINVAL, "%s: is not a file", path);
    else
        g->size = (uint64_t)st.st_size;
    if (rc == AT_OK)
        rc = read_head(cx, g);
    if (rc < 0)
        at_gguf_close(g);
    else
        *made = g;
    return rc;
}

void at_gguf_close(struct at_gguf *g)
{
    if (g && g->fd >= 0) {
        close(g->fd);
        g->fd = -1;
    }
}

/* ---- asking -------------------------------------------------------------------------- */

size_t at_gguf_count(const struct at_gguf *g)
{
    return g->n;
}

const struct at_gguf_tensor *at_gguf_at(const struct at_gguf *g, size_t i)
{
    return &g->t[i];
}

const struct at_gguf_tensor *at_gguf_find(const struct at_gguf *g,
                                          const char *name)
{
    struct at_gguf_tensor want = { .name = name };
    const struct at_gguf_tensor *key = &want;
    const struct at_gguf_tensor **at =
        bsearch(&key, g->by_name, g->n, sizeof *g->by_name, by_name);
    return at ? *at : NULL;
}

const struct at_gguf_fact *at_gguf_fact(const struct at_gguf *g,
                                        const char *key)
{
    for (size_t i = 0; i < g->n_facts; i++)
        if (strcmp(g->fact[i].key, key) == 0)
            return &g->fact[i];
    return NULL;
}

static void unpack(float *x, const unsigned char *p, size_t n,
                   enum at_gguf_type type)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned char *b = p + i * gguf_types[type].bytes;
        uint32_t u;
        if (type == AT_GGUF_Q8_0)
            b = p + i / GGUF_BLOCK * GGUF_BLOCK_BYTES;
        u = (uint32_t)b[0] | (uint32_t)b[1] << 8;
        if (type == AT_GGUF_F32) {
            u |= (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
            memcpy(&x[i], &u, sizeof u);
        } else if (type == AT_GGUF_BF16) {
            x[i] = at_bf16_to_f32((uint16_t)u);
        } else {
            x[i] = at_f16_to_f32((uint16_t)u);
        }
        if (type == AT_GGUF_Q8_0)
            x[i] *= (float)(int8_t)b[2 + i % GGUF_BLOCK];
    }
}

int at_gguf_get(struct at_ctx *cx, const struct at_gguf *g,
                const struct at_gguf_tensor *t, size_t from, size_t n, float *x)
{
    const struct gguf_type *k = &gguf_types[t->type];
    unsigned char bytes[4 * PIECE];
    if (t->type == AT_GGUF_OTHER)
        return at_fail(cx, AT_EINVAL, "%s: tensor '%s' is of GGUF's type %u; "
                       "attune reads F32, F16, BF16 and Q8_0", g->path, t->name,
                       t->code);
    if (from > t->n || n > t->n - from || from % k->block || n % k->block)
        return at_fail(cx, AT_EINVAL, "%s: tensor '%s' has %zu elements; %zu "
                       "from %zu on are asked for", g->path, t->name, t->n, n,
                       from);
    for (size_t m; n > 0; n -= m, from += m, x += m) {
        int rc;
        m = n < PIECE ? n : PIECE;
        rc = read_at(cx, g, t->offset + (uint64_t)(from / k->block) * k->bytes,
                     bytes, m / k->block * k->bytes);
        if (rc < 0)
            return rc;
        unpack(x, bytes, m, t->type);
    }
    return AT_OK;
}
