/* Patterns through PCRE2. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/base.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

struct at_pattern {
    pcre2_code *code;
    pcre2_match_data *match;
};

int at_pattern_create(struct at_ctx *cx, const char *pattern,
                      struct at_pattern **made)
{
    struct at_pattern *p = calloc(1, sizeof *p);
    int err = 0;
    PCRE2_SIZE where = 0;
    if (!p)
        return at_fail(cx, AT_ENOMEM, "out of memory: a pattern");
    p->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                            PCRE2_UTF, &err, &where, NULL);
    if (!p->code) {
        PCRE2_UCHAR why[128] = "";
        pcre2_get_error_message(err, why, sizeof why);
        at_pattern_destroy(p);
        return at_fail(cx, AT_EINVAL, "the pattern '%s': %s at character %zu",
                       pattern, (const char *)why, (size_t)where + 1);
    }
    p->match = pcre2_match_data_create(1, NULL);
    if (!p->match) {
        at_pattern_destroy(p);
        return at_fail(cx, AT_ENOMEM, "out of memory: a pattern");
    }
    *made = p;
    return AT_OK;
}

bool at_pattern_finds(const struct at_pattern *p, const char *text)
{
    return pcre2_match(p->code, (PCRE2_SPTR)text, strlen(text), 0, 0, p->match,
                       NULL) >= 0;
}

void at_pattern_destroy(struct at_pattern *p)
{
    if (!p)
        return;
    pcre2_match_data_free(p->match);
    pcre2_code_free(p->code);
    free(p);
}
