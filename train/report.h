/* report: runs as one self-contained HTML page.
 *
 * Reads what stands in the runs' directories: recipe.yaml, metrics.jsonl,
 * samples.jsonl, facts.jsonl; only the metrics must be there.  The page needs
 * no network: no scripts, fonts or pictures from elsewhere; without scripts
 * it only lacks the values under the pointer.  All that comes from a run is
 * escaped.                                                                   */
#ifndef AT_REPORT_H
#define AT_REPORT_H

#include "base/base.h"

enum { AT_REPORT_RUNS_MAX = 8 };

/* Writes the page; several runs are laid over each other.                    */
int at_report_write(struct at_ctx *cx, const char *const *run_dirs, size_t n,
                    const char *out_path);

/* What else a page should say of a run, such as { "model", "parameters",
 * "15.2 million" } or { "data", "documents", "48 213" }; facts of one group
 * stand together.                                                            */
struct at_fact { const char *group, *name, *value; };

/* Writes DIR/facts.jsonl whole. */
int at_report_facts(struct at_ctx *cx, const char *dir,
                    const struct at_fact *facts, size_t n);

#endif
