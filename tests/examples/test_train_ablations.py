import functools
import json
import re
import runpy
from pathlib import Path

import pytest

from leo_diffusers.training.recipe import Recipe, Stage
from tests.conftest import REPOSITORY


EXAMPLES = REPOSITORY / "examples"


@functools.cache
def script(name: str) -> dict:
    """What a script defines, by name."""
    return runpy.run_path(str(EXAMPLES / name))


def ablation_stages() -> tuple[Stage, ...]:
    return script("train_ablations.py")["all_stages"]()


def embedded_stages() -> tuple[Stage, ...]:
    return script("train_ablations.py")["embedded_stages"]()


def made_by(stages: tuple[Stage, ...]) -> set[str]:
    """Folders of the stages, and of what is assembled of them."""
    models = {f"model-{name}-{seed}" for name in ("lmc", "no-lmc") for seed in range(3)}
    return models | {stage.output for stage in stages}


def demo_model_stages() -> list[Stage]:
    ours = script("train_demo_model.py")
    return [*ours["TRAINING"], ours["EVALUATION"]]


@pytest.mark.parametrize("smoke", [False, True])
@pytest.mark.parametrize("stages", [ablation_stages, embedded_stages, demo_model_stages])
def test_every_command_is_one_that_its_script_takes(tmp_path, stages, smoke):
    recipe = Recipe(tuple(stages()), EXAMPLES, tmp_path, smoke=smoke)
    for stage in recipe.stages:
        name, *words = recipe.command(stage, Path("outputs"))
        args = script(name)["build_parser"]().parse_args(words)
        assert args.output_dir == Path("outputs") / stage.output


def test_every_table_compares_three_seeds():
    tables = [stage for stage in (*ablation_stages(), *embedded_stages()) if stage.output.startswith("table-")]
    for table in tables:
        assert table.inputs <= made_by(ablation_stages()) or table.inputs <= made_by(embedded_stages())
        if " --variant " not in table.arguments:
            continue
        folder = Path("outputs")
        words = Recipe((table,), EXAMPLES, folder).command(table, folder)
        args = script("evaluate.py")["build_parser"]().parse_args(words[1:])
        assert all(len(models) == 3 for _, *models in args.variant)
    assert sum(" --variant " in table.arguments for table in tables) == 9


def test_the_embedded_model_is_measured_by_the_same_tables():
    made = made_by(embedded_stages())
    tables = {stage.output for stage in ablation_stages() if re.fullmatch(r"table-(\d+-\w+|repetition)", stage.output)}
    assert len(tables) == 6 and tables < made
    assert all(stage.inputs <= made for stage in embedded_stages())


@pytest.mark.parametrize("is_ablation", [True, False])
def test_lengths_are_drawn_of_the_tables(tmp_path, is_ablation):
    stages = ablation_stages() if is_ablation else embedded_stages()
    for table in filter(None, (re.fullmatch(r"table-(\d+)-\w+", stage.output) for stage in stages)):
        runs = [{"fvd": {"mean": float(table[1]) / seed}} for seed in (1, 2, 3)]
        (tmp_path / table[0]).mkdir()
        results = {"variants": {f"{table[1]} frames": runs}} if is_ablation else runs[0]
        (tmp_path / table[0] / "results.json").write_text(json.dumps(results))
    script("train_ablations.py")["draw_lengths"](tmp_path)
    assert (tmp_path / "lengths.png").stat().st_size > 1000


@pytest.mark.slow
def test_all_of_it_goes_through(run_example, tmp_path):
    said = run_example("train_ablations.py", "--smoke", "--num_parallel", 2, "--output_dir", tmp_path / "ablations")
    for words in ("20 directions, free basis", "40 directions", "without LMC", "with transitions", "512 frames"):
        assert words in said
    assert (tmp_path / "ablations" / "table-animators" / "variants.png").is_file()
    assert (tmp_path / "ablations" / "lengths.png").is_file()


@pytest.mark.slow
def test_the_measures_of_the_embedded_model_go_through(run_example, tmp_path):
    said = run_example("train_ablations.py", "--embedded", "--smoke", "--output_dir", tmp_path / "embedded")
    for words in ("copying the source", "the embedded model, with transitions", "table-512-diffusion"):
        assert words in said
    assert (tmp_path / "embedded" / "lengths.png").is_file()


def test_bad_input_is_refused(run_example, tmp_path):
    said = run_example("train_ablations.py", "--num_parallel", 0, "--output_dir", tmp_path / "out", is_refused=True)
    assert "--num_parallel must be at least 1, got 0" in said
