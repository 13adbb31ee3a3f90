"""The rules of the house, read off the source tree."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGES = ("mdmf_ops", "pipelines", "model_assets")
MODULES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
EVERY_FILE = sorted({*MODULES, *(file for room in ("tests", "benchmarks") for file in (ROOT / room).rglob("*.py"))})
MAX_LINES = 350

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def module_name(file):
    return str(file.relative_to(ROOT))


every_module = pytest.mark.parametrize("file", MODULES, ids=module_name)


def imported(tree):
    """Full names of all that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def careless_loads(tree):
    """Lines that call torch.load, by whatever name it was imported, without weights_only=True."""
    names = {"torch.load"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {f"{name.asname}.load" for name in node.names if name.name == "torch" and name.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            names |= {name.asname or name.name for name in node.names if name.name == "load"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            safe = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in node.keywords)
            if not safe:
                yield node.lineno


def careless_calls(tree):
    """Lines that run what a text or a file tells them to: eval, exec, a shell, YAML's tags."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        shell = any(k.arg == "shell" and getattr(k.value, "value", None) is not False for k in node.keywords)
        unsafe_yaml = name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load")
        if shell or unsafe_yaml or name in ("eval", "exec", "os.system", "os.popen"):
            yield node.lineno


def undocumented(tree):
    """Public functions, classes and methods of a module, and itself, that lack a docstring."""
    if not ast.get_docstring(tree):
        yield "the module"
    for node in tree.body:
        yield from _undocumented(node, "", overrides=False)


def _undocumented(node, prefix, overrides):
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
        return
    # A method that overrides one of a base class has the docstring of that: which ones do is not to be read here.
    if not ast.get_docstring(node) and not overrides:
        yield prefix + node.name
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            yield from _undocumented(child, f"{prefix}{node.name}.", overrides=bool(node.bases))


def parse(file):
    return ast.parse(file.read_text(), str(file))


def test_every_package_is_read():
    assert {file.relative_to(ROOT).parts[0] for file in MODULES} == set(PACKAGES)


@every_module
def test_a_module_is_short_enough_to_read(file):
    lines = len(file.read_text().splitlines())
    assert lines <= MAX_LINES, f"{module_name(file)} has {lines} lines: one idea a file"


@every_module
def test_nothing_is_unpickled(file):
    tree = parse(file)
    assert not {name for name in imported(tree) if name.split(".")[0] in UNPICKLERS}
    assert not list(careless_loads(tree)), "torch.load runs what a file tells it to, without weights_only=True"


@pytest.mark.parametrize("file", EVERY_FILE, ids=module_name)
def test_nothing_runs_what_a_text_says(file):
    tree = parse(file)
    runs_our_readme = file == ROOT / "tests" / "test_readme.py"
    assert runs_our_readme or not list(careless_calls(tree))
    assert not list(careless_loads(tree))


@every_module
def test_what_is_public_is_described(file):
    # The verbs' add_arguments and run are one interface, described where it is: in the package.
    verb = file.parent in (ROOT / "mdmf_ops" / "arguments", ROOT / "mdmf_ops" / "commands")
    missing = [name for name in undocumented(parse(file)) if not (verb and name in ("add_arguments", "run"))]
    assert not missing, f"{module_name(file)}: no docstring: {', '.join(missing)}"


def of_room(name):
    return [file for file in MODULES if file.is_relative_to(ROOT / "mdmf_ops" / name)]


@pytest.mark.parametrize("file", [*of_room("images"), *of_room("detector")], ids=module_name)
def test_no_module_of_images_or_the_detector_names_beam_or_the_rooms_above_it(file):
    above = ("apache_beam", "pyarrow", "google", "pipelines", "mdmf_ops.beam", "mdmf_ops.training", "mdmf_ops.schema")
    names = list(imported(parse(file)))
    assert not [name for name in names if any(f"{name}.".startswith(f"{room}.") for room in above)]


def test_the_detector_brings_neither_beam_nor_arrow_nor_a_cloud_with_it():
    script = """
import sys
before = set(sys.modules)  # a .pth file may have made the namespace `google`
import mdmf_ops.detector
mdmf_ops.detector.Detector.load(device="cpu")
brought = {name.split(".")[0] for name in sys.modules.keys() - before}
print(sorted(brought & {"apache_beam", "pyarrow", "google", "rich", "sklearn"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_decoding_and_what_a_file_says_of_itself_need_neither_network_nor_beam():
    # Nor does the detector know of it: what a stranger writes into a file is no part of a score.
    script = """
import sys
import mdmf_ops.images.isolation
import mdmf_ops.provenance
print(sorted({name.split(".")[0] for name in sys.modules} & {"apache_beam", "torch", "pyarrow", "c2pa"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    inside = [*of_room("images"), *of_room("detector")]
    assert not [file for file in inside if any("provenance" in name for name in imported(parse(file)))]


# The rules see what they are meant to see.


@pytest.mark.parametrize(
    ("source", "careless"),
    [
        ("import torch\ntorch.load(path)", [2]),
        ("import torch\ntorch.load(path, weights_only=False)", [2]),
        ("import torch\ntorch.load(path, weights_only=flag)", [2]),
        ("import torch as t\nt.load(path)", [2]),
        ("from torch import load\nload(path)", [2]),
        ("from torch import load as read\nread(path)", [2]),
        ("import torch\ntorch.load(path, weights_only=True)", []),
        ("import json\njson.load(file)", []),
    ],
)
def test_a_careless_load_is_seen(source, careless):
    assert list(careless_loads(ast.parse(source))) == careless


@pytest.mark.parametrize(
    ("source", "careless"),
    [
        ("eval(text)", [1]),
        ("os.system(text)", [1]),
        ("subprocess.run(text, shell=True)", [1]),
        ("subprocess.run(text, shell=flag)", [1]),
        ("subprocess.run(text, shell=False)", []),
        ("yaml.load(text, Loader=yaml.Loader)", [1]),
        ("yaml.safe_load(text)", []),
        ("model.eval()", []),
    ],
)
def test_a_careless_call_is_seen(source, careless):
    assert list(careless_calls(ast.parse(source))) == careless


def test_imports_inside_functions_are_seen():
    source = "def f():\n    import pickle\n    from apache_beam.io import filesystems\n"
    assert list(imported(ast.parse(source))) == ["pickle", "apache_beam.io.filesystems"]


def test_missing_docstrings_are_seen():
    source = "def f(): ...\ndef _f(): ...\nclass A:\n    def m(self): ...\nclass B(A):\n    def m(self): ...\n"
    assert list(undocumented(ast.parse(source))) == ["the module", "f", "A", "A.m", "B"]
