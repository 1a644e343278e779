/* Fuzzes reading samples.  Byte 0: format (lines, array, plain) and options;
 * then the template or separator up to a NUL; then the file.  Samples must lie
 * in it, and the hash must be the file's.                                    */
#include "data/sample.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(bool ok, const char *what, const struct at_ctx *cx)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, cx->err.msg);
    abort();
}

static void write_file(struct at_ctx *cx, const char *path,
                       const uint8_t *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    require(fd >= 0 && write(fd, data, n) == (ssize_t)n, path, cx);
    close(fd);
}

static int read_all(struct at_ctx *cx, struct at_samples *in)
{
    struct at_sample s;
    bool more = true;
    int rc = AT_OK;
    for (size_t k = 0; rc == AT_OK && more; k++) {
        rc = at_samples_next(cx, in, &s, &more);
        if (rc < 0 || !more)
            break;
        require(s.text[s.n] == '\0' && s.n > 0 && s.line > 0, "sample", cx);
        require(!s.pair || (s.from <= s.to && s.to <= s.n), "span", cx);
        if (k % 7 == 0)
            at_samples_reset(in);
    }
    return rc;
}

static void check_sources(struct at_ctx *cx, const struct at_samples *in,
                          const char *path, const uint8_t *data, size_t n)
{
    struct at_text t = { 0 };
    char want[256], hex[33];
    at_hash_hex(at_hash(data, n), hex);
    snprintf(want, sizeof want, "%s %s %zu\n", path, hex, n);
    at_samples_sources(in, &t);
    require(strcmp(t.s, want) == 0, "sources", cx);
    at_text_finish(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char *const endings[] = { "jsonl", "json", "txt", "txt" };
    struct at_data_options o = { .n_inputs = 1 };
    struct at_data_stats stats = { 0 };
    struct at_samples *in;
    char path[64], *said;
    const char *inputs[1] = { path };
    size_t len;
    struct at_ctx cx;
    if (n < 2)
        return 0;
    at_ctx_init(&cx);
    snprintf(path, sizeof path, "%s/attune-fuzz-%ld.%s",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
             (long)getpid(), endings[data[0] & 3]);
    said = at_strndup(&cx, &cx.run, (const char *)data + 1, n - 1);
    len = strlen(said) + 2 < n ? strlen(said) + 2 : n;
    o.inputs = inputs;
    o.skip_bad = data[0] & 4;
    o.template = data[0] & 8 ? said : NULL;
    o.completion = data[0] & 16 ? "a" : NULL;
    o.separator = said;
    write_file(&cx, path, data + len, n - len);
    require(at_samples_open(&cx, &o, &stats, &in) == AT_OK, "open", &cx);
    if (read_all(&cx, in) == AT_OK)
        check_sources(&cx, in, path, data + len, n - len);
    else
        require(cx.err.code == AT_EFORMAT || cx.err.code == AT_EINVAL,
                "a failure", &cx);
    at_samples_close(in);
    unlink(path);
    at_ctx_finish(&cx);
    return 0;
}
