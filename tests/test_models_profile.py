"Profile models: any size keeps the contract, lengths are exact, and the stacks agree with slow oracles"
import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from eugene.etl.sequences import ohe, random_seqs
from eugene.interpretation.filters import filter_pfms
from eugene.layers.initialization import init_from_motifs, motif_filters
from eugene.models.basic import check_arch
from eugene.models.profile import BPNet, BPNET_2114, Basenji, ChromBPNet, ControlBias, DilatedTrunk, OneHead, dilation_rates

fuzz = settings(derandomize=True, deadline=None, max_examples=25)
STACK = {"filters": 3, "layers": 2, "kernel": 5}
VALID = {**STACK, "padding": "valid", "order": "act-conv"}
MODELS = {
    "Basenji": lambda: Basenji(128, 2, (4, 5), 3, 2, 6, 4),
    "BPNet counts": lambda: OneHead(BPNet(64, tasks=2, profile_kernel=6, trunk=STACK), "counts"),
    "BPNet profile": lambda: OneHead(BPNet(64, 20, 1, 1, 7, "task", trunk=VALID), "profile"),
    "BPNet controls": lambda: OneHead(BPNet(64, tasks=2, profile_kernel=6, controls=2, trunk=STACK), "profile"),
    "ChromBPNet": lambda: OneHead(ChromBPNet(64, 20, 7, {**STACK, "padding": "valid"}, {**STACK, "layers": 1, "padding": "valid"}), "counts"),
}
EACH = pytest.mark.parametrize("name", sorted(MODELS))


class Both(nn.Module):
    "Both heads as one tensor, for the contract"
    def __init__(self, model):
        super().__init__()
        self.heads = nn.ModuleList(OneHead(model, head) for head in ("profile", "counts"))
    def forward(self, x): return torch.cat([head(x).flatten(1) for head in self.heads], 1)


def onehot(n, length, seed=0):
    return torch.tensor(ohe(random_seqs(n, length, seed=seed))).float()


def length_of(m):
    return getattr(m, "input_len", None) or m.model.input_len


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "error:Converting a tensor to a Python boolean")
@EACH
def test_traced_exported_copied_and_pickled(name, tmp_path):
    model = MODELS[name]().eval()
    x = onehot(3, length_of(model))
    y = model(x).detach()
    torch.save(model, tmp_path / "whole.pt")
    others = [torch.jit.trace(model, x), torch.fx.symbolic_trace(nn.Sequential(model)), torch.export.export(model, (x,)).module(),
              copy.deepcopy(model), torch.load(tmp_path / "whole.pt", weights_only=False)]
    for other in others:
        assert torch.allclose(other(x), y, atol=1e-5)


@EACH
def test_wrong_input_is_refused_before_any_compute(name):
    model = MODELS[name]().eval()
    x = onehot(2, length_of(model))
    for wrong, message in ((x.transpose(1, 2), "Transpose it"), (x[..., :30], "input_len=30"), (x.byte(), "x.float"), (x[:, :3], "takes one-hot")):
        with pytest.raises(ValueError, match=message):
            model(wrong)


@fuzz
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 4), st.integers(0, 3), st.integers(1, 3), st.integers(1, 6))
def test_basenji_of_any_size(filters, hidden, layers, crop, outputs, bins):
    size = 2**len(filters)
    model = Basenji(size * (bins + 2 * crop), outputs, filters, hidden, layers, 3, crop).eval()
    assert model(onehot(2, model.input_len)).shape == (2, outputs, bins) and model.output_len == bins and model.bin == size
    assert len(list(model.units)) == layers


@fuzz
@given(st.integers(0, 20), st.floats(1, 3, allow_nan=False))
def test_dilations_are_rounded_half_to_even_at_every_step(layers, rate):
    rates = dilation_rates(layers, rate)
    for before, after in zip(rates, rates[1:]):
        exact = before * rate
        assert abs(after - exact) <= .5 and (exact - math.floor(exact) != .5 or after % 2 == 0)


@fuzz
@given(st.integers(30, 80), st.integers(1, 9), st.integers(0, 3), st.integers(1, 9), st.sampled_from(["same", "valid"]),
       st.sampled_from(["conv-act", "act-conv"]), st.integers(1, 3), st.integers(1, 2), st.sampled_from(["strand", "task"]), st.integers(0, 5))
def test_bpnet_of_any_size_promises_its_lengths(length, kernel, layers, head, padding, order, tasks, strands, counts, shorter):
    trunk = {"filters": 2, "layers": layers, "kernel": kernel, "padding": padding, "order": order}
    lost = 0 if padding == "same" else kernel - 1 + head - 1 + sum(2 * 2**i for i in range(1, layers + 1))
    assume(length - lost - 2 * shorter >= 1)
    assume(padding == "valid" or kernel % 2)
    model = BPNet(length, length - lost - 2 * shorter, tasks, strands, head, counts, trunk=trunk).eval()
    out = model(onehot(2, length))
    assert out.profile.shape == (2, tasks * strands, length - lost - 2 * shorter) and model.output_len == out.profile.shape[2]
    assert out.counts.shape == (2, tasks * (strands if counts == "strand" else 1))
    with pytest.raises(ValueError, match="even number can be cropped"):
        BPNet(length, length - lost + 2, tasks, strands, head, counts, trunk=trunk)


