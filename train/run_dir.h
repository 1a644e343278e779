/* A run's directory: made, taken by one process at a time, and whether what is
 * in it hangs together; inside run.c and users.c only.                       */
#ifndef AT_RUN_DIR_H
#define AT_RUN_DIR_H

#include "train/run.h"

/* An error where `dir` holds a run already, or anything else that a new run
 * would mix with.  Not being there is fine, and so is what a run leaves that
 * ended before its recipe was written.                                       */
int at_run_dir_check_new(struct at_ctx *cx, const char *dir);

struct at_run_lock;

/* Makes `dir`, its parents and its folder `part`, and takes it: until it is
 * dropped, or this process ends in any way, a second one gets an error that
 * names this one.  A file system without locks is warned of.                 */
int at_run_dir_take(struct at_ctx *cx, const char *dir, const char *part,
                    struct at_run_lock **lock);
void at_run_dir_drop(struct at_run_lock *lock);        /* NULL is fine        */

/* Compares a resumed job's step with DIR/metrics.jsonl: says how many steps
 * are to be done again, warns of rows that lack.  found: from a checkpoint.  */
int at_run_dir_compare(struct at_job *job, bool found);

#endif
