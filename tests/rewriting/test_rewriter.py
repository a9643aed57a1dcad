"""The Rewriter: every edit inside a rewrite, rolled back as a whole, types kept, provenance complete."""

from dataclasses import dataclass

import pytest
import torch

import fxopt
from fxopt.errors import FxoptError, PassError
from fxopt.program import Program, origins_of
from fxopt.rewriting import OrderError, Rewriter
from fxopt.rewriting.edits import WeightNames
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


class TestCalls:
    """What `call` takes, and what it says to the rest."""

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (
                lambda r, n: r.call("aten.relu_", n),
                "aten.relu_.default writes in place; use its functional twin",
            ),
            (lambda r, n: r.call(torch.ops.aten.add_.Tensor, n, n), "writes in place"),
            (lambda r, n: r.call("aten.rellu", n), "unknown op 'aten.rellu'; did you mean .*'aten.relu'"),
            (lambda r, n: r.call("aten.add.Tensr", n, n), "unknown overload 'aten.add.Tensr'"),
            (lambda r, n: r.call("relu", n), "expected an op name such as"),
            (lambda r, n: r.call("aten.rand_like", n), "draws random numbers"),
            (lambda r, n: r.call("aten.dropout", n, 0.5, True), "draws random numbers"),
            (
                lambda r, n: r.call(torch.relu, n),
                "is neither an op nor a function on sizes; give a name such as",
            ),
            (lambda r, n: r.call("aten.matmul", n, 3), "no overload|does not take these arguments"),
            (lambda r, n: r.call("aten.matmul", n, n), r"does not take these arguments: .*reduction dim"),
            (lambda r, n: r.call("aten.relu"), "no overload of aten.relu takes"),
            (
                lambda r, n: r.call("aten.add", n, torch.ones(4)),
                r"store it with rewriter\.constant\(tensor\)",
            ),
            (lambda r, n: r.call("aten.reshape", n, list(n.meta["val"].shape)), "read it with rewriter.call"),
            (
                lambda r, n: r.call("aten.relu", node_of(sample(), "aten.relu")),
                "is a node of another program",
            ),
        ],
    )
    def test_a_bad_call_is_one_clear_pass_error(
        self, make, message: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(PassError, match=message) as error:
            replaced("aten.relu", make)
        assert str(error.value).startswith("rewrite 'change': ")
        assert "\n" not in str(error.value)
        assert "Traceback" not in capfd.readouterr().err  # torch's log of its own complaint

    def test_an_erased_node_is_no_argument_and_no_root(self) -> None:
        p = program(lambda x: x.neg().neg().exp(), rand(2)).copy()
        rewriter = Rewriter(p)
        first, second = rewriter.nodes("aten.neg")
        exp = node_of(p, "aten.exp")
        with rewriter.rewrite("drop", second):
            rewriter.replace(second, first.args[0])
        assert not rewriter.alive(second)
        assert not rewriter.alive(first)
        assert rewriter.alive(exp)

        def again() -> None:
            with rewriter.rewrite("again", first):
                pass

        with pytest.raises(PassError, match=r"neg was removed by an earlier rewrite; ask rewriter\.alive"):
            again()

        def use() -> None:
            with rewriter.rewrite("use", exp):
                rewriter.call("aten.exp", first)

        with pytest.raises(PassError, match="the argument neg was removed"):
            use()

    def test_a_root_of_another_program(self) -> None:
        other = node_of(sample(), "aten.relu")

        def edit() -> None:
            with Rewriter(sample()).rewrite("far", other):
                pass

        with pytest.raises(PassError, match="relu is a node of another program"):
            edit()

    def test_functions_on_sizes_are_called_as_they_are(self) -> None:
        import operator

        p = sample()
        rewriter = Rewriter(p)
        add = node_of(p, "aten.add")
        with rewriter.rewrite("sizes", add):
            rows = rewriter.call("aten.sym_size", add.args[0], 0)
            twice = rewriter.call(operator.mul, rows, 2)
            flat = rewriter.call("aten.reshape", add.args[0], [twice, -1])
            assert p.dim(flat.meta["val"].shape[0]) == "2*batch"

    def test_calls_may_go_before_another_node(self) -> None:
        p = sample()
        rewriter = Rewriter(p)
        add, relu = node_of(p, "aten.add"), node_of(p, "aten.relu")
        with rewriter.rewrite("early", add):
            with rewriter.before(relu):
                made = rewriter.call("aten.abs", relu.args[0])
            rewriter.replace(relu, made)
        assert calls(p) == ["matmul", "abs", "add"]

    def test_a_call_before_its_argument_is_refused(self) -> None:
        p = sample()
        rewriter = Rewriter(p)
        add, relu = node_of(p, "aten.add"), node_of(p, "aten.relu")
        text = str(p)

        def edit() -> None:
            with rewriter.rewrite("early", relu):
                rewriter.replace(relu, rewriter.call("aten.sub", add, add))

        with pytest.raises(OrderError, match="sub would use add before it is made"):
            edit()
        assert str(p) == text


class TestNodes:
    def test_by_packet_function_and_name(self) -> None:
        p = program(lambda x: x.reshape(x.shape[0] * 2, -1).sum(0), rand(2, 4), dynamic=True).copy()
        import operator

        rewriter = Rewriter(p)
        assert [n.target for n in rewriter.nodes(operator.mul)] == [operator.mul]
        assert rewriter.nodes(torch.ops.aten.sum) == rewriter.nodes("aten.sum") != []
        assert rewriter.nodes("aten.sum.default") == []

    @pytest.mark.parametrize("name", ["aten.rellu", "aten.add.Tensr", "fxopt_missing"])
    def test_a_name_that_is_no_op_is_an_error(self, name: str) -> None:
        rewriter = Rewriter(sample())
        if name.startswith("aten"):
            with pytest.raises(PassError, match=f"nodes\\('{name}'\\): unknown o.*did you mean"):
                rewriter.nodes(name)
        else:
            assert rewriter.nodes(f"{name}.op") == []  # its library is not loaded: the program can't have it


class TestConstants:
    def names(self, wish: str | None, **weights: torch.Tensor) -> str:
        p = program(lambda x, **w: x.relu() + sum(t.sum() for t in w.values()), rand(3), **weights).copy()
        rewriter = Rewriter(p)
        relu = node_of(p, "aten.relu")
        with rewriter.rewrite("name", relu):
            node = rewriter.constant(torch.zeros(3), name=wish)
            rewriter.replace(relu, rewriter.call("aten.add.Tensor", relu.args[0], node))
        p.graph_module  # noqa: B018  (a name that another's module would shadow fails here)
        return str(node.target)

    def test_names_are_unique_and_never_above_or_below_another(self) -> None:
        assert self.names(None) == "folded"
        assert self.names("w", w=torch.ones(2)) == "w_1"
        assert self.names("w.scale", w=torch.ones(2)) == "w.scale_1" or "." not in self.names(
            "w.scale", w=torch.ones(2)
        )
        assert self.names("a..b.") == "a.b"
        assert self.names("...") == "folded"

    def test_a_module_path_is_the_default(self) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()).eval()
        p = fxopt.trace(model, (rand(2, 3),)).copy()
        rewriter = Rewriter(p)
        relu = node_of(p, "aten.relu")
        made: list[str] = []
        with rewriter.rewrite("name", relu):
            made += [str(rewriter.constant(torch.zeros(3)).target) for _ in range(2)]
        assert made == ["1.folded", "1.folded_1"]
        assert set(p.weights) == {"0.weight", "0.bias"}  # nothing used them

    @pytest.mark.parametrize("thing", [3, None, "fake"])
    def test_only_a_tensor_with_values_is_stored(self, thing: object) -> None:
        p = sample()
        rewriter = Rewriter(p)
        relu = node_of(p, "aten.relu")

        def edit() -> None:
            with rewriter.rewrite("store", relu):
                rewriter.constant(relu.meta["val"] if thing == "fake" else thing)  # type: ignore[arg-type]

        with pytest.raises(PassError, match=r"constant\(\) takes a tensor with values, got"):
            edit()

    def test_strides_are_kept(self) -> None:
        p = sample()
        rewriter = Rewriter(p)
        relu = node_of(p, "aten.relu")
        tensor = torch.zeros(4, 2).t()
        with rewriter.rewrite("store", relu):
            node = rewriter.constant(tensor)
            rewriter.replace(
                relu, rewriter.call("aten.add.Tensor", relu.args[0], rewriter.call("aten.sum", node))
            )
            assert rewriter.value(node) is tensor


