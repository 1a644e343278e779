/* JSON with limits, on jansson. */
#include "data/json.h"

/* Brackets are counted outside strings; whether they match is jansson's job. */
static bool too_deep(const char *s, size_t n)
{
    size_t depth = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        if (quoted) {
            if (s[i] == '\\')
                i++;
            else if (s[i] == '"')
                quoted = false;
        } else if (s[i] == '"') {
            quoted = true;
        } else if (s[i] == '{' || s[i] == '[') {
            if (++depth > AT_JSON_DEPTH)
                return true;
        } else if ((s[i] == '}' || s[i] == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

int at_json_parse(struct at_ctx *cx, const char *what, const char *text,
                  size_t n, json_t **root)
{
    json_error_t why;
    json_t *v;
    if (too_deep(text, n))
        return at_fail(cx, AT_EFORMAT, "%s: is nested more than %d deep", what,
                       AT_JSON_DEPTH);
    v = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!v && json_error_code(&why) == json_error_numeric_overflow)
        v = json_loadb(text, n, JSON_REJECT_DUPLICATES |
                       JSON_DECODE_INT_AS_REAL, &why);
    if (!v)
        return at_fail(cx, AT_EFORMAT, "%s:%d:%d: is not JSON: %s", what,
                       why.line, why.column, why.text);
    if (!json_is_object(v)) {
        json_decref(v);
        return at_fail(cx, AT_EFORMAT, "%s: must be a JSON object", what);
    }
    *root = v;
    return AT_OK;
}

int at_json_read(struct at_ctx *cx, const char *path, size_t max_bytes,
                 json_t **root)
{
    struct at_arena a = { 0 };
    char *text;
    size_t n;
    int rc = at_read_file(cx, &a, path, max_bytes, &text, &n);
    if (rc == AT_OK)
        rc = at_json_parse(cx, path, text, n, root);
    at_arena_finish(&a);
    return rc;
}

bool at_json_has(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return v && !json_is_null(v);
}
