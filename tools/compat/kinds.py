"""Do LyCORIS and PEFT read the kinds of adapters that scumble trains, does scumble read those of LyCORIS, and do they paint
the same?

    python tools/compat/kinds.py [path of scumble]

Needs what `pictures.py` needs, and `pip install lycoris-lora`. Each kind is trained for a few updates on the tiny base, on
UNet (convolutions too, where the kind has them) and text encoder, written for kohya's readers and read by LyCORIS; DoRA is
read by diffusers with PEFT too. Then LyCORIS makes files of every kind that scumble reads, with random numbers on every linear
layer and convolution of both networks (norms: on every norm), and scumble reads them; kinds that it does not read it has to
refuse by name. The pictures are compared as in `pictures.py`.
"""

import logging
import subprocess
from importlib import metadata

import torch
from lycoris.modules import get_module, make_module
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from safetensors.torch import load_file, save_file

from pictures import FIXTURES, SCUMBLE, SD1, check, folder_of, ours, run, scumble, theirs

logging.disable(logging.WARNING)

KINDS = {
    "LoRA": ["--adapter-kind", "lora", "--targets", "all-linear"],
    "LoRA with convolutions (LoCon)": ["--adapter-kind", "lora", "--targets", "all", "--conv-rank", 2],
    "rank-stabilised LoRA": ["--adapter-kind", "lora", "--targets", "all-linear", "--rank-stabilized", "--alpha", 2],
    "DoRA": ["--adapter-kind", "dora", "--targets", "all-linear"],
    "DoRA with convolutions": ["--adapter-kind", "dora", "--targets", "all", "--conv-rank", 2],
    "LoHa": ["--adapter-kind", "loha", "--targets", "all-linear"],
    "LoHa with convolutions": ["--adapter-kind", "loha", "--targets", "all", "--conv-rank", 2],
    "LoKr": ["--adapter-kind", "lokr", "--targets", "all-linear"],
    "LoKr with convolutions": ["--adapter-kind", "lokr", "--targets", "all", "--conv-rank", 2],
}


# Kind, deviation of its random numbers, options.
FOREIGN = {
    "LoCon": (LoConModule, 0.2, {}),
    "LoCon, Tucker": (LoConModule, 0.3, {"use_tucker": True}),
    "LoCon, scalar": (LoConModule, 0.2, {"use_scalar": True}),
    "LoCon, rank-stabilised": (LoConModule, 0.2, {"rs_lora": True}),
    "DoRA, lengths of rows": (LoConModule, 0.1, {"weight_decompose": True, "wd_on_out": True}),
    "DoRA, lengths of columns": (LoConModule, 0.1, {"weight_decompose": True, "wd_on_out": False}),
    "LoHa": (LohaModule, 0.3, {}),
    "LoHa, Tucker": (LohaModule, 0.4, {"use_tucker": True}),
    "LoHa, scalar": (LohaModule, 0.3, {"use_scalar": True}),
    "LoHa with lengths of rows": (LohaModule, 0.2, {"weight_decompose": True, "wd_on_out": True}),
    "LoHa with lengths of columns": (LohaModule, 0.2, {"weight_decompose": True, "wd_on_out": False}),
    "LoKr": (LokrModule, 0.3, {}),
    "LoKr, Tucker": (LokrModule, 0.3, {"use_tucker": True}),
    "LoKr, scalar": (LokrModule, 0.2, {"use_scalar": True}),
    "LoKr, both factors decomposed": (LokrModule, 0.3, {"decompose_both": True, "factor": 4}),
    "LoKr, whole factors": (LokrModule, 0.1, {"full_matrix": True}),
    "LoKr, factor 8": (LokrModule, 0.2, {"factor": 8}),
    "LoKr, unbalanced": (LokrModule, 0.2, {"unbalanced_factorization": True}),
    "LoKr with lengths": (LokrModule, 0.2, {"weight_decompose": True}),
    "whole differences": (FullModule, 0.02, {}),
    "norms": (NormModule, 0.1, {}),
}
REFUSED = {"GLoRA": GLoRAModule, "IA3": IA3Module, "OFT": DiagOFTModule}


def modules_of(pipe):
    """Modules under kohya's names; newer transformers leave one level of the text encoder's names out."""
    text = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    for prefix, tower in [("lora_unet_", pipe.unet), ("lora_te_text_model_", text)]:
        for name, module in tower.named_modules():
            yield prefix + name.replace(".", "_"), module


