"The networks by configuration: every size argument acts, strands keep their promise, files build what calls build; a model folder of others."
import json
import os
import sys

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings, strategies as st
from torch import nn

from eugene.layers.strands import check_strands
from eugene.models.basic import CNN, FCN, MEET, RNN, BodyHead, Hybrid, Inception, check_arch, count_params
from eugene.models.kipoi import kipoi_predict, load_kipoi
from eugene.models.saving import load_model, save_model
from eugene.models.summary import receptive_field, summary
from eugene.models.zoo import ARCHITECTURES, Architecture, arch_card, build_arch
from eugene.training.configs import from_config

CONV, HEAD, REC = {"channels": [6, 4], "kernels": 5}, {"hidden": 5, "activation": "gelu"}, {"hidden_dim": 6}
NETS = {FCN: {"dense": HEAD}, CNN: {"conv": CONV, "dense": HEAD}, RNN: {"recurrent": REC, "dense": HEAD},
        Hybrid: {"conv": CONV, "recurrent": REC, "dense": HEAD}, Inception: {"channels": (8, 12), "dense": HEAD}}
nets = pytest.mark.parametrize("net", NETS, ids=lambda n: n.__name__)


@pytest.fixture(autouse=True)
def same_first_weights():
    "Small networks by chance can be dead; these are the same in every run, and the global stream is left as it was"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def one_hot(n, length, letters=4, seed=0):
    drawn = torch.randint(letters, (n, length), generator=torch.Generator().manual_seed(seed))
    return nn.functional.one_hot(drawn, letters).transpose(1, 2).float()


# Counts of the paper's configurations, as measured on its own code
@pytest.mark.parametrize(("name", "length", "count"), [("CNN", 170, 1_883_649), ("Hybrid", 170, 1_925_633), ("dsCNN", 500, 471_007),
                                                       ("dsHybrid", 500, 83_935), ("dsFCN", 500, 1_058_049)])
@pytest.mark.parametrize("variant", ["published", "eugene-2023"])
def test_counts_of_the_paper(name, length, count, variant):
    with torch.device("meta"): assert count_params(build_arch(name, variant, input_len=length)) == count
    assert arch_card(name, variant).n_params == count


# Each size changes the parameters or the output: (argument, value), against the small edition
SIZES = {
    FCN: [("input_len", 50), ("output_dim", 3), ("input_dims", 5), ("dense", {"hidden": 6, "activation": "gelu"}), ("strands", "concat")],
    CNN: [("input_len", 50), ("output_dim", 3), ("input_dims", 5), ("conv", {"channels": [6, 5], "kernels": 5}), ("conv", {"channels": [6, 4], "kernels": 7}),
          ("dense", {"hidden": 6, "activation": "gelu"}), ("strands", "concat")],
    RNN: [("output_dim", 3), ("input_dims", 5), ("recurrent", {"hidden_dim": 7}), ("recurrent", {"hidden_dim": 6, "unit": "gru"}), ("dense", {"hidden": 6, "activation": "gelu"}), ("strands", "concat")],
    Hybrid: [("output_dim", 3), ("input_dims", 5), ("conv", {"channels": [6, 5], "kernels": 5}), ("recurrent", {"hidden_dim": 7}), ("dense", {"hidden": 6, "activation": "gelu"}), ("strands", "concat")],
    Inception: [("input_len", 50), ("output_dim", 3), ("input_dims", 5), ("channels", (8, 16)), ("kernel2", 5), ("kernel3", 9), ("dense", {"hidden": 6, "activation": "gelu"}), ("strands", "concat")],
}


@pytest.mark.parametrize(("net", "argument", "value"), [(net, a, v) for net, rows in SIZES.items() for a, v in rows])
def test_every_size_acts(net, argument, value):
    base = {"input_len": 40, **NETS[net]}
    changed = net(**{**base, argument: value})
    assert count_params(changed) != count_params(net(**base))
    sizes = {"input_len": 40, "output_dim": 1, "input_dims": 4, **({argument: value} if argument in ("input_len", "output_dim", "input_dims") else {})}
    check_arch(changed, sizes["input_len"], sizes["output_dim"], sizes["input_dims"])


def test_pool_kernel_of_inception_acts():
    torch.manual_seed(0); narrow = Inception(40, channels=(8,), pool_kernel=1, dense={})
    torch.manual_seed(0); wide = Inception(40, channels=(8,), pool_kernel=5, dense={})
    assert not torch.allclose(narrow(one_hot(4, 40)), wide(one_hot(4, 40)))


@nets
def test_input_len_is_kept_even_where_no_weight_depends_on_it(net):
    model = net(40, **NETS[net])
    with pytest.raises(ValueError, match="input_len=41"): model(one_hot(2, 41))


