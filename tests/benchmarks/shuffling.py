"""Shuffles that keep k-mers: 100,000 x 200 bp for k of 2 and 3, and 20,000 shuffles of a word against all of its orders.

`limit` copies the sequences into a fresh array. tangermeme and gReLU take a tenth and a fiftieth of the rows. A case `uniform` counts
which of all orders with the same k-mers came up, and tests by chi-square whether they did so equally often.
"""
from collections import Counter
from functools import partial

from harness import Case, Tool, main

import numpy as np

WORDS = (("ACGTACCAGA", 2), ("AACATAGACACA", 2), ("ANNACNANNA", 2), ("ACGACTACGTACG", 3))
SHARES = {"tangermeme": .1, "gReLU": .02}


def rows(n): return np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, (n, 200), dtype=np.uint8)]


def copies(word, n): return np.tile(np.frombuffer(word.encode(), np.uint8), (n, 1))


def part(name, data): return data[:max(1, int(len(data) * SHARES[name]))]


def ours(k, data):
    from eugene.etl.shuffling import k_shuffle
    return lambda: k_shuffle(data, k, seed=0)


def seqpro(k, data):
    import seqpro as sp
    x = data.view("S1")
    return lambda: sp.k_shuffle(x, k, sp.DNA, length_axis=-1, seed=0)


def tangermeme(data):
    import torch
    from tangermeme.ersatz import dinucleotide_shuffle
    x = torch.from_numpy((data[:, None] == np.frombuffer(b"ACGT", np.uint8)[:, None]).astype(np.int8))
    return lambda: dinucleotide_shuffle(x, n=1, random_state=0)


def grelu(data):
    from grelu.sequence.utils import dinuc_shuffle
    x = [r.tobytes().decode() for r in data]
    return lambda: dinuc_shuffle(x, seed=0)


def limit(data): return lambda: data.copy()


def as_bytes(got):
    "Any of the answers as bytes"
    if isinstance(got, list): return np.array([list(s.encode()) for s in got], np.uint8)
    got = np.asarray(got)
    if got.ndim == 4: got = got[:, 0]
    return np.frombuffer(b"ACGT", np.uint8)[got.argmax(1)] if got.ndim == 3 else got.view(np.uint8)


def words_of(s, k): return Counter(s[i:i + k] for i in range(len(s) - k + 1))


def check(k, data, name, got):
    "The counts of some rows stay, and rows change"
    got = as_bytes(got)
    texts = [[a[i].tobytes().decode() for i in range(0, len(got), 997)] for a in (data, got)]
    if any(words_of(a, k) != words_of(b, k) for a, b in zip(*texts)): return "counts differ"
    return "" if all(a != b for a, b in zip(*texts)) else "not shuffled"


def orders(word, k):
    "Every word with the k-mers of `word`, by appending letters while the stock lasts"
    def grow(start, stock):
        if not stock.total(): yield start; return
        for kmer in [m for m, n in stock.items() if n and m[:-1] == start[len(start) - k + 1:]]: yield from grow(start + kmer[-1], stock - Counter([kmer]))
    return sorted(set(grow(word[:k - 1], words_of(word, k))))


def uniform(word, k, data, name, got):
    "How the shuffles fall on all orders of the word"
    every = orders(word, k)
    seen = Counter(r.tobytes().decode() for r in as_bytes(got))
    counts = np.array([seen[o] for o in every])
    outside, never = sum(n for o, n in seen.items() if o not in set(every)), int((counts == 0).sum())
    try: from scipy.stats import chisquare
    except ImportError: p = None
    else: p = float(chisquare(counts).pvalue) if counts.sum() else 0.
    return {"wrong": "counts differ" if outside else f"{never} of {len(every)} orders never seen" if never else "not uniform" if p is not None and p < .001 else "", "orders": len(every), "never": never, "p": p}


def cases(quick):
    n, draws = (2_000, 2_000) if quick else (100_000, 20_000)
    whole = {k: {"limit": Tool(limit), "ours": Tool(partial(ours, k)), "seqpro": Tool(partial(seqpro, k), "seqpro")} for k in (2, 3)}
    others = {"tangermeme": Tool(lambda d: tangermeme(part("tangermeme", d)), "tangermeme torch", SHARES["tangermeme"]),
              "gReLU": Tool(lambda d: grelu(part("gReLU", d)), "grelu torch", SHARES["gReLU"], package="gReLU")}
    yield Case("dinucleotides", "sequences", n, rows, whole[2] | others, partial(check, 2))
    yield Case("k=3", "sequences", n, rows, whole[3], partial(check, 3))
    for word, k in WORDS:
        tools = whole[k] | ({"tangermeme": Tool(tangermeme, "tangermeme torch")} if k == 2 and "N" not in word else {})
        yield Case(f"uniform {word}, k={k}", "shuffles", draws, partial(copies, word), tools, partial(uniform, word, k), rounds=1)


if __name__ == "__main__": main("shuffling", cases)
