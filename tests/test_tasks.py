"""Tasks: losses and metrics against torch, scikit-learn and torchmetrics; schedules and groups in a real trainer; validation over processes"""
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from eugene.core import rng
from eugene.etl.loading import Batch, loader
from eugene.etl.seqdata import make_dataset
from eugene.etl.sequences import random_seqs
from eugene.training.fit import fit_dataset
from eugene.training.losses import ACTIVATIONS, LABELS, LOSSES, TASKS, balanced_weights, check_labels, check_targets, get_loss, task_loss
from eugene.training.metrics import METRICS, task_metrics
from eugene.training.sequence_module import SequenceModule, quiet_lightning

PLAIN = [name for name, row in LOSSES.items() if not row.classes]
NAN = float("nan")


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_for(name, scores, seed=1):
    "Targets a loss makes sense of"
    u = torch.rand(scores.shape, generator=torch.Generator().manual_seed(seed))
    if name == "cross_entropy": return (u[:, :1] * scores.shape[1]).floor()
    return (u > .6).float() if name == "bce" else (5 * u).floor() if name == "poisson" else u


# ---------------------------------------------------------------- losses

def by_hand(name, s, y):
    "A loss of one cell, from its textbook formula, in double precision"
    s, y = np.float64(s), np.float64(y)
    d = abs(s - y)
    return {"mse": lambda: d**2, "mae": lambda: d, "huber": lambda: d**2 / 2 if d < 1 else d - .5,
            "bce": lambda: -np.log(1 / (1 + np.exp(-s))) if y == 1 else -np.log(1 - 1 / (1 + np.exp(-s))),
            "poisson": lambda: np.exp(s) - y * s}[name]()


@pytest.mark.parametrize("shape", [(7, 3), (5, 2, 4), (1, 1)])
@pytest.mark.parametrize("name", PLAIN)
def test_the_weighted_mean_is_the_loop_over_measured_cells(name, shape):
    scores = draw(0, *shape)
    y = labels_for(name, scores)
    if shape[0] > 1: y = y.masked_fill(draw(3, *shape) > .8, NAN)
    w, v = draw(4, shape[0]).abs(), draw(5, shape[1]).abs().tolist()
    upper = lower = 0.
    for at in np.ndindex(*shape):
        if torch.isnan(y[at]): continue
        cell = w[at[0]].item() * v[at[1]]
        upper, lower = upper + cell * by_hand(name, scores[at].item(), y[at].item()), lower + cell
    ours = get_loss({"name": name, "task_weights": v})(scores, y, w).item()
    assert np.isclose(ours, upper / lower, rtol=1e-5)


@pytest.mark.parametrize("name", list(LOSSES))
def test_laws_of_masks_and_weights(name):
    scores = draw(0, 20, 4)
    y, loss = labels_for(name, scores), get_loss(name)
    w = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(2)).float()
    again = torch.repeat_interleave(torch.arange(20), w.long())
    assert torch.allclose(loss(scores, y, w), loss(scores[again], y[again]), atol=1e-6)       # weight k: the row k times; 0: not there
    assert torch.allclose(loss(scores, y, 7 * torch.ones(20)), loss(scores, y), atol=1e-6)    # all alike: nothing
    gone = y.clone(); gone[3:9] = NAN
    kept = [i for i in range(20) if not 3 <= i < 9]
    assert torch.allclose(loss(scores, gone), loss(scores[kept], y[kept]), atol=1e-6)         # missing: dropped
    a, b = get_loss(name).sums(scores[:5], y[:5], w[:5]), get_loss(name).sums(scores[5:], y[5:], w[5:])
    assert torch.allclose((a[0] + b[0]) / (a[1] + b[1]), loss(scores, y, w), atol=1e-6)       # sums of parts make the whole


