"""Profile models from the outside: losses and metrics against SciPy and torch, tracks against pyBigWig, training from files to a verdict, the two steps of ChromBPNet"""
import copy
import multiprocessing
import socket
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import nn

from eugene.core import rng
from eugene.etl.augmentation import RandomRC, RandomShift
from eugene.etl.building import read_regions
from eugene.etl.fasta import GenomeFASTA
from eugene.etl.loading import loader
from eugene.etl.seqdata import add_tracks, make_dataset, open_zarr, to_zarr
from eugene.etl.sequences import random_seqs, reverse_complement
from eugene.etl.splits import split_chroms
from eugene.etl.tracks import BigWig
from eugene.models.profile import BPNet, ChromBPNet, OneHead, ProfileOutput
from eugene.training import profile_module
from eugene.training.fit import fit, fit_dataset
from eugene.training.losses import PROFILE_LOSSES, log1p_mse, mean_windows, mnll
from eugene.training.metrics import PROFILE_METRICS, profile_jsd, profile_skill, smooth_profiles
from eugene.training.profile_module import (
    ProfileModule, ProfileScores, centre_crop, evaluate_profiles, mean_profile, median_count_weight, predict_profiles, profile_batch, profile_objective, window_counts)

fuzz = settings(max_examples=25, deadline=None, derandomize=True)
QUIET = dict(device="cpu", progress=False)


def seeded(make, *args, **kw):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **kw)


def small(**kw):
    return seeded(BPNet, **{"input_len": 40, "output_len": 30, "tasks": 1, "profile_kernel": 5, "trunk": {"filters": 4, "layers": 1, "kernel": 3}} | kw)


def random_profiles(seed, n=5, tracks=2, length=24, rate=.5):
    "Reads and logits; some windows are empty, some have an unknown position"
    gen = rng(seed)
    reads = gen.poisson(rate, (n, tracks, length)).astype(float)
    reads[gen.random((n, tracks)) < .15] = 0
    reads[gen.random((n, tracks)) < .15, gen.integers(length)] = np.nan
    return reads, 2 * gen.normal(size=reads.shape)


@pytest.fixture(scope="module")
def ds():
    "Simulated: 24 sequences of 40 bp, a stranded pair of tracks, a control, and a split"
    gen = rng(0)
    made = add_tracks(make_dataset(random_seqs(24, 40, seed=0)), "profile", gen.poisson(.6, (24, 2, 40)).astype("float32"), ["tf+", "tf-"], stranded=True)
    made = add_tracks(made, "input", gen.poisson(.3, (24, 1, 40)).astype("float32"))
    made["split"] = "sequence", np.repeat(np.array(["train", "val", "test"], object), 8)
    return made


# ---------------------------------------------------------------- losses and metrics against others

@fuzz
@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([.05, .5, 20]))
def test_the_likelihood_is_that_of_torch_and_scipy(seed, length, rate):
    reads, logits = random_profiles(seed, length=length, rate=rate)
    ours = mnll(torch.tensor(logits), torch.tensor(reads)).numpy()
    metric = PROFILE_METRICS["nll"](reads, logits)
    for n, t in np.ndindex(ours.shape):
        k = reads[n, t]
        if np.isnan(k).any(): assert np.isnan(ours[n, t]) and np.isnan(metric[n, t])
        elif k.sum() == 0: assert ours[n, t] == 0 and np.isnan(metric[n, t])
        else:
            by_torch = -torch.distributions.Multinomial(int(k.sum()), logits=torch.tensor(logits[n, t])).log_prob(torch.tensor(k)).item()
            p = np.exp(logits[n, t] - logits[n, t].max()); p /= p.sum()
            assert ours[n, t] == pytest.approx(by_torch, abs=1e-7) and metric[n, t] == pytest.approx(-stats.multinomial.logpmf(k, int(k.sum()), p), abs=1e-7)


@fuzz
@given(st.integers(0, 10_000), st.sampled_from([0, 2, 7]))
def test_metrics_of_windows_are_those_of_scipy(seed, sigma):
    reads, logits = random_profiles(seed, length=60)
    got = {name: PROFILE_METRICS[name](reads, logits, sigma) for name in ("jsd", "pearson", "spearman")}
    for n, t in np.ndindex(reads.shape[:2]):
        k, p = reads[n, t], np.exp(logits[n, t]) / np.exp(logits[n, t]).sum()
        if np.isnan(k).any() or k.sum() == 0:
            assert all(np.isnan(v[n, t]) for v in got.values())
            continue
        k, p = smooth_profiles(k, sigma), smooth_profiles(p, sigma)
        true = {"jsd": jensenshannon(k, p), "pearson": stats.pearsonr(k, p)[0], "spearman": stats.spearmanr(k, p)[0]}
        for name, v in got.items(): assert v[n, t] == pytest.approx(true[name], abs=1e-7), name


