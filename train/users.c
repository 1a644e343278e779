/* Users taking turns. */
#include "train/users.h"

#include "train/joint.h"
#include "train/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 4096, WORDS = 64, NAME = 64, TEXT = 1 << 22 };

struct user {
    const char *name, *line;
    struct at_job *j;
    struct at_loop loop;
    struct at_run_lock *lock;   /* of its directory                           */
    bool seen;                  /* in the list read last                      */
    bool before;                /* its directory was there                    */
    bool started;
    bool over;                  /* finished, or failed                        */
    size_t pass;                /* from 1: its pass; 0: it takes turns        */
};

struct users {
    struct at_ctx *cx;
    struct at_recipe *r;
    const char *dir;
    struct user *u;             /* [MOST]; the first lends its memory, and stays
                                 * open until the end                         */
    size_t n;
    struct timespec read;       /* when the list was written                  */
    ino_t ino;
    at_progress_fn *progress;
    void *self;
    int rc;                     /* the first failure of a user                */
    struct at_err why;
    struct at_joint *joint[MOST];       /* passes of those who share one      */
    size_t n_joint, together;
    int result[MOST];           /* of a pass                                  */
    bool changed;               /* who shares must be settled anew            */
};

/* ---- the list ------------------------------------------------------------------ */

static bool is_name(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
              (s[i] >= '0' && s[i] <= '9') || s[i] == '-' || s[i] == '_' ||
              (s[i] == '.' && i > 0)))
            return false;
    return n > 0 && n < NAME;
}

static int check_line(struct at_ctx *cx, const char *line, size_t *name)
{
    static const char *const own[] = { "model.", "run=", "users=", "threads=",
        "backend=", "device=", "offload." };
    *name = strcspn(line, " ");
    if (!is_name(line, *name) || strchr(line, '\n'))
        return at_fail(cx, AT_EINVAL, "user '%s': a user is a name (letters, "
                       "digits, - and _) and then key=value, such as 'ann "
                       "data.path=ann.h5 lora.rank=4'", line);
    for (const char *at = line + *name; *at; at += strcspn(at, " ")) {
        at += strspn(at, " ");
        for (size_t i = 0; i < AT_COUNT(own); i++)
            if (strncmp(at, own[i], strlen(own[i])) == 0)
                return at_fail(cx, AT_EINVAL, "user '%s': '%.*s' is the run's "
                               "to set, not a user's", line,
                               (int)strcspn(at, " "), at);
    }
    return AT_OK;
}

static const char *list_path(struct at_ctx *cx, const char *dir)
{
    const char *path = at_sprintf(cx, &cx->run, "%s/users.txt", dir);
    return path ? path : "";
}

static int write_list(struct at_ctx *cx, const char *dir,
                      const char *const *line, size_t n)
{
    struct at_text t = { 0 };
    int rc;
    for (size_t i = 0; i < n; i++)
        at_text_addf(&t, "%s\n", line[i]);
    rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_write_file(cx, list_path(cx, dir), t.s ? t.s : "", t.n);
    at_text_finish(&t);
    return rc;
}

/* line [MOST + 1], in cx->run.                                               */
static int read_list(struct at_ctx *cx, const char *dir, const char **line,
                     size_t *n)
{
    char *text, *rest, *at;
    size_t size, name;
    int rc = at_read_file(cx, &cx->run, list_path(cx, dir), TEXT, &text, &size);
    *n = 0;
    if (rc < 0)
        return rc;
    for (at = strtok_r(text, "\n", &rest); at && rc == AT_OK;
         at = strtok_r(NULL, "\n", &rest)) {
        rc = check_line(cx, at, &name);
        for (size_t i = 0; i < *n && rc == AT_OK; i++)
            if (strncmp(line[i], at, name) == 0 &&
                (line[i][name] == ' ' || !line[i][name]))
                rc = at_fail(cx, AT_EINVAL, "there are two users '%.*s'",
                             (int)name, at);
        if (rc == AT_OK && *n == MOST)
            rc = at_fail(cx, AT_EINVAL, "a run has at most %d users", MOST);
        if (rc == AT_OK)
            line[(*n)++] = at;
    }
    return rc;
}

/* ---- a user's job ---------------------------------------------------------------- */

/* The run's recipe, as it stands in the run's directory, with the user's
 * settings.  What the run has for all its users falls away without a word.   */
