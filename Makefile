# Everything a person types: make demo, make test, make bench. All rest on make install.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint types unit bench clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("noveltyflow needs Python 3.11 or newer; set PYTHON=python3.12, say") if sys.version_info < (3, 11) else None'
	@echo "installing pinned packages into .venv, which takes about two minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,s3,notebook]'
	@touch $@
	@$(if $(filter install,$(MAKECMDGOALS)),echo "installed; now: make demo")

.venv/.bench: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

demo: install
	$(BIN)/python workflows/demo.py

test: lint types unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The plan compiles the kernels once; else each process of the tests that comes to them first would, all at a time.
unit: install .venv/.bench
	$(BIN)/noveltyflow plan README.md > /dev/null
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Takes some hours, and means something only where nothing else runs; progress is on standard error.
bench: install .venv/.bench
	$(BIN)/python benchmarks/neighbors.py
	$(BIN)/python benchmarks/end_to_end.py >> benchmarks/RESULTS.md
	$(BIN)/python benchmarks/hashing.py >> benchmarks/RESULTS.md

clean:
	rm -rf .venv build *.egg-info demo.zarr
