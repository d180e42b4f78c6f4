"""Writes the fixture that holds core/models/src/schedule.rs to diffusers: run by hand, the result is committed.

    python tests/reference/schedules.py [core/models/tests/fixtures/schedules.json]

Needs torch and diffusers. Curves, noised images and answers come from DDPMScheduler, FlowMatchEulerDiscreteScheduler and
EDMEulerScheduler themselves; SiT's and REPA's straight lines are written down from their papers' repositories (path.py, loss.py).
"""

import json
import pathlib
import sys

import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "core/models/tests/fixtures/schedules.json")
X0 = torch.linspace(-1, 1, 6).reshape(3, 2)
NOISE = torch.tensor([[0.5, -1.0], [2.0, 0.1], [-0.3, 0.7]])


def curves():
    table = {}
    for name, betas in [("linear", "linear"), ("scaled_linear", "scaled_linear"), ("cosine", "squaredcos_cap_v2"), ("sigmoid", "sigmoid")]:
        for timesteps, start, end in [(1000, 1e-4, 0.02), (1000, 8.5e-4, 0.012), (50, 1e-3, 0.2)]:
            for zero in [False, True]:
                made = DDPMScheduler(timesteps, start, end, betas, rescale_betas_zero_snr=zero)
                config = dict(kind="discrete", betas=name, timesteps=timesteps, beta_start=start, beta_end=end, zero_terminal_snr=zero)
                table[f"{name}-{timesteps}-{start}-{zero}"] = {"config": config, "alphas_cumprod": kept(made, timesteps)}
    betas = [0.01, 0.3, 0.02, 0.5]
    made = DDPMScheduler(4, trained_betas=betas)
    config = dict(kind="discrete", timesteps=4, trained_betas=betas)
    table["trained"] = {"config": config, "alphas_cumprod": kept(made, 4)}
    return table


def kept(made, timesteps):
    every = max(1, timesteps // 40)
    return {t: float(f"{made.alphas_cumprod[t].item():.8g}") for t in [*range(0, timesteps, every), timesteps - 1]}


def mixed(config, times, noisy, target):
    return {"config": config, "times": times, "noisy": noisy.tolist(), "target": target.tolist()}


def mixtures():
    table = {}
    for prediction in ["epsilon", "v", "sample"]:
        made = DDPMScheduler(1000, 8.5e-4, 0.012, "scaled_linear")
        config = dict(kind="discrete", betas="scaled_linear", beta_start=8.5e-4, beta_end=0.012, prediction=prediction)
        t = torch.tensor([0, 400, 999])
        target = {"epsilon": NOISE, "sample": X0, "v": made.get_velocity(X0, NOISE, t)}[prediction]
        table[f"discrete-{prediction}"] = mixed(config, t.tolist(), made.add_noise(X0, NOISE, t), target)

    # Flow matching as diffusers trains it (train_dreambooth_lora_sd3.py): noise at t = 1, target noise - image, network given 1000 t.
    made = FlowMatchEulerDiscreteScheduler(1000)
    timesteps = made.timesteps[torch.tensor([999, 500, 0])]
    noisy = made.scale_noise(X0, timesteps, NOISE)
    config = dict(kind="flow", noise_at="end", prediction="velocity", time_scale=1000)
    table["flow-sd3"] = mixed(config, (timesteps.double() / 1000).tolist(), noisy, NOISE - X0)
    # SiT (transport/path.py, ICPlan): alpha = t, sigma = 1 - t, u = x1 - x0 with x1 the image.
    t = torch.tensor([0.0, 0.3, 1.0])
    row = t[:, None]
    config = dict(kind="flow", noise_at="start", prediction="reverse_velocity", time_scale=1)
    table["flow-sit"] = mixed(config, t.double().tolist(), row * X0 + (1 - row) * NOISE, X0 - NOISE)
    # REPA (loss.py, path_type linear): alpha = 1 - t, sigma = t, d_alpha = -1, d_sigma = 1.
    config = dict(kind="flow", noise_at="end", prediction="velocity", time_scale=1)
    table["flow-repa"] = mixed(config, t.double().tolist(), (1 - row) * X0 + row * NOISE, -X0 + NOISE)

    # EDM: the answer is what precondition_outputs turns into the image.
    made = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    # In double precision: the answer is a small difference where there is little noise.
    x0, sigma = X0.double(), torch.tensor([0.01, 1.5, 60.0], dtype=torch.double)
    row = sigma[:, None]
    noised = x0 + row * NOISE
    skip = made.precondition_outputs(noised, torch.zeros_like(x0), row)
    out = made.precondition_outputs(torch.zeros_like(x0), torch.ones_like(x0), row)
    times = [made.precondition_noise(s).item() for s in sigma]
    config = dict(kind="edm", sigma_data=0.5, sigma_min=0.002, sigma_max=80.0)
    table["edm"] = mixed(config, times, made.precondition_inputs(noised, row), (x0 - skip) / out)
    return table


OUT.write_text(json.dumps({"x0": X0.tolist(), "noise": NOISE.tolist(), "curves": curves(), "mixtures": mixtures()}) + "\n")
