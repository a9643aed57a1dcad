"""`Target`: all that is particular to one lowering target, and the registry of targets and rules.

A target says which ops it has rules for, emits the file's content in memory, opens a written file as a runnable
artifact, and names the runner that executes its files in a fresh process. Rules are registered by op name, so that a user
can add one for an op of theirs:

    @fxopt.lowering_rule("onnx", "mylib.scale")
    def scale(builder, node): ...
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from torch.fx import Node

from fxopt.errors import LoweringError, nearest
from fxopt.lowering.artifact import Artifact
from fxopt.ops.info import op_key
from fxopt.program.program import Program
from fxopt.report import Coverage

__all__ = [
    "Emitted",
    "EmittedEntries",
    "LoweringRule",
    "Target",
    "find_rule",
    "get_target",
    "lowering_rule",
    "register_target",
    "target_names",
]

LoweringRule = Callable[..., object]
"""(builder of the target, node) -> what stands for the node's value in the target."""


@dataclass(frozen=True)
class Emitted:
    """A lowered program in memory.

    `content` is the main file; `data` the sibling data file's content where weights exceed what the main file can hold
    (then `data_name` is the file name that `content` refers to). `notes` go into the report. `fallback` is a plainer
    content, used if `content` fails verification (ONNX before simplification).
    """

    content: bytes
    notes: tuple[str, ...] = ()
    data: bytes | None = None
    data_name: str | None = None
    fallback: "Emitted | None" = None
    opset: int | None = None
    """Of an ONNX file."""


@dataclass(frozen=True)
class EmittedEntries:
    """Several lowered programs in memory: files by name, and in which of them each entry point is."""

    files: dict[str, bytes]
    entries: dict[str, str]
    notes: tuple[str, ...] = ()


class Target(ABC):
    """A lowering target."""

    name: str
    """As in `lower(program, name)`; variants are `family:variant`."""
    suffix: str
    """Of its files, with the dot."""
    runner: str
    """Which kind of worker process runs its files: "onnx", "onnx-as-written", "torchscript" or "eager"."""
    placement: str = "generic"
    """The name of a `Placement`: where its runtime wants values rounded."""

    @abstractmethod
    def has_rule(self, node: Node) -> bool:
        """Whether the target can lower this call."""

    @abstractmethod
    def emit(
        self, program: Program, *, opset: int | None = None, stem: str = "model", optimize: bool = True
    ) -> Emitted:
        """The file content of a program, all of whose ops have rules.

        `stem` names the file, for sibling data files; `optimize` allows rewriting of the emitted file that must be
        verified (onnxsim).
        """

    @abstractmethod
    def open(self, path: str) -> Artifact:
        """Opens a written file.

        Raises:
            ArtifactError: it is corrupt or not of this target.
        """

    def resolve_opset(self, opset: int | None) -> int | None:
        """The opset that a file will have; None for a target without opsets.

        Raises:
            LoweringError: one was asked for that the target does not offer.
        """
        if opset is not None:
            raise LoweringError(f"opset is an option of onnx; {self.name} has none")
        return None

    def lent_rule(self, node: Node) -> str:
        """Whose rule lowers a call, where it is not the target's own; empty for the target's own."""
        return ""

    def coverage(self, program: Program) -> Coverage:
        """Whose rules lower the program's ops."""
        lent = {n: whose for n in program.calls() if (whose := self.lent_rule(n))}
        others = {op_key(n.target): whose for n, whose in lent.items()}
        count = sum(1 for _ in program.calls())
        return Coverage(count, count - len(lent), others)

    def emit_entries(self, programs: Mapping[str, Program], *, opset: int | None = None) -> EmittedEntries:
        """The files of several entry points over one set of weights.

        Args:
            programs: by entry point; equal weights are the same objects under the same names.
            opset: of ONNX.

        Raises:
            LoweringError: the target has no files of several entry points.
        """
        raise LoweringError(f"{self.name} has no files of several entry points: lower each program by itself")

    def open_entry(self, path: str, entry: str) -> Artifact:
        """Opens one entry point of a file; by default a file has one.

        Raises:
            ArtifactError: it is corrupt, or the entry point is not in it.
        """
        return self.open(path)

    def missing(self, program: Program) -> list[Node]:
        """The calls without a rule, in graph order."""
        return [n for n in program.calls() if not self.has_rule(n)]


_TARGETS: dict[str, Target] = {}
_RULES: dict[tuple[str, str], LoweringRule] = {}


def register_target(target: Target) -> Target:
    """Adds a target under its name.

    Raises:
        LoweringError: another target has the name.
    """
    known = _TARGETS.get(target.name)
    if known is not None and type(known).__qualname__ != type(target).__qualname__:
        raise LoweringError(f"the target {target.name!r} is registered by {type(known).__module__} already")
    _TARGETS[target.name] = target
    return target


def target_names() -> list[str]:
    """The registered targets, the built-in ones and those of installed packages."""
    _load()
    return sorted(_TARGETS)


def get_target(name: "str | Target") -> Target:
    """The target of a name.

    Raises:
        LoweringError: there is none; names the nearest.
    """
    if isinstance(name, Target):
        return name
    _load()
    if not isinstance(name, str):
        raise LoweringError(f"expected the name of a target ({', '.join(sorted(_TARGETS))}), got {name!r}")
    if name not in _TARGETS:
        close = nearest(name, _TARGETS) or nearest(name.partition(":")[0], _TARGETS)
        hint = f"; did you mean {close!r}?" if close else ""
        raise LoweringError(f"unknown target {name!r}{hint} (targets: {', '.join(sorted(_TARGETS))})")
    return _TARGETS[name]


def lowering_rule(target: str, *ops: str) -> Callable[[LoweringRule], LoweringRule]:
    """Registers a rule of a target family ("onnx", "torchscript", "eager") for ops named as packet or overload."""

    def register(rule: LoweringRule) -> LoweringRule:
        for op in ops:
            _RULES[target, op] = rule
        return rule

    return register


def find_rule(target: str, op: object) -> LoweringRule | None:
    """The rule of an op: its overload's, else its packet's, else None."""
    key = op_key(op)
    rule = _RULES.get((target, key))
    if rule is None and key.count(".") >= 2:
        rule = _RULES.get((target, key.rsplit(".", 1)[0]))
    return rule


_loaded = False


def _load() -> None:
    global _loaded
    if _loaded:
        return
    _loaded = True
    from fxopt.lowering.builtin import register

    register()
    for entry in entry_points(group="fxopt.targets"):
        register_target(entry.load()())
