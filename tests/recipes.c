/* recipes: values, places, faults all at once, overrides, printing. */
#include "tests/test.h"

#include "recipes/recipes.h"
#include "recipes/schema.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The least that loads; texts of the tests go before or after it. */
#define LEAST "model: {path: m.h5}\ndata: {path: d.h5}\n"
#define STEPS "train: {steps: 100}\n"

static int parse(struct at_ctx *cx, const char *text,
                 const char *const *over, size_t n_over, struct at_recipe **r)
{
    return at_recipe_parse(cx, &cx->run, "dir/a.yaml", text, strlen(text),
                           over, n_over, r);
}

static bool has(const struct at_ctx *cx, const char *what)
{
    bool found = strstr(cx->err.msg, what) != NULL;
    if (!found)
        print_error("no '%s' in:\n%s\n", what, cx->err.msg);
    return found;
}

static size_t lines(const char *s)
{
    size_t n = 1;
    for (; *s; s++)
        n += *s == '\n';
    return n;
}

/* ---- the table ----------------------------------------------------------- */

static void the_table_is_sound(void **state)
{
    static const char *const choices_of[] = { "device", "optim.name" };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(choices_of); i++)
        assert_int_equal(at_key_find(choices_of[i])->type, AT_T_CHOICE);
    for (size_t i = 0; i < at_n_keys; i++) {
        const struct at_key *k = &at_keys[i];
        char name[64];
        assert_ptr_equal(at_key_find(k->name), k);      /* unique            */
        assert_true(strlen(k->name) < 60 && strlen(k->help) > 10);
        assert_true(!strchr(k->name, '.') || at_key_group_of(k));
        assert_true((k->type == AT_T_CHOICE) == (k->choices != NULL));
        assert_true(k->min <= k->max);
        if (k->type == AT_T_INT)
            assert_true(k->max <= 9007199254740992.0);
        if (!k->with)
            continue;
        snprintf(name, sizeof name, "%.*s", (int)strcspn(k->with, "="),
                 k->with);
        assert_non_null(at_key_find(name));
        assert_true(at_key_find(name) < k);
        if (strchr(k->with, '='))
            assert_int_equal(at_key_find(name)->type, AT_T_CHOICE);
    }
    for (size_t i = 0; i < at_n_rules; i++) {
        assert_non_null(at_key_find(at_rules[i].a));
        assert_true(!at_rules[i].b || at_key_find(at_rules[i].b));
        assert_true(!at_rules[i].c || at_key_find(at_rules[i].c));
    }
}

/* ---- values -------------------------------------------------------------- */

static void values_and_their_places(void **state)
{
    struct at_ctx cx;
    struct at_recipe *r;
    struct at_src at;
    struct at_strings s;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, parse(&cx, LEAST
                  "seed: 7\n"
                  "train:\n  steps: 1e3\n"
                  "optim: {lr: 2.5e-4, clip: 0}\n"
                  "lora.rank: 8\n"
                  "data.pack: false\n"
                  "freeze: 'embed|it''s'\n"
                  "eval:\n  every: 10\n  samples:\n    - one\n    - 'two: 2'\n"
                  "log:\n  # every: 5\n", NULL, 0, &r));
    assert_int_equal(at_recipe_int(r, "seed"), 7);
    assert_int_equal(at_recipe_int(r, "train.steps"), 1000);
    assert_true(at_recipe_real(r, "optim.lr") == 2.5e-4);
    assert_true(at_recipe_real(r, "optim.beta1") == 0.9);
    assert_int_equal(at_recipe_int(r, "lora.rank"), 8);
    assert_false(at_recipe_bool(r, "data.pack"));
    assert_true(at_recipe_bool(r, "data.shuffle"));
    assert_string_equal(at_recipe_text(r, "freeze"), "embed|it's");
    assert_string_equal(at_recipe_text(r, "optim.name"), "adamw");
    assert_string_equal(at_recipe_text(r, "data.validation"), "");
    assert_string_equal(at_recipe_text(r, "run"), "runs/a");
    s = at_recipe_list(r, "eval.samples");
    assert_int_equal(s.n, 2);
    assert_string_equal(s.s[0], "one");
    assert_string_equal(s.s[1], "two: 2");
    assert_true(at_recipe_given(r, "seed"));
    assert_false(at_recipe_given(r, "threads"));
    at = at_recipe_src(r, "train.steps");
    assert_string_equal(at.file, "dir/a.yaml");
    assert_int_equal(at.line, 5);
    assert_int_equal(at.col, 10);
    assert_int_equal(at_recipe_src(r, "threads").line, 0);
    at_ctx_finish(&cx);
}

