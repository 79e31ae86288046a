"""Rows a second and peak memory of ways to draw shuffled batches, each in a process of its own.

    python tests/benchmarks/loading.py --rows 200000 --length 500 --rounds 3

One line of JSON a way: rows a second (median, least and most of the epochs), the resident memory before the data were
touched and at its peak, in MB. What the ways need is made once: a Zarr store, as `to_zarr` writes it. `limit` and
`tensor_dataset` hold everything encoded, float32; `tensor_dataset_2` is the same with two worker processes.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("limit", "tensor_dataset", "tensor_dataset_2", "memory", "memory_threads", "stored", "stored_threads", "mapped")


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


def batches(way, store, batch_size):
    "A function that gives an iterator over one epoch of `(x, y)`"
    import torch
    from torch.utils.data import DataLoader, TensorDataset
    from eugene.etl.loading import loader, memory_map, to_torch
    from eugene.etl.seqdata import open_zarr
    ds = open_zarr(store)
    if way in ("limit", "tensor_dataset", "tensor_dataset_2"):
        x, y = to_torch(ds)[:2]
        if way == "limit":
            def epoch():
                order = torch.randperm(len(x))
                for a in range(0, len(x), batch_size): yield x[order[a:a + batch_size]], y[order[a:a + batch_size]]
            return epoch
        dl = DataLoader(TensorDataset(x, y), batch_size, shuffle=True, num_workers=2 if way.endswith("_2") else 0)
        return lambda: iter(dl)
    if way == "mapped": ds = memory_map(ds, Path(store).parent / "mapped")
    dl = loader(ds, batch_size, shuffle=True, in_memory=way != "stored" and way != "stored_threads", num_workers=2 if way.endswith("_threads") else 0)
    return lambda: iter(dl)


def run(way, store, rows, batch_size, rounds, seconds):
    "Walk through epochs, or as much of them as there is time for"
    import torch
    from eugene.etl.loading import to_torch
    from eugene.etl.seqdata import open_zarr
    torch.set_num_threads(1)
    to_torch(open_zarr(store).isel(sequence=slice(0, 200)))  # what is compiled or loaded at first use belongs to the imports
    before, _ = memory()
    epoch, speeds = batches(way, store, batch_size), []
    for _ in range(rounds):
        start, done, check = time.perf_counter(), 0, 0.0
        for batch in epoch():
            done += len(batch[0]); check += float(batch[0][0, 0, 0]) + float(batch[1][0, 0])
            if time.perf_counter() - start > seconds: break
        speeds.append(done / (time.perf_counter() - start))
    return {"way": way, "rows": rows, "batch_size": batch_size, "rows_per_s": round(statistics.median(speeds)), "least": round(min(speeds)), "most": round(max(speeds)),
            "before_mb": round(before), "peak_mb": round(memory()[1]), "over_imports_mb": round(memory()[1] - before)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--length", type=int, default=500, help="bp")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3, help="epochs")
    parser.add_argument("--seconds", type=float, default=20, help="most for one epoch")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--store", help="store to use; made in a temporary folder if left out")
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one: print(json.dumps(run(args.one, args.store, args.rows, args.batch_size, args.rounds, args.seconds))); return
    with tempfile.TemporaryDirectory() as folder:
        store = args.store or f"{folder}/rows.zarr"
        if not args.store: make_store(store, args.rows, args.length)
        print(json.dumps({"machine": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version(), "length": args.length}), flush=True)
        for way in args.ways:
            command = [sys.executable, __file__, "--one", way, "--store", store]
            for name in ("rows", "length", "batch_size", "rounds", "seconds"): command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
            done = subprocess.run(command, capture_output=True, text=True)
            print(done.stdout.strip() or json.dumps({"way": way, "error": done.stderr.strip().splitlines()[-1]}), flush=True)


if __name__ == "__main__": main()
