/* attune generate, eval, merge, soup. */
#include "data/data.h"
#include "tools/align.h"
#include "tools/cmds.h"
#include "train/chat_choice.h"
#include "train/infer.h"
#include "train/soup.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- generate -------------------------------------------------------------------- */

struct gen_args {
    const char *model, *prompt, *file, *backend;
    const char *palette;
    int64_t max_tokens, top_k, seed, threads, batch, candidates;
    double temperature, top_p, min_p;
    struct texts stop;
    const char *chat, *system;
    bool json, commands;
};

#define GEN(field) offsetof(struct gen_args, field)

static const struct opt gen_opts[] = {
    { "--model", OPT_TEXT, GEN(model), "FILE",
      "model, checkpoint or run directory (needed)" },
    { "--prompt", OPT_TEXT, GEN(prompt), "TEXT", "what to continue" },
    { "--prompts", OPT_TEXT, GEN(file), "FILE",
      "continue every line of this file, in batches" },
    { "--chat", OPT_TEXT, GEN(chat), "NAME",
      "the prompt is what a user says: by this chat template (auto: the model's)" },
    { "--system", OPT_TEXT, GEN(system), "TEXT", "with --chat: the system's words" },
    { "--palette", OPT_TEXT, GEN(palette), "FILE",
      "draw several texts and keep one, by this palette's weights" },
    { "--candidates", OPT_INT, GEN(candidates), "K",
      "with --palette: texts to choose from (16)" },
    { "--allow-commands", OPT_FLAG, GEN(commands), NULL,
      "let the palette's values run commands" },
    { "--max-tokens", OPT_INT, GEN(max_tokens), "N",
      "prompt and continuation together, in tokens beyond the prompt (128)" },
    { "--temperature", OPT_REAL, GEN(temperature), "T",
      "0: always the likeliest token (0.8; with --palette 1)" },
    { "--top-k", OPT_INT, GEN(top_k), "K",
      "only the K likeliest; 0: all (40; with --palette 0)" },
    { "--top-p", OPT_REAL, GEN(top_p), "P",
      "only the likeliest that make up P together (1)" },
    { "--min-p", OPT_REAL, GEN(min_p), "P",
      "only those at least P times as likely as the likeliest (0)" },
    { "--stop", OPT_LIST, GEN(stop), "TEXT",
      "end before this text; may be given several times" },
    { "--seed", OPT_INT, GEN(seed), "N", "the same seed, the same text (0)" },
    { "--batch", OPT_INT, GEN(batch), "N", "prompts at a time (8)" },
    { "--json", OPT_FLAG, GEN(json), NULL, "a JSON line for every prompt" },
    { "--threads", OPT_INT, GEN(threads), "N", "CPU threads (all)" },
    { "--backend", OPT_TEXT, GEN(backend), "NAME", "cpu or ref (cpu)" },
};

enum { UNSAID = -1 };           /* a palette wants its draws as they come      */

static void gen_defaults(void *args)
{
    struct gen_args *a = args;
    a->max_tokens = 128;
    a->temperature = NAN;
    a->top_k = UNSAID;
    a->candidates = 16;
    a->top_p = 1;
    a->batch = 8;
    a->backend = "cpu";
}

struct row {                /* one continuation                               */
    struct at_text text;
    struct at_tok_ids ids;
    size_t printed, n_new;
    int32_t prev;
    const char *prompt, *ended; /* why it ended                               */
    double logp;
};

struct session {
    const struct gen_args *a;
    struct at_infer *in;
    struct row row[256];
    size_t n;
    const struct at_chat *chat;
    int32_t turn_end;       /* with chat: the token that ends an answer       */
    bool live;              /* one prompt: print as it comes                  */
};

/* How much of the text cannot become part of a stop text any more.           */
static size_t safe(const struct session *s, const struct row *r)
{
    size_t hold = 0;
    for (size_t i = 0; i < s->a->stop.n; i++) {
        size_t n = strlen(s->a->stop.s[i]);
        for (size_t k = n > 0 ? n - 1 : 0; k > hold; k--)
            if (k <= r->text.n &&
                memcmp(r->text.s + r->text.n - k, s->a->stop.s[i], k) == 0)
                hold = k;
    }
    return r->text.n - hold;
}