@pytest.mark.parametrize("bad", [0., float("inf"), -float("inf"), NAN])
@pytest.mark.parametrize("name", list(LOSSES))
def test_a_missing_cell_has_no_slope_whatever_the_network_said_there(name, bad):
    scores = draw(0, 6, 3)
    y = labels_for(name, scores)
    y[2] = NAN; scores[2] = bad
    scores.requires_grad_()
    slope, = torch.autograd.grad(get_loss(name)(scores, y), scores)
    assert (slope[2] == 0).all() and torch.isfinite(slope).all() and (slope[[0, 1, 3]] != 0).any()


@pytest.mark.parametrize("name", list(LOSSES))
def test_half_precision_is_compared_in_single(name):
    scores = draw(0, 50, 3)
    y, half = labels_for(name, scores), scores.bfloat16()
    loss = get_loss(name)(half, y)
    assert loss.dtype == torch.float32 and torch.equal(loss, get_loss(name)(half.float(), y))
    with torch.autocast("cpu", torch.bfloat16): assert get_loss(name)(half, y).dtype == torch.float32


@pytest.mark.parametrize("name", list(LOSSES))
def test_shapes_that_differ_are_never_broadcast(name):
    for a, b in [((8, 1), (8,)), ((8,), (8, 1)), ((8,), (8,)), ((8, 2), (8, 3)), ((8, 1), (1, 1)), ((8, 2, 3), (8, 2))]:
        with pytest.raises(ValueError, match="The network returned"): get_loss(name)(torch.zeros(a), torch.zeros(b))
    y = torch.zeros(8, 1) if LOSSES[name].classes else torch.zeros(8, 2)
    for w in (torch.ones(8, 1), torch.ones(1), torch.ones(2)):
        with pytest.raises(ValueError, match="one number a row"): get_loss(name)(torch.zeros(8, 2), y, w)


@pytest.mark.parametrize("smooth", [0., .1])
@pytest.mark.parametrize("weights", [None, [1., 2., .5, 0.]])
def test_cross_entropy_is_that_of_torch(weights, smooth):
    scores = 3 * draw(0, 40, 4)
    y = labels_for("cross_entropy", scores)
    y[::5] = NAN
    kept = ~torch.isnan(y[:, 0])
    theirs = F.cross_entropy(scores[kept], y[kept, 0].long(), weight=None if weights is None else torch.tensor(weights), label_smoothing=smooth)
    ours = get_loss({"name": "cross_entropy", "class_weights": weights, "label_smoothing": smooth} if weights else {"name": "cross_entropy", "label_smoothing": smooth})
    assert torch.allclose(ours(scores, y), theirs, rtol=1e-5)


def test_pos_weight_is_that_of_torch_for_columns_and_tracks():
    for shape in ((30, 3), (30, 3, 5)):
        scores = draw(0, *shape)
        y, weights = labels_for("bce", scores), torch.tensor([1., 4., 9.])
        theirs = F.binary_cross_entropy_with_logits(scores, y, pos_weight=weights.reshape(3, *[1] * (len(shape) - 2)))
        assert torch.allclose(get_loss({"name": "bce", "pos_weight": [1, 4, 9]})(scores, y), theirs, rtol=1e-5)
    with pytest.raises(ValueError, match="2 numbers for 3 columns"): get_loss({"name": "bce", "pos_weight": [1, 2]})(scores, y)


@pytest.mark.parametrize("link", ["exp", "softplus"])
def test_poisson_is_least_at_the_true_rate_and_its_slope_is_right(link):
    s = torch.linspace(-30, 8, 39, dtype=torch.float64)[:, None].requires_grad_()
    y = torch.full_like(s, 3.)
    rate = ACTIVATIONS[link](s)
    slope, = torch.autograd.grad(get_loss({"name": "poisson", "link": link})(s, y) * len(s), s, retain_graph=True)
    expected, = torch.autograd.grad((rate - y * torch.log(rate)).sum(), s)
    assert torch.allclose(slope, expected, rtol=1e-6)
    assert ((slope > 0) == (rate > y)).all()


