"Mutagenesis by the shortcut is mutagenesis by complete passes: random networks, every architecture, and what can go wrong"
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.interpretation.fast_ism import Shortcut, check_shortcut, ism_engine
from eugene.interpretation.mutagenesis import ism, ism_table
from eugene.interpretation.recording import Unfollowed, record
from eugene.layers.convolutions import BiConv1D, RCConv1d, RCMerge, RCNorm
from eugene.layers.strands import BothStrands
from eugene.models.profile import OneHead
from eugene.models.zoo import ARCHITECTURES
from eugene.training.prediction import predict
from test_zoo import BUILDS, small

LENGTH = 24
X = ohe([*random_seqs(2, LENGTH, seed=1), "ACGTN" * 4 + "NNAC"])


class Made(nn.Module):
    "A layer from a function"
    def __init__(self, f):
        super().__init__()
        self.f = f
    def forward(self, x): return self.f(x)


class Beside(nn.Module):
    "Paths next to each other"
    def __init__(self, *paths):
        super().__init__()
        self.paths = nn.ModuleList(paths)
    def forward(self, x): return torch.cat([p(x) for p in self.paths], 1)


class Added(nn.Module):
    "A path added to its input"
    def __init__(self, path):
        super().__init__()
        self.path = path
    def forward(self, x): return x + self.path(x)


class Strands(nn.Module):
    "One convolution over both strands, the larger at each position"
    def __init__(self, conv):
        super().__init__()
        self.conv = conv
    def forward(self, x): return torch.maximum(self.conv(x), self.conv(x.flip(2)).flip(2))


def loop(model, x, columns):
    "Effects `(N, T, A, L)`, one mutant at a time"
    effects, base = np.zeros((len(x), len(columns), *x.shape[1:])), predict(model, x, device="cpu")[:, columns]
    for n, a, p in zip(*np.nonzero(x != 1)):
        mutant = x[n:n + 1].copy()
        mutant[0, :, p] = np.arange(4) == a
        effects[n, :, a, p] = predict(model, mutant, device="cpu")[0, columns] - base[n]
    return effects


def normed(channels, seed):
    "A batch norm that has seen data"
    norm, gen = nn.BatchNorm1d(channels), torch.Generator().manual_seed(seed)
    norm.running_mean.normal_(generator=gen)
    norm.running_var.uniform_(.5, 2, generator=gen)
    return norm


