/* attune rollout, compare. */
#include "tools/align.h"
#include "tools/cmds.h"
#include "train/align/compare.h"
#include "train/align/rollout.h"
#include "train/align/weights.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

struct rollout_args {
    struct texts value;
    const char *palette, *split;
    int64_t samples, max_tokens, top_k, seed, rows, prompt_tokens, limit, skip,
        longest, threads;
    double temperature, top_p, min_p;
    bool commands, quiet;
};

#define ROLL(field) offsetof(struct rollout_args, field)

static const struct opt rollout_opts[] = {
    { "--value", OPT_LIST, ROLL(value), "V",
      "'NAME=KIND:ARGUMENT', what to measure; may be given again" },
    { "--palette", OPT_TEXT, ROLL(palette), "FILE",
      "of every prompt's texts keep one, drawn by this palette's weights" },
    { "--allow-commands", OPT_FLAG, ROLL(commands), NULL,
      "let the palette's values run commands" },
    { "--samples", OPT_INT, ROLL(samples), "K", "texts a prompt (16)" },
    { "--max-tokens", OPT_INT, ROLL(max_tokens), "N", "tokens a text (64)" },
    { "--prompt-tokens", OPT_INT, ROLL(prompt_tokens), "N",
      "plain texts of a dataset: their first N tokens are the prompt" },
    { "--split", OPT_TEXT, ROLL(split), "S",
      "of a dataset: train, validation or both (both)" },
    { "--limit", OPT_INT, ROLL(limit), "N", "prompts in all (all)" },
    { "--longest-prompt", OPT_INT, ROLL(longest), "N",
      "leave prompts of more than N tokens out (none)" },
    { "--skip", OPT_INT, ROLL(skip), "N", "leave the first N prompts out" },
    { "--temperature", OPT_REAL, ROLL(temperature), "T", "of drawing (1)" },
    { "--top-k", OPT_INT, ROLL(top_k), "K", "only the K likeliest (0: all)" },
    { "--top-p", OPT_REAL, ROLL(top_p), "P",
      "only the likeliest that make up P together (1)" },
    { "--min-p", OPT_REAL, ROLL(min_p), "P",
      "only those at least P times as likely as the likeliest (0)" },
    { "--seed", OPT_INT, ROLL(seed), "N", "the same seed, the same texts (0)" },
    { "--rows", OPT_INT, ROLL(rows), "N", "texts drawn at a time (64)" },
    { "--threads", OPT_INT, ROLL(threads), "N", "CPU threads (all)" },
    { "--quiet", OPT_FLAG, ROLL(quiet), NULL, "print nothing but errors" },
};

static void rollout_defaults(void *args)
{
    struct rollout_args *a = args;
    a->samples = 16;
    a->max_tokens = 64;
    a->temperature = 1;
    a->top_p = 1;
    a->rows = 64;
    a->split = "both";
}

static int check_rollout(struct at_ctx *cx, const struct rollout_args *a,
                         int *split)
{
    static const char *const splits[] = { "train", "validation", "both" };
    *split = 0;
    while (*split < 3 && strcmp(splits[*split], a->split) != 0)
        (*split)++;
    if (*split == 3)
        return at_fail(cx, AT_EINVAL, "--split '%s': train, validation or both",
                       a->split);
    *split = *split == 2 ? -1 : *split;
    if (a->samples < 1 || a->samples > 4096 || a->max_tokens < 1 ||
        a->rows < 1 || a->rows > 4096 || a->top_k < 0 || a->limit < 0 ||
        a->skip < 0 || a->prompt_tokens < 0 || a->longest < 0)
        return at_fail(cx, AT_EINVAL, "--samples, --rows: 1 to 4096; "
                       "--max-tokens: at least 1; --top-k, --limit, --skip, "
                       "--prompt-tokens, --longest-prompt: at least 0");
    if (a->palette && a->value.n)
        return at_fail(cx, AT_EINVAL, "--palette names its own values: leave "
                       "--value out");
    return AT_OK;
}

struct line { bool show; double last_s; };

static void show_line(void *self, size_t done, size_t total, double speed)
{
    struct line *l = self;
    double now = at_now_s();
    if (!l->show || (now - l->last_s < 0.2 && done < total))
        return;
    l->last_s = now;
    fprintf(stderr, "\r%zu of %zu prompts | %.0f tokens/s\033[K", done, total,
            speed);
    if (done == total)
        fprintf(stderr, "\r\033[K");
}