def test_a_loss_of_ones_own_gets_weights_if_it_asks_for_them():
    x, y = torch.zeros(4, 4, 6), torch.ones(4, 1)
    arch = nn.Sequential(nn.Flatten(), nn.Linear(24, 1))
    batch = Batch(x, y, weight=torch.tensor([1., 0, 0, 0]))
    seen = []
    def own(scores, y, weight=None): seen.append(weight); return ((scores - y)**2).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SequenceModule(arch, loss=own).training_step(batch)
        assert torch.equal(seen[0], batch.weight)
        with pytest.raises(ValueError, match="no parameter `weight`"): SequenceModule(arch, loss=lambda s, y: (s - y).mean()).training_step(batch)


# ---------------------------------------------------------------- tasks and labels

def test_every_task_is_complete():
    for name, row in TASKS.items():
        assert row.labels in LABELS and set(row.activations) <= set(ACTIVATIONS)
        if name == "profile": continue # two answers: it has a module, losses and metrics of its own
        assert row.loss in LOSSES and set(row.metrics) <= set(METRICS) and set(row.activations) <= set(ACTIVATIONS)
        for activation in row.activations[:1]: assert task_loss(name, None, activation)[1] == activation
    assert {"regression", "binary", "multilabel", "multiclass", "poisson", "profile"} == set(TASKS)
    with pytest.raises(ValueError, match="choose one of 'regression', 'binary'"): task_metrics("classification")


@pytest.mark.parametrize("task, y, words", [
    ("binary", [[0.], [.5]], "row 8, target 'a', is 0.5"), ("multilabel", [[0, 1], [2, 3]], r"target 'a', is 2 \(2 such"), ("binary", [[0], [np.inf]], "is inf"),
    ("multiclass", [[0], [5]], r"number of classes \(5\), NaN where missing; row 8, target 'a', is 5"), ("multiclass", [[-1]], "is -1"), ("multiclass", [[1.5]], "is 1.5"), ("multiclass", [[np.inf]], "is inf"),
    ("poisson", [[1, -.5]], "target 'b', is -0.5"), ("poisson", [[np.inf]], "is inf"), ("regression", [[np.inf]], "finite"), ("regression", [[[1, -np.inf]]], "is -inf")])
def test_wrong_labels_are_named_by_row_and_target(task, y, words):
    with pytest.raises(ValueError, match=words): check_targets(np.array(y), task, scores=5, names=["a", "b"], rows=[7, 8])


def test_right_labels_pass_in_every_number_type(caplog):
    for kind in (bool, np.int8, np.uint16, np.int64, np.float32, np.float64):
        for task in ("binary", "multilabel", "multiclass", "poisson", "regression"):
            check_targets(np.array([[0], [1]]).astype(kind), task, scores=2)
    check_targets(np.array([[0.], [NAN], [1.]]), "multiclass", scores=2)
    assert not caplog.records
    for wrong in (np.array([["x"]]), np.array([[None]]), np.array([[1j]])):
        with pytest.raises(TypeError, match="Turn them into numbers"): check_targets(wrong, "regression")


def test_labels_that_teach_nothing(caplog):
    with pytest.raises(ValueError, match="3 val rows show one class only: 'a' .all 1."): check_targets(np.ones((3, 1)), "binary", names=["a"], split="val")
    check_targets(np.array([[0, 1], [1, 1]]), "multilabel", names=["a", "b"])
    assert "1 of 2 targets show one class only" in caplog.text and "'b' (all 1)" in caplog.text
    check_targets(np.array([[0], [3]]), "multiclass", scores=4)
    assert "2 of 4 classes do not occur" in caplog.text and "[1, 2]" in caplog.text


