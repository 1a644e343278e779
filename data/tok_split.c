/* Text to words: the pre-tokenizer pattern by PCRE2, and for GPT-2's pattern
 * a scanner that does the ASCII words itself (tests hold the two equal).
 *
 * Only valid UTF-8 is shown to PCRE2.  A text is cut into stretches of valid
 * UTF-8 and runs of other bytes; each run is a word.                         */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/tok.h"

#include <pcre2.h>
#include <string.h>

const char *const at_tok_gpt2_pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+"
    "|\\s+(?!\\S)|\\s+";

enum { MATCH_LIMIT = 1000000, STACK_MAX = 1 << 20 };

struct tok_regex {
    struct at_arena mem;            /* everything of PCRE2 but the JIT's     */
    struct at_ctx *cx;              /* of the call now running               */
    pcre2_general_context *general;
    pcre2_code *code;
    pcre2_match_data *found;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
    bool ascii;                     /* GPT-2's pattern                       */
};

static void *take(size_t n, void *self)
{
    struct tok_regex *re = self;
    return at_alloc(re->cx, &re->mem, n);
}

static void leave(void *p, void *self)
{
    (void)p, (void)self;            /* the arena goes as a whole             */
}

/* \s is the Unicode property White_Space to the world's tokenizers; PCRE2's
 * own also has U+180E.  to: room for 15 bytes per byte of the pattern.       */
static size_t translate(const char *pattern, char *to)
{
    size_t n = 0;
    for (const char *p = pattern; *p; p++) {
        to[n++] = *p;
        if (*p != '\\' || p[1] == '\0')
            continue;
        p++;
        if (*p != 's' && *p != 'S') {
            to[n++] = *p;
            continue;
        }
        memcpy(to + n, *p == 's' ? "p{White_Space}" : "P{White_Space}", 14);
        n += 14;
    }
    return n;
}

static int compile(struct at_ctx *cx, struct tok_regex *re,
                   const char *pattern)
{
    pcre2_compile_context *how = pcre2_compile_context_create(re->general);
    char *text = at_alloc(cx, &re->mem, 15 * strlen(pattern) + 1);
    unsigned char why[128];
    int error;
    size_t where;
    if (!how || !text)
        return AT_ENOMEM;
    pcre2_set_parens_nest_limit(how, 50);
    re->code = pcre2_compile((const unsigned char *)text,
                             translate(pattern, text),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                             &error, &where, how);
    if (re->code)
        return AT_OK;
    if (error == PCRE2_ERROR_HEAP_FAILED)
        return AT_ENOMEM;           /* take() has said so                    */
    pcre2_get_error_message(error, why, sizeof why);
    return at_fail(cx, AT_EINVAL, "tokenizer: the pattern '%.200s' does not "
                   "compile: %s at byte %zu", pattern, (char *)why, where);
}

static int prepare(struct at_ctx *cx, struct tok_regex *re, bool jit)
{
    re->found = pcre2_match_data_create(1, re->general);
    re->limits = pcre2_match_context_create(re->general);
    if (!re->found || !re->limits)
        return AT_ENOMEM;
    pcre2_set_match_limit(re->limits, MATCH_LIMIT);
    if (!jit)
        return AT_OK;
    if (pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE) != 0) {
        at_log(cx, AT_LOG_DEBUG, "PCRE2 has no JIT here: words are found more "
               "slowly");
        return AT_OK;
    }
    re->stack = pcre2_jit_stack_create(32 << 10, STACK_MAX, re->general);
    if (!re->stack)
        return at_fail(cx, AT_ENOMEM, "out of memory: PCRE2's stack");
    pcre2_jit_stack_assign(re->limits, NULL, re->stack);
    return AT_OK;
}

