"""Groups go by importance and goal, all that is tied to them with them; plans can be read, edited, applied."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxopt
from fxopt.errors import ArtifactError, FxoptError, InputError, PipelineError
from fxopt.passes.eliminate.eliminate_dead_weights import EliminateDeadWeights
from fxopt.passes.prune import (
    LayerView,
    Prune,
    PrunePlan,
    plan_pruning,
    prune_in_steps,
    scan_sensitivity,
)
from fxopt.pipeline import PassManager
from fxopt.program import Program
from fxopt.testing import check_pass
from fxopt.verification import double_program
from tests import zoo
from tests.passes.eliminate.test_eliminate_dead_weights import Attention, dead, error, shapes, two_layers
from tests.passes.helpers import program, rand
from tests.traced import traced

SMALL = ("mlp", "unet", "digits", "bert", "gpt2", "llama", "convnext")
LARGE = ("vit", "tied_encoder", "lstm", "squeezenet", "resnet10", "mobilenetv2", "shufflenetv2")
MODELS = [*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in LARGE)]


def hidden(units: int = 8, dynamic: bool = False) -> Program:
    """Two layers whose hidden unit i has norm i + 1, biases and what reads them aside."""
    w = torch.ones(units, 4) * (torch.arange(units)[:, None] + 1) / 2
    return program(two_layers, rand(2, 4), w=w, b=rand(units), v=rand(3, units, seed=1), dynamic=dynamic)


def pruned(before: Program, *, calibration: object = None, **options: object) -> Program:
    return PassManager.of([Prune(**options)]).run(before, calibration=calibration).program


def gone(after: Program, weight: str = "w", dim: int = 0) -> list[int]:
    """Positions at which a weight holds zeros only."""
    rows = after.weights[weight].movedim(dim, 0).flatten(1)
    return (rows == 0).all(1).nonzero().flatten().tolist()


def test_promises() -> None:
    check_pass(Prune(), examples=12)


def test_the_least_rows_go_with_bias_and_columns() -> None:
    after = pruned(hidden(), ratio=0.5)
    assert gone(after) == [0, 1, 2, 3]
    assert gone(after, "v", 1) == [0, 1, 2, 3]
    assert after.weights["b"].nonzero().flatten().tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize("name", MODELS)
def test_what_a_plan_expects_is_what_is_left(name: str) -> None:
    before = PassManager.parse("clean").run(traced(name, True)).program
    plan = plan_pruning(before, ratio=0.5)
    masked = pruned(before, plan=plan)
    after = PassManager.of([EliminateDeadWeights()]).run(masked).program
    assert plan_pruning(after, ratio=0.0).before == plan.after
    assert plan.after.params < 0.85 * plan.before.params
    wide, cut = double_program(masked), double_program(after)
    assert error(wide, cut, [torch.cat([x, x[:1]]) for x in zoo.model(name)[1]]) < 1e-11


@pytest.mark.parametrize("target", ["eager", "torchscript", "onnx"])
def test_files_are_smaller_and_verified_against_the_masks(target: str) -> None:
    module, args = zoo.model("digits")
    pipeline = "clean,prune{ratio=0.5},eliminate-dead-weights,O1"
    result = fxopt.optimize(module, args, pipeline=pipeline, target=target)
    assert result.report.verdict == "equivalent"
    assert any(note.startswith("prune changes the function on purpose") for note in result.report.notes)
    assert result.artifact.size < 0.45 * fxopt.optimize(module, args, target=target).artifact.size
    assert not torch.allclose(result.artifact(*args), module(*args), atol=1e-2)


def test_heads_go_as_one() -> None:
    before = program(Attention(), rand(2, 5, 16), dynamic=True)
    assert pruned(before, granularity="channel").weights["q.weight"] is before.weights["q.weight"]
    masked = pruned(before, granularity="head", ratio=0.25)
    after = PassManager.of([EliminateDeadWeights()]).run(masked).program
    assert [shapes(after)[f"{n}.weight"] for n in "qkvo"] == [(12, 16)] * 3 + [(16, 12)]


def test_a_granularity_that_the_net_has_not_is_reported() -> None:
    """It prunes nothing, and says what would."""
    program = fxopt.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(1, 4))
    result = fxopt.PassManager.parse("prune{ratio=0.5,granularity=head}").run(program)
    reasons = [r.reason for r in result.passes[0].refusals]
    assert "0.weight can't be pruned: its groups are channels: granularity=channel prunes them" in reasons


def test_hidden_units_go_with_their_rows_in_each_gate() -> None:
    net = nn.GRU(3, 4, 2, bidirectional=True)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            weight.fill_(1)
            rows = weight.view(3, 4, -1)
            rows[:, 1 if "reverse" in name else 2] = 0.1
            if "hh" in name and weight.dim() == 2:
                weight[:, 1:3] = 9  # what reads a unit says nothing of its own worth
    before = program(nn.Sequential(net, First()), rand(5, 2, 3))
    plan = plan_pruning(before, ratio=0.25)
    assert [(x.name, x.removed) for x in plan.layers] == [
        ("0.weight_ih_l0", (2,)),
        ("0.weight_ih_l0_reverse", (1,)),
        ("0.weight_ih_l1", (2,)),
        ("0.weight_ih_l1_reverse", (1,)),
    ]
    after = PassManager.of([EliminateDeadWeights()]).run(pruned(before, plan=plan)).program
    assert plan_pruning(after, ratio=0.0).before == plan.after


class First(nn.Module):
    """Of a layer's result and its states the sum over time of the first, which asks for all units."""

    def forward(self, given: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return given[0].sum(-1)


def test_a_residual_stream_is_cut_as_one() -> None:
    def function(x: torch.Tensor, a: torch.Tensor, w: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        stream = F.linear(x, a)
        return F.linear(stream + F.linear(stream.relu(), w), v)

    a, w = torch.full((4, 3), 0.1), torch.full((4, 4), 0.1)
    a[0], w[1], w[0] = 5.0, 7.0, 0.0
    before = program(function, rand(2, 3), a=a, w=w, v=rand(2, 4))
    (layer,) = plan_pruning(before, ratio=0.5).layers
    assert layer.removed == (2, 3)
    assert layer.weights == ("a", "w", "v") and layer.importance[0] == pytest.approx(math.sqrt(75))
    assert gone(pruned(before), "a") == gone(pruned(before), "v", 1) == [2, 3]


def net() -> nn.Module:
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(54, 4)
    )  # fmt: skip
    zoo.randomise_statistics(module)
    return module


def test_bn_scale_is_gamma() -> None:
    module = net()
    with torch.no_grad():
        module[1].weight.copy_(torch.tensor([3.0, -0.1, 2.0, 0.2, -4.0, 5.0, 0.3, 0.05]))
    plan = plan_pruning(program(module, rand(2, 3, 5, 5)), criterion="bn-scale", ratio=0.5)
    assert [(x.name, x.removed) for x in plan.layers] == [("0.weight", (1, 3, 6, 7))]
    assert ("3.weight", "nothing to judge by: no bn-scale") in [(x.weight, x.reason) for x in plan.left_out]


def test_fpgm_takes_what_is_near_the_others() -> None:
    w = torch.tensor([[0.0, 9], [1, 1], [1, 1.1], [1.1, 1], [9, 0], [-9, 0]])
    plan = plan_pruning(
        program(two_layers, rand(2, 2), w=w, b=rand(6), v=rand(3, 6)), criterion="fpgm", ratio=0.5
    )
    assert plan.layers[0].removed == (1, 2, 3)


def test_lamp_is_a_share_of_what_is_not_smaller() -> None:
    w = torch.tensor([[1.0], [3.0], [2.0]])
    plan = plan_pruning(
        program(two_layers, rand(2, 1), w=w, b=rand(3), v=rand(3, 3)), criterion="lamp", ratio=0.4
    )
    assert plan.layers[0].importance == pytest.approx((1 / 14, 1.0, 4 / 13))


def test_taylor_is_the_first_order_change_of_the_loss() -> None:
    """Of a linear net and a linear loss, the change itself."""
    before = program(
        lambda x, w, v: F.linear(F.linear(x, w), v), rand(2, 4), w=rand(6, 4), v=rand(3, 6, seed=1)
    )
    data = [(rand(2, 4, seed=s), rand(2, 3, seed=s + 9)) for s in range(3)]

    def loss(output: object, target: object) -> torch.Tensor:
        assert isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor)
        return (output * target).sum()

    (layer,) = plan_pruning(before, criterion="taylor", loss=loss, calibration=data).layers
    for unit in range(6):
        cut = before.copy()
        cut.weights["w"] = dead(before.weights["w"], unit)
        changes = [abs(loss(before(x), t) - loss(cut(x), t)).item() for x, t in data]
        assert layer.importance[unit] == pytest.approx(sum(changes) / 3, rel=1e-4)


