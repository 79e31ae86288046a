"""Evaluation from the outside: numbers of others, intervals that hold what they promise, on simulated and on published data"""
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from eugene.core import rng
from eugene.etl.seqdata import make_dataset
from eugene.etl.sequences import decode_ohe, random_seqs
from eugene.training.evaluation import _draws, _intervals, evaluate, score_table
from eugene.training.metrics import METRICS, confusion, pearson, task_metrics
from eugene.training.performance_plots import plot_confusion, plot_groups, plot_pr, plot_residuals, plot_roc
from eugene.training.sequence_module import SequenceModule
from eugene.training.uncertainty import calibration_table, conformal_width, coverage_table, ece, plot_calibration

plt = pytest.importorskip("matplotlib.pyplot")


class Lookup(nn.Module):
    "Answers what it was told for each sequence"

    def __init__(self, table, task="regression"):
        super().__init__()
        self.table, self.task, self.unused = table, task, nn.Parameter(torch.zeros(1))

    def forward(self, x): return torch.tensor(np.array([self.table[s] for s in decode_ohe(x.numpy())]), dtype=torch.float32)


@pytest.fixture(scope="module")
def noisy():
    "Simulated measurements of two targets, some missing, and predictions that are right but for noise"
    gen = rng(0)
    y = gen.normal(size=(300, 2))
    p = y + gen.normal(size=(300, 2)) * [.5, 1]
    y[:60, 1] = np.nan
    return y, p


def dataset(y, p, **columns):
    "Random sequences with measurements, and a model that knows the predictions"
    seqs = random_seqs(len(y), 30, seed=1)
    ds = make_dataset(seqs, y, columns={"split": ["test"] * len(y), **columns}, missing="keep")
    return ds, Lookup(dict(zip(seqs, p)))


# ---------------------------------------------------------------- the table

def test_rows_are_the_metrics_of_the_task_and_overall_is_what_it_says(noisy):
    y, p = noisy
    ds, model = dataset(y, p)
    p = p.astype(np.float32).astype(float); y = ds["targets"].values.astype(float)
    for overall in ("macro", "micro"):
        table = evaluate(model, ds, overall=overall)
        for name, metric in task_metrics("regression").items():
            each = metric(y, p)
            known = ~np.isnan(y)
            whole = each.mean() if overall == "macro" else metric(y[known], p[known])[0]
            assert np.allclose(table[name], [*each, whole], rtol=1e-6), name
    assert table["target"].tolist() == ["target1", "target2", "overall"] and table["n"].tolist() == [300, 240, 540]


def test_perfect_predictions(noisy):
    y = noisy[0]
    ds, model = dataset(y, np.nan_to_num(y))
    table = evaluate(model, ds, ci=.95, n_boot=50)
    for name in ("r2", "pearson", "spearman"): assert np.allclose(table[[name, f"{name}_low", f"{name}_high"]], 1)
    assert np.allclose(table["mse_high"], 0)


@pytest.mark.parametrize("task", ["regression", "binary", "multilabel", "multiclass", "poisson"])
def test_every_task_of_a_module_is_evaluated_by_its_own_metrics(task):
    gen, seqs, columns = rng(2), random_seqs(200, 30, seed=3), {"multiclass": 3, "multilabel": 4}.get(task, 1)
    y = {"regression": gen.normal(size=(200, 1)), "binary": gen.integers(0, 2, (200, 1)), "multilabel": gen.integers(0, 2, (200, 4)),
         "multiclass": gen.integers(0, 3, (200, 1)), "poisson": gen.poisson(3, (200, 1))}[task]
    module = SequenceModule(Lookup(dict(zip(seqs, gen.normal(size=(200, columns))))), task=task)
    ds = make_dataset(seqs, y.astype(float), columns={"split": ["test"] * 200, "chrom": np.repeat(["chr1", "chr2"], 100)})
    table = evaluate(module, ds, ci=.9, n_boot=40)
    assert [c for c in table if not c.endswith(("_low", "_high", "target")) and c != "n"] == list(task_metrics(task))
    pred = np.asarray(module.activate(module(torch.tensor(np.eye(4)[[["ACGT".index(c) for c in s] for s in seqs]].transpose(0, 2, 1)))).detach())
    for name in task_metrics(task):
        assert np.allclose(table[name], METRICS[name](y.astype(float), pred.astype(float)), rtol=1e-5, atol=1e-6), name
        assert (table[f"{name}_low"] <= table[f"{name}_high"]).all()
    assert evaluate(module, ds, by="chrom")["n"].tolist() == [100] * 2 * len(table)


