"""The reference evaluator: op by op, contiguous, one thread, values freed after their last use, equal random numbers.

`EXACT` rewrites are bit-identical under it, and it computes the float64 reference. `evaluate_perturbed` is
the same walk with each op's result moved by half a unit in the last place: how far the outputs move then is
what rounding may do to them at these inputs.

>>> import torch
>>> from fxopt.frontend import trace
>>> program = trace(torch.nn.Linear(4, 2).eval(), (torch.zeros(3, 4),))
>>> evaluate(program, [torch.ones(3, 4)], double=True)[0].dtype
torch.float64
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch._prims_common import make_contiguous_strides_for
from torch.fx import Node

from fxopt.draws import same_draws
from fxopt.errors import FxoptError
from fxopt.ops import QuantRole, bind_call, op_info, op_key
from fxopt.program import Program, origins_of
from fxopt.verification.arguments import with_values
from fxopt.verification.doubling import NoFloat64Error, as_double, double_program
from fxopt.verification.precision import rounds
from fxopt.verification.ties import IN_ORDER

__all__ = [
    "centred",
    "evaluate",
    "evaluate_beside_steps",
    "evaluate_double",
    "evaluate_each",
    "evaluate_in_order",
    "evaluate_perturbed",
    "finest",
    "float64_kernels",
    "moved",
    "summed",
]

Visit = Callable[[Node, object], object]
"""(node, its value) -> the value that its users see."""


def evaluate(program: Program, tensors: Sequence[torch.Tensor], *, double: bool = False) -> list[object]:
    """Runs a program op by op.

    Args:
        program: the program; its weights must have values.
        tensors: one a tensor input, in signature order; they are not written to.
        double: compute in float64; for several runs make `double_program` once and use `evaluate_double`.

    Returns:
        The computed outputs in order: contiguous tensors and numbers.

    Raises:
        NoFloat64Error: `double`, and an op has no float64 form or kernel.
        FxoptError: a weight is on the meta device, or another number of tensors.
        Exception: what an op raises for sizes or values that it does not take.
    """
    return (
        evaluate_double(double_program(program), tensors)
        if double
        else _walk(program, tensors, lambda _, value: value)
    )


def evaluate_double(twin: Program, tensors: Sequence[torch.Tensor]) -> list[object]:
    """Runs a program of `double_program` on tensors of the original's dtypes.

    Raises:
        NoFloat64Error: an op has no float64 kernel.
    """
    with float64_kernels():
        return _walk(twin, [as_double(t) for t in tensors], lambda _, value: value)


@contextlib.contextmanager
def float64_kernels() -> Iterator[None]:
    """Inside, an op without a float64 kernel is a `NoFloat64Error`; what else goes wrong stays as it is."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, NotImplementedError) or "not implemented for" in text or "Could not run" in text:
            notes = " ".join(getattr(error, "__notes__", ()))
            raise NoFloat64Error(f"no float64 kernel {notes}: {text.splitlines()[0]}") from error
        raise


def evaluate_each(program: Program, tensors: Sequence[torch.Tensor]) -> dict[Node, object]:
    """The value of every node that is used, in order; it holds all of them at once.

    Args:
        program: as for `evaluate`.
        tensors: as for `evaluate`.
    """
    values: dict[Node, object] = {}

    def note(node: Node, value: object) -> object:
        values[node] = value
        return value

    _walk(program, tensors, note)
    return values


def evaluate_perturbed(program: Program, tensors: Sequence[torch.Tensor], *, seed: int) -> list[object]:
    """Runs a program with each weight, and each result that an op rounds, moved by at most half an eps.

    A folded constant moves values by as much, so that the spread of the outputs over a few seeds is what equivalent
    programs may differ by at these inputs: much where a normalisation divides by next to nothing, everything where a
    comparison hangs on the last bit. Another order of summation moves a sum by eps of its terms, which may cancel,
    so that the terms of sums and products are moved too. Results of ops that kernels
    give to an eps of 1 only (`OpInfo.absolute`) move by half an eps of 1 at least. What an op that takes a mean off
    (`OpInfo.centres`) gives for equal elements is rounding alone, 0 or not: see `centred`.

    Args:
        program: as for `evaluate`.
        tensors: as for `evaluate`; they are not moved.
        seed: of the steps.
    """
    generator = torch.Generator().manual_seed(seed)

    def visit(node: Node, value: object) -> object:
        return moved(value, generator, finest(node.target)) if _rounds(node) else value

    def instead(node: Node) -> Callable[..., object] | None:
        return centred(node.target, generator) or summed(node.target, generator)

    return _walk(program, tensors, visit, instead=instead)


