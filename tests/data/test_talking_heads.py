import dataclasses

import numpy as np
import pytest

from leo_diffusers.data.talking_head_identity import FRINGES, OUTFITS
from leo_diffusers.data.talking_heads import (
    FIRST_HELD_OUT_SEED,
    FRAME_RATE,
    KEYPOINT_GROUPS,
    MOTION_NAMES,
    MOTION_RANGES,
    render_clip,
    render_frame,
    render_motion,
    sample_identity,
    sample_motion,
)


SEEDS = range(24)
HEAD_GROUPS = set(KEYPOINT_GROUPS) - {"hanging_hair", "shoulders"}


def rest(**changes: float) -> np.ndarray:
    """A motion row that looks straight ahead, with some entries changed."""
    row = np.zeros(len(MOTION_NAMES), dtype=np.float32)
    row[MOTION_NAMES.index("scale")] = 1.0
    for name, value in changes.items():
        row[MOTION_NAMES.index(name)] = value
    return row


def keypoints_at(identity_seed: int = 3, size: int = 128, **changes: float) -> np.ndarray:
    return render_frame(sample_identity(identity_seed), rest(**changes), size)[1]


def group(keypoints: np.ndarray, name: str) -> np.ndarray:
    return keypoints[..., KEYPOINT_GROUPS[name], :]


def column(motion: np.ndarray, name: str) -> np.ndarray:
    return motion[:, MOTION_NAMES.index(name)]


def lid_gap(keypoints: np.ndarray, name: str) -> float:
    eye = group(keypoints, name)
    return float(eye[4:6, 1].mean() - eye[1:3, 1].mean())


@pytest.fixture(scope="module")
def clip():
    return render_clip(5, 6, num_frames=64, size=64)


class TestClip:
    def test_shapes_types_and_ranges(self, clip):
        num_keypoints = sum(len(indices) for indices in KEYPOINT_GROUPS.values())
        assert clip.frames.shape == (64, 64, 64, 3) and clip.frames.dtype == np.uint8
        assert clip.keypoints.shape == (64, num_keypoints, 2) and clip.keypoints.dtype == np.float32
        assert clip.motion.shape == (64, len(MOTION_NAMES)) and clip.motion.dtype == np.float32
        for name, (lowest, highest) in MOTION_RANGES.items():
            values = column(clip.motion, name)
            assert np.float32(lowest) <= values.min() and values.max() <= np.float32(highest), name

    def test_same_seeds_give_the_same_bytes(self, clip):
        again = render_clip(5, 6, num_frames=64, size=64)
        assert again.frames.tobytes() == clip.frames.tobytes()
        assert again.keypoints.tobytes() == clip.keypoints.tobytes()
        assert again.motion.tobytes() == clip.motion.tobytes()

    def test_a_shorter_clip_is_the_beginning_of_a_longer_one(self, clip):
        # 130 frames cross the border between two pieces.
        short, long = render_clip(5, 6, num_frames=23, size=64), render_clip(5, 6, num_frames=130, size=64)
        for name in ("frames", "keypoints", "motion"):
            np.testing.assert_array_equal(getattr(short, name), getattr(clip, name)[:23])
            np.testing.assert_array_equal(getattr(long, name)[:64], getattr(clip, name))

    def test_identity_and_motion_come_from_their_own_seeds(self, clip):
        other_motion = render_clip(5, 7, num_frames=8, size=64)
        other_identity = render_clip(8, 6, num_frames=8, size=64)
        assert other_motion.identity == clip.identity != other_identity.identity
        np.testing.assert_array_equal(other_identity.motion, clip.motion[:8])
        assert not np.array_equal(other_motion.motion, clip.motion[:8])
        assert (other_motion.frames != clip.frames[:8]).any() and (other_identity.frames != clip.frames[:8]).any()

    def test_clip_is_its_frames(self, clip):
        frame, keypoints = render_frame(clip.identity, clip.motion[11], 64)
        np.testing.assert_array_equal(frame, clip.frames[11])
        np.testing.assert_array_equal(keypoints, clip.keypoints[11])

    def test_defaults_and_held_out_seeds(self):
        clip = render_clip(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED)
        assert clip.frames.shape == (64, 128, 128, 3)

    @pytest.mark.parametrize("size", [16, 33, 128, 200])
    def test_every_size_shows_the_same_picture(self, size):
        frame, keypoints = render_frame(sample_identity(4), rest(), size)
        _, reference = render_frame(sample_identity(4), rest(), 100)
        assert frame.shape == (size, size, 3)
        np.testing.assert_allclose(keypoints / size, reference / 100, atol=1e-5)


