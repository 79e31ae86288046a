"""TomTom's p-values of 256 filters against a collection, exact: every target column as it is (memelite: `n_target_bins=None`).

`limit` is the distance of all query columns from all target columns on both strands. memelite's default merges similar target
columns, which changes p-values by up to 0.07, so its row says how far it is off. `first call`: a fresh process with an empty
cache of compiled code. Without EUGENE_DATA the collection is simulated.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from harness import Case, Measured, Tool, main

import numpy as np

FIRST = """
import time, numpy as np
g = np.random.default_rng(0)
known = [g.dirichlet(np.ones(4), 8).T for _ in range(30)]
{load}
start, cpu = time.perf_counter(), time.process_time()
{call}
print(time.perf_counter() - start, time.process_time() - cpu)
"""
CALLS = {"ours": ("from eugene.interpretation.tomtom import motif_pvalues", "motif_pvalues(known[:1], known)"),
         "memelite": ("from memelite import tomtom", "tomtom(known[:1], known, n_jobs=1)")}


def collection():
    "Motifs of JASPAR, or simulated ones"
    path = Path(os.environ.get("EUGENE_DATA") or "nowhere") / "motifs" / "JASPAR2022_CORE_vertebrates_non-redundant_v2.meme.gz"
    if path.is_file():
        import gzip
        found = []
        for block in gzip.open(path, "rt").read().split("letter-probability matrix:")[1:]:
            rows = [line.split() for line in block.splitlines()[1:]]
            rows = rows[:next((i for i, r in enumerate(rows) if len(r) != 4), len(rows))]
            found.append((m := np.array(rows, float).T) / m.sum(0))
        return found
    gen = np.random.default_rng(1)
    return [gen.dirichlet(np.ones(4) * .3, int(w)).T for w in gen.integers(6, 20, 841)]


def data(n, width=13):
    "Filters as a layer gives them, half counted from sites of motifs and half random, and the collection"
    gen, known, found = np.random.default_rng(0), collection(), []
    for i in range(n):
        m = known[int(gen.integers(len(known)))] if i % 2 else gen.dirichlet(np.ones(4) * .3, width).T
        m = np.hstack([m, np.full((4, width), .25)])[:, :width]
        found.append(np.ascontiguousarray((c := gen.multinomial(100, (m / m.sum(0)).T).T) / c.sum(0)))
    return found, known


def limit(data):
    filters, known = data
    columns = np.hstack([*known, *[m[::-1, ::-1] for m in known]])
    square = (columns**2).sum(0)
    def run():
        for q in filters: np.sqrt(np.maximum((q**2).sum(0)[:, None] + square - 2 * (q.T @ columns), 0))
    return run


def ours(data):
    from eugene.interpretation.tomtom import motif_pvalues
    return lambda: motif_pvalues(*data).p


def memelite(bins, data):
    from memelite import tomtom
    return lambda: tomtom(*data, n_target_bins=bins, n_jobs=1)[0]


def check(data, name, got):
    "Largest difference from the exact p-values of memelite, where it is"
    try: from memelite import tomtom
    except ImportError: return ""
    filters, known = data
    some = slice(0, len(filters), max(len(filters) // 32, 1))
    worst = float(np.abs(np.asarray(got)[some] - tomtom(filters[some], known, n_target_bins=None, n_jobs=1)[0]).max())
    return {"worst": worst, "wrong": f"off by {worst:.1e}" if worst > 1e-6 else ""}


def first(name, data):
    "Seconds of the first call in a process of its own"
    def run():
        load, call = CALLS[name]
        with tempfile.TemporaryDirectory() as cache:
            done = subprocess.run([sys.executable, "-c", FIRST.format(load=load, call=call)], env={**os.environ, "NUMBA_CACHE_DIR": cache}, capture_output=True, text=True)
        if done.returncode: raise RuntimeError(done.stderr.strip().splitlines()[-1])
        wall, cpu = map(float, done.stdout.split()[-2:])
        return Measured(wall, None, {"first_s": wall, "first_cpu_s": cpu})
    return run


def cases(quick):
    tools = {"limit": Tool(limit), "ours": Tool(ours), "memelite": Tool(partial(memelite, None), "memelite"), "memelite, columns merged (its default)": Tool(partial(memelite, 100), "memelite")}
    yield Case("256 filters against a collection", "filters", 16 if quick else 256, data, tools, check, (.125, 4))
    tools = {"ours": Tool(partial(first, "ours"))} if quick else {n: Tool(partial(first, n), "memelite" if n == "memelite" else "") for n in CALLS}
    yield Case("first call", "calls", 1, lambda n: n, tools, rounds=1)


if __name__ == "__main__": main("tomtom", cases)
