import math
import operator
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch.fx import Graph

from fxopt.errors import LoweringError
from fxopt.frontend import trace
from fxopt.lowering import lowering_rule, target
from fxopt.lowering.torchscript.emit import emit_source, has_text
from fxopt.lowering.torchscript.literals import literal_text, scalar_type
from fxopt.lowering.torchscript.sizes import function_text, is_size_function
from fxopt.ops.schema import argument_kinds
from fxopt.program.graph_json import _FUNCTIONS
from tests.lowering.cases import Call
from tests.traced import traced


def scripted(expression: str, *types: str) -> Callable[..., object]:
    """`expression` over a, b, c as a TorchScript function."""
    parameters = ", ".join(f"{n}: {t}" for n, t in zip("abc", types, strict=False))
    unit = torch._C.CompilationUnit()
    unit.define(
        f"def f({parameters}):\n    return {expression}\n", lambda n: {"torch": torch, "math": math}.get(n)
    )
    return unit.find_function("f")  # type: ignore[no-any-return]


TYPES = {int: "int", float: "float", bool: "bool"}
TRIED = {
    1: [(7,), (-7,), (0,), (2.5,), (-2.5,), (0.5,), (1.5,), (True,), (False,)],
    2: [(7, 2), (-7, 2), (7, -2), (5, 2.5), (2.5, 4), (1.5, 0.25), (0, 3), (3, 3), (True, False), (6, 1)],
    3: [(True, 3, 4), (False, 3, 4), (True, 1.5, 2.5)],
}


def arity(function: Callable[..., object]) -> int:
    if function is torch.sym_ite:
        return 3
    one = (
        operator.neg, operator.pos, operator.abs, operator.invert, operator.not_, torch.sym_int,
        torch.sym_float, torch.sym_not, int, float, bool, round, math.ceil, math.floor, math.trunc,
        math.sqrt, math.exp, math.log, math.log2,
    )  # fmt: skip
    return 1 if function in one or "sqrt" in function.__name__ or "log2" in function.__name__ else 2


@pytest.mark.parametrize("name", [n for n, f in _FUNCTIONS.items() if is_size_function(f)])
def test_size_arithmetic_gives_pythons_results(name: str):
    function = _FUNCTIONS[name]
    if function in (operator.getitem, torch.sym_sum):
        return
    tried = 0
    for values in TRIED[arity(function)]:
        kinds = [TYPES[type(v)] for v in values]
        try:
            expected = function(*values)
        except (TypeError, ValueError, ArithmeticError):
            continue
        if function is operator.not_ and kinds != ["bool"]:
            continue  # graphs hold it of truth values only
        logical = (operator.not_, torch.sym_not, torch.sym_ite, operator.and_, operator.or_)
        if "bool" in kinds and function not in logical:
            continue
        if function is operator.pow and isinstance(expected, float) and kinds == ["int", "int"]:
            continue  # a negative power is no size
        text = function_text(function, ["a", "b", "c"][: len(values)], kinds)
        got = scripted(text, *kinds)(*values)
        assert got == expected, text
        assert type(got) is type(expected), text
        tried += 1
    assert tried


def test_every_function_that_a_file_may_name_is_known_or_refused():
    unknown = {n for n, f in _FUNCTIONS.items() if not is_size_function(f)}
    assert unknown == {"math.isqrt"}
    node = Graph().call_function(math.isqrt, (4,))
    assert not has_text(node)


@pytest.mark.parametrize(
    "value",
    [
        0, -1, 2**63 - 1, -(2**63), True, False, 1.0, -0.0, 1e-45, 1e308, 1e20, 0.1, math.inf, -math.inf,
        math.nan, "", "none", 'quote " and \\ backslash', "new\nline", "ümlaut", "\x01\x7f",
    ],
)  # fmt: skip
def test_literals_mean_what_they_are(value: object):
    got = scripted(literal_text(value, None, str))()
    assert type(got) is type(value)
    assert got == value or (value != value and got != got)
    assert str(got) == str(value)


@pytest.mark.parametrize(
    "value", [torch.float32, torch.bool, torch.strided, torch.channels_last, torch.device("cpu")]
)
def test_torchs_own_literals(value: object):
    text = literal_text(value, None, str)
    assert eval(text) == value
    scripted(text)


def test_lists_are_typed_by_the_schema():
    index = argument_kinds(torch.ops.aten.index.Tensor)[1]
    assert (
        literal_text([None, None], index, str) == "torch.jit.annotate(List[Optional[Tensor]], [None, None])"
    )
    scales = next(
        k for k in argument_kinds(torch.ops.aten.upsample_nearest2d.vec) if k.name == "scale_factors"
    )
    assert literal_text([2, 2.5], scales, str) == "[2.0, 2.5]"
    size = argument_kinds(torch.ops.aten.reshape.default)[1]
    assert literal_text([], size, str) == "torch.jit.annotate(List[int], [])"
    assert literal_text((1, 2), size, str) == "[1, 2]"


def test_a_size_for_a_float_is_cast():
    node = Graph().placeholder("n")
    node.meta["val"] = 3
    kind = next(k for k in argument_kinds(torch.ops.aten.layer_norm.default) if k.base == "float")
    assert literal_text(node, kind, lambda n: n.name) == "float(n)"


def test_what_has_no_literal_is_refused():
    with pytest.raises(LoweringError, match="no literal for complex"):
        literal_text(3j, None, str)


def test_scalar_types():
    assert [scalar_type(v) for v in (torch.zeros(1), 1, 1.5, True)] == ["Tensor", "int", "float", "bool"]


def test_the_text_reads_like_the_program():
    lines = emit_source(traced("digits", True)).text.splitlines()
    assert lines[0] == "def forward(self, input: Tensor) -> Tuple[Tensor]:"
    assert (
        lines[1]
        == '    assert input.dim() == 4, "an input has not the dimensions of input: f32[batch, 1, 8, 8]"'
    )
    first = next(i for i, line in enumerate(lines[1:], 1) if not line.startswith("    assert "))
    assert lines[first].startswith("    conv2d = torch.ops.aten.conv2d(input, self._0_weight, ")
    assert lines[first].endswith("  # 0")
    assert not any("dropout" in line for line in lines)
    assert lines[-1] == "    return (linear_1,)"


def test_module_paths_can_not_break_out_of_their_comment():
    program = traced("mlp", False).copy()
    call = next(program.calls())
    call.meta["origins"] = (SimpleNamespace(module="a\n    x = 1 # ü"),)
    from fxopt.program import Origin

    call.meta["origins"] = (Origin("a\n    x = 1 # ü"),)
    text = emit_source(program).text
    assert "# a?    x = 1 # ?" in text


def test_a_rule_of_the_users_is_asked_first():
    @lowering_rule("torchscript", "aten.relu")
    def relu(builder: object, node: torch.fx.Node) -> str:
        return f"torch.clamp({builder.name_of(node.args[0])}, min=0)"  # type: ignore[attr-defined]

    try:
        text = emit_source(traced("mlp", False)).text
        assert "torch.clamp(batch_norm, min=0)" in text
    finally:
        del target._RULES["torchscript", "aten.relu"]


def test_names_are_kept_apart():
    program = trace(Call(lambda self, torch: self + torch), (torch.zeros(1), torch.zeros(1)))
    text = emit_source(program).text
    assert text.startswith("def forward(self, args_0: Tensor, args_1: Tensor)")
    program = program.copy()
    for node, name in zip(program.placeholders(), ("torch", "self"), strict=True):
        node.name = name
    assert "_1" in emit_source(program).text
