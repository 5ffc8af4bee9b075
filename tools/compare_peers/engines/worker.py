"""What an engine's process does, the same for all that run in Python.

It loads, warms up, and then answers each line on stdin, a number of repeats, with one line of JSON on stdout. With
--one-shot it loads, runs once, prints the ids and exits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

WARMUP = 2
Ids = list[list[int]]


@dataclass(frozen=True)
class Job:
    model: Path
    """The checkpoint's folder."""
    converted: Path
    """Where convert.py put its forms."""
    dtype: str
    threads: int
    input_ids: Ids
    new_tokens: int
    beams: int
    end: int
    start: int


class Engine(Protocol):
    version: str

    def __init__(self, job: Job) -> None: ...

    def run(self) -> Ids | None:
        """The whole work once: generated ids without the start token, None where the encoder runs alone."""


def peak_memory_kb() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise OSError("/proc/self/status has no VmHWM")


def main(engine_class: type[Engine]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--converted", type=Path, required=True)
    parser.add_argument("--workload", type=Path, required=True)
    parser.add_argument("--dtype", choices=["f32", "int8"], required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--one-shot", action="store_true")
    args = parser.parse_args()
    work = json.loads(args.workload.read_text())
    job = Job(
        args.model,
        args.converted,
        args.dtype,
        args.threads,
        work["input_ids"],
        work["new_tokens"],
        work["beams"],
        work["eos_id"],
        work["start_id"],
    )
    engine = engine_class(job)
    if args.one_shot:
        print(json.dumps({"ids": engine.run()}), flush=True)
        return
    for _ in range(WARMUP):
        engine.run()
    print(json.dumps({"version": engine.version}), flush=True)
    for line in sys.stdin:
        times, ids = [], None
        for _ in range(int(line)):
            start = time.perf_counter()
            ids = engine.run()
            times.append((time.perf_counter() - start) * 1e3)
        print(json.dumps({"total_ms": times, "ids": ids, "peak_rss_kb": peak_memory_kb()}), flush=True)