static void print_rollout(const char *out, const struct rollout_args *a,
                          const struct at_values *v,
                          const struct at_weights *w,
                          const struct at_rollout_stats *s)
{
    printf("%s: %lld texts for each of %zu prompts%s, %.1f tokens each, %.0f %% "
           "ended by themselves\n", out, (long long)a->samples, s->prompts,
           w ? ", one kept" : "", s->length, 100 * s->ended);
    if (s->resumed)
        printf("  %zu prompts were there already\n", s->resumed);
    if (v->n)
        printf("%-16s %10s %10s%s  unit\n", "value", "mean", "+-",
               w ? "     target" : "");
    for (size_t i = 0; i < v->n; i++) {
        printf("%-16s %10.5g %10.2g", v->v[i].name, s->mean[i], s->se[i]);
        if (w && isnan(w->target[i]))
            printf("          -");
        else if (w)
            printf(" %10.5g", w->target[i]);
        printf("  %s%s\n", v->v[i].turned ? "minus " : "", v->v[i].kind->unit);
    }
}

static int draw_all(struct at_ctx *cx, const struct rollout_args *a, int split,
                    const struct at_values *v, const struct at_weights *w,
                    char *const *pos)
{
    struct at_prompts_options po = {
        .tokens = (size_t)a->prompt_tokens, .most = (size_t)a->limit,
        .skip = (size_t)a->skip, .longest = (size_t)a->longest,
        .split = split,
    };
    struct at_rollout_options o = {
        .out = pos[2], .values = v, .weight = w ? w->weight : NULL,
        .draw = { .k = (size_t)a->samples, .max_new = (size_t)a->max_tokens,
                  .rows = (size_t)a->rows,
                  .sampling = { .temperature = a->temperature,
                                .top_k = (size_t)a->top_k, .top_p = a->top_p,
                                .min_p = a->min_p,
                                .seed = (uint64_t)a->seed } },
    };
    struct line line = { .show = !a->quiet && isatty(2) };
    struct at_rollout_stats stats;
    struct at_prompts prompts;
    struct at_infer *in;
    int rc = at_infer_open(cx, pos[0], "cpu", (int)a->threads, o.draw.rows,
                           SIZE_MAX, 0, 0, &in);
    if (rc < 0)
        return rc;
    rc = at_model_need_words(cx, in->m);
    if (rc == AT_OK)
        rc = at_prompts_read(cx, &cx->run, in->m->tok, in->coder, pos[1], &po,
                             &prompts);
    if (rc == AT_OK)
        rc = at_rollout(cx, in, &prompts, &o, show_line, &line, &stats);
    at_infer_close(in);
    if (rc == AT_OK && !a->quiet && prompts.too_long)
        printf("%zu prompts have more than %lld tokens and were left out\n",
               prompts.too_long, (long long)a->longest);
    if (rc == AT_OK && !a->quiet)
        print_rollout(o.out, a, v, w, &stats);
    return rc;
}

static int rollout(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct rollout_args *a = args;
    struct at_weights w;
    struct at_values v;
    int split, rc = check_rollout(cx, a, &split);
    (void)n;
    for (int i = 0; i < 2 && rc == AT_OK; i++)
        rc = at_file_apart(cx, pos[2], pos[i]);
    if (rc == AT_OK)
        rc = at_threads_start(cx, (int)a->threads);
    if (rc == AT_OK && a->palette)
        rc = at_weights_read(cx, &cx->run, a->palette, &w);
    if (rc == AT_OK)
        rc = a->palette ? at_weights_open(cx, &cx->run, &w, a->commands,
                                          "--allow-commands", &v)
                        : at_values_open(cx, &cx->run, a->value.s, a->value.n,
                                         &v);
    if (rc < 0)
        return rc;
    rc = draw_all(cx, a, split, &v, a->palette ? &w : NULL, pos);
    at_values_close(&v);
    return rc;
}

const struct cmd cmd_rollout = {
    "rollout", "MODEL PROMPTS OUT.h5",
    "draw texts for prompts and measure them; stopped, it goes on", 3, 3,
    rollout_opts, AT_COUNT(rollout_opts), sizeof(struct rollout_args),
    rollout_defaults, rollout
};

/* ---- compare ------------------------------------------------------------------- */

struct compare_args { const char *palette; bool json; };

