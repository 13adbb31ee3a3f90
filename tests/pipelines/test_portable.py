"""The same scan on every runner that is to be had, and out of the sdist, in an environment without the checkout."""

import json
import sys
import tarfile

import clean
import grpc
import pytest
from conftest import ROOT, write_images
from emulators import free_port
from scans import read_rows, scan

RUN_ID = "portable"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), good=24, broken=10)


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    """Rows of the scan in this process."""
    output = tmp_path_factory.mktemp("expected")
    scan(images, output, run_id=RUN_ID)
    rows = read_rows(output)
    assert {row["status"] for row in rows} == {"scored", "failed"}
    return rows


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return clean.build_sdist(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def environment(sdist, tmp_path_factory):
    return clean.make_environment(tmp_path_factory.mktemp("clean"), sdist)


def test_the_sdist_holds_the_detector_and_the_licences_and_nothing_of_the_tests(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = json.loads((ROOT / "model_assets/micro/manifest.json").read_text())["files"]
    wanted = {f"model_assets/micro/{file}" for file in (*listed, "manifest.json", "MODEL_CARD.md")}
    wanted |= {"LICENSE", "NOTICE", "constraints.txt"}
    wanted |= {str(file.relative_to(ROOT)) for package in clean.PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert wanted <= names
    assert not [name for name in names if name.startswith(("tests", "samples", "benchmarks"))]


def test_an_environment_of_the_sdist_imports_nothing_from_the_checkout(environment):
    script = "import mdmf_ops, pipelines, model_assets as m; print(mdmf_ops.__file__, pipelines.__file__, m.__file__)"
    files = environment.run("python", "-c", script).split()
    assert all(file.startswith(str(environment.packages)) for file in files) and len(files) == 3


def test_the_command_of_the_sdist_scans_the_samples_on_two_processes(environment, tmp_path):
    manifest = json.loads(
        environment.run(
            *("mdmf", "scan", str(ROOT / "samples/real"), str(ROOT / "samples/generated"), "--json"),
            *("--output", str(tmp_path), "--workers", "2", "--device", "cpu", "--suffix", ".jpg"),
        )
    )
    samples = [*(ROOT / "samples/real").iterdir(), *(ROOT / "samples/generated").iterdir()]
    assert manifest["counts"]["status"] == {"scored": len(samples)}
    licences = {file.name for file in environment.packages.glob("mdmf_ops-*.dist-info/licenses/*")}
    assert licences == {"LICENSE", "NOTICE"}


def test_multi_processing_gives_the_rows_of_one_process(images, tmp_path, expected):
    scan(images, tmp_path, run_id=RUN_ID, direct_running_mode="multi_processing", direct_num_workers=2)
    assert read_rows(tmp_path) == expected


def test_a_job_service_with_workers_out_of_the_sdist_gives_the_rows_of_one_process(
    images, tmp_path, expected, environment
):
    scored_there = environment.packages / f"mdmf_ops/beam/__pycache__/score.{sys.implementation.cache_tag}.pyc"
    scored_there.unlink(missing_ok=True)
    port_file, pool_port = tmp_path / "port", free_port()
    job_service = ("--port_file", str(port_file), "--staging_dir", str(tmp_path / "staging"))
    with (
        environment.serve("apache_beam.runners.portability.local_job_service_main", *job_service),
        environment.serve("apache_beam.runners.worker.worker_pool_main", "--service_port", str(pool_port)),
        grpc.insecure_channel(f"localhost:{pool_port}") as pool,
    ):
        grpc.channel_ready_future(pool).result(timeout=60)
        scan(
            images,
            tmp_path / "out",
            run_id=RUN_ID,
            runner="PortableRunner",
            job_endpoint=f"localhost:{clean.wait_for(port_file)}",
            environment_type="EXTERNAL",
            environment_config=f"localhost:{pool_port}",
        )
    assert read_rows(tmp_path / "out") == expected
    # Nobody but the workers has run in that environment since: it was they who imported the module from there.
    assert scored_there.exists()
