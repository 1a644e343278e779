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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_to_stop_saves),
        cmocka_unit_test(a_terminal_goes_twice),
        cmocka_unit_test(nohup_is_heard),
    };
    if (argc < 2 || !(program = realpath(argv[1], NULL)))
        return 1;
    cmocka_set_test_filter(getenv("AT_ONLY"));
    return cmocka_run_group_tests_name("cmd_train", tests, start, finish);
}
