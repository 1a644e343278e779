/* Certificate, users, rights; nats-server itself. */
#include "train/offload/keys.h"

#include <crypt.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH = 4096, FILE_MAX = 1 << 20, SECRET = 32, NAME_MAX_ = 48 };

bool at_key_name(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '-' &&
            name[i] != '_')
            return false;
    return n > 0 && n < NAME_MAX_ && strcmp(name, "ack") != 0;
}

/* ---- credentials ------------------------------------------------------------- */

static int check_private(struct at_ctx *cx, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return at_fail_errno(cx, errno, "%s: the credentials cannot be read",
                             path);
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return at_fail(cx, AT_EINVAL, "%s: others may read these credentials: "
                       "chmod 600 %s", path, path);
    return AT_OK;
}

/* The rest of the line that begins with `name`, in arena a; NULL: none.      */
static const char *value_of(struct at_ctx *cx, struct at_arena *a,
                            const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = text; at && *at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (strncmp(at, name, n) == 0)
            return at_strndup(cx, a, at + n, strcspn(at + n, "\r\n"));
    }
    return NULL;
}

int at_credentials_read(struct at_ctx *cx, struct at_arena *a, const char *path,
                        struct at_credentials *c)
{
    static const char first[] = "attune credentials 1\n";
    char *text;
    size_t n;
    int rc = check_private(cx, path);
    if (rc == AT_OK)
        rc = at_read_file(cx, a, path, FILE_MAX, &text, &n);
    if (rc < 0)
        return rc;
    if (strncmp(text, first, strlen(first)) != 0)
        return at_fail(cx, AT_EFORMAT, "%s: is not a file of credentials made "
                       "by 'attune offload keys'", path);
    *c = (struct at_credentials){
        .run = value_of(cx, a, text, "run: "),
        .user = value_of(cx, a, text, "user: "),
        .password = value_of(cx, a, text, "password: "),
        .certificate = strstr(text, "-----BEGIN CERTIFICATE-----"),
    };
    if (!c->run || !c->user || !c->password || !c->certificate ||
        !at_key_name(c->run) || !at_key_name(c->user))
        return at_fail(cx, AT_EFORMAT, "%s: these credentials are not whole: "
                       "make new ones with 'attune offload keys'", path);
    return AT_OK;
}

/* ---- making ---------------------------------------------------------------------- */

struct folder {
    struct at_ctx *cx;
    struct at_arena *a;
    char dir[PATH];             /* absolute                                   */
};

static const char *in(const struct folder *f, const char *name)
{
    const char *path = at_sprintf(f->cx, f->a, "%s/%s", f->dir, name);
    return path ? path : "";
}

static bool there(const struct folder *f, const char *name)
{
    return access(in(f, name), F_OK) == 0;
}

static int secret(struct at_ctx *cx, char hex[2 * SECRET + 1])
{
    unsigned char raw[SECRET];
    if (getrandom(raw, sizeof raw, 0) != (ssize_t)sizeof raw)
        return at_fail_errno(cx, errno, "the system gives no random numbers");
    for (size_t i = 0; i < SECRET; i++)
        snprintf(hex + 2 * i, 3, "%02x", raw[i]);
    return AT_OK;
}

/* What the server keeps of a password.  It has 256 random bits, so that the
 * cheapest rounds do.                                                        */
static int hash_of(struct at_ctx *cx, const char *password, char hash[128])
{
    struct crypt_data data = { 0 };
    char salt[CRYPT_GENSALT_OUTPUT_SIZE];
    const char *h = NULL;
    if (crypt_gensalt_rn("$2a$", 4, NULL, 0, salt, sizeof salt))
        h = crypt_r(password, salt, &data);
    if (!h || h[0] == '*')
        return at_fail(cx, AT_EIO, "the system's libcrypt has no bcrypt");
    snprintf(hash, 128, "%s", h);
    return AT_OK;
}

