"""The training step of diffusers + PEFT: LoRA on the UNet's attention layers, or every weight with --full.

    scumble bench compare --peer "python tools/peers/step.py --repeats 2" -- step --steps 2
"""
from common import context_width, dtype, options, pictures, report, timed, torch, unet

args = options(rank=4, latent=64, full=False)
model = unet(args).train()
if args.full:
    parameters = list(model.parameters())
else:
    from peft import LoraConfig

    model.requires_grad_(False)
    targets = ["to_k", "to_q", "to_v", "to_out.0"]
    model.add_adapter(LoraConfig(r=args.rank, lora_alpha=args.rank, init_lora_weights="gaussian", target_modules=targets))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
optimizer = torch.optim.AdamW(parameters, lr=1e-4)
latents = pictures(args, args.batch, 4, args.latent, args.latent)
noise = torch.randn(args.batch, 4, args.latent, args.latent)
states = torch.randn(args.batch, 77, context_width(args)).to(dtype(args))
timesteps = torch.full((args.batch,), 500)


def forward():
    with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
        return model(latents, timesteps, states).sample


def step():
    torch.nn.functional.mse_loss(forward().float(), noise).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


step_s = timed(step, args.repeats)
with torch.no_grad():
    forward_s = timed(forward, args.repeats)
report(args, step_s=step_s, forward_s=forward_s)
