"""What training costs around each step: a network so small that little else is left, batches of 128, 170 bp, 100 steps an epoch.

Every tool measures itself against a bare loop on tensors in the same call: `over_bare_ms` is what a step takes more than there. An
epoch is the difference of runs of three epochs and of one, so that start and end do not count; `start_s` says what they take.
Ours writes its history and two checkpoints in every epoch, which the others do not.
"""
import tempfile
import time

from harness import Case, Measured, Tool, main

import numpy as np

SIZE, LENGTH = 128, 170


def data(steps):
    "One-hot sequences and targets, letters"
    gen = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)[gen.integers(0, 4, (SIZE * (steps + 1), LENGTH))]
    x = (letters[:, None] == np.frombuffer(b"ACGT", np.uint8)[:, None]).astype(np.float32)
    return letters, x, (x[:, 2] - x[:, 1]).sum(1, keepdims=True) / 10, steps


def network():
    import torch
    from torch import nn
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(4, 16, 13), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 1))


def bare(data):
    "Seconds of an epoch of a loop with nothing around it"
    import torch
    _, x, y, steps = data
    x, y, net = torch.from_numpy(x), torch.from_numpy(y), network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    start = time.perf_counter()
    for at in torch.randperm(steps * SIZE).split(SIZE):
        loss = torch.nn.functional.mse_loss(net(x[at]), y[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def beside(run, data):
    "A tool that measures runs of one and three epochs, and a bare loop before and after"
    run(1)  # what is loaded at first use
    def measured():
        before, one, three, after = bare(data), run(1), run(3), bare(data)
        epoch, told = (three[0] - one[0]) / 2, three[1]
        return Measured(epoch, told, {"over_bare_ms": 1000 * (epoch - (before + after) / 2) / data[3], "step_ms": 1000 * epoch / data[3], "start_s": one[0] - epoch})
    return measured


def limit(data): return lambda: Measured(bare(data), None, {"step_ms": None})


def ours(data):
    import xarray as xr  # noqa: F401
    from eugene.etl.loading import loader
    from eugene.etl.seqdata import make_dataset
    from eugene.training.fit import fit
    from eugene.training.sequence_module import SequenceModule
    letters, _, y, steps = data
    ds = make_dataset(letters, y)
    ds["split"] = "sequence", np.repeat(["train", "val"], [SIZE * steps, SIZE]).astype(object)
    def run(epochs):
        sides = [loader(ds, SIZE, side, shuffle=side == "train") for side in ("train", "val")]
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            history = fit(SequenceModule(network()), *sides, folder, epochs=epochs, patience=None, device="cpu", progress=False).history
            return time.perf_counter() - start, history["train_loss"].tolist()
    return beside(run, data)


def ours_bare(data):
    "A bare loop with our loader"
    import torch
    from eugene.etl.loading import loader
    from eugene.etl.seqdata import make_dataset
    letters, _, y, steps = data
    ds = make_dataset(letters[:SIZE * steps], y[:SIZE * steps])
    def run(epochs):
        net, batches, means = network(), loader(ds, SIZE, shuffle=True), []
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        start = time.perf_counter()
        for _ in range(epochs):
            losses = []
            for batch in batches:
                loss = torch.nn.functional.mse_loss(net(batch.x), batch.y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            means.append(torch.stack(losses).mean().item())
        return time.perf_counter() - start, means
    return beside(run, data)


def lightning(quiet, data):
    "Lightning by itself, with TensorDataset and DataLoader"
    import logging
    import warnings
    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric"): logging.getLogger(name).setLevel(logging.ERROR)
    _, x, y, steps = data
    class Module(pl.LightningModule):
        def __init__(self): super().__init__(); self.net = network()
        def training_step(self, batch, i): return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        def configure_optimizers(self): return torch.optim.Adam(self.parameters(), 1e-3)
    def run(epochs):
        batches = DataLoader(TensorDataset(torch.from_numpy(x[:SIZE * steps]), torch.from_numpy(y[:SIZE * steps])), SIZE, shuffle=True)
        off = dict(enable_progress_bar=False, logger=False, enable_checkpointing=False, enable_model_summary=False) if quiet else {}
        import contextlib
        import io
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **off)
            start = time.perf_counter()
            trainer.fit(Module(), batches)
            return time.perf_counter() - start, None
    return beside(run, data)


def check(data, name, told):
    "The training loss is that of a bare loop over the same batches, epoch by epoch"
    if name != "ours": return ""
    same = ours_bare(data)().value
    return "" if np.allclose(told, same, rtol=1e-4) else f"losses {told}, a bare loop has {same}"


def cases(quick):
    from functools import partial
    tools = {"limit": Tool(limit), "ours": Tool(ours), "ours, loader in a bare loop": Tool(ours_bare), "Lightning default": Tool(partial(lightning, False), "pytorch_lightning torch", package="pytorch-lightning"),
             "Lightning, all off": Tool(partial(lightning, True), "pytorch_lightning torch", package="pytorch-lightning")}
    yield Case("tiny network", "steps", 20 if quick else 100, data, tools, check)


if __name__ == "__main__": main("training", cases)
