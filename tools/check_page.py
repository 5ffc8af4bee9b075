#!/usr/bin/env python3
"""Opens a page of `tiny-t5 report --out` in headless Chromium: fails where a figure is missing or empty, where anything is asked for
from outside, where the page writes to the console, or where sorting and filtering do not work.

    tools/check_page.py report.html [FOLDER]      # with FOLDER, screenshots at 1280 and 390 pixels, light and dark

Needs Debian's `chromium` and nothing else of Python than its library.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# Runs in the page when all is loaded, and leaves its findings in the root element.
PROBE = """
<script>
{
const found = {figures: {}, errors: []};
for (const figure of document.querySelectorAll("figure")) {
  const shown = [...figure.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().width > 0);
  found.figures[figure.id] = shown.length === 1 ? shown[0].querySelectorAll("polygon, polyline, path, rect, line, text").length : -shown.length;
}
const table = document.getElementById("shapes"), rows = () => [...table.tBodies[0].rows];
const names = () => rows().map(row => row.cells[0].textContent.trim());
const before = names();
const heads = [...table.tHead.rows[0].cells], total = heads.findIndex(head => head.textContent.trim() === "total ms");
const values = () => rows().map(row => Number(row.cells[total].dataset.v));
const sorted = list => list.every((x, i) => i === 0 || list[i - 1] <= x);
heads[total].querySelector("button").click();
if (!sorted(values())) found.errors.push("rows are not sorted");
heads[total].querySelector("button").click();
if (!sorted(values().reverse())) found.errors.push("rows are not sorted the other way");
const filter = document.getElementById("filter");
filter.value = before[0].split(" ")[0];
filter.dispatchEvent(new Event("input"));
if (!rows().some(row => !row.hidden) || (before.length > 1 && new Set(before).size > 1 && rows().every(row => !row.hidden) && !before.every(name => name.includes(filter.value))))
  found.errors.push("the filter does not filter");
found.rows = before.length;
found.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
found.resources = performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:"));
document.documentElement.dataset.found = JSON.stringify(found);
}
</script>
"""
FIGURES = ["legend", "flops", "time", "roofline", "breakdown"]


def chromium(page: pathlib.Path, width: int, *more: str) -> subprocess.CompletedProcess:
    profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile.name}",
               "--enable-logging=stderr", "--log-level=0", "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={width},3600"]
    return subprocess.run([*command, *more, page.as_uri()], capture_output=True, text=True, timeout=120)


def main() -> None:
    page = pathlib.Path(sys.argv[1]).resolve()
    html = page.read_text()
    problems = []
    outside = re.findall(r"""(?:src|href|action)\s*=\s*["'](?!data:|#)[^"']*|@import[^;]*|url\((?!data:)[^)]*""", html)
    problems += [f"refers to {what!r}" for what in outside]
    with tempfile.TemporaryDirectory() as folder:
        probed = pathlib.Path(folder, "probed.html")
        probed.write_text(html.replace("</body>", PROBE + "</body>"))
        for width in (1280, 500):
            run = chromium(probed, width, "--dump-dom")
            console = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
            problems += [f"at {width}: {line}" for line in console]
            match = re.search(r'data-found="([^"]*)"', run.stdout)
            if not match:
                problems.append(f"at {width}: the page's script did not run to its end")
                continue
            found = json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&"))
            for figure in FIGURES:
                if found["figures"].get(figure, 0) < 5:
                    problems.append(f"at {width}: figure {figure} has {found['figures'].get(figure, 'nothing')}")
            problems += [f"at {width}: {error}" for error in found["errors"]]
            problems += [f"at {width}: loads {name}" for name in found["resources"]]
            if not found["rows"]:
                problems.append(f"at {width}: the table is empty")
            if found["wide"]:
                problems.append(f"at {width}: the page is wider than the screen")
    if len(sys.argv) > 2:
        os.makedirs(sys.argv[2], exist_ok=True)
        for width in (1280, 390):
            for scheme, flags in (("light", []), ("dark", ["--blink-settings=preferredColorScheme=0"])):
                shot = pathlib.Path(sys.argv[2], f"{width}-{scheme}.png").resolve()
                # Windows are not narrower than 500 pixels; frames are.
                framed = pathlib.Path(sys.argv[2], "framed.html").resolve()
                framed.write_text(f'<body style="margin:0"><iframe src="{page.as_uri()}" width={width} height=3600 style="border:0">')
                chromium(framed, width, f"--screenshot={shot}", *flags)
                framed.unlink()
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(1)
    print(f"{page.name}: {len(FIGURES)} figures, nothing from outside, a clean console")


main()
