"""Makes the picture and tokenizer part of tests/fixtures/tiny-clip: what transformers' CLIPImageProcessor makes of a few
pictures, and the files that turn the folder into a complete CLIP model (its 40 tokens are letters).

Run with torch, transformers, pillow and safetensors installed:
python tools/goldens/clip_pictures.py tests/fixtures/tiny-clip tests/fixtures/images/plain.png
"""

import json
import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil



def rows_first(picture, size, resample=None, box=None, reducing_gap=None, whole=Image.Image.resize):
    """Pillow 13 begins with the columns where that is cheaper, which moves a sample by one now and then; every Pillow before
    it, and so every published number, begins with the rows."""
    assert box is None and reducing_gap is None
    return whole(whole(picture, (size[0], picture.height), resample), size, resample)


Image.Image.resize = rows_first
folder = pathlib.Path(sys.argv[1])
photo = Image.open(sys.argv[2]).convert("RGB")
pictures = {
    "photo": photo,
    "tall": photo.crop((10, 4, 27, 60)),
    "small": photo.crop((30, 20, 37, 25)),
    "square": photo.crop((0, 0, 12, 12)),
}
configurations = {
    "plain": dict(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}),
    "padded": dict(size={"height": 10, "width": 15}, crop_size={"height": 13, "width": 12}, resample=1),
    "bare": dict(size={"shortest_edge": 9}, do_center_crop=False, do_normalize=False, resample=2),
    "uncut": dict(do_resize=False, crop_size={"height": 8, "width": 6}, do_rescale=False, image_mean=[1, 2, 3], image_std=[4, 5, 6]),
}
tensors = {}
for name, picture in pictures.items():
    tensors[f"picture.{name}"] = torch.from_numpy(np.array(picture))
for setting, changes in configurations.items():
    processor = CLIPImageProcessorPil(**changes)
    for name, picture in pictures.items():
        values = processor(picture, return_tensors="pt")["pixel_values"][0]
        tensors[f"{setting}.{name}"] = values.permute(1, 2, 0).float().contiguous()
save_file(tensors, folder / "pictures.safetensors", metadata={key: json.dumps(value) for key, value in configurations.items()})

plain = {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "resample": 3, "do_center_crop": True,
         "do_rescale": True, "do_normalize": True, **configurations["plain"]}
(folder / "preprocessor_config.json").write_text(json.dumps(plain, indent=1) + "\n")
letters = "abcdefghijklmnopqrstuvwxyz"
tokens = list(letters) + [f"{letter}</w>" for letter in "abcdegiknorst"[:12]] + ["<|startoftext|>", "<|endoftext|>"]
assert len(tokens) == 40
(folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}) + "\n")
(folder / "merges.txt").write_text("#version: 0.2\n")
(folder / "tokenizer_config.json").write_text(json.dumps({
    "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>", "model_max_length": 9}, indent=1) + "\n")

# Alignments of lossless pictures, as `scumble eval` prints them.
from transformers import CLIPModel, CLIPTokenizer

texts = {"plain.png": "a dog", "extreme_aspect.png": "no tea", "onebit.png": "red ink", "image.bmp": "a dog"}
model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
photos = [Image.open(pathlib.Path(sys.argv[2]).parent / name).convert("RGB") for name in texts]
pixels = CLIPImageProcessorPil(**configurations["plain"])(photos, return_tensors="pt")["pixel_values"]
with torch.no_grad():
    seen = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    ids = tokenizer(list(texts.values()), padding="max_length", max_length=9, return_tensors="pt")["input_ids"]
    read = model.text_projection(model.text_model(input_ids=ids).pooler_output)
seen, read = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (seen, read))
numbers = {
    "texts": texts,
    "text_alignment": (seen * read).sum(1).tolist(),
    # Against the first two pictures as references: their mean is not made longer.
    "image_alignment": (seen @ seen[:2].mean(0)).tolist(),
}
(folder / "alignment.json").write_text(json.dumps(numbers, indent=1) + "\n")
