/* attune data, inspect. */
#include "data/data.h"
#include "tools/cmds.h"
#include "train/chat_choice.h"
#include "train/model_file.h"
#include "train/scratch_file.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* ---- data ---------------------------------------------------------------------- */

enum { DRY = 1000, LENGTH = 1024 };     /* samples of a dry run; tokens       */

struct data_args {
    const char *tokenizer, *template, *completion, *columns, *separator, *chat;
    const char *label;
    int64_t max_length, threads, limit;
    double validation, max_cut;
    bool skip_bad, dedup, dry_run, quiet;
    struct texts scores;
};

static const struct opt data_opts[] = {
    { "--tokenizer", OPT_TEXT, offsetof(struct data_args, tokenizer), "FILE",
      "model, dataset or tokenizer file to take the tokenizer from (needed)" },
    { "--template", OPT_TEXT, offsetof(struct data_args, template), "TEXT",
      "how a JSON sample reads: keys in braces, '{question}\\n{answer}'" },
    { "--completion", OPT_TEXT, offsetof(struct data_args, completion), "KEY",
      "the key that is trained on (completion, answer, output, response)" },
    { "--chat", OPT_TEXT, offsetof(struct data_args, chat), "NAME",
      "template of conversations (keys messages, conversations): chatml, llama2, "
      "llama3, mistral, zephyr, gemma, phi3, alpaca (the model's own)" },
    { "--score", OPT_LIST, offsetof(struct data_args, scores), "KEY",
      "a number of every sample to keep as its score; may be given again" },
    { "--columns", OPT_TEXT, offsetof(struct data_args, columns), "NAMES",
      "names of the columns of tables that have no header: text,label" },
    { "--label", OPT_TEXT, offsetof(struct data_args, label), "KEY",
      "what classes a sample (objective: classify): a text, number or boolean" },
    { "--separator", OPT_TEXT, offsetof(struct data_args, separator), "TEXT",
      "what ends a document in plain text" },
    { "--max-length", OPT_INT, offsetof(struct data_args, max_length), "N",
      "tokens a document may have (1024, or the model's longest text where it "
      "is shorter)" },
    { "--max-cut", OPT_REAL, offsetof(struct data_args, max_cut), "SHARE",
      "share of samples that may be cut or lost to that (0.05)" },
    { "--validation", OPT_REAL, offsetof(struct data_args, validation), "SHARE",
      "share of documents set aside, by hash of their text (0.05)" },
    { "--skip-bad", OPT_FLAG, offsetof(struct data_args, skip_bad), NULL,
      "leave bad samples out and count them" },
    { "--dedup", OPT_FLAG, offsetof(struct data_args, dedup), NULL,
      "leave out samples that were there before, word for word" },
    { "--limit", OPT_INT, offsetof(struct data_args, limit), "N",
      "read N samples only" },
    { "--dry-run", OPT_FLAG, offsetof(struct data_args, dry_run), NULL,
      "read 1000 samples (or --limit), tell what they become, show two, and "
      "leave OUT.h5 as it is" },
    { "--threads", OPT_INT, offsetof(struct data_args, threads), "N",
      "CPU threads (all)" },
    { "--quiet", OPT_FLAG, offsetof(struct data_args, quiet), NULL,
      "print nothing but errors" },
};

static void data_defaults(void *args)
{
    struct data_args *a = args;
    a->max_cut = 0.05;
    a->validation = 0.05;
}

struct bar { double start_s, last_s; };

static void show_bar(void *self, uint64_t done, uint64_t total, uint64_t docs)
{
    struct bar *b = self;
    double now = at_now_s(), share;
    if (now - b->last_s < 0.2 && done < total)
        return;
    b->last_s = now;
    share = total ? (double)done / (double)total : 0;
    fprintf(stderr, "\r%3.0f %% | %llu documents | %.1f MB/s | %.0f s left\033[K",
            100 * share, (unsigned long long)docs,
            (double)done * 1e-6 / fmax(now - b->start_s, 1e-6),
            share > 0 ? (now - b->start_s) * (1 - share) / share : 0);
}

static void print_roles(const uint64_t role[AT_ROLES])
{
    uint64_t all = 0;
    for (int i = 0; i < AT_ROLES; i++)
        all += role[i];
    for (int i = 0; i < AT_ROLES; i++)
        if (role[i])
            printf("  %-12s %10llu tokens %6.2f %%\n", at_role_names[i],
                   (unsigned long long)role[i],
                   100.0 * (double)role[i] / (double)all);
}

