"""Extraction as the original LoRA tool does it: the full SVD of tuned minus base, layer by layer, with torch.

    python tools/peers/extract.py BASE TUNED --rank 4       # diffusers folders; the layers of --targets attention+ff
"""
import argparse
import json
import time
from pathlib import Path

import torch
from safetensors import safe_open

ENDS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "q_proj", "k_proj", "v_proj", "out_proj")
PARTS = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}

parser = argparse.ArgumentParser()
parser.add_argument("base", type=Path)
parser.add_argument("tuned", type=Path)
parser.add_argument("--rank", type=int, default=4)
parser.add_argument("--thin", action="store_true", help="full_matrices=False, which the original does not pass")
args = parser.parse_args()

start = time.perf_counter()
modules = 0
for part, stem in PARTS.items():
    files = [safe_open(folder / part / f"{stem}.safetensors", "pt") for folder in (args.base, args.tuned)]
    for name in files[0].keys():
        module = name.removesuffix(".weight")
        inside = ".transformer_blocks." in name or ".layers." in name
        if name == module or not inside or not module.endswith(ENDS):
            continue
        base, tuned = (file.get_tensor(name).float() for file in files)
        left, values, right = torch.linalg.svd(tuned - base, full_matrices=not args.thin)
        up = left[:, : args.rank] @ torch.diag(values[: args.rank])
        down = right[: args.rank]
        modules += 1
seconds = time.perf_counter() - start
print(json.dumps(dict(torch=torch.__version__, threads=torch.get_num_threads(), modules=modules,
                      extract_s=round(seconds, 2))))