class TestWeights:
    def test_an_orphan_goes_with_its_ties(self) -> None:
        class Tied(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a = torch.nn.Parameter(rand(3))
                self.b = self.a

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (x + self.a) * self.b

        p = fxopt.trace(Tied().eval(), (rand(3),)).copy()
        assert len(p.weights) == len(p.ties) == 1
        rewriter = Rewriter(p)
        for op in ("aten.mul", "aten.add"):
            node = node_of(p, op)
            with rewriter.rewrite("drop", node):
                rewriter.replace(node, node.args[0])
        assert (p.weights, p.ties) == ({}, {})
        p(rand(3))

    def test_a_rewrite_that_was_not_allowed_leaves_the_weights(self) -> None:
        p = sample()
        text, weights = str(p), dict(p.weights)
        rewriter = Rewriter(p, allow=lambda rule, root: False)
        matmul = node_of(p, "aten.matmul")
        with rewriter.rewrite("fold", matmul):
            made = rewriter.call("aten.matmul", matmul.args[0], rewriter.constant(torch.zeros(3, 4)))
            rewriter.replace(matmul, made)
        assert (str(p), p.weights) == (text, weights)
        assert not rewriter.journal.changed
        with rewriter.rewrite("dead", matmul):
            rewriter.remove_dead(matmul)
        assert str(p) == text


def test_an_effect_is_not_removed() -> None:
    p = program(lambda x: (x.relu(), x.neg())[0], rand(2)).copy()
    rewriter = Rewriter(p)
    relu = node_of(p, "aten.relu")
    with rewriter.rewrite("dead", relu):
        rewriter.remove_dead(relu)
    assert calls(p) == ["relu", "neg"]  # it is used: removing what is dead does nothing
    assert not rewriter.journal.changed


def test_origins_are_bounded() -> None:
    model = torch.nn.Sequential(*(torch.nn.ReLU() for _ in range(80))).eval()
    p = fxopt.trace(model, (rand(2),)).copy()
    rewriter = Rewriter(p)
    for node in rewriter.nodes("aten.relu")[1:]:
        with rewriter.rewrite("merge", node):
            rewriter.replace(node, rewriter.call("aten.relu", node.args[0].args[0]))
    (last,) = p.calls()
    assert len(origins_of(last)) == 64


@pytest.mark.parametrize(("name", "node"), [("0.weight", "_0_weight"), ("layer.w", "layer_w"), ("", "_")])
def test_a_weight_node_is_named_by_an_identifier(name: str, node: str):
    assert WeightNames.identifier(name) == node and node.isidentifier()
