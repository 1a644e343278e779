/* data/data.h: what is trained on is what was asked for, packed without
 * loss, in an order that any cursor continues.                               */
#include "data/data.h"
#include "data/input.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct place {
    struct at_ctx cx;
    char dir[64], in[96], out[96];
    struct at_tok *tok;
    const char *inputs[2];
    struct at_data_options o;
    struct at_data_stats stats;
    int warned;
};

/* Merges "bc" and "the", so that a boundary in "ab|cd" would be merged over. */
static int next_text(struct at_ctx *cx, void *self, const char **text,
                     size_t *n)
{
    static const char s[] = "bc bc bc bc the the the the\n";
    int *done = self;
    (void)cx;
    *text = *done < 2 ? s : NULL;
    *n = sizeof s - 1;
    ++*done;
    return AT_OK;
}

static void count_warning(void *self, enum at_level level, const char *line)
{
    (void)line;
    *(int *)self += level == AT_LOG_WARN;
}

static int setup(void **state)
{
    static const char *const special[] = { "<s>", "</s>" };
    struct at_tok_training how = {
        .vocab_size = 264, .special = special, .n_special = 2, .bos = 0,
        .eos = 1, .pad = AT_TOK_NONE, .min_count = 2,
    };
    struct place *p = calloc(1, sizeof *p);
    int done = 0;
    if (!p)
        return -1;
    at_ctx_init(&p->cx);
    p->cx.n_threads = 2;
    p->cx.log = count_warning;
    p->cx.log_self = &p->warned;
    strcpy(p->dir, "/tmp/attune-data-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    snprintf(p->in, sizeof p->in, "%s/in.jsonl", p->dir);
    snprintf(p->out, sizeof p->out, "%s/out.h5", p->dir);
    p->inputs[0] = p->in;
    OK(&p->cx, at_tok_train(&p->cx, &p->cx.run, next_text, &done, &how,
                            &p->tok));
    p->o = (struct at_data_options){
        .inputs = p->inputs, .n_inputs = 1, .out = p->out, .tok = p->tok,
        .max_length = 64, .max_cut = 1, .n_threads = 2,
    };
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    int rc;
    unlink(p->in);
    unlink(p->out);
    rc = rmdir(p->dir);         /* nothing else was left                      */
    if (rc != 0)
        print_error("%s: something was left behind\n", p->dir);
    at_ctx_finish(&p->cx);
    free(p);
    return rc;
}

static void write_bytes(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void name_input(struct place *p, const char *ending)
{
    unlink(p->in);
    snprintf(p->in, sizeof p->in, "%s/in.%s", p->dir, ending);
}

static int build(struct place *p, const char *text)
{
    write_bytes(p->in, text, strlen(text));
    return at_data_build(&p->cx, &p->o, NULL, NULL, &p->stats);
}

static struct at_data *open_data(struct place *p)
{
    struct at_data *d = NULL;
    OK(&p->cx, at_data_open(&p->cx, &p->cx.run, p->out, &d));
    return d;
}

/* "<s>|a|bc!|..": tokens parted by bars, those of `role` marked by '!'.      */
static char *roles_text(struct place *p, const struct at_data *d, uint64_t doc,
                        uint8_t role)
{
    size_t n = d->offset[doc + 1] - d->offset[doc];
    int32_t *ids = at_alloc_n(&p->cx, &p->cx.run, n, sizeof *ids);
    uint8_t *roles = at_alloc(&p->cx, &p->cx.run, n);
    struct at_text t = { 0 };
    char *copy;
    OK(&p->cx, at_data_read(&p->cx, d, d->offset[doc], n, ids, roles));
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *s = at_tok_piece(p->tok, ids[i], &len);
        at_text_addf(&t, i ? "|" : "");
        at_text_add(&t, s, len);
        at_text_addf(&t, roles[i] == role ? "!" : "");
    }
    copy = at_strdup(&p->cx, &p->cx.run, t.s);
    at_text_finish(&t);
    return copy;
}

/* ---- making ----------------------------------------------------------------- */

static void completions_are_marked_by_their_bytes(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    OK(&p->cx, build(p, "{\"prompt\": \"xa\", \"completion\": \"bc the\"}\n"
                        "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n"
                        "\n"
                        "{\"completion\": \"d\", \"prompt\": \"\\n\"}\r\n"));
    assert_true(p->stats.pairs);
    assert_string_equal(p->stats.template, "{prompt}{completion}");
    assert_int_equal(p->stats.n_docs[AT_TRAIN], 3);
    d = open_data(p);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_COMPLETION),
                        "<s>|x|a|bc!| the!|</s>");
    /* "bc" begins in the prompt: it is given, not learned.                   */
    assert_string_equal(roles_text(p, d, 1, AT_ROLE_COMPLETION),
                        "<s>|a|bc|d!|</s>");
    assert_string_equal(roles_text(p, d, 1, AT_ROLE_PROMPT),
                        "<s>|a!|bc!|d|</s>");
    assert_string_equal(roles_text(p, d, 2, AT_ROLE_EOS), "<s>|\n|d|</s>!");
    assert_string_equal(roles_text(p, d, 2, AT_ROLE_BOS), "<s>!|\n|d|</s>");
    assert_int_equal(p->stats.role[AT_ROLE_COMPLETION], 4);
    assert_int_equal(d->role[AT_ROLE_COMPLETION], 4);
    at_data_close(d);
}

static void templates_say_how_samples_read(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    p->o.template = "Q: {q}\\n{hint}\\n{{A}}: {a}.";
    p->o.completion = "a";
    OK(&p->cx, build(p, "{\"q\": 1, \"hint\": \"\", \"a\": 0.1}\n"
                        "{\"q\": true, \"hint\": \"h\", \"a\": \"z\"}\n"));
    d = open_data(p);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_COMPLETION),
                        "<s>|Q|:| |1|\n|{|A|}|:| |0!|.!|1!|.|</s>");
    at_data_close(d);
}

static void bad_templates_are_refused(void **state)
{
    static const char *const bad[] = { "", "text", "{", "{}", "{a", "{a}{a}",
                                       "{b}" };
    struct place *p = *state;
    p->o.completion = "a";
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        p->o.template = bad[i];
        assert_int_equal(build(p, "{\"a\": \"x\", \"b\": \"y\"}\n"), AT_EINVAL);
    }
    p->o.template = p->o.completion = NULL;
    assert_int_equal(build(p, "{\"zebra\": \"x\"}\n"), AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "--template"));
    assert_non_null(strstr(p->cx.err.msg, "in.jsonl:1"));
}

