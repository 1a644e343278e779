/* The architectures of llama.cpp that attune knows: a row each at the foot.  */
#include "train/gguf.h"
#include "train/hf.h"
#include "train/names.h"

#include <math.h>
#include <string.h>

struct at_gguf_arch {
    const char *family, *name;
    bool pairs;                 /* channels 2i, 2i+1 of a head turn together  */
    bool untied;                /* its head is always there                   */
    const struct name *names;
};

#define B_ "blocks.*."
#define ENDS                                                             \
    { "embed", "token_embd", SAME }, { "norm", "output_norm", SAME },    \
    { "head", "output", SAME }
#define NORMS                                                            \
    { B_ "attn_norm", "blk.*.attn_norm", SAME },                         \
    { B_ "mlp_norm", "blk.*.ffn_norm", SAME }
#define POST_NORMS                                                       \
    { B_ "attn_post_norm", "blk.*.post_attention_norm", SAME },          \
    { B_ "mlp_post_norm", "blk.*.post_ffw_norm", SAME }
#define OUT { B_ "attn.o_proj", "blk.*.attn_output", SAME }
#define ATTN                                                             \
    { B_ "attn.q_proj", "blk.*.attn_q", SAME },                          \
    { B_ "attn.k_proj", "blk.*.attn_k", SAME },                          \
    { B_ "attn.v_proj", "blk.*.attn_v", SAME }, OUT,                     \
    { B_ "attn.q_norm", "blk.*.attn_q_norm", SAME },                     \
    { B_ "attn.k_norm", "blk.*.attn_k_norm", SAME }
#define FUSED                                                            \
    { B_ "attn.q_proj", "blk.*.attn_qkv", QKV },                         \
    { B_ "attn.k_proj", "blk.*.attn_qkv", QKV },                         \
    { B_ "attn.v_proj", "blk.*.attn_qkv", QKV }, OUT
#define DOWN { B_ "mlp.down_proj", "blk.*.ffn_down", SAME }
#define UP { B_ "mlp.up_proj", "blk.*.ffn_up", SAME }
#define MLP UP, DOWN, { B_ "mlp.gate_proj", "blk.*.ffn_gate", SAME }

static const struct name plain[] = { ENDS, NORMS, ATTN, MLP, { 0 } };
static const struct name post[] = { ENDS, POST_NORMS, ATTN, MLP, { 0 } };
static const struct name both[] = { ENDS, NORMS, POST_NORMS, ATTN, MLP, { 0 } };
static const struct name phi3[] = {
    ENDS, NORMS, FUSED, DOWN,
    { B_ "mlp.gate_proj", "blk.*.ffn_up", GATE_UP },
    { B_ "mlp.up_proj", "blk.*.ffn_up", GATE_UP }, { 0 }
};
static const struct name neox[] = { ENDS, NORMS, FUSED, UP, DOWN, { 0 } };
static const struct name gpt2[] = {
    ENDS, NORMS, UP, DOWN, OUT, { "pos", "position_embd", SAME },
    { B_ "attn.qkv_proj", "blk.*.attn_qkv", SAME }, { 0 }
};

static const struct at_gguf_arch archs[] = {
    { "llama", "llama", true, false, plain },
    { "mistral", "llama", true, false, plain },
    { "qwen2", "qwen2", false, false, plain },
    { "qwen3", "qwen3", false, false, plain },
    { "phi3", "phi3", false, false, phi3 },
    { "olmo2", "olmo2", false, true, post },
    { "gemma3_text", "gemma3", false, false, both },
    { "gpt_neox", "gptneox", false, true, neox },
    { "gpt2", "gpt2", false, false, gpt2 },
};

/* ---- what llama.cpp computes otherwise ------------------------------------------- */

static int refuse(struct at_ctx *cx, const struct at_gguf_arch *a,
                  const char *what)
{
    return at_fail(cx, AT_EINVAL, "llama.cpp's architecture %s has no %s", a->name,
                   what);
}

/* What gemma3 has written into llama.cpp's code.                             */
static int check_gemma(struct at_ctx *cx, const struct at_gguf_arch *a,
                       const struct at_decoder *d)
{
    double usual = 1 / sqrt((double)d->K);
    bool sixth = d->window > 0;
    for (size_t i = 0; i < d->L; i++)
        sixth &= at_decoder_local(d, i) == ((i + 1) % 6 != 0);
    if (!sixth || d->rope_local != 10000 ||
        (d->attn_scale != 0 && fabs(d->attn_scale - usual) > 1e-9 * usual) ||
        fabs(d->embed_scale - sqrt((double)d->C)) > 1e-6 * d->embed_scale)
        return refuse(cx, a, "other windows, rotary bases or scales than those "
                      "of Gemma 3");
    return AT_OK;
}

