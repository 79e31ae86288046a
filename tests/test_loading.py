"Laws of loading and augmentation on drawn input; threads, processes, memory and interruption as a user meets them."
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from eugene.core import rng
from eugene.etl.augmentation import Compose, Delete, Insert, Invert, Mutate, RandomRC, RandomShift, Translocate, raw_batch
from eugene.etl.loading import EpochBatches, Loader, Rows, SlabBatches, batch_mixing, fingerprint, loader, plan_loading
from eugene.etl.seqdata import add_tracks, make_dataset, open_zarr, to_zarr, unpad
from eugene.etl.sequences import decode_ohe, from_bytes, ohe, random_seqs, reverse_complement
from eugene.etl.tables import read_table

SOME = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROOT = Path(__file__).resolve().parents[1]
words = st.lists(st.text("ACGTN", min_size=1, max_size=14), min_size=1, max_size=12)
sides = st.sampled_from(["left", "right", "both"])


def python(code, *args, timeout=120, processes=1):
    "Run a script in processes of its own; what it printed. Fails if one hangs or ends badly."
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), *map(str, args), *([str(i)] if processes > 1 else [])], env=env, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True) for i in range(processes)]
    try: done = [p.communicate(timeout=timeout) for p in running]
    finally:
        for p in running: p.kill()
    for p, (_, err) in zip(running, done): assert p.returncode == 0, err[-3000:]
    return [out for out, _ in done]


def small_chunks(ds, rows):
    "The Dataset as if its store had chunks of so many rows"
    for v in ds.variables.values(): v.encoding["chunks"] = (rows, *v.shape[1:])
    return ds


@pytest.fixture(scope="module")
def made():
    "400 sequences of different length with all that can be loaded"
    gen = rng(0)
    text = [s[:n] for s, n in zip(random_seqs(400, 30, seed=1), gen.integers(4, 31, 400))]
    ds = make_dataset(text, np.where(gen.random((400, 2)) < .2, np.nan, np.arange(400)[:, None]), length="pad", missing="keep",
                      columns={"split": gen.choice(["train", "val", "test"], 400, p=[.6, .2, .2]), "w": gen.random(400)})
    return add_tracks(ds, "sig", gen.normal(size=(400, 3, 30)).astype(np.float32))


@pytest.fixture(scope="module")
def stored(made, tmp_path_factory):
    return to_zarr(made, tmp_path_factory.mktemp("stores") / "made.zarr")


# ---------------------------------------------------------------- order

@SOME
@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 60), st.integers(1, 500), st.integers(1, 5), st.integers(0, 3), st.booleans(), st.booleans())
def test_every_row_once(n, batch_size, slab, room, many, epoch, shuffle, slabs):
    "Shares of one size cover all rows; filled up, or cut off under `drop_last`, by less than one row a share"
    kind = (lambda *a: SlabBatches(*a, edges=np.minimum(np.arange(0, n + slab, slab), n), room=room)) if slabs else EpochBatches
    for drop in (False, True):
        shares = [np.concatenate([*kind(n, 1 if drop else batch_size, shuffle, 7, drop, (i, many)).batches(epoch), np.empty(0, int)]) for i in range(many)]
        assert len({len(s) for s in shares}) == 1 and abs(sum(map(len, shares)) - n) < many
        rows = np.concatenate(shares)
        assert len(set(rows)) == (len(rows) if drop else n)
        order = kind(n, batch_size, shuffle, 7, drop, (0, many))
        assert len(order) == len(list(order.batches(epoch)))
        assert all(len(b) == batch_size for b in list(order.batches(epoch))[:-1 if not drop else None])


@SOME
@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 400), st.integers(0, 5))
def test_an_epoch_by_number(n, slab, room, epoch):
    "The epoch that is asked for is the one a run from the start reaches"
    make = lambda: SlabBatches(n, 8, True, 3, edges=np.minimum(np.arange(0, n + slab, slab), n), room=room)
    run, late = make(), make()
    for _ in range(epoch): list(run)
    late.set_epoch(epoch)
    assert [b.tolist() for b in run] == [b.tolist() for b in late]


def test_mixing_of_a_sorted_file():
    "The label's share varies as the prose of the chapter says, and a loader without a buffer is found out"
    n, slab = 300_000, 1000
    labels, edges = np.arange(n) < n // 2, np.arange(0, n + slab, slab)
    mixed = lambda slabs: batch_mixing(SlabBatches(n, 128, True, 0, edges=edges, room=slabs * slab), labels).ratio
    assert mixed(1) > 5 and mixed(16) < 2.7 and mixed(64) < 1.6 and mixed(300) < 1.06
    assert batch_mixing(EpochBatches(n, 128, True), labels).ratio < 1.06


