"""Sequences a second of DeepLIFT over dinucleotide shuffles, ours and tangermeme's in turn in one run.

    OMP_NUM_THREADS=1 python tests/benchmarks/deeplift.py --n 32 --references 20 --rounds 5

Two networks with random weights: `deepstarr`, of modules only, and `strands`, two convolutions over both strands, joined by
`torch.maximum`. Both tools get the same references. `limit` is one forward and one backward pass of each reference. One line of
JSON a network and tool: sequences a second (median, least and most of the rounds), how far the shares miss the difference of
scores (largest, and median relative to the median difference), and the correlation with the other tool. The last line of a
network has the ratios of the medians. Nothing is asserted about time; a sum that is missed by more than 1e-4 ends the run.
"""
import argparse
import json
import platform
import statistics
import time
import warnings

import numpy as np
import torch
from torch import nn


class Strands(nn.Module):
    "The larger of what two convolutions and a dense head see on either strand"

    def __init__(self, length=170):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 128, 13, padding="same"), nn.ReLU(), nn.Conv1d(128, 64, 13, padding="same"), nn.ReLU(),
                                  nn.Flatten(), nn.Linear(64 * length, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x): return torch.maximum(self.body(x), self.body(x.flip((1, 2))))


def networks():
    "Name to model and length of its sequences"
    from eugene.models.activity import DeepSTARR
    torch.manual_seed(0)
    return {"deepstarr": (DeepSTARR(output_dim=1).eval(), 249), "strands": (Strands().eval(), 170)}


def limit(model, x, refs, rows):
    "One forward and one backward pass of every reference"
    for part in refs.flatten(0, 1).split(rows):
        part = part.clone().requires_grad_()
        torch.autograd.grad(model(part).sum(), part)


def tools(model, x, refs, rows, theirs):
    "Name to function that returns shares `(N, A, L)`, or None"
    from eugene.interpretation.attributions import attribute
    found = {"limit": lambda: limit(model, x, refs, rows),
             "eugene": lambda: attribute(model, x.numpy(), "deepshap", references=refs.numpy(), batch_size=rows, device="cpu").values}
    try: from tangermeme.deep_lift_shap import deep_lift_shap
    except ImportError: return found
    return found | {"tangermeme": lambda: deep_lift_shap(model, x, references=refs, batch_size=theirs, device="cpu", random_state=0).numpy()}


def gain(model, x, refs):
    "Score of each sequence minus the mean score of its references"
    with torch.no_grad(): return (model(x)[:, 0] - model(refs.flatten(0, 1))[:, 0].unflatten(0, refs.shape[:2]).mean(1)).numpy()


def run(name, model, x, refs, args):
    "Print the lines of one network"
    ways, seconds, shares = tools(model, x, refs, args.rows, args.theirs), {}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tangermeme warns about operations without a rule
        for call in ways.values(): call()
        for _ in range(args.rounds):
            for tool, call in ways.items():
                start = time.perf_counter()
                shares[tool] = call()
                seconds.setdefault(tool, []).append(time.perf_counter() - start)
    expected = gain(model, x, refs)
    for tool, times in seconds.items():
        rates = [len(x) / t for t in times]
        line = {"network": name, "tool": tool, "seq_per_s": round(statistics.median(rates), 2), "least": round(min(rates), 2), "most": round(max(rates), 2)}
        if shares[tool] is not None:
            missed = np.abs(shares[tool].sum((1, 2)) - expected)
            line |= {"delta_max": float(missed.max()), "delta_relative": float(np.median(missed) / np.median(np.abs(expected)))}
            line |= {f"pearson_with_{o}": round(float(np.corrcoef(shares[tool].ravel(), s.ravel())[0, 1]), 5) for o, s in shares.items() if s is not None and o != tool}
            if tool == "eugene" and line["delta_relative"] > 1e-4: raise SystemExit(f"shares of {name} miss the difference by {line['delta_relative']:.1e} of it")
        print(json.dumps(line), flush=True)
    middle = {tool: statistics.median(times) for tool, times in seconds.items()}
    print(json.dumps({"network": name, **{f"eugene_over_{tool}": round(t / middle["eugene"], 3) for tool, t in middle.items() if tool != "eugene"}}), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, what in (("n", 32, "sequences"), ("references", 20, "references of each"), ("rounds", 5, "rounds"), ("rows", 32, "references in a pass, ours"), ("theirs", 32, "batch size, tangermeme")):
        p.add_argument(f"--{name}", type=int, default=value, help=f"{what} ({value})")
    p.add_argument("--networks", nargs="*", default=["deepstarr", "strands"])
    args = p.parse_args()
    from eugene.etl.sequences import ohe, random_seqs
    from eugene.interpretation.references import make_references
    print(json.dumps({"threads": torch.get_num_threads(), "machine": platform.machine(), "torch": torch.__version__, "n": args.n, "references": args.references, "rows": args.rows, "batch_size_tangermeme": args.theirs}))
    for name, (model, length) in networks().items():
        if name not in args.networks: continue
        x = ohe(random_seqs(args.n, length, seed=1))
        run(name, model, torch.tensor(x).float(), torch.tensor(make_references(x, n=args.references, seed=1)).float(), args)


if __name__ == "__main__":
    main()
