"""Makes samplers.json: what diffusers' schedulers give for many configurations (diffusers 0.42.1, torch 2.15, CPU).

Model: 0.1 * input + (0.3 + 0.2 * t / 1000) * sin(i). Start: (i / 64 - 0.5) * init_noise_sigma, or, when a run begins
part way, add_noise of that ramp with noise 1. Of each run: its settings beside SD, timesteps and four
elements of the final latents.
"""
import itertools, json, random, torch, diffusers

CLASSES = {
    "ddim": diffusers.DDIMScheduler, "pndm": diffusers.PNDMScheduler, "euler": diffusers.EulerDiscreteScheduler,
    "euler_karras": diffusers.EulerDiscreteScheduler, "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler, "dpmpp_2m_karras": diffusers.DPMSolverMultistepScheduler,
    "ddpm": diffusers.DDPMScheduler, "heun": diffusers.HeunDiscreteScheduler, "lms": diffusers.LMSDiscreteScheduler,
    "heun_karras": diffusers.HeunDiscreteScheduler, "lms_karras": diffusers.LMSDiscreteScheduler,
    "dpmpp_2m_sde": diffusers.DPMSolverMultistepScheduler, "unipc": diffusers.UniPCMultistepScheduler,
    "dpmpp_2m_sde_karras": diffusers.DPMSolverMultistepScheduler, "unipc_karras": diffusers.UniPCMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
}
DRAWS = {"euler_a", "ddpm", "lcm", "dpmpp_2m_sde", "dpmpp_2m_sde_karras"}
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
runs = []


