"""One fixed square per clip around the face."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from .images import to_uint8
from .squares import Square


Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
FaceDetector = Callable[[np.ndarray], Iterable[Box]]

CASCADE = "haarcascade_frontalface_alt2.xml"
DETECTION_SIDE = 480  # pixels of the shorter side: larger pictures are reduced, which finds the same faces sooner
SMALLEST_FACE = 0.08  # of the shorter side; smaller ones are mostly no faces
LEAST_AGREEMENT = 8  # positions and sizes at which a face is seen: real ones mostly at 10 to 100, mistakes at 3 to 7
MISSING_DETECTOR = (
    'faces are found by OpenCV 4, whose wheel holds the detector: pip install "opencv-python-headless<5"'
)

FACE_SCALE = 1.7  # side of the square over that of the face: 1.45 and 1.74 in two clips cropped as VoxCeleb is
FACE_CENTRE = 0.55  # height of the face's middle in the square: hair needs more room above than the neck below
WHOLE_PICTURE = 0.9  # of the shorter side: a square larger than this gains nothing over the largest
SMALLEST_SHARE = 0.25  # of the frames: a face that is seen in fewer is a mistake of the detector
SAME_FACE = 0.3  # overlap of two boxes (intersection over union) of one face


def load_face_detector() -> FaceDetector:
    r"""
    The face detector of OpenCV 4 (P. Viola, M. Jones, 2001), which its wheel brings along. It finds faces that look
    roughly into the camera, of 8 % of the picture's shorter side and more.

    Returns:
        `Callable`: From a picture `(H, W, 3)`, uint8, to the boxes (left, top, right, bottom) of faces, from the brows
        to the chin, in pixels. It serves one thread at a time.

    Raises:
        ImportError: Where OpenCV is not installed, or version 5, whose wheel holds no detectors.

    Examples:
        ```py
        >>> import numpy as np
        >>> from PIL import Image
        >>> from leo_diffusers.video_io import load_face_detector

        >>> detector = load_face_detector()
        >>> for left, top, right, bottom in detector(np.array(Image.open("photo.png"))):
        ...     print(f"a face of {right - left:.0f} pixels")
        a face of ... pixels
        ```
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(MISSING_DETECTOR) from error
    path = Path(cv2.__file__).parent / "data" / CASCADE
    if not path.exists():
        raise ImportError(f"{MISSING_DETECTOR} (OpenCV {cv2.__version__} is installed)")
    cascade = cv2.CascadeClassifier(str(path))

    def detect(picture: np.ndarray) -> list[Box]:
        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        scale = min(1.0, DETECTION_SIDE / min(grey.shape))
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        smallest = max(1, round(SMALLEST_FACE * min(grey.shape)))
        found = cascade.detectMultiScale(
            grey, scaleFactor=1.1, minNeighbors=LEAST_AGREEMENT, minSize=(smallest, smallest)
        )
        return [tuple(float(edge / scale) for edge in (x, y, x + width, y + height)) for x, y, width, height in found]

    return detect


def find_face_square(
    frames: Iterable[torch.Tensor], detector: FaceDetector | None = None, name: str = "The clip"
) -> Square | None:
    r"""
    The square to crop a clip of one person to, fixed over all frames, as data sets of talking heads are cropped: the
    face, from brows to chin, fills 1 / 1.7 of its side, a little below the middle, and as far as the face moves the
    square is larger. It lies inside of the picture, and where it would be nearly as large as the largest square there,
    it is that one: a cropped clip stays as it is.

    Args:
        frames (iterable of `torch.Tensor` of shape `(3, H, W)`): Frames of one size in [-1, 1], in order; some spread
            over the clip are enough. One is held at a time.
        detector (`Callable`, *optional*): Finds the faces of a picture as that of [`load_face_detector`], the default,
            does; what follows the four edges of a box, such as a score, is ignored.
        name (`str`): What a warning calls the clip.

    Returns:
        [`Square`] or `None`: None where no face was found. Of several, the one that takes most room, with a warning.

    Raises:
        ImportError: As of [`load_face_detector`].

    Examples:
        ```py
        >>> from leo_diffusers.video_io import VideoReader, find_face_square, read_video

        >>> square = find_face_square(VideoReader("interview.mp4"))
        >>> square
        Square(top=..., left=..., side=...)
        >>> cropped = VideoReader("interview.mp4", frame_size=128, square=square)
        ```
    """
    detector = load_face_detector() if detector is None else detector
    faces: list[list[Box]] = []
    num_frames, height, width = 0, 0, 0
    for frame in frames:
        height, width = frame.shape[-2:]
        boxes = [tuple(map(float, box[:4])) for box in detector(to_uint8(frame))]
        follow(faces, [box for box in boxes if area(box) > 0])
        num_frames += 1
    faces = [boxes for boxes in faces if len(boxes) >= SMALLEST_SHARE * num_frames]
    if not faces:
        return None
    if len(faces) > 1:
        message = f"{name} shows {len(faces)} faces: the largest is used. Crop it yourself to choose another."
        warnings.warn(message, UserWarning, stacklevel=2)
    return square_around(max(faces, key=lambda boxes: sum(map(area, boxes))), height, width)


def follow(faces: list[list[Box]], boxes: list[Box]) -> None:
    r"""Appends the boxes of the next frame each to the face whose last box it overlaps most, or to a new one."""
    free = list(faces)
    for box in boxes:
        face = max(free, key=lambda face: overlap(face[-1], box), default=None)
        if face is None or overlap(face[-1], box) < SAME_FACE:
            faces.append([box])
        else:
            face.append(box)
            free = [other for other in free if other is not face]


def square_around(boxes: list[Box], height: int, width: int) -> Square:
    r"""The square of [`find_face_square`] for the boxes of one face in a picture of this size."""
    left, top, right, bottom = np.array(boxes).T
    x, y = (left + right) / 2, (top + bottom) / 2
    face_side = np.median(np.maximum(right - left, bottom - top))
    side, largest = float(FACE_SCALE * face_side + max(np.ptp(x), np.ptp(y))), min(height, width)
    side = max(1, round(side)) if side < WHOLE_PICTURE * largest else largest
    left = round(float((x.min() + x.max()) / 2 - side / 2))
    top = round(float((y.min() + y.max()) / 2 - FACE_CENTRE * side))
    return Square(min(max(top, 0), height - side), min(max(left, 0), width - side), side)


def area(box: Box) -> float:
    r"""Area of a box; 0 where it is empty."""
    left, top, right, bottom = box
    return max(0.0, right - left) * max(0.0, bottom - top)


def overlap(first: Box, second: Box) -> float:
    r"""Intersection over union of two boxes."""
    shared = area((*map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])))
    return shared / max(area(first) + area(second) - shared, 1e-9)
