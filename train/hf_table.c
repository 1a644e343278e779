/* The families of Hugging Face that attune knows: a row each at the foot.
 * Above it the keys of config.json, values that must be as they are, and the
 * names of tensors beside ours.                                              */
#include "train/hf_table.h"

#include <math.h>

#define AT(field) offsetof(struct at_decoder, field)
#define NEED NAN
#define SIZES_LIKE_LLAMA                                                 \
    { "vocab_size", KEY_SIZE, AT(V), NEED, false },                      \
    { "hidden_size", KEY_SIZE, AT(C), NEED, false },                     \
    { "num_hidden_layers", KEY_SIZE, AT(L), NEED, false },               \
    { "num_attention_heads", KEY_SIZE, AT(H), NEED, false },             \
    { "intermediate_size", KEY_SIZE, AT(F), NEED, false },               \
    { "max_position_embeddings", KEY_SIZE, AT(P), NEED, false },         \
    { "initializer_range", KEY_REAL, AT(init_std), 0.02, false }
#define LIKE_LLAMA                                                       \
    SIZES_LIKE_LLAMA,                                                    \
    { "num_key_value_heads", KEY_SIZE, AT(G), 0, true },                 \
    { "head_dim", KEY_SIZE, AT(K), 0, true },                            \
    { "rms_norm_eps", KEY_REAL, AT(norm_eps), 1e-6, false }
#define ACT(name) { name, KEY_ACT, 0, 0, false }
#define TIED(absent) { "tie_word_embeddings", KEY_BOOL, AT(tied), absent, false }
#define ATTENTION_BIAS                                                   \
    { "attention_bias", KEY_BIAS, AT_BIAS_QKV | AT_BIAS_O, 0, false }

static const struct key llama_keys[] = {
    LIKE_LLAMA, ACT("hidden_act"), TIED(0), ATTENTION_BIAS,
    { "mlp_bias", KEY_BIAS, AT_BIAS_MLP, 0, false }, { 0 }
};
static const struct key mistral_keys[] = {
    LIKE_LLAMA, ACT("hidden_act"), TIED(0),
    { "sliding_window", KEY_SIZE, AT(window), 4096, true }, { 0 }
};
static const struct key phi3_keys[] = {
    LIKE_LLAMA, ACT("hidden_act"), TIED(0),
    { "sliding_window", KEY_SIZE, AT(window), 0, true }, { 0 }
};
static const struct key qwen2_keys[] = {
    LIKE_LLAMA, ACT("hidden_act"), TIED(0), { 0 }
};
static const struct key qwen3_keys[] = {
    LIKE_LLAMA, ACT("hidden_act"), TIED(0), ATTENTION_BIAS, { 0 }
};
static const struct key gemma3_keys[] = {
    LIKE_LLAMA, ACT("hidden_activation"), TIED(1), ATTENTION_BIAS,
    { "sliding_window", KEY_SIZE, AT(window), 4096, true },
    { "query_pre_attn_scalar", KEY_RSQRT, AT(attn_scale), 256, false }, { 0 }
};
static const struct key neox_keys[] = {
    SIZES_LIKE_LLAMA, ACT("hidden_act"), TIED(0),
    { "layer_norm_eps", KEY_REAL, AT(norm_eps), 1e-5, false },
    { "attention_bias", KEY_BIAS, AT_BIAS_QKV | AT_BIAS_O, 1, false },
    { "use_parallel_residual", KEY_BOOL, AT(parallel), 1, false }, { 0 }
};
static const struct key gpt2_keys[] = {
    { "vocab_size", KEY_SIZE, AT(V), NEED, false },
    { "n_embd", KEY_SIZE, AT(C), NEED, false },
    { "n_layer", KEY_SIZE, AT(L), NEED, false },
    { "n_head", KEY_SIZE, AT(H), NEED, false },
    { "n_inner", KEY_SIZE, AT(F), 0, true },
    { "n_positions", KEY_SIZE, AT(P), NEED, false },
    { "layer_norm_epsilon", KEY_REAL, AT(norm_eps), 1e-5, false },
    { "initializer_range", KEY_REAL, AT(init_std), 0.02, false },
    ACT("activation_function"), TIED(1), { 0 }
};

