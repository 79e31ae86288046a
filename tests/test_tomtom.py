"TomTom and the motif scan: independent tools, enumeration, and laws on real collections"
import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

from eugene.etl.motifs import Motif, motif_from_consensus, ppm_to_pwm, read_meme
from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.interpretation.motif_scan import scan_motifs
from eugene.interpretation.tomtom import motif_pvalues, tomtom

JASPAR, RAY = "JASPAR2022_CORE_vertebrates_non-redundant_v2.meme.gz", "Ray2013_rbp_Homo_sapiens.meme"


def collection(data_dir, name):
    path = data_dir/"motifs"/name
    if not path.exists(): pytest.skip(f"no motifs/{name} in the data folder")
    return read_meme(path)


# ---------------------------------------------------------------- a small case, from the definition

def by_definition(query, targets, n_bins=30):
    "p-values of a query without tables, convolutions or a compiler: every draw of columns is enumerated"
    columns = np.concatenate(targets, axis=1)
    score = -np.sqrt(((query[:, :, None] - columns[:, None]) ** 2).sum(0))  # (W, all columns)
    medians = []
    for row in score:  # the mean of the thousandth of the range that holds the middle score
        step = ((row - row.min()) / (np.ptp(row) or 1) * 999).astype(int)
        middle = next(k for k in range(1000) if (step <= k).sum() >= len(row) / 2)
        medians.append(row[step == middle].mean())
    shifted = score - np.array(medians)[:, None]
    floor = np.floor(shifted.min())
    scale = np.floor(n_bins / max(shifted.max() - floor, 1))
    whole, rest = np.floor((shifted - floor) * scale + .5).astype(int), int(-floor * scale)
    width, out, first = query.shape[1], [], 0
    for target in targets:
        length = target.shape[1]
        spans = [[i for i in range(width) if 0 <= i - shift < length] for shift in range(1 - length, width)]
        shifts = range(1 - length, width)
        best = max(sum(whole[i, first + i - shift] for i in span) + rest * (width - len(span)) for shift, span in zip(shifts, spans))
        miss = 1.
        for span in spans:
            totals = np.zeros(1)
            for i in span: totals = np.add.outer(totals, whole[i]).ravel()
            miss *= 1 - (totals + rest * (width - len(span)) >= best).mean()
        out.append(1 - miss)
        first += length
    return np.array(out)


@pytest.mark.parametrize("seed", range(4))
def test_p_values_are_those_of_the_definition(seed):
    gen = np.random.default_rng(seed)
    targets = [gen.dirichlet(np.ones(4), int(w)).T for w in (2, 3, 4, 5)]
    for width in (1, 2, 4):
        query = gen.dirichlet(np.ones(4), width).T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = motif_pvalues([query], targets, strands="+", n_bins=30)
        np.testing.assert_allclose(found.p[0], by_definition(query, targets), rtol=1e-9)


def test_both_strands_are_one_search_with_two_chances():
    gen = np.random.default_rng(1)
    targets = [gen.dirichlet(np.ones(4), 7).T for _ in range(30)]
    query = gen.dirichlet(np.ones(4), 6).T
    both = motif_pvalues([query], targets)
    turned = [t[::-1, ::-1] for t in targets]
    one = motif_pvalues([query], [*targets, *turned], strands="+").p[0]
    best = np.minimum(one[:30], one[30:])
    np.testing.assert_allclose(both.p[0], 1 - (1 - best) ** 2, rtol=1e-6, atol=1e-15)
    np.testing.assert_array_equal(both.strand[0] == "-", one[30:] < one[:30])


# ---------------------------------------------------------------- real collections

def test_motifs_of_a_collection_find_themselves(data_dir):
    known = collection(data_dir, JASPAR)
    some = known[::40]
    table = tomtom(some, known, top=1)
    assert (table["query"] == table["motif"]).all() and (table["offset"] == 0).all() and (table["overlap"] == [m.ppm.shape[1] for m in some]).all()
    assert (table["q"] < .01).all()
    turned = tomtom([Motif(m.name, m.ppm[::-1, ::-1]) for m in some], known, top=1)
    assert (turned["query"] == turned["motif"]).all()
    np.testing.assert_allclose(turned["p"], table["p"], rtol=1e-6)


