/* The part of a report on what a run's texts are worth.                      */
#ifndef AT_REPORT_VALUES_H
#define AT_REPORT_VALUES_H

#include "base/base.h"

/* Appends target against realised, and a chart for each value, of
 * DIR/values.jsonl; nothing when there is none.  name: of the run among
 * several, or NULL.                                                          */
int at_report_values(struct at_ctx *cx, struct at_arena *a, const char *dir,
                     const char *name, struct at_text *t);

#endif
