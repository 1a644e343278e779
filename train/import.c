/* llama2.c's weights: a header of 7 int32 {dim, hidden, layers, heads, kv
 * heads, vocabulary (negative: untied head), length}, then float32 arrays, one
 * kind of all layers after another.                                          */
#include "train/model_file.h"

#include <stdlib.h>
#include <string.h>

struct reader { const float *at, *end; bool short_of; };

static void take(struct reader *r, struct at_params *ps, const char *name)
{
    struct at_param *p = at_param_find(ps, name);
    size_t n = p ? at_shape_count(&p->val.shape) : 0;
    if (!p || (size_t)(r->end - r->at) < n) {
        r->short_of = true;
        return;
    }
    memcpy(p->val.data, r->at, n * sizeof *r->at);
    r->at += n;
}

static void take_layers(struct reader *r, struct at_params *ps, size_t L,
                        const char *part)
{
    char name[128];
    for (size_t i = 0; i < L && !r->short_of; i++) {
        snprintf(name, sizeof name, "blocks.%zu.%s", i, part);
        take(r, ps, name);
    }
}

static int read_header(struct at_ctx *cx, const char *path, const char *bytes,
                       size_t n, struct at_decoder *d)
{
    int32_t h[7];
    int rc = at_decoder_family(cx, "llama", d);
    if (rc < 0)
        return rc;
    if (n < sizeof h)
        return at_fail(cx, AT_EFORMAT, "%s: is too short for llama2.c weights",
                       path);
    memcpy(h, bytes, sizeof h);
    for (int i = 0; i < 7; i++)
        if (h[i] == 0 || (i != 5 && h[i] < 0) || abs(h[i]) > 1 << 24)
            return at_fail(cx, AT_EFORMAT, "%s: is not a llama2.c weights file "
                           "(number %d of its header is %d)", path, i + 1,
                           h[i]);
    d->C = (size_t)h[0];
    d->F = (size_t)h[1];
    d->L = (size_t)h[2];
    d->H = (size_t)h[3];
    d->G = (size_t)h[4];
    d->V = (size_t)abs(h[5]);
    d->P = (size_t)h[6];
    d->tied = h[5] > 0;
    d->rope_half = false;
    rc = at_decoder_check(cx, d);
    if (rc == AT_OK && at_decoder_params(d) * sizeof(float) > (double)n)
        rc = at_fail(cx, AT_EFORMAT, "%s: is cut short: %.0f weights do not fit "
                     "in %zu bytes", path, at_decoder_params(d), n);
    return rc;
}

static int fill(struct at_ctx *cx, const char *path, const char *bytes,
                size_t n, const struct at_decoder *d, struct at_params *ps)
{
    static const char *const parts[] = {
        "attn_norm.weight", "attn.q_proj.weight", "attn.k_proj.weight",
        "attn.v_proj.weight", "attn.o_proj.weight", "mlp_norm.weight",
        "mlp.gate_proj.weight", "mlp.down_proj.weight", "mlp.up_proj.weight",
    };
    struct reader r = { 0 };
    const size_t head = 7 * sizeof(int32_t);
    r.at = (const float *)(const void *)(bytes + head);
    r.end = r.at + (n - head) / sizeof(float);
    take(&r, ps, "embed.weight");
    for (size_t i = 0; i < AT_COUNT(parts) && !r.short_of; i++)
        take_layers(&r, ps, d->L, parts[i]);
    take(&r, ps, "norm.weight");
    if (!d->tied) {             /* behind the two tables of rotary positions  */
        size_t skip = d->P * d->K;
        if ((size_t)(r.end - r.at) < skip)
            r.short_of = true;
        else
            r.at += skip;
        take(&r, ps, "head.weight");
    }
    if (r.short_of)
        return at_fail(cx, AT_EFORMAT, "%s: is cut short", path);
    for (size_t i = 0; i < ps->n; i++)
        if (!at_all_finite(ps->p[i]->val.data,
                           at_shape_count(&ps->p[i]->val.shape)))
            return at_fail(cx, AT_EFORMAT, "%s: the weights of '%s' are not "
                           "finite", path, ps->p[i]->val.name);
    return AT_OK;
}

int at_model_import_llama2c(struct at_ctx *cx, const char *weights,
                            const char *tokenizer, const char *out)
{
    struct at_decoder d;
    struct at_params ps;
    struct at_tok *tok;
    char *bytes;
    size_t n;
    int rc = at_read_file(cx, &cx->run, weights, (size_t)16 << 30, &bytes, &n);
    at_params_init(&ps, cx, &cx->plan);
    ps.need_grads = false;
    if (rc == AT_OK)
        rc = read_header(cx, weights, bytes, n, &d);
    if (rc == AT_OK)
        rc = at_tok_load_llama2c(cx, &cx->run, tokenizer, d.V, &tok);
    if (rc == AT_OK)
        rc = at_model_declare(cx, &d, &ps);
    if (rc == AT_OK)
        rc = at_params_seal(&ps);
    if (rc == AT_OK)
        rc = fill(cx, weights, bytes, n, &d, &ps);
    if (rc == AT_OK)
        rc = at_model_write(cx, out, &d, tok, &ps, AT_H5_F32, NULL);
    at_params_finish(&ps);
    return rc < 0 ? at_note(cx, rc, "importing %s", weights) : AT_OK;
}
