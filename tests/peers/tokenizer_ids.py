"""attune's tokenizers beside Hugging Face's: the same ids for 10000 odd strings.

    /path/to/python tests/peers/tokenizer_ids.py build/tools/attune FOLDER ...

Each folder holds a tokenizer.json.  Needs tokenizers (measured with 0.23.3); not
part of the test suite.  Prints how many differ, and the first of them.
"""
import json
import os
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

WORDS = ["the", "Hello", "don't", "naïve", "Straße", "Ελλάδα", "привет", "東京都",
         "नमस्ते", "مرحبا بك", "שלום", "한국어", "ภาษาไทย", "🙂", "👩‍👩‍👧‍👦", "🇩🇪", "e\u0301", "\u1100\u1161\u11a8", "a\u0308\u0323", "\u212b",
         "ﬁ", "①②", "１２３", "3.14159", "0x1F", "a_b", "C++", "http://x.y/z?q=1",
         "\u2581", "\u2581\u2581a", "<0x0A>", "<s>", "</s>", "[INST]", "\ufffd", "\ufeff", "\u200b",
         "\u00a0", "\x00", "\x07", "\x1b[0m", "\x7f", "\u2028", "\r\n", "\n\n", "\t",
         "zzzzqqqq", "aAbB" * 9, "=" * 40, "\U0001F9FF", "\U00020000"]
GAPS = ["", " ", " ", " ", "  ", "   ", "\n", "\t ", " \n "]


def texts(n):
    draw = random.Random(5)
    made = ["", " ", "  ", "a", " a", "\u2581", "\n", "a" * 30000, "ab " * 9000,
            " " * 3000, "\u2581" * 999, "🙂" * 2000]
    while len(made) < n:
        kind = draw.random()
        if kind < 0.6:
            made.append("".join(draw.choice(WORDS) + draw.choice(GAPS)
                                for _ in range(draw.randrange(1, 12))))
        elif kind < 0.8:        # any characters at all
            made.append("".join(chr(draw.choice(
                [draw.randrange(128), draw.randrange(0x3000),
                 draw.randrange(0x4E00, 0x9FFF), draw.randrange(0x1F300, 0x1FAFF)]))
                for _ in range(draw.randrange(1, 40))))
        else:
            made.append(" ".join(draw.choice(WORDS) for _ in range(30)))
    return made


def main(attune, folders):
    strings = texts(10000)
    worst = 0
    for folder in folders:
        with tempfile.TemporaryDirectory() as tmp:
            own = os.path.join(tmp, "t.h5")
            subprocess.run([attune, "tokenizer", own, "--hf", folder], check=True)
            lines = "".join(json.dumps(s) + "\n" for s in strings)
            got = subprocess.run([attune, "tokenize", "-", "--lines", "--special",
                                  "--model", own],
                                 input=lines.encode(), check=True,
                                 stdout=subprocess.PIPE).stdout.decode()
        got = [[int(x) for x in line.split()] for line in got.split("\n")[:-1]]
        peer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        peer.no_padding()
        peer.no_truncation()
        bos = got[0][:1]        # attune puts it where the model's data have it
        wrong = []
        for s, ids in zip(strings, got):
            want = peer.encode(s, add_special_tokens=False).ids
            if ids[len(bos):] != want:
                wrong.append((s, ids[len(bos):], want))
        print("%s: %d of %d strings differ" % (folder, len(wrong), len(strings)))
        for s, ids, want in wrong[:2]:
            print("  %r\n    attune %s\n    peer   %s" % (s[:80], ids[:24], want[:24]))
        worst = max(worst, len(wrong))
    return worst > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
