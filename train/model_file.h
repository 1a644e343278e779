/* Model files: a decoder's description, its tokenizer and its weights in one
 * HDF5 file (kind "model"); a checkpoint holds the same and more (kind
 * "checkpoint"), and with LoRA only the adapter and the name and identity of
 * its base.                                                                  */
#ifndef AT_MODEL_FILE_H
#define AT_MODEL_FILE_H

#include "data/h5.h"
#include "data/tokenizer.h"
#include "train/adapters/adapter.h"
#include "train/models/model.h"

struct at_model {               /* opened, its weights not read yet           */
    const char *path;           /* the file, after a run directory was resolved */
    struct at_h5 *f, *base;     /* base: of an adapter; else NULL             */
    struct at_decoder d;
    struct at_tok *tok;         /* NULL: imported without one                 */
    struct at_adapters adapters;    /* n 0: not an adapter                    */
    char id[33], base_id[33];   /* identity of the weights in f and in base   */
};

/* path: a model file, a checkpoint, or a run's directory (its best, else its
 * latest checkpoint).  Lives in arena a; at_model_close.                     */
int at_model_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                  struct at_model **m);
void at_model_close(struct at_model *m);
/* An error when the model has no tokenizer.                                  */
int at_model_need_tokenizer(struct at_ctx *cx, const struct at_model *m);
/* An error when it cannot write text: no tokenizer, or a reward model.       */
int at_model_need_words(struct at_ctx *cx, const struct at_model *m);
/* Declares the params of a description, by building its graph once.          */
int at_model_declare(struct at_ctx *cx, const struct at_decoder *d,
                     struct at_params *ps);
/* Also the dense layer of a value that it does not have (yet).               */
int at_model_declare_dense(struct at_ctx *cx, const struct at_decoder *d,
                           struct at_params *ps);
/* Reads every param of ps, which must be sealed: the base's first, then the
 * adapter's.  What is missing, or left over, is an error with the names; params
 * of adapters that m does not hold stay as they are.
 * adapter false: only m's base counts, adapter params stay as they are.      */
int at_model_read(struct at_ctx *cx, const struct at_model *m,
                  struct at_params *ps, bool adapter);
enum at_which { AT_PUT_ALL, AT_PUT_TRAINABLE, AT_PUT_BASE };   /* base: no adapters */
/* Description, tokenizer and some of ps's weights, as AT_H5_F32 or AT_H5_BF16.
 * What has a mask in `masks` (NULL: nothing) and keeps it stays sparse.      */
int at_model_put(struct at_ctx *cx, struct at_h5 *f, const struct at_decoder *d,
                 const struct at_tok *tok, const struct at_params *ps,
                 enum at_which which, enum at_h5_type type,
                 struct at_h5 *masks);
/* Only the first two; tok NULL: without tokenizer.                           */
int at_model_put_head(struct at_ctx *cx, struct at_h5 *f,
                      const struct at_decoder *d, const struct at_tok *tok);
/* A whole model file, without adapters; what an import kept in `from` goes
 * along, and masks that its weights still have (NULL: nothing).               */
int at_model_write(struct at_ctx *cx, const char *path,
                   const struct at_decoder *d, const struct at_tok *tok,
                   const struct at_params *ps, enum at_h5_type type,
                   struct at_h5 *from);
/* The files that an import kept, from one model file to another.             */
int at_model_put_kept(struct at_ctx *cx, struct at_h5 *f, struct at_h5 *from);
/* Names and checksums of the arrays that begin with `prefix`: the identity of
 * what a file holds, whatever made it.                                       */
int at_arrays_identify(struct at_ctx *cx, struct at_h5 *f, const char *prefix,
                       char id[33]);
/* That of all weights is the identity of a model.                            */
int at_model_identify(struct at_ctx *cx, struct at_h5 *f, char id[33]);
/* The tokenizer of any of attune's files.                                    */
int at_model_tokenizer(struct at_ctx *cx, struct at_arena *a, const char *path,
                       struct at_tok **tok);
/* llama2.c's weights and tokenizer.                                          */
int at_model_import_llama2c(struct at_ctx *cx, const char *weights,
                            const char *tokenizer, const char *out);

#endif
