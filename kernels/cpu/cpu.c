/* Which table this machine runs. */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

struct isa {
    const char *name, *says;    /* name: the word of ATTUNE_ISA               */
    const struct at_kernels *table;
    bool (*runs_here)(void);
};

#if defined(__x86_64__)
extern const struct at_kernels at_kernels_v2, at_kernels_v3, at_kernels_v4;

static bool has_v2(void)
{
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
}

static bool has_v3(void)
{
    return has_v2() && __builtin_cpu_supports("avx2") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
}

static bool has_v4(void)
{
    return has_v3() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static const struct isa isas[] = {      /* best first                         */
    { "v4", "avx512 (v4)", &at_kernels_v4, has_v4 },
    { "v3", "avx2 (v3)", &at_kernels_v3, has_v3 },
    { "v2", "sse4.2 (v2)", &at_kernels_v2, has_v2 },
};
#else
extern const struct at_kernels at_kernels_base;

static bool always(void) { return true; }

static const struct isa isas[] = {
    { "base", "128-bit vectors (base)", &at_kernels_base, always },
};
#endif

static int choose(struct at_ctx *cx, const struct isa **isa)
{
    const char *word = getenv("ATTUNE_ISA");
    for (size_t i = 0; i < AT_COUNT(isas); i++) {
        bool named = word && *word && strcmp(word, isas[i].name) == 0;
        if (word && *word && !named)
            continue;
        if (isas[i].runs_here()) {
            *isa = &isas[i];
            return AT_OK;
        }
        if (named)
            return at_fail(cx, AT_EINVAL, "ATTUNE_ISA is %s; this processor "
                           "lacks it: unset ATTUNE_ISA to have the best chosen",
                           word);
    }
    if (word && *word)
        return at_fail(cx, AT_EINVAL, "ATTUNE_ISA is '%s'; it must be "
#if defined(__x86_64__)
                       "v2, v3 or v4"
#else
                       "base"
#endif
                       , word);
    return at_fail(cx, AT_EINVAL, "this processor lacks x86-64-v2 (SSE4.2), "
                   "which the kernels need: use backend ref");
}

int at_kernels_cpu(struct at_ctx *cx, const struct at_kernels **k)
{
    const struct isa *isa;
    int rc = choose(cx, &isa);
    if (rc < 0)
        return rc;
    *k = isa->table;
    return AT_OK;
}

int at_kernels_describe(struct at_ctx *cx, const char **text)
{
    const struct isa *isa;
    int rc = choose(cx, &isa);
    if (rc < 0)
        return rc;
    *text = isa->says;
    return AT_OK;
}
