"Targets against scikit-learn, as properties, and on measured data."
import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm, rankdata
from sklearn.preprocessing import KBinsDiscretizer, MinMaxScaler, QuantileTransformer, StandardScaler

from eugene.etl.datasets import jores21, ray13
from eugene.etl.seqdata import make_dataset, open_zarr, to_zarr
from eugene.etl.splits import split_random
from eugene.etl.targets import TARGET_STEPS, TargetTransform, bin_targets, binarize_targets, drop_unmeasured, fit_targets

few = settings(max_examples=40, derandomize=True, deadline=None)
INVERTIBLE = ["zscore", {"minmax": {"low": -2, "high": 3}}, "quantile", {"quantile": {"to": "normal"}}, {"quantile": {"knots": 7}}, {"log": {"base": 2, "pseudocount": 101}}]
MONOTONE = [*INVERTIBLE, {"clamp": {"low": .1, "high": .9}}, {"clamp": {"high": 1., "by": "value"}}, {"bin": {"bins": [0.]}}]


def word(step):
    return step if isinstance(step, str) else f"{next(iter(step))}{list(next(iter(step.values())).values())}"


def dataset(y, split=None):
    ds = make_dataset(["ACGT"] * len(y), y, missing="keep")
    return ds if split is None else ds.assign(split=("sequence", np.asarray(split, object)))


@pytest.fixture(scope="module")
def skewed():
    gen = np.random.default_rng(3)
    y = np.stack([gen.exponential(2, 900), gen.normal(5, 3, 900)], 1).astype(np.float32)
    return dataset(y, np.where(gen.random(900) < .6, "train", "test"))


def sides(ds):
    on = ds.split.values == "train"
    y = ds.targets.values.astype(float)
    return y, y[on]


# ---------------------------------------------------------------- against scikit-learn

@pytest.mark.parametrize("step, peer", [("zscore", StandardScaler()), ("minmax", MinMaxScaler()), ({"minmax": {"low": -1, "high": 4}}, MinMaxScaler((-1, 4))),
                                        ({"quantile": {"knots": 500}}, QuantileTransformer(n_quantiles=500)), ({"quantile": {"knots": 50}}, QuantileTransformer(n_quantiles=50))], ids=str)
def test_scikit_learn_says_the_same(step, peer, skewed):
    y, train = sides(skewed)
    t = fit_targets(skewed, steps=[step])
    ours, theirs = t.apply(skewed).targets.values, peer.fit(train).transform(y)
    assert np.allclose(ours, theirs, atol=1e-6)
    assert np.allclose(t.inverse(theirs), peer.inverse_transform(theirs), atol=1e-5)


def test_normal_scores_are_those_of_scikit_learn_moved_inward_by_half_a_rank(skewed):
    y, train = sides(skewed)
    ours = fit_targets(skewed, scale={"quantile": {"to": "normal"}}).transform(y)
    theirs = QuantileTransformer(n_quantiles=len(train), output_distribution="normal").fit(train).transform(y)
    middle = np.abs(theirs) < 2
    assert np.abs(ours - theirs)[middle].max() < .02
    assert np.abs(ours).max() < 3.3 < np.abs(theirs).max()


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classes_of_equal_size_are_those_of_scikit_learn(classes, skewed):
    y, train = sides(skewed)
    peer = KBinsDiscretizer(classes, encode="ordinal", strategy="quantile", quantile_method="linear", subsample=None).fit(train)
    ours = bin_targets(skewed, classes).targets.values
    far = [np.abs(y[:, [j]] - edges).min(1) > 1e-6 for j, edges in enumerate(peer.bin_edges_)]  # rounding decides for a value on an edge
    assert (ours == peer.transform(y))[np.stack(far, 1)].all()
    counts = np.unique(ours[skewed.split.values == "train", 0], return_counts=True)[1]
    assert counts.sum() == len(train) and np.ptp(counts) <= 1


# ---------------------------------------------------------------- laws

columns = arrays(np.float32, st.integers(3, 40), elements=st.floats(-100, 100, width=32).map(lambda v: np.float32(round(v, 2))))


@few
@given(columns, st.sampled_from(INVERTIBLE), st.data())
def test_inverse_gives_back_what_was_measured(y, step, data):
    holes = data.draw(arrays(bool, len(y)))
    if (~holes).sum() < 2 or np.ptp(y[~holes]) < 1e-2: return
    holed = np.where(holes, np.nan, y)
    ds = dataset(holed)
    t = fit_targets(ds, steps=[step], split=None)
    back = t.inverse(t.apply(ds).targets.values)[:, 0]
    assert np.array_equal(np.isnan(back), holes)
    assert np.allclose(back[~holes], y[~holes], atol=1e-2)


