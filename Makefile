# The commands of a new user. Everything is installed into .venv; only make and a POSIX shell are needed.

PYTHON ?=
HOROVOD ?=
ARGS ?=
TEST_PROCESSES ?= 2
BENCH_ARGS ?= -s single -s mirrored -s multiworker -s ps -s horovod -n 1,2 \
	--model cnn --dataset mnist-12k --global-batch 128 --epochs 6 --optimizer adam
BENCH_OUTPUT ?= bench-results

export PIP_ROOT_USER_ACTION = ignore
export PIP_DISABLE_PIP_VERSION_CHECK = 1

py := .venv/bin/python
pythons := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)

# The stamps are written last, so that an interrupted step is done again. A complete .venv that no longer belongs to this
# checkout (it was moved or copied, or its Python was removed) is created again.
stale := $(shell test ! -e .venv/.installed || $(py) -P -c 'import importlib.util, os; \
	assert os.path.samefile(importlib.util.find_spec("stratbench").origin, "__init__.py")' 2>/dev/null || echo stale)

.PHONY: help setup bench test check overhead overhead-steps overhead-startup overhead-exchange noise predictions clean stale wanted

help:
	@echo 'make bench      compare strategies on this machine; results go to bench-results'
	@echo 'make test       run the tests, two at a time (some of them: make test ARGS="-k horovod")'
	@echo 'make check      lint, format and type checks'
	@echo 'make overhead   measure steps, start-up and exchange: docs/performance.md (one: make overhead-startup)'
	@echo 'make noise      measure how often stratbench diff is wrong: docs/method.md (45 minutes)'
	@echo 'make predictions  measure how good stratbench predict is: docs/method.md (12 minutes; Linux and root only)'
	@echo 'make setup      install everything into .venv, Horovod included (about 6 minutes, once);'
	@echo '                bench, test, check and overhead do this by themselves'
	@echo 'make clean      remove .venv and caches; results and the built Horovod (.wheels) stay'
	@echo ''
	@echo 'PYTHON=python3.12     with this Python, not the first one of: $(pythons)'
	@echo 'HOROVOD=0             without Horovod; HOROVOD=1 installs it later'
	@echo 'TEST_PROCESSES=0      tests one at a time'
	@echo 'HOROVOD_WITH_MPI=1, HOROVOD_GPU_OPERATIONS=NCCL and similar variables are used in its build'

setup: .venv/.ready
	@echo 'Ready. Next: make bench, or .venv/bin/stratbench --help'

bench: .venv/.ready
	@# The page shows what could be measured, also where a run failed.
	.venv/bin/stratbench compare $(BENCH_ARGS) --output $(BENCH_OUTPUT) $(ARGS); code=$$?; \
		.venv/bin/stratbench report $(BENCH_OUTPUT) && exit $$code

test: .venv/.ready
	$(py) -m pytest -n $(TEST_PROCESSES) --dist loadfile $(ARGS)

check: .venv/.ready
	$(py) -m ruff check .
	$(py) -m ruff format --check .
	$(py) -m mypy

overhead: overhead-steps overhead-startup overhead-exchange

overhead-steps: .venv/.ready
	$(py) tests/overhead.py $(ARGS)

overhead-startup: .venv/.ready
	$(py) tests/startup.py $(ARGS)

overhead-exchange: .venv/.ready
	$(py) tests/exchange.py $(ARGS)

noise: .venv/.ready
	$(py) tests/noise.py $(ARGS)

predictions: .venv/.ready
	$(py) tests/predictions.py $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: setup.cfg pyproject.toml constraints.txt $(stale)
	@if [ -n '$(stale)' ]; then echo 'The .venv here does not belong to this checkout: creating it again.'; rm -rf .venv; fi
	@$(py) -m pip --version >/dev/null 2>&1 || { \
		found=; \
		for python in $(pythons); do \
			if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo 'stratbench needs Python 3.11, 3.12 or 3.13, as TensorFlow 2.21 does. Tried: $(pythons);' \
				'install one (Debian: apt-get install python3 python3-venv) or name it: make setup PYTHON=...' >&2; exit 1; \
		fi; \
		if ! $$found -c 'import venv, ensurepip' 2>/dev/null; then \
			echo "$$found has no venv module; install it (Debian: apt-get install python3-venv)" >&2; exit 1; \
		fi; \
		echo "Creating .venv with $$found"; \
		rm -rf .venv && $$found -m venv .venv; }
	$(py) -m pip install -c constraints.txt -e '.[dev]'
	@# mypy doesn't follow the import hook of an editable install; setup.cfg points it here.
	@mkdir -p .venv/src && rm -f .venv/src/stratbench && ln -s ../.. .venv/src/stratbench
	@touch $@

# The stamp remembers HOROVOD=0, so that a later `make bench` runs without Horovod too.
.venv/.ready: .venv/.installed harness/horovod_setup/recipe.py harness/horovod_setup/changes.py $(if $(filter 1,$(HOROVOD)),wanted)
ifeq ($(HOROVOD),0)
	@echo 'Without Horovod, because of HOROVOD=0.'
else
	@PIP_CONSTRAINT=constraints.txt .venv/bin/stratbench install-horovod --cache .wheels || { \
		echo 'To continue without Horovod: make setup HOROVOD=0' >&2; exit 1; }
endif
	@.venv/bin/stratbench doctor
	@touch $@
