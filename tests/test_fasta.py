"FASTA files and genomes against pysam and pyfaidx, on real files and on drawn ones; negatives on real peaks."
import gzip
import re
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from eugene.etl.fasta import GenomeFASTA, read_fasta, write_fasta
from eugene.etl.regions import read_bed
from eugene.etl.sampling import gc_matched, random_regions, shuffled_negatives
from eugene.etl.seqdata import Windows, open_zarr, to_zarr, unpad
from eugene.etl.sequences import from_bytes, gc_content

SOME = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
GENOMES = ["jund/sacCer3_chrIV.fa.gz", "jund/S288C_chrII_813178bp.fa.gz", "formats/deeptools_test1.fa", "formats/deeptools_testA.fa",
           "formats/kipoiseq_hg38_chr22_32000000_32300000.fa", "formats/pysam_ex1.fa"]


def windows_of(sizes, n, width, seed):
    "Random windows that also reach over both ends, of all lengths up to `width`; the first ones are the ends themselves"
    gen = np.random.default_rng(seed)
    names = np.array(list(sizes), object)
    chrom = gen.choice(names, n)
    size = np.array([sizes[c] for c in chrom])
    start = (gen.random(n) * (size + 2 * width)).astype(int) - width
    length = np.where(gen.random(n) < .5, width, gen.integers(0, width + 1, n))
    start[:4], length[:4] = [0, -1, size[2] - width, size[3] - width + 1], width
    return Windows(chrom, start, start + length, gen.random(n) < .5, width)


@pytest.fixture(scope="module", params=GENOMES)
def unpacked(request, data_dir, tmp_path_factory):
    "A real genome, unpacked in a folder of our own: indices are written beside it"
    path = data_dir / request.param
    if not path.is_file(): pytest.skip(f"no {request.param} in the data folder")
    plain = tmp_path_factory.mktemp("genome") / path.name.removesuffix(".gz")
    plain.write_bytes(gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes())
    return path, plain


def test_windows_are_those_of_pyfaidx_and_pysam(unpacked, tmp_path):
    pysam, pyfaidx = pytest.importorskip("pysam"), pytest.importorskip("pyfaidx")
    path, plain = unpacked
    genome = GenomeFASTA(plain)
    ask = windows_of(genome.contigs(), 1000, 150, 0)
    got = from_bytes(genome.read(ask))
    with pysam.FastaFile(str(plain)) as one, pyfaidx.Fasta(str(plain)) as two:
        assert genome.contigs() == dict(zip(one.references, one.lengths)) == {k: len(two[k]) for k in two.keys()}
        for (chrom, a, b, minus), text in zip(zip(*ask[:4]), got):
            size = genome.contigs()[chrom]
            first, last = min(max(a, 0), size), max(min(b, size), 0)
            before, after = ("N" * (min(b, 0) - min(a, 0)), "N" * (max(b, size) - max(a, size)))
            if last <= first: inner = ["", ""]
            else: inner = [one.fetch(chrom, first, last), str(two[chrom][int(first):int(last)])]
            assert inner[0] == inner[1]
            want = before + inner[0] + after
            if minus: want = str(pyfaidx.Sequence("x", want).reverse.complement) if want else ""
            assert text == want.ljust(150, "N"), (chrom, a, b, minus)
    if path.suffix == ".gz":
        packed = GenomeFASTA(path, cache=tmp_path)
        assert packed.contigs() == genome.contigs() and np.array_equal(packed.read(ask), genome.read(ask))


def test_the_index_is_that_of_samtools(unpacked, tmp_path):
    pysam = pytest.importorskip("pysam")
    plain = shutil.copy(unpacked[1], tmp_path)
    GenomeFASTA(plain)
    ours = (tmp_path / f"{unpacked[1].name}.fai").read_text()
    pysam.faidx(plain)
    assert (tmp_path / f"{unpacked[1].name}.fai").read_text() == ours
    stamp = (tmp_path / f"{unpacked[1].name}.fai").stat().st_mtime_ns
    assert GenomeFASTA(plain).contigs() and (tmp_path / f"{unpacked[1].name}.fai").stat().st_mtime_ns == stamp  # trusted


