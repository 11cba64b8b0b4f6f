"""What the constructor of a subclass takes. Imported when the first such class is used: ``inspect`` is slow to load."""

from __future__ import annotations

from functools import cache
from inspect import Parameter, signature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


@cache
def parameters_of(init: Callable[..., None]) -> frozenset[str] | None:
    """The names that ``init`` takes, or None where it takes any."""
    parameters = signature(init).parameters
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)
