"""CTranslate2, converted by its own converter."""

from __future__ import annotations

import ctranslate2

from engines.worker import Ids, Job, main


class CTranslate:
    version = f"ctranslate2 {ctranslate2.__version__}"

    def __init__(self, job: Job) -> None:
        self.job = job
        options = {
            "device": "cpu",
            "compute_type": {"f32": "float32"}.get(job.dtype, job.dtype),
            "inter_threads": 1,
            "intra_threads": job.threads,
        }
        # Only what the work needs: idle threads of a second model would spin beside it.
        if job.new_tokens:
            self.translator = ctranslate2.Translator(str(job.converted / f"ctranslate2.{job.dtype}"), **options)
        else:
            self.encoder = ctranslate2.Encoder(str(job.converted / f"ctranslate2_encoder.{job.dtype}"), **options)
        self.tokens = [[str(i) for i in row] for row in job.input_ids]

    def run(self) -> Ids | None:
        if not self.job.new_tokens:
            self.encoder.forward_batch(self.job.input_ids)
            return None
        results = self.translator.translate_batch(
            self.tokens,
            beam_size=self.job.beams,
            max_decoding_length=self.job.new_tokens,
            min_decoding_length=self.job.new_tokens,
            max_input_length=0,
            length_penalty=1.0,
        )
        return [[int(token) for token in result.hypotheses[0]] for result in results]


if __name__ == "__main__":
    main(CTranslate)
