"""Interpretation against brute force, independent tools, and models whose answers are known by hand"""
import numpy as np
import pytest
import torch
from torch import nn

from eugene.etl.sequences import decode_ohe, ohe, random_seqs, reverse_complement
from eugene.etl.simulation import Plant, simulate, site_mask
from eugene.interpretation.attributions import METHODS, attribute
from eugene.interpretation.evolution import evolve
from eugene.interpretation.filters import filter_pfms, filter_seqlets, filter_windows, layer_outputs
from eugene.interpretation.in_silico import implant, implant_controls, positional_importance
from eugene.interpretation.mutagenesis import base_importance, ism
from eugene.layers.convolutions import BiConv1D
from eugene.models.activity import Jores21CNN
from eugene.models.basic import CNN
from eugene.training.prediction import predict
from toy_models import LinearModel, ModeModel, MotifModel, PairModel, SumModel

MODELS = {
    "jores21": lambda: Jores21CNN(40, output_dim=2, filters=6, layers=2),
    "two strands": lambda: nn.Sequential(BiConv1D(4, 5, 6), nn.MaxPool1d(4), nn.Flatten(), nn.LazyLinear(2)),
    "batch norm": lambda: nn.Sequential(nn.Conv1d(4, 8, 7, padding=3), nn.BatchNorm1d(8), nn.GELU(), nn.Flatten(), nn.LazyLinear(2)),
    "recurrent": lambda: Recurrent(),
}
TATA = ohe("TATAAA")[0]
X = ohe([*random_seqs(3, 40, seed=1), "ACCTNNNN" * 5])  # no palindrome: where both strands tie, rounding decides which of them a gradient follows


class Recurrent(nn.Module):
    "An LSTM over the sequence"
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6, batch_first=True, bidirectional=True), nn.Linear(12, 2)
    def forward(self, x): return self.head(self.lstm(x.transpose(1, 2))[0].mean(1))


class Watched(nn.Module):
    "Passes on what another model says, remembers the sizes of its batches, and can be told to fail at the n-th"
    def __init__(self, model, fail_at=None):
        super().__init__()
        self.conv = nn.Conv1d(4, 3, 5)
        self.frozen = nn.BatchNorm1d(3)
        self.model, self.sizes, self.fail_at = model, [], fail_at
    def forward(self, x):
        self.sizes.append(len(x))
        if len(self.sizes) == self.fail_at: raise RuntimeError("told to fail")
        self.total = float(x.detach().sum())  # a number read out: mutants are scored in full passes, which can be counted
        return self.model(x) + self.frozen(self.conv(x)).mean((1, 2))[:, None]


CALLS = {
    "layer_outputs": lambda m, x, **kw: layer_outputs(m, x, "conv", **kw),
    "filter_pfms": lambda m, x, **kw: filter_pfms(m, x, "conv", n=5, **kw),
    "attribute": lambda m, x, **kw: attribute(m, x, **kw),
    "ism": lambda m, x, **kw: ism(m, x, **kw),
    "positional_importance": lambda m, x, **kw: positional_importance(m, x, TATA, **kw),
    "evolve": lambda m, x, **kw: evolve(m, x, rounds=2, **kw),
}


def make(name, seed=0):
    "A seeded model of `MODELS`, in evaluation mode, with running statistics that are not 0 and 1"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name]()
        model(torch.tensor(X).float())
        model(torch.rand(8, 4, 40))
    return model.eval()


def loop_ism(model, x, target):
    "Every mutant on its own, in a batch of one"
    effects, base = np.zeros(x.shape), predict(model, x)[:, target]
    for n, a, l in zip(*np.nonzero(x != 1)):
        mutant = x[n:n + 1].copy()
        mutant[0, :, l] = 0
        mutant[0, a, l] = 1
        effects[n, a, l] = predict(model, mutant)[0, target] - base[n]
    return effects


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", [0, 1])
def test_ism_is_the_loop_over_mutants(name, target):
    model = make(name)
    expected = loop_ism(model, X, target)
    assert np.abs(expected).max() > 1e-3
    for batch_size in (None, 1, 50, 1000):
        if batch_size == 1 and name != "jores21": continue
        assert np.abs(ism(model, X, target, batch_size) - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["jores21", "batch norm"])
def test_ism_agrees_with_tangermeme(name):
    peer = pytest.importorskip("tangermeme.saturation_mutagenesis").saturation_mutagenesis
    model, x = make(name), X[:3]  # without the N that its validation refuses
    before, after = peer(model, torch.tensor(x), raw_outputs=True, device="cpu", fast=False)
    for target in (0, 1):
        ours = ism(model, x, target)
        assert np.abs(ours - (after[..., target] - before[:, None, None, target]).numpy()).max() < 1e-5
        centred = peer(model, torch.tensor(x), target=target, device="cpu", fast=False).numpy()
        assert np.abs(base_importance(ours, x) - 4 / 3 * centred).max() < 1e-5  # its mean is over four letters, the one there included


