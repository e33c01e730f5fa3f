"""Golden numbers of models with unusual configurations, computed by diffusers and transformers on the CPU in f64.

    python tools/goldens/configurations.py tests/fixtures/configurations

Each folder gets `config.json`, `weights.safetensors` (f16; the numbers start from what f16 keeps) and
`expected.safetensors` (f32) in the key layout of the other fixtures. The sizes are small and odd on purpose: heads that do
not divide the channels, other layer counts, kernels, paddings and epsilons, latents that no power of two divides.
Last run with torch 2.15.0, diffusers 0.42.1, transformers 5.23.0, safetensors 0.8.0.
"""

import json
import math
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

ATTENTION = ["CrossAttnDownBlock2D", "CrossAttnUpBlock2D"]
PLAIN = ["DownBlock2D", "UpBlock2D"]


def blocks(*levels):
    """Block types from the finest level to the coarsest, both ways."""
    return {"down_block_types": [down for down, _ in levels], "up_block_types": [up for _, up in reversed(levels)]}


UNETS = {
    # Two levels, three heads over 20 channels (the inside of the transformer is 18 wide), every scalar unusual.
    "unet-two-levels": dict(
        config=dict(
            in_channels=5, out_channels=3, block_out_channels=[12, 20], norm_num_groups=4, layers_per_block=[1, 2],
            attention_head_dim=3, cross_attention_dim=10, norm_eps=1e-3, mid_block_scale_factor=1.5,
            flip_sin_to_cos=False, freq_shift=1, time_embedding_dim=24, conv_in_kernel=1, conv_out_kernel=5,
            **blocks(ATTENTION, ATTENTION),
        ),
        latents=[(3, 3, 7)], tokens=9,
    ),
    # Three levels as in SD2, heads and transformer layers per level, linear projections, one-sided padding.
    "unet-three-levels": dict(
        config=dict(
            block_out_channels=[8, 16, 16], norm_num_groups=4, layers_per_block=1, attention_head_dim=[2, 4, 1],
            transformer_layers_per_block=[1, 2, 1], use_linear_projection=True, cross_attention_dim=[6, 6, 6],
            downsample_padding=0, upcast_attention=True, **blocks(PLAIN, ATTENTION, ATTENTION),
        ),
        latents=[(2, 4, 12), (1, 8, 12)], tokens=77,
    ),
    # Pooled text and picture sizes as in SDXL.
    "unet-text-time": dict(
        config=dict(
            block_out_channels=[8, 16], norm_num_groups=2, layers_per_block=1, attention_head_dim=[1, 2],
            transformer_layers_per_block=[1, 2], use_linear_projection=True, cross_attention_dim=14,
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=34,
            **blocks(PLAIN, ATTENTION),
        ),
        latents=[(2, 5, 5)], tokens=7,
    ),
}


def randn(*sizes, generator):
    """Values that f32 holds exactly, as f64."""
    return torch.randn(*sizes, generator=generator).double()


def randomise(model, generator):
    """Weights that make every tensor matter, rounded to f16."""
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                value = noise * 1.3 / math.sqrt(parameter[0].numel())
            else:
                value = 0.2 * noise + (1.0 if parameter.mean() == 1 else 0.0)
            parameter.copy_(value.half().float())
    return model.eval().double()


def save(folder, config, model, expected, rename=lambda name: name):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    weights = {rename(name): value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    expected = {name: value.float() if value.is_floating_point() else value for name, value in expected.items()}
    save_file({name: value.contiguous() for name, value in expected.items()}, folder / "expected.safetensors")


def unet(folder, spec):
    generator = torch.Generator().manual_seed(11)
    model = randomise(UNet2DConditionModel(**spec["config"]), generator)
    expected = {}
    for case, (n, height, width) in enumerate(spec["latents"]):
        context = model.config.cross_attention_dim
        context = context[0] if isinstance(context, (list, tuple)) else context
        sample = randn(n, model.config.in_channels, height, width, generator=generator).requires_grad_()
        states = randn(n, spec["tokens"], context, generator=generator).requires_grad_()
        timesteps = torch.randint(0, 1000, (n,), generator=generator)
        inputs = {"sample": sample, "timesteps": timesteps, "encoder_hidden_states": states}
        added = None
        if model.config.addition_embed_type == "text_time":
            width_of_text = spec["config"]["projection_class_embeddings_input_dim"] - 6 * 4
            added = {"text_embeds": randn(n, width_of_text, generator=generator)}
            added["time_ids"] = torch.tensor([[64.0, 48.0, 3.0, 0.0, 40.0, 40.0]] * n)
            inputs |= added
        out = model(sample, timesteps, states, added_cond_kwargs=added).sample
        g = randn(*out.shape, generator=generator)
        model.zero_grad()
        (out * g).sum().backward()
        outputs = {"out": out, "g": g, "grad_sample": sample.grad, "grad_encoder_hidden_states": states.grad}
        expected |= {f"{case}.{name}": value.detach() for name, value in (inputs | outputs).items()}
        for name, parameter in model.named_parameters():
            expected[f"{case}.grad_norm.{name}"] = parameter.grad.norm()
    save(folder, spec["config"], model, expected)


def text_encoder(folder):
    """A text encoder with an end token that means what it says, a projection, and no `text_model.` before its names."""
    config = dict(
        vocab_size=40, hidden_size=24, intermediate_size=36, projection_dim=10, num_hidden_layers=2,
        num_attention_heads=3, max_position_embeddings=12, hidden_act="gelu", layer_norm_eps=1e-3,
        bos_token_id=16, eos_token_id=17, pad_token_id=17,
    )
    generator = torch.Generator().manual_seed(12)
    model = randomise(CLIPTextModelWithProjection(CLIPTextConfig(**config)), generator)
    ids = torch.tensor([[16, 3, 39, 17, 17, 17, 17, 17, 17], [16, 1, 2, 38, 5, 6, 7, 8, 17]])
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        norm = model.text_model.final_layer_norm
        expected = {
            "input_ids": ids,
            "embeddings": out.hidden_states[0],
            "penultimate": out.hidden_states[-2],
            "last_hidden_state": out.last_hidden_state,
            "text_embeds": out.text_embeds,
            "clip_skip_1": norm(out.hidden_states[-2]),
            "clip_skip_2": norm(out.hidden_states[-3]),
        }
    save(folder, config, model, expected, lambda name: name.removeprefix("text_model."))


def vae(folder):
    """A VAE without quant convolutions and mid attention, three latent channels, one layer."""
    config = dict(
        block_out_channels=[8, 12], norm_num_groups=4, layers_per_block=1, latent_channels=3, use_quant_conv=False,
        use_post_quant_conv=False, mid_block_add_attention=False, scaling_factor=0.5,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )
    generator = torch.Generator().manual_seed(13)
    model = randomise(AutoencoderKL(**config), generator)
    image = torch.rand(2, 3, 9, 14, generator=generator).double() * 2 - 1
    latent = randn(1, 3, 3, 5, generator=generator)
    with torch.no_grad():
        posterior = model.encode(image).latent_dist
        expected = {
            "image": image, "mean": posterior.mean, "logvar": posterior.logvar,
            "latent": latent, "decoded": model.decode(latent).sample,
        }
    save(folder, config, model, expected)


def main():
    torch.set_num_threads(1)
    root = Path(sys.argv[1])
    for name, spec in UNETS.items():
        unet(root / name, spec)
    text_encoder(root / "text-encoder")
    vae(root / "vae")


if __name__ == "__main__":
    main()
