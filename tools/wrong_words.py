#!/usr/bin/env python3
"""Words of a test.tsv whose greedy text, by transformers, is none of their listed pronunciations: `word TAB text` lines.

  wrong_words.py MODEL TEST.tsv EVERY COUNT     of COUNT words: the first, and every EVERY-th after it

tests/data/g2p-ipa/wrong-of-500.tsv is `wrong_words.py crates/tiny-t5/models/g2p-ipa tests/data/g2p-ipa/test.tsv 12 500`.
"""
import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration


def main():
    folder, words, every, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    lines = words.read_text(encoding="utf-8").splitlines()[::every][:count]
    assert len(lines) == count, f"{words} has {len(lines)} such words"
    wrong, margin = 0, float("inf")
    for word, *pronunciations in (line.split("\t") for line in lines):
        ids = tokenizer(word, return_tensors="pt").input_ids
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=64, num_beams=1, do_sample=False,
                                 output_logits=True, return_dict_in_generate=True)
        for logits in out.logits:
            best, second = logits[0].topk(2).values.tolist()
            margin = min(margin, best - second)
        text = tokenizer.decode(out.sequences[0], skip_special_tokens=True)
        if text not in pronunciations:
            wrong += 1
            print(word, text, sep="\t")
    print(f"{wrong} of {count}; the least distance of the best two logits is {margin:.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
