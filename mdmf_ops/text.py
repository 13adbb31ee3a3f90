"""Strangers' text made fit for a row, a log or a terminal."""

import hashlib
import re

# Control characters, line separators, marks that turn the direction of text, and lone surrogates.
_NOT_FOR_A_LINE = re.compile(r"[^\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\U0010ffff]+")

# What gives access to whoever reads it. A client's errors quote whole URLs, with the id of an upload that goes on.
_LOGIN = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/\s@]*@")
_QUERY = re.compile(r"((?:https?://|\burl: ?/)[^\s?#'\"<>]*)[?#][^\s'\"<>]+", re.IGNORECASE)
_PARAMETER = re.compile(
    r"([?&;](?:x-(?:goog|amz)-[a-z-]+|sig|signature|policy|googleaccessid|awsaccesskeyid|[a-z_]*token|[a-z_]*key"
    r"|upload_id|password)=)[^\s&;'\"<>]+",
    re.IGNORECASE,
)

_LOOKED_AT_CHARS = 8192
"""Of a text that becomes a line: what lies beyond is not shown, nor searched for what a stranger made to take long."""


def fits_a_line(text: str) -> bool:
    """Whether the text is one line without control characters and the like."""
    return _NOT_FOR_A_LINE.search(text) is None


def one_line(text: str, max_chars: int) -> str:
    """The text as one line without control characters, cut to `max_chars`."""
    return _NOT_FOR_A_LINE.sub(" ", text)[:max_chars]


def told(text: str, max_chars: int = 2000) -> str:
    """An error's text as one line, with `...` for the logins, queries and signatures of the URLs in it."""
    text = _LOGIN.sub(r"\1...@", text[:_LOOKED_AT_CHARS])
    text = _PARAMETER.sub(r"\1...", _QUERY.sub(r"\1?...", text))
    return one_line(text, max_chars)


def name_of_refused(uri: str, max_chars: int = 1024) -> str:
    """A name for a URI that is not opened: as `told`, and two that differ beyond what is told keep two names."""
    name = told(uri, max_chars)
    if name == uri:
        return uri
    # A login is too short for a digest to hide.
    secret = _LOGIN.sub(r"\1...@", uri).encode(errors="backslashreplace")
    return f"{name}#{hashlib.sha256(secret).hexdigest()[:16]}"
