/* base: what every other folder stands on.  Errors with a place and a trail,
 * memory by lifetime, counter-based random numbers, the thread budget, files
 * that are whole or absent, and the log sink.  Knows nothing of tensors.
 *
 * Conventions for the whole project:
 *   - `struct at_ctx *cx` is the first argument of all that can fail or
 *     allocate; there are no globals;
 *   - a function that can fail returns AT_OK (0) or a negative `enum at_code`;
 *     the message is written where the fault is detected (at_fail), callers
 *     add one line of context on the way up (at_note); only tools/ prints;
 *   - outputs are written only on success; destructors accept NULL;
 *   - memory comes from an arena and is never freed singly.                  */
#ifndef AT_BASE_H
#define AT_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The arithmetic type.  The library is built with float; the gradient checks
 * link a second build of the same sources with AT_REAL64 defined.           */
#ifdef AT_REAL64
typedef double at_real;
#else
typedef float at_real;
#endif

#if defined(__GNUC__)
#define AT_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define AT_PRINTF(f, a)
#endif

#define AT_COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- errors ----------------------------------------------------------- */

enum at_code {
    AT_OK = 0,
    AT_ENOMEM = -1,     /* memory could not be had                          */
    AT_EINVAL = -2,     /* the request is wrong (recipe, argument)          */
    AT_ESHAPE = -3,     /* shapes do not fit                                */
    AT_EIO = -4,        /* the operating system refused                     */
    AT_EFORMAT = -5,    /* a file is not what it should be, or is damaged   */
    AT_ENOENT = -6,     /* no such file or name                             */
    AT_EMISSING = -7,   /* the backend has no such kernel                   */
    AT_ENONFINITE = -8, /* a loss or gradient is not finite                 */
    AT_EINTR = -9,      /* asked to stop; what had to be saved is saved     */
    AT_EFROZEN = -10,   /* nothing below the loss is trained                */
};

/* A place in a text file; file NULL: no place; line, col from 1, 0: none.   */
struct at_src {
    const char *file;
    int line, col;
};

struct at_err {
    int code;           /* enum at_code of the last failure                 */
    char msg[4096];     /* "place: what: remedy\n  while ...\n  while ..."  */
};

struct at_arena;
struct at_ctx;

enum at_level { AT_LOG_DEBUG, AT_LOG_INFO, AT_LOG_WARN };

/* Receives one line without its newline.  May be called from any thread.    */
typedef void at_log_fn(void *self, enum at_level level, const char *line);

/* Failures that follow are about this key of the recipe being acted on, if any. */
void at_act_on(struct at_ctx *cx, const char *key);
/* Records a failure at cx->at (if any) and returns `code`.                   */
int at_fail(struct at_ctx *cx, int code, const char *fmt, ...) AT_PRINTF(3, 4);
/* The same with the text of errno value `err` appended.                      */
int at_fail_errno(struct at_ctx *cx, int err, const char *fmt, ...)
    AT_PRINTF(3, 4);
/* Adds "  while <text>" to the recorded failure; returns rc.                 */
int at_note(struct at_ctx *cx, int rc, const char *fmt, ...) AT_PRINTF(3, 4);
void at_log(struct at_ctx *cx, enum at_level level, const char *fmt, ...)
    AT_PRINTF(3, 4);

/* ---- memory by lifetime ------------------------------------------------ */

struct at_block;

/* Grows by blocks; reset keeps the blocks, poisons them under ASan, so that
 * a pointer kept over a reset traps.  Zero-initialise to make one.           */
struct at_arena {
    struct at_block *first, *cur;
    size_t used_bytes;  /* handed out since the last reset                  */
    size_t held_bytes;  /* taken from the system                            */
};

/* n zeroed bytes, 64-byte aligned, living until reset/finish of `a`; NULL
 * with the error recorded when there is no memory.                           */
void *at_alloc(struct at_ctx *cx, struct at_arena *a, size_t n);
/* n*size bytes; overflow is an error.                                        */
void *at_alloc_n(struct at_ctx *cx, struct at_arena *a, size_t n, size_t size);
char *at_strdup(struct at_ctx *cx, struct at_arena *a, const char *s);
char *at_strndup(struct at_ctx *cx, struct at_arena *a, const char *s,
                 size_t n);
char *at_sprintf(struct at_ctx *cx, struct at_arena *a, const char *fmt, ...)
    AT_PRINTF(3, 4);