def test_balanced_weights_make_every_class_pull_alike():
    gen = rng(0)
    y = (gen.random((500, 3)) < [.5, .1, .02]).astype(float); y[::7, 1] = NAN
    w = balanced_weights(y, "multilabel")["pos_weight"]
    s = torch.zeros(1, 3, requires_grad=True)
    slope, = torch.autograd.grad(get_loss({"name": "bce", "pos_weight": w})(s.expand(500, 3), torch.tensor(y)), s)
    assert torch.allclose(slope, torch.zeros(3), atol=1e-7)
    c = gen.choice(3, (500, 1), p=[.8, .15, .05])
    s = torch.zeros(1, 3, requires_grad=True)
    slope, = torch.autograd.grad(get_loss({"name": "cross_entropy", **balanced_weights(c, "multiclass")})(s.expand(500, 3), torch.tensor(c).float()), s)
    assert torch.allclose(slope, torch.zeros(3), atol=1e-7)


# ---------------------------------------------------------------- metrics against scikit-learn, scipy, torchmetrics

@pytest.mark.parametrize("seed", range(6))
def test_numbers_and_counts_agree_with_scipy_and_scikit_learn(seed):
    stats, sk = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    gen = rng(seed)
    y, p = np.round(gen.normal(size=(80, 2)), 1), np.round(gen.normal(size=(80, 2)), 1)  # with ties
    counts, rate = gen.poisson(2, (80, 2)).astype(float), gen.gamma(2, 1, (80, 2)) + 1e-3
    for a in (y, counts): a[::9, 1] = NAN
    theirs = {"mae": sk.mean_absolute_error, "kendall": lambda a, b: stats.kendalltau(a, b)[0], "pearson2": lambda a, b: stats.pearsonr(a, b)[0]**2,
              "poisson_deviance": sk.mean_poisson_deviance, "poisson_d2": lambda a, b: sk.d2_tweedie_score(a, b, power=1)}
    for name, other in theirs.items():
        truth, pred = (counts, rate) if "poisson" in name else (y, p)
        kept = ~np.isnan(truth[:, 1])
        assert np.allclose(METRICS[name](truth, pred), [other(truth[:, 0], pred[:, 0]), other(truth[kept, 1], pred[kept, 1])]), name


@pytest.mark.parametrize("seed", range(6))
def test_decisions_agree_with_scikit_learn(seed):
    sk = pytest.importorskip("sklearn.metrics")
    gen = rng(seed)
    y, p = (gen.random((60, 2)) < [.3, .6]).astype(float), np.round(gen.random((60, 2)), 1)
    y[::9, 1] = NAN
    hard = {"accuracy": sk.accuracy_score, "balanced_accuracy": sk.balanced_accuracy_score, "precision": sk.precision_score, "recall": sk.recall_score, "f1": sk.f1_score, "mcc": sk.matthews_corrcoef}
    soft = {"brier": sk.brier_score_loss, "log_loss": sk.log_loss}
    for name, other in {**hard, **soft}.items():
        for t in (0, 1):
            kept = ~np.isnan(y[:, t])
            expected = other(y[kept, t], p[kept, t] >= .5 if name in hard else p[kept, t])
            assert np.isclose(METRICS[name](y, p)[t], expected), name
    y, odds = gen.integers(0, 4, (90, 1)).astype(float), 2 * gen.normal(size=(90, 4))
    p = np.exp(odds) / np.exp(odds).sum(1, keepdims=True); y[::8] = NAN
    kept = ~np.isnan(y[:, 0])
    true, called = y[kept, 0], p[kept].argmax(1)
    expected = {"accuracy": sk.accuracy_score(true, called), "balanced_accuracy": sk.balanced_accuracy_score(true, called), "f1": sk.f1_score(true, called, average="macro"),
                "precision": sk.precision_score(true, called, average="macro"), "recall": sk.recall_score(true, called, average="macro"), "mcc": sk.matthews_corrcoef(true, called),
                "auroc": sk.roc_auc_score(true, p[kept], multi_class="ovr"), "log_loss": sk.log_loss(true, p[kept]), "brier": ((np.eye(4)[true.astype(int)] - p[kept])**2).sum(1).mean()}
    for name, value in expected.items(): assert np.allclose(METRICS[name](y, p), [value]), name


