"""Models that can't be traced: each must give one clear line that names the marked line of this file.

A case is a forward (or module), its inputs, and what its message must say; the line to name ends in `# here`.
"""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy
import torch
import torch.nn.functional as F
from torch import nn

from tests.frontend.good_models import Function, Function2, noise


@dataclass
class BadCase:
    """A model, a call of it, the words of its message, and the line it must name (None: any)."""

    make: Callable[[], nn.Module]
    args: tuple[object, ...]
    says: tuple[str, ...]
    line: int | None
    dynamic: object = None
    kwargs: dict[str, object] = field(default_factory=dict)


CASES: dict[str, BadCase] = {}


def bad(
    *says: str, args: tuple[object, ...] = (noise(4, 3),), dynamic: object = None
) -> Callable[[object], object]:
    """Registers a module class, or a function of one or two tensors, under its name."""

    def register(thing):
        make = (
            thing if isinstance(thing, type) else (lambda: (Function if len(args) == 1 else Function2)(thing))
        )
        lines, first = inspect.getsourcelines(thing)
        marked = [first + i for i, line in enumerate(lines) if line.rstrip().endswith("# here")]
        CASES[thing.__name__] = BadCase(make, args, says, marked[0] if marked else None, dynamic)
        return thing

    return register


# Values as Python numbers


@bad("depends on the values", "torch.where")
def data_dependent_if(x):
    if x.sum() > 0:  # here
        return x + 1
    return x - 1


@bad("Python number", ".item()")
def item(x):
    return x * x.sum().item()  # here


@bad("Python number")
def int_of_tensor(x):
    return x[: int(x.sum())]  # here


@bad("Python number")
def float_of_tensor(x):
    scale = float(x.max())  # here
    return x * scale


@bad("Python")
def tolist(x):
    values = x.tolist()  # here
    return x + sum(map(sum, values))


@bad("size", "values", args=(noise(4, 3),))
def boolean_selection(x):
    y = x[x > 0]
    return y + 1 if y.shape[0] > 2 else y  # here


@bad("numpy")
def numpy_in_forward(x):
    return torch.from_numpy(numpy.tanh(x.numpy()))  # here


@bad("numpy")
def numpy_function(x):
    return x + torch.as_tensor(numpy.sqrt(x.detach()))  # here


@bad("values", "size", args=(noise(4, 3), torch.tensor(2)))
def index_by_tensor_value(x, i):
    return x[: i.item()] * 2  # here


@bad("values")
def nonzero_sizes(x):
    index = torch.nonzero(x)
    if index.shape[0] > 3:  # here
        return x
    return x + 1


@bad("values")
def branch_that_does_not_only_raise(x):
    if x.max() > 100:  # here
        x = x - 1
    return x


# Random numbers, training


@bad("random", "rand_like", "input")
def random_noise(x):
    return x + torch.rand_like(x)  # here


@bad("training", "aten.dropout")
def functional_dropout(x):
    y = x + 1
    return F.dropout(y, 0.5)  # here


@bad("random", "bernoulli")
def bernoulli(x):
    return torch.bernoulli(torch.sigmoid(x))  # here


@bad("random", "normal_")
def filled_with_noise(x):
    y = torch.empty_like(x)
    y.normal_()  # here
    return x + y


@bad("random")
def shuffled(x):
    return x[torch.randperm(4)]  # here


@bad("training", "batch_norm")
class TrainingBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(3)

    def forward(self, x):
        bn = self.bn
        return F.batch_norm(x, bn.running_mean, bn.running_var, training=True)  # here


# Control flow


@bad("branches of torch.cond", "different sizes")
def cond_of_two_sizes(x):
    return torch.cond(x.sum() > 0, lambda x: x[:2] + 1, lambda x: x[:3] - 1, (x,))  # here


@bad("random", "rand_like")
def cond_with_a_random_branch(x):
    return torch.cond(  # here
        x.sum() > 0,
        lambda x: x + torch.rand_like(x),
        lambda x: x - 1,
        (x,),
    )


@bad("while", args=(noise(4, 3),))
def while_loop(x):
    return torch.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x * 2), (torch.tensor(0), x))  # here


@bad("depends on the values", "while")
def python_while(x):
    while x.sum() < 10:  # here
        x = x * 2 + 1
    return x


# State


@bad("buffer", "'counter'", "state=True")
class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("counter", torch.zeros(1))

    def forward(self, x):
        self.counter += 1  # here
        return x + self.counter


