"""What `mdmf train` refuses before it embeds anything: names, settings and folders that cannot be meant."""

import pytest

from mdmf_ops.cli import main


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


def test_a_source_to_leave_out_that_no_image_has_is_refused(folders, capsys):
    line = refusal(capsys, *TRAIN, "--leave_out", "old", "webb", "Phone")
    assert "--leave_out: no image is of Phone, webb; sources are new, old, phone, web" in line


@pytest.mark.parametrize("content", ["[1]", "3", '"mmd"', "null"])
def test_a_configuration_that_is_no_object_is_refused(folders, capsys, content):
    (folders / "config.json").write_text(content)
    assert "config.json: settings are an object of names and values, found" in refusal(
        capsys, *TRAIN, "--config", "config.json"
    )


def test_an_output_that_cannot_be_a_folder_is_refused_before_anything_is_computed(folders, capsys):
    (folders / "detector").write_bytes(b"")
    assert "detector" in refusal(capsys, *TRAIN)
    assert not (folders / "work").exists()
