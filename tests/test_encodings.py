"Laws of the chapters on encodings and coverage, other people's programs, and real files"
import gzip
import logging
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eugene.etl.coverage import (bin_coverage, center_crop, flip_tracks, jitter, normalize_coverage, smooth_coverage, soft_clip)
from eugene.etl.encodings import (FIRST_TOKEN, GENETIC_CODE, PAD_TOKEN, UNKNOWN_TOKEN, decode_tokens, kmer_names, kmer_partners,
                                  merge_strands, nucleotide_content, ohe_kmers, tokenize, translate)
from eugene.etl.sequences import (DNA, IUPAC, PROTEIN, decode_ohe, from_bytes, gc_content, get_alphabet, ohe, pad_seqs, random_seqs,
                                  reverse_complement, to_bytes)
from eugene.etl.shuffling import k_shuffle, kmer_counts

messy = st.text("ACGTacgtuU" + "".join(IUPAC) + "-x", max_size=30)
ragged = st.lists(messy, max_size=5)
POLICIES = ("zero", "uniform")


def law(*args):
    "Hold a test against 40 inputs, the same ones in every run"
    return lambda f: settings(deadline=None, derandomize=True, database=None, max_examples=40)(given(*args)(f))


def batches(letters, min_size=0, max_rows=5):
    "Lists of sequences of one length"
    return st.integers(min_size, 14).flatmap(lambda n: st.lists(st.text(letters, min_size=n, max_size=n), max_size=max_rows))


# ---------------------------------------------------------------- proteins

def test_an_alphabet_of_proteins_works_wherever_an_alphabet_does(tmp_path):
    from eugene.etl.loading import loader
    from eugene.etl.seqdata import make_dataset, open_zarr, to_zarr
    from eugene.etl.tables import from_pandas, to_pandas
    from eugene.etl.splits import canonical, split_random
    proteins = random_seqs(30, 25, "protein", seed=0)
    assert get_alphabet("protein") is PROTEIN and PROTEIN.size == 20
    assert decode_ohe(ohe(proteins, "protein", "error"), "protein") == proteins
    assert canonical(proteins, "protein") == proteins
    assert (kmer_counts(proteins, 1, "protein").sum(1) == 25).all()
    assert (kmer_counts(k_shuffle(proteins, 2, seed=0), 2, "protein") == kmer_counts(proteins, 2, "protein")).all()
    ds = split_random(make_dataset(proteins, np.arange(30), alphabet="protein"))
    again = open_zarr(to_zarr(ds, tmp_path / "proteins.zarr"))
    assert again.attrs["alphabet"] == "protein" and from_bytes(again.seq.values) == proteins
    batch = next(iter(loader(ds, batch_size=30)))
    assert batch.x.shape == (30, 20, 25) and decode_ohe(batch.x, "protein") == proteins
    table = to_pandas(ds)
    assert from_pandas(table, "seq" if "seq" in table else "sequence", "target1", alphabet="protein", unknown="error").attrs["alphabet"] == "protein"


def test_padding_of_proteins_is_no_asparagine(tmp_path):
    from eugene.etl.loading import loader
    from eugene.etl.seqdata import make_dataset, open_zarr, to_zarr
    from eugene.etl.tables import to_pandas
    proteins = ["MKNN", "MW", "MNNNNNN"]
    ds = make_dataset(proteins, alphabet="protein", length="pad")
    assert from_bytes(ds.seq.values) == ["MKNNXXX", "MWXXXXX", "MNNNNNN"]
    assert next(iter(loader(ds))).x.sum((1, 2)).tolist() == [4, 2, 7]
    back = to_pandas(open_zarr(to_zarr(ds, tmp_path / "p.zarr")))
    assert back[[c for c in back if c.startswith("seq")][0]].tolist() == proteins


@law(batches("ACDEFGHIKLMNPQRSTVWYXBZJUO*-"))
def test_one_hot_proteins_against_plain_python(seqs):
    x = ohe(seqs, "protein")
    for n, s in enumerate(seqs): assert x[n].tolist() == [[int(c == a) for c in s] for a in PROTEIN.letters]
    assert decode_ohe(x, "protein") == ["".join(c if c in PROTEIN.letters else "X" for c in s) for s in seqs]
    assert np.allclose(ohe(seqs, "protein", "uniform").sum(1), 1)


# ---------------------------------------------------------------- composition and k-mers

