"""What `mdmf train` refuses before it embeds anything: names, settings and folders that cannot be meant.

And what it goes on from, when it was interrupted: its own checkpoint alone.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from conftest import encode, photo

import model_assets
from mdmf_ops.arguments.shared import add_image_arguments
from mdmf_ops.arguments.train import __doc__ as help_of_train
from mdmf_ops.cli import main
from mdmf_ops.commands import train
from mdmf_ops.commands.labelled import read_images
from mdmf_ops.detector.detector import BACKBONE_FILE, load_backbone
from mdmf_ops.training import features
from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.train import save_tensors


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with files that no command here gets to decode."""
    monkeypatch.chdir(tmp_path)
    for place in ("real/web", "real/phone", "fake/old", "fake/new", "other/web", "other/phone", "other/new"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "1.jpg").write_bytes(place.encode())
    return tmp_path


def refusal(capsys, *arguments):
    """The line that says why the command was refused."""
    assert main(list(arguments)) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


TRAIN = ("train", "--real", "real", "--fake", "fake", "--output", "detector")


@pytest.mark.parametrize("verb", [("train",), ("calibrate", "detector"), ("evaluate",)])
def test_a_source_of_both_classes_is_refused(folders, capsys, verb):
    arguments = [*verb, "--real", "real", "--fake", "other", *(("--output", "out") if len(verb) == 1 else ())]
    assert "phone, web: real and generated images under one source name; rename one" in refusal(capsys, *arguments)


@pytest.mark.parametrize("verb", [("train",), ("calibrate", "detector"), ("evaluate",)])
def test_a_source_named_as_a_row_of_the_tables_is_refused(folders, capsys, verb):
    (folders / "real/web").rename(folders / "real/all")
    (folders / "fake/old").rename(folders / "fake/mean")
    arguments = [*verb, "--real", "real", "--fake", "fake", *(("--output", "out") if len(verb) == 1 else ())]
    assert "all, mean: no name of a source" in refusal(capsys, *arguments)


@pytest.mark.parametrize("verb", [("train",), ("calibrate", "detector"), ("evaluate",)])
def test_a_source_whose_name_is_no_text_is_refused_and_named(folders, capsys, verb):
    (folders / "real/web").rename(folders / "real" / os.fsdecode(b"caf\xe9"))
    arguments = [*verb, "--real", "real", "--fake", "fake", *(("--output", "out") if len(verb) == 1 else ())]
    assert r"'caf\udce9': the name of a source is not UTF-8" in refusal(capsys, *arguments)


@pytest.mark.parametrize("option", ["--curves", "--splices"])
@pytest.mark.parametrize("count", ["-5", "1.5", "few", ""])
def test_a_number_of_images_that_is_none_is_refused(folders, capsys, option, count):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--real", "real", "--fake", "fake", "--output", "report", f"{option}={count}"])
    assert ended.value.code == 2
    assert f"argument {option}: {count!r} is no number of images" in capsys.readouterr().err
    assert not (folders / "report").exists()


def test_splices_that_cannot_be_made_are_refused_before_anything_is_measured(folders, capsys):
    line = refusal(capsys, "evaluate", "--real", "real", "--fake", "fake", "--output", "report", "--splices", "2")
    assert "splices need two real images that no training saw, and two of each generator" in line
    assert not (folders / "work").exists()


def test_a_calibrated_detector_is_not_trained_over(folders, capsys):
    shutil.copytree(model_assets.embedded(), folders / "detector")
    before = (folders / "detector/manifest.json").read_bytes()
    assert "detector: a calibrated detector lies there already; name another folder" in refusal(capsys, *TRAIN)
    assert (folders / "detector/manifest.json").read_bytes() == before
    assert not (folders / "work").exists()


def test_a_worker_that_is_killed_fails_in_a_line(folders, capsys, monkeypatch):
    monkeypatch.setattr(features, "decode", lambda _content: os.kill(os.getpid(), signal.SIGKILL))
    assert "a worker process was killed" in refusal(capsys, *TRAIN)


def test_a_source_to_leave_out_that_no_image_has_is_refused(folders, capsys):
    line = refusal(capsys, *TRAIN, "--leave_out", "old", "webb", "Phone")
    assert "--leave_out: no image is of Phone, webb; sources are new, old, phone, web" in line


