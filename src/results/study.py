"""The study's own numbers, and the names by which its rows and ours are compared."""

import pandas as pd

ENCODER_NAMES = {"custom_cnn": "Custom CNN", "resnet50": "ResNet-50", "vit_b_16": "ViT-B/16"}
SCRATCH = "from scratch"
METRICS = {
    "val_accuracy": "val accuracy, %",
    "auroc_mutual_information": "AUROC, mutual information",
    "auroc_one_minus_msp": "AUROC, 1 − MSP",
}
MISSING = "missing"  # not run by us
NOT_IN_STUDY = "–"

# The table of the study's README. Its MSP column is kept as printed: there the confidence itself is
# scored as "out of distribution".
ROW = ["encoder", "configuration"]
REPORTED = ["val_accuracy", "auroc_mutual_information", "msp_as_printed", "hours"]
STUDY = pd.DataFrame(
    [
        ("Custom CNN", SCRATCH, 98.13, 0.9255, 0.0994, "4–6"),
        ("Custom CNN", "pretrained 50", 92.86, 0.8145, 0.0701, "8 + 2"),
        ("Custom CNN", "pretrained 300", 93.74, 0.8291, 0.0745, "50 + 2"),
        ("ResNet-50", SCRATCH, 97.78, 0.8954, 0.0812, "8–10"),
        ("ResNet-50", "pretrained 300", 93.22, 0.8367, 0.0689, "70 + 3"),
        ("ViT-B/16", SCRATCH, 50.31, 0.5231, 0.5145, "12–15"),
        ("ViT-B/16", "pretrained 300", 90.98, 0.8725, 0.0823, "100 + 4"),
    ],
    columns=ROW + REPORTED,
).set_index(ROW)
# the same detector read the right way round
STUDY["auroc_one_minus_msp"] = 1 - STUDY["msp_as_printed"]
