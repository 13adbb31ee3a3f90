"""Decoders that really hang, die, eat memory or lie, in their own process: one image each, and nothing else."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from subprocess import PIPE

import numpy as np
import pytest
from conftest import BROKEN, ROOT, encode, photo
from corpus.parts import png
from formats import FORMATS, save
from held import check_that_errors_hold_nothing
from isolated import decode_isolated, kept
from PIL import Image

from mdmf_ops.beam.image import ImageRef
from mdmf_ops.beam.run import Run
from mdmf_ops.beam.score import Image as Fetched
from mdmf_ops.beam.score import make_row
from mdmf_ops.detector import Detector, ErrorCode, ImageError, Limits, decode
from mdmf_ops.images import isolation
from mdmf_ops.images.isolation import decode_in_turn
from mdmf_ops.images.shared_tiles import SharedTiles, open_memory
from mdmf_ops.images.tiles import TileGeometry, tile_image
from mdmf_ops.images.whole import decode_whole
from mdmf_ops.schema import to_table

GEOMETRY = TileGeometry(patch_px=32, max_tile_px=256, max_tiles=16)
LIMITS = Limits(max_decode_s=3)

# Python imports a module of this name as it starts. In the decoder's process alone, pixels of a BMP do what the name
# of its last bytes says.
SABOTAGE = """
import ctypes, os, sys, time
if "decoder_process" in " ".join(sys.orig_argv):
    from PIL.BmpImagePlugin import BmpImageFile
    load = BmpImageFile.load
    def sabotaged(image):
        if image.fp is None:  # loaded
            return load(image)
        image.fp.seek(-8, 2)
        what = image.fp.read(8).strip().decode("latin-1")
        if what == "hang":
            ctypes.PyDLL(None).pause()  # in C, and holding the interpreter's lock
        elif what == "spin":
            while True: pass
        elif what == "segfault":
            ctypes.string_at(0)
        elif what == "abort":
            os.abort()
        elif what == "exit":
            os._exit(3)
        elif what == "eat":
            eaten = bytearray(2 << 30)
        elif what == "stuff":  # itself full of small things: nothing is left for whoever catches the error
            stuffed = [tuple([number] * 50) for number in range(1 << 40)]
        elif what == "lie":
            os.write(lying(), b"x" * 40)
            os._exit(0)
        return load(image)
    def lying():
        # The pipe to the parent is the one file descriptor above the standard ones that can be written.
        import fcntl
        for fd in range(3, 20):
            try:
                if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                    return fd
            except OSError:
                pass
    BmpImageFile.load = sabotaged
