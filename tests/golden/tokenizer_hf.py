"""Writes tests/golden/tokenizer/hf-*: byte-level BPE tokenizers as models of the
hub have them, by Hugging Face's tokenizers, and the ids of the texts in
ids.json by each.  Run by hand, after tokenizer.py; the output is committed.

    python tests/golden/tokenizer_hf.py tests/golden/tokenizer
"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models
from tokenizers import normalizers
from tokenizers import pre_tokenizers as pre, processors, trainers

out = sys.argv[1] + '/'
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return pre.Sequence([pre.Split(Regex(pattern), 'isolated'),
                         pre.ByteLevel(add_prefix_space=False,
                                       use_regex=False)])


def train(pretok, special):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pretok
    t.decoder = decoders.ByteLevel()
    t.train([out + 'corpus.txt'], trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False,
        initial_alphabet=pre.ByteLevel.alphabet()))
    return t


def words(t):
    """As Llama 3's: a word that is a piece stays whole, merge or no merge."""
    t.save(out + 'tmp.json')
    with open(out + 'tmp.json') as f:
        j = json.load(f)
    j['model']['ignore_merges'] = True
    n = len(j['model']['vocab'])
    j['model']['vocab']['\u0120clocks'] = n        # no merge makes it
    j['model']['merges'] = [m for m in j['model']['merges']
                            if ''.join(m) != '\u0120the']
    return Tokenizer.from_str(json.dumps(j))


def pairs(name, as_text):
    """Older files have merges as texts, newer ones as pairs."""
    with open(out + name) as f:
        j = json.load(f)
    m = j['model']['merges']
    j['model']['merges'] = [' '.join(x) if as_text else list(x) for x in m]
    with open(out + name, 'w') as f:
        json.dump(j, f, separators=(',', ':'))


MARK = '\u2581'
SPACES = {
    'llama2': ({'type': 'Sequence', 'normalizers': [
        {'type': 'Prepend', 'prepend': MARK},
        {'type': 'Replace', 'pattern': {'String': ' '}, 'content': MARK}]},
        None),
    'mistral': (None, {'type': 'Metaspace', 'replacement': MARK,
                       'prepend_scheme': 'first', 'split': False}),
    'gemma': ({'type': 'Replace', 'pattern': {'String': ' '},
               'content': MARK},
              {'type': 'Split', 'pattern': {'String': ' '},
               'behavior': 'MergedWithPrevious', 'invert': False}),
}


def spaced(name):
    """SentencePiece's pieces with bytes for what they lack."""
    ends = ['<unk>', '<s>', '</s>']
    t = Tokenizer(models.BPE(unk_token='<unk>', fuse_unk=True,
                             byte_fallback=True))
    t.pre_tokenizer = pre.Metaspace()
    t.train([out + 'corpus.txt'], trainers.BpeTrainer(
        vocab_size=620, show_progress=False,
        special_tokens=ends + ['<0x%02X>' % b for b in range(256)]))
    t.save(out + 'tmp.json')
    with open(out + 'tmp.json') as f:
        j = json.load(f)
    j['added_tokens'] = j['added_tokens'][:3]
    j['normalizer'], j['pre_tokenizer'] = SPACES[name]
    j['post_processor'] = {
        'type': 'TemplateProcessing', 'pair': [],
        'single': [{'SpecialToken': {'id': '<s>', 'type_id': 0}},
                   {'Sequence': {'id': 'A', 'type_id': 0}}],
        'special_tokens': {'<s>': {'id': '<s>', 'ids': [1], 'tokens': ['<s>']}}}
    with open(out + 'hf-%s.json' % name, 'w') as f:
        json.dump(j, f, separators=(',', ':'))
    return Tokenizer.from_file(out + 'hf-%s.json' % name)


def main():
    import os
    with open(out + 'ids.json') as f:
        texts = json.load(f)['texts']
    texts += ['the clocks', ' clocks clocks', '1234567 89', '5  6', '\u0661\u0662 \u2163']
    level = pre.ByteLevel(add_prefix_space=False)
    digits = train(pre.Sequence([pre.Digits(individual_digits=True), level]),
                   ['<|endoftext|>'])
    llama3 = words(train(split(LLAMA3), []))
    llama3.add_special_tokens(['<|begin_of_text|>', '<|eot_id|>'])
    llama3.add_tokens([AddedToken('<tool>', normalized=False)])
    llama3.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single='<|begin_of_text|> $A', pair=None, special_tokens=[
                ('<|begin_of_text|>',
                 llama3.token_to_id('<|begin_of_text|>'))])])
    ids = {}
    for name, t in [('digits', digits), ('llama3', llama3)]:
        t.save(out + 'hf-%s.json' % name)
        pairs('hf-%s.json' % name, name == 'digits')
        ids[name] = [t.encode(x, add_special_tokens=False).ids for x in texts]
    qwen = train(split(QWEN), ['<|endoftext|>', '<|im_start|>', '<|im_end|>'])
    qwen.normalizer = normalizers.NFC()
    qwen.save(out + 'hf-qwen.json')
    composed = texts + ['e\u0301', 'na\u0308ive e\u0301\u0323x', '\u1100\u1161\u11a8',
                        '\u212b \u2126', 'a\u0300\u0301<|im_end|>e\u0301', '\ufb01',
                        '\u0958 \u0f73', 'x\u0338= \u0301']
    ids['composed'] = composed
    ids['qwen'] = [qwen.encode(x, add_special_tokens=False).ids
                   for x in composed]
    odd = texts + [MARK, 'a' + MARK + 'b', MARK + ' x ' + MARK, ' ', '  ', ' a',
                   '<s>a</s> b', '</s>', 'a\u0301\u4e2d\U0001f600 clock',
                   'the clocks ' * 5]
    ids['odd'] = odd
    for name in SPACES:
        t = spaced(name)
        ids[name] = [t.encode(x, add_special_tokens=False).ids for x in odd]
    ids['special'] = llama3.encode('a<tool>b<|eot_id|> c').ids
    os.remove(out + 'tmp.json')
    with open(out + 'hf-config.json', 'w') as f:
        json.dump({'bos_token': '<|begin_of_text|>',
                   'eos_token': {'content': '<|eot_id|>'}}, f)
    with open(out + 'hf-ids.json', 'w') as f:
        json.dump(dict(texts=texts, **ids), f, separators=(',', ':'))


main()