static void print_stats(const char *out, const struct at_data_stats *s)
{
    printf("%s: %llu training and %llu validation documents, %llu tokens\n",
           out, (unsigned long long)s->n_docs[AT_TRAIN],
           (unsigned long long)s->n_docs[AT_VALIDATION],
           (unsigned long long)s->n_tokens);
    printf("  read as      %s%s\n", s->template, s->preference ?
           ", and with {rejected} for {chosen}: preferences" : "");
    print_roles(s->role);
    if (s->length[3])
        printf("  lengths      %llu to %llu tokens a sample, half up to %llu, "
               "95 %% up to %llu\n", (unsigned long long)s->length[0],
               (unsigned long long)s->length[3],
               (unsigned long long)s->length[1],
               (unsigned long long)s->length[2]);
    if (s->plain_files && s->plain == s->plain_files)
        printf("  plain text   every file is one document; where it holds "
               "several, say what ends one: --separator '\\n' for one a line\n");
    if (s->duplicates)
        printf("  duplicates   %llu samples left out\n",
               (unsigned long long)s->duplicates);
    if (s->labels[0])
        printf("  labels       %s\n", s->labels);
    if (s->cut)
        printf("  cut          %llu samples lost %llu tokens at their end\n",
               (unsigned long long)s->cut, (unsigned long long)s->cut_tokens);
    if (s->emptied)
        printf("  emptied      %llu samples had nothing left to train on\n",
               (unsigned long long)s->emptied);
    if (s->bad)
        printf("  bad          %llu samples left out; the first: %s\n",
               (unsigned long long)s->bad, s->first_bad);
}

/* The tokenizer file may be a model with a chat template of its own.          */
static int choose_chat(struct at_ctx *cx, const struct data_args *a,
                       const struct at_chat **chat)
{
    struct at_h5 *f;
    int rc = at_h5_open(cx, a->tokenizer, NULL, &f);
    if (rc < 0)
        return rc;
    rc = at_chat_choose(cx, f, a->tokenizer, a->chat, chat);
    at_h5_close(f);
    return rc;
}

/* What the model can read, where the tokenizer is of one.                    */
static int choose_length(struct at_ctx *cx, const struct data_args *a,
                         size_t *length)
{
    struct at_model *m;
    struct at_h5 *f;
    bool model;
    int rc = AT_OK;
    *length = (size_t)a->max_length;
    if (*length)
        return AT_OK;
    *length = LENGTH;
    if (at_h5_open(cx, a->tokenizer, NULL, &f) < 0)
        return cx->err.code;
    model = strcmp(at_h5_kind(f), "model") == 0;
    at_h5_close(f);
    if (!model)
        return AT_OK;
    rc = at_model_open(cx, &cx->run, a->tokenizer, &m);
    if (rc == AT_OK && m->d.P < *length)
        *length = m->d.P;
    if (rc == AT_OK)
        at_model_close(m);
    return rc;
}

/* "-" is standard input.                                                     */
static const char *const *inputs(struct at_ctx *cx, char *const *pos, int n)
{
    const char **name = at_alloc_n(cx, &cx->run, (size_t)n, sizeof *name);
    for (int i = 0; name && i < n; i++)
        name[i] = strcmp(pos[i], "-") == 0 ? "/dev/stdin" : pos[i];
    return name;
}

static int show_document(struct at_ctx *cx, const struct at_data *d,
                         uint64_t doc, bool all_roles)
{
    struct at_text t = { 0 };
    int rc = at_data_show(cx, d, doc, all_roles, isatty(1) != 0, &t);
    if (rc == AT_OK)
        fwrite(t.s, 1, t.n, stdout);
    at_text_finish(&t);
    return rc;
}

/* "\n", "\t" and "\\" may be spelled out, as in templates.                   */
static const char *unescape(struct at_ctx *cx, const char *text)
{
    char *y = text ? at_strdup(cx, &cx->run, text) : NULL, *to = y;
    for (const char *s = text; y && *s; s++, to++) {
        bool known = s[0] == '\\' && s[1] && strchr("nt\\", s[1]);
        if (known)
            s++;
        *to = known && *s == 'n' ? '\n' : known && *s == 't' ? '\t' : *s;
    }
    if (y)
        *to = '\0';
    return y;
}

static int check_args(struct at_ctx *cx, const struct data_args *a)
{
    if (!a->tokenizer)
        return at_fail(cx, AT_EINVAL, "--tokenizer FILE is needed: the model "
                       "the dataset is for, or a file by 'attune tokenizer'");
    if (a->max_length && (a->max_length < 2 || a->max_length > 1 << 22))
        return at_fail(cx, AT_EINVAL, "--max-length is %lld; it must be between "
                       "2 and %d", (long long)a->max_length, 1 << 22);
    if (!(a->max_cut >= 0 && a->max_cut <= 1))
        return at_fail(cx, AT_EINVAL, "--max-cut is %g; it must be a share from "
                       "0 to 1", a->max_cut);
    if (a->limit < 0)
        return at_fail(cx, AT_EINVAL, "--limit is %lld; it must be at least 1",
                       (long long)a->limit);
    return AT_OK;
}

