/* attune users. */
#include "tools/cmds.h"
#include "train/users.h"

#include <math.h>

struct users_args { const char *add, *remove; bool json; };

static const struct opt opts[] = {
    { "--add", OPT_TEXT, offsetof(struct users_args, add),
      "'NAME key=value ...'", "one more, also while the run goes on" },
    { "--remove", OPT_TEXT, offsetof(struct users_args, remove), "NAME",
      "train it no further; its directory stays" },
    { "--json", OPT_FLAG, offsetof(struct users_args, json), NULL,
      "for programs" },
};

static void print_number(const char *key, double x)
{
    if (isnan(x))
        printf(", \"%s\": null", key);
    else
        printf(", \"%s\": %.17g", key, x);
}

static void print_json(const struct at_user_row *u, size_t n)
{
    printf("[");
    for (size_t i = 0; i < n; i++) {
        printf("%s{\"name\": \"%s\", \"here\": %s, \"step\": %llu, "
               "\"tokens\": %llu", i ? ",\n " : "", u[i].name,
               u[i].here ? "true" : "false", (unsigned long long)u[i].step,
               (unsigned long long)u[i].tokens);
        print_number("loss", u[i].loss);
        print_number("eval_loss", u[i].eval_loss);
        print_number("seconds", u[i].busy_s);
        printf("}");
    }
    printf("]\n");
}

static void print_table(const struct at_user_row *u, size_t n)
{
    double all = 0;
    for (size_t i = 0; i < n; i++)
        all += u[i].busy_s;
    printf("%-24s %8s %10s %12s %10s %6s\n", "user", "step", "loss", "tokens",
           "seconds", "share");
    for (size_t i = 0; i < n; i++)
        printf("%-24s %8llu %10.4f %12llu %10.1f %5.0f%%%s\n", u[i].name,
               (unsigned long long)u[i].step, u[i].loss,
               (unsigned long long)u[i].tokens, u[i].busy_s,
               all > 0 ? 100 * u[i].busy_s / all : 0,
               u[i].here ? "" : "  (gone)");
}

static int users(struct at_ctx *cx, const void *args, char *const *pos, int n)
{
    const struct users_args *a = args;
    struct at_user_row *rows;
    size_t count;
    int rc = AT_OK;
    (void)n;
    if (a->add)
        rc = at_users_add(cx, pos[0], a->add);
    if (rc == AT_OK && a->remove)
        rc = at_users_remove(cx, pos[0], a->remove);
    if (rc == AT_OK)
        rc = at_users_list(cx, pos[0], &rows, &count);
    if (rc < 0)
        return rc;
    if (a->json)
        print_json(rows, count);
    else
        print_table(rows, count);
    return AT_OK;
}

const struct cmd cmd_users = {
    "users", "RUN", "who shares a run's model: progress, loss, tokens, cost", 1,
    1, opts, AT_COUNT(opts), sizeof(struct users_args), NULL, users
};
