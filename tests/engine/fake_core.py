"""A core without a model: next token = previous + 1. Certain first prompt tokens make it misbehave on purpose."""

import os
import signal
import time
from pathlib import Path

from engine.errors import InvalidRequestError, ModelError, RequestFailedError
from engine.messages import (
    PROTOCOL_VERSION,
    BlockState,
    CacheMap,
    Calibrated,
    CalibratedCell,
    EngineReady,
    EngineStats,
    Request,
    RequestOutput,
    StepShape,
)
from engine.options import EngineOptions
from engine.sampling_params import SamplingParams

REFUSE = 9001  # add: InvalidRequestError
BREAK_ADD = 9002  # add: RequestFailedError
BREAK_STEP = 9003  # step: exception
DIE = 9004  # step: SIGKILL to itself
HANG = 9005  # step: never returns
VOCAB_SIZE = 10_000
FAKE_LOOPS = 2
CALIBRATION_PAIRS = 3
CALIBRATED = Calibrated(
    cells=[
        CalibratedCell(
            sequences=1, context=128, parallel_seconds=0.002, sequential_seconds=0.003, ratio=1.5, pairs=1
        )
    ],
    measured=1,
    seconds=0.25,
)


class FakeCore:
    """Satisfies `engine.engine_loop.Core`."""

    def __init__(self, step_seconds: float = 0.0, seats: int = 1 << 30) -> None:
        """Runs at most `seats` requests at once, the others wait."""
        self.seats = seats
        self.taken_up: set[str] = set()
        self.requests: dict[str, tuple[Request, int]] = {}
        self.step_seconds = step_seconds
        self.steps = 0
        self.rows = 0
        self.admitted: list[str] = []
        self.compiling = False
        self.pairs_left = 0

    @classmethod
    def load(cls, options: EngineOptions, show_progress: bool) -> "FakeCore":
        """The name of `model_dir` says how to behave: "missing", "broken", "slow-load", "step=SECONDS", or
        "step=SECONDS,seats=NUMBER"."""
        name = Path(options.model_dir).name
        if name == "missing":
            raise ModelError("No such\nmodel.")
        if name == "broken":
            raise RuntimeError("loading failed")
        if name == "slow-load":
            time.sleep(60)
        options = dict(part.split("=") for part in name.split(",") if "=" in part)
        return cls(float(options.get("step", 0)), int(options.get("seats", 1 << 30)))

    @property
    def has_work(self) -> bool:
        return bool(self.requests)

    def ready(self) -> EngineReady:
        return EngineReady(
            protocol_version=PROTOCOL_VERSION,
            max_model_len=4096,
            vocab_size=VOCAB_SIZE,
            num_parameters=1,
            num_loops=FAKE_LOOPS,
            num_blocks=100,
            block_size=16,
            execution="parallel",
            kv_bytes_per_token=100,
            kv_bytes_per_token_sequential=200,
            kv_bytes_per_sequence=50,
        )

    def add(self, request: Request) -> None:
        if request.prompt_token_ids[0] == REFUSE:
            raise InvalidRequestError("refused by the fake core")
        if request.prompt_token_ids[0] == BREAK_ADD:
            raise RequestFailedError("the fake core failed on this") from KeyError("broken add")
        self.requests[request.request_id] = (request, 0)

    def abort(self, request_id: str) -> None:
        self.requests.pop(request_id, None)

    def step(self) -> list[RequestOutput]:
        time.sleep(self.step_seconds)
        self.steps += 1
        running = list(self.requests.values())[: self.seats]
        self.admitted = [one.request_id for one, _ in running if one.request_id not in self.taken_up]
        self.taken_up.update(self.admitted)
        return [self._advance(request, done) for request, done in running]

    @property
    def calibrating(self) -> bool:
        return self.pairs_left > 0

    def begin_calibration(self) -> None:
        self.pairs_left = CALIBRATION_PAIRS

    def calibrate(self) -> Calibrated | None:
        self.pairs_left -= 1
        return None if self.pairs_left else CALIBRATED

    def stats(self) -> EngineStats:
        return EngineStats(
            running=min(len(self.requests), self.seats),
            waiting=max(len(self.requests) - self.seats, 0),
            blocks_total=100,
            blocks_used=len(self.requests),
            shared_blocks_used=len(self.requests),
            steps_total=self.steps,
            rows_total=[self.rows] * FAKE_LOOPS,
            admitted=self.admitted,
            step=StepShape(phase="decode", rows=[1] * FAKE_LOOPS),
        )

    def cache_map(self) -> CacheMap:
        held = len(self.requests)
        states = [
            BlockState(state="held", loop=0, blocks=held),
            BlockState(state="free", loop=None, blocks=100 - held),
        ]
        return CacheMap(blocks_per_cell=1, states=states, cells=bytes(held) + bytes([1]) * (100 - held))

    def _advance(self, request: Request, done: int) -> RequestOutput:
        self._misbehave(request.prompt_token_ids[0])
        self.rows += 1
        token = (request.prompt_token_ids[-1] + done + 1) % VOCAB_SIZE
        last = done + 1 >= request.params.max_tokens
        if last:
            del self.requests[request.request_id]
        else:
            self.requests[request.request_id] = (request, done + 1)
        return RequestOutput(
            request_id=request.request_id, token_ids=[token], finish_reason="length" if last else None
        )

    def _misbehave(self, token: int) -> None:
        if token == BREAK_STEP:
            raise RuntimeError("broken step")
        if token == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if token == HANG:
            time.sleep(600)


def fake_request(request_id: str, prompt: list[int], max_tokens: int = 3) -> Request:
    """A request that the fake core understands."""
    return Request(
        request_id=request_id,
        prompt_token_ids=prompt,
        params=SamplingParams(max_tokens=max_tokens, seed=0),
    )
