# The verbs that a person and CI share. PYTHON is the path of an environment's interpreter:
#   make check                            the one that the README sets up
#   make check PYTHON=/opt/env/bin/python another one
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))
# What makes the environments of dist, wheel, lowest and newest: BASE=python3.13
BASE ?= python3

.PHONY: check test numerics page torchless oip ray spark typing demo bench docs pictures \
  notebooks dist wheel lowest newest audit fuzz

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyrefly check --python-interpreter-path $(PYTHON)
	$(BIN)lint-imports

test: # while you work; pytest alone, as the README has it, runs the slow tests too
	$(PYTHON) -m pytest -n auto -m "not slow"

numerics: # the numeric tests by the kernels of other x86-64 CPUs
	@set -e; for setting in ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE; do \
	  echo "== $$setting"; \
	  env $$setting $(PYTHON) -m pytest -q -n auto tests/nn tests/models tests/objective tests/debias tests/calibration; \
	done

page: # the report's page, opened in a real Chromium
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  { echo "make page needs chromium: apt-get install chromium" >&2; exit 1; }
	$(PYTHON) -m pytest -m chromium tests/report

torchless: # serving, in an environment that has neither torch nor numba
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  python3 -m venv "$$venv"; \
	  "$$venv/bin/pip" install --quiet -r serve-requirements.txt; \
	  "$$venv/bin/pip" install --quiet --no-deps .; \
	  POLYRANK_WITHOUT_TORCH="$$venv/bin/python" $(PYTHON) -m pytest tests/serve/test_without_torch.py

oip: # a public client of the Open Inference Protocol, in an environment of its own
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  python3 -m venv "$$venv"; \
	  "$$venv/bin/pip" install --quiet 'tritonclient[http]'; \
	  OIP_PYTHON="$$venv/bin/python" $(PYTHON) -m pytest tests/serve/app/test_oip.py

ray: # Ray's workers, in an environment with the extra [ray] that is laid over PYTHON's
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  $(PYTHON) -m venv "$$venv"; \
	  below=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  own=$$("$$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  echo "import site; site.addsitedir('$$below')" >"$$own/below.pth"; \
	  "$$venv/bin/pip" install --quiet '.[ray]'; \
	  "$$venv/bin/python" -m pytest -p no:unraisableexception tests/test_ray.py

spark: # Spark's workers, in an environment that has the extra [spark] and neither torch nor numba
	@command -v java >/dev/null || \
	  { echo "make spark needs Java: apt-get install default-jre-headless" >&2; exit 1; }
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  python3 -m venv "$$venv"; \
	  "$$venv/bin/pip" install --quiet -r serve-requirements.txt pyspark pytest hypothesis; \
	  "$$venv/bin/pip" install --quiet --no-deps .; \
	  POLYRANK_WITH_TORCH="$(abspath $(PYTHON))" "$$venv/bin/python" -m pytest tests/test_spark.py

demo:
	$(BIN)polyrank demo

bench: # needs the extra [bench]; each file is a script that prints its own table
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(PYTHON) "$$script"; done

typing: # code that uses polyrank, as mypy and pyright see it, in an environment of their own
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  python3 -m venv "$$venv"; \
	  "$$venv/bin/pip" install --quiet mypy 'pyright[nodejs]'; \
	  mkdir "$$venv/code"; cp tests/typing/* "$$venv/code"; \
	  "$$venv/bin/mypy" --strict --python-executable "$(abspath $(PYTHON))" --cache-dir "$$venv/cache" \
	    "$$venv/code/user_code.py"; \
	  "$$venv/bin/pyright" --project "$$venv/code" --pythonpath "$(abspath $(PYTHON))"

pictures: # those of the README, from a run made for them; needs chromium and the extra [report]
	$(PYTHON) docs/pictures.py

notebooks: # executed in an environment with the extra [notebooks] that is laid over PYTHON's; writes their pages
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  $(PYTHON) -m venv "$$venv"; \
	  below=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  own=$$("$$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  echo "import site; site.addsitedir('$$below')" >"$$own/below.pth"; \
	  "$$venv/bin/pip" install --quiet '.[notebooks]'; \
	  "$$venv/bin/python" docs/notebooks.py

docs: # needs the extra [docs]; writes site/
	$(PYTHON) -m zensical build --strict

dist: # dist/: the sdist and the wheel, checked
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  $(BASE) -m venv "$$venv"; \
	  "$$venv/bin/pip" install --quiet build 'twine>=6.1'; \
	  rm -rf dist; "$$venv/bin/python" -m build; \
	  "$$venv/bin/twine" check --strict dist/*

# The wheel in an environment of its own, the demo from there, and in dist/ the software bill of materials
# (CycloneDX) of what its installation brought.
wheel: dist
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  $(BASE) -m venv "$$venv/own"; $(BASE) -m venv "$$venv/tool"; \
	  "$$venv/own/bin/pip" install --quiet dist/*.whl; \
	  "$$venv/tool/bin/pip" install --quiet cyclonedx-bom; \
	  "$$venv/tool/bin/cyclonedx-py" environment --output-reproducible --pyproject pyproject.toml \
	    --output-file dist/polyrank.cdx.json "$$venv/own/bin/python"; \
	  cd "$$venv"; own/bin/polyrank demo

# The tests, or those of TESTS, in an environment of their own: with the lowest version of each dependency
# that pyproject.toml allows, and with the newest.
lowest: CONSTRAINTS = $(BASE) .ci/lowest.py
newest: CONSTRAINTS = true
lowest newest:
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  $(CONSTRAINTS) >"$$venv/constraints.txt"; \
	  $(BASE) -m venv "$$venv"; \
	  "$$venv/bin/pip" install --quiet --constraint "$$venv/constraints.txt" --editable '.[dev]'; \
	  "$$venv/bin/python" -m pytest -n auto $(TESTS)

audit: # what is known against the versions of PYTHON's environment; needs PyPI's JSON answers
	@set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; \
	  $(BASE) -m venv "$$venv"; \
	  "$$venv/bin/pip" install --quiet pip-audit; \
	  $(PYTHON) -m pip list --format freeze --exclude-editable | sed 's/+cpu$$//' >"$$venv/found.txt"; \
	  "$$venv/bin/pip-audit" --strict --no-deps --disable-pip --requirement "$$venv/found.txt"

MINUTES ?= 1
fuzz: # inputs that nobody meant: bundles, experiments, logs and requests, so many minutes a target
	FUZZ_MINUTES=$(MINUTES) $(PYTHON) -m pytest tests/fuzz