def evaluate_in_order(program: Program, tensors: Sequence[torch.Tensor]) -> list[object] | None:
    """Runs a program with ties settled by index wherever an op may settle them otherwise.

    Returns:
        The computed outputs; None if no op of the program has to settle any.
    """
    if not any(node.target in IN_ORDER for node in program.calls()):
        return None
    return _walk(program, tensors, lambda _, value: value, instead=lambda node: IN_ORDER.get(node.target))


def evaluate_beside_steps(
    program: Program, tensors: Sequence[torch.Tensor], *, up: bool
) -> list[object] | None:
    """Runs a program with what a step function reads moved by as much as a kernel may err, all up or all down.

    A value that lies so near a step comes out on its other side in one of the two. Random moves hit a few such
    values; another kernel that rounds otherwise hits others, and each is a whole step off.

    Args:
        program: as for `evaluate`.
        tensors: as for `evaluate`; they are not moved.
        up: the direction.

    Returns:
        The computed outputs; None if no op of the program is a step function of a computed value.
    """
    if not any(map(_reads_steps, program.calls())):
        return None
    sign = 1.0 if up else -1.0

    def beside(node: Node) -> Callable[..., object] | None:
        function = node.target
        assert callable(function)
        if not _reads_steps(node):
            return None

        def step(x: torch.Tensor, *args: object, **kwargs: object) -> object:
            largest = x.abs().amax() if x.numel() else 0.0
            return function(x + sign * _KERNEL_ERROR * torch.finfo(x.dtype).eps * largest, *args, **kwargs)

        return step

    return _walk(program, tensors, lambda _, value: value, instead=beside)


_KERNEL_ERROR = 16
"""In eps of the largest value: what sums of some hundred terms in another order differ by."""


def _reads_steps(node: Node) -> bool:
    """Whether a call is a step function of a floating-point value that is computed."""
    if not isinstance(node.target, torch._ops.OpOverload) or not op_info(node.target).steps:
        return False
    x = node.args[0]
    if not isinstance(x, Node) or x.op == "get_attr":
        return False
    value = x.meta["val"]
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def centred(target: object, generator: torch.Generator) -> Callable[..., object] | None:
    """An op that takes a mean off as a function that may miss that mean by as much as kernels do.

    What of its values that changes by their own size or more is nothing but rounding (the variance of equal
    elements), and is as the change makes it; all others are the op's own.

    Args:
        target: of a call.
        generator: of the errors.

    Returns:
        A function in the op's place; None for other ops.
    """
    if not isinstance(target, torch._ops.OpOverload) or not op_info(target).centres:
        return None
    centres = op_info(target).centres

    def beside(x: torch.Tensor, *args: object, **kwargs: object) -> object:
        value = target(x, *args, **kwargs)
        if callable(centres) and not centres(bind_call(target, (x, *args), kwargs)):
            return value
        other = target(moved(x, generator, by=_KERNEL_ERROR), *args, **kwargs)
        return tuple(map(_lost, value, other)) if isinstance(value, tuple) else _lost(value, other)

    return beside


def summed(target: object, generator: torch.Generator) -> Callable[..., object] | None:
    """An op whose results are sums as a function of terms that are moved by half an eps; None for other ops."""
    if not rounds(target) or not isinstance(target, torch._ops.OpOverload):
        return None
    info = op_info(target)
    contracts = info.role is QuantRole.CONTRACTION
    if info.elementwise or not (contracts or info.linear_in) or target._schema.is_mutable:
        return None

    def beside(*args: object, **kwargs: object) -> object:
        given = bind_call(target, args, kwargs)
        terms = given if contracts else info.linear_in
        return target(**{n: moved(v, generator) if n in terms else v for n, v in given.items()})

    return beside


