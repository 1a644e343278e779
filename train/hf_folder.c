/* Folders that appear whole, and the files that an import kept. */
#include "train/hf_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 64 << 20 };

/* Kept in the model file as they are, for the export.                        */
static const char *const kept[] = {
    "config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja", "vocab.json", "merges.txt",
};

int at_hf_certify(struct at_ctx *cx, const struct at_read_back *b,
                  enum at_st_type type, struct at_certificate *c)
{
    struct at_read_back with = *b;
    const char *note = at_sprintf(cx, &cx->run, "%s/attune-certificate.json",
                                  b->made);
    int rc;
    with.kl_most = type == AT_ST_F32 ? 1e-6 : 0.01;     /* nats               */
    rc = note ? at_certify_back(cx, &with, c) : AT_ENOMEM;
    return rc == AT_OK ? at_certificate_write(cx, c, b->trained,
                                              at_st_type_name(type), note) : rc;
}

/* ---- folders ------------------------------------------------------------------ */

int at_hf_check_dir(struct at_ctx *cx, const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    size_t n = 0;
    if (!d && errno == ENOENT)
        return AT_OK;
    if (!d)
        return at_fail_errno(cx, errno, "%s: cannot be written to", dir);
    while ((e = readdir(d)))
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n == 0 ? AT_OK
                  : at_fail(cx, AT_EINVAL, "%s: is not empty; give the name of "
                            "a new folder", dir);
}

static void remove_dir(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    char path[4096];
    while (d && (e = readdir(d)))
        if (e->d_name[0] != '.' &&
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name) <
                (int)sizeof path)
            unlink(path);
    if (d)
        closedir(d);
    rmdir(dir);
}

static int sync_dir(struct at_ctx *cx, const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) < 0
                 ? at_fail_errno(cx, errno, "%s: cannot be flushed to disk",
                                 dir)
                 : AT_OK;
    if (fd >= 0)
        close(fd);
    return rc;
}

static int commit_dir(struct at_ctx *cx, const char *tmp, const char *dir)
{
    char *parent = at_strdup(cx, &cx->run, dir), *slash;
    int rc = parent ? sync_dir(cx, tmp) : AT_ENOMEM;
    if (rc < 0)
        return rc;
    if (rename(tmp, dir) < 0)
        return at_fail_errno(cx, errno, "%s: cannot be renamed to %s", tmp,
                             dir);
    slash = strrchr(parent, '/');
    if (slash)
        slash[slash == parent] = '\0';
    return sync_dir(cx, slash ? parent : ".");
}

int at_hf_make_dir(struct at_ctx *cx, const char *dir,
                   int (*fill)(struct at_ctx *cx, void *self, const char *tmp),
                   void *self)
{
    char *name = at_strdup(cx, &cx->run, dir), *tmp;
    int rc = at_hf_check_dir(cx, dir);
    size_t n = name ? strlen(name) : 0;
    while (n > 1 && name[n - 1] == '/')
        name[--n] = '\0';
    tmp = name ? at_file_tmp(cx, &cx->run, name) : NULL;
    if (!tmp)
        return AT_ENOMEM;
    if (rc == AT_OK && mkdir(tmp, 0777) < 0)
        rc = at_fail_errno(cx, errno, "%s: cannot be made", tmp);
    if (rc < 0)
        return rc;
    rc = fill(cx, self, tmp);
    if (rc == AT_OK)
        rc = commit_dir(cx, tmp, name);
    if (rc < 0)
        remove_dir(tmp);
    return rc;
}

int at_hf_put(struct at_ctx *cx, const char *dir, const char *name,
              const void *bytes, size_t n)
{
    const char *path = at_sprintf(cx, &cx->run, "%s/%s", dir, name);
    return path ? at_write_file(cx, path, bytes, n) : AT_ENOMEM;
}

int at_hf_put_json(struct at_ctx *cx, const char *dir, const char *name,
                   json_t *v)
{
    char *text = json_dumps(v, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    int rc = text ? at_hf_put(cx, dir, name, text, strlen(text))
                  : at_fail(cx, AT_ENOMEM, "out of memory");
    free(text);
    json_decref(v);
    return rc;
}

/* ---- kept files ------------------------------------------------------------------ */

int at_hf_keep(struct at_ctx *cx, struct at_h5 *f, const char *from)
{
    int rc = AT_OK;
    for (size_t i = 0; i < AT_COUNT(kept) && rc == AT_OK; i++) {
        char path[4096], name[64], *bytes;
        struct stat s;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", from, kept[i]);
        snprintf(name, sizeof name, AT_HF_KEPT "%s", kept[i]);
        if (stat(path, &s) < 0)
            continue;
        rc = at_read_file(cx, &cx->scratch, path, FILE_MAX, &bytes, &n);
        if (rc == AT_OK)
            rc = at_h5_put_bytes(cx, f, name, bytes, n);
        at_arena_reset(&cx->scratch);
    }
    return rc;
}

int at_hf_kept(struct at_ctx *cx, struct at_h5 *f, const char *name,
               char **bytes, size_t *n)
{
    char array[64];
    snprintf(array, sizeof array, AT_HF_KEPT "%s", name);
    *bytes = NULL;
    if (!at_h5_has(f, array))
        return AT_OK;
    return at_h5_get_bytes(cx, f, array, &cx->scratch, FILE_MAX, bytes, n);
}

int at_hf_kept_json(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    json_t **v)
{
    char *bytes;
    size_t n;
    int rc = at_hf_kept(cx, f, name, &bytes, &n);
    *v = NULL;
    if (rc == AT_OK && bytes)
        rc = at_json_parse(cx, name, bytes, n, v);
    at_arena_reset(&cx->scratch);
    return rc;
}

int at_hf_put_kept(struct at_ctx *cx, struct at_h5 *f, const char *dir,
                   bool *tokenizer)
{
    int rc = AT_OK;
    *tokenizer = false;
    for (size_t i = 1; i < AT_COUNT(kept) && rc == AT_OK; i++) {
        char *bytes;
        size_t n;
        rc = at_hf_kept(cx, f, kept[i], &bytes, &n);
        if (rc == AT_OK && bytes) {
            rc = at_hf_put(cx, dir, kept[i], bytes, n);
            *tokenizer |= strcmp(kept[i], "tokenizer.json") == 0;
        }
        at_arena_reset(&cx->scratch);
    }
    return rc;
}
