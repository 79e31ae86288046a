"""DeepLIFT with 20 references a sequence, its letters shuffled (DeepSHAP); all tools get the same ones.

`limit` is one forward and one backward pass of every reference. `delta` says how far the shares miss the difference of scores
(median, relative to the median difference), `refuses` whether an operation without a rule is an error.
"""
from functools import partial

from harness import Case, Tool, main

import numpy as np

REFERENCES = 20


def data(name, n):
    "Model, sequences, and shuffled sequences as references"
    import torch
    from networks import network, sequences
    model, length = network(name)
    x, gen = sequences(n, length, seed=1), np.random.default_rng(2)
    refs = np.stack([np.stack([s[:, gen.permutation(length)] for _ in range(REFERENCES)]) for s in x])
    return model, torch.tensor(x), torch.tensor(refs)


def limit(data):
    import torch
    model, x, refs = data
    def run():
        for part in refs.flatten(0, 1).split(32):
            part = part.clone().requires_grad_()
            torch.autograd.grad(model(part).sum(), part)
    return run


def ours(data):
    from eugene.interpretation.attributions import attribute
    model, x, refs = data
    return lambda: attribute(model, x.numpy(), "deepshap", references=refs.numpy(), device="cpu").values


def tangermeme(module, data):
    import importlib
    import warnings
    model, x, refs = data
    shap = importlib.import_module(module).deep_lift_shap
    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations without a rule, where the values are returned all the same
            return shap(model, x, references=refs, device="cpu", random_state=0).numpy()
    return run


def captum(data):
    import warnings
    import torch
    from captum.attr import DeepLiftShap
    model, x, refs = data
    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.cat([DeepLiftShap(model).attribute(s[None], baselines=r, target=0) for s, r in zip(x, refs)]).detach().numpy()
    return run


def refuses(attribute):
    "Whether a network with an operation that has no rule is refused"
    import torch
    from torch import nn
    class Odd(nn.Module):
        def forward(self, x): return torch.cumprod(x.sum(1) + .5, 1)[:, -1:]
    try: attribute(Odd(), np.eye(4, dtype=np.float32)[None], "deepshap", references=np.full((1, 1, 4, 4), .25, np.float32), device="cpu")
    except (ValueError, NotImplementedError): return 1
    return 0


def check(data, name, got):
    "How far the shares miss"
    from networks import batched
    model, x, refs = data
    gain = batched(model, x) - batched(model, refs.flatten(0, 1)).reshape(refs.shape[:2]).mean(1)
    delta = float(np.median(np.abs(np.asarray(got).sum((1, 2)) - gain)) / np.median(np.abs(gain)))
    facts = {"delta": delta, "wrong": f"misses {100 * delta:.2g} % of the difference" if not delta < 1e-4 else ""}
    if name != "ours": return facts
    from eugene.interpretation.attributions import attribute
    return facts | {"refuses": refuses(attribute)}


def cases(quick):
    for name in ("DeepSTARR-like", "both strands"):
        tools = {"limit": Tool(limit), "ours": Tool(ours), "tangermeme": Tool(partial(tangermeme, "tangermeme.deep_lift_shap"), "tangermeme torch"),
                 "bpnet-lite": Tool(partial(tangermeme, "bpnetlite.attribute"), "bpnetlite torch", package="bpnet-lite"), "captum": Tool(captum, "captum torch")}
        yield Case(name, "sequences", 2 if quick else 16, partial(data, name), tools, check)


if __name__ == "__main__": main("deeplift", cases)
