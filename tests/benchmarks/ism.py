"""Saturation mutagenesis, exact: effects of all single mutants, `(N, 4, L)`.

`limit` is the arithmetic that is left when only what a substitution changes is computed anew, at the rate of a matrix product
measured in the same round. Tools that score mutants in full get some of the sequences, since their time is linear.
`tangermeme` is its default for jobs of this size, `tangermeme shortcut` its own fast way, which it takes for jobs of more than
half a minute and is made to take here. The recurrent network is one for which nobody has a shortcut.
"""
from functools import partial

from harness import Case, Measured, Tool, main

import numpy as np

CHANGED = {"DeepSTARR-like": 1.006e6, "Jores-like": 5.834e6}  # FLOP of a mutant, only what changes
SLOW = 4                                                       # Sequences for tools that score mutants in full


def data(name, n):
    from networks import network, sequences
    model, length = network(name)
    return model, sequences(n, length), name


def limit(data):
    from networks import flops_per_second
    model, x, name = data
    return lambda: Measured(CHANGED[name] * 3 * x.shape[2] * len(x) / flops_per_second(), None, {"bound": "changed only"})


def ours(engine, few, data):
    from eugene.interpretation.mutagenesis import ism
    model, x, _ = data
    return lambda: ism(model, x[:few], device="cpu", engine=engine)


def tangermeme(least, few, data):
    import torch
    import tangermeme.saturation_mutagenesis as peer
    model, x, _ = data
    part = torch.tensor(x[:few])
    def run():
        kept = getattr(peer, "_FAST_MIN_SECONDS", None)
        if least is not None and kept is not None: peer._FAST_MIN_SECONDS = least
        try: before, after = peer.saturation_mutagenesis(model, part, raw_outputs=True, device="cpu")
        finally:
            if kept is not None: peer._FAST_MIN_SECONDS = kept
        return (after[..., 0] - before[:, None, None, 0]).numpy()
    return run


def captum(few, data):
    import torch
    from captum.attr import FeatureAblation
    model, x, _ = data
    part, a, length = torch.tensor(x[:few]), x.shape[1], x.shape[2]
    mask = torch.arange(length).expand(1, a, length)
    def run():  # one pass over the positions for each letter that is put there
        with torch.no_grad():
            each = [FeatureAblation(model).attribute(part, baselines=torch.eye(a)[i][None, :, None].expand(len(part), a, length), target=0, feature_mask=mask, perturbations_per_eval=32)[:, 0] for i in range(a)]
        return -torch.stack(each, 1).numpy()
    return run



def check(data, name, got):
    "Largest difference from complete passes in float64, on the first sequence"
    import copy
    import torch
    from networks import batched, mutants
    model, x, _ = data
    wide = copy.deepcopy(model).double()
    truth = batched(wide, mutants(x[0].astype(float))).reshape(x.shape[1:]) - batched(wide, x[:1].astype(float))[0]
    off = float(np.abs(np.asarray(got)[0] - truth).max())
    return {"error": off, "effect": float(np.abs(truth).max()), "wrong": f"off by {off:.1e}" if not off < 1e-4 else ""}


def cases(quick):
    n, slow = (4, 2) if quick else (32, SLOW)
    for name in ("DeepSTARR-like", "Jores-like", "recurrent"):
        some = n if name != "recurrent" else slow
        part = {"share": slow / some}
        tools = {"limit": Tool(limit), "ours": Tool(partial(ours, "auto", some))} if name != "recurrent" else {"ours": Tool(partial(ours, "auto", some))}
        tools |= {"tangermeme": Tool(partial(tangermeme, None, slow), "tangermeme torch", **part)}
        if name != "recurrent":
            tools |= {"tangermeme shortcut": Tool(partial(tangermeme, 0, some), "tangermeme torch"), "captum": Tool(partial(captum, slow), "captum torch", **part)}
        yield Case(name, "sequences", some, partial(data, name), tools, check)
    size = n
    for name in ("DeepSTARR-like", "Jores-like"):
        yield Case(f"{name}, ours at other sizes", "sequences", size, partial(data, name), {"limit": Tool(limit), "ours": Tool(partial(ours, "auto", None))}, check, (.125, 8), rounds=2)


if __name__ == "__main__": main("ism", cases)
