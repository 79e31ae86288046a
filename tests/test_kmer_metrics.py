"""K-mer scores: equal to their definitions as scikit-learn and NumPy state them, on made-up and on real probes"""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, pearsonr, spearmanr
from sklearn.metrics import roc_auc_score

from eugene.etl.datasets import ray13
from eugene.etl.encodings import kmer_names
from eugene.etl.sequences import from_bytes, random_seqs
from eugene.training.kmer_metrics import kmer_agreement, kmer_index, kmer_performance, kmer_scores


def area(p, q):
    "ROC area of strong `p` against `q`"
    return roc_auc_score(np.repeat([1, 0], [len(p), len(q)]), np.concatenate([p, q])) if len(p) and len(q) else np.nan


def by_definition(has, x):
    "Median, AUC and upper AUC of the one k-mer that the probes `has` hold, with a stable sort from strong to weak"
    known = ~np.isnan(x)
    has, x = has[known], x[known]
    p, q = x[has], x[~has]
    upper = [v[np.argsort(-v, kind="stable")[:len(v) // 2]] for v in (p, q)]
    return np.median(p) if len(p) else np.nan, area(p, q), area(*upper)


def holds(seqs, word):
    return np.array([word in s.upper().replace("T", "U") for s in seqs])


def same(scores, column, rows, expected):
    got = np.stack([scores.median[rows, column], scores.auc[rows, column], scores.e[rows, column] + .5])
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_allclose(got[1:], expected[1:], rtol=0, atol=1e-11)


# ---------------------------------------------------------------- small cases, all kinds

rows = st.lists(st.tuples(st.text("ACGUN", max_size=9), st.sampled_from([0., 1., 1.5, 2., -3., np.nan])), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(1, 3), st.integers(0, 3))
def test_small_cases_are_the_definition(rows, k, min_probes):
    seqs, x = [s for s, _ in rows], np.array([v for _, v in rows])
    words = kmer_names(k, "RNA")
    has = np.array([holds(seqs, w) for w in words])
    index = kmer_index(seqs, k)
    np.testing.assert_array_equal(index.counts, has.sum(1))
    if has.sum(1).max() <= min_probes:
        with pytest.raises(ValueError, match="Lower `min_probes`"): kmer_scores(index, x, min_probes)
        return
    scores = kmer_scores(index, x, min_probes)
    kept = has.sum(1) > min_probes
    same(scores, 0, kept, np.array([by_definition(h, x) for h in has[kept]]).T)
    assert np.isnan(scores.median[~kept]).all() and np.isnan(scores.z[~kept]).all() and np.isnan(scores.e[~kept]).all()
    med = scores.median[:, 0]
    found = med[~np.isnan(med)]
    if len(found) > 1 and np.ptp(found) > 0: np.testing.assert_allclose(scores.z[:, 0], (med - found.mean()) / found.std(ddof=1), rtol=1e-12, atol=1e-12)
    else: assert np.isnan(scores.z).all()


@settings(max_examples=50, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_the_order_of_the_probes_does_not_matter(rows, random):
    mixed = rows[:]
    random.shuffle(mixed)
    a, b = (kmer_scores(kmer_index([s for s, _ in r], 2), np.array([v for _, v in r]), min_probes=-1) for r in (rows, mixed))
    for name in ("median", "auc", "e"): np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_auc_is_the_u_of_mann_and_whitney():
    seqs, gen = random_seqs(400, 30, seed=0, alphabet="RNA"), np.random.default_rng(0)
    x = gen.integers(0, 20, 400).astype(float)
    scores = kmer_scores(kmer_index(seqs, 3), x)
    for i in range(0, 64, 7):
        has = holds(seqs, scores.names[i])
        assert scores.auc[i, 0] == pytest.approx(mannwhitneyu(x[has], x[~has]).statistic / (has.sum() * (~has).sum()), abs=1e-12)


def test_monotone_changes_keep_ranks_and_negation_mirrors():
    seqs, x = random_seqs(300, 30, seed=1, alphabet="RNA"), np.random.default_rng(1).normal(size=300)
    index = kmer_index(seqs, 3)
    a, grown, turned = (kmer_scores(index, v) for v in (x, np.exp(x), -x))
    np.testing.assert_array_equal(a.auc, grown.auc)
    np.testing.assert_array_equal(a.e, grown.e)
    np.testing.assert_allclose(a.auc, 1 - turned.auc, atol=1e-12)
    np.testing.assert_allclose(a.z, -turned.z, atol=1e-12)


def test_columns_are_independent_and_missing_values_are_as_absent_rows():
    seqs, gen = random_seqs(300, 30, seed=2, alphabet="RNA"), np.random.default_rng(2)
    x = gen.integers(0, 9, (300, 3)).astype(float)
    x[gen.random(x.shape) < .2] = np.nan
    together = kmer_scores(kmer_index(seqs, 3), x)
    for t in range(3):
        there = np.flatnonzero(~np.isnan(x[:, t]))
        alone = kmer_scores(kmer_index([seqs[i] for i in there], 3), x[there, t])
        for name in ("median", "z", "auc", "e"): np.testing.assert_array_equal(getattr(together, name)[:, t], getattr(alone, name)[:, 0])


def test_other_kinds_of_probes():
    lower = kmer_index(["acgtacg", "NNacgNN", "AC"], 3)
    np.testing.assert_array_equal(lower.counts, kmer_index(["ACGUACG", "ACG", ""], 3).counts)
    assert kmer_index(["MKMKM"], 2, "protein").counts.sum() == 2
    padded = np.frombuffer(b"NNACGNACGNN", np.uint8).reshape(1, 11)
    assert kmer_index(padded, 3).counts.sum() == 1
    with pytest.raises(ValueError, match="at most 16,777,216"): kmer_index(["ACG"], 13)
    with pytest.raises(TypeError): kmer_index([1, 2], 3)


# ---------------------------------------------------------------- performance

@pytest.fixture(scope="module")
def simulated():
    "3,000 simulated probes, two proteins, 3 % not measured"
    seqs, gen = random_seqs(3000, 35, seed=4, alphabet="RNA"), np.random.default_rng(4)
    truth = np.stack([[s.count(w) for s in seqs] for w in ("UAGG", "ACAC")], 1).astype(float)
    y = truth + .3 * gen.normal(size=truth.shape)
    y[gen.random(y.shape) < .03] = np.nan
    return seqs, y, truth + .6 * gen.normal(size=truth.shape)


def test_performance_is_the_correlation_of_the_vectors(simulated):
    seqs, y, p = simulated
    table = kmer_performance(seqs, y, p, ["UAGG", "ACAC"], k=3, min_probes=1200)
    words = kmer_names(3, "RNA")
    has = np.array([holds(seqs, w) for w in words])
    kept = has[has.sum(1) > 1200]
    assert 20 < len(kept) < 64
    assert table["kmers"].tolist() == [len(kept)] * 2 and table["n"].tolist() == (~np.isnan(y)).sum(0).tolist()
    for t in range(2):
        there = ~np.isnan(y[:, t])
        a, b = (np.array([by_definition(h[there], v[there, t]) for h in kept]).T for v in (y, p))
        for i, score in enumerate(("z", "auc", "e")):  # a Z-score is a median, moved and scaled
            assert table[f"{score}_pearson"][t] == pytest.approx(pearsonr(a[i], b[i])[0], abs=1e-10)
            assert table[f"{score}_spearman"][t] == pytest.approx(spearmanr(a[i].round(12), b[i].round(12))[0], abs=1e-6)
        assert table["intensity_pearson"][t] == pytest.approx(pearsonr(y[there, t], p[there, t])[0], abs=1e-12)
        assert table["intensity_spearman"][t] == pytest.approx(spearmanr(y[there, t], p[there, t])[0], abs=1e-12)


def test_what_cannot_be_computed_is_nan_and_spoils_nothing_else(simulated):
    seqs, y, p = simulated
    whole = kmer_performance(seqs, y, p, k=4)
    for spoil in (np.nan, 1.):
        bad = p.copy()
        bad[:, 0] = spoil
        table = kmer_performance(seqs, y, bad, k=4)
        assert table.iloc[0, 3:].isna().all()
        pd.testing.assert_series_equal(table.iloc[1], whole.iloc[1])
    empty = y.copy()
    empty[:, 1] = np.nan
    table = kmer_performance(seqs, empty, p, k=4)
    assert table["n"].tolist()[1] == 0 and table.iloc[1, 3:].isna().all() and table.iloc[0, 3:].notna().all()


@pytest.mark.parametrize("change, error, message", [
    (dict(predicted=np.zeros((3000, 1))), ValueError, "both must be"), (dict(observed=np.zeros((10, 2)), predicted=np.zeros((10, 2))), ValueError, "for 3000 sequences"),
    (dict(names=["a"]), ValueError, "1 names came for 2"), (dict(k=7), ValueError, "most frequent is in"), (dict(k=0), ValueError, "at least one letter"),
    (dict(alphabet="RNB"), ValueError, "Unknown alphabet"), (dict(predicted=np.full((3000, 2), np.inf)), ValueError, "infinite")])
def test_bad_input_is_refused(simulated, change, error, message):
    seqs, y, p = simulated
    given = dict(seqs=seqs, observed=y, predicted=p, k=4) | change
    with pytest.raises(error, match=message): kmer_performance(**given)


# ---------------------------------------------------------------- real probes

@pytest.fixture(scope="module")
def ray(data_dir):
    "Probes of the sample as text and as padded bytes, which are of SetA, the intensities of 19 proteins, and what is known about each"
    ds = ray13("sample", path=data_dir)
    guide = pd.read_csv(data_dir / "ray13" / "rbp_guide.tsv", sep="\t").set_index("column")
    assert ds["target"].values.tolist() == list(guide.index)
    seqs = ds["seq"].values
    text = np.array([s.strip("N") for s in from_bytes(seqs)], object)
    return text, seqs, ds["Probe_Set"].values == "SetA", ds["targets"].values, guide


@pytest.fixture(scope="module")
def halves(ray):
    _, seqs, in_a, x, _ = ray
    return [kmer_scores(kmer_index(seqs[rows]), x[rows]) for rows in (in_a, ~in_a)]


def test_real_scores_are_the_definition(ray, halves):
    "Five 7-mers of SetB, the best bound among them; the values have three digits, so ties abound"
    text, _, in_a, x, guide = ray
    seqs, scores, column = text[~in_a], halves[1], list(guide.index).index("RBP04")
    x = x[~in_a, column].astype(float)
    assert len(np.unique(x)) < len(x) / 10
    words = [scores.names[i] for i in np.argsort(-scores.z[:, column])[:2]] + ["GAUAGGG", "AAAAAAA", "GCGCGCG"]
    rows = [scores.names.index(w) for w in words]
    same(scores, column, rows, np.array([by_definition(holds(seqs, w), x) for w in words]).T)


def medians(seqs, x):
    "Median of the probes with each 7-mer by sorting and grouping in pandas"
    digits = np.full(256, -999_999)
    digits[list(b"ACGU")] = range(4)
    codes = digits[np.frombuffer("".join(s.ljust(41, "N") for s in seqs).encode(), np.uint8).reshape(-1, 41)]
    words = np.lib.stride_tricks.sliding_window_view(codes, 7, axis=1) @ 4**np.arange(6, -1, -1)
    row, start = np.nonzero(words >= 0)
    pairs = np.unique(row * 4**7 + words[row, start])
    return pd.Series(x[pairs // 4**7]).groupby(pairs % 4**7).median().reindex(range(4**7)).values


def test_real_medians_are_those_of_another_program(ray, halves):
    "All 16,384 7-mers of SetB for the worst experiment"
    text, _, in_a, x, guide = ray
    column = list(guide.index).index("RBP35")
    np.testing.assert_array_equal(halves[1].median[:, column], medians(text[~in_a], x[~in_a, column].astype(float)))


def mean_z(index, x):
    "Z-score of each 7-mer by the mean of its probes, where the paper takes the median"
    held = np.repeat(np.arange(len(x)), np.diff(index.starts))
    mean = np.bincount(index.kmers, x[held], len(index.counts)) / index.counts
    return (mean - np.nanmean(mean)) / np.nanstd(mean, ddof=1)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_real_halves_agree_as_known_by_the_mean(ray):
    "`rbp_guide.tsv` was made with the mean of the probes: .82 to .97 for 18 proteins, .13 for RBP35, a poor experiment"
    _, seqs, in_a, x, guide = ray
    indices = [kmer_index(seqs[rows]) for rows in (in_a, ~in_a)]
    there = np.logical_and(*(i.counts > 0 for i in indices))
    for column, known in enumerate(guide["setA_setB_7mer_z_pearson"]):
        a, b = (mean_z(i, x[rows, column])[there] for i, rows in zip(indices, (in_a, ~in_a)))
        assert abs(np.corrcoef(a, b)[0, 1] - known) < .012


def test_real_halves_agree_by_the_median(ray, halves):
    "The median is less led by single probes: it finds the same proteins good, and RBP35 less poor"
    guide = ray[-1]
    table = kmer_agreement(*halves, names=list(guide.index)).set_index("target")
    away = (table["z_pearson"] - guide["setA_setB_7mer_z_pearson"]).drop("RBP35").abs()
    assert away.max() < .055 and table["z_pearson"].drop("RBP35").between(.85, .97).all()
    assert table.loc["RBP35", "z_pearson"] < .6 and table["e_pearson"].idxmin() == table["auc_pearson"].idxmin() == "RBP35"
    assert (table["kmers"] > 16_300).all()


def test_real_best_words_are_as_known(ray, halves):
    guide, scores = ray[-1], halves[1]
    for protein in ("RBP04", "RBP11"):
        column = list(guide.index).index(protein)
        best = {scores.names[i] for i in np.argsort(-scores.z[:, column])[:60]}
        assert len(best & set(guide.loc[protein, "top_7mers_not_at_5prime"].split(","))) >= 4