def test_smoothing_is_that_of_a_written_out_kernel():
    x = rng(0).poisson(.2, (3, 200)).astype(float)
    kernel = stats.norm.pdf(np.arange(-40, 41), scale=7)
    mirrored = np.pad(x, ((0, 0), (40, 40)), mode="symmetric")
    by_hand = np.stack([np.convolve(row, kernel / kernel.sum(), "valid") for row in mirrored])
    assert np.allclose(smooth_profiles(x), by_hand)


@pytest.mark.parametrize("name", PROFILE_LOSSES)
def test_slopes_of_the_losses(name):
    "By finite differences; none for windows that are empty or unknown"
    reads, logits = (torch.tensor(v) for v in random_profiles(3))
    logits.requires_grad_()
    f = lambda z: torch.nan_to_num(PROFILE_LOSSES[name](z, reads))
    assert torch.autograd.gradcheck(f, logits)
    slope = torch.autograd.grad(f(logits).sum(), logits)[0]
    silent = torch.isnan(reads).any(2) | (reads.sum(2) == 0)
    assert silent.any() and (slope[silent] == 0).all() and (slope[~silent].abs().sum(1) > 0).all()


def test_both_losses_find_the_truth():
    "The least loss is where the prediction is the fraction of reads, and the log of one plus the count"
    reads = torch.tensor([[[1., 5, 0, 2]], [[3., 0, 1, 0]]]).double()
    z = torch.zeros(1, 1, 4, dtype=torch.double, requires_grad=True)
    step = torch.optim.LBFGS([z], max_iter=200, line_search_fn="strong_wolfe")
    def loss(): step.zero_grad(); v = mean_windows(mnll(z.expand(2, 1, 4), reads)).sum(); v.backward(); return v
    step.step(loss)
    assert torch.allclose(z.softmax(2)[0, 0], reads.sum((0, 1)) / reads.sum(), atol=1e-4)
    assert (log1p_mse(reads.sum(2).log1p(), reads.sum(2)) == 0).all()


@fuzz
@given(st.integers(0, 10_000))
def test_the_objective_of_what_is_known(seed):
    "Against loops over tasks, strands and windows; two tasks of two strands, one count for each task"
    gen = rng(seed)
    nll, se, w, heads = gen.random((6, 4)), gen.random((6, 2)), gen.random(6), gen.random(2) + .1
    nll[gen.random((6, 4)) < .3] = np.nan; se[gen.random((6, 2)) < .3] = np.nan
    def mean(v): return sum(v[i] * w[i] for i in range(6) if v[i] == v[i]) / (sum(w[i] for i in range(6) if v[i] == v[i]) or 1)
    profile = sum(heads[t] * (mean(nll[:, 2 * t]) + mean(nll[:, 2 * t + 1])) for t in range(2))
    counts = sum(heads[t] * mean(se[:, t]) for t in range(2))
    got = profile_objective(*map(torch.tensor, (nll, se, w)), 3., torch.tensor(heads))
    assert [float(v) for v in got] == pytest.approx([profile + 3 * counts, profile, counts])


def test_skill_against_the_flat_profile_is_the_normalised_distance():
    "Each window by itself: (worst - distance) / worst, worst being the distance from the flat profile"
    reads, logits = random_profiles(1)
    jsd, flat = profile_jsd(reads, logits), profile_jsd(reads, 0 * logits)
    known = np.argwhere(~np.isnan(jsd))
    for n, t in known: assert profile_skill(jsd[n:n + 1, t:t + 1], flat[n:n + 1, t:t + 1])[0] == pytest.approx((flat[n, t] - jsd[n, t]) / flat[n, t])


# ---------------------------------------------------------------- places

def write_genome(folder, chroms, tracks):
    import pyBigWig
    (folder / "genome.fa").write_text("".join(f">{c}\n{s}\n" for c, s in chroms.items()))
    for name, values in tracks.items():
        out = pyBigWig.open(str(folder / f"{name}.bw"), "w")
        out.addHeader([(c, len(s)) for c, s in chroms.items()])
        for c in chroms:
            at = np.flatnonzero(values[c])
            if len(at): out.addEntries([c] * len(at), at.tolist(), ends=(at + 1).tolist(), values=values[c][at].astype(float).tolist())
        out.close()