@st.composite
def networks(draw):
    "A random network of convolutions, norms, activations, pools and glue, and the number of layers it has"
    torch.manual_seed(draw(st.integers(0, 10_000)))
    layers, c, length = [], 4, LENGTH
    for i in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["conv", "conv", "norm", "act", "max", "mean", "added", "beside", "strands", "biconv", "rc", "crop", "pad", "flip"]))
        width = draw(st.integers(1, 3)) * 2
        if kind == "conv":
            k, d, p = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
            s, g = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2]))
            layer = nn.Conv1d(c, width, k, stride=s, dilation=d, padding=p, groups=g if c % g == 0 else 1, bias=draw(st.booleans()))
        elif kind == "norm": layer = normed(c, i)
        elif kind == "act": layer = draw(st.sampled_from([nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.ELU(), nn.Sigmoid(), nn.Softplus(), nn.PReLU(c), nn.Hardtanh()]))
        elif kind in ("max", "mean"):
            k = draw(st.integers(1, 5))
            options = {"stride": draw(st.integers(1, 5)), "padding": draw(st.integers(0, k // 2)), "ceil_mode": draw(st.booleans())}
            layer = nn.MaxPool1d(k, dilation=draw(st.integers(1, 2)), **options) if kind == "max" else nn.AvgPool1d(k, count_include_pad=draw(st.booleans()), **options)
        elif kind == "added": layer = Added(nn.Sequential(nn.Conv1d(c, c, 3, padding=2, dilation=2), nn.ReLU()))
        elif kind == "beside": layer = Beside(nn.Conv1d(c, 2, 1), nn.Conv1d(c, 2, 5, padding=2), nn.MaxPool1d(3, 1, 1))
        elif kind == "strands": layer = Strands(nn.Conv1d(c, width, 4, padding=2))
        elif kind == "biconv": layer = BiConv1D(c, width, draw(st.integers(1, 6)))
        elif kind == "rc": layer = nn.Sequential(RCConv1d(c, width, 3, padding="same"), RCNorm("batch", width))
        elif kind == "crop": layer = Made(lambda x, a=draw(st.integers(0, 3)), b=draw(st.integers(0, 3)): x[:, :, a:x.shape[2] - b])
        elif kind == "pad": layer = Made(lambda x, a=draw(st.integers(0, 3)), b=draw(st.integers(0, 3)): F.pad(x, (a, b), value=.25))
        else: layer = Made(lambda x: x.flip(2))
        try:
            with torch.no_grad(): shape = nn.Sequential(*layers, layer).eval()(torch.zeros(1, 4, LENGTH)).shape
        except (RuntimeError, ValueError): continue  # too short for this layer
        if shape[2] == 0: continue
        layers.append(layer)
        c, length = shape[1:]
    end = draw(st.sampled_from(["flat", "flat", "mean", "max", "sum", "both", "last"]))
    tops = {"flat": [nn.Flatten(), nn.Linear(c * length, 5)], "mean": [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(c, 5)], "max": [Made(lambda x: x.amax(2)), nn.Linear(c, 5)],
            "sum": [Made(lambda x: x.sum(2)), nn.Linear(c, 5)], "both": [Made(lambda x: torch.cat([x.amax(2), x.mean(2)], 1)), nn.Linear(2 * c, 5)], "last": [Made(lambda x: x[:, :, -1]), nn.Linear(c, 5)]}
    return nn.Sequential(*layers, *tops[end], nn.Tanh(), nn.Linear(5, 2)).eval()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(networks())
def test_random_networks_are_followed_and_give_what_complete_passes_give(model):
    model = model.double()
    found, full = (ism(model, X, target=None, engine=e, device="cpu") for e in ("windows", "full"))
    assert np.abs(found - full).max() < 1e-10


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(networks())
def test_many_random_networks(model):
    model = model.double()
    found, full = (ism(model, X, target=None, engine=e, device="cpu") for e in ("windows", "full"))
    assert np.abs(found - full).max() < 1e-10


LOOPED = {"FCN", "CNN", "dsCNN", "Inception", "Jores21CNN", "DeepBind", "ResidualBind"}
FOLLOWED = set(ARCHITECTURES) - {"RNN", "Hybrid", "dsHybrid", "DanQ", "DanQ-JASPAR", "DeepMEL", "Satori-RNN", "Basenji"}


def alive(model, seed=0):
    "Weights and running statistics away from their first values, so that no path is silent"
    gen = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d):
            m.running_mean.normal_(0, .1, generator=gen)
            m.running_var.uniform_(.5, 2, generator=gen)
            if m.weight is not None: m.weight.data.uniform_(.5, 1.5, generator=gen)
    return model.eval()


@pytest.mark.parametrize(("name", "variant"), BUILDS, ids=[f"{n}-{v}" for n, v in BUILDS])
def test_every_architecture_gives_what_complete_passes_give(name, variant):
    if name == "Basenji": pytest.skip("predicts tracks, and mutagenesis refuses those")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, length = small(name, variant)
    if "BPNet" in name: model = OneHead(model)
    x = ohe([*random_seqs(2, length, seed=2), ("ACGTN" * length)[:length]])
    some = [0, 1, 4, length // 3, length // 2, length - 2, length - 1]
    model = alive(model)
    full = ism(model, x, target=None, positions=some, engine="full", device="cpu")
    assert np.abs(full).max() > 0
    auto = ism(model, x, target=None, positions=some, device="cpu")
    assert np.abs(auto - full).max() < 1e-5 * max(1, np.abs(full).max())
    if name in FOLLOWED:
        windows = ism(model, x, target=None, positions=some, engine="windows", device="cpu")
        assert np.abs(windows - full).max() < 1e-5 * max(1, np.abs(full).max())
        exact = [ism(model.double(), x, target=None, positions=some, engine=e, device="cpu") for e in ("windows", "full")]
        assert exact[0].dtype == np.float64 and np.abs(exact[0] - exact[1]).max() < 1e-9
    else:
        assert ism_engine(model, x, device="cpu").name == "full"
        with pytest.raises(ValueError, match="Take engine='auto'"): ism(model, x, engine="windows", device="cpu")


def test_complete_passes_are_the_loop():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(BiConv1D(4, 6, 5), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6 * 12, 3)).eval()
    expected = loop(model, X, [0, 1, 2])
    for engine in ("auto", "windows", "full"):
        assert np.abs(ism(model, X, target=None, engine=engine, device="cpu") - expected).max() < 1e-5
        assert np.abs(ism(model, X, target=[2, 0], engine=engine, positions=[3, 23, 0], device="cpu") - expected[:, [2, 0]][..., [3, 23, 0]]).max() < 1e-5
        assert ism(model, X, target=1, engine=engine, device="cpu").shape == X.shape


def test_a_peer_agrees_on_the_shortcut():
    peer = pytest.importorskip("tangermeme.saturation_mutagenesis").saturation_mutagenesis
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 8, 7, padding=3), nn.ReLU(), nn.MaxPool1d(3), nn.Conv1d(8, 8, 3), nn.ELU(), nn.Flatten(), nn.Linear(48, 2)).eval()
    before, after = peer(model, torch.tensor(X[:2]).float(), raw_outputs=True, device="cpu", fast=False)
    assert np.abs(ism(model, X[:2], target=1, engine="windows", device="cpu") - (after - before[:, None, None])[..., 1].numpy()).max() < 1e-5


