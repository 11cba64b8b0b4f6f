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
from ._soft_rw import SoftReadWriteLock
from ._unix import UnixFileLock, has_fcntl
from ._windows import WindowsFileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sys
    from typing import Any

    from .asyncio import (
        AsyncAcquireReturnProxy,
        AsyncSoftFileLock,
        AsyncUnixFileLock,
        AsyncWindowsFileLock,
        BaseAsyncFileLock,
    )

    from ._compromise import CompromiseReason, LeaseCompromise

    if sys.platform == "win32":
        FileLock = WindowsFileLock
        AsyncFileLock = AsyncWindowsFileLock
    else:
        FileLock = UnixFileLock
        AsyncFileLock = AsyncUnixFileLock
else:
    FileLock = WindowsFileLock if _native.MECHANISM == "LockFileEx" else UnixFileLock

    _ASYNC = {
        "AsyncAcquireReturnProxy": "AsyncAcquireReturnProxy",
        "AsyncFileLock": f"Async{FileLock.__name__}",
        "AsyncSoftFileLock": "AsyncSoftFileLock",
        "AsyncUnixFileLock": "AsyncUnixFileLock",
        "AsyncWindowsFileLock": "AsyncWindowsFileLock",
        "BaseAsyncFileLock": "BaseAsyncFileLock",
    }

    def __getattr__(name: str) -> Any:
        """Give what needs ``asyncio``, which takes long to import, when it is first asked for."""
        if name not in _ASYNC and name != "asyncio":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(".asyncio", __name__)
        value = globals()[name] = module if name == "asyncio" else getattr(module, _ASYNC[name])
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_ASYNC, "asyncio"})


_LATE = ("CompromiseReason", "LeaseCompromise")
"""What needs modules that take longer to import than all of this package."""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from . import _compromise

    globals().update({late: getattr(_compromise, late) for late in _LATE})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


def install() -> None:
    """
    Let ``import filelock`` give ferrolock in this process, also where filelock is installed.

    Call it before anything imports filelock: who has it already keeps what it has.
    """
    from ._alias import install as install_alias

    install_alias()


__all__ = [
    "AcquireReturnProxy",
    "AsyncAcquireReturnProxy",
    "AsyncFileLock",
    "AsyncSoftFileLock",
    "AsyncUnixFileLock",
    "AsyncWindowsFileLock",
    "BaseAsyncFileLock",
    "BaseFileLock",
    "CompromiseReason",
    "FileLock",
    "LeaseCompromise",
    "ReadWriteLock",
    "SoftFileLock",
    "SoftFileLockLifetimeWarning",
    "SoftReadWriteLock",
    "Timeout",
    "UnixFileLock",
    "WindowsFileLock",
    "__version__",
    "has_fcntl",
    "install",
]
