"""The records that notebook 08 reads, of networks that the audit trained: 01 to 07 write their own.

    python benchmarks/audit_records.py data/stores/eurosat \\
        models/best_contrastive_model_40Ep_64BS_Loss….pth \\
        models/final_supervised_model_from_scratch_….pth models/final_supervised_model_….pth

Measures what notebooks 01 and 05 measure, on the classifiers' own split. Writes
`models/records/<encoder>_<checkpoint>.json`, by the names as they are given (an hour of one core).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src import ood, results
from src.checkpoints import load, load_classifier, load_encoder
from src.data.known import data_of
from src.data.splits import Split
from src.data.store import PatchStore
from src.pretrain import PretrainConfig, untrained
from src.probes import embed, knn_probe, separation
from src.profiles import open_profile
from src.runs.runtime import Runtime, add_arguments, from_arguments

PROFILE = open_profile("paper")


def pretraining(checkpoint: Path, store: PatchStore, split: Split, runtime: Runtime) -> Path:
    """As notebook 01: the classes of val and test apart, before and after."""
    encoder, metadata = load_encoder(checkpoint)
    config = PretrainConfig(**metadata["config"])
    images, size = store.images, config.image_size
    probe = knn_probe(images, store.labels, split.train, split.val, size, runtime)
    rows, measured = np.concatenate([split.val, split.test]), {}
    encoders = {"before pretraining": untrained(config), "after pretraining": encoder}
    for name, network in encoders.items():
        features = embed(network, images[rows], size, runtime)
        apart = separation(features, store.labels[rows])
        measured[name] = {"knn_accuracy": probe(network), **apart}
    umap = f"{config.encoder}_{config.epochs}ep_umap_before_after.csv"
    return results.write_record(PROFILE.records, checkpoint, separation=measured, umap=umap)


def classifiers(
    starts: dict[Path, Path | None], store: PatchStore, split: Split, runtime: Runtime
) -> Iterator[Path]:
    """As notebook 05: both questions, of classifiers from scratch and from a pretraining."""
    images, labels, unknown = store.images, store.labels[split.test], PROFILE.out_of_distribution()
    correct = {}
    for checkpoint, start in starts.items():
        model, metadata = load_classifier(checkpoint)
        config, known = metadata["config"], images[split.test]
        logits = embed(model, known, config["image_size"], runtime)
        epochs = load(start)[1]["config"]["epochs"] if start else 0
        arm = f"pretrained {epochs}" if start else results.SCRATCH
        correct[arm] = logits.argmax(1) == labels
        options = {"samples": PROFILE.mc_samples, "runtime": runtime, "seed": config["seed"]}
        found = ood.evaluate(model, images[split.train], known, unknown.images, **options)
        features = embed(model.encoder, known, config["image_size"], runtime)
        scores = results.metrics_as_json(found.table)
        yield results.write_record(
            PROFILE.records,
            checkpoint,
            start,
            separation=separation(features, labels),
            test_accuracy_interval=results.wilson(int(correct[arm].sum()), len(labels)),
            ood={"data": unknown.provenance, "samples": options["samples"], "scores": scores},
            against=results.against(correct) if len(correct) == 2 else None,
            detection=results.detection(found, store.title, unknown.title),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", help="EuroSAT's")
    parser.add_argument("encoder", type=Path, help="checkpoint of the pretraining")
    parser.add_argument("baseline", type=Path, help="classifier from scratch")
    parser.add_argument("pretrained", type=Path, help="classifier fine-tuned from the encoder")
    add_arguments(parser)
    args = parser.parse_args()
    runtime = from_arguments(args)
    # the second is of the same split, or this says so
    known = [data_of(load(file)[1], file, args.store) for file in (args.baseline, args.pretrained)]
    for record in classifiers(
        {args.baseline: None, args.pretrained: args.encoder}, *known[0], runtime
    ):
        print(record, flush=True)
    print(pretraining(args.encoder, *known[0], runtime))


if __name__ == "__main__":
    main()
