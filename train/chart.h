/* chart: curves as one inline SVG, from plain arrays. */
#ifndef AT_CHART_H
#define AT_CHART_H

#include "base/base.h"

enum at_curve_style {
    AT_CURVE_FAINT,             /* each value, in the background              */
    AT_CURVE_LINE,
    AT_CURVE_DOTS,              /* few values, joined by a thin line          */
};

struct at_curve {
    enum at_curve_style style;
    int color;                  /* 0..7: class "c0".."c7"                     */
    const char *name;           /* shown while the pointer is over the chart;
                                   NULL: it is not                            */
    const double *x, *y;        /* x rises; a y that is not finite is a gap   */
    size_t n;
    size_t best;                /* index of a value to ring; SIZE_MAX: none   */
};

struct at_chart {
    const char *title, *unit;   /* unit NULL: none                            */
    const char *over;           /* what x is; NULL: steps                     */
    double width, height;       /* of the drawing, in its own units           */
    bool log_if_wide;           /* logarithmic when the values span decades   */
    bool zero;                  /* the axis begins at 0                       */
    bool falls;                 /* a high beginning may leave the frame       */
    const struct at_curve *curve;
    size_t n;
    const double *mark;         /* steps to mark on the axis                  */
    size_t n_marks;
    const char *mark_help;
};

/* Appends <figure>..</figure>; works in arena a.                             */
int at_chart_svg(struct at_ctx *cx, struct at_arena *a,
                 const struct at_chart *c, struct at_text *t);
/* s with &, <, >, quotes escaped and what is no text replaced.               */
void at_html(struct at_text *t, const char *s);
/* A figure in few letters: 1.25, 12k, 3.2M, 5e-4.                            */
const char *at_short(char buf[32], double x);

#endif