def test_a_plan_is_undone_from_its_end(skewed):
    y, _ = sides(skewed)
    t = fit_targets(skewed, steps=[{"minmax": {"low": 1, "high": 9}}, {"log": {"base": 10, "pseudocount": 50}}, "zscore", {"quantile": {"to": "normal"}}])
    on = skewed.split.values == "train"
    assert np.allclose(t.inverse(t.transform(y))[on], y[on], atol=1e-3)
    assert fit_targets(skewed, steps=["minmax", "zscore"]) != fit_targets(skewed, steps=["zscore", "minmax"])


@few
@given(arrays(np.int8, st.integers(2, 60), elements=st.integers(0, 6)), st.sampled_from(["uniform", "normal"]))
def test_ties_share_the_middle_of_their_ranks(y, to):
    if np.ptp(y) == 0: return
    ranks, n = rankdata(y), len(y)
    out = fit_targets(dataset(y.astype(np.float32)), scale={"quantile": {"to": to}}, split=None).transform(y[:, None])[:, 0]
    assert np.allclose(out, (ranks - 1) / (n - 1) if to == "uniform" else norm.ppf((ranks - .5) / n), atol=1e-5)


def test_rounding_breaks_no_tie():
    "Rank 52 of 54 times 1/53 is not quite a whole number; the two ones must still share their ranks, and lie above an edge at their value"
    y = np.repeat([0., 1], [52, 2]).astype(np.float32)
    assert np.isclose(fit_targets(dataset(y), scale="quantile", split=None).transform(y[:, None])[-1, 0], 1 - .5 / 53)
    for n in range(3, 120):
        y = np.arange(n).astype(np.float32)
        classes = bin_targets(dataset(y), [k / (n - 1) for k in range(1, n)], by="quantile", split=None).targets.values[:, 0]
        assert classes.tolist() == y.tolist()


def test_values_on_an_edge():
    ds = dataset(np.array([0, 1, 1.5, 2, 3], np.float32))
    told = lambda d: [None if np.isnan(v) else v for v in d.targets.values[:, 0].tolist()]
    assert told(bin_targets(ds, [1, 2], split=None)) == [0, 1, 1, 2, 2]
    assert told(binarize_targets(ds, 2, 1, split=None)) == [0, None, None, None, 1]
    assert told(binarize_targets(ds, 2, split=None)) == [0, 0, 0, 0, 1]


@few
@given(columns, st.sampled_from(MONOTONE))
def test_no_step_changes_the_order(y, step):
    if np.ptp(y) < 1e-2: return
    out = fit_targets(dataset(y), steps=[step], split=None).transform(np.sort(y)[:, None])[:, 0]
    assert (np.diff(out) >= 0).all()


@few
@given(columns, st.sampled_from([*MONOTONE, {"bin": {"bins": 2}}, {"binarize": {"upper": .7, "lower": .2, "by": "quantile"}}]), st.floats(-1e4, 1e4), st.integers(0, 2**20))
def test_other_rows_never_matter(y, step, noise, seed):
    on = np.random.default_rng(seed).random(len(y)) < .7
    on[:2] = True
    if np.ptp(y[on]) < 1e-2: return
    split = np.where(on, "train", "test")
    loud = dataset(np.where(on, y, noise).astype(np.float32), split)
    try: told = fit_targets(dataset(y, split), steps=[step] if "log" not in step else ["zscore"])
    except ValueError as e: assert "coincide" in str(e); return
    assert told == fit_targets(loud, steps=[step] if "log" not in step else ["zscore"])
    assert told == fit_targets(dataset(y[on]), steps=[step] if "log" not in step else ["zscore"], split=None)


@few
@given(columns, st.lists(st.sampled_from([s for s in MONOTONE if "log" not in s]), max_size=4))
def test_the_record_survives_text(y, plan):
    if np.ptp(y) < 1: return
    try: t = fit_targets(dataset(y), steps=plan, split=None)
    except ValueError: return  # clamped or binned to a constant, which the next step refuses
    back = TargetTransform.from_dict(json.loads(json.dumps(t.to_dict(), allow_nan=False)))
    assert back == t and np.array_equal(back.transform(y[:, None]), t.transform(y[:, None]))