def test_every_fasta_file_reads_as_by_pysam(data_dir):
    pysam = pytest.importorskip("pysam")
    paths = sorted(p for ending in ("fa", "fa.gz") for p in data_dir.rglob(f"*.{ending}"))
    if not paths: pytest.skip("no FASTA file in the data folder")
    for path in paths:
        with pysam.FastxFile(str(path)) as f: want = [(e.name, e.sequence) for e in f]
        ds = read_fasta(path, length="pad", duplicates="number")
        assert unpad(ds) == [s for _, s in want], path.name
        names = [n for n, _ in want]
        repeated = [i for i, n in enumerate(names) if n in names[:i]] if len(set(names)) < len(names) else []
        assert [v for i, v in enumerate(ds.id.values) if i not in repeated] == [n for i, n in enumerate(names) if i not in repeated]
        assert len(set(ds.id.values)) == len(names)


def test_the_repeated_names_of_the_h1_peaks(data_dir):
    path = data_dir / "jund/JunD_H1hesc_ENCFF002CIZ.hg19.200bp.fa.gz"
    if not path.is_file(): pytest.skip("no JunD FASTA file in the data folder")
    with pytest.raises(ValueError, match=r"record \d+ \(line \d+\), has the name 'chr.*duplicates=\"number\""): read_fasta(path)
    ds = read_fasta(path, duplicates="number", coordinates=True)
    with gzip.open(path, "rt") as f: names = Counter(line[1:].strip() for line in f if line.startswith(">"))
    assert {v for v in ds.id.values if v not in names} == {f"{v}.{k}" for v, n in names.items() for k in range(2, n + 1)} != set()
    assert (ds.end - ds.start == 200).all() and ds.attrs["coordinates"] == "0-based, half-open"


def test_places_of_the_nfe2_peaks_count_from_one(data_dir):
    path = data_dir / "jund/NFE2_GM12878_lsgkm.pos.train.hg19.fa.gz"
    if not path.is_file(): pytest.skip("no NF-E2 FASTA file in the data folder")
    ds = read_fasta(path, length="pad", coordinates=True)
    assert ds.attrs["coordinates"] == "1-based, closed" and np.array_equal(ds.end - ds.start, ds.length)


records = st.lists(st.tuples(st.text("abcXYZ019_.|-", min_size=1, max_size=6), st.text("abc =1é", max_size=6), st.text("ACGTNacgtnRYU", min_size=1, max_size=40)),
                   min_size=1, max_size=6, unique_by=lambda r: r[0])


def layout_of(rows, width, end, gaps, last):
    "A FASTA file by Python's own means"
    lines = []
    for name, note, seq in rows:
        lines += [f">{name} {note}".rstrip(), *(seq[i:i + width] for i in range(0, len(seq), width)), *[""] * gaps]
    return (end.join(lines) + (end if last else "")).encode()


@SOME
@given(records, st.integers(1, 45), st.sampled_from(["\n", "\r\n"]), st.integers(0, 2), st.booleans(), st.sampled_from(["plain", "gzip", "members"]))
def test_any_layout_gives_the_same_records(tmp_path, rows, width, end, gaps, last, packed):
    raw = layout_of(rows, width, end, gaps, last)
    path = tmp_path / "x.fa"
    path.write_bytes({"plain": raw, "gzip": gzip.compress(raw), "members": gzip.compress(raw[:7]) + gzip.compress(raw[7:])}[packed])
    ds = read_fasta(path, length="pad")
    assert unpad(ds) == [r[2] for r in rows] and ds.id.values.tolist() == [r[0] for r in rows]
    assert [v.split() for v in ds.description.values] == [r[1].split() for r in rows]
    back = read_fasta(write_fasta(ds, tmp_path / "y.fa.gz", width=width, overwrite=True), length="pad")
    assert back.drop_attrs().identical(ds.drop_attrs())
    assert open_zarr(to_zarr(ds, tmp_path / "z.zarr", overwrite=True)).identical(ds)


