"""What is said of one row, computed another way."""

from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import photo
from outputs import failed_row, scored_row
from PIL import Image

from mdmf_ops.detector import Verdict
from mdmf_ops.detector.calibration import Stratum, verdict
from mdmf_ops.report.explain import (
    Explanation,
    calibration_chart,
    decimal,
    half_of_score,
    in_words,
    map_picture,
    score_at,
    to_json,
)

SCORES = np.sort(np.random.default_rng(3).gamma(2, 0.1, 199).astype(np.float32))


def explained(p_value=0.5, image=None, calibration=SCORES, **fields):
    return Explanation(scored_row("/in/a.jpg", p_value, **fields), image, calibration, "not_tried")


@pytest.mark.parametrize("alpha", [0.01, 0.07, 0.7])
def test_the_score_at_alpha_is_that_of_an_alpha_out_of_a_column_of_float32(alpha):
    scores = np.arange(499, dtype=np.float32)
    at_most = round(alpha * 500)  # so many of 500 p-values are at most alpha: 1/500, 2/500, ...
    assert score_at(scores, alpha) == score_at(scores, float(np.float32(alpha))) == 499 - at_most
    assert decimal(np.float32(alpha)) == alpha


@pytest.mark.parametrize("alpha", [0.005, 0.01, 0.05, 0.1, 0.5, 0.995])
def test_just_over_the_score_at_alpha_the_verdict_begins(alpha):
    calibration = Stratum("c", 0, SCORES)
    score = score_at(calibration.scores, alpha)
    over = np.nextafter(np.float32(score), np.float32(9))
    assert verdict(calibration.p_value(over), alpha) is Verdict.LIKELY_AI
    assert verdict(calibration.p_value(score), alpha) is not Verdict.LIKELY_AI


def test_an_alpha_out_of_the_calibrations_reach_has_no_score():
    assert score_at(SCORES, 0.004) is None
    assert score_at(SCORES, 1) is None


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ([1, 1, 1, 1], 2),
        ([4, 1, 1, 1, 1], 1),
        ([1, -1], None),
        ([-1, -2], None),
        ([2, -1], 1),
        ([1, 1, 1], 2),
        ([5], 1),
    ],
)
def test_half_of_the_score_comes_from_so_many_patches(evidence, expected):
    assert half_of_score(np.array(evidence, np.float32)) == expected


@pytest.mark.parametrize(
    ("p_value", "said", "not_said"),
    [
        (0.005, "likely AI", "nothing was found"),
        (0.05, "not unusual enough", "nothing"),
        (0.5, "does not make it authentic", "likely AI"),
    ],
)
def test_the_verdict_is_said_with_its_limits(p_value, said, not_said):
    words = in_words(explained(p_value))
    assert said in words[0] and not_said not in words[0]
    assert words[-1].startswith("A verdict is evidence, not an action")


def test_alpha_is_said_as_a_bound():
    assert "at most about one in 100 is called so in error" in in_words(explained(0.005))[0]


def test_the_count_of_real_images_that_score_as_high_is_the_calibrations():
    row = scored_row("/a", 0.5)
    row["p_value"] = 0.0045  # a row may say anything
    count = np.count_nonzero(np.float32(row["mmd2"]) <= SCORES)
    said = f"{count} of the 199 scores that stand for the real images which look most generated are as high as this one"
    assert said in in_words(Explanation(row, None, SCORES, "same"))[1]


def test_patches_are_told_with_their_share_of_the_image():
    text = " ".join(in_words(explained()))
    assert "24 patches of 32 px, 50% of the image" in text
    strongest = explained().strongest[0]
    assert f"({strongest.left_px}, {strongest.top_px}) {strongest.evidence:.2f}" in text


def test_what_the_file_declares_is_told_apart_from_the_verdict():
    assert "declared_source trainedAlgorithmicMedia" in " ".join(
        in_words(explained(declared_source="trainedAlgorithmicMedia"))
    )
    assert "The file says" not in " ".join(in_words(explained()))


def test_a_failed_row_is_explained_by_its_error():
    row = Explanation(failed_row("/a.jpg", "truncated", "fetch it again"), None, None, "not_tried")
    assert in_words(row) == ["not scored: truncated: fetch it again"]
    assert to_json(row)["error_code"] == "truncated"


def test_the_chart_holds_every_calibration_score_and_marks_the_image():
    svg = ElementTree.fromstring(calibration_chart(explained(0.005)))
    space = "{http://www.w3.org/2000/svg}"
    counts = [int(bar.find(f"{space}title").text.split(": ")[1].split()[0]) for bar in svg.iter(f"{space}rect")]
    assert sum(counts) == SCORES.size
    texts = [text.text for text in svg.iter(f"{space}text")]
    assert "this image: p 0.005" in texts and any("alpha 0.01" in text for text in texts)


@pytest.mark.parametrize("score", [-3, 50])
def test_an_image_far_from_all_others_is_still_in_the_chart(score):
    svg = ElementTree.fromstring(calibration_chart(explained(0.005, mmd2=score)))
    [line] = [line for line in svg.iter("{http://www.w3.org/2000/svg}line") if line.get("class") == "mark"]
    assert 0 < float(line.get("x1")) < 560


def test_the_picture_shows_the_image_beside_its_map():
    image = Image.fromarray(photo(1, 192, 256))
    both, alone = map_picture(explained(image=image)), map_picture(explained())
    assert both.width == 2 * 256 + 12 and alone.height == both.height
    assert (np.asarray(both)[:192, :256] == np.asarray(image)).all()


def test_tiles_without_evidence_are_framed_in_the_picture():
    bare = explained(mmd2=0.0, patch_evidence=np.zeros(24, np.float32))
    shown = np.asarray(map_picture(bare))[:192, (420 - 256) // 2 :][:, :256].astype(int)
    ground = shown[:96, 128:].reshape(-1, 3)
    assert (ground == ground[0]).all(), "nothing is drawn where no tile is"
    for edge in (shown[95, 4:128], shown[100:190, 255], shown[191, 130:250]):
        assert (edge != ground[0]).any(axis=-1).all()


def test_a_panorama_of_small_patches_has_a_map_too():
    # At 1,000 px, a patch of 14 px in the width of 30,000 that is read is half a pixel.
    assert map_picture(explained(patch_px=14, width_px=30_000, height_px=2_000)).width == 1000


def test_colours_of_two_images_compare_where_the_calibration_is_at_hand():
    low, high = explained(seed=1), explained(seed=2)
    assert low.full == high.full == 2 * score_at(SCORES, 0.01)
    assert explained(seed=1, calibration=None).full != explained(seed=2, calibration=None).full
    assert explained(calibration=SCORES - 9).full > 0


def test_numbers_for_a_script_are_plain():
    found = to_json(explained(0.005))
    assert found["patches"]["count"] == 24
    assert found["calibration_scores"] == 199
    assert [patch["evidence"] for patch in found["patches"]["strongest"]] == sorted(
        (patch["evidence"] for patch in found["patches"]["strongest"]), reverse=True
    )
