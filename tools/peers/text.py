"""The text encoder of transformers: forward, and forward with the gradients of PEFT's LoRA on its attention layers.

    scumble bench compare --peer "python tools/peers/text.py --batch 4" -- text --batch 4
"""
from common import options, report, text_encoder, timed, torch

args = options(rank=4)
encoder = text_encoder(args)
ids = torch.arange(args.batch * 77).reshape(args.batch, 77) * 7919 % 49_000


def encode():
    with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
        return encoder(ids).last_hidden_state


with torch.no_grad():
    forward_s = timed(encode, args.repeats)
from peft import LoraConfig, get_peft_model  # noqa: E402

targets = ["q_proj", "k_proj", "v_proj", "out_proj"]
encoder = get_peft_model(encoder, LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=targets)).train()
for parameter in encoder.parameters():
    if parameter.requires_grad:
        parameter.data = parameter.data.float()
d_states = torch.randn(encode().shape)


def gradients():
    (encode().float() * d_states).sum().backward()
    encoder.zero_grad(set_to_none=True)


report(args, forward_s=forward_s, gradients_s=timed(gradients, args.repeats))
