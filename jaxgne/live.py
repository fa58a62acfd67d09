"""One line on a terminal that tells how far a solve, a batch or a study is."""

from typing import Self

import rich.live
from rich.console import Console
from rich.text import Text

from .batch import BatchProgress
from .solve import Progress
from .waiting import waiting


class _Line:
    """One line on stderr; nothing where nobody watches."""

    def __init__(self, silent: bool = False):
        console = Console(stderr=True)
        self.live = rich.live.Live(console=console, transient=True, auto_refresh=False)
        self.shown = console.is_terminal and not silent

    def __enter__(self) -> Self:
        waiting.show = self.say
        if self.shown:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        waiting.show = None
        self.live.stop()

    def say(self, text: str) -> None:
        """Show what is waited for."""
        if self.shown:
            self.live.update(Text(text), refresh=True)


class Live(_Line):
    """One line that tells how far the solver is."""

    before: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Show where a solve stands, and how fast it goes (the first chunk may hold a compile)."""
        line = f"{progress.steps} steps, relative KKT error {progress.error:.1e}"
        if self.before is not None:
            seconds = max(progress.seconds - self.before.seconds, 1e-9)
            line += f", {(progress.steps - self.before.steps) / seconds:.0f} steps/s"
        self.before = progress
        self.say(line)


class LiveBatch(_Line):
    """The same for a batch: how many are done, rate, and how long it will still take."""

    def __init__(self, what: str, silent: bool = False):
        super().__init__(silent)
        self.what = what

    def __call__(self, progress: BatchProgress) -> None:
        """Show how many are done."""
        rate = progress.done / max(progress.seconds, 1e-9)
        left = (progress.total - progress.done) / rate
        line = f"{progress.done} of {progress.total} {self.what}, {rate:.1f}/s, {left:.0f} s left"
        self.say(line)
