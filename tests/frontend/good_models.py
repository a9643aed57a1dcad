"""Models at the edges of what can be traced: each must trace to the same function."""

import collections
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from fxopt.frontend import trace
from fxopt.program import Program

Forward = Callable[..., object]


@dataclass
class Case:
    """A model and a call of it; `dynamic` as `trace` takes `dynamic_shapes`."""

    make: Callable[[], nn.Module]
    args: tuple[object, ...]
    kwargs: dict[str, object] = field(default_factory=dict)
    dynamic: object = None
    exact: bool = True
    """Bit for bit; not where the model takes another road for tensors that are one object, or a norm is respelt."""


class Function(nn.Module):
    """A module out of a function of its inputs."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x)


class Function2(Function):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> object:
        return self.function(x, y)


CASES: dict[str, Case] = {}


def traced(function: Forward, dynamic: object, *args: torch.Tensor) -> Program:
    """The program of a function of one or two tensors."""
    model = (Function if len(args) == 1 else Function2)(function).eval()
    return trace(model, args, dynamic_shapes=dynamic)


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def case(
    *args: object, dynamic: object = None, **kwargs: object
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Registers a module class, or a function of one or two tensors, under its name."""

    def register(thing: type[nn.Module]) -> type[nn.Module]:
        make = (
            thing if isinstance(thing, type) else (lambda: (Function if len(args) == 1 else Function2)(thing))
        )
        CASES[thing.__name__] = Case(make, args, kwargs, dynamic)
        return thing

    return register


# In-place writes


@case(noise(2, 3))
def inplace_on_fresh_value(x):
    y = x * 2
    y.add_(1)
    return y.relu_()


@case(noise(2, 3))
def masked_assignment(x):
    y = x.clone()
    y[:, 0] = 1
    return y


@case(noise(2, 3))
def assignment_by_mask(x):
    y = x + 0
    y[x > 0] = 5.0
    return y


@case(noise(4, 6))
def inplace_on_view(x):
    y = x + 1
    y[1:3].mul_(2)
    y.view(2, 12).add_(1)
    return y


@case(noise(4, 6))
def inplace_on_chunks(x):
    y = x * 1
    a, b = y.chunk(2, 1)
    a.add_(1)
    return y, b


@case(noise(2, 3, dtype=torch.float16), noise(2, 3))
def inplace_promotes(x, y):
    z = x * 2
    z.add_(y)
    return z


@case(noise(3), noise(3, dtype=torch.float64))
def inplace_with_double(x, y):
    z = x * 2
    z.add_(y)
    return z


@case(noise(2, 3))
def inplace_after_dropout(x):
    y = F.dropout(x * 1, 0.5, training=False)
    z = F.relu(y)
    y.add_(1)
    return y + z


@case(noise(2, 3))
def inplace_activations(x):
    y = F.hardtanh(x + 1, inplace=True)
    y = F.leaky_relu(y, 0.1, inplace=True)
    return F.silu(y, inplace=True)


@case(noise(2, 3))
def augmented_assignments(x):
    y = x.clone()
    y += 1
    y *= x
    y -= 0.5
    y /= 2
    return y


@case(noise(2, 3))
def zeros_filled_in(x):
    y = torch.zeros(2, 6)
    y[:, :3] = x
    y[:, 3:].copy_(x * 2)
    return y


@case(noise(2, 3))
def out_argument(x):
    y = torch.empty(2, 3)
    torch.mul(x, 2, out=y)
    return y + 1


@case(noise(3, 3))
def fill_diagonal(x):
    y = x.clone()
    y.fill_diagonal_(0)
    return y


@case(noise(2, 5))
def scatter_inplace(x):
    y = torch.zeros(2, 5)
    index = torch.tensor([[0, 1], [2, 3]])
    y.scatter_(1, index, 3.0)
    return y + x


# Constants


@case(noise(2, 3))
def tensor_literal(x):
    return x + torch.tensor([1.0, 2.0, 3.0])


