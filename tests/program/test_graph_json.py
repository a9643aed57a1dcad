import json
import math
import operator
import types
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.fx import Graph, Node

from fxopt.errors import ArtifactError
from fxopt.program import Program
from fxopt.program.graph_json import decode_graph, decode_literal, encode_graph, encode_literal
from tests.traced import traced

LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        [
            torch.float32,
            torch.bool,
            torch.float8_e4m3fn,
            torch.strided,
            torch.sparse_coo,
            torch.contiguous_format,
            torch.channels_last,
            torch.device("cpu"),
            torch.device("cuda", 1),
            torch.device("meta"),
        ]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)


def key(value: object) -> object:
    """A value with its types, -0.0 and NaN told apart."""
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [key(v) for v in value])
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else repr(value))
    return (type(value).__name__, value)


@given(LITERALS)
def test_literals_come_back(value: object):
    text = json.dumps(encode_literal(value), allow_nan=False)
    assert key(decode_literal(json.loads(text), {})) == key(value)


@pytest.mark.parametrize(
    "value", [3j, torch.zeros(2), object(), slice(1, 2), {"a": 1}, b"x", b"".join, torch.Generator()]
)
def test_what_has_no_form_is_refused(value: object):
    with pytest.raises(ArtifactError, match="has no file form"):
        encode_literal([value])


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"node": "x"},
        {"node": 1},
        {"float": "1.0"},
        {"float": "infinity"},
        {"tuple": 1},
        {"device": "warp"},
        {"device": "os.system"},
        {"dtype": "nn"},
        {"dtype": "strided"},
        {"dtype": "__class__"},
        {"layout": "float32"},
        {"memory_format": "load"},
        {"eval": "1"},
    ],
)
def test_malformed_literals_are_refused(value: object):
    with pytest.raises(ArtifactError):
        decode_literal([value], {})


def stored(program: Program) -> dict[str, object]:
    data: dict[str, object] = json.loads(json.dumps(encode_graph(program, lines=True)))
    return data


def test_a_graph_comes_back():
    program = traced("bert", True)
    graph = decode_graph(stored(program), program.weights)
    for a, b in zip(program.graph.nodes, graph.nodes, strict=True):
        if a.op != "output":
            assert (a.op, a.target, a.name) == (b.op, b.target, b.name)
            assert str(a.args) == str(b.args)
            assert str(a.kwargs) == str(b.kwargs)


def test_lines_are_kept_or_left_out():
    program = traced("digits", False)
    with_lines, without = (json.dumps(encode_graph(program, lines=k)) for k in (True, False))
    assert ".py" in with_lines
    assert ".py" not in without
    assert '"3"' in without  # the module's path
    assert "/" not in with_lines


def small() -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    nodes = [
        {"name": "x", "op": "input"},
        {"name": "w", "op": "weight", "weight": "w"},
        {
            "name": "y",
            "op": "call",
            "target": "aten.add.Tensor",
            "args": [{"node": "x"}, {"node": "w"}],
            "from": [0],
        },
        {"op": "return", "values": [{"node": "y"}]},
    ]
    return {"nodes": nodes, "origins": [["m", "f.py", 3, "aten.add"]]}, {"w": torch.zeros(2)}


def changed(index: int, **fields: object) -> tuple[dict[str, object], dict[str, torch.Tensor]]:
    data, weights = small()
    data["nodes"][index] |= fields  # type: ignore[index]
    return data, weights


def test_the_small_graph_is_right():
    graph = decode_graph(*small())
    call = next(n for n in graph.nodes if n.op == "call_function")
    assert call.target is torch.ops.aten.add.Tensor
    assert str(call.meta["origins"][0]) == "f.py:3 m"


INJECTIONS = ["x; import os", "x\n", "1x", "class", "", "a.b", "x)", None, 3, "__import__('os')", "x=1"]


@pytest.mark.parametrize("name", INJECTIONS)
def test_names_that_would_be_code_are_refused(name: object):
    for index in (0, 1, 2):
        with pytest.raises(ArtifactError):
            decode_graph(*changed(index, name=name))


@pytest.mark.parametrize("name", ["w", "x"])
def test_two_nodes_of_one_name_are_refused(name: str):
    with pytest.raises(ArtifactError, match="two nodes"):
        decode_graph(*changed(2, name=name))


@pytest.mark.parametrize("weight", ['a"]; import os; x["', "a'b", "a\\b", "a\nb", "unknown", None, 1, ""])
def test_weights_that_would_be_code_are_refused(weight: object):
    data, weights = changed(1, weight=weight)
    if isinstance(weight, str) and weight != "unknown":
        weights[weight] = torch.zeros(2)
    with pytest.raises(ArtifactError, match="weight"):
        decode_graph(data, weights)