def record(name, steps, eta=0.0, start=0, anything=False, **config):
    given, config = config, {**SD, **config}
    if name.endswith("karras"):
        config["use_karras_sigmas"] = True
    if "sde" in name:
        config.setdefault("algorithm_type", "sde-dpmsolver++")
    scheduler = CLASSES[name].from_config(config)
    scheduler.set_timesteps(steps)
    i = torch.arange(64, dtype=torch.float32).reshape(1, 4, 4, 4)
    x = i / 64 - 0.5
    timesteps = scheduler.timesteps[start:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    x = scheduler.add_noise(x, torch.ones_like(x), timesteps[:1]) if start else x * scheduler.init_noise_sigma
    generator = torch.Generator().manual_seed(7)
    extra = {"eta": eta, "generator": generator} if name == "ddim" else {}
    if name in DRAWS:
        extra = {"generator": generator}
    for t in timesteps:
        output = 0.1 * scheduler.scale_model_input(x, t) + (0.3 + 0.2 * float(t) / 1000) * torch.sin(i)
        x = scheduler.step(output, t, x, **extra).prev_sample
    if anything and not torch.isfinite(x).all():
        return  # diffusers divides by a step without length
    assert torch.isfinite(x).all()
    final = [float(f"{v:.8g}") for v in x.flatten()[[0, 21, 42, 63]].tolist()]
    runs.append(dict(name=name, steps=steps, eta=eta, start=start, config=given,
                     timesteps=[round(float(t), 3) for t in scheduler.timesteps], final=final))


for name in CLASSES:
    latent = dict(clip_sample=False, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    for spacing in ("leading", "trailing", "linspace"):
        for steps in (1, 2, 7, 16):
            record(name, steps, timestep_spacing=spacing, **latent)
        # LMS starts anew part way here, diffusers does not; Heun makes two calls a step.
        if not name.startswith("lms"):
            record(name, 13, start=6 if name.startswith("heun") else 5, timestep_spacing=spacing, **latent)
    for schedule, prediction in itertools.product(("linear", "squaredcos_cap_v2"), ("epsilon", "v_prediction")):
        record(name, 11, beta_schedule=schedule, prediction_type=prediction)
    if name not in ("pndm", "euler_a", "lms", "lms_karras"):
        record(name, 11, prediction_type="sample")
    record(name, 12, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction",
           clip_sample=False)
    record(name, 12, num_train_timesteps=500)
record("ddim", 9, eta=0.5, clip_sample_range=2.0)
record("ddim", 9, eta=1.0, prediction_type="sample", clip_sample=False)
record("pndm", 4)
record("pndm", 17, prediction_type="v_prediction")
for order, solver, lower, final, euler, steps in itertools.product(
        (1, 2, 3), ("midpoint", "heun"), (True, False), ("zero", "sigma_min"), (True, False), (6, 20)):
    record("dpmpp_2m", steps, solver_order=order, solver_type=solver, lower_order_final=lower,
           final_sigmas_type=final, euler_at_final=euler)
record("dpmpp_2m", 9, use_lu_lambdas=True)
record("dpmpp_2m", 9, use_exponential_sigmas=True)
for spacing in ("leading", "trailing", "linspace"):
    record("dpmpp_2m", 9, beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, timestep_spacing=spacing)
record("dpmpp_2m_karras", 9, beta_schedule="squaredcos_cap_v2")
record("euler", 9, use_exponential_sigmas=True)
record("euler_karras", 9, sigma_min=0.1, sigma_max=10.0, final_sigmas_type="sigma_min")
for name in ("heun", "lms", "unipc", "dpmpp_2m_sde"):
    record(name, 9, use_exponential_sigmas=True)
record("ddpm", 9, variance_type="fixed_large", clip_sample=False)
record("ddpm", 9, variance_type="fixed_small_log", clip_sample=False)
record("ddpm", 9, clip_sample_range=2.0)
record("heun", 9, clip_sample=True, clip_sample_range=2.0)
record("lcm", 4, original_inference_steps=100)
record("lcm", 6, clip_sample=True, clip_sample_range=2.0)
record("lcm", 6, timestep_scaling=3.0)
pick = random.Random(1)
for _ in range(60):
    config = dict(
        solver_order=pick.choice((1, 2, 3)), solver_type=pick.choice(("bh1", "bh2")),
        lower_order_final=pick.random() < 0.7, predict_x0=pick.random() < 0.6,
        prediction_type=pick.choice(("epsilon", "v_prediction", "sample")), final_sigmas_type="sigma_min",
        timestep_spacing=pick.choice(("leading", "trailing", "linspace")), steps_offset=pick.choice((0, 1)),
        disable_corrector=pick.choice(([], [], [0], [1, 2])))
    record(pick.choice(("unipc", "unipc_karras")), pick.choice((4, 7, 12, 21)), anything=True, **config)
for order in (2, 3):
    record("unipc", 9, solver_order=order)
for _ in range(60):
    algorithm = pick.choice(("dpmsolver", "sde-dpmsolver", "sde-dpmsolver++"))
    config = dict(
        solver_order=pick.choice((1, 2, 3)) if algorithm != "sde-dpmsolver" else pick.choice((1, 2)),
        solver_type=pick.choice(("midpoint", "heun")), lower_order_final=pick.random() < 0.7,
        euler_at_final=pick.random() < 0.3, prediction_type=pick.choice(("epsilon", "v_prediction", "sample")),
        final_sigmas_type="sigma_min" if algorithm != "sde-dpmsolver++" else pick.choice(("zero", "sigma_min")),
        timestep_spacing=pick.choice(("leading", "trailing", "linspace")), steps_offset=pick.choice((0, 1)),
        algorithm_type=algorithm)
    plain = algorithm == "dpmsolver"
    names = ("dpmpp_2m", "dpmpp_2m_karras") if plain else ("dpmpp_2m_sde", "dpmpp_2m_sde_karras")
    record(pick.choice(names), pick.choice((4, 7, 12, 21)), anything=True, **config)
for _ in range(60):
    config = dict(
        prediction_type=pick.choice(("epsilon", "v_prediction")), steps_offset=pick.choice((0, 1)),
        beta_schedule=pick.choice(("scaled_linear", "linear")), num_train_timesteps=pick.choice((1000, 400)),
        timestep_spacing=pick.choice(("leading", "trailing", "linspace")), clip_sample=pick.random() < 0.3)
    name = pick.choice(("ddpm", "heun", "heun_karras", "lms", "lms_karras", "lcm", "euler_a", "ddim"))
    record(name, pick.choice((2, 5, 9, 18)), eta=pick.choice((0.0, 0.3, 1.0)), **config)
with open("samplers.json", "w") as file:
    file.write("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
