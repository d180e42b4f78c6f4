"""Renders frames, class masks and depth of Freedoom's maps with ViZDoom, split by map, into packed safetensors files.

    python -m venv venv && venv/bin/pip install -r examples/doom/requirements.txt
    venv/bin/python examples/doom/render.py --output examples/doom/data
    venv/bin/python examples/doom/render.py --output examples/doom/data --sample 200   # the committed sample as well

A view is drawn by warping the player near an object of the map and turning it. What a view can get wrong is removed: see `fault`.
"""

import argparse
import json
import math
import multiprocessing
import os
import pathlib
import tempfile

import numpy
import vizdoom
from safetensors.numpy import save as serialized

CLASSES = ["wall", "floor", "ceiling", "sky", "character", "thing"]
WALL, FLOOR, CEILING, SKY, CHARACTER, THING = range(len(CLASSES))
HEIGHT, WIDTH, BLOCK = 48, 64, 5  # rendered at 240 x 320; one stored pixel is a block of 5 x 5
GAMMA = 0.6  # the game is dark: mean 0.14 before, about 0.29 after
FLAT = 1  # ViZDoom's label of floors and ceilings; 0 is walls and sky; objects count down from 255
FARTHEST = 127  # the depth of the sky; no wall is that far but for a few
CHARACTERS = {"Monster", "Player"}

# Split by map, in both games alike: (game, map, number within its game or episode).
MAPS = [("freedoom2", f"MAP{number:02}", number) for number in range(1, 33)]
MAPS += [("freedoom1", f"E{episode}M{number}", number) for episode in range(1, 5) for number in range(1, 10)]
TEST = {"freedoom2": {3, 9, 15, 21, 27}, "freedoom1": {2, 5, 8}}
VALIDATION = {"freedoom2": {6, 12, 18, 24, 30}, "freedoom1": {4}}
FRAMES = {"train": 840, "validation": 84, "test": 36}  # of one map at most


def split_of(game, number):
    return "test" if number in TEST[game] else "validation" if number in VALIDATION[game] else "train"


PROVENANCE = {
    "source": "Freedoom (https://freedoom.github.io) as shipped with ViZDoom 1.3.2, rendered with ViZDoom (https://vizdoom.farama.org)",
    "licence": "BSD-3-Clause",
}


def start(game_name, level, seed):
    """A game without anything drawn over the scene."""
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(pathlib.Path(vizdoom.__file__).parent / f"{game_name}.wad"))
    game.set_doom_map(level)
    # The engine writes its settings where it runs unless told otherwise.
    game.set_doom_config_path(str(pathlib.Path(tempfile.gettempdir()) / f"vizdoom-{os.getpid()}.ini"))
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X240)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_depth_buffer_enabled(True)
    game.set_labels_buffer_enabled(True)
    game.set_objects_info_enabled(True)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_render_hud(False)
    game.set_render_weapon(False)
    game.set_render_crosshair(False)
    game.set_render_messages(False)
    game.set_render_screen_flashes(False)
    game.set_render_decals(False)
    game.set_render_particles(False)
    game.set_render_effects_sprites(False)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_available_game_variables(
        [vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y, vizdoom.GameVariable.ANGLE]
    )
    game.set_episode_timeout(0)
    # Secrets are announced over RGB and depth unless both of these are off.
    game.add_game_args("+sv_cheats 1 +cl_showsecretmessage 0 +con_midtime 0")
    game.set_seed(seed)
    game.init()
    return game


def new_episode(game):
    """The map from its start. Cheats end with an episode."""
    game.new_episode()
    for cheat in ("god", "notarget", "freeze"):
        game.send_game_command(cheat)
    game.advance_action(2)


def blocks(plane):
    """`[H*5, W*5, ...]` as `[H, W, 25, ...]`."""
    rest = plane.shape[2:]
    split = plane.reshape(HEIGHT, BLOCK, WIDTH, BLOCK, *rest).swapaxes(1, 2)
    return split.reshape(HEIGHT, WIDTH, BLOCK * BLOCK, *rest)


