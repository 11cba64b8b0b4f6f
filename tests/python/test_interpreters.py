"""The package where there is more than one interpreter in the process."""

from __future__ import annotations

import importlib.util

import pytest

from peers import run_program

KINDS = {
    "sharing the interpreter lock": ('"legacy"', "isolated=False"),
    "isolated": ('"isolated"', "isolated=True"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_interpreter_is_refused_at_the_import(kind: str) -> None:
    is_new = importlib.util.find_spec("_interpreters") is not None
    if not is_new and importlib.util.find_spec("_xxsubinterpreters") is None:
        pytest.skip("this Python has no interpreters to be made from a program")
    program = f"""
        import os
        import ferrolock
        import {"_interpreters" if is_new else "_xxsubinterpreters"} as interpreters

        second = interpreters.create({KINDS[kind][0 if is_new else 1]})
        interpreters.run_string(second, '''if True:
            import os
            try:
                import ferrolock
            except ImportError as error:
                os.write(1, b"refused" if "interpreter" in str(error) else str(error).encode())
            else:
                os.write(1, b"imported")
        ''')
        interpreters.destroy(second)
        assert ferrolock.FileLock("x.lock").lock_counter == 0
    """
    assert run_program(program) == "refused"
