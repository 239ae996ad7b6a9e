import dataclasses
import itertools
import math
import pickle

import numpy as np
import pytest
import torch

from leo_diffusers import MotionControl


NUM_FRAMES, MOTION_DIM = 24, 6


def random_codes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def codes() -> torch.Tensor:
    return random_codes(NUM_FRAMES, MOTION_DIM)


@pytest.fixture
def origin() -> torch.Tensor:
    return random_codes(MOTION_DIM, seed=1)


def controlled(codes: torch.Tensor, origin: torch.Tensor, chunk_size: int = NUM_FRAMES, **control) -> torch.Tensor:
    return torch.cat(list(MotionControl(**control).apply(codes.split(chunk_size), origin)))


# --- scale and values ---


def test_the_default_changes_nothing(codes, origin):
    for control in ({}, {"scale": 1}, {"scale": {}}, {"scale": {2: 1.0}}, {"smoothing": 0}):
        assert torch.equal(controlled(codes, origin, **control), codes)


def test_zero_freezes_at_the_origin(codes, origin):
    assert torch.equal(controlled(codes, origin, scale=0), origin.expand(NUM_FRAMES, -1))
    frozen = controlled(codes, origin, scale={2: 0.0})
    assert (frozen[:, 2] == origin[2]).all()
    others = [0, 1, 3, 4, 5]
    assert torch.equal(frozen[:, others], codes[:, others])


@pytest.mark.parametrize("scale", [0.3, 2.5, -1.0])
def test_scale_multiplies_the_motion_from_the_origin(codes, origin, scale):
    torch.testing.assert_close(controlled(codes, origin, scale=scale), origin + scale * (codes - origin))
    by_direction = controlled(codes, origin, scale=dict.fromkeys(range(MOTION_DIM), scale))
    assert torch.equal(by_direction, controlled(codes, origin, scale=scale))


def test_factors_multiply_and_motions_add(codes, origin):
    twice = controlled(controlled(codes, origin, scale=0.5), origin, scale=3.0)
    torch.testing.assert_close(twice, controlled(codes, origin, scale=1.5))
    other = random_codes(NUM_FRAMES, MOTION_DIM, seed=2)
    control = {"scale": {0: 2.0, 4: 0.0}, "smoothing": 1.5}
    together = controlled(codes + other - origin, origin, **control)
    apart = controlled(codes, origin, **control) + controlled(other, origin, **control) - origin
    torch.testing.assert_close(together, apart)


def test_directions_do_not_touch_each_other(codes, origin):
    together = controlled(codes, origin, scale={0: 2.0, 1: 0.5}, values={2: 0.7, 3: -1})
    one_by_one = controlled(codes, origin, scale={0: 2.0})
    for control in ({"scale": {1: 0.5}}, {"values": {2: 0.7}}, {"values": {3: -1}}):
        one_by_one = controlled(one_by_one, origin, **control)
    assert torch.equal(together, one_by_one)


def test_values_replace_the_motion_from_the_origin(codes, origin):
    curve = torch.linspace(-1, 1, NUM_FRAMES)
    output = controlled(codes, origin, chunk_size=5, scale=3.0, smoothing=2, values={1: 0.5, 4: curve})
    torch.testing.assert_close(output[:, 1], (origin[1] + 0.5).expand(NUM_FRAMES))
    torch.testing.assert_close(output[:, 4], origin[4] + curve)


def test_kinds_of_curves_agree(codes, origin):
    curve = np.linspace(0, 1, NUM_FRAMES + 3)  # the rest of a longer one is not used
    kinds = [curve, curve.tolist(), tuple(curve), torch.from_numpy(curve), torch.from_numpy(curve).half().double()]
    expected = controlled(codes, origin, values={0: kinds[0]})
    for kind in kinds[1:]:
        torch.testing.assert_close(controlled(codes, origin, values={0: kind}), expected, rtol=0, atol=1e-3)
    for amount in (0.25, np.float32(0.25), torch.tensor(0.25)):
        assert (controlled(codes, origin, values={0: amount})[:, 0] == origin[0] + 0.25).all()


# --- smoothing ---


@pytest.mark.parametrize("smoothing", [0.4, 1, 2.5, 30])
def test_smoothing_leaves_a_standstill_and_even_motion(origin, smoothing):
    still = origin.expand(NUM_FRAMES, -1)
    torch.testing.assert_close(controlled(still, torch.zeros(MOTION_DIM), smoothing=smoothing), still)
    reach = MotionControl(smoothing=smoothing).look_ahead
    ramp = torch.arange(2 * reach + 10.0)[:, None] * 0.1 + origin
    inner = slice(reach, len(ramp) - reach)
    torch.testing.assert_close(controlled(ramp, origin, smoothing=smoothing)[inner], ramp[inner], rtol=1e-4, atol=1e-4)


