"""Writes docs/reliability.md from what fuzz, passes, zoo and mutants left in build/: `python -m tests.nightly.reliability`."""

import datetime
import json
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
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
    fuzz: dict[str, Any], passes: list[dict[str, Any]], mutants: dict[str, Any], zoo: dict[str, Any]
) -> str:
    """The page's text."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [_HEAD, f"Last run: {today}, torch {torch.__version__}, Python {platform.python_version()}.", ""]
    return "\n".join([*lines, *_passes(passes), *_fuzz(fuzz), *_zoo(zoo), *_mutants(mutants)]) + "\n"


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


def _fuzz(figures: dict[str, Any]) -> list[str]:
    lines = ["## Random pipelines over random programs", ""]
    if not figures:
        return [*lines, "Not run.", ""]
    lines += [
        f"{figures['programs']} programs in {figures['seconds'] / 60:.0f} minutes at commit {figures['commit']}, each by the "
        "oracles; "
        f"{figures['lowered']} of the results lowered to eager, TorchScript and ONNX and verified there. "
        f"Hits: {len(figures['hits'])}.",
        "",
        *(f"- {' '.join(hit.split())[:300]}" for hit in figures["hits"]),
        *([""] if figures["hits"] else []),
        "| pass | runs | fired | rewrites | refused | ms a run |",
        "|---|---|---|---|---|---|",
    ]
    for name, t in sorted(figures["passes"].items()):
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


def _mutants(figures: dict[str, Any]) -> list[str]:
    lines = ["## Mutants of passes and rewriting", ""]
    if not figures:
        return [*lines, "Not run."]
    results = figures["results"]
    ends = Counter(r["end"] for r in results)
    lines += [
        f"{figures['tried']} of {figures['mutants']} mutants tried, in random order; of those not shown equivalent "
        f"{figures['killed']:.1%} were killed ({ends['timeout']} of them by time running out), in "
        f"{figures['seconds'] / max(figures['tried'], 1):.1f} s each on the mean. Equivalent, each with its reason in "
        f"`tests/nightly/equivalent_mutants.json`: {ends['equivalent']}. Survivors: {ends['survived']}; on lines that no test "
        f"runs: {ends['untested']}.",
        "",
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
    text = page(read("fuzz.json"), read_lines("passes.jsonl"), read("mutants.json"), read("zoo.json"))
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
