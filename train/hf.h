/* hf: model folders of Hugging Face, in and out.
 *
 * A family is one row of a table (hf_family.c): its config.json's keys, the
 * names of its tensors, how each lies.  Import, export and adapters walk that
 * row; nothing else knows a family.                                          */
#ifndef AT_HF_H
#define AT_HF_H

#include "data/json.h"
#include "data/safetensors.h"
#include "train/certificate.h"
#include "train/model_file.h"

/* ---- families ------------------------------------------------------------- */

struct at_hf_family;

/* The family of a config.json, and what it says as our description.  path is
 * named in messages.  Names of labels live in cx->run.                       */
int at_hf_read_config(struct at_ctx *cx, const char *path,
                      const json_t *config, const struct at_hf_family **f,
                      struct at_decoder *d);
/* A config.json for a description that came from elsewhere.                  */
int at_hf_make_config(struct at_ctx *cx, const struct at_hf_family *f,
                      const struct at_decoder *d, json_t **config);
/* The row of a description; an error if the family has none.                 */
int at_hf_family(struct at_ctx *cx, const struct at_decoder *d,
                 const struct at_hf_family **f);
/* A head of n labels without names: LABEL_0 ..., or one number.               */
int at_hf_plain_labels(struct at_ctx *cx, size_t n, struct at_decoder *d);
/* What config.json says of a model with a value: architecture and labels.    */
int at_hf_put_labels(struct at_ctx *cx, const struct at_hf_family *f,
                     const struct at_decoder *d, json_t *config);

/* Where a param lies in Hugging Face's tensors: row r of ours is row
 * at_hf_row(p, r) of the tensor `name`, which has `rows` rows in all.        */
struct at_hf_place {
    char name[AT_ST_NAME];
    bool turned;                /* the tensor is [in, out]                    */
    bool shared;                /* it holds other params too                  */
    size_t rows, cols;          /* cols 1 for biases                          */
    size_t n_dims;
    size_t K, head, part, base; /* rows of a head, apart, of this part        */
    size_t rotary;              /* channels of a head that turn               */
    bool pairs, moves;          /* the channels of a head lie otherwise       */
};
/* false: the family has no name for it.                                      */
bool at_hf_place(const struct at_hf_family *f, const struct at_decoder *d,
                 const char *name, const struct at_shape *shape,
                 struct at_hf_place *p);
size_t at_hf_row(const struct at_hf_place *p, size_t r);
/* Tensors that hold nothing to learn: a mask, a table of frequencies; and those
 * of heads that are left out.                                                */
bool at_hf_ignores(const struct at_hf_family *f, const struct at_decoder *d,
                   const char *tensor);
/* Only the latter.                                                           */
bool at_hf_leaves(const struct at_hf_family *f, const char *tensor);
/* The tensor's name, or without the prefix that some files leave out.        */
const struct at_st_tensor *at_hf_find(const struct at_hf_family *f,
                                      const struct at_st *st,
                                      const char *name);

/* ---- in and out ----------------------------------------------------------- */

/* Files of the folder that a model file keeps as arrays under this name.     */
#define AT_HF_KEPT "hf/"

/* DIR with config.json, safetensors and tokenizer files becomes the model file
 * `out`.  bare: without tokenizer.  Takes the memory of the largest tensor.  */
int at_hf_import(struct at_ctx *cx, const char *dir, const char *out,
                 bool bare);

struct at_hf_out {
    const char *dtype;          /* NULL: what was imported, else float32      */
    bool merge;                 /* add the adapter to the weights             */
    uint64_t shard_bytes;       /* a file's most; 0: 5 GB                     */
};
/* A model file, checkpoint or run becomes the folder `dir`, which must not
 * exist or be empty; attune-certificate.json in it says how alike the two are,
 * and so does c (positions 0: models that judge texts have none).            */
int at_hf_export(struct at_ctx *cx, const char *path, const char *dir,
                 const struct at_hf_out *o, struct at_certificate *c);

/* An adapter in PEFT's files, out and in.  base: the model file it belongs to;
 * `out` refers to it.                                                        */
int at_hf_export_peft(struct at_ctx *cx, const char *path, const char *dir,
                      const char *dtype, struct at_certificate *c);
int at_hf_import_peft(struct at_ctx *cx, const char *dir, const char *base,
                      const char *out);

#endif
