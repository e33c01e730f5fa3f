"""Makes tests/fixtures/traces/objectives.json: first steps of training under every objective, by PyTorch.

    python tools/goldens/objectives.py tests/fixtures

Needs diffusers (0.42), transformers and torch. Latents, noise, timesteps and token ids are those of
traces/tiny-sd1.full.safetensors. For each objective the file holds the fields that a trace is told it by, the loss and the
length of the gradient of all weights of the UNet in two steps of plain gradient descent with rate 0.01. Masks and perturbed
noise are made by formulas that crates/scumble-train/tests/traces.rs repeats.
"""
import json
import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel

torch.set_num_threads(1)
fixtures = Path(sys.argv[1])
base = fixtures / "tiny-sd1"
inputs = load_file(fixtures / "traces/tiny-sd1.full.safetensors")
encoder = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32)
schedule = DDPMScheduler.from_pretrained(base / "scheduler")
alphas = schedule.alphas_cumprod

CASES = {
    "min_snr": dict(min_snr_gamma=5.0),
    "min_snr_v": dict(min_snr_gamma=5.0, prediction_type="v_prediction"),
    "debiased": dict(debiased_estimation=True),
    "debiased_v": dict(debiased_estimation=True, prediction_type="v_prediction"),
    "scaled_v": dict(scale_v_pred_loss_like_noise_pred=True, prediction_type="v_prediction"),
    "huber_constant": dict(loss_type="huber", huber_c=0.2, huber_schedule="constant"),
    "huber_exponential": dict(loss_type="huber", huber_schedule="exponential"),
    "huber_snr": dict(loss_type="huber", huber_schedule="snr"),
    "smooth_l1_snr": dict(loss_type="smooth_l1", huber_schedule="snr"),
    "prior": dict(prior_loss_weight=0.7),
    "masked": dict(mask_temperature=1.5),
    "perturbed": dict(perturbed=True),
}


def mask_image(step):
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    first = ((x + 2 * y + 7 * step) % 100) / 99
    second = ((x >= 40) & (y < 90)).float()
    return torch.stack([first, second])[:, None]


def huber_c(spec, timesteps):
    c = spec.get("huber_c", 0.1)
    if spec["huber_schedule"] == "constant":
        return torch.full((len(timesteps),), c)
    if spec["huber_schedule"] == "exponential":
        return torch.exp(torch.log(torch.tensor(c)) * timesteps / 1000)
    a = alphas[timesteps]
    sigmas = ((1 - a) / a) ** 0.5
    return (1 - c) / (1 + sigmas) ** 2 + c


def loss_of(spec, step, unet):
    latents, noise, timesteps = inputs["latents"][step], inputs["noise"][step], inputs["timesteps"][step]
    seen = noise
    if spec.get("perturbed"):
        n = torch.arange(noise.numel(), dtype=torch.float64).reshape(noise.shape)
        seen = noise + (0.1 * torch.sin(0.37 * n + step)).float()
    with torch.no_grad():
        text = encoder(inputs["input_ids"][step]).last_hidden_state
    pred = unet(schedule.add_noise(latents, seen, timesteps), timesteps, text).sample
    velocity = spec.get("prediction_type") == "v_prediction"
    target = schedule.get_velocity(latents, noise, timesteps) if velocity else noise
    d = pred - target
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    weight = torch.ones(len(timesteps))
    if "min_snr_gamma" in spec:
        capped = torch.minimum(snr, torch.tensor(spec["min_snr_gamma"]))
        weight = capped / (snr + 1) if velocity else capped / snr
    bounded = torch.minimum(snr, torch.tensor(1000.0))
    if spec.get("debiased_estimation"):
        weight = 1 / (bounded + 1) if velocity else 1 / bounded.sqrt()
    if spec.get("scale_v_pred_loss_like_noise_pred"):
        weight = bounded / (bounded + 1)
    if "mask_temperature" in spec:
        mask = (mask_image(step)[:, :, ::8, ::8] + 0.01) ** spec["mask_temperature"]
        d = d * (mask / mask.max())
    if "loss_type" in spec:
        c = huber_c(spec, timesteps).view(-1, 1, 1, 1)
        d = 2 * ((d * d + c * c).sqrt() - c) * (c if spec["loss_type"] == "huber" else 1)
    else:
        d = d * d
    each = d.mean(dim=(1, 2, 3)) * weight
    if "prior_loss_weight" in spec:
        half = len(each) // 2
        return each[:half].mean() + spec["prior_loss_weight"] * each[half:].mean()
    return each.mean()


out = {}
for name, spec in CASES.items():
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
    losses, norms = [], []
    for step in range(2):
        loss = loss_of(spec, step, unet)
        unet.zero_grad()
        loss.backward()
        grads = [p.grad for p in unet.parameters() if p.grad is not None]
        norms.append(float(torch.sqrt(sum((g.double() ** 2).sum() for g in grads))))
        losses.append(float(loss))
        with torch.no_grad():
            for p in unet.parameters():
                p -= 0.01 * p.grad
    out[name] = {"spec": spec, "loss": losses, "grad_norm": norms}
(fixtures / "traces/objectives.json").write_text(json.dumps(out, indent=1) + "\n")
