import dataclasses
import hashlib
import pickle

import pytest
import torch
import torch.nn as nn

from leo_diffusers.metrics.weights import WeightsFile, file_hash


FILE = WeightsFile("net.pt", contents="a small network", used_for="Nothing", origin="its author")


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def save(folder, content) -> str:
    path = folder / "net.pt"
    torch.save(content, path)
    return str(path)


def test_hash(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"weights" * 1000)
    assert file_hash(path) == hashlib.sha256(b"weights" * 1000).hexdigest()


# --- finding ---


def test_a_file_that_is_named_is_taken(tmp_path):
    path = save(tmp_path, {})
    assert str(FILE.find(path)) == path
    with pytest.raises(
        FileNotFoundError, match=r"`weights` must name a file, got .*no\.pt\. Get net\.pt from its author"
    ):
        FILE.find(tmp_path / "no.pt")
    with pytest.raises(FileNotFoundError, match="`weights` must name a file"):
        FILE.find(tmp_path)


def test_without_a_file_the_error_says_what_to_get():
    with pytest.raises(ValueError) as error:
        FILE.find()
    assert str(error.value) == (
        "Nothing cannot be measured without a small network. Get net.pt from its author and name it with `weights=`."
    )
    with pytest.raises(ValueError, match="name it with `weights=`.$"):
        FILE.find(download=True)
    with pytest.raises(ValueError, match="name it with `weights=`, or pass `download=True`.$"):
        dataclasses.replace(FILE, url="https://example.com/net.pt").find()


def test_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    source = tmp_path / "source.pt"
    source.write_bytes(b"weights")
    file = dataclasses.replace(FILE, url=source.as_uri(), sha256=file_hash(source))
    path = file.find(download=True)
    assert path == tmp_path / "home" / "hub" / "checkpoints" / "net.pt" and path.read_bytes() == b"weights"
    source.unlink()
    assert file.find(download=True) == path  # from the cache
    path.write_bytes(b"weig")
    with pytest.raises(ValueError, match=rf"is damaged or another file: .* must be {file.sha256}. Delete it"):
        file.find(download=True)
    path.unlink()
    with pytest.raises(OSError, match=r"source\.pt cannot be downloaded .* Get net\.pt from its author"):
        file.find(download=True)


# --- loading ---


def test_load(tmp_path):
    theirs = network()
    path = save(tmp_path, theirs.state_dict())
    ours, found_hash = FILE.load(network, path)
    assert found_hash == file_hash(path)
    for found, expected in zip(ours.state_dict().values(), theirs.state_dict().values()):
        assert torch.equal(found, expected)


def test_load_behind_a_prefix_below_a_key_and_beside_others(tmp_path):
    theirs = network()
    tensors = {f"module.{key}": tensor for key, tensor in theirs.state_dict().items() if "num_batches" not in key}
    tensors |= {"module.fc.weight": torch.zeros(2), "classifier.bias": torch.zeros(2)}
    path = save(tmp_path, {"epoch": 3, "state_dict": tensors})
    file = dataclasses.replace(FILE, nested_in="state_dict", prefix="module.", ignored=("fc.", "classifier."))
    ours, _ = file.load(network, path)
    assert torch.equal(ours[0].weight, theirs[0].weight)
    with pytest.raises(ValueError, match="module.fc.weight is unexpected"):
        dataclasses.replace(file, ignored=("classifier.",)).load(network, path)
    with pytest.raises(ValueError, match=r"a small network: no tensors by name are below \"model\"\."):
        dataclasses.replace(file, nested_in="model").load(network, path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"1.weight": None}, "does not hold a small network: 1.weight is missing. Get net.pt from its author"),
        ({"2.weight": torch.zeros(2)}, "2.weight is unexpected"),
        ({"0.bias": torch.zeros(5)}, r"0.bias must have the shape \(2,\), got \(5,\)"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, message):
    tensors = {key: tensor for key, tensor in (network().state_dict() | change).items() if tensor is not None}
    with pytest.raises(ValueError, match=message):
        FILE.load(network, save(tmp_path, tensors))


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no tensors by name are in it"):
        FILE.load(network, save(tmp_path, {"epoch": 3}))
    with pytest.raises(ValueError, match="no tensors by name are in it"):
        FILE.load(network, save(tmp_path, torch.zeros(3)))
    (tmp_path / "net.pt").write_bytes(b"not found")
    with pytest.raises(ValueError, match="it cannot be read as a PyTorch file of plain tensors"):
        FILE.load(network, tmp_path / "net.pt")


def test_no_code_of_a_file_is_run(tmp_path):
    victim = tmp_path / "victim"

    class Trap:
        def __reduce__(self):
            return victim.write_text, ("run",)

    with open(tmp_path / "net.pt", "wb") as file:
        pickle.dump(Trap(), file, protocol=2)
    with pytest.raises(ValueError, match="cannot be read as a PyTorch file of plain tensors"):
        FILE.load(network, tmp_path / "net.pt")
    with pytest.raises(ValueError, match="cannot be read as a PyTorch file of plain tensors"):
        FILE.load(network, save(tmp_path, {"weight": Trap()}))
    assert not victim.exists()