@case(noise(2, 3))
def scalar_literal(x):
    return x * torch.tensor(2) + torch.tensor(True)


@case(noise(2, 3))
def literal_written(x):
    t = torch.tensor([1.0, 2.0, 3.0])
    t[0] = 5
    return x + t


@case(noise(2, 3))
def created_in_forward(x):
    return x + torch.arange(3, dtype=x.dtype) + torch.ones(2, 3) + torch.full((3,), 2.0) + torch.eye(2, 3)


@case(noise(2, 3))
class PlainTensorAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.t = noise(3)
        self.ts = [noise(3), noise(3) + 1]

    def forward(self, x):
        return x + self.t + self.ts[0] * self.ts[1]


@case(noise(2, 3))
class NonPersistentBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", noise(3), persistent=False)

    def forward(self, x):
        return x * self.scale


GLOBAL = noise(3)


@case(noise(2, 3))
def global_tensor(x):
    return x + GLOBAL


@case(noise(2, 3))
class ZeroDimParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, x):
        return x * self.scale + self.count


# Tied weights


@case(torch.tensor([[1, 2, 3]]))
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


@case(noise(2, 4))
class PartialViews(nn.Module):
    def __init__(self):
        super().__init__()
        whole = noise(8, 4)
        self.first, self.second = nn.Parameter(whole[:4]), nn.Parameter(whole[4:])
        self.register_buffer("whole", whole)

    def forward(self, x):
        return x @ self.first.t() + x @ self.second.t() + (x @ self.whole.t())[:, :4]


@case(noise(2, 4))
class SharedModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a

    def forward(self, x):
        return self.b(self.a(x)) + self.a(x)


@case(noise(2, 4))
class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("w", noise(4, 6).t())
        self.register_buffer("e", noise(1, 4).expand(2, 4))

    def forward(self, x):
        return (x + self.e) @ self.w.t()


# What is demanded of values is taken as kept


@case(noise(2, 3), dynamic={"x": {0: "n"}})
def asserts_on_values(x):
    assert (x > -100).all()
    assert not x.isnan().any() and x.max() < 100, "not finite"
    assert x.sum().item() <= 1000 * x.numel()
    return x * 2


@case(noise(3, 4))
def demanding(x):
    assert x.max() < 100
    assert x.shape[0] > 1
    assert torch.tensor(x.shape[1]) > 1
    if x.isnan().any():
        raise ValueError
    torch._assert((x > -100).all(), "small")
    torch._assert_async((x > -200).all())
    torch._check(x.min().item() > -300)
    return x + 1


@case(noise(2, 3), dynamic={"x": {0: "n"}})
def raises_of_values(x):
    if x.isnan().any() or x.isinf().any():
        raise ValueError(f"not finite: {x.shape[0]} rows")
    if x.abs().max() <= 100:
        return x * 2
    raise ValueError("large")


# Outputs


@case(noise(2, 3))
def returns_input(x):
    return x, x + 1, x


@case(noise(2, 3))
def returns_view_of_input(x):
    return x.view(-1), x.t()


@case(noise(2, 3))
class ReturnsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(noise(3))

    def forward(self, x):
        return self.w, x * self.w


@case(noise(2, 3))
def returns_mixture(x):
    return {"a": (x + 1, None, 3), "b": [x, {"c": x * 2, "d": "text", "e": 1.5, "f": True}]}


class Pair(NamedTuple):
    """A container with names."""

    first: torch.Tensor
    second: torch.Tensor


@case(noise(2, 3))
def returns_namedtuple(x):
    return Pair(x + 1, x * 2)


@case(noise(2, 3))
def returns_ordered_dict(x):
    return collections.OrderedDict(b=x + 1, a=x * 2)


@case(noise(2, 3))
def returns_nothing_computed(x):
    return x


@case(noise(2, 3))
def returns_one_in_a_list(x):
    return [x.sum()]


@case(noise(2, 3))
def returns_empty(x):
    return x + 1, [], {}


