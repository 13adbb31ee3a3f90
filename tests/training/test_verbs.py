"""The recipe of a new detector on a tiny set: train, calibrate, evaluate, scan, by the commands themselves."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, encode, photo, tiny
from PIL import Image

from mdmf_ops.cli import main
from mdmf_ops.detector import Detector
from mdmf_ops.detector.calibration import Calibration
from mdmf_ops.training.curves import POINTS, CurvePoint
from mdmf_ops.training.evaluate import Results
from mdmf_ops.training.localise import CONTROL
from mdmf_ops.training.metrics import FlagRates, GeneratorResult
from mdmf_ops.training.report import write_model_card, write_report
from model_assets import read_assets, write_assets

CONFIG = {"copies": 1, "steps": 20, "batch_images": 8, "patches_per_image": 4, "bank_size": 64, "hidden_dim": 8}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A folder with labelled images and what the recipe's commands made of them."""
    root = tmp_path_factory.mktemp("recipe")
    kinds = {"real/web": 150, "real/phone": 150, "fake/old": 20, "fake/new": 12}
    for offset, (folder, count) in enumerate(kinds.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{i}.jpg").write_bytes(encode(photo(1000 * offset + i, 64, 96)))
    (root / "config.json").write_text(json.dumps(CONFIG))
    shared = ["--work", str(root / "work"), "--real", str(root / "real")]
    commands = [
        ["train", *shared, "--fake", str(root / "fake/old"), "--config", str(root / "config.json")],
        ["calibrate", str(root / "detector"), *shared, "--fake", str(root / "fake/old")],
        ["evaluate", *shared, "--fake", str(root / "fake/new"), "--assets", str(root / "detector")],
    ]
    commands[0] += ["--output", str(root / "detector")]
    commands[2] += ["--output", str(root / "report"), "--curves", "2", "--splices", "2"]
    for command in commands:
        assert main(command) == 0, command
    return root


def test_the_detector_scores_and_says_how_it_was_made(recipe):
    detector = Detector.load(recipe / "detector", device="cpu")
    assert detector.score([encode(photo(1))])[0].mmd2 is not None
    training = detector.assets.manifest["training"]
    assert training["config"] | CONFIG == training["config"]
    assert set(training["images"]["real"]) == {"web", "phone"}
    assert set(training["images"]["generated"]) == {"old"}


def test_every_real_image_is_calibrated_with_and_scored_by_a_detector_that_never_saw_its_source(recipe):
    manifest = read_assets(recipe / "detector").manifest
    assert manifest["calibration"]["sources"] == {"phone": 150, "web": 150}
    assert "never saw the image's source" in manifest["calibration"]["scored_by"]
    [stratum] = Detector.load(recipe / "detector", device="cpu").calibration.strata
    assert stratum.calibration_id == "sources-out-from0-n300"


def test_calibration_trains_on_no_source_that_the_detector_was_not_trained_on(recipe, tmp_path):
    shutil.copytree(recipe / "detector", tmp_path / "detector")
    command = ["calibrate", str(tmp_path / "detector"), "--work", str(recipe / "work"), "--real", str(recipe / "real")]
    assert main([*command, "--fake", str(recipe / "fake/old"), str(recipe / "fake/new")]) == 0
    with_more, without = (folder / "detector/calibration.json" for folder in (tmp_path, recipe))
    assert with_more.read_bytes() == without.read_bytes()


def test_calibration_needs_every_generator_of_the_training(recipe, capsys):
    command = ["calibrate", str(recipe / "detector"), "--work", str(recipe / "work"), "--real", str(recipe / "real")]
    assert main([*command, "--fake", str(recipe / "fake/new")]) == 2
    told = capsys.readouterr().err
    assert "old: the detector was trained on " in told and "would be on 0 of those given here" in told
    assert "--held_out" in told


def test_held_out_images_alone_can_calibrate_and_were_not_trained_on(recipe, tmp_path):
    shutil.copytree(recipe / "detector", tmp_path / "detector")
    command = ["calibrate", str(tmp_path / "detector"), "--work", str(recipe / "work"), "--held_out"]
    assert main([*command, "--real", str(recipe / "real")]) == 0
    manifest = read_assets(tmp_path / "detector").manifest
    trained, calibrated = manifest["training"]["images"]["real"], manifest["calibration"]["sources"]
    assert {name: trained[name] + calibrated[name] for name in trained} == {"phone": 150, "web": 150}


@pytest.mark.parametrize("with_card", [False, True])
def test_every_image_of_an_archive_that_was_never_trained_on_can_calibrate(recipe, tmp_path, capsys, with_card):
    shutil.copytree(recipe / "detector", tmp_path / "detector")
    (tmp_path / "detector/MODEL_CARD.md").unlink(missing_ok=True)
    if with_card:
        (tmp_path / "detector/MODEL_CARD.md").write_text("# Model card")
    (tmp_path / "archive").mkdir()
    for i in range(110):
        (tmp_path / "archive" / f"{i}.jpg").write_bytes(encode(photo(7000 + i, 64, 64)))
    command = ["calibrate", str(tmp_path / "detector"), "--work", str(tmp_path / "work"), "--held_out"]
    assert main([*command, "--real", str(tmp_path / "archive")]) == 0
    calibration = read_assets(tmp_path / "detector").manifest["calibration"]
    said = f"{tmp_path / 'detector/MODEL_CARD.md'} is of the detector as it was calibrated before"
    assert (said in capsys.readouterr().err) is with_card
    assert calibration["sources"] == {"archive": 110}
    assert calibration["scored_by"] == "the detector, on images it was not trained on"


def test_an_archive_of_a_name_that_was_trained_on_is_told_why_so_few_images_are_left(recipe, tmp_path, capsys):
    (tmp_path / "web").mkdir()
    for i in range(110):
        (tmp_path / "web" / f"{i}.png").write_bytes(tiny(i))
    left = 110 - trained_on((tmp_path / "web").iterdir())
    command = ["calibrate", str(recipe / "detector"), "--work", str(tmp_path / "work"), "--held_out"]
    assert main([*command, "--real", str(tmp_path / "web")]) == 2
    told = f"{left} real images of 110, since most of web count as trained on, by that name, are left: 100 at least"
    assert told in capsys.readouterr().err


def trained_on(paths):
    """How many of these files a training sees: 40 % are held out, by the first four bytes of their digests."""
    return sum(int(hashlib.sha256(path.read_bytes()).hexdigest()[:8], 16) >= 0.4 * 2**32 for path in paths)


@pytest.mark.parametrize("change", ["pairs", "half"])
def test_calibration_is_refused_on_other_images_than_those_of_the_training(recipe, tmp_path, capsys, change):
    images = {name: sorted((recipe / name).iterdir()) for name in ("real/web", "real/phone", "fake/old")}
    command = ["calibrate", str(recipe / "detector"), "--work", str(tmp_path), "--index", str(tmp_path / "index.csv")]
    if change == "pairs":
        # Each image of `old` is now held out where its original is.
        name, before, originals = "old", trained_on(images["fake/old"]), images["real/web"][:20]
        after = trained_on(originals)
        rows = [f"{path},{real}" for path, real in zip(images["fake/old"], originals, strict=True)]
        (tmp_path / "pairs.csv").write_text("\n".join(["path,real_path", *rows]))
        command += ["--pairs", str(tmp_path / "pairs.csv")]
    else:
        name, before, images["real/phone"] = "phone", trained_on(images["real/phone"]), images["real/phone"][::2]
        after = trained_on(images["real/phone"])
    assert before != after
    rows = [f"{path},{folder[:4]},{folder[5:]}" for folder, paths in images.items() for path in paths]
    (tmp_path / "index.csv").write_text("\n".join(["path,label,source", *rows]))
    assert main(command) == 2
    told = f"{name}: the detector was trained on {before} images of it, and would be on {after} of those given here"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("written", [b"", b"{}"])
def test_a_calibration_that_is_cut_off_as_it_writes_can_be_done_again(recipe, tmp_path, monkeypatch, written):
    folder = tmp_path / "detector"
    shutil.copytree(recipe / "detector", folder)
    command = ["calibrate", str(folder), "--work", str(recipe / "work"), "--held_out", "--real", str(recipe / "real")]

    def cut_off(_calibration, path):
        path.write_bytes(written)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Calibration, "save", cut_off)
        main(command)
    assert "calibration" not in read_assets(folder).manifest
    assert main(command) == 0
    assert Detector.load(folder, device="cpu").calibration.strata