int tok_regex_create(struct at_ctx *cx, const char *pattern, bool jit,
                     struct tok_regex **regex)
{
    struct at_arena mem = { 0 };
    struct tok_regex *re = at_alloc(cx, &mem, sizeof *re);
    int rc;
    if (!re) {
        at_arena_finish(&mem);
        return AT_ENOMEM;
    }
    re->mem = mem;
    re->cx = cx;
    re->ascii = strcmp(pattern, at_tok_gpt2_pattern) == 0;
    re->general = pcre2_general_context_create(take, leave, re);
    rc = re->general ? compile(cx, re, pattern) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = prepare(cx, re, jit);
    if (rc < 0) {
        tok_regex_destroy(re);
        return rc;
    }
    *regex = re;
    return AT_OK;
}

void tok_regex_destroy(struct tok_regex *re)
{
    struct at_arena mem;
    if (!re)
        return;
    pcre2_jit_stack_free(re->stack);
    pcre2_code_free(re->code);          /* the JIT's code is outside mem     */
    mem = re->mem;
    at_arena_finish(&mem);
}

void tok_regex_slow(struct tok_regex *re)
{
    re->ascii = false;
}

/* ---- GPT-2's pattern on ASCII ------------------------------------------------ */

enum { OTHER, LETTER, DIGIT, SPACE, HIGH };

static const unsigned char class[256] = {
    ['\t'] = SPACE, ['\n'] = SPACE, ['\v'] = SPACE, ['\f'] = SPACE,
    ['\r'] = SPACE, [' '] = SPACE,
    ['0'] = DIGIT, ['1'] = DIGIT, ['2'] = DIGIT, ['3'] = DIGIT, ['4'] = DIGIT,
    ['5'] = DIGIT, ['6'] = DIGIT, ['7'] = DIGIT, ['8'] = DIGIT, ['9'] = DIGIT,
#define L(c) [c] = LETTER, [(c) + 32] = LETTER
    L('A'), L('B'), L('C'), L('D'), L('E'), L('F'), L('G'), L('H'), L('I'),
    L('J'), L('K'), L('L'), L('M'), L('N'), L('O'), L('P'), L('Q'), L('R'),
    L('S'), L('T'), L('U'), L('V'), L('W'), L('X'), L('Y'), L('Z'),
#undef L
#define H(b) [b] = HIGH, [(b) + 1] = HIGH, [(b) + 2] = HIGH, [(b) + 3] = HIGH
    H(0x80), H(0x84), H(0x88), H(0x8C), H(0x90), H(0x94), H(0x98), H(0x9C),
    H(0xA0), H(0xA4), H(0xA8), H(0xAC), H(0xB0), H(0xB4), H(0xB8), H(0xBC),
    H(0xC0), H(0xC4), H(0xC8), H(0xCC), H(0xD0), H(0xD4), H(0xD8), H(0xDC),
    H(0xE0), H(0xE4), H(0xE8), H(0xEC), H(0xF0), H(0xF4), H(0xF8), H(0xFC),
#undef H
};

static size_t run(const unsigned char *s, size_t n, size_t at, unsigned kind)
{
    while (at < n && class[s[at]] == kind)
        at++;
    return at;
}

/* 's|'t|'re|'ve|'m|'ll|'d at s, which begins with the apostrophe.            */
static size_t contraction(const unsigned char *s, size_t n)
{
    if (n < 2)
        return 0;
    if (s[1] == 's' || s[1] == 't' || s[1] == 'm' || s[1] == 'd')
        return 2;
    if (n < 3)
        return 0;
    if ((s[1] == 'r' && s[2] == 'e') || (s[1] == 'v' && s[2] == 'e') ||
        (s[1] == 'l' && s[2] == 'l'))
        return 3;
    return 0;
}

/* Length of the word at s, or 0 when a byte over 0x7F has a say in it.       */
static size_t ascii_word(const unsigned char *s, size_t n)
{
    size_t at = 0, end;
    unsigned kind;
    if (s[0] == '\'' && (end = contraction(s, n)) != 0)
        return end;
    if (s[0] == ' ' && n > 1 && class[s[1]] != SPACE)
        at = 1;
    kind = class[s[at]];
    if (kind == HIGH)
        return 0;
    end = run(s, n, at, kind);
    if (end < n && class[s[end]] == HIGH)
        return 0;
    if (kind == SPACE && end < n && end > 1)
        end--;                          /* \s+(?!\S): one space is left      */
    return end;
}

