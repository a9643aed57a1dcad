"""What a rewrite may call: checked op and arguments, canonical spelling.

>>> checked_op("aten.zeros", ([2, 3],), {})
<OpOverload(op='aten.zeros', overload='default')>
"""

from collections.abc import Mapping
from functools import cache

import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from fxopt.dialect import ATEN
from fxopt.errors import PassError
from fxopt.ops import UnknownOpError, is_mutating, op_key, resolve_op
from fxopt.ops.spelling import Emit, canonical_call
from fxopt.program import Program

__all__ = ["call_name", "check_known", "checked_arguments", "checked_op", "spelled"]

_OPS = (str, torch._ops.OpOverload, torch._ops.OpOverloadPacket)


def checked_op(op: object, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
    """The overload that a name means for these arguments, or the function on sizes.

    Raises:
        PassError: an unknown op, one that writes in place, or a function that a program can't hold.
    """
    if not isinstance(op, _OPS):
        if op in ATEN.functions:
            return op
        raise PassError(
            f"{op_key(op)} is neither an op nor a function on sizes; give a name such as 'aten.relu' or an "
            "overload such as torch.ops.aten.relu.default"
        )
    try:
        target = resolve_op(op, args, kwargs)
    except UnknownOpError as error:
        raise PassError(str(error)) from error
    if is_mutating(target):
        raise PassError(f"{op_key(target)} writes in place; use its functional twin")
    return target


def checked_arguments(program: Program, arguments: object) -> None:
    """Whether all nodes are of the program and no tensor stands among the literals.

    Raises:
        PassError: names the argument.
    """
    for leaf in pytree.tree_leaves(arguments):
        if isinstance(leaf, Node) and (leaf._erased or leaf.graph is not program.graph):
            gone = "was removed" if leaf._erased else "is a node of another program"
            raise PassError(f"the argument {leaf.name} {gone}")
        if isinstance(leaf, torch.Tensor):
            raise PassError("a tensor can't be an argument; store it with rewriter.constant(tensor)")
        if isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            raise PassError(
                f"the size {leaf} can't be an argument; read it with rewriter.call('aten.sym_size', x, axis)"
            )


def spelled(
    emit: Emit, target: object, args: tuple[object, ...], kwargs: Mapping[str, object], value: object
) -> Node:
    """Makes a call in canonical spelling.

    Raises:
        PassError: what stands for the call is no node.
    """
    result = canonical_call(emit, target, args, dict(kwargs), value)
    if not isinstance(result, Node):
        raise PassError(f"{op_key(target)} makes {result!r}, not a node")
    return result


def check_known(op: str) -> None:
    """Whether a name is that of an op, unless nothing of its library is loaded.

    Raises:
        PassError: names the nearest.
    """
    loaded = {n.split("::")[0] for n in torch._C._dispatch_get_all_op_names()}
    if op.split(".")[0] not in loaded:
        return
    try:
        resolve_op(op)
    except UnknownOpError as error:
        raise PassError(f"nodes({op!r}): {error}") from error


@cache
def call_name(op: object) -> str:
    """What a node that calls an op is named after."""
    if isinstance(op, torch._ops.OpOverload):
        return op_key(op).split(".")[1]
    return getattr(op, "__name__", "call")
