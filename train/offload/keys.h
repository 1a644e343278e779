/* Who may do what on a server: its certificate, its users and their rights, and
 * the files of credentials that trainers and workers hold.
 *
 *     DIR/server.conf     of nats-server; includes
 *     DIR/users.conf      a user a line: name, hash of the password, rights
 *     DIR/server.pem, server-key.pem
 *     DIR/trainer.creds, DIR/NAME.creds   secret: one for every machine
 *
 * Credentials hold the server's certificate: no other server is believed, by
 * whatever name or address it is reached.                                    */
#ifndef AT_KEYS_H
#define AT_KEYS_H

#include "base/base.h"

struct at_credentials {
    const char *run, *user, *password;
    const char *certificate;    /* PEM                                        */
};

/* Refuses a file that others may read.                                       */
int at_credentials_read(struct at_ctx *cx, struct at_arena *a, const char *path,
                        struct at_credentials *c);
/* Whether a text may be a name of a run or a user: letters, digits, - and _. */
bool at_key_name(const char *name);

/* Makes DIR with a certificate, a trainer and `workers` workers for a run; or,
 * in one that is there, adds workers only.  Never overwrites credentials.    */
int at_keys_make(struct at_ctx *cx, const char *dir, const char *run,
                 size_t workers, struct at_text *said);
/* Takes a user's rights away; a running server is told.                      */
int at_keys_revoke(struct at_ctx *cx, const char *dir, const char *user);
/* Becomes nats-server; returns only when that fails.  listen: "HOST:PORT".   */
int at_keys_serve(struct at_ctx *cx, const char *dir, const char *listen);

#endif
