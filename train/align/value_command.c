/* Values that a program gives: JSON lines in, a number a line out. */
#include "train/align/value.h"

#include <errno.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_command(struct at_ctx *cx, struct at_arena *a,
                        const char *command, void **impl)
{
    *impl = at_strdup(cx, a, command);
    return *impl ? AT_OK : AT_ENOMEM;
}

static void put_json(struct at_text *t, const char *key, const char *s, size_t n)
{
    at_text_addf(t, "\"%s\":", key);
    at_text_json(t, s, n);
}

/* A line of JSON for each text, in a file without a name.                    */
static int write_texts(struct at_ctx *cx, const struct at_said *said, size_t n,
                       int *fd)
{
    char path[] = "/tmp/attune-XXXXXX";
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; i < n; i++) {
        at_text_addf(&t, "{");
        put_json(&t, "prompt", said[i].prompt, said[i].n_prompt);
        at_text_addf(&t, ",");
        put_json(&t, "text", said[i].text, said[i].n_text);
        at_text_addf(&t, "}\n");
    }
    rc = at_text_ok(cx, &t);
    *fd = rc == AT_OK ? mkstemp(path) : -1;
    if (rc == AT_OK && *fd < 0)
        rc = at_fail_errno(cx, errno, "/tmp: no file can be made there");
    if (*fd >= 0)
        unlink(path);
    for (size_t at = 0; rc == AT_OK && at < t.n;) {
        ssize_t put = write(*fd, t.s + at, t.n - at);
        if (put < 0 && errno != EINTR)
            rc = at_fail_errno(cx, errno, "writing texts for a command");
        at += put > 0 ? (size_t)put : 0;
    }
    if (rc == AT_OK && lseek(*fd, 0, SEEK_SET) < 0)
        rc = at_fail_errno(cx, errno, "reading texts back");
    at_text_finish(&t);
    return rc;
}

static int read_scores(struct at_ctx *cx, const char *command, FILE *f,
                       size_t n, double *score)
{
    char line[256], *end;
    size_t got = 0;
    int rc = AT_OK;
    while (fgets(line, sizeof line, f)) {   /* to its end: no broken pipe     */
        double x = strtod(line, &end);
        if (rc == AT_OK && (end == line || end[strspn(end, " \t\r\n")]))
            rc = at_fail(cx, AT_EFORMAT, "the command '%s' wrote '%.60s': a "
                         "number a line is wanted", command, line);
        if (got < n)
            score[got] = x;
        got++;
    }
    if (rc < 0)
        return rc;
    if (got != n)
        return at_fail(cx, AT_EFORMAT, "the command '%s' wrote %zu numbers for "
                       "%zu texts", command, got, n);
    return AT_OK;
}

static int spawn(struct at_ctx *cx, const char *command, int in, FILE **out,
                 pid_t *pid)
{
    extern char **environ;
    char shell[] = "sh", flag[] = "-c";
    char *argv[] = { shell, flag, (char *)(uintptr_t)command, NULL };
    posix_spawn_file_actions_t how;
    int tube[2], err;
    if (pipe(tube) < 0)
        return at_fail_errno(cx, errno, "no pipe can be made");
    posix_spawn_file_actions_init(&how);
    posix_spawn_file_actions_adddup2(&how, in, 0);
    posix_spawn_file_actions_adddup2(&how, tube[1], 1);
    posix_spawn_file_actions_addclose(&how, tube[0]);
    err = posix_spawnp(pid, "sh", &how, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&how);
    close(tube[1]);
    *out = err ? NULL : fdopen(tube[0], "r");
    if (*out)
        return AT_OK;
    close(tube[0]);
    return at_fail_errno(cx, err ? err : errno, "the command '%s' cannot be "
                         "started", command);
}

static int by_command(struct at_ctx *cx, void *impl,
                      const struct at_said *said, size_t n, double *score)
{
    const char *command = impl;
    FILE *out = NULL;
    pid_t pid;
    int fd, status = 0, rc = write_texts(cx, said, n, &fd);
    if (rc == AT_OK)
        rc = spawn(cx, command, fd, &out, &pid);
    if (fd >= 0)
        close(fd);
    if (rc < 0)
        return rc;
    rc = read_scores(cx, command, out, n, score);
    fclose(out);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (status != 0)
        rc = at_fail(cx, AT_EINVAL, "the command '%s' failed (%s %d)",
                     command, WIFEXITED(status) ? "exit code" : "signal",
                     WIFEXITED(status) ? WEXITSTATUS(status)
                                       : WTERMSIG(status));
    /* Ctrl-C goes to the command too, and the reading of its answer ends.    */
    if (rc < 0 && cx->stop && *cx->stop)
        rc = at_fail(cx, AT_EINTR, "interrupted");
    return rc;
}

const struct at_value_kind at_value_command = {
    "command", "COMMAND", "the command's",
    "a shell command that reads JSON lines {prompt, text} and writes a number "
    "a line", open_command, NULL, by_command
};
