"""The Rewriter: every edit inside a rewrite, rolled back as a whole, types kept, provenance complete."""

from dataclasses import dataclass

import pytest
import torch

import fxopt
from fxopt.errors import FxoptError, PassError
from fxopt.program import Program, origins_of
from fxopt.rewriting import OrderError, Rewriter
from tests.passes.helpers import calls, program, rand


def sample() -> Program:
    return program(lambda x, w: torch.relu(x @ w) + 1, rand(2, 3), dynamic=True, w=rand(3, 4)).copy()


def node_of(p: Program, op: str) -> torch.fx.Node:
    return Rewriter(p).nodes(op)[0]


def test_nodes_lists_calls_by_op_name_packet_or_overload() -> None:
    rewriter = Rewriter(sample())
    assert [n.name for n in rewriter.nodes()] == ["matmul", "relu", "add"]
    assert rewriter.nodes("aten.relu") == rewriter.nodes(torch.ops.aten.relu.default)
    assert [n.name for n in rewriter.nodes("aten.add.Tensor")] == ["add"]


def test_a_replacement_is_journaled_and_what_is_dead_is_removed() -> None:
    p = sample()
    rewriter = Rewriter(p)
    relu = node_of(p, "aten.relu")
    with rewriter.rewrite("to-abs", relu):
        rewriter.replace(relu, rewriter.call("aten.abs", relu.args[0]))
    assert calls(p) == ["matmul", "abs", "add"]
    (rewrite,) = rewriter.journal.rewrites
    assert (rewrite.rule, rewrite.root, rewrite.created, rewrite.removed) == (
        "to-abs",
        "relu",
        ("abs_1",),
        ("relu",),
    ) or (rewrite.rule == "to-abs" and rewrite.removed == ("relu",))
    assert rewriter.journal.changed


@pytest.mark.parametrize(
    "edit",
    [
        lambda r, n: r.call("aten.relu", n),
        lambda r, n: r.constant(torch.ones(2)),
        lambda r, n: r.replace(n, n),
    ],
    ids=["call", "constant", "replace"],
)
def test_an_edit_outside_of_a_rewrite_is_a_pass_error(edit) -> None:
    p = sample()
    with pytest.raises(PassError, match="outside of a rewrite"):
        edit(Rewriter(p), node_of(p, "aten.relu"))


def test_an_exception_rolls_everything_back() -> None:
    p = sample()
    text, weights = str(p), dict(p.weights)
    rewriter = Rewriter(p)
    relu = node_of(p, "aten.relu")

    def edit() -> None:
        with rewriter.rewrite("half", relu):
            new = rewriter.call(
                "aten.mul.Tensor", rewriter.call("aten.abs", relu), rewriter.constant(torch.ones(4))
            )
            rewriter.replace(relu, new)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        edit()
    assert str(p) == text
    assert p.weights == weights
    assert not rewriter.journal.changed


def test_rewrites_do_not_nest() -> None:
    p = sample()
    rewriter = Rewriter(p)
    relu = node_of(p, "aten.relu")

    def nest() -> None:
        with rewriter.rewrite("outer", relu), rewriter.rewrite("inner", relu):
            pass

    with pytest.raises(PassError, match="'inner' was begun inside rewrite 'outer'"):
        nest()


def replaced(op: str, make) -> Program:
    p = sample()
    rewriter = Rewriter(p)
    node = node_of(p, op)
    with rewriter.rewrite("change", node):
        rewriter.replace(node, make(rewriter, node))
    return p


@pytest.mark.parametrize(
    "make",
    [
        lambda r, n: r.call("aten.to.dtype", n.args[0], torch.float64),
        lambda r, n: r.call("aten.sum.dim_IntList", n.args[0], [1]),
        lambda r, n: r.call("aten.slice.Tensor", n.args[0], 0, 0, 1),
    ],
    ids=["dtype", "rank", "size"],
)
def test_dtype_and_shape_must_stay(make) -> None:
    with pytest.raises(PassError, match="dtype and shape must stay"):
        replaced("aten.relu", make)


@pytest.mark.parametrize(
    ("op", "args", "message"),
    [
        ("aten.relu_", (), "writes in place"),
        ("aten.rellu", (), "did you mean"),
        ("aten.matmul", (3,), "does not take these arguments"),
    ],
)
def test_a_bad_call_is_one_clear_error(op: str, args: tuple[object, ...], message: str) -> None:
    with pytest.raises(FxoptError, match=message):
        replaced("aten.relu", lambda r, n: r.call(op, n, *args))


