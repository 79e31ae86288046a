"Variants against naive readers: VCF against pysam, windows against pyfaidx, spellings against all spellings, scores against ISM."
import gzip
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from eugene.etl.fasta import GenomeFASTA
from eugene.etl.sequences import from_bytes, ohe, random_seqs, reverse_complement
from eugene.interpretation.mutagenesis import ism
from eugene.interpretation.variants import (VARIANT_SCORES, check_reference, check_variants, normalize_variants, read_vcf,
                                            score_variants, variant_windows)
from eugene.models.profile import BPNet, ProfileOutput
from toy_models import LinearModel, MotifModel

HEAD = "##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
LENGTH = 21


def frame(*rows):
    "Variants from `(chrom, pos, ref, alt)`"
    return pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt"])


def fasta(path, **contigs):
    path.write_text("".join(f">{name}\n{seq}\n" for name, seq in contigs.items()))
    return path


def linear(length=LENGTH, targets=1, seed=0):
    return LinearModel(np.random.default_rng(seed).normal(size=(targets, 4, length)))


class Invariant(nn.Module):
    "A model and its mirror: the same answer for both strands"

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return (self.body(x) + self.body(x.flip((1, 2)))) / 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A drawn genome of two chromosomes, as text and as a file"
    seqs = dict(zip(("chr1", "chr2"), random_seqs(2, 300, seed=1)))
    return seqs, fasta(tmp_path_factory.mktemp("made") / "made.fa", **seqs)


def apply(seq, pos, ref, alt):
    assert seq[pos - 1:pos - 1 + len(ref)] == ref
    return seq[:pos - 1] + alt + seq[pos - 1 + len(ref):]


# ---------------------------------------------------------------- reading

def test_a_real_vcf_is_what_pysam_reads(data_dir):
    pysam = pytest.importorskip("pysam")
    path = data_dir / "formats" / "pysam_ex1.vcf.gz"
    if not path.is_file(): pytest.skip(f"no {path.name} in the data folder")
    with pysam.VariantFile(str(path)) as f:
        theirs = [(r.chrom, r.pos, r.id or ".", r.ref.upper(), a.upper()) for r in f for a in r.alts or (".",)]
    assert in_order(read_vcf(path)) == theirs and len(theirs) > 100


def test_a_real_vcf_with_a_missing_column_is_read_by_its_first_five(data_dir):
    "Eight columns announced, seven there: pysam calls it truncated, a naive reader splits it at its tabs"
    path = data_dir / "formats" / "kipoiseq_chr22_ENST00000319363.vcf.gz"
    if not path.is_file(): pytest.skip(f"no {path.name} in the data folder")
    naive = [line.split("\t") for line in gzip.open(path, "rt") if line[0] != "#"]
    expected = [(c, int(p), i, r.upper(), a.upper()) for c, p, i, r, alts in (f[:5] for f in naive) for a in alts.split(",")]
    assert in_order(read_vcf(path)) == expected and len(naive) == 9212


def in_order(variants):
    "Used and skipped variants together, as in the file"
    both = pd.concat([variants.table, variants.skipped]).sort_values("record", kind="stable")
    return [tuple(row) for row in both[["chrom", "pos", "id", "ref", "alt"]].values]


def test_gzip_bgzip_and_windows_line_ends_are_one_file(tmp_path):
    pysam = pytest.importorskip("pysam")
    text = HEAD + "chr1\t3\trs1\tg\tA\t.\t.\t.\nchr1\t6\t.\tTA\tT,<DEL>\t.\t.\t.\n"
    (tmp_path / "a.vcf").write_text(text)
    (tmp_path / "b.vcf").write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "c.vcf.gz").write_bytes(gzip.compress(text.encode()))
    pysam.tabix_compress(str(tmp_path / "a.vcf"), str(tmp_path / "d.vcf.gz"))
    tables = [read_vcf(p) for p in sorted(tmp_path.iterdir())]
    assert len(tables) == 4
    for t in tables:
        pd.testing.assert_frame_equal(t.table, tables[0].table)
        assert t.skipped["reason"].tolist() == ["symbolic allele"]
    bgzip = (tmp_path / "d.vcf.gz").read_bytes()
    (tmp_path / "cut.vcf.gz").write_bytes(bgzip[:-28])
    with pytest.raises(ValueError, match="cut off"): read_vcf(tmp_path / "cut.vcf.gz")