static int build(struct at_ctx *cx, const struct data_args *a,
                 const struct at_data_options *o)
{
    struct at_data_stats stats;
    struct bar bar = { .start_s = at_now_s() };
    bool show = !a->quiet && !a->dry_run && isatty(2);
    int rc = at_data_build(cx, o, show ? show_bar : NULL, &bar, &stats);
    if (show)
        fprintf(stderr, "\r\033[K");
    if (rc == AT_OK && !a->quiet)
        print_stats(a->dry_run ? "dry run" : o->out, &stats);
    if (rc == AT_OK && strncmp(stats.template, "chat: ", 6) == 0)
        at_chat_warn(cx, o->chat, o->tok);
    else if (rc == AT_OK && a->chat)
        at_log(cx, AT_LOG_WARN, "--chat has no use: the samples are no "
               "conversations, or --template was said");
    return rc;
}

/* n of the documents, the same ones every time.                              */
static int show_samples(struct at_ctx *cx, const struct at_data *d, int64_t n,
                        bool all_roles)
{
    struct at_rng rng = { 0, AT_RNG_SHUFFLE, 99 };
    int rc = AT_OK;
    for (int64_t i = 0; i < n && rc == AT_OK && (uint64_t)i < d->n_docs; i++)
        rc = show_document(cx, d, at_rng_permute(&rng, 0, (uint64_t)i,
                                                 d->n_docs), all_roles);
    return rc;
}

static int dry_run(struct at_ctx *cx, const struct data_args *a,
                   struct at_data_options *o)
{
    struct at_scratch_file f;
    struct at_data *d;
    int rc = at_scratch_file(cx, NULL, "dry.h5", &f);
    if (rc < 0)
        return rc;
    o->out = f.path;
    if (o->limit == 0)
        o->limit = DRY;
    rc = build(cx, a, o);
    if (rc == AT_OK)
        rc = at_data_open(cx, &cx->run, f.path, &d);
    if (rc == AT_OK) {
        rc = show_samples(cx, d, a->quiet ? 0 : 2, false);
        at_data_close(d);
    }
    if (rc == AT_OK && !a->quiet)
        printf("nothing was written: --dry-run read at most %llu samples\n",
               (unsigned long long)o->limit);
    at_scratch_file_remove(&f);
    return rc;
}

static int data(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct data_args *a = args;
    struct at_data_options o = {
        .inputs = inputs(cx, pos, n), .n_inputs = (size_t)n - 1,
        .out = pos[n - 1], .template = a->template,
        .completion = a->completion, .columns = a->columns,
        .separator = unescape(cx, a->separator),
        .validation = a->validation,
        .max_cut = a->max_cut, .skip_bad = a->skip_bad, .dedup = a->dedup,
        .limit = (uint64_t)a->limit,
        .scores = a->scores.s, .n_scores = a->scores.n, .label = a->label,
    };
    struct at_tok *tok;
    int rc = o.inputs ? check_args(cx, a) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_file_apart(cx, o.out, a->tokenizer);
    if (rc == AT_OK)
        rc = at_model_tokenizer(cx, &cx->run, a->tokenizer, &tok);
    if (rc == AT_OK)
        rc = choose_length(cx, a, &o.max_length);
    if (rc == AT_OK)
        rc = choose_chat(cx, a, &o.chat);
    if (rc == AT_OK)
        rc = at_threads_start(cx, (int)a->threads);
    if (rc < 0)
        return rc;
    o.tok = tok;
    o.n_threads = cx->n_threads;
    return a->dry_run ? dry_run(cx, a, &o) : build(cx, a, &o);
}

const struct cmd cmd_data = {
    "data", "INPUT ... OUT.h5", "make a dataset of JSON lines, JSON arrays, tables (.csv, .tsv) or plain "
    "text, also packed (gzip, zstd); - is standard input",
    2, 4096, data_opts, AT_COUNT(data_opts), sizeof(struct data_args),
    data_defaults, data
};

/* ---- inspect ---------------------------------------------------------------------- */

struct inspect_args { int64_t sample, document; bool all_roles; };

static const struct opt inspect_opts[] = {
    { "--sample", OPT_INT, offsetof(struct inspect_args, sample), "N",
      "show N documents of a dataset, what is trained on between marks" },
    { "--document", OPT_INT, offsetof(struct inspect_args, document), "I",
      "show this document" },
    { "--all-roles", OPT_FLAG, offsetof(struct inspect_args, all_roles), NULL,
      "mark as 'objective: lm' trains: every token" },
};