static int recipe_of(struct users *all, const char *line,
                     struct at_recipe **r)
{
    struct at_ctx *cx = all->cx;
    struct at_text t = { 0 };
    char *words = at_strdup(cx, &cx->run, line), *rest, *word;
    const char *file = at_sprintf(cx, &cx->run, "%s/recipe.yaml", all->dir);
    const char *over[WORDS], *name;
    at_log_fn *log = cx->log;
    size_t n = 2;
    int rc;
    if (!words || !file)
        return AT_ENOMEM;
    name = strtok_r(words, " ", &rest);
    over[0] = "users=[]";
    over[1] = at_sprintf(cx, &cx->run, "run=%s/users/%s", all->dir, name);
    while ((word = strtok_r(NULL, " ", &rest)) && n < WORDS)
        over[n++] = word;
    rc = at_recipe_print(cx, all->r, true, &t);
    if (rc == AT_OK)
        rc = at_text_ok(cx, &t);
    cx->log = NULL;
    if (rc == AT_OK)
        rc = at_recipe_parse(cx, &cx->run, file, t.s, t.n, over, n, r);
    cx->log = log;
    at_text_finish(&t);
    return rc;
}

static bool there(struct at_ctx *cx, const char *dir)
{
    const char *path = at_sprintf(cx, &cx->scratch, "%s/recipe.yaml", dir);
    return path && access(path, F_OK) == 0;
}

static int open_user(struct users *all, struct user *u)
{
    struct at_ctx *cx = all->cx;
    struct at_recipe *r;
    const char *dir = at_sprintf(cx, &cx->run, "%s/users/%s", all->dir, u->name);
    int rc = dir ? AT_OK : AT_ENOMEM;
    u->before = rc == AT_OK && there(cx, dir);
    if (u->before)
        rc = at_run_dir_take(cx, dir, "checkpoints", &u->lock);
    if (rc == AT_OK)
        rc = u->before ? at_loop_recipe(cx, dir, &r)
                       : recipe_of(all, u->line, &r);
    if (rc == AT_OK)
        rc = at_job_open_beside(cx, r, u == all->u ? NULL : all->u->j, &u->j);
    if (rc < 0)
        return rc;
    u->j->user = u->name;
    if (!u->j->adapters.n)
        return at_fail(cx, AT_EINVAL, "users train adapters, and the recipe has "
                       "none: give lora, linear or mlp");
    if (u->j->offload && u->j->offload->set.merged)
        return at_fail(cx, AT_EINVAL, "users share the model's weights, which "
                       "cannot hold the adapter of one: leave out "
                       "offload.merged");
    return AT_OK;
}

static int start_user(struct users *all, struct user *u)
{
    size_t most = 0;
    int rc;
    u->started = true;
    for (size_t i = 0; i < all->n && u == all->u; i++)
        if (all->u[i].j && all->u[i].j->st->region_bytes > most)
            most = all->u[i].j->st->region_bytes;
    if (most)
        u->j->st->region_bytes = u->j->memory[AT_MEM_ACTIVATIONS] = most;
    if (u->before)
        return at_loop_resume(&u->loop, u->j, all->progress, all->self);
    rc = at_run_dir_take(all->cx, u->j->dir, "checkpoints", &u->lock);
    if (rc == AT_OK)
        rc = at_run_dir_check_new(all->cx, u->j->dir);
    if (rc == AT_OK)
        rc = at_loop_begin(&u->loop, u->j, all->progress, all->self);
    return rc;
}

static void drop_dir(struct user *u)
{
    at_run_dir_drop(u->lock);
    u->lock = NULL;
}

/* Nothing more is written into its directory.                                */
static void fail_user(struct users *all, struct user *u, int rc)
{
    drop_dir(u);
    at_note(all->cx, rc, "training user %s", u->name);
    at_log(all->cx, AT_LOG_WARN, "%s", all->cx->err.msg);
    if (all->rc == AT_OK) {
        all->rc = rc;
        all->why = all->cx->err;
    }
    u->over = true;
}

static void close_user(struct users *all, struct user *u)
{
    all->changed = true;
    drop_dir(u);
    if (u == all->u)
        return;                 /* the others use its memory                  */
    at_job_close(u->j);
    u->j = NULL;
}

/* ---- coming and going ------------------------------------------------------------ */

