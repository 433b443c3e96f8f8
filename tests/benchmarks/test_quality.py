"""Quality of formats: the figures of a tiny random model."""

import math
from pathlib import Path

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.quality import FORMATS, PIECE, compare, pieces_of, quality_cells
from engine.tokenizer import Tokenizer
from tests.engine.harness import checkpoint
from tests.make_checkpoint import make_checkpoint, random_config


def test_narrower_formats_change_a_little_and_int4_most(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, random_config(), seed=0)
    pieces = [[(7 * index + offset) % 300 for index in range(40)] for offset in (3, 50)]
    found = compare(tmp_path, pieces)
    assert [quality.format for quality in found] == list(FORMATS)
    base, *others = found
    assert (base.largest_change, base.mean_change) == (0.0, 0.0)
    assert all(0 < quality.mean_change < quality.largest_change < 2 for quality in others)
    by_name = {quality.format: quality.mean_change for quality in found}
    assert by_name["int4 weights"] == max(by_name.values())
    assert quality_cells(found).rows[0][2] == "+0.000 %"


def test_perplexity_is_that_of_the_log_probabilities() -> None:
    model = checkpoint(seed=3)
    piece = list(range(5, 45))
    answer = model.driver().one(piece, max_tokens=1, prompt_logprobs=0)
    scores = [token.logprob for token in answer.prompt_logprobs[1:]]
    assert len(scores) == 39
    (base, *_) = compare(model.path, [piece])
    assert base.perplexity == pytest.approx(math.exp(-sum(scores) / 39), rel=1e-5)


def test_texts_are_cut_into_whole_pieces(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model", random_config(), seed=0)
    tokenizer = Tokenizer.load(tmp_path / "model")
    (tmp_path / "long").write_text("x" * (2 * PIECE + 9))
    (tmp_path / "short").write_text("x")
    assert [len(piece) for piece in pieces_of(tokenizer, [tmp_path / "long"])] == [PIECE] * 2
    with pytest.raises(BenchmarkError, match="no piece"):
        pieces_of(tokenizer, [tmp_path / "short"])
