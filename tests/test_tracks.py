"Readers of BigWig and BAM files against pyBigWig and pysam, window by window, on real and simulated files; files that are no good."
import gzip
import pickle
import shutil
import struct
import tracemalloc
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from eugene.etl import tracks
from eugene.etl.coverage import bin_coverage, flip_tracks
from eugene.etl.seqdata import Windows, add_tracks, make_dataset
from eugene.etl.tracks import EXCLUDED, FLAGS, BAM, BigWig

pyBigWig = pytest.importorskip("pyBigWig")
pysam = pytest.importorskip("pysam", reason="pysam is not installed")

SOME = settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BAMS = ("deeptools_paired.bam", "deeptools_test1.bam", "deeptools_testA.bam", "pybedtools_x_dm3_chr2L.bam")
BIGWIGS = ("deeptools_test1.bw", "deeptools_testA.bw", "pybigwig_test.bw")


def ask(rows, width=None):
    "Windows from rows (chrom, start, end, minus)"
    chrom, start, end, minus = zip(*rows)
    start, end = np.array(start), np.array(end)
    return Windows(np.array(chrom, object), start, end, np.array(minus, bool), width or int((end - start).max()))


def some_windows(sizes, places, n, longest, seed):
    "Windows of several lengths around `places`, at both ends of the chromosomes and beyond, on both strands"
    gen, rows = np.random.default_rng(seed), []
    for chrom, size in sizes.items():
        at = np.array(places.get(chrom, []) or [0])
        starts = np.concatenate([gen.choice(at, n) - gen.integers(0, longest, n), [-longest // 2, size - longest // 2, size + 3, -longest - 3, 0, size - 1]])
        for a in starts: rows.append((chrom, int(a), int(a + gen.integers(0, longest + 1)), bool(gen.integers(2))))
    return [rows[i] for i in gen.permutation(len(rows))]


def turned(values, minus, width):
    "One window as a reader gives it"
    return np.concatenate([values[:, ::-1] if minus else values, np.zeros((len(values), width - values.shape[1]), values.dtype)], 1)


# ---------------------------------------------------------------- BAM

@pytest.fixture(scope="module")
def bams(data_dir, tmp_path_factory):
    "Copies of the real BAM files, with an index each"
    folder = tmp_path_factory.mktemp("bam")
    for name in BAMS:
        shutil.copyfile(data_dir / "formats" / name, folder / name)
        pysam.index(str(folder / name))
    return folder


def kept(read, min_mapq=0, require=0, exclude=EXCLUDED):
    return not read.is_unmapped and not read.flag & exclude and read.flag & require == require and read.mapping_quality >= min_mapq


def slow_bam(f, rows, width, where, reach=0, stranded=False, **rule):
    "Windows one by one; `where(read)` gives the positions a read counts at"
    out = np.zeros((len(rows), 1 + stranded, width), np.int32)
    for i, (chrom, a, b, minus) in enumerate(rows):
        counts = np.zeros((1 + stranded, b - a), np.int32)
        if b + reach > 0:
            for read in f.fetch(chrom, max(a - reach, 0), b + reach):
                if not kept(read, **rule): continue
                for lo, hi in where(read): counts[int(stranded and read.is_reverse), max(lo - a, 0):max(hi - a, 0)] += 1
        counts[:, [not 0 <= p < f.get_reference_length(chrom) for p in range(a, b)]] = 0  # moved off the chromosome
        out[i] = turned(counts[::-1] if minus else counts, minus, width)
    return out


def places(f):
    at = {}
    for read in f.fetch(until_eof=True):
        if not read.is_unmapped: at.setdefault(read.reference_name, []).append(read.reference_start)
    return at


def windows_of(path, seed, n=60, longest=400):
    with pysam.AlignmentFile(str(path)) as f:
        at = places(f)
        return some_windows({c: s for c, s in zip(f.references, f.lengths) if c in at}, at, n, longest, seed)


RULES = ({}, {"min_mapq": 20}, {"exclude": 0}, {"require": 2}, {"exclude": EXCLUDED | 16})


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("name", BAMS)
def test_depth_is_that_of_the_blocks_of_pysam(bams, name, rule):
    rows = windows_of(bams / name, 0)
    reader = BAM(bams / name, min_mapq=rule.get("min_mapq", 0), require_flags=rule.get("require", 0), exclude_flags=rule.get("exclude", EXCLUDED))
    with pysam.AlignmentFile(str(bams / name)) as f: expected = slow_bam(f, rows, 400, lambda r: r.get_blocks(), **rule)
    got = reader.read(ask(rows, 400))
    assert got.dtype == np.int32 and np.array_equal(got, expected)
    assert rule or expected.any()


@pytest.mark.parametrize("name", BAMS)
def test_strands_add_up_and_bins_are_sums(bams, name):
    rows = windows_of(bams / name, 1)
    both, one = (BAM(bams / name, stranded=s).read(ask(rows, 400)) for s in (True, False))
    with pysam.AlignmentFile(str(bams / name)) as f: assert np.array_equal(both, slow_bam(f, rows, 400, lambda r: r.get_blocks(), stranded=True))
    assert np.array_equal(both.sum(1, keepdims=True), one)
    assert np.array_equal(BAM(bams / name, bin_width=16).read(ask(rows, 400)), bin_coverage(one, 16, "sum"))
    full = [(c, a, a + 400, m) for c, a, _, m in rows]
    plus = BAM(bams / name, stranded=True).read(ask([(c, a, b, False) for c, a, b, _ in full]))
    assert np.array_equal(BAM(bams / name, stranded=True).read(ask(full)), flip_tracks(plus, np.array([m for *_, m in full]), stranded=True))


@pytest.mark.parametrize("shift", [(0, 0), (4, -4), (4, -5), (-75, 300)])
@pytest.mark.parametrize("name", BAMS)
def test_ends_are_the_first_bases_of_the_reads(bams, name, shift):
    def end(read):
        positions = read.get_reference_positions()  # aligned bases, left to right
        at = positions[-1] + shift[1] if read.flag & 16 else positions[0] + shift[0]
        return [(at, at + 1)]
    rows = windows_of(bams / name, 2, 30)
    with pysam.AlignmentFile(str(bams / name)) as f: expected = slow_bam(f, rows, 400, end, reach=400, stranded=True)
    assert np.array_equal(BAM(bams / name, count="ends", shift=shift, stranded=True).read(ask(rows, 400)), expected)


def test_fragments_go_from_the_first_to_the_last_base_of_a_pair(bams):
    path, pairs = bams / "deeptools_paired.bam", {}
    with pysam.AlignmentFile(str(path)) as f:
        for read in f.fetch(until_eof=True):
            if read.is_proper_pair and kept(read): pairs.setdefault(read.query_name, []).append(read)
    pairs = {n: sorted(p, key=lambda r: r.is_read2) for n, p in pairs.items() if len(p) == 2}
    assert len(pairs) > 5000
    first = [p[0] for p in pairs.values()]
    lo, hi = np.array([(min(r.reference_start for r in p), max(r.reference_end for r in p)) for p in pairs.values()]).T
    assert {r.reference_name for r in first} == {"chr2L"}
    rows = [r for r in windows_of(path, 3, 40) if r[0] == "chr2L"]
    expected = np.zeros((len(rows), 1, 400), np.int32)
    for i, (_, a, b, minus) in enumerate(rows):
        counts = np.array([((lo <= p) & (p < hi)).sum() for p in range(a, b)], np.int32)[None]
        expected[i] = turned(counts, minus, 400)
    assert np.array_equal(BAM(path, count="fragments").read(ask(rows, 400)), expected) and expected.max() > 100


def test_depth_is_that_of_count_coverage_but_for_n(bams):
    "`count_coverage` without its filters leaves out bases read as N, and nothing else"
    lost = 0
    for name in BAMS:
        rows = [(c, max(a, 0), max(a, 0) + 100, False) for c, a, _, _ in windows_of(bams / name, 4, 20)]
        got = BAM(bams / name).read(ask(rows))[:, 0]
        with pysam.AlignmentFile(str(bams / name)) as f:
            for row, (c, a, b, _) in zip(got, rows):
                b = min(b, f.get_reference_length(c))
                if a >= b: continue
                theirs, unknown = np.sum(f.count_coverage(c, a, b, quality_threshold=0, read_callback=kept), 0), np.zeros(b - a, int)
                for read in f.fetch(c, a, b):
                    if kept(read):
                        for q, p in read.get_aligned_pairs(matches_only=True):
                            if a <= p < b and read.query_sequence[q] not in "ACGT": unknown[p - a] += 1
                assert np.array_equal(row[:b - a], theirs + unknown)
                lost += unknown.sum()
    assert lost > 0


def repack(path, out, gen):
    "The same reads in small blocks, so that reads go on from one to the next, with an index"
    whole, parts = gzip.decompress(path.read_bytes()), []
    while whole:
        n = int(gen.integers(1, 3000))
        piece, whole = whole[:n], whole[n:]
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        packed = packer.compress(piece) + packer.flush()
        parts.append(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\6\0BC\2\0" + struct.pack("<H", len(packed) + 25) + packed + struct.pack("<II", zlib.crc32(piece), len(piece)))
    out.write_bytes(b"".join(parts) + bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000"))
    pysam.index(str(out))
    return out


@pytest.mark.parametrize("name", BAMS)
@pytest.mark.parametrize("packed", ["as it is", "in small blocks"])
def test_the_fast_way_counts_as_the_plain_way(bams, tmp_path, name, packed):
    "Random stretches in order and out of order, random rules; a file whose reads go on from block to block"
    gen = np.random.default_rng(11)
    path = bams / name if packed == "as it is" else repack(bams / name, tmp_path / name, gen)
    with tracks._open_bam(path) as bam:
        rows = [r for r in windows_of(path, 7, 60) if r[0] in bam.file.references]
        for i, (chrom, a, _, _) in enumerate(sorted(rows) if gen.integers(2) else rows):
            n, count, a = bam.file.get_reference_length(chrom), tracks.COUNTS[i % 3], max(a, 0)
            rule = tracks._Rule(count, tuple(gen.integers(-300, 300, 2).tolist()), int(gen.choice([0, 10, 40])), int(gen.choice([0, 1, 2, 16, 64])), int(gen.choice([4, 20, 1028, EXCLUDED])), int(gen.integers(0, 600)))
            span, stranded = tracks._Span(chrom, min(a, n), min(a + int(gen.integers(0, 3000)), n), []), bool(gen.integers(2))
            books, answers = (Counter(), Counter()), []
            for seen, fast in zip(books, (True, False)): answers.append(tracks._pileup(bam, span, rule, stranded, seen, fast))
            assert np.array_equal(*answers) and books[0] == books[1]
            if span.end > span.start: assert tracks._fast_steps(bam, (bam.file.get_tid(chrom), span.start, span.end, span.start), rule, np.zeros((1, span.end - span.start + 1), int), Counter())


def test_very_long_alignments_and_another_index_take_the_plain_way(tmp_path):
    "More than 65,535 operations are kept in a tag; a .csi index is not walked through"
    path, operations = tmp_path / "long.bam", 70_001
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "chr1", "LN": 200_000}]})
    with pysam.AlignmentFile(str(path), "wb", header=header) as f:
        for start, cigar in ((10, "30M"), (20, "1M1D" * (operations // 2) + "1M"), (30, "30M")):
            r = pysam.AlignedSegment(header)
            r.query_name, r.flag, r.reference_id, r.reference_start, r.mapping_quality, r.cigarstring = "r", 0, 0, start, 60, cigar
            r.query_sequence = "A" * r.infer_query_length()
            f.write(r)
    pysam.index(str(path))
    want = np.zeros(100, int)
    for covered in (slice(10, 40), slice(20, None, 2), slice(30, 60)): want[covered] += 1
    rows = ask([("chr1", 0, 100, False)])
    with tracks._open_bam(path) as bam: assert not tracks._fast_steps(bam, (0, 0, 100, 0), BAM(path)._rule, np.zeros((1, 101), int), Counter())
    assert np.array_equal(BAM(path).read(rows)[0, 0], want)
    Path(f"{path}.bai").unlink()
    pysam.index("-c", str(path))
    with tracks._open_bam(path) as bam: assert bam.index is None
    assert np.array_equal(BAM(path).read(rows)[0, 0], want)


@pytest.mark.parametrize("name", BAMS)
def test_every_read_is_accounted_for(bams, name):
    with pysam.AlignmentFile(str(bams / name)) as f: flags = Counter((r.flag, r.mapping_quality >= 10) for r in f.fetch(until_eof=True))
    report = BAM({"s": bams / name}, min_mapq=10).report().loc["s"]
    assert report["reads"] == sum(flags.values()) and report.drop("reads").sum() == report["reads"]
    assert report["counted"] == sum(n for (flag, fine), n in flags.items() if fine and not flag & 3844)
    mapped = BAM({"s": bams / name}).layout(10).attrs["mapped_reads"]
    assert mapped == [sum(n for (flag, _), n in flags.items() if not flag & 4)]


def test_single_end_reads_are_not_lost(bams, caplog):
    "The proper-pair filter of earlier readers emptied single-end data in silence"
    path = bams / "deeptools_test1.bam"
    rows = ask([("3R", 0, 1500, False)])
    assert BAM(path).read(rows).sum() > 1000 and not caplog.records
    assert BAM(path, count="fragments").read(rows).sum() == 0
    assert "deeptools_test1.bam: none of the 144 reads" in caplog.text and "no proper pair" in caplog.text


def test_a_reader_of_several_samples_travels_and_is_shared(bams):
    reader = BAM([bams / "deeptools_paired.bam", bams / "pybedtools_x_dm3_chr2L.bam"], count="ends", name="cuts")
    rows = ask([r for r in windows_of(bams / BAMS[0], 5, 50) if r[0] == "chr2L"], 400)
    expected = np.concatenate([BAM(p, count="ends").read(rows) for p in reader.files], 1)
    with ThreadPoolExecutor(4) as pool: found = list(pool.map(lambda r: r.read(rows), [reader, reader, pickle.loads(pickle.dumps(reader)), reader]))
    for got in found: assert np.array_equal(got, expected)
    layout = reader.layout(400)
    assert layout.dims == ("sequence", "track_cuts", "position") and got.shape[1:] == layout.shape and got.dtype == layout.dtype
    assert reader.contigs()["chr2L"] == 23_011_544
    ds = add_tracks(make_dataset(np.full((len(got), 400), 65, np.uint8)), "cuts", got, layout.coords["track_cuts"])
    assert ds["cuts"].dims == layout.dims and layout.attrs["kind"] == "tracks"


cigars = st.lists(st.tuples(st.sampled_from("M=XDN"), st.integers(1, 12)), min_size=1, max_size=5).map(lambda ops: [("M", 1), *ops, ("M", 2)])
clip = st.integers(0, 3)
drawn_reads = st.lists(st.tuples(st.integers(0, 90), cigars, clip, clip, st.sampled_from([0, 16, 99, 147, 256, 1024, 2048, 512, 4]), st.integers(0, 60)), max_size=25)


@SOME
@given(drawn_reads, st.lists(st.tuples(st.integers(-30, 220), st.integers(0, 60), st.booleans()), min_size=1, max_size=12), st.tuples(st.integers(-9, 9), st.integers(-9, 9)))
def test_drawn_reads_are_counted_base_by_base(tmp_path, reads, windows, shift):
    path = str(tmp_path / "drawn.bam")
    for old in tmp_path.glob("drawn.bam*"): old.unlink()
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "chr1", "LN": 200}]})
    truth = []  # positions of the aligned bases of every read that counts
    with pysam.AlignmentFile(path, "wb", header=header) as f:
        for start, ops, left, right, flag, mapq in sorted(reads):
            r = pysam.AlignedSegment(header)
            r.query_name, r.flag, r.reference_id, r.reference_start, r.mapping_quality = "r", flag, 0, start, mapq
            if not flag & 4: r.cigarstring = "".join(f"{n}{op}" for op, n in (("S", left), *ops, ("S", right)) if n)
            r.query_sequence = "A" * (r.infer_query_length() or 1)
            f.write(r)
            if flag in (0, 16, 99, 147) and mapq >= 10:
                steps = "".join(op * n for op, n in ops)
                truth.append((flag & 16, [start + i for i, op in enumerate(steps) if op in "M=X"]))
    pysam.index(path)
    rows = [(a, a + n, m) for a, n, m in windows]
    for count, where in (("depth", lambda minus, p: p), ("ends", lambda minus, p: [p[-1] + shift[1] if minus else p[0] + shift[0]])):
        tally = Counter((bool(minus), p) for minus, at in truth for p in where(minus, at))
        reader = BAM(path, count=count, shift=shift if count == "ends" else (0, 0), min_mapq=10, stranded=True)
        got = reader.read(ask([("chr1", *r) for r in rows], 60))
        for row, (a, b, m) in zip(got, rows):
            # a position outside the chromosome holds no count, whatever was moved there
            counts = np.array([[tally[s, p] * (0 <= p < 200) for p in range(a, b)] for s in ((True, False) if m else (False, True))], np.int32).reshape(2, b - a)
            assert np.array_equal(row, turned(counts, m, 60))


