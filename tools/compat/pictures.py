"""Do diffusers, transformers and PEFT load what scumble writes, and paint the same picture with it?

    python tools/compat/pictures.py [path of scumble]

Needs torch, diffusers, transformers, peft, safetensors and Pillow, and `cargo build -p scumble`. Everything is done on
the tiny bases of tests/fixtures, offline. Each case is a file that scumble wrote: a model in another layout, an adapter
in another dialect, embeddings, or what a short training run left. scumble and diffusers paint one prompt with it, same
seed, same sampler, f32; the pictures must agree within 2 of 255 in every pixel, and must not be the base's. A table of
the results goes to standard output, in the form that docs/compatibility.md has.
"""

import pathlib
import subprocess
import sys
import tempfile
import warnings

import diffusers
import numpy
import peft
import PIL.Image
import safetensors
import torch
import transformers
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/fixtures"
SCUMBLE = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "target/debug/scumble").resolve()
SD1, SD2 = FIXTURES / "tiny-sd1", FIXTURES / "tiny-sd2"
STEPS, GUIDANCE, SEED, SIZE = 6, 4.0, 3, 64
PROMPT = "a photo of a red dog"
BOUND = 2  # of 255

torch.set_num_threads(1)
warnings.filterwarnings("ignore")
for library in [diffusers, transformers]:
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
rows = []