@SOME
@given(records, st.integers(1, 45), st.sampled_from(["\n", "\r\n"]), st.integers(0, 2), st.booleans(), st.integers(0, 1000))
def test_any_layout_gives_the_same_windows(tmp_path, rows, width, end, gaps, last, seed):
    path = tmp_path / "g.fa"
    path.write_bytes(layout_of(rows, width, end, gaps, last))
    genome = GenomeFASTA(path, cache=tmp_path)
    text = {name: seq for name, _, seq in rows}
    assert genome.contigs() == {k: len(v) for k, v in text.items()}
    pysam = pytest.importorskip("pysam")
    ours = (tmp_path / "g.fa.fai").read_text().splitlines()
    pysam.faidx(str(path))
    theirs = (tmp_path / "g.fa.fai").read_text().splitlines()
    cut = lambda lines: [line.split("\t")[:4] if len(text[line.split("\t")[0]]) <= width else line.split("\t") for line in lines]  # the length of an only line means nothing
    assert cut(ours) == cut(theirs)
    ask = windows_of(genome.contigs(), 30, 12, seed)
    face = str.maketrans("ACGTNacgtnRYU", "TGCANtgcanYRA")
    for (chrom, a, b, minus), got in zip(zip(*ask[:4]), from_bytes(genome.read(ask))):
        want = "".join(text[chrom][i] if 0 <= i < len(text[chrom]) else "N" for i in range(a, b))
        assert got == (want[::-1].translate(face) if minus else want).ljust(12, "N")
    (tmp_path / "g.fa.fai").unlink(missing_ok=True)


@SOME
@given(st.binary(max_size=60) | st.text(">ACGT\n\r @;*-1\0é", max_size=40).map(str.encode), st.booleans())
def test_rubbish_is_refused_or_read_whole(tmp_path, raw, packed):
    "No crash, and no letter lost: what is read is every letter below the headers"
    path = tmp_path / "r.fa"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    (tmp_path / "r.fa.fai").unlink(missing_ok=True)
    try: ds = read_fasta(path, length="pad", duplicates="number")
    except ValueError as e: assert "r.fa" in str(e)
    else:
        lines = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n") if b"\n" not in raw else raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert "".join(unpad(ds)).encode() == b"".join(b"".join(v.split()) for v in lines if not v.startswith(b">"))
    try: genome = GenomeFASTA(path, cache=tmp_path)
    except ValueError as e: assert "r.fa" in str(e)
    else: assert all(genome.sequence(c, 0, size) for c, size in genome.contigs().items())


