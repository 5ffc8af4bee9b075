"""Prepares a checkpoint for every engine, in one process of its own: `convert.py MODEL OUT WORKLOAD...`.

OUT gets the forms of ONNX Runtime and CTranslate2, and `expected.json`: the ids of transformers for each workload.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from ctranslate2.converters import TransformersConverter
from ctranslate2.specs.transformer_spec import TransformerEncoderModelSpec
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from engines.pytorch import PyTorch
from engines.worker import Job

LONGEST = 1024
"""Tokens of a source or target that the exported position tables are made for."""


# ---- ONNX ----------------------------------------------------------------------------------------------------------


def position_table(attention: nn.Module, bidirectional: bool) -> Tensor:
    """What transformers adds to a score, (heads, 2 * LONGEST - 1), by the distance key - query from 1 - LONGEST on."""
    distances = torch.arange(1 - LONGEST, LONGEST)
    buckets = attention._relative_position_bucket(
        distances,
        bidirectional=bidirectional,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias.weight.detach()[buckets].T.contiguous()


def split_heads(attention: nn.Module, x: Tensor) -> Tensor:
    return x.unflatten(2, (attention.n_heads, attention.key_value_proj_dim)).transpose(1, 2)


def attend(attention: nn.Module, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    scores = split_heads(attention, attention.q(x)) @ keys.transpose(2, 3)
    weights = (scores if bias is None else scores + bias).softmax(-1)
    return attention.o((weights @ values).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """source (B, S) -> the encoder's output (B, S, d_model); with `cross` the keys and values (B, heads, S, d_kv) of
    the decoder's cross-attention instead, which are computed once a source."""

    def __init__(self, model: T5ForConditionalGeneration, cross: bool) -> None:
        super().__init__()
        self.encoder, self.decoder, self.cross = model.encoder, model.decoder, cross
        self.register_buffer("table", position_table(model.encoder.block[0].layer[0].SelfAttention, bidirectional=True))

    def forward(self, source: Tensor) -> Tensor | list[Tensor]:
        positions = torch.arange(source.shape[1])
        bias = self.table[:, positions[None, :] - positions[:, None] + (LONGEST - 1)]
        x = self.encoder.embed_tokens(source)
        for block in self.encoder.block:
            layer = block.layer[0]
            attention, normed = layer.SelfAttention, layer.layer_norm(x)
            keys, values = (split_heads(attention, f(normed)) for f in (attention.k, attention.v))
            x = x + attend(attention, normed, keys, values, bias)
            x = block.layer[1](x)
        x = self.encoder.final_layer_norm(x)
        if not self.cross:
            return x
        attentions = [block.layer[1].EncDecAttention for block in self.decoder.block]
        return [split_heads(a, f(x)) for a in attentions for f in (a.k, a.v)]


class Decoder(nn.Module):
    """ids (B, 1), the cache and the cross-attention's keys and values -> logits (B, 1, vocabulary) and the longer
    cache. With `reorder` each row goes on from the cache of the row that `beams` names."""

    def __init__(self, model: T5ForConditionalGeneration, reorder: bool) -> None:
        super().__init__()
        self.decoder, self.head, self.reorder = model.decoder, model.lm_head, reorder
        self.scale = model.config.d_model**-0.5 if model.config.scale_decoder_outputs else 1.0
        table = position_table(model.decoder.block[0].layer[0].SelfAttention, bidirectional=False)
        self.register_buffer("table", table[:, :LONGEST].contiguous())  # distances up to 0: keys before the query

    def forward(self, ids: Tensor, *rest: Tensor) -> list[Tensor]:
        beams = rest[0] if self.reorder else None
        caches = rest[1:] if self.reorder else rest
        layers = len(self.decoder.block)
        past, cross = caches[: 2 * layers], caches[2 * layers :]
        bias = self.table[:, LONGEST - 1 - past[0].shape[2] :][None, :, None]
        x = self.decoder.embed_tokens(ids)
        longer = []
        for i, block in enumerate(self.decoder.block):
            layer = block.layer[0]
            attention, normed = layer.SelfAttention, layer.layer_norm(x)
            for old, project in zip(past[2 * i : 2 * i + 2], (attention.k, attention.v), strict=True):
                old = old if beams is None else old[beams]
                longer.append(torch.cat([old, split_heads(attention, project(normed))], 2))
            x = x + attend(attention, normed, *longer[-2:], bias)
            layer = block.layer[1]
            x = x + attend(layer.EncDecAttention, layer.layer_norm(x), *cross[2 * i : 2 * i + 2], None)
            x = block.layer[2](x)
        x = self.decoder.final_layer_norm(x) * self.scale
        return [self.head(x), *longer]


