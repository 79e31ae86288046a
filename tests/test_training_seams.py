"Part 4 as a whole: a Dataset goes in at one end, a table of scores comes out at the other, for every kind of task"
import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import eugene
from eugene.etl.seqdata import add_tracks, make_dataset
from eugene.etl.sequences import random_seqs
from eugene.training.comparison import benchmark
from eugene.training.configs import from_config, to_config
from eugene.training.evaluation import evaluate, score_table
from eugene.training.fine_tuning import fine_tune, load_run
from eugene.training.fit import fit_dataset
from eugene.training.hyperopt import fit_config, hyperopt
from eugene.training.losses import TASKS
from eugene.training.metrics import confusion
from eugene.training.planning import plan_training
from eugene.training.prediction import predict
from eugene.training.profile_module import evaluate_profiles
from eugene.training.records import describe_data, experiment
from eugene.training.sequence_module import SequenceModule

QUICK = dict(device="cpu", progress=False)
BPNET = {"arch": {"name": "BPNet", "input_len": 100, "output_len": 60, "tasks": 1, "trunk": {"filters": 4, "layers": 2}},
         "module": {"class": "ProfileModule", "lr": .01}, "fit": {"epochs": 2, "batch_size": 20}}


def sides(ds, *n):
    ds["split"] = "sequence", np.repeat(["train", "val", "test"], n).astype(object)
    return ds


def profiles(length=100, tracks=True):
    "Sixty simulated windows: reads at random, more of them where there is G"
    seqs, gen = random_seqs(60, length, seed=0), np.random.default_rng(0)
    rates = np.array([[.2 + 2 * (c == "G") for c in s] for s in seqs])
    reads = gen.poisson(np.stack([rates, rates], 1)).astype(np.float32)
    ds = add_tracks(make_dataset(seqs), "profile", reads, ["+", "-"], stranded=True) if tracks else make_dataset(seqs).assign(profile=(("sequence", "track_profile", "position"), reads)).assign_coords(track_profile=["+", "-"])
    return sides(ds, 40, 10, 10)


# ---------------------------------------------------------------- profiles by config

@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("profile") / "run"
    return fit_config(BPNET, profiles(), out, **QUICK), out


def test_a_profile_model_goes_through_configs_and_comes_back(run):
    assert type(run[0].module).__name__ == "ProfileModule" and len(run[0].history) == 2
    assert to_config(run[0].module) == {"init": {}, **BPNET}
    again = load_run(run[1])
    assert all(torch.equal(v, run[0].module.state_dict()[k]) for k, v in again.state_dict().items())
    assert set(from_config(to_config(again)).settings) == set(again.settings)


def test_a_profile_model_is_planned_tuned_searched_and_compared(run, tmp_path):
    ds = profiles()
    assert plan_training(run[0].module, ds, 20, device="cpu", steps=1).batches == 2
    tuned = fine_tune(run[1], profiles(120), tmp_path / "tuned", epochs=1, batch_size=20, settings={"lr": .001}, **QUICK)
    assert tuned.module.settings["lr"] == .001 and tuned.module.arch.input_len == 120 and tuned.manifest["config"]["fine_tuning"]["from"] == "run"
    found = hyperopt({**BPNET, "module": {"class": "ProfileModule", "lr": {"choice": [.01, .001]}}}, ds, tmp_path / "search", n=None, address="here")
    assert (found.table["status"] == "finished").all() and found.best["module"]["class"] == "ProfileModule"
    table = benchmark({"bpnet": BPNET}, ds, tmp_path / "runs", seeds=[1], **QUICK)
    scores = evaluate_profiles(load_run(tmp_path / "runs" / "bpnet" / "seed_1"), ds, device="cpu")
    np.testing.assert_allclose(table["profile_jsd"], scores["profile_jsd"], rtol=1e-6)
    assert {"architecture", "seed", "target", "n", "profile_skill", "count_pearson"} <= set(table)