def test_bgzip_in_many_blocks_and_cut_between_two(tmp_path):
    pysam = pytest.importorskip("pysam")
    gen = np.random.default_rng(0)
    plain = write_fasta(["".join(gen.choice(list("ACGT"), 150_000))] * 2, tmp_path / "g.fa", ["chr1", "chr2"])
    packed = tmp_path / "g.fa.bgz"
    pysam.tabix_compress(str(plain), str(packed))
    raw = packed.read_bytes()
    blocks = [m.start() for m in re.finditer(b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff\x06\x00BC", raw)]
    assert len(blocks) > 3 and unpad(read_fasta(packed)) == unpad(read_fasta(plain))
    ask = windows_of(GenomeFASTA(plain).contigs(), 50, 100, 0)
    assert np.array_equal(GenomeFASTA(packed, cache=tmp_path).read(ask), GenomeFASTA(plain).read(ask))
    for cut in (*blocks[1:], len(raw) - 1, len(raw) // 2):
        packed.write_bytes(raw[:cut])
        for reader in (read_fasta, lambda p: GenomeFASTA(p, cache=tmp_path / "cut")):
            with pytest.raises(ValueError, match="g.fa.bgz is cut off|g.fa.bgz cannot be unpacked"): reader(packed)
    assert not (tmp_path / "cut").exists() or not list((tmp_path / "cut").iterdir())


def test_a_cut_download_is_noticed(data_dir, tmp_path):
    path = data_dir / "jund/S288C_chrII_813178bp.fa.gz"
    if not path.is_file(): pytest.skip("no yeast chromosome in the data folder")
    raw = path.read_bytes()
    for share in (.001, .3, .999):
        (tmp_path / "cut.fa.gz").write_bytes(raw[:int(share * len(raw))])
        with pytest.raises(ValueError, match="cut.fa.gz cannot be unpacked"): read_fasta(tmp_path / "cut.fa.gz")


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    packed = write_fasta(["ACGT" * 100], tmp_path / "g.fa.gz", ["chr1"])
    def full(source, target, size):
        target.write(source.read(10))
        raise OSError(28, "No space left on device")
    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"): GenomeFASTA(packed, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_genome_works_in_loader_processes(tmp_path):
    import multiprocessing
    path = write_fasta(["ACGTACGTAC" * 30], tmp_path / "g.fa", ["chr1"])
    genome = GenomeFASTA(path)
    ask = windows_of(genome.contigs(), 20, 50, 1)
    with multiprocessing.get_context("spawn").Pool(1) as pool: assert np.array_equal(pool.map(genome.read, [ask])[0], genome.read(ask))


# ---------------------------------------------------------------- negatives

def same_base(left, right):
    "How many regions of `left` share a base with `right`, by the definition"
    return sum(any(c == c2 and a < e2 and s2 < b for c2, s2, e2 in right[["chrom", "start", "end"]].itertuples(index=False))
               for c, a, b in left[["chrom", "start", "end"]].itertuples(index=False))


def auroc(a, b):
    return float((a[:, None] > b[None]).mean() + (a[:, None] == b[None]).mean() / 2)


def gap(a, b):
    "Largest distance of two cumulative curves"
    grid = np.sort(np.concatenate([a, b]))
    return np.abs(np.searchsorted(np.sort(a), grid, "right") / len(a) - np.searchsorted(np.sort(b), grid, "right") / len(b)).max()


spans = st.lists(st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 40), st.integers(1, 12)), max_size=5)


@SOME
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), spans, st.booleans(), st.integers(0, 99))
def test_random_regions_are_all_that_there_are(one, two, width, away, apart, seed):
    "Asked for as many as the genome has, the answer is every region that fits; asked for one more, an error"
    sizes, exclude = {"chr1": one, "chr2": two}, pd.DataFrame([(c, s, s + n) for c, s, n in away], columns=["chrom", "start", "end"]).astype({"start": int, "end": int})
    free = [(c, s) for c, size in sizes.items() for s in range(size - width + 1) if not any(c == c2 and s < s2 + n and s2 < s + width for c2, s2, n in away)]
    def draw(n, apart=False): return random_regions(n, width, sizes, exclude=exclude if away else None, apart=apart, seed=seed)
    with pytest.raises(ValueError, match="no room|No chromosome"): draw(len(free) + 1)
    if not free: return
    assert sorted(zip(draw(len(free)).chrom, draw(len(free)).start)) == sorted(free)
    if apart:
        try: got = draw(3, True)
        except ValueError: return
        assert all(same_base(got.drop(i), got.loc[[i]]) == 0 for i in got.index) and set(zip(got.chrom, got.start)) <= set(free)


