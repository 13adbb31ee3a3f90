"""`mdmf assets`: a checkpoint from a folder, a bucket or the hub, checked; and the commands that run on it."""

import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import encode, photo

from mdmf_ops.cli import main
from mdmf_ops.detector import Detector
from mdmf_ops.detector.detector import load_backbone
from model_assets import AssetError, read_assets

pytest.importorskip("transformers", reason="the dinov2 extra is not installed: pip install -e '.[test]', Python 3.11+")

from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 70}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def save_checkpoint(folder: Path, **changes) -> Dinov2Model:
    """Writes a tiny random checkpoint as the hub's are written, and returns its model."""
    torch.manual_seed(3)
    model = Dinov2Model(Dinov2Config(**(SIZES | changes))).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["mlp", "swiglu"])
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    return folder, save_checkpoint(folder, use_swiglu_ffn=request.param)


@pytest.fixture
def mlp_checkpoint(tmp_path):
    save_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def fetch(source, output, *arguments) -> int:
    return main(["assets", "fetch", str(source), "--output", str(output), *map(str, arguments)])


def rewrite(checkpoint, change):
    tensors = safetensors.torch.load_file(checkpoint / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, checkpoint / "model.safetensors")


@contextlib.contextmanager
def hub(files: dict[str, bytes], digests: dict[str, str]):
    """A stand-in for the model hub on this machine, since the hub itself cannot be reached from every machine.

    Yields its address and the list of paths that it was asked for.

    Args:
        files: by path.
        digests: the SHA-256 that it says of a path; else it says the true one.
    """
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            if content is not None:
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{digests.get(self.path) or hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


FETCH = """
import sys
from mdmf_ops.cli import main
output, commit, *ids = sys.argv[1:]
for hub_id in ids:
    print("status", main(["assets", "fetch", hub_id, "--revision", commit, "--output", f"{output}/{hub_id}"]))
"""


def fetch_from_hub(tmp_path, endpoint: str, *ids: str, **environment) -> tuple[list[int], list[str]]:
    """Runs the commands in a process of their own: the hub's client reads its address when it is imported.

    Returns their statuses and their lines on stderr; their outputs are in the folder `out`, by the ids.
    """
    done = subprocess.run(
        [sys.executable, "-c", FETCH, str(tmp_path / "out"), COMMIT, *ids],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache")} | environment,
    )
    assert done.returncode == 0, done.stderr
    return [int(status) for status in re.findall(r"^status (\d)$", done.stdout, re.M)], done.stderr.splitlines()


@torch.inference_mode()
def test_a_folder_becomes_an_extractor_with_the_checkpoints_values(checkpoint, tmp_path, capsys):
    folder, model = checkpoint
    assert fetch(folder, tmp_path / "out", "--tile_px", 98) == 0
    assert "next: mdmf train --backbone_from" in capsys.readouterr().out
    assets = read_assets(tmp_path / "out")
    description = assets.manifest["backbone"]
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert description["source"] == {"uri": str(folder), "revision": None, "weights_sha256": digest}
    assert description["name"] == "dinov2"
    assert description["options"]["use_swiglu_ffn"] is model.config.use_swiglu_ffn
    backbone = load_backbone(assets)
    assert backbone.geometry.max_tile_px == 98
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 56, 70), dtype=np.uint8))
    expected = model(pixel_values=backbone.normalise(tiles)).last_hidden_state[:, 1:].reshape(1, 4, 5, 24)
    torch.testing.assert_close(backbone(tiles), expected, atol=0, rtol=0)
    assert set(assets.folder.iterdir()) == {assets.folder / "manifest.json", assets.folder / "backbone.safetensors"}


