#!/usr/bin/env python3
"""Reference cases: what transformers computes with a T5 checkpoint folder, as JSON beside its weights.

  make_cases.py cases FOLDER...      write cases.json (kinds: generate, encoder, sequence, token, qa, defaults)
  make_cases.py options FOLDER --configs FILE.json
                                     write options.json: what generate() answers with each generation_config
  make_cases.py verify FOLDER...     compute again what cases.json and options.json hold, and compare
  make_cases.py checkpoints OUT [NAME...] [--extra] [--weights-only]
                                     write the checkpoints of variants.py and their cases: those named, else the usual
                                     ones, or with --extra the rarer ones

All in float32 on the CPU, whatever the width of the weights. README.md beside this file says how the files are laid
out. Tests only read what this writes: they need neither this program nor Python.
"""
import argparse
import json
import os
import random
import shlex
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
import transformers
from transformers import AutoConfig, GenerationConfig

import variants

FIVE_DECIMALS, SIX_DECIMALS = 5, 6
NEAR_TIE = 2e-4      # the least distance of the best two logits in a greedy step of a new case
TOLERANCE = 1e-5     # of `verify`, for every float; relative where it is above 1
BEAM_SEARCHES = [(4, 1.0, False), (4, 0.6, True), (3, 2.0, "never")]   # beams, length penalty, early stopping


class Unstable(Exception):
    """A case whose ids rest on rounding, so that another correct engine could answer otherwise."""


def rounded(tensor, decimals=SIX_DECIMALS):
    if tensor.dim() == 0: return round(tensor.item(), decimals)
    return [rounded(t, decimals) for t in tensor]


# ---- the model ---------------------------------------------------------------------------------------------

class Checkpoint:
    """A folder as transformers loads it, in float32, and once more in float64 to see which ids depend on rounding."""

    def __init__(self, folder, check=True):
        self.config = AutoConfig.from_pretrained(folder)
        architecture = (self.config.architectures or ["T5ForConditionalGeneration"])[0]
        load = lambda: getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()
        self.kind = next((kind for end, kind in KIND_OF_ARCHITECTURE.items() if architecture.endswith(end)), "generate")
        self.model = load()
        self.exact = load().double() if check and self.kind == "generate" else None
        self.eos = self.config.eos_token_id if isinstance(self.config.eos_token_id, list) else [self.config.eos_token_id]
        # transformers' cache has a layer for each encoder layer, so a deeper decoder runs without one.
        self.use_cache = (self.config.num_decoder_layers or 0) <= self.config.num_layers

    def generate(self, sources, **options):
        """One padded batch. -> a list of {"ids", and "score" with beams} for each source."""
        width = max(map(len, sources))
        ids = torch.tensor([s + [self.config.pad_token_id] * (width - len(s)) for s in sources])
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sources])
        call = dict(attention_mask=mask, return_dict_in_generate=True, output_logits=True, output_scores=True) | options
        if not self.use_cache: call["use_cache"] = False
        out = self.model.generate(ids, **call)
        if self.exact:
            if not torch.equal(self.exact.generate(ids, **call).sequences, out.sequences):
                raise Unstable(f"float64 gives other ids with {options}")
            if "sequences_scores" not in out: self.check_steps(out, options)
        rows = [{"ids": s} for s in out.sequences.tolist()]
        if "sequences_scores" in out:
            for row, score in zip(rows, out.sequences_scores): row["score"] = rounded(score, FIVE_DECIMALS)
        each = len(rows) // len(sources)
        return [rows[i * each:(i + 1) * each] for i in range(len(sources))]

    def check_steps(self, out, options):
        """No greedy step may be a near tie (of the processed scores, up to the end of the row)."""
        for row, ids in enumerate(out.sequences[:, 1:].tolist()):
            for step, (scores, id) in enumerate(zip(out.scores, ids)):
                first, second = scores[row].topk(2).values
                # An exact tie is one of forced ids: the first wins, by rule.
                if 0 < first - second < NEAR_TIE: raise Unstable(f"step {step} is a near tie ({first - second:.1e}) with {options}")
                if id in self.eos: break

    def encode(self, source):
        """Rows of the encoder's last hidden state; also of a model that is an encoder alone."""
        return self.model.get_encoder()(input_ids=torch.tensor([source])).last_hidden_state[0]


# ---- one case of each kind ---------------------------------------------------------------------------------

def generate_case(checkpoint, source, labels):
    hidden = checkpoint.encode(source)
    out = checkpoint.model(input_ids=torch.tensor([source]), labels=torch.tensor([labels]))
    one = lambda **options: checkpoint.generate([source], do_sample=False, **options)[0]
    case = {
        "input_ids": source,
        "encoder_first_row": rounded(hidden[0]),
        "encoder_last_row": rounded(hidden[-1]),
        "labels": labels,
        "loss": rounded(out.loss),
        "first_step_logits": rounded(out.logits[0, 0]),
        "last_step_logits": rounded(out.logits[0, -1]),
        "greedy_24": one(max_new_tokens=24)[0]["ids"],
        "greedy_24_no_eos": one(max_new_tokens=24, min_new_tokens=24)[0]["ids"],
        "greedy_24_rep1.3_ngram3": one(max_new_tokens=24, repetition_penalty=1.3, no_repeat_ngram_size=3)[0]["ids"],
    }
    for beams, penalty, early in BEAM_SEARCHES:
        case[f"beam{beams}_lp{penalty}_early-{early}"] = one(
            max_new_tokens=16, num_beams=beams, length_penalty=penalty, early_stopping=early, num_return_sequences=2)
    return case


