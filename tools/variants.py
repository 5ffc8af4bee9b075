"""Small T5 checkpoints with random weights, one for each variant that a T5 engine must read.

Each is a folder as model hubs have them: config.json beside the weights. A weight depends only on the variant's
name and seed, the tensor's name, and its shape, so the same bytes come out whatever else is made, in any order
(but for legacy-bin, where PyTorch writes memory addresses as keys).
`make_cases.py checkpoints` is the command line; nothing here needs transformers.
"""
import json
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

# What every config.json of a variant says, unless the variant says otherwise.
COMMON = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "feed_forward_proj": "relu",
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.1, "initializer_factor": 1.0, "is_encoder_decoder": True, "use_cache": True,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
MEDIUM = {"d_model": 64, "d_kv": 16, "num_heads": 4, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "vocab_size": 199}
SMALL = {"d_model": 24, "d_kv": 8, "num_heads": 3, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 2, "vocab_size": 80}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
LABELS = {n: {"id2label": {str(i): f"LABEL_{i}" for i in range(n)}, "label2id": {f"LABEL_{i}": i for i in range(n)}} for n in (1, 4, 5)}


def encoder_only(architecture):
    return {"architectures": [architecture], "is_encoder_decoder": False, "use_cache": False}


@dataclass(frozen=True)
class Variant:
    """One checkpoint folder, and which sources its reference cases use."""
    what: str
    shape: dict = field(default_factory=lambda: MEDIUM)
    config: dict = field(default_factory=dict)       # over COMMON and the shape
    left_out: tuple = ()                             # keys that config.json does not state
    layout: str = "safetensors"                      # a function of LAYOUTS
    dtype: torch.dtype = torch.float32
    generate: str | None = None                      # kind `defaults`: the options of the one call; "" for none
    lengths: tuple = (1, 2, 7, 19, 40)               # of the sources of cases.json
    more_sources: tuple = ()                         # of cases.json, given in full
    options: tuple = ()                              # generation configs of options.json; without any, no such file
    loud_end: float = 1.3                            # how much larger the output row of an end id is
    seed: int = 0                                    # another one where a case is a near tie

    def full_config(self):
        """The config with everything stated, whatever config.json leaves out."""
        return COMMON | self.shape | self.config | {"torch_dtype": str(self.dtype).removeprefix("torch.")}


BEAMS = {"max_new_tokens": 16, "num_beams": 4, "num_return_sequences": 3}

