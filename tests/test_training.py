"""Training from the outside: runs repeat across processes, finished runs are taken up, killed runs are not, numbers agree with others"""
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eugene.core import rng
from eugene.etl.loading import loader
from eugene.etl.seqdata import make_dataset, open_zarr, to_zarr
from eugene.etl.sequences import ohe, random_seqs
from eugene.training import metrics
from eugene.training.configs import from_config, load_config
from eugene.training.evaluation import evaluate
from eugene.training.fit import fit, fit_dataset
from eugene.training.losses import LOSSES, get_loss
from eugene.training.prediction import predict
from eugene.training.sequence_module import SequenceModule
from toy_models import LinearModel, ModeModel, SumModel

CONFIGS = sorted(p for p in (Path(__file__).parents[1] / "use_cases" / "configs" / "jores21").glob("*.yaml") if p.stem != "published")
SMALL = {"arch": {"name": "CNN", "input_len": 30, "conv": {"channels": [8], "kernels": 6, "pool": "max", "pool_kernel": 4, "norm": "batch", "dropout": .2}, "dense": {"hidden": 8}},
         "init": {"scheme": "kaiming_normal"}, "module": {"lr": .01, "scheduler": "plateau"}}


@pytest.fixture(scope="module")
def ds():
    "Simulated promoters of 30 bp: 2 for the TATA box planted in half of them, plus noise; two targets, the second half measured"
    seqs, gen = random_seqs(500, 30, seed=0), rng(1)
    planted, starts = gen.random(500) < .5, gen.integers(0, 23, 500)
    seqs = [s[:i] + "TATAAA" + s[i + 6:] if there else s for s, i, there in zip(seqs, starts, planted)]
    y = 2. * planted[:, None] + .1 * gen.normal(size=(500, 1))
    y = np.concatenate([y, -y], 1)
    y[::2, 1] = np.nan
    made = make_dataset(seqs, targets=y, target_names=["activity", "opposite"], missing="keep")
    made["split"] = "sequence", np.repeat(["train", "val", "test"], [300, 100, 100]).astype(object)
    return made


@pytest.fixture(scope="module")
def one(ds):
    return ds.isel(target=[0])


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def quick(module, ds, out, **kw):
    return fit_dataset(module, ds, out, **{"batch_size": 50, "epochs": 2, "device": "cpu", "progress": False, **kw})


# ---------------------------------------------------------------- runs repeat

