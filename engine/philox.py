"""Counter-based random numbers: Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11)."""

WORD = 2**64 - 1
FACTORS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
STEPS = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B


def uniform(seed: int, counter: int) -> float:
    """The number in [0, 1) that belongs to (seed, counter): 53 bits of Philox4x64-10.

    The same as ``numpy.random.Philox(key=seed, counter=counter).random_raw()``, whose generator objects take longer to
    make than the ten rounds take here.
    """
    block = ((counter + 1) & WORD, 0, 0, 0)
    key0, key1 = seed, 0
    for _ in range(10):
        product0, product1 = FACTORS[0] * block[0], FACTORS[1] * block[2]
        block = (
            (product1 >> 64) ^ block[1] ^ key0,
            product1 & WORD,
            (product0 >> 64) ^ block[3] ^ key1,
            product0 & WORD,
        )
        key0, key1 = (key0 + STEPS[0]) & WORD, (key1 + STEPS[1]) & WORD
    return (block[0] >> 11) * 2.0**-53
