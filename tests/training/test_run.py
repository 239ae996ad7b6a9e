import json

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import Dataset

from leo_diffusers.training.run import TrainingRun


class Positions(Dataset):
    """Each item is its own position."""

    def __getitem__(self, position: int) -> int:
        return position


def start(args) -> TrainingRun:
    args.output_dir.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=args.gradient_accumulation_steps)
    torch.manual_seed(args.seed)
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    run = TrainingRun(accelerator, args, model, "toy")
    run.optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1))
    return run


def train(run: TrainingRun, num_steps: int, draws: list[float] | None = None) -> list[list[int]]:
    """Makes steps and tells the positions of each batch; `draws` gets a random number per batch."""
    seen = []
    for batch in run.dataloader(Positions()):
        with run.accelerator.accumulate(run.model):
            loss = run.model(batch[:, None].float().repeat(1, 2) / 100).square().mean()
            run.accelerator.backward(loss)
            run.optimizer.step()
            run.optimizer.zero_grad()
        seen.append(batch.tolist())
        if draws is not None:
            draws.append(torch.rand(1).item())
        if run.accelerator.sync_gradients:
            run.record({"loss": loss})
            run.finish_step()
            if run.is_checkpoint_due:
                run.save()
            num_steps -= 1
            if num_steps == 0:
                break
    return seen


def logged(args) -> list[dict]:
    return [json.loads(line) for line in (args.output_dir / "losses.jsonl").read_text().splitlines()]


def test_positions_and_losses_continue_after_a_stop(training_args, clean_state, tmp_path):
    options = {"train_batch_size": 3, "gradient_accumulation_steps": 2, "max_train_steps": 5, "checkpointing_steps": 2}
    args = training_args(output_dir=tmp_path / "straight", **options)
    straight = start(args)
    batches = train(straight, 5)
    straight.close()
    assert batches == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(10)]
    assert [line["step"] for line in logged(args)] == [1, 2, 3, 4, 5]
    assert straight.is_finished

    clean_state()
    stopped_args = training_args(output_dir=tmp_path / "stopped", **options)
    assert train(start(stopped_args), 3) == batches[:6]  # one step after the checkpoint of step 2
    clean_state()
    stopped_args.resume_from_checkpoint = "latest"
    resumed = start(stopped_args)
    assert resumed.step == 2 and [line["step"] for line in logged(stopped_args)] == [1, 2]
    assert train(resumed, 5) == batches[4:]
    resumed.close()
    assert logged(stopped_args) == logged(args)
    torch.testing.assert_close(resumed.model.state_dict(), straight.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_draws_continue_after_a_stop(training_args, clean_state, tmp_path, num_workers):
    options = {"max_train_steps": 4, "checkpointing_steps": 2, "dataloader_num_workers": num_workers}
    expected, first, second = [], [], []
    train(start(training_args(output_dir=tmp_path / "straight", **options)), 4, expected)
    clean_state()
    args = training_args(output_dir=tmp_path / "stopped", **options)
    train(start(args), 2, first)
    clean_state()
    args.resume_from_checkpoint = "latest"
    train(start(args), 2, second)
    assert len(expected) == 4 and first + second == expected


def test_a_finished_run_has_nothing_left_to_do(training_args, clean_state):
    args = training_args(max_train_steps=2)
    train(start(args), 2)
    clean_state()
    args.resume_from_checkpoint = "latest"
    run = start(args)
    assert run.is_finished and list(run.dataloader(Positions())) == []


def test_a_new_run_forgets_the_losses_of_an_older_one(training_args, clean_state):
    args = training_args(max_train_steps=3)
    train(start(args), 3)
    clean_state()
    start(args)
    assert logged(args) == []


def test_what_is_due_when(training_args, clean_state):
    run = start(training_args(max_train_steps=7, checkpointing_steps=3, validation_steps=2))
    due = []
    for _ in range(7):
        run.record({"loss": torch.tensor(1.0)})
        run.finish_step()
        due.append((run.is_checkpoint_due, run.is_validation_due, run.is_finished))
    assert [step for step, (checkpoint, _, _) in enumerate(due, 1) if checkpoint] == [3, 6, 7]
    assert [step for step, (_, validation, _) in enumerate(due, 1) if validation] == [2, 4, 6, 7]
    assert [finished for *_, finished in due] == [False] * 6 + [True]


def test_the_average_is_published_and_the_weights_come_back(training_args, clean_state):
    run = start(training_args(use_ema=True))
    run.model.train()
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    train(run, 4)
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with run.published_weights() as model:
        assert model is run.model and not model.training
        published = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(torch.equal(shadow, published[name]) for name, shadow in zip(published, run.ema.shadow_params))
    for name in weights:
        assert torch.equal(run.model.state_dict()[name], weights[name])
        assert not torch.equal(published[name], weights[name])
        # An average lies between the first weights and the last, which move one way here.
        assert torch.all((published[name] - before[name]).abs() <= (weights[name] - before[name]).abs() + 1e-7)
    assert run.model.training
    with pytest.raises(KeyError), run.published_weights():
        raise KeyError
    assert run.model.training and torch.equal(run.model.weight, weights["weight"])


def test_without_an_average_the_weights_themselves_are_published(training_args, clean_state):
    run = start(training_args())
    run.model.train()
    weight = run.model.weight.detach().clone()
    with run.published_weights() as model:
        assert torch.equal(model.weight, weight) and not model.training
    assert run.model.training and run.ema is None


def test_the_average_continues_after_a_stop(training_args, clean_state, tmp_path):
    options = {"use_ema": True, "max_train_steps": 4, "checkpointing_steps": 2}
    straight = start(training_args(output_dir=tmp_path / "straight", **options))
    train(straight, 4)
    clean_state()
    args = training_args(output_dir=tmp_path / "stopped", **options)
    train(start(args), 2)
    clean_state()
    args.resume_from_checkpoint = "latest"
    resumed = start(args)
    train(resumed, 2)
    assert all(map(torch.equal, resumed.ema.shadow_params, straight.ema.shadow_params))


def test_a_step_logs_the_mean_of_its_batches(training_args, clean_state, tmp_path):
    args = training_args(output_dir=tmp_path / "run", max_train_steps=2)
    run = start(args)
    for value in (1.0, 2.0, 6.0):
        run.record({"loss": torch.tensor(value)})
    run.finish_step(lr=0.5)
    run.record({"loss": torch.tensor(7.0)})
    run.finish_step(lr=0.5)
    run.close()
    assert logged(args) == [{"step": 1, "loss": 3.0, "lr": 0.5}, {"step": 2, "loss": 7.0, "lr": 0.5}]


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_run_is_resumed_with_the_average_that_it_had(training_args, clean_state, tmp_path, use_ema):
    args = training_args(output_dir=tmp_path / "run", max_train_steps=2, checkpointing_steps=1, use_ema=use_ema)
    train(start(args), 1)
    clean_state()
    args.use_ema, args.resume_from_checkpoint = not use_ema, "latest"
    with pytest.raises(ValueError, match=f"was written {'with' if use_ema else 'without'} --use_ema"):
        start(args)
