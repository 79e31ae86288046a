"""Runs that are killed, go on, are shared out among processes, or meet a full disk; everything is compared with runs that met nothing"""
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eugene.core import rng
from eugene.etl.loading import loader
from eugene.etl.seqdata import make_dataset
from eugene.etl.sequences import random_seqs
from eugene.training.callbacks import fill_weights, read_checkpoint
from eugene.training.fit import fit, fit_dataset
from eugene.training.sequence_module import OPTIMIZERS, SCHEDULERS, SequenceModule

ROOT = Path(__file__).parents[1]


def simulated(n=170, length=20):
    "Simulated sequences; the target is the number of G minus the number of T, plus noise"
    seqs = random_seqs(n, length, seed=0)
    y = np.array([[s.count("G") - s.count("T")] for s in seqs]) + .1 * rng(1).normal(size=(n, 1))
    ds = make_dataset(seqs, targets=y, target_names=["activity"])
    ds["split"] = "sequence", np.repeat(["train", "val", "test"], [n - 50, 40, 10]).astype(object)
    return ds


def network(seed=0, norm=True, dropout=.3, **kw):
    "Everything that draws or remembers: dropout, batch norm, Adam, a plateau schedule that reacts at once"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Conv1d(4, 6, 5), *([nn.BatchNorm1d(6)] if norm else []), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(96, 1)]
    return SequenceModule(nn.Sequential(*layers), **{"lr": .03, "scheduler": "plateau", "scheduler_kwargs": {"patience": 0}, **kw})


def train(out, ds=None, module=None, **kw):
    from eugene.etl.augmentation import Mutate, RandomRC
    return fit_dataset(module or network(), simulated() if ds is None else ds, out,
                       **{"batch_size": 16, "epochs": 5, "patience": 3, "device": "cpu", "progress": False, "transforms": [RandomRC(), Mutate(.05)], **kw})


def same(a, b):
    "Two states, whatever they are made of, are equal to the last bit"
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    return a == b or a != a and b != b


def same_run(a, b, processes=1):
    "Two folders hold the same run: history, best weights, the whole last state, and the record but for the time"
    assert (a / "history.csv").read_bytes() == (b / "history.csv").read_bytes()
    best, last = ([read_checkpoint(out / name) for out in (a, b)] for name in ("best.ckpt", "last.ckpt"))
    assert same(*best) and best[0]["global_step"] > 0
    assert same(*last) and {"optimizer_states", "lr_schedulers", "callbacks", "loops"} <= set(last[0])
    records = [json.loads((out / "manifest.json").read_text()) for out in (a, b)]
    for record in records: record.pop("seconds"), record.pop("finished"), record["checkpoint"].pop("sha256")
    assert records[0] == records[1] and records[0]["processes"] == processes
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir()) == ["best.ckpt", "history.csv", "last.ckpt", "manifest.json"]


# ---------------------------------------------------------------- killed processes

