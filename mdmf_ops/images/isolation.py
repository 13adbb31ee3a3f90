"""Decoding in processes of their own: a decoder that hangs or dies costs one image, and no credentials are near it.

A process serves one thread at a time and lives as long as this one; one that was lost is replaced. What a process
sends back is as hostile as the image: an error, or a size that may be, whose tiles are in memory that both share, or it
is not believed.
"""

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdmf_ops.errors import ErrorCode, ImageError
from mdmf_ops.images.decode import FORMATS, Limits
from mdmf_ops.images.decoder_process import DESCRIPTION, MAX_REPLY_BYTES, REPLY_HEAD, REQUEST_HEAD
from mdmf_ops.images.shared_tiles import SharedTiles, open_memory
from mdmf_ops.images.tiles import TiledImage, TileGeometry, plan_tiles

_START_S = 60.0
_DEATH_S = 2.0
_OWN_SIGNALS = tuple(getattr(signal, f"SIG{name}") for name in ("SEGV", "ABRT", "BUS", "ILL", "FPE", "SYS", "TRAP"))
"""What a decoder that breaks dies of; any other signal comes from outside, for whatever reason."""

_PATIENCE = 4
"""So many times the limit of time, at most, for a decoder that waits for a core."""

_PIPE_BYTES = 1 << 20
"""Of the pipe to a decoder: half of it holds small images that wait for it."""

_FEW = 2
"""A decoder with so many images before it, or fewer, is given as many as it may have. It shares a core with the scorer:
to change places for each image takes a tenth of the time of one of 400 px."""

# All of our environment that a decoder gets: no credentials, no tokens.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "PYTHONHOME")

# The parent's own search path, before anything is imported: the working folder, which may be a stranger's, is on that
# of a command.
_COMMAND = """
import sys
sys.path[:] = sys.argv[4:]
import json
from mdmf_ops.images.decode import Limits
from mdmf_ops.images.decoder_process import main
from mdmf_ops.images.tiles import TileGeometry
main(int(sys.argv[1]), TileGeometry(**json.loads(sys.argv[2])), Limits(**json.loads(sys.argv[3])))
"""


