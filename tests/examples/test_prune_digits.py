"""The pruning example, in a short form."""

from examples import prune_digits


def test_the_example(capsys) -> None:
    before, after, small = prune_digits.main(epochs=2, steps=2)
    assert before > 0.85
    assert after > before - 0.1
    assert sum(t.numel() for t in small.weights.values()) <= 38474 / 8
    printed = capsys.readouterr().out
    assert "0.weight" in printed
    assert "equivalent" in printed


def test_folds_and_an_ensemble(capsys) -> None:
    ((first, second),) = prune_digits.cross_validated(epochs=1, steps=1, folds=2, seeds=1)
    assert min(first.factor, second.factor) >= 8
    assert min(first.before, second.before) > 0.8
    ((alone, together),) = prune_digits.ensembles(epochs=1, steps=1, members=2, seeds=1)
    assert len(alone) == 2 and 0 < together <= 1
    assert "points lost" in capsys.readouterr().out