@pytest.fixture(scope="module")
def gcn4(data_dir, tmp_path_factory):
    "Gcn4 peaks on yeast chromosome IV, and that chromosome"
    fasta, bed = data_dir / "jund/sacCer3_chrIV.fa.gz", data_dir / "jund/Gcn4_peaks.sacCer3.bed"
    if not (fasta.is_file() and bed.is_file()): pytest.skip("no yeast chromosome and peaks in the data folder")
    peaks = read_bed(bed)
    return peaks[peaks.chrom == "chrIV"].reset_index(drop=True), GenomeFASTA(fasta, cache=tmp_path_factory.mktemp("cache"))


def test_matched_negatives_of_real_peaks(gcn4):
    peaks, genome = gcn4
    letters = lambda regions: [genome.sequence(c, s, e) for c, s, e in zip(regions.chrom, regions.start, regions.end)]
    got, chance = gc_matched(peaks, genome, 5, seed=0), random_regions(420, 372, genome, exclude=peaks, apart=True, seed=0)
    partner = peaks.iloc[got.match].reset_index(drop=True)
    assert len(got) == 5 * len(peaks) and ((got.end - got.start) == (partner.end - partner.start)).all()
    assert np.abs(gc_content(letters(got)) - gc_content(letters(partner))).max() <= .02
    for regions in (got, chance):
        assert same_base(regions, peaks) == 0 and (np.sort(regions.start)[1:] >= regions.sort_values("start").end.to_numpy()[:-1]).all()
    real = gc_content(letters(peaks))
    assert gap(real, gc_content(letters(got))) < .08 < gap(real, gc_content(letters(chance)))
    share = [np.mean([bool(re.search("TGA[CG]TCA", s)) for s in letters(regions)]) for regions in (peaks, got)]
    assert share[0] > .6 and share[1] < .1  # the binding site is what is left to tell them apart


def test_gc_is_matched_at_least_as_well_as_by_another_tool(gcn4, data_dir):
    "The NF-E2 peaks of lsgkm and the matched negatives that came with them"
    path = data_dir / "jund/NFE2_GM12878_lsgkm.pos.train.hg19.fa.gz"
    if not path.is_file(): pytest.skip("no NF-E2 FASTA files in the data folder")
    theirs = [gc_content(unpad(read_fasta(str(path).replace("pos", kind), length="pad"))) for kind in ("pos", "neg")]
    peaks, genome = gcn4
    got = gc_matched(peaks, genome, 5, seed=0)
    ours = gc_content([genome.sequence(c, s, e) for c, s, e in zip(peaks.chrom, peaks.start, peaks.end)]), got.gc.to_numpy()
    assert abs(auroc(*ours) - .5) < abs(auroc(*theirs) - .5) < .1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The inplace keyword")
def test_nothing_overlaps_by_bioframe(gcn4):
    bioframe = pytest.importorskip("bioframe")
    peaks, genome = gcn4
    for regions in (gc_matched(peaks, genome, seed=3), random_regions(500, 500, genome, exclude=peaks, apart=True, seed=3)):
        assert bioframe.count_overlaps(regions[["chrom", "start", "end"]], peaks[["chrom", "start", "end"]])["count"].sum() == 0
        assert (bioframe.count_overlaps(regions[["chrom", "start", "end"]], regions[["chrom", "start", "end"]])["count"] == 1).all()


def test_shuffled_peaks_keep_their_pairs_of_letters(data_dir):
    path = data_dir / "jund/NFE2_GM12878_lsgkm.pos.test.hg19.fa.gz"
    if not path.is_file(): pytest.skip("no NF-E2 FASTA file in the data folder")
    ds = read_fasta(path, length="pad", coordinates=True)
    got = shuffled_negatives(ds, n_per=2, seed=0)
    n = ds.sizes["sequence"]
    pairs = lambda s: Counter(zip(s.upper(), s.upper()[1:]))
    assert all(pairs(a) == pairs(b) for a, b in zip(unpad(ds) * 3, unpad(got))) and unpad(got)[:n] == unpad(ds)
    assert got.targets.values.sum() == n and np.array_equal(got.original_start, np.tile(ds.start, 3))
