/* Every key of a recipe, one row each, and the rules between keys.  Printed as
 * docs/recipes.md; `attune recipe keys` prints it shorter.                   */
#include "recipes/schema.h"

#include <string.h>

#define INT(lo, hi, def) AT_T_INT, lo, hi, def
#define REAL(lo, hi, def) AT_T_REAL, lo, hi, def
#define BOOL(def) AT_T_BOOL, 0, 0, def
#define TEXT(kind, def) AT_T_##kind, 0, 0, def
#define CHOICE(list, def) AT_T_CHOICE, 0, 0, def, .choices = list

#define COUNT_MAX 1e15          /* steps, tokens: exact as a double           */

const struct at_key_group at_key_groups[] = {
    { "model", "What is trained: a model file to start from (`path`), or a "
               "`family` and its sizes to train from scratch." },
    { "data", "What it is trained on: a dataset made by `attune data`." },
    { "batch", "How many tokens make a step: rows x length x accumulate." },
    { "align", "Objectives over whole texts: preferences, rewards." },
    { "teacher", "A model whose predictions are learnt beside the targets, such "
                 "as the dense model that a pruned one was made of." },
    { "lora", "Low-rank adapters (LoRA): the model stays as it is and small "
              "factors beside its weights are trained." },
    { "masked_lora", "Low-rank adapters on a pruned model (`attune prune`) that "
                     "keep it pruned: the update has the mask of the weight "
                     "(SparseLoRA of RESSA)." },
    { "linear", "Whole matrices beside the model's own: fine-tuning of chosen "
                "layers in full, kept apart from the model." },
    { "mlp", "Small networks beside the model's layers." },
    { "context_sparse", "Contextual sparsity (SparseLoRA): faster training of "
                        "adapters.  Tokens that are read but not learnt go "
                        "through the channels of the frozen layers that "
                        "matter most to their text." },
    { "router", "Routers (MindSkip): a trained decision beside a layer's "
                "attention or mlp skips it for texts or tokens that do not "
                "need it." },
    { "offload", "Gradients of adapters computed away from the model (ColA, "
                 "gradient learning): from rows of their inputs and of the "
                 "gradients at their outputs." },
    { "optim", "The optimizer." },
    { "schedule", "The learning rate over the steps of the run." },
    { "train", "How long, and how." },
    { "gradual", "Pruning while the weights are trained: the smallest of every "
                 "matrix go to zero and stay there." },
    { "eval", "Measuring on documents that are not trained on." },
    { "checkpoint", "Saving, so that a run can be resumed." },
    { "log", "Metrics." },
};
const size_t at_n_key_groups = AT_COUNT(at_key_groups);