KILLS = """
import os, resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
import eugene.core, eugene.training.callbacks as callbacks
from test_fit import network, same_run, simulated, train
folder, seed, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
gen = np.random.default_rng(seed)

def child(out, before=lambda: None, **kw):
    "A run in a process of its own; how it ended"
    pid = os.fork()
    if not pid:
        try: before(); train(out, resume=True, **kw); os._exit(0)
        except BaseException as e: print(type(e).__name__, e, flush=True); os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def die(): os.kill(os.getpid(), signal.SIGKILL)

def at_call(place, name, n, half=False, after=False):
    "Dies at the n-th call of a function: before it, after it, or having written half of the file"
    def arm():
        real, calls = getattr(place, name), [0]
        def deadly(*args, **kw):
            calls[0] += 1
            if calls[0] != n: return real(*args, **kw)
            if half: args[1].write(b"PK" + bytes(500)); args[1].flush()
            if after: real(*args, **kw)
            die()
        setattr(place, name, deadly)
    return arm

step = lambda n: at_call(callbacks.Watch, "on_train_batch_end", n)
assert child(folder / "whole") == 0
whole = len((folder / "whole" / "history.csv").read_text().splitlines()) - 1
scenes = {{"first epoch": [step(3)], "mid-epoch": [step(19)], "last batch of an epoch": [step(16)], "first batch of an epoch": [step(17)],
    "twice in one epoch": [step(20), step(3)], "in every epoch": [step(9 + i) for i in (1, 4, 7, 2)],
    "before the best weights are renamed": [at_call(os, "replace", 2)], "after they were": [at_call(os, "replace", 2, after=True)],
    "before the state is renamed": [at_call(os, "replace", 6)], "after it was": [at_call(os, "replace", 6, after=True)],
    "half of the best weights": [at_call(callbacks.torch, "save", 1, half=True)], "before the record": [at_call(callbacks.Keep, "on_train_end", 1, after=True)],
    **{{f"step {{n}}": [step(n)] for n in gen.integers(1, 8 * whole, kills)}}}}
few = ["mid-epoch", "first batch of an epoch", "before the state is renamed", "half of the best weights", "before the record"]
for name, deaths in scenes.items():
    if kills < 10 and name not in few and not name.startswith("step"): continue
    out = folder / name
    for death in deaths: assert child(out, death) == -9, name
    assert not (out / "manifest.json").exists(), name
    if "half" in name: assert list(out.glob(".best.ckpt.*")), "nothing was half written"
    assert child(out) == 0, name
    same_run(folder / "whole", out)
    print(name, flush=True)

def full_disk():
    "No file may grow beyond 1,000 bytes once the third epoch has begun"
    real = callbacks.Keep.save
    def save(self, trainer):
        if len(self.watch.rows) == 2: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        real(self, trainer)
    callbacks.Keep.save = save
assert child(folder / "full", full_disk) == 1
assert callbacks.read_checkpoint(folder / "full" / "last.ckpt")["callbacks"]["Keep"]["saved"] == 1
assert child(folder / "full") == 0; same_run(folder / "whole", folder / "full")
print("done")
"""


def kill_and_go_on(folder, seed, kills, timeout=600):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLS.format(tests=str(Path(__file__).parent)), str(folder), str(seed), str(kills)], env=env, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0 and done.stdout.split()[-1] == "done", done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_a_run_that_was_killed_goes_on_to_the_result_it_would_have_had(tmp_path):
    "At chosen and random steps, between the files of a state, within one, with a full disk: bit for bit"
    said = kill_and_go_on(tmp_path, 0, 1)
    assert "could not be written: File too large" in said and "resume=True to go on" in said


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_wherever_it_was_killed(tmp_path):
    kill_and_go_on(tmp_path, 1, 60, 1800)


def test_ctrl_c_keeps_the_state_and_says_how_to_go_on(tmp_path, monkeypatch):
    from eugene.training.callbacks import Watch
    real, calls = Watch.on_train_batch_end, []

    def pressed(self, *args):
        calls.append(1); real(self, *args)
        if len(calls) == 20: raise KeyboardInterrupt
    whole = train(tmp_path / "whole")
    monkeypatch.setattr(Watch, "on_train_batch_end", pressed)
    with pytest.raises(KeyboardInterrupt, match="after 2 whole epochs; the same call with resume=True"): train(tmp_path / "stopped")
    assert not (tmp_path / "stopped" / "manifest.json").exists()
    went_on = train(tmp_path / "stopped", resume=True)
    same_run(tmp_path / "whole", tmp_path / "stopped")
    assert went_on.history.equals(whole.history) and same(went_on.module.state_dict(), whole.module.state_dict())


def test_early_stopping_counts_on_across_a_stop(tmp_path):
    "A step size of nothing: no epoch is better than the first; three more are waited for, whether in one run or in two"
    still = lambda: network(dropout=0., norm=False, lr=0.)
    whole = train(tmp_path / "whole", module=still(), epochs=9)
    assert len(whole.history) == 4
    train(tmp_path / "parts", module=still(), epochs=2)
    assert len(train(tmp_path / "parts", module=still(), epochs=9, resume=True).history) == 4
    same_run(tmp_path / "whole", tmp_path / "parts")
    train(tmp_path / "parts", module=still(), epochs=20, resume=True)  # it had stopped, and would have stopped then
    assert json.loads((tmp_path / "parts" / "manifest.json").read_text())["epochs"] == 4


