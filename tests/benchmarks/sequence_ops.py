"""Reverse complement, GC content, padding and 6-mers. 100,000 x 500 bp; 20,000 texts of 250 to 500 bp are padded.

`limit` is what the memory allows: a copy into an array that is there (reverse complement), reading once (GC content), filling an
array that is there (padding), filling a fresh array of 16-bit counts (6-mers). tangermeme's 6-mers are a sparse matrix.
"""
from functools import partial

from harness import Case, Tool, main
from one_hot import letters, text

import numpy as np

COMPLEMENT = np.arange(256, dtype=np.uint8)
COMPLEMENT[list(b"ACGT")] = list(b"TGCA")


# ---------------------------------------------------------------- reverse complement

def copy(data):
    out = data.copy()
    return lambda: np.copyto(out, data)


def rc_ours(data):
    from eugene.etl.sequences import reverse_complement
    return lambda: reverse_complement(data)


def rc_into(data):
    from eugene.etl.sequences import reverse_complement
    out = np.empty_like(data)
    return lambda: reverse_complement(data, out=out)


def rc_seqpro(data):
    import seqpro as sp
    x = data.view("S1") if data.ndim == 2 else data.transpose(0, 2, 1)
    return (lambda: sp.reverse_complement(x, sp.DNA, length_axis=-1)) if data.ndim == 2 else (lambda: np.ascontiguousarray(sp.reverse_complement(x, sp.DNA, length_axis=1, ohe_axis=2).transpose(0, 2, 1)))


def rc_table(data): return lambda: COMPLEMENT[data[:, ::-1]]


def rc_torch(data):
    import torch
    x = torch.from_numpy(data)
    return lambda: x.flip((1, 2))


def rc_tangermeme(data):
    import torch
    from tangermeme.utils import reverse_complement
    x = torch.from_numpy(data)
    return lambda: torch.stack([reverse_complement(s) for s in x])


def one_hot(n): return (letters(n)[:, None] == np.frombuffer(b"ACGT", np.uint8)[:, None]).astype(np.uint8)


def check_rc(data, name, got):
    rows = np.arange(0, len(data), 97)
    got = got.numpy() if hasattr(got, "numpy") else np.asarray(got).view(np.uint8)
    return "" if (got[rows] == (COMPLEMENT[data[rows, ::-1]] if data.ndim == 2 else data[rows, ::-1, ::-1])).all() else "differs"


# ---------------------------------------------------------------- GC content

def read(data):
    words = data.reshape(-1).view(np.uint64)
    return lambda: np.bitwise_or.reduce(words)


def gc_ours(data):
    from eugene.etl.sequences import gc_content
    return lambda: gc_content(data)


def gc_seqpro(data):
    import seqpro as sp
    x = data.view("S1")
    return lambda: sp.gc_content(x, normalize=True, length_axis=-1, alphabet=sp.DNA)


def gc_numpy(data): return lambda: ((data == 67) | (data == 71)).mean(1)


def check_gc(data, name, got):
    "seqpro and numpy divide by the length, ours by the known letters"
    strong, known = ((data == 67) | (data == 71)).sum(1), (data != 78).sum(1)
    return "" if np.allclose(got, strong / (known if name.startswith("ours") else data.shape[1])) else "differs"


# ---------------------------------------------------------------- padding

def ragged(n):
    size = np.random.default_rng(1).integers(250, 501, n)
    size[0] = 500
    return [s[:k] for s, k in zip(text(n), size)]


def fill(data):
    out = np.empty((len(data), 500), np.uint8)
    return lambda: out.fill(78)


def pad_ours(data):
    from eugene.etl.sequences import pad_seqs
    return lambda: pad_seqs(data, 500)


def pad_ours_bytes(data):
    from eugene.etl.sequences import pad_bytes
    return lambda: pad_bytes(data, 500)


def pad_seqpro(data):
    import seqpro as sp
    return lambda: sp.pad_seqs(data, "right", pad_value="N", length=500)