# ---------------------------------------------------------------- content

@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("split", [None, "train"])
def test_store_and_memory_hold_the_same_rows(made, stored, split, threads):
    ds = small_chunks(open_zarr(stored), 37)
    dl = loader(ds, 16, split, shuffle=True, in_memory=False, buffer=.02, num_workers=threads, weights="w")
    assert not dl.dataset.in_memory and len(dl.dataset.edges) > 8 and dl.sampler.room < len(dl.dataset)
    truth, seen = made if split is None else made.isel(sequence=np.flatnonzero(made.split.values == split)), []
    for b in dl:
        rows = b.row.numpy(); seen += rows.tolist()
        assert np.array_equal(b.x, ohe(made.seq.values[rows])) and np.array_equal(b.y, made.targets.values[rows], equal_nan=True)
        assert np.array_equal(b.extra["sig"], made.sig.values[rows]) and np.array_equal(b.length, made.length.values[rows])
        assert np.allclose(b.weight, made.w.values[rows]) and np.array_equal(b.mask, ~np.isnan(made.targets.values[rows]))
        assert (b.x.sum(1).bool().sum(1) == b.length).all()  # padding is zero
    assert len(seen) == truth.sizes["sequence"] and {*made.id.values[seen]} == {*truth.id.values} and seen != sorted(seen)
    assert all(np.array_equal(a.row, b.row) for a, b in zip(loader(ds, 16, split, shuffle=True, in_memory=False, buffer=.02), loader(ds, 16, split, shuffle=True, in_memory=False, buffer=.02, num_workers=threads)))
    assert fingerprint(dl.dataset) == fingerprint(Rows(made, dl.dataset.rows, weights="w"))
    assert not ds.variables["seq"]._in_memory and not ds.variables["sig"]._in_memory  # nothing stays behind


def test_batches_do_not_share_memory_with_the_dataset(made):
    "What a training step does to a batch in place must not reach the data"
    before = made.copy(deep=True)
    for kw in ({}, {"in_memory": False}, {"shuffle": True}, {"shuffle": True, "in_memory": False}):
        for b in loader(made, 64, **kw):
            b.y.zero_(); b.extra["sig"].zero_(); b.length.zero_(); b.row.zero_()
    assert made.identical(before)


def test_resume_sees_the_same_rows_and_variants(made, stored):
    "Epochs 2 and 3 of a run from the start, and of a run that was given up after epoch 1 and taken up again"
    for ds in (made, small_chunks(open_zarr(stored), 37)):
        make = lambda: loader(ds, 32, "train", True, 5, variables=(), transforms=[RandomRC(), Mutate(.1), Insert(3)], in_memory=ds is made, buffer=.02)
        whole, again = make(), make()
        epochs = [torch.cat([b.x for b in whole]) for _ in range(4)]
        again.set_epoch(2)
        assert all(torch.equal(torch.cat([b.x for b in again]), epochs[e]) for e in (2, 3))
        assert not torch.equal(epochs[2], epochs[3])


