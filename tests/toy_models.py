"""Models over one-hot `(N, A, L)` whose answers can be worked out by hand, for tests of prediction and interpretation"""
import numpy as np
import torch
from torch import nn


class LinearModel(nn.Module):
    "Score = sum over bases of its weight there, plus a bias: attributions are the weights themselves"

    def __init__(self, weights, bias=0.0):  # weights (A, L), or (T, A, L) for several targets
        super().__init__()
        w = torch.as_tensor(np.asarray(weights), dtype=torch.float32)
        self.weight = nn.Parameter(w[None] if w.ndim == 2 else w)
        self.bias = nn.Parameter(torch.full((len(self.weight),), float(bias)))

    def forward(self, x):
        return torch.einsum("nal,tal->nt", x, self.weight) + self.bias


class SumModel(nn.Module):
    "Score = number of bases at which `letters` (channels) stand; the fewest parameters a model can have"

    def __init__(self, letters=(1, 2)):  # C and G by default
        super().__init__()
        self.register_buffer("pick", torch.tensor([float(a in letters) for a in range(4)]))

    def forward(self, x):
        return torch.einsum("nal,a->n", x, self.pick)[:, None]


class MotifModel(nn.Module):
    "Score = best match of one motif anywhere (its weights summed over the window), on one strand or both"

    def __init__(self, motif, both_strands=False):  # motif (A, W): one-hot gives the number of matching bases
        super().__init__()
        w = torch.as_tensor(np.asarray(motif), dtype=torch.float32)[None]
        self.conv = nn.Conv1d(w.shape[1], 1 + both_strands, w.shape[2], bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.cat([w, w.flip((1, 2))]) if both_strands else w)

    def forward(self, x):
        return self.conv(x).amax((1, 2))[:, None]


class PairModel(nn.Module):
    "Score = 1 if both bases stand at their places, else 0: no base matters alone, ISM sees the pair and a gradient misses half"

    def __init__(self, first=(0, 5), second=(3, 9)):  # (channel, position) of each
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x):
        return (x[:, self.first[0], self.first[1]] * x[:, self.second[0], self.second[1]])[:, None]


class ModeModel(nn.Module):
    "SumModel behind dropout and batch norm: gives the sum in eval mode, noise in train mode; counts its calls"

    def __init__(self):
        super().__init__()
        self.drop, self.norm, self.total, self.calls = nn.Dropout(0.5), nn.BatchNorm1d(4, eps=1e-12), SumModel(), 0

    def forward(self, x):
        self.calls += 1
        return self.total(self.norm(self.drop(x)))
