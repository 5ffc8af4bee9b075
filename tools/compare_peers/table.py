"""The Markdown that compare.py writes, from what it measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from turns import OURS
from workloads import COLD, WORKLOADS

SHORT = {OURS: OURS, "ONNX Runtime": "ORT", "CTranslate2": "CT2", "PyTorch": "torch"}
MARKERS = ("<!-- tools/compare_peers: begin -->", "<!-- tools/compare_peers: end -->")
BUSY = 0.2
"""Cores that others may use before a cell is marked as disturbed."""
LEFT_OUT = (
    "Not compared: candle, llama.cpp, rten and OpenVINO; int8 in PyTorch; 16-bit weights; GPUs; the quality of int8 "
    "beyond the ids. Python is part of what the others need to start and of their memory."
)


def quartiles(times: list[float]) -> tuple[float, float, float]:
    if len(times) == 1:
        return times[0], times[0], times[0]
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return low, middle, high


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times_of(cell: dict, engine: str) -> str:
    if engine not in cell["engines"]:
        return ""
    low, middle, high = quartiles(cell["engines"][engine]["times_ms"])
    return f"{milliseconds(middle)} ({milliseconds(low)} to {milliseconds(high)})"


def verdict(cell: dict) -> tuple[str, float, str]:
    """The fastest peer, how many times as long as ours it takes, and that as text: a peer that wins is named in bold,
    and "even" is said where the quartiles of both overlap."""
    spread = {name: quartiles(engine["times_ms"]) for name, engine in cell["engines"].items()}
    ours = spread.pop(OURS)
    best = min(spread, key=lambda name: spread[name][1])
    low, middle, high = spread[best]
    ratio = middle / ours[1]
    if low <= ours[2] and ours[0] <= high:
        return best, ratio, f"{ratio:.2f}, even"
    return best, ratio, f"{ratio:.2f}" if ratio > 1 else f"**{ratio:.2f}, {best} wins**"


def equal_ids(found: list[list[int]], expected: list[list[int]]) -> tuple[int, int]:
    """How many are equal at their places, and how many there are."""
    pairs = [(x, y) for row, other in zip(found, expected, strict=True) for x, y in zip(row, other, strict=True)]
    return sum(x == y for x, y in pairs), len(pairs)


def agreement(cell: dict, engine: str, expected: list[list[int]] | None) -> str:
    if engine not in cell["engines"] or not expected:
        return ""
    equal, total = equal_ids(cell["engines"][engine]["ids"], expected)
    return "equal" if equal == total else f"{equal} of {total}"


def megabytes(engine: dict) -> str:
    return f"{engine['peak_rss_kb'] / 1024:.0f}"


def threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def markdown(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def machine_text(result: dict) -> str:
    m = result["machine"]
    others = sorted(cell["other_cores"] for cell in result["cells"])
    disturbed = sum(cores > BUSY for cores in others)
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['system']}, {m['date']}. Load average {m['load_before']:.1f} before and "
        f"{m['load_after']:.1f} after, with the comparison itself in it; other work, or the host of a virtual machine, "
        f"took more than {BUSY} cores in {disturbed} of {len(others)} cells, at most {others[-1]:.2f}."
    )


def versions_text(result: dict) -> str:
    return ", ".join(dict.fromkeys(result["versions"].values())) + f"; Python {result['machine']['python']}"


def workloads_text(result: dict) -> str:
    names = {cell["workload"] for cell in result["cells"]}
    texts = [f"{w.name}: {w.what}" for w in WORKLOADS if w.name in names]
    return "; ".join(texts + [f"cold: {COLD} from the start of a process to its exit"] * ("cold" in names))


def full(result: dict) -> str:
    """Everything: a table of times and one of ids and memory for each width."""
    engines = list(result["versions"])
    lines = [
        f"# {OURS} beside other engines",
        "",
        f"{result['model']}. Milliseconds: median (quartiles) over {result['rounds']} rounds in which the engines took "
        'turns. Ratio: the fastest other engine\'s median over ours, so above 1 ours is faster; "even" where the '
        "quartiles overlap. "
        f"Cells with a * had other work on the machine. {workloads_text(result)}.",
        "",
        machine_text(result),
        "",
        f"Versions: {versions_text(result)}.",
        "",
        LEFT_OUT,
    ]
    for dtype in dict.fromkeys(cell["dtype"] for cell in result["cells"]):
        cells = [cell for cell in result["cells"] if cell["dtype"] == dtype]
        names = [f"{c['workload']}, {threads(c['threads'])}{'*' if c['other_cores'] > BUSY else ''}" for c in cells]
        rows = [[name, *(times_of(c, e) for e in engines), verdict(c)[2]] for name, c in zip(names, cells, strict=True)]
        lines += ["", f"## {dtype}", "", *markdown(["", *engines, "ratio"], rows)]
        rows = []
        for name, cell in zip(names, cells, strict=True):
            if cell["workload"] == "cold":
                continue
            ids = [agreement(cell, engine, result["expected"][cell["workload"]]) for engine in engines]
            memory = [megabytes(cell["engines"][engine]) if engine in cell["engines"] else "" for engine in engines]
            rows.append([name, *ids, *memory])
        header = ["", *(f"ids, {e}" for e in engines), *(f"MB, {e}" for e in engines)]
        caption = "Ids beside those of transformers in f32, and peak memory of the process:"
        lines += ["", caption, "", *markdown(header, rows)]
    return "\n".join(lines) + "\n"


def readme(result: dict) -> str:
    """A row a workload, for the project's README: ours, the fastest other engine, the ratio; and where a peer wins."""
    columns = list(dict.fromkeys((cell["dtype"], cell["threads"]) for cell in result["cells"]))
    rows: dict[str, list[str]] = {}
    for cell in result["cells"]:
        row = rows.setdefault(cell["workload"], [cell["workload"], *("" for _ in columns)])
        row[1 + columns.index((cell["dtype"], cell["threads"]))] = compact(cell)
    header = ["", *(f"{dtype}, {threads(count)}" for dtype, count in columns)]
    memory = memory_text(result)
    starred = " A * marks them." if any(cell["other_cores"] > BUSY for cell in result["cells"]) else ""
    lines = [
        MARKERS[0],
        "Milliseconds (medians), ours / the fastest other engine's: how many times as long as ours that takes. "
        f"{workloads_text(result)}. {result['model']}.",
        "",
        *markdown(header, list(rows.values())),
        "",
        machine_text(result) + starred,
        "",
        f"A peer wins: {'; '.join(lost(result)) or 'nowhere in this run'}.",
        f"Ids that are those of transformers in f32: {ids_text(result)}.",
        *([f"Peak memory of A on one thread, MB: {memory}."] if memory else []),
        LEFT_OUT,
        f"Versions: {versions_text(result)}.",
        MARKERS[1],
    ]
    return "\n".join(lines) + "\n"


