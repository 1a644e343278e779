/* What every test file needs: cmocka with its own prerequisites, and base. */
#ifndef AT_TEST_H
#define AT_TEST_H

#include "base/base.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* Passes rc through after printing the recorded error, so that a failing
 * assert_int_equal(OK(&cx, f()), AT_OK) says why.                            */
static inline int test_ok(struct at_ctx *cx, int rc)
{
    if (rc < 0)
        print_error("%s\n", cx->err.msg);
    return rc;
}
#define OK(cx, call) assert_int_equal(test_ok(cx, call), AT_OK)

#endif
