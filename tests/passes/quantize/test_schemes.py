"""Layers of one program rounded by different schemes."""

import pytest
import torch
from torch import nn

import fxopt
from fxopt.errors import PipelineError
from fxopt.ops import bind, choose_qparams, fake_quantize, round_blocks
from fxopt.passes.quantize._schemes import Schemes
from fxopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from fxopt.pipeline import PassManager, PipelineResult
from fxopt.program import Program, origins_of
from tests.passes.helpers import program, rand, reasons

DATA = [torch.randint(0, 10, (4, 3), generator=torch.Generator().manual_seed(s)) for s in range(3)]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 32)
        self.a, self.b, self.c = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(self.table(x)).relu()).relu())


def net() -> Program:
    torch.manual_seed(0)
    return program(Net(), DATA[0])


def run(before: Program, *layers: str, scheme: str = "int8", **options: object) -> PipelineResult:
    rounding = InsertFakeQuant(scheme=scheme, layers=layers, **options)
    return PassManager.of([rounding]).run(before, calibration=DATA)


def rounded(after: Program) -> dict[str, str]:
    """By module, what its product reads: an activation and a weight, and how each is rounded."""
    found = {}
    for node in after.calls():
        if node.target is torch.ops.aten.linear.default:
            x, w = (bind(node)[n] for n in ("input", "weight"))
            found[origins_of(node)[0].module] = f"{_kind(x)} {_kind(w)}"
    return found


def _kind(value: torch.fx.Node) -> str:
    if value.target is round_blocks:
        return "by block"
    if value.target is torch.ops.aten.reshape.default:
        return "4 bits"
    if value.target is not fake_quantize:
        return "float"
    scale = value.args[1]
    dynamic = scale.op == "call_function" and scale.args[0].target is choose_qparams
    return "dynamic" if dynamic else "8 bits"


def test_each_layer_has_its_scheme() -> None:
    after = run(net(), "a=int8-dynamic", "b=int8-weights", "c=int4-weights").program
    assert rounded(after) == {"a": "dynamic 8 bits", "b": "float 8 bits", "c": "float 4 bits"}


def test_what_no_pattern_names_has_the_usual_scheme() -> None:
    after = run(net(), "b=float").program
    assert rounded(after) == {"a": "8 bits 8 bits", "b": "float float", "c": "8 bits 8 bits"}
    after = run(net(), "b=int8", scheme="int8-dynamic").program
    assert rounded(after) == {"a": "dynamic 8 bits", "b": "8 bits 8 bits", "c": "dynamic 8 bits"}


def test_the_first_pattern_counts_and_ignore_is_above_all() -> None:
    layers = ("a=int8-weights", "linear=float", "*=int8")
    assert rounded(run(net(), *layers).program)["a"] == "float 8 bits"
    assert rounded(run(net(), *layers).program)["b"] == "float float"
    assert rounded(run(net(), *layers, ignore=("a",)).program)["a"] == "float float"


def test_a_table_has_a_scheme_too() -> None:
    def scales(*layers: str) -> list[list[int]]:
        after = run(net(), *layers, scheme="int8-weights").program
        return [list(t.shape) for n, t in after.weights.items() if n == "table.weight_scale"]

    assert scales() == [[10, 1]]
    assert scales("table=int8") == [[10, 1]]
    assert scales("embedding=int4-weights") == [[10, 1, 1]]
    assert scales("table=float") == []


def test_refusals_tell_what_stays_in_float_once_and_by_which_pattern() -> None:
    result = run(net(), "a=float", "b=int8-dynamic", "c=int4-weights", ignore=("table",))
    assert reasons(result) == [
        "it stays in float: it matches a=float",
        "it stays in float: it matches ignore=table",
    ]


def test_data_are_needed_where_a_range_is_fixed() -> None:
    def takes(*layers: str, scheme: str) -> bool:
        return InsertFakeQuant(scheme=scheme, layers=layers).takes_calibration()

    assert takes(scheme="int8") and takes("a=int8", scheme="int8-weights")
    assert not takes("a=float", scheme="int8-dynamic")


@pytest.mark.parametrize("text", ["head.*", "=float", "head=int9", "head=", ""])
def test_what_is_no_pattern_with_a_scheme(text: str) -> None:
    with pytest.raises(PipelineError, match="expected PATTERN=SCHEME"):
        Schemes("int8", (text,))
    with pytest.raises(PipelineError, match=r"did you mean 'int8'\?"):
        InsertFakeQuant(layers=("x=int88",))
    assert Schemes("int8", ("a=b=float",)).used() == {"int8"}, "a pattern may hold the sign"


def test_pipeline_text_holds_it() -> None:
    manager = PassManager.parse('int8{layers=["head.*=float","a=int8-weights"]}')
    assert PassManager.parse(str(manager)).passes() == manager.passes()
    (rounding,) = (p for p in manager.passes() if isinstance(p, InsertFakeQuant))
    assert rounding.layers == ("head.*=float", "a=int8-weights")


@pytest.mark.parametrize("target", ["onnx", "torchscript", "eager"])
def test_files_of_mixed_schemes(target: str) -> None:
    layers = '["a=int8-dynamic","b=int8-weights","c=float"]'
    model = nn.Sequential()
    for name, size in zip("abcd", (6, 8, 8, 4), strict=True):
        model.add_module(name, nn.Linear(size, {"a": 8, "b": 8, "c": 4, "d": 4}[name]))
    data = [rand(4, 6, seed=s) for s in range(3)]
    result = fxopt.optimize(
        model.eval(), (data[0],), pipeline=f"int8{{layers={layers}}}", target=target, calibration=data
    )
    assert result.report.ok


class Root(nn.Module):
    """One layer is a module, the others are weights of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w1, self.b1 = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
        self.w2, self.inner = nn.Parameter(torch.randn(6, 6)), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.linear(x, self.w1, self.b1).relu()
        return self.inner(torch.nn.functional.linear(y, self.w2).relu())


@pytest.mark.parametrize(
    ("pattern", "floats"),
    [("w1", 1), ("w2", 1), ("w*", 2), ("b1", 1), ("inner", 1), ("inner.weight", 0), ("linear", 3), ("", 0)],
)
def test_a_layer_at_the_root_is_named_by_its_weights(pattern: str, floats: int) -> None:
    """One in a module goes by the module alone."""
    before = program(Root(), rand(4, 6))
    after = PassManager.of(
        [InsertFakeQuant(layers=(f"{pattern}=float",))] if pattern else [InsertFakeQuant()]
    )
    found = after.run(before, calibration=[rand(4, 6)]).program
    read = [bind(n)["weight"] for n in found.calls() if n.target is torch.ops.aten.linear.default]
    assert sum(w.op == "get_attr" for w in read) == floats
