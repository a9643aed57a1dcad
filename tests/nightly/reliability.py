"""Writes docs/reliability.md from what fuzz, passes, zoo and mutants left in build/: `python -m tests.nightly.reliability`.

Runs of the fuzzer at several commits count together: those of earlier ones lie in build/fuzz-*.json. What figures do not
say, such as which hits are mended, stands in tests/nightly/remarks.json and goes under its heading.
"""

import datetime
import json
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
REMARKS = Path(__file__).with_name("remarks.json")
PAGE = ROOT / "docs" / "reliability.md"
_HEAD = """# Reliability

Written by `make nightly`; figures of one run, on the machine and at the commit that are named. `make fuzz SECONDS=...` and
`make mutants SECONDS=...` run one part each. What a check is, and how a hit becomes a file in `tests/regressions`:
[verification](verification.md).
"""


def read(name: str) -> dict[str, Any]:
    """A file of figures, empty if there is none."""
    path = ROOT / "build" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def read_lines(name: str) -> list[dict[str, Any]]:
    """A file of one JSON object a line, empty if there is none."""
    path = ROOT / "build" / name
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.startswith("{")]


def page(
    fuzz: list[dict[str, Any]],
    passes: list[dict[str, Any]],
    mutants: dict[str, Any],
    zoo: dict[str, Any],
    remarks: dict[str, list[str]],
) -> str:
    """The page's text."""
    said = {k: [*remarks.get(k, []), ""] for k in ("passes", "fuzz", "zoo", "mutants")}
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [_HEAD, f"Last run: {today}, torch {torch.__version__}, Python {platform.python_version()}.", ""]
    lines += [*_passes(passes), *said["passes"], *_fuzz(fuzz), *said["fuzz"], *_zoo(zoo), *said["zoo"]]
    return "\n".join([*lines, *_mutants(mutants, said["mutants"])]) + "\n"


def _passes(results: list[dict[str, Any]]) -> list[str]:
    lines = ["## Each pass over drawn programs", ""]
    if not results:
        return [*lines, "Not run.", ""]
    lines += [
        "`check_pass`, the pass's own patterns planted in most programs: contract, determinism, idempotence, dialect, values, "
        "and for one in twenty the file and every target. Seconds are those of a processor.",
        "",
        "| pass | programs | fired | rewrites | refused | seconds | |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in sorted(results, key=lambda r: str(r["pass"])):
        counts = result.get("counts", {})
        cells = [str(counts.get(k, "")) for k in ("programs", "fired", "rewrites", "refused")]
        failed = " ".join(str(result.get("failed", "")).split())[:200].replace("|", "/")
        lines.append(f"| `{result['pass']}` | {' | '.join(cells)} | {result['seconds']:.0f} | {failed} |")
    return [*lines, ""]


def _fuzz(runs: list[dict[str, Any]]) -> list[str]:
    lines = ["## Random pipelines over random programs", ""]
    if not runs:
        return [*lines, "Not run.", ""]
    each_run = (
        f"{r['programs']} programs in {r['seconds'] / 60:.0f} minutes at commit {r['commit']}" for r in runs
    )
    hits = [hit for r in runs for hit in r["hits"]]
    lines += [
        f"{', '.join(each_run)}; each by the oracles, {sum(r['lowered'] for r in runs)} of the results lowered to eager, "
        f"TorchScript and ONNX and verified there. {sum(r['seconds'] for r in runs) / 60:.0f} minutes in all. "
        f"Hits: {len(hits)}.",
        "",
        *(f"- {' '.join(hit.split())[:300]}" for hit in hits),
        *([""] if hits else []),
        "| pass | runs | fired | rewrites | refused | ms a run |",
        "|---|---|---|---|---|---|",
    ]
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        for name, tally in run["passes"].items():
            counts.setdefault(name, Counter()).update(tally)
    for name, t in sorted(counts.items()):
        each = 1000 * t["seconds"] / max(t["checked"], 1)
        lines.append(
            f"| `{name}` | {t['checked']} | {t['fired']} | {t['rewrites']} | {t['refused']} | {each:.2f} |"
        )
    return [*lines, ""]


def _zoo(figures: dict[str, Any]) -> list[str]:
    lines = ["## No false alarms over the zoo", ""]
    if not figures:
        return [*lines, "Not run.", ""]
    counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(figures["verdicts"].items()))
    return [
        *lines,
        f"{figures['models']} of {figures['of']} models on eager, TorchScript and ONNX at {figures['draws']} draws of inputs "
        f"each: {counts}.",
        *(f"- {alarm}" for alarm in figures["alarms"]),
        "",
    ]


def _mutants(figures: dict[str, Any], remarks: list[str]) -> list[str]:
    lines = ["## Mutants of passes and rewriting", ""]
    if not figures:
        return [*lines, "Not run.", *remarks]
    results = figures["results"]
    ends = Counter(r["end"] for r in results)
    lines += [
        f"{figures['tried']} of {figures['mutants']} mutants tried, in random order; of those not shown equivalent "
        f"{figures['killed']:.1%} were killed ({ends['timeout']} of them by time running out), in "
        f"{figures['seconds'] / max(figures['tried'], 1):.1f} s each on the mean. Equivalent, each with its reason in "
        f"`tests/nightly/equivalent_mutants.json`: {ends['equivalent']}. Survivors: {ends['survived']}; on lines that no test "
        f"runs: {ends['untested']}.",
        "",
        *remarks,
        "| file | tried | killed | survived | untested | equivalent |",
        "|---|---|---|---|---|---|",
    ]
    for file in sorted({r["file"] for r in results}):
        of = Counter(r["end"] for r in results if r["file"] == file)
        killed = of["killed"] + of["timeout"]
        lines.append(
            f"| `{file}` | {of.total()} | {killed} | {of['survived']} | {of['untested']} | {of['equivalent']} |"
        )
    if figures["tried"] < figures["mutants"]:
        lines += [
            "",
            "Of those not tried fewer may be killed: tests were written for what survived among these.",
        ]
    alive = [r for r in results if r["end"] in ("survived", "untested")]
    told = (
        f"- `{r['file']}:{r['line']}` in `{r['function']}`: `{r['before']}` -> `{r['after']}`" for r in alive
    )
    return [*lines, "", *told]


def main() -> int:
    earlier = [read(p.name) for p in sorted((ROOT / "build").glob("fuzz-*.json"))]
    fuzz = [run for run in (*earlier, read("fuzz.json")) if run]
    remarks = json.loads(REMARKS.read_text(encoding="utf-8"))
    text = page(fuzz, read_lines("passes.jsonl"), read("mutants.json"), read("zoo.json"), remarks)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
