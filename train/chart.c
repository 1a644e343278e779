/* Curves as SVG.  A curve of any length is drawn in at most COLUMNS pieces:
 * the faint one by its least and largest value in each, the line by its last
 * value, so that a spike is never lost and a page stays small.               */
#include "train/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 500, TICKS = 5, LEFT = 52, RIGHT = 14, TOP = 12, BOTTOM = 30 };

/* The frame: data to drawing. */
struct frame {
    double x0, x1, y0, y1;      /* data at the frame's edges; y0, y1 are
                                   logarithms when log                        */
    double left, right, top, bottom;
    bool log;
};

/* ---- text ---------------------------------------------------------------- */

void at_html(struct at_text *t, const char *s)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = at_utf8(s + i, n - i, &c);
        bool control = (c < 0x20 && c != '\n' && c != '\t') ||
                       (c >= 0x7F && c < 0xA0) || (c & 0xFFFE) == 0xFFFE ||
                       (c >= 0xFDD0 && c <= 0xFDEF);
        if (len == 0 || control)
            at_text_add(t, "\xEF\xBF\xBD", 3);
        else if (c == '&')
            at_text_add(t, "&amp;", 5);
        else if (c == '<')
            at_text_add(t, "&lt;", 4);
        else if (c == '>')
            at_text_add(t, "&gt;", 4);
        else if (c == '"')
            at_text_add(t, "&quot;", 6);
        else if (c == '\'')
            at_text_add(t, "&#39;", 5);
        else
            at_text_add(t, s + i, len);
        i += len ? len : 1;
    }
}

