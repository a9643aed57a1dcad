"""Pictures of plans: every call in its stage's colour, every tensor that is sent with its bytes."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fxopt.errors import InputError
from fxopt.passes.partition import Device, Link, PartitionPlan, partition
from tests.passes.partition.test_objectives import chain
from tests.traced import traced

SVG = "{http://www.w3.org/2000/svg}"


def two_stages() -> PartitionPlan:
    return partition(chain([8] * 5), ["cpu:0", "cpu:1"], links=Link(1e12, 0.0))


class TestSvg:
    def test_calls_stand_in_columns_of_their_colour(self, tmp_path: Path) -> None:
        file = tmp_path / "plan.svg"
        two_stages().picture(file)
        tree = ElementTree.parse(file).getroot()
        boxes = [(r.get("x"), r.get("fill")) for r in tree.iter(f"{SVG}rect")]
        assert [boxes.count(b) for b in dict.fromkeys(boxes)] == [2, 2]
        words = [t.text or "" for t in tree.iter(f"{SVG}text")]
        assert {"linear", "linear_1", "linear_2", "linear_3", "0: cpu:0", "1: cpu:1", "64 B"} <= set(words)
        assert words.count("64 B") == 1
        assert len(list(tree.iter(f"{SVG}path"))) == 3

    def test_of_a_model_each_call_is_inside_the_picture(self, tmp_path: Path) -> None:
        plan = partition(traced("unet", True), [Device(f"cpu:{i}") for i in range(3)], links=Link(1e12, 0.0))
        plan.picture(tmp_path / "plan.svg")
        tree = ElementTree.parse(tmp_path / "plan.svg").getroot()
        boxes = list(tree.iter(f"{SVG}rect"))
        assert len(boxes) == sum(len(s.calls) for s in plan.stages)
        for size, start, extent in (("width", "x", "width"), ("height", "y", "height")):
            assert max(int(b.get(start, 0)) + int(b.get(extent, 0)) for b in boxes) <= int(tree.get(size, 0))
        assert len({(b.get("x"), b.get("y")) for b in boxes}) == len(boxes)


def test_dot(tmp_path: Path) -> None:
    file = tmp_path / "plan.dot"
    two_stages().picture(str(file))
    text = file.read_text()
    assert re.findall(r"subgraph (\w+)", text) == ["cluster_0", "cluster_1"]
    assert re.findall(r'fillcolor="([^"]+)"', text) == ["#cfe2f3", "#d9ead3"]
    assert re.findall(r"->.*", text) == ['-> "linear_1";', '-> "linear_2" [label="64 B"];', '-> "linear_3";']


def test_another_suffix_and_a_plan_without_its_program(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"plan\.bmp: a picture is an \.svg or a \.dot file"):
        two_stages().picture(tmp_path / "plan.bmp")
    with pytest.raises(InputError, match="say plan"):
        PartitionPlan.from_json(two_stages().to_json()).picture(tmp_path / "plan.svg")
