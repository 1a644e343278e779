/* What two values can reach together: the Pareto frontier for some KL, and for
 * any.  Its points are tilts by weights of the two (Theorem 3 of MAP), so one
 * number, how far to go along a ray of weights, is sought for each.          */
#include "tools/palette.h"
#include "train/chart.h"

#include <math.h>
#include <string.h>

enum { TRIES = 60 };

/* The point of KL `kl` on the ray; *found false: the ray ends before.  The root
 * of KL grows nearly in proportion to the length.                            */
static int go(struct at_ctx *cx, struct at_palette *p, double kl,
              double *lambda, size_t a, size_t b, const double *dir,
              double *length, double *v, bool *found)
{
    double low = 0, high = INFINITY, have = 0;
    *found = false;
    for (int i = 0; i < TRIES; i++) {
        double next;
        int rc;
        lambda[a] = *length * dir[0];
        lambda[b] = *length * dir[1];
        rc = at_palette_tilt(cx, p, lambda, v, &have, NULL);
        if (rc < 0)
            return rc;
        *found = fabs(have / kl - 1) < 1e-6;
        if (*found || *length > 1e9)
            break;
        if (have < kl)
            low = *length;
        else
            high = *length;
        next = have > 0 ? *length * sqrt(kl / have) : 2 * *length;
        if (!(next < high))
            next = (low + high) / 2;
        if (!(next > low))
            next = isinf(high) ? 2 * low : (low + high) / 2;
        *length = next;
    }
    return AT_OK;
}

static int trace(struct at_ctx *cx, struct at_palette *p,
                 const struct palette_view *v, struct sweep *s,
                 struct sweep_curve *c)
{
    double lambda[AT_PALETTE_VALUES] = { 0 }, out[AT_PALETTE_VALUES];
    double length = 0.5;
    for (size_t i = 0; i < SWEEP_RAYS; i++) {
        double turn = acos(0) * (double)i / (SWEEP_RAYS - 1);
        double dir[2] = { sin(turn) / v->stats.sd[s->a],
                          cos(turn) / v->stats.sd[s->b] };
        bool found = true;
        int rc;
        if (i == 0)
            dir[0] = 0;
        if (i + 1 == SWEEP_RAYS)
            dir[1] = 0;
        lambda[s->a] = dir[0];
        lambda[s->b] = dir[1];
        rc = isinf(c->kl) ? at_palette_best(cx, p, lambda, out)
                          : go(cx, p, c->kl, lambda, s->a, s->b, dir, &length,
                               out, &found);
        if (rc < 0)
            return rc;
        if (!found) {
            length = 0.5;
            continue;
        }
        c->a[c->n] = out[s->a];
        c->b[c->n] = out[s->b];
        c->lambda_a[c->n] = lambda[s->a];
        c->lambda_b[c->n++] = lambda[s->b];
    }
    return AT_OK;
}

int palette_sweep(struct at_ctx *cx, struct at_palette *p,
                  const struct palette_view *v, size_t a, size_t b,
                  struct sweep *s)
{
    static const double kl[SWEEP_CURVES] = { 0.1, 0.3, 1, 3, INFINITY };
    memset(s, 0, sizeof *s);
    s->a = a;
    s->b = b;
    if (!(v->stats.sd[a] > 0) || !(v->stats.sd[b] > 0))
        return at_fail(cx, AT_EINVAL, "--sweep: '%s' is the same in all rows",
                       v->src->name[v->stats.sd[a] > 0 ? b : a]);
    for (size_t k = 0; k < SWEEP_CURVES; k++) {
        int rc;
        s->curve[s->n].kl = kl[k];
        rc = trace(cx, p, v, s, &s->curve[s->n]);
        if (rc < 0)
            return rc;
        s->n += s->curve[s->n].n > 0;
    }
    return AT_OK;
}

/* ---- the picture ------------------------------------------------------------------ */

enum { WIDTH = 680, HEIGHT = 480, LEFT = 70, RIGHT = 110, TOP = 24,
       BOTTOM = 56 };

struct plot { double x0, x1, y0, y1; };

static double px(const struct plot *f, double x)
{
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}

static double py(const struct plot *f, double y)
{
    return HEIGHT - BOTTOM - (y - f->y0) / (f->y1 - f->y0) *
           (HEIGHT - TOP - BOTTOM);
}

static void widen(struct plot *f, double x, double y)
{
    if (!isfinite(x) || !isfinite(y))
        return;
    f->x0 = fmin(f->x0, x);
    f->x1 = fmax(f->x1, x);
    f->y0 = fmin(f->y0, y);
    f->y1 = fmax(f->y1, y);
}

static struct plot fit(const struct palette_view *v)
{
    const struct sweep *s = v->sweep;
    struct plot f = { INFINITY, -INFINITY, INFINITY, -INFINITY };
    double dx, dy;
    widen(&f, v->r->now[s->a], v->r->now[s->b]);
    widen(&f, v->r->target[s->a], v->r->target[s->b]);
    for (size_t k = 0; k < s->n; k++)
        for (size_t i = 0; i < s->curve[k].n; i++)
            widen(&f, s->curve[k].a[i], s->curve[k].b[i]);
    dx = 0.04 * (f.x1 - f.x0);
    dy = 0.04 * (f.y1 - f.y0);
    return (struct plot){ f.x0 - dx, f.x1 + dx, f.y0 - dy, f.y1 + dy };
}