static void bad_samples_are_named_or_left_out(void **state)
{
    static const struct { const char *line, *why; } bad[] = {
        { "{\"text\": \"a\"", "is not JSON" },
        { "{\"text\": \"a\", \"text\": \"b\"}", "is not JSON" },
        { "[1]", "is not a JSON object" },
        { "{\"txet\": \"a\"}", "'text' is missing" },
        { "{\"text\": [1]}", "is not a text or a number" },
        { "{\"text\": null}", "is not a text or a number" },
        { "{\"text\": \"\"}", "is empty" },
        { "{\"text\": \"\xFF\"}", "is not JSON" },
        { "{\"text\": \"\\u0000\"}", "is not JSON" },
    };
    struct place *p = *state;
    char text[256];
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        struct at_data *d;
        snprintf(text, sizeof text, "{\"text\": \"good\"}\n\n%s\n"
                 "{\"text\": \"the last\"}", bad[i].line);
        p->o.skip_bad = false;
        assert_int_equal(build(p, text), AT_EFORMAT);
        assert_non_null(strstr(p->cx.err.msg, "in.jsonl:3: "));
        assert_non_null(strstr(p->cx.err.msg, bad[i].why));
        assert_int_equal(access(p->out, F_OK), -1);
        p->o.skip_bad = true;
        p->warned = 0;
        OK(&p->cx, build(p, text));
        assert_int_equal(p->stats.bad, 1);
        assert_int_equal(p->warned, 1);
        assert_non_null(strstr(p->stats.first_bad, bad[i].why));
        assert_int_equal(p->stats.n_docs[AT_TRAIN], 2);
        d = open_data(p);
        at_data_close(d);
        unlink(p->out);
    }
}

static void nothing_to_learn_is_refused(void **state)
{
    struct place *p = *state;
    assert_int_equal(build(p, ""), AT_EINVAL);
    assert_int_equal(build(p, "\n\n"), AT_EINVAL);
    /* 0 %: the completion vanishes in a token of the prompt, or is cut.      */
    assert_int_equal(build(p, "{\"prompt\": \"b\", \"completion\": \"c\"}\n"),
                     AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "of 1 samples nothing to train on"));
    p->o.max_length = 4;
    assert_int_equal(build(p, "{\"prompt\": \"xyzxyz\", \"completion\": "
                              "\"a\"}\n"), AT_EINVAL);
    /* One lost for good, one cut, one whole: two of three.                   */
    p->o.max_length = 6;
    p->o.max_cut = 0.05;
    assert_int_equal(build(p, "{\"prompt\": \"xyzxyz\", \"completion\": "
                              "\"a\"}\n"
                              "{\"prompt\": \"x\", \"completion\": "
                              "\"abcdefghi\"}\n"
                              "{\"prompt\": \"x\", \"completion\": "
                              "\"a\"}\n"), AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "of 3 samples 1 would be cut at 6 tokens, and 1 be lost"));
    p->o.max_cut = 1;
    p->o.max_length = 64;
    assert_int_equal(build(p, "{\"prompt\": \"x\", \"completion\": \"\"}\n"),
                     AT_EFORMAT);
    assert_non_null(strstr(p->cx.err.msg, ":1: the answer 'completion' is "
                           "empty"));
    /* 100 %: there is no prompt.                                             */
    assert_int_equal(build(p, "{\"prompt\": \"\", \"completion\": \"a\"}\n"),
                     AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "all of the tokens"));
    assert_int_equal(access(p->out, F_OK), -1);
    p->o.validation = 1;
    assert_int_equal(build(p, "{\"text\": \"a\"}\n"), AT_EINVAL);
    p->o.validation = -0.1;
    assert_int_equal(build(p, "{\"text\": \"a\"}\n"), AT_EINVAL);
    p->o.validation = 0.000001;
    p->warned = 0;
    OK(&p->cx, build(p, "{\"text\": \"a\"}\n"));
    assert_int_equal(p->warned, 1);
}

static void long_samples_are_counted_and_limited(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    const char *text = "{\"prompt\": \"xx\", \"completion\": \"yyyyyyyyyy\"}\n"
                       "{\"prompt\": \"xx\", \"completion\": \"y\"}\n";
    p->o.max_length = 8;
    p->o.max_cut = 0.4;
    assert_int_equal(build(p, text), AT_EINVAL);
    assert_non_null(strstr(p->cx.err.msg, "--max-cut 0.5"));
    p->o.max_cut = 0.5;
    OK(&p->cx, build(p, text));
    assert_int_equal(p->stats.cut, 1);
    assert_int_equal(p->stats.cut_tokens, 6);
    d = open_data(p);
    assert_int_equal(d->longest, 8);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_COMPLETION),
                        "<s>|x|x|y!|y!|y!|y!|y!");
    at_data_close(d);
}

static void long_texts_become_several(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    p->o.max_length = 5;
    OK(&p->cx, build(p, "{\"text\": \"zyxwvuts\"}\n"));
    d = open_data(p);
    assert_int_equal(d->n_docs, 3);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_TEXT),
                        "<s>|z!|y!|x!|w!");
    assert_string_equal(roles_text(p, d, 1, AT_ROLE_TEXT),
                        "w!|v!|u!|t!|s!");
    assert_string_equal(roles_text(p, d, 2, AT_ROLE_TEXT), "s!|</s>");
    at_data_close(d);
}

