#!/usr/bin/env python3
"""Makes tests/golden/tokenizers: small tokenizers of every supported kind, and what the reference libraries say.

Needs the Python packages tokenizers and sentencepiece. Trains on text that this script generates. Writes
  NAME.json, sentencepiece.model   the tokenizers
  cases.json                       texts, and per tokenizer (a file plus a JSON merge patch) the expected ids and texts
"""
import argparse
import io
import json
import pathlib
import random

MISSING = None
try:
    import sentencepiece
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError as error:  # --help works without them
    MISSING = error

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
MARK = "\u2581"

SUBJECTS = "The keeper|An archive|Our engine|Every reader|A small model|The old index|Nobody|She|They".split("|")
VERBS = "reads|stores|doesn't trust|can't find|sorts|counts|I'll say it's|forgets|compares|we've seen".split("|")
OBJECTS = "12 letters|the keys of 2048 tokens|a long table|its own centroids|300 pages|nothing new|1,024 bytes".split("|")
FOREIGN = ["Die Bücher stehen überall im Regal. ", "Les clés sont rangées à côté. ", "本と鍵は棚にあります。", "钥匙在桌子上面。",
           "Ключи лежат на полке. ", "المفاتيح على الطاولة ", "열쇠는 책상 위에 있다. ", "चाबी मेज़ पर है। "]

TEXTS = [
    "", " ", "a", "Hello world", " Hello world ", "  two  spaces  ", "\t\ttabs\tand \t spaces\n", "line one\r\nline two\r\n\r\n",
    "\n\n\n", "a\n \n b   \n", "I'm sure they'll say WE'VE SEEN IT'S HE'D I'LL can't DON'T 'S 'tis",
    "1 12 123 1234 12345 3.14159 1,000,000 0x7f ²³½ Ⅷ ٣٤", "def f(x):\n    return [y**2 for y in x if y != 0]  # ok\n",
    "for (int i = 0; i < n; ++i) { a[i] <<= 1; }\r\n\tprintf(\"%d\\n\", i);", "钥匙在桌子上面。本と鍵は棚にあります。열쇠",
    "emoji 👩‍👩‍👧‍👦 and 🏳️‍🌈 flags 🇩🇪🇫🇷 skin 👍🏽!", "cafe\u0301 café e\u0323\u0302 \u1e9b\u0323 ﬁne Å \u212b \u2126 가 \u1100\u1161",
    "العربية والعبرية עברית हिन्दी ภาษาไทย", "x" * 300, " " * 70 + "y" + " " * 33, "\u00a0nbsp\u2003em\u3000wide\u180esep\u200bzero\u0085nel",
    "null\x00byte \x7f \ufeffbom \ufffd end", "\U00010348 \U0001d49c\U0001f9ff \ue000 \U0010ffff", "ſtraße KELVIN \u212a İstanbul ǅ",
    "<|begin|>Hello<|end|>", "tell <|begin|> me <|end|>  now", "<s>one</s> <s> two</s>", "<unk> and <0x41> bytes", "a <tool> b<tool>c",
    "mask  [MASK]  it[MASK]", "one[L]  [R]  two [L][R] [W] x[W] [W]y _[W]-[W]", "NoRm norm ＮｏＲｍ", "▁already▁marked ▁▁ text▁",
    "…—–“quotes” ‘single’ ''s '' 's", "http://example.org/a?b=c&d=%20#x_y-z", "ÀÉÎÕÜ ça và señor Ωμέγα Привет",
    "aaaaaaaaaaaaaaaa bbbbbbbb abababab", "the the the The THE tHe",
]
SHORT = [t for t in TEXTS if len(t) < 80][:24] + ["a1b22c333", "x--y---z", "a b  c", "cafe\u0301 ﬁ"]
FLAGS = ["one[L]  [R]  two [L][R] [W] x[W] [W]y _[W]-[W] é[W]", "[L]", " [L] ", "[R] x", "x [L]y", "[M] [m] NoRm", "a  [L]  [L]  [R]  [R]  b",
         "<|begin|> [W]", "", "  ", "[W]", "[W][W]", "long[LONG]er [LON [LONG", "Ａ[M]"]


