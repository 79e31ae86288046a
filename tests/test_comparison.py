"""Comparisons of architectures: the published P values come out, tests agree with SciPy, bad tables are refused, benchmarks go on where they stopped"""
import json
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from eugene.core import rng
from eugene.etl.seqdata import make_dataset
from eugene.etl.sequences import random_seqs
from eugene.training import comparison
from eugene.training.comparison import TESTS, adjust, benchmark, compare, plot_comparison, runs_table
from eugene.training.evaluation import evaluate

# R2 of five runs each, Klie et al. (2023), Figure 2b and Supplementary Figure 1: read from the points of the figures of
# github.com/ML4GLand/EUGENe_paper (figures/jores21), to four digits and in ascending order
PAPER = {
    "leaf": {"CNN": [.6933, .6937, .6962, .6993, .7004], "Hybrid": [.7003, .7029, .7033, .7046, .7080],
             "DeepSTARR": [.6983, .7002, .7062, .7087, .7110], "Jores21CNN": [.6754, .6918, .6964, .7097, .7110]},
    "proto": {"CNN": [.6107, .6152, .6182, .6219, .6238], "Hybrid": [.6208, .6244, .6297, .6324, .6327],
              "DeepSTARR": [.6602, .6640, .6640, .6650, .6650], "Jores21CNN": [.6664, .6682, .6688, .6698, .6701]}}
CAPTION = {"leaf": [.10, .17, 1, 1, 1, .84], "proto": [.03, .01, .01, .01, .01, .01]}  # adjusted P, in the caption's order of pairs


def tidy(scores, **more):
    return pd.DataFrame([{**more, "architecture": name, "seed": i + 1, "r2": v} for name, values in scores.items() for i, v in enumerate(values)])


@pytest.fixture
def paper():
    return pd.concat([tidy(scores, system=system) for system, scores in PAPER.items()], ignore_index=True)


# ---------------------------------------------------------------- the published comparison

@pytest.mark.parametrize("system", PAPER)
def test_the_caption_of_the_paper(system):
    pairs = compare(tidy(PAPER[system]), metric="r2").pairs
    assert list(zip(pairs["a"], pairs["b"])) == list(combinations(["CNN", "Hybrid", "DeepSTARR", "Jores21CNN"], 2))
    expected = CAPTION[system][:5] + [.93 if system == "leaf" else .01]  # rounded to four digits, two leaf runs tie: .93, not .84
    assert pairs["p_adjusted"].round(2).tolist() == expected


def test_without_the_tie_the_caption_is_exact():
    scores = {**PAPER["leaf"], "Jores21CNN": [.6754, .6918, .6964, .7097, .71099]}
    assert compare(tidy(scores)).pairs["p_adjusted"].round(2).tolist() == CAPTION["leaf"]


def test_systems_are_compared_and_corrected_apart(paper):
    both = compare(paper, by="system")
    for system in PAPER:
        alone = compare(paper[paper["system"] == system]).pairs
        pd.testing.assert_frame_equal(both.pairs[both.pairs["system"] == system].drop(columns="system").reset_index(drop=True), alone)
    assert len(both.summary) == 8 and both.by == ["system"]
    means = both.summary.set_index(["system", "architecture"])["mean"].round(4)
    assert means["leaf", "DeepSTARR"] == .7049 and means["proto", "Jores21CNN"] == .6687  # the published means


# ---------------------------------------------------------------- against SciPy

