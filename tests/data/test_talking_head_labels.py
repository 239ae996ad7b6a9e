import dataclasses

import numpy as np
import pytest

from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.talking_head_identity import FRINGES, OUTFITS
from leo_diffusers.data.talking_head_labels import identity_attributes, label_clip
from leo_diffusers.data.talking_heads import KEYPOINT_GROUPS, MOTION_NAMES, render_clip, sample_identity


KINDS = {"hair_style": 14, "facial_hair": 5, "glasses": 4, "outfit": 8}
SEEDS = range(40)


def kinds_of(attributes: dict[str, float], kind: str) -> list[str]:
    return [name.split("=")[1] for name, value in attributes.items() if name.startswith(f"{kind}=") and value == 1]


def test_everyone_has_the_same_attributes_in_one_order():
    names = list(identity_attributes(sample_identity(0)))
    assert len(names) == len(set(names)) == 7 * 3 + sum(KINDS.values()) + 2
    for seed in SEEDS:
        attributes = identity_attributes(sample_identity(seed))
        assert list(attributes) == names
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in attributes.values())


def test_a_person_is_of_exactly_one_kind_each():
    for seed in SEEDS:
        identity = sample_identity(seed)
        attributes = identity_attributes(identity)
        for kind, count in KINDS.items():
            assert sum(name.startswith(f"{kind}=") for name in attributes) == count
            assert kinds_of(attributes, kind) == [getattr(identity, kind)]
        assert attributes["earring"] == (identity.earring is not None) and attributes["freckles"] == identity.freckles


def test_every_kind_that_is_drawn_has_a_name():
    identity = sample_identity(0)
    for kind, values in (("hair_style", FRINGES), ("outfit", OUTFITS)):
        for value in values:
            assert kinds_of(identity_attributes(dataclasses.replace(identity, **{kind: value})), kind) == [value]


def test_colours_are_shares_of_white():
    identity = dataclasses.replace(
        sample_identity(0), skin=(255, 0, 51), backdrop=((0, 255, 0), (102, 0, 255)), earring=None
    )
    attributes = identity_attributes(identity)
    assert [attributes[f"skin.{channel}"] for channel in ("red", "green", "blue")] == [1.0, 0.0, 0.2]
    assert attributes["backdrop.green"] == 1 and attributes["backdrop_end.red"] == 0.4


@pytest.mark.parametrize("size", [32, 64])
def test_labels_tell_what_was_rendered(size):
    clip = render_clip(3, 4, num_frames=6, size=size)
    labels = label_clip(clip, motion_id="4")
    np.testing.assert_allclose(labels.keypoints * size, clip.keypoints, atol=1e-4)
    np.testing.assert_array_equal(labels.motion, clip.motion)
    assert labels.motion_names == list(MOTION_NAMES) and labels.keypoint_groups == KEYPOINT_GROUPS
    attributes = identity_attributes(clip.identity)
    assert labels.attribute_names == list(attributes) and labels.motion_id == "4"
    np.testing.assert_allclose(labels.attributes, list(attributes.values()), rtol=1e-6)


def test_labels_do_not_hang_on_the_size():
    small, large = (label_clip(render_clip(3, 4, num_frames=3, size=size)) for size in (32, 96))
    np.testing.assert_allclose(small.keypoints, large.keypoints, atol=1e-4)
    assert small.motion_id == ""


def test_people_share_a_motion_and_clips_a_person():
    first, second, third = (
        label_clip(render_clip(*seeds, num_frames=3, size=16)) for seeds in ((1, 5), (2, 5), (1, 6))
    )
    np.testing.assert_array_equal(first.motion, second.motion)
    np.testing.assert_array_equal(first.attributes, third.attributes)
    assert (first.attributes != second.attributes).any() and (first.motion != third.motion).any()
    assert first.description() == second.description() == third.description()


def test_labels_of_a_clip_are_kept(tmp_path):
    labels = label_clip(render_clip(3, 4, num_frames=3, size=16), motion_id="4")
    labels.save(tmp_path / "a")
    loaded = FrameLabels.load(tmp_path / "a")
    assert loaded.description() == labels.description() and loaded.motion_id == "4"
    np.testing.assert_array_equal(loaded.keypoints, labels.keypoints)