/* One key spelled in one way: whether it loads, and part of what is said.    */
struct spelling { const char *text, *says; };

static void spellings_are_taken_or_refused(void **state)
{
    static const struct spelling tries[] = {
        { "seed: 0", NULL }, { "seed: 1e6", NULL }, { "seed: 1.5e1", NULL },
        { "seed: +3", NULL }, { "seed: 9007199254740991", NULL },
        { "seed: 9007199254740992", "must be between" },
        { "seed: 1.5", "a.yaml:1:7: seed is 1.5; it must be a whole number" },
        { "seed: -1", "seed is -1; it must be between 0 and" },
        { "seed: 64k", "seed is '64k'; it must be a whole number such as" },
        { "seed: 1_000", "must be a whole number" },
        { "seed: 0x10", "must be a whole number" },
        { "seed: 010", "must be a whole number" },
        { "seed: '1'", "remove the quotes" },
        { "seed: ", "has no value" }, { "seed: ~", "has no value" },
        { "seed: 1e400", "must be between" },
        { "seed: .nan", "must be between" },
        { "seed: [1]", "single value" }, { "seed: {a: 1}", "single value" },
        { "optim: {lr: .nan}", "optim.lr is .nan; it must be between 0" },
        { "optim: {lr: nan}", "must be between" },
        { "optim: {lr: -.inf}", "must be between" },
        { "optim: {lr: 1e999}", "must be between" },
        { "optim: {lr: .5}", NULL }, { "optim: {lr: 1.}", NULL },
        { "optim: {lr: -0.0}", NULL },
        { "optim: {lr: .}", "must be a number" },
        { "optim: {lr: 1e}", "must be a number" },
        { "optim: {lr: 1,5}", "no key 'optim.5'" },
        { "data.pack: yes", "write true or false" },
        { "data.pack: 'true'", "write true or false" },
        { "objective: stf", "did you mean sft?" },
        { "objective: zebra", "must be one of lm|sft|dpo" },
        { "freeze: 'a('", "missing closing parenthesis, at character 3" },
        { "freeze: \"a\\0b\"", "NUL" },
        { "eval: {every: 1, samples: one}", "is a list" },
        { "eval: {every: 1, samples: [[a]]}", "this item is none" },
        { "eval: {every: 1, samples: [~]}", "has no value" },
        { "lora: 8", "lora is a group of keys" },
        { "lora:", NULL }, { "lora: ~", "group of keys" },
        { "lora: [8]", "group of keys" },
        { "learning_rate: 1", "did you mean optim.lr?" },
        { "optim: {rl: 1}", "did you mean optim.lr?" },
        { "lr: 1", "did you mean optim.lr?" },
        { "lorra: {rank: 8}", "did you mean lora?" },
        { "optimm: {lr: 8}", "did you mean optim?" },
        { "zebra_crossing: 1", "`attune recipe keys` lists them" },
        { "seed: 1\nseed: 2", "a.yaml:2:7: seed is spelled twice; the first "
                              "is in line 1" },
        { "lora: {}\nlora: {}", "opened twice; the first is in line 1" },
        { "lora.rank: 1\nlora: {rank: 2}", "lora.rank is spelled twice" },
        { "seed: &a 1\nthreads: *a", "an anchor" },
        { "seed: *a", "a.yaml:1:7: an alias" },
        { "seed: !!int 1", "a tag" },
        { "? [a]\n: 1", "a key must be a name" },
        { "a\\0b: 1", "no key" }, { "\"a\\0b\": 1", "no key" },
        { "optim:\n\tlr: 1", "a.yaml:2:1: a tab; indent with spaces" },
        { "optim: {lr: 1", "not YAML" },
        { "seed: \"\xff\"", "must be UTF-8" },
        { "x: [[[[[[[[[[[[1]]]]]]]]]]]]", "nested too deep" },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(tries); i++) {
        struct at_ctx cx;
        struct at_recipe *r = NULL;
        char text[512];
        int rc;
        at_ctx_init(&cx);
        snprintf(text, sizeof text, "%s\n" LEAST STEPS, tries[i].text);
        rc = parse(&cx, text, NULL, 0, &r);
        if ((rc == AT_OK) != (tries[i].says == NULL))
            print_error("%s: %s\n", tries[i].text, cx.err.msg);
        assert_int_equal(rc, tries[i].says ? AT_EINVAL : AT_OK);
        if (tries[i].says)
            assert_true(has(&cx, tries[i].says));
        else
            assert_non_null(r);
        at_ctx_finish(&cx);
    }
}

