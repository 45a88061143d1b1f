# Everything a person types: make demo, make test. Both rest on make install.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint types unit clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("noveltyflow needs Python 3.11 or newer; set PYTHON=python3.12, say") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,s3,notebook]'
	@touch $@

demo: install
	$(BIN)/python workflows/demo.py

test: lint types unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build *.egg-info demo.zarr
