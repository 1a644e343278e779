/* chat: conversations as the text that a family of models was taught them in.
 *
 * A template is a row: what stands before and after the words of each role.
 * Rendering tells which bytes are an answer, its end of turn included, and which
 * are the template's own: special tokens are read in those alone, so that no
 * user can write one.  Texts are those of transformers' apply_chat_template.   */
#ifndef AT_CHAT_H
#define AT_CHAT_H

#include "data/tokenizer.h"

enum at_chat_role { AT_CHAT_SYSTEM, AT_CHAT_USER, AT_CHAT_ASSISTANT,
                    AT_CHAT_TOOL, AT_CHAT_ROLES };
extern const char *const at_chat_role_names[AT_CHAT_ROLES];

struct at_chat_turn { enum at_chat_role role; const char *text; size_t n; };

/* "{bos}" and "{eos}" are the tokenizer's; a role whose `before` is NULL has no
 * turn.                                                                       */
struct at_chat {
    const char *name;
    const char *begin;          /* of the text                                */
    struct { const char *before, *after; } turn[AT_CHAT_ROLES];
    const char *lead;           /* before an answer, learnt with it           */
    const char *rest;           /* behind an answer's end, not learnt         */
    const char *again;          /* before every user's turn but the first     */
    const char *end;            /* of a text that ends in an answer           */
    const char *preamble;       /* the system's words where none are said     */
    bool system_within;         /* the system's turn is part of the first
                                 * user's words                               */
    bool trim, alternate;       /* words are trimmed; users and assistants
                                 * take turns                                 */
};

/* NULL: no such name.                                                         */
const struct at_chat *at_chat_find(const char *name);
/* "chatml, llama2, .."                                                        */
const char *at_chat_names(void);
/* The row that a model's own template (Jinja) means; NULL: none that is sure.  */
const struct at_chat *at_chat_recognise(const char *jinja);
/* "user", or "human" and the like of ShareGPT; false: unknown.                 */
bool at_chat_role_find(const char *name, enum at_chat_role *role);

struct at_chat_text {
    char *s;                    /* in the arena                               */
    size_t n;
    struct at_tok_span *answer, *own;   /* rising, in the arena               */
    size_t n_answers, n_own;
};

/* ask: the text ends where the assistant is to speak.  Else turns behind the
 * last answer are left out.  What is wrong with the conversation stands in why,
 * which is empty on success; only memory fails.                               */
int at_chat_render(struct at_ctx *cx, struct at_arena *a,
                   const struct at_chat *c, const struct at_tok *tok,
                   const struct at_chat_turn *turn, size_t n, bool ask,
                   struct at_chat_text *out, char why[256]);
/* The token that ends an answer; AT_TOK_NONE: it is not one special token.     */
int32_t at_chat_end_token(const struct at_chat *c, const struct at_tok *tok);

#endif
