"""The command line: ``demo`` shows processes taking turns with one lock, ``clean`` removes lock files nobody holds."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from ferrolock import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MOST_PROCESSES = 64


def _process_count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if not 1 <= count <= MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_PROCESSES}")
    return count


def _duration(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of seconds above 0")
    return seconds


def _age(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of seconds from 0")
    return seconds


def _add_demo(commands: Any) -> None:
    about = "let several processes contend for one lock and show who held it when"
    demo = commands.add_parser("demo", help=about, description=about[0].upper() + about[1:] + ".")
    demo.add_argument("--processes", type=_process_count, default=8, metavar="N", help="how many (default: 8)")
    demo.add_argument("--seconds", type=_duration, default=3.0, metavar="S", help="for how long (default: 3)")


def _add_clean(commands: Any) -> None:
    about = "say which lock files in a folder nobody holds, and with --delete remove them"
    clean = commands.add_parser(
        "clean",
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog="Goes: an empty file that nobody has locked, and a soft lock's marker whose owner is proved dead. Stays:"
        " what holds data, has a second name, or is in use; links are not followed. Exit status: 0 if all could be"
        " looked at, 1 if something failed, 2 for wrong arguments.",
    )
    clean.add_argument("folder", help="where to look")
    clean.add_argument("--delete", action="store_true", help="remove what is left over, rather than only say so")
    clean.add_argument("--recursive", action="store_true", help="look in the folders below, too")
    clean.add_argument(
        "--pattern", action="append", metavar="P", help="which names; can be given several times (default: *.lock)"
    )
    clean.add_argument(
        "--older-than",
        type=_age,
        default=60.0,
        metavar="S",
        help="spare empty files that are younger than that many seconds (default: 60): they may be about to be written",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; bad arguments leave through ``SystemExit(2)``."""
    parser = argparse.ArgumentParser(prog="python -m ferrolock", description="File locks with a Rust core.")
    parser.add_argument("--version", action="version", version=f"ferrolock {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    _add_demo(commands)
    _add_clean(commands)
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help(sys.stderr)
        return 2

    # Here, as --help and --version need none of what these import.
    if chosen.command == "clean":
        from ferrolock import _clean

        patterns = chosen.pattern or ["*.lock"]
        return _clean.run(chosen.folder, patterns, chosen.older_than, recursive=chosen.recursive, delete=chosen.delete)
    from ferrolock import _demo

    return _demo.run(chosen.processes, chosen.seconds)


if __name__ == "__main__":
    sys.exit(main())
