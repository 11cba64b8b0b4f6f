"""The code in README and guides: each block is a program of its own, and prints what the comments behind it say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from peers import run_program

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

RUN = """
import os, sys
source, folder = sys.argv[1:]
os.chdir(folder)
exec(compile(source, "<block>", "exec"), {"__name__": "__main__"})
"""


def blocks(page: Path) -> list[tuple[int, str]]:
    """The blocks of a page, each with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in FENCE.finditer(text)]


def promised(block: str) -> list[str]:
    """The lines that it is said to print: ``# -> one, another``."""
    return [line for said in re.findall(r"  # -> (.+)$", block, re.MULTILINE) for line in said.split(", ")]


def check(block: str, folder: Path) -> None:
    """Run it, in that folder and with warnings as errors; it must end well, and keep its promises if it makes any."""
    expected = promised(block)
    printed = run_program(RUN, block, folder, options=("-W", "error")).splitlines()
    assert not expected or printed == expected


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, id=f"{page.name}:{line}") for page in PAGES if page.is_file() for line, block in blocks(page)],
)
def test_a_block_runs_as_it_stands(block: str, tmp_path: Path) -> None:
    if re.search(r"\blockfile\b", block) and importlib.util.find_spec("lockfile") is None:
        pytest.skip("lockfile is not installed")
    check(block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_is_found(page: Path) -> None:
    if not page.is_file():
        pytest.skip("the tests were taken out of their tree")
    text = page.read_text(encoding="utf-8")
    assert len(blocks(page)) == text.count("```python")


@pytest.mark.parametrize(
    "block", ["print(1)  # -> 2\n", "print(1)  # -> 1\nprint(2)\n", "1 / 0\n", "import warnings; warnings.warn('x')\n"]
)
def test_a_block_that_does_not_hold_its_promise_is_noticed(block: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check(block, tmp_path)
