"""The Flex Templates: what their metadata promises is what the pipelines take, and the images are pinned."""

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess

import pytest
import setuptools
from apache_beam.transforms.display import DisplayData
from conftest import ROOT
from pages import blocks, sections

from pipelines.rescan import RescanOptions
from pipelines.stream import StreamOptions

TEMPLATES = {"rescan": RescanOptions, "stream": StreamOptions}

LEFT_OUT = {"rescan": set(), "stream": {"local_root", "topic"}}
"""Options that make no sense on a service: folders of a worker, and a trial's subscription."""

REQUIRED = {"rescan": {"output"}, "stream": {"output", "subscription"}}

PARAM_TYPES = {
    *("DEFAULT", "TEXT", "GCS_READ_BUCKET", "GCS_WRITE_BUCKET", "GCS_READ_FILE", "GCS_WRITE_FILE", "GCS_READ_FOLDER"),
    *("GCS_WRITE_FOLDER", "PUBSUB_TOPIC", "PUBSUB_SUBSCRIPTION", "BIGQUERY_TABLE", "JAVASCRIPT_UDF_FILE"),
    *("SERVICE_ACCOUNT", "MACHINE_TYPE", "KMS_KEY_NAME", "WORKER_REGION", "WORKER_ZONE", "BOOLEAN", "ENUM", "NUMBER"),
    *("KAFKA_TOPIC", "KAFKA_READ_TOPIC", "KAFKA_WRITE_TOPIC"),
}
"""Dataflow's closed list (ParameterMetadata.paramType, API v1b3). gcloud accepts any other word without a warning."""

KEYS = {"name", "label", "helpText", "paramType", "isOptional", "regexes", "defaultValue", "enumOptions"}


def metadata(pipeline):
    return json.loads((ROOT / "templates" / pipeline / "metadata.json").read_text())


PARAMETERS = [(pipeline, parameter) for pipeline in TEMPLATES for parameter in metadata(pipeline)["parameters"]]
every_parameter = pytest.mark.parametrize(
    ("pipeline", "parameter"), PARAMETERS, ids=[f"{pipeline}-{parameter['name']}" for pipeline, parameter in PARAMETERS]
)


def options_of(pipeline):
    """What argparse knows of each option, by name."""
    parser = argparse.ArgumentParser(add_help=False)
    TEMPLATES[pipeline]._add_argparse_args(parser)
    return {action.dest: action for action in parser._actions}


@pytest.mark.parametrize("pipeline", TEMPLATES)
def test_a_template_takes_exactly_the_options_of_its_pipeline(pipeline):
    names = [parameter["name"] for parameter in metadata(pipeline)["parameters"]]
    assert len(names) == len(set(names))
    assert set(names) == set(options_of(pipeline)) - LEFT_OUT[pipeline]
    assert metadata(pipeline)["streaming"] == (pipeline == "stream")


@pytest.mark.parametrize("pipeline", TEMPLATES)
def test_what_a_template_requires_is_what_its_pipeline_cannot_do_without(pipeline):
    parameters = metadata(pipeline)["parameters"]
    assert {p["name"] for p in parameters if not p["isOptional"]} == REQUIRED[pipeline]


@every_parameter
def test_a_parameter_has_a_type_of_the_closed_list_and_no_key_that_nobody_reads(pipeline, parameter):
    assert parameter["paramType"] in PARAM_TYPES
    assert set(parameter) <= KEYS and {"name", "label", "helpText", "isOptional"} <= set(parameter)
    assert ("enumOptions" in parameter) == (parameter["paramType"] == "ENUM")


