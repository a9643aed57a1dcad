import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxopt import lower, verify
from fxopt.dialect import violations
from fxopt.errors import ArtifactError, TraceError
from fxopt.frontend import trace
from fxopt.program import Program, origins_of
from tests import zoo
from tests.frontend import bad_models, good_models
from tests.frontend.good_models import Function, noise


@pytest.fixture(autouse=True)
def without_fused_path() -> Iterator[None]:
    """Eager's fused encoder path rounds otherwise than any trace."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def assert_same(
    model: nn.Module, program: Program, args: tuple, kwargs: dict | None = None, *, exact: bool = True
):
    model = getattr(model, "_orig_mod", model)  # torch.compile would compile it here
    with torch.no_grad():
        expected = model(*args, **(kwargs or {}))
    got = program(*args, **(kwargs or {}))
    # torch.export takes a torch.Size for the tuple that it is.
    plain = pytree.tree_map(lambda v: v, expected, is_leaf=lambda v: isinstance(v, torch.Size))
    structures = [
        pytree.tree_structure(v, is_leaf=lambda v: type(v) in (torch.Size, tuple) and all(map(is_int, v)))
        for v in (plain, got)
    ]
    assert structures[0] == structures[1]
    for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(got), strict=True):
        assert type(a) is type(b) or isinstance(a, torch.Tensor)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            torch.testing.assert_close(
                b.detach(), a, **({"rtol": 0, "atol": 0} if exact else {}), equal_nan=True
            )
        else:
            assert a == b


def is_int(value: object) -> bool:
    return isinstance(value, int)


@pytest.mark.parametrize("name", good_models.CASES)
def test_edge_cases_are_the_same_function(name: str):
    case = good_models.CASES[name]
    torch.manual_seed(0)
    model = case.make().eval()
    program = trace(model, case.args or None, case.kwargs or None, dynamic_shapes=case.dynamic)
    assert not list(map(str, violations(program, values=True)))
    assert all(origins_of(n) for n in program.calls())
    assert_same(
        case.make().eval() if name == "AssignsAttribute" else model,
        program,
        case.args,
        case.kwargs,
        exact=case.exact,
    )


@pytest.mark.parametrize("name", bad_models.CASES)
def test_what_cannot_be_traced_is_one_line_that_names_the_users(name: str, capfd: pytest.CaptureFixture[str]):
    case = bad_models.CASES[name]
    model = case.make().eval()
    with pytest.raises(TraceError) as caught:
        trace(model, case.args, dynamic_shapes=case.dynamic)
    text = str(caught.value)
    assert "\n" not in text
    assert not [words for words in case.says if words not in text], text
    if case.line is not None:
        assert f"{bad_models.__file__}:{case.line} (" in text
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", zoo.names("shufflenetv2", "mobilenetv2"))
def test_the_zoo_with_a_dynamic_batch(name: str):
    model, args = zoo.model(name)
    program = trace(model, args, dynamic_shapes=zoo.dynamic_batch(args))
    assert not list(map(str, violations(program)))
    assert program.signature.symbols.keys() == {"batch"}
    assert_same(model, program, args)
    assert_same(model, program, tuple(x[:1] for x in args))


def keyword_model() -> tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]]]:
    import transformers as t

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    model = t.BertModel(t.BertConfig(vocab_size=50, max_position_embeddings=32, **sizes)).eval()
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    kwargs = {"input_ids": zoo.tokens(2, 6, 50), "attention_mask": mask}
    return model, kwargs, {name: {0: "batch", 1: "length"} for name in kwargs}


def test_a_transformers_model_by_keyword_returns_its_own_class():
    model, kwargs, dynamic = keyword_model()
    program = trace(model, kwargs=kwargs, dynamic_shapes=dynamic)
    assert [s.name for s in program.signature.outputs] == ["last_hidden_state", "pooler_output"]
    assert program.signature.symbols["length"].max == 32
    shorter = {name: torch.cat([x[:, :5]] * 3) for name, x in kwargs.items()}
    with torch.no_grad():
        expected = model(**shorter)
    got = program(**shorter)
    assert type(got) is type(expected)
    assert torch.equal(got.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(program(*shorter.values())[0], expected[0])


def test_weights_are_shared_and_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    model.train()
    model[1].eval()
    flags = [m.training for m in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = noise(2, 3)
    with pytest.warns(UserWarning, match="the model is in training mode") as caught:
        program = trace(model, (x,), dynamic_shapes=({0: "n"},))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert not any(vars(p) for p in (*model.parameters(), x))
    for name, tensor in program.weights.items():
        own = dict((*model.named_parameters(), *model.named_buffers()))[name]
        assert tensor.data_ptr() == own.data_ptr()
        assert tensor is not own
        assert tensor.requires_grad == own.requires_grad
    program.graph_module.half()
    assert model[0].weight.dtype == torch.float32


def test_a_part_in_training_mode_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
    model[1].train()
    with pytest.warns(UserWarning, match="'1' of the model is in training mode"):
        trace(model, (noise(2, 3),))
    assert not model.training
    assert model[1].training


class FailsLate(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.dropout, self.count = nn.Linear(3, 3), nn.Dropout(), 1

    def forward(self, x):
        self.count, self.extra = 2, x
        return self.linear(x) if x.sum() > 0 else x


def test_a_failure_too_leaves_the_model_as_it_was():
    model = FailsLate()
    model.linear.eval()
    enabled = [torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()]
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    state = logger.level, logger.disabled, logging.getLogger("torch").level
    with pytest.warns(UserWarning, match="training mode"), pytest.raises(TraceError):
        trace(model, (noise(2, 3),))
    assert model.training
    assert not model.linear.training
    assert model.count == 1
    assert not hasattr(model, "extra")
    assert [torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()] == enabled
    assert (logger.level, logger.disabled, logging.getLogger("torch").level) == state


def test_torch_is_left_as_it_was():
    from torch.export import _trace
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torch.fx.proxy import TracerBase

    names = (TracerBase._filter_traceback_frames, ShapeEnv._get_user_frame, vars(_trace).get("print"))
    trace(nn.Linear(3, 3).eval(), (noise(2, 3),))
    assert (TracerBase._filter_traceback_frames, ShapeEnv._get_user_frame, vars(_trace).get("print")) == names


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_any_gradient_mode_around_it(mode: type[torch.no_grad]):
    with mode():
        model, x = nn.Linear(3, 3).eval(), noise(2, 3) + 1
        program = trace(model, (x,), dynamic_shapes=({0: "n"},))
        assert torch.equal(program(x), model(x).detach())
    # and afterwards, with what was made in that mode
    assert not trace(model, (x,))(noise(2, 3)).requires_grad


def test_the_callers_autocast_is_not_the_models():
    model = nn.Linear(3, 3).eval()
    with torch.autocast("cpu", torch.bfloat16):
        program = trace(model, (noise(2, 3),))
        assert torch.is_autocast_enabled("cpu")
    assert [s.dtype for s in program.signature.outputs] == [torch.float32]


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("counter", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        self.counter += 1
        self.seen.add_(x.sum(0))
        return x + self.counter + self.seen


class KvCache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(2, 8, 4))
        self.linear = nn.Linear(4, 4)

    def forward(self, x, position):
        self.keys.index_copy_(1, position, self.linear(x))
        return {"y": self.keys.sum(1) * x[:, 0], "keys": self.keys}


class Assigned(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("hidden", torch.zeros(3))

    def forward(self, x):
        y = x + self.hidden
        self.hidden = y.mean(0)
        return y, None


@pytest.mark.parametrize(
    ("make", "args", "dynamic", "expected"),
    [
        (Counter, (noise(2, 3),), {"x": {0: "n"}}, ["output", "state.counter", "state.seen"]),
        (KvCache, (noise(2, 1, 4), torch.tensor([3])), None, ["y", "keys", "state.keys"]),
        (Assigned, (noise(2, 3),), None, ["output_0", "output_1", "state.hidden"]),
    ],
)
def test_state_becomes_inputs_and_outputs(
    make: type[nn.Module], args: tuple, dynamic: object, expected: list[str]
):
    model = make().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    program = trace(model, args, dynamic_shapes=dynamic, state=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [s.name for s in program.signature.outputs] == expected
    assert [s.name for s in program.signature.inputs[len(args) :]] == [
        n for n in expected if n.startswith("state.")
    ]
    assert not list(map(str, violations(program, values=True)))
    states = {f"state.{name}": before[name] for name in before if f"state.{name}" in expected}
    for _ in range(3):
        (*results,) = program(*args, **states)
        new = results[len(results) - len(states) :]
        with torch.no_grad():
            reference = model(*args)
        own = pytree.tree_leaves(reference)
        assert all(map(equal, pytree.tree_leaves(results[: len(results) - len(states)]), own))
        states = dict(zip(states, new, strict=True))
        assert all(
            torch.equal(states[name], model.get_buffer(name.removeprefix("state."))) for name in states
        )


class Fills(nn.Module):
    """A decoder step that fills its cache in place and does not return it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, cache, position):
        self.calls += 1
        cache["keys"].index_copy_(1, position, self.linear(x))
        return cache["keys"].sum(1) * x[:, 0] * self.calls


