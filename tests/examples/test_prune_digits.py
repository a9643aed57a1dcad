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
