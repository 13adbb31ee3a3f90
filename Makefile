# Two commands do all the set-up on a machine that has Python 3.10-3.12 and make:
#   make scan   installs into .venv, scores the sample images, shows a table and where the Parquet is
#   make test   the same set-up, then lint and every test
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CORES  := $(shell getconf _NPROCESSORS_ONLN)

.PHONY: scan test lint fuzz fuzz-parsers lock templates clean

scan: $(VENV)/installed
	$(BIN)/mdmf scan samples/real samples/generated samples/spliced --output out/samples

test: $(VENV)/installed lint
	$(BIN)/pytest -n $(CORES) --dist worksteal

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Mutations of tests/corpus, each of which must end as tiles or as a documented error: some minutes on two cores.
fuzz: $(VENV)/installed
	$(BIN)/python tests/fuzz.py --inputs 20000 --seed 0

# Coverage-guided, for as long as it is let: atheris is installed here, since it is not for every machine.
fuzz-parsers: $(VENV)/installed
	$(BIN)/pip install --quiet 'atheris>=3'
	$(BIN)/python tests/fuzz_parsers.py -max_total_time=300

# One environment serves both commands, so that the second one starts at once.
$(VENV)/installed: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or \
	  sys.exit(f"Python 3.10, 3.11 or 3.12 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

# Resolves setup.py's ranges anew for every Python and platform; run the tests before you commit the result.
lock:
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile setup.py --all-extras --universal --python-version 3.10 --no-annotate \
	  --custom-compile-command "make lock" --output-file constraints.txt

# The Flex Templates as Dataflow would get them; docs/dataflow.md says how they are published.
templates:
	@templates/build.sh

clean:
	rm -rf $(VENV) out build dist *.egg-info
