"""What becomes of every entry of torch's operator database, and the table of it in `docs/ops.md`.

`python -m tests.lowering.coverage` runs all entries (three minutes) and writes `tests/data/ops.json` and `docs/ops.md` anew.
"""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

import fxopt
from tests.lowering.opdb import Entry, entries

__all__ = [
    "RECORD",
    "STATE",
    "TABLE",
    "TARGETS",
    "Row",
    "exported",
    "numbers",
    "outcome",
    "recorded",
    "refused",
    "table",
]

ROOT = Path(__file__).parents[2]
RECORD, TABLE = ROOT / "tests/data/ops.json", ROOT / "docs/ops.md"
TARGETS = ("eager", "torchscript", "onnx")
Row = dict[str, str]
"""`trace` and one key a target: `ok` or how it is lowered, else why not; `model` alone where torch.export refuses it."""

_EXCLUDED = {
    "only dense tensors": "sparse tensors",
    "depends on the values of a tensor": "a number out of a tensor",
    "writes into its input": "writes to its input",
    "updates the running statistics": "writes to its input",
    "memory that it does not write": "memory that nothing wrote",
}
"""Parts of the messages of refusals by design, and what the table calls them."""
STATE = "with state=True"


def outcome(entry: Entry) -> Row:
    """Traces, runs and lowers an entry by the public functions, artifacts verified, and compares each result with the model's.

    Raises:
        AssertionError: a result is wrong.
        Exception: anything that is no FxoptError.
    """
    row = {"trace": "ok"}
    try:
        program = fxopt.trace(entry.model, entry.inputs)
    except fxopt.FxoptError as error:
        if "state=True" not in str(error):
            return _refused(entry, str(error))
        row = {"trace": STATE}
        try:
            program = fxopt.trace(entry.model, entry.inputs, state=True)
        except fxopt.FxoptError as other:
            return _refused(entry, str(other))
    expected = _expected(entry, program)
    _assert_same(entry, expected, _seeded(program, entry))
    for target in TARGETS:
        try:
            artifact = fxopt.lower(program, target)
        except fxopt.FxoptError as error:
            row[target] = _reason(error)
            continue
        _assert_same(entry, expected, _seeded(artifact, entry))
        row[target] = _how(program) if target == "onnx" else "ok"
    return row


def _expected(entry: Entry, program: fxopt.Program) -> object:
    """The model's results, and what it makes of the inputs that it writes to."""
    torch.manual_seed(0)
    inputs = tuple(t.clone() for t in entry.inputs)
    result = entry.model(*inputs)
    names = [s.name for s in program.signature.tensor_inputs]
    return result, [inputs[names.index(name)] for name in program.signature.written_inputs()]


def _seeded(function: Callable[..., object], entry: Entry) -> object:
    torch.manual_seed(0)
    return function(*(t.clone() for t in entry.inputs))


def _refused(entry: Entry, message: str) -> Row:
    known = next((short for part, short in _EXCLUDED.items() if part in message), None)
    if not _exports(entry):
        return {"model": "torch.export refuses it"}
    return {"trace": known or f"failed: {message[:100]}"}


def _exports(entry: Entry) -> bool:
    try:
        with torch.no_grad():
            torch.export.export(entry.model, entry.inputs, strict=False)
    except Exception:  # whatever it is: the entry does not count then
        return False
    return True


def _reason(error: fxopt.FxoptError) -> str:
    text = str(error)
    if isinstance(error, fxopt.VerificationError):
        return "not equivalent on drawn inputs"
    if "has no rule" in text:
        return "no rule"
    return text.split("onnx: ", 1)[-1].split(" (opdb.py", 1)[0][:90]


def _how(program: fxopt.Program) -> str:
    """The weakest way among a program's ops."""
    ways = [_way(n) for n in program.calls()]
    return next((w for w in ("torchlib", "parts", "recipe") if w in ways), "rule")


def _way(node: Node) -> str:
    from fxopt.lowering.onnx.lower import lowered_by_torchlib
    from fxopt.lowering.onnx.recipes import find_recipe
    from fxopt.lowering.target import find_rule
    from fxopt.ops import op_key

    if find_rule("onnx", node.target) is not None or not isinstance(node.target, torch._ops.OpOverload):
        return "rule"
    if find_recipe(op_key(node.target)) is not None:
        return "recipe"
    return "torchlib" if lowered_by_torchlib(node) else "parts"


