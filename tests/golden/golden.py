"""Writes the golden fixtures: tiny Llama and GPT-2 by PyTorch and transformers,
and LoRA on the first by PEFT.  Run by hand; the output is committed.

    python tests/golden/golden.py tests/golden

A fixture is NAME.txt, lines of "array ndim dims...", and NAME.bin, the arrays
in that order as little-endian float32 (integers too: they are small).
"""
import sys

import numpy as np
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel
from transformers import LlamaConfig, LlamaForCausalLM

B, T, V, C, L, H, G, F = 2, 24, 96, 32, 2, 4, 2, 64
STEPS, LR, WD = 10, 3e-3, 0.1


class Fixture:
    def __init__(self, path):
        self.head, self.body, self.path = [], [], path

    def add(self, name, x):
        x = np.asarray(x, dtype="<f4")
        self.head.append(" ".join([name, str(x.ndim), *map(str, x.shape)]))
        self.body.append(x.tobytes())

    def write(self):
        with open(self.path + ".txt", "w") as f:
            f.write("\n".join(self.head) + "\n")
        with open(self.path + ".bin", "wb") as f:
            f.write(b"".join(self.body))


def llama_name(n):
    n = n.replace("base_model.model.", "").replace("model.", "", 1)
    for a, b in [("embed_tokens.", "embed."), ("layers.", "blocks."),
                 ("self_attn.", "attn."), ("post_attention_layernorm",
                 "mlp_norm"), ("input_layernorm", "attn_norm"),
                 ("lm_head.", "head."), (".base_layer", ""),
                 ("lora_A.default", "lora_a"), ("lora_B.default", "lora_b")]:
        n = n.replace(a, b)
    return n


def gpt2_name(n):
    n = n.replace("transformer.", "")
    for a, b in [("wte.", "embed."), ("wpe.", "pos."), ("h.", "blocks."),
                 ("ln_1", "attn_norm"), ("ln_2", "mlp_norm"),
                 ("ln_f", "norm"), ("attn.c_attn", "attn.qkv_proj"),
                 ("attn.c_proj", "attn.o_proj"), ("mlp.c_fc", "mlp.up_proj"),
                 ("mlp.c_proj", "mlp.down_proj")]:
        n = n.replace(a, b)
    return n


def conv1d(name):
    """transformers' GPT-2 keeps these [in, out]."""
    return any(s in name for s in ("c_attn.weight", "c_proj.weight",
                                   "c_fc.weight"))


def out(name, x):
    x = x.detach().numpy()
    return x.T if conv1d(name) else x


def loss_of(model, ids, target, mask):
    logits = model(ids).logits
    ce = torch.nn.functional.cross_entropy(
        logits.reshape(-1, V), target.reshape(-1), reduction="none")
    return (ce * mask.reshape(-1)).sum() / mask.sum(), logits


def fixture(path, model, rename):
    torch.manual_seed(11)
    model.eval()
    with torch.no_grad():       # away from the symmetric start
        for n, p in model.named_parameters():
            if p.ndim == 1 or "lora_B" in n:
                p.add_(0.1 * torch.randn_like(p))
    ids = torch.randint(0, V, (B, T + 1))
    mask = (torch.rand(B, T) < 0.7).float()
    f = Fixture(path)
    x, y = ids[:, :-1], ids[:, 1:]
    f.add("ids", x)
    f.add("target", torch.where(mask > 0, y, -torch.ones_like(y)))
    for n, p in model.named_parameters():
        f.add("param/" + rename(n), out(n, p))
    loss, logits = loss_of(model, x, y, mask)
    loss.backward()
    f.add("logits", logits.detach())
    for n, p in model.named_parameters():
        if p.requires_grad:
            f.add("grad/" + rename(n), out(n, p.grad))
    train = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    opt = torch.optim.AdamW(
        [{"params": [p for _, p in train if p.ndim >= 2], "weight_decay": WD},
         {"params": [p for _, p in train if p.ndim < 2], "weight_decay": 0}],
        lr=LR, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for _ in range(STEPS):
        opt.zero_grad()
        loss, _ = loss_of(model, x, y, mask)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    f.add("losses", losses)
    f.write()
    print(path, losses[0], losses[-1])


def main(folder):
    transformers.logging.set_verbosity_error()
    torch.manual_seed(5)
    llama = lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=V, hidden_size=C, num_hidden_layers=L,
        num_attention_heads=H, num_key_value_heads=G, intermediate_size=F,
        max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0,
        tie_word_embeddings=False, initializer_range=0.2,
        attn_implementation="eager"))
    fixture(folder + "/llama", llama(), llama_name)
    fixture(folder + "/gpt2", GPT2LMHeadModel(GPT2Config(
        vocab_size=V, n_embd=C, n_layer=L, n_head=H, n_positions=64,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, initializer_range=0.2,
        attn_implementation="eager")), gpt2_name)
    import peft
    m = peft.get_peft_model(llama(), peft.LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0,
        target_modules=["q_proj", "v_proj", "down_proj"]))
    fixture(folder + "/lora", m, llama_name)


main(sys.argv[1])