def test_reads_lie_where_pybigwig_has_them(tmp_path):
    "Regions on both strands, flanks, crop; then shifted and turned by the loader"
    import pyBigWig
    gen = rng(0)
    chroms = dict(zip(("chr1", "chr2"), random_seqs(2, 900, seed=0)))
    write_genome(tmp_path, chroms, {s: {c: gen.poisson(.4, 900) for c in chroms} for s in ("fwd", "rev")})
    at = gen.integers(100, 700, 30)
    regions = pd.DataFrame({"chrom": gen.choice(list(chroms), 30), "start": at, "end": at + 60, "strand": gen.choice(["+", "-"], 30)})
    ds = read_regions(regions, [GenomeFASTA(tmp_path / "genome.fa", cache=tmp_path), BigWig({"tf": (tmp_path / "fwd.bw", tmp_path / "rev.bw")}, name="profile")], length=60, max_jitter=10)
    b = profile_batch(next(iter(loader(ds))), 40)
    with pyBigWig.open(str(tmp_path / "fwd.bw")) as fwd, pyBigWig.open(str(tmp_path / "rev.bw")) as rev:
        for i, r in enumerate(regions.itertuples()):
            true = np.nan_to_num([f.values(r.chrom, r.start + 10, r.end - 10) for f in (fwd, rev)])
            if r.strand == "-": true = true[::-1, ::-1]
            assert np.array_equal(b.reads[i].numpy(), true)
    letters = make_dataset(random_seqs(300, 80, seed=2))
    x = letters["seq"].values
    witness = add_tracks(letters, "profile", np.stack([x == ord("C"), x == ord("G")], 1).astype("float32"), stranded=True).assign_attrs(max_jitter=10)
    for transforms in (RandomRC(), RandomShift(), [RandomShift(), RandomRC()], [RandomRC(), RandomShift()]):
        b = profile_batch(next(iter(loader(witness, 300, transforms=transforms))), 33)
        assert torch.equal(b.reads, centre_crop(torch.stack([b.x[:, 1], b.x[:, 2]], 1), 33))


class Turned(nn.Module):
    "A stranded profile model as it reads the other strand"
    def __init__(self, arch): super().__init__(); self.arch, self.output_len, self.tasks, self.controls = arch, arch.output_len, arch.tasks, arch.controls
    def forward(self, x, control=None):
        out = self.arch(x.flip(1, 2), *([] if control is None else [control.flip(2)]))
        return ProfileOutput(out.profile.unflatten(1, (-1, 2)).flip(2, 3).flatten(1, 2), out.counts.unflatten(1, (-1, 2)).flip(2).flatten(1, 2))


@pytest.mark.parametrize("tasks", [1, 2])
def test_turning_sequences_reads_and_model_changes_nothing(tasks):
    gen = rng(1)
    made = add_tracks(make_dataset(random_seqs(20, 40, seed=3)), "profile", gen.poisson(.6, (20, 2 * tasks, 40)), stranded=True)
    made = add_tracks(made, "input", gen.poisson(.6, (20, 1, 40)))
    there, back = (next(iter(loader(made, transforms=t))) for t in (None, RandomRC(p=1)))
    losses = lambda arch, b: profile_module._losses_of(ProfileModule(arch, control="input"), b)[2]
    arch = small(tasks=tasks, controls=1)
    for a, b in zip(losses(arch, there)[:2], losses(Turned(arch), back)[:2]):
        assert torch.allclose(a, b.unflatten(1, (-1, 2)).flip(2).flatten(1, 2), atol=1e-4)


def test_the_control_is_that_under_the_profile(ds):
    module = ProfileModule(small(controls=1), control="input")
    moved = ds.assign(input=ds["input"].copy(deep=True))
    moved["input"].values[..., :5] += 9; moved["input"].values[..., 35:] += 9 # beyond the profile: not seen
    assert np.array_equal(predict_profiles(module, ds, device="cpu").profile, predict_profiles(module, moved, device="cpu").profile)
    moved["input"].values[0, 0, 20] += 9
    a, b = (predict_profiles(module, d, device="cpu").profile for d in (ds, moved))
    assert np.array_equal(a[1:], b[1:]) and abs(a[0] - b[0]).sum() > 0