def test_classes_agree_with_torchmetrics():
    tm = pytest.importorskip("torchmetrics.functional")
    gen = torch.Generator().manual_seed(0)
    p, y = torch.softmax(torch.randn(200, 5, generator=gen), 1), torch.randint(0, 5, (200,), generator=gen)
    kw = dict(num_classes=5)
    theirs = {"accuracy": tm.classification.multiclass_accuracy(p, y, average="micro", **kw), "balanced_accuracy": tm.classification.multiclass_accuracy(p, y, average="macro", **kw),
              "f1": tm.classification.multiclass_f1_score(p, y, average="macro", **kw), "auroc": tm.classification.multiclass_auroc(p, y, average="macro", **kw),
              "auprc": tm.classification.multiclass_average_precision(p, y, average="macro", **kw), "mcc": tm.classification.multiclass_matthews_corrcoef(p, y, **kw)}
    for name, value in theirs.items(): assert np.isclose(METRICS[name](y[:, None].numpy(), p.numpy())[0], value.item(), atol=1e-5), name


NOTHING = {"auroc": 0, "auprc": 0, "balanced_accuracy": 0, "mcc": 0, "r2": 0, "pearson": 0, "pearson2": 0, "spearman": 0, "kendall": 0, "poisson_d2": 0}

@pytest.mark.parametrize("name", list(NOTHING))
def test_where_there_is_nothing_to_tell_apart_the_answer_is_nan(name):
    p = rng(0).random((10, 2))
    assert np.isnan(METRICS[name](np.ones((10, 2)), p)).all()
    if name in ("auroc", "auprc", "balanced_accuracy", "mcc"): assert np.isnan(METRICS[name](np.ones((10, 1)), p / p.sum(1, keepdims=True))).all()


def test_tracks_are_measurements_of_their_column():
    gen = rng(1)
    y, p = gen.poisson(3, (6, 3, 20)).astype(float), gen.gamma(2, 1, (6, 3, 20)); y[0, 1, :5] = NAN
    for name in ("pearson", "r2", "mse", "poisson_d2", "spearman"):
        for t in range(3):
            assert np.isclose(METRICS[name](y, p)[t], METRICS[name](y[:, t].ravel(), p[:, t].ravel())[0]), name


# ---------------------------------------------------------------- the module in a trainer

class Linear(nn.Module):
    "Letters counted, then a dense layer: `(N, outputs)`; or `(N, outputs, bins)`"
    def __init__(self, outputs=1, bins=None, length=12):
        super().__init__()
        self.bins, self.outputs = bins, outputs
        self.body = nn.Linear(4, 4); self.head = nn.Linear(4, outputs * (bins or 1))
        for i, p in enumerate(self.parameters()): p.data = .3 * draw(i, *p.shape)
    def forward(self, x):
        out = self.head(self.body(x.mean(2)))
        return out if self.bins is None else out.reshape(len(x), self.outputs, self.bins)


def run(module, train, val, epochs=3, **kw):
    with quiet_lightning():
        kw = {"enable_checkpointing": False, **kw}
        trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False, **kw)
        trainer.fit(module, train, val, ckpt_path=None)
    return trainer


class Rates(pl.Callback):
    "Step sizes of every step, a list for each group"
    def __init__(self): self.seen = []
    def on_train_batch_start(self, trainer, *_): self.seen.append([g["lr"] for g in trainer.optimizers[0].param_groups])


@pytest.fixture(scope="module")
def ds():
    return simulated()