# ---------------------------------------------------------------- BigWig

def slow_bigwig(f, rows, width, missing):
    "Windows one by one"
    out = np.full((len(rows), 1, width), missing, np.float32)
    for i, (chrom, a, b, minus) in enumerate(rows):
        values = np.full(b - a, np.nan, np.float32)
        lo, hi = max(a, 0), min(b, f.chroms(chrom))
        if hi > lo: values[lo - a:hi - a] = f.values(chrom, lo, hi)
        values[np.isnan(values)] = missing
        out[i, 0, :b - a] = values[::-1] if minus else values
    return out


@pytest.mark.parametrize("missing", [0., np.nan, -1.])
@pytest.mark.parametrize("name", BIGWIGS)
def test_values_are_those_of_pybigwig(data_dir, name, missing):
    path = data_dir / "formats" / name
    with pyBigWig.open(str(path)) as f:
        at = {c: [p for s, e, _ in f.intervals(c) or () for p in (s, e)] for c in f.chroms()}
        rows = some_windows(f.chroms(), at, 60, 300, 0)
        expected = slow_bigwig(f, rows, 300, missing)
    got = BigWig(path, missing=missing).read(ask(rows, 300))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)
    assert np.isfinite(expected[expected != missing]).any()


@pytest.mark.parametrize("stat", ["mean", "max", "min", "sum"])
@pytest.mark.parametrize("name", BIGWIGS)
def test_bins_are_the_exact_statistics_of_pybigwig(data_dir, name, stat):
    path = data_dir / "formats" / name
    with pyBigWig.open(str(path)) as f:
        chrom, size = next(iter(f.chroms().items()))
        rows = [(chrom, a, a + 60, False) for a in range(0, min(size, 1500) - 60, 37)]
        expected = [f.stats(chrom, a, b, type=stat, nBins=6, exact=True) for _, a, b, _ in rows]
    expected = np.array(expected, float)
    got = BigWig(path, missing="nan", bin_width=10, stat=stat).read(ask(rows))[:, 0]
    if stat == "sum": expected = np.where(np.isnan(got), np.nan, expected)  # pyBigWig gives 0 for a bin without data
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert np.isfinite(got).any()
    zero = BigWig(path, missing=0., bin_width=10, stat=stat).read(ask(rows))
    np.testing.assert_allclose(zero, bin_coverage(BigWig(path, missing=0.).read(ask(rows)), 10, stat), rtol=1e-5)


