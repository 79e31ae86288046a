"""Regions against single bases, against bioframe, and on real peak files.

The slow judge writes every region into an array with one cell per base; what the functions say about intervals must be true of
those cells. Bioframe is the independent judge on larger frames.
"""
import gzip
import logging
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from eugene.etl.region_sets import nearest_distance, overlap_join, union
from eugene.etl.regions import (check_regions, count_overlaps, extend, label_overlaps, match_contigs, merge, read_bed, read_chrom_sizes,
                                resize, sort_regions, subtract, tile, trim, write_bed)

SOME = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTH, CHROMS = 40, ["chr2", "chr10", "chrM"]
SIZES = dict.fromkeys(CHROMS, LENGTH)
ends = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).filter(lambda t: t[0] != t[1]).map(sorted)
region = st.tuples(st.sampled_from(CHROMS), ends, st.sampled_from("+-."))


def frame(rows):
    return pd.DataFrame([(c, s, e, strand) for c, (s, e), strand in rows], columns=["chrom", "start", "end", "strand"]).astype(
        {"chrom": str, "start": "int64", "end": "int64", "strand": str})


regions = st.lists(region, max_size=9).map(frame)
some_regions = st.lists(region, min_size=1, max_size=9).map(frame)


def each(df):
    "Which bases each region covers, `(N, chromosomes, LENGTH)`"
    out = np.zeros((len(df), len(CHROMS), LENGTH), bool)
    for row, (c, s, e) in zip(out, triples(df)): row[CHROMS.index(c), s:e] = True
    return out


def bits(df):
    "Which bases the regions cover, a row per chromosome"
    return each(df).any(0)


def runs(covered):
    "The stretches of covered bases, as a set"
    found = set()
    for chrom, row in zip(CHROMS, covered):
        edge = np.flatnonzero(np.diff(np.r_[0, row.astype(int), 0]))
        found |= {(chrom, int(s), int(e)) for s, e in zip(edge[::2], edge[1::2])}
    return found


def triples(df):
    return list(zip(df.chrom, df.start.tolist(), df.end.tolist()))


def quiet(f, *args, **kw):
    "Call with the warnings about what is left out silenced"
    log = logging.getLogger("eugene")
    log.setLevel(logging.ERROR)
    try: return f(*args, **kw)
    finally: log.setLevel(logging.NOTSET)


# ---------------------------------------------------------------- against single bases

@SOME
@given(regions, st.integers(0, 6))
def test_merge_covers_the_same_bases_in_the_fewest_pieces(df, gap):
    merged = merge(df)
    assert set(triples(merged)) == runs(bits(df)) and len(merged) == len(runs(bits(df)))
    assert merge(merged).equals(merged)
    closed = bits(df)
    for row in closed:
        on = np.flatnonzero(row)
        for a, b in zip(on, on[1:]):
            if b - a - 1 <= gap: row[a:b] = True
    assert set(triples(merge(df, gap))) == runs(closed)
    order = list(dict.fromkeys(df.chrom))
    assert triples(merged) == sorted(triples(merged), key=lambda t: (order.index(t[0]), t[1]))


@SOME
@given(some_regions)
def test_merge_by_strand_is_merge_of_each_strand(df):
    got = merge(df, stranded=True)
    for strand in "+-.": assert sorted(triples(got[got.strand == strand])) == sorted(triples(merge(df[df.strand == strand])))


@SOME
@given(regions, regions)
def test_subtract_takes_exactly_the_other_bases(df, other):
    left, taken = quiet(subtract, df, other), bits(other)
    expected = []
    for own, strand in zip(each(df), df.strand): expected += [(*t, strand) for t in sorted(runs(own & ~taken))] # every region for itself
    assert [(*t, s) for t, s in zip(triples(left), left.strand)] == expected
    touched = (each(df) & taken).any((1, 2))
    assert triples(quiet(subtract, df, other, whole=True)) == [t for t, hit in zip(triples(df), touched) if not hit]


