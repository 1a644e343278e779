"""Hugging Face's tokenizers beside bench-tokenizer, on one file, in one run.

  python bench/peers/tokenizer.py build/bench/bench-tokenizer TEXT [VOCAB]

Both train byte-level BPE with GPT-2's pattern on TEXT; then both encode TEXT,
in documents of at least 16 KiB, with the vocabulary that tokenizers trained.
Needs tokenizers (measured with 0.23.3).
"""
import json, os, subprocess, sys, tempfile, time

binary, path = sys.argv[1:3]
size = int(sys.argv[3]) if len(sys.argv) > 3 else 32000
raw = open(path, 'rb').read()
docs, at = [], 0
while at < len(raw):
    end = raw.find(b'\n', at + 16384) + 1 or len(raw)
    docs.append(raw[at:end].decode())
    at = end


def best(n, f):
    times = []
    for _ in range(n):
        start = time.perf_counter()
        y = f()
        times.append(time.perf_counter() - start)
    return min(times), y


def train():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.train_from_iterator(docs, trainers.BpeTrainer(
        vocab_size=size, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


if len(sys.argv) > 4:       # one peer measurement, in a process of its own
    from tokenizers import Tokenizer
    if sys.argv[4] == 'train':
        s, tok = best(1, train)
        tok.save(sys.argv[5])
        print(f'train   {os.environ["RAYON_NUM_THREADS"]} threads  '
              f'{1e-6 * len(raw) / s:8.1f} MB/s  {s:.3f} s', flush=True)
    else:
        tok = Tokenizer.from_file(sys.argv[5])
        s, y = best(3, lambda: tok.encode_batch_fast(docs))
        n = sum(len(e.ids) for e in y)
        print(f'encode  {os.environ["RAYON_NUM_THREADS"]} threads  '
              f'{1e-6 * len(raw) / s:8.1f} MB/s  {1e-6 * n / s:.2f} M tokens/s, '
              f'{n} tokens', flush=True)
    sys.exit(0)

with tempfile.TemporaryDirectory() as d:
    print('tokenizers:', flush=True)
    for what in 'train', 'encode':
        for threads in '1', '2':
            subprocess.run([sys.executable, __file__, binary, path, str(size),
                            what, d + '/t.json'], check=True,
                           env=dict(os.environ, RAYON_NUM_THREADS=threads,
                                    TOKENIZERS_PARALLELISM='true'))
    model = json.load(open(d + '/t.json'))['model']
    json.dump(model['vocab'], open(d + '/encoder.json', 'w'))
    with open(d + '/vocab.bpe', 'w') as f:
        f.write('#version: 0.2\n')
        for m in model['merges']:
            f.write((m if isinstance(m, str) else ' '.join(m)) + '\n')
    print('attune:', flush=True)
    subprocess.run([binary, path, str(size), d + '/encoder.json',
                    d + '/vocab.bpe'], check=True)