@SOME
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30), st.floats(-100, 100, width=32)), min_size=1, max_size=15),
       st.lists(st.tuples(st.integers(-40, 300), st.integers(0, 50), st.booleans()), min_size=1, max_size=15), st.sampled_from([0., np.nan, 5.]), st.sampled_from([1, 5]))
def test_drawn_signals_come_back(tmp_path, runs, windows, missing, width):
    path, at, starts = tmp_path / "drawn.bw", 0, []
    for gap, n, v in runs:
        starts.append((at + gap, at + gap + n, v))
        at += gap + n
    truth = np.full(at, np.nan)
    for a, b, v in starts: truth[a:b] = v
    with pyBigWig.open(str(path), "w") as f:
        f.addHeader([("chr1", at)])
        f.addEntries(["chr1"] * len(starts), [a for a, _, _ in starts], ends=[b for _, b, _ in starts], values=[v for *_, v in starts])
    got = BigWig(path, missing=missing, bin_width=width).read(ask([("1", a, a + n, m) for a, n, m in windows], 50))
    for row, (a, n, minus) in zip(got, windows):
        values = np.array([truth[p] if 0 <= p < at else np.nan for p in range(a, a + n)] or np.zeros(0))
        values = np.append(values[::-1] if minus else values, np.full(50 - n, np.nan))
        values[np.isnan(values)] = missing
        np.testing.assert_allclose(row[0], bin_coverage(values, width), rtol=1e-5, atol=1e-4)


