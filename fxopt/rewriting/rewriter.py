"""`Rewriter`: the only way to edit a Program.

Every edit stands in `with rewriter.rewrite("rule", root):`, the unit of provenance, statistics, undo and
bisection. An exception inside rolls the edits back; at the end the nodes made get the origins of what they
replace, and what is dead is removed.

    with rewriter.rewrite("double-negation", node):
        rewriter.replace(node, node.args[0].args[0])
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch
from torch.fx import Node

from fxopt.errors import FxoptError, PassError
from fxopt.ops import canonical_arguments, is_mutating, is_pure, op_key, resolve_op
from fxopt.ops.spelling import canonical_call
from fxopt.program.inference import fake_value, infer_value, value_key
from fxopt.program.program import Origin, Program, origins_of
from fxopt.program.text import value_text
from fxopt.report import Refusal
from fxopt.rewriting.journal import Journal, Rewrite

__all__ = ["Analysis", "OrderError", "Rewriter"]


class OrderError(PassError):
    """A rewrite would leave a use before its definition."""


class Analysis(Protocol):
    """A fact computed over a whole program; cached by the rewriter and dropped when the program changes."""

    @classmethod
    def compute(cls, program: Program) -> "Analysis":
        """Computes it."""


A = TypeVar("A", bound=Analysis)


class _Open:
    """The edits of the rewrite that is being made."""

    def __init__(self, rule: str, root: Node) -> None:
        self.rule, self.root = rule, root
        self.created: list[Node] = []
        self.replaced: list[Node] = []
        self.dead: list[Node] = []
        self.uses: list[tuple[Node, tuple[object, ...], dict[str, object]]] = []
        self.origins: list[Origin] = list(origins_of(root))


class Rewriter:
    """Edits one program.

    Args:
        program: it is edited in place; the pass manager hands in a copy of the user's.
        allow: asked before each rewrite is kept, with the running number of it; a rewrite that is not allowed
            is rolled
            back (bisection).
        calibration: batches of example inputs, for passes that declare that they need them.
    """

    def __init__(
        self,
        program: Program,
        *,
        allow: Callable[[str, Node], bool] | None = None,
        calibration: object = None,
    ) -> None:
        self.program = program
        self.journal = Journal()
        self.refusals: list[Refusal] = []
        self.attachments: list[object] = []
        self._allow = allow
        self._calibration = calibration
        self._open: _Open | None = None
        self._analyses: dict[type, tuple[int, object]] = {}
        self._weights = {str(n.target): n for n in program.weight_nodes()}

    @property
    def calibration(self) -> object:
        """The calibration data.

        Raises:
            PassError: the run was given none.
        """
        if self._calibration is None:
            raise PassError("this pass needs calibration data: pass calibration=")
        return self._calibration

    def nodes(self, op: object = None) -> list[Node]:
        """The calls of the graph in order, all or those of one op (an overload, or a name such as "aten.relu")."""
        calls = self.program.calls()
        if op is None:
            return list(calls)
        if isinstance(op, torch._ops.OpOverload) or callable(op):
            return [n for n in calls if n.target == op]
        key = str(op)
        return [n for n in calls if (k := op_key(n.target)) == key or k.rsplit(".", 1)[0] == key]

    @contextlib.contextmanager
    def rewrite(self, rule: str, root: Node) -> Iterator[None]:
        """Opens a rewrite anchored at `root`; calls are inserted before it.

        Raises:
            PassError: another rewrite is open, or the edits leave a use before its definition.
        """
        if self._open is not None:
            raise PassError(
                f"rewrite {rule!r} was begun inside rewrite {self._open.rule!r}: finish that first"
            )
        edits = self._open = _Open(rule, root)
        try:
            yield
            self._check_order(edits)
            if self._allow is not None and (edits.replaced or edits.dead) and not self._allow(rule, root):
                self._roll_back(edits)
                return
            self._commit(edits)
        except BaseException:
            if self._open is not None:
                self._roll_back(edits)
            raise
        finally:
            self._open = None

    def call(self, op: object, *args: object, **kwargs: object) -> Node:
        """Makes a call before the root, in canonical form, its value inferred.

        Args:
            op: an overload, a name such as "aten.relu", or a Python function on sizes.
            args: nodes and literals.
            kwargs: nodes and literals.

        Raises:
            PassError: outside a rewrite, an op that writes, or arguments that the op does not take.
        """
        edits = self._editing("call")
        target = (
            resolve_op(op, args, kwargs)
            if isinstance(op, (str, torch._ops.OpOverload, torch._ops.OpOverloadPacket))
            else op
        )
        if is_mutating(target):
            raise PassError(
                f"rewrite {edits.rule!r}: {op_key(target)} writes in place; use its functional twin"
            )
        try:
            value = infer_value(self.program, target, args, kwargs)
            result = canonical_call(self._create, target, args, kwargs, value)
        except FxoptError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PassError(
                f"rewrite {edits.rule!r}: {op_key(target)} does not take these arguments: {first}"
            ) from error
        if not isinstance(result, Node):
            raise PassError(f"rewrite {edits.rule!r}: {op_key(target)} makes {result!r}, not a node")
        return result

    def _create(
        self,
        op: object,
        args: tuple[object, ...],
        kwargs: dict[str, object] | None = None,
        *,
        value: object = None,
    ) -> Node:
        edits = self._editing("call")
        if isinstance(op, torch._ops.OpOverload):
            args, kwargs = canonical_arguments(op, args, kwargs or {})
        if value is None:
            value = infer_value(self.program, op, args, kwargs)
        graph = self.program.graph
        name = (
            op_key(op).split(".")[1]
            if isinstance(op, torch._ops.OpOverload)
            else getattr(op, "__name__", "call")
        )
        with graph.inserting_before(edits.root):
            node = graph.create_node("call_function", op, args, kwargs or {}, name=name)  # type: ignore[arg-type]
        node.meta = {"val": value, "origins": tuple(edits.origins)}
        edits.created.append(node)
        return node

    def constant(self, tensor: torch.Tensor, *, name: str | None = None) -> Node:
        """Adds a weight to the program and returns its node.

        Args:
            tensor: stored as it is, strides included.
            name: wished for; by default the root's module path and "folded". Made unique.

        Raises:
            PassError: outside a rewrite.
        """
        edits = self._editing("constant")
        module = next((o.module for o in edits.origins if o.module), "")
        base = name or (f"{module}.folded" if module else "folded")
        unique, i = base, 0
        while unique in self.program.weights or unique in self.program.ties:
            i += 1
            unique = f"{base}_{i}"
        graph = self.program.graph
        value = fake_value(self.program, tensor)
        with graph.inserting_before(edits.root):
            node = graph.create_node("get_attr", unique, name=_identifier(unique))
        node.meta = {"val": value}
        self.program.weights[unique] = tensor
        self._weights[unique] = node
        edits.created.append(node)
        return node

    def value(self, node: object) -> torch.Tensor | None:
        """The tensor of a weight or folded constant, else None."""
        if isinstance(node, Node) and node.op == "get_attr":
            return self.program.weights.get(str(node.target))
        return None

    def replace(self, old: Node, new: Node) -> None:
        """Makes every use of `old` a use of `new`, but for the calls made in this rewrite.

        Raises:
            PassError: outside a rewrite, or the two differ in dtype or shape.
        """
        edits = self._editing("replace")
        before, after = old.meta.get("val"), new.meta.get("val")
        if not self.same_type(before, after):
            raise PassError(
                f"rewrite {edits.rule!r} replaces {old.name}: {value_text(self.program, before)} "
                f"by {new.name}: {value_text(self.program, after)}; dtype and shape must stay"
            )
        if old is new:
            return
        own = set(edits.created)
        edits.uses += [(u, u.args, dict(u.kwargs)) for u in old.users if u not in own]
        edits.replaced.append(old)
        edits.origins += [o for o in origins_of(old) if o not in edits.origins]
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in own)

    def same_type(self, a: object, b: object) -> bool:
        """Whether two values have one dtype, device and (provably) one shape."""
        if value_key(a) == value_key(b):
            return True
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            return len(a) == len(b) and all(self.same_type(x, y) for x, y in zip(a, b, strict=True))
        if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)):
            return _same_size(a, b)
        if (a.dtype, a.device, a.dim()) != (b.dtype, b.device, b.dim()):
            return False
        return all(_same_size(x, y) for x, y in zip(a.shape, b.shape, strict=True))

    def refuse(self, node: Node, why: str, *, rule: str = "") -> None:
        """Notes that a rewrite was considered at a node and not made, and why."""
        where = "; ".join(map(str, origins_of(node)))
        self.refusals.append(Refusal(rule=rule, node=node.name, reason=why, where=where))

    def analysis(self, kind: type[A]) -> A:
        """The analysis of a kind, computed once and again after changes."""
        found = self._analyses.get(kind)
        if found is None or found[0] != self.program.version:
            found = (self.program.version, kind.compute(self.program))
            self._analyses[kind] = found
        result = found[1]
        assert isinstance(result, kind)
        return result

    def attach(self, result: object) -> None:
        """Attaches a result (a plan, a table) to the run; it is found in `PipelineResult.attachments`."""
        self.attachments.append(result)

    def _editing(self, what: str) -> _Open:
        if self._open is None:
            raise PassError(
                f"{what}() outside of a rewrite: edit inside `with rewriter.rewrite(rule, root):`"
            )
        return self._open

    def _check_order(self, edits: _Open) -> None:
        """A call made before the root may stand behind an earlier user of what it replaces."""
        for user, _, _ in edits.uses:
            for argument in user.all_input_nodes:
                if user < argument:
                    raise OrderError(
                        f"rewrite {edits.rule!r} at {edits.root.name}: {user.name} would use {argument.name} before it is "
                        "made; anchor the rewrite at the earliest node that it replaces"
                    )

    def _roll_back(self, edits: _Open) -> None:
        for user, args, kwargs in reversed(edits.uses):
            user.args, user.kwargs = args, kwargs  # type: ignore[assignment]
        for node in reversed(edits.created):
            self._erase(node)
        self._open = None

    def _commit(self, edits: _Open) -> None:
        removed = self._remove_dead([*edits.replaced, *edits.dead, *edits.created])
        if not edits.replaced and not removed:
            return
        self.journal.touched.update(u for u, _, _ in edits.uses)
        self.journal.touched.update(edits.created)
        kept = [n for n in edits.created if not n._erased]
        names = tuple(n.name for n in removed if n not in edits.created)
        for node in removed:
            edits.origins += [o for o in origins_of(node) if o not in edits.origins]
        origins = tuple(edits.origins) or (Origin(op=edits.rule),)
        for node in kept:
            if node.op == "call_function":
                node.meta["origins"] = origins
        self.journal.rewrites.append(
            Rewrite(edits.rule, edits.root.name, tuple(n.name for n in kept), names, origins)
        )
        self.program.touch()

    def remove_dead(self, node: Node) -> None:
        """Removes, when the rewrite ends, a node that nothing uses and that has no effect, and what is dead then."""
        self._editing("remove_dead").dead.append(node)

    def _remove_dead(self, nodes: list[Node]) -> list[Node]:
        removed: list[Node] = []
        todo = list(nodes)
        while todo:
            node = todo.pop()
            if node._erased or node.users or node.op in ("placeholder", "output"):
                continue
            if not is_pure(node):
                continue
            inputs = node.all_input_nodes
            self._erase(node)
            removed.append(node)
            todo += inputs
        self.journal.touched.update(removed)
        return removed

    def _erase(self, node: Node) -> None:
        self.program.graph.erase_node(node)
        if node.op == "get_attr" and self._weights.get(str(node.target)) is node:
            name = str(node.target)
            del self._weights[name]
            self.program.weights.pop(name, None)
            for alias in [a for a, n in self.program.ties.items() if n == name]:
                del self.program.ties[alias]


def _same_size(a: object, b: object) -> bool:
    """Whether two sizes are equal for every value of the symbols."""
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return (
            isinstance(a, (int, torch.SymInt))
            and isinstance(b, (int, torch.SymInt))
            and statically_known_true(a == b)
        )
    return type(a) is type(b) and a == b


def _identifier(name: str) -> str:
    text = "".join(c if c.isalnum() else "_" for c in name)
    return f"_{text}" if not text or text[0].isdigit() else text
