/* Growing text, UTF-8, JSON strings, near words. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

static bool room(struct at_text *t, size_t n)
{
    size_t cap = t->cap ? t->cap : 256;
    char *s;
    if (t->failed)
        return false;
    if (n < SIZE_MAX - t->n - 1 && t->n + n + 1 <= t->cap)
        return true;
    while (cap < t->n + n + 1)
        cap *= 2;
    s = realloc(t->s, cap);
    if (!s) {
        t->failed = true;
        return false;
    }
    t->s = s;
    t->cap = cap;
    return true;
}

void at_text_add(struct at_text *t, const char *s, size_t n)
{
    if (!room(t, n))
        return;
    memcpy(t->s + t->n, s, n);
    t->n += n;
    t->s[t->n] = '\0';
}

void at_text_addf(struct at_text *t, const char *fmt, ...)
{
    va_list ap;
    int n;
    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !room(t, (size_t)n))
        return;
    va_start(ap, fmt);
    vsnprintf(t->s + t->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    t->n += (size_t)n;
}

size_t at_utf8(const char *s, size_t n, uint32_t *cp)
{
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    const unsigned char *u = (const unsigned char *)s;
    size_t len;
    uint32_t c;
    if (n == 0)
        return 0;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    len = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : u[0] >= 0xC0 ? 2 : 0;
    if (len == 0 || len > n || u[0] > 0xF4)
        return 0;
    c = u[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((u[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (u[i] & 0x3F);
    }
    if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return 0;
    *cp = c;
    return len;
}

static void json_char(struct at_text *t, char c)
{
    switch (c) {
    case '"': at_text_add(t, "\\\"", 2); break;
    case '\\': at_text_add(t, "\\\\", 2); break;
    case '\n': at_text_add(t, "\\n", 2); break;
    case '\r': at_text_add(t, "\\r", 2); break;
    case '\t': at_text_add(t, "\\t", 2); break;
    default:
        if ((unsigned char)c < 0x20)
            at_text_addf(t, "\\u%04x", (unsigned)c);
        else
            at_text_add(t, &c, 1);
    }
}

void at_text_json(struct at_text *t, const char *s, size_t n)
{
    at_text_add(t, "\"", 1);
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = at_utf8(s + i, n - i, &cp);
        if (len == 0) {
            at_text_add(t, "\xEF\xBF\xBD", 3);
            i++;
        } else if (len == 1) {
            json_char(t, s[i]);
            i++;
        } else {
            at_text_add(t, s + i, len);
            i += len;
        }
    }
    at_text_add(t, "\"", 1);
}

int at_text_ok(struct at_ctx *cx, const struct at_text *t)
{
    if (t->failed)
        return at_fail(cx, AT_ENOMEM, "out of memory: a text of %zu bytes",
                       t->n);
    return AT_OK;
}

void at_text_finish(struct at_text *t)
{
    free(t->s);
    *t = (struct at_text){ 0 };
}

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

size_t at_edit_distance(const char *a, const char *b)
{
    enum { MAX = 64 };
    size_t n = strlen(a), m = strlen(b);
    size_t d[3][MAX + 1];           /* rows i-2, i-1, i, turning             */
    if (n > MAX || m > MAX)
        return n > m ? n : m;
    for (size_t j = 0; j <= m; j++)
        d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = d[i % 3], *up = d[(i + 2) % 3], *up2 = d[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = min3(up[j] + 1, now[j - 1] + 1,
                          up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] &&
                a[i - 2] == b[j - 1] && up2[j - 2] + 1 < now[j])
                now[j] = up2[j - 2] + 1;
        }
    }
    return d[n % 3][m];
}

const char *at_did_you_mean(const char *word, const char *const *candidates,
                            size_t n)
{
    const char *best = NULL;
    size_t len = strlen(word), least = len / 3 + 1;
    for (size_t i = 0; i < n; i++) {
        size_t d = at_edit_distance(word, candidates[i]);
        if (d <= least) {
            least = d ? d - 1 : 0;
            best = candidates[i];
        }
    }
    return best;
}

const char *at_bytes_text(char buf[32], double n_bytes)
{
    static const char *const unit[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    size_t u = 0;
    while (n_bytes >= 1024.0 && u + 1 < AT_COUNT(unit)) {
        n_bytes /= 1024.0;
        u++;
    }
    snprintf(buf, 32, u ? "%.2f %s" : "%.0f %s", n_bytes, unit[u]);
    return buf;
}

int at_ranges(struct at_ctx *cx, const char *what, const char *text, bool *yes,
              size_t n)
{
    const char *p = text + strspn(text, " ,");
    while (*p) {
        char *end = NULL;
        bool digit = *p >= '0' && *p <= '9';
        unsigned long from = digit ? strtoul(p, &end, 10) : 0, to = from;
        if (digit && *end == '-' && end[1] >= '0' && end[1] <= '9')
            to = strtoul(end + 1, &end, 10);
        if (digit && to < from)
            return at_fail(cx, AT_EINVAL, "%s has %lu-%lu, which is backwards",
                           what, from, to);
        if (!digit || (*end && *end != ' ' && *end != ','))
            return at_fail(cx, AT_EINVAL, "%s is '%s'; it must be numbers and "
                           "ranges of them, such as '3 5 8-11'", what, text);
        if (to >= n)
            return at_fail(cx, AT_EINVAL, "%s has %lu; the largest there is is "
                           "%zu", what, to, n ? n - 1 : 0);
        for (; from <= to; from++) {
            if (yes[from])
                return at_fail(cx, AT_EINVAL, "%s names %lu twice", what, from);
            yes[from] = true;
        }
        p = end + strspn(end, " ,");
    }
    return AT_OK;
}
