"""The code in README and docs: it runs as it stands, and prints what the comments behind it say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest

from peers import run_program

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
INDEX = ROOT / "docs" / "index.md"
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md")])
"""All of the documentation but for what follows. Empty where the tests were taken out of their tree."""

ARCHITECTURE = ROOT / "docs" / "architecture.md"
PROTOCOLS = sorted(ROOT.glob("docs/architecture/*.md"))
"""What only those read who change it: there is no code in it to run."""

WITHOUT_CODE = {"index.md", "architecture.md", "mutants.md"}
"""A list of links, and accounts of how it is built and tested. Every other page shows code."""

OF_PROGRAMS = {"README.md", "migrate-from-lockfile.md"}
"""Pages whose blocks are programs of their own: "before" and "after" would be in each other's way."""

NEEDS = {
    r"\b(?:from|import) lockfile\b": ("lockfile", importlib.util.find_spec("lockfile") is not None),
    r"\bos\.fork\b": ("fork", hasattr(os, "fork")),
}
"""What not everybody has, by the code that uses it."""

LANGUAGES = {"python", "console", "text"}
"""Code that is marked as anything else is not run by anybody, and would rot."""

FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_FENCE = re.compile(r"^[ >]*(?:```+|~~~+)(.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")

Block = tuple[int, str]
"""The number of its first line, and its text."""

MARK = "\f"

RUN = """
import json, os, sys

blocks, page, folder = sys.argv[1:]
with open(blocks, encoding="utf-8") as file:
    blocks = json.load(file)
os.chdir(folder)
namespace = {"__name__": "__main__"}
for line, source in blocks:
    print("\\f", end="")
    exec(compile("\\n" * (line - 1) + source, page, "exec"), namespace)
"""


def blocks_of(text: str) -> list[Block]:
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in FENCE.finditer(text)]


def runs() -> list[tuple[Path, list[Block]]]:
    """What is run in one go: a page, or one block of a page of programs."""
    found: list[tuple[Path, list[Block]]] = []
    for page in filter(Path.is_file, [README, *PAGES]):
        blocks = blocks_of(page.read_text(encoding="utf-8"))
        found += [(page, [block]) for block in blocks] if page.name in OF_PROGRAMS else [(page, blocks)]
    return [(page, blocks) for page, blocks in found if blocks]


def promised(block: str) -> list[str]:
    """The lines that it is said to print: ``# -> one, another``, behind code or on a line of its own."""
    return [line for said in re.findall(r"(?:^ *|  )# -> (.+)$", block, re.MULTILINE) for line in said.split(", ")]


def check(page: Path, blocks: list[Block], folder: Path) -> None:
    """
    Run the blocks in order, in one namespace and an empty folder, with warnings as errors.

    They must end well, and each must print what it promises, and nothing else.
    """
    given, work = folder / "blocks.json", folder / "work"
    given.write_text(json.dumps(blocks), encoding="utf-8")
    work.mkdir()
    output = run_program(RUN, given, page, work, options=("-u", "-W", "error"))  # -u: what children print comes between
    printed = [part.splitlines() for part in output.split(MARK)[1:]]
    for (line, block), lines in zip(blocks, printed, strict=True):
        expected = promised(block)
        if page != README or expected:
            assert lines == expected, f"{page.name}:{line}"


def complaints(name: str, text: str) -> list[str]:
    """What is wrong with a page apart from the code that is found in it."""
    found = []
    fences = [match[1] for match in ANY_FENCE.finditer(text)]
    if len(fences) % 2:
        found.append("a block does not end")
    blocks = len(blocks_of(text))
    if fences[::2].count("python") != blocks or text.count("```python") != blocks:
        found.append("a block of Python is not found")
    if name in WITHOUT_CODE:
        return found
    if not blocks:
        found.append("no code")
    found += [f"code in {language or 'no language'}" for language in fences[::2] if language not in LANGUAGES]
    return found


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[tuple[Path, str]]:
    """The files and anchors that a page links to."""
    found = LINK.findall(page.read_text(encoding="utf-8"))
    return [((page.parent / path).resolve() if path else page, anchor) for path, anchor in found if "://" not in path]


@pytest.mark.parametrize(
    ("page", "blocks"),
    [
        pytest.param(page, blocks, id=f"{page.name}:{blocks[0][0]}" if page.name in OF_PROGRAMS else page.name)
        for page, blocks in runs()
    ],
)
def test_code_runs_as_it_stands_and_prints_what_it_promises(page: Path, blocks: list[Block], tmp_path: Path) -> None:
    for code, (name, is_there) in NEEDS.items():
        if not is_there and any(re.search(code, block) for _, block in blocks):
            pytest.skip(f"there is no {name}")
    check(page, blocks, tmp_path)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_a_page_has_code_all_of_which_is_found(page: Path) -> None:
    if not page.is_file():
        pytest.skip("the tests were taken out of their tree")
    assert complaints(page.name, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", [README, *PAGES, *PROTOCOLS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    if not page.is_file():
        pytest.skip("the tests were taken out of their tree")
    for target, anchor in links_of(page):
        assert target.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in slugs(target.read_text(encoding="utf-8")), f"{page.name}: {target}{anchor}"


def test_an_index_has_one_line_for_each_page_and_the_readme_leads_there() -> None:
    if not PAGES:
        pytest.skip("the tests were taken out of their tree")
    for index, pages in ((INDEX, PAGES), (ARCHITECTURE, PROTOCOLS)):
        listed = [target for target, anchor in links_of(index) if target in pages and not anchor]
        assert sorted(listed) == [page for page in pages if page != INDEX]
    assert (INDEX, "") in links_of(README)


@pytest.mark.parametrize(
    "block", ["print(1)  # -> 2\n", "print(1)  # -> 1\nprint(2)\n", "1 / 0\n", "import warnings; warnings.warn('x')\n"]
)
def test_a_block_that_does_not_hold_its_promise_is_noticed(block: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        check(Path("page.md"), [(1, block)], tmp_path)


def test_each_block_of_a_page_answers_for_what_it_prints(tmp_path: Path) -> None:
    blocks = [(1, "x = 1\n"), (5, "print(x)\n"), (9, "print(2)  # -> 1, 2\n")]
    with pytest.raises(AssertionError, match=r"page\.md:5"):
        check(Path("page.md"), blocks, tmp_path)


def test_the_line_of_the_page_is_named_where_a_block_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r'page\.md", line 8\b'):
        check(Path("page.md"), [(1, "pass\n"), (7, "x = 0\n1 / x\n")], tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# How\n\nWords.\n", "no code"),
        ("```text\nx\n```\n", "no code"),
        ("```python\nx = 1\n", "does not end"),
        ("- list\n\n  ```python\n  x = 1\n  ```\n", "is not found"),
        ("```python\nx = 1\n```\n\n```py\nx = 1\n```\n", "code in py"),
        ("```python\nx = 1\n```\n\n```\nx = 1\n```\n", "code in no language"),
        ("```python title\nx = 1\n```\n", "is not found"),
    ],
)
def test_a_page_without_a_block_that_it_should_have_is_noticed(text: str, complaint: str) -> None:
    assert complaint in "; ".join(complaints("page.md", text))
