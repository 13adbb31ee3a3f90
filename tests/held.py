"""What answers keep in memory."""

import gc
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence

from mdmf_ops.detector import ImageError


def check_that_errors_hold_nothing(contents: Sequence[bytes], answers: Callable[[], Iterable], errors: int) -> None:
    """Asks for answers about images, so many of them errors, which must hold neither the images nor themselves.

    Args:
        contents: of images that nothing else takes or lets go of meanwhile.
    """
    before = list(map(sys.getrefcount, contents))
    gc.disable()  # what refers to itself would go in time, and much memory before it
    try:
        found = [answer for answer in answers() if isinstance(answer, ImageError)]
        assert len(found) == errors
        assert list(map(sys.getrefcount, contents)) == before
        references = [weakref.ref(error) for error in found]
        found.clear()
        assert not any(error() for error in references)
    finally:
        gc.enable()
