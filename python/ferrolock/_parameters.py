"""What the constructor of a subclass takes. Imported when the first such class is used: ``inspect`` is slow to load."""

from __future__ import annotations

from contextlib import suppress
from inspect import Parameter, signature
from weakref import WeakKeyDictionary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_known: WeakKeyDictionary[Callable[..., None], frozenset[str] | None] = WeakKeyDictionary()
"""Weak: a function that calls ``super()`` refers to its class, which would live for ever."""


def parameters_of(init: Callable[..., None]) -> frozenset[str] | None:
    """The names that ``init`` takes, or None where it takes any."""
    try:
        return _known[init]
    except (KeyError, TypeError):  # TypeError: not everything that can be called can be a key
        pass
    parameters = signature(init).parameters
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values())
    names = None if takes_any else frozenset(parameters)
    with suppress(TypeError):
        _known[init] = names
    return names
