import json
import math
import os
import subprocess
import sys

import pytest
import torch

from leo_diffusers.evaluation.parts import write_json
from tests.conftest import REPOSITORY


NAMES = ["a.mp4", "deep/b", "c", "d", "e"]
MEASURE = """
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from leo_diffusers.evaluation.parts import EvaluationParts, write_json

accelerator = Accelerator(cpu=True)
folder = Path(sys.argv[1])
parts = EvaluationParts(folder, {"seed": 3}, accelerator)


def work(index):
    if index == 2:
        raise ValueError("it is damaged")
    (folder / f"by-{accelerator.process_index}").touch()
    values = torch.randn(50, generator=torch.Generator().manual_seed(index))
    return {"mean": values.mean(), "values": values}


measured, left_out = parts.measure(["a.mp4", "deep/b", "c", "d", "e"], work, "Measuring")
result = {"means": [part["mean"].item() for part in measured.values()], "order": list(measured), "left_out": left_out}
write_json(folder / f"result-{accelerator.process_index}.json", result)
"""


def number(index: int) -> dict[str, torch.Tensor]:
    return {"value": torch.tensor(float(index)), "codes": torch.full((2, 3), float(index))}


def test_parts_come_in_order_and_whole(make_parts):
    measured, left_out = make_parts().measure(NAMES, number, "Measuring")
    assert list(measured) == NAMES and left_out == {}
    assert [part["value"].item() for part in measured.values()] == [0, 1, 2, 3, 4]
    torch.testing.assert_close(measured["deep/b"]["codes"], torch.ones(2, 3))


def test_a_resumed_evaluation_measures_what_is_missing(make_parts):
    done = []

    def work(index: int) -> dict[str, torch.Tensor]:
        if index == 3 and len(done) == 3:
            raise KeyboardInterrupt
        done.append(index)
        return number(index)

    with pytest.raises(KeyboardInterrupt):
        make_parts(seed=1).measure(NAMES, work, "Measuring")
    measured, _ = make_parts(seed=1).measure(NAMES, number, "Measuring")
    assert done == [0, 1, 2] and list(measured) == NAMES

    def refuse(index: int) -> dict[str, torch.Tensor]:
        raise AssertionError(f"{index} is there already")

    again, _ = make_parts(seed=1).measure(NAMES, refuse, "Measuring")
    assert all(torch.equal(again[name]["value"], measured[name]["value"]) for name in NAMES)


def test_other_settings_are_refused_by_name(make_parts):
    make_parts(model="b", sizes=(1, 2))  # nothing was measured with it
    begun = make_parts(model="a", sizes=(1, 2))
    begun.path_of("part").touch()
    make_parts(model="a", sizes=(1, 2))  # a tuple is what a file has as a list
    with pytest.raises(ValueError, match="measured with another `model`, 'a' and not 'b'.*--output_dir"):
        make_parts(model="b", sizes=(1, 2))
    with pytest.raises(ValueError, match="another `seed`, None and not 1"):
        make_parts(model="a", sizes=(1, 2), seed=1)


def test_what_cannot_be_read_is_left_out_with_the_reason(make_parts):
    def work(index: int) -> dict[str, torch.Tensor]:
        if index == 1:
            raise OSError("it cannot be opened")
        return number(index)

    parts = make_parts()
    measured, left_out = parts.measure(NAMES, work, "Measuring")
    assert "deep/b" not in measured and left_out == {"deep/b": "it cannot be opened"}
    measured, left_out = parts.measure(NAMES, number, "Measuring")  # it was mended
    assert list(measured) == NAMES and left_out == {}


def test_nothing_measured_is_refused_with_each_reason_once(make_parts):
    def work(index: int) -> dict[str, torch.Tensor]:
        raise ValueError(f"reason {index % 2}")

    with pytest.raises(ValueError, match="None of 5 videos could be measured: reason 0; reason 1$"):
        make_parts().measure(NAMES, work, "Measuring")


def test_other_errors_stop_it(make_parts):
    def work(index: int) -> dict[str, torch.Tensor]:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        make_parts().measure(NAMES, work, "Measuring")


def test_two_processes_find_what_one_finds(tmp_path):
    script = tmp_path / "measure.py"
    script.write_text(MEASURE)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    for count in (1, 2):
        command = [sys.executable, *launcher, str(count), str(script), str(tmp_path / str(count))]
        result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
    one, first, second = (
        json.loads((tmp_path / path).read_text()) for path in ("1/result-0.json", "2/result-0.json", "2/result-1.json")
    )
    assert one == first == second
    assert one["order"] == ["a.mp4", "deep/b", "d", "e"] and one["left_out"] == {"c": "it is damaged"}
    assert {path.name for path in (tmp_path / "2").glob("by-*")} == {"by-0", "by-1"}  # each measured its share


def test_names_that_look_alike_have_files_of_their_own(make_parts):
    parts = make_parts()
    names = ["a/b", "a#b", "a%2Fb", "c" * 300, "c" * 301]
    found, _ = parts.measure(names, lambda index: {"number": torch.tensor(index)}, "Measuring")
    assert [part["number"].item() for part in found.values()] == list(range(5))


def test_json_has_no_numbers_that_are_not_finite(tmp_path):
    write_json(tmp_path / "a.json", {"nan": [math.nan, 1.5], "infinite": {"a": (-math.inf, "text", None, True)}})
    expected = {"nan": [None, 1.5], "infinite": {"a": [None, "text", None, True]}}
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == expected