static bool stopped(const struct session *s, struct row *r)
{
    for (size_t i = 0; i < s->a->stop.n && r->text.s; i++) {
        const char *at = strstr(r->text.s, s->a->stop.s[i]);
        if (at && s->a->stop.s[i][0]) {
            r->text.n = (size_t)(at - r->text.s);
            r->text.s[r->text.n] = '\0';
            r->ended = "stop";
            return true;
        }
    }
    return false;
}

static void print_live(const struct session *s, struct row *r, bool all)
{
    size_t to = all ? r->text.n : safe(s, r);
    if (!s->live || to <= r->printed)
        return;
    fwrite(r->text.s + r->printed, 1, to - r->printed, stdout);
    fflush(stdout);
    r->printed = to;
}

static bool on_token(void *self, size_t i, int32_t id, double logp)
{
    struct session *s = self;
    struct row *r = &s->row[i];
    const char *piece;
    size_t n;
    r->logp += logp;
    r->n_new++;
    if (id == at_tok_eos(s->in->m->tok) || (s->chat && id == s->turn_end)) {
        r->ended = "eos";
        return false;
    }
    piece = at_tok_step(s->in->m->tok, r->prev, id, &n);
    at_text_add(&r->text, piece ? piece : "", n);
    r->prev = id;
    if (stopped(s, r)) {
        print_live(s, r, true);
        return false;
    }
    print_live(s, r, false);
    return true;
}

static int encode_chat(struct at_ctx *cx, struct session *s, struct row *r)
{
    const char *system = s->a->system;
    struct at_chat_turn turn[] = {
        { AT_CHAT_SYSTEM, system, system ? strlen(system) : 0 },
        { AT_CHAT_USER, r->prompt, strlen(r->prompt) },
    };
    size_t first = system ? 0 : 1;
    struct at_chat_text text;
    char why[256];
    int rc = at_chat_render(cx, &cx->scratch, s->chat, s->in->m->tok,
                            turn + first, 2 - first, true, &text, why);
    if (rc == AT_OK && *why)
        rc = at_fail(cx, AT_EINVAL, "%s", why);
    if (rc == AT_OK)
        rc = at_tok_encode_own(cx, s->in->coder, text.s, text.n, 0, text.own,
                               text.n_own, &r->ids);
    at_arena_reset(&cx->scratch);
    return rc;
}

static int encode_row(struct at_ctx *cx, struct session *s, struct row *r)
{
    int rc = s->chat ? encode_chat(cx, s, r)
                     : at_tok_encode(cx, s->in->coder, r->prompt,
                                     strlen(r->prompt),
                                     at_data_flags(s->in->m->tok), &r->ids);
    if (rc == AT_OK && r->ids.n == 0)
        rc = at_fail(cx, AT_EINVAL, "the prompt is empty, and the tokenizer has "
                     "no token to begin with: give --prompt");
    if (rc == AT_OK)
        r->prev = r->ids.id[r->ids.n - 1];
    r->ended = "length";
    return rc;
}

static void print_row(const struct session *s, struct row *r)
{
    struct at_text t = { 0 };
    if (s->live) {
        print_live(s, r, true);
        printf("\n");
        return;
    }
    if (!s->a->json) {
        printf("%s%s%s\n", r->prompt, s->chat ? "\t" : "",
               r->text.s ? r->text.s : "");
        return;
    }
    at_text_addf(&t, "{\"prompt\": ");
    at_text_json(&t, r->prompt, strlen(r->prompt));
    at_text_addf(&t, ", \"text\": ");
    at_text_json(&t, r->text.s ? r->text.s : "", r->text.n);
    at_text_addf(&t, ", \"tokens\": %zu, \"logp\": %.17g, \"ended\": \"%s\"}",
                 r->n_new, r->logp, r->ended);
    printf("%s\n", t.s ? t.s : "");
    at_text_finish(&t);
}

