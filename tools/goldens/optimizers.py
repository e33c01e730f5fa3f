"""Trajectories of optimizers on a small quadratic problem, for `crates/scumble-train/tests/optimizers.rs`.

    pip install torch transformers prodigyopt lion-pytorch numpy
    python tools/goldens/optimizers.py tests/fixtures/optimizers.json

Parameters `w` [64, 80] and `b` [10] with p_i = cos(0.3 i) / 2 minimise the sum of (1 + i mod 7) / 2 (p_i - sin(0.7 i))^2. Gradients
are computed in double precision and rounded to single. Recorded for every step: the first eight elements and the sum of
squares of each parameter. AdamW in bytes has no reference on the CPU; its rule is written out here in numpy, from the
paper "8-bit Optimizers via Block-wise Quantization".
"""

import json
import sys

import numpy as np
import torch

STEPS = 12
SHAPES = {"w": (64, 80), "b": (10,)}


def start(shape):
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    return (np.cos(0.3 * i) / 2).astype(np.float32).reshape(shape)


def gradient(p):
    flat = p.astype(np.float64).reshape(-1)
    i = np.arange(flat.size, dtype=np.float64)
    return ((1 + i % 7) * (flat - np.sin(0.7 * i))).astype(np.float32).reshape(p.shape)


def record(steps, params):
    entry = {}
    for name, p in params.items():
        flat = p.reshape(-1)
        entry[name] = {"first": [float(v) for v in flat[:8]], "squares": float((flat.astype(np.float64) ** 2).sum())}
    steps.append(entry)


def with_torch(make):
    params = {name: torch.nn.Parameter(torch.from_numpy(start(shape))) for name, shape in SHAPES.items()}
    optimizer, steps = make(list(params.values())), []
    for _ in range(STEPS):
        for p in params.values():
            p.grad = torch.from_numpy(gradient(p.detach().numpy()))
        optimizer.step()
        record(steps, {name: p.detach().numpy() for name, p in params.items()})
    return steps


def dynamic_table(signed):
    data = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, (2**i if signed else 2 ** (i + 1)) + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        data += list(10.0 ** (i - 6) * middles)
        if signed:
            data += list(-(10.0 ** (i - 6)) * middles)
    return np.array(sorted(data), dtype=np.float32)


def blocks(x, size=256):
    return [x[i : i + size] for i in range(0, x.size, size)]


def quantise(x, table):
    codes, largest = [], []
    for block in blocks(x):
        most = np.float32(np.abs(block).max())
        inverse = np.float32(1) / most if most > 0 else np.float32(0)
        codes.append(np.abs(table[None, :] - (block * inverse)[:, None]).argmin(axis=1))
        largest.append(most)
    return codes, largest


def unpack(state, table):
    return np.concatenate([table[codes] * most for codes, most in zip(*state)])


def adamw_in_bytes(lr=1e-2, b1=0.9, b2=0.999, eps=1e-8, decay=0.1):
    f = np.float32
    tables = [dynamic_table(True), dynamic_table(False)]
    params = {name: start(shape) for name, shape in SHAPES.items()}
    moments = {n: [np.zeros(p.size, f), np.zeros(p.size, f)] for n, p in params.items()}
    packed = {n: [quantise(m, t) for m, t in zip(ms, tables)] for n, ms in moments.items()}
    steps = []
    for t in range(1, STEPS + 1):
        for name, p in params.items():
            g, flat = gradient(p).reshape(-1), p.reshape(-1)
            small = p.size < 4096
            m, v = moments[name] if small else [unpack(s, tb) for s, tb in zip(packed[name], tables)]
            m = f(b1) * m + f(1 - f(b1)) * g
            v = f(b2) * v + f(1 - f(b2)) * g * g
            flat = f(1 - lr * decay) * flat - f(lr / (1 - b1**t)) * m / (np.sqrt(v) / f(np.sqrt(1 - b2**t)) + f(eps))
            moments[name] = [m, v]
            packed[name] = [quantise(x, tb) for x, tb in zip([m, v], tables)]
            params[name] = flat.astype(f).reshape(p.shape)
        record(steps, params)
    return steps


def main(path):
    from lion_pytorch import Lion
    from prodigyopt import Prodigy
    from transformers.optimization import Adafactor

    fixed = dict(scale_parameter=False, relative_step=False, warmup_init=False)
    prodigy = dict(lr=1.0, weight_decay=0.01, decouple=True, use_bias_correction=True, safeguard_warmup=True)
    results = {
        "adamw": with_torch(lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, foreach=False)),
        "sgd": with_torch(lambda p: torch.optim.SGD(p, lr=1e-2, weight_decay=0.1, foreach=False)),
        "lion": with_torch(lambda p: Lion(p, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)),
        "adafactor": with_torch(lambda p: Adafactor(p, lr=1e-2, weight_decay=0.1, **fixed)),
        "prodigy": with_torch(lambda p: Prodigy(p, **prodigy)),
        "adamw8": adamw_in_bytes(),
    }
    with open(path, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    main(sys.argv[1])
