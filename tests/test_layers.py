"""Layers and models, fuzzed: sizes against the real tensor, laws over many shapes, the contract over random architectures"""
import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, register_random, settings, strategies as st
from toy_models import LinearModel, ModeModel, MotifModel, PairModel, SumModel
from torch import nn

from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.layers.basics import (
    ACTIVATIONS, GLOBAL_POOLS, NORMS, Clip, Crop1d, CropTo, GlobalPool, Residual, RevComp, conv_output_len, find_layer, first_conv, norm_layer, pool_layer)
from eugene.layers.blocks import CONV_STEPS, DENSE_STEPS, Conv1DBlock, DenseBlock, ResidualBlock
from eugene.layers.convolutions import BiConv1D, DilatedResidual, InceptionConv1D, RCConv1d, RCMerge, RCNorm
from eugene.layers.initialization import SCHEMES, init_from_motifs, init_weights, mark_motif_filters, motif_filters
from eugene.layers.towers import Conv1DTower, Tower
from eugene.models.basic import CNN, check_arch, count_params
from eugene.models.zoo import build_arch

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
fuzz = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
some = settings(fuzz, max_examples=50)

SMALL_ARCHS = ("CNN", "FCN", "Hybrid", "Inception", "Jores21CNN", "RNN", "dsCNN", "dsFCN", "dsHybrid")  # quick at 170 bp; tests/test_zoo.py has them all


class TorchRandom:
    "Torch's generator as hypothesis sees Python's: the same weights every time a drawn example is run"
    seed, getstate, setstate = staticmethod(torch.manual_seed), staticmethod(torch.get_rng_state), staticmethod(torch.set_rng_state)


torch_random = TorchRandom()
register_random(torch_random)


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


@fuzz
@given(st.sampled_from(["max", "avg"]), st.integers(1, 40), st.integers(1, 9), st.integers(1, 11), st.integers(0, 4), st.integers(1, 4), st.booleans())
def test_pool_length_is_the_tensors_ceil_or_not(kind, length, kernel, stride, padding, dilation, ceil):
    assume(padding <= kernel // 2 and (kind == "max" or dilation == 1))
    pool = pool_layer(kind, kernel, stride, padding, dilation, ceil)
    try:
        promised = conv_output_len(length, kernel, stride, padding, dilation, ceil)
    except ValueError:
        with pytest.raises(RuntimeError):
            pool(torch.zeros(1, 1, length))
        return
    x = torch.randn(1, 1, length)
    y = pool(x)
    assert y.shape[-1] == promised >= 1
    starts = [j * stride - padding for j in range(promised)]  # slow: each window by itself
    windows = [[x[0, 0, i] for i in range(s, s + dilation * (kernel - 1) + 1, dilation) if 0 <= i < length] for s in starts]
    assert all(windows) or (padding and dilation > length)  # the case that Conv1DBlock refuses
    for v, w in zip(y[0, 0], windows):
        assert not w and torch.isinf(v) or torch.isclose(v, torch.stack(w).max() if kind == "max" else torch.stack(w).mean(), atol=1e-6)


@pytest.mark.parametrize("kind", GLOBAL_POOLS)
def test_global_pool_is_the_widest_pool(kind):
    x = torch.randn(3, 5, 17)
    widest = {"max": nn.functional.adaptive_max_pool1d(x, 1)[..., 0], "mean": nn.functional.adaptive_avg_pool1d(x, 1)[..., 0]}
    y = GlobalPool(kind)(x)
    parts = {"max": [y], "mean": [y], "both": [y[:, :5], y[:, 5:]], "interleaved": [y[:, ::2], y[:, 1::2]]}[kind]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(parts, [widest["mean"]] if kind == "mean" else widest.values()))


