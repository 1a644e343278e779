/* Fuzzes reading GGUF.  What opens lies in its file, is read whole, and its
 * tokenizer, where it makes one, encodes.                                    */
#include "data/gguf.h"
#include "data/tokenizer.h"

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

static void read_all(struct at_ctx *cx, const struct at_gguf *g, size_t n)
{
    for (size_t i = 0; i < at_gguf_count(g); i++) {
        const struct at_gguf_tensor *t = at_gguf_at(g, i);
        float x[64];
        require(at_gguf_find(g, t->name) == t, "a tensor by name", cx);
        if (t->type == AT_GGUF_OTHER)
            continue;
        require(t->offset + t->n_bytes <= n, "a tensor's place", cx);
        for (size_t at = 0; at < t->n;) {
            size_t k = t->n - at < 64 ? t->n - at : 64;
            require(at_gguf_get(cx, g, t, at, k, x) == AT_OK, "reading", cx);
            at += k;
        }
    }
}

static void encode(struct at_ctx *cx, const struct at_gguf *g)
{
    static const char text[] = " a b\xC3\xA9 12\n";
    struct at_tok_ids ids = { 0 };
    struct at_tok_coder *c;
    struct at_tok *tok;
    if (at_tok_load_gguf(cx, &cx->run, g, &tok) < 0 ||
        at_tok_coder_create(cx, tok, &c) < 0)
        return;
    require(at_tok_encode(cx, c, text, sizeof text - 1, 0, &ids) == AT_OK,
            "encoding", cx);
    at_tok_ids_finish(&ids);
    at_tok_coder_destroy(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct at_ctx cx;
    struct at_gguf *g;
    char path[64];
    int fd;
    snprintf(path, sizeof path, "%s/attune-fuzz-gguf-%ld",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
             (long)getpid());
    at_ctx_init(&cx);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    require(fd >= 0 && write(fd, data, n) == (ssize_t)n, path, &cx);
    close(fd);
    if (at_gguf_open(&cx, &cx.run, path, &g) == AT_OK) {
        read_all(&cx, g, n);
        encode(&cx, g);
        at_gguf_close(g);
    } else {
        require(cx.err.code == AT_EFORMAT, "a failure", &cx);
    }
    unlink(path);
    at_ctx_finish(&cx);
    return 0;
}