@pytest.mark.parametrize("content", ["[1]", "3", '"mmd"', "null"])
def test_a_configuration_that_is_no_object_is_refused(folders, capsys, content):
    (folders / "config.json").write_text(content)
    assert "config.json: settings are an object of names and values, found" in refusal(
        capsys, *TRAIN, "--config", "config.json"
    )


def test_a_configuration_that_is_nested_beyond_reading_is_refused(folders, capsys):
    (folders / "config.json").write_text("[" * 100_000)
    assert "config.json: maximum recursion depth exceeded" in refusal(capsys, *TRAIN, "--config", "config.json")


def test_an_output_that_cannot_be_a_folder_is_refused_before_anything_is_computed(folders, capsys):
    (folders / "detector").write_bytes(b"")
    assert "detector" in refusal(capsys, *TRAIN)
    assert not (folders / "work").exists()


def test_the_examples_calibrate_on_all_images_of_the_training():
    commands = [shlex.split(line) for line in help_of_train.splitlines() if line.startswith("    mdmf ")]
    [trained] = [command for command in commands if command[1] == "train" and "--real" in command]
    [calibrated] = [command for command in commands if command[1] == "calibrate"]
    assert calibrated[3:] == trained[2:-2]


@pytest.fixture
def indexed(folders):
    """Two indexes of the folders, which name their images relative to themselves."""
    (folders / "index.csv").write_text("path,label,source\nreal/web/1.jpg,real,web\nfake/old/1.jpg,fake,old\n")
    (folders / "other/index.csv").write_text("path,label,source\nphone/1.jpg,real,phone\nnew/1.jpg,fake,new\n")
    return folders


INDEXED = ("train", "--output", "detector", "--index", "index.csv", "other/index.csv")


@pytest.mark.parametrize(
    "again",
    [
        ["--real", "real/web"],
        ["--fake", "real/../real/web"],
        ["--fake", "linked"],
    ],
)
def test_an_image_that_is_given_twice_is_refused_and_named(indexed, capsys, again):
    (indexed / "linked").mkdir()
    (indexed / "linked/2.jpg").symlink_to(indexed / "real/web/1.jpg")
    line = refusal(capsys, *INDEXED, *again)
    assert f"{(indexed / 'real/web/1.jpg').resolve()}: given more than once" in line


def test_one_picture_as_real_and_generated_is_refused_and_both_are_named(folders, capsys):
    shutil.copy(folders / "real/web/1.jpg", folders / "fake/new/copy.jpg")
    line = refusal(capsys, *TRAIN)
    assert "fake/new/copy.jpg: the very bytes of real/web/1.jpg, which has the other label" in line
    assert not (folders / "work").exists()


def test_pairs_that_could_be_of_no_image_are_refused(indexed, capsys):
    (indexed / "pairs.csv").write_text("path,real_path\nfake/old/2.jpg,real/web/1.jpg\n")
    assert "--pairs goes with --index" in refusal(capsys, *TRAIN, "--pairs", "pairs.csv")
    assert "pairs.csv: no path in it" in refusal(capsys, *INDEXED, "--pairs", "pairs.csv")