class TestIdentity:
    def test_people_differ(self):
        identities = {sample_identity(seed) for seed in SEEDS}
        assert len(identities) == len(SEEDS)
        assert len({identity.hair_style for identity in identities}) >= 6
        assert len({identity.outfit for identity in identities}) >= 4

    def test_colors_are_bytes(self):
        for seed in SEEDS:
            identity = sample_identity(seed)
            for name in ("skin", "lips", "hair", "brow", "iris", "eyeshadow", "cloth", "accent"):
                color = getattr(identity, name)
                assert len(color) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in color), name

    def test_every_haircut_outfit_and_ornament_draws(self):
        base, plain = sample_identity(2), render_frame(sample_identity(2), rest(yaw=15), 32)[0]
        looks = [{"hair_style": style, "fringe": name} for style, names in FRINGES.items() for name in set(names)]
        looks += [{"outfit": outfit} for outfit in OUTFITS]
        looks += [{"facial_hair": name} for name in ("none", "moustache", "goatee", "beard", "stubble")]
        looks += [{"glasses": name} for name in ("none", "round", "square", "oval")]
        drawn = {render_frame(dataclasses.replace(base, **look), rest(yaw=15), 32)[0].tobytes() for look in looks}
        # Each family of looks holds the person's own once; all others must change the picture.
        assert plain.tobytes() in drawn
        assert len(drawn) >= len(looks) - 4


