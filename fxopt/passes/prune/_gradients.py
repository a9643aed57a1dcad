"""Weights times their gradients of a loss over calibration data."""

from collections.abc import Callable, Iterable

import torch
from torch.fx import GraphModule

from fxopt.analysis.channels import statistics_of
from fxopt.errors import InputError
from fxopt.program import Program
from fxopt.verification.sampling import call_of

__all__ = ["LOSSES", "Loss", "sensitivities", "split_item"]

Loss = Callable[[object, object], torch.Tensor]


def _energy(output: object, target: object) -> torch.Tensor:
    """Half the mean square of all outputs: no target is needed."""
    tensors = [t for t in torch.utils._pytree.tree_leaves(output) if isinstance(t, torch.Tensor)]
    floats = [t for t in tensors if t.is_floating_point()]
    if not floats:
        raise InputError("the model returns no floating-point tensor: taylor needs a loss")
    return torch.stack([t.square().mean() for t in floats]).sum() / 2


LOSSES: dict[str, Loss] = {
    "energy": _energy,
    "cross-entropy": lambda output, target: torch.nn.functional.cross_entropy(output, target),  # type: ignore[arg-type]
    "mse": lambda output, target: torch.nn.functional.mse_loss(output, target),  # type: ignore[arg-type]
}


def sensitivities(
    program: Program, data: Iterable[object], loss: str | Loss
) -> list[dict[str, torch.Tensor]]:
    """For each batch, each floating-point weight times its gradient of the loss.

    Args:
        program: run in eval mode, BatchNorm on its statistics.
        data: items are a tensor, or a tuple of the program's arguments and then the target.
        loss: "energy" (half the mean square of the outputs, no target), "cross-entropy", "mse", or a function
            of output and target.

    Raises:
        InputError: no data, an item without a target, a loss that is no number.
    """
    fixed = {str(n.target) for n in statistics_of(program.graph.nodes)}
    weights = {
        n: t.detach().clone().requires_grad_(t.is_floating_point() and n not in fixed)
        for n, t in program.weights.items()
    }
    module = GraphModule(dict(weights), program.graph, "Program")
    compute = LOSSES[loss] if isinstance(loss, str) else loss
    found = []
    for number, item in enumerate(data):
        tensors, target = split_item(program, item, needs_target=loss != "energy", number=number)
        with torch.enable_grad():
            output = program.signature.unflatten_outputs(list(module.forward(*tensors)))
            value = compute(output, target)
            if not isinstance(value, torch.Tensor) or value.numel() != 1 or not value.requires_grad:
                raise InputError(
                    f"the loss gives {value!r} for batch {number}; expected one number with a gradient"
                )
            used = [n for n, w in weights.items() if w.requires_grad]
            gradients = torch.autograd.grad(value, [weights[n] for n in used], allow_unused=True)
        zero = torch.zeros(())
        found.append(
            {
                n: weights[n].detach() * (zero if g is None else g)
                for n, g in zip(used, gradients, strict=True)
            }
        )
    if not found:
        raise InputError("the calibration data is empty: taylor needs at least one batch")
    return found


def split_item(
    program: Program, item: object, *, number: int, needs_target: bool = False
) -> tuple[list[torch.Tensor], object]:
    """The tensors of a call and the target of an item of calibration data, None where it has none.

    Raises:
        InputError: it does not fit the program, or lacks the target.
    """
    args, kwargs = call_of(item)
    count = program.signature.input_tree.child(0).num_children if not kwargs else 0
    if needs_target and len(args) <= count:
        raise InputError(
            f"batch {number} of the calibration data has {len(args)} elements; expected the {count} arguments and "
            "then the target"
        )
    return program.signature.flatten_inputs(args[:count], kwargs), args[count] if len(args) > count else None
