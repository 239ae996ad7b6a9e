import json
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from leo_diffusers.data.motion_codes import (
    DRAWS_PER_BLOCK,
    STD_FLOOR,
    MotionCodes,
    MotionSequences,
    hash_animator,
)


LENGTHS = (5, 9, 1)


def make_codes(lengths=LENGTHS, motion_dim: int = 4) -> MotionCodes:
    """Codes whose first two numbers tell the clip and the frame."""
    codes = torch.randn(sum(lengths), motion_dim, generator=torch.Generator().manual_seed(0))
    codes[:, 0] = torch.cat([torch.full((length,), float(clip)) for clip, length in enumerate(lengths)])
    codes[:, 1] = torch.cat([torch.arange(length).float() for length in lengths])
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    names = [f"folder/clip{i}.mp4" for i in range(len(lengths))]
    return MotionCodes(codes, offsets, names, [25.0 + i for i in range(len(lengths))], "0123456789abcdef")


def test_codes_round_trip(tmp_path):
    motion_codes = make_codes()
    motion_codes.save(tmp_path / "new" / "codes")
    loaded = MotionCodes.load(str(tmp_path / "new" / "codes"))
    assert torch.equal(loaded.codes, motion_codes.codes) and loaded.codes.dtype == torch.float32
    assert torch.equal(loaded.offsets, motion_codes.offsets)
    assert loaded.clip_names == motion_codes.clip_names
    assert loaded.frames_per_second == motion_codes.frames_per_second
    assert loaded.animator_hash == motion_codes.animator_hash
    files = {path.name for path in (tmp_path / "new" / "codes").iterdir()}
    assert files == {"motion_codes.safetensors", "motion_codes.json"}


def test_codes_belong_to_their_animator(make_animator, tmp_path):
    motion_codes = make_codes()
    replace(motion_codes, animator_hash=hash_animator(make_animator())).save(tmp_path)
    assert torch.equal(MotionCodes.load_made_by(make_animator(), tmp_path).codes, motion_codes.codes)
    with pytest.raises(ValueError, match=f"The codes in {re.escape(str(tmp_path))} were made by another animator"):
        MotionCodes.load_made_by(make_animator(seed=1), tmp_path)


def test_file_format(tmp_path):
    make_codes().save(tmp_path)
    tensors = load_file(tmp_path / "motion_codes.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"codes": (15, 4), "offsets": (4,)}
    description = json.loads((tmp_path / "motion_codes.json").read_text())
    assert set(description) == {"clip_names", "frames_per_second", "animator_hash"}


def test_a_failed_save_leaves_the_older_files(tmp_path):
    older = make_codes()
    older.save(tmp_path)
    newer = make_codes((3, 3))
    newer.clip_names = [object(), object()]
    with pytest.raises(TypeError):
        newer.save(tmp_path)
    assert torch.equal(MotionCodes.load(tmp_path).codes, older.codes)
    assert len(list(tmp_path.iterdir())) == 2


def test_clips_and_statistics():
    motion_codes = make_codes()
    motion_codes.codes[:, 3] = 0.25
    clips = motion_codes.clips()
    assert [len(clip) for clip in clips] == list(LENGTHS)
    assert all(torch.all(clip[:, 0] == index) for index, clip in enumerate(clips))
    centred = motion_codes.codes.double() - motion_codes.codes.double().mean(dim=0)
    torch.testing.assert_close(motion_codes.mean, motion_codes.codes.double().mean(dim=0).float())
    torch.testing.assert_close(motion_codes.std[:3], (centred.square().sum(dim=0) / 14).sqrt().float()[:3])
    assert motion_codes.std[3] == pytest.approx(STD_FLOOR) and motion_codes.mean[3] == 0.25


@pytest.mark.parametrize("name", ["motion_codes.safetensors", "motion_codes.json"])
def test_missing_files_are_refused(tmp_path, name):
    make_codes().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"There is no {tmp_path / name}")):
        MotionCodes.load(tmp_path)


def with_tensors(folder, **tensors):
    path = folder / "motion_codes.safetensors"
    save_file(load_file(path) | tensors, path)


def with_description(folder, **values):
    path = folder / "motion_codes.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


