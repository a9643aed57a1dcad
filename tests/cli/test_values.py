"""Dynamic sizes on the command line."""

import pytest
from torch.export import Dim

from fxopt.cli.values import parse_dynamic
from fxopt.errors import InputError


def test_dynamic_with_names():
    assert parse_dynamic(["x:0=batch", "x:-1=time", "y:0=batch"]) == {
        "x": {0: "batch", -1: "time"},
        "y": {0: "batch"},
    }


def test_dynamic_without_a_name_is_a_size_of_its_own():
    assert parse_dynamic(["x:1"]) == {"x": {1: Dim.DYNAMIC}}


@pytest.mark.parametrize("text", ["x", "x:", "x:a", "x:0=", "x=0", ":0", "x:0=a b", "x:0=a=b", ""])
def test_another_form_of_dynamic_is_refused(text: str):
    with pytest.raises(InputError, match="expected INPUT:AXIS"):
        parse_dynamic([text])