static void arrays_read_as_lines_do(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    const char *path;
    uint64_t line;
    static const char *const bad[] = {
        "", "{}", "[", "[{\"text\": \"a\"}", "[{\"text\": \"a\"},",
        "[{\"text\": \"a\"},]", "[{\"text\": \"a\"}] x",
        "[{\"text\": \"a\"} {\"text\": \"b\"}]", "[{\"text\": \"a]\"}}]",
        "[1]",
    };
    name_input(p, "json");
    OK(&p->cx, build(p, "\xEF\xBB\xBF[ {\"text\": \"a],[}\\\"\\\\\"},\n"
                        "{\"text\": \"b\"}\n,\n\n{\"n\": 3,\n\"text\": \"c\"}"
                        "\n]\n"));
    d = open_data(p);
    assert_int_equal(d->n_docs, 3);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_EOS),
                        "<s>|a|]|,|[|}|\"|\\|</s>!");
    OK(&p->cx, at_data_place(&p->cx, &p->cx.run, d, 2, &path, &line));
    assert_string_equal(path, p->in);
    assert_int_equal(line, 5);
    assert_int_equal(at_data_place(&p->cx, &p->cx.run, d, 3, &path, &line),
                     AT_EINVAL);
    at_data_close(d);
    for (size_t i = 0; i < AT_COUNT(bad); i++)
        if (build(p, bad[i]) == AT_OK)
            fail_msg("accepted: %s", bad[i]);
    unlink(p->out);
    assert_true(build(p, "[]") < 0);
}

static void other_names_are_guessed_by_their_beginning(void **state)
{
    static const struct { const char *text, *template; uint64_t docs; } in[] = {
        { " \n{\"text\": \"a\"}\n{\"text\": \"b\"}\n", "{text}", 2 },
        { "[\n {\"text\": \"a\"}]", "{text}", 1 },
        { "{a} or [b]", NULL, 1 }, { "[b] {\"text\": \"a\"}", NULL, 1 },
    };
    struct place *p = *state;
    for (size_t i = 0; i < AT_COUNT(in); i++) {
        struct at_data *d;
        char *first;
        name_input(p, "part");
        OK(&p->cx, build(p, in[i].text));
        d = open_data(p);
        assert_int_equal(d->n_docs, in[i].docs);
        first = roles_text(p, d, 0, AT_ROLE_EOS);
        assert_int_equal(strchr(first, '"') || strchr(first, 'o'),
                         !in[i].template);
        at_data_close(d);
    }
}

static void rows_of_a_table_are_samples(void **state)
{
    struct place *p = *state;
    static const char *const score[] = { "stars" };
    struct at_data *d;
    const char *path;
    uint64_t line;
    name_input(p, "csv");
    p->o.scores = score;
    p->o.n_scores = 1;
    p->o.skip_bad = true;
    OK(&p->cx, build(p, "stars,answer,question\n4.5,b,\"a\nc\"\nx,b,a\n"
                        "1,b\n-1,\"a,b\",u\n"));
    assert_string_equal(p->stats.template, "{question}\n{answer}");
    assert_int_equal(p->stats.bad, 2);
    assert_non_null(strstr(p->stats.first_bad, "in.csv:4: the score 'stars' is "
                           "not a number"));
    d = open_data(p);
    assert_int_equal(d->n_docs, 2);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_COMPLETION),
                        "<s>|a|\n|c|\n|b!|</s>");
    assert_string_equal(roles_text(p, d, 1, AT_ROLE_COMPLETION),
                        "<s>|u|\n|a!|,!|b!|</s>");
    assert_float_equal(d->score[0], 4.5, 0);
    assert_float_equal(d->score[1], -1, 0);
    OK(&p->cx, at_data_place(&p->cx, &p->cx.run, d, 1, &path, &line));
    assert_int_equal(line, 6);
    at_data_close(d);
}

static void duplicates_and_limits_are_counted(void **state)
{
    static const char text[] =
        "{\"text\": \"a\", \"n\": 1}\n{\"text\": \"abc\", \"n\": 1}\n"
        "{\"text\": \"a\", \"n\": 1}\n{\"text\": \"a\", \"n\": 2}\n"
        "{\"text\": \"auuuuuuuuu\", \"n\": 1}\n";
    static const char pairs[] =
        "{\"chosen\": \"a b\", \"rejected\": \"a c\"}\n"
        "{\"chosen\": \"a b\", \"rejected\": \"a d\"}\n"
        "{\"chosen\": \"a b\", \"rejected\": \"a c\"}\n";
    static const char *const score[] = { "n" };
    struct place *p = *state;
    OK(&p->cx, build(p, text));
    assert_int_equal(p->stats.samples, 5);
    assert_int_equal(p->stats.duplicates, 0);
    p->o.dedup = true;
    OK(&p->cx, build(p, text));
    assert_int_equal(p->stats.samples, 3);
    assert_int_equal(p->stats.duplicates, 2);
    assert_int_equal(p->stats.n_docs[AT_TRAIN], 3);
    assert_int_equal(p->stats.length[0], 3);    /* with <s> and </s>          */
    assert_int_equal(p->stats.length[1], 4);
    assert_int_equal(p->stats.length[2], 12);
    assert_int_equal(p->stats.length[3], 12);
    p->o.scores = score;                        /* what differs by that stays */
    p->o.n_scores = 1;
    OK(&p->cx, build(p, text));
    assert_int_equal(p->stats.duplicates, 1);
    p->o.n_scores = 0;
    OK(&p->cx, build(p, pairs));
    assert_int_equal(p->stats.duplicates, 1);
    assert_int_equal(p->stats.n_docs[AT_TRAIN], 4);
    p->o.limit = 2;
    OK(&p->cx, build(p, text));
    assert_int_equal(p->stats.samples, 2);
    assert_int_equal(p->stats.n_docs[AT_TRAIN], 2);
}

static void separators_end_documents(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    const char *path;
    uint64_t line;
    name_input(p, "txt");
    OK(&p->cx, build(p, "a\n\nb\n"));
    assert_int_equal(p->stats.n_docs[AT_TRAIN], 1);
    p->o.separator = "\n\n";
    OK(&p->cx, build(p, "\n\na\nx\n\n\n\nb\n\nz"));
    d = open_data(p);
    assert_int_equal(d->n_docs, 3);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_TEXT),
                        "<s>|a!|\n!|x!|</s>");
    assert_string_equal(roles_text(p, d, 2, AT_ROLE_TEXT), "<s>|z!|</s>");
    OK(&p->cx, at_data_place(&p->cx, &p->cx.run, d, 1, &path, &line));
    assert_int_equal(line, 8);
    at_data_close(d);
    assert_int_equal(build(p, "a\n\nb\xE9 c"), AT_EFORMAT);
    assert_non_null(strstr(p->cx.err.msg, ":3: is not UTF-8"));
}

