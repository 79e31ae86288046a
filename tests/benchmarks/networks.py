"Networks with random weights for the benchmarks, of torch alone: environments of peers lack this package"
import numpy as np
import torch
from torch import nn


def deepstarr_like():
    "Four convolutions with batch norm and max-pooling, three dense layers (de Almeida et al. 2022): 19.6 MFLOP for 249 bp"
    layers, channels = [], 4
    for filters, width in ((256, 7), (60, 3), (60, 5), (120, 3)):
        layers += [nn.Conv1d(channels, filters, width, padding="same"), nn.BatchNorm1d(filters), nn.ReLU(), nn.MaxPool1d(2)]
        channels = filters
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(120 * 15, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))


class JoresLike(nn.Module):
    "The larger of both strands after a convolution, a second one, two dense layers: 80 MFLOP for 170 bp"
    def __init__(self):
        super().__init__()
        self.scan, self.conv = nn.Conv1d(4, 128, 13, padding="same"), nn.Conv1d(128, 128, 13, padding="same")
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(128 * 170, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        best = torch.maximum(self.scan(x), self.scan(x.flip((1, 2))).flip(2)).relu()
        return self.dense(self.conv(best).relu())


class JoresRecurrent(nn.Module):
    "Recurrent: no shortcut knows what a mutation leaves as it was"
    def __init__(self):
        super().__init__()
        self.conv, self.rnn, self.out = nn.Conv1d(4, 64, 13, padding="same"), nn.GRU(64, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x): return self.out(self.rnn(self.conv(x).relu().transpose(1, 2))[0][:, -1])


class BothStrands(nn.Module):
    "The larger of what two convolutions and a dense head see on either strand"
    def __init__(self, length=170):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(4, 128, 13, padding="same"), nn.ReLU(), nn.Conv1d(128, 64, 13, padding="same"), nn.ReLU(),
                                  nn.Flatten(), nn.Linear(64 * length, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x): return torch.maximum(self.body(x), self.body(x.flip((1, 2))))


NETWORKS = {"DeepSTARR-like": (deepstarr_like, 249), "Jores-like": (JoresLike, 170), "recurrent": (JoresRecurrent, 170), "both strands": (BothStrands, 170)}


def network(name):
    "A network in evaluation mode, and the length of its sequences"
    torch.manual_seed(0)
    make, length = NETWORKS[name]
    return make().eval(), length


def sequences(n, length, seed=0):
    "Random one-hot sequences, float32 `(N, 4, L)`"
    return np.ascontiguousarray(np.eye(4, dtype=np.float32)[np.random.default_rng(seed).integers(0, 4, (n, length))].transpose(0, 2, 1))


def batched(model, x, size=64):
    "Scores of many sequences, `(N,)`"
    with torch.no_grad(): return torch.cat([model(b)[:, 0] for b in torch.as_tensor(x).split(size)]).numpy()


def mutants(x):
    "All single mutants of one sequence, `(4 L, 4, L)`: letter, then position"
    a, length = x.shape
    out = np.repeat(x[None], a * length, 0)
    for i in range(a * length): out[i, :, i % length] = np.arange(a) == i // length
    return out


def flops_per_second(size=1024):
    "Rate of a matrix product, the least of three"
    import time
    a, seconds = torch.ones(size, size), []
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
