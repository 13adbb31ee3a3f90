"""The marks that image generators leave in text chunks and EXIF: which generator, never what it was asked for.

Texts are bounded where they are read.
"""

import re
from collections.abc import Iterable, Mapping

from mdmf_ops.provenance.exif import DESCRIPTION, MAKE, MODEL, SOFTWARE, USER_COMMENT

WEB_UI = "Stable Diffusion web UI"

_STEPS = re.compile(r"\bSteps: \d+, ")
_STEPS_TO_SAMPLER_CHARS = 2000
_COMFY_TEXT = re.compile(r'^(?:prompt|workflow):\s*\{|"last_node_id"\s*:', re.IGNORECASE)
_COMFY_NODE = (re.compile(r'"class_type"\s*:'), re.compile(r'"inputs"\s*:'))
_MIDJOURNEY_JOB = re.compile(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MIDJOURNEY_MODEL = re.compile(r"\s--(?:v|niji)\s")

# Keywords that one program alone writes.
_OWN_KEYWORDS = {
    "invokeai_metadata": "InvokeAI",
    "invokeai_graph": "InvokeAI",
    "invokeai_workflow": "InvokeAI",
    "sd-metadata": "InvokeAI",
    "Dream": "InvokeAI",
    "fooocus_scheme": "Fooocus",
    "use_stable_diffusion_model": "Easy Diffusion",
}

# Names under which generators and their services sign as software; a photo editor's name says nothing of generation.
# "Editor de imagen 3" is Spanish.
_NAMES = re.compile(
    r"\b(?:NovelAI|Midjourney|DALL[\-·. ]E|(?-i:DALLE)|Stable ?Diffusion|Stability ?AI|ComfyUI|InvokeAI|Fooocus|SwarmUI"
    r"|Draw Things|DreamStudio|Adobe[_ ]Firefly|Ideogram(?:\.?AI)?|Leonardo\.?AI|Easy Diffusion|FLUX\.[12][\w.-]*"
    r"|(?<!de )Imagen ?[2-9]|Bing Image Creator|Image Creator from Designer|OpenAI(?:-API)?|ChatGPT)(?![\w-])",
    re.IGNORECASE,
)
_SWARM_KEY = '"sui_image_params"'
# China's AI label (GB 45438-2025) is JSON, of which the end may be cut: "1" is generated, "2" likely so, "3" suspected.
_LABEL = re.compile(r'"Label"\s*:\s*"?([^",}\s]*)')


def named_generator(software: str) -> bool:
    """Whether the name of a program is that of an image generator."""
    return _NAMES.search(software) is not None


def labelled_generated(label: str) -> bool:
    """Whether China's AI label, the text of `AIGC` in a PNG or in XMP, says that the image is generated."""
    found = _LABEL.search(label)
    return found is not None and found[1] == "1"


def _by_web_ui(text: str) -> bool:
    """Whether a text ends as web UIs end theirs, `Steps: 28, Sampler: ...`; one pattern for both would be slow."""
    sampler = text.rfind("Sampler: ")
    return sampler >= 0 and _STEPS.search(text[max(0, sampler - _STEPS_TO_SAMPLER_CHARS) : sampler]) is not None


def _by_comfy(text: str) -> bool:
    """Whether a text is a graph of ComfyUI's: detectors, too, say `class_type` of what they find."""
    return _COMFY_TEXT.search(text) is not None or all(mark.search(text) for mark in _COMFY_NODE)


def _by_midjourney(description: str, has_author: bool = False) -> bool:
    """Whether a description is Midjourney's: others have jobs too, but no author or model of Midjourney's beside."""
    return _MIDJOURNEY_JOB.search(description) is not None and (
        has_author or _MIDJOURNEY_MODEL.search(description) is not None
    )


def in_text_chunks(text: Mapping[str, str]) -> str | None:
    """The generator that a PNG's text chunks, by keyword, are written by; None where none is known."""
    for keyword, generator in _OWN_KEYWORDS.items():
        if keyword in text:
            return generator
    graphs = (text.get(keyword, "") for keyword in ("prompt", "workflow"))
    midjourney = _by_midjourney(text.get("Description", ""), "Author" in text)
    return _generator(text.get("parameters", ""), graphs, midjourney, text.get("Software", ""))


def in_exif(tags: Mapping[int, str]) -> str | None:
    """The generator that the text of EXIF tags is written by; None where none is known."""
    graphs = (tags.get(tag, "") for tag in (MAKE, MODEL, DESCRIPTION, USER_COMMENT))
    midjourney = _by_midjourney(tags.get(DESCRIPTION, ""))
    # Only a program signs as software: a maker or an artist may well be called Dalle or Imagen 3.
    return _generator(tags.get(USER_COMMENT, ""), graphs, midjourney, tags.get(SOFTWARE, ""))


def _generator(parameters: str, graphs: Iterable[str], midjourney: bool, software: str) -> str | None:
    if _SWARM_KEY in parameters:
        return "SwarmUI"
    if _by_web_ui(parameters):
        return WEB_UI
    if any(map(_by_comfy, graphs)):
        return "ComfyUI"
    if midjourney:
        return "Midjourney"
    return software if named_generator(software) else None