def test_metrics_of_the_profile_task_are_the_columns_of_its_table(run):
    assert list(evaluate_profiles(run[0].module, profiles(), device="cpu").columns[2:]) == list(TASKS["profile"].metrics)


def test_tracks_put_in_by_hand_are_scored_as_well(run):
    by_hand, ds = (evaluate_profiles(run[0].module, d, device="cpu") for d in (profiles(tracks=False), profiles()))
    np.testing.assert_allclose(by_hand.iloc[:, 1:], ds.iloc[:, 1:])


def test_the_wrong_module_names_the_right_one(run, tmp_path):
    ds, net = profiles(), run[0].module.arch
    with pytest.raises(ValueError, match="use ProfileModule"): SequenceModule(net, task="profile")
    with pytest.raises(ValueError, match="section `module` of config: .*class: ProfileModule"): from_config({**BPNET, "module": {"task": "profile"}})
    with pytest.raises(ValueError, match="use `evaluate_profiles`"): evaluate(run[0].module, ds)
    with pytest.raises(ValueError, match="use `evaluate_profiles`"): score_table(np.zeros((3, 1)), np.zeros((3, 1)), task="profile")
    with_targets = make_dataset(random_seqs(60, 100, seed=0), targets=np.zeros((60, 1)))
    with pytest.raises(TypeError, match="trained by ProfileModule"): fit_dataset(SequenceModule(net), sides(with_targets, 40, 10, 10), tmp_path, **QUICK)


def test_missing_targets_do_not_stop_a_profile_model(tmp_path):
    ds = profiles().assign(targets=(("sequence", "target"), np.full((60, 1), np.nan, np.float32))).assign_coords(target=["activity"])
    assert len(fit_config(BPNET, ds, tmp_path / "p", epochs=1, **QUICK).history) == 1
    with pytest.raises(ValueError, match="40 train rows are missing"): fit_dataset(SequenceModule(nn.Sequential(nn.Flatten(), nn.Linear(400, 1))), ds, tmp_path / "s", **QUICK)


# ---------------------------------------------------------------- classes, weights, unknown letters

def small(outputs, length=20): return nn.Sequential(nn.Flatten(), nn.Linear(4 * length, outputs))


def test_classes_from_end_to_end(tmp_path):
    "Simulated: which of A, C, G begins the sequence; a linear network can tell"
    seqs = [s for s in random_seqs(600, 20, seed=1) if s[0] != "T"][:360]
    y = np.array([["ACG".index(s[0])] for s in seqs], float)
    y[::30] = np.nan
    ds = sides(make_dataset(seqs, targets=y, target_names=["first"], missing="keep"), 240, 60, 60)
    run = fit_dataset(SequenceModule(small(3), "multiclass", lr=.05), ds, tmp_path, batch_size=40, epochs=8, **QUICK)
    table = evaluate(run.module, ds, device="cpu", ci=.9, n_boot=50)
    p = predict(run.module, ds, activate=True, device="cpu")
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    assert p.shape == (360, 3) and table["n"].tolist() == [58] and table["target"].tolist() == ["first"]
    right = (p.argmax(1) == y[:, 0])[300:][~np.isnan(y[300:, 0])].mean()
    assert table["accuracy"][0] == pytest.approx(right) and right > .9
    assert table["accuracy_low"][0] <= right <= table["accuracy_high"][0]
    assert confusion(y[300:], p[300:])[0].sum() == 58
    assert len(evaluate([run.module] * 2, ds, device="cpu")) == 1


