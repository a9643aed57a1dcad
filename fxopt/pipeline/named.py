"""Named pipelines: `O0`, `clean`, `O1`, `O2`, and those of precision: `int8`.

`O0` traces only. `clean` is exact cleaning that keeps a model trainable: norms, dropout sites, tied
weights, scales of ones and provenance stay. `O1` is every exact or equivalent rewrite, to a fixpoint: run
again it changes nothing. `O2{target=onnx}` is O1 and what a target adds; no target adds anything yet.
Precision is never hidden in an O-level: `int8` is O1, `smooth-quant`, `equalize-layers`, `center-channels`, `insert-fake-quant`,
whose options it takes, and `correct-bias`; `int8-dynamic`, `int8-weights` and `int4-weights` are O1 and `insert-fake-quant` of
that scheme; `smooth=true` or `false` says whether `smooth-quant` is among them, `equalize` whether `equalize-layers` is, `center`
whether `center-channels` is;
`fp16` and `bf16` are O1 and `lower-precision`.

>>> expand_named(Named("O2", (("target", "onnx"),)))
'O1'
"""

from collections.abc import Callable

from fxopt.errors import PipelineError
from fxopt.pipeline.text import Named, print_steps

__all__ = ["NAMED", "expand_named", "register_pipeline"]

NAMED: dict[str, Callable[[dict[str, object]], str]] = {}
"""Pipeline text by name, given the options."""


def register_pipeline(name: str, text: Callable[[dict[str, object]], str]) -> None:
    """Adds a named pipeline; `text` gets the options and returns pipeline text."""
    NAMED[name] = text


def _fixed(text: str) -> Callable[[dict[str, object]], str]:
    def expand(options: dict[str, object]) -> str:
        if options:
            raise PipelineError(f"the named pipeline takes no options, got {', '.join(options)}")
        return text

    return expand


def _o2(options: dict[str, object]) -> str:
    """O1, then the target's layout, prepacked and fused kernels: there are none yet."""
    unknown = sorted(set(options) - {"target"})
    if unknown:
        raise PipelineError(f"O2 has no option {unknown[0]!r}; its option is target")
    target = options.get("target")
    if target is not None and not isinstance(target, str):
        raise PipelineError(f"O2: expected the name of a target such as onnx, got {target!r}")
    return "O1"


def _rounded(scheme: str, *, smooth: bool, static: bool = False) -> Callable[[dict[str, object]], str]:
    """BatchNorm must be folded before weights are rounded; what rounding does to means is then taken off biases.

    Args:
        scheme: of `insert-fake-quant`, which takes the options that are left.
        smooth: what the option of that name is by default: whether `smooth-quant` comes first.
        static: ranges are fixed: `equalize-layers` and `center-channels` come first by default, and `correct-bias`
            follows, for the same placement.
    """

    def expand(options: dict[str, object]) -> str:
        chosen: dict[str, object] = {"smooth": smooth, "equalize": static, "center": static}
        for name in chosen:
            chosen[name] = options.pop(name, chosen[name])
            if not isinstance(chosen[name], bool):
                raise PipelineError(f"{scheme}: {name} is true or false, got {chosen[name]!r}")
        # With one scale for all channels of a weight, it is the weights whose ranges must be alike.
        blind = (("observe", False),) if options.get("weights") == "unsigned" else ()
        first = [
            *([Named("smooth-quant", ())] if chosen["smooth"] else []),
            *([Named("equalize-layers", blind)] if chosen["equalize"] else []),
            *([Named("center-channels", ())] if chosen["center"] else []),
        ]
        step = Named("insert-fake-quant", tuple({"scheme": scheme, **options}.items()))  # type: ignore[arg-type]
        placed = tuple(o for o in step.options if o[0] == "placement")
        steps = (step, Named("correct-bias", placed)) if static else (step,)
        return f"O1,{print_steps((*first, *steps))}"

    return expand


