"""One line that tells how far a solve, a batch, a study or a tuning is, how fast, how long yet.

On a terminal it changes in place, from the first second on. Elsewhere, as in the log of a job, it
is a line on stderr every ten seconds.
"""

import math
import threading
import time
from typing import Self

import rich.live
from rich.console import Console
from rich.text import Text

from .batch import BatchProgress
from .history import TuningProgress
from .simulation import SimulationProgress
from .solve import Progress
from .waiting import waiting

_EVERY = 10.0  # s between lines where nothing can change in place
_DAY = 86400.0  # s, beyond which a guess is none


class _Pace:
    """How much of something is done a second, over the later half of the time."""

    def __init__(self):
        self.marks = [(0.0, 0.0)]

    def __call__(self, seconds: float, amount: float) -> float:
        """The rate now that `amount` is done."""
        since, before = next(mark for mark in reversed(self.marks) if mark[0] <= seconds / 2)
        self.marks.append((seconds, amount))
        return (amount - before) / max(seconds - since, 1e-9)


class _Line:
    """One line on stderr, about what is under way and what is waited for."""

    def __init__(self, text: str, silent: bool = False):
        self.text, self.wait = text, ""
        self.begun, self.done = time.monotonic(), threading.Event()
        self.console = Console(stderr=True)
        self.shown, self.terminal = not silent, self.console.is_terminal
        self.live = rich.live.Live(
            console=self.console, transient=True, get_renderable=lambda: Text(self.now())
        )

    def __enter__(self) -> Self:
        self.begun = time.monotonic()
        if self.shown:
            waiting.show = self.awaited
            if self.terminal:
                self.live.start()
            else:
                threading.Thread(target=self._tell, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            waiting.show = None
        self.done.set()
        if self.terminal:
            self.live.stop()

    def awaited(self, text: str) -> None:
        """Take what is waited for, or "" where that is over."""
        self.wait = text.removeprefix("jaxgne: ")

    def now(self) -> str:
        """The line as it is now."""
        seconds = time.monotonic() - self.begun
        return "; ".join(part for part in (f"{self.text}, {seconds:.0f} s", self.wait) if part)

    def log(self, text: str) -> None:
        """Print a line that stays."""
        if self.shown:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _tell(self) -> None:
        while not self.done.wait(_EVERY):
            self.log(f"jaxgne: {self.now()}")


class Live(_Line):
    """How far a solver is from `tol`."""

    def __init__(self, tol: float, silent: bool = False):
        super().__init__("clearing", silent)
        self.tol, self.before = tol, 0
        self.steps, self.digits = _Pace(), _Pace()

    def __call__(self, progress: Progress) -> None:
        """Take where a solve stands; what is left is told where the error falls."""
        if progress.steps < self.before:  # another solve
            self.steps, self.digits = _Pace(), _Pace()
        self.before = progress.steps
        rate = self.steps(progress.seconds, progress.steps)
        line = f"{progress.steps} steps, relative KKT error {progress.error:.1e}, {rate:.0f}/s"
        if 0 < progress.error < math.inf and self.tol > 0:
            fall = self.digits(progress.seconds, -math.log(progress.error))
            left = max(math.log(progress.error / self.tol), 0.0)
            if len(self.digits.marks) > 2 and fall * _DAY > left:
                line += f", about {left / fall:.0f} s left"
        self.text = line


class LiveBatch(_Line):
    """How many of a batch or a study are done."""

    def __init__(self, what: str, total: int | None = None, silent: bool = False):
        super().__init__(what if total is None else f"0 of {total} {what}", silent)
        self.what, self.pace = what, _Pace()

    def __call__(self, progress: BatchProgress) -> None:
        """Take how many are done."""
        self.text = f"{progress.done} of {progress.total} {self.what}" + _left(
            self.pace(progress.seconds, progress.done), progress.total - progress.done
        )


class LiveSimulation(_Line):
    """How many windows of a simulation are done."""

    def __init__(self, total: int, silent: bool = False):
        super().__init__(f"0 of {total} windows", silent)
        self.pace, self.first = _Pace(), None

    def __call__(self, progress: SimulationProgress) -> None:
        """Take how many are done."""
        if self.first is None:
            self.first = progress.done - 1  # those before are from a folder
        rate = self.pace(progress.seconds, progress.done - self.first)
        left = _left(rate, progress.total - progress.done)
        self.text = f"{progress.done} of {progress.total} windows" + left


class LiveTuning(_Line):
    """How far a tuning is: a line that stays for each step, as in a log."""

    def __init__(self, total: int, silent: bool = False):
        super().__init__(f"0 of {total} steps", silent)
        self.pace, self.first = _Pace(), None

    def __call__(self, progress: TuningProgress) -> None:
        """Take what a step found."""
        done = progress.step + 1
        if self.first is None:
            self.first = progress.step  # those before are from a folder
        rate = self.pace(progress.seconds, done - self.first)
        self.text = f"{done} of {progress.total} steps" + _left(rate, progress.total - done)
        self.log(
            f"{self.text}: {progress.value:.6g}, gradient {progress.gradient:.2g}, "
            f"{progress.solver_steps} solver steps, {progress.seconds:.0f} s"
        )


def _left(rate: float, more: int) -> str:
    """Rate and how long the rest takes at it."""
    if rate <= 0:
        return ""
    pace = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.2g}/min"
    return f", {pace}" + (f", {more / rate:.0f} s left" if more else "")