STRANDED = {
    "mean of both": lambda: BothStrands(nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten()), nn.Linear(60, 2), "mean"),
    "side by side": lambda: BothStrands(nn.Sequential(nn.Conv1d(4, 6, 5), nn.ReLU(), nn.Flatten()), nn.Linear(240, 2), "concat"),
    "maps aligned": lambda: nn.Sequential(BothStrands(nn.Conv1d(4, 6, 5), aggr="max", align=True), nn.Flatten(), nn.Linear(120, 2)),
    "maps joined": lambda: nn.Sequential(BothStrands(nn.Conv1d(4, 6, 5), aggr="concat", align=True), nn.Flatten(), nn.Linear(240, 2)),
    "pairs merged": lambda: nn.Sequential(RCConv1d(4, 6, 5), RCNorm("batch", 6), nn.ReLU(), RCMerge("max"), nn.Flatten(), nn.Linear(60, 2)),
}


@pytest.mark.parametrize("name", STRANDED)
def test_both_strands_are_followed(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = alive(STRANDED[name]()).double()
    found, full = (ism(model, X, target=None, engine=e, device="cpu") for e in ("windows", "full"))
    assert np.abs(full).max() > 1e-3 and np.abs(found - full).max() < 1e-12


def test_asked_about_both_strands_the_answer_is_symmetric():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 8, 7), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 18, 1)).double().eval()
    for engine in ("windows", "full"):
        both, turned = (ism(model, s, strands="both", engine=engine, device="cpu") for s in (X, reverse_complement(X)))
        assert np.abs(both - turned[:, ::-1, ::-1]).max() < 1e-12
        assert np.abs(both - (ism(model, X, device="cpu") + ism(model, reverse_complement(X), device="cpu")[:, ::-1, ::-1]) / 2).max() < 1e-12


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_modes_of_pytorch_change_nothing(mode):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 8, 7), nn.Dropout(.5), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8 * 9, 1)).train()
    expected = ism(model, X, engine="full", device="cpu")
    with mode(): assert np.abs(ism(model, X, engine="windows", device="cpu") - expected).max() < 1e-6
    assert model.training and all(p.grad is None for p in model.parameters())


def test_a_model_of_random_answers_is_not_given_the_shortcut():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Conv1d(4, 8, 7), nn.Flatten(), nn.Linear(8 * 18, 1))
        def forward(self, x): return self.net(x) + torch.rand(1)
    assert ism_engine(Noisy(), X, device="cpu").name == "full"