def test_what_an_input_is_written_to_become_is_an_output_with_state():
    model = Fills().eval()
    args = noise(2, 1, 4), {"keys": noise(2, 8, 4)}, torch.tensor([3])
    dynamic = {"x": {0: "n"}, "cache": {"keys": {0: "n", 1: "length"}}}
    with pytest.raises(TraceError, match="state=True"):
        trace(model, args, dynamic_shapes=dynamic)
    program = trace(model, args, dynamic_shapes=dynamic, state=True)
    given = [s.name for s in program.signature.inputs]
    assert [s.name for s in program.signature.outputs] == ["output", "state.calls", f"state.{given[1]}"]
    assert program.signature.written_inputs() == [given[1]]
    x, cache = noise(5, 1, 4), {"keys": noise(5, 9, 4)}
    before = cache["keys"].clone()
    y, calls, keys = program(x, cache, torch.tensor([8]), **{"state.calls": torch.zeros(())})
    assert torch.equal(cache["keys"], before)  # the caller's is left as it was
    with torch.no_grad():
        assert torch.equal(model(x, cache, torch.tensor([8])), y)
    assert torch.equal(cache["keys"], keys)
    assert calls == 1
    for target in ("eager", "torchscript", "onnx"):
        assert verify(model, lower(program, target)).ok


