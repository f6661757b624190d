# `make demo` and `make test` set up .venv by themselves, from PYTHON and a package index.

PYTHON ?= python3
PYTHON310 ?= python3.10
BIN := .venv/bin
READY := .venv/ready
RUN := runs/demo
THREADS := 2

FRAMEWORKS := torch synsense spyx

.PHONY: help demo test lint format docs wheel fuzz fuzz-again proof conformance conformance-docs netx
.PHONY: bench bench-onnx bench-compile bench-peers bench-train bench-methods bench-loading bench-quantisation clean

help: ## Show this text
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(READY) ## Train on handwritten digits, compile for Loihi 2, run on Lava's simulator, compare
	@rm -rf $(RUN)
	$(BIN)/neurocompile train --preset digits -o $(RUN)
	$(BIN)/neurocompile export $(RUN) --target loihi2 -o $(RUN)/loihi2
	$(BIN)/neurocompile verify $(RUN)/loihi2 --input digits:test --report $(RUN)

test: lint ## Check style and types, then run all tests
	$(BIN)/pytest

lint: $(READY) ## Check formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## Build the documentation site into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: $(READY) ## Build the wheel and look at what is in it
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/check-wheel-contents dist/*.whl

fuzz: $(READY) ## Ten times the random networks of the tests, from a new seed that it prints
	@seed=$$($(BIN)/python -c 'import secrets; print(secrets.randbelow(2**32))'); \
	echo "seed $$seed (again: make fuzz-again SEED=$$seed)"; \
	NEUROCOMPILE_FUZZ=10 $(BIN)/pytest tests/fuzz --hypothesis-seed=$$seed

proof: $(READY) ## The deep networks of the papers with all channels on Lava, event CNNs on all recordings
	NEUROCOMPILE_PROOF_WIDTH=1 $(BIN)/pytest tests/proof/test_deep_networks.py tests/proof/test_event_cnns.py --durations=0

fuzz-again: $(READY) ## The same random networks again: SEED=... as printed
	NEUROCOMPILE_FUZZ=10 $(BIN)/pytest tests/fuzz --hypothesis-seed=$(SEED)

conformance: $(READY) $(FRAMEWORKS:%=.conformance/%/ready) ## Run the other frameworks again, beside their recordings and beside us
	$(BIN)/python tests/conformance/rerun.py .conformance $(if $(SEED),--seed $(SEED))

conformance-docs: $(READY) ## Write docs/conformance.md from recordings and compiled networks
	$(BIN)/python tests/conformance/matrix.py

netx: $(READY) .conformance/netx/ready ## Load our .net files with lava-dl's netx and compare the spikes; needs a Python 3.10
	$(BIN)/python tests/netx_real/compare.py .conformance/netx/bin/python

.conformance/netx/ready: tests/netx_real/requirements.txt
	$(PYTHON310) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --requirement $<
	@touch $@

# The frameworks disagree about nir and numpy, and none is needed to use or to test neurocompile.
.conformance/%/ready: tests/conformance/record/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --requirement $<
	@touch $@

# As many threads for everybody who is measured: numpy's BLAS, PyTorch and compiled kernels.
bench bench-onnx bench-peers bench-train bench-methods bench-loading bench-quantisation: export OMP_NUM_THREADS := $(THREADS)
bench bench-onnx bench-peers bench-train bench-methods bench-loading bench-quantisation: export OPENBLAS_NUM_THREADS := $(THREADS)
bench bench-onnx bench-peers bench-train bench-methods bench-loading bench-quantisation: export NUMBA_NUM_THREADS := $(THREADS)

bench: $(READY) ## Measure the integer engine beside Lava and PyTorch; writes benchmarks/results
	$(BIN)/python benchmarks/engine.py

bench-onnx: $(READY) ## Measure ONNX Runtime beside the integer engine, Lava and PyTorch
	$(BIN)/python benchmarks/engine.py --sections throughput one_sample --name onnx

bench-compile: $(READY) ## Measure what compiling the papers' deep networks takes
	$(BIN)/python benchmarks/compile_deep.py

bench-peers: $(READY) .bench/peers/ready ## Measure other frameworks' inference of the same network
	$(BIN)/python benchmarks/compare_peers.py .bench/peers/bin/python

bench-train: $(READY) .bench/peers/ready ## Measure training steps beside ReLU and other frameworks
	$(BIN)/python benchmarks/train_step.py .bench/peers/bin/python

bench-methods: $(READY) ## Train by every method for a few epochs: accuracies and what they cost
	$(BIN)/python benchmarks/methods.py

bench-quantisation: $(READY) ## Measure what each method of quantisation costs, beside floats and the usual rounding
	$(BIN)/python benchmarks/quantisation.py

bench-loading: $(READY) ## Measure whether event data keep up with training
	$(BIN)/python benchmarks/loading.py

.bench/peers/ready: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --requirement $<
	@touch $@

clean: ## Remove what was built; runs stay
	rm -rf .venv .vision .conformance .bench dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# lava-nc declares Python 3.10 only; on newer ones it is installed besides and loaded through our shim.
# torchvision's wheels are for CUDA builds of PyTorch; beside another build they break Lightning, which looks
# for them, so that tests of what it reads take it from a folder of its own.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,events,tensorboard,plot,distances,fast,onnx,loihi2,dev,docs]'
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 11))' \
		|| $(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python --constraint constraints.txt lava-nc
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .vision --constraint constraints.txt torchvision
	@touch $@