static const struct opt compare_opts[] = {
    { "--palette", OPT_TEXT, offsetof(struct compare_args, palette), "FILE",
      "show this palette's targets beside what the second reached" },
    { "--json", OPT_FLAG, offsetof(struct compare_args, json), NULL,
      "print JSON" },
};

static double target_of(const struct at_weights *w, const char *name)
{
    for (size_t i = 0; w && i < w->n; i++)
        if (strcmp(w->name[i], name) == 0)
            return w->target[i];
    return NAN;
}

static const char *verdict(double target, const struct at_interval *x)
{
    return isnan(target) ? "" : x->mean >= target ? "reached"
           : x->high >= target ? "within its interval" : "missed";
}

static void print_comparison(const struct at_comparison *c,
                             const struct at_weights *w)
{
    printf("%zu prompts, %zu texts each before, %zu after; 95 %% intervals by "
           "bootstrap over prompts\n", c->prompts, c->k[0], c->k[1]);
    printf("%-16s %10s %10s %23s %23s %9s%s\n", "value", "before", "after",
           "(interval)", "gain (interval)", "wins", w ? "     target" : "");
    for (size_t v = 0; v < c->m; v++) {
        double target = target_of(w, c->name[v]);
        printf("%-16s %10.4g %10.4g %10.4g ..%11.4g %10.4g ..%11.4g %7.1f %%",
               c->name[v], c->before[v].mean, c->after[v].mean,
               c->after[v].low, c->after[v].high, c->gain[v].low,
               c->gain[v].high, 100 * c->win[v]);
        if (!isnan(target))
            printf(" %10.4g  %s", target, verdict(target, &c->after[v]));
        printf("\n");
    }
    printf("not worse in any value: %.1f %% of the pairs of texts (%.1f .. "
           "%.1f)\n", 100 * c->not_worse.mean, 100 * c->not_worse.low,
           100 * c->not_worse.high);
}

static void put_interval(const char *key, const struct at_interval *x)
{
    printf("\"%s\": [%.17g, %.17g, %.17g], ", key, x->mean, x->low, x->high);
}

static void print_comparison_json(const struct at_comparison *c,
                                  const struct at_weights *w)
{
    printf("{\"prompts\": %zu, \"texts\": [%zu, %zu], ", c->prompts, c->k[0],
           c->k[1]);
    put_interval("not_worse", &c->not_worse);
    printf("\"values\": {");
    for (size_t v = 0; v < c->m; v++) {
        double target = target_of(w, c->name[v]);
        struct at_text t = { 0 };
        at_text_json(&t, c->name[v], strlen(c->name[v]));
        printf("%s\n %s: {", v ? "," : "", t.s ? t.s : "");
        at_text_finish(&t);
        put_interval("before", &c->before[v]);
        put_interval("after", &c->after[v]);
        put_interval("gain", &c->gain[v]);
        printf("\"win_rate\": %.17g, \"target\": ", c->win[v]);
        printf(isnan(target) ? "null}" : "%.17g}", target);
    }
    printf("}}\n");
}

static int compare(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct compare_args *a = args;
    struct at_comparison c;
    struct at_weights w, *weights = a->palette ? &w : NULL;
    struct at_data *before, *after;
    int rc = weights ? at_weights_read(cx, &cx->run, a->palette, &w) : AT_OK;
    (void)n;
    if (rc == AT_OK)
        rc = at_data_open(cx, &cx->run, pos[0], &before);
    if (rc < 0)
        return rc;
    rc = at_data_open(cx, &cx->run, pos[1], &after);
    if (rc == AT_OK) {
        rc = at_compare(cx, before, after, &c);
        if (rc == AT_OK && a->json)
            print_comparison_json(&c, weights);
        else if (rc == AT_OK)
            print_comparison(&c, weights);
        at_data_close(after);
    }
    at_data_close(before);
    return rc;
}

const struct cmd cmd_compare = {
    "compare", "BEFORE.h5 AFTER.h5",
    "compare two models' texts for the same prompts, value by value", 2, 2,
    compare_opts, AT_COUNT(compare_opts), sizeof(struct compare_args), NULL,
    compare
};

/* ---- generate --palette -------------------------------------------------------- */

struct chooser {
    const struct by_palette *b;
    struct at_infer *in;
    const struct at_values *values;
    const double *weight;
    struct at_draws d;
    struct at_said *said;       /* [candidates]                               */
    double *score;              /* [candidates,values]                        */
    struct at_arena a;          /* of one prompt                              */
};

