/* chat_choice: which chat template a model is read by. */
#ifndef AT_CHAT_CHOICE_H
#define AT_CHAT_CHOICE_H

#include "data/chat.h"
#include "data/h5.h"

/* name: of a row of chat.h, or "auto": the one that the model file f (at path)
 * kept of its folder of Hugging Face.  NULL: that one, or *c NULL where it has
 * none that is known.                                                         */
int at_chat_choose(struct at_ctx *cx, struct at_h5 *f, const char *path,
                   const char *name, const struct at_chat **c);
/* Says so where an answer's end is not what generation stops at.               */
void at_chat_warn(struct at_ctx *cx, const struct at_chat *c,
                  const struct at_tok *tok);

/* The chat template that an import kept in the file, in the run's arena; NULL:
 * it has none.                                                               */
int at_chat_own(struct at_ctx *cx, struct at_h5 *f, const char **jinja);

#endif
