/* A little world for whole runs: DIR/data.h5 of the shipped review sentences,
 * and DIR/base, a model of 32 channels that was trained one step.  Tests define
 * AT_TESTS.                                                                  */
#ifndef AT_WORLD_H
#define AT_WORLD_H

#include "data/data.h"
#include "train/run.h"

#include <string.h>

#define AT_SHIPPED AT_TESTS "/../examples/quickstart/"

static inline int make_data(struct at_ctx *cx, const char *out)
{
    const char *inputs[] = { AT_SHIPPED "reviews.jsonl" };
    struct at_data_options o = { .inputs = inputs, .n_inputs = 1, .out = out,
        .max_length = 64, .validation = 0.1, .template = "{completion}",
        .n_threads = 1 };
    struct at_data_stats stats;
    struct at_tok *tok;
    int rc = at_model_tokenizer(cx, &cx->run, AT_SHIPPED "model.h5", &tok);
    o.tok = tok;
    return rc == AT_OK ? at_data_build(cx, &o, NULL, NULL, &stats) : rc;
}

static inline int make_world(struct at_ctx *cx, const char *dir)
{
    struct at_recipe *r;
    char yaml[1024], data[512];
    int rc;
    snprintf(data, sizeof data, "%s/data.h5", dir);
    snprintf(yaml, sizeof yaml,
             "seed: 3\nthreads: 1\nmodel: {family: llama, dim: 32, layers: 2, "
             "heads: 4, kv_heads: 2, max_length: 64, tokenizer: %smodel.h5}\n"
             "data: {path: %s}\nbatch: {rows: 3, length: 64}\nobjective: lm\n"
             "train: {steps: 1}\nrun: %s/base\n", AT_SHIPPED, data, dir);
    rc = make_data(cx, data);
    if (rc == AT_OK)
        rc = at_recipe_parse(cx, &cx->run, "base.yaml", yaml, strlen(yaml),
                             NULL, 0, &r);
    return rc == AT_OK ? at_run_train(cx, r, true, NULL, NULL) : rc;
}

#endif
