"""What a GPU makes of it: training, mutagenesis and DeepLIFT. Without CUDA every line says `absent: no CUDA device`.

    python tests/benchmarks/gpu.py                        # needs CUDA
    python tests/benchmarks/gpu.py --device cpu --quick   # does it run?

`training jores21` and `training jund`: sequences a second of our loader with Jores21CNN (170 bp) and Kopp21CNN (500 bp); `limit` is
the same model on tensors that are on the device already. `mixed`: bfloat16 by autocast; `compiled`: `torch.compile`. Steps are bare
(forward, backward, Adam), so that only the way of the data differs. The other cases are those of ism.py and deeplift.py.
"""
import sys
from functools import partial

from harness import Case, Tool, arguments, emit, main

import numpy as np

MODELS = {"jores21": ("Jores21CNN", 170), "jund": ("Kopp21CNN", 500)}
DEVICE = "cuda"


def rows(name, n):
    "Letters and targets; Kopp21CNN says yes or no"
    gen, length = np.random.default_rng(0), MODELS[name][1]
    return np.frombuffer(b"ACGT", np.uint8)[gen.integers(0, 4, (n, length))], gen.integers(0, 2, (n, 1)).astype(np.float32), name


def batches(way, data):
    "A function that gives the batches of an epoch on the device"
    import torch
    from eugene.etl.loading import loader
    from eugene.etl.seqdata import make_dataset
    letters, y, _ = data
    if way == "limit":
        x = torch.tensor((letters[:, None] == np.frombuffer(b"ACGT", np.uint8)[:, None]).astype(np.float32)).to(DEVICE)
        on = torch.from_numpy(y).to(DEVICE)
        return lambda: ((x[at], on[at]) for at in torch.randperm(len(x), device=DEVICE).split(128))
    side = loader(make_dataset(letters, y), 128, shuffle=True, pin_memory=DEVICE == "cuda")
    return lambda: ((b.x.to(DEVICE, non_blocking=True), b.y.to(DEVICE, non_blocking=True)) for b in side)


def train(way, mixed, compiled, data):
    "An epoch of bare steps"
    import torch
    from eugene.models.zoo import build_arch
    name, length = MODELS[data[2]]
    torch.manual_seed(0)
    model = build_arch(name, input_len=length, output_dim=1).to(DEVICE)
    steps, optimizer = torch.compile(model) if compiled else model, torch.optim.Adam(model.parameters(), 1e-3)
    epoch = batches(way, data)
    def run():
        for x, y in epoch():
            with torch.autocast(DEVICE, torch.bfloat16, enabled=mixed): loss = torch.nn.functional.binary_cross_entropy_with_logits(steps(x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()  # waits for the device
    return run


def learned(data, name, loss): return "" if np.isfinite(loss) else f"loss {loss}"


def ours_ism(data):
    from eugene.interpretation.mutagenesis import ism
    model, x, _ = data
    return lambda: ism(model, x, device=DEVICE)


def tangermeme_ism(data):
    import torch
    from tangermeme.saturation_mutagenesis import saturation_mutagenesis
    model, x, _ = data
    def run():
        before, after = saturation_mutagenesis(model, torch.tensor(x), raw_outputs=True, device=DEVICE)
        return (after[..., 0] - before[:, None, None, 0]).cpu().numpy()
    return run


def ours_shap(data):
    from eugene.interpretation.attributions import attribute
    model, x, refs = data
    return lambda: attribute(model, x.numpy(), "deepshap", references=refs.numpy(), device=DEVICE).values


def tangermeme_shap(data):
    import warnings
    from tangermeme.deep_lift_shap import deep_lift_shap
    model, x, refs = data
    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return deep_lift_shap(model, x, references=refs, device=DEVICE, random_state=0).cpu().numpy()
    return run


def on_cpu(check, data, name, got):
    "A check that computes on the CPU"
    data[0].cpu()
    return check(data, name, got)


def cases(quick):
    import deeplift
    import ism
    n = 128 if quick else 65_536
    for name in MODELS:
        tools = {"limit": Tool(partial(train, "limit", False, False)), "ours": Tool(partial(train, "ours", False, False)), "ours, mixed": Tool(partial(train, "ours", True, False))}
        if not quick: tools["ours, mixed, compiled"] = Tool(partial(train, "ours", True, True))
        yield Case(f"training {name}", "sequences", n, partial(rows, name), tools, learned)
    size = 1 if quick else 256
    for name in ("DeepSTARR-like", "Jores-like"):
        yield Case(f"mutagenesis {name}", "sequences", size, partial(ism.data, name), {"ours": Tool(ours_ism), "tangermeme": Tool(tangermeme_ism, "tangermeme torch")}, partial(on_cpu, ism.check))
    for name in ("DeepSTARR-like", "both strands"):
        yield Case(f"DeepLIFT {name}", "sequences", size, partial(deeplift.data, name), {"ours": Tool(ours_shap), "tangermeme": Tool(tangermeme_shap, "tangermeme torch")}, partial(on_cpu, deeplift.check))


def absent(args):
    "Lines that say why nothing was measured"
    for case in cases(args.quick): emit("gpu", case, case.size, {name: {"absent": "no CUDA device"} for name in case.tools}, case.tools, args.environment)


if __name__ == "__main__":
    parser = arguments()
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see whether it runs")
    known, _ = parser.parse_known_args()
    try: import torch
    except ImportError: sys.exit("gpu.py needs torch")
    DEVICE = known.device
    if DEVICE == "cuda" and not torch.cuda.is_available(): absent(parser.parse_args())
    else: main("gpu", cases, parser)