@nets
@pytest.mark.parametrize("strands", ["max", "mean"])
@settings(derandomize=True, deadline=None, max_examples=10)
@given(length=st.integers(12, 60), outputs=st.integers(1, 3), seed=st.integers(0, 999))
def test_both_strands_score_alike(net, strands, length, outputs, seed):
    torch.manual_seed(seed)
    model = net(length, outputs, **NETS[net], strands=strands).eval()
    x = one_hot(4, length, seed=seed)
    with torch.no_grad(): torch.testing.assert_close(model(x), model(x.flip((1, 2))), rtol=1e-4, atol=1e-5)
    assert model.strand == "invariant" and check_strands(model, length)


@nets
@pytest.mark.parametrize("strands", ["concat", "max", "mean"])
def test_both_strands_against_two_calls(net, strands):
    "The slow way: the body by itself on each strand, then the head as the word says"
    model = net(40, 2, **NETS[net], strands=strands).eval()
    x, both = one_hot(5, 40), None
    with torch.no_grad():
        given, other = (model.both.body(s) for s in (x, x.flip((1, 2))))
        head = model.both.head
        if strands == "concat": both = head(torch.cat([given, other], 1))
        if strands == "max": both = torch.maximum(head(given), head(other))
        if strands == "mean": both = (head(given) + head(other)) / 2
        torch.testing.assert_close(model(x), both)


def test_hybrid_meets_at_the_map():
    for meet in MEET[1:]:
        model = Hybrid(40, **NETS[Hybrid], strands="concat", meet=meet).eval()
        x = one_hot(3, 40)
        with torch.no_grad():
            tower = model.both.body
            other = tower(x.flip((1, 2)))
            joined = torch.cat([tower(x), other.flip(2) if meet == "conv" else other], 1)
            torch.testing.assert_close(model(x), model.dense(model.recurrent(joined)))


@nets
def test_one_strand_is_a_chain(net):
    model = net(40, **NETS[net]).eval()
    x = y = one_hot(3, 40)
    with torch.no_grad():
        for part in model.children(): y = part(y)
        assert torch.equal(model(x), y)
    assert model.strand == "none"


@pytest.mark.parametrize(("name", "args"), [("FCN", NETS[FCN]), ("CNN", NETS[CNN]), ("RNN", NETS[RNN]), ("Hybrid", NETS[Hybrid]), ("Inception", {"channels": [8, 12]}), ("dsCNN", {}), ("dsHybrid", {"meet": "recurrent"})])
def test_from_a_file(name, args, tmp_path):
    "One YAML builds what one call builds"
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump({"arch": {"name": name, "input_len": 60, **args, "strands": "concat"}, "module": {"task": "regression"}}))
    built, called = from_config(file).arch, build_arch(name, input_len=60, **args, strands="concat")
    assert str(built) == str(called) and json.dumps(built.arch_config, sort_keys=True) == json.dumps(called.arch_config, sort_keys=True)
    file.write_text(yaml.safe_dump({"arch": {"name": name, "input_len": 60, "strand": "max"}}))
    with pytest.raises(ValueError, match="Did you mean 'strands'"): from_config(file)


class Own(nn.Module):
    "Needs `__init__` and `forward`, nothing else"
    def __init__(self, input_len, output_dim=1, filters=4):
        super().__init__()
        self.scan, self.add = nn.Conv1d(4, filters, 5), nn.Linear(filters * (input_len - 4), output_dim)
    def forward(self, x): return self.add(self.scan(x).flatten(1))


def test_a_model_of_ones_own_through_the_same_door(monkeypatch, tmp_path):
    check_arch(Own(30, 2), 30, 2)
    monkeypatch.setitem(ARCHITECTURES, "Own", {"published": Architecture(Own, arch_card("CNN"))})
    model = build_arch("Own", input_len=30, filters=6)
    check_arch(model, 30)
    assert summary(model, 30).n_params == count_params(model)
    assert torch.equal(load_model(save_model(model, tmp_path / "own")).add.weight, model.add.weight)
    monkeypatch.delitem(ARCHITECTURES, "Own")
    with pytest.raises(ValueError, match="Unknown architecture 'Own'"): load_model(tmp_path / "own")


def test_body_head_is_open():
    "A body of one's own gets head, strands and guard in one line"
    model = BodyHead({"scan": nn.Conv1d(4, 3, 5), "best": nn.AdaptiveMaxPool1d(1), "flat": nn.Flatten()}, 3, HEAD, input_len=20, strands="max")
    check_arch(model, 20)
    assert check_strands(model, 20)["invariant"] < 1e-6


# Summary
@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
def test_receptive_field_of_a_chain(convs):
    "The field by the impulse agrees with the rule for layers in a line"
    layers, field, step = [], 1, 1
    for kernel, stride, dilation in convs:
        layers += [nn.Conv1d(4, 4, kernel, stride, dilation=dilation), nn.ReLU()]
        field, step = field + (kernel - 1) * dilation * step, step * stride
    start, stop = receptive_field(nn.Sequential(*layers), layers[-1], field + 4 * step)
    assert stop - start == field


def test_summary_restores_after_an_error():
    class Fails(nn.Module):
        def __init__(self): super().__init__(); self.lin = nn.Linear(4, 1)
        def forward(self, x): raise RuntimeError("no")
    model = Fails().train()
    with pytest.raises(RuntimeError, match="no"): summary(model, 10)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# Saving
