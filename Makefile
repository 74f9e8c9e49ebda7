# One line of real command each; `make help` lists them.
.DEFAULT_GOAL := help
SWIFT ?= swift
RELEASE = .build/release/qblk
PREFIX ?= /usr/local

.PHONY: help deps test-deps build release demo test test-backend check fmt lint bench fuzz fuzz-smoke cost docs man install clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

deps: ## install what building needs (apt)
	@tools/deps

test-deps: ## install what the tests and the demo need: QEMU, fio, filesystems (apt)
	@tools/deps --test

build: deps ## debug build
	$(SWIFT) build

release: deps ## release build, the Swift runtime inside
	$(SWIFT) build -c release --static-swift-stdlib --product qblk

demo: test-deps release ## make an image with a filesystem, map it, mount it, compare a file, unmap it
	@tools/demo $(RELEASE)

test: test-deps release ## all tests, or those that FILTER=REGEX names; some run in the kernel guest
	@tools/test $(RELEASE) $(if $(FILTER),--filter '$(FILTER)')

test-backend: test-deps release ## the tests of serve's backend by themselves
	@tools/test $(RELEASE) --filter '^VhostUserBlkTests\.'

check: deps lint ## formatting and the rules of the house
	$(SWIFT) format lint --strict --recursive --parallel Package.swift Sources Tests

lint: ## import floors, sizes, forbidden words, paths in the docs
	@tools/lint

fmt: ## format the sources
	$(SWIFT) format --in-place --recursive --parallel Package.swift Sources Tests

bench: test-deps release ## speed against the peers, as ratios, in one run
	@tools/bench/run $(RELEASE)

fuzz: test-deps ## the fuzzers, a minute each
	@tools/fuzz/qcow2/run 60 && tools/fuzz/virtqueue/run 60 && tools/fuzz/vhost-user/run 60

fuzz-smoke: test-deps ## a short run of each fuzzer, the same each time, after it has found a planted bug
	@tools/fuzz/qcow2/run smoke && tools/fuzz/virtqueue/run smoke && tools/fuzz/vhost-user/run smoke

cost: test-deps ## instructions a request costs, held against the recorded ones
	@tools/cost/worker/cost --check && tools/cost/virtqueue/cost --check

docs: deps ## build the reference documentation (DocC) as HTML, in .build/docs
	@tools/docs

man: deps ## write the man pages from the option tables
	@tools/man

install: release ## install into PREFIX (/usr/local)
	@tools/install $(RELEASE) $(DESTDIR)$(PREFIX)

clean: ## remove what was built
	rm -rf .build