def test_lightning_resumes_a_shuffled_order(stored, tmp_path):
    "Four epochs, and two and two with a checkpoint between them, see the same batches in the same order out of the store"
    import pytorch_lightning as pl

    class Recorder(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.linear, self.seen = torch.nn.Linear(4, 1), []
        def training_step(self, batch, i):
            assert type(batch).__name__ == "Batch" and set(batch.extra) == {"sig"}  # still itself after Lightning moved it
            self.seen.append(batch.row.tolist())
            return self.linear(batch.x.mean(2)).square().mean()
        def configure_optimizers(self): return torch.optim.SGD(self.parameters(), .1)

    def fit(epochs, ckpt=None):
        torch.manual_seed(0)
        module = Recorder()
        trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(module, loader(small_chunks(open_zarr(stored), 37), 50, "train", True, in_memory=False, buffer=.02), ckpt_path=ckpt)
        return trainer, module

    (_, whole), (first, half) = fit(4), fit(2)
    first.save_checkpoint(tmp_path / "half.ckpt")
    _, rest = fit(4, tmp_path / "half.ckpt")
    assert half.seen + rest.seen == whole.seen and len({str(s) for s in whole.seen}) == len(whole.seen)
    assert torch.equal(rest.linear.weight, whole.linear.weight)


def test_a_batch_moves_as_a_whole(made):
    from lightning_fabric.utilities.apply_func import move_data_to_device
    batch = next(iter(loader(made, 8, weights="w")))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert type(moved) is type(batch) and all(t.device.type == "meta" for t in [*moved[:6], *moved.extra.values()])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_batches(made):
    batch = next(iter(loader(made, 8, weights="w", pin_memory=True, num_workers=2)))
    assert all(t.is_pinned() for t in [*batch[:6], *batch.extra.values()])


def test_real_promoters_from_a_store(data_dir, tmp_path):
    "Promoters of different species, sorted by species in a store, come out as the table has them and mixed"
    from eugene.etl.datasets import jores21
    ds = jores21("leaf", path=data_dir)
    ds = ds.isel(sequence=np.argsort(ds.sp.values.astype(str), kind="stable"))
    store = small_chunks(open_zarr(to_zarr(ds, tmp_path / "leaf.zarr")), 100)
    dl = loader(store, shuffle=True, in_memory=False, buffer=.5)
    table = {i: (s, y) for i, s, y in zip(ds.id.values, from_bytes(ds.seq.values), ds.targets.values[:, 0])}
    seen = {ds.id.values[r]: (s, y) for b in dl for r, s, y in zip(b.row.tolist(), decode_ohe(b.x), b.y[:, 0].numpy())}
    assert seen == table
    assert batch_mixing(dl.sampler, ds.sp.values.astype(str) == "Zm").ratio < 1.9 < batch_mixing(loader(store, in_memory=False).sampler, ds.sp.values.astype(str) == "Zm").ratio


def test_real_probes_of_different_length(data_dir):
    "RNAcompete probes have 30 to 41 letters; a batch says how many, and the rest is zero"
    file = data_dir / "ray13/RNCMPT00001_dlprb_sample.tsv.gz"
    if not file.exists(): pytest.skip(f"no {file.name}")
    ds = read_table(file, "RNA_Seq", "RNCMPT00001", alphabet="RNA", length="pad").isel(sequence=slice(0, 60_000, 20))
    text = unpad(ds)
    assert len({len(s) for s in text}) > 3
    for b in loader(ds, 500, transforms=RandomRC(p=0)):
        assert (b.x.sum(1).sum(1) == b.length).all() and (b.length == torch.tensor([len(text[r]) for r in b.row])).all()
    assert [s.rstrip("N") for b in loader(ds, 500) for s in decode_ohe(b.x, "RNA")] == text


# ---------------------------------------------------------------- augmentation

@SOME
@given(words, sides, st.integers(0, 2**32), st.integers(0, 16))
def test_letters_only_move_or_change(text, side, seed, most):
    "Lengths and padding stay; the other strand twice, and a full turn, is the same; composition where it must be"
    ds = make_dataset(text, length=15, side=side)
    raw, back = raw_batch(ds), lambda out: unpad(ds.assign(seq=(("sequence", "position"), out.arrays["seq"])))
    all_of_them = (RandomRC(), Mutate(.3), Mutate(n=3), Insert(most), Delete(most), Invert(most), Translocate(most))
    for t in (*all_of_them, Compose(all_of_them)):
        out = t(raw, rng(seed))
        assert [len(s) for s in back(out)] == [len(s) for s in text] and out.arrays["seq"].shape == (len(text), 15)
        assert (out.arrays["seq"] == t(raw, rng(seed)).arrays["seq"]).all() and (raw.arrays["seq"] == ds.seq.values).all()
    assert back(RandomRC(1)(raw, rng(seed))) == reverse_complement(text)
    assert back(RandomRC(1)(RandomRC(1)(raw, rng(seed)), rng(seed))) == text
    assert [sorted(s) for s in back(Translocate(most)(raw, rng(seed)))] == [sorted(s) for s in text]
    pairs = lambda s: sorted(s.translate(str.maketrans("TG", "AC")))
    assert [pairs(s) for s in back(Invert(most)(raw, rng(seed)))] == [pairs(s) for s in text]
    assert [[b == "N" for b in s] for s in back(Mutate(1)(raw, rng(seed)))] == [[b == "N" for b in s] for s in text]
    assert not any(a == b != "N" for s, t in zip(text, back(Mutate(1)(raw, rng(seed)))) for a, b in zip(s, t))


@SOME
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**32), st.booleans())
def test_tracks_follow_the_letters(n, bins, flank_bins, seed, stranded):
    "A track computed from the letters, in bins, equals the one computed after the letters were moved"
    w = 3
    ds = make_dataset(random_seqs(n, w * (bins + 2 * flank_bins), seed=seed))
    count = lambda seq: np.stack([seq == 65, seq == 84], 1).reshape(len(seq), 2, -1, w).sum(3).astype(np.float32)
    unstranded = lambda seq: count(seq).sum(1, keepdims=True)
    made = count if stranded else unstranded
    ds = add_tracks(ds, "t", made(ds.seq.values), bin_width=w, stranded=stranded).assign_attrs(max_jitter=w * flank_bins)
    out = Compose([RandomRC(), RandomShift(fill=True)])(raw_batch(ds), rng(seed))
    assert np.array_equal(out.arrays["t"], made(out.arrays["seq"])) and out.shape == (n, w * bins)
    assert all(new in old or new in reverse_complement(old) for new, old in zip(from_bytes(out.arrays["seq"]), from_bytes(ds.seq.values)))


