"""Matrix products and convolutions against torch, and how weights are stored."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fxopt.frontend import trace
from fxopt.lowering.onnx.target import OnnxTarget
from tests.lowering.onnx.harness import Case, check, model_of, opened, program_of

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


M, N = random(4, 6), random(6, 5)
BATCH = random(3, 4, 6)
IMAGE = random(2, 4, 9, 8)


class Product(nn.Module):
    """A product with a fixed matrix."""

    def __init__(self, function, *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(random(*shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


class Tied(nn.Module):
    """One matrix used as a table and twice as a head."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)
        self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.table(ids)
        return self.head(h), self.head(h.sum(1))


CASES = [
    Case("linear-2d", nn.Linear(6, 5), (M,), ops=("Gemm",)),
    Case("linear-2d-no-bias", nn.Linear(6, 5, bias=False), (M,), ops=("Gemm",)),
    Case("linear-3d", nn.Linear(6, 5), (BATCH,), ops=("MatMul", "Add")),
    Case("linear-1d", nn.Linear(6, 5), (random(6),), fixed=True),
    Case("linear-vector", lambda x, w: F.linear(x, w[0]), (BATCH, M), fixed=True),
    Case("linear-computed-weight", lambda x, w: F.linear(x, w * 2), (BATCH, M), fixed=True),
    Case("linear-int", lambda x: F.linear(x, torch.ones(2, 6, dtype=torch.long)), (M.long(),)),
    Case("linear-half", nn.Linear(6, 5).half(), (M.half(),)),
    Case("linear-bf16", nn.Linear(6, 5).bfloat16(), (BATCH.bfloat16(),)),
    Case("linear-double", nn.Linear(6, 5).double(), (BATCH.double(),)),
    Case("tied", Tied(), (torch.tensor([[1, 2, 3], [4, 5, 10]]),), ops=("Gemm", "Gather")),
    Case(
        "tied-bias-of-rows", Product(lambda x, w: F.linear(x, w, w[:4]), 6, 6), (BATCH,), ops=("Gemm", "Add")
    ),
    Case("tied-bias-of-a-row", Product(lambda x, w: F.linear(x, w, w[:1]), 6, 6), (BATCH,)),
    Case("tied-bias", Product(lambda x, w: F.linear(x, w, w[0]), 6, 6), (BATCH,), ops=("Gemm",)),
    Case("matmul", Product(torch.matmul, 6, 5), (BATCH,)),
    Case("matmul-broadcast", lambda x, y: x @ y.unsqueeze(1), (random(3, 2, 4, 6), random(3, 6, 5))),
    Case("matmul-vector", Product(torch.matmul, 6), (BATCH,)),
    Case("mm", Product(torch.mm, 6, 5), (M,)),
    Case("mm-int", lambda x: x @ x.t(), (M.long(),)),
    Case("mm-int8", lambda x: x @ x.t(), (M.to(torch.int8),)),
    Case("bmm", lambda x, y: torch.bmm(x, y), (BATCH, random(3, 6, 2))),
    Case("mv", Product(torch.mv, 6), (M,)),
    Case("dot", lambda x, y: torch.dot(x.flatten(), y.flatten()), (M, M)),
    Case("outer-of-inputs", torch.outer, (random(5), random(4)), fixed=True),
    Case("outer", lambda x, y: torch.outer(x[:, 0], y[:, 1]), (M, M)),
    Case("addmm", lambda x: torch.addmm(torch.ones(5), x, torch.ones(6, 5), beta=0.5, alpha=2), (M,)),
    Case("addmm-beta-0", lambda x: torch.addmm(x.new_full((5,), 1.0), x, torch.ones(6, 5), beta=0), (M,)),
    Case(
        "addmm-int",
        lambda x: torch.addmm(torch.ones(5, dtype=torch.long), x, torch.ones(6, 5, dtype=torch.long)),
        (M.long(),),
    ),
    Case("baddbmm", lambda x, y: torch.baddbmm(y, x, y.mT, alpha=0.5), (random(3, 4, 4), random(3, 4, 4))),
    Case("addbmm", lambda x, y: torch.addbmm(torch.ones(4, 4), x, y), (random(3, 4, 4), random(3, 4, 4))),
    Case("einsum", lambda x, y: torch.einsum("b i j, b j k -> b i k", x, y), (BATCH, random(3, 6, 2))),
    Case("einsum-ellipsis", lambda x: torch.einsum("...ij->...ji", x), (BATCH,)),
    Case("bilinear", nn.Bilinear(6, 6, 3), (M, M)),
    Case("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=1), (random(2, 4, 11),)),
    Case("conv2d", nn.Conv2d(4, 6, 3, padding=1), (IMAGE,), ops=("Conv",)),
    Case("conv2d-unbatched", nn.Conv2d(4, 6, 3), (IMAGE[0],), fixed=True),
    Case(
        "conv2d-grouped",
        nn.Conv2d(4, 8, (3, 2), stride=(2, 1), dilation=(1, 2), groups=4, bias=False),
        (IMAGE,),
    ),
    Case("conv2d-same", nn.Conv2d(4, 6, 3, padding="same", dilation=2), (IMAGE,)),
    Case("conv2d-same-even", nn.Conv2d(4, 6, 2, padding="same"), (IMAGE,)),
    Case("conv2d-reflect", nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (IMAGE,)),
    Case("conv2d-half", nn.Conv2d(4, 6, 3).half(), (IMAGE.half(),)),
    Case("conv2d-bf16", nn.Conv2d(4, 6, 3).bfloat16(), (IMAGE.bfloat16(),)),
    Case("conv3d", nn.Conv3d(2, 3, 2), (random(2, 2, 4, 5, 6),)),
    Case("conv_transpose1d", nn.ConvTranspose1d(4, 3, 3, stride=2), (random(2, 4, 7),)),
    Case(
        "conv_transpose2d", nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (IMAGE,), ops=("ConvTranspose",)
    ),
    Case("conv_transpose2d-dilated", nn.ConvTranspose2d(4, 3, 3, dilation=2, bias=False), (IMAGE,)),
    Case("conv_transpose3d", nn.ConvTranspose3d(2, 3, 2, stride=2), (random(2, 2, 2, 3, 2),)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case):
    check(case)


def weights(case: Case) -> dict[str, tuple[int, ...]]:
    model = model_of(OnnxTarget().emit(program_of(case), optimize=False))
    return {i.name: tuple(i.dims) for i in model.graph.initializer if not i.name.startswith("const")}


def test_a_weight_that_only_linears_read_is_stored_transposed():
    case = Case("two", nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), (BATCH,))
    assert weights(case) == {"0.weight.T": (6, 5), "0.bias": (5,), "1.weight.T": (5, 4), "1.bias": (4,)}


def test_a_matrix_of_rows_needs_no_transpose():
    assert weights(Case("one", nn.Linear(6, 5), (M,))) == {"weight": (5, 6), "bias": (5,)}


def test_a_tied_weight_is_stored_once_as_it_is():
    case = Case("tied", Tied(), (torch.tensor([[1, 2, 3], [4, 5, 10]]),))
    assert sorted(weights(case).values()) == [(11,), (11, 6)]


def test_a_transposed_convolution_may_be_cropped_away():
    model = nn.ConvTranspose2d(4, 3, (1, 3), padding=(2, 1)).eval()
    program = trace(model, (random(2, 4, 4, 3),), dynamic_shapes={"input": {0: "batch"}})
    artifact = opened(OnnxTarget().emit(program, optimize=False))
    assert artifact.run_flat([random(5, 4, 4, 3)])[0].shape == (5, 3, 0, 3)


class Grouped(nn.Module):
    """Rows by group; the groups are counted from the input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(random(3, 8, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kind = (x[:, 0] > 0).long() * 2  # none of the second group
        order = kind.argsort()
        offsets = (kind == torch.arange(3)[:, None]).sum(1).cumsum(0).to(torch.int32)
        return self.function(x[order], self.weight, offsets)


def grouped(x, w, at):
    return F.grouped_mm(x.bfloat16(), w.bfloat16(), offs=at)


@pytest.mark.parametrize("opset", [18, 20])
def test_groups_of_rows(opset):
    check(Case("groups", Grouped(grouped), (random(7, 8),)), opset=opset)


def test_experts_of_transformers():
    from transformers.integrations import moe  # noqa: F401  (registers the op)

    op = torch.ops.transformers.grouped_mm_fallback
    check(Case("groups", Grouped(op), (random(7, 8),)))
    check(Case("zeros behind", Grouped(lambda x, w, at: op(x, w, at // 2)), (random(7, 8),)))


@pytest.mark.parametrize(
    ("left", "right"), [((8, 16), (16, 8)), ((3, 4, 8), (8, 16)), ((3, 4, 8), (3, 8, 16))]
)
def test_other_groups(left, right):
    at = None if len(left) == len(right) == 3 else torch.tensor([4, 8, 16], dtype=torch.int32)

    check(Case("groups", lambda x, y: grouped(x, y, at), (random(*left), random(*right)), fixed=True))
