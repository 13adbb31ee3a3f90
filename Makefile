# Two commands do all the set-up on a machine that has Python 3.10-3.12 and make:
#   make scan   installs into .venv, scores the sample images, shows a table and where the Parquet is
#   make test   the same set-up, then lint and every test
# LOCKED=1 takes no file but those whose hashes are in locked/: Linux on x86-64, Python 3.11, torch for CPUs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip install --quiet --disable-pip-version-check
CORES  := $(shell getconf _NPROCESSORS_ONLN)

.PHONY: scan test lint fuzz fuzz-parsers lock soak bench templates clean

scan: $(VENV)/installed
	$(BIN)/mdmf scan samples/real samples/generated samples/spliced --output out/samples

# One process more than there are cores: tests of the stream mostly wait, for leases and retries.
test: $(VENV)/installed lint
	$(BIN)/pytest -n $$(($(CORES) + 1)) --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Mutations of tests/corpus, each of which must end as tiles or as a documented error: 20,000 take seconds.
fuzz: $(VENV)/installed
	$(BIN)/python tests/fuzz.py --inputs 20000 --seed 0

# Coverage-guided, for as long as it is let: atheris is installed here, since it is not for every machine.
fuzz-parsers: $(VENV)/installed
	$(BIN)/pip install --quiet 'atheris>=3'
	$(BIN)/python tests/fuzz_parsers.py -max_total_time=300

# One environment serves both commands, so that the second one starts at once.
$(VENV)/installed: setup.py constraints.txt $(wildcard locked/*.txt)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or \
	  sys.exit(f"Python 3.10, 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(PIP) --require-hashes --no-deps --requirement locked/torch-cpu.txt --requirement locked/ci.txt
	$(PIP) --no-deps --no-build-isolation --editable .
else
	$(PIP) --constraint constraints.txt --editable '.[test]'
endif
	@touch $@

# Resolves setup.py's ranges for every Python and platform; pins that still fit stay (delete constraints.txt to have the
# newest). Run the tests before you commit the result.
COMPILE := $(BIN)/uv pip compile setup.py --no-annotate --quiet --custom-compile-command "make lock"
HASHED  := --constraint constraints.txt --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28
# torch for CPUs brings none of these, and has a file and a hash of its own: locked/torch-cpu.txt.
OF_CUDA  = torch triton $(shell grep -oE '^(nvidia|cuda)-[a-z0-9-]+' constraints.txt | sort -u)
lock:
	$(BIN)/pip install --quiet uv
	$(COMPILE) --all-extras --universal --python-version 3.10 --output-file constraints.txt
	$(COMPILE) --extra test $(HASHED) $(OF_CUDA:%=--no-emit-package %) --output-file locked/ci.txt
	$(COMPILE) --extra gcp $(HASHED) $(OF_CUDA:%=--no-emit-package %) --output-file locked/cpu.txt
	$(COMPILE) --extra gcp --extra dinov2 $(HASHED) --output-file locked/gpu.txt

# Half an hour of streaming and 50,000 images of batch, watched for what grows and counted for what is lost.
MINUTES ?= 30
RATE    ?= 20
IMAGES  ?= 50000
soak: $(VENV)/installed
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES) --rate $(RATE) --images $(IMAGES) --report out/soak.md

# A scan beside what one would pick instead: hours. ARGS=--quick is a glance; ARGS='--images DIR' makes the sets of other
# photographs than the samples. Ray is installed here, since it is for this alone.
bench: $(VENV)/installed
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/bench.py $(ARGS)

# The Flex Templates as Dataflow would get them; docs/dataflow.md says how they are published.
templates:
	@templates/build.sh

clean:
	rm -rf $(VENV) out build dist *.egg-info
