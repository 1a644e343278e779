/* Opening, checking and showing a dataset. */
#include "data/data.h"

#include <math.h>
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
        if (d->offset[i + 1] > d->n_tokens ||
            d->offset[i + 1] - d->offset[i] < 2 ||
            d->offset[i + 1] < d->offset[i])
            return at_fail(cx, AT_EFORMAT, "%s: document %llu has less than two "
                           "tokens", path, (unsigned long long)i);
    return AT_OK;
}

static int read_splits(struct at_ctx *cx, struct at_arena *a, struct at_data *d)
{
    uint8_t *split = at_alloc(cx, a, d->n_docs);
    uint64_t count[AT_SPLITS] = { 0 };
    size_t n = d->n_docs;
    int rc = split ? at_h5_get(cx, d->f, "split", AT_H5_U8, 1, &n, split)
                   : AT_ENOMEM;
    if (rc < 0)
        return rc;
    for (uint64_t i = 0; i < d->n_docs; i++) {
        if (split[i] >= AT_SPLITS)
            return at_fail(cx, AT_EFORMAT, "%s: document %llu is in no split",
                           at_h5_path(d->f), (unsigned long long)i);
        if (split[i] != split[i - i % d->group])
            return at_fail(cx, AT_EFORMAT, "%s: document %llu is in another "
                           "split than its group", at_h5_path(d->f),
                           (unsigned long long)i);
        count[split[i]]++;
    }
    for (int s = 0; s < AT_SPLITS; s++) {
        d->doc[s] = at_alloc_n(cx, a, count[s], sizeof *d->doc[s]);
        if (!d->doc[s])
            return AT_ENOMEM;
    }
    for (uint64_t i = 0; i < d->n_docs; i++)
        d->doc[split[i]][d->n_split[split[i]]++] = i;
    return AT_OK;
}

/* Where documents came from is only for people: verified when asked for.     */
static int check_places(struct at_ctx *cx, const struct at_data *d)
{
    struct at_h5_info source, line;
    int rc = at_h5_info(cx, d->f, "source", &source);
    if (rc == AT_OK)
        rc = at_h5_info(cx, d->f, "line", &line);
    if (rc < 0)
        return rc;
    if (source.type != AT_H5_U32 || source.n_dims != 1 || line.n_dims != 1 ||
        line.type != AT_H5_U64 || source.n != d->n_docs || line.n != d->n_docs)
        return at_fail(cx, AT_EFORMAT, "%s: the places of its documents do not "
                       "fit them", at_h5_path(d->f));
    return AT_OK;
}

/* Every id below the vocabulary and every role a role, block by block; the
 * lengths are known to agree.                                                */
static int check_tokens(struct at_ctx *cx, struct at_data *d)
{
    enum { BLOCK = 1 << 16 };
    struct at_arena a = { 0 };
    int32_t *ids = at_alloc_n(cx, &a, BLOCK, sizeof *ids);
    int32_t V = (int32_t)at_tok_size(d->tok);
    uint8_t *roles = at_alloc(cx, &a, BLOCK);
    int rc = ids && roles ? AT_OK : AT_ENOMEM;
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
    at_arena_finish(&a);
    return rc;
}

static int read_groups(struct at_ctx *cx, struct at_data *d)
{
    int64_t group = 1, preference = 0;
    int rc = AT_OK;
    if (at_h5_has_fact(d->f, "group_size"))
        rc = at_h5_get_int(cx, d->f, "group_size", &group);
    if (rc == AT_OK && at_h5_has_fact(d->f, "preference"))
        rc = at_h5_get_int(cx, d->f, "preference", &preference);
    if (rc < 0)
        return rc;
    if (group < 1 || (uint64_t)group > d->n_docs ||
        d->n_docs % (uint64_t)group || (preference && group != 2))
        return at_fail(cx, AT_EFORMAT, "%s: %llu documents are not whole groups "
                       "of %lld", at_h5_path(d->f),
                       (unsigned long long)d->n_docs, (long long)group);
    d->group = (size_t)group;
    d->preference = preference != 0;
    return AT_OK;
}

static int get_scores(struct at_ctx *cx, const struct at_data *d, float *score,
                      size_t n)
{
    enum { BLOCK = 4096 };
    double part[BLOCK];
    int rc = at_h5_verify(cx, d->f, "rewards");
    for (size_t at = 0; at < n && rc == AT_OK; at += BLOCK) {
        size_t m = n - at < BLOCK ? n - at : BLOCK;
        rc = at_h5_get_part(cx, d->f, "rewards", AT_H5_F64, at, m, part);
        for (size_t i = 0; i < m && rc == AT_OK; i++) {
            score[at + i] = (float)part[i];
            if (!isfinite(score[at + i]))
                rc = at_fail(cx, AT_EFORMAT, "%s: score %zu is not finite",
                             at_h5_path(d->f), at + i);
        }
    }
    return rc;
}

