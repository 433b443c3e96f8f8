"""Two ranks give what one gives, whatever the model and the load; a lost rank is an error, and no process stays."""

import os
import signal
import subprocess
import threading
import time

import httpx
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint import expected_tensors
from engine.config import load_config, parse_config
from engine.errors import EngineDeadError, ModelError
from engine.followers import Follower
from engine.options import EngineOptions
from engine.placement import resolve_placement
from engine.rank_link import Failed, Loaded, Pass, RankLink, Started
from engine.runner import block_bytes
from engine.tensor_parallel import Shard, check_divisible
from kernels.interface import RowBatch
from scheduler.step_plan import CarryRestore
from tests.engine.harness import Answer, Checkpoint, Driver, checkpoint
from tests.make_checkpoint import random_config, random_tensors
from tests.server.live import LiveServer, live_server

ATOL = 1e-4
"""Of log-probabilities: a sum of two halves rounds differently from one long sum."""
WORKER = "engine.tensor_parallel_worker"
GONE_SECONDS = 10.0


def prompt_of(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(8, 320, (length,), generator=generator).tolist()


def workers_of(process_id: int) -> list[psutil.Process]:
    children = psutil.Process(process_id).children(recursive=True)
    return [child for child in children if WORKER in child.cmdline()]


# --- which part of each tensor a rank holds ---


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(2, 4),
    groups=st.integers(1, 2),
    queries_per_head=st.integers(1, 3),
    width=st.integers(1, 5),
    vocab=st.integers(264, 270),
    loops=st.integers(1, 2),
    flags=st.tuples(*[st.booleans()] * 4),
)
def test_the_ranks_parts_make_up_the_whole(size, groups, queries_per_head, width, vocab, loops, flags):
    on_hidden, attention_bias, mlp_bias, tied = flags
    values = random_config(
        num_key_value_heads=size * groups,
        num_attention_heads=size * groups * queries_per_head,
        intermediate_size=size * width,
        vocab_size=vocab,
        hidden_size=24,
        head_dim=4,
        num_hidden_layers=1,
        plt_num_loops=loops,
        plt_gate_use_hidden_states=on_hidden,
        attention_bias=attention_bias,
        mlp_bias=mlp_bias,
        tie_word_embeddings=tied,
    )
    config, tensors = parse_config(values), random_tensors(values, seed=1)
    check_divisible(config, size)
    shards = [Shard(rank, size) for rank in range(size)]
    parts = [dict(shard.tensors(config, tensors.items())) for shard in shards]
    for shard, held in zip(shards, parts, strict=True):
        shapes = {name: spec.shape for name, spec in expected_tensors(shard.config(config)).items()}
        shapes["lm_head.weight"] = held["lm_head.weight"].shape
        assert {name: tuple(tensor.shape) for name, tensor in held.items()} == shapes
        assert all(tensor.is_contiguous() for tensor in held.values())
    whole = {"lm_head.weight": tensors["model.embed_tokens.weight"]} | tensors
    for name in parts[0]:
        assert torch.equal(together(name, [held[name] for held in parts]), whole[name]), name


def together(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    inner = name.rpartition("layers.0.")[2]
    if inner in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        return torch.cat(parts, dim=1)
    if inner in ("self_attn.o_proj.bias", "mlp.down_proj.bias"):
        return torch.stack(parts).sum(0)
    if inner.endswith(("norm.weight", "embed_tokens.weight")):
        assert all(torch.equal(part, parts[0]) for part in parts)
        return parts[0]
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("kv_heads", "width", "size", "possible"),
    [(2, 96, 3, "1, 2"), (4, 98, 4, "1, 2"), (6, 96, 4, "1, 2, 3, 6"), (1, 96, 2, "1")],
)
def test_heads_and_widths_that_cannot_be_shared_out_are_refused(kv_heads, width, size, possible):
    config = parse_config(
        random_config(num_attention_heads=12, num_key_value_heads=kv_heads, intermediate_size=width)
    )
    with pytest.raises(ModelError, match=f"--tensor-parallel-size {size} must divide") as caught:
        check_divisible(config, size)
    assert str(caught.value).endswith(f"possible are {possible}")


