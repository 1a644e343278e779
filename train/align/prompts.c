/* Prompts from datasets and from text files. */
#include "train/align/rollout.h"

#include "data/data.h"
#include "data/json.h"

#include <string.h>

struct list {                   /* prompts being read                         */
    struct at_ctx *cx;
    struct at_arena *a;
    const struct at_tok *tok;
    struct at_tok_coder *coder;
    const struct at_prompts_options *o;
    struct at_prompts *out;
    size_t cap, seen;
    struct at_text hashed;
};

/* n: tokens of the next prompt.                                              */
static bool wanted(struct list *l, size_t n)
{
    if (l->o->longest && n > l->o->longest) {
        l->out->too_long++;
        return false;
    }
    return l->seen++ >= l->o->skip && (!l->o->most || l->out->n < l->o->most);
}

static bool full(const struct list *l)
{
    return l->o->most && l->out->n >= l->o->most;
}

/* Adds a prompt by its tokens, which are copied.                             */
static int add(struct list *l, const int32_t *ids, size_t n)
{
    struct at_prompts *p = l->out;
    struct at_ctx *cx = l->cx;
    int32_t *copy = at_alloc_n(cx, l->a, n + 1, sizeof *copy);
    char *text;
    int rc = copy ? AT_OK : AT_ENOMEM;
    if (p->n == l->cap && rc == AT_OK) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        struct at_prompt *q = at_alloc_n(cx, l->a, cap, sizeof *q);
        const char **t = at_alloc_n(cx, l->a, cap, sizeof *t);
        size_t *m = at_alloc_n(cx, l->a, cap, sizeof *m);
        if (!q || !t || !m)
            return AT_ENOMEM;
        if (p->n) {
            memcpy(q, p->p, p->n * sizeof *q);
            memcpy(t, p->text, p->n * sizeof *t);
            memcpy(m, p->n_text, p->n * sizeof *m);
        }
        p->p = q;
        p->text = t;
        p->n_text = m;
        l->cap = cap;
    }
    if (rc == AT_OK)
        rc = at_tok_decode(cx, l->a, l->tok, ids, n, true, &text,
                           &p->n_text[p->n]);
    if (rc < 0)
        return rc;
    memcpy(copy, ids, n * sizeof *ids);
    p->p[p->n] = (struct at_prompt){ copy, n, (uint32_t)p->n };
    p->text[p->n++] = text;
    at_text_add(&l->hashed, (const char *)ids, n * sizeof *ids);
    return at_text_ok(cx, &l->hashed);
}

/* ---- a dataset ----------------------------------------------------------------- */

/* Tokens of the document that are its prompt. */
static size_t prompt_of(const struct at_prompts_options *o, const uint8_t *roles,
                        size_t n)
{
    size_t m = 0;
    if (o->tokens)
        return n > o->tokens ? o->tokens : 0;
    while (m < n && (roles[m] == AT_ROLE_PROMPT || roles[m] == AT_ROLE_BOS))
        m++;
    return m;
}

static int from_document(struct list *l, const struct at_data *d, uint64_t doc,
                         int32_t *ids, uint8_t *roles)
{
    size_t n = (size_t)(d->offset[doc + 1] - d->offset[doc]), m;
    int rc = at_data_read(l->cx, d, d->offset[doc], n, ids, roles);
    if (rc < 0)
        return rc;
    m = prompt_of(l->o, roles, n);
    return m > 0 && wanted(l, m) ? add(l, ids, m) : AT_OK;
}

static int from_dataset(struct list *l, const char *path)
{
    struct at_ctx *cx = l->cx;
    struct at_data *d;
    int32_t *ids = NULL;
    uint8_t *roles = NULL;
    char mine[33];
    int rc = at_data_open(cx, l->a, path, &d);
    if (rc < 0)
        return rc;
    at_hash_hex(at_tok_hash(l->tok), mine);
    if (strcmp(mine, d->tok_hash) != 0)
        rc = at_fail(cx, AT_EINVAL, "%s was made with another tokenizer than "
                     "the model's", path);
    else if (!d->pairs && !l->o->tokens)
        rc = at_fail(cx, AT_EINVAL, "%s holds plain texts: say how many tokens "
                     "of each are the prompt (--prompt-tokens N)", path);
    if (rc == AT_OK) {
        ids = at_alloc_n(cx, l->a, d->longest + 2, sizeof *ids);
        roles = at_alloc(cx, l->a, d->longest + 2);
        rc = ids && roles ? AT_OK : AT_ENOMEM;
    }
    for (int s = 0; s < AT_SPLITS && rc == AT_OK; s++)
        for (uint64_t i = 0; i < d->n_split[s] && rc == AT_OK && !full(l) &&
                             (l->o->split < 0 || l->o->split == s);
             i += d->group)
            rc = from_document(l, d, d->doc[s][i], ids, roles);
    at_data_close(d);
    return rc;
}

/* ---- lines ------------------------------------------------------------------------ */

static int from_line(struct list *l, const char *path, size_t line,
                     const char *s, size_t n)
{
    struct at_ctx *cx = l->cx;
    struct at_tok_ids ids = { 0 };
    json_t *root = NULL;
    int rc = AT_OK;
    if (*s == '{') {
        const json_t *v;
        rc = at_json_parse(cx, path, s, n, &root);
        v = rc == AT_OK ? json_object_get(root, "prompt") : NULL;
        if (rc == AT_OK && !json_is_string(v))
            rc = at_fail(cx, AT_EFORMAT, "%s:%zu: the key 'prompt' is missing, "
                         "or no text", path, line);
        s = v ? json_string_value(v) : s;
        n = v ? json_string_length(v) : n;
    }
    if (rc == AT_OK)
        rc = at_tok_encode(cx, l->coder, s, n,
                           at_data_flags(l->tok), &ids);
    if (rc == AT_OK && wanted(l, ids.n))
        rc = add(l, ids.id, ids.n);
    at_tok_ids_finish(&ids);
    json_decref(root);
    return rc;
}

static int from_lines(struct list *l, const char *path)
{
    char *text, *s;
    size_t n, line = 0;
    int rc = at_read_file(l->cx, l->a, path, 0, &text, &n);
    for (s = text; rc == AT_OK && *s && !full(l);) {
        size_t len = strcspn(s, "\r\n"), next = len + strspn(s + len, "\r\n");
        line++;
        if (len > 0)
            rc = from_line(l, path, line, s, len);
        s += next;
    }
    return rc;
}

int at_prompts_read(struct at_ctx *cx, struct at_arena *a,
                    const struct at_tok *tok, struct at_tok_coder *coder,
                    const char *path, const struct at_prompts_options *o,
                    struct at_prompts *p)
{
    struct list l = { .cx = cx, .a = a, .tok = tok, .coder = coder, .o = o,
                      .out = p };
    size_t n = strlen(path);
    int rc;
    *p = (struct at_prompts){ .path = path };
    rc = n > 3 && strcmp(path + n - 3, ".h5") == 0 ? from_dataset(&l, path)
                                                   : from_lines(&l, path);
    if (rc == AT_OK && p->n == 0)
        rc = at_fail(cx, AT_EINVAL, "%s: there is no prompt in it%s", path,
                     p->too_long ? " that is short enough" : "");
    p->hash = at_hash(l.hashed.s, l.hashed.n);
    at_text_finish(&l.hashed);
    return rc < 0 ? at_note(cx, rc, "reading the prompts of %s", path) : AT_OK;
}