int at_gguf_arch_of(struct at_ctx *cx, const struct at_decoder *d,
                    const struct at_gguf_arch **arch)
{
    struct at_decoder usual;
    const struct at_gguf_arch *a = archs;
    int rc;
    while (a < archs + AT_COUNT(archs) && strcmp(a->family, d->family) != 0)
        a++;
    if (a == archs + AT_COUNT(archs))
        return at_fail(cx, AT_EINVAL, "llama.cpp has no architecture that "
                       "attune could write a model of the family %s as",
                       d->family);
    rc = at_decoder_family(cx, d->family, &usual);
    if (rc < 0)
        return rc;
    /* Of the two GELUs llama.cpp has the one by tanh, and calls both so.      */
    if (d->norm_place != usual.norm_place ||
        (d->act != usual.act && (usual.act != AT_GELU_ERF ||
                                 d->act != AT_GELU_TANH)))
        return refuse(cx, a, "other activation, or place of norms, than its "
                      "family");
    if (d->no_attn || d->no_mlp)
        return refuse(cx, a, "layers without attention or mlp");
    if (d->value)
        return refuse(cx, a, "head that gives a value");
    if (a->pairs && d->rotary && d->rotary < d->K)
        return refuse(cx, a, "heads of which a part turns");
    *arch = a;
    return d->rope_local > 0 ? check_gemma(cx, a, d) : AT_OK;
}

/* ---- facts ---------------------------------------------------------------------------- */

/* Sizes: key behind the architecture's name, and the field.                  */
static const struct { const char *key; size_t at; bool optional; } sizes[] = {
    { "context_length", offsetof(struct at_decoder, P), false },
    { "embedding_length", offsetof(struct at_decoder, C), false },
    { "block_count", offsetof(struct at_decoder, L), false },
    { "feed_forward_length", offsetof(struct at_decoder, F), false },
    { "attention.head_count", offsetof(struct at_decoder, H), false },
    { "attention.head_count_kv", offsetof(struct at_decoder, G), true },
    { "attention.key_length", offsetof(struct at_decoder, K), true },
    { "attention.sliding_window", offsetof(struct at_decoder, window), true },
    { "vocab_size", offsetof(struct at_decoder, V), true },
};

static const char original[] = "rope.scaling.original_context_length";
static const char low_key[] = "attune.rope.low_freq_factor";
static const char high_key[] = "attune.rope.high_freq_factor";

static const char *spell(char key[96], const struct at_gguf_arch *a,
                         const char *tail)
{
    snprintf(key, 96, "%s.%s", a->name, tail);
    return key;
}

static const char *norm_key(const struct at_decoder *d)
{
    return d->norm == AT_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                  : "attention.layer_norm_epsilon";
}

void at_gguf_put_facts(const struct at_gguf_arch *a, const struct at_decoder *d,
                       struct at_gguf_out *w)
{
    char key[96];
    at_gguf_text(w, "general.architecture", a->name, strlen(a->name));
    for (size_t i = 0; i < AT_COUNT(sizes); i++) {
        size_t n;
        memcpy(&n, (const char *)d + sizes[i].at, sizeof n);
        if (n > 0)
            at_gguf_u32(w, spell(key, a, sizes[i].key), (uint32_t)n);
    }
    at_gguf_u32(w, spell(key, a, "attention.value_length"), (uint32_t)d->K);
    at_gguf_f32(w, spell(key, a, norm_key(d)), d->norm_eps);
    if (d->parallel || strcmp(a->name, "gptneox") == 0)
        at_gguf_bool(w, spell(key, a, "use_parallel_residual"), d->parallel);
    if (d->pos != AT_POS_ROPE)
        return;
    at_gguf_u32(w, spell(key, a, "rope.dimension_count"),
                (uint32_t)(d->rotary ? d->rotary : d->K));
    at_gguf_f32(w, spell(key, a, "rope.freq_base"), d->rope_theta);
    if (d->scaling == AT_SCALING_LINEAR) {
        at_gguf_text(w, spell(key, a, "rope.scaling.type"), "linear", 6);
        at_gguf_f32(w, spell(key, a, "rope.scaling.factor"), d->scale_factor);
    }
    if (d->scaling == AT_SCALING_LLAMA3) {  /* llama.cpp reads the table only */
        at_gguf_u32(w, spell(key, a, original), (uint32_t)d->scale_from);
        at_gguf_f32(w, low_key, d->scale_low);
        at_gguf_f32(w, high_key, d->scale_high);
    }
}

