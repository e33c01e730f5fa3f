"""Writes a full-size Stable Diffusion 1.5 folder of random f16 weights, and random LoRAs for it, to measure with.

    python tools/random_sd15.py FOLDER RANK...   # FOLDER/model (2.1 GB), FOLDER/rankRANK.safetensors for each rank

Needs torch, diffusers, transformers and safetensors. Nothing is downloaded: the configurations are written out here.
"""

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

UNET = {
    "sample_size": 64, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 768,
    "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE = {
    "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "block_out_channels": [128, 256, 512, 512], "sample_size": 512,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "projection_dim": 768,
}
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
           "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def fill(shape, generator):
    return torch.empty(shape, dtype=torch.float32).normal_(0, 0.02, generator=generator).half().contiguous()


def add_factors(adapter, module, shape, rank, generator):
    out, *rest = shape
    adapter[f"{module}.lora_A.weight"] = fill([rank, *rest], generator)
    adapter[f"{module}.lora_B.weight"] = fill([out, rank, *[1] * (len(rest) - 1)], generator)


def main():
    folder, ranks = Path(sys.argv[1]), [int(rank) for rank in sys.argv[2:]]
    generators = {rank: torch.Generator().manual_seed(1 + rank) for rank in ranks}
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        parts = {
            "unet": ("diffusion_pytorch_model", UNET, UNet2DConditionModel(**UNET)),
            "vae": ("diffusion_pytorch_model", VAE, AutoencoderKL(**VAE)),
            "text_encoder": ("model", TEXT, CLIPTextModel(CLIPTextConfig(**TEXT))),
        }
    adapters = {rank: {} for rank in ranks}
    for part, (stem, config, model) in parts.items():
        place = folder / "model" / part
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.json").write_text(json.dumps(config))
        tensors = {}
        for name, tensor in model.state_dict().items():
            if part == "text_encoder" and not name.startswith("text_model."):
                name = f"text_model.{name}"
            if name.endswith("position_ids"):
                continue
            tensors[name] = fill(tensor.shape, generator)
            module = name.removesuffix(".weight")
            inside = part != "vae" and (".attentions." in name or ".layers." in name)
            if inside and name.endswith(".weight") and any(module.endswith("." + end) for end in ADAPTED):
                for rank, adapter in adapters.items():
                    add_factors(adapter, f"{part}.{module}", tensor.shape, rank, generators[rank])
        save_file(tensors, place / f"{stem}.safetensors", {"format": "pt"})
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
             "vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (folder / "model" / "model_index.json").write_text(json.dumps(index))
    for rank, adapter in adapters.items():
        save_file(adapter, folder / f"rank{rank}.safetensors", {"format": "pt"})


main()