def by_lycoris(file):
    """A pipeline that wears `file`; every module named in it must be worn."""
    pipe = folder_of(SD1)
    modules, weights = dict(modules_of(pipe)), load_file(file)
    for name in sorted({key.split(".")[0] for key in weights}):
        kind, parameters = get_module(weights, name)
        assert kind is not None, f"{file}: {name} is no module that LyCORIS knows"
        make_module(kind, parameters, name, modules[name]).apply_to()
    return pipe


def train(folder, name, *more):
    scumble("train", "--method", "lora", "--base", SD1, "--images", "pictures", "--size", 64, "--steps", 4, "--name", name,
            "--lr", 0.05, "--rank", 4, "--text-encoder", "--format", "kohya", "--save-type", "f32", *more, cwd=folder)
    return folder / "runs" / name


def kinds(folder):
    pictures = folder / "pictures"
    pictures.mkdir()
    for name in ["plain.png", "baseline420.jpg"]:
        (pictures / name).write_bytes((FIXTURES / "images" / name).read_bytes())
    base = ours(folder, SD1)
    for number, (kind, options) in enumerate(KINDS.items()):
        name = f"kind{number}"
        peft = ["--format", "peft"] if "LoRA" in kind or "DoRA" in kind else []
        file = train(folder, name, *options, *peft) / f"{name}.safetensors"
        mine = ours(folder, SD1, "--adapter", file.relative_to(folder))
        check(f"`train`: {kind}", "LyCORIS", mine, theirs(by_lycoris(file)), base)
        # Of a DoRA in kohya's spelling diffusers warns that it drops the lengths.
        files = [(file, "kohya")] if "LoRA" in kind else []
        files += [(file.with_stem(f"{name}-peft"), "PEFT")] if peft else []
        for file, spelling in files:
            pipe = folder_of(SD1)
            pipe.load_lora_weights(file)
            check(f"`train`: {kind}, {spelling}'s spelling", "load_lora_weights", mine, theirs(pipe), base)


def worn(pipe, kind, deviation, options):
    """Puts random modules of a kind on a pipeline; what a file of them holds."""
    torch.manual_seed(1)
    layers = (torch.nn.LayerNorm, torch.nn.GroupNorm) if kind is NormModule else (torch.nn.Linear, torch.nn.Conv2d)
    weights = {}
    for name, module in [(name, module) for name, module in modules_of(pipe) if isinstance(module, layers)]:
        made = kind(name, module, multiplier=1.0, lora_dim=4, alpha=2, **options)
        with torch.no_grad():
            for key, value in made.named_parameters():
                noise = torch.randn_like(value)
                if key == "scalar":
                    value.fill_(0.7)
                elif key == "dora_scale":
                    value.mul_(1 + 0.2 * noise)
                elif kind in [NormModule, FullModule]:
                    value.add_(deviation * noise)
                else:
                    value.copy_(deviation * noise)
        if kind is FullModule:
            made.apply_to()  # it only tells the difference from what it is on
        weights.update({f"{name}.{key}": value.detach().clone().contiguous() for key, value in made.state_dict().items()})
        if kind is not FullModule:
            made.apply_to()
    return weights


def foreign(folder):
    """Files that LyCORIS made."""
    base = ours(folder, SD1)
    for label, (kind, deviation, options) in FOREIGN.items():
        pipe = folder_of(SD1)
        save_file(worn(pipe, kind, deviation, options), folder / "made.safetensors")
        check(label, "scumble", ours(folder, SD1, "--adapter", "made.safetensors"), theirs(pipe), base)
    for label, kind in REFUSED.items():
        save_file(worn(folder_of(SD1), kind, 0.1, {}), folder / "made.safetensors")
        command = [SCUMBLE, "generate", "--base", SD1, "-p", "x", "--adapter", "made.safetensors", "-o", "none.png"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert said.returncode == 1 and f"{label} is not supported" in said.stderr, said.stderr
        assert not (folder / "none.png").exists()
        print(f"refused: {label}", flush=True)


if __name__ == "__main__":
    print(f"lycoris-lora {metadata.version('lycoris-lora')}")
    run([kinds, foreign])
