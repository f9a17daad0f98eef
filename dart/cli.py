"""The command ``dart``: one run without a study, and what surrounds it.

Only argument parsing lives here, so that ``--help`` answers at once; the work is in
``dart.commands``, imported when a command runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dart.errors import UserError

EPILOG = "Studies are launched with: python run_study.py studies/NAME.yaml [--plan]"


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="adapt the pretrained network with one variant",
        description="Adapt on the target and measure every domain before and after: one run of a "
        "study, without the study. The record lies in the run's folder.",
    )
    parser.add_argument("variant", help="a registered variant; see: dart variants")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="hyperparameters of the variant, for example num_queries=16",
    )
    parser.add_argument("--pretrained", default="rooms_small", help="shipped name or path")
    parser.add_argument("--source", nargs="+", default=["rooms_pinhole"], metavar="DOMAIN")
    parser.add_argument("--target", default="rooms_fisheye", metavar="DOMAIN")
    parser.add_argument("--held-out", nargs="*", default=["rooms_stereographic"], metavar="DOMAIN")
    parser.add_argument(
        "--trainable",
        nargs="+",
        default=["adapters", "decoder", "scale_head"],
        metavar="PART",
        help="freeze policy: adapters, decoder, scale_head, encoder, or finer (docs/training.md)",
    )
    parser.add_argument(
        "--training",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other options of training, for example replay=0.25 unfreeze=encoder=0.5",
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, help="the run's folder (default: results/train/VARIANT-KEY)"
    )
    parser.add_argument("--results", type=Path, help="default: $DART_RESULTS or ./results")
    parser.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run in the same folder"
    )
    _add_device(parser)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a checkpoint on domains or on a data set on disk",
        description="Print the metrics of a pretrained network or of an adapter, per domain, or "
        "with --data per group and scene of a data set, beside those of a constant.",
    )
    parser.add_argument("checkpoint", help="shipped name, or path of a .safetensors file")
    parser.add_argument("--domains", nargs="+", metavar="DOMAIN", help="default: the rooms")
    parser.add_argument("--data", type=Path, metavar="PATH", help="folder or file of a data set")
    parser.add_argument("--as", dest="format", metavar="FORMAT", help="how --data is read")
    parser.add_argument("--split", help="default: test of a domain, all of a data set")
    parser.add_argument("--width", type=int, help="pixels that the network sees (default: 128)")
    parser.add_argument("--align", nargs="+", metavar="NAME", help="fits to the truth; none too")
    parser.add_argument("--max-distance", type=float, metavar="M", help="truth beyond is left out")
    parser.add_argument(
        "--evaluation-crop", action="store_true", help="count only the crop of the field's protocol"
    )
    parser.add_argument(
        "--cloud-points", type=int, metavar="N", help="most points compared (0: none, quicker)"
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave such frames out and name them"
    )
    parser.add_argument("--out", type=Path, help="folder for tables, summary and contact sheet")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_device(parser)


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("data", help="look after data sets on disk")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    parser = actions.add_parser(
        "check",
        help="open every file and say what is wrong",
        description="Count, measure and draw a data set; the exit status is 1 if it has problems.",
    )
    parser.add_argument("path", type=Path, help="folder or file of the data set")
    parser.add_argument("--as", dest="format", required=True, metavar="FORMAT")
    parser.add_argument("--split", help="one split of the format (default: all frames)")
    parser.add_argument("--sample", type=int, metavar="N", help="open only N frames, evenly spread")
    parser.add_argument("--out", type=Path, help="folder for the contact sheet")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_reading(commands: argparse._SubParsersAction) -> None:
    _add_evaluate(commands)
    parser = commands.add_parser(
        "predict",
        help="predict the distance map of one image",
        description="Write the distance along the ray as a 16-bit PNG (millimetres, 0 = outside "
        "the lens's field of view) and as a colour picture with a scale in metres.",
    )
    parser.add_argument("image", type=Path)
    parser.add_argument("--camera", type=Path, required=True, help="file; see docs/cameras.md")
    parser.add_argument("--name", help="which camera of a file with several, for example cam0")
    parser.add_argument("--format", help="the file's format, if its content is not clear")
    parser.add_argument("--size", metavar="HxW", help="the size that the file is for, if not in it")
    parser.add_argument("--checkpoint", default="rooms_small", help="shipped name or path")
    parser.add_argument("--out", type=Path, help="folder (default: beside the image)")
    parser.add_argument(
        "--width",
        type=int,
        help="resize image and camera to this width first (default: 128)",
        default=128,
    )
    _add_device(parser)

    parser = commands.add_parser("variants", help="list the registered adapter designs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_camera(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "camera",
        help="say and draw what a calibration file means",
        description="Print the lens of a calibration file, its field of view, its round-trip error "
        "and what looks odd, and write a picture of it; with --image also the image rectified.",
    )
    parser.add_argument("file", type=Path, help="OpenCV, Kalibr, COLMAP, ...; see docs/cameras.md")
    parser.add_argument("--name", help="which camera of a file with several, for example cam0")
    parser.add_argument("--format", help="the file's format, if its content is not clear")
    parser.add_argument("--size", metavar="HxW", help="the images' height and width in pixels")
    parser.add_argument("--image", type=Path, help="an image that this camera took")
    parser.add_argument("--out", type=Path, help="folder (default: beside the file)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_probe(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "probe",
        help="measure how much a checkpoint heeds its camera input",
        description="Tell the network wrong cameras, nothing else changed, and measure how far its "
        "prediction moves and what that does to its error.",
    )
    parser.add_argument("checkpoint", help="shipped name, or path of a .safetensors file")
    parser.add_argument(
        "--domains",
        nargs="+",
        default=["rooms_pinhole", "rooms_fisheye", "rooms_stereographic"],
        metavar="DOMAIN",
    )
    parser.add_argument("--split", default="test", choices=["train", "val", "test"])
    parser.add_argument("--count", type=int, help="images a domain (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_device(parser)


def _add_making(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "render",
        help="render frames of a built-in domain",
        description="Render into a folder, in parallel; a stopped render goes on where it was, and "
        "damaged frames are rendered again.",
    )
    parser.add_argument("domain", nargs="?", help="a built-in domain (see docs/domains.md)")
    parser.add_argument("--split", default="train", choices=["train", "val", "test"])
    parser.add_argument("--count", type=int, help="number of frames")
    parser.add_argument(
        "--size", metavar="HxW", help="height and width in pixels (default: the domain's own)"
    )
    parser.add_argument(
        "--packs", action="store_true", help="instead, make every pack that ships with the project"
    )
    parser.add_argument("--out", type=Path, help="folder (default: the user's cache)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    _add_device(parser)

    parser = commands.add_parser(
        "pretrain",
        help="train a source network",
        description="Train encoder, decoder and scale head on source domains; goes on from the "
        "state file beside --out if there is one.",
    )
    parser.add_argument(
        "--domain",
        nargs="+",
        default=["rooms_pinhole"],
        help="met about equally often; twice as often where listed twice",
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, help="folder of rendered training frames, one a domain"
    )
    parser.add_argument("--network", help="shipped name or path to begin from (default: random)")
    parser.add_argument(
        "--encoder", default="tinyvim_s", help="tinyvim_s, _b, _l, or timm/NAME (docs/encoders.md)"
    )
    parser.add_argument(
        "--encoder-weights",
        type=Path,
        help="local .safetensors or .pth file from which the encoder starts (default: random)",
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--loss", default="log_l1", choices=["si_log", "log_l1", "rel_l1"])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument(
        "--max-distance", type=float, metavar="M", help="farthest answer (default: 20 m, as begun)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    _add_device(parser)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="say what a study shows of each variant against the baseline",
        description="Print the verdict on every variant: better, trade-off, worse, equivalent or "
        "inconclusive, with the numbers behind it (docs/verdicts.md).",
    )
    parser.add_argument("study", help="name, YAML file, or folder in the results")
    parser.add_argument("--baseline", metavar="VARIANT", help="default: the study's own")
    parser.add_argument("--metric", help="default: the study's own")
    parser.add_argument("--results", type=Path, help="default: $DART_RESULTS or ./results")
    parser.add_argument("--tracking-uri", metavar="URI", help="read from an MLflow store instead")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object")
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    form.add_argument("--latex", action="store_true", help="print a LaTeX table (booktabs)")


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report",
        help="write a study as one page that needs no network",
        description="Write verdicts, figures, method and origins of a study as one HTML file, "
        "with Markdown, tables and figures beside it.",
    )
    parser.add_argument("study", help="name, YAML file, or folder in the results")
    parser.add_argument("--out", type=Path, help="folder (default: results/reports/STUDY)")
    parser.add_argument("--open", action="store_true", help="open it in the browser")
    parser.add_argument("--baseline", metavar="VARIANT", help="default: the study's own")
    parser.add_argument("--metric", help="default: the study's own")
    _add_results(parser)
    _add_tracking(parser)


def _add_ui(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "ui",
        help="open MLflow's pages at a ready-made view of a study",
        description="Serve a study's runs on this machine alone and open them as charts: "
        "adaptation against forgetting, with the factors, as bars, with predictions.",
    )
    parser.add_argument("study", help="name, YAML file, or folder in the results")
    parser.add_argument("--port", type=int, default=5000, help="another is taken if it is in use")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    parser.add_argument("--results", type=Path, help="default: $DART_RESULTS or ./results")
    _add_tracking(parser)


def _add_studies(commands: argparse._SubParsersAction) -> None:
    names = {"metavar": "STUDY", "help": "a study's name or YAML file"}
    parser = commands.add_parser("status", help="say what a study has done, lacks and found")
    parser.add_argument("study", **names)
    _add_results(parser)

    parser = commands.add_parser("retry", help="run what failed in a study, and what it lacks")
    parser.add_argument("study", **names)
    parser.add_argument(
        "--failed",
        nargs="+",
        default=["all"],
        metavar="KIND",
        help="only failures of these kinds: oom, nan, timeout, bug, ... (default: all)",
    )
    _add_results(parser)
    _add_device(parser)

    parser = commands.add_parser("doctor", help="say what is wrong with a results folder")
    parser.add_argument("--mend", action="store_true", help="mend what can be mended")
    _add_results(parser)
    _add_tracking(parser)

    parser = commands.add_parser("sync", help="write MLflow's copy anew from the run folders")
    parser.add_argument("study", nargs="?", **names)
    parser.add_argument("--all", action="store_true", help="every study of the results")
    _add_results(parser)
    _add_tracking(parser)

    parser = commands.add_parser(
        "replay", help="repeat a run from its recipe and say whether it came out identical"
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or the beginning of its key")
    _add_results(parser)
    _add_device(parser)

    parser = commands.add_parser("export", help="write the champion of a study into a folder")
    parser.add_argument("study", **names)
    parser.add_argument("--out", type=Path, help="folder (default: results/exports/STUDY)")
    parser.add_argument(
        "--max-forgetting",
        type=float,
        metavar="X",
        help="the champion's relative forgetting is at most X (default: the study's own bound)",
    )
    _add_results(parser)
    _add_tracking(parser)


def _add_soup(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "soup",
        help="average what the seeds of a trial trained, and measure it",
        description="Write the mean of the adapters of one trial's seeds, and its errors beside "
        "those of the seeds.",
    )
    parser.add_argument("study", metavar="STUDY", help="a study's name or YAML file")
    parser.add_argument("variant", metavar="VARIANT", help="one of the study's variants")
    parser.add_argument("--trial", type=int, metavar="N", help="needed where there are several")
    _add_results(parser)
    _add_device(parser)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, help="default: $DART_RESULTS or ./results")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_tracking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tracking-uri", metavar="URL", help="MLflow's server or database")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other mistake is told."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"error: {message}; {self.prog} --help lists what there is\n")


def create_parser() -> argparse.ArgumentParser:
    """Return the parser of ``dart`` and all its commands."""
    parser = _Parser(prog="dart", description=(__doc__ or "").split("\n")[0], epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_studies(commands)
    _add_soup(commands)
    _add_reading(commands)
    _add_data(commands)
    _add_camera(commands)
    _add_probe(commands)
    _add_making(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_ui(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, or 2 for a mistake of the user, 1 for a failed run."""
    options = create_parser().parse_args(arguments)
    try:
        from dart.commands import find_command
        from dart.tricks import switched_off

        switched_off()  # a name that does not exist is told before anything is done

        return find_command(options.command)(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
