"""Attributions: DeepLIFT exact for every operation with a rule and every architecture of the zoo, refused elsewhere; the other
methods against captum; tangermeme where it is right; planted truth; both strands; and a model left as it came."""
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eugene.etl.datasets import jores21
from eugene.etl.sequences import ohe, random_seqs, reverse_complement
from eugene.etl.simulation import Plant, simulate, site_mask
from eugene.interpretation.attributions import METHODS, attribute
from eugene.interpretation.deeplift import deeplift
from eugene.interpretation.lift_rules import RULES, SPELLED
from eugene.interpretation.references import make_references
from eugene.layers.convolutions import BiConv1D, InceptionConv1D, RCConv1d, RCMerge
from eugene.models.activity import Jores21CNN
from eugene.training.prediction import predict
from test_zoo import BUILDS, WORDS, single, small
from toy_models import LinearModel, MotifModel

X = ohe(random_seqs(4, 40, seed=1))
OTHER = ohe(random_seqs(4, 40, seed=2))
PATHS = [m for m in METHODS if METHODS[m].references]  # the methods that promise a sum
RECURRENT = {"RNN", "Hybrid", "dsHybrid", "Satori-RNN"}  # with PyTorch's fused recurrent operations


@pytest.fixture(autouse=True)
def same_weights():
    "The same first weights in every run, and the global stream as it was"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def tensor(x): return torch.tensor(np.asarray(x)).double()


class Summed(nn.Module):
    "A number per track of a model that predicts curves, not linear in them"
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, x): return self.model(x).square().sum(-1)