static const struct at_gguf_fact *find(const struct at_gguf *g,
                                       const struct at_gguf_arch *a,
                                       const char *tail)
{
    char key[96];
    return at_gguf_fact(g, spell(key, a, tail));
}

/* The number there, or `otherwise`.                                          */
static double number(const struct at_gguf *g, const struct at_gguf_arch *a,
                     const char *tail, double otherwise)
{
    const struct at_gguf_fact *f = find(g, a, tail);
    return f && f->kind == AT_GGUF_NUMBER ? f->x : otherwise;
}

static int read_sizes(struct at_ctx *cx, const struct at_gguf *g,
                      const struct at_gguf_arch *a, struct at_decoder *d)
{
    for (size_t i = 0; i < AT_COUNT(sizes); i++) {
        double x = number(g, a, sizes[i].key, sizes[i].optional ? 0 : -1);
        size_t n = (size_t)fmax(0, fmin(x, 1 << 30));
        if ((double)n != x)
            return at_fail(cx, AT_EFORMAT, "its fact %s.%s is missing, or no "
                           "size", a->name, sizes[i].key);
        memcpy((char *)d + sizes[i].at, &n, sizeof n);
    }
    return AT_OK;
}

static int read_rope(struct at_ctx *cx, const struct at_gguf *g,
                     const struct at_gguf_arch *a, struct at_decoder *d)
{
    const struct at_gguf_fact *type = find(g, a, "rope.scaling.type");
    double turn = number(g, a, "rope.dimension_count", (double)d->K);
    d->rope_theta = number(g, a, "rope.freq_base", 10000);
    if (!(turn >= 2 && turn <= (double)d->K))
        return at_fail(cx, AT_EFORMAT, "%s.rope.dimension_count is %g", a->name,
                       turn);
    d->rotary = (size_t)turn < d->K ? (size_t)turn : 0;
    if (type && type->kind == AT_GGUF_TEXT && strcmp(type->text.s, "linear") == 0) {
        d->scaling = AT_SCALING_LINEAR;
        d->scale_factor = number(g, a, "rope.scaling.factor", 1);
    } else if (type && type->kind == AT_GGUF_TEXT &&
               strcmp(type->text.s, "none") != 0) {
        return at_fail(cx, AT_EINVAL, "rotary positions are scaled by '%.40s'; "
                       "attune knows linear", type->text.s);
    }
    return AT_OK;
}

static bool has(const struct at_gguf *g, const char *name)
{
    return at_gguf_find(g, name) != NULL;
}

static double fact_or(const struct at_gguf *g, const char *key, double otherwise)
{
    const struct at_gguf_fact *f = at_gguf_fact(g, key);
    return f && f->kind == AT_GGUF_NUMBER ? f->x : otherwise;
}

/* Llama 3.1 and its kin have a table of how much each pair is slowed, not what
 * it was made of: the largest is the factor, the rest is usually the same.   */
static int read_slowing(struct at_ctx *cx, const struct at_gguf *g,
                        const struct at_gguf_arch *a, struct at_decoder *d)
{
    const struct at_gguf_tensor *t = at_gguf_find(g, "rope_freqs.weight");
    float slow[AT_HEAD_MAX / 2];
    bool same = t && t->n == d->K / 2 && t->n <= AT_COUNT(slow);
    int rc = AT_OK;
    if (!t)
        return AT_OK;
    if (same)
        rc = at_gguf_get(cx, g, t, 0, t->n, slow);
    d->scaling = AT_SCALING_LLAMA3;
    d->scale_low = fact_or(g, low_key, 1);
    d->scale_high = fact_or(g, high_key, 4);
    d->scale_from = (size_t)fmax(0, fmin(number(g, a, original, 8192),
                                         1 << 22));
    d->scale_factor = same && rc == AT_OK ? (double)slow[t->n - 1] : 0;
    for (size_t i = 0; same && rc == AT_OK && i < t->n; i++)
        same = fabs((double)slow[i] - at_decoder_slowing(d, i)) <
               1e-3 * (double)slow[i];
    if (rc == AT_OK && !same)
        rc = at_fail(cx, AT_EINVAL, "its table of rotary frequencies "
                     "(rope_freqs.weight) is not made as that of Llama 3.1");
    return rc;
}

