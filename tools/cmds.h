/* Every command: one row, defined in its cmd_*.c. */
#ifndef AT_CMDS_H
#define AT_CMDS_H

#include "data/h5.h"
#include "tools/cli.h"
#include "train/report.h"

extern const struct cmd cmd_train, cmd_resume, cmd_plan, cmd_replay, cmd_data,
    cmd_inspect, cmd_tokenizer, cmd_tokenize, cmd_import, cmd_generate,
    cmd_eval, cmd_classify, cmd_analyze, cmd_drop, cmd_prune, cmd_rollout,
    cmd_compare, cmd_palette, cmd_merge, cmd_soup, cmd_export, cmd_report,
    cmd_recipe_show, cmd_recipe_check, cmd_recipe_keys,
    cmd_recipe_docs, cmd_doctor, cmd_worker, cmd_offload_keys,
    cmd_offload_serve, cmd_offload_status, cmd_users;

/* "float32", "bfloat16"; NULL: float32.                                       */
int weight_type(struct at_ctx *cx, const char *word, enum at_h5_type *type);

#endif