static int spawn(struct at_ctx *cx, const char *const *argv)
{
    union { const char *const *in; char *const *out; } args = { argv };
    int status = 0, quiet;
    pid_t pid = fork();
    if (pid == 0) {
        quiet = open("/dev/null", O_WRONLY);
        dup2(quiet, 1);
        dup2(quiet, 2);
        execvp(argv[0], args.out);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return at_fail_errno(cx, errno, "%s cannot be started", argv[0]);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return at_fail(cx, AT_EIO, "%s %s", argv[0],
                       WEXITSTATUS(status) == 127 ? "is not installed: "
                       "apt-get install openssl" : "failed");
    return AT_OK;
}

static int make_certificate(const struct folder *f)
{
    const char *const argv[] = {
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650", "-subj",
        "/CN=attune", "-addext",
        "subjectAltName=DNS:attune,DNS:localhost,IP:127.0.0.1", "-keyout",
        in(f, "server-key.pem"), "-out", in(f, "server.pem"), NULL
    };
    int rc = spawn(f->cx, argv);
    return rc < 0 ? at_note(f->cx, rc, "making a certificate in %s", f->dir)
                  : rc;
}

static int write_text(const struct folder *f, const char *name,
                      struct at_text *t)
{
    int rc = at_text_ok(f->cx, t);
    if (rc == AT_OK)
        rc = at_write_file(f->cx, in(f, name), t->s, t->n);
    at_text_finish(t);
    return rc;
}

static int write_server(const struct folder *f)
{
    struct at_text t = { 0 };
    at_text_addf(&t,
        "# nats-server for attune; 'attune offload serve %s' starts it.\n"
        "listen: \"127.0.0.1:4222\"\n"
        "max_payload: 8MB\n"
        "pid_file: \"%s/server.pid\"\n"
        "ping_interval: \"5s\"\nping_max: 2\nwrite_deadline: \"10s\"\n"
        "jetstream { store_dir: \"%s/store\" }\n"
        "tls { cert_file: \"%s/server.pem\", key_file: "
        "\"%s/server-key.pem\", timeout: 5 }\n"
        "include \"users.conf\"\n", f->dir, f->dir, f->dir, f->dir, f->dir);
    return write_text(f, "server.conf", &t);
}

/* The rights of a trainer, and of a worker U of run R: it may ask for blocks,
 * read weights, and speak under its own name; it hears only its own inbox.   */
static void add_rights(struct at_text *t, bool trainer, const char *r,
                       const char *u)
{
    if (trainer)
        at_text_addf(t, "publish: [\"attune.%s.>\", \"$KV.attune-%s.>\", "
            "\"_ATTUNE.>\", \"$JS.API.INFO\", \"$JS.API.*.*.attune-%s\", "
            "\"$JS.API.*.*.KV_attune-%s\", "
            "\"$JS.API.CONSUMER.*.attune-%s.>\", "
            "\"$JS.API.CONSUMER.DURABLE.CREATE.attune-%s.>\", "
            "\"$JS.ACK.attune-%s.>\"], subscribe: "
            "[\"attune.%s.>\", \"_ATTUNE.%s.>\"]", r, r, r, r, r, r, r, r, u);
    else
        at_text_addf(t, "publish: [\"attune.%s.result.%s.>\", "
            "\"attune.%s.status.%s.>\", "
            "\"$JS.API.CONSUMER.MSG.NEXT.attune-%s.workers\", "
            "\"$JS.API.DIRECT.GET.KV_attune-%s.>\"], subscribe: "
            "[\"_ATTUNE.%s.>\"]", r, u, r, u, r, r, u);
}

static int write_credentials(const struct folder *f, const char *run,
                             const char *user, const char *password)
{
    struct at_text t = { 0 };
    char *pem;
    size_t n;
    int rc = at_read_file(f->cx, f->a, in(f, "server.pem"), FILE_MAX, &pem, &n);
    if (rc < 0)
        return rc;
    at_text_addf(&t, "attune credentials 1\n# Secret: who has this file may "
                 "act as '%s'.\nrun: %s\nuser: %s\npassword: %s\n%s", user, run,
                 user, password, pem);
    return write_text(f, at_sprintf(f->cx, f->a, "%s.creds", user), &t);
}

/* One more line of users.conf, and the file for its holder.                  */
static int add_user(const struct folder *f, struct at_text *users, bool trainer,
                    const char *run, const char *user)
{
    char password[2 * SECRET + 1], hash[128];
    int rc = secret(f->cx, password);
    if (rc == AT_OK)
        rc = hash_of(f->cx, password, hash);
    if (rc == AT_OK)
        rc = write_credentials(f, run, user, password);
    if (rc < 0)
        return rc;
    at_text_addf(users, "  { user: \"%s\", password: \"%s\", permissions: { ",
                 user, hash);
    add_rights(users, trainer, run, user);
    at_text_addf(users, " } }\n");
    return AT_OK;
}

static const char head[] = "authorization { timeout: 5, users: [\n";
static const char tail[] = "] }\n";

/* The lines of users.conf but that of `without`; *n: how many stayed out.    */
static int read_users(const struct folder *f, const char *without,
                      struct at_text *users, size_t *n)
{
    char *text, *rest, *line;
    size_t size;
    int rc = at_read_file(f->cx, f->a, in(f, "users.conf"), FILE_MAX, &text,
                          &size);
    const char *mark = at_sprintf(f->cx, f->a, "  { user: \"%s\",", without);
    *n = 0;
    if (rc < 0 || !mark)
        return rc < 0 ? rc : AT_ENOMEM;
    for (line = strtok_r(text, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        bool user = strncmp(line, "  { user: \"", 11) == 0;
        if (user && strncmp(line, mark, strlen(mark)) == 0)
            (*n)++;
        else if (user)
            at_text_addf(users, "%s\n", line);
    }
    return AT_OK;
}

/* A server that runs reads its users anew.                                   */
static void reload(const struct folder *f)
{
    char *text, comm[64], name[32] = "";
    FILE *file;
    size_t n;
    long pid;
    if (!there(f, "server.pid") ||
        at_read_file(f->cx, f->a, in(f, "server.pid"), 64, &text, &n) < 0)
        return;
    pid = strtol(text, NULL, 10);
    snprintf(comm, sizeof comm, "/proc/%ld/comm", pid);
    file = pid > 1 ? fopen(comm, "r") : NULL;
    if (!file)
        return;
    if (fgets(name, sizeof name, file) &&
        strncmp(name, "nats-server", 11) == 0)
        kill((pid_t)pid, SIGHUP);
    fclose(file);
}

static int write_users(const struct folder *f, struct at_text *users)
{
    struct at_text t = { 0 };
    int rc = at_text_ok(f->cx, users);
    at_text_addf(&t, "%s%s%s", head, users->s ? users->s : "", tail);
    at_text_finish(users);
    if (rc == AT_OK)
        rc = write_text(f, "users.conf", &t);
    else
        at_text_finish(&t);
    if (rc == AT_OK)
        reload(f);
    return rc;
}

/* The run that a folder's trainer is for.                                    */
static int run_of(const struct folder *f, const char *asked, const char **run)
{
    struct at_credentials c;
    int rc = at_credentials_read(f->cx, f->a, in(f, "trainer.creds"), &c);
    if (rc < 0)
        return rc;
    *run = c.run;
    if (asked && asked[0] && strcmp(asked, c.run) != 0)
        return at_fail(f->cx, AT_EINVAL, "%s is for run '%s': keys for run "
                       "'%s' belong in a folder of their own", f->dir, c.run,
                       asked);
    return AT_OK;
}

static int add_workers(const struct folder *f, struct at_text *users,
                       const char *run, size_t workers, struct at_text *said)
{
    int rc = AT_OK;
    size_t k = 1;
    for (size_t made = 0; made < workers && rc == AT_OK; k++) {
        const char *user = at_sprintf(f->cx, f->a, "worker-%zu", k);
        const char *file = at_sprintf(f->cx, f->a, "worker-%zu.creds", k);
        if (!user || !file)
            return AT_ENOMEM;
        if (there(f, file))
            continue;
        rc = add_user(f, users, false, run, user);
        at_text_addf(said, "%s\n", in(f, file));
        made++;
    }
    return rc;
}

static int fill(const struct folder *f, const char *run, size_t workers,
                struct at_text *said)
{
    struct at_text users = { 0 };
    size_t out;
    int rc;
    if (there(f, "users.conf")) {
        rc = run_of(f, run, &run);
        if (rc == AT_OK)
            rc = read_users(f, "", &users, &out);
    } else {
        run = run && run[0] ? run : "attune";
        rc = make_certificate(f);
        if (rc == AT_OK)
            rc = write_server(f);
        if (rc == AT_OK)
            rc = add_user(f, &users, true, run, "trainer");
        at_text_addf(said, "%s\n", in(f, "trainer.creds"));
    }
    if (rc == AT_OK)
        rc = add_workers(f, &users, run, workers, said);
    if (rc == AT_OK)
        return write_users(f, &users);
    at_text_finish(&users);
    return rc;
}

static int open_folder(struct at_ctx *cx, const char *dir, struct folder *f)
{
    char *real = realpath(dir, NULL);
    *f = (struct folder){ cx, &cx->scratch, "" };
    if (!real)
        return at_fail_errno(cx, errno, "%s", dir);
    if (strlen(real) + 64 > sizeof f->dir || strpbrk(real, "\"\\")) {
        free(real);
        return at_fail(cx, AT_EINVAL, "%s: the path is too long, or has a "
                       "quote in it", dir);
    }
    snprintf(f->dir, sizeof f->dir, "%s", real);
    free(real);
    return AT_OK;
}

int at_keys_make(struct at_ctx *cx, const char *dir, const char *run,
                 size_t workers, struct at_text *said)
{
    struct folder f;
    mode_t before;
    int rc;
    if (run && run[0] && !at_key_name(run))
        return at_fail(cx, AT_EINVAL, "'%s' cannot be a run's name: it takes "
                       "letters, digits, - and _, at most 47", run);
    before = umask(077);
    rc = at_mkdir(cx, dir);
    if (rc == AT_OK)
        rc = open_folder(cx, dir, &f);
    if (rc == AT_OK)
        rc = fill(&f, run, workers, said);
    umask(before);
    return rc;
}

int at_keys_revoke(struct at_ctx *cx, const char *dir, const char *user)
{
    struct at_text users = { 0 };
    struct folder f;
    mode_t before = umask(077);
    size_t out = 0;
    int rc = open_folder(cx, dir, &f);
    if (rc == AT_OK)
        rc = read_users(&f, user, &users, &out);
    if (rc == AT_OK && out == 0)
        rc = at_fail(cx, AT_ENOENT, "%s: there is no user '%s'", dir, user);
    if (rc == AT_OK)
        rc = write_users(&f, &users);
    else
        at_text_finish(&users);
    umask(before);
    return rc;
}

int at_keys_serve(struct at_ctx *cx, const char *dir, const char *listen)
{
    const char *colon = listen ? strrchr(listen, ':') : NULL;
    struct folder f;
    int rc = open_folder(cx, dir, &f);
    if (rc < 0)
        return rc;
    if (listen && listen[0] && (!colon || colon == listen || !colon[1]))
        return at_fail(cx, AT_EINVAL, "--listen takes HOST:PORT, such as "
                       "0.0.0.0:4222, not '%s'", listen);
    if (!there(&f, "server.conf"))
        return at_fail(cx, AT_ENOENT, "%s has no server.conf: 'attune offload "
                       "keys %s' makes it", dir, dir);
    if (colon)
        execlp("nats-server", "nats-server", "-c", in(&f, "server.conf"), "-a",
               at_strndup(cx, f.a, listen, (size_t)(colon - listen)), "-p",
               colon + 1, (char *)NULL);
    else
        execlp("nats-server", "nats-server", "-c", in(&f, "server.conf"),
               (char *)NULL);
    return at_fail_errno(cx, errno, "nats-server cannot be started; apt-get "
                         "install nats-server brings it");
}
