/* The tables of schema.c; inside recipes/ and its tests only. */
#ifndef AT_SCHEMA_H
#define AT_SCHEMA_H

#include "base/base.h"

enum at_type {
    AT_T_INT, AT_T_REAL, AT_T_BOOL, AT_T_TEXT, AT_T_CHOICE, AT_T_PATTERN,
    AT_T_PATH, AT_T_LIST,
};

struct at_key {
    const char *name;           /* dotted                                     */
    enum at_type type;
    double min, max;            /* numbers: both ends included                */
    const char *fallback;       /* default, as it would be written            */
    const char *unit;           /* NULL: none                                 */
    const char *choices;        /* "a|b|c"; choices only                      */
    const char *with;           /* the key has a use only when: "a.b" (a.b is
                                   set), "a.b=x|y"; NULL: always.  a.b stands
                                   earlier in the table                       */
    const char *also;           /* what others call it, for "did you mean"    */
    const char *help;
    bool required;
};

struct at_key_group { const char *name, *help; };

/* A value is set when it is not 0, false, empty or "none". */
enum at_rule_kind {
    AT_RULE_EITHER,             /* exactly one of a, b is set; an override of
                                   one resets the other                       */
    AT_RULE_NEEDS,              /* when a is set, b must be                   */
    AT_RULE_WHEN,               /* when a is `value`, b must be set          */
    AT_RULE_SUM,                /* a + b <= c, when c is set; b may be NULL   */
    AT_RULE_DIVIDES,            /* b is a multiple of a, when both are set    */
};

struct at_rule {
    enum at_rule_kind kind;
    const char *a, *b, *c, *value;
    const char *remedy;
};

extern const struct at_key at_keys[];
extern const size_t at_n_keys;
extern const struct at_key_group at_key_groups[];
extern const size_t at_n_key_groups;
extern const struct at_rule at_rules[];
extern const size_t at_n_rules;

/* The row of a dotted name, or NULL. */
const struct at_key *at_key_find(const char *name);
/* The group a key stands in, or NULL for the top level. */
const struct at_key_group *at_key_group_of(const struct at_key *k);

#endif
