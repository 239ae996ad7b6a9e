import sys

import numpy as np
import pytest
import torch

from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.video_io import Square, VideoReader, find_face_square, load_face_detector, read_image, to_frame


SIZE = (360, 640)
FACE = (300, 100, 400, 200)


def boxes_of(*boxes_per_frame):
    """A detector that says where the faces of one frame after the other are."""
    answers = iter(boxes_per_frame)
    return lambda picture: next(answers)


def blank(count: int = 1, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.zeros(count, 3, *size)


def moved(box: tuple, x: float = 0, y: float = 0) -> tuple:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


# --- one face ---


def test_the_square_is_around_the_face():
    square = find_face_square(blank(), boxes_of([FACE]))
    assert square == Square(top=150 - round(0.55 * 170), left=350 - 85, side=170)


def test_detectors_see_bytes_and_may_say_more_than_the_box():
    seen = []

    def detect(picture):
        seen.append(picture)
        return np.array([[*FACE, 0.9]])

    assert find_face_square(blank(), detect) == find_face_square(blank(), boxes_of([FACE]))
    assert seen[0].shape == (*SIZE, 3) and seen[0].dtype == np.uint8


def test_a_face_that_moves_stays_inside():
    boxes = [moved(FACE, x, x / 2) for x in range(0, 100, 10)]
    square = find_face_square(blank(len(boxes)), boxes_of(*([box] for box in boxes)))
    assert square.side == 170 + 90
    for left, top, right, bottom in boxes:
        assert square.left < left and right < square.left + square.side
        assert square.top < top and bottom < square.top + square.side


def test_the_square_stays_inside_of_the_picture():
    for x, y in ((-290, -90), (230, -90), (-290, 150), (230, 150)):
        square = find_face_square(blank(), boxes_of([moved(FACE, x, y)]))
        square.check("The picture", *SIZE)
        assert square.side == 170
    assert find_face_square(blank(), boxes_of([(0, 0, 640, 360)])) == Square(0, 140, 360)


def test_a_picture_that_is_cropped_already_stays_as_it_is():
    square = (100, 100)
    assert find_face_square(blank(size=square), boxes_of([(20, 30, 75, 85)])) == Square(0, 0, 100)
    assert find_face_square(blank(size=square), boxes_of([(30, 30, 80, 80)])).side == 85


# --- none, several, mistakes ---


def test_no_face():
    assert find_face_square(blank(3), boxes_of([], [], [])) is None
    assert find_face_square(blank(), boxes_of([(10, 10, 10, 30)])) is None
    assert find_face_square(iter(()), boxes_of()) is None


def test_the_largest_of_several_with_a_warning():
    small = (50, 50, 100, 100)
    with pytest.warns(UserWarning, match="The photo shows 2 faces: the largest is used"):
        square = find_face_square(blank(), boxes_of([small, FACE]), name="The photo")
    assert square == find_face_square(blank(), boxes_of([FACE]))


@pytest.mark.filterwarnings("error")
def test_what_is_seen_in_few_frames_is_a_mistake():
    mistake = (0, 0, 300, 300)
    frames = [[FACE]] * 7 + [[mistake, FACE], [mistake], [FACE]]
    assert find_face_square(blank(10), boxes_of(*frames)) == find_face_square(blank(), boxes_of([FACE]))
    assert find_face_square(blank(10), boxes_of(*[[]] * 8, [FACE], [FACE])) is None


def test_faces_of_two_people_are_kept_apart():
    other = moved(FACE, -250, 20)
    frames = [[FACE, other], [other, FACE], [other], [FACE, moved(other, 5)], [FACE]]
    with pytest.warns(UserWarning, match="2 faces"):
        assert find_face_square(blank(5), boxes_of(*frames)) == find_face_square(blank(), boxes_of([FACE]))


# --- the detector ---


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match='pip install "opencv-python-headless<5"'):
        load_face_detector()


def test_opencv_without_detectors(monkeypatch, tmp_path):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "__file__", str(tmp_path / "__init__.py"))  # as the wheel of version 5 is
    with pytest.raises(ImportError, match=r'pip install "opencv-python-headless<5" \(OpenCV .* is installed\)'):
        load_face_detector()


@pytest.fixture
def detector():
    try:
        return load_face_detector()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("scale", [1, 3])
def test_drawn_faces_are_found(detector, scale):
    head = render_clip(identity_seed=1_000_003, motion_seed=2_000_003, num_frames=1, size=256).frames[0]
    picture = np.pad(head, ((40, 64), (300, 84), (0, 0)), mode="edge").repeat(scale, 0).repeat(scale, 1)
    square = find_face_square([to_frame(picture)], detector)
    assert abs(square.left / scale + square.side / scale / 2 - 428) < 30  # the head's middle
    assert abs(square.top / scale + square.side / scale / 2 - 168) < 40
    assert 200 < square.side / scale < 300


def test_nothing_is_found_in_noise(detector, make_frames):
    assert find_face_square(make_frames(batch_size=4, size=200), detector) is None


@pytest.mark.parametrize("clip", ["vox/driving1.mp4", "vox/driving2.mp4", "ted/driving1.mp4", "ted/driving2.mp4"])
def test_real_faces_are_found_off_the_centre(detector, shared_dir, clip):
    frames = list(VideoReader(shared_dir / "clips" / clip, num_frames=60))[::6]
    alone = [detector(np.ascontiguousarray(((frame + 1) * 127.5).byte().permute(1, 2, 0).numpy())) for frame in frames]
    assert sum(len(boxes) > 0 for boxes in alone) >= 8
    placed = torch.zeros(len(frames), 3, 360, 640)
    placed[:, :, 90:346, 350:606] = torch.stack(frames)
    square = find_face_square(placed, detector)
    for left, top, right, bottom in (boxes[0] for boxes in alone if boxes):
        middle = (left + right) / 2 + 350, (top + bottom) / 2 + 90
        assert (
            square.left < middle[0] < square.left + square.side and square.top < middle[1] < square.top + square.side
        )
        assert 1.3 < square.side / (right - left) < 4


def test_a_real_clip_that_is_cropped_stays_as_it_is(detector, shared_dir):
    for name in ("driving1", "driving2"):
        reader = VideoReader(shared_dir / "clips" / "vox" / f"{name}.mp4", num_frames=40)
        assert find_face_square(reader.spread(8), detector) == Square(0, 0, 256)
    painting = read_image(shared_dir / "clips" / "vox" / "mona_lisa.png")
    assert find_face_square([painting], detector).side >= 200
