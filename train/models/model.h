/* models: transformers from one description: decoders, which write text, and
 * encoders, which read one in both directions.
 *
 * A model is a choice, not a mechanism: it allocates no device memory and
 * knows no adapters; it is a page of at_* calls and a list of named sites.
 * The description names the parts in which families differ; a new family is a
 * row in families.c (and, for foreign files, its names).
 *
 * Letters: B batch, T time, N = B*T, C channels, H heads, G key/value heads,
 * K head size, F feed-forward, V vocabulary, L layers.
 *
 * Parameters (shapes are [out, in]):
 *   embed.weight [V,C]           pos.weight [pos_from+P,C]   learned positions
 *   type.weight [types,C]        embed_norm.weight .bias     encoders
 *   blocks.I.attn_norm.weight    .bias                       [C]
 *   blocks.I.attn.{q,k,v}_proj.weight  or  .qkv_proj.weight  (+ .bias)
 *   blocks.I.attn.o_proj.weight  (+ .bias)
 *   blocks.I.mlp_norm.weight     .bias
 *   blocks.I.mlp.gate_proj.weight (gated)  .up_proj  .down_proj  (+ .bias)
 *   blocks.I.attn.{q,k}_norm.weight                          qk_norm
 *   blocks.I.{attn,mlp}_post_norm.weight  .bias              norm_place
 *   norm.weight  .bias           head.weight [V,C]           when not tied
 *   value.weight [value,C]       .bias [value]               reward models and
 *   value.dense.weight [C,C]     .bias [C]                   classifiers; [1,C] and
 *                                                            [1] of critics
 * Sites: blocks.I, blocks.I.attn, blocks.I.mlp and every *_proj.             */
#ifndef AT_MODEL_H
#define AT_MODEL_H

#include "autograd/autograd.h"

enum at_norm { AT_NORM_RMS, AT_NORM_LAYER };
enum at_pos { AT_POS_ROPE, AT_POS_LEARNED };
enum at_norm_place { AT_NORM_PRE, AT_NORM_POST, AT_NORM_BOTH, /* of a branch */
                     AT_NORM_SUM };     /* of the stream behind it            */
enum at_qk_norm { AT_QK_NONE, AT_QK_HEAD, AT_QK_WIDE };  /* each head, or all  */
enum at_bias { AT_BIAS_QKV = 1, AT_BIAS_O = 2, AT_BIAS_MLP = 4,
               AT_BIAS_ALL = 7 };
enum at_problem { AT_NUMBERS, AT_ONE_LABEL, AT_MANY_LABELS };
enum at_scaling { AT_SCALING_NONE, AT_SCALING_LINEAR, AT_SCALING_LLAMA3 };

struct at_decoder {
    const char *family;         /* "llama", "gpt2"                            */
    size_t V, C, L, H, G, K, F;
    size_t P;                   /* positions: the longest text                */
    enum at_norm norm;
    double norm_eps;
    enum at_act act;
    bool gated;                 /* mlp = down(act(gate x) * up x)             */
    enum at_pos pos;
    bool rope_half;             /* pairs (i, i+K/2), else (2i, 2i+1)          */
    double rope_theta;
    bool qkv_fused, tied;
    unsigned bias;              /* enum at_bias                               */
    double init_std;            /* of drawn weights                           */

    /* Zero: as in Llama.                                                     */
    enum at_norm_place norm_place;
    bool norm_plus;             /* norms scale by 1 + weight                  */
    enum at_qk_norm qk_norm;    /* of q and k before rotation                 */
    bool parallel;              /* x + attn(x) + mlp(x)                       */
    size_t rotary;              /* channels of a head that turn; 0: all       */
    double rope_local;          /* theta of layers with a window; 0: theirs
                                 * is rope_theta, and they are scaled too     */
    enum at_scaling scaling;    /* of rotary frequencies                      */
    double scale_factor, scale_low, scale_high;
    size_t scale_from;          /* positions of the model before scaling      */
    size_t window;              /* tokens that a token sees; 0: all           */
    size_t full_every;          /* every so many layers one sees all; 0: none */
    size_t value;               /* numbers a text: a reward model's one, a
                                 * classifier's labels; 0: it writes text     */
    enum at_problem problem;    /* what they say                              */
    const char *const *labels;  /* [value] their names; NULL: none            */
    bool value_plain;           /* without bias                               */
    bool value_open;            /* of texts as the tokenizer's own file has
                                 * them end, not always with eos              */
    bool value_first;           /* of the first token, not the last, through a
                                 * dense layer and value_act                  */
    enum at_act value_act;
    bool both;                  /* tokens see their whole text: an encoder,
                                 * which has no logits                        */
    size_t types;               /* of tokens; 0: none                         */
    bool embed_norm;            /* of embeddings                              */
    size_t pos_from;            /* rows of pos.weight before the first        */
    double attn_scale;          /* of scores; 0: 1/sqrt(K)                    */
    double embed_scale;         /* of embeddings; 0: 1                        */
    const bool *no_attn, *no_mlp;   /* [L] layers without one; NULL: none     */
};