def by_scipy(test, x, y):
    if test == "mannwhitney": return stats.mannwhitneyu(x, y)
    if test == "welch": return stats.ttest_ind(x, y, equal_var=False)
    if test == "wilcoxon": return stats.wilcoxon(x, y)
    if test == "paired_t": return stats.ttest_rel(x, y)
    found = stats.permutation_test((x, y), lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", vectorized=True, n_resamples=np.inf)
    return found.statistic, found.pvalue


@pytest.mark.parametrize("test", TESTS)
def test_tests_are_those_of_scipy(test):
    for n in (3, 5, 9):
        x, y = rng(n).normal(size=(2, n))
        row = compare(tidy({"A": x, "B": y}), test=test).pairs.iloc[0]
        np.testing.assert_allclose((row["statistic"], row["p"]), tuple(by_scipy(test, x, y)), atol=1e-12)
        assert row["test"] == test and row["U"] == stats.mannwhitneyu(x, y).statistic


def test_random_sign_flips_are_near_all_of_them():
    x, y = rng(1).normal(size=(2, 18)) + [[.5], [0]]
    found = compare(tidy({"A": x, "B": y}), test="sign_flip").pairs["p"][0]
    assert found == pytest.approx(by_scipy("sign_flip", x, y)[1], abs=.01)
    assert found == compare(tidy({"A": x, "B": y}), test="sign_flip").pairs["p"][0]


scores = st.lists(st.sampled_from([.1, .2, .25, .3, .5]), min_size=1, max_size=6)


@settings(max_examples=100, deadline=None)
@given(scores, scores, st.sampled_from(["mannwhitney", "welch"]))
def test_swapping_the_sides_mirrors_the_result(x, y, test):
    one, back = (compare(tidy(t), test=test).pairs.iloc[0] for t in ({"A": x, "B": y}, {"B": y, "A": x}))
    for name in ("mean_difference", "median_difference", "cliffs_delta"): assert one[name] == pytest.approx(-back[name], abs=1e-12)
    assert one["a12"] == pytest.approx(1 - back["a12"]) and one["U"] + back["U"] == len(x) * len(y)
    np.testing.assert_allclose(one["p"], back["p"], atol=1e-12)
    assert one["a12"] == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in product(x, y)]))
    assert np.isnan(one["p"]) if min(len(x), len(y)) < 2 else np.isnan(one["p"]) or 0 <= one["p"] <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.just(np.nan), st.floats(0, 1)), max_size=8))
def test_corrections(p):
    p = np.array(p, dtype=float)
    known = p[~np.isnan(p)]
    for how in ("bh", "holm", "none"):
        found = adjust(p, how)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(p))
        found = found[~np.isnan(p)]
        if how == "bh" and len(known): expected = stats.false_discovery_control(known)
        elif how == "holm":  # from the definition: the largest of all steps up to its own
            order = np.argsort(known, kind="stable")
            expected = [min(1, max(known[order[j]] * (len(known) - j) for j in range(np.flatnonzero(order == i)[0] + 1))) for i in range(len(known))]
        else: expected = known
        np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("how", ("bh", "holm", "none"))
def test_the_correction_is_the_one_asked_for(how):
    pairs = compare(tidy(PAPER["leaf"]), correction=how).pairs
    assert pairs["p_adjusted"].tolist() == adjust(pairs["p"], how).tolist() and adjust(pairs["p"], "holm").tolist() != adjust(pairs["p"]).tolist()


def test_the_summary_is_that_of_pandas(paper):
    table = paper[paper["system"] == "leaf"]
    found = compare(table, confidence=.9).summary.set_index("architecture")
    told = table.groupby("architecture", sort=False)["r2"].describe()
    for ours, theirs in (("n", "count"), ("mean", "mean"), ("sd", "std"), ("q1", "25%"), ("median", "50%"), ("q3", "75%")):
        np.testing.assert_allclose(found[ours], told[theirs], rtol=1e-12)
    for name, x in PAPER["leaf"].items():
        np.testing.assert_allclose(found.loc[name, ["low", "high"]].astype(float), stats.ttest_1samp(x, 0).confidence_interval(.9), rtol=1e-12)


def test_paired_tests_go_by_seed_not_by_place():
    x, y = rng(2).normal(size=(2, 6))
    table = tidy({"A": x, "B": y})
    mixed = pd.concat([table[:6], table[6:].sample(frac=1, random_state=0)])
    for test in comparison.PAIRED: assert compare(mixed, test=test).pairs["p"][0] == pytest.approx(compare(table, test=test).pairs["p"][0], abs=1e-12)


# ---------------------------------------------------------------- bad tables

@pytest.mark.parametrize("change, error, message", [
    (lambda t: t[t["architecture"] == "CNN"], ValueError, "needs two architectures; the table has CNN"),
    (lambda t: t.drop(columns="architecture"), ValueError, "no column 'architecture'"), (lambda t: t.rename(columns={"r2": "R2"}), ValueError, "no column 'r2'; it has"),
    (lambda t: t.assign(r2=[np.nan, *t["r2"][1:]]), ValueError, "1 runs have no r2: architecture CNN, seed 1.*train them again"), (lambda t: t.assign(r2=[-np.inf, *t["r2"][1:]]), ValueError, "have no r2"),
    (lambda t: pd.concat([t, t[:1]]), ValueError, "1 runs stand twice.*Keep one"), (lambda t: pd.concat([t.assign(variant="a"), t.assign(variant="b")]), ValueError, "Pass by='variant'"),
    (lambda t: t.assign(r2=t["r2"].astype(str)), ValueError, "expected numbers"), (lambda t: t[:0], ValueError, "has none"), (lambda t: t.to_dict("list"), TypeError, "expected a data frame")])
