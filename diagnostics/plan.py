"""What a diagnosis is asked to look at."""

from dataclasses import dataclass

MOST_DOCUMENTS = 10_000
"""A few hundred bytes of each are kept until the end."""
MOST_TOKENS = 65_536
"""The states of all loops of a document are in memory at once."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to look at.

    Attributes:
        most_documents: drawn from the files.
        most_tokens: of a document, if the model can have so many; what is longer is cut.
        attention_positions: positions of a document whose attention weights are looked at; 0 for none.
        extra_loop: also apply the layers once more than the model has loops, for the last fixed-point gap.
        excerpts, excerpt_tokens: documents shown token by token, and how much of each.
        seed: of the choice of documents and of the bootstrap.
    """

    most_documents: int = 500
    most_tokens: int = 1024
    attention_positions: int = 8
    extra_loop: bool = True
    excerpts: int = 3
    excerpt_tokens: int = 400
    seed: int = 0