@pytest.mark.parametrize("weights", [None, "w"])
def test_losses_of_an_epoch_are_means_over_measured_cells(ds, weights):
    "Batches of 30, 30, 30 and 11 rows, measured unevenly: neither the mean of batches nor that of rows"
    module = SequenceModule(Linear(2), lr=0.)
    trainer = run(module, loader(ds, 30, weights=weights), loader(ds, 17, weights=weights), epochs=1)
    whole = next(iter(loader(ds, 101, weights=weights)))
    with torch.no_grad(): expected = module.loss(module(whole.x), whole.y, whole.weight).item()
    assert np.isclose(trainer.callback_metrics["train_loss"], expected, rtol=1e-5) and np.isclose(trainer.callback_metrics["val_loss"], expected, rtol=1e-5)
    with torch.no_grad(): means = [module.loss(module(b.x), b.y, b.weight).item() for b in loader(ds, 30, weights=weights)]
    assert not np.isclose(np.mean(means), expected, rtol=1e-3)


@pytest.mark.parametrize("task, outputs, bins", [("multilabel", 3, None), ("multiclass", 4, None), ("poisson", 2, None), ("poisson", 2, 5), ("regression", 2, 5), ("binary", 1, None)])
def test_every_task_learns(task, outputs, bins):
    x = torch.stack([next(iter(loader(make_dataset(random_seqs(300, 12, seed=1)), 300))).x])[0]
    with torch.no_grad(): truth = Linear(outputs, bins)(x)
    truth = (truth - truth.mean(0)) / truth.std(0)
    y = {"multilabel": lambda: (truth > truth.median(0).values).float(), "multiclass": lambda: truth.argmax(1, keepdim=True).float(), "poisson": lambda: torch.poisson(truth.exp(), generator=torch.Generator().manual_seed(0)),
         "regression": lambda: truth, "binary": lambda: (truth > truth.median()).float()}[task]()
    y = y.masked_fill(draw(7, *y.shape) > 1.3, NAN)
    batches = torch.utils.data.DataLoader([(x[i:i + 50], y[i:i + 50]) for i in range(0, 300, 50)], batch_size=None)
    arch = Linear(outputs, bins)
    for i, p in enumerate(arch.parameters()): p.data = .1 * draw(20 + i, *p.shape)
    module = SequenceModule(arch, task, lr=.05)
    before = float(module.loss(module(x), y).detach())
    found = run(module, batches, batches, epochs=25).callback_metrics
    assert found["val_loss"] < before - .05 * abs(before)
    assert {f"val_{m}" for m in TASKS[task].metrics} <= set(found)
    with torch.no_grad(): p = module.activate(module(x)).numpy()
    for name, metric in task_metrics(task).items(): assert np.isclose(found[f"val_{name}"], np.nanmean(metric(y.numpy(), p)), rtol=1e-4), name


def test_fit_refuses_wrong_labels_and_keeps_plain_settings(tmp_path, ds):
    labels = ds.isel(target=[0]).assign(targets=(ds["targets"][:, :1] > 0).astype("float32"))
    labels["split"] = "sequence", np.repeat(["train", "val"], [80, 21]).astype(object)
    wrong = labels.copy(deep=True); wrong["targets"][0] = .5
    module = SequenceModule(Linear(1), "binary", loss={"pos_weight": 2}, lr={"head": .1, "default": .01}, scheduler="cosine")
    done = fit_dataset(module, labels, tmp_path / "good", batch_size=40, epochs=2, device="cpu", progress=False)
    recorded = json.loads((tmp_path / "good" / "manifest.json").read_text())["config"]["module"]
    assert recorded["loss"] == {"name": "bce", "pos_weight": 2} and recorded["lr"] == {"head": .1, "default": .01} and recorded["activation"] == "sigmoid"
    again = SequenceModule(Linear(1), **recorded)  # what is on record builds the module
    assert again.settings == module.settings and done.history["val_auroc"].notna().all()
    with pytest.raises(ValueError, match="row .*target .*is 0.5"): fit_dataset(module, wrong, tmp_path / "bad", batch_size=80, epochs=1, device="cpu", progress=False)


