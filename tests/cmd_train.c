/* attune train as a user meets it: signals, and what its errors say.  The
 * program is the first argument.                                             */
#include "tests/test.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char *program, dir[] = "/tmp/attune-cmd-train-XXXXXX";
static char err[8192];

static void slurp(const char *path, char *buf, size_t size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    buf[fread(buf, 1, size - 1, f)] = 0;
    fclose(f);
}

/* Its status; what it said is in err.                                        */
static int attune(const char *args)
{
    char command[2048];
    snprintf(command, sizeof command, "%s %s >out 2>err", program, args);
    int status = system(command);
    slurp("err", err, sizeof err);
    return WEXITSTATUS(status);
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int start(void **state)
{
    FILE *f;
    (void)state;
    if (!mkdtemp(dir) || chdir(dir) < 0 || !(f = fopen("t.jsonl", "w")))
        return -1;
    for (int i = 0; i < 300; i++)
        fprintf(f, "{\"prompt\": \"the %d\", \"completion\": \" is %d\"}\n", i,
                i * 7 % 13);
    fclose(f);
    put("a.yaml", "seed: 1\nthreads: 1\n"
        "model: {family: llama, dim: 32, layers: 3, heads: 4, kv_heads: 2,\n"
        "        max_length: 32, tokenizer: tok.h5}\n"
        "data: {path: d.h5}\nbatch: {rows: 4, length: 32}\n"
        "objective: sft\ntrain: {steps: 4}\nrun: base\n");
    put("b.yaml", "threads: 1\nmodel: {path: base}\n"
        "data: {path: d.h5}\nbatch: {rows: 4, length: 32}\n"
        "objective: sft\ntrain: {steps: 4}\nrun: out-run\n");
    if (attune("tokenizer t.jsonl tok.h5 --vocab 280") ||
        attune("data t.jsonl d.h5 --tokenizer tok.h5 --validation 0.1") ||
        attune("train a.yaml")) {
        print_error("%s\n", err);
        return -1;
    }
    return 0;
}

static int finish(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command);
}

/* ---- signals --------------------------------------------------------------- */

/* A run without an end, with a step behind it; ignored: SIGHUP is.           */
static pid_t begin(const char *run, bool ignored)
{
    char over[64], metrics[64];
    struct stat st = { 0 };
    pid_t pid;
    snprintf(over, sizeof over, "run=%s", run);
    snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", run);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int f = open("err", O_WRONLY | O_CREAT | O_TRUNC, 0600);
        signal(SIGHUP, ignored ? SIG_IGN : SIG_DFL);
        dup2(f, 1);
        dup2(f, 2);
        execl(program, program, "train", "a.yaml", "train.steps=100000000",
              "checkpoint.every=0", over, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 3000 && st.st_size == 0; i++) {
        usleep(10000);
        if (stat(metrics, &st) < 0)
            st.st_size = 0;
    }
    assert_true(st.st_size > 0);
    return pid;
}

static void ends_with_a_checkpoint(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    slurp("err", err, sizeof err);
    if (!strstr(err, "a checkpoint is written.  Go on with: attune resume"))
        fail_msg("%s", err);
}

static void every_request_to_stop_saves(void **state)
{
    static const int sig[] = { SIGINT, SIGTERM, SIGHUP };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(sig); i++) {
        char name[32];
        pid_t pid;
        snprintf(name, sizeof name, "asked%zu", i);
        pid = begin(name, false);
        kill(pid, sig[i]);
        ends_with_a_checkpoint(pid);
    }
}

/* A shell tells it, and so does the system.                                  */
static void a_terminal_goes_twice(void **state)
{
    pid_t pid = begin("twice", false);
    (void)state;
    for (int i = 0; i < 50; i++) {
        kill(pid, SIGHUP);
        usleep(100);
    }
    ends_with_a_checkpoint(pid);
}

static void nohup_is_heard(void **state)
{
    pid_t pid = begin("nohup", true);
    int status;
    (void)state;
    kill(pid, SIGHUP);
    usleep(300000);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    kill(pid, SIGTERM);
    ends_with_a_checkpoint(pid);
}

/* ---- what is said ---------------------------------------------------------- */

static void fails(const char *args, const char *says)
{
    if (attune(args) == 0 || !strstr(err, says))
        fail_msg("'%s' is not what '%s' says: %s", says, args, err);
}

