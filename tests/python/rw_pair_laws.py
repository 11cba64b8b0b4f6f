"""Laws of two processes that lock the same thing in different ways: of a `pair`, who is inside and who comes."""

from __future__ import annotations

import pytest

from peers import LONG
from rw_peers import Party, let_in


@pytest.mark.parametrize(
    ("held", "asked", "is_let_in"),
    [("read", "read", True), ("read", "write", False), ("write", "read", False), ("write", "write", False)],
)
def test_they_share_to_read_and_exclude_to_write(
    pair: tuple[Party, Party], held: str, asked: str, is_let_in: bool
) -> None:
    inside, comes = pair
    for _ in range(2):
        assert inside.enter(held, LONG)
        assert comes.enter(asked, LONG if is_let_in else 0) is is_let_in
        if is_let_in:
            comes.leave()
        inside.leave()
        assert comes.enter(asked, LONG)
        comes.leave()


@pytest.mark.parametrize(("held", "asked"), [("read", "write"), ("write", "read"), ("write", "write")])
def test_who_waits_is_let_in(pair: tuple[Party, Party], held: str, asked: str) -> None:
    inside, comes = pair
    assert inside.enter(held, LONG)
    let_in(comes.begin(asked), inside.leave)
