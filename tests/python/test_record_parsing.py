"""Which process a file names: for hundreds of contents the same answer as filelock's, but for `why_different`.

What Python's ``strip``, ``splitlines`` and ``isdigit`` do to a text is half of filelock's rules. Ours are in Rust.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from typing import TYPE_CHECKING

import pytest

from ferrolock import SoftFileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from peers import Peer

TOKEN = b"2247087193759956303936445054322192173384370228849832810585"
RELEASED = b"filelock/released\n"
STRICT = b"1\nfilelock-strict-v1\0\n0\n"


def why_different(content: bytes, ours: int | None, theirs: int | None) -> str | None:
    """Why the two answers to that content differ, where that is meant."""
    if content == STRICT and (ours, theirs) == (None, 1):
        return "the file of strict locks belongs to all of them; filelock reads process 1 in it"
    try:
        lines = content.decode().strip().splitlines()
    except UnicodeDecodeError:
        return None
    if len(lines) == 1 and ours == int(lines[0]) and theirs is None:
        return "a bare pid is PIDLockFile's; filelock takes it for garbage, and after two seconds for anybody's"
    return None


def characters() -> list[str]:
    """All that Python takes for white space or the end of a line, and some that look as if."""
    meant = [
        char for char in map(chr, range(sys.maxunicode + 1)) if char.isspace() or len(f"a{char}b".splitlines()) > 1
    ]
    assert len(meant) >= 29
    return [*meant, "\0", "\x08", "\x1b", "\u180e", "\u200b", "\u2060", "\ufeff", "\u2027", "\r\n", "\n\r", "\r\r\n"]


def digits() -> list[str]:
    """One digit each of the scripts that have some, and what is a digit only to ``isdigit``."""
    return [char for char in map(chr, range(0x20000)) if char.isdigit() and unicodedata.digit(char) in {1, 7}]


def generated() -> list[bytes]:
    """The contents: one after the other, then pieces at random."""
    texts = [
        text
        for char in characters()
        for text in (f"7{char}vm{char}5\n", f"{char}7\nvm\n5{char}\n", f"7\n{char}vm{char}\n5\n", f"7{char}\nvm\n5\n")
    ]
    texts += [f"{digit}\nvm\n5\n" for digit in digits()[:12]] + [f"7\nvm\n5{digit}\n" for digit in digits()[:12]]
    numbers = ["", "0", "00", "007", "+5", "-1", "1_0", "1.0", "1e3", "0x10", "2147483647", "2147483648", "9" * 30]
    texts += [f"{number}\nvm\n5\n" for number in numbers] + [f"7\nvm\n{number}\n" for number in numbers]
    texts += [f"{number}\n" for number in numbers]
    marker = b"4711\nvm\n" + TOKEN + b"\n"
    contents = [text.encode() for text in texts]
    contents += [marker[:length] for length in (*range(12), 20, 40, len(marker) - 1, len(marker))]
    contents += [RELEASED, RELEASED[:-1], RELEASED * 2, STRICT, STRICT[:-1], b"0" + STRICT, STRICT + b"\n"]
    contents += [
        b"filelock/break\n12\n",
        b"filelock/2\npid=1\nhost=vm\nmode=exclusive\n",
        b"7\n\xff\n",
        b"7\nvm\n\xed\xa0\x80\n",
    ]
    contents += [b"7\n" + b"x" * length + b"\n5\n" for length in (1000, 1018, 1019, 1020, 1021, 5000)]
    dice = random.Random(1)
    pieces = [
        b"\n",
        b"\n",
        b"\n",
        b"7",
        b"4711",
        b"0",
        b"vm",
        b" ",
        b"\r",
        b"\x1c",
        b"\x1f",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        TOKEN,
    ]
    contents += [b"".join(dice.choices(pieces, k=dice.randrange(1, 8))) + b"\n" for _ in range(150)]
    return list(dict.fromkeys(contents))


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, bytes]:
    """Files with these contents."""
    folder = tmp_path_factory.mktemp("contents")
    files = {folder / str(number): content for number, content in enumerate(generated())}
    for path, content in files.items():
        path.write_bytes(content)
    return files


def test_a_file_names_for_us_whom_it_names_for_filelock(
    contents: dict[Path, bytes], spawn: Callable[..., Peer], filelock_folder: Callable[[str], Path]
) -> None:
    peer = spawn(lock="filelock.SoftFileLock", folder=filelock_folder("4.2.12"))
    ours = [SoftFileLock(path).pid for path in contents]
    theirs = peer.run("answer = [FileLock(path).pid for path in paths]", paths=list(contents))
    both = list(zip(contents.values(), ours, theirs, strict=True))
    differences = {difference: why_different(*difference) for difference in both if difference[1] != difference[2]}
    assert [difference for difference, reason in differences.items() if reason is None] == []
    assert len(set(differences.values())) == 2, "each of the reasons is met"
    assert len(both) >= 300
    assert len({pid for _, _, pid in both}) > 3, "they name somebody at all"
    assert min(sum(pid is None for pid in theirs), sum(pid is not None for pid in theirs)) > 50


def test_what_python_takes_for_a_marker_names_its_first_line(contents: dict[Path, bytes]) -> None:
    """The same rules in the words of Python, so that something is checked without filelock too."""
    for path, content in contents.items():
        assert SoftFileLock(path).pid == named(content), content


def named(content: bytes) -> int | None:
    """The pid, by Python's own means."""
    if content in {RELEASED, STRICT} or len(content) > 1024 or not content.endswith(b"\n"):
        return None
    try:
        lines = content.decode().strip().splitlines()
    except UnicodeDecodeError:
        return None
    numbers = [line for place, line in enumerate(lines) if place != 1]
    if not 1 <= len(lines) <= 3 or not all(line.isascii() and line.isdigit() for line in numbers):
        return None
    return int(lines[0]) if 1 <= int(lines[0]) < 2**31 else None
