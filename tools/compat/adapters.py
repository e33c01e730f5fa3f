"""Do diffusers and PEFT read the adapter files that scumble writes, and do they do the same?

    python tools/compat/adapters.py [path of the rewrite example]

Needs torch, diffusers, transformers and peft, and `cargo build -p scumble-adapter --example rewrite`. Every fixture
adapter is rewritten by scumble as kohya and as PEFT, loaded with diffusers' `load_lora_weights` onto the tiny base and
run at strengths 1.0 and 0.5; the outputs must be those recorded in the fixtures (1e-4 of their rms). So must those of
the adapter with convolutions. Mixed ranks and alphas are compared with the factors multiplied out by hand, the two
hashes with sd-scripts' definition.
"""

import hashlib
import io
import pathlib
import subprocess
import sys
import tempfile

import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures"
REWRITE = sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/examples/rewrite"
BASE = FIXTURES / "tiny-sd1"


def pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(BASE, safety_checker=None, torch_dtype=torch.float32)
    return pipe.to("cpu")


@torch.no_grad()
def outputs(pipe, golden, states=None):
    text = pipe.text_encoder(golden["input_ids"])[0]
    states = text if states is None else states
    return text, pipe.unet(golden["sample"], golden["timesteps"], states).sample


def off(found, expected):
    return float((found - expected).abs().max() / expected.pow(2).mean().sqrt())


def check(what, found, expected, bound=1e-4):
    error = off(found, expected)
    print(f"{what}: {error:.1e}")
    assert error <= bound, what


def rewrite(source, dialect, target):
    subprocess.run([REWRITE, BASE, source, dialect, target], check=True, stdout=subprocess.DEVNULL)


def recorded(folder, golden):
    for name in ["cloneofsimo.safetensors", "kohya.safetensors", "peft.safetensors"]:
        for dialect in ["kohya", "peft"]:
            target = folder / f"{dialect}.safetensors"
            rewrite(FIXTURES / "lora" / name, dialect, target)
            pipe = pipeline()
            pipe.load_lora_weights(target, adapter_name="a")
            for scale in ["1.0", "0.5"]:
                pipe.set_adapters(["a"], [float(scale)])
                text, noise = outputs(pipe, golden)
                check(f"{name} as {dialect} at {scale}, text", text, golden[f"scale{scale}.text"])
                check(f"{name} as {dialect} at {scale}, unet", noise, golden[f"scale{scale}.unet_lora_text"])


def extended(folder, golden):
    for dialect in ["kohya", "peft"]:
        target = folder / f"extended_{dialect}.safetensors"
        rewrite(FIXTURES / "lora/cloneofsimo_extended.safetensors", dialect, target)
        pipe = pipeline()
        pipe.load_lora_weights(target)
        _, noise = outputs(pipe, golden, golden["base_text"])
        check(f"extended as {dialect}", noise, golden["extended_scale1.0.unet_base_text"])


def mixed(folder, golden):
    """Ranks and alphas that differ from module to module, through both dialects."""
    torch.manual_seed(1)
    pipe, tensors = pipeline(), {}
    names = [n for n, _ in pipe.unet.named_modules() if n.endswith(("attn2.to_k", "ff.net.2", "proj_in"))]
    for index, name in enumerate(names):
        module, rank, alpha = pipe.unet.get_submodule(name), 1 + index % 3, float([1, 2.5, 7][index % 2])
        weight = module.weight
        down = torch.randn(rank, *weight.shape[1:])
        up = torch.randn(weight.shape[0], rank, *([1] * (weight.dim() - 2))) * 0.05
        flat = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(alpha)}
        with torch.no_grad():
            weight += (up.flatten(1) @ down.flatten(1)).reshape(weight.shape) * alpha / rank
    _, expected = outputs(pipe, golden, golden["base_text"])
    save_file(tensors, folder / "mixed.safetensors")
    # diffusers 0.42 loses alphas of kohya files when both ranks and alphas differ between modules (with the file made
    # above, before scumble touches it, 8 of 48 scales are wrong), so that dialect is compared tensor by tensor.
    rewrite(folder / "mixed.safetensors", "kohya", folder / "mixed_kohya.safetensors")
    written = load_file(folder / "mixed_kohya.safetensors")
    assert written.keys() == tensors.keys() and all(torch.equal(written[k], tensors[k]) for k in tensors)
    target = folder / "mixed_peft.safetensors"
    rewrite(folder / "mixed_kohya.safetensors", "peft", target)
    pipe = pipeline()
    pipe.load_lora_weights(target)
    _, noise = outputs(pipe, golden, golden["base_text"])
    check("mixed ranks and alphas as peft", noise, expected)


def hashes(folder):
    """`sshs_*` as sd-scripts computes them: over the image of the file with its `ss_*` metadata only."""
    torch.manual_seed(2)
    small = load_file(FIXTURES / "lora/kohya.safetensors")
    # A rank that brings the file beyond 1 MiB, where the legacy hash begins to say something.
    large = {}
    for key, value in small.items():
        rank_axis = 0 if key.endswith("lora_down.weight") else 1
        large[key] = value if value.dim() == 0 else torch.cat([value] * 6, rank_axis) + torch.randn(1)
    for name, tensors in [("small", small), ("large", large)]:
        source, target = folder / f"{name}_in.safetensors", folder / f"{name}.safetensors"
        save_file(tensors, source, {"ss_output_name": "x"})
        rewrite(source, "kohya", target)
        with safe_open(target, "pt") as file:
            metadata = file.metadata()
            kept = {key: file.get_tensor(key) for key in file.keys()}
        image = io.BytesIO(save(kept, {k: v for k, v in metadata.items() if k.startswith("ss_")}))
        header = 8 + int.from_bytes(image.read(8), "little")
        image.seek(header)
        assert hashlib.sha256(image.read()).hexdigest() == metadata["sshs_model_hash"], name
        image.seek(0x100000)
        assert hashlib.sha256(image.read(0x10000)).hexdigest()[:8] == metadata["sshs_legacy_hash"], name
        print(f"hashes of the {name} file: {metadata['sshs_model_hash'][:12]} {metadata['sshs_legacy_hash']}")


def main():
    golden = load_file(FIXTURES / "lora/lora_expected.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        recorded(folder, golden)
        extended(folder, golden)
        mixed(folder, golden)
        hashes(folder)
    print("all equal")


main()