def test_bad_tables_are_refused(change, error, message):
    with pytest.raises(error, match=message): compare(change(tidy(PAPER["leaf"])))


@pytest.mark.parametrize("test", comparison.PAIRED)
def test_unequal_seeds_are_refused_where_runs_are_paired(test):
    table = tidy(PAPER["leaf"]).query("not (architecture == 'Hybrid' and seed == 2)")
    with pytest.raises(ValueError, match="CNN has 1, 2, 3, 4, 5 and Hybrid has 1, 3, 4, 5.*mannwhitney"): compare(table, test=test)
    assert compare(table).pairs["n_b"].tolist()[0] == 4


@pytest.mark.parametrize("test", TESTS)
def test_one_run_a_side_gives_sizes_and_no_p_value(test):
    found = compare(tidy({"A": [.5], "B": [.7], "C": [.6]}), test=test)
    assert found.pairs[["statistic", "p", "p_adjusted"]].isna().all(axis=None) and found.pairs["mean_difference"].tolist() == pytest.approx([-.2, -.1, .1])
    assert found.summary[["sd", "low", "high"]].isna().all(axis=None) and found.summary["mean"].tolist() == [.5, .7, .6]


def test_other_types_of_columns_are_welcome(paper):
    told = compare(paper, by="system").pairs
    for change in (paper.astype({"architecture": "category", "system": "category"}), paper.convert_dtypes(), paper.set_index("seed", drop=False)):
        pd.testing.assert_frame_equal(compare(change, by="system").pairs, told, check_dtype=False)
    with pytest.raises(ValueError, match="1 runs have no r2"): compare(paper.assign(r2=paper["r2"].astype("Float64").where(paper.index > 0)), by="system")


def test_a_group_with_one_architecture_is_named(paper):
    with pytest.raises(ValueError, match="{'system': 'proto'} has CNN"): compare(paper[(paper["system"] == "leaf") | (paper["architecture"] == "CNN")], by="system")
    with pytest.raises(ValueError, match="no column 'target'"): compare(paper, by="target")
    with pytest.raises(ValueError, match="other than each other"): compare(paper, by="architecture")


def test_the_table_is_left_as_it_was(paper):
    before = paper.copy()
    compare(paper, by="system", test="wilcoxon")
    pd.testing.assert_frame_equal(paper, before)


# ---------------------------------------------------------------- pictures

