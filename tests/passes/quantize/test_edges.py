"""Which calls run on integers with `coverage=full`, and of calls that read one value twice or give several."""

import pytest
import torch
import torch.nn.functional as F

from fxopt.lowering import lower
from fxopt.optimizer import run_pipeline
from fxopt.passes.quantize._edges import Contraction, _products, contraction_of, may_overflow
from fxopt.passes.quantize._placement import placement_of
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.testing import check_pass
from tests.passes.helpers import calls, program, rand, reasons

X = rand(8, 6)
Q = "fake_quantize"


def rounded(before: Program, **options: object) -> Program:
    return PassManager.of([InsertFakeQuant(**options)]).run(before, calibration=[X]).program


def between(function, **options: object) -> list[str]:
    """The calls between two linear layers, weights' roundings left out."""

    def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(function(F.linear(x, w)), v)

    width = function(rand(2, 6)).shape[-1]
    found = calls(rounded(program(net, X, w=rand(6, 6, seed=1), v=rand(3, width, seed=2)), **options))
    first = found.index("linear")
    return found[first + 1 : len(found) - 1 - found[::-1].index("linear")]


@pytest.mark.parametrize(
    ("function", "op"),
    [(lambda y: y + y, "add"), (lambda y: y * y, "mul"), (lambda y: torch.cat([y, y], 1), "cat")],
)
def test_a_value_that_is_read_twice_is_rounded_once(function, op: str) -> None:
    assert between(function) == [Q, op, Q, Q], "the last is the weight's"


@pytest.mark.parametrize("function", [lambda y: y + 1, lambda y: y * 2])
def test_a_number_is_no_integer_operand(function) -> None:
    assert Q not in between(function)[:-2]


def test_parts_of_a_value_have_its_scale() -> None:
    after = rounded(program(lambda x, w: F.linear(x, w).split(2, 1)[1] + 0, X, w=rand(6, 6, seed=1)))
    assert calls(after)[-4:] == ["linear", "split", "getitem", "add"], "nothing reads integers"

    def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = F.linear(x, w).relu().split(3, 1)
        return F.linear(a, v), F.linear(b, v)

    after = rounded(program(net, X, w=rand(6, 6, seed=1), v=rand(2, 3, seed=2)))
    whole, *parts = [
        n for n in after.calls() if n.target.__name__.startswith("fake") and n.args[0].op != "get_attr"
    ][1:]
    assert len(parts) == 2
    assert {p.args[1] for p in parts} == {whole.args[1]}
    assert {p.args[2] for p in parts} == {whole.args[2]}


def test_full_coverage_rounds_results() -> None:
    before = program(lambda x, w: F.linear(x, w).relu(), X, w=rand(6, 6, seed=1))
    assert calls(rounded(before)) == [Q, Q, "linear", "relu"]
    assert calls(rounded(before, coverage="full")) == [Q, Q, "linear", "relu", Q]


def test_full_coverage_takes_sums_that_floats_read() -> None:
    before = program(lambda x, w: F.layer_norm(x + F.linear(x, w), [6]), X, w=rand(6, 6, seed=1))
    assert calls(rounded(before)) == [Q, Q, "linear", "add", "layer_norm"]
    assert calls(rounded(before, coverage="full")) == [Q, Q, "linear", Q, "add", Q, "layer_norm"]


@pytest.mark.parametrize(
    ("function", "op"),
    [(torch.sigmoid, "sigmoid"), (F.leaky_relu, "leaky_relu")],
)
def test_kernels_that_do_not_pay(function, op: str) -> None:
    before = program(lambda x, w: function(F.linear(x, w)), X, w=rand(6, 6, seed=1))
    for placement, last in (("onnx:onnxruntime", [Q, op, Q]), ("torchscript", [Q, op])):
        assert calls(rounded(before, placement=placement)) == [Q, Q, "linear", op]
        assert calls(rounded(before, placement=placement, coverage="full")) == [Q, Q, "linear", *last]


def test_a_result_that_only_moves_has_the_scale_of_its_source() -> None:
    after = rounded(
        program(lambda x, w: F.linear(x, w).reshape(-1, 3), X, w=rand(6, 6, seed=1)), coverage="full"
    )
    assert calls(after) == [Q, Q, "linear", Q, "reshape", Q]
    before, last = [n for n in after.calls() if n.target.__name__.startswith("fake")][-2:]
    assert before.args[1:] == last.args[1:]


def test_drawn_programs() -> None:
    check_pass(InsertFakeQuant(coverage="full"), examples=25)


def products(function, *shapes: tuple[int, ...]) -> list[object]:
    """How each call of a function of weights is a product, or why not."""
    weights = {f"w{i}": rand(*s, seed=i) for i, s in enumerate(shapes)}
    return [contraction_of(n) for n in program(function, X, **weights).calls()]


def test_why_a_call_is_no_product() -> None:
    none = "what is added is no weight by channel"
    assert products(lambda x, w0: torch.addmm(x[:, :5], x, w0), (6, 5))[-1] == none
    assert products(lambda x, w0, w1: torch.addmm(w1, x, w0), (6, 5), (8, 5))[-1] == none
    assert (
        products(lambda x, w0, w1: torch.addmm(w1, x, w0, beta=2), (6, 5), (5,))[-1] == "its terms are scaled"
    )
    assert products(lambda x: x.relu()) == ["it is no product"]
    assert products(lambda x, w0, w1: w0 @ w1, (5, 6), (6, 3)) == [
        "it is no product of an activation with a weight or another activation"
    ]