def scumble(*arguments, cwd):
    command = [SCUMBLE, "--quiet", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout.strip()


def ours(folder, base, *more, prompt=PROMPT):
    scumble("generate", "--base", base, "--prompt", prompt, "--sampler", "ddim", "--steps", STEPS, "--guidance",
            GUIDANCE, "--seed", SEED, "--size", SIZE, "--precision", "f32", "--out", "picture.png", "--force", *more,
            cwd=folder)
    return numpy.asarray(PIL.Image.open(folder / "picture.png")).astype(int)


@torch.no_grad()
def theirs(pipe, prompt=PROMPT):
    pipe = pipe.to("cpu", torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    picture = pipe(prompt, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=SIZE, width=SIZE,
                   generator=torch.Generator().manual_seed(SEED), output_type="np").images[0]
    return (picture * 255).round().astype(int)


def folder_of(path):
    return StableDiffusionPipeline.from_pretrained(path, safety_checker=None, torch_dtype=torch.float32)


def single_of(path, config):
    return StableDiffusionPipeline.from_single_file(str(path), config=str(config), safety_checker=None,
                                                    torch_dtype=torch.float32, local_files_only=True)


def check(what, reader, mine, other, base=None):
    apart = int(numpy.abs(mine - other).max())
    moved = "" if base is None else f"; {int(numpy.abs(mine - base).max())} from the base"
    rows.append(f"| {what} | {reader} | {apart}{moved} |")
    print(rows[-1], flush=True)
    assert apart <= BOUND, what
    assert base is None or numpy.abs(mine - base).max() > BOUND, f"{what}: the base's picture"


def models(folder):
    """Layouts: the golden pickle becomes a folder, that a single file, that a pickle again; SD2 from its folder."""
    base = ours(folder, SD1)
    check("tiny-sd1 as it is", "from_pretrained", base, theirs(folder_of(SD1)))
    scumble("convert", FIXTURES / "single_file/tiny-sd1.ckpt", "sd1", "--to", "folder", cwd=folder)
    scumble("convert", "sd1", "sd1.safetensors", cwd=folder)
    scumble("convert", "sd1.safetensors", "sd1.ckpt", cwd=folder)
    check("`convert x.ckpt folder`", "from_pretrained", base, theirs(folder_of(folder / "sd1")))
    for name in ["sd1.safetensors", "sd1.ckpt"]:
        check(f"`convert folder {name}`", "from_single_file, config=tiny-sd1", base, theirs(single_of(folder / name, SD1)))
    base = ours(folder, SD2)
    check("tiny-sd2 as it is", "from_pretrained", base, theirs(folder_of(SD2)))
    scumble("convert", SD2, "sd2.safetensors", cwd=folder)
    check("`convert folder sd2.safetensors`", "from_single_file, config=tiny-sd2", base,
          theirs(single_of(folder / "sd2.safetensors", SD2)))
    scumble("convert", "sd2.safetensors", "sd2", "--to", "folder", cwd=folder)
    check("`convert sd2.safetensors folder`", "from_pretrained", base, theirs(folder_of(folder / "sd2")))
    scumble("convert", "sd2", "sd2.ckpt", cwd=folder)
    check("`convert folder sd2.ckpt`", "from_single_file, config=tiny-sd2", base,
          theirs(single_of(folder / "sd2.ckpt", SD2)))


def embedded(folder):
    """The base inside the program, and its export."""
    scumble("export-base", "world", cwd=folder)
    check("`export-base`", "from_pretrained", ours(folder, "embedded"), theirs(folder_of(folder / "world")))


def adapters(folder):
    base = ours(folder, SD1)
    source = FIXTURES / "lora/diffusers_old.safetensors"
    scumble("convert", source, "new.safetensors", "--to", "peft", "--for", SD1, cwd=folder)
    scumble("convert", "new.safetensors", "old.safetensors", "--to", "old-diffusers", "--for", SD1, cwd=folder)
    pipe = folder_of(SD1)
    pipe.load_lora_weights(folder / "old.safetensors")
    mine = ours(folder, SD1, "--adapter", "old.safetensors")
    check("`convert --to old-diffusers`", "load_lora_weights", mine, theirs(pipe), base)
    source = FIXTURES / "lora/peft.safetensors"
    for dialect in ["kohya", "peft"]:
        target = f"{dialect}.safetensors"
        scumble("convert", source, target, "--to", dialect, "--for", SD1, cwd=folder)
        pipe = folder_of(SD1)
        pipe.load_lora_weights(folder / target)
        check(f"`convert --to {dialect}`", "load_lora_weights", ours(folder, SD1, "--adapter", target), theirs(pipe), base)
    scumble("resize", "kohya.safetensors", "--rank", 2, "--for", SD1, "-o", "small.safetensors", cwd=folder)
    pipe = folder_of(SD1)
    pipe.load_lora_weights(folder / "small.safetensors")
    check("`resize --rank 2`", "load_lora_weights", ours(folder, SD1, "--adapter", "small.safetensors"), theirs(pipe), base)
    scumble("merge", "kohya.safetensors:0.7", "peft.safetensors:0.5", "--for", SD1, "--rank", 4, "--format", "peft", "-o",
            "mix.safetensors", cwd=folder)
    pipe = folder_of(SD1)
    pipe.load_lora_weights(folder / "mix.safetensors")
    check("`merge` of two", "load_lora_weights", ours(folder, SD1, "--adapter", "mix.safetensors"), theirs(pipe), base)


def embeddings(folder):
    prompt = "a photo of a <s1> dog"
    base = ours(folder, SD1, prompt=prompt)
    strong = {key: value * 4 for key, value in load_file(FIXTURES / "lora/cloneofsimo.safetensors").items() if key == "<s1>"}
    save_file(strong, folder / "token.safetensors")
    for dialect in ["a1111-embedding", "diffusers-embedding"]:
        target = f"{dialect}.safetensors"
        scumble("convert", "token.safetensors", target, "--to", dialect, "--for", SD1, cwd=folder)
        pipe = folder_of(SD1)
        pipe.load_textual_inversion(folder / target, token="<s1>")
        check(f"`convert --to {dialect}`", "load_textual_inversion",
              ours(folder, SD1, "--embedding", f"{target}:<s1>", prompt=prompt), theirs(pipe, prompt), base)


def trained(folder):
    """What each method of training leaves."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for name in ["plain.png", "baseline420.jpg"]:
        (pictures / name).write_bytes((FIXTURES / "images" / name).read_bytes())

    def train(method, name, *more):
        scumble("train", "--method", method, "--base", SD1, "--images", "pictures", "--size", 64, "--steps", 4, "--name",
                name, "--lr", 0.02, *more, cwd=folder)
        return folder / "runs" / name

    base = ours(folder, SD1)
    run = train("lora", "plain", "--text-encoder", "--format", "kohya", "--format", "peft", "--save-type", "f32")
    for file in sorted(run.glob("*.safetensors")):
        pipe = folder_of(SD1)
        pipe.load_lora_weights(file)
        name = file.relative_to(folder)
        check(f"`train --method lora`: {file.name}", "load_lora_weights", ours(folder, SD1, "--adapter", name), theirs(pipe), base)

    prompt = "a photo of a <s1> dog"
    words = ["--token", "<s1>", "--init", "dog", "--set", "train.lr_tokens=0.2", "--save-type", "f32"]
    base = ours(folder, SD1, prompt=prompt)
    run = train("textual-inversion", "words", *words)
    files = sorted((run / "embeddings").glob("*.safetensors"))
    assert len(files) == 2, files
    for file in files:
        pipe = folder_of(SD1)
        pipe.load_textual_inversion(file, token="<s1>")
        name = f"{file.relative_to(folder)}:<s1>"
        check(f"`train --method textual-inversion`: {file.name}", "load_textual_inversion",
              ours(folder, SD1, "--embedding", name, prompt=prompt), theirs(pipe, prompt), base)

    run = train("pivotal", "pivot", *words, "--format", "kohya", "--format", "peft", "--text-encoder")
    # kohya files bring their words along, for AUTOMATIC1111; diffusers refuses a file with anything but factors.
    scumble("convert", run / "pivot.safetensors", run / "plain.safetensors", "--to", "kohya", "--tokens", "omit", "--for", SD1,
            cwd=folder)
    adapters, words = [run / "plain.safetensors", run / "pivot-peft.safetensors"], sorted((run / "embeddings").glob("*.safetensors"))
    assert len(words) == 2, run
    for adapter in adapters:
        for word in words:
            pipe = folder_of(SD1)
            pipe.load_textual_inversion(word, token="<s1>")
            pipe.load_lora_weights(adapter)
            options = ["--adapter", adapter.relative_to(folder), "--embedding", f"{word.relative_to(folder)}:<s1>"]
            check(f"`train --method pivotal`: {adapter.name} with {word.name}", "load_lora_weights, load_textual_inversion",
                  ours(folder, SD1, *options, prompt=prompt), theirs(pipe, prompt), base)

    base = ours(folder, SD1)
    run = train("full", "whole", "--lr", 0.001)
    whole = next(path.parent for path in sorted(run.rglob("model_index.json")))
    name = whole.relative_to(folder)
    mine = ours(folder, name)
    check("`train --method full`: the folder", "from_pretrained", mine, theirs(folder_of(whole)), base)
    scumble("convert", name, "whole.safetensors", cwd=folder)
    check("the same, `convert`ed to a single file", "from_single_file, config=tiny-sd1", mine,
          theirs(single_of(folder / "whole.safetensors", SD1)), base)


def run(cases):
    """Each case in a folder of its own, as a table."""
    print(f"diffusers {diffusers.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, "
          f"torch {torch.__version__}, safetensors {safetensors.__version__}\n")
    print("| written by scumble | read with | largest difference of a pixel, of 255 |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            place = pathlib.Path(folder) / case.__name__
            place.mkdir()
            case(place)
    print(f"\n{len(rows)} files, all within {BOUND}")


if __name__ == "__main__":
    run([models, embedded, adapters, embeddings, trained])
