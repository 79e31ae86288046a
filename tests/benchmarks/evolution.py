"""Sequence-rounds a second of greedy evolution, ours and tangermeme's in turn, on one thread.

    OMP_NUM_THREADS=1 python tests/benchmarks/evolution.py --n 32 --rounds 2 --repeats 3

Every run is a process of its own: after tangermeme's greedy search, what else runs in its process is several times
slower (seen with 1.6.0 on one thread, cause not found). One line of JSON a tool: the median, least and most of the repeats, the median ratio to tangermeme, and whether the
sequences are those of an exhaustive search that scores every mutant in full. tangermeme designs one sequence at a
time and gets `--slow` of them. `--paper` runs 310 sequences of 170 bp for 10 rounds once, ours alone, and says how
many seconds it took. The network has random weights.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
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
    parser.add_argument("--one", choices=TOOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, length = make("jores_like")
    if not args.one: print(json.dumps({"machine": platform.platform(), "load": os.getloadavg()[0], "torch": torch.__version__, "n": args.n, "rounds": args.rounds}), flush=True)
    if args.paper:
        from eugene.interpretation.evolution import evolve
        start = time.perf_counter()
        evolve(model, ohe(random_seqs(310, length, seed=0)), 10, device="cpu")
        print(json.dumps({"tool": "ours", "n": 310, "rounds": 10, "seconds": round(time.perf_counter() - start, 1), "processor_seconds": round(time.process_time(), 1)}), flush=True)
        return
    if args.one:
        x = ohe(random_seqs(args.slow if args.one != "ours" else args.n, length, seed=0))
        run = tool(args.one, model, args.rounds)
        start = time.perf_counter()
        made = run(x)
        seconds = time.perf_counter() - start
        print(json.dumps({"rate": len(x) * args.rounds / seconds, "same": bool((made[:args.slow] == exhaustive(model, x[:args.slow], args.rounds)[0]).all())}))
        return
    rates, same = {t: [] for t in TOOLS}, {}
    for _ in range(args.repeats):
        for t in TOOLS:
            command = [sys.executable, __file__, "--one", t, *(f"--{k}={getattr(args, k)}" for k in ("n", "slow", "rounds"))]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
            rates[t].append(told["rate"])
            same[t] = told["same"]
    for t, r in rates.items():
        print(json.dumps({"tool": t, "sequence_rounds_per_s": round(statistics.median(r), 2), "least": round(min(r), 2), "most": round(max(r), 2), "same_as_exhaustive": same[t],
                          "times_tangermeme": round(statistics.median(a / b for a, b in zip(r, rates["tangermeme"])), 2)}), flush=True)


if __name__ == "__main__": main()
