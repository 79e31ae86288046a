"""Layers and models, fuzzed: sizes against the real tensor, laws over many shapes, the contract over random architectures"""
import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings, strategies as st
from toy_models import LinearModel, ModeModel, MotifModel, PairModel, SumModel
from torch import nn

from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.layers.basics import ACTIVATIONS, conv_output_len, find_layer, first_conv
from eugene.layers.blocks import CONV_STEPS, DENSE_STEPS, Conv1DBlock, DenseBlock
from eugene.layers.convolutions import BiConv1D
from eugene.layers.initialization import SCHEMES, init_from_motifs, init_weights, mark_motif_filters, motif_filters
from eugene.layers.towers import Conv1DTower, Tower
from eugene.models.basic import CNN, check_arch, count_params
from eugene.models.zoo import ARCHITECTURES, build_arch

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
fuzz = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def orders(steps, needed):
    "Every arrangement of every subset of `steps` that has `needed`"
    rest = [s for s in steps if s != needed]
    subsets = [c for n in range(len(rest) + 1) for c in itertools.combinations(rest, n)]
    return ["-".join(p) for c in subsets for p in itertools.permutations((needed, *c))]


CONV_ORDERS, DENSE_ORDERS = orders(CONV_STEPS, "conv"), orders(DENSE_STEPS, "linear")


def onehot(n, length, seed=0):
    return torch.tensor(ohe(random_seqs(n, length, seed=seed))).float()


def rc(x):
    return torch.tensor(reverse_complement(x.numpy()))


# lengths ---------------------------------------------------------------------------------------------------------------

@fuzz
@given(st.integers(1, 60), st.integers(1, 15), st.integers(1, 5), st.integers(0, 8), st.integers(1, 6))
def test_conv_output_len_is_the_tensors(length, kernel, stride, padding, dilation):
    conv = nn.Conv1d(1, 1, kernel, stride, padding, dilation)
    try:
        promised = conv_output_len(length, kernel, stride, padding, dilation)
    except ValueError:
        with pytest.raises(RuntimeError):
            conv(torch.zeros(1, 1, length))
    else:
        assert conv(torch.zeros(1, 1, length)).shape[-1] == promised >= 1


@st.composite
def conv_blocks(draw):
    "Arguments of a Conv1DBlock that belong together, and its order"
    order = draw(st.sampled_from(CONV_ORDERS))
    words = order.split("-")
    padding = draw(st.sampled_from(["valid", "same", 0, 1, 3]))
    kw = dict(kernel=draw(st.integers(1, 9)), stride=1 if padding == "same" else draw(st.integers(1, 4)), padding=padding,
              dilation=draw(st.integers(1, 4)), activation=draw(st.sampled_from(sorted(ACTIVATIONS))), order=order)
    if "pool" in words:
        kw |= dict(pool=draw(st.sampled_from(["max", "avg"])), pool_kernel=draw(st.integers(1, 6)), pool_stride=draw(st.sampled_from([None, 1, 2, 5])))
    if "norm" in words:
        kw |= dict(norm=draw(st.sampled_from(["batch", "batch_keras"])))
    if "dropout" in words:
        kw |= dict(dropout=draw(st.sampled_from([0, 0.3, 1])))
    return kw


@fuzz
@given(conv_blocks(), st.integers(5, 60), st.integers(1, 5), st.integers(1, 6))
def test_conv_block_keeps_its_promise(kw, length, cin, cout):
    try:
        block = Conv1DBlock(length, cin, cout, **kw)
    except ValueError as e:
        assert "does not fit" in str(e)
        return
    x = torch.rand(3, cin, length)
    assert block(x).shape == block.eval()(x).shape == (3, cout, block.output_len)
    wanted = [w for w in kw["order"].split("-") if w != "dropout" or kw["dropout"]]
    assert [name for name, _ in block.named_children()] == wanted


