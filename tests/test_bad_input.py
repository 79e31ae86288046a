"""Each thing that is wrong with what a user brings is said in the user's terms, and leaves nothing half-written behind."""
import errno
import gzip
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

import eugene as eu
from eugene.etl import building, seqdata
from eugene.etl.building import read_bam, read_bigwig, read_genome
from eugene.etl.datasets import find_data
from eugene.etl.sequences import decode_ohe, ohe
from eugene.etl.fasta import GenomeFASTA, read_fasta, write_fasta
from eugene.etl.regions import merge, read_bed, read_chrom_sizes, sort_regions, subtract, write_bed
from eugene.etl.seqdata import concat, make_dataset, open_zarr, to_numpy, to_zarr
from eugene.etl.tables import join_table, read_table

GOOD = "gene\tsequence\tenrichment\nAT1\tACGTACGTAC\t1.5\nAT2\tTTTTACGTAC\t-0.5\nAT3\tGGGTACGTAC\t0.25\n"
ARGS = dict(seq_col="sequence", target_cols=["enrichment"], id_col="gene")

TABLES = {
    "missing column": (GOOD.replace("enrichment", "strength"), {}, ["enrichment", "strength", "gene"]),
    "empty file": ("", {}, ["empty"]),
    "only a header": (GOOD.splitlines()[0] + "\n", {}, ["no rows"]),
    "unequal lengths": (GOOD.replace("TTTTACGTAC", "TTTT"), {}, ["row 2", "length"]),
    "unknown letter": (GOOD.replace("TTTT", "TTRT"), {"unknown": "error"}, ["row 2", "'R'"]),
    "hole in a target": (GOOD.replace("-0.5", ""), {}, ["row 2", "enrichment", "missing"]),
    "target is no number": (GOOD.replace("-0.5", "low"), {}, ["row 2", "enrichment", "low"]),
    "duplicate id": (GOOD.replace("AT3", "AT1"), {}, ["AT1", "row 3"]),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz"])
def test_a_table_that_cannot_be_read_is_described(tmp_path, name, suffix):
    text, extra, words = TABLES[name]
    path = tmp_path / f"promoters{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    with pytest.raises(ValueError) as error:
        eu.read_table(path, **ARGS, **extra)
    for word in [path.name, *words]:
        assert word.lower() in str(error.value).lower(), f"{word!r} is not in: {error.value}"


def test_the_good_table_is_read(tmp_path):
    (tmp_path / "promoters.tsv").write_text(GOOD)
    ds = eu.read_table(tmp_path / "promoters.tsv", **ARGS)
    assert ds["targets"].values.tolist() == [[1.5], [-0.5], [0.25]] and list(ds["id"].values) == ["AT1", "AT2", "AT3"]


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="promoters.tsv"):
        eu.read_table(tmp_path / "promoters.tsv", **ARGS)


def test_a_store_that_fails_leaves_nothing(tmp_path):
    ds = eu.make_dataset(["ACGT", "TTTT"])
    ds["what"] = "sequence", np.array([object(), object()], dtype=object)
    with pytest.raises(Exception):
        eu.to_zarr(ds, tmp_path / "store.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_motif_longer_than_the_filter_is_named():
    model = eu.build_arch("CNN", input_len=50, conv={"channels": [4], "kernels": [5]}, dense={})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    motif = eu.Motif("TATA", np.full((4, 8), .25))
    with pytest.raises(ValueError, match="TATA.*8.*5") as error:
        eu.init_from_motifs(model, [motif])
    assert "crop" in str(error.value)
    assert all((before[k] == v).all() for k, v in model.state_dict().items()), "a refused motif changed the model"


def test_a_config_with_an_unknown_key_is_refused(tmp_path):
    config = {"arch": {"name": "CNN", "input_len": 170}, "module": {"task": "regression"}, "fit": {"epoch": 5}}
    path = tmp_path / "cnn.yaml"
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError) as error:
        eu.from_config(path)
    for word in ("cnn.yaml", "fit", "'epoch'", "epochs"):
        assert word in str(error.value), f"{word!r} is not in: {error.value}"