# ---------------------------------------------------------------- threads, processes, memory

def test_nothing_is_left_behind(stored):
    "A loop that ends early, or fails, ends its threads; another loop can begin at once"
    ours = lambda: [t for t in threading.enumerate() if t.name.startswith("eugene-loading")]
    dl = loader(small_chunks(open_zarr(stored), 10), 8, shuffle=True, in_memory=False, buffer=.02, num_workers=3)
    for b in dl: break
    assert not ours()
    with pytest.raises(KeyError):
        for b in dl: raise KeyError
    del b
    held = iter(dl); next(held)
    assert ours() and len(list(dl)) == 50  # two walks at once
    held.close()
    assert not ours()


def test_a_damaged_chunk_is_an_error(stored, tmp_path):
    "The error of the reading thread arrives where the loop is"
    import shutil
    path = tmp_path / "copy.zarr"
    shutil.copytree(stored, path)
    ds = open_zarr(path)
    chunk = next(p for p in (path / "seq/c").rglob("*") if p.is_file())
    chunk.write_bytes(b"\x00" * chunk.stat().st_size)
    with pytest.raises(Exception, match="(?i)zstd|decompress|frame|corrupt"): list(loader(ds, 8, in_memory=False))
    assert not [t for t in threading.enumerate() if t.name.startswith("eugene-loading")]


def test_the_interpreter_ends_in_the_middle_of_an_epoch(stored):
    out, = python("""
        import sys
        from eugene.etl.loading import loader
        from eugene.etl.seqdata import open_zarr
        held = iter(loader(open_zarr(sys.argv[1]), 8, shuffle=True, in_memory=False, num_workers=2))
        print(len(next(held).x))
        """, stored, timeout=60)
    assert out.split() == ["8"]


def test_workers_after_a_parallel_kernel(stored):
    "Kernels of the loading path are serial, so neither threads nor forked worker processes die after numba has used its own threads"
    out, = python("""
        import sys
        import numpy as np
        from numba import njit, prange
        @njit(parallel=True)
        def total(x):
            s = 0.
            for i in prange(len(x)): s += x[i]
            return s
        assert total(np.ones(10_000)) == 10_000
        import torch
        from torch.utils.data import DataLoader
        from eugene.etl.augmentation import RandomRC
        from eugene.etl.loading import loader
        from eugene.etl.seqdata import open_zarr
        ds = open_zarr(sys.argv[1])
        alone = [b.x for b in loader(ds, 50, shuffle=True)]
        dl = loader(ds, 50, shuffle=True)
        workers = [b.x for b in DataLoader(dl.dataset, sampler=dl.sampler, batch_size=None, num_workers=2)]
        threads = [b.x for b in loader(ds, 50, shuffle=True, num_workers=2)]
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(alone, workers, threads, strict=True))
        assert len(list(loader(ds, 50, num_workers=2, transforms=RandomRC(), variables=(), in_memory=False))) == 8
        assert total(np.ones(10_000)) == 10_000
        print("done")
        """, stored)
    assert out.split() == ["done"]


def test_shares_of_two_processes(stored, tmp_path):
    "Over gloo, each process asks who it is when an epoch begins; together they have every row"
    code = """
        import sys
        import torch.distributed as dist
        from eugene.etl.loading import loader
        from eugene.etl.seqdata import open_zarr
        store, meeting, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
        loaders = [loader(open_zarr(store), 16, "train", True, in_memory=memory) for memory in (True, False)] # made before the processes meet
        alone = [len(dl) for dl in loaders]
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
        for dl, before in zip(loaders, alone):
            rows, n = [r for b in dl for r in b.row.tolist()], len(dl.dataset)
            both = [None, None]
            dist.all_gather_object(both, (rows, len(dl)))
            (a, la), (b, lb) = both
            assert len(a) == len(b) == -(-n // 2) and la == lb == -(-len(a) // 16) < before
            assert set(a) | set(b) == set(dl.dataset.rows.tolist()) and len(set(a) & set(b)) == n % 2
        dist.barrier(); dist.destroy_process_group()
        print("done")
        """
    assert [out.split() for out in python(code, stored, tmp_path / "meeting", processes=2)] == [["done"]] * 2