@pytest.mark.parametrize("text, message", [
    ("", "empty"),
    ("chr1\t3\t.\tG\tA\n", "begins with 'chr1.*##fileformat"),
    ("##fileformat=VCFv4.3\nchr1\t3\t.\tG\tA\n", "line 2: a record before the line that begins with #CHROM"),
    ("##fileformat=VCFv4.3\n", "no line that begins with #CHROM"),
    ("##fileformat=VCFv4.3\n#CHROM POS ID REF ALT\n", "line 2: the columns are"),
    (HEAD + "chr1 3 . G A . . .\n", "line 3: 1 column separated by tabs"),
    (HEAD + "chr1\t3\t.\tG\n", "line 3: 4 columns"),
    (HEAD + "chr1\tx\t.\tG\tA\t.\t.\t.\n", "line 3: POS is 'x'"),
    (HEAD + "chr1\t0\t.\tG\tA\t.\t.\t.\n", "line 3: POS is '0'.*counted from 1"),
    (HEAD + "chr1\t-4\t.\tG\tA\t.\t.\t.\n", "line 3: POS is '-4'"),
    (HEAD + "chr1\t3\t.\tG\t\t.\t.\t.\n", "line 3: ALT is ''.*base before it"),
    (HEAD + "chr1\t3\t.\tG\tA,\t.\t.\t.\n", "line 3: ALT is ''"),
    (HEAD + "chr1\t3\t.\tG\t-\t.\t.\t.\n", "line 3: ALT is '-'"),
    (HEAD + "chr1\t3\t.\t\tA\t.\t.\t.\n", "line 3: REF is ''"),
    (HEAD + "chr1\t3\t.\t.\tA\t.\t.\t.\n", "line 3: REF is '.'"),
    (HEAD + "\t3\t.\tG\tA\t.\t.\t.\n", "line 3: the chromosome is ''"),
])
def test_a_bad_file_is_told_by_its_line(tmp_path, text, message):
    (tmp_path / "bad.vcf").write_text(text)
    with pytest.raises(ValueError, match=message) as e: read_vcf(tmp_path / "bad.vcf")
    assert "bad.vcf" in str(e.value)


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.bcf").write_bytes(gzip.compress(b"BCF\2\2" + bytes(50)))
    with pytest.raises(ValueError, match="BCF.*bcftools view"): read_vcf(tmp_path / "a.bcf")


# ---------------------------------------------------------------- the reference

