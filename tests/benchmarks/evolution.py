"""Sequence-rounds a second of greedy evolution, ours and tangermeme's in turn, on one thread.

    OMP_NUM_THREADS=1 python tests/benchmarks/evolution.py --n 32 --rounds 2 --repeats 3

One line of JSON a tool: the median, least and most of the repeats, the median ratio to tangermeme, and whether the
sequences are those of an exhaustive search that scores every mutant in full. tangermeme designs one sequence at a
time and gets `--slow` of them. `--paper` runs 310 sequences of 170 bp for 10 rounds once, ours alone, and says how
many seconds it took. The network has random weights.
"""
import argparse
import json
import os
import platform
import statistics
import time

TOOLS = ("tangermeme", "full", "ours")


def exhaustive(model, x, rounds):
    "Greedy search over all mutants, each scored in full: sequences and scores after the last round"
    import numpy as np
    import torch
    x = x.copy()
    def score(seqs):
        with torch.no_grad(): return torch.cat([model(b)[:, 0] for b in torch.tensor(seqs).float().split(32)]).numpy()
    now = score(x)
    for _ in range(rounds):
        for n in range(len(x)):
            at = np.argwhere(x[n].T != 1)
            mutants = np.repeat(x[n:n + 1], len(at), 0)
            for m, (p, a) in zip(mutants, at): m[:, p] = np.arange(4) == a
            found = score(mutants)
            if found.max() > now[n] + 1e-6: x[n], now[n] = mutants[found.argmax()], found.max()
    return x, now


def tool(name, model, rounds):
    "A function of one-hot sequences that gives the designs"
    import numpy as np
    import torch
    from eugene.interpretation.evolution import evolve
    if name != "tangermeme": return lambda x: evolve(model, x, rounds, device="cpu", engine="full" if name == "full" else "auto").x
    from tangermeme.design import greedy_substitution
    return lambda x: np.concatenate([greedy_substitution(model, torch.tensor(s[None]).float(), max_iter=rounds, tol=1e-6, device="cpu").numpy() for s in x])


def main():
    import numpy as np
    import torch
    from eugene.etl.sequences import ohe, random_seqs
    from ism import make
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--slow", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--paper", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, length = make("jores_like")
    print(json.dumps({"machine": platform.platform(), "load": os.getloadavg()[0], "torch": torch.__version__, "n": args.n, "rounds": args.rounds}), flush=True)
    if args.paper:
        from eugene.interpretation.evolution import evolve
        start = time.perf_counter()
        evolve(model, ohe(random_seqs(310, length, seed=0)), 10, device="cpu")
        print(json.dumps({"tool": "ours", "n": 310, "rounds": 10, "seconds": round(time.perf_counter() - start, 1), "processor_seconds": round(time.process_time(), 1)}), flush=True)
        return
    x = ohe(random_seqs(args.n, length, seed=0))
    runs, rates = {t: tool(t, model, args.rounds) for t in TOOLS}, {t: [] for t in TOOLS}
    n = {t: args.n if t == "ours" else args.slow for t in TOOLS}
    truth, score = exhaustive(model, x[:args.slow], args.rounds)
    same = {}
    for _ in range(args.repeats):
        for t, run in runs.items():
            start = time.perf_counter()
            made = run(x[:n[t]])
            rates[t].append(n[t] * args.rounds / (time.perf_counter() - start))
            same[t] = bool((made[:args.slow] == truth).all())
    for t, r in rates.items():
        print(json.dumps({"tool": t, "sequence_rounds_per_s": round(statistics.median(r), 2), "least": round(min(r), 2), "most": round(max(r), 2), "same_as_exhaustive": same[t],
                          "times_tangermeme": round(statistics.median(a / b for a, b in zip(r, rates["tangermeme"])), 2)}), flush=True)


if __name__ == "__main__": main()
