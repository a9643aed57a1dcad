"""Pictures of plans: every call in its stage's colour, every tensor that is sent with its bytes."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fxopt.errors import InputError
from fxopt.passes.partition import Device, Link, PartitionPlan, _picture, partition
from tests.passes.partition.test_objectives import chain
from tests.traced import traced

SVG = "{http://www.w3.org/2000/svg}"


def two_stages() -> PartitionPlan:
    return partition(chain([8] * 5), ["cpu:0", "cpu:1"], links=Link(1e12, 0.0))


class TestSvg:
    def test_number_by_number(self, tmp_path: Path) -> None:
        """Columns of 190 with gaps of 70, rows of 20 every 28, below 70 for what heads them."""
        cost = {"linear": 3.0, "linear_1": 2.0, "linear_2": 3.0, "linear_3": 1.0, "linear_4": 1.0}
        plan = partition(chain([8] * 6), ["cpu:0", "cpu:1"], links=Link(1e12, 0.0), cost=cost)
        plan.picture(tmp_path / "plan.svg")
        tree = ElementTree.parse(tmp_path / "plan.svg").getroot()
        assert (tree.get("width"), tree.get("height")) == ("470", "164")
        assert (tree.findtext(f"{SVG}title") or "").splitlines() == plan.table().splitlines()
        boxes = [
            tuple(r.get(k) for k in ("x", "y", "width", "height", "fill")) for r in tree.iter(f"{SVG}rect")
        ]
        assert boxes == [
            ("10", "70", "190", "20", "#cfe2f3"), ("10", "98", "190", "20", "#cfe2f3"),
            ("270", "70", "190", "20", "#d9ead3"), ("270", "98", "190", "20", "#d9ead3"),
            ("270", "126", "190", "20", "#d9ead3"),
        ]  # fmt: skip
        texts = [(t.get("x"), t.get("y"), t.text) for t in tree.iter(f"{SVG}text")]
        assert texts == [
            ("204", "104", "64 B"),
            ("10", "28", "0: cpu:0"), ("10", "48", "5000.000 ms, 704 B"),
            ("16", "84", "linear"), ("16", "112", "linear_1"),
            ("270", "28", "1: cpu:1"), ("270", "48", "5000.000 ms, 960 B"),
            ("276", "84", "linear_2"), ("276", "112", "linear_3"), ("276", "140", "linear_4"),
        ]  # fmt: skip
        assert [p.get("d") for p in tree.iter(f"{SVG}path")] == [
            "M200,80 C211,80 211,108 200,108",
            "M200,108 C235,108 235,80 270,80",
            "M460,80 C471,80 471,108 460,108",
            "M460,108 C471,108 471,136 460,136",
        ]

    def test_a_line_down_a_long_column_stays_in_the_gap(self) -> None:
        assert 'd="M200,80 C243,80 243,360 200,360"' in _picture._line((10, 70), (10, 350), "")
        assert 'd="M200,80 C260,80 260,640 200,640"' in _picture._line((10, 70), (10, 630), "")

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
