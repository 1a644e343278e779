/* Folders that appear whole, and the files that an import kept; hf_*.c and chat_choice.c only. */
#ifndef AT_HF_FOLDER_H
#define AT_HF_FOLDER_H

#include "train/hf.h"

/* dir must not exist, or be an empty directory.                              */
int at_hf_check_dir(struct at_ctx *cx, const char *dir);
/* Has `fill` write into a folder beside dir, which then becomes dir; on
 * failure nothing is left.                                                   */
int at_hf_make_dir(struct at_ctx *cx, const char *dir,
                   int (*fill)(struct at_ctx *cx, void *self, const char *tmp),
                   void *self);
int at_hf_put(struct at_ctx *cx, const char *dir, const char *name,
              const void *bytes, size_t n);
/* Takes the reference to v, also on failure.                                 */
int at_hf_put_json(struct at_ctx *cx, const char *dir, const char *name,
                   json_t *v);

/* at_certify_back of the folder b->made, with what weights of this type may
 * lose, and attune-certificate.json in it.                                   */
int at_hf_certify(struct at_ctx *cx, const struct at_read_back *b,
                  enum at_st_type type, struct at_certificate *c);

/* Puts the files of the folder `from` that are worth it into f.              */
int at_hf_keep(struct at_ctx *cx, struct at_h5 *f, const char *from);
/* A kept file, in the scratch arena; *bytes NULL: it was not kept.            */
int at_hf_kept(struct at_ctx *cx, struct at_h5 *f, const char *name,
               char **bytes, size_t *n);
/* A kept file as JSON; *v NULL: it was not kept.                             */
int at_hf_kept_json(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    json_t **v);
/* Writes the kept files but config.json; whether a tokenizer.json was one.   */
int at_hf_put_kept(struct at_ctx *cx, struct at_h5 *f, const char *dir,
                   bool *tokenizer);

#endif
