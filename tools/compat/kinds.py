"""Do LyCORIS and PEFT read the other kinds of adapters that scumble trains, and do they paint the same?

    python tools/compat/kinds.py [path of scumble]

Needs what `pictures.py` needs, and `pip install lycoris-lora`. Each kind is trained for a few updates on the tiny base, on
UNet (convolutions too, where the kind has them) and text encoder, written for kohya's readers and read by LyCORIS; DoRA is
read by diffusers with PEFT too, in both spellings. The pictures are compared as in `pictures.py`.
"""

import logging
from importlib import metadata

from lycoris.modules import get_module, make_module
from safetensors.torch import load_file

from pictures import FIXTURES, SD1, check, folder_of, ours, run, scumble, theirs

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


if __name__ == "__main__":
    print(f"lycoris-lora {metadata.version('lycoris-lora')}")
    run([kinds])