class TestKeypoints:
    def test_groups_partition_the_keypoints(self, clip):
        indices = [index for group_indices in KEYPOINT_GROUPS.values() for index in group_indices]
        assert sorted(indices) == list(range(clip.keypoints.shape[1]))
        for name in ("mouth", "left_eye", "right_eye", "left_brow", "right_brow", "nose", "jaw"):
            assert KEYPOINT_GROUPS[name]

    def test_nearly_all_lie_inside_the_frame(self):
        inside = []
        for seed in range(8):
            keypoints = render_clip(seed, seed, num_frames=64, size=32).keypoints
            # Shoulders and long hair may be cut by the lower edge.
            keypoints = keypoints[:, : KEYPOINT_GROUPS["hair"][0]]
            inside.append(((keypoints >= 0) & (keypoints <= 32)).mean())
        assert min(inside) > 0.95 and np.mean(inside) > 0.99

    def test_face_is_the_right_way_up(self):
        keypoints = keypoints_at()
        assert group(keypoints, "left_eye")[:, 0].max() < group(keypoints, "right_eye")[:, 0].min()
        assert group(keypoints, "left_brow")[:, 1].mean() < group(keypoints, "left_eye")[:, 1].mean()
        tip = group(keypoints, "nose")[1]
        assert group(keypoints, "left_eye")[:, 1].max() < tip[1] < group(keypoints, "mouth")[:, 1].min()
        assert group(keypoints, "jaw")[:, 1].max() > group(keypoints, "mouth")[:, 1].max()

    @pytest.mark.parametrize("name, axis, body_share", [("x", 0, 0.7), ("y", 1, 0.6)])
    def test_shifts_move_the_head_by_their_share_of_the_frame_and_the_body_less(self, name, axis, body_share):
        moved = keypoints_at(**{name: 0.05}) - keypoints_at()
        head = [index for part, indices in KEYPOINT_GROUPS.items() if part in HEAD_GROUPS for index in indices]
        np.testing.assert_allclose(moved[head, axis], 0.05 * 128, atol=1e-3)
        np.testing.assert_allclose(group(moved, "shoulders")[:, axis], body_share * 0.05 * 128, atol=1e-3)
        np.testing.assert_allclose(moved[:, 1 - axis], 0.0, atol=1e-3)

    def test_hair_points_lie_where_the_hair_ends(self):
        inner, outer = [], []
        for seed in SEEDS:
            identity = sample_identity(seed)
            if identity.hair_style not in ("short", "bun", "buzz", "bob", "long", "space_buns"):
                continue
            frame, keypoints = render_frame(identity, rest(), 256)
            points = group(keypoints, "hair")[2:7]
            outward = points - points.mean(axis=0) - [0, 40]
            outward /= np.linalg.norm(outward, axis=1, keepdims=True)
            for step, colors in ((-6, inner), (6, outer)):
                x, y = np.clip((points + step * outward).astype(int), 0, 255).T
                colors.append(np.abs(frame[y, x].astype(float) - identity.hair).mean(axis=1))
        assert len(inner) > 5 and np.median(inner) < 0.4 * np.median(outer)

    def test_long_hair_hangs_beside_the_face(self):
        identity = dataclasses.replace(sample_identity(3), hair_style="long", fringe="curtain")
        _, keypoints = render_frame(identity, rest(), 128)
        left, right = np.split(group(keypoints, "hanging_hair"), 2)
        jaw = group(keypoints, "jaw")
        assert left[:, 0].max() < jaw[:, 0].min() and right[:, 0].min() > jaw[:, 0].max()
        assert (np.diff(left[:, 1]) > 0).all() and (np.diff(right[:, 1]) > 0).all()

    def test_scale_enlarges_about_the_resting_centre(self):
        spread = [np.ptp(keypoints_at(scale=scale)[:, 1]) for scale in (1.0, 1.1)]
        np.testing.assert_allclose(spread[1] / spread[0], 1.1, rtol=1e-4)

    def test_drawn_pupils_sit_on_their_keypoints(self):
        frame, keypoints = render_frame(sample_identity(3), rest(), 256)
        for name in ("left_iris", "right_iris"):
            x, y = group(keypoints, name)[0]
            patch = frame[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3].astype(float).mean(axis=2)
            eye = group(keypoints, name.replace("iris", "eye"))
            white = frame[int(eye[:, 1].mean()), int(0.75 * eye[:, 0].max() + 0.25 * x)].mean()
            assert patch.min() < 60 < 120 < white


