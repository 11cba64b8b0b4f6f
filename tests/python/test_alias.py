"""The name filelock: ours where filelock is not installed, filelock's where it is, and ours again on request.

Each test composes site folders of its own from the installed ferrolock and a downloaded filelock, and looks at them
with an interpreter that sees nothing else.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import textwrap
import venv
from pathlib import Path
from typing import Any

import pytest

import ferrolock

PEER = "4.2.12" if sys.version_info >= (3, 11) else "3.29.0"
IMPLEMENTED = "4.2.12"


def copy_tree(source: Path, target: Path) -> Path:
    """Copy files into a site folder that may have others already."""
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return target


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with ferrolock as its wheel installs it, and nothing else."""
    folder = tmp_path_factory.mktemp("ours")
    for file in importlib.metadata.distribution("ferrolock").files or ():
        if ".." in file.parts or "__pycache__" in file.parts:
            continue
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(file.locate()), target)
    if not (folder / "ferrolock").is_dir():  # a development install: its files are where they are edited
        package = Path(ferrolock.__file__).parent
        copy_tree(package, folder / "ferrolock")
        shutil.copy2(package.with_name("filelock.py"), folder)
    assert (folder / "filelock.py").is_file()
    assert not (folder / "filelock").exists()
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with the real filelock, and nothing else."""
    folder = tmp_path_factory.mktemp("theirs")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--target", str(folder), f"filelock=={PEER}"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install filelock {PEER} here: {done.stderr.strip()[-300:]}")
    return folder


@pytest.fixture
def both(tmp_path: Path, ours: Path, theirs: Path) -> Path:
    """One site folder with both, as pip installs them beside each other."""
    return copy_tree(theirs, copy_tree(ours, tmp_path / "both"))


def python(tmp_path: Path, program: str, *folders: Path, executable: str = sys.executable) -> Any:
    """Run the program where only these folders are on the path; return the JSON that it prints."""
    empty = tmp_path / "empty"
    empty.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [executable, "-S", "-W", "error", "-c", "import json, sys\n" + textwrap.dedent(program)],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return json.loads(done.stdout)


FIRST_IMPORTS = pytest.mark.parametrize("first", ["ferrolock", "filelock"])


@FIRST_IMPORTS
def test_without_filelock_the_name_gives_our_objects(tmp_path: Path, ours: Path, first: str) -> None:
    program = f"""
        import {first}
        import ferrolock, filelock
        names = [name for name in ferrolock.__all__ if name not in ("__version__", "install")]
        differing = [name for name in names if getattr(filelock, name, None) is not getattr(ferrolock, name)]
        unlisted = [name for name in names if name not in dir(filelock) or name not in filelock.__all__]
        from filelock import FileLock, Timeout
        imported = FileLock is ferrolock.FileLock and Timeout is ferrolock.Timeout
        print(json.dumps([len(names), differing, unlisted, imported]))
    """
    count, differing, unlisted, imported = python(tmp_path, program, ours)
    assert count >= 7
    assert (differing, unlisted, imported) == ([], [], True)


def test_without_filelock_a_star_import_gives_our_objects(tmp_path: Path, ours: Path) -> None:
    program = """
        from filelock import *
        import ferrolock
        print(json.dumps([FileLock is ferrolock.FileLock, Timeout is ferrolock.Timeout]))
    """
    assert python(tmp_path, program, ours) == [True, True]


def test_the_alias_is_a_module_of_its_own(tmp_path: Path, ours: Path) -> None:
    program = """
        import ferrolock
        alone = "filelock" not in sys.modules
        import filelock
        from importlib.util import find_spec
        from pathlib import PurePath
        print(json.dumps([
            alone,
            filelock is not ferrolock,
            filelock is sys.modules["filelock"],
            filelock.__name__,
            PurePath(filelock.__file__).name,
            PurePath(find_spec("filelock").origin).name,
        ]))
    """
    assert python(tmp_path, program, ours) == [True, True, True, "filelock", "filelock.py", "filelock.py"]


def test_the_alias_tells_the_version_whose_interface_it_has(tmp_path: Path, ours: Path) -> None:
    program = """
        import filelock, ferrolock
        from filelock import __version__
        print(json.dumps([filelock.__version__, __version__, ferrolock.__version__]))
    """
    *alias, own = python(tmp_path, program, ours)
    assert alias == [IMPLEMENTED] * 2
    assert own == ferrolock.__version__ != IMPLEMENTED


def test_the_version_module_of_the_alias_tells_the_same(tmp_path: Path, ours: Path) -> None:
    program = """
        from filelock.version import __version__, version
        print(json.dumps([__version__, version]))
    """
    assert python(tmp_path, program, ours) == [IMPLEMENTED, IMPLEMENTED]


SUBMODULES = """
    import importlib, pkgutil
    import ferrolock
    names = [
        info.name for info in pkgutil.iter_modules(ferrolock.__path__)
        if info.name not in ("__main__", "version") and not info.name.startswith("_demo")
    ]
    differing = []
    for name in names:
        order = ("filelock", "ferrolock") if first == "filelock" else ("ferrolock", "filelock")
        one, two = (importlib.import_module(f"{package}.{name}") for package in order)
        if one is not two or sys.modules[f"filelock.{name}"] is not sys.modules[f"ferrolock.{name}"]:
            differing.append(name)
    import filelock
    from filelock._error import Timeout
    classes = Timeout is filelock._error.Timeout is filelock.Timeout is ferrolock.Timeout
    classes = classes and filelock._api.BaseFileLock is ferrolock.BaseFileLock
    print(json.dumps([len(names), differing, classes]))
