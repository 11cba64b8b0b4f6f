"""
Advisory file locks with the interface and the files of ``filelock``.

>>> from ferrolock import FileLock
>>> with FileLock("x.lock"):  # doctest: +SKIP
...     print("nobody else is here")
"""

from __future__ import annotations

from . import _native
from ._api import AcquireReturnProxy, BaseFileLock
from ._descriptor import lock_descriptor, unlock_descriptor
from ._error import LockClosedError, SoftFileLockProtocolError, Timeout
from ._native import __version__
from ._read_write import ReadWriteLock
from ._soft import SoftFileLock, SoftFileLockLifetimeWarning
from ._soft_rw import SoftReadWriteLock
from ._strict import StrictSoftFileLock
from ._unix import UnixFileLock, has_fcntl
from ._windows import WindowsFileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sys

    from ._claim import StrictSoftFileClaim, StrictSoftFileClaimState
    from ._compromise import CompromiseReason, LeaseCompromise
    from ._lease import LeaseSettingsMismatch, SoftFileLease
    from ._marker import MarkerSoftFileLock, OwnerMode, OwnerRecord
    from ._options import CloseErrorPolicy, ContextErrorPolicy, LockOptions
    from .asyncio import (
        AsyncAcquireReadWriteReturnProxy,
        AsyncAcquireReturnProxy,
        AsyncAcquireSoftReadWriteReturnProxy,
        AsyncReadWriteLock,
        AsyncSoftFileLease,
        AsyncSoftFileLock,
        AsyncSoftReadWriteLock,
        AsyncStrictSoftFileLock,
        AsyncUnixFileLock,
        AsyncWindowsFileLock,
        BaseAsyncFileLock,
    )

    if sys.platform == "win32":
        FileLock = WindowsFileLock
        AsyncFileLock = AsyncWindowsFileLock
    else:
        FileLock = UnixFileLock
        AsyncFileLock = AsyncUnixFileLock
else:
    FileLock = WindowsFileLock if _native.MECHANISM == "LockFileEx" else UnixFileLock

    _LATE = {
        "AsyncAcquireReadWriteReturnProxy": "asyncio.AsyncAcquireReadWriteReturnProxy",
        "AsyncAcquireReturnProxy": "asyncio.AsyncAcquireReturnProxy",
        "AsyncAcquireSoftReadWriteReturnProxy": "asyncio.AsyncAcquireSoftReadWriteReturnProxy",
        "AsyncFileLock": f"asyncio.Async{FileLock.__name__}",
        "AsyncReadWriteLock": "asyncio.AsyncReadWriteLock",
        "AsyncSoftFileLease": "asyncio.AsyncSoftFileLease",
        "AsyncSoftFileLock": "asyncio.AsyncSoftFileLock",
        "AsyncSoftReadWriteLock": "asyncio.AsyncSoftReadWriteLock",
        "AsyncStrictSoftFileLock": "asyncio.AsyncStrictSoftFileLock",
        "AsyncUnixFileLock": "asyncio.AsyncUnixFileLock",
        "AsyncWindowsFileLock": "asyncio.AsyncWindowsFileLock",
        "BaseAsyncFileLock": "asyncio.BaseAsyncFileLock",
        "CloseErrorPolicy": "_options.CloseErrorPolicy",
        "CompromiseReason": "_compromise.CompromiseReason",
        "ContextErrorPolicy": "_options.ContextErrorPolicy",
        "LeaseCompromise": "_compromise.LeaseCompromise",
        "LeaseSettingsMismatch": "_lease.LeaseSettingsMismatch",
        "LockOptions": "_options.LockOptions",
        "MarkerSoftFileLock": "_marker.MarkerSoftFileLock",
        "OwnerMode": "_marker.OwnerMode",
        "OwnerRecord": "_marker.OwnerRecord",
        "SoftFileLease": "_lease.SoftFileLease",
        "StrictSoftFileClaim": "_claim.StrictSoftFileClaim",
        "StrictSoftFileClaimState": "_claim.StrictSoftFileClaimState",
        "asyncio": "asyncio",
    }
    """What needs modules that take longer to import than all of this package, and where it is."""

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module, _, attribute = _LATE[name].partition(".")
        value = import_module(f".{module}", __name__)
        globals()[name] = value = getattr(value, attribute) if attribute else value
        return value

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
    "AsyncAcquireReadWriteReturnProxy",
    "AsyncAcquireReturnProxy",
    "AsyncAcquireSoftReadWriteReturnProxy",
    "AsyncFileLock",
    "AsyncReadWriteLock",
    "AsyncSoftFileLease",
    "AsyncSoftFileLock",
    "AsyncSoftReadWriteLock",
    "AsyncStrictSoftFileLock",
    "AsyncUnixFileLock",
    "AsyncWindowsFileLock",
    "BaseAsyncFileLock",
    "BaseFileLock",
    "CloseErrorPolicy",
    "CompromiseReason",
    "ContextErrorPolicy",
    "FileLock",
    "LeaseCompromise",
    "LeaseSettingsMismatch",
    "LockClosedError",
    "LockOptions",
    "MarkerSoftFileLock",
    "OwnerMode",
    "OwnerRecord",
    "ReadWriteLock",
    "SoftFileLease",
    "SoftFileLock",
    "SoftFileLockLifetimeWarning",
    "SoftFileLockProtocolError",
    "SoftReadWriteLock",
    "StrictSoftFileClaim",
    "StrictSoftFileClaimState",
    "StrictSoftFileLock",
    "Timeout",
    "UnixFileLock",
    "WindowsFileLock",
    "__version__",
    "has_fcntl",
    "install",
    "lock_descriptor",
    "unlock_descriptor",
]