def test_random_is_reproducible_and_seeded() -> None:
    plans = [plan_pruning(hidden(), criterion="random", seed=s) for s in (0, 0, 1)]
    assert plans[0] == plans[1] != plans[2]


@pytest.mark.parametrize("criterion", ["l1", "l2", "bn-scale", "fpgm", "lamp", "taylor", "random"])
def test_the_same_seed_and_data_give_the_same_plan(criterion: str) -> None:
    before = program(net(), rand(2, 3, 5, 5))
    plans = [
        plan_pruning(before, criterion=criterion, calibration=[rand(2, 3, 5, 5, seed=3)]) for _ in range(2)
    ]
    assert plans[0].dumps() == plans[1].dumps()
    assert any(x.removed for x in plans[0].layers)


def test_a_function_of_ones_own() -> None:
    def backwards(layer: LayerView) -> torch.Tensor:
        return -layer.rows[0].abs().sum(1)

    plan = plan_pruning(hidden(), criterion=backwards)
    assert plan.criterion == "backwards"
    assert plan.layers[0].removed == (4, 5, 6, 7)


def test_a_threshold() -> None:
    assert plan_pruning(hidden(), threshold=4.5).layers[0].removed == (0, 1, 2, 3)
    assert plan_pruning(hidden(), threshold=1e9).layers[0].gone == 7, "one channel stays"