@SOME
@given(regions, regions, st.integers(1, 12), st.sampled_from([.01, .25, .5, 1.]))
def test_counts_labels_and_joins_agree_with_shared_bases(df, other, bp, share):
    shared = (each(df)[:, None] & each(other)[None]).sum((2, 3))
    length = (df.end - df.start).to_numpy()
    assert quiet(count_overlaps, df, other).tolist() == (shared > 0).sum(1).tolist()
    assert quiet(label_overlaps, df, other).tolist() == (shared > 0).any(1).astype(int).tolist()
    assert quiet(label_overlaps, df, other, bp).tolist() == (shared >= bp).any(1).astype(int).tolist()
    assert quiet(label_overlaps, df, other, share).tolist() == (shared >= share * length[:, None]).any(1).astype(int).tolist()
    joined = quiet(overlap_join, df, other)
    assert joined.overlap.tolist() == shared[shared > 0].tolist()
    assert triples(joined) == [triples(df)[i] for i, _ in np.argwhere(shared)]
    assert joined.start_right.tolist() == [other.start[j] for _, j in np.argwhere(shared)]
    both = quiet(overlap_join, df, other, how="left")
    assert len(both) == len(joined) + (shared.sum(1) == 0).sum() and list(dict.fromkeys(triples(both))) == list(dict.fromkeys(triples(df)))
    table = quiet(label_overlaps, df, other.assign(name="on " + other.strand), by="name").rename(columns=lambda name: name[-1])
    assert list(table) == list(dict.fromkeys(other.strand))
    for strand in table: assert table[strand].tolist() == (shared[:, (other.strand == strand).to_numpy()] > 0).any(1).astype(int).tolist()


@SOME
@given(regions, regions)
def test_distance_counts_the_bases_between(df, other):
    got = quiet(nearest_distance, df, other)
    for i, (chrom, s, e) in enumerate(triples(df)):
        gaps = [max(s2 - e, s - e2, 0) for c, s2, e2 in triples(other) if c == chrom]
        assert got[i] == min(gaps) if gaps else np.isnan(got[i])