/* One name a line, as in a table of rewards.                                 */
static int read_scores(struct at_ctx *cx, struct at_arena *a, struct at_data *d)
{
    enum { MOST = 256 };
    const char *text, **name = at_alloc_n(cx, a, MOST, sizeof *name);
    struct at_h5_info info;
    float *score;
    size_t n;
    int rc = name ? at_h5_info(cx, d->f, "rewards", &info) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_h5_get_text(cx, d->f, "values", a, &text);
    if (rc < 0)
        return rc;
    while (d->n_scores < MOST && *text) {
        n = strcspn(text, "\n");
        name[d->n_scores] = at_strndup(cx, a, text, n);
        if (!name[d->n_scores++])
            return AT_ENOMEM;
        text += n + (text[n] == '\n');
    }
    n = d->n_docs * d->n_scores;
    if (info.type != AT_H5_F64 || info.n_dims != 1 || info.n != n)
        return at_fail(cx, AT_EFORMAT, "%s: its scores do not fit its documents",
                       at_h5_path(d->f));
    score = at_alloc_n(cx, a, n, sizeof *score);
    rc = score ? get_scores(cx, d, score, n) : AT_ENOMEM;
    d->score_name = name;
    d->score = score;
    return rc;
}

static int read_labels(struct at_ctx *cx, struct at_arena *a, struct at_data *d)
{
    const char *text, **name;
    size_t n = (size_t)d->n_docs, most = 1;
    uint32_t *label = at_alloc_n(cx, a, n, sizeof *label);
    int rc = at_h5_get_text(cx, d->f, "labels", a, &text);
    if (rc == AT_OK)
        rc = label ? at_h5_get(cx, d->f, "label", AT_H5_U32, 1, &n, label)
                   : AT_ENOMEM;
    if (rc < 0)
        return rc;
    for (const char *s = text; *s; s++)
        most += *s == '\n';
    name = at_alloc_n(cx, a, most, sizeof *name);
    for (; name && d->n_labels < most; d->n_labels++) {
        n = strcspn(text, "\n");
        name[d->n_labels] = at_strndup(cx, a, text, n);
        if (!name[d->n_labels])
            return AT_ENOMEM;
        text += n + (text[n] == '\n');
    }
    d->label_name = name;
    d->label = label;
    for (uint64_t i = 0; name && i < d->n_docs; i++)
        if (label[i] >= d->n_labels)
            return at_fail(cx, AT_EFORMAT, "%s: document %llu has label %u of "
                           "%zu", at_h5_path(d->f), (unsigned long long)i,
                           label[i], d->n_labels);
    return name ? AT_OK : AT_ENOMEM;
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
    rc = read_groups(cx, d);
    if (rc == AT_OK && at_h5_has(d->f, "rewards"))
        rc = read_scores(cx, a, d);
    if (rc == AT_OK && at_h5_has(d->f, "label"))
        rc = read_labels(cx, a, d);
    if (rc < 0)
        return rc;
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
        rc = check_places(cx, d);
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

bool at_role_trained(uint8_t role, bool all_roles)
{
    return all_roles ? role != AT_ROLE_BOS
                     : role == AT_ROLE_COMPLETION || role == AT_ROLE_TEXT ||
                           role == AT_ROLE_EOS;
}

size_t at_data_sources(const struct at_data *d)
{
    size_t n = 0;
    for (const char *s = d->sources; (s = strchr(s, '\n')) != NULL; s++)
        n++;
    return n;
}

/* A line of the list of sources without its hash and size.                   */
int at_data_source(struct at_ctx *cx, struct at_arena *a,
                   const struct at_data *d, size_t which, const char **path)
{
    const char *s = d->sources;
    size_t n;
    char *copy;
    while (which > 0 && (s = strchr(s, '\n')) != NULL) {
        s++;
        which--;
    }
    n = s ? strcspn(s, "\n") : 0;
    for (int words = 0; words < 2; words++)
        while (n > 0 && s[--n] != ' ')
            ;
    if (n == 0)
        return at_fail(cx, AT_EFORMAT, "%s: a document has no source",
                       at_h5_path(d->f));
    copy = at_strndup(cx, a, s, n);
    *path = copy;
    return copy ? AT_OK : AT_ENOMEM;
}

int at_data_place(struct at_ctx *cx, struct at_arena *a,
                  const struct at_data *d, uint64_t doc, const char **path,
                  uint64_t *line)
{
    uint32_t source;
    int rc = at_h5_get_part(cx, d->f, "source", AT_H5_U32, doc, 1, &source);
    if (rc == AT_OK)
        rc = at_h5_get_part(cx, d->f, "line", AT_H5_U64, doc, 1, line);
    return rc < 0 ? rc : at_data_source(cx, a, d, source, path);
}

/* What a terminal would take as a command is shown by its number.            */
static void add_shown(struct at_text *t, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < ' ' && c != '\n' && c != '\t') || c == 0x7F)
            at_text_addf(t, "\\x%02x", c);
        else
            at_text_add(t, s + i, 1);
    }
}