def test_ism_of_a_linear_model_is_its_weights():
    w = np.random.default_rng(0).normal(size=(2, 4, 40))
    for target in (0, 1):
        effects = ism(LinearModel(w, bias=3.), X, target)
        assert np.abs(effects - (w[target] - (w[target] * X).sum(1, keepdims=True))).max() < 1e-5


def test_ism_sees_a_pair_where_a_gradient_sees_half():
    x = ohe("C" * 5 + "A" + "C" * 3 + "T" + "C" * 5)
    half = x.copy()
    half[0, :, 9] = ohe("G")[0, :, 0]
    model = PairModel((0, 5), (3, 9))
    assert ism(model, x)[0].sum(0)[[5, 9]].tolist() == [-3, -3] and ism(model, half)[0, 3, 9] == 1
    assert attribute(model, x).values[0].sum(0)[[5, 9]].tolist() == [1, 1]
    assert not attribute(model, half).values.any()


@pytest.mark.parametrize("name", MODELS)
def test_input_x_gradient_is_the_gradient_times_the_input(name):
    model = make(name)
    for target in (0, 1):
        x = torch.tensor(X).float().requires_grad_()
        model(x)[:, target].sum().backward()
        assert np.abs(attribute(model, X, target=target, batch_size=3).values - (x * x.grad).detach().numpy()).max() < 1e-6


@pytest.mark.parametrize("method", [m for m in METHODS if m != "saliency"])  # which has no signs
def test_attributions_of_a_linear_model_sum_to_its_score(method):
    w = np.random.default_rng(1).normal(size=(4, 40))
    values = attribute(LinearModel(w), X, method, references="zero" if METHODS[method].references else None).values
    assert np.abs(values - w * X).max() < 1e-6
    assert np.abs(values.sum((1, 2)) - predict(LinearModel(w), X)[:, 0]).max() < 1e-4


@pytest.mark.parametrize("both", [False, True])
def test_a_two_strand_model_explains_both_strands_alike(both):
    model = nn.Sequential(BiConv1D(4, 5, 7), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(5, 1)) if both else MotifModel(TATA, True)
    rc = reverse_complement(X)
    assert np.abs(ism(model, rc) - ism(model, X)[:, ::-1, ::-1]).max() < 1e-5
    assert np.abs(attribute(model, rc).values.sum((1, 2)) - attribute(model, X).values.sum((1, 2))).max() < 1e-5