static void print_choice(const struct chooser *c, size_t i)
{
    const struct at_said *s = &c->said[i];
    size_t m = c->values->n;
    struct at_text t = { 0 };
    if (!c->b->json) {
        printf("%.*s%.*s\n", (int)s->n_prompt, s->prompt, (int)s->n_text,
               s->text);
        return;
    }
    at_text_addf(&t, "{\"prompt\": ");
    at_text_json(&t, s->prompt, s->n_prompt);
    at_text_addf(&t, ", \"text\": ");
    at_text_json(&t, s->text, s->n_text);
    at_text_addf(&t, ", \"tokens\": %zu, \"values\": {", c->d.n_ids[i]);
    for (size_t v = 0; v < m; v++) {
        at_text_addf(&t, v ? ", " : "");
        at_text_json(&t, c->values->v[v].name, strlen(c->values->v[v].name));
        at_text_addf(&t, ": %.9g", c->score[i * m + v]);
    }
    at_text_addf(&t, "}}");
    printf("%s\n", t.s ? t.s : "");
    at_text_finish(&t);
}

static int answer(struct at_ctx *cx, struct chooser *c, size_t which,
                  const char *prompt)
{
    const struct by_palette *b = c->b;
    const struct at_tok *tok = c->in->m->tok;
    struct at_draw_settings s = { .k = b->candidates, .max_new = b->max_tokens,
                                  .rows = b->rows, .sampling = b->sampling };
    struct at_tok_ids ids = { 0 };
    struct at_prompt p;
    int rc = at_tok_encode(cx, c->in->coder, prompt, strlen(prompt),
                           at_data_flags(tok), &ids);
    if (rc == AT_OK && ids.n == 0)
        rc = at_fail(cx, AT_EINVAL, "prompt %zu is empty, and the tokenizer has "
                     "no token to begin with", which + 1);
    p = (struct at_prompt){ ids.id, ids.n, (uint32_t)which };
    if (rc == AT_OK)
        rc = at_draw(cx, c->in->gen, &p, 1, at_tok_eos(tok), &s, &c->d);
    for (size_t i = 0; i < b->candidates && rc == AT_OK; i++) {
        c->said[i].prompt = prompt;
        c->said[i].n_prompt = strlen(prompt);
        rc = at_draw_text(cx, &c->a, tok, &c->d, i, ids.id[ids.n - 1],
                          &c->said[i].text, &c->said[i].n_text);
    }
    if (rc == AT_OK)
        rc = at_values_score(cx, c->values, c->said, b->candidates, c->score);
    if (rc == AT_OK)
        print_choice(c, at_draw_choose(c->score, c->weight, b->candidates,
                                       c->values->n, b->sampling.seed, which));
    at_tok_ids_finish(&ids);
    at_arena_reset(&c->a);
    return rc;
}

static int answer_all(struct at_ctx *cx, struct chooser *c)
{
    char *text, *line;
    size_t n, which = 0;
    int rc;
    if (!c->b->file)
        return answer(cx, c, 0, c->b->prompt ? c->b->prompt : "");
    rc = at_read_file(cx, &cx->run, c->b->file, 0, &text, &n);
    for (line = text; rc == AT_OK && *line; which++) {
        char *end = strchr(line, '\n');
        if (end)
            *end = '\0';
        rc = answer(cx, c, which, line);
        line = end ? end + 1 : line + strlen(line);
    }
    return rc;
}

int generate_by_palette(struct at_ctx *cx, struct at_infer *in,
                        const struct by_palette *b)
{
    struct at_weights w;
    struct at_values v;
    struct chooser c = { .b = b, .in = in, .values = &v, .weight = w.weight };
    int rc = at_weights_read(cx, &cx->run, b->palette, &w);
    if (rc == AT_OK)
        rc = at_weights_open(cx, &cx->run, &w, b->commands, "--allow-commands",
                             &v);
    if (rc < 0)
        return rc;
    rc = at_draws_create(cx, &cx->run, b->candidates, b->max_tokens, &c.d);
    c.said = at_alloc_n(cx, &cx->run, b->candidates, sizeof *c.said);
    c.score = at_alloc_n(cx, &cx->run, b->candidates * v.n, sizeof *c.score);
    if (rc == AT_OK && (!c.said || !c.score))
        rc = AT_ENOMEM;
    if (rc == AT_OK)
        rc = answer_all(cx, &c);
    at_arena_finish(&c.a);
    at_values_close(&v);
    return rc;
}
