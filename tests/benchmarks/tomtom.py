"""Seconds for TomTom's p-values of 256 filters against a collection, beside memelite.

    EUGENE_DATA=... python tests/benchmarks/tomtom.py --rounds 5

One line of JSON a way. `first_call` is a fresh process with an empty cache of compiled code; the other lines leave compilation
out. `ours` is exact, as is memelite with `n_target_bins=None`; memelite's default merges similar target columns, and `worst`
is the largest difference of its p-values to ours. One thread each. Without `EUGENE_DATA` the collection is simulated.
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

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

FIRST = """
import time, numpy as np
g = np.random.default_rng(0)
known = [g.dirichlet(np.ones(4), 8).T for _ in range(30)]
{load}
wall, cpu = time.perf_counter(), time.process_time()
{call}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
CALLS = {"ours": ("from eugene.interpretation.tomtom import motif_pvalues", "motif_pvalues(known[:1], known)"),
         "memelite": ("from memelite import tomtom", "tomtom(known[:1], known, n_jobs=1)")}


def collection():
    "Motifs of JASPAR, or simulated ones"
    path = Path(os.environ.get("EUGENE_DATA") or "nowhere") / "motifs" / "JASPAR2022_CORE_vertebrates_non-redundant_v2.meme.gz"
    if path.is_file():
        from eugene.etl.motifs import read_meme
        return "JASPAR2022", [m.ppm for m in read_meme(path)]
    gen = np.random.default_rng(1)
    return "simulated", [gen.dirichlet(np.ones(4) * .3, int(w)).T for w in gen.integers(6, 20, 841)]


def queries(known, n=256, width=13):
    "Filters as a layer gives them: half counted from sites of motifs, half random"
    gen, found = np.random.default_rng(0), []
    for i in range(n):
        m = known[int(gen.integers(len(known)))] if i % 2 else gen.dirichlet(np.ones(4) * .3, width).T
        m = np.hstack([m, np.full((4, width), .25)])[:, :width]
        found.append(np.ascontiguousarray((c := gen.multinomial(100, (m / m.sum(0)).T).T) / c.sum(0)))
    return found


def timed(call, rounds):
    call()
    wall, cpu = [], []
    for _ in range(rounds):
        a, b = time.perf_counter(), time.process_time()
        result = call()
        wall.append(time.perf_counter() - a), cpu.append(time.process_time() - b)
    return result, {"seconds": statistics.median(wall), "processor_seconds": statistics.median(cpu)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first", action="store_true", help="time first calls too (memelite compiles for minutes)")
    args = parser.parse_args()
    from eugene.interpretation.tomtom import motif_pvalues
    name, known = collection()
    filters = queries(known)
    common = {"collection": name, "pairs": len(known) * len(filters), "machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    ours, line = timed(lambda: motif_pvalues(filters, known).p, args.rounds)
    print(json.dumps({"way": "ours", **common, **line}), flush=True)
    ways = ["ours"]
    try:
        import memelite
        ways.append("memelite")
        for bins in (None, 100):
            theirs, line = timed(lambda: memelite.tomtom(filters, known, n_target_bins=bins, n_jobs=1)[0], args.rounds)
            print(json.dumps({"way": f"memelite n_target_bins={bins}", **common, **line, "worst": float(np.abs(theirs - ours).max())}), flush=True)
    except ImportError: print(json.dumps({"way": "memelite", "skipped": "not installed"}))
    for way in ways if args.first else []:
        with tempfile.TemporaryDirectory() as cache:
            load, call = CALLS[way]
            out = subprocess.run([sys.executable, "-c", FIRST.format(load=load, call=call)], env={**os.environ, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=True).stdout.split()
        print(json.dumps({"way": f"{way} first_call", "seconds": float(out[0]), "processor_seconds": float(out[1])}), flush=True)


if __name__ == "__main__": main()