def state(model):
    "All that a borrowed model must give back"
    return ([m.training for m in model.modules()], [(p.requires_grad, p.grad is None, p.device) for p in model.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
            {k: v.clone() for k, v in model.state_dict().items()})


@pytest.mark.parametrize("fail_at", [None, 2])
@pytest.mark.parametrize("call", CALLS)
def test_the_model_is_left_as_it_was(call, fail_at):
    model = Watched(ModeModel(), fail_at).train()
    model.frozen.eval()
    model.conv.weight.requires_grad_(False)
    modes, flags, hooks, weights = state(model)
    x = X.copy()
    if fail_at is None: CALLS[call](model, x, batch_size=2)
    else:
        with pytest.raises(RuntimeError, match="told to fail"): CALLS[call](model, x, batch_size=2)
    assert (modes, flags, hooks) == state(model)[:3] and (x == X).all()
    assert all(torch.equal(weights[k], v) for k, v in state(model)[3].items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("call", CALLS)
def test_gradients_switched_off_and_half_precision_change_nothing(call):
    "In `no_grad` and `inference_mode` the answer is the same; a bfloat16 model gives it as float32 or float64, to its own precision"
    numbers = lambda out: out if isinstance(out, np.ndarray) else getattr(out, "values", None) if call == "attribute" else out.scores
    model = Watched(make("jores21"))
    expected = numbers(CALLS[call](model, X))
    for off in (torch.no_grad, torch.inference_mode):
        with off(): assert np.array_equal(numbers(CALLS[call](model, X)), expected)
    half = numbers(CALLS[call](model.bfloat16(), X))
    assert half.dtype == expected.dtype in (np.float32, np.float64)
    if call != "filter_pfms": assert np.abs(half - expected).max() < .05 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("call", ["attribute", "ism", "positional_importance", "evolve"])
def test_a_model_that_writes_on_its_input_is_explained_like_any_other(call):
    class Centres(nn.Module):
        def __init__(self, model, inplace):
            super().__init__()
            self.model, self.inplace = model, inplace
        def forward(self, x): return self.model(x.sub_(.25) if self.inplace else x - .25)

    found, expected = (CALLS[call](Centres(make("jores21"), inplace), X) for inplace in (True, False))
    for a, b in zip(found, expected) if call != "evolve" else [(found.scores, expected.scores), (found.x, expected.x)]: assert a is b or np.array_equal(a, b)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("call", CALLS)
def test_no_pass_is_larger_than_the_batch_size(call, batch_size):
    model = Watched(SumModel())
    CALLS[call](model, X, batch_size=batch_size)
    n_mutants, n_starts = int((X != 1).sum()), 4 * 35
    assert max(model.sizes) <= batch_size
    need = {"ism": n_mutants, "evolve": 2 * n_mutants - 8, "positional_importance": n_starts}.get(call, 4)
    assert sum(model.sizes) >= need and len(model.sizes) < 1.3 * need / batch_size + 12


@pytest.mark.parametrize("call", CALLS)
def test_wrong_input_is_refused(call):
    with pytest.raises(ValueError, match="Transpose"): CALLS[call](Watched(SumModel()), X.transpose(0, 2, 1))
    with pytest.raises(TypeError, match="Encode text"): CALLS[call](Watched(SumModel()), ["ACGT"])
    with pytest.raises(ValueError, match="batch_size=0"): CALLS[call](Watched(SumModel()), X, batch_size=0)
    with pytest.raises(ValueError, match="Unknown device"): CALLS[call](Watched(SumModel()), X, device="gpu")
    if call not in ("layer_outputs", "filter_pfms"):
        with pytest.raises(ValueError, match="predicts 1 column"): CALLS[call](Watched(SumModel()), X, target=1)
        with pytest.raises(TypeError, match="tuple"): CALLS[call](nn.LSTM(40, 2), X)


@pytest.mark.parametrize("padding,width", [("same", 6), ("same", 7), ("valid", 6)])
def test_seqlets_of_two_strands_read_as_the_filter(padding, width):
    "Every seqlet, turned as its strand says, scores on the given filter what the stronger strand contributed"
    torch.manual_seed(0)
    layer = BiConv1D(4, 6, width, padding=padding)
    x = ohe(random_seqs(30, 25, seed=3))
    found = filter_seqlets(nn.Sequential(layer), x, n=40, batch_size=8)
    out, pads = layer_outputs(nn.Sequential(layer), x), filter_windows(layer).pads
    padded = np.pad(x, ((0, 0), (0, 0), (width, width)))
    assert set(found["strand"]) == {"+", "-"}
    with torch.no_grad(): given, reverse = layer.strands(torch.tensor(x).float())
    for s in found.itertuples():
        window = padded[s.sequence, :, s.start + width:s.start + 2 * width]
        oriented = window if s.strand == "+" else window[::-1, ::-1]
        score = float((layer.weight[s.filter].detach().numpy() * oriented).sum() + layer.bias[s.filter].item())
        position = s.start + pads[int(s.strand == "-")]
        strands = given[s.sequence, s.filter, position].item(), reverse[s.sequence, s.filter, position].item()
        assert abs(max(score, 0) - max(strands)) < 1e-5 and abs(sum(strands) - out[s.sequence, s.filter, position]) < 1e-5


@pytest.mark.parametrize("layer", [lambda: nn.Conv1d(4, 3, 6), lambda: BiConv1D(4, 3, 6), lambda: BiConv1D(4, 3, 7)])
def test_a_filter_that_is_a_planted_motif_returns_its_counts(layer):
    sim = simulate(n=300, length=60, plants=[Plant("CGTATAAACG", 1., prob=1., strand="+", name="box")], seed=5)
    conv, x = layer(), ohe(sim.ds["seq"].values)
    width = conv.kernel_size[0]
    with torch.no_grad():
        conv.weight.zero_(), conv.bias.zero_()
        conv.weight[0] = torch.tensor(ohe("CGTATAAACG")[0][:, :width])
        conv.bias[0] = .5 - width
        conv.bias[1] = -1.
    pfms = filter_pfms(nn.Sequential(conv), x, n=200)
    assert pfms.shape == (3, 4, width) and not pfms[1].any() and not pfms[2].any()
    assert decode_ohe(pfms[:1]) == ["CGTATAAACG"[:width]]
    assert (pfms[0].sum(0) == 200).all() and (pfms[0].max(0) == 200).all()
    turned = filter_pfms(nn.Sequential(conv), reverse_complement(x), n=200)
    if isinstance(conv, BiConv1D): assert (pfms[0] == turned[0]).all()
    else: assert turned[0].sum(0).max() < 20  # chance occurrences only


def test_seqlets_do_not_depend_on_how_sequences_are_batched():
    "Integer weights make many ties, exactly at the cut too"
    conv = nn.Conv1d(4, 4, 3, bias=False)
    with torch.no_grad(): conv.weight.copy_(torch.randint(-1, 2, conv.weight.shape, generator=torch.Generator().manual_seed(0)))
    x = ohe(random_seqs(60, 30, seed=2))
    whole = filter_seqlets(nn.Sequential(conv), x, n=37, batch_size=60)
    for size in (1, 7, 32): assert filter_seqlets(nn.Sequential(conv), x, n=37, batch_size=size).equals(whole)
    assert (whole.groupby("filter").size() == 37).all()


def test_attributions_rank_planted_positions_first():
    from sklearn.metrics import roc_auc_score
    sim = simulate(n=200, length=80, plants=[Plant("GCTATAAATGC", 1., prob=1., name="box")], seed=1)
    x, truth = ohe(sim.ds["seq"].values), site_mask(sim.sites, 200, 80)
    model = MotifModel(ohe("GCTATAAATGC")[0], both_strands=True)
    for values in (attribute(model, x).values, base_importance(ism(model, x), x)):
        assert roc_auc_score(truth.ravel(), values.sum(1).ravel()) > .99


@pytest.mark.parametrize("name", ["jores21", "recurrent"])
def test_positional_importance_is_the_loop_over_implants(name):
    model = make(name)
    for step, motif in ((1, TATA), (4, np.zeros((4, 5), int)), (3, ohe("ACGT" * 10)[0])):
        expected = np.stack([predict(model, implant(X, motif, p))[:, 1] for p in range(0, 41 - motif.shape[1], step)], 1)
        found = positional_importance(model, X, motif, step, target=1, batch_size=13)
        assert found.shape == expected.shape == (4, (40 - motif.shape[1]) // step + 1)
        assert np.abs(found - expected).max() < 1e-5


def test_implants_raise_the_score_and_controls_do_not():
    x, word = ohe(random_seqs(30, 60, seed=4)), ohe("GGTATAAATAGC")[0]
    model, controls = MotifModel(word), implant_controls(word, seed=0)
    base, raised = predict(model, x)[:, 0], positional_importance(model, x, word)
    assert (raised == 12).all() and base.max() < 12
    for control in controls.values(): assert positional_importance(model, x, control).mean() < base.mean() + 1
    assert positional_importance(model, x, controls["zeros"]).max() <= base.max()


@pytest.mark.parametrize("name", ["jores21", "two strands"])
def test_each_round_of_evolution_is_the_best_single_mutation(name):
    model, here = make(name), X[:3].copy()
    found = evolve(model, here, rounds=3, target=1, batch_size=29)
    for r in range(1, 4):
        effects = loop_ism(model, here, 1)
        for n in range(3):
            step = found.mutations.query("sequence == @n and round == @r").iloc[0]
            letter = "ACGT".index(step["to"])
            assert effects[n, letter, step["position"]] > effects[n].max() - 1e-5
            assert decode_ohe(here[n:n + 1])[0][step["position"]] == step["from"] != step["to"]
            here[n, :, step["position"]] = 0
            here[n, letter, step["position"]] = 1
        assert np.abs(found.scores[r] - predict(model, here)[:, 1]).max() < 1e-5
    assert (found.x == here).all() and (np.diff(found.scores, axis=0) > 0).all()


def test_evolution_stops_at_a_local_optimum():
    pair = evolve(PairModel((0, 5), (3, 9)), ohe(["C" * 12]), rounds=4)  # two mutations would help, none does alone
    assert not len(pair.mutations) and not pair.scores.any()
    box = evolve(MotifModel(TATA), ohe(["TATAAACCCC", "TATCCACCCC", "CCCCCCCCCC"]), rounds=8)
    assert box.mutations.groupby("sequence").size().to_dict() == {1: 2, 2: 6}
    assert box.scores[-1].tolist() == [6, 6, 6] and box.scores[:, 1].tolist() == [4, 5] + [6] * 7
    assert all("TATAAA" in s for s in decode_ohe(box.x))


def test_a_cnn_of_the_package_goes_through_every_door():
    torch.manual_seed(0)
    model = CNN(40, output_dim=1, conv={"channels": [8, 8], "kernels": 5})
    for call in CALLS.values():
        if call not in (CALLS["layer_outputs"], CALLS["filter_pfms"]): call(model, X)
    assert filter_pfms(model, X, n=5).shape[1] == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_gives_what_the_cpu_gives(name):
    model = make(name)
    for call in (ism, lambda *a, **kw: attribute(*a, **kw).values, lambda m, x, **kw: positional_importance(m, x, TATA, **kw), lambda *a, **kw: evolve(*a, rounds=2, **kw).scores):
        assert np.abs(call(model, X, device="cuda") - call(model, X, device="cpu")).max() < 1e-3
    assert all(p.device.type == "cpu" for p in model.parameters())
