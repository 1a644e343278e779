/* Tokenizer: training on a text file, then encoding it.
 *
 *   bench-tokenizer TEXT [VOCAB] [ENCODER.JSON VOCAB.BPE]
 *
 * Encodes with the given GPT-2 files, else with what was trained.  A document
 * is at least 16 KiB, to the end of a line.  Prints MB/s (10^6 bytes), the
 * best of five; bench/peers/tokenizer.py does the same with Hugging Face's.  */
#include "data/tokenizer.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { DOCUMENT = 16 << 10, ROUNDS = 5, THREADS = 2 };

struct bench {
    struct at_ctx cx[THREADS];
    char *text;
    size_t n, *at, n_at, cap_at;        /* documents: at[i] .. at[i+1]       */
};

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-tokenizer: %s\n", cx->err.msg);
        exit(1);
    }
}

static void cut(struct bench *b)
{
    for (size_t at = 0;;) {
        const char *line;
        must(b->cx, at_grow(b->cx, &b->at, &b->cap_at, b->n_at + 1,
                            sizeof *b->at));
        b->at[b->n_at++] = at;
        if (at == b->n)
            return;
        line = at + DOCUMENT < b->n ?
               memchr(b->text + at + DOCUMENT, '\n', b->n - at - DOCUMENT) :
               NULL;
        at = line ? (size_t)(line + 1 - b->text) : b->n;
    }
}

static struct at_tok *train(struct bench *b, const char *path, size_t size,
                            int threads)
{
    struct at_tok_training how = { .vocab_size = size, .bos = AT_TOK_NONE,
                                   .eos = AT_TOK_NONE, .pad = AT_TOK_NONE };
    struct at_tok *tok = NULL;
    double best = 1e30;
    b->cx->n_threads = threads;
    for (int r = 0; r < ROUNDS; r++) {
        struct at_tok_files files = { .paths = &path, .n = 1 };
        double start = at_now_s(), s;
        must(b->cx, at_tok_train(b->cx, &b->cx->run, at_tok_files_next, &files,
                                 &how, &tok));
        s = at_now_s() - start;
        best = s < best ? s : best;
        at_tok_files_finish(&files);
    }
    printf("train   %d threads  %8.1f MB/s  %.3f s, %zu tokens\n", threads,
           1e-6 * (double)b->n / best, best, at_tok_size(tok));
    return tok;
}

static size_t encode_all(struct bench *b, const struct at_tok *tok,
                         int threads)
{
    size_t n_ids = 0;
#pragma omp parallel num_threads(threads) reduction(+ : n_ids)
    {
        struct at_ctx *cx = &b->cx[omp_get_thread_num()];
        struct at_tok_coder *coder = NULL;
        struct at_tok_ids ids = { 0 };
        must(cx, at_tok_coder_create(cx, tok, &coder));
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < b->n_at - 1; i++) {
            ids.n = 0;
            must(cx, at_tok_encode(cx, coder, b->text + b->at[i],
                                   b->at[i + 1] - b->at[i], 0, &ids));
            n_ids += ids.n;
        }
        at_tok_coder_destroy(coder);
        at_tok_ids_finish(&ids);
    }
    return n_ids;
}

static void encode(struct bench *b, const struct at_tok *tok, int threads)
{
    double best = 1e30;
    size_t n_ids = 0;
    for (int r = 0; r < ROUNDS; r++) {
        double start = at_now_s(), s;
        n_ids = encode_all(b, tok, threads);
        s = at_now_s() - start;
        best = s < best ? s : best;
    }
    printf("encode  %d threads  %8.1f MB/s  %.2f M tokens/s, %zu tokens\n",
           threads, 1e-6 * (double)b->n / best, 1e-6 * (double)n_ids / best,
           n_ids);
}

int main(int argc, char **argv)
{
    struct bench b = { 0 };
    struct at_tok *tok = NULL;
    if (argc != 2 && argc != 3 && argc != 5) {
        fprintf(stderr, "usage: bench-tokenizer TEXT [VOCAB] "
                "[ENCODER.JSON VOCAB.BPE]\n");
        return 2;
    }
    must(b.cx, at_read_file(b.cx, &b.cx->run, argv[1], 0, &b.text, &b.n));
    cut(&b);
    for (int threads = 1; threads <= THREADS; threads++)
        tok = train(&b, argv[1], argc > 2 ? strtoul(argv[2], NULL, 10) : 32000,
                    threads);
    if (argc == 5)
        must(b.cx, at_tok_load_gpt2(b.cx, &b.cx->run, argv[3], argv[4], &tok));
    for (int threads = 1; threads <= THREADS; threads++)
        encode(&b, tok, threads);
    at_free(b.at);
    for (int t = 0; t < THREADS; t++)
        at_ctx_finish(&b.cx[t]);
    return 0;
}
