/* attune: the installed face of the library.
 *
 *     struct attune *a = attune_create();
 *     if (attune_train(a, "recipe.yaml", NULL, 0) != ATTUNE_OK)
 *         fprintf(stderr, "%s\n", attune_error(a));
 *     attune_destroy(a);
 *
 * One handle per thread of work.  Functions return ATTUNE_OK or a negative
 * code; the text of the last failure stays in the handle.                    */
#ifndef ATTUNE_H
#define ATTUNE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ATTUNE_API __attribute__((visibility("default")))
#else
#define ATTUNE_API
#endif

enum attune_code {
    ATTUNE_OK = 0,
    ATTUNE_FAILED = -1,         /* the work failed                            */
    ATTUNE_WRONG = -2,          /* the request was wrong                      */
    ATTUNE_STOPPED = -3,        /* stopped by attune_stop; resumable          */
};

struct attune;

/* "0.1.0" */
ATTUNE_API const char *attune_version(void);
/* NULL when there is no memory. */
ATTUNE_API struct attune *attune_create(void);
ATTUNE_API void attune_destroy(struct attune *a);   /* NULL is fine          */
/* What went wrong last; lives until the next call on `a`.                    */
ATTUNE_API const char *attune_error(const struct attune *a);
/* Called after every step; return non-zero to stop with a checkpoint.        */
typedef int attune_step_fn(void *self, uint64_t step, uint64_t steps,
                           double loss);
ATTUNE_API void attune_on_step(struct attune *a, attune_step_fn *f, void *self);

/* Trains as the recipe says, with "key=value" overrides.                     */
ATTUNE_API int attune_train(struct attune *a, const char *recipe,
                            const char *const *overrides, size_t n);
/* Goes on with a run's directory.                                            */
ATTUNE_API int attune_resume(struct attune *a, const char *run);

struct attune_sampling {
    size_t max_tokens, top_k;   /* top_k 0: all                              */
    double temperature, top_p, min_p;   /* 0 the likeliest; 1 all; 0 all      */
    uint64_t seed;
};
/* Continues `prompt`; *text (without the prompt) is freed with free().       */
ATTUNE_API int attune_generate(struct attune *a, const char *model,
                               const char *prompt,
                               const struct attune_sampling *s, char **text);

#ifdef __cplusplus
}
#endif
#endif