def corpus(seed=7, n_lines=1500):
    rng = random.Random(seed)
    lines = []
    for i in range(n_lines):
        kind = rng.random()
        if kind < 0.6:
            lines.append(f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}{rng.choice('.!?;')} ")
        elif kind < 0.8:
            lines.append(rng.choice(FOREIGN))
        elif kind < 0.9:
            lines.append(f"{'    ' * rng.randrange(3)}if (count_{i % 17} >= {rng.randrange(1000)}) return data[{i % 9}];\n")
        else:
            lines.append(rng.choice(["aaaaaaaa ", "\n\n", "  ", "\t", "👍 ", "—", "...", "café naïve "]))
    return ["".join(lines[i : i + 5]) for i in range(0, n_lines, 5)]


def train(tokenizer, vocab_size, byte_level, special, extra=()):
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else list(extra)
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(t, 600, True, ["<|begin|>"])


def llama3():
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = split(LLAMA3)
    t.decoder = decoders.ByteLevel()
    train(t, 700, True, [])
    t.add_special_tokens(["<|begin|>", "<|end|>"])
    begin = t.token_to_id("<|begin|>")
    template = processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=[("<|begin|>", begin)])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return t


def qwen2():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = split(QWEN2)
    t.decoder = decoders.ByteLevel()
    train(t, 600, True, [])
    t.add_special_tokens(["<|end|>", "<|begin|>"])
    t.add_tokens([AddedToken("<tool>", normalized=False)])
    return t


def llama2():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")  # for training only: words, not whole texts
    special = ["<unk>", "<s>", "</s>"]
    train(t, 850, False, special + [f"<0x{i:02X}>" for i in range(256)])
    t.pre_tokenizer = None
    t.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    document = json.loads(t.to_str())
    document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] in special]
    return Tokenizer.from_str(json.dumps(document))


def metaspace():
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    train(t, 600, False, ["<unk>", "<s>", "</s>"])
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return t


def added(start, *tokens):
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return [plain | token | {"id": start + i} for i, token in enumerate(tokens)]