"""


@FIRST_IMPORTS
def test_a_submodule_is_one_module_under_both_names(tmp_path: Path, ours: Path, first: str) -> None:
    count, differing, classes = python(tmp_path, f"first = {first!r}\n" + textwrap.dedent(SUBMODULES), ours)
    assert count >= 3
    assert (differing, classes) == ([], True)


def test_the_alias_has_no_names_of_its_own_invention(tmp_path: Path, ours: Path) -> None:
    program = """
        import filelock
        failures = []
        try:
            filelock.no_such_name
        except AttributeError as error:
            failures.append("no_such_name" in str(error))
        try:
            import filelock.no_such_module
        except ModuleNotFoundError as error:
            failures.append("no_such_module" in str(error))
        try:
            from filelock import no_such_name
        except ImportError as error:
            failures.append("no_such_name" in str(error))
        print(json.dumps(failures))
    """
    assert python(tmp_path, program, ours) == [True, True, True]


def test_a_lock_works_and_a_pickle_loads_under_the_alias(tmp_path: Path, ours: Path) -> None:
    program = f"""
        import pickle
        from filelock import FileLock, Timeout
        path = {str(tmp_path / "x.lock")!r}
        steps = []
        with FileLock(path) as lock:
            steps.append(lock.lock_counter)
            try:
                FileLock(path, timeout=0).acquire()
            except Timeout as error:
                steps.append(type(pickle.loads(pickle.dumps(error))) is Timeout)
        import ferrolock
        steps.append(pickle.loads(b"cfilelock._error\\nTimeout\\n.") is ferrolock.Timeout)
        print(json.dumps(steps))
    """
    assert python(tmp_path, program, ours) == [1, True, True]


DESCRIBE = """
    import importlib.util
    from pathlib import PurePath
    import filelock
    from filelock import FileLock, Timeout
    from filelock._error import Timeout as SubTimeout
    from filelock._unix import UnixFileLock
    described = {
        "version": filelock.__version__,
        "file": list(PurePath(filelock.__file__).parts[-2:]),
        "submodule": list(PurePath(sys.modules["filelock._error"].__file__).parts[-2:]),
        "current": filelock is sys.modules["filelock"],
        "whole": hasattr(filelock, "SoftFileLock") and SubTimeout is Timeout and filelock.UnixFileLock is UnixFileLock,
        "package": hasattr(filelock, "__path__"),
        "foreign": "ferrolock" not in sys.modules or FileLock is not sys.modules["ferrolock"].FileLock,
    }
    print(json.dumps(described))