@some
@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 30))
def test_crops_take_what_they_say(left, right, length):
    x = torch.arange(float(length)).reshape(1, 1, length)
    if left + right >= length:
        with pytest.raises(ValueError, match="leaves none"):
            Crop1d((left, right))(x)
    else:
        assert Crop1d((left, right))(x)[0, 0].tolist() == list(range(left, length - right))
    keep = length - left - right
    if keep > 0 and (length - keep) % 2 == 0:
        assert torch.equal(CropTo(keep)(x), Crop1d((left + right) // 2)(x))
    elif keep > 0:
        with pytest.raises(ValueError, match="no place in the middle"):
            CropTo(keep)(x)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "error:Converting a tensor to a Python boolean")
@pytest.mark.parametrize("layer", [
    Crop1d(2), CropTo(10), Clip(-1, 1), RevComp(), RevComp([1, 0, 3, 2]), *map(GlobalPool, GLOBAL_POOLS), RCMerge("max"), RCNorm("batch", 4), RCNorm("layer", 4),
    Residual(nn.Conv1d(4, 4, 3), Crop1d(1)), DilatedResidual(4, 3, 2, "valid"), InceptionConv1D(4, 8), RCConv1d(4, 6, 4, "same"), BiConv1D(4, 6, 4),
    ResidualBlock(Conv1DBlock(20, 4, 6, 5, norm="layer"), crop=True)], ids=lambda layer: type(layer).__name__)
def test_layers_can_be_recorded(layer):
    x = torch.randn(3, 4, 20)
    layer = copy.deepcopy(layer).eval()
    y = layer(x)
    assert torch.allclose(torch.jit.trace(layer, x)(x), y, atol=1e-6)
    assert torch.allclose(torch.fx.symbolic_trace(nn.Sequential(layer))(x), y, atol=1e-6)
    assert torch.allclose(torch.export.export(layer, (x,)).module()(x), y, atol=1e-6)
    assert torch.allclose(copy.deepcopy(layer)(x[:1]), y[:1], atol=1e-5)


@pytest.mark.parametrize("name", sorted(NORMS))
def test_norms_standardise_what_they_say(name):
    x = torch.randn(6, 16, 30, dtype=torch.float64) * 3 + 5
    y = norm_layer(name, 16).double()(x).detach()
    groups = {"batch": y.transpose(0, 1).flatten(1), "layer": y.transpose(1, 2).flatten(0, 1), "instance": y.flatten(0, 1), "group": y.reshape(6 * 8, -1)}
    over = groups.get(name.split("_")[0])
    if name == "none":
        assert torch.equal(y, x)
    elif name == "rms":
        assert torch.allclose((y**2).mean(1), torch.ones(()).double(), atol=1e-4)
    else:
        assert torch.allclose(over.mean(1), torch.zeros(()).double(), atol=1e-9) and torch.allclose(over.var(1, unbiased=False), torch.ones(()).double(), atol=1e-3)


@st.composite
def conv_blocks(draw):
    "Arguments of a Conv1DBlock that belong together, and its order"
    order = draw(st.sampled_from(CONV_ORDERS))
    words = order.split("-")
    padding = draw(st.sampled_from(["valid", "same", 0, 1, 3]))
    kw = dict(kernel=draw(st.integers(1, 9)), stride=1 if padding == "same" else draw(st.integers(1, 4)), padding=padding,
              dilation=draw(st.integers(1, 4)), activation=draw(st.sampled_from(sorted(ACTIVATIONS))), order=order)
    if "pool" in words:
        kw |= dict(pool=draw(st.sampled_from(["max", "avg"])), pool_kernel=draw(st.integers(1, 6)), pool_stride=draw(st.sampled_from([None, 1, 2, 5])),
                   pool_ceil=draw(st.booleans()))
        kw |= dict(pool_padding=draw(st.integers(0, kw["pool_kernel"] // 2)), pool_dilation=draw(st.sampled_from([1, 1, 2, 4])) if kw["pool"] == "max" else 1)
    if "norm" in words:
        kw |= dict(norm=draw(st.sampled_from(["batch", "batch_keras", "batch_basenji", "layer", "rms", "none"])))
    kw |= dict(bias=draw(st.booleans()))
    if "dropout" in words:
        kw |= dict(dropout=draw(st.sampled_from([0, 0.3, 1])))
    return kw


@fuzz
@given(conv_blocks(), st.integers(5, 60), st.integers(1, 5), st.integers(1, 6))
def test_conv_block_keeps_its_promise(kw, length, cin, cout):
    try:
        block = Conv1DBlock(length, cin, cout, **kw)
    except ValueError as e:
        assert "does not fit" in str(e) or "hold no position" in str(e)
        return
    x = torch.rand(3, cin, length)
    assert block(x).shape == block.eval()(x).shape == (3, cout, block.output_len)
    assert kw["activation"] == "exponential" or block(x).isfinite().all()
    assert (block.conv.bias is not None) == kw["bias"]
    if kw.get("pool"):
        wanted = [kw["pool_kernel"], kw["pool_stride"] or kw["pool_kernel"], kw["pool_padding"], kw["pool_ceil"]]
        assert [v[0] if isinstance(v, tuple) else v for v in (block.pool.kernel_size, block.pool.stride, block.pool.padding, block.pool.ceil_mode)] == wanted
    wanted = [w for w in kw["order"].split("-") if (w != "dropout" or kw["dropout"]) and (w != "norm" or kw["norm"] != "none")]
    assert [name for name, _ in block.named_children()] == wanted


def test_pools_over_nothing_but_padding_are_refused():
    assert pool_layer("max", 2, padding=1, dilation=4)(torch.ones(1, 1, 3)).isinf().all()
    with pytest.raises(ValueError, match="hold no position of a length of 3"):
        Conv1DBlock(3, 4, 6, 1, pool="max", pool_kernel=2, pool_padding=1, pool_dilation=4)


@fuzz
@given(st.lists(st.integers(1, 8), min_size=0, max_size=3), st.sampled_from(DENSE_ORDERS), st.sampled_from([0, 0.5]), st.sampled_from([None, "batch", "layer"]),
       st.booleans(), st.booleans())
def test_dense_block_shapes(hidden, order, dropout, norm, bias, output_bias):
    dropout = dropout if "dropout" in order and hidden else 0
    norm = norm if "norm" in order and hidden else None
    bias = bias or not hidden
    block = DenseBlock(7, 3, hidden, dropout=dropout, norm=norm, order=order, bias=bias, output_bias=output_bias)
    assert block(torch.rand(4, 7)).shape == (4, 3)
    dims = [7, *hidden, 3]
    weights = sum(a * b for a, b in zip(dims, dims[1:])) + bias * sum(hidden) + output_bias * 3
    norms = sum(2 * (a if order.index("norm") < order.index("linear") else b) for a, b in zip(dims, dims[1:-1])) if norm else 0
    assert count_params(block) == weights + norms


@fuzz
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["valid", 0, 2]), st.sampled_from([None, 2, 3]),
                          st.booleans(), st.integers(0, 1), st.sampled_from([None, 1, 4])), min_size=1, max_size=4), st.integers(10, 120))
