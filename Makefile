# Needs Python 3.11 or newer, pip and make. No root, no Docker, no venv module.
PYTHON ?= python3
export UV_PYTHON_DOWNLOADS = never
export UV_LINK_MODE = copy
# Every test starts processes: they must not compile what they import again and again.
export UV_COMPILE_BYTECODE = 1
UV := $(shell command -v uv 2>/dev/null || echo .boot/bin/uv)
BIN := .venv/bin
WORKERS ?= 2

.PHONY: setup demo serve test test-faults test-fuzz fix lint types docs bench lock clean

setup: .venv/ready  ## put everything into .venv

.boot/bin/uv: requirements-boot.txt
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
	    --require-hashes --target .boot --upgrade -r requirements-boot.txt
	@touch $@

.venv/ready: requirements.txt requirements-demo.txt pyproject.toml hatch_build.py \
    $(wildcard src/headrace/native/*.[ch]) $(filter .boot/%,$(UV))
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync --quiet --require-hashes --python $(BIN)/python requirements.txt requirements-demo.txt
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	$(BIN)/python -m compileall -q src
	@touch $@

demo: setup  ## real data through the server, in about a minute
	@$(BIN)/python demo/run.py

serve: setup  ## start the server
	$(BIN)/headrace serve

test: setup lint types  ## everything that CI runs
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations 20

test-faults: setup  ## every kill at every step
	HEADRACE_FAULTS=all $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m faults

test-fuzz: setup  ## every operation with many more examples
	HEADRACE_FUZZ=200 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests/contract/test_fuzz.py

fix: setup
	$(BIN)/ruff check --quiet --fix --unsafe-fixes . || true
	$(BIN)/ruff format --quiet .

lint: setup
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/python docs/generate.py --check
	$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports

types: setup
	$(BIN)/mypy

docs: setup  ## remake the generated reference
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/views.py

bench: setup  ## side by side with the limits and with peers; fails on its bars (two hours)
	$(BIN)/python bench/all.py

lock: setup  ## remake the locks: hashes, no addresses
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	    --no-emit-find-links --group dev --python-version 3.11 -o requirements.txt pyproject.toml
	$(UV) pip compile --quiet --universal --no-deps --generate-hashes --no-emit-index-url --no-header \
	    --no-emit-find-links -o requirements-demo.txt requirements-demo.in
	$(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
	    --no-emit-find-links -o requirements-boot.txt requirements-boot.in

clean:
	rm -rf .venv .boot .zig-cache src/headrace/native/*.so .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