static void every_range_is_kept(void **state)
{
    (void)state;
    for (size_t i = 0; i < at_n_keys; i++) {
        const struct at_key *k = &at_keys[i];
        const double out[] = { k->min - 1, k->max * 2 + 1, NAN };
        if (k->type != AT_T_INT && k->type != AT_T_REAL)
            continue;
        for (size_t j = 0; j < AT_COUNT(out); j++) {
            struct at_ctx cx;
            struct at_recipe *r;
            char over[128], want[128];
            const char *const o = over;
            at_ctx_init(&cx);
            snprintf(over, sizeof over, "%s=%.17g", k->name, out[j]);
            snprintf(want, sizeof want, "must be between %.16g and %.16g",
                     k->min, k->max);
            assert_int_equal(parse(&cx, LEAST STEPS, &o, 1, &r), AT_EINVAL);
            assert_true(has(&cx, want));
            at_ctx_finish(&cx);
        }
    }
}

/* ---- faults -------------------------------------------------------------- */

static void all_faults_at_once(void **state)
{
    struct at_ctx cx;
    struct at_recipe *r = NULL;
    (void)state;
    at_ctx_init(&cx);
    cx.at = (struct at_src){ "elsewhere", 1, 1 };
    assert_int_equal(parse(&cx, "seed: x\n"
                           "optim:\n  lr: 1e9\n  momentun: 0\n"
                           "lora: {alpha: 4}\n"
                           "train: {steps: 1, epochs: 1}\n", NULL, 0, &r),
                     AT_EINVAL);
    assert_null(r);
    assert_string_equal(cx.err.msg,
        "dir/a.yaml:1:7: seed is 'x'; it must be a whole number such as 1000 "
        "or 1e3\n"
        "dir/a.yaml:3:7: optim.lr is 1e9; it must be between 0 and 100\n"
        "dir/a.yaml:4:3: there is no key 'optim.momentun': did you mean "
        "optim.momentum?\n"
        "dir/a.yaml: neither model.path nor model.family is set; give a model "
        "file to start from, or a family to train from scratch\n"
        "dir/a.yaml:6:27: train.steps and train.epochs are both set; give the "
        "length of the run in steps or in epochs\n"
        "dir/a.yaml:5:15: lora.alpha has a use only with lora.rank; set that "
        "or remove this\n"
        "dir/a.yaml: data.path is missing: Dataset file (HDF5), made by "
        "`attune data`.");
    assert_string_equal(cx.at.file, "elsewhere");
    at_ctx_finish(&cx);
}

static void many_faults_fit(void **state)
{
    struct at_ctx cx;
    struct at_recipe *r;
    struct at_text t = { 0 };
    (void)state;
    at_ctx_init(&cx);
    for (int i = 0; i < 20000; i++)
        at_text_addf(&t, "keyx%d: 1\n", i);
    assert_int_equal(parse(&cx, t.s, NULL, 0, &r), AT_EINVAL);
    assert_int_equal(lines(cx.err.msg), 21);
    assert_true(has(&cx, "\nand more; mend these first"));
    t.n = 0;
    for (int i = 0; i < 20; i++)
        at_text_addf(&t, "%0180d%d: 1\n", 0, i);
    assert_int_equal(parse(&cx, t.s, NULL, 0, &r), AT_EINVAL);
    assert_true(strlen(cx.err.msg) < sizeof cx.err.msg - 1);
    at_text_finish(&t);
    at_ctx_finish(&cx);
}