static void inspect_defaults(void *args)
{
    ((struct inspect_args *)args)->document = -1;
}

static void print_label(const struct at_data *d, size_t i)
{
    uint64_t n = 0;
    for (uint64_t k = 0; k < d->n_docs; k++)
        n += d->label[k] == i;
    printf("  label        %s: %llu documents\n", d->label_name[i],
           (unsigned long long)n);
}

static void print_score(const struct at_data *d, size_t i)
{
    double sum = 0, least = INFINITY, most = -INFINITY;
    for (uint64_t k = 0; k < d->n_docs; k++) {
        double s = (double)d->score[k * d->n_scores + i];
        sum += s;
        least = fmin(least, s);
        most = fmax(most, s);
    }
    printf("  score        %s: mean %g, from %g to %g\n", d->score_name[i],
           sum / (double)d->n_docs, least, most);
}

static int print_sources(struct at_ctx *cx, const struct at_data *d)
{
    size_t n = at_data_sources(d);
    uint64_t *train = at_alloc_n(cx, &cx->run, 2 * n + 1, sizeof *train);
    const char *line = d->sources;
    int rc = train ? at_data_count(cx, d, AT_TRAIN, train) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_data_count(cx, d, AT_VALIDATION, train + n);
    if (rc == AT_OK)
        rc = at_h5_verify(cx, d->f, "line");
    if (rc < 0)
        return rc;
    printf("sources (training and validation documents; path, hash, bytes):\n");
    for (size_t i = 0; i < n; i++) {
        size_t len = strcspn(line, "\n");
        printf("  %10llu %8llu  %.*s\n", (unsigned long long)train[i],
               (unsigned long long)train[n + i], (int)len, line);
        line += len + 1;
    }
    return rc;
}

static int inspect_dataset(struct at_ctx *cx, const struct inspect_args *a,
                           const char *path)
{
    struct at_data *d;
    int rc = at_data_open(cx, &cx->run, path, &d);
    if (rc < 0)
        return rc;
    printf("%s: dataset, %llu training and %llu validation documents, %llu "
           "tokens, the longest has %llu\n", path,
           (unsigned long long)d->n_split[AT_TRAIN],
           (unsigned long long)d->n_split[AT_VALIDATION],
           (unsigned long long)d->n_tokens, (unsigned long long)d->longest);
    printf("  read as      %s\n  tokenizer    %s, %zu tokens, %s\n",
           d->template, at_tok_kind(d->tok), at_tok_size(d->tok), d->tok_hash);
    print_roles(d->role);
    if (d->group > 1)
        printf("  %-12s %10llu of %zu documents%s\n", "groups",
               (unsigned long long)(d->n_docs / d->group), d->group,
               d->preference ? ", the first chosen over the second" : "");
    for (size_t i = 0; i < d->n_scores; i++)
        print_score(d, i);
    for (size_t i = 0; i < d->n_labels; i++)
        print_label(d, i);
    if (rc == AT_OK)
        rc = print_sources(cx, d);
    if (a->document >= 0)
        rc = show_document(cx, d, (uint64_t)a->document, a->all_roles);
    if (rc == AT_OK)
        rc = show_samples(cx, d, a->sample, a->all_roles);
    at_data_close(d);
    return rc;
}

static int inspect_arrays(struct at_ctx *cx, const char *path)
{
    const char *const *names;
    struct at_h5 *f;
    size_t n;
    int rc = at_h5_open(cx, path, NULL, &f);
    if (rc < 0)
        return rc;
    printf("%s: %s\n", path, at_h5_kind(f));
    rc = at_h5_names(cx, f, "", &cx->run, &names, &n);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        struct at_h5_info info;
        rc = at_h5_info(cx, f, names[i], &info);
        if (rc == AT_OK)
            rc = at_h5_verify(cx, f, names[i]);
        if (rc < 0)
            break;
        printf("  %-48s [", names[i]);
        for (size_t k = 0; k < info.n_dims; k++)
            printf(k ? ",%zu" : "%zu", info.d[k]);
        printf("] whole\n");
    }
    at_h5_close(f);
    return rc;
}

static int inspect(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    struct at_h5 *f;
    bool dataset;
    int rc = at_h5_open(cx, pos[0], NULL, &f);
    (void)n;
    if (rc < 0)
        return rc;
    dataset = strcmp(at_h5_kind(f), "dataset") == 0;
    at_h5_close(f);
    return dataset ? inspect_dataset(cx, args, pos[0])
                   : inspect_arrays(cx, pos[0]);
}

const struct cmd cmd_inspect = {
    "inspect", "FILE.h5", "say what is in a file, and verify it", 1, 1,
    inspect_opts, AT_COUNT(inspect_opts), sizeof(struct inspect_args),
    inspect_defaults, inspect
};