@bad("buffer", "'cache'", "state=True")
class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(4, 3))

    def forward(self, x):
        self.cache[1:2].copy_(x[:1])  # here
        return x + self.cache


@bad("buffer", "'a.counter'", "state=True")
class NestedCounter(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = Counter()

    def forward(self, x):
        return self.a(x)


@bad("'w'", "writes")
class WritesParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(noise(3), requires_grad=False)

    def forward(self, x):
        self.w.add_(1)  # here
        return x + self.w


@bad("input", "'x'", "clone")
def writes_input(x):
    x.add_(1)  # here
    return x * 2


@bad("input", "'x'", "clone")
def writes_view_of_input(x):
    x[0].mul_(2)  # here
    return x + 1


@bad("'t'", "writes")
class WritesPlainAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.t = noise(3)

    def forward(self, x):
        self.t.add_(1)  # here
        return x + self.t


@bad("'last'", "buffer")
class StateInAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = noise(4, 3)

    def forward(self, x):
        y = x + self.last
        self.last = x + 1
        return y


@bad("'calls'", "buffer")
class StateInNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@bad("'seen'", "state=True")
class CountInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [0]

    def forward(self, x):
        self.seen[0] += 1
        return x + self.seen[0]


CALLS = [0]


@bad("run again on the same inputs", "outside its modules")
def count_outside_the_model(x):
    CALLS[0] += 1
    return x + CALLS[0]


@bad("'last'", "state=True")
class AssignsBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", noise(4, 3))

    def forward(self, x):
        y = x + self.last
        self.last = x + 1
        return y


@bad("in place", "another view", args=(noise(3, 3),))
def hidden_alias(x):
    z = x + 1
    y = torch.einsum("ij->ji", z)
    y.add_(1)  # here
    return z


# Types


@bad("complex", "'x'", args=(noise(2, 3).to(torch.complex64),))
def complex_input(x):
    return x * 2


@bad("sparse")
def sparse_inside(x):
    return x.to_sparse().to_dense() + 1  # here


@bad("'x'", "sparse", args=(noise(2, 3).to_sparse(),))
def sparse_input(x):
    return x.to_dense() + 1


# Mistakes in the model


@bad("reduction dim", args=(noise(2, 3), noise(2, 3)))
def shape_error(x, y):
    return x @ y  # here


@bad("nosuch")
def attribute_error(x):
    return x.nosuch()  # here


@bad("broken")
def raises(x):
    raise RuntimeError("broken\nsecond line")  # here


@bad("KeyError")
def raises_without_text(x):
    return {}["missing"]  # here


@bad("set", "return")
def returns_set(x):
    return {1: {x}}


@bad("return", "Box")
def returns_object(x):
    return Box(x + 1)


class Box:
    """No pytree."""

    def __init__(self, x):
        self.x = x


@bad("StopIteration")
def stops(x):
    return next(iter(()))  # here


@bad("x.data", "detach")
def data_of_a_tensor(x):
    return x.data + 1


@bad("'part' is TorchScript")
class HoldsTorchScript(nn.Module):
    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.part = torch.jit.trace(nn.ReLU(), noise(2))

    def forward(self, x):
        return self.part(x)


@bad("can't be made functional", "aten.resize_as_", "module norm: ", args=(noise(2, 3, 4, 4),))
class ResizesMemory(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.CrossMapLRN2d(3)

    def forward(self, x):
        return self.norm(x)  # here


# Sizes


@bad("n", "size", dynamic={"x": {0: "n"}})
def size_rounded(x):
    return x[: int(x.shape[0] * 0.5)] * 2


@bad("'n'", "fixed", "loop is unrolled", dynamic={"x": {0: "n"}})
def loop_over_size(x):
    total = x[0]
    for i in range(1, x.shape[0]):  # here
        total = total + x[i]
    return total


@bad("'n'", "fixed", dynamic={"x": {0: "n"}})
def square_root_of_size(x):
    import math

    return x / math.sqrt(x.shape[0])


@bad("'n'", "fixed", "4", dynamic={"x": {0: "n"}})
def fixed_reshape(x):
    return x.reshape(4, 3) + 1  # here


@bad("'n'", dynamic={"x": {0: "n"}})
def fixed_weight(x):
    return x + torch.ones(4, 1)  # here


@bad("'m'", "'n'", args=(noise(4, 3), noise(4, 3)), dynamic={"x": {0: "m"}, "y": {0: "n"}})
def sizes_made_equal(x, y):
    return x + y  # here
