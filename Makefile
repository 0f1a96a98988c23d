# make demo: the whole road on handwritten digits. make test: everything that is checked.
PYTHON ?= python3
BIN := .venv/bin
RUN := demo/run

.PHONY: demo test check emulators fuzzer headers foreign aarch64 clean

demo: .venv/.demo
	rm -rf demo
	$(BIN)/bindeploy train --data digits --model tiny --method bnn++ --mode bwa --epochs 20 --out $(RUN)
	$(BIN)/bindeploy export $(RUN) --target host --out demo/host
	$(BIN)/bindeploy export $(RUN) --target arm --out demo/arm
	$(BIN)/bindeploy verify demo/host
	$(BIN)/bindeploy verify demo/arm
	$(BIN)/bindeploy bench demo/host --compare onnxruntime

test: .venv/.test emulators fuzzer headers foreign aarch64 check
	$(BIN)/python -m pytest --durations=10

check: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'runtime/*.c' 'runtime/*.cc' 'runtime/*.h')

# Emulators of other processors, and a clang with libFuzzer. Without apt, or without the right to install, the tests that need them say that they were skipped.
INSTALL := apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends

emulators:
	@if command -v qemu-aarch64 >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then $(INSTALL) qemu-user; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then sudo sh -c '$(INSTALL) qemu-user'; \
	else echo "no qemu-aarch64 here and no apt to install it: emulated runs will be skipped"; fi

fuzzer:
	@if ls /usr/lib/llvm-19/lib/clang/19/lib/linux/libclang_rt.fuzzer-*.a >/dev/null 2>&1 && command -v clang-19 >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && sh -c '$(INSTALL) clang-19 libclang-rt-19-dev'; then :; \
	elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null && sudo sh -c '$(INSTALL) clang-19 libclang-rt-19-dev'; then :; \
	else echo "no clang-19 with libFuzzer here and none to install: the fuzzer of plans will be skipped"; fi

# onnxruntime's C header (its operators of ours are built against it), and an environment with Brevitas and qonnx, whose word our conversion is
# checked against. Where they cannot be had, the tests that need them say that they were skipped.
headers: .venv/.test
	@[ -f build/onnxruntime/onnxruntime_c_api.h ] || $(BIN)/python runtime/ort/fetch-headers build/onnxruntime || \
	    echo "no header of onnxruntime: its custom operators will not be tested"

foreign: .venv/.test
	@[ -f .venv/foreign/.ready ] || { PYTHON=$(BIN)/python sh tests/foreign/environment && touch .venv/foreign/.ready; } || \
	    echo "no Brevitas and qonnx: foreign graphs will not be compared"

# What modules for 64-bit ARM are run with under qemu-aarch64: TVM's libraries for it, and a host in C++.
aarch64: .venv/.test
	@[ .venv/aarch64/host -nt runtime/tvm/host.cc ] || PYTHON=$(BIN)/python sh tests/tvm/aarch64 .venv/aarch64 || \
	    echo "no 64-bit ARM Linux for TVM's modules: they will not be run there"

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "bindeploy needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv

SOURCES := pyproject.toml constraints.txt $(shell find runtime -name '*.[ch]' -o -name '*.inc' -o -name CMakeLists.txt)

.venv/.demo: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train,cross]'
	@touch $@

.venv/.test: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[train,cross,plot,tvm,dev]'
	@touch $@ .venv/.demo

clean:
	rm -rf .venv build demo