class Op(nn.Module):
    "Convolution, a function, a dense layer: `(N, 4, 40)` to `(N, 2)`"
    def __init__(self, f, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.conv, self.f = nn.Conv1d(4, 6, 5, padding=2), f
            self.head = nn.Linear(self.f(self.conv(torch.zeros(2, 4, 40))).flatten(1).shape[1], 2)
        self.double().eval()
    def forward(self, x): return self.head(self.f(self.conv(x)).flatten(1))


def missed(model, x=X, refs=OTHER, targets=(0, 1)):
    "Largest error of the sum, relative to the largest difference of scores; and the shares"
    x, refs = tensor(x), tensor(refs)
    with torch.no_grad(): gain = (model(x) - model(refs))[:, list(targets)]
    shares, delta = deeplift(model, x, refs[:, None], list(targets))
    error = ((x[:, None] * shares).sum((2, 3)) - gain).abs().max() / gain.abs().max()
    assert (delta - ((x[:, None] * shares).sum((2, 3)) - gain)).abs().max() < 1e-9 and gain.abs().max() > 1e-6
    return float(error), shares


# ---------------------------------------------------------------- the zoo

def one_hot(n, length, seed):
    return ohe(random_seqs(n, length, seed=seed))


def trained_looking(model):
    "Norms whose averages are not 0 and 1"
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(m.running_mean, 0, .3), nn.init.uniform_(m.running_var, .5, 2), nn.init.uniform_(m.weight, .5, 1.5)
    return model.eval()


def zoo_models(name, variant):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, length = small(name, variant)
        heads = single(trained_looking(model), torch.zeros(2, 4, length))
        with torch.no_grad(): return [(Summed(m).eval() if m.eval()(torch.zeros(2, 4, length)).ndim > 2 else m, length) for m in heads]


@pytest.mark.parametrize(("name", "variant"), BUILDS, ids=WORDS)
def test_deeplift_is_exact_for_every_architecture_or_says_why_not(name, variant):
    "Exact to rounding in double precision; every target from one pass; both strands of a batch side by side or not"
    for model, length in zoo_models(name, variant):
        model.double()  # both heads of a profile model share their trunk
        x, refs = one_hot(3, length, 1), one_hot(3, length, 2)
        if name in RECURRENT:
            with pytest.raises(ValueError, match=r"no rule for the recurrent operation `lstm`, met in `.*` \(LSTM\).*integrated_gradients.*`ism`"): deeplift(model, tensor(x), tensor(refs)[:, None], [0])
            continue
        with torch.no_grad(): n = model(tensor(x)).shape[1]
        error, shares = missed(model, x, refs, range(n))
        assert error < 1e-9
        alone = torch.cat([deeplift(model, tensor(x[i:i + 1]), tensor(refs)[i:i + 1, None], list(range(n)))[0] for i in range(3)])
        assert (alone - shares).abs().max() < 1e-9 * shares.abs().max()


@pytest.mark.parametrize(("name", "variant"), [b for b in BUILDS if b[1] == "published"], ids=[w for w, b in zip(WORDS, BUILDS) if b[1] == "published"])
def test_integrated_gradients_explain_every_architecture(name, variant):
    "Those that DeepLIFT refuses too; more steps come nearer to the sum"
    for model, length in zoo_models(name, variant):
        x = one_hot(2, length, 1)
        with torch.no_grad(): gain = float((model(torch.tensor(x).float()) - model(torch.zeros(2, 4, length))).abs()[:, 0].max())
        few, many = (np.abs(attribute(model, x, "integrated_gradients", steps=n).delta).max() for n in (4, 64))
        assert many < max(.03 * gain, 1e-6) and many < max(few, 1e-5 * gain) * 1.01


# ---------------------------------------------------------------- every rule

positive = lambda f: lambda z: f(z.square() + .1)
inside = lambda f: lambda z: f(.4 * torch.tanh(z) + .5)
sort_of = lambda z: (z, z.flip(2) * .7 + .1)
FORMS = {w: getattr(torch, w, None) or getattr(F, w) for w in """relu sigmoid tanh exp exp2 expm1 abs square erf sin cos sinh cosh arctan atan selu celu softplus
    logsigmoid relu6 leaky_relu elu gelu silu mish softsign hardtanh hardsigmoid hardswish tanhshrink softshrink hardshrink""".split()}
FORMS |= {w: positive(getattr(torch, w)) for w in "sqrt rsqrt reciprocal log log2 log10 log1p".split()}
FORMS |= {
    "log_sigmoid": nn.LogSigmoid(), "logit": inside(torch.logit), "prelu": lambda z: F.prelu(z, torch.linspace(.1, .6, 6).to(z)), "rrelu": lambda z: F.rrelu(z),
    "threshold": lambda z: F.threshold(z, .1, 1e-6), "clamp": lambda z: z.clamp(-.2, .3), "clip": lambda z: torch.clip(z, max=.1), "clamp_min": lambda z: z.clamp_min(-.1),
    "clamp_max": lambda z: z.clamp_max(.1), "pow": lambda z: z**3, "rpow": lambda z: 2**z, "float_power": lambda z: torch.float_power(z, 2),
    "max_pool1d": lambda z: F.max_pool1d(z, 4, 3), "max_pool2d": lambda z: F.max_pool2d(z, 2), "max_pool3d": lambda z: F.max_pool3d(z.unflatten(2, (5, 8)), (2, 5, 2)),
    "adaptive_max_pool1d": lambda z: F.adaptive_max_pool1d(z, 3), "adaptive_max_pool2d": lambda z: F.adaptive_max_pool2d(z, (2, 3)),
    "adaptive_max_pool3d": lambda z: F.adaptive_max_pool3d(z.unflatten(2, (5, 8)), (2, 1, 2)), "amax": lambda z: z.amax((1, 2), keepdim=True), "max": lambda z: z.max(2).values,
    "maximum": lambda z: torch.maximum(*sort_of(z)), "mul": lambda z: z * z.flip(1), "multiply": lambda z: torch.multiply(z, z.mean(2, keepdim=True)),
    "matmul": lambda z: z @ z.transpose(1, 2), "rmatmul": lambda z: z.__rmatmul__(z.transpose(1, 2)), "bmm": lambda z: torch.bmm(z, z.transpose(1, 2)),
    "mm": None, "mv": None, "dot": None, "einsum": lambda z: torch.einsum("ncl,ndl->ncd", z, z), "softmax": lambda z: (9 * z).softmax(1), "softmin": lambda z: F.softmin(z, 1),
    "log_softmax": lambda z: z.log_softmax(2), "logsumexp": lambda z: z.logsumexp((1, 2), keepdim=True), "layer_norm": nn.LayerNorm(40, elementwise_affine=False),
    "rms_norm": nn.RMSNorm(40, elementwise_affine=False), "group_norm": nn.GroupNorm(2, 6, affine=False), "instance_norm": nn.InstanceNorm1d(6), "std": lambda z: z.std((1, 2), keepdim=True), "var": lambda z: z.var(1),
    "div": lambda z: z / (1 + z.square()), "divide": lambda z: torch.divide(z, z.exp()), "rdiv": lambda z: 1 / (2 + z.tanh()), "logaddexp": lambda z: torch.logaddexp(*sort_of(z)),
    "minimum": lambda z: torch.minimum(*sort_of(z)), "amin": lambda z: z.amin(2), "glu": lambda z: F.glu(z, 1),
    "scaled_dot_product_attention": lambda z: F.scaled_dot_product_attention(*(4 * z.transpose(1, 2).unsqueeze(1),) * 3),
}


def test_every_rule_has_a_form_here(): assert set(FORMS) == set(RULES) | set(SPELLED)


@pytest.mark.parametrize("word", [w for w in FORMS if FORMS[w]])
def test_every_rule_is_exact_in_its_sum(word):
    "Down to rounding; the numerical rules down to the error of the integral"
    error, shares = missed(Op(FORMS[word]))
    smooth = word in "softmax softmin log_softmax logsumexp layer_norm rms_norm group_norm instance_norm std var scaled_dot_product_attention".split()
    assert error < (1e-5 if smooth else 1e-10) and shares.abs().max() > 0


@pytest.mark.parametrize("word", ["mm", "mv", "dot"])
def test_products_of_whole_arrays(word):
    "Operations that know no batch, for batches of one"
    f = {"mm": lambda z: torch.mm(z[0], z[0].T)[None], "mv": lambda z: torch.mv(z[0], z[0, 0])[None], "dot": lambda z: torch.dot(z[0, 0], z[0, 1]).reshape(1, 1)}[word]
    model = Op(f)
    for i in range(3): assert missed(model, X[i:i + 1], OTHER[i:i + 1])[0] < 1e-10


SPELLINGS = {
    "relu": [nn.ReLU(), nn.ReLU(inplace=True), F.relu, lambda z: F.relu(z, inplace=True), torch.relu, torch.relu_, lambda z: z.relu(), lambda z: z.relu_(), lambda z: z.clamp(min=0),
             lambda z: F.threshold(z, 0, 0), lambda z: F.leaky_relu(z, 0.), lambda z: F.relu_(z)],
    "square": [lambda z: z * z, lambda z: z.mul(z), lambda z: z.mul_(z.clone()), lambda z: z**2, torch.square, lambda z: z.pow(2), lambda z: z.square_(), lambda z: torch.einsum("ncl,ncl->ncl", z, z)],
    "silu": [nn.SiLU(), lambda z: z * torch.sigmoid(z), lambda z: F.silu(z, inplace=True), lambda z: z / (1 + (-z).exp())],
    "max": [nn.AdaptiveMaxPool1d(1), lambda z: z.amax(2), lambda z: z.max(2)[0], lambda z: torch.max(z, 2, keepdim=True).values, lambda z: F.max_pool1d(z, 40), lambda z: -(-z).amin(2), lambda z: torch.max_pool1d(z, 40)],
    "maximum": [lambda z: torch.maximum(z, z.flip(1)), lambda z: torch.max(z, z.flip(1)), lambda z: z.max(z.flip(1)), lambda z: torch.maximum(input=z, other=z.flip(1)), lambda z: torch.max(z, other=z.flip(1)), lambda z: torch.stack([z, z.flip(1)]).amax(0), lambda z: -torch.minimum(-z, -z.flip(1))],
    "softmax": [nn.Softmax(1), lambda z: z.softmax(1), lambda z: F.softmax(z, 1), lambda z: torch.softmax(z, 1)],
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_one_operation_has_one_explanation_however_it_is_written(name):
    first = missed(Op(SPELLINGS[name][0]))[1]
    for f in SPELLINGS[name][1:]:
        error, shares = missed(Op(f))
        assert error < 1e-5 and (shares - first).abs().max() < 1e-9


class Reused(nn.Module):
    "One rectifier and one convolution, each used three times, and an addition in place"
    def __init__(self):
        super().__init__()
        self.conv, self.act = nn.Conv1d(6, 6, 3, padding=1), nn.ReLU(inplace=True)
    def forward(self, z):
        for _ in range(3):
            y = self.act(self.conv(z))
            z = y.clone()
            z += y
        return z


PARTS = {
    "reused": Reused, "biconv": lambda: nn.Sequential(BiConv1D(6, 4, 5, alphabet_axis=False), nn.MaxPool1d(3)), "rc": lambda: nn.Sequential(RCConv1d(6, 8, 5), nn.ReLU(), RCMerge("max")),
    "inception": lambda: InceptionConv1D(6, 8), "linear parts": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.GELU(), nn.AvgPool1d(3), nn.ConstantPad1d(2, -1.), nn.Dropout(.5)),
    "moves": lambda: lambda z: torch.cat([z[:, ::2], z.mean(1, keepdim=True), z.roll(1, 2)[:, :2] - 3], 1),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_networks_are_exact(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part = PARTS[name]()
    assert missed(Op(part))[0] < 1e-10


def test_the_slope_of_a_maximum_of_two_is_its_mean_slope_on_the_way():
    "Against brute force: the share of the way on which each of two wins"
    t = (np.arange(20000) + .5) / 20000
    z, r = np.random.default_rng(0).normal(size=(2, 30, 2))
    wins = ((1 - t)[:, None, None] * r + t[:, None, None] * z).argmax(2).mean(0)
    class Two(nn.Module):
        def forward(self, x): return torch.maximum(x[:, 0, :1], x[:, 1, :1])
    shares = deeplift(Two(), tensor(z)[:, :, None], tensor(r)[:, None, :, None], [0])
    from eugene.interpretation.deeplift import _multipliers, _observe
    slopes = _multipliers(_observe(Two(), tensor(z)[:, :, None]), tensor(r)[:, :, None], [0])[0][:, 0, :, 0]
    assert np.abs(slopes[:, 1].numpy() - wins).max() < 1e-4 and (slopes.sum(1) - 1).abs().max() < 1e-12 and shares[1].abs().max() < 1e-9


class Own(torch.autograd.Function):
    "A rectifier of one's own, with its own way back"
    @staticmethod
    def forward(ctx, z): return z.clamp(min=0) * 1.
    @staticmethod
    def backward(ctx, g): return g


def without_grad(f):
    def call(z):
        with torch.no_grad(): hidden = f(z)
        return hidden + z
    return call


REFUSED = {
    "no_grad": (without_grad(torch.relu), "no_grad"), "no_grad, linear": (without_grad(lambda z: 2 * z), "no_grad"), "own function": (Own.apply, "no rule"), "tensor": (lambda z: z * z.new_tensor(z.sum()), "tensor"),
    "weights": (lambda z: F.layer_norm(z, (40,), weight=z[0, 0]), "weights that depend"),
    "comparison": (lambda z: z * (z > 0), "`gt`"), "where": (lambda z: torch.where(z > 0, z, 0), "`gt`"), "sign": (torch.sign, "`sign`"), "round": (torch.round, "`round`"), "sort": (lambda z: z.sort(2).values, "`sort`"),
    "topk": (lambda z: z.topk(3).values, "`topk`"), "median": (lambda z: z.median(2).values, "`median`"), "norm": (F.normalize, "`linalg_vector_norm`"), "cumprod": (lambda z: z.cumprod(2), "`cumprod`"),
    "prod": (lambda z: z.prod(2), "`prod`"), "detach": (lambda z: z.detach() + z, "`detach`"), "data": (lambda z: z.data * z, "`data`"), "train norm": (lambda z: F.batch_norm(z, None, None, training=True), "`native_batch_norm`"),
    "cdist": (lambda z: torch.cdist(z, z), "cdist"), "fft": (lambda z: torch.fft.rfft(z).abs(), "fft"), "item": (lambda z: z * float(z.sum()), "`local_scalar_dense`|`item`"), "scripted": (None, "`relu`"),
    "lp pool": (lambda z: F.lp_pool1d(z.square(), 3, 2), "no rule"), "triple": (lambda z: torch.einsum("ncl,ncl,ncl->nc", z, z, z), "no rule"), "power": (lambda z: z.square()**z, "`pow`"),
    "causal": (lambda z: F.scaled_dot_product_attention(z, z, z, is_causal=True), "scaled_dot_product_attention"),
}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad", "ignore:To copy construct from a tensor")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name(name):
    f, word = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is old, and still met
        f = f or torch.jit.script(nn.ReLU())
    with pytest.raises(ValueError, match=word) as e: missed(Op(f))
    assert "no rule" in str(e.value) and "integrated_gradients" in str(e.value) and "Op" in str(e.value) or name == "scripted"


@pytest.mark.parametrize("unit", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_refused_and_other_methods_explain_them(unit):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit, self.head = unit(4, 6, batch_first=True), nn.Linear(6, 1)
        def forward(self, x): return self.head(self.unit(x.transpose(1, 2))[0].mean(1))
    model = Net()
    for m in ("deeplift", "deepshap"):
        with pytest.raises(ValueError, match=f"recurrent operation .*`unit` \\({unit.__name__}\\)"): attribute(model, X, m)
    assert np.abs(attribute(model, X, "integrated_gradients").delta).max() < 1e-4


def test_attention_refuses_what_it_hides_and_a_model_that_changes_its_path():
    class Path(nn.Module):
        def forward(self, x): return (x.relu() if self.first else x.sigmoid()).sum((1, 2))[:, None]
    model = Path()
    model.first = True
    from eugene.interpretation.deeplift import _multipliers, _observe
    seen = _observe(model, tensor(X))
    model.first = False
    with pytest.raises(ValueError, match="another path"): _multipliers(seen, tensor(OTHER), [0])


# ---------------------------------------------------------------- other tools

def plain(seed=0):
    "Modules only, each used once, no maxima: where every tool has its rules"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv1d(4, 8, 7), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(8, 6, 5), nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 13, 8), nn.Tanh(), nn.Linear(8, 2)).eval()


@pytest.fixture
def captum():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield pytest.importorskip("captum.attr")


def test_deeplift_agrees_with_captum(captum):
    model, x, refs = plain(), torch.tensor(X).float(), torch.tensor(OTHER).float()
    for target in (0, 1):
        theirs = captum.DeepLift(model).attribute(x.clone().requires_grad_(), refs, target=target).detach().numpy().sum(1)
        assert np.abs(attribute(model, X, "deeplift", target, references=OTHER).values.sum(1) - theirs).max() < 1e-6
        shared = captum.DeepLiftShap(model).attribute(x.clone().requires_grad_(), refs, target=target).detach().numpy().sum(1)
        assert np.abs(attribute(model, X, "deepshap", target, references=OTHER[None]).values.sum(1) - shared).max() < 1e-6


def test_captum_misses_the_sum_where_ours_does_not(captum):
    "Functional rectifier, overlapping maxima, maximum of two strands: what the chapter shows"
    for f in (lambda z: z.relu(), nn.Sequential(nn.ReLU(), nn.MaxPool1d(4, 2)), lambda z: torch.maximum(z, z.flip(1))):
        model = Op(f)
        with torch.no_grad(): gain = (model(tensor(X)) - model(tensor(OTHER)))[:, 0]
        theirs = captum.DeepLift(model).attribute(tensor(X).requires_grad_(), tensor(OTHER), target=0).detach().sum((1, 2))
        assert (theirs - gain).abs().max() > .05 * gain.abs().max() and missed(model)[0] < 1e-10


@pytest.mark.filterwarnings("ignore")
def test_deepshap_agrees_with_tangermeme():
    "Shares and hypothetical shares over the same references"
    peer = pytest.importorskip("tangermeme.deep_lift_shap").deep_lift_shap
    model, refs = plain(), make_references(X, n=6, seed=1)
    for target in (0, 1):
        for hypothetical in (False, True):
            theirs = peer(model, torch.tensor(X).float(), target=target, references=torch.tensor(refs).float(), hypothetical=hypothetical, device="cpu").numpy()
            assert np.abs(attribute(model, X, "deepshap", target, references=refs, hypothetical=hypothetical).values - theirs).max() < 1e-6


@pytest.mark.parametrize("target", [0, 1])
def test_gradient_methods_agree_with_captum(captum, target):
    model, x, refs = Op(nn.Sequential(nn.GELU(), nn.MaxPool1d(3))), tensor(X), tensor(OTHER)
    ours = {m: attribute(model, X, m, target, **({"references": OTHER} if m in PATHS else {})).values for m in METHODS}
    assert np.abs(ours["input_x_gradient"] - captum.InputXGradient(model).attribute(x.clone().requires_grad_(), target=target).detach().numpy()).max() < 1e-10
    assert np.abs(ours["saliency"] - captum.Saliency(model).attribute(x.clone().requires_grad_(), target=target).detach().numpy() * X).max() < 1e-10
    theirs, delta = captum.IntegratedGradients(model).attribute(x.clone(), refs, target=target, n_steps=50, return_convergence_delta=True)
    assert np.abs(ours["integrated_gradients"].sum(1) - theirs.detach().numpy().sum(1)).max() < 1e-8
    assert np.abs(attribute(model, X, "integrated_gradients", target, references=OTHER).delta - delta.detach().numpy()).max() < 1e-8


def test_gradient_shap_agrees_with_captum_on_average(captum):
    model, refs = Op(nn.GELU()), make_references(X, n=400, seed=3)
    ours = attribute(model, X, "gradient_shap", references=refs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.concatenate([captum.GradientShap(model).attribute(tensor(X[i:i + 1]), tensor(refs[i]), n_samples=2000, stdevs=0., target=0).detach().numpy() for i in range(4)])
    assert np.corrcoef(ours.values.sum(1).ravel(), theirs.sum(1).ravel())[0, 1] > .99
    assert np.abs(ours.delta).max() < .1 * np.abs(ours.values.sum((1, 2))).max()


# ---------------------------------------------------------------- laws of `attribute`

class Small(nn.Module):
    "Two targets, dropout, a frozen norm, maxima, and a memory of the sizes of its batches"
    def __init__(self, fail_at=None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.conv, self.norm, self.drop, self.head = nn.Conv1d(4, 6, 7), nn.BatchNorm1d(6), nn.Dropout(.5), nn.Linear(6, 2)
        self.sizes, self.fail_at = [], fail_at
    def forward(self, x):
        self.sizes.append(len(x))
        if len(self.sizes) == self.fail_at: raise RuntimeError("told to fail")
        return self.head(self.drop(self.norm(self.conv(x)).relu().amax(2)))


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_is_explained_by_its_weights(method):
    w = np.random.default_rng(1).normal(size=(2, 4, 40))
    model = LinearModel(w, bias=3.)
    for kind in ("zero", "uniform", "gc", "shuffle", OTHER) if method in PATHS else (None,):
        found = attribute(model, X, method, None, references=kind, seed=4)
        refs = np.zeros((4, 1, 4, 40)) if kind is None else make_references(X, kind, seed=4) if isinstance(kind, str) else OTHER[:, None]
        if method == "saliency": assert np.abs(found.values - np.abs(w) * X[:, None]).max() < 1e-6
        else: assert np.abs(found.values.sum(2) - np.einsum("nal,tal->ntl", X - refs.mean(1), w)).max() < 1e-5
        assert (found.delta is None) == (method not in PATHS) and (found.delta is None or np.abs(found.delta).max() < 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_options_keep_their_laws(method):
    "Targets together or alone, any batch size, hypothetical shares, correction, seeds"
    model, one = Small().eval(), {"n_references": 5, "references": "shuffle"} if method in PATHS else {}
    if method == "integrated_gradients": one["steps"] = 6
    both = attribute(model, X, method, None, seed=2, **one)
    assert both.values.shape == (4, 2, 4, 40) and (both.delta is None or both.delta.shape == (4, 2))
    for t in (0, 1):
        alone = attribute(model, X, method, t, seed=2, batch_size=3, **one)
        assert np.abs(alone.values - both.values[:, t]).max() < 1e-5 * max(1, np.abs(alone.values).max())
        if alone.delta is not None: assert np.abs(alone.delta - both.delta[:, t]).max() < 1e-5
    assert np.array_equal(attribute(model, X, method, [1], seed=2, **one).values, attribute(model, X, method, [1], seed=2, **one).values)
    every = attribute(model, X, method, 1, seed=2, hypothetical=True, **one).values
    assert np.abs(every * X - both.values[:, 1]).max() < 1e-6 and (every != 0).sum() > (both.values[:, 1] != 0).sum()
    assert (both.values[np.broadcast_to(X[:, None] == 0, both.values.shape)] == 0).all()
    if method != "saliency":
        corrected = attribute(model, X, method, 1, seed=2, correct=True, **one)
        assert np.abs(corrected.values - (every - every.mean(1, keepdims=True)) * X).max() < 1e-6 and corrected.delta is None
    if method in PATHS: assert not np.array_equal(attribute(model, X, method, 1, seed=3, **one).values, both.values[:, 1])


@pytest.mark.parametrize("method", METHODS)
def test_both_strands(method):
    "A model that sees both strands alike is explained alike; and any model is with strands='both'"
    refs = {} if method not in PATHS else {"references": "gc"}
    alike = nn.Sequential(BiConv1D(4, 5, 7, padding="valid"), nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(5, 1)).eval()
    for model, how in ((alike, "given"), (Small().eval(), "both")):
        if method == "gradient_shap" and how == "given": refs = {"references": "zero"}
        a, b = (attribute(model, s, method, strands=how, **refs) for s in (X, reverse_complement(X)))
        assert np.abs(reverse_complement(b.values) - a.values).max() < 1e-5
        if a.delta is not None: assert np.abs(a.delta - b.delta).max() < 1e-5
    given, turned, mean = attribute(model, X, method, **refs), attribute(model, reverse_complement(X), method, **refs), attribute(model, X, method, strands="both", **refs)
    assert np.abs((given.values + reverse_complement(turned.values)) / 2 - mean.values).max() < 1e-6
    if method in PATHS:  # references are turned along with their sequences
        given, turned = (attribute(model, s, method, references=r).values for s, r in ((X, OTHER), (reverse_complement(X), reverse_complement(OTHER))))
        assert np.abs((given + reverse_complement(turned)) / 2 - attribute(model, X, method, strands="both", references=OTHER).values).max() < 1e-6


@pytest.mark.parametrize("policy", ["zero", "uniform"])
@pytest.mark.parametrize("method", METHODS)
def test_unknown_bases(method, policy):
    "An unknown base earns nothing where it is zeros, and the sum holds either way"
    x = ohe(["ACGTNNNNAC" * 4, "N" * 39 + "A"], unknown=policy)
    model = Small().eval()
    for kind in ("zero", "uniform", "gc", "shuffle") if method in PATHS else (None,):
        found = attribute(model, x, method, references=kind, steps=100 if method == "integrated_gradients" else None)
        assert not found.values[x == 0].any()
        if method in ("deeplift", "deepshap", "integrated_gradients"): assert np.abs(found.delta).max() < (1e-5 if "deep" in method else 2e-2)


def state(model):
    "All that a borrowed model must give back"
    return ([m.training for m in model.modules()], [(p.requires_grad, p.grad is None) for p in model.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()], [v.tolist() for v in model.state_dict().values()],
            torch.is_grad_enabled(), torch.backends.cudnn.enabled, torch.overrides._get_current_function_mode(), torch.utils._python_dispatch._get_current_dispatch_mode())


@pytest.mark.parametrize("fail_at", [None, 2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method, fail_at):
    model = Small(fail_at).train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    before, x = state(model), X.copy()
    if fail_at is None: attribute(model, x, method, batch_size=1)
    else:
        with pytest.raises(RuntimeError, match="told to fail"): attribute(model, x, method, batch_size=1)
    assert state(model) == before and (x == X).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_pass_is_larger_than_the_batch_size_and_none_is_wasted(method):
    for size in (1, 3, 64):
        model = Small().eval()
        attribute(model, X, method, None, batch_size=size, steps=7 if method == "integrated_gradients" else None)
        assert max(model.sizes) <= size
    passes = {"input_x_gradient": 4, "saliency": 4, "integrated_gradients": 4 * 50 + 8, "gradient_shap": 4 * 40 + 4, "deeplift": 8, "deepshap": 4 * 21}[method]
    model = Small().eval()
    attribute(model, X, method, None, batch_size=4)
    assert sum(model.sizes) == passes + 1  # and one sequence to learn the number of targets


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_and_no_grad(method):
    model = Small().eval()
    expected = attribute(model, X, method, n_references=3 if "shap" in method else None).values
    for off in (torch.no_grad, torch.inference_mode):
        with off(): assert np.array_equal(attribute(model, X, method, n_references=3 if "shap" in method else None).values, expected)
    for dtype in (torch.bfloat16, torch.float16):
        half = attribute(Small().eval().to(dtype), X, method, n_references=3 if "shap" in method else None)
        assert half.values.dtype == np.float32 and np.corrcoef(half.values.ravel(), expected.ravel())[0, 1] > .97


@pytest.mark.parametrize("method", METHODS)
def test_planted_positions_are_ranked_first(method):
    from sklearn.metrics import roc_auc_score
    sim = simulate(n=100, length=80, plants=[Plant("GCTATAAATGC", 1., prob=1., name="box")], seed=1)
    x, truth = ohe(sim.ds["seq"].values), site_mask(sim.sites, 100, 80)
    model = MotifModel(ohe("GCTATAAATGC")[0], both_strands=True)
    assert roc_auc_score(truth.ravel(), attribute(model, x, method).values.sum(1).ravel()) > {"deepshap": .95, "gradient_shap": .9}.get(method, .98)


def test_a_store_holds_what_memory_holds_and_little_of_it_at_a_time(tmp_path):
    import xarray as xr
    x = ohe(random_seqs(50, 40, seed=5))
    for target in (1, None, [1, 0]):
        out = tmp_path / f"{target}.zarr"
        stored, memory = attribute(Small().eval(), x, "deepshap", target, n_references=2, batch_size=8, out=out), attribute(Small().eval(), x, "deepshap", target, n_references=2, batch_size=8)
        assert np.array_equal(stored.values[:], memory.values) and np.array_equal(stored.delta[:], memory.delta)
        assert stored.values.chunks[0] == 8 and not isinstance(stored.values, np.ndarray)
        ds = xr.open_zarr(out, consolidated=False)
        assert ds["values"].dims == (("sequence", "target", "alphabet", "position") if target != 1 else ("sequence", "alphabet", "position")) and ds.attrs["method"] == "deepshap"
    with pytest.raises(FileExistsError): attribute(Small().eval(), x, out=out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.zarr", "None.zarr", "[1, 0].zarr"]


WRONG = {
    "method": ({"method": "deeplif"}, "Did you mean 'deeplift'"), "target": ({"target": 2}, "predicts 2 columns"), "negative": ({"target": -1}, "counted from 0"), "targets": ({"target": [0, 5]}, "predicts 2 columns"),
    "word": ({"method": "deeplift", "references": "zeros"}, "choose one of 'zero', 'uniform', 'gc', 'shuffle'"), "none": ({"method": "deepshap", "n_references": 0}, "at least one"),
    "many": ({"method": "deeplift", "n_references": 3}, "only one reference 'zero'"), "shape": ({"method": "deeplift", "references": np.zeros((40, 4))}, r"one for all \(4, 40\)"),
    "number": ({"method": "deeplift", "references": np.zeros((3, 4, 40))}, r"one for each \(4, 4, 40\)"), "nan": ({"method": "deeplift", "references": np.full((4, 40), np.nan)}, "finite"),
    "useless": ({"method": "saliency", "references": "zero"}, "compares with nothing"), "steps": ({"method": "deeplift", "steps": 5}, "takes no `steps`"), "no steps": ({"method": "integrated_gradients", "steps": 0}, "at least at one"),
    "strands": ({"strands": "reverse"}, "'given', 'both'"), "batch": ({"batch_size": 0}, "batch_size=0"), "signs": ({"method": "saliency", "correct": True}, "signs"),
    "out": ({"out": " "}, "empty text"), "protein": ({"strands": "both", "alphabet": "protein"}, "no complement"), "device": ({"device": "gpu"}, "Unknown device"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    arguments, message = WRONG[case]
    with pytest.raises(ValueError, match=message): attribute(Small().eval(), X, **arguments)


@pytest.mark.parametrize("method", METHODS)
def test_wrong_models_and_sequences_are_refused(method):
    with pytest.raises(TypeError, match="tuple of 2"): attribute(nn.LSTM(40, 2), X, method)
    with pytest.raises(ValueError, match="sums the profile"): attribute(nn.Conv1d(4, 2, 3), X, method)
    with pytest.raises(ValueError, match="squeeze"): attribute(nn.Sequential(nn.Conv1d(4, 2, 3), nn.Flatten(0)), X, method)
    with pytest.raises(ValueError, match="Transpose"): attribute(Small(), X.transpose(0, 2, 1), method)
    with pytest.raises(TypeError, match="Encode text"): attribute(Small(), ["ACGT"], method)


def test_real_promoters(data_dir):
    "Twenty shuffles of each of twelve plant promoters: the shares add up to what `predict` says, without and with the other strand"
    x = ohe(jores21("leaf", path=data_dir).seq.values[:12])
    model, refs = Jores21CNN(170, filters=16), make_references(x, seed=7)
    found = attribute(model, x, "deepshap", seed=7)
    gain = predict(model, x)[:, 0] - predict(model, refs.reshape(-1, 4, 170)).reshape(12, 20).mean(1)
    assert np.abs(found.values.sum((1, 2)) - gain).max() < 1e-4 * np.abs(gain).max() and np.abs(found.delta).max() < 1e-4 * np.abs(gain).max()
    assert np.abs(attribute(model, x, "deepshap", strands="both", references="gc").delta).max() < 1e-4 * np.abs(gain).max()


def test_seeds_may_be_numbers_of_any_kind_and_generators(tmp_path):
    same = [attribute(Small().eval(), X, "deepshap", n_references=2, seed=s).values for s in (3, np.int64(3))]
    assert np.array_equal(*same)
    drawn = [attribute(Small().eval(), X, "deepshap", n_references=2, seed=np.random.default_rng(3)).values for _ in range(2)]
    assert np.array_equal(*drawn) and not np.array_equal(drawn[0], same[0])
    attribute(Small().eval(), X, "deepshap", n_references=2, seed=np.int64(3), target=np.int64(1), out=tmp_path / "a.zarr")


def test_a_score_that_does_not_depend_on_the_sequence():
    class Constant(nn.Module):
        def forward(self, x): return x.new_ones(len(x), 1)
    for m in METHODS: assert not attribute(Constant(), X, m).values.any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_gives_what_the_cpu_gives(method):
    found, expected = (attribute(Small().eval(), X, method, device=d) for d in ("cuda", "cpu"))
    assert np.abs(found.values - expected.values).max() < 1e-3