RUN = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np, torch
from test_training import SMALL, quick
from eugene.etl.seqdata import open_zarr
from eugene.training.configs import from_config
torch.manual_seed({noise}); np.random.seed({noise})
run = quick(from_config(SMALL, seed=3), open_zarr({store!r}), {out!r}, epochs={epochs}, **{kw})
print(run.manifest["checkpoint"]["sha256"])
"""


def script(store, out, noise=0, epochs=2, **kw):
    return textwrap.dedent(RUN.format(tests=str(Path(__file__).parent), store=str(store), out=str(out), noise=noise, epochs=epochs, kw=kw))


def test_another_process_gets_the_same_weights_and_can_take_them_up(one, tmp_path):
    "Whatever state its own random numbers are in, and however many threads encode. Both processes are fresh and compute with one thread: sums of another number of threads differ in the last bits"
    to_zarr(one, tmp_path / "ds.zarr")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    start = lambda name, **kw: subprocess.Popen([sys.executable, "-c", script(tmp_path / "ds.zarr", tmp_path / name, **kw)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    ended = [(p.communicate(timeout=300), p.returncode) for p in (start("here"), start("there", noise=7, num_workers=1))]
    for (out, err), code in ended: assert code == 0 and "UserWarning" not in err, err
    here, there = (quick(from_config(SMALL, seed=3), one, tmp_path / name, reuse=True) for name in ("here", "there"))
    assert equal(weights(there.module), weights(here.module)) and not equal(weights(there.module), weights(from_config(SMALL, seed=3)))
    assert there.history.equals(here.history)
    assert there.manifest["data"] == here.manifest["data"]


def test_a_killed_run_cannot_pass_for_a_finished_one(one, tmp_path):
    to_zarr(one, tmp_path / "ds.zarr")
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", script(tmp_path / "ds.zarr", out, epochs=100_000, patience=None)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if (out / "best.ckpt").exists() or process.poll() is not None: break
        time.sleep(.1)
    process.send_signal(signal.SIGKILL); process.wait()
    assert (out / "best.ckpt").exists() and not (out / "manifest.json").exists()
    again = quick(from_config(SMALL, seed=3), one, out, reuse=True)
    assert again.manifest["epochs"] == 2
    assert equal(weights(again.module), weights(quick(from_config(SMALL, seed=3), one, tmp_path / "clean").module))
    assert sorted(p.name for p in out.iterdir()) == ["best.ckpt", "history.csv", "last.ckpt", "manifest.json"]


def test_each_seed_by_its_effect(one, tmp_path):
    "The seed of the first weights, of the run, and of the order of batches each change the result"
    runs = [quick(from_config(SMALL, seed=s), one, tmp_path / f"{s}{t}", seed=t).module for s, t in ((0, 0), (1, 0), (0, 1))]
    assert not equal(weights(runs[0]), weights(runs[1])) and not equal(weights(runs[0]), weights(runs[2]))
    val = loader(one, 50, "val")
    orders = [fit(from_config(SMALL), loader(one, 50, "train", shuffle=True, seed=s), val, tmp_path / f"o{s}", epochs=1, device="cpu", progress=False).module for s in (0, 1)]
    assert not equal(weights(orders[0]), weights(orders[1]))


# ---------------------------------------------------------------- finished runs

@pytest.mark.parametrize("change, names", [
    (dict(epochs=3), "config.fit.epochs: 2 on record, 3 now"), (dict(seed=1), "seed: 0 on record, 1 now"),
    (dict(batch_size=25), "data.batch_size.train: 50 on record, 25 now"), (dict(gradient_clip_val=1.), "config.fit.gradient_clip_val"),
    (dict(config={**SMALL, "module": {"lr": .02}}), "config.module.lr: 0.01 on record, 0.02 now"), (dict(start=1), "initial_weights"), (dict(rows=400), "data.rows.val"),
    (dict(unknown="uniform"), "data.unknown.train: 'zero' on record, 'uniform' now"), (dict(dropout=.9), "layers.arch.conv.0.dropout: 'Dropout(p=0.2, inplace=False)' on record, 'Dropout(p=0.9")])
def test_another_experiment_is_not_taken_up(one, tmp_path_factory, change, names):
    out = tmp_path_factory.getbasetemp() / "finished"
    if not out.exists(): quick(from_config(SMALL), one, out)
    before = (out / "manifest.json").read_bytes()
    data = one.isel(sequence=slice(0, change.pop("rows", 500) - 10)) if "rows" in change else one
    module = from_config(change.pop("config", SMALL), seed=change.pop("start", 0))
    module.arch.conv[0].dropout.p = change.pop("dropout", .2)
    with pytest.raises(ValueError, match="another experiment") as error: quick(module, data, out, reuse=True, **change)
    assert names in str(error.value) and "reuse=False" in str(error.value)
    assert (out / "manifest.json").read_bytes() == before


def test_a_checkpoint_that_was_changed_is_refused(one, tmp_path):
    quick(from_config(SMALL), one, tmp_path)
    with open(tmp_path / "best.ckpt", "ab") as f: f.write(b"\0")
    with pytest.raises(ValueError, match="not the file its manifest describes"): quick(from_config(SMALL), one, tmp_path, reuse=True)
    assert quick(from_config(SMALL), one, tmp_path).manifest["epochs"] == 2


def test_the_manifest_says_what_made_the_weights(one, tmp_path):
    run = quick(from_config(SMALL, seed=3), one, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert manifest == run.manifest
    assert {"config", "layers", "seed", "data", "initial_weights", "metrics", "epochs", "best_epoch", "seconds", "finished", "eugene", "environment", "processes", "checkpoint"} == set(manifest)
    assert manifest["config"]["arch"] == SMALL["arch"] and manifest["config"]["fit"]["epochs"] == 2
    assert manifest["data"]["rows"] == {"train": 300, "val": 100}
    assert run.manifest["metrics"]["val_loss"] == run.history["val_loss"].min()
    rebuilt = from_config({k: manifest["config"][k] for k in ("arch", "init", "module")})
    rebuilt.load_state_dict(torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"])
    assert np.array_equal(predict(rebuilt, one, device="cpu"), predict(run.module, one, device="cpu"))


# ---------------------------------------------------------------- learning

def test_missing_labels_and_two_targets(ds, tmp_path):
    "Half of the second target is missing; both are learned, and the model is scored on what was measured"
    module = from_config({**SMALL, "module": {"lr": .02}}, output_dim=2)
    run = quick(module, ds, tmp_path, epochs=15)
    table = evaluate(run.module, ds)
    assert table["n"].tolist() == [100, 50] and (table["pearson"] > .5).all()
    y, pred = ds["targets"].values[300:400], predict(run.module, ds, device="cpu")[300:400]
    assert np.isclose(run.history["val_loss"].min(), np.nanmean((y - pred) ** 2), rtol=1e-4)


def test_binary_task_end_to_end(one, tmp_path):
    labels = one.assign(targets=(one["targets"] > 1).astype("float32"))
    run = quick(from_config({**SMALL, "module": {"task": "binary", "lr": .02}}), labels, tmp_path, epochs=12)
    assert evaluate(run.module, labels)["auroc"][0] > .75
    probability = predict(run.module, labels, device="cpu", activate=True)
    assert ((probability > 0) & (probability < 1)).all()
    assert np.allclose(probability, 1 / (1 + np.exp(-predict(run.module, labels, device="cpu"))), atol=1e-5)
    with pytest.raises(ValueError, match="labels 0 and 1"): quick(from_config({**SMALL, "module": {"task": "binary"}}), one, tmp_path / "activity")


@pytest.mark.parametrize("size", [299, 14, 300])
def test_no_batch_of_one_reaches_batch_norm(one, tmp_path, caplog, size):
    "300 sequences: the last batch would hold 1 of 299, is left out, and the log says so; batches of 14 and 300 are as ever"
    config = {**SMALL, "arch": {**SMALL["arch"], "dense": {"hidden": 8, "norm": "batch"}}}
    run = quick(from_config(config), one, tmp_path, batch_size=size)
    assert len(run.history) == 2 and run.manifest["data"]["order"]["drop_last"] == (size == 299) == ("leave one alone" in caplog.text)
    assert run.manifest["data"]["rows"]["train"] == 300


def test_a_split_without_any_measurement_is_refused(one, tmp_path):
    for side in ("train", "val"):
        with pytest.raises(ValueError, match=f"{side} rows are missing"): quick(from_config(SMALL), one.assign(targets=one["targets"].where(one["split"] != side)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_validation_does_not_depend_on_the_batch_size(one, tmp_path):
    rows = []
    for size in (7, 100):
        train, val = loader(one, 50, "train", shuffle=True), loader(one, size, "val")
        rows.append(fit(from_config(SMALL), train, val, tmp_path / str(size), epochs=1, device="cpu", progress=False).history.iloc[0])
    assert np.allclose(rows[0].values.astype(float), rows[1].values.astype(float), rtol=1e-4)


class Interrupts(nn.Module):
    "Presses Ctrl-C in the second batch"
    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(120, 1), 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 2: raise KeyboardInterrupt
        return self.linear(x.flatten(1))


def test_ctrl_c_is_an_ordinary_interrupt(one, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt): quick(SequenceModule(Interrupts()), one, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not (tmp_path / "manifest.json").exists()


def test_one_bar_and_nothing_else_is_shown(one, tmp_path, capfd, recwarn):
    quick(from_config(SMALL), one, tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    quick(from_config(SMALL), one, tmp_path / "bar", progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "epoch 2/2" in err and "val_loss" in err
    states = [state for state in err.split("\r") if state.strip()]  # one bar that overwrites itself, on one line
    assert "\n" not in err and all(state.startswith(("fit:", "epoch ")) for state in states)
    assert not [w for w in recwarn if "lightning" in str(w.filename)]


# ---------------------------------------------------------------- prediction

def test_prediction_is_exact_for_a_model_known_by_hand(ds):
    w = rng(0).normal(size=(3, 4, 30))
    x = ohe(random_seqs(50, 30, seed=2))
    assert np.allclose(predict(LinearModel(w), x), np.einsum("nal,tal->nt", x, w), atol=1e-5)
    model = ModeModel().train()
    assert np.array_equal(predict(model, x)[:, 0], x[:, 1:3].sum((1, 2))) and model.training and model.drop.training


def test_a_model_that_writes_on_its_input_cannot_reach_the_data():
    class Centres(SumModel):
        def forward(self, x):
            x -= .25; return super().forward(x)

    x = ohe(random_seqs(5, 30, seed=1)).astype("float32")
    for data in (x.copy(), torch.tensor(x)):
        assert np.allclose(predict(Centres(), data)[:, 0], x[:, 1:3].sum((1, 2)) - 15) and np.array_equal(np.asarray(data), x)


def test_a_store_is_read_in_slabs_and_encoded_by_the_batch(ds, tmp_path):
    "Neither the whole text nor the whole one-hot of a store is ever held: the largest input the model sees is one batch"
    seqs = random_seqs(20_000, 30, seed=5)
    to_zarr(make_dataset(seqs), tmp_path / "many.zarr")
    sizes = []

    class Counts(SumModel):
        def forward(self, x):
            sizes.append(len(x)); return super().forward(x)

    scores = predict(Counts(), open_zarr(tmp_path / "many.zarr"), batch_size=512)
    assert max(sizes) == 512 and len(sizes) == 40
    assert np.array_equal(scores[:, 0], [s.count("C") + s.count("G") for s in seqs])


# ---------------------------------------------------------------- agreement with other programs

@pytest.mark.parametrize("seed", range(5))
def test_metrics_agree_with_scipy_and_scikit_learn(seed):
    stats, sk = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    gen = rng(seed)
    y, p = gen.normal(size=(60, 2)), np.round(gen.normal(size=(60, 2)), 1)
    label = (gen.random((60, 2)) < .3).astype(float)
    theirs = {"r2": lambda a, b: sk.r2_score(a, b), "mse": sk.mean_squared_error, "pearson": lambda a, b: stats.pearsonr(a, b)[0],
              "spearman": lambda a, b: stats.spearmanr(a, b)[0], "auroc": sk.roc_auc_score, "auprc": sk.average_precision_score}
    assert set(theirs) <= set(metrics.METRICS)
    for name, other in theirs.items():
        truth = label if name in ("auroc", "auprc") else y
        expected = [other(truth[:, t], p[:, t]) for t in (0, 1)]
        assert np.allclose(metrics.METRICS[name](truth, p), expected), name
        gaps = truth.copy(); gaps[::7, 1] = np.nan
        kept = ~np.isnan(gaps[:, 1])
        assert np.allclose(metrics.METRICS[name](gaps, p), [expected[0], other(truth[kept, 1], p[kept, 1])]), name


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if not row.classes])  # those of classes: test_tasks.py
def test_losses_agree_with_torch_where_all_is_measured_and_where_not(name):
    gen = torch.Generator().manual_seed(0)
    scores, y = torch.randn(40, 3, generator=gen, requires_grad=True), torch.rand(40, 3, generator=gen)
    row = LOSSES[name]
    assert torch.allclose(get_loss(name)(scores, y), row.each(scores, y))
    holes = torch.rand(40, 3, generator=gen) < .4
    gaps = y.masked_fill(holes, float("nan"))
    loss = get_loss(name)(scores, gaps)
    assert torch.allclose(loss, row.each(scores[~holes], y[~holes]))
    slope, = torch.autograd.grad(loss, scores)
    assert (slope[holes] == 0).all() and torch.isfinite(slope).all()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_of_the_use_case_is_valid_and_says_what_training_is(path):
    config = load_config(path)
    assert set(config) == {"arch", "init", "module", "fit"} and all(config[part] for part in ("arch", "module", "fit"))
    assert config["init"] or path.stem == "best"  # our own recipe begins with PyTorch's weights, the paper's configs do not
    assert {"epochs", "batch_size", "patience"} <= set(config["fit"])


def test_a_run_that_cannot_begin_leaves_the_finished_one(one, tmp_path):
    "An old result is replaced when its successor really trains, not when it is asked for"
    quick(from_config(SMALL), one, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(ValueError):
        quick(from_config(SMALL, output_dim=3), one, tmp_path)  # the Dataset has one target
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