class SameName(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("x", torch.zeros(1))

    def forward(self, x):
        self.x += 1
        return x.add_(self.x) * 2


def test_a_written_input_and_a_written_buffer_of_one_name():
    with pytest.raises(TraceError, match="both 'x': rename one"):
        trace(SameName().eval(), (noise(2),), state=True)


def equal(a: object, b: object) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


class BakedState(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1))

    def forward(self, x):
        self.total += x.sum()
        return x[: int(x.shape[0] * 0.5)]


def test_a_baked_size_beside_state_is_found():
    with pytest.raises(TraceError, match="fixes a number that depends on a size"):
        trace(BakedState().eval(), (noise(4, 3),), dynamic_shapes=({0: "n"},), state=True)


def test_a_parameter_is_no_state():
    case = bad_models.CASES["WritesParameter"]
    with pytest.raises(TraceError, match=r"parameter 'w'.*make it a buffer"):
        trace(case.make().eval(), case.args, state=True)


def test_weights_without_values_are_planned_with():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    model[2].weight = model[0].weight
    program = trace(model, (noise(2, 4),), dynamic_shapes=({0: "n"},))
    assert program.ties == {"2.weight": "0.weight"}
    assert program(torch.zeros(5, 4, device="meta")).shape == (5, 4)


def test_tied_weights_have_the_first_name_and_one_node():
    case = good_models.CASES["Tied"]
    program = trace(case.make().eval(), case.args)
    assert list(program.weights) == ["embed.weight"]
    assert program.ties == {"head.weight": "embed.weight"}
    assert len(program.weight_nodes()) == 1
    state = program.state_dict()
    assert state["head.weight"] is state["embed.weight"]


def test_views_of_one_memory_stay_views():
    case = good_models.CASES["PartialViews"]
    program = trace(case.make().eval(), case.args)
    starts = {name: t.untyped_storage().data_ptr() for name, t in program.weights.items()}
    assert len(set(starts.values())) == 1
    assert len(starts) == 3


def test_strides_of_weights_stay():
    case = good_models.CASES["Strided"]
    program = trace(case.make().eval(), case.args)
    assert program.weights["w"].stride() == (1, 6)
    assert program.weights["e"].stride() == (0, 1)


