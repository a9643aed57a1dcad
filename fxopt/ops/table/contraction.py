"""Matrix products and convolutions: what integer kernels take and what most operations are spent on."""

from collections.abc import Callable, Sequence

from fxopt.ops.info import Aliasing, QuantRole, SampleArgs
from fxopt.ops.sizes import Size, product, same_size, shape_of
from fxopt.ops.table import resizing
from fxopt.ops.table.entry import Bound, Draw, Facts, call, entry
from fxopt.ops.table.maps import dims_of, indices, operand, statement

_PRODUCT = Facts(role=QuantRole.CONTRACTION)
_LAYER = Facts(role=QuantRole.CONTRACTION, affine_in=("input", "weight", "bias"), shifted_by="bias")


def _matmul(bound: Bound) -> str:
    ranks = len(shape_of(bound["self"])), len(shape_of(bound["other"]))
    rows, columns = ["i"] * (ranks[0] > 1), ["j"] * (ranks[1] > 1)
    batch = ["*"]
    x = [*batch * (ranks[0] > 2), *rows, "k"]
    w = [*batch * (ranks[1] > 2), "k", *columns]
    return statement([x, w], [[*batch * (max(ranks) > 2), *rows, *columns]])


def _linear(bound: Bound) -> str:
    """The weight may be a vector, the bias anything that can be added to the result."""
    rows = ["o"] * (len(shape_of(bound["weight"])) - 1)
    rank = 1 if bound["bias"] is None else len(shape_of(bound["bias"]))
    bias = [*["*"] * (rank > 1), *["o"] * (rank > 0)]
    return statement([["*", "i"], [*rows, "i"], bias], [["*", *rows]])


def _added(rest: str, output: str) -> Callable[[Bound], str]:
    """`self` broadcasts to the output: its bracket holds the output's last indices."""

    def index_map(bound: Bound) -> str:
        dims = output.split(",")
        own = dims[len(dims) - len(shape_of(bound["self"])) :]
        return f"{operand('b', own)}, {rest} -> y[{output}]"

    return index_map


def _einsum(bound: Bound) -> str | None:
    """The equation itself; None where a letter stands twice in one term (a diagonal)."""
    equation = bound["equation"]
    assert isinstance(equation, str)
    inputs, arrow, output = equation.replace(" ", "").replace("...", "*").partition("->")
    terms = inputs.split(",")
    if not arrow:
        letters = inputs.replace("*", "").replace(",", "")
        output = "*" * ("*" in inputs) + "".join(c for c in sorted(letters) if letters.count(c) == 1)
    repeated = any(len(set(term)) != len(term) for term in terms)
    return None if repeated else statement(terms, [output])


def _tensordot(bound: Bound) -> str:
    x, w = indices(len(shape_of(bound["self"]))), [f"e{i}" for i in range(len(shape_of(bound["other"])))]
    gone_x, gone_w = dims_of(bound["dims_self"], len(x)), dims_of(bound["dims_other"], len(w))
    if not bound["dims_self"]:
        gone_x = gone_w = []
    for i, j in zip(gone_x, gone_w, strict=True):
        w[j] = x[i]
    left = [d for i, d in enumerate(x) if i not in gone_x] + [d for j, d in enumerate(w) if j not in gone_w]
    return statement([x, w], [left])


def _grown_by_bias(bound: Bound, output: object) -> str:
    """The shape function broadcasts input and bias against one another; the kernel adds the bias in place."""
    rows, out, bias = shape_of(bound["input"])[:-1], shape_of(bound["weight"])[:1], bound["bias"]
    wanted, got = (*rows, *out), shape_of(output)
    if bias is None or (len(got) == len(wanted) and all(map(same_size, got, wanted))):
        return ""
    return f"linear: a bias of {list(shape_of(bias))} does not broadcast to the result, {list(wanted)}"


