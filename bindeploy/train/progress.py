"""What a person sees of a training: a bar and a line an epoch, on stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

REDRAW = 0.1
"""Seconds between two looks at the bar."""


class Display:
    """A progress bar over the batches of a phase; `shown=False` leaves only warnings.

    Where stderr is no terminal the bar is left out and the lines remain.
    """

    def __init__(self, shown: bool) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._shown = shown
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}  {task.fields[loss]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not (shown and self._console.is_terminal),
        )
        self._task = self._bar.add_task("", total=None, loss="")
        self._next = 0.0

    def start(self, description: str, done: int, total: int) -> None:
        """Begin a phase of `total` steps, `done` of which were taken before."""
        self._bar.reset(self._task, total=total, completed=done, description=description)
        self._bar.start()

    def step(self, done: int, loss: Tensor) -> None:
        """`done` steps are taken. The loss is read when it is shown: a device waits for that."""
        now = time.monotonic()
        if self._bar.disable or now < self._next:
            return
        self._next = now + REDRAW
        self._bar.update(self._task, completed=done, loss=f"loss {float(loss):.3f}")

    def line(self, text: str) -> None:
        """Print a line of progress."""
        if self._shown:
            self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a line that is shown in any case."""
        self._console.print(text, markup=False)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()
