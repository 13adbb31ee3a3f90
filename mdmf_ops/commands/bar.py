"""A progress bar on the terminal's error output; nothing where that is no terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[..., None]]:
    """Shows a bar until the block ends; yields a function of (done, total, loss)."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=None)

        def update(done: int, total: int, loss: float | None = None) -> None:
            text = description if loss is None else f"{description}, loss {loss:.3f}"
            bar.update(task, completed=done, total=total, description=text)

        yield update
