"""Makes a checkpoint of T5-Efficient-TINY's shape with random weights, the same every time: `checkpoint.py OUT`."""

from __future__ import annotations

import sys

import torch
from transformers import T5Config, T5ForConditionalGeneration

SEED = 0


@torch.no_grad()
def make() -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=32128,
        d_model=256,
        d_kv=64,
        d_ff=1024,
        num_layers=4,
        num_decoder_layers=4,
        num_heads=4,
        decoder_start_token_id=0,
    )
    torch.manual_seed(SEED)
    model = T5ForConditionalGeneration(config)
    # As initialised, a T5 with tied embeddings repeats one token for ever, whatever its source. This spreads the ids:
    # smaller embeddings, position biases that matter, a last norm of mixed signs, no constant in the decoder's outputs.
    model.shared.weight.normal_(0, 0.3)
    for name, weight in model.named_parameters():
        if name.endswith("relative_attention_bias.weight"):
            weight.normal_(0, 1)
        elif name.startswith("decoder") and name.endswith(".wo.weight"):
            weight.sub_(weight.mean(1, keepdim=True))
        elif name.startswith("decoder") and name.endswith("Attention.o.weight"):
            weight.mul_(0.5)
        elif name.endswith(".q.weight"):
            weight.mul_(1.5)
    signs = torch.randint(0, 2, (config.d_model,)) * 2 - 1
    model.decoder.final_layer_norm.weight.mul_(6 * signs)
    return model


if __name__ == "__main__":
    make().save_pretrained(sys.argv[1])
