# Everything runs in .venv, which `make env` makes; nothing else need be installed but Python >= 3.10 and make.
PYTHON ?= python3
PIP_FLAGS ?=
# Processes that the tests are shared among, file by file; 0 runs one test after the other.
WORKERS ?= 2
BIN := .venv/bin

.PHONY: help env demo demo-generative demo-din test test-fast test-zoo lint format bench clean

help:
	@echo "make demo       train one model on two sides of an emulated link, serially and pipelined (2-3 minutes)"
	@echo "make demo-generative  the same with a generator of chairs, whose images stay on the edge (2 minutes)"
	@echo "make demo-din   two owners of history and a server train one model; then the same in one process (a minute)"
	@echo "make test       format, lint, types, and all tests, in two processes (10 to 15 minutes)"
	@echo "make test-fast  the fast tests only (two minutes)"
	@echo "make test-zoo   cut 171 public models everywhere and compare (two hours); needs timm, ultralytics, transformers"
	@echo "make bench      the overlap and transport benchmarks (about 4 minutes)"
	@echo "make env        make or renew .venv; PIP_FLAGS and PYTHON are passed on"
	@echo "make format     format the code"
	@echo "make clean      remove .venv and caches (runs/ and data/ stay)"

env: .venv/made

.venv/made: $(wildcard requirements*.txt) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Tandem needs Python 3.10 or newer; name one with: make env PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --editable '.[dev]'
	@touch $@

demo-din: env
	$(BIN)/python -m DIN.demo

demo: env
	$(BIN)/python -m discriminative.demo

demo-generative: env
	$(BIN)/python -m generative.demo

test: lint
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

test-fast: env
	$(BIN)/python -m pytest -m "not slow"

test-zoo: env
	$(BIN)/python -m tests.zoo --markdown docs/zoo.md

lint: env
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/python -m benchmarks.overlap
	$(BIN)/python -m benchmarks.transport

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
