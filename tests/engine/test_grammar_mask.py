"""Bits to -inf, on the host and as a device does it."""

import numpy as np
import pytest
import torch

from engine.grammar_mask import apply_masks, mask_on_device, mask_on_host


@pytest.mark.parametrize("put", [apply_masks, mask_on_host, mask_on_device])
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 320, 4096])
def test_exactly_what_the_bits_leave_out_goes(put, vocab):
    generator = np.random.default_rng(vocab)
    allowed = generator.random((2, vocab)) < 0.3
    words = np.zeros((2, -(-vocab // 32) * 32), np.uint8)
    words[:, :vocab] = allowed
    masks = list(np.packbits(words, axis=1, bitorder="little").view(np.int32))
    with torch.inference_mode():
        logits = torch.randn(4, vocab)
        masked = logits.clone()
        put(masked, [3, 1], masks)
    assert torch.equal(masked[[0, 2]], logits[[0, 2]])
    for row, keep in ((3, allowed[0]), (1, allowed[1])):
        assert torch.equal(masked[row][keep], logits[row][keep])
        assert torch.isneginf(masked[row][~torch.from_numpy(keep)]).all()
