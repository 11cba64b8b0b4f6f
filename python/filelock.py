"""
ferrolock under the name of filelock, where filelock itself is not installed.

A module file cannot carry types: ``from ferrolock import FileLock`` is the typed name.
"""

import sys

from ferrolock._alias import replace_importing_module

replace_importing_module(sys.modules[__name__])
