"""The version of the package."""

from __future__ import annotations

from ._native import __version__

version = __version__

__all__ = ["__version__", "version"]