static struct at_sampling sampling(const struct gen_args *a)
{
    return (struct at_sampling){
        .temperature = !isnan(a->temperature) ? a->temperature
                       : a->palette ? 1 : 0.8,
        .top_k = a->top_k != UNSAID ? (size_t)a->top_k : a->palette ? 0 : 40,
        .top_p = a->top_p, .min_p = a->min_p, .seed = (uint64_t)a->seed,
    };
}

static int choose(struct at_ctx *cx, const struct gen_args *a,
                  struct at_infer *in)
{
    struct by_palette b = {
        a->palette, a->prompt, a->file, (size_t)a->candidates,
        (size_t)a->max_tokens, (size_t)a->candidates, sampling(a), a->json,
        a->commands
    };
    return generate_by_palette(cx, in, &b);
}

/* Prompt number `first` + i has random stream first + i: its text does not
 * depend on the batch it is in.                                              */
static int one_batch(struct at_ctx *cx, struct session *s, size_t first)
{
    const struct gen_args *a = s->a;
    struct at_sampling how = sampling(a);
    struct at_prompt prompts[256];
    int rc = AT_OK;
    for (size_t i = 0; i < s->n && rc == AT_OK; i++) {
        rc = encode_row(cx, s, &s->row[i]);
        prompts[i] = (struct at_prompt){ s->row[i].ids.id, s->row[i].ids.n,
                                         (uint32_t)(first + i) };
    }
    if (rc == AT_OK)
        rc = at_sampling_check(cx, &how);
    if (rc == AT_OK && s->live && !s->chat)
        printf("%s", s->row[0].prompt);
    if (rc == AT_OK)
        rc = at_generate(s->in->gen, prompts, s->n, (size_t)a->max_tokens,
                         &how, on_token, s);
    for (size_t i = 0; i < s->n; i++) {
        if (rc == AT_OK)
            print_row(s, &s->row[i]);
        at_text_finish(&s->row[i].text);
        at_tok_ids_finish(&s->row[i].ids);
        s->row[i] = (struct row){ 0 };
    }
    return rc;
}

static int all_prompts(struct at_ctx *cx, struct session *s)
{
    const struct gen_args *a = s->a;
    char *text, *line;
    size_t n, done = 0;
    int rc;
    if (!a->file) {
        s->row[0].prompt = a->prompt ? a->prompt : "";
        s->n = 1;
        s->live = !a->json;
        return one_batch(cx, s, 0);
    }
    rc = at_read_file(cx, &cx->run, a->file, 0, &text, &n);
    line = text;
    while (rc == AT_OK && *line) {
        for (s->n = 0; *line && s->n < (size_t)a->batch; s->n++) {
            char *end = strchr(line, '\n');
            s->row[s->n].prompt = line;
            if (end)
                *end = '\0';
            line = end ? end + 1 : line + strlen(line);
        }
        rc = one_batch(cx, s, done);
        done += s->n;
    }
    return rc;
}

static int generate(struct at_ctx *cx, const void *args, char *const *pos,
                    int n)
{
    const struct gen_args *a = args;
    struct session *s = at_alloc(cx, &cx->run, sizeof *s);
    int rc;
    (void)pos;
    (void)n;
    if (!s)
        return AT_ENOMEM;
    if (!a->model)
        return at_fail(cx, AT_EINVAL, "--model FILE is needed");
    if (a->max_tokens < 1 || a->top_k < UNSAID || a->batch < 1 ||
        a->batch > 256 || a->candidates < 1 || a->candidates > 4096)
        return at_fail(cx, AT_EINVAL, "--max-tokens must be at least 1, --top-k "
                       "at least 0, --batch between 1 and 256, --candidates "
                       "between 1 and 4096");
    if (a->palette && a->stop.n)
        return at_fail(cx, AT_EINVAL, "--palette measures whole texts: leave "
                       "--stop out");
    if (a->system && !a->chat)
        return at_fail(cx, AT_EINVAL, "--system goes with --chat");
    if (a->palette && a->chat)
        return at_fail(cx, AT_EINVAL, "--palette takes prompts as they are: leave "
                       "--chat out");
    s->a = a;
    rc = at_infer_open(cx, a->model, a->backend, (int)a->threads,
                       a->palette ? (size_t)a->candidates
                       : a->file ? (size_t)a->batch : 1, SIZE_MAX, 0, 0,
                       &s->in);
    if (rc < 0)
        return rc;
    rc = at_model_need_words(cx, s->in->m);
    if (rc == AT_OK && a->chat) {
        const struct at_model *m = s->in->m;
        rc = at_chat_choose(cx, m->base ? m->base : m->f, m->path, a->chat,
                            &s->chat);
        if (rc == AT_OK)
            s->turn_end = at_chat_end_token(s->chat, m->tok);
    }
    if (rc == AT_OK)
        rc = a->palette ? choose(cx, a, s->in) : all_prompts(cx, s);
    at_infer_close(s->in);
    return rc;
}

