# The front door. Meson and Ninja do the building; see README.md for what each command prints.
#   make          build/pumice and build/libpumice.so
#   make demo     the main job at work, on a fresh machine: installs what is missing, builds, fetches a real model, converts it, asks it a question
#   make test     the tests, on a fresh machine: installs what is missing, builds, runs every suite
#   make smollm2-check   the real model against the reference implementation's answers (fetches 93 MB)
#   make quality  what each dtype costs on the real model: bits per weight, KL, top-1, top-5, perplexity (half an hour; fetches 93 MB)
#   make install  [PREFIX=/usr/local] [DESTDIR=...]; run ldconfig after it
BUILD   ?= build
WERROR  ?= false
PREFIX  ?= /usr/local

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@scripts/bootstrap.sh
	@meson setup $(BUILD) -Dwerror=$(WERROR) --prefix=$(PREFIX) > /dev/null

demo: all
	@scripts/demo.sh $(BUILD)/pumice

test: all
	@meson test -C $(BUILD) --print-errorlogs

smollm2-check: all
	@scripts/fetch-smollm2.sh models/smollm2
	@scripts/smollm2-check.sh $(BUILD) models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

quality: all
	@scripts/fetch-smollm2.sh models/smollm2
	@scripts/quality.sh $(BUILD)/pumice models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

install: all
	@grep -qx "prefix=$(PREFIX)" $(BUILD)/meson-private/pumice.pc || { meson configure $(BUILD) -Dprefix=$(PREFIX) && ninja -C $(BUILD); }
	@meson install -C $(BUILD) --no-rebuild $(if $(DESTDIR),--destdir $(DESTDIR))

clean:
	rm -rf $(BUILD)

.PHONY: all demo test smollm2-check quality install clean