def test_smoothing_of_an_impulse_is_a_gaussian():
    impulse = torch.zeros(41, 1)
    impulse[20] = 1.0
    response = controlled(impulse, torch.zeros(1), smoothing=2.0)[:, 0]
    distance = torch.arange(41) - 20
    gaussian = torch.exp(-0.5 * (distance / 2.0) ** 2) / (2.0 * math.sqrt(2 * math.pi))
    assert torch.equal(response, response.flip(0))  # no lag
    assert response.argmax() == 20
    torch.testing.assert_close(response.sum(), torch.tensor(1.0))
    torch.testing.assert_close(response, gaussian, rtol=0, atol=2e-3)


@pytest.mark.parametrize("smoothing", [1.0, 2.0])
def test_smoothing_removes_jitter_and_keeps_slow_motion(smoothing):
    frames = torch.arange(200.0)
    slow, jitter = torch.sin(frames * 2 * math.pi / 50), torch.cos(frames * math.pi)
    for motion, kept in ((slow, 1.0), (jitter, 0.0)):
        output = controlled(motion[:, None], torch.zeros(1), smoothing=smoothing)[10:-10, 0]
        assert (output - kept * motion[10:-10]).abs().max() < 0.04


@pytest.mark.parametrize("smoothing", [0, 0.2, 1, 3, 20])
@pytest.mark.parametrize("chunk_size", [1, 2, 5, 23])
def test_chunks_do_not_change_a_single_bit(codes, origin, smoothing, chunk_size):
    control = {"scale": {1: 1.5}, "values": {2: torch.linspace(0, 1, NUM_FRAMES)}, "smoothing": smoothing}
    expected = controlled(codes, origin, **control)
    assert expected.shape == codes.shape
    assert torch.equal(controlled(codes, origin, chunk_size, **control), expected)


@pytest.mark.parametrize("num_frames", [1, 2, 6, 7])
def test_videos_shorter_than_the_filter(origin, num_frames):
    codes = random_codes(num_frames, MOTION_DIM)
    padded = torch.cat([codes[:1].expand(6, -1), codes, codes[-1:].expand(6, -1)])
    expected = controlled(padded, origin, smoothing=2)[6:-6]
    assert torch.equal(controlled(codes, origin, smoothing=2), expected)


@pytest.mark.parametrize("smoothing", [5e-324, 1e-160, 1e-3])
def test_hardly_any_smoothing_is_none(codes, origin, smoothing):
    assert torch.equal(controlled(codes, origin, smoothing=smoothing), codes)


def test_no_codes_give_no_codes(origin):
    assert list(MotionControl(smoothing=2).apply([], origin)) == []


def test_a_stream_is_held_back_by_the_look_ahead_only(origin):
    taken = []

    def endless_codes():
        for i in itertools.count():
            taken.append(i)
            yield torch.full((2, MOTION_DIM), float(i))

    control = MotionControl(smoothing=2.0)
    assert control.look_ahead == 6 and MotionControl().look_ahead == 0
    num_given = 0
    stream = control.apply(endless_codes(), origin)
    for codes in itertools.islice(stream, 50):
        num_given += len(codes)
        assert num_given == 2 * len(taken) - control.look_ahead
    assert len(taken) == 53


# --- shapes ---


def test_a_batch_is_its_clips(origin):
    codes, origins = random_codes(3, NUM_FRAMES, MOTION_DIM), random_codes(3, MOTION_DIM, seed=1)
    control = {"scale": 0.7, "values": {2: torch.linspace(0, 1, NUM_FRAMES)}, "smoothing": 1.2}
    output = MotionControl(**control).apply_batch(codes, origins)
    assert output.shape == codes.shape
    for clip, clip_codes, clip_origin in zip(output, codes, origins):
        assert torch.equal(clip, controlled(clip_codes, clip_origin, **control))


def test_inputs_stay_as_they_were(codes, origin):
    codes_before, origin_before = codes.clone(), origin.clone()
    assert torch.equal(
        controlled(codes, origin[None], scale=2, values={0: 1.0}), controlled(codes, origin, scale=2, values={0: 1.0})
    )
    assert torch.equal(codes, codes_before) and torch.equal(origin, origin_before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_out_in_float32(codes, origin, dtype):
    control = {"scale": 1.3, "smoothing": 1.0}
    output = controlled(codes.to(dtype), origin.to(dtype), **control)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, controlled(codes, origin, **control), rtol=0, atol=0.05)