# Variants of the names in tests/data/goldens (other weights): `python make_cases.py checkpoints OUT`.
USUAL = {
    "v1_0-relu-tied": Variant("the original T5"),
    "v1_1-gated-gelu-untied": Variant("T5 1.1 and Flan: gated gelu_new, an lm_head of its own, no scale", config=V1_1),
    "gated-silu": Variant("another gate", config={"feed_forward_proj": "gated-silu"}),
    "deep-narrow-el6-dl2": Variant(
        "more encoder than decoder layers; heads x d_kv differs from d_model",
        config={"d_model": 48, "d_kv": 8, "num_heads": 3, "num_layers": 6}),
    "odd-sizes": Variant("no dimension a multiple of a vector's length",
                         config={"d_model": 27, "d_kv": 7, "num_heads": 3, "d_ff": 37, "vocab_size": 101}),
    "buckets-64-distance-256": Variant(
        "other relative-bias buckets, and a long source",
        config={"relative_attention_num_buckets": 64, "relative_attention_max_distance": 256}, lengths=(1, 2, 7, 19, 40, 700)),
    "mt5": Variant("mT5: as T5 1.1, under its own model_type", config=V1_1 | {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"]}),
    "umt5-bias-in-every-layer": Variant(
        "UMT5: a relative bias in every block", config=V1_1 | {"model_type": "umt5", "architectures": ["UMT5ForConditionalGeneration"]}),
    "byt5-shape": Variant("bytes as ids, three times as many encoder layers", config=V1_1 | {"vocab_size": 384, "num_layers": 6}),
    "bf16": Variant("bfloat16 weights", dtype=torch.bfloat16),
    "f16": Variant("float16 weights", dtype=torch.float16),
    "pytorch-bin": Variant("torch.save, a zip", seed=1, layout="pytorch_bin"),
    "legacy-bin": Variant("torch.save from before PyTorch 1.6, no zip", layout="legacy_bin"),
    "hub-like-bin": Variant("one storage under four names, the spurious cross-attention bias, parameters, a stride, an offset",
                            layout="hub_like_bin"),
    "sharded-bin": Variant("two .bin files and an index", layout="sharded_bin"),
    "sharded-safetensors": Variant("two safetensors files and an index", config=V1_1, layout="sharded_safetensors"),
    "minimal-config": Variant(
        "a config.json that leaves all defaults out and holds keys of long ago",
        config={"task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}}, "n_positions": 512, "output_past": True},
        left_out=("feed_forward_proj", "num_decoder_layers", "relative_attention_num_buckets", "relative_attention_max_distance",
                  "layer_norm_epsilon", "dropout_rate", "initializer_factor", "is_encoder_decoder", "use_cache", "pad_token_id",
                  "eos_token_id", "tie_word_embeddings", "torch_dtype")),
    "saved-by-5": Variant("a v1.1 config saved again by transformers 5", left_out=("torch_dtype",),
                          config=V1_1 | {"tie_word_embeddings": True, "scale_decoder_outputs": False, "dtype": "float32", "bos_token_id": None}),
    "activation-keys": Variant("the activation in keys of its own", seed=1, left_out=("feed_forward_proj",),
                               config=V1_1 | {"dense_act_fn": "gelu_new", "is_gated_act": True}),
    "generation-keys-in-config": Variant(
        "generation keys in config.json and no generation_config.json", generate="",
        config=V1_1 | {"num_beams": 3, "max_length": 11, "length_penalty": 2.0, "no_repeat_ngram_size": 2, "early_stopping": True}),
    "decoder-embed-only": Variant("only decoder.embed_tokens and lm_head hold embeddings", config=V1_1, layout="decoder_embed_only"),
    "start-id-2": Variant("another start id", generate="--max-new-tokens 12 --min-new-tokens 12", config=V1_1 | {"decoder_start_token_id": 2}),
    "decoder-deeper": Variant("a decoder deeper than the encoder", generate="--max-new-tokens 12 --min-new-tokens 12",
                              config=V1_1 | {"num_decoder_layers": 4}),
    "encoder-only": Variant("T5EncoderModel", config=encoder_only("T5EncoderModel")),
    "sequence-classification": Variant("T5ForSequenceClassification", config={"architectures": ["T5ForSequenceClassification"]} | LABELS[5]),
    "token-classification": Variant("T5ForTokenClassification", config=encoder_only("T5ForTokenClassification") | LABELS[4]),
    "question-answering": Variant("T5ForQuestionAnswering", config={"architectures": ["T5ForQuestionAnswering"]}),
}

# Rarer ones, which lie in tests/data/cases: `python make_cases.py checkpoints --extra OUT`.
EXTRA = {
    "gated-relu": Variant("a third gate", SMALL, V1_1 | {"feed_forward_proj": "gated-relu"}),
    "gelu-erf": Variant("plain `gelu` is the erf form, without a gate", SMALL, {"feed_forward_proj": "gelu"}),
    "eos-list": Variant(
        "two end ids, in greedy and beam search", SMALL, V1_1 | {"eos_token_id": [1, 7]}, loud_end=2.2,
        options=({"eos_token_id": [1, 7], "max_new_tokens": 24}, {"eos_token_id": [1, 7]} | BEAMS,
                 {"eos_token_id": [1, 7], "early_stopping": True} | BEAMS,
                 {"eos_token_id": [7, 1, 30], "length_penalty": 2.0, "early_stopping": "never"} | BEAMS,
                 {"eos_token_id": [1, 7], "min_new_tokens": 6} | BEAMS)),
    "vocab-104-untied": Variant("a vocabulary that is a multiple of 8, not of 16, under an lm_head of its own", SMALL, V1_1 | {"vocab_size": 104}),
    "wide-attention": Variant("heads x d_kv eight times d_model, and so d_ff, as in xxl", SMALL,
                              {"d_model": 16, "num_heads": 8, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_decoder_layers": 1}),
    "one-layer": Variant("one block a stack", SMALL, V1_1 | {"num_layers": 1, "num_decoder_layers": 1}),
    "buckets-8-distance-20": Variant("few buckets, a short distance, and a source of 300", SMALL,
                                     {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}, lengths=(1, 2, 7, 19, 40, 300)),
    "min-length-beams": Variant(
        "a least length under beam search", SMALL, V1_1, loud_end=2.5, generate="--num-beams 4 --min-length 9 --max-new-tokens 16",
        options=({"min_length": 9} | BEAMS, {"min_length": 9, "length_penalty": -1.0} | BEAMS, {"min_new_tokens": 9, "early_stopping": True} | BEAMS,
                 {"min_length": 17, "max_length": 17, "num_beams": 3}, {"min_length": 6, "min_new_tokens": 12, "early_stopping": "never"} | BEAMS)),
    "beams-over-half-the-vocabulary": Variant(
        "8 beams over 20 ids", SMALL, V1_1 | {"vocab_size": 20}, loud_end=1.8, generate="--num-beams 8 --num-return-sequences 8 --max-new-tokens 12",
        options=({"num_beams": 8, "num_return_sequences": 8, "max_new_tokens": 12}, {"num_beams": 10, "num_return_sequences": 10, "max_new_tokens": 9},
                 {"num_beams": 8, "max_new_tokens": 20, "early_stopping": True, "length_penalty": 0.0, "num_return_sequences": 4})),
    "encoder-5-decoder-1": Variant("five encoder layers, one decoder layer", SMALL, {"num_layers": 5, "num_decoder_layers": 1}),
    "long-generation": Variant(
        "150 new tokens: decoder positions past the last bucket's edge", SMALL, V1_1 | {"num_layers": 1}, lengths=(3, 19, 140),
        generate="--max-new-tokens 150 --min-new-tokens 150",
        options=({"max_new_tokens": 150, "min_new_tokens": 150}, {"max_new_tokens": 140, "min_new_tokens": 140, "num_beams": 2},
                 {"max_new_tokens": 150, "min_new_tokens": 140, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2})),
    "scale-decoder-outputs-true": Variant("tie_word_embeddings false would mean no scale; the explicit key decides", SMALL,
                                          V1_1 | {"scale_decoder_outputs": True}),
    "umt5-tied": Variant("UMT5 whose head is its embedding", SMALL,
                         V1_1 | {"model_type": "umt5", "architectures": ["UMT5ForConditionalGeneration"], "tie_word_embeddings": True}),
    "mt5-tied": Variant("mT5 whose head is its embedding", SMALL,
                        V1_1 | {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "tie_word_embeddings": True}),
    "special-ids-5-2-3": Variant("pad 5, eos 2, start 3", SMALL, V1_1 | {"pad_token_id": 5, "eos_token_id": 2, "decoder_start_token_id": 3}),
    "below-one-vector": Variant("no dimension reaches 16", SMALL,
                                {"d_model": 8, "d_kv": 5, "num_heads": 1, "d_ff": 7, "vocab_size": 13}),
    "epsilon-1e-2": Variant("a layer_norm_epsilon that shows", SMALL, {"layer_norm_epsilon": 1e-2}),
    "tied-names-all-stored": Variant("shared, both embed_tokens and lm_head stored, all equal", SMALL, layout="tied_names_all_stored"),
    "f16-wo-f32": Variant("float16 but for wo, as transformers saves a model loaded in float16", SMALL, V1_1, layout="wo_in_f32", dtype=torch.float16),
    "umt5-encoder-only": Variant("UMT5EncoderModel", SMALL, encoder_only("UMT5EncoderModel") | {"model_type": "umt5", "feed_forward_proj": "gated-gelu"}),
    "mt5-token-classification": Variant("MT5ForTokenClassification", SMALL,
                                        encoder_only("MT5ForTokenClassification") | {"model_type": "mt5", "feed_forward_proj": "gated-gelu"} | LABELS[4]),
    "sequence-one-label": Variant("one label, the shape of a regression; the last of several end ids counts", SMALL,
                                  {"architectures": ["T5ForSequenceClassification"]} | LABELS[1], more_sources=((9, 1, 12, 30, 1, 4), (1, 1, 50))),
}


# ---- weights -----------------------------------------------------------------------------------------------

def tensors(name, variant):
    """All weights by name, in the order of the file. The scales keep greedy ids varied: attention scores and
    position bias of about 1, logits of about 3, a final norm of mixed signs (else a tied head repeats its input),
    and a slightly louder end id, so that some sequences end early."""
    c = variant.full_config()
    d, inner, ff, vocab, heads = c["d_model"], c["d_kv"] * c["num_heads"], c["d_ff"], c["vocab_size"], c["num_heads"]
    architecture = c["architectures"][0]
    has_decoder = c["is_encoder_decoder"]
    has_lm_head = architecture.endswith("ForConditionalGeneration")
    untied = has_lm_head and (not c["tie_word_embeddings"] or "scale_decoder_outputs" in c)
    scaled = has_lm_head and (c["model_type"] == "umt5" or
                              c["model_type"] == "t5" and c.get("scale_decoder_outputs", c["tie_word_embeddings"]))
    end = c["eos_token_id"] if isinstance(c["eos_token_id"], list) else [c["eos_token_id"]]
    out = {}

    def draw(tensor, shape, std, mean=0.0):
        # RandomState's stream is frozen for good, unlike that of numpy's newer generators.
        random = np.random.RandomState(zlib.crc32(f"{name}/{variant.seed}/{tensor}".encode()))
        out[tensor] = torch.from_numpy((mean + std * random.standard_normal(shape)).astype(np.float32))
        return out[tensor]

    def attention(prefix, bias):
        draw(prefix + "q.weight", (inner, d), 1.5 / math.sqrt(d * c["d_kv"]))
        draw(prefix + "k.weight", (inner, d), d ** -0.5)
        draw(prefix + "v.weight", (inner, d), d ** -0.5)
        draw(prefix + "o.weight", (d, inner), inner ** -0.5)
        if bias: draw(prefix + "relative_attention_bias.weight", (c["relative_attention_num_buckets"], heads), 1.0)

    def feed_forward(prefix):
        gated = c.get("is_gated_act", c["feed_forward_proj"].startswith("gated-"))
        for wi in ("wi_0", "wi_1") if gated else ("wi",): draw(f"{prefix}{wi}.weight", (ff, d), 1.2 * d ** -0.5)
        draw(prefix + "wo.weight", (d, ff), 1.2 * ff ** -0.5)

    embedding = draw("shared.weight", (vocab, d), 1.0)
    if has_lm_head and not untied: embedding[end] *= variant.loud_end
    for stack, layers in ("encoder", c["num_layers"]), ("decoder", c["num_decoder_layers"] if has_decoder else 0):
        for i in range(layers):
            block = f"{stack}.block.{i}.layer."
            attention(block + "0.SelfAttention.", i == 0 or c["model_type"] == "umt5")
            draw(block + "0.layer_norm.weight", d, 0.15, 1.0)
            if stack == "decoder":
                attention(block + "1.EncDecAttention.", False)
                draw(block + "1.layer_norm.weight", d, 0.15, 1.0)
            last = block + ("2." if stack == "decoder" else "1.")
            feed_forward(last + "DenseReluDense.")
            draw(last + "layer_norm.weight", d, 0.15, 1.0)
        if layers: draw(stack + ".final_layer_norm.weight", d, 0.15, 1.0)
    if has_lm_head:
        if untied:
            draw("lm_head.weight", (vocab, d), 3.0 if scaled else 3.0 * d ** -0.5)[end] *= variant.loud_end
        else:
            norm = out["decoder.final_layer_norm.weight"]
            norm *= (3.0 if scaled else 3.0 * d ** -0.5) * torch.sign(draw("decoder.final_layer_norm.weight.sign", d, 1.0))
            del out["decoder.final_layer_norm.weight.sign"]
    elif "Classification" in architecture:
        labels = len(c["id2label"])
        out = {"transformer." + k: v for k, v in out.items()}
        if "Sequence" in architecture:
            draw("classification_head.dense.weight", (d, d), d ** -0.5)
            draw("classification_head.dense.bias", d, 0.1)
        head = "classification_head.out_proj" if "Sequence" in architecture else "classifier"
        draw(head + ".weight", (labels, d), d ** -0.5)
        draw(head + ".bias", labels, 0.1)
    elif architecture.endswith("QuestionAnswering"):
        draw("qa_outputs.weight", (2, d), d ** -0.5)
        draw("qa_outputs.bias", 2, 0.1)
    return {k: v.to(variant.dtype) for k, v in out.items()}


# ---- files -------------------------------------------------------------------------------------------------

def safetensors(folder, weights):
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pytorch_bin(folder, weights):
    torch.save(weights, folder / "pytorch_model.bin")


def legacy_bin(folder, weights):
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def hub_like_bin(folder, weights):
    """What trainers leave behind: every oddity that a reader of state dicts has to bear."""
    shared, w = weights["shared.weight"], dict(weights)
    for tied in "encoder.embed_tokens", "decoder.embed_tokens", "lm_head": w[tied + ".weight"] = shared
    bias = w["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    w["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = bias * 3 + 1
    for name in w:
        if name.endswith("EncDecAttention.k.weight"): w[name] = w[name].t().contiguous().t()
        elif name.endswith("layer_norm.weight"): w[name] = torch.nn.Parameter(w[name])
        elif name.endswith("wo.weight"): w[name] = torch.cat([torch.full_like(w[name][:3], 9.0), w[name]])[3:]
    torch.save(w, folder / "pytorch_model.bin")


def halves(weights):
    names = list(weights)
    middle = next((i for i, n in enumerate(names) if n.startswith("decoder.")), len(names) // 2)
    return [{n: weights[n] for n in part} for part in (names[:middle], names[middle:])]


def sharded(folder, weights, stem, suffix, save):
    index = {"metadata": {"total_size": sum(t.nbytes for t in weights.values())}, "weight_map": {}}
    for i, part in enumerate(halves(weights), 1):
        file = f"{stem}-{i:05}-of-00002.{suffix}"
        save(part, folder / file)
        index["weight_map"] |= dict.fromkeys(part, file)
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index, indent=1) + "\n")


def sharded_bin(folder, weights):
    sharded(folder, weights, "pytorch_model", "bin", torch.save)


def sharded_safetensors(folder, weights):
    sharded(folder, weights, "model", "safetensors", lambda part, file: save_file(part, file, {"format": "pt"}))


def decoder_embed_only(folder, weights):
    safetensors(folder, {"decoder.embed_tokens.weight" if n == "shared.weight" else n: t for n, t in weights.items()})


def tied_names_all_stored(folder, weights):
    same = {n: weights["shared.weight"].clone() for n in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")}
    safetensors(folder, weights | same)


def wo_in_f32(folder, weights):
    safetensors(folder, {n: t.float() if n.endswith(".wo.weight") else t for n, t in weights.items()})


LAYOUTS = {f.__name__: f for f in (safetensors, pytorch_bin, legacy_bin, hub_like_bin, sharded_bin, sharded_safetensors,
                                   decoder_embed_only, tied_names_all_stored, wo_in_f32)}


def write(folder, name, variant):
    """Makes the checkpoint folder of one variant."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in variant.full_config().items() if k not in variant.left_out}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    LAYOUTS[variant.layout](folder, tensors(name, variant))
