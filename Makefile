# `make demo` shows the program at work, `make test` runs every test; `make help` lists the rest.

PREFIX = /usr/local
DESTDIR =
CARGO = cargo
TARGET = $(or $(CARGO_TARGET_DIR),target)

BINARY = $(TARGET)/release/archive
SHARE = $(DESTDIR)$(PREFIX)/share
# Without XDG_DATA_DIRS, as in a login by ssh, fish does not look below /usr/local.
FISH = $(if $(filter /usr/local,$(PREFIX)),$(DESTDIR)/etc/fish/completions,$(SHARE)/fish/vendor_completions.d)
PAGES = $(wildcard man/*.[15])
TEST_NEEDS = ssh:openssh-client sshd:openssh-server rsync:rsync setfattr:attr setfacl:acl setcap:libcap2-bin mkfs.ext4:e2fsprogs \
  mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs
# Tests wait for ssh and disks most of the time.
THREADS = $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n > 4 ? n : 4)))
RUNNER = $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: build demo test test-fs torture histories simulate reverts fuzz check bench man install uninstall clean help

build: ## the program, at target/release/archive
	$(CARGO) build --release --locked
	touch $(BINARY)

# Only what is older than its sources is built, so that `sudo make install` after `make build` needs no Rust.
$(BINARY): $(shell find src remote Cargo.toml Cargo.lock -type f)
	$(MAKE) build

demo: build ## pulls real files through a throw-away sshd, and shows what came of it
	tests/demo.sh $(BINARY)

test: ## every test but the longest; installs what they need
	tests/needs.sh $(TEST_NEEDS)
	NEXTEST_TEST_THREADS=$(THREADS) RUST_TEST_THREADS=$(THREADS) $(CARGO) $(RUNNER) --workspace --locked

test-fs: build ## pulls onto real GlusterFS, MooseFS, sshfs, NFS and exFAT, as root; installs what they need; FS="sshfs nfs" says which
	tests/needs.sh rsync:rsync
	tests/file-systems.sh $(BINARY) $(FS)

torture: ## random changes, pulls, kills, faults and rebuilds; SEED=1 and STEPS=1000 say which and how many
	tests/needs.sh $(TEST_NEEDS)
	TORTURE_SEED=$(or $(SEED),$(shell date +%s)) TORTURE_STEPS=$(or $(STEPS),1000) \
	  $(CARGO) test --locked --test integration -- --nocapture torture::

histories: ## random histories of clients and repositories; COUNT=10000, SEED=1 and OPS=40 say which, as many as fit at once
	tests/needs.sh mkfs.ext4:e2fsprogs
	HISTORIES=$(or $(COUNT),10000) HISTORIES_SEED=$(or $(SEED),1) HISTORIES_OPS=$(or $(OPS),40) \
	  $(CARGO) test --locked --test integration -- --nocapture histories::every

simulate: ## random histories of changes and pulls in one process; SEED=1 is the first, STEPS=100000 how many steps in all
	SIMULATE_SEED=$(or $(SEED),1) SIMULATE_STEPS=$(or $(STEPS),100000) \
	  $(CARGO) test --locked --lib -- --nocapture pull::tests::simulated

reverts: ## undoes fixes one at a time, and the histories must find each; FIXES="a1 a5" says which, COUNT=1500 how many histories
	tests/needs.sh mkfs.ext4:e2fsprogs
	COUNT=$(or $(COUNT),1500) SEED=$(or $(SEED),50000) OPS=$(or $(OPS),40) tests/reverts.sh $(FIXES)

fuzz: ## the decoders, each for TIME=600; wants the nightly toolchain and `cargo install cargo-fuzz`
	for target in frames sftp config; do \
	  mkdir -p $(TARGET)/fuzz/$$target && cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir $(TARGET)/fuzz-build \
	    $$target $(TARGET)/fuzz/$$target tests/fuzz/seeds/$$target -- -max_total_time=$(or $(TIME),600) || exit 1; \
	done

check: ## formatting, lints, the order of the house, the manual pages
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --locked --test integration -- tidy:: man::
	tests/lint.sh $(PAGES)

bench: ## compares with rsync; BENCH_QUICK=1 is short, BENCH_LONG=1 goes up to ten million files
	tests/needs.sh ssh:openssh-client sshd:openssh-server rsync:rsync
	$(CARGO) bench --locked --bench bench

man: ## writes the option part of archive(1) anew
	UPDATE_MAN=1 $(CARGO) test --locked --test integration -- man::

install: $(BINARY) ## to DESTDIR and PREFIX
	install -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/archive
	install -d $(SHARE)/man/man1 $(SHARE)/man/man5
	install -m 644 $(filter %.1,$(PAGES)) $(SHARE)/man/man1
	install -m 644 $(filter %.5,$(PAGES)) $(SHARE)/man/man5
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(FISH)
	$(BINARY) completions bash > $(SHARE)/bash-completion/completions/archive
	$(BINARY) completions zsh > $(SHARE)/zsh/site-functions/_archive
	$(BINARY) completions fish > $(FISH)/archive.fish

uninstall: ## from DESTDIR and PREFIX
	rm -f $(DESTDIR)$(PREFIX)/bin/archive
	rm -f $(addprefix $(SHARE)/man/man1/,$(notdir $(filter %.1,$(PAGES)))) $(addprefix $(SHARE)/man/man5/,$(notdir $(filter %.5,$(PAGES))))
	rm -f $(SHARE)/bash-completion/completions/archive $(SHARE)/zsh/site-functions/_archive
	rm -f $(FISH)/archive.fish

clean: ## removes what was built
	$(CARGO) clean

help:
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1: /p' Makefile