def test_half_precision_becomes_float32(mlp_checkpoint, tmp_path):
    rewrite(mlp_checkpoint, lambda tensors: tensors.update({name: tensors[name].half() for name in tensors}))
    assert fetch(mlp_checkpoint, tmp_path / "out") == 0
    state = load_backbone(read_assets(tmp_path / "out")).state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_an_extractor_trains_calibrates_evaluates_and_scores(mlp_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups = [("real", "web", 270), ("fake", "old", 40), ("test_real", "phone", 12), ("test_fake", "new", 12)]
    for number, (label, source, count) in enumerate(groups):
        folder = tmp_path / label / source
        folder.mkdir(parents=True)
        for i in range(count):
            pixels = photo(1000 * number + i, 64, 64)
            (folder / f"{i}.png").write_bytes(encode(pixels // 2 if "fake" in label else pixels, "PNG"))
    config = {"copies": 1, "steps": 11, "batch_images": 8, "batch_bank_patches": 64, "bank_size": 64, "hidden_dim": 8}
    Path("config.json").write_text(json.dumps(config))
    assert fetch(mlp_checkpoint, "extractor", "--tile_px", 56) == 0
    assert main(["assets", "verify", "extractor"]) == 0
    assert "an extractor, not trained yet" in capsys.readouterr().out
    with pytest.raises(AssetError, match="mdmf train --backbone_from extractor"):
        Detector.load("extractor")

    images = ["--real", "real", "--fake", "fake", "--work", "work"]
    train = ["train", "--backbone_from", "extractor", "--config", "config.json", "--output", "detector", *images]
    assert main(train) == 0
    assert main(["assets", "verify", "detector"]) == 0
    assert "a detector, not calibrated yet" in capsys.readouterr().out
    assert main(["calibrate", "detector", *images, "--held_out"]) == 0  # one real source: none can be left out
    evaluate = ["evaluate", "--assets", "detector", "--output", "report", "--real", "test_real", "--fake", "test_fake"]
    assert main([*evaluate, "--work", "work"]) == 0
    assert "| new | 12 |" in Path("report/report.md").read_text()
    assert main(["assets", "verify", "detector", "extractor"]) == 0
    assert "a detector: 4 files are whole" in capsys.readouterr().out

    extractor, detector = read_assets("extractor"), Detector.load("detector", device="cpu")
    assert detector.assets.manifest["backbone"] == extractor.manifest["backbone"]
    assert detector.assets.sha256("backbone.safetensors") == extractor.sha256("backbone.safetensors")
    [score] = detector.score([Path("real/web/0.png").read_bytes()])
    assert score.plan.patch_px == 14
    assert score.evidence.size == 4 * 2 * 2  # 64 px: two tiles each way, of two whole patches each way


def test_register_tokens_are_refused(tmp_path, capsys):
    Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, num_register_tokens=4)).save_pretrained(
        tmp_path / "checkpoint"
    )
    assert fetch(tmp_path / "checkpoint", tmp_path / "out") == 2
    assert "config.json: a DINOv2 with register tokens: only those without are read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layernorm.bias"), "1 missing tensors, the first layernorm.bias"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "1 unexpected tensors, the first more"),
        (lambda tensors: tensors.update({"layernorm.bias": torch.zeros(5)}), "1 mismatched tensors"),
        (lambda tensors: tensors["layernorm.bias"][0].fill_(torch.nan), "layernorm.bias: expected finite values"),
    ],
    ids=["missing", "unexpected", "mismatched", "nan"],
)
def test_weights_that_do_not_fit_are_refused(mlp_checkpoint, tmp_path, capsys, change, message):
    rewrite(mlp_checkpoint, change)
    assert fetch(mlp_checkpoint, tmp_path / "out") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "config.json: "),
        (b"[1]", "expected a JSON object"),
        (b"[" * 100_000, "config.json: "),
        (b"{}", "model_type: expected 'dinov2', found None"),
        (b" " * (1 << 21), "expected at most 1048576 bytes"),
        ({"hidden_size": 10**9}, "hidden_size: expected 8 to 4096"),
        ({"patch_size": 16}, "patch_size: expected 14"),
        ({"image_size": [70, 70]}, "image_size: expected int"),
        ({"hidden_act": "relu"}, "hidden_act: expected 'gelu'"),
        ({"num_register_tokens": 4}, "register tokens"),
        ({"model_type": "vit"}, "model_type: expected 'dinov2', found 'vit'"),
    ],
)
def test_a_configuration_of_something_else_is_refused(mlp_checkpoint, tmp_path, capsys, content, message):
    path = mlp_checkpoint / "config.json"
    if isinstance(content, dict):
        content = json.dumps(json.loads(path.read_text()) | content).encode()
    path.write_bytes(content)
    assert fetch(mlp_checkpoint, tmp_path / "out") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_never_read(mlp_checkpoint, tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (mlp_checkpoint / "model.safetensors").unlink()
    torch.save(Trap(), mlp_checkpoint / "pytorch_model.bin")
    assert fetch(mlp_checkpoint, tmp_path / "out") == 2
    assert "no model.safetensors in it" in capsys.readouterr().err
    shutil.move(mlp_checkpoint / "pytorch_model.bin", mlp_checkpoint / "model.safetensors")
    assert fetch(mlp_checkpoint, tmp_path / "out") == 2
    assert "model.safetensors: not a safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()


def test_a_folder_with_a_detector_is_not_overwritten(mlp_checkpoint, tmp_path, capsys):
    assert fetch(mlp_checkpoint, tmp_path / "out") == 0
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    assert fetch(mlp_checkpoint, tmp_path / "out") == 2
    assert "a detector lies there already" in capsys.readouterr().err
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("dinov2-large", None, "facebook/dinov2-large: expected --revision with a commit of 40 hex digits"),
        ("someone/model", "main", "found 'main'"),
        ("no-such-folder", COMMIT, "no such folder, and neither a URI nor a hub id"),
        ("../up/and/away", COMMIT, "no such folder, and neither a URI nor a hub id"),
        ("gs://bucket/folder", COMMIT, "a revision goes with a hub id"),
        (".", COMMIT, "a revision goes with a hub id"),
        ("nofs://bucket/folder", None, "nofs://bucket/folder/config.json: cannot be read"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_a_line(tmp_path, capsys, source, revision, message):
    assert fetch(source, tmp_path / "out", *(["--revision", revision] if revision else [])) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_hub_that_cannot_be_reached_is_told_in_a_line(tmp_path):
    # Offline by choice: the client's own retries of an address where nobody answers take half a minute.
    statuses, [line] = fetch_from_hub(tmp_path, "http://127.0.0.1:9", "dinov2-small", HF_HUB_OFFLINE="1")
    assert statuses == [2]
    assert f"facebook/dinov2-small: cannot be fetched from the hub at {COMMIT}: " in line
    assert not (tmp_path / "out").exists()


def test_the_hub_is_asked_for_two_files_at_the_pinned_commit_and_what_is_amiss_there_is_told(mlp_checkpoint, tmp_path):
    """The weights of some/two are not what the hub says, and it has no some/three."""
    contents = {name: (mlp_checkpoint / name).read_bytes() for name in ("config.json", "model.safetensors")}
    files = {f"/some/{i}/resolve/{COMMIT}/{name}": contents[name] for i in ("one", "two") for name in contents}
    with hub(files, {path: "ab" * 32 for path in files if path.startswith("/some/two/")}) as (endpoint, asked):
        statuses, errors = fetch_from_hub(tmp_path, endpoint, "some/one", "some/two", "some/three")
    assert statuses == [0, 2, 2], errors
    assert {path for path in asked if not path.startswith(("/api/", "/some/three/"))} == set(files)
    source = read_assets(tmp_path / "out/some/one").manifest["backbone"]["source"]
    digest = hashlib.sha256(contents["model.safetensors"]).hexdigest()
    assert source == {"uri": "some/one", "revision": COMMIT, "weights_sha256": digest}
    [other_weights, nothing_there] = errors
    assert f"model.safetensors: expected SHA-256 {'ab' * 32}, found" in other_weights
    assert "some/three: cannot be fetched from the hub" in nothing_there


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket of Google Cloud Storage on this machine: its name."""
    gcs_emulator = pytest.importorskip(
        "gcp_storage_emulator.server", reason="no storage emulator: pip install gcp-storage-emulator"
    )
    auth = pytest.importorskip("apache_beam.internal.gcp.auth")
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    server = gcs_emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    try:
        port = server._api._httpd.server_port
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(auth._Credentials, "_credentials_init", True)
        yield storage.Client(project="test", credentials=AnonymousCredentials()).create_bucket("extractors")
    finally:
        server.stop()


def test_a_bucket_is_a_source(mlp_checkpoint, tmp_path, bucket, capsys):
    for file in ("config.json", "model.safetensors"):
        bucket.blob(f"some/{file}").upload_from_filename(mlp_checkpoint / file)
    assert fetch("gs://extractors/some/", tmp_path / "out") == 0
    assert fetch(mlp_checkpoint, tmp_path / "same") == 0
    digests = {read_assets(tmp_path / name).sha256("backbone.safetensors") for name in ("out", "same")}
    assert len(digests) == 1
    capsys.readouterr()
    assert fetch("gs://extractors/other", tmp_path / "missing") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "gs://extractors/other/config.json: cannot be read" in line
