import weakref
from collections.abc import Iterator

import pytest
import torch

from leo_diffusers.metrics import RandomI3DFeatures, extract


def first_pixels(clips: torch.Tensor) -> torch.Tensor:
    """A view of the clips: kept as it is, it would keep them."""
    return clips[:, 0, 0, 0, :4].float()


def clip(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_features_come_in_the_order_of_the_clips():
    batches = [clip(0, 2, 3, 3, 4, 5), clip(1, 1, 3, 3, 4, 5).numpy(), clip(2, 3, 3, 3, 4, 5)]
    features = extract(first_pixels, iter(batches))
    assert features.shape == (6, 4) and features.dtype == torch.float64
    expected = torch.cat([first_pixels(torch.as_tensor(batch)) for batch in batches])
    torch.testing.assert_close(features, expected.double())


@pytest.mark.slow
def test_an_extractor_gives_what_it_gives_alone():
    extractor = RandomI3DFeatures()
    batches = [clip(0, 1, 9, 3, 32, 32), clip(1, 2, 9, 3, 32, 32)]
    expected = torch.cat([extractor(batch) for batch in batches])
    torch.testing.assert_close(extract(extractor, batches), expected.double())


def test_memory_is_that_of_features():
    alive, most = weakref.WeakSet(), 0

    def decode() -> Iterator[torch.Tensor]:
        nonlocal most
        for seed in range(500):
            most = max(most, len(alive))
            batch = clip(seed, 1, 2, 3, 64, 64)
            alive.add(batch)
            yield batch
            del batch

    features = extract(first_pixels, decode())
    assert most == 0  # no clip is left when the next one is decoded
    assert features.shape == (500, 4) and features.untyped_storage().nbytes() == 500 * 4 * 8


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.full((1, 3, 3, 4, 5), torch.nan), r"`clips\[1\]` must lie in \[-1, 1\] where they are floats, got nan"),
        (torch.zeros(1, 3, 3, 8, 5), r"`clips\[1\]` must hold clips of \(3, 3, 4, 5\), as before, got \(3, 3, 8, 5\)"),
        (torch.zeros(1, 2, 3, 4, 5), r"`clips\[1\]` must hold clips of \(3, 3, 4, 5\), as before, got \(2, 3, 4, 5\)"),
        (torch.zeros(3, 3, 4, 5), r"`clips\[1\]` must have the shape \(B, F, 3, H, W\), got \(3, 3, 4, 5\)"),
    ],
)
def test_bad_clips_are_refused_before_the_next_is_read(batch, message):
    def clips() -> Iterator[torch.Tensor]:
        yield torch.zeros(2, 3, 3, 4, 5)
        yield batch
        pytest.fail("the batch behind a bad one is read")

    with pytest.raises(ValueError, match=message):
        extract(first_pixels, clips())


@pytest.mark.parametrize(
    ("extractor", "message"),
    [
        (lambda clips: clips[:1, 0, 0, 0], r"must give features of the shape \(2, 5\) for clips\[0\], got \(1, 5\)"),
        (lambda clips: clips[:, 0, 0, 0, : len(clips)], r"of the shape \(1, 2\) for clips\[1\], got \(1, 1\)"),
        (lambda clips: clips[:, 0, 0, 0] / 0, r"`extractor\(clips\[0\]\)` holds 10 values that are NaN or infinite"),
        (lambda clips: clips[:, 0, 0], r"`extractor\(clips\[0\]\)` must have the shape \(N, D\), got \(2, 4, 5\)"),
    ],
)
def test_bad_features_are_refused(extractor, message):
    with pytest.raises(ValueError, match=message):
        extract(extractor, [torch.zeros(2, 3, 3, 4, 5), torch.zeros(1, 3, 3, 4, 5)])


def test_no_clips():
    with pytest.raises(ValueError, match="`clips` must hold one batch or more, got none"):
        extract(first_pixels, iter(()))
