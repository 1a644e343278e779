/* Parsing and helping, from the tables. */
#include "tools/cli.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile int stop;

/* Who reads the output may be stopped too: that must not end what is saved.
 * When a terminal goes, the shell and the system both tell it.               */
static void on_signal(int sig)
{
    if (stop && sig != SIGHUP)
        _exit(130);             /* a second Ctrl-C does not wait             */
    signal(SIGPIPE, SIG_IGN);
    stop = 1;
}

static void on_log(void *self, enum at_level level, const char *line)
{
    (void)self;
    if (level == AT_LOG_WARN)
        fprintf(stderr, "attune: warning: %s\n", line);
    else if (level == AT_LOG_INFO)
        fprintf(stderr, "%s\n", line);
}

static void print_usage(FILE *to)
{
    fprintf(to, "attune: align and fine-tune language models from a recipe\n\n"
                "usage: attune COMMAND [ARGUMENTS] [--OPTIONS]\n\n");
    for (size_t i = 0; i < n_cmds; i++)
        fprintf(to, "  %-16s %s\n", cmds[i]->name, cmds[i]->summary);
    fprintf(to, "\n'attune help COMMAND' says more; 'attune --version' prints "
                "the version.\n");
}

static void print_help(FILE *to, const struct cmd *c)
{
    fprintf(to, "usage: attune %s %s%s\n\n%s\n", c->name, c->args,
            c->n_opts ? " [--OPTIONS]" : "", c->summary);
    for (size_t i = 0; i < c->n_opts; i++) {
        const struct opt *o = &c->opts[i];
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", o->name, o->arg ? " " : "",
                 o->arg ? o->arg : "");
        fprintf(to, "%s  %-24s %s\n", i ? "" : "\n", left, o->help);
    }
}

/* A manual page in man(7), from the same rows. */
static void print_man(void)
{
    printf(".TH ATTUNE 1 \"\" \"attune %s\" \"User Commands\"\n"
           ".SH NAME\nattune \\- align and fine-tune language models from a "
           "recipe\n.SH SYNOPSIS\n.B attune\n.I COMMAND\n[ARGUMENTS] "
           "[\\-\\-OPTIONS]\n.SH COMMANDS\n", AT_VERSION);
    for (size_t i = 0; i < n_cmds; i++) {
        printf(".SS \"attune %s %s\"\n%s.\n", cmds[i]->name, cmds[i]->args,
               cmds[i]->summary);
        for (size_t j = 0; j < cmds[i]->n_opts; j++) {
            const struct opt *o = &cmds[i]->opts[j];
            printf(".TP\n.B \\-\\-%s\n", o->name + 2);
            if (o->arg)
                printf(".I %s\n", o->arg);
            printf("%s\n", o->help);
        }
    }
    printf(".SH EXIT STATUS\n0 done, 1 the work failed, 2 the request was "
           "wrong.\n.SH ENVIRONMENT\n.TP\n.B ATTUNE_ISA\nv2, v3 or v4: the "
           "kernels to use.\n.TP\n.B OMP_NUM_THREADS\nthe thread budget, when "
           "the recipe names none.\n");
}

/* Words for shell completion: every command, then its options.              */
static void print_words(void)
{
    for (size_t i = 0; i < n_cmds; i++) {
        printf("%s:", cmds[i]->name);
        for (size_t j = 0; j < cmds[i]->n_opts; j++)
            printf(" %s", cmds[i]->opts[j].name);
        printf("\n");
    }
}

static int set(struct at_ctx *cx, const struct opt *o, void *args,
               const char *text)
{
    char *slot = (char *)args + o->at, *end;
    struct texts *list = (struct texts *)(void *)slot;
    errno = 0;
    switch (o->kind) {
    case OPT_FLAG:
        *(bool *)(void *)slot = true;
        return AT_OK;
    case OPT_TEXT:
        *(const char **)(void *)slot = text;
        return AT_OK;
    case OPT_INT:
        *(int64_t *)(void *)slot = strtoll(text, &end, 10);
        break;
    case OPT_REAL:
        *(double *)(void *)slot = strtod(text, &end);
        break;
    case OPT_LIST:
        if (list->n == AT_COUNT(list->s))
            return at_fail(cx, AT_EINVAL, "%s may be given at most %zu times",
                           o->name, AT_COUNT(list->s));
        list->s[list->n++] = text;
        return AT_OK;
    }
    if (end == text || *end || errno)
        return at_fail(cx, AT_EINVAL, "%s: '%s' is not a number", o->name,
                       text);
    return AT_OK;
}

static int unknown_option(struct at_ctx *cx, const struct cmd *c,
                          const char *word)
{
    const char *names[64], *near;
    size_t n = 0;
    for (; n < c->n_opts && n < AT_COUNT(names); n++)
        names[n] = c->opts[n].name;
    near = at_did_you_mean(word, names, n);
    return at_fail(cx, AT_EINVAL, "attune %s has no option %s%s%s%s; 'attune "
                   "help %s' lists them", c->name, word,
                   near ? ": did you mean " : "", near ? near : "",
                   near ? "?" : "", c->name);
}