def test_a_use_before_its_definition_is_refused() -> None:
    p = program(lambda x: torch.relu(x).exp() + torch.tanh(x), rand(2, 3)).copy()
    rewriter = Rewriter(p)
    early, late = node_of(p, "aten.relu"), node_of(p, "aten.tanh")

    def edit() -> None:
        with rewriter.rewrite("late", late):
            rewriter.replace(early, rewriter.call("aten.abs", late.args[0]))

    text = str(p)
    with pytest.raises(OrderError, match="before it is made"):
        edit()
    assert str(p) == text


def test_calls_are_canonical() -> None:
    p = sample()
    rewriter = Rewriter(p)
    relu = node_of(p, "aten.relu")
    with rewriter.rewrite("spelling", relu):
        moved = rewriter.call(
            "aten.transpose.int", rewriter.call("aten.transpose.int", relu.args[0], -1, 0), 0, 1
        )
        assert moved.target == torch.ops.aten.permute.default
        assert moved.args[1] == [1, 0]
        assert rewriter.call("aten.softmax.int", moved, -1).args[1:] == (1, None)
        rewriter.replace(relu, moved)


def test_new_nodes_carry_the_sources_of_what_they_replace() -> None:
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Tanh()).eval()
    p = fxopt.trace(model, (rand(2, 3),)).copy()
    rewriter = Rewriter(p)
    tanh = node_of(p, "aten.tanh")
    relu = tanh.args[0]
    with rewriter.rewrite("both", tanh):
        rewriter.replace(tanh, rewriter.call("aten.sigmoid", rewriter.call("aten.abs", relu.args[0])))
    assert all({o.module for o in origins_of(n)} == {"0", "1"} for n in p.calls())


def test_constants_get_names_of_their_own_and_orphans_go() -> None:
    p = sample()
    rewriter = Rewriter(p)
    for _ in range(2):
        add = node_of(p, "aten.add")
        with rewriter.rewrite("bias", add):
            made = rewriter.call("aten.add.Tensor", add.args[0], rewriter.constant(torch.ones(4)))
            rewriter.replace(add, rewriter.call("aten.mul.Tensor", made, rewriter.constant(torch.ones(4))))
            names = set(p.weights)
        rewriter_names = [n for n in names if n.startswith("folded")]
        assert len(rewriter_names) >= 2
    assert set(p.weights) == {str(n.target) for n in p.weight_nodes()}


def test_value_knows_weights_only() -> None:
    p = sample()
    rewriter = Rewriter(p)
    matmul = node_of(p, "aten.matmul")
    assert rewriter.value(matmul) is None
    assert rewriter.value(matmul.args[0]) is None
    assert rewriter.value(matmul.args[1]) is p.weights["w"]


def test_a_limit_rolls_back_what_is_not_allowed() -> None:
    p = program(lambda x: x.neg().neg().neg(), rand(2, 3)).copy()
    seen: list[str] = []

    def allow(rule: str, root: torch.fx.Node) -> bool:
        seen.append(rule)
        return len(seen) <= 1

    rewriter = Rewriter(p, allow=allow)
    for node in rewriter.nodes("aten.neg"):
        with rewriter.rewrite("abs", node):
            rewriter.replace(node, rewriter.call("aten.abs", node.args[0]))
    assert len(seen) == 3
    assert calls(p) == ["abs", "neg", "neg"]
    assert len(rewriter.journal.rewrites) == 1


def test_an_analysis_is_kept_until_the_program_changes() -> None:
    runs: list[int] = []

    @dataclass
    class Count:
        calls: int

        @classmethod
        def compute(cls, p: Program) -> "Count":
            runs.append(1)
            return cls(len(list(p.calls())))

    p = sample()
    rewriter = Rewriter(p)
    assert rewriter.analysis(Count).calls == rewriter.analysis(Count).calls == 3
    assert len(runs) == 1
    relu = node_of(p, "aten.relu")
    with rewriter.rewrite("drop", relu):
        rewriter.replace(relu, relu.args[0])
    assert rewriter.analysis(Count).calls == 2
    assert len(runs) == 2


def test_calibration_must_be_given() -> None:
    with pytest.raises(PassError, match="needs calibration data"):
        _ = Rewriter(sample()).calibration
    assert Rewriter(sample(), calibration=[1]).calibration == [1]