def test_groups_have_their_step_sizes_and_frozen_layers_stay(ds):
    before = Linear(2).state_dict()
    arch = Linear(2); arch.body.weight.requires_grad_(False)
    module, rates = SequenceModule(arch, optimizer="adamw", lr={"head": .1, "default": .01}, optimizer_kwargs={"weight_decay": .5}, scheduler="step", scheduler_kwargs={"step_size": 1, "gamma": .5}), Rates()
    trainer = run(module, loader(ds, 30), loader(ds, 101), 2, callbacks=[rates])
    assert [len(g["params"]) for g in trainer.optimizers[0].param_groups] == [2, 1]
    assert rates.seen == [[.1, .01]] * 4 + [[.05, .005]] * 4
    after = module.arch.state_dict()
    assert torch.equal(after["body.weight"], before["body.weight"]) and not torch.equal(after["body.bias"], before["body.bias"]) and not torch.equal(after["head.weight"], before["head.weight"])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["cosine", "warmup_cosine", "one_cycle"])
def test_a_curve_ends_with_the_run_and_moves_with_every_step_of_the_optimiser(ds, name, accumulate):
    module, rates = SequenceModule(Linear(2), lr={"head": .1, "default": .01}, scheduler=name), Rates()
    trainer = run(module, loader(ds, 20), loader(ds, 101), 4, callbacks=[rates], accumulate_grad_batches=accumulate)
    steps = 4 * -(-6 // accumulate)
    assert trainer.global_step == steps
    schedule = trainer.lr_scheduler_configs[0].scheduler
    length = {"cosine": getattr(schedule, "T_max", None), "one_cycle": getattr(schedule, "total_steps", None)}.get(name)
    assert length in (steps, None)
    seen = np.array(rates.seen)[::accumulate][:, 0]
    assert np.allclose(np.array(rates.seen)[:, 0], 10 * np.array(rates.seen)[:, 1]) and len(np.unique(np.round(seen, 12))) >= len(seen) - 2 and seen[-1] < .02 * max(seen) * (accumulate * 2)


def test_lengths_can_be_given_by_hand_and_a_run_without_end_is_refused(ds):
    for kw, sizes in [({"T_max": 2}, [.1, .05, 0.]), ({"interval": "epoch"}, [.1] * 4 + [.05] * 4)]:
        rates = Rates(); run(SequenceModule(Linear(2), lr=.1, scheduler="cosine", scheduler_kwargs=kw), loader(ds, 30), loader(ds, 101), 2, callbacks=[rates])
        assert np.allclose([r[0] for r in rates.seen][:len(sizes)], sizes, atol=1e-9)
    with pytest.raises(ValueError, match="no end"): run(SequenceModule(Linear(2), scheduler="cosine"), loader(ds, 30), loader(ds, 101), -1)


@pytest.mark.parametrize("name, kw", [("plateau", {"patience": 0}), ("cosine", {}), ("warmup_cosine", {}), ("one_cycle", {}), ("multistep", {"milestones": [1, 3]})])
def test_a_resumed_run_goes_on_with_the_same_step_sizes_and_weights(ds, tmp_path, name, kw):
    def go(epochs, path=None, stop=None):
        module, rates = SequenceModule(Linear(2), optimizer="adam", lr=.05, optimizer_kwargs={"amsgrad": True}, scheduler=name, scheduler_kwargs=kw), Rates()
        keep = pl.callbacks.ModelCheckpoint(tmp_path / name, "epoch{epoch}", save_top_k=-1, auto_insert_metric_name=False, enable_version_counter=False)
        with quiet_lightning():
            trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[rates, keep])
            trainer.fit(module, loader(ds, 30, shuffle=True), loader(ds, 101), ckpt_path=path)
        return module, rates.seen
    whole, sizes = go(4)
    part, late = go(4, tmp_path / name / "epoch1.ckpt")
    assert np.allclose(late, sizes[8:], rtol=1e-12)
    for a, b in zip(whole.state_dict().values(), part.state_dict().values()): assert torch.allclose(a, b, atol=1e-6)


