import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from leo_diffusers import LEOPipeline
from leo_diffusers.data.motion_codes import MotionCodes, hash_animator
from leo_diffusers.evaluation.measured_rows import mean_row
from leo_diffusers.evaluation.paper_tables import MeasuredRow
from leo_diffusers.evaluation.user_study import read_json
from tests.conftest import build_label_network


@pytest.fixture(scope="module")
def network_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    build_label_network().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reconstruction(run_example, animator_folder, labelled_folder, network_folder, tmp_path_factory):
    """`evaluate.py reconstruction` into a folder, and what it said."""
    folder = tmp_path_factory.mktemp("reconstruction")

    def run(name: str, *more, **options) -> tuple[Path, str]:
        words = ["--model", animator_folder, "--test_data_dir", labelled_folder, "--label_network", network_folder]
        words += ["--output_dir", folder / name, *more]
        return folder / name, run_example("evaluate.py", "reconstruction", *words, **options)

    return run


@pytest.fixture(scope="module")
def once(reconstruction) -> tuple[Path, str]:
    return reconstruction("once")


def test_reconstruction_is_measured_beside_copying_the_source(once):
    folder, said = once
    results = read_json(folder / "results.json")
    assert results["num_videos"] == 4 and results["left_out"] == {}
    assert 0 < results["copy"]["l1"] < 1 and results["model"]["psnr"] > 5
    assert results["readers"]["keypoints"]["extractor"] == "LabelNetwork.keypoints"
    assert results["settings"]["codecs"] == {".mp4": 4} and results["settings"]["model"]["networks"]["animator"]
    table = (folder / "table.md").read_text()
    assert "| **copying the source** |" in table and table in said
    assert Image.open(folder / "reconstruction.png").width == 12 * 32


def test_two_processes_measure_the_same_as_one(once, reconstruction):
    folder, _ = reconstruction("two", launcher="two processes")
    ours, expected = (read_json(path / "results.json") for path in (folder, once[0]))
    assert ours == expected


def test_a_stopped_run_goes_on(once, reconstruction, tmp_path):
    folder, _ = reconstruction("again")
    parts = sorted((folder / "parts").glob("*.safetensors"))
    kept = parts[0].stat().st_mtime_ns
    parts[1].unlink()
    (folder / "results.json").unlink()
    reconstruction("again")
    assert parts[0].stat().st_mtime_ns == kept and parts[1].is_file()
    assert read_json(folder / "results.json") == read_json(once[0] / "results.json")


def test_other_settings_do_not_mix(once, reconstruction):
    _, said = reconstruction("once", "--num_frames", 4, is_refused=True)
    assert "was measured with another `num_frames`, None and not 4" in said


