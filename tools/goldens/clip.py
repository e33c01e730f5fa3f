"""Makes tests/fixtures/tiny-clip: a random CLIPModel in transformers' layout and what transformers computes with it.

Run with torch, transformers and safetensors installed: python tools/goldens/clip.py tests/fixtures/tiny-clip
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

torch.manual_seed(11)
torch.set_num_threads(1)
config = CLIPConfig(
    projection_dim=12,
    text_config=dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                     max_position_embeddings=9, bos_token_id=38, eos_token_id=39, hidden_act="quick_gelu"),
    vision_config=dict(image_size=12, patch_size=4, hidden_size=20, intermediate_size=28, num_hidden_layers=2,
                       num_attention_heads=5, hidden_act="gelu"),
)
model = CLIPModel(config).eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        if name == "logit_scale":
            continue
        norm = "norm" in name or "layrnorm" in name
        weight.copy_(torch.randn_like(weight) * 0.3 + (1.0 if norm and name.endswith("weight") else 0.0))
        weight.copy_(weight.half().float())
    ids = torch.tensor([[38, 3, 7, 21, 39, 39, 39, 39, 39], [38, 5, 5, 2, 9, 30, 17, 1, 39]])
    pixels = torch.randn(3, 3, 12, 12)
    out = model(input_ids=ids, pixel_values=pixels)
    text = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    vision = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.json").write_text(json.dumps(config.to_dict(), indent=1, sort_keys=True, default=str) + "\n")
weights = {name: value.half().contiguous() for name, value in model.state_dict().items() if "position_ids" not in name}
weights["logit_scale"] = model.logit_scale.detach()
save_file(weights, folder / "model.safetensors")
save_file({"input_ids": ids, "pixel_values": pixels, "text": text.contiguous(), "vision": vision.contiguous(),
           "logits_per_image": out.logits_per_image.contiguous()}, folder / "expected.safetensors")
