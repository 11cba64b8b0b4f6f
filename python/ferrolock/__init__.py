"""
Advisory file locks with the interface and the files of ``filelock``.

>>> from ferrolock import FileLock
>>> with FileLock("x.lock"):  # doctest: +SKIP
...     print("nobody else is here")
"""

from __future__ import annotations

from . import _native
from ._api import AcquireReturnProxy, BaseFileLock
from ._error import Timeout
from ._native import __version__
from ._read_write import ReadWriteLock
from ._soft import SoftFileLock, SoftFileLockLifetimeWarning
from ._unix import UnixFileLock, has_fcntl
from ._windows import WindowsFileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sys

    if sys.platform == "win32":
        FileLock = WindowsFileLock
    else:
        FileLock = UnixFileLock
else:
    FileLock = WindowsFileLock if _native.MECHANISM == "LockFileEx" else UnixFileLock


def install() -> None:
    """
    Let ``import filelock`` give ferrolock in this process, also where filelock is installed.

    Call it before anything imports filelock: who has it already keeps what it has.
    """
    from ._alias import install as install_alias

    install_alias()


__all__ = [
    "AcquireReturnProxy",
    "BaseFileLock",
    "FileLock",
    "ReadWriteLock",
    "SoftFileLock",
    "SoftFileLockLifetimeWarning",
    "Timeout",
    "UnixFileLock",
    "WindowsFileLock",
    "__version__",
    "has_fcntl",
    "install",
]
