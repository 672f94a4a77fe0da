# Everything a newcomer needs: `make demo` and `make test`. `make lab` adds the real parts (Debian, root).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage lint types fuzz soak lab lab-long lab-kubernetes bench docs pictures snapshots lock clean

help:
	@echo "make demo   open the console on an embedded cluster"
	@echo "make test   lint, types, import contracts and all tests that need nothing but Python"
	@echo "make coverage  which lines and branches those tests reach; it takes three times as long"
	@echo "make fuzz   try hostile input and random keys for minutes; TIERDECK_FUZZ says how many times as much as in the tests"
	@echo "make soak   a day of polling as fast as it goes, with flapping nodes; memory must stay flat"
	@echo "make lab    install the real parts (Debian, root) and run the tests against them"
	@echo "make lab-kubernetes  build Kubernetes' control plane (Debian, root; a quarter of an hour), and run the tests against it"
	@echo "make bench  measure the budgets; python -m tests.bench NAME measures one (--help says which)"

$(VENV)/run.stamp: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tierdeck needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV) || (echo "On Debian and Ubuntu: apt install python3-venv"; exit 1)
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m compileall -q tui widgets backends
	touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	touch $@

setup: $(VENV)/dev.stamp

demo: $(VENV)/run.stamp
	$(BIN)/tierdeck demo

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/dev.stamp
	$(BIN)/mypy

test: $(VENV)/dev.stamp lint types
	$(BIN)/python -m pytest -m "not lab" -n 2

# What has a deadline may miss it while every line is counted; such a failure takes nothing from the table.
coverage: $(VENV)/dev.stamp
	-$(BIN)/python -m pytest -m "not lab" -n 2 --cov --cov-report=term

fuzz: $(VENV)/dev.stamp
	TIERDECK_FUZZ=$${TIERDECK_FUZZ:-40} $(BIN)/python -m pytest tests/fuzz -n 2

soak: $(VENV)/dev.stamp
	TIERDECK_SOAK=$${TIERDECK_SOAK:-17280} $(BIN)/python -m pytest tests/soak

lab: $(VENV)/dev.stamp
	tests/lab/setup.sh
	TIERDECK_LAB=required $(BIN)/python -m pytest -m "lab and not long" tests/lab tests/contract --ignore tests/lab/kubernetes

lab-long: $(VENV)/dev.stamp
	tests/lab/setup.sh
	TIERDECK_LAB=required $(BIN)/python -m pytest -m "lab and long" tests/lab --ignore tests/lab/kubernetes

lab-kubernetes: $(VENV)/dev.stamp
	tests/lab/kubernetes/build.sh
	TIERDECK_LAB=required $(BIN)/python -m pytest tests/lab/kubernetes

bench: $(VENV)/dev.stamp
	$(BIN)/python -m tests.bench

docs: $(VENV)/dev.stamp
	$(BIN)/python -m tests.tools.generated

pictures: $(VENV)/dev.stamp
	$(BIN)/python -m tests.tools.pictures

snapshots: $(VENV)/dev.stamp
	$(BIN)/python -m pytest tests/tui --snapshot-update

# Writes versions and hashes only; needs uv on the PATH.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet pyproject.toml --group build -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet pyproject.toml --group dev -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache dist build