static void hostile_texts_are_shown_tame(void **state)
{
    struct at_ctx cx;
    struct at_recipe *r;
    (void)state;
    at_ctx_init(&cx);
    assert_int_equal(parse(&cx, LEAST STEPS "\"\\e[31m\\n\": 1\n", NULL, 0,
                           &r), AT_EINVAL);
    assert_true(has(&cx, "no key '?[31m?'"));
    assert_null(strchr(cx.err.msg, 27));
    assert_int_equal(parse(&cx, "", NULL, 0, &r), AT_EINVAL);
    assert_true(has(&cx, "data.path is missing"));
    assert_int_equal(parse(&cx, "- a\n", NULL, 0, &r), AT_EINVAL);
    assert_true(has(&cx, "a recipe is a map of keys"));
    assert_int_equal(parse(&cx, LEAST STEPS "---\nseed: 1\n", NULL, 0, &r),
                     AT_EINVAL);
    assert_true(has(&cx, "a second document"));
    at_ctx_finish(&cx);
}

/* ---- rules --------------------------------------------------------------- */

static void rules_between_keys(void **state)
{
    static const struct spelling tries[] = {
        { LEAST "train: {epochs: 2}", NULL },
        { LEAST, "neither train.steps nor train.epochs" },
        { LEAST "train: {steps: x}", "steps is 'x'" },
        { LEAST "model.family: llama\n" STEPS, "are both set" },
        { "data: {path: d}\nmodel: {family: llama, dim: 64, heads: 5}\n" STEPS,
          "model.dim is 64, no multiple of model.heads, 5" },
        { "data: {path: d}\nmodel: {family: llama, kv_heads: 4}\n" STEPS,
          "model.heads is 6, no multiple of model.kv_heads, 4" },
        { "data: {path: d}\nmodel: {family: llama, kv_heads: 3}\n" STEPS,
          NULL },
        { "data: {path: d}\nmodel: {family: gpt2, kv_heads: 3}\n" STEPS,
          "model.kv_heads has a use only with model.family: llama" },
        { "data: {path: d}\nmodel: {family: gpt2}\nbatch: {length: 257}\n"
          STEPS, "batch.length is 257, more than model.max_length, 256" },
        { LEAST STEPS "batch: {length: 512}", NULL },
        { LEAST STEPS "model.dim: 8", "model.dim has a use only with" },
        { LEAST STEPS "schedule: {warmup: 101}", "schedule.warmup + "
          "schedule.decay is 101, more than train.steps, 100" },
        { LEAST "train: {epochs: 1}\nschedule: {warmup: 101}", NULL },
        { LEAST STEPS "schedule: {name: wsd, warmup: 60, decay: 41}",
          "is 101, more than train.steps" },
        { LEAST STEPS "schedule: {name: wsd, warmup: 60, decay: 40}", NULL },
        { LEAST STEPS "schedule: {name: wsd}", "needs schedule.decay" },
        { LEAST STEPS "schedule: {decay: 4}", "only with schedule.name: wsd" },
        { LEAST STEPS "schedule: {name: constant, min_ratio: 0}",
          "only with schedule.name: linear|cosine|wsd" },
        { LEAST STEPS "optim: {momentum: 0.9}", "only with optim.name: sgd" },
        { LEAST STEPS "optim: {name: sgd, nesterov: true}",
          "optim.nesterov needs optim.momentum" },
        { LEAST STEPS "eval: {min_delta: 1, every: 1}",
          "only with eval.patience" },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(tries); i++) {
        struct at_ctx cx;
        struct at_recipe *r;
        int rc;
        at_ctx_init(&cx);
        rc = parse(&cx, tries[i].text, NULL, 0, &r);
        if ((rc == AT_OK) != (tries[i].says == NULL))
            print_error("%s: %s\n", tries[i].text, cx.err.msg);
        assert_int_equal(rc, tries[i].says ? AT_EINVAL : AT_OK);
        assert_true(!tries[i].says || has(&cx, tries[i].says));
        assert_true(!tries[i].says || lines(cx.err.msg) == 1);
        at_ctx_finish(&cx);
    }
}

/* ---- overrides ----------------------------------------------------------- */

static void note_line(void *self, enum at_level level, const char *line)
{
    (void)level;
    at_text_addf(self, "%s\n", line);
}