DAMAGE = {
    "NaN": lambda folder: with_tensors(folder, codes=torch.full((15, 4), torch.nan)),
    "infinite": lambda folder: with_tensors(folder, codes=torch.full((15, 4), torch.inf)),
    "codes of another data set": lambda folder: with_tensors(folder, codes=torch.zeros(16, 4)),
    "offsets of another data set": lambda folder: with_tensors(folder, offsets=torch.tensor([0, 15])),
    "names of another data set": lambda folder: with_description(folder, clip_names=["a.mp4"]),
    "rates of another data set": lambda folder: with_description(folder, frames_per_second=[25.0]),
    "unknown key": lambda folder: with_description(folder, notes="none"),
    "garbage JSON": lambda folder: (folder / "motion_codes.json").write_text("{no JSON"),
    "JSON that is no object": lambda folder: (folder / "motion_codes.json").write_text("[1, 2]"),
    "garbage safetensors": lambda folder: (folder / "motion_codes.safetensors").write_bytes(b"garbage" * 20),
    "no offsets": lambda folder: save_file({"codes": torch.zeros(15, 4)}, folder / "motion_codes.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(tmp_path, damage):
    make_codes().save(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        MotionCodes.load(tmp_path)


def test_hash_depends_on_what_makes_and_reads_codes(make_animator, tmp_path):
    animator = make_animator()
    reference = hash_animator(animator)
    assert re.fullmatch("[0-9a-f]{16}", reference)
    assert hash_animator(make_animator()) == reference != hash_animator(make_animator(seed=1))
    for part, matters in {
        "appearance_encoder": True,
        "motion_head": True,
        "motion_dictionary": True,
        "flow_generator": False,
    }.items():
        changed = make_animator()
        with torch.no_grad():
            next(getattr(changed, part).parameters()).flatten()[0] += 1e-3
        assert (hash_animator(changed) != reference) == matters, part
    animator.save_pretrained(tmp_path)
    assert hash_animator(type(animator).from_pretrained(tmp_path)) == reference


def test_sequences_are_windows_of_one_clip():
    motion_codes = make_codes((3, 6, 11))
    sequences = MotionSequences(motion_codes, 4)
    assert len(sequences) == 3 + 8
    for position in (*range(50), DRAWS_PER_BLOCK - 1, DRAWS_PER_BLOCK, 2**40):
        item = sequences[position]
        codes = item["motion_codes"]
        assert item["position"] == position and codes.shape == (4, 4)
        clip, start = int(codes[0, 0]), int(codes[0, 1])
        assert torch.equal(codes, motion_codes.clips()[clip][start : start + 4])


def test_every_window_is_equally_likely():
    sequences = MotionSequences(make_codes((4, 3, 13)), 4)
    positions = range(DRAWS_PER_BLOCK - 1100, DRAWS_PER_BLOCK + 1100)
    drawn = Counter(tuple(sequences[i]["motion_codes"][0, :2].int().tolist()) for i in positions)
    assert set(drawn) == {(0, 0)} | {(2, start) for start in range(10)}
    assert all(abs(count - 200) < 70 for count in drawn.values()), drawn  # five deviations


def test_a_position_decides_the_window():
    motion_codes = make_codes((30, 40))
    first, again, other = (MotionSequences(motion_codes, 8, seed=seed) for seed in (1, 1, 2))
    positions = [*range(20), *range(DRAWS_PER_BLOCK - 5, DRAWS_PER_BLOCK + 5), 2**40]
    windows = {i: first[i]["motion_codes"] for i in positions}
    assert all(torch.equal(again[i]["motion_codes"], windows[i]) for i in reversed(positions))
    assert not all(torch.equal(other[i]["motion_codes"], windows[i]) for i in positions)


def test_blocks_of_draws_do_not_repeat_each_other():
    sequences = MotionSequences(make_codes((60,)), 8)
    blocks = [[sequences[start + i]["motion_codes"][0, 1].item() for i in range(40)] for start in (0, DRAWS_PER_BLOCK)]
    assert blocks[0] != blocks[1]


def test_single_codes_are_all_drawn():
    sequences = MotionSequences(make_codes(), 1)
    assert len(sequences) == sum(LENGTHS)
    drawn = {tuple(sequences[i]["motion_codes"][0, :2].int().tolist()) for i in range(300)}
    assert drawn == {(clip, frame) for clip, length in enumerate(LENGTHS) for frame in range(length)}


def test_a_clip_of_just_the_length_is_one_window():
    sequences = MotionSequences(make_codes((9,)), 9)
    assert len(sequences) == 1 and sequences[5]["motion_codes"].shape == (9, 4)


def test_too_short_clips_are_refused():
    with pytest.raises(ValueError, match="No clip has the 10 frames of `sequence_length`; the longest has 9"):
        MotionSequences(make_codes(), 10)
