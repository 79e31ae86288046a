"""Shuffled batches of 128 from a Zarr store of 200,000 x 500 bp: speed and peak memory, each way in a process of its own.

`limit` indexes sequences that are in memory, encoded, float32; what is better than that keeps bytes. `over_imports_mb` is the most memory
over what the imports take, `first_s` the time to the first batch, the opening of the store included. Ways that take long walk through a
part of an epoch, at least 100 batches or `--seconds`. `ours, threads` reads and encodes in two threads, `ours, mapped` from a mapped file.

The cases `grid` are those of supplementary figure 4 of the paper (Klie et al. 2023): 100 batches of 128, in memory and out of core, up to
10^8 letters here.
"""
import argparse
import json
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

from harness import CLOCK, Case, Tool, elsewhere, main

WAYS = ("limit", "tensor_dataset", "memory", "stored", "stored_threads", "mapped", "grelu", "seqdata")
BATCH = 128


def make_store(path, rows, length, seed=0):
    "A store of random sequences with a target each"
    import numpy as np
    from eugene.etl.seqdata import make_dataset, to_zarr
    gen = np.random.default_rng(seed)
    seq = np.empty((rows, length), np.uint8)
    for a in range(0, rows, 50_000): seq[a:a + 50_000] = np.frombuffer(b"ACGT", np.uint8)[gen.integers(0, 4, seq[a:a + 50_000].shape, dtype=np.uint8)]
    to_zarr(make_dataset(seq, gen.normal(size=(rows, 1))), path)


def memory():
    "Resident memory now, and the most so far, MB"
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[word].split()[0]) / 1024 for word in ("VmRSS", "VmHWM"))


def of_grelu(rows, length):
    "gReLU's dataset of text; it holds all of it in memory"
    import numpy as np
    import pandas as pd
    from grelu.data.dataset import DFSeqDataset
    from torch.utils.data import DataLoader
    x = np.frombuffer(b"ACGT", np.uint8)[np.random.default_rng(0).integers(0, 4, (rows, length), dtype=np.uint8)]
    ds = DFSeqDataset(pd.DataFrame({"seq": [r.tobytes().decode() for r in x], "y": np.zeros(rows)}), seq_len=length)
    dl = DataLoader(ds, BATCH, shuffle=True)
    return lambda: iter(dl)


def of_seqdata(store):
    "seqdata's loader that works out of core, on a store in its own form"
    import seqdata as sd
    import xarray as xr
    from seqdata import XArrayDataLoader
    dl = XArrayDataLoader(xr.open_zarr(store), "_sequence", batch_size=BATCH, shuffle=True, prefetch_factor=2)
    return lambda: iter(dl)


def batches(way, store, rows, length):
    "A function that gives an iterator over one epoch of `(x, y)`"
    if way == "grelu": return of_grelu(rows, length)
    if way == "seqdata": return of_seqdata(store)
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from eugene.etl.loading import loader, memory_map, to_torch
    from eugene.etl.seqdata import open_zarr
    ds = open_zarr(store)
    if way in ("limit", "tensor_dataset"):
        x, y = to_torch(ds)[:2]
        if way == "limit":
            def epoch():
                order = torch.randperm(len(x))
                for a in range(0, len(x), BATCH): yield x[order[a:a + BATCH]], y[order[a:a + BATCH]]
            return epoch
        dl = DataLoader(TensorDataset(x, y), BATCH, shuffle=True)
        return lambda: iter(dl)
    if way == "mapped": ds = memory_map(ds, Path(store).parent / "mapped")
    dl = loader(ds, BATCH, shuffle=True, in_memory=way in ("memory", "mapped"), num_workers=2 if way.endswith("_threads") else 0)
    return lambda: iter(dl)


def warm(way, store):
    "What is compiled or loaded at first use belongs to the imports"
    if way == "grelu": of_grelu(200, 50)
    elif way == "seqdata": import seqdata
    else:
        from eugene.etl.loading import to_torch
        from eugene.etl.seqdata import open_zarr
        to_torch(open_zarr(store).isel(sequence=slice(0, 200)))


def run(way, store, rows, length, seconds, most, clock):
    "Walk through an epoch, or as much of it as there is time for"
    import torch
    torch.set_num_threads(1)
    warm(way, store)
    (before, _), start = memory(), clock()
    epoch = batches(way, store, rows, length)
    first, done, check, spent = None, 0, 0., 0.
    for _ in range(2):  # what the first epoch finds cold is told as `first_s`
        ready, wall, done = clock(), time.perf_counter(), 0
        for number, batch in enumerate(epoch(), 1):
            x = batch[0]
            done += len(x); check += float(x[0, 0, 0])
            if first is None: first = clock() - start
            if number >= most or number >= 100 and time.perf_counter() - wall > seconds: break
        spent = clock() - ready
        if spent > seconds: break
    return {"seconds": spent * rows / done, "over_imports_mb": round(memory()[1] - before), "peak_mb": round(memory()[1]), "first_s": round(first, 3), "part": round(done / rows, 3)}


def way(name, data, most=10**9):
    "A tool that is measured in a process of its own"
    store, rows, length = data
    return lambda: elsewhere(__file__, "--one", name, "--store", store, "--rows", rows, "--length", length, "--most", most, "--clock", CLOCK[0].__name__)


def setup(folder, length, rows):
    "A new store; the one before it is deleted"
    import importlib.util
    store = folder / f"{rows}x{length}" / "rows.zarr"
    for old in folder.iterdir(): shutil.rmtree(old)
    if importlib.util.find_spec("eugene"): make_store(store, rows, length)
    return store, rows, length


def cases(quick):
    with tempfile.TemporaryDirectory() as name:
        folder, n = Path(name), 4_000 if quick else 200_000
        tool = lambda w, needs="", **kw: Tool(partial(way, w), needs, **kw)
        tools = {"limit": tool("limit", "eugene torch"), "ours": tool("stored"), "ours, threads": tool("stored_threads"), "ours, mapped": tool("mapped"), "ours, in memory": tool("memory"),
                 "TensorDataset": tool("tensor_dataset", "torch eugene", package="torch"), "gReLU": tool("grelu", "grelu torch", package="gReLU"), "seqdata": tool("seqdata", "seqdata torch eugene")}
        yield Case("shuffled batches", "sequences", n, partial(setup, folder, 500), tools, rounds=3)
        few = {k: tools[k] for k in ("limit", "ours", "ours, in memory")}
        for factor in () if quick else (.1, 10): yield Case(f"shuffled batches, {factor:g} x the rows", "sequences", int(n * factor), partial(setup, folder, 500), few if factor < 5 else {k: few[k] for k in ("ours", "ours, in memory")}, rounds=1)
        for rows, length in ((1_000, 100),) if quick else ((1_000, 100), (10_000, 100), (100_000, 100), (1_000_000, 100), (1_000, 10_000), (10_000, 1_000), (100_000, 1_000), (10_000, 10_000), (1_000, 100_000)):
            most = min(100, -(-rows // BATCH))
            yield Case(f"grid {rows:,} x {length:,}", "sequences", rows, partial(setup, folder, length), {"ours": Tool(partial(way, "stored", most=most)), "ours, in memory": Tool(partial(way, "memory", most=most))}, rounds=1)


def one():
    "What a process of its own does"
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", choices=WAYS)
    parser.add_argument("--store")
    for name in ("rows", "length", "most"): parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--clock", default="perf_counter")
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    print(json.dumps(run(args.one, args.store, args.rows, args.length, args.seconds, args.most, getattr(time, args.clock))))


if __name__ == "__main__":
    import sys
    one() if "--one" in sys.argv else main("loading", cases)