@pytest.mark.parametrize("trunk", [STACK, VALID, {**STACK, "padding": "valid"}], ids=["paper", "current", "chrombpnet"])
def test_contract_with_both_heads(trunk):
    model = BPNet(60, tasks=2, profile_kernel=5, trunk=trunk)
    check_arch(Both(model), 60, 4 * model.output_len + 4)


def test_valid_padding_means_no_made_up_positions():
    "Shifting a longer sequence by one base shifts the valid profile by one position, and the crop of a longer model is the shorter model"
    long, short = (BPNet(n, None, 1, 1, 7, "task", trunk=VALID).double().eval() for n in (64, 60))
    short.load_state_dict(long.state_dict())
    x = onehot(3, 64).double()
    whole = long(x).profile
    for shift in range(5):
        assert torch.allclose(short(x[..., shift:shift + 60]).profile, whole[..., shift:shift + short.output_len], atol=1e-9)


def test_same_padding_does_make_positions_up():
    "The counterpart: with padding the ends differ, so the law above can fail"
    long, short = (BPNet(n, None, 1, 1, 7, "task", trunk=STACK).eval() for n in (64, 60))
    short.load_state_dict(long.state_dict())
    x = onehot(3, 64)
    assert not torch.allclose(short(x[..., 2:62]).profile, long(x).profile[..., 2:62], atol=1e-4)


def test_counts_see_all_of_the_trunk():
    "The mean runs over the uncropped trunk: cropping the profile leaves the counts as they are"
    whole, part = (BPNet(64, n, 1, 1, 7, "task", trunk=VALID).eval() for n in (None, 20))
    part.load_state_dict(whole.state_dict())
    a, b = whole(onehot(3, 64)), part(onehot(3, 64))
    assert torch.equal(a.counts, b.counts) and torch.equal(a.profile[..., (whole.output_len - 20) // 2:][..., :20], b.profile)
    assert torch.allclose(a.counts, whole.counts(whole.trunk(onehot(3, 64)).mean(2)))


@fuzz
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 12), st.integers(5, 40), st.integers(0, 99))
def test_control_bias_against_a_loop(controls, tasks, window, length, seed):
    bias, reads = ControlBias(controls, tasks, window).double(), torch.randint(0, 5, (2, controls, length), generator=torch.Generator().manual_seed(seed)).double()
    profile, counts = bias(reads)
    left, total = (window - 1) // 2, reads.sum(1)
    smooth = torch.stack([total[:, max(0, i - left):i - left + window].sum(1) for i in range(length)], 1)
    tracks = torch.cat([reads, smooth[:, None]], 1)
    assert torch.allclose(profile, torch.einsum("ncl,tc->ntl", tracks, bias.profile.weight[..., 0]), atol=1e-9)
    assert torch.allclose(counts, torch.log(1 + reads.sum(2)) @ bias.counts.weight.T, atol=1e-9)


def test_filters_and_motifs_work_on_profile_models():
    from eugene.etl.motifs import motif_from_consensus
    x = ohe(random_seqs(6, 64, seed=0))
    for model, layer in ((MODELS["BPNet counts"](), "model.trunk.0"), (MODELS["BPNet profile"](), "model.trunk.0")):
        init_from_motifs(model, [motif_from_consensus("TATAA", "TATA")])
        assert motif_filters(model) == {layer: ["TATA"]} and filter_pfms(model, x, n=4).shape[0] == 3


def test_one_head_shares_the_weights():
    model = BPNet(64, trunk=STACK, profile_kernel=5)
    head = OneHead(model)
    assert {id(p) for p in head.parameters()} == {id(p) for p in model.parameters()}


def test_basenji_starts_as_its_tower():
    "Before training the residual units pass on what they get, whatever their number"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Basenji(128, 2, (4, 5), 3, 4, 6, 4).eval()
    h = model.tower(onehot(2, 128))
    assert torch.equal(model.units(h), h)
    model.units[0].body[1].norm.weight.data.fill_(1.)
    assert not torch.equal(model.units(h), h)


def test_published_forwards_have_the_published_shapes():
    "On the meta device: shapes of the whole published networks, nothing computed"
    with torch.device("meta"):
        assert Basenji()(torch.zeros(1, 4, 131_072)).shape == (1, 5_313, 896)
        out = BPNet()(torch.zeros(1, 4, 1_000))
        assert out.profile.shape == (1, 8, 1_000) and out.counts.shape == (1, 8)
        for model in (BPNet(**BPNET_2114), ChromBPNet()):
            out = model(torch.zeros(1, 4, 2_114))
            assert out.profile.shape == (1, 1, 1_000) and out.counts.shape == (1, 1)


def test_unknown_words_list_the_choices():
    with pytest.raises(ValueError, match="'strand', 'task'"): BPNet(counts="strands")
    with pytest.raises(ValueError, match="'valid', 'same'"): DilatedTrunk(100, padding="full")
    with pytest.raises(ValueError, match="order"): DilatedTrunk(100, order="act")
