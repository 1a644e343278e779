/* gguf: models as files of llama.cpp, in and out.
 *
 * An architecture of llama.cpp is one row of a table (gguf_table.c): which
 * family of ours it is, the names of its tensors, how each lies.             */
#ifndef AT_TRAIN_GGUF_H
#define AT_TRAIN_GGUF_H

#include "data/gguf.h"
#include "train/certificate.h"
#include "train/model_file.h"

struct at_gguf_arch;

/* The architecture of a description; one that llama.cpp computes otherwise, or
 * not at all, is an error that says in what.                                 */
int at_gguf_arch_of(struct at_ctx *cx, const struct at_decoder *d,
                    const struct at_gguf_arch **arch);
/* The description as facts; and out of the facts and tensors of a file.      */
void at_gguf_put_facts(const struct at_gguf_arch *arch,
                       const struct at_decoder *d, struct at_gguf_out *w);
int at_gguf_read_facts(struct at_ctx *cx, const struct at_gguf *g,
                       const struct at_gguf_arch **arch, struct at_decoder *d);

/* Where a param lies: row r of ours is row at_gguf_row(p, r) of the tensor
 * `name`, which has `rows` in all.                                           */
struct at_gguf_place {
    char name[128];
    size_t base, rows, cols;    /* cols 0: of one dimension                   */
    size_t K, rotary;           /* channels of a head, of which some turn     */
    enum { AT_GGUF_STAYS, AT_GGUF_TO_PAIRS, AT_GGUF_TO_HALVES } order;
    bool plus;                  /* theirs is 1 more                           */
};
/* false: the architecture has no name for it.                                */
bool at_gguf_place(const struct at_gguf_arch *arch, const struct at_decoder *d,
                   const char *name, const struct at_shape *shape,
                   struct at_gguf_place *p);
size_t at_gguf_row(const struct at_gguf_place *p, size_t r);

struct at_gguf_how {
    const char *dtype;          /* of matrices; NULL: float16                 */
    bool merge;                 /* add the adapter to the weights             */
};
/* A model file, checkpoint or run becomes the file `out`, and beside it
 * OUT.certificate.json; the file appears only when it passes.                */
int at_gguf_export(struct at_ctx *cx, const char *path, const char *out,
                   const struct at_gguf_how *how, struct at_certificate *c);
/* bare: without tokenizer.  Takes the memory of the largest tensor.          */
int at_gguf_import(struct at_ctx *cx, const char *path, const char *out,
                   bool bare);

#endif
