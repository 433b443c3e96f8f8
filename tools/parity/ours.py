"""Our logits of a checkpoint, as the engine computes them in its passes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.config import load_config
from engine.core import EngineCore
from engine.messages import Request
from engine.options import EngineOptions
from engine.runner import StepLogits
from engine.sampling_params import SamplingParams
from engine.tap import Tap
from scheduler.step_plan import StepPlan

BLOCK_SIZE = 4
MOST_STEPS = 10_000


@dataclass
class Recorder:
    """Keeps what the last loop's logits are after each position of the one sequence that runs."""

    core: EngineCore
    by_position: dict[int, np.ndarray] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)

    def run(self, prompt: Sequence[int], params: SamplingParams) -> None:
        """Run a request to its end."""
        runner = self.core.model.runner
        run = runner.run

        def recorded(step: StepPlan, tap: Tap | None = None) -> StepLogits:
            result = run(step, tap)
            for row, logits in zip(result.rows, result.logits, strict=True):
                if row.is_last_loop:
                    self.by_position[row.position] = logits.numpy().copy()
            return result

        runner.run = recorded  # type: ignore[method-assign]
        self.core.add(Request(request_id="parity", prompt_token_ids=list(prompt), params=params))
        for _ in range(MOST_STEPS):
            if not self.core.has_work:
                break
            for output in self.core.step():
                self.tokens += output.token_ids
        runner.run = run  # type: ignore[method-assign]

    def logits(self, start: int = 0) -> np.ndarray:
        """float32 ``[positions, vocab]`` from position `start` on."""
        return np.stack(
            [self.by_position[position] for position in sorted(self.by_position) if position >= start]
        )


def sampled(directory: Path, prompt: Sequence[int], count: int) -> tuple[list[int], np.ndarray]:
    """A prompt and so many tokens sampled after it, as any request runs.

    Returns:
        All tokens, and the logits from the prompt's last position on; those after the last token are not computed.
    """
    recorder = Recorder(_core(directory, 64))
    recorder.run(prompt, SamplingParams(max_tokens=count, temperature=1.0, seed=0))
    return [*prompt, *recorder.tokens], recorder.logits(len(prompt) - 1)


def whole(directory: Path, tokens: Sequence[int]) -> np.ndarray:
    """Logits of every position of one prompt, in as few passes as there can be."""
    return _scored(directory, tokens, 256)


def one_by_one(directory: Path, tokens: Sequence[int]) -> np.ndarray:
    """The same, one token of each loop in a pass."""
    return _scored(directory, tokens, load_config(directory, {}).loops.num_loops)


def _scored(directory: Path, tokens: Sequence[int], rows_per_step: int) -> np.ndarray:
    recorder = Recorder(_core(directory, rows_per_step))
    recorder.run(tokens, SamplingParams(max_tokens=1, seed=0, temperature=0.0, prompt_logprobs=0))
    return recorder.logits()


def _core(directory: Path, rows_per_step: int) -> EngineCore:
    return EngineCore.load(
        EngineOptions(
            model_dir=str(directory),
            device="cpu",
            max_num_seqs=1,
            max_rows_per_step=rows_per_step,
            block_size=BLOCK_SIZE,
            kv_cache_memory=16 << 20,
            self_check=False,
            calibration_time=0,
            loop_metrics_sample=0.0,
        ),
        show_progress=False,
    )
