"""The Python in docs/ runs as it stands, each page from its top; links and pages hold together."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = (
    "trace", "dynamic-sizes", "optimize", "state", "errors", "training", "compression", "quantization",
    "partition", "run",
)  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    space: dict[str, object] = {"__name__": page}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), space)


def test_what_the_error_page_prints(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "errors.md", "exec"), {"__name__": "errors"})
    printed = capsys.readouterr().out
    assert "errors.md:7" in printed
    for part in ("InputError: input", "did you mean 'fuse-conv-bn'?", "did you mean 'onnx'?", "no such file"):
        assert part in printed


@pytest.mark.parametrize("file", sorted(DOCS.glob("*.md")), ids=lambda f: f.stem)
def test_links_lead_somewhere(file: Path):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", file.read_text(encoding="utf-8")):
        page, _, anchor = link.partition("#")
        target = (DOCS / page) if page else file
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
        assert not anchor or anchor in anchors, link


def test_every_page_is_in_the_index_and_in_the_site():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    site = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    for file in DOCS.glob("*.md"):
        assert file.name in site
        assert file.stem == "index" or f"({file.name})" in index
