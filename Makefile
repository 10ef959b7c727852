# make demo and make test each work alone on a fresh clone: they build .venv first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check bench bench-gpu format clean

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/e2e/demo.sh demo

test: $(READY)
	$(BIN)/pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: $(READY)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[train,dev,bench]"
	$(BIN)/python -m tests.bench

bench-gpu: $(READY)
	$(BIN)/python -m tests.bench --gpu

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[train,dev]"
	touch $(READY)

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .hypothesis
	find vdaprep vdatrain tests -name __pycache__ -type d -prune -exec rm -rf {} +
