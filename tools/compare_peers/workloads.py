"""The work that every engine does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

END, START = 1, 0


@dataclass(frozen=True)
class Workload:
    name: str
    what: str
    sources: int
    source_tokens: int
    new_tokens: int
    """Exactly so many: the end token is suppressed. 0: the encoder alone."""
    beams: int
    repeats: int
    """Runs in one turn of an engine: short work is repeated more often."""

    def write(self, folder: Path, vocabulary: int) -> Path:
        """The file that `tiny-t5 bench --workload` reads, and our workers too."""
        path = folder / f"{self.name}.json"
        work = {
            "input_ids": self.input_ids(vocabulary),
            "new_tokens": self.new_tokens,
            "beams": self.beams,
            "eos_id": END,
            "start_id": START,
            "suppress_eos": True,
        }
        path.write_text(json.dumps(asdict(self) | work))
        return path

    def input_ids(self, vocabulary: int) -> list[list[int]]:
        """The same ids on every machine, from a linear congruential generator; each source ends with the end token."""
        state = ord(self.name)
        rows = []
        for _ in range(self.sources):
            row = []
            for _ in range(self.source_tokens - 1):
                state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
                row.append(3 + (state >> 33) % (vocabulary - 3))
            rows.append([*row, END])
        return rows


WORKLOADS = [
    Workload("A", "64 source tokens, 32 greedy ones", 1, 64, 32, 1, 5),
    Workload("C", "16 source tokens, 16 greedy ones", 1, 16, 16, 1, 10),
    Workload("D", "the encoder alone, 128 tokens", 1, 128, 0, 1, 12),
    Workload("E", "32 sources of A at once", 32, 64, 32, 1, 2),
    Workload("F", "A with 4 beams", 1, 64, 32, 4, 3),
]
COLD = "C"
"""What a process does once for the time from its start to its exit."""