def _assert_same(entry: Entry, expected: object, got: object) -> None:
    a, b = pytree.tree_leaves(got), pytree.tree_leaves(expected)
    assert len(a) == len(b), entry.name
    for x, y in zip(a, b, strict=True):
        if not isinstance(y, torch.Tensor):
            assert x == y, entry.name
        else:
            torch.testing.assert_close(
                x, y, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda m: f"{entry.name}: {m}"
            )


def exported(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The entries that count: all that torch.export takes."""
    return {name: row for name, row in rows.items() if "trace" in row}


def refused(rows: Mapping[str, Row]) -> Counter[str]:
    """Of these, how many are refused for which reason of `_EXCLUDED`, which are by design."""
    return Counter(row["trace"] for row in rows.values() if row.get("trace") in _EXCLUDED.values())


def numbers(rows: Mapping[str, Row]) -> dict[str, int]:
    """How many of the exported entries are traced, without and with state, and lowered by each target."""
    every = exported(rows).values()
    lowered = {"ok", "rule", "recipe", "parts", "torchlib"}
    done = {
        "trace": sum(r["trace"] == "ok" for r in every),
        STATE: sum(r["trace"] in ("ok", STATE) for r in every),
    }
    return done | {t: sum(r.get(t) in lowered for r in every) for t in TARGETS}


def recorded() -> dict[str, Row]:
    """The rows as they were last written."""
    rows: dict[str, Row] = json.loads(RECORD.read_text())
    return rows


_HEAD = """# Ops and targets

Every entry of torch's own operator database (`torch.testing._internal.common_methods_invocations.op_db`) that takes float32,
with its first sample: traced, run, lowered to each target, the file verified and compared with the model. The command

    python -m tests.lowering.coverage

writes this page; a test holds it to what the code does.

{counts}

How ONNX is written: by a *rule* of fxopt's, by a *recipe* (a function of torch ops that have rules), by *parts* (torch's own
decomposition into ops that have rules) or by onnxscript's *torchlib*. The exporter of torch is not used. Any op of torch and
of a user's `torch.library` is run by the eager and the TorchScript target without a rule.

`torch.empty` and the like are refused where the result depends on what memory held before, since that is no function of the
inputs, and traced where the model writes all of it. Inputs that an entry writes to are left as they were; what they become is an
output more (`state.<input>`), compared like the others.

Entries that draw random numbers are compared from equal states of torch's generator. ONNX has neither torch's generator nor complex
numbers; complex values inside a model are written as pairs of real ones.
"""


def table(rows: Mapping[str, Row]) -> str:
    """The page."""
    every, done = len(exported(rows)), numbers(rows)
    reasons = ", ".join(f"{n} for {why}" for why, n in refused(rows).most_common())
    lines = [
        f"{len(rows)} entries; torch.export takes {every}, one of them where a branch that only raises is promised not to be "
        "taken. Of these",
        "",
        f"| traced | traced {STATE} | eager | TorchScript | ONNX |",
        "|---|---|---|---|---|",
        "| " + " | ".join(f"{100 * n / every:.1f}% ({n})" for n in done.values()) + " |",
        "",
        f"Of the {every}, {sum(refused(rows).values())} are refused by design, each with one `TraceError`: {reasons}.",
        f"All others are traced, those that draw random numbers, train or write to their inputs {STATE}.",
        "",
        "ONNX: " + ", ".join(f"{n} {way}" for way, n in _ways(rows)) + ".",
    ]
    body = [_line(name, row) for name, row in sorted(rows.items())]
    head = _HEAD.format(counts="\n".join(lines))
    return "\n".join(
        [head, "| entry | trace | eager | TorchScript | ONNX |", "|---|---|---|---|---|", *body, ""]
    )


def _ways(rows: Mapping[str, Row]) -> list[tuple[str, int]]:
    ways = Counter(r["onnx"] for r in exported(rows).values() if "onnx" in r)
    known = [(w, ways[w]) for w in ("rule", "recipe", "parts", "torchlib")]
    return [*known, ("none", sum(ways.values()) - sum(n for _, n in known))]


def _line(name: str, row: Row) -> str:
    if "model" in row:
        return f"| `{name}` | {row['model']} | | | |"
    cells = [row["trace"], *(row.get(t, "") for t in TARGETS)]
    return f"| `{name}` | " + " | ".join(c.replace("|", "/") for c in cells) + " |"


def main() -> None:
    """Writes the record and the page."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = {e.name: outcome(e) for e in entries()}
    RECORD.write_text(json.dumps(rows, indent=0, sort_keys=True) + "\n")
    TABLE.write_text(table(rows))


if __name__ == "__main__":
    main()