class TestExpression:
    @pytest.mark.parametrize("name", ["left_eye", "right_eye"])
    def test_blink_closes_the_eye(self, name):
        gaps = [lid_gap(keypoints_at(blink=blink), name) for blink in (0.0, 0.5, 1.0)]
        assert gaps[0] > 5.0 and gaps[0] > 1.5 * gaps[1] > 1.5 * gaps[2]
        assert abs(gaps[2]) < 1e-3

    def test_blink_hides_the_white_of_the_eye(self):
        identity = sample_identity(3)
        brightest = []
        for blink in (0.0, 1.0):
            frame, keypoints = render_frame(identity, rest(blink=blink), 128)
            eye = group(keypoints, "left_eye")
            left, right = int(eye[:, 0].min()), int(eye[:, 0].max()) + 1
            middle = int(eye[:, 1].mean())
            brightest.append(int(frame[middle - 3 : middle + 4, left:right].min(axis=2).max()))
        assert brightest[1] < brightest[0] - 30

    def test_gaze_moves_the_irises_alone(self):
        moved = keypoints_at(gaze_x=1.0) - keypoints_at()
        assert group(moved, "left_iris")[0, 0] > 1.0 and group(moved, "right_iris")[0, 0] > 1.0
        np.testing.assert_allclose(group(moved, "left_eye"), 0.0)
        assert group(keypoints_at(gaze_y=1.0) - keypoints_at(), "left_iris")[0, 1] > 0.3

    def test_mouth_opens_with_the_jaw(self):
        gaps, chins = [], []
        for opening in (0.0, 0.5, 1.0):
            keypoints = keypoints_at(mouth=opening)
            mouth = group(keypoints, "mouth")
            gaps.append(mouth[9, 1] - mouth[8, 1])
            chins.append(group(keypoints, "jaw")[4, 1])
        assert abs(gaps[0]) < 1e-3 and gaps[2] > 1.8 * gaps[1] > 5.0
        assert chins[2] > chins[1] > chins[0]

    def test_smile_lifts_and_spreads_the_corners(self):
        mouths = [group(keypoints_at(smile=smile), "mouth") for smile in (-1.0, 0.0, 1.0)]
        heights = [mouth[[0, 4], 1].mean() - mouth[8, 1] for mouth in mouths]
        assert heights[0] > heights[1] > heights[2]
        assert np.ptp(mouths[2][:, 0]) > np.ptp(mouths[1][:, 0])

    def test_pucker_narrows_and_brows_rise(self):
        widths = [np.ptp(group(keypoints_at(pucker=pucker), "mouth")[:, 0]) for pucker in (0.0, 1.0)]
        assert widths[1] < 0.7 * widths[0]
        heights = [group(keypoints_at(brows=brows), "left_brow")[:, 1].mean() for brows in (-1.0, 0.0, 1.0)]
        assert heights[0] > heights[1] > heights[2]


class TestPose:
    def test_yaw_carries_the_nose_towards_the_side_it_names(self):
        def nose_offset(yaw: float) -> float:
            keypoints = keypoints_at(yaw=yaw)
            eyes = np.concatenate([group(keypoints, "left_eye"), group(keypoints, "right_eye")])
            return float(group(keypoints, "nose")[1, 0] - eyes[:, 0].mean())

        offsets = [nose_offset(yaw) for yaw in (-40, -20, 0, 20, 40)]
        assert offsets == sorted(offsets) and offsets[4] - offsets[0] > 10.0
        assert abs(offsets[2]) < 0.2

    def test_yaw_foreshortens_the_far_eye(self):
        keypoints = keypoints_at(yaw=35)
        near, far = np.ptp(group(keypoints, "left_eye")[:, 0]), np.ptp(group(keypoints, "right_eye")[:, 0])
        assert far < 0.75 * near

    def test_pitch_up_lifts_the_nose_and_roll_lowers_the_right_eye(self):
        def tip_height(pitch: float) -> float:
            keypoints = keypoints_at(pitch=pitch)
            return float(group(keypoints, "nose")[1, 1] - group(keypoints, "left_eye")[:, 1].mean())

        assert tip_height(20) < tip_height(0) < tip_height(-20)
        rolled = keypoints_at(roll=15)
        slope = group(rolled, "right_eye").mean(axis=0) - group(rolled, "left_eye").mean(axis=0)
        np.testing.assert_allclose(np.degrees(np.arctan2(slope[1], slope[0])), 15.0, atol=1.0)

    def test_mirrored_pose_mirrors_the_keypoints(self):
        left, right = keypoints_at(yaw=-25), keypoints_at(yaw=25)
        for name, twin in (("left_eye", "right_eye"), ("left_brow", "right_brow")):
            mirrored = 128 - group(left, name)[:, 0]
            np.testing.assert_allclose(np.sort(mirrored), np.sort(group(right, twin)[:, 0]), atol=0.01)

    @pytest.mark.parametrize("yaw", [-40.0, 0.0, 40.0])
    def test_features_stay_within_the_drawn_face(self, yaw):
        for seed in range(6):
            keypoints = keypoints_at(seed, yaw=yaw)
            jaw = group(keypoints, "jaw")
            for name in ("mouth", "left_eye", "right_eye"):
                assert jaw[:, 0].min() - 2.5 < group(keypoints, name)[:, 0].min()
                assert group(keypoints, name)[:, 0].max() < jaw[:, 0].max() + 2.5


