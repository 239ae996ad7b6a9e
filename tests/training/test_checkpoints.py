from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from leo_diffusers.training.checkpoints import (
    checkpoint_step,
    list_checkpoints,
    resume,
    save_atomically,
    save_checkpoint,
)


class Training:
    """A network that learns to answer zero."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        self.model, self.optimizer, self.lr_scheduler = accelerator.prepare(model, optimizer, lr_scheduler)
        self.ema = EMAModel(model.parameters(), decay=0.5)
        accelerator.register_for_checkpointing(self.ema)

    def steps(self, num_steps: int) -> None:
        for _ in range(num_steps):
            loss = self.model(torch.randn(2, 4)).square().mean()
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
            self.ema.step(self.model.parameters())

    def state(self) -> dict:
        return {
            "weights": [parameter.detach().clone() for parameter in self.model.parameters()],
            "average": [parameter.clone() for parameter in self.ema.shadow_params],
            "rate": self.lr_scheduler.get_last_lr(),
            "moments": [moments["exp_avg_sq"].clone() for moments in self.optimizer.state_dict()["state"].values()],
        }


def assert_same(first: dict, second: dict) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def checkpoint_names(folder: Path) -> list[str]:
    return [path.name for path in list_checkpoints(folder)]


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture
def training(accelerator) -> Training:
    return Training(accelerator)


# --- checkpoints ---


def test_checkpoints_are_listed_by_step(tmp_path):
    for name in ("checkpoint-10", "checkpoint-9", "checkpoint-100"):
        (tmp_path / name).mkdir()
    for name in (".checkpoint-200.partial", "checkpoint-300.old", "checkpoint-", "checkpoint-x", "animator"):
        (tmp_path / name).mkdir()
    assert checkpoint_names(tmp_path) == ["checkpoint-9", "checkpoint-10", "checkpoint-100"]
    assert [checkpoint_step(path) for path in list_checkpoints(tmp_path)] == [9, 10, 100]


def test_a_resumed_run_continues_exactly(tmp_path, training, clean_state):
    training.steps(3)
    save_checkpoint(training.accelerator, tmp_path, 3, None)
    saved = training.state()
    training.steps(4)
    expected, next_draw = training.state(), torch.rand(3)

    clean_state()
    fresh = Training(Accelerator(cpu=True))
    fresh.steps(1)
    assert resume(fresh.accelerator, tmp_path, "latest") == 3
    assert_same(fresh.state(), saved)
    fresh.steps(4)
    assert_same(fresh.state(), expected)
    assert torch.equal(torch.rand(3), next_draw)


def test_only_so_many_checkpoints_are_kept(tmp_path, training):
    for step in (2, 9, 10, 11):
        save_checkpoint(training.accelerator, tmp_path, step, 2)
        assert f"checkpoint-{step}" in checkpoint_names(tmp_path)
    assert checkpoint_names(tmp_path) == ["checkpoint-10", "checkpoint-11"]
    save_checkpoint(training.accelerator, tmp_path, 12, None)
    assert checkpoint_names(tmp_path) == ["checkpoint-10", "checkpoint-11", "checkpoint-12"]
    assert hidden(tmp_path) == []


def test_a_new_checkpoint_outlives_those_of_a_run_that_was_left(tmp_path, training):
    save_checkpoint(training.accelerator, tmp_path, 2, None)
    save_checkpoint(training.accelerator, tmp_path, 100, None)
    assert resume(training.accelerator, tmp_path, "checkpoint-2") == 2
    save_checkpoint(training.accelerator, tmp_path, 4, 1)
    assert "checkpoint-4" in checkpoint_names(tmp_path)


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path, training):
    save_checkpoint(training.accelerator, tmp_path, 5, None)
    (tmp_path / "checkpoint-5" / "stale").touch()
    training.steps(2)
    state = training.state()
    save_checkpoint(training.accelerator, tmp_path, 5, None)
    assert not (tmp_path / "checkpoint-5" / "stale").exists()
    training.steps(1)
    resume(training.accelerator, tmp_path, "latest")
    assert_same(training.state(), state)


def test_partial_checkpoints_are_ignored_and_removed(tmp_path, training):
    save_checkpoint(training.accelerator, tmp_path, 1, None)
    (tmp_path / ".checkpoint-2.partial").mkdir()
    (tmp_path / ".checkpoint-2.partial" / "model.safetensors").write_bytes(b"half")
    assert checkpoint_names(tmp_path) == ["checkpoint-1"]
    assert resume(training.accelerator, tmp_path, "latest") == 1
    assert hidden(tmp_path) == []
    (tmp_path / ".checkpoint-3.partial" / "stale").mkdir(parents=True)
    save_checkpoint(training.accelerator, tmp_path, 3, None)
    assert checkpoint_names(tmp_path) == ["checkpoint-1", "checkpoint-3"] and hidden(tmp_path) == []
    assert not (tmp_path / "checkpoint-3" / "stale").exists()


def test_checkpoints_are_named_in_several_ways(tmp_path, training):
    for step in (1, 2):
        training.steps(1)
        save_checkpoint(training.accelerator, tmp_path, step, None)
    assert resume(training.accelerator, tmp_path, str(tmp_path / "checkpoint-2")) == 2
    assert resume(training.accelerator, tmp_path, "latest") == 2
    assert resume(training.accelerator, tmp_path, "checkpoint-1") == 1
    # What came after is another run's from here on: kept, but never again the latest.
    assert len(list(tmp_path.glob("abandoned-checkpoint-2-*/model.safetensors"))) == 1
    assert resume(training.accelerator, tmp_path, "latest") == 1
    state = training.state()
    assert resume(training.accelerator, tmp_path, None) == 0
    assert_same(training.state(), state)


def test_latest_without_a_checkpoint_starts_anew(tmp_path, training):
    assert resume(training.accelerator, tmp_path, "latest") == 0


@pytest.mark.parametrize("name", ["checkpoint-7", "model", "nonsense", "../checkpoint-1"])
def test_other_names_are_refused(tmp_path, training, name):
    (tmp_path / "model").mkdir()
    save_checkpoint(training.accelerator, tmp_path, 1, None)
    with pytest.raises(ValueError, match=f"--resume_from_checkpoint {name} is no checkpoint"):
        resume(training.accelerator, tmp_path, name)


# --- models ---


def write_model(content: str, *names: str):
    def save(folder: str) -> None:
        for name in names:
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return save


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_replaced_entry_by_entry(tmp_path):
    folder = tmp_path / "run"
    save_atomically(write_model("old", "unet/config.json", "unet/old_shard", "model_index.json"), folder)
    assert files(folder) == {"unet/config.json": "old", "unet/old_shard": "old", "model_index.json": "old"}
    (folder / "losses.jsonl").write_text("kept")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "state").write_text("kept")
    save_atomically(write_model("new", "unet/config.json", "model_index.json", "README.md"), folder)
    assert files(folder) == {
        "unet/config.json": "new",  # and no shard of the older model
        "model_index.json": "new",
        "README.md": "new",
        "losses.jsonl": "kept",
        "checkpoint-1/state": "kept",
    }
    assert hidden(folder) == []


def test_a_save_that_fails_changes_nothing(tmp_path):
    save_atomically(write_model("old", "unet/config.json"), tmp_path)

    def fail(folder: str) -> None:
        write_model("new", "unet/config.json")(folder)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        save_atomically(fail, tmp_path)
    assert (tmp_path / "unet" / "config.json").read_text() == "old"
    save_atomically(write_model("new", "unet/config.json"), tmp_path)
    assert files(tmp_path) == {"unet/config.json": "new"} and hidden(tmp_path) == []


def test_what_a_killed_save_left_is_no_obstacle(tmp_path):
    save_atomically(write_model("first", "unet/config.json"), tmp_path)
    write_model("half", "unet/config.json", "unet/stale")(str(tmp_path / ".model.partial"))
    write_model("older", "config.json")(str(tmp_path / ".unet.old"))  # killed before the older model was removed
    save_atomically(write_model("second", "unet/config.json"), tmp_path)
    assert files(tmp_path) == {"unet/config.json": "second"} and hidden(tmp_path) == []