const struct cmd cmd_generate = {
    "generate", "--model FILE", "continue a text", 0, 0, gen_opts,
    AT_COUNT(gen_opts), sizeof(struct gen_args), gen_defaults, generate
};

/* ---- eval --------------------------------------------------------------------------- */

struct eval_args {
    const char *model, *text, *data, *backend;
    int64_t length, rows, threads;
    bool all, lm, json;
};

#define EVAL(field) offsetof(struct eval_args, field)

static const struct opt eval_opts[] = {
    { "--model", OPT_TEXT, EVAL(model), "FILE",
      "model, checkpoint or run directory (needed)" },
    { "--text", OPT_TEXT, EVAL(text), "FILE", "a plain text to measure" },
    { "--data", OPT_TEXT, EVAL(data), "DATA.h5",
      "a dataset: its validation documents" },
    { "--all", OPT_FLAG, EVAL(all), NULL,
      "of the dataset, the training documents instead" },
    { "--every-role", OPT_FLAG, EVAL(lm), NULL,
      "count every token, not only completions" },
    { "--length", OPT_INT, EVAL(length), "N", "tokens of a row (512)" },
    { "--rows", OPT_INT, EVAL(rows), "N", "rows at a time (4)" },
    { "--json", OPT_FLAG, EVAL(json), NULL, "print JSON" },
    { "--threads", OPT_INT, EVAL(threads), "N", "CPU threads (all)" },
    { "--backend", OPT_TEXT, EVAL(backend), "NAME", "cpu or ref (cpu)" },
};

static void eval_defaults(void *args)
{
    struct eval_args *a = args;
    a->length = 512;
    a->rows = 4;
    a->backend = "cpu";
}

static int eval_text(struct at_ctx *cx, const struct eval_args *a,
                     struct at_infer *in, struct at_eval_sum *sum)
{
    char *text;
    size_t n;
    int rc = at_read_file(cx, &cx->run, a->text, 0, &text, &n);
    return rc == AT_OK ? at_infer_text(cx, in, text, n, sum) : rc;
}

/* Of labels, or of numbers: these are how far off, squared.                   */
static void print_verdicts(const struct eval_args *a,
                           const struct at_eval_sum *sum, double mean,
                           double se, size_t width)
{
    if (!sum->o.table) {
        printf(a->json ? "{\"squared_error\": %.17g, \"standard_error\": %.17g, "
                         "\"texts\": %llu}\n"
                       : "mean squared error %.6f \u00B1 %.6f, %llu texts\n",
               mean, se, (unsigned long long)sum->n);
        return;
    }
    printf(a->json ? "{\"loss\": %.17g, \"standard_error\": %.17g, "
                     "\"accuracy\": %.17g, \"f1\": %.17g, \"texts\": %.0f}\n"
                   : "loss %.6f \u00B1 %.6f, accuracy %.4f, F1 %.4f, %.0f "
                     "texts\n",
           mean, se, sum->o.right / sum->o.pairs,
           at_f1(sum->o.table, width), sum->o.pairs);
}

