# make demo and make test each work alone on a fresh clone: they build .venv first.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# uv brings its own certificates; behind a proxy with one of its own, only the system knows whom to trust.
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
SMOKE := --encoder tiny --frames 8 --size 112 --batch 2 --steps 150 --warmup 20 --ema 0.98 --eval-every 75 --workers 1
PEERS := .venv/bench-peers
PEER_PACKAGES := mosaicml-streaming litdata lightning-utilities "transformers<5" "huggingface-hub<1" "tokenizers<0.23" \
	regex catalogue zstd brotli python-snappy cramjam xxhash tqdm obstore tifffile

# Tests and demo start many processes; where Python may not keep what it compiled, each takes 6 s more for torch's modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check bench bench-gpu format clean

# The main job from end to end: a sample, shards, two short trainings, the comparison.
demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: $(READY)
	rm -rf demo
	vdaprep sample tartanair --out demo/raw/tartanair --size 160x120 --archives
	vdaprep sample vkitti --out demo/raw/vkitti --trajectories 6 --size 160x96 --archives
	vdaprep sample mvs-synth --out demo/raw/mvs-synth --trajectories 6 --size 160x90 --archives
	vdaprep convert tartanair --raw demo/raw/tartanair --out demo/shards
	vdaprep convert vkitti --raw demo/raw/vkitti --out demo/shards
	vdaprep convert mvs-synth --raw demo/raw/mvs-synth --out demo/shards
	vdaprep verify demo/shards --deep --geometry
	vdaprep inspect demo/shards/tartanair/train/shard-0001.tar --preview demo/sheet.png
	vdatrain run --shards demo/shards --variant basic --out demo/runs/basic $(SMOKE)
	vdatrain run --shards demo/shards --variant conv --out demo/runs/conv $(SMOKE)
	vdatrain eval --shards demo/shards --checkpoint demo/runs/conv/best.pt
	vdatrain compare demo/runs/basic demo/runs/conv --report demo/report.html
	@echo "Look at demo/sheet.png, demo/comparison.png and demo/report.html."

test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: $(READY)
	$(INSTALL) -e ".[train,dev,bench]"
	-$(MAKE) --no-print-directory $(PEERS)/.ready
	$(BIN)/python -m tests.bench

# Other libraries' readers, in an environment of their own since they ask for old numpy; torch and the like are .venv's.
$(PEERS)/.ready: $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PEERS)
	$(BIN)/uv pip install --quiet --no-deps --python $(PEERS)/bin/python $(PEER_PACKAGES)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/vdakit.pth"
	touch $@

bench-gpu: $(READY)
	$(BIN)/python -m tests.bench --gpu

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(INSTALL) -e ".[train,dev]" || $(INSTALL) --system-certs -e ".[train,dev]"
	touch $(READY)

clean:
	rm -rf .venv demo build dist .pytest_cache .ruff_cache .hypothesis
	find vdaprep vdatrain tests -name __pycache__ -type d -prune -exec rm -rf {} +