@pytest.mark.parametrize("kw", [dict(scheduler=None, scheduler_kwargs=None, optimizer=o) for o in OPTIMIZERS] + [dict(scheduler=s, scheduler_kwargs={"milestones": [1, 2]} if s == "multistep" else {}) for s in SCHEDULERS], ids=lambda kw: str(kw["scheduler"] or kw["optimizer"]))
def test_every_optimizer_and_schedule_goes_on(tmp_path, kw, monkeypatch):
    "An error in the third epoch; what an optimiser or a schedule remembers is read back without pickle"
    from eugene.training.callbacks import Watch
    real, calls = Watch.on_train_batch_end, []

    def fails(self, *args):
        calls.append(1); real(self, *args)
        if len(calls) == 20: raise RuntimeError("the lights went out")
    go = lambda out, **more: train(out, module=network(**{"lr": .01, **kw}), epochs=4, patience=None, **more)
    go(tmp_path / "whole")
    with monkeypatch.context() as m, pytest.raises(RuntimeError, match="lights"): m.setattr(Watch, "on_train_batch_end", fails); go(tmp_path / "parts")
    go(tmp_path / "parts", resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")
    if SCHEDULERS.get(kw["scheduler"]) and SCHEDULERS[kw["scheduler"]].length:  # spans the run
        with pytest.raises(ValueError, match="config.fit.epochs: 4 on record, 5 now"): train(tmp_path / "parts", module=network(**{"lr": .01, **kw}), epochs=5, patience=None, resume=True)


# ---------------------------------------------------------------- what is refused

@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    "A run of three epochs without its record: as if killed at the end"
    out = tmp_path_factory.mktemp("runs") / "stopped"
    train(out, epochs=3)
    (out / "manifest.json").unlink()
    return out


@pytest.mark.parametrize("change, names", [
    (dict(seed=1), "seed: 0 on record, 1 now"), (dict(batch_size=8), "data.batch_size.train: 16 on record, 8 now"), (dict(patience=2), "config.fit.patience: 3 on record, 2 now"),
    (dict(module=network(lr=.01)), "config.module.lr: 0.03 on record, 0.01 now"), (dict(module=network(seed=1)), "initial_weights"), (dict(ds=simulated(171)), "data.rows.train"),
    (dict(module=network(norm=False)), "layers.arch.1"), (dict(transforms=None), "data.order.transforms"), (dict(epochs=2), "config.fit.epochs: 3 on record, 2 now"),
    (dict(gradient_clip_val=1.), "config.fit.gradient_clip_val: None on record, 1.0 now")])
def test_another_experiment_is_not_gone_on_with(stopped, change, names):
    before = {p.name: p.read_bytes() for p in stopped.iterdir()}
    with pytest.raises(ValueError, match="unfinished run of another experiment") as error: train(stopped, **{"epochs": 3, **change}, resume=True)
    assert names in str(error.value) and "resume=False" in str(error.value)
    assert {p.name: p.read_bytes() for p in stopped.iterdir()} == before


class Thing:
    "Something a checkpoint must not hold"


@pytest.mark.parametrize("damage, message", [
    (lambda p: p.write_bytes(p.read_bytes()[:-200]), "was cut off"), (lambda p: p.write_text("nonsense"), "is no checkpoint"), (lambda p: p.write_bytes(b""), "0 bytes"),
    (lambda p: p.write_bytes(p.read_bytes()[:3000] + bytes(64) + p.read_bytes()[3064:]), "is damaged"),
    (lambda p: torch.save({**read_checkpoint(p), "more": Thing()}, p), "could run any code"), (lambda p: torch.save({"state_dict": {}}, p), "not written by `fit`")])
def test_a_state_that_cannot_be_read_is_refused_and_nothing_is_lost(stopped, tmp_path, damage, message):
    import shutil
    out = shutil.copytree(stopped, tmp_path / "out")
    damage(out / "last.ckpt")
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(ValueError, match=message) as error: train(out, epochs=3, resume=True)
    assert "last.ckpt" in str(error.value)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert train(out, epochs=3).manifest["epochs"] == 3  # anew


def test_weights_of_another_architecture_are_named(stopped, tmp_path):
    with pytest.raises(ValueError, match="another architecture") as error: fill_weights(network(norm=False), stopped / "best.ckpt")
    assert "best.ckpt" in str(error.value) and "arch.1.bias has no place" in str(error.value)


def test_checkpoints_hold_no_pickle_even_if_the_module_keeps_its_arguments(tmp_path):
    class Hoards(SequenceModule):
        def __init__(self, arch, thing):
            super().__init__(arch)
            self.save_hyperparameters(ignore=["arch"])
    run = train(tmp_path, module=Hoards(network().arch, Thing()), epochs=2)
    for name in ("best.ckpt", "last.ckpt"): assert read_checkpoint(tmp_path / name)["state_dict"].keys() == run.module.state_dict().keys()


def test_a_folder_that_cannot_be_written(tmp_path, stopped):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OSError, match="cannot be written.*Choose another folder"): train(out)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OSError, match="cannot be written"): train(tmp_path / "locked")