static int eval(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct eval_args *a = args;
    struct at_eval_sum sum = { 0 };
    struct at_infer *in;
    double mean, se, capacity = NAN;
    size_t width;
    int rc;
    (void)pos;
    (void)n;
    if (!a->model || (a->text != NULL) == (a->data != NULL))
        return at_fail(cx, AT_EINVAL, "--model FILE and one of --text FILE and "
                       "--data DATA.h5 are needed");
    if (a->length < 1 || a->rows < 1 || a->rows > 4096)
        return at_fail(cx, AT_EINVAL, "--length and --rows must be at least 1");
    rc = at_infer_open(cx, a->model, a->backend, (int)a->threads, 0, 0,
                       (size_t)a->rows, (size_t)a->length, &in);
    if (rc < 0)
        return rc;
    rc = a->text ? at_model_need_words(cx, in->m)
                 : at_model_need_tokenizer(cx, in->m);
    if (rc == AT_OK)
        rc = a->text ? eval_text(cx, a, in, &sum)
                     : at_infer_data(cx, in, a->data, a->all, a->lm, &sum);
    if (rc == AT_OK)
        capacity = at_metrics_share_mean(in->st->eval.gauge,
                                         in->st->eval.n_gauges);
    width = in->m->d.value;
    at_infer_close(in);
    if (rc < 0)
        return rc;
    if (sum.n == 0)
        return at_fail(cx, AT_EINVAL, "there is no token to measure");
    mean = sum.ce / (double)sum.n;
    se = sqrt(fmax(0, sum.ce2 / (double)sum.n - mean * mean) / (double)sum.n);
    if (sum.o.table || (sum.o.pairs == 0 && width)) {
        print_verdicts(a, &sum, mean, se, width);
        return AT_OK;
    }
    if (sum.o.pairs > 0) {
        printf(a->json ? "{\"loss\": %.17g, \"standard_error\": %.17g, "
                         "\"accuracy\": %.17g, \"pairs\": %.0f}\n"
                       : "loss %.6f \u00B1 %.6f, accuracy %.4f, %.0f pairs\n",
               mean, se, sum.o.right / sum.o.pairs, sum.o.pairs);
        return AT_OK;
    }
    printf(a->json ? "{\"cross_entropy\": %.17g, \"standard_error\": %.17g, "
                     "\"perplexity\": %.17g, \"tokens\": %llu"
                   : "cross-entropy %.6f \u00B1 %.6f nats a token, perplexity "
                     "%.4f, %llu tokens",
           mean, se, exp(mean), (unsigned long long)sum.n);
    if (sum.texts)
        printf(a->json ? ", \"token_accuracy\": %.17g, \"exact\": %.17g, "
                         "\"texts\": %llu"
                       : ", %.2f %% of them the likeliest; %.2f %% of %llu texts "
                         "exact",
               (a->json ? 1 : 100) * (double)sum.right / (double)sum.n,
               (a->json ? 1 : 100) * (double)sum.texts_right /
                   (double)sum.texts, (unsigned long long)sum.texts);
    if (!isnan(capacity))
        printf(a->json ? ", \"capacity\": %.17g" : ", capacity %.4f", capacity);
    printf(a->json ? "}\n" : "\n");
    return AT_OK;
}

const struct cmd cmd_eval = {
    "eval", "--model FILE --text FILE | --data DATA.h5",
    "measure a model's cross-entropy", 0, 0, eval_opts, AT_COUNT(eval_opts),
    sizeof(struct eval_args), eval_defaults, eval
};

/* ---- merge ---------------------------------------------------------------------------- */

struct merge_args { const char *dtype; };

static const struct opt merge_opts[] = {
    { "--dtype", OPT_TEXT, offsetof(struct merge_args, dtype), "TYPE",
      "float32, or bfloat16 for half the size (float32)" },
};

int weight_type(struct at_ctx *cx, const char *word, enum at_h5_type *type)
{
    *type = word && strcmp(word, "bfloat16") == 0 ? AT_H5_BF16 : AT_H5_F32;
    if (!word || *type == AT_H5_BF16 || strcmp(word, "float32") == 0)
        return AT_OK;
    return at_fail(cx, AT_EINVAL, "--dtype is '%s'; it must be float32 or "
                   "bfloat16", word);
}

