"""Every transform of ours, as Beam wants one: type hints, display data, metrics in a namespace of its own."""

import ast
import importlib
import inspect
import pkgutil

import apache_beam as beam
import pytest
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import PipelineVisitor
from apache_beam.transforms.display import DisplayData
from conftest import ROOT

import mdmf_ops.beam
from mdmf_ops.beam import ReadImages, Run
from mdmf_ops.beam.yaml import ReadAndScore
from pipelines import rescan, stream

MODULES = [importlib.import_module(m.name) for m in pkgutil.walk_packages(mdmf_ops.beam.__path__, "mdmf_ops.beam.")]

RUN = Run.start("gs://b/scores", "r1")


def ours(base):
    """Every class of ours under a class of Beam's."""
    found = {c for module in MODULES for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, base)}
    return sorted((c for c in found if c.__module__.startswith("mdmf_ops.")), key=lambda c: c.__name__)


TRANSFORMS, DOFNS = ours(beam.PTransform), ours(beam.DoFn)
every_transform = pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda c: c.__name__)


@pytest.fixture(scope="module")
def built():
    """Pipelines that between them hold each transform."""
    scan, live, other = (beam.Pipeline(options=PipelineOptions([])) for _ in range(3))
    nightly = rescan.RescanOptions([], input=["gs://b/photos"], skip_unchanged="gs://b/scores")
    rescan.build(scan, RUN, nightly)
    topics = {"alert_topic": "projects/project-x/topics/a", "error_topic": "projects/project-x/topics/e"}
    messages = live | beam.Create([]).with_output_types(PubsubMessage)
    stream.build(messages, RUN, stream.StreamOptions([], **topics))
    _ = other | "ReadImages" >> ReadImages(["gs://b/photos"])
    _ = other | "ReadAndScore" >> ReadAndScore(["gs://b/photos"], output="gs://b/scores")
    return scan, live, other


@pytest.fixture(scope="module")
def applied(built):
    """Of each class of ours, how it was applied first."""
    found = {}

    class Visitor(PipelineVisitor):
        def enter_composite_transform(self, node):
            self.visit_transform(node)

        def visit_transform(self, node):
            found.setdefault(type(node.transform), node)

    for pipeline in built:
        pipeline.visit(Visitor())
    return found


def test_the_walk_finds_what_there_is():
    names = {c.__name__ for c in TRANSFORMS}
    assert {"MatchImages", "FetchImages", "ScoreImages", "WriteScores", "SkipUnchanged", "WriteWindows"} <= names
    assert len(DOFNS) >= 7
    public = [getattr(mdmf_ops.beam, name) for name in mdmf_ops.beam.__all__]
    assert {c for c in public if inspect.isclass(c) and issubclass(c, beam.PTransform)} <= set(TRANSFORMS)
    assert set(mdmf_ops.beam.__all__) <= set(dir(mdmf_ops.beam))


@every_transform
def test_a_transform_says_what_it_takes_and_gives(transform, applied, caplog):
    node = applied[transform]
    hints = node.transform.get_type_hints()
    takes = inspect.signature(transform.expand).parameters
    [element] = [parameter for name, parameter in takes.items() if name != "self"]
    assert element.annotation is not inspect.Parameter.empty
    if element.annotation is not beam.pvalue.PBegin:
        assert hints.input_types
    assert "type hint will be ignored" not in caplog.text
    for name, output in node.outputs.items():
        assert output.element_type not in (None, beam.typehints.Any), f"{name} could be anything"


@every_transform
def test_a_transform_shows_what_it_was_asked_for(transform, applied):
    shown = DisplayData.create_from(applied[transform].transform).items
    own = {item.key for item in shown if item.namespace.startswith("mdmf_ops.")}
    asked = set(inspect.signature(transform.__init__).parameters) - {"self", "label"}
    assert bool(own) == bool(asked)


@every_transform
def test_a_transform_is_named_by_a_verb_and_described(transform):
    assert inspect.getdoc(transform)
    assert transform.__doc__, "a docstring of its own, not its base's"
    assert not transform.__name__.endswith("Transform")


@pytest.mark.parametrize("dofn", DOFNS, ids=lambda c: c.__name__)
def test_a_dofn_is_private_and_says_what_it_takes_and_gives(dofn):
    assert dofn.__name__.startswith("_") and dofn.__name__.endswith("DoFn")
    signature = inspect.signature(dofn.process)
    element = list(signature.parameters.values())[1]
    assert element.annotation is not inspect.Parameter.empty
    assert signature.return_annotation is not inspect.Signature.empty


METRICS = {f"Metrics.{kind}" for kind in ("counter", "distribution", "gauge", "string_set", "histogram")}


def metric_calls():
    for file in sorted((ROOT / "mdmf_ops").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in METRICS:
                yield pytest.param(node, id=f"{file.stem}:{node.lineno}")


@pytest.mark.parametrize("call", list(metric_calls()))
def test_a_metric_is_in_our_namespace(call):
    assert ast.unparse(call.args[0]) == "NAMESPACE"
