PYTHON ?= python
CUDA_SOURCES := $(shell find cuda_src tests -name '*.cu' -o -name '*.cuh' -o -name '*.[ch]pp')

.PHONY: help lint format test cubins wheel bench docs clean

help:
	@echo "lint    ruff, mypy and clang-format, changing nothing"
	@echo "format  ruff and clang-format, in place"
	@echo "test    the tests"
	@echo "cubins  compile every kernel for every architecture; needs no GPU"
	@echo "wheel   cubins, then one wheel that carries them"
	@echo "bench   time the methods on this machine"
	@echo "docs    build the documentation into docs/_build/html"
	@echo "clean   remove what the others leave behind"

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	clang-format --dry-run --Werror $(CUDA_SOURCES)

format:
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	clang-format -i $(CUDA_SOURCES)

test:
	$(PYTHON) -m pytest

cubins:
	$(PYTHON) -m cupyna build --all

wheel: cubins
	$(PYTHON) -m build --wheel

bench:
	$(PYTHON) -m cupyna bench

docs:
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf build dist *.egg-info cupyna/_cubin docs/_build docs/api/generated
