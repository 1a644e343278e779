/* One value: from text by its key's type and range, and back to text. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "recipes/load.h"

#include <errno.h>
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum { PATTERN_MAX = 1000, NUMBER_MAX = 40 };

static const double EXACT = 9007199254740992.0;     /* 2^53                   */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static size_t digits(const char *s)
{
    size_t n = 0;
    while (is_digit(s[n]))
        n++;
    return n;
}

/* [+-] digits [. digits] [e [+-] digits], with a digit before or after the
 * point: no hexadecimal, no underscores, no sizes; and no number that YAML
 * 1.1 would read as octal.                                                   */
static bool number(const char *s, double *x)
{
    const char *p = s;
    size_t whole, part = 0;
    char *end;
    if (*p == '+' || *p == '-')
        p++;
    whole = digits(p);
    if (whole > 1 && p[0] == '0')
        return false;
    p += whole;
    if (*p == '.') {
        part = digits(p + 1);
        p += 1 + part;
    }
    if (whole + part == 0)
        return false;
    if (*p == 'e' || *p == 'E') {
        size_t n;
        p++;
        if (*p == '+' || *p == '-')
            p++;
        n = digits(p);
        if (n == 0)
            return false;
        p += n;
    }
    if (*p)
        return false;
    *x = strtod(s, &end);
    return end == p;
}

/* The spellings of infinity and NaN, so that the range can be named. */
static bool not_finite(const char *s)
{
    static const char *const word[] = { ".inf", "inf", ".nan", "nan",
                                        "infinity" };
    if (*s == '+' || *s == '-')
        s++;
    for (size_t i = 0; i < AT_COUNT(word); i++)
        if (strlen(s) == strlen(word[i])) {
            size_t j = 0;
            while (s[j] && (s[j] | 0x20) == (word[i][j] | 0x20))
                j++;
            if (!s[j])
                return true;
        }
    return false;
}

static bool read_number(struct at_load *l, const struct at_key *k,
                        const char *s, size_t n, bool quoted,
                        struct at_src at, struct at_value *v)
{
    char buf[64];
    bool whole = k->type == AT_T_INT;
    double x = NAN;
    if (quoted) {
        at_load_fault(l, at, "%s is a text in quotes; it must be a number: "
                      "remove the quotes", k->name);
        return false;
    }
    if ((n > NUMBER_MAX || !number(s, &x)) && !not_finite(s)) {
        at_load_fault(l, at, "%s is '%s'; it must be %s", k->name,
                      at_load_shown(buf, s, n),
                      whole ? "a whole number such as 1000 or 1e3"
                            : "a number such as 0.1 or 1e-4");
        return false;
    }
    if (!(x >= k->min && x <= k->max)) {
        at_load_fault(l, at, "%s is %s; it must be between %.16g and %.16g",
                      k->name, at_load_shown(buf, s, n), k->min, k->max);
        return false;
    }
    if (whole && !(x >= -EXACT && x <= EXACT && x == floor(x))) {
        at_load_fault(l, at, "%s is %s; it must be a whole number", k->name,
                      at_load_shown(buf, s, n));
        return false;
    }
    v->x = x + 0.0;                     /* -0 is 0                           */
    v->i = whole ? (int64_t)x : 0;
    return true;
}

static bool read_bool(struct at_load *l, const struct at_key *k, const char *s,
                      size_t n, bool quoted, struct at_src at,
                      struct at_value *v)
{
    char buf[64];
    bool yes = strcmp(s, "true") == 0;
    if (quoted || (!yes && strcmp(s, "false") != 0)) {
        at_load_fault(l, at, "%s is '%s'; write true or false", k->name,
                      at_load_shown(buf, s, n));
        return false;
    }
    v->b = yes;
    return true;
}

/* The words of "a|b|c" as an array, in the arena. */
static size_t split(struct at_load *l, const char *choices, const char ***word)
{
    size_t n = 1, i = 0;
    char *s = at_strdup(l->cx, l->arena, choices);
    for (const char *p = choices; *p; p++)
        n += *p == '|';
    *word = at_alloc_n(l->cx, l->arena, n, sizeof **word);
    if (!s || !*word) {
        l->rc = AT_ENOMEM;
        return 0;
    }
    (*word)[i++] = s;
    for (; *s; s++)
        if (*s == '|') {
            *s = '\0';
            (*word)[i++] = s + 1;
        }
    return n;
}