/* A long text comes in pieces, but is begun and ended once, and whole.       */
static void long_plain_text_is_one_document(void **state)
{
    enum { N = 300001 };
    struct place *p = *state;
    struct at_data *d;
    char *text = malloc(N), *got = malloc(N);
    size_t n = 0;
    int32_t id[4];
    assert_non_null(text);
    assert_non_null(got);
    for (size_t i = 0; i < N; i++)
        text[i] = i % 61 == 60 ? '\n' : (char)('A' + i * 7919 % 23);
    name_input(p, "txt");
    p->o.max_length = 1000;
    write_bytes(p->in, text, N);
    OK(&p->cx, at_data_build(&p->cx, &p->o, NULL, NULL, &p->stats));
    d = open_data(p);
    assert_int_equal(d->role[AT_ROLE_BOS], 1);
    assert_int_equal(d->role[AT_ROLE_EOS], 1);
    for (uint64_t k = 0; k < d->n_docs; k++) {
        /* Pieces of one text share their border token; stretches do not.     */
        uint64_t from = d->offset[k];
        int32_t last[2] = { -1, -2 };
        if (k > 0)
            OK(&p->cx, at_data_read(&p->cx, d, from - 1, 2, last, NULL));
        for (from += last[0] == last[1]; from < d->offset[k + 1]; from++) {
            size_t len;
            const char *s;
            OK(&p->cx, at_data_read(&p->cx, d, from, 1, id, NULL));
            s = at_tok_piece(p->tok, id[0], &len);
            if (at_tok_is_special(p->tok, id[0]))
                continue;
            assert_true(n + len <= N);
            memcpy(got + n, s, len);
            n += len;
        }
    }
    assert_int_equal(n, N);
    assert_memory_equal(got, text, N);
    at_data_close(d);
    free(text);
    free(got);
}

static char *many(size_t n, size_t stride)
{
    struct at_text t = { 0 };
    for (size_t i = 0; i < n; i++)
        at_text_addf(&t, "{\"text\": \"doc %zu %.*s\"}\n", i * stride % n,
                     (int)(i * stride % n % 23), "mnopqrstuvwxyzmnopqrstu");
    return t.s;
}

/* How often each of n documents comes in an epoch.                           */
static void count_epoch(struct place *p, const struct at_data *d, size_t *times,
                        size_t n)
{
    struct at_loader_options o = { .rows = 1, .length = 64, .shuffle = true,
                                   .split = AT_TRAIN, .once = true,
                                   .all_roles = true };
    const struct at_batch *b;
    struct at_loader *l;
    bool last = false;
    memset(times, 0, n * sizeof *times);
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
    while (!last) {
        OK(&p->cx, at_loader_next(&p->cx, l, &b));
        assert_true((size_t)b->doc[0] < n);
        times[b->doc[0]]++;
        last = b->last;
    }
    at_loader_destroy(l);
}

static void sources_come_as_often_as_said(void **state)
{
    enum { N = 400 };           /* of the first file; the other has two       */
    static const double factor[] = { 0.5, 3 };
    static const double none[] = { 0, 0 };
    struct place *p = *state;
    char other[128];
    const char *path;
    size_t times[N + 2], again[N + 2], half = 0;
    struct at_data *d;
    char *text = many(N, 1);
    snprintf(other, sizeof other, "%s/other.jsonl", p->dir);
    write_bytes(other, "{\"text\": \"a\"}\n{\"text\": \"b\"}\n", 28);
    p->inputs[1] = other;
    p->o.n_inputs = 2;
    OK(&p->cx, build(p, text));
    free(text);
    unlink(other);
    d = open_data(p);
    assert_int_equal(d->n_docs, N + 2);
    assert_int_equal(at_data_sources(d), 2);
    OK(&p->cx, at_data_source(&p->cx, &p->cx.run, d, 1, &path));
    assert_string_equal(path, other);
    assert_int_equal(at_data_mix(&p->cx, &p->cx.run, d, none), AT_EINVAL);
    OK(&p->cx, at_data_mix(&p->cx, &p->cx.run, d, factor));
    count_epoch(p, d, times, N + 2);
    for (size_t i = 0; i < N; i++) {
        assert_true(times[i] <= 1);
        half += times[i];
    }
    assert_in_range(half, N / 2 - 40, N / 2 + 40);  /* 4 standard deviations  */
    assert_int_equal(times[N], 3);
    assert_int_equal(times[N + 1], 3);
    at_data_close(d);
    d = open_data(p);
    OK(&p->cx, at_data_mix(&p->cx, &p->cx.run, d, factor));
    count_epoch(p, d, again, N + 2);
    assert_memory_equal(times, again, sizeof times);
    at_data_close(d);
}

static void splits_do_not_depend_on_the_order(void **state)
{
    enum { N = 400 };
    struct place *p = *state;
    char side[2][N];
    p->o.validation = 0.25;
    for (int turn = 0; turn < 2; turn++) {
        char *text = many(N, turn ? 37 : 1);
        struct at_data *d;
        OK(&p->cx, build(p, text));
        free(text);
        d = open_data(p);
        assert_int_equal(d->n_split[0] + d->n_split[1], N);
        assert_in_range(d->n_split[AT_VALIDATION], 60, 140);
        for (int s = 0; s < AT_SPLITS; s++)
            for (uint64_t i = 0; i < d->n_split[s]; i++)
                side[turn][d->doc[s][i] * (turn ? 37 : 1) % N] = (char)s;
        at_data_close(d);
    }
    assert_memory_equal(side[0], side[1], N);
}

static void threads_do_not_change_the_file(void **state)
{
    struct place *p = *state;
    struct at_hash h[2];
    char *text = many(3000, 1);
    for (int i = 0; i < 2; i++) {
        struct at_data *d;
        p->o.n_threads = i ? 3 : 1;
        OK(&p->cx, build(p, text));
        d = open_data(p);
        OK(&p->cx, at_h5_checksum(&p->cx, d->f, "tokens", &h[i]));
        at_data_close(d);
    }
    assert_true(at_hash_equal(h[0], h[1]));
    free(text);
}

static void interrupts_leave_nothing(void **state)
{
    struct place *p = *state;
    volatile int stop = 1;
    p->cx.stop = &stop;
    assert_int_equal(build(p, "{\"text\": \"a\"}\n"), AT_EINTR);
    assert_int_equal(access(p->out, F_OK), -1);
    p->cx.stop = NULL;
}