def test_a_loader_without_a_seeded_order_is_told(tmp_path, caplog):
    rows = torch.utils.data.TensorDataset(torch.randn(40, 4, 20), torch.randn(40, 1))
    sides = torch.utils.data.DataLoader(rows, 8, shuffle=True), torch.utils.data.DataLoader(rows, 8)
    go = lambda epochs: fit(network(), *sides, tmp_path, epochs=epochs, device="cpu", progress=False, resume=True)
    go(1); assert not caplog.text
    assert len(go(2).history) == 2 and "does not follow from a seed" in caplog.text


@pytest.mark.parametrize("batch", [3, 60])
def test_the_batch_of_a_lost_loss_is_named_and_the_best_weights_are_kept(tmp_path, batch):
    "Targets become infinite in one batch of the second epoch; 75 batches an epoch"
    ds = simulated(350)
    train_, val = loader(ds, 4, "train", shuffle=True), loader(ds, 40, "val")

    class Poisoned(SequenceModule):
        def training_step(self, b, i=0):
            return super().training_step((b.x, b.y * (float("inf") if (self.current_epoch, i) == (1, batch - 1) else 1)), i)
    with pytest.raises(ValueError, match=f"train_loss became (inf|nan) in epoch 2, batch {batch};"):
        fit(Poisoned(network().arch), train_, val, tmp_path, epochs=3, device="cpu", progress=False)
    assert read_checkpoint(tmp_path / "best.ckpt")["epoch"] == 1
    assert all(v.isfinite().all() for name in ("best.ckpt", "last.ckpt") for v in read_checkpoint(tmp_path / name)["state_dict"].values())
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2 and not (tmp_path / "manifest.json").exists()


# ---------------------------------------------------------------- what a run writes

def test_the_history_grows_with_the_run(tmp_path):
    from pytorch_lightning import Callback
    seen = []

    class Reads(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 0: seen.append(len((tmp_path / "history.csv").read_text().splitlines()) - 1 if (tmp_path / "history.csv").exists() else 0)
    train(tmp_path, epochs=3, callbacks=[Reads()])
    assert seen == [0, 1, 2]


def test_tensorboard_shows_the_history(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train(tmp_path, epochs=3, logger="tensorboard")
    log = accumulators.EventAccumulator(str(tmp_path / "logs" / "version_0")).Reload()
    for column in ("train_loss", "val_loss", "val_r2"):
        assert np.allclose([e.value for e in log.Scalars(column)], run.history[column], rtol=1e-6), column


def test_batches_added_up_are_a_larger_batch(tmp_path):
    "Mean losses, no batch norm: two of 16 are one of 32; gradients that are clipped to nothing move nothing"
    runs = [train(tmp_path / str(size), module=network(norm=False, dropout=0., scheduler=None, scheduler_kwargs=None), ds=simulated(178), transforms=None, batch_size=size, epochs=2, **kw).module.state_dict()
            for size, kw in ((32, {}), (16, {"accumulate_grad_batches": 2}), (16, {}))]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(runs[0].values(), runs[1].values()))
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(runs[0].values(), runs[2].values()))


