/* json: other programs' JSON, read with limits.  Duplicate keys, deep nesting
 * and long files are refused before anything is believed.                    */
#ifndef AT_JSON_H
#define AT_JSON_H

#include "base/base.h"

#include <jansson.h>

enum { AT_JSON_DEPTH = 64 };    /* brackets within brackets                   */

/* text[0..n) as JSON; `what` names it in messages.  Where an integer needs more
 * than 64 bits (transformers writes 10^30 for "no limit"), all are reals.  The root is the caller's
 * (json_decref) and is an object.                                            */
int at_json_parse(struct at_ctx *cx, const char *what, const char *text,
                  size_t n, json_t **root);
/* The file at path, at most max_bytes of it.                                 */
int at_json_read(struct at_ctx *cx, const char *path, size_t max_bytes,
                 json_t **root);
/* Numbers may be written 1 or 1.0; json_null() and NULL are absent.          */
bool at_json_has(const json_t *object, const char *key);

#endif