static struct user *find(struct users *all, const char *line, size_t name)
{
    for (size_t i = 0; i < all->n; i++)
        if (strncmp(all->u[i].name, line, name) == 0 && !all->u[i].name[name])
            return &all->u[i];
    return NULL;
}

static int add_one(struct users *all, const char *line)
{
    size_t name = strcspn(line, " ");
    struct user *u = find(all, line, name);
    int rc;
    if (u && u->j) {
        u->seen = true;
        return AT_OK;
    }
    if (!u && all->n == MOST)
        return at_fail(all->cx, AT_EINVAL, "too many users");
    if (!u)
        u = &all->u[all->n++];
    *u = (struct user){ .seen = true, .line = line,
        .name = at_strndup(all->cx, &all->cx->run, line, name) };
    if (!u->name)
        return AT_ENOMEM;
    rc = open_user(all, u);
    if (rc < 0 && u == all->u)
        return at_note(all->cx, rc, "opening user %s", u->name);
    if (rc < 0)
        fail_user(all, u, rc);
    return AT_OK;
}

static int start_new(struct users *all)
{
    for (size_t i = 0; i < all->n; i++) {
        struct user *u = &all->u[i];
        int rc;
        if (!u->j || u->started || u->over)
            continue;
        rc = start_user(all, u);
        if (rc < 0 && u == all->u)
            return at_note(all->cx, rc, "starting user %s", u->name);
        if (rc < 0)
            fail_user(all, u, rc);
        else
            u->over = u->j->s.done;
        all->changed = true;
    }
    return AT_OK;
}

/* Takes up what the list says, if it is not the one read before.             */
static int look(struct users *all)
{
    const char **line;
    struct stat st;
    size_t n;
    int rc;
    if (stat(list_path(all->cx, all->dir), &st) != 0)
        return at_fail_errno(all->cx, errno, "%s/users.txt", all->dir);
    if (st.st_ino == all->ino &&
        memcmp(&st.st_mtim, &all->read, sizeof all->read) == 0)
        return AT_OK;
    line = at_alloc_n(all->cx, &all->cx->run, MOST + 1, sizeof *line);
    rc = line ? read_list(all->cx, all->dir, line, &n) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    all->read = st.st_mtim;
    all->ino = st.st_ino;
    for (size_t i = 0; i < all->n; i++)
        all->u[i].seen = false;
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        rc = add_one(all, line[i]);
    if (rc == AT_OK)
        rc = start_new(all);
    for (size_t i = 0; i < all->n && rc == AT_OK; i++) {
        struct user *u = &all->u[i];
        if (u->seen || !u->j || u->over)
            continue;
        rc = at_loop_save(&u->loop);
        at_job_say(u->j, "user %s goes after step %llu", u->name,
                   (unsigned long long)u->j->s.step);
        u->over = true;
        close_user(all, u);
    }
    return rc;
}

/* ---- turns --------------------------------------------------------------------------- */

static bool takes_part(const struct user *u)
{
    return u->j && !u->over;
}

static void part(struct users *all)
{
    for (size_t i = 0; i < all->n_joint; i++)
        at_joint_destroy(all->joint[i]);
    for (size_t i = 0; i < all->n; i++)
        all->u[i].pass = 0;
    all->n_joint = 0;
    at_arena_reset(&all->cx->plan);
}

/* Those who can share a pass with u and have none, u first.                  */
static size_t gather(struct users *all, size_t from, struct at_loop **loop)
{
    size_t n = 0, pass = all->n_joint + 1;
    for (size_t i = from; i < all->n && n < all->together; i++) {
        struct user *u = &all->u[i];
        if (!takes_part(u) || u->pass ||
            !at_joint_fits(all->u[from].j, u->j))
            continue;
        u->pass = pass;
        loop[n++] = &u->loop;
    }
    if (n == 1)
        all->u[from].pass = 0;
    return n;
}

/* Settles who shares a pass with whom.                                       */
static int meet(struct users *all)
{
    struct at_loop **loop;
    int rc = AT_OK;
    if (!all->changed || all->together < 2)
        return AT_OK;
    part(all);
    all->changed = false;
    loop = at_alloc_n(all->cx, &all->cx->plan, all->together, sizeof *loop);
    for (size_t i = 0; loop && i < all->n && rc == AT_OK; i++) {
        size_t n;
        if (!takes_part(&all->u[i]) || all->u[i].pass ||
            !at_joint_fits(all->u[i].j, all->u[i].j))
            continue;
        n = gather(all, i, loop);
        if (n > 1)
            rc = at_joint_create(all->cx, loop, n, &all->joint[all->n_joint++]);
    }
    return loop ? rc : AT_ENOMEM;
}

