# Everything runs in .venv, made from pyproject.toml (the one place that pins torch).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# The clients that the test suite runs; the rest is for `make compatibility`.
LIGHT_CLIENTS := openai-oldest openai-newest openai-node litellm langchain instructor pydantic-ai anthropic \
	llm-comply continue

.PHONY: ray-serve router install serve test lint format clients prometheus dashboards browser screenshot compatibility bench \
	diagnose-demo bench-peers \
	bench-full-size parity compile-kernels roofline gpu-check simulate attack attack-disconnects attack-peers overload drain crash \
	soak timing key-timing \
	fuzz-checkpoint exactness mutation image image-check deploy-check clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

serve: install            ## serve the bundled demo model on 127.0.0.1:8000
	$(BIN)/loopserve serve models/demo

test: lint clients prometheus build/grafana-schema/installed browser   ## lint, types and the whole test suite
	$(BIN)/pytest

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clients: .venv/installed-test   ## real clients for the tests, each in an environment under build/clients; needs npm
	PYTHON=$(BIN)/python sh tools/compatibility/install.sh build/clients $(LIGHT_CLIENTS)

prometheus:               ## Debian's prometheus and promtool for the tests, unpacked under build/prometheus; needs apt-get
	sh tools/prometheus/install.sh build/prometheus

build/grafana-schema/installed: tools/dashboards/schema/package-lock.json
	mkdir -p $(@D)
	cp tools/dashboards/schema/package.json tools/dashboards/schema/package-lock.json $(@D)
	cd $(@D) && npm ci --silent --no-audit --no-fund --ignore-scripts
	@touch $@

dashboards: .venv/installed-test   ## write deploy/grafana/dashboards from tools/dashboards
	$(BIN)/python -m tools.dashboards

browser:                  ## Chromium for the tests of the page; as root on Debian it is installed
	sh tools/browser/install.sh

screenshot: .venv/installed-test browser   ## docs/page.png
	$(BIN)/python -m tools.browser.screenshot docs/page.png

compatibility: .venv/installed-test   ## all clients against a running server, docs/compatibility.md; 15 minutes, 4 GB
	PYTHON=$(BIN)/python sh tools/compatibility/install.sh build/clients
	$(BIN)/python -m tools.compatibility --clients build/clients --page docs/compatibility.md

bench: .venv/installed-test   ## time per token and KV bytes of the demo model, parallel against sequential
	$(BIN)/loopserve bench

diagnose-demo: .venv/installed-test   ## what each loop of MODELS gains on held-out text: docs/results/loops; minutes each
	$(BIN)/python -m tools.diagnose_demo $${MODELS:-models/demo}

bench-peers: .venv/installed-test   ## other servers in build/peers, all measured by turns; an hour, 7 GB
	sh tools/peers/install.sh build/peers
	$(BIN)/python -m tools.peers --peers build/peers --page docs/results/peers.md

parity: .venv/installed-test       ## our logits beside mlx-lm's, transformers' and vLLM's, on tiny models of every family; 5 GB
	sh tools/parity/install.sh build/peers build/parity
	$(BIN)/python -m tools.parity --environments build/peers --work build/parity --page docs/results/parity.md

bench-full-size: .venv/installed-test   ## LoopCoder-V2's shape, random weights: 16 GB of disk, 24 GB of memory
	$(BIN)/python -m tools.full_size --directory build/full-size --page docs/results/full-size.md

compile-kernels: .venv/installed-test   ## compile every GPU kernel ahead of time; no GPU needed
	env -u TRITON_INTERPRET $(BIN)/python -m tools.compile_kernels

roofline: .venv/installed-test  ## the roofline page and its plots; a model, not a measurement
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m tools.roofline

gpu-check: .venv/installed-test   ## on a machine with a GPU: test the kernels natively and measure
	env -u TRITON_INTERPRET $(BIN)/python -m tools.gpu_check

simulate: .venv/installed-test  ## ten million simulated steps; an hour per core, goes on where it was stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.simulation --until 10000000 --jobs $${JOBS:-1}

overload: .venv/installed-test  ## ten times as much as the server can answer; 15 minutes on an idle machine
	$(BIN)/python -m tools.reliability overload

