# `make help` lists the targets. Each works as the first command in a clean clone: it makes .venv and the model that it
# needs when they are missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := models/demo
# Its speech is noise and never ends, which tests and benchmarks need.
RANDOM := models/random
MODEL ?= $(DEMO)
GPU_WHEELS := .whl
# These models mark with the published key; any other model needs a key of its own: see README.md.
SERVE_OPTIONS ?= $(if $(filter $(DEMO) $(RANDOM),$(MODEL)),--allow-reference-key) \
    $(if $(filter $(DEMO),$(MODEL)),--voices $(DEMO)/voices)

# Most utterances at once that the engines of `make build` take.
STREAMS ?= 64

.PHONY: help attack clients page fleet demo test quick voice-check floors newest messages docs lint format convert build serve soak \
    watermark-soak gpu-suite gpu-server gpu-suite-wheels gpu-server-files clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(READY) $(DEMO) ## start the whole server, speak a sentence, write out/demo.wav and out/demo.png
	$(BIN)/python -m demo.speak --model $(DEMO)

test: quick ## run all tests (15 minutes on 2 cores)
	$(BIN)/python -m pytest -m "(server or long) and not slow"

quick: $(READY) $(RANDOM) ## run the quick tests, which start no server (3 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not server and not long and not slow" --numprocesses 2 --dist loadfile

voice-check: $(READY) $(DEMO) ## judge the demo's voice on all held-out sentences (10 minutes)
	$(BIN)/python -m demo.voice.evaluate $(DEMO)

floors: $(READY) $(RANDOM) ## run quick tests with the lowest releases that pyproject.toml states (10 minutes)
	$(BIN)/python -m tests.support.floors

newest: $(READY) $(RANDOM) ## the same with the newest releases
	$(BIN)/python -m tests.support.floors newest

messages: $(READY) $(RANDOM) ## run all tests and renew tests/messages.json
	$(BIN)/python -m pytest --renew-messages

docs: $(READY) ## renew docs/metrics.md and the line numbers in docs/architecture.md
	$(BIN)/python -m misotts.serve.stage.metrics > docs/metrics.md
	$(BIN)/python -m tests.support.references docs/architecture.md

lint: $(READY) ## check style, types and imports (2 minutes)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Checkpoint and graph in MODEL/engines, from which `make build` builds engines for the GPU here: docs/deploy.md.
convert: $(READY) $(MODEL) ## write what `make build` reads
	$(BIN)/python -m convert backbone $(MODEL)
	$(BIN)/python -m convert depth $(MODEL)

build: $(READY) $(MODEL) ## build engines for the GPU of this machine
	$(BIN)/python -m build backbone $(MODEL) --max-streams $(STREAMS)
	$(BIN)/python -m build depth $(MODEL) --max-streams $(STREAMS)

serve: $(READY) $(MODEL) ## serve MODEL (default: the demo model)
	$(BIN)/misotts serve --model $(MODEL) $(SERVE_OPTIONS)

attack: $(READY) $(RANDOM) ## try on a running server what any client can try (5 minutes)
	$(BIN)/python -m pytest -m slow tests/attack

clients: $(READY) $(DEMO) ## run other projects' clients against the demo server (6 minutes, 1.2 GB; needs Node 20)
	$(BIN)/python -m tests.support.client_environments
	$(BIN)/python -m pytest -m clients tests/clients

page: $(READY) tests/browser/node_modules ## use the playground in Chromium (1 minute; needs Node 20)
	$(BIN)/python -m pytest -m browser tests/browser

# One exact release of each; a lock file would name the registry.
tests/browser/node_modules: tests/browser/package.json
	npm install --prefix tests/browser --silent --no-package-lock --no-audit --no-fund
	touch $@

fleet: $(READY) $(RANDOM) ## restart and kill servers behind Envoy under load (5 minutes)
	$(BIN)/python -m benchmarks.fleet $(FLEET)

soak: $(READY) $(RANDOM) ## run thousands of callers of which many leave early
	$(BIN)/python -m benchmarks.soak

watermark-soak: $(READY) $(DEMO) ## look for the mark in 10,000 unmarked sounds (15 minutes)
	$(BIN)/python -m benchmarks.watermark_soak

# On a machine with a GPU, with what its Python has and the wheels beside it; elsewhere a rehearsal in .venv.
gpu-suite gpu-server: SUITE_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu-suite gpu-server: export PYTHONPATH := $(CURDIR)/client:$(CURDIR)/gateway:$(CURDIR)/out/gpu-suite-site
gpu-suite: out/gpu-suite-site ## measure the engines on a GPU in 7 minutes; SUITE=--resume goes on
	$(SUITE_PYTHON) -m benchmarks.gpu_suite $(SUITE)

gpu-server: out/gpu-suite-site ## measure the whole server on a GPU in 5 minutes
	$(SUITE_PYTHON) -m benchmarks.gpu_suite --resume --only server $(SUITE)

out/gpu-suite-site: $(wildcard $(GPU_WHEELS)/*.whl)
	rm -rf $@
	mkdir -p $@
	$(if $(wildcard $(BIN)/python),,$(if $^,$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile \
	    --target $@ $^))

# What the GPU machine's Python 3.12 lacks and cannot fetch: made where there is a network, carried along with the
# working tree. tests/benchmarks/test_gpu_suite.py lists what that machine has.
GPU_PACKAGES := cachetools cffi lameenc msgspec pycparser python-multipart python-rapidjson sentencex soundfile soxr \
    starlette tritonclient uvicorn websockets
gpu-suite-wheels: ## download what the GPU machine lacks (6 MB)
	rm -rf $(GPU_WHEELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --dest $(GPU_WHEELS) --constraint constraints.txt \
	    --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	    $(foreach glibc,17 24 27 28 31 34,--platform manylinux_2_$(glibc)_x86_64) --platform manylinux2014_x86_64 \
	    $(shell grep ^moshi stale-pins.txt) $(GPU_PACKAGES)

gpu-server-files: $(READY) ## pack Triton and numpy 1.26 for the GPU machine (35 MB, two minutes)
	$(BIN)/python -m benchmarks.gpu_suite.carried

clean: ## delete .venv, models, outputs and caches
	rm -rf $(VENV) models out $(GPU_WHEELS) .server .pytest_cache .mypy_cache .import_linter_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A draft that becomes $(VENV) only when it is whole is not possible (its scripts name their folder), so the stamp says
# when it is.
$(READY): pyproject.toml client/pyproject.toml gateway/pyproject.toml constraints.txt stale-pins.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable ./client --editable ./gateway --editable '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement stale-pins.txt
	touch $@

MAKERS := demo/model.py $(wildcard demo/silentcipher/weights/*) $(foreach file,config mimi files model/atomic_folder \
    model/checkpoint model/meta_tokenizer model/weight_files,misotts/$(file).py)

$(DEMO): $(MAKERS) $(wildcard demo/voice/weights/* demo/voice/voices/*) | $(READY)
	$(BIN)/python -m demo.model $@
	touch $@

$(RANDOM): $(MAKERS) demo/text.txt | $(READY)
	$(BIN)/python -m demo.model --random $@
	touch $@