# ---------------------------------------------------------------- heads, masks, weights

def slopes(module, batch):
    module.zero_grad()
    losses = profile_module._losses_of(module, batch)[2]
    profile_objective(*losses, module.settings["count_weight"], module.heads).total.backward()
    return module


def test_a_head_of_no_weight_learns_nothing_and_weights_are_factors():
    made = add_tracks(make_dataset(random_seqs(10, 40, seed=0)), "profile", rng(0).poisson(.6, (10, 6, 40)))
    batch = next(iter(loader(made)))
    one = slopes(ProfileModule(small(tasks=3), head_weights=[1, 0, 2]), batch).arch
    kernel = one.profile[0].weight.grad # transposed convolution: (filters, tracks, width)
    assert (kernel[:, 2:4] == 0).all() and (kernel[:, [0, 1, 4, 5]].abs().sum((0, 2)) > 0).all()
    assert (one.counts.weight.grad[2:4] == 0).all()
    plain = slopes(ProfileModule(small(tasks=3)), batch).arch
    assert torch.allclose(kernel[:, 4:], 2 * plain.profile[0].weight.grad[:, 4:], rtol=1e-4) and torch.allclose(one.counts.weight.grad[4:], 2 * plain.counts.weight.grad[4:], rtol=1e-4)


@pytest.mark.parametrize("counts", ["strand", "task"])
def test_missing_tracks_are_as_if_they_were_not_there(counts):
    "Task 2 was measured in the second half of the windows: its slopes are those of that half alone"
    reads = rng(0).poisson(.6, (12, 4, 40)).astype("float32"); reads[:6, 2, 17] = np.nan; reads[:6, 3, 17] = np.nan
    made = add_tracks(make_dataset(random_seqs(12, 40, seed=0)), "profile", reads)
    part = slopes(ProfileModule(small(tasks=2, counts=counts), head_weights=[0, 1]), next(iter(loader(made))))
    half = slopes(ProfileModule(small(tasks=2, counts=counts), head_weights=[0, 1]), next(iter(loader(made.isel(sequence=range(6, 12))))))
    for a, b in zip(part.parameters(), half.parameters()): assert torch.allclose(a.grad, b.grad, atol=1e-3, rtol=1e-4)
    assert torch.isfinite(torch.cat([p.grad.flatten() for p in part.parameters()])).all()


def test_an_unknown_position_outside_the_profile_is_no_loss(ds):
    outside = ds.assign(profile=ds["profile"].copy(deep=True)); outside["profile"].values[:, :, [0, 4, 35, 39]] = np.nan
    a, b = (evaluate_profiles(small(), d, split=None, device="cpu", baseline="uniform") for d in (ds, outside))
    pd.testing.assert_frame_equal(a, b)


def test_the_median_rule(ds):
    reads = ds["profile"].values[:8, :, 5:35].sum((1, 2))
    assert median_count_weight(ds, 30, strands=2) == pytest.approx(np.sort(reads)[3] / 10) # the lower of the two in the middle
    gaps = ds.assign(profile=ds["profile"].where(np.arange(24)[:, None, None] != 0))
    assert median_count_weight(gaps, 30, strands=2) == pytest.approx(np.median(reads[1:]) / 10)
    assert window_counts(torch.tensor(ds["profile"].values), 1)[:, 0].tolist() == ds["profile"].values.sum((1, 2)).tolist()


def test_a_count_is_the_sum_of_the_strands_of_its_task():
    reads = torch.tensor([1., 10, 100, 1000])[None, :, None].repeat(2, 1, 3)
    assert window_counts(reads, 2).tolist() == [[33, 3300]] * 2 and window_counts(reads, 4).tolist() == [[3, 30, 300, 3000]] * 2
    scores = ProfileScores(); scores.add(ProfileOutput(torch.zeros(2, 4, 3), torch.tensor([[33., 3300.]] * 2).log1p()), reads)
    table = scores.table(["a+", "a-", "b+", "b-"])
    assert table["task"].tolist() == ["a+, a-", "b+, b-"] and np.allclose(table["count_mse"], 0, atol=1e-6)


def test_validation_keeps_a_few_numbers_of_a_window(ds):
    module, n = ProfileModule(small()), 0
    for batch in loader(ds, 7): module.validation_step(batch); n += len(batch.x)
    numbers = sum(v.size for rows in module.scores.rows.values() for v in rows) + sum(t.numel() for losses in module.seen for t in losses if t is not None)
    assert n == 24 and numbers == 24 * 2 * (5 + 2 + 2) # two tracks: four metrics and the baseline, two counts, two losses