"""
REAL = {
    "version": PEER,
    "file": ["filelock", "__init__.py"],
    "submodule": ["filelock", "_error.py"],
    "current": True,
    "whole": True,
    "package": True,
    "foreign": True,
}


@pytest.mark.parametrize("before", ["", "import ferrolock", "from ferrolock import FileLock as _"])
def test_beside_filelock_the_name_is_filelock_untouched(tmp_path: Path, both: Path, before: str) -> None:
    assert python(tmp_path, before + "\n" + textwrap.dedent(DESCRIBE), both) == REAL


@pytest.mark.parametrize("before", ["", "import ferrolock"])
@pytest.mark.parametrize("order", ["ours-first", "theirs-first"])
def test_filelock_in_another_folder_is_found_in_either_order(
    tmp_path: Path, ours: Path, theirs: Path, order: str, before: str
) -> None:
    folders = (ours, theirs) if order == "ours-first" else (theirs, ours)
    assert python(tmp_path, before + "\n" + textwrap.dedent(DESCRIBE), *folders) == REAL


@pytest.fixture
def folder_of_that_name(tmp_path: Path) -> Path:
    """A folder that has a folder called filelock in it, with somebody's data and no package."""
    (tmp_path / "data" / "filelock").mkdir(parents=True)
    return tmp_path / "data"


@pytest.mark.parametrize("first", [True, False], ids=["before-ours", "after-ours"])
def test_any_folder_called_filelock_is_no_filelock(
    tmp_path: Path, ours: Path, folder_of_that_name: Path, first: bool
) -> None:
    program = """
        import filelock, ferrolock
        print(json.dumps([filelock.__version__, filelock.FileLock is ferrolock.FileLock]))
    """
    folders = (folder_of_that_name, ours) if first else (ours, folder_of_that_name)
    assert python(tmp_path, program, *folders) == [IMPLEMENTED, True]


def test_any_folder_called_filelock_hides_no_filelock(
    tmp_path: Path, ours: Path, theirs: Path, folder_of_that_name: Path
) -> None:
    assert python(tmp_path, DESCRIBE, ours, folder_of_that_name, theirs) == REAL


def test_what_is_no_folder_on_the_path_is_passed_over(tmp_path: Path, ours: Path) -> None:
    program = """
        sys.path[:0] = [None, object()]
        import filelock
        print(json.dumps(filelock.__version__))
    """
    assert python(tmp_path, program, ours) == IMPLEMENTED


def test_a_thread_that_imports_meanwhile_waits_for_the_real_filelock(tmp_path: Path, ours: Path) -> None:
    slow = tmp_path / "slow" / "filelock"
    slow.mkdir(parents=True)
    slow.joinpath("__init__.py").write_text("import __main__; __main__.let_in(); FileLock = 'real'")
    program = """
        import threading, time

        def let_in():
            thread.start()
            time.sleep(0.2)

        def get():
            from filelock import FileLock
            got.append(FileLock)

        got, thread = [], threading.Thread(target=get)
        get()
        thread.join()
        print(json.dumps(got))
    """
    assert python(tmp_path, program, ours, slow.parent) == ["real", "real"]


def test_ferrolock_imported_after_filelock_leaves_it_alone(tmp_path: Path, both: Path) -> None:
    program = """
        import filelock
        before = dict(vars(filelock)), sorted(name for name in sys.modules if name.split(".")[0] == "filelock")
        import ferrolock
        after = dict(vars(filelock)), sorted(name for name in sys.modules if name.split(".")[0] == "filelock")
        print(json.dumps([before == after, filelock.FileLock is not ferrolock.FileLock, ferrolock.__version__]))
    """
    assert python(tmp_path, program, both) == [True, True, ferrolock.__version__]


