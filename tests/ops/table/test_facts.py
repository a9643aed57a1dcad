"""Every fact of every entry, tested by perturbation on the entry's own samples."""

import pytest

from fxopt.ops import OpInfo, QuantRole, registered_ops
from tests.ops.facts import CHECKS

TABLE = {name: info for name, info in registered_ops().items() if name.startswith("aten.")}
ALWAYS = ("pure", "aliasing")


def declared(info: OpInfo, fact: str) -> bool:
    if fact == "index_map":
        return info.index_map is not None or info.elementwise
    if fact == "role":
        return info.role in (QuantRole.SAME_SCALE, QuantRole.CONTRACTION) and "einsum" not in info.op
    return fact in ALWAYS or bool(getattr(info, fact))


@pytest.mark.parametrize(
    ("fact", "name"), [(f, n) for f in CHECKS for n, i in TABLE.items() if declared(i, f)], ids=lambda v: v
)
def test_fact(fact: str, name: str) -> None:
    outcome = CHECKS[fact](TABLE[name])
    assert not outcome.problems, "\n".join(outcome.problems[:5])
    assert outcome.looked, f"no sample of {name} exercises {fact}"