def test_sample_weights_of_a_dataset_reach_the_loss(tmp_path):
    "A weight of 2 is a row that is there twice, and a weight of 0 one that is not there: in the loss of training and of validation"
    seqs, gen = random_seqs(40, 20, seed=2), np.random.default_rng(0)
    y, w = gen.normal(size=(40, 1)), gen.integers(0, 3, 40)
    w[[0, 30]] = 2
    def data(rows, **more): return sides(make_dataset([seqs[i] for i in rows], targets=y[rows]), int((np.array(rows) < 20).sum()), int((np.array(rows) >= 20).sum()), 0).assign(**more)
    rows = list(range(40))
    torch.manual_seed(0); module = SequenceModule(small(1), optimizer="sgd", lr=.1)
    one = fit_dataset(module, data(rows, sure=("sequence", w.astype(np.float32))), tmp_path / "w", batch_size=100, epochs=3, weights="sure", **QUICK)
    two = fit_dataset(module, data([i for i in rows for _ in range(w[i])]), tmp_path / "r", batch_size=100, epochs=3, **QUICK)
    plain = fit_dataset(module, data(rows), tmp_path / "p", batch_size=100, epochs=3, **QUICK)
    for column in ("train_loss", "val_loss"): np.testing.assert_allclose(one.history[column], two.history[column], rtol=1e-5)
    assert not np.allclose(one.history["val_loss"], plain.history["val_loss"], rtol=1e-3)
    assert one.manifest["data"]["hash"] != plain.manifest["data"]["hash"]


def test_evaluate_reads_unknown_letters_as_it_is_told():
    seqs = ["N" * 10 + s for s in random_seqs(30, 10, seed=3)]
    ds = make_dataset(seqs, targets=np.random.default_rng(0).normal(size=(30, 1)))
    torch.manual_seed(0); net = small(1)
    zero, uniform = (evaluate(net, ds, None, device="cpu", unknown=u)["mse"][0] for u in ("zero", "uniform"))
    assert zero != uniform
    for u, found in (("zero", zero), ("uniform", uniform)): assert found == pytest.approx(((predict(net, ds, device="cpu", unknown=u) - ds["targets"].values)**2).mean(), rel=1e-5)
    with pytest.raises(ValueError, match="`unknown` of predict"): evaluate(net, ds, None, unknown="skip")


def test_augmentations_of_a_config_reach_a_benchmark(tmp_path):
    ds = sides(make_dataset(random_seqs(60, 20, seed=4), targets=np.random.default_rng(0).normal(size=(60, 1))), 40, 10, 10)
    config = {"arch": {"name": "FCN", "input_len": 99, "dense": {"hidden": 4}}, "fit": {"epochs": 1, "transforms": [{"name": "RandomRC", "p": .5}], "unknown": "uniform"}}
    benchmark({"fcn": config}, ds, tmp_path, seeds=[1], overrides={"input_len": 20}, **QUICK)
    module = load_run(tmp_path / "fcn" / "seed_1")
    assert module.arch.input_len == 20 and "RandomRC" in (tmp_path / "fcn" / "seed_1" / "manifest.json").read_text()


def test_the_books_of_training_are_no_layers():
    from eugene.etl.loading import loader
    ds = sides(make_dataset(random_seqs(30, 20, seed=4), targets=np.zeros((30, 1))), 20, 5, 5)
    plan = experiment(SequenceModule(small(1)), loader(ds, 10, "train"), loader(ds, 10, "val"), 0)
    assert list(plan["layers"]) == ["module", "arch", "arch.0", "arch.1"]
    assert describe_data(loader(ds, 10, "train"), loader(ds, 10, "val"))["rows"] == {"train": 20, "val": 5}


# ---------------------------------------------------------------- seams

def test_no_chapter_takes_a_private_name_of_part_4_or_of_the_models():
    home = Path(eugene.__file__).parent
    for file in sorted(p for part in ("training", "interpretation") for p in (home / part).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level == 0: continue
            module = node.module or ""
            if file.parent.name == "training" and (node.level == 1 or module.startswith("models")) or module.startswith("training"):
                assert not [a.name for a in node.names if a.name.startswith("_")], f"{file.name} takes {[a.name for a in node.names]} from {module}"


def test_no_name_stands_for_two_things_in_part_4():
    homes = {}
    for file in sorted((Path(eugene.__file__).parent / "training").glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"): homes.setdefault(node.name, []).append(file.stem)
    assert not {k: v for k, v in homes.items() if len(v) > 1}
