/* Drawing text from a decoder: batched, with a key/value cache, the same
 * tokens for the same seed whatever else is in the batch.
 *
 * Works on token ids; text, stop strings and printing are the caller's.      */
#ifndef AT_GENERATE_H
#define AT_GENERATE_H

#include "train/models/model.h"

struct at_sampling {
    double temperature;         /* 0: the likeliest token                     */
    size_t top_k;               /* 0: all                                     */
    double top_p;               /* 1: all                                     */
    double min_p;               /* 0: all; share of the likeliest's           */
    uint64_t seed;
};

/* Checks ranges. */
int at_sampling_check(struct at_ctx *cx, const struct at_sampling *s);

/* One draw from logits[V] for position `at` of stream `stream`; scratch holds
 * at_sample_scratch(V) bytes.  *logp: log-probability of the token under the
 * untempered, untruncated model.                                             */
size_t at_sample_scratch(size_t V);
int32_t at_sample(const at_real *logits, size_t V,
                  const struct at_sampling *s, uint32_t stream, uint64_t at,
                  void *scratch, double *logp);

struct at_generator;

/* rows: sequences at a time; T_max: prompt and continuation together.  attach
 * (may be NULL) adds guests to each graph.  The first generator made on
 * unsealed params declares them; params must be sealed before use.           */
int at_generator_create(struct at_ctx *cx, struct at_arena *arena,
                        const struct at_decoder *d, struct at_params *ps,
                        const struct at_kernels *k,
                        int (*attach)(void *self, struct at_graph *g),
                        void *self, size_t rows, size_t T_max,
                        struct at_generator **g);
size_t at_generator_bytes(const struct at_generator *g);
/* Bytes of keys and values that the texts of the last call hold.             */
size_t at_generator_cache_used(const struct at_generator *g);
/* Takes the memory; after at_params_seal.                                    */
int at_generator_start(struct at_generator *g);
void at_generator_destroy(struct at_generator *g);

/* Receives each new token of each row; false ends that row.                  */
typedef bool at_token_fn(void *self, size_t row, int32_t id, double logp);

/* Prompts that follow one another with the same ids are read once.            */
struct at_prompt { const int32_t *ids; size_t n; uint32_t stream; };

/* Continues n <= rows prompts by at most max_new tokens each.  Stops early
 * when every row has ended, or with AT_EINTR when cx->stop is set.           */
int at_generate(struct at_generator *g, const struct at_prompt *prompts,
                size_t n, size_t max_new, const struct at_sampling *s,
                at_token_fn *on_token, void *self);

/* The logits [V] after the last of n tokens, computed without a cache hit:
 * what tests compare cached decoding with.                                   */
int at_generator_logits(struct at_generator *g, const int32_t *ids, size_t n,
                        const at_real **logits);

#endif