/* What only the tensors tell.                                                */
static void look_at_tensors(const struct at_gguf *g, struct at_decoder *d)
{
    const struct at_gguf_tensor *embed = at_gguf_find(g, "token_embd.weight");
    d->tied = !has(g, "output.weight");
    if (embed && embed->n_dims == 2)
        d->V = embed->d[0];
    d->bias = 0;
    if (has(g, "blk.0.attn_q.bias") || has(g, "blk.0.attn_qkv.bias"))
        d->bias |= AT_BIAS_QKV;
    if (has(g, "blk.0.attn_output.bias"))
        d->bias |= AT_BIAS_O;
    if (has(g, "blk.0.ffn_down.bias"))
        d->bias |= AT_BIAS_MLP;
    d->rope_half = true;
}

int at_gguf_read_facts(struct at_ctx *cx, const struct at_gguf *g,
                       const struct at_gguf_arch **arch, struct at_decoder *d)
{
    const struct at_gguf_fact *f = at_gguf_fact(g, "general.architecture");
    const char *name = f && f->kind == AT_GGUF_TEXT ? f->text.s : "";
    const struct at_gguf_arch *a = archs;
    int rc;
    while (a < archs + AT_COUNT(archs) && strcmp(a->name, name) != 0)
        a++;
    if (a == archs + AT_COUNT(archs))
        return at_fail(cx, AT_EINVAL, "the architecture '%.60s' is not known; "
                       "known are llama, qwen2, qwen3, phi3, olmo2, gemma3, "
                       "gptneox, gpt2", name);
    rc = at_decoder_family(cx, a->family, d);
    if (rc == AT_OK)
        rc = read_sizes(cx, g, a, d);
    if (rc < 0)
        return rc;
    if (d->K == 0 && d->H > 0)
        d->K = d->C / d->H;
    d->norm_eps = number(g, a, norm_key(d), d->norm_eps);
    d->parallel = number(g, a, "use_parallel_residual", d->parallel) != 0;
    look_at_tensors(g, d);
    if (d->rope_local > 0) {
        d->embed_scale = sqrt((double)d->C);
        d->full_every = 6;
    }
    if (d->pos == AT_POS_ROPE)
        rc = read_rope(cx, g, a, d);
    if (rc == AT_OK)
        rc = read_slowing(cx, g, a, d);
    *arch = a;
    return rc == AT_OK ? at_decoder_check(cx, d) : rc;
}

/* ---- tensors ----------------------------------------------------------------------- */

static void lay(const struct at_gguf_arch *a, const struct at_decoder *d,
                const struct name *row, struct at_gguf_place *p)
{
    size_t rows = at_name_rows(row, d, &p->base);
    p->K = d->K;
    p->rotary = d->rotary ? d->rotary : d->K;
    if ((at_name_is_q(row) || at_name_is_k(row)) && d->pos == AT_POS_ROPE)
        p->order = a->pairs ? d->rope_half ? AT_GGUF_TO_PAIRS : AT_GGUF_STAYS
                   : d->rope_half && !d->rotary ? AT_GGUF_STAYS
                                                : AT_GGUF_TO_HALVES;
    if (rows > 0)
        p->rows = rows;
}

bool at_gguf_place(const struct at_gguf_arch *a, const struct at_decoder *d,
                   const char *name, const struct at_shape *shape,
                   struct at_gguf_place *p)
{
    const struct name *row;
    *p = (struct at_gguf_place){ .rows = shape->d[0],
                                 .cols = shape->n > 1 ? shape->d[1] : 0 };
    row = at_name_find(a->names, name, p->name, sizeof p->name);
    if (!row)
        return false;
    p->plus = d->norm_plus && strstr(row->ours, "norm");
    lay(a, d, row, p);
    return true;
}

size_t at_gguf_row(const struct at_gguf_place *p, size_t r)
{
    size_t h = r / p->K, j = r % p->K;
    struct at_hf_place halves = { .K = p->K, .rotary = p->rotary,
                                  .base = p->base, .moves = true };
    switch (p->order) {
    case AT_GGUF_STAYS: break;
    case AT_GGUF_TO_PAIRS:
        return p->base + h * p->K + j % (p->K / 2) * 2 + j / (p->K / 2);
    case AT_GGUF_TO_HALVES: return at_hf_row(&halves, r);
    }
    return p->base + r;
}