def test_how_many_products_are_summed() -> None:
    def counted(function, x: torch.Tensor, *shapes: tuple[int, ...]) -> int | None:
        weights = {f"w{i}": torch.zeros(s) for i, s in enumerate(shapes)}
        node = list(program(function, x, dynamic=True, **weights).calls())[-1]
        found = contraction_of(node)
        assert isinstance(found, Contraction)
        return _products(node, found)

    assert counted(lambda x, w0: F.linear(x, w0), rand(2, 6), (5, 6)) == 6
    assert counted(lambda x, w0: F.conv1d(x, w0), rand(2, 3, 5), (1, 3, 2)) == 6
    assert counted(lambda x, w0: x @ w0, rand(2, 6), (6, 5)) == 6
    assert counted(lambda x, w0: F.conv2d(x, w0), rand(2, 3, 5, 5), (4, 3, 3, 2)) == 18
    assert counted(lambda x: x @ x.transpose(1, 2), rand(2, 3, 7)) == 7
    assert counted(lambda x: x.t() @ x, rand(4, 7)) is None, "the batch varies"


@pytest.mark.parametrize(("width", "fits"), [(65793, True), (65794, False)])
def test_sums_that_may_overflow(width: int, fits: bool) -> None:
    """255 times 128 goes 65,793 times into 31 bits, however many rows the weight has."""
    (node,) = program(F.linear, torch.zeros(1, width), weight=torch.zeros(3, width)).calls()
    found = contraction_of(node)
    assert isinstance(found, Contraction)
    why = may_overflow(node, found, placement_of("generic"))
    assert why == ("" if fits else "its sums of more than 65793 products may overflow")


def residual(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.linear(F.relu(x + F.linear(x, w)), v)


def test_a_sum_that_is_part_of_a_product_s_kernel() -> None:
    before = program(residual, X, w=rand(6, 6, seed=1), v=rand(3, 6, seed=2))
    after = rounded(before, placement="onnx:tensorrt")
    assert calls(after) == [Q, Q, "linear", "add", "relu", Q, Q, "linear"]
    add = next(n for n in after.calls() if n.target.__name__.startswith("add"))
    assert [n.target.__name__.split(".")[0] for n in add.args[:2]] == [Q, "linear"]


def test_of_two_products_that_are_summed_the_last_stays_in_float() -> None:
    def net(x: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, v) + F.linear(x, w), w)

    after = rounded(program(net, X, w=rand(6, 6, seed=1), v=rand(6, 6, seed=2)), placement="onnx:tensorrt")
    add = next(n for n in after.calls() if n.target.__name__.startswith("add"))
    assert [n.target.__name__.split(".")[0] for n in add.args[:2]] == [Q, "linear"]


def test_a_product_that_others_read_too_is_no_part_of_a_sum() -> None:
    def net(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, w)
        return F.linear(y + x, w) + y

    after = rounded(program(net, X, w=rand(6, 6, seed=1)), placement="onnx:tensorrt")
    add = next(n for n in after.calls() if n.target.__name__.startswith("add"))
    assert [n.target.__name__.split(".")[0] for n in add.args[:2]] == [Q, Q]


@pytest.mark.parametrize(("rows", "few"), [(42, True), (43, False)])
def test_too_little_data_is_told(rows: int, few: bool, caplog: pytest.LogCaptureFixture) -> None:
    """6 times 42 values are fewer than 256 integers; an empty value is no range at all."""
    before = program(F.linear, X, weight=rand(3, 6, seed=1), dynamic=True)
    data = [rand(rows, 6)]
    PassManager.of([InsertFakeQuant()]).run(before, calibration=data)
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    wanted = "calibration has shown only 252 values of the input args_0 (1 such ranges): give it more data"
    assert told == ([wanted] if few else [])


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
@pytest.mark.parametrize(("sign", "zero_point"), [(1, 0), (-1, 255)])
def test_zero_points_at_both_ends(sign: int, zero_point: int, target: str) -> None:
    x = sign * rand(64, 6).abs()
    before = program(F.linear, x, weight=rand(3, 6, seed=1), bias=rand(3, seed=2), dynamic=True)
    after = run_pipeline(before, "int8", calibration=[x], target=target)
    first = next(n for n in after.calls() if n.args[0].op == "placeholder")
    assert int(after.weights[str(first.args[2].target)]) == zero_point
    artifact = lower(after, target)
    assert artifact.report.ok, artifact.report.reason
    assert float((artifact(x) - before(x)).abs().max()) < 0.1


class Attention(torch.nn.Module):
    """As transformers write it out: scores and a mask of large negative numbers, from a mask of ones."""

    def __init__(self, hidden: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = hidden
        self.q, self.k, self.v = (torch.nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        added = torch.where(mask > 0, 0.0, self.hidden)[:, None, :]
        scores = self.q(x) @ self.k(x).transpose(1, 2) + added
        return (scores + 0 * added.clamp(min=-1)).tanh() @ self.v(x) + scores.softmax(-1) @ self.v(x)


@pytest.mark.parametrize("hidden", [-1e4, -1e9, float(torch.finfo(torch.float32).min), float("-inf")])
def test_a_mask_sets_no_range(hidden: float) -> None:
    """What it is added to stays in float, as do the moves of the mask itself."""
    x, mask = rand(4, 5, 6), torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]]).repeat(4, 1)
    model = Attention(hidden).eval()
    manager = PassManager.parse("insert-fake-quant{coverage=full}")
    run = manager.run(program(model, x, mask), calibration=[(x, mask)])
    scales = [
        float(run.program.weights[str(n.args[1].target)].max())
        for n in run.program.calls()
        if n.target.__name__.startswith("fake")
    ]
    assert scales and max(scales) < 1
    assert [r for r in reasons(run) if "it holds a mask, beside whose values all others round to 0" in r]
    error = (run.program(x, mask) - model(x, mask)).square().sum() / model(x, mask).square().sum()
    assert error < 1e-3