def test_positions_and_letters_at_both_ends_are_those_of_pyfaidx(made):
    pyfaidx = pytest.importorskip("pyfaidx")
    seqs, path = made
    with pyfaidx.Fasta(str(path)) as naive:
        rows = [("chr1", p, naive["chr1"][p - 1:p].seq, "ACGT"["ACGT".index(naive["chr1"][p - 1:p].seq) - 1]) for p in (1, 2, 150, 299, 300)]
        windows = variant_windows(frame(*rows), path, LENGTH, edges="pad")
        for (_, p, _, alt), ref_window, alt_window in zip(rows, from_bytes(windows.ref), from_bytes(windows.alt)):
            start = p - 1 - LENGTH // 2
            expected = "N" * max(-start, 0) + naive["chr1"][max(start, 0):start + LENGTH].seq
            expected = expected.ljust(LENGTH, "N")
            assert ref_window == expected
            assert alt_window == expected[:LENGTH // 2] + alt + expected[LENGTH // 2 + 1:]
    assert variant_windows(frame(*rows), path, LENGTH, edges="skip").table["pos"].tolist() == [150]
    ends = [("chr1", p, seqs["chr1"][p - 1], "N") for p in (10, 11, 290, 291)]
    assert variant_windows(frame(*ends), path, LENGTH, edges="skip").table["pos"].tolist() == [11, 290]


def test_soft_masked_genomes_and_other_names_of_chromosomes(made, tmp_path):
    seqs, path = made
    lower = fasta(tmp_path / "lower.fa", **{"1": seqs["chr1"].lower()})
    rows = frame(("chr1", 150, seqs["chr1"][149], "N"))
    a, b = (variant_windows(rows, p, LENGTH) for p in (path, lower))
    np.testing.assert_array_equal(a.ref, b.ref)


@pytest.mark.parametrize("shift, swap, words", [(0, True, "REF and ALT swapped"), (-1, False, "counted from 0"), (1, False, "counted from 1")])
def test_the_hint_says_what_went_wrong(made, shift, swap, words):
    seqs, path = made
    gen, rows = np.random.default_rng(3), []
    for p in gen.choice(np.arange(5, 295), 40, replace=False):
        ref = seqs["chr1"][p - 1]
        alt = gen.choice([b for b in "ACGT" if b != ref])
        rows.append(("chr1", int(p) + shift, *((alt, ref) if swap else (ref, alt))))
    with pytest.raises(ValueError, match=words) as e: check_reference(check_variants(frame(*rows)), path)
    assert "of 40 variants" in str(e.value)
    skipped = check_reference(check_variants(frame(*rows)), path, ref_mismatch="skip")
    assert len(skipped.table) + len(skipped.skipped) == 40 and (skipped.skipped["reason"] == "REF differs").all()


def test_another_assembly_is_named_as_the_likely_cause(made):
    rows = [("chr1", p, random_seqs(1, 6, seed=p)[0], "A") for p in range(20, 60)]
    with pytest.raises(ValueError, match="same assembly"): check_reference(check_variants(frame(*rows)), made[1])


def test_nothing_disappears(made, caplog):
    seqs, path = made
    a = seqs["chr1"]
    rows = frame(("chr1", 150, a[149], "<DEL>"), ("chrQ", 1, "A", "C"), ("chr1", 301, "A", "C"), ("chr1", 100, "ACGTACGTA", "A"), ("chr1", 3, a[2], "N"),
                 ("chr1", 120, a[119], a[119]), ("chr1", 150, a[149], "*,G,C,A,T"), ("chr1", 50, a[49:80], a[49]))
    got = score_variants(linear(), rows, path, LENGTH, edges="skip", ref_mismatch="skip")
    assert len(got.table) + len(got.skipped) == 12
    assert sorted(got.skipped["reason"]) == sorted(["symbolic allele", "unknown contig", "beyond the contig", "REF differs", "window beyond the contig", "ALT is REF", "ALT is REF",
                                                    "deleted by another variant", "longer than the window"])
    assert got.table["record"].tolist() == [7, 7, 7] and (got.skipped["detail"].str.len() > 0).all()
    assert "skipped 9 of 12" in caplog.text


# ---------------------------------------------------------------- spellings

def test_every_spelling_of_a_change_normalizes_to_one_and_has_one_window(tmp_path):
    "All ways to write each change of a short repetitive sequence, found by applying every possible record"
    seq = "GCACACATTTTGCAAAAC"
    path = fasta(tmp_path / "short.fa", chr1=seq)
    spelled = {}
    for i, j in itertools.combinations(range(len(seq) + 1), 2):
        if j - i > 5: continue
        for alt in {seq[i:j][:k] for k in range(1, j - i)} | {seq[i] + x + seq[i + 1:j] for x in ("A", "CA", "T")}:
            if alt != seq[i:j]: spelled.setdefault(apply(seq, i + 1, seq[i:j], alt), []).append(("chr1", i + 1, seq[i:j], alt))
    many = {k: v for k, v in spelled.items() if len(v) > 2}
    assert len(many) > 20
    for haplotype, rows in many.items():
        table = normalize_variants(frame(*rows), path).table
        assert len(table[["pos", "ref", "alt"]].drop_duplicates()) == 1
        pos, ref, alt = table.loc[0, ["pos", "ref", "alt"]]
        assert apply(seq, pos, ref, alt) == haplotype
        assert (pos, len(ref)) <= min((p, len(r)) for _, p, r, _ in rows if len(r) == min(len(x[2]) for x in rows)) or len(ref) < min(len(x[2]) for x in rows)
        assert ref[-1] != alt[-1] or pos == 1                              # right-trimmed
        assert min(len(ref), len(alt)) == 1 or ref[0] != alt[0]            # left-trimmed
        windows = variant_windows(frame(*rows), path, 9, edges="pad")
        assert len(set(from_bytes(windows.ref))) == len(set(from_bytes(windows.alt))) == 1


@pytest.mark.parametrize("seq, given, expected", [
    ("ACGTCTAAAGG", (8, "AA", "A"), (6, "TA", "T")),             # one of three As goes
    ("ACGTCTAACAGG", (7, "AACA", "AA"), (7, "AAC", "A")),        # the loss of CA is the loss of AC one base further left
    ("TGCACACATT", (3, "CACAC", "CAC"), (2, "GCA", "G")),        # a repeat of two
    ("TGCACACATT", (7, "C", "CAC"), (2, "G", "GCA")),            # and one copy more
    ("AAAC", (3, "A", "AA"), (1, "A", "AA")),                    # nothing before the run
    ("AAAC", (2, "AA", "A"), (1, "AA", "A")),
    ("G" + "A" * 200 + "C", (200, "AA", "A"), (1, "GA", "G")),   # a run longer than what is read in one go
    ("G" + "CA" * 99 + "T", (197, "ACA", "A"), (1, "GCA", "G")),
    ("TGACC", (2, "GAC", "GTC"), (3, "A", "T")),                 # a substitution among equal letters
    ("TGACC", (2, "GAC", "CTT"), (2, "GAC", "CTT")),
])
def test_left_alignment_by_hand(tmp_path, seq, given, expected):
    got = normalize_variants(frame(("chr1", *given)), fasta(tmp_path / "a.fa", chr1=seq)).table.loc[0, ["pos", "ref", "alt"]]
    assert tuple(got) == expected


# ---------------------------------------------------------------- windows

@pytest.mark.parametrize("anchor", ["center", "left"])
@pytest.mark.parametrize("length", [20, 21])
def test_windows_are_stretches_of_the_two_haplotypes(made, anchor, length):
    seqs, path = made
    gen, a, rows = np.random.default_rng(5), seqs["chr1"], []
    for p in gen.choice(np.arange(60, 240), 60, replace=False):
        ref = a[p - 1:p - 1 + gen.integers(1, 8)]
        rows.append(("chr1", int(p), ref, "".join(gen.choice(list("ACGT"), gen.integers(1, 8)))))
    windows = variant_windows(frame(*[r for r in rows if r[2] != r[3]]), path, length, anchor=anchor)
    assert len(windows) > 50
    for (_, row), ref, alt, (_, place) in zip(windows.table.iterrows(), from_bytes(windows.ref), from_bytes(windows.alt), windows.place.iterrows()):
        haplotype = apply(a, row["pos"], row["ref"], row["alt"])
        site = place["start"] + place["ref_at"]
        assert ref == a[place["start"]:place["start"] + length]
        assert alt == haplotype[site - place["alt_at"]:site - place["alt_at"] + length]
        if anchor == "left": assert place["ref_at"] == place["alt_at"]
        else:
            for k in ("ref", "alt"): assert abs((place[f"{k}_at"] + place[f"{k}_size"] / 2) - length / 2) <= 1


@pytest.mark.parametrize("anchor", ["center", "left"])
def test_an_insertion_is_the_inverse_of_the_deletion_that_undoes_it(made, tmp_path, anchor):
    seqs, path = made
    a, model = seqs["chr1"], linear()
    for k in (1, 2, 3, 6):
        alt = a[99] + "GATTACA"[:k]
        other = fasta(tmp_path / f"other{k}.fa", chr1=apply(a, 100, a[99], alt))
        there = score_variants(model, frame(("chr1", 100, a[99], alt)), path, LENGTH, anchor=anchor).table
        back = score_variants(model, frame(("chr1", 100, alt, a[99])), other, LENGTH, anchor=anchor).table
        np.testing.assert_allclose(back["difference"], -there["difference"], atol=1e-5)
        np.testing.assert_allclose(back["score_ref"], there["score_alt"], atol=1e-5)


def test_deletions_at_the_ends_of_a_chromosome(made):
    seqs, path = made
    a = seqs["chr1"]
    rows = frame(("chr1", 1, a[:4], a[3]), ("chr1", 297, a[296:], a[296]))
    with pytest.raises(ValueError, match="variant 1 .*0-based.*300 bp.*'pad'"): variant_windows(rows, path, LENGTH)
    assert variant_windows(rows, path, LENGTH, edges="skip").skipped["reason"].tolist() == ["window beyond the contig"] * 2
    windows = variant_windows(rows, path, LENGTH, edges="pad", normalize=False)
    ref, alt = from_bytes(windows.ref), from_bytes(windows.alt)
    assert ref[0].lstrip("N") == a[:len(ref[0].lstrip("N"))] and alt[0].lstrip("N") == a[3:3 + len(alt[0].lstrip("N"))]
    assert ref[1].rstrip("N").endswith(a[-8:]) and alt[1].rstrip("N").endswith(a[289:297])
    assert all(len(s) == LENGTH for s in ref + alt)


def test_a_deletion_takes_in_flank_that_must_be_there(made):
    "The window of the deletion needs two bases more on the right than that of the reference"
    seqs, path = made
    a = seqs["chr1"]
    need = variant_windows(frame(("chr1", 150, a[149:152], a[149])), path, LENGTH, normalize=False).place.loc[0]
    last = 300 - (LENGTH - need["alt_at"]) - 2  # 0-based site whose ALT window ends with the chromosome
    keep = [len(variant_windows(frame(("chr1", int(site), a[site - 1:site + 2], a[site - 1])), path, LENGTH, edges="skip", normalize=False)) for site in (last, last + 1)]
    assert keep == [1, 0]


# ---------------------------------------------------------------- scores

def test_substitutions_score_as_ism(made):
    seqs, path = made
    rows = [("chr1", p, seqs["chr1"][p - 1], b) for p in (40, 150, 250) for b in "ACGT" if b != seqs["chr1"][p - 1]]
    model = linear(targets=2)
    got = score_variants(model, frame(*rows), path, LENGTH, target=1).table
    for p in (40, 150, 250):
        effects = ism(model, ohe([seqs["chr1"][p - 1 - LENGTH // 2:p + LENGTH // 2]]), target=1)[0]
        for _, row in got[got["pos"] == p].iterrows():
            assert row["difference"] == pytest.approx(effects["ACGT".index(row["alt"]), LENGTH // 2], abs=1e-5)


@pytest.mark.parametrize("score", ["difference", "log2_fold", "log_odds", "abs", "profile_l2", "profile_jsd"])
def test_swapping_the_alleles_turns_the_sign(made, tmp_path, score):
    seqs, path = made
    a = seqs["chr1"]
    alt = "ACGT"["ACGT".index(a[149]) - 1]
    other = fasta(tmp_path / "other.fa", chr1=apply(a, 150, a[149], alt))
    conv = nn.Conv1d(4, 2, 5)
    model = nn.Sequential(conv, nn.Sigmoid()) if score.startswith("profile") else nn.Sequential(conv, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Sigmoid())
    there = score_variants(model, frame(("chr1", 150, a[149], alt)), path, LENGTH, score=score).table[score][0]
    back = score_variants(model, frame(("chr1", 150, alt, a[149])), other, LENGTH, score=score).table[score][0]
    assert there != 0 and back == pytest.approx(there if score in ("abs", "profile_l2", "profile_jsd") else -there, rel=1e-3)
    assert set(VARIANT_SCORES) == {"difference", "log2_fold", "log_odds", "abs", "profile_l2", "profile_jsd"}


@pytest.mark.parametrize("k, length", [(1, 21), (2, 20), (4, 20)])
def test_a_variant_has_one_effect_on_either_strand(made, tmp_path, k, length):
    "A substitution in an odd window, or an even deletion in an even one, written on the genome's other strand: the windows are mirror images"
    seqs, path = made
    a = seqs["chr1"]
    i = next(i for i in range(140, 200) if a[i - 1] != a[i + k - 1] and a[i] != a[i + k]) # a place with one spelling
    mirror, ref = fasta(tmp_path / "mirror.fa", chr1=reverse_complement(a)), a[i:i + k]
    if k == 1:
        alt = "ACGT"["ACGT".index(ref) - 1]
        plus, minus = frame(("chr1", i + 1, ref, alt)), frame(("chr1", 300 - i, reverse_complement(ref), reverse_complement(alt)))
    else:
        behind = reverse_complement(a[i + k])
        plus, minus = frame(("chr1", i, a[i - 1] + ref, a[i - 1])), frame(("chr1", 300 - i - k, behind + reverse_complement(ref), behind))
    windows = [variant_windows(v, g, length, normalize=False) for v, g in ((plus, path), (minus, mirror))]
    for allele in ("ref", "alt"): np.testing.assert_array_equal(getattr(windows[0], allele), reverse_complement(getattr(windows[1], allele)))
    for model, strands in ((linear(length), "both"), (Invariant(linear(length)), "given"), (MotifModel(ohe("GATTA")[0], both_strands=True), "given")):
        x, y = (score_variants(model, v, g, length, strands=strands, normalize=False).table["difference"][0] for v, g in ((plus, path), (minus, mirror)))
        assert x == pytest.approx(y, abs=1e-5)
    x, y = (score_variants(linear(length), v, g, length, normalize=False).table["difference"][0] for v, g in ((plus, path), (minus, mirror)))
    assert abs(x - y) > 1e-3 # one strand alone answers otherwise


def test_both_strands_are_the_mean_of_two_passes(made):
    seqs, path = made
    rows, model = frame(("chr1", 150, seqs["chr1"][149], "N"), ("chr1", 100, seqs["chr1"][99:103], seqs["chr1"][99])), linear(targets=3)
    w = variant_windows(rows, path, LENGTH)
    got = score_variants(model, rows, path, LENGTH, target=None, strands="both").table
    with torch.no_grad():
        for name, codes in (("ref", w.ref), ("alt", w.alt)):
            mean = (model(torch.tensor(ohe(codes)).float()) + model(torch.tensor(ohe(reverse_complement(codes))).float())) / 2
            np.testing.assert_allclose(got[[f"score_{name}_{t}" for t in range(3)]], mean, atol=1e-5)


def test_alternatives_of_one_line_score_as_lines_of_their_own(made):
    seqs, path = made
    others = [b for b in "ACGT" if b != seqs["chr1"][149]]
    one = score_variants(linear(), frame(("chr1", 150, seqs["chr1"][149], ",".join(others))), path, LENGTH).table
    each = score_variants(linear(), frame(*[("chr1", 150, seqs["chr1"][149], b) for b in others]), path, LENGTH).table
    assert one["record"].tolist() == [1, 1, 1] and each["record"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(one["difference"], each["difference"], atol=1e-6)


def test_order_batches_and_repetition_make_no_difference(made):
    seqs, path = made
    rows = [("chr2" if p % 2 else "chr1", p, seqs["chr2" if p % 2 else "chr1"][p - 1], "ACGT"["ACGT".index(seqs["chr2" if p % 2 else "chr1"][p - 1]) - 2]) for p in range(30, 270, 7)]
    table = pd.concat([frame(*rows), frame(*rows)[::-1]], ignore_index=True)
    a = score_variants(linear(), table, path, LENGTH).table
    b = score_variants(linear(), table, path, LENGTH, batch_size=5).table
    assert a["pos"].tolist() == table["pos"].tolist()
    np.testing.assert_allclose(a["difference"], b["difference"], atol=1e-5)
    np.testing.assert_allclose(a["difference"], a["difference"][::-1], atol=1e-5)


def test_a_long_file_is_written_as_it_would_be_held(made, tmp_path):
    "More records than one piece, so that pieces meet"
    seqs, path = made
    gen = np.random.default_rng(0)
    lines = []
    for n in range(5000):
        p = int(gen.integers(1, 301))
        lines.append(f"chr1\t{p}\tv{n}\t{seqs['chr1'][p - 1]}\t{gen.choice(['A', 'C', '<DEL>', 'G,T'])}\t.\t.\t.\n")
    (tmp_path / "long.vcf").write_text(HEAD + "".join(lines))
    held = score_variants(linear(), tmp_path / "long.vcf", path, LENGTH, edges="skip", batch_size=512)
    files = score_variants(linear(), tmp_path / "long.vcf", path, LENGTH, edges="skip", batch_size=512, out=tmp_path / "long.csv.gz")
    kinds = {"id": str}
    pd.testing.assert_frame_equal(pd.read_csv(files.scores, dtype=kinds), held.table, check_dtype=False, rtol=1e-6)
    pd.testing.assert_frame_equal(pd.read_csv(files.skipped, dtype=kinds), held.skipped, check_dtype=False)
    assert (files.n_scored, files.n_skipped) == (len(held.table), len(held.skipped))
    alleles = sum(line.split("\t")[4].count(",") + 1 for line in lines)
    assert len(held.table) + len(held.skipped) == alleles > 5000
    with pytest.raises(FileExistsError): score_variants(linear(), tmp_path / "long.vcf", path, LENGTH, out=tmp_path / "long.csv.gz")


def test_a_run_that_fails_leaves_no_file(made, tmp_path):
    seqs, path = made
    good = "".join(f"chr1\t150\t.\t{seqs['chr1'][149]}\tN\t.\t.\t.\n" for _ in range(3000))
    (tmp_path / "late.vcf").write_text(HEAD + good + "chr1\t999\t.\tA\tC\t.\t.\t.\n")
    with pytest.raises(ValueError, match=r"late.vcf, line 3003 \(chr1:999 A>C\): REF ends beyond the contig, which has 300 bp"):
        score_variants(linear(), tmp_path / "late.vcf", path, LENGTH, out=tmp_path / "out.tsv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["late.vcf"]


def test_ambiguous_letters_follow_the_policy(tmp_path):
    seq = random_seqs(1, 100, seed=2)[0]
    path = fasta(tmp_path / "n.fa", chr1=seq[:45] + "N" + seq[46:])
    rows, model = frame(("chr1", 51, seq[50], "ACGT"["ACGT".index(seq[50]) - 1])), linear()
    zero, uniform = (score_variants(model, rows, path, LENGTH, unknown=u).table for u in ("zero", "uniform"))
    mean = model.weight[0, :, 5].mean().item()
    assert uniform["score_ref"][0] - zero["score_ref"][0] == pytest.approx(mean, abs=1e-5)
    assert score_variants(model, rows, path, LENGTH, unknown="skip").skipped["reason"].tolist() == ["unknown letters"]
    with pytest.raises(ValueError, match="variant 1 .*letters other than"): score_variants(model, rows, path, LENGTH, unknown="error")


def test_profile_models_from_counts_and_places(made):
    "BPNet: fold change from its log counts, distances from its profiles, the other strand with its tracks exchanged"
    seqs, path = made
    a = seqs["chr1"]
    rows = frame(("chr1", 150, a[149], "ACGT"["ACGT".index(a[149]) - 1]), ("chr1", 140, a[139:143], a[139]))

    class Toy(nn.Module):
        "Two strands of one task: `BPNet`'s form of answer"
        repeats = (2, 2)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(4, 2, 5, padding=2)

        def forward(self, x):
            h = self.conv(x)
            return ProfileOutput(h[..., 5:-5], h.mean(2))

    torch.manual_seed(0)
    toy = Toy()
    got = score_variants(toy, rows, path, LENGTH, target=None, score=["difference", "log2_fold", "profile_jsd", "profile_l2"]).table
    np.testing.assert_allclose(got["log2_fold_1"], got["difference_1"] / np.log(2), rtol=1e-6)
    w = variant_windows(rows, path, LENGTH)
    with torch.no_grad(): p, q = (toy(torch.tensor(ohe(c)).float()).profile.softmax(2).double().numpy() for c in (w.ref, w.alt))
    m = (p + q) / 2
    jsd = np.sqrt(((p * np.log2(p / m)).sum(2) + (q * np.log2(q / m)).sum(2)) / 2)
    np.testing.assert_allclose(got.loc[0, ["profile_jsd_0", "profile_jsd_1"]].astype(float), jsd[0], rtol=1e-4)
    np.testing.assert_allclose(got.loc[0, ["profile_l2_0", "profile_l2_1"]].astype(float), np.sqrt(((p - q)[0] ** 2).sum(1)), rtol=1e-4)
    assert got["profile_jsd_0"][1] < jsd[1, 0] # matched through the genome, the shift is gone
    # the strands: a model whose tracks exchange roles has the same answer for both
    with torch.no_grad(): toy.conv.weight[1] = toy.conv.weight[0].flip((0, 1)); toy.conv.bias[1] = toy.conv.bias[0]
    one, two = (score_variants(toy, rows, path, LENGTH, target=None, score=["difference", "profile_jsd"], strands=s).table for s in ("given", "both"))
    np.testing.assert_allclose(one.filter(like="_0").astype(float), two.filter(like="_0").astype(float), atol=1e-6)


def test_a_model_of_the_zoo_says_its_own_length(made):
    seqs, path = made
    model = BPNet(input_len=128, tasks=1, strands=2, trunk={"filters": 4})
    got = score_variants(model, frame(("chr1", 150, seqs["chr1"][149], "ACGT"["ACGT".index(seqs["chr1"][149]) - 1])), path, target=None, score="profile_jsd", strands="both").table
    assert list(got.columns[-2:]) == ["profile_jsd_0", "profile_jsd_1"] and np.isfinite(got["profile_jsd_0"]).all()


# ---------------------------------------------------------------- real sequence

REAL = "formats/kipoiseq_hg38_chr22_32000000_32300000.fa"


@pytest.fixture(scope="module")
def real(data_dir, tmp_path_factory):
    "300 kb of hg38 chr22; its header says chr22, so that positions count from 32,000,000"
    pysam = pytest.importorskip("pysam")
    if not (data_dir / REAL).is_file(): pytest.skip(f"no {REAL} in the data folder")
    plain = tmp_path_factory.mktemp("real") / "chr22.fa"
    plain.write_bytes((data_dir / REAL).read_bytes())
    pysam.faidx(str(plain))
    with pysam.FastaFile(str(plain)) as f: yield plain, f


def test_a_hand_made_vcf_on_real_sequence(real, tmp_path):
    "Records written with letters that pysam looked up: substitutions, a deletion, an insertion, two alternatives, wrong REF, both ends"
    path, look = real
    size = look.get_reference_length("chr22")
    assert size == 300_000
    at = lambda p, n=1: look.fetch("chr22", p - 1, p - 1 + n).upper()
    other = lambda b, k=1: "ACGT"[("ACGT".index(b) + k) % 4]
    wrong = other(at(5000))
    lines = [(1000, at(1000), other(at(1000))), (2000, at(2000, 5), at(2000)), (3000, at(3000), at(3000) + "GATTACA"), (4000, at(4000), f"{other(at(4000))},{other(at(4000), 2)}"),
             (5000, wrong, at(5000)), (1, at(1), other(at(1))), (size, at(size), other(at(size))), (6000, at(6000).lower(), other(at(6000)).lower()), (7000, at(7000), "<DUP>")]
    (tmp_path / "hand.vcf").write_text(HEAD + "".join(f"22\t{p}\tr{i}\t{r}\t{a}\t.\tPASS\t.\n" for i, (p, r, a) in enumerate(lines, 3)))
    with pytest.raises(ValueError, match=r"hand.vcf, line 7 \(22:5000 .*REF and ALT swapped"): variant_windows(tmp_path / "hand.vcf", path, 201, edges="pad")
    windows = variant_windows(tmp_path / "hand.vcf", path, 201, edges="pad", ref_mismatch="skip", normalize=False)
    assert windows.skipped[["record", "reason"]].values.tolist() == [[7, "REF differs"], [11, "symbolic allele"]]
    assert windows.table["record"].tolist() == [3, 4, 5, 6, 6, 8, 9, 10]
    for (_, v), ref, alt in zip(windows.table.iterrows(), from_bytes(windows.ref), from_bytes(windows.alt)):
        text = look.fetch("chr22").upper()
        for window, seq in ((ref, text), (alt, apply(text, v["pos"], v["ref"], v["alt"]))):
            bare = window.strip("N")
            k = window.index(bare[:1])
            assert bare in seq[max(0, v["pos"] - 150):v["pos"] + 150] and len(window) == 201
            if v["pos"] == 1: assert k == 100
            if v["pos"] == size: assert len(bare) == 101
    assert [w[100] for w, r in zip(from_bytes(windows.ref), windows.table["ref"]) if len(r) == 1][0] == at(1000)


def test_orientation_of_the_effect_on_real_sequence(real):
    "A TATA box is broken: the effect is negative for the record as written, and positive for the reverse mutation"
    path, look = real
    text = look.fetch("chr22").upper()
    site = text.index("TATAAA", 1000)  # 0-based
    model = MotifModel(ohe("TATAAA")[0])
    broken = score_variants(model, frame(("chr22", site + 3, "T", "G")), path, 41).table
    window = text[site + 2 - 20:site + 2 + 21]
    best = lambda s: max(sum(x == y for x, y in zip(s[i:i + 6], "TATAAA")) for i in range(len(s) - 5))
    assert broken["score_ref"][0] == best(window) == 6
    assert broken["score_alt"][0] == best(window[:20] + "G" + window[21:])
    assert broken["difference"][0] == broken["score_alt"][0] - broken["score_ref"][0] < 0
    deleted = score_variants(model, frame(("chr22", site, text[site - 1:site + 6], text[site - 1])), path, 41).table
    assert deleted["difference"][0] < 0


def test_the_real_vcf_lies_off_the_small_chromosome(real, data_dir):
    path, _ = real
    vcf = data_dir / "formats" / "kipoiseq_chr22_ENST00000319363.vcf.gz"
    if not vcf.is_file(): pytest.skip(f"no {vcf.name} in the data folder")
    with pytest.raises(ValueError, match=r"line 4 \(chr22:17565851 G>C\): REF ends beyond the contig, which has 300,000 bp.*same assembly"): score_variants(linear(), vcf, path, LENGTH)


def test_normalized_indels_of_a_real_repeat(real):
    "Every base of real runs of one letter, deleted: one spelling, at the base before the run"
    path, look = real
    text = look.fetch("chr22").upper()
    for run in ("AAAAAAAA", "CACACACACACA"):
        unit = "A" if run[0] == run[1] else "CA"
        first = text.index(run, 5000)
        while text[first - len(unit):first] == unit: first -= len(unit)
        rows = [("chr22", p, text[p - 1:p + len(unit)], text[p - 1]) for p in range(first, first + len(run) - len(unit))]
        table = normalize_variants(frame(*rows), path).table
        assert table[["pos", "ref", "alt"]].drop_duplicates().shape[0] == 1
        pos, ref, alt = table.loc[0, ["pos", "ref", "alt"]]
        assert apply(text, pos, ref, alt) == apply(text, *rows[0][1:])
        assert text[pos - 1] != ref[-1] and pos <= first