def test_stranded_pairs_and_samples_of_bigwig(tmp_path, data_dir):
    plus, minus = tmp_path / "p.bw", tmp_path / "m.bw"
    for path, v in ((plus, 1.), (minus, -2.)):
        with pyBigWig.open(str(path), "w") as f:
            f.addHeader([("3R", 1500)])
            f.addEntries(["3R"], [100], ends=[200 if path == plus else 150], values=[v])
    reader, rows = BigWig({"cage": (plus, minus), "again": (plus, minus)}), [("3R", a, a + 80, m) for a in (60, 100, 160) for m in (False, True)]
    got = reader.read(ask(rows))
    assert reader.tracks == ["cage+", "cage-", "again+", "again-"] and reader.layout(80).attrs["stranded"] == 1
    apart = np.concatenate([BigWig([plus, minus]).read(ask([(*r[:3], False) for r in rows]))] * 2, 1)
    assert np.array_equal(got, flip_tracks(apart, np.array([r[3] for r in rows]), stranded=True)) and got.min() == -2
    with pytest.raises(ValueError, match="3R has 1,500 bp in p.bw and 200 bp in deeptools_testA.bw"): BigWig([plus, data_dir / "formats/deeptools_testA.bw"])
    with pytest.raises(ValueError, match="no chromosome in common"): BigWig([plus, data_dir / "formats/pybigwig_test.bw"])