@SOME
@given(some_regions, st.integers(1, 15), st.integers(1, 15), st.booleans())
def test_tiles_fill_their_region_up_to_the_remainder(df, width, step, on_grid):
    bins, expected = quiet(tile, df, width, step, on_grid), []
    for chrom, s, e in triples(df):
        if on_grid: s, e = -(-s // width) * width, e // width * width
        expected += [(chrom, a, a + width) for a in range(s, e - width + 1, step)]
    assert triples(bins) == expected
    if not on_grid:
        side = quiet(tile, df, width)
        assert len(side) == ((df.end - df.start) // width).sum()
        assert quiet(label_overlaps, side, df, 1.).all()
    kept = quiet(trim, df, width)
    assert triples(kept) == [(c, -(-s // width) * width, e // width * width) for c, s, e in triples(df) if -(-s // width) * width < e // width * width]


@SOME
@given(some_regions, st.integers(0, 50), st.integers(0, 50))
def test_extend_stays_inside_and_follows_the_strand(df, up, down):
    got = extend(df, (up, down), SIZES)
    assert got.strand.tolist() == df.strand.tolist()
    for (c, s, e), strand, (c2, s2, e2) in zip(triples(df), df.strand, triples(got)):
        left, right = (down, up) if strand == "-" else (up, down)
        assert (c2, s2, e2) == (c, max(0, s - left), min(LENGTH, e + right))
    mirrored = df.assign(start=LENGTH - df.end, end=LENGTH - df.start, strand=df.strand.map({"+": "-", "-": "+", ".": "."}))
    told = df.strand != "."
    back = extend(mirrored, (up, down), SIZES) # the other strand, read from the other end, is the same thing
    assert (LENGTH - back.end)[told].tolist() == got.start[told].tolist() and (LENGTH - back.start)[told].tolist() == got.end[told].tolist()
    assert check_regions(got, SIZES).equals(got) and extend(df, up).equals(extend(df, (up, up)))


@SOME
@given(some_regions, st.integers(1, 60), st.sampled_from(["middle", "start"]))
def test_windows_have_their_width_around_their_centre(df, width, center):
    wide = resize(df, width, center, edges="pad")
    assert (wide.end - wide.start == width).all() and wide.chrom.tolist() == df.chrom.tolist()
    base = (df.start + df.end) // 2 if center == "middle" else df.start.where(df.strand != "-", df.end - 1)
    assert (wide.start + width // 2).tolist() == base.tolist()
    if width % 2: assert (wide.end - 1 - base).tolist() == (base - wide.start).tolist()
    inside = (wide.start >= 0) & (wide.end <= LENGTH)
    assert triples(quiet(resize, df, width, center, SIZES, "drop")) == triples(wide[inside])
    if inside.all(): assert resize(df, width, center, SIZES).equals(wide)
    else:
        with pytest.raises(ValueError, match=f"Region {int(np.argmin(inside)) + 1} "): resize(df, width, center, SIZES)


@SOME
@given(st.lists(regions, min_size=1, max_size=3).filter(lambda sets: any(map(len, sets))))
def test_union_says_where_its_regions_come_from(sets):
    got = quiet(union, sets)
    assert set(triples(got)) == runs(sum(map(bits, sets)).astype(bool))
    for n, s in enumerate(sets, 1):
        assert got[f"set{n}"].tolist() == (each(got) & bits(s)).any((1, 2)).astype(int).tolist()


@SOME
@given(some_regions, st.integers(0, 10**6))
def test_neither_order_nor_spelling_of_chromosomes_matters(df, seed):
    other = df.assign(chrom=df.chrom.str[3:].replace("M", "MT")).sample(frac=1, random_state=seed)
    assert count_overlaps(df, other).tolist() == count_overlaps(df, df).tolist()
    assert set(triples(merge(df))) == set(triples(merge(df.sample(frac=1, random_state=seed))))
    shuffled = sort_regions(df.drop(columns="strand").sample(frac=1, random_state=seed))
    assert triples(shuffled) == sorted(triples(df), key=lambda t: (CHROMS.index(t[0]), t[1], t[2]))


# ---------------------------------------------------------------- files

names = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\0", exclude_categories=("Cs",)), min_size=1, max_size=5).filter(str.strip)
number = st.one_of(st.integers(-1, 1000), st.floats(-1e6, 1e6, allow_nan=False))


@pytest.mark.parametrize("kind, packed", [("bed3", ""), ("bed5", ""), ("bed6", ".gz"), ("broadPeak", ""), ("narrowPeak", "")])
@settings(SOME, max_examples=10)
@given(st.lists(st.tuples(st.sampled_from(CHROMS), ends, names, number, st.sampled_from("+-."), number, number, st.integers(-1, 0)), min_size=1, max_size=6))
def test_what_is_written_is_read(tmp_path, kind, packed, rows):
    table = pd.DataFrame([(c, s, e, n, score, strand, x, y, -1, s if peak == 0 else None) for c, (s, e), n, score, strand, x, y, peak in rows],
                         columns=["chrom", "start", "end", "name", "score", "strand", "signal", "p_value", "q_value", "summit"]).astype({"summit": "Int64"})
    table = table.iloc[:, :{"broadPeak": 9, "narrowPeak": 10}.get(kind) or int(kind[3:])]
    path = write_bed(table, tmp_path / f"x.{kind}{packed}", overwrite=True)
    back = read_bed(path, kind=kind)
    table = table.assign(**{c: table[c].mask(table[c] == -1) for c in ("p_value", "q_value") if c in table}) # -1: not given
    assert list(back.columns) == list(table.columns)
    for column in table: assert back[column].astype(object).where(back[column].notna(), None).tolist() == table[column].astype(object).where(table[column].notna(), None).tolist(), column


@SOME
@given(st.binary(max_size=60) | st.lists(st.sampled_from(["chr1", "\t", "5", "9", "-1", "\n", "\r\n", " ", "+", ".", "1e3", "0,", "#", "track ", "é", '"', "\x1f\x8b"]), max_size=40).map("".join).map(str.encode))
def test_no_bytes_are_read_as_regions_that_are_none(tmp_path, raw):
    path = tmp_path / "x.bed"
    path.write_bytes(raw)
    try: got = quiet(read_bed, path)
    except ValueError as e: assert str(path) in str(e)
    else: assert check_regions(got).equals(got) and len(got) <= raw.count(b"\n") + raw.count(b"\r") + 1


# ---------------------------------------------------------------- bioframe

@pytest.fixture(scope="module")
def genome():
    "Peaks and bins of a made-up genome, bins in random order"
    gen = np.random.default_rng(0)
    peaks = pd.DataFrame({"chrom": gen.choice([f"chr{i}" for i in range(1, 23)], 3000), "start": gen.integers(0, 4_000_000, 3000)})
    peaks["end"] = peaks.start + gen.integers(50, 900, 3000)
    bins = tile(merge(extend(merge(peaks), 2_000)), 200).sample(frac=1, random_state=0).reset_index(drop=True)
    return peaks, bins


@pytest.mark.filterwarnings("ignore")
def test_bioframe_agrees(genome):
    bf = pytest.importorskip("bioframe")
    peaks, bins = genome
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = bf.merge(peaks, min_dist=0)[["chrom", "start", "end"]]
        counts = bf.count_overlaps(bins, peaks)["count"].to_numpy()
        pairs = bf.overlap(bins, peaks, how="inner", suffixes=("", "_right"))
        left = bf.subtract(bins, peaks)[["chrom", "start", "end"]]
        far = bf.closest(bins.assign(row=range(len(bins))), peaks).sort_values("row")["distance"].to_numpy()
    assert sorted(triples(merge(peaks))) == sorted(triples(merged)) and len(merged) < len(peaks)
    assert count_overlaps(bins, peaks).tolist() == counts.tolist() and counts.max() > 1
    assert label_overlaps(bins, peaks).tolist() == (counts > 0).astype(int).tolist()
    key = ["chrom", "start", "end", "start_right", "end_right"]
    assert sorted(map(tuple, overlap_join(bins, peaks)[key].values.tolist())) == sorted(map(tuple, pairs[key].values.tolist()))
    assert sorted(triples(subtract(bins, peaks))) == sorted(triples(left.astype({"start": int, "end": int})))
    assert nearest_distance(bins, peaks).tolist() == [float(d) for d in far]


# ---------------------------------------------------------------- real files

@pytest.mark.parametrize("chrom, length, rois, bp, bins, positive, on_grid, positive_on_grid", [
    ("chrIV", 1_531_933, 30, 1_032_065, 5_148, 228, 5_130, 243), ("chrII", 813_178, 11, 498_963, 2_488, 105, 2_484, 115)])
def test_bins_of_the_yeast_chromosomes(data_dir, chrom, length, rois, bp, bins, positive, on_grid, positive_on_grid):
    peaks = read_bed(data_dir / "jund/Gcn4_peaks.sacCer3.bed")
    peaks = peaks[peaks.chrom == chrom]
    found = merge(extend(merge(peaks), 10_000, {chrom: length}))
    assert (len(found), (found.end - found.start).sum()) == (rois, bp)
    plain, grid = tile(found, 200), tile(found, 200, trim=True)
    assert (len(plain), label_overlaps(plain, peaks).sum()) == (bins, positive)
    assert (len(grid), label_overlaps(grid, peaks).sum()) == (on_grid, positive_on_grid)
    assert (grid.start % 200 == 0).all() and found.end.max() <= length
    covered = np.zeros(length, bool)
    for s, e in zip(peaks.start, peaks.end): covered[s:e] = True
    assert [bool(covered[s:e].any()) for s, e in zip(plain.start, plain.end)] == label_overlaps(plain, peaks).astype(bool).tolist()
    outside = resize(plain, 500, edges="pad")
    assert len(resize(plain, 500, chrom_sizes={chrom[3:]: length}, edges="pad")) == bins
    full = ((outside.start >= 0) & (outside.end <= length)).sum()
    assert full == (2_487 if chrom == "chrII" else len(plain))


PEAKS = {"GM12878_ENCFF002COV": (2_214, 10), "H1hesc_ENCFF001UBM": (3_613, 9), "H1hesc_ENCFF002CIZ": (7_783, 10),
         "HeLa-S3_ENCFF001VIQ": (17_907, 10), "HepG2_ENCFF002CUF": (29_333, 10), "K562_ENCFF001VRL": (70_888, 10)}


@pytest.mark.parametrize("name", PEAKS)
def test_jund_peaks_and_the_windows_cut_around_them(data_dir, name, caplog):
    count, columns = PEAKS[name]
    path = data_dir / f"jund/JunD_{name}.hg19.narrowPeak.gz"
    peaks = read_bed(path)
    raw = pd.read_csv(path, sep="\t", header=None)
    assert (len(peaks), raw.shape[1]) == (count, columns) and peaks.shape[1] == columns
    for ours, theirs in zip(("chrom", "start", "end", "signal"), (0, 1, 2, 6)): assert (peaks[ours] == raw[theirs]).all()
    for ours, theirs in (("p_value", 7), ("q_value", 8)): assert (peaks[ours].fillna(-1) == raw[theirs]).all() and not (peaks[ours] == -1).any()
    if columns == 10: assert (peaks.summit - peaks.start).tolist() == raw[9].tolist()
    assert ("2 of 29333 summits lie beyond" in caplog.text) == (name == "HepG2_ENCFF002CUF")
    assert not {"chr4", "chr8"} & {*peaks.chrom}
    fasta = next((data_dir / "jund").glob(f"JunD_{name}*200bp.fa.gz"))
    headers = [line[1:].strip() for line in gzip.open(fasta, "rt") if line[0] == ">"]
    windows = [f"{c}:{s}-{e}" for c, s, e in triples(resize(peaks, 200))]
    if ".top4000." in fasta.name: assert {*headers} < {*windows}
    else: assert sorted(headers) == sorted(windows)


@pytest.mark.parametrize("name, count", [("hg19", 834), ("hg38", 636)])
def test_blacklists(data_dir, name, count):
    path = data_dir / f"jund/{name}-blacklist.v2.bed"
    regions = read_bed(path)
    assert len(regions) == count and {*regions.name} == {"High Signal Region", "Low Mappability"}
    if name == "hg19":
        peaks = read_bed(data_dir / "jund/JunD_K562_ENCFF001VRL.hg19.narrowPeak.gz")
        kept = subtract(peaks, regions, whole=True)
        assert 0 < len(peaks) - len(kept) < 1_000 and count_overlaps(kept, regions).sum() == 0


def test_sizes_from_the_index_of_a_fasta_file(tmp_path):
    (tmp_path / "g.fa.fai").write_text("chr1\t1000\t6\t60\t61\nchr2\t500\t1030\t60\t61\n")
    (tmp_path / "g.fa").write_text(">chr1\n")
    assert read_chrom_sizes(tmp_path / "g.fa") == read_chrom_sizes(tmp_path / "g.fa.fai") == {"chr1": 1000, "chr2": 500}


def test_a_genome_of_many_contigs_is_matched():
    names = [f"scaffold_{n}" for n in range(20_000)]
    assert match_contigs(names, [f"chr{n}" for n in names], "x")["scaffold_9"] == "chrscaffold_9"


def test_no_regions_are_no_trouble():
    "A frame without rows, its columns without types, passes through everything"
    none, one = pd.DataFrame(columns=["chrom", "start", "end"]), pd.DataFrame({"chrom": ["chr1"], "start": [1], "end": [5]})
    sizes = {"chr1": 9}
    for empty in (check_regions(none, sizes), merge(none), extend(none, 5, sizes), resize(none, 5, chrom_sizes=sizes), subtract(none, one), subtract(one, one),
                  trim(none, 5), tile(none, 5), sort_regions(none), overlap_join(none, one), overlap_join(one, none), union([none, none])):
        assert len(empty) == 0 and list(empty.columns[:3]) == ["chrom", "start", "end"]
    assert subtract(one, none).equals(one) and label_overlaps(one, none).tolist() == [0] and len(overlap_join(one, none, how="left")) == 1


def test_columns_of_other_types_are_understood():
    plain = pd.DataFrame({"chrom": ["chr2", "chr1"], "start": [1, 3], "end": [5, 9]})
    odd = pd.DataFrame({"chrom": pd.Categorical(["chr2", "chr1"]), "start": pd.array([1, 3], "Int64"), "end": np.array([5, 9], np.uint32)}, index=[7, 7])
    for f in (lambda r: merge(r), lambda r: extend(r, 5, {"1": 9, "2": 9}), lambda r: tile(r, 2), lambda r: subtract(r, plain[1:]), lambda r: sort_regions(r), lambda r: resize(r, 3)):
        assert triples(f(odd)) == triples(f(plain))
    assert label_overlaps(odd, plain[:1]).tolist() == [1, 0]
