#!/usr/bin/env python3
"""GGUF files by attune, run by llama.cpp: the same logits.

    python tests/peers/gguf.py ATTUNE [MODEL.h5 PROMPT]...

Tiny random models of every family that llama.cpp has go from transformers
through attune to GGUF; llama.cpp's logits are compared with transformers'.
MODELs that write text: the ids of some strings, and what follows the prompt.
Needs torch, transformers and llama-cpp-python.
"""
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
import torch
import transformers as tf

SIZES = dict(vocab_size=96, hidden_size=64, num_hidden_layers=6,
             num_attention_heads=4, intermediate_size=96,
             max_position_embeddings=128)
KV = dict(num_key_value_heads=2)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=8192)
CONFIGS = {
    "llama": tf.LlamaConfig(**SIZES, **KV),
    "llama 3.1": tf.LlamaConfig(**SIZES, **KV, rope_theta=5e5,
                                rope_scaling=LLAMA3),
    "mistral": tf.MistralConfig(**SIZES, **KV, sliding_window=None),
    "qwen2": tf.Qwen2Config(**SIZES, **KV),
    "qwen3": tf.Qwen3Config(**SIZES, **KV, head_dim=32),
    "phi3": tf.Phi3Config(**SIZES, **KV, pad_token_id=0),
    "olmo2": tf.Olmo2Config(**SIZES, **KV),
    "gemma3": tf.Gemma3TextConfig(**SIZES, **KV, head_dim=32,
                                  query_pre_attn_scalar=32, sliding_window=32),
    "gpt_neox": tf.GPTNeoXConfig(**SIZES, rotary_pct=0.25),
    "gpt2": tf.GPT2Config(vocab_size=96, n_embd=64, n_layer=3, n_head=4,
                          n_positions=128),
}


def run(*args):
    done = subprocess.run(args, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(args)}: {done.stderr}")
    return done.stdout


def logits(path, ids):
    model = llama_cpp.Llama(path, n_ctx=128, n_batch=128, logits_all=True,
                            verbose=False)
    model.eval(ids)
    return np.array(model.scores[:len(ids)])


TEXTS = ["Hello world", " two  spaces", "caf\u00e9 na\u00efve \u4e2d\u6587",
         "x = 12345; y[3] += 0.5\n\n\tend", "\U0001F642 ok", "I'll we've DON'T",
         "tab\tand\r\nline", "\u0639\u0631\u0628\u064a 12,5 %", "Once upon a time",
         " ", "a"]


def words(attune, model, prompt, tmp):
    run(attune, "export", model, f"{tmp}/m.gguf", "--dtype", "float32")
    theirs = llama_cpp.Llama(f"{tmp}/m.gguf", n_ctx=128, verbose=False)
    differ = 0
    for text in TEXTS:
        ours = [int(i) for i in run(attune, "tokenize", "--model", model,
                                    text).split()]
        differ += ours != theirs.tokenize(text.encode(), add_bos=True,
                                          special=False)
    made = run(attune, "generate", "--model", model, "--prompt", prompt,
               "--max-tokens", "24", "--temperature", "0")
    other = prompt + theirs(prompt, max_tokens=24, temperature=0)[
        "choices"][0]["text"]
    same = made.rstrip("\n").startswith(other) or other.startswith(
        made.rstrip("\n"))
    print(f"{model}: {differ} of {len(TEXTS)} strings have other ids; "
          f"{'the same text' if same else 'another text'}: {other!r}")


def family(attune, name, config, tmp):
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
        ids = [(3 + 7 * i) % 96 for i in range(80)]
        want = model(torch.tensor([ids])).logits[0].numpy()
    model.save_pretrained(f"{tmp}/hf")
    run(attune, "import", "hf", f"{tmp}/hf", f"{tmp}/m.h5", "--no-tokenizer")
    run(attune, "export", f"{tmp}/m.h5", f"{tmp}/m.gguf", "--dtype", "float32")
    try:
        got = logits(f"{tmp}/m.gguf", ids)
    except Exception as e:
        return print(f"{name:10} llama.cpp does not load it: {e}")
    print(f"{name:10} largest difference {np.abs(got - want).max():.2e} of "
          f"logits up to {np.abs(want).max():.1f}, likeliest the same at "
          f"{100 * (got.argmax(1) == want.argmax(1)).mean():.0f} %")


if __name__ == "__main__":
    for name, config in CONFIGS.items():
        with tempfile.TemporaryDirectory() as tmp:
            family(sys.argv[1], name, config, tmp)
    for model, prompt in zip(sys.argv[2::2], sys.argv[3::2]):
        with tempfile.TemporaryDirectory() as tmp:
            words(sys.argv[1], model, prompt, tmp)