@case(noise(4, 3), dynamic={"x": {0: "batch"}})
def returns_size(x):
    return x + 1, x.shape[0], x.shape[0] * 2 + 1, x.shape


@case(noise(4, 3))
def returns_static_size(x):
    return x + 1, x.shape[0], x.shape


@case(noise(3, 4))
def returns_torch_namedtuple(x):
    return torch.max(x, 1)


# Inputs


@case(noise(2, 3), noise(2, 3))
def unused_input(x, y):
    return x + 1


@case(noise(2, 3), 2, True, "relu", None, 0.5)
class LiteralInputs(nn.Module):
    def forward(self, x, times, flag, kind, nothing, rate):
        y = getattr(torch, kind)(x) if flag else x
        for _ in range(times):
            y = y * rate
        return y if nothing is None else y + nothing


@case(torch.tensor(2.5))
def zero_dim_input(x):
    return x * 2


@case(torch.tensor([[True, False], [False, True]]))
def bool_input(x):
    return ~x, x.any(), x.float().mean()


@case(torch.arange(6).reshape(2, 3), dynamic=({0: "n"},))
def int_input(x):
    return x // 2, x % 2, x.sum(0)


@case(x=noise(2, 3), y=noise(3), dynamic={"x": {0: "batch"}})
class KeywordOnly(nn.Module):
    def forward(self, *, x, y):
        return x + y


@case(noise(2, 3), y=noise(3), dynamic={"x": {0: "batch"}})
class Mixed(nn.Module):
    def forward(self, x, *, scale=2.0, y):
        return x * scale + y


@case(noise(2, 3), noise(2, 3), noise(2, 3), dynamic=({0: "batch"},) * 3)
class Variadic(nn.Module):
    def forward(self, *xs):
        return sum(xs[1:], xs[0])


@case(noise(2, 3), a=noise(3), b=noise(3))
class AnyKeywords(nn.Module):
    def forward(self, x, **more):
        return x + more["a"] * more["b"]


@case(
    {"a": noise(2, 3), "b": [noise(3), noise(2, 3)]}, dynamic={"inputs_a": {0: "n"}, "inputs_b_1": {0: "n"}}
)
class DictInput(nn.Module):
    def forward(self, inputs):
        return inputs["a"] + inputs["b"][0] * inputs["b"][1]


@case(Pair(noise(2, 3), noise(2, 3)))
class NamedTupleInput(nn.Module):
    def forward(self, pair):
        return pair.first - pair.second


@case(noise(2, 3))
class Defaults(nn.Module):
    def forward(self, x, mask=None, scale=2):
        return x * scale if mask is None else x * mask


@case(noise(2, 3), None, noise(3))
class NoneBetween(nn.Module):
    def forward(self, x, mask, y):
        return x + y if mask is None else x * mask


@case(noise(2, 3))
class SameTensorTwice(nn.Module):
    def forward(self, input):
        return input + 1


@case(noise(2, 3))
class NamedInputWithAView(nn.Module):
    """A copied graph calls `input` otherwise; the view makes it the decompositions' work."""

    def forward(self, input):
        y = input + 1
        first = y[:, 0]
        y.add_(1)
        return y, first


CASES["same_object_twice"] = Case(
    lambda: Function2(lambda x, y: x + 2 * y), (CASES["returns_input"].args[0],) * 2
)


@case(noise(0, 3), dynamic=({0: "n"},))
def empty_example(x):
    return x * 2


# Dynamic sizes


@case(noise(1, 3), dynamic={"x": {0: "batch"}})
def batch_given_as_one(x):
    return x.reshape(x.shape[0], -1) + 1


@case(noise(2, 5), noise(3, 5), dynamic={"x": {0: "m", 1: "k"}, "y": {0: "n", 1: "k"}})
def several_sizes(x, y):
    return x @ y.t()


