"""RNAcompete scores (median, AUC, E) of all 7-mers from 121,031 probes, index included.

`limit` adds up each k-mer's probes once, in a matrix that is there already. `loop` is the definition, NumPy's median and
scikit-learn's `roc_auc_score`, for 8 of the 16,384 7-mers and one protein; its time is EXTRAPOLATED to all. Without EUGENE_DATA the
probes are simulated, as many and as long.
"""
import os
from functools import lru_cache, partial
from pathlib import Path

from harness import Case, Tool, main

import numpy as np

K, LOOPED = 7, 8


@lru_cache(1)
def data(n, proteins):
    "Probes, intensities, and the 7-mers that the loop scores"
    import pandas as pd
    place = Path(os.environ.get("EUGENE_DATA") or "nowhere") / "ray13" / "rnacompete_probes_19rbp.tsv.gz"
    if place.is_file():
        table = pd.read_csv(place, sep="\t").query("Probe_Set == 'SetB'").head(n)
        return table["RNA_Seq"].astype(object).tolist(), table.iloc[:, 2:2 + proteins].values
    gen = np.random.default_rng(0)
    return ["".join(row) for row in np.array(list("ACGU"))[gen.integers(0, 4, (n, 36))]], gen.normal(size=(n, proteins)).round(3)


def chosen(seqs):
    "7-mers of some probes"
    return [s[10:10 + K] for s in seqs[:LOOPED]]


def limit(data):
    from scipy.sparse import csc_matrix
    seqs, x = data
    width = min(map(len, seqs))
    codes = np.array([list(s[:width].encode()) for s in seqs], np.uint8)
    codes = (codes >> 1) & 3
    each = sum(codes[:, i:codes.shape[1] - K + 1 + i].astype(np.int32) << 2 * i for i in range(K))
    has = csc_matrix((np.ones(each.size), (each.ravel(), np.repeat(np.arange(len(seqs)), each.shape[1]))), (4**K, len(seqs)))
    return lambda: has @ x


def ours(data):
    from eugene.training.kmer_metrics import kmer_index, kmer_scores
    seqs, x = data
    kmer_scores(kmer_index(seqs[:100]), x[:100])
    return lambda: kmer_scores(kmer_index(seqs), x)


def loop(data):
    from sklearn.metrics import roc_auc_score
    seqs, x = data
    def run():
        rows = []
        for kmer in chosen(seqs):
            has = np.array([kmer in s for s in seqs])
            p, q = x[has, 0], x[~has, 0]
            upper = [np.sort(v)[len(v) - len(v) // 2:] for v in (p, q)]
            rows.append((np.median(p), *[roc_auc_score(np.repeat([1, 0], [len(a), len(b)]), np.concatenate([a, b])) for a, b in ((p, q), upper)]))
        return rows
    return run


def check(data, name, got):
    "Equal to the definition"
    if name != "ours": return ""
    truth, names = np.array(loop(data)()), {k: i for i, k in enumerate(got.names)}
    at = [names[k] for k in chosen(data[0])]
    worst = float(np.abs(np.array([got.median[at, 0], got.auc[at, 0], got.e[at, 0] + .5]).T - truth).max())
    return {"worst": worst, "wrong": f"off by {worst:.1e}" if worst > 1e-9 else ""}


def facts(tool):
    "The seconds as a fact, for the goals"
    from harness import Measured
    import time
    def make(data):
        run = tool(data)
        run()
        def timed():
            start = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - start
            return Measured(seconds, result, {"all_s": seconds})
        return timed
    return make


def cases(quick):
    n = 2_000 if quick else 121_031
    for proteins in (1, 19):
        tools = {"limit": Tool(limit), "ours": Tool(facts(ours))}
        if proteins == 1: tools["loop (extrapolated)"] = Tool(loop, "sklearn", share=LOOPED / 4**K, package="scikit-learn")
        yield Case(f"{proteins} protein{'s' * (proteins > 1)}", "probes", n, partial(data, proteins=proteins), tools, check)


if __name__ == "__main__": main("kmer_metrics", cases)
