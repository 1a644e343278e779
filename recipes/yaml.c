/* YAML events to values.  Only maps, lists and scalars: anchors, aliases, tags
 * and a second document are faults, and depth is limited, so that a file
 * costs no more than its length.                                             */
#include "recipes/load.h"

#include <string.h>
#include <yaml.h>

enum { PATH_MAX_LEN = 200 };

struct reader {
    struct at_load *l;
    yaml_parser_t p;
    yaml_event_t ev;            /* the last one; freed by the next            */
};

static struct at_src place(const struct at_load *l, const yaml_mark_t *m)
{
    if (l->over)
        return (struct at_src){ l->over, 0, 0 };
    return (struct at_src){ l->r->file, (int)m->line + 1, (int)m->column + 1 };
}

static struct at_src here(const struct reader *y)
{
    return place(y->l, &y->ev.start_mark);
}

static void syntax_fault(struct reader *y)
{
    const yaml_parser_t *p = &y->p;
    struct at_load *l = y->l;
    if (p->error == YAML_MEMORY_ERROR) {
        l->rc = at_fail(l->cx, AT_ENOMEM, "out of memory: reading %s",
                        l->r->file);
        return;
    }
    if (p->error == YAML_READER_ERROR)
        at_load_fault(l, (struct at_src){ l->over ? l->over : l->r->file, 0,
                      0 }, "byte %zu: %s; the text must be UTF-8",
                      p->problem_offset + 1, p->problem);
    else if (p->error == YAML_SCANNER_ERROR && p->buffer.pointer &&
             p->buffer.pointer < p->buffer.last && *p->buffer.pointer == '\t')
        at_load_fault(l, place(l, &p->problem_mark),
                      "a tab; indent with spaces");
    else
        at_load_fault(l, place(l, &p->problem_mark), "not YAML: %s%s%s",
                      p->problem ? p->problem : "it cannot be read",
                      p->context ? " " : "", p->context ? p->context : "");
}

/* The next event; false when there is none to be had. */
static bool next(struct reader *y)
{
    yaml_event_delete(&y->ev);
    if (y->l->broken || y->l->rc < 0)
        return false;
    if (yaml_parser_parse(&y->p, &y->ev))
        return true;
    memset(&y->ev, 0, sizeof y->ev);
    y->l->broken = true;
    syntax_fault(y);
    return false;
}

/* Leaves the node that has just begun. */
static void skip(struct reader *y)
{
    int depth = 0;
    do {
        switch (y->ev.type) {
        case YAML_SEQUENCE_START_EVENT:
        case YAML_MAPPING_START_EVENT:
            if (++depth <= AT_DEPTH_MAX)
                break;
            at_load_fault(y->l, here(y), "nested too deep; a recipe has "
                          "groups and keys, no more");
            y->l->broken = true;
            return;
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT:
            depth--;
            break;
        default:
            break;
        }
    } while (depth > 0 && next(y));
}

/* Whether the node is one that recipes have; else its fault, once. */
static bool simple(struct reader *y)
{
    const yaml_event_t *e = &y->ev;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (e->type == YAML_ALIAS_EVENT) {
        at_load_fault(y->l, here(y), "an alias (*name); write the value out");
        return false;
    }
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    if (anchor)
        at_load_fault(y->l, here(y), "an anchor (&name); recipes have none: "
                      "put quotes around a text that begins with &");
    else if (tag)
        at_load_fault(y->l, here(y), "a tag (!name); recipes have none: put "
                      "quotes around a text that begins with !");
    return !anchor && !tag;
}

static const char *scalar(const struct reader *y, size_t *n)
{
    *n = y->ev.data.scalar.length;
    return (const char *)y->ev.data.scalar.value;
}

static bool quoted(const struct reader *y)
{
    return y->ev.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
}