static const struct key opt_keys[] = {
    { "vocab_size", KEY_SIZE, AT(V), 50272, false },
    { "hidden_size", KEY_SIZE, AT(C), 768, false },
    { "num_hidden_layers", KEY_SIZE, AT(L), 12, false },
    { "num_attention_heads", KEY_SIZE, AT(H), 12, false },
    { "ffn_dim", KEY_SIZE, AT(F), 3072, false },
    { "max_position_embeddings", KEY_SIZE, AT(P), 2048, false },
    { "init_std", KEY_REAL, AT(init_std), 0.02, false },
    ACT("activation_function"), TIED(1), { 0 }
};
static const struct key bert_keys[] = {
    SIZES_LIKE_LLAMA, ACT("hidden_act"),
    { "layer_norm_eps", KEY_REAL, AT(norm_eps), 1e-12, false },
    { "type_vocab_size", KEY_SIZE, AT(types), 2, false }, { 0 }
};
static const struct key roberta_keys[] = {
    SIZES_LIKE_LLAMA, ACT("hidden_act"),
    { "layer_norm_eps", KEY_REAL, AT(norm_eps), 1e-12, false },
    { "type_vocab_size", KEY_SIZE, AT(types), 2, false },
    { "pad_token_id", KEY_PAD, AT(pos_from), 1, false },
    { "max_position_embeddings", KEY_POSITIONS, AT(P), 512, false }, { 0 }
};
static const struct key distilbert_keys[] = {
    { "vocab_size", KEY_SIZE, AT(V), 30522, false },
    { "dim", KEY_SIZE, AT(C), 768, false },
    { "n_layers", KEY_SIZE, AT(L), 6, false },
    { "n_heads", KEY_SIZE, AT(H), 12, false },
    { "hidden_dim", KEY_SIZE, AT(F), 3072, false },
    { "max_position_embeddings", KEY_SIZE, AT(P), 512, false },
    { "initializer_range", KEY_REAL, AT(init_std), 0.02, false },
    ACT("activation"), { 0 }
};

static const struct must no_window[] = {
    { "use_sliding_window", "false" }, { NULL, NULL }
};
static const struct must gemma3_musts[] = {
    { "final_logit_softcapping", "null" }, { "attn_logit_softcapping", "null" },
    { "use_bidirectional_attention", "false" }, { NULL, NULL }
};
static const struct must gpt2_musts[] = {
    { "scale_attn_weights", "true" },
    { "scale_attn_by_inverse_layer_idx", "false" },
    { "add_cross_attention", "false" }, { NULL, NULL }
};

static const struct must opt_musts[] = {
    { "do_layer_norm_before", "true" }, { "enable_bias", "true" },
    { "layer_norm_elementwise_affine", "true" },
    { "_remove_final_layer_norm", "false" }, { NULL, NULL }
};
static const struct must bert_musts[] = {
    { "position_embedding_type", "\"absolute\"" }, { "is_decoder", "false" },
    { "add_cross_attention", "false" }, { NULL, NULL }
};

static const char *const bert_others[] = {
    "cls.", "bert.embeddings.position_ids", "embeddings.position_ids", NULL
};
static const char *const distilbert_others[] = { "vocab_", NULL };
static const char *const roberta_others[] = {
    "lm_head.", "roberta.pooler.", "roberta.embeddings.position_ids", NULL
};

#define L_ "model.layers.*."
#define NAMES_ENDS                                                       \
    { "embed", "model.embed_tokens", SAME }, { "norm", "model.norm", SAME }, \
    { "head", "lm_head", SAME }, { "value", "score", SAME }
#define NAMES_ATTN                                                       \
    { "blocks.*.attn.q_proj", L_ "self_attn.q_proj", SAME },             \
    { "blocks.*.attn.k_proj", L_ "self_attn.k_proj", SAME },             \
    { "blocks.*.attn.v_proj", L_ "self_attn.v_proj", SAME },             \
    { "blocks.*.attn.o_proj", L_ "self_attn.o_proj", SAME },             \
    { "blocks.*.attn.q_norm", L_ "self_attn.q_norm", SAME },             \
    { "blocks.*.attn.k_norm", L_ "self_attn.k_norm", SAME }
#define NAMES_MLP                                                        \
    { "blocks.*.mlp.gate_proj", L_ "mlp.gate_proj", SAME },              \
    { "blocks.*.mlp.up_proj", L_ "mlp.up_proj", SAME },                  \
    { "blocks.*.mlp.down_proj", L_ "mlp.down_proj", SAME }
#define NAMES_NORMS                                                      \
    { "blocks.*.attn_norm", L_ "input_layernorm", SAME },                \
    { "blocks.*.mlp_norm", L_ "post_attention_layernorm", SAME }

