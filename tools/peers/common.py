"""What the peers of `scumble bench compare` share: options, timing, and the line of JSON that they end with."""
import argparse
import json
import logging
import resource
import statistics
import time
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

import torch  # noqa: E402  (after the warnings are off)

torch.manual_seed(0)


def options(**more):
    """Options of every peer, and `more` as name=default; a default of False makes a switch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--arch", choices=["sd15", "sd21"], default="sd15")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=4)
    for name, default in more.items():
        if default is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()


def dtype(args):
    return torch.bfloat16 if args.precision == "bf16" else torch.float32


def context_width(args):
    return 768 if args.arch == "sd15" else 1024


def timed(work, repeats):
    """Median seconds, after one run that does not count."""
    seconds = []
    for index in range(repeats + 1):
        start = time.perf_counter()
        work()
        if index > 0:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def report(args, **measured):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    line = dict(torch=torch.__version__, threads=torch.get_num_threads(), **vars(args))
    line.update({name: round(value, 4) for name, value in measured.items()})
    print(json.dumps(dict(line, peak_rss_gb=round(peak, 2))))


def unet(args):
    """A UNet of full size with random weights."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=context_width(args),
        attention_head_dim=8 if args.arch == "sd15" else [5, 10, 20, 20],
        use_linear_projection=args.arch == "sd21",
    )
    return model.to(dtype(args)).to(memory_format=torch.channels_last)


def vae(args):
    """The autoencoder of both, with random weights."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
        sample_size=512,
    )
    return model.to(dtype(args)).to(memory_format=torch.channels_last).eval()


def text_encoder(args):
    """CLIP ViT-L/14's text encoder, or the first 23 layers of OpenCLIP ViT-H/14's, with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    first = args.arch == "sd15"
    width, heads, layers = (768, 12, 12) if first else (1024, 16, 23)
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        hidden_act="quick_gelu" if first else "gelu",
        projection_dim=width,
    )
    return CLIPTextModel(config).to(dtype(args))


def pictures(args, *sizes):
    """Random pictures or latents, channels-last."""
    return torch.randn(*sizes).to(dtype(args)).to(memory_format=torch.channels_last)
