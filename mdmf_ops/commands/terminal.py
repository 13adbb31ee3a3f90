"""How the verbs show tables and waiting: for a person at a terminal, or in whole lines for a pipe."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from mdmf_ops.cli import stop_writing

_PIPE_COLUMNS = 1000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        # Rich would end with status 1, as if the verb had failed.
        self.quiet = True
        stop_writing()


def console() -> Console:
    """Where results go. In a pipe a line is as long as what it shows: rich would fold it at 80 columns.

    A name is shown as it is: of `1:100:2.jpg` rich would make a picture.
    """
    return _Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, emoji=False)


def plain(name: str) -> str:
    """A stranger's name for a terminal: no colours, no control characters."""
    return escape("".join(character if character.isprintable() else "?" for character in name))


@contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Says on a terminal what is going on; yields a function that says how far it is. In a pipe it is quiet."""
    screen = Console(stderr=True)
    if not screen.is_terminal:
        yield lambda _text: None
        return
    with screen.status(plain(text)) as status:
        yield lambda now: status.update(plain(f"{text}: {now}"))


@contextmanager
def every(period_s: float, show: Callable[[], None]) -> Iterator[None]:
    """Calls `show` each time the period is over, in a thread of its own, until the block ends."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(period_s):
            show()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[..., None]]:
    """Shows a bar until the block ends, on a terminal alone; yields a function of (done, total, loss)."""
    screen = Console(stderr=True)
    with Progress(console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task(description, total=None)

        def update(done: int, total: int, loss: float | None = None) -> None:
            text = description if loss is None else f"{description}, loss {loss:.3f}"
            bar.update(task, completed=done, total=total, description=text)

        yield update
