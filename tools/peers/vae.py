"""The autoencoder of diffusers: encoding and decoding a picture, channels-last.

    scumble bench compare --peer "python tools/peers/vae.py" -- vae
"""
from common import options, pictures, report, timed, torch, vae

args = options(size=512)
model = vae(args)
picture = pictures(args, args.batch, 3, args.size, args.size)
latents = pictures(args, args.batch, 4, args.size // 8, args.size // 8)
with torch.no_grad():
    encode_s = timed(lambda: model.encode(picture), args.repeats)
    decode_s = timed(lambda: model.decode(latents), args.repeats)
report(args, encode_s=encode_s, decode_s=decode_s)