/* The place is that of the key which the message is about.                   */
static void errors_are_at_their_keys(void **state)
{
    (void)state;
    put("r.yaml", "threads: 1\nmodel: {path: base}\ndata: {path: d.h5}\n"
        "batch: {rows: 4, length: 32}\nobjective: sft\n"
        "router: {layers: 5}\ntrain: {steps: 4}\nrun: no\n");
    put("f.yaml", "threads: 1\nmodel: {path: base}\ndata: {path: d.h5}\n"
        "batch: {rows: 4, length: 32}\nobjective: sft\n"
        "train: {steps: 4}\nrun: no\nfreeze: .\n");
    fails("train r.yaml", "r.yaml:6:18: router.layers is 5");
    fails("train r.yaml router.at=a", "command line: router.at=a: router.at is");
    fails("train r.yaml router.at='2 2'", "router.at names 2 twice");
    fails("train r.yaml router.at=7", "command line: router.at=7: router.at has "
          "layer 7");
    fails("train r.yaml router.capacity=1.5 router.gradient_scale=1",
          "command line: router.capacity=1.5: router.capacity is");
    fails("train r.yaml router.layers=1 router.capacity='1 1' "
          "router.gradient_scale=1", "command line: router.capacity=1 1: "
          "router.capacity has 2");
    fails("train f.yaml", "f.yaml:8:9: nothing is trained: freeze leaves no");
    fails("train f.yaml freeze=zzz", "command line: freeze=zzz: freeze fits no "
          "parameter");
    fails("train b.yaml train_only=zzz", "command line: train_only=zzz: "
          "train_only fits no parameter");
    fails("train b.yaml lora.rank=2 train_only=zzz", "train_only fits no "
          "parameter");
    assert_int_not_equal(access("no", F_OK), 0);
}

static void what_is_no_recipe_or_model_is_named(void **state)
{
    (void)state;
    assert_int_equal(mkdir("hf", 0700), 0);
    put("hf/config.json", "{}");
    fails("train d.h5", "d.h5: is no recipe but an HDF5 file");
    fails("train b.yaml model.path=hf", "attune import hf hf OUT.h5");
    fails("generate --model hf", "attune import hf hf OUT.h5");
    put("hf/adapter_config.json", "{}");
    fails("train b.yaml model.path=hf", "attune import peft hf OUT.h5 --base");
}

/* What a routed model cannot do is said at once.                             */
static void routers_say_where_they_are_of_no_use(void **state)
{
    (void)state;
    if (attune("train b.yaml router.layers=2 run=routed") != 0)
        fail_msg("%s", err);
    fails("export routed out-hf", "kind 'router' cannot be merged");
    fails("export routed out.gguf", "kind 'router' cannot be merged");
    fails("export routed out-hf --format peft", "kind 'router' cannot be merged");
    if (attune("drop base d1.h5 --attn 1") != 0)
        fail_msg("%s", err);
    assert_int_equal(attune("train b.yaml model.path=d1.h5 router.layers=2 "
                            "run=bare"), 0);
    if (!strstr(err, "warning: 1 of the 2 chosen layers have no attention "
                     "(layer 1 is the first)"))
        fail_msg("%s", err);
    fails("train b.yaml model.path=d1.h5 router.layers=1 run=no",
          "layer 1 has no attention, where its router would sit");
    fails("train b.yaml model.path=d1.h5 router.layers=2 router.target=block "
          "run=no", "layer 1 has no attention, where its router would sit");
}

static void users_begin_without_a_word(void **state)
{
    (void)state;
    if (attune("train b.yaml lora.rank=2 'users=[ann, bob lora.rank=4]' "
               "run=many") != 0)
        fail_msg("%s", err);
    if (strstr(err, "left out"))
        fail_msg("%s", err);
    fails("train b.yaml lora.rank=2 'users=[ann batch.length=31, bob "
          "data.path=none.h5]' run=many2", "none.h5");
}

/* Nothing is printed that is not measured.                                   */
static void progress_shows_what_there_is(void **state)
{
    FILE *f = fopen("p.jsonl", "w");
    char out[8192];
    (void)state;
    assert_non_null(f);
    for (int i = 0; i < 100; i++)
        fprintf(f, "{\"prompt\": \"the %d\", \"chosen\": \" is %d\", "
                "\"rejected\": \" no\", \"score\": %d}\n", i, i * 7 % 13,
                i % 3);
    fclose(f);
    assert_int_equal(attune("data p.jsonl p.h5 --tokenizer tok.h5 --score "
                            "score"), 0);
    if (attune("train b.yaml data.path=p.h5 objective=regression run=judge") != 0)
        fail_msg("%s", err);
    slurp("out", out, sizeof out);
    assert_non_null(strstr(out, "step 4/4 | loss "));
    if (strstr(out, "nan"))
        fail_msg("%s", out);
    fails("train b.yaml data.path=p.h5 objective=dpo batch.length=12 lora.rank=2 "
          "run=no", "Make the dataset with --max-length 7");
    assert_int_equal(attune("data p.jsonl p7.h5 --tokenizer tok.h5 --max-length "
                            "7 --max-cut 1"), 0);
    if (attune("train b.yaml data.path=p7.h5 objective=dpo batch.length=12 "
               "lora.rank=2 run=fits") != 0)
        fail_msg("%s", err);
}