/* Whether layer i sees `window` tokens only.                                 */
static inline bool at_decoder_local(const struct at_decoder *d, size_t i)
{
    return d->window && !(d->full_every && (i + 1) % d->full_every == 0);
}

/* A description with the family's habits and no sizes; an unknown family is
 * an error with the list.                                                    */
int at_decoder_family(struct at_ctx *cx, const char *family,
                      struct at_decoder *d);
/* The names of all families, NULL-ended.                                     */
const char *const *at_decoder_families(void);
/* Checks sizes and fills those that follow (G 0: H; K 0: C/H; F 0: usual).   */
int at_decoder_check(struct at_ctx *cx, struct at_decoder *d);
/* Weights in all, without building.                                          */
double at_decoder_params(const struct at_decoder *d);

/* What the graph reads: tokens in rows of T for training ...                 */
struct at_tokens {
    struct at_val *ids, *pos, *first;   /* int32 [N]                          */
    struct at_val *part;                /* likewise, enum at_part; may be NULL */
    struct at_val *type;                /* likewise, where the model has types */
    size_t B;
    /* ... or single tokens against a cache, when cache is not NULL: first is
     * NULL, row [N] says whose.  k[i], v[i] of layer i: [rows,G,T_max,K].    */
    struct at_val *row;
    struct at_val *const *cache_k, *const *cache_v;
    struct at_val *const *memo; /* [rows,2] a layer, see struct at_place      */
};

struct at_decoder_options {
    double dropout;             /* of residual branches and embeddings        */
    bool recompute;             /* keep block inputs only                     */
    const at_real *rope;        /* at_decoder_rope; NULL without rotary        */
};

/* cos and sin of every position and pair, [P,K/2,2], in arena a; a second such
 * table follows where rope_local is set.  A pair that does not turn has angle
 * 0.  K/2 pairs: i and i+K/2, of which those with i < rotary/2 turn.          */
int at_decoder_rope(struct at_ctx *cx, struct at_arena *a,
                    const struct at_decoder *d, const at_real **cs);
/* How many times slower a pair (that turns) turns than without scaling.      */
double at_decoder_slowing(const struct at_decoder *d, size_t pair);
/* The hidden states after the final norm, [N,C].                             */
struct at_val *at_decoder_hidden(struct at_graph *g,
                                 const struct at_decoder *d,
                                 const struct at_tokens *in,
                                 const struct at_decoder_options *o);
/* The same in parts, for work a layer at a time: the stream [N,C] before the
 * first block, and behind block i the stream x before it.                    */
struct at_val *at_decoder_embed(struct at_graph *g, const struct at_decoder *d,
                                const struct at_tokens *in,
                                const struct at_decoder_options *o);
struct at_val *at_decoder_block(struct at_graph *g, const struct at_decoder *d,
                                const struct at_tokens *in,
                                const struct at_decoder_options *o, size_t i,
                                struct at_val *x);
/* The weight that turns hidden states into logits, [V,C]; not of encoders, nor
 * of models with a value.                                                    */
struct at_val *at_decoder_head(struct at_graph *g, const struct at_decoder *d);
/* A reward model's or classifier's numbers of every position, [N,value]; a
 * text's are those of its last, or first, token.  Or a critic's [N,1], of a model
 * that predicts words: what it expects from there on.                        */
struct at_val *at_decoder_value(struct at_graph *g, const struct at_decoder *d,
                                struct at_val *hidden);
/* What the dense layer before them makes of hidden states: [N,C].            */
struct at_val *at_decoder_dense(struct at_graph *g, const struct at_decoder *d,
                                struct at_val *hidden);
/* Whether a parameter belongs to those numbers alone.                        */
bool at_decoder_owns_value(const char *name);

#endif
