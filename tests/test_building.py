"""Regions and files of a genome to one Dataset: pyfaidx, pyBigWig and pysam as the other side, on the yeast genome and on drawn input;
laws of flanks, strands and blocks; workers; interruption, full disks and files that do not belong together."""
import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from eugene.etl import building, seqdata
from eugene.etl.building import read_bam, read_bigwig, read_genome, read_regions
from eugene.etl.fasta import GenomeFASTA
from eugene.etl.regions import extend, label_overlaps, merge, read_bed, resize, tile
from eugene.etl.seqdata import Layout, open_zarr, unpad
from eugene.etl.sequences import from_bytes, reverse_complement
from eugene.etl.tracks import BAM, BigWig

SOME = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIZES = {"chr1": 5000, "chr2": 3000}


def write_genome(path, sizes=SIZES, seed=0):
    "A genome of a few thousand letters, N and lower case among them"
    gen = np.random.default_rng(seed)
    genome = {c: "".join(gen.choice(list("ACGTacgtN"), n)) for c, n in sizes.items()}
    path.write_text("".join(f">{c}\n" + "\n".join(s[i:i + 60] for i in range(0, len(s), 60)) + "\n" for c, s in genome.items()))
    return genome


def write_bigwig(path, sizes=SIZES, seed=0):
    "Values at every second stretch of 10 bp"
    bw = pytest.importorskip("pyBigWig").open(str(path), "w")
    gen = np.random.default_rng(seed)
    bw.addHeader(list(sizes.items()))
    for c, n in sizes.items():
        a = np.arange(0, n - 10, 20)
        bw.addEntries([c] * len(a), a.tolist(), ends=(a + 10).tolist(), values=gen.integers(1, 50, len(a)).astype(float).tolist())
    bw.close()
    return path


def write_bam(path, sizes=SIZES, seed=0, n=600):
    "Reads of 30 bp on both strands"
    pysam = pytest.importorskip("pysam")
    gen = np.random.default_rng(seed)
    rows = sorted((int(gen.integers(len(sizes))), int(gen.integers(min(sizes.values()) - 30)), int(gen.integers(2))) for _ in range(n))
    with pysam.AlignmentFile(str(path), "wb", header={"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": c, "LN": m} for c, m in sizes.items()]}) as bam:
        for i, (ref, start, minus) in enumerate(rows):
            read = pysam.AlignedSegment(bam.header)
            read.query_name, read.flag, read.reference_id, read.reference_start, read.mapping_quality, read.cigarstring = f"r{i}", 16 * minus, ref, start, 60, "30M"
            read.query_sequence = "A" * 30
            bam.write(read)
    pysam.index(str(path))
    return path


def draw_regions(n, seed=0, low=1, high=60):
    "Regions far from the ends of chromosomes, on both strands"
    gen = np.random.default_rng(seed)
    start = gen.integers(200, 2700, n)
    return pd.DataFrame({"chrom": gen.choice(list(SIZES), n), "start": start, "end": start + gen.integers(low, high, n), "strand": gen.choice(["+", "-", "."], n)})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    "A genome, three BigWigs and a BAM on it"
    folder = tmp_path_factory.mktemp("genome")
    genome = write_genome(folder / "genome.fa")
    bigwigs = {f"s{i}": write_bigwig(folder / f"s{i}.bw", seed=i) for i in range(3)}
    return genome, folder / "genome.fa", bigwigs, write_bam(folder / "reads.bam")


