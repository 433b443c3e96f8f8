"""The real engine core over a model of hashes, under random load, with every answer known beforehand."""