class TestMotion:
    def test_most_clips_show_blinks_and_speech(self):
        blinks, speech = [], []
        for seed in range(60):
            motion = sample_motion(seed, 64)
            blinks.append(column(motion, "blink").max() == 1.0 and column(motion, "blink").min() == 0.0)
            speech.append(column(motion, "mouth").max() > 0.3 and column(motion, "mouth").min() < 0.2)
        assert np.mean(blinks) > 0.85 and np.mean(speech) > 0.85

    def test_syllables_come_three_to_six_a_second(self):
        rates = []
        for seed in SEEDS:
            mouth = column(sample_motion(seed, 250), "mouth")
            peaks = (mouth[1:-1] > mouth[:-2]) & (mouth[1:-1] >= mouth[2:]) & (mouth[1:-1] > 0.15)
            rates.append(peaks.sum() / ((mouth > 0.05).sum() / FRAME_RATE))
        assert 2.5 < np.mean(rates) < 6.0

    def test_heads_turn_smoothly_and_far_enough(self):
        reach = []
        for seed in range(60):
            motion = sample_motion(seed, 200)
            for name, fastest in (("yaw", 6.0), ("pitch", 4.0), ("roll", 3.0), ("x", 0.015), ("scale", 0.02)):
                assert np.abs(np.diff(column(motion, name))).max() < fastest, (seed, name)
            reach.append(np.ptp(column(motion, "yaw")))
        assert np.median(reach) > 30.0

    def test_consecutive_frames_are_close(self, clip):
        change = np.abs(np.diff(clip.frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))
        assert 0.0 < change.max() < 15.0

    def test_one_motion_moves_many_people_alike(self):
        motion = sample_motion(9, 16)
        paths = []
        for seed in (1, 2):
            _, keypoints = render_motion(sample_identity(seed), motion, 64)
            path = keypoints.mean(axis=1)
            paths.append(path - path[0])
        np.testing.assert_allclose(paths[0], paths[1], atol=1.0)


class TestRefusals:
    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"num_frames": 0}, r"`num_frames` must be at least 1, got 0: "),
            ({"size": 15}, r"`size` must be at least 16, got 15: "),
            ({"identity_seed": -1}, r"`identity_seed` must be at least 0, got -1: "),
            ({"motion_seed": -2}, r"`motion_seed` must be at least 0, got -2: "),
        ],
    )
    def test_values_out_of_range(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            render_clip(**{"identity_seed": 0, "motion_seed": 0, "num_frames": 2, "size": 32, **arguments})

    @pytest.mark.parametrize("name", ["identity_seed", "motion_seed", "num_frames", "size"])
    @pytest.mark.parametrize("value", [2.5, "7", True, None])
    def test_values_that_are_not_integers(self, name, value):
        arguments = {"identity_seed": 0, "motion_seed": 0, "num_frames": 2, "size": 32, name: value}
        with pytest.raises(TypeError, match=f"`{name}` must be an integer, got"):
            render_clip(**arguments)

    def test_numpy_integers_are_integers(self):
        clip = render_clip(np.int64(1), np.uint32(2), num_frames=np.int32(2), size=np.int16(32))
        np.testing.assert_array_equal(clip.frames, render_clip(1, 2, num_frames=2, size=32).frames)

    def test_motion_of_the_wrong_shape(self):
        identity = sample_identity(0)
        with pytest.raises(ValueError, match=r"`motion` must have shape \(F, 13\), got \(4, 12\)"):
            render_motion(identity, np.zeros((4, 12)), 32)
        with pytest.raises(ValueError, match=r"`motion_row` must have shape \(13,\), got \(1, 13\)"):
            render_frame(identity, np.zeros((1, 13)), 32)