"""


def bmp(what):
    return encode(photo(1), "BMP") + what.encode().rjust(8)


@pytest.fixture
def sabotage(tmp_path, monkeypatch):
    """Decoders that do what a BMP says, in processes of their own, gone after the test."""
    (tmp_path / "sitecustomize.py").write_text(SABOTAGE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    isolation._end_all()
    yield
    isolation._end_all()


def outcome(content, limits=LIMITS):
    try:
        return decode_isolated(content, GEOMETRY, limits)
    except ImageError as error:
        return error


def test_a_decoder_that_waited_for_its_parent_did_not_hang(monkeypatch):
    # It has answered in time; that is read after its time.
    contents = [encode(photo(i, 768, 768), "PNG") for i in range(2)]
    answers = decode_in_turn(contents, GEOMETRY, LIMITS)
    found = [kept(next(answers))]
    clock, decoder = time.monotonic, answers.gi_frame.f_locals["answers"].gi_frame.f_locals["decoder"]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 2 * LIMITS.max_decode_s)
    while not decoder._readable.poll(1000):
        pass
    found += answers
    for tiled, content in zip(found, contents, strict=True):
        np.testing.assert_array_equal(tiled.tiles, tile_image(decode(content), GEOMETRY).tiles)
        assert tiled.decode_us > 0


def test_a_decoder_that_answers_between_two_looks_of_its_parent_did_not_hang(monkeypatch):
    ask, clock, looked = isolation._Decoder.ask, time.monotonic, []

    def asked(decoder, content):
        os.kill(decoder._process.pid, signal.SIGSTOP)
        ask(decoder, content)
        monkeypatch.setattr(time, "monotonic", lambda: clock() + 2 * LIMITS.max_decode_s)

    def looks_on(decoder):  # no answer in its time. And now this thread is kept from going on until there is one
        os.kill(decoder._process.pid, signal.SIGCONT)
        while not decoder._readable.poll(1000):
            pass
        looked.append(decoder)
        return False

    monkeypatch.setattr(isolation._Decoder, "ask", asked)
    monkeypatch.setattr(isolation._Decoder, "_is_starved", looks_on)
    content = encode(photo(1))
    tiles = decode_isolated(content, GEOMETRY, LIMITS).tiles
    np.testing.assert_array_equal(tiles, tile_image(decode(content), GEOMETRY).tiles)
    assert len(looked) == 1


def test_two_who_decode_at_once_have_two_decoders():
    contents = [encode(photo(i, 300, 200)) for i in range(6)]
    expected = [tile_image(decode(content), GEOMETRY).tiles for content in contents]
    first, second = (decode_in_turn(some, GEOMETRY, LIMITS) for some in (contents, contents[::-1]))
    found = [(kept(one).tiles, kept(other).tiles) for one, other in zip(first, second, strict=True)]
    np.testing.assert_array_equal(np.stack([one for one, _ in found]), np.stack(expected))
    np.testing.assert_array_equal(np.stack([other for _, other in found]), np.stack(expected[::-1]))


def test_small_images_are_asked_for_several_at_a_time_and_large_ones_one_by_one(monkeypatch):
    with_it, ask, answer = [], isolation._Decoder.ask, isolation._Decoder.answer

    def asked(decoder, *request):
        ask(decoder, *request)
        with_it.append(len(decoder._asked))

    def answered(decoder, *request):
        with_it.append("answer")
        return answer(decoder, *request)

    monkeypatch.setattr(isolation._Decoder, "ask", asked)
    monkeypatch.setattr(isolation._Decoder, "answer", answered)
    small, large = encode(photo(1)), encode(photo(2, 700, 700), "PNG")
    assert len(large) > 1 << 19
    assert len(list(decode_in_turn([small] * 40, GEOMETRY, LIMITS))) == 40
    # The first one says when the decoder is there. Then 16, and 14 more whenever two are left.
    first, more = [1, "answer", *range(1, 17)], [*["answer"] * 14, *range(3, 17)]
    assert with_it == [*first, *more, *["answer"] * 14, *range(3, 12), *["answer"] * 11]
    with_it.clear()
    assert len(list(decode_in_turn([large, small, large, large], GEOMETRY, LIMITS))) == 4
    assert with_it == [1, "answer", 1, "answer", 1, "answer", 1, "answer"]


@pytest.mark.parametrize("what", ["hang", "segfault", "eat", "lie"])
def test_what_a_decoder_had_before_it_when_it_was_lost_is_decoded_by_another(sabotage, what):
    kinds = ["", what, "", "", what, what, "", ""]
    found = list(map(kept, decode_in_turn([bmp(kind) for kind in kinds], GEOMETRY, LIMITS)))
    assert [isinstance(each, ImageError) for each in found] == [kind == what for kind in kinds]
    for whole in (each for each in found if not isinstance(each, ImageError)):
        np.testing.assert_array_equal(whole.tiles, found[0].tiles)


def test_an_error_keeps_none_of_the_images():
    contents = [b"no image" + bytes(10_000), encode(photo(1)), b"", bytes(60_000), b"no image either" * 1000]
    limits = replace(LIMITS, max_bytes=50_000)
    check_that_errors_hold_nothing(contents, lambda: decode_in_turn(contents, GEOMETRY, limits), errors=4)


def test_each_image_has_its_own_answer_though_some_are_refused_or_broken():
    contents = [encode(photo(1)), b"", b"no image", encode(photo(2), "PNG"), bytes(5000), *BROKEN.values()]
    limits = replace(LIMITS, max_bytes=50_000)
    found = list(map(kept, decode_in_turn(contents, GEOMETRY, limits)))
    for each, content in zip(found, contents, strict=True):
        try:
            expected = tile_image(decode(content, limits), GEOMETRY)
        except ImageError as error:
            assert (each.code, each.message) == (error.code, error.message)
        else:
            np.testing.assert_array_equal(each.tiles, expected.tiles)


NAMELESS = [signal.SIGRTMIN + 1] if hasattr(signal, "SIGRTMIN") else []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1, *NAMELESS])
@pytest.mark.parametrize("when", ["asked", "waiting"])
def test_a_decoder_that_is_killed_costs_no_image(sabotage, monkeypatch, when, number):
    ask, killed = isolation._Decoder.ask, []

    def kill(decoder, *request):
        if when == "waiting":
            ask(decoder, *request)
        if len(killed) < 1 and len(decoder._asked) == (2 if when == "waiting" else 1):
            killed.append(decoder._process.pid)
            decoder._process.send_signal(number)
            decoder._process.wait()
        if when == "asked":
            ask(decoder, *request)

    monkeypatch.setattr(isolation._Decoder, "ask", kill)
    found = list(decode_in_turn([encode(photo(i)) for i in range(6)], GEOMETRY, LIMITS))
    assert killed and all(tiled.plan.origins for tiled in found)  # as if the system had killed it for its memory


def test_a_decoder_that_is_killed_and_takes_its_time_to_be_gone_costs_no_image(monkeypatch):
    ask, wait = isolation._Decoder.ask, subprocess.Popen.wait

    def killed(decoder, content):
        monkeypatch.setattr(isolation._Decoder, "ask", ask)
        os.kill(decoder._process.pid, signal.SIGSTOP)
        ask(decoder, content)
        decoder._process.kill()

    def slow(process, timeout=None):  # its pipes are closed, and it is no zombie yet
        if timeout is not None and timeout <= isolation._DEATH_S:
            raise subprocess.TimeoutExpired(process.args, timeout)
        return wait(process, timeout)

    monkeypatch.setattr(isolation._Decoder, "ask", killed)
    monkeypatch.setattr(subprocess.Popen, "wait", slow)
    assert not isinstance(outcome(encode(photo(1))), ImageError)


@pytest.mark.parametrize("name", FORMATS)
def test_isolated_tiles_are_those_of_this_process(name):
    content = save(Image.fromarray(photo(3, 500, 700)), name)
    found, expected = decode_isolated(content, GEOMETRY, LIMITS), tile_image(decode(content), GEOMETRY)
    np.testing.assert_array_equal(found.tiles, expected.tiles)
    assert (found.plan, found.width_px, found.height_px) == (expected.plan, 700, 500)
    assert (found.image_format, found.jpeg_quality) == (expected.image_format, expected.jpeg_quality)


@pytest.mark.parametrize("name", FORMATS)
def test_a_whole_picture_from_a_process_apart_is_that_of_this_one(name):
    content = save(photo(1, 97, 131), name)
    np.testing.assert_array_equal(np.asarray(decode_whole(content, Limits())), decode(content).pixels)


def test_a_whole_picture_that_cannot_be_decoded_is_an_error(sabotage):
    with pytest.raises(ImageError) as caught:
        decode_whole(encode(photo(1))[:500], Limits())
    assert caught.value.code is ErrorCode.TRUNCATED
    with pytest.raises(ImageError) as caught:
        decode_whole(bmp("segfault"), Limits())
    assert caught.value.code is ErrorCode.DECODER_CRASHED


@pytest.mark.parametrize("name", BROKEN)
def test_isolated_errors_are_those_of_this_process(name):
    with pytest.raises(ImageError) as here:
        decode(BROKEN[name])
    found = outcome(BROKEN[name])
    assert (found.code, found.message) == (here.value.code, here.value.message)


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("hang", ErrorCode.TIMEOUT, "more than 3 s"),
        ("spin", ErrorCode.TIMEOUT, "more than 3 s"),
        ("segfault", ErrorCode.DECODER_CRASHED, "SIGSEGV"),
        ("abort", ErrorCode.DECODER_CRASHED, "SIGABRT"),
        ("exit", ErrorCode.DECODER_CRASHED, "exit status 3"),
        ("eat", ErrorCode.OUT_OF_MEMORY, ""),
        ("stuff", ErrorCode.OUT_OF_MEMORY, ""),
        ("lie", ErrorCode.DECODER_CRASHED, ""),
    ],
)
def test_a_decoder_that_fails_costs_one_image(sabotage, what, code, message):
    started_s = time.monotonic()
    outcomes = [outcome(bmp(kind)) for kind in ("", what, "", "")]
    assert time.monotonic() - started_s < 60
    assert isinstance(outcomes[1], ImageError) and outcomes[1].code is code, outcomes[1]
    assert message in outcomes[1].message
    for whole in (outcomes[0], *outcomes[2:]):
        assert not isinstance(whole, ImageError), whole
        np.testing.assert_array_equal(whole.tiles, outcomes[0].tiles)


def test_a_decoder_whose_time_cannot_be_told_when_it_is_up_has_had_its_time(sabotage, monkeypatch):
    # As of one that somebody else waited for: its process is gone between two looks at it.
    told = {isolation._PATIENCE: 0.0}
    monkeypatch.setattr(isolation._Decoder, "_cpu_s", lambda decoder: told.get(decoder._turns))
    assert outcome(bmp("spin"), replace(LIMITS, max_decode_s=1)).code is ErrorCode.TIMEOUT


TRUE_REPLY = {"width_px": 128, "height_px": 96, "image_format": "JPEG", "jpeg_quality": 75, "decode_us": 9}


@pytest.mark.parametrize(
    "reply",
    [
        *("[]", "7", "null", '"error"', "[" * 4000, "{", '{"error": "no_such_code", "message": ""}', '{"error": []}'),
        *(json.dumps(TRUE_REPLY | {name: value}) for name in TRUE_REPLY for value in ("75", [], 1e999, 96.5, True)),
        *(json.dumps(TRUE_REPLY | {"jpeg_quality": value}) for value in (0, 0.0, False, "", 101)),
        json.dumps(TRUE_REPLY | {"decode_us": None}),
        json.dumps(TRUE_REPLY | {"image_format": "EXE"}),
    ],
)
def test_what_is_no_reply_costs_one_image(monkeypatch, reply):
    receive, lies = isolation._Decoder._receive, [reply]

    def received(decoder):
        truth = receive(decoder)
        return json.loads(lies.pop()) if lies and "ready" not in truth else truth

    monkeypatch.setattr(isolation, "_DEATH_S", 0.01)
    monkeypatch.setattr(isolation._Decoder, "_receive", received)
    found = list(decode_in_turn([encode(photo(i)) for i in range(3)], GEOMETRY, LIMITS))
    assert not lies
    assert isinstance(found[0], ImageError) and found[0].code is ErrorCode.DECODER_CRASHED
    assert not any(isinstance(each, ImageError) for each in found[1:])


@pytest.mark.parametrize(("name", "value"), [("width_px", 0), ("width_px", -96), ("height_px", 1 << 70)])
def test_a_size_that_is_not_decoded_is_not_believed(monkeypatch, name, value):
    receive = isolation._Decoder._receive

    def received(decoder):
        truth = receive(decoder)
        return truth if "ready" in truth else TRUE_REPLY | {name: value}

    monkeypatch.setattr(isolation._Decoder, "_receive", received)
    assert outcome(encode(photo(1))).code in (ErrorCode.TOO_SMALL, ErrorCode.SIDE_TOO_LONG)


def test_of_a_batch_only_the_images_that_hang_and_crash_are_failed_rows(sabotage):
    detector = Detector.load(device="cpu", limits=LIMITS)
    contents = [bmp(""), bmp("hang"), encode(photo(2)), bmp("segfault"), bmp("segfault"), encode(photo(4), "PNG")]
    results = detector.score(contents)
    run = Run("/out", "test", "2026-01-02", "2026-01-02T00:00:00+00:00")
    rows = [
        make_row(Fetched(ImageRef(f"/in/{i}"), content), result, detector, run)
        for i, (content, result) in enumerate(zip(contents, results, strict=True))
    ]
    to_table(rows)
    codes = [row["error_code"] for row in rows]
    assert codes == [None, "timeout", None, "decoder_crashed", "decoder_crashed", None]


def test_a_decoder_that_was_killed_from_outside_costs_no_image():
    content = encode(photo(1))
    whole = decode_isolated(content, GEOMETRY, LIMITS)
    [decoder] = isolation._idle[-1:]
    os.kill(decoder._process.pid, signal.SIGKILL)
    np.testing.assert_array_equal(decode_isolated(content, GEOMETRY, LIMITS).tiles, whole.tiles)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_tells_a_whole_service_to_stop_costs_no_image(number):
    isolation._end_all()
    contents = [encode(photo(1)), encode(photo(2, 1500, 1500), "PNG"), encode(photo(3))]
    answers = decode_in_turn(contents, GEOMETRY, LIMITS)
    found = [kept(next(answers))]
    decoder = answers.gi_frame.f_locals["answers"].gi_frame.f_locals["decoder"]
    assert os.getsid(decoder._process.pid) == decoder._process.pid, "a terminal would tell it too"
    decoder._process.send_signal(number)
    found += map(kept, answers)
    for tiled, content in zip(found, contents, strict=True):
        np.testing.assert_array_equal(tiled.tiles, tile_image(decode(content), GEOMETRY).tiles)
    assert isolation._idle == [decoder], "the same one has gone on"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_decoder_that_is_killed_as_it_starts_costs_no_image(monkeypatch, tmp_path, number):
    killed = f"import os, pathlib\npathlib.Path({str(tmp_path / 'killed')!r}).touch(exist_ok=False)\n"
    once = f"try:\n exec({killed!r})\n os.kill(os.getpid(), {int(number)})\nexcept FileExistsError:\n pass\n"
    monkeypatch.setattr(isolation, "_COMMAND", once + isolation._COMMAND)
    isolation._end_all()
    content = encode(photo(1))
    tiles = decode_isolated(content, GEOMETRY, LIMITS).tiles
    np.testing.assert_array_equal(tiles, tile_image(decode(content), GEOMETRY).tiles)
    assert (tmp_path / "killed").exists()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
@pytest.mark.parametrize(("spare_bytes", "code"), [(160 << 20, None), (20 << 20, ErrorCode.OUT_OF_MEMORY)])
def test_a_limit_of_memory_from_outside_is_no_crash(spare_bytes, code):
    isolation._end_all()
    content, large = encode(photo(1)), png(5000, 4000, bytes(5000 * 4000 * 4 + 40_000), colour=6, interlaced=1)
    limits = replace(LIMITS, max_decode_s=30)
    tiles = decode_isolated(content, GEOMETRY, limits).tiles
    pid = isolation._idle[-1]._process.pid
    most_bytes = data_bytes() + spare_bytes
    resource.prlimit(pid, resource.RLIMIT_DATA, (most_bytes, most_bytes))
    np.testing.assert_array_equal(decode_isolated(content, GEOMETRY, limits).tiles, tiles)
    assert getattr(outcome(large, limits), "code", None) is code
    assert isolation._idle[-1]._process.pid == pid
    isolation._end_all()


def test_threads_have_a_process_each_and_leave_no_more_than_they_need():
    isolation._end_all()
    contents = [encode(photo(i)) for i in range(12)]
    expected = [tile_image(decode(content), GEOMETRY).tiles for content in contents]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda content: decode_isolated(content, GEOMETRY, LIMITS).tiles, contents))
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))
    assert 1 <= len(isolation._idle) <= 3


def test_a_decoder_has_no_credentials_and_no_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secret")
    for name in ("PIL", "json", "mdmf_ops", "struct"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stranger on the search path')")
    monkeypatch.chdir(tmp_path)
    isolation._end_all()
    decode_isolated(encode(photo(1)), GEOMETRY, LIMITS)
    pid = isolation._idle[-1]._process.pid
    with open(f"/proc/{pid}/environ", "rb") as file:
        assert b"/secret" not in file.read()
    with open(f"/proc/{pid}/maps") as file:
        assert "libtorch" not in file.read()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_a_decoder_gives_back_what_a_large_image_took_and_the_next_has_all_of_its_limit():
    isolation._end_all()
    needs = Limits(max_decode_s=30, max_decode_bytes=130 << 20)
    outcome(encode(photo(1)), needs)
    idle_bytes = data_bytes()
    # Without giving back, 90 MB of it stay.
    large = png(5000, 4000, bytes(5000 * 4000 * 4 + 40_000), colour=6, interlaced=1)
    for _ in range(3):
        assert not isinstance(outcome(large, needs), ImageError)
    outcome(b"nothing", needs)  # answered when the memory of the last one was given back
    assert data_bytes() - idle_bytes < 48 << 20


MANY_CORES = """
import os
os.sched_getaffinity = lambda _pid: range(96)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")
def test_an_avif_needs_the_same_memory_whatever_the_machines_cores(tmp_path, monkeypatch):
    content = encode(np.tile(photo(1, 500, 500), (4, 6, 1)), "AVIF", quality=50, speed=10)
    needs = Limits(max_decode_s=30, max_decode_bytes=64 << 20)  # over 100 MiB with a thread for each of 96 cores
    (tmp_path / "sitecustomize.py").write_text(MANY_CORES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    isolation._end_all()
    found = outcome(content, needs)
    isolation._end_all()
    assert not isinstance(found, ImageError), found


def data_bytes():
    """What the idle decoder's process has allocated."""
    with open(f"/proc/{isolation._idle[-1]._process.pid}/statm") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")


def test_decoders_end_with_their_parent():
    script = """
import os, sys
from conftest import encode, photo
from isolated import decode_isolated
from mdmf_ops.detector import Limits
from mdmf_ops.images import isolation
from mdmf_ops.images.tiles import TileGeometry
decode_isolated(encode(photo(1)), TileGeometry(32, 256), Limits())
print(isolation._idle[0]._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline_s = time.monotonic() + 30
    while is_running(int(done.stdout)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not is_running(int(done.stdout))


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_decoder_whose_parent_has_gone_before_it_was_ready_ends_without_a_word():
    fd = open_memory(GEOMETRY)
    settings = [json.dumps(asdict(each)) for each in (GEOMETRY, LIMITS)]
    command = [sys.executable, "-c", isolation._COMMAND, str(fd), *settings, *sys.path]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT, pass_fds=[fd]) as decoder:
        os.close(fd)
        decoder.stdout.close()
        assert decoder.wait(60) == 0
        assert decoder.stderr.read() == b""


@pytest.mark.parametrize(
    ("geometry", "slots"), [(GEOMETRY, 17), (TileGeometry(14, 518), 9), (TileGeometry(32, 4096, max_tiles=9), 2)]
)
def test_slots_are_apart_and_take_no_more_memory_than_they_may(geometry, slots):
    fd = open_memory(geometry)
    ours, theirs = SharedTiles(fd, geometry), SharedTiles(fd, geometry)
    assert os.fstat(fd).st_size == slots * geometry.max_bytes
    assert ours.slots == slots and (slots == 2 or os.fstat(fd).st_size <= 64 << 20)
    os.close(fd)
    for slot in range(slots):
        theirs[slot][:1] = theirs[slot][-1:] = bytes([slot])
    assert [(ours[slot][0], ours[slot][-1], len(ours[slot])) for slot in range(slots)] == [
        (slot, slot, geometry.max_bytes) for slot in range(slots)
    ]


def test_no_decoder_writes_where_tiles_are_read(monkeypatch):
    ask, answer, held = isolation._Decoder.ask, isolation._Decoder.answer, []

    def asked(decoder, *request):
        ask(decoder, *request)
        assert decoder._asked[-1].slot not in held
        held.append(decoder._asked[-1].slot)

    def answered(decoder, *request):
        if len(held) > decoder.pending:
            held.pop(0)  # of the tiles that were read until now
        return answer(decoder, *request)

    monkeypatch.setattr(isolation._Decoder, "ask", asked)
    monkeypatch.setattr(isolation._Decoder, "answer", answered)
    contents = [encode(photo(i)) if i % 5 else b"no image" for i in range(60)]
    assert len(list(decode_in_turn(contents, GEOMETRY, LIMITS))) == 60


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="seals are Linux's")
def test_a_decoder_cannot_cut_the_memory_that_its_parent_reads():
    fd = open_memory(GEOMETRY)
    for size_bytes in (0, os.fstat(fd).st_size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size_bytes)
    os.close(fd)


def test_tiles_of_another_geometry_come_from_another_decoder():
    content, other = encode(photo(1, 300, 200)), TileGeometry(patch_px=14, max_tile_px=224, max_tiles=2)
    for geometry in (GEOMETRY, other, GEOMETRY):
        expected = tile_image(decode(content), geometry).tiles
        np.testing.assert_array_equal(decode_isolated(content, geometry, LIMITS).tiles, expected)
    assert {decoder.geometry for decoder in isolation._idle} == {GEOMETRY}


def test_an_image_is_decoded_within_the_limits_that_it_came_with():
    small, large = (encode(photo(1, *sides)) for sides in ((200, 300), (400, 600)))
    narrow = replace(LIMITS, max_side_px=300)
    for limits in (LIMITS, narrow, LIMITS):
        assert decode_isolated(small, GEOMETRY, limits).width_px in (200, 300)
        assert getattr(outcome(large, limits), "code", None) is (ErrorCode.SIDE_TOO_LONG if limits is narrow else None)


def test_a_decoder_that_somebody_leaves_amid_its_work_is_ended_and_an_idle_one_is_kept():
    isolation._end_all()
    answers = decode_in_turn([encode(photo(i)) for i in range(3)], GEOMETRY, LIMITS)
    next(answers)
    answers.close()
    assert not isolation._idle
    answers = decode_in_turn([encode(photo(1))], GEOMETRY, LIMITS)
    next(answers)
    assert not isolation._idle, "its tiles are in use"
    answers.close()
    assert len(isolation._idle) == 1


def test_a_process_that_does_not_start_is_no_fault_of_an_image(monkeypatch):
    monkeypatch.setattr(isolation, "_COMMAND", "raise SystemExit(7)")
    isolation._end_all()
    with pytest.raises(RuntimeError, match="does not start"):
        decode_isolated(encode(photo(1)), GEOMETRY, LIMITS)
