import numpy as np
import pytest
import torch

from leo_diffusers.models.motion_dictionary import MotionDictionary


def make_dictionary(motion_basis: str = "orthogonal", latent_dim: int = 24, motion_dim: int = 6) -> MotionDictionary:
    torch.manual_seed(0)
    return MotionDictionary(latent_dim, motion_dim, motion_basis)


def gram_schmidt(directions: np.ndarray) -> np.ndarray:
    basis = []
    for column in directions.T:
        column = column - sum(np.dot(column, earlier) * earlier for earlier in basis)
        basis.append(column / np.linalg.norm(column))
    return np.stack(basis, axis=1)


def test_the_basis_is_orthonormal():
    basis = make_dictionary().basis()
    assert basis.shape == (24, 6) and basis.dtype == torch.float32
    torch.testing.assert_close(basis.T @ basis, torch.eye(6), rtol=0, atol=1e-5)


def test_it_spans_the_directions_in_their_order():
    dictionary = make_dictionary()
    coefficients = dictionary.basis().T @ dictionary.directions
    torch.testing.assert_close(coefficients.tril(-1), torch.zeros(6, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(dictionary.basis() @ coefficients, dictionary.directions.detach())


def test_its_signs_are_those_of_lapack():
    dictionary = make_dictionary()
    directions = dictionary.directions.detach().double().numpy()
    basis = dictionary.basis().detach().numpy()
    np.testing.assert_allclose(basis, np.linalg.qr(directions)[0], rtol=0, atol=1e-5)
    signs = (basis * gram_schmidt(directions)).sum(axis=0)
    np.testing.assert_allclose(np.abs(signs), 1, rtol=0, atol=1e-5)
    assert (signs < -0.5).any()  # Gram-Schmidt's would turn converted codes round


@pytest.mark.parametrize("motion_basis", ["orthogonal", "free", "none"])
def test_the_path_is_the_sum_of_directions(motion_basis):
    dictionary = make_dictionary(motion_basis, motion_dim=24 if motion_basis == "none" else 6)
    basis = torch.eye(24) if motion_basis == "none" else dictionary.basis()
    code = torch.randn(2, 3, basis.shape[1])
    expected = sum(code[..., i, None] * basis[:, i] for i in range(basis.shape[1]))
    assert dictionary(code).shape == (2, 3, 24)
    torch.testing.assert_close(dictionary(code), expected, rtol=1e-4, atol=1e-5)
    assert not dictionary(torch.zeros_like(code)).any()
    other = torch.randn_like(code)
    torch.testing.assert_close(dictionary(code) - dictionary(other), dictionary(code - other), rtol=1e-4, atol=1e-5)


def test_a_free_basis_is_what_was_learned():
    dictionary = make_dictionary("free", latent_dim=512, motion_dim=20)
    assert torch.equal(dictionary.basis(), dictionary.directions)
    torch.testing.assert_close(dictionary.basis().norm(dim=0), torch.ones(20), rtol=0.15, atol=0)


def test_no_dictionary_has_no_parameters():
    dictionary = make_dictionary("none", motion_dim=24)
    assert dictionary.basis() is None
    assert list(dictionary.parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    dictionary = make_dictionary().to(dtype)
    basis = dictionary.basis()
    torch.testing.assert_close(basis.T @ basis, torch.eye(6), rtol=0, atol=1e-5)
    code = torch.randn(3, 6).to(dtype)
    assert dictionary(code).dtype == torch.float32
    torch.testing.assert_close(dictionary(code), code.float() @ basis.T)


def test_directions_learn_through_the_decomposition():
    dictionary = make_dictionary()
    (dictionary(torch.randn(3, 6)) * torch.randn(24)).sum().backward()
    assert (dictionary.directions.grad.abs().amax(dim=0) > 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, 9), r"`motion_dim` must be between 1 and `latent_dim` \(8\), got 9"),
        ((8, 0), "`motion_dim` must be between 1 .* got 0"),
        ((8, 4, "none"), r"`motion_dim` must equal `latent_dim` \(8\), got 4"),
        ((8, 4, "random"), "`motion_basis` must be .*got 'random'"),
    ],
)
def test_refuses_a_bad_config(arguments, message):
    with pytest.raises(ValueError, match=message):
        MotionDictionary(*arguments)