def test_a_data_folder_without_the_file_says_where_it_comes_from(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as error:
        find_data("jores21/jores21_leaf_dev.tsv.gz", path=tmp_path)
    assert str(tmp_path) in str(error.value) and "jores21_leaf_dev.tsv.gz" in str(error.value)
    with pytest.raises(FileNotFoundError):
        eu.datasets.jores21("leaf", path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_transposed_batch_is_recognised():
    model = eu.build_arch("CNN", input_len=170)
    with pytest.raises(ValueError, match="Transpose it"):
        eu.predict(model, np.zeros((2, 170, 4), np.float32))


# ---------------------------------------------------------------- readers of regions, genomes, tracks and stores

GENOME = {"chr1": 400, "chr2": 200}


@pytest.fixture(scope="module")
def good_files(tmp_path_factory):
    "Small good files of every format: regions, genome, table, BAM with its index, BigWig, store"
    pysam, pyBigWig = pytest.importorskip("pysam"), pytest.importorskip("pyBigWig")
    folder, gen = tmp_path_factory.mktemp("good"), np.random.default_rng(0)
    letters = {c: "".join(gen.choice(list("ACGTacgtN"), n)) for c, n in GENOME.items()}
    (folder / "g.fa").write_text("".join(f">{c}\n" + "\n".join(s[i:i + 50] for i in range(0, len(s), 50)) + "\n" for c, s in letters.items()))
    (folder / "r.bed").write_text("chr1\t10\t20\nchr1\t100\t110\nchr2\t50\t60\n")
    (folder / "t.tsv").write_text("id\tseq\ty\nAT1\tACGTAC\t1.5\nAT2\tTTTTAC\t-0.5\nAT3\tGGGTAC\t0.25\n")
    (folder / "more.tsv").write_text("id\tz\tfamily\nAT1\t1.5\tMYB\nAT2\t-0.5\tbZIP\nAT3\t0.25\tNAC\n")
    with pyBigWig.open(str(folder / "s.bw"), "w") as f:
        f.addHeader(list(GENOME.items()))
        for c, n in GENOME.items(): f.addEntries(c, 0, values=np.arange(n) * 1., span=1, step=1)
    write_reads(pysam, folder / "a.bam", GENOME, [(c, i) for c in range(2) for i in range(0, 150, 3)])
    to_zarr(make_dataset(["ACGT", "TTTT", "GGGG"], [1., 2, 3], columns={"n": ["a", "b", "c"]}), folder / "s.zarr")
    return folder


def write_reads(pysam, path, sizes, places):
    with pysam.AlignmentFile(str(path), "wb", header={"HD": {"SO": "coordinate"}, "SQ": [{"SN": c, "LN": n} for c, n in sizes.items()]}) as f:
        for contig, start in places:
            read = pysam.AlignedSegment(f.header)
            read.query_name, read.query_sequence, read.reference_id, read.reference_start = f"r{contig}.{start}", "ACGTACGTAC", contig, start
            read.cigarstring, read.mapping_quality, read.query_qualities = "10M", 60, pysam.qualitystring_to_array("I" * 10)
            f.write(read)
    pysam.index(str(path))


@pytest.fixture
def files(good_files, tmp_path):
    "A copy of the good files to spoil, in a folder with a blank and an umlaut in its name; indexes are younger than their files"
    shutil.copytree(good_files, tmp_path / "Daten für eugene")
    os.utime(tmp_path / "Daten für eugene" / "a.bam", (1e9, 1e9))
    return tmp_path / "Daten für eugene"


def spoil(name, change):
    "Change the bytes of a file"
    return lambda t: (t / name).write_bytes(change((t / name).read_bytes()))


def swap(name, old, new):
    return spoil(name, lambda raw: raw.replace(old if isinstance(old, bytes) else old.encode(), new if isinstance(new, bytes) else new.encode()))


def fill(name, content): return spoil(name, lambda raw: content if isinstance(content, bytes) else content.encode())
def cut(name, n): return spoil(name, lambda raw: raw[:n])
def gone(name): return lambda t: shutil.rmtree(t / name) if (t / name).is_dir() else (t / name).unlink()
def folder_for(name): return lambda t: (gone(name)(t), (t / name).mkdir())
def crlf(raw): return raw.replace(b"\n", b"\r\n")
def utf16(raw): return raw.decode().encode("utf-16")
def junk(name, at, n=16): return spoil(name, lambda raw: raw[:at] + b"\xaa" * n + raw[at + n:])


def chunk(name):
    "The first chunk of an array of the store"
    return f"s.zarr/{name}/c/" + ("0/0" if name in ("seq", "targets") else "0")


def other_reads(sizes, places):
    "Reads of another file under the old index"
    def make(t):
        import pysam
        kept = (t / "a.bam.bai").read_bytes()
        write_reads(pysam, t / "a.bam", sizes, places)
        (t / "a.bam.bai").write_bytes(kept)
    return make


def another_assembly(t):
    import pyBigWig
    with pyBigWig.open(str(t / "s.bw"), "w") as f:
        f.addHeader([("chr1", 390), ("chr2", 200)])
        f.addEntries("chr1", 0, values=[1.] * 9, span=1, step=1)


def bed(t): return read_bed(t / "r.bed")
def sizes(t): return read_chrom_sizes(t / "r.bed")
def fasta(t): return read_fasta(t / "g.fa", length="pad")
def genome(t): return read_genome(t / "r.bed", t / "g.fa", t / "out.zarr", options={"cache": t / "cache"})
def padded(t): return read_genome(t / "r.bed", t / "g.fa", t / "out.zarr", edges="pad")
def table(t): return read_table(t / "t.tsv", "seq", "y")
def join(t): return join_table(make_dataset(["A", "C", "G"], ids=["AT1", "AT2", "AT3"]), t / "more.tsv", target_cols="z")
def signal(t): return read_bigwig(t / "r.bed", t / "s.bw", out=t / "out.zarr")
def signal_and_letters(t): return read_bigwig(t / "r.bed", t / "s.bw", t / "g.fa", t / "out.zarr")
def reads(t): return read_bam(t / "r.bed", t / "a.bam", out=t / "out.zarr")
def store(t): return open_zarr(t / "s.zarr")
def text_named_gz(call, name): return lambda t: (shutil.move(t / name, t / f"{name}.gz"), call(t / f"{name}.gz"))[1]


def frame(start, end, chrom=("chr1", "chr1"), **how):
    "A frame in place of a file"
    return lambda t: read_genome(pd.DataFrame({"chrom": list(chrom), "start": start, "end": end}), t / "g.fa", t / "out.zarr", **how)


BAD = {  # what is wrong: (how the good file is spoiled, what is called, words that the message must have)
    # regions
    "gzip of regions cut off": (spoil("r.bed", lambda raw: gzip.compress(raw)[:-9]), bed, ["r.bed", "cut off", "again"]),
    "something behind the gzip": (spoil("r.bed", lambda raw: gzip.compress(raw) + b"rest"), bed, ["r.bed", "damaged"]),
    "no such file of regions": (gone("r.bed"), bed, ["no file", "r.bed"]),
    "a folder for regions": (folder_for("r.bed"), bed, ["r.bed", "folder"]),
    "a folder for regions of a genome": (folder_for("r.bed"), genome, ["r.bed", "folder"]),
    "regions in Latin-1": (swap("r.bed", "chr2", b"chr\xe9"), bed, ["r.bed", "line 3", "0xe9", "UTF-8"]),
    "regions in UTF-16": (spoil("r.bed", utf16), bed, ["r.bed", "line 1", "UTF-16", "Save"]),
    "zeros in regions": (swap("r.bed", "110", b"11\0"), bed, ["r.bed", "line 2", "0x00"]),
    "end before start": (swap("r.bed", "100\t110", "110\t100"), bed, ["r.bed", "line 2", "chr1:110-100", "greater"]),
    "no base at all": (swap("r.bed", "100\t110", "110\t110"), bed, ["r.bed", "line 2", "at least one base"]),
    "negative start": (swap("r.bed", "100\t110", "-1\t110"), bed, ["r.bed", "line 2", "negative"]),
    "half a base": (swap("r.bed", "100\t110", "100\t110.5"), bed, ["r.bed", "line 2", "110.5", "whole number"]),
    "a position beyond 2**63": (swap("r.bed", "100\t110", f"100\t{2**63}"), bed, ["r.bed", "line 2", str(2**63), "any chromosome"]),
    "a position with 30 digits": (swap("r.bed", "100\t110", "100\t" + "9" * 30), bed, ["r.bed", "line 2", "9" * 30]),
    "a header without #": (spoil("r.bed", lambda raw: b"chrom\tstart\tend\n" + raw), bed, ["r.bed", "line 1", "start is 'start'", "#"]),
    "a column too few": (swap("r.bed", "100\t110", "100"), bed, ["r.bed", "line 2", "2 columns"]),
    "blanks in one line": (swap("r.bed", "100\t110", "100 110"), bed, ["r.bed", "line 2", "tabs"]),
    "a strand that is none": (spoil("r.bed", lambda raw: raw.replace(b"0\n", b"0\ta\t0\tx\n")), bed, ["r.bed", "line 1", "'x'", "+, -"]),
    "no chromosome": (swap("r.bed", "chr2", ""), bed, ["r.bed", "line 3", "chrom is ''"]),
    "no regions": (fill("r.bed", "# nothing\n"), bed, ["r.bed", "no region"]),
    "reads for regions": (lambda t: shutil.copy(t / "a.bam", t / "r.bed"), bed, ["r.bed", "line", "UTF-8"]),
    "a genome for regions": (lambda t: shutil.copy(t / "g.fa", t / "r.bed"), bed, ["r.bed", "line 1", "1 columns"]),
    "sizes that are none": (fill("r.bed", "chr1\t400\nchr2\t2e2\n"), sizes, ["r.bed", "line 2", "length in bp"]),
    "sizes twice": (fill("r.bed", "chr1\t400\nchr1\t400\n"), sizes, ["r.bed", "line 2", "chr1", "before"]),
    # regions and their genome
    "a region off the chromosome": (swap("r.bed", "50\t60", "195\t205"), genome, ["region 3", "r.bed", "chr2:195-205", "200 bp", "edges="]),
    "regions of another genome": (swap("r.bed", "50\t60", "500\t510"), padded, ["region 3", "r.bed", "chr2:500-510", "g.fa"]),
    "a position beyond 2**31": (swap("r.bed", "50\t60", f"{2**31}\t{2**31 + 10}"), genome, ["region 3", str(2**31), "200 bp"]),
    "a contig that is not in the genome": (swap("r.bed", "chr2", "chrX"), genome, ["g.fa", "'chrX'", "region 3"]),
    "a blank behind the name": (swap("r.bed", "chr2", "chr2 "), genome, ["g.fa", "'chr2 '", "region 3"]),
    "nan": (lambda t: None, frame([1, np.nan], [5, 9]), ["Region 2", "nan", "whole number"]),
    "half a base in a frame": (lambda t: None, frame([1, 10.5], [5, 14.5]), ["Region 2", "10.5"]),
    "words for numbers": (lambda t: None, frame(["1", "x"], ["5", "14"]), ["Region 2", "'x'"]),
    "infinite": (lambda t: None, frame([1, 10], [5, np.inf]), ["Region 2", "inf"]),
    "beyond 2**63 in a frame": (lambda t: None, frame([1, 1], [5, 2**63]), ["Region 2", str(2**63)]),
    "no name": (lambda t: None, frame([1, 10], [5, 14], ["chr1", None]), ["Region 2", "chrom"]),
    "numbers for names": (lambda t: None, frame([1, 10], [5, 14], [1, 2]), ["Region 1", "chrom is 1", "text"]),
    "no rows": (lambda t: None, frame([], [], []), ["no region", "data frame"]),
    "negative in a frame": (lambda t: None, frame([1, -3], [5, 1]), ["Region 2", "chr1:-3-1", "edges="]),
    # sequences
    "gzip of a genome cut off": (spoil("g.fa", lambda raw: gzip.compress(raw)[:-9]), genome, ["g.fa", "unpacked"]),
    "gzip of sequences cut off": (spoil("g.fa", lambda raw: gzip.compress(raw)[:30]), fasta, ["g.fa", "unpacked", "completely"]),
    "gzip with a wrong checksum": (spoil("g.fa", lambda raw: gzip.compress(raw)[:-8] + b"12345678"), fasta, ["g.fa", "CRC"]),
    "no such genome": (gone("g.fa"), genome, ["no file", "g.fa"]),
    "a folder for a genome": (folder_for("g.fa"), genome, ["no file", "g.fa"]),
    "a header in Latin-1": (swap("g.fa", "chr2", b"chr2 \xe9"), fasta, ["g.fa", "record 2", "UTF-8"]),
    "a contig in Latin-1": (swap("g.fa", "chr2", b"chr2 \xe9"), genome, ["g.fa", "record 2", "UTF-8"]),
    "sequences in UTF-16": (spoil("g.fa", utf16), fasta, ["g.fa", "encoding"]),
    "a name twice": (swap("g.fa", ">chr2", ">chr1"), fasta, ["g.fa", "record 2", "record 1", "'chr1'", "duplicates="]),
    "a contig twice": (swap("g.fa", ">chr2", ">chr1"), genome, ["g.fa", "record 2", "record 1", "'chr1'", "Rename"]),
    "a record without letters": (spoil("g.fa", lambda raw: raw + b">chr3\n"), fasta, ["g.fa", "record 3", "line 15", "no letters"]),
    "a record without a name": (swap("g.fa", ">chr2", "> chr2"), genome, ["g.fa", "record 2", "no name"]),
    "a digit among the letters": (spoil("g.fa", lambda raw: raw[:-4] + b"1AC\n"), fasta, ["g.fa", "record 2", "'1'", "line 14"]),
    "a gap among the letters": (spoil("g.fa", lambda raw: raw[:-4] + b"-AC\n"), genome, ["g.fa", "line 14", "'-'"]),
    "zeros among the letters": (spoil("g.fa", lambda raw: raw[:80] + b"\0" * 9 + raw[89:]), genome, ["g.fa", "line 3"]),
    "lines of any length": (spoil("g.fa", lambda raw: raw[:80] + b"\n" + raw[80:]), genome, ["g.fa", "line 4", "write_fasta"]),
    "carriage returns alone in a genome": (spoil("g.fa", lambda raw: raw.replace(b"\n", b"\r")), genome, ["g.fa", "carriage returns", "write_fasta"]),
    "a mark before a genome": (spoil("g.fa", lambda raw: b"\xef\xbb\xbf" + raw), genome, ["g.fa", "byte order mark"]),
    "no header": (cut("g.fa", 0), fasta, ["g.fa", "empty"]),
    "regions for sequences": (lambda t: shutil.copy(t / "r.bed", t / "g.fa"), fasta, ["g.fa", "before the first line", "chr1"]),
    # tables
    "gzip of a table cut off": (spoil("t.tsv", lambda raw: gzip.compress(raw)[:-9]), table, ["t.tsv", "cut off"]),
    "no such table": (gone("t.tsv"), table, ["no file", "t.tsv"]),
    "a folder for a table": (folder_for("t.tsv"), table, ["t.tsv", "folder"]),
    "a table in Latin-1": (swap("t.tsv", "AT2", b"AT\xe9"), table, ["t.tsv", "line 3", "0xe9", "UTF-8"]),
    "a table in UTF-16": (spoil("t.tsv", utf16), table, ["t.tsv", "UTF-16", "Save"]),
    "zeros in a table": (swap("t.tsv", "AT2", b"A\0\0"), table, ["t.tsv", "line 3", "0x00"]),
    "a row that is too short": (swap("t.tsv", "\t-0.5", ""), table, ["t.tsv", "line 3", "2 fields", "3"]),
    "a row that is too long": (swap("t.tsv", "-0.5", "-0.5\t7"), table, ["t.tsv", "line 3", "4 fields", "3"]),
    "a plain table cut off": (cut("t.tsv", -7), table, ["t.tsv", "line 4", "fields"]),
    "a comma for a point": (swap("t.tsv", "-0.5", "-0,5"), table, ["t.tsv", "row 2", "'-0,5'", "point"]),
    "an infinite target": (swap("t.tsv", "-0.5", "inf"), table, ["t.tsv", "row 2", "inf"]),
    "an id twice": (swap("t.tsv", "AT3", "AT1"), table, ["t.tsv", "row 1", "row 3", "AT1"]),
    "no id": (swap("t.tsv", "AT3", ""), table, ["t.tsv", "row 3", "empty"]),
    "no sequence": (swap("t.tsv", "TTTTAC", ""), table, ["t.tsv", "row 2", "empty"]),
    "commas for tabs": (swap("t.tsv", "\t", ","), table, ["t.tsv", "'seq'", "sep"]),
    "a mark that is not closed": (swap("t.tsv", "AT2", '"AT2'), table, ["t.tsv", "line 3"]),
    "commas for tabs in a table to join": (swap("more.tsv", "\t", ","), join, ["more.tsv", "'id'", "sep"]),
    "two columns of a name": (swap("more.tsv", "family", "z"), join, ["more.tsv", "'z'", "Rename"]),
    "a name twice in a table to join": (swap("more.tsv", "AT3", "AT1"), join, ["more.tsv", "'AT1'", "rows 1 and 3"]),
    "a name that is not in the table": (swap("more.tsv", "AT3", "AT9"), join, ["more.tsv", "'AT3'", "missing="]),
    "a word for a number": (swap("more.tsv", "-0.5", "low"), join, ["more.tsv", "row 2", "'low'"]),
    # reads
    "reads cut off": (cut("a.bam", -40), reads, ["a.bam", "cut off", "again"]),
    "the last block of the reads gone": (cut("a.bam", -28), reads, ["a.bam", "cut off"]),
    "no index": (gone("a.bam.bai"), reads, ["a.bam", "a.bam.bai", "samtools index"]),
    "an empty index": (cut("a.bam.bai", 0), reads, ["a.bam.bai", "a.bam", "damaged", "samtools index"]),
    "half an index": (cut("a.bam.bai", 60), reads, ["a.bam.bai", "damaged", "samtools index"]),
    "an index that is none": (fill("a.bam.bai", "BAI\1nonsense"), reads, ["a.bam.bai", "damaged"]),
    "the index of other reads": (other_reads(GENOME, [(0, 5)]), reads, ["a.bam", "index"]),
    "the index of another genome": (other_reads({"chrA": 99, **GENOME}, [(c, i) for c in range(3) for i in range(0, 80, 2)]), reads, ["a.bam", "index"]),
    "no such reads": (gone("a.bam"), reads, ["a.bam"]),
    "a folder for reads": (folder_for("a.bam"), reads, ["a.bam"]),
    "a genome for reads": (lambda t: shutil.copy(t / "g.fa", t / "a.bam"), reads, ["a.bam", "no BAM"]),
    "no reads at all": (cut("a.bam", 0), reads, ["a.bam", "empty"]),
    "a changed header of the reads": (junk("a.bam", 40), reads, ["a.bam"]),
    "changed reads": (junk("a.bam", 300), reads, ["a.bam", "damaged"]),
    "a contig that has no reads": (swap("r.bed", "chr2", "chrX"), reads, ["a.bam", "'chrX'", "region 3"]),
    # signals
    "a signal cut off": (cut("s.bw", -10), signal, ["s.bw", "cut off"]),
    "the start of a signal": (cut("s.bw", 30), signal, ["s.bw", "cut off"]),
    "no such signal": (gone("s.bw"), signal, ["s.bw"]),
    "a folder for a signal": (folder_for("s.bw"), signal, ["s.bw"]),
    "a bedGraph for a signal": (fill("s.bw", "chr1\t1\t2\t3\n"), signal, ["s.bw", "bedGraphToBigWig"]),
    "the signal of another assembly": (another_assembly, signal_and_letters, ["chr1", "g.fa", "s.bw", "390", "400", "assemblies"]),
    "changed names of the chromosomes": (junk("s.bw", 350), signal, ["s.bw", "damaged"]),
    "changed values": (junk("s.bw", 500), signal, ["s.bw", "damaged", "chr1:"]),
    "a contig without a signal": (swap("r.bed", "chr2", "chrX"), signal, ["s.bw", "'chrX'", "region 3"]),
    # stores
    "no such store": (gone("s.zarr"), store, ["s.zarr", "no Zarr store"]),
    "a file for a store": (lambda t: (gone("s.zarr")(t), (t / "s.zarr").write_text("mine")), store, ["s.zarr", "it is a file"]),
    "an empty folder for a store": (folder_for("s.zarr"), store, ["s.zarr", "no Zarr store"]),
    "a chunk gone": (gone(chunk("seq")), store, ["s.zarr", "`seq`", "0 of 1 chunks"]),
    "half a chunk": (cut(chunk("seq"), 9), store, ["s.zarr", "`seq`", "9 of", "bytes"]),
    "half a chunk of targets": (cut(chunk("targets"), 9), store, ["s.zarr", "`targets`", "bytes"]),
    "a changed chunk of text": (junk(chunk("n"), 20, 1), store, ["s.zarr", "`n`", "checksum"]),
    "an array gone": (gone("s.zarr/targets"), store, ["s.zarr", "`targets`", "not there"]),
    "the ids gone": (gone("s.zarr/id"), store, ["s.zarr", "`id`", "not there"]),
    "half a description": (cut("s.zarr/zarr.json", 80), store, ["s.zarr", "damaged"]),
    "half a description of an array": (cut("s.zarr/seq/zarr.json", 80), store, ["s.zarr", "damaged"]),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_and_nothing_is_left(files, case):
    how, call, words = BAD[case]
    how(files)
    before = set(files.rglob("*"))
    with pytest.raises((ValueError, FileNotFoundError)) as error: call(files)
    said = str(error.value)
    for word in words: assert word.lower() in said.lower(), f"{word!r} is not in: {said}"
    assert "Errno" not in said and "\n" not in said and len(said) < 700
    assert not isinstance(error.value, UnicodeError)
    left = {p.name for p in set(files.rglob("*")) - before} - {"g.fa.fai"}  # the index of a genome is a file of its own right
    assert left <= {"cache"}, left


HARMLESS = {  # not wrong at all: (what is done to the file, what is called); the reading must be that of the good file
    "Windows line ends of regions": (spoil("r.bed", crlf), bed), "carriage returns alone in regions": (spoil("r.bed", lambda raw: raw.replace(b"\n", b"\r")), bed),
    "blank lines among regions": (swap("r.bed", "\n", "\n\n"), bed), "packed regions": (spoil("r.bed", gzip.compress), bed), "a mark before regions": (spoil("r.bed", lambda raw: b"\xef\xbb\xbf" + raw), bed),
    "blanks for tabs throughout": (swap("r.bed", "\t", "  "), bed), "no last line end": (cut("r.bed", -1), bed),
    "Windows line ends of sequences": (spoil("g.fa", crlf), fasta), "carriage returns alone": (spoil("g.fa", lambda raw: raw.replace(b"\n", b"\r")), fasta), "packed sequences": (spoil("g.fa", gzip.compress), fasta),
    "empty lines in sequences": (spoil("g.fa", lambda raw: raw[:57] + b"\n\n" + raw[57:]), fasta), "Windows line ends of a genome": (spoil("g.fa", crlf), genome), "a packed genome": (spoil("g.fa", gzip.compress), genome),
    "an index of the genome that does not fit": (lambda t: (t / "g.fa.fai").write_text("chr1\t400\t0\t50\t51\n"), genome), "an older index of the reads": (lambda t: os.utime(t / "a.bam.bai", (1e8, 1e8)), reads),
    "Windows line ends of a table": (spoil("t.tsv", crlf), table), "a packed table without .gz": (spoil("t.tsv", gzip.compress), table), "a mark before a table": (spoil("t.tsv", lambda raw: b"\xef\xbb\xbf" + raw), table),
    "blank lines in a table": (swap("t.tsv", "\n", "\n\n  \n"), table), "blanks around names": (swap("t.tsv", "AT2", " AT2 "), table), "Windows line ends of a table to join": (spoil("more.tsv", crlf), join),
}


def content(answer):
    "What was read, without what is noted about the files"
    return answer.drop_attrs(deep=False).load() if hasattr(answer, "data_vars") else answer


@pytest.mark.parametrize("case", HARMLESS)
def test_what_cannot_matter_does_not(files, case):
    how, call = HARMLESS[case]
    good = content(call(files))
    shutil.rmtree(files / "out.zarr", ignore_errors=True)
    (files / "g.fa.fai").unlink(missing_ok=True)
    how(files)
    assert content(call(files)).equals(good)


def test_names_of_files_may_be_text_or_paths_and_end_in_gz_or_not(files):
    for name, call in (("r.bed", read_bed), ("g.fa", lambda p: read_fasta(p, length="pad")), ("t.tsv", lambda p: read_table(p, "seq", "y"))):
        good = content(call(files / name))
        assert content(call(str(files / name))).equals(good)
        assert content(text_named_gz(call, name)(files)).equals(good)  # plain text under the name of a packed file
    assert open_zarr(str(files / "s.zarr")).identical(open_zarr(files / "s.zarr"))


def test_order_and_repeats_of_regions_are_kept(files):
    (files / "r.bed").write_text("chr2\t5\t9\nchr1\t5\t9\nchr2\t5\t9\nchr1\t1\t5\n")
    assert read_bed(files / "r.bed")[["chrom", "start"]].values.tolist() == [["chr2", 5], ["chr1", 5], ["chr2", 5], ["chr1", 1]]
    assert read_genome(files / "r.bed", files / "g.fa").id.values.tolist() == ["chr2:5-9", "chr1:5-9", "chr2:5-9#2", "chr1:1-5"]


def test_whole_numbers_of_any_type_are_positions(files):
    want = read_genome(pd.DataFrame({"chrom": ["chr1"], "start": [10], "end": [14]}), files / "g.fa")
    for start, end in ((10., 14.), ("10", "14"), (np.int8(10), np.uint16(14)), (pd.array([10], "Int64")[0], 14)):
        assert content(frame([start], [end], ["chr1"])(files)).equals(content(want))
        shutil.rmtree(files / "out.zarr")


def test_a_list_of_regions_is_told_what_is_expected(files):
    with pytest.raises(TypeError, match="`regions` is a list; expected the path of a BED or peak file"): read_genome([("chr1", 1, 2)], files / "g.fa")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="this user may read every file")
def test_a_file_that_may_not_be_read(files):
    for name, call in (("r.bed", bed), ("g.fa", fasta), ("t.tsv", table)):
        (files / name).chmod(0)
        with pytest.raises(PermissionError, match=name): call(files)


def test_an_older_index_is_mentioned(files, caplog):
    os.utime(files / "a.bam.bai", (1e8, 1e8))
    with caplog.at_level(logging.WARNING, logger="eugene"): reads(files)
    assert "a.bam.bai is older than a.bam" in caplog.text and "samtools index" in caplog.text


# ---------------------------------------------------------------- nothing half-written

WRITERS = {"to_zarr": lambda t, name: to_zarr(open_zarr(t / "s.zarr"), name, overwrite=True), "read_genome": lambda t, name: read_genome(t / "r.bed", t / "g.fa", name, overwrite=True),
           "write_bed": lambda t, name: write_bed(read_bed(t / "r.bed"), name, overwrite=True), "write_fasta": lambda t, name: write_fasta(["ACGT"], name, overwrite=True)}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("old", [True, False], ids=["replacing", "new"])
def test_a_full_disk_leaves_what_was_there(files, monkeypatch, writer, old):
    name = files / "result"
    GenomeFASTA(files / "g.fa")
    if old: WRITERS[writer](files, name)
    before = {p: p.read_bytes() if p.is_file() else None for p in files.rglob("*")}

    def full(*args, **kw): raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(seqdata, "_fill_store", full)
    monkeypatch.setattr(building, "_fill_store", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error: WRITERS[writer](files, name)
    assert error.value.errno == errno.ENOSPC
    assert {p: p.read_bytes() if p.is_file() else None for p in files.rglob("*")} == before


@pytest.mark.parametrize("writer", WRITERS)
def test_a_place_that_cannot_be_written_to_is_named(files, writer):
    (files / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="a file stands where its folder .*file should be"): WRITERS[writer](files, files / "file" / "result")
    assert (files / "file").read_text() == "mine"


def test_a_file_is_never_replaced_by_a_store(files):
    (files / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        for write in (lambda: read_genome(files / "r.bed", files / "g.fa", files / "mine.txt", overwrite=overwrite), lambda: to_zarr(open_zarr(files / "s.zarr"), files / "mine.txt", overwrite=overwrite)):
            with pytest.raises(FileExistsError, match="mine.txt"): write()
    assert (files / "mine.txt").read_text() == "mine"


def test_a_changed_number_is_noticed_when_it_is_read(files):
    for name in ("seq", "targets"):
        spoiled = open_zarr(files / "s.zarr")
        raw = bytearray((files / chunk(name)).read_bytes())
        for at in range(len(raw)):
            (files / chunk(name)).write_bytes(bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1:]))
            try: same = np.array_equal(open_zarr(files / "s.zarr")[name].values, want[name]) if (want := good_values()) else None
            except (RuntimeError, ValueError): continue
            assert same, (name, at)
        (files / chunk(name)).write_bytes(raw)
        assert np.array_equal(spoiled[name].values, good_values()[name])


def good_values(): return {"seq": [list(b"ACGT"), list(b"TTTT"), list(b"GGGG")], "targets": [[1.], [2.], [3.]]}


def test_a_store_that_was_replaced_is_not_mixed_with_the_new_one(files):
    early = open_zarr(files / "s.zarr")
    to_zarr(make_dataset(["AAAA", "AAAA", "AAAA"], [7., 8, 9], columns={"n": ["x", "y", "z"]}), files / "s.zarr", overwrite=True)
    with pytest.raises(ValueError, match="s.zarr was replaced"): early["seq"].values
    with pytest.raises(ValueError, match="s.zarr was replaced"): to_numpy(early)
    assert to_numpy(open_zarr(files / "s.zarr")).targets.ravel().tolist() == [7, 8, 9]


def test_no_rows_are_no_trouble(tmp_path):
    none = make_dataset(["ACGT"], [1.]).isel(sequence=[])
    assert open_zarr(to_zarr(none, tmp_path / "none.zarr")).sizes == none.sizes
    assert concat([none, make_dataset(["ACGT"], [1.])]).sizes["sequence"] == 1
    with pytest.raises(ValueError, match="empty"): concat([])


@pytest.mark.parametrize("what, second", {"length": make_dataset(["AC"], [1.], ["q"]), "Duplicate id 'seq1'.*row 1 and row 3": make_dataset(["ACGT"], [1.]), "alphabet": make_dataset(["ACGU"], [1.], ["q"], alphabet="RNA")}.items(), ids=["length", "id", "alphabet"])
def test_datasets_that_do_not_fit_together(what, second):
    with pytest.raises(ValueError, match=what): concat([make_dataset(["ACGT", "TTTT"], [1., 2]), second])


# ---------------------------------------------------------------- laws on drawn input

SOME = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
interval = st.tuples(st.sampled_from(["chr1", "chr2"]), st.integers(0, 2**40 - 60), st.integers(1, 50))
intervals = st.lists(interval, min_size=1, max_size=8).map(lambda rows: pd.DataFrame([(c, a, a + n) for c, a, n in rows], columns=["chrom", "start", "end"]))


@SOME
@given(intervals, intervals, st.integers(-2**39, 2**39))
def test_the_algebra_of_intervals_holds_anywhere_on_the_line(df, other, shift):
    "Merging twice is merging once; what is left and what was taken make the whole; and all of it moves with its positions"
    once = merge(df)
    assert merge(once).equals(once)
    left = subtract(df, other)
    assert subtract(left, other).reset_index(drop=True).equals(left.reset_index(drop=True))
    whole = merge(pd.concat([df, other]))
    assert sort_regions(merge(pd.concat([left[["chrom", "start", "end"]], other]))).equals(sort_regions(whole))
    moved = df.assign(start=df["start"] + shift, end=df["end"] + shift)
    if (moved["start"] >= 0).all() and (moved["end"] < 2**40).all():
        again = merge(moved)
        assert again.assign(start=again["start"] - shift, end=again["end"] - shift).equals(once)


@SOME
@given(st.lists(st.text("ACGTUNacgtunRYxK", min_size=1, max_size=12), min_size=1, max_size=5), st.sampled_from(["zero", "uniform"]))
def test_encoded_letters_come_back_and_others_are_nothing_or_even(seqs, unknown):
    width = max(map(len, seqs))
    padded = [s + "N" * (width - len(s)) for s in seqs]
    x = ohe(padded, unknown=unknown)
    assert x.shape == (len(seqs), 4, width) and np.isfinite(x.astype(float)).all()
    known = np.array([[c.upper() in "ACGTU" for c in s] for s in padded])
    assert np.allclose(x.astype(float).sum(1), np.where(known, 1, 1 if unknown == "uniform" else 0))
    back = decode_ohe(x)
    assert [[a for a, k in zip(s, row) if k] for s, row in zip(back, known)] == [[c.upper().replace("U", "T") for c, k in zip(s, row) if k] for s, row in zip(padded, known)]


@SOME
@given(st.binary(max_size=80) | st.lists(st.sampled_from([b"id\tseq\ty\n", b"a", b"\t", b"ACGT", b"1.5", b"\n", b"\r\n", b'"', b"\xe9", b"\0", b" ", b"nan", b">x", b","]), max_size=30).map(b"".join), st.booleans())
def test_no_bytes_make_a_reader_say_something_else(tmp_path, raw, packed):
    for name, call in (("x.tsv", lambda p: read_table(p, "seq", "y")), ("x.fa", lambda p: read_fasta(p, length="pad")), ("x.bw", lambda p: read_bigwig(pd.DataFrame({"chrom": ["a"], "start": [0], "end": [4]}), p)), ("x.sizes", read_chrom_sizes), ("x.bed", read_bed)):
        (tmp_path / name).write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
        try: call(tmp_path / name)
        except ValueError as e: assert name in str(e) and not isinstance(e, UnicodeError), (name, e)


# ---------------------------------------------------------------- the fuzzer itself

@pytest.mark.parametrize("word, got, truth, harmless, left", [
    ("same", {"value": [1]}, {}, True, []), ("wrong", {"value": [2]}, {"value": [2]}, True, []), ("wrong", {"error": "ValueError", "known": True, "says": "a.bed"}, {}, True, []),
    ("right", {"value": [2]}, {"value": [2.0000001]}, False, []), ("wrong", {"value": [2]}, {"value": [3]}, False, []), ("right", {"value": [1]}, {"error": "refused"}, False, []),
    ("wrong", {"value": [2]}, {"error": "refused"}, False, []), ("clear", {"error": "ValueError", "known": True, "says": "a.bed, line 2"}, {}, False, []),
    ("cryptic", {"error": "ValueError", "known": True, "says": "line 2"}, {}, False, []), ("cryptic", {"error": "KeyError", "known": False, "says": "a.bed"}, {}, False, []),
    ("crash", {"crash": -11}, {}, False, []), ("hang", {"hang": 30}, {}, False, []), ("litter", {"error": "ValueError", "known": True, "says": "a.bed"}, {}, False, [".out.zarr.x"])])
def test_the_fuzzer_has_a_word_for_everything(word, got, truth, harmless, left):
    import fuzz
    as_float = lambda d: {k: [float(x) for x in v] if k == "value" else v for k, v in d.items()}
    assert fuzz.outcome([1.], as_float(got), as_float(truth), harmless, "a.bed", left) == word


def test_the_fuzzer_does_the_same_damage_again(files):
    import fuzz
    done = []
    for again in range(2):
        for number in range(30):
            path = fuzz.copied(files / "r.bed", files.parent / "case")
            done.append((fuzz.damage("bed", path, np.random.default_rng([1, number])), path.read_bytes()))
    assert done[:30] == done[30:] and len({d for (d, _), _ in done}) > 10 and any(raw != (files / "r.bed").read_bytes() for _, raw in done)


@pytest.mark.slow
def test_the_fuzzer_notices_a_reader_that_fails(tmp_path, monkeypatch):
    "A reader that ends its process at zeros, one that hangs at a cut file, and one that makes rows up"
    pytest.importorskip("pysam"), pytest.importorskip("pyBigWig")
    import fuzz
    planted = tmp_path / "sitecustomize.py"
    planted.write_text("""
import os, sys, time
if "--child" in sys.argv and sys.argv[-1] == "reader":
    import eugene.etl.regions as r
    real = r.read_chrom_sizes
    def bad(path):
        raw = open(path, "rb").read()
        if b"\\0" in raw: os.abort()
        if raw.count(b"\\n") < 15 and b"\\r" not in raw: time.sleep(99)
        out = real(path)
        return out | {"made up": 1} if b"\\r" in raw else out
    r.read_chrom_sizes = bad
""")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])]))
    monkeypatch.setattr(fuzz, "LIMIT", 1)
    monkeypatch.setattr(fuzz, "START", 20)
    monkeypatch.setattr(fuzz, "generated", lambda folder: [("sizes", fuzz.put(folder / "a.sizes", "".join(f"chr{i}\t{1000 * i}\n" for i in range(1, 20)).encode()))])
    counts = fuzz.run(0, 3, tmp_path / "out", set(), None, cases=22)
    words = {w for _, w in counts}
    assert {"crash", "hang", "wrong"} <= words, counts
    kept = {p.name.split("-")[1] for p in (tmp_path / "out").iterdir() if p.is_dir()}
    assert kept == words & set(fuzz.FINDINGS) and len((tmp_path / "out" / "cases.jsonl").read_text().splitlines()) == 22


