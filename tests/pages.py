"""Pages of the documentation: what they show, so that tests can run it."""

import re
import textwrap
from pathlib import Path

from conftest import ROOT


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language in a page; those without one have the language ''."""
    return [text for found, text in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S) if found == language]


def indented(page: Path) -> list[str]:
    """Blocks of a page that are indented by four spaces."""
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", page.read_text(), re.MULTILINE)
    return [text for text in map(textwrap.dedent, found) if text.strip()]


def sections(page: Path) -> dict[str, str]:
    """Text of each section of a page, by heading."""
    parts = re.split(r"^## (.+)\n", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