static void overrides_win_and_switch_off(void **state)
{
    static const char *const over[] = {
        "optim.lr=1e-3", "optim.lr=2e-3", "lora.rank=0", "train.epochs=2",
        "eval.samples=[a, 'b c']", "freeze=[qk]_proj: #1", "optim.name=sgd",
        "optim.momentum=0.5", "eval.every=5", "train_only=",
    };
    struct at_ctx cx;
    struct at_recipe *r;
    struct at_text log = { 0 };
    struct at_src at;
    (void)state;
    at_ctx_init(&cx);
    cx.log = note_line;
    cx.log_self = &log;
    OK(&cx, parse(&cx, LEAST STEPS
                  "lora: {rank: 8, alpha: 3}\ntrain_only: x\n"
                  "optim: {lr: 5, beta2: 0.95}\n", over, AT_COUNT(over), &r));
    assert_true(at_recipe_real(r, "optim.lr") == 2e-3);
    at = at_recipe_src(r, "optim.lr");
    assert_string_equal(at.file, "command line: optim.lr=2e-3");
    assert_int_equal(at.line, 0);
    assert_int_equal(at_recipe_int(r, "lora.rank"), 0);
    assert_true(at_recipe_real(r, "lora.alpha") == 16);
    assert_int_equal(at_recipe_int(r, "train.steps"), 0);
    assert_int_equal(at_recipe_int(r, "train.epochs"), 2);
    assert_int_equal(at_recipe_list(r, "eval.samples").n, 2);
    assert_string_equal(at_recipe_text(r, "freeze"), "[qk]_proj: #1");
    assert_string_equal(at_recipe_text(r, "train_only"), "");
    assert_true(at_recipe_real(r, "optim.beta2") == 0.999);
    assert_false(at_recipe_given(r, "optim.beta2"));
    assert_string_equal(log.s,
        "dir/a.yaml:3:16: train.steps is left out (command line: "
        "train.epochs=2)\n"
        "dir/a.yaml:4:24: lora.alpha is left out (command line: "
        "lora.rank=0)\n"
        "dir/a.yaml:6:23: optim.beta2 is left out (command line: "
        "optim.name=sgd)\n");
    at_text_finish(&log);
    at_ctx_finish(&cx);
}

static void bad_overrides_are_placed(void **state)
{
    static const char *const over[] = {
        "optim.lr", "=1", "optim.lrr=1", "optim.lr=fast", "lora.rank=[1]",
        "lora={rank: 0, alpha: 1}", "eval.samples=[a", "freeze=(",
        "seed=\t1", "threads=",
    };
    struct at_ctx cx;
    struct at_recipe *r;
    (void)state;
    at_ctx_init(&cx);
    assert_int_equal(parse(&cx, LEAST STEPS, over, AT_COUNT(over), &r),
                     AT_EINVAL);
    assert_true(has(&cx, "command line: optim.lr: write key=value"));
    assert_true(has(&cx, "command line: =1: write key=value"));
    assert_true(has(&cx, "command line: optim.lrr=1: there is no key "
                         "'optim.lrr': did you mean optim.lr?"));
    assert_true(has(&cx, "optim.lr=fast: optim.lr is 'fast'; it must"));
    assert_true(has(&cx, "lora.rank=[1]: lora.rank is a single value"));
    assert_true(has(&cx, "alpha: 1}: lora.alpha has a use only with"));
    assert_true(has(&cx, "eval.samples=[a: not YAML"));
    assert_true(has(&cx, "freeze=(: freeze is '(', which is no pattern"));
    assert_true(has(&cx, "command line: threads=: threads has no value"));
    assert_int_equal(parse(&cx, LEAST STEPS,
                           (const char *const[]){ "freeze=\xff" }, 1, &r),
                     AT_EINVAL);
    at_ctx_finish(&cx);
}

/* ---- printing ------------------------------------------------------------ */

static void same_values(struct at_ctx *cx, const struct at_recipe *a,
                        const struct at_recipe *b)
{
    struct at_hash ha, hb;
    for (size_t i = 0; i < at_n_keys; i++) {
        const char *va, *vb;
        OK(cx, at_recipe_value(cx, &cx->run, a, at_keys[i].name, &va));
        OK(cx, at_recipe_value(cx, &cx->run, b, at_keys[i].name, &vb));
        assert_string_equal(va, vb);
    }
    OK(cx, at_recipe_hash(cx, a, &ha));
    OK(cx, at_recipe_hash(cx, b, &hb));
    assert_true(at_hash_equal(ha, hb));
}