def hand_made(folder, detector, **changes):
    """A copy of a detector whose manifest says other things, or with None nothing, of how it was made."""
    shutil.copytree(detector, folder)
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    files, name = list(manifest.pop("files")), manifest.pop("name")
    told = {key: manifest[key] for key in manifest.keys() - {"format", "detector_id"} if manifest[key] is not None}
    write_assets(folder, name, files, told)


@pytest.mark.parametrize("verb", ["calibrate", "evaluate"])
@pytest.mark.parametrize("training", [None, {}, 3, {"images": 3, "config": {}}, {"images": {}, "config": {}}])
def test_a_manifest_that_does_not_tell_of_the_training_is_refused_in_a_line(recipe, tmp_path, capsys, verb, training):
    hand_made(tmp_path / "detector", recipe / "detector", training=training)
    commands = {
        "calibrate": ["calibrate", str(tmp_path / "detector"), "--held_out"],
        "evaluate": ["evaluate", "--assets", str(tmp_path / "detector"), "--output", str(tmp_path / "report")],
    }
    images = ["--work", str(tmp_path / "work"), "--real", str(recipe / "real"), "--fake", str(recipe / "fake/new")]
    assert main([*commands[verb], *images]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "manifest.json: training " in line
    assert not (tmp_path / "work").exists()  # before any image is decoded


def test_leaving_a_source_out_needs_two(recipe, tmp_path, capsys):
    training = read_assets(recipe / "detector").manifest["training"]
    images = training["images"] | {"real": {"web": training["images"]["real"]["web"]}}
    hand_made(tmp_path / "detector", recipe / "detector", training=training | {"images": images})
    command = ["calibrate", str(tmp_path / "detector"), "--real", str(recipe / "real"), "--fake", str(recipe / "fake")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "trained on fewer than two" in told and "--held_out" in told


def test_a_manifest_that_does_not_tell_of_the_calibration_is_refused_before_it_is_measured(recipe, tmp_path, capsys):
    hand_made(tmp_path / "detector", recipe / "detector", calibration=None)
    command = ["evaluate", "--assets", str(tmp_path / "detector"), "--output", str(tmp_path / "report")]
    command += ["--work", str(tmp_path / "work"), "--real", str(recipe / "real"), "--fake", str(recipe / "fake/new")]
    assert main(command) == 2
    assert "manifest.json: calibration sources: not there" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_calibration_keeps_what_else_a_manifest_says_and_needs_no_date(recipe, tmp_path):
    hand_made(tmp_path / "detector", recipe / "detector", created=None, licence="ours")
    command = ["calibrate", str(tmp_path / "detector"), "--work", str(recipe / "work"), "--held_out"]
    assert main([*command, "--real", str(recipe / "real")]) == 0
    before, after = (read_assets(of / "detector").manifest for of in (recipe, tmp_path))
    assert after["licence"] == "ours"
    assert all(after[key] == before[key] for key in ("format", "name", "backbone", "signature", "bank", "training"))
    assert after["calibration"] != before["calibration"]


def test_names_of_any_script_are_written_whatever_the_locale(recipe, tmp_path):
    """A locale of ASCII would refuse them, after all was measured."""
    program = """
import sys
from pathlib import Path
from mdmf_ops.training.evaluate import Results
from mdmf_ops.training.metrics import FlagRates, GeneratorResult
from mdmf_ops.training.report import write_model_card, write_report
from model_assets import read_assets

name = chr(0x5199) + chr(0x771F)
results = Results(
    [GeneratorResult(name, 9, 0.5, 0.5, 0.0, 0.1)], [FlagRates(name, 9, 0.1, 0.2)], [FlagRates("web", 9, 0.0, 0.1)], []
)
assets = read_assets(sys.argv[1])
sys.modules["matplotlib"] = None
write_report(Path(sys.argv[1]), assets, results, left_out=True)
write_model_card(assets, results)
"""
    shutil.copytree(recipe / "detector", tmp_path / "detector")
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "detector")], env=environment, cwd=ROOT, check=True)
    for file in ("report.md", "metrics.csv", "MODEL_CARD.md"):
        assert "\u5199\u771f" in (tmp_path / "detector" / file).read_text("utf-8")