static void an_older_file_survives_a_failure(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    OK(&p->cx, build(p, "{\"text\": \"old\"}\n"));
    assert_int_equal(build(p, "{\"text\": 1}\nrubbish\n"), AT_EFORMAT);
    p->inputs[0] = "/nonexistent";
    assert_int_equal(build(p, ""), AT_ENOENT);
    p->inputs[0] = p->in;
    p->o.out = "/nonexistent/out.h5";
    assert_int_equal(build(p, "{\"text\": 1}\n"), AT_ENOENT);
    d = open_data(p);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_BOS), "<s>!|o|l|d|</s>");
    at_data_close(d);
}

static void documents_are_shown_with_marks(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    struct at_text t = { 0 };
    char want[512];
    OK(&p->cx, build(p, "\n{\"prompt\": \"x\\u001b[2J\", "
                        "\"completion\": \"bc\"}\n"));
    d = open_data(p);
    OK(&p->cx, at_data_show(&p->cx, d, 0, false, false, &t));
    snprintf(want, sizeof want, "<s>x\\x1b[2J\u27E6bc</s>\u27E7\n"
             "  document 0 (training), %s:2: 8 tokens, 2 trained (25.0 %%): "
             "1 bos, 5 prompt, 1 completion, 1 eos\n", p->in);
    assert_string_equal(t.s, want);
    at_text_finish(&t);
    assert_int_equal(at_data_show(&p->cx, d, 1, false, false, &t), AT_EINVAL);
    at_data_close(d);
}

/* ---- opening ------------------------------------------------------------------ */

struct parts {
    uint16_t tokens[6];
    uint8_t roles[6], split[2];
    uint64_t offsets[3], line[2];
    uint32_t source[2];
    size_t n_tokens, n_roles, n_offsets, n_split, n_line;
    bool tokenizer;
};

static int write_parts(struct place *p, const struct parts *v)
{
    struct at_ctx *cx = &p->cx;
    struct at_h5 *f;
    size_t n, two = 2;
    const void *blob = at_tok_save(p->tok, &n);
    OK(cx, at_h5_create(cx, p->out, "dataset", &f));
    OK(cx, at_h5_put(cx, f, "tokens", AT_H5_U16, 1, &v->n_tokens, v->tokens));
    OK(cx, at_h5_put(cx, f, "roles", AT_H5_U8, 1, &v->n_roles, v->roles));
    OK(cx, at_h5_put(cx, f, "offsets", AT_H5_U64, 1, &v->n_offsets,
                     v->offsets));
    OK(cx, at_h5_put(cx, f, "split", AT_H5_U8, 1, &v->n_split, v->split));
    OK(cx, at_h5_put(cx, f, "source", AT_H5_U32, 1, &two, v->source));
    OK(cx, at_h5_put(cx, f, "line", AT_H5_U64, 1, &v->n_line, v->line));
    OK(cx, at_h5_set_text(cx, f, "sources", "a b.txt 00 1\n"));
    OK(cx, at_h5_set_text(cx, f, "template", "{text}"));
    OK(cx, at_h5_set_int(cx, f, "pairs", 0));
    OK(cx, at_h5_put_bytes(cx, f, "tokenizer", v->tokenizer ? blob : "x",
                           v->tokenizer ? n : 1));
    return at_h5_commit(cx, f);
}

/* One sample, two documents that stay together: in the same split, the same
 * batch and, packed, the same row; both or none are kept.                    */
static void preferences_stay_together(void **state)
{
    struct place *p = *state;
    struct at_loader_options o = { .rows = 2, .length = 12, .groups = true,
                                   .packing = AT_PACK_DOCS, .shuffle = true,
                                   .seed = 3 };
    const struct at_batch *b;
    struct at_loader *l;
    struct at_data *d;
    struct at_text t = { 0 };
    for (int i = 0; i < 40; i++)
        at_text_addf(&t, "{\"prompt\": \"%s\", \"chosen\": \"%s\", "
                     "\"rejected\": \"d\"}\n", i % 2 ? "a" : "bc",
                     i % 3 ? "ab" : "a the");
    p->o.validation = 0.3;
    OK(&p->cx, build(p, t.s));
    assert_true(p->stats.preference);
    assert_string_equal(p->stats.template, "{prompt}\n{chosen}");
    d = open_data(p);
    assert_int_equal(d->group, 2);
    assert_int_equal(d->n_docs, 80);
    assert_true(d->preference && d->pairs);
    assert_true(d->n_split[AT_VALIDATION] > 0);
    assert_string_equal(roles_text(p, d, 0, AT_ROLE_COMPLETION),
                        "<s>|bc|\n|a!| the!|</s>");
    assert_string_equal(roles_text(p, d, 1, AT_ROLE_COMPLETION),
                        "<s>|bc|\n|d!|</s>");
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
    for (int n = 0; n < 50; n++) {
        OK(&p->cx, at_loader_next(&p->cx, l, &b));
        for (size_t r = 0; r < 2; r++) {
            int64_t last = -1;
            for (size_t i = 0; i < 12; i++) {
                int64_t doc = b->doc[r * 12 + i];
                if (doc != last && doc >= 0)
                    assert_true(doc % 2 ? last == doc - 1 : last % 2 != 0);
                if (doc < 0 && last >= 0)
                    assert_int_equal(last % 2, 1);
                last = doc;
            }
        }
    }
    at_loader_destroy(l);
    o.length = 8;
    assert_int_equal(at_loader_create(&p->cx, d, &o, &l), AT_EINVAL);
    assert_true(strstr(p->cx.err.msg, "belong together"));
    o.length = 12;
    o.packing = AT_PACK_NONE;
    o.rows = 3;
    assert_int_equal(at_loader_create(&p->cx, d, &o, &l), AT_EINVAL);
    at_data_close(d);
    at_text_finish(&t);
}

static void a_preference_without_a_prompt_shares_its_beginning(void **state)
{
    struct place *p = *state;
    struct at_data *d;
    OK(&p->cx, build(p, "{\"chosen\": \"a the ab\", \"rejected\": "
                        "\"a the d\"}\n"));
    d = open_data(p);
    assert_int_equal(d->role[AT_ROLE_COMPLETION], 3);
    assert_string_equal(roles_text(p, d, 1, AT_ROLE_PROMPT),
                        "<s>|a!| the!| !|d|</s>");
    at_data_close(d);
}