def _half(dtype: str) -> Callable[[dict[str, object]], str]:
    def expand(options: dict[str, object]) -> str:
        step = Named("lower-precision", tuple({"dtype": dtype, **options}.items()))  # type: ignore[arg-type]
        return f"O1,{print_steps((step,))}"

    return expand


_CLEAN = (
    "eliminate-dead-code,eliminate-identities{exact=true,keep_dropout=true,keep_weights=true},"
    "simplify-symbolic-arithmetic,simplify-reshapes,fold-constants{keep_shared=true},"
    "eliminate-common-subexpressions,eliminate-dead-code"
)
_O1_PHASES: tuple[tuple[str, ...], ...] = (
    # 1. Clean: what does nothing stands between the calls that later phases look for.
    ("eliminate-dead-code", "eliminate-identities", "eliminate-dead-outputs"),
    # 2. Simplify sizes and moves: one spelling of each chain, so that patterns need only one. Sizes first: of two that
    # are equal, the moves of one shape are seen to be equal.
    (
        "simplify-symbolic-arithmetic",
        "simplify-einsum",
        "simplify-reshapes",
        "simplify-broadcasts",
        "simplify-casts",
        "simplify-slices-and-concats",
    ),
    # 3. Recompose: whole ops out of their parts, before anything is folded into a part. A product with a transposed
    # weight becomes a linear layer here; once the transpose is folded, the weight is no longer the embedding's.
    (
        "recompose-gelu",
        "recompose-silu",
        "recompose-hardswish",
        "recompose-mish",
        "recompose-softmax",
        "recompose-rms-norm",
        "recompose-layer-norm",
        "recompose-group-norm",
        "recompose-normalize",
        "recompose-attention",
        "recompose-linear",
        "fuse-matmul-add",
        "unflatten-linear",
    ),
    # 4. Evaluate: what depends on weights alone is a weight, and equal calls are one; the next phases ask for
    # weights, and for values without a second user.
    ("fold-constants", "eliminate-common-subexpressions"),
    # 5. Simplify arithmetic: only now, for it changes the parts that ops are recomposed from, and wants constants.
    (
        "simplify-elementwise",
        "simplify-reductions",
        "simplify-pooling",
        "simplify-where-and-masks",
        "sink-transposes",
    ),
    # 6. Fold scales and shifts into the weights beside them; what is then a bias of zeros goes. A norm goes into the
    # layer before it, which may pad, and only if there is none into the next.
    (
        "fuse-pad-conv",
        "fuse-conv-bn",
        "fuse-linear-bn",
        "fold-batch-norm-into-next",
        "fold-affine-into-conv-linear",
        "fold-scale-into-attention",
        "fold-embedding-projection",
        "eliminate-neutral-weights",
    ),
    # 7. Merge: several calls become one. Last, for a merged call has several users, into which nothing folds; chains
    # before what stands side by side.
    ("merge-linear-chain", "merge-conv-1x1-chain", "merge-parallel-linears", "merge-parallel-convs"),
    # 8. Store equal weights once, when they are what they will be: one that two layers share takes nothing in.
    ("deduplicate-weights",),
)
_O1 = f"fixpoint({','.join(name for phase in _O1_PHASES for name in phase)})"

register_pipeline("O0", _fixed(""))
register_pipeline("clean", _fixed(_CLEAN))
register_pipeline("O1", _fixed(_O1))
register_pipeline("O2", _o2)
register_pipeline("int8", _rounded("int8", smooth=True, static=True))
register_pipeline("int8-dynamic", _rounded("int8-dynamic", smooth=False))
register_pipeline("int8-weights", _rounded("int8-weights", smooth=False))
register_pipeline("int4-weights", _rounded("int4-weights", smooth=False))
register_pipeline("fp16", _half("float16"))
register_pipeline("bf16", _half("bfloat16"))


def expand_named(step: Named) -> str | None:
    """The text that a named pipeline stands for, None if the name is none."""
    expand = NAMED.get(step.name)
    return None if expand is None else expand(dict(step.options))