/* Items up to the list's end, into v. */
static bool read_items(struct reader *y, const struct at_key *k,
                       struct at_value *v)
{
    struct at_load *l = y->l;
    const char **items = NULL, **kept;
    size_t n = 0, cap = 0;
    bool ok = true;
    while (next(y) && y->ev.type != YAML_SEQUENCE_END_EVENT) {
        struct at_value item = { .text = "" };
        const char *s;
        size_t len;
        if (!simple(y) || y->ev.type != YAML_SCALAR_EVENT) {
            if (y->ev.type != YAML_SCALAR_EVENT &&
                y->ev.type != YAML_ALIAS_EVENT)
                at_load_fault(l, here(y), "%s is a list of texts; this item is "
                              "none", k->name);
            skip(y);
            ok = false;
            continue;
        }
        if (n == AT_LIST_MAX) {
            at_load_fault(l, here(y), "%s has more than %d items", k->name,
                          AT_LIST_MAX);
            l->broken = true;
            break;
        }
        s = scalar(y, &len);
        ok &= at_value_read(l, k, s, len, quoted(y), here(y), &item);
        if (at_grow(l->cx, &items, &cap, n + 1, sizeof *items) < 0) {
            l->rc = AT_ENOMEM;
            break;
        }
        items[n++] = item.text;
    }
    kept = at_alloc_n(l->cx, l->arena, n + 1, sizeof *kept);
    if (!kept)
        l->rc = AT_ENOMEM;
    else if (n)
        memcpy(kept, items, n * sizeof *kept);
    at_free(items);
    v->list = (struct at_strings){ kept, n };
    return ok && !l->broken && l->rc == AT_OK;
}

static bool read_leaf(struct reader *y, const struct at_key *k,
                      struct at_value *v)
{
    bool list = k->type == AT_T_LIST;
    const char *s;
    size_t n;
    if (!simple(y)) {
        skip(y);
        return false;
    }
    if (list && y->ev.type == YAML_SEQUENCE_START_EVENT)
        return read_items(y, k, v);
    if (!list && y->ev.type == YAML_SCALAR_EVENT) {
        s = scalar(y, &n);
        return at_value_read(y->l, k, s, n, quoted(y), here(y), v);
    }
    at_load_fault(y->l, here(y), list ? "%s is a list; write [a text, another]"
                  : "%s is a single value, not a list or a group", k->name);
    skip(y);
    return false;
}

static void read_key(struct reader *y, const struct at_key *k)
{
    struct at_load *l = y->l;
    struct at_value *v = &l->r->value[k - at_keys];
    struct at_value fresh = { .text = "", .given = true,
                              .over = l->over != NULL, .src = here(y) };
    if (!l->over && v->given) {
        at_load_fault(l, fresh.src, "%s is spelled twice; the first is in line "
                      "%d: remove one", k->name, v->src.line);
        skip(y);
        return;
    }
    fresh.bad = !read_leaf(y, k, &fresh);
    *v = fresh;
}

static bool word_in(const char *word, const char *list)
{
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p++)
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || p[n] == '\0'))
            return true;
    return false;
}

/* The key that was likely meant: another name of it, its last part in another
 * group, or a near spelling.                                                 */
static const char *meant(const char *path)
{
    enum { MAX = 256 };
    const char *dot = strrchr(path, '.'), *leaf = dot ? dot + 1 : path;
    const char *names[MAX], *near;
    size_t n = 0;
    if (strlen(path) > 64 || !*leaf)
        return NULL;
    for (size_t i = 0; i < at_n_keys && n < MAX; i++)
        names[n++] = at_keys[i].name;
    for (size_t i = 0; i < at_n_key_groups && n < MAX; i++)
        names[n++] = at_key_groups[i].name;
    for (size_t i = 0; i < at_n_keys; i++) {
        size_t m = strlen(at_keys[i].name), len = strlen(leaf);
        if (at_keys[i].also && word_in(leaf, at_keys[i].also))
            return at_keys[i].name;
        if (m > len && at_keys[i].name[m - len - 1] == '.' &&
            strcmp(at_keys[i].name + m - len, leaf) == 0)
            return at_keys[i].name;
    }
    near = at_did_you_mean(path, names, n);
    if (near)
        return near;
    for (size_t i = 0; i < at_n_keys; i++) {
        const char *d = strrchr(at_keys[i].name, '.');
        names[i] = d ? d + 1 : at_keys[i].name;
    }
    near = at_did_you_mean(leaf, names, at_n_keys);
    for (size_t i = 0; near && i < at_n_keys; i++)
        if (names[i] == near)
            return at_keys[i].name;
    return NULL;
}

static void unknown(struct at_load *l, struct at_src at, const char *path)
{
    char buf[64];
    const char *near = at_load_full(l) ? NULL : meant(path);
    at_load_fault(l, at, "there is no key '%s'%s%s%s",
                  at_load_shown(buf, path, strlen(path)),
                  near ? ": did you mean "
                       : "; `attune recipe keys` lists them",
                  near ? near : "", near ? "?" : "");
}

static void read_node(struct reader *y, const char *path,
                      struct at_src key_at);

