"""Makes tests/fixtures/painting.safetensors: image to image and inpainting by diffusers' pipelines.

    python tools/goldens/painting.py tests/fixtures

Needs diffusers (0.42), transformers and torch. Of each run the final latents are kept. The picture, the mask and the
base for inpainting (tiny-sd1 whose first convolution has five more channels) are made by formulas that
crates/scumble-model/tests/golden/painting.rs repeats. tiny-sd1's prompt states are kept too, so that the test needs no
tokenizer.
"""
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler,
                       HeunDiscreteScheduler, PNDMScheduler, StableDiffusionImg2ImgPipeline,
                       StableDiffusionInpaintPipeline, UNet2DConditionModel)
from PIL import Image
from safetensors.torch import load_file, save_file

fixtures = Path(sys.argv[1])
base = fixtures / "tiny-sd1"
text = load_file(fixtures / "tiny-sd1/expected/text.safetensors")["last_hidden_state"].float()
prompt, negative = text[1:2], text[0:1]

y, x = np.mgrid[0:64, 0:64]
picture = np.stack([(5 * x + 3 * y) % 256, (x * x + y) % 256, (y * y + 2 * x) % 256], axis=-1).astype(np.uint8)
mask = (((x >= 20) & (y >= 12)) * 255).astype(np.uint8)
picture, mask = Image.fromarray(picture), Image.fromarray(mask)

vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)


def unet(inpainting):
    model = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=torch.float32)
    if inpainting:
        weight = model.conv_in.weight.data
        wide = torch.nn.Conv2d(9, weight.shape[0], 3, padding=1)
        wide.weight.data = torch.cat([weight, 0.5 * weight[:, :1], 0.25 * weight], dim=1)
        wide.bias.data = model.conv_in.bias.data
        model.conv_in = wide
        model.register_to_config(in_channels=9)
    return model


SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "pndm": PNDMScheduler,
              "heun": HeunDiscreteScheduler, "dpmpp_2m_sde": DPMSolverMultistepScheduler}
SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
          set_alpha_to_one=False, skip_prk_steps=True, timestep_spacing="leading")
out = {"prompt": prompt.contiguous(), "negative": negative.contiguous()}


def run(name, scheduler, kind, inpainting=False, strength=0.6, steps=7, guidance=4.0):
    config = {**SD, "algorithm_type": "sde-dpmsolver++"} if scheduler == "dpmpp_2m_sde" else SD
    parts = dict(vae=vae, text_encoder=None, tokenizer=None, unet=unet(inpainting),
                 scheduler=SCHEDULERS[scheduler].from_config(config), safety_checker=None, feature_extractor=None,
                 requires_safety_checker=False)
    pipeline = kind(**parts)
    pipeline.set_progress_bar_config(disable=True)
    extra = {"mask_image": mask} if kind is StableDiffusionInpaintPipeline else {}
    if extra:
        extra |= dict(height=64, width=64)
    result = pipeline(image=picture, prompt_embeds=prompt, negative_prompt_embeds=negative, strength=strength,
                      num_inference_steps=steps, guidance_scale=guidance, output_type="latent",
                      generator=torch.Generator().manual_seed(11), **extra).images
    out[name] = result.detach().contiguous()
    print(name, float(result.abs().mean()))


with torch.no_grad():
    for scheduler in SCHEDULERS:
        run(f"img2img.{scheduler}", scheduler, StableDiffusionImg2ImgPipeline)
    run("img2img.ddim.weak", "ddim", StableDiffusionImg2ImgPipeline, strength=0.3)
    for scheduler in ("ddim", "euler", "heun", "dpmpp_2m_sde"):
        run(f"inpaint.{scheduler}", scheduler, StableDiffusionInpaintPipeline)
    run("inpaint.euler.full", "euler", StableDiffusionInpaintPipeline, strength=1.0)
    run("inpaint.euler.unguided", "euler", StableDiffusionInpaintPipeline, guidance=1.0)
    run("channels.ddim", "ddim", StableDiffusionInpaintPipeline, inpainting=True)
    run("channels.euler.full", "euler", StableDiffusionInpaintPipeline, inpainting=True, strength=1.0)
save_file(out, fixtures / "painting.safetensors")