static void round_trip(struct at_ctx *cx, const struct at_recipe *r,
                       const char *name)
{
    for (int all = 0; all < 2; all++) {
        struct at_text t = { 0 }, again = { 0 };
        struct at_recipe *back;
        OK(cx, at_recipe_print(cx, r, all, &t));
        OK(cx, at_recipe_parse(cx, &cx->run, name, t.s, t.n, NULL, 0, &back));
        same_values(cx, r, back);
        OK(cx, at_recipe_print(cx, back, all, &again));
        if (all)                        /* a second printing adds nothing    */
            assert_true(strlen(again.s) <= strlen(t.s));
        at_text_finish(&t);
        at_text_finish(&again);
    }
}

static void printing_loads_again(void **state)
{
    static const char *const values[] = {
        "seed: 9007199254740991", "optim: {lr: 0.1}", "optim: {lr: 3e-5}",
        "optim: {lr: 0.30000000000000004}", "optim: {lr: 1e-300}",
        "freeze: \"a'b\\\"c\\\\\\n\\t\\x01\\u2028\\u0085\\uFEFF\"",
        "freeze: \"a \\u2028 b\"", "freeze: 'null'",
        "freeze: '~'", "freeze: '- a: #b'", "freeze: '-'",
        "freeze: caf\xc3\xa9", "freeze: \xf0\x9f\x98\x80", "freeze: '  a '",
        "freeze: |\n  two\n  lines\n", "freeze: '\\d+'", "run: 'true'",
        "eval: {every: 1, samples: [a, '', \"b\\nc\", '[', \"\\\"\"]}",
        "lora: {rank: 4, targets: '.*'}", "data.pack: false",
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(values); i++) {
        struct at_ctx cx;
        struct at_recipe *r;
        char text[512];
        at_ctx_init(&cx);
        snprintf(text, sizeof text, "%s\n" LEAST STEPS, values[i]);
        OK(&cx, parse(&cx, text, NULL, 0, &r));
        round_trip(&cx, r, "dir/a.yaml");
        at_ctx_finish(&cx);
    }
}

static void keys_and_defaults_are_listed(void **state)
{
    const char *text;
    struct at_ctx cx;
    size_t n = 0;
    (void)state;
    at_ctx_init(&cx);
    while (at_recipe_key(n)) {
        OK(&cx, at_recipe_default(&cx, &cx.run, at_recipe_key(n), &text));
        n++;
    }
    assert_int_equal(n, at_n_keys);
    OK(&cx, at_recipe_default(&cx, &cx.run, "optim.lr", &text));
    assert_string_equal(text, "0.0001");
    OK(&cx, at_recipe_default(&cx, &cx.run, "eval.samples", &text));
    assert_string_equal(text, "[]");
    OK(&cx, at_recipe_default(&cx, &cx.run, "freeze", &text));
    assert_string_equal(text, "''");
    at_ctx_finish(&cx);
}

static void hash_names_the_values(void **state)
{
    static const char *const over[] = { "seed=1" };
    struct at_ctx cx;
    struct at_recipe *a, *b, *c;
    struct at_hash ha, hb, hc;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, parse(&cx, LEAST STEPS, NULL, 0, &a));
    OK(&cx, parse(&cx, "# other words\nseed: 0\n" STEPS LEAST, NULL, 0, &b));
    OK(&cx, parse(&cx, LEAST STEPS, over, 1, &c));
    OK(&cx, at_recipe_hash(&cx, a, &ha));
    OK(&cx, at_recipe_hash(&cx, b, &hb));
    OK(&cx, at_recipe_hash(&cx, c, &hc));
    assert_true(at_hash_equal(ha, hb));
    assert_false(at_hash_equal(ha, hc));
    at_ctx_finish(&cx);
}

/* ---- what is committed --------------------------------------------------- */

static void ready_recipes_load(void **state)
{
    static const char *const name[] = { "pretrain", "full", "sft-lora", "dpo",
                                        "reward", "rloo" };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(name); i++) {
        struct at_ctx cx;
        struct at_recipe *r;
        char path[4096], run[64];
        at_ctx_init(&cx);
        snprintf(path, sizeof path, "%s/../recipes/%s.yaml", AT_TESTS, name[i]);
        snprintf(run, sizeof run, "runs/%s", name[i]);
        OK(&cx, at_recipe_load(&cx, &cx.run, path, NULL, 0, &r));
        assert_string_equal(at_recipe_text(r, "run"), run);
        round_trip(&cx, r, path);
        at_ctx_finish(&cx);
    }
}