def pad_join(data):
    return lambda: np.frombuffer("".join(s.ljust(500, "N") for s in data).encode(), np.uint8).reshape(-1, 500)


def check_pad(data, name, got):
    got = np.array([list(s.encode()) for s in got], np.uint8) if isinstance(got, list) else np.ascontiguousarray(got).view(np.uint8).reshape(len(data), 500)
    rows = range(0, len(data), 37)
    return "" if all(got[i].tobytes() == data[i].encode().ljust(500, b"N") for i in rows) else "differs"


# ---------------------------------------------------------------- 6-mers

def zeros(data):
    def run():
        out = np.empty((len(data), 4096), np.uint16)
        out.fill(0)
        return out
    return run


def kmers_ours(data):
    from eugene.etl.shuffling import kmer_counts
    return lambda: kmer_counts(data, 6, dtype=np.uint16)


def kmers_tangermeme(data):
    import torch
    from tangermeme.kmers import kmers
    part = data[:len(data) // 10]
    x = torch.from_numpy((part[:, None] == np.frombuffer(b"TGCA"[::-1], np.uint8)[:, None]).astype(np.int8))
    return lambda: kmers(x, 6)


def kmers_numpy(data):
    part = data[:len(data) // 10]
    digit = np.zeros(256, np.int64)
    digit[list(b"ACGT")] = range(4)
    def run():
        code = sum(digit[part[:, j:j + part.shape[1] - 5]] * 4**(5 - j) for j in range(6)) + 4096 * np.arange(len(part))[:, None]
        return np.bincount(code.ravel(), minlength=4096 * len(part)).reshape(-1, 4096)
    return run


def check_kmers(data, name, got):
    "Rows without N agree with counting by hand; tangermeme numbers k-mers from the other end"
    for i in range(1, min(len(data) // 10, 400), 61):
        s, row = data[i].tobytes().decode(), got[i]
        row = row.toarray().ravel() if hasattr(row, "toarray") else np.asarray(row).ravel()
        want = np.zeros(4096)
        for p in range(len(s) - 5):
            word = s[p:p + 6] if name != "tangermeme" else s[p:p + 6][::-1]
            want[sum("ACGT".index(c) * 4**(5 - j) for j, c in enumerate(word))] += 1
        if not np.array_equal(row, want): return "differs"
    return ""


def cases(quick):
    n, few = (2_000, 400) if quick else (100_000, 20_000)
    yield Case("reverse complement of bytes", "sequences", n, letters, {"limit": Tool(copy), "ours": Tool(rc_ours), "ours out=": Tool(rc_into), "seqpro": Tool(rc_seqpro, "seqpro"), "numpy table": Tool(rc_table)}, check_rc)
    yield Case("reverse complement of one-hot", "sequences", n, one_hot, {"limit": Tool(copy), "ours": Tool(rc_ours), "ours out=": Tool(rc_into), "seqpro": Tool(rc_seqpro, "seqpro"),
               "torch.flip": Tool(rc_torch, "torch"), "tangermeme": Tool(rc_tangermeme, "tangermeme torch")}, check_rc)
    yield Case("GC content of bytes", "sequences", n, letters, {"limit": Tool(read), "ours": Tool(gc_ours), "seqpro": Tool(gc_seqpro, "seqpro"), "numpy": Tool(gc_numpy)}, check_gc)
    yield Case("padding of text", "sequences", few, ragged, {"limit": Tool(fill), "ours": Tool(pad_ours_bytes), "ours, text": Tool(pad_ours), "seqpro": Tool(pad_seqpro, "seqpro"), "ljust and join": Tool(pad_join)}, check_pad)
    yield Case("6-mers", "sequences", n, letters, {"limit": Tool(zeros), "ours": Tool(kmers_ours), "tangermeme": Tool(kmers_tangermeme, "tangermeme torch", .1), "numpy bincount": Tool(kmers_numpy, share=.1)}, check_kmers)


if __name__ == "__main__": main("sequence_ops", cases)