@law(ragged)
def test_content_against_plain_python_and_gc(seqs):
    content = nucleotide_content(seqs)
    for row, s in zip(content, seqs):
        known = [c for c in s.upper().replace("U", "T") if c in "ACGT"]
        expected = [known.count(b) / len(known) for b in "ACGT"] if known else [np.nan] * 4
        np.testing.assert_allclose(row, expected)
    np.testing.assert_allclose(content[:, 1] + content[:, 2], gc_content(seqs))


@law(ragged, st.integers(1, 4))
def test_merged_counts_know_no_strand(seqs, k):
    one, other = kmer_counts(seqs, k), kmer_counts(reverse_complement(seqs), k)
    assert (other == one[:, kmer_partners(k)]).all()
    merged = merge_strands(one, k)
    assert (merged == merge_strands(other, k)).all() and (merged.sum(1) == one.sum(1)).all()
    names = kmer_names(k, merged=True)
    assert merged.shape[1] == len(names) and names == [n for n in kmer_names(k) if n <= reverse_complement(n)]
    lookup = {n: i for i, n in enumerate(names)}
    slow = np.zeros_like(merged)
    for i, s in enumerate(seqs):
        s = s.upper().replace("U", "T")
        for w in (s[j:j + k] for j in range(len(s) - k + 1)):
            if set(w) <= set("ACGT"): slow[i, lookup[min(w, reverse_complement(w))]] += 1
    assert (slow == merged).all()


@law(batches("ACGTacgtuN" + "RY-", min_size=4), st.integers(1, 3))
def test_order_k_one_hot_against_plain_python(seqs, k):
    x, names = ohe_kmers(seqs, k), kmer_names(k)
    for row, s in zip(x, seqs):
        s = s.upper().replace("U", "T")
        assert row.T.tolist() == [[int(s[j:j + k] == n) for n in names] for j in range(len(s) - k + 1)]
    assert (x.sum(2, dtype=int) == kmer_counts(seqs, k)).all()
    spread = ohe_kmers(seqs, k, unknown="uniform")
    single = ohe(seqs, unknown="uniform")
    for c, name in enumerate(names): # the probability of a word is the product of those of its letters
        width = spread.shape[2]
        expected = np.prod([single[:, "ACGT".index(b), j:j + width] for j, b in enumerate(name)], axis=0)
        np.testing.assert_allclose(spread[:, c], expected, rtol=1e-5)
    for policy in POLICIES:
        there = ohe_kmers(reverse_complement(seqs), k, unknown=policy)
        np.testing.assert_allclose(there, ohe_kmers(seqs, k, unknown=policy)[:, kmer_partners(k), ::-1], rtol=1e-5)
        if k == 1: np.testing.assert_array_equal(ohe_kmers(seqs, 1, unknown=policy), ohe(seqs, unknown=policy))


# ---------------------------------------------------------------- tokens