@case(noise(4, 6), dynamic={"x": {1: "n"}})
def half(x):
    return x[:, : x.shape[1] // 2]


@case(noise(4, 6), dynamic={"x": {0: "n"}})
def reshape_by_size(x):
    return x.reshape(x.shape[0] * 2, 3), x.repeat(2, 1), torch.arange(x.shape[0])


@case(noise(2, 3, 8, 8), dynamic={"x": {0: "n", 2: "h", 3: "w"}})
def image_sizes(x):
    return F.interpolate(F.max_pool2d(x, 2), scale_factor=2)


@case(noise(2, 3), noise(5, 3), dynamic={"x": {0: "a"}, "y": {0: "b"}})
def concatenation(x, y):
    return torch.cat([x, y])


@case(noise(4, 3), dynamic={"x": {0: "n"}})
def mean_by_hand(x):
    return x.sum(0) / x.shape[0]


@case(noise(4, 3), dynamic={"x": {0: "n"}})
def size_as_tensor(x):
    return x * torch.tensor(x.shape[0])


@case(noise(2, 4), noise(4, 4), dynamic={"x": {0: "n"}})
def causal_mask(x, y):
    n = x.shape[0]
    return torch.full((n, n), float("-inf")).triu(1)


# Modes


@case(noise(2, 3))
def without_gradients(x):
    with torch.no_grad():
        y = x * 2
    with torch.enable_grad():
        return y + 1


@case(noise(2, 3))
class AssignsAttribute(nn.Module):
    """Overwrites an attribute that it reads only afterwards."""

    def __init__(self):
        super().__init__()
        self.last, self.calls, self.seen = noise(2, 3), 0, []

    def forward(self, x):
        self.last = x + 1
        self.calls += 1
        self.seen.append(x.shape)
        self.fresh = x
        return x + self.last


@case(noise(2, 3))
class LazyCache(nn.Module):
    """Makes a table at its first call."""

    def __init__(self):
        super().__init__()
        self.table, self.tables = None, {}

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(3.0)
        return x + self.table + self.tables.setdefault(3, torch.ones(3))


@case(noise(2, 3))
class DecoratedNoGrad(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        return x * 2


@case(noise(2, 3))
class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = self.linear(x)
        return y.float() + 1


@case(noise(2, 3))
def autocast_disabled(x):
    with torch.autocast("cpu", enabled=False):
        return x @ x.t()


@case(noise(2, 3))
def detached(x):
    return x.detach() + 1


@case(noise(2, 3, dtype=torch.float64))
def double(x):
    return torch.softmax(x, -1) + 1


@case(noise(2, 3, dtype=torch.bfloat16))
def bfloat16(x):
    return torch.softmax(x, -1) + 1


CASES["half_linear"] = Case(lambda: nn.Linear(3, 3).half(), (noise(2, 3, dtype=torch.float16),))
CASES["bfloat16_norm"] = Case(lambda: nn.LayerNorm(3).bfloat16(), (noise(2, 3, dtype=torch.bfloat16),))


@case(noise(2, 3))
def mapped_over_rows(x):
    return torch.vmap(lambda row: row * row.sum())(x)


@case(noise(4, 3), dynamic={"x": {0: "n"}})
def first_chunk(x):
    return x.chunk(2)[0]


@case(noise(3, 3), torch.tensor([1, 2, 1]))
def repeated_by_values(x, y):
    return x.repeat_interleave(y, 0)


class Square(torch.autograd.Function):
    """A user's own derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


@case(noise(2, 3))
def own_derivative(x):
    return Square.apply(x) + 1


# Modules

CASES["lstm"] = Case(lambda: nn.LSTM(4, 5, 2, batch_first=True), (noise(2, 3, 4),))
CASES["lstm_with_state"] = Case(
    lambda: nn.LSTM(4, 5),
    (noise(3, 2, 4), (noise(1, 2, 5), noise(1, 2, 5))),
    dynamic={"input": {1: "n"}, "hx_0": {1: "n"}, "hx_1": {1: "n"}},
)
CASES["gru"] = Case(lambda: nn.GRU(4, 5, batch_first=True), (noise(2, 3, 4), noise(1, 2, 5)))
CASES["rnn"] = Case(lambda: nn.RNN(4, 5, batch_first=True), (noise(2, 3, 4),))
CASES["lstm_cell"] = Case(lambda: nn.LSTMCell(4, 5), (noise(2, 4),))
CASES["attention"] = Case(
    lambda: nn.MultiheadAttention(8, 2, batch_first=True), (noise(2, 3, 8),) * 3, exact=False
)
CASES["attention_masked"] = Case(
    lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    (noise(2, 3, 8),) * 3,
    {"key_padding_mask": torch.tensor([[False, False, True], [False, True, True]]), "need_weights": False},
    exact=False,
)
CASES["encoder"] = Case(
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    ),
    (noise(2, 3, 8),),
    dynamic={"src": {0: "n", 1: "t"}},
)
CASES["transformer"] = Case(
    lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (noise(2, 3, 8), noise(2, 4, 8))
)
CASES["transformer_with_a_mask"] = Case(
    lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    (noise(2, 3, 8), noise(2, 4, 8)),
    {"tgt_mask": nn.Transformer.generate_square_subsequent_mask(4)},
    exact=False,
)
CASES["batch_norm_without_statistics"] = Case(
    lambda: nn.BatchNorm1d(3, track_running_stats=False), (noise(4, 3),), exact=False
)
CASES["instance_norm"] = Case(lambda: nn.InstanceNorm1d(3, affine=True), (noise(2, 3, 5),))
CASES["sequential"] = Case(
    lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.ReLU(True),
        nn.Flatten(),
        nn.Linear(4 * 64, 2),
    ),
    (noise(2, 3, 8, 8),),
    dynamic={"input": {0: "batch"}},
)
CASES["weight_norm"] = Case(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), (noise(2, 3),))
CASES["spectral_norm"] = Case(
    lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), (noise(2, 3),)
)


def hooked(register: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """A layer whose weight is computed by a hook that assigns it."""

    def make() -> nn.Module:
        layer = nn.Linear(3, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            register(layer)
        return nn.Sequential(layer)

    return make


CASES["weight_norm_by_hook"] = Case(hooked(nn.utils.weight_norm), (noise(2, 3),))
CASES["spectral_norm_by_hook"] = Case(hooked(nn.utils.spectral_norm), (noise(2, 3),))
CASES["pruned"] = Case(hooked(lambda m: prune.l1_unstructured(m, "weight", 0.5)), (noise(2, 3),))
CASES["data_parallel"] = Case(lambda: nn.DataParallel(nn.Linear(3, 4)), (noise(2, 3),))
CASES["graph_module"] = Case(
    lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU())),
    (noise(2, 3),),
    dynamic=({0: "n"},),
)


def compiled() -> nn.Module:
    """A module behind torch.compile, whose own imports warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(nn.Linear(3, 4))


CASES["compiled"] = Case(compiled, (noise(2, 3),))
CASES["einsum"] = Case(
    lambda: Function2(lambda x, y: torch.einsum("bi,ij->bj", x, y)), (noise(2, 3), noise(3, 4))
)


class Wrapper(nn.Module):
    """Forwards everything, as wrappers do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


CASES["wrapped"] = Case(lambda: Wrapper(nn.Linear(3, 4)), (noise(2, 3),))
CASES["wrapped_by_keyword"] = Case(lambda: Wrapper(KeywordOnly()), (), {"y": noise(3), "x": noise(2, 3)})


@torch.library.custom_op("fxopt_tests::scaled", mutates_args=())
def scaled(x: torch.Tensor, by: float) -> torch.Tensor:
    return x * by


@scaled.register_fake
def _(x: torch.Tensor, by: float) -> torch.Tensor:
    return torch.empty_like(x)


@case(noise(2, 3), dynamic=({0: "n"},))
def custom_op(x):
    return scaled(x + 1, 2.0) + 1
