"""Writes the tokenizer fixtures.  Run by hand; the output is committed.

    python tests/golden/tokenizer.py tests/golden/tokenizer

  corpus.txt                 what both were trained on
  encoder.json, vocab.bpe    byte-level BPE by Hugging Face's tokenizers 0.23.3
  tokenizer.bin              llama2.c's format: pieces by a small BPE trainer on
                             characters, here
  ids.json                   texts, their ids by tokenizers ("bpe"; "special"
                             with special tokens parsed) and by llama2.c's own
                             quadratic loop, written out in Python ("llama2c")
"""
import collections
import json
import random
import struct
import sys
import unicodedata

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

out = sys.argv[1] + '/'
random.seed(7)

CORPUS = """\
The miller of the high valley had three clocks, and none of them agreed.
"It's no matter," he'd say; "when the first one strikes, I'll start the wheel,
when the second one strikes, we'll have bread, and the third's for the cat."

So the neighbours learned to live by what they could hear.  They'd listen for
the wheel, they'd listen for the baker's door, and on market days, when 1200
people came up the road with 35 carts and 7 geese, nobody asked the hour.
The traveller who came in the spring didn't know this. He set his watch by the
first clock, lost 20 minutes; set it by the second, lost 40; by the third he
had missed the coach, the dinner and the last warm room in the village.

"You've three clocks," the traveller said, "and you're never on time!"
"We're never late," the miller said. "There's a difference, isn't there?"

Der Müller im hohen Tal hatte drei Uhren, und keine ging wie die andere. Wer
früh aufstand, hörte das Rad; wer länger schlief, hörte die Tür des Bäckers.
Über die Brücke führte der Weg, größer als nötig, schöner als üblich.

Ο μυλωνάς είχε τρία ρολόγια και κανένα δεν έδειχνε την ίδια ώρα.
У мельника было три часов, и ни одни не шли верно: час, два, три.
磨坊主有三只钟，没有一只是准的。水车响了，人们就起来；门开了，人们就吃饭。
時計が三つありました。どれも合っていませんでした。

def strike(clock, hour=12):
    for n in range(hour):
        clock.hit(n + 1)    # one, two, three
    return {'clock': clock, 'hour': hour}

if (wheel->turns > 0 && !door.open()) { bread[0] = flour + water * 2; }

The cat slept through all of it. 🐈 It had its own clock, and its own wheel,
and when the third clock struck, the cat came down; it's the only one who was
always right. ☕ 11:59, 12:00, 12:01... one, two, three, and the wheel, and the
bread, and the cat, and the clock, and the hour that none of them agreed on.
"""

TEXTS = [
    '', ' ', '  ', '   ', '\n', '\n\n', ' \n', '\n ', '\t\t x', 'a', ' a', 'a ',
    'the clock', ' the clock', '  the  clock  ', "it's we'll I'd you're they've",
    "IT'S WE'LL 'tis 's's'll'l're'r", "don't''t'", "x'", "'", "''", " 's",
    '12 clocks, 345 bells', 'a1b2 c3', '!!! ...?!', ' -- (a) [b] {c}', "a.b'c",
    'one\ntwo\n\nthree\n\n\nfour', 'tabs\tand  \t spaces \n\n end \n',
    'Müller über größer', 'мельник часов', '磨坊主有三只钟', '時計が三つ',
    '🐈☕ 👨\u200d👩\u200d👧 e\u0301', 'a\u00a0b\u00a0\u00a0c', '\u00a0', ' \u00a0a',
    'a\u0085b', '\u180ea\u180e b \u180e', 'x\u1680y\u2003\u2003z\u2028w\u3000',
    'a\u001cb\u001d c\u001f', 'nul\0nul\0\0', '\u200bzero\u200b width', '½ ²³ Ⅷ ①',
    '٣٤٥ १२३', 'ʰ ª º', 'ſ\'ſ', 'def strike(clock):\n    return 12\n',
    'The miller of the high valley had three clocks, and none of them agreed.',
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',
    '\ufeffbom', '\U0010ffff\ue000', '<0x0A><s></s><unk>',
]
POOL = [c for c in map(chr, range(0x3100)) if unicodedata.category(c) not in
        ('Cn', 'Cs')]