def test_a_control_is_a_value():
    control = MotionControl(scale={1: 0.5}, smoothing=2)
    assert control == pickle.loads(pickle.dumps(control))
    assert control == dataclasses.replace(MotionControl(smoothing=2), scale={1: 0.5}) != MotionControl()
    with pytest.raises(dataclasses.FrozenInstanceError):
        control.smoothing = 0


# --- refusals ---


@pytest.mark.parametrize(
    ("control", "error", "message"),
    [
        ({"scale": "big"}, TypeError, "`scale` must hold numbers, got 'big'"),
        ({"scale": None}, TypeError, "`scale` must hold numbers, got None"),
        ({"scale": True}, TypeError, "`scale` must hold numbers, got True"),
        ({"scale": [1.0, 2.0]}, TypeError, r"`scale` must hold numbers, got \[1.0, 2.0\]"),
        ({"scale": {3: "big"}}, TypeError, "`scale` must hold numbers, got 'big'"),
        ({"scale": math.nan}, ValueError, "`scale` must hold finite numbers, got nan"),
        ({"scale": 1e39}, ValueError, r"`scale` must hold finite numbers, got 1e\+39"),  # infinite in float32
        ({"scale": {3: math.inf}}, ValueError, "`scale` must hold finite numbers, got inf"),
        ({"values": 0.3}, TypeError, "`values` must be a dict from direction indices to amounts, got 0.3"),
        ({"values": {3: "up"}}, TypeError, "`values` must hold numbers or curves of them, got 'up' for 3"),
        ({"values": {3: None}}, TypeError, "`values` must hold numbers or curves of them, got None for 3"),
        ({"values": {3: ["up"]}}, TypeError, r"`values` must hold numbers or curves of them, got \['up'\] for 3"),
        ({"values": {3: math.nan}}, ValueError, "`values` holds NaN or infinite values for 3"),
        ({"values": {3: [0.0, math.inf]}}, ValueError, "`values` holds NaN or infinite values for 3"),
        ({"values": {3: []}}, ValueError, r"`values` must hold a number, or a curve .* got the shape \(0,\) for 3"),
        ({"values": {3: torch.zeros(2, 2)}}, ValueError, r"got the shape \(2, 2\) for 3"),
        ({"smoothing": "strong"}, TypeError, "`smoothing` must hold numbers, got 'strong'"),
        ({"smoothing": None}, TypeError, "`smoothing` must hold numbers, got None"),
        ({"smoothing": math.nan}, ValueError, "`smoothing` must hold finite numbers, got nan"),
        ({"smoothing": -1.0}, ValueError, r"`smoothing` must be from 0 \(off\) to 100 frames, got -1.0"),
        ({"smoothing": 1e9}, ValueError, r"`smoothing` must be from 0 \(off\) to 100 frames, got 1000000000.0"),
    ],
)
def test_refuses_bad_arguments(control, error, message):
    with pytest.raises(error, match=message):
        MotionControl(**control)


@pytest.mark.parametrize("name", ["scale", "values"])
@pytest.mark.parametrize("direction", [MOTION_DIM, -1, "2", 2.0, True, None])
def test_refuses_unknown_directions(codes, origin, name, direction):
    control = MotionControl(**{name: {direction: 0.5}})
    message = rf"`{name}` must be indices from 0 to {MOTION_DIM - 1}, the model's motion directions, got {direction!r}"
    with pytest.raises(ValueError, match=message):
        control.check(MOTION_DIM)
    with pytest.raises(ValueError, match=message):
        next(control.apply([codes], origin))


@pytest.mark.parametrize("smoothing", [0, 2])
@pytest.mark.parametrize("chunk_size", [1, 5, NUM_FRAMES])
def test_refuses_a_curve_that_ends_before_the_video(codes, origin, chunk_size, smoothing):
    message = f"`values` gives direction 3 a curve of {NUM_FRAMES - 1} frames, but the video has {NUM_FRAMES} or more"
    with pytest.raises(ValueError, match=message):
        controlled(codes, origin, chunk_size, smoothing=smoothing, values={3: [0.0] * (NUM_FRAMES - 1)})
    with pytest.raises(ValueError, match=message):
        MotionControl(values={3: [0.0] * (NUM_FRAMES - 1)}).apply_batch(codes[None], origin[None])