def test_a_refused_size_starts_no_process():
    with pytest.raises(ModelError, match="must divide"):
        checkpoint().core(tensor_parallel_size=3)
    assert workers_of(os.getpid()) == []


# --- the same answers ---


def play(driver: Driver) -> dict[str, Answer]:
    """Greedy and seeded requests, more than the pool holds at once, then the same prompts from its prefix cache."""
    for turn in range(2):
        for number, length in enumerate((45, 30, 9, 1)):
            driver.add(f"greedy {number} {turn}", prompt_of(length, number), max_tokens=30, logprobs=3)
            driver.step()
        driver.add(f"seeded {turn}", prompt_of(21), max_tokens=20, temperature=0.9, top_p=0.95, seed=7)
        driver.add(f"scored {turn}", prompt_of(19, 3), max_tokens=3, logprobs=1, prompt_logprobs=2)
        driver.run()
    return driver.answers


def pool_that_preempts(model: Checkpoint) -> int:
    """Bytes of a pool that holds little more than one longest sequence, split or not."""
    config, layout = load_config(model.path, {}), model.core().scheduler.layout
    placement = resolve_placement(EngineOptions(model_dir="", device="cpu"), config)
    size = 2 * block_bytes(Shard(0, 2).config(config), placement, layout.block_size, True)
    return size * (layout.blocks_for(100, 64) + 2)