def test_the_papers_rows_stand_beside_ours(run_example, animator_folder, labelled_folder, tmp_path):
    words = ["--model", animator_folder, "--test_data_dir", labelled_folder, "--dataset", "VoxCeleb"]
    run_example("evaluate.py", "reconstruction", *words, "--num_videos", 1, "--output_dir", tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| LIA (256px) | 0.041 |" in table and "LIA, Table I" in table and "**ours**" in table
    assert f"| **{animator_folder.name} (32px)** |" in table and "| **copying the source** |" in table


def test_people_driven_by_others(run_example, animator_folder, labelled_folder, network_folder, tmp_path):
    options = ["--model", animator_folder, "--test_data_dir", labelled_folder, "--label_network", network_folder]
    run_example("evaluate.py", "cross", *options, "--num_frames", 6, "--output_dir", tmp_path / "cross")
    results = read_json(tmp_path / "cross" / "results.json")
    assert results["model"]["identity_distance"] > 0 and results["num_frames"] == 6
    assert (tmp_path / "cross" / "cross.png").is_file()


DRAWN = ["--protocol", "stylegan_v", "--num_clips", 2, "--num_frames", 3, "--num_inference_steps", 2]


@pytest.mark.parametrize("conditional", [[], ["--conditional"]])
def test_generated_videos(run_example, full_folder, labelled_folder, network_folder, tmp_path, conditional):
    options = ["--model", full_folder, "--test_data_dir", labelled_folder, "--label_network", network_folder]
    run_example("evaluate.py", "generation", *options, *DRAWN, *conditional, "--output_dir", tmp_path / "drawn")
    results = read_json(tmp_path / "drawn" / "results.json")
    assert results["protocol"]["name"] == "stylegan_v, 2 clips" and results["acd"]["mean"] > 0
    assert "fvd" not in results  # no network reads clips
    begins = "cond" if conditional else "uncond"
    assert f"({begins}, stylegan_v, 2 real and 2 generated)**" in (tmp_path / "drawn" / "table.md").read_text()
    assert Image.open(tmp_path / "drawn" / "generated.png").height == 2 * 32


def test_frechet_distances_of_a_random_network_are_measured(run_example, full_folder, labelled_folder, tmp_path):
    options = ["--model", full_folder, "--test_data_dir", labelled_folder, "--features", "random_i3d"]
    options += [*DRAWN, "--num_frames", 9, "--conditional", "--output_dir", tmp_path]
    run_example("evaluate.py", "generation", *options)
    results = read_json(tmp_path / "results.json")
    assert results["fvd"]["mean"] > 0 and results["readers"]["clip"]["weights"] == "random:0"


def test_variants_share_what_is_measured_of_real_clips(
    run_example, full_folder, labelled_folder, network_folder, tmp_path
):
    options = ["--test_data_dir", labelled_folder, "--label_network", network_folder, *DRAWN]
    variants = ["--variant", "a model", full_folder, full_folder]
    run_example("evaluate.py", "ablation", "generation", *variants, *options, "--output_dir", tmp_path)
    runs = read_json(tmp_path / "results.json")["variants"]["a model"]
    assert runs[0]["acd_real"] == runs[1]["acd_real"]
    parts = {(path.parts[-3], path.name[:4]) for path in tmp_path.rglob("parts/*.safetensors")}
    assert parts == {("real-32", "real"), ("variant-0-0", "fake"), ("variant-0-1", "fake")}


@pytest.fixture(scope="module")
def real_codes(full_folder, tmp_path_factory) -> Path:
    """Random walks as codes of real clips, by the model's animator."""
    pipeline = LEOPipeline.from_pretrained(full_folder)
    size, folder = pipeline.animator.config.motion_dim, tmp_path_factory.mktemp("real_codes")
    codes = torch.randn(12 * 24, size, generator=torch.Generator().manual_seed(0)).cumsum(dim=0) / 10
    offsets, names = torch.arange(13) * 24, [f"{index}.mp4" for index in range(12)]
    MotionCodes(codes, offsets, names, [25.0] * 12, hash_animator(pipeline.animator)).save(folder)
    return folder


def test_repeated_motion_is_counted(run_example, full_folder, real_codes, tmp_path):
    options = ["--model", full_folder, "--motion_codes_dir", real_codes, "--num_videos", 2, "--num_frames", 20]
    options += ["--window", 4, "--num_inference_steps", 2, "--output_dir", tmp_path]
    run_example("evaluate.py", "repetition", *options)
    results = read_json(tmp_path / "results.json")
    assert set(results["transitions"]) == {"none", "diffusion"}
    assert all(0 <= found["share"] <= 1 for found in results["transitions"].values())
    assert "with transitions" in (tmp_path / "table.md").read_text() and (tmp_path / "trajectories.png").is_file()


def test_other_clips_of_the_same_names_are_not_taken_for_these(
    run_example, animator_folder, labelled_folder, tmp_path
):
    folder = shutil.copytree(labelled_folder, tmp_path / "clips")
    (folder / "broken.mp4").write_text("no video")
    words = ["reconstruction", "--model", animator_folder, "--output_dir", tmp_path / "out", "--test_data_dir", folder]
    run_example("evaluate.py", *words)
    results = read_json(tmp_path / "out" / "results.json")
    assert list(results["left_out"]) == ["broken.mp4"] and results["settings"]["frame_size"] == 32
    run_example("evaluate.py", *words)
    shutil.copy(folder / "1.mp4", folder / "0.mp4")
    assert "measured with another `clips`" in run_example("evaluate.py", *words, is_refused=True)
    settings = tmp_path / "out" / "settings.json"
    settings.write_text(json.dumps(read_json(settings) | {"measures": 1}))  # what parts meant before
    assert "measured with another `measures`, 1 and not 2" in run_example("evaluate.py", *words, is_refused=True)


def test_a_refused_run_leaves_its_folder_usable(run_example, full_folder, labelled_folder, tmp_path):
    words = ["generation", "--model", full_folder, "--test_data_dir", labelled_folder, "--protocol", "stylegan_v"]
    words += ["--num_clips", 2, "--num_frames", 9, "--num_inference_steps", 2, "--output_dir", tmp_path]
    run_example("evaluate.py", *words, is_refused=True)
    run_example("evaluate.py", *words, "--features", "random_i3d")
    assert read_json(tmp_path / "results.json")["num_fake"] == 2


@pytest.mark.parametrize("is_repetition", [True, False])
def test_codes_of_another_animator_are_refused(run_example, full_folder, labelled_folder, tmp_path, is_repetition):
    codes = MotionCodes(torch.randn(5, 8), torch.tensor([0, 5]), ["a.mp4"], [25.0], "0123456789abcdef")
    codes.save(tmp_path / "codes")
    words = ["repetition", "--motion_codes_dir", tmp_path / "codes"]
    if not is_repetition:
        clips = ["--test_data_dir", labelled_folder, "--protocol", "stylegan_v", "--num_clips", 2]
        words = ["generation", *clips, "--features", "random_i3d", "--start_codes_dir", tmp_path / "codes"]
    options = ["--model", full_folder, "--output_dir", tmp_path / "out"]
    assert "made by another animator" in run_example("evaluate.py", *words, *options, is_refused=True)


def test_speed_is_measured(run_example, full_folder, tmp_path):
    options = ["--model", full_folder, "--lengths", 4, "--num_inference_steps", 2, "--repeats", 1]
    said = run_example("evaluate.py", "speed", *options, "--output_dir", tmp_path)
    results = read_json(tmp_path / "results.json")
    assert results["videos"]["4"]["seconds"] > 0 and results["parameters"]["animator"] > 0
    assert '"frames_per_second"' in said
    assert results["settings"]["lengths"] == [4] and results["settings"]["model"]["networks"]["animator"]


def test_variants_are_compared_over_their_seeds(
    run_example, reconstruction, animator_folder, labelled_folder, network_folder, tmp_path
):
    pipeline = DiffusionPipeline.from_pretrained(animator_folder)
    for parameter in pipeline.animator.parameters():
        parameter.data *= 1.1
    pipeline.save_pretrained(tmp_path / "other")
    options = ["--test_data_dir", labelled_folder, "--label_network", network_folder, "--output_dir", tmp_path / "out"]
    variants = ["--variant", "two seeds", animator_folder, tmp_path / "other", "--variant", "one", animator_folder]
    run_example("evaluate.py", "ablation", "reconstruction", *variants, *options)
    results = read_json(tmp_path / "out" / "results.json")["variants"]
    errors = [run["model"]["l1"] for run in results["two seeds"]]
    mean, deviation = sum(errors) / 2, abs(errors[0] - errors[1]) / 2
    rows = {row.split("|")[1].strip(" *"): row for row in (tmp_path / "out" / "table.md").read_text().splitlines()}
    assert f"**{mean:.3f} ± {deviation:.3f}**" in rows["two seeds"] and "±" not in rows["one"]
    assert list(rows).count("copying the source") == 1 and (tmp_path / "out" / "variants.png").is_file()
    papers = ["--dataset", "VoxCeleb", "--paper_table", "LIA VII"]
    options = ["--test_data_dir", labelled_folder, "--output_dir", tmp_path / "papers"]
    run_example("evaluate.py", "ablation", "reconstruction", *variants, *options, *papers)
    table = (tmp_path / "papers" / "table.md").read_text()
    assert "| 5 directions | 0.051 |" in table and "**two seeds (32px)**" in table


def test_a_user_study_from_videos_to_scores(run_example, labelled_folder, tmp_path):
    for method in ("ours", "theirs"):
        (tmp_path / method).mkdir()
        for number in range(2):
            shutil.copy(labelled_folder / f"{number}.mp4", tmp_path / method)
    videos = ["--videos", "LEO", tmp_path / "ours", "--videos", "TATS", tmp_path / "theirs"]
    run_example("evaluate.py", "user_study", "write", *videos, "--output_dir", tmp_path / "study")
    key = read_json(tmp_path / "study" / "key.json")
    answers = {name: dict.fromkeys(key["questions"], 1) for name in key["pairs"]}
    (tmp_path / "rater.json").write_text(json.dumps({"study": key["study"], "rater": "a", "answers": answers}))
    options = ["--key", tmp_path / "study" / "key.json", "--answers", tmp_path / "rater.json"]
    run_example("evaluate.py", "user_study", "score", *options, "--output_dir", tmp_path / "scores")
    [comparison] = read_json(tmp_path / "scores" / "results.json")["comparisons"]
    share = comparison["quality"]["shares"]["LEO"] * 100
    run_example("evaluate.py", "user_study", "score", *options, "--output_dir", tmp_path, "--dataset", "TaichiHD")
    table = (tmp_path / "table.md").read_text()
    assert "| LEO / TATS | 93.00 / 7.00 |" in table and f"| **LEO / TATS (1 rater)** | **{share:.2f}** |" in table


def test_methods_of_one_name_are_refused(run_example, labelled_folder, tmp_path):
    videos = ["--videos", "LEO", labelled_folder, "--videos", "LEO", tmp_path]
    said = run_example("evaluate.py", "user_study", "write", *videos, "--output_dir", tmp_path / "a", is_refused=True)
    assert "--videos needs a name of its own for each method, got LEO and LEO" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reconstruction", "--num_videos", 0], "--num_videos must be at least 1, got 0"),
        (["reconstruction", "--num_frames", 1], "`num_frames` must be at least 2, got 1"),
        (["reconstruction", "--test_data_dir", "nowhere"], "There is no folder nowhere"),
        (["reconstruction", "--model", "/nowhere"], "There is no model in /nowhere"),
        (["reconstruction", "--dataset", "Nobody"], "--dataset must be one of VoxCeleb"),
        (["generation", "--protocol", "digan", "--dataset", "CelebV-HQ"], "with --protocol stylegan_v, got digan"),
        (["reconstruction", "--lpips", "--lpips_weights", "alexnet-owt-7be5be79.pth"], "or pass `--download`"),
        (["reconstruction", "--identity", "openface"], "--identity: "),
        (["speed", "--dataset", "VoxCeleb"], "unrecognized arguments: --dataset"),
        (["generation", "--protocol", "stylegan_v", "--num_clips", 0], "`num_clips` must be from 2 to 2048"),
        (["generation", "--protocol", "digan", "--features", "random_i3d"], "and the protocol compares 2048"),
        (["generation", "--protocol", "stylegan_v"], "`readers` must have a `clip` (--features), for FVD and KVD"),
        (["reconstruction", "--lpips_weights", "a.pth"], "--lpips_weights a.pth has no effect without a --lpips"),
        (["ablation", "reconstruction", "--variant", "a", "/nowhere"], "There is no model in /nowhere"),
        (
            ["ablation", "reconstruction", "--variant", "a", "b", "--paper_table", "LIA VI"],
            "no effect without --dataset",
        ),
        (["ablation", "reconstruction", "--variant", "no model"], "--variant needs a name of its own and a model"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    run_example, animator_folder, full_folder, labelled_folder, tmp_path, words, message
):
    model = full_folder if words[0] == "generation" else animator_folder
    defaults = {"--model": model, "--test_data_dir": labelled_folder, "--output_dir": tmp_path / "out"}
    for name, tasks in {"--model": ["ablation"], "--test_data_dir": ["speed"]}.items():
        if words[0] in tasks:
            del defaults[name]
    given = [word for name, value in defaults.items() if name not in words for word in (name, value)]
    assert message in run_example("evaluate.py", *words, *given, is_refused=True)


def test_parts_hold_features_and_no_frames(once):
    part = load_file(sorted((once[0] / "parts").glob("*.safetensors"))[0])
    assert max(value.numel() for name, value in part.items() if name != "shown") < 32 * 32


def test_a_number_that_some_seeds_lack_is_the_mean_of_the_others():
    rows = [MeasuredRow("a", values) for values in ({"l1": 1.0, "motion": 0.5}, {"l1": 3.0})]
    for ordered in (rows, rows[::-1]):
        row = mean_row(ordered)
        assert row.values == {"l1": 2.0, "motion": 0.5} and row.deviations == {"l1": 1.0}
    alone = MeasuredRow("a", {"fvd": 100.0}, {"fvd": 3.0})
    assert mean_row([alone]) == alone  # with the deviation over its trials