const struct at_key at_keys[] = {
    { "seed", INT(0, 9007199254740991.0, "0"),
      .also = "random_seed",
      .help = "Names the run's random numbers: the same seed, recipe and "
              "thread count give the same bits." },
    { "threads", INT(0, 4096, "0"), .also = "num_threads n_threads workers",
      .help = "CPU threads; 0: all physical cores the process may use." },
    { "device", CHOICE("cpu", "cpu"),
      .help = "Where the arithmetic runs." },
    { "backend", CHOICE("cpu|ref", "cpu"),
      .help = "The kernels: cpu is fast, ref is the plain specification." },
    { "run", TEXT(PATH, ""), .also = "output_dir out_dir output",
      .help = "Directory the run writes to; by default runs/ and the recipe "
              "file's name." },

    { "users", TEXT(LIST, "[]"), .also = "tenants",
      .help = "NAME key=value ...: who shares the model, each with data and an "
              "adapter of its own; keys that a user does not set are the "
              "recipe's." },

    { "model.path", TEXT(PATH, ""), .also = "model_name_or_path checkpoint",
      .help = "Model file (HDF5) to start from." },
    { "model.family", CHOICE("none|llama|gpt2", "none"),
      .also = "model_type architecture arch",
      .help = "Kind of model to train from scratch, instead of model.path." },
    { "model.dim", INT(1, 131072, "288"), .with = "model.family",
      .also = "hidden_size n_embd d_model",
      .help = "Width of the model." },
    { "model.layers", INT(1, 4096, "6"), .with = "model.family",
      .also = "num_hidden_layers n_layer n_layers",
      .help = "Number of blocks." },
    { "model.heads", INT(1, 4096, "6"), .with = "model.family",
      .also = "num_attention_heads n_head n_heads",
      .help = "Attention heads; they share model.dim evenly." },
    { "model.kv_heads", INT(0, 4096, "0"), .with = "model.family=llama",
      .also = "num_key_value_heads n_kv_heads",
      .help = "Key/value heads, shared by groups of heads; 0: as many as "
              "heads." },
    { "model.ff", INT(0, 1048576, "0"), .with = "model.family",
      .also = "intermediate_size hidden_dim n_inner d_ff",
      .help = "Width of the feed-forward part; 0: the family's usual." },
    { "model.max_length", INT(1, 4194304, "256"), .unit = "tokens",
      .with = "model.family",
      .also = "max_position_embeddings n_positions n_ctx block_size",
      .help = "The longest text the model can read." },
    { "model.tie_embeddings", BOOL("true"), .with = "model.family",
      .also = "tie_word_embeddings",
      .help = "Whether input and output embeddings are one matrix." },
    { "model.norm_eps", REAL(1e-12, 0.1, "1e-5"), .with = "model.family",
      .also = "rms_norm_eps layer_norm_epsilon layer_norm_eps",
      .help = "Added to the variance where activations are normalised." },
    { "model.rope_theta", REAL(1.000001, 1e12, "10000"),
      .with = "model.family=llama",
      .help = "Base of the rotary position angles." },
    { "model.tokenizer", TEXT(PATH, ""), .with = "model.family",
      .also = "tokenizer_path tokenizer_name",
      .help = "File to take the tokenizer from." },
    { "model.init_std", REAL(0, 1, "0.02"), .with = "model.family",
      .also = "initializer_range",
      .help = "Standard deviation of the drawn initial weights." },

    { "data.path", TEXT(PATH, ""), .required = true,
      .also = "dataset dataset_path train_file train_data",
      .help = "Dataset file (HDF5), made by `attune data`." },
    { "data.mix", TEXT(LIST, "[]"),
      .also = "mixture weights interleave_probs dataset_weights",
      .help = "PATTERN=FACTOR: documents from source files whose name fits come "
              "FACTOR times an epoch; 0.25 takes a fixed quarter of them, 0 "
              "none.  The first that fits counts, others come once." },
    { "data.pack", BOOL("true"), .also = "packing",
      .help = "Put several short documents in one row; they never see each "
              "other." },
    { "data.shuffle", BOOL("true"),
      .help = "Read the documents of every epoch in a new order." },
    { "data.stream", BOOL("false"), .with = "data.pack",
      .help = "Fill every row: a document is cut at the row's end and goes on "
              "in the next row." },
    { "data.validation", TEXT(PATH, ""), .also = "validation_file eval_file",
      .help = "Dataset file to evaluate on; by default the share of data.path "
              "set aside when it was made." },

    { "batch.rows", INT(1, 1048576, "8"),
      .also = "batch_size micro_batch_size per_device_train_batch_size",
      .help = "Rows computed at once; more need more memory." },
    { "batch.length", INT(1, 4194304, "256"), .unit = "tokens",
      .also = "seq_len sequence_length max_seq_length cutoff_len "
              "context_length",
      .help = "Tokens of a row; longer documents are cut." },
    { "batch.accumulate", INT(1, 1048576, "1"),
      .also = "gradient_accumulation_steps grad_accum accumulation",
      .help = "Batches that make one step; the result is that of one batch as "
              "large." },

    { "batch.users", INT(1, 4096, "1"), .with = "users", .unit = "users",
      .help = "Users whose batches make one pass of the model: faster where "
              "batches are small, for so many times the activations; 1: they "
              "take turns." },

    { "objective", CHOICE("lm|sft|dpo|ipo|simpo|orpo|kto|reward|regression|binary|"
                          "classify|rloo|grpo|ppo|distil", "lm"),
      .also = "loss task stage",
      .help = "lm: learn every token; sft: learn the tokens whose role in the "
              "dataset says so (answers, not questions); dpo, ipo, simpo, "
              "orpo: learn from preferences; kto: from answers that are desirable "
              "or not; reward: a reward model from "
              "preferences (Bradley-Terry); regression, binary: a reward model "
              "from scores, or from labels 0 and 1; classify: a label a text "
              "(attune data --label), of encoders and decoders; rloo, grpo, ppo: towards a "
              "palette, by texts that the model draws itself; distil: towards "
              "a palette, by a dataset of draws (`attune rollout`)." },
    { "align.beta", REAL(1e-9, 1e9, "0.1"),
      .with = "objective=dpo|ipo|simpo|orpo|kto|rloo|grpo|ppo",
      .also = "beta dpo_beta pref_beta kl_coef init_kl_coef",
      .help = "How firmly the model is held to the reference (dpo, ipo, kto); scale "
              "of the reward (simpo: 2 is usual); weight of the odds ratio "
              "(orpo); price of a nat of divergence (rloo, grpo, ppo: 1 is what a "
              "palette's weights are solved for)." },
    { "align.smoothing", REAL(0, 0.499999, "0"),
      .with = "objective=dpo|simpo|reward", .also = "label_smoothing",
      .help = "Share of the preferences taken to be the wrong way round." },
    { "align.margin", REAL(0, 1e9, "0.5"), .with = "objective=simpo",
      .also = "simpo_gamma gamma",
      .help = "How far apart the rewards of chosen and rejected should be." },
    { "align.palette", TEXT(PATH, ""),
      .with = "objective=rloo|grpo|ppo|distil",
      .help = "Values, weights and targets, as `attune palette --format json` "
              "wrote them." },
    { "align.commands", BOOL("false"), .with = "align.palette",
      .help = "Let the palette's values run commands (kind command)." },
    { "align.samples", INT(1, 4096, "8"), .with = "objective=rloo|grpo|ppo",
      .also = "num_generations rloo_k group_size", .unit = "texts",
      .help = "Texts drawn for a prompt; batch.rows is a multiple.  rloo and "
              "grpo compare them, and need at least 2." },
    { "align.max_tokens", INT(1, 1048576, "64"),
      .with = "objective=rloo|grpo|ppo",
      .also = "max_completion_length response_length", .unit = "tokens",
      .help = "Longest text drawn." },
    { "align.prompt_tokens", INT(0, 1048576, "0"),
      .with = "objective=rloo|grpo|ppo", .unit = "tokens",
      .help = "Data of plain texts: their first so many tokens are the "
              "prompt." },
    { "align.clip", REAL(0, 1e9, "0.2"), .with = "objective=rloo|grpo|ppo",
      .also = "epsilon cliprange clip_range",
      .help = "How far the ratio of new to old probability may leave 1." },
    { "align.epochs", INT(1, 1000, "4"), .with = "objective=ppo",
      .also = "num_ppo_epochs ppo_epochs",
      .help = "Times that the texts of a round are learnt, in another order "
              "each time." },
    { "align.minibatches", INT(1, 100000, "1"), .with = "objective=ppo",
      .also = "num_mini_batches mini_batch_size", .unit = "steps",
      .help = "A round's texts are those of so many steps: rows x accumulate "
              "x minibatches." },
    { "align.gamma", REAL(0, 1, "1"), .with = "objective=ppo",
      .also = "discount",
      .help = "Worth of a reward one token later; below 1 the optimum is not "
              "the palette's." },
    { "align.lambda", REAL(0, 1, "0.95"), .with = "objective=ppo",
      .also = "lam gae_lambda",
      .help = "Advantages: 1 counts all that follows a token as it came, 0 "
              "what the critic expects behind the next one." },
    { "align.whiten", BOOL("true"), .with = "objective=ppo",
      .also = "whiten_advantages whiten_rewards",
      .help = "Advantages of a round to mean 0 and variance 1." },
    { "align.critic_weight", REAL(0, 1e9, "0.1"), .with = "objective=ppo",
      .also = "vf_coef value_coef",
      .help = "Weight of the critic's loss; its gradient reaches the trunk and "
              "adapters that it shares with the policy." },
    { "align.critic_clip", REAL(0, 1e9, "0.2"), .with = "objective=ppo",
      .also = "cliprange_value",
      .help = "How far the critic may move from what it said when the text was "
              "drawn; 0: any way." },
    { "align.kl_target", REAL(0, 1e9, "0"), .with = "objective=ppo",
      .also = "target_kl target", .unit = "nats",
      .help = "Divergence that align.beta is adapted to; 0: it stays, as a "
              "palette's weights ask for." },
    { "align.kl_horizon", REAL(1, 1e15, "10000"),
      .with = "align.kl_target", .also = "horizon", .unit = "texts",
      .help = "Texts in which it may change by a fifth, at most." },
    { "align.rate", REAL(0, 1e9, "0.05"), .with = "objective=rloo|grpo|ppo",
      .help = "How fast weights follow the targets that the model in training "
              "misses (dual ascent, in units of each value's variance); 0: "
              "they stay as solved." },
    { "align.desirable", REAL(0, 1e9, "1"), .with = "objective=kto",
      .also = "desirable_weight",
      .help = "Weight of the desirable texts (label 1): where one kind is rare, "
              "weigh it so that both count alike." },
    { "align.undesirable", REAL(0, 1e9, "1"), .with = "objective=kto",
      .also = "undesirable_weight",
      .help = "Weight of the undesirable texts (label 0)." },
    { "align.score", TEXT(TEXT, ""), .with = "objective=kto|regression|binary",
      .also = "reward_column label",
      .help = "Which of the dataset's scores is learnt, when it has several." },


    { "teacher.weight", REAL(0, 1, "0"), .also = "kl_weight kd_weight",
      .help = "Share of the loss: (1 - weight) cross-entropy + weight "
              "KL(teacher || model), a mean over target tokens; 0: no "
              "teacher." },
    { "teacher.path", TEXT(PATH, ""), .with = "teacher.weight",
      .also = "teacher_model",
      .help = "Its file; by default the model that model.path was pruned "
              "from." },
    { "teacher.temperature", REAL(0.01, 100, "1"), .with = "teacher.weight",
      .help = "Both predictions are softened by it in the KL; the KL is not "
              "scaled by its square." },

    { "lora.rank", INT(0, 4096, "0"), .also = "r lora_r lora_rank",
      .help = "Rank of the adapters; 0: no adapters, the model itself is "
              "trained." },
    { "lora.alpha", REAL(1e-6, 1e6, "16"), .with = "lora.rank",
      .also = "lora_alpha",
      .help = "The adapters' output is scaled by alpha / rank; for rsLoRA give "
              "alpha times the root of the rank." },
    { "lora.dropout", REAL(0, 0.99, "0"), .with = "lora.rank",
      .also = "lora_dropout",
      .help = "Share of the adapters' input dropped in training." },
    { "lora.targets", TEXT(PATTERN, "attn\\.(q|k|v|qkv|o)_proj"),
      .with = "lora.rank", .also = "target_modules lora_target_modules",
      .help = "Sites that get an adapter, such as blocks.3.attn.q_proj: "
              "searched in each site's name." },
    { "lora.init", CHOICE("uniform", "uniform"), .with = "lora.rank",
      .also = "init_lora_weights",
      .help = "How the first factor starts (uniform: within 1/sqrt(width)); "
              "the second starts at zero." },

    { "masked_lora.rank", INT(0, 4096, "0"),
      .help = "Rank of the adapters; 0: none." },
    { "masked_lora.alpha", REAL(1e-6, 1e6, "16"), .with = "masked_lora.rank",
      .help = "The update is scaled by alpha / rank." },
    { "masked_lora.targets", TEXT(PATTERN, "_proj"), .with = "masked_lora.rank",
      .help = "Sites that get one: searched in each site's name.  They must be "
              "pruned." },

    { "linear.use", INT(0, 1, "0"), .also = "full_delta",
      .help = "1: whole matrices are trained beside those of the model." },
    { "linear.alpha", REAL(1e-6, 1e6, "1"), .with = "linear.use",
      .help = "Their output is scaled by alpha." },
    { "linear.targets", TEXT(PATTERN, "attn\\.(q|k|v|qkv|o)_proj"),
      .with = "linear.use",
      .help = "Sites that get one: searched in each site's name." },

    { "mlp.width", INT(0, 65536, "0"),
      .help = "Neurons of the (last) hidden layer, 256 in ColA; 0: no such "
              "networks." },
    { "mlp.inner", INT(0, 65536, "128"), .with = "mlp.width",
      .help = "Neurons of a hidden layer before it; 0: none." },
    { "mlp.act", CHOICE("relu|tanh", "relu"), .with = "mlp.width",
      .help = "Their activation." },
    { "mlp.alpha", REAL(1e-6, 1e6, "1"), .with = "mlp.width",
      .help = "Their output is scaled by alpha." },
    { "mlp.targets", TEXT(PATTERN, "attn\\.(q|k|v|qkv|o)_proj"),
      .with = "mlp.width",
      .help = "Sites that get one: searched in each site's name." },

    { "context_sparse.rank", INT(0, 64, "0"),
      .help = "Rank of the predictors that choose the channels, 8 in the "
              "published code; 0: no such sparsity." },
    { "context_sparse.mlp", TEXT(TEXT, "0.9"), .with = "context_sparse.rank",
      .help = "Share of the feed-forward channels left out: of all layers but "
              "the first and the last, or by layers, such as '2-5:0.9 6:0.5'.  "
              "`attune analyze --context-sparse` proposes one." },
    { "context_sparse.attn", TEXT(TEXT, "0"), .with = "context_sparse.rank",
      .help = "The same of the channels of q, k, v and o." },
    { "context_sparse.start", REAL(0, 1, "0.05"), .with = "context_sparse.rank",
      .help = "Share of the run's steps that are dense first." },
    { "context_sparse.end", REAL(0, 1, "1"), .with = "context_sparse.rank",
      .help = "Share of the run's steps after which they are dense again." },
    { "context_sparse.tokens", CHOICE("context|all", "context"),
      .with = "context_sparse.rank",
      .help = "context: a prompt but for its last token; all: answers too, and "
              "plain text, which costs quality." },
    { "context_sparse.least", INT(1, 4194304, "32"),
      .with = "context_sparse.rank", .unit = "tokens",
      .help = "A text with fewer such tokens stays dense: copying weights would "
              "cost more than is saved." },
    { "context_sparse.variant", CHOICE("exact|published", "exact"),
      .with = "context_sparse.rank",
      .help = "published: as in the published code, to compare with: one choice "
              "for the whole batch, wrong pairs of grouped heads, and no "
              "gradient through attention's layers of context." },

    { "router.layers", INT(0, 4095, "0"),
      .also = "mindskip_n router_layers",
      .help = "Routed layers: so many of the deepest, but never the last; 0: "
              "none." },
    { "router.at", TEXT(TEXT, ""), .with = "router.layers",
      .help = "Routed layers by number instead, such as '3 5 8-11'." },
    { "router.target", CHOICE("attn|mlp|block", "attn"),
      .with = "router.layers", .also = "granularity",
      .help = "What is skipped: the attention, the mlp, or the whole block." },
    { "router.level", CHOICE("sequence|token", "sequence"),
      .with = "router.layers",
      .help = "sequence: one decision a text, from its prompt; token: one a "
              "token." },
    { "router.kv", CHOICE("none|all|kept", "none"),
      .with = "router.level=token",
      .help = "Keys and values of skipped tokens, which must be chosen: all: "
              "later tokens see them; kept: they do not exist, and the cache "
              "is smaller." },
    { "router.threshold", REAL(1e-6, 0.999999, "0.5"),
      .with = "router.layers",
      .help = "Executed is what has at least this probability." },
    { "router.pool", INT(0, 4194304, "0"), .unit = "tokens",
      .with = "router.level=sequence",
      .help = "First tokens of the prompt that the decision is made from; 0: "
              "all of it.  Texts without a prompt (objective lm) need it." },
    { "router.capacity", TEXT(TEXT, ""), .with = "router.layers",
      .also = "target_capacity mod_capacity mindskip_capacity",
      .help = "Share to execute, or one for every routed layer: what is beyond "
              "it is penalised; empty: all that is executed is." },
    { "router.gradient_scale", REAL(0, 1e6, "0"), .with = "router.layers",
      .also = "mindskip_loss_coefficient",
      .help = "Weight of that penalty in the loss; 0: none." },
    { "router.gradient", CHOICE("all|kept", "all"), .with = "router.layers",
      .help = "Whose decisions learn from the task: all, or only of what is "
              "executed (a skipped text then stays skipped)." },

    { "offload.engine", CHOICE("none|local|nats", "none"),
      .help = "local: threads beside those of the model; nats: machines that "
              "run `attune worker`." },
    { "offload.workers", INT(1, 1024, "1"), .with = "offload.engine=local",
      .help = "Threads; any number gives the same bits." },
    { "offload.merged", BOOL("false"), .with = "offload.engine",
      .help = "The model's weights hold the adapter (made afresh after every "
              "step), which then costs no activations." },
    { "offload.rows", INT(16, 1048576, "384"), .with = "offload.engine",
      .unit = "rows",
      .help = "Most rows of a block; 384 gives the bits of training without "
              "offload." },
    { "offload.url", TEXT(TEXT, ""), .with = "offload.engine=nats",
      .also = "server nats_url",
      .help = "The NATS server, such as nats://host:4222." },
    { "offload.credentials", TEXT(PATH, ""), .with = "offload.engine=nats",
      .help = "File of the trainer's credentials, made by `attune offload "
              "keys`; empty: the server asks for none." },
    { "offload.name", TEXT(TEXT, ""), .with = "offload.engine=nats",
      .help = "The run's name on the server; by default that of the "
              "credentials, or attune." },
    { "offload.numbers", CHOICE("float32|bfloat16", "float32"),
      .with = "offload.engine=nats", .also = "wire_dtype",
      .help = "How inputs and gradients travel; bfloat16 is half the bytes, and "
              "no longer the bits of training without offload." },
    { "offload.window", INT(1, 4096, "32"), .with = "offload.engine=nats",
      .unit = "blocks",
      .help = "Most blocks on their way at once." },
    { "offload.ack_wait_s", REAL(0.05, 86400, "10"), .unit = "seconds",
      .with = "offload.engine=nats", .also = "ack_wait",
      .help = "A block that a worker has not answered for so long is given to "
              "another." },
    { "offload.patience_s", REAL(0.05, 1e6, "30"), .unit = "seconds",
      .with = "offload.engine=nats",
      .help = "How long no gradient may come before `without` applies." },
    { "offload.without", CHOICE("local|stop", "local"),
      .with = "offload.engine=nats",
      .help = "When no worker answers: compute here until one does, or stop "
              "with a checkpoint." },
    { "offload.verify", REAL(0, 1, "0.01"), .with = "offload.engine=nats",
      .help = "Share of the blocks computed here as well; a worker whose "
              "gradient is another is quarantined." },

    { "freeze", TEXT(PATTERN, ""), .also = "frozen freeze_layers",
      .help = "Parameters kept as they are: searched in each name, such as "
              "blocks.0.mlp.up_proj.weight." },
    { "train_only", TEXT(PATTERN, ""), .also = "trainable unfreeze",
      .help = "Parameters trained, all others are kept; freeze takes from "
              "these." },

    { "optim.name", CHOICE("adamw|lion|sgd", "adamw"), .also = "optimizer type",
      .help = "adamw: AdamW; lion: Lion, half the state, wants a third to a "
              "tenth of AdamW's rate; sgd: gradient descent, with momentum if "
              "asked." },
    { "optim.lr", REAL(0, 100, "1e-4"), .also = "learning_rate",
      .help = "Peak learning rate.  Usual: 5e-4 from scratch, 2e-5 for full "
              "fine-tuning, 2e-4 for LoRA." },
    { "optim.beta1", REAL(0, 0.999999999, "0.9"),
      .with = "optim.name=adamw|lion",
      .also = "adam_beta1 betas",
      .help = "Memory of the mean gradient." },
    { "optim.beta2", REAL(0, 0.999999999, "0.999"),
      .with = "optim.name=adamw|lion", .also = "adam_beta2",
      .help = "Memory of the mean squared gradient, 0.95 is usual from "
              "scratch; Lion's of the mean gradient, 0.99 is usual." },
    { "optim.eps", REAL(1e-20, 1, "1e-8"), .with = "optim.name=adamw",
      .also = "epsilon adam_epsilon",
      .help = "Added to the root of the mean squared gradient." },
    { "optim.weight_decay", REAL(0, 100, "0"), .also = "wd",
      .help = "Pull of the weights to zero, a share of them per unit of "
              "learning rate." },
    { "optim.decay", TEXT(PATTERN, ""), .with = "optim.weight_decay",
      .help = "Parameters that get weight decay: searched in each name; by "
              "default all of 2 or more dimensions (matrices, not biases and "
              "norms)." },
    { "optim.lr_scale", TEXT(LIST, "[]"),
      .also = "loraplus_lr_ratio layerwise_lr lr_groups",
      .help = "PATTERN=FACTOR: parameters whose name fits learn at FACTOR "
              "times the rate; the first that fits counts.  'lora_b=16' is "
              "LoRA+." },
    { "optim.momentum", REAL(0, 0.999999999, "0"), .with = "optim.name=sgd",
      .help = "Share of the last step kept in the next." },
    { "optim.nesterov", BOOL("false"), .with = "optim.name=sgd",
      .help = "Take the gradient where momentum leads." },
    { "optim.clip", REAL(0, 1e9, "1"),
      .also = "max_grad_norm grad_clip gradient_clip gradient_clipping",
      .help = "Largest norm of a step's gradient; a larger one is scaled down; "
              "0: no limit." },

    { "schedule.name", CHOICE("constant|linear|cosine|wsd", "cosine"),
      .also = "lr_scheduler_type lr_scheduler scheduler type",
      .help = "constant; linear or cosine down to the end; wsd: constant, then "
              "down over the last schedule.decay steps." },
    { "schedule.warmup", INT(0, COUNT_MAX, "0"), .unit = "steps",
      .also = "warmup_steps num_warmup_steps warmup_ratio",
      .help = "Steps in which the rate rises to its peak." },
    { "schedule.decay", INT(0, COUNT_MAX, "0"), .unit = "steps",
      .with = "schedule.name=wsd", .also = "decay_steps",
      .help = "Steps of the way down." },
    { "schedule.min_ratio", REAL(0, 1, "0.1"),
      .with = "schedule.name=linear|cosine|wsd",
      .also = "min_lr min_lr_ratio min_lr_rate",
      .help = "The last step's rate as a share of the peak." },

    { "train.steps", INT(0, COUNT_MAX, "0"), .unit = "steps",
      .also = "max_steps max_iters iterations",
      .help = "Length of the run; either this or train.epochs." },
    { "train.epochs", INT(0, 1000000, "0"), .unit = "epochs",
      .also = "num_epochs num_train_epochs",
      .help = "Length of the run as times through the data." },
    { "train.recompute", CHOICE("none|block", "none"),
      .also = "gradient_checkpointing activation_checkpointing",
      .help = "block: keep only the blocks' inputs and compute the rest again "
              "in the backward pass; less memory, about a third slower." },
    { "train.dropout", REAL(0, 0.99, "0"),
      .help = "Share of the activations dropped in training." },
    { "train.on_nonfinite", CHOICE("stop|skip|rollback", "stop"),
      .help = "When a loss or gradient is not finite: stop the run, skip the "
              "step, or go back to the last checkpoint and skip the data." },

    { "gradual.sparsity", REAL(0, 0.999, "0"), .also = "final_sparsity",
      .help = "Share of each matrix that is zero in the end; 0: none.  `attune "
              "prune RUN OUT --method magnitude` with the same share stores the "
              "result sparse." },
    { "gradual.begin", INT(0, COUNT_MAX, "0"), .unit = "steps",
      .with = "gradual.sparsity", .also = "begin_step",
      .help = "Step at which pruning begins." },
    { "gradual.end", INT(0, COUNT_MAX, "0"), .unit = "steps",
      .with = "gradual.sparsity", .also = "end_step",
      .help = "Step at which the share is reached, by a cubic curve; 0: the "
              "last." },
    { "gradual.every", INT(1, COUNT_MAX, "10"), .unit = "steps",
      .with = "gradual.sparsity", .also = "pruning_frequency",
      .help = "Steps between prunings." },
    { "gradual.targets", TEXT(PATTERN, "_proj\\.weight$"),
      .with = "gradual.sparsity",
      .help = "Matrices that are pruned: searched in each parameter's name." },

    { "eval.every", INT(0, COUNT_MAX, "0"), .unit = "steps",
      .also = "eval_steps eval_interval",
      .help = "Steps between evaluations; 0: none." },
    { "eval.batches", INT(0, COUNT_MAX, "0"), .unit = "batches",
      .with = "eval.every", .also = "eval_iters eval_batches",
      .help = "Batches of an evaluation; 0: all validation documents." },
    { "eval.patience", INT(0, COUNT_MAX, "0"), .unit = "evaluations",
      .with = "eval.every", .also = "early_stopping_patience early_stopping",
      .help = "Stop after so many evaluations without a better loss; 0: "
              "never." },
    { "eval.min_delta", REAL(0, 1e9, "0"), .unit = "loss",
      .with = "eval.patience", .also = "early_stopping_threshold",
      .help = "How much lower a loss must be to count as better." },
    { "eval.samples", TEXT(LIST, "[]"), .with = "eval.every", .also = "prompts",
      .help = "Prompts continued by the model at every evaluation." },
    { "eval.sample_tokens", INT(1, 1048576, "64"), .unit = "tokens",
      .with = "eval.samples", .also = "max_new_tokens",
      .help = "Length of a continuation." },

    { "checkpoint.every", INT(0, COUNT_MAX, "1000"), .unit = "steps",
      .also = "save_steps save_interval",
      .help = "Steps between checkpoints; 0: only at the end." },
    { "checkpoint.keep", INT(1, 1000000, "2"),
      .also = "save_total_limit keep_last",
      .help = "How many of the latest are kept." },
    { "checkpoint.keep_best", BOOL("true"), .with = "eval.every",
      .also = "load_best_model_at_end save_best",
      .help = "Keep the one with the lowest evaluation loss as well." },

    { "log.every", INT(1, COUNT_MAX, "1"), .unit = "steps",
      .also = "logging_steps log_interval",
      .help = "Steps between rows of the metrics." },
};
const size_t at_n_keys = AT_COUNT(at_keys);

