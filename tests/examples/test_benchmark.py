import json

import pytest

from leo_diffusers.training.arguments import faster_precision


SMALL = ["--frame_size", 32, "--num_frames", 3, "--num_endless_frames", 65, "--repeats", 1, "--device", "cpu"]


def test_what_is_measured(run_example, tmp_path):
    pytest.importorskip("onnxruntime")
    said = run_example("benchmark.py", *SMALL, "--onnx", "--page", "--output", tmp_path / "benchmark.json")
    results = json.loads((tmp_path / "benchmark.json").read_text())
    assert json.dumps(results, indent=1) in said
    assert results["float32"]["largest_difference_from_naive"] < 1e-4
    ratios = [
        results["float32"]["render_speedup_over_naive"],
        results["float32"]["decode_share_of_matrix_product_rate"],
        *(results[name]["render_speedup_over_float32"] for name in ("bfloat16",) if name in results),
        results["onnx"]["render_speedup_over_pytorch"],
        *results["motion"].values(),
        *results["page"].values(),
    ]
    assert ("bfloat16" in results) == (faster_precision() == "bf16")
    assert len(ratios) == 10 + ("bfloat16" in results)  # what they are is no test's business


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num_frames", 0], "--num_frames must be at least 1, got 0"),
        (["--onnx", "--device", "meta"], "--onnx compares on the CPU, and the device is meta"),
    ],
)
def test_bad_input_is_refused(run_example, arguments, words):
    assert words in run_example("benchmark.py", *arguments, is_refused=True)
