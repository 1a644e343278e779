"""Writes tests/golden/tokenizer/{bert,cased,roberta,unigram,unigram-bytes}.json,
small tokenizers of BERT's kind (small letters, and as they are), of RoBERTa's and
of T5's, and bert-ids.json: ids of odd texts by Hugging Face's tokenizers, and what
they decode to.  Run by hand, after tokenizer.py, with tokenizers and sentencepiece
(for a table of characters); the output is committed.

    python tests/golden/tokenizer_bert.py tests/golden/tokenizer
"""
import base64
import json
import struct
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers as pre, processors, trainers

out = sys.argv[1] + '/'
MORE = ("Can't stop; na\u00efve caf\u00e9 -- isn't it? (\u00c5ngstr\u00f6m) \u0130stanbul "
        "\u4e2d\u6587 \u6771\u4eac \u043f\u0440\u0438\u0432\u0435\u0442 \u0395\u03bb\u03bb\u03ac\u03b4\u03b1 \u0928\u092e\u0938\u094d\u0924\u0947 123 45.6 a_b")
ODD = ["Hello, World!", "CAF\u00c9 caf\u00e9 cafe\u0301", "\u0130I\u0131i", "\u4e2d\u6587a\u6771", "a\u200bb\ufeffc",
       "tab\tnew\nline\r\nend", "\x00\x07\x1b[0m\ufffd", "x" * 101, "x" * 100,
       "e\u0301\u0323x \u1100\u1161\u11a8 \u212b", "...!?'s n't 've", "unknownzq\u0f40", "\u3000wide\u00a0space",
       "\u2028line\u2029par", "\ud55c\uad6d\uc5b4 \u0939\u093f\u0928\u094d\u0926\u0940", "\U00020000\U0001f642", "\u0301", "a\u0301\u0301\u0301",
       "\u0891\u2e43\u07fd", "[CLS] x [SEP]", "a [MASK] b", "a  <mask>  b<s>", "don't, isn't.",
       "a\u2581b \u2581\u2581c \u2581", "\uff26\uff55\uff4c\uff4c\ufb01\u2460\u3000x", "fi\u0302x\u00e9\u0301",
       "  lead", "trail  ", "##ing", "Stop!Stop", "\u166d\u1734"]
BERT = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


def save(t, name, ids, texts):
    t.save(out + name + '.json')
    with open(out + name + '.json') as f:
        j = json.load(f)
    with open(out + name + '.json', 'w') as f:
        json.dump(j, f, separators=(',', ':'))
    bare = [t.encode(x, add_special_tokens=False).ids for x in texts]
    ids[name] = {'ids': bare, 'whole': [t.encode(x).ids for x in texts],
                 'text': [t.decode(x) for x in bare]}


def bert(lower):
    t = Tokenizer(models.WordPiece(unk_token='[UNK]',
                                   max_input_chars_per_word=100))
    t.normalizer = normalizers.BertNormalizer(lowercase=lower)
    t.pre_tokenizer = pre.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator([open(out + 'corpus.txt').read(), MORE],
                          trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=BERT, show_progress=False))
    t.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
        special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return t


def roberta():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train([out + 'corpus.txt'], trainers.BpeTrainer(
        vocab_size=330, show_progress=False,
        special_tokens=['<s>', '<pad>', '</s>', '<unk>'],
        initial_alphabet=pre.ByteLevel.alphabet()))
    t.add_special_tokens([AddedToken('<mask>', lstrip=True, normalized=False)])
    t.post_processor = processors.RobertaProcessing(
        ('</s>', 2), ('<s>', 0), trim_offsets=True, add_prefix_space=False)
    return t


RULES = [("\uff26", "F"), ("\uff55", "u"), ("\uff4c", "l"), ("\ufb01", "fi"), ("\u2460", "1"),
         ("\u3000", " "), ("\t", " "), ("e\u0301", "\u00e9"), ("\u200b", ""), ("i", "j")]


def table():
    """A small one of SentencePiece's, by rules."""
    with tempfile.TemporaryDirectory() as tmp:
        with open(tmp + "/r.tsv", "w") as f:
            for a, b in RULES:
                f.write("%s\t%s\n" % (" ".join("%X" % ord(c) for c in a),
                                      " ".join("%X" % ord(c) for c in b)))
        sentencepiece.SentencePieceTrainer.train(
            input=out + "corpus.txt", model_prefix=tmp + "/m", vocab_size=200,
            normalization_rule_tsv=tmp + "/r.tsv", minloglevel=2)
        m = pb.ModelProto()
        m.ParseFromString(open(tmp + "/m.model", "rb").read())
    return base64.b64encode(m.normalizer_spec.precompiled_charsmap).decode()


def unigram(bytes_too):
    """Scores are float32, as SentencePiece's are."""
    byte = ["<0x%02X>" % b for b in range(256)] if bytes_too else []
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()])
    t.train_from_iterator([open(out + "corpus.txt").read(), MORE],
                          trainers.UnigramTrainer(
        vocab_size=200 + len(byte), show_progress=False, unk_token="<unk>",
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"] + byte))
    j = json.loads(t.to_str())
    for v in j["model"]["vocab"]:
        v[1] = struct.unpack("f", struct.pack("f", v[1]))[0]
    j["added_tokens"] = j["added_tokens"][:4]
    j["model"]["byte_fallback"] = bytes_too
    if not bytes_too:
        j["normalizer"] = {"type": "Precompiled",
                           "precompiled_charsmap": table()}
    t = Tokenizer.from_str(json.dumps(j))
    t.decoder = decoders.Metaspace()
    if bytes_too:
        t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "),
                                       decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)])
    return t


def main():
    with open(out + 'ids.json') as f:
        texts = json.load(f)['texts'] + ODD
    ids = {'texts': texts}
    save(bert(True), 'bert', ids, texts)
    save(bert(False), 'cased', ids, texts)
    save(roberta(), 'roberta', ids, texts)
    save(unigram(False), 'unigram', ids, texts)
    save(unigram(True), 'unigram-bytes', ids, texts)
    with open(out + 'bert-ids.json', 'w') as f:
        json.dump(ids, f, separators=(',', ':'))


main()
