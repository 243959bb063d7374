"""The study's OOD table as printed, and read with every score in one direction."""

import pandas as pd

_COLUMNS = ["encoder", "configuration", "val acc", "AUROC MI", "AUROC MSP as printed"]
STUDY = pd.DataFrame(
    [
        ("Custom CNN", "from scratch", 98.13, 0.9255, 0.0994),
        ("Custom CNN", "pretrained 50", 92.86, 0.8145, 0.0701),
        ("Custom CNN", "pretrained 300", 93.74, 0.8291, 0.0745),
        ("ResNet-50", "from scratch", 97.78, 0.8954, 0.0812),
        ("ResNet-50", "pretrained 300", 93.22, 0.8367, 0.0689),
        ("ViT-B/16", "from scratch", 50.31, 0.5231, 0.5145),
        ("ViT-B/16", "pretrained 300", 90.98, 0.8725, 0.0823),
    ],
    columns=_COLUMNS,
)  # WACV 2026 workshop, "When Simpler is Better"; MSP there is the confidence itself, used as if high meant OOD


def beside_study(ours: pd.DataFrame) -> pd.DataFrame:
    """The study's rows and ours, with MSP both as printed (confidence) and as a detector (1 − MSP); by encoder.

    Args:
        ours: columns encoder, configuration, val acc (%), AUROC MI, AUROC 1 − MSP; one row a trained network.
    """
    # reversing a score mirrors its AUROC: no score file of the study is needed
    study = STUDY.assign(**{"AUROC 1 − MSP": 1 - STUDY["AUROC MSP as printed"], "source": "study"})
    own = ours.assign(**{"AUROC MSP as printed": 1 - ours["AUROC 1 − MSP"], "source": "ours"})
    table = pd.concat([study, own[study.columns]], ignore_index=True)
    table["better"] = (table["AUROC 1 − MSP"] > table["AUROC MI"]).map({True: "1 − MSP", False: "MI"})
    return table.sort_values("encoder", kind="stable", ignore_index=True)
