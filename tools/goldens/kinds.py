"""Adapter kinds as PEFT computes them: factors, prediction and gradients on the tiny SD1 UNet.

    python tools/goldens/kinds.py tests/fixtures/tiny-sd1 tests/fixtures/kinds.safetensors

Inputs `sample`, `timesteps`, `states`, `g`. For each case `<case>.<module>.<part>` (PEFT's tensors under our names of the
parts), `<case>.out`, and `<case>.grad.<module>.<part>` = gradients of sum(out * g). `pissa.<module>.product` is the product
of the factors that PEFT begins with, the scale multiplied in. The JSON in the metadata has each case's rank and alpha.
"""

import json
import sys

import torch
from diffusers import UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file

LINEAR = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
POINT = "down_blocks.0.attentions.0.proj_in"
CONV = "down_blocks.0.resnets.0.conv1"
STRIDED = "down_blocks.0.downsamplers.0.conv"
ALL = [LINEAR, POINT, CONV, STRIDED]

PARTS = {
    "lora_A": "down", "lora_B": "up", "lora_magnitude_vector": "magnitude",
    "hada_w1_a": "w1_a", "hada_w1_b": "w1_b", "hada_w2_a": "w2_a", "hada_w2_b": "w2_b",
    "lokr_w1": "w1", "lokr_w1_a": "w1_a", "lokr_w1_b": "w1_b",
    "lokr_w2": "w2", "lokr_w2_a": "w2_a", "lokr_w2_b": "w2_b",
}

# Name, configuration, rank, alpha as the files have it (rsLoRA: alpha * sqrt(r)).
CASES = [
    ("dora", LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=ALL), 2, 3.0),
    ("rslora", LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=[LINEAR]), 4, 6.0),
    ("loha", LoHaConfig(r=2, alpha=3, init_weights=False, target_modules=ALL), 2, 3.0),
    ("loha_dense", LoHaConfig(r=8, alpha=3, init_weights=False, target_modules=[POINT]), 8, 3.0),
    ("lokr", LoKrConfig(r=2, alpha=3, init_weights=False, target_modules=ALL), 2, 3.0),
    # With both matrices whole PEFT multiplies with alpha / r and LyCORIS with 1: the same where they are equal.
    ("lokr_whole", LoKrConfig(r=64, alpha=64, init_weights=False, target_modules=ALL), 64, 64.0),
    (
        "lokr_both",
        LoKrConfig(r=1, alpha=2, init_weights=False, decompose_both=True, decompose_factor=4, target_modules=ALL),
        1, 2.0,
    ),
]


def load(folder):
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=torch.float32)
    return unet.requires_grad_(False).eval()


def named(unet):
    """`module.part` and parameter of every factor."""
    for name, param in unet.named_parameters():
        for key, part in PARTS.items():
            module, found, rest = name.partition(f".{key}.")
            if found and rest in ("default", "default.weight"):
                yield f"{module}.{part}", param


def main(folder, out):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tensors = {
        "sample": torch.randn(1, 4, 16, 16),
        "timesteps": torch.tensor([417]),
        "states": torch.randn(1, 9, 48),
        "g": torch.randn(1, 4, 16, 16),
    }
    facts = {}
    for case, config, rank, alpha in CASES:
        torch.manual_seed(1)
        unet = inject_adapter_in_model(config, load(folder))
        for name, param in named(unet):
            part = name.rsplit(".", 1)[1]
            with torch.no_grad():
                if part == "up":
                    param.copy_(0.2 * torch.randn_like(param))
                elif part == "magnitude":
                    param.mul_(1 + 0.2 * torch.randn_like(param))
                elif case.startswith(("loha", "lokr")):
                    param.copy_(0.4 * torch.randn_like(param))
            param.requires_grad_(True)
        # PEFT drops nothing while it is not in training mode.
        prediction = unet(tensors["sample"], tensors["timesteps"], tensors["states"]).sample
        (prediction * tensors["g"]).sum().backward()
        tensors[f"{case}.out"] = prediction.detach()
        for name, param in named(unet):
            tensors[f"{case}.{name}"] = param.detach().clone()
            tensors[f"{case}.grad.{name}"] = param.grad.clone()
        facts[case] = {"rank": rank, "alpha": alpha}

    config = LoraConfig(r=4, lora_alpha=2, init_lora_weights="pissa", target_modules=[LINEAR])
    layer = dict(inject_adapter_in_model(config, load(folder)).named_modules())[LINEAR]
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    tensors[f"pissa.{LINEAR}.product"] = (layer.scaling["default"] * product).detach()
    facts["pissa"] = {"rank": 4, "alpha": 2.0}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, out, metadata={"cases": json.dumps(facts)})


main(*sys.argv[1:])