entry(
    "linear",
    lambda d: [
        call(d(2, 3), d(4, 3), d(4)),
        call(d(2, 5, 3), d(4, 3)),
        call(d(3), d(4, 3), None),
        call(d(2, 3), d(3)),
        call(d(2, 3), d(4, 3), d(2, 4)),
    ],
    _LAYER,
    index_map=_linear,
    kernel_refuses=_grown_by_bias,
)
entry(
    "matmul",
    lambda d: [
        call(d(2, 3), d(3, 4)),
        call(d(3), d(3, 4)),
        call(d(2, 3), d(3)),
        call(d(3), d(3)),
        call(d(5, 1, 2, 3), d(2, 3, 4)),
        call(d(2, 2, 3), d(3)),
    ],
    _PRODUCT,
    index_map=_matmul,
    linear_in=("self", "other"),
    zero_preserving=True,
)
_LINEAR = Facts(role=QuantRole.CONTRACTION, linear_in=("self", "mat2", "vec", "tensor", "other", "vec2"))
entry(
    "mm",
    lambda d: [call(d(2, 3), d(3, 4))],
    _LINEAR,
    index_map="x[i,k], w[k,j] -> y[i,j]",
    zero_preserving=True,
)
entry(
    "bmm",
    lambda d: [call(d(2, 2, 3), d(2, 3, 4))],
    _LINEAR,
    index_map="x[n,i,k], w[n,k,j] -> y[n,i,j]",
    zero_preserving=True,
)
entry("mv", lambda d: [call(d(2, 3), d(3))], _LINEAR, index_map="x[i,k], w[k] -> y[i]", zero_preserving=True)
entry(
    "dot",
    lambda d: [call(d(3), d(3))],
    _LINEAR,
    commutative=True,
    index_map="x[k], w[k] -> y[]",
    zero_preserving=True,
)
entry("outer", lambda d: [call(d(3), d(4))], _LINEAR, index_map="x[i], w[j] -> y[i,j]", zero_preserving=True)
entry(
    "addmm",
    lambda d: [call(d(2, 4), d(2, 3), d(3, 4)), call(d(4), d(2, 3), d(3, 4), beta=0.5, alpha=2)],
    _PRODUCT,
    index_map=_added("x[i,k], w[k,j]", "i,j"),
    affine_in=("self", "mat1", "mat2"),
    shifted_by="self",
)
entry(
    "baddbmm",
    lambda d: [call(d(2, 2, 4), d(2, 2, 3), d(2, 3, 4)), call(d(4), d(2, 2, 3), d(2, 3, 4), beta=0.5)],
    _PRODUCT,
    index_map=_added("x[n,i,k], w[n,k,j]", "n,i,j"),
    affine_in=("self", "batch1", "batch2"),
    shifted_by="self",
)
entry(
    "addbmm",
    lambda d: [call(d(2, 4), d(2, 2, 3), d(2, 3, 4))],
    _PRODUCT,
    index_map=_added("x[n,i,k], w[n,k,j]", "i,j"),
    affine_in=("self", "batch1", "batch2"),
    shifted_by="self",
)
entry(
    "addmv",
    lambda d: [call(d(2), d(2, 3), d(3)), call(d(), d(2, 3), d(3), alpha=2)],
    _PRODUCT,
    index_map=_added("x[i,k], w[k]", "i"),
    affine_in=("self", "mat", "vec"),
    shifted_by="self",
)
entry(
    "einsum",
    lambda d: [
        call("bij,bjk->bik", [d(2, 3, 4), d(2, 4, 2)]),
        call("ij->ji", [d(2, 3)]),
        call("i, j ->", [d(2), d(3)]),
        call("...i,i", [d(2, 3), d(3)]),
        call("b...i,...io->b...o", [d(2, 4, 3), d(4, 3, 2)]),
        call("ii->i", [d(3, 3)]),
    ],
    _PRODUCT,
    index_map=_einsum,
    aliasing=Aliasing.MAYBE,
)
entry(
    "tensordot",
    lambda d: [call(d(2, 3, 4), d(4, 3, 5), [1, -1], [1, 0]), call(d(2), d(3), [], [])],
    _LINEAR,
    index_map=_tensordot,
    zero_preserving=True,
)
entry(
    "bilinear",
    lambda d: [call(d(2, 3), d(2, 4), d(5, 3, 4), d(5)), call(d(3), d(4), d(5, 3, 4))],
    _PRODUCT,
    index_map="x[*,i], z[*,j], w[o,i,j], b[o] -> y[*,o]",
    affine_in=("input1", "input2", "weight", "bias"),
    shifted_by="bias",
)
entry(
    "cdist",
    lambda d: [call(d(2, 3), d(4, 3)), call(d(2, 2, 3), d(4, 3), 1.0)],
    index_map="x[*,i,k], z[*,j,k] -> y[*,i,j]",
)
entry(
    "kron",
    lambda d: [call(d(2, 3), d(4, 1)), call(d(2), d(3))],
    index_map=lambda bound: _kron(len(shape_of(bound["self"])), len(shape_of(bound["other"]))),
    linear_in=("self", "other"),
    zero_preserving=True,
)


def _kron(left: int, right: int) -> str | None:
    x, w = indices(left), [f"e{i}" for i in range(right)]
    return statement([x, w], [[f"({a} {b})" for a, b in zip(x, w, strict=True)]]) if left == right else None


