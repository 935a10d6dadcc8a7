# Every target makes its own .venv; nothing but Python 3.11, git and make is needed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
KERNELS := .venv/.kernels

.PHONY: install demo demo-stream demo-assistant demo-fraud demo-audit test lint reference clean lock

install: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# numba compiles the kernels of streams once, in about a minute; later on they are read from its cache
$(KERNELS): $(READY) $(wildcard src/nestling/streams/*/*.py)
	$(BIN)/python -c "import nestling as nl; nl.streams.compile_kernels()"
	touch $@

demo: $(READY)
	$(BIN)/nestling demo --out runs/demo

# Events one by one, ours beside logistic regression, in under a minute; fetches nothing
demo-stream: $(KERNELS)
	$(BIN)/nestling demo-stream

# One person's habits on an assistant's requests; fetches texts, and the encoder if need be
demo-assistant: $(READY)
	$(BIN)/python examples/assistant/assistant.py

# Card fraud with labels weeks late, in money, beside River; made-up payments, fetches nothing
demo-fraud: $(KERNELS)
	mkdir -p runs
	$(BIN)/python examples/fraud/fraud.py --picture runs/fraud.png --json runs/fraud.json

# Governed change in two cases, heart disease and incomes; leaves runs/audit/*/audit.html
demo-audit: $(READY)
	$(BIN)/python examples/healthcare/healthcare.py

test: $(KERNELS)
	$(BIN)/pytest --numprocesses 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# docs/reference.md, from docstrings
reference: $(READY)
	$(BIN)/python recipes/make_reference.py

# make bench-overhead writes benchmarks/results/overhead.json
bench-%: $(READY)
	$(BIN)/nestling bench $* --json benchmarks/results/$*.json

# make page-split-mnist runs the suite and makes docs/suites/split-mnist.md of it
page-%: $(READY)
	$(BIN)/nestling bench $*
	$(BIN)/python recipes/make_suite_page.py $*

# Pins what is installed now. torch stays at the version of which a CPU build is at hand.
lock: $(READY)
	$(BIN)/pip freeze --exclude-editable | sed 's/^torch==\([0-9.]*\)+cpu/torch==\1/' > requirements.lock

clean:
	rm -rf .venv build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
