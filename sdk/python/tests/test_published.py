"""The helpers in one line for models of diffusers and transformers, against PyTorch's own graph of the whole."""

import pytest
from conftest import needs

needs("torch", "diffusers", "transformers", "numpy")

import torch
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from test_torch import Makers, relative
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor, ViTConfig, ViTForImageClassification, ViTImageProcessor

import dtta

BLOCKS = {"block_out_channels": (32, 64), "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "layers_per_block": 1, "cross_attention_dim": 16, "attention_head_dim": 4}


def steered(order="rgb"):
    torch.manual_seed(3)
    unet = UNet2DConditionModel(sample_size=8, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **BLOCKS).eval()
    control = ControlNetModel(conditioning_embedding_out_channels=(8, 16, 32), controlnet_conditioning_channel_order=order, **BLOCKS).eval()
    # What starts at zero is filled: a ControlNet at rest steers nothing.
    with torch.no_grad():
        for parameter in control.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.2)
    return unet, control


class Recorded:
    """What a network was asked: the noisy images and times that dtta made."""

    def __init__(self, slots, image):
        self.asked = []
        self.spy = dtta.TorchDenoiser(self, DDPMScheduler(), image=image, slots=slots)

    def __call__(self, noisy, times, condition):
        self.asked.append((noisy.clone(), times.clone()))
        return torch.zeros_like(noisy) + 0 * sum(value.sum() for value in condition.values())


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("prompted", [False, True])
def test_the_gradient_to_the_hint_is_that_of_the_whole_graph(prompted, order):
    unet, control = steered(order)
    prompt = torch.randn(5, 16, generator=torch.Generator().manual_seed(4)) if prompted else None
    scheduler, scale, draws = DDPMScheduler(), 0.7, 3
    denoiser = dtta.TorchDenoiser.diffusers(unet, scheduler, controlnet=control, conditioning_scale=scale, prompt=prompt, tokens=5)
    # Three levels of the hint's embedding: four times the extents.
    expected = {"spatial": [3, 32, 32]} if prompted else {"tokens": [5, 16], "spatial": [3, 32, 32]}
    assert denoiser.slots == expected and denoiser.image == [4, 8, 8]
    ids, images = ["a", "b"], torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    makers = Makers(denoiser.slots)
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(6))

    found = dtta.torch.feedback(dtta.Feedback(denoiser, draws=draws, micro_batch=4), images, makers(x), ids)
    found.sum().backward()
    gradients = [parameter.grad.clone() for parameter in makers.parameters()]
    makers.zero_grad()

    recorded = Recorded(denoiser.slots, denoiser.image)
    # All at once: micro-batches are asked side by side, in any order.
    dtta.Feedback(recorded.spy, draws=draws)(images, {slot: value.detach() for slot, value in makers(x).items()}, ids)
    noisy, times = (torch.cat(parts) for parts in zip(*recorded.asked))
    rows = torch.arange(2).repeat_interleave(draws)
    alpha = scheduler.alphas_cumprod.double()[times].reshape(-1, 1, 1, 1)
    noise = ((noisy.double() - alpha.sqrt() * images[rows].double()) / (1 - alpha).sqrt()).float()
    condition = {slot: value[rows] for slot, value in makers(x).items()}
    tokens = condition["tokens"] if prompt is None else prompt.expand(len(rows), 5, 16)
    # As diffusers' pipelines ask the two.
    down, middle = control(noisy, times, tokens, condition["spatial"], conditioning_scale=scale, return_dict=False)
    answer = unet(noisy, times, tokens, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    losses = (answer - noise).square().mean(dim=(1, 2, 3)).reshape(2, draws).mean(dim=1)
    losses.sum().backward()
    assert relative(found.detach(), losses.detach()) <= 1e-5
    for gradient, parameter in zip(gradients, makers.parameters(), strict=True):
        assert parameter.grad.norm() > 0
        assert relative(gradient, parameter.grad) <= 1e-4


def test_what_a_controlnet_does_not_go_with_is_refused():
    unet, control = steered()
    scheduler = DDPMScheduler()
    with pytest.raises(TypeError, match="beside a UNet2DConditionModel is"):
        dtta.TorchDenoiser.diffusers(unet, scheduler, controlnet=nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"expected \[L, 16\]"):
        dtta.TorchDenoiser.diffusers(unet, scheduler, controlnet=control, prompt=torch.zeros(5, 17))
    # Scale, prompt and the ControlNet's weights are part of what a run is.
    digests = [
        dtta.TorchDenoiser.diffusers(unet, scheduler, controlnet=control, **more)._specification()["digest"]
        for more in ({}, {}, {"conditioning_scale": 0.5}, {"prompt": torch.zeros(77, 16)})
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    with torch.no_grad():
        control.conv_in.bias += 1
    changed = dtta.TorchDenoiser.diffusers(unet, scheduler, controlnet=control)._specification()["digest"]
    assert changed not in digests


# --- transformers -----------------------------------------------------------------------------------------------------------------------


def vit():
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8, num_labels=10)
    return ViTForImageClassification(config).eval()


def segformer():
    torch.manual_seed(0)
    config = SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], num_attention_heads=[1, 2, 2, 4], decoder_hidden_size=16, num_labels=6)
    return SegformerForSemanticSegmentation(config).eval()


