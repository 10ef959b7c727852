# make demo and make test each work alone on a fresh clone: they build .venv first, the demo a smaller one.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEMO_READY := .venv/.ready-demo
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
, := ,
# uv brings its own certificates; behind a proxy with one of its own, only the system knows whom to trust: that is tried
# next, and what the first try said is shown only if both fail.
install = $(INSTALL) -e ".[$(1)]" 2>.venv/install.log || $(INSTALL) --system-certs -e ".[$(1)]" 2>/dev/null \
	|| { cat .venv/install.log >&2; exit 1; }
PEERS := .venv/bench-peers
PEER_PACKAGES := mosaicml-streaming litdata lightning-utilities "transformers<5" "huggingface-hub<1" "tokenizers<0.23" \
	regex catalogue zstd brotli python-snappy cramjam xxhash tqdm obstore tifffile

# Tests and demo start many processes; where Python may not keep what it compiled, each takes 6 s more for torch's modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo study test test-all test-gpu check bench bench-gpu fuzz format clean

# The main job from end to end: a sample, shards, two short trainings, the comparison.
demo: export PATH := $(CURDIR)/$(BIN):$(PATH)
demo: $(DEMO_READY)
	rm -rf demo
	vdaprep sample tartanair --out demo/raw/tartanair --size 160x120 --archives
	vdaprep sample vkitti --out demo/raw/vkitti --trajectories 6 --size 160x96 --archives
	vdaprep sample mvs-synth --out demo/raw/mvs-synth --trajectories 6 --size 160x90 --archives
	vdaprep convert tartanair --raw demo/raw/tartanair --out demo/shards
	vdaprep convert vkitti --raw demo/raw/vkitti --out demo/shards
	vdaprep convert mvs-synth --raw demo/raw/mvs-synth --out demo/shards
	vdaprep verify demo/shards --deep --geometry
	vdaprep inspect demo/shards/tartanair/train/shard-0001.tar --preview demo/sheet.png
	vdatrain run --shards demo/shards --recipe tiny-cpu --out demo/runs/basic | tee demo/basic.txt
	test $$(grep -c ", as expected" demo/basic.txt) = 3
	vdatrain run --shards demo/shards --recipe tiny-cpu --variant conv --out demo/runs/conv
	vdatrain eval --shards demo/shards --checkpoint demo/runs/conv/best.pt
	vdatrain compare demo/runs/basic demo/runs/conv --report demo/report.html
	@echo "Look at demo/sheet.png and demo/report.html."

# The study of .github/STUDY.md again, in some 2.5 hours of two cores; what was stopped goes on.
STUDY_SHARDS := $(foreach set,tartanair mvs-synth vkitti,study/shards/$(set)/dataset.json)
STUDY := vdatrain study --shards study/shards --steps 500 --warmup 40 --eval-every 250 --eval-windows 16 --log-every 20 \
	--jobs 2
BRANCHES := basic,conv,tdn,gate,film,token,wide,shift,fine,coarse,conv:zeros,conv:shuffled,conv:past,conv:decoded
SUPERVISED := basic+stride_weight=1,basic+stride_weight=1+stability=0.1,basic+warp_weight=1
FINALISTS := basic,conv,gate,token,fine,fine:decoded,basic+stride_weight=1+stability=0.1,basic+warp_weight=1
study: export PATH := $(CURDIR)/$(BIN):$(PATH)
study: export OMP_NUM_THREADS := 1
study: $(STUDY_SHARDS)
	$(STUDY) --variants $(BRANCHES),$(SUPERVISED) --seeds 0,1,2 --out study/differences
	mkdir -p study/three-seeds && cp study/differences/report.html study/differences/table.md study/three-seeds/
	$(STUDY) --variants $(FINALISTS) --seeds 0,1,2,3,4 --out study/differences
	@echo "Look at study/three-seeds/report.html and, of the finalists, study/differences/report.html."

study/shards/%/dataset.json: export PATH := $(CURDIR)/$(BIN):$(PATH)
study/shards/%/dataset.json: | $(DEMO_READY)
	rm -rf study/raw/$*
	vdaprep sample $* --preset study --stress none,all --out study/raw/$*
	vdaprep convert $* --raw study/raw/$* --out study/shards $(if $(filter mvs-synth,$*),--splits study)

# What a change can break, in minutes.
test: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow and not ray and not s3 and not gpu" tests/unit tests/integration tests/golden

# With it what takes longer: faults (kills, full disks, damage), several ranks, a local Ray cluster, a local S3 server.
test-all: $(READY)
	$(BIN)/pytest -n 2 --dist worksteal

# On a machine with a GPU: those tests that need it.
test-gpu: $(READY)
	$(BIN)/pytest -m gpu

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: $(READY)
	-$(MAKE) --no-print-directory $(PEERS)/.ready
	$(BIN)/python -m tests.bench

# Other libraries' readers, in an environment of their own since they ask for old numpy; torch and the like are .venv's.
$(PEERS)/.ready: $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(PEERS)
	$(BIN)/uv pip install --quiet --no-deps --python $(PEERS)/bin/python $(PEER_PACKAGES)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$($(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/vdakit.pth"
	touch $@

# A mutation run over every parser, for five minutes or FUZZ_SECONDS; what fails is kept in fuzz/.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz

bench-gpu: $(READY)
	$(BIN)/python -m tests.bench --gpu

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The demo does with less than the tests; each stamp says what .venv holds.
$(READY): pyproject.toml | $(BIN)/uv
	@$(call install,train$(,)dev)
	@touch $(DEMO_READY) $@

$(DEMO_READY): pyproject.toml | $(BIN)/uv
	@$(call install,train$(,)report)
	@touch $@

$(BIN)/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

clean:
	rm -rf .venv demo study fuzz build dist .pytest_cache .ruff_cache .hypothesis
	find vdaprep vdatrain tests -name __pycache__ -type d -prune -exec rm -rf {} +