static const struct name llama_names[] = {
    NAMES_ENDS, NAMES_ATTN, NAMES_MLP, NAMES_NORMS, { 0 }
};
static const struct name olmo2_names[] = {
    NAMES_ENDS, NAMES_ATTN, NAMES_MLP,
    { "blocks.*.attn_post_norm", L_ "post_attention_layernorm", SAME },
    { "blocks.*.mlp_post_norm", L_ "post_feedforward_layernorm", SAME }, { 0 }
};
static const struct name gemma3_names[] = {
    NAMES_ENDS, NAMES_ATTN, NAMES_MLP,
    { "blocks.*.attn_norm", L_ "input_layernorm", SAME },
    { "blocks.*.attn_post_norm", L_ "post_attention_layernorm", SAME },
    { "blocks.*.mlp_norm", L_ "pre_feedforward_layernorm", SAME },
    { "blocks.*.mlp_post_norm", L_ "post_feedforward_layernorm", SAME }, { 0 }
};
static const struct name phi3_names[] = {
    NAMES_ENDS, NAMES_NORMS,
    { "blocks.*.attn.q_proj", L_ "self_attn.qkv_proj", QKV },
    { "blocks.*.attn.k_proj", L_ "self_attn.qkv_proj", QKV },
    { "blocks.*.attn.v_proj", L_ "self_attn.qkv_proj", QKV },
    { "blocks.*.attn.o_proj", L_ "self_attn.o_proj", SAME },
    { "blocks.*.mlp.gate_proj", L_ "mlp.gate_up_proj", GATE_UP },
    { "blocks.*.mlp.up_proj", L_ "mlp.gate_up_proj", GATE_UP },
    { "blocks.*.mlp.down_proj", L_ "mlp.down_proj", SAME }, { 0 }
};
#undef L_
#define L_ "gpt_neox.layers.*."
static const struct name neox_names[] = {
    { "embed", "gpt_neox.embed_in", SAME },
    { "norm", "gpt_neox.final_layer_norm", SAME },
    { "head", "embed_out", SAME }, { "value", "score", SAME },
    { "blocks.*.attn_norm", L_ "input_layernorm", SAME },
    { "blocks.*.mlp_norm", L_ "post_attention_layernorm", SAME },
    { "blocks.*.attn.q_proj", L_ "attention.query_key_value", HEADS },
    { "blocks.*.attn.k_proj", L_ "attention.query_key_value", HEADS },
    { "blocks.*.attn.v_proj", L_ "attention.query_key_value", HEADS },
    { "blocks.*.attn.o_proj", L_ "attention.dense", SAME },
    { "blocks.*.mlp.up_proj", L_ "mlp.dense_h_to_4h", SAME },
    { "blocks.*.mlp.down_proj", L_ "mlp.dense_4h_to_h", SAME }, { 0 }
};
#undef L_
#define L_ "transformer.h.*."
static const struct name gpt2_names[] = {
    { "embed", "transformer.wte", SAME }, { "pos", "transformer.wpe", SAME },
    { "norm", "transformer.ln_f", SAME }, { "head", "lm_head", SAME },
    { "value", "score", SAME },
    { "blocks.*.attn_norm", L_ "ln_1", SAME },
    { "blocks.*.mlp_norm", L_ "ln_2", SAME },
    { "blocks.*.attn.qkv_proj", L_ "attn.c_attn", TURNED },
    { "blocks.*.attn.o_proj", L_ "attn.c_proj", TURNED },
    { "blocks.*.mlp.up_proj", L_ "mlp.c_fc", TURNED },
    { "blocks.*.mlp.down_proj", L_ "mlp.c_proj", TURNED }, { 0 }
};

#undef L_
#define L_ "model.decoder.layers.*."
static const struct name opt_names[] = {
    { "embed", "model.decoder.embed_tokens", SAME },
    { "pos", "model.decoder.embed_positions", SAME },
    { "norm", "model.decoder.final_layer_norm", SAME },
    { "head", "lm_head", SAME }, { "value", "score", SAME },
    { "blocks.*.attn_norm", L_ "self_attn_layer_norm", SAME },
    { "blocks.*.mlp_norm", L_ "final_layer_norm", SAME },
    { "blocks.*.attn.q_proj", L_ "self_attn.q_proj", SAME },
    { "blocks.*.attn.k_proj", L_ "self_attn.k_proj", SAME },
    { "blocks.*.attn.v_proj", L_ "self_attn.v_proj", SAME },
    { "blocks.*.attn.o_proj", L_ "self_attn.out_proj", SAME },
    { "blocks.*.mlp.up_proj", L_ "fc1", SAME },
    { "blocks.*.mlp.down_proj", L_ "fc2", SAME }, { 0 }
};
#define NAMES_BERT(model)                                                \
    { "embed", model "embeddings.word_embeddings", SAME },               \
    { "pos", model "embeddings.position_embeddings", SAME },             \
    { "type", model "embeddings.token_type_embeddings", SAME },          \
    { "embed_norm", model "embeddings.LayerNorm", SAME },                \
    { "blocks.*.attn.q_proj", model L_ "attention.self.query", SAME },   \
    { "blocks.*.attn.k_proj", model L_ "attention.self.key", SAME },     \
    { "blocks.*.attn.v_proj", model L_ "attention.self.value", SAME },   \
    { "blocks.*.attn.o_proj", model L_ "attention.output.dense", SAME }, \
    { "blocks.*.attn_norm", model L_ "attention.output.LayerNorm", SAME }, \
    { "blocks.*.mlp.up_proj", model L_ "intermediate.dense", SAME },     \
    { "blocks.*.mlp.down_proj", model L_ "output.dense", SAME },         \
    { "blocks.*.mlp_norm", model L_ "output.LayerNorm", SAME }
