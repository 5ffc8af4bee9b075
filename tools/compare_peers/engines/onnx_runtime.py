"""ONNX Runtime on the graphs of convert.py. The search is here, in numpy; the cache stays with the engine."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort

from engines.worker import Ids, Job, main

LEAST = -1e9


class OnnxRuntime:
    version = f"onnxruntime {ort.__version__}"

    def __init__(self, job: Job) -> None:
        self.job = job
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads = job.threads
        self.options.log_severity_level = 3
        # Else the threads of the encoder's session spin on while the decoder runs, at half the speed on two threads.
        self.options.add_session_config_entry("session.force_spinning_stop", "1")
        self.source = np.array(job.input_ids, np.int64)
        if not job.new_tokens:
            self.encoder = self.load("encoder")
            return
        self.encoder = self.load("encoder_cross")
        self.decoder = self.load("decoder_beam" if job.beams > 1 else "decoder")
        names = [i.name for i in self.decoder.get_inputs()]
        self.past = [name for name in names if name.startswith("past")]
        self.cross = [name for name in names if name.startswith("cross")]

    def load(self, name: str) -> ort.InferenceSession:
        path = self.job.converted / "onnx" / f"{name}.{self.job.dtype}.onnx"
        return ort.InferenceSession(path, self.options, providers=["CPUExecutionProvider"])

    def run(self) -> Ids | None:
        if not self.job.new_tokens:
            self.encoder.run(None, {"source": self.source})
            return None
        return self.beam_search() if self.job.beams > 1 else self.greedy()

    def start(self, copies: int) -> None:
        """Runs the encoder and empties the cache, for so many sequences of each source."""
        cross = self.encoder.run(self.cross, {"source": self.source})
        self.cross_values = [ort.OrtValue.ortvalue_from_numpy(np.repeat(value, copies, 0)) for value in cross]
        rows, heads, _, width = self.cross_values[0].shape()
        empty = np.zeros((rows, heads, 0, width), np.float32)
        self.cache = [ort.OrtValue.ortvalue_from_numpy(empty) for _ in self.past]

    def step(self, ids: np.ndarray, beams: np.ndarray | None = None) -> np.ndarray:
        """Logits (rows, vocabulary) after the next `ids` (rows, 1); `beams`: whose cache each row goes on from."""
        binding = self.decoder.io_binding()
        binding.bind_cpu_input("ids", ids)
        if beams is not None:
            binding.bind_cpu_input("beams", beams)
        for name, value in zip(self.past + self.cross, self.cache + self.cross_values, strict=True):
            binding.bind_ortvalue_input(name, value)
        for output in self.decoder.get_outputs():
            binding.bind_output(output.name, "cpu")
        self.decoder.run_with_iobinding(binding)
        logits, *self.cache = binding.get_outputs()
        logits = logits.numpy()[:, 0]
        logits[:, self.job.end] = LEAST
        return logits

    def greedy(self) -> Ids:
        self.start(1)
        ids = np.full((len(self.source), 1), self.job.start, np.int64)
        found = []
        for _ in range(self.job.new_tokens):
            ids = self.step(ids).argmax(1)[:, None]
            found.append(ids)
        return np.concatenate(found, 1).tolist()

    def beam_search(self) -> Ids:
        """Of one source. Its end token is suppressed, so all sequences stay of one length, and the best sum wins."""
        width = self.job.beams
        self.start(width)
        ids, beams = np.full((width, 1), self.job.start, np.int64), np.arange(width)
        scores = np.array([0.0] + [LEAST] * (width - 1), np.float32)
        sequences = np.zeros((width, 0), np.int64)
        for _ in range(self.job.new_tokens):
            logits = self.step(ids, beams)
            top = logits.max(1, keepdims=True)
            normaliser = top + np.log(np.exp(logits - top).sum(1, keepdims=True))
            totals = (logits - normaliser + scores[:, None]).ravel()
            best = np.argpartition(-totals, width)[:width]
            best = best[np.argsort(-totals[best])]
            scores, beams, tokens = totals[best], best // logits.shape[1], best % logits.shape[1]
            sequences = np.concatenate([sequences[beams], tokens[:, None]], 1)
            ids = tokens[:, None].copy()
        return [sequences[0].tolist()]


if __name__ == "__main__":
    main(OnnxRuntime)