def test_tower_keeps_its_promise_and_equals_its_floors(floors, length):
    channels, kernels, dilation, stride, padding, pools, ceil, pad, step = (list(v) for v in zip(*floors))
    kw = dict(dilation=dilation, stride=stride, padding=padding, pool=["max" if p else None for p in pools], pool_kernel=pools,
              pool_ceil=[c and p is not None for c, p in zip(ceil, pools)], pool_padding=[n if p else 0 for n, p in zip(pad, pools)],
              pool_stride=[s if p else None for s, p in zip(step, pools)])
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


@some
@given(st.integers(1, 20), st.floats(0.5, 3), st.integers(1, 8))
def test_stepwise_growth_is_a_rounded_recursion(first, factor, repeats):
    args = {"channels": 4, "dilation": first}
    assume(all(round(first * factor**i) >= 1 for i in range(repeats)))
    values = [first]
    for _ in range(repeats - 1):
        values.append(int(np.round(values[-1] * factor)))
    assume(min(values) >= 1)
    tower = Tower(DilatedResidual, repeats, args, growth={"dilation": factor}, chain={}, stepwise=["dilation"])
    assert [f.body[0].dilation[0] for f in tower] == values


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


def action(x):
    "The other strand of maps whose channels pair `i` with `C-1-i`"
    return x.flip((1, 2))


