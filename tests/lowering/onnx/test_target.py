"""The target: names, metadata, determinism, ties, sibling files, opsets, gates."""

import json

import onnx
import pytest
import torch
from torch import nn

from fxopt.errors import LoweringError
from fxopt.frontend import trace
from fxopt.lowering.onnx import target as onnx_target
from fxopt.lowering.onnx.builder import Builder
from fxopt.lowering.onnx.target import OnnxTarget
from fxopt.lowering.target import lowering_rule
from fxopt.program import signature_from_json
from tests import zoo
from tests.lowering.onnx.harness import (
    Apply,
    Case,
    assert_same,
    check,
    model_of,
    op_types,
    opened,
    program_of,
)

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
TARGET = OnnxTarget()


def shapes_of(values) -> list[list[int | str]]:
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]


class Named(nn.Module):
    """Inputs by name, a dict of results."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 2))

    def forward(self, query: torch.Tensor, context: torch.Tensor) -> dict[str, torch.Tensor]:
        scores = self.inner(query)
        return {"scores": scores, "joined": torch.cat([query, context])}


def named_program():
    shapes = {"query": {0: "rows"}, "context": {0: "notes"}}
    return trace(Named().eval(), (X, X[:2].clone()), dynamic_shapes=shapes)


def test_inputs_outputs_sizes_and_weights_have_the_users_names():
    graph = model_of(TARGET.emit(named_program(), optimize=False)).graph
    assert [i.name for i in graph.input] == ["query", "context"]
    assert [o.name for o in graph.output] == ["scores", "joined"]
    assert shapes_of(graph.input) == [["rows", 4], ["notes", 4]]
    assert shapes_of(graph.output) == [["rows", 2], ["notes + rows", 4]]
    assert {i.name for i in graph.initializer} == {"inner.0.weight", "inner.0.bias"}


def test_the_names_survive_onnxsim():
    module, args = zoo.model("unet")
    program = trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    emitted = TARGET.emit(program)
    assert emitted.fallback is not None
    small, plain = model_of(emitted), model_of(emitted.fallback)
    assert len(small.graph.node) < len(plain.graph.node)
    assert [i.SerializeToString() for i in small.graph.input] == [
        i.SerializeToString() for i in plain.graph.input
    ]
    assert [o.SerializeToString() for o in small.graph.output] == [
        o.SerializeToString() for o in plain.graph.output
    ]
    for key in ("fxopt.signature", "fxopt.version"):
        first, second = ([p.value for p in m.metadata_props if p.key == key] for m in (small, plain))
        assert first == second and len(first) == 1
    assert small.producer_name == "fxopt"
    assert "simplified by onnxsim" in emitted.notes


def test_what_onnxsim_can_not_make_smaller_stays_as_it_is():
    emitted = TARGET.emit(program_of(Case("relu", torch.relu, (X,))))
    assert emitted.fallback is None
    assert emitted.notes == ()


def test_onnxsim_is_not_run_on_very_large_files(monkeypatch):
    monkeypatch.setattr("fxopt.lowering.onnx.simplify.LARGEST", 1000)
    module, args = zoo.model("digits")
    emitted = TARGET.emit(trace(module, args, dynamic_shapes=zoo.dynamic_batch(args)))
    assert emitted.fallback is None
    assert emitted.notes == ("onnxsim was not run: the file has more than 0 MB",)


def test_metadata_is_the_signature_and_a_module_path():
    program = named_program()
    model = model_of(TARGET.emit(program, optimize=False))
    entries = {p.key: p.value for p in model.metadata_props}
    assert signature_from_json(json.loads(entries["fxopt.signature"])) == program.signature
    assert set(entries) == {"fxopt.signature", "fxopt.version", "fxopt.sha256"}
    modules = {p.value for n in model.graph.node for p in n.metadata_props if p.key == "fxopt.module"}
    assert modules == {"inner.0"}
    assert model.producer_name == "fxopt"


def test_no_path_of_this_machine_is_in_the_file():
    content = TARGET.emit(named_program()).content
    assert b".py" not in content
    assert b"/" not in content.replace(b"linear/", b"").replace(b"cat/", b"").split(b"fxopt.signature")[0]


@pytest.mark.parametrize("optimize", [False, True])
def test_the_same_program_gives_the_same_bytes(optimize):
    module, args = zoo.model("unet")
    first, second = (
        TARGET.emit(trace(module, args, dynamic_shapes=zoo.dynamic_batch(args)), optimize=optimize)
        for _ in range(2)
    )
    assert first == second


def test_an_input_returned_twice_a_weight_and_a_result_returned_twice():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.arange(4.0))

        def forward(self, x: torch.Tensor, unused: torch.Tensor) -> tuple[object, ...]:
            y = x + 1
            return x, x, y, y, self.weight, None, 3, x.shape[0]

    program = trace(Odd().eval(), (X, X.clone()), dynamic_shapes=({0: "batch"}, {0: "batch"}))
    emitted = TARGET.emit(program, optimize=False)
    graph = model_of(emitted).graph
    assert [i.name for i in graph.input] == ["x", "unused"]
    assert len({o.name for o in graph.output}) == len(graph.output) == 6
    artifact = opened(emitted)
    result, expected = artifact(X, X), program(X, X)
    assert isinstance(result, tuple)
    assert isinstance(expected, tuple)
    for got, wanted in zip(result, expected, strict=True):
        assert_same(got, wanted)


def test_names_that_clash():
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Linear(4, 4)
            self.register_buffer("v_relu", torch.ones(4))
            self.register_buffer("softmax", torch.ones(4))

        def forward(self, relu: torch.Tensor, const: torch.Tensor) -> dict[str, torch.Tensor]:
            y = torch.relu(self.x(relu) + self.v_relu + 2)
            return {"softmax": torch.softmax(y, -1) * self.softmax, "v_relu_1": y + const}

    program = trace(Clash().eval(), (X, X.clone()), dynamic_shapes=({0: "batch"}, {0: "batch"}))
    emitted = TARGET.emit(program, optimize=False)
    graph = model_of(emitted).graph
    names = [i.name for i in graph.input] + [i.name for i in graph.initializer]
    names += [o for n in graph.node for o in n.output]
    assert len(names) == len(set(names))
    assert [o.name for o in graph.output] == ["softmax", "v_relu_1"]
    assert_same(opened(emitted)(X, X)["v_relu_1"], program(X, X)["v_relu_1"])


def test_a_tied_weight_is_in_the_file_once():
    module, args = zoo.model("tied_encoder")
    program = trace(module, args, dynamic_shapes=zoo.dynamic_batch(args))
    for optimize in (False, True):
        graph = model_of(TARGET.emit(program, optimize=optimize)).graph
        assert [tuple(i.dims) for i in graph.initializer].count((50, 16)) == 1
        assert (16, 50) not in [tuple(i.dims) for i in graph.initializer]


def test_equal_calls_are_one_node():
    program = program_of(Case("twice", lambda x: x.exp().sum(1) / x.exp().amax(1), (X,)))
    assert op_types(TARGET.emit(program, optimize=False)).count("Exp") == 1


@pytest.mark.parametrize("opset", range(18, 24))
def test_every_opset(opset):
    program = program_of(Case("linear", nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4)), (X,)))
    model = model_of(TARGET.emit(program, opset=opset, optimize=False))
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("opset", [7, 17, 24])
def test_an_opset_that_is_not_offered(opset):
    with pytest.raises(LoweringError, match=f"opset {opset} is not offered; choose 18 to 23"):
        TARGET.emit(program_of(Case("relu", torch.relu, (X,))), opset=opset)


def test_weights_beside_the_file_have_the_name_of_their_content(tmp_path):
    model, args = zoo.model("tied_encoder")
    program = trace(model, args, dynamic_shapes=zoo.dynamic_batch(args))
    emitted = OnnxTarget(external_threshold=4000).emit(program, stem="encoder")
    assert emitted.data is not None
    assert emitted.data_name is not None
    assert emitted.data_name.startswith("encoder.")
    assert emitted.data_name.endswith(".data")
    assert len(emitted.content) < len(TARGET.emit(program, optimize=False).content) - len(emitted.data) // 2
    artifact = opened(emitted)
    expected = program(*args)
    for got, wanted in zip(artifact(*args), expected, strict=True):
        assert_same(got, wanted)
    assert artifact.size == len(emitted.content) + len(emitted.data)
    again = OnnxTarget(external_threshold=4000).emit(program, stem="encoder")
    assert again == emitted
    (tmp_path / "encoder.onnx").write_bytes(emitted.content)
    (tmp_path / emitted.data_name).write_bytes(emitted.data)
    onnx.checker.check_model(str(tmp_path / "encoder.onnx"), full_check=True)
    assert any("onnxsim was not run" in n for n in emitted.notes)


def test_ops_without_a_rule_are_all_named():
    @torch.library.custom_op("fxopt_tests::half_a", mutates_args=())
    def half_a(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    @half_a.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    @torch.library.custom_op("fxopt_tests::half_b", mutates_args=())
    def half_b(x: torch.Tensor) -> torch.Tensor:
        return x / 2

    @half_b.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return half_a(x) + half_b(x)

    program = program_of(Case("halves", Halves(), (X,)))
    assert [str(n.target) for n in TARGET.missing(program)] == [
        "fxopt_tests.half_a.default",
        "fxopt_tests.half_b.default",
    ]
    with pytest.raises(LoweringError, match=r"fxopt_tests.half_a.*test_target.py:\d+.*fxopt_tests.half_b"):
        TARGET.emit(program)

    @lowering_rule("onnx", "fxopt_tests.half_a", "fxopt_tests.half_b")
    def half(builder: Builder, node: torch.fx.Node) -> str:
        return builder.op("Mul", builder.operand(node.args[0]), builder.constant(0.5, torch.float32))

    assert TARGET.missing(program) == []
    check(Case("halves", Halves(), (X,)))


def test_a_rule_that_makes_an_invalid_model_is_caught_before_anything_is_written():
    @torch.library.custom_op("fxopt_tests::wrong", mutates_args=())
    def wrong(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @wrong.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    @lowering_rule("onnx", "fxopt_tests.wrong")
    def lower(builder: Builder, node: torch.fx.Node) -> str:
        return builder.op("MatMul", builder.operand(node.args[0]), builder.constant([[1.0]], torch.float32))

    with pytest.raises(LoweringError, match=r"ONNX's .* refuses the lowered model: .*MatMul"):
        TARGET.emit(program_of(Case("wrong", lambda x: wrong(x), (X,))))


def test_a_model_without_a_tensor_to_return():
    program = trace(Apply(lambda x: {"count": 3}).eval(), (X,))
    with pytest.raises(LoweringError, match="the model returns no tensor"):
        TARGET.emit(program)


def test_a_weight_without_values():
    with torch.device("meta"):
        module = nn.Linear(4, 2)
    program = trace(module.eval(), (torch.zeros(2, 4, device="meta"),))
    with pytest.raises(LoweringError, match="weight 'weight' is on the meta device"):
        TARGET.emit(program)


def test_dead_calls_are_not_lowered():
    program = program_of(Case("relu", lambda x: torch.relu(x), (X,)))
    graph = program.graph
    relu = next(program.calls())
    with graph.inserting_before(relu):
        dead = graph.call_function(torch.ops.aten.exp.default, (relu.args[0],))
    dead.meta = dict(relu.meta)
    assert op_types(TARGET.emit(program, optimize=False)) == ["Relu"]


def test_the_target_loads_nothing_before_it_is_used():
    import subprocess
    import sys

    code = (
        "import sys, fxopt.lowering.onnx.target as t; t.OnnxTarget();"
        "assert not {'onnx', 'onnxscript', 'onnxruntime', 'onnxsim'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert onnx_target.OnnxTarget.runner == "onnx"


def test_ops_by_onnxscript_are_noted():
    emitted = TARGET.emit(
        program_of(Case("logcumsumexp", lambda x: torch.logcumsumexp(x, 1), (X,))), optimize=False
    )
    assert emitted.notes == ("lowered by onnxscript's functions: aten.logcumsumexp.default",)
    check(Case("logcumsumexp", lambda x: torch.logcumsumexp(x, 1), (X,)))


def test_ops_made_of_others():
    check(Case("rot90", lambda x: torch.rot90(x), (X,)))
    assert isinstance(Apply(torch.relu), nn.Module)
