/* adapters: guests of a model's sites with parameters of their own.
 *
 * A kind is one row of at_adapter_kinds.  Its settings are a plain struct and
 * a table that names each field by its recipe key; recipes, files and checks
 * are loops over that table, so a kind knows neither.  Adapters know no
 * models, and models know no adapters: they meet at sites.                   */
#ifndef AT_ADAPTER_H
#define AT_ADAPTER_H

#include "autograd/autograd.h"

enum at_setting_type { AT_SET_INT, AT_SET_REAL, AT_SET_TEXT };

struct at_setting {             /* a field: size_t, double or const char *    */
    const char *key;            /* "lora.rank"; in files: "lora_rank"         */
    enum at_setting_type type;
    size_t at;                  /* offsetof                                   */
    bool training;              /* of training only: not kept in files        */
};

struct at_adapter {             /* every kind's struct starts with one        */
    const struct at_adapter_kind *kind;
    const void *settings;       /* the kind's own struct                      */
    size_t n_sites;             /* wrapped in the graph built last; at first
                                 * SIZE_MAX                                   */
    bool folded;                /* the weights hold its effect: a site declares
                                 * its parameters and runs without them       */
};

struct at_adapter_kind {
    const char *name;
    size_t settings_size;
    /* Ended by key NULL.  The first is an integer; 0: not asked for.         */
    const struct at_setting *settings;
    const char *targets;        /* the key to blame when no site is wrapped   */
    /* Lives in arena, as settings do; may hold other things: destroy.        */
    int (*create)(struct at_ctx *cx, struct at_arena *arena,
                  const void *settings, struct at_adapter **a);
    void (*destroy)(struct at_adapter *a);
    /* Becomes a guest of a graph about to be built; train: with dropout.     */
    int (*attach)(struct at_adapter *a, struct at_graph *g, bool train);
    /* y + g(x) of a site, or g(x) where y is NULL, [N,out]: one linear place's
     * share of the adapter, all of its parameters named SITE.something.  NULL:
     * this kind is not a sum, and its gradients cannot be had elsewhere.      */
    struct at_val *(*delta)(struct at_adapter *a, struct at_graph *g,
                            const char *site, struct at_val *y,
                            struct at_val *x, size_t out, bool train);
    /* Whether a parameter of that name is one of this kind's.                */
    bool (*owns)(const char *name);
    /* Adds what the adapter is at a site to its weight w [out,in]; NULL: this
     * kind is no matrix and cannot be merged.                                 */
    int (*add)(struct at_ctx *cx, const struct at_adapter *a,
               const struct at_params *ps, const struct at_kernels *k,
               const char *site, at_real *w);
    const char *tail;           /* with delta: of a site's first parameter     */
};

enum { AT_ADAPTERS_MAX = 8 };
/* All kinds, NULL-ended.                                                     */
extern const struct at_adapter_kind *const at_adapter_kinds[];

struct at_adapters {            /* at most one of each kind                   */
    struct at_adapter *a[AT_ADAPTERS_MAX];
    size_t n;
};

/* Makes one and adds it to the list.  Copies the settings, not their texts,
 * which must live as long as the list.                                       */
int at_adapters_add(struct at_ctx *cx, struct at_arena *arena,
                    const struct at_adapter_kind *kind, const void *settings,
                    struct at_adapters *list);
void at_adapters_destroy(struct at_adapters *list);
struct at_adapter *at_adapters_find(const struct at_adapters *list,
                                    const struct at_adapter_kind *kind);
int at_adapters_attach(const struct at_adapters *list, struct at_graph *g,
                       bool train);
/* Without dropout; self is a struct at_adapters.                             */
int at_adapters_attach_quietly(void *self, struct at_graph *g);
/* Whether all of them can become part of the weights.                        */
int at_adapters_can_merge(struct at_ctx *cx, const struct at_adapters *list);
/* Moves the adapters into the weights and leaves them without effect.         */
int at_adapters_merge(struct at_ctx *cx, const struct at_adapters *list,
                      struct at_params *ps, const struct at_kernels *k);
/* Whether any kind owns a parameter of that name.                            */
bool at_adapter_owns(const char *name);
/* The site whose first parameter p is, in arena a; NULL: p is not such.        */
const char *at_adapter_site(struct at_ctx *cx, struct at_arena *a,
                            const struct at_adapter_kind *kind,
                            const struct at_param *p);
/* The site's parameter with that tail; an error names it.                     */
struct at_param *at_adapter_param(struct at_ctx *cx, const struct at_params *ps,
                                  const char *site, const char *tail);
/* For kinds with delta: attach, to the linear sites whose name a pattern fits. */
int at_adapter_attach_sum(struct at_adapter *a, struct at_graph *g, bool train,
                          const struct at_pattern *targets);
/* Whether name ends in tail and has something before it.                     */
bool at_adapter_ends(const char *name, const char *tail);

#endif
