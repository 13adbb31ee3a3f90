"""Threads of a scorer: images are decoded while the network works on others, and every score is what it was."""

import threading

import numpy as np
import pytest
import torch
from conftest import BROKEN, encode, photo
from held import check_that_errors_hold_nothing

from mdmf_ops.detector import Detector, ImageError, Scorer
from mdmf_ops.detector.detector import exact_convolutions
from mdmf_ops.images import isolation

DEADLINE_S = 60


@pytest.fixture(scope="module")
def detector():
    return Detector.load(device="cpu")


@pytest.fixture(scope="module")
def batch():
    good = [encode(photo(i, 64 + 32 * (i % 3), 96), ("JPEG", "PNG")[i % 2]) for i in range(12)]
    return [*good[:5], BROKEN["half.jpg"], *good[5:], BROKEN["empty.jpg"]]


class Watched(Scorer):
    """Decodes for real, and notes when; its network is a function of the test's."""

    def __init__(self, detector, threads, network):
        super().__init__(detector.terms, detector.alpha, None, threads)
        self._network = network

    def evidence(self, tiles):
        return self._network(tiles)


@pytest.fixture
def decoded(monkeypatch):
    """Counts decoded images; `decoded.reach(n)` waits until there are n."""
    condition = threading.Condition()

    class Decoded:
        count = 0

        def reach(self, number):
            with condition:
                return condition.wait_for(lambda: self.count >= number, DEADLINE_S)

    found = Decoded()
    real = isolation._Decoder.answer

    def answer(decoder):
        image = real(decoder)
        with condition:
            found.count += 1
            condition.notify_all()
        return image

    monkeypatch.setattr(isolation._Decoder, "answer", answer)
    return found


def outcome(result):
    if isinstance(result, ImageError):
        return result.code, result.message
    return result.mmd2, result.p_value, result.evidence.tobytes(), result.plan


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit_and_no_place(detector, batch, threads):
    parts = (detector.backbone, detector.signature, detector.bank, detector.calibration)
    threaded = Detector(*parts, threads=threads)
    assert [outcome(r) for r in threaded.score(batch)] == [outcome(r) for r in detector.score(batch)]


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda':UserWarning")
def test_an_accelerator_is_given_the_images_of_every_thread_by_one(detector, batch, monkeypatch):
    """cuDNN plans anew for each size of tiles in each thread, which takes seconds."""
    parts = (detector.backbone, detector.signature, detector.bank, detector.calibration)
    detectors = [Detector(*parts, threads=5), Detector(*parts, threads=2)]
    embed, asked = detector.backbone.embed, []
    monkeypatch.setattr(detector.backbone, "embed", lambda tiles: asked.append(threading.get_ident()) or embed(tiles))
    expected = [outcome(r) for r in detector.score(batch)]
    assert set(asked) == {threading.get_ident()}
    asked.clear()
    for each in detectors:
        each.device = torch.device("cuda")  # as far as it knows: its network lies on the CPU
        assert [outcome(r) for r in each.score(batch)] == expected
    assert len(asked) == 2 * (len(batch) - 2)
    assert len(set(asked)) == 1


def test_the_next_image_is_decoded_while_the_network_works_on_one(detector, batch, decoded):
    met = []

    def network(tiles):
        # The first to come does not go on before three images are decoded: alone, it would wait for ever.
        met.append(decoded.reach(3))
        return np.zeros(4, np.float32)

    results = Watched(detector, 3, network).score(batch[:5])
    assert met == [True] * 5
    assert [result.mmd2 for result in results] == [0] * 5


def test_on_the_cpu_an_image_is_done_before_the_next_is_decoded(detector, batch, decoded):
    seen = []

    def network(tiles):
        seen.append(decoded.count)
        return np.zeros(4, np.float32)

    Watched(detector, 1, network).score(batch[:5])
    assert seen == [1, 2, 3, 4, 5]
    assert detector._pool is None  # which is what a detector on the CPU takes


def test_results_come_one_by_one(detector, batch, decoded):
    results = detector.scores(batch[:3])
    assert decoded.count == 0
    next(results)
    assert decoded.count == 1


def test_on_the_cpu_the_next_images_are_begun_before_one_is_scored(detector, batch, monkeypatch):
    events = []
    ask = isolation._Decoder.ask

    def asked(decoder, content):
        events.append(f"begun {batch.index(content)}")
        ask(decoder, content)

    def network(tiles):
        events.append("scored")
        return np.zeros(4, np.float32)

    monkeypatch.setattr(isolation._Decoder, "ask", asked)
    Watched(detector, 1, network).score(batch[:3])
    assert events == ["begun 0", "begun 1", "begun 2", "scored", "scored", "scored"]


def test_what_was_begun_and_is_not_asked_for_is_ended(detector, batch, monkeypatch):
    ended, end = [], isolation._Decoder.end

    def counted(decoder):
        ended.append(decoder._process)
        end(decoder)

    monkeypatch.setattr(isolation._Decoder, "end", counted)
    results = detector.scores(batch[:3])
    next(results)
    results.close()
    [process] = ended
    assert process.wait(10) != 0, "it waits to be read, for ever"
    assert list(map(outcome, detector.score(batch[:3]))) == list(map(outcome, detector.scores(batch[:3])))


@pytest.mark.parametrize("isolated", [True, False])
def test_errors_keep_none_of_the_images(isolated):
    detector = Detector.load(device="cpu", isolated=isolated)
    broken = [content for content in BROKEN.values() if content]
    contents = [bytes(bytearray(content)) for content in (encode(photo(1)), *broken)]  # which nothing else holds
    check_that_errors_hold_nothing(contents, lambda: detector.score(contents), errors=len(broken))


def test_on_a_gpu_convolutions_keep_float32_and_what_was_set_before_comes_back():
    cudnn = torch.backends.cudnn
    before = (cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled)
    with exact_convolutions(torch.device("cuda")):
        assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled) == (False, True, True)
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.enabled) == before


def test_an_error_of_the_network_is_no_error_of_an_image(detector, batch):
    def network(tiles):
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        Watched(detector, 2, network).score(batch[:3])
