/* recipes: the text of a run turned into typed values with their places.
 *
 * A recipe is one YAML map of groups and keys.  Every key is a row of one
 * table (schema.c): type, range, default, unit, help.  The table knows types
 * and ranges, not meanings; meanings are given in train/.
 *
 * Conventions:
 *   - keys are named by their dotted path, "optim.lr";
 *   - a file is checked whole: all its faults are reported in one error, one
 *     line each, "file:line:column: what: remedy";
 *   - overrides, "optim.lr=1e-4", come after the file and win; the later one
 *     wins among them; their place is "command line: optim.lr=1e-4".  One
 *     that switches something off or over (lora.rank=0, optim.name=sgd) also
 *     resets the file's keys that lose their use, and logs each;
 *   - a key that has no use in a recipe always holds its default;
 *   - a recipe and all its texts live in the arena it was loaded into.       */
#ifndef AT_RECIPES_H
#define AT_RECIPES_H

#include "base/base.h"

struct at_recipe;

struct at_strings { const char *const *s; size_t n; };

/* Reads `path` and applies "key=value" overrides (NULL when n is 0).        */
int at_recipe_load(struct at_ctx *cx, struct at_arena *arena, const char *path,
                   const char *const *overrides, size_t n_overrides,
                   struct at_recipe **r);
/* The same from memory; `name` stands for the file in places and gives `run`
 * its default.                                                               */
int at_recipe_parse(struct at_ctx *cx, struct at_arena *arena, const char *name,
                    const char *text, size_t n, const char *const *overrides,
                    size_t n_overrides, struct at_recipe **r);

/* The value of a key.  A key that is not in the table, or of another type,
 * is a mistake of the caller: these stop the program.  _text serves texts,
 * choices, patterns and paths; an unset one is "".                           */
int64_t at_recipe_int(const struct at_recipe *r, const char *key);
double at_recipe_real(const struct at_recipe *r, const char *key);
bool at_recipe_bool(const struct at_recipe *r, const char *key);
const char *at_recipe_text(const struct at_recipe *r, const char *key);
struct at_strings at_recipe_list(const struct at_recipe *r, const char *key);
/* Whether a key was spelled out.  For messages only: a resolved recipe spells
 * out every key of use, so what a run does must not depend on this.          */
bool at_recipe_given(const struct at_recipe *r, const char *key);
/* Where the value comes from, for cx->at; a default's place is the recipe's
 * file without a line.                                                       */
struct at_src at_recipe_src(const struct at_recipe *r, const char *key);

/* Appends the recipe as commented YAML.  All: every key of use, loading again
 * to the same values; keys without use are comments.  Not all: the keys that
 * were given, which load again to the same values too.                      */
int at_recipe_print(struct at_ctx *cx, const struct at_recipe *r, bool all,
                    struct at_text *out);
/* The value of any key as YAML, in `a`.                                      */
int at_recipe_value(struct at_ctx *cx, struct at_arena *a,
                    const struct at_recipe *r, const char *key,
                    const char **text);
/* The same of its default.                                                   */
int at_recipe_default(struct at_ctx *cx, struct at_arena *a, const char *key,
                      const char **text);
/* The i-th key of the table, or NULL after the last.                         */
const char *at_recipe_key(size_t i);
/* Identity of the values of all keys, defaults included.                     */
int at_recipe_hash(struct at_ctx *cx, const struct at_recipe *r,
                   struct at_hash *h);

/* Appends docs/recipes.md; a list of keys, one line each.                    */
int at_recipe_docs(struct at_ctx *cx, struct at_text *out);
int at_recipe_keys(struct at_ctx *cx, struct at_text *out);

#endif
