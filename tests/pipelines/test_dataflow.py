"""Rescan and stream as the jobs that Dataflow would be given. It cannot be had here: the graphs are made and read."""

import json
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.portability.api import beam_runner_api_pb2
from emulators import Bucket, environment, fake_gcs_server

from mdmf_ops.beam import Run
from pipelines import rescan, stream
from pipelines.options import STREAMING_RIGHT_FITTING, read_options

ACCELERATOR = "type:nvidia-tesla-t4;count:1;install-nvidia-driver"
IMAGE = "us-central1-docker.pkg.dev/project-x/mdmf/gpu:1"

STEPS = {name: (Path(__file__).parent / f"{name}_steps.txt").read_text().split() for name in ("rescan", "stream")}
"""Names that a service keeps: metrics, alerts and an update of a running job go by them. Change them knowingly."""

SERVICE = [
    *("--runner=DataflowRunner", "--project=project-x", "--region=us-central1", "--sdk_location=container"),
    *("--temp_location=gs://job-bucket/tmp", "--staging_location=gs://job-bucket/staging"),
    *("--max_num_workers=20", "--service_account_email=worker@project-x.iam.gserviceaccount.com"),
    f"--sdk_container_image={IMAGE}",
]
GPU = [f"--accelerator={ACCELERATOR}", "--scoring_ram=13GB"]


