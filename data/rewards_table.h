/* The table that text formats fill.  Internal to rewards. */
#ifndef AT_REWARDS_TABLE_H
#define AT_REWARDS_TABLE_H

#include "data/numbers.h"
#include "data/rewards.h"

struct at_reward_table {
    double *v;                  /* [n,m]                                      */
    int64_t *g;                 /* [n] when there is a group                  */
    size_t n, m, v_cap, g_cap;
    const char *const *name;
    const char *group;
    struct at_numbers prompts;
};

struct at_reward_reading {
    const char *path;
    const struct at_rewards_options *o;
    struct at_arena *arena;     /* of names                                   */
    struct at_reward_table *table;
};

int at_reward_csv(struct at_ctx *cx, const struct at_reward_reading *in);
int at_reward_json(struct at_ctx *cx, const struct at_reward_reading *in);

/* A row [t->m] of the prompt `group` (n bytes; NULL when t->group is).       */
int at_reward_table_add(struct at_ctx *cx, struct at_reward_table *t,
                        const double *row, const char *group, size_t n);
/* Rows of one prompt together, in order of first appearance.                 */
int at_reward_table_order(struct at_ctx *cx, struct at_reward_table *t);
void at_reward_table_finish(struct at_reward_table *t);

/* The place of `word` among the names, or an error that lists them.          */
int at_reward_column(struct at_ctx *cx, const char *path, const char *word,
                     const char *const *name, size_t n, size_t *at);
/* No name empty, none twice.                                                 */
int at_reward_names(struct at_ctx *cx, const char *path,
                    const char *const *name, size_t n);
/* The usual names of a prompt's column, "prompt" then "group", among names;
 * SIZE_MAX: there is none.                                                   */
size_t at_reward_usual_group(const char *const *name, size_t n);

#endif
