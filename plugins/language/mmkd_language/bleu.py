"""BLEU: how many short runs of tokens a text shares with a reference."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

Pair = tuple[Sequence[Hashable], Sequence[Hashable]]
"""What was written, and the reference."""


def corpus_bleu(pairs: Iterable[Pair], order: int = 4) -> float:
    """BLEU of a corpus with one reference each, from 0 to 1 (Papineni et al., 2002).

    `min(1, exp(1 - r / c)) * (prod_n m_n / t_n)^(1 / order)`: of the `t_n` runs of n tokens that were written, `m_n`
    are in their reference, each as often as it is there at most; `c` and `r` are the tokens written and those of the
    references. Lengths n for which nothing is long enough are left out.
    """
    matched, total, written, reference = [0] * order, [0] * order, 0, 0
    for made, wanted in pairs:
        written, reference = written + len(made), reference + len(wanted)
        for n in range(order):
            common, count = _shared(made, wanted, n + 1)
            matched[n], total[n] = matched[n] + common, total[n] + count
    shares = [m / t for m, t in zip(matched, total, strict=True) if t]
    return _combined(shares, written, reference)


def sentence_bleu(made: Sequence[Hashable], wanted: Sequence[Hashable], order: int = 4) -> float:
    """BLEU of one sentence, with one added to counts of runs longer than one token (Lin and Och, 2004)."""
    counts = [_shared(made, wanted, n + 1) for n in range(order)]
    shares = [(m + (n > 0)) / (t + (n > 0)) for n, (m, t) in enumerate(counts) if t + n]
    return _combined(shares, len(made), len(wanted))


def _shared(made: Sequence[Hashable], wanted: Sequence[Hashable], n: int) -> tuple[int, int]:
    """Runs of n tokens that are in the reference too, and all runs."""
    mine, theirs = _runs(made, n), _runs(wanted, n)
    return (mine & theirs).total(), mine.total()


def _runs(tokens: Sequence[Hashable], n: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _combined(shares: Sequence[float], written: int, reference: int) -> float:
    if not written or not all(shares):
        return float(written == reference == 0)
    mean = math.exp(sum(map(math.log, shares)) / len(shares))
    return mean * min(1.0, math.exp(1 - reference / written))
