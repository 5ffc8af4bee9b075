#!/usr/bin/env python3
"""tiny-t5 beside ONNX Runtime, CTranslate2 and PyTorch, on one checkpoint, in turn, on the same ids.

    compare.py target/release/tiny-t5                     a random-weight T5-Efficient-TINY, 5 to 8 minutes on 2 cores
    compare.py target/release/tiny-t5 --model DIR         another T5 checkpoint
    compare.py target/release/tiny-t5 --rounds 1 --workloads A,D --threads 1      a glance

Writes report.md, readme.md (the compact table of the project's README) and results.json (every time) into the work
folder, and prints the report. Progress goes to stderr. Exit 1: an id of ours in f32 is not that of transformers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import table
from turns import HERE, OURS, OtherLoad, Setting, measure, measure_cold
from workloads import COLD, WORKLOADS

WORK = HERE.parents[1] / "target" / "compare_peers"
COLD_ROUNDS = 3


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    names = ",".join(w.name for w in WORKLOADS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path, help="our release binary")
    parser.add_argument("--model", type=Path, help="a folder with config.json and model.safetensors")
    parser.add_argument("--work", type=Path, default=WORK, help="where conversions are kept and results go")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each engine in a cell")
    parser.add_argument("--workloads", default=f"{names},cold", help=f"of {names},cold")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--dtypes", default="f32,int8")
    parser.add_argument("--readme-table", action="store_true", help="print the compact table instead of the report")
    args = parser.parse_args()
    unknown = set(args.workloads.split(",")) - set(f"{names},cold".split(","))
    if unknown:
        parser.error(f"--workloads: found {', '.join(sorted(unknown))}, expected some of {names},cold")
    if not args.binary.is_file():
        parser.error(f"no binary at {args.binary}: cargo build --release makes it")
    return args


def script(name: str, *args: Path) -> None:
    """Runs one of our Python files; torch stays out of this process."""
    command = [sys.executable, "-W", "ignore", str(HERE / name), *map(str, args)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout}")


def random_checkpoint(work: Path) -> Path:
    folder = work / f"random-{fingerprint([HERE / 'checkpoint.py', HERE / 'requirements.txt'])}"
    if not (folder / "model.safetensors").exists():
        say("making a checkpoint of random weights")
        script("checkpoint.py", folder)
    return folder


def fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def prepare(model: Path, work: Path) -> tuple[Path, dict[str, Path]]:
    """Every form of the checkpoint, and the workloads' files; made once for these weights, versions and programs."""
    sources = [model / "config.json", *sorted(model.glob("*.safetensors")), HERE / "requirements.txt"]
    sources += [HERE / "convert.py", HERE / "workloads.py", HERE / "engines" / "pytorch.py"]
    converted = work / f"converted-{fingerprint(sources)}"
    converted.mkdir(parents=True, exist_ok=True)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    files = {workload.name: workload.write(converted, vocabulary) for workload in WORKLOADS}
    if not (converted / "expected.json").exists():
        say("converting it for each engine")
        script("convert.py", model, converted, *files.values())
    return converted, files


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    args = arguments()
    begin, load_before = time.monotonic(), os.getloadavg()[0]
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    model = args.model.resolve() if args.model else random_checkpoint(work)
    converted, files = prepare(model, work)
    by_name = {w.name: w for w in WORKLOADS}
    places = [
        (name, dtype, int(threads))
        for dtype in args.dtypes.split(",")
        for name in args.workloads.split(",")
        for threads in args.threads.split(",")
    ]
    cells, versions = [], {}
    for number, (name, dtype, threads) in enumerate(places, 1):
        workload = by_name[COLD if name == "cold" else name]
        setting = Setting(model, converted, files[workload.name], workload, dtype, threads)
        load = OtherLoad()
        if name == "cold":
            engines = measure_cold(args.binary.resolve(), setting, min(args.rounds, COLD_ROUNDS))
        else:
            engines = measure(args.binary.resolve(), setting, args.rounds)
            versions |= {engine: m.version for engine, m in engines.items() if engine not in versions}
        cell = {
            "workload": name,
            "dtype": dtype,
            "threads": threads,
            "other_cores": round(load.cores(), 2),
            "engines": {engine: asdict(m) for engine, m in engines.items()},
        }
        cells.append(cell)
        medians = ", ".join(f"{e} {table.milliseconds(table.quartiles(m.times_ms)[1])}" for e, m in engines.items())
        say(
            f"[{number}/{len(places)}, {time.monotonic() - begin:.0f} s] {name} {dtype} {table.threads(threads)}: "
            f"{medians}; ratio {table.verdict(cell)[2]}; others {cell['other_cores']} cores"
        )
    result = {
        "model": args.model.name if args.model else "Random weights in the shape of T5-Efficient-TINY",
        "rounds": args.rounds,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
            "load_before": load_before,
            "load_after": os.getloadavg()[0],
        },
        "versions": versions,
        "expected": json.loads((converted / "expected.json").read_text()),
        "cells": cells,
    }
    texts = {"report.md": table.full(result), "readme.md": table.readme(result), "results.json": json.dumps(result)}
    for name, text in texts.items():
        (work / name).write_text(text)
    print(texts["readme.md" if args.readme_table else "report.md"], end="")
    wrong = [
        f"{cell['workload']}, {table.threads(cell['threads'])}"
        for cell in cells
        if cell["dtype"] == "f32"
        and table.agreement(cell, OURS, result["expected"].get(cell["workload"])) not in ("", "equal")
    ]
    if wrong:
        sys.exit(f"our ids in f32 are not those of transformers: {'; '.join(wrong)}")


if __name__ == "__main__":
    main()
