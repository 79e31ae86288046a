"""Sequences a second of saturation mutagenesis, ours and tangermeme's in turn, on one thread.

    OMP_NUM_THREADS=1 python tests/benchmarks/ism.py --n 32 --rounds 3

One line of JSON a tool and network: the median, least and most of the rounds in sequences a second, the median over
rounds of the ratio to tangermeme as it comes, and the largest difference of an effect from complete passes. `windows`
and `full` are our engines, `auto` is `ism` left to itself; `tangermeme` is its default at this size of job, and
`tangermeme_fast` its own shortcut, which it takes for jobs of more than half a minute and is made to take here. Tools
that score mutants in full get `--slow` sequences, since their time is linear. The networks have random weights.
"""
import argparse
import json
import os
import platform
import statistics
import time

NETWORKS = ("jores_like", "deepstarr_like", "jores21", "hybrid")
TOOLS = ("tangermeme", "tangermeme_fast", "full", "windows", "auto")


def make(name):
    "A network and the length of its input"
    import torch
    from torch import nn
    from eugene.models.zoo import build_arch

    class JoresLike(nn.Module):
        "The larger of both strands after the first convolution, as in the first goals of this project"
        def __init__(self):
            super().__init__()
            self.scan, self.conv = nn.Conv1d(4, 128, 13, padding="same"), nn.Conv1d(128, 128, 13, padding="same")
            self.dense = nn.Sequential(nn.Flatten(), nn.Linear(128 * 170, 64), nn.ReLU(), nn.Linear(64, 1))
        def forward(self, x):
            best = torch.maximum(self.scan(x), self.scan(x.flip((1, 2))).flip(2)).relu()
            return self.dense(self.conv(best).relu())

    torch.manual_seed(0)
    if name == "jores_like": return JoresLike().eval(), 170
    if name == "deepstarr_like": return build_arch("DeepSTARR").eval(), 249
    if name == "jores21": return build_arch("Jores21CNN").eval(), 170
    return build_arch("Hybrid", input_len=170).eval(), 170


def tool(name, model):
    "A function of one-hot sequences that gives all effects"
    import torch
    from eugene.interpretation.mutagenesis import ism
    if not name.startswith("tangermeme"): return lambda x: ism(model, x, device="cpu", engine=name)
    import tangermeme.saturation_mutagenesis as peer

    def run(x):
        before, after = peer.saturation_mutagenesis(model, torch.tensor(x).float(), raw_outputs=True, device="cpu")
        return (after[..., 0] - before[:, None, None, 0]).numpy()

    def forced(x):
        least, peer._FAST_MIN_SECONDS = peer._FAST_MIN_SECONDS, 0
        try: return run(x)
        finally: peer._FAST_MIN_SECONDS = least
    return forced if name == "tangermeme_fast" else run


def expected(model, x):
    "Effects on the first sequence, each mutant in a pass of its own kind: batches of complete mutants in float64"
    import copy
    import numpy as np
    import torch
    wide, a, length = copy.deepcopy(model).double(), x.shape[1], x.shape[2]
    mutants = np.repeat(x[:1], a * length, 0).astype(float)
    for i in range(a * length): mutants[i, :, i % length] = np.arange(a) == i // length
    with torch.no_grad(): out = torch.cat([wide(b)[:, 0] for b in torch.tensor(mutants).split(64)]) - wide(torch.tensor(x[:1]).double())[0, 0]
    return out.reshape(a, length).numpy()


def main():
    import numpy as np
    import torch
    from eugene.etl.sequences import ohe, random_seqs
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=32, help="sequences")
    parser.add_argument("--slow", type=int, default=4, help="sequences for tools that score mutants in full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS[:2])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"machine": platform.platform(), "load": os.getloadavg()[0], "torch": torch.__version__, "n": args.n, "rounds": args.rounds}), flush=True)
    for network in args.networks:
        model, length = make(network)
        model._forward_pre_hooks.clear()  # the check of the input, which tangermeme's shortcut refuses
        x = ohe(random_seqs(args.n, length, seed=0))
        runs, few, rates = {t: tool(t, model) for t in args.tools}, {}, {t: [] for t in args.tools}
        truth = expected(model, x)
        for t, run in runs.items(): few[t] = args.n if t in ("windows", "auto", "tangermeme_fast") else min(args.slow, args.n)
        wrong = {t: float(np.abs(run(x[:1])[0] - truth).max()) for t, run in runs.items()}
        for _ in range(args.rounds):
            for t, run in runs.items():
                start = time.perf_counter()
                run(x[:few[t]])
                rates[t].append(few[t] / (time.perf_counter() - start))
        for t, r in rates.items():
            line = {"network": network, "tool": t, "sequences_per_s": round(statistics.median(r), 2), "least": round(min(r), 2), "most": round(max(r), 2),
                    "largest_error": wrong[t], "largest_effect": float(np.abs(truth).max())}
            if "tangermeme" in rates: line["times_tangermeme"] = round(statistics.median(a / b for a, b in zip(r, rates["tangermeme"])), 2)
            print(json.dumps(line), flush=True)


if __name__ == "__main__": main()
