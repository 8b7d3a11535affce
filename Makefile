# make, bash and Python 3.13 are all that a machine must have. What else is needed goes into .tools, from PyPI.

SHELL := /bin/bash
.DEFAULT_GOAL := help
export SAM_CLI_TELEMETRY := 0

PYTHON := .tools/dev/bin/python
# On all processors. Tests that share a stack stay in one process: tests/conftest.py.
PYTEST := $(PYTHON) -m pytest -n auto
SAM := .tools/sam/bin/sam
CHECKOV := .tools/checkov/bin/checkov

# Each is computed by `make lock` from the file of the same name that ends in .in, and dev.txt from requirements-dev.txt.
LOCKS := $(addprefix functions/,authorizer/requirements.txt streams/requirements.txt submit/requirements.txt worker/requirements.txt) \
    layers/shared/requirements.txt layers/shared/botocore.txt operations/requirements.txt \
    $(addprefix local/requirements/,dev.txt sam.txt ministack.txt runtime.txt checkov.txt site.txt openapi.txt servers.txt lock.txt) \
    local/requirements/judges.txt

# One thing at a time, except in setup.
ifndef PARALLEL
.NOTPARALLEL:
endif

.PHONY: help
help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Install the tools of the other targets into .tools.
	@env -u MAKEFLAGS -u MFLAGS $(MAKE) --no-print-directory --silent -j4 PARALLEL=yes \
	    .tools/dev/.ready .tools/sam/.ready .tools/ministack/.ready .tools/runtime/.ready

.PHONY: run
run: setup ## Run the whole service on this machine, without AWS, until Ctrl-C.
	@$(PYTHON) -m local run

.PHONY: demo
demo: setup ## Run the service, show a chat in each mode, and stop.
	@$(PYTHON) -m local demo

.PHONY: invoke
invoke: ## Run one function of `make run` on one event: make invoke FUNCTION=submit EVENT=events/submit.json
	@$(PYTHON) -m local invoke "$(FUNCTION)" "$(EVENT)" $(if $(RUN),--run "$(RUN)")

.PHONY: test
test: setup .tools/openapi/.ready .tools/node/.ready lint types validate build client ## Check and test everything, as CI does.
	$(PYTEST)

.PHONY: lint
lint: setup ## Check style, formatting, the personas, and the links in the documents.
	$(PYTHON) -m ruff check --no-cache
	$(PYTHON) -m ruff format --check
	$(PYTHON) bundle/personas.py
	$(PYTHON) -m development.links

.PHONY: types
types: setup ## Check types.
	$(PYTHON) -m mypy

.PHONY: validate
validate: setup .tools/checkov/.ready ## Check the template.
	$(SAM) validate --lint
	$(CHECKOV) --file template.yaml --framework cloudformation --skip-download --quiet --compact

.PHONY: build
build: setup ## Build the functions and the layer for Lambda, into .aws-sam.
	$(SAM) build --parallel --no-cached

.PHONY: unit
unit: setup ## Run the unit tests, which need no AWS account.
	$(PYTEST) tests/unit

.PHONY: faults
faults: setup ## Run the fault tests: each call to AWS or the model fails once, or the process crashes after it.
	$(PYTEST) tests/faults