# ---------------------------------------------------------------- files that are no good

def test_a_bigwig_that_is_cut_off_is_never_read(tmp_path, data_dir):
    "The library below reads some of these as if data were missing, and ends the process on others"
    for name in BIGWIGS:
        whole, gen = (data_dir / "formats" / name).read_bytes(), np.random.default_rng(0)
        for n in (0, 1, 4, 32, 63, 64, 500, *gen.integers(65, len(whole), 40), len(whole) - 1):
            (tmp_path / "cut.bw").write_bytes(whole[:n])
            with pytest.raises(ValueError, match="cut.bw is"): BigWig(tmp_path / "cut.bw")


def test_files_of_another_kind(tmp_path, data_dir):
    formats = data_dir / "formats"
    with pytest.raises(ValueError, match="pybigwig_test.bigBed is a bigBed file"): BigWig(formats / "pybigwig_test.bigBed")
    with pytest.raises(ValueError, match="deeptools_test1.bam is no BigWig"): BigWig(formats / "deeptools_test1.bam")
    with pytest.raises(ValueError, match="deeptools_test1.bw is no BAM"): BAM(formats / "deeptools_test1.bw")
    with pytest.raises(ValueError, match="pysam_ex1.sam.gz is .*samtools sort"): BAM(formats / "pysam_ex1.sam.gz")
    with pytest.raises(ValueError, match="pysam_ex1.vcf.gz is no BAM"): BAM(formats / "pysam_ex1.vcf.gz")
    with pytest.raises(FileNotFoundError, match="pybedtools_x_dm3_chr2L.bam has no index.*samtools index"): BAM(formats / "pybedtools_x_dm3_chr2L.bam")
    for reader, what in ((BAM, "BAM"), (BigWig, "BigWig")):
        with pytest.raises(FileNotFoundError, match=f"no {what} file .*nowhere"): reader(tmp_path / "nowhere")
        with pytest.raises(FileNotFoundError, match=f"no {what} file"): reader(tmp_path)