def compact(cell: dict) -> str:
    best, ratio, _ = verdict(cell)
    ours, theirs = (milliseconds(quartiles(cell["engines"][name]["times_ms"])[1]) for name in (OURS, best))
    shown = f"{ratio:.2f}" if ratio > 1 else f"**{ratio:.2f}**"
    return f"{ours} / {theirs} {SHORT[best]}: {shown}{'*' if cell['other_cores'] > BUSY else ''}"


def lost(result: dict) -> list[str]:
    """Each cell in which a peer's median is below ours."""
    found = []
    for cell in result["cells"]:
        best, ratio, text = verdict(cell)
        if ratio <= 1:
            even = ", even within the quartiles" if text.endswith("even") else ""
            found.append(f"{best} in {cell['workload']} ({cell['dtype']}, {threads(cell['threads'])}{even})")
    return found


def ids_text(result: dict) -> str:
    """How many ids of all workloads agree, by width and engine; the number of threads changes none of ours."""
    counts: dict[str, dict[str, list[int]]] = {}
    for cell in result["cells"]:
        expected = result["expected"].get(cell["workload"])
        for name, engine in cell["engines"].items() if expected else ():
            equal, total = equal_ids(engine["ids"], expected)
            sums = counts.setdefault(cell["dtype"], {}).setdefault(SHORT[name], [0, 0])
            sums[0], sums[1] = sums[0] + equal, sums[1] + total
    shares = {
        dtype: [
            f"{name} {'all' if equal == total else f'{equal / total:.0%}'}" for name, (equal, total) in sums.items()
        ]
        for dtype, sums in counts.items()
    }
    return "; ".join(f"{dtype} {', '.join(share)}" for dtype, share in shares.items())


def memory_text(result: dict) -> str:
    cells = [cell for cell in result["cells"] if cell["workload"] == "A" and cell["threads"] == 1]
    return "; ".join(
        f"{cell['dtype']} "
        + ", ".join(f"{SHORT[name]} {megabytes(engine)}" for name, engine in cell["engines"].items())
        for cell in cells
    )