static void bad_preferences_and_scores_are_named(void **state)
{
    static const struct { const char *text, *score, *what; } c[] = {
        { "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"b\"}\n",
          NULL, "are the same" },
        { "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}\n"
          "{\"prompt\": \"a\", \"chosen\": \"b\"}\n", NULL,
          ":2: the key 'rejected' is missing" },
        { "{\"text\": \"a b\", \"good\": \"x\"}\n", "good",
          "'good' is not a number" },
        { "{\"text\": \"a b\"}\n", "good", "'good' is missing" },
        { "{\"text\": \"a b\", \"good\": \"nan\"}\n", "good",
          "'good' is not a number" },
    };
    struct place *p = *state;
    for (size_t i = 0; i < AT_COUNT(c); i++) {
        p->o.scores = &c[i].score;
        p->o.n_scores = c[i].score ? 1 : 0;
        assert_int_equal(build(p, c[i].text), AT_EFORMAT);
        if (!strstr(p->cx.err.msg, c[i].what))
            fail_msg("%s", p->cx.err.msg);
    }
}

static void scores_are_kept(void **state)
{
    static const char *const names[] = { "good", "long" };
    struct place *p = *state;
    struct at_data *d;
    p->o.scores = names;
    p->o.n_scores = 2;
    OK(&p->cx, build(p, "{\"text\": \"a b\", \"good\": 0.5, \"long\": 3}\n"
                        "{\"text\": \"c d\", \"good\": true, \"long\": -1}\n"));
    d = open_data(p);
    assert_int_equal(d->group, 1);
    assert_int_equal(d->n_scores, 2);
    assert_string_equal(d->score_name[1], "long");
    assert_true(d->score[0] == 0.5f && d->score[1] == 3 && d->score[2] == 1 &&
                d->score[3] == -1);
    at_data_close(d);
}

static void datasets_that_contradict_themselves_are_refused(void **state)
{
    static const struct parts good = {
        { 0, 10, 20, 30, 40, 1 }, { 0, 3, 3, 3, 3, 4 }, { 0, 1 }, { 0, 2, 6 },
        { 1, 2 }, { 0, 0 }, 6, 6, 3, 2, 2, true
    };
    struct place *p = *state;
    struct at_data *d;
    const char *path;
    uint64_t line;
    for (int i = 0; i < 14; i++) {
        struct parts v = good;
        switch (i) {
        case 1: v.tokens[3] = 264; break;
        case 2: v.roles[5] = AT_ROLES; break;
        case 3: v.offsets[1] = 5; break;
        case 4: v.offsets[0] = 1; break;
        case 5: v.offsets[2] = 5; break;
        case 6: v.offsets[1] = UINT64_MAX; break;
        case 7: v.offsets[1] = 1; break;
        case 8: v.split[1] = 2; break;
        case 9: v.n_roles = 5; break;
        case 10: v.n_offsets = 1; break;
        case 11: v.n_split = 1; break;
        case 12: v.n_line = 1; break;
        case 13: v.tokenizer = false; break;
        }
        OK(&p->cx, write_parts(p, &v));
        if (i == 0)
            d = open_data(p);
        else
            assert_int_equal(at_data_open(&p->cx, &p->cx.run, p->out, &d),
                             AT_EFORMAT);
        if (i > 0)
            continue;
        OK(&p->cx, at_data_place(&p->cx, &p->cx.run, d, 1, &path, &line));
        assert_string_equal(path, "a b.txt");
        assert_int_equal(line, 2);
        at_data_close(d);
    }
}

/* ---- batches ------------------------------------------------------------------- */

static struct at_data *documents(struct place *p, size_t n)
{
    char *text = many(n, 1);
    p->o.validation = 0.2;
    OK(&p->cx, build(p, text));
    free(text);
    return open_data(p);
}

/* What must hold of any batch.  Counts each target of a document in seen[].  */
static void check_batch(struct place *p, const struct at_data *d,
                        const struct at_batch *b, uint8_t *seen)
{
    size_t N = b->rows * b->length, n_tokens = 0, n_targets = 0;
    for (size_t i = 0; i < N; i++) {
        size_t row = i / b->length * b->length;
        int32_t ids[2];
        uint64_t at;
        assert_in_range(b->first[i], row, i);
        if (b->doc[i] < 0) {
            assert_int_equal(b->ids[i], 0);
            assert_int_equal(b->targets[i], -1);
            assert_int_equal(b->first[i], i);
            continue;
        }
        n_tokens++;
        n_targets += b->targets[i] >= 0;
        assert_int_equal(b->pos[i], (int32_t)i - b->first[i]);
        assert_int_equal(b->doc[b->first[i]], b->doc[i]);
        assert_int_equal(b->pos[b->first[i]], 0);
        if (b->pos[i] > 0) {
            assert_int_equal(b->first[i], b->first[i - 1]);
            continue;
        }
        /* The piece from here on, found in the document by its tokens.       */
        for (at = d->offset[b->doc[i]]; at + 1 < d->offset[b->doc[i] + 1];
             at++) {
            size_t k = 0;
            while (i + k < row + b->length && b->first[i + k] == (int32_t)i &&
                   b->doc[i + k] == b->doc[i]) {
                if (at + k + 1 >= d->offset[b->doc[i] + 1])
                    break;
                OK(&p->cx, at_data_read(&p->cx, d, at + k, 2, ids, NULL));
                if (ids[0] != b->ids[i + k] ||
                    (b->targets[i + k] >= 0 && ids[1] != b->targets[i + k]))
                    break;
                k++;
            }
            if (i + k == row + b->length || b->first[i + k] != (int32_t)i) {
                for (size_t m = 0; m < k && seen; m++)
                    seen[at + m]++;
                break;
            }
        }
        assert_true(at + 1 < d->offset[b->doc[i] + 1]);
    }
    assert_int_equal(n_tokens, b->n_tokens);
    assert_int_equal(n_targets, b->n_targets);
}