INSTALLED = """
    import ferrolock
    returned = ferrolock.install()
    import filelock
    from filelock import FileLock, Timeout
    from filelock._error import Timeout as SubTimeout
    import filelock._unix
    print(json.dumps([
        returned is None or returned is filelock,
        filelock is sys.modules["filelock"] is not ferrolock,
        filelock.__version__,
        FileLock is ferrolock.FileLock,
        Timeout is SubTimeout is ferrolock.Timeout,
        filelock._unix.UnixFileLock is ferrolock.UnixFileLock,
    ]))
"""
TAKEN_OVER = [True, True, IMPLEMENTED, True, True, True]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("", id="nothing-imported"),
        pytest.param("import filelock, filelock._error, filelock._unix", id="filelock-imported"),
        pytest.param("import ferrolock\nferrolock.install()", id="installed-before"),
    ],
)
@pytest.mark.parametrize("site", ["ours", "both", "ours-first", "theirs-first"])
def test_install_takes_the_name_over(
    tmp_path: Path, request: pytest.FixtureRequest, ours: Path, site: str, before: str
) -> None:
    folders = [ours]
    if site == "both":
        folders = [request.getfixturevalue("both")]
    elif site != "ours":
        folders.insert(0 if site == "theirs-first" else 1, request.getfixturevalue("theirs"))
    assert python(tmp_path, before + "\n" + textwrap.dedent(INSTALLED), *folders) == TAKEN_OVER


def test_who_had_filelock_before_install_keeps_it(tmp_path: Path, both: Path) -> None:
    program = """
        import filelock as real
        from filelock import FileLock
        before = dict(vars(real))
        import ferrolock
        ferrolock.install()
        import filelock
        print(json.dumps([filelock is not real, dict(vars(real)) == before, FileLock is not filelock.FileLock]))
    """
    assert python(tmp_path, program, both) == [True, True, True]


def test_install_is_for_its_process_only(tmp_path: Path, both: Path) -> None:
    files = sorted(both.rglob("*"))
    assert python(tmp_path, INSTALLED, both) == TAKEN_OVER
    assert sorted(both.rglob("*")) == files
    assert python(tmp_path, DESCRIBE, both) == REAL


def installed_files(site: Path, name: str) -> list[Path]:
    """What a distribution's record says is installed, without compiled copies."""
    [distribution] = importlib.metadata.distributions(name=name, path=[str(site)])
    return [site / file for file in distribution.files or () if "__pycache__" not in file.parts]


def uninstall(prefix: Path, name: str) -> None:
    """Let pip remove a distribution from the scratch environment."""
    command = [sys.executable, "-m", "pip", "--python", str(prefix), "uninstall", "--yes", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def environment(tmp_path: Path, ours: Path, theirs: Path) -> tuple[Path, Path]:
    """A virtual environment that has both, and its site folder."""
    if not list(ours.glob("ferrolock-*.dist-info/RECORD")):
        pytest.skip("ferrolock is not installed from a wheel here")
    prefix = tmp_path / "environment"
    venv.create(prefix, with_pip=False)
    site = prefix / ("Lib" if sys.platform == "win32" else f"lib/python3.{sys.version_info.minor}") / "site-packages"
    copy_tree(theirs, copy_tree(ours, site))
    return prefix, site


def test_the_two_share_no_file(environment: tuple[Path, Path]) -> None:
    _prefix, site = environment
    assert not set(installed_files(site, "ferrolock")) & set(installed_files(site, "filelock"))


def test_uninstalling_ferrolock_leaves_filelock_whole(tmp_path: Path, environment: tuple[Path, Path]) -> None:
    prefix, site = environment
    kept = installed_files(site, "filelock")
    uninstall(prefix, "ferrolock")
    assert [file for file in kept if not file.exists() and site in file.parents] == []
    assert not (site / "filelock.py").exists()
    assert not (site / "ferrolock").exists()
    assert python(tmp_path, DESCRIBE, site) == REAL


def test_uninstalling_filelock_leaves_ferrolock_whole(tmp_path: Path, environment: tuple[Path, Path]) -> None:
    prefix, site = environment
    kept = installed_files(site, "ferrolock")
    uninstall(prefix, "filelock")
    assert [file for file in kept if not file.exists() and site in file.parents] == []
    assert not (site / "filelock").exists()
    program = """
        import filelock, ferrolock
        print(json.dumps([filelock.__version__, filelock.FileLock is ferrolock.FileLock]))
    """
    assert python(tmp_path, program, site) == [IMPLEMENTED, True]
