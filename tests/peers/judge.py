"""Models that judge, beside transformers and PEFT: tiny random ones with tokenizers
of their own are imported and classify texts; then they learn some, whole and
by LoRA, and what is exported is loaded and must say the same.

    /path/to/python tests/peers/judge.py build/tools/attune

Needs torch, transformers, tokenizers, peft (measured with 2.15, 5.24, 0.23 and
0.21); not part of the test suite.  Prints the largest difference of each.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

import torch
import transformers as hf
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre, processors, trainers

WORDS = "the a clock house film was is very so and but not quite".split()
GOOD, BAD = ["fine", "warm", "kind", "lovely"], ["cold", "dull", "grim", "poor"]
ENDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def texts(n, seed):
    draw = random.Random(seed)
    for _ in range(n):
        good = draw.random() < 0.5
        words = draw.choices(WORDS, k=draw.randrange(1, 12))
        words.insert(draw.randrange(len(words) + 1),
                     draw.choice(GOOD if good else BAD))
        yield " ".join(words), "good" if good else "bad"


def tokenizer(kind):
    lines = [t for t, _ in texts(500, 1)]
    if kind == "bert":
        t = Tokenizer(models.WordPiece(unk_token="[UNK]",
                                       max_input_chars_per_word=100))
        t.normalizer = normalizers.BertNormalizer()
        t.pre_tokenizer = pre.BertPreTokenizer()
        t.decoder = decoders.WordPiece()
        t.train_from_iterator(lines, trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=ENDS, show_progress=False))
        t.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair=None,
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        return t
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=320, show_progress=False,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre.ByteLevel.alphabet()))
    if kind == "roberta":
        t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return t


SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=64, max_position_embeddings=66,
             initializer_range=0.1)
MODELS = {
    "bert": ("bert", lambda v: hf.BertForSequenceClassification(
        hf.BertConfig(vocab_size=v, **SIZES))),
    "distilbert": ("bert", lambda v: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(vocab_size=v, dim=32, n_layers=2, n_heads=4,
                            hidden_dim=64, max_position_embeddings=66,
                            initializer_range=0.1))),
    "roberta": ("roberta", lambda v: hf.RobertaForSequenceClassification(
        hf.RobertaConfig(vocab_size=v, type_vocab_size=1, **SIZES))),
    "llama": ("llama", lambda v: hf.LlamaForSequenceClassification(
        hf.LlamaConfig(vocab_size=v, pad_token_id=1, bos_token_id=None,
                       eos_token_id=None, **SIZES))),
    "gpt2": ("llama", lambda v: hf.GPT2ForSequenceClassification(
        hf.GPT2Config(vocab_size=v, n_embd=32, n_layer=2, n_head=4,
                      n_positions=66, initializer_range=0.1, pad_token_id=1))),
}


def ours(attune, model, lines):
    text = "".join(x + "\n" for x in lines).encode()
    out = subprocess.run([attune, "classify", "--model", model, "--json", "-"],
                         input=text, check=True, stdout=subprocess.PIPE).stdout
    return torch.tensor([list(json.loads(x)["probabilities"].values())
                         for x in out.decode().splitlines()])


def theirs(model, tok, lines):
    with torch.no_grad():
        return torch.stack([model.eval()(input_ids=torch.tensor(
            [tok.encode(x).ids])).logits[0].softmax(-1) for x in lines])


def check(name, what, a, b):
    off = (a - b).abs().max().item()
    print("%-11s %-24s %d texts, probabilities off by %.1e" % (
        name, what, len(a), off))
    return off < 1e-5


def run(attune, name, tmp):
    def go(*args):
        subprocess.run([attune, *map(str, args)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kind, make = MODELS[name]
    at = lambda *x: os.path.join(tmp, name + "-" + "-".join(x))
    torch.manual_seed(3)
    tok = tokenizer(kind)
    model = make(tok.get_vocab_size())
    model.config.id2label = {0: "bad", 1: "good"}
    folder = at("hf")
    model.save_pretrained(folder)
    tok.save(os.path.join(folder, "tokenizer.json"))
    lines = [t for t, _ in texts(60, 2)] + ["fine", "so", "Clock \u00e9t\u00e9 !?"]
    go("import", "hf", folder, at("m.h5"))
    good = check(name, "imported", ours(attune, at("m.h5"), lines),
                 theirs(model, tok, lines))
    with open(at("t.jsonl"), "w") as f:
        for t, y in texts(400, 4):
            f.write(json.dumps(dict(text=t, label=y)) + "\n")
    go("data", at("t.jsonl"), at("t.h5"), "--tokenizer", at("m.h5"), "--label",
       "label", "--max-length", 40)
    with open(at("r.yaml"), "w") as f:
        f.write("objective: classify\nbatch: {rows: 8, length: 40}\n"
                "optim: {lr: 3e-3}\ntrain: {steps: 60}\n")
    keys = ["model.path=" + at("m.h5"), "data.path=" + at("t.h5")]
    go("train", at("r.yaml"), *keys, "run=" + at("whole"))
    go("train", at("r.yaml"), *keys, "run=" + at("lora"), "lora.rank=4")
    go("export", at("whole"), at("whole-hf"))
    go("export", at("lora"), at("lora-hf"), "--merge")
    go("export", at("lora"), at("peft"), "--format", "peft")
    auto = hf.AutoModelForSequenceClassification
    for what, said in [("whole", "trained, exported"), ("lora", "LoRA, merged")]:
        peer = auto.from_pretrained(at(what + "-hf"))
        assert list(peer.config.id2label.values()) == ["bad", "good"]
        good &= check(name, said, ours(attune, at(what), lines),
                      theirs(peer, tok, lines))
    peer = PeftModel.from_pretrained(auto.from_pretrained(folder), at("peft"))
    good &= check(name, "LoRA, by PEFT", ours(attune, at("lora"), lines),
                  theirs(peer, tok, lines))
    peer.save_pretrained(at("again"))
    go("import", "peft", at("again"), at("again.h5"), "--base", at("m.h5"))
    return good & check(name, "saved by PEFT, imported",
                        ours(attune, at("again.h5"), lines),
                        theirs(peer, tok, lines))


def main(attune):
    hf.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as tmp:
        good = [run(attune, name, tmp) for name in MODELS]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(sys.argv[1])))
