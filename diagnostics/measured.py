"""Documents through the model, and the few numbers that are kept of each."""

import numpy as np
import torch

from diagnostics.capture import DocumentRunner, DocumentStates
from diagnostics.corpus import Corpus
from diagnostics.errors import DiagnosticsError
from diagnostics.metrics import Sums
from diagnostics.outputs import Predictions, add_predictions, predict
from diagnostics.plan import Plan
from diagnostics.report import Excerpt, ExcerptToken
from diagnostics.states import add_states
from engine.loading import LoadedModel
from engine.tokenizer import Tokenizer

MAX_CHARS_PER_TOKEN = 64
"""Text beyond so many characters for each wanted token is not tokenised: real text has a tenth of it."""


class Measured:
    """What is known of the documents so far: a few numbers of each, and some excerpts.

    Attributes:
        documents: one entry of sums each.
        sources: their names.
        gates: float64 ``[loops, layers, heads]``, sums over all positions.
        tokens: positions in all.
        cut: documents that were longer.
    """

    def __init__(self, model: LoadedModel, tokenizer: Tokenizer, plan: Plan, own_loops: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.plan = plan
        self.own_loops = own_loops
        self.runner = DocumentRunner(model, plan.most_tokens, plan.attention_positions)
        config = model.config
        self.num_loops = config.loops.num_loops
        self.documents: list[Sums] = []
        self.sources: list[str] = []
        self.gates = np.zeros((self.num_loops, config.num_layers, config.num_heads))
        self.tokens = 0
        self.cut = 0
        self.excerpts: list[Excerpt] = []

    @torch.inference_mode()
    def add(self, source: str, text: str, corpus: Corpus, with_excerpt: bool) -> None:
        """Measure a document; if it can't be, its reason goes to `corpus.skipped`.

        Args:
            with_excerpt: also keep its beginning, token by token.
        """
        most = self.plan.most_tokens
        ids = self.tokenizer.encode(text[: most * MAX_CHARS_PER_TOKEN], parse_special=False)
        kept = ids[:most]
        if len(kept) < 2:
            corpus.skipped["fewer than two tokens"] += 1
            return
        if max(kept) >= self.model.config.vocab_size:
            raise DiagnosticsError(
                "the tokenizer has tokens that the model does not know; they don't belong together"
            )
        sums = Sums(self.num_loops)
        states = self.runner.run(kept, sums)
        predictions = self._reduce(states, kept, sums)
        if not np.isfinite(sums.totals).all():
            corpus.skipped["the model's numbers were not finite"] += 1
            return
        self.documents.append(sums)
        self.sources.append(source)
        self.gates += states.gates.cpu().numpy()
        self.tokens += len(kept)
        self.cut += len(ids) > most or len(text) > most * MAX_CHARS_PER_TOKEN
        if with_excerpt:
            self.excerpts.append(self._excerpt(source, kept, predictions))

    def _reduce(self, states: DocumentStates, ids: list[int], sums: Sums) -> Predictions:
        """All numbers of a document whose loops are done."""
        model, config = self.model.runner.model, self.model.config
        offset = config.loops.offset
        embedding_normed = model.kernels.rms_norm(
            states.embedding.clone(), model.weights.norm, config.rms_norm_eps
        )
        add_states(sums, "raw", [states.embedding, *states.raw], offset)
        add_states(sums, "normed", [embedding_normed, *states.normed], offset)
        for loop in range(1, self.num_loops):
            if states.gates[loop].any():
                count = len(ids) * config.num_layers * config.num_heads
                sums.add("gate", loop + 1, float(states.gates[loop].sum()), count)
        tokens = torch.tensor(ids, device=states.embedding.device)
        predictions = predict(model, states.normed, tokens)
        add_predictions(sums, predictions)
        return predictions

    def _excerpt(self, source: str, ids: list[int], predictions: Predictions) -> Excerpt:
        """The beginning of a document, token by token, as the model's own loops see it."""
        shown = ids[: self.plan.excerpt_tokens]
        text = self.tokenizer.token_text
        losses, best = (part[: self.own_loops].T.tolist() for part in (predictions.losses, predictions.best))
        tokens = [ExcerptToken(text(shown[0]), [], [])]
        for token, of_loops, said in zip(shown[1:], losses, best, strict=False):
            tokens.append(ExcerptToken(text(token), [text(each) for each in said], of_loops))
        return Excerpt(source, tokens)
