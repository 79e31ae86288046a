"""Build a store of many windows of a simulated genome, out of core, and say how long it took and how much memory it needed.

    python tests/benchmarks/build_store.py                      # 1,000,000 windows of 200 bp from 20 Mb, one process
    python tests/benchmarks/build_store.py --workers 2          # by the workers of a dask.distributed client
    python tests/benchmarks/build_store.py --out store.json     # also into a file

One line of JSON on the standard output. Peak memory is the largest resident set of this process since it started, imports
and the simulation of the genome included; that of a worker, under `--workers`, is not part of it.
"""
import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path


def megabytes():
    "Peak resident set of this process, MB"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def simulate(folder, bases, windows, length, seed):
    "A genome of four chromosomes as FASTA, and a BED file of windows on both strands, in random order"
    import numpy as np
    gen, size = np.random.default_rng(seed), bases // 4
    with open(folder / "genome.fa", "wb") as f:
        for c in range(4):
            letters = np.frombuffer(b"ACGT", np.uint8)[gen.integers(0, 4, size, dtype=np.uint8)]
            lines = np.full((-(-size // 60), 61), 10, np.uint8)
            lines[:, :60].flat[:size] = letters  # the last line is filled up below
            text = lines.tobytes()
            f.write(b">chr%d\n" % (c + 1) + (text if size % 60 == 0 else text[:len(text) - 61 + size % 60] + b"\n"))
    with open(folder / "windows.bed", "w") as f:
        for a in range(0, windows, 100_000):
            n = min(100_000, windows - a)
            for i, (c, s, m) in enumerate(zip(gen.integers(1, 5, n), gen.integers(0, size - length, n), gen.integers(0, 2, n))):
                f.write(f"chr{c}\t{s}\t{s + length}\twindow{a + i + 1}\t0\t{'+-'[m]}\n")
    return folder / "genome.fa", folder / "windows.bed"


def build(args, folder):
    "Simulate, build, measure"
    from eugene.etl.building import read_regions
    from eugene.etl.fasta import GenomeFASTA
    fasta, bed = simulate(folder, args.bases, args.windows, args.length, args.seed)
    before, client = megabytes(), None
    if args.workers:
        from distributed import Client
        client = Client(n_workers=args.workers, threads_per_worker=1, dashboard_address=":0")
    start = time.perf_counter()
    ds = read_regions(bed, GenomeFASTA(fasta), folder / "windows.zarr", client=client, progress=args.progress)
    seconds = time.perf_counter() - start
    if client is not None: client.close()
    files = [p for p in (folder / "windows.zarr").rglob("*") if p.is_file()]
    return {"windows": args.windows, "length": args.length, "genome_bp": args.bases, "workers": args.workers, "seconds": round(seconds, 2),
            "rows_per_second": round(args.windows / seconds), "peak_rss_mb": round(megabytes()), "rss_before_mb": round(before),
            "store_mb": round(sum(p.stat().st_size for p in files) / 1e6, 1), "store_files": len(files), "chunk_rows": ds["seq"].encoding["chunks"][0],
            "python": platform.python_version(), "machine": platform.machine()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=1_000_000, help="rows of the store")
    parser.add_argument("--length", type=int, default=200, help="bp of a window")
    parser.add_argument("--bases", type=int, default=20_000_000, help="bp of the simulated genome")
    parser.add_argument("--workers", type=int, default=0, help="processes of a dask.distributed client; 0: this process alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to put genome and store; a temporary folder otherwise")
    parser.add_argument("--out", type=Path, help="file for the line of JSON")
    parser.add_argument("--progress", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder: result = build(args, Path(folder))
    line = json.dumps({"benchmark": "build_store"} | result)
    if args.out: args.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__": main()
