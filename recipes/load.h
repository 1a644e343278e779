/* What the files of recipes/ share. */
#ifndef AT_LOAD_H
#define AT_LOAD_H

#include "recipes/recipes.h"
#include "recipes/schema.h"

enum { AT_DEPTH_MAX = 8, AT_FAULTS_MAX = 20, AT_LIST_MAX = 1000 };

/* One value; which member counts is the key's type. */
struct at_value {
    int64_t i;
    double x;
    bool b;
    const char *text;
    struct at_strings list;
    struct at_src src;
    bool given;                 /* spelled out                                */
    bool over;                  /* on the command line                        */
    bool bad;                   /* spelled wrong: no rule looks at it         */
};

struct at_recipe {
    const char *file;
    struct at_value *value;     /* [at_n_keys]                                */
};

/* A recipe being loaded.  Faults are gathered as lines and reported once.    */
struct at_load {
    struct at_ctx *cx;
    struct at_arena *arena;
    struct at_recipe *r;
    struct at_src *group_src;   /* where a group was opened; line 0: not yet  */
    const char *over;           /* "command line: ..." while it is read       */
    bool broken;                /* the YAML cannot be read on                 */
    int rc;                     /* AT_ENOMEM sticks                           */
    size_t n_faults, n_text;
    char text[3800];            /* fits the context's message                 */
};

/* Adds a fault with its place. */
void at_load_fault(struct at_load *l, struct at_src at, const char *fmt, ...)
    AT_PRINTF(3, 4);
/* Whether more faults are worth wording. */
bool at_load_full(const struct at_load *l);
/* s[n] for a message: short, printable, in buf. */
const char *at_load_shown(char buf[64], const char *s, size_t n);

/* Reads a whole recipe file's text into l->r. */
void at_load_yaml(struct at_load *l, const char *text, size_t n);
/* Reads one override's value; k NULL: `path` is a group. */
void at_load_override(struct at_load *l, const char *path, const char *text);

/* A scalar into v by the key's type (a list's items are texts); false when it
 * was a fault.                                                               */
bool at_value_read(struct at_load *l, const struct at_key *k, const char *s,
                   size_t n, bool quoted, struct at_src at,
                   struct at_value *v);
bool at_value_set(const struct at_key *k, const struct at_value *v);
/* The value as YAML that reads back the same. */
void at_value_print(const struct at_key *k, const struct at_value *v,
                    struct at_text *out);
/* Whether k->with holds in r. */
bool at_key_used(const struct at_recipe *r, const struct at_key *k);
/* v becomes the key's default. */
bool at_value_default(struct at_load *l, const struct at_key *k);

#endif