def test_names_that_a_graph_module_has_itself():
    class Names(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("code", noise(3))
            self.register_buffer("graph", noise(3))
            self.meta = nn.Linear(3, 3)

        def forward(self, x):
            return self.meta(x) + self.code + self.graph

    model = Names().eval()
    program = trace(model, (noise(2, 3),))
    assert_same(model, program, (noise(2, 3),))
    assert set(model.state_dict()) <= set(program.state_dict())


def test_nan_in_weights_is_a_warning_that_names_them():
    model = nn.Linear(3, 3).eval()
    with torch.no_grad():
        model.bias[1] = float("nan")
    with pytest.warns(UserWarning, match="weights hold NaN: bias") as caught:
        trace(model, (noise(2, 3),))
    assert caught[0].filename == __file__


def test_infinite_weights_are_no_nan():
    model = nn.Linear(3, 3).eval()
    with torch.no_grad():
        model.bias[:2] = torch.tensor([float("inf"), float("-inf")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(model, (noise(2, 3),))


def test_a_model_without_inputs():
    model = Function(lambda: None)
    model.forward = lambda: torch.ones(3)
    assert torch.equal(trace(model.eval())(), torch.ones(3))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: trace(lambda x: x, (noise(2),)), "wrap the function in a module"),
        (lambda: trace(3, (noise(2),)), "can't trace a int"),
        (lambda: trace(torch.jit.trace(nn.ReLU(), noise(2)), (noise(2),)), "TorchScript"),
        (lambda: trace(nn.LazyLinear(3).eval(), (noise(2, 3),)), "'weight' has no shape yet"),
        (lambda: trace(nn.Linear(3, 3).to(torch.complex64).eval(), (noise(2, 3),)), "'weight' is complex"),
        (lambda: trace(nn.Linear(3, 3).eval(), (noise(2, 4),)), "must have same reduction dim"),
        (lambda: trace(nn.Linear(3, 3).eval(), (torch.ones(2, 3).long(),)), "the model itself fails"),
        (
            lambda: trace(nn.Linear(3, 3).eval(), (noise(2, 3).double(),)),
            "'input' is float64, the weights are float32: pass input.to(torch.float32)",
        ),
        (
            lambda: trace(nn.Conv1d(3, 3, 1).eval(), (noise(2, 3, 1).half(),)),
            "'input' is float16, the weights are float32",
        ),
        (lambda: trace("model.pt"), "expected a module, an ExportedProgram or a .pt2 file"),
        (lambda: trace(exported(), (noise(2, 3),)), "brings its own example inputs"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Complex modules are a new feature")
def test_what_is_no_model_to_trace(call, says: str):
    with pytest.raises(TraceError) as caught:
        call()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def exported(model: nn.Module | None = None, **dynamic: object) -> torch.export.ExportedProgram:
    model = model or nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
    return torch.export.export(model, (noise(2, 3),), **dynamic)


def test_an_exported_program_is_taken_and_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
    given = exported(model, dynamic_shapes=({0: torch.export.Dim("batch")},))
    before = str(given)
    program = trace(given)
    assert str(given) == before
    assert list(map(str, program.signature.inputs)) == ["input: f32[input_0, 3]"]
    assert torch.equal(program(input=noise(5, 3)), model(noise(5, 3)).detach())


def test_an_exported_program_that_needs_decomposition_is_left_as_it_was():
    def forward(x):
        y = x + 1
        y[:, 0] = 1
        return torch.nn.functional.dropout(y, 0.5, training=False), torch.nn.functional.dropout(
            x, 0.5, training=False
        )

    given = exported(Function(forward).eval())
    before = str(given.graph)
    program = trace(given)
    assert str(given.graph) == before
    assert torch.equal(program(noise(2, 3))[0], forward(noise(2, 3))[0])


@pytest.mark.parametrize(
    ("layer", "op"), [(nn.Dropout(0.5), "aten.dropout"), (nn.BatchNorm1d(3), "aten.batch_norm")]
)
def test_an_exported_program_in_training_mode_is_refused(layer: nn.Module, op: str):
    with pytest.raises(
        TraceError, match=rf"training op {op}.* in module 1: .*model\.eval\(\) before torch\.export"
    ):
        trace(exported(nn.Sequential(nn.Linear(3, 3), layer).train()))


def exported_with_rows(function) -> torch.export.ExportedProgram:
    model = Function(function).eval()
    return torch.export.export(model, (noise(8, 3),), dynamic_shapes=({0: torch.export.Dim.AUTO},))


def test_an_exported_program_with_a_baked_size_is_refused():
    with pytest.raises(TraceError, match=r"holds only where Eq\(.*x_0.*, 5\)"):
        trace(exported_with_rows(lambda x: x[: int(x.shape[0] * 0.7)]))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[: x.shape[0] // 2],
        lambda x: x.reshape(-1, 2, 3),
        lambda x: x.sum(0),
        lambda x: x + 1 if x.shape[0] < 9 else x,
    ],
)
def test_exported_programs_with_harmless_assumptions(function):
    program = trace(exported_with_rows(function))
    assert torch.equal(program(noise(4, 3)), function(noise(4, 3)))


def test_state_of_an_exported_program():
    given = exported(Counter().eval())
    with pytest.raises(TraceError, match=r"buffer 'counter'.*state=True"):
        trace(given)
    program = trace(given, state=True)
    assert [s.name for s in program.signature.inputs] == ["x", "state.counter", "state.seen"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch, copying its own tree
def test_a_decomposed_export_keeps_its_norm_whole():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    program = trace(exported(model).run_decompositions())
    assert torch.ops.aten.batch_norm.default in [n.target for n in program.calls()]
    torch.testing.assert_close(program(noise(2, 3)), model(noise(2, 3)).detach())


def test_a_pt2_file(tmp_path: Path):
    model = nn.Linear(3, 3).eval()
    path = tmp_path / "model.pt2"
    torch.export.save(exported(model), path)
    assert torch.equal(trace(path, trust=True)(noise(2, 3)), model(noise(2, 3)).detach())
    with pytest.raises(ArtifactError, match="pass trust=True"):
        trace(path)
    path.write_bytes(path.read_bytes()[:100])
    for trust in (False, True):
        with pytest.raises(ArtifactError, match=r"model\.pt2: it is damaged"):
            trace(str(path), trust=trust)
    with pytest.raises(ArtifactError, match=r"missing\.pt2: no such file"):
        trace("missing.pt2")


class Spread(nn.Module):
    """Ops behind helper functions, in layers, and in a layer of its own."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(3, 3, 1)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, x):
        x = self.conv1(x)  # conv1
        for block in self.blocks:
            x = block(x)  # blocks
        return helper(x) - 1  # minus


def helper(x):
    return torch.relu(x)  # helper


def line_of(mark: str) -> int:
    return next(
        i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith(f"# {mark}")
    )


def test_every_op_knows_its_module_and_the_users_line():
    program = trace(Spread().eval(), (noise(2, 3, 4),))
    found = [(n.name, o.module, Path(o.file).name, o.line) for n in program.calls() for o in origins_of(n)]
    here = Path(__file__).name
    assert found == [
        ("conv1", "conv1", here, line_of("conv1")),
        ("linear", "blocks.0", here, line_of("blocks")),
        ("linear_1", "blocks.1", here, line_of("blocks")),
        ("relu", "", here, line_of("helper")),
        ("sub", "", here, line_of("minus")),
    ]
    first = str(program).splitlines()[1]
    assert first == (
        f"  %conv1: f32[2, 3, 4] = conv1d(%x, conv1.weight, conv1.bias)   # {here}:{line_of('conv1')} conv1"
    )


def test_a_long_chain_takes_linear_time():
    class Chain(nn.Module):
        def forward(self, x):
            for i in range(600):
                x = torch.relu(x + i)
            return x

    assert len(list(trace(Chain().eval(), (noise(2, 3),)).calls())) == 1200


class Pair:
    def __init__(self, a, b):
        self.a, self.b = a, b


def test_a_class_registered_without_keys_goes_in_and_comes_out():
    class Swap(nn.Module):
        def forward(self, pair):
            return Pair(pair.b, pair.a + 1)

    pytree.register_pytree_node(Pair, lambda p: ([p.a, p.b], None), lambda parts, _: Pair(*parts))
    node = pytree.SUPPORTED_NODES[Pair]
    try:
        program = trace(Swap().eval(), (Pair(noise(3, 2), noise(3, 2)),), dynamic_shapes={"pair": {0: "n"}})
        assert pytree.SUPPORTED_NODES[Pair] is node
        given = Pair(noise(5, 2), noise(5, 2))
        swapped = program(given)
        assert type(swapped) is Pair
        assert torch.equal(swapped.a, given.b)
        assert [s.name for s in program.signature.inputs] == ["pair_0", "pair_1"]
    finally:
        pytree._deregister_pytree_node(Pair)


def test_a_class_that_is_not_registered_is_named():
    class Bare(nn.Module):
        def forward(self, x):
            return Pair(x, x + 1)

    with pytest.raises(TraceError, match=r"it returns a Pair, .* or register the class"):
        trace(Bare().eval(), (noise(2),))