static double tick_step(double span)
{
    double ten = pow(10, floor(log10(span / 5))), f = span / 5 / ten;
    return ten * (f < 1.5 ? 1 : f < 3.5 ? 2 : f < 7.5 ? 5 : 10);
}

static void axes(struct at_text *t, const struct palette_view *v,
                 const struct plot *f)
{
    double sx = tick_step(f->x1 - f->x0), sy = tick_step(f->y1 - f->y0);
    char label[32];
    for (double x = ceil(f->x0 / sx) * sx; x <= f->x1; x += sx)
        at_text_addf(t, "<path class=\"g\" d=\"M%.1f %dV%d\"/><text x=\"%.1f\" "
                     "y=\"%d\" text-anchor=\"middle\">%s</text>\n", px(f, x),
                     TOP, HEIGHT - BOTTOM, px(f, x), HEIGHT - BOTTOM + 18,
                     at_short(label, fabs(x) < 1e-9 * sx ? 0 : x));
    for (double y = ceil(f->y0 / sy) * sy; y <= f->y1; y += sy)
        at_text_addf(t, "<path class=\"g\" d=\"M%d %.1fH%d\"/><text x=\"%d\" "
                     "y=\"%.1f\" text-anchor=\"end\">%s</text>\n", LEFT,
                     py(f, y), WIDTH - RIGHT, LEFT - 6, py(f, y) + 4,
                     at_short(label, fabs(y) < 1e-9 * sy ? 0 : y));
    at_text_addf(t, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                 (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14);
    at_html(t, v->src->name[v->sweep->a]);
    at_text_addf(t, "</text>\n<text transform=\"translate(16 %d) rotate(-90)\" "
                 "text-anchor=\"middle\">", (TOP + HEIGHT - BOTTOM) / 2);
    at_html(t, v->src->name[v->sweep->b]);
    at_text_addf(t, "</text>\n");
}

static void curve(struct at_text *t, const struct sweep_curve *c,
                  const struct plot *f, size_t k)
{
    size_t last = c->n - 1;
    at_text_addf(t, "<path class=\"%s\" d=\"", isinf(c->kl) ? "l any" : "l");
    for (size_t i = 0; i < c->n; i++)
        at_text_addf(t, "%c%.1f %.1f", i ? 'L' : 'M', px(f, c->a[i]),
                     py(f, c->b[i]));
    at_text_addf(t, "\" style=\"stroke:var(--c%zu)\"/>\n<text x=\"%.1f\" "
                 "y=\"%.1f\" style=\"fill:var(--c%zu)\">", k,
                 px(f, c->a[last]) + 6, py(f, c->b[last]) + 4, k);
    if (isinf(c->kl))
        at_text_addf(t, "limit</text>\n");
    else
        at_text_addf(t, "KL %g</text>\n", c->kl);
}

static void point(struct at_text *t, const struct plot *f, double x, double y,
                  const char *shape, const char *what)
{
    if (isfinite(x) && isfinite(y))
        at_text_addf(t, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\">"
                     "<title>%s: %.6g, %.6g</title></circle>\n<text x=\"%.1f\" "
                     "y=\"%.1f\">%s</text>\n", shape, px(f, x), py(f, y), what,
                     x, y, px(f, x) + 8, py(f, y) - 6, what);
}

int palette_svg(struct at_ctx *cx, const struct palette_view *v,
                const char *path)
{
    const struct at_palette_result *r = v->r;
    const struct sweep *s = v->sweep;
    struct plot f = fit(v);
    struct at_text t = { 0 };
    int rc;
    at_text_addf(&t, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 "
                 "%d %d\" role=\"img\">\n<title>What ", WIDTH, HEIGHT);
    at_html(&t, v->src->name[s->a]);
    at_text_addf(&t, " and ");
    at_html(&t, v->src->name[s->b]);
    at_text_addf(&t, " can reach together</title>\n<style>"
                 "svg{--bg:#fff;--ink:#16181d;--grid:#ececea;--c0:#2a6fd6;"
                 "--c1:#d9591c;--c2:#16936a;--c3:#6b4fc0;--c4:#5c6370}"
                 "@media(prefers-color-scheme:dark){svg{--bg:#1b1d21;"
                 "--ink:#e9eaec;--grid:#26292e;--c0:#5b9bf5;--c1:#f0834a;"
                 "--c2:#35b98a;--c3:#a08bf0;--c4:#9aa0ab}}"
                 "text{font:13px system-ui,sans-serif;fill:var(--ink)}"
                 ".g{stroke:var(--grid)}.l{fill:none;stroke-width:2}"
                 ".any{stroke-dasharray:5 4}.now{fill:var(--ink)}"
                 ".target{fill:none;stroke:var(--ink);stroke-width:2}"
                 "</style>\n<rect width=\"%d\" height=\"%d\" "
                 "fill=\"var(--bg)\"/>\n", WIDTH, HEIGHT);
    axes(&t, v, &f);
    for (size_t k = 0; k < s->n; k++)
        curve(&t, &s->curve[k], &f, k);
    point(&t, &f, r->now[s->a], r->now[s->b], "now", "now");
    point(&t, &f, r->target[s->a], r->target[s->b], "target", "target");
    at_text_addf(&t, "</svg>\n");
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_write_file(cx, path, t.s, t.n);
    at_text_finish(&t);
    return rc;
}
