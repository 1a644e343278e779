/* Opening, checking and showing a dataset. */
#include "data/data.h"

#include <string.h>

const char *const at_role_names[AT_ROLES] = { "bos", "prompt", "completion",
                                              "text", "eos" };

unsigned at_data_flags(const struct at_tok *tok)
{
    int32_t bos = at_tok_bos(tok);
    return bos >= 0 && bos != at_tok_eos(tok) ? AT_TOK_BOS : 0;
}

static int check_offsets(struct at_ctx *cx, const struct at_data *d)
{
    const char *path = at_h5_path(d->f);
    if (d->offset[0] != 0 || d->offset[d->n_docs] != d->n_tokens)
        return at_fail(cx, AT_EFORMAT, "%s: the documents do not cover the "
                       "tokens", path);
    for (uint64_t i = 0; i < d->n_docs; i++)
        if (d->offset[i + 1] < d->offset[i] + 2)
            return at_fail(cx, AT_EFORMAT, "%s: document %llu has less than two "
                           "tokens", path, (unsigned long long)i);
    return AT_OK;
}

static int read_splits(struct at_ctx *cx, struct at_arena *a, struct at_data *d)
{
    uint8_t *split = at_alloc(cx, a, d->n_docs);
    size_t n = d->n_docs;
    int rc;
    if (!split)
        return AT_ENOMEM;
    rc = at_h5_get(cx, d->f, "split", AT_H5_U8, 1, &n, split);
    if (rc < 0)
        return rc;
    for (int s = 0; s < AT_SPLITS; s++) {
        d->doc[s] = at_alloc_n(cx, a, d->n_docs + 1, sizeof *d->doc[s]);
        if (!d->doc[s])
            return AT_ENOMEM;
    }
    for (uint64_t i = 0; i < d->n_docs; i++) {
        if (split[i] >= AT_SPLITS)
            return at_fail(cx, AT_EFORMAT, "%s: document %llu is in no split",
                           at_h5_path(d->f), (unsigned long long)i);
        d->doc[split[i]][d->n_split[split[i]]++] = i;
    }
    return AT_OK;
}

/* Every id below the vocabulary and every role a role, block by block; the
 * lengths are known to agree.                                                */
static int check_tokens(struct at_ctx *cx, struct at_data *d)
{
    enum { BLOCK = 1 << 16 };
    static const size_t each = sizeof(int32_t) + 1;
    char *block = at_alloc(cx, &cx->scratch, BLOCK * each);
    int32_t *ids = (int32_t *)(void *)block, V = (int32_t)at_tok_size(d->tok);
    uint8_t *roles = (uint8_t *)block + BLOCK * sizeof *ids;
    int rc = block ? AT_OK : AT_ENOMEM;
    for (uint64_t at = 0; at < d->n_tokens && rc == AT_OK; at += BLOCK) {
        size_t n = d->n_tokens - at < BLOCK ? d->n_tokens - at : BLOCK;
        rc = at_data_read(cx, d, at, n, ids, roles);
        for (size_t i = 0; i < n && rc == AT_OK; i++) {
            if (ids[i] < 0 || ids[i] >= V || roles[i] >= AT_ROLES)
                rc = at_fail(cx, AT_EFORMAT, "%s: token %llu is %d with role "
                             "%u; the vocabulary has %d",
                             at_h5_path(d->f), (unsigned long long)(at + i),
                             ids[i], roles[i], V);
            else
                d->role[roles[i]]++;
        }
    }
    at_arena_reset(&cx->scratch);
    return rc;
}

static int read_head(struct at_ctx *cx, struct at_arena *a, struct at_data *d)
{
    struct at_h5_info tokens, roles, offsets;
    char *blob;
    size_t n;
    int64_t pairs;
    int rc = at_h5_info(cx, d->f, "tokens", &tokens);
    if (rc == AT_OK)
        rc = at_h5_info(cx, d->f, "roles", &roles);
    if (rc == AT_OK)
        rc = at_h5_info(cx, d->f, "offsets", &offsets);
    if (rc == AT_OK)
        rc = at_h5_get_text(cx, d->f, "sources", a, &d->sources);
    if (rc == AT_OK)
        rc = at_h5_get_text(cx, d->f, "template", a, &d->template);
    if (rc == AT_OK)
        rc = at_h5_get_int(cx, d->f, "pairs", &pairs);
    if (rc == AT_OK)
        rc = at_h5_get_bytes(cx, d->f, "tokenizer", a, 1 << 28, &blob, &n);
    if (rc == AT_OK)
        rc = at_tok_load(cx, a, blob, n, &d->tok);
    if (rc < 0)
        return rc;
    if (tokens.n_dims != 1 || roles.n_dims != 1 || offsets.n_dims != 1 ||
        (tokens.type != AT_H5_U16 && tokens.type != AT_H5_U32) ||
        roles.type != AT_H5_U8 || roles.n != tokens.n || offsets.n < 2)
        return at_fail(cx, AT_EFORMAT, "%s: its arrays do not fit together",
                       at_h5_path(d->f));
    d->id_type = tokens.type;
    d->n_tokens = tokens.n;
    d->n_docs = offsets.n - 1;
    d->pairs = pairs != 0;
    at_hash_hex(at_tok_hash(d->tok), d->tok_hash);
    return AT_OK;
}

