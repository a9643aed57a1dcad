import linecache
import sysconfig
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from torch.nn.modules import container, linear, module

import fxopt.demo.models
import fxopt.frontend.trace
from fxopt.frontend.frames import (
    Frame,
    Owner,
    innermost,
    is_layer,
    owner,
    parse_frames,
    place_of,
    traceback_frames,
)

LIBRARY = f"{sysconfig.get_path('purelib')}/somebody/net.py"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (functional.__file__, Owner.MACHINERY),
        (torch.__file__, Owner.MACHINERY),
        ("torch/fx/passes/runtime_assert.py", Owner.MACHINERY),
        (fxopt.frontend.trace.__code__.co_filename, Owner.MACHINERY),
        ("<eval_with_key>.7", Owner.MACHINERY),
        ("<frozen importlib._bootstrap>", Owner.MACHINERY),
        (fxopt.demo.models.__file__, Owner.USER),
        (LIBRARY, Owner.LIBRARY),
        (linecache.__file__, Owner.MACHINERY),
        ("C:\\venv\\Lib\\site-packages\\timm\\vit.py", Owner.LIBRARY),
        (__file__, Owner.USER),
        ("/home/me/torch/model.py", Owner.USER),
        ("/home/me/fxopt/model.py", Owner.USER),
        ("<ipython-input-3-abc>", Owner.USER),
        ("<stdin>", Owner.USER),
    ],
)
def test_whose_code_it_is(path: str, expected: Owner):
    assert owner(path) is expected


def test_layers_are_files_of_ops():
    assert is_layer(linear.__file__)
    assert not any(map(is_layer, (module.__file__, container.__file__, functional.__file__, __file__)))


def frames(*paths: str) -> list[Frame]:
    return [Frame(path, i) for i, path in enumerate(paths, 1)]


@pytest.mark.parametrize(
    ("paths", "line"),
    [
        (("/me/a.py", "/me/b.py", linear.__file__, functional.__file__), 2),
        (("/me/a.py", LIBRARY, functional.__file__), 2),
        ((container.__file__, linear.__file__, functional.__file__), 2),
        ((functional.__file__,), None),
        ((), None),
    ],
)
def test_innermost(paths: tuple[str, ...], line: int | None):
    found = innermost(frames(*paths))
    assert (found.line if found else None) == line


@pytest.mark.parametrize(
    ("paths", "place"),
    [
        (("/me/a.py", "/me/b.py", functional.__file__), "/me/b.py:2"),
        (("/me/a.py", LIBRARY, functional.__file__), f"/me/a.py:1, in {LIBRARY}:2"),
        ((LIBRARY, "/me/a.py"), "/me/a.py:2"),
        ((LIBRARY, functional.__file__), f"{LIBRARY}:1"),
        ((linear.__file__,), ""),
        ((), ""),
    ],
)
def test_place(paths: tuple[str, ...], place: str):
    assert place_of(frames(*paths)) == place


def test_a_frame_shows_its_source_shortened(tmp_path: Path):
    file = tmp_path / "net.py"
    file.write_text(f"x = 1\n    y = {' + '.join(map(str, range(100)))}\n")
    assert str(Frame(str(file), 1)) == f"{file}:1 (x = 1)"
    shown = str(Frame(str(file), 2))
    assert shown.startswith(f"{file}:2 (y = 0 + 1 + 2")
    assert shown.endswith(" ...)")
    assert len(shown) <= len(f"{file}:2 ()") + 120
    assert str(Frame(str(file), 3)) == f"{file}:3"


def test_frames_of_texts_and_exceptions():
    text = 'File "/me/a.py", line 3, in forward\n    x()\n  File "/me/b c.py", line 14, in <lambda>\n    y()'
    assert parse_frames(text) == [Frame("/me/a.py", 3), Frame("/me/b c.py", 14)]
    assert parse_frames("") == []
    try:
        {}["missing"]
    except KeyError as error:
        [frame] = traceback_frames(error)
    assert (frame.file, frame.line) == (
        __file__,
        test_frames_of_texts_and_exceptions.__code__.co_firstlineno + 5,
    )
