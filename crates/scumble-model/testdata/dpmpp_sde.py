"""Makes dpmpp_sde.json: what diffusers' DPMSolverSDEScheduler gives (diffusers 0.42.1, torch 2.15, torchsde 0.2.6, CPU).

Model and start as in samplers.py. Of each run: configuration, steps, first call, timesteps, and four elements of the
latents before the first call and after every call.
"""
import itertools, json, torch, diffusers

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
runs = []


def record(steps, start=0, **config):
    config = {**SD, **config}
    scheduler = diffusers.DPMSolverSDEScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    i = torch.arange(64, dtype=torch.float32).reshape(1, 4, 4, 4)
    x = i / 64 - 0.5
    timesteps = scheduler.timesteps[start:]
    scheduler.set_begin_index(start)
    x = scheduler.add_noise(x, torch.ones_like(x), timesteps[:1]) if start else x * scheduler.init_noise_sigma
    some = lambda: [float(f"{v:.7g}") for v in x.flatten()[[0, 21, 42, 63]].tolist()]
    trajectory = [some()]
    for t in timesteps:
        output = 0.1 * scheduler.scale_model_input(x, t) + (0.3 + 0.2 * float(t) / 1000) * torch.sin(i)
        x = scheduler.step(output.float(), t, x).prev_sample.float()
        trajectory.append(some())
    runs.append(dict(config=config, steps=steps, start=start, timesteps=[round(float(t), 3) for t in scheduler.timesteps],
                     trajectory=trajectory))


for number, (spacing, prediction) in enumerate(itertools.product(
        ("leading", "trailing", "linspace"), ("epsilon", "v_prediction"))):
    for steps in (1, 2, 7):
        record(steps, timestep_spacing=spacing, prediction_type=prediction, steps_offset=1, noise_sampler_seed=number)
record(9, use_karras_sigmas=True, noise_sampler_seed=2**40 + 11)
record(9, use_exponential_sigmas=True, noise_sampler_seed=12)
record(9, start=6, timestep_spacing="leading", noise_sampler_seed=13)
record(8, beta_schedule="linear", noise_sampler_seed=14)
with open("dpmpp_sde.json", "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