def test_every_step_is_tried_above():
    tried = {s if isinstance(s, str) else next(iter(s)) for s in [*MONOTONE, {"binarize": {}}]}
    assert tried == set(TARGET_STEPS)


@pytest.mark.parametrize("step", MONOTONE, ids=word)
def test_targets_are_fitted_one_by_one(step, skewed):
    y, _ = sides(skewed)
    alone = [fit_targets(skewed.isel(target=[j]), steps=[step]).transform(y[:, [j]]) for j in (0, 1)]
    assert np.array_equal(fit_targets(skewed, steps=[step]).transform(y), np.concatenate(alone, 1))


def test_binarize_needs_no_row_dropped(skewed, caplog):
    caplog.set_level(logging.INFO, logger="eugene")
    y, _ = sides(skewed)
    out = binarize_targets(skewed, upper={"target1": 3., "target2": 6.}, lower={"target1": 1., "target2": 6.})
    gap = (y[:, 0] >= 1) & (y[:, 0] <= 3)
    assert out.sizes["sequence"] == 900 and np.isnan(out.targets.values[:, 0]).sum() == gap.sum() > 0
    assert not np.isnan(out.targets.values[:, 1]).any()
    assert f"target1 {gap.sum()} of 900" in caplog.text


def test_dropping_is_told(caplog):
    ds = dataset(np.array([[1, np.nan], [np.nan, np.nan], [2, 3]]))
    assert drop_unmeasured(ds).id.values.tolist() == ["seq1", "seq3"] and "1 of 3 rows dropped" in caplog.text and "seq2" in caplog.text
    caplog.clear()
    assert drop_unmeasured(ds, "any").id.values.tolist() == ["seq3"] and "2 of 3" in caplog.text
    assert ds.sizes["sequence"] == 3


# ---------------------------------------------------------------- measured data

def test_the_steps_of_the_paper_on_rnacompete(data_dir, tmp_path):
    "Klie et al. 2023: clamp at the 99.95 % quantile of set A, z-score of set A, applied to both"
    ds = ray13(split=True, path=data_dir)
    t = fit_targets(ds, clamp=.9995)
    on, y = ds.split.values == "train", ds.targets.values.astype(float)
    cap = np.quantile(y[on], .9995, axis=0)
    by_hand = np.minimum(y, cap)
    by_hand = (by_hand - by_hand[on].mean(0)) / by_hand[on].std(0)
    out = t.apply(ds)
    assert np.allclose(out.targets.values, by_hand, atol=1e-5)
    assert np.allclose(StandardScaler().fit(np.minimum(y, cap)[on]).transform(np.minimum(y, cap)), by_hand)
    assert ((y[on] > cap).sum(0) == np.ceil(on.sum() * .0005)).mean() > .8  # ties apart, 61 probes a protein are cut
    assert np.allclose(t.inverse(out.targets.values), np.minimum(y, cap), atol=1e-4)
    small = out.isel(sequence=slice(0, 2000))
    assert TargetTransform.from_dict(open_zarr(to_zarr(small, tmp_path / "rna.zarr")).attrs["target_transform"]) == t


def test_promoters_to_normal_scores_and_classes(data_dir):
    ds = split_random(jores21("leaf", path=data_dir))
    on = ds.split.values == "train"
    scores = fit_targets(ds, scale={"quantile": {"to": "normal"}}).apply(ds).targets.values[:, 0]
    assert abs(scores[on].mean()) < .01 and abs(scores[on].std() - 1) < .01 and abs(scores[~on].mean()) < .1
    classes = bin_targets(ds, 4).targets.values[:, 0]
    assert set(classes) == {0, 1, 2, 3} and np.ptp(np.bincount(classes[on].astype(int))) <= 1


def test_designed_promoters_keep_their_holes(data_dir):
    ds = jores21("synthetic", path=data_dir)
    holes = np.isnan(ds.targets.values)
    assert holes.any()
    out = fit_targets(ds, clamp=(.01, .99), scale="minmax", split=None).apply(ds)
    assert np.array_equal(np.isnan(out.targets.values), holes)
    assert np.allclose(np.nanmin(out.targets.values, 0), 0) and np.allclose(np.nanmax(out.targets.values, 0), 1)
    assert drop_unmeasured(ds, "any").sizes["sequence"] == (~holes.any(1)).sum()
