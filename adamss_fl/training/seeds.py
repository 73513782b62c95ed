"""Seeds derived from what a piece of work is, so that it can be repeated alone and in any order."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """63-bit seed from ``parts``, for example (run seed, site, round, stage).

    SHA-256 of the parts, so that neighbouring rounds and sites draw unrelated numbers.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