class _LostError(Exception):
    """The process died or spoke nonsense."""


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """Whatever goes wrong in talking to a process means that it is lost."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _LostError(f"{type(error).__name__}: {error}") from error


class _Asked(NamedTuple):
    """An image that a decoder has."""

    at_s: float
    size_bytes: int
    slot: int


class _Decoder:
    """One process; `ask` and `answer` serve one thread at a time, first come, first served."""

    def __init__(self, geometry: TileGeometry, limits: Limits):
        self.geometry, self.limits = geometry, limits
        self._timed_out = False
        self._asked: deque[_Asked] = deque()  # what has no answer yet
        self._read_slot: int | None = None
        self._room_bytes = 0
        fd = open_memory(geometry)
        try:
            self._tiles = SharedTiles(fd, geometry)
            settings = (json.dumps(asdict(each)) for each in (geometry, limits))
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(fd), *settings, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                pass_fds=[fd],
                start_new_session=True,  # no Ctrl-C of our terminal
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
                | {"OPENBLAS_NUM_THREADS": "1"},
            )
        finally:
            os.close(fd)
        self._free_slots = list(range(self._tiles.slots))
        # Never blocked by a pipe, so that no thread need watch the one that asks.
        self._writable, self._readable = select.poll(), select.poll()
        self._writable.register(self._process.stdin, select.POLLOUT)
        self._readable.register(self._process.stdout, select.POLLIN)
        for stream in (self._process.stdin, self._process.stdout):
            os.set_blocking(stream.fileno(), False)
        with contextlib.suppress(AttributeError, OSError):  # Linux alone has it, and grants a user so much
            fcntl.fcntl(self._process.stdin, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        with contextlib.suppress(AttributeError, OSError):
            # Half of it: a pipe holds pages, and what is written may leave part of one empty.
            self._room_bytes = fcntl.fcntl(self._process.stdin, fcntl.F_GETPIPE_SZ) // 2
        self._begin(_START_S)
        try:
            self._receive()
        except _LostError as error:
            self.end()
            raise RuntimeError(f"the decoder's process does not start: {error}; its error output says why") from error

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pending(self) -> int:
        """How many images it was asked for that have no answer yet."""
        return len(self._asked)

    def can_be_asked(self, content: bytes) -> bool:
        """Whether `ask` would not wait: this decoder is idle, or the pipe has room for the image and a slot is free."""
        on_the_way_bytes = sum(asked.size_bytes for asked in self._asked) + len(content)
        return not self.pending or (bool(self._free_slots) and on_the_way_bytes <= self._room_bytes)

    def ask(self, content: bytes) -> None:
        """Has it decode an image after those that it has; `answer` has the tiles of each, in turn."""
        if not self._asked:
            self._begin(self.limits.max_decode_s)
        asked = _Asked(time.monotonic(), len(content), self._free_slots.pop())
        self._asked.append(asked)
        # To one that was lost nothing can be said; `answer` finds it out.
        with contextlib.suppress(_LostError), _lost():
            self._write(REQUEST_HEAD.pack(asked.slot, len(content)))
            self._write(content)

    def answer(self) -> TiledImage:
        """Tiles of the first image that has none yet, valid until the next one's are asked for."""
        with _lost():
            reply = self._receive()
            asked = self._asked.popleft()
            if self._read_slot is not None:
                self._free_slots.append(self._read_slot)
            self._read_slot = asked.slot
            self._begin(self.limits.max_decode_s)  # the next one's time
            return self._describe(reply, asked)

    def _begin(self, seconds: float) -> None:
        """From now on it has so much time."""
        self._seconds, self._turns = seconds, _PATIENCE
        self._began_cpu_s = self._cpu_s()
        self._turn_ends_s = time.monotonic() + seconds

    def _wait(self, pipe: select.poll) -> None:
        """Returns once a pipe is ready, or broken; kills a decoder whose time is up."""
        # Looked at even where time is up: it may have waited for us.
        while not pipe.poll(1000 * max(self._turn_ends_s - time.monotonic(), 0)):
            if self._is_starved():
                self._turn_ends_s += self._seconds
            elif not pipe.poll(0):  # once more: where this thread was kept from going on, it may have answered
                self._timed_out = True
                self._process.kill()
                raise _LostError(f"nothing after {self._seconds:g} s")

    def _is_starved(self) -> bool:
        """One that wants to go on, and was let run for less than its time, is no hang: the machine is overloaded."""
        self._turns -= 1
        if not self._turns or None in (self._began_cpu_s, cpu_s := self._cpu_s()):
            return False
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state == "R" and cpu_s - self._began_cpu_s <= 0.8 * self._seconds
        return False

    def _cpu_s(self) -> float | None:
        """CPU time of the process; None where it cannot be told, or the process is gone."""
        try:
            return time.clock_gettime(~self._process.pid << 3 | 2)  # Linux's clock_getcpuclockid(3)
        except OSError:
            return None

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            self._wait(self._writable)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._process.stdin.fileno(), view) :]

    def _receive(self) -> dict[str, Any]:
        [text_bytes] = REPLY_HEAD.unpack(self._read(REPLY_HEAD.size))
        if text_bytes > MAX_REPLY_BYTES:
            raise _LostError(f"a reply of {text_bytes} bytes")
        return json.loads(self._read(text_bytes))

    def _read(self, size_bytes: int) -> bytearray:
        content = bytearray(size_bytes)
        view = memoryview(content)
        while view:
            self._wait(self._readable)
            if not (got := self._process.stdout.readinto(view)) and got is not None:
                raise _LostError("it ended amid its reply")
            view = view[got or 0 :]
        return content

    def _describe(self, reply: dict[str, Any], asked: _Asked) -> TiledImage:
        if "error" in reply:
            raise ImageError(ErrorCode(reply["error"]), str(reply["message"]))
        width_px, height_px, image_format, quality, decode_us = (reply[name] for name in DESCRIPTION)
        if any(type(number) is not int for number in (width_px, height_px, decode_us, quality or 1)):
            raise _LostError("a reply of odd numbers")
        if image_format not in FORMATS or not (quality is None or 1 <= quality <= 100):
            raise _LostError("a reply about no image")
        self.limits.check_size(width_px, height_px)
        plan = plan_tiles(height_px, width_px, self.geometry)
        shape = len(plan.origins), 3, plan.height_px, plan.width_px
        tiles = np.ndarray(shape, np.uint8, self._tiles[asked.slot])
        took_us = 1e6 * (time.monotonic() - asked.at_s)
        return TiledImage(tiles, plan, width_px, height_px, image_format, quality, int(min(max(decode_us, 0), took_us)))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream.close()

    def cause_of_death(self) -> tuple[ImageError, bool]:
        """What a lost process means for the image that it was at, and whether the image may have no part in it."""
        # Its pipes close before it is gone: long before, where a machine thrashes. One that spoke nonsense may stay.
        [(_fd, event)] = self._readable.poll(0) or [(0, 0)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.limits.max_decode_s if event & select.POLLHUP else _DEATH_S)
        status = self._process.returncode
        self.end()
        if self._timed_out or status == -signal.SIGALRM:
            return ImageError(ErrorCode.TIMEOUT, f"decoding takes more than {self.limits.max_decode_s:g} s"), False
        if status is None or status >= 0:
            return ImageError(ErrorCode.DECODER_CRASHED, f"the decoder broke off, exit status {status}"), False
        name = next((known.name for known in signal.Signals if known == -status), f"signal {-status}")  # some have none
        code, message = ErrorCode.DECODER_CRASHED, f"the decoder died of it: {name}"
        if status == -signal.SIGKILL:
            code, message = ErrorCode.OUT_OF_MEMORY, "the decoder was killed: the machine has too little memory"
        return ImageError(code, message), -status not in _OWN_SIGNALS