@fuzz
@given(st.lists(st.integers(1, 8), min_size=0, max_size=3), st.sampled_from(DENSE_ORDERS), st.sampled_from([0, 0.5]), st.sampled_from([None, "batch"]))
def test_dense_block_shapes(hidden, order, dropout, norm):
    dropout = dropout if "dropout" in order and hidden else 0
    norm = norm if "norm" in order and hidden else None
    block = DenseBlock(7, 3, hidden, dropout=dropout, norm=norm, order=order)
    assert block(torch.rand(4, 7)).shape == (4, 3)
    dims = [7, *hidden, 3]
    weights = sum(a * b + b for a, b in zip(dims, dims[1:]))
    norms = sum(2 * (a if order.index("norm") < order.index("linear") else b) for a, b in zip(dims, dims[1:-1])) if norm else 0
    assert count_params(block) == weights + norms


@fuzz
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 3), st.sampled_from([None, 2, 3])), min_size=1, max_size=4), st.integers(10, 120))
def test_tower_keeps_its_promise_and_equals_its_floors(floors, length):
    channels, kernels, dilation, pools = (list(v) for v in zip(*floors))
    kw = dict(dilation=dilation, pool=["max" if p else None for p in pools], pool_kernel=pools)
    try:
        tower = Conv1DTower(length, 4, channels, kernels, **kw)
    except ValueError as e:
        assert "Floor" in str(e) and "does not fit" in str(e)
        return
    x = torch.rand(2, 4, length)
    y = tower(x)
    assert y.shape == (2, tower.out_channels, tower.output_len) and tower.out_channels == channels[-1]
    for floor in tower:
        x = floor(x)
        assert x.shape[1:] == (floor.out_channels, floor.output_len)
    assert torch.equal(x, y)


def test_tower_growth_is_rounded_from_the_exact_product():
    tower = Tower(Conv1DBlock, 7, {"input_len": 64, "in_channels": 4, "out_channels": 288, "kernel": 1}, growth={"out_channels": 1.122})
    assert [f.out_channels for f in tower] == [int(np.round(288 * 1.122**i)) for i in range(7)]


# strands ---------------------------------------------------------------------------------------------------------------

@fuzz
@given(st.integers(1, 14), st.sampled_from(["same", "valid"]), st.booleans(), st.sampled_from(["relu", "softplus", "tanh", "exponential"]), st.integers(14, 40))
def test_biconv_is_equivariant(kernel, padding, bias, activation, length):
    layer = BiConv1D(4, 5, kernel, padding, bias=bias, activation=activation).double()
    x = onehot(3, length).double()
    y = layer(x)
    assert y.shape[-1] == (length if padding == "same" else length - kernel + 1)
    assert torch.allclose(layer(rc(x)), y.flip(2), atol=1e-10)
    given_, reverse = layer.strands(x)
    assert torch.allclose(given_ + reverse, y) and torch.allclose(layer.strands(rc(x))[0], reverse.flip(2), atol=1e-10)


@fuzz
@given(st.lists(st.tuples(st.integers(2, 6), st.integers(1, 8), st.sampled_from(["same", "valid"])), min_size=2, max_size=4))
def test_biconv_stack_is_equivariant_only_with_channels_in_place(floors):
    def stack(axis):
        sizes = [4] + [c for c, _, _ in floors]
        return nn.Sequential(*[BiConv1D(a, b, k, p, alphabet_axis=axis if i else True, activation="softplus").double()
                               for i, (a, b, (_, k, p)) in enumerate(zip(sizes, sizes[1:], floors))])
    x = onehot(2, 45).double()
    right, wrong = stack(False), stack(True)
    assert torch.allclose(right(rc(x)), right(x).flip(2), atol=1e-9)
    if any(k > 1 for _, k, _ in floors[1:]):  # a kernel of one position has no direction
        assert not torch.allclose(wrong(rc(x)), wrong(x).flip(2), atol=1e-9)


