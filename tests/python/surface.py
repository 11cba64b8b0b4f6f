"""Describes what a package offers, in JSON: run with the package's name as its argument."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
from typing import Any, get_args


def parameters(function: Any) -> Any:
    """Names, kinds and defaults, but of the object itself; annotations say the same in other words."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    described = []
    for name, parameter in signature.parameters.items():
        default = parameter.default
        if type(default) is int:
            default = float(default)
        described.append([name, parameter.kind.name, None if default is parameter.empty else repr(default)])
    return [parameter for parameter in described if parameter[0] != "self"]


def members(cls: type) -> dict[str, Any]:
    """What an object of the class has for everybody."""
    described: dict[str, Any] = {}
    for name in dir(cls):
        if name.startswith("_") and name not in {"__enter__", "__exit__", "__aenter__", "__aexit__", "__call__"}:
            continue
        value = inspect.getattr_static(cls, name)
        is_data = isinstance(value, (property, types.MemberDescriptorType, types.GetSetDescriptorType))
        described[name] = "data" if is_data else parameters(getattr(cls, name))
    return described


def describe(value: Any) -> dict[str, Any]:
    """What a name stands for."""
    if get_args(value):
        return {"kind": "literal", "values": list(get_args(value))}
    if hasattr(value, "__required_keys__"):
        return {"kind": "options", "names": sorted(value.__annotations__), "required": sorted(value.__required_keys__)}
    if inspect.isclass(value):
        builtin = [base.__name__ for base in value.__mro__ if base.__module__ == "builtins"]
        own = {} if issubclass(value, BaseException) else {"members": members(value)}
        return {"kind": "class", "parameters": parameters(value), "builtins": builtin, **own}
    if callable(value):
        return {"kind": "function", "parameters": parameters(value)}
    return {"kind": type(value).__name__}


if __name__ == "__main__":
    package = importlib.import_module(sys.argv[1])
    sys.stdout.write(json.dumps({name: describe(getattr(package, name)) for name in package.__all__}))