@pytest.mark.slow
def test_lightning_leaves_the_shares_alone(stored, tmp_path):
    "Two processes under Lightning's DDP: no sampler is put in the place of ours, every row is seen once an epoch"
    script = tmp_path / "ddp.py"
    script.write_text(textwrap.dedent("""
        import json, sys
        import pytorch_lightning as pl, torch
        from eugene.etl.loading import loader
        from eugene.etl.seqdata import open_zarr
        class Recorder(pl.LightningModule):
            def __init__(self):
                super().__init__()
                self.linear, self.seen = torch.nn.Linear(4, 1), []
            def training_step(self, batch, i):
                self.seen.append([self.current_epoch, batch.row.tolist()])
                return self.linear(batch.x.mean(2)).square().mean()
            def validation_step(self, batch, i): self.seen.append([-1, batch.row.tolist()])
            def configure_optimizers(self): return torch.optim.SGD(self.parameters(), .1)
        ds = open_zarr(sys.argv[1])
        module = Recorder()
        trainer = pl.Trainer(max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)
        trainer.fit(module, loader(ds, 20, "train", True, in_memory=False, buffer=.02), loader(ds, 20, "val"))
        open(f"{sys.argv[2]}/rank{trainer.global_rank}.json", "w").write(json.dumps(module.seen))
        """))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script), str(stored), str(tmp_path)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    import json
    ranks = [json.loads((tmp_path / f"rank{i}.json").read_text()) for i in range(2)]
    ds = open_zarr(stored)
    for epoch, side in ((0, "train"), (1, "train"), (-1, "val")):
        rows = [[r for e, batch in rank if e == epoch for r in batch] for rank in ranks]
        once = 2 if epoch == -1 else 1  # validated after both epochs
        n = int((ds.split.values == side).sum())
        assert len(rows[0]) == len(rows[1]) == once * -(-n // 2)
        assert set(rows[0]) | set(rows[1]) == set(np.flatnonzero(ds.split.values == side)) and len(set(rows[0]) & set(rows[1])) == n % 2


def test_memory_is_bounded_out_of_core(tmp_path):
    "A shuffled epoch over 150 MB of letters (2.4 GB one-hot) takes less than 150 MB more than the imports"
    gen, n, length = rng(0), 300_000, 500
    seq = np.frombuffer(b"ACGT", np.uint8)[np.repeat(gen.integers(0, 4, (n, length // 20), dtype=np.uint8), 20, axis=1)]
    to_zarr(make_dataset(seq, np.arange(n)), tmp_path / "big.zarr")
    del seq
    out, = python("""
        import sys
        from pathlib import Path
        from eugene.etl.loading import loader, to_torch
        from eugene.etl.seqdata import open_zarr
        def memory(word): return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(word)).split()[1]) / 1024
        ds = open_zarr(sys.argv[1])
        to_torch(ds.isel(sequence=slice(0, 100))) # compiled, imported
        before, seen, total = memory("VmRSS"), 0, 0
        for batch in loader(ds, 128, shuffle=True, in_memory=False): seen += len(batch.x); total += int(batch.row.sum())
        assert seen == ds.sizes["sequence"] and total == seen * (seen - 1) // 2
        print(memory("VmHWM") - before)
        """, tmp_path / "big.zarr")
    assert float(out) < 150


def test_plan_counts_what_is_there(made, stored):
    plan = plan_loading(open_zarr(stored), 32, "train", variables=(), in_memory=False)
    n = int((made.split == "train").sum())
    assert plan.rows == n and plan.batches == -(-n // 32) and not plan.in_memory
    assert plan.kept == n * (30 + 4 + 2 * 4 + 8) and plan.encoded == n * (30 * 16 + 2 * 4 + 4)
    assert plan.stored == sum(f.stat().st_size for v in ("seq", "targets", "length") for f in (stored / v).rglob("*") if f.is_file())


def test_the_loader_is_what_it_says(made):
    dl = loader(made, 64, shuffle=True)
    assert isinstance(dl, Loader) and dl.batch_size == 64 and len(dl) == 7 and [len(b.x) for b in dl] == [64] * 6 + [16]
