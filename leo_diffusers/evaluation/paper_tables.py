"""What LIA (journal version) and LEO report, as it is printed in their tables, and ours beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field


# By metric its title, and the digits behind the point that the papers mostly print; those that no paper has are ours
METRICS = {
    "l1": ("L1", 3),
    "psnr": ("PSNR", 1),
    "akd": ("AKD", 3),
    "mkr": ("MKR", 3),
    "aed": ("AED", 3),
    "lpips": ("LPIPS", 3),
    "motion": ("Motion followed", 2),
    "identity_distance": ("Distance from source", 3),
    "video_fid": ("Video FID", 3),
    "fvd": ("FVD", 1),
    "kvd": ("KVD", 1),
    "acd": ("ACD", 2),
    "quality": ("Quality (%)", 2),
    "coherency": ("Coherency (%)", 2),
    "repeated_motion": ("Repeated motion (share)", 2),
}
MISSING = "-"


@dataclass(frozen=True)
class PaperRow:
    r"""
    What a table says of a method on a data set.

    Args:
        table (`str`): "LIA I" to "LIA VIII" but for IV, "LEO 1" to "LEO 6".
        dataset (`str`): As the table names it, the size in pixels behind it where the table has two.
        method (`str`): As the table names it; "Ours" is named by its paper.
        printed (`dict[str, str]`): By metric the number, letter by letter: a deviation behind "±", and "*" where the
            paper reproduced it. What the table leaves out is missing here.
        num_frames (`int`, *optional*): Of the clips, where the table says it.
    """

    table: str
    dataset: str
    method: str
    printed: dict[str, str]
    num_frames: int | None = None

    @property
    def values(self) -> dict[str, float]:
        r"""By metric the number; of two shares "a / b" the first."""
        return {metric: float(text.rstrip("*").split()[0]) for metric, text in self.printed.items()}

    def text(self, metric: str) -> str:
        r"""The number as it is printed, "-" where there is none."""
        return self.printed.get(metric, MISSING)


@dataclass(frozen=True)
class MeasuredRow:
    r"""
    What we measured of a method.

    Args:
        method (`str`): Its name.
        values (`dict[str, float]`): By metric the number.
        deviations (`dict[str, float]`): By metric the standard deviation over trials, where there are several.
    """

    method: str
    values: dict[str, float]
    deviations: dict[str, float] = field(default_factory=dict)

    def text(self, metric: str) -> str:
        r"""The number with as many digits as the papers have, "-" where there is none."""
        if metric not in self.values:
            return MISSING
        decimals = METRICS[metric][1]
        numbers = [self.values[metric], *([self.deviations[metric]] if metric in self.deviations else [])]
        return " ± ".join(f"{number:.{decimals}f}" for number in numbers)


def read_table(
    table: str, columns: list[tuple[str, str]], lines: str, num_frames: int | None = None
) -> list[PaperRow]:
    r"""
    Args:
        table (`str`): Its name.
        columns (`list[tuple[str, str]]`): Data set and metric of each.
        lines (`str`): A method and its numbers in a line, "|" between them; "-" where there is none.
        num_frames (`int`, *optional*): Of the clips.

    Returns:
        `list[PaperRow]`: By method and data set, without the data sets that a method has no numbers of.
    """
    rows = []
    for line in lines.strip().splitlines():
        method, *cells = (cell.strip() for cell in line.split("|"))
        for dataset in dict.fromkeys(dataset for dataset, _ in columns):
            named = zip(columns, cells, strict=True)
            printed = {metric: cell for (name, metric), cell in named if name == dataset and cell != MISSING}
            if printed:
                rows.append(PaperRow(table, dataset, method, printed, num_frames))
    return rows


def columns_of(datasets: Sequence[str], metrics: Sequence[str]) -> list[tuple[str, str]]:
    r"""The same metrics of several data sets."""
    return [(dataset, metric) for dataset in datasets for metric in metrics]


LIA_DATASETS = ("VoxCeleb", "TaichiHD", "TED-talks")

PAPER_ROWS = [
    *read_table(
        "LIA I",
        columns_of(["VoxCeleb"], ("l1", "akd", "aed", "lpips")),
        """
        X2Face      | 0.078 | 7.687 | 0.405 | -
        Monkey-Net  | 0.049 | 1.878 | 0.199 | -
        FOMM        | 0.046 | 1.395 | 0.141 | 0.136
        MRAA w/o bg | 0.043 | 1.307 | 0.140 | 0.127
        MRAA        | 0.041 | 1.303 | 0.135 | 0.124
        TPS         | 0.042 | 1.325 | 0.141 | 0.126
        LIA (256px) | 0.041 | 1.353 | 0.138 | 0.123
        """,
    ),
    # TPS' LPIPS on TaichiHD is left out: 0.019 is printed, a tenth of all others.
    *read_table(
        "LIA I",
        columns_of(["TaichiHD", "TED-talks"], ("l1", "akd", "mkr", "aed", "lpips")),
        """
        X2Face      | 0.080 | 17.654 | 0.109 | -     | -     | -     | -     | -      | -     | -
        Monkey-Net  | 0.077 | 10.798 | 0.059 | -     | -     | -     | -     | -      | -     | -
        FOMM        | 0.063 | 6.472  | 0.032 | 0.495 | 0.191 | 0.030 | 3.759 | 0.0090 | 0.428 | 0.13
        MRAA w/o bg | 0.063 | 5.626  | 0.025 | 0.460 | 0.189 | 0.029 | 3.126 | 0.0092 | 0.396 | 0.12
        MRAA        | 0.045 | 5.551  | 0.025 | 0.431 | 0.178 | 0.027 | 3.107 | 0.0093 | 0.379 | 0.11
        TPS         | 0.062 | 5.512  | 0.027 | 0.448 | -     | 0.029 | 3.203 | 0.0096 | 0.400 | 0.12
        LIA (256px) | 0.057 | 4.823  | 0.020 | 0.431 | 0.180 | 0.027 | 3.141 | 0.0095 | 0.399 | 0.11
        """,
    ),
    *read_table(
        "LIA II",
        columns_of(["VoxCelebHQ"], ("l1", "akd", "aed", "lpips")),
        """
        MRAA (512px) | 0.051 | 1.385 | 0.141 | 0.130
        LIA (512px)  | 0.033 | 1.211 | 0.125 | 0.115
        """,
    ),
    *read_table(
        "LIA III",
        columns_of(["VoxCeleb", "GermanPublicTV", "VoxCelebHQ"], ["video_fid"]),
        """
        FOMM         | 0.323 | 0.456 | -
        MRAA (256px) | 0.308 | 0.454 | -
        LIA (256px)  | 0.161 | 0.406 | -
        MRAA (512px) | -     | 0.932 | 0.811
        LIA (512px)  | -     | 0.425 | 0.231
        """,
    ),
    # LIA IV is left out: of its raters' shares there is one per data set, for a question that LEO's two are not.
    *read_table(
        "LIA V",
        columns_of(["VoxCelebHQ"], ("l1", "akd", "aed", "lpips")),
        """
        LIA (original) | 0.041 | 1.311 | 0.131 | 0.120
        LIA (improved) | 0.033 | 1.211 | 0.125 | 0.115
        """,
    ),
    *read_table(
        "LIA VI",
        columns_of(LIA_DATASETS, ("l1", "lpips")),
        """
        LIA w/o dictionary | 0.049 | 0.165 | 0.062 | 0.186 | 0.031 | 0.12
        LIA                | 0.041 | 0.123 | 0.057 | 0.180 | 0.028 | 0.11
        """,
    ),
    *read_table(
        "LIA VII",
        columns_of(LIA_DATASETS, ("l1", "lpips")),
        """
        5 directions   | 0.051 | 0.15 | 0.070 | 0.22 | 0.037 | 0.15
        10 directions  | 0.043 | 0.13 | 0.065 | 0.20 | 0.036 | 0.13
        20 directions  | 0.041 | 0.12 | 0.057 | 0.18 | 0.028 | 0.11
        40 directions  | 0.042 | 0.12 | 0.060 | 0.19 | 0.030 | 0.12
        100 directions | 0.041 | 0.12 | 0.058 | 0.18 | 0.028 | 0.11
        """,
    ),
    *read_table(
        "LIA VIII",
        columns_of(LIA_DATASETS, ("l1", "lpips")),
        """
        Random basis     | 0.044 | 0.13 | 0.060 | 0.18 | 0.030 | 0.12
        Orthogonal basis | 0.041 | 0.12 | 0.057 | 0.18 | 0.028 | 0.11
        """,
    ),
    *read_table(
        "LEO 1",
        [
            *columns_of(["TaichiHD128"], ("fvd", "kvd", "acd")),
            *columns_of(["TaichiHD256"], ("fvd", "kvd")),
            *columns_of(["FaceForensics"], ("fvd", "acd")),
            ("CelebV-HQ", "fvd"),
        ],
        """
        MoCoGAN-HD   | 144.7 ± 6.0  | 25.4 ± 1.9  | -    | -           | -           | 111.8 | 0.33 | 212.4
        DIGAN        | 128.1 ± 4.9  | 20.6 ± 1.1  | 2.17 | 156.7 ± 6.2 | -           | 62.5  | -    | 72.9
        TATS         | 136.5 ± 1.2* | 22.2 ± 1.0* | 2.28 | -           | -           | -     | -    | -
        StyleGAN-V   | -            | -           | -    | -           | -           | 47.4  | 0.36 | 69.1
        MoStGAN-V    | -            | -           | -    | -           | -           | 39.7  | 0.38 | 132.1
        LEO (uncond) | 100.4 ± 3.1  | 11.4 ± 3.2  | 1.83 | 122.7 ± 1.1 | 20.49 ± 0.9 | 52.3  | 0.28 | -
        LEO (cond)   | 57.6 ± 2.0   | 4.0 ± 1.5   | 1.22 | 94.8 ± 4.2  | 13.47 ± 2.3 | 35.9  | 0.27 | 40.2
        """,
        num_frames=16,
    ),
    *read_table(
        "LEO 2",
        [*columns_of(["TaichiHD128"], ("fvd", "kvd", "acd")), *columns_of(["FaceForensics"], ("fvd", "acd"))],
        """
        DIGAN      | -             | -            | -    | 1824.7 | -
        TATS       | 1194.58 ± 1.1 | 462.03 ± 8.2 | 2.85 | -      | -
        StyleGAN-V | -             | -            | -    | 89.34  | 0.49
        LEO        | 155.54 ± 2.6  | 48.82 ± 5.9  | 2.06 | 96.28  | 0.34
        """,
        num_frames=128,
    ),
    # Shares of raters; "quality" is the upper half of the table, "coherency" the lower, whose rows run together in the
    # text: the columns, and who was measured on which data set, tell them apart.
    *read_table(
        "LEO 3",
        columns_of(["TaichiHD", "FaceForensics"], ("quality", "coherency")),
        """
        LEO / TATS       | 93.00 / 7.00 | 98.60 / 1.40 | -            | -
        LEO / StyleGAN-V | -            | -            | 91.33 / 8.67 | 93.20 / 6.80
        """,
    ),
    *read_table(
        "LEO 4",
        columns_of(["TaichiHD", "FaceForensics"], ["fvd"]),
        """
        LEO w/o LMC  | 118.6 | 60.03
        LEO with LMC | 100.4 | 52.32
        """,
    ),
    *read_table(
        "LEO 5",
        [("TaichiHD", "repeated_motion")],
        """
        LEO w/o Transition DM  | 0.45
        LEO with Transition DM | 0.02
        """,
    ),
    *read_table(
        "LEO 6",
        [("UCF101", "fvd")],
        """
        MoCoGAN-HD   | 1729.6
        DIGAN        | 1630.2
        StyleGAN-V   | 1431.0
        Make-A-Video | 367.23
        Video LDM    | 550.61
        LaVie        | 540.30
        LEO          | 1356.2
        """,
        num_frames=16,
    ),
]


def paper_rows(table: str, dataset: str) -> list[PaperRow]:
    r"""
    Args:
        table (`str`): "LIA I" to "LIA VIII" but for IV, "LEO 1" to "LEO 6".
        dataset (`str`): One of the table's.

    Returns:
        `list[PaperRow]`: A row for each method, in the table's order.

    Raises:
        ValueError: For another table, or a data set that the table does not have.
    """
    tables = list(dict.fromkeys(row.table for row in PAPER_ROWS))
    if table not in tables:
        raise ValueError(f"`table` must be one of {', '.join(tables)}, got {table!r}.")
    datasets = list(dict.fromkeys(row.dataset for row in PAPER_ROWS if row.table == table))
    if dataset not in datasets:
        raise ValueError(f"`dataset` must be one of {', '.join(datasets)} for {table}, got {dataset!r}.")
    return [row for row in PAPER_ROWS if (row.table, row.dataset) == (table, dataset)]


def markdown_table(columns: Sequence[str], rows: Sequence[PaperRow | MeasuredRow]) -> str:
    r"""
    The papers' numbers and ours in one table; ours are bold, and say so.

    Args:
        columns (`Sequence[str]`): Metrics, by their names in `METRICS`.
        rows (`Sequence[PaperRow | MeasuredRow]`): In their order. Of FVD, KVD and ACD all must be of clips of one
            length, which nothing checks for ours.

    Returns:
        `str`: Lines of Markdown, the last without a line break.

    Raises:
        ValueError: For another metric, and for papers' rows of several lengths.
    """
    unknown = [column for column in columns if column not in METRICS]
    if unknown:
        raise ValueError(f"`columns` must be of {', '.join(METRICS)}, got {unknown[0]!r}.")
    lengths = {row.num_frames for row in rows if isinstance(row, PaperRow) and row.num_frames is not None}
    if len(lengths) > 1:
        raise ValueError(
            f"`rows` must be of clips of one length, got {' and '.join(map(str, sorted(lengths)))} frames."
        )
    lines = [("Method", *(METRICS[column][0] for column in columns), "From")]
    lines.append(("---", *["---:"] * len(columns), "---"))
    for row in rows:
        cells = [row.method, *(row.text(column) for column in columns)]
        if isinstance(row, PaperRow):
            lines.append((*cells, row.table.replace(" ", ", Table ")))
        else:
            lines.append((*(cell if cell == MISSING else f"**{cell}**" for cell in cells), "**ours**"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