drain: .venv/installed-test     ## 200 rolling restarts under load; half an hour, goes on where it was stopped
	$(BIN)/python -m tools.reliability drain

crash: .venv/installed-test     ## 50 × kill -9 and 50 × STOP of the engine; half an hour, goes on where it was stopped
	$(BIN)/python -m tools.reliability crash

soak: .venv/installed-test      ## MINUTES of mixed load, 60 by default
	$(BIN)/python -m tools.reliability soak --minutes $${MINUTES:-60}

timing: .venv/installed-test    ## prefix-cache timing across tenants; 15 minutes, goes on where it was stopped
	$(BIN)/python -m tools.reliability timing

key-timing: .venv/installed-test   ## timing of API keys; a minute
	$(BIN)/python -m tools.reliability key-timing

fuzz-checkpoint: .venv/installed-test  ## twenty thousand damaged model directories; about 10 minutes
	$(BIN)/python -m tools.fuzz_checkpoint --cases 20000 --page docs/results/checkpoint-fuzz.md

exactness: .venv/installed-test  ## 10,000 requests in crowds against the same alone, bit for bit; ten minutes on one core
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.exactness --seed 0 --cases 350 --crowds 1000 --page docs/results/exactness.md

mutation: .venv/installed-test  ## small changes to the scheduler, each of which a test must notice; half an hour, goes on where it stopped
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.mutation --page docs/results/mutation.md

attack: .venv/installed-test  ## hostile inputs, mutations and exactness against our server; 15 minutes
	$(BIN)/python -m tools.attack all --self; passed=$$?; $(BIN)/python -m tools.attack report; exit $$passed

attack-disconnects: .venv/installed-test  ## ten thousand clients that go away; 15 minutes
	$(BIN)/python -m tools.attack disconnects --self; passed=$$?; $(BIN)/python -m tools.attack report; exit $$passed

attack-peers: .venv/installed-test  ## all that against ours, llama-server and vLLM with the same weights; two hours
	sh tools/peers/install.sh build/peers
	for peer in loopserve llama.cpp vllm; do \
		$(BIN)/python -m tools.attack all --peer $$peer && \
		$(BIN)/python -m tools.attack disconnects --peer $$peer --count 2000 || exit 1; done
	$(BIN)/python -m tools.attack report

image:                    ## loopserve:cpu and loopserve:cuda, with a Docker engine
	for target in cpu cuda; do docker build --target $$target --tag loopserve:$$target \
		--build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git rev-parse HEAD) . || exit 1; done

image-check: .venv/installed-test  ## build and run the image without Docker: root, buildah, runc, debootstrap; 20 minutes, 4 GB
	$(BIN)/python -m tools.image --page docs/results/image.md -- $(BUILDAH_OPTIONS)

deploy-check: .venv/installed-test  ## Dockerfile, Compose and Kubernetes files; what kubectl makes of them, too
	$(BIN)/pytest tests/deploy/test_dockerfile.py tests/deploy/test_compose.py tests/deploy/test_kubernetes.py
	mkdir -p build
	for place in base overlays/gpu; do kubectl kustomize deploy/kubernetes/$$place > build/kubernetes.yaml && \
		$(BIN)/kubernetes-validate --strict build/kubernetes.yaml || exit 1; done

ray-serve: build/ray/installed  ## two replicas on Ray Serve, killed, scaled and asked; five minutes, 2 GB
	build/ray/bin/python -m tools.scaling ray-serve --page docs/results/ray-serve.md

build/ray/installed: pyproject.toml
	$(PYTHON) -m venv build/ray
	build/ray/bin/pip install --quiet --disable-pip-version-check -e . 'ray[serve]==2.60.0'
	@touch $@

router: .venv/installed-test build/router/installed  ## two servers behind vllm-router; three minutes
	$(BIN)/python -m tools.scaling router --page docs/results/router.md

build/router/installed:
	$(PYTHON) -m venv build/router
	build/router/bin/pip install --quiet --disable-pip-version-check vllm-router==0.1.17
	@touch $@

clean:
	rm -rf .venv