def _lost(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.where((other - value).abs() >= value.abs(), other, value)


def moved(value: object, generator: torch.Generator, least: float = 0.0, *, by: float = 0.5) -> object:
    """A tensor, or those of a list or tuple, moved.

    Args:
        value: finite elements of floats are moved, all else stays.
        generator: of the steps.
        least: each element moves by at most so many eps of itself, or of `least` where that is more.
        by: how many.
    """
    if isinstance(value, (list, tuple)):
        return [moved(v, generator, least, by=by) for v in value]
    if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point or value.numel() == 0:
        return value
    noise = 2 * torch.rand(value.shape, generator=generator, dtype=torch.float64).to(value.device) - 1
    wide = value.double()
    scale = wide.abs().clamp_min(least) if least else wide
    step = torch.nan_to_num(scale, posinf=0.0, neginf=0.0) * noise * (torch.finfo(value.dtype).eps * by)
    return (wide + step).to(value.dtype)


def finest(target: object) -> float:
    """The scale below which an op's values are rounded no finer."""
    return 1.0 if isinstance(target, torch._ops.OpOverload) and op_info(target).absolute else 0.0


def _rounds(node: Node) -> bool:
    """Whether other code for the value may round it another way.

    So it is for weights (a pass folds them), and for ops whose outputs are not just values of their inputs.
    """
    return node.op == "get_attr" or rounds(node.target)


@contextlib.contextmanager
def _reference_mode() -> Iterator[None]:
    """No gradients, one thread: the order of every summation is fixed."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        with torch.no_grad():
            yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


def _plain(value: object) -> object:
    """Tensors as contiguous memory of their own: strides and alignment may choose another kernel."""
    if isinstance(value, torch.Tensor):
        if value.layout is torch.strided and (not _is_row_major(value) or value.storage_offset()):
            return value.clone(memory_format=torch.contiguous_format)
        return value
    if isinstance(value, (list, tuple)):
        items = [_plain(v) for v in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _is_row_major(tensor: torch.Tensor) -> bool:
    """Whether strides are those of fresh memory; a contiguous tensor may have any at axes of size one."""
    if not tensor.is_contiguous():
        return False
    return 1 not in tensor.shape or tensor.stride() == make_contiguous_strides_for(tensor.shape)


def _walk(
    program: Program,
    tensors: Sequence[torch.Tensor],
    visit: Visit,
    *,
    instead: Callable[[Node], Callable[..., object] | None] = lambda _: None,
) -> list[object]:
    expected = len(program.signature.tensor_inputs)
    if len(tensors) != expected:
        raise FxoptError(f"{program.name} takes {expected} tensors, got {len(tensors)}")
    given = iter(tensors)
    values: dict[Node, object] = {}
    left = {node: len(node.users) for node in program.graph.nodes}
    with _reference_mode(), same_draws():
        for node in program.graph.nodes:
            if node.op == "output":
                results = with_values(node.args[0], values.__getitem__)
                assert isinstance(results, tuple)
                return list(results)
            value = next(given) if node.op == "placeholder" else _value(program, node, values, instead)
            if left[node]:
                values[node] = visit(node, _plain(value))
            for used in node.all_input_nodes:
                left[used] -= 1
                if not left[used]:
                    del values[used]
    raise FxoptError(f"the graph of {program.name} has no output node")


def _value(
    program: Program,
    node: Node,
    values: dict[Node, object],
    instead: Callable[[Node], Callable[..., object] | None],
) -> object:
    if node.op == "get_attr":
        weight = program.weights[str(node.target)]
        if weight.is_meta:
            raise FxoptError(
                f"the weight {node.target!r} is on the meta device: it has no values to run with"
            )
        return weight
    args = [with_values(a, values.__getitem__) for a in node.args]
    kwargs = {name: with_values(a, values.__getitem__) for name, a in node.kwargs.items()}
    function = instead(node) or node.target
    assert callable(function)
    try:
        return function(*args, **kwargs)
    except Exception as error:
        origins = "; ".join(map(str, origins_of(node)))
        error.add_note(f"in {op_key(node.target)} ({node.name}{', ' + origins if origins else ''})")
        raise
