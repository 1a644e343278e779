"""Writes tests/golden/hf: a folder of Hugging Face's for every family, tiny and
random, as save_pretrained leaves it, and beside it golden.safetensors with
logits and gradients by transformers.  Run by hand; the output is committed.

    python tests/golden/hf.py tests/golden/hf [NAME ...]
"""
import json
import os
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM,
                          AutoModelForSequenceClassification)

B, T, V, C, L, H, G, F, P = 2, 14, 48, 16, 2, 4, 2, 24, 32
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32

SIZES = dict(vocab_size=V, hidden_size=C, num_hidden_layers=L,
             num_attention_heads=H, num_key_value_heads=G,
             intermediate_size=F, max_position_embeddings=P,
             initializer_range=0.2, pad_token_id=None, bos_token_id=1,
             eos_token_id=2)


def rope(kind, **more):
    return dict(rope_type=kind, rope_theta=500.0, **more)


FAMILIES = {
    "llama3": (BF16, transformers.LlamaConfig, dict(
        SIZES, tie_word_embeddings=False, rope_parameters=rope(
            "llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=16))),
    "llama-tied": (F32, transformers.LlamaConfig, dict(
        SIZES, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=rope("linear", factor=2.0))),
    "mistral": (BF16, transformers.MistralConfig, dict(
        SIZES, tie_word_embeddings=False, head_dim=6, sliding_window=5)),
    "qwen2": (BF16, transformers.Qwen2Config, dict(
        SIZES, tie_word_embeddings=True)),
    "qwen3": (F16, transformers.Qwen3Config, dict(
        SIZES, tie_word_embeddings=False, head_dim=8)),
    "phi3": (BF16, transformers.Phi3Config, dict(
        SIZES, tie_word_embeddings=False, rope_parameters=rope(
            "default", partial_rotary_factor=0.5))),
    "olmo2": (BF16, transformers.Olmo2Config, dict(
        SIZES, tie_word_embeddings=False)),
    "gemma3": (BF16, transformers.Gemma3TextConfig, dict(
        SIZES, head_dim=8, query_pre_attn_scalar=12, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters=dict(full_attention=rope("linear", factor=8.0),
                             sliding_attention=dict(rope_type="default",
                                                    rope_theta=100.0)))),
    "neox": (F16, transformers.GPTNeoXConfig, dict(
        vocab_size=V, hidden_size=C, num_hidden_layers=L,
        num_attention_heads=2, intermediate_size=F, tie_word_embeddings=False,
        max_position_embeddings=P, initializer_range=0.2,
        rope_parameters=rope("default", partial_rotary_factor=0.25),
        bos_token_id=1, eos_token_id=2)),
    "neox-serial": (BF16, transformers.GPTNeoXConfig, dict(
        vocab_size=V, hidden_size=C, num_hidden_layers=L,
        num_attention_heads=H, intermediate_size=F, tie_word_embeddings=False,
        max_position_embeddings=P, initializer_range=0.2,
        use_parallel_residual=False, rope_parameters=rope(
            "default", partial_rotary_factor=0.5),
        bos_token_id=1, eos_token_id=2)),
    "gpt2": (F32, transformers.GPT2Config, dict(
        vocab_size=V, n_embd=C, n_layer=L, n_head=H, n_positions=P,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, initializer_range=0.2,
        bos_token_id=1, eos_token_id=2)),
    "opt": (F16, transformers.OPTConfig, dict(
        vocab_size=V, hidden_size=C, num_hidden_layers=L, ffn_dim=F,
        num_attention_heads=H, max_position_embeddings=P, init_std=0.2,
        word_embed_proj_dim=C, dropout=0, pad_token_id=None, bos_token_id=1,
        eos_token_id=2)),
}

ENCODER = dict(vocab_size=V, hidden_size=C, num_hidden_layers=L,
               num_attention_heads=H, intermediate_size=F,
               max_position_embeddings=P, initializer_range=0.2)

# Those that judge texts: what they say, and the rest as above.
JUDGES = {
    "bert": (F32, transformers.BertConfig, dict(
        ENCODER, id2label={0: "bad", 1: "so so", 2: "good"})),
    "distilbert": (BF16, transformers.DistilBertConfig, dict(
        vocab_size=V, dim=C, n_layers=L, n_heads=H, hidden_dim=F,
        max_position_embeddings=P, initializer_range=0.2, num_labels=1)),
    "roberta": (F16, transformers.RobertaConfig, dict(
        ENCODER, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2)),
    "xlm-roberta": (BF16, transformers.XLMRobertaConfig, dict(
        ENCODER, type_vocab_size=1, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, num_labels=3)),
    "llama-judge": (BF16, transformers.LlamaConfig, dict(
        SIZES, pad_token_id=0, num_labels=4)),
    "qwen2-judge": (F32, transformers.Qwen2Config, dict(
        SIZES, pad_token_id=0, num_labels=1, tie_word_embeddings=True)),
    "gpt2-judge": (F32, transformers.GPT2Config, dict(
        vocab_size=V, n_embd=C, n_layer=L, n_head=H, n_positions=P,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2)),
}
LENGTHS = [14, 9, 5]


def perturb(model, dtype):
    """Away from the symmetric start, and on numbers that dtype holds."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
            p.copy_(p.to(dtype).float())


def in_file(model, name):
    """GPT-NeoX's head has another name in files than in memory."""
    if model.config.model_type == "gpt_neox":
        name = name.replace("lm_head.", "embed_out.")
    return name


def golden(model):
    ids = torch.randint(0, V, (B, T + 1))
    x, y = ids[:, :-1], ids[:, 1:]
    mask = (torch.rand(B, T) < 0.7).float()
    logits = model(x).logits
    ce = torch.nn.functional.cross_entropy(
        logits.reshape(-1, V), y.reshape(-1), reduction="none")
    ((ce * mask.reshape(-1)).sum() / mask.sum()).backward()
    out = {"ids": x.float(), "logits": logits.detach(),
           "target": torch.where(mask > 0, y, -torch.ones_like(y)).float()}
    for n, p in model.named_parameters():
        out["grad/" + in_file(model, n)] = p.grad
    return {n: t.clone().contiguous() for n, t in out.items()}


def judged(model):
    """Texts of several lengths, padded here; attune has them side by side."""
    ids = [torch.randint(3, V, (n,)) for n in LENGTHS]
    types = [torch.randint(0, getattr(model.config, "type_vocab_size", 1),
                           (n,)) for n in LENGTHS]
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(x) for x in ids], batch_first=True)
    more = {}
    if hasattr(model.config, "type_vocab_size"):
        more["token_type_ids"] = pad(types, batch_first=True)
    logits = model(pad(ids, batch_first=True,
                       padding_value=model.config.pad_token_id),
                   attention_mask=mask, **more).logits
    if logits.shape[1] == 1:
        label = torch.randn(len(LENGTHS))
        loss = torch.nn.functional.mse_loss(logits[:, 0], label)
    else:
        label = torch.randint(0, logits.shape[1], (len(LENGTHS),))
        loss = torch.nn.functional.cross_entropy(logits, label)
    loss.backward()
    out = {"ids": torch.cat(ids).float(), "type": torch.cat(types).float(),
           "label": label.float(), "logits": logits.detach(),
           "loss": loss.detach().reshape(1)}
    for n, p in model.named_parameters():
        out["grad/" + n] = p.grad if p.grad is not None else 0 * p.detach()
    return {n: t.clone().contiguous() for n, t in out.items()}


def save(root, name, auto, dtype, config, goldens):
    torch.manual_seed(7)
    folder = os.path.join(root, name)
    shutil.rmtree(folder, ignore_errors=True)
    model = auto.from_config(config, attn_implementation="eager")
    model = model.float().eval()
    perturb(model, dtype)
    saved = goldens(model)
    model.to(dtype).save_pretrained(folder)
    save_file(saved, os.path.join(folder, "golden.safetensors"))
    size = sum(os.path.getsize(os.path.join(folder, f))
               for f in os.listdir(folder))
    with open(os.path.join(folder, "config.json")) as f:
        kind = json.load(f)["model_type"]
    print(name, kind, dtype, size)


def main(root, names):
    transformers.logging.set_verbosity_error()
    for table, auto, goldens in [
            (FAMILIES, AutoModelForCausalLM, golden),
            (JUDGES, AutoModelForSequenceClassification, judged)]:
        for name, (dtype, make, settings) in table.items():
            if not names or name in names:
                save(root, name, auto, dtype, make(**settings), goldens)


main(sys.argv[1], sys.argv[2:])
