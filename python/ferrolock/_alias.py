"""
The name ``filelock``: a module of its own that gives ferrolock's objects.

It exists in two ways: the file ``filelock.py`` beside this package calls :func:`replace_importing_module` when
somebody imports it, and :func:`install` takes the name over where filelock itself is installed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from os.path import abspath, dirname
from types import ModuleType

import ferrolock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "filelock"

IMPLEMENTED_RELEASE = "4.2.12"
"""The release of filelock whose interface this is: programs compare it with what they need."""


def install() -> None:
    """Let ``import filelock`` give ferrolock in this process from now on."""
    if _is_alias(sys.modules.get(_NAME)):
        return
    for name in [name for name in sys.modules if name == _NAME or name.startswith(f"{_NAME}.")]:
        del sys.modules[name]
    _put_in_place(_alias(spec=None, file=None))


def replace_importing_module(importing: ModuleType) -> None:
    """
    Put what the name should give in the place of ``importing``, the module of the file ``filelock.py``.

    That is filelock itself, if it can be found anywhere behind that file, and otherwise the alias.
    """
    real = _find_real_filelock(dirname(abspath(importing.__file__ or "")))
    if real is None or real.loader is None:
        _put_in_place(_alias(importing.__spec__, importing.__file__))
        return
    module = module_from_spec(real)
    # What an import in another thread looks at, to wait until the module is whole.
    real._initializing = True  # type: ignore[attr-defined]
    try:
        sys.modules[_NAME] = module
        real.loader.exec_module(module)
    finally:
        real._initializing = False  # type: ignore[attr-defined]


def _find_real_filelock(own_folder: str) -> ModuleSpec | None:
    """A package called filelock: not a second copy of our module, and not just any folder of that name."""
    elsewhere = [entry for entry in sys.path if isinstance(entry, str) and abspath(entry) != own_folder]
    candidates = [PathFinder.find_spec(_NAME, [entry]) for entry in elsewhere]
    others = [finder for finder in sys.meta_path if finder is not PathFinder and hasattr(finder, "find_spec")]
    candidates += [finder.find_spec(_NAME, None) for finder in others]
    packages = [spec for spec in candidates if spec is not None and spec.submodule_search_locations]
    return next((spec for spec in packages if spec.origin is not None), None)


def _alias(spec: ModuleSpec | None, file: str | None) -> ModuleType:
    alias = ModuleType(_NAME, "ferrolock under the name of filelock.")
    public = [name for name in ferrolock.__all__ if name != "install"]
    late = {name for name in public if name not in vars(ferrolock)}

    def give_late(name: str) -> object:
        """Give what ``ferrolock`` itself imports only when it is asked for."""
        if name not in late and name != "asyncio":
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        return getattr(ferrolock, name)

    vars(alias).update(
        {name: getattr(ferrolock, name) for name in public if name not in late},
        __getattr__=give_late,
        __dir__=lambda: sorted({*vars(alias), *late, "asyncio"}),
        __version__=IMPLEMENTED_RELEASE,
        version=IMPLEMENTED_RELEASE,
        __all__=public,
        __path__=[],  # makes it a package, so that `import filelock.x` is asked of the finder below
        __spec__=spec or ModuleSpec(_NAME, None, is_package=True),
        __file__=file,
    )
    return alias


def _version_module() -> ModuleType:
    module = ModuleType(f"{_NAME}.version")
    parts = tuple(int(part) for part in IMPLEMENTED_RELEASE.split("."))
    vars(module).update(version=IMPLEMENTED_RELEASE, version_tuple=parts, commit_id=None)
    vars(module).update({f"__{name}__": vars(module)[name] for name in ("version", "version_tuple", "commit_id")})
    return module


def _put_in_place(alias: ModuleType) -> None:
    sys.modules[_NAME] = alias
    sys.modules[f"{_NAME}.version"] = _version_module()
    if not any(isinstance(finder, _SubmoduleFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SubmoduleFinder())


def _is_alias(module: ModuleType | None) -> bool:
    return module is not None and getattr(module, "BaseFileLock", None) is ferrolock.BaseFileLock


class _SubmoduleFinder:
    """Gives ``ferrolock.x`` for ``filelock.x``: a second copy would be a second set of classes."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's
    ) -> ModuleSpec | None:
        """Find the submodules of the alias, and nothing else."""
        if not fullname.startswith(f"{_NAME}.") or not _is_alias(sys.modules.get(_NAME)) or path is None:
            return None
        own_name = f"ferrolock.{fullname.removeprefix(f'{_NAME}.')}"
        if PathFinder.find_spec(own_name, ferrolock.__path__) is None:
            return None
        return ModuleSpec(fullname, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 - the protocol's
        """Let the import make a module to throw away: it would write its own spec into ours."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Put the one module in the place of the new one."""
        own_name = f"ferrolock.{module.__name__.removeprefix(f'{_NAME}.')}"
        sys.modules[module.__name__] = import_module(own_name)
