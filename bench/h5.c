/* Checkpoint files: writing, making durable, reading back; beside each the
 * same bytes by plain write(2) and read(2) in the same folder, which is what
 * the machine allows.
 *
 *   bench-h5 DIR [MIB] [--json FILE]            (1024 MiB unless told)       */
#include "data/h5.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARRAYS = 16, ROUNDS = 5, SMALL_ROUNDS = 41, PATH = 4096 };

struct bench {
    struct at_ctx cx;
    char path[PATH + 16], raw[PATH + 16];
    float *x;
    size_t n;                   /* elements of one array                      */
    size_t bytes;               /* of all                                     */
};

/* Seconds of one round: until the last write returned, until it was durable,
 * and of reading all back.                                                   */
struct times { double write[SMALL_ROUNDS], durable[SMALL_ROUNDS],
                      read[SMALL_ROUNDS]; };

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-h5: %s\n", cx->err.msg);
        exit(1);
    }
}

static void need(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *t, int n)
{
    qsort(t, (size_t)n, sizeof *t, by_value);
    return t[n / 2];
}

static void h5_round(struct bench *b, struct times *t, int i)
{
    struct at_ctx *cx = &b->cx;
    struct at_h5 *f;
    char name[16];
    double start = at_now_s();
    must(cx, at_h5_create(cx, b->path, "bench", &f));
    for (int a = 0; a < ARRAYS; a++) {
        snprintf(name, sizeof name, "w%d", a);
        must(cx, at_h5_put(cx, f, name, AT_H5_F32, 1, &b->n, b->x));
    }
    t->write[i] = at_now_s() - start;
    must(cx, at_h5_commit(cx, f));
    t->durable[i] = at_now_s() - start;
    start = at_now_s();
    must(cx, at_h5_open(cx, b->path, "bench", &f));
    for (int a = 0; a < ARRAYS; a++) {
        snprintf(name, sizeof name, "w%d", a);
        must(cx, at_h5_get(cx, f, name, AT_H5_F32, 1, &b->n, b->x));
    }
    at_h5_close(f);
    t->read[i] = at_now_s() - start;
}

static void raw_round(struct bench *b, struct times *t, int i)
{
    size_t bytes = b->n * sizeof *b->x;
    double start = at_now_s();
    int fd = open(b->raw, O_RDWR | O_CREAT | O_TRUNC, 0600);
    need(fd >= 0, b->raw);
    for (int a = 0; a < ARRAYS; a++)
        need(write(fd, b->x, bytes) == (ssize_t)bytes, "write");
    t->write[i] = at_now_s() - start;
    need(fsync(fd) == 0, "fsync");
    t->durable[i] = at_now_s() - start;
    start = at_now_s();
    need(lseek(fd, 0, SEEK_SET) == 0, "lseek");
    for (int a = 0; a < ARRAYS; a++)
        need(read(fd, b->x, bytes) == (ssize_t)bytes, "read");
    t->read[i] = at_now_s() - start;
    close(fd);
}

static void report(const struct bench *b, struct times *h5, struct times *raw,
                   int n, FILE *json)
{
    const struct { const char *name; double *h5, *raw; } rows[] = {
        { "write to cache", h5->write, raw->write },
        { "write, durable", h5->durable, raw->durable },
        { "read, verified", h5->read, raw->read },
    };
    for (size_t i = 0; i < AT_COUNT(rows); i++) {
        double s = median(rows[i].h5, n), r = median(rows[i].raw, n);
        printf("%9.2f MB  %-16s %9.2f ms %7.2f GB/s   plain file %7.2f GB/s"
               "   ratio %.2f\n", (double)b->bytes * 1e-6, rows[i].name,
               s * 1e3, (double)b->bytes * 1e-9 / s,
               (double)b->bytes * 1e-9 / r, r / s);
        if (json)
            fprintf(json, "{\"bytes\": %zu, \"what\": \"%s\", "
                    "\"median_ms\": %.4f, \"plain_ms\": %.4f}\n", b->bytes,
                    rows[i].name, s * 1e3, r * 1e3);
    }
}

static void bench(struct bench *b, size_t bytes, int rounds, FILE *json)
{
    static struct times h5, raw;
    b->n = bytes / ARRAYS / sizeof *b->x;
    b->bytes = b->n * ARRAYS * sizeof *b->x;
    for (int i = -1; i < rounds; i++) {         /* -1: a round to warm up     */
        h5_round(b, &h5, i < 0 ? 0 : i);
        raw_round(b, &raw, i < 0 ? 0 : i);
    }
    report(b, &h5, &raw, rounds, json);
    unlink(b->path);
    unlink(b->raw);
}

int main(int argc, char **argv)
{
    struct bench b;
    const char *dir = argc > 1 ? argv[1] : NULL;
    FILE *json = NULL;
    size_t mib = 1024;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
            json = fopen(argv[++i], "w");
            need(json != NULL, argv[i]);
        } else {
            mib = strtoull(argv[i], NULL, 10);
        }
    }
    if (!dir || dir[0] == '-' || mib < 1 || mib > 65536) {
        fprintf(stderr, "usage: bench-h5 DIR [MIB] [--json FILE]\n");
        return 2;
    }
    memset(&b, 0, sizeof b);
    at_ctx_init(&b.cx);
    snprintf(b.path, sizeof b.path, "%.*s/bench.h5", PATH, dir);
    snprintf(b.raw, sizeof b.raw, "%.*s/bench.raw", PATH, dir);
    b.x = malloc(mib << 20);
    need(b.x != NULL, "malloc");
    for (size_t i = 0; i < (mib << 20) / sizeof *b.x; i++)
        b.x[i] = (float)(i * 2654435761u % 1024) * 1e-3f;
    bench(&b, mib << 20, ROUNDS, json);
    bench(&b, 1200000, SMALL_ROUNDS, json);
    free(b.x);
    at_ctx_finish(&b.cx);
    if (json && fclose(json) != 0) {
        perror("bench-h5");
        return 1;
    }
    return 0;
}
