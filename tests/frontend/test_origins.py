from pathlib import Path

import torch
from torch import nn
from torch.nn.modules import linear

from fxopt.frontend.origins import module_entry, node_line, node_origin
from tests.frontend.good_models import noise


def node(**meta: object) -> torch.fx.Node:
    made = torch.fx.Graph().call_function(torch.ops.aten.relu.default, ())
    made.meta = meta
    return made


def stack(*entries: tuple[str, object]) -> dict[str, tuple[str, object]]:
    return {f"key {i}": entry for i, entry in enumerate(entries)}


def test_module_paths():
    assert module_entry(node()) == ("", "")
    assert module_entry(node(nn_module_stack=stack(("", "m.Net"), ("layer1.conv", "m.Conv")))) == (
        "layer1.conv",
        "m.Conv",
    )
    assert module_entry(node(nn_module_stack=stack(("L['self'].layer1@2.conv", nn.Conv2d)))) == (
        "layer1.conv",
        "torch.nn.modules.conv.Conv2d",
    )
    assert module_entry(node(nn_module_stack=stack(("_empty_nn_module_stack_from_metadata_hook", "")))) == (
        "",
        "",
    )


def test_origin_of_a_node():
    trace = (
        f'File "/me/net.py", line 3, in forward\n    y\n  File "{linear.__file__}", line 134, in forward\n'
    )
    origin = node_origin(node(stack_trace=trace, nn_module_stack=stack(("a.b", "k"))))
    assert (origin.module, origin.file, origin.line, origin.op) == (
        "a.b",
        "/me/net.py",
        3,
        "aten.relu.default",
    )
    assert str(origin) == "net.py:3 a.b"
    nowhere = node_origin(node())
    assert (nowhere.file, nowhere.line, str(nowhere)) == ("", 0, "aten.relu.default")


def test_places_in_messages():
    trace = 'File "/me/net.py", line 3, in forward\n'
    assert (
        node_line(node(stack_trace=trace, nn_module_stack=stack(("a", "k")))) == " at /me/net.py:3, module a"
    )
    assert node_line(node(stack_trace=trace)) == " at /me/net.py:3"
    assert node_line(node(nn_module_stack=stack(("a", "k")))) == " in module a"
    assert node_line(node()) == ""


def test_torch_still_records_what_is_read_here():
    exported = torch.export.export(nn.Sequential(nn.Linear(3, 3)).eval(), (noise(2, 3),))
    call = next(n for n in exported.graph.nodes if n.op == "call_function")
    origin = node_origin(call)
    assert (origin.module, Path(origin.file).name) == ("0", "linear.py")