def test_an_unsorted_bam_is_told_to_be_sorted(tmp_path, bams):
    with pysam.AlignmentFile(str(bams / "deeptools_test1.bam")) as f, pysam.AlignmentFile(str(tmp_path / "mixed.bam"), "wb", header=f.header) as out:
        for read in reversed(list(f)): out.write(read)
    with pytest.raises(FileNotFoundError, match="mixed.bam has no index.*samtools sort"): BAM(tmp_path / "mixed.bam")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bam_that_is_cut_off_or_damaged_is_never_read_wrongly(tmp_path, bams):
    whole, rows = (bams / "deeptools_test1.bam").read_bytes(), ask([("3R", a, a + 300, False) for a in range(0, 1500, 300)])
    path, truth = tmp_path / "bad.bam", BAM(bams / "deeptools_test1.bam").read(rows)
    shutil.copyfile(bams / "deeptools_test1.bam.bai", tmp_path / "bad.bam.bai")
    gen, failed = np.random.default_rng(0), 0
    for n in gen.integers(0, len(whole), 20):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match="bad.bam is"): BAM(path)
    for at in gen.integers(18, len(whole) - 28, 40):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:])
        try: assert np.array_equal(BAM(path).read(rows), truth)
        except (ValueError, FileNotFoundError) as e:
            assert "bad.bam" in str(e)
            failed += 1
    assert failed > 20


