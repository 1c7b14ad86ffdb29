# SPDX-License-Identifier: BSD-3-Clause
# Thin: meson and ninja build, tests/run tests. "make help" lists the targets.

BUILD_DIR ?= build
prefix ?= /usr/local
DESTDIR ?=
PYTHON ?= /usr/bin/python3

.DEFAULT_GOAL := all
.PHONY: all demo test check-fast check-models check-debian13 check-aarch64 check-tsan analyze bench bench-compare soak install clean help

all: ## build everything into build/ (installs the Debian packages this needs, if any is missing)
	@scripts/build.sh $(BUILD_DIR)

demo: ## a VM does verified I/O on remote NVMe/TCP disks, NVMe and virtio-blk, and does not notice kill -9 of service and target
	@scripts/deps.sh build guest
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) scripts/demo.py

test: ## every test, as CI runs it; ends with "N passed, M failed"
	@scripts/deps.sh all
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) tests/run

check-fast: ## style, unit, cost, rpc and wire tests: a few minutes
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) tests/run --fast

check-debian13: ## build and test with Debian 13's compilers, in a file tree of its own: 4 minutes
	@scripts/deps.sh test
	@$(PYTHON) tests/portability/debian13.py

check-aarch64: ## cross-build for aarch64; all unit, wire and recovery tests under qemu-user
	@scripts/deps.sh build test
	@$(PYTHON) tests/run --suite unit-aarch64-all --suite wire-aarch64-all --suite recovery-aarch64

check-tsan: ## rpc, wire, nvmeof, target and recovery under ThreadSanitizer
	@scripts/deps.sh build test
	@$(PYTHON) tests/run --suite unit-tsan --suite rpc-tsan --suite wire-tsan --suite nvmeof-tsan --suite target-tsan --suite recovery-tsan

analyze: ## gcc -fanalyzer and cppcheck; what they find wrongly is explained in tests/style/analyze_exceptions.txt
	@scripts/deps.sh build test
	@scripts/build.sh $(BUILD_DIR)
	@BUILD_DIR=$(BUILD_DIR) $(PYTHON) tests/style/analyze.py

check-models: ## the bounded models of docs/models (MODEL_KILLS=2: deeper, minutes)
	@scripts/deps.sh build test
	@$(PYTHON) tests/run --suite models

bench: ## measure the data path beside the peers that Debian has; BENCH="--group NAME --runs N --write-docs ..."
	@scripts/deps.sh all
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) bench/run $(BENCH)

bench-compare: ## this tree against another revision, in turn: REV=... [BENCH="--group NAME"]
	@scripts/deps.sh all
	@scripts/build.sh $(BUILD_DIR)
	@bench/compare "$(REV)" $(BUILD_DIR) $(BENCH)

soak: ## kill and recovery rounds for SOAK_MINUTES (default 60)
	@scripts/deps.sh build test
	@scripts/build.sh $(BUILD_DIR)
	@$(PYTHON) tests/run --soak

install: ## install below $(DESTDIR)$(prefix)
	@scripts/build.sh $(BUILD_DIR) -Dprefix=$(abspath $(prefix))
	@meson install -C $(BUILD_DIR) --no-rebuild $(if $(DESTDIR),--destdir $(abspath $(DESTDIR)))

clean: ## remove the build directories
	rm -rf $(BUILD_DIR) build-asan build-tsan build-debian13 build-aarch64

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
