/* Runs a fuzz target over files and directories of seeds, without libFuzzer,
 * so that they are part of the ordinary tests.                              */
#include "base/base.h"

#include <dirent.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int replay(struct at_ctx *cx, const char *path, size_t *n_done)
{
    char *text;
    size_t n;
    int rc = at_read_file(cx, &cx->scratch, path, 0, &text, &n);
    if (rc == AT_OK) {
        LLVMFuzzerTestOneInput((const uint8_t *)text, n);
        ++*n_done;
    }
    at_arena_reset(&cx->scratch);
    return rc;
}

static int replay_dir(struct at_ctx *cx, const char *path, size_t *n_done)
{
    DIR *d = opendir(path);
    struct dirent *e;
    int rc = AT_OK;
    if (!d)
        return replay(cx, path, n_done);
    while (rc == AT_OK && (e = readdir(d))) {
        char *file;
        if (e->d_name[0] == '.')
            continue;
        file = at_sprintf(cx, &cx->run, "%s/%s", path, e->d_name);
        rc = file ? replay(cx, file, n_done) : AT_ENOMEM;
    }
    closedir(d);
    return rc;
}

int main(int argc, char **argv)
{
    struct at_ctx cx;
    size_t n_done = 0;
    int rc = AT_OK;
    at_ctx_init(&cx);
    for (int i = 1; i < argc && rc == AT_OK; i++)
        rc = replay_dir(&cx, argv[i], &n_done);
    if (rc < 0)
        fprintf(stderr, "%s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return rc == AT_OK && n_done > 0 ? 0 : 1;
}
