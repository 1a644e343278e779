/* Watches the sites that carry an adapter: the adapter's own gradients are not
 * taken in the graph (struct at_params' elsewhere), but x and dy of every such
 * site are left in the graph's taps, and backward goes through the adapter to
 * the sites below.                                                           */
#ifndef AT_TAPS_H
#define AT_TAPS_H

#include "train/adapters/adapter.h"

/* After the adapters were attached to g.                                     */
int at_taps_attach(struct at_graph *g, const struct at_adapter_kind *kind);

#endif
