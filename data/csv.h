/* Rows of a table in text: a header of names, then fields between commas,
 * semicolons or tabs, quoted as in RFC 4180.  Internal to data.              */
#ifndef AT_CSV_H
#define AT_CSV_H

#include "data/input.h"

struct at_csv {                 /* to be read; changed by at_csv_* only       */
    const char **name;          /* [columns]; no NUL within                   */
    size_t columns;
    size_t n;                   /* fields of the row, whatever the header has */
    uint64_t line;              /* where the row begins, from 1               */
    struct csv_state *own;
};

/* Rows of lines (AT_LINES) of the file path; both must outlive it.  separator
 * 0: the one the first line has the most of.  names, "a,b,c": the table has no
 * header; NULL: it has, and that is read.                                    */
int at_csv_open(struct at_ctx *cx, const char *path, struct at_input *lines,
                char separator, const char *names, struct at_csv **csv);
/* The next row; *more false at the end.                                      */
int at_csv_next(struct at_ctx *cx, struct at_csv *csv, bool *more);
/* Field i < n of the row, ended by a NUL, until the next row.                */
const char *at_csv_field(const struct at_csv *csv, size_t i, size_t *n);
void at_csv_close(struct at_csv *csv);

#endif
