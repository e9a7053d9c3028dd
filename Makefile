PYTHON ?= python3.11
EXTRA ?= cpu
BIN := .venv/bin

.PHONY: setup demo test test-fast lint docs format clean

setup: .venv/.complete

# torch goes in first, pinned, so that no other requirement can pull in a second build of it.
.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[$(EXTRA),cluster,smax,examples,minari,docs,dev]"
	touch $@

demo: setup
	$(BIN)/maicc run lbf_7x7 --out runs/demo
	@echo "Report: runs/demo/report.html   Replay: runs/demo/replay.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n auto --dist loadfile

test-fast: setup
	$(BIN)/pytest -n auto --dist loadfile -m "not slow"

docs: setup
	$(BIN)/mkdocs build --strict --quiet
	@echo "Site: build/site/index.html"

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build dist *.egg-info
