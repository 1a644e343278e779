/* Every command: one row, defined in its cmd_*.c. */
#ifndef AT_CMDS_H
#define AT_CMDS_H

#include "tools/cli.h"
#include "train/report.h"

extern const struct cmd cmd_train, cmd_resume, cmd_plan, cmd_replay, cmd_data,
    cmd_inspect, cmd_tokenizer, cmd_tokenize, cmd_import, cmd_generate,
    cmd_eval, cmd_rollout, cmd_palette, cmd_merge, cmd_export, cmd_report, cmd_recipe_show,
    cmd_recipe_check, cmd_recipe_keys, cmd_recipe_docs, cmd_doctor;

#endif