def test_dropout_differs_between_batches_that_are_added_up(tmp_path):
    masks = []

    class Shows(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.drop = nn.Linear(80, 1), nn.Dropout(.5)

        def forward(self, x):
            if self.training: masks.append(self.drop(torch.ones(1, 50)))
            return self.linear(x.flatten(1))
    train(tmp_path, module=SequenceModule(Shows()), epochs=1, accumulate_grad_batches=4, batch_size=30)
    assert len(masks) == 4 and len({tuple(m[0].tolist()) for m in masks}) == 4


def test_resume_with_half_precision_and_clipping(tmp_path):
    kw = dict(precision="bf16-mixed", gradient_clip_val=.5, deterministic=True)
    train(tmp_path / "whole", epochs=3, **kw); train(tmp_path / "parts", epochs=1, **kw); train(tmp_path / "parts", epochs=3, resume=True, **kw)
    same_run(tmp_path / "whole", tmp_path / "parts")
    assert not torch.are_deterministic_algorithms_enabled()


# ---------------------------------------------------------------- several processes

DDP = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_fit import network, simulated, train
{code}
"""


def script(tmp_path, code, timeout=300):
    "Run a program that Lightning starts twice"
    file = tmp_path / "program.py"
    file.write_text(DDP.format(tests=str(Path(__file__).parent), code=textwrap.dedent(code)))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(file)], env=env, capture_output=True, text=True, timeout=timeout, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def plain(**kw):
    return network(norm=False, dropout=0., **kw)


def test_two_processes_learn_what_one_learns(tmp_path):
    "Batches of 8 in two processes, of 16 in one; then two more epochs, gone on with; every file is written once"
    done = script(tmp_path, """
        from test_fit import plain
        two = dict(devices=2, strategy="ddp", batch_size=8, transforms=None)
        train("runs", module=plain(), epochs=2, **two)
        run = train("runs", module=plain(), epochs=4, resume=True, **two)
        sys.stdout.write(f"rank {torch.distributed.get_rank()} {len(run.history)} {run.manifest['processes']}\\n"); sys.stdout.flush()
        normed = network().train()
        try: train("synced", module=normed, sync_batchnorm=True, **two)
        except ValueError as e: sys.stdout.write(f"refused: {e}\\n")
        """)
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == ["rank 0 4 2", "rank 1 4 2"]
    assert "refused: sync_batchnorm=True works on GPUs alone" in done.stdout
    one = train(tmp_path / "one", module=plain(), epochs=4, transforms=None)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["best.ckpt", "history.csv", "last.ckpt", "manifest.json"]
    together, alone = (fill_weights(plain(), tmp_path / out / "best.ckpt").state_dict() for out in ("runs", "one"))
    assert all(torch.allclose(together[k], alone[k], atol=1e-5) for k in alone)
    import pandas as pd
    assert np.allclose(pd.read_csv(tmp_path / "runs" / "history.csv").values, one.history.values.astype(float), atol=1e-4)


@pytest.mark.slow
def test_batch_norm_in_two_processes_is_said_and_no_row_is_left_alone(tmp_path):
    "121 training rows: 61 a process, in batches of 12 one would be left alone"
    done = script(tmp_path, """
        import logging
        logging.basicConfig(level=logging.WARNING)
        run = train("runs", simulated(171), devices=2, strategy="ddp", batch_size=12, epochs=2)
        sys.stdout.write(f"rank {len(run.history)} {run.manifest['data']['order']['drop_last']}\\n")
        """)
    assert done.stdout.count("rank 2 True") == 2 and "share of a process of 2" in done.stderr and "Batch norm sees the rows of its own process alone" in done.stderr


# ---------------------------------------------------------------- GPUs

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kw", [{}, {"precision": "16-mixed"}])
def test_a_run_on_a_gpu_goes_on(tmp_path, kw):
    "Deterministic algorithms: equal weights; the loss scale of half precision is part of the state"
    kw = dict(device="cuda", deterministic=True, **kw)
    train(tmp_path / "whole", epochs=3, **kw); train(tmp_path / "parts", epochs=1, **kw); train(tmp_path / "parts", epochs=3, resume=True, **kw)
    same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_learn_what_one_learns(tmp_path, strategy):
    script(tmp_path, f"""
        from test_fit import plain
        train("runs", module=plain(), device="cuda", devices=2, strategy={strategy!r}, batch_size=8, transforms=None)
        """)
    train(tmp_path / "one", module=plain(), device="cuda", transforms=None)
    together, alone = (fill_weights(plain(), tmp_path / out / "best.ckpt").state_dict() for out in ("runs", "one"))
    assert all(torch.allclose(together[k], alone[k], atol=1e-4) for k in alone)
