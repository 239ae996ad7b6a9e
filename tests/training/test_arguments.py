import pytest
import torch

from leo_diffusers.command_line import OneLineParser
from leo_diffusers.training.arguments import (
    build_accelerator,
    build_ema,
    check_training_arguments,
    faster_precision,
    start_trackers,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_batch_size": 0}, "--train_batch_size must be at least 1, got 0"),
        ({"max_train_steps": 0}, "--max_train_steps must be at least 1, got 0"),
        ({"gradient_accumulation_steps": -1}, "--gradient_accumulation_steps must be at least 1, got -1"),
        ({"checkpointing_steps": 0}, "--checkpointing_steps must be at least 1, got 0"),
        ({"validation_steps": 0}, "--validation_steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "--learning_rate must be above 0, got 0.0"),
        ({"learning_rate": -1e-3}, "--learning_rate must be above 0, got -0.001"),
        ({"checkpoints_total_limit": 0}, "--checkpoints_total_limit must be at least 1, got 0"),
        ({"ema_decay": 1.0}, "--ema_decay must be at least 0 and below 1, got 1.0"),
        ({"ema_decay": -0.1}, "--ema_decay must be at least 0"),
    ],
)
def test_arguments_that_cannot_be_carried_out_are_refused(training_args, values, message):
    check_training_arguments(training_args())
    with pytest.raises(ValueError, match=message) as caught:
        check_training_arguments(training_args(**values))
    assert "hf_secret" not in str(caught.value)


def test_an_output_folder_that_is_a_file_is_refused(training_args, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file: name a folder"):
        check_training_arguments(training_args(output_dir=tmp_path / "file"))


def test_parser_errors_are_one_line(capsys):
    parser = OneLineParser(prog="train.py")
    parser.add_argument("--count", type=int, required=True)
    for words in (["--count", "many"], [], ["--count", "1", "--unknown", "2"]):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(words)
        output = capsys.readouterr()
        assert caught.value.code == 2 and output.out == ""
        assert output.err.startswith("train.py: error: ") and output.err.count("\n") == 1


def test_the_accelerator_seeds_and_makes_the_folder(training_args, clean_state, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    args = training_args(seed=7, gradient_accumulation_steps=3)
    accelerator = build_accelerator(args)
    assert accelerator.gradient_accumulation_steps == 3 and args.output_dir.is_dir()
    assert not accelerator.trackers and accelerator.log_with == []
    drawn = torch.rand(3)
    clean_state()
    build_accelerator(args)
    assert torch.equal(torch.rand(3), drawn)


def test_processes_that_do_not_know_of_each_other_are_refused(training_args, clean_state, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torch.distributed.run sets it, and no ACCELERATE_USE_CPU
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="2 processes were started .* set ACCELERATE_USE_CPU=true"):
        build_accelerator(training_args())


def test_trackers_are_told_the_arguments_but_no_secret(training_args, clean_state, monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    args = training_args(report_to="tensorboard", hub_token="hf_secret", learning_rate=0.0123)
    accelerator = build_accelerator(args)
    start_trackers(accelerator, args, "toy")
    accelerator.log({"loss": 0.5}, step=1)
    accelerator.end_training()
    written = b"".join(path.read_bytes() for path in args.output_dir.rglob("*") if path.is_file())
    assert list((args.output_dir / "logs").rglob("events.*"))
    assert b"0.0123" in written
    assert b"hf_secret" not in written


def test_a_moving_average_is_made_on_request(training_args):
    model = torch.nn.Linear(2, 2)
    assert build_ema(model, training_args(), torch.device("cpu")) is None
    ema = build_ema(model, training_args(use_ema=True, ema_decay=0.75), torch.device("cpu"))
    assert ema.decay == 0.75 and all(map(torch.equal, ema.shadow_params, model.parameters()))


@pytest.mark.parametrize(("capability", "expected"), [("AVX2", "no"), ("AVX512", "bf16"), ("DEFAULT", "no")])
def test_a_processor_that_emulates_bfloat16_is_told(
    training_args, clean_state, monkeypatch, capsys, capability, expected
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert faster_precision() == expected
    build_accelerator(training_args(mixed_precision="bf16"))
    assert ("use --mixed_precision no" in capsys.readouterr().err) == (expected == "no")
