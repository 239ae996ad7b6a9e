import re

import pytest

from leo_diffusers.evaluation.comparison import ABLATION_TABLES, PAPER_TABLES, comparable_rows, paper_settings
from leo_diffusers.evaluation.paper_tables import PAPER_ROWS


TAICHI = {"protocol": "digan", "num_frames": 16, "frame_stride": 4, "features": "i3d"}
FACES = {"protocol": "stylegan_v", "num_frames": 16, "frame_stride": 1, "features": "i3d"}


def test_every_table_that_is_kept_can_be_shown():
    shown = [table for tables in (PAPER_TABLES, ABLATION_TABLES) for names in tables.values() for table in names]
    assert set(shown) == {row.table for row in PAPER_ROWS}


@pytest.mark.parametrize("row", {(row.table, row.dataset): row for row in PAPER_ROWS}.values(), ids=str)
def test_every_data_set_can_be_measured_as_its_table_was(row):
    arguments = {name: (*allowed, None)[0] for name, allowed in paper_settings(row.table, row.dataset).items()}
    assert row in comparable_rows([row.table], row.dataset, arguments)


@pytest.mark.parametrize(
    ("dataset", "arguments", "table"),
    [
        ("TaichiHD128", TAICHI, "LEO 1"),
        ("TaichiHD128", {**TAICHI, "num_frames": 128, "frame_stride": 1}, "LEO 2"),
        ("FaceForensics", FACES, "LEO 1"),
        ("FaceForensics", {**FACES, "num_frames": 128}, "LEO 2"),
        ("FaceForensics", {**FACES, "features": None}, "LEO 1"),  # ACD alone
        ("UCF101", FACES, "LEO 6"),
    ],
)
def test_the_length_of_clips_decides_the_table(dataset, arguments, table):
    assert {row.table for row in comparable_rows(PAPER_TABLES["generation"], dataset, arguments)} == {table}


@pytest.mark.parametrize(
    ("table", "dataset", "arguments", "message"),
    [
        ("LIA I", "VoxCeleb", {"num_frames": 4}, "without --num_frames, got 4"),
        ("LIA I", "VoxCeleb", {"keypoints": "body"}, "with --keypoints face, got body"),
        ("LIA I", "TaichiHD", {"identity": "body"}, "with --identity body_compat, got body"),
        ("LIA III", "VoxCeleb", {"num_frames": 9, "features": "video_fid"}, "with --num_frames 100, got 9"),
        ("LEO 4", "TaichiHD", FACES, "with --protocol digan, got stylegan_v"),
    ],
)
def test_other_tables_have_their_own_settings(table, dataset, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        comparable_rows([table], dataset, arguments)


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        ("FaceForensics", {**FACES, "num_frames": 64}, "is measured with --num_frames 16, got 64; LEO, Table 2"),
        ("UCF101", {**FACES, "num_frames": 128}, "LEO, Table 6 is measured with --num_frames 16, got 128"),
        ("TaichiHD256", {**TAICHI, "protocol": "stylegan_v"}, "with --protocol digan, got stylegan_v"),
        ("TaichiHD128", {**TAICHI, "frame_stride": 1}, "with --frame_stride 4, got 1"),
        ("TaichiHD128", {**TAICHI, "fake_stride": 1}, "with --fake_stride 4, got 1"),
        ("TaichiHD128", {**TAICHI, "identity": "face"}, "with --identity body, got face"),
        ("TaichiHD128", {**TAICHI, "start_codes_dir": "codes"}, "without --start_codes_dir, got codes"),
        ("FaceForensics", {**FACES, "label_network": "judge"}, "without --label_network, got judge"),
        ("CelebV-HQ", {**FACES, "features": "random_i3d"}, "with --features i3d or i3d_torchscript, got random_i3d"),
        ("VoxCeleb", FACES, "of TaichiHD128, FaceForensics, CelebV-HQ, TaichiHD256, UCF101, those of LEO, Table 1"),
    ],
)
def test_what_was_measured_otherwise_does_not_stand_beside_the_papers(dataset, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        comparable_rows(PAPER_TABLES["generation"], dataset, arguments)
