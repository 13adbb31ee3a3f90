"""Globs over whole paths and object names: what they match, and where a match may lie."""

import glob
import re
from functools import lru_cache


@lru_cache(maxsize=64)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """A glob over whole paths: `*` and `?` stay within a folder, `**` crosses folders, `**/` may be none.

    Raises:
        ValueError: a set in it runs backwards, as `[z-a]`.
    """
    regex = ""
    for token in re.findall(r"(?<=/)\*\*/|\*\*|\*|\?|\[(?:![^/]|[^!/])[^\]/]*\]|.", pattern, re.DOTALL):
        if token.startswith("[") and len(token) > 1:
            negated = token.startswith("[!")
            inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", token[1 + negated : -1])
            regex += f"(?!/)[{'^' * negated}{inside}]"
        else:
            known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
            regex += known.get(token) or re.escape(token)
    try:
        return re.compile(regex, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern}: no glob: {error.msg}") from error


def is_glob(name: str) -> bool:
    """Whether a name may be meant as a glob: not one whose set runs backwards, as a folder `trip [2024-01]`."""
    try:
        return glob.has_magic(name) and compile_glob(name) is not None
    except ValueError:
        return False


def fixed_start(pattern: str) -> str:
    """What every match of a glob starts with."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]


def fixed_folder(pattern: str) -> str:
    """The longest folder that every match of a glob lies under."""
    return fixed_start(pattern).rpartition("/")[0] or "/"


def may_hold(folder: str, pattern: str | None) -> bool:
    """Whether a match of a glob may lie in a folder: by the components of both, up to the first with `**`."""
    if pattern is None:
        return True
    names, wanted = folder.split("/"), pattern.partition("**")[0].split("/")[:-1]
    if len(names) > len(wanted) and "**" not in pattern:
        return False
    return all(compile_glob(component).fullmatch(name) for component, name in zip(wanted, names, strict=False))
