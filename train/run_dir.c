/* A run's directory: new or not, whose, and whole or not. */
#include "train/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { PATH = 4096, HOST = 64, RANGES = 6 };

static const char lock_name[] = "run.lock";
static const char recipe_name[] = "recipe.yaml";

/* ---- new or not ---------------------------------------------------------- */

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static bool is_empty_dir(const char *dir, const char *name)
{
    char path[PATH];
    struct dirent *e;
    bool empty;
    DIR *d;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    d = opendir(path);
    empty = d != NULL;
    while (empty && (e = readdir(d)))
        empty = is_dot(e->d_name);
    if (d)
        closedir(d);
    return empty;
}

/* What is there before the recipe is; recipes are written last.              */
static bool is_of_a_beginning(const char *dir, const char *name)
{
    size_t n = strlen(recipe_name);
    if (strcmp(name, "checkpoints") == 0 || strcmp(name, "users") == 0)
        return is_empty_dir(dir, name);
    if (strncmp(name, "users.txt", 9) == 0)
        return is_empty_dir(dir, "users");
    return strcmp(name, lock_name) == 0 ||
           (strncmp(name, recipe_name, n) == 0 &&
            strncmp(name + n, ".tmp.", 5) == 0);
}

int at_run_dir_check_new(struct at_ctx *cx, const char *dir)
{
    const struct dirent *e;
    int rc = AT_OK;
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT
            ? AT_OK : at_fail_errno(cx, errno, "%s: cannot hold a run", dir);
    while (rc == AT_OK && (e = readdir(d))) {
        if (strcmp(e->d_name, recipe_name) == 0)
            rc = at_fail(cx, AT_EINVAL, "%s holds a run already: go on with "
                         "'attune resume %s', or choose another directory with "
                         "run=DIR", dir, dir);
    }
    rewinddir(d);
    while (rc == AT_OK && (e = readdir(d))) {
        if (!is_dot(e->d_name) && !is_of_a_beginning(dir, e->d_name))
            rc = at_fail(cx, AT_EINVAL, "%s exists and is not a run (it has no "
                         "%s, but '%s'): choose another directory with "
                         "run=DIR", dir, recipe_name, e->d_name);
    }
    closedir(d);
    return rc;
}

static int make(struct at_ctx *cx, const char *dir, const char *part)
{
    char path[PATH];
    size_t n = strlen(dir);
    int rc = AT_OK;
    if (n + 64 > sizeof path)
        return at_fail(cx, AT_EINVAL, "%s: the path is too long", dir);
    for (size_t i = 1; i <= n && rc == AT_OK; i++)
        if (dir[i] == '/' || dir[i] == '\0') {
            memcpy(path, dir, i);
            path[i] = '\0';
            rc = at_mkdir(cx, path);
        }
    snprintf(path, sizeof path, "%s/%s", dir, part);
    return rc == AT_OK ? at_mkdir(cx, path) : rc;
}

/* ---- whose --------------------------------------------------------------- */

struct at_run_lock { int fd; };

/* Who holds the lock wrote so into it; that may be just about to happen.     */
static int refuse(struct at_ctx *cx, const char *dir, int fd)
{
    char text[HOST + 32] = "", host[HOST] = "";
    long pid = 0;
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n > 0 && sscanf(text, "%ld %63[A-Za-z0-9._-]", &pid, host) == 2)
        return at_fail(cx, AT_EINVAL, "%s is being trained by process %ld on "
                       "%s: wait for it or stop it (kill %ld)", dir, pid, host,
                       pid);
    return at_fail(cx, AT_EINVAL, "%s is being trained by another process: "
                   "wait for it or stop it", dir);
}

static void sign(int fd)
{
    char text[HOST + 32], host[HOST] = "";
    int n;
    gethostname(host, sizeof host - 1);
    n = snprintf(text, sizeof text, "%ld %s\n", (long)getpid(), host);
    /* Only for the other's message: who cannot write goes on without.        */
    if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) < n)
        return;
}

/* The kernel lets go of a flock when its process ends, so that none is ever
 * stale, which a file with a process id in it could be.  Over NFS, Linux makes
 * it a lock of the server's: machines see each other's, unless it is mounted
 * with local_lock or nolock; then only processes of one machine do.  A server
 * lets go of a machine that crashed only when it is back, or its lease over.  */
