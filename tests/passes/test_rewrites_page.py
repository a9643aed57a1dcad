"""The page that compares rewrites names passes that exist."""

import re
from pathlib import Path

from fxopt.pipeline import registry

PAGE = Path(__file__).parents[2] / "docs" / "rewrites.md"


def rows() -> list[list[str]]:
    """The cells of the page's tables, without their heads."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def named() -> set[str]:
    return {name for row in rows() for name in re.findall(r"`([a-z0-9-]+)`", row[1])}


def test_every_pass_that_is_named_exists():
    assert named() <= set(registry.all())


def test_each_row_has_our_answer():
    """A pass, or a dash and why not."""
    for theirs, ours, remark in rows():
        if theirs != "theirs":
            assert ours == "-" or ours.startswith("`"), theirs
            assert ours != "-" or remark, theirs
