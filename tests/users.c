/* Many users of one model: each gets the bits of a run of its own, whoever comes
 * or goes.                                                                   */
#include "tests/runs.h"
#include "tests/world.h"

#include "train/hf.h"
#include "train/users.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/attune-users-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[8][512];
    static int turn;
    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static const char text[] =
    "seed: 3\nthreads: 2\nmodel: {path: %s/base}\n"
    "data: {path: %s/data.h5}\nbatch: {rows: 7, length: 64, accumulate: 2}\n"
    "objective: lm\nlora: {rank: 4, targets: '(q|v)_proj'}\n"
    "optim: {lr: 1e-2}\ntrain: {steps: 12}\neval: {every: 4, batches: 2}\n"
    "checkpoint: {every: 3, keep: 3}\nrun: %s/%s\n";

/* What differs between users: rank, kind of data order, rate, size, length.  */
static const struct { const char *name, *over[3]; } people[] = {
    { "ann", { NULL } },
    { "bob", { "lora.rank=8", "optim.lr=2e-2", NULL } },
    { "eve", { "seed=9", "batch.rows=3", NULL } },
    { "joe", { "lora.targets=v_proj", "data.shuffle=false", NULL } },
};
enum { PEOPLE = 4 };

static int run(const char *name, const char *const *over, at_progress_fn *f,
               void *self, char err[4096])
{
    char yaml[2048];
    struct at_recipe *r;
    struct at_ctx cx;
    size_t n = 0;
    int rc;
    while (over && over[n])
        n++;
    snprintf(yaml, sizeof yaml, text, dir, dir, dir, name);
    at_ctx_init(&cx);
    rc = at_recipe_parse(&cx, &cx.run, "test.yaml", yaml, strlen(yaml), over, n,
                         &r);
    if (rc == AT_OK)
        rc = at_run_train(&cx, r, true, f, self);
    if (err)
        snprintf(err, 4096, "%s", cx.err.msg);
    else if (rc < 0)
        print_error("%s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

static int resume(const char *name)
{
    struct at_ctx cx;
    int rc;
    at_ctx_init(&cx);
    rc = at_run_resume(&cx, in_dir(name), NULL, NULL);
    if (rc < 0)
        print_error("%s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return rc;
}

static int set_up(void **state)
{
    struct at_ctx cx;
    int rc;
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    at_ctx_init(&cx);
    rc = make_world(&cx, dir);
    at_ctx_finish(&cx);
    for (size_t i = 0; i < PEOPLE && rc == AT_OK; i++)
        rc = run(people[i].name, people[i].over, NULL, NULL, NULL);
    return rc;
}

static int clean_up(void **state)
{
    char command[600];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static const char everybody[] = "users=[ann, bob lora.rank=8 optim.lr=2e-2, "
    "eve seed=9 batch.rows=3, joe lora.targets=v_proj data.shuffle=false]";

static void same_as_alone(const char *many, size_t who)
{
    char path[64];
    snprintf(path, sizeof path, "%s/users/%s", many, people[who].name);
    same_states(in_dir(people[who].name), in_dir(path));
    same_metrics(in_dir(people[who].name), in_dir(path));
}

/* By turns, or several in a pass of the model; gradients in the graph or away. */
static void each_has_the_bits_of_a_run_of_its_own(void **state)
{
    static const struct { const char *pass, *away; } how[] = {
        { "batch.users=1", NULL },
        { "batch.users=4", NULL },
        { "batch.users=3", "offload={engine: local, workers: 2}" },
        { "batch.users=1", "offload={engine: local, workers: 2}" },
    };
    (void)state;
    for (size_t k = 0; k < AT_COUNT(how); k++) {
        const char *over[] = { everybody, how[k].pass, how[k].away, NULL };
        char name[32];
        snprintf(name, sizeof name, "many%zu", k);
        assert_int_equal(run(name, over, NULL, NULL, NULL), AT_OK);
        for (size_t i = 0; i < PEOPLE; i++)
            same_as_alone(name, i);
    }
}

struct event { uint64_t at; const char *run; volatile int stop; bool done; };

static void stop_at(void *self, const struct at_progress *p)
{
    struct event *e = self;
    if (p->r && p->job->s.step == e->at) {
        e->stop = 1;
        p->job->cx->stop = &e->stop;
    }
}

static void stopped_and_resumed_is_undisturbed(void **state)
{
    const char *over[] = { everybody, "batch.users=2", NULL };
    struct event e = { .at = 5 };
    char err[4096];
    (void)state;
    assert_int_equal(run("parts", over, stop_at, &e, err), AT_EINTR);
    assert_non_null(strstr(err, "attune resume"));
    assert_int_equal(resume("parts"), AT_OK);
    for (size_t i = 0; i < PEOPLE; i++)
        same_as_alone("parts", i);
    assert_int_equal(resume("parts"), AT_OK);   /* finished: nothing more     */
}

/* At step 5 joe comes and bob goes: ann, eve and joe are as they were.       */
static void change(void *self, const struct at_progress *p)
{
    struct event *e = self;
    struct at_ctx cx;
    if (!p->r || p->job->s.step != e->at || e->done)
        return;
    e->done = true;
    at_ctx_init(&cx);
    OK(&cx, at_users_add(&cx, in_dir(e->run), "joe lora.targets=v_proj "
                         "data.shuffle=false"));
    OK(&cx, at_users_remove(&cx, in_dir(e->run), "bob"));
    at_ctx_finish(&cx);
}

/* Neither the whole run nor a user of it is to be had meanwhile.             */
static void want_them(void *self, const struct at_progress *p)
{
    struct event *e = self;
    const char *const wanted[] = { "held", "held/users/ann", "held/users/bob" };
    if (!p->r || p->job->s.step != e->at || e->done)
        return;
    e->done = true;
    for (size_t i = 0; i < AT_COUNT(wanted); i++) {
        struct at_ctx cx;
        at_ctx_init(&cx);
        assert_int_equal(at_run_resume(&cx, in_dir(wanted[i]), NULL, NULL),
                         AT_EINVAL);
        assert_non_null(strstr(cx.err.msg, "is being trained by process"));
        at_ctx_finish(&cx);
    }
}

static void users_are_trained_by_one_process(void **state)
{
    const char *over[] = { "users=[ann, bob]", NULL };
    struct event e = { .at = 5 };
    (void)state;
    assert_int_equal(run("held", over, want_them, &e, NULL), AT_OK);
    assert_true(e.done);
    assert_int_equal(resume("held"), AT_OK);
    assert_int_equal(resume("held/users/ann"), AT_OK);
}

static const struct at_user_row *row_of(const struct at_user_row *u, size_t n,
                                        const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(u[i].name, name) == 0)
            return &u[i];
    fail_msg("%s is not in the list", name);
    return NULL;
}

static void users_come_and_go_between_steps(void **state)
{
    const char *over[] = { "users=[ann, bob lora.rank=8 optim.lr=2e-2, eve "
                           "seed=9 batch.rows=3]", "batch.users=4", NULL };
    struct event e = { .at = 5, .run = "change" };
    struct at_user_row *u;
    struct at_ctx cx;
    size_t n;
    (void)state;
    assert_int_equal(run("change", over, change, &e, NULL), AT_OK);
    same_as_alone("change", 0);
    same_as_alone("change", 2);
    same_as_alone("change", 3);
    at_ctx_init(&cx);
    OK(&cx, at_users_list(&cx, in_dir("change"), &u, &n));
    assert_int_equal(n, 4);
    assert_false(row_of(u, n, "bob")->here);
    assert_in_range(row_of(u, n, "bob")->step, 4, 6);
    assert_true(row_of(u, n, "joe")->here);
    assert_int_equal(row_of(u, n, "ann")->step, 12);
    assert_true(row_of(u, n, "ann")->tokens > 1000 &&
                row_of(u, n, "ann")->busy_s > 0 &&
                isfinite(row_of(u, n, "ann")->eval_loss));
    /* He comes back, and goes on where he was.                               */
    OK(&cx, at_users_add(&cx, in_dir("change"), "bob"));
    at_ctx_finish(&cx);
    assert_int_equal(resume("change"), AT_OK);
    same_as_alone("change", 1);
}

static void a_user_is_exported_alone(void **state)
{
    struct at_certificate said;
    struct at_ctx cx;
    char *one, *two;
    size_t n, m;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_hf_export_peft(&cx, in_dir("many0/users/bob"),
                              in_dir("peft-many"), NULL, &said));
    OK(&cx, at_hf_export_peft(&cx, in_dir("bob"), in_dir("peft-bob"), NULL, &said));
    OK(&cx, at_read_file(&cx, &cx.run,
                         in_dir("peft-many/adapter_model.safetensors"), 0, &one,
                         &n));
    OK(&cx, at_read_file(&cx, &cx.run,
                         in_dir("peft-bob/adapter_model.safetensors"), 0, &two,
                         &m));
    assert_int_equal(n, m);
    assert_memory_equal(one, two, n);
    at_ctx_finish(&cx);
}

/* The model's weights are there once.                                        */
static void what_they_share_they_share(void **state)
{
    struct at_recipe *r;
    struct at_job *j[2] = { NULL };
    struct at_ctx cx;
    char yaml[2048];
    (void)state;
    at_ctx_init(&cx);
    for (int i = 0; i < 2; i++) {
        snprintf(yaml, sizeof yaml, text, dir, dir, dir, i ? "b" : "a");
        OK(&cx, at_recipe_parse(&cx, &cx.run, "test.yaml", yaml, strlen(yaml),
                                NULL, 0, &r));
        OK(&cx, at_job_open_beside(&cx, r, i ? j[0] : NULL, &j[i]));
        OK(&cx, at_job_start(j[i]));
    }
    assert_ptr_equal(j[0]->ps.fixed, j[1]->ps.fixed);
    assert_ptr_equal(j[0]->st->region, j[1]->st->region);
    assert_ptr_not_equal(j[0]->ps.flat, j[1]->ps.flat);
    assert_int_equal(j[1]->memory[AT_MEM_FROZEN], 0);
    assert_int_equal(j[1]->memory[AT_MEM_ACTIVATIONS], 0);
    at_job_close(j[1]);
    at_job_close(j[0]);
    at_ctx_finish(&cx);
}

static void what_users_cannot_be_is_refused(void **state)
{
    static const struct { const char *over[3], *says; } bad[] = {
        { { "users=[a b]" }, "key=value" },
        { { "users=[an/n]" }, "a user is a name" },
        { { "users=[ann model.path=x]" }, "is the run's to set" },
        { { "users=[ann offload.engine=local]" }, "is the run's to set" },
        { { "users=[ann, ann]" }, "two users 'ann'" },
        { { "users=[ann lora.rnk=2]" }, "lora.rnk" },
        { { "users=[ann]", "lora.rank=0" }, "users train adapters" },
        { { "users=[ann]", "offload={engine: local, merged: true}" },
          "cannot hold the adapter of one" },
    };
    char err[4096], command[600];
    (void)state;
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        assert_true(run("refused", bad[i].over, NULL, NULL, err) < 0);
        if (!strstr(err, bad[i].says))
            fail_msg("'%s' is not in: %s", bad[i].says, err);
        snprintf(command, sizeof command, "rm -rf %s/refused", dir);
        assert_int_equal(system(command), 0);
    }
}

/* One whose data is gone does not stop the others.                           */
static void one_who_fails_fails_alone(void **state)
{
    const char *over[] = { "users=[ann, lou data.path=/nowhere.h5]", NULL };
    char err[4096];
    (void)state;
    assert_true(run("alone", over, NULL, NULL, err) < 0);
    assert_non_null(strstr(err, "/nowhere.h5"));
    assert_non_null(strstr(err, "training user lou"));
    same_as_alone("alone", 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_has_the_bits_of_a_run_of_its_own),
        cmocka_unit_test(stopped_and_resumed_is_undisturbed),
        cmocka_unit_test(users_come_and_go_between_steps),
        cmocka_unit_test(users_are_trained_by_one_process),
        cmocka_unit_test(a_user_is_exported_alone),
        cmocka_unit_test(what_they_share_they_share),
        cmocka_unit_test(what_users_cannot_be_is_refused),
        cmocka_unit_test(one_who_fails_fails_alone),
    };
    return cmocka_run_group_tests(tests, set_up, clean_up);
}