CASES = {
    "one loop, biases, tied, odd vocabulary": {
        "plt_num_loops": 1,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
        "vocab_size": 321,
    },
    "two loops, gate on hidden": {"plt_num_loops": 2},
    "two loops, gate on query, one after another": {
        "plt_num_loops": 2,
        "plt_gate_use_hidden_states": False,
        "vocab_size": 323,
    },
    "three loops, gate on query, biases": {
        "plt_num_loops": 3,
        "plt_gate_use_hidden_states": False,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "three loops, gate on hidden, one after another, no norm between": {
        "plt_num_loops": 3,
        "plt_normalize_per_loop": False,
        "num_key_value_heads": 4,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_give_the_tokens_of_one(name):
    model = checkpoint(seed=2, **CASES[name])
    options = {
        "execution": "sequential" if "one after another" in name else "parallel",
        "max_model_len": 100,
        "kv_cache_memory": pool_that_preempts(model),
    }
    expected = play(model.driver(**options))
    driver = model.driver(tensor_parallel_size=2, **options)
    try:
        answers = play(driver)
    finally:
        driver.core.model.runner.followers.close()
    assert driver.core.scheduler.totals.preemptions > 0
    assert driver.core.scheduler.totals.prefix_hit_tokens > 0
    for request, answer in answers.items():
        assert answer.tokens == expected[request].tokens, request
        assert_near(answer, expected[request])
        if request.endswith("1"):  # alone or in a crowd, from the cache or not: the same bits
            assert answer.logprobs == answers[f"{request[:-1]}0"].logprobs


def assert_near(answer: Answer, expected: Answer) -> None:
    pairs = [
        *zip(answer.logprobs, expected.logprobs, strict=True),
        *zip(answer.prompt_logprobs[1:], expected.prompt_logprobs[1:], strict=True),
    ]
    for ours, theirs in pairs:
        assert ours is not None
        assert theirs is not None
        assert ours.logprob == pytest.approx(theirs.logprob, abs=ATOL)
        for (_, ours_top), (_, theirs_top) in zip(ours.top, theirs.top, strict=True):
            assert ours_top == pytest.approx(theirs_top, abs=ATOL)


# --- processes that die ---


def test_a_rank_that_dies_within_a_pass_or_between_two_is_a_typed_error():
    core = checkpoint().core(tensor_parallel_size=2)
    driver = Driver(core)
    driver.add("a", prompt_of(20), max_tokens=50)
    driver.step()
    (worker,) = workers_of(os.getpid())
    assert {connection.laddr.ip for connection in worker.net_connections()} == {"127.0.0.1"}
    worker.send_signal(signal.SIGSTOP)  # so that the first rank is waiting for it when it dies
    killer = threading.Timer(0.5, worker.kill)
    killer.start()
    started = time.monotonic()
    with pytest.raises(EngineDeadError, match="rank 0 lost another rank"):
        core.step()
    assert time.monotonic() - started < 10
    with pytest.raises(EngineDeadError, match="rank 1 ended with signal SIGKILL"):
        _ = core.has_work
    core.model.runner.followers.close()
    assert workers_of(os.getpid()) == []


def test_a_follower_ends_when_its_link_closes():
    follower = Follower.start(1)
    follower.link.close()
    assert follower.process.wait(60) == 0


@pytest.fixture(scope="module")
def model_and_server():
    model = checkpoint(seed=4, plt_num_loops=2, eos_token_id=2)
    with live_server(
        model.path, "--kv-cache-memory", "8MiB", "--tensor-parallel-size", "2", "--max-num-seqs", "4"
    ) as server:
        yield model, server
        left = workers_of(server.process.pid)
        assert len(left) == 1
    assert_gone(left)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GONE_SECONDS)
    assert alive == []


def ask(server: LiveServer) -> list[float]:
    """Log-probabilities of the tokens of a greedy answer."""
    answer = server.client().completions.create(
        model=httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"],
        prompt=prompt_of(40),
        max_tokens=12,
        temperature=0,
        logprobs=1,
        extra_body={"ignore_eos": True},
    )
    return answer.choices[0].logprobs.token_logprobs


def test_a_server_gives_the_same_tokens_and_survives_the_death_of_either_rank(model_and_server):
    model, server = model_and_server
    expected = model.driver().one(prompt_of(40), max_tokens=12, logprobs=0)
    answer = ask(server)
    assert answer == pytest.approx([token.logprob for token in expected.logprobs], abs=ATOL)
    for victim in ("follower", "engine"):
        engine, (follower,) = psutil.Process(server.engine_pid()), workers_of(server.process.pid)
        (follower if victim == "follower" else engine).kill()
        assert_gone([engine, follower])
        server.wait_ready()
        assert ask(server) == answer


# --- messages ---


def test_a_pass_arrives_as_it_was_sent():
    sizes = {"window_tables": (3, 2, 5), "tiles": (3, 3), "parts": (0, 2), "part_starts": (0,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randint(-1, 1 << 30, sizes.get(name, (7,)), dtype=torch.int32, generator=generator)
        for name, field in RowBatch.__dataclass_fields__.items()
        if field.type is torch.Tensor
    }
    batch = RowBatch(**tensors, window=64, num_decode_tiles=3)
    ours, theirs = RankLink.pair()
    receiver = RankLink(theirs.detach())
    ours.send(Pass.of(batch, [CarryRestore(4, 2)]))
    arrived = receiver.receive(5)
    assert isinstance(arrived, Pass)
    assert arrived.restores == [CarryRestore(4, 2)]
    for name in tensors:
        assert torch.equal(getattr(arrived.batch(), name), tensors[name]), name
    assert (arrived.batch().window, arrived.batch().num_decode_tiles) == (64, 3)
    ours.close()
    with pytest.raises(EOFError):
        receiver.receive(5)
    receiver.close()


def test_what_a_follower_reports_while_loading():
    link, theirs = RankLink.pair()
    other = RankLink(theirs.detach())
    process = subprocess.Popen(["sh", "-c", "read line; exit 3"], stdin=subprocess.PIPE)
    follower = Follower(1, process, link)
    for sent in (Started(), Loaded(5)):
        other.send(sent)
        assert follower.receive(5) == sent
    other.send(Failed("no such GPU", model_error=True))
    with pytest.raises(ModelError, match="rank 1: no such GPU"):
        follower.receive(5)
    other.send(Failed("OutOfMemoryError", model_error=False))
    with pytest.raises(EngineDeadError, match="rank 1: OutOfMemoryError"):
        follower.receive(5)
    with pytest.raises(EngineDeadError, match="did not load within 0 s"):
        follower.receive(0.01)
    follower.check()
    process.communicate(b"\n")
    other.close()
    for wait in (follower.check, lambda: follower.receive(5), lambda: follower.send(Started())):
        with pytest.raises(EngineDeadError, match="rank 1 ended with exit code 3"):
            wait()
    link.close()