def test_a_mean_profile_as_prediction_has_no_skill(ds):
    class Mean(nn.Module):
        output_len = 30
        def forward(self, x): return ProfileOutput(torch.tensor(mean_profile(ds, 30)).log().expand(len(x), 2, 30).float(), torch.zeros(len(x), 2))
    table = evaluate_profiles(Mean(), ds, device="cpu")
    assert np.allclose(table["profile_skill"], 0, atol=1e-5) and np.isnan(table["count_pearson"]).all()


# ---------------------------------------------------------------- from files to a verdict

def simulated(folder, regions=130, width=200, seed=0):
    "Two sites at most in a region, none in closed ones. Reads of a factor beside the sites on both strands; cuts of an enzyme that prefers GC, more of them beside the sites"
    gen, rows, site = rng(seed), [], "TGATTGAC"
    chroms = {f"chr{c}": list(s) for c, s in enumerate(random_seqs(4, regions * width, seed=gen), 1)}
    factor = {c: np.full((2, len(s)), .03) for c, s in chroms.items()}
    for c, letters in chroms.items():
        for i in range(regions):
            n = int(gen.integers(0, 3)); rows.append((c, i * width + 40, i * width + 200, n))
            for at in i * width + gen.permutation([88, 120, 152])[:n] + gen.integers(-8, 9, n):
                letters[at:at + 8] = reverse_complement(site) if gen.random() < .5 else site
                for strand, place in enumerate((at - 4, at + 11)): factor[c][strand, place - 6:place + 7] += 5 * np.exp(-.5 * (np.arange(-6, 7) / 2)**2)
    chroms = {c: "".join(s) for c, s in chroms.items()}
    enzyme = {c: .3 + 3 * np.array([s[i:i + 2] == "GC" for i in range(len(s))]) for c, s in chroms.items()}
    both = {"fwd": {c: gen.poisson(factor[c][0]) for c in chroms}, "rev": {c: gen.poisson(factor[c][1]) for c in chroms}}
    both["atac"] = {c: gen.poisson((.24 + 2 * factor[c].sum(0)) * enzyme[c]) for c in chroms}
    write_genome(folder, chroms, both)
    return pd.DataFrame(rows, columns=["chrom", "start", "end", "sites"])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    regions = simulated(folder)
    readers = [GenomeFASTA(folder / "genome.fa", cache=folder), BigWig({"tf": (folder / "fwd.bw", folder / "rev.bw")}, name="profile"), BigWig(folder / "atac.bw", name="atac")]
    made = read_regions(regions, readers, length=120, max_jitter=20)
    return split_chroms(made, val="chr3", test="chr4"), folder


def bpnet():
    return seeded(BPNet, 120, 100, tasks=1, profile_kernel=25, trunk={"filters": 12, "layers": 3, "kernel": 9})


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    module = ProfileModule(bpnet(), lr=.01, count_weight=median_count_weight(world[0], 100), scheduler="plateau")
    return module, fit_dataset(module, world[0].drop_vars("atac"), tmp_path_factory.mktemp("run") / "bpnet", batch_size=30, epochs=14, transforms=[RandomShift(), RandomRC()], **QUIET)


def test_a_trained_network_beats_the_mean_profile(world, run):
    before, after = (evaluate_profiles(m, world[0], device="cpu") for m in (run[0], run[1].module))
    assert (before["profile_skill"] < .05).all()
    assert (after["profile_skill"] > .2).all() and (after["profile_nll"] < .6 * before["profile_nll"]).all() and (after["profile_pearson"] > .4).all()
    assert (after["count_pearson"] > .7).all() and (after["count_spearman"] > .7).all() and (after["windows"] == 130).all()


def test_the_history_is_that_of_the_whole_validation_set(world, run):
    fitted = run[1]
    names = {"train_loss", "train_profile_loss", "train_count_loss", "val_loss", "val_profile_loss", "val_count_loss", *(f"val_profile_{n}" for n in PROFILE_METRICS), "val_profile_skill", "val_count_pearson", "val_count_spearman", "val_count_mse"}
    assert names <= set(fitted.history.columns)
    best = fitted.history.loc[fitted.history["val_loss"].idxmin()]
    table = evaluate_profiles(fitted.module, world[0], split="val", baseline="uniform", device="cpu").mean(numeric_only=True)
    for name in ("profile_jsd", "profile_skill", "profile_pearson", "count_pearson", "count_mse"): assert best[f"val_{name}"] == pytest.approx(table[name], abs=1e-4), name
    whole = next(iter(loader(world[0], 1000, "val")))
    with torch.no_grad(): losses = profile_module._losses_of(fitted.module, whole)[2]
    assert best["val_loss"] == pytest.approx(profile_objective(*losses, fitted.module.settings["count_weight"], fitted.module.heads).total.item(), rel=1e-4)