def scramble(module):
    "Weights, scales and running averages as though they had been learned"
    for p in module.parameters():
        p.data = torch.randn_like(p) * 0.5 + (p.ndim == 1)
    for name, b in module.named_buffers():
        if b.is_floating_point():
            b.copy_(torch.rand_like(b) + 0.5)
    return module


RC_NORMS = ["batch", "batch_keras", "batch_basenji", "layer", "rms", "instance", "none"]


@some
@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from(["same", "valid", 0, 2]), st.booleans(), st.integers(1, 4), st.integers(1, 4), st.integers(34, 40))
def test_rc_convolution_is_equivariant(kernel, dilation, padding, bias, pairs_in, pairs_out, length):
    if padding == "same" and kernel % 2 == 0 and dilation in (3,):
        with pytest.raises(ValueError, match="no middle"):
            RCConv1d(2 * pairs_in, 2 * pairs_out, kernel, padding, dilation, bias)
        return
    layer = scramble(RCConv1d(2 * pairs_in, 2 * pairs_out, kernel, padding, dilation, bias)).double()
    x = torch.randn(2, 2 * pairs_in, length, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (2, 2 * pairs_out, conv_output_len(length, kernel, 1, padding, dilation))
    assert torch.allclose(layer(action(x)), action(y), atol=1e-10)
    if kernel > 1:  # a kernel of one position has no direction
        assert not torch.allclose(layer(x.flip(2)), y.flip(2), atol=1e-6)  # the pairs do change places


@some
@given(st.permutations(range(5)), st.integers(1, 6))
def test_rc_convolution_takes_any_pairing(order, kernel):
    pairs = {order[0]: order[1], order[1]: order[0], order[2]: order[3], order[3]: order[2], order[4]: order[4]}
    partners = [pairs[i] for i in range(5)]
    layer, turn, x = RCConv1d(5, 4, kernel, partners=partners).double(), RevComp(partners), torch.randn(2, 5, 20, dtype=torch.float64)
    assert torch.allclose(layer(turn(x)), action(layer(x)), atol=1e-10)


@some
@given(st.sampled_from(RC_NORMS), st.integers(1, 4), st.booleans(), st.booleans())
def test_rc_norm_is_equivariant_in_both_modes(name, pairs, train, flat):
    assume(not (flat and name == "instance"))
    x = torch.randn(5, 2 * pairs, 7, dtype=torch.float64)
    norm = scramble(RCNorm(name, 2 * pairs).double()).train(train)
    turn = (lambda v: v.flip(1)) if flat else action
    x = x[..., 0] if flat else x
    assert torch.allclose(norm(turn(x)), turn(norm(x)), atol=1e-10)


@st.composite
def rc_networks(draw):
    "A strand-paired network: floors in any order, a residual body, merge, global pool and dense head, its length, and whether it has batch norms"
    length, norm = draw(st.integers(1, 4)) * 24, draw(st.sampled_from(RC_NORMS))
    orders = [o for o in CONV_ORDERS if "dropout" not in o]
    layers, channels, now = [], 4, length
    for _ in range(draw(st.integers(1, 3))):
        pool = draw(st.sampled_from([None, "max", "avg"])) if now % 2 == 0 else None
        order = draw(st.sampled_from([o for o in orders if ("pool" in o) == bool(pool) and "norm" in o]))
        out = 2 * draw(st.integers(1, 4))
        layers.append(Conv1DBlock(now, channels, out, draw(st.sampled_from([1, 2, 3, 6, 7])), padding="same", activation=draw(st.sampled_from(sorted(ACTIVATIONS))),
                                  norm=norm, order=order, conv="rc", pool=pool, pool_kernel=2 if pool else None))
        channels, now = out, layers[-1].output_len
    body = Conv1DBlock(now, channels, 6, 3, padding=draw(st.sampled_from(["same", 0])), norm=norm, conv="rc", dilation=2) if now > 4 else Conv1DBlock(now, channels, 6, 1, conv="rc")
    layers.append(ResidualBlock(body, crop=True, activation="relu"))
    pool = GlobalPool(draw(st.sampled_from(GLOBAL_POOLS)))
    head = [RCMerge(draw(st.sampled_from(["max", "mean", "sum"]))), pool, DenseBlock(3 * pool.times, 2, [5], activation="tanh", norm=draw(st.sampled_from([None, "batch"])))]
    return nn.Sequential(*layers, *head), length


@some
@given(rc_networks(), st.booleans(), st.integers(0, 1000))
def test_a_whole_rc_network_does_not_know_the_strand(built, train, seed):
    net, length = built
    assume(not any(type(m).__name__ == "Exponential" for m in net.modules()))  # overflows in random stacks
    net, x = scramble(net.double()).train(train), onehot(4, length, seed).double()
    y = net(x)
    assert torch.allclose(net(rc(x)), y, atol=1e-8, rtol=1e-6)
    hidden = net[:-3](x)
    assert torch.allclose(net[:-3](rc(x)), action(hidden), atol=1e-8, rtol=1e-6)


def test_the_strand_law_can_fail():
    "What a shared norm and tiling windows are for: without either the law breaks"
    x = onehot(6, 60).double()
    def gap(*middle):
        net = scramble(nn.Sequential(RCConv1d(4, 8, 5, "same"), *middle, RCMerge("sum"), GlobalPool("both")).double()).eval()
        return (net(rc(x)) - net(x)).abs().max().item()
    assert gap(RCNorm("batch", 8), nn.ReLU(), pool_layer("max", 4)) < 1e-10
    assert gap(nn.BatchNorm1d(8), nn.ReLU()) > 1e-3                          # a norm per channel
    assert gap(nn.ReLU(), pool_layer("max", 7)) > 1e-3                       # 4 of 60 positions left over
    assert gap(nn.Conv1d(8, 8, 3, padding=1)) > 1e-3                         # free weights
    with pytest.raises(ValueError, match="leaves 4 of 60 positions over"):
        Conv1DBlock(60, 4, 8, 5, padding="same", conv="rc", pool="max", pool_kernel=7)


@some
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.integers(1, 12))
def test_inception_keeps_the_length(quarter, kernel2, kernel3, pool, length):
    layer = InceptionConv1D(3, 4 * quarter, kernel2, kernel3, pool)
    x = torch.randn(2, 3, length) - 10
    assert layer(x).shape == (2, 4 * quarter, length) and layer(x).isfinite().all()
    best = layer.pooled[:2](x)  # padding is never the maximum
    assert (best >= x).all() and torch.equal(best.amax(2), x.amax(2))


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
@pytest.mark.parametrize("name", SMALL_ARCHS)
def test_models_can_be_traced_and_exported(name):
    model, x = build_arch(name, input_len=170).eval(), onehot(2, 170)
    y = model(x).detach()
    with warnings.catch_warnings():
        if any(isinstance(m, nn.RNNBase) for m in model.modules()):
            warnings.simplefilter("ignore")  # torch's own recurrent layers look at sizes while they are traced
        assert torch.allclose(torch.jit.trace(model, x)(x), y, atol=1e-5)
    if name in ("CNN", "Jores21CNN", "FCN"):  # a chain of layers; symbols have no shape to check or to loop over
        assert torch.allclose(torch.fx.symbolic_trace(nn.Sequential(model))(x), y, atol=1e-5)
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), y, atol=1e-5)


@pytest.mark.parametrize("name", SMALL_ARCHS)
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
@pytest.mark.parametrize("name", SMALL_ARCHS)
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