static int merge(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct merge_args *a = args;
    enum at_h5_type type;
    struct at_infer *in;
    struct at_zeros z;
    struct at_h5 *from;
    double largest;
    bool same;
    int rc = weight_type(cx, a->dtype, &type);
    (void)n;
    if (rc == AT_OK)
        rc = at_infer_open_to_merge(cx, pos[0], &in);
    if (rc < 0)
        return rc;
    from = in->m->base ? in->m->base : in->m->f;
    rc = at_file_apart(cx, pos[1], at_h5_path(from));
    if (rc == AT_OK)
        rc = at_file_apart(cx, pos[1], in->m->path);
    if (rc == AT_OK)
        rc = at_infer_merge(cx, in, &largest, &same);
    if (rc == AT_OK)
        rc = at_sparse_count(cx, from, &in->ps, &z);
    if (rc == AT_OK)
        rc = at_model_write(cx, pos[1], &in->m->d, in->m->tok, &in->ps, type,
                            from);
    if (rc == AT_OK)
        printf("%s: written%s%s; largest logit difference to the adapted model "
               "%.2e, likeliest token %s\n", pos[1],
               in->m->adapters.n ? ", adapter merged" : "",
               type == AT_H5_BF16 ? ", then rounded to bfloat16" : "", largest,
               same ? "the same" : "NOT the same");
    if (rc == AT_OK && z.weights)
        printf("of %zu pruned weights in %zu, %zu are still zero%s\n", z.zeros,
               z.weights, z.still, z.still == z.zeros ? "" : ": the model is no "
               "longer sparse where they are not (masked_lora keeps them)");
    at_infer_close(in);
    return rc;
}

const struct cmd cmd_merge = {
    "merge", "RUN|CHECKPOINT OUT.h5",
    "write a plain model file, with its adapter added to the weights", 2, 2,
    merge_opts, AT_COUNT(merge_opts), sizeof(struct merge_args), NULL, merge
};

/* ---- soup ----------------------------------------------------------------------------- */

enum { SOUP_MOST = 64 };

struct soup_args { const char *weights, *dtype; };

static const struct opt soup_opts[] = {
    { "--weights", OPT_TEXT, offsetof(struct soup_args, weights), "A,B,...",
      "what each counts, 1 in all (the same)" },
    { "--dtype", OPT_TEXT, offsetof(struct soup_args, dtype), "TYPE",
      "store weights as float32 (default) or bfloat16" },
};

static int read_shares(struct at_ctx *cx, const char *s, double *w, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char *end = NULL;
        w[i] = s ? strtod(s, &end) : 1 / (double)n;
        if (s && (end == s || *end != (i + 1 < n ? ',' : '\0')))
            return at_fail(cx, AT_EINVAL, "--weights: %zu numbers with commas "
                           "between them, one for each model", n);
        s = s ? end + 1 : NULL;
    }
    return AT_OK;
}

static int soup(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct soup_args *a = args;
    const char *path[SOUP_MOST];
    double w[SOUP_MOST];
    enum at_h5_type type;
    size_t m = (size_t)n - 1;
    int rc = weight_type(cx, a->dtype, &type);
    for (size_t i = 0; i < m && rc == AT_OK; i++) {
        path[i] = pos[i];
        rc = at_file_apart(cx, pos[m], path[i]);
    }
    if (rc == AT_OK)
        rc = read_shares(cx, a->weights, w, m);
    if (rc == AT_OK)
        rc = at_soup(cx, path, w, m, pos[m], type);
    for (size_t i = 0; i < m && rc == AT_OK; i++)
        printf("%8.4f  %s\n", w[i], path[i]);
    if (rc == AT_OK)
        printf("%s: written\n", pos[m]);
    return rc;
}

const struct cmd cmd_soup = {
    "soup", "MODEL|RUN MODEL|RUN ... OUT.h5",
    "write the weighted mean of models, adapters added to their base", 3,
    SOUP_MOST + 1, soup_opts, AT_COUNT(soup_opts), sizeof(struct soup_args),
    NULL, soup
};