def encoder_case(checkpoint, source, _):
    hidden = checkpoint.encode(source)
    return {
        "input_ids": source,
        "encoder_last_hidden_state_sum_abs": rounded(hidden.abs().sum(), 4),
        "encoder_first_row": rounded(hidden[0]),
        "encoder_last_row": rounded(hidden[-1]),
        "mean_pooled": rounded(hidden.mean(0)),
    }


def label_case(checkpoint, source, _):
    """Sequence classification: a row of logits; token classification: a row a token, one row after the other."""
    return {"input_ids": source, "logits": rounded(checkpoint.model(input_ids=torch.tensor([source])).logits[0].flatten())}


def answer_case(checkpoint, source, _):
    out = checkpoint.model(input_ids=torch.tensor([source]))
    return {"input_ids": source, "start_logits": rounded(out.start_logits[0]), "end_logits": rounded(out.end_logits[0])}


CASE = {"generate": generate_case, "encoder": encoder_case, "sequence": label_case, "token": label_case, "qa": answer_case}
KIND_OF_ARCHITECTURE = {"EncoderModel": "encoder", "ForSequenceClassification": "sequence",
                        "ForTokenClassification": "token", "ForQuestionAnswering": "qa"}


# ---- files -------------------------------------------------------------------------------------------------

def options_of(command_line):
    """`--max-new-tokens 12` -> {"max_new_tokens": 12}: the options of the command line are generate()'s."""
    words = shlex.split(command_line)
    value = lambda w: json.loads(w) if w[0] in "-0123456789[" or w in ("true", "false") else w
    return {name.removeprefix("--").replace("-", "_"): value(word) for name, word in zip(words[::2], words[1::2])}


def what_of(command_line):
    return f"generate with {command_line}" if command_line else "generate with no options: the generation keys stand in config.json"


@torch.no_grad()
def cases(checkpoint, sources, labels, command_line=None):
    """The content of cases.json. With a command line (or "" for none) the kind is `defaults`."""
    if command_line is not None:
        call = options_of(command_line)
        return {"kind": "defaults", "what": what_of(command_line),
                "cases": [{"input_ids": s, "sequences": checkpoint.generate([s], **call)[0]} for s in sources]}
    made = {"transformers": transformers.__version__, "torch": torch.__version__.partition("+")[0], "kind": checkpoint.kind,
            "cases": [CASE[checkpoint.kind](checkpoint, s, l) for s, l in zip(sources, labels)]}
    if checkpoint.kind == "generate":
        batch = checkpoint.generate(sources[:5], do_sample=False, max_new_tokens=24)
        made["batch_of_first_five_greedy_24"] = [rows[0]["ids"] for rows in batch]
    return made


@torch.no_grad()
def options(checkpoint, configs, sources):
    """The content of options.json: `sources[i]` are those of `configs[i]`."""
    made = []
    for config, of_config in zip(configs, sources):
        for model in checkpoint.model, checkpoint.exact:
            if model: model.generation_config = GenerationConfig(**config)
        made.append({"generation_config": config,
                     "cases": [{"input_ids": s, "sequences": checkpoint.generate([s])[0]} for s in of_config]})
    return {"transformers": transformers.__version__, "options": made}


def write(path, content):
    """JSON with a line a case."""
    dump = lambda x: json.dumps(x, separators=(",", ":"))
    lines = lambda rows: "[\n" + ",\n".join(map(dump, rows)) + "\n]"
    fields = [f"{dump(k)}:{lines(v) if k in ('cases', 'options') else dump(v)}" for k, v in content.items()]
    path.write_text("{" + ",\n".join(fields) + "}\n")
    print(f"{path}: {path.stat().st_size} bytes", flush=True)


def draw_sources(checkpoint, lengths, seed):
    """-> sources that end in eos, and labels for each, from the ids that have no special meaning."""
    c, draw = checkpoint.config, random.Random(seed)
    ordinary = sorted(set(range(3, c.vocab_size)) - {c.pad_token_id, c.decoder_start_token_id, *checkpoint.eos})
    ids = lambda n: [draw.choice(ordinary) for _ in range(n - 1)] + [checkpoint.eos[0]]
    return [ids(n) for n in lengths], [ids(7) for _ in lengths]


def full(checkpoint, config):
    """A generation config with the special ids, which generation_config.json must state."""
    c = checkpoint.config
    return {"pad_token_id": c.pad_token_id, "eos_token_id": c.eos_token_id, "decoder_start_token_id": c.decoder_start_token_id} | config


