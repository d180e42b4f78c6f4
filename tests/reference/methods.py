"""Writes the fixtures that hold dtta's adaptation methods to PyTorch: run by hand, the results are committed.

    OMP_NUM_THREADS=1 python tests/reference/methods.py [core/engine/tests/fixtures/methods]

Needs torch, torchvision, safetensors. Each network (one with BatchNorm, one with GroupNorm) is adapted to three batches by each
method, written down plainly after its paper and its authors' code (the module docs under core/engine/src/methods say where the two
differ). Networks get `NET.json` and `NET.safetensors`; `NET.expected.safetensors` holds the images and, as METHOD/PARAMETER, every
parameter that moved, after three batches. `methods.json` holds each method's settings as an experiment writes them, and how many
images each batch learned from, so that no case passes because nothing happened.

Randomness is dtta's: a ChaCha8 generator keyed by (purpose, seed, sample id, step, view).
"""

import copy
import hashlib
import json
import math
import pathlib
import struct
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parent))
ARGUMENTS, sys.argv = sys.argv, sys.argv[:1]
from models import TinyResNet, randomise  # noqa: E402

OUT = pathlib.Path(ARGUMENTS[1] if len(ARGUMENTS) > 1 else "core/engine/tests/fixtures/methods")
SEED, BATCHES, SIZE, CLASSES = 5, 3, 6, 5
IMAGE = [3, 8, 8]
COMMON = dict(kind="resnet", image=IMAGE, classes=CLASSES, block="basic", blocks=[1, 1], widths=[4, 8], stem="small")
NETS = {"batch": COMMON | {"norm": {"kind": "batch"}}, "group": COMMON | {"norm": {"kind": "group", "groups": 2}}}
SGD = {"kind": "sgd", "learning_rate": 0.02, "momentum": 0.9}
# Gentler than the defaults where a random network would be sure of nothing, so that every path is walked.
METHODS = {
    "entropy": {"optimizer": SGD},
    "eata": {"optimizer": SGD, "margin": 0.8, "redundant": 0.95, "fisher": {"weight": 20.0, "samples": 12}},
    "sar": {"optimizer": SGD, "margin": 0.8, "radius": 0.05, "recover": 0.0},
    "sar_recovering": {"optimizer": SGD, "margin": 0.8, "radius": 0.05, "recover": 0.98},
    "cotta": {"optimizer": {"kind": "adam", "learning_rate": 0.01}, "views": 3, "momentum": 0.9, "restore": 0.2},
    "memo": {"optimizer": {"kind": "sgd", "learning_rate": 0.05}, "views": 4},
    "roid": {"optimizer": {"kind": "sgd", "learning_rate": 0.001, "momentum": 0.9}},
    "deyo": {"optimizer": SGD, "margin": 0.9, "falls": 0.05, "patches": 4},
    "rotta": {"optimizer": {"kind": "adam", "learning_rate": 0.01}, "memory": 10, "every": 6, "statistics": 0.2, "rate": 0.1},
}


# --- dtta's keyed randomness ------------------------------------------------------------------------------------------------------


def chacha8(key):
    """The words of ChaCha with 8 rounds, a zero nonce and a counter from 0."""
    state = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key))
    counter = 0
    while True:
        block = state + [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
        x = list(block)

        def quarter(a, b, c, d):
            for first, second, third, turn in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]:
                x[first] = (x[first] + x[second]) & 0xFFFFFFFF
                mixed = x[third] ^ x[first]
                x[third] = ((mixed << turn) | (mixed >> (32 - turn))) & 0xFFFFFFFF

        for _ in range(4):
            for q in [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]:
                quarter(*q)
            for q in [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]:
                quarter(*q)
        yield from ((a + b) & 0xFFFFFFFF for a, b in zip(x, block))
        counter += 1


def uniform(purpose, sample, first, second):
    digest = hashlib.sha256()
    fields = [b"dtta", purpose.encode(), struct.pack("<Q", SEED), sample.encode(), struct.pack("<Q", first), struct.pack("<Q", second)]
    for field in fields:
        digest.update(struct.pack("<Q", len(field)) + field)
    words = chacha8(digest.digest())
    while True:
        low, high = next(words), next(words)
        yield ((low | high << 32) >> 11) / 2**53


