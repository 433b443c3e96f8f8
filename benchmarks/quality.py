"""What narrower weights and caches cost in quality: perplexity of a text, and how far log-probabilities move.

    python -m benchmarks.quality models/demo [FILES]

Without files: the sources of the scheduler. Figures are for next tokens of the text itself, no sampling.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cells import Cells
from benchmarks.errors import BenchmarkError
from engine.core import EngineCore
from engine.loading import load_model
from engine.messages import Request
from engine.options import EngineOptions
from engine.sampling_params import SamplingParams
from engine.tokenizer import Tokenizer

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16 weights": {"dtype": "bfloat16"},
    "int8 weights": {"dtype": "float32", "quantization": "int8"},
    "int4 weights": {"dtype": "float32", "quantization": "int4"},
    "bfloat16 cache": {"dtype": "float32", "kv_cache_dtype": "bfloat16"},
}
"""The first is what the others are compared with."""
PIECE = 256
"""Tokens scored together, each after all before it in the piece."""
MOST_PIECES = 64


@dataclass(frozen=True, slots=True)
class Quality:
    """One format.

    Attributes:
        perplexity: exp of the mean of minus the log-probabilities.
        largest_change: of a token's log-probability, against the first format.
        mean_change: its mean absolute value.
    """

    format: str
    perplexity: float
    largest_change: float
    mean_change: float


def compare(model_dir: Path, pieces: list[list[int]]) -> list[Quality]:
    """Score token ids under every format.

    Raises:
        ModelError: the model can't be served in a format.
    """
    found: list[Quality] = []
    base: list[float] = []
    for name, options in FORMATS.items():
        longest = max(map(len, pieces)) + 1
        engine = EngineOptions(
            model_dir=str(model_dir), max_model_len=longest, prefix_caching=False, **options
        )
        scores = _scores(engine, pieces)
        base = base or scores
        changes = [abs(score - other) for score, other in zip(scores, base, strict=True)]
        perplexity = math.exp(-sum(scores) / len(scores))
        found.append(Quality(name, perplexity, max(changes), sum(changes) / len(changes)))
    return found


def quality_cells(found: list[Quality]) -> Cells:
    """As a table; changes of the perplexity are relative to the first format."""
    rows = [
        [
            quality.format,
            f"{quality.perplexity:.4f}",
            f"{(quality.perplexity / found[0].perplexity - 1) * 100:+.3f} %",
            f"{quality.largest_change:.4f}",
            f"{quality.mean_change:.5f}",
        ]
        for quality in found
    ]
    header = ["format", "perplexity", "change", "largest change of a log-probability", "mean change"]
    return Cells("Quality", header, rows)


def _scores(options: EngineOptions, pieces: list[list[int]]) -> list[float]:
    """Log-probabilities of all tokens but each piece's first."""
    core = EngineCore(load_model(options, show_progress=False))
    params = SamplingParams(max_tokens=1, seed=0, temperature=0.0, prompt_logprobs=0)
    for number, piece in enumerate(pieces):
        core.add(Request(request_id=str(number), prompt_token_ids=piece, params=params))
    scores: dict[str, list[float]] = {}
    while core.has_work:
        for output in core.step():
            if output.error is not None:
                raise BenchmarkError(output.error)
            given = [token.logprob for token in output.prompt_logprobs or [] if token is not None]
            scores[output.request_id] = scores.get(output.request_id, []) + given
    return [score for number in range(len(pieces)) for score in scores[str(number)]]


def pieces_of(tokenizer: Tokenizer, files: list[Path]) -> list[list[int]]:
    """Texts as token ids, cut into pieces of one length; what remains of a text is left out."""
    pieces = []
    for file in files:
        ids = tokenizer.encode(file.read_text(encoding="utf-8"))
        pieces += [ids[start : start + PIECE] for start in range(0, len(ids) - PIECE + 1, PIECE)]
    if not pieces:
        raise BenchmarkError(f"the texts have no piece of {PIECE} tokens")
    return pieces[:MOST_PIECES]


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Quality of weight and cache formats.")
    parser.add_argument("model", type=Path)
    parser.add_argument("files", type=Path, nargs="*")
    args = parser.parse_args()
    files = args.files or sorted((Path(__file__).parents[1] / "scheduler").glob("*.py"))
    pieces = pieces_of(Tokenizer.load(args.model), files)
    found = compare(args.model, pieces)
    sys.stdout.write(f"{len(pieces)} pieces of {PIECE} tokens\n\n{quality_cells(found).markdown()}\n")


if __name__ == "__main__":
    main()
