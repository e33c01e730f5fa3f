"""Merging by entries as PEFT computes it: magnitude pruning, TIES and DARE on the dense changes of one weight.

    python tools/goldens/merging.py tests/fixtures/merging.safetensors

Three changes of rank 2, `<n>.up` and `<n>.down` with the scale in `up`, and `<n>.delta`, their product. For each density:
`<density>.magnitude` and `<density>.ties`; `<density>.drawn.<n>`, what PEFT's random pruning left of each change and
rescaled; `<density>.dare` and `<density>.dare-ties`, which PEFT made of exactly those. The JSON in the metadata has the
weights and the densities.
"""

import json
import sys

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, magnitude_prune, random_pruning, ties
from safetensors.torch import save_file

OUT, IN, RANK = 12, 10, 2
WEIGHTS = [1.0, 0.6, -0.4]
DENSITIES = [0.2, 0.5, 0.85]


def check_gap(delta, density):
    """Which entries are the largest must not hang on rounding."""
    sizes = delta.abs().flatten().sort(descending=True).values
    count = int(density * sizes.numel())
    assert sizes[count - 1] - sizes[count] > 1e-4 * sizes[0], (density, sizes[count - 1], sizes[count])


def main(out):
    torch.manual_seed(11)
    torch.set_num_threads(1)
    tensors, deltas = {}, []
    for n in range(len(WEIGHTS)):
        up, down = torch.randn(OUT, RANK), torch.randn(RANK, IN)
        deltas.append(up @ down)
        tensors |= {f"{n}.up": up, f"{n}.down": down, f"{n}.delta": deltas[-1]}
    weights = torch.tensor(WEIGHTS)
    for density in DENSITIES:
        for delta in deltas:
            check_gap(delta, density)
        tensors[f"{density}.magnitude"] = magnitude_prune(deltas, weights, density)
        tensors[f"{density}.ties"] = ties(deltas, weights, density)
        # The same seed before each, so that all three draw the same entries.
        torch.manual_seed(12)
        for n, delta in enumerate(deltas):
            tensors[f"{density}.drawn.{n}"] = random_pruning(delta, density, rescale=True)
        torch.manual_seed(12)
        tensors[f"{density}.dare"] = dare_linear(deltas, weights, density)
        torch.manual_seed(12)
        tensors[f"{density}.dare-ties"] = dare_ties(deltas, weights, density)
    facts = json.dumps({"weights": WEIGHTS, "densities": DENSITIES})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out, {"facts": facts})


if __name__ == "__main__":
    main(*sys.argv[1:])
