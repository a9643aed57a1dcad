"""The example of a sentence encoder, in a short form."""

import pytest

from examples import prune_minilm


@pytest.mark.slow
def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    found = prune_minilm.main(sentences=256, calibration=12)
    assert found["left"] < 0.88
    assert found["before"] > 0.9
    assert found["after"] > found["before"] - 0.01
    assert "cosine to the original" in capsys.readouterr().out