const char *at_short(char buf[32], double x)
{
    static const char *const suffix[] = { "", "k", "M", "G", "T" };
    double a = fabs(x);
    size_t i = 0;
    if (!isfinite(x))
        snprintf(buf, 32, isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
    else if (a != 0 && a < 1e-2) {
        double e = floor(log10(a) + 1e-9);
        snprintf(buf, 32, "%.3ge%.0f", x / pow(10, e), e);
    } else {
        while (a >= 999.5 && i + 1 < AT_COUNT(suffix)) {
            a /= 1000;
            x /= 1000;
            i++;
        }
        snprintf(buf, 32, a >= 999.5 ? "%.3g%s" : a >= 100 ? "%.0f%s"
                 : "%.3g%s", x, suffix[i]);
    }
    return buf;
}

/* ---- the frame ----------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

struct range { double lo, hi; bool any; };

/* Values at the ends of what a double holds would overflow the axis. */
static void widen(struct range *r, double v)
{
    if (!(fabs(v) < 1e200))
        return;
    if (fabs(v) < 1e-200)
        v = 0;
    r->lo = r->any && r->lo < v ? r->lo : v;
    r->hi = r->any && r->hi > v ? r->hi : v;
    r->any = true;
}

/* The range of a chart's values.  A faint curve may leave the frame by its
 * outermost hundredth; so may, in a falling chart, the beginning, when it would
 * press all the rest flat.                                                   */
static int y_range(struct at_ctx *cx, struct at_arena *a,
                   const struct at_chart *c, struct range *y)
{
    size_t n_max = 0, n = 0;
    double *v, high;
    for (size_t i = 0; i < c->n; i++)
        n_max = c->curve[i].n > n_max ? c->curve[i].n : n_max;
    v = at_alloc_n(cx, a, n_max, sizeof *v);
    if (!v)
        return AT_ENOMEM;
    for (size_t i = 0; i < c->n; i++, n = 0) {
        const struct at_curve *k = &c->curve[i];
        struct range own = { 0 };
        for (size_t j = 0; j < k->n; j++)
            if (isfinite(k->y[j]))
                v[n++] = k->y[j];
        if (n == 0)
            continue;
        qsort(v, n, sizeof *v, by_value);
        widen(&own, v[k->style == AT_CURVE_FAINT ? n / 100 : 0]);
        widen(&own, v[n - 1 - (k->style == AT_CURVE_FAINT ? n / 100 : 0)]);
        high = v[n - 1 - n / 16] + 0.5 * (v[n - 1 - n / 16] - v[0]);
        if (c->falls && n >= 64 && own.hi > high)
            own.hi = high;
        if (own.any) {
            widen(y, own.lo);
            widen(y, own.hi);
        }
    }
    return AT_OK;
}

static double nice_step(double span)
{
    double raw = span / TICKS, ten = pow(10, floor(log10(raw)));
    double f = raw / ten;
    return ten * (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10);
}

static int fit(struct at_ctx *cx, struct at_arena *a, const struct at_chart *c,
               struct frame *f, bool *any)
{
    struct range x = { 0 }, y = { 0 };
    double step;
    for (size_t i = 0; i < c->n; i++) {
        const struct at_curve *k = &c->curve[i];
        for (size_t j = 0; j < k->n; j++)
            widen(&x, k->x[j]);
    }
    if (y_range(cx, a, c, &y) < 0)
        return AT_ENOMEM;
    *any = x.any && y.any;
    if (!*any)
        return AT_OK;
    f->log = c->log_if_wide && y.lo > 0 && y.hi / y.lo > 30;
    if (c->zero && y.lo > 0)
        y.lo = 0;
    if (f->log) {
        y.lo = log10(y.lo);
        y.hi = log10(y.hi);
    }
    if (!(y.hi - y.lo > 1e-9 * fabs(y.hi))) {   /* flat: give it a band      */
        double band = y.hi != 0 ? fabs(y.hi) * 0.1 : 1;
        y.hi += band;
        y.lo -= band;
    }
    step = nice_step(y.hi - y.lo);
    f->y0 = f->log ? y.lo - 0.05 : floor(y.lo / step) * step;
    f->y1 = f->log ? y.hi + 0.05 : ceil(y.hi / step) * step;
    f->x0 = x.lo;
    f->x1 = x.hi > x.lo ? x.hi : x.lo + fmax(1, 1e-9 * x.lo);
    f->left = LEFT;
    f->top = TOP;
    f->right = c->width - RIGHT;
    f->bottom = c->height - BOTTOM;
    return AT_OK;
}

static double px(const struct frame *f, double x)
{
    return f->left + (x - f->x0) / (f->x1 - f->x0) * (f->right - f->left);
}

/* Values outside are drawn outside, where the frame cuts them off. */
static double py(const struct frame *f, double y)
{
    double v = ((f->log ? log10(y) : y) - f->y0) / (f->y1 - f->y0);
    v = v < -4 ? -4 : v > 5 ? 5 : v;
    return f->bottom - v * (f->bottom - f->top);
}

/* ---- axes ---------------------------------------------------------------- */

static void y_tick(struct at_text *t, const struct frame *f, double y)
{
    char label[32];
    double at = py(f, y);
    at_text_addf(t, "<path class=g d=\"M%.1f %.1fH%.1f\"/><text class=y "
                 "x=\"%.1f\" y=\"%.1f\">%s</text>", f->left, at, f->right,
                 f->left - 7, at + 4, at_short(label, y));
}

static void y_axis(struct at_text *t, const struct frame *f)
{
    static const double within[] = { 1, 2, 5 };
    double step = nice_step(f->y1 - f->y0);
    size_t of = f->y1 - f->y0 < 2.5 ? 3 : 1;    /* 1 2 5, or decades only    */
    if (!f->log) {
        for (int i = 0; i <= 2 * TICKS + 1; i++) {
            double y = f->y0 + i * step;
            if (y <= f->y1 + 0.01 * step)
                y_tick(t, f, fabs(y) < 1e-9 * step ? 0 : y);
        }
        return;
    }
    step = ceil((f->y1 - f->y0) / 8);
    for (double e = floor(f->y0); e <= f->y1; e += step)
        for (size_t i = 0; i < of; i++) {
            double v = log10(within[i]) + e;
            if (v >= f->y0 && v <= f->y1)
                y_tick(t, f, within[i] * pow(10, e));
        }
}

static void x_axis(struct at_text *t, const struct frame *f)
{
    double step = nice_step(f->x1 - f->x0), first;
    char label[32];
    step = step < 1 ? 1 : step;
    first = ceil(f->x0 / step) * step;
    for (int i = 0; i <= 2 * TICKS + 1; i++) {
        double x = first + i * step;
        if (x <= f->x1 + 1e-9 * step)
            at_text_addf(t, "<text class=x x=\"%.1f\" y=\"%.1f\">%s</text>",
                         px(f, x), f->bottom + 18, at_short(label, x));
    }
    at_text_addf(t, "<path class=a d=\"M%.1f %.1fH%.1f\"/>", f->left,
                 f->bottom, f->right);
}

static void marks(struct at_text *t, const struct at_chart *c,
                  const struct frame *f)
{
    double last = -1e9;
    for (size_t i = 0; i < c->n_marks; i++) {
        double x = px(f, c->mark[i]);
        if (x - last < 1)
            continue;
        last = x;
        at_text_addf(t, "<path class=m d=\"M%.1f %.1fl4 7h-8z\"><title>step "
                     "%.0f: ", x, f->bottom - 8, c->mark[i]);
        at_html(t, c->mark_help);
        at_text_addf(t, "</title></path>");
    }
}

/* ---- curves -------------------------------------------------------------- */

/* One past the last point that falls into the same column as point i. */
static size_t column_end(const struct at_curve *k, const struct frame *f,
                         size_t i)
{
    double width = (f->x1 - f->x0) / COLUMNS;
    double cell = floor((k->x[i] - f->x0) / width);
    size_t j = i + 1;
    while (j < k->n && floor((k->x[j] - f->x0) / width) <= cell)
        j++;
    return j;
}

static bool drawn(const struct frame *f, double y)
{
    return isfinite(y) && (!f->log || y > 0);
}

/* Points of column [i, end) worth drawing, in order, into at[2]. */
static size_t pick(const struct at_curve *k, const struct frame *f, size_t i,
                   size_t end, size_t at[2])
{
    size_t lo = SIZE_MAX, hi = SIZE_MAX, last = SIZE_MAX;
    for (; i < end; i++) {
        if (!drawn(f, k->y[i]))
            continue;
        last = i;
        if (lo == SIZE_MAX || k->y[i] < k->y[lo])
            lo = i;
        if (hi == SIZE_MAX || k->y[i] > k->y[hi])
            hi = i;
    }
    if (last == SIZE_MAX)
        return 0;
    if (k->style != AT_CURVE_FAINT || lo == hi) {
        at[0] = k->style == AT_CURVE_FAINT ? lo : last;
        return 1;
    }
    at[0] = lo < hi ? lo : hi;
    at[1] = lo < hi ? hi : lo;
    return 2;
}

static void path(struct at_text *t, const struct at_curve *k,
                 const struct frame *f)
{
    static const char *const style[] = {
        [AT_CURVE_FAINT] = "f", [AT_CURVE_LINE] = "l", [AT_CURVE_DOTS] = "d",
    };
    bool pen = false;
    size_t at[2] = { 0 };
    at_text_addf(t, "<path class=\"%s c%d\" d=\"", style[k->style], k->color);
    for (size_t i = 0, end; i < k->n; i = end) {
        size_t n;
        end = column_end(k, f, i);
        n = pick(k, f, i, end, at);
        if (n == 0)
            pen = false;
        for (size_t j = 0; j < n; j++) {
            at_text_addf(t, "%c%.1f %.1f", pen ? 'L' : 'M',
                         px(f, k->x[at[j]]), py(f, k->y[at[j]]));
            pen = true;
        }
    }
    at_text_addf(t, "\"/>");
}

static void dots(struct at_text *t, const struct at_curve *k,
                 const struct frame *f)
{
    bool few = k->n <= 60;
    size_t at[2] = { 0 };
    if (k->style == AT_CURVE_DOTS && few)
        for (size_t i = 0; i < k->n; i++)
            if (drawn(f, k->y[i]))
                at_text_addf(t, "<circle class=\"p c%d\" cx=\"%.1f\" "
                             "cy=\"%.1f\" r=\"3.5\"/>", k->color,
                             px(f, k->x[i]), py(f, k->y[i]));
    if (k->style == AT_CURVE_LINE && k->n == 1 && pick(k, f, 0, 1, at))
        at_text_addf(t, "<circle class=\"p c%d\" cx=\"%.1f\" cy=\"%.1f\" "
                     "r=\"3.5\"/>", k->color, px(f, k->x[0]), py(f, k->y[0]));
    if (k->best < k->n && drawn(f, k->y[k->best]))
        at_text_addf(t, "<circle class=\"b c%d\" cx=\"%.1f\" cy=\"%.1f\" "
                     "r=\"7\"/>", k->color, px(f, k->x[k->best]),
                     py(f, k->y[k->best]));
}

/* All curves, cut off a little outside the frame; the later over the former. */
static void curves(struct at_text *t, const struct at_chart *c,
                   const struct frame *f)
{
    enum { OVER = 8 };
    double x = f->left - OVER, y = f->top - OVER;
    double w = f->right - f->left + 2 * OVER, h = f->bottom - f->top + 2 * OVER;
    at_text_addf(t, "<svg x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" "
                 "viewBox=\"%.1f %.1f %.1f %.1f\">", x, y, w, h, x, y, w, h);
    for (int style = AT_CURVE_FAINT; style <= AT_CURVE_DOTS; style++)
        for (size_t i = 0; i < c->n; i++)
            if ((int)c->curve[i].style == style)
                path(t, &c->curve[i], f);
    for (size_t i = 0; i < c->n; i++)
        dots(t, &c->curve[i], f);
    at_text_addf(t, "</svg>");
}

/* The points the pointer may ask for: "x y x y ...". */
static void hover_points(struct at_text *t, const struct at_curve *k,
                         const struct frame *f)
{
    size_t at[2] = { 0 };
    const char *gap = "";
    at_text_addf(t, "<g class=\"h c%d\" data-n=\"", k->color);
    at_html(t, k->name);
    at_text_addf(t, "\" data-p=\"");
    for (size_t i = 0, end; i < k->n; i = end) {
        end = column_end(k, f, i);
        if (pick(k, f, i, end, at)) {
            at_text_addf(t, "%s%.0f %.6g", gap, k->x[at[0]], k->y[at[0]]);
            gap = " ";
        }
    }
    at_text_addf(t, "\"/>");
}

int at_chart_svg(struct at_ctx *cx, struct at_arena *a,
                 const struct at_chart *c, struct at_text *t)
{
    struct frame f = { 0 };
    bool any;
    int rc = fit(cx, a, c, &f, &any);
    if (rc < 0)
        return rc;
    at_text_addf(t, "<figure%s><figcaption>",
                 c->width > 500 ? " class=wide" : "");
    at_html(t, c->title);
    if (c->unit) {
        at_text_addf(t, " <small>");
        at_html(t, c->unit);
        at_text_addf(t, "</small>");
    }
    if (f.log)
        at_text_addf(t, " <small>logarithmic</small>");
    at_text_addf(t, "</figcaption>");
    if (!any) {
        at_text_addf(t, "<p class=none>nothing measured yet</p></figure>\n");
        return at_text_ok(cx, t);
    }
    at_text_addf(t, "<svg viewBox=\"0 0 %.0f %.0f\" role=img aria-label=\"",
                 c->width, c->height);
    at_html(t, c->title);
    at_text_addf(t, " over %s\" data-f=\"%.17g %.17g %.1f %.1f %.1f "
                 "%.1f\">", c->over ? c->over : "steps", f.x0, f.x1, f.left, f.right, f.top, f.bottom);
    y_axis(t, &f);
    x_axis(t, &f);
    curves(t, c, &f);
    marks(t, c, &f);
    for (size_t i = 0; i < c->n; i++)
        if (c->curve[i].name)
            hover_points(t, &c->curve[i], &f);
    at_text_addf(t, "</svg></figure>\n");
    return at_text_ok(cx, t);
}