static void add_tokens(struct at_text *t, const struct at_data *d,
                       const int32_t *ids, const uint8_t *roles, size_t n,
                       bool all_roles, bool colour)
{
    static const char *const marks[2][2] = { { "\u27E7", "\u27E6" },
                                             { "\033[0m", "\033[1;32m" } };
    int32_t prev = AT_TOK_NONE;
    bool on = false;
    for (size_t i = 0; i <= n; i++) {
        bool want = i > 0 && i < n && at_role_trained(roles[i], all_roles);
        size_t len;
        const char *s;
        if (want != on)
            at_text_addf(t, "%s", marks[colour][want]);
        on = want;
        if (i == n)
            break;
        s = at_tok_step(d->tok, prev, ids[i], &len);
        add_shown(t, s, len);
        prev = ids[i];
    }
}

static bool in_split(const struct at_data *d, enum at_split s, uint64_t doc)
{
    uint64_t lo = 0, hi = d->n_split[s];
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (d->doc[s][mid] < doc)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < d->n_split[s] && d->doc[s][lo] == doc;
}

/* "  document 3 (training), in.jsonl:4: 12 tokens, 5 trained (41.7 %): 7
 * prompt, 4 completion, 1 eos"                                               */
static void add_summary(struct at_text *t, const struct at_data *d,
                        uint64_t doc, const char *path, uint64_t line,
                        const uint8_t *roles, size_t n, bool all_roles)
{
    size_t count[AT_ROLES] = { 0 }, trained = 0;
    const char *before = ": ";
    for (size_t i = 0; i < n; i++) {
        count[roles[i]]++;
        trained += i > 0 && at_role_trained(roles[i], all_roles);
    }
    at_text_addf(t, "\n  document %llu (%s), %s:%llu: %zu tokens, %zu trained "
                 "(%.1f %%)", (unsigned long long)doc,
                 in_split(d, AT_TRAIN, doc) ? "training" : "validation", path,
                 (unsigned long long)line, n, trained,
                 100.0 * (double)trained / (double)n);
    for (int r = 0; r < AT_ROLES; r++)
        if (count[r]) {
            at_text_addf(t, "%s%zu %s", before, count[r], at_role_names[r]);
            before = ", ";
        }
    if (d->n_labels)
        at_text_addf(t, "; label %s", d->label_name[d->label[doc]]);
    at_text_addf(t, "\n");
}

int at_data_show(struct at_ctx *cx, const struct at_data *d, uint64_t doc,
                 bool all_roles, bool colour, struct at_text *t)
{
    struct at_arena a = { 0 };
    const char *path;
    uint64_t line;
    int32_t *ids;
    uint8_t *roles;
    size_t n;
    int rc;
    if (doc >= d->n_docs)
        return at_fail(cx, AT_EINVAL, "document %llu does not exist: there are "
                       "%llu", (unsigned long long)doc,
                       (unsigned long long)d->n_docs);
    n = d->offset[doc + 1] - d->offset[doc];
    ids = at_alloc_n(cx, &a, n, sizeof *ids);
    roles = at_alloc(cx, &a, n);
    rc = ids && roles ? at_data_read(cx, d, d->offset[doc], n, ids, roles)
                      : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_data_place(cx, &a, d, doc, &path, &line);
    if (rc == AT_OK) {
        add_tokens(t, d, ids, roles, n, all_roles, colour);
        add_summary(t, d, doc, path, line, roles, n, all_roles);
        rc = at_text_ok(cx, t);
    }
    at_arena_finish(&a);
    return rc;
}