def test_the_order_of_rows_changes_nothing(noisy):
    y, p = noisy
    ds, model = dataset(y, p, species=np.repeat(["At", "Zm", "Sb"], 100))
    args = dict(by="species", ci=.95, n_boot=100, overall="macro")
    a, b = evaluate(model, ds, **args), evaluate(model, ds.isel(sequence=rng(4).permutation(300)), **args)
    assert a.columns.equals(b.columns) and np.allclose(a.iloc[:, 2:].to_numpy(float), b.iloc[:, 2:].to_numpy(float), equal_nan=True)


def test_an_ensemble_is_evaluated_by_its_mean_and_one_alone_as_itself(noisy):
    y, p = noisy
    ds, model = dataset(y, p)
    other = Lookup({s: v + 1 for s, v in model.table.items()})
    middle = Lookup({s: v + .5 for s, v in model.table.items()})
    assert evaluate([model], ds).equals(evaluate(model, ds))
    pd.testing.assert_frame_equal(evaluate([model, other], ds), evaluate(middle, ds), rtol=1e-4)


# ---------------------------------------------------------------- intervals

def test_the_interval_is_the_quantiles_of_the_draws(noisy):
    y, p = noisy[0][:, :1], noisy[1][:, :1]
    order = np.lexsort((y[:, 0], p[:, 0]))
    by_scipy = [stats.pearsonr(y[order][i, 0], p[order][i, 0])[0] for i in _draws(300, 200, 7, None)]
    low, high = _intervals(y, p, {"pearson": pearson}, None, .9, 200, 7, None)
    assert np.allclose([low[0, 0], high[0, 0]], np.quantile(by_scipy, [.05, .95]), atol=1e-10)


@pytest.mark.parametrize("name", ["pearson", "spearman", "mse", "auroc"])
def test_intervals_agree_with_scipy(noisy, name):
    "The percentile bootstrap of scipy with other draws: equal up to the error of 1,500 draws"
    y, p = noisy[0][:100, 0], noisy[1][:100, 0]
    if name == "auroc": y = (y > 0).astype(float)
    theirs = stats.bootstrap((y, p), lambda a, b: METRICS[name](a, b)[0], paired=True, vectorized=False, n_resamples=1500, method="percentile", random_state=1)
    low, high = _intervals(y[:, None], p[:, None], {name: METRICS[name]}, None, .95, 1500, 0, None)
    tolerance = .25 * theirs.standard_error
    assert abs(low[0, 0] - theirs.confidence_interval.low) < tolerance and abs(high[0, 0] - theirs.confidence_interval.high) < tolerance


def test_intervals_contain_the_number_and_shrink_with_the_root_of_n():
    gen, width = rng(5), {}
    for n in (200, 3200):
        y = gen.normal(size=(n, 1)); table = score_table(y, y + gen.normal(size=(n, 1)), ci=.95, n_boot=400)
        for m in task_metrics("regression"): assert table[f"{m}_low"][0] < table[m][0] < table[f"{m}_high"][0]
        width[n] = np.array([table[f"{m}_high"][0] - table[f"{m}_low"][0] for m in task_metrics("regression")])
    assert np.allclose(width[200] / width[3200], 4, rtol=.4)


def test_intervals_hold_the_true_correlation_as_often_as_they_promise():
    "200 simulated assays of 80 promoters: the true correlation is inside 90% of the 90% intervals, within 4 standard errors"
    gen, inside = rng(6), 0
    for seed in range(200):
        y = gen.normal(size=(80, 1)); p = y + gen.normal(size=(80, 1))
        low, high = _intervals(y, p, {"pearson": pearson}, None, .9, 100, seed, None)
        inside += low[0, 0] < np.sqrt(.5) < high[0, 0]
    assert abs(inside / 200 - .9) < 4 * np.sqrt(.09 / 200)


def test_clusters_hold_the_truth_where_rows_do_not():
    "Families of 20 variants that share their error: row by row the interval misses the true mean squared error far too often"
    gen, inside = rng(7), np.zeros(2)
    family = np.repeat(np.arange(30), 20)
    for seed in range(60):
        y = np.zeros((600, 1)); p = gen.normal(size=(30, 1))[family] + .1 * gen.normal(size=(600, 1))
        for k, cluster in enumerate((family, None)):
            low, high = _intervals(y, p, {"mse": METRICS["mse"]}, None, .9, 100, seed, cluster)
            inside[k] += low[0, 0] < 1.01 < high[0, 0]
    assert inside[0] > 45 > 36 > inside[1], inside


def test_a_cluster_for_each_row_is_no_cluster(noisy):
    y, p = noisy
    a, b = (score_table(y, p, ci=.95, n_boot=400, cluster=c) for c in (None, np.arange(300)))
    assert np.allclose(a["pearson_low"], b["pearson_low"], atol=.03) and np.allclose(a["pearson_high"], b["pearson_high"], atol=.03)


