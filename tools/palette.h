/* What attune palette shows; shared by its files. */
#ifndef AT_TOOLS_PALETTE_H
#define AT_TOOLS_PALETTE_H

#include "optim/palette.h"

enum { SWEEP_RAYS = 19, SWEEP_CURVES = 5 };

/* What two values can reach together, for some KL; the last: at any.         */
struct sweep_curve {
    double kl;                  /* INFINITY: any                              */
    size_t n;
    double a[SWEEP_RAYS], b[SWEEP_RAYS];
    double lambda_a[SWEEP_RAYS], lambda_b[SWEEP_RAYS];  /* of a finite kl     */
};

struct sweep {
    size_t a, b;                /* the values                                 */
    size_t n;
    struct sweep_curve curve[SWEEP_CURVES];
};

struct palette_view {
    const char *path;
    const char *const *spec;    /* [m] how values are measured; NULL          */
    const struct at_palette_source *src;
    enum at_normaliser how;
    struct at_palette_stats stats;
    const struct at_palette_result *r;
    const struct sweep *sweep;  /* NULL: none                                 */
};

void palette_print_table(const struct palette_view *v);
int palette_print_json(struct at_ctx *cx, const struct palette_view *v);

/* Traces the sweep; ignores all other values.                                */
int palette_sweep(struct at_ctx *cx, struct at_palette *p,
                  const struct palette_view *v, size_t a, size_t b,
                  struct sweep *s);
int palette_svg(struct at_ctx *cx, const struct palette_view *v,
                const char *path);

#endif
