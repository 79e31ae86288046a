"""One-hot encoding, `(N, 4, L)`: bytes to uint8 and to float32, and a list of text. 100,000 x 500 bp, 20,000 of text.

`limit` writes a fresh array of the size of the result, page faults included. seqpro gives `(N, L, 4)`: the copy that a network
needs is part of its time.
"""
from functools import lru_cache, partial

from harness import Case, Tool, main

import numpy as np

LENGTH = 500


@lru_cache(1)
def letters(n):
    "Random sequences as bytes, in every hundredth row an N"
    x = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, (n, LENGTH), dtype=np.uint8)]
    x[::100, 7] = ord("N")
    return x


def text(n): return [row.tobytes().decode() for row in letters(n)]


def full(dtype, data):
    "A fresh array, written once"
    def run():
        out = np.empty((len(data), 4, LENGTH), dtype)
        out.fill(1)
        return out
    return run


def ours(dtype, data):
    from eugene.etl.sequences import ohe
    return lambda: ohe(data, dtype=dtype)


def seqpro(dtype, data):
    import seqpro as sp
    x = data if isinstance(data, list) else data.view("S1")
    def run():
        out = sp.ohe(sp.cast_seqs(x) if isinstance(x, list) else x, sp.DNA).transpose(0, 2, 1)
        return np.ascontiguousarray(out, dtype)
    return run


def tangermeme(data):
    import torch
    from tangermeme.utils import one_hot_encode
    return lambda: torch.stack([one_hot_encode(s, dtype=torch.float32, ignore=["N"]) for s in data])


def grelu(data):
    from grelu.sequence.format import strings_to_one_hot
    return lambda: strings_to_one_hot(data)


def numpy_eq(dtype, data): return lambda: (data[:, None] == np.frombuffer(b"ACGT", np.uint8)[:, None]).astype(dtype)


def check(dtype, data, name, got):
    "Shape and type as asked, and every cell of some rows right"
    rows = np.linspace(0, len(data) - 1, 211).astype(int)
    some = np.array([list(data[i].encode()) for i in rows], np.uint8) if isinstance(data, list) else data[rows]
    got = got.numpy() if hasattr(got, "numpy") else got
    if got.shape != (len(data), 4, LENGTH): return f"shape {got.shape}"
    if name.startswith("ours") and got.dtype != dtype: return f"type {got.dtype}"
    right = (got[rows] == (some[:, None] == np.array(list(b"ACGT"))[:, None])).all((1, 2))
    return "" if right.all() else "differs where a letter is N" if right[rows % 100 != 0].all() else "differs"


def cases(quick):
    n, few = (2_000, 400) if quick else (100_000, 20_000)
    for word, grow in (("uint8", (.1, 10)), ("float32", (.1, 5))):  # 10 x in float32 would be 8 GB
        dtype = np.dtype(word)
        tools = {"limit": partial(full, dtype), "ours": partial(ours, dtype), "seqpro": partial(seqpro, dtype), "numpy ==": partial(numpy_eq, dtype)}
        yield Case(f"bytes to {word}", "sequences", n, letters, {k: Tool(v, k if k == "seqpro" else "") for k, v in tools.items()}, partial(check, dtype), grow)
    dtype = np.dtype("float32")
    tools = {"limit": Tool(partial(full, dtype)), "ours": Tool(partial(ours, dtype)), "seqpro": Tool(partial(seqpro, dtype), "seqpro"), "tangermeme": Tool(tangermeme, "tangermeme torch"),
             "gReLU": Tool(grelu, "grelu torch", package="gReLU")}
    yield Case("list of text to float32", "sequences", few, text, tools, partial(check, dtype))


if __name__ == "__main__": main("one_hot", cases)