def test_windows_and_chromosomes_that_are_none(bams, data_dir):
    for reader in (BAM(bams / "deeptools_test1.bam"), BigWig(data_dir / "formats/deeptools_test1.bw")):
        with pytest.raises(ValueError, match="chrX"): reader.read(ask([("3R", 0, 10, False), ("chrX", 0, 10, False)]))
        with pytest.raises(ValueError, match="Row 2 is 3R:20-10"): reader.read(ask([("3R", 0, 10, False), ("3R", 20, 10, False)]))
        with pytest.raises(ValueError, match="expected 0 to 5 bp"): reader.read(ask([("3R", 0, 10, False)], 5))
        assert np.array_equal(reader.read(ask([("chr3R", 0, 10, False)])), reader.read(ask([("3R", 0, 10, False)])))
        far = reader.read(ask([("3R", 10**9, 10**9 + 10, True), ("3R", -10**9, -10**9 + 10, False)]))
        assert (far == 0).all()


def test_the_flags_are_those_of_pysam():
    names = {"paired": "FPAIRED", "proper pair": "FPROPER_PAIR", "unmapped": "FUNMAP", "mate unmapped": "FMUNMAP", "reverse": "FREVERSE", "mate reverse": "FMREVERSE",
             "first of pair": "FREAD1", "second of pair": "FREAD2", "secondary": "FSECONDARY", "QC fail": "FQCFAIL", "duplicate": "FDUP", "supplementary": "FSUPPLEMENTARY"}
    assert FLAGS == {ours: getattr(pysam, theirs) for ours, theirs in names.items()}


def test_stretches_are_read_in_pieces(tmp_path, bams, monkeypatch):
    "However long the stretches may be, the answer is the same; short ones need less memory"
    path = tmp_path / "dense.bw"
    with pyBigWig.open(str(path), "w") as f:
        f.addHeader([("chr1", 3_000_000)])
        f.addEntries("chr1", 0, values=np.arange(3_000_000) % 7., span=1, step=1)
    gen = np.random.default_rng(0)
    rows = ask([("chr1", a, a + 3_000, bool(gen.integers(2))) for a in gen.permutation(np.arange(0, 2_997_000, 2_900))])
    readers = [(BigWig(path, bin_width=1_000), rows), (BAM(bams / BAMS[0]), ask(windows_of(bams / BAMS[0], 6), 400))]
    whole = [reader.read(r) for reader, r in readers]
    assert abs(whole[0] - 3).max() < .01
    monkeypatch.setattr(tracks, "LONGEST", 2**17)
    for (reader, r), expected in zip(readers, whole): assert np.array_equal(reader.read(r), expected)
    tracemalloc.start()
    readers[0][0].read(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2**20  # bytes, NumPy's; the chromosome has 12 MB


def test_counts_that_do_not_fit_are_refused(bams, monkeypatch):
    reader, rows = BAM(bams / BAMS[1], bin_width=4), ask([("3R", 0, 100, False)])
    monkeypatch.setattr(tracks, "_pileup", lambda *_: [np.full(100, 2**29 - 1, np.int32)])
    assert (reader.read(rows) == 2**31 - 4).all()  # far above what 16 bits hold, and exact
    monkeypatch.setattr(tracks, "_pileup", lambda *_: [np.full(100, 2**29, np.int32)])
    with pytest.raises(ValueError, match="smaller `bin_width`"): reader.read(rows)
