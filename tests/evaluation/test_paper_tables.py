import pytest

from leo_diffusers.evaluation.paper_tables import (
    METRICS,
    PAPER_ROWS,
    MeasuredRow,
    PaperRow,
    markdown_table,
    paper_rows,
)


def values(table: str, dataset: str, method: str) -> dict[str, float]:
    [row] = [row for row in paper_rows(table, dataset) if row.method == method]
    return row.values


@pytest.mark.parametrize(
    ("table", "dataset", "method", "expected"),
    [
        ("LIA I", "VoxCeleb", "LIA (256px)", {"l1": 0.041, "akd": 1.353, "aed": 0.138, "lpips": 0.123}),
        ("LIA I", "TaichiHD", "X2Face", {"l1": 0.080, "akd": 17.654, "mkr": 0.109}),
        ("LIA I", "TED-talks", "FOMM", {"l1": 0.030, "akd": 3.759, "mkr": 0.0090, "aed": 0.428, "lpips": 0.13}),
        ("LIA III", "VoxCelebHQ", "LIA (512px)", {"video_fid": 0.231}),
        ("LIA II", "VoxCelebHQ", "MRAA (512px)", {"l1": 0.051, "akd": 1.385, "aed": 0.141, "lpips": 0.130}),
        ("LIA V", "VoxCelebHQ", "LIA (original)", {"l1": 0.041, "akd": 1.311, "aed": 0.131, "lpips": 0.120}),
        ("LIA VI", "TaichiHD", "LIA w/o dictionary", {"l1": 0.062, "lpips": 0.186}),
        ("LIA VII", "TED-talks", "10 directions", {"l1": 0.036, "lpips": 0.13}),
        ("LIA VIII", "VoxCeleb", "Random basis", {"l1": 0.044, "lpips": 0.13}),
        ("LEO 1", "TaichiHD128", "LEO (cond)", {"fvd": 57.6, "kvd": 4.0, "acd": 1.22}),
        ("LEO 1", "TaichiHD128", "TATS", {"fvd": 136.5, "kvd": 22.2, "acd": 2.28}),
        ("LEO 1", "TaichiHD256", "LEO (uncond)", {"fvd": 122.7, "kvd": 20.49}),
        ("LEO 1", "CelebV-HQ", "MoStGAN-V", {"fvd": 132.1}),
        ("LEO 2", "FaceForensics", "StyleGAN-V", {"fvd": 89.34, "acd": 0.49}),
        ("LEO 3", "FaceForensics", "LEO / StyleGAN-V", {"quality": 91.33, "coherency": 93.20}),
        ("LEO 4", "FaceForensics", "LEO w/o LMC", {"fvd": 60.03}),
        ("LEO 5", "TaichiHD", "LEO with Transition DM", {"repeated_motion": 0.02}),
        ("LEO 6", "UCF101", "LEO", {"fvd": 1356.2}),
    ],
)
def test_values(table, dataset, method, expected):
    assert values(table, dataset, method) == expected


def test_every_row_is_whole():
    assert len(PAPER_ROWS) == len({(row.table, row.dataset, row.method) for row in PAPER_ROWS})
    for row in PAPER_ROWS:
        assert row.method and row.values and set(row.values) <= set(METRICS)


def test_one_experiment_has_one_number():
    """The full model is in its ablations again, to the digits that they print."""
    for dataset in ("VoxCeleb", "TaichiHD"):  # of TED-talks Table I prints 0.027, the ablations 0.028
        full = values("LIA I", dataset, "LIA (256px)")
        for table, method in (("LIA VI", "LIA"), ("LIA VII", "20 directions"), ("LIA VIII", "Orthogonal basis")):
            ablation = values(table, dataset, method)
            assert ablation["l1"] == full["l1"] and ablation["lpips"] == pytest.approx(full["lpips"], abs=0.005)
    for dataset, ours in (("TaichiHD", "TaichiHD128"), ("FaceForensics", "FaceForensics")):
        with_lmc = values("LEO 4", dataset, "LEO with LMC")["fvd"]
        assert with_lmc == pytest.approx(values("LEO 1", ours, "LEO (uncond)")["fvd"], abs=0.05)


def test_numbers_stay_as_they_are_printed():
    [tats] = [row for row in paper_rows("LEO 1", "TaichiHD128") if row.method == "TATS"]
    assert tats.printed == {"fvd": "136.5 ± 1.2*", "kvd": "22.2 ± 1.0*", "acd": "2.28"} and tats.num_frames == 16
    assert [row.method for row in paper_rows("LEO 2", "TaichiHD128")] == ["TATS", "LEO"]
    [fomm] = [row for row in paper_rows("LIA I", "TED-talks") if row.method == "FOMM"]
    assert fomm.text("mkr") == "0.0090" and fomm.text("fvd") == "-" and fomm.num_frames is None


def test_markdown():
    rows = [
        *paper_rows("LEO 2", "FaceForensics"),
        MeasuredRow("demo model", {"fvd": 312.345, "acd": 0.4, "psnr": 30.0}, {"fvd": 2.04}),
        MeasuredRow("without LMC", {"acd": 0.555}),
    ]
    assert markdown_table(["fvd", "acd"], rows) == (
        "| Method | FVD | ACD | From |\n"
        "| --- | ---: | ---: | --- |\n"
        "| DIGAN | 1824.7 | - | LEO, Table 2 |\n"
        "| StyleGAN-V | 89.34 | 0.49 | LEO, Table 2 |\n"
        "| LEO | 96.28 | 0.34 | LEO, Table 2 |\n"
        "| **demo model** | **312.3 ± 2.0** | **0.40** | **ours** |\n"
        "| **without LMC** | - | **0.56** | **ours** |"
    )


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="`table` must be one of LIA I, LIA II, .* LEO 6, got 'LEO 7'"):
        paper_rows("LEO 7", "TaichiHD")
    with pytest.raises(
        ValueError, match="`dataset` must be one of FaceForensics, TaichiHD128 for LEO 2, got 'UCF101'"
    ):
        paper_rows("LEO 2", "UCF101")
    with pytest.raises(ValueError, match="`columns` must be of l1, .*, got 'ssim'"):
        markdown_table(["l1", "ssim"], paper_rows("LIA I", "VoxCeleb"))
    mixed = [*paper_rows("LEO 1", "FaceForensics"), PaperRow("LEO 2", "FaceForensics", "LEO", {"fvd": "96.28"}, 128)]
    with pytest.raises(ValueError, match="`rows` must be of clips of one length, got 16 and 128 frames"):
        markdown_table(["fvd"], mixed)
