"""Makes tokenizer.json: what transformers' CLIPTokenizer gives for odd captions (transformers 5.23, tokenizers 0.23.3).

The vocabulary is built from the merge list in assets/clip. `pad_end` is the tokenizer of Stable Diffusion 1, `pad_mark`
that of Stable Diffusion 2 (padding `!`), `learned` the first with three added tokens; ids without start and end.
"""
import gzip, json, random
from tokenizers import AddedToken
from transformers import CLIPTokenizer

lines = gzip.open("../assets/clip/bpe_simple_vocab_16e6.txt.gz").read().decode().split("\n")[1:48895]
merges = [tuple(line.split()) for line in lines]
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
letters = [chr(c) for c in printable] + [chr(256 + n) for n in range(256 - len(printable))]
tokens = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
vocab = {token: i for i, token in enumerate(tokens)}


def special(content):
    return AddedToken(content, normalized=True, special=True)


start, end = special("<|startoftext|>"), special("<|endoftext|>")
pad_end = CLIPTokenizer(vocab=vocab, merges=merges, bos_token=start)
learned = CLIPTokenizer(vocab=vocab, merges=merges, bos_token=start)
learned.add_tokens(["<s1>", "dog house", "S\u0301x"])
pad_mark = CLIPTokenizer(vocab=vocab, merges=merges, bos_token=start, eos_token=end, unk_token=end, pad_token="!")

WORDS = (
    "a photo of the dog's I'm you'll they've we're can't 'S 'd cat naïve café Ångström 東京 日本語 привет ΟΔΟΣ İstanbul "
    "ǅ straße 😀 👨‍👩‍👧 🇩🇪 12345 ½ ² ٣ Ⅷ e\u0301 n\u0303 \u200e \u200b \u00a0 \u2028 \u000b \u0085 \ufeff !! ?! ... -- '' "
    "\"x\" <|startoftext|> <|ENDOFTEXT|> <|endoftext|> <|EndOfText|>!! <s1> <S1>x s\u0301X Dog  House &amp; #tag @me $5.00 "
    "snake_case ﬁ ﷺ हिन्दी 한국어 \u1100\u1161 zalgo\u0337\u034d ☆ № — 'tis rock'n'roll x'll'd've \x00 \x7f \U000E0041"
).split(" ")
RANGES = [(32, 126), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x2000, 0x2BFF), (0x3000, 0x9FFF),
          (0x1F300, 0x1FAFF), (0, 31), (0x1E00, 0x1FFF), (0xAC00, 0xD7A3)]
random.seed(1)


def caption():
    text = ""
    for _ in range(random.randint(1, 7)):
        kind = random.random()
        if kind < 0.25:
            text += "".join(chr(random.randint(*random.choice(RANGES))) for _ in range(random.randint(1, 6)))
        else:
            text += random.choice(WORDS) if kind < 0.8 else random.choice(WORDS).upper()
        text += random.choice(["", " ", "  ", "\n", "\t "])
    return text


prompts = ["A\n'll 11p223RF☆ho!!to?'d'd''d of a cat to-$''d.", "xa\u0303y ã", "\u000b\u200e\u2028x", "", " ", "my dog house."]
prompts += [caption() for _ in range(250)]
ids = lambda tokenizer, prompt: tokenizer(prompt, add_special_tokens=False).input_ids
cases = [dict(prompt=p, pad_end=ids(pad_end, p), pad_mark=ids(pad_mark, p), learned=ids(learned, p)) for p in prompts]
with open("tokenizer.json", "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
