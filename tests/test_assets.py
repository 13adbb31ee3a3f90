"""A detector's folder: every damage stops the load and names the file."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
import safetensors.torch
import torch

import model_assets
from mdmf_ops.cli import main
from mdmf_ops.detector import Detector
from mdmf_ops.detector.bank import Bank
from model_assets import AssetError, read_assets, write_assets


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(model_assets.embedded(), tmp_path / "micro")


def rewrite(folder, file, change):
    """Changes the tensors of a file and signs the folder anew, as a forger would."""
    tensors = safetensors.torch.load_file(folder / file)
    change(tensors)
    safetensors.torch.save_file(tensors, folder / file)
    resign(folder)


def resign(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    files = list(manifest.pop("files"))
    for key in ("format", "detector_id"):
        manifest.pop(key)
    write_assets(folder, manifest.pop("name"), files, manifest)


def test_embedded_detector_is_small_and_whole():
    assets = read_assets(model_assets.embedded())
    assert sum(path.stat().st_size for path in assets.folder.iterdir()) < 8_000_000
    assert (assets.folder / "MODEL_CARD.md").is_file()
    assert Detector.load().assets.detector_id == assets.detector_id


def test_id_depends_on_every_file_and_on_the_manifest(folder):
    ids = {read_assets(folder).detector_id}
    rewrite(folder, "bank.safetensors", lambda tensors: tensors["signatures"].neg_())
    ids.add(read_assets(folder).detector_id)
    resign(folder, created="another day")
    ids.add(read_assets(folder).detector_id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    "file", ["backbone.safetensors", "signature.safetensors", "bank.safetensors", "calibration.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "swap"])
def test_damaged_file_is_named_with_expected_and_found(folder, file, damage):
    path = folder / file
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes((folder / "manifest.json").read_bytes())
    with pytest.raises(AssetError, match=rf"{file}: (expected .*found|missing)"):
        Detector.load(folder)


def test_edited_manifest_is_noticed(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"micro"', '"macro"', 1))
    with pytest.raises(AssetError, match=r"manifest\.json: expected detector_id"):
        Detector.load(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b", ".", "..", ""])
def test_file_outside_the_folder_is_refused(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    manifest["detector_id"] = model_assets._detector_id(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AssetError, match="plain file names"):
        read_assets(folder)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"format": 99}', b"\x80\x04pickle", b'{"format": 1}', b"[" * 99_999]
)
def test_other_manifests_are_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(AssetError, match=r"manifest\.json"):
        read_assets(folder)


def test_a_manifest_that_is_a_pipe_is_not_waited_for(folder):
    path = folder / "manifest.json"
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    try:
        with pytest.raises(AssetError, match=r"manifest\.json: expected a file"):
            read_assets(folder)
    finally:
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer.join()
        os.close(reader)


def test_no_folder_is_told(tmp_path):
    with pytest.raises(AssetError, match="nowhere: no readable"):
        read_assets(tmp_path / "nowhere")


def test_signed_but_unfit_tensors_are_refused(folder):
    def poison(tensors):
        tensors["signatures"][0, 0] = torch.nan

    rewrite(folder, "bank.safetensors", poison)
    with pytest.raises(AssetError, match=r"bank\.safetensors: signatures: expected finite"):
        Detector.load(folder)


def test_signed_but_misshapen_tensors_are_refused(folder):
    def halve(tensors):
        tensors["signatures"] = tensors["signatures"][::2].contiguous()

    rewrite(folder, "bank.safetensors", halve)
    with pytest.raises(AssetError, match=r"bank\.safetensors: signatures: expected shape"):
        Detector.load(folder)


@pytest.mark.parametrize("file", ["backbone.safetensors", "signature.safetensors", "bank.safetensors"])
@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (lambda tensor: tensor.double(), "expected shape and dtype"),
        (lambda tensor: tensor.flatten()[:-1].clone(), "expected shape and dtype"),
        (lambda tensor: torch.full_like(tensor, torch.nan), "expected finite"),
        (lambda tensor: torch.full_like(tensor, -torch.inf), "expected finite"),
    ],
)
def test_signed_tensors_of_another_shape_or_type_or_not_finite_are_refused(folder, file, forge, message):
    def forge_one(tensors):
        name = max(tensors, key=lambda name: tensors[name].numel())
        tensors[name] = forge(tensors[name])

    rewrite(folder, file, forge_one)
    with pytest.raises(AssetError, match=rf"{file}: .*{message}"):
        Detector.load(folder)


def test_signed_tensors_under_other_names_are_refused(folder):
    rewrite(folder, "bank.safetensors", lambda tensors: tensors.update(more=torch.zeros(1)))
    with pytest.raises(AssetError, match=r"bank\.safetensors: expected \d+ tensors, found"):
        Detector.load(folder)


@pytest.mark.parametrize("part", ["backbone", "signature", "bank"])
@pytest.mark.parametrize(
    "description", [None, 7, [], {}, {"views": "a"}, {"views": -1, "size": 1, "signature_dim": 1}, {"unknown": 1}]
)
def test_a_description_in_the_manifest_that_is_none_is_refused(folder, part, description):
    resign(folder, **{part: description})
    with pytest.raises(AssetError, match=rf"manifest\.json: {part}"):
        Detector.load(folder)


def test_a_bank_that_claims_to_be_enormous_takes_no_memory(folder):
    bank = json.loads((folder / "manifest.json").read_text())["bank"]
    resign(folder, bank=bank | {"size": 10**12})
    with pytest.raises(AssetError, match=r"bank\.safetensors: signatures: expected shape"):
        Detector.load(folder)
    signature = json.loads((folder / "manifest.json").read_text())["signature"]
    resign(folder, signature=signature | {"hidden_dim": 10**10})
    with pytest.raises(AssetError, match=r"signature\.safetensors: expected 15 tensors, found 9: first\.0\.bias"):
        Detector.load(folder)


@pytest.mark.parametrize("dropout", [5, "x", None])
def test_a_dropout_that_is_no_share_is_refused(folder, dropout):
    signature = json.loads((folder / "manifest.json").read_text())["signature"]
    resign(folder, signature=signature | {"dropout": dropout})
    with pytest.raises(AssetError, match=r"manifest\.json: signature: "):
        Detector.load(folder)


def test_a_signature_of_more_views_than_any_extractor_has_takes_no_time(folder):
    signature = json.loads((folder / "manifest.json").read_text())["signature"]
    resign(folder, signature=signature | {"views": [[0, 1]] * 20_000})
    with pytest.raises(AssetError, match=r"manifest\.json: signature: .*20000 views, expected at most 64"):
        Detector.load(folder)


OTHER_BANKS = {
    "one view less": lambda views, size, dim: (views - 1, size, dim),
    "one view more": lambda views, size, dim: (views + 1, size, dim),
    "one number more": lambda views, size, dim: (views, size, dim + 1),
    "empty": lambda views, size, dim: (views, 0, dim),
}


@pytest.mark.parametrize("what", OTHER_BANKS)
def test_a_whole_bank_that_does_not_fit_the_signature_is_refused(folder, what):
    bank = json.loads((folder / "manifest.json").read_text())["bank"]
    shape = OTHER_BANKS[what](bank["views"], bank["size"], bank["signature_dim"])
    described = bank | dict(zip(("views", "size", "signature_dim"), shape, strict=True))
    tensors = Bank.template(**described)
    safetensors.torch.save_file({name: torch.ones_like(t) for name, t in tensors.items()}, folder / "bank.safetensors")
    resign(folder, bank=described)
    with pytest.raises(AssetError, match=r"expected a bank of one signature or more, of .* found"):
        Detector.load(folder)
    assert main(["assets", "verify", str(folder)]) == 1


@pytest.mark.parametrize("name", ["", "a/b", "a\nb", "..", 7, None])
def test_a_detectors_name_is_plain(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text()) | {"name": name}
    manifest["detector_id"] = model_assets._detector_id(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AssetError, match=r"manifest\.json: expected .* plain name"):
        read_assets(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b'{"strata": [{"calibration_id": "a", "min_patches": 0, "scores": [NaN]}]}',
        b'{"strata": [{"calibration_id": 7, "min_patches": 0, "scores": [1]}]}',
        b"[" * 4000 + b"]" * 4000,
        b"\x80\x04.",
    ],
    ids=lambda content: content[:50],
)
def test_a_signed_calibration_that_is_none_is_refused(folder, content):
    (folder / "calibration.json").write_bytes(content)
    resign(folder)
    with pytest.raises(AssetError, match=r"calibration\.json: not a calibration"):
        Detector.load(folder)


def test_every_single_byte_counts(folder):
    rng = np.random.default_rng(5)
    for file in ("bank.safetensors", "signature.safetensors", "backbone.safetensors", "calibration.json"):
        path = folder / file
        content = path.read_bytes()
        for position in (0, 8, len(content) - 1, *rng.integers(0, len(content), 5)):
            path.write_bytes(content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :])
            with pytest.raises(AssetError, match=rf"{file}: expected .*found"):
                read_assets(folder)
        path.write_bytes(content)


def test_an_older_manifest_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text()) | {"format": 0}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AssetError, match=r"manifest\.json: expected manifest format 1, found 0"):
        Detector.load(folder)


def test_pickle_offered_as_weights_is_refused(folder):
    torch.save({"signatures": torch.zeros(3)}, folder / "bank.safetensors")
    resign(folder)
    with pytest.raises(AssetError, match=r"bank\.safetensors: not a safetensors file"):
        Detector.load(folder)


def test_uncalibrated_detector_says_what_to_run(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    files = [file for file in manifest.pop("files") if file != "calibration.json"]
    del manifest["format"], manifest["detector_id"]
    write_assets(folder, manifest.pop("name"), files, manifest)
    with pytest.raises(AssetError, match="mdmf calibrate"):
        Detector.load(folder)


def test_verify_goes_on_behind_a_folder_that_cannot_be_read(folder, capsys):
    weights = folder / "backbone.safetensors"
    weights.unlink()
    weights.symlink_to("/proc/self/mem")  # a file whose first bytes nobody may read, root neither
    assert main(["assets", "verify", "--json", str(folder), str(model_assets.embedded())]) == 1
    told = capsys.readouterr()
    broken, whole = json.loads(told.out)
    assert broken["error"] == f"{folder}: [Errno 5] Input/output error" and broken["error"] in told.err
    assert (broken["detector_id"], whole["error"]) == (None, None)


def test_verify_names_what_is_damaged(folder, tmp_path, capsys):
    assert main(["assets", "verify", str(folder)]) == 0
    assert "a detector: 4 files are whole" in capsys.readouterr().out
    path = folder / "backbone.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["assets", "verify", str(folder), str(tmp_path / "nowhere")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "backbone.safetensors: expected" in errors[0]
    assert "nowhere: no readable manifest.json" in errors[1]


def test_list_names_the_embedded_detector_and_what_can_be_fetched(capsys):
    assert main(["assets", "list"]) == 0
    listed = capsys.readouterr().out
    assert Detector.load().assets.detector_id in listed
    for size in ("small", "base", "large", "giant"):
        assert f"facebook/dinov2-{size}\n" in listed


def test_alpha_beyond_the_calibration_is_refused():
    with pytest.raises(ValueError, match="alpha=1e-09"):
        Detector.load(alpha=1e-9)