def test_even_same_kernel_agrees_with_torch_on_the_given_strand():
    for kernel in range(1, 9):
        layer, x = BiConv1D(4, 3, kernel, activation="identity"), onehot(2, 20)
        assert torch.allclose(layer.strands(x)[0], nn.functional.conv1d(x, layer.weight, layer.bias, padding="same"), atol=1e-5)


# initialisation --------------------------------------------------------------------------------------------------------

def test_init_weights_is_local_and_repeatable_for_every_scheme():
    for scheme in SCHEMES:
        kw = {"constant": {"val": 0.3}, "sparse": {"sparsity": 0.5}}.get(scheme, {})
        make = (lambda: nn.Conv1d(4, 4, 3)) if scheme == "dirac" else (lambda: nn.Linear(4, 4))
        stream = torch.get_rng_state()
        a = make()
        torch.set_rng_state(stream)
        init_weights(a, scheme, seed=3, **kw)
        assert torch.equal(torch.get_rng_state(), stream)
        assert torch.equal(a.weight, init_weights(make(), scheme, seed=3, **kw).weight) and (a.bias == 0).all()


@fuzz
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 12), st.sampled_from(["left", "centre", "right"]), st.integers(0, 9))
def test_motifs_touch_their_columns_and_nothing_else(widths, filter_width, align, seed):
    gen = np.random.default_rng(seed)
    ppms = [gen.dirichlet(np.ones(4), w).T for w in widths]
    model = CNN(40, conv={"channels": [6, 3], "kernels": filter_width}, dense={}) if filter_width <= 20 else None
    before = copy.deepcopy(model.state_dict())
    if max(widths) > filter_width:
        with pytest.raises(ValueError, match="positions wide"):
            init_from_motifs(model, ppms, align=align)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    names = init_from_motifs(model, ppms, align=align, too_long="crop")
    assert names == [f"motif_{i}" for i in range(len(ppms))] == motif_filters(model)[first_conv(model)]
    after = model.state_dict()
    key = first_conv(model) + ".weight"
    assert [k for k in before if not torch.equal(before[k], after[k])] in ([key], [])
    for i, ppm in enumerate(ppms):
        changed = (before[key][i] != after[key][i]).any(0).nonzero().flatten()
        used = min(ppm.shape[1], filter_width)
        assert len(changed) == used and int(changed[-1] - changed[0]) == used - 1
        columns = after[key][i][:, changed].numpy() / 4
        starts = [s for s in range(ppm.shape[1] - used + 1) if np.allclose(ppm[:, s:s + used], columns, atol=1e-6)]
        room, spare = filter_width - used, ppm.shape[1] - used
        assert int(changed[0]) in {"left": [0], "right": [room], "centre": [room // 2, room - room // 2]}[align]
        assert set(starts) & set({"left": [0], "right": [spare], "centre": [spare // 2, spare - spare // 2]}[align])
    assert torch.equal(before[key][len(ppms):], after[key][len(ppms):])


def test_motif_record_survives_a_checkpoint(tmp_path):
    model = build_arch("Jores21CNN", input_len=60, filters=8)
    init_from_motifs(model, [np.full((4, 5), 0.25)] * 3)
    torch.save({"state": model.state_dict(), "motifs": motif_filters(model)}, tmp_path / "m.ckpt")
    saved = torch.load(tmp_path / "m.ckpt", weights_only=True)
    other = build_arch("Jores21CNN", input_len=60, filters=8)
    other.load_state_dict(saved["state"])
    assert motif_filters(mark_motif_filters(other, saved["motifs"])) == motif_filters(model) == {"biconv.0": ["motif_0", "motif_1", "motif_2"]}


# models ----------------------------------------------------------------------------------------------------------------

@settings(fuzz, max_examples=25)
@given(conv_blocks(), st.lists(st.integers(2, 6), min_size=1, max_size=2), st.sampled_from(DENSE_ORDERS), st.integers(1, 3), st.sampled_from([4, 5]))
def test_every_cnn_that_builds_keeps_the_contract(kw, channels, dense_order, output_dim, letters):
    assume(kw.get("dropout") != 1 and kw["activation"] != "exponential")
    conv = {"channels": channels, "kernels": kw.pop("kernel"), **kw}
    dense = {"hidden": 4, "activation": "gelu", "order": dense_order}
    try:
        model = CNN(50, output_dim, conv, dense, input_dims=letters)
    except ValueError as e:
        assert "`conv`: Floor" in str(e)
        return
    check_arch(model, 50, output_dim, in_channels=letters)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "error:Converting a tensor to a Python boolean")
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_models_can_be_traced_and_exported(name):
    model, x = build_arch(name, input_len=170).eval(), onehot(2, 170)
    y = model(x).detach()
    assert torch.allclose(torch.jit.trace(model, x)(x), y, atol=1e-5)
    assert torch.allclose(torch.fx.symbolic_trace(nn.Sequential(model))(x), y, atol=1e-5)
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), y, atol=1e-5)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_models_pickle_copy_and_refuse_wrong_input(name, tmp_path):
    model, x = build_arch(name, input_len=170).eval(), onehot(2, 170)
    torch.save(model, tmp_path / "whole.pt")
    for again in (copy.deepcopy(model), torch.load(tmp_path / "whole.pt", weights_only=False)):
        assert torch.equal(again(x), model(x))
        with pytest.raises(ValueError, match=r"\(N, 4, 170\). Transpose it\?"):
            again(x.transpose(1, 2))
    for wrong, message in ((x[..., :100], "input_len=100"), (x[0], "batch axis"), (x.byte(), "x.float"), (x[:, :3], "takes one-hot")):
        with pytest.raises(ValueError, match=message):
            model(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_models_learn_a_planted_rule(name):
    "Sixty steps on counting C and G halve the loss: gradients point the right way"
    arch = {"CNN": {"conv": {"channels": [8], "kernels": 7, "pool": "max", "pool_kernel": 8}, "dense": {}}, "Jores21CNN": {"filters": 8}}.get(name, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = build_arch(name, input_len=60, **arch), onehot(128, 60)
        y = SumModel()(x)
        y = (y - y.mean()) / y.std()
        optimizer, losses = torch.optim.Adam(model.parameters(), 5e-3), []
        for _ in range(60):
            loss = nn.functional.mse_loss(model.train()(x), y)
            optimizer.zero_grad(); loss.backward(); optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# the toys themselves ---------------------------------------------------------------------------------------------------

def test_toy_models_give_their_known_answers():
    x = torch.tensor(ohe(["AACGTTATAA", "CCCCCGGGGG"])).float()
    weights = np.arange(40.0).reshape(4, 10)
    assert LinearModel(weights, bias=1)(x)[1].item() == weights[1, :5].sum() + weights[2, 5:].sum() + 1
    assert LinearModel(np.stack([weights, -weights]))(x).shape == (2, 2)
    assert SumModel()(x).flatten().tolist() == [2, 10] and SumModel([0])(x).flatten().tolist() == [5, 0]
    assert MotifModel(ohe("TATAA")[0])(x)[0].item() == 5 and MotifModel(ohe("GTTATG")[0])(x)[0].item() == 5
    both = MotifModel(ohe("TATAA")[0], both_strands=True)
    assert torch.equal(both(x), both(rc(x)))
    assert PairModel((0, 0), (1, 2))(x).flatten().tolist() == [1, 0]
    mode = ModeModel()
    assert torch.equal(mode.eval()(x), SumModel()(x)) and not torch.equal(mode.train()(x), SumModel()(x)) and mode.calls == 2
    assert find_layer(MotifModel(ohe("TATAA")[0])) is not None