# ---------------------------------------------------------------- what comes by mistake in an ordinary call

class Slips:
    "Everyday mistakes: a call, and words its message must have"
    seqs = ["ACGTACGTAC"] * 3
    calls = {
        "text targets": (lambda s: eu.make_dataset(s.seqs, targets=["high", "low", "low"]), "`targets` has 'high', which is no number"),
        "text targets in a Series": (lambda s: eu.make_dataset(s.seqs, targets=pd.Series(["1", "x", "2"])), "`targets` has '1'|`targets` has 'x'"),
        "a dict of targets": (lambda s: eu.make_dataset(s.seqs, targets={"leaf": [1, 2, 3]}), "`target_names`"),
        "a Dataset as targets": (lambda s: eu.make_dataset(s.seqs, targets=eu.make_dataset(s.seqs, [1, 2, 3])), "`target_names`"),
        "a list of column names": (lambda s: eu.make_dataset(s.seqs, columns=["species"]), "a mapping from name to values"),
        "no sequences": (lambda s: eu.make_dataset(None), "came as NoneType"),
        "a number as sequence": (lambda s: eu.ohe(5), "came as int \\(5\\); expected text"),
        "None as sequence": (lambda s: eu.reverse_complement(None), "came as NoneType"),
        "a length as text": (lambda s: eu.pad_seqs(s.seqs, "12"), "`length` is '12'"),
        "fewer than no sequences": (lambda s: eu.random_seqs(-1, 10), "`n` is -1"),
        "half a sequence": (lambda s: eu.random_seqs(2, 10.5), "`length` is 10.5"),
        "a seed that is none": (lambda s: eu.random_seqs(2, 10, seed="today"), "`seed` is 'today'; expected a whole number"),
        "one Dataset to concatenate": (lambda s: eu.concat(eu.make_dataset(s.seqs)), "expected a list of Datasets"),
        "a number as Dataset": (lambda s: eu.to_zarr(5, "a.zarr"), "Dataset"),
        "a word as plant": (lambda s: eu.simulate(plants="TATA"), "expected a list of `Plant`"),
        "words to find": (lambda s: eu.find_sites(s.seqs, ["TATA"]), "expected a list of `Plant`"),
        "fractions as text": (lambda s: eu.split_random(eu.make_dataset(s.seqs), train="most"), "three numbers"),
        "a word as motif": (lambda s: eu.Motif("TATA", "TATAAA"), "expected probabilities \\(A, W\\)"),
        "a word as counts": (lambda s: eu.pfm_to_ppm("TATA"), "expected counts \\(A, W\\)"),
        "tables to write": (lambda s: eu.write_meme([np.eye(4)], "a.meme"), "expected a list of `Motif`"),
        "a file to match": (lambda s: eu.match_motifs([np.eye(4)], "jaspar.meme"), "A MEME file is read by `read_meme`"),
        "a number as motifs": (lambda s: eu.scan_motifs(s.seqs, 5), "the path of a MEME file"),
        "a word as logo": (lambda s: eu.plot_logo("TATA"), "expected a `Motif`, or heights"),
        "classes by name": (lambda s: eu.accuracy(np.array([["yes"], ["no"]]), np.ones((2, 1))), "classes are counted from 0"),
        "one seed": (lambda s: eu.benchmark({"a": {"arch": {"name": "CNN"}}}, eu.make_dataset(s.seqs), "out", seeds=3), "range\\(3\\)"),
        "a Dataset for batches": (lambda s: eu.fit(eu.SequenceModule(s.net()), eu.make_dataset(s.seqs), None, "out", device="cpu"), "`fit_dataset` takes a Dataset"),
        "a data frame to predict": (lambda s: eu.predict(s.net(), pd.DataFrame({"seq": s.seqs})), "pass its column of sequences"),
        "a target by name": (lambda s: eu.ism(s.net(), eu.ohe(s.seqs), target="leaf"), "the number of a column"),
        "curves without names": (lambda s: eu.plot_positional(np.ones((3, 4))), "a mapping from name to scores"),
        "rules as a dict": (lambda s: eu.evolve(s.net(), eu.ohe(s.seqs), constraints={"gc": (.3, .6)}), "expected Constraints"),
        "a path as Dataset": (lambda s: eu.evaluate(s.net(), "a.zarr"), "opened by `open_zarr`"),
        "an effect as text": (lambda s: eu.Plant("TATA", "1"), "effect='1'; expected a number"),
        "a name as network": (lambda s: eu.init_weights("CNN"), "expected a network"),
        "a name to check": (lambda s: eu.check_arch("CNN", 10), "expected a network"),
    }

    def net(self):
        return eu.build_arch("CNN", input_len=10, conv={"channels": [2], "kernels": 3}, dense={})


@pytest.mark.parametrize("slip", Slips.calls)
def test_an_everyday_mistake_is_answered_in_the_users_terms(slip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = Slips.calls[slip]
    with pytest.raises((ValueError, TypeError), match=words): call(Slips())
    assert not list(tmp_path.iterdir())


def test_a_single_motif_is_written_like_a_list_of_one(tmp_path):
    motif = eu.Motif("m", np.eye(4))
    assert (eu.read_meme(eu.write_meme(motif, tmp_path / "a.meme"))[0].ppm == eu.read_meme(eu.write_meme([motif], tmp_path / "b.meme"))[0].ppm).all()