_lock = threading.Lock()
_idle: list[_Decoder] = []
_owner = os.getpid()


def _take(geometry: TileGeometry, limits: Limits) -> _Decoder:
    """A process that waits for such work, or a new one."""
    global _owner
    with _lock:
        if _owner != os.getpid():  # this is a fork: the processes serve the one that it was forked from
            _owner = os.getpid()
            _idle.clear()
        while _idle:
            decoder = _idle.pop()
            if decoder.is_alive and (decoder.geometry, decoder.limits) == (geometry, limits):
                return decoder
            decoder.end()
    with contextlib.suppress(RuntimeError):  # what stops others, or a lack of memory, may have ended it as it started
        return _Decoder(geometry, limits)
    return _Decoder(geometry, limits)


@atexit.register
def _end_all() -> None:
    if _owner == os.getpid():
        while _idle:
            _idle.pop().end()


def decode_in_turn(
    contents: Sequence[bytes], geometry: TileGeometry, limits: Limits
) -> Iterator[TiledImage | ImageError]:
    """`decode_tiles` of each image by another process, within the limits of time and memory.

    The process is ahead of who takes the tiles, by a large image or some small ones.

    Yields:
        Tiles, valid until the next ones are taken or this generator ends; or the error that `decode` raises, or
        `timeout`, `decoder_crashed`, `out_of_memory`.

    Raises:
        RuntimeError: no process can be started.
    """
    answers = _answers([content for content in contents if 0 < len(content) <= limits.max_bytes], geometry, limits)
    for content in contents:
        try:
            limits.check_bytes(len(content))
        except ImageError as error:
            yield error.without_frames()
        else:
            yield next(answers)


def _answers(contents: list[bytes], geometry: TileGeometry, limits: Limits) -> Iterator[TiledImage | ImageError]:
    decoder = None
    try:
        for i, content in enumerate(contents):
            for last_try in (False, True):
                if decoder is None:
                    decoder = _take(geometry, limits)
                    decoder.ask(content)
                try:
                    answer = decoder.answer()
                except ImageError as error:
                    answer = error.without_frames()
                except _LostError:
                    (answer, may_be_innocent), decoder = decoder.cause_of_death(), None
                    if may_be_innocent and not last_try:
                        continue
                break
            if decoder is not None and decoder.pending <= _FEW:
                for following in islice(contents, i + 1 + decoder.pending, None):
                    if not decoder.can_be_asked(following):
                        break
                    decoder.ask(following)
            yield answer
    finally:
        if decoder is not None:
            _give_back(decoder)


def _give_back(decoder: _Decoder) -> None:
    if decoder.pending:
        decoder.end()  # nobody waits for what it is at
        return
    with _lock:
        _idle.append(decoder)