def compile_job(main, folder, flags):
    """The graph that the flags make, and the job that names it."""
    from apache_beam.internal.gcp import auth

    with pytest.MonkeyPatch.context() as patch, fake_gcs_server() as url, environment(url):
        patch.setattr(auth._Credentials, "_credentials_init", True)  # else it looks for credentials for 25 s
        bucket = Bucket("job-bucket")
        assert main([*flags, *SERVICE, f"--template_location={folder}/job.json"]) == 0
        [name] = [name for name in bucket.names("staging/") if name.endswith("/pipeline.pb")]
        graph = beam_runner_api_pb2.Pipeline.FromString(bucket.get(name))
    return graph, json.loads((folder / "job.json").read_text())


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A nightly rescan on GPUs."""
    places = ["--input=gs://job-bucket/photos", "--output=gs://job-bucket/scores", "--assets=gs://job-bucket/detector"]
    nightly = ["--skip_unchanged=gs://job-bucket/scores"]
    return compile_job(rescan.main, tmp_path_factory.mktemp("job"), [*places, *nightly, *GPU])


@pytest.fixture(scope="module")
def compiled_stream(tmp_path_factory):
    """A stream on GPUs."""
    topics = [f"--{name}_topic=projects/project-x/topics/{name}" for name in ("alert", "error")]
    source = ["--subscription=projects/project-x/subscriptions/s", "--output=gs://job-bucket/scores"]
    return compile_job(stream.main, tmp_path_factory.mktemp("stream"), [*source, *topics, *GPU])


@pytest.fixture(scope="module")
def graph(compiled):
    return compiled[0]


@pytest.fixture(scope="module")
def job(compiled):
    return compiled[1]


def leaves(graph):
    """Name and transform of every step that does something itself."""
    return {
        transform.unique_name: transform
        for transform in graph.components.transforms.values()
        if not transform.subtransforms and transform.environment_id
    }


def hints(graph, transform):
    """Resource hints of a step by the last part of their name."""
    environment = graph.components.environments[transform.environment_id]
    return {urn.split(":")[2]: value.decode() for urn, value in environment.resource_hints.items()}


@pytest.mark.parametrize("pipeline", ["compiled", "compiled_stream"])
def test_accelerator_and_memory_are_asked_for_where_images_are_read_and_scored_and_nowhere_else(pipeline, request):
    graph, _job = request.getfixturevalue(pipeline)
    wanted = {"accelerator": ACCELERATOR, "min_ram_bytes": "13000000000"}
    found = {name: hints(graph, transform) for name, transform in leaves(graph).items()}
    with_hints = {name for name, hint in found.items() if hint}
    assert all(found[name] == wanted for name in with_hints)
    assert with_hints == {name for name in found if name.startswith(("Fetch/", "Score/"))}
    assert len(with_hints) >= 3


def test_a_stream_with_gpus_is_a_streaming_job_that_fits_its_workers_to_their_steps(compiled_stream):
    graph, job = compiled_stream
    assert job["type"] == "JOB_TYPE_STREAMING"
    assert STREAMING_RIGHT_FITTING in job["environment"]["experiments"]
    steps = graph.components.transforms.values()
    [fetch] = [step for step in steps if step.unique_name == "Fetch/Fetch"]
    maker = {output: step for step in steps if not step.subtransforms for output in step.outputs.values()}
    # What parses messages and remembers them is not fused with what runs on GPUs.
    [before] = [maker[key] for key in fetch.inputs.values()]
    assert before.unique_name.startswith("SpreadRefs/")


def test_a_stream_without_gpus_asks_for_none_and_shuffles_no_more_than_it_must():
    options = stream.StreamOptions([], output="gs://b/scores")
    pipeline = beam.Pipeline()
    messages = pipeline | beam.Create([]).with_output_types(PubsubMessage)
    stream.build(messages, Run.start("gs://b/scores", "s1"), options)
    graph = pipeline.to_runner_api()
    assert not any(hints(graph, transform) for transform in leaves(graph).values())
    assert not [t for t in graph.components.transforms.values() if t.unique_name.startswith("SpreadRefs")]


def test_a_stream_refuses_a_gpu_that_is_asked_for_and_refused(tmp_path):
    asked = {"subscription": "projects/p/subscriptions/s", "accelerator": ACCELERATOR, "device": "cpu"}
    with pytest.raises(ValueError, match="--accelerator asks for a GPU"):
        stream.launch(stream.StreamOptions([], output=str(tmp_path), **asked))


def test_refs_are_shuffled_before_they_are_read_and_images_are_not_before_they_are_scored(graph):
    steps = graph.components.transforms.values()
    groups = {step.unique_name for step in steps if step.spec.urn == "beam:transform:group_by_key:v1"}
    maker = {output: step for step in steps if not step.subtransforms for output in step.outputs.values()}

    def before(name):
        """Steps that a step waits for, one after the other, back to the nearest shuffle."""
        [step] = [step for step in steps if step.unique_name == name]
        while True:
            [step] = [maker[key] for key in step.inputs.values()]
            yield step.unique_name
            if step.unique_name in groups:
                return

    infer = next(name for name in leaves(graph) if name.startswith("Score/") and "BeamML_RunInference" in name)
    chain = list(before(infer))
    assert chain[-1].startswith("SpreadRefs/")
    assert "Fetch/Fetch" in chain


@pytest.mark.parametrize(("pipeline", "made"), [("rescan", "compiled"), ("stream", "compiled_stream")])
def test_steps_keep_their_names(pipeline, made, request):
    graph, _job = request.getfixturevalue(made)
    named = {t.unique_name for t in graph.components.transforms.values() if not t.subtransforms}
    # What is below the second name is Beam's, and below the first where the step is a transform of Beam's.
    beams = ("SpreadRefs", "Messages", "PublishAlerts", "PublishErrors")
    ours = {"/".join(name.split("/")[: 1 if name.startswith(beams) else 2]) for name in named}
    assert sorted(ours) == STEPS[pipeline]


def test_steps_show_what_they_were_asked_to_do():
    options = rescan.RescanOptions([], input=["gs://b/photos"], assets="gs://b/detector", accelerator=ACCELERATOR)
    pipeline = beam.Pipeline()
    rescan.build(pipeline, Run.start("gs://b/scores", "r1"), options)
    shown = {}
    for transform in pipeline.to_runner_api().components.transforms.values():
        for item in transform.display_data:
            label = beam_runner_api_pb2.LabelledPayload.FromString(item.payload)
            shown[transform.unique_name, label.key] = label
    assert shown["Score", "device"].string_value == "cuda"
    assert shown["Score", "alpha"].double_value == 0.01
    assert shown["Score", "assets"].string_value == "gs://b/detector"
    assert shown["Match", "sources"].string_value == "gs://b/photos"
    assert shown["Write", "output"].string_value == "gs://b/scores"


def test_no_asset_travels_in_the_graph(graph):
    sizes = {name: len(transform.spec.payload) for name, transform in leaves(graph).items()}
    assert max(sizes.values()) < 20_000, sizes
    assert graph.ByteSize() < 1_000_000


def test_workers_are_made_of_the_image_and_named_account(graph, job):
    images = {
        beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
        for environment in graph.components.environments.values()
        if environment.urn == "beam:env:docker:v1"
    }
    assert images == {IMAGE}
    environment_ = job["environment"]
    assert environment_["serviceAccountEmail"] == "worker@project-x.iam.gserviceaccount.com"
    [pool] = environment_["workerPools"]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 20
    assert job["type"] == "JOB_TYPE_BATCH"


@pytest.mark.parametrize(
    ("main", "flag", "meant"),
    [
        (rescan.main, "--max_failed_fration=0.0", "--max_failed_fraction"),
        (rescan.main, "--sufix=.png", "--suffix"),
        (stream.main, "--windows_s=60", "--window_s"),
    ],
)
def test_a_flag_that_is_nearly_ours_is_refused_before_anything_runs(tmp_path, capsys, main, flag, meant):
    with pytest.raises(SystemExit) as ended:
        main([f"--input={tmp_path}", f"--output={tmp_path}/out", flag, "--runner=FnApiRunner"])
    assert ended.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert line.endswith(f"{flag}: {meant} is meant?")
    assert not list(tmp_path.iterdir())


def test_a_flag_of_a_runner_is_none_of_ours():
    flags = ["--output=a", "--max_num_workers=3", "--parallelism=2", "--min_read_time_millis=5", "--objectReuse"]
    assert read_options(rescan.RescanOptions, flags).output == "a"
    assert read_options(stream.StreamOptions, [*flags, "--savepoint_path", "b"]).output == "a"


@pytest.mark.parametrize("spec", ["nvidia-tesla-t4", "type:nvidia-tesla-t4", "type:l4;count:0", "type:T4;count:1"])
def test_an_accelerator_of_another_form_is_refused_with_the_right_one(spec, capsys):
    with pytest.raises(SystemExit):
        rescan.main(["--input=a", "--output=b", f"--accelerator={spec}"])
    assert "is not like 'type:nvidia-tesla-t4;count:1;install-nvidia-driver'" in capsys.readouterr().err


def test_a_gpu_asked_for_and_refused_in_one_command_is_an_error(tmp_path):
    options = rescan.RescanOptions([], input=["a"], output=str(tmp_path), accelerator=ACCELERATOR, device="cpu")
    with pytest.raises(ValueError, match="--accelerator asks for a GPU"):
        rescan.prepare(options)