static bool read_choice(struct at_load *l, const struct at_key *k,
                        const char *s, size_t n, struct at_src at,
                        struct at_value *v)
{
    const char **word, *near;
    char buf[64];
    size_t n_words = split(l, k->choices, &word);
    for (size_t i = 0; i < n_words; i++)
        if (strcmp(word[i], s) == 0) {
            v->text = word[i];
            return true;
        }
    if (l->rc < 0)
        return false;
    near = n < 64 ? at_did_you_mean(s, word, n_words) : NULL;
    at_load_fault(l, at, "%s is '%s'; it must be one of %s%s%s%s", k->name,
                  at_load_shown(buf, s, n), k->choices,
                  near ? ": did you mean " : "", near ? near : "",
                  near ? "?" : "");
    return false;
}

/* Compiled only to see that it can be; its user compiles it again. */
static bool check_pattern(struct at_load *l, const struct at_key *k,
                          const char *s, size_t n, struct at_src at)
{
    PCRE2_UCHAR why[128] = "";
    PCRE2_SIZE where = 0;
    pcre2_code *code;
    int err = 0;
    if (n > PATTERN_MAX) {
        at_load_fault(l, at, "%s is %zu bytes long; a pattern has at most %d",
                      k->name, n, PATTERN_MAX);
        return false;
    }
    code = pcre2_compile((PCRE2_SPTR)s, n, PCRE2_UTF, &err, &where, NULL);
    if (!code) {
        char buf[64];
        pcre2_get_error_message(err, why, sizeof why);
        at_load_fault(l, at, "%s is '%s', which is no pattern: %s, at "
                      "character %zu; see pcre2pattern(3)", k->name,
                      at_load_shown(buf, s, n), (char *)why,
                      (size_t)where + 1);
        return false;
    }
    pcre2_code_free(code);
    return true;
}

static bool is_null(const char *s)
{
    return !*s || strcmp(s, "~") == 0 || strcmp(s, "null") == 0 ||
           strcmp(s, "Null") == 0 || strcmp(s, "NULL") == 0;
}

bool at_value_read(struct at_load *l, const struct at_key *k, const char *s,
                   size_t n, bool quoted, struct at_src at,
                   struct at_value *v)
{
    if (memchr(s, '\0', n)) {
        at_load_fault(l, at, "%s holds a NUL character; remove it", k->name);
        return false;
    }
    if (!quoted && is_null(s)) {
        at_load_fault(l, at, "%s has no value; give it one, write '' for an "
                      "empty text, or remove the line", k->name);
        return false;
    }
    switch (k->type) {
    case AT_T_INT:
    case AT_T_REAL:
        return read_number(l, k, s, n, quoted, at, v);
    case AT_T_BOOL:
        return read_bool(l, k, s, n, quoted, at, v);
    case AT_T_CHOICE:
        return read_choice(l, k, s, n, at, v);
    case AT_T_PATTERN:
        if (!check_pattern(l, k, s, n, at))
            return false;
        break;
    case AT_T_TEXT:
    case AT_T_PATH:
    case AT_T_LIST:
        break;
    }
    v->text = at_strndup(l->cx, l->arena, s, n);
    if (!v->text)
        l->rc = AT_ENOMEM;
    return v->text != NULL;
}

bool at_value_default(struct at_load *l, const struct at_key *k)
{
    struct at_value *v = &l->r->value[k - at_keys];
    struct at_src file = { l->r->file, 0, 0 };
    *v = (struct at_value){ .text = "", .src = file };
    if (k->type == AT_T_LIST)           /* a list's default is always []     */
        return true;
    return at_value_read(l, k, k->fallback, strlen(k->fallback),
                         !*k->fallback, file, v);
}

bool at_value_set(const struct at_key *k, const struct at_value *v)
{
    switch (k->type) {
    case AT_T_INT: return v->i != 0;
    case AT_T_REAL: return v->x != 0;
    case AT_T_BOOL: return v->b;
    case AT_T_LIST: return v->list.n > 0;
    case AT_T_TEXT:
    case AT_T_CHOICE:
    case AT_T_PATTERN:
    case AT_T_PATH: break;
    }
    return *v->text && strcmp(v->text, "none") != 0;
}