static void after_turn(struct users *all, struct user *u, int rc, bool *stopped)
{
    if (rc == AT_EINTR)
        *stopped = true;
    else if (rc < 0)
        fail_user(all, u, rc);
    else
        u->over = u->j->s.done;
    if (u->over)
        close_user(all, u);
}

static void run_pass(struct users *all, size_t pass, bool *stopped)
{
    size_t k = 0;
    at_joint_run(all->joint[pass - 1], all->result);
    for (size_t i = 0; i < all->n; i++)
        if (all->u[i].pass == pass)
            after_turn(all, &all->u[i], all->result[k++], stopped);
}

static bool round_of_turns(struct users *all, bool *stopped)
{
    bool any = false;
    for (size_t i = 1; i <= all->n_joint; i++)
        run_pass(all, i, stopped);
    for (size_t i = 0; i < all->n; i++) {
        struct user *u = &all->u[i];
        if (takes_part(u) && !u->pass)
            after_turn(all, u, at_loop_turn(&u->loop), stopped);
        any |= takes_part(u);
    }
    return any;
}

static int take_turns(struct users *all)
{
    bool stopped = false, any = true;
    int rc = look(all);
    while (rc == AT_OK && any && !stopped) {
        rc = meet(all);
        if (rc < 0)
            break;
        any = round_of_turns(all, &stopped);
        if (!stopped)
            rc = look(all);
        for (size_t i = 0; i < all->n; i++)
            any |= takes_part(&all->u[i]);
    }
    part(all);
    for (size_t i = all->n; i > 0; i--) {
        at_job_close(all->u[i - 1].j);
        drop_dir(&all->u[i - 1]);
    }
    if (rc == AT_OK && stopped)
        return at_fail(all->cx, AT_EINTR, "stopped; a checkpoint of every user "
                       "is written.  Go on with: attune resume %s", all->dir);
    if (rc == AT_OK && all->rc < 0) {
        all->cx->err = all->why;
        rc = all->rc;
    }
    return rc;
}

static int open_users(struct at_ctx *cx, struct at_recipe *r,
                      at_progress_fn *progress, void *self, struct users *all)
{
    *all = (struct users){ .cx = cx, .r = r, .progress = progress, .self = self,
        .together = (size_t)at_recipe_int(r, "batch.users"),
        .dir = at_recipe_text(r, "run") };
    all->u = at_alloc_n(cx, &cx->run, MOST, sizeof *all->u);
    return all->u ? AT_OK : AT_ENOMEM;
}

int at_users_train(struct at_ctx *cx, struct at_recipe *r,
                   at_progress_fn *progress, void *self)
{
    struct at_strings list = at_recipe_list(r, "users");
    struct at_run_lock *lock = NULL;
    struct at_text t = { 0 };
    struct users all;
    size_t name;
    int rc = open_users(cx, r, progress, self, &all);
    for (size_t i = 0; i < list.n && rc == AT_OK; i++) {
        cx->at = at_recipe_src(r, "users");
        rc = check_line(cx, list.s[i], &name);
    }
    cx->at = (struct at_src){ 0 };
    if (rc == AT_OK)
        rc = at_run_dir_take(cx, all.dir, "users", &lock);
    if (rc == AT_OK)                    /* another may have been faster       */
        rc = at_run_dir_check_new(cx, all.dir);
    if (rc == AT_OK)
        rc = write_list(cx, all.dir, list.s, list.n);
    if (rc == AT_OK)
        rc = at_recipe_print(cx, r, true, &t);
    if (rc == AT_OK)
        rc = at_text_ok(cx, &t);
    if (rc == AT_OK)
        rc = at_write_file(cx, at_sprintf(cx, &cx->run, "%s/recipe.yaml",
                                          all.dir), t.s, t.n);
    at_text_finish(&t);
    if (rc == AT_OK)
        rc = take_turns(&all);
    at_run_dir_drop(lock);
    return rc;
}