def test_bars_are_over_the_pairs_that_differ(paper):
    import matplotlib.pyplot as plt
    result = compare(paper, by="system")
    leaf, proto = (plot_comparison(result, system) for system in PAPER)
    assert [len(leaf.texts), len(proto.texts)] == [0, 6]
    bars = [line for line in proto.lines if len(line.get_xdata()) == 4 and line.get_color() == "k"]
    assert [tuple(b.get_xdata()[[0, -1]]) for b in bars] == list(combinations(range(4), 2))
    heights = [b.get_ydata().max() for b in bars]
    assert heights == sorted(heights) and heights[0] > max(max(v) for v in PAPER["proto"].values())
    points = [line.get_ydata() for line in leaf.lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(points, list(PAPER["leaf"].values()))
    assert plot_comparison(result, "leaf", ax=proto) is proto
    plt.close("all")


# ---------------------------------------------------------------- benchmark

FIT = {"module": {"lr": .02}, "fit": {"epochs": 2, "batch_size": 50, "seed": 99}}
CONFIGS = {"dense": {"arch": {"name": "FCN", "input_len": 20, "dense": {"hidden": 4}}, **FIT},
           "convolution": {"arch": {"name": "CNN", "input_len": 20, "conv": {"channels": [4], "kernels": 4}, "dense": {}}, **FIT}}


@pytest.fixture(scope="module")
def ds():
    "200 simulated sequences of 20 bp with two targets"
    seqs = random_seqs(200, 20, seed=0)
    made = make_dataset(seqs, targets=np.array([[s.count("TA"), s.count("CG")] for s in seqs], float), target_names=["ta", "cg"])
    made["split"] = "sequence", np.repeat(["train", "val", "test"], [100, 50, 50]).astype(object)
    return made


def bench(ds, out, **kw):
    return benchmark(CONFIGS, ds, out, **{"seeds": (1, 2), "device": "cpu", "progress": False, "overrides": {"output_dim": 2}, **kw})


@pytest.fixture(scope="module")
def done(ds, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, bench(ds, out)


def facts(table):
    return table.drop(columns="seconds").reset_index(drop=True)


def test_every_run_is_there_with_the_scores_of_its_checkpoint(ds, done):
    from eugene.training.configs import from_config
    out, table = done
    assert list(zip(table["architecture"], table["seed"], table["target"])) == list(product(CONFIGS, (1, 2), ("ta", "cg"))) and (table["n"] == 50).all()
    module = from_config(CONFIGS["dense"], output_dim=2)
    module.load_state_dict(torch.load(out / "dense" / "seed_2" / "best.ckpt", weights_only=True)["state_dict"])
    np.testing.assert_allclose(evaluate(module, ds, device="cpu")["mse"], table.query("architecture == 'dense' and seed == 2")["mse"], rtol=1e-5)
    assert compare(table, metric="mse", by="target").pairs["a"].tolist() == ["dense", "dense"]
    assert table.groupby(["architecture", "target"])["mse"].nunique().eq(2).all()  # seeds differ


def test_an_interrupted_benchmark_goes_on(ds, done, tmp_path, monkeypatch):
    trained, fit_config = [], comparison.fit_config
    def stops(config, data, out, motifs, **kw):
        if len(trained) == 3: raise KeyboardInterrupt
        trained.append(f"{out.parent.name} {kw['seed']}")
        return fit_config(config, data, out, motifs, **kw)
    monkeypatch.setattr(comparison, "fit_config", stops)
    with pytest.raises(KeyboardInterrupt): bench(ds, tmp_path)
    assert trained == ["dense 1", "dense 2", "convolution 1"]
    monkeypatch.setattr(comparison, "fit_config", fit_config)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("best.ckpt")}
    assert len(stamps) == 3
    pd.testing.assert_frame_equal(facts(bench(ds, tmp_path)), facts(done[1]))
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_more_seeds_do_not_touch_the_others(ds, done):
    out, table = done
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("best.ckpt")}
    more = bench(ds, out, seeds=[1, 2, 3])
    pd.testing.assert_frame_equal(facts(more[more["seed"] < 3]), facts(table))
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps and len(list(out.rglob("best.ckpt"))) == 6


def test_another_experiment_is_refused_and_settings_arrive(ds, done, tmp_path):
    out, _ = done
    with pytest.raises(ValueError, match="epochs: 2 on record, 1 now"): bench(ds, out, epochs=1)
    assert bench(ds, tmp_path, seeds=[1], epochs=1)["best_epoch"].tolist() == [1] * 4
    assert bench(ds, tmp_path, seeds=[1], epochs=1, split="val")["n"].tolist() == [50] * 4
    manifest = json.loads((tmp_path / "dense" / "seed_1" / "manifest.json").read_text())
    assert manifest["seed"] == 1 and manifest["data"]["batch_size"]["train"] == 50


def test_records_become_a_table(done):
    out, table = done
    read = runs_table(out)
    assert {"architecture", "seed", "val_loss", "val_r2", "best_epoch", "seconds"} <= set(read.columns)
    assert set(read["architecture"]) == {"FCN", "CNN"}
    files = sorted(out.rglob("manifest.json"))
    pd.testing.assert_frame_equal(runs_table(files), read)
    pd.testing.assert_frame_equal(runs_table([json.loads(f.read_text()) for f in files]), read)
    compare(read.drop_duplicates(["architecture", "seed"]), metric="val_loss")


def test_metrics_of_a_use_case_become_a_table(tmp_path, paper):
    rows = {name: [{"target": t, "variant": "published", "seed": s, "rows": 9, "r2": r} for t, s, r in zip(part["system"], part["seed"], part["r2"])] for name, part in paper.groupby("architecture", sort=False)}
    (tmp_path / "metrics.json").write_text(json.dumps({"use_case": "jores21", "scale": "sample", "data": {}, "models": rows, "interpretation": {}, "seconds": 1}))
    found = compare(runs_table(tmp_path / "metrics.json"), by="target")
    pd.testing.assert_frame_equal(found.pairs.rename(columns={"target": "system"}), compare(paper, by="system").pairs)


@pytest.mark.parametrize("given, error, message", [("nowhere.json", FileNotFoundError, "no file nowhere.json"), ({}, ValueError, "the keys of nothing"), (None, TypeError, "is a NoneType"), ([3], TypeError, "is a int")])
def test_what_is_no_record_is_refused(given, error, message):
    with pytest.raises(error, match=message): runs_table(given)