static int lock_file(struct at_ctx *cx, const char *dir, int fd)
{
    int rc;
    do
        rc = flock(fd, LOCK_EX | LOCK_NB);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno == EWOULDBLOCK)
        return refuse(cx, dir, fd);
    if (rc < 0)
        at_log(cx, AT_LOG_WARN, "%s: cannot be locked (error %d of its file "
               "system): see to it that only one process trains there", dir,
               errno);
    else
        sign(fd);
    return AT_OK;
}

int at_run_dir_take(struct at_ctx *cx, const char *dir, const char *part,
                    struct at_run_lock **made)
{
    struct at_run_lock *lock = at_alloc(cx, &cx->run, sizeof *lock);
    char path[PATH];
    int rc = make(cx, dir, part);
    if (rc < 0 || !lock)
        return rc < 0 ? rc : AT_ENOMEM;
    snprintf(path, sizeof path, "%s/%s", dir, lock_name);
    /* No link is followed: what is behind it would be written to.            */
    lock->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (lock->fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    rc = lock_file(cx, dir, lock->fd);
    if (rc < 0)
        close(lock->fd);
    else
        *made = lock;
    return rc;
}

/* The file stays: whoever waits for a removed one would hold a lock of his own. */
void at_run_dir_drop(struct at_run_lock *lock)
{
    if (lock)
        close(lock->fd);
}

/* ---- whole or not -------------------------------------------------------- */

/* Steps that were logged, as ranges of those that lack.                      */
struct gaps {
    struct at_text text;
    uint64_t every, next;       /* the step whose row is to come              */
    size_t n;
};

static void note_row(struct gaps *g, uint64_t step)
{
    uint64_t last = (step - 1) / g->every * g->every;   /* before it          */
    if (g->next <= last) {
        g->n++;
        if (g->n <= RANGES)
            at_text_addf(&g->text, "%s%llu", g->n > 1 ? ", " : "",
                         (unsigned long long)g->next);
        if (g->n <= RANGES && g->next < last)
            at_text_addf(&g->text, "-%llu", (unsigned long long)last);
    }
    if (step >= g->next)
        g->next = step / g->every * g->every + g->every;
}

static int warn_of_gaps(struct at_job *j, const struct at_metrics_row *row,
                        size_t n)
{
    struct gaps g = { .every = (uint64_t)at_recipe_int(j->r, "log.every") };
    int rc;
    g.next = g.every;
    for (size_t i = 0; i < n; i++)
        if (!row[i].eval && row[i].step > 0 && row[i].step <= j->s.step)
            note_row(&g, row[i].step);
    note_row(&g, j->s.step + 1);
    rc = at_text_ok(j->cx, &g.text);
    if (rc == AT_OK && g.n)
        at_log(j->cx, AT_LOG_WARN, "%s/metrics.jsonl lacks the rows of steps "
               "%s%s: the report will lack them too", j->dir, g.text.s,
               g.n > RANGES ? ", and more" : "");
    at_text_finish(&g.text);
    return rc;
}

int at_run_dir_compare(struct at_job *j, bool found)
{
    struct at_ctx *cx = j->cx;
    struct at_metrics_row *row = NULL;
    uint64_t last = 0, lost;
    size_t n = 0;
    bool torn;
    int rc = at_metrics_read(cx, &cx->scratch, j->dir, &row, &n, &torn);
    if (rc == AT_ENOENT)
        return AT_OK;           /* at_metrics_open says so                    */
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        if (!row[i].eval && row[i].step > last)
            last = row[i].step;
    lost = last > j->s.step ? last - j->s.step : 0;
    if (lost && !found)
        at_log(cx, AT_LOG_WARN, "%s has no checkpoint: steps 1 to %llu, which "
               "its metrics tell of, are lost; training begins anew", j->dir,
               (unsigned long long)lost);
    else if (lost)
        at_job_say(j, "steps after the checkpoint of step %llu that are lost, and "
                   "done again: %llu", (unsigned long long)j->s.step,
                   (unsigned long long)lost);
    if (rc == AT_OK && found)
        rc = warn_of_gaps(j, row, n);
    at_arena_reset(&cx->scratch);
    return rc;
}
