"""The page as a file: whole, closed to strangers' text and to the network."""

import base64
import hashlib
import json
import re
import tarfile
from html.parser import HTMLParser
from pathlib import Path

import pytest
from clean import build_sdist
from conftest import ROOT
from outputs import failed_row, scored_row

from mdmf_ops.report.page import Report, make_page, row_key, summary
from mdmf_ops.report.tally import Tally

HOSTILE = "/in/</script><script>alert(1)</script><img src=x onerror=alert(2)>&lt;'\"`.jpg"
MANIFEST = {
    **{"run_id": "r1", "started_at": "2026-01-02T08:00:00+00:00", "finished_at": "2026-01-02T08:01:00+00:00"},
    **{"inputs": 3, "skipped": 0, "counts": {"status": {"scored": 2, "failed": 1}}},
    "options": {"input": [HOSTILE], "alpha": 0.01, "sample": None},
}


class Elements(HTMLParser):
    """Every tag with its attributes, and the texts of scripts and styles."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self._inside = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs)) if tag in ("script", "style", "title") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.texts.append((*self._inside, data))

    def attributes(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def report_of(rows, output="/out", thumbnails=None, gallery=10):
    tally = Tally(100, gallery)
    for row in rows:
        tally.add(row)
    full = {row_key(row): row for row in rows if row["status"] == "scored"}
    return Report(output, [MANIFEST], tally, full, thumbnails)


@pytest.fixture(scope="module")
def page():
    rows = [
        scored_row(HOSTILE, 0.005, seed=1, declared_source=HOSTILE, attributes=[(HOSTILE, HOSTILE)]),
        scored_row("/in/b.jpg", 0.5, seed=2),
        failed_row(HOSTILE, message=HOSTILE),
    ]
    return make_page(report_of(rows, output=HOSTILE))


def data_of(page):
    [text] = [text for tag, attrs, text in Elements(page).texts if attrs.get("type") == "application/json"]
    return json.loads(text)


def test_strangers_text_is_data_and_never_markup(page):
    elements = Elements(page)
    assert len(elements.attributes("script")) == 2
    assert not elements.attributes("img")
    assert [text for tag, _attrs, text in elements.texts if tag == "title" and "Report of" in text] == [
        f"Report of {HOSTILE}"
    ]
    data = data_of(page)
    assert data["output"] == HOSTILE
    assert data["gallery"]["cards"][0]["uri"] == HOSTILE
    assert data["gallery"]["cards"][0]["declared"] == {"declared_source": HOSTILE}
    assert data["errors"][0]["examples"] == [{"uri": HOSTILE, "message": HOSTILE}]
    assert HOSTILE in data["runs"][0]["options"]


def test_the_policy_admits_the_pages_own_script_and_style_and_nothing_else(page):
    elements = Elements(page)
    [policy] = [a["content"] for a in elements.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        [text] = [text for name, attrs, text in elements.texts if name == tag and "type" not in attrs]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[kind] == f"'sha256-{digest}'"


def test_the_page_names_no_other_place(page):
    elements = Elements(page)
    for _tag, attributes in elements.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "style", "action")}
        assert attributes.get("href", "#").startswith("#")
    script = "".join(text for tag, attrs, text in elements.texts if tag in ("script", "style") and "type" not in attrs)
    assert not re.search(
        r"https?:|//[a-z]|innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|DOMParser|document\.write"
        r"|eval\(|@import|url\(",
        script,
    )


def test_the_list_gives_every_row_back(page):
    found = data_of(page)["list"]
    words = {name: [column["words"][p] if p >= 0 else None for p in column["places"]] for name, column in found.items()
             if isinstance(column, dict) and "places" in column}  # fmt: skip
    assert found["uri"] == [HOSTILE, "/in/b.jpg", HOSTILE]
    assert words["outcome"] == ["likely_ai", "likely_real", "failed"]
    assert words["error"] == [None, None, "corrupt"]
    assert words["declared_source"] == [HOSTILE, None, None]
    assert found["card"] == [0, 1, -1]
    assert found["message"] == {"2": HOSTILE}


def test_a_small_output_is_one_gallery_and_a_large_one_three():
    rows = [scored_row(f"/a/{i}.jpg", 0.01 * (i + 1), seed=i) for i in range(12)]
    small, large = (data_of(make_page(report_of(rows, gallery=n)))["gallery"] for n in (12, 4))
    assert [section["name"] for section in small["sections"]] == ["Every image"]
    assert [section["name"] for section in large["sections"]] == ["Strongest", "Uncertain", "Random"]
    assert [large["cards"][i]["uri"] for i in large["sections"][0]["cards"]] == [f"/a/{i}.jpg" for i in range(4)]


@pytest.mark.parametrize("evidence", [[0.5], [0.5] * 23 + [float("nan")]])
def test_a_damaged_map_costs_no_other_image_its_own(evidence):
    rows = [scored_row("/a.jpg", 0.5, patch_evidence=evidence), scored_row("/b.jpg", 0.6, seed=2)]
    damaged, whole = data_of(make_page(report_of(rows)))["gallery"]["cards"]
    assert (damaged["tiles"], damaged["strongest"]) == ([], [])
    assert len(whole["tiles"]) == 2


def test_an_output_in_which_nothing_was_scored_has_a_page():
    data = data_of(make_page(report_of([failed_row("/a.jpg")])))
    assert (data["images"], data["scored"], data["failed"]) == (1, 0, 1)
    assert data["gallery"]["cards"] == []
    data_of(make_page(report_of([])))


def test_only_a_data_uri_is_shown_as_a_thumbnail():
    row = scored_row("/a.jpg", 0.5)
    for found, expected in (("data:image/jpeg;base64,AA", ("data:image/jpeg;base64,AA", "")), ("gone", ("", "gone"))):
        [card] = data_of(make_page(report_of([row], thumbnails={row_key(row): found})))["gallery"]["cards"]
        assert (card["thumbnail"], card["no_thumbnail"]) == expected


def test_the_figures_are_json_as_they_stand():
    figures = summary(report_of([scored_row("/a.jpg", 0.005), failed_row("/b.jpg")]))
    assert json.loads(json.dumps(figures))["likely_ai"] == 1
    assert {stratum["kind"] for stratum in figures["strata"]} == {"all", "format", "JPEG quality", "size", "source"}


def test_the_pages_files_travel_with_the_package(tmp_path):
    with tarfile.open(build_sdist(tmp_path)) as sdist:
        packed = {Path(name).name for name in sdist.getnames() if "/mdmf_ops/report/" in name}
    assert packed >= {path.name for path in (ROOT / "mdmf_ops" / "report").iterdir() if path.is_file()}