@law(st.lists(st.text("ACGT", max_size=25), max_size=5), st.integers(1, 5), st.integers(1, 5))
def test_tokens_come_back(seqs, k, stride):
    stride = min(k, stride)
    seqs = [s[:k + (len(s) - k) // stride * stride] if len(s) >= k else "" for s in seqs]
    tokens = tokenize(seqs, k, stride)
    assert decode_tokens(tokens, k, stride) == seqs and tokens.dtype == np.int32
    for row, s in zip(tokens.tolist(), seqs):
        words = [s[j:j + k] for j in range(0, len(s) - k + 1, stride)] if s else []
        assert row == [kmer_names(k).index(w) + FIRST_TOKEN for w in words] + [PAD_TOKEN] * (tokens.shape[1] - len(words))


@law(ragged, st.integers(1, 3))
def test_unknown_windows_and_nothing_else_are_unknown(seqs, k):
    tokens = tokenize(seqs, k, partial="drop")
    for row, s in zip(tokens, seqs):
        good = [set(s[j:j + k].upper()) <= set("ACGTU") for j in range(len(s) - k + 1)]
        assert (row[:len(good)] != UNKNOWN_TOKEN).tolist() == good and (row[len(good):] == PAD_TOKEN).all()
    clean = [s for s in seqs if len(s) < k or set(s.upper()) <= set("ACGTU")]
    assert decode_tokens(tokenize(clean, k, partial="drop"), k) == [s.upper().replace("U", "T") if len(s) >= k else "" for s in clean]
    skipped = tokenize(seqs, k, partial="drop", unknown="skip")
    assert len(skipped) == len(clean)


def test_tokens_agree_with_a_vectorizer_and_torch_reads_them():
    text, torch = pytest.importorskip("sklearn.feature_extraction.text"), pytest.importorskip("torch")
    seqs = random_seqs(20, 60, seed=0)
    tokens = tokenize(seqs, 3)
    theirs = text.CountVectorizer(analyzer="char", ngram_range=(3, 3), lowercase=False, vocabulary=kmer_names(3)).transform(seqs).toarray()
    assert (np.stack([np.bincount(row, minlength=66)[2:] for row in tokens]) == theirs).all()
    embedded = torch.nn.Embedding(66, 5, padding_idx=PAD_TOKEN)(torch.tensor(tokens))
    assert embedded.shape == (20, 58, 5) and decode_tokens(torch.tensor(tokens), 3) == seqs


# ---------------------------------------------------------------- translation

def slow_translate(s):
    "Every reading of every codon, one after the other"
    out = ""
    for codon in (s[i:i + 3].upper().replace("U", "T") for i in range(0, len(s) - len(s) % 3, 3)):
        options = [IUPAC.get(c, c if c in "ACGT" else "") for c in codon]
        found = {GENETIC_CODE["".join(c)] for c in product(*options)}
        out += found.pop() if len(found) == 1 else "X"
    return out


@law(ragged, st.integers(0, 2))
def test_translation_against_plain_python(seqs, frame):
    proteins = translate(seqs, frame, partial="drop")
    assert proteins == [slow_translate(s[frame:]) for s in seqs]
    assert translate(seqs, frame, stop="cut", partial="drop") == [p.split("*")[0] for p in proteins]
    assert translate(seqs, frame, partial="drop", unknown="skip") == [p for p in proteins if "X" not in p]
    early = [i for i, p in enumerate(proteins) if "*" in p[:-1]]
    if early:
        with pytest.raises(ValueError, match=f"Row {early[0]}, codon {proteins[early[0]].index('*')}: a stop"): translate(seqs, frame, stop="error", partial="drop")
    else: assert translate(seqs, frame, stop="error", partial="drop") == [p.rstrip("*") for p in proteins]


@law(st.lists(st.text(PROTEIN.letters, max_size=12), max_size=5), st.randoms(use_true_random=False))
def test_back_translation_comes_back(proteins, random):
    codons = {a: [c for c, b in GENETIC_CODE.items() if b == a] for a in PROTEIN.letters}
    genes = ["".join(random.choice(codons[a]) for a in p) for p in proteins]
    assert translate(genes, unknown="error") == proteins
    assert translate([g.replace("T", "U").lower() for g in genes]) == proteins
    assert translate([g + "TGA" for g in genes], stop="error") == proteins


TPI1 = ("MARTFFVGGNFKLNGSKQSIKEIVERLNTASIPENVEVVICPPATYLDYSVSLVKKPQVTVGAQNAYLKASGAFTGENSVDQIKDVGAKWVILGHSERRSYFHEDDKFIADKTKFALGQGVGVILCIG"
        "ETLEEKKAGKTLDVVERQLNAVLEEVKDWTNVVVAYEPVWAIGTGLAATPEDAQDIHASIRKFLASKLGDKAASELRILYGGSANGSNAVTFKDKADVDGFLVGGASLKPEFVDIINSRN")


def test_a_protein_everyone_knows_is_on_yeast_chromosome_four(data_dir):
    "Triose-phosphate isomerase (UniProt P00942) is encoded by YDR050C, without introns, on the minus strand of chrIV"
    with gzip.open(data_dir / "jund" / "sacCer3_chrIV.fa.gz", "rt") as f: chrom = "".join(line.strip() for line in f if line[0] != ">")
    assert len(chrom) == 1_531_933
    frames = {(d, f): translate(s, f, partial="drop") for d, s in (("+", chrom), ("-", reverse_complement(chrom))) for f in (0, 1, 2)}
    hits = {key: p.index(TPI1) for key, p in frames.items() if TPI1 in p}
    assert len(hits) == 1
    (strand, frame), at = hits.popitem()
    assert strand == "-" and frames[strand, frame][at + len(TPI1)] == "*"
    shares = [p.count("*") / len(p) for p in frames.values()]
    assert min(shares) > .03 and max(shares) < .08 # 3 of 64 codons, more where A and T are common


def test_tokens_of_real_probes_come_back(data_dir):
    "RNAcompete probes have 30 to 41 letters"
    with gzip.open(data_dir / "ray13" / "RNCMPT00001_dlprb_sample.tsv.gz", "rt") as f: probes = [line.split("\t")[1] for line in f][1:20_001]
    assert len({len(p) for p in probes}) > 2 and set("".join(probes)) == set("ACGU")
    for k in (1, 6): assert decode_tokens(tokenize(probes, k, alphabet="RNA"), k, alphabet="RNA") == probes
    assert nucleotide_content(probes, "RNA").shape == (20_000, 4)


# ---------------------------------------------------------------- coverage

numbers = st.integers(0, 10**6).map(np.random.default_rng)


@law(numbers, st.integers(1, 6), st.integers(0, 30), st.sampled_from(["mean", "sum", "max", "min"]))
def test_bins_against_numpy(gen, width, length, stat):
    x = gen.normal(0, 10, (2, 3, length)).astype(np.float32)
    x[gen.random(x.shape) < .3] = np.nan
    slow = {"mean": np.nanmean, "max": np.nanmax, "min": np.nanmin, "sum": np.nansum}[stat]
    parts = [x[..., a:a + width].astype(float) for a in range(0, length, width)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [np.where(np.isnan(p).all(-1), np.nan, slow(p, axis=-1)) for p in parts]
    got = bin_coverage(x, width, stat, partial="keep")
    np.testing.assert_allclose(got, np.stack(expected, -1) if expected else got, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(bin_coverage(x, width, stat, partial="drop"), got[..., :length // width])
    np.testing.assert_array_equal(np.isnan(bin_coverage(x, width, stat, missing="keep", partial="keep")), np.stack([np.isnan(p).any(-1) for p in parts], -1) if parts else got)


@law(numbers, st.sampled_from([np.uint8, np.int8, np.uint16, np.int32, bool]), st.integers(1, 6))
def test_bins_of_integers_are_exact(gen, kind, width):
    x = gen.integers(0, 2, (3, 24)).astype(bool) if kind is bool else gen.integers(np.iinfo(kind).min, np.iinfo(kind).max, (3, 24), kind, endpoint=True)
    parts = [x[:, a:a + width].astype(object) + 0 for a in range(0, 24, width)]
    for stat in ("sum", "max", "min"):
        assert bin_coverage(x, width, stat, partial="keep").tolist() == np.stack([getattr(p, stat)(1) for p in parts], 1).tolist()
    np.testing.assert_allclose(bin_coverage(x, width, partial="keep"), np.stack([p.astype(float).mean(1) for p in parts], 1))


@law(numbers, st.integers(1, 4), st.integers(0, 3), st.integers(0, 9))
def test_jitter_takes_windows_and_keeps_arrays_together(gen, width, steps, spare):
    bases, rows, most = width * (2 * steps + 1 + spare), int(gen.integers(0, 6)), width * steps
    place = np.tile(np.arange(bases), (rows, 1))
    track = np.stack([place * 2, place * 3], 1)
    bins = bin_coverage(place, width, "min")
    p, t, b = jitter(place, track, bins, max_jitter=most, widths=(1, 1, width), seed=gen)
    assert p.shape == (rows, bases - 2 * most) and t.shape == (rows, 2, bases - 2 * most) and b.shape == (rows, p.shape[1] // width)
    assert (np.diff(p, axis=1) == 1).all() and (p[:, 0] % width == 0).all() and (p[:, 0] <= 2 * most).all()
    assert (t == np.stack([p * 2, p * 3], 1)).all() and (b == bin_coverage(p, width, "min")).all()
    assert (center_crop(place, most) == np.arange(most, bases - most)).all() and (center_crop(bins, most, width) == bin_coverage(center_crop(place, most), width, "min")).all()


def test_every_offset_is_drawn_for_every_row():
    place = np.tile(np.arange(21), (40, 1))
    drawn = np.stack([jitter(place, max_jitter=2, seed=s)[0][:, 0] for s in range(200)])
    assert set(drawn.ravel().tolist()) == {0, 1, 2, 3, 4}
    for row in drawn.T: assert set(row.tolist()) == {0, 1, 2, 3, 4} # in time each row sees all of them
    assert (drawn.std(1) > 0).all() # and never do all rows of a batch move alike


@law(numbers, st.booleans())
def test_turning_twice_is_nothing_and_agrees_with_a_loop(gen, stranded):
    x, strands = gen.normal(size=(6, 4, 9)), np.array(["+", "-", "."])[gen.integers(0, 3, 6)]
    once = flip_tracks(x, strands, stranded)
    for new, old, strand in zip(once, x, strands):
        order = (1, 0, 3, 2) if stranded else (0, 1, 2, 3)
        expected = [list(reversed(old[c])) for c in order] if strand == "-" else old.tolist()
        assert new.tolist() == expected
    assert (flip_tracks(once, strands, stranded) == x).all()


@law(numbers, st.floats(.5, 20), st.integers(0, 30))
def test_smoothing_against_a_loop(gen, sigma, half):
    x = gen.normal(size=(2, 40))
    x[gen.random(x.shape) < .2] = np.nan
    w = np.exp(-.5 * (np.arange(-half, half + 1) / sigma)**2)
    slow = np.full(x.shape, np.nan)
    for i in range(2):
        for j in range(40):
            near = [(x[i, p], w[p - j + half]) for p in range(max(0, j - half), min(40, j + half + 1)) if not np.isnan(x[i, p])]
            if near and sum(m for _, m in near) > 0: slow[i, j] = np.average([v for v, _ in near], weights=[m for _, m in near])
    np.testing.assert_allclose(smooth_coverage(x, sigma, 2 * half + 1), slow, rtol=1e-7, atol=1e-9)


@law(numbers)
def test_scaling_undoes_depth_and_clipping_is_undone(gen):
    x, depth = gen.poisson(4, (3, 2, 30)), gen.integers(10**3, 10**7, 2)
    np.testing.assert_allclose(normalize_coverage(x, depth), normalize_coverage(x * 7, depth * 7))
    np.testing.assert_allclose(normalize_coverage(x, depth)[:, 1], normalize_coverage(x[:, 1], int(depth[1])))
    np.testing.assert_allclose(normalize_coverage(x, depth, "cpkm", 100) / 10, normalize_coverage(x, depth))
    big = gen.gamma(.5, 100, 50)
    clipped = soft_clip(big, 20)
    np.testing.assert_allclose(soft_clip(clipped, 20, inverse=True), big)
    assert (clipped <= big).all() and (np.argsort(clipped) == np.argsort(big)).all()


def test_bins_of_a_real_bigwig_agree_with_pybigwig(data_dir):
    bw = pytest.importorskip("pyBigWig")
    for name, chrom in (("deeptools_test1.bw", "3R"), ("pybigwig_test.bw", "1")):
        with bw.open(str(data_dir / "formats" / name)) as file:
            length = min(file.chroms()[chrom], 200_000) // 50 * 50
            values = np.array(file.values(chrom, 0, length))
            for stat in ("mean", "max", "min"):
                theirs = np.array(file.stats(chrom, 0, length, type=stat, nBins=length // 50, exact=True), float)
                np.testing.assert_allclose(bin_coverage(values, 50, stat), theirs, rtol=1e-6, err_msg=f"{name} {stat}")


def test_smoothing_agrees_with_scipy_where_both_are_defined():
    ndimage = pytest.importorskip("scipy.ndimage")
    x = np.random.default_rng(0).poisson(1, (4, 500)).astype(float)
    for sigma, width in ((7, 81), (3, 21)):
        theirs = ndimage.gaussian_filter1d(x, sigma, axis=-1, truncate=(width // 2) / sigma)
        np.testing.assert_allclose(smooth_coverage(x, sigma, width)[:, width:-width], theirs[:, width:-width], rtol=1e-9)


def test_skipped_rows_are_logged(caplog):
    with caplog.at_level(logging.WARNING, "eugene"):
        assert len(tokenize(["ACGT", "ACNT"], unknown="skip")) == len(ohe_kmers(["ACGT", "ACNT"], 2, unknown="skip")) == 1
        assert translate(["ATG", "ANG"], unknown="skip") == ["M"]
    assert len(caplog.records) == 3 and all("1 of 2 sequences" in r.getMessage() for r in caplog.records)
    assert pad_seqs(["AC"], 3) == ["ACN"] and DNA.unknown_letter == "N" and to_bytes("A").dtype == np.uint8