def view(images, ids, step, number):
    """Random views: colour about each image's own mean, then an affine map, then noise."""
    seen = []
    for image, sample in zip(images.detach().double(), ids):
        draws = uniform("view", sample, step, number)
        flip = next(draws) < 0.5
        amounts = [next(draws) for _ in range(7)]
        angle, down, right, scale, contrast, brightness, saturation = (
            strength * (2 * u - 1) for strength, u in zip([15.0, 1 / 16, 1 / 16, 0.1, 0.3, 0.4, 0.5], amounts)
        )
        angle = math.radians(angle)
        mean, deviation = image.mean(), image.std(unbiased=False)
        x = mean + (1 + contrast) * (image - mean) + brightness * deviation
        grey = x.mean(0, keepdim=True)
        x = grey + (1 + saturation) * (x - grey)
        _, h, w = x.shape
        rows, columns = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
        dy = rows - (h - 1) / 2 - down * h
        dx = columns - (w - 1) / 2
        dx = (-dx if flip else dx) - right * w
        to_row = (math.cos(angle) * dy - math.sin(angle) * dx) / (1 + scale)
        to_column = (math.sin(angle) * dy + math.cos(angle) * dx) / (1 + scale)
        grid = torch.stack([to_column / ((w - 1) / 2), to_row / ((h - 1) / 2)], -1)
        x = F.grid_sample(x[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
        noise = torch.empty(x.numel(), dtype=torch.double)
        for n in range(x.numel()):
            first, second = next(draws), next(draws)
            noise[n] = math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)
        seen.append(x + 0.02 * deviation * noise.reshape(x.shape))
    return torch.stack(seen).float()


# --- what the methods share -------------------------------------------------------------------------------------------------------


def entropy(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def cross_entropy(target, logits):
    return -(target.softmax(1) * logits.log_softmax(1)).sum(1)


def make_optimizer(settings, parameters):
    settings = dict(settings)
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[settings.pop("kind")]
    return make(parameters, lr=settings.pop("learning_rate"), **settings)


class Setting:
    """A network in the mode that the methods take: BatchNorm layers use the batch and keep nothing of it."""

    def __init__(self, net, settings, every):
        self.source = copy.deepcopy(net)
        self.model = self.ready(copy.deepcopy(net))
        self.settings = settings
        self.names = [
            name
            for name, _ in self.model.named_parameters()
            if every or isinstance(self.model.get_submodule(name.rsplit(".", 1)[0]), (nn.BatchNorm2d, nn.GroupNorm))
        ]
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self.names)
        self.rest()
        self.used = []

    def rest(self):
        self.optimizer = make_optimizer(self.settings["optimizer"], self.parameters())

    @staticmethod
    def ready(net):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.running_mean = module.running_var = None
        return net

    def parameters(self):
        named = dict(self.model.named_parameters())
        return [named[name] for name in self.names]

    def of_source(self):
        named = dict(self.source.named_parameters())
        return [named[name].detach() for name in self.names]

    def step(self, loss):
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def logits(net, images):
    return net(images)[1]


# --- the methods ------------------------------------------------------------------------------------------------------------------


def tent(s, batches):
    for images, _ in batches:
        s.used.append(len(images))
        s.step(entropy(logits(s.model, images)).mean())


def eata(s, batches):
    margin, d_margin = s.settings["margin"] * math.log(CLASSES), s.settings["redundant"]
    weight, samples = s.settings["fisher"]["weight"], s.settings["fisher"]["samples"]
    probs, fisher, count, seen = None, None, 0, 0
    frozen = s.ready(copy.deepcopy(s.source))
    for images, _ in batches:
        if seen < samples:
            named = dict(frozen.named_parameters())
            out = logits(frozen, images)
            loss = F.cross_entropy(out, out.argmax(1))
            gradients = torch.autograd.grad(loss, [named[name] for name in s.names])
            squares = [g**2 for g in gradients]
            fisher = squares if fisher is None else [f + g for f, g in zip(fisher, squares)]
            count, seen = count + 1, seen + len(images)
        out = logits(s.model, images)
        each = entropy(out)
        reliable = each < margin
        if probs is not None:
            reliable = reliable & (F.cosine_similarity(probs[None], out.softmax(1), dim=1).abs() < d_margin)
        s.used.append(int(reliable.sum()))
        if not reliable.any():
            continue
        newest = out.detach().softmax(1)[reliable].mean(0)
        probs = newest if probs is None else 0.9 * probs + 0.1 * newest
        kept = each[reliable]
        loss = (kept / torch.exp(kept.detach() - margin)).mean()
        for p, start, f in zip(s.parameters(), s.of_source(), fisher):
            loss = loss + weight * (f / count * (p - start) ** 2).sum()
        s.step(loss)


def sar(s, batches):
    margin, ema = s.settings["margin"] * math.log(CLASSES), None
    for images, _ in batches:
        each = entropy(logits(s.model, images))
        reliable = each < margin
        if not reliable.any():
            s.used.append(0)
            continue
        gradients = torch.autograd.grad(each[reliable].mean(), s.parameters())
        norm = torch.stack([g.norm() for g in gradients]).norm()
        before = [p.detach().clone() for p in s.parameters()]
        with torch.no_grad():
            for p, g in zip(s.parameters(), gradients):
                p.add_(g * s.settings["radius"] / (norm + 1e-12))
        each = entropy(logits(s.model, images))
        reliable = reliable & (each < margin)
        s.used.append(int(reliable.sum()))
        loss = each[reliable].mean()
        s.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p, old in zip(s.parameters(), before):
                p.copy_(old)
        s.optimizer.step()
        ema = loss.item() if ema is None else 0.9 * ema + 0.1 * loss.item()
        if ema < s.settings["recover"]:
            with torch.no_grad():
                for p, start in zip(s.parameters(), s.of_source()):
                    p.copy_(start)
            s.rest()
            ema = None
            s.used.append("recovered")


def cotta(s, batches):
    teacher = copy.deepcopy(s.model)
    anchor = s.ready(copy.deepcopy(s.source))
    for images, ids in batches:
        with torch.no_grad():
            target = logits(teacher, images)
            if logits(anchor, images).softmax(1).max(1)[0].mean() < 0.92:
                views = [logits(teacher, view(images, ids, 0, n)) for n in range(s.settings["views"])]
                target = torch.stack(views).mean(0)
        s.used.append(len(images))
        s.step(cross_entropy(target, logits(s.model, images)).mean())
        with torch.no_grad():
            for (name, t), (_, p) in zip(teacher.named_parameters(), s.model.named_parameters()):
                t.copy_(s.settings["momentum"] * t + (1 - s.settings["momentum"]) * p)
            for name, p, start in zip(s.names, s.parameters(), s.of_source()):
                draws = uniform("restore", f"{ids[0]}/{name}", 0, 0)
                mask = torch.tensor([next(draws) < s.settings["restore"] for _ in range(p.numel())]).reshape(p.shape).float()
                p.copy_(start * mask + p * (1 - mask))
    return {f"teacher/{name}": p.detach() for name, p in teacher.named_parameters()}


def memo(s, batches):
    for images, ids in batches:
        seen = torch.stack([view(images, ids, 0, n) for n in range(s.settings["views"])], 1)
        losses = []
        for views in seen:
            out = logits(s.model, views)
            log = out - out.logsumexp(1, keepdim=True)
            mean = log.logsumexp(0) - math.log(len(views))
            losses.append(-(mean * mean.exp()).sum())
        s.used.append(len(images))
        s.step(torch.stack(losses).mean())


def roid(s, batches):
    probs = torch.full([CLASSES], 1 / CLASSES)
    for images, ids in batches:
        out = logits(s.model, images)
        p = out.softmax(1)
        with torch.no_grad():
            diversity = 1 - F.cosine_similarity(probs[None], p, dim=1)
            diversity = (diversity - diversity.min()) / (diversity.max() - diversity.min())
            mask = diversity < diversity.mean()
            certainty = -entropy(out)
            certainty = (certainty - certainty.min()) / (certainty.max() - certainty.min())
            weights = torch.exp(diversity * certainty / (1 / 3))
            weights[mask] = 0.0
            probs = 0.9 * probs + 0.1 * p.mean(0)
        clipped = p.clamp(0.0, 0.99)
        ratio = -(clipped * torch.log(clipped / (1 - clipped) + 1e-5)).sum(1)
        loss = (ratio * weights)[~mask].sum() / len(images)
        kept = [sample for sample, out_of_it in zip(ids, mask) if not out_of_it]
        s.used.append(len(kept))
        other = logits(s.model, view(images[~mask], kept, 0, 0))
        own = out[~mask]
        consistency = 0.5 * cross_entropy(own, other) + 0.5 * cross_entropy(other, own)
        loss = loss + (consistency * weights[~mask]).sum() / len(images)
        s.step(loss)
        with torch.no_grad():
            for q, start in zip(s.parameters(), s.of_source()):
                q.copy_(0.99 * q + 0.01 * start)


def deyo(s, batches):
    margin, certain, side = s.settings["margin"] * math.log(CLASSES), 0.4 * math.log(CLASSES), s.settings["patches"]
    for images, ids in batches:
        out = logits(s.model, images)
        each = entropy(out)
        sure = each < margin
        if not sure.any():
            s.used.append(0)
            continue
        shuffled = []
        for image, sample, chosen in zip(images, ids, sure):
            if not chosen:
                continue
            draws = uniform("shuffle", sample, 0, 0)
            order = torch.tensor([next(draws) for _ in range(side * side)], dtype=torch.double).argsort(stable=True)
            c, h, w = image.shape
            patches = image.reshape(c, side, h // side, side, w // side).permute(1, 3, 0, 2, 4).reshape(side * side, c, h // side, w // side)
            patches = patches[order].reshape(side, side, c, h // side, w // side).permute(2, 0, 3, 1, 4).reshape(c, h, w)
            shuffled.append(patches)
        with torch.no_grad():
            after = logits(s.model, torch.stack(shuffled)).softmax(1)
        before = out[sure].softmax(1).detach()
        label = before.argmax(1, keepdim=True)
        falls = (before.gather(1, label) - after.gather(1, label))[:, 0]
        chosen = falls > s.settings["falls"]
        s.used.append(int(chosen.sum()))
        if not chosen.any():
            continue
        kept = each[sure][chosen]
        weights = 1 / torch.exp(kept.detach() - certain) + 1 / torch.exp(-falls[chosen])
        s.step((kept * weights).mean())


class Memory:
    def __init__(self, capacity):
        self.capacity, self.data = capacity, [[] for _ in range(CLASSES)]

    def score(self, age, uncertainty):
        return 1 / (1 + math.exp(-age / self.capacity)) + uncertainty / math.log(CLASSES)

    def add(self, image, label, uncertainty):
        if self.room(label, self.score(0, uncertainty)):
            self.data[label].append([image, uncertainty, 0])
        for item in sum(self.data, []):
            item[2] += 1

    def room(self, label, score):
        if len(self.data[label]) < self.capacity / CLASSES:
            if sum(map(len, self.data)) < self.capacity:
                return True
            most = max(map(len, self.data))
            return self.remove([n for n in range(CLASSES) if len(self.data[n]) == most], score)
        return self.remove([label], score)

    def remove(self, labels, score):
        worst = None
        for label in labels:
            for index, (_, uncertainty, age) in enumerate(self.data[label]):
                own = self.score(age, uncertainty)
                if worst is None or own >= worst[0]:
                    worst = (own, label, index)
        if worst is None:
            return True
        if worst[0] > score:
            self.data[worst[1]].pop(worst[2])
            return True
        return False


class RobustNorm(nn.BatchNorm2d):
    share = 0.2

    def forward(self, x):
        if self.training:
            variance, mean = torch.var_mean(x, dim=[0, 2, 3], unbiased=False)
            mean = (1 - self.share) * self.running_mean + self.share * mean
            variance = (1 - self.share) * self.running_var + self.share * variance
            self.running_mean, self.running_var = mean.detach(), variance.detach()
        else:
            mean, variance = self.running_mean, self.running_var
        x = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def rotta(s, batches):
    s.model.load_state_dict(s.source.state_dict(), strict=False)
    for (_, module), (_, of_source) in zip(s.model.named_modules(), s.source.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = RobustNorm
            module.running_mean, module.running_var = of_source.running_mean.clone(), of_source.running_var.clone()
    teacher = copy.deepcopy(s.model)
    memory, seen = Memory(s.settings["memory"]), 0
    for images, ids in batches:
        with torch.no_grad():
            out = logits(teacher.eval(), images)
        uncertain = entropy(out)
        for n, sample in enumerate(ids):
            memory.add(images[n], int(out[n].argmax()), float(uncertain[n]))
            seen += 1
            if seen % s.settings["every"]:
                continue
            s.model.train()
            teacher.train()
            kept = sum(memory.data, [])
            stack = torch.stack([item[0] for item in kept])
            ages = torch.tensor([item[2] / memory.capacity for item in kept])
            with torch.no_grad():
                target = logits(teacher, stack)
            own = logits(s.model, view(stack, [f"{sample}/{k}" for k in range(len(kept))], 0, 0))
            weights = torch.exp(-ages) / (1 + torch.exp(-ages))
            s.used.append(len(kept))
            s.step((cross_entropy(target, own) * weights).mean())
            with torch.no_grad():
                for t, p in zip(teacher.parameters(), s.model.parameters()):
                    t.copy_((1 - s.settings["rate"]) * t + s.settings["rate"] * p)
    buffers = {f"student/{name}": b for name, b in s.model.named_buffers() if "running" in name}
    of_teacher = {f"teacher/{name}": p.detach() for name, p in teacher.named_parameters()}
    return buffers | of_teacher | {f"teacher/{name}": b for name, b in teacher.named_buffers() if "running" in name}


ALGORITHMS = {"entropy": tent, "sar_recovering": sar} | {m.__name__: m for m in [eata, sar, cotta, memo, roid, deyo, rotta]}


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    used = {}
    for seed, (name, config) in enumerate(NETS.items()):
        generator = torch.Generator().manual_seed(40 + seed)
        net = TinyResNet(config).eval()
        randomise(net, generator)
        images = torch.randn(BATCHES, SIZE, *IMAGE, generator=generator) * 0.7
        # Smooth, so that shuffling patches matters.
        images = images + 2 * F.interpolate(torch.randn(BATCHES * SIZE, 3, 2, 2, generator=generator), size=IMAGE[1:], mode="bilinear").reshape(images.shape)
        with torch.no_grad():
            # Predictions of all classes: a random network would say the same of everything.
            features = copy.deepcopy(net).train()(images.flatten(0, 1))[0]
            features = features - features.mean(0)
            while entropy(features @ net.fc.weight.T).mean() > 0.6 * math.log(CLASSES):
                net.fc.weight.mul_(1.1)
            features = copy.deepcopy(net).train()(images.flatten(0, 1))[0]
            net.fc.bias.copy_(-net.fc.weight @ features.mean(0))
        batches = [(images[b], [f"{b}/{n}" for n in range(SIZE)]) for b in range(BATCHES)]
        expected = {"images": images}
        for method, settings in METHODS.items():
            setting = Setting(net, settings, method in ("cotta", "memo"))
            more = ALGORITHMS[method](setting, batches) or {}
            for key, parameter in zip(setting.names, setting.parameters()):
                expected[f"{method}/student/{key}"] = parameter.detach()
            expected |= {f"{method}/{key}": value for key, value in more.items() if "num_batches" not in key}
            used[f"{name}/{method}"] = setting.used
            moved = max(float((p.detach() - q).abs().max()) for p, q in zip(setting.parameters(), setting.of_source()))
            print(f"{name:6} {method:15} used {setting.used}, moved {moved:.3g}")
        (OUT / f"{name}.json").write_text(json.dumps(config) + "\n")
        state = {n: t for n, t in net.state_dict().items() if "num_batches" not in n}
        save_file({n: t.contiguous() for n, t in state.items()}, OUT / f"{name}.safetensors")
        save_file({n: t.clone().contiguous() for n, t in expected.items()}, OUT / f"{name}.expected.safetensors")
    (OUT / "methods.json").write_text(json.dumps({"torch": torch.__version__, "seed": SEED, "methods": METHODS, "used": used}, indent=1) + "\n")
    for path in OUT.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