def test_pairs_are_of_the_images_of_every_index(indexed):
    pairs = [("new/1.jpg", "phone/1.jpg"), ("../fake/old/1.jpg", "../real/web/1.jpg")]
    (indexed / "other/pairs.csv").write_text("path,real_path\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    parser = argparse.ArgumentParser()
    add_image_arguments(parser)
    images = read_images(parser.parse_args([*INDEXED[3:], "--pairs", "other/pairs.csv"]))
    assert {image.path.resolve().relative_to(indexed.resolve()).as_posix(): image.twin_of for image in images} == {
        "real/web/1.jpg": None,
        "fake/old/1.jpg": Path("other/../real/web/1.jpg"),
        "other/phone/1.jpg": None,
        "other/new/1.jpg": Path("other/phone/1.jpg"),
    }


def test_leaving_out_the_only_source_of_a_class_is_refused_before_any_image_is_decoded(folders, capsys):
    evaluate = ("evaluate", "--leave_one_out", "--output", "report")
    line = refusal(capsys, *evaluate, "--real", "real", "--fake", "fake/old")
    assert "--leave_one_out: old is the only generator: none is left without it" in line
    line = refusal(capsys, *evaluate, "--real", "real/web", "--fake", "fake")
    assert "--leave_one_out: web is the only real source: none is left without it" in line
    assert not (folders / "work").exists()
    line = refusal(capsys, *evaluate, "--real", "real", "--fake", "fake")
    assert "1.jpg" in line  # of two, it goes on to decode


def test_a_report_that_cannot_be_a_folder_is_refused_before_anything_is_measured(folders, capsys):
    (folders / "report").write_bytes(b"")
    line = refusal(capsys, "evaluate", "--real", "real", "--fake", "fake", "--output", "report")
    assert "File exists: 'report'" in line
    assert not (folders / "work").exists()


MMD = {"method": "mmd", "copies": 1, "steps": 120, "batch_images": 4, "patches_per_image": 4, "hidden_dim": 8}
SMALL = MMD | {"batch_bank_patches": 16, "bank_size": 16}


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A folder with pictures, and a function that trains on them and returns the steps that it did.

    It trains until it has done all steps or is interrupted.
    """
    monkeypatch.chdir(tmp_path)
    for i, place in enumerate(("a", "b")):
        (tmp_path / place).mkdir()
        for k in range(8):
            (tmp_path / place / f"{k}.png").write_bytes(encode(photo(100 * i + k, 64, 64), "PNG"))
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    index(tmp_path, {"a": "real,web", "b": "fake,old"})

    def trained(*arguments, until=120):
        done = []

        @contextlib.contextmanager
        def interrupting_bar(what):
            def update(step, _total, _loss=None):
                done.append(step)
                if len(done) == until:
                    raise KeyboardInterrupt

            yield update if what == "training" else lambda *_: None

        monkeypatch.setattr(train, "progress_bar", interrupting_bar)
        command = ["train", "--index", "index.csv", "--config", "config.json", "--output", "detector", *arguments]
        main(command)
        return done

    return trained


def index(folder, labels):
    rows = [f"{place}/{k}.png,{label}\n" for place, label in labels.items() for k in range(8)]
    (folder / "index.csv").write_text("path,label,source\n" + "".join(rows))


def other_labels(folder):
    index(folder, {"a": "fake,old", "b": "real,web"})


def other_sources(folder):
    index(folder, {"a": "real,phone", "b": "fake,old"})


def other_settings(folder):
    (folder / "config.json").write_text(json.dumps(SMALL | {"dropout": 0.1}))


def other_picture(folder):
    """In place of one that is trained on another that is, too: which ones are is decided by their content."""
    spares = [folder / f"spare{k}.png" for k in range(20)]
    for k, spare in enumerate(spares):
        spare.write_bytes(encode(photo(900 + k, 64, 64), "PNG"))
    new, old = (
        next(path for path in paths if not LabelledImage(path, True, "old").held_out)
        for paths in (spares, sorted((folder / "b").iterdir()))
    )
    new.replace(old)


def other_extractor(folder):
    assets = model_assets.read_assets(model_assets.embedded())
    backbone = load_backbone(assets)
    (folder / "extractor").mkdir()
    tensors = {name: (tensor * 1.01).to(backbone.stored_dtype) for name, tensor in backbone.state_dict().items()}
    save_tensors(folder / "extractor" / BACKBONE_FILE, tensors)
    description = {"backbone": assets.manifest["backbone"]}
    model_assets.write_assets(folder / "extractor", "other", [BACKBONE_FILE], description)
    return ["--backbone_from", "extractor"]


@pytest.mark.parametrize("change", [other_labels, other_sources, other_settings, other_picture, other_extractor])
def test_a_training_goes_on_from_its_own_checkpoint_and_from_no_others(tmp_path, steps, change):
    assert steps(until=110) == list(range(1, 111))
    arguments = change(tmp_path) or []
    assert steps(*arguments, until=1) == [1]


def test_a_training_goes_on_wherever_its_pictures_lie(tmp_path, steps):
    assert steps(until=110) == list(range(1, 111))
    (tmp_path / "a").rename(tmp_path / "c")
    index(tmp_path, {"c": "real,web", "b": "fake,old"})
    assert steps() == list(range(101, 121))
    assert not list((tmp_path / "work").glob("*.pt"))


def test_a_training_that_diverges_fails_in_a_line(tmp_path, steps, capsys):
    (tmp_path / "config.json").write_text(json.dumps(SMALL | {"steps": 20, "learning_rate": 1e30}))
    assert len(steps()) == 20
    [line] = capsys.readouterr().err.splitlines()
    assert "signature.safetensors" in line
    assert "expected finite values" in line
