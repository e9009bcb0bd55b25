# Needs Python 3.9 or later and make. Which Python: make test PYTHON=python3.12
PYTHON ?= python3
# Passed on to what the target runs: make test ARGS="-k stream" COVERAGE=0
ARGS ?=
# The least share of the lines of flynn/ that the tests must cover, in percent.
COVERAGE ?= 95
# How many test files run at the same time; most tests wait. WORKERS= runs one after the other: for ARGS="--pdb".
WORKERS ?= 3

.PHONY: help demo serve test test-all test-platforms lint stress bench pyz install-service uninstall-service service-status service-logs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## /  make \1\t/p' Makefile

# As it was given: make would expand what follows a $ in it.
demo: override export PROMPT := $(value PROMPT)
demo:  ## chat with a real model on this machine; or PROMPT="..." or prompts on standard input
	@$(PYTHON) scripts/demo.py

serve:  ## the demo's server on port 8080, with tools and longer prompts, until Ctrl-C
	@$(PYTHON) scripts/demo.py serve

test:  ## run all tests, with a real llama.cpp server, and measure their coverage of flynn/
	@python=$$($(PYTHON) scripts/environment.py test) && \
	{ $(PYTHON) scripts/environment.py server >/dev/null || test -z "$$CI"; } && \
	{ $(PYTHON) scripts/native_server.py >/dev/null || test -z "$$CI"; } && \
	$$python -m coverage erase && \
	$$python -m coverage run -m pytest $(if $(WORKERS),-n $(WORKERS) --dist loadfile) $(ARGS) && \
	$$python -m coverage combine --quiet && \
	$$python -m coverage report --fail-under=$(COVERAGE)

test-all:  ## the same with each Python from 3.9 to 3.15 that is found here
	@pythons=$$($(PYTHON) scripts/environment.py pythons) && failed= && \
	for python in $$pythons; do \
		echo "== $$python"; \
		$(MAKE) --no-print-directory test PYTHON=$$python || failed="$$failed $$python"; \
	done && \
	{ test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }; }

test-platforms:  ## Flynn on 32-bit ARM, under qemu, and on musl: fetches Pythons for that, or compiles them
	@python=$$($(PYTHON) scripts/environment.py test) && \
	$(PYTHON) scripts/environment.py server >/dev/null && \
	$(PYTHON) scripts/platforms.py arm && \
	$(PYTHON) scripts/platforms.py musl && \
	$$python -m pytest -v -m platforms $(ARGS)

lint:  ## ruff, mypy --strict, pyright on what callers see, and Flynn's reading of YAML compared with PyYAML's
	@python=$$($(PYTHON) scripts/environment.py lint) && \
	$$python -m ruff check && \
	$$python -m mypy && \
	$$python -m basedpyright --project tests/typed && \
	{ test ! -e scripts/compare_yaml.py || $$python scripts/compare_yaml.py; }

stress:  ## the long trials, about five minutes: what Flynn survives, in figures
	@python=$$($(PYTHON) scripts/environment.py stress) && $$python -W error scripts/stress.py $(ARGS)

bench:  ## what Flynn costs, beside its peers: ARGS="--help"
	@$(PYTHON) scripts/benchmark.py $(ARGS)

pyz:  ## Flynn as one executable file, dist/flynn.pyz
	@$(PYTHON) scripts/build_pyz.py

install-service:  ## model, systemd user unit, start, first answer: ARGS="--help"
	@$(PYTHON) scripts/install_service.py $(ARGS)

uninstall-service:  ## undo it; keeps the model (ARGS="--delete-model" does not)
	@$(PYTHON) scripts/install_service.py uninstall $(ARGS)

service-status:  ## what systemd knows of the service
	@$(PYTHON) scripts/install_service.py status $(ARGS)

service-logs:  ## its log: ARGS="-f"
	@$(PYTHON) scripts/install_service.py logs $(ARGS)

clean:  ## remove all that make made, environments and the model included
	rm -rf .venv build dist *.egg-info .coverage .coverage.* .*_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
