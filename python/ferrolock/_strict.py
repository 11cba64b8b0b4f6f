"""The strict lock: nobody takes it from anybody."""

from __future__ import annotations

from . import _native
from ._api import BaseFileLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._claim import StrictSoftFileClaim


class StrictSoftFileLock(BaseFileLock):
    """
    Claims in a folder beside the lock's path, of which the smallest wins.

    While it is held, nobody else who goes by such claims gets the lock, on any file system with hard links, whatever
    became of its holder and however long that takes; nor does a soft lock of the same path. It is given back when the
    lock is released, and at the end of the program. The claim of a process that was killed stays until somebody removes
    it, and so does that of a daemon thread that holds the lock when the program ends: see :attr:`claims` and
    :meth:`force_break`.

    The path and the folder ``<path>.filelock`` stay for good.
    """

    _mechanism = "strict"
    _acquire = _native.NativeLock._acquire_below
    _release = _native.NativeLock._release_below

    def _configure(self, *args: Any, **options: Any) -> None:
        super()._configure(*args, mechanism=self._mechanism, **options)

    @property
    def claims(self) -> tuple[StrictSoftFileClaim, ...]:
        """
        Who has the lock or wants it, by the names of the claims: those that are held come first.

        A holder has two, of one token. Unlike acquiring, asking makes no file.

        :raises SoftFileLockProtocolError: if there is a file among them that is no claim
        """
        from ._claim import StrictSoftFileClaim

        return tuple(StrictSoftFileClaim(*fields) for fields in _native.strict_claims(self))

    def force_break(self, claim_name: str) -> None:
        """
        Remove one claim, whoever it belongs to.

        Its owner is not told, and goes on: make sure that it has ended. The lock is free when both claims of a holder
        are removed.

        :param claim_name: the name, as :attr:`claims` or a :class:`SoftFileLockProtocolError` has it
        :raises ValueError: if that is no name of a file
        :raises FileNotFoundError: if there is no such claim
        """
        _native.break_strict_claim(self, claim_name)

    @property
    def lock_path_occupant(self) -> str | None:
        """What keeps strict locks away from the path, in words; None if nothing does."""
        return _native.strict_occupant(self)

    @classmethod
    def _refuse_unsupported(cls, preserve_lock_file: Any, on_acquired: Any) -> None:  # noqa: ARG003 - the path stays in any case
        """Refuse what makes no sense for claims."""
        if on_acquired is not None:
            msg = f"on_acquired is not supported by {cls.__name__}: no descriptor is the lock. FileLock has one that is"
            raise ValueError(msg)

    @classmethod
    def _admit_lifetime(cls, lifetime: float, stacklevel: int) -> float | None:  # noqa: ARG003 - the metaclass's signature
        """Warn: no age ends a claim."""
        import warnings

        msg = f"lifetime is ignored for {cls.__name__}: no claim is ended by its age, only by force_break()"
        warnings.warn(msg, UserWarning, stacklevel=stacklevel + 1)
        return None


__all__ = ["StrictSoftFileLock"]