/* ---- files ------------------------------------------------------------------- */

/* The same bytes, or it was written over.                                    */
static void stays(const char *args, const char *path, const char *says)
{
    char was[1 << 16] = { 0 }, is[1 << 16] = { 0 };
    slurp(path, was, sizeof was);
    if (attune(args) == 0 || !strstr(err, says))
        fail_msg("attune %s: %s", args, err);
    slurp(path, is, sizeof is);
    assert_memory_equal(was, is, sizeof was);
}

static void nothing_is_written_over(void **state)
{
    static const char *const read = "would be written over";
    static const char *const other = "another kind of file";
    (void)state;
    assert_int_equal(attune("merge base m.h5"), 0);
    assert_int_equal(attune("merge base n.h5"), 0);
    put("notes.txt", "mine\n");
    stays("data t.jsonl t.jsonl --tokenizer tok.h5", "t.jsonl", other);
    stays("data t.jsonl m.h5 --tokenizer m.h5", "m.h5", read);
    stays("merge m.h5 m.h5", "m.h5", read);
    stays("drop m.h5 m.h5 --attn 1", "m.h5", read);
    stays("soup m.h5 n.h5 n.h5 --weights 0.5,0.5", "n.h5", read);
    stays("rollout m.h5 d.h5 d.h5 --value length", "d.h5", read);
    stays("tokenizer t.jsonl notes.txt --vocab 280", "notes.txt", other);
    stays("report base --out notes.txt", "notes.txt", other);
    stays("export m.h5 notes.txt --format gguf", "notes.txt", other);
    assert_int_equal(attune("merge base m.h5"), 0); /* its own kind may be    */
}

/* A dry run tells and shows, and leaves nothing; lengths are the model's;
 * separators may be spelled.                                                 */
static void datasets_are_as_asked(void **state)
{
    char said[8192];
    (void)state;
    assert_int_equal(attune("merge base m.h5"), 0);
    assert_int_equal(attune("data t.jsonl dry.h5 --tokenizer m.h5 --dry-run "
                            "--limit 7"), 0);
    slurp("out", said, sizeof said);
    assert_non_null(strstr(said, "nothing was written"));
    assert_non_null(strstr(said, "7 training"));
    assert_int_equal(access("dry.h5", F_OK), -1);
    put("long.txt", "one two three four five six seven eight nine ten eleven\n"
                    "twelve thirteen fourteen fifteen sixteen seventeen\n");
    assert_int_equal(attune("data long.txt x.h5 --tokenizer m.h5 "
                            "--validation 0"), 0);
    assert_int_equal(attune("inspect x.h5"), 0);
    slurp("out", said, sizeof said);
    assert_non_null(strstr(said, "the longest has 32"));    /* max_length     */
    assert_int_equal(attune("data long.txt x.h5 --tokenizer tok.h5 "
                            "--validation 0 --separator '\\n'"), 0);
    slurp("out", said, sizeof said);
    assert_non_null(strstr(said, "2 training"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_to_stop_saves),
        cmocka_unit_test(a_terminal_goes_twice),
        cmocka_unit_test(nohup_is_heard),
        cmocka_unit_test(errors_are_at_their_keys),
        cmocka_unit_test(what_is_no_recipe_or_model_is_named),
        cmocka_unit_test(routers_say_where_they_are_of_no_use),
        cmocka_unit_test(users_begin_without_a_word),
        cmocka_unit_test(progress_shows_what_there_is),
        cmocka_unit_test(nothing_is_written_over),
        cmocka_unit_test(datasets_are_as_asked),
    };
    if (argc < 2 || !(program = realpath(argv[1], NULL)))
        return 1;
    cmocka_set_test_filter(getenv("AT_ONLY"));
    return cmocka_run_group_tests_name("cmd_train", tests, start, finish);
}
