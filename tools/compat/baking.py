"""Compares `scumble merge --base` with diffusers' `load_lora_weights` and `fuse_lora`, weight by weight and picture by
picture, on a small model.

    python tools/compat/baking.py SCUMBLE MODEL_FOLDER LORA_FOLDER

Needs torch, diffusers, transformers, peft and safetensors. Prints one line a file; exits with 1 if anything differs.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

STRENGTH = 0.75
FILES = ["kohya.safetensors", "peft.safetensors", "diffusers_old.safetensors"]


def paint(pipe):
    torch.manual_seed(0)
    return pipe("a photo of a red dog", num_inference_steps=4, height=128, width=128, output_type="np",
                generator=torch.Generator().manual_seed(1)).images[0]


def load(folder):
    return StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, safety_checker=None)


def weights(pipe):
    found = {}
    for part in ("unet", "text_encoder"):
        for name, tensor in getattr(pipe, part).state_dict().items():
            name = name.replace(".base_layer", "")
            if "lora_" not in name:
                found[f"{part}.{name}"] = tensor.float()
    return found


def main():
    scumble, model, loras = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers", "peft")))
    plain, failed = paint(load(model)), False
    for file in FILES:
        pipe = load(model)
        pipe.load_lora_weights(loras, weight_name=file)
        pipe.fuse_lora(lora_scale=STRENGTH)
        theirs, their_picture = weights(pipe), paint(pipe)
        with tempfile.TemporaryDirectory() as folder:
            for out in ("baked", "baked.safetensors"):
                subprocess.run([scumble, "-q", "merge", "--base", model, f"{loras / file}:{STRENGTH}", "--dtype", "f32",
                                "-o", f"{folder}/{out}"], check=True, stdout=subprocess.DEVNULL)
            ours = load(f"{folder}/baked")
            our_weights, our_picture = weights(ours), paint(ours)
            single = StableDiffusionPipeline.from_single_file(
                f"{folder}/baked.safetensors", config=model, torch_dtype=torch.float32, safety_checker=None,
                local_files_only=True)
            single_off = max((single.unet.state_dict()[name] - tensor).abs().max().item()
                             for name, tensor in ours.unet.state_dict().items())
        assert our_weights.keys() == theirs.keys(), our_weights.keys() ^ theirs.keys()
        off = max((our_weights[name] - theirs[name]).abs().max().item() for name in theirs)
        picture = abs(our_picture - their_picture).max()
        moved = abs(our_picture - plain).max()
        wrong = off > 1e-5 or picture > 1e-3 or moved < 0.05 or single_off != 0.0
        failed |= wrong
        print(f"{file}: weights differ by at most {off:.1e}, pictures by {picture:.1e} (the adapter moves them by {moved:.2f});"
              f" single file and folder by {single_off:.1e}{'  <- WRONG' if wrong else ''}")

    with tempfile.TemporaryDirectory() as folder:
        file = loras / "cloneofsimo.safetensors"
        subprocess.run([scumble, "-q", "merge", "--base", model, file, "-o", f"{folder}/tokens"], check=True,
                       stdout=subprocess.DEVNULL)
        subprocess.run([scumble, "-q", "merge", "--base", model, file, "-o", f"{folder}/tokens.ckpt"], check=True,
                       stdout=subprocess.DEVNULL)
        pipe = load(f"{folder}/tokens")
        ids = pipe.tokenizer("a photo of <s1><s2>").input_ids
        rows = load_file(file)
        table = pipe.text_encoder.get_input_embeddings().weight
        for token in ("<s1>", "<s2>"):
            number = pipe.tokenizer.convert_tokens_to_ids(token)
            off = (table[number] - rows[token].half().float()).abs().max().item()
            failed |= off != 0.0 or number not in ids
            print(f"{token}: id {number}, {'in' if number in ids else 'NOT IN'} {ids}, row off by {off:.1e}")
        pipe = load(model)
        pipe.load_textual_inversion(f"{folder}/tokens.s1.pt", token="<s1>")
        number = pipe.tokenizer.convert_tokens_to_ids("<s1>")
        off = (pipe.text_encoder.get_input_embeddings().weight[number] - rows["<s1>"]).abs().max().item()
        failed |= off != 0.0
        print(f"tokens.s1.pt through load_textual_inversion: row off by {off:.1e}")
    sys.exit(int(failed))


main()
