"""The command on a terminal that somebody stops."""

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def stopped(words: list[str], folder: Path, ready: Callable[[str], object]) -> tuple[int, str]:
    """Exit code and all that a command shows which hears SIGINT once `ready` of what it showed."""
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-m", "jaxgne", *words], cwd=folder, stderr=theirs,
        stdout=subprocess.DEVNULL, env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
    )  # fmt: skip
    os.close(theirs)
    told = b""
    try:
        while not ready(told.decode(errors="replace")):
            assert run.poll() is None, told.decode()
            told += os.read(ours, 4096)
        run.send_signal(signal.SIGINT)
        with suppress(OSError):  # the end of a terminal
            while more := os.read(ours, 4096):
                told += more
        code = run.wait(60)
    finally:
        run.kill()
        os.close(ours)
    return code, told.decode()