static void every_token_is_seen_once_an_epoch(void **state)
{
    struct place *p = *state;
    struct at_data *d = documents(p, 100);
    for (int i = 0; i < 12; i++) {
        struct at_loader_options o = {
            .packing = (enum at_packing)(i % 3), .shuffle = i / 3 % 2,
            .rows = 3, .length = i < 6 ? 40 : 11, .once = true, .seed = 5,
        };
        uint8_t *seen = calloc(d->n_tokens, 1);
        uint64_t n_rows = 0, rows, positions = 0;
        const struct at_batch *b;
        struct at_loader *l;
        assert_non_null(seen);
        OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
        rows = at_loader_rows(l, 0);
        do {
            OK(&p->cx, at_loader_next(&p->cx, l, &b));
            check_batch(p, d, b, seen);
            positions += b->n_tokens;
            for (size_t r = 0; r < b->rows; r++)
                n_rows += b->doc[r * b->length] >= 0;
        } while (!b->last);
        assert_int_equal(n_rows, rows);
        assert_int_equal(at_loader_next(&p->cx, l, &b), AT_EINVAL);
        for (uint64_t k = 0; k < d->n_split[AT_TRAIN]; k++) {
            uint64_t doc = d->doc[AT_TRAIN][k];
            positions -= d->offset[doc + 1] - d->offset[doc] - 1;
            for (uint64_t t = d->offset[doc]; t + 1 < d->offset[doc + 1]; t++)
                if (i < 6)      /* pieces of short rows may look alike        */
                    assert_int_equal(seen[t], 1);
        }
        assert_int_equal(positions, 0);
        at_loader_seek(l, (struct at_cursor){ 0 });
        OK(&p->cx, at_loader_next(&p->cx, l, &b));
        assert_int_equal(b->from.index, 0);
        at_loader_destroy(l);
        free(seen);
    }
    at_data_close(d);
}

static bool same(const struct at_batch *a, const struct at_batch *b)
{
    size_t n = a->rows * a->length * sizeof(int32_t);
    return memcmp(a->ids, b->ids, n) == 0 &&
           memcmp(a->targets, b->targets, n) == 0 &&
           memcmp(a->pos, b->pos, n) == 0 &&
           memcmp(a->first, b->first, n) == 0 &&
           memcmp(a->doc, b->doc, 2 * n) == 0 && a->n_tokens == b->n_tokens &&
           a->n_targets == b->n_targets && a->last == b->last &&
           memcmp(&a->from, &b->from, sizeof a->from) == 0 &&
           memcmp(&a->to, &b->to, sizeof a->to) == 0;
}

/* Resumed at any cursor, with or without the thread: the same batches.       */
static void any_cursor_continues(void **state)
{
    enum { BATCHES = 40 };
    struct place *p = *state;
    struct at_data *d = documents(p, 60);
    for (int packing = 0; packing < 3; packing++) {
        struct at_loader_options o = {
            .packing = (enum at_packing)packing, .shuffle = true, .rows = 2,
            .length = 17, .seed = 9, .hold = BATCHES,
        };
        struct at_loader *l, *again;
        const struct at_batch *b[BATCHES], *c;
        OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
        for (int i = 0; i < BATCHES; i++)
            OK(&p->cx, at_loader_next(&p->cx, l, &b[i]));
        assert_true(b[BATCHES - 1]->to.epoch >= 1);
        o.hold = 1;
        o.serial = packing == 1;
        OK(&p->cx, at_loader_create(&p->cx, d, &o, &again));
        for (int i = BATCHES - 1; i >= 0; i -= 3) {
            at_loader_seek(again, b[i]->from);
            for (int k = i; k < BATCHES && k < i + 4; k++) {
                OK(&p->cx, at_loader_next(&p->cx, again, &c));
                assert_true(same(b[k], c));
            }
        }
        at_loader_destroy(again);
        at_loader_destroy(l);
    }
    at_data_close(d);
}

static void the_thread_changes_nothing(void **state)
{
    struct place *p = *state;
    struct at_data *d = documents(p, 60);
    struct at_loader_options o = { .packing = AT_PACK_DOCS, .shuffle = true,
                                   .rows = 2, .length = 30, .seed = 3 };
    struct at_loader *ahead, *serial;
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &ahead));
    o.serial = true;
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &serial));
    for (int i = 0; i < 200; i++) {
        const struct at_batch *a, *b;
        OK(&p->cx, at_loader_next(&p->cx, ahead, &a));
        OK(&p->cx, at_loader_next(&p->cx, serial, &b));
        assert_true(same(a, b));
    }
    at_loader_destroy(ahead);
    at_loader_destroy(serial);
    at_loader_destroy(NULL);
    at_data_close(d);
}

/* Epochs are different permutations of the same documents.                   */
static void shuffling_is_a_permutation(void **state)
{
    struct place *p = *state;
    struct at_data *d = documents(p, 50);
    struct at_loader_options o = { .packing = AT_PACK_NONE, .shuffle = true,
                                   .rows = 1, .length = 40, .seed = 1 };
    uint64_t n = d->n_split[AT_TRAIN], order[3][50], moved = 0;
    struct at_loader *l;
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
    for (int e = 0; e < 3; e++) {
        char seen[50] = { 0 };
        for (uint64_t i = 0; i < n; i++) {
            const struct at_batch *b;
            OK(&p->cx, at_loader_next(&p->cx, l, &b));
            assert_int_equal(b->from.epoch, e);
            order[e][i] = (uint64_t)b->doc[0];
            assert_int_equal(seen[b->doc[0]]++, 0);
            moved += e > 0 && order[e][i] != order[e - 1][i];
        }
    }
    assert_true(moved > n);
    at_loader_destroy(l);
    at_data_close(d);
}

