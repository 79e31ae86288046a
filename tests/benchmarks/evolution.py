"""Greedy evolution: the best single substitution of each sequence, round after round. Jores-like network, 170 bp, 2 rounds.

Every run is a process of its own: after tangermeme's greedy search whatever else runs in its process is several times slower (seen
with 1.6.0 on one thread, cause not found). `limit` is no bound here but the plain loop that scores every mutant in full, in batches of
128. Tools that do so get 2 sequences, ours 32. `ours, as in the paper`: 310 sequences, 10 rounds, once.
"""
import json
import sys
import time
from functools import partial

from harness import Case, Tool, elsewhere, main

import numpy as np

ROUNDS = 2


def exhaustive(model, x, rounds=ROUNDS, size=128):
    "Sequences after greedy search over all mutants, each scored in full"
    from networks import batched, mutants
    x, now = x.copy(), batched(model, x)
    for _ in range(rounds):
        for i in range(len(x)):
            every = mutants(x[i])
            new = every[(every != x[i]).any((1, 2))]
            found = batched(model, new, size)
            if found.max() > now[i] + 1e-6: x[i], now[i] = new[found.argmax()], found.max()
    return x


def ours(model, x, rounds=ROUNDS):
    from eugene.interpretation.evolution import evolve
    return evolve(model, x, rounds, device="cpu").x


def tangermeme(model, x):
    import torch
    from tangermeme.design import greedy_substitution
    return np.concatenate([greedy_substitution(model, torch.tensor(s[None]), max_iter=ROUNDS, tol=1e-6, device="cpu").numpy() for s in x])


def one(name, n):
    "A run, and whether its first two sequences are those of the exhaustive search"
    import torch
    from networks import network, sequences
    torch.set_num_threads(1)
    (model, length), paper = network("Jores-like"), name == "paper"
    x, run = sequences(n, length), {"limit": exhaustive, "ours": ours, "tangermeme": tangermeme, "paper": partial(ours, rounds=10)}[name]
    if name in ("ours", "paper"): import eugene.interpretation.evolution  # noqa: F401
    start = time.perf_counter()
    made = run(model, x)
    told = {"seconds": time.perf_counter() - start}
    if name in ("ours", "tangermeme"): told["same"] = int(np.array_equal(np.asarray(made)[:2], exhaustive(model, x[:2])))
    print(json.dumps(told | ({"paper_s": told["seconds"]} if paper else {})))


def start(name, share, n): return lambda: elsewhere(__file__, "--one", name, max(1, round(n * share)))


def cases(quick):
    n, few = (4, 2) if quick else (32, 2)
    slow = {"share": few / n}
    tools = {"limit": Tool(partial(start, "limit", few / n), "torch", **slow), "ours": Tool(partial(start, "ours", 1)), "tangermeme": Tool(partial(start, "tangermeme", few / n), "tangermeme torch", **slow)}
    yield Case("2 rounds", "sequences", n, lambda n: n, tools)
    if not quick: yield Case("as in the paper: 310 sequences, 10 rounds", "sequences", 310, lambda n: n, {"ours": Tool(partial(start, "paper", 1))}, rounds=1)


if __name__ == "__main__":
    if "--one" in sys.argv: one(sys.argv[-2], int(sys.argv[-1]))
    else: main("evolution", cases)