void at_arena_reset(struct at_arena *a);
void at_arena_finish(struct at_arena *a);

/* A big region straight from the system: page-aligned, zero, touched once so
 * that no step ever takes a page fault.  Free with at_unmap.                 */
void *at_map(struct at_ctx *cx, size_t n_bytes, const char *what);
/* The same untouched: a page, of 2 MiB where the system has such, takes memory
 * when it is first written.                                                  */
void *at_reserve(struct at_ctx *cx, size_t n_bytes, const char *what);
void at_unmap(void *p, size_t n_bytes);

/* A growing array for callers that cannot know the size: doubles *p (arena-
 * less, heap) until it holds `need` elements.  Free *p with at_free.         */
int at_grow(struct at_ctx *cx, void *p, size_t *cap, size_t need, size_t size);
void at_free(void *p);

/* ---- context ----------------------------------------------------------- */

struct at_ctx {             /* one per thread of work                        */
    struct at_err err;
    struct at_src at;       /* recipe place being acted on, if any           */
    struct at_src (*src_of)(const void *self, const char *key);
    const void *src_self;   /* the recipe being acted on, for at_act_on      */
    struct at_arena run;    /* lives as long as the context                  */
    struct at_arena plan;   /* graph and plan; reset to build another        */
    struct at_arena scratch;/* within one call or one step                   */
    at_log_fn *log;         /* NULL: silent                                  */
    void *log_self;
    int n_threads;          /* budget given to kernels; 0: not decided yet   */
    volatile int *stop;     /* set non-zero by a signal: finish and save     */
    long fail_after;        /* tests: the n-th allocation fails; 0: never    */
};

void at_ctx_init(struct at_ctx *cx);
void at_ctx_finish(struct at_ctx *cx);

/* ---- random numbers ---------------------------------------------------- */

/* A number depends on (seed, purpose, step, index) only: never on thread,
 * call order or what was drawn before.  Philox4x32-10 (Salmon et al. 2011).  */
enum at_purpose {
    AT_RNG_INIT = 1,        /* parameter initialisation; step = parameter id */
    AT_RNG_DROPOUT,
    AT_RNG_SHUFFLE,
    AT_RNG_SPLIT,
    AT_RNG_SAMPLE,          /* drawing tokens                                */
    AT_RNG_TEST,
    AT_RNG_CHOOSE,          /* one of several texts                          */
};

struct at_rng {
    uint64_t seed;
    uint32_t purpose, stream;   /* stream: which site, parameter, ...        */
};

void at_rng4(const struct at_rng *r, uint64_t step, uint64_t index,
             uint32_t out[4]);
uint64_t at_rng_u64(const struct at_rng *r, uint64_t step, uint64_t index);
/* Uniform in [0,1), 53 bits.                                                 */
double at_rng_uniform(const struct at_rng *r, uint64_t step, uint64_t index);
/* Standard normal (Box-Muller on one Philox block).                          */
double at_rng_normal(const struct at_rng *r, uint64_t step, uint64_t index);
/* A bijection of [0, n): position i of the permutation named by (r, step);
 * O(1) expected, no table (Feistel network with cycle walking).              */
uint64_t at_rng_permute(const struct at_rng *r, uint64_t step, uint64_t i,
                        uint64_t n);

/* ---- threads ----------------------------------------------------------- */

/* Physical cores within the affinity mask and the cgroup's quota, at least 1;
 * OMP_NUM_THREADS, when set, wins.                                           */
int at_threads_default(void);
/* Decides cx->n_threads (n <= 0: the default) and sizes the OpenMP pool.     */
int at_threads_start(struct at_ctx *cx, int n);

/* ---- files ------------------------------------------------------------- */

/* Whole file into arena `a` with a NUL after it; *n excludes the NUL.
 * Refuses files over max_bytes (0: 1 GiB).                                   */
int at_read_file(struct at_ctx *cx, struct at_arena *a, const char *path,
                 size_t max_bytes, char **text, size_t *n);
/* A file that is written beside its name and appears whole.                  */
struct at_file_out { const char *path, *tmp; int fd; };
/* Lives in arena a until at_file_out_end.                                    */
int at_file_out_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                     struct at_file_out *o);
int at_file_out_put(struct at_ctx *cx, const struct at_file_out *o,
                    const void *data, size_t n);
/* rc AT_OK: it appears, durably; else, or when that fails, nothing is left.
 * Gives the first failure.                                                   */
