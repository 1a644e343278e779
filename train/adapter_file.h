/* Adapters in recipes and in files: loops over their tables of settings.     */
#ifndef AT_ADAPTER_FILE_H
#define AT_ADAPTER_FILE_H

#include "data/h5.h"
#include "recipes/recipes.h"
#include "train/adapters/adapter.h"

/* Makes every adapter that a recipe asks for.                                */
int at_adapters_from_recipe(struct at_ctx *cx, struct at_arena *arena,
                            const struct at_recipe *r,
                            struct at_adapters *list);
/* Kinds, settings, and the base's path and identity, as facts of a file.     */
int at_adapters_put(struct at_ctx *cx, struct at_h5 *f,
                    const struct at_adapters *list, const char *base_path,
                    const char *base_id);
/* Makes every adapter that a file says it holds; the texts live in arena.    */
int at_adapters_get(struct at_ctx *cx, struct at_arena *arena,
                    struct at_h5 *f, struct at_adapters *list);
/* An error that names the first kind or setting of `file` that `mine` does not
 * have or has otherwise.                                                     */
int at_adapters_match(struct at_ctx *cx, const struct at_adapters *mine,
                      const struct at_adapters *file, const char *path);

#endif