/* Whether `word` is one of "a|b|c". */
static bool among(const char *word, const char *choices)
{
    size_t n = strlen(word);
    for (const char *p = choices; p; p = strchr(p, '|')) {
        p += *p == '|';
        if (strncmp(p, word, n) == 0 && (p[n] == '|' || p[n] == '\0'))
            return true;
    }
    return false;
}

bool at_key_used(const struct at_recipe *r, const struct at_key *k)
{
    char name[64];
    const char *eq;
    const struct at_key *on;
    const struct at_value *v;
    if (!k->with)
        return true;
    eq = strchr(k->with, '=');
    snprintf(name, sizeof name, "%.*s",
             (int)(eq ? (size_t)(eq - k->with) : strlen(k->with)), k->with);
    on = at_key_find(name);
    v = &r->value[on - at_keys];
    if (v->bad)                         /* its own fault is enough           */
        return true;
    return eq ? among(v->text, eq + 1)
              : at_value_set(on, v) && at_key_used(r, on);
}

/* ---- to text ------------------------------------------------------------- */

/* What YAML lets stand unescaped and unfolded, beyond ASCII. */
static bool printable(uint32_t c)
{
    return (c >= 0x20 && c <= 0x7E) || (c >= 0xA0 && c <= 0xD7FF &&
           c != 0x2028 && c != 0x2029) || (c >= 0xE000 && c <= 0xFFFD &&
           c != 0xFEFF) || (c >= 0x10000 && c <= 0x10FFFF);
}

/* Needs no quotes anywhere. */
static bool plain(const char *s)
{
    static const char safe[] = "-abcdefghijklmnopqrstuvwxyz"
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./";
    return *s && *s != '-' && !s[strspn(s, safe)] && !is_null(s);
}

static void print_escaped(const char *s, size_t n, struct at_text *out)
{
    at_text_add(out, "\"", 1);
    for (size_t i = 0; i < n;) {
        uint32_t c = 0xFFFD;
        size_t len = at_utf8(s + i, n - i, &c);
        if (c == '"' || c == '\\')
            at_text_addf(out, "\\%c", (int)c);
        else if (c == '\n')
            at_text_add(out, "\\n", 2);
        else if (len && printable(c))
            at_text_add(out, s + i, len);
        else if (c <= 0xFFFF)
            at_text_addf(out, "\\u%04X", (unsigned)c);
        else
            at_text_addf(out, "\\U%08X", (unsigned)c);
        i += len ? len : 1;
    }
    at_text_add(out, "\"", 1);
}

static void print_text(const char *s, struct at_text *out)
{
    size_t n = strlen(s);
    bool simple = true;
    if (plain(s)) {
        at_text_add(out, s, n);
        return;
    }
    for (size_t i = 0; i < n && simple;) {
        uint32_t c;
        size_t len = at_utf8(s + i, n - i, &c);
        simple = len && printable(c);
        i += len;
    }
    if (!simple) {
        print_escaped(s, n, out);
        return;
    }
    at_text_add(out, "'", 1);
    for (size_t i = 0; i < n; i++)
        at_text_add(out, s[i] == '\'' ? "''" : s + i, s[i] == '\'' ? 2 : 1);
    at_text_add(out, "'", 1);
}

static void print_real(double x, struct at_text *out)
{
    char buf[40];
    for (int digits_n = 15; digits_n <= 17; digits_n++) {
        snprintf(buf, sizeof buf, "%.*g", digits_n, x);
        if (strtod(buf, NULL) == x)
            break;
    }
    at_text_add(out, buf, strlen(buf));
}

void at_value_print(const struct at_key *k, const struct at_value *v,
                    struct at_text *out)
{
    switch (k->type) {
    case AT_T_INT:
        at_text_addf(out, "%lld", (long long)v->i);
        break;
    case AT_T_REAL:
        print_real(v->x, out);
        break;
    case AT_T_BOOL:
        at_text_addf(out, "%s", v->b ? "true" : "false");
        break;
    case AT_T_LIST:
        at_text_add(out, "[", 1);
        for (size_t i = 0; i < v->list.n; i++) {
            at_text_add(out, ", ", i ? 2 : 0);
            print_escaped(v->list.s[i], strlen(v->list.s[i]), out);
        }
        at_text_add(out, "]", 1);
        break;
    case AT_T_TEXT:
    case AT_T_CHOICE:
    case AT_T_PATTERN:
    case AT_T_PATH:
        print_text(v->text, out);
        break;
    }
}
