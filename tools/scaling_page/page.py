"""docs/scaling.md as Markdown."""

from planning.devices import GPUS
from tools.scaling_page import tables

INTRODUCTION = """\
# How much hardware, and how many servers

**The tables are a model, not a measurement**: `loopserve plan` for LoopCoder-V2 7B (bfloat16, R = 2, window 64),
made by `python -m tools.scaling_page`. Memory is the engine's own block arithmetic. Times are a roofline of
data-sheet peaks, which real kernels do not reach: take them as the best that hardware allows, and ratios as more
reliable than times. What was measured is in [results](results/).

    loopserve plan MODEL --gpu h100 --context 8192 --concurrency 32
    loopserve plan MODEL --cpu --memory 64GB --bandwidth 40 --flops 1.2    # by hand: GB/s, TFLOPS

It says what fits, what a token costs in parallel, sequentially and with one loop, what a prompt costs, and what the
limit is; `--json` says it to scripts, and the exit code is 1 if the load does not fit.
"""

FORMULA = """\
## The formula

With L layers, K KV heads of D, hidden size H, R loops, window W, and b bytes per cached element:

    a token of context         2·L·K·D·b                       once, whatever R is; a cache per loop takes R times that
    beside it, a sequence      (R-1)·(W+1)·2·L·K·D·b  +  (R-1)·H·(bytes of an activation)     windows and carry
    sequences that fit         0.85 · (memory - weights) / (blocks of a sequence + R kept free), in whole blocks
    a decode step              max(bytes / bandwidth, FLOPs / peak) of the products, plus the same of the attention
                               in parallel: weights and shared keys are read once for all R·B rows; sequentially R times

"""

SPLITTING = """\
In this model splitting wins, since each weight is read once for the sequences of all GPUs instead of once per GPU.
What it leaves out is against it: two sums over all GPUs per layer and pass, each with its latency; no CUDA graphs
when the model is split; every rank keeps the whole embedding; and all GPUs stop when one does. It has not been
measured on GPUs here. Split where a model does not fit on one GPU or one answer must be faster; otherwise begin
with replicas, which need nothing from each other, and measure.
"""

REPLICAS = """\
## When to add a replica

A replica is one `loopserve serve` with its own GPU (or cores), its own cache and nothing shared. Add one when, for
longer than a burst,

* `loopserve_num_requests_waiting` stays above 0 or `loopserve_requests_refused_total` grows: memory or
  `--max-num-seqs` is full;
* inter-token latency is above what you promise: time is full (`loopserve_step_seconds`);
* or you need to survive the loss of one: replicas are also how a restart goes unnoticed
  ([reliability](reliability.md)).

More memory on the same card (`--kv-cache-dtype fp8`, `--quantization`) comes first where memory ends it (table
above); where time ends it, only more or faster hardware helps.

What a replica needs: memory as planned on its device; CPU for two processes, the API's and the engine's; the model
on its disk or in a shared cache of the hub. A load balancer must probe `/ready`, not `/health`, must not buffer
responses, and must let answers take as long as they do. On SIGTERM a server goes on for up to `--drain-timeout`
seconds; the orchestrator's own limit must be longer.

## Prefix affinity

Each replica has a prefix cache of its own. A conversation that changes replica is computed anew there, so route by
what it begins with, or by who it is from: `X-Session-ID`, `prompt_cache_key`, `user`, or the beginning of the
prompt (`server/affinity.py` makes such a key). With N replicas and no affinity about one turn in N finds the turn
before it. Hash consistently: with a plain `hash % N`, adding one replica moves nearly every conversation. Let an
overloaded replica pass requests on: a cold prefix costs one prefill, a hot spot costs everyone's latency.

"""

FRONTS = """\
## Ray Serve

    pip install loopserve 'ray[serve]'
    serve run deploy/ray_serve.yaml           # or, on a cluster: serve deploy deploy/ray_serve.yaml

`deploy/ray_serve_app.py` runs the whole server in each replica, with autoscaling, health checks and draining, and
keys requests by conversation for Ray's consistent-hash router. Settings are `LOOPSERVE_*` or `args` in the YAML
file.

What is different from a server of its own: Ray's proxy stands where our listener would, so its limits on
connections and headers hold, not ours. While no replica is ready, requests wait instead of getting a 503. Each
answer names its replica in `x-served-by`; `/metrics` is that of one replica, which `X-Session-ID` holds fast. What
was tried: [results/ray-serve.md](results/ray-serve.md).

## vllm-router

    pip install vllm-router
    loopserve serve MODEL --port 8001 & loopserve serve MODEL --port 8002 &
    vllm-router --policy cache_aware --worker-urls http://127.0.0.1:8001 http://127.0.0.1:8002 --port 8000

It follows prefixes in token ids, for which it asks every server's `/v1/completions/render` and
`/v1/chat/completions/render`; without those routes it knows of load only. While nothing is under way it sends all
that is new to one server. It reads requests itself, and answers what it can't read with a 422 of its own, as plain
text. A server that came back gets requests after its circuit breaker's minute (`--cb-timeout-duration-secs`). What
was tried: [results/router.md](results/router.md).

## Gateway API inference extension

Pods carry `app.kubernetes.io/name: loopserve`; `deploy/kubernetes/examples/inference-pool.yaml` has the
`InferencePool` that selects them and the route. An endpoint picker reads vLLM's gauges: start servers with
`--metrics-compat vllm`, which adds `vllm:num_requests_waiting`, `vllm:num_requests_running` and
`vllm:kv_cache_usage_perc`. No picker has been run against it.
"""


def page() -> str:
    """The whole page."""
    sources = "".join(f"* {device.name} (`{name}`): {device.source}\n" for name, device in GPUS.items())
    return "\n".join(
        [
            INTRODUCTION,
            FORMULA + "The code is `planning/`.\n",
            "## How many sequences fit\n\nShared cache / a cache per loop, at that many tokens each, beside "
            "the weights. –: not one.\n",
            tables.fitting_table(),
            f"## How many can be served\n\nThe most that fit and still each get a token within "
            f"{tables.STEP_MILLISECONDS:.0f} ms. A user who reads and thinks between\nanswers is a fraction of a "
            "sequence.\n",
            tables.users_table(),
            "Where time ends it, decode alone uses up the GPU, and prompts come on top: leave room for them.\n",
            "## Narrower weights and caches\n",
            tables.storage_table(),
            "What they cost in quality is in [results/quality.md](results/quality.md).\n",
            "## More loops\n\nOn an H100, 64 sequences of 8k. The last column is the number of sequences up to which "
            "all loops together\ncost at most 10 % more than one.\n",
            tables.loops_table(),
            "## One model over several GPUs, or replicas\n\nContexts of 8k, 32 sequences per GPU for the rates. Split "
            "is `--tensor-parallel-size`.\n",
            tables.ranks_table(),
            SPLITTING,
            REPLICAS + FRONTS,
            "## Where the peaks are from\n\nDense bfloat16, and memory as the data sheet counts it.\n\n"
            + sources,
        ]
    )