/* ---- words -------------------------------------------------------------------- */

static size_t valid_run(const char *s, size_t n)
{
    const uint64_t high = UINT64_C(0x8080808080808080);
    size_t i = 0;
    for (;;) {
        uint64_t eight;
        uint32_t cp;
        size_t len;
        while (n - i >= 8) {
            memcpy(&eight, s + i, 8);
            if (eight & high)
                break;
            i += 8;
        }
        len = at_utf8(s + i, n - i, &cp);
        if (len == 0)
            return i;
        i += len;
    }
}

static size_t invalid_run(const char *s, size_t n)
{
    size_t i = 0;
    uint32_t cp;
    while (i < n && at_utf8(s + i, n - i, &cp) == 0)
        i++;
    return i;
}

/* The word at w->at by PCRE2; bytes before a match are a word of their own.  */
static int match(struct at_ctx *cx, struct tok_regex *re, struct tok_walk *w)
{
    const unsigned char *s = (const unsigned char *)w->s + w->from;
    const size_t *at;
    unsigned char why[128];
    int rc;
    re->cx = cx;
    rc = pcre2_match(re->code, s, w->to - w->from, w->at - w->from,
                     PCRE2_NOTEMPTY | PCRE2_NO_UTF_CHECK, re->found,
                     re->limits);
    if (rc == PCRE2_ERROR_NOMATCH) {
        w->at = w->to;
        return 1;
    }
    if (rc < 0) {
        pcre2_get_error_message(rc, why, sizeof why);
        return at_fail(cx, rc == PCRE2_ERROR_NOMEMORY ? AT_ENOMEM : AT_EINVAL,
                       "tokenizer: the pattern is too much work for this text "
                       "at byte %zu: %s", w->at, (char *)why);
    }
    at = pcre2_get_ovector_pointer(re->found);
    if (at[0] < w->at - w->from || at[1] <= at[0])
        return at_fail(cx, AT_EINVAL, "tokenizer: the pattern matches "
                       "backwards at byte %zu", w->at);
    w->at = w->from + (at[0] > w->at - w->from ? at[0] : at[1]);
    return 1;
}

int tok_walk_next(struct at_ctx *cx, struct tok_regex *re, struct tok_walk *w,
                  size_t *start)
{
    size_t len;
    *start = w->at;
    if (w->at == w->n)
        return 0;
    if (w->at == w->to) {
        len = valid_run(w->s + w->at, w->n - w->at);
        if (len == 0) {
            w->at += invalid_run(w->s + w->at, w->n - w->at);
            w->to = w->at;
            return 1;
        }
        w->from = w->at;
        w->to = w->at + len;
    }
    if (re->ascii) {
        len = ascii_word((const unsigned char *)w->s + w->at, w->to - w->at);
        if (len) {
            w->at += len;
            return 1;
        }
    }
    return match(cx, re, w);
}

/* Is the character that ends before s[i] certainly no white space?  Beyond
 * ASCII there are U+0085, U+00A0, and others from U+1680 to U+3000.          */
static bool after_word(const char *s, size_t i)
{
    uint32_t cp;
    if (class[(unsigned char)s[i - 1]] != HIGH)
        return class[(unsigned char)s[i - 1]] != SPACE;
    for (size_t len = 2; len <= 4 && len <= i; len++)
        if (at_utf8(s + i - len, len, &cp) == len)
            return (cp > 0xA0 && cp < 0x1680) || cp > 0x3000;
    return false;
}

size_t tok_cut(const char *s, size_t n, bool lines)
{
    for (size_t i = n; i-- > 1;)
        if ((lines ? s[i] == '\n' : class[(unsigned char)s[i]] == SPACE) &&
            after_word(s, i))
            return i;
    return 0;
}