def test_shuffled_columns_are_another_motif(data_dir):
    known, gen = collection(data_dir, JASPAR), np.random.default_rng(0)
    some = [m for m in known if m.ppm.shape[1] >= 10][::30]
    shuffled = [Motif(m.name, m.ppm[:, gen.permutation(m.ppm.shape[1])]) for m in some]
    whole, table = motif_pvalues(some, known), motif_pvalues(shuffled, known)
    own = [known.index(m) for m in some]
    rows = np.arange(len(some))
    assert (whole.p[rows, own] < 1e-6).all()
    assert np.median(table.p[rows, own]) > .01 and (table.p[rows, own] < 1e-4).mean() < .1


def test_jund_is_named_in_two_collections(data_dir):
    jund = collection(data_dir, "JUND_GCN4_JASPAR.meme")
    for name in (JASPAR, "HOCOMOCOv11_full_HUMAN.from_transfac.meme.gz"):
        best = tomtom(jund[:1], collection(data_dir, name), top=5)
        assert best[["motif", "alt"]].agg(" ".join, axis=1).str.upper().str.contains("JUN|FOS|BATF|ATF|BACH|NFE2|NF2L").all() and (best["q"] < 1e-3).all()


def test_rna_motifs_have_one_strand(data_dir):
    known = collection(data_dir, RAY)
    table = tomtom(known[:10], known)
    assert (table["strand"] == "+").all()
    first = table.groupby("query", sort=False).head(1)
    assert (first["p"] <= table.loc[table["query"] == table["motif"], "p"].values).all()


