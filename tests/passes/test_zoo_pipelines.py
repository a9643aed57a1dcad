"""O1 and clean over the shared models: right at every batch size, nothing left to do, nothing lost."""

import pytest

from fxopt.dialect import violations
from fxopt.pipeline import PassManager
from fxopt.program import Program, origins_of
from fxopt.verification import check_programs
from tests.passes.helpers import calls
from tests.traced import inputs, same_bits, traced
from tests.zoo import names

SMALL = ["mlp", "lstm", "tied_encoder", "unet", "digits", "bert", "gpt2", "llama", "vit", "convnext"]


@pytest.fixture(scope="module")
def optimized():
    """A function from a model's name to its program before and after a pipeline, each made once."""
    made: dict[tuple[str, bool, str], tuple[Program, Program]] = {}

    def of(name: str, dynamic: bool, pipeline: str = "O1") -> tuple[Program, Program]:
        key = (name, dynamic, pipeline)
        if key not in made:
            before = traced(name, dynamic)
            made[key] = before, PassManager.parse(pipeline).run(before).program
        return made[key]

    return of


def _models(chosen: list[str]) -> list[object]:
    return [pytest.param(n, marks=[] if n in chosen else pytest.mark.slow) for n in names()]


@pytest.mark.parametrize("name", _models(SMALL))
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_o1_keeps_the_function(optimized, name: str, dynamic: bool):
    before, after = optimized(name, dynamic)
    report = check_programs(before, after)
    assert report.ok, report.reason
    assert len(calls(after)) <= len(calls(before))


@pytest.mark.parametrize("name", _models(SMALL))
def test_o1_leaves_a_sound_program(optimized, name: str):
    before, after = optimized(name, True)
    assert not list(violations(after, values=True))
    assert all(origins_of(n) for n in after.calls())
    assert {o for n in after.calls() for o in origins_of(n)} <= {
        o for n in before.calls() for o in origins_of(n)
    }


@pytest.mark.parametrize("name", SMALL)
def test_o1_again_changes_nothing(optimized, name: str):
    _, after = optimized(name, True)
    result = PassManager.parse("O1").run(after)
    assert not any(p.changed for p in result.passes)


@pytest.mark.parametrize("name", SMALL)
def test_clean_keeps_every_bit(optimized, name: str):
    before, after = optimized(name, True, "clean")
    tensors = inputs(name, True)
    assert same_bits(before.run_flat(tensors), after.run_flat(tensors))
    assert calls(before).count("dropout") == calls(after).count("dropout")


def test_what_o1_makes_of_them(optimized):
    """No BatchNorm, dropout or addmm is left, and no size is computed twice."""
    for name in ("digits", "unet", "gpt2", "bert"):
        _, after = optimized(name, True)
        assert not {"batch_norm", "dropout", "addmm", "sym_size_1"} & set(calls(after)), name
        assert calls(after).count("sym_size") <= 1


def test_gpt2_loses_its_reshapes(optimized):
    """Its layers flatten, multiply, add and shape back: one linear layer each."""
    _, after = optimized("gpt2", True)
    assert calls(after).count("linear") == 9
    assert calls(after).count("reshape") <= 9