# ---- verify ------------------------------------------------------------------------------------------------

def differences(stored, computed, at=""):
    """-> (the largest distance of two floats, the places where anything else differs)."""
    if isinstance(stored, float) and isinstance(computed, (int, float)): return abs(stored - computed) / max(1.0, abs(stored)), []
    if isinstance(stored, dict) and isinstance(computed, dict): pairs = [(k, stored.get(k), computed.get(k)) for k in stored | computed]
    elif isinstance(stored, list) and isinstance(computed, list) and len(stored) == len(computed): pairs = zip(range(len(stored)), stored, computed)
    else: return 0.0, [] if stored == computed else [at]
    found = [differences(a, b, f"{at}/{k}") for k, a, b in pairs]
    return max((d for d, _ in found), default=0.0), [place for _, places in found for place in places]


def command_line_of(what):
    return "" if "no options" in what else what.removeprefix("generate with ")


def verify(folder):
    """Prints a line a file; -> whether all is equal."""
    checkpoint, equal = Checkpoint(folder, check=False), True
    stored = {p.name: json.loads(p.read_text()) for p in (folder / "cases.json", folder / "options.json") if p.exists()}
    for name, content in stored.items():
        if name == "cases.json":
            rows = content["cases"]
            computed = cases(checkpoint, [r["input_ids"] for r in rows], [r.get("labels") for r in rows],
                             command_line_of(content["what"]) if content["kind"] == "defaults" else None)
        else:
            computed = options(checkpoint, [o["generation_config"] for o in content["options"]],
                               [[r["input_ids"] for r in o["cases"]] for o in content["options"]])
        for version in "transformers", "torch":
            for x in content, computed: x.pop(version, None)
        distance, places = differences(content, computed)
        good = distance <= TOLERANCE and not places
        equal &= good
        print(f"{folder.name}/{name}: {'equal' if good else 'DIFFERS'}; floats within {distance:.1e}"
              + (f"; differs at {', '.join(places[:5])} ({len(places)} places)" if places else ""), flush=True)
    return equal


# ---- commands ----------------------------------------------------------------------------------------------

def make_cases(folder, lengths, seed, command_line=None, more_sources=()):
    checkpoint = Checkpoint(folder)
    sources, labels = draw_sources(checkpoint, lengths, seed)
    sources += map(list, more_sources)
    labels += [labels[0]] * len(more_sources)
    write(folder / "cases.json", cases(checkpoint, sources, labels, command_line))


def make_options(folder, configs, lengths, seed):
    checkpoint = Checkpoint(folder)
    sources, _ = draw_sources(checkpoint, lengths, seed)
    write(folder / "options.json", options(checkpoint, [full(checkpoint, c) for c in configs], [sources] * len(configs)))


def make_variant(folder, name, variant, weights_only):
    variants.write(folder, name, variant)
    if weights_only: return
    make_cases(folder, variant.lengths, f"{name} {variant.seed}", variant.generate, variant.more_sources)
    if variant.options: make_options(folder, variant.options, (3, 8, 21), f"{name} options {variant.seed}")


def chosen(names, extra):
    every = variants.USUAL | variants.EXTRA
    unknown = [n for n in names if n not in every]
    if unknown: sys.exit(f"error: no variant {', '.join(unknown)}; there are {', '.join(every)}")
    return {n: every[n] for n in names} or (variants.EXTRA if extra else variants.USUAL)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="command", required=True)
    for command in "cases", "options", "verify":
        c = sub.add_parser(command)
        c.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
        if command == "verify": continue
        c.add_argument("--seed", type=int, default=0)
        c.add_argument("--lengths", default="1,2,7,19,40" if command == "cases" else "3,8,21", help="of the sources, eos included")
        if command == "cases": c.add_argument("--generate", metavar="OPTIONS", help="kind `defaults`: one call with these options, such as '--num-beams 4'; '' for none")
        else: c.add_argument("--configs", type=Path, required=True, help="a JSON list of generation configs")
    c = sub.add_parser("checkpoints")
    c.add_argument("out", type=Path, metavar="OUT")
    c.add_argument("names", nargs="*", metavar="NAME")
    c.add_argument("--extra", action="store_true")
    c.add_argument("--weights-only", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    if a.command == "checkpoints":
        work = [(a.out / n, lambda folder, n=n, v=v: make_variant(folder, n, v, a.weights_only)) for n, v in chosen(a.names, a.extra).items()]
    else:
        do = {"verify": verify,
              "cases": lambda folder: make_cases(folder, [int(n) for n in a.lengths.split(",")], a.seed, a.generate),
              "options": lambda folder: make_options(folder, json.loads(a.configs.read_text()), [int(n) for n in a.lengths.split(",")], a.seed)}[a.command]
        work = [(folder, do) for folder in a.folders]
    good = True
    for folder, do in work:
        try:
            good &= do(folder) is not False
        except Unstable as e:
            print(f"{folder}: choose another seed: {e}", file=sys.stderr)
            good = False
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