def classes(state):
    """The class of each rendered pixel. The camera looks straight ahead, so the horizon parts floors from ceilings."""
    labels = state.labels_buffer
    output = numpy.full(labels.shape, WALL, numpy.uint8)
    rows = numpy.arange(labels.shape[0])[:, None]
    output[(labels == FLAT) & (rows >= labels.shape[0] // 2)] = FLOOR
    output[(labels == FLAT) & (rows < labels.shape[0] // 2)] = CEILING
    output[(labels == 0) & (state.depth_buffer == FARTHEST)] = SKY
    for label in state.labels:
        output[labels == label.value] = CHARACTER if label.object_category in CHARACTERS else THING
    return output


def pooled(state):
    """Image `[3, H, W]` u8 (block means, then gamma), mask `[H, W]` u8 (the most common class), depth `[H, W]` u16 (medians)."""
    mean = blocks(state.screen_buffer.astype(numpy.float64)).mean(axis=2)
    image = numpy.rint(255 * (mean / 255) ** GAMMA).astype(numpy.uint8).transpose(2, 0, 1)
    counts = (blocks(classes(state))[..., None] == numpy.arange(len(CLASSES))).sum(axis=2)
    mask = counts.argmax(axis=-1).astype(numpy.uint8)
    depth = numpy.median(blocks(state.depth_buffer), axis=2).astype(numpy.uint16)
    return image, mask, depth


def fault(state, depth):
    """Why a view is not a scene, or None."""
    rendered = state.depth_buffer
    if numpy.median(depth) < 6:
        return "near wall"
    if (rendered == 0).mean() > 0.005:
        return "void"
    # The eye at floor height: the floor's plane gets depth 0 and a band of far values at the bottom.
    if (depth[-3:] > 100).mean() > 0.05 or (depth[-3:] == 0).mean() > 0.05:
        return "eye at floor"
    if any((state.labels_buffer == label.value).mean() > 0.3 for label in state.labels):
        return "inside an object"
    return None


def render(task):
    """Up to `count` frames of one map: `(images, masks, depths, ids, faults)`. A function of the task alone."""
    game_name, level, count, seed = task
    random = numpy.random.default_rng([seed, *level.encode()])
    game = start(game_name, level, seed)
    new_episode(game)
    places = [
        (item.position_x, item.position_y)
        for item in game.get_state().objects
        if item.category != "Self" and item.name != "DoomPlayer"
    ]
    images, masks, depths, ids, faults = [], [], [], [], {}
    for attempt in range(count * 4):
        if len(images) == count:
            break
        x, y = places[random.integers(len(places))]
        away, direction = random.uniform(40, 260), random.uniform(0, 2 * math.pi)
        target = x + away * math.cos(direction), y + away * math.sin(direction)
        # Half of the views look towards the object, so that characters and things are not too rare.
        look = random.uniform(0, 360)
        if random.random() < 0.5:
            look = math.degrees(direction) + 180 + random.uniform(-40, 40)
        if game.is_episode_finished():
            new_episode(game)
        game.send_game_command(f"warp {target[0]:.0f} {target[1]:.0f}")
        game.advance_action(3)
        if game.is_episode_finished():
            faults["finished"] = faults.get("finished", 0) + 1
            continue
        angle = game.get_game_variable(vizdoom.GameVariable.ANGLE)
        turn = (angle - look + 180) % 360 - 180
        game.make_action([turn], 1)
        state = game.get_state()
        if state is None:
            faults["finished"] = faults.get("finished", 0) + 1
            continue
        here = game.get_game_variable(vizdoom.GameVariable.POSITION_X), game.get_game_variable(vizdoom.GameVariable.POSITION_Y)
        image, mask, depth = pooled(state)
        reason = "not moved" if math.dist(here, target) > 48 else fault(state, depth)
        if reason is None and images:
            differences = numpy.abs(numpy.stack(images).astype(numpy.int16) - image).mean(axis=(1, 2, 3))
            reason = "near duplicate" if differences.min() < 3 else None
        if reason is not None:
            faults[reason] = faults.get(reason, 0) + 1
            continue
        images.append(image)
        masks.append(mask)
        depths.append(depth)
        ids.append(f"{game_name}/{level}/{attempt:05}")
    game.close()
    return images, masks, depths, ids, faults


def save(path, images, masks, depths, ids):
    # One metadata key, and tensors in one order: the same frames make the same bytes.
    description = {
        "format": "dtta-packed-sample/1",
        "provenance": PROVENANCE,
        "class_names": CLASSES,
        "ids": ids,
        "depth_scale": 1.0,
    }
    tensors = {"images": numpy.stack(images), "masks": numpy.stack(masks), "depths": numpy.stack(depths)}
    path.write_bytes(serialized(tensors, metadata={"dtta": json.dumps(description)}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder of train, validation and test.safetensors")
    parser.add_argument("--splits", nargs="+", choices=FRAMES, default=list(FRAMES))
    parser.add_argument("--sample", type=int, metavar="N", help="also write N test frames, spread over all maps, to test-sample.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(arguments.processes, maxtasksperchild=1) as pool:
        for split in arguments.splits:
            count = FRAMES[split]
            tasks = [(game, level, count, arguments.seed) for game, level, number in MAPS if split_of(game, number) == split]
            frames, faults = [], {}
            for images, masks, depths, ids, rejected in pool.imap(render, tasks):
                frames.append(list(zip(images, masks, depths, ids)))
                for reason, number in rejected.items():
                    faults[reason] = faults.get(reason, 0) + number
            everything = [frame for level in frames for frame in level]
            save(arguments.output / f"{split}.safetensors", *map(list, zip(*everything)))
            print(f"{split}: {len(everything)} frames of {len(tasks)} maps; left out: {faults}", flush=True)
            if split == "test" and arguments.sample:
                # The first frames of every map in turn, until there are enough.
                rounds = [level[place] for place in range(count) for level in frames if place < len(level)]
                chosen = sorted(rounds[: arguments.sample], key=lambda frame: frame[3])
                save(arguments.output / "test-sample.safetensors", *map(list, zip(*chosen)))


if __name__ == "__main__":
    main()
