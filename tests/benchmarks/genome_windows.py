"""Windows of a genome as one-hot arrays: 100,000 x 500 bp of a FASTA file of two simulated chromosomes (1.53 and 0.81 Mb).

`limit` writes a fresh array of the size of the result. Opening files is not timed, and neither is genvarloader's reading of the genome
into memory. genvarloader gives bytes; NumPy encodes them. pysam and pyfaidx get a tenth of the windows.
"""
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from harness import Case, Tool, main

import numpy as np

SIZES = {"chrIV": 1_531_933, "chrII": 813_184}
FOLDER = tempfile.TemporaryDirectory()


@lru_cache
def genome():
    "A FASTA file with its index, and its letters"
    gen, path, letters, index, at = np.random.default_rng(0), Path(FOLDER.name, "genome.fa"), {}, [], 0
    with open(path, "wb") as f:
        for name, n in SIZES.items():
            x = letters[name] = np.frombuffer(b"ACGT", np.uint8)[gen.integers(0, 4, n, dtype=np.uint8)].copy()
            x[1000:1100] = ord("N")
            head = f">{name}\n".encode()
            body = b"".join(x[i:i + 60].tobytes() + b"\n" for i in range(0, n, 60))
            f.write(head + body)
            index.append(f"{name}\t{n}\t{at + len(head)}\t60\t61\n")
            at += len(head) + len(body)
    Path(f"{path}.fai").write_text("".join(index))
    return path, letters


class Data(NamedTuple):
    path: Path
    letters: Any
    chrom: np.ndarray
    start: np.ndarray
    width: int


def windows(n, width=500):
    "Random windows on the forward strand"
    gen, (path, letters) = np.random.default_rng(1), genome()
    which = gen.integers(0, 2, n)
    names = np.array([*SIZES], object)[which]
    start = (gen.random(n) * (np.array([*SIZES.values()])[which] - width)).astype(np.int64)
    return Data(path, letters, names, start, width)


def limit(d):
    def run():
        out = np.empty((len(d.start), 4, d.width), np.uint8)
        out.fill(1)
        return out
    return run


def as_windows(d):
    from eugene.etl.seqdata import Windows
    return Windows(d.chrom, d.start, d.start + d.width, np.zeros(len(d.start), bool), d.width)


def ours(d):
    from eugene.etl.fasta import GenomeFASTA
    fasta, w = GenomeFASTA(d.path), as_windows(d)
    return lambda: fasta.encode(w)


def one_hot(x): return (x[:, None] == np.frombuffer(b"ACGT", np.uint8)[:, None]).view(np.uint8)


def genvarloader(d):
    import genvarloader as gvl
    import polars as pl
    bed = pl.DataFrame({"chrom": d.chrom.astype(str), "chromStart": d.start, "chromEnd": d.start + d.width})
    ds = gvl.RefDataset(gvl.Reference.from_path(d.path), bed).with_len(d.width)
    rows = np.arange(len(d.start))
    return lambda: one_hot(np.asarray(ds[rows]).view(np.uint8).reshape(len(rows), d.width))


def tangermeme(d):
    import pandas as pd
    from tangermeme.io import extract_loci
    loci = pd.DataFrame({"chrom": d.chrom.astype(str), "start": d.start, "end": d.start + d.width})
    def run():
        got = extract_loci(loci, str(d.path), in_window=d.width, n_jobs=1)
        return got[0] if isinstance(got, (list, tuple)) else got
    return run


def pysam(d):
    import pysam
    f, few = pysam.FastaFile(str(d.path)), [(c, s, s + d.width) for c, s in zip(d.chrom[:len(d.chrom) // 10], d.start.tolist())]
    return lambda: one_hot(np.frombuffer("".join([f.fetch(*w) for w in few]).encode(), np.uint8).reshape(-1, d.width))


def pyfaidx(d):
    import pyfaidx
    f, few = pyfaidx.Fasta(str(d.path), as_raw=True), [(c, s, s + d.width) for c, s in zip(d.chrom[:len(d.chrom) // 10], d.start.tolist())]
    return lambda: one_hot(np.frombuffer("".join([f[c][a:b] for c, a, b in few]).encode(), np.uint8).reshape(-1, d.width))


def check(d, name, got):
    got = got.numpy() if hasattr(got, "numpy") else got
    rows = np.arange(0, len(got), 97)
    want = np.stack([d.letters[d.chrom[i]][d.start[i]:d.start[i] + d.width] for i in rows])
    return "" if np.array_equal(got[rows], one_hot(want)) else "differs"


def cases(quick):
    yield Case("one-hot uint8", "windows", 2_000 if quick else 100_000, windows, {"limit": Tool(limit), "ours": Tool(ours), "genvarloader": Tool(genvarloader, "genvarloader"),
               "tangermeme": Tool(tangermeme, "tangermeme torch"), "pysam": Tool(pysam, "pysam", .1), "pyfaidx": Tool(pyfaidx, "pyfaidx", .1)}, check)


if __name__ == "__main__": main("genome_windows", cases)
