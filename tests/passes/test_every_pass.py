"""Every pass of the library keeps its contract over drawn programs, files of every target among them."""

import pytest

from fxopt.pipeline import registry
from fxopt.testing import check_pass

LIBRARY = {name: cls for name, cls in registry.all().items() if cls.__module__.startswith("fxopt.passes.")}
# Few drawn programs compute what nobody reads; a plan changes nothing, nor does a share of one process; drawn weights
# are not equal.
LEAST_FIRED = {
    "eliminate-dead-code": 0.02,
    "partition": 0.0,
    "shard-linears": 0.0,
    "deduplicate-weights": 0.02,
}
# Drawn ranges are seldom so unlike that to make them alike halves the error, nor do drawn channels lie far apart; a
# contract does not ask for many steps. Drawn weights are small.
OPTIONS = {
    "equalize-layers": {"share": 1.0},
    "center-channels": {"share": 9.0},
    "adaround": {"steps": 10},
    "deduplicate-weights": {"min_bytes": 0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARY)
def test_keeps_its_contract_over_200_programs(name):
    counts = check_pass(
        LIBRARY[name](**OPTIONS.get(name, {})), examples=200, min_fired=LEAST_FIRED.get(name, 0.05)
    )
    assert counts["programs"] >= 200
