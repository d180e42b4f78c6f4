import gc
import os
import pickle
import signal
import threading
import time

import pytest
from conftest import expect_other_threads_go_on, resident

import dtta

numpy = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def denoiser(examples):
    return dtta.Denoiser(examples / "fashion/models/denoiser.json")


def problem(denoiser, count=3):
    noise = numpy.random.default_rng(0)
    images = noise.uniform(-1, 1, (count, *denoiser.image_shape)).astype("float32")
    table = numpy.from_dlpack(denoiser.constants()["class-embeddings"])
    return images, table[:count].copy(), [f"image-{place}" for place in range(count)]


def array(tensor):
    return numpy.from_dlpack(tensor)


def test_a_denoiser_says_what_it_takes(denoiser):
    assert denoiser.image_shape == (1, 28, 28)
    (slot, (width,)), = denoiser.slots.items()
    assert slot == "class-embedding"
    assert denoiser.constants()["class-embeddings"].shape == (10, width)
    assert denoiser.schedule["kind"] == "discrete"


def test_the_gradient_is_that_of_the_losses(denoiser):
    images, condition, ids = problem(denoiser, 2)
    feedback = dtta.Feedback(denoiser, draws=4, seed=3)
    _, gradients = feedback(images, condition, ids)
    gradient = array(gradients["class-embedding"])
    assert gradient.shape == condition.shape
    direction = numpy.random.default_rng(1).normal(size=condition.shape).astype("float32")
    step = 1e-2

    def total(by):
        losses, _ = feedback(images, condition + numpy.float32(by) * direction, ids)
        return array(losses).sum(dtype="float64")

    slope = (total(step) - total(-step)) / (2 * step)
    assert (gradient * direction).sum() == pytest.approx(slope, rel=2e-2)


def test_draws_depend_on_seed_id_and_step_alone(denoiser):
    images, condition, ids = problem(denoiser)
    feedback = dtta.Feedback(denoiser, draws=4, micro_batch=5)
    losses = array(feedback(images, condition, ids)[0])
    alone = [array(feedback(images[n : n + 1], condition[n : n + 1], ids[n : n + 1])[0])[0] for n in range(3)]
    assert losses == pytest.approx(alone, rel=1e-6)
    again = array(feedback(images, {"class-embedding": condition}, ids)[0])
    assert again.tolist() == losses.tolist()
    for other in (feedback(images, condition, ids, 1), feedback(images, condition, ["x", "y", "z"])):
        assert array(other[0]).tolist() != losses.tolist()
    seeded = dtta.Feedback(denoiser, draws=4, seed=1)
    assert array(seeded(images, condition, ids)[0]).tolist() != losses.tolist()


def test_settings_are_those_of_experiments(denoiser):
    images, condition, ids = problem(denoiser)
    late = dtta.Feedback(denoiser, draws=2, timesteps={"sampler": "stratified", "range": [900, 1000]})
    early = dtta.Feedback(denoiser, draws=2, timesteps={"sampler": "stratified", "range": [1, 50]})
    # Of an image without noise, noise is hard to tell.
    assert array(early(images, condition, ids)[0]).mean() > array(late(images, condition, ids)[0]).mean()
    for wrong, message in [
        ({"draws": 0}, "`draws` is 0"),
        ({"timesteps": {"range": [500, 5000]}}, "timesteps"),
        ({"timesteps": {"sampler": "sobol"}}, "sobol"),
        ({"micro_batch": 0}, "micro_batch"),
        ({"loss": "l3"}, "l3"),
    ]:
        with pytest.raises(ValueError, match=message):
            dtta.Feedback(denoiser, **wrong)


