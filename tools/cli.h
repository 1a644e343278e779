/* The command line: one table row per command, one per option.  Usage, help,
 * man page and completion are loops over the rows.                           */
#ifndef AT_CLI_H
#define AT_CLI_H

#include "base/base.h"

enum opt_kind { OPT_TEXT, OPT_INT, OPT_REAL, OPT_FLAG, OPT_LIST };

struct texts { const char *s[32]; size_t n; };      /* OPT_LIST               */

struct opt {
    const char *name;           /* "--model"                                  */
    enum opt_kind kind;
    size_t at;                  /* offset in the command's argument struct:
                                   const char *, int64_t, double, bool, texts */
    const char *arg;            /* "FILE"; NULL for flags                     */
    const char *help;
};

struct cmd {
    const char *name;           /* "recipe show" is one name                  */
    const char *args;           /* positional arguments, for people           */
    const char *summary;
    int min_pos, max_pos;       /* how many positional arguments              */
    const struct opt *opts;
    size_t n_opts, args_size;
    void (*defaults)(void *args);   /* NULL: zeros                            */
    int (*run)(struct at_ctx *cx, const void *args, char *const *pos,
               int n_pos);
};

extern const struct cmd *const cmds[];
extern const size_t n_cmds;

/* Exit status: 0 done, 1 the work failed, 2 the request was wrong.           */
int cli_main(int argc, char *const *argv);

#endif
