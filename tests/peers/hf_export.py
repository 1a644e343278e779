"""attune's folders in transformers and PEFT: the same logits, the same bytes.

    /path/to/python tests/peers/hf_export.py build/tools/attune

Needs torch, transformers and peft; not part of the test suite.  For every
folder of tests/golden/hf: import, export, and load the export with
transformers; its logits are those of the original, its tensors the same bytes.
Then an adapter by PEFT: import, export, load with PEFT: the same logits; merged
by attune: the same logits again.  Then a byte-level BPE tokenizer of attune's.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

import peft
import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
TARGETS = {"gpt2": ["c_attn", "c_proj"], "gpt_neox": ["dense"],
           "phi3": ["o_proj", "down_proj"]}


def attune(*args):
    subprocess.run([ATTUNE, *args], check=True, stdout=subprocess.DEVNULL)


def tensors(folder):
    out = {}
    for path in sorted(glob.glob(folder + "/*.safetensors")):
        if os.path.basename(path).startswith("golden"):
            continue
        with safe_open(path, "pt") as f:
            out.update({k: f.get_tensor(k) for k in f.keys()})
    return out


def load(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32).eval()


def logits(model):
    torch.manual_seed(3)
    ids = torch.randint(0, 48, (2, 20))
    with torch.no_grad():
        return model(ids).logits


def same(what, a, b, tol=1e-5):
    off = (a - b).abs().max().item()
    assert off <= tol * (1 + b.abs().max().item()), (what, off)
    print("  %-28s %.1e" % (what, off))


def identical(a, b):
    assert a.keys() == b.keys(), set(a) ^ set(b)
    for k in a:
        assert a[k].dtype == b[k].dtype, k
        assert torch.equal(a[k], b[k]), k


def model(folder, tmp):
    attune("import", "hf", folder, tmp + "/m.h5", "--no-tokenizer")
    attune("export", tmp + "/m.h5", tmp + "/out")
    identical(tensors(tmp + "/out"), tensors(folder))
    original = load(folder)
    same("model", logits(load(tmp + "/out")), logits(original))
    attune("export", tmp + "/m.h5", tmp + "/f32", "--dtype", "float32")
    same("model as float32", logits(load(tmp + "/f32")), logits(original))
    with open(folder + "/generation_config.json", "rb") as a, \
            open(tmp + "/out/generation_config.json", "rb") as b:
        assert a.read() == b.read()


def adapter(folder, tmp, rslora):
    original = load(folder)
    kind = original.config.model_type
    torch.manual_seed(5)
    m = peft.get_peft_model(original, peft.LoraConfig(
        r=3, lora_alpha=5, task_type="CAUSAL_LM", use_rslora=rslora,
        fan_in_fan_out=kind == "gpt2",
        target_modules=TARGETS.get(kind, ["q_proj", "v_proj", "down_proj"])))
    with torch.no_grad():
        for n, p in m.named_parameters():
            if "lora_B" in n:
                p.normal_(0, 0.3)
    want = logits(m)
    m.save_pretrained(tmp + "/adapter")
    attune("import", "peft", tmp + "/adapter", tmp + "/a.h5", "--base",
           tmp + "/m.h5")
    attune("export", tmp + "/a.h5", tmp + "/again", "--format", "peft")
    identical(tensors(tmp + "/again"), tensors(tmp + "/adapter"))
    again = peft.PeftModel.from_pretrained(load(folder), tmp + "/again")
    same("adapter", logits(again), want)
    attune("export", tmp + "/a.h5", tmp + "/merged", "--merge", "--dtype",
           "float32")
    same("adapter merged", logits(load(tmp + "/merged")), want, 3e-5)


def tokenizer(tmp):
    corpus = os.path.join(HERE, "../golden/tokenizer/corpus.txt")
    attune("tokenizer", corpus, tmp + "/tok.h5", "--vocab", "400")
    with open(tmp + "/data.jsonl", "w") as f:
        f.write(json.dumps({"text": open(corpus).read()}) + "\n")
    attune("data", tmp + "/data.jsonl", tmp + "/data.h5", "--tokenizer",
           tmp + "/tok.h5")
    with open(tmp + "/r.yaml", "w") as f:
        f.write("model: {family: llama, dim: 16, layers: 1, heads: 2, "
                "max_length: 64, tokenizer: %s/tok.h5}\ndata: {path: "
                "%s/data.h5}\nbatch: {rows: 1, length: 32}\n"
                "train: {steps: 2}\nobjective: lm\n" % (tmp, tmp))
    attune("train", tmp + "/r.yaml", "run=" + tmp + "/run")
    attune("export", tmp + "/run", tmp + "/scratch")
    load(tmp + "/scratch")
    t = AutoTokenizer.from_pretrained(tmp + "/scratch")
    text = "The miller's three clocks: 1200 people, früher 磨坊主"
    said = subprocess.run([ATTUNE, "tokenize", "--model", tmp + "/run/"
                           "checkpoints/latest", text], check=True,
                          capture_output=True, text=True).stdout
    ids = [int(x) for x in said.split("\n")[0].split()]
    assert t.encode(text) == ids, (t.encode(text), said)
    print("tokenizer: %d ids" % len(ids))


def main():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for folder in sorted(glob.glob(os.path.join(HERE, "../golden/hf/*"))):
        if "ForSequence" in open(folder + "/config.json").read():
            continue            # see judge.py
        print(os.path.basename(folder))
        with tempfile.TemporaryDirectory() as tmp:
            model(folder, tmp)
            adapter(folder, tmp, os.path.basename(folder) == "qwen3")
    with tempfile.TemporaryDirectory() as tmp:
        tokenizer(tmp)


ATTUNE = sys.argv[1]
main()