.PHONY: client
client: ## Test the JavaScript client.
	@if command -v node >/dev/null; then node --test clients/javascript/test/*.test.js; \
	else echo "skipped: the tests of clients/javascript need Node 20, and node is not on PATH"; fi

.PHONY: package
package: ## Pack the JavaScript client, into turnqueue-VERSION.tgz.
	@npm pack --silent ./clients/javascript

.PHONY: packages
packages: ## Install the JavaScript client in a Vite, a Next.js and a Jest project, from the npm registry. Minutes.
	@clients/javascript/consumers/check

.PHONY: browser
browser: setup ## Test the console in a browser.
	$(PYTHON) -m pytest tests/browser

.PHONY: mutants
mutants: setup ## Plant bugs in a copy of the code, and check that the fault tests catch each bug.
	$(PYTHON) -m tests.faults.mutants

.PHONY: chaos
chaos: setup ## Kill and stop real processes of a local stack, and print the times to recover. Minutes.
	$(PYTHON) -m pytest tests/chaos

.PHONY: servers
servers: setup .tools/servers/.ready ## Run the worker against LiteLLM and llama.cpp. Installs 830 MB, then takes a minute.
	$(PYTHON) -m pytest tests/servers

.PHONY: judges
judges: setup .tools/judges/.ready .tools/judges-node/.ready ## Test the OpenAI API with clients and test suites of other projects.
	$(PYTHON) -m tests.judges

.PHONY: patience
patience: setup ## Show on a local stack that failures of the model delay answers but lose none. 12 minutes.
	$(PYTHON) -m pytest tests/patience

.PHONY: bench
bench: setup ## Compare inits, calls and CPU with another commit: make bench COMMIT=1a2b3c4. Minutes.
	$(PYTHON) -m benchmarks.before $(COMMIT)

.PHONY: docs
docs: .tools/site/.ready ## Build the site of the documents, into .site.
	NO_MKDOCS_2_WARNING=1 .tools/site/bin/python -m mkdocs build --strict

.PHONY: e2e
e2e: setup ## Test a deployed stack: the local one, or that of API_URL.
	$(PYTHON) -m pytest tests/e2e

.PHONY: clean
clean: ## Remove everything that make created, including .tools.
	rm -rf .aws-sam .local .site .tools .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: deployer
deployer: ## Install only the tools for building and deploying.
	@env -u MAKEFLAGS -u MFLAGS $(MAKE) --no-print-directory --silent .tools/sam/.ready .tools/operations/.ready

.PHONY: lock
lock: .tools/lock/.ready ## Update all lock files of requirements. UPGRADE=--upgrade: use the newest versions.
	@for lock in $(LOCKS); do \
	    input=$${lock%.txt}.in; options=; \
	    case $$lock in \
	        */dev.txt) input=requirements-dev.txt ;; \
	        */botocore.txt) options=--no-deps ;; \
	    esac; \
	    echo "$$lock"; \
	    .tools/lock/bin/uv pip compile --quiet --universal --python-version 3.13 --generate-hashes \
	        --only-binary :all: --no-config --no-annotate --custom-compile-command "make lock" \
	        $$options $(UPGRADE) "$$input" --output-file "$$lock" || exit; \
	done

# Each in its own virtual environment, because their pins clash. All of these are wheels that have the hash of the lock.
.tools/dev/.ready: local/requirements/dev.txt
.tools/sam/.ready: local/requirements/sam.txt
.tools/ministack/.ready: local/requirements/ministack.txt
.tools/runtime/.ready: local/requirements/runtime.txt
.tools/checkov/.ready: local/requirements/checkov.txt
.tools/lock/.ready: local/requirements/lock.txt
.tools/operations/.ready: operations/requirements.txt
.tools/openapi/.ready: local/requirements/openapi.txt
.tools/site/.ready: local/requirements/site.txt
.tools/servers/.ready: local/requirements/servers.txt
.tools/judges/.ready: local/requirements/judges.txt

# The SAM CLI brings much that it never imports.
.tools/sam/.ready: PIP_FLAGS := --no-compile

# From the npm registry, and only where there is Node: the tests that need it are skipped elsewhere.
.tools/node/.ready: local/requirements/node/package.json local/requirements/node/package-lock.json
.tools/judges-node/.ready: local/requirements/judges/package.json local/requirements/judges/package-lock.json
.tools/node/.ready .tools/judges-node/.ready:
	@mkdir -p $(@D) && cp $^ $(@D)
	@if command -v npm >/dev/null; then echo "setting up $(@D)"; \
	cd $(@D) && npm ci --silent --ignore-scripts --no-audit --no-fund && touch .ready; \
	else echo "skipped $(@D): it needs Node 20 or later, and npm is not on PATH"; fi

.tools/%/.ready:
	@echo "setting up .tools/$*"
	@python=$$(bundle/find-python) && "$$python" -m venv --clear .tools/$*
	@.tools/$*/bin/python -m pip install -qq --disable-pip-version-check --no-input \
	    --require-hashes --only-binary :all: $(PIP_FLAGS) -r $<
	@touch $@
