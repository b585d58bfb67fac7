# Two commands set everything up on a machine with Python 3.11 or later, pip and make:
#   make quickstart    the main job end to end, in quickstart/
#   make test          the tests
# PyPI's torch for Linux brings several gigabytes of CUDA. Another build or index:
#   make quickstart PIP_ARGS='--extra-index-url https://download.pytorch.org/whl/cpu'
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
CONSTRAINTS ?= constraints.txt
QUICKSTART ?= quickstart

BIN := $(VENV)/bin
MINILM := $(BIN)/minilm-search
STUDY := $(QUICKSTART)/studies/quickstart
PEER := build/peer
# What `make bench-naive` needs beside the environment, and its options: a larger teacher, other text and tasks.
NAIVE := build/naive
NAIVE_ARGS ?=

# As many test processes as there are processors, and at most four, because each may start a Ray of its own. If one of
# them crashes, the run ends: pytest-xdist could wait for ever for the tests of that process.
TEST_ARGS ?= -n logical --maxprocesses 4 --max-worker-restart 0
# The threads of one process must not spin while those of another have work.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

.PHONY: install quickstart test test-fast test-long check format bench bench-gpu bench-naive bench-report bench-search results-page clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(CONSTRAINTS) \
	  -e '.[report,onnx,openvino,tagging,embedding,quickstart,dev]'
	touch $@

$(QUICKSTART)/search.yaml: | install
	$(MINILM) init $(QUICKSTART) --template quickstart

# Every step goes on from where an interrupted one stopped, or says that it is done.
quickstart: install $(QUICKSTART)/search.yaml
	$(MINILM) calibrate $(QUICKSTART)/search.yaml
	$(MINILM) launch $(QUICKSTART)/search.yaml
	$(MINILM) pick $(STUDY) --prefer best
	$(MINILM) report $(STUDY)
	$(MINILM) package $(STUDY) --picked -o $(QUICKSTART)/student --overwrite
	$(MINILM) verify $(QUICKSTART)/student

# All tests of a file run in one process, so that they share slow fixtures.
test: install
	$(PYTEST) -m 'not long' $(TEST_ARGS) --dist loadfile --durations 20

test-fast: install
	$(PYTEST) -m 'not slow and not long' $(TEST_ARGS) --dist loadfile --durations 20

# Hundreds of trials and thousands of cases: run these by hand before a change that they cover is finished.
test-long: install
	$(PYTEST) -m long --durations 20

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# bertdistiller asks for transformers < 5 and much else, none of which its loss needs: it comes alone, out of the way.
$(PEER)/installed: | install
	rm -rf $(PEER)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --ignore-requires-python \
	  --target $(PEER) bertdistiller==0.1.2
	touch $@

bench: install $(PEER)/installed
	$(BIN)/python -m tests.benchmarks.distillation build/bench.json

bench-gpu: install $(PEER)/installed
	$(BIN)/python -m tests.benchmarks.gpu build/bench-gpu.json

# The environment never gets these packages: only the naive side finds them.
$(NAIVE)/installed: tests/benchmarks/naive/requirements.txt | install
	rm -rf $(NAIVE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps --ignore-requires-python \
	  --target $(NAIVE) -r $<
	touch $@

bench-naive: install $(NAIVE)/installed
	$(BIN)/python -m tests.benchmarks.naive.compare build/bench-naive.json $(NAIVE_ARGS)

# The report of 10,000 records: the seconds of a fresh process, and the size of the page.
bench-report: install
	$(BIN)/python -m tests.benchmarks.report build/bench-report.json

# The figures are those of the last table.
bench-search: install
	mkdir -p build
	$(BIN)/python -m tests.benchmarks.search build/bench-search.json tests/benchmarks/tables/*.jsonl

# Rebuilds the published results from the committed records, and their part of README.md.
results-page: install
	$(BIN)/python -m reports.results_page

clean:
	rm -rf build $(QUICKSTART) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
