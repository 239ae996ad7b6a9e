import pytest
import torch

from leo_diffusers.data.annotations import ClipAnnotation
from leo_diffusers.data.cropping import (
    centre_box,
    cut_out,
    mask_extent,
    padded_box,
    scaled_box,
    square_box,
    union,
)


def annotation(bbox, picture_size) -> ClipAnnotation:
    return ClipAnnotation("a", "train", "a", bbox=bbox, picture_size=picture_size)


def test_central_squares():
    assert centre_box(10, 17) == (3, 0, 13, 10)
    assert centre_box(17, 10) == (0, 3, 10, 13)
    assert centre_box(8, 8) == (0, 0, 8, 8)


def test_boxes_follow_the_size_of_the_download():
    row = annotation((118, 82, 508, 472), (640, 480))
    assert scaled_box(row, 480, 640) == (118, 82, 508, 472)
    assert scaled_box(row, 360, 480) == (88, 61, 381, 354)  # 88.5, 61.5, 381, 354
    assert scaled_box(annotation((10, 10, 700, 500), (640, 480)), 480, 640) == (10, 10, 640, 480)
    with pytest.raises(ValueError, match=r"bbox \(650, 10, 700, 50\) leaves nothing of the 640x480 picture"):
        scaled_box(annotation((650, 10, 700, 50), (640, 480)), 480, 640)


def test_boxes_of_celebvhq_are_widened_and_squared():
    # Widened to 0.18..0.62 of 1000 columns and 0.08..0.92 of 500 rows: 180..620 and 40..460; the square has half 210.
    row = annotation((0.2, 0.1, 0.6, 0.9), (1, 1))
    assert square_box(row, 500, 1000) == (190, 40, 610, 460)
    # At the borders the margin ends: 0..520 and 0..500.
    assert square_box(annotation((0, 0, 0.5, 1), (1, 1)), 500, 1000) == (10, 0, 510, 500)
    with pytest.raises(ValueError, match="leaves nothing"):
        square_box(annotation((0.1, 0.1, 0.11, 0.12), (1, 1)), 4, 4)


def mask_frame(left: int, top: int, right: int, bottom: int, height: int = 40, width: int = 60) -> torch.Tensor:
    """White with a black rectangle; right and bottom are the last column and row of it."""
    mask = torch.ones(3, height, width)
    mask[:, top : bottom + 1, left : right + 1] = -1
    return mask


def test_masks_tell_where_the_face_is():
    assert mask_extent(mask_frame(10, 5, 29, 34)) == (10, 5, 29, 34)
    assert mask_extent(torch.ones(3, 40, 60)) is None
    # One black pixel in a row of 60 has the mean 3 * 255 / 60 = 12.75, a grey one of 230 only 1.25.
    assert mask_extent(mask_frame(7, 9, 7, 9)) == (7, 9, 7, 9)
    faint = torch.ones(3, 40, 60)
    faint[:, 9, 7] = 230 / 127.5 - 1
    assert mask_extent(faint) is None


def test_extents_are_padded_to_squares():
    assert padded_box((10, 5, 29, 34), 40, 60) == (5, 5, 34, 34)  # 19 columns, 29 rows: 5 on either side
    assert padded_box((10, 12, 29, 28), 40, 60) == (10, 11, 29, 30)  # 16 rows: 1 above, 2 below
    assert padded_box((2, 5, 21, 34), 40, 60) is None  # would begin at column -3
    assert padded_box((38, 5, 57, 34), 40, 60) == (33, 5, 60, 34)  # is cut at the right
    assert padded_box((7, 9, 7, 9), 40, 60) is None
    assert union([(1, 5, 6, 7), (2, 3, 9, 4)]) == (1, 3, 9, 7)


def test_cut_out_shares_memory():
    frame = torch.arange(3 * 4 * 5.0).reshape(3, 4, 5)
    part = cut_out(frame, (1, 2, 4, 3))
    assert part.shape == (3, 1, 3) and part[0, 0].tolist() == [11, 12, 13]
    assert part.untyped_storage().data_ptr() == frame.untyped_storage().data_ptr()
