"""Histograms: the bars say the counts, and no text gets out of its element."""

from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ImageFont

from mdmf_ops.report.svg import Mark, histogram, ticks

SVG = "{http://www.w3.org/2000/svg}"


def draw(**options):
    arguments = {"title": "t", "x_label": "x", "standalone": True} | options
    return ElementTree.fromstring(
        histogram([0, 1, 2, 3], {"likely_real": [4, 0, 1], "likely_ai": [2, 8, 0]}, **arguments)
    )


def bars(svg, kind):
    return [r for r in svg.iter(f"{SVG}rect") if r.get("class") == kind]


def test_heights_are_in_proportion_to_the_counts_and_stand_on_each_other():
    svg = draw()
    heights = [float(bar.get("height")) for kind in ("likely_real", "likely_ai") for bar in bars(svg, kind)]
    assert np.allclose(np.array(heights) / heights[0], np.array([4, 1, 2, 8]) / 4, rtol=0.01)
    lower, upper = bars(svg, "likely_real")[0], bars(svg, "likely_ai")[0]
    assert float(upper.get("y")) + float(upper.get("height")) == pytest.approx(float(lower.get("y")), abs=0.02)


def test_an_empty_class_has_no_bar_and_every_bar_says_its_count():
    svg = draw()
    assert len(bars(svg, "likely_real")) == 2
    assert [bar.find(f"{SVG}title").text for bar in bars(svg, "likely_ai")] == [
        "0 to 1: 2 likely ai",
        "1 to 2: 8 likely ai",
    ]


def test_a_mark_stands_at_its_value():
    svg = draw(marks=[Mark(1.5, "here"), Mark(99, "outside")])
    inside, outside = [line for line in svg.iter(f"{SVG}line") if line.get("class") == "mark"]
    middle = bars(svg, "likely_ai")[1]
    assert float(inside.get("x1")) == pytest.approx(
        float(middle.get("x")) + (float(middle.get("width")) + 1) / 2, abs=0.1
    )
    assert float(outside.get("x1")) <= 560


def test_a_strangers_text_stays_text():
    hostile = '</title><script>alert(1)</script>"'
    svg = draw(title=hostile, x_label=hostile, marks=[Mark(1, hostile)])
    assert svg.find(f"{SVG}title").text == hostile
    assert not list(svg.iter(f"{SVG}script"))


@pytest.mark.parametrize("images", [9, 9_000, 60_000, 700_000, 1_500_000, 33_000_000, 4_000_000_000])
def test_however_many_images_there_are_their_number_fits_beside_the_bars(images):
    drawn = histogram([0, 1], {"likely_real": [images]}, title="t", x_label="x", standalone=True)
    svg = ElementTree.fromstring(drawn)
    labels = [text for text in svg.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    font = ImageFont.load_default(17)  # of a phone
    assert all(font.getlength(label.text) <= float(label.get("x")) for label in labels)
    # What each label says, its line's height says too.
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    said = [float(n.replace(",", "")) * units.get(unit, 1) for n, _, unit in (x.text.partition(" ") for x in labels)]
    lines = [float(line.get("y1")) for line in svg.iter(f"{SVG}line") if line.get("class") == "grid"]
    [bar] = bars(svg, "likely_real")
    heights = [(lines[0] - line) / float(bar.get("height")) for line in lines]
    assert heights == pytest.approx([count / images for count in said], abs=1e-3)


def test_nothing_at_all_can_be_drawn():
    assert histogram([0, 1], {"calibration": [0]}, title="t", x_label="x").startswith("<svg")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.017, 0.73), (-0.4, 1.1), (0, 7), (0, 1e6), (1e-5, 3e-5)])
def test_ticks_are_round_and_within(low, high):
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)
    step = found[1] - found[0]
    assert f"{step:.0e}"[0] in "125"
