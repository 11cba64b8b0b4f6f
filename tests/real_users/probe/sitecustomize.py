"""Writes down what the locks of a process log: a line for each message, in a file for each process."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

FOLDER = os.environ.get("REAL_USERS_LOG")


class AlwaysOn(logging.Logger):
    """A logger that nobody disables: tox would."""

    disabled: Any = property(lambda _self: False, lambda _self, _value: None)


class Record(logging.Handler):
    """Keeps the message, the path of the lock, and whose lock classes there are."""

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line."""
        path = record.args[1] if isinstance(record.args, tuple) else ""
        line = [record.msg, str(path), sys.modules["filelock"].FileLock.__module__]
        with open(os.path.join(str(FOLDER), str(os.getpid())), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


if FOLDER:
    logging.setLoggerClass(AlwaysOn)
    logger = logging.getLogger("filelock")
    logging.setLoggerClass(logging.Logger)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Record())
