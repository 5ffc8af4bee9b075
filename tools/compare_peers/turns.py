"""Engines that take turns: each is measured for a moment, then stands still while the next one is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from workloads import Workload

HERE = Path(__file__).parent
OURS = "tiny-t5"


@dataclass(frozen=True)
class Peer:
    name: str
    module: str
    dtypes: tuple[str, ...]
    two_threads: dict[str, str] = field(default_factory=dict)
    """Environment with more than one thread."""


PEERS = [
    Peer("ONNX Runtime", "engines.onnx_runtime", ("f32", "int8")),
    # Between its short products a thread that sleeps costs more than it brings; one that spins is faster.
    Peer(
        "CTranslate2",
        "engines.ctranslate",
        ("f32", "int8"),
        {"OMP_WAIT_POLICY": "active", "OMP_PROC_BIND": "true", "OMP_PLACES": "cores"},
    ),
    Peer("PyTorch", "engines.pytorch", ("f32",)),
]


@dataclass(frozen=True)
class Setting:
    """What a cell of the table is measured with."""

    model: Path
    converted: Path
    work_file: Path
    workload: Workload
    dtype: str
    threads: int


@dataclass
class Measured:
    """What one engine gave in one cell."""

    times_ms: list[float] = field(default_factory=list)
    ids: list[list[int]] | None = None
    peak_rss_kb: int = 0
    version: str = ""

    def add(self, answer: dict) -> None:
        self.times_ms += answer["total_ms"]
        self.ids = answer["ids"]
        self.peak_rss_kb = max(self.peak_rss_kb, answer["peak_rss_kb"])


def peer_command(peer: Peer, setting: Setting) -> tuple[list[str], dict[str, str]]:
    command = [
        sys.executable,
        "-m",
        peer.module,
        "--model",
        str(setting.model),
        "--converted",
        str(setting.converted),
        "--workload",
        str(setting.work_file),
        "--dtype",
        setting.dtype,
        "--threads",
        str(setting.threads),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(setting.threads), "HF_HUB_OFFLINE": "1"}
    return command, environment | (peer.two_threads if setting.threads > 1 else {})


def our_command(binary: Path, setting: Setting) -> list[str]:
    variant = {"f32": "fp32"}.get(setting.dtype, setting.dtype)
    return [
        str(binary),
        "bench",
        "--model",
        str(setting.model),
        "--workload",
        str(setting.work_file),
        "--variant",
        variant,
        "--threads",
        str(setting.threads),
    ]


class Ours:
    """A process a turn: `tiny-t5 bench` loads in milliseconds."""

    def __init__(self, binary: Path, setting: Setting) -> None:
        self.command = our_command(binary, setting)
        self.measured = Measured()

    def turn(self, repeats: int) -> None:
        command = [*self.command, "--repeats", str(repeats), "--warmup", "2"]
        answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        self.measured.version = f"{OURS} {answer['version']}"
        self.measured.add(answer)

    def close(self) -> None:
        """Nothing runs between turns."""


class Worker:
    """A peer's process, which lives through all turns of a cell and is stopped between them."""

    def __init__(self, peer: Peer, setting: Setting) -> None:
        command, environment = peer_command(peer, setting)
        self.measured = Measured()
        self.process = subprocess.Popen(
            command,
            cwd=HERE,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.measured.version = self.answer()["version"]
        self.process.send_signal(signal.SIGSTOP)

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(self.process.args)} ended:\n{self.process.stderr.read()}")
        return json.loads(line)

    def turn(self, repeats: int) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        self.measured.add(self.answer())
        self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def measure(binary: Path, setting: Setting, rounds: int) -> dict[str, Measured]:
    """All engines in turn, ours first, then the peers; each round begins with another one."""
    engines: dict[str, Ours | Worker] = {OURS: Ours(binary, setting)}
    try:
        for peer in PEERS:
            if setting.dtype in peer.dtypes:
                engines[peer.name] = Worker(peer, setting)
        order = list(engines.values())
        for _ in range(rounds):
            for engine in order:
                engine.turn(setting.workload.repeats)
            order = [*order[1:], order[0]]
    finally:
        for engine in engines.values():
            engine.close()
    return {name: engine.measured for name, engine in engines.items()}


def measure_cold(binary: Path, setting: Setting, rounds: int) -> dict[str, Measured]:
    """All engines in turn, each from the start of its process to its exit: load, run once."""
    commands = {OURS: (our_command(binary, setting), dict(os.environ))}
    commands |= {peer.name: peer_command(peer, setting) for peer in PEERS if setting.dtype in peer.dtypes}
    measured = {name: Measured() for name in commands}
    for _ in range(rounds):
        for name, (command, environment) in commands.items():
            start = time.perf_counter()
            out = subprocess.run(
                [*command, "--one-shot"],
                cwd=HERE,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=True,
            ).stdout
            measured[name].times_ms.append((time.perf_counter() - start) * 1e3)
            measured[name].ids = json.loads(out)["ids"]
    return measured


class OtherLoad:
    """Cores that were busy with something else: other processes, or the host of a virtual machine."""

    def __init__(self) -> None:
        self.begin = self.now()

    @staticmethod
    def now() -> tuple[float, float, float]:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        machine = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        mine = sum(os.times()[:4])  # children that have ended included
        return time.monotonic(), machine, mine

    def cores(self) -> float:
        (t0, machine0, mine0), (t1, machine1, mine1) = self.begin, self.now()
        return max(0.0, (machine1 - machine0 - mine1 + mine0) / max(t1 - t0, 0.1))
