"""One line on stderr for whoever waits for a compiler; gone again once it is done."""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PATIENCE = 0.5  # s that nobody needs to be told about
_APART = 1.0  # s between two waits that somebody sees as two


class _Waiting:
    """What is waited for, of all threads, and since when."""

    def __init__(self):
        self.lock = threading.Lock()
        self.jobs: list[str] = []
        self.begun = self.ended = 0.0
        self.done = threading.Event()
        self.width = 0  # of the line that stands there
        self.show: Callable[[str], None] | None = None  # in place of a line of our own

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Tell what is waited for while the body runs, if that takes long and somebody watches."""
        if not self.watched():
            yield
            return
        with self.lock:
            self.jobs.append(what)
            if len(self.jobs) == 1:
                now = time.monotonic()
                if now - self.ended > _APART:
                    self.begun = now
                self.done = threading.Event()
                threading.Thread(target=self._tell, args=(self.done,), daemon=True).start()
        try:
            yield
        finally:
            with self.lock:
                self.jobs.remove(what)
                if not self.jobs:
                    self.ended = time.monotonic()
                    self.done.set()
                    self._line("")

    def watched(self) -> bool:
        """Whether stderr is a terminal or a notebook's, or somebody else shows the line."""
        stream = sys.stderr
        if self.show is not None or stream is None:
            return self.show is not None
        return stream.isatty() or type(stream).__module__.startswith("ipykernel.")

    def _tell(self, done: threading.Event) -> None:
        wait = _PATIENCE - (time.monotonic() - self.begun)
        while not done.wait(max(0.0, wait)):
            with self.lock:
                if done.is_set():
                    return
                seconds = time.monotonic() - self.begun
                self._line(f"jaxgne: {' and '.join(self.jobs)} ... {seconds:.0f} s")
            wait = 1.0

    def _line(self, text: str) -> None:
        """Put `text` in place of the line that stands there."""
        if self.show is not None:
            self.show(text)
        elif text or self.width:
            text = text[: shutil.get_terminal_size().columns - 1]
            sys.stderr.write(f"\r{text:<{self.width}}" + ("" if text else "\r"))
            sys.stderr.flush()
            self.width = len(text)


waiting = _Waiting()
