"""A plan as a picture: a column a stage, coloured, its calls from the top down, and what is sent between them.

`.svg` opens in a browser; `.dot` is text for Graphviz, which draws it as it likes.
"""

import html
import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.fx import Node

from fxopt.errors import InputError
from fxopt.ops import tensor_bytes
from fxopt.passes.partition._plan import PartitionPlan
from fxopt.program.text import human_bytes
from fxopt.program.writing import replacing, write_file

__all__ = ["draw"]

_COLOURS = ("#cfe2f3", "#d9ead3", "#fff2cc", "#f4cccc", "#d9d2e9", "#fce5cd", "#d0e0e3", "#ead1dc")
_WIDTH, _GAP, _HEIGHT, _STEP, _TOP = 190, 70, 20, 28, 70


def draw(plan: PartitionPlan, path: str | os.PathLike[str]) -> None:
    """Writes the picture of a plan that knows its program.

    Raises:
        InputError: the suffix is neither `.svg` nor `.dot`, or the plan was read and not joined with a program.
        ArtifactError: the file can't be written.
    """
    suffix = Path(path).suffix
    if suffix not in (".svg", ".dot"):
        raise InputError(f"{os.fspath(path)}: a picture is an .svg or a .dot file")
    text = _svg(plan) if suffix == ".svg" else _dot(plan)
    with replacing(Path(path)) as temporary:
        write_file(temporary, [text.encode()])


def _title(plan: PartitionPlan, stage: int) -> tuple[str, str]:
    s = plan.stages[stage]
    return f"{stage}: {s.device}", f"{1e3 * s.load:.3f} ms, {human_bytes(s.memory)}"


def _edges(plan: PartitionPlan) -> Iterator[tuple[Node, Node, str]]:
    """What each call reads of others, and the bytes where it comes from another stage."""
    stage_of = plan.stage_of()
    for user in stage_of:
        for maker in user.all_input_nodes:
            if maker in stage_of:
                yield maker, user, _sent(maker) if stage_of[maker] != stage_of[user] else ""


def _sent(node: Node) -> str:
    value = node.meta["val"]
    size = tensor_bytes(value) if isinstance(value, torch.Tensor) else 0
    return human_bytes(size if isinstance(size, int) else int(size.node.hint))


def _dot(plan: PartitionPlan) -> str:
    lines = ["digraph plan {", '  node [shape=box, style="filled,rounded", fontname="sans-serif"];']
    for number, stage in enumerate(plan.stages):
        colour = _COLOURS[number % len(_COLOURS)]
        lines += [
            f"  subgraph cluster_{number} {{",
            f"    label={json.dumps(', '.join(_title(plan, number)))};",
            f'    node [fillcolor="{colour}"];',
            *(f"    {json.dumps(call)};" for call in stage.calls),
            "  }",
        ]
    for maker, user, sent in _edges(plan):
        label = f" [label={json.dumps(sent)}]" if sent else ""
        lines.append(f"  {json.dumps(maker.name)} -> {json.dumps(user.name)}{label};")
    return "\n".join([*lines, "}"]) + "\n"


def _svg(plan: PartitionPlan) -> str:
    places = {
        call: (10 + stage * (_WIDTH + _GAP), _TOP + row * _STEP)
        for stage, s in enumerate(plan.stages)
        for row, call in enumerate(s.calls)
    }
    width = len(plan.stages) * (_WIDTH + _GAP) + 20 - _GAP
    height = _TOP + max(len(s.calls) for s in plan.stages) * _STEP + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{html.escape(plan.table())}</title>",
    ]
    for maker, user, sent in _edges(plan):
        parts.append(_line(places[maker.name], places[user.name], sent))
    for number, stage in enumerate(plan.stages):
        left, colour = 10 + number * (_WIDTH + _GAP), _COLOURS[number % len(_COLOURS)]
        name, load = map(html.escape, _title(plan, number))
        parts.append(f'<text x="{left}" y="28" font-size="14" font-weight="bold">{name}</text>')
        parts.append(f'<text x="{left}" y="48">{load}</text>')
        for call in stage.calls:
            x, y = places[call]
            parts.append(
                f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="{colour}" stroke="#888"/>'
                f'<text x="{x + 6}" y="{y + 14}">{html.escape(call)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _line(start: tuple[int, int], end: tuple[int, int], sent: str) -> str:
    """From one box to another: across where they are in two columns, down the side in one."""
    y1, y2 = start[1] + _HEIGHT // 2, end[1] + _HEIGHT // 2
    if not sent:
        x = start[0] + _WIDTH
        bend = min(8 + abs(y2 - y1) // 8, _GAP - 10)
        return f'<path d="M{x},{y1} C{x + bend},{y1} {x + bend},{y2} {x},{y2}" fill="none" stroke="#aaa"/>'
    x1, x2 = start[0] + _WIDTH, end[0]
    middle = (x1 + x2) // 2
    return (
        f'<path d="M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}" fill="none" stroke="#c00"/>'
        f'<text x="{x1 + 4}" y="{y1 - 4}" fill="#c00">{sent}</text>'
    )
