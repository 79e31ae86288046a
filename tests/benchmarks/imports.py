"""Seconds until a package can be used, each in a fresh process: `import eugene`, its ETL, its models; numpy is the row `limit`.

`loads` names heavy packages that are in memory afterwards.
"""
import subprocess
import sys
from functools import partial

from harness import Case, Measured, Tool, main

HEAVY = ("torch", "pytorch_lightning", "xarray", "numba", "pandas", "scipy", "matplotlib")
ASK = "import time; a = time.perf_counter(); {code}; b = time.perf_counter() - a; import sys; print(b, *[m for m in {heavy} if m in sys.modules])"
ETL = "import eugene as eu; eu.ohe(['ACGT']); eu.read_table; eu.open_zarr; eu.split_random"
MODELS = "import eugene as eu; eu.build_arch('CNN', input_len=170, output_dim=1)"


def start(code, data):
    "Run it in a process of its own"
    def run():
        done = subprocess.run([sys.executable, "-c", ASK.format(code=code, heavy=HEAVY)], capture_output=True, text=True)
        if done.returncode: raise RuntimeError(done.stderr.strip().splitlines()[-1])
        seconds, *loaded = done.stdout.split()
        return Measured(float(seconds), loaded, {"import_s": float(seconds), "lightning": int("pytorch_lightning" in loaded), "loads": " ".join(loaded)})
    return run


def check(allowed, data, name, loaded):
    "What must not be loaded is not"
    if not name.startswith("ours"): return ""
    return "loads " + " ".join(bad) if (bad := [m for m in loaded if m in HEAVY and m not in allowed]) else ""


def cases(quick):
    peers = {"seqpro": "import seqpro", "tangermeme": "import tangermeme.saturation_mutagenesis, tangermeme.deep_lift_shap", "gReLU": "import grelu.lightning, grelu.interpret.score", "seqdata": "import seqdata",
             "genvarloader": "import genvarloader", "memelite": "import memelite"}
    others = {n: Tool(partial(start, code), {"gReLU": "grelu"}.get(n, n), package={"gReLU": "gReLU"}.get(n, n)) for n, code in peers.items()}
    limit = {"limit": Tool(partial(start, "import numpy"))}
    yield Case("import", "imports", 1, lambda n: n, limit | {"ours": Tool(partial(start, "import eugene"))} | others, partial(check, ()))
    yield Case("first use of ETL", "imports", 1, lambda n: n, {"ours": Tool(partial(start, ETL))}, partial(check, ("torch", "xarray", "numba", "pandas", "scipy")))
    yield Case("first use of models", "imports", 1, lambda n: n, {"ours": Tool(partial(start, MODELS)), "torch": Tool(partial(start, "import torch"), "torch")}, partial(check, ("torch", "xarray", "numba", "pandas", "scipy")))


if __name__ == "__main__": main("imports", cases)