def test_answers_that_depend_on_the_batch_are_not_given_the_shortcut():
    for f in (lambda x: x.mean((1, 2))[:, None] - x.mean(), lambda x: F.batch_norm(x, None, None, training=True).sum(2), lambda x: x.flip(0).sum(2), lambda x: x.sum(2).cumsum(0), lambda x: x.sum(2) / len(x) if len(x) > 3 else x.sum(2)):
        model = Made(f)
        with torch.no_grad():
            x = torch.tensor(np.concatenate([X, X])).float()
            with pytest.raises(Unfollowed): check_shortcut(model, Shortcut(model, x[:4]))


@pytest.mark.parametrize("answer", [lambda x: (x.sum(2), x.sum(2)), lambda x: {"a": x.sum(2)}, lambda x: None])
def test_other_answers_than_tensors_are_refused(answer):
    with pytest.raises(TypeError, match="returned a"): ism(Made(answer), X, device="cpu")


def test_wrong_answers_and_requests_are_refused():
    good = Made(lambda x: x.sum(2))
    with pytest.raises(ValueError, match="shape"): ism(Made(lambda x: x.sum()[None, None]), X, device="cpu")
    with pytest.raises(ValueError, match="one number per sequence"): ism(Made(lambda x: x), X, device="cpu")
    for target in (4, -1, [0, 4], [-5]):
        with pytest.raises(ValueError, match="predicts 4 columns"): ism(good, X, target=target, device="cpu")
    with pytest.raises(ValueError, match="empty list"): ism(good, X, target=[], device="cpu")
    with pytest.raises(ValueError, match="not in sequences"): ism(good, X, positions=[LENGTH], device="cpu")
    with pytest.raises(ValueError, match="not in sequences"): ism(good, X, positions=[-1], device="cpu")
    with pytest.raises(ValueError, match="no position"): ism(good, X, positions=[], device="cpu")
    with pytest.raises(ValueError, match="engine"): ism(good, X, engine="fast", device="cpu")
    with pytest.raises(TypeError, match="out"): ism(good, X, out=3, device="cpu")
    with pytest.raises(ValueError, match="nothing to store"): ism(good, X[:0], out="nowhere", device="cpu")
    assert not os.path.exists("nowhere")


def test_a_store_appears_when_it_is_complete(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 8, 7), nn.Flatten(), nn.Linear(8 * 18, 2)).eval()
    x = np.concatenate([X] * 30)
    stored = ism(model, x, target=None, out=tmp_path / "a.zarr", device="cpu", positions=slice(2, 9))
    assert dict(stored.sizes) == {"sequence": 90, "target": 2, "alphabet": 4, "position": 7} and stored.attrs["letters"] == "ACGT"
    assert np.abs(stored["effects"].values - ism(model, x, target=None, device="cpu")[..., 2:9]).max() < 1e-6
    assert np.abs(stored["score"].values - predict(model, x, device="cpu")).max() < 1e-5

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = model, 0
        def forward(self, x):
            self.calls += 1
            if self.calls > 9: raise RuntimeError("broken")
            return self.net(x) + float(x.sum()) * 0
    with pytest.raises(RuntimeError, match="broken"): ism(Breaks(), x, out=tmp_path / "b.zarr", device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_the_table_holds_every_substitution_once():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 8, 7), nn.Flatten(), nn.Linear(8 * 18, 2)).eval()
    effects = ism(model, X, target=None, device="cpu")
    table = ism_table(effects, X)
    assert len(table) == 2 * int((X != 1).sum()) and not table.duplicated(["sequence", "target", "position", "alt"]).any() and (table["ref"] != table["alt"]).all()
    back = np.zeros_like(effects)
    back[table["sequence"], table["target"], table["alt"].map("ACGT".index), table["position"]] = table["effect"]
    assert np.array_equal(back, effects)


def test_what_is_recorded_is_only_what_the_answer_needs():
    model = Made(lambda x: (x.sort(2).values.sum(2), x.sum(2))[1])
    assert [op.name for op in record(model, torch.tensor(X).float()).operations] == ["sum"]
    assert ism(model, X, engine="windows", device="cpu").any()