def asked(backbone, images):
    """Logits, and the gradients of their sum of squares with respect to the parameters, as dtta's loop asks for them."""
    values = backbone._values()
    tracked = [False, *(group != "buffer" for *_, group in backbone._specification()["parameters"])]
    (features, logits), back = backbone._forward([images.numpy(), *(value.numpy() for value in values)], tracked, "running")
    gradients = back([torch.zeros_like(features).numpy(), (2 * logits).numpy()])
    return logits, dict(zip(backbone._parameters, gradients[1:]))


@pytest.mark.parametrize("make", [vit, segformer])
def test_a_model_of_transformers_answers_as_it_does_itself(make):
    model = make()
    backbone = dtta.TorchBackbone.transformers(model, image=(3, 32, 32))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    logits, gradients = asked(backbone, images)
    expected = model(images).logits
    if make is segformer:
        assert expected.shape == (2, 6, 8, 8)
        expected = nn.functional.interpolate(expected, size=(32, 32), mode="bilinear", align_corners=False)
    assert relative(logits, expected.detach()) <= 1e-6
    expected.square().sum().backward()
    # All parameters at once, the ones without a gradient too.
    ours = torch.cat([gradients[name].flatten() for name, parameter in model.named_parameters() if parameter.grad is not None])
    theirs = torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])
    assert relative(ours, theirs) <= 1e-4
    groups = backbone._specification()["parameters"]
    assert any(group == "head" for *_, group in groups) and any(group == "norm" for *_, group in groups)


@pytest.mark.parametrize("processor", [
    ViTImageProcessor(size={"height": 32, "width": 32}),
    ViTImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}, do_center_crop=True, resample=3),
])
def test_a_processor_says_how_images_are_seen(processor, examples, tmp_path):
    model = vit()
    backbone = dtta.TorchBackbone.transformers(model, processor)
    assert backbone.image == [3, 32, 32]
    assert backbone.preprocess[-1] == {"kind": "normalise", "mean": pytest.approx([0.5] * 3), "std": pytest.approx([0.5] * 3)}
    changes = {"data.stream.samples": 2, "method": {"kind": "source"}, "adaptation.batch": 1, "models.backbone.preprocess": backbone.preprocess}
    seen = []
    backbone._module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    run = dtta.run(examples / "fashion/single-sample.json", changes, out=tmp_path / "run", backbone=backbone, progress=False)
    assert run.records.rows == 30 and all(image.shape[1:] == (3, 32, 32) for image in seen)
    assert min(image.min() for image in seen) >= -1 and max(image.max() for image in seen) <= 1
    assert min(image.min() for image in seen) < -0.9


def test_processors_that_do_something_else_are_refused():
    model = vit()
    for processor, message in [
        (ViTImageProcessor(size={"shortest_edge": 40}), "without a crop"),
        (ViTImageProcessor(do_rescale=False), "do_rescale"),
        (ViTImageProcessor(do_resize=False), "does not resize"),
        (ViTImageProcessor(resample=0), "filter"),
    ]:
        with pytest.raises(ValueError, match=message):
            dtta.TorchBackbone.transformers(model, processor)
    with pytest.raises(TypeError, match="none of"):
        dtta.TorchBackbone.transformers(model.vit)
    with pytest.raises(ValueError, match="image_size"):
        dtta.TorchBackbone.transformers(segformer())
    assert dtta.TorchBackbone.transformers(segformer(), SegformerImageProcessor(size={"height": 64, "width": 64})).image == [3, 64, 64]
