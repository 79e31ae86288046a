"""Signals in windows: a BigWig with 20,000 x 2,114 bp, and depth of a BAM file in 200 x 1,000 bp. Both files are simulated.

`limit` cuts the windows from arrays that are in memory. The files are opened anew at every call, as for a new set of windows. A read of
the BAM has N among its letters, an insertion, or a deletion now and then; depth counts aligned bases whatever they are.
"""
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from genome_windows import SIZES
from harness import Case, Tool, main

import numpy as np

FOLDER = tempfile.TemporaryDirectory()


class Data(NamedTuple):
    path: str
    signal: Any             # Chromosome to values
    chrom: np.ndarray
    start: np.ndarray
    width: int


@lru_cache
def bigwig():
    "A BigWig with a value for every 1 to 3 bases, some left out, and its values"
    import pyBigWig
    gen, path, signal = np.random.default_rng(0), Path(FOLDER.name, "signal.bw"), {}
    f = pyBigWig.open(str(path), "w")
    f.addHeader([*SIZES.items()])
    for name, n in SIZES.items():
        edges = np.unique(np.r_[0, np.cumsum(gen.integers(1, 4, n)), n].clip(0, n))
        values, keep = gen.integers(0, 400, len(edges) - 1) / 4., gen.random(len(edges) - 1) < .95
        f.addEntries([name] * int(keep.sum()), edges[:-1][keep].tolist(), ends=edges[1:][keep].tolist(), values=values[keep].tolist())
        signal[name] = np.repeat(np.where(keep, values, 0), np.diff(edges)).astype(np.float32)
    f.close()
    return str(path), signal


@lru_cache
def bam():
    "A BAM file with its index, 60,000 reads of 100 letters in the first 200 kb, and its depth"
    import pysam
    gen, path, signal = np.random.default_rng(1), str(Path(FOLDER.name, "reads.bam")), {c: np.zeros(n, np.int32) for c, n in SIZES.items()}
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": c, "LN": n} for c, n in SIZES.items()]})
    shapes = ([(0, 100)],) * 8 + ([(0, 40), (2, 5), (0, 60)], [(4, 10), (0, 50), (1, 3), (0, 37)])
    with pysam.AlignmentFile(path, "wb", header=header) as f:
        for c, name in enumerate(SIZES):
            for i, start in enumerate(np.sort(gen.integers(0, 200_000, 30_000)).tolist()):
                read = pysam.AlignedSegment(header)
                read.query_name, read.flag, read.reference_id, read.reference_start, read.mapping_quality = f"r{c}_{i}", 16 * (i % 2), c, start, 60
                read.query_sequence, read.cigartuples = "".join(np.array([*"ACGTN"])[gen.choice(5, 100, p=[.24, .24, .24, .24, .04])]), shapes[i % 10]
                f.write(read)
                for a, b in read.get_blocks(): signal[name][a:b] += 1
    pysam.index(path)
    return path, signal


def windows(source, width, end, n):
    "Random windows of the file that `source` makes"
    gen, (path, signal) = np.random.default_rng(2), source()
    which = gen.integers(0, 2, n)
    size = np.minimum(np.array([*SIZES.values()]), end)[which]
    return Data(path, signal, np.array([*SIZES], object)[which], (gen.random(n) * (size - width)).astype(np.int64), width)


def listed(d): return [(c, s, s + d.width) for c, s in zip(d.chrom, d.start.tolist())]


def limit(d):
    rows = listed(d)
    def run():
        out = np.empty((len(rows), d.width), d.signal["chrII"].dtype)
        for row, (c, a, b) in zip(out, rows): row[:] = d.signal[c][a:b]
        return out
    return run


def ours(reader):
    def make(d):
        import eugene.etl.tracks as tracks
        from genome_windows import as_windows
        w = as_windows(d)
        return lambda: getattr(tracks, reader)(d.path).read(w)[:, 0]
    return make


def tangermeme(d):
    import pandas as pd
    from tangermeme.io import extract_loci
    loci, letters = pd.DataFrame({"chrom": d.chrom.astype(str), "start": d.start, "end": d.start + d.width}), {c: np.zeros((4, n), np.int8) for c, n in SIZES.items()}
    return lambda: extract_loci(loci, letters, signals=[d.path], in_window=2, out_window=d.width, n_jobs=1)[-1][:, 0]


def pybigtools(d):
    import pybigtools
    few = listed(d)[:len(d.start) // 10]
    def run():
        with pybigtools.open(d.path) as f: return np.nan_to_num(np.stack([f.values(*w) for w in few])).astype(np.float32)
    return run


def pybigwig(d):
    import pyBigWig
    few = listed(d)[:len(d.start) // 10]
    def run():
        with pyBigWig.open(d.path) as f: return np.nan_to_num(np.stack([f.values(*w, numpy=True) for w in few]))
    return run


def pybigwig_whole(d):
    import pyBigWig
    rows = listed(d)
    def run():
        with pyBigWig.open(d.path) as f: whole = {c: np.nan_to_num(f.values(c, 0, n, numpy=True)) for c, n in SIZES.items()}
        return np.stack([whole[c][a:b] for c, a, b in rows])
    return run


def pysam_blocks(d):
    "For each window the aligned blocks of its reads"
    import pysam
    rows = listed(d)
    def run():
        out = np.zeros((len(rows), d.width), np.int32)
        with pysam.AlignmentFile(d.path) as f:
            for row, (c, s, e) in zip(out, rows):
                for read in f.fetch(c, s, e):
                    for a, b in read.get_blocks():
                        if b > s and a < e: row[max(a - s, 0):b - s] += 1
        return out
    return run


def pysam_coverage(d):
    import pysam
    rows = listed(d)
    def run():
        with pysam.AlignmentFile(d.path) as f: return np.stack([np.sum(f.count_coverage(*w, quality_threshold=0), 0) for w in rows])
    return run


def check(d, name, got):
    got = np.asarray(got)
    want = np.stack([d.signal[c][a:b] for c, a, b in listed(d)[:len(got)]])
    return "" if got.shape == want.shape and np.array_equal(got, want) else "differs"


def cases(quick):
    n, few = (200, 20) if quick else (20_000, 200)
    yield Case("BigWig", "windows", n, lambda n: windows(bigwig, 2114, 10**9, n), {"limit": Tool(limit), "ours": Tool(ours("BigWig")), "tangermeme": Tool(tangermeme, "tangermeme torch"),
               "pybigtools": Tool(pybigtools, "pybigtools", .1), "pyBigWig": Tool(pybigwig, "pyBigWig", .1), "pyBigWig, whole chromosomes": Tool(pybigwig_whole, "pyBigWig")}, check)
    yield Case("BAM depth", "windows", few, lambda n: windows(bam, 1000, 200_000, n), {"limit": Tool(limit), "ours": Tool(ours("BAM")), "pysam blocks": Tool(pysam_blocks, "pysam"),
               "pysam count_coverage": Tool(pysam_coverage, "pysam")}, check)


if __name__ == "__main__": main("tracks", cases)
