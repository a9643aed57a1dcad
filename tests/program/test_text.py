import pytest
import torch
from torch import nn

from fxopt.frontend import trace
from fxopt.program import Program
from fxopt.program.text import call_text, human_bytes, value_text
from tests.frontend.good_models import CASES, Function, noise


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (1_500_000, "1.5 MB"),
        (2_000_000_000, "2.0 GB"),
        (7 * 10**12, "7000.0 GB"),
    ],
)
def test_sizes(count: int, text: str):
    assert human_bytes(count) == text


def lines(function, *args: torch.Tensor, dynamic: object = None) -> list[str]:
    """The calls, without the comment and indentation."""
    program = trace(Function(function).eval(), args, dynamic_shapes=dynamic)
    return [
        line.split("   #")[0].strip()
        for line in str(program).splitlines()[1 : 1 + len(list(program.calls()))]
    ]


x = noise(2, 3, 4)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + 1, ["%add: f32[2, 3, 4] = add(%x, 1)"]),
        (lambda x: torch.add(x, x, alpha=2), ["%add: f32[2, 3, 4] = add(%x, %x, alpha=2)"]),
        (lambda x: x.sum(-1), ["%sum_1: f32[2, 3] = sum(%x, [2])"]),
        (lambda x: x.sum(0, True), ["%sum_1: f32[1, 3, 4] = sum(%x, [0], True)"]),
        (lambda x: x.to(torch.int32), ["%to: i32[2, 3, 4] = to(%x, i32)"]),
        (lambda x: x.view(6, 4), ["%reshape: f32[6, 4] = reshape(%x, [6, 4])"]),
        (lambda x: x.clamp(max=3), ["%clamp: f32[2, 3, 4] = clamp(%x, None, 3)"]),
        (lambda x: torch.cat([x, x]), ["%cat: f32[4, 3, 4] = cat([%x, %x])"]),
        (
            lambda x: x.max(1)[1],
            ["%max_1: (f32[2, 4], i64[2, 4]) = max(%x, 1)", "%getitem: i64[2, 4] = getitem(%max_1, 1)"],
        ),
        (
            lambda x: torch.nn.functional.max_pool1d(x, 2),
            ["%max_pool1d: f32[2, 3, 2] = max_pool1d(%x, [2], [2])"],
        ),
        (
            lambda x: torch.zeros(3, dtype=torch.bool),
            ["%zeros: bool[3] = zeros([3], dtype=bool, device=cpu, pin_memory=False)"],
        ),
    ],
)
def test_one_line_a_call_with_trailing_defaults_left_out(function, expected: list[str]):
    assert lines(function, x) == expected


def test_sizes_by_name():
    def forward(x):
        n = x.shape[0]
        return x.reshape(n * 4, 3), n / 2

    assert lines(forward, x, dynamic={"x": {0: "batch"}}) == [
        "%sym_size: int batch = sym_size(%x, 0)",
        "%mul: int 4*batch = mul(%sym_size, 4)",
        "%reshape: f32[4*batch, 3] = reshape(%x, [%mul, 3])",
        "%truediv: float = truediv(%sym_size, 2)",
    ]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 10)
        self.head.weight = self.embed.weight
        whole = noise(40)
        self.register_buffer("low", whole[:10])
        self.register_buffer("high", whole[30:])

    def forward(self, ids):
        return {"logits": self.head(self.embed(ids)) + self.low + self.high, "kind": "text"}


def test_the_whole_text():
    program = trace(Shared().eval(), (torch.tensor([[1, 2]]),), dynamic_shapes={"ids": {0: "batch"}})
    text = str(program).splitlines()
    assert text[0] == "program Shared(ids: i64[batch, 2]):"
    assert text[1].startswith("  %embed: f32[batch, 2, 4] = embedding(embed.weight, %ids)   # test_text.py:")
    assert text[1].endswith(" embed")
    assert text[5:] == [
        "  return logits=%add_1, kind='text'",
        "weights: 4, 280 B",
        "  embed.weight: f32[10, 4] 160 B   = head.weight",
        "  head.bias: f32[10] 40 B",
        "  low: f32[10] 40 B   (on the memory of high)",
        "  high: f32[10] 40 B   (on the memory of low)",
    ]


def test_overlapping_views_are_counted_once():
    case = CASES["PartialViews"]
    assert "weights: 3, 128 B" in str(trace(case.make().eval(), case.args))


def test_custom_ops_keep_their_namespace():
    case = CASES["custom_op"]
    assert "= fxopt_tests.scaled(%add, 2.0)" in str(trace(case.make().eval(), case.args))


def test_a_call_alone_and_by_other_names():
    program = trace(Function(lambda x: x + 1).eval(), (x,))
    [call] = program.calls()
    assert call_text(call) == "add(%x, 1)"
    assert call_text(call, {call.args[0]: "y"}) == "add(%y, 1)"


def test_values():
    program: Program = trace(Function(lambda x: x + 1).eval(), (x,))
    value = next(program.calls()).meta["val"]
    assert value_text(program, value) == "f32[2, 3, 4]"
    assert value_text(program, (value, [value], None)) == "(f32[2, 3, 4], (f32[2, 3, 4]), NoneType)"
    assert (value_text(program, 3), value_text(program, True), value_text(program, 2.5)) == (
        "int 3",
        "bool",
        "float",
    )


def test_short_form():
    assert (
        repr(trace(nn.Linear(3, 2).eval(), (noise(1, 3),)))
        == "<Program Linear(input: f32[1, 3]), 1 ops, 2 weights>"
    )
