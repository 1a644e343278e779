/* Memory by lifetime.  An arena is a chain of blocks:
 *
 *   first -> [header | used ..... | free ..] -> [header | ....] -> NULL
 *                                   ^ cur
 *
 * Every allocation is 64-byte aligned and zeroed.  Reset rewinds to the first
 * block and poisons all of them under ASan.                                  */
#include "base/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define AT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define AT_ASAN 1
#endif
#endif

#ifdef AT_ASAN
#include <sanitizer/asan_interface.h>
static void hide(const void *p, size_t n) { __asan_poison_memory_region(p, n); }
static void show(const void *p, size_t n) { __asan_unpoison_memory_region(p, n); }
#else
static void hide(const void *p, size_t n) { (void)p; (void)n; }
static void show(const void *p, size_t n) { (void)p; (void)n; }
#endif

enum { ALIGN = 64, BLOCK = 64 << 10, PAGE = 4096 };

struct at_block {
    struct at_block *next;
    size_t cap, used;       /* bytes after the header                        */
    char pad[ALIGN - 2 * sizeof(size_t) - sizeof(struct at_block *)];
};
_Static_assert(sizeof(struct at_block) == ALIGN, "header keeps alignment");

static bool must_fail(struct at_ctx *cx)
{
    return cx->fail_after > 0 && --cx->fail_after == 0;
}

static struct at_block *block_create(struct at_ctx *cx, size_t n)
{
    size_t cap = n > BLOCK ? n : BLOCK;
    struct at_block *b;
    if (must_fail(cx) || cap > SIZE_MAX - 2 * sizeof *b)
        return NULL;
    b = aligned_alloc(ALIGN, sizeof *b + cap);
    if (!b)
        return NULL;
    *b = (struct at_block){ .cap = cap };
    hide(b + 1, cap);
    return b;
}

void *at_alloc(struct at_ctx *cx, struct at_arena *a, size_t n)
{
    size_t need = (n + ALIGN - 1) / ALIGN * ALIGN;
    struct at_block *b = a->cur;
    char *p;

    if (need < n)
        goto none;
    if (need == 0)
        need = ALIGN;
    while (b && b->cap - b->used < need && b->next)
        b = b->next;                    /* blocks kept by a reset            */
    if (!b || b->cap - b->used < need) {
        struct at_block *fresh = block_create(cx, need);
        if (!fresh)
            goto none;
        if (b)
            b->next = fresh;
        else
            a->first = fresh;
        a->held_bytes += fresh->cap;
        b = fresh;
    }
    a->cur = b;
    p = (char *)(b + 1) + b->used;
    b->used += need;
    a->used_bytes += need;
    show(p, n);
    memset(p, 0, n);
    return p;
none:
    at_fail(cx, AT_ENOMEM, "out of memory: %zu bytes could not be had", n);
    return NULL;
}

void *at_alloc_n(struct at_ctx *cx, struct at_arena *a, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size) {
        at_fail(cx, AT_ENOMEM, "out of memory: %zu x %zu bytes overflow", n,
                size);
        return NULL;
    }
    return at_alloc(cx, a, n * size);
}

char *at_strndup(struct at_ctx *cx, struct at_arena *a, const char *s, size_t n)
{
    char *p = at_alloc(cx, a, n + 1);
    if (p)
        memcpy(p, s, n);
    return p;
}

char *at_strdup(struct at_ctx *cx, struct at_arena *a, const char *s)
{
    return at_strndup(cx, a, s, strlen(s));
}

char *at_sprintf(struct at_ctx *cx, struct at_arena *a, const char *fmt, ...)
{
    va_list ap, again;
    char *p;
    int n;
    va_start(ap, fmt);
    va_copy(again, ap);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    p = n < 0 ? NULL : at_alloc(cx, a, (size_t)n + 1);
    if (p)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

void at_arena_reset(struct at_arena *a)
{
    for (struct at_block *b = a->first; b; b = b->next) {
        b->used = 0;
        hide(b + 1, b->cap);    /* a pointer kept from before now traps      */
    }
    a->cur = a->first;
    a->used_bytes = 0;
}

void at_arena_finish(struct at_arena *a)
{
    struct at_block *b = a->first;
    while (b) {
        struct at_block *next = b->next;
        show(b + 1, b->cap);
        free(b);
        b = next;
    }
    *a = (struct at_arena){ 0 };
}

void *at_reserve(struct at_ctx *cx, size_t n_bytes, const char *what)
{
    char text[32];
    void *p = MAP_FAILED;
    size_t n = n_bytes ? n_bytes : 1;
    if (!must_fail(cx))
        p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                 -1, 0);
    if (p == MAP_FAILED) {
        at_fail(cx, AT_ENOMEM, "%s: %s of memory could not be had", what,
                at_bytes_text(text, (double)n_bytes));
        return NULL;
    }
    madvise(p, n, MADV_HUGEPAGE);
    return p;
}

void *at_map(struct at_ctx *cx, size_t n_bytes, const char *what)
{
    void *p = at_reserve(cx, n_bytes, what);
    size_t n = n_bytes ? n_bytes : 1;
    if (!p)
        return NULL;
    for (size_t i = 0; i < n; i += PAGE)
        ((volatile char *)p)[i] = 0;
    return p;
}

void at_unmap(void *p, size_t n_bytes)
{
    if (p)
        munmap(p, n_bytes ? n_bytes : 1);
}

int at_grow(struct at_ctx *cx, void *p, size_t *cap, size_t need, size_t size)
{
    void **slot = p;
    size_t n = *cap ? *cap : 16;
    void *more;
    if (need <= *cap)
        return AT_OK;
    while (n < need)
        n = n > SIZE_MAX / 2 ? need : 2 * n;
    if (must_fail(cx) || n > SIZE_MAX / size)
        more = NULL;
    else
        more = realloc(*slot, n * size);
    if (!more)
        return at_fail(cx, AT_ENOMEM, "out of memory: %zu x %zu bytes", n,
                       size);
    *slot = more;
    *cap = n;
    return AT_OK;
}

void at_free(void *p)
{
    free(p);
}

void at_ctx_init(struct at_ctx *cx)
{
    *cx = (struct at_ctx){ 0 };
}

void at_ctx_finish(struct at_ctx *cx)
{
    at_arena_finish(&cx->scratch);
    at_arena_finish(&cx->plan);
    at_arena_finish(&cx->run);
}