@every_parameter
def test_its_documented_example_passes_its_own_pattern_and_the_pipelines_parser(pipeline, parameter):
    examples = [parameter["defaultValue"]] if "defaultValue" in parameter else []
    if found := re.search(r"Example: (\S+)$", parameter["helpText"]):
        examples.append(found[1])
    examples += [option["value"] for option in parameter.get("enumOptions", [])]
    action = options_of(pipeline)[parameter["name"]]
    for example in examples:
        assert all(re.fullmatch(regex, example) for regex in parameter.get("regexes", []))
        assert (
            TEMPLATES[pipeline]([f"--{parameter['name']}={example}"]).get_all_options()[parameter["name"]] is not None
        )
        assert action.choices is None or example in action.choices
    assert parameter.get("regexes") is None or len(examples) > 0
    if action.choices:
        assert [option["value"] for option in parameter["enumOptions"]] == list(action.choices)
    if "defaultValue" in parameter:
        assert (action.type or str)(parameter["defaultValue"]) == action.default


def test_both_pipelines_can_be_imported_in_one_process():
    for options in TEMPLATES.values():
        assert options(["--output=a", "--num_shards=3"]).get_all_options()["output"] == "a"
        DisplayData.create_from(options(["--output=a"]))  # as a job does; it refuses two defaults for one flag


