"""Which of the papers' rows a measurement may stand beside: those that were measured as it was."""

from collections.abc import Sequence

from .arguments import FVD_FEATURES, VIDEO_FID_FEATURES
from .paper_tables import PAPER_ROWS, PaperRow, paper_rows


# By task, and for variants of a model by the task that is ablated, the tables that there are.
PAPER_TABLES = {
    "reconstruction": ("LIA I", "LIA II"),
    "cross": ("LIA III",),
    "generation": ("LEO 1", "LEO 2", "LEO 6"),
    "repetition": ("LEO 5",),
    "user_study": ("LEO 3",),
}
ABLATION_TABLES = {
    "reconstruction": ("LIA V", "LIA VI", "LIA VII", "LIA VIII"),
    "generation": ("LEO 4",),
    "repetition": ("LEO 5",),
}
# By data set, as the tables name it, the protocol of its FVD and the stride of its clips.
FVD_PROTOCOLS = {
    "TaichiHD": ("digan", 4),
    "TaichiHD128": ("digan", 4),
    "TaichiHD256": ("digan", 4),
    "FaceForensics": ("stylegan_v", 1),
    "CelebV-HQ": ("stylegan_v", 1),
    "UCF101": ("stylegan_v", 1),
}
FACES = ("VoxCeleb", "VoxCelebHQ", "GermanPublicTV", "FaceForensics", "CelebV-HQ")
NOT_OF_PAPERS = {"label_network": (), "start_codes_dir": ()}  # with what no paper measured


def paper_settings(table: str, dataset: str) -> dict[str, tuple[object, ...]]:
    r"""By argument of the command line the values that a table's numbers of a data set may be held against."""
    is_face = dataset in FACES
    if table == "LIA III":
        return {"features": VIDEO_FID_FEATURES, "num_frames": (100,), **NOT_OF_PAPERS}
    if table in ("LEO 1", "LEO 2", "LEO 4", "LEO 6"):
        protocol, stride = FVD_PROTOCOLS[dataset]
        # Of clips of 128 frames the papers do not say the stride: 1 is chosen here.
        num_frames, stride = (128, 1) if table == "LEO 2" else (16, stride)
        return {
            "protocol": (protocol,),
            "num_frames": (num_frames,),
            "frame_stride": (stride,),
            "fake_stride": (stride,),
            "features": FVD_FEATURES,
            "identity": ("face",) if is_face else ("body",),
            **NOT_OF_PAPERS,
        }
    if table.startswith("LIA"):
        keypoints, identity = ("face", "openface") if is_face else ("body", "body_compat")
        return {"num_frames": (), "keypoints": (keypoints,), "identity": (identity,), **NOT_OF_PAPERS}
    return {}


def comparable_rows(tables: Sequence[str], dataset: str, arguments: dict[str, object]) -> list[PaperRow]:
    r"""
    Args:
        tables (`Sequence[str]`): Of a task, by the names of [`paper_rows`].
        dataset (`str`): As they name it.
        arguments (`dict[str, object]`): Of the command line by name. Features that are not measured may be None.

    Returns:
        `list[PaperRow]`: Of the first of the tables that has the data set and was measured so.

    Raises:
        ValueError: Where none has the data set, or those that have it were measured otherwise.
    """
    datasets = list(dict.fromkeys(row.dataset for row in PAPER_ROWS if row.table in tables))
    if dataset not in datasets:
        titles = " and ".join(table.replace(" ", ", Table ") for table in tables)
        raise ValueError(f"--dataset must be one of {', '.join(datasets)}, those of {titles}, got {dataset!r}.")
    refusals = []
    for table in dict.fromkeys(row.table for row in PAPER_ROWS if row.table in tables and row.dataset == dataset):
        refusal = find_difference(table, dataset, arguments)
        if refusal is None:
            return paper_rows(table, dataset)
        refusals.append(refusal)
    raise ValueError(f"--dataset {dataset} shows numbers beside which yours would not be fair: {'; '.join(refusals)}.")


def find_difference(table: str, dataset: str, arguments: dict[str, object]) -> str | None:
    r"""The first argument with which nothing can be held against a table, and what it must be; None without."""
    for name, allowed in paper_settings(table, dataset).items():
        given = arguments.get(name)
        if given is not None and given not in allowed:
            wanted = f"with --{name} {' or '.join(map(str, allowed))}" if allowed else f"without --{name}"
            return f"{table.replace(' ', ', Table ')} is measured {wanted}, got {given}"
    return None