for i in range(120):
    pool = POOL if i % 2 else " \n'aebrstlvmd.,19éпか\u00a0\u0301"
    TEXTS.append(''.join(random.choice(pool) for _ in range(random.randint(1, 24))))

SPECIAL = ['<|endoftext|>', 'a<|endoftext|>b', '<|endoftext|><|endoftext|> x ',
           'the<|endoftext|', ' <|endoftext|>\n the clock', '<<|endoftext|>>']


def bpe():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator([CORPUS], trainers.BpeTrainer(
        vocab_size=520, special_tokens=['<|endoftext|>'], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(tok.to_str())['model']
    with open(out + 'encoder.json', 'w') as f:
        json.dump(model['vocab'], f)
    with open(out + 'vocab.bpe', 'w') as f:
        f.write('#version: 0.2\n')
        for m in model['merges']:
            f.write((m if isinstance(m, str) else ' '.join(m)) + '\n')
    return ([tok.encode(t).ids for t in TEXTS],
            [tok.encode(t).ids for t in SPECIAL])


def llama2c_pieces():
    """Characters seen twice, and 200 merges, scored in falling order."""
    words = [' ' + w for w in CORPUS.split(' ')]
    words = [list(w) for w in words]
    common = [c for c, n in collections.Counter(CORPUS).most_common() if n > 1]
    pieces, scores = [], []
    while len(pieces) < 200:
        pairs = collections.Counter()
        for w in words:
            pairs.update(p for p in zip(w, w[1:])
                         if p[0][0] in common and p[1][0] in common and
                         not set(''.join(p)) - set(common))
        (a, b), _ = min(pairs.items(), key=lambda x: (-x[1], x[0]))
        pieces.append(a + b)
        scores.append(-float(len(scores) // 3))     # threes have equal scores
        for w in words:
            i = 0
            while i + 1 < len(w):
                if w[i] == a and w[i + 1] == b:
                    w[i:i + 2] = [a + b]
                i += 1
    n = len(pieces)
    return pieces + common, scores + [-float(n + i) for i in range(len(common))]


def llama2c():
    pieces, scores = llama2c_pieces()
    vocab = ['<unk>', '\n<s>\n', '\n</s>\n'] + ['<0x%02X>' % b for b in range(256)]
    scores = [0.0] * len(vocab) + scores
    vocab += pieces
    raw = [v.encode() for v in vocab]
    with open(out + 'tokenizer.bin', 'wb') as f:
        f.write(struct.pack('<i', max(map(len, raw))))
        for s, r in zip(scores, raw):
            f.write(struct.pack('<fi', s, len(r)) + r)
    index = {v: i for i, v in enumerate(vocab) if i >= 259}

    def encode(text):
        if not text:
            return []
        ids = []
        for c in ' ' + text:
            if c in index:
                ids.append(index[c])
            else:
                ids += [b + 3 for b in c.encode()]
        while True:
            best = None
            for i in range(len(ids) - 1):
                if ids[i] < 259 or ids[i + 1] < 259:
                    continue
                k = index.get(vocab[ids[i]] + vocab[ids[i + 1]])
                if k is not None and (best is None or scores[k] > best[0]):
                    best = scores[k], i, k
            if best is None:
                return ids
            ids[best[1]:best[1] + 2] = [best[2]]

    return [encode(t) for t in TEXTS], len(vocab)


with open(out + 'corpus.txt', 'w') as f:
    f.write(CORPUS)
plain, special = bpe()
spm, size = llama2c()
with open(out + 'ids.json', 'w') as f:
    json.dump({'texts': TEXTS, 'bpe': plain, 'llama2c': spm,
               'llama2c_size': size, 'special_texts': SPECIAL,
               'special': special}, f, separators=(',', ':'))