def test_a_validation_set_that_is_too_large_is_cut_with_a_warning(ds, caplog, monkeypatch):
    from eugene.training import sequence_module
    monkeypatch.setattr(sequence_module.KeptBatches.__init__, "__defaults__", (100,))
    trainer = run(SequenceModule(Linear(2), lr=0.), loader(ds, 30), loader(ds, 20), 1, num_sanity_val_steps=0)
    assert "first 2 batches" in caplog.text and trainer.callback_metrics["val_loss"].isfinite()


# ---------------------------------------------------------------- several processes

SHARED = """
import json, sys, warnings
sys.path.insert(0, {tests!r})
warnings.simplefilter("ignore")
import pytorch_lightning as pl
from torch.utils.data import DataLoader
from test_tasks import Linear, simulated
from eugene.etl.loading import loader
from eugene.training.sequence_module import SequenceModule, quiet_lightning

ds, found = simulated(), {{}}
for kind in ("padded", "unequal", "plateau"):
    module = SequenceModule(Linear(2), lr=.05 if kind == "plateau" else 0., scheduler="plateau" if kind == "plateau" else "cosine")
    with quiet_lightning():
        trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                             enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0)
        whole = list(loader(ds, 20, weights="w", shard=(0, 1)))
        mine = whole[:2] if trainer.global_rank == 0 else whole[2:]
        trainer.fit(module, loader(ds, 20, weights="w"), DataLoader(mine, batch_size=None) if kind == "unequal" else loader(ds, 20, weights="w"))
    found[kind] = {{k: v.item() for k, v in trainer.callback_metrics.items()}}
    if kind != "plateau": assert trainer.lr_scheduler_configs[0].scheduler.T_max == trainer.global_step
json.dump(found, open({out!r} + str(trainer.global_rank), "w"))
"""


def simulated():
    "101 rows, an odd number, so that two processes have a row twice; two targets, measured unevenly; weights"
    seqs, gen = random_seqs(101, 12, seed=0), rng(0)
    y = np.array([[s.count("G") - s.count("A"), s.count("C")] for s in seqs]) + .1 * gen.normal(size=(101, 2))
    y[gen.random(101) < .3, 1] = NAN
    y[:20, 1] = NAN
    return make_dataset(seqs, targets=y, columns={"w": gen.random(101) * 3}, missing="keep")


@pytest.mark.slow
def test_two_processes_report_the_numbers_of_one(tmp_path, ds):
    "A row that both have counts once; shares of 40 and 61 rows are put together whole"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    script = tmp_path / "run.py"
    script.write_text(SHARED.format(tests=str(Path(__file__).parent), out=str(tmp_path / "found")))
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"found{rank}").read_text()) for rank in (0, 1))
    one = {k: v.item() for k, v in run(SequenceModule(Linear(2), lr=0.), loader(ds, 20, weights="w"), loader(ds, 20, weights="w"), 1).callback_metrics.items()}
    assert first == second
    for kind in ("padded", "unequal"):
        assert set(first[kind]) == set(one) >= {"train_loss", "val_loss", "val_r2", "val_spearman"}
        for k in one:
            exact = k.startswith("val_")  # the training loss counts the row that fills a share up
            assert np.isclose(first[kind][k], one[k], rtol=1e-5 if exact else .05), (kind, k)
    whole = next(iter(loader(ds, 101, weights="w")))
    twice = torch.tensor([*range(101), 0])
    module = SequenceModule(Linear(2))
    with torch.no_grad(): assert np.isclose(first["padded"]["train_loss"], module.loss(module(whole.x[twice]), whole.y[twice], whole.weight[twice]).item(), rtol=1e-5)