def test_a_small_collection_warns_and_a_background_helps(data_dir):
    elements, known = collection(data_dir, "CPEs.meme"), collection(data_dir, "TF-clusters.meme")
    with pytest.warns(UserWarning, match="6 motifs are few"): tomtom(elements[:1], elements)
    table = tomtom(elements, elements, background=known, top=1)
    assert (table["motif"] == table["query"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name,both", [(JASPAR, True), ("HOCOMOCOv11_full_HUMAN.from_transfac.meme.gz", True), (RAY, False)])
def test_against_memelite(data_dir, name, both):
    memelite = pytest.importorskip("memelite")
    known, gen = collection(data_dir, name), np.random.default_rng(0)
    queries = [np.ascontiguousarray(m.ppm) for m in known[::20]]
    queries += [(c := gen.multinomial(100, gen.dirichlet(np.ones(4) * .3, int(w))).T) / c.sum(0) for w in gen.integers(5, 20, 40)]
    p, _, offset, overlap, strand = memelite.tomtom(queries, [m.ppm for m in known], n_target_bins=None, reverse_complement=both, n_jobs=1)
    ours = motif_pvalues(queries, known, num_workers=2)
    np.testing.assert_allclose(ours.p, p, atol=1e-6)
    np.testing.assert_allclose(np.log10(ours.p), np.log10(p), atol=1e-6)  # the small ones too
    assert (ours.offset == -offset).mean() > .95 and (ours.overlap == overlap).mean() > .95  # the rest are ties
    assert ((ours.strand == "-") == (strand == 1)).mean() > .9


# ---------------------------------------------------------------- the scan

def words_of(motif, step, pseudocount=.01):
    "Every word of a motif's width with its score in whole steps"
    whole = np.round(ppm_to_pwm(motif, pseudocount=pseudocount) / step).astype(int)
    words = np.array(list(itertools.product(range(4), repeat=motif.ppm.shape[1])))
    return words, whole[words, np.arange(words.shape[1])].sum(1)


@pytest.mark.parametrize("p_max", [.02, .07, .3])
def test_scan_is_enumeration_of_words(p_max):
    gen = np.random.default_rng(3)
    motif = Motif("m", gen.dirichlet(np.ones(4) * .5, 6).T)
    words, scores = words_of(motif, .01)
    p = {"".join("ACGT"[i] for i in w): (scores >= s).mean() for w, s in zip(words, scores)}
    seqs = random_seqs(50, 80, seed=4)
    hits = scan_motifs(seqs, [motif], p_max=p_max, strands="+")
    expected = [(i, j, s[j:j + 6]) for i, s in enumerate(seqs) for j in range(75) if p[s[j:j + 6]] <= p_max]
    assert list(hits[["sequence", "start", "site"]].itertuples(index=False, name=None)) == expected and len(expected) > 20
    np.testing.assert_allclose(hits["p"], [p[w] for *_, w in expected], rtol=1e-9)
    every = np.sort([p[s[j:j + 6]] for s in seqs for j in range(75)])
    ratio = every * len(every) / np.arange(1, len(every) + 1)
    least = lambda r: np.minimum(np.minimum.accumulate(r[::-1])[::-1], 1)
    np.testing.assert_allclose(np.sort(hits["q"]), least(ratio[:len(hits)]), rtol=1e-9)
    assert (np.sort(hits["q"]) >= least(ratio)[:len(hits)] - 1e-12).all()  # windows that are no hits could only lower them


def test_scan_of_the_reverse_complement_is_mirrored():
    gen = np.random.default_rng(5)
    motifs = [Motif(f"m{i}", gen.dirichlet(np.ones(4) * .3, int(w)).T) for i, w in enumerate((5, 8, 12))]
    seqs = random_seqs(40, 90, seed=6)
    hits = scan_motifs(seqs, motifs, p_max=.005, background=[.3, .2, .2, .3])
    back = scan_motifs(ohe(reverse_complement(seqs)), motifs, p_max=.005, background=[.3, .2, .2, .3])
    back = back.assign(start=90 - back["end"], end=90 - back["start"], strand=back["strand"].map({"+": "-", "-": "+"}))
    pd.testing.assert_frame_equal(hits, back.sort_values(["motif", "sequence", "start", "strand"], ignore_index=True))


@pytest.mark.parametrize("step", [.1, .01, .003])
def test_p_values_come_true_on_random_sequence(step):
    motif = Motif("m", np.random.default_rng(7).dirichlet(np.ones(4) * .5, 9).T)
    windows = 2 * 300 * (200 - 8)
    hits = scan_motifs(random_seqs(300, 200, seed=8), [motif], p_max=.02, step=step)
    for level in (.02, .005, .001):
        some = hits["p"][hits["p"] <= level]
        expected = windows * some.max()
        assert abs(len(some) - expected) < 4 * (2 * expected) ** .5


def test_scan_of_blocks_is_scan_of_all(monkeypatch):
    from eugene.interpretation import motif_scan
    seqs, motif = random_seqs(97, 60, seed=9), motif_from_consensus("TGASTCA")
    whole, blocks = scan_motifs(seqs, [motif], p_max=.01), motif_scan._blocks
    monkeypatch.setattr(motif_scan, "_blocks", lambda data, alphabet, rows: blocks(data, alphabet, 10))
    pd.testing.assert_frame_equal(scan_motifs(seqs, [motif], p_max=.01), whole)


def test_scan_finds_ap1_in_real_peaks(data_dir):
    "Peaks of JunD hold far more AP-1 sites than the same sequences shuffled"
    from eugene.etl.shuffling import k_shuffle
    files = sorted(path for path in (data_dir/"jund").rglob("*.fa*") if path.stat().st_size)
    if not files: pytest.skip("no FASTA files of JunD peaks in the data folder")
    import gzip
    text = (gzip.open(files[0], "rt") if files[0].suffix == ".gz" else open(files[0])).read()
    seqs = ["".join(block.split("\n")[1:]).upper() for block in text.split(">")[1:401]]
    motif = collection(data_dir, "JUND_GCN4_JASPAR.meme")[0]
    real, null = scan_motifs(seqs, [motif]), scan_motifs(k_shuffle(seqs, 2, seed=0), [motif])
    assert real["sequence"].nunique() > 2.5 * null["sequence"].nunique()


@pytest.mark.slow
def test_scan_against_memelite():
    fimo = pytest.importorskip("memelite").fimo
    gen = np.random.default_rng(10)
    motifs = [Motif(f"m{i}", gen.dirichlet(np.ones(4) * .3, int(w)).T) for i, w in enumerate((6, 9, 13))]
    x = ohe(random_seqs(200, 300, seed=11))
    # their pseudocount is added to the probability before the logarithm; ours is mixed in: give them what comes out the same
    theirs = fimo({m.name: (m.ppm + .0025) / 1.01 - 1e-4 for m in motifs}, x.astype(np.int8), bin_size=.01, threshold=1e-3)
    ours = scan_motifs(x, motifs, p_max=1e-3)
    for m, table in zip(motifs, theirs[:len(motifs)]):
        some = ours[ours["motif"] == m.name]
        both = some.merge(table.rename(columns={"sequence_name": "sequence", "score": "score_t", "p-value": "p_t"}), on=["sequence", "start", "strand"], how="outer", indicator=True)
        assert (both["_merge"] == "both").mean() > .97  # scores are rounded at different places: hits at the threshold may differ
        both = both[both["_merge"] == "both"]
        np.testing.assert_allclose(both["score"], both["score_t"], atol=.01 * m.ppm.shape[1])
        assert (np.abs(np.log10(both["p"] / both["p_t"])) < .05).mean() > .97