/* The entries of a map up to its end; `prefix` is "" or "group.". */
static void read_map(struct reader *y, const char *prefix)
{
    struct at_load *l = y->l;
    while (next(y) && y->ev.type != YAML_MAPPING_END_EVENT) {
        char path[PATH_MAX_LEN];
        struct at_src at = here(y);
        const char *s;
        size_t n;
        if (y->ev.type != YAML_SCALAR_EVENT || !simple(y)) {
            if (y->ev.type != YAML_SCALAR_EVENT)
                at_load_fault(l, at, "a key must be a name");
            skip(y);
            if (next(y))
                skip(y);
            continue;
        }
        s = scalar(y, &n);
        snprintf(path, sizeof path, "%s%s", prefix, s);
        if (n != strlen(s) || n >= PATH_MAX_LEN - strlen(prefix))
            snprintf(path, sizeof path, "?");
        if (next(y))
            read_node(y, path, at);
    }
}

static void read_group(struct reader *y, size_t g, struct at_src key_at)
{
    struct at_load *l = y->l;
    char prefix[64];
    if (!l->over && l->group_src[g].line) {
        at_load_fault(l, key_at, "the group %s is opened twice; the first is "
                      "in line %d: join them", at_key_groups[g].name,
                      l->group_src[g].line);
        skip(y);
        return;
    }
    if (!l->over)
        l->group_src[g] = key_at;
    if (!simple(y)) {
        skip(y);
        return;
    }
    if (y->ev.type == YAML_MAPPING_START_EVENT) {
        snprintf(prefix, sizeof prefix, "%s.", at_key_groups[g].name);
        read_map(y, prefix);
        return;
    }
    if (y->ev.type != YAML_SCALAR_EVENT || y->ev.data.scalar.length > 0)
        at_load_fault(l, here(y), "%s is a group of keys: write them under it, "
                      "indented", at_key_groups[g].name);
    skip(y);                            /* "lora:" with all keys commented   */
}

static void read_node(struct reader *y, const char *path,
                      struct at_src key_at)
{
    const struct at_key *k = at_key_find(path);
    if (k) {
        read_key(y, k);
        return;
    }
    for (size_t g = 0; g < at_n_key_groups; g++)
        if (strcmp(at_key_groups[g].name, path) == 0) {
            read_group(y, g, key_at);
            return;
        }
    unknown(y->l, key_at, path);
    skip(y);
}

/* The one document; its root belongs to `path`, or is the map of all keys. */
static void read_document(struct reader *y, const char *path)
{
    struct at_load *l = y->l;
    struct at_src start = { l->over ? l->over : l->r->file, 0, 0 };
    if (!next(y) || !next(y) || y->ev.type == YAML_STREAM_END_EVENT)
        return;                         /* nothing but comments              */
    if (!next(y))
        return;
    if (path)
        read_node(y, path, start);
    else if (!simple(y))
        skip(y);
    else if (y->ev.type == YAML_MAPPING_START_EVENT)
        read_map(y, "");
    else {
        at_load_fault(l, here(y), "a recipe is a map of keys, such as 'seed: "
                      "1'");
        skip(y);
    }
    if (next(y) && next(y) && y->ev.type != YAML_STREAM_END_EVENT)
        at_load_fault(l, here(y), "a second document; a recipe is one: remove "
                      "the '---'");
}

static void read_yaml(struct at_load *l, const char *text, size_t n,
                      const char *path)
{
    struct reader y = { .l = l };
    if (!yaml_parser_initialize(&y.p)) {
        l->rc = at_fail(l->cx, AT_ENOMEM, "out of memory: reading %s",
                        l->r->file);
        return;
    }
    yaml_parser_set_encoding(&y.p, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&y.p, (const unsigned char *)text, n);
    read_document(&y, path);
    yaml_event_delete(&y.ev);
    yaml_parser_delete(&y.p);
}

void at_load_yaml(struct at_load *l, const char *text, size_t n)
{
    read_yaml(l, text, n, NULL);
}

void at_load_override(struct at_load *l, const char *path, const char *text)
{
    const struct at_key *k = at_key_find(path);
    struct at_src at = { l->over, 0, 0 };
    bool words = k && (k->type == AT_T_TEXT || k->type == AT_T_PATTERN ||
                       k->type == AT_T_PATH);
    if (words && *text != '"' && *text != '\'') {
        struct at_value v = { .text = "", .given = true, .over = true,
                              .src = at };
        v.bad = !at_value_read(l, k, text, strlen(text), true, at, &v);
        l->r->value[k - at_keys] = v;
        return;
    }
    read_yaml(l, *text ? text : "~", *text ? strlen(text) : 1, path);
    l->broken = false;                  /* the next one stands by itself     */
}