def litter(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def same_files(a, b):
    "Whether two stores are the same, byte for byte"
    names = [sorted(p.relative_to(s).as_posix() for p in Path(s).rglob("*") if p.is_file()) for s in (a, b)]
    return names[0] == names[1] and all((Path(a) / n).read_bytes() == (Path(b) / n).read_bytes() for n in names[0])


# ---------------------------------------------------------------- the yeast genome

@pytest.fixture(scope="module")
def yeast(data_dir, tmp_path_factory):
    "Plain FASTA of two chromosomes, unpacked here, and the Gcn4 peaks"
    folder = tmp_path_factory.mktemp("yeast")
    names = {"chrIV": "sacCer3_chrIV.fa.gz", "chrII": "S288C_chrII_813178bp.fa.gz"}
    for chrom, name in names.items():
        with gzip.open(data_dir / "jund" / name) as f: (folder / f"{chrom}.fa").write_bytes(f.read())
    return folder, data_dir / "jund" / "Gcn4_peaks.sacCer3.bed"


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("length", [500, 501, "pad"])
def test_every_yeast_window_is_that_of_pyfaidx(yeast, strand, length):
    pyfaidx = pytest.importorskip("pyfaidx")
    folder, bed = yeast
    peaks = read_bed(bed).query("chrom == 'chrIV'").assign(strand=strand)
    ds = read_genome(peaks, folder / "chrIV.fa", length=length)
    other = pyfaidx.Fasta(str(folder / "chrIV.fa"))
    assert ds.sizes["sequence"] == 84
    for text, a, b, given_start, given_end in zip(unpad(ds), ds.start.values, ds.end.values, peaks.start, peaks.end):
        if length != "pad": assert a == (given_start + given_end) // 2 - length // 2 and b - a == length
        want = other["chrIV"][int(a):int(b)]
        assert text == str(want if strand == "+" else want.reverse.complement)


@pytest.mark.parametrize("chrom,trim,rois,bp,bins,positive,full", [("chrIV", False, 30, 1_032_065, 5148, 228, 5148), ("chrIV", True, 30, 1_032_065, 5130, 243, 5130),
                                                                   ("chrII", False, 11, 498_963, 2488, 105, 2487), ("chrII", True, 11, 498_963, 2484, 115, 2484)])
def test_the_whole_path_from_peaks_to_labelled_windows(yeast, tmp_path, chrom, trim, rois, bp, bins, positive, full):
    pyfaidx = pytest.importorskip("pyfaidx")
    folder, bed = yeast
    fasta = GenomeFASTA(folder / f"{chrom}.fa")
    peaks = read_bed(bed).query("chrom == @chrom")
    regions = merge(extend(merge(peaks), 10_000, chrom_sizes=fasta.contigs()))
    assert (len(regions), int((regions.end - regions.start).sum())) == (rois, bp)
    windows = tile(regions, 200, trim=trim)
    windows = windows.assign(bound=label_overlaps(windows, peaks))
    padded = read_regions(windows, fasta, tmp_path / "bins.zarr", length=500, edges="pad", target_cols="bound")
    assert (padded.sizes["sequence"], int(padded.targets.sum())) == (bins, positive)
    dropped = read_regions(windows, fasta, length=500, edges="drop", target_cols="bound")
    for again in (None, 500): # windows made by hand are the same
        assert np.array_equal(read_regions(resize(windows, 500, edges="pad"), fasta, length=again, edges="pad").seq, padded.seq)
    beyond = padded.attrs["edges"]["beyond"]
    assert dropped.sizes["sequence"] == bins - beyond == full
    if beyond:
        with pytest.raises(ValueError, match=rf"reaches beyond an end of {chrom}, which has .* \({beyond} such windows\)"): read_regions(windows, fasta, length=500)
    text, size = str(pyfaidx.Fasta(str(folder / f"{chrom}.fa"))[chrom]), fasta.contigs()[chrom]
    for got, a, b in zip(from_bytes(padded.seq.values), padded.start.values, padded.end.values):
        assert got == "N" * max(0, -a) + text[max(a, 0):b] + "N" * max(0, b - size)


def test_two_releases_of_a_genome_are_not_read_together(yeast, tmp_path):
    pytest.importorskip("pyBigWig")
    folder, bed = yeast
    newer = write_bigwig(tmp_path / "sacCer3.bw", {"chrII": 813_184})
    with pytest.raises(ValueError, match=r"chrII has 813,178 bp in chrII.fa and 813,184 bp in sacCer3.bw.*two assemblies"):
        read_bigwig(read_bed(bed).query("chrom == 'chrII'"), newer, folder / "chrII.fa", length=200)


# ---------------------------------------------------------------- several files at once

def test_sequence_three_bigwigs_and_a_bam_in_one_call(files, tmp_path):
    pyBigWig, pysam = pytest.importorskip("pyBigWig"), pytest.importorskip("pysam")
    genome, fasta, bigwigs, bam = files
    regions = draw_regions(60)
    regions.assign(name="p", score=0)[["chrom", "start", "end", "name", "score", "strand"]].to_csv(tmp_path / "p.bed", sep="\t", header=False, index=False)
    ds = read_regions(tmp_path / "p.bed", [GenomeFASTA(fasta), BigWig(bigwigs, name="atac"), BAM(bam, name="chip")], tmp_path / "all.zarr", length=41, max_jitter=4)
    assert ds.seq.shape == (60, 49) and ds.atac.shape == (60, 3, 49) and ds.chip.shape == (60, 1, 49) and ds.track_atac.values.tolist() == ["s0", "s1", "s2"]
    handles = {s: pyBigWig.open(str(p)) for s, p in bigwigs.items()}
    with pysam.AlignmentFile(str(bam)) as reads:
        for i, (c, a, b, strand) in enumerate(regions.itertuples(index=False)):
            a = (a + b) // 2 - 41 // 2 - 4
            turn = slice(None, None, -1) if strand == "-" else slice(None)
            assert from_bytes(ds.seq.values[i:i + 1])[0] == (reverse_complement if strand == "-" else str)(genome[c][a:a + 49])
            for t, s in enumerate(bigwigs):
                assert np.array_equal(ds.atac.values[i, t], np.nan_to_num(np.array(handles[s].values(c, int(a), int(a + 49)), np.float32))[turn])
            assert np.array_equal(ds.chip.values[i, 0], np.sum(reads.count_coverage(c, int(a), int(a + 49), quality_threshold=0), axis=0)[turn])
    alone = [read_genome(tmp_path / "p.bed", fasta, length=41, max_jitter=4), read_bigwig(tmp_path / "p.bed", bigwigs, options={"name": "atac"}, length=41, max_jitter=4),
             read_bam(tmp_path / "p.bed", bam, options={"name": "chip"}, length=41, max_jitter=4)]
    for one, name in zip(alone, ("seq", "atac", "chip")): assert one[name].identical(ds[name])


def test_the_record_names_files_options_and_edges_and_survives_json(files, tmp_path):
    _, fasta, bigwigs, bam = files
    ds = read_regions(draw_regions(5), [GenomeFASTA(fasta), BigWig(bigwigs, bin_width=5, missing="nan")], tmp_path / "r.zarr", length=40, max_jitter=5)
    attrs = json.loads(json.dumps(ds.attrs))
    assert attrs["max_jitter"] == 5 and attrs["edges"] == {"policy": "error", "beyond": 0, "examples": []} and attrs["regions"]["length"] == 40 and attrs["alphabet"] == "DNA"
    assert attrs["readers"][1]["options"] | {"name": 0} == {"name": 0, "missing": "nan", "bin_width": 5, "stat": "mean"}
    assert [f["name"] for f in attrs["readers"][1]["files"]] == ["s0.bw", "s1.bw", "s2.bw"] and len(attrs["readers"][0]["files"][0]["sha256"]) == 64


def test_other_spellings_of_chromosomes_are_found_file_by_file(files, tmp_path):
    genome, fasta, _, _ = files
    plain = {"1": 5000, "2": 3000}
    regions = draw_regions(30, high=30)
    ds = read_regions(regions, [GenomeFASTA(fasta), BigWig(write_bigwig(tmp_path / "ensembl.bw", plain))], length=20)
    swapped = read_regions(regions.assign(chrom=regions.chrom.str[3:]), [GenomeFASTA(fasta), BigWig(write_bigwig(tmp_path / "ucsc.bw", SIZES))], length=20)
    assert np.array_equal(ds.seq, swapped.seq) and np.array_equal(ds.signal, swapped.signal) and ds.signal.values.any()
    with pytest.raises(ValueError, match=r"genome.fa has no contig 'chr7' \(first used by region 2\)"):
        read_genome(regions.assign(chrom=["chr1", "chr7", *regions.chrom[2:]]), fasta, length=20)


# ---------------------------------------------------------------- laws

@SOME
@given(st.integers(0, 99), st.integers(1, 70), st.integers(0, 9))
def test_the_middle_of_a_store_with_flanks_is_the_store_without(files, tmp_path, seed, length, k):
    _, fasta, bigwigs, _ = files
    readers, regions = [GenomeFASTA(fasta), BigWig(bigwigs)], draw_regions(20, seed)
    wide, narrow = read_regions(regions, readers, length=length, max_jitter=k), read_regions(regions, readers, length=length)
    assert wide.sizes["position"] == length + 2 * k and wide.attrs["max_jitter"] == k
    middle = wide.isel(position=slice(k, k + length)).assign_attrs(max_jitter=0)
    assert middle.identical(narrow)


@SOME
@given(st.integers(0, 99), st.one_of(st.integers(1, 70), st.just("pad")), st.integers(1, 7))
def test_minus_is_plus_turned_round_in_blocks_of_any_size(files, seed, length, rows):
    genome, fasta, bigwigs, bam = files
    readers, regions = [GenomeFASTA(fasta), BigWig(bigwigs), BAM(bam)], draw_regions(20, seed)
    with pytest.MonkeyPatch.context() as patch: # the strand of a row must be its own, not that of the row at its place in the block
        patch.setattr(building, "_chunk_rows", lambda n, widest, length: min(n, rows))
        ds = read_regions(regions, readers, length=length)
    assert ds.identical(read_regions(regions, readers, length=length))
    plus = read_regions(regions, readers, length=length, strand=False)
    assert plus.strand.values.tolist() == ["+"] * 20 and plus.region_strand.values.tolist() == regions.strand.tolist() == ds.strand.values.tolist()
    size = ds["length"].values if length == "pad" else np.full(20, length)
    for i, n in enumerate(size):
        minus = regions.strand[i] == "-"
        a, b = (from_bytes(d.seq.values[i:i + 1])[0][:n] for d in (ds, plus))
        assert a == (reverse_complement(b) if minus else b)
        if length == "pad": assert b == genome[regions.chrom[i]][regions.start[i]:regions.end[i]]
        for name in ("signal", "reads"):
            v = plus[name].values[i, :, :n]
            assert np.array_equal(ds[name].values[i, :, :n], v[:, ::-1] if minus else v)


@settings(SOME, max_examples=12)
@given(st.integers(0, 99), st.integers(1, 200), st.integers(0, 3), st.sampled_from(["pad", "drop"]))
def test_a_store_is_what_is_in_memory_at_the_ends_too(files, tmp_path, seed, length, k, edges):
    genome, fasta, bigwigs, _ = files
    gen = np.random.default_rng(seed)
    start = np.concatenate([[1000], gen.integers(0, 30, 5), gen.integers(2960, 2999, 5)])
    regions = pd.DataFrame({"chrom": "chr2", "start": start, "end": start + 1, "strand": gen.choice(["+", "-"], 11), "name": [f"r{i}" for i in range(11)]})
    readers = [GenomeFASTA(fasta), BigWig(bigwigs, missing="nan")]
    memory = read_regions(regions, readers, length=length, max_jitter=k, edges=edges, id_col="name")
    assert read_regions(regions, readers, tmp_path / "s.zarr", length=length, max_jitter=k, edges=edges, id_col="name", overwrite=True).identical(memory)
    first = start - length // 2 - k
    out = (first < 0) | (first + length + 2 * k > 3000)
    assert memory.attrs["edges"]["beyond"] == out.sum() and memory.id.values.tolist() == [f"r{i}" for i in range(11) if edges == "pad" or not out[i]]
    if edges == "pad":
        for i, a in enumerate(first): # what is outside is N in the letters and missing in the tracks, at the same places
            at = np.arange(a, a + length + 2 * k)[::-1 if regions.strand[i] == "-" else 1]
            outside = (at < 0) | (at >= 3000)
            assert (memory.seq.values[i][outside] == ord("N")).all() and np.isnan(memory.signal.values[i][:, outside]).all()


@pytest.mark.parametrize("start,end,k,beyond", [(0, 10, 0, 0), (-1, 9, 0, 1), (2990, 3000, 0, 0), (2991, 3001, 0, 1), (5, 15, 5, 0), (4, 14, 5, 1), (2985, 2995, 5, 0), (2986, 2996, 5, 1)])
def test_a_window_may_end_where_its_chromosome_does_and_no_base_later(files, start, end, k, beyond):
    _, fasta, _, _ = files
    regions = pd.DataFrame({"chrom": "chr2", "start": [start, 500], "end": [end, 510]})
    assert read_genome(regions, fasta, max_jitter=k, edges="drop").sizes["sequence"] == 2 - beyond
    assert read_genome(regions, fasta, max_jitter=k, edges="pad").attrs["edges"]["beyond"] == beyond


def test_rows_of_many_wide_tracks_make_chunks_of_at_most_64_mb(tmp_path):
    class Many:
        name = "many"
        def contigs(self): return SIZES
        def layout(self, width): return Layout(("sequence", "track_many", "position"), (400, width), "float32", {"track_many": np.array([str(i) for i in range(400)], object)}, {"kind": "tracks", "bin_width": 1, "stranded": 0})
        def read(self, windows):
            assert len(windows.start) * 400 * windows.width * 4 <= 2**26
            return np.ones((len(windows.start), 400, windows.width), np.float32)
    ds = read_regions(draw_regions(150), Many(), tmp_path / "wide.zarr", length=400, edges="pad")
    assert ds.many.encoding["chunks"][0] == 104 and (ds.many[-1].values == 1).all()


# ---------------------------------------------------------------- interruption, overwriting, full disks

class Failing:
    "A reader of tracks that fails at a row of the table"
    def __init__(self, error, name="failing"): self.error, self.name = error, name
    def contigs(self): return SIZES
    def layout(self, width): return Layout(("sequence", f"track_{self.name}", "position"), (1, width), "float32", {f"track_{self.name}": np.array(["x"], object)}, {"kind": "tracks", "bin_width": 1, "stranded": 0})
    def read(self, windows):
        if (windows.start > 2600).any(): raise self.error
        return np.ones((len(windows.start), 1, windows.width), np.float32)


@pytest.mark.parametrize("error,kind,says", [(KeyboardInterrupt(), KeyboardInterrupt, ""), (ValueError("reads.bam is cut off after region 7"), ValueError, "reads.bam is cut off after region 7"),
                                             (OSError(errno.ENOSPC, "No space left on device"), OSError, "The disk is full: the store .*none.zarr was not written"),
                                             (OSError(errno.EIO, "Input/output error"), OSError, "Input/output error")])
def test_what_stops_half_way_leaves_nothing_and_keeps_what_was_there(files, tmp_path, monkeypatch, error, kind, says):
    _, fasta, _, _ = files
    regions = draw_regions(200).sort_values("start")
    monkeypatch.setattr(seqdata, "_chunk_rows", lambda n, widest, length: 16)
    old = read_genome(regions, fasta, tmp_path / "old.zarr", length=20)
    for name, overwrite in (("none.zarr", False), ("old.zarr", True)):
        with pytest.raises(kind, match=says.replace("none", name[:-5]) or None): read_regions(regions, [GenomeFASTA(fasta), Failing(error)], tmp_path / name, length=20, overwrite=overwrite)
        assert litter(tmp_path) == ["old.zarr"]
    assert open_zarr(tmp_path / "old.zarr").identical(old)


def test_a_disk_that_fills_up_while_chunks_are_written(files, tmp_path, monkeypatch):
    _, fasta, _, _ = files
    monkeypatch.setattr(seqdata, "_chunk_rows", lambda n, widest, length: 16)
    calls, write = [], building._fill_store
    def full(path, start, blocks):
        calls.append(start)
        if len(calls) > 3: raise OSError(errno.ENOSPC, "No space left on device")
        write(path, start, blocks)
    monkeypatch.setattr(building, "_fill_store", full)
    with pytest.raises(OSError, match="The disk is full: the store .*x.zarr was not written, and nothing is left of it") as e: read_genome(draw_regions(200), fasta, tmp_path / "x.zarr", length=20)
    assert e.value.errno == errno.ENOSPC and litter(tmp_path) == [] and len(calls) == 4


def test_overwriting_has_to_be_said_and_spares_what_is_no_store(files, tmp_path):
    _, fasta, _, _ = files
    first = read_genome(draw_regions(20), fasta, tmp_path / "s.zarr", length=20).load()
    with pytest.raises(FileExistsError, match="overwrite=True"): read_genome(draw_regions(20), fasta, tmp_path / "s.zarr", length=21)
    assert open_zarr(tmp_path / "s.zarr").identical(first)
    assert read_genome(draw_regions(20), fasta, tmp_path / "s.zarr", length=21, overwrite=True).sizes["position"] == 21
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="is not replaced"): read_genome(draw_regions(20), fasta, tmp_path / "mine", length=21, overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


def test_an_interrupted_process_leaves_no_litter(files, tmp_path):
    _, fasta, _, _ = files
    draw_regions(4000).to_csv(tmp_path / "r.csv", index=False)
    out = tmp_path / "out"
    out.mkdir()
    code = f"""
import signal, time, pandas as pd
signal.signal(signal.SIGINT, signal.default_int_handler) # a job in the background inherits that it ignores it
from eugene.etl import building, seqdata
seqdata._chunk_rows = lambda n, widest, length: 16
write = building._fill_store
def slow(*args): write(*args); print("written", flush=True); time.sleep(.05)
building._fill_store = slow
building.read_genome(pd.read_csv({str(tmp_path / 'r.csv')!r}), {str(fasta)!r}, {str(out / 'x.zarr')!r}, length=20)
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "written\n", child.stderr.read()
    assert any("x.zarr" in name for name in litter(out))
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and child.returncode != 0 and litter(out) == []


# ---------------------------------------------------------------- workers

@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    "Two processes"
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", local_directory=str(tmp_path_factory.mktemp("dask"))) as cluster, distributed.Client(cluster) as client:
        yield client


def test_workers_write_the_same_bytes(files, tmp_path, cluster, monkeypatch):
    _, fasta, bigwigs, bam = files
    monkeypatch.setattr(seqdata, "_chunk_rows", lambda n, widest, length: 16)
    readers, regions = [GenomeFASTA(fasta), BigWig(bigwigs), BAM(bam)], draw_regions(300)
    for how in (dict(length=40, max_jitter=3), dict(length="pad", edges="pad")):
        alone = read_regions(regions, readers, tmp_path / "alone.zarr", overwrite=True, **how)
        many = read_regions(regions, readers, tmp_path / "many.zarr", overwrite=True, client=cluster, **how)
        assert many.identical(alone) and same_files(tmp_path / "alone.zarr", tmp_path / "many.zarr") and litter(tmp_path) == ["alone.zarr", "many.zarr"]
    assert not same_files(tmp_path / "alone.zarr", tmp_path / "alone.zarr/seq")


@pytest.mark.parametrize("error,kind,says", [(ValueError("reads.bam is cut off after region 7"), ValueError, "reads.bam is cut off after region 7"),
                                             (OSError(errno.ENOSPC, "No space left on device"), OSError, "The disk is full: the store .*none.zarr was not written")])
def test_an_error_on_a_worker_is_told_and_leaves_nothing(files, tmp_path, cluster, monkeypatch, error, kind, says):
    _, fasta, _, _ = files
    monkeypatch.setattr(seqdata, "_chunk_rows", lambda n, widest, length: 16)
    failing = cluster_reader(error)
    with pytest.raises(kind, match=says): read_regions(draw_regions(300), [GenomeFASTA(fasta), failing], tmp_path / "none.zarr", length=20, client=cluster)
    time.sleep(.5)  # a worker that was still writing would have made the folder again by now
    assert litter(tmp_path) == []


def cluster_reader(error):
    "A failing reader that another process can be sent whole, this file not being importable there"
    class Sent(Failing): pass
    Sent.__module__ = "__main__"
    for name in ("__init__", "contigs", "layout", "read"): setattr(Sent, name, getattr(Failing, name))
    return Sent(error)


def test_threads_of_one_process_may_fill_a_store_together(files, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    _, fasta, bigwigs, bam = files
    monkeypatch.setattr(seqdata, "_chunk_rows", lambda n, widest, length: 4)
    readers, regions = [GenomeFASTA(fasta), BigWig(bigwigs), BAM(bam, exclude_flags=0, require_flags=2048)], draw_regions(200)  # no read counts: all chunks are empty
    alone = read_regions(regions, readers, tmp_path / "alone.zarr", length=20)
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=4, dashboard_address=":0") as client:
        read_regions(regions, readers, tmp_path / "threads.zarr", length=20, client=client)
    assert not alone.reads.values.any() and same_files(tmp_path / "alone.zarr", tmp_path / "threads.zarr")


def test_empty_chunks_are_written_by_threads_that_open_the_store_at_once(tmp_path, monkeypatch):
    "What Zarr is told about empty chunks belongs to the process: a thread must not take back what another relies on"
    import xarray as xr
    import zarr
    layout = Layout(("sequence", "track_x", "position"), (1, 3), "int32", {"track_x": np.array(["a"], object)}, {"kind": "tracks", "bin_width": 1, "stranded": 0})
    monkeypatch.setattr(seqdata, "_chunk_rows", lambda n, widest, length: 2)
    seqdata._new_store(tmp_path / "s", xr.Dataset(coords={"id": ("sequence", np.array(list("abcdefgh"), object))}), {"x": layout}, 8)
    opener = zarr.open_group
    monkeypatch.setattr(zarr, "open_group", lambda *args, **kw: (time.sleep(.05 * int(threading.current_thread().name)), opener(*args, **kw))[1])
    threads = [threading.Thread(target=seqdata._fill_store, args=(tmp_path / "s", 2 * k, {"x": np.zeros((2, 1, 3), np.int32)}), name=str(k)) for k in range(4)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert zarr.config.get("array.write_empty_chunks") is False
    assert sum(len(f) for _, _, f in os.walk(tmp_path / "s" / "x" / "c")) == 4


# ---------------------------------------------------------------- what a user can get wrong

def test_messages_name_file_and_region(files, tmp_path):
    _, fasta, bigwigs, _ = files
    bed = tmp_path / "peaks.bed"
    def complaint(text, **how):
        bed.write_text(text)
        with pytest.raises(ValueError) as e: read_genome(bed, fasta, **how)
        return str(e.value)
    assert "peaks.bed, line 2" in complaint("chr1\t10\t20\nchr1\t30\t25\n")
    assert "region 2 of peaks.bed (chr1:30-45) has 15 bp" in complaint("chr1\t10\t20\nchr1\t30\t45\n") and 'length=' in complaint("chr1\t10\t20\nchr1\t30\t45\n")
    assert "Region 2 of peaks.bed (chr2:2990-3010): its window 2990-3010 reaches beyond an end of chr2, which has 3,000 bp (1 such windows)" in complaint("chr1\t10\t30\nchr2\t2990\t3010\n")
    assert "do the regions belong to the genome of" in complaint("chr2\t3000\t3010\n", edges="pad")
    assert "Nothing would be left" in complaint("chr2\t2999\t3010\n", edges="drop")
    assert "Duplicate id 'a': region 1 of peaks.bed (chr1:1-5) and region 2 of peaks.bed (chr1:1-5)" in complaint("chr1\t1\t5\ta\nchr1\t1\t5\ta\n", id_col="name")
    assert "Target `score` of region 1 of peaks.bed" in complaint("chr1\t1\t5\ta\t.\t+\n", target_cols="score")
    with pytest.raises(ValueError, match=r"Target `score` of region 3 of peaks.bed \(chr1:50-55\)"): # the first region is left out before, and still counts
        bed.write_text("chr1\t0\t1\ta\t1\t+\nchr1\t50\t55\tb\t1\t+\nchr1\t50\t55\tc\t.\t+\n")
        read_genome(bed, fasta, length=5, edges="drop", target_cols="score")
    with pytest.raises(ValueError, match="Two readers are called 'signal'"): read_regions(draw_regions(3), [BigWig(bigwigs), BigWig(bigwigs)], length=5)
    with pytest.raises(ValueError, match="column `strand`|two columns `strand`"): read_regions(draw_regions(3), BigWig(bigwigs, name="strand"), length=5)


def test_the_same_place_twice_is_told_apart_and_said(files, caplog):
    _, fasta, _, _ = files
    twice = pd.concat([draw_regions(3)] * 2, ignore_index=True)
    with caplog.at_level("WARNING", logger="eugene"): ds = read_genome(twice, fasta, length=9)
    assert len(set(ds.id.values)) == 6 and [i.endswith("#2") for i in ds.id.values] == [False] * 3 + [True] * 3
    assert "3 of 6 windows are at a place that came before" in caplog.text


def test_what_is_left_out_is_logged_with_count_and_examples(files, caplog):
    _, fasta, _, _ = files
    regions = pd.DataFrame({"chrom": "chr2", "start": [0, 500, 2998], "end": [4, 504, 3000]})
    with caplog.at_level("WARNING", logger="eugene"): ds = read_genome(regions, fasta, length=10, edges="drop")
    assert ds.sizes["sequence"] == 1 and "2 of 3 windows reach beyond the end of a chromosome and were left out: chr2:-3-7, chr2:2994-3004" in caplog.text
    assert ds.attrs["edges"] == {"policy": "drop", "beyond": 2, "examples": ["chr2:-3-7", "chr2:2994-3004"]}


def test_the_benchmark_runs(tmp_path):
    script = Path(__file__).parent / "benchmarks" / "build_store.py"
    done = subprocess.run([sys.executable, str(script), "--windows", "3000", "--bases", "40003", "--out", str(tmp_path / "b.json")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.strip().splitlines()[-1])
    assert row == json.loads((tmp_path / "b.json").read_text()) and row["windows"] == 3000 and 50 < row["peak_rss_mb"] < 2000 and row["store_mb"] > .05