# ---------------------------------------------------------------- published data

@pytest.mark.parametrize("assay, rows, r_squared", [("leaf", 5080, .721), ("proto", 5463, .679)])
def test_the_published_predictions_of_jores_2021(data_dir, assay, rows, r_squared):
    "The authors' CNN on 3/4 of their test set: squared Pearson as checked on these files, by species with intervals"
    table = pd.read_csv(data_dir / f"jores21/jores21_{assay}_dev.tsv.gz", sep="\t").dropna(subset=["cnn_prediction"])
    assert len(table) == rows
    model = Lookup({s: [v] for s, v in zip(table["sequence"], table["cnn_prediction"])})
    ds = make_dataset(table["sequence"].tolist(), table["enrichment"].to_numpy(), columns={"species": table["sp"].to_numpy(object)})
    whole = evaluate(model, ds, split=None, ci=.95, n_boot=200).iloc[0]
    assert round(whole["pearson"]**2, 3) == r_squared and whole["pearson_low"]**2 < r_squared < whole["pearson_high"]**2
    by = evaluate(model, ds, split=None, by="species", ci=.95, n_boot=200).set_index("species")
    assert sorted(by.index) == ["At", "Sb", "Zm"] and by["n"].sum() == rows
    for species, part in table.groupby("sp"):
        r, ours = stats.pearsonr(part["enrichment"], part["cnn_prediction"]), by.loc[species]
        fisher = r.confidence_interval(.95)  # another kind of interval: its ends are near
        assert np.isclose(ours["pearson"], r.statistic, atol=1e-5)
        assert abs(ours["pearson_low"] - fisher.low) < .015 and abs(ours["pearson_high"] - fisher.high) < .015


def test_conformal_intervals_on_published_predictions(data_dir):
    "Leaf: half widths from 500 random rows cover at least 1 - alpha of the others, on average over 50 divisions"
    table = pd.read_csv(data_dir / "jores21/jores21_leaf_dev.tsv.gz", sep="\t").dropna(subset=["cnn_prediction"])
    y, p = table[["enrichment"]].to_numpy(), table[["cnn_prediction"]].to_numpy()
    for alpha in (.05, .1, .3):
        shares = []
        for seed in range(50):
            rows = rng(seed).permutation(len(y))
            half = conformal_width(y[rows[:500]], p[rows[:500]], alpha)
            shares.append((np.abs(y - p)[rows[500:]] <= half).mean())
        error = np.sqrt(alpha * (1 - alpha) / 500 / 50)
        assert 1 - alpha - 4 * error < np.mean(shares) < 1 - alpha + 1 / 501 + 4 * error


# ---------------------------------------------------------------- uncertainty

def test_conformal_law_with_a_scale():
    "Noise that differs from row to row: scaled intervals cover as promised, and are narrower on average"
    gen, shares, width = rng(8), [], []
    for _ in range(200):
        sd = gen.uniform(.1, 2, (400, 1)); e = gen.normal(size=(400, 1)) * sd; zero = np.zeros((400, 1))
        scaled, plain = conformal_width(e[:200], zero[:200], .1, sd[:200]), conformal_width(e[:200], zero[:200], .1)
        shares.append((np.abs(e[200:]) <= scaled * sd[200:]).mean()); width.append((scaled * sd[200:]).mean() / plain[0])
    assert .9 - 4 * np.sqrt(.09 / 200 / 200) < np.mean(shares) < .92 and np.mean(width) < .95


def test_coverage_of_a_normal_spread_is_the_level():
    gen = rng(9)
    sd = gen.uniform(.5, 2, (8000, 2)); y = gen.normal(size=(8000, 2)) * sd
    table = coverage_table(y, np.zeros((8000, 2)), sd, names=["a", "b"])
    assert (np.abs(table["covered"] - table["level"]) < 4 * np.sqrt(.25 / 8000)).all() and table["target"].tolist() == ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize("binning, strategy", [("width", "uniform"), ("count", "quantile")])
def test_calibration_agrees_with_scikit_learn(binning, strategy):
    sk = pytest.importorskip("sklearn.calibration")
    for seed in range(5):
        gen = rng(seed); p = gen.beta(.5, 2, 500); y = (gen.random(500) < p**1.5).astype(float)
        observed, predicted = sk.calibration_curve(y, p, n_bins=8, strategy=strategy)
        table = calibration_table(y, p, bins=8, binning=binning)
        assert np.allclose(table["observed"], observed) and np.allclose(table["predicted"], predicted)
        low, high = stats.binomtest(int(y[p <= .125].sum()), int((p <= .125).sum())).proportion_ci(method="wilson")
        if binning == "width": assert np.allclose([table["observed_low"][0], table["observed_high"][0]], [low, high])
        gaps = sum(n * abs(o - q) for n, o, q in zip(table["n"], observed, predicted)) / 500
        assert np.isclose(ece(y, p, 8, binning)[0], gaps)


