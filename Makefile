# The verbs that a person and CI share. PYTHON is the path of an environment's interpreter:
#   make check                            the one that the README sets up
#   make check PYTHON=/opt/env/bin/python another one
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))

.PHONY: check test numerics page torchless oip ray spark typing demo bench docs pictures

check:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m pyrefly check --python-interpreter-path $(PYTHON)
	$(BIN)lint-imports

test:
	$(PYTHON) -m pytest --cov -n auto

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
	  "$$venv/bin/pip" install --quiet mypy 'pyright[nodejs]' pandas-stubs; \
	  "$$venv/bin/mypy" --strict --warn-unused-ignores --python-executable $(PYTHON) \
	    --cache-dir "$$venv/cache" tests/typing/user_code.py; \
	  echo '{"reportUnnecessaryTypeIgnoreComment": "error"}' >"$$venv/pyrightconfig.json"; \
	  "$$venv/bin/pyright" --pythonpath $(PYTHON) tests/typing/user_code.py

pictures: # those of the README, from a run made for them; needs chromium and the extra [report]
	$(PYTHON) docs/pictures.py

docs: # needs the extra [docs]; writes site/
	$(PYTHON) -m zensical build --strict