#undef L_
#define L_ "encoder.layer.*."
static const struct name bert_names[] = {
    NAMES_BERT("bert."), { "value.dense", "bert.pooler.dense", SAME },
    { "value", "classifier", SAME }, { 0 }
};
static const struct name roberta_names[] = {
    NAMES_BERT("roberta."), { "value.dense", "classifier.dense", SAME },
    { "value", "classifier.out_proj", SAME }, { 0 }
};
#undef L_
#define L_ "distilbert.transformer.layer.*."
static const struct name distilbert_names[] = {
    { "embed", "distilbert.embeddings.word_embeddings", SAME },
    { "pos", "distilbert.embeddings.position_embeddings", SAME },
    { "embed_norm", "distilbert.embeddings.LayerNorm", SAME },
    { "blocks.*.attn.q_proj", L_ "attention.q_lin", SAME },
    { "blocks.*.attn.k_proj", L_ "attention.k_lin", SAME },
    { "blocks.*.attn.v_proj", L_ "attention.v_lin", SAME },
    { "blocks.*.attn.o_proj", L_ "attention.out_lin", SAME },
    { "blocks.*.attn_norm", L_ "sa_layer_norm", SAME },
    { "blocks.*.mlp.up_proj", L_ "ffn.lin1", SAME },
    { "blocks.*.mlp.down_proj", L_ "ffn.lin2", SAME },
    { "blocks.*.mlp_norm", L_ "output_layer_norm", SAME },
    { "value.dense", "pre_classifier", SAME },
    { "value", "classifier", SAME }, { 0 }
};

#define OF(stem) stem "ForCausalLM", stem "ForSequenceClassification"
#define READING(stem) stem "Model", stem "ForSequenceClassification"

const struct at_hf_family at_hf_families[] = {
    { "llama", OF("Llama"), "model.", true, 1, llama_keys, NULL,
      llama_names, false, NULL },
    { "mistral", OF("Mistral"), "model.", true, 1, mistral_keys, NULL,
      llama_names, false, NULL },
    { "qwen2", OF("Qwen2"), "model.", true, 1, qwen2_keys, no_window,
      llama_names, false, NULL },
    { "qwen3", OF("Qwen3"), "model.", true, 1, qwen3_keys, no_window,
      llama_names, false, NULL },
    { "phi3", OF("Phi3"), "model.", true, 1, phi3_keys, NULL,
      phi3_names, false, NULL },
    { "olmo2", OF("Olmo2"), "model.", true, 1, qwen3_keys, NULL,
      olmo2_names, false, NULL },
    { "gemma3_text", "Gemma3ForCausalLM",
      "Gemma3TextForSequenceClassification", "model.", true, 1, gemma3_keys,
      gemma3_musts, gemma3_names, true, NULL },
    { "gpt_neox", OF("GPTNeoX"), "gpt_neox.", true, 0.25, neox_keys,
      NULL, neox_names, false, NULL },
    { "gpt2", "GPT2LMHeadModel", "GPT2ForSequenceClassification",
      "transformer.", false, 1, gpt2_keys, gpt2_musts, gpt2_names, false,
      NULL },
    { "opt", OF("OPT"), "model.", false, 1, opt_keys, opt_musts, opt_names,
      false, NULL },
    { "bert", READING("Bert"), "bert.", false, 1, bert_keys, bert_musts,
      bert_names, false, bert_others },
    { "distilbert", READING("DistilBert"), "distilbert.", false, 1,
      distilbert_keys, NULL, distilbert_names, false, distilbert_others },
    { "roberta", READING("Roberta"), "roberta.", false, 1, roberta_keys,
      bert_musts, roberta_names, false, roberta_others },
    { "xlm-roberta", READING("XLMRoberta"), "roberta.", false, 1, roberta_keys,
      bert_musts, roberta_names, false, roberta_others },
};
const size_t at_hf_n_families = AT_COUNT(at_hf_families);