def test_keyword_names_that_would_be_code_are_refused():
    with pytest.raises(ArtifactError, match="can't name"):
        decode_graph(*changed(2, kwargs=[["alpha=1) or print", 1]]))


DANGEROUS = [
    "aten.from_file.default",
    "aten.save.default",
    "aten.add_.Tensor",
    "aten.set_.source_Storage",
    "aten.manual_seed.default",
    "aten.warn.default",
    "debugprims.load_tensor.default",
    "c10d.send.default",
    "_c10d_functional.all_reduce.default",
    "profiler._record_function_enter.default",
    "inductor._alloc_from_pool.default",
    "builtins.eval",
    "builtins.__import__",
    "os.system",
    "torch.load",
    "torch.hub.load",
    "operator.attrgetter",
    "operator.call",
    "aten.add",
    "aten",
    "",
    "aten.nonesuch.default",
    "aten.add.nonesuch",
    "nolibrary.op.default",
    "aten.__class__.default",
    "..",
    None,
    ["aten.add.Tensor"],
]


@pytest.mark.parametrize("target", DANGEROUS)
def test_ops_that_do_more_than_compute_are_refused(target: object):
    with pytest.raises(ArtifactError):
        decode_graph(*changed(2, target=target))


def test_no_op_of_torch_that_reads_or_writes_gets_by():
    """Every op of aten that returns nothing, writes to an argument or names a file."""
    for schema in torch._C._jit_get_all_schemas():
        namespace, name = schema.name.split("::")
        texts = schema.arguments and str(schema.arguments[0].type) == "str"
        harmful = schema.is_mutable or not schema.returns or "file" in str(schema)
        if namespace != "aten" or not harmful:
            continue
        target = f"{namespace}.{name}.{schema.overload_name or 'default'}"
        with pytest.raises(ArtifactError):
            decode_graph(*changed(2, target=target, args=["/etc/passwd"] if texts else []))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("nodes"),
        lambda d: d.pop("origins"),
        lambda d: d.update(nodes=[]),
        lambda d: d.update(nodes=3),
        lambda d: d.update(nodes=[1]),
        lambda d: d.update(origins=[[1]]),
        lambda d: d.update(origins=[["m", "f", "x", "o"]]),
        lambda d: d["nodes"].pop(),
        lambda d: d["nodes"].pop(0),
        lambda d: d["nodes"][2].update({"from": [7]}),
        lambda d: d["nodes"][2].update({"from": ["0"]}),
        lambda d: d["nodes"][2].pop("args"),
        lambda d: d["nodes"][2].update(args={}),
        lambda d: d["nodes"][2].update(kwargs=[1]),
        lambda d: d["nodes"][2].update(op="call_module"),
        lambda d: d["nodes"][2].update(args=[{"node": "y"}]),
        lambda d: d["nodes"][3].update(values=[1]),
        lambda d: d["nodes"][3].update(values=[{"node": "z"}]),
        lambda d: d["nodes"].insert(0, dict(d["nodes"][3])),
    ],
)
def test_malformed_graphs_are_refused(change: Callable[[dict[str, object]], object]):
    data, weights = small()
    change(data)
    with pytest.raises(ArtifactError):
        decode_graph(data, weights)


def test_a_function_that_is_no_size_arithmetic_has_no_form():
    program = traced("mlp", False).copy()
    call = next(program.calls())

    def own(x: object) -> object:
        return x

    with program.graph.inserting_before(call):
        program.graph.call_function(own, (program.placeholders()[0],))
    with pytest.raises(ArtifactError, match="has no file form"):
        encode_graph(program, lines=True)


def test_size_arithmetic_comes_back():
    graph = Graph()
    x = graph.placeholder("x")
    size = graph.call_function(torch.ops.aten.sym_size.int, (x, 0))
    doubled = graph.call_function(operator.mul, (size, 2))
    graph.output((graph.call_function(torch.sym_max, (doubled, 3)),))
    holder = types.SimpleNamespace(graph=graph, output_nodes=lambda: list(graph.output_node().args[0]))
    again = decode_graph(json.loads(json.dumps(encode_graph(holder, lines=False))), {})  # type: ignore[arg-type]
    assert [n.target for n in again.nodes if isinstance(n, Node) and n.op == "call_function"] == [
        torch.ops.aten.sym_size.int,
        operator.mul,
        torch.sym_max,
    ]