static void docs_are_printed_from_the_table(void **state)
{
    struct at_ctx cx;
    struct at_text t = { 0 }, keys = { 0 };
    char *text;
    size_t n;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_recipe_docs(&cx, &t));
    if (getenv("ATTUNE_WRITE_DOCS"))
        OK(&cx, at_write_file(&cx, AT_TESTS "/../docs/recipes.md", t.s, t.n));
    OK(&cx, at_read_file(&cx, &cx.run, AT_TESTS "/../docs/recipes.md", 0, &text,
                         &n));
    if (strcmp(text, t.s) != 0)
        print_error("docs/recipes.md is not what the table prints: run this "
                    "test with ATTUNE_WRITE_DOCS=1\n");
    assert_string_equal(text, t.s);
    OK(&cx, at_recipe_keys(&cx, &keys));
    for (size_t i = 0; i < at_n_keys; i++)
        assert_non_null(strstr(keys.s, at_keys[i].name));
    assert_int_equal(lines(keys.s), at_n_keys + 1);
    at_text_finish(&t);
    at_text_finish(&keys);
    at_ctx_finish(&cx);
}

static void files_that_are_none(void **state)
{
    struct at_ctx cx;
    struct at_recipe *r = NULL;
    (void)state;
    at_ctx_init(&cx);
    assert_int_equal(at_recipe_load(&cx, &cx.run, "no/such.yaml", NULL, 0, &r),
                     AT_ENOENT);
    assert_true(has(&cx, "while reading the recipe"));
    assert_int_equal(at_recipe_load(&cx, &cx.run, "/", NULL, 0, &r),
                     AT_EINVAL);
    assert_null(r);
    at_ctx_finish(&cx);
}

/* The arena's block has room for ever more small pieces and cannot be followed
 * by another, until there is enough: every allocation fails once.            */
static void no_memory_is_an_error(void **state)
{
    static const char *const over[] = { "lora.rank=2", "eval.samples=[x, y]" };
    int rc = AT_ENOMEM;
    size_t room = 0;
    (void)state;
    for (; rc != AT_OK; room += 64) {
        struct at_ctx cx;
        struct at_recipe *r = NULL;
        at_ctx_init(&cx);
        assert_true(room < 65536);
        assert_non_null(at_alloc(&cx, &cx.run, 65536 - room));
        cx.fail_after = 1;
        rc = parse(&cx, LEAST STEPS "freeze: aaaaaaaaaa\n", over, 1, &r);
        assert_true(rc == AT_OK || rc == AT_ENOMEM);
        assert_true((r != NULL) == (rc == AT_OK));
        assert_true(rc == AT_OK || cx.err.code == AT_ENOMEM);
        at_ctx_finish(&cx);
        if (rc == AT_OK)
            break;
    }
    for (long n = 1; n < 8; n++) {      /* the growing arrays */
        struct at_ctx cx;
        struct at_recipe *r;
        at_ctx_init(&cx);
        cx.fail_after = n;
        rc = parse(&cx, LEAST STEPS "eval: {every: 1}\n", over,
                   AT_COUNT(over), &r);
        assert_true(rc == AT_OK || rc == AT_ENOMEM);
        at_ctx_finish(&cx);
    }
    assert_true(room > 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_sound),
        cmocka_unit_test(values_and_their_places),
        cmocka_unit_test(spellings_are_taken_or_refused),
        cmocka_unit_test(every_range_is_kept),
        cmocka_unit_test(all_faults_at_once),
        cmocka_unit_test(many_faults_fit),
        cmocka_unit_test(hostile_texts_are_shown_tame),
        cmocka_unit_test(rules_between_keys),
        cmocka_unit_test(overrides_win_and_switch_off),
        cmocka_unit_test(bad_overrides_are_placed),
        cmocka_unit_test(printing_loads_again),
        cmocka_unit_test(keys_and_defaults_are_listed),
        cmocka_unit_test(hash_names_the_values),
        cmocka_unit_test(ready_recipes_load),
        cmocka_unit_test(docs_are_printed_from_the_table),
        cmocka_unit_test(files_that_are_none),
        cmocka_unit_test(no_memory_is_an_error),
    };
    return cmocka_run_group_tests_name("recipes", tests, NULL, NULL);
}