def test_nothing_of_pickle_and_nothing_half_written(tmp_path, monkeypatch):
    import eugene.models.saving as saving
    model = build_arch("CNN", input_len=40, conv=CONV, dense={})
    folder = save_model(model, tmp_path / "m")
    assert b"pickle" not in (folder / "model.safetensors").read_bytes() and (folder / "model.safetensors").read_bytes()[:1] != b"\x80"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    def full(*_, **__): raise OSError("No space left on device")
    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(OSError, match="No space"): save_model(model, folder, overwrite=True)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before and [p.name for p in tmp_path.iterdir()] == ["m"]


def test_loading_needs_no_training_code(tmp_path):
    "A fresh interpreter loads and predicts without Lightning, pandas or xarray"
    import subprocess
    save_model(build_arch("CNN", input_len=40, conv=CONV, dense={}), tmp_path / "m")
    code = "import sys, torch; from eugene.models.saving import load_model; " \
           f"y = load_model({str(tmp_path / 'm')!r})(torch.zeros(2, 4, 40)); assert y.shape == (2, 1); print([m for m in ('eugene.training', 'xarray', 'pandas', 'pytorch_lightning') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "eugene.training" not in done.stdout


# Kipoi: a model folder the test makes
MODEL = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, filters=3):
        super().__init__()
        self.conv, self.out = nn.Conv1d({c}, filters, 3), nn.Linear(filters, 2)
    def forward(self, x): return self.out(self.conv({x}).amax(2))
"""


@pytest.fixture
def kipoi_folder(tmp_path):
    def make(shape, read, letters="ACGT", channels=4):
        folder = tmp_path / "net"
        folder.mkdir(exist_ok=True)
        (folder / "model.py").write_text(MODEL.format(c=channels, x=read))
        names = {}
        exec((folder / "model.py").read_text(), names)
        net = names["Net"](5)
        torch.save(net.state_dict(), folder / "w.pth")
        about = {"defined_as": "kipoi.model.PyTorchModel", "args": {"module_class": "model.Net", "module_kwargs": {"filters": 5}, "weights": "w.pth"},
                 "schema": {"inputs": {"name": "seq", "shape": shape}}, "default_dataloader": {"default_args": {"alphabet": letters}}}
        (folder / "model.yaml").write_text(yaml.safe_dump(about))
        return folder, net.eval()
    return make


@pytest.mark.parametrize(("shape", "read", "theirs"), [
    ("(4, 30)", "x", lambda x: x), ("(30, 4)", "x.transpose(1, 2)", lambda x: x.transpose(1, 2)),
    ("(4, 1, 30)", "x[:, :, 0]", lambda x: x[:, :, None]), ("(1, 4, 30)", "x[:, 0]", lambda x: x[:, None])])
@pytest.mark.parametrize("letters", ["ACGT", "AGCT"])
def test_kipoi_folder(kipoi_folder, shape, read, theirs, letters):
    folder, net = kipoi_folder(shape, read, letters)
    model = load_kipoi(folder, trust=True)
    x = one_hot(4, 30)
    ordered = torch.stack([x[:, "ACGT".index(letter)] for letter in letters], 1)
    with torch.no_grad(): torch.testing.assert_close(model(x), net(theirs(ordered)))
    check_arch(model, 30, 2)


def test_kipoi_runs_no_code_untold(kipoi_folder):
    folder, _ = kipoi_folder("(4, 30)", "x")
    (folder / "model.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n" + (folder / "model.py").read_text())
    with pytest.raises(ValueError, match="trust=True"): load_kipoi(folder)
    assert not (folder / "ran").exists()
    load_kipoi(folder, trust=True)
    assert (folder / "ran").exists()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script with a shebang")
def test_kipoi_command_gets_words_not_a_shell_line(tmp_path):
    "A name with a shell's special characters arrives as it is"
    fake = tmp_path / "env" / "bin" / "kipoi"
    fake.parent.mkdir(parents=True)
    fake.write_text(f"""#!{sys.executable}
import json, sys
words = sys.argv[1:]
json.dump(words, open({str(tmp_path / 'seen.json')!r}, "w"))
open(words[words.index("-o") + 1], "w").write("preds/0\\n" + "1.5\\n" * 2)
""")
    fake.chmod(0o755)
    name = "a; touch $(pwd)/b && echo"
    assert kipoi_predict(name, ["ACGT", "GGTT"], env=tmp_path / "env").tolist() == [[1.5], [1.5]]
    words = json.loads((tmp_path / "seen.json").read_text())
    assert words[:2] == ["predict", name] and not os.path.exists(json.loads(words[2].split("=", 1)[1])["fasta_file"])
    with pytest.raises(ValueError, match="returned 2 rows"): kipoi_predict(name, ["ACGT"] * 3, env=tmp_path / "env")
    assert np.isfinite(kipoi_predict(name, np.array(["ACGT", "GGTT"]), env=tmp_path / "env")).all()
