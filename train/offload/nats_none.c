/* In place of everything that needs libnats, where it was not there. */
#include "train/offload/offload.h"
#include "train/offload/worker.h"

static int missing(struct at_ctx *cx)
{
    return at_fail(cx, AT_EMISSING, "this attune was built without NATS: "
                   "install libnats-dev (and nats-server, for a server of your "
                   "own), then build anew: meson setup --reconfigure build");
}

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const struct at_offload *o, struct at_engine **made)
{
    (void)arena;
    (void)o;
    (void)made;
    return missing(cx);
}

const struct at_engine_impl at_engine_nats = { .name = "nats",
                                               .create = create };

int at_worker_run(struct at_ctx *cx, const struct at_worker_settings *s)
{
    (void)s;
    return missing(cx);
}

int at_watch(struct at_ctx *cx, const struct at_watch_settings *s,
             struct at_text *t)
{
    (void)s;
    (void)t;
    return missing(cx);
}