int at_users_resume(struct at_ctx *cx, struct at_recipe *r,
                    at_progress_fn *progress, void *self)
{
    struct users all;
    int rc = open_users(cx, r, progress, self, &all);
    return rc == AT_OK ? take_turns(&all) : rc;
}

/* ---- from outside ------------------------------------------------------------------------ */

static int load_list(struct at_ctx *cx, const char *dir, const char ***line,
                     size_t *n)
{
    if (access(list_path(cx, dir), F_OK) != 0)
        return at_fail(cx, AT_ENOENT, "%s: is not a run with users (it has no "
                       "users.txt)", dir);
    *line = at_alloc_n(cx, &cx->run, MOST + 1, sizeof **line);
    return *line ? read_list(cx, dir, *line, n) : AT_ENOMEM;
}

int at_users_add(struct at_ctx *cx, const char *dir, const char *added)
{
    const char **line = NULL;
    size_t n, name;
    int rc = load_list(cx, dir, &line, &n);
    if (rc == AT_OK)
        rc = check_line(cx, added, &name);
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        if (strncmp(line[i], added, name) == 0 &&
            (line[i][name] == ' ' || !line[i][name]))
            rc = at_fail(cx, AT_EINVAL, "there is a user '%.*s' already",
                         (int)name, added);
    if (rc == AT_OK && n == MOST)
        rc = at_fail(cx, AT_EINVAL, "a run has at most %d users", MOST);
    if (rc < 0)
        return rc;
    line[n] = added;
    return write_list(cx, dir, line, n + 1);
}

int at_users_remove(struct at_ctx *cx, const char *dir, const char *name)
{
    const char **line = NULL;
    size_t n, kept = 0, size = strlen(name);
    int rc = load_list(cx, dir, &line, &n);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++)
        if (strncmp(line[i], name, size) != 0 ||
            (line[i][size] && line[i][size] != ' '))
            line[kept++] = line[i];
    if (kept == n)
        return at_fail(cx, AT_ENOENT, "%s has no user '%s'", dir, name);
    return write_list(cx, dir, line, kept);
}

static int measure(struct at_ctx *cx, const char *dir, struct at_user_row *u)
{
    const char *path = at_sprintf(cx, &cx->run, "%s/users/%s", dir, u->name);
    struct at_metrics_row *row;
    size_t n;
    bool torn;
    int rc = path ? at_metrics_read(cx, &cx->run, path, &row, &n, &torn)
                  : AT_ENOMEM;
    u->loss = u->eval_loss = NAN;
    if (rc == AT_ENOENT)
        return AT_OK;           /* has not begun                              */
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        if (row[i].eval) {
            u->eval_loss = row[i].loss;
            continue;
        }
        u->loss = row[i].loss;
        u->step = row[i].step;
        u->tokens = row[i].all_tokens;
        if (row[i].tokens_per_s > 0)
            u->busy_s += (double)row[i].tokens / row[i].tokens_per_s;
    }
    return rc;
}

int at_users_list(struct at_ctx *cx, const char *dir, struct at_user_row **rows,
                  size_t *n)
{
    const char **line = NULL;
    const char *path = at_sprintf(cx, &cx->run, "%s/users", dir);
    struct at_user_row *u = at_alloc_n(cx, &cx->run, 2 * MOST, sizeof *u);
    struct dirent *e;
    size_t listed, count;
    DIR *d;
    int rc = load_list(cx, dir, &line, &listed);
    if (rc < 0 || !u || !path)
        return rc < 0 ? rc : AT_ENOMEM;
    for (count = 0; count < listed; count++) {
        u[count].here = true;
        u[count].name = at_strndup(cx, &cx->run, line[count],
                                   strcspn(line[count], " "));
        if (!u[count].name)
            return AT_ENOMEM;
    }
    d = opendir(path);
    while (d && count < 2 * MOST && (e = readdir(d))) {
        size_t i = 0;
        while (i < listed && strcmp(u[i].name, e->d_name) != 0)
            i++;
        if (i == listed && e->d_name[0] != '.')
            u[count++].name = at_strdup(cx, &cx->run, e->d_name);
    }
    if (d)
        closedir(d);
    for (size_t i = 0; i < count && rc == AT_OK; i++)
        rc = u[i].name ? measure(cx, dir, &u[i]) : AT_ENOMEM;
    *rows = u;
    *n = count;
    return rc;
}
