"""Pytree specs and signatures as JSON: tuples, lists, dicts by shape; any other container as a dict.

A file names the class of such a container, and a process that has the class rebuilds it; no class is imported
for it, so that loading runs no code of the file's choosing. Where the class is not there the container comes
back as a dict (or a list where the class has no field names).

>>> from torch.utils import _pytree as pytree
>>> tree = pytree.tree_structure({"a": (1, None)})
>>> tree_from_json(tree_to_json(tree)) == tree
True
"""

import json
import sys
from collections import namedtuple
from dataclasses import asdict

from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError
from fxopt.program.caches import register_caches
from fxopt.program.containers import Key, field_names
from fxopt.program.quantized import Quantized
from fxopt.program.signature import ConstantSpec, ScalarSpec, Signature, Spec, Symbol, TensorSpec, named_dtype

__all__ = ["Json", "signature_from_json", "signature_to_json", "tree_from_json", "tree_to_json"]

Json = dict[str, object]
_LEAF = pytree.tree_structure(0)


def tree_to_json(tree: pytree.TreeSpec) -> object:
    """A TreeSpec as JSON: None for a leaf, `[kind, keys, children]` for a container, and its class if it has one."""
    if tree.is_leaf():
        return None
    children = [tree_to_json(tree.child(i)) for i in range(tree.num_children)]
    if tree.type is tuple:
        return ["tuple", None, children]
    if tree.type is list:
        return ["list", None, children]
    keys = field_names(tree)
    plain: list[object] = ["dict", keys, children] if keys is not None else ["list", None, children]
    described = None if tree.type is dict else _class_to_json(tree)
    return plain if described is None else [*plain, described]


def _class_to_json(tree: pytree.TreeSpec) -> Json | None:
    """Name and context of a container's class; None where the context has no JSON form."""
    if tree.type is namedtuple:
        return {"namedtuple": _class_name(tree.context)}
    try:
        same = json.loads(json.dumps(tree.context, allow_nan=False)) == tree.context
    except (TypeError, ValueError):
        return None
    return {"class": _class_name(tree.type), "context": tree.context} if same else None


def _class_name(kind: object) -> str:
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


def tree_from_json(value: object) -> pytree.TreeSpec:
    """The TreeSpec of `tree_to_json`'s output, containers whose class is not known here as dicts.

    Raises:
        ArtifactError: the value has another form.
    """
    register_caches()
    return _tree(value)


def _tree(value: object) -> pytree.TreeSpec:
    if value is None:
        return _LEAF
    if not (isinstance(value, list) and len(value) in (3, 4) and isinstance(value[2], list)):
        raise ArtifactError("the container structure in the file is malformed")
    kind, keys, children = value[0], value[1], [_tree(c) for c in value[2]]
    if kind == "tuple":
        return pytree.TreeSpec(tuple, None, children)
    if kind == "list":
        plain = pytree.TreeSpec(list, None, children)
    elif kind == "dict" and _are_keys(keys, len(children)):
        plain = pytree.TreeSpec(dict, keys, children)
    else:
        raise ArtifactError(f"unknown container kind {kind!r} in the file")
    return plain if len(value) == 3 else _rebuilt(value[3], keys, children) or plain


def _are_keys(keys: object, count: int) -> bool:
    if not isinstance(keys, list) or len(keys) != count or len(set(map(str, keys))) != count:
        return False
    return all(isinstance(k, (str, int)) for k in keys)


def _rebuilt(
    described: object, keys: list[Key] | None, children: list[pytree.TreeSpec]
) -> pytree.TreeSpec | None:
    """The tree of a class that this process has; None if it has not, or if it does not make such a container."""
    match described:
        case {"namedtuple": str(name)}:
            kind = _loaded_class(name)
            fields = getattr(kind, "_fields", None)
            if not (isinstance(kind, type) and issubclass(kind, tuple) and fields and list(fields) == keys):
                return None
            return pytree.TreeSpec(namedtuple, kind, children)
        case {"class": str(name), "context": context}:
            kind = next((k for k in pytree.SUPPORTED_NODES if _class_name(k) == name), None)
            return None if kind is None else _working(pytree.TreeSpec(kind, context, children))
    raise ArtifactError("the container structure in the file is malformed")