int at_file_out_end(struct at_ctx *cx, struct at_file_out *o, int rc);
void at_file_out_drop(struct at_file_out *o);   /* an ended one is fine       */
/* Writes beside, fsyncs, renames over `path`, fsyncs the directory.          */
int at_write_file(struct at_ctx *cx, const char *path, const void *data,
                  size_t n);
/* The two halves, for files that others write: a name in the same directory
 * ("path.tmp.PID"), and making it `path` durably.  at_file_commit fsyncs the
 * file, renames it and fsyncs the directory; on failure it unlinks `tmp`.    */
char *at_file_tmp(struct at_ctx *cx, struct at_arena *a, const char *path);
int at_file_commit(struct at_ctx *cx, const char *tmp, const char *path);
/* An error unless `path` may be written over: nothing is there, or an empty
 * file, or one that begins with these n bytes, as what is to come does.      */
int at_file_ours(struct at_ctx *cx, const char *path, const char *magic,
                 size_t n);
/* An error when the two are one file: `in` is read to write `out`.           */
int at_file_apart(struct at_ctx *cx, const char *out, const char *in);
int at_mkdir(struct at_ctx *cx, const char *path);     /* existing is fine   */
/* Free bytes on the file system that holds `path` (or its directory).        */
int at_disk_free(struct at_ctx *cx, const char *path, uint64_t *n_bytes);

/* ---- identity ---------------------------------------------------------- */

/* XXH3, 128 bits: identity of sources, tokenizers, arrays.  Detects damage
 * and mistakes, not a forger.                                                */
struct at_hash { uint64_t lo, hi; };
struct at_hash at_hash(const void *p, size_t n);
struct at_hasher;           /* for data that comes in pieces                 */
struct at_hasher *at_hasher_create(struct at_ctx *cx);
void at_hasher_add(struct at_hasher *h, const void *p, size_t n);
struct at_hash at_hasher_value(const struct at_hasher *h);
void at_hasher_destroy(struct at_hasher *h);
void at_hash_hex(struct at_hash h, char out[33]);
bool at_hash_equal(struct at_hash a, struct at_hash b);

/* ---- text --------------------------------------------------------------- */

/* A growing text; .s is always NUL-terminated after the first append.  Errors
 * stick: check at_text_ok once at the end.  Free with at_text_finish.        */
struct at_text { char *s; size_t n, cap; bool failed; };
void at_text_add(struct at_text *t, const char *s, size_t n);
void at_text_addf(struct at_text *t, const char *fmt, ...) AT_PRINTF(2, 3);
/* s as a JSON string with its quotes; invalid UTF-8 becomes U+FFFD.          */
void at_text_json(struct at_text *t, const char *s, size_t n);
int at_text_ok(struct at_ctx *cx, const struct at_text *t);
void at_text_finish(struct at_text *t);

/* Length in bytes of the well-formed UTF-8 sequence at s (n bytes left), or
 * 0 when it is malformed; *cp gets the code point.                           */
size_t at_utf8(const char *s, size_t n, uint32_t *cp);
/* Levenshtein distance with transpositions, for "did you mean".              */
size_t at_edit_distance(const char *a, const char *b);
/* The candidate nearest to `word`, or NULL when none is near.                */
const char *at_did_you_mean(const char *word, const char *const *candidates,
                            size_t n);
/* "3 5 8-11" (or with commas): yes[i], false before, becomes true for each i
 * named, all below n and none twice.  An error names `what`.                 */
int at_ranges(struct at_ctx *cx, const char *what, const char *text, bool *yes,
              size_t n);
/* "3.21 GiB" into buf; returns buf.                                          */
const char *at_bytes_text(char buf[32], double n_bytes);

/* ---- patterns ------------------------------------------------------------ */

/* A PCRE2 pattern (UTF-8), searched anywhere in a text.                      */
struct at_pattern;
int at_pattern_create(struct at_ctx *cx, const char *pattern,
                      struct at_pattern **p);
bool at_pattern_finds(const struct at_pattern *p, const char *text);
void at_pattern_destroy(struct at_pattern *p);

/* ---- time and machine --------------------------------------------------- */

double at_now_s(void);              /* monotonic                             */
size_t at_rss_bytes(void);          /* resident now                          */
size_t at_peak_rss_bytes(void);     /* resident, the peak                    */
size_t at_memory_available(void);   /* within the cgroup's limit             */

#endif