static void roles_decide_the_targets(void **state)
{
    struct place *p = *state;
    struct at_loader_options o = { .packing = AT_PACK_DOCS, .rows = 1,
                                   .length = 12, .once = true };
    static const int32_t want_pos[] = { 0, 1, 2, 3, 4, 0, 1, 2 };
    const struct at_batch *b;
    struct at_data *d;
    struct at_loader *l;
    OK(&p->cx, build(p, "{\"prompt\": \"xa\", \"completion\": \"bc the\"}\n"
                        "{\"prompt\": \"m\", \"completion\": \"n\"}\n"));
    d = open_data(p);
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
    OK(&p->cx, at_loader_next(&p->cx, l, &b));
    assert_int_equal(b->n_tokens, 8);
    assert_int_equal(b->n_targets, 5);      /* bc, the, eos; n, eos           */
    assert_int_equal(b->targets[0], -1);
    assert_int_equal(b->targets[1], -1);
    assert_int_equal(b->targets[2], b->ids[3]);
    assert_int_equal(b->targets[4], at_tok_eos(p->tok));
    assert_memory_equal(b->pos, want_pos, sizeof want_pos);
    assert_int_equal(b->first[7], 5);
    assert_int_equal(b->doc[8], -1);
    at_loader_destroy(l);
    o.all_roles = true;
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
    OK(&p->cx, at_loader_next(&p->cx, l, &b));
    assert_int_equal(b->n_targets, 8);
    at_loader_destroy(l);
    /* Pairs are never parted, unless all of them is text.                    */
    o.length = 4;
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
    at_loader_destroy(l);
    o.all_roles = false;
    assert_int_equal(at_loader_create(&p->cx, d, &o, &l), AT_EINVAL);
    o.length = 12;
    o.packing = AT_PACK_STREAM;
    assert_int_equal(at_loader_create(&p->cx, d, &o, &l), AT_EINVAL);
    o.packing = AT_PACK_DOCS;
    o.split = AT_VALIDATION;
    assert_int_equal(at_loader_create(&p->cx, d, &o, &l), AT_EINVAL);
    o.split = AT_TRAIN;
    o.rows = 0;
    assert_int_equal(at_loader_create(&p->cx, d, &o, &l), AT_EINVAL);
    o.rows = SIZE_MAX / 2;
    assert_int_equal(at_loader_create(&p->cx, d, &o, &l), AT_EINVAL);
    at_data_close(d);
}

static void foreign_cursors_are_refused(void **state)
{
    struct place *p = *state;
    struct at_data *d = documents(p, 20);
    struct at_loader_options o = { .rows = 1, .length = 40 };
    static const struct at_cursor bad[] = {
        { 0, 20, 0 }, { 0, UINT64_MAX, 0 }, { 0, 0, 1000 },
        { 3, 1, UINT64_MAX },
    };
    for (int serial = 0; serial < 2; serial++) {
        const struct at_batch *b;
        struct at_loader *l;
        o.serial = serial;
        OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
        for (size_t i = 0; i < AT_COUNT(bad); i++) {
            at_loader_seek(l, bad[i]);
            assert_int_equal(at_loader_next(&p->cx, l, &b), AT_EINVAL);
            assert_int_equal(at_loader_next(&p->cx, l, &b), AT_EINVAL);
            at_loader_seek(l, (struct at_cursor){ UINT64_MAX - 5, 1, 0 });
            OK(&p->cx, at_loader_next(&p->cx, l, &b));
        }
        at_loader_destroy(l);
    }
    at_data_close(d);
}

/* The file is cut while the loader reads it: an error, not a crash.          */
static void a_file_cut_underneath_is_an_error(void **state)
{
    struct place *p = *state;
    struct at_data *d = documents(p, 20);
    struct at_loader_options o = { .rows = 1, .length = 40 };
    const struct at_batch *b;
    struct at_loader *l;
    int rc = AT_OK;
    assert_int_equal(truncate(p->out, 600), 0);
    OK(&p->cx, at_loader_create(&p->cx, d, &o, &l));
    for (int i = 0; i < 50 && rc == AT_OK; i++)
        rc = at_loader_next(&p->cx, l, &b);
    assert_int_equal(rc, AT_EFORMAT);
    assert_non_null(strstr(p->cx.err.msg, "is cut short"));
    at_loader_destroy(l);
    at_data_close(d);
}

static void every_failing_allocation_is_survived(void **state)
{
    struct place *p = *state;
    struct at_loader_options o = { .rows = 1, .length = 40 };
    int rc = AT_ENOMEM;
    long k;
    p->o.n_threads = 1;
    for (k = 1; rc < 0; k++) {
        p->cx.fail_after = k;
        rc = build(p, "{\"prompt\": \"xa\", \"completion\": \"bc the\"}\n");
        p->cx.fail_after = 0;
        assert_true(rc == AT_OK || rc == AT_ENOMEM);
    }
    assert_true(k > 5);
    for (k = 1, rc = AT_ENOMEM; rc < 0; k++) {
        struct at_text t = { 0 };
        struct at_data *d = NULL;
        struct at_loader *l = NULL;
        struct at_ctx cx;
        at_ctx_init(&cx);
        cx.fail_after = k;
        rc = at_data_open(&cx, &cx.run, p->out, &d);
        if (rc == AT_OK)
            rc = at_data_show(&cx, d, 0, false, false, &t);
        if (rc == AT_OK)
            rc = at_loader_create(&cx, d, &o, &l);
        assert_true(rc == AT_OK || rc == AT_ENOMEM);
        at_loader_destroy(l);
        at_data_close(d);
        at_text_finish(&t);
        at_ctx_finish(&cx);
    }
    assert_true(k > 5);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(completions_are_marked_by_their_bytes),
        T(templates_say_how_samples_read),
        T(bad_templates_are_refused),
        T(bad_samples_are_named_or_left_out),
        T(nothing_to_learn_is_refused),
        T(long_samples_are_counted_and_limited),
        T(long_texts_become_several),
        T(arrays_read_as_lines_do),
        T(other_names_are_guessed_by_their_beginning),
        T(rows_of_a_table_are_samples),
        T(duplicates_and_limits_are_counted),
        T(separators_end_documents),
        T(long_plain_text_is_one_document),
        T(sources_come_as_often_as_said),
        T(splits_do_not_depend_on_the_order),
        T(threads_do_not_change_the_file),
        T(interrupts_leave_nothing),
        T(an_older_file_survives_a_failure),
        T(documents_are_shown_with_marks),
        T(preferences_stay_together),
        T(a_preference_without_a_prompt_shares_its_beginning),
        T(bad_preferences_and_scores_are_named),
        T(scores_are_kept),
        T(datasets_that_contradict_themselves_are_refused),
        T(every_token_is_seen_once_an_epoch),
        T(any_cursor_continues),
        T(the_thread_changes_nothing),
        T(shuffling_is_a_permutation),
        T(roles_decide_the_targets),
        T(foreign_cursors_are_refused),
        T(a_file_cut_underneath_is_an_error),
        T(every_failing_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
