/* Errors: a code, a place and a trail; and the log sink. */
#include "base/base.h"

#include <string.h>

static void put(char *buf, size_t cap, const char *fmt, va_list ap)
{
    size_t n = strlen(buf);
    if (n + 1 < cap)
        vsnprintf(buf + n, cap - n, fmt, ap);
}

static void putf(char *buf, size_t cap, const char *fmt, ...) AT_PRINTF(3, 4);
static void putf(char *buf, size_t cap, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put(buf, cap, fmt, ap);
    va_end(ap);
}

static void start(struct at_ctx *cx, int code)
{
    struct at_err *e = &cx->err;
    e->code = code;
    e->msg[0] = '\0';
    if (cx->at.file && cx->at.line > 0 && cx->at.col > 0)
        putf(e->msg, sizeof e->msg, "%s:%d:%d: ", cx->at.file, cx->at.line,
             cx->at.col);
    else if (cx->at.file && cx->at.line > 0)
        putf(e->msg, sizeof e->msg, "%s:%d: ", cx->at.file, cx->at.line);
    else if (cx->at.file)
        putf(e->msg, sizeof e->msg, "%s: ", cx->at.file);
}

void at_act_on(struct at_ctx *cx, const char *key)
{
    if (cx->src_of)
        cx->at = cx->src_of(cx->src_self, key);
}

int at_fail(struct at_ctx *cx, int code, const char *fmt, ...)
{
    va_list ap;
    start(cx, code);
    va_start(ap, fmt);
    put(cx->err.msg, sizeof cx->err.msg, fmt, ap);
    va_end(ap);
    return code;
}

int at_fail_errno(struct at_ctx *cx, int err, const char *fmt, ...)
{
    va_list ap;
    char why[128];
    int code = err == 2 ? AT_ENOENT : err == 12 ? AT_ENOMEM : AT_EIO;
    start(cx, code);
    va_start(ap, fmt);
    put(cx->err.msg, sizeof cx->err.msg, fmt, ap);
    va_end(ap);
    if (strerror_r(err, why, sizeof why) != 0)
        snprintf(why, sizeof why, "error %d", err);
    putf(cx->err.msg, sizeof cx->err.msg, ": %s", why);
    return code;
}

int at_note(struct at_ctx *cx, int rc, const char *fmt, ...)
{
    va_list ap;
    putf(cx->err.msg, sizeof cx->err.msg, "\n  while ");
    va_start(ap, fmt);
    put(cx->err.msg, sizeof cx->err.msg, fmt, ap);
    va_end(ap);
    return rc;
}

void at_log(struct at_ctx *cx, enum at_level level, const char *fmt, ...)
{
    char line[1024];
    va_list ap;
    if (!cx->log)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    cx->log(cx->log_self, level, line);
}
