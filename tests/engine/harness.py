"""Runs engine cores on random checkpoints, for tests that compare them with the oracle and with each other."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from engine.config import ModelConfig, load_config
from engine.core import EngineCore
from engine.messages import Request, RequestOutput, TokenLogprob
from engine.options import EngineOptions
from engine.sampling_params import SamplingParams
from scheduler.invariants import check, check_idle
from scheduler.loop_layout import LoopCache
from tests.make_checkpoint import make_checkpoint, random_config, random_tensors
from tests.oracle import LOOP_CACHE


@dataclass
class Answer:
    """Everything a request got."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    finish_reason: str | None = None
    stop_token_id: int | None = None
    cached_tokens: int = 0
    loop_logprobs: list[list[float]] = field(default_factory=list)
    loop_tokens: list[list[int]] = field(default_factory=list)
    num_loops: int = 0
    error: str | None = None

    def take(self, output: RequestOutput) -> None:
        assert self.finish_reason is None, "output after the last one"
        self.tokens += output.token_ids
        self.logprobs += output.logprobs or []
        self.prompt_logprobs += output.prompt_logprobs or []
        self.finish_reason = output.finish_reason
        self.stop_token_id = output.stop_token_id
        self.cached_tokens = output.cached_tokens
        self.loop_logprobs += output.loop_logprobs or []
        self.loop_tokens += output.loop_tokens or []
        self.num_loops = output.num_loops
        self.error = output.error


@dataclass
class Driver:
    """Feeds one core and checks its books after every step."""

    core: EngineCore
    answers: dict[str, Answer] = field(default_factory=dict)
    passes: int = 0

    def add(
        self,
        name: str,
        prompt: list[int],
        salt: str = "",
        priority: int = 0,
        loops: int | None = None,
        **params: Any,
    ) -> None:
        values: dict[str, Any] = {"max_tokens": 8, "seed": 0, "temperature": 0.0, **params}
        self.answers[name] = Answer()
        self.core.add(
            Request(
                request_id=name,
                prompt_token_ids=prompt,
                params=SamplingParams(**values),
                cache_salt=salt,
                priority=priority,
                num_loops=loops,
            )
        )

    def step(self) -> None:
        for output in self.core.step():
            self.answers[output.request_id].take(output)
        self.passes += 1
        check(self.core.scheduler)

    def run(self, most: int = 5000) -> dict[str, Answer]:
        """Step until nothing is left; afterwards nothing may be held."""
        while self.core.has_work:
            self.step()
            assert self.passes < most, "no end in sight"
        check_idle(self.core.scheduler)
        return self.answers

    def one(self, prompt: list[int], **params: Any) -> Answer:
        """Run a single request to its end."""
        self.add("only", prompt, **params)
        return self.run()["only"]


@dataclass
class Checkpoint:
    """A random checkpoint on disk and in memory."""

    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    path: Path

    def core(self, **options: Any) -> EngineCore:
        values: dict[str, Any] = {
            "model_dir": str(self.path),
            "max_num_seqs": 4,
            "max_rows_per_step": 64,
            "block_size": 4,
            "kv_cache_memory": 8 << 20,
            "self_check": False,
            "calibration_time": 0,
            "loop_metrics_sample": 0.0,
            **options,
        }
        with self.loop_cache():
            return EngineCore.load(EngineOptions(**values), show_progress=False)

    def loop_cache(self) -> AbstractContextManager[object]:
        """As long as it lasts, configs that are loaded have the kind of cache that the checkpoint is for."""
        if self.config.get(LOOP_CACHE) != "own":
            return nullcontext()

        def load(directory: Path, overrides: dict[str, Any]) -> ModelConfig:
            config = load_config(directory, overrides)
            return replace(config, loops=replace(config.loops, window=0, cache=LoopCache.OWN))

        return mock.patch("engine.rank_loading.load_config", load)

    def driver(self, **options: Any) -> Driver:
        return Driver(self.core(**options))


def checkpoint(seed: int = 0, **changes: Any) -> Checkpoint:
    """A random checkpoint in a temporary directory that lives as long as the process."""
    return saved(random_config(**changes), seed)


def saved(config: dict[str, Any], seed: int = 0) -> Checkpoint:
    """As `checkpoint`, of any config."""
    path = Path(tempfile.mkdtemp(prefix="loopserve-test-"))
    make_checkpoint(path, config, seed)
    return Checkpoint(config, random_tensors(config, seed), path)