def test_calibration_of_several_classes_is_that_of_the_one_that_is_called():
    gen = rng(10); p = gen.dirichlet(np.ones(4), 2000); y = np.array([[gen.choice(4, p=row)] for row in p])
    assert ece(y, p)[0] < .04 < ece((y + 1) % 4, p)[0]
    a, b = calibration_table(y, p), calibration_table((y[:, 0] == p.argmax(1)).astype(float), p.max(1))
    pd.testing.assert_frame_equal(a, b)


# ---------------------------------------------------------------- plots

def test_curves_and_matrix_are_those_of_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    gen = rng(11); y = gen.integers(0, 2, (200, 1)).astype(float); p = np.round(y + gen.normal(size=(200, 1)), 1); y[:20] = np.nan
    x, h = plot_roc(y, p).lines[0].get_data()
    assert np.isclose(np.trapezoid(h, x), sk.roc_auc_score(y[20:], p[20:]))
    precision, recall, _ = sk.precision_recall_curve(y[20:, 0], p[20:, 0])
    x, h = plot_pr(y, p).lines[0].get_data()
    assert np.array_equal(x, recall) and np.array_equal(h, precision)
    kinds = gen.integers(0, 3, 300); prob = gen.dirichlet(np.ones(3), 300)
    ax = plot_confusion(confusion(kinds[:, None], prob)[0])
    drawn = [int(t.get_text().split("\n")[1]) for t in ax.texts]
    assert np.array_equal(np.reshape(drawn, (3, 3)), sk.confusion_matrix(kinds, prob.argmax(1)))
    plt.close("all")


def test_plots_draw_on_the_axes_they_are_given_and_leave_no_others(noisy):
    y, p = noisy
    table = score_table(y, p, ci=.9, n_boot=20)
    draw = [lambda ax: plot_roc(y > 0, p, ax=ax), lambda ax: plot_pr(y > 0, p, ax=ax), lambda ax: plot_groups(table, "r2", ax=ax), lambda ax: plot_residuals(y[:, 0], p[:, 0], p[:, 1], ax=ax),
            lambda ax: plot_confusion(np.eye(2), ax=ax), lambda ax: plot_calibration(calibration_table(y > 0, 1 / (1 + np.exp(-p))), ax=ax)]
    fig, axes = plt.subplots(2, 3)
    settings = dict(plt.rcParams)
    for f, ax in zip(draw, axes.flat): assert f(ax) is ax
    assert plt.get_fignums() == [fig.number] and dict(plt.rcParams) == settings
    plt.close("all")


# ---------------------------------------------------------------- what is wrong is said

@pytest.mark.parametrize("how, says", [
    ({"by": "genus"}, "no column 'genus' to group by"), ({"cluster": "gene", "ci": .9}, "no column 'gene' to cluster by"),
    ({"split": "val"}, "No sequence is on side 'val'"), ({"ci": 95}, "`ci` is 95"), ({"ci": .9, "n_boot": 0}, "`n_boot` is 0"),
    ({"overall": "mean"}, "'macro', 'micro'"), ({"task": "ranking"}, "Unknown task"), ({"task": "binary"}, "labels 0 and 1"),
    ({"cluster": "species", "ci": .9}, "in one cluster"), ({"strands": "rc"}, "'given', 'both', 'max'")])
def test_bad_words(noisy, how, says):
    ds, model = dataset(np.nan_to_num(noisy[0]), noisy[1], species=np.repeat(["At"], 300))
    with pytest.raises(ValueError, match=says): evaluate(model, ds, **how)


def test_too_little_to_say_anything(noisy):
    y, p = noisy
    ds, model = dataset(y, p, species=np.array(["Zm"] * 295 + ["Sb"] * 5, object))
    table = evaluate(model, ds, by="species", ci=.9, n_boot=20).set_index(["species", "target"])
    assert table.loc[("Sb", "target1"), "n"] == 5 and table.loc["Sb"].drop(columns="n").isna().all(axis=None) and not table.loc["Zm"].isna().any(axis=None)
    one_class = score_table(np.ones((30, 1)), p[:30, :1], task="binary", ci=.9, n_boot=20)
    assert one_class.drop(columns=["target", "n"]).isna().all(axis=None)
    with pytest.raises(ValueError, match="both classes"): plot_roc(np.ones((30, 1)), p[:30, :1])
    with pytest.raises(ValueError, match="has 2 targets"): evaluate(Lookup({s: v[:1] for s, v in model.table.items()}), ds)
    with pytest.raises(ValueError, match="no rows"): evaluate(model, ds.isel(sequence=[]), split=None)