def test_the_report_has_a_row_for_each_source(recipe):
    report = (recipe / "report/report.md").read_text()
    assert read_assets(recipe / "detector").detector_id in report
    with open(recipe / "report/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["kind"], row["source"]) for row in rows}
    assert {pair for pair in found if pair[0] in ("generator", "real source", "p-values", "splice")} == {
        ("generator", "new"),
        ("real source", "web"),
        ("real source", "phone"),
        ("real source", "all"),
        *(("p-values", name) for name in ("web", "phone", "all")),
        *(("splice", name) for name in ("new", CONTROL)),
    }
    real = 300 - trained_on((recipe / "real").rglob("*.jpg"))
    assert f"among {real} real ones; TPR: " in report
    assert f"that is {real // 100} or {real // 20} of them" in report
    levels = {f"{name} {level:g}" for name, levels in POINTS.items() for level in levels}
    assert {source for kind, source in found if kind == "curve"} == {"none 0", *levels}
    assert all(0 <= float(row["value"]) <= 1 for row in rows)
    of_new = {row["metric"]: row["value"] for row in rows if row["source"] == "new" and row["kind"] == "generator"}
    cells = next(line for line in report.splitlines() if line.startswith("| new |")).strip("| ").split(" | ")
    assert [float(cell) for cell in cells[-2:]] == pytest.approx(
        [float(of_new[f"flagged at alpha {alpha} %"]) for alpha in (1, 5)], abs=5e-4
    )


def test_the_report_says_whose_flag_rates_say_little(recipe):
    assert "p-values were made of images of phone, web" in (recipe / "report/report.md").read_text()


def test_the_report_shows_its_plots(recipe):
    report = (recipe / "report/report.md").read_text()
    for name in ("roc", "p_values", "curves"):
        assert f"![{name}]({name}.png)" in report
        with Image.open(recipe / f"report/{name}.png") as plot:
            assert len(np.unique(np.asarray(plot.convert("L")))) > 10


def test_without_matplotlib_the_report_says_what_draws(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assets = read_assets(recipe / "detector")
    generators, found = [GeneratorResult("new", 9, 0.5, 0.5, 0.0, 0.1)], [FlagRates("new", 9, 0.1, 0.2)]
    results = Results(generators, found, [FlagRates("web", 9, 0.0, 0.1)], [])
    report = write_report(tmp_path, assets, results, left_out=False)
    assert "pip install 'mdmf-ops[evaluate]'" in report
    assert not list(tmp_path.glob("*.png"))


def test_a_source_of_any_name_keeps_to_its_cells(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    generators, found = [GeneratorResult("a|b", 9, 0.5, 0.5, 0.0, 0.1)], [FlagRates("a|b", 9, 0.1, 0.2)]
    results = Results(generators, found, [FlagRates("web\nphone", 9, 0.0, 0.1)], [])
    report = write_report(tmp_path, read_assets(recipe / "detector"), results, left_out=False)
    assert r"| a\|b | 9 | .500 |" in report
    assert "| web phone | 9 | .000" in report


def test_the_card_says_of_treated_images_what_was_measured_and_else_nothing(recipe, tmp_path):
    assets = read_assets(shutil.copytree(recipe / "detector", tmp_path / "detector"))
    generators, found = [GeneratorResult("new", 9, 0.5, 0.5, 0.0, 0.1)], [FlagRates("new", 9, 0.1, 0.2)]
    points = [CurvePoint("none", 0.0, 0.8, 0.4, 0.05), CurvePoint("resize", 0.5, 0.7, 0.3, 0.123)]
    cards = []
    for curves in ([], points):
        write_model_card(assets, Results(generators, found, [FlagRates("web", 9, 0.0, 0.1)], [], curves=curves))
        cards.append((tmp_path / "detector/MODEL_CARD.md").read_text())
    assert "Treated once more" not in cards[0]
    assert "| resize | 0.5 | .700 | .300 | .123 |" in cards[1]
    assert "held-out images alone" not in cards[1]  # all images of a generator that is left out count
    assert "against real images that no training saw" in cards[1]
    for card in cards:
        assert "docs/" not in card  # which are of another detector
        assert "are in none of them" not in card  # nobody looked


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (["--real", "real", "--fake", "fake/old"], "was trained on old"),
        (["--real", "real"], "both real and generated images are needed that no training saw"),
        (["--fake", "fake/new"], "both real and generated images are needed that no training saw"),
    ],
)
def test_images_that_measure_nothing_are_refused_before_any_is_decoded(
    recipe, tmp_path, capsys, monkeypatch, images, told
):
    monkeypatch.chdir(recipe)
    command = ["evaluate", "--work", str(tmp_path / "work"), *images, "--assets", "detector"]
    assert main([*command, "--output", str(tmp_path / "report")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_leaving_out_trains_without_it_and_the_card_says_so(recipe):
    command = ["evaluate", "--leave_one_out", "--card", "--work", str(recipe / "work"), "--real", str(recipe / "real")]
    command += ["--fake", str(recipe / "fake/old"), str(recipe / "fake/new"), "--assets", str(recipe / "detector")]
    assert main([*command, "--both_out", "--splices", "2", "--output", str(recipe / "left_out")]) == 0
    card = (recipe / "detector/MODEL_CARD.md").read_text()
    assert read_assets(recipe / "detector").detector_id in card
    for source in ("old", "new", "web", "phone"):
        assert f"| {source} |" in card
    assert read_assets(recipe / "detector").detector_id  # the card is no part of what is signed
    with open(recipe / "left_out/metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "both left out"]
    found = {(row["source"], row["metric"]) for row in rows}
    assert found == {(name, f"AUROC against {real}") for name in ("old", "new") for real in ("web", "phone")}
    assert "| mean |" in (recipe / "left_out/report.md").read_text().split("left out together")[1]


def test_what_is_about_left_out_sources_needs_them_left_out(recipe, capsys):
    command = ["evaluate", "--both_out", "--real", str(recipe / "real"), "--fake", str(recipe / "fake/new")]
    assert main([*command, "--output", str(recipe / "other")]) == 2
    assert "--both_out goes with --leave_one_out" in capsys.readouterr().err


def test_too_few_real_images_cannot_calibrate(recipe, tmp_path, capsys):
    (tmp_path / "few").mkdir()
    for i in range(20):
        (tmp_path / "few" / f"{i}.jpg").write_bytes(encode(photo(i, 64, 96)))
    assert main(["calibrate", str(recipe / "detector"), "--work", str(tmp_path), "--real", str(tmp_path / "few")]) == 2
    assert "100 at least" in capsys.readouterr().err
