"""PyTorch with transformers, eager: `generate` as transformers has it. Its ids in f32 are what all others must give."""

from __future__ import annotations

import torch
import transformers
from transformers import T5ForConditionalGeneration

from engines.worker import Ids, Job, main


class PyTorch:
    version = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        self.job = job
        self.model = T5ForConditionalGeneration.from_pretrained(job.model, dtype=torch.float32).eval()
        self.source = torch.tensor(job.input_ids)
        self.mask = torch.ones_like(self.source)

    def run(self) -> Ids | None:
        if not self.job.new_tokens:
            self.model.encoder(input_ids=self.source, attention_mask=self.mask)
            return None
        ids = self.model.generate(
            self.source,
            attention_mask=self.mask,
            do_sample=False,
            num_beams=self.job.beams,
            min_new_tokens=self.job.new_tokens,
            max_new_tokens=self.job.new_tokens,
            length_penalty=1.0,
            early_stopping=False,
        )
        return ids[:, 1:].tolist()


if __name__ == "__main__":
    main(PyTorch)