def export(model: T5ForConditionalGeneration, out: Path) -> None:
    out.mkdir()
    config = model.config
    pairs = [f"{kind}_{i}" for i in range(config.num_decoder_layers) for kind in ("key", "value")]
    past, cross, new = ([f"{when}_{pair}" for pair in pairs] for when in ("past", "cross", "new"))
    source = torch.zeros(2, 3, dtype=torch.long)
    cache = [torch.zeros(2, config.num_heads, 3, config.d_kv) for _ in pairs]
    ids, beams = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    graphs = [
        ("encoder", Encoder(model, cross=False), {"source": source}, ["output"]),
        ("encoder_cross", Encoder(model, cross=True), {"source": source}, cross),
        ("decoder", Decoder(model, reorder=False), {"ids": ids}, ["logits", *new]),
        ("decoder_beam", Decoder(model, reorder=True), {"ids": ids, "beams": beams}, ["logits", *new]),
    ]
    for name, module, inputs, outputs in graphs:
        if name.startswith("decoder"):
            inputs = inputs | dict(zip(past + cross, cache + cache, strict=True))
        axes = {name: {0: "rows"} for name in [*inputs, *outputs]}
        axes |= {name: {0: "rows", 2: name.split("_")[0]} for name in [*past, *cross, *new] if name in axes}
        axes |= {name: {0: "rows", 1: "source"} for name in ("source", "output") if name in axes}
        path = out / f"{name}.f32.onnx"
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )
        quantize_dynamic(
            path,
            out / f"{name}.int8.onnx",
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )


# ---- CTranslate2 ---------------------------------------------------------------------------------------------------


class Numbers:
    """A tokenizer whose tokens are the numbers themselves, so that ids go in and come out."""

    pad_token, eos_token, unk_token = "0", "1", "2"

    def __init__(self, size: int) -> None:
        self.size = size

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self.size)}

    def convert_ids_to_tokens(self, i: int) -> str:
        return str(i)


class Converter(TransformersConverter):
    def __init__(self, model: Path, vocabulary: int) -> None:
        super().__init__(str(model))
        self.vocabulary = vocabulary

    def load_tokenizer(self, *_args: object, **_options: object) -> Numbers:
        return Numbers(self.vocabulary)


class EncoderConverter(Converter):
    def _load(self) -> TransformerEncoderModelSpec:
        spec = TransformerEncoderModelSpec(super()._load().encoder, pooling_layer=False)
        spec.register_vocabulary(list(Numbers(self.vocabulary).get_vocab()))
        spec.config.unk_token = Numbers.unk_token
        return spec


# ---- all of it -----------------------------------------------------------------------------------------------------


def main() -> None:
    model_folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_grad_enabled(False)
    print("ids of transformers", flush=True)
    expected = {}
    for path in map(Path, sys.argv[3:]):
        work = json.loads(path.read_text())
        job = Job(
            model_folder,
            out,
            "f32",
            torch.get_num_threads(),
            work["input_ids"],
            work["new_tokens"],
            work["beams"],
            work["eos_id"],
            work["start_id"],
        )
        expected[work["name"]] = PyTorch(job).run()
    print("CTranslate2", flush=True)
    model = T5ForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    vocabulary = model.config.vocab_size
    for dtype, theirs in (("f32", "float32"), ("int8", "int8")):
        for name, converter in (("ctranslate2", Converter), ("ctranslate2_encoder", EncoderConverter)):
            converter(model_folder, vocabulary).convert(str(out / f"{name}.{dtype}"), quantization=theirs)
    print("ONNX", flush=True)
    export(model, out / "onnx")
    (out / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main()
