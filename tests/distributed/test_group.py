"""What is told of a lost process: one line, of what happened alone."""

import pytest

from fxopt.distributed.group import ProcessLost, neighbours

GONE = "another process is gone or does not answer: "


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            "[/src/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:4340: Connection reset by peer. "
            "This is typically caused by a remote worker hanging. Check the logs.",
            "Read error [127.0.0.1]:4340: Connection reset by peer.",
        ),
        ("Timed out waiting 4000ms for send\nfrom pair", "Timed out waiting 4000ms for send"),
        ("wait timeout [x.cc:1] after 4000ms", "wait timeout [x.cc:1] after 4000ms"),
    ],
)
def test_one_line(raised: str, told: str) -> None:
    with pytest.raises(ProcessLost) as caught, neighbours():
        raise RuntimeError(raised)
    assert str(caught.value) == GONE + told
