"""`Rewriter`: the only way to edit a Program.

Every edit stands in `with rewriter.rewrite("rule", root):`, the unit of provenance, statistics, undo and
bisection. An exception inside rolls the edits back; at the end the nodes made get the origins of what they
replace, and what is dead is removed.

>>> import torch
>>> from fxopt.frontend import trace
>>> class Twice(torch.nn.Module):
...     def forward(self, x):
...         return torch.relu(-(-x))
>>> program = trace(Twice().eval(), (torch.ones(2),))
>>> rewriter = Rewriter(program)
>>> for node in rewriter.nodes("aten.neg"):
...     inner = node.args[0]
...     if inner.target == node.target:
...         with rewriter.rewrite("double-negation", node):
...             rewriter.replace(node, inner.args[0])
>>> [n.name for n in rewriter.nodes()], rewriter.journal.counts()
(['relu'], {'double-negation': 1})
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch.fx import Node

from fxopt.errors import FxoptError, PassError
from fxopt.ops import canonical_arguments, is_pure, is_random, op_key
from fxopt.program import Origin, Program, fake_value, infer_value, origins_of, trained_as
from fxopt.program.text import value_text
from fxopt.report import Refusal
from fxopt.rewriting.calls import call_name, check_known, checked_arguments, checked_op, spelled
from fxopt.rewriting.edits import Analyses, Analysis, Edits, WeightNames, WeightNodes
from fxopt.rewriting.journal import Journal, Rewrite, note_rewrite
from fxopt.rewriting.ledger import Ledger
from fxopt.rewriting.quiet import quiet
from fxopt.rewriting.sameness import same_type

__all__ = ["Rewriter"]

_MAX_ORIGINS = 64
"""Of one node: chains that collapse onto one node would else carry origins without end."""

A = TypeVar("A", bound=Analysis)


class Rewriter:
    """Edits one program.

    Args:
        program: it is edited in place; the pass manager hands in a copy of the user's.
        allow: asked before each rewrite is kept, with its rule and root; what is not allowed is rolled back.
        calibration: batches of example inputs, for passes that declare that they need them.
        ledger: kept up to date, so that edits around the rewriter show.
        analyses: results of earlier passes over the same program.
    """

    def __init__(
        self,
        program: Program,
        *,
        allow: Callable[[str, Node], bool] | None = None,
        calibration: object = None,
        ledger: Ledger | None = None,
        analyses: Analyses | None = None,
    ) -> None:
        self.program = program
        self.journal = Journal()
        self.refusals: list[Refusal] = []
        self.attachments: list[object] = []
        self._freed: list[Node] = []
        """What lost a user to the last rewrite, and is still there."""
        self._allow = allow
        self._calibration = calibration
        self._ledger = ledger
        self._open: Edits | None = None
        self._analyses: Analyses = {} if analyses is None else analyses
        self._weights = WeightNodes(program, ledger)
        self._names = WeightNames(program)
        self._constants: dict[object, tuple[Node, object]] = {}
        """Constants by how they are computed and of which weights, with these: keys hold their identities."""

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
        """The calls of the graph in order, all or those of one op.

        Args:
            op: an overload, a packet (all its overloads), a name such as "aten.relu", or a function on sizes.

        Raises:
            PassError: there is no such op.
        """
        calls = self.program.calls()
        if op is None:
            return list(calls)
        if isinstance(op, torch._ops.OpOverloadPacket):
            op = op_key(op)
        if not isinstance(op, str):
            return [n for n in calls if n.target == op]
        found = [n for n in calls if (k := op_key(n.target)) == op or k.rsplit(".", 1)[0] == op]
        if not found:
            check_known(op)
        return found

    @contextlib.contextmanager
    def rewrite(self, rule: str, root: Node) -> Iterator[None]:
        """Opens a rewrite anchored at `root`; calls are inserted before it.

        Raises:
            PassError: another rewrite is open, the root is gone, or the edits leave a use before its
            definition.
        """
        if self._open is not None:
            raise PassError(
                f"rewrite {rule!r} was begun inside rewrite {self._open.rule!r}: finish that first"
            )
        if root._erased or root.graph is not self.program.graph:
            gone = "was removed by an earlier rewrite" if root._erased else "is a node of another program"
            raise PassError(f"rewrite {rule!r}: {root.name} {gone}; ask rewriter.alive(node)")
        edits = self._open = Edits(rule, root)
        try:
            yield
            edits.check_order()
            if self._allow is not None and edits.any and not self._allow(rule, root):
                self._roll_back(edits)
            else:
                self._commit(edits)
        except BaseException as error:
            self._roll_back(edits)
            note_rewrite(error, rule, root)
            raise
        finally:
            self._open = None

    @contextlib.contextmanager
    def before(self, node: Node) -> Iterator[None]:
        """Inside, calls go before `node` instead of the root."""
        edits = self._editing("before")
        place, edits.place = edits.place, node
        try:
            yield
        finally:
            edits.place = place

    @contextlib.contextmanager
    def instead(self, node: Node) -> Iterator[None]:
        """Inside, calls go before `node` and come from where it does, not from all that the rewrite replaces."""
        edits = self._editing("instead")
        source, edits.source = edits.source, origins_of(node)
        try:
            with self.before(node):
                yield
        finally:
            edits.source = source

    def alive(self, node: Node) -> bool:
        """Whether a node is still in the program; earlier rewrites of the pass may have removed it."""
        return not node._erased

    @property
    def _created(self) -> tuple[Node, ...]:
        """The calls and constants made in the open rewrite so far."""
        return tuple(self._editing("created").created)

    def call(self, op: object, *args: object, **kwargs: object) -> Node:
        """Makes a call before the root, in canonical form, its value inferred.

        Args:
            op: an overload, a name such as "aten.relu", or a Python function on sizes.
            args: nodes and literals.
            kwargs: nodes and literals.

        Raises:
            PassError: outside a rewrite, an op that is unknown, writes or draws random numbers, or arguments
                that the op does not take.
        """
        edits = self._editing("call")
        try:
            checked_arguments(self.program, (args, kwargs))
            target = checked_op(op, args, kwargs)
            with quiet():
                value = infer_value(self.program, target, args, kwargs)
                return spelled(self._create, target, args, kwargs, value)
        except PassError as error:
            raise PassError(f"rewrite {edits.rule!r}: {error}") from error
        except FxoptError:
            raise
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise PassError(
                f"rewrite {edits.rule!r}: {op_key(op)} does not take these arguments: {first}"
            ) from error

    def _emit(self, op: object, args: tuple[object, ...], kwargs: dict[str, object], value: object) -> Node:
        """Makes a call that is canonical already and whose value is known; for what was recorded.

        Raises:
            PassError: outside a rewrite.
        """
        edits = self._editing("call")
        graph = self.program.graph
        with graph.inserting_before(edits.place):
            node = graph.create_node("call_function", op, args, kwargs, name=call_name(op))  # type: ignore[arg-type]
        node.meta = {"val": value, "origins": tuple(edits.origins)}
        edits.own |= {node: edits.source} if edits.source else {}
        edits.created.append(node)
        return node

    def _create(
        self,
        op: object,
        args: tuple[object, ...],
        kwargs: dict[str, object] | None = None,
        *,
        value: object = None,
    ) -> Node:
        if isinstance(op, torch._ops.OpOverload):
            args, kwargs = canonical_arguments(op, args, kwargs or {})
        if value is None:
            value = infer_value(self.program, op, args, kwargs)
        node = self._emit(op, args, kwargs or {}, value)
        if is_random(node):
            raise PassError(f"{op_key(op)} draws random numbers, which no rewrite may add")
        return node

    def constant(
        self, tensor: torch.Tensor, *, name: str | None = None, successor_of: Node | None = None
    ) -> Node:
        """Adds a weight to the program and returns its node.

        Args:
            tensor: stored as it is, strides included.
            name: wished for; by default the root's module path and "folded". Made unique.
            successor_of: a weight whose names, tied ones too, it gets if that goes; it trains if that does.

        Raises:
            PassError: outside a rewrite, or no tensor that has values.
        """
        edits = self._editing("constant")
        if not isinstance(tensor, torch.Tensor) or isinstance(tensor, torch._subclasses.FakeTensor):
            raise PassError(
                f"rewrite {edits.rule!r}: constant() takes a tensor with values, got {type(tensor).__name__}"
            )
        module = next((o.module for o in edits.origins if o.module), "")
        unique = self._names.unused(name or (f"{module}.folded" if module else "folded"))
        graph = self.program.graph
        value = fake_value(self.program, tensor)
        with graph.inserting_before(edits.place):
            node = graph.create_node("get_attr", unique, name=self._names.identifier(unique))
        node.meta = {"val": value}
        if successor_of is not None:
            edits.successors[node] = (str(successor_of.target), successor_of.name)
            tensor = trained_as(tensor, [self.value(successor_of)])
        self._weights.add(node, tensor)
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
        if not isinstance(new, Node) or not isinstance(old, Node):
            raise PassError(f"rewrite {edits.rule!r}: replace() takes two nodes, got {old!r} and {new!r}")
        before, after = old.meta.get("val"), new.meta.get("val")
        if not same_type(before, after):
            raise PassError(
                f"rewrite {edits.rule!r} replaces {old.name}: {value_text(self.program, before)} "
                f"by {new.name}: {value_text(self.program, after)}; dtype and shape must stay"
            )
        self._substitute(old, new)

    def _substitute(self, old: Node, new: Node) -> None:
        """As `replace`, of two nodes whose types are known to agree."""
        edits = self._editing("replace")
        if old is new:
            return
        own = set(edits.created)
        users = [u for u in old.users if u not in own]
        strange = None if self._ledger is None else self._ledger.edited(users)
        if strange is not None:
            raise PassError(f"{strange.name} was edited around the Rewriter before rewrite {edits.rule!r}")
        edits.uses += [(u, u.args, dict(u.kwargs)) for u in users]
        edits.replaced.append(old)
        edits.origins.update(dict.fromkeys(origins_of(old)))
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user not in own)
        if self._ledger is not None:
            self._ledger.note(users)

    def same_type(self, a: object, b: object) -> bool:
        """Whether two values have one dtype, device and (provably) one shape."""
        return same_type(a, b)

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
        if not isinstance(result, kind):
            raise PassError(f"{kind.__name__}.compute made {type(result).__name__}, not {kind.__name__}")
        return result

    def attach(self, result: object) -> None:
        """Attaches a result (a plan, a table) to the run; it is found in `PipelineResult.attachments`."""
        self.attachments.append(result)

    def remove_dead(self, node: Node) -> None:
        """Removes, when the rewrite ends, a node without users and effects, and what only it used."""
        self._editing("remove_dead").dead.append(node)

    def _editing(self, what: str) -> Edits:
        if self._open is None:
            raise PassError(
                f"{what}() outside of a rewrite: edit inside `with rewriter.rewrite(rule, root):`"
            )
        return self._open

    def _roll_back(self, edits: Edits) -> None:
        for user, args, kwargs in reversed(edits.uses):
            user.args, user.kwargs = args, kwargs  # type: ignore[assignment]
        if self._ledger is not None:
            self._ledger.note(u for u, _, _ in edits.uses)
        for node in reversed(edits.created):
            if not node._erased:
                self._erase(node)

    def _commit(self, edits: Edits) -> None:
        ties = dict(self.program.ties)
        gone = self._remove_dead([*edits.replaced, *edits.dead, *edits.created])
        self._weights.inherit(edits.successors, ties)
        kept = [n for n in edits.created if not n._erased]
        removed = (
            gone if len(kept) == len(edits.created) else [n for n in gone if n not in set(edits.created)]
        )
        if not edits.uses and not removed:
            return
        for node in removed:
            edits.origins.update(dict.fromkeys(origins_of(node)))
        origins = tuple(edits.origins)[:_MAX_ORIGINS] or (Origin(op=edits.rule),)
        for node in kept:
            if node.op == "call_function":
                node.meta["origins"] = edits.own.get(node, origins)
        self.journal.touched.update([u for u, _, _ in edits.uses], kept, removed)
        if self._ledger is not None:
            self._ledger.note(kept)  # users were noted when they got their new arguments
            self._ledger.note(removed)
        names = (tuple([n.name for n in kept]), tuple([n.name for n in removed]))
        self.journal.rewrites.append(Rewrite(edits.rule, edits.root.name, *names, origins))
        self.program.touch()

    def _remove_dead(self, nodes: list[Node]) -> list[Node]:
        removed: list[Node] = []
        freed: dict[Node, None] = {}
        todo = list(nodes)
        while todo:
            node = todo.pop()
            if node._erased or node.users or node.op in ("placeholder", "output") or not is_pure(node):
                continue
            inputs = node.all_input_nodes
            self._erase(node)
            removed.append(node)
            freed.update(dict.fromkeys(inputs))
            todo += inputs
        self._freed = [n for n in freed if not n._erased]
        return removed

    def _erase(self, node: Node) -> None:
        self.program.graph.erase_node(node)
        if node.op == "get_attr":
            self._weights.drop(node)
