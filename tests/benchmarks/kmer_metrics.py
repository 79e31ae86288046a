"""Seconds for the RNAcompete scores of all 7-mers, beside the loop that their definitions describe.

    EUGENE_DATA=... python tests/benchmarks/kmer_metrics.py --proteins 19 --rounds 5 --kmers 20

One line of JSON a way. `index` lists the 7-mers of the probes, `ours_1` and `ours` are index and scores of one and of all
proteins; what is compiled at first use is not counted. The loop (NumPy's median and scikit-learn's `roc_auc_score`, or the
same areas from SciPy's `rankdata`) is run for `--kmers` 7-mers of one protein, and EXTRAPOLATED to 16,384: `extrapolated`
in its lines says so, and `times_ours` compares processor seconds. `worst` is the largest difference to ours over those 7-mers. Without `EUGENE_DATA`, or with
`--simulated`, the probes are simulated: as many as SetB has, and as long.
"""
import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score


def probes(simulated, proteins):
    "Probes of SetB and intensities, real ones where there are some"
    place = Path(os.environ.get("EUGENE_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data") / "ray13" / "rnacompete_probes_19rbp.tsv.gz"
    if place.is_file() and not simulated:
        table = pd.read_csv(place, sep="\t").query("Probe_Set == 'SetB'")
        return "SetB of the sample", table["RNA_Seq"].astype(object).tolist(), table.iloc[:, 2:2 + proteins].values
    from eugene.etl.sequences import random_seqs
    return "simulated", random_seqs(121_031, 36, seed=0, alphabet="RNA"), np.random.default_rng(0).normal(size=(121_031, proteins)).round(3)


def by_sklearn(has, x):
    p, q = x[has], x[~has]
    upper = [np.sort(v)[len(v) - len(v) // 2:] for v in (p, q)]
    areas = [roc_auc_score(np.repeat([1, 0], [len(a), len(b)]), np.concatenate([a, b])) for a, b in ((p, q), upper)]
    return np.median(p), *areas


def by_rankdata(has, x):
    p, q = x[has], x[~has]
    upper = [np.sort(v)[len(v) - len(v) // 2:] for v in (p, q)]
    areas = [(rankdata(np.concatenate([a, b]))[:len(a)].sum() - len(a) * (len(a) + 1) / 2) / len(a) / len(b) for a, b in ((p, q), upper)]
    return np.median(p), *areas


def timed(function, rounds):
    "Median, least and most seconds of some rounds, and the median of the processor's, which other programs disturb less"
    seconds, processor = [], []
    for _ in range(rounds):
        start, busy = time.perf_counter(), time.process_time()
        function()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    return {"s": round(statistics.median(seconds), 4), "least": round(min(seconds), 4), "most": round(max(seconds), 4), "cpu_s": round(statistics.median(processor), 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=19)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kmers", type=int, default=20, help="7-mers that the loop is timed on")
    parser.add_argument("--simulated", action="store_true", help="simulated probes even where there are real ones")
    args = parser.parse_args()
    from eugene.training.kmer_metrics import kmer_index, kmer_scores
    data, seqs, x = probes(args.simulated, args.proteins)
    kmer_scores(kmer_index(seqs[:100]), x[:100])  # compile
    def say(way, **numbers): print(json.dumps({"way": way, **numbers}), flush=True)
    say("machine", platform=platform.platform(), cores=os.cpu_count(), load=os.getloadavg()[0], python=platform.python_version(), data=data, probes=len(seqs), proteins=x.shape[1])
    say("index", **timed(lambda: kmer_index(seqs), args.rounds))
    one = timed(lambda: kmer_scores(kmer_index(seqs), x[:, 0]), args.rounds)
    say("ours_1", **one)
    all_of_them = timed(lambda: kmer_scores(kmer_index(seqs), x), args.rounds)
    say("ours", **all_of_them)
    index = kmer_index(seqs)
    ours = kmer_scores(index, x[:, 0])
    frequent = np.flatnonzero(index.counts > 155)
    chosen = np.random.default_rng(0).choice(frequent, args.kmers, replace=False)
    has = [np.array([ours.names[m] in s for s in seqs]) for m in chosen]
    expected = np.array([ours.median[chosen, 0], ours.auc[chosen, 0], ours.e[chosen, 0] + .5])
    for name, way in (("loop, scikit-learn", by_sklearn), ("loop, rankdata", by_rankdata)):
        start = time.process_time()
        found = np.array([way(h, x[:, 0]) for h in has]).T
        each = (time.process_time() - start) / args.kmers
        say(name, cpu_s_per_kmer=round(each, 5), extrapolated={"1": round(each * 4**7, 1), str(x.shape[1]): round(each * 4**7 * x.shape[1], 1)},
            times_ours={"1": round(each * 4**7 / one["cpu_s"]), str(x.shape[1]): round(each * 4**7 * x.shape[1] / all_of_them["cpu_s"])}, worst=float(np.abs(found - expected).max()))


if __name__ == "__main__": main()