def test_the_run_is_on_record(run, world):
    module, fitted = run
    assert fitted.manifest["config"]["module"]["profile"] == "profile" and fitted.manifest["config"]["module"]["count_weight"] == module.settings["count_weight"]
    assert "RandomShift" in str(fitted.manifest["data"]["order"]["transforms"]) and fitted.manifest["data"]["rows"] == {"train": 260, "val": 130}
    again = fit_dataset(module, world[0].drop_vars("atac"), fitted.checkpoint.parent, batch_size=30, epochs=14, transforms=[RandomShift(), RandomRC()], reuse=True, **QUIET)
    assert torch.equal(again.module.arch.counts.weight, fitted.module.arch.counts.weight)


def test_a_run_repeats_and_a_store_gives_the_same_reads(world, tmp_path):
    made = world[0].drop_vars("atac").isel(sequence=slice(230, 290)) # both sides of the border of chr2 and chr3
    made = made.drop_encoding(); to_zarr(made, tmp_path / "chip.zarr")
    module = ProfileModule(bpnet(), lr=.01)
    runs = [fit_dataset(module, d, tmp_path / str(i), batch_size=20, epochs=2, transforms=RandomRC(), **QUIET).module for i, d in enumerate((made, made, open_zarr(tmp_path / "chip.zarr")))]
    a, b, c = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in runs)
    assert torch.equal(a, b) and torch.allclose(a, c, atol=1e-5) and not torch.allclose(a, torch.cat([p.detach().flatten() for p in module.parameters()]))


def test_heads_of_a_trained_model_can_be_looked_into(world, run):
    "The base changes that move the predicted count most lie in the site"
    from eugene.interpretation.mutagenesis import ism
    letters = random_seqs(1, 120, seed=5)[0]
    planted = letters[:56] + "TGATTGAC" + letters[64:]
    scores = ism(OneHead(run[1].module.arch), next(iter(loader(make_dataset([planted])))).x.numpy(), device="cpu")
    strongest = np.argsort(-abs(scores[0]).max(0))[:5]
    assert ((strongest >= 54) & (strongest < 66)).sum() >= 4


def test_chrombpnet_in_two_steps(world, tmp_path):
    "A bias model of closed regions, frozen; then the rest. What the enzyme does stays with the bias model."
    made = world[0].drop_vars("profile")
    closed = made.isel(sequence=np.flatnonzero(made["sites"].values == 0))
    parts = dict(main={"filters": 16, "layers": 2, "kernel": 9, "padding": "valid"}, bias={"filters": 6, "layers": 1, "kernel": 3, "padding": "valid"})
    chrom = seeded(ChromBPNet, 120, 80, 15, **parts)
    bias = ProfileModule(chrom.bias, profile="atac", lr=.02, count_weight=median_count_weight(closed, 80, "atac"))
    bias = fit_dataset(bias, closed, tmp_path / "bias", batch_size=20, epochs=10, transforms=[RandomShift()], **QUIET).module.arch
    learned = evaluate_profiles(bias, closed, profile="atac", device="cpu")
    assert (learned["profile_skill"] > .05).all() and (learned["profile_pearson"] > .4).all()
    with torch.no_grad(): # its counts are shifted to the mean of closed regions
        counts = np.log1p(centre_crop(torch.tensor(closed["atac"].values), 80).sum(2).numpy())
        bias.counts.bias += torch.tensor((counts - predict_profiles(bias, closed, device="cpu").counts).mean(0))
    assert np.allclose(predict_profiles(bias, closed, device="cpu").counts.mean(0), counts.mean(0), atol=1e-4)
    chrom.bias.load_state_dict(bias.state_dict()); chrom.bias.requires_grad_(False)
    whole = fit_dataset(ProfileModule(chrom, profile="atac", lr=.01, count_weight=median_count_weight(made, 80, "atac")), made, tmp_path / "chrom", batch_size=30, epochs=12, transforms=[RandomShift()], **QUIET).module.arch
    for (name, a), b in zip(whole.bias.state_dict().items(), bias.state_dict().values()): assert torch.equal(a, b), name
    full, alone = (evaluate_profiles(m, made, profile="atac", device="cpu") for m in (whole, bias))
    assert (full["profile_jsd"] < alone["profile_jsd"] - .05).all() and (full["count_pearson"] > .5).all() and (alone["count_pearson"] < .2).all()
    test = closed.isel(sequence=np.flatnonzero(closed["split"].values == "test"))
    cut = np.array([[s[i:i + 2] == b"GC" for i in range(40, 120)] for s in test["seq"].values.view("S160")[:, 0]], float)
    follow = {name: np.mean([np.corrcoef(z, c)[0, 1] for z, c in zip(predict_profiles(m, test, device="cpu").profile[:, 0], cut)]) for name, m in (("bias", whole.bias), ("main", whole.main))}
    assert follow["bias"] > .7 and abs(follow["main"]) < .3, follow


