"""Which crowds a calibration tries: numbers of sequences times context lengths, and in which order."""

from dataclasses import dataclass

FIRST_CONTEXT = 128
CONTEXT_GROWTH = 4


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A crowd: so many decoding sequences with so much context each."""

    sequences: int
    context: int


def sequence_counts(max_num_seqs: int) -> list[int]:
    """1, 2, 4, … and the most there can be; ascending."""
    return _growing(1, 2, max_num_seqs)


def contexts(max_model_len: int) -> list[int]:
    """128, 512, 2048, … and the longest there can be; ascending."""
    return _growing(min(FIRST_CONTEXT, max_model_len), CONTEXT_GROWTH, max_model_len)


def points_by_worth(max_num_seqs: int, max_model_len: int) -> list[Point]:
    """All points, those first that say most: the smallest, the largest, the other corners, then between.

    So a calibration that ends early (a slow model) leaves a table that is coarse but spans what there is.
    """
    rows, columns = sequence_counts(max_num_seqs), contexts(max_model_len)
    ranked = [
        (max(row_rank, column_rank), abs(row_rank - column_rank), row, column)
        for row_rank, row in enumerate(_ends_first(rows))
        for column_rank, column in enumerate(_ends_first(columns))
    ]
    return [Point(row, column) for *_, row, column in sorted(ranked)]


def _growing(first: int, growth: int, last: int) -> list[int]:
    found = []
    while first < last:
        found.append(first)
        first *= growth
    return [*found, last]


def _ends_first(values: list[int]) -> list[int]:
    """The first, the last, then the middles of what lies between, halving."""
    order, spans = [values[0], *values[1:][-1:]], [(0, len(values) - 1)]
    for low, high in spans:  # grows while it is walked
        middle = (low + high) // 2
        if low < middle:
            order.append(values[middle])
            spans += [(low, middle), (middle, high)]
    return order