def _grouped(bound: Bound, *, transposed: bool = False) -> str:
    """Channels are (group, within group); the window indices of the weight are contracted."""
    rank = len(shape_of(bound["weight"])) - 2
    space, window = [f"~s{i}" for i in range(rank)], [f"k{i}" for i in range(rank)]
    single = bound.get("groups", 1) == 1
    i, o = ("i", "o") if single else ("(g i)", "(g o)")
    weight = [i, "o", *window] if transposed else [o, "i", *window]
    return statement([["*", i, *space], weight, [o]], [["*", o, *space]])


def _convolution(bound: Bound) -> str:
    return _grouped(bound, transposed=bool(bound["transposed"]))


def _is_padded(bound: Bound) -> bool:
    padding = bound["padding"]
    return padding == "same" if isinstance(padding, str) else any(_amounts(padding))


def _amounts(padding: object) -> Sequence[object]:
    return padding if isinstance(padding, (list, tuple)) else [padding]


def _scattered(bound: Bound, output: object) -> Size:
    """Each input element meets the weight's slice of its channel."""
    return 2 * product(shape_of(bound["input"])) * product(shape_of(bound["weight"])[1:])


def _conv_samples(rank: int) -> Callable[[Draw], Sequence[SampleArgs]]:
    size = (5, 4, 3)[:rank]

    def samples(d: Draw) -> Sequence[SampleArgs]:
        kernel = (3, 2, 1)[:rank]
        return [
            call(d(2, 3, *size), d(4, 3, *kernel), d(4)),
            call(d(2, 4, *size), d(6, 2, *kernel), None, 2, 1, 1, 2),
            call(d(4, *size), d(4, 1, *kernel), d(4), padding=1, dilation=2, groups=4),
            call(d(1, 2, *size), d(3, 2, *kernel), None, 1, "same"),
        ]

    return samples


def _transposed_samples(rank: int) -> Callable[[Draw], Sequence[SampleArgs]]:
    size, kernel = (4, 3, 2)[:rank], (3, 2, 1)[:rank]

    def samples(d: Draw) -> Sequence[SampleArgs]:
        return [
            call(d(2, 3, *size), d(3, 4, *kernel), d(4)),
            call(d(2, 4, *size), d(4, 3, *kernel), None, 2, 0, 1, 2),
            call(d(4, *size), d(4, 1, *kernel), d(4), groups=4),
        ]

    return samples


def _per_axis(value: object, rank: int) -> list[int]:
    """An int or a list of one means all axes."""
    values = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, int)]
    return values * rank if len(values) == 1 else values


def _not_transposed(bound: Bound, output: object) -> str:
    """Only the kernel asks for an output padding below stride or dilation, and for an output."""
    if not bound.get("transposed", True):
        return ""
    rank = len(shape_of(bound["weight"])) - 2
    steps, gaps, extra = (_per_axis(bound[k], rank) for k in ("stride", "dilation", "output_padding"))
    large = any(e >= max(s, d) for e, s, d in zip(extra, steps, gaps, strict=False))
    if large:
        return "a transposed convolution's output padding must be smaller than either stride or dilation"
    empty = any(isinstance(size, int) and size < 1 for size in shape_of(output)[-rank:])
    return "a transposed convolution's padding takes all of its output" if empty else ""


for _rank in (1, 2, 3):
    entry(
        f"conv{_rank}d",
        _conv_samples(_rank),
        _LAYER,
        index_map=_grouped,
        pads=_is_padded,
        resize=resizing.groups("groups"),
    )
    entry(
        f"conv_transpose{_rank}d",
        _transposed_samples(_rank),
        _LAYER,
        index_map=lambda bound: _grouped(bound, transposed=True),
        pads=True,
        resize=resizing.groups("groups"),
        flops=_scattered,
        kernel_refuses=_not_transposed,
    )
entry(
    "convolution",
    lambda d: [
        call(d(2, 3, 5, 4), d(4, 3, 2, 3), d(4), [1, 1], [0, 1], [1, 1], False, [0, 0], 1),
        call(d(2, 4, 3, 3), d(4, 1, 2, 2), None, [2, 2], [0, 0], [1, 1], True, [0, 0], 2),
    ],
    _LAYER,
    kernel_refuses=_not_transposed,
    index_map=_convolution,
    pads=lambda bound: bool(bound["transposed"]) or _is_padded(bound),
    resize=resizing.groups("groups"),
    flops=lambda bound, output: (
        _scattered(bound, output) if bound["transposed"] else _gathered(bound, output)
    ),
)


def _gathered(bound: Bound, output: object) -> Size:
    return 2 * product(shape_of(output)) * product(shape_of(bound["weight"])[1:])
