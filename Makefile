# Every target works on a fresh clone: it makes .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The gateways that we are compared with have a place of their own: nothing of ours depends on them.
PEERS := .venv-peers
# So has a real vLLM: minutes and gigabytes the first time.
VLLM := .venv-vllm

.PHONY: demo test test-vllm check fmt bench bench-peers proto clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[demo,simulate]' --group dev
	touch $@

demo: $(STAMP)
	$(BIN)/extproc demo $(ARGS)

test: $(STAMP)
	$(BIN)/pytest $(ARGS)

test-vllm: $(STAMP)
	$(BIN)/python -m workers.vllm.install $(VLLM)
	$(BIN)/pytest tests/vllm $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python -m tests.bench $(ARGS)

$(PEERS)/.installed: Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet smg==1.13.0
	$(PEERS)/bin/pip install --quiet vllm-router==0.1.17 || echo 'vllm-router cannot be installed: it is left out'
	touch $@

bench-peers: $(STAMP) $(PEERS)/.installed
	$(BIN)/python -m tests.bench peers routing $(ARGS)

proto: $(STAMP)
	$(BIN)/python proto/generate.py

clean:
	rm -rf $(VENV) $(PEERS) $(VLLM) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