@pytest.mark.parametrize("goal", ["params", "flops"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_budget_is_met_closely(goal: str, scope: str) -> None:
    before = PassManager.parse("clean").run(traced("digits", True)).program
    plan = plan_pruning(before, scope=scope, **{goal: 0.4})
    left = getattr(plan.after, goal) / getattr(plan.before, goal)
    assert 0.33 < left <= 0.4


def test_a_size_is_met() -> None:
    before = PassManager.parse("clean").run(traced("digits", True)).program
    after = PassManager.parse("prune{size=50KB},eliminate-dead-weights").run(before).program
    assert 40_000 < sum(t.numel() * t.element_size() for t in after.weights.values()) <= 50_000


def test_a_latency_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that says the operations, so that the test does not hang on the machine."""
    from fxopt.analysis import Cost
    from fxopt.passes.prune import _latency

    monkeypatch.setattr(_latency, "_seconds", lambda p, tensors, count: Cost.compute(p).at().flops * 1e-9)
    before = PassManager.parse("clean").run(traced("digits", True)).program
    plan = plan_pruning(before, latency=0.5)
    assert 0.35 < plan.after.flops / plan.before.flops <= 0.51


def test_global_ranks_layers_among_each_other() -> None:
    def three(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(F.linear(x, a).relu(), b).relu(), c)

    a = torch.ones(8, 4) + torch.arange(8)[:, None] * 1e-3
    b = torch.cat([torch.full((6, 8), 1e-3), torch.ones(2, 8)])
    before = program(three, rand(2, 4), a=a, b=b, c=rand(3, 8))
    first, second = plan_pruning(before, scope="global", ratio=0.375).layers
    assert (first.gone, second.removed) == (0, (0, 1, 2, 3, 4, 5))
    most = plan_pruning(before, scope="global", ratio=1.0, min_share=0.25).layers
    assert [x.gone for x in most] == [6, 6]


def test_what_is_ignored_stays() -> None:
    before = program(net(), rand(2, 3, 5, 5))
    assert [x.name for x in plan_pruning(before, ignore=("0",)).layers] == ["3.weight"]
    assert [x.name for x in plan_pruning(before, ignore=("3.*",)).layers] == ["0.weight"]


def test_widths() -> None:
    before = hidden(20)
    assert plan_pruning(before, ratio=0.5, multiple=8).layers[0].gone == 4
    assert plan_pruning(before, ratio=0.9, min_width=7).layers[0].gone == 13
    assert plan_pruning(before, ratio=1.0).layers[0].gone == 19


def test_the_budget_of_its_error_is_what_was_asked_for() -> None:
    assert Prune(max_error=0.25).budget() == 0.25
    assert Prune().budget() is None


def test_elements() -> None:
    before = hidden()
    after = pruned(before, granularity="weight", ratio=0.25)
    assert [int((after.weights[n] == 0).sum()) for n in ("w", "v")] == [8, 6]
    assert int((after.weights["b"] == 0).sum()) == 0
    assert plan_pruning(before, granularity="weight", threshold=1.2).layers[0].zeros == 8
    plan = plan_pruning(before, granularity="weight", params=0.75, scope="global")
    assert 0.7 < plan.after.params / plan.before.params <= 0.75


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3, 3)])
def test_two_of_four_stay(shape: tuple[int, ...]) -> None:
    op = F.linear if len(shape) == 2 else F.conv2d
    x = rand(2, 8) if len(shape) == 2 else rand(2, 8, 5, 5)
    before = program(lambda x, w: op(x, w), x, w=rand(*shape))
    after = pruned(before, granularity="block", pattern="2:4").weights["w"].movedim(1, -1)
    assert ((after.reshape(-1, 4) == 0).sum(1) == 2).all()
    old = before.weights["w"].movedim(1, -1).reshape(-1, 4).abs()
    assert torch.equal(after.reshape(-1, 4).abs().sum(1), old.topk(2, 1).values.sum(1))


def test_tiles_go_as_one() -> None:
    w = torch.ones(5, 6)
    w[:2, :3] = 0.1
    w[4:, 3:] = 0.2
    before = program(lambda x, w: F.linear(x, w), rand(2, 6), w=w)
    plan = plan_pruning(before, granularity="block", tile=(2, 3), ratio=0.34)
    assert (plan.layers[0].groups, plan.layers[0].zeros) == (6, 2)
    assert torch.equal(pruned(before, plan=plan).weights["w"] == 0, w < 1)


def test_a_plan_goes_through_a_file(tmp_path: Path) -> None:
    before = hidden()
    plan = plan_pruning(before, ratio=0.25)
    path = tmp_path / "plan.json"
    plan.save(path)
    assert PrunePlan.load(path) == plan
    data = json.loads(path.read_text())
    data["layers"][0]["removed"] = [7]
    path.write_text(json.dumps(data))
    result = PassManager.parse(f'prune{{plan="{path}"}}').run(before)
    assert gone(result.program) == [7]
    (attached,) = result.attachments
    assert isinstance(attached, PrunePlan)
    assert attached.after.params == plan.before.params - 8
    assert gone(pruned(before, plan=plan.with_removed("w", [1, 5]))) == [1, 5]


def test_a_table() -> None:
    text = plan_pruning(hidden(), ratio=0.25).table()
    assert text.splitlines()[1].split() == ["w", "8", "1", "2", "6", "3"]
    assert "parameters 64 -> 48 (75.0%)" in text


def test_what_norms_count_is_left_out_with_the_reason() -> None:
    before = program(
        lambda x, w, v: F.linear(F.layer_norm(F.linear(x, w), [6]), v), rand(2, 4), w=rand(6, 4), v=rand(3, 6)
    )
    plan = plan_pruning(before)
    assert not plan.layers
    assert ("w", "layer_norm") in [(x.weight, x.reason) for x in plan.left_out]
    (report,) = PassManager.of([Prune()]).run(before).passes
    assert "w can't be pruned: layer_norm" in [r.reason for r in report.refusals]


def test_tied_weights_stay_tied() -> None:
    module = copy.deepcopy(zoo.model("tied_encoder")[0])
    before = program(module, *zoo.model("tied_encoder")[1])
    after = PassManager.parse("prune,eliminate-dead-weights").run(before).program
    assert after.ties == before.ties


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.a(F.pad(x, (0, 2))).relu()).relu())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.5}, "ratio is 1.5; expected a share from 0 to 1"),
        ({"params": -0.1}, "params is -0.1; expected a share from 0 to 1"),
        ({"ratio": math.nan}, "ratio is nan; expected a share from 0 to 1"),
        ({"ratio": 0.5, "params": 0.5}, "ratio and params are given; expected one goal"),
        ({"params": 0.01}, "params=0.01 can't be met: the least possible is 0.125"),
        ({"size": 10}, "size=10 B can't be met: the least possible is 32 B"),
        ({"granularity": "block"}, 'granularity=block takes either pattern="2:4" or tile=[4,4], others take none'),
        ({"granularity": "block", "pattern": "4:2"}, "pattern is '4:2'; expected how many stay of how many"),
        ({"granularity": "weight", "flops": 0.5}, "zeros inside of weights save no flops"),
        ({"granularity": "weight", "criterion": "fpgm"}, "criterion=fpgm is one of channels"),
        ({"criterion": "l3"}, "no criterion 'l3'; they are l1, l2, bn-scale"),
        ({"criterion": "bn-scale"}, "the criterion bn-scale finds nothing to judge by in any layer"),
        ({"criterion": "taylor"}, "criterion=taylor needs calibration data: pass calibration="),
        ({"criterion": "taylor", "calibration": []}, "the calibration data is empty"),
        (
            {"criterion": "taylor", "loss": "mse", "calibration": [(rand(2, 4),)]},
            "batch 0 of the calibration data has 1 elements; expected the 1 arguments and then the target",
        ),
        ({"criterion": lambda layer: [1.0]}, "gives list for w; expected 8 numbers, one a group"),
        ({"criterion": lambda layer: [math.nan] * 8}, "the importance of 8 of 8 groups of w is NaN"),
        ({"ignore": ("vv",)}, "ignore: 'vv' fits no weight; did you mean 'v'?"),
        ({"min_width": 0}, "min_width and multiple must be at least 1"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_pruning(hidden(), **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mistakes_in_a_pipeline_are_marked() -> None:
    with pytest.raises(PipelineError, match=r"ratio is 2; expected a share") as caught:
        PassManager.parse("clean,prune{ratio=2}")
    assert "^" in str(caught.value)
    with pytest.raises(PipelineError, match="pass 'prune' needs calibration data"):
        PassManager.parse("prune{criterion=taylor}").run(hidden())


@pytest.mark.parametrize(
    ("layer", "removed", "message"),
    [
        ("w", range(8), "removes all 8 groups of w; at least one must stay"),
        ("w", [8], "removes group 8 of w, which has 8"),
    ],
)
def test_a_wrong_plan(layer: str, removed: object, message: str) -> None:
    before = hidden()
    plan = plan_pruning(before).with_removed(layer, removed)  # type: ignore[arg-type]
    with pytest.raises(FxoptError, match=message):
        pruned(before, plan=plan)


def test_a_plan_of_another_program() -> None:
    plan = plan_pruning(hidden(8))
    with pytest.raises(FxoptError, match="another program: w has 12 groups, the plan says 8"):
        pruned(hidden(12), plan=plan)
    with pytest.raises(FxoptError, match="another program: this one can't be pruned at w"):
        pruned(program(net(), rand(2, 3, 5, 5)), plan=plan)
    with pytest.raises(InputError, match="no layer 'ww'; did you mean 'w'"):
        plan.with_removed("ww", [0])


def test_a_plan_that_names_a_tied_weight() -> None:
    before = program(Tied(), rand(2, 4))
    plan = plan_pruning(before, granularity="weight")
    text = plan.dumps().replace('"a.weight"', '"b.weight"')
    with pytest.raises(FxoptError, match=r"names b.weight, which is tied to a.weight: prune that"):
        pruned(before, plan=PrunePlan.from_json(json.loads(text)))


def test_files_that_are_no_plans(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="can't be read"):
        PrunePlan.load(tmp_path / "none.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ArtifactError, match="is no JSON"):
        PrunePlan.load(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ArtifactError, match="is no JSON object"):
        PrunePlan.load(tmp_path / "list.json")


def test_nan_weights_are_told() -> None:
    before = hidden()
    before.weights["w"] = before.weights["w"].clone().fill_(math.nan)
    with pytest.raises(InputError, match="the importance of 8 of 8 groups of w is NaN"):
        plan_pruning(before)


def test_a_layer_that_is_dead_already_keeps_a_channel() -> None:
    before = program(two_layers, rand(2, 4), w=torch.zeros(6, 4), b=torch.zeros(6), v=rand(3, 6))
    assert plan_pruning(before, ratio=1.0).layers[0].gone == 5
    after = PassManager.parse("prune{ratio=1.0},eliminate-dead-weights").run(before).program
    assert after(rand(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("schedule", ["cubic", "linear"])
def test_steps_come_to_the_asked_ratio(schedule: str) -> None:
    widths: list[int] = []

    def between(step: Program) -> Program:
        widths.append(shapes(step)["w"][0])
        return step

    after = prune_in_steps(hidden(64), between, steps=4, ratio=0.5, schedule=schedule)
    assert widths == ([46, 36, 33, 32] if schedule == "cubic" else [56, 48, 40, 32])
    assert shapes(after)["v"] == (3, widths[-1])


def test_steps_come_to_the_asked_budget() -> None:
    after = prune_in_steps(hidden(64), lambda step: step, steps=3, params=0.4)
    assert 0.37 < sum(t.numel() for t in after.weights.values()) / 512 <= 0.4
    with pytest.raises(InputError, match="one goal of ratio, params, flops"):
        prune_in_steps(hidden(), lambda step: step, threshold=1.0)


def test_steps_of_elements_keep_the_zeros() -> None:
    after = prune_in_steps(hidden(16), lambda step: step, steps=3, ratio=0.5, granularity="weight")
    assert int((after.weights["w"] == 0).sum()) == 32


def test_sensitivity(tmp_path: Path) -> None:
    before, x = program(net(), rand(2, 3, 5, 5)), rand(2, 3, 5, 5)
    expected = before(x)
    assert isinstance(expected, torch.Tensor)

    def metric(run: Callable[..., object]) -> float:
        got = run(x)
        assert isinstance(got, torch.Tensor) and isinstance(expected, torch.Tensor)
        return -float((got - expected).square().mean())

    scan = scan_sensitivity(before, metric, ratios=(0.25, 0.75))
    assert (scan.baseline, scan.layers) == (0.0, ("0.weight", "3.weight"))
    assert all(0 > a > b for a, b in scan.scores)
    least = plan_pruning(before, ratio=0.25).with_removed("0.weight", ())
    assert scan.scores[1][0] == pytest.approx(metric(pruned(before, plan=least)))
    assert scan.most("3.weight", max_drop=-scan.scores[1][0]) == 0.25
    assert scan.most("3.weight", max_drop=0.0) == 0.0
    scan.plot(tmp_path / "scan.svg")
    picture = ElementTree.parse(tmp_path / "scan.svg").getroot()
    assert sum(e.tag.endswith("rect") for e in picture.iter()) == 4
    with pytest.raises(InputError, match="leave params out"):
        scan_sensitivity(before, metric, params=0.5)
