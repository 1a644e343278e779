"""Writes the seeds of the tokenizer fuzzer: python tests/fuzz/tokenizer.py
tests/fuzz/tokenizer.  The layout is that of data/tok_blob.c; the checksum is
left zero, the target puts it right."""
import os
import struct
import sys

NORMAL, BYTE, SPECIAL = range(3)
GPT2 = (rb"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"
        rb"|\s+(?!\S)|\s+")


def blob(kind, pieces, types, scores=(), merges=(), pattern=b'', bos=-1,
         unk=-1, traits=0):
    body = b''.join(struct.pack('<I', len(p)) for p in pieces)
    body += b''.join(struct.pack('<f', s) for s in scores)
    body += b''.join(struct.pack('<III', *m) for m in merges)
    body += bytes(types) + pattern + b''.join(pieces)
    return b'attuntok' + bytes(8) + struct.pack(
        '<IIIIIIiiiIQ', 1, unk + 1, kind, len(pieces), len(merges), len(pattern),
        bos, bos, -1, traits, sum(map(len, pieces))) + body


def bpe(words, pattern=GPT2):
    """Every word is made from left to right."""
    pieces, types = [b'<|e|>'] + [bytes([b]) for b in range(256)], [SPECIAL]
    types += [BYTE] * 256
    merges = []
    for w in words:
        for n in range(2, len(w) + 1):
            if w[:n] in pieces:
                continue
            merges.append((pieces.index(w[:n - 1]), pieces.index(w[n - 1:n]),
                           len(pieces)))
            pieces.append(w[:n])
            types.append(NORMAL)
    return blob(1, pieces, types, merges=merges, pattern=pattern, bos=0)


def llama2c(words):
    pieces = [b'<unk>', b'<s>', b'</s>'] + [bytes([b]) for b in range(256)]
    types = [SPECIAL] * 3 + [BYTE] * 256 + [NORMAL] * len(words)
    return blob(2, pieces + words, types, bos=1,
                scores=[0.0] * 259 + [-float(i) for i in range(len(words))])


def spaced(kind, words):
    """Kinds 4 to 6: every word is made from left to right, of its letters."""
    pieces = [b'<unk>', b'<s>', b'</s>'] + [bytes([b]) for b in range(256)]
    types = [SPECIAL] * 3 + [BYTE] * 256
    merges = []
    for w in words:
        for n in range(1, len(w) + 1):
            if w[:n] in pieces[259:]:
                continue
            if n > 1:
                for part in (w[:n - 1], w[n - 1:n]):
                    if part not in pieces[259:]:
                        pieces.append(part)
                        types.append(NORMAL)
                merges.append((pieces.index(w[:n - 1], 259),
                               pieces.index(w[n - 1:n], 259), len(pieces)))
            pieces.append(w[:n])
            types.append(NORMAL)
    return blob(kind, pieces, types, merges=merges, bos=1)


def wordpiece(words, traits):
    pieces = [b'[UNK]', b'[CLS]', b'[MASK]']
    return blob(8, pieces + words, [SPECIAL, SPECIAL, 3] + [NORMAL] * len(words),
                bos=1, unk=0, traits=traits)


def unigram(words, table=b'', traits=0):
    pieces = [b'<unk>', b'<s>', b'</s>']
    types = [SPECIAL] * 3
    if traits:
        pieces += [bytes([b]) for b in range(256)]
        types += [BYTE] * 256
    return blob(9, pieces + words, types + [NORMAL] * len(words), bos=1, unk=0,
                traits=traits, pattern=table, scores=[0.0] * len(types) +
                [-1.5 - i for i in range(len(words))])


def charsmap():
    """A table of one entry, "a" to "bc": units 0, the root, and 'a' behind it."""
    unit = [0] * 256
    unit[0] = 1 << 10                           # children at 1 ^ byte
    at = 1 ^ ord('a')
    unit[at] = ord('a') | 1 << 8 | (at ^ 2) << 10   # a leaf, at 2
    return struct.pack('<I', 1024) + struct.pack('<256I', *unit) + b'bc\0'


SEEDS = {
    'unigram': (b' the \xe2\x96\x81 clocks \xff\xc3\xbc</s>a', unigram(
        [b' the', b' ', b'c', b'lo', b'clock', b's', b' cl'])),
    'unigram-map': (b'aa ab ca\xcc\x81 bc', unigram(
        [b' bc', b'b', b' ', b'c'], charsmap())),
    'unigram-bytes': (b'x\xe4\xb8\xadq  the', unigram([b' the', b' ', b'q'],
                                                   traits=32)),
    'wordpiece': (b"The cl\xc3\xb6ck's\xe4\xb8\xad  [MASK] \xcc\x81\xff x\x00y", wordpiece(
        [b' the', b' cl', b'ock', b"'", b" '", b' s', b' x', b'y'], 31)),
    'wordpiece-plain': (b'I\xcc\x87 \xc4\xb0a\t', wordpiece([b' i', b'\xcc\x87'], 16)),
    'spaced-each': (b'<s>the clock</s> x  \xe2\x96\x81the',
                    spaced(4, [b' the', b' clock', b'  '])),
    'spaced-first': (b'the <s> \xc3\xbc\xff\x00the', spaced(5, [b' the', b' '])),
    'spaced-none': (b'\xe2\x96\x81 a b', spaced(6, [b' a', b'a b'])),
    'bpe': (b"The clock's 12\n\n \xc3\xbc\xff<|e|>", bpe([b' the', b'lock', b"'s"])),
    'bpe-runs': (b'aaaaaaaaaaaaaaa   \xff\xfe\xfd', bpe([b'aaa', b'   ', b'\xff\xfe'])),
    'bpe-words': (b'one two three', bpe([b'one'], rb'\w+|(?<=o)\s')),
    'bpe-qwen': (b"I'M 123\r\n\r\n  x\xe9\x90\x98",
                 bpe([b'\r\n'], rb"(?i:'s|'m)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
                     rb'[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')),
    'bpe-hard': (b'aaaaaaaaaaaaaaaaaaaaaaab', bpe([], b'((a|aa)+)+[cd]')),
    'llama2c': (b'the clock \xc3\xbc<s>', llama2c(
        [b'he', b' t', b' the', b' ', b't', b'h', b'e', b'\xc3\xbc'])),
    'llama2c-uncut': (b'a b a b', llama2c([b'a b', b'a ', b'a', b' ', b'b'])),
    'short': (b'', b'attuntok'),
}
for name, (text, tok) in SEEDS.items():
    with open(os.path.join(sys.argv[1], name), 'wb') as f:
        f.write(struct.pack('<H', len(text)) + text + tok)