@every_parameter
def test_an_unfit_value_is_stopped_by_the_pattern(pipeline, parameter):
    for regex in parameter.get("regexes", []):
        assert not re.fullmatch(regex, "")
        assert parameter["name"] == "list_column" or not re.fullmatch(regex, "not fit")


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_an_image_stands_on_pinned_bases_of_this_beam_and_python(name):
    text = (ROOT / "templates" / name).read_text()
    bases = re.findall(r"^(?:FROM|COPY --from=)\s*(\S+[/:]\S+)", text, re.MULTILINE)
    assert len(bases) >= 2
    assert all(re.fullmatch(r"[a-z0-9./_-]+:[\w.-]*\d[\w.-]*", base) for base in bases), bases
    [beam] = [base for base in bases if "beam_python" in base]
    [locked] = re.findall(r"^apache-beam==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert beam == f"apache/beam_python3.11_sdk:{locked}"
    for installed in re.findall(r"pip install (.*?)(?: \\\n &&|$)", text, re.DOTALL):
        from_sdist = "--no-build-isolation /tmp/mdmf/*.tar.gz" in installed
        assert "--no-deps" in installed and ("--require-hashes" in installed) != from_sdist, installed


def test_the_page_makes_and_shows_templates_of_the_images_that_it_pushes(tmp_path):
    """Its commands as typed, with the programs of others written down instead of run."""
    page = (ROOT / "docs/dataflow.md").read_text()
    exported, made = (
        page[page.index("export PROJECT") :].split("```")[0],
        sections(ROOT / "docs/dataflow.md")["3. Images and templates"],
    )
    [block] = blocks(made, "")
    for name in ("Makefile", "setup.py", "templates", "mdmf_ops/__init__.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / "here" / name)
    (tmp_path / "here/dist").mkdir()
    (tmp_path / "here/dist/mdmf_ops-0.0.9.tar.gz").touch()
    (tmp_path / "bin").mkdir()
    for name in ("gcloud", "docker", "python"):
        makes = "mkdir -p dist; touch dist/mdmf_ops-$VERSION.tar.gz" if name == "python" else ""
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/log\n{makes}\n')
        (tmp_path / "bin" / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", "-euc", exported + block]
    done = subprocess.run(command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log").read_text()
    pushed = set(re.findall(r"^docker push (\S+)$", log, re.MULTILINE))
    built = re.findall(
        r"^gcloud dataflow flex-template build (\S+) --image (\S+) .*?(--print-only)?$", log, re.MULTILINE
    )
    assert {place for place, _image, _shown in built} == {
        f"gs://my-project-mdmf/templates/{pipeline}-{device}.json"
        for pipeline in TEMPLATES
        for device in ("cpu", "gpu")
    }
    assert {image for _place, image, _shown in built if "-cpu:" in image} == pushed
    assert [bool(shown) for _place, _image, shown in built] == [True] * 4 + [False] * 4
    assert len(list((tmp_path / "here/dist").iterdir())) == 1  # the Dockerfiles take all that are there


def test_the_page_launches_each_night_what_it_ran_first():
    page = ROOT / "docs/dataflow.md"
    [body] = re.findall(r"<<EOF\n(.*?)\nEOF", page.read_text(), re.DOTALL)
    launch = json.loads(body)["launchParameter"]
    of_the_launcher = {"sdk_container_image", "sdk_location"}
    assert set(launch["parameters"]) - of_the_launcher <= {p["name"] for p in metadata("rescan")["parameters"]}
    first = blocks(sections(page)["4. The first scan"], "")[0]
    assert launch["environment"]["additionalExperiments"] == re.findall(r"--additional-experiments (\S+)", first)


def test_what_is_no_module_is_part_of_the_package_too(monkeypatch):
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: found.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    rooms = [ROOT / package for package in ("mdmf_ops", "pipelines", "model_assets")]
    beside = {
        file for room in rooms for file in room.rglob("*.*") if file.is_file() and file.suffix not in (".py", ".pyc")
    }
    packed = {
        file
        for package, patterns in found["package_data"].items()
        for pattern in patterns
        for file in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    assert beside == packed and ROOT / "mdmf_ops/py.typed" in packed


def pins(name):
    """Version and number of hashes of each package that a lock names, less what it depends on markers for."""
    blocks = re.split(r"\n(?=[a-z])", (ROOT / "locked" / name).read_text())
    found = [(re.match(r"([a-z0-9._-]+)==(\S+)", block), block.count("--hash=sha256:")) for block in blocks]
    return {match[1]: (match[2], hashes) for match, hashes in found if match}


@pytest.mark.parametrize("name", ["ci.txt", "cpu.txt", "gpu.txt", "torch-cpu.txt"])
def test_a_lock_pins_by_hash_what_constraints_pin_by_version(name):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constrained = {line.split(" ;")[0].strip() for line in lines if "==" in line}
    found = pins(name)
    assert found
    assert all(hashes > 0 for _version, hashes in found.values())
    assert {f"{package}=={version}" for package, (version, _hashes) in found.items()} <= constrained


@pytest.mark.parametrize(
    ("name", "extras"), [("ci.txt", ["test"]), ("cpu.txt", ["gcp"]), ("gpu.txt", ["gcp", "dinov2"])]
)
def test_a_lock_has_every_package_that_setup_asks_for(monkeypatch, name, extras):
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: found.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    asked = [*found["install_requires"], *(line for extra in extras for line in found["extras_require"][extra])]
    missing = (
        {re.match(r"[\w.-]+", line)[0].lower() for line in asked} - pins(name).keys() - pins("torch-cpu.txt").keys()
    )
    assert not missing, f"locked/{name} is older than setup.py: run `make lock`"


def test_the_locks_have_what_each_place_needs_and_no_more():
    ci, cpu, gpu = pins("ci.txt"), pins("cpu.txt"), pins("gpu.txt")
    assert {"pytest", "ruff", "apache-beam", "transformers", "pandas"} <= ci.keys()
    assert {"apache-beam", "google-cloud-storage", "pillow"} <= cpu.keys() <= ci.keys()
    assert not {"pytest", "ruff", "transformers", "torch"} & cpu.keys()
    assert {"torch", "transformers", "nvidia-cublas"} <= gpu.keys()
    assert not re.search(r"https?://", "".join(path.read_text() for path in (ROOT / "locked").iterdir()))


def test_make_templates_shows_a_file_for_each_pipeline_and_device():
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is missing: https://cloud.google.com/sdk/docs/install")
    done = subprocess.run([ROOT / "templates/build.sh"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    images = re.findall(r'"image": "(\S+)"', done.stdout)
    assert [image.rpartition("/")[2].partition(":")[0] for image in images] == [
        *("rescan-cpu", "rescan-gpu", "stream-cpu", "stream-gpu")
    ]


def test_without_gcloud_it_says_what_is_missing(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    bash = shutil.which("bash")
    command = [bash, ROOT / "templates/build.sh"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert "gcloud is missing" in done.stderr