def test_however_draws_are_split_their_sum_has_the_same_bits(denoiser):
    images, condition, ids = problem(denoiser, 2)
    feedback = dtta.Feedback(denoiser, draws=10, micro_batch=2, seed=1)
    assert feedback.split(1) == [range(0, 10)] and feedback.split(99) == [range(n, n + 2) for n in range(0, 10, 2)]

    def found(answer):
        losses, gradients = answer
        return losses.tolist(), gradients["class-embedding"].tolist()

    def part(draws, step=3):
        made = feedback.part(images, condition, ids, step, draws=draws)
        assert made.draws == draws
        # As it comes from another process.
        return pickle.loads(pickle.dumps(made))

    whole = found(dtta.sum_parts([part(range(10))]))
    for workers in (2, 3, 4, 5):
        parts = [part(draws) for draws in reversed(feedback.split(workers))]
        assert len(parts) == workers and found(dtta.sum_parts(parts)) == whole
    losses, gradients = feedback(images, condition, ids, 3)
    assert whole[0] == pytest.approx(array(losses).tolist(), rel=1e-6)
    assert numpy.array(whole[1]) == pytest.approx(array(gradients["class-embedding"]), rel=1e-4, abs=1e-7)
    for parts, message in [
        ([], "there are none"),
        ([part(range(0, 4))], "draws 4..10 are missing"),
        ([part(range(0, 6)), part(range(4, 10))], "draws 4..6 are there twice"),
        ([part(range(0, 6)), part(range(6, 10), step=4)], "are of other images"),
    ]:
        with pytest.raises(ValueError, match=message):
            dtta.sum_parts(parts)
    for draws, message in [(range(0, 3), "a multiple of 2"), (range(0, 10, 2), "expected a range"), ([0, 1], "expected a range"), (range(4, 4), "no part")]:
        with pytest.raises(ValueError, match=message):
            feedback.part(images, condition, ids, draws=draws)
    with pytest.raises(ValueError, match="bytes are"):
        dtta.Part.from_bytes(part(range(0, 4)).to_bytes()[:-1])


def test_other_threads_of_python_go_on_during_feedback(denoiser):
    images, condition, ids = problem(denoiser)
    for micro_batch in (1000, 10):
        feedback = dtta.Feedback(denoiser, draws=100, micro_batch=micro_batch)
        expect_other_threads_go_on(lambda: feedback(images, condition, ids))


@pytest.mark.parametrize("parts", [False, True])
def test_ctrl_c_ends_feedback_between_micro_batches(parts, denoiser):
    images, condition, ids = problem(denoiser)
    # A minute of draws and more.
    feedback = dtta.Feedback(denoiser, draws=4_000, micro_batch=8)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = time.monotonic()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            feedback.part(images, condition, ids, draws=range(0, 4_000)) if parts else feedback(images, condition, ids)
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 20
    few = dtta.Feedback(denoiser, draws=20, micro_batch=8)
    assert array(few(images, condition, ids)[0]).shape == (3,)


def test_tensors_are_read_as_they_lie(denoiser):
    images, condition, ids = problem(denoiser)
    feedback = dtta.Feedback(denoiser, draws=2)
    expected = array(feedback(images, condition, ids)[0]).tolist()
    columns = numpy.asfortranarray(images)
    every_other = numpy.zeros((6, *images.shape[1:]), "float32")[::2]
    every_other[:] = images
    backwards = images[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1]
    read_only = images.copy()
    read_only.flags.writeable = False
    for view in (columns, every_other, backwards, read_only):
        assert array(feedback(view, condition, ids)[0]).tolist() == expected


def test_what_is_no_such_tensor_is_refused_by_name(denoiser):
    images, condition, ids = problem(denoiser)
    feedback = dtta.Feedback(denoiser, draws=1)
    for arguments, error, message in [
        ((images.astype("float64"), condition, ids), TypeError, "images holds float64, expected float32"),
        ((images.tolist(), condition, ids), TypeError, "images is a <class 'list'>"),
        ((images[:2], condition, ids), ValueError, "images have shape"),
        ((images, condition[:2], ids), ValueError, "expected 3 rows"),
        ((images, {"clas-embedding": condition}, ids), Exception, "clas-embedding"),
        ((images, condition[:, :-1], ids), Exception, "class-embedding"),
        ((images, condition, []), ValueError, "one or more ids"),
    ]:
        with pytest.raises(error, match=message):
            feedback(*arguments)


def test_a_tensor_outlives_what_it_came_from(denoiser):
    images, condition, ids = problem(denoiser)
    losses, gradients = dtta.Feedback(denoiser, draws=1)(images, condition, ids)
    view, listed = array(losses), losses.tolist()
    del losses, gradients
    gc.collect()
    assert view.tolist() == listed and all(value > 0 for value in listed)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_ten_thousand_tensors_leave_no_memory_behind(denoiser):
    table = denoiser.constants()["class-embeddings"]
    images, condition, ids = problem(denoiser, 1)
    feedback = dtta.Feedback(denoiser, draws=1)

    def calls(count):
        for turn in range(count):
            array(table)
            # Never taken over, with a version and without.
            table.__dlpack__()
            table.__dlpack__(max_version=(1, 0), copy=True)
            if turn % 100 == 0:
                feedback(images, condition, ids)
        gc.collect()

    calls(1000)
    before = resident()
    calls(10_000)
    # A table that leaked each time would be 10,000 times its 10 × 96 numbers or more.
    assert resident() - before < 8 << 20
