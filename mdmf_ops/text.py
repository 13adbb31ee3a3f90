"""Strangers' text made fit for a row, a log or a terminal."""

import re

# Control characters, line separators, marks that turn the direction of text, and lone surrogates.
_NOT_FOR_A_LINE = re.compile(r"[^\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\U0010ffff]+")


def one_line(text: str, max_chars: int) -> str:
    """The text as one line without control characters, cut to `max_chars`."""
    return _NOT_FOR_A_LINE.sub(" ", text)[:max_chars]