def test_basenji_learns_bins_by_the_poisson_task(tmp_path):
    "Profiles in bins are one tensor `(N, T, bins)`, for a sequence module: simulated reads in bins with a CG"
    import pytorch_lightning as pl
    from eugene.models.profile import Basenji
    from eugene.training.losses import get_loss
    from eugene.training.sequence_module import SequenceModule, quiet_lightning
    gen, seqs = rng(0), random_seqs(300, 64, seed=0)
    rate = np.array([[.2 + 3. * ("CG" in s[i:i + 4]) for i in range(0, 64, 4)] for s in seqs])
    made = add_tracks(make_dataset(seqs), "bins", gen.poisson(rate)[:, None].astype("float32"), bin_width=4)
    batches = lambda ds: torch.utils.data.DataLoader([b._replace(y=b.extra["bins"], extra=None) for b in loader(ds, 30)], batch_size=None, collate_fn=lambda b: b)
    module = SequenceModule(seeded(Basenji, 64, 1, (8, 8), 6, 1, 16, 0, 0.), task="poisson", lr=.01)
    with quiet_lightning(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trainer = pl.Trainer(max_epochs=12, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(module, batches(made.isel(sequence=slice(0, 240))), batches(made.isel(sequence=slice(240, 300))))
    held = torch.tensor(made["bins"].values[240:])
    best, flat = (get_loss("poisson")(v.log(), held).item() for v in (torch.tensor(rate[240:, None]).float(), held.mean().expand(held.shape)))
    assert trainer.callback_metrics["val_loss"].item() < .5 * (best + flat) and trainer.callback_metrics["val_pearson"].item() > .4


# ---------------------------------------------------------------- what is wrong is said

class Tensor(nn.Module):
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(1))
    def forward(self, x): return self.w * x.mean((1, 2))[:, None]


WRONG = {
    "a tensor": (TypeError, "returned a Tensor; a profile model returns ProfileOutput", lambda ds: (ProfileModule(Tensor()), ds)),
    "short tracks": (ValueError, "The tracks have 40 positions and the profile has 50.*output_len=40", lambda ds: (ProfileModule(small(input_len=60, output_len=50)), ds)),
    "tracks": (ValueError, "`profile` has 2 tracks of 30 positions and the model predicts 6 of 30, with 6 counts", lambda ds: (ProfileModule(small(tasks=3)), ds)),
    "one track": (ValueError, "`input` has 1 tracks of 30 positions and the model predicts 2", lambda ds: (ProfileModule(small(), profile="input"), ds)),
    "negative": (ValueError, "`profile` has negative values, the first is -.*absolute values", lambda ds: (ProfileModule(small()), ds.assign(profile=-ds["profile"]))),
    "no control": (ValueError, "no `input`, which training needs. See read_regions", lambda ds: (ProfileModule(small(controls=1), control="input"), ds.drop_vars("input"))),
    "two controls": (ValueError, r"a control of shape \(.*, 2, 30\) came; BPNet takes control reads \(N, controls, L\) = \(.*, 1, 30\)", lambda ds: (ProfileModule(small(controls=1), control="profile"), ds)),
    "unknown control": (ValueError, "`input` has unknown positions", lambda ds: (ProfileModule(small(controls=1), control="input"), ds.assign(input=ds["input"] * np.nan))),
    "no reads": (ValueError, "no `reads`, which training needs", lambda ds: (ProfileModule(small(), profile="reads"), ds)),
    "nothing known": (ValueError, "No window of the validation data has a measured profile", lambda ds: (ProfileModule(small()), ds.assign(profile=ds["profile"] * np.nan))),
    "nothing to learn": (ValueError, "No window of the training data has a measured profile", lambda ds: (ProfileModule(small()), ds.assign(profile=ds["profile"].where(ds["split"] != "train")))),
    "not tracks": (ValueError, "no tracks `w`; it has none", lambda ds: (ProfileModule(small(), profile="w"), ds.assign(w=("sequence", np.ones(24))))),
    "no split": (ValueError, "no `split`", lambda ds: (ProfileModule(small()), ds.drop_vars("split"))),
    "sequence length": (ValueError, "BPNet takes one-hot arrays", lambda ds: (ProfileModule(small(input_len=44)), ds)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name, ds, tmp_path):
    kind, message, make = WRONG[name]
    with pytest.raises(kind, match=message):
        module, data = make(ds)
        fit_dataset(module, data, tmp_path / "run", epochs=1, **QUIET)
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_an_unmeasured_first_batch_of_validation_is_no_error(ds, tmp_path):
    "Lightning's trial batch may hold nothing"
    gaps = ds.assign(profile=ds["profile"].where(((np.arange(24) < 8) | (np.arange(24) > 11))[:, None, None]))
    result = fit_dataset(ProfileModule(small()), gaps, tmp_path / "run", batch_size=4, epochs=1, **QUIET)
    assert np.isfinite(result.history["val_loss"]).all()


def test_chrombpnet_refuses_in_its_own_name():
    chrom = ChromBPNet(120, 60, 7, {"filters": 4, "layers": 2, "kernel": 5, "padding": "valid"}, {"filters": 3, "layers": 1, "kernel": 5, "padding": "valid"})
    with pytest.raises(ValueError, match="; ChromBPNet takes one-hot arrays .* Transpose it"): chrom(torch.zeros(2, 120, 4))


# ---------------------------------------------------------------- processes and devices

def _exchange(rank, port, queue):
    import os
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo")
    try:
        gen = rng(rank)
        module = ProfileModule(small())
        made = add_tracks(make_dataset(random_seqs(5 + rank, 40, seed=rank)), "profile", gen.poisson(.6, (5 + rank, 2, 40)))
        module.validation_step(next(iter(loader(made, shard=(0, 1)))))
        queue.put((rank, profile_module._validation_numbers(module)))
    finally: torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo")
def test_two_processes_report_one_validation():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    context = multiprocessing.get_context("spawn"); queue = context.Queue()
    workers = [context.Process(target=_exchange, args=(rank, port, queue)) for rank in range(2)]
    for w in workers: w.start()
    got = dict(queue.get(timeout=120) for _ in workers)
    for w in workers: w.join(30)
    one = ProfileModule(small())
    for rank in range(2): one.validation_step(next(iter(loader(add_tracks(make_dataset(random_seqs(5 + rank, 40, seed=rank)), "profile", rng(rank).poisson(.6, (5 + rank, 2, 40)))))))
    whole = profile_module._validation_numbers(one)
    for rank in range(2): assert got[rank] == pytest.approx(whole, rel=1e-4, abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_and_refuses_alike(ds, tmp_path):
    module = ProfileModule(small(controls=1), control="input", lr=.01)
    on = {d: fit_dataset(module, ds, tmp_path / d, batch_size=4, epochs=2, device=d, progress=False) for d in ("cpu", "cuda")}
    assert on["cuda"].history["val_loss"].values == pytest.approx(on["cpu"].history["val_loss"].values, rel=1e-2)
    a, b = (predict_profiles(on["cpu"].module, ds, device=d) for d in ("cpu", "cuda"))
    assert np.allclose(a.profile, b.profile, atol=1e-2) and next(on["cpu"].module.parameters()).device.type == "cpu"
    with pytest.raises(ValueError, match="`profile` has negative values"): fit_dataset(module, ds.assign(profile=-ds["profile"]), tmp_path / "wrong", device="cuda", progress=False)
    with pytest.raises(ValueError, match="No window of the validation data"): fit_dataset(module, ds.assign(profile=ds["profile"] * np.nan), tmp_path / "nan", device="cuda", progress=False)
    mixed = fit_dataset(module, ds, tmp_path / "mixed", batch_size=4, epochs=2, device="cuda", progress=False, precision="16-mixed")
    assert np.isfinite(mixed.history["val_loss"]).all()