const struct at_rule at_rules[] = {
    { AT_RULE_EITHER, "model.path", "model.family", .remedy =
      "give a model file to start from, or a family to train from scratch" },
    { AT_RULE_EITHER, "train.steps", "train.epochs", .remedy =
      "give the length of the run in steps or in epochs" },
    { AT_RULE_NEEDS, "optim.nesterov", "optim.momentum", .remedy =
      "set optim.momentum above 0" },
    { AT_RULE_NEEDS, "router.capacity", "router.gradient_scale", .remedy =
      "say how strongly what is beyond it is penalised, such as 0.1" },
    { AT_RULE_WHEN, "schedule.name", "schedule.decay", .value = "wsd",
      .remedy = "say how many steps the way down takes" },
    { AT_RULE_SUM, "schedule.warmup", "schedule.decay", "train.steps",
      .remedy = "the run would end before the schedule does" },
    { AT_RULE_SUM, "batch.length", NULL, "model.max_length",
      .remedy = "the model cannot read a row" },
    { AT_RULE_DIVIDES, "model.heads", "model.dim", .remedy =
      "the heads share the width evenly" },
    { AT_RULE_DIVIDES, "model.kv_heads", "model.heads", .remedy =
      "each key/value head serves as many heads as the next" },
};
const size_t at_n_rules = AT_COUNT(at_rules);

const struct at_key *at_key_find(const char *name)
{
    for (size_t i = 0; i < AT_COUNT(at_keys); i++)
        if (strcmp(at_keys[i].name, name) == 0)
            return &at_keys[i];
    return NULL;
}

const struct at_key_group *at_key_group_of(const struct at_key *k)
{
    const char *dot = strchr(k->name, '.');
    for (size_t i = 0; dot && i < AT_COUNT(at_key_groups); i++)
        if (strncmp(at_key_groups[i].name, k->name,
                    (size_t)(dot - k->name)) == 0 &&
            at_key_groups[i].name[dot - k->name] == '\0')
            return &at_key_groups[i];
    return NULL;
}