int at_data_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                 struct at_data **made)
{
    struct at_data *d = at_alloc(cx, a, sizeof *d);
    size_t n;
    int rc = d ? at_h5_open(cx, path, "dataset", &d->f) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    rc = read_head(cx, a, d);
    if (rc == AT_OK)
        rc = at_h5_verify(cx, d->f, "tokens");
    if (rc == AT_OK)
        rc = at_h5_verify(cx, d->f, "roles");
    n = d->n_docs + 1;
    if (rc == AT_OK) {
        d->offset = at_alloc_n(cx, a, n, sizeof *d->offset);
        rc = d->offset ? at_h5_get(cx, d->f, "offsets", AT_H5_U64, 1, &n,
                                   d->offset)
                       : AT_ENOMEM;
    }
    if (rc == AT_OK)
        rc = check_offsets(cx, d);
    if (rc == AT_OK)
        rc = read_splits(cx, a, d);
    if (rc == AT_OK)
        rc = check_tokens(cx, d);
    if (rc < 0) {
        at_data_close(d);
        return at_note(cx, rc, "opening the dataset %s", path);
    }
    for (uint64_t i = 0; i < d->n_docs; i++)
        if (d->offset[i + 1] - d->offset[i] > d->longest)
            d->longest = d->offset[i + 1] - d->offset[i];
    *made = d;
    return AT_OK;
}

void at_data_close(struct at_data *d)
{
    if (!d)
        return;
    at_h5_close(d->f);
    d->f = NULL;
}

/* Ids come as u16 or u32 and leave as int32; widened from the back in place. */
int at_data_read(struct at_ctx *cx, const struct at_data *d, uint64_t from,
                 size_t n, int32_t *ids, uint8_t *roles)
{
    int rc = AT_OK;
    if (ids)
        rc = at_h5_get_part(cx, d->f, "tokens", d->id_type, from, n, ids);
    if (rc == AT_OK && ids && d->id_type == AT_H5_U16)
        for (size_t i = n; i-- > 0;) {
            uint16_t v;
            memcpy(&v, (char *)ids + 2 * i, sizeof v);
            ids[i] = v;
        }
    if (rc == AT_OK && roles)
        rc = at_h5_get_part(cx, d->f, "roles", AT_H5_U8, from, n, roles);
    return rc;
}

static bool trained(uint8_t role, bool all_roles)
{
    return all_roles ? role != AT_ROLE_BOS
                     : role == AT_ROLE_COMPLETION || role == AT_ROLE_TEXT ||
                           role == AT_ROLE_EOS;
}

int at_data_show(struct at_ctx *cx, const struct at_data *d, uint64_t doc,
                 bool all_roles, bool colour, struct at_text *t)
{
    size_t n, marked = 0;
    int32_t *ids, prev = AT_TOK_NONE;
    uint8_t *roles;
    bool on = false;
    int rc;
    if (doc >= d->n_docs)
        return at_fail(cx, AT_EINVAL, "document %llu does not exist: there are "
                       "%llu", (unsigned long long)doc,
                       (unsigned long long)d->n_docs);
    n = d->offset[doc + 1] - d->offset[doc];
    ids = at_alloc_n(cx, &cx->scratch, n, sizeof *ids);
    roles = at_alloc(cx, &cx->scratch, n);
    if (!ids || !roles)
        return AT_ENOMEM;
    rc = at_data_read(cx, d, d->offset[doc], n, ids, roles);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *s = at_tok_step(d->tok, prev, ids[i], &len);
        bool want = i > 0 && trained(roles[i], all_roles);
        if (want != on)
            at_text_addf(t, "%s", colour ? (want ? "\033[1;32m" : "\033[0m")
                                         : (want ? "\u27E6" : "\u27E7"));
        on = want;
        marked += want ? 1 : 0;
        at_text_add(t, s, len);
        prev = ids[i];
    }
    if (on)
        at_text_addf(t, "%s", colour ? "\033[0m" : "\u27E7");
    at_text_addf(t, "\n  (document %llu: %zu tokens, %zu trained)\n",
                 (unsigned long long)doc, n, marked);
    return at_text_ok(cx, t);
}
