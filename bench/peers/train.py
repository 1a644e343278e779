"""PyTorch + transformers (+ PEFT) doing the step that bench/train.c does:
float32, AdamW, B=4 T=256, random weights and tokens.  Prints one JSON line.

    python bench/peers/train.py gpt2|llama15m full|lora [steps] [threads]
"""
import json
import resource
import sys
import time

import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel
from transformers import LlamaConfig, LlamaForCausalLM

B, T = 4, 256


def model(name):
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
            attn_implementation="sdpa"))
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=32000, hidden_size=288, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=6, intermediate_size=768,
        max_position_embeddings=256, tie_word_embeddings=True,
        attn_implementation="sdpa"))


def main(name, method, steps=8, threads=2):
    torch.set_num_threads(int(threads))
    transformers.logging.set_verbosity_error()
    m = model(name)
    if method == "lora":
        import peft
        targets = ["c_attn"] if name == "gpt2" else ["q_proj", "v_proj"]
        m = peft.get_peft_model(m, peft.LoraConfig(
            r=8, lora_alpha=16, target_modules=targets))
    m.train()
    V = m.config.vocab_size
    opt = torch.optim.AdamW([p for p in m.parameters() if p.requires_grad],
                            lr=1e-4, fused=True)
    times = []
    for i in range(int(steps)):
        x = torch.randint(0, V, (B, T + 1))
        start = time.monotonic()
        opt.zero_grad(set_to_none=True)
        logits = m(x[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, V), x[:, 1:].reshape(-1))
        loss.backward()
        opt.step()
        times.append(time.monotonic() - start)
    times = sorted(times[2:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "peer": "torch " + torch.__version__, "model": name, "method": method,
        "step_s": times[len(times) // 2],
        "tokens_per_s": B * T / times[len(times) // 2],
        "peak_bytes": peak, "loss": loss.item()}))


main(*sys.argv[1:])
