PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# Tests that run with other versions than the main ones; `make lowest PARTS=tests` runs all
PARTS ?= tests/core tests/kernels tests/pp
NEWEST ?= 3.13

.PHONY: help env demo test crash fuzz lowest newest lint docs numbers clean

help:
	@echo "make demo     install into $(VENV), run the main job, write demo_output/"
	@echo "make test     install into $(VENV), run the tests"
	@echo "make crash    kill, fill the disk and write twice at random moments (about twenty minutes)"
	@echo "make fuzz     try thousands of random inputs, write measurements/results/fuzz.json"
	@echo "make lowest   install the lowest versions that pyproject.toml allows, run the main job and tests"
	@echo "make newest   install the newest versions on Python $(NEWEST), run the main job and tests"
	@echo "make lint     check style, format and types"
	@echo "make docs     build the documentation into docs/_build/html"
	@echo "make numbers  fill in the README's numbers from measurements/results"
	@echo "make clean    remove the environment and everything built"

env: $(VENV)/.installed

# uv installs the same packages as pip, in a fraction of the time
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group dev
	@touch $@

demo: env
	$(BIN)/spared-sc demo --output demo_output

# One process per core, with one thread each
test lowest newest: export OMP_NUM_THREADS = 1
test lowest newest: export OPENBLAS_NUM_THREADS = 1
test: env
	$(BIN)/python -m pytest -n auto --dist worksteal

crash: export OMP_NUM_THREADS = 1
crash: export OPENBLAS_NUM_THREADS = 1
crash: env
	$(BIN)/python measurements/crashes.py

# As many inputs as an hour allows; the same commit goes on where it stopped
fuzz: export OMP_NUM_THREADS = 1
fuzz: export OPENBLAS_NUM_THREADS = 1
fuzz: export NUMBA_NUM_THREADS = 1
fuzz: env
	$(BIN)/python measurements/fuzz.py --minutes 60

# The lowest versions of the dependencies, in an environment of their own
lowest: env
	$(BIN)/uv venv --quiet --clear --python 3.11 $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct . --group test
	$(VENV)-lowest/bin/python .ci/smoke.py
	$(VENV)-lowest/bin/spared-sc demo --output $(VENV)-lowest/demo
	$(VENV)-lowest/bin/python -m pytest -n auto --dist worksteal $(PARTS)

# The newest Python and dependencies
newest: env
	$(BIN)/uv venv --quiet --clear --python $(NEWEST) $(VENV)-newest
	$(BIN)/uv pip install --quiet --python $(VENV)-newest/bin/python . --group test
	$(VENV)-newest/bin/python .ci/smoke.py
	$(VENV)-newest/bin/python -m pytest -n auto --dist worksteal $(PARTS)

lint: env
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: env
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

numbers: env
	$(BIN)/python measurements/update_docs.py

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest docs/_build docs/generated docs/tutorials docs/_static/explorer_* demo_output .pytest_cache .ruff_cache
