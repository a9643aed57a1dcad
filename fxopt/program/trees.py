"""Pytree specs and signatures as JSON: tuples, lists, dicts by shape; any other container as a dict.

A file never names a class to import: what fxopt does not know comes back as a dict (or a list where the class
has no field names), so that loading runs no code of the file's choosing.

>>> from torch.utils import _pytree as pytree
>>> tree = pytree.tree_structure({"a": (1, None)})
>>> tree_from_json(tree_to_json(tree)) == tree
True
"""

from dataclasses import asdict

from torch.utils import _pytree as pytree

from fxopt.errors import ArtifactError
from fxopt.program.containers import field_names
from fxopt.program.signature import ConstantSpec, ScalarSpec, Signature, Spec, Symbol, TensorSpec, named_dtype

__all__ = ["Json", "signature_from_json", "signature_to_json", "tree_from_json", "tree_to_json"]

Json = dict[str, object]


def tree_to_json(tree: pytree.TreeSpec) -> object:
    """A TreeSpec as JSON: None for a leaf, `[kind, keys, children]` for a container."""
    if tree.is_leaf():
        return None
    children = [tree_to_json(tree.child(i)) for i in range(tree.num_children)]
    if tree.type is tuple:
        return ["tuple", None, children]
    if tree.type is list:
        return ["list", None, children]
    keys = field_names(tree)
    return ["dict", keys, children] if keys is not None else ["list", None, children]


def tree_from_json(value: object) -> pytree.TreeSpec:
    """The TreeSpec of `tree_to_json`'s output, unknown containers as dicts.

    Raises:
        ArtifactError: the value has another form.
    """
    return pytree.tree_structure(_skeleton(value))


def _skeleton(value: object) -> object:
    if value is None:
        return 0
    if not (isinstance(value, list) and len(value) == 3 and isinstance(value[2], list)):
        raise ArtifactError("the container structure in the file is malformed")
    kind, keys, children = value
    items = [_skeleton(c) for c in children]
    if kind == "tuple":
        return tuple(items)
    if kind == "list":
        return items
    if kind == "dict" and isinstance(keys, list) and len(keys) == len(items):
        return dict(zip(keys, items, strict=True))
    raise ArtifactError(f"unknown container kind {kind!r} in the file")


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
            )
        case {"kind": "constant", "name": str(name), "value": value}:
            if isinstance(value, dict):
                value = float(str(value.get("float")))
            if value is not None and not isinstance(value, (int, float, bool, str)):
                raise ArtifactError(f"the constant {name!r} in the file has no literal value")
            return ConstantSpec(name, value)
        case {"kind": "scalar", "name": str(name), "type": str(kind)}:
            return ScalarSpec(name, kind)
    raise ArtifactError(f"malformed input or output spec in the file: {str(entry)[:80]}")


def signature_to_json(signature: Signature) -> Json:
    """A signature as plain JSON."""
    return {
        "inputs": [_spec_to_json(s) for s in signature.inputs],
        "outputs": [_spec_to_json(s) for s in signature.outputs],
        "input_tree": tree_to_json(signature.input_tree),
        "output_tree": tree_to_json(signature.output_tree),
        "symbols": [asdict(s) for s in signature.symbols.values()],
        "arguments": list(signature.arguments),
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
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the file's signature is malformed: {error!r}") from error