static int parse_option(struct at_ctx *cx, const struct cmd *c, void *args,
                        char *const *argv, int argc, int *i)
{
    const char *word = argv[*i], *eq = strchr(word, '=');
    size_t n = eq ? (size_t)(eq - word) : strlen(word);
    for (size_t k = 0; k < c->n_opts; k++) {
        const struct opt *o = &c->opts[k];
        if (strlen(o->name) != n || strncmp(o->name, word, n) != 0)
            continue;
        if (o->kind == OPT_FLAG)
            return eq ? at_fail(cx, AT_EINVAL, "%s takes no value", o->name)
                      : set(cx, o, args, NULL);
        if (!eq && *i + 1 >= argc)
            return at_fail(cx, AT_EINVAL, "%s needs %s", o->name, o->arg);
        return set(cx, o, args, eq ? eq + 1 : argv[++*i]);
    }
    return unknown_option(cx, c, word);
}

static int run_cmd(struct at_ctx *cx, const struct cmd *c, char *const *argv,
                   int argc)
{
    char **pos = at_alloc_n(cx, &cx->run, (size_t)argc + 1, sizeof *pos);
    void *args = at_alloc(cx, &cx->run, c->args_size + 1);
    int n_pos = 0, rc = AT_OK;
    bool raw = false;
    if (!pos || !args)
        return AT_ENOMEM;
    if (c->defaults)
        c->defaults(args);
    for (int i = 0; i < argc && rc == AT_OK; i++) {
        if (!raw && strcmp(argv[i], "--") == 0)
            raw = true;
        else if (!raw && strcmp(argv[i], "--help") == 0) {
            print_help(stdout, c);
            return AT_OK;
        } else if (!raw && strncmp(argv[i], "--", 2) == 0)
            rc = parse_option(cx, c, args, argv, argc, &i);
        else
            pos[n_pos++] = argv[i];
    }
    if (rc < 0)
        return rc;
    if (n_pos < c->min_pos || n_pos > c->max_pos)
        return at_fail(cx, AT_EINVAL, "usage: attune %s %s ('attune help %s' "
                       "says more)", c->name, c->args, c->name);
    return c->run(cx, args, pos, n_pos);
}

/* The command whose words stand first in argv; *used: how many words.        */
static const struct cmd *find(char *const *argv, int argc, int *used)
{
    for (size_t i = 0; i < n_cmds; i++) {
        const char *space = strchr(cmds[i]->name, ' ');
        size_t n = space ? (size_t)(space - cmds[i]->name)
                         : strlen(cmds[i]->name);
        if (argc < 1 || strlen(argv[0]) != n ||
            strncmp(argv[0], cmds[i]->name, n) != 0)
            continue;
        *used = space ? 2 : 1;
        if (!space || (argc > 1 && strcmp(argv[1], space + 1) == 0))
            return cmds[i];
    }
    return NULL;
}

static int unknown_command(const char *word)
{
    const char *names[64], *near;
    size_t n = 0;
    for (; n < n_cmds && n < AT_COUNT(names); n++)
        names[n] = cmds[n]->name;
    near = at_did_you_mean(word, names, n);
    fprintf(stderr, "attune: there is no command '%s'%s%s%s; 'attune help' "
            "lists them\n", word, near ? ": did you mean '" : "",
            near ? near : "", near ? "'?" : "");
    return 2;
}

static int help(char *const *argv, int argc)
{
    const struct cmd *c;
    int used = 0;
    if (argc == 0) {
        print_usage(stdout);
        return 0;
    }
    if (strcmp(argv[0], "--man") == 0 || strcmp(argv[0], "--words") == 0) {
        if (argv[0][2] == 'm')
            print_man();
        else
            print_words();
        return 0;
    }
    c = find(argv, argc, &used);
    if (!c)
        return unknown_command(argv[0]);
    print_help(stdout, c);
    return 0;
}

static void watch_signals(void)
{
    struct sigaction a = { 0 }, was;
    a.sa_handler = on_signal;
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    if (sigaction(SIGHUP, NULL, &was) == 0 && was.sa_handler != SIG_IGN)
        sigaction(SIGHUP, &a, NULL);    /* nohup's wish stands               */
    a.sa_handler = SIG_IGN;
    sigaction(SIGXFSZ, &a, NULL);       /* a file size limit is an error     */
}

/* Threads that wait for each other spin some milliseconds before they sleep,
 * as libgomp comes; on a machine with other work that made small products 30
 * times slower, since the one waited for had no core.  The variable is read
 * when the program starts, so it starts once more; whoever sets it has his way. */
static void wait_kindly(char *const *argv)
{
    static const char name[] = "GOMP_SPINCOUNT";
    if (getenv(name) || getenv("OMP_WAIT_POLICY") || setenv(name, "10000", 0))
        return;
    execv("/proc/self/exe", argv);      /* without /proc: as it comes         */
}

static int act(int argc, char *const *argv)
{
    static struct at_ctx cx;
    const struct cmd *c;
    int used = 0, rc;

    if (argc < 2) {
        print_usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("attune %s\n", AT_VERSION);
        return 0;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0)
        return help(argv + 2, argc - 2);
    c = find(argv + 1, argc - 1, &used);
    if (!c)
        return unknown_command(argv[1]);
    wait_kindly(argv);
    at_ctx_init(&cx);
    cx.log = on_log;
    cx.stop = &stop;
    watch_signals();
    rc = run_cmd(&cx, c, argv + 1 + used, argc - 1 - used);
    if (rc < 0)
        fprintf(stderr, "attune: %s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return rc == AT_OK ? 0 : rc == AT_EINVAL ? 2 : 1;
}

/* What was printed must have arrived: of long output a part fails before the
 * last flush does.                                                           */
int cli_main(int argc, char *const *argv)
{
    int status = act(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0) {
        fprintf(stderr, "attune: standard output cannot be written\n");
        status = 1;
    }
    return status;
}