def variants(sizes):
    """Name, base file, merge patch over its JSON, texts."""
    both = lambda **options: {"pre_tokenizer": {"type": "Metaspace", "replacement": MARK} | options,
                              "decoder": {"type": "Metaspace", "replacement": MARK} | options}
    without = {"prepend_scheme": None, "split": None}
    for scheme in ["always", "first", "never"]:
        for is_split in [True, False]:
            yield f"metaspace {scheme} {is_split}", "metaspace", both(prepend_scheme=scheme, split=is_split), SHORT + FLAGS[:4]
    yield "metaspace, old file", "metaspace", both(add_prefix_space=True, **without), SHORT
    yield "metaspace, unknown tokens fused", "metaspace", {"model": {"fuse_unk": True}}, SHORT
    yield "no unknown token", "metaspace", {"model": {"unk_token": None}}, SHORT
    yield "prefix space", "gpt2", {"pre_tokenizer": {"add_prefix_space": True}}, SHORT
    yield "no regex", "gpt2", {"pre_tokenizer": {"use_regex": False}}, SHORT
    yield "merges ignored for words", "gpt2", {"model": {"ignore_merges": True}}, SHORT
    yield "fallback without fusing", "llama2", {"model": {"fuse_unk": False}}, SHORT
    yield "no fallback", "llama2", {"model": {"byte_fallback": False}}, SHORT
    for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]:
        for invert in [False, True]:
            for pattern in [{"Regex": r"[\s\d-]"}, {"String": " "}]:
                steps = [{"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert},
                         {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]
                patch = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
                yield f"split {behavior} {invert} {list(pattern)[0]}", "gpt2", patch, ["a1b22c333", "x--y---z -", " a b  c", "", "1", "--"]
    for individual in [False, True]:
        steps = [{"type": "Digits", "individual_digits": individual}, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}]
        yield f"digits {individual}", "gpt2", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}, SHORT
    for form in ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"]:
        yield form, "gpt2", {"normalizer": {"type": form}}, [t for t in TEXTS if any(ord(c) > 127 for c in t)] + ["AbC"]
    steps = [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKC"}, {"type": "Lowercase"},
             {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": MARK}, {"type": "Prepend", "prepend": "^"}]
    tokens = added(sizes["gpt2"], {"content": "[L]", "lstrip": True}, {"content": "[R]", "rstrip": True, "special": True},
                   {"content": "[W]", "single_word": True}, {"content": "[M]", "normalized": True},
                   {"content": "[LON"}, {"content": "[LONG"})
    begin = added(0, {"content": "<|begin|>", "special": True})
    yield "flags of added tokens", "gpt2", {"added_tokens": begin + tokens}, TEXTS + FLAGS
    yield "flags, normalized", "gpt2", {"added_tokens": begin + tokens, "normalizer": {"type": "Lowercase"}}, TEXTS + FLAGS
    yield "normalizer sequence", "gpt2", {"added_tokens": begin + tokens, "normalizer": {"type": "Sequence", "normalizers": steps}}, TEXTS + FLAGS


def merge_patch(target, patch):
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def expected(tokenizer, texts):
    """Per text: ids, ids with the template, decoded, decoded without special tokens.

    The last two are null where a normalized added token is in the text: the library decodes it to its normalized form,
    special or not; here it is decoded to itself, and left out if it is special.
    """
    changed = {i for i, t in tokenizer.get_added_tokens_decoder().items() if tokenizer.id_to_token(i) != t.content}
    for text in texts:
        ids = tokenizer.encode(text).ids
        decoded = [None if changed & set(ids) else tokenizer.decode(ids, skip_special_tokens=skip) for skip in [False, True]]
        yield [text, tokenizer.encode(text, add_special_tokens=False).ids, ids, *decoded]


def sentencepiece_model():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for block in corpus() for line in block.splitlines() if line), model_writer=model,
        model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, character_coverage=0.99, num_threads=1, minloglevel=2)
    return model.getvalue()


def sentencepiece_cases(model):
    """Texts without control tokens, as sentencepiece itself encodes them."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    texts = [t for t in TEXTS if not any(token in t for token in ["<s>", "</s>", "<unk>"])]
    return [[text, processor.encode(text), processor.decode(processor.encode(text))] for text in texts]


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def main():
    here = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=pathlib.Path, default=here.parent / "tests/golden/tokenizers", help="folder (default: %(default)s)")
    folder = parser.parse_args().output
    if MISSING:
        parser.exit(1, f"{parser.prog}: {MISSING}; install tokenizers and sentencepiece (pip)\n")
    folder.mkdir(parents=True, exist_ok=True)
    documents, cases = {}, []
    for make in [gpt2, llama3, qwen2, llama2, metaspace]:
        tokenizer, name = make(), make.__name__
        documents[name] = json.loads(tokenizer.to_str())
        if name == "gpt2":  # older files write merges as "left right"
            documents[name]["model"]["merges"] = [" ".join(merge) for merge in documents[name]["model"]["merges"]]
        write_json(folder / f"{name}.json", documents[name])
        cases.append({"name": name, "file": f"{name}.json", "patch": {}, "cases": list(expected(tokenizer, TEXTS))})
    sizes = {name: len(document["model"]["vocab"]) for name, document in documents.items()}
    for name, base, patch, texts in variants(sizes):
        tokenizer = Tokenizer.from_str(json.dumps(merge_patch(documents[base], patch)))
        cases.append({"name": name, "file": f"{base}.json", "patch": patch, "cases": list(expected(tokenizer, texts))})
    model = sentencepiece_model()
    (folder / "sentencepiece.model").write_bytes(model)
    write_json(folder / "cases.json", {"tokenizers": cases, "sentencepiece": sentencepiece_cases(model)})


if __name__ == "__main__":
    main()
