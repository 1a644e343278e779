/* attune: the program. */
#include "tools/cmds.h"

const struct cmd *const cmds[] = {
    &cmd_train, &cmd_resume, &cmd_plan, &cmd_replay, &cmd_data, &cmd_inspect,
    &cmd_tokenizer, &cmd_tokenize, &cmd_import, &cmd_generate, &cmd_eval,
    &cmd_classify,
    &cmd_analyze, &cmd_drop, &cmd_prune, &cmd_rollout, &cmd_compare, &cmd_palette,
    &cmd_worker, &cmd_offload_keys, &cmd_offload_serve, &cmd_offload_status,
    &cmd_users,
    &cmd_merge, &cmd_soup, &cmd_export, &cmd_report, &cmd_recipe_show, &cmd_recipe_check,
    &cmd_recipe_keys, &cmd_recipe_docs, &cmd_doctor,
};
const size_t n_cmds = AT_COUNT(cmds);

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
