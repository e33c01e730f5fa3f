"""What diffusers paints a picture with: two prompts' states, a guided step (two pictures in one), decoding.

    scumble bench compare --peer "python tools/peers/generate.py" -- generate
"""
from common import context_width, dtype, options, pictures, report, text_encoder, timed, torch, unet, vae

args = options(latent=64)
encoder, model, decoder = text_encoder(args).eval(), unet(args).eval(), vae(args)
ids = torch.arange(2 * args.batch * 77).reshape(2 * args.batch, 77) * 7919 % 49_000
guided = pictures(args, 2 * args.batch, 4, args.latent, args.latent)
states = torch.randn(2 * args.batch, 77, context_width(args)).to(dtype(args))
latents = pictures(args, args.batch, 4, args.latent, args.latent)
timestep = torch.tensor(500)
with torch.no_grad():
    text_s = timed(lambda: encoder(ids), args.repeats)
    guided_step_s = timed(lambda: model(guided, timestep, states), args.repeats)
    decode_s = timed(lambda: decoder.decode(latents), args.repeats)
report(args, text_s=text_s, guided_step_s=guided_step_s, decode_s=decode_s)
