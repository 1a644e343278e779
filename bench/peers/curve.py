"""The loss curve of a run of attune beside PyTorch's on the same recipe: reads
the run's recipe, its start model and its dataset, trains a plain PyTorch Llama
with the same batches, and compares step by step.

    python bench/peers/curve.py RUN      (needs torch, h5py, pyyaml, xxhash)

The recipe must have data.pack: false, data.shuffle: false, no dropout, and
start from a model file of the llama family (with pairs (2i, 2i+1) or halves).
For a model from scratch, that file is the checkpoint of one step at
optim.lr=1e-30, which leaves the drawn weights as they are.
"""
import csv
import json
import math
import sys

import h5py
import numpy as np
import torch
import xxhash
import yaml

F = torch.nn.functional


def philox(key, index):
    """Philox4x32-10 on counter (index, 0): what base/rng.c does."""
    c = [index & 0xFFFFFFFF, index >> 32, 0, 0]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF,
             (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def drawn(seed, name, n, bound):
    stream = xxhash.xxh3_128_intdigest(name.encode()) & 0xFFFFFFFF
    key = seed ^ (((1 << 32 | stream) * 0x9E3779B97F4A7C15) & (2**64 - 1))
    u = [philox(key, i) for i in range(n)]
    return np.array([bound * (2 * (((w[1] << 32 | w[0]) >> 11) * 2.0**-53) - 1)
                     for w in u], dtype=np.float32)


def rope(x, pos, theta, half):
    B, T, H, K = x.shape
    f = theta ** (-torch.arange(0, K, 2, dtype=torch.float64) / K)
    a = torch.outer(pos.double(), f)
    c, s = (t.float()[None, :, None] for t in (a.cos(), a.sin()))
    if half:
        p, q = x[..., :K // 2], x[..., K // 2:]
        return torch.cat([p * c - q * s, p * s + q * c], -1)
    p, q = x[..., 0::2], x[..., 1::2]
    return torch.stack([p * c - q * s, p * s + q * c], -1).flatten(-2)


class Llama:
    def __init__(self, path, recipe):
        f = h5py.File(path, "r")
        a = f.attrs
        self.L, self.H, self.G = (int(a["model_" + k]) for k in
                                  ("layers", "heads", "kv_heads"))
        self.K, self.eps = int(a["model_head_size"]), float(a["model_norm_eps"])
        self.theta, self.half = float(a["model_rope_theta"]), bool(
            a["model_rope_half"])
        self.w = {}
        f["params"].visititems(lambda n, d: self.w.__setitem__(
            n, torch.tensor(np.array(d))) if isinstance(d, h5py.Dataset)
            else None)
        self.rank, self.lora = recipe["lora"]["rank"], {}
        if self.rank:
            import re
            self.scale = recipe["lora"]["alpha"] / self.rank
            for n in sorted(self.w):
                site = n[:-len(".weight")]
                if site.endswith("_proj") and re.search(
                        recipe["lora"]["targets"], site):
                    out, width = self.w[n].shape
                    A = drawn(recipe["seed"], site + ".lora_a.weight",
                              self.rank * width, 1 / math.sqrt(width))
                    self.lora[site] = (
                        torch.tensor(A.reshape(self.rank, width)),
                        torch.zeros(out, self.rank))
        self.train = ([t for ab in self.lora.values() for t in ab]
                      if self.rank else list(self.w.values()))
        for t in self.train:
            t.requires_grad_(True)

    def proj(self, x, site):
        y = x @ self.w[site + ".weight"].T
        if site in self.lora:
            A, B = self.lora[site]
            y = y + self.scale * (x @ A.T) @ B.T
        return y

    def norm(self, x, n):
        r = torch.rsqrt((x * x).mean(-1, keepdim=True) + self.eps)
        return x * r * self.w[n + ".weight"]

    def logits(self, ids):
        B, T = ids.shape
        x, pos = self.w["embed.weight"][ids], torch.arange(T)
        for i in range(self.L):
            b = "blocks.%d." % i
            h = self.norm(x, b + "attn_norm")
            q, k, v = (self.proj(h, b + "attn.%s_proj" % n).view(B, T, m,
                       self.K) for n, m in (("q", self.H), ("k", self.G),
                                            ("v", self.G)))
            q, k = (rope(t, pos, self.theta, self.half) for t in (q, k))
            k, v = (t.repeat_interleave(self.H // self.G, 2) for t in (k, v))
            y = F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                is_causal=True).transpose(1, 2).reshape(B, T, -1)
            x = x + self.proj(y, b + "attn.o_proj")
            h = self.norm(x, b + "mlp_norm")
            h = F.silu(self.proj(h, b + "mlp.gate_proj")) * self.proj(
                h, b + "mlp.up_proj")
            x = x + self.proj(h, b + "mlp.down_proj")
        head = self.w.get("head.weight", self.w["embed.weight"])
        return self.norm(x, "norm") @ head.T


def batches(path, recipe):
    f = h5py.File(path, "r")
    tok, role = np.array(f["tokens"]), np.array(f["roles"])
    off, split = np.array(f["offsets"]), np.array(f["split"])
    rows, T = recipe["batch"]["rows"], recipe["batch"]["length"]
    lm, pieces = recipe["objective"] == "lm", []
    for d in np.flatnonzero(split == 0):
        at = int(off[d])
        while at + 1 < off[d + 1]:
            n = min(T, int(off[d + 1]) - at - 1)
            y = tok[at + 1:at + n + 1].astype(np.int64)
            r = role[at + 1:at + n + 1]
            keep = (r != 0) if lm else (r >= 2)
            pieces.append((tok[at:at + n].astype(np.int64),
                           np.where(keep, y, -100)))
            at += n
    i = 0
    while True:
        x = np.zeros((rows, T), np.int64)
        y = np.full((rows, T), -100, np.int64)
        for r in range(rows):
            a, b = pieces[i % len(pieces)]
            x[r, :len(a)], y[r, :len(b)], i = a, b, i + 1
        yield torch.tensor(x), torch.tensor(y)


def rate(s, o, step, steps):
    if s["warmup"] and step <= s["warmup"]:
        return o["lr"] * step / s["warmup"]
    x = (step - s["warmup"]) / (steps - s["warmup"])
    lo = s["min_ratio"]
    return o["lr"] * {"constant": 1, "linear": 1 - x * (1 - lo),
                      "cosine": lo + (1 - lo) * 0.5 * (1 + math.cos(
                          math.pi * x))}[s["name"]]


def numbers(v):
    """YAML 1.1 reads 1e-8 as a text."""
    if isinstance(v, dict):
        return {k: numbers(x) for k, x in v.items()}
    try:
        return float(v) if isinstance(v, str) else v
    except ValueError:
        return v


def main(run):
    recipe = numbers(yaml.safe_load(open(run + "/recipe.yaml")))
    recipe.setdefault("lora", {"rank": 0})
    recipe["lora"].setdefault("rank", 0)
    assert not recipe["data"]["pack"] and not recipe["data"]["shuffle"]
    mine = [float(r["loss"]) for r in csv.DictReader(
        open(run + "/metrics.csv")) if r["split"] == "train"]
    o, m = recipe["optim"], Llama(recipe["model"]["path"], recipe)
    opt = torch.optim.AdamW(
        [{"params": [p for p in m.train if p.ndim >= 2],
          "weight_decay": o.get("weight_decay", 0)},
         {"params": [p for p in m.train if p.ndim < 2], "weight_decay": 0}],
        betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    data, worst, steps = batches(recipe["data"]["path"], recipe), 0, len(mine)
    for step in range(1, steps + 1):
        parts = [next(data) for _ in range(recipe["batch"]["accumulate"])]
        n = sum((y >= 0).sum() for _, y in parts)
        opt.zero_grad()
        total = 0
        for x, y in parts:
            loss = F.cross_entropy(m.logits(x).flatten(0, 1), y.flatten(),
                                   reduction="sum") / n
            loss.backward()
            total += loss.item()
        if o["clip"]:
            torch.nn.utils.clip_grad_norm_(m.train, o["clip"])
        for g in opt.param_groups:
            g["lr"] = rate(recipe["schedule"], o, step, steps)
        opt.step()
        worst = max(worst, abs(total - mine[step - 1]))
        if step == 1 or step % 10 == 0:
            print("step %4d  torch %.6f  attune %.6f" % (step, total,
                                                         mine[step - 1]))
    print(json.dumps({"run": run, "steps": steps, "largest_difference": worst,
                      "last_loss": mine[-1]}))


main(sys.argv[1])
