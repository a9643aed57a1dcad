"""Programs on other devices; `meta` stands for one, as every machine has it."""

import pytest
import torch
from torch import Tensor, nn

import fxopt
from fxopt.errors import InputError
from fxopt.program import Program
from fxopt.program.devices import memory_of, moved
from tests.traced import traced


class Positions(nn.Module):
    """Makes tensors of its own: a range, a mask, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("shift", torch.ones(4))

    def forward(self, ids: Tensor) -> tuple[Tensor, int]:
        """Takes [batch, length]."""
        length = ids.shape[1]
        place = torch.arange(length, device=ids.device)
        mask = torch.ones(length, length, device=ids.device, dtype=torch.bool).tril()
        x = self.table(ids) + place[None, :, None] + self.shift + torch.full((4,), 0.5, device=ids.device)
        return self.head(torch.where(mask.any(1)[None, :, None], x, 0.0)), length


@pytest.fixture(scope="module")
def program() -> Program:
    ids = torch.zeros(2, 5, dtype=torch.int64)
    return fxopt.trace(Positions().eval(), (ids,), dynamic_shapes=({0: "batch", 1: "length"},))


def test_every_tensor_of_the_graph_is_there(program: Program) -> None:
    there = program.to("meta")
    for node in there.graph.nodes:
        if isinstance(value := node.meta.get("val"), torch.Tensor):
            assert value.device.type == "meta", node
            assert value.dtype == program_value(program, node.name).dtype
    assert all(w.device.type == "meta" for w in there.weights.values())
    assert {s.device for s in (*there.signature.inputs, *there.signature.tensor_inputs)} == {"meta"}
    result, length = there(torch.zeros(3, 4, dtype=torch.int64, device="meta"))  # type: ignore[misc]
    assert (result.shape, result.device.type, length) == ((3, 4, 7), "meta", 4)


def program_value(program: Program, name: str) -> torch.Tensor:
    value = next(n for n in program.graph.nodes if n.name == name).meta["val"]
    assert isinstance(value, torch.Tensor)
    return value


def test_the_original_stays_and_a_move_to_where_it_is_changes_nothing(program: Program) -> None:
    ids = torch.randint(0, 7, (3, 6))
    expected = program(ids)
    program.to("meta")
    again = program.to("cpu")
    for one, other in zip(expected, again(ids), strict=True):  # type: ignore[call-overload]
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    assert all(again.weights[n].data_ptr() == w.data_ptr() for n, w in program.weights.items())
    assert str(again.graph) == str(program.graph)


def test_what_belongs_to_it_goes_along(program: Program) -> None:
    there = program.to("meta")
    assert (there.name, there.ties, there.history) == (program.name, program.ties, program.history)
    assert [type(w) for w in there.weights.values()] == [type(w) for w in program.weights.values()]
    assert [n.meta.get("origins") for n in there.graph.nodes] == [
        n.meta.get("origins") for n in program.graph.nodes
    ]
    assert there.signature.symbols == program.signature.symbols


def test_without_values_it_runs_all_the_same(program: Program) -> None:
    bare = moved(program, "meta", values=False)
    assert all("val" not in n.meta for n in bare.graph.nodes)
    assert bare(torch.zeros(1, 2, dtype=torch.int64, device="meta"))[1] == 2  # type: ignore[index]


def test_passes_run_on_it(program: Program) -> None:
    done = fxopt.run_pipeline(program.to("meta"), "eliminate-identities,eliminate-dead-code")
    assert done(torch.zeros(1, 2, dtype=torch.int64, device="meta"))[1] == 2  # type: ignore[index]


@pytest.mark.parametrize("name", ["unet", "bert", "gpt2", "lstm"])
def test_models_of_the_zoo_run_on_it(name: str) -> None:
    program = traced(name, True)
    there = program.to("meta")
    inputs = [
        torch.zeros(n.meta["val"].shape, dtype=n.meta["val"].dtype, device="meta")
        for n in traced(name, False).placeholders()
    ]
    for got, node in zip(there.run_flat(inputs), traced(name, False).output_nodes(), strict=True):
        assert isinstance(got, torch.Tensor)
        assert got.device.type == "meta"
        assert got.shape == node.meta["val"].shape  # type: ignore[attr-defined]


def test_an_eager_artifact_moves_and_others_say_that_they_do_not(program: Program) -> None:
    there = fxopt.lower(program, "eager", verify=False).to("meta")
    result, length = there(torch.zeros(3, 4, dtype=torch.int64, device="meta"))  # type: ignore[misc]
    assert (result.shape, result.device.type, length) == ((3, 4, 7), "meta", 4)
    script = fxopt.lower(program, "torchscript", verify=False)
    assert script.to("cpu") is script
    with pytest.raises(InputError, match="torchscript artifacts run on the CPU, not on meta: lower to eager"):
        script.to("meta")


@pytest.mark.parametrize("device", ["cuda:9", "nonsense"])
def test_a_device_that_is_not_here(program: Program, device: str) -> None:
    with pytest.raises(InputError, match=f"the device '{device}' is not here"):
        program.to(device)


def test_how_much_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    assert memory_of(torch.device("cpu:1")) == 4_096_000
    assert memory_of(torch.device("meta")) is None
    monkeypatch.setattr("os.sysconf_names", {"SC_PAGE_SIZE": 1})
    assert memory_of(torch.device("cpu")) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_function(program: Program) -> None:
    ids = torch.randint(0, 7, (3, 6))
    expected, _ = program(ids)  # type: ignore[misc]
    got, _ = program.to("cuda:0")(ids.cuda())  # type: ignore[misc]
    torch.testing.assert_close(got.cpu(), expected)
    results = fxopt.run(program, [ids] * 8, devices=["cuda:0", "cpu"])
    for one, _ in results.outputs:  # type: ignore[attr-defined]
        torch.testing.assert_close(one, expected)