def _loaded_class(name: str) -> object:
    """What a loaded module has under this name; nothing is imported."""
    module, _, attribute = name.rpartition(".")
    return vars(sys.modules[module]).get(attribute) if module in sys.modules else None


def _working(tree: pytree.TreeSpec) -> pytree.TreeSpec | None:
    """The tree if its class makes the container and takes it apart again in the same way."""
    try:
        value = pytree.tree_unflatten([0] * tree.num_leaves, tree)
        return tree if pytree.tree_structure(value) == tree else None
    except Exception:  # whatever the class raises: the file's context is not its own
        return None


def _spec_to_json(spec: Spec) -> Json:
    if isinstance(spec, TensorSpec):
        entry: Json = {
            **asdict(spec),
            "dtype": str(spec.dtype).removeprefix("torch."),
            "shape": list(spec.shape),
        }
        return {"kind": "tensor", **{k: v for k, v in entry.items() if v is not None}}
    if isinstance(spec, ConstantSpec):
        return {"kind": "constant", "name": spec.name, "value": _literal(spec.value)}
    return {"kind": "scalar", "name": spec.name, "type": spec.kind}


def _literal(value: object) -> object:
    """JSON has no inf and nan: floats that are not finite travel as `{"float": "inf"}`."""
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return {"float": str(value)}
    return value


def _literal_from_json(name: str, value: object) -> int | float | bool | str | None:
    if isinstance(value, dict):
        value = float(str(value.get("float")))
    if value is not None and not isinstance(value, (int, float, bool, str)):
        raise ArtifactError(f"the constant {name!r} in the file has no literal value")
    return value


def _spec_from_json(entry: Json) -> Spec:
    match entry:
        case {"kind": "tensor", "name": str(name), "dtype": str(dtype), "shape": list(shape)}:
            low, high = entry.get("low"), entry.get("high")
            return TensorSpec(
                name,
                named_dtype(dtype),
                tuple(d if isinstance(d, int) else str(d) for d in shape),
                str(entry.get("device", "cpu")),
                low if isinstance(low, int) else None,
                high if isinstance(high, int) else None,
                _quantized_from_json(name, entry.get("quantized")),
            )
        case {"kind": "constant", "name": str(name), "value": value}:
            return ConstantSpec(name, _literal_from_json(name, value))
        case {"kind": "scalar", "name": str(name), "type": str(kind)}:
            return ScalarSpec(name, kind)
    raise ArtifactError(f"malformed input or output spec in the file: {str(entry)[:80]}")


def _quantized_from_json(name: str, entry: object) -> Quantized | None:
    match entry:
        case None:
            return None
        case {"scale": float(scale), "zero_point": int(zero), "kind": "uint8" | "int8" as kind}:
            return Quantized(scale, zero, kind)
    raise ArtifactError(f"malformed scale of {name!r} in the file: {str(entry)[:80]}")


def signature_to_json(signature: Signature) -> Json:
    """A signature as plain JSON."""
    return {
        "inputs": [_spec_to_json(s) for s in signature.inputs],
        "outputs": [_spec_to_json(s) for s in signature.outputs],
        "input_tree": tree_to_json(signature.input_tree),
        "output_tree": tree_to_json(signature.output_tree),
        "symbols": [asdict(s) for s in signature.symbols.values()],
        "arguments": list(signature.arguments),
        "defaults": [[name, _literal(value)] for name, value in signature.defaults.items()],
    }


def signature_from_json(value: object) -> Signature:
    """The signature of `signature_to_json`'s output.

    Raises:
        ArtifactError: a field is missing or malformed.
    """
    if not isinstance(value, dict):
        raise ArtifactError("the file's signature is malformed")
    try:
        return Signature(
            tuple(_spec_from_json(e) for e in value["inputs"]),
            tuple(_spec_from_json(e) for e in value["outputs"]),
            tree_from_json(value["input_tree"]),
            tree_from_json(value["output_tree"]),
            {e["name"]: Symbol(str(e["name"]), int(e["min"]), e["max"]) for e in value["symbols"]},
            tuple(str(a) for a in value["arguments"]),
            # Files of fxopt 0.1 before defaults were kept have none.
            {str(n): _literal_from_json(n, v) for n, v in value.get("defaults", [])},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the file's signature is malformed: {error!r}") from error
